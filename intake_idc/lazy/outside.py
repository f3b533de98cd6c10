"""Volumes for other libraries: NIfTI by nibabel, images of SimpleITK."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from intake_idc.errors import GeometryError, RequestError
from intake_idc.files import beside
from intake_idc.lazy.extras import need
from intake_idc.lazy.labels import grid_of

if TYPE_CHECKING:
    import os

    import numpy.typing as npt
    from nibabel.nifti1 import Nifti1Image
    from SimpleITK import Image
    from xarray import DataArray

__all__ = ["to_nifti", "to_sitk"]

SPACE = ("slice", "row", "column")
SCANNER = 1
"""NIFTI_XFORM_SCANNER_ANAT: the coordinates are those of the scanner."""
TIMES = {"s": "sec", "ms": "msec"}
"""Units of a leading axis, and what NIfTI calls them."""


def to_nifti(
    array: DataArray, path: str | os.PathLike[str] | None = None
) -> Nifti1Image:
    """Give a volume as a NIfTI image, and write it where a path is given.

    Axes become (column, row, slice), and a leading axis the fourth; values and dtype
    stay. The affine goes from LPS to RAS, and into the sform, a shear as well; the
    qform, which has no shear, is set only where slices lie straight over each other.
    Both have code 1 (scanner), distances are in mm. Times of an even leading axis
    become its step. Colour of 8 bits becomes RGB24.

    Parameters
    ----------
    array : xarray.DataArray
        Of `to_volume`, whole or cut. A Dask array is computed.
    path : path, optional
        A file ending in ``.nii`` or ``.nii.gz``. It is written beside its place and
        renamed: there is the whole file under its name, or none. The bytes depend on
        nothing but the volume.

    Returns
    -------
    nibabel.Nifti1Image
        In memory.

    Raises
    ------
    GeometryError
        The slices make no regular volume; see `intake_idc.lazy.grid_of`.
    RequestError
        The path ends otherwise, there are several leading axes, or NIfTI has no such
        dtype.
    MissingError
        nibabel is not installed.
    """
    nibabel = need("nibabel", "nifti")
    target = None if path is None else Path(path)
    if target is not None and not target.name.endswith((".nii", ".nii.gz")):
        msg = f"a NIfTI file ends in .nii or .nii.gz; got {target.name!r}"
        raise RequestError(msg, path=str(target))
    grid = grid_of(array)
    leading, colour = _axes(array)
    ordered = array.transpose("column", "row", "slice", *leading, *colour)
    data = _numbers(ordered)
    if colour:
        data = _rgb24(data)
    elif data.dtype.kind not in "iuf" or data.dtype.itemsize < 1:
        msg = f"NIfTI has no {data.dtype}; convert it with astype"
        raise RequestError(msg, dtype=str(data.dtype))
    try:
        # Without its dtype, nibabel takes no whole numbers of 64 bits.
        image: Nifti1Image = nibabel.Nifti1Image(data, grid.nifti, dtype=data.dtype)
    except nibabel.spatialimages.HeaderDataError as error:
        msg = f"NIfTI has no {data.dtype}; convert it with astype"
        raise RequestError(msg, dtype=str(data.dtype)) from error
    image.set_sform(grid.nifti, code=SCANNER)
    if grid.orthogonal:
        image.set_qform(grid.nifti, code=SCANNER)
    else:
        image.set_qform(None)
    step, unit = _time(array, leading)
    image.header.set_xyzt_units("mm", unit)
    if leading:
        image.header.set_zooms((*image.header.get_zooms()[:3], step))
    if target is not None:
        _write(image, target, nibabel)
    return image


def _axes(array: DataArray) -> tuple[list[str], list[str]]:
    """Give the names of the leading axis and of that of colours, where there are."""
    colour = ["sample"] if "sample" in array.dims else []
    leading = [str(dim) for dim in array.dims if dim not in (*SPACE, *colour)]
    if len(leading) > 1:
        msg = f"one leading axis is possible; these are {', '.join(leading)}"
        raise RequestError(msg)
    return leading, colour


def _numbers(array: DataArray) -> npt.NDArray[Any]:
    """Compute an array; masks become uint8, for neither format knows truth."""
    data: npt.NDArray[Any] = np.asarray(array.values)
    return data.astype(np.uint8) if data.dtype == bool else data


def _rgb24(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if data.dtype != np.uint8 or data.shape[-1] != 3:  # noqa: PLR2004
        msg = f"NIfTI has colour of three samples of uint8; got {data.dtype}"
        raise RequestError(msg, dtype=str(data.dtype))
    pixel = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return np.ascontiguousarray(data).view(pixel)[..., 0]


def _time(array: DataArray, leading: list[str]) -> tuple[float, str | None]:
    """Give the step of a leading axis of times that is even, and its unit."""
    if not leading or leading[0] not in array.coords:
        return 1.0, None
    coordinate = array[leading[0]]
    unit = TIMES.get(str(coordinate.attrs.get("units")))
    if leading[0] != "time" or unit is None or coordinate.size < 2:  # noqa: PLR2004
        return 1.0, None
    steps = np.diff(np.asarray(coordinate.values, np.float64))
    mean = float(steps.mean())
    if not mean > 0 or np.abs(steps - mean).max() > 0.01 * mean:
        return 1.0, None
    return mean, unit


def _write(image: Nifti1Image, target: Path, nibabel: Any) -> None:
    with beside(target) as part, ExitStack() as stack:
        file: Any = stack.enter_context(part.open("xb"))
        if target.name.endswith(".gz"):
            # Without name and time in it, so that the same volume gives the same file.
            file = stack.enter_context(
                gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
            )
        image.to_file_map({"image": nibabel.FileHolder(fileobj=file)})


def to_sitk(array: DataArray, *, sheared: bool = False) -> Image:
    """Give a volume as an image of SimpleITK.

    Parameters
    ----------
    array : xarray.DataArray
        Of `to_volume`, whole or cut. A Dask array is computed. A leading axis becomes
        the fourth, colours a vector in each voxel.
    sheared : bool
        Take slices that do not lie straight over each other. In memory SimpleITK
        holds the shear exactly, in a direction that is no rotation; but what it
        writes to NIfTI it straightens, and few of its filters expect such an image.

    Returns
    -------
    SimpleITK.Image
        With origin, spacing (column, row, slice) in mm, and direction, in LPS.

    Raises
    ------
    GeometryError
        The slices make no regular volume, or are sheared and `sheared` is false.
    RequestError
        SimpleITK has no such dtype, or there are several leading axes.
    MissingError
        SimpleITK is not installed.
    """
    sitk = need("SimpleITK", "sitk")
    grid = grid_of(array)
    if not grid.orthogonal and not sheared:
        reason = f"slices are sheared by {grid.tilt:.2f} degrees"
        msg = (
            f"{reason}: SimpleITK holds that in memory only; say sheared=True, or "
            "resample the volume"
        )
        raise GeometryError(msg, verdict="tilted", reasons=(reason,))
    leading, colour = _axes(array)
    data = _numbers(array.transpose(*leading, *SPACE, *colour))
    try:
        image: Image = sitk.GetImageFromArray(data, isVector=bool(colour))
    except (KeyError, TypeError) as error:
        msg = f"SimpleITK has no {data.dtype}; convert it with astype"
        raise RequestError(msg, dtype=str(data.dtype)) from error
    axes = grid.affine[:3, [2, 1, 0]]
    spacing = np.linalg.norm(axes, axis=0)
    size = 3 + len(leading)
    direction = np.eye(size)
    direction[:3, :3] = axes / spacing
    image.SetOrigin([*grid.origin, *[0.0] * len(leading)])
    image.SetSpacing([*spacing.tolist(), *[_time(array, leading)[0]] * len(leading)])
    image.SetDirection(direction.ravel().tolist())
    return image
