"""DuckDB over a folder of tables, and the SQL that yields one release."""

from __future__ import annotations

import atexit
import ctypes
import functools
import glob
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from intake_idc import cache
from intake_idc.errors import IntegrityError, StorageError, TableNotFound
from intake_idc.release import derived, facts, generations
from intake_idc.release.facts import exceptions
from intake_idc.release.tables import Tables
from intake_idc.selection import literal, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import duckdb
    import pyarrow as pa

    from intake_idc.release.derived import Derived

__all__ = ["NUMBER", "Database", "database", "forget", "joint", "memory_database"]

T = TypeVar("T")

ALL_BITS = (1 << 64) - 1

MEMO = 32
"""Compiled selections that are kept for each set of tables."""

NUMBER = "file_row_number"
"""What DuckDB calls the number of a row in its file."""

PRIOR_OWN = ("collection_id", "PatientID", "StudyInstanceUID", "Modality")
"""Columns of prior_versions_index that are the same in every row of a series."""


class Database:
    """One DuckDB connection over one folder of tables, for all threads.

    Queries see the Parquet files of the folder and nothing else: a condition
    that came with somebody's catalog cannot open a file or a network address.
    """

    def __init__(
        self, tables: Tables, *others: Tables, attached: Sequence[Derived] = ()
    ) -> None:
        self.tables = tables
        self._memo: dict[object, Any] = {}
        self._memo_lock = threading.Lock()
        self._others = others
        self._scans: dict[str, str] = {}
        made = None if others else derived.find(tables)
        self.derived = None if made is None else derived.attach(made)
        self._derived = [*attached, *([self.derived] if self.derived else [])]

    @functools.cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        """The connection, which sees the tables and no other file."""
        import duckdb

        connection = duckdb.connect(":memory:")
        every = (self.tables, *self._others)
        files = [each.local(table) for each in every for table in each.names]
        # A file is looked for as a pattern, and read as what that finds.
        allowed = {*map(str, files), *(glob.escape(str(file)) for file in files)}
        # What is fetched on demand comes later, into a folder of its own.
        folders = [f"{each.extra}{os.sep}" for each in every if each.extra is not None]
        for statement in (
            "SET autoinstall_known_extensions = false",
            "SET autoload_known_extensions = false",
            "SET parquet_metadata_cache = true",
            f"SET allowed_paths = [{', '.join(map(literal, allowed))}]",
            f"SET allowed_directories = [{', '.join(map(literal, folders))}]",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            connection.execute(statement)
        return connection

    def knows(self, key: object) -> bool:
        """Say whether something was worked out already; see `remembered`."""
        with self._memo_lock:
            return key in self._memo

    def remembered(self, key: object, find: Callable[[], T]) -> T:
        """Work something out once, for what is asked again soon."""
        with self._memo_lock:
            if key in self._memo:
                kept: T = self._memo[key]
                return kept
        found = find()
        with self._memo_lock:
            while len(self._memo) >= MEMO:
                del self._memo[next(iter(self._memo))]
            self._memo[key] = found
        return found

    @contextmanager
    def cursor(
        self, sql: str, tables: Mapping[str, pa.Table] | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a cursor of its own to each query, so that threads never share one.

        The Arrow tables that the query names can be read by it.
        """
        cursor = self._connection.cursor()
        try:
            named = {each.alias: each.table for each in self._derived}
            for table_name, table in (named | dict(tables or {})).items():
                if table_name in sql:
                    cursor.register(table_name, table)
            yield cursor
        finally:
            cursor.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            gone = [name for name in self._scans if not self.tables.has(name)]
            if gone:
                msg = (
                    f"the table {gone[0]} of {self.tables.source} has gone from "
                    f"{self.tables.folder} while it was in use; open the release again"
                )
                raise StorageError(msg, source=self.tables.source) from error
            msg = f"the tables of {self.tables.source} cannot be read: {error}"
            raise StorageError(msg, source=self.tables.source) from error

    def rows(
        self,
        sql: str,
        parameters: Sequence[Any] = (),
        tables: Mapping[str, pa.Table] | None = None,
    ) -> list[tuple[Any, ...]]:
        """Run a query and give its rows.

        Raises
        ------
        StorageError
            DuckDB refuses; its own error is the cause.
        """
        with self._translated(), self.cursor(sql, tables) as cursor:
            # No empty list: DuckDB 1 imports pandas to look at parameters.
            asked = [sql, list(parameters)] if parameters else [sql]
            return cursor.execute(*asked).fetchall()

    def arrow(
        self,
        sql: str,
        parameters: Sequence[Any] = (),
        tables: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """Run a query and give its result as an Arrow table; raises as `rows`."""
        with self._translated(), self.cursor(sql, tables) as cursor:
            # The relation, not the cursor: on a cursor DuckDB 2 copies the rows.
            return cursor.sql(sql, params=list(parameters) or None).to_arrow_table()

    def scan(self, table: str) -> str:
        """Give the SQL that reads one table in place, with the columns of today."""
        if table not in self._scans:
            scan = self._as_it_is(table)
            columns = self.described(scan)
            self._scans[table] = generations.ironed(table, scan, columns) or scan
        return self._scans[table]

    def _as_it_is(self, table: str, options: str = "") -> str:
        # To DuckDB "b*c" is every folder so named.
        path = glob.escape(str(self.tables.path(table)))
        return f"read_parquet({literal(path)}{options})"

    def described(self, relation: str) -> dict[str, str]:
        """Give the columns of a relation, and their DuckDB types."""
        return {
            row[0]: row[1] for row in self.rows(f"DESCRIBE SELECT * FROM {relation}")
        }

    @functools.cached_property
    def columns(self) -> dict[str, str]:
        """Columns of ``idc_index`` as published, and their DuckDB types."""
        if self.derived is not None:
            own = {**self.derived.columns}
            del own["row_source"]
            return own
        return self.columns_of("idc_index")

    def columns_of(self, table: str) -> dict[str, str]:
        """Give the columns of one table, and their DuckDB types."""
        return self.described(self.scan(table))

    @functools.cached_property
    def dates(self) -> dict[int, str]:
        """Releases that the tables name, and the day each came out."""
        if not self.tables.has("version_metadata_index"):
            newest = self.tables.newest or 0
            return {v: day for v, day in facts.dates().items() if v <= newest}
        found = self.rows(
            "SELECT idc_version, CAST(version_timestamp AS VARCHAR) "
            f"FROM {self.scan('version_metadata_index')} ORDER BY 1"
        )
        return {int(version): str(date)[:10] for version, date in found}

    @functools.cached_property
    def newest(self) -> int:
        """Newest release in the tables."""
        if self.derived is not None:
            return self.derived.newest
        if self.tables.newest is not None:
            return self.tables.newest
        if self.dates:
            return max(self.dates)
        if "series_revised_idc_version" not in self.columns:
            number = self._recognised
            if number is None:
                self._need_revisions()  # Raises.
        else:
            revised = "max(series_revised_idc_version)"
            number = self.rows(f"SELECT {revised} FROM {self.scan('idc_index')}")[0][0]
        if number is None:
            msg = f"{self.tables.path('idc_index')} holds no series"
            raise IntegrityError(msg)
        return int(number)

    @functools.cached_property
    def _recognised(self) -> int | None:
        """The release whose published series are exactly those of the index."""
        numbers = "bit_xor(md5_number(crdc_series_uuid))"
        sql = f"SELECT count(*), {numbers} FROM {self.scan('idc_index')}"
        count, xor = self.rows(sql)[0]
        for version, fact in facts.published().items():
            if (fact.series, fact.xor) == (count, f"{int(xor or 0):032x}"):
                return version
        return None

    def _need_revisions(self) -> None:
        if "series_revised_idc_version" not in self.columns:
            msg = (
                f"the index of {self.tables.source} has no column "
                "series_revised_idc_version (it came with idc-index-data 24), so "
                "it says neither its own release nor older ones"
            )
            raise TableNotFound(msg, table="idc_index")

    def release_sql(
        self,
        idc_version: int,
        columns: Collection[str] | None = None,
    ) -> str:
        """Give the SQL that yields the rows of one release.

        Where the columns that will be used are known, and superseded rows hold them
        all, they are not joined with the current ones, which takes five times as long.
        """
        if self.derived is not None:
            return self.derived.release_sql(idc_version, columns)
        if idc_version == self.newest:
            return self._newest_sql()
        self._need_revisions()
        return _union(
            *self._current_sql(idc_version),
            self._prior_sql(idc_version, columns),
            *map(self.forgotten_sql, exceptions().forgotten(idc_version)),
        )

    def numbered_sql(self, idc_version: int) -> str | None:
        """Give the SQL of `release_sql` with each row's ``file_row_number``.

        By its number a row is found again without a look at all the others. None
        where the release is not the rows of one file as they stand.
        """
        index = "idc_index"
        if self.derived is not None or idc_version != self.newest:
            return None
        if self.scan(index) != self._as_it_is(index) or NUMBER in self.columns:
            return None
        source = generations.row_source(self.columns)
        numbered = self._as_it_is(index, f", {NUMBER} = true")
        return f"SELECT *, {source} AS row_source FROM {numbered}"

    def _newest_sql(self) -> str:
        source = generations.row_source(self.columns)
        return f"SELECT *, {source} AS row_source FROM {self.scan('idc_index')}"

    def every_series_sql(self, columns: Collection[str]) -> str:
        """Give the SQL that yields every series that any release held, once.

        Each row has at least these columns, as `release_sql` gives it; bit V of
        ``releases`` says whether release V holds it.
        """
        newest, bit = self.newest, "1::UBIGINT <<"
        if "series_revised_idc_version" not in self.columns:
            only = f"{1 << newest}::UBIGINT AS releases"
            return f"SELECT *, {only} FROM ({self._newest_sql()})"
        whens = []
        for group in exceptions().rebuilt_only:
            lacking = ~sum(1 << v for v in group.versions if v != newest) & ALL_BITS
            whens.append(
                f"WHEN collection_id = {literal(group.collection_id)} AND "
                f"crdc_series_uuid IN ({', '.join(map(literal, group.uuids))}) "
                f"THEN {lacking}::UBIGINT"
            )
        # The index is the newest release, whatever it says of a row.
        revised = f"least(coalesce(series_revised_idc_version, {newest}), {newest})"
        since = f"{1 << newest + 1}::UBIGINT - ({bit} {revised})"
        but = (
            f"CASE {' '.join(whens)} ELSE {ALL_BITS}::UBIGINT END"
            if whens
            else ALL_BITS
        )
        parts = [
            f"SELECT *, ({since}) & ({but}) AS releases FROM ({self._newest_sql()})"
        ]
        if self.tables.has("prior_versions_index"):
            held = f"({bit} (max_idc_version + 1)) - ({bit} min_idc_version)"
            older = f"bit_or({held}) & {(1 << newest) - 1}::UBIGINT"
            prior = self._prior_series_sql(extra=f", {older} AS releases")
            parts.append(self._borrowing_sql(prior, columns))
            for row in exceptions().published_only:
                bits = sum(1 << v for v in row["versions"])
                sql = self.forgotten_sql(row)
                parts.append(f"SELECT *, {bits}::UBIGINT AS releases FROM ({sql})")
        return _union(*parts)

    def _current_sql(self, idc_version: int) -> Iterator[str]:
        """Rows of a release that the newest one still has.

        The collections with exceptions are read apart, so that the others are
        spared a look at every uuid, which takes three times as long.
        """
        rows = (
            f"SELECT *, 'idc_index' AS row_source FROM {self.scan('idc_index')} "
            f"WHERE series_revised_idc_version <= {idc_version}"
        )
        absent = exceptions().absent(idc_version)
        if not absent:
            yield rows
            return
        yield f"{rows} AND collection_id NOT IN ({', '.join(map(literal, absent))})"
        for collection, uuids in absent.items():
            yield (
                f"{rows} AND collection_id = {literal(collection)} "
                f"AND crdc_series_uuid NOT IN ({', '.join(map(literal, uuids))})"
            )

    def _prior_sql(self, idc_version: int, columns: Collection[str] | None) -> str:
        """Rows of a release that a later one superseded or withdrew.

        What the 12 columns of prior_versions_index do not hold is taken from the
        current row of the same series, but for the instance count, which may have
        changed with the bytes.
        """
        within = f"{idc_version} BETWEEN min_idc_version AND max_idc_version"
        old = self._prior_series_sql(f"HAVING bool_or({within})")
        return self._borrowing_sql(old, self.columns if columns is None else columns)

    def _borrowing_sql(self, old: str, wanted: Collection[str]) -> str:
        """Give superseded rows with what they lack of the wanted columns."""
        held = {
            *PRIOR_OWN,
            "crdc_series_uuid",
            "SeriesInstanceUID",
            "aws_bucket",
            "series_aws_url",
            "series_size_MB",
            "series_revised_idc_version",
            "instanceCount",
        }
        borrowed = [quote(c) for c in self.columns if c in wanted and c not in held]
        if not borrowed:
            return f"SELECT * EXCLUDE (last_idc_version) FROM ({old})"
        return f"""
            SELECT old.* EXCLUDE (last_idc_version), {", ".join(borrowed)}
            FROM ({old}) AS old
            LEFT JOIN (
                SELECT SeriesInstanceUID, {", ".join(borrowed)}
                FROM {self.scan("idc_index")}
            ) AS now USING (SeriesInstanceUID)
            """

    def _prior_series_sql(self, having: str = "", extra: str = "") -> str:
        """One row for each superseded or withdrawn series.

        The table has a row for each bucket that held a series, and 48 series have
        one more, with the size doubled (an error of release 23): the smallest size
        is the true one.
        """
        own = ", ".join(f"any_value({column}) AS {column}" for column in PRIOR_OWN)
        return f"""
            SELECT crdc_series_uuid, SeriesInstanceUID, {own},
                arg_max(aws_bucket, max_idc_version) AS aws_bucket,
                arg_max(series_aws_url, max_idc_version) AS series_aws_url,
                min(series_size_MB) AS series_size_MB,
                min(min_idc_version) AS series_revised_idc_version,
                max(max_idc_version) AS last_idc_version,
                'prior_versions_index' AS row_source{extra}
            FROM {self.scan("prior_versions_index")}
            GROUP BY crdc_series_uuid, SeriesInstanceUID {having}
            """

    def forgotten_sql(self, row: Mapping[str, Any]) -> str:
        """One series that a release had and that the tables have forgotten.

        It is there only where its collection is, so that a folder with a part of
        IDC does not gain series of other parts.
        """
        values = ", ".join(
            f"CAST({literal(row[column])} AS {kind}) AS {quote(column)}"
            for column, kind in self.columns.items()
            if row.get(column) is not None
        )
        own = f"collection_id = {literal(row['collection_id'])}"
        same = f"{own} AND crdc_series_uuid = {literal(row['crdc_series_uuid'])}"
        index = self.scan("idc_index")
        there = [f"EXISTS (SELECT 1 FROM {index} WHERE {own})"]
        # Newer tables may remember it again.
        there += [
            f"NOT EXISTS (SELECT 1 FROM {self.scan(table)} WHERE {same})"
            for table in ("idc_index", "prior_versions_index")
        ]
        return (
            f"SELECT {values}, 'published package' AS row_source "
            f"WHERE {' AND '.join(there)}"
        )

    def known_sql(self) -> str:
        """Give the SQL that yields every series that any release held.

        ``first_idc_version`` and ``last_idc_version`` bound the releases of a row.
        """
        newest = self.newest
        revised = "series_revised_idc_version"
        first = revised if revised in self.columns else newest
        current = (
            f"SELECT *, 'idc_index' AS row_source, {first} AS first_idc_version, "
            f"{newest} AS last_idc_version FROM {self.scan('idc_index')}"
        )
        parts = [current]
        if self.tables.has("prior_versions_index"):
            parts.append(
                f"SELECT *, {revised} AS first_idc_version "
                f"FROM ({self._prior_series_sql()})"
            )
            parts += [
                f"SELECT *, {min(row['versions'])} AS first_idc_version, "
                f"{max(row['versions'])} AS last_idc_version "
                f"FROM ({self.forgotten_sql(row)})"
                for row in exceptions().published_only
            ]
        return _union(*parts)


_DATABASES: dict[tuple[object, ...], Database] = {}
_LOCK = threading.Lock()


def _after_fork() -> None:
    """Keep what a child inherited for ever: taken apart there, DuckDB hangs.

    Its threads are the parent's, and did not come along.
    """
    global _LOCK  # noqa: PLW0603
    _LOCK = threading.Lock()
    for inherited in _DATABASES.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
    _DATABASES.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def database(tables: Tables) -> Database:
    """Give the process's one database over these tables."""
    return joint(tables)


def joint(*tables: Tables) -> Database:
    """Give the process's one database that reads several sets of tables.

    It runs the SQL of each set's own database; what it answers by itself is of the
    first.
    """
    singles = [database(each) for each in tables] if len(tables) > 1 else []
    attached = [each.derived for each in singles if each.derived is not None]
    # A connection does not survive a fork, and its rights to files are fixed.
    for each in tables:
        each.check()
    of_tables = [part for each in tables for part in (each.folder, each.state)]
    key = (os.getpid(), cache.named(), *of_tables)
    with _LOCK:
        if not _DATABASES:
            atexit.register(_close_all)
        if key not in _DATABASES:
            _DATABASES[key] = Database(*tables, attached=attached)
        return _DATABASES[key]


def forget(tables: Tables) -> None:
    """Let go of the databases over these tables; the next question opens them anew."""
    with _LOCK:
        for key in [key for key in _DATABASES if tables.folder in key]:
            del _DATABASES[key]


def _close_all() -> None:
    """Let go of every connection before the interpreter takes itself apart.

    DuckDB 2 otherwise writes a page about leaked instances when a process ends.
    """
    with _LOCK:
        _DATABASES.clear()


def memory_database() -> Database:
    """Give a database that sees no table but those registered with a query."""
    nowhere = Path(os.devnull)
    return database(Tables(None, nowhere, "memory", None))


def _union(*parts: str) -> str:
    return "\nUNION ALL BY NAME\n".join(f"({part})" for part in parts)
