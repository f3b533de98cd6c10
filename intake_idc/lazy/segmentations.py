"""Segmentations as masks over Dask: one plane where there is a frame, zeros elsewhere.

The headers are read at once, to know where the frames lie; a task reads and decodes
the frames of one block. Nothing is resampled: masks lie on the grid of their own
frames, or by whole voxels on that of a volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from intake_idc import dicom, volume
from intake_idc.errors import EmptySelection, RequestError, nearest
from intake_idc.lazy.extras import need
from intake_idc.lazy.handles import DicomObject
from intake_idc.lazy.labels import POSITION, corners_of, in_plane, of_grid
from intake_idc.lazy.loading import bare
from intake_idc.lazy.mapping import BySeries
from intake_idc.lazy.mask_blocks import mask_array
from intake_idc.lazy.mask_places import FRAME, SLOT, Placed, placed
from intake_idc.storage import each, instances

if TYPE_CHECKING:
    from xarray import DataArray

    from intake_idc.manifest import Manifest
    from intake_idc.storage import Mirror

__all__ = ["Masks", "to_masks"]

SEGMENT_COORDINATES = (
    "label",
    "category",
    "type",
    "category_code",
    "type_code",
    "algorithm",
    "algorithm_name",
    "tracking_id",
    "tracking_uid",
)
"""Coordinates of the axis of segments; fields of `intake_idc.dicom.Segment`."""


def to_masks(
    given: Manifest | DicomObject | Sequence[DicomObject],
    mirror: Mirror | None = None,
    *,
    like: DataArray | volume.Grid | None = None,
    segments: int | str | Iterable[int | str] | None = None,
    combine: bool = False,
    rescale: bool = True,
    idc_version: int | None = None,
) -> DataArray:
    """Give the masks of a segmentation; their pixels are not read before compute.

    Parameters
    ----------
    given : Manifest, DicomObject, or sequence of DicomObject
        One row, or objects. The segments of several objects lie one after another.
    mirror : Mirror
        Where a manifest is read.
    like : xarray.DataArray or volume.Grid, optional
        A volume, as `to_volume` gives it: masks are put on its voxels, cut where it
        ends and zero where they end. Without it they lie on the grid of their own
        frames, from the first to the last that there is.
    segments : int, str, or iterable of these, optional
        SegmentNumber or SegmentLabel of those that are wanted, in this order.
    combine : bool
        Give one volume of segment numbers, 0 where there is none.
    rescale : bool
        Divide fractions by MaximumFractionalValue; else stored values are given.
    idc_version : int, optional
        Release of the objects; a manifest knows its own.

    Returns
    -------
    xarray.DataArray
        ``(segment, slice, row, column)``, or without ``segment`` where they are
        combined. ``bool`` of a binary segmentation and of a label map; ``float32``
        from 0 to 1 of a fractional one, or as it is stored; ``uint8`` or ``uint16``
        where combined. Coordinates of each segment: ``segment`` (number), ``label``,
        ``category``, ``type``, ``category_code``, ``type_code``, ``algorithm``,
        ``algorithm_name``, ``tracking_id``, ``tracking_uid``; of each slice:
        ``source``, the SOPInstanceUID of the image it was derived from.

    Raises
    ------
    GeometryError
        Frames lie on no regular grid, on no whole voxels of `like`, or two of one
        segment at one place; or it is a segmentation of a slide. When computed:
        segments that are combined overlap.
    RequestError
        There is no such segment, or fractions are to be combined.
    DicomReadError
        An object is no segmentation, or a malformed one.
    MissingError
        xarray is not installed.
    """
    xarray = need("xarray", "volumes")
    if isinstance(given, DicomObject):
        given = [given]
    if not isinstance(given, Sequence):
        idc_version = given.idc_version
        given = _listed(given, mirror)
    objects = _objects(given, segments)
    if combine:
        _check_combined(objects)
    found, grid = placed(objects, like)
    data = mask_array(found, grid.shape, combine=combine, rescale=rescale)
    coords = _coordinates(found, grid, like)
    dims: tuple[str, ...] = ("slice", "row", "column")
    if not combine:
        dims = ("segment", *dims)
        coords |= _of_segments(found)
    masks: DataArray = xarray.DataArray(
        data,
        dims=dims,
        coords=coords,
        attrs=_attrs(found, grid, idc_version, combine=combine),
        name="labels" if combine else "masks",
    )
    return masks


def _listed(manifest: Manifest, mirror: Mirror | None) -> list[DicomObject]:
    if len(manifest) != 1:
        msg = (
            f"masks are those of one series; these are {len(manifest)}. masks() gives "
            "those of each, map_series() applies a function to each"
        )
        raise RequestError(msg, series=len(manifest))
    if mirror is None:
        msg = "a manifest is read from a mirror; none was given"
        raise RequestError(msg)
    return [DicomObject(one, mirror) for one in instances(manifest.parts(), mirror)]


def _objects(
    source: Sequence[DicomObject], wanted: int | str | Iterable[int | str] | None
) -> list[Placed]:
    if not source:
        msg = "there is no object to take masks from"
        raise EmptySelection(msg)
    empty = np.zeros((0, 7), np.int64)
    objects = [
        Placed(_bare(found), about, empty, about.segments)
        for found, about in zip(source, each(_read, source), strict=True)
    ]
    if wanted is None:
        return objects
    names: list[Any] = [wanted]
    if isinstance(wanted, Iterable) and not isinstance(wanted, str):
        names = list(wanted)
    if not names:
        msg = "no segment is asked for; leave segments out for all of them"
        raise RequestError(msg)
    return _narrowed(objects, names)


def _bare(found: DicomObject) -> DicomObject:
    """Give the handle without what is known of the other objects of its series."""
    instance = replace(found.instance, part=bare(found.instance.part))
    return replace(found, instance=instance)


def _read(found: DicomObject) -> dicom.Segmentation:
    return dicom.read_segmentation(found.header(), found.url)


def _narrowed(objects: Sequence[Placed], names: Sequence[int | str]) -> list[Placed]:
    """Keep the segments that are asked for, in that order."""
    there = [one for each_of in objects for one in each_of.segments]
    for name in names:
        if not any(name in (one.number, one.label) for one in there):
            told = ", ".join(f"{one.number} {one.label!r}" for one in there[:20])
            near = nearest(name, [one.label for one in there])
            msg = f"no segment is called {name!r}{near}; there are {told}"
            raise RequestError(msg, segment=name)
    kept = []
    for found in objects:
        chosen = {
            one: None
            for name in names
            for one in found.segments
            if name in (one.number, one.label)
        }
        if chosen:
            kept.append(replace(found, segments=tuple(chosen)))
    return kept


def _check_combined(objects: Sequence[Placed]) -> None:
    if any(one.about.kind == "FRACTIONAL" for one in objects):
        msg = (
            "fractions have no label in each voxel: compare the masks with a "
            "threshold, or leave combine out"
        )
        raise RequestError(msg)
    numbers = [one.number for found in objects for one in found.segments]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        msg = (
            f"{len(objects)} objects have segments with the numbers {twice}; combine "
            "one object at a time"
        )
        raise RequestError(msg)


# What is said beside the values.


def _attrs(
    objects: Sequence[Placed],
    grid: volume.Grid,
    idc_version: int | None,
    *,
    combine: bool,
) -> dict[str, Any]:
    """Say which series it is, and where it lies."""
    about = objects[0].about
    attrs: dict[str, Any] = {
        "SeriesInstanceUID": about.series_uid,
        "StudyInstanceUID": about.study_uid,
        "PatientID": about.patient_id,
        "Modality": "SEG",
        "crdc_series_uuid": objects[0].found.crdc_series_uuid,
        "SOPInstanceUID": [one.about.uid for one in objects],
        "crdc_instance_uuid": [one.found.crdc_instance_uuid for one in objects],
        "FrameOfReferenceUID": about.frame_of_reference,
        "SegmentationType": about.kind,
        **of_grid(grid),
    }
    if idc_version is not None:
        attrs["idc_version"] = idc_version
    if about.kind == "FRACTIONAL":
        attrs["SegmentationFractionalType"] = about.meaning
    if combine:
        segments = [one for found in objects for one in found.segments]
        attrs["segment_numbers"] = [one.number for one in segments]
        attrs["segment_labels"] = [one.label for one in segments]
    return attrs


def _coordinates(
    objects: Sequence[Placed],
    grid: volume.Grid,
    like: DataArray | volume.Grid | None,
) -> dict[str, Any]:
    """Give places in mm: the volume's own where there is one, so that both align."""
    found: dict[str, Any]
    if like is None or isinstance(like, volume.Grid):
        steps = np.arange(grid.shape[0])
        corners = grid.to_mm(np.stack([steps, steps * 0, steps * 0], 1))
        found = in_plane(grid.shape[1:], grid.spacing[1:])
        found["slice"] = ("slice", corners @ grid.normal, {"units": "mm"})
        found |= corners_of(("slice",), corners)
    else:
        kept = ("slice", "row", "column", *POSITION, "SOPInstanceUID")
        found = {name: like.coords[name] for name in kept if name in like.coords}
        found = {
            name: coord.isel(
                {dim: 0 for dim in coord.dims if dim not in kept}, drop=True
            )
            for name, coord in found.items()
        }
        found = {name: coord.reset_coords(drop=True) for name, coord in found.items()}
    found["source"] = ("slice", _sources(objects, grid.shape[0]))
    return found


def _of_segments(objects: Sequence[Placed]) -> dict[str, Any]:
    """Label the axis of segments."""
    segments = [one for found in objects for one in found.segments]
    found: dict[str, Any] = {"segment": [one.number for one in segments]}
    for name in SEGMENT_COORDINATES:
        found[name] = ("segment", [getattr(one, name) for one in segments])
    return found


def _sources(objects: Sequence[Placed], slices: int) -> list[str]:
    """Give the image that each slice was derived from; empty where it is not one."""
    found: list[set[str]] = [set() for _ in range(slices)]
    for one in objects:
        for frame, slot in one.frames[:, [FRAME, SLOT]].tolist():
            found[slot].add(one.about.sources[frame])
    return [next(iter(uids)) if len(uids) == 1 else "" for uids in found]


# Of many series.


@dataclass(frozen=True, eq=False, repr=False)
class Masks(BySeries["DataArray"]):
    """Masks by SeriesInstanceUID, in order, each made when it is asked for."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `to_masks`."""

    def _made(self, uid: str, manifest: Manifest) -> DataArray:  # noqa: ARG002
        return to_masks(manifest, self.mirror, **self.options)
