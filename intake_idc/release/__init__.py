"""An IDC release: its tables, where they lie, and how older ones are rebuilt.

The newest release is read from the published Parquet files in place. An older
release V is rebuilt from the same files:

    V = rows of idc_index with series_revised_idc_version <= V
        + rows of prior_versions_index with min <= V <= max
        - and + the exceptions recorded in ``facts/exceptions.json``

which gives exactly the published series of releases 17 to 24, and the best that
is known of 2 to 16 (nothing was published to compare with). Release 1 is known
only by what survived of it. What is exact is which series, and so which bytes,
a release holds; the attributes are those that the tables at hand give today.
``row_source`` says for every row where it came from. A row of
`prior_versions_index` has 12 columns; the others are those of the current row
of the same SeriesInstanceUID, where there is one, except ``instanceCount``,
which is null because the number may have changed.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any, Literal

from intake_idc.errors import TableNotFound, UnknownRelease
from intake_idc.release.database import Database, database
from intake_idc.release.rows import (
    MANIFEST_COLUMNS,
    FixedRows,
    Rows,
    check_columns,
)
from intake_idc.release.survey import ReleaseInfo, Sureness, survey
from intake_idc.release.tables import Tables, find_tables, sample_path
from intake_idc.selection import Selection, quote

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa

__all__ = [
    "MANIFEST_COLUMNS",
    "FixedRows",
    "Release",
    "ReleaseInfo",
    "Rows",
    "Sureness",
    "Tables",
    "available_releases",
    "open_release",
    "sample_path",
]


class Release(Rows):
    """One IDC release: a number, and the tables that say what it holds.

    Use `open_release`. Making one reads nothing; it may be used from many threads,
    and it pickles as the number and what was named as ``tables``.

    Attributes
    ----------
    idc_version : int
        The release.
    """

    def __init__(self, idc_version: int, tables: Tables) -> None:
        self.idc_version = idc_version
        self._tables = tables

    @property
    def source(self) -> str:
        """Name and version of the source of the tables."""
        return self._tables.source

    @property
    def spec(self) -> str | None:
        """What was named as ``tables``; None is the installed package."""
        return self._tables.spec

    @property
    def digest(self) -> dict[str, str] | None:
        """SHA-256 that the tables were opened with, by file name."""
        return dict(self._tables.digests) or None

    @property
    def date(self) -> str | None:
        """The day the release came out (ISO 8601), where the tables say so."""
        return self._database.dates.get(self.idc_version)

    @property
    def info(self) -> ReleaseInfo:
        """Counts of this release, and how sure they are."""
        for info in survey(self._tables):
            if info.idc_version == self.idc_version:
                return info
        msg = f"the tables of {self.source} do not tell release {self.idc_version}"
        raise UnknownRelease(msg, idc_version=self.idc_version)

    @functools.cached_property
    def columns(self) -> dict[str, str]:
        """Columns of the series table, and their DuckDB types."""
        return {**self._database.columns, "row_source": "VARCHAR"}

    @property
    def table_names(self) -> list[str]:
        """Names of the tables at hand."""
        return self._tables.names

    @property
    def _database(self) -> Database:
        return database(self._tables)

    def _sql(self, columns: Collection[str] | None) -> str:
        return self._database.release_sql(self.idc_version, columns)

    @property
    def _identity(self) -> tuple[object, ...]:
        digests = self._tables.digests
        return "intake_idc.Release", self.idc_version, self.spec, digests

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Release):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return self._identity

    def __reduce__(self) -> tuple[Any, ...]:
        return open_release, (self.idc_version, self.spec, self.digest)

    def at(self, idc_version: int) -> Release:
        """Open another release of the same tables."""
        return open_release(idc_version, self.spec, self.digest)

    def __repr__(self) -> str:
        return f"<IDC release {self.idc_version}, from {self.source}>"

    def resolve(self, uuids: Sequence[str]) -> pa.Table:
        """Find series by ``crdc_series_uuid``, whichever release holds them.

        A uuid never changes its bytes, so it may be looked up beyond its release.

        Returns
        -------
        pyarrow.Table
            One row for each known uuid in the order asked: ``position`` (int64,
            its place in the request), the columns of a manifest, and
            ``first_idc_version`` and ``last_idc_version``, the releases that
            bound it. A uuid that no release holds has no row.
        """
        import pyarrow as pa

        known = self._database.known_sql()
        columns = [c for c in MANIFEST_COLUMNS if c in self.columns]
        listed = ", ".join(f"known.{quote(column)}" for column in columns)
        asked = pa.table(
            {
                "position": pa.array(range(len(uuids)), pa.int64()),
                "uuid": pa.array(uuids, pa.string()),
            }
        )
        return self._database.arrow(
            f"SELECT asked.position, {listed}, "
            "known.first_idc_version, known.last_idc_version FROM asked "
            f"JOIN ({known}) AS known ON asked.uuid = known.crdc_series_uuid "
            "ORDER BY asked.position",
            tables={"asked": asked},
        )

    def index_table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one index table (None: every column).

        ``idc_index`` is that of this release; the others are those of the source.

        Raises
        ------
        TableNotFound
            The table is not at hand; the message says which file to put where.
        UnknownColumn
            The table has no such column.
        """
        if table == "idc_index":
            return self.table(columns, Selection())
        known = self._database.columns_of(table)
        check_columns(columns or (), known)
        listed = ", ".join(map(quote, columns or known))
        return self._database.arrow(
            f"SELECT {listed} FROM {self._database.scan(table)}"
        )


def open_release(
    idc_version: int | Literal["current"] = "current",
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
) -> Release:
    """Open a release of IDC.

    Parameters
    ----------
    idc_version : int or "current"
        The release. "current" is resolved at once to the newest release of the
        tables, and everything made from it carries the number.
    tables : str or path, optional
        Where the index tables are: None for the installed ``idc-index-data``,
        "sample" for the embedded sample, else a folder or a URL that fsspec reads.
    digest : str or dict, optional
        SHA-256 that ``idc_index.parquet`` (or each table, by file name) must have.

    Raises
    ------
    UnknownRelease
        The tables do not know that release.
    TableNotFound
        There are no tables, or not those that an older release needs.
    IntegrityError
        A table is not what its digest says.
    StorageError
        The tables cannot be read.
    """
    found = find_tables(tables, digest)
    newest = found.newest if found.newest is not None else database(found).newest
    number = newest if idc_version == "current" else idc_version
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        msg = f"idc_version is a whole number or 'current'; got {idc_version!r}"
        raise UnknownRelease(msg, idc_version=idc_version)
    number = operator.index(number)
    if not 1 <= number <= newest:
        mend = "; a newer idc-index-data may know it" if number > newest else ""
        msg = f"no release {number} in {found.source}, which knows 1 to {newest}{mend}"
        raise UnknownRelease(msg, idc_version=number)
    if number < newest and not found.has("prior_versions_index"):
        msg = (
            f"release {number} is rebuilt from prior_versions_index, which is not "
            f"among the tables of {found.source}; put "
            f"{found.folder / 'prior_versions_index.parquet'} there"
        )
        raise TableNotFound(msg, table="prior_versions_index")
    return Release(number, found)


def available_releases(
    tables: str | os.PathLike[str] | None = None,
) -> list[ReleaseInfo]:
    """List the releases that the tables can give: dates, counts, sureness.

    The series of each release are counted and their digest is compared with that
    of the published package, so that "exact" is a finding and not a claim.

    Raises
    ------
    TableNotFound, StorageError
        The tables are not there or cannot be read.
    """
    return list(survey(find_tables(tables)))
