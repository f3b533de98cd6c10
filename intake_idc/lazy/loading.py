"""How the objects of a series become slices, and slices arrays.

Objects are read side by side, and each is decoded as it arrives. What travels to a
worker is a few packed values for each object: no handle, no URL, no header.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from intake_idc import dicom, volume
from intake_idc.errors import GeometryError, IntegrityError, RequestError
from intake_idc.lazy.handles import DicomObject
from intake_idc.storage import Instance, each

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from intake_idc.manifest import Part
    from intake_idc.storage import Mirror

__all__ = [
    "Block",
    "Described",
    "Held",
    "ReadSeries",
    "Values",
    "Wish",
    "bare",
    "described",
    "held",
    "load",
    "plane_of",
    "scales_of",
    "stored_dtype",
    "to_numpy",
]

WHOLE_BYTES = 16 * 1024**2
"""An object up to this comes in one request where most of its frames are wanted; a
larger one in ranges, side by side."""

_OF_SERIES = (
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "Modality",
    "DoseType",
    "DoseSummationType",
)
_OF_VALUES = ("Units", "DoseUnits")
_PLACE = ("position", "orientation", "pixel_spacing", "rows", "columns")


class Described(NamedTuple):
    """What is kept of the header of an object."""

    slices: list[volume.Slice]
    """One for each frame that has a place."""
    about: Mapping[str, Any]
    """What the values mean, and, of the first object, what series it is of."""
    table: bool
    """Whether output units are by a table, Modality LUT Sequence (PS3.3 C.11.1)."""


class Held(NamedTuple):
    """An object that was read whole."""

    slices: list[volume.Slice]
    """As in `Described`."""
    about: Mapping[str, Any]
    """As in `Described`."""
    table: bool
    """As in `Described`."""
    frames: dict[int, npt.NDArray[Any]]
    """Stored values of the frames that have a place, by number."""


def described(objects: Sequence[DicomObject]) -> list[Described]:
    """Read the headers of objects, 16 KiB of each, side by side; in order.

    Raises
    ------
    DicomReadError, StorageError
        A header cannot be read.
    GeometryError
        A value of it is of the wrong kind.
    """
    return list(each(_described, enumerate(objects)))


def held(objects: Sequence[DicomObject]) -> list[Held]:
    """Read objects, each once, and decode what has a place; in order.

    Raises
    ------
    DicomReadError, StorageError
        An object cannot be read, or not decoded.
    GeometryError
        A value of a header is of the wrong kind.
    """
    return list(each(_held, enumerate(objects)))


def _described(numbered: tuple[int, DicomObject]) -> Described:
    index, found = numbered
    return _describe(found.header(), index, found.url)


def _describe(header: dicom.Dataset, index: int, url: str) -> Described:
    keywords = _OF_VALUES if index else (*_OF_SERIES, *_OF_VALUES)
    about = dicom.values(header, keywords, url)
    table = "ModalityLUTSequence" in header
    return Described(dicom.slices_of(header, index, url), about, table)


def _held(numbered: tuple[int, DicomObject]) -> Held:
    index, found = numbered
    if found.size > WHOLE_BYTES:
        slices, about, table = _described(numbered)
        wanted = _placed(slices)
        rgb = any(one.samples > 1 for one in slices)
        read = zip(wanted, found.frames(wanted, rgb=rgb), strict=True)
        return Held(slices, about, table, dict(read))
    data = found.read()
    header = dicom.read_header(lambda a, b: data[a:b], len(data), found.url)
    slices, about, table = _describe(header, index, found.url)
    wanted = _placed(slices)
    rgb = any(one.samples > 1 for one in slices)
    frames = zip(wanted, _decoded(data, found.url, wanted, rgb=rgb), strict=True)
    return Held(slices, about, table, dict(frames))


def _placed(slices: Sequence[volume.Slice]) -> list[int]:
    """Give the numbers of the frames that may come into a volume."""
    return [
        one.frame
        for one in slices
        if one.frames == 1 and all(getattr(one, name) is not None for name in _PLACE)
    ]


def _decoded(
    data: bytes, url: str, frames: Sequence[int], *, rgb: bool
) -> Iterator[npt.NDArray[Any]]:
    """Decode frames out of the bytes of their object."""
    if not frames:
        return
    index = dicom.read_index(
        lambda a, b: data[a:b],
        len(data),
        url,
        read_many=lambda ranges: [data[a:b] for a, b in ranges],
    )
    raw = dicom.read_frames(
        index, frames, lambda ranges: [data[a:b] for a, b in ranges]
    )
    if len(frames) == 1:
        yield dicom.decode(index, next(iter(raw)), frames[0], rgb=rgb)
        return
    yield from each(
        partial(_decode, index=index, rgb=rgb), zip(raw, frames, strict=True)
    )


def _decode(
    read: tuple[bytes, int], index: dicom.FrameIndex, *, rgb: bool
) -> npt.NDArray[Any]:
    return dicom.decode(index, *read, rgb=rgb)


def stored_dtype(stack: volume.Stack) -> np.dtype[Any]:
    """Give the dtype of the stored values of a stack, as its headers say it.

    Float and Double Float Pixel Data come without Bits Stored (PS3.3 C.7.6.3).

    Raises
    ------
    GeometryError
        Bits Allocated is none that DICOM has.
    """
    bits = stack.bits_allocated
    if bits == 1:
        return np.dtype(np.uint8)
    if bits in (32, 64) and stack.bits_stored is None:
        return np.dtype(f"f{bits // 8}")
    if bits not in (8, 16, 32, 64):
        reason = f"BitsAllocated of {bits}"
        msg = f"{reason}: 1, 8, 16, 32 or 64 is expected"
        raise GeometryError(msg, reasons=(reason,))
    return np.dtype(f"{'ui'[stack.signed]}{bits // 8}")


@dataclass(frozen=True)
class Block:
    """What a task needs to make one block of a volume, in plain values."""

    part: Part
    """The series."""
    mirror: Mirror
    """Where it is read."""
    objects: tuple[tuple[str, int, str | None], ...]
    """Key, bytes and entity tag of each object."""
    frames: tuple[tuple[tuple[int, int], ...], ...]
    """Of each object: the frames that are wanted, and where in the block each goes."""
    totals: tuple[int, ...]
    """Frames that each object has."""
    shape: tuple[int, ...]
    """Of the block; ``(slice, row, column)`` and what stands around it."""
    plane: tuple[int, ...]
    """Of one slice."""
    values: Values
    """What becomes of stored values."""
    scales: tuple[tuple[float, float], ...] = ()
    """Slope and intercept of each slice, where it is rescaled."""

    def handle(self, number: int) -> DicomObject:
        """Give the handle of an object."""
        key, size, etag = self.objects[number]
        root = self.mirror.bucket_root(self.part.aws_bucket)
        instance = Instance(self.part, key, size, f"{root}/{key}", etag)
        return DicomObject(instance, self.mirror)


def load(block: Block) -> npt.NDArray[Any]:
    """Read a block: its objects side by side, into one array.

    Raises
    ------
    DicomReadError, StorageError
        An object cannot be read, or not decoded.
    IntegrityError
        An object is not what its header said when the volume was made.
    GeometryError
        Values do not fit the dtype.
    """
    slices = math.prod(block.shape) // math.prod(block.plane)
    out = np.empty((slices, *block.plane), block.values.dtype)
    for _ in each(partial(_fill, block=block, out=out), range(len(block.objects))):
        pass
    return out.reshape(block.shape)


def _fill(number: int, block: Block, out: npt.NDArray[Any]) -> None:
    found = block.handle(number)
    wanted = [frame for frame, _ in block.frames[number]]
    rgb = len(block.plane) > 2  # noqa: PLR2004
    most = 2 * len(wanted) >= block.totals[number]
    if most and found.size <= WHOLE_BYTES:
        frames = _decoded(found.read(), found.url, wanted, rgb=rgb)
    else:
        frames = found.frames(wanted, rgb=rgb)
    for (_, at), frame in zip(block.frames[number], frames, strict=True):
        scale = block.scales[at] if block.scales else None
        block.values.put(out, at, frame, scale, found.url)


@dataclass(frozen=True)
class Values:
    """What becomes of the stored values of a volume."""

    stored: str
    """Dtype of the stored values."""
    working: str
    """Dtype in which they are rescaled; of stored values, where they are not."""
    dtype: str
    """Dtype of the volume."""

    def put(
        self,
        out: npt.NDArray[Any],
        at: int,
        frame: npt.NDArray[Any],
        scale: tuple[float, float] | None,
        url: str,
    ) -> None:
        """Put a frame into its place, rescaled where there is a scale.

        Raises
        ------
        IntegrityError
            It is of another size or type than its header said.
        GeometryError
            It holds values that do not fit.
        """
        plane = out.shape[1:]
        if frame.shape != plane or not np.can_cast(frame.dtype, self.stored, "safe"):
            msg = (
                f"{url}: a frame of {frame.shape} {frame.dtype} where {plane} "
                f"{np.dtype(self.stored)} was due by its header"
            )
            raise IntegrityError(msg, url=url)
        values = frame
        if scale is not None:
            values = volume.rescale(frame, *scale, self.working)
        if not np.can_cast(values.dtype, out.dtype, "safe"):
            # What is infinite stays so; what would become infinite does not fit.
            finite = values[np.isfinite(values)]
            limits = (np.iinfo if out.dtype.kind in "iu" else np.finfo)(out.dtype)
            low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
            if low < limits.min or high > limits.max:
                reason = f"values from {low} to {high}"
                msg = f"{url}: {reason} do not fit {out.dtype}"
                raise GeometryError(msg, reasons=(reason,), url=url)
        out[at] = values


def bare(part: Part) -> Part:
    """Give the series of a part, without what only its listing needs."""
    return replace(part, objects=None, only=None, first_instance=0, last_instance=None)


@dataclass(frozen=True)
class Wish:
    """How a volume is wanted."""

    rescale: bool = False
    """In output units."""
    dtype: str | None = None
    """Of the array; None is what the headers ask for."""
    name: str = "volume"
    """Of the array."""
    chunk_bytes: int | None = None
    """Bytes of a chunk."""

    def values(self, stack: volume.Stack) -> Values:
        """Say what becomes of the stored values of a stack.

        Raises
        ------
        RequestError
            A dtype of whole numbers is wanted, and what is rescaled is not whole.
        """
        stored = stored_dtype(stack)
        natural = stored
        if self.rescale:
            natural = volume.rescaled_dtype(
                stored, stack.slopes, stack.intercepts, bits=stack.bits_stored
            )
        dtype = natural if self.dtype is None else np.dtype(self.dtype)
        if natural.kind == "f" and dtype.kind != "f":
            msg = f"these values are {natural}; they cannot be given as {dtype}"
            raise RequestError(msg, dtype=str(dtype))
        # More digits than are needed are computed with, fewer are not.
        finer = dtype.kind == "f" and np.can_cast(natural, dtype, "safe")
        return Values(stored.str, (dtype if finer else natural).str, dtype.str)


@dataclass(frozen=True)
class ReadSeries:
    """The objects of a series, and what was read of them."""

    objects: Sequence[DicomObject]
    """In order."""
    read: Sequence[Described] | Sequence[Held]
    """Of each."""

    @cached_property
    def by_place(self) -> dict[tuple[int, int], volume.Slice]:
        """Every slice, by the number of its object and that of its frame."""
        slices = (one for own in self.read for one in own.slices)
        return {(one.index, one.frame): one for one in slices}

    def arrange(self, *, strict: bool) -> volume.Arrangement:
        """Sort the slices into stacks; see `intake_idc.volume.arrange`."""
        slices = (one for own in self.read for one in own.slices)
        return volume.arrange(slices, strict=strict)

    def ordered(self, stack: volume.Stack) -> list[volume.Slice]:
        """Give the slices of a stack, in order."""
        places = zip(stack.order, stack.frames, strict=True)
        return [self.by_place[place] for place in places]

    def attrs(self) -> dict[str, Any]:
        """Say which series it is."""
        about = self.read[0].about
        found = {name: about[name] for name in _OF_SERIES if about[name] is not None}
        found["crdc_series_uuid"] = self.objects[0].crdc_series_uuid
        return found


def plane_of(stack: volume.Stack) -> tuple[int, ...]:
    """Give the shape of one slice: rows, columns, and samples where it has colour."""
    plane = stack.shape[-2:]
    return plane if stack.samples == 1 else (*plane, stack.samples)


def scales_of(
    series: ReadSeries, stack: volume.Stack, wish: Wish
) -> tuple[tuple[float, float], ...]:
    """Give slope and intercept of each slice; nothing where it is not rescaled.

    Raises
    ------
    RequestError
        A slice has no slope, but a table.
    """
    if not wish.rescale:
        return ()
    by_table = [index for index in stack.order if series.read[index].table]
    if by_table:
        msg = (
            f"{series.objects[by_table[0]].url}: output units are by a table (Modality "
            "LUT Sequence), which is not applied; rescale=False gives stored values"
        )
        raise RequestError(msg)
    return tuple(zip(stack.slopes, stack.intercepts, strict=True))


def to_numpy(series: ReadSeries, stack: volume.Stack, wish: Wish) -> npt.NDArray[Any]:
    """Take what was read of a stack, and put it into one array.

    Raises
    ------
    IntegrityError, GeometryError, RequestError
        As `Values.put`, `Wish.values` and `scales_of`.
    """
    values, scales = wish.values(stack), scales_of(series, stack, wish)
    places = list(zip(stack.order, stack.frames, strict=True))
    plane = plane_of(stack)
    out = np.empty((len(places), *plane), values.dtype)

    def place(at: int) -> None:
        index, frame = places[at]
        found = cast("Held", series.read[index])
        scale = scales[at] if scales else None
        url = series.objects[index].url
        # Taken out, so that the volume is not held twice.
        values.put(out, at, found.frames.pop(frame), scale, url)

    for _ in each(place, range(len(places))):
        pass
    return out.reshape(*stack.shape[:-2], *plane)
