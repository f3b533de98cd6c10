"""Arrow tables, and files of rows, as Dask data frames with Arrow types."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from intake_idc.lazy.bags import size_in_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.dataframe as dd
    import pandas as pd
    import pyarrow as pa

__all__ = ["Frame", "arrow_frame", "file_frame", "frame"]

Frame: TypeAlias = "dd.DataFrame"
"""A `dask.dataframe.DataFrame`, as rooms name it that do not meet Dask."""


def frame(table: pa.Table, rows: int = 100_000) -> dd.DataFrame:
    """Give an Arrow table as a `dask.dataframe.DataFrame`, Arrow types kept."""
    import dask.dataframe as dd

    data = arrow_frame(table)
    found: dd.DataFrame = dd.from_pandas(
        data, npartitions=max(1, -(-len(data) // rows))
    )
    return found


class Reader(Protocol):
    """Reads files of rows, each on its own; it travels to workers."""

    @property
    def schema(self) -> pa.Schema:
        """Columns that it gives, and their types."""

    def narrowed(self, columns: Sequence[str]) -> Reader:
        """Give the same reader with fewer columns."""

    def rows(self, files: Sequence[Any]) -> pa.Table:
        """Read the rows of some files, in order."""


def file_frame(
    reader: Reader,
    files: Sequence[Any],
    partition_bytes: int | str,
    name: str,
) -> dd.DataFrame:
    """Give files of rows as a data frame with Arrow types; nothing is read.

    Parameters
    ----------
    reader : Reader
        What reads them.
    files : sequence
        Not empty; each has its ``size`` in bytes.
    partition_bytes : int or str
        Bytes of the files of one partition; a larger file has one of its own.
    name : str
        What the tasks are called.
    """
    import dask.dataframe as dd

    room = size_in_bytes(partition_bytes)
    pieces: list[list[Any]] = [[]]
    held = 0
    for file in files:
        if pieces[-1] and held + file.size > room:
            pieces.append([])
            held = 0
        pieces[-1].append(file)
        held += file.size
    meta = arrow_frame(reader.schema.empty_table())
    found: dd.DataFrame = dd.from_map(
        partial(_read_files, reader=reader), pieces, meta=meta, label=name
    )
    return found


def _read_files(
    files: Sequence[Any], *, reader: Reader, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    # Dask gives ``columns`` where only some of them are used later.
    narrowed = reader if columns is None else reader.narrowed(list(columns))
    return arrow_frame(narrowed.rows(files))


def arrow_frame(table: pa.Table) -> pd.DataFrame:
    """Give an Arrow table as a pandas data frame, Arrow types kept."""
    import pandas as pd

    return table.to_pandas(types_mapper=pd.ArrowDtype)
