"""Tables as Arrow holds them: Parquet, Arrow and Feather files, frames at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake_idc.errors import ManifestError
from intake_idc.formats import Listing
from intake_idc.formats.columns import WOULD_DO, Column, known, named
from intake_idc.formats.gathering import LONGEST_CELL, Gatherer, assembled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow as pa

    from intake_idc.formats.source import Bytes

__all__ = ["read_arrow", "read_parquet", "read_table"]

LARGEST = 4 << 30
"""Bytes of a file that is read whole."""
LARGEST_NAMES = 4 << 30
"""Bytes that the names in a table may come to."""
LARGEST_COLUMNS = 16 << 30
"""Bytes that the naming columns of a Parquet file may unpack to, by its footer."""
MOST_ROWS = 200_000_000
"""Rows of a table: three times all instances of IDC."""
TOGETHER = 50_000
"""Rows that are taken together."""


def read_parquet(source: Bytes) -> Listing:
    """Read a Parquet file; rows are numbered from 1.

    Raises
    ------
    ManifestError
        It is damaged, too large, or no column of it names anything.
    StorageError
        It cannot be read.
    """
    import pyarrow as pa

    data = source.read(LARGEST)

    def batches() -> Iterable[pa.RecordBatch]:
        from pyarrow import parquet

        file = parquet.ParquetFile(pa.BufferReader(data))
        schema = file.schema_arrow
        columns = _columns(source.name, schema)
        names = [schema.names[column.at] for column in columns]
        _check_footer(source.name, file.metadata, set(names))
        of_texts = [name for name in names if _is_text(schema.field(name).type)]
        packed = parquet.ParquetFile(pa.BufferReader(data), read_dictionary=of_texts)
        only = list(dict.fromkeys(names))
        for group in range(file.num_row_groups):
            # All of a group's dictionary comes with its first row. A long value in it
            # must not be written out for each row; to keep all rows as they are
            # packed costs six times the time.
            first = next(packed.iter_batches(1, [group], only), None)
            if first is not None:
                chosen = packed if _has_long_values(first) else file
                yield from chosen.iter_batches(TOGETHER, [group], only)

    return _read(source.name, "parquet", batches)


def read_arrow(source: Bytes) -> Listing:
    """Read an Arrow file or stream, or a Feather file of version 2.

    Raises
    ------
    ManifestError
        It is damaged, too large, or no column of it names anything.
    StorageError
        It cannot be read.
    """
    import pyarrow as pa

    data = source.read(LARGEST)
    if data.startswith(b"FEA1"):
        msg = f"{source.name} is a Feather file of version 1; save it as Parquet"
        raise ManifestError(msg, name=source.name)

    def batches() -> Iterable[pa.RecordBatch]:
        from pyarrow import ipc

        stream = not data.startswith(b"ARROW1")
        opened = ipc.open_stream if stream else ipc.open_file
        schema = opened(pa.BufferReader(data)).schema
        columns = _columns(source.name, schema)
        only = sorted({column.at for column in columns})
        options = ipc.IpcReadOptions(included_fields=only)
        with opened(pa.BufferReader(data), options=options) as reader:
            if stream:
                found: Iterable[pa.RecordBatch] = reader
            else:
                count = reader.num_record_batches
                found = (reader.get_batch(index) for index in range(count))
            for batch in found:
                # Offsets of a hostile file lead anywhere.
                batch.validate(full=True)
                for start in range(0, batch.num_rows, TOGETHER):
                    yield batch.slice(start, TOGETHER)

    return _read(source.name, "arrow", batches)


def read_table(table: Any, name: str = "the table") -> Listing:
    """Read a table at hand; rows are numbered from 1.

    Parameters
    ----------
    table : pyarrow.Table, pandas.DataFrame, or what gives Arrow's C stream
        Its columns are named as in a file.
    name : str
        What errors call it.

    Raises
    ------
    ManifestError
        No column names anything.
    """
    import pyarrow as pa

    if not isinstance(table, pa.Table):
        table = _arrow_of(table, name)

    def batches() -> Iterable[pa.RecordBatch]:
        columns = _columns(name, table.schema)
        chosen = table.select(sorted({column.at for column in columns}))
        yield from chosen.to_batches(max_chunksize=TOGETHER)

    return _read(name, "table", batches)


def _arrow_of(frame: Any, name: str) -> pa.Table:
    """Give a frame as an Arrow table; a named index is a column too."""
    import pyarrow as pa

    if hasattr(frame, "to_frame") and not hasattr(frame, "columns"):
        frame = frame.to_frame()
    try:
        if hasattr(frame, "iloc"):
            index = [level for level in frame.index.names if level is not None]
            frame = frame.reset_index(level=index) if index else frame
            naming = {column.at for column in known([*map(str, frame.columns)])}
            # Columns of mixed types, which Arrow refuses, are mostly those of no use.
            frame = frame.iloc[:, sorted(naming)] if naming else frame.iloc[:0]
            frame = frame.rename(columns=str)
            made = [_column_of(frame.iloc[:, at]) for at in range(frame.shape[1])]
            return pa.table(made, names=[*frame.columns])
        return pa.table(frame)
    except (TypeError, ValueError, pa.ArrowException) as error:
        msg = f"{name} is no table that Arrow can hold: {str(error)[:200]}"
        raise ManifestError(msg, name=name) from error


def _column_of(series: Any) -> pa.Array:
    import pyarrow as pa

    try:
        found = pa.Array.from_pandas(series)
    except (TypeError, ValueError, pa.ArrowException):
        known_cells = series.notna()
        found = pa.Array.from_pandas(series.astype(str).where(known_cells, None))
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _columns(name: str, schema: pa.Schema) -> list[Column]:
    columns = known(schema.names)
    if not named(columns):
        got = ", ".join(map(repr, schema.names[:12])) or "no columns"
        msg = (
            f"{name}: no column names a thing of IDC; got {got}; what would do: "
            f"{WOULD_DO}"
        )
        raise ManifestError(msg, name=name, columns=tuple(schema.names))
    return columns


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_footer(name: str, metadata: Any, columns: set[str]) -> None:
    """Refuse a file that unpacks to far more than it holds, before it does."""
    size = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(row_group.num_columns):
            column = row_group.column(index)
            if column.path_in_schema.split(".", 1)[0] in columns:
                size += column.total_uncompressed_size
    if metadata.num_rows > MOST_ROWS or size > LARGEST_COLUMNS:
        msg = (
            f"{name} has {metadata.num_rows:,} rows, whose names come to {size:,} "
            f"bytes; at most {MOST_ROWS:,} rows and {LARGEST_COLUMNS:,} bytes are read"
        )
        raise ManifestError(msg, name=name)


def _read(
    name: str, kind: str, batches: Callable[[], Iterable[pa.RecordBatch]]
) -> Listing:
    import pyarrow as pa

    try:
        return _gathered(name, kind, batches)
    except ManifestError:
        raise
    except (
        pa.ArrowException,
        ArithmeticError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # What Arrow raises over damaged bytes is any of these.
        msg = f"{name} cannot be read as {kind}: {str(error)[:200] or repr(error)}"
        raise ManifestError(msg, name=name) from error


def _gathered(
    name: str, kind: str, batches: Callable[[], Iterable[pa.RecordBatch]]
) -> Listing:
    import numpy as np

    gatherer: Gatherer | None = None
    rows = size = 0
    for batch in batches():
        columns = known(batch.schema.names)
        if gatherer is None:
            gatherer = Gatherer(columns)
        cells = [_texts(batch.column(column.at)) for column in columns]
        lines = np.arange(rows + 1, rows + batch.num_rows + 1, dtype=np.int64)
        before = len(gatherer.tables)
        gatherer.add(cells, lines, _Shown(columns, cells))
        rows += batch.num_rows
        size += sum(table.nbytes for table in gatherer.tables[before:])
        if rows > MOST_ROWS or size > LARGEST_NAMES:
            msg = f"{name} has more than {rows:,} rows, or {size:,} bytes of names"
            raise ManifestError(msg, name=name)
    names, problems = assembled([] if gatherer is None else [gatherer])

    def reread(wanted: Sequence[int]) -> dict[int, str]:
        return _rows_again(batches(), wanted)

    return Listing(kind, names, problems, (), reread)


class _Shown:
    """Gives a row as text, by its position."""

    def __init__(self, columns: Sequence[Column], cells: Sequence[pa.Array]) -> None:
        self._columns = columns
        self._cells = cells

    def __call__(self, at: int) -> str:
        return ", ".join(
            f"{column.header}={(cells[at].as_py() or '')[:80]}"
            for column, cells in zip(self._columns, self._cells, strict=True)
        )


def _rows_again(
    batches: Iterable[pa.RecordBatch], wanted: Sequence[int]
) -> dict[int, str]:
    left = sorted(set(wanted), reverse=True)
    found: dict[int, str] = {}
    rows = 0
    for batch in batches:
        if left and left[-1] <= rows + batch.num_rows:
            columns = known(batch.schema.names)
            cells = [_texts(batch.column(column.at)) for column in columns]
            shown = _Shown(columns, cells)
            while left and left[-1] <= rows + batch.num_rows:
                line = left.pop()
                found[line] = shown(line - rows - 1)[:200]
        rows += batch.num_rows
        if not left:
            break
    return found


def _texts(array: pa.Array) -> pa.Array:
    """Give a column as strings; what no text can be made of is null or said so."""
    import pyarrow as pa

    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        array, kind = array.storage, array.storage.type
    if pa.types.is_dictionary(kind):
        values = _texts(array.dictionary)
        return _shortened(values).take(array.indices)
    if _is_text(kind):
        return array
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16:  # noqa: PLR2004
        from intake_idc.arrow import unpack_uuids

        return unpack_uuids(array)
    if pa.types.is_null(kind):
        from intake_idc.arrow import texts

        return texts([None] * len(array))
    if pa.types.is_nested(kind):
        from intake_idc.arrow import texts
        from intake_idc.formats.structured import _cell

        return texts([_cell(value) for value in array.to_pylist()])
    return array.cast(pa.string())


def _shortened(values: pa.Array) -> pa.Array:
    """Cut values that are too long, before each use of them is written out."""
    from intake_idc.arrow import texts

    if not _is_long(values):
        return values
    return texts([value and value[: LONGEST_CELL + 1] for value in values.to_pylist()])


def _is_long(values: pa.Array) -> bool:
    import pyarrow.compute as pc

    return bool((pc.max(pc.binary_length(values)).as_py() or 0) > LONGEST_CELL)


def _has_long_values(batch: pa.RecordBatch) -> bool:
    import pyarrow as pa

    return any(
        _is_text(column.type.value_type) and _is_long(column.dictionary)
        for column in batch.columns
        if pa.types.is_dictionary(column.type)
    )
