"""Planes of which many may be missing: the grid they lie on, and another's voxels.

A segmentation has frames only where there is something in them. `lattice` finds the
grid of such planes, `place` puts them on the grid of the images that were segmented,
by whole voxels. Nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intake_idc.errors import GeometryError
from intake_idc.volume.grid import Grid, matrix_of, normal_of
from intake_idc.volume.slices import Slice
from intake_idc.volume.stacks import (
    IN_PLANE_MM,
    ORIENTATION,
    SPACING,
    UNIFORM,
    alike,
    bins,
    tolerance,
)

PLANES = 2**16
"""Planes that a grid may have: a distance that is said wrongly could make it as large
as one likes."""
WHOLE = 1e-3
"""How far from a whole voxel a frame may lie, in voxels."""


@dataclass(frozen=True)
class Placement:
    """Where frames lie among the voxels of a volume; all arrays by frame."""

    slots: NDArray[np.intp]
    """Which slice; may lie outside, as the others."""
    rows: NDArray[np.intp]
    """Which row holds the first row of the frame."""
    columns: NDArray[np.intp]
    """Which column holds its first column."""
    rows_down: NDArray[np.bool_]
    """Whether its rows count down where those of the volume count up."""
    columns_down: NDArray[np.bool_]
    """The same of its columns."""


def lattice(
    slices: Sequence[Slice], spacing: float | None = None
) -> tuple[Grid, NDArray[np.intp]]:
    """Find the regular grid that planes lie on, however many of it are missing.

    Parameters
    ----------
    slices : sequence of Slice
        Not empty; several may lie at one place.
    spacing : float, optional
        SpacingBetweenSlices, mm. Where the distances are whole multiples of it, it is
        the step; else the least of the distances is, where the others are multiples
        of that.

    Returns
    -------
    tuple of Grid and numpy.ndarray
        From the first to the last plane that is there, ascending along the normal;
        and the slice of the grid that each of `slices` lies at. Of a single plane,
        the step is `spacing`, else SliceThickness, else 1 mm.

    Raises
    ------
    GeometryError
        A frame has no place; frames differ in size, direction or spacing; distances
        are no multiples of one step; or frames lie on no straight line.
    """
    _check_places(slices)
    parts = alike(slices)
    if len(parts) > 1:
        raise _refused(
            f"frames of {len(parts)} sizes, directions, spacings or frames of reference"
        )
    first = slices[0]
    corners = np.array([one.position for one in slices], np.float64)
    normal = normal_of(first.orientation or ())
    along = corners @ normal
    labels = bins(along, tolerance(along))
    ends = int(np.argmin(along)), int(np.argmax(along))
    means = np.bincount(labels, weights=along) / np.bincount(labels)
    steps = _steps(means, spacing)
    many = int(steps[-1])
    step = (corners[ends[1]] - corners[ends[0]]) / many if many else None
    if step is None:
        step = normal * _above_zero(spacing, first.thickness)
    aside = corners - corners[ends[0]] - np.outer(steps[labels], step)
    aside -= np.outer(aside @ normal, normal)
    farthest = float(np.linalg.norm(aside, axis=1).max())
    if farthest > IN_PLANE_MM:
        raise _refused(
            f"frames lie up to {farthest:.3g} mm in plane from a straight line"
        )
    matrix = matrix_of(
        corners[ends[0]], step, first.orientation or (), first.pixel_spacing or ()
    )
    shape = many + 1, first.rows or 0, first.columns or 0
    return Grid(shape, matrix), steps[labels]


def _check_places(slices: Sequence[Slice]) -> None:
    lacking = sum(
        None in (one.position, one.orientation, one.pixel_spacing, one.rows)
        for one in slices
    )
    if lacking or not slices:
        raise _refused(
            f"{lacking} of {len(slices)} frames lack ImagePositionPatient, "
            "ImageOrientationPatient, PixelSpacing or Rows"
        )


def _above_zero(*candidates: float | None) -> float:
    return next((size for size in candidates if size and size > 0), 1.0)


def _steps(means: NDArray[np.float64], spacing: float | None) -> NDArray[np.intp]:
    """Give the number of steps of each place from the first."""
    gaps = np.diff(means)
    if not gaps.size:
        return np.zeros(1, np.intp)
    candidates = [size for size in (spacing, float(gaps.min())) if size and size > 0]
    for size in candidates:
        times = np.round(gaps / size)
        if times.min() < 1 or times.sum() >= PLANES:
            continue
        step = float(gaps.sum() / times.sum())
        if abs(step - size) <= UNIFORM * size and (
            np.abs(gaps - times * step).max() <= UNIFORM * step
        ):
            return np.concatenate([[0], np.cumsum(times)]).astype(np.intp)
    told = " and ".join(f"{size:.6g}" for size in candidates)
    raise _refused(
        f"distances between planes, {gaps.min():.6g} to {gaps.max():.6g} mm, are no "
        f"whole multiples of {told} mm, or make more than {PLANES} planes"
    )


def place(
    slices: Sequence[Slice], affine: ArrayLike, corners: ArrayLike | None = None
) -> Placement:
    """Find the voxels of a volume that the pixels of frames are, one for one.

    Rows and columns of the two may count in opposite directions.

    Parameters
    ----------
    slices : sequence of Slice
        The frames.
    affine : array_like
        4x4, of the volume: LPS mm from ``(slice, row, column, 1)``.
    corners : array_like, optional
        ``(slice, 3)``: ImagePositionPatient of each slice of the volume, mm. Slices
        may lie up to 1 % of their distance beside the affine: a frame that is at one
        of them is placed there.

    Raises
    ------
    GeometryError
        A direction differs by more than 1e-4, a spacing by more than 1e-4 of it, or a
        frame lies more than 1e-3 of a voxel beside a whole one.
    """
    _check_places(slices)
    matrix = np.asarray(affine, np.float64)
    origin = np.array([one.position for one in slices], np.float64)
    cosines = np.array([one.orientation for one in slices], np.float64)
    spacing = np.array([one.pixel_spacing for one in slices], np.float64)
    down = [
        _reversed(name, direction * distance[:, None], matrix[:3, axis])
        for name, direction, distance, axis in (
            ("rows", cosines[:, 3:], spacing[:, 0], 1),
            ("columns", cosines[:, :3], spacing[:, 1], 2),
        )
    ]
    index = _index(origin, matrix, corners)
    whole = np.round(index)
    off = np.abs(index - whole)
    if off.max() > WHOLE:
        worst = int(np.argmax(off.max(axis=1)))
        told = ", ".join(f"{number:.4f}" for number in index[worst])
        raise _refused(
            f"frame {slices[worst].frame} begins at (slice, row, column) = ({told}), "
            "which is no whole voxel"
        )
    slots, rows, columns = whole.astype(np.intp).T
    return Placement(slots, rows, columns, *down)


def _reversed(
    name: str, vectors: NDArray[np.float64], like: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Say where vectors are the opposite of one; they must be it, or that."""
    signs = np.where(vectors @ like < 0, -1.0, 1.0)
    length = float(np.linalg.norm(like))
    off = np.linalg.norm(vectors - signs[:, None] * like, axis=1) / length
    worst = int(np.argmax(off))
    if off[worst] > ORIENTATION + SPACING:
        has, due = (
            "(" + ", ".join(f"{number:.6g}" for number in vector) + ")"
            for vector in (vectors[worst], like)
        )
        raise _refused(
            f"{name} of frames are {has} mm apart, those of the volume {due} mm"
        )
    negative: NDArray[np.bool_] = signs < 0
    return negative


def _index(
    origin: NDArray[np.float64], matrix: NDArray[np.float64], corners: ArrayLike | None
) -> NDArray[np.float64]:
    """Give slice, row and column of places, unrounded."""
    inverse = np.linalg.inv(matrix[:3, :3])
    index: NDArray[np.float64] = (origin - matrix[:3, 3]) @ inverse.T
    if corners is None:
        return index
    slices = np.asarray(corners, np.float64)
    # The first row of the inverse measures along the normal, in slices.
    along, there = (slices - matrix[:3, 3]) @ inverse[0], index[:, 0]
    by_place = np.argsort(along, kind="stable")
    ranked = along[by_place]
    right = np.clip(np.searchsorted(ranked, there), 0, len(ranked) - 1)
    left = np.maximum(right - 1, 0)
    nearer = np.abs(ranked[left] - there) < np.abs(ranked[right] - there)
    nearest = by_place[np.where(nearer, left, right)]
    beside = (origin - slices[nearest]) @ inverse.T
    beside[:, 0] += nearest
    fits = np.abs(beside - np.round(beside)).max(axis=1) <= WHOLE
    near = np.abs(beside[:, 0] - nearest) <= WHOLE
    chosen = (fits & near)[:, None]
    return np.where(chosen, beside, index)


def _refused(reason: str) -> GeometryError:
    return GeometryError(reason, reasons=(reason,))
