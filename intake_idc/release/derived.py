"""The derived cache: every series of every release, laid out to be asked quickly.

The index as published is one row group, which a question reads whole columns of.
From it, and from prior_versions_index, two files are made:

- an Arrow file with one table, in the published order: each series that any release
  held, with what `Database.release_sql` says of it, texts that repeat as codes, and
  a bit for each release that holds it;
- beside it, for each identifier, the checksums (CRC-32) of its values in order, and
  where their rows are.

Both are mapped to memory: a question touches what it needs, and processes share it.
Conditions on columns are answered from the codes; SQL is asked of DuckDB, over the
same table. The files are keyed by the SHA-256 of the tables that they were made from,
made beside and renamed; what cannot be used is left aside. They change no answer,
only the time that it takes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import mmap
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake_idc import cache
from intake_idc.arrow import texts
from intake_idc.errors import RequestError, StorageError
from intake_idc.release.facts import exceptions
from intake_idc.selection import quote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from intake_idc.release.database import Database
    from intake_idc.release.tables import Tables
    from intake_idc.selection import Resolved

__all__ = ["KEYS", "POSITION", "Derived", "attach", "build", "find"]

LAYOUT = 2
"""Number of the layout of the files; another one is not read."""

SOURCES = ("idc_index", "prior_versions_index", "version_metadata_index")
"""What the files are made from; the last may say which release is the newest."""

ORDER = ("collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
"""The order of rows, which is that of the published index."""

KEYS = ("SeriesInstanceUID", "crdc_series_uuid")
"""Identifiers that have an index of their own."""

POSITION = "__position"
"""Column that has the place of a row in the published order."""

RELEASES, IN_NEWEST = "__releases", "__in_newest"
"""Columns that say which releases hold a row: a bit for each, and the newest."""

CODES = 200_000
"""Different texts that a column may hold to be held as codes."""

TOGETHER = 4
"""Columns that are laid out at once: more take less time, and more memory."""

URL = "series_aws_url"
"""Column that is left out where it can be made of two others."""

_OF_URL = ("aws_bucket", "crdc_series_uuid")
_URL_SQL = "'s3://' || aws_bucket || '/' || crdc_series_uuid || '/*'"

_PIECE = 1 << 16
"""Identifiers that are hashed at once."""

_ABOUT = b"intake_idc"

logger = logging.getLogger("intake_idc")


@dataclass(frozen=True, eq=False)
class Derived:
    """The derived files of one set of tables."""

    path: Path
    """The Arrow file."""
    alias: str
    """Name of the table in SQL."""
    table: pa.Table
    """The table; reading it touches the file."""
    columns: dict[str, str]
    """Published columns, and their DuckDB types."""
    newest: int
    """Newest release."""
    _keys: dict[str, _Key]

    # For SQL.

    def release_sql(
        self, idc_version: int, columns: Collection[str] | None = None
    ) -> str:
        """Give the SQL that yields a release's rows, with their `POSITION`."""
        kept = [c for c in self.columns if columns is None or c in columns]
        given = {c: quote(c) for c in (*kept, POSITION)}
        if URL in kept and URL not in self.table.schema.names:
            given[URL] = f"{_URL_SQL} AS {URL}"
        listed = ", ".join(given.values())
        where = (
            IN_NEWEST
            if idc_version == self.newest
            else f"({RELEASES} >> {idc_version}) & 1 = 1"
        )
        return f"SELECT {listed} FROM {self.alias} WHERE {where}"

    # For conditions on columns.

    def select(
        self, idc_version: int, conditions: Sequence[Resolved], columns: Sequence[str]
    ) -> pa.Table | None:
        """Give columns of a release's rows that fulfil conditions, in their order.

        None where a condition is of a kind that is left to SQL.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if not all(map(self._simple, conditions)):
            return None
        read = dict.fromkeys([*columns, *(_OF_URL if URL in columns else ())])
        held = [column for column in read if column in self.table.schema.names]
        touched = [*held, *(c.column for c in conditions), RELEASES, IN_NEWEST]
        table = self.table.select(list(dict.fromkeys(touched)))
        pieces, rest = self._narrowed(table, conditions)
        found = [table.select(held)[:0]]
        for piece in pieces:
            mask = self._held(idc_version, piece)
            for condition in rest:
                mask = pc.and_(mask, _fulfilled(condition, piece[condition.column]))
            found.append(piece.select(held).filter(mask))
        chosen = pa.concat_tables(found)
        plain = {c: _decoded(chosen[c]) for c in held if c in columns}
        if URL in columns and URL not in plain:
            plain[URL] = _urls(*(_decoded(chosen[c]) for c in _OF_URL))
        return pa.table({column: plain[column] for column in columns})

    def _simple(self, condition: Resolved) -> bool:
        kind = self.columns.get(condition.column, "")
        if condition.column not in self.table.schema.names:
            return False
        return all(_comparable(value, kind) for value in condition.values)

    def _narrowed(
        self, table: pa.Table, conditions: Sequence[Resolved]
    ) -> tuple[list[pa.Table], list[Resolved]]:
        """Give parts of the table that can matter, and what is yet to be asked of them.

        An identifier leaves few rows; a collection is one run of rows.
        """
        if any(not condition.values and not condition.null for condition in conditions):
            return [], []
        for condition in conditions:
            if condition.column in self._keys and not condition.null:
                rows = self._keys[condition.column].rows(map(str, condition.values))
                return [table.take(rows)], list(conditions)
        for condition in conditions:
            if condition.column == ORDER[0] and not condition.null and self._in_runs:
                named = {*map(str, condition.values)}
                runs = [run for name, run in self._runs.items() if name in named]
                parts = [table[start:stop] for start, stop in runs]
                return parts, [other for other in conditions if other is not condition]
        return [table], list(conditions)

    @cached_property
    def _in_runs(self) -> bool:
        """Whether the collections are codes that rise row by row, as `ORDER` has it."""
        import pyarrow as pa

        column = self.table[ORDER[0]]
        return bool(pa.types.is_dictionary(column.type)) and not column.null_count

    @cached_property
    def _runs(self) -> dict[str, tuple[int, int]]:
        """Where the rows of each collection begin and end."""
        if not self.table.num_rows:
            return {}
        column = self.table[ORDER[0]].chunk(0)
        codes = column.indices.to_numpy()
        names = column.dictionary.to_pylist()
        stops = codes.searchsorted(range(len(names)), "right").tolist()
        return dict(zip(names, itertools.pairwise([0, *stops]), strict=True))

    def _held(self, idc_version: int, piece: pa.Table) -> pa.ChunkedArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        if idc_version == self.newest:
            return piece[IN_NEWEST]
        bit = pa.scalar(1 << idc_version, pa.uint64())
        return pc.not_equal(
            pc.bit_wise_and(piece[RELEASES], bit), pa.scalar(0, pa.uint64())
        )


class _Key:
    """One identifier's hashes in order, and their rows, mapped to memory."""

    def __init__(self, data: mmap.mmap, start: int, count: int) -> None:
        import numpy as np

        self._hashes = np.frombuffer(data, np.uint32, count, start)
        self._rows = np.frombuffer(data, np.uint32, count, start + 4 * count)

    def rows(self, values: Iterable[str]) -> Any:
        """Give the rows that may hold one of the values, in order."""
        import numpy as np

        wanted = np.fromiter(map(_hash, values), np.uint32)
        first = np.searchsorted(self._hashes, wanted, "left")
        last = np.searchsorted(self._hashes, wanted, "right")
        # Nearly always one row, or none; two names may have one hash.
        most = int((last - first).max(initial=0))
        places = [first[last > first + more] + more for more in range(max(1, most))]
        return np.unique(self._rows[np.concatenate(places)]).astype(np.int64)


def _hash(value: str) -> int:
    return zlib.crc32(value.encode())


def _comparable(value: object, kind: str) -> bool:
    """Say whether Arrow finds a value in a column as SQL does.

    It tells 0.0 from -0.0, and refuses numbers that the column cannot hold.
    """
    match value:
        case str():
            return kind == "VARCHAR"
        case bool():
            return False
        case int():
            most = {"BIGINT": 1 << 63, "DOUBLE": 1 << 53}.get(kind, 0)
            return -most <= value < most and not (kind == "DOUBLE" and value == 0)
        case float():
            return kind == "DOUBLE" and math.isfinite(value) and value != 0
    return False


def _fulfilled(condition: Resolved, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Say of each value whether it fulfils a condition; never null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not condition.values:
        return pc.is_null(column)
    wanted: list[Any] = list(condition.values)
    if pa.types.is_dictionary(column.type):
        chunks = [_coded_mask(chunk, wanted) for chunk in column.chunks]
        mask = pa.chunked_array(chunks, pa.bool_())
    else:
        known = texts(wanted) if isinstance(wanted[0], str) else pa.array(wanted)
        mask = pc.is_in(column, value_set=known.cast(column.type))
    return pc.or_(mask, pc.is_null(column)) if condition.null else mask


def _coded_mask(chunk: pa.DictionaryArray, wanted: Sequence[str]) -> pa.BooleanArray:
    """Say of each code whether its text is wanted; null is not.

    By a table of all codes, which takes a fifth of the time that `pyarrow` looks codes
    up in a list of them.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    known = len(chunk.dictionary)
    found = pc.index_in(texts(wanted), chunk.dictionary).drop_null()
    is_wanted = np.zeros(known + 1, bool)
    is_wanted[found.to_numpy()] = True
    # The null comes last. Not filled as it is: 8 bits may not hold one code more.
    codes = chunk.indices
    if codes.null_count:
        codes = codes.cast(pa.int32()).fill_null(known)
    bits = np.packbits(is_wanted[codes.to_numpy()], bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(chunk), [None, pa.py_buffer(bits)])


def _urls(buckets: pa.ChunkedArray, uuids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Make the URL of each series of its bucket and uuid."""
    import pyarrow.compute as pc

    return pc.binary_join_element_wise("s3:/", buckets, uuids, "*", "/")


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give texts for codes."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return column
    chunks = [chunk.dictionary_decode() for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.string())


# The files.


def _name(newest: int | None, digests: Sequence[str]) -> str:
    """Name the files by what they are made from: tables, layout, rules."""
    known = exceptions()
    lacking = [
        [group.collection_id, sorted(group.versions), group.uuids]
        for group in known.rebuilt_only
    ]
    rules = json.dumps([known.published_only, lacking], sort_keys=True, default=str)
    made_from = "\n".join([*digests, str(newest), str(LAYOUT), rules])
    return f"derived/{hashlib.sha256(made_from.encode()).hexdigest()[:32]}"


def find(tables: Tables) -> Path | None:
    """Give the file made from these tables, if there is one.

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
    name = _name(tables.newest, [digest for digest in digests if digest])
    keys = cache.find(f"{name}.keys")
    return cache.find(f"{name}.arrow") if keys else None


def attach(path: Path) -> Derived | None:
    """Map files that were made before to memory; None where they are of no use."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        about = _about(table)
        with path.with_suffix(".keys").open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = table.num_rows
        keys = {
            name: _Key(data, 8 * count * place, count)
            for place, name in enumerate(about["keys"])
        }
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        logger.warning("the derived cache %s is left aside: %s", path, error)
        return None
    alias = f"derived_{path.stem}"
    return Derived(path, alias, table, about["columns"], about["newest"], keys)


def _about(table: pa.Table) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((table.schema.metadata or {})[_ABOUT])
    return found


def build(db: Database) -> Path:
    """Make the derived files of a database's tables, and give the path of the first.

    Raises
    ------
    RequestError
        There is no cache to write to.
    StorageError
        It cannot be written.
    """
    import pyarrow as pa

    if cache.folder() is None:
        msg = "there is no cache: INTAKE_IDC_CACHE is off, or cannot be written to"
        raise RequestError(msg)
    paths = [path for path in map(db.tables.local, SOURCES) if path is not None]
    name = _name(db.tables.newest, [cache.sha256(path) for path in paths])
    table = _laid_out(db)
    try:
        with cache.adding(f"{name}.arrow") as part:
            with (
                pa.OSFile(str(part), "wb") as file,
                pa.ipc.new_file(file, table.schema) as writer,
            ):
                writer.write_table(table, max_chunksize=max(1, table.num_rows))
            with cache.adding(f"{name}.keys") as beside, beside.open("wb") as file:
                for key in _hashed(table, _about(table)["keys"]):
                    file.write(key)
    except OSError as error:
        msg = f"the derived cache cannot be written: {error}"
        raise StorageError(msg) from error
    built = cache.find(f"{name}.arrow")
    if built is None or cache.find(f"{name}.keys") is None:
        msg = "the derived cache does not fit: see INTAKE_IDC_CACHE_SIZE"
        raise StorageError(msg)
    return built


def _laid_out(db: Database) -> pa.Table:
    """Give the one table: columns in the published order, texts as codes."""
    import pyarrow as pa

    columns = {**db.columns, "row_source": "VARCHAR"}
    # Columns are read a few at a time: rows that tie must come in one order, too.
    ties = ["crdc_series_uuid", "row_source"]
    order = ", ".join(quote(c) for c in (*ORDER, *ties) if c in columns)
    bits = f"(releases >> {db.newest}) & 1 = 1 AS {IN_NEWEST}"
    spelt = {RELEASES: f"releases::UBIGINT AS {RELEASES}, {bits}"}
    found: dict[str, pa.Array] = {}
    for names in _batches([*columns, RELEASES]):
        listed = ", ".join(spelt.get(name, quote(name)) for name in names)
        every = db.every_series_sql([name for name in names if name != RELEASES])
        some = db.arrow(f"SELECT {listed} FROM ({every}) ORDER BY {order}, releases")
        for name in some.schema.names:
            found[name] = _coded(some[name].combine_chunks(), name)
    if len({len(column) for column in found.values()}) > 1:
        msg = f"{db.tables.source} holds a series several times: it is not laid out"
        raise StorageError(msg, source=db.tables.source)
    if {URL, *_OF_URL} <= set(found) and _derivable(found):
        del found[URL]
    rows = len(next(iter(found.values()), ()))
    found[POSITION] = pa.array(range(rows), pa.int32())
    about = {
        "source": db.tables.source,
        "newest": db.newest,
        "columns": columns,
        "keys": [key for key in KEYS if key in found and _is_key(found[key])],
    }
    table = pa.table(found)
    return table.replace_schema_metadata({_ABOUT: json.dumps(about)})


def _derivable(found: Mapping[str, pa.Array]) -> bool:
    """Say whether every URL is made of bucket and uuid."""
    import pyarrow as pa
    import pyarrow.compute as pc

    given, *parts = (_decoded(pa.chunked_array([found[c]])) for c in (URL, *_OF_URL))
    return pc.all(pc.equal(given, _urls(*parts)), skip_nulls=False).as_py() is True


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), TOGETHER):
        yield names[start : start + TOGETHER]


def _coded(column: pa.Array, name: str) -> pa.Array:
    """Give codes for texts that repeat, and for the first in the order, always."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(column.type) or name in KEYS:
        return column
    kinds = {1 << 7: pa.int8(), 1 << 15: pa.int16(), CODES: pa.int32()}
    if name != ORDER[0] and pc.count_distinct(column).as_py() > CODES:
        return column
    coded = column.dictionary_encode()
    kind = next(k for most, k in kinds.items() if len(coded.dictionary) <= most)
    return pa.DictionaryArray.from_arrays(coded.indices.cast(kind), coded.dictionary)


def _is_key(column: pa.Array) -> bool:
    """Say whether every value is a text, as identifiers of published tables are."""
    import pyarrow as pa

    return bool(pa.types.is_string(column.type)) and column.null_count == 0


def _hashed(table: pa.Table, keys: Sequence[str]) -> Iterator[bytes]:
    """Give each identifier's hashes in order, followed by their rows."""
    import numpy as np

    rows = table.num_rows
    for key in keys:
        # A piece at a time: a million texts of Python are 100 MB.
        pieces = (table[key][at : at + _PIECE] for at in range(0, rows, _PIECE))
        names = (name for piece in pieces for name in piece.to_pylist())
        hashes = np.fromiter(map(_hash, names), np.uint32, rows)
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        yield hashes[order].tobytes()
        yield order.tobytes()
