"""Volumes: series as labelled arrays with coordinates in mm.

The geometry is that of `intake_idc.volume`; here it meets the objects. A volume is an
`xarray.DataArray` over a `dask.array`, made from headers, or from the index alone; or
over numpy, read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from intake_idc import volume
from intake_idc.errors import (
    EmptySelection,
    GeometryError,
    RequestError,
)
from intake_idc.lazy.bags import size_in_bytes
from intake_idc.lazy.declared import declared
from intake_idc.lazy.extras import need
from intake_idc.lazy.handles import DicomObject
from intake_idc.lazy.labels import POSITION, coordinates, grid_of, meaning
from intake_idc.lazy.loading import (
    Block,
    Described,
    Held,
    ReadSeries,
    Wish,
    bare,
    described,
    held,
    load,
    plane_of,
    scales_of,
    to_numpy,
)
from intake_idc.lazy.mapping import BySeries
from intake_idc.storage import instances

if TYPE_CHECKING:
    import numpy.typing as npt
    from xarray import DataArray, DataTree

    from intake_idc.manifest import Manifest, Part
    from intake_idc.storage import Mirror

__all__ = ["POSITION", "Volumes", "grid_of", "to_volume"]

CHUNK_BYTES = 32 * 1024**2
"""Bytes of one chunk: from 16 to 100 slices of CT measure the same."""
CHUNK_SLICES = (16, 100)
"""Slices that a chunk has at least and at most, unless its bytes are given."""


def to_volume(
    given: Manifest | Sequence[DicomObject],
    mirror: Mirror | None = None,
    *,
    rescale: bool = False,
    dtype: npt.DTypeLike | None = None,
    strict: bool = True,
    compute: bool = False,
    chunk_bytes: int | str | None = None,
    name: str = "volume",
    idc_version: int | None = None,
    published: Mapping[str, Any] | None = None,
) -> DataArray | DataTree:
    """Give one series as a volume.

    Parameters
    ----------
    given : Manifest or sequence of DicomObject
        One row, or all objects of one series.
    mirror : Mirror
        Where a manifest is read.
    rescale : bool
        Give output units instead of stored values: Hounsfield units in CT. See
        `intake_idc.volume.rescaled_dtype` for the dtype.
    dtype : dtype_like, optional
        Of the array, in place of the one that the headers ask for. Whole numbers that
        do not fit it are a `GeometryError` when they are read.
    strict : bool
        Refuse what is no regular volume. Without it, slices come with their positions,
        and without an affine.
    compute : bool
        Read at once, each object a single time, into numpy. By default headers are
        read now, and pixels when they are asked for.
    chunk_bytes : int or str, optional
        Bytes of one chunk: 32 MiB, but at least 16 slices and at most 100.
    name : str
        What the array is called.
    idc_version : int, optional
        Release of the objects; a manifest knows its own.
    published : mapping, optional
        What the index tables say of the series; see `intake_idc.volume.from_index`.
        Then no header is read, but for one where `dtype` is not given. What is
        computed is held against it.

    Returns
    -------
    xarray.DataArray or xarray.DataTree
        ``(slice, row, column)``, with what tells slices of one place apart as a
        leading axis, and in colour ``sample`` as the last one. Where there are
        several stacks, a tree with children ``stack0``, ``stack1``, the largest first,
        each with a variable `name`. Coordinates and attributes: see the guide.

    Raises
    ------
    GeometryError
        Under `strict`, the series is no regular volume. Without it, there is no image
        with a place.
    RequestError
        These are not the objects of exactly one series, or `dtype` is none of real
        numbers, or of whole ones where what is rescaled is not whole;
        or output units are by a table (Modality LUT Sequence).
    DicomReadError, StorageError
        An object cannot be read.
    IntegrityError
        When it is computed: objects are not what headers, or the index, said.
    MissingError
        xarray is not installed.
    """
    need("xarray", "volumes")
    wish = Wish(
        rescale,
        None if dtype is None else _dtype(dtype),
        name,
        None if chunk_bytes is None else size_in_bytes(chunk_bytes),
    )
    objects: Sequence[DicomObject]
    row: Mapping[str, Any] = {}
    if isinstance(given, Sequence):
        objects = given
    else:
        part, row = _one_row(given)
        if mirror is None:
            msg = "a manifest is read from a mirror; none was given"
            raise RequestError(msg)
        idc_version = given.idc_version
        if published is not None and not compute:
            found = declared(part, mirror, row, idc_version, published, wish)
            if found is not None:
                return found
        objects = [DicomObject(one, mirror) for one in instances([part], mirror)]
    _check_one(objects)
    read: Sequence[Described] | Sequence[Held]
    read = held(objects) if compute else described(objects)
    return _arranged(objects, read, wish, idc_version, strict=strict)


def _dtype(wanted: npt.DTypeLike) -> str:
    try:
        dtype = np.dtype(wanted)
    except TypeError as error:
        msg = f"dtype is one of numpy's, such as 'float32'; got {wanted!r}"
        raise RequestError(msg) from error
    if dtype.kind not in "iuf":
        msg = f"values of a volume are whole numbers or floats; they are no {dtype}"
        raise RequestError(msg, dtype=str(dtype))
    return dtype.str


def _one_row(manifest: Manifest) -> tuple[Part, Mapping[str, Any]]:
    if len(manifest) != 1:
        msg = (
            f"a volume is made of one series; these are {len(manifest)}. volumes() "
            "gives one for each, map_series() applies a function to each"
        )
        raise RequestError(msg, series=len(manifest))
    (part,) = manifest.parts()
    return part, manifest.table.select(_identities(manifest)).to_pylist()[0]


def _identities(manifest: Manifest) -> list[str]:
    names = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality")
    return [name for name in names if name in manifest.columns]


def _check_one(objects: Sequence[DicomObject]) -> None:
    if not objects:
        msg = "there is no object to make a volume of"
        raise EmptySelection(msg)
    uuids = {one.crdc_series_uuid for one in objects}
    if len(uuids) > 1:
        msg = f"a volume is made of one series; these objects are of {len(uuids)}"
        raise RequestError(msg, series=len(uuids))


def _arranged(
    objects: Sequence[DicomObject],
    read: Sequence[Described] | Sequence[Held],
    wish: Wish,
    idc_version: int | None,
    *,
    strict: bool,
) -> DataArray | DataTree:
    series = ReadSeries(objects, read)
    found = series.arrange(strict=strict)
    if not found.stacks:
        msg = f"no image has a place: {'; '.join(found.reasons)}"
        raise GeometryError(msg, verdict=found.verdict, reasons=found.reasons)
    common = series.attrs()
    if idc_version is not None:
        common["idc_version"] = idc_version
    uids = [series.by_place[one.index, one.frame].uid for one in found.aside]
    about = {
        **common,
        "verdict": found.verdict,
        "reasons": list(found.reasons),
        "aside": [
            f"{uid}: {one.reason}" for uid, one in zip(uids, found.aside, strict=True)
        ],
    }
    if len(found.stacks) == 1:
        return _labelled(found.stacks[0], series, about, wish)
    xarray = need("xarray", "volumes")
    nodes: dict[str, Any] = {"/": xarray.Dataset(attrs=about)}
    for number, stack in enumerate(found.stacks):
        own = {"verdict": stack.verdict, "reasons": list(stack.reasons)}
        attrs = {**common, **own}
        array = _labelled(stack, series, attrs, wish)
        nodes[f"stack{number}"] = array.to_dataset()
    tree: DataTree = xarray.DataTree.from_dict(nodes)
    return tree


def _labelled(
    stack: volume.Stack, series: ReadSeries, attrs: dict[str, Any], wish: Wish
) -> DataArray:
    """Give one stack as an array with coordinates."""
    xarray = need("xarray", "volumes")
    make = to_numpy if isinstance(series.read[0], Held) else _dask
    dims = [] if stack.axis is None else [stack.axis.name]
    dims += ["slice", "row", "column", *["sample"] * (stack.samples > 1)]
    attrs |= meaning(stack, series, attrs, wish)
    found: DataArray = xarray.DataArray(
        make(series, stack, wish),
        dims=dims,
        coords=coordinates(stack, series, attrs),
        attrs=attrs,
        name=wish.name,
    )
    return found


def _dask(series: ReadSeries, stack: volume.Stack, wish: Wish) -> Any:
    """Give an array whose chunks are runs of slices, each a task."""
    import dask.array as da
    from dask.base import tokenize

    values, plane = wish.values(stack), plane_of(stack)
    scales = scales_of(series, stack, wish)
    counts, dtype = stack.shape[:-2], np.dtype(values.dtype)
    chunks = _chunks(counts, plane, dtype, wish.chunk_bytes)
    order = list(zip(stack.order, stack.frames, strict=True))
    places = np.arange(len(order)).reshape(counts)
    part = bare(series.objects[0].instance.part)
    mirror = series.objects[0].mirror
    identity = [(o.instance.key, o.size, o.instance.etag) for o in series.objects]
    token = tokenize(mirror, part.aws_bucket, identity, order, values, scales, chunks)
    name = f"{wish.name}-{token}"
    totals = [len(one.slices) for one in series.read]
    graph: Any = {}
    starts = [np.cumsum([0, *sizes]) for sizes in chunks]
    for number in np.ndindex(*map(len, chunks)):
        cut = tuple(
            slice(int(starts[axis][i]), int(starts[axis][i + 1]))
            for axis, i in enumerate(number)
        )
        run = places[cut]
        by_object: dict[int, list[tuple[int, int]]] = {}
        for at, place in enumerate(run.ravel().tolist()):
            index, frame = order[place]
            by_object.setdefault(index, []).append((frame, at))
        block = Block(
            part=part,
            mirror=mirror,
            objects=tuple(identity[index] for index in by_object),
            frames=tuple(tuple(found) for found in by_object.values()),
            totals=tuple(totals[index] for index in by_object),
            shape=(*run.shape, *plane),
            plane=plane,
            values=values,
            scales=tuple(scales[place] for place in run.ravel()) if scales else (),
        )
        graph[(name, *number, *[0] * len(plane))] = (load, block)
    return da.Array(graph, name, (*chunks, *((side,) for side in plane)), dtype=dtype)


def _chunks(
    counts: tuple[int, ...],
    plane: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk_bytes: int | None,
) -> tuple[tuple[int, ...], ...]:
    """Cut leading axis and slices into runs of about equal size."""
    weight = int(np.prod(plane)) * dtype.itemsize
    if chunk_bytes is None:
        least, most = CHUNK_SLICES
        run = min(max(CHUNK_BYTES // weight, least), most)
    else:
        if chunk_bytes < 1:
            msg = f"chunk_bytes is at least 1; got {chunk_bytes}"
            raise RequestError(msg)
        run = max(1, chunk_bytes // weight)
    *leading, slices = counts
    if not leading:
        return (_even(slices, run),)
    if slices <= run:
        return _even(leading[0], run // slices), (slices,)
    return (1,) * leading[0], _even(slices, run)


def _even(count: int, most: int) -> tuple[int, ...]:
    runs = -(-count // most)
    size, more = divmod(count, runs)
    return (size + 1,) * more + (size,) * (runs - more)


@dataclass(frozen=True, eq=False, repr=False)
class Volumes(BySeries["DataArray | DataTree"]):
    """Volumes by SeriesInstanceUID, in order, each made when it is asked for."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `to_volume`."""
    published: Callable[[str], Mapping[str, Any] | None] | None = None
    """Gives what the index tables say of a series."""

    def _made(self, uid: str, manifest: Manifest) -> DataArray | DataTree:
        published = None if self.published is None else self.published(uid)
        return to_volume(manifest, self.mirror, published=published, **self.options)
