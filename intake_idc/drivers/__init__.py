"""Intake's view, version 1 of its interface: one catalog and its sources.

They name a selection and stop: arguments are kept as plain data, and nothing is
read until something is asked. The release is an argument of every object, resolved
from "current" when the object is made and written back among its arguments, so
that YAML, pickle, hash and Dask token all carry the number.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from intake_idc.drivers.catalog import IDCCatalog
from intake_idc.drivers.export import IDCExport
from intake_idc.drivers.lists import IDCLock, IDCManifest
from intake_idc.drivers.sources import IDCCohort
from intake_idc.drivers.tables import IDCTable

__all__ = [
    "IDCCatalog",
    "IDCCohort",
    "IDCExport",
    "IDCLock",
    "IDCManifest",
    "IDCTable",
    "catalog_path",
]


def catalog_path() -> str:
    """Give the path of the shipped catalog, for ``intake.open_catalog``.

    >>> import intake, intake_idc
    >>> cat = intake.open_catalog(intake_idc.catalog_path())
    >>> cat.idc.idc_version
    25
    """
    return str(Path(str(files("intake_idc.catalogs"))) / "idc.yml")


def __getattr__(name: str) -> Any:
    if name == "builtin":
        return IDCCatalog()
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
