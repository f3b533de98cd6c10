"""The derived cache: every series of every release, laid out to be asked quickly.

The index as published is one row group, in which a question reads whole columns.
From it, and from prior_versions_index, two files are made:

- a DuckDB database with one table, in the published order: each series that any
  release held, with what `Database.release_sql` says of it, values that repeat as
  codes, and a bit for each release that holds it;
- beside it, for each identifier, the first 32 bits of its MD5 in order, and where
  its row is, to be searched in place.

They are keyed by the SHA-256 of the tables that they were made from, made beside
and renamed, and checked when they are opened; one that cannot be used is left aside.
They change no answer, only the time that it takes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
from bisect import bisect_left
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intake_idc import cache
from intake_idc.errors import RequestError, StorageError
from intake_idc.release.facts import exceptions
from intake_idc.selection import literal, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    import duckdb

    from intake_idc.release.database import Database
    from intake_idc.release.tables import Tables

__all__ = ["KEYS", "POSITION", "Derived", "attach", "build", "find"]

LAYOUT = 1
"""Number of the layout of the files; another one is not read."""

SOURCES = ("idc_index", "prior_versions_index")
"""What the files are made from."""

ORDER = ("collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
"""The order of rows, which is that of the published index."""

KEYS = ("SeriesInstanceUID", "crdc_series_uuid")
"""Identifiers that are searched in place."""

POSITION = "__position"
"""Column that has the place of a row in the published order."""

CODES = 120_000
"""Values that a column may take to be held as codes."""

DIGITS = 20
"""Values that a search in place is asked for at once; more are left to a scan."""

logger = logging.getLogger("intake_idc")


@dataclass(frozen=True)
class Derived:
    """The derived files of one set of tables, as SQL and positions."""

    path: Path
    """The database."""
    alias: str
    """Its name where it is attached."""
    columns: dict[str, str]
    """SQL that gives each published column its published value and type."""
    newest: int
    """Newest release."""
    _keys: dict[str, _Key]

    def release_sql(
        self,
        idc_version: int,
        columns: Collection[str] | None = None,
        positions: Sequence[int] | None = None,
    ) -> str:
        """Give the SQL that yields a release's rows, with their `POSITION`.

        ``positions`` are the only rows that can matter to the question.
        """
        kept = [c for c in self.columns if columns is None or c in columns]
        listed = "".join(f"{self.columns[c]} AS {quote(c)}, " for c in kept)
        # A plain column is skipped through by blocks, which an expression is not.
        newest = idc_version == self.newest
        where = "in_newest" if newest else f"(releases >> {idc_version}) & 1 = 1"
        if positions is not None:
            # One is found at once; a list is not, but its bounds are.
            among = f"IN ({', '.join(map(str, positions)) or 'NULL'})"
            low, high = min(positions, default=0), max(positions, default=0)
            where += (
                f" AND rowid = {low}"
                if len(positions) == 1
                else f" AND rowid BETWEEN {low} AND {high} AND rowid {among}"
            )
        return (
            f"SELECT {listed}rowid AS {POSITION} FROM {self.alias}.series WHERE {where}"
        )

    def positions(self, column: str, values: Sequence[str]) -> list[int] | None:
        """Give the rows that may hold one of the values; None where it does not say."""
        key = self._keys.get(column)
        if key is None or len(values) > DIGITS:
            return None
        return sorted({row for value in values for row in key.rows(value)})


class _Key:
    """One identifier's hashes in order, and their rows, in a file mapped to memory."""

    def __init__(self, data: mmap.mmap, start: int, count: int) -> None:
        view = memoryview(data)
        self._hashes = view[start : start + 4 * count].cast("I")
        self._rows = view[start + 4 * count : start + 8 * count].cast("I")

    def rows(self, value: str) -> Iterator[int]:
        """Give the rows whose identifier has the same hash."""
        digest = hashlib.md5(value.encode(), usedforsecurity=False).digest()
        wanted = int.from_bytes(digest[:4], "little")
        at = bisect_left(self._hashes, wanted)
        while at < len(self._hashes) and self._hashes[at] == wanted:
            yield self._rows[at]
            at += 1


def _name(digests: Sequence[str]) -> str:
    import duckdb

    rules = json.dumps([exceptions().published_only], sort_keys=True, default=str)
    made_from = "\n".join([*digests, str(LAYOUT), duckdb.__version__, rules])
    return f"derived/{hashlib.sha256(made_from.encode()).hexdigest()[:32]}"


def find(tables: Tables) -> Path | None:
    """Give the database made from these tables, if there is one.

    Nothing is hashed to find it: a table that has not been hashed has none.
    """
    place = cache.folder()
    if place is None or not (place / "derived").is_dir():
        return None
    digests = [
        cache.sha256(path, known=True)
        for path in map(tables.local, SOURCES)
        if path is not None
    ]
    if not all(digests):
        return None
    name = _name([digest for digest in digests if digest])
    keys = cache.find(f"{name}.keys")
    return cache.find(f"{name}.duckdb") if keys else None


def attach(connection: duckdb.DuckDBPyConnection, path: Path) -> Derived | None:
    """Attach a database made before to a connection; None where it is of no use."""
    import duckdb

    alias = f"derived_{path.stem}"
    try:
        connection.execute(f"ATTACH {literal(path)} AS {alias} (READ_ONLY)")
        found = connection.execute(f"SELECT value FROM {alias}.about").fetchone()
        about = json.loads(found[0]) if found else {}
        with path.with_suffix(".keys").open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (duckdb.Error, OSError, ValueError) as error:
        logger.warning("the derived cache %s is left aside: %s", path, error)
        return None
    count = about["rows"]
    if len(data) != 8 * count * len(about["keys"]):
        logger.warning("the derived cache %s is left aside: its keys are cut", path)
        return None
    keys = {
        name: _Key(data, 8 * count * place, count)
        for place, name in enumerate(about["keys"])
    }
    return Derived(path, alias, about["columns"], about["newest"], keys)


def build(db: Database) -> Path:
    """Make the derived files of a database's tables, and give the database's path.

    Raises
    ------
    RequestError
        There is no cache to write to.
    StorageError
        It cannot be written.
    """
    import duckdb

    if cache.folder() is None:
        msg = "there is no cache: INTAKE_IDC_CACHE is off, or cannot be written to"
        raise RequestError(msg)
    paths = [path for path in map(db.tables.local, SOURCES) if path is not None]
    name = _name([cache.sha256(path) for path in paths])
    try:
        with cache.adding(f"{name}.duckdb") as part:
            with _connection(part) as connection:
                _fill(connection, db)
                keys = _keys(connection, db)
            with cache.adding(f"{name}.keys") as beside:
                beside.write_bytes(keys)
    except (duckdb.Error, OSError) as error:
        msg = f"the derived cache cannot be written: {error}"
        raise StorageError(msg) from error
    built = cache.find(f"{name}.duckdb")
    if built is None:
        msg = "the derived cache does not fit: see INTAKE_IDC_CACHE_SIZE"
        raise StorageError(msg)
    return built


@contextmanager
def _connection(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    connection = duckdb.connect(":memory:")
    try:
        connection.execute(f"ATTACH {literal(path)} AS derived")
        yield connection
        connection.execute("CHECKPOINT derived")
        connection.execute("DETACH derived")
    finally:
        connection.close()
        with suppress(OSError):
            path.with_name(f"{path.name}.wal").unlink()


def _fill(connection: duckdb.DuckDBPyConnection, db: Database) -> None:
    """Write the one table, and what is said about it."""
    columns = db.columns
    stored = {column: quote(column) for column in columns} | {
        "row_source": "row_source"
    }
    given = {column: f"series.{quote(column)}" for column in stored}
    texts = {c: _values_sql(db, c) for c, kind in columns.items() if kind == "VARCHAR"}
    made_of = {"series_aws_url", "aws_bucket", "crdc_series_uuid"}
    if made_of <= set(texts) and _derivable(connection, db):
        del texts["series_aws_url"], stored["series_aws_url"]
        given["series_aws_url"] = _url("series.")
    for column, values in texts.items():
        kind = None
        if column == "crdc_series_uuid" and _canonical(connection, values):
            kind = "UUID"
        elif _repeats(connection, values):
            kind = f"derived.{quote(f'codes of {column}')}"
            known = f"SELECT DISTINCT value FROM ({values}) WHERE value IS NOT NULL"
            connection.execute(f"CREATE TYPE {kind} AS ENUM ({known} ORDER BY 1)")
        if kind is not None:
            stored[column] += f"::{kind}"
            given[column] += "::VARCHAR"
    listed = ", ".join(f"{sql} AS {quote(column)}" for column, sql in stored.items())
    order = ", ".join(quote(column) for column in ORDER if column in columns)
    connection.execute(
        f"CREATE TABLE derived.series AS SELECT {listed}, releases, "
        f"(releases >> {db.newest}) & 1 = 1 AS in_newest "
        f"FROM ({db.every_series_sql()}) ORDER BY {order}, crdc_series_uuid"
    )
    rows = connection.execute("SELECT count(*) FROM derived.series").fetchone()
    about = {
        "layout": LAYOUT,
        "source": db.tables.source,
        "newest": db.newest,
        "columns": given,
        "rows": rows[0] if rows else 0,
        "keys": [key for key in KEYS if key in columns],
    }
    connection.execute(
        f"CREATE TABLE derived.about AS SELECT {literal(json.dumps(about))} AS value"
    )


def _url(prefix: str = "") -> str:
    """Give SQL that makes a series' URL of its bucket and uuid."""
    bucket, uuid = (f"{prefix}{name}" for name in ("aws_bucket", "crdc_series_uuid"))
    return f"'s3://' || {bucket} || '/' || {uuid} || '/*'"


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> object:
    row = connection.execute(sql).fetchone()
    return row[0] if row else None


def _relations(db: Database) -> list[str]:
    """Give SQL of the relations whose rows the table is made of."""
    found = [db.scan(table) for table in SOURCES if db.tables.has(table)]
    if len(found) == len(SOURCES):
        found += [f"({db.forgotten_sql(row)})" for row in exceptions().published_only]
    return found


def _values_sql(db: Database, column: str) -> str:
    """Give SQL of every value of a column, under the name ``value``."""
    return " UNION ALL ".join(
        f"SELECT {quote(column)} AS value FROM {relation}"
        for relation in _relations(db)
        if column in db.described(relation)
    )


def _derivable(connection: duckdb.DuckDBPyConnection, db: Database) -> bool:
    """Say whether every URL is made of bucket and uuid."""
    odd = " UNION ALL ".join(
        f"SELECT 1 FROM {relation} WHERE (series_aws_url = {_url()}) IS NOT TRUE"
        for relation in _relations(db)
    )
    return _one(connection, f"SELECT count(*) FROM ({odd})") == 0


def _canonical(connection: duckdb.DuckDBPyConnection, values: str) -> bool:
    """Say whether every uuid comes back from 16 bytes as it is written."""
    odd = "(TRY_CAST(value AS UUID)::VARCHAR = value) IS NOT TRUE"
    return _one(connection, f"SELECT count(*) FROM ({values}) WHERE {odd}") == 0


def _repeats(connection: duckdb.DuckDBPyConnection, values: str) -> bool:
    """Say whether a column is worth holding as codes."""
    distinct = _one(connection, f"SELECT approx_count_distinct(value) FROM ({values})")
    return isinstance(distinct, int) and 0 < distinct <= CODES


def _keys(connection: duckdb.DuckDBPyConnection, db: Database) -> bytes:
    """Give each identifier's hashes in order, followed by their rows."""
    found = []
    for key in KEYS:
        if key in db.columns:
            low = (
                f"(md5_number({quote(key)}::VARCHAR) & 4294967295::UHUGEINT)::UINTEGER"
            )
            ordered = connection.sql(
                f"SELECT {low} AS hash, rowid::UINTEGER AS row FROM derived.series "
                "ORDER BY 1, 2"
            ).to_arrow_table()
            found += [
                ordered.column(name).combine_chunks().buffers()[1].to_pybytes()
                for name in ("hash", "row")
            ]
    return b"".join(found)
