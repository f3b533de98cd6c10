"""Manifests that are tables, in any dialect, as listings of what they name.

The column names of all years are in `intake_idc.formats.columns`; this is the door to
the rooms behind: delimited text, JSON, and what Arrow reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake_idc.errors import ManifestError
from intake_idc.formats import delimited, frames, structured

if TYPE_CHECKING:
    from intake_idc.formats import Listing
    from intake_idc.formats.source import Bytes

__all__ = ["KINDS", "read", "read_table"]

KINDS = ("csv", "tsv", "ndjson", "json", "parquet", "arrow")
"""Dialects that are tables."""


def read(source: Bytes, kind: str) -> Listing:
    """Read a manifest that is a table.

    Parameters
    ----------
    source : Bytes
        Its bytes, unpacked.
    kind : str
        One of `KINDS`.

    Returns
    -------
    Listing
        What it names; a row counts by its number from 1: of the line in text, of the
        row elsewhere.

    Raises
    ------
    ManifestError
        It cannot be read as that, or no column of it names anything.
    StorageError
        Its bytes cannot be had.
    """
    if kind in ("csv", "tsv"):
        return delimited.read(source, kind)
    if kind == "ndjson":
        return structured.read_lines(source)
    if kind == "json":
        return structured.read(source)
    if kind == "parquet":
        return frames.read_parquet(source)
    if kind == "arrow":
        return frames.read_arrow(source)
    msg = f"{kind!r} is no table; expected one of {', '.join(KINDS)}"
    raise ManifestError(msg, kind=kind)


def read_table(table: Any, name: str = "the table") -> Listing:
    """Read a table at hand; see `intake_idc.formats.frames.read_table`."""
    return frames.read_table(table, name)
