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

import datetime as dt
import functools
import operator
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from intake_idc import cache
from intake_idc.errors import TableNotFound, UnknownColumn, UnknownRelease
from intake_idc.release import derived, facts, history
from intake_idc.release.columns import Column, Columns, find_column
from intake_idc.release.database import Database, database, forget
from intake_idc.release.derived import POSITION
from intake_idc.release.facts import published
from intake_idc.release.history import History, Life
from intake_idc.release.rows import (
    MANIFEST_COLUMNS,
    FixedRows,
    Rows,
    check_columns,
)
from intake_idc.release.survey import ReleaseInfo, Sureness, survey
from intake_idc.release.tables import (
    INSTALLED,
    PACKAGE,
    Tables,
    find_tables,
    installed_version,
    own_tables,
    sample_path,
)
from intake_idc.selection import Resolved, Selection, quote

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from intake_idc.manifest import Manifest

__all__ = [
    "MANIFEST_COLUMNS",
    "TABLE_KEYS",
    "Column",
    "Columns",
    "FixedRows",
    "History",
    "Life",
    "Release",
    "ReleaseInfo",
    "Rows",
    "Sureness",
    "Tables",
    "available_releases",
    "build_cache",
    "find_column",
    "open_release",
    "sample_path",
]


TABLE_KEYS = ("SeriesInstanceUID", "analysis_result_id", "collection_id")
"""Columns by which rows of the tables belong to series, the narrowest first."""

DOUBTS = {
    "rebuilt": "the series that are known; none were published to compare with",
    "survivors only": "survivors only, what later releases still held of it",
}
"""What is to be said of a release that is not exact, by its sureness."""


class Release(Rows):
    """One IDC release: a number, and the tables that say what it holds.

    Use `open_release`. Making one reads nothing; it may be used from many threads,
    and it pickles as the number and what was named as ``tables``.

    Attributes
    ----------
    idc_version : int
        The release.
    """

    def __init__(
        self, idc_version: int, tables: Tables, asked: str | None = None
    ) -> None:
        self.idc_version = idc_version
        self._tables = tables
        # What the user named, from which other releases are opened: it is not what
        # was found where the package of this release was at hand.
        self._asked = asked

    @property
    def source(self) -> str:
        """Name and version of the source of the tables."""
        return self._tables.source

    @property
    def spec(self) -> str | None:
        """What was named as ``tables``; None is the installed package."""
        return self._tables.spec

    @property
    def named(self) -> str | None:
        """What the user named as ``tables``, from which other releases are opened."""
        return self._asked

    @property
    def digest(self) -> dict[str, str] | None:
        """SHA-256 that the tables were opened with, by file name."""
        return dict(self._tables.digests) or None

    @property
    def published(self) -> bool:
        """Whether the rows are those of the package that came with the release.

        Then their attributes are as published; else they are those that the tables
        give today.
        """
        return self.idc_version == self._database.newest

    @property
    def doubt(self) -> str | None:
        """Why the series of a rebuilt release are not surely those that were published.

        None where they are recorded, and can be checked: `info` counts, and says
        "exact" when number and digest are those of the published package.
        """
        recorded = self._tables.package is not None and self.idc_version in published()
        if self.published or recorded:
            return None
        return DOUBTS.get(self.info.sureness)

    @property
    def rebuilt(self) -> str | None:
        """How a release that is rebuilt stands, in words; None where it is not."""
        if self.published:
            return None
        shown = f"attributes of release {self._database.newest}"
        return f"{self.doubt}; {shown}" if self.doubt else shown

    @property
    def pin(self) -> dict[str, Any]:
        """What has to be written down to open the same release of the same tables.

        Keys: ``idc_version`` (int), ``source`` (str), ``tables`` (what to name, None
        for the installed package), ``digest`` (SHA-256 of the tables that the series
        are read from, by file name), ``sureness`` (str).
        """
        used = ["idc_index"]
        if not self.published:
            used.append("prior_versions_index")
        found = {f"{name}.parquet": self._tables.path(name) for name in used}
        return {
            "idc_version": self.idc_version,
            "source": self.source,
            "tables": self.spec,
            "digest": {name: cache.sha256(path) for name, path in found.items()},
            "sureness": self.info.sureness,
        }

    def same_tables(self, other: Release) -> bool:
        """Say whether another release is read from the same tables."""
        return self._tables.folder == other._tables.folder

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

    @property
    def of_tables(self) -> Release:
        """The release itself."""
        return self

    @functools.cached_property
    def columns(self) -> dict[str, str]:
        """Columns of the series table, and their DuckDB types."""
        return {**self._database.columns, "row_source": "VARCHAR"}

    @property
    def table_names(self) -> list[str]:
        """Names of the index tables: those at hand, and those that can be fetched."""
        return self._tables.all_names

    def local_table(self, table: str) -> Path | None:
        """Give the path of a table that is at hand, else None; nothing is fetched."""
        return self._tables.local(table)

    @property
    def _database(self) -> Database:
        return database(self._tables)

    def _sql(self, columns: Collection[str] | None) -> str:
        return self._database.release_sql(self.idc_version, columns)

    def _compiled(self, selection: Selection, *, strict: bool) -> tuple[str, list[Any]]:
        def compiled() -> tuple[str, list[Any]]:
            return selection.compile(self, strict=strict)

        # A cohort asks several questions with one selection, and tables never change.
        key = "compiled", self.idc_version, selection, strict
        return self._database.remembered(key, compiled)

    def _quick(
        self, columns: Sequence[str], selection: Selection, *, strict: bool
    ) -> pa.Table | None:
        db = self._database
        if db.derived is None or selection.sql or selection.commercial_use:
            return None
        check_columns(columns, self.columns)

        def resolved() -> list[Resolved]:
            return selection.resolve(self, strict=strict)

        key = "resolved", self.idc_version, selection, strict
        conditions = db.remembered(key, resolved)
        return db.derived.select(self.idc_version, conditions, columns)

    def absent(self, column: str, values: Sequence[Any]) -> list[Any]:
        """Give those of the values that a column never takes in this release."""
        check_columns([column], self.columns)
        made = self._database.derived
        asked = Resolved(column, tuple(values), null=False)
        found = None
        if made is not None:
            found = made.select(self.idc_version, [asked], [column])
        if found is None:
            return super().absent(column, values)
        present = set(found[column].unique().to_pylist())
        return [value for value in values if value not in present]

    @property
    def _order(self) -> Sequence[str]:
        return super()._order if self._database.derived is None else [POSITION]

    @property
    def _identity(self) -> tuple[object, ...]:
        tables = self._tables
        named = tables.spec if tables.spec is not None else tables.source
        return "intake_idc.Release", self.idc_version, named, tables.digests

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Release):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return self._identity

    def __reduce__(self) -> tuple[Any, ...]:
        # Not the policy that found the tables, but what it found: that very package.
        spec = self.spec
        if spec is None:
            spec = f"{PACKAGE}=={self._tables.package}"
        return _reopened, (self.idc_version, spec, self.digest, self._asked)

    def at(self, idc_version: int | str) -> Release:
        """Open another release: by its number, or by a day on which it was current.

        >>> open_release(25).at("2024-09-01").idc_version
        19

        Raises
        ------
        UnknownRelease
            The tables do not know it, or the day is before the first.
        """
        return open_release(idc_version, self._asked, self.digest)

    def __repr__(self) -> str:
        rebuilt = "" if self.published else "rebuilt "
        return f"<IDC release {self.idc_version}, {rebuilt}from {self.source}>"

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
        db = history.widest(self)
        known = {*db.columns, "row_source"}
        columns = [c for c in MANIFEST_COLUMNS if c in known]
        return history.resolve(db, uuids, columns)

    def history(self, series: str) -> History:
        """Tell the life of a series: its uuids, by the releases that held them.

        Parameters
        ----------
        series : str
            A ``SeriesInstanceUID``, or any ``crdc_series_uuid`` that it ever had.

        Raises
        ------
        UnknownValue
            No release of these tables holds it.
        """
        return history.find(history.widest(self), series)

    def near(self, column: str, value: object) -> str:
        """Say which releases hold a series that this one does not."""
        for key in history.KEYS:
            if column == key:
                db, version = history.widest(self), self.idc_version
                return history.elsewhere(db, version, key, str(value))
        return super().near(column, value)

    def manifest(
        self,
        selection: Selection,
        columns: Sequence[str] = MANIFEST_COLUMNS,
        *,
        strict: bool = True,
    ) -> Manifest:
        """Give the selected series as a manifest, in the buckets where they lie today.

        As `Rows.manifest`; only tables of an older package name other buckets.
        """
        manifest = super().manifest(selection, columns, strict=strict)
        return replace(manifest, table=history.today(self, manifest.table))

    def index_table(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        among: pa.Table | None = None,
    ) -> pa.Table:
        """Read one index table (None: every column).

        ``idc_index`` is that of this release; the others are those of the source, so
        that what they say of a series of an older release is what is true of its
        newest bytes. A table that the package leaves out is fetched, once, from where
        IDC publishes it; see `find_tables` and ``INTAKE_IDC_ARTIFACTS``.

        Parameters
        ----------
        table : str
            Name of the table.
        columns : sequence of str, optional
            Columns to keep.
        among : pyarrow.Table, optional
            Rows of the index; only rows that belong to one of them are given, by the
            narrowest of SeriesInstanceUID, analysis_result_id and collection_id that
            both have.

        Raises
        ------
        TableNotFound
            The table is not at hand; the message says which file to put where.
        UnknownColumn
            The table has no such column.
        """
        if table == "idc_index" and among is None:
            return self.table(columns, Selection())
        db = self._database
        rows = f"({self._sql(None)})" if table == "idc_index" else db.scan(table)
        known = self.columns if table == "idc_index" else db.columns_of(table)
        check_columns(columns or (), known)
        sql = f"SELECT {', '.join(map(quote, columns or known))} FROM {rows}"
        if among is None:
            return db.arrow(sql)
        shared = [
            key for key in TABLE_KEYS if key in known and key in among.schema.names
        ]
        if not shared:
            msg = (
                f"table {table!r} has none of the columns {', '.join(TABLE_KEYS)}, by "
                "which its rows would belong to series; read it with index_table"
            )
            raise UnknownColumn(msg, table=table)
        key = quote(shared[0])
        condition = f"{key} IN (SELECT {key} FROM among)"
        return db.arrow(f"{sql} WHERE {condition}", tables={"among": among})

    def columns_of(self, table: str) -> dict[str, str]:
        """Give the columns of an index table, and their DuckDB types.

        Raises
        ------
        TableNotFound
            The table is not at hand; the message says which file to put where.
        """
        return self._database.columns_of(table)

    def ask(
        self,
        sql: str,
        tables: Mapping[str, Sequence[str]],
        more: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """Run SQL of this package over index tables, each under its own name.

        Parameters
        ----------
        sql : str
            A query that begins with SELECT; never a user's.
        tables : dict
            The index tables that it names, and the columns of each that it may use.
            ``idc_index`` is that of this release, as for `index_table`.
        more : dict, optional
            Arrow tables that it names.
        """
        parts = []
        for table, columns in tables.items():
            own = table == "idc_index"
            check_columns(columns, self.columns if own else self.columns_of(table))
            rows = f"({self._sql(columns)})" if own else self._database.scan(table)
            listed = ", ".join(map(quote, columns))
            parts.append(f"{table} AS (SELECT {listed} FROM {rows})")
        return self._database.arrow(f"WITH {', '.join(parts)}\n{sql}", (), more)


def open_release(
    idc_version: int | str = "current",
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
) -> Release:
    """Open a release of IDC.

    Parameters
    ----------
    idc_version : int, "current" or "YYYY-MM-DD"
        The release, or a day on which it was current. It is resolved at once, and
        everything made from it carries the number.
    tables : str or path, optional
        Where the index tables are; see `find_tables`. By default the package that
        was published with the release, where ``INTAKE_IDC_ARTIFACTS`` names a folder
        that has it or it was fetched before; else the installed ``idc-index-data``.
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
    number = _number(idc_version, newest, found)
    if tables is None and digest is None and number < newest:
        own = own_tables(number)
        if own is not None:
            return Release(number, own, None)
    _check_known(number, newest, found)
    if number < newest and not found.has("prior_versions_index"):
        msg = (
            f"release {number} is rebuilt from prior_versions_index, which is not "
            f"among the tables of {found.source}; put "
            f"{found.folder / 'prior_versions_index.parquet'} there"
        )
        raise TableNotFound(msg, table="prior_versions_index")
    return Release(number, found, None if tables is None else str(tables))


def _reopened(
    idc_version: int,
    spec: str,
    digest: Mapping[str, str] | None,
    asked: str | None,
) -> Release:
    found = find_tables(spec, digest)
    if spec == f"{PACKAGE}=={installed_version()}":
        found = find_tables(INSTALLED, digest)
    newest = found.newest if found.newest is not None else database(found).newest
    _check_known(idc_version, newest, found)
    return Release(idc_version, found, asked)


def _check_known(idc_version: int, newest: int, tables: Tables) -> None:
    if not 1 <= idc_version <= newest:
        more = idc_version > newest
        mend = "; a newer idc-index-data may know it" if more else ""
        msg = f"no release {idc_version} in {tables.source}, which knows 1 to {newest}"
        raise UnknownRelease(f"{msg}{mend}", idc_version=idc_version)


def _number(idc_version: int | str, newest: int, tables: Tables) -> int:
    """Give the number of a release that is named by number, day, or as current."""
    if idc_version == "current":
        return newest
    if isinstance(idc_version, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", idc_version):
        return _current_on(idc_version, tables)
    if isinstance(idc_version, bool) or not hasattr(idc_version, "__index__"):
        msg = (
            "idc_version is a whole number, 'current', or a day such as '2024-09-01'; "
            f"got {idc_version!r}"
        )
        raise UnknownRelease(msg, idc_version=idc_version)
    return operator.index(idc_version)


def _current_on(day: str, tables: Tables) -> int:
    dates = database(tables).dates
    try:
        wanted = dt.date.fromisoformat(day)
    except ValueError as error:
        msg = f"there is no day {day!r}: {error}"
        raise UnknownRelease(msg, idc_version=day) from error
    # A day more, for those whose day began before this machine's.
    if wanted > dt.datetime.now(dt.timezone.utc).date() + dt.timedelta(days=1):
        msg = f"{day} is yet to come, and so may be its release; say 'current'"
        raise UnknownRelease(msg, idc_version=day)
    before = [version for version, date in dates.items() if date <= day]
    if not before:
        first = min(dates.values(), default=None)
        known = f"the first came out on {first}" if first else "they carry no dates"
        msg = f"no release of {tables.source} was out on {day}; {known}"
        raise UnknownRelease(msg, idc_version=day)
    if tables.package is not None:
        # It does not know which releases came after it.
        later = {v: date for v, date in facts.dates().items() if v > max(dates)}
        before += [version for version, date in later.items() if date <= day]
    return max(before)


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


def build_cache(tables: str | os.PathLike[str] | None = None) -> Path:
    """Lay the tables out to be asked quickly, in the cache; takes some seconds.

    From then on every process that has the same tables and the same cache asks that:
    the answers are the same, and come several times sooner. It holds all the releases
    that the tables can give, rebuilt once. Nothing needs it.

    Parameters
    ----------
    tables : str or path, optional
        Where the index tables are; see `find_tables`.

    Returns
    -------
    pathlib.Path
        The file. ``INTAKE_IDC_CACHE`` names the folder, and
        ``INTAKE_IDC_CACHE_SIZE`` bounds it.

    Raises
    ------
    RequestError
        There is no cache to write to.
    StorageError
        It cannot be written.
    """
    found = find_tables(tables)
    path = derived.build(database(found))
    forget(found)
    return path
