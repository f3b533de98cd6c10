"""What is said of a volume beside its values: coordinates, attributes, its grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from intake_idc import volume
from intake_idc.errors import GeometryError, RequestError

if TYPE_CHECKING:
    import numpy.typing as npt
    from xarray import DataArray

    from intake_idc.lazy.loading import ReadSeries, Wish

__all__ = [
    "POSITION",
    "coordinates",
    "corners_of",
    "grid_of",
    "in_plane",
    "meaning",
    "of_grid",
    "units_of",
]

_UNITS = {
    "echo_time": "ms",
    "b_value": "s/mm2",
    "trigger_time": "ms",
    "acquisition_time": "s",
    "content_time": "s",
}
_TELLING = (
    "segment",
    "temporal_position",
    "echo_time",
    "b_value",
    "trigger_time",
    "instance_number",
)
"""What slices that make no volume are labelled with, where it differs."""
POSITION = ("position_x", "position_y", "position_z")
"""Coordinates that hold where the first voxel of each slice lies."""


def meaning(
    stack: volume.Stack, series: ReadSeries, attrs: Mapping[str, Any], wish: Wish
) -> dict[str, Any]:
    """Give the attributes of a stack: where it lies, what its values mean."""
    slices = series.ordered(stack)
    about = series.read[stack.order[0]].about
    found: dict[str, Any] = {"FrameOfReferenceUID": slices[0].frame_of_reference}
    if stack.grid is not None:
        found |= of_grid(stack.grid)
    elif stack.missing:
        found["missing"] = list(stack.missing)
    if not _varies(stack, attrs):
        found["slope"], found["intercept"] = stack.slopes[0], stack.intercepts[0]
    modality = str(attrs.get("Modality") or "")
    return {**found, **units_of(modality, slices, about, wish)}


def of_grid(grid: volume.Grid) -> dict[str, Any]:
    """Give the attributes that say where the voxels lie."""
    return {
        "affine": grid.affine.tolist(),
        "spacing": list(grid.spacing),
        "tilt": grid.tilt if not grid.orthogonal else 0.0,
    }


def units_of(
    modality: str,
    slices: Sequence[volume.Slice],
    about: Mapping[str, Any],
    wish: Wish,
) -> dict[str, Any]:
    """Say what the values mean (PS3.3 C.11.1.1.2, C.8.9.1.1.3, C.8.8.3).

    Slices that name several units have none in common.
    """
    found: dict[str, Any] = {"rescaled": int(wish.rescale)}
    if not wish.rescale:
        return found
    named = {one.rescale_type for one in slices}
    units = "US" if len(named) > 1 else "".join(named)
    if modality == "CT":
        units = units or "HU"
    elif modality == "PT":
        units = about.get("Units") or units
    elif modality == "RTDOSE":
        units = about.get("DoseUnits") or units
    if units and units != "US":
        found["units"] = str(units)
    return found


def _varies(stack: volume.Stack, attrs: Mapping[str, Any]) -> bool:
    """Whether slopes are told slice by slice."""
    if attrs.get("Modality") == "PT":
        return True
    return len(set(stack.slopes)) > 1 or len(set(stack.intercepts)) > 1


def coordinates(
    stack: volume.Stack,
    series: ReadSeries,
    attrs: Mapping[str, Any],
) -> dict[str, Any]:
    """Give the coordinates of a stack, as `xarray.DataArray` takes them."""
    slices = series.ordered(stack)
    counts = stack.shape[:-2]
    axis = stack.axis
    lead: tuple[str, ...] = () if axis is None else (axis.name,)
    dims = (*lead, "slice")

    def by_slice(values: Sequence[Any]) -> tuple[Any, ...]:
        array = _column(values)
        return dims, array.reshape(*counts, *array.shape[1:])

    many = counts[-1]
    found = in_plane(stack.shape[-2:], stack.pixel_spacing)
    found["slice"] = ("slice", np.array(stack.positions[:many]), {"units": "mm"})
    places = np.array(stack.corners, np.float64).reshape(*counts, 3)
    if axis is not None and (places == places[0]).all():
        # A mean over the leading axis keeps what does not lie along it.
        found |= corners_of(("slice",), places[0])
    else:
        found |= corners_of(dims, places)
    found["SOPInstanceUID"] = by_slice([one.uid for one in slices])
    found["crdc_instance_uuid"] = by_slice(
        [series.objects[one.index].crdc_instance_uuid for one in slices]
    )
    if len(set(stack.order)) < len(stack.order):
        found["frame_number"] = by_slice(stack.frames)
    if _varies(stack, attrs):
        found["slope"], found["intercept"] = map(
            by_slice, (stack.slopes, stack.intercepts)
        )
    if stack.samples > 1:
        found["sample"] = ("sample", ["R", "G", "B"])
    if axis is not None:
        found |= _of_axis(axis, slices, by_slice)
    elif not stack.regular:
        for name in _TELLING:
            values = [getattr(one, name) for one in slices]
            if len(set(values)) > 1:
                found[name] = (*by_slice(values), _unit(name))
    return found


def in_plane(
    plane: Sequence[int], pixel_spacing: Sequence[float]
) -> dict[str, tuple[Any, ...]]:
    """Give the offsets of rows and columns from the first, in mm."""
    found: dict[str, tuple[Any, ...]] = {
        name: (name, np.arange(side) * spacing, {"units": "mm"})
        for name, side, spacing in zip(
            ("row", "column"), plane, pixel_spacing, strict=True
        )
    }
    return found


def corners_of(
    dims: Sequence[str], places: npt.NDArray[np.float64]
) -> dict[str, tuple[Any, ...]]:
    """Give the place of each slice's first voxel, one coordinate for each direction.

    The coordinates of a `DataArray` have no dimension that it does not have itself.
    """
    units = {"units": "mm", "system": "LPS"}
    return {name: (dims, places[..., at], units) for at, name in enumerate(POSITION)}


def _of_axis(
    axis: volume.Axis,
    slices: Sequence[volume.Slice],
    by_slice: Callable[[Sequence[Any]], tuple[Any, ...]],
) -> dict[str, Any]:
    """Label the leading axis; where each slice has its own time, each slice."""
    found: dict[str, Any] = {}
    several = len(axis.fields) > 1
    for at, named in enumerate(axis.fields):
        units = _unit(named)
        if not axis.shared:
            values = [getattr(one, named) for one in slices]
            if named != "image_type":
                found[named] = (*by_slice(values), units)
            continue
        own = [value[at] for value in axis.values] if several else axis.values
        found[named if several else axis.name] = (axis.name, _column(own), units)
    return found


def _unit(name: str) -> dict[str, str]:
    return {"units": _UNITS[name]} if name in _UNITS else {}


def _column(values: Sequence[Any]) -> npt.NDArray[Any]:
    """Give values as an array, what is missing as nan or an empty text."""
    if any(isinstance(value, str) for value in values):
        return np.array([value or "" for value in values])
    if any(isinstance(value, tuple) for value in values):
        lengths = {len(value) for value in values if isinstance(value, tuple)}
        if len(lengths) > 1 or None in values:
            return np.array([str(value) for value in values])
        return np.array(values, np.float64)
    if None in values:
        return np.array([np.nan if v is None else v for v in values], np.float64)
    return np.array(values)


def grid_of(array: DataArray) -> volume.Grid:
    """Give where the voxels of a volume lie, after it was cut or thinned, too.

    Parameters
    ----------
    array : xarray.DataArray
        Of `to_volume`, or a part of one, with its coordinates and attributes. The
        affine may have been laid out as 16 numbers, as netCDF wants it.

    Raises
    ------
    GeometryError
        It has no affine, has lost its coordinates, or what is left of it lies on no
        regular grid.
    RequestError
        It is no such array.
    """
    if not all(hasattr(array, name) for name in ("dims", "coords", "attrs")):
        msg = f"a volume is an xarray.DataArray; got {type(array).__name__}"
        raise RequestError(msg)
    lost = [name for name in ("slice", "row", "column") if name not in array.dims]
    if lost:
        _refuse(f"the array has no axis {', '.join(lost)}")
    affine = array.attrs.get("affine")
    if affine is None:
        _refuse(
            "the array has no affine: its slices make no regular volume, or "
            "arithmetic has dropped its attributes, which "
            "xarray.set_options(keep_attrs=True) keeps"
        )
    lost = [name for name in ("row", "column", *POSITION) if name not in array.coords]
    if lost:
        _refuse(f"the array has no coordinates {', '.join(lost)}")
    empty = [str(name) for name, size in array.sizes.items() if not size]
    if empty:
        _refuse(f"the axis {', '.join(empty)} is empty")
    matrix = np.array(affine, np.float64).reshape(4, 4)
    # Of the first step along a leading axis, as the affine is.
    firsts = [array[name] for name in POSITION]
    firsts = [
        one.isel({dim: 0 for dim in one.dims if dim != "slice"}) for one in firsts
    ]
    corners = np.stack([np.asarray(one.values, np.float64) for one in firsts], -1)
    columns = [_step(corners, matrix[:3, 0], "slice")]
    origin = corners[0].copy()
    for number, name in enumerate(("row", "column"), start=1):
        direction = matrix[:3, number] / np.linalg.norm(matrix[:3, number])
        offsets = np.asarray(array[name].values, np.float64)
        origin += offsets[0] * direction
        columns.append(_step(offsets[:, None] * direction, matrix[:3, number], name))
    found = np.eye(4)
    found[:3, :3] = np.stack(columns, 1)
    found[:3, 3] = origin
    shape = (array.sizes["slice"], array.sizes["row"], array.sizes["column"])
    return volume.Grid(shape, tuple(map(tuple, found.tolist())))


def _step(
    places: npt.NDArray[np.float64], alone: npt.NDArray[np.float64], name: str
) -> npt.NDArray[np.float64]:
    """Give the step between places, which must be even."""
    if not np.isfinite(places).all():
        _refuse(f"places along the axis {name} are not known: it was padded")
    if len(places) == 1:
        return alone
    step: npt.NDArray[np.float64] = (places[-1] - places[0]) / (len(places) - 1)
    even = places[0] + np.arange(len(places))[:, None] * step
    apart = float(np.linalg.norm(places - even, axis=1).max())
    length = float(np.linalg.norm(step))
    if not length or apart > max(0.01 * length, 1e-3):
        _refuse(f"the places along the axis {name} are not even")
    return step


def _refuse(reason: str) -> None:
    raise GeometryError(reason, reasons=(reason,))
