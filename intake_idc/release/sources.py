"""What the index tables say of the sources of series: read here, judged elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from intake_idc.citations import (
    Citations,
    Group,
    collect,
    conflicting_groups,
    read_stated,
)
from intake_idc.errors import (
    MissingError,
    StorageError,
    TableNotFound,
    UnknownRelease,
)
from intake_idc.selection import LICENSE_COLUMNS, Selection

if TYPE_CHECKING:
    from intake_idc.citations import Stated
    from intake_idc.release import Release
    from intake_idc.release.rows import Rows

__all__ = ["NOT_AT_HAND", "cite", "contradicted", "stated", "tables_name"]

SOURCES = "collections_index"
RESULTS = "analysis_results_index"
SINCE = 23
"""The package idc-index-data that was first to have these two tables."""

NOT_AT_HAND = (MissingError, StorageError, UnknownRelease)
"""Errors of tables that would say more."""


def stated(release: Release) -> list[Stated]:
    """Read what the tables of a release say of sources.

    Raises
    ------
    TableNotFound
        There is no `collections_index`, which came with idc-index-data 23.
    """
    if not _has(release, SOURCES):
        msg = (
            f"the tables of {release.source} have no {SOURCES}, where citations and "
            f"licences are; it came with idc-index-data {SINCE}. Open release "
            f"{release.idc_version} from newer tables, or put {SOURCES}.parquet "
            "beside idc_index.parquet"
        )
        raise TableNotFound(msg, table=SOURCES)
    collections = release.index_table(SOURCES).to_pylist()
    has_results = _has(release, RESULTS)
    results = release.index_table(RESULTS).to_pylist() if has_results else []
    return read_stated(collections, results)


def _has(release: Release, table: str) -> bool:
    """Whether a table is at hand, or its package has it: older ones never had.

    So nobody waits for a network that has nothing to give.
    """
    tables = release._tables  # noqa: SLF001
    if tables.has(table) or tables.package is None:
        return bool(tables.has(table))
    return int(tables.package.split(".")[0]) >= SINCE


def contradicted(
    rows: Rows,
) -> list[tuple[str | None, str | None, str | None]]:
    """Give the values of `LICENSE_COLUMNS` whose licence is stated in two ways.

    Where the tables say no more than the index, nothing contradicts it. Where they
    would and cannot be read, that is an error: what is selected must not hang on it.
    """
    if not set(LICENSE_COLUMNS) <= set(rows.columns):
        return []
    if not _has(rows.of_tables, SOURCES):
        return []
    groups = rows.rows(LICENSE_COLUMNS, Selection(), distinct=True)
    return conflicting_groups(((a, b, c) for a, b, c in groups), rows.stated)


def tables_name(source: str) -> str:
    """Give the name of a source of tables, as a notice may show it: no path or URL."""
    package = re.match(r"idc-index-data [\w.]+", source)
    if package:
        return package[0]
    return "tables of one's own" if "/" in source or "\\" in source else source


def cite(rows: Rows, selection: Selection, *, whole: bool) -> Citations:
    """Bring together the selected series and what is said of their sources."""
    said: list[Stated] = []
    tables = ""
    try:
        tables = tables_name(rows.of_tables.source)
        said = rows.stated
    except NOT_AT_HAND:
        if whole:
            raise
    known = [column for column in LICENSE_COLUMNS if column in rows.columns]
    sized = "series_size_MB" in rows.columns
    size = "coalesce(round(sum(series_size_MB * 1e6)), 0)::BIGINT" if sized else "0"
    found = rows.aggregate(
        f"count(*), {size}",
        selection,
        group=known,
        columns=["series_size_MB"] if sized else [],
    )
    groups = []
    for row in found:
        values = dict(zip(known, row, strict=False))
        collection_id, cell, licence = (values.get(c) for c in LICENSE_COLUMNS)
        series, amount = row[-2:]
        groups.append(
            Group(
                collection_id, cell or None, licence or None, int(series), int(amount)
            )
        )
    return collect(groups, said, rows.idc_version, tables)
