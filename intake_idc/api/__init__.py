"""Bodies of the IDC API, answered from the tables at hand.

The service of version 2 answers 410 since 2026-07, and that of version 3 knows the
current release alone. A body that was saved holds on to a question, and is answered
here from the index tables of a release, and where these do not say the same, from
the Parquet export.
"""

from __future__ import annotations

from intake_idc.api import v3
from intake_idc.api.v2 import filter_values, next_page, preview
from intake_idc.api.v2_body import Body, read

__all__ = ["Body", "filter_values", "next_page", "preview", "read", "v3"]
