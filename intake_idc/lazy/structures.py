"""Structure sets: their contours as a Dask data frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from intake_idc import dicom
from intake_idc.errors import RequestError
from intake_idc.lazy.bags import (
    PARTITION_BYTES,
    PARTITIONS,
    PIXEL_INSTANCES,
    size_in_bytes,
)
from intake_idc.lazy.failures import check_on_error
from intake_idc.lazy.tables import arrow_frame
from intake_idc.lazy.tasks import ReadObjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.dataframe as dd
    import pandas as pd
    import pyarrow as pa

    from intake_idc.lazy.failures import OnError
    from intake_idc.lazy.handles import DicomObject
    from intake_idc.manifest import Manifest, Piece
    from intake_idc.storage import Mirror

__all__ = ["contour_table", "contours"]


def contours(
    manifest: Manifest,
    mirror: Mirror,
    *,
    partition_bytes: int | str | None = None,
    partition_instances: int | None = None,
    on_error: OnError = "raise",
) -> dd.DataFrame:
    """Give a data frame with a row for each contour, in order; nothing is read.

    Parameters
    ----------
    manifest : Manifest
        Series of structure sets.
    mirror : Mirror
        Where they are read.
    partition_bytes, partition_instances : optional
        What a partition may hold: 128 MiB and 512 objects.
    on_error : "raise" or "skip"
        What becomes of an object that cannot be read. To have failures as a table,
        apply `contour_table` by `map_objects`.

    Returns
    -------
    dask.dataframe.DataFrame
        With Arrow types; columns as `contour_table` has them.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    RequestError
        A bound is not one, or failures are to be collected.
    """
    import dask.dataframe as dd

    check_on_error(on_error)
    if on_error == "collect":
        msg = (
            "a data frame has no place for failures: map_objects(contour_table, "
            "on_error='collect') gives tables and failures"
        )
        raise RequestError(msg)
    bounds = partition_bytes, partition_instances
    pieces = manifest.pieces(
        size_in_bytes(PARTITION_BYTES if partition_bytes is None else partition_bytes),
        PIXEL_INSTANCES if partition_instances is None else partition_instances,
        most=PARTITIONS if bounds == (None, None) else None,
    )
    read = _ReadContours(ReadObjects(mirror, contour_table, on_error))
    meta = arrow_frame(_schema().empty_table())
    found: dd.DataFrame = dd.from_map(read, list(pieces), meta=meta, label="contours")
    return found


@dataclass(frozen=True)
class _ReadContours:
    """A task: the contours of the objects of a piece."""

    read: ReadObjects

    def __call__(
        self, piece: Piece, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        import pyarrow as pa

        tables: Any = self.read(piece)
        table = pa.concat_tables([_schema().empty_table(), *tables])
        return arrow_frame(table if columns is None else table.select(list(columns)))


def contour_table(found: DicomObject) -> pa.Table:
    """Read the contours of one structure set.

    Returns
    -------
    pyarrow.Table
        A row for each contour, in the order of the object: crdc_series_uuid,
        crdc_instance_uuid, SOPInstanceUID, ROINumber, ROIName, RTROIInterpretedType,
        contour (from 0, in its region), ContourGeometricType, NumberOfContourPoints,
        points (x, y, z, x, ... in mm, LPS: a list of doubles),
        ReferencedSOPInstanceUID, FrameOfReferenceUID, ROIDisplayColor (red, green,
        blue). See `intake_idc.dicom.contour_rows`.

    Raises
    ------
    DicomReadError
        It is no structure set, or a malformed one.
    StorageError
        It cannot be read.
    """
    import pyarrow as pa

    rows = dicom.contour_rows(found.dataset(), found.url)
    schema = _schema()
    own = {
        "crdc_series_uuid": [found.crdc_series_uuid] * len(rows),
        "crdc_instance_uuid": [found.crdc_instance_uuid] * len(rows),
    }
    columns = {
        **own,
        **{name: [r[name] for r in rows] for name in dicom.CONTOUR_COLUMNS},
    }
    return pa.table(
        [pa.array(columns[field.name], field.type) for field in schema], schema=schema
    )


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {
        "ROINumber": pa.int32(),
        "contour": pa.int32(),
        "NumberOfContourPoints": pa.int32(),
        "points": pa.list_(pa.float64()),
        "ROIDisplayColor": pa.list_(pa.int32()),
    }
    names = ("crdc_series_uuid", "crdc_instance_uuid", *dicom.CONTOUR_COLUMNS)
    return pa.schema({name: types.get(name, pa.string()) for name in names})
