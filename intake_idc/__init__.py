"""Open any release of the NCI Imaging Data Commons, select, compute, copy.

Importing this package loads nothing else; each name below is imported from its
room when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from intake_idc._version import __version__

if TYPE_CHECKING:
    from intake_idc.citations import Citations
    from intake_idc.cohort import (
        Cohort,
        Difference,
        LockCheck,
        check_lock,
        diff,
        history,
        open_cohort,
        open_idc,
        open_lock,
        open_manifest,
        open_series,
        restore,
    )
    from intake_idc.drivers import catalog_path
    from intake_idc.errors import IDCError
    from intake_idc.export import (
        Clinical,
        ClinicalTable,
        Export,
        clinical_tables,
        open_clinical,
        open_export,
    )
    from intake_idc.lazy import to_nifti, to_sitk
    from intake_idc.manifest import Manifest
    from intake_idc.release import (
        Column,
        Columns,
        History,
        Life,
        Release,
        ReleaseInfo,
        available_releases,
        build_cache,
        find_column,
        open_release,
        sample_path,
    )
    from intake_idc.selection import Selection
    from intake_idc.storage import Mirror, ObjectCache, resolve_mirror
    from intake_idc.transfer import Report, Verification, repair, verify
    from intake_idc.volume import window

_HOMES = {
    "Citations": "citations",
    "Cohort": "cohort",
    "Difference": "cohort",
    "Clinical": "export",
    "ClinicalTable": "export",
    "Export": "export",
    "clinical_tables": "export",
    "open_clinical": "export",
    "History": "release",
    "IDCError": "errors",
    "Life": "release",
    "LockCheck": "cohort",
    "Manifest": "manifest",
    "Mirror": "storage",
    "ObjectCache": "storage",
    "Release": "release",
    "ReleaseInfo": "release",
    "Report": "transfer",
    "Selection": "selection",
    "Verification": "transfer",
    "available_releases": "release",
    "build_cache": "release",
    "Column": "release",
    "Columns": "release",
    "find_column": "release",
    "catalog_path": "drivers",
    "check_lock": "cohort",
    "diff": "cohort",
    "history": "cohort",
    "open_cohort": "cohort",
    "open_export": "export",
    "open_idc": "cohort",
    "open_lock": "cohort",
    "open_manifest": "cohort",
    "open_release": "release",
    "open_series": "cohort",
    "repair": "transfer",
    "resolve_mirror": "storage",
    "restore": "cohort",
    "sample_path": "release",
    "to_nifti": "lazy",
    "to_sitk": "lazy",
    "verify": "transfer",
    "window": "volume",
}

__all__ = [
    "Citations",
    "Clinical",
    "ClinicalTable",
    "Cohort",
    "Column",
    "Columns",
    "Difference",
    "Export",
    "History",
    "IDCError",
    "Life",
    "LockCheck",
    "Manifest",
    "Mirror",
    "ObjectCache",
    "Release",
    "ReleaseInfo",
    "Report",
    "Selection",
    "Verification",
    "__version__",
    "available_releases",
    "build_cache",
    "catalog_path",
    "check_lock",
    "clinical_tables",
    "diff",
    "find_column",
    "history",
    "open_clinical",
    "open_cohort",
    "open_export",
    "open_idc",
    "open_lock",
    "open_manifest",
    "open_release",
    "open_series",
    "repair",
    "resolve_mirror",
    "restore",
    "sample_path",
    "to_nifti",
    "to_sitk",
    "verify",
    "window",
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
