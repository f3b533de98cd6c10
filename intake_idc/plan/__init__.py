"""What a copy will do, decided before any byte moves; also the dry run.

Nothing here touches a disk or a network: what is listed and what is there already
come as arguments, and the plan is a value that can be printed, counted and tested.
"""

from __future__ import annotations

from intake_idc.plan.layout import (
    DIR_TEMPLATE,
    Template,
    series_folder,
    template_columns,
)
from intake_idc.plan.making import make
from intake_idc.plan.names import safe_name
from intake_idc.plan.value import (
    ACTIONS,
    COUNTED_BY,
    Action,
    Plan,
    Rate,
    Row,
    Step,
    Steps,
)

__all__ = [
    "ACTIONS",
    "COUNTED_BY",
    "DIR_TEMPLATE",
    "Action",
    "Plan",
    "Rate",
    "Row",
    "Step",
    "Steps",
    "Template",
    "make",
    "safe_name",
    "series_folder",
    "template_columns",
]
