"""The series of instances, by a table at hand: no network, and no index of all objects.

Lists that name single instances do not always say of which series they are. A table of
objects does: a file from `Cohort.save_instances`, the rows of ``dicom_all``, or, for
slides, the index table `sm_instance_index`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from intake_idc.arrow import integers, pack_uuids
from intake_idc.errors import IntegrityError, MissingError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

__all__ = ["series_of_instances"]

Name = Literal["crdc_instance_uuid", "SOPInstanceUID"]

_SERIES = ("crdc_series_uuid", "SeriesInstanceUID")


def series_of_instances(
    source: str | os.PathLike[str] | pa.Table,
    names: pa.Array,
    by: Name = "crdc_instance_uuid",
) -> pa.Table:
    """Find the series of instances in a table of objects.

    Parameters
    ----------
    source : path or pyarrow.Table
        A Parquet or CSV file, or a table, with the column ``by``, and
        ``crdc_series_uuid`` or ``SeriesInstanceUID`` or both; upper and lower case of
        their names do not matter. Parquet is read piece by piece.
    names : pyarrow.Array
        Packed ``crdc_instance_uuid`` (fixed_size_binary(16)), or texts where ``by`` is
        ``"SOPInstanceUID"``. Null is found nowhere.
    by : "crdc_instance_uuid" or "SOPInstanceUID"
        What the names are.

    Returns
    -------
    pyarrow.Table
        ``position`` (int64, from 0, in ``names``), and what the table has of
        ``crdc_series_uuid`` and ``crdc_instance_uuid`` (16 bytes each) and
        ``SeriesInstanceUID``. In the order of ``names``; what is not in the table has
        no row. An instance that several series hold, as a series and its revision do,
        has a row for each.

    Raises
    ------
    RequestError
        The table lacks a column, or it or the names are of another kind.
    MissingError
        There is no such file.
    IntegrityError
        The file is no table, or a uuid in it is none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.binary(16) if by == "crdc_instance_uuid" else pa.string()
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    if names.type != kind:
        msg = f"names by {by} are of type {kind}; got {names.type}"
        raise RequestError(msg, by=by)
    wanted = pc.unique(names.drop_null())
    pieces = []
    for piece in _pieces(source, by):
        # Texts are compared as they are; packing is for those that are found.
        table = piece.filter(_among(piece.column(by), wanted))
        if table.num_rows:
            pieces.append(_packed(table))
    if not pieces:
        empty = next(_pieces(source, by)).slice(0, 0)
        return _joined(_packed(empty), names, by)
    return _joined(_distinct(pa.concat_tables(pieces).combine_chunks()), names, by)


def _among(column: pa.ChunkedArray, wanted: pa.Array) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if wanted.type == pa.string():
        return pc.is_in(column, value_set=wanted)
    chunks = [
        pc.is_in(pack_uuids(c)[0], value_set=wanted, skip_nulls=True)
        for c in column.chunks
    ]
    return pa.chunked_array(chunks, pa.bool_())


def _packed(table: pa.Table) -> pa.Table:
    """Give a table whose uuids are packed, in one piece."""
    table = table.combine_chunks()
    for at, name in enumerate(table.column_names):
        if name.endswith("_uuid"):
            column = table.column(name).combine_chunks()
            values, good = pack_uuids(column)
            if not (good | column.is_null().to_numpy(zero_copy_only=False)).all():
                first = column.to_pylist()[good.tolist().index(False)]
                msg = f"{name} of a table of objects holds {first!r}, which is no uuid"
                raise IntegrityError(msg, column=name, value=first)
            table = table.set_column(at, name, values)
    return table


def _distinct(table: pa.Table) -> pa.Table:
    """Give each row once."""
    return table.group_by(table.column_names, use_threads=False).aggregate([])


def _joined(found: pa.Table, names: pa.Array, by: str) -> pa.Table:
    """Give the rows of each name, in the order of the names."""
    import numpy as np
    import pyarrow.compute as pc

    own = found.column(by).combine_chunks()
    known = pc.unique(own)
    # Which of the known each row, and each name, is.
    of_rows = pc.index_in(own, value_set=known).to_numpy()
    of_names = pc.index_in(names, value_set=known).fill_null(-1).to_numpy()
    order = np.argsort(of_rows, kind="stable")
    starts = np.searchsorted(of_rows[order], of_names, "left")
    counts = np.searchsorted(of_rows[order], of_names, "right") - starts
    positions = np.repeat(np.arange(len(names)), counts)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(starts, counts) + np.arange(len(positions)) - before
    table = found.take(order[places])
    if by == "SOPInstanceUID":
        table = table.drop_columns([by])
    return table.add_column(0, "position", integers(positions.tolist()))


# Reading.


def _pieces(source: str | os.PathLike[str] | pa.Table, by: Name) -> Iterator[pa.Table]:
    """Give the columns that count, as texts, piece by piece; at least one piece."""
    import pyarrow as pa

    if isinstance(source, pa.Table):
        yield _columns(source, by)
        return
    if not isinstance(source, str | os.PathLike):
        msg = f"expected a path or an Arrow table; got {type(source).__name__}"
        raise RequestError(msg)
    path = Path(source).expanduser()
    if not path.is_file():
        msg = f"there is no file {path}"
        raise MissingError(msg, path=str(path))
    try:
        if path.suffix.lower() == ".csv":
            yield _columns(_csv(path, by), by)
        else:
            from pyarrow import parquet

            with parquet.ParquetFile(path) as file:
                kept = _spelled(file.schema_arrow.names, by)
                yield _columns(file.schema_arrow.empty_table(), by)
                for batch in file.iter_batches(1 << 20, columns=list(kept.values())):
                    yield _columns(pa.Table.from_batches([batch]), by)
    except (pa.ArrowException, OSError) as error:
        msg = f"{path} cannot be read as a table: {error}"
        raise IntegrityError(msg, path=str(path)) from error


def _csv(path: Path, by: Name) -> pa.Table:
    import csv as plain

    import pyarrow as pa
    from pyarrow import csv

    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            header = next(plain.reader(file), [])
        except plain.Error as error:
            msg = f"{path} cannot be read as a table: {error}"
            raise IntegrityError(msg, path=str(path)) from error
    kept = list(_spelled(header, by).values())
    # What looks like a number is a text all the same.
    texts = csv.ConvertOptions(
        column_types=dict.fromkeys(kept, pa.string()), include_columns=kept
    )
    return csv.read_csv(path, convert_options=texts)


def _columns(table: pa.Table, by: Name) -> pa.Table:
    """Give the columns that count, under one spelling and as texts."""
    import pyarrow as pa

    kept = _spelled(table.column_names, by)
    schema = pa.schema([(name, pa.string()) for name in kept])
    try:
        return table.select(list(kept.values())).rename_columns(list(kept)).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        # A name that is there twice is a KeyError.
        msg = f"{', '.join(kept)} of a table of objects do not all hold texts: {error}"
        raise RequestError(msg) from error


def _spelled(columns: list[str], by: Name) -> dict[str, str]:
    """Give the columns that count, and how the table spells them."""
    there = {name.lower(): name for name in columns}
    counting = (*_SERIES, "crdc_instance_uuid", by)
    kept = {n: there[n.lower()] for n in counting if n.lower() in there}
    lacking: list[str] = [by] if by not in kept else []
    if not set(_SERIES) & set(kept):
        lacking.append(" or ".join(_SERIES))
    if lacking:
        msg = (
            f"a table of objects needs the column {' and '.join(lacking)} to find "
            f"series by {by}; got {', '.join(columns) or 'no column'}"
        )
        raise RequestError(msg, column=lacking[0])
    return kept
