"""One image of a slide as a lazy array, and rectangles of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from dask.base import tokenize

from intake_idc import dicom
from intake_idc.dicom.absent import absent_pixel
from intake_idc.dicom.tiles import OpticalPath, Tiling
from intake_idc.errors import DicomReadError, GeometryError, RequestError
from intake_idc.lazy.extras import need
from intake_idc.lazy.handles import DicomObject, Source
from intake_idc.storage import each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import dask.array as da
    import numpy.typing as npt
    from xarray import DataArray

    from intake_idc.dicom import FrameIndex

__all__ = ["CHUNK_BYTES", "Level", "Tiled"]

CHUNK_BYTES = 8 * 1024**2
"""Decoded bytes of a chunk: 42 tiles of 256 x 256 in colour, read at once."""
BATCH_BYTES = 64 * 1024**2
"""Decoded bytes of the tiles that are held at once."""
ROUNDING = 1e-6
"""Part of a pixel by which rounding moves a centre."""

Box = tuple[int, int, int, int]
"""Row, column, height and width of a rectangle."""


class Tiled(NamedTuple):
    """One object of a level, and where its planes and paths are among the level's."""

    found: DicomObject
    """The object."""
    tiling: Tiling
    """How it is cut."""
    planes: tuple[int, ...] = (0,)
    """Plane of the level for each plane of the object."""
    paths: tuple[int, ...] = (0,)
    """Path of the level for each path of the object."""


@dataclass(frozen=True)
class Level:
    """One image of a slide: a level of its pyramid, a label, an overview.

    Nothing of its pixels is held. It is pickled with what is known of its tiles.
    """

    parts: tuple[Tiled, ...]
    """The objects that hold it: one, or several of a concatenation, or one for each
    optical path or focal plane."""
    paths: tuple[OpticalPath, ...]
    """Its optical paths."""
    heights: tuple[float, ...]
    """Its focal planes, as height above the slide in mm."""
    rgb: bool = True
    """Luminance and chrominance become red, green and blue."""
    chunk_bytes: int = CHUNK_BYTES
    """Decoded bytes of a chunk of `array`, about."""

    @property
    def tiling(self) -> Tiling:
        """How its first object is cut."""
        return self.parts[0].tiling

    @property
    def rows(self) -> int:
        """Height in pixels."""
        return self.tiling.rows

    @property
    def columns(self) -> int:
        """Width in pixels."""
        return self.tiling.columns

    def __reduce__(self) -> tuple[Callable[..., Level], tuple[Any, ...]]:
        # Without what is remembered, such as the array, whose graph holds the level.
        return type(self), tuple(getattr(self, one.name) for one in fields(self))

    @property
    def stacked(self) -> bool:
        """Whether there are several optical paths or focal planes."""
        return len(self.paths) > 1 or len(self.heights) > 1

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes: path and plane only where there are several of either."""
        return (
            *(("path", "plane") if self.stacked else ()),
            "row",
            "column",
            *(("sample",) if self.tiling.samples > 1 else ()),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `array`."""
        lead = (len(self.paths), len(self.heights)) if self.stacked else ()
        return (*lead, self.rows, self.columns, *_tail(self))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a stored value."""
        return np.dtype(self.tiling.dtype)

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Distance in mm between rows, between columns; None where it is not said."""
        return self.tiling.spacing

    @property
    def affine(self) -> npt.NDArray[np.float64] | None:
        """3x3, float64: from ``(row, column, 1)`` to ``(x, y, 1)`` in mm on the slide.

        See `intake_idc.dicom.tiles.Tiling.affine`.
        """
        return self.tiling.affine

    def __repr__(self) -> str:
        shape = " x ".join(str(size) for size in self.shape)
        between = "" if self.spacing is None else f", {self.spacing[0]:g} mm"
        return f"<Level {shape} {self.dtype}{between}>"

    @cached_property
    def missing(self) -> npt.NDArray[np.bool_]:
        """Which tiles no object holds: ``(path, plane, tile row, tile column)``, bool.

        They are filled; see `fill`.
        """
        shape = (len(self.paths), len(self.heights), *self.tiling.grid)
        missing = np.ones(shape, bool)
        for part in self.parts:
            where = np.ix_(part.paths, part.planes)
            missing[where] &= part.tiling.missing()
        return missing

    @cached_property
    def fill(self) -> tuple[int, ...]:
        """What pixels are where there is no tile: one value for each sample.

        In colour the Recommended Absent Pixel CIELab Value (PS3.3 C.8.12.4.1.3), or
        white; in gray its lightness, or 0.
        """
        return absent_pixel(self.tiling, rgb=self.rgb)

    @cached_property
    def array(self) -> da.Array:
        """The whole level as a lazy array, of `shape` and `dtype`.

        A chunk is a whole number of tiles, cropped at the edges of the matrix, and one
        task, which reads its tiles at once. Where the frames of an object lie is found
        by one task for all chunks.
        """
        return _array(self)

    def region(
        self, row: int, column: int, height: int, width: int
    ) -> npt.NDArray[Any]:
        """Read a rectangle.

        Parameters
        ----------
        row, column : int
            Its first row and column, from 0.
        height, width : int
            Its size.

        Returns
        -------
        numpy.ndarray
            ``(height, width)``, with the axes of `dims` around; `dtype`.

        Raises
        ------
        RequestError
            It is not all inside the level, or not of whole pixels.
        DicomReadError
            A tile cannot be read or decoded.
        """
        box = row, column, height, width
        if not all(isinstance(number, int | np.integer) for number in box):
            msg = f"row, column, height and width are whole pixels; got {box}"
            raise RequestError(msg)
        inside = 0 <= row <= row + height <= self.rows
        if not inside or not 0 <= column <= column + width <= self.columns:
            msg = (
                f"a region of {height} x {width} pixels at ({row}, {column}) is not "
                f"inside a level of {self.rows} x {self.columns}"
            )
            raise RequestError(msg)
        block = _read_block(
            self,
            [part.found.frame_index for part in self.parts],
            box,
            range(len(self.paths)),
            range(len(self.heights)),
        )
        return block if self.stacked else block[0, 0]

    def pixels_of(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """Give the region whose pixels have their centres between two corners.

        Parameters
        ----------
        x0, y0, x1, y1 : float
            Two opposite corners of a rectangle in the coordinates of the slide, in mm.
            Where rows of the matrix are not along an axis of the slide, the region is
            what encloses it.

        Returns
        -------
        tuple of int
            ``(row, column, height, width)``, cut to the level; no size where nothing
            of it lies in the rectangle.

        Raises
        ------
        GeometryError
            The level does not say where it lies.
        RequestError
            A corner is no place.
        """
        if not np.isfinite([x0, y0, x1, y1]).all():
            msg = (
                f"corners are finite numbers, in mm; got ({x0}, {y0}) and ({x1}, {y1})"
            )
            raise RequestError(msg)
        affine = self.affine
        if affine is None:
            msg = f"{self.parts[0].found.url} does not say where on the slide it lies"
            raise GeometryError(msg, verdict="no place", reasons=(msg,))
        corners = np.array([[x, y, 1.0] for x in (x0, x1) for y in (y0, y1)])
        index = (corners @ np.linalg.inv(affine).T)[:, :2]
        # A centre on the edge is inside, whatever rounding does to it.
        first = np.ceil(index.min(axis=0) - ROUNDING)
        last = np.floor(index.max(axis=0) + ROUNDING)
        sizes = np.array([self.rows, self.columns])
        begin = np.clip(first, 0, sizes)
        end = np.clip(last + 1, begin, sizes)
        row, column = (int(n) for n in begin)
        height, width = (int(n) for n in end - begin)
        return row, column, height, width

    def region_mm(self, x0: float, y0: float, x1: float, y1: float) -> npt.NDArray[Any]:
        """Read what lies between two corners on the slide, in mm; see `pixels_of`.

        Returns
        -------
        numpy.ndarray
            As of `region`, in rows and columns of the matrix: nothing is turned.
        """
        return self.region(*self.pixels_of(x0, y0, x1, y1))

    def to_xarray(self) -> DataArray:
        """Give the level as a lazy `xarray.DataArray`.

        With the axes of `dims`, the coordinates ``x`` and ``y`` in mm on the slide
        where rows are along one of its axes, and ``affine``, ``spacing`` and uids as
        attributes. Takes the ``volumes`` extra.
        """
        xr = need("xarray", "volumes")
        found: DataArray = xr.DataArray(
            self.array, dims=self.dims, coords=self._coordinates(), attrs=self._said()
        )
        for name in ("x", "y"):
            # Not of an axis' own name, so that only some versions make an index of it.
            if name in found.coords and name not in found.xindexes:
                found = found.set_xindex(name)
        return found

    def _coordinates(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.stacked:
            found["path"] = [path.identifier for path in self.paths]
            found["plane"] = list(self.heights)
        affine = self.affine
        if affine is None:
            return found
        for axis, name in enumerate("xy"):
            for dim, (step, size) in enumerate(
                zip(affine[axis, :2], (self.rows, self.columns), strict=True)
            ):
                if step and not affine[axis, 1 - dim]:
                    values = affine[axis, 2] + step * np.arange(size)
                    found[name] = (("row", "column")[dim], values)
        return found

    def _said(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "crdc_series_uuid": self.parts[0].found.crdc_series_uuid,
            "SOPInstanceUID": [part.tiling.sop_instance_uid for part in self.parts],
            "OpticalPathDescription": [path.description for path in self.paths],
        }
        if self.spacing is not None:
            said["spacing"] = self.spacing
        if self.affine is not None:
            said["affine"] = self.affine
        return said


def _tail(level: Level) -> tuple[int, ...]:
    samples = level.tiling.samples
    return (samples,) if samples > 1 else ()


def _array(level: Level) -> da.Array:
    import dask.array as da

    tiling = level.tiling
    down, across = _chunk_tiles(level)
    rows = _edges(level.rows, down * tiling.tile_rows)
    columns = _edges(level.columns, across * tiling.tile_columns)
    token = tokenize(level)
    name, state = f"tiles-{token}", f"level-{token}"
    indexes = [f"frames-{token}-{n}" for n in range(len(level.parts))]
    # What is known of the level is in the graph once, and each index is made once.
    graph: Any = {state: level}
    for found, part in zip(indexes, level.parts, strict=True):
        graph[found] = (DicomObject.frame_index, part.found)
    lead = [(p, z) for p in range(len(level.paths)) for z in range(len(level.heights))]
    for path, plane in lead:
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                box = (top, left, bottom - top, right - left)
                used = [
                    found if _holds(part, box, path, plane) else None
                    for found, part in zip(indexes, level.parts, strict=True)
                ]
                at = (path, plane, i, j) if level.stacked else (i, j)
                key = (name, *at, *(0 for _ in _tail(level)))
                graph[key] = (_read_chunk, state, used, *box, path, plane)
    chunks: list[tuple[int, ...]] = [
        tuple(b - a for a, b in rows),
        tuple(b - a for a, b in columns),
        *((size,) for size in _tail(level)),
    ]
    if level.stacked:
        chunks[:0] = [(1,) * len(level.paths), (1,) * len(level.heights)]
    return da.Array(graph, name, tuple(chunks), dtype=level.dtype, shape=level.shape)


def _chunk_tiles(level: Level) -> tuple[int, int]:
    """Say how many tiles a chunk has, down and across: about a square."""
    tiling = level.tiling
    size = tiling.tile_rows * tiling.tile_columns * tiling.samples
    fit = max(level.chunk_bytes // (size * level.dtype.itemsize), 1)
    down, across = tiling.grid
    side = max(math.isqrt(fit), 1)
    tall = min(side, down)
    wide = min(max(fit // tall, 1), across)
    return min(max(fit // wide, 1), down), wide


def _edges(size: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _holds(part: Tiled, box: Box, path: int, plane: int) -> bool:
    """Say whether an object may hold tiles of a chunk."""
    if path not in part.paths or plane not in part.planes:
        return False
    if not part.tiling.concatenation:
        return True
    return bool(len(part.tiling.places(*box).frame))


def _read_chunk(
    level: Level,
    indexes: Sequence[FrameIndex | None],
    row: int,
    column: int,
    height: int,
    width: int,
    path: int,
    plane: int,
) -> npt.NDArray[Any]:
    box = row, column, height, width
    block = _read_block(
        level, indexes, box, range(path, path + 1), range(plane, plane + 1)
    )
    return block if level.stacked else block[0, 0]


def _read_block(
    level: Level,
    indexes: Sequence[Any],
    box: Box,
    paths: range,
    planes: range,
) -> npt.NDArray[Any]:
    """Read a rectangle of some paths and planes: (path, plane, row, column, ...)."""
    _, _, height, width = box
    shape = (len(paths), len(planes), height, width, *_tail(level))
    fill = level.fill if _tail(level) else level.fill[0]
    out = np.full(shape, fill, level.dtype)
    for part, index in zip(level.parts, indexes, strict=True):
        if index is not None:
            _place(out, level, part, index, box, paths, planes)
    return out


def _place(
    out: npt.NDArray[Any],
    level: Level,
    part: Tiled,
    index: Any,
    box: Box,
    paths: range,
    planes: range,
) -> None:
    """Read the tiles of one object that lie in a box, and put them there."""
    tiling = part.tiling
    found = tiling.places(*box)
    path, plane = np.array(part.paths)[found.path], np.array(part.planes)[found.plane]
    meant = np.flatnonzero(np.isin(path, paths) & np.isin(plane, planes))
    if not len(meant):
        return
    if callable(index):
        index = index()
    _check_like(index, tiling)
    source = Source(part.found.instance, part.found.mirror, known=True)
    step = max(1, BATCH_BYTES // max(index.decoded_bytes, 1))
    for begin in range(0, len(meant), step):
        batch = meant[begin : begin + step]
        frames = found.frame[batch].tolist()
        read = dicom.read_frames(index, frames, source.read_many)
        corners = [(found.row[n], found.column[n]) for n in batch]
        decode = partial(_decoded, index=index, tiling=tiling, rgb=level.rgb)
        tiles = each(decode, zip(read, frames, corners, strict=True))
        for n, (row, column), tile in zip(batch, corners, tiles, strict=True):
            to = out[path[n] - paths.start, plane[n] - planes.start]
            _put(to, tile, int(row) - box[0], int(column) - box[1])


def _check_like(index: FrameIndex, tiling: Tiling) -> None:
    """Hold what frames are against what the level was made for."""
    found = index.frames, index.rows, index.columns, index.samples, index.dtype.str
    tile = tiling.tile_rows, tiling.tile_columns
    made = tiling.frames, *tile, tiling.samples, tiling.dtype
    if found != made:
        msg = f"{index.url}: malformed: frames of {found} in a level of {made}"
        raise DicomReadError(msg, kind="malformed", url=index.url)


def _put(out: npt.NDArray[Any], tile: npt.NDArray[Any], row: int, column: int) -> None:
    """Put a tile where it lies, as far as that is inside."""
    height, width = out.shape[:2]
    top, left = max(row, 0), max(column, 0)
    bottom = min(row + tile.shape[0], height)
    right = min(column + tile.shape[1], width)
    out[top:bottom, left:right] = tile[
        top - row : bottom - row, left - column : right - column
    ]


def _decoded(
    read: tuple[bytes, int, tuple[int, int]],
    index: FrameIndex,
    tiling: Tiling,
    *,
    rgb: bool,
) -> npt.NDArray[Any]:
    """Decode a tile; at the edges of the matrix it may be smaller than the others."""
    data, frame, (row, column) = read
    # What lies outside of the matrix may be left out, and nothing else.
    least = (
        min(tiling.tile_rows, tiling.rows - int(row)),
        min(tiling.tile_columns, tiling.columns - int(column)),
    )
    return dicom.decode(index, data, frame, rgb=rgb, pad=True, least=least)
