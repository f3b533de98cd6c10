"""Where the frames of segmentations go: on their own grid, or on that of a volume."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from intake_idc import volume
from intake_idc.errors import GeometryError
from intake_idc.lazy.labels import POSITION, grid_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from xarray import DataArray

    from intake_idc import dicom
    from intake_idc.lazy.handles import DicomObject

__all__ = [
    "COLUMN",
    "COLUMNS_DOWN",
    "FRAME",
    "ROW",
    "ROWS_DOWN",
    "SEGMENT",
    "SLOT",
    "Placed",
    "placed",
]

FRAME, SEGMENT, SLOT, ROW, COLUMN, ROWS_DOWN, COLUMNS_DOWN = range(7)
"""Columns of the table of frames: number, segment number (0 in a label map), slice,
first row and column, and whether rows and columns count down."""


@dataclass(frozen=True)
class Placed:
    """A segmentation, and where its frames go."""

    found: DicomObject
    about: dicom.Segmentation
    frames: npt.NDArray[np.int64]
    """See `FRAME`."""
    segments: tuple[dicom.Segment, ...]
    """Those that are asked for."""


def placed(
    objects: Sequence[Placed], like: DataArray | volume.Grid | None
) -> tuple[list[Placed], volume.Grid]:
    """Give each frame its voxels, and the grid that they are of.

    Raises
    ------
    GeometryError
        Frames lie on no regular grid, on no whole voxels of `like`, or two of one
        segment at one place.
    """
    wanted = [_wanted(one) for one in objects]
    if like is not None:
        grid, corners, frame_of_reference = _like(like)
        tables = []
        for one, slices in zip(objects, wanted, strict=True):
            _check_reference(one, frame_of_reference)
            tables.append(_on(one, slices, grid, corners))
    else:
        grid, tables = _own(objects, wanted)
    found = [
        replace(one, frames=table) for one, table in zip(objects, tables, strict=True)
    ]
    for one in found:
        _check_single(one)
    return found, grid


def _wanted(one: Placed) -> list[volume.Slice]:
    """Give the frames of the segments that are asked for."""
    if one.about.kind == "LABELMAP":
        return list(one.about.slices)
    numbers = {segment.number for segment in one.segments}
    return [frame for frame in one.about.slices if frame.segment in numbers]


def _own(
    objects: Sequence[Placed], wanted: Sequence[Sequence[volume.Slice]]
) -> tuple[volume.Grid, list[npt.NDArray[np.int64]]]:
    """Place frames on the grid that all frames of the objects lie on.

    It does not depend on which segments are asked for.
    """
    # One bit or eight: they lie no other way.
    every = [
        replace(frame, bits_allocated=None)
        for one in objects
        for frame in one.about.slices
    ]
    if not every:
        reason = "there are no frames, which would say where the masks lie"
        msg = f"{objects[0].found.url}: {reason}; give a volume with like="
        raise GeometryError(msg, reasons=(reason,), url=objects[0].found.url)
    spacings = {one.about.spacing for one in objects}
    try:
        grid, slots = volume.lattice(every, min(spacings, key=lambda s: s or math.inf))
    except GeometryError as error:
        msg = (
            f"{objects[0].found.url}: {error.message}; give the volume that it is of "
            "with like="
        )
        raise GeometryError(msg, url=objects[0].found.url, **error.details) from error
    tables, first = [], 0
    for one, slices in zip(objects, wanted, strict=True):
        own = slots[first : first + len(one.about.slices)]
        first += len(one.about.slices)
        table = np.zeros((len(slices), 7), np.int64)
        table[:, FRAME] = [frame.frame for frame in slices]
        table[:, SEGMENT] = [frame.segment or 0 for frame in slices]
        table[:, SLOT] = own[table[:, FRAME]]
        tables.append(table)
    return grid, tables


def _like(
    like: DataArray | volume.Grid,
) -> tuple[volume.Grid, npt.NDArray[np.float64] | None, str]:
    """Take grid, corners of slices and frame of reference of a volume."""
    if isinstance(like, volume.Grid):
        return like, None, ""
    grid = grid_of(like)
    places = [like[name] for name in POSITION]
    firsts = [
        one.isel({dim: 0 for dim in one.dims if dim != "slice"}) for one in places
    ]
    corners = np.stack([np.asarray(one.values, np.float64) for one in firsts], -1)
    # Rows and columns may have been cut off since.
    corners += grid.origin - corners[0]
    return grid, corners, str(like.attrs.get("FrameOfReferenceUID") or "")


def _check_reference(one: Placed, frame_of_reference: str) -> None:
    own = one.about.frame_of_reference
    if own and frame_of_reference and own != frame_of_reference:
        reason = (
            f"FrameOfReferenceUID is {own}, that of the volume {frame_of_reference}"
        )
        msg = f"{one.found.url}: {reason}: positions cannot be compared"
        raise GeometryError(msg, reasons=(reason,), url=one.found.url)


def _on(
    one: Placed,
    slices: Sequence[volume.Slice],
    grid: volume.Grid,
    corners: npt.NDArray[np.float64] | None,
) -> npt.NDArray[np.int64]:
    """Place frames on the voxels of a volume; those that lie beside it are left out."""
    if not slices:
        return np.zeros((0, 7), np.int64)
    try:
        at = volume.place(slices, grid.affine, corners)
    except GeometryError as error:
        msg = (
            f"{one.found.url}: {error.message}: the masks lie on no whole voxels of "
            "the volume, and nothing is resampled; without like= they lie on their own "
            "grid"
        )
        raise GeometryError(msg, url=one.found.url, **error.details) from error
    rows, columns = one.about.rows, one.about.columns
    # The corner that has the least row and column.
    first_row = at.rows - np.where(at.rows_down, rows - 1, 0)
    first_column = at.columns - np.where(at.columns_down, columns - 1, 0)
    table = np.stack(
        [
            np.array([frame.frame for frame in slices]),
            np.array([frame.segment or 0 for frame in slices]),
            at.slots,
            first_row,
            first_column,
            at.rows_down,
            at.columns_down,
        ],
        axis=1,
    ).astype(np.int64)
    inside = (at.slots >= 0) & (at.slots < grid.shape[0])
    for first, length, size in (
        (first_row, rows, grid.shape[1]),
        (first_column, columns, grid.shape[2]),
    ):
        inside &= (first < size) & (first + length > 0)
    if not inside.any():
        reason = (
            "no frame lies in the volume: slices "
            f"{at.slots.min()} to {at.slots.max()}, rows from {first_row.min()}, "
            f"columns from {first_column.min()}, of "
            f"{grid.shape[0]} x {grid.shape[1]} x {grid.shape[2]}"
        )
        msg = f"{one.found.url}: {reason}"
        raise GeometryError(msg, reasons=(reason,), url=one.found.url)
    return table[inside]


def _check_single(one: Placed) -> None:
    """Refuse two frames of one segment at one place."""
    places = one.frames[:, [SEGMENT, SLOT, ROW, COLUMN]]
    _, first, counts = np.unique(
        places[:, :2], axis=0, return_index=True, return_counts=True
    )
    if counts.size and counts.max() > 1:
        segment, slot = places[first[np.argmax(counts)], :2]
        numbers = one.frames[(places[:, :2] == (segment, slot)).all(axis=1), FRAME]
        what = f"of segment {segment} " if segment else ""
        reason = f"frames {numbers.tolist()} {what}lie at the same place"
        msg = f"{one.found.url}: {reason}; read its pixels frame by frame"
        raise GeometryError(
            msg, verdict="duplicate", reasons=(reason,), url=one.found.url
        )
