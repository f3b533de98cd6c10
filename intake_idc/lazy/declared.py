"""Volumes from the index alone: shape and affine with no object read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from intake_idc import volume
from intake_idc.errors import GeometryError, IntegrityError
from intake_idc.lazy.extras import need
from intake_idc.lazy.handles import DicomObject
from intake_idc.lazy.labels import corners_of, in_plane, of_grid, units_of
from intake_idc.lazy.loading import (
    Described,
    ReadSeries,
    Wish,
    bare,
    described,
    held,
    stored_dtype,
    to_numpy,
)
from intake_idc.storage import instances

if TYPE_CHECKING:
    import numpy.typing as npt
    from xarray import DataArray

    from intake_idc.manifest import Part
    from intake_idc.storage import Mirror

__all__ = ["declared"]

DECLARED_BYTES = 1024**3
"""Bytes of a volume up to which it is made from the index as one chunk; a larger one
has its headers read, and is cut."""
AGREE_MM = 0.15
"""How far a corner may be from where the index says: it allows 0.1 mm in plane."""


@dataclass(frozen=True)
class _Declared:
    """What the index says of a volume, and how it is read."""

    part: Part
    mirror: Mirror
    grid: volume.Grid
    dtype: str
    rescale: bool


def declared(
    part: Part,
    mirror: Mirror,
    row: Mapping[str, Any],
    idc_version: int,
    published: Mapping[str, Any],
    wish: Wish,
) -> DataArray | None:
    """Make a volume of what the index says; None where headers have to be read."""
    import dask.array as da
    from dask.base import tokenize

    whole = (
        part.only is None and part.first_instance == 0 and part.last_instance is None
    )
    if not published.get("regularly_spaced_3d_volume") or not whole:
        return None
    try:
        grid = volume.from_index({"instanceCount": part.instanceCount, **published})
    except GeometryError:
        # A column is null, or missing: headers say it.
        return None
    dtype = None if wish.dtype is None else np.dtype(wish.dtype)
    if (
        int(np.prod(grid.shape)) * (2 if dtype is None else dtype.itemsize)
        > DECLARED_BYTES
    ):
        return None
    about: Mapping[str, Any] = published
    slices: Sequence[volume.Slice] = ()
    if dtype is None:
        first = DicomObject(instances([part], mirror)[0], mirror)
        (one,) = described([first])
        dtype = _dtype_of(one, wish, str(row.get("Modality") or ""))
        slices, about = one.slices, one.about
        if dtype is None:
            return None
    task = _Declared(bare(part), mirror, grid, dtype.str, wish.rescale)
    name = (
        f"{wish.name}-{tokenize(part.crdc_series_uuid, mirror, grid, dtype.str, wish)}"
    )
    graph: Any = {(name, 0, 0, 0): (_load_declared, task)}
    chunks = tuple((side,) for side in grid.shape)
    data = da.Array(graph, name, chunks, dtype=dtype, shape=grid.shape)
    attrs = {
        **{key: value for key, value in row.items() if value is not None},
        "crdc_series_uuid": part.crdc_series_uuid,
        "idc_version": idc_version,
        "verdict": "regular",
        "reasons": ["by volume_geometry_index; held against the objects when computed"],
        "aside": [],
        **of_grid(grid),
        **units_of(str(row.get("Modality") or ""), slices, about, wish),
    }
    steps = np.arange(grid.shape[0])
    corners = grid.to_mm(np.stack([steps, steps * 0, steps * 0], 1))
    coords = in_plane(grid.shape[1:], grid.spacing[1:])
    coords["slice"] = ("slice", corners @ grid.normal, {"units": "mm"})
    coords |= corners_of(("slice",), corners)
    xarray = need("xarray", "volumes")
    found: DataArray = xarray.DataArray(
        data,
        dims=["slice", "row", "column"],
        coords=coords,
        attrs=attrs,
        name=wish.name,
    )
    return found


def _dtype_of(one: Described, wish: Wish, modality: str) -> np.dtype[Any] | None:
    """Give the dtype that one header lets expect; None where it is no image."""
    try:
        (stack,) = volume.arrange(one.slices, strict=False).stacks
    except ValueError:
        return None
    if wish.rescale and modality != "CT":
        # Other slices may have other slopes.
        short = stored_dtype(stack).itemsize <= 2  # noqa: PLR2004
        return np.dtype(np.float32 if short else np.float64)
    return np.dtype(wish.values(stack).dtype)


def _load_declared(task: _Declared) -> npt.NDArray[Any]:
    """Read a series whole, order it, and hold it against what the index said."""
    objects = [DicomObject(o, task.mirror) for o in instances([task.part], task.mirror)]
    url = task.mirror.series_url(task.part)
    series = ReadSeries(objects, held(objects))
    found = series.arrange(strict=False)
    grid = found.stacks[0].grid if len(found.stacks) == 1 and found.regular else None
    if grid is None or found.stacks[0].axis is not None or not _agree(grid, task.grid):
        seen = f"{found.verdict}, {grid.shape if grid else 'on no grid'}"
        msg = (
            f"{url} is {seen} by its headers, and a volume of {task.grid.shape} by "
            "volume_geometry_index, or lies elsewhere; use_index=False goes by headers"
        )
        raise IntegrityError(msg, url=url)
    wish = Wish(rescale=task.rescale, dtype=task.dtype)
    return to_numpy(series, found.stacks[0], wish)


def _agree(found: volume.Grid, said: volume.Grid) -> bool:
    if found.shape != said.shape:
        return False
    ends = [(0, side - 1) for side in said.shape]
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T
    apart = np.linalg.norm(found.to_mm(corners) - said.to_mm(corners), axis=1)
    return bool(apart.max() <= AGREE_MM)
