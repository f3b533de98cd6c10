"""A cohort: a selection on a release, and every verb on it.

A cohort is lazy. It knows its release by number and its conditions as data, so it
can be chained, pickled, sent to a worker and written to a catalog without asking
the index anything; names and values are checked when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake_idc.cohort.cohort import Cohort
from intake_idc.cohort.difference import Difference
from intake_idc.cohort.opening import (
    diff,
    history,
    open_idc,
    open_manifest,
    open_series,
)

if TYPE_CHECKING:
    from intake_idc.cohort.bodies import open_cohort
    from intake_idc.cohort.locking import LockCheck, check_lock, open_lock, restore

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


_LATER = {
    "LockCheck": "locking",
    "check_lock": "locking",
    "open_cohort": "bodies",
    "open_lock": "locking",
    "restore": "locking",
}
"""Rooms that few enter, and that take long to open: 0.1 s for that of the IDC API."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
