"""Open any release of the NCI Imaging Data Commons, select, compute, copy.

Importing this package loads nothing else; each name below is imported from its
room when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from intake_idc._version import __version__

if TYPE_CHECKING:
    from intake_idc.cohort import Cohort, Difference, open_idc, open_manifest
    from intake_idc.drivers import catalog_path
    from intake_idc.errors import IDCError
    from intake_idc.manifest import Manifest
    from intake_idc.release import (
        Release,
        ReleaseInfo,
        available_releases,
        open_release,
        sample_path,
    )
    from intake_idc.selection import Selection
    from intake_idc.storage import Mirror, resolve_mirror
    from intake_idc.transfer import Report

_HOMES = {
    "Cohort": "cohort",
    "Difference": "cohort",
    "IDCError": "errors",
    "Manifest": "manifest",
    "Mirror": "storage",
    "Release": "release",
    "ReleaseInfo": "release",
    "Report": "transfer",
    "Selection": "selection",
    "available_releases": "release",
    "catalog_path": "drivers",
    "open_idc": "cohort",
    "open_manifest": "cohort",
    "open_release": "release",
    "resolve_mirror": "storage",
    "sample_path": "release",
}

__all__ = [
    "Cohort",
    "Difference",
    "IDCError",
    "Manifest",
    "Mirror",
    "Release",
    "ReleaseInfo",
    "Report",
    "Selection",
    "__version__",
    "available_releases",
    "catalog_path",
    "open_idc",
    "open_manifest",
    "open_release",
    "resolve_mirror",
    "sample_path",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
