"""Blocks of masks: what a task holds, and how it reads frames into an array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize

from intake_idc.errors import (
    DicomReadError,
    GeometryError,
    IntegrityError,
    RequestError,
)
from intake_idc.lazy.mask_places import (
    COLUMN,
    COLUMNS_DOWN,
    FRAME,
    ROW,
    ROWS_DOWN,
    SEGMENT,
    SLOT,
    Placed,
)
from intake_idc.storage import each

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from intake_idc.lazy.handles import DicomObject

__all__ = ["mask_array"]

CHUNK_BYTES = 64 * 1024**2
"""Bytes of a block of masks."""
WHOLE_BYTES = 16 * 1024**2
"""Masks up to this are one block: their frames are read once, together."""
BLOCKS = 100_000
"""Blocks that masks may have: a scheduler takes ten minutes for as many."""


@dataclass(frozen=True)
class _Frames:
    """Frames of one object that go into a block."""

    found: DicomObject
    frames: npt.NDArray[np.int64]
    """See `FRAME`; slices count from the first of the block."""
    numbers: tuple[int, ...]
    """Segments of the object that the block holds, in its order."""
    first: int
    """Which of the block's segments the first of them is."""
    plane: tuple[int, int]
    """Rows and columns of a frame."""
    labelled: bool
    """Whether a frame holds the numbers of segments."""
    maximum: int
    """The stored value that means 1; 0 to leave values as they are."""


@dataclass(frozen=True)
class _Block:
    """What a task needs to make one block."""

    shape: tuple[int, ...]
    dtype: str
    frames: tuple[_Frames, ...]


def mask_array(
    objects: Sequence[Placed],
    shape: tuple[int, int, int],
    *,
    combine: bool,
    rescale: bool,
) -> Any:
    """Give the masks of placed frames as a `dask.array`; nothing is read.

    Parameters
    ----------
    objects : sequence of Placed
        Their segments lie one after another.
    shape : tuple of int
        Slices, rows, columns.
    combine : bool
        Segment numbers in one volume.
    rescale : bool
        Fractions from 0 to 1.

    Returns
    -------
    dask.array.Array
        ``(segment, slice, row, column)``, a block for each segment, or for all those of
        a label map; ``(slice, row, column)`` where they are combined.

    Raises
    ------
    RequestError
        There are more blocks than a scheduler can hold.
    """
    import dask.array as da

    dtype = _dtype(objects, combine=combine, rescale=rescale)
    counts = [len(one.segments) for one in objects]
    whole = math.prod(shape) * dtype.itemsize
    if combine:
        groups = None
        step = CHUNK_BYTES // (shape[1] * shape[2] * dtype.itemsize)
    elif whole * sum(counts) <= WHOLE_BYTES:
        groups, step = [sum(counts)], shape[0]
    else:
        # Segments of a label map lie in the same frames, those of others in their own.
        groups = [
            size
            for one, count in zip(objects, counts, strict=True)
            for size in ([count] if one.about.kind == "LABELMAP" else [1] * count)
        ]
        step = CHUNK_BYTES // (shape[1] * shape[2] * dtype.itemsize * max(groups))
    step = min(max(step, 1), shape[0])
    slabs = [min(step, shape[0] - first) for first in range(0, shape[0], step)]
    chunks = ((slabs,) if groups is None else (groups, slabs)) + (
        (shape[1],),
        (shape[2],),
    )
    token = tokenize(
        [(one.found.url, one.found.size, one.found.instance.etag) for one in objects],
        [one.found.mirror for one in objects],
        [one.segments for one in objects],
        [one.frames.tobytes() for one in objects],
        (shape, str(dtype), combine, rescale),
    )
    name = f"masks-{token}"
    many = len(slabs) * len(groups or [1])
    if many > BLOCKS:
        msg = (
            f"{objects[0].found.url}: {sum(counts)} segments on {shape} voxels make "
            f"{many:,} blocks of masks, more than {BLOCKS:,}; take fewer segments"
        )
        raise RequestError(msg)
    graph: dict[Any, Any] = {}
    for group, first, stop in _groups(groups, sum(counts)):
        for slab, size in enumerate(slabs):
            lead = () if groups is None else (stop - first,)
            block = _Block(
                (*lead, size, *shape[1:]),
                dtype.str,
                tuple(
                    _parts(
                        objects,
                        (first, stop),
                        (slab * step, slab * step + size),
                        scaled=dtype.kind == "f" and rescale,
                    )
                ),
            )
            at = (slab, 0, 0) if groups is None else (group, slab, 0, 0)
            graph[(name, *at)] = (_combined if groups is None else _stacked, block)
    return da.Array(graph, name, chunks, dtype=dtype)


def _groups(groups: Sequence[int] | None, count: int) -> list[tuple[int, int, int]]:
    """Give number, first and last segment of each group."""
    ends = np.cumsum([count] if groups is None else groups).tolist()
    return [(n, a, b) for n, (a, b) in enumerate(zip([0, *ends], ends, strict=False))]


def _dtype(objects: Sequence[Placed], *, combine: bool, rescale: bool) -> np.dtype[Any]:
    if combine:
        numbers = [one.number for found in objects for one in found.segments]
        return np.dtype(np.uint8 if max(numbers, default=0) < 2**8 else np.uint16)
    kinds = {one.about.kind for one in objects}
    if "FRACTIONAL" not in kinds:
        return np.dtype(bool)
    if rescale:
        return np.dtype(np.float32)
    bits = [one.bits_allocated or 8 for found in objects for one in found.about.slices]
    return np.dtype(np.uint8 if max(bits, default=8) <= 8 else np.uint16)  # noqa: PLR2004


def _parts(
    objects: Sequence[Placed],
    segments: tuple[int, int],
    slots: tuple[int, int],
    *,
    scaled: bool,
) -> Iterable[_Frames]:
    """Give the frames of a block, by object."""
    before = 0
    for one in objects:
        first, stop = (min(max(at - before, 0), len(one.segments)) for at in segments)
        numbers = tuple(segment.number for segment in one.segments[first:stop])
        at = before + first - segments[0]
        before += len(one.segments)
        labelled = one.about.kind == "LABELMAP"
        table = one.frames
        inside = (slots[0] <= table[:, SLOT]) & (table[:, SLOT] < slots[1])
        if not labelled:
            inside &= np.isin(table[:, SEGMENT], numbers)
        if not numbers or not inside.any():
            continue
        table = table[inside]
        table[:, SLOT] -= slots[0]
        yield _Frames(
            found=one.found,
            frames=table[np.argsort(table[:, FRAME])],
            numbers=numbers,
            first=at,
            plane=(one.about.rows, one.about.columns),
            labelled=labelled,
            maximum=one.about.maximum if scaled else 0,
        )


def _stacked(block: _Block) -> npt.NDArray[Any]:
    """Read a block of masks, one for each segment."""
    out = np.zeros(block.shape, block.dtype)
    for _ in each(partial(_stack, out=out), block.frames):
        pass
    return out


def _stack(part: _Frames, out: npt.NDArray[Any]) -> None:
    for row, frame in _read_frames(part):
        at, cut = _window(row, frame.shape, out.shape[-2:])
        pixels = frame[cut]
        if part.labelled:
            for number, segment in enumerate(part.numbers, part.first):
                out[(number, row[SLOT], *at)] = pixels == segment
            continue
        number = part.first + part.numbers.index(row[SEGMENT])
        value = _value(pixels, part, row[FRAME])
        # To bool, what is not 0 is True; else nothing may be cut off.
        if out.dtype != bool and not np.can_cast(value.dtype, out.dtype, "safe"):
            url = part.found.url
            msg = f"{url}: a frame of {value.dtype} where the header says {out.dtype}"
            raise IntegrityError(msg, url=url)
        out[(number, row[SLOT], *at)] = value


def _value(pixels: npt.NDArray[Any], part: _Frames, frame: int) -> npt.NDArray[Any]:
    """Give what a stored value means: a fraction, where there is a maximum."""
    if not part.maximum:
        return pixels
    if pixels.size and int(pixels.max()) > part.maximum:
        url = part.found.url
        msg = (
            f"{url}: malformed: frame {frame} has values up to {pixels.max()}, and "
            f"MaximumFractionalValue is {part.maximum}; rescale=False gives them as "
            "they are"
        )
        raise DicomReadError(msg, kind="malformed", url=url)
    fraction: npt.NDArray[Any] = pixels.astype(np.float32) / np.float32(part.maximum)
    return fraction


def _combined(block: _Block) -> npt.NDArray[Any]:
    """Read a block of segment numbers."""
    out = np.zeros(block.shape, block.dtype)
    for part in block.frames:
        for row, frame in _read_frames(part):
            at, cut = _window(row, frame.shape, out.shape[-2:])
            there = out[(row[SLOT], *at)]
            numbers = np.where(np.isin(frame[cut], part.numbers), frame[cut], 0)
            if not part.labelled:
                numbers = np.where(frame[cut] != 0, row[SEGMENT], 0)
            overlap = (numbers != 0) & (there != 0)
            if overlap.any():
                raise _overlapping(part, there[overlap], numbers[overlap])
            there += numbers.astype(out.dtype)
    return out


def _overlapping(
    part: _Frames, there: npt.NDArray[Any], numbers: npt.NDArray[Any]
) -> GeometryError:
    one, other, many = int(there[0]), int(numbers[0]), len(there)
    reason = f"segments {one} and {other} overlap in {many} voxels of a frame"
    msg = (
        f"{part.found.url}: {reason}: one volume cannot hold both; leave combine out, "
        "or take fewer segments"
    )
    return GeometryError(
        msg, verdict="overlapping segments", reasons=(reason,), url=part.found.url
    )


def _read_frames(part: _Frames) -> Iterable[tuple[list[int], npt.NDArray[Any]]]:
    rows = part.frames.tolist()
    frames = part.found.frames([row[FRAME] for row in rows])
    for row, frame in zip(rows, frames, strict=True):
        if frame.shape != part.plane:
            url = part.found.url
            msg = f"{url}: a frame of {frame.shape} where the header says {part.plane}"
            raise IntegrityError(msg, url=url)
        down = slice(None, None, -1)
        turned = (
            down if row[ROWS_DOWN] else slice(None),
            down if row[COLUMNS_DOWN] else slice(None),
        )
        yield row, frame[turned]


def _window(
    row: Sequence[int], plane: tuple[int, ...], size: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Give the part of a volume that a frame fills, and the part of the frame."""
    inside, cut = [], []
    for first, length, most in zip((row[ROW], row[COLUMN]), plane, size, strict=True):
        start, stop = max(first, 0), min(first + length, most)
        inside.append(slice(start, stop))
        cut.append(slice(start - first, stop - first))
    return (inside[0], inside[1]), (cut[0], cut[1])
