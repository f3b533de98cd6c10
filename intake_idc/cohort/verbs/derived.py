"""What was derived from images: masks of segmentations, contours of structure sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from xarray import DataArray

    from intake_idc.lazy import Masks, OnError
    from intake_idc.lazy.tables import Frame
    from intake_idc.storage import Mirror
    from intake_idc.volume import Grid

__all__ = ["Derived"]


class Derived(Base):
    """The verbs that read derived objects."""

    def to_masks(
        self,
        *,
        like: DataArray | Grid | None = None,
        segments: int | str | Iterable[int | str] | None = None,
        combine: bool = False,
        rescale: bool = True,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> DataArray:
        """Give the masks of the one series of segmentations of the cohort.

        >>> from intake_idc import open_idc
        >>> masks = open_idc(2, tables="sample").search(Modality="SEG").to_masks()
        >>> masks.dims, masks.shape, masks.dtype
        (('segment', 'slice', 'row', 'column'), (1, 3, 16, 16), dtype('bool'))

        Headers are read now, pixels when they are asked for.

        Parameters
        ----------
        like : xarray.DataArray or Grid, optional
            A volume, of `to_volume`: masks are put on its voxels, whole voxel by whole
            voxel. Without it they lie on the grid of their own frames.
        segments : int, str, or iterable of these, optional
            SegmentNumber or SegmentLabel of those that are wanted, in this order.
        combine : bool
            Give one volume of segment numbers, 0 where there is none.
        rescale : bool
            Give fractions from 0 to 1 instead of stored values.
        mirror : optional
            Where the objects are read; see `resolve_mirror`.

        Returns
        -------
        xarray.DataArray
            ``(segment, slice, row, column)``; see `intake_idc.lazy.to_masks`.

        Raises
        ------
        RequestError
            The cohort has not exactly one series (`masks` gives those of each), there
            is no such segment, or fractions are to be combined.
        GeometryError
            Frames lie on no regular grid, or on no whole voxels of `like`; it is a
            segmentation of a slide; or, when computed, segments that are combined
            overlap.
        DicomReadError
            An object is no segmentation, or a malformed one.
        MissingError
            xarray is not installed.
        """
        from intake_idc import lazy

        return lazy.to_masks(
            self._located(),
            self._mirror(mirror),
            like=like,
            segments=segments,
            combine=combine,
            rescale=rescale,
        )

    def masks(
        self,
        *,
        like: DataArray | Grid | None = None,
        segments: int | str | Iterable[int | str] | None = None,
        combine: bool = False,
        rescale: bool = True,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Masks:
        """Give a mapping from SeriesInstanceUID to masks, in the order of `keys`.

        Those of a series are made when they are asked for; nothing is read before.

        >>> from intake_idc import open_idc
        >>> masks = open_idc(2, tables="sample").search(Modality="SEG").masks()
        >>> [found.label.values.tolist() for found in masks.values()]
        [['first segment']]

        Parameters and errors are those of `to_masks`.
        """
        from intake_idc import lazy

        options = {
            "like": like,
            "segments": segments,
            "combine": combine,
            "rescale": rescale,
        }
        return lazy.Masks(self._located(), self._mirror(mirror), options)

    def contours(
        self,
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_bytes: int | str | None = None,
        partition_instances: int | None = None,
        on_error: OnError = "raise",
    ) -> Frame:
        """Give a Dask data frame with a row for each contour of structure sets.

        Nothing is read before compute. Columns, with Arrow types: ``crdc_series_uuid``,
        ``crdc_instance_uuid``, ``SOPInstanceUID``, ``ROINumber``, ``ROIName``,
        ``RTROIInterpretedType``, ``contour`` (from 0, in its region),
        ``ContourGeometricType``, ``NumberOfContourPoints``, ``points`` (x, y, z, x, ...
        in mm, LPS), ``ReferencedSOPInstanceUID``, ``FrameOfReferenceUID``,
        ``ROIDisplayColor``.

        Parameters
        ----------
        mirror, partition_bytes, partition_instances : optional
            As in `to_dask`.
        on_error : "raise" or "skip"
            An object that cannot be read, or is no structure set, ends the
            computation, or is left out with a line in the log. To have failures as a
            table, use ``map_objects(intake_idc.lazy.contour_table,
            on_error="collect")``.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        RequestError
            A bound is not one, or failures are to be collected.
        """
        from intake_idc import lazy

        return lazy.contours(
            self._located(),
            self._mirror(mirror),
            partition_bytes=partition_bytes,
            partition_instances=partition_instances,
            on_error=on_error,
        )
