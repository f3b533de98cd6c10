"""A regular grid in space: its shape, its affine, and the ways between systems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intake_idc.errors import GeometryError

Matrix = tuple[tuple[float, ...], ...]
"""Rows of a 4x4 affine; tuples, so that a grid can be compared, hashed and sent."""

DRIFT_MM = 0.1
"""In-plane drift of a whole stack up to which it counts as orthogonal: the bound that
volume_geometry_index sets for a consistent in-plane position."""

ORTHONORMAL = 0.01
"""How far ImageOrientationPatient may be from unit length and right angles; as
volume_geometry_index has it."""

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie, in mm of the patient's coordinates (LPS)."""

    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    matrix: Matrix
    """The affine, as rows of numbers; see `affine`."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """4x4, float64: from ``(slice, row, column, 1)`` to mm, in LPS.

        Its first column is the true step from a slice to the next, so that a stack
        from a tilted gantry is exact: a shear, and nothing resampled. The others are
        those of PS3.3 C.7.6.2.1.1. The origin is the centre of voxel (0, 0, 0).
        """
        return np.array(self.matrix, dtype=np.float64)

    @property
    def origin(self) -> tuple[float, ...]:
        """Centre of voxel (0, 0, 0), in mm: its ImagePositionPatient."""
        return tuple(row[3] for row in self.matrix[:3])

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal of the slices: direction of a row, cross that of a column."""
        return _normal(self.affine[:3, 2], self.affine[:3, 1])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between slice planes (along the normal), rows, columns."""
        affine = self.affine
        row, column = (float(np.linalg.norm(affine[:3, axis])) for axis in (1, 2))
        return abs(float(affine[:3, 0] @ self.normal)), row, column

    @property
    def tilt(self) -> float:
        """Angle in degrees between the step and the normal; 0 where they agree.

        Of a volume that was turned round, whose slices count down, it is the same.
        Taken from the positions: GantryDetectorTilt is signed differently by
        different makers, and often missing.
        """
        along, aside = self._parts()
        return math.degrees(math.atan2(float(np.linalg.norm(aside)), abs(along)))

    @property
    def orthogonal(self) -> bool:
        """Whether the slices lie over each other, within 0.1 mm over the stack.

        Of a single slice, whether the next one would.
        """
        _, aside = self._parts()
        return float(np.linalg.norm(aside)) * max(self.shape[0] - 1, 1) <= DRIFT_MM

    def _parts(self) -> tuple[float, NDArray[np.float64]]:
        """Part of the step along the normal, and the vector that is left."""
        step, normal = self.affine[:3, 0], self.normal
        along = float(step @ normal)
        return along, step - along * normal

    def to_mm(self, index: ArrayLike) -> NDArray[np.float64]:
        """Give the place of voxels in mm (LPS).

        Parameters
        ----------
        index : array_like
            ``(..., 3)``: slice, row, column; fractions are allowed.
        """
        affine = self.affine
        place: NDArray[np.float64] = (
            np.asarray(index, np.float64) @ affine[:3, :3].T + affine[:3, 3]
        )
        return place

    def to_index(self, place: ArrayLike) -> NDArray[np.float64]:
        """Give the index ``(slice, row, column)`` of places in mm (LPS), unrounded.

        Parameters
        ----------
        place : array_like
            ``(..., 3)``, in mm.
        """
        affine = self.affine
        shifted = np.asarray(place, np.float64) - affine[:3, 3]
        inverse = np.linalg.inv(affine[:3, :3])
        index: NDArray[np.float64] = shifted @ inverse.T
        return index

    @property
    def ras(self) -> NDArray[np.float64]:
        """The same affine in RAS, still from ``(slice, row, column, 1)``."""
        return lps_to_ras(self.affine)

    @property
    def nifti(self) -> NDArray[np.float64]:
        """The affine of a NIfTI file: RAS, from ``(column, row, slice, 1)``."""
        return nifti_affine(self.affine)


def lps_to_ras(affine: ArrayLike) -> NDArray[np.float64]:
    """Turn an affine from LPS (DICOM, ITK) to RAS (NIfTI, nibabel), or back."""
    flipped: NDArray[np.float64] = _FLIP @ np.asarray(affine, np.float64)
    return flipped


def nifti_affine(affine: ArrayLike) -> NDArray[np.float64]:
    """Give the affine that a NIfTI file wants.

    Parameters
    ----------
    affine : array_like
        4x4, LPS, from ``(slice, row, column, 1)``.

    Returns
    -------
    numpy.ndarray
        4x4, RAS, from ``(i, j, k, 1)`` with i the column, j the row and k the slice:
        of an array whose axes were turned round (``array.T``). A shear stays in it:
        it can be written as ``sform``, and not as ``qform``.
    """
    return lps_to_ras(affine)[:, [2, 1, 0, 3]]


def matrix_of(
    origin: ArrayLike, step: ArrayLike, orientation: ArrayLike, spacing: ArrayLike
) -> Matrix:
    """Build an affine.

    Parameters
    ----------
    origin, step : array_like
        Three numbers each, in mm: the first voxel, and from a slice to the next.
    orientation : array_like
        ImageOrientationPatient: direction of a row (along which columns count up),
        then that of a column.
    spacing : array_like
        PixelSpacing: between rows, between columns (PS3.3 10.7.1.3).
    """
    affine = np.eye(4)
    along_row, along_column = np.asarray(orientation, np.float64).reshape(2, 3)
    between_rows, between_columns = np.asarray(spacing, np.float64)
    affine[:3, 0] = step
    affine[:3, 1] = along_column * between_rows
    affine[:3, 2] = along_row * between_columns
    affine[:3, 3] = origin
    return tuple(tuple(row) for row in affine.tolist())


def normal_of(orientation: ArrayLike) -> NDArray[np.float64]:
    """Give the unit normal of an ImageOrientationPatient; zeros where it has none."""
    along_row, along_column = np.asarray(orientation, np.float64).reshape(2, 3)
    return _normal(along_row, along_column)


def _normal(
    along_row: NDArray[np.float64], along_column: NDArray[np.float64]
) -> NDArray[np.float64]:
    normal = np.cross(along_row, along_column)
    length = float(np.linalg.norm(normal))
    unit: NDArray[np.float64] = normal / length if length > 0 else normal
    return unit


def skewed(orientation: ArrayLike) -> str:
    """Say what is wrong with an ImageOrientationPatient; empty where nothing is."""
    along_row, along_column = np.asarray(orientation, np.float64).reshape(2, 3)
    lengths = [float(np.linalg.norm(v)) for v in (along_row, along_column)]
    if any(abs(length - 1) > ORTHONORMAL for length in lengths):
        return f"ImageOrientationPatient has lengths {lengths[0]:g} and {lengths[1]:g}"
    if abs(float(along_row @ along_column)) > ORTHONORMAL:
        return "the two directions of ImageOrientationPatient are not at right angles"
    return ""


_CHECKS = (
    "single_orientation",
    "orthogonal_orientation",
    "unique_slice_positions",
    "consistent_in_plane_row",
    "consistent_in_plane_col",
    "consistent_pixel_spacing",
    "consistent_image_dimensions",
    "uniform_slice_spacing",
)
"""Columns of volume_geometry_index that must all be true."""

_PUBLISHED = {
    "origin_patient": 3,
    "ImageOrientationPatient": 6,
    "slice_spacing_mm": 1,
    "Rows": 1,
    "Columns": 1,
    "PixelSpacing_row_mm": 1,
    "PixelSpacing_col_mm": 1,
    "instanceCount": 1,
}
"""Columns that a grid is made of, and how many numbers each holds."""


def from_index(row: Mapping[str, Any]) -> Grid:
    """Give the grid of a series from what the index tables publish.

    No object is read. Slice 0 is the one at the least projection of its
    ImagePositionPatient on the normal, and they count up along it: objects sorted by
    that projection are in the order of the grid. The step is along the normal; where
    positions shift in plane by up to 0.1 mm over the series, which the table allows,
    `arrange` keeps the shift and this does not.

    Parameters
    ----------
    row : mapping
        Columns of ``volume_geometry_index`` (origin_patient, ImageOrientationPatient,
        slice_spacing_mm), of ``ct_index``, ``mr_index`` or ``pt_index`` (Rows,
        Columns, PixelSpacing_row_mm, PixelSpacing_col_mm), and ``instanceCount``.
        The last is too large for the few series that hold objects of another SOP
        class as well; such a grid has too many slices.

    Raises
    ------
    GeometryError
        The series is no regular volume by the table, which says why, or a column is
        missing.
    """
    failed = [check for check in _CHECKS if row.get(check) is False]
    if failed or row.get("regularly_spaced_3d_volume") is False:
        reasons = [f"{check} is false" for check in failed]
        _refuse("not a regular volume by volume_geometry_index", reasons)
    got = {name: _numbers(row.get(name), count) for name, count in _PUBLISHED.items()}
    missing = [name for name, numbers in got.items() if numbers is None]
    if missing:
        reasons = [f"no usable value of {name}" for name in missing]
        _refuse("the index does not give this volume", reasons)
    numbers = {name: values for name, values in got.items() if values is not None}
    return _published(numbers)


def _published(got: Mapping[str, list[float]]) -> Grid:
    spacing = [got["PixelSpacing_row_mm"][0], got["PixelSpacing_col_mm"][0]]
    between = got["slice_spacing_mm"][0]
    orientation = got["ImageOrientationPatient"]
    counts = [got[name][0] for name in ("instanceCount", "Rows", "Columns")]
    wrong = skewed(orientation)
    if not wrong and (min(between, *spacing) <= 0 or min(counts) < 1):
        wrong = f"spacing {[between, *spacing]} or shape {counts} is not positive"
    if wrong:
        _refuse("the index does not give this volume", [wrong])
    step = normal_of(orientation) * between
    matrix = matrix_of(got["origin_patient"], step, orientation, spacing)
    slices, rows, columns = map(int, counts)
    return Grid((slices, rows, columns), matrix)


def _numbers(value: Any, count: int) -> list[float] | None:
    if value is None:
        return None
    many = [value] if isinstance(value, int | float) or np.ndim(value) == 0 else value
    try:
        numbers = [float(one) for one in many]
    except (TypeError, ValueError):
        return None
    usable = len(numbers) == count and all(map(math.isfinite, numbers))
    return numbers if usable else None


def _refuse(what: str, reasons: Sequence[str]) -> None:
    msg = f"{what}: {'; '.join(reasons) or 'no reason is published'}"
    raise GeometryError(msg, verdict="not a volume", reasons=tuple(reasons))
