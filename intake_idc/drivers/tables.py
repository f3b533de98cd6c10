"""The source of an index table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake.source.base import Schema

from intake_idc.drivers.pinned import Pinned, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

__all__ = ["IDCTable"]


class IDCTable(Pinned):
    """Driver ``idc_table``: one index table of a release, as a data frame.

    Parameters
    ----------
    table : str
        Name of the table, such as ``idc_index`` or ``collections_index``.
    idc_version : int or "current"
        The release. ``idc_index`` is that of the release; the other tables are
        those of the source.
    tables, digest
        Where the index tables are; see `open_release`.
    columns : list of str, optional
        Columns to keep.
    """

    name = "idc_table"
    container = "dataframe"
    partition_access = True

    def __init__(
        self,
        table: str = "idc_index",
        idc_version: Version = "current",
        *,
        tables: str | None = None,
        digest: str | Mapping[str, str] | None = None,
        columns: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(metadata=dict(metadata or {}))
        self.release = self._pin_release(idc_version, tables, digest)
        self.table_name, self._columns = table, columns
        self._pin(table=table)

    @property
    def table(self) -> Any:
        """The table, as a `pyarrow.Table`."""
        return self.release.index_table(self.table_name, self._columns)

    def _get_schema(self) -> Schema:
        """Describe the table: column types and shape."""
        table = self.table
        return Schema(
            dtype={field.name: str(field.type) for field in table.schema},
            shape=table.shape,
            npartitions=1,
            extra_metadata={"idc_version": self.idc_version},
        )

    def read(self) -> pd.DataFrame:
        """Read the table as a pandas data frame."""
        return self.table.to_pandas()

    def read_partition(self, i: int) -> pd.DataFrame:
        """Read the table, which is one partition."""
        if i != 0:
            msg = f"partition {i} of 1"
            raise IndexError(msg)
        return self.read()

    def to_dask(self) -> Any:
        """Give the table as a `dask.dataframe.DataFrame`."""
        from intake_idc import lazy

        return lazy.frame(self.table)
