"""The source of an exported table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake.source.base import Schema

from intake_idc.drivers.pinned import Pinned, Version, lasting_mirror
from intake_idc.export.tables import Export, open_export

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

__all__ = ["IDCExport"]


class IDCExport(Pinned):
    """Driver ``idc_export``: a table of the Parquet export of a release, as a frame.

    Parameters
    ----------
    table : str
        Name of the table, such as ``dicom_all``.
    idc_version : int or "current"
        The release.
    columns : list of str, optional
        Columns to keep.
    where : str or dict, optional
        One SQL condition, or columns and what they may be; see `Export.query`.
    mirror, endpoint_url, storage_options
        Where the export lies; see `open_export`.
    clinical : bool
        Look in the dataset of clinical tables.
    """

    name = "idc_export"
    container = "dataframe"
    partition_access = True

    def __init__(
        self,
        table: str = "dicom_all",
        idc_version: Version = "current",
        *,
        columns: list[str] | None = None,
        where: str | Mapping[str, Any] | None = None,
        mirror: str | None = None,
        endpoint_url: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        clinical: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(metadata=dict(metadata or {}))
        reading = {"endpoint_url": endpoint_url, "storage_options": storage_options}
        if mirror is not None:
            mirror = lasting_mirror(mirror, **reading)
            self._captured_init_kwargs["mirror"] = mirror
        self.export: Export = open_export(
            idc_version,
            table,
            mirror=mirror,
            endpoint_url=endpoint_url,
            storage_options=storage_options,
            clinical=clinical,
        )
        """The export itself, free of Intake."""
        self.idc_version = self.export.idc_version
        self._columns, self._where = columns, where
        self._pin(table=table, idc_version=self.idc_version)

    def __repr__(self) -> str:
        return f"<{type(self).name}: {self.export!r}>"

    def _get_schema(self) -> Schema:
        """Describe the table by the list of its files and one footer."""
        frame = self.to_dask()
        return Schema(
            dtype={name: str(kind) for name, kind in frame.dtypes.items()},
            shape=(None, len(frame.columns)),
            npartitions=frame.npartitions,
            extra_metadata={"idc_version": self.idc_version},
        )

    def to_dask(self) -> Any:
        """Give the table as a `dask.dataframe.DataFrame`; see `Export.to_dask`."""
        return self.export.to_dask(self._columns, self._where)

    def read(self) -> pd.DataFrame:
        """Read the table as a pandas data frame.

        Raises
        ------
        RequestError
            Neither columns nor a condition are among the arguments.
        """
        if self._where is None:
            return self.export.table(self._columns).to_pandas()
        return self.export.query(self._where, self._columns).to_pandas()

    def read_partition(self, i: int) -> pd.DataFrame:
        """Read one partition of `to_dask`."""
        frame = self.to_dask()
        if not 0 <= i < frame.npartitions:
            msg = f"partition {i} of {frame.npartitions}"
            raise IndexError(msg)
        return frame.partitions[i].compute()
