"""One Parquet file in a store: its footer, and of its columns only what is asked for.

A file is read by ranges: the footer from its end, then the column chunks that are
needed, those that lie close together at once. Nothing here knows what the rows mean.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc.errors import IntegrityError, WrongSize
from intake_idc.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    import pyarrow as pa
    from pyarrow import parquet as pq

    from intake_idc.storage import Mirror

__all__ = [
    "Bounds",
    "ExportFile",
    "Footer",
    "columns_size",
    "read_columns",
    "read_footer",
]

FIRST_TAIL = 64 << 10
"""Bytes that are read from the end of a file whose footer's length is not known."""
GAP = 64 << 10
"""Bytes between two column chunks up to which one request reads both."""
LONGEST_FOOTER = 64 << 20
"""Bytes up to which a footer is read; the widest of IDC takes 570 kB."""
HELD_FOOTERS = 32 << 20
"""Bytes of footers that a process holds, so that a file's is read once."""
PADDING = 128
"""Bytes after a column chunk that an old writer's files make a reader look at."""
MAGIC = b"PAR1"


@dataclass(frozen=True)
class ExportFile:
    """One Parquet file, as a mirror lists it."""

    key: str
    """Key below the root of the mirror."""
    size: int
    """Bytes."""
    url: str
    """Full URL or path."""
    etag: str | None = None
    """What changes when the file does; None where the store does not tell."""

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return self.key.rsplit("/", 1)[-1]


class Bounds(NamedTuple):
    """What a footer says of one column in one row group."""

    low: Any
    """No value is less; None where that is not known."""
    high: Any
    """No value is greater; None where that is not known."""
    nulls: int | None
    """Number of nulls, where it is known."""
    rows: int
    """Number of rows."""


@dataclass(frozen=True)
class Footer:
    """The end of a Parquet file, parsed."""

    metadata: pq.FileMetaData
    """What pyarrow makes of it."""
    length: int
    """Bytes that it takes, its frame included."""
    schema: pa.Schema
    """The columns and their Arrow types, without remarks of the writer."""

    def bounds(self, names: Collection[str]) -> dict[str, list[Bounds | None]]:
        """Give what is known of plain columns, by name and for each row group.

        Names are compared without regard to case. A column that has parts, or whose
        bounds do not order as DuckDB does (floating point: NaN), is left out.
        """
        wanted = {name.lower(): name for name in names}
        places = {}
        for i in range(self.metadata.num_columns):
            column = self.metadata.schema.column(i)
            if column.path == column.name and column.name.lower() in wanted:
                places[wanted[column.name.lower()]] = i
        found: dict[str, list[Bounds | None]] = {name: [] for name in places}
        for group in range(self.metadata.num_row_groups):
            row_group = self.metadata.row_group(group)
            for name, place in places.items():
                found[name].append(_bounds(row_group.column(place), row_group.num_rows))
        return found


def _bounds(chunk: pq.ColumnChunkMetaData, rows: int) -> Bounds | None:
    statistics = chunk.statistics
    if statistics is None:
        return None
    nulls = statistics.null_count if statistics.has_null_count else None
    low = high = None
    if statistics.has_min_max:
        try:
            low, high = statistics.min, statistics.max
        except (ValueError, OverflowError, NotImplementedError):
            # A text that was cut within a character, a date beyond Python's, or a
            # decimal that older pyarrow does not unpack.
            low = high = None
        plain = {type(low), type(high)}
        if plain not in ({str}, {int}, {dt.date}):
            low = high = None
    return Bounds(low, high, nulls, rows)


class _Held:
    """Ends of files, as many as fit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tails: OrderedDict[object, bytes] = OrderedDict()
        self._size = 0

    def get(self, key: object) -> bytes | None:
        with self._lock:
            tail = self._tails.get(key)
            if tail is not None:
                self._tails.move_to_end(key)
            return tail

    def put(self, key: object, tail: bytes) -> None:
        with self._lock:
            if key in self._tails or len(tail) > HELD_FOOTERS // 8:
                return
            self._tails[key] = tail
            self._size += len(tail)
            while self._size > HELD_FOOTERS:
                self._size -= len(self._tails.popitem(last=False)[1])


_HELD = _Held()


def _after_fork() -> None:
    """Begin anew: a thread that did not come along into the child may have the lock."""
    global _HELD  # noqa: PLW0603
    _HELD = _Held()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def read_footer(
    file: ExportFile, mirror: Mirror, bucket: str, tail: int = FIRST_TAIL
) -> Footer:
    """Read the end of a Parquet file.

    Parameters
    ----------
    file : ExportFile
        The file.
    mirror : Mirror
        Where it lies.
    bucket : str
        The bucket, where the mirror has several.
    tail : int
        Bytes that the footer probably takes; one that is longer costs a second
        request.

    Raises
    ------
    IntegrityError
        The file is no Parquet file, or not a whole one.
    StorageError
        It cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    key = file.url, file.size, file.etag, mirror.endpoint_url
    data = _HELD.get(key)
    if data is None:
        data = _tail(file, mirror, bucket, tail)
        if file.etag is not None:
            _HELD.put(key, data)
    try:
        metadata = pq.read_metadata(pa.BufferReader(data))
        schema = metadata.schema.to_arrow_schema().remove_metadata()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(file, f"its footer cannot be read: {error}") from error
    return Footer(metadata, len(data), schema)


def _tail(file: ExportFile, mirror: Mirror, bucket: str, guess: int) -> bytes:
    if file.size < 2 * len(MAGIC) + 4:
        raise _damaged(file, f"it has {file.size} bytes")
    store = open_store(mirror, bucket)
    data = _range(store, file, max(0, file.size - guess), file.size)
    if data[-4:] != MAGIC:
        head = data if len(data) == file.size else _range(store, file, 0, 64)
        if head[:4] == MAGIC:
            raise _damaged(file, "its end is missing")
        raise _damaged(file, f"it begins with {head.lstrip()[:20]!r}")
    length = int.from_bytes(data[-8:-4], "little") + 8
    if length > min(file.size, LONGEST_FOOTER):
        raise _damaged(file, f"its footer would take {length} bytes")
    if length > len(data):
        data = _range(store, file, file.size - length, file.size)
    return data[-length:]


def _range(store: Any, file: ExportFile, start: int, stop: int) -> bytes:
    data: bytes = store.read(file.key, start, stop, file.etag)
    if len(data) != stop - start:
        msg = f"{file.url}: got {len(data)} bytes from {start} to {stop} of {file.size}"
        raise WrongSize(msg, url=file.url, got=len(data), expected=stop - start)
    return data


def _damaged(file: ExportFile, reason: str) -> IntegrityError:
    msg = (
        f"{file.url} is not a whole Parquet file of {file.size} bytes: {reason}; "
        "look at what the mirror holds there"
    )
    return IntegrityError(msg, url=file.url, size=file.size)


def read_columns(
    file: ExportFile,
    mirror: Mirror,
    bucket: str,
    footer: Footer,
    groups: Sequence[int],
    names: Collection[str],
) -> pa.Table:
    """Read columns of some row groups, and no byte of the others but small gaps.

    Names are compared without regard to case; what comes has the file's spelling.

    Raises
    ------
    IntegrityError
        What lies there does not decode.
    StorageError
        The file cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    wanted = {name.lower() for name in names}
    schema = footer.schema
    columns = [name for name in schema.names if name.lower() in wanted]
    store = open_store(mirror, bucket)
    pieces = {
        start: _range(store, file, start, stop)
        for start, stop in _merged(_chunks(footer.metadata, groups, set(columns), file))
    }
    source = pa.PythonFile(_Pieces(pieces, file.size), mode="r")
    try:
        opened = pq.ParquetFile(source, metadata=footer.metadata)
        return opened.read_row_groups(
            list(groups), columns=columns, use_threads=False
        ).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _damaged(file, f"its data do not decode: {error}") from error


def columns_size(
    file: ExportFile, footer: Footer, groups: Sequence[int], names: Collection[str]
) -> int:
    """Give the bytes that columns of some row groups take in a file."""
    wanted = {name.lower() for name in names}
    columns = {n for n in footer.schema.names if n.lower() in wanted}
    return sum(b - a for a, b in _chunks(footer.metadata, groups, columns, file))


def _chunks(
    metadata: pq.FileMetaData,
    groups: Iterable[int],
    columns: Collection[str],
    file: ExportFile,
) -> Iterator[tuple[int, int]]:
    """Give where the chunks of these columns lie."""
    places = [
        i
        for i in range(metadata.num_columns)
        if metadata.schema.column(i).path.split(".", 1)[0] in columns
    ]
    for group in groups:
        row_group = metadata.row_group(group)
        for place in places:
            chunk = row_group.column(place)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            stop = start + chunk.total_compressed_size
            if not 0 <= start < stop <= file.size:
                raise _damaged(file, f"a column would lie at {start} to {stop}")
            yield start, min(stop + PADDING, file.size)


def _merged(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Put ranges together that lie close to each other."""
    first = last = None
    for start, stop in sorted(ranges):
        if first is not None and last is not None and start - last <= GAP:
            last = max(last, stop)
            continue
        if first is not None and last is not None:
            yield first, last
        first, last = start, stop
    if first is not None and last is not None:
        yield first, last


class _Pieces:
    """A file of which only some ranges are at hand, as pyarrow reads one."""

    def __init__(self, pieces: dict[int, bytes], size: int) -> None:
        self._pieces = sorted(pieces.items())
        self._size = size
        self._at = 0
        self.closed = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, count: int = -1) -> memoryview:
        stop = self._size if count < 0 else min(self._at + count, self._size)
        for start, data in self._pieces:
            if start <= self._at and stop <= start + len(data):
                found = memoryview(data)[self._at - start : stop - start]
                self._at = stop
                return found
        msg = f"bytes {self._at} to {stop} were not expected to be needed"
        raise EOFError(msg)

    def close(self) -> None:
        self.closed = True
        self._pieces = []

    def flush(self) -> None:
        """Do nothing: nothing is written."""
