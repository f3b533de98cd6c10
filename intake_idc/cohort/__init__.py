"""A cohort: a selection on a release, and every verb on it.

A cohort is lazy. It knows its release by number and its conditions as data, so it
can be chained, pickled, sent to a worker and written to a catalog without asking
the index anything; names and values are checked when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake_idc.cohort.cohort import Cohort
from intake_idc.cohort.difference import Difference
from intake_idc.cohort.locking import LockCheck, check_lock, open_lock, restore
from intake_idc.cohort.opening import (
    diff,
    history,
    open_idc,
    open_manifest,
    open_series,
)

if TYPE_CHECKING:
    from intake_idc.cohort.bodies import open_cohort

__all__ = [
    "Cohort",
    "Difference",
    "LockCheck",
    "check_lock",
    "diff",
    "history",
    "open_cohort",
    "open_idc",
    "open_lock",
    "open_manifest",
    "open_series",
    "restore",
]


def __getattr__(name: str) -> Any:
    # Bodies of the IDC API bring its whole room along: 0.1 s that others need not wait.
    if name == "open_cohort":
        from intake_idc.cohort.bodies import open_cohort

        return open_cohort
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
