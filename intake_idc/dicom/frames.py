"""Where the frames of an object lie, and how to get some of them in few ranges.

`read_index` makes a `FrameIndex` of an object, once; `plan` says which ranges hold
some of its frames; `pieces` takes what came of them; `join` gives the bytes of a frame,
to be decoded. Frames count from 0, as in pydicom, not from 1 as in DICOM's own
references.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from intake_idc.dicom.inflating import inflate
from intake_idc.dicom.tables import HEAD, Bounds, ReadMany, bounds
from intake_idc.dicom.walking import (
    BIG_ENDIAN,
    DEFLATED,
    FRAMES,
    IMPLICIT,
    ITEM,
    SEQUENCE_END,
    UNDEFINED,
    Image,
    Read,
    find_pixels,
)
from intake_idc.errors import DicomReadError, RequestError

__all__ = [
    "BITS",
    "DECODED_BYTES",
    "GAP",
    "RANGE_BYTES",
    "FrameIndex",
    "count_frames",
    "join",
    "pieces",
    "plan",
    "read_frames",
    "read_index",
]

Pieces = Sequence[tuple[int, bytes]]
"""Bytes of an object, each with where it begins, in order."""

DECODED_BYTES = 1024**3
"""Bytes that one decoded frame may take."""
GAP = 32 * 1024
"""Bytes between two frames that are read along rather than asked for around: what a
connection of 50 MB/s brings in the 30 ms of another request would be 1.5 MB, but
requests run side by side."""
RANGE_BYTES = 16 * 1024**2
"""Bytes of one range; a longer frame comes in several."""

EXPLICIT = "1.2.840.10008.1.2.1"
NATIVE = frozenset({IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED})
VIDEO = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.7.")
"""How the Transfer Syntax UIDs of MPEG-2, MPEG-4, HEVC and SMPTE streams begin."""
STILL = "1.2.840.10008.1.2.4.11"
"""JPEG XL, which begins as some of these do."""
BITS = (1, 8, 16, 32, 64)
"""Bits Allocated that there are."""
HALVED = "YBR_FULL_422"
"""Native, it has two samples a pixel instead of three (PS3.3 C.7.6.3.1.2)."""


@dataclass(frozen=True)
class FrameIndex:
    """Where each frame of an object lies, and what it takes to decode it.

    It travels: native frames are found by arithmetic, encapsulated ones by 8 bytes
    each.
    """

    transfer_syntax: str
    """Transfer Syntax UID."""
    frames: int
    """Number of frames."""
    rows: int
    """Height of a frame, in pixels."""
    columns: int
    """Width of a frame, in pixels."""
    samples: int
    """Samples of a pixel: 1, or 3 for colour."""
    bits_allocated: int
    """Bits that a sample takes: 1, 8, 16, 32 or 64."""
    bits_stored: int
    """Bits of these that count."""
    high_bit: int
    """The highest of these."""
    pixel_representation: int
    """0: unsigned; 1: signed."""
    photometric_interpretation: str
    """What the samples mean, such as ``"MONOCHROME2"``."""
    planar_configuration: int
    """0: colour by pixel; 1: by plane."""
    keyword: str
    """``"PixelData"``, ``"FloatPixelData"`` or ``"DoubleFloatPixelData"``."""
    swapped: bool
    """Bytes are exchanged in pairs: 8 bits as OW, big endian."""
    size: int
    """Bytes of the object."""
    start: int
    """Where the value of the pixel data begins; of a deflated object, inflated."""
    deflated_from: int = 0
    """Where the deflated part of the object begins, or 0."""
    offsets: bytes = b""
    """Where encapsulated frames begin and where the last ends: 8 bytes each, little
    endian; empty where frames are native."""
    open_ended: bool = False
    """The last frame ends at a delimiter before that."""
    url: str = ""
    """Where the object lies."""

    @property
    def encapsulated(self) -> bool:
        """Whether frames are items (PS3.5 A.4), or stand bit by bit (PS3.5 8.1)."""
        return bool(self.offsets)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a decoded frame: rows, columns, and samples where there are 3."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of a stored value, in the byte order of the machine."""
        if self.keyword != "PixelData":
            return np.dtype("f4" if self.keyword == "FloatPixelData" else "f8")
        if self.bits_allocated == 1:
            return np.dtype("u1")
        return np.dtype(f"{'ui'[self.pixel_representation]}{self.bits_allocated // 8}")

    @property
    def frame_bits(self) -> int:
        """Bits of a native frame; frames of one bit a pixel may end inside a byte."""
        bits = self.rows * self.columns * self.samples * self.bits_allocated
        if self.photometric_interpretation == HALVED and not self.encapsulated:
            return bits // 3 * 2
        return bits

    @property
    def decoded_bytes(self) -> int:
        """Bytes of a decoded frame."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def span(self, frame: int) -> tuple[int, int]:
        """Give first byte and end of a frame, with the items that hold it.

        The frames of a deflated object lie in what it inflates to.

        Raises
        ------
        RequestError
            There is no such frame.
        """
        if not 0 <= frame < self.frames:
            msg = f"{self.url}: no frame {frame}; they are 0 to {self.frames - 1}"
            raise RequestError(msg, frame=frame)
        if self.offsets:
            start, stop = struct.unpack_from("<QQ", self.offsets, 8 * frame)
            return start, stop
        bits = self.frame_bits
        start, stop = frame * bits // 8, -(-(frame + 1) * bits // 8)
        if self.swapped:
            # A byte of a neighbour comes with a frame of an odd number of bytes.
            start, stop = start - start % 2, stop + stop % 2
        return self.start + start, self.start + stop


def read_index(
    read: Read, size: int, url: str = "", *, read_many: ReadMany | None = None
) -> FrameIndex:
    """Find the frames of an object.

    Takes one or two requests to reach the pixel data, and at most one more for an
    offset table. Only where there are several encapsulated frames and no right table,
    all of the pixel data is read, in ranges of 4 MiB, 16 at a time.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` gives the bytes of that range.
    size : int
        Bytes of the whole object.
    url : str
        Where it lies, for errors.
    read_many : callable, optional
        ``read_many([(start, stop), ...])`` gives the bytes of each, best in parallel.

    Raises
    ------
    DicomReadError
        It is not DICOM, has no pixels, is cut short or malformed, or says of itself
        what cannot be.
    """
    image = find_pixels(read, size, url)
    index = _described(image, size, url)
    if index.transfer_syntax in NATIVE:
        _check_native(image, index)
        return index
    if image.length != UNDEFINED:
        msg = f"{url}: malformed: pixel data of {index.transfer_syntax} not in items"
        raise _error(index, msg, "malformed", image.start)
    found, open_ended = bounds(image, index.frames, read_many or partial(_each, read))
    return _with_offsets(index, found, open_ended=open_ended)


def count_frames(read: Read, size: int, url: str = "") -> int:
    """Say how many frames an object has, without looking for them.

    Takes one or two requests; parameters are those of `read_index`.

    Raises
    ------
    DicomReadError
        It is not DICOM, has no pixels, is cut short or malformed.
    """
    return _frames(find_pixels(read, size, url))


def _each(read: Read, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    return [read(start, stop) for start, stop in ranges]


def _with_offsets(index: FrameIndex, found: Bounds, *, open_ended: bool) -> FrameIndex:
    offsets = found.astype("<u8").tobytes()
    fields = {**index.__dict__, "offsets": offsets, "open_ended": open_ended}
    return FrameIndex(**fields)


def _described(image: Image, size: int, url: str) -> FrameIndex:
    """Take the numbers of the Image Pixel Module (PS3.3 C.7.6.3), and check them."""
    number = partial(_number, image)
    syntax = image.syntax
    floats = image.keyword != "PixelData"
    allocated = number(0x100)
    samples = number(0x02)
    index = FrameIndex(
        transfer_syntax=syntax,
        frames=_frames(image),
        rows=number(0x10),
        columns=number(0x11),
        samples=samples,
        bits_allocated=allocated,
        bits_stored=allocated if floats else number(0x101),
        high_bit=number(0x102, allocated - 1),
        pixel_representation=0 if floats else number(0x103),
        photometric_interpretation=_text(image, 0x04),
        planar_configuration=number(0x06) if samples > 1 else 0,
        keyword=image.keyword,
        swapped=syntax == BIG_ENDIAN and allocated == 8 and image.vr == "OW",  # noqa: PLR2004
        size=size,
        start=image.start,
        deflated_from=image.deflated_from,
        url=url,
    )
    floating = {"FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}
    possible = {
        "rows": range(1, 2**16),
        "columns": range(1, 2**16),
        "samples": (1, 3),
        "bits_allocated": floating.get(image.keyword, BITS),
        "bits_stored": range(1, allocated + 1),
        "pixel_representation": (0, 1),
        "planar_configuration": (0, 1),
    }
    for name, values in possible.items():
        if getattr(index, name) not in values:
            msg = f"{url}: malformed: {name} of {getattr(index, name)}"
            raise _error(index, msg, "malformed", image.start)
    if index.decoded_bytes > DECODED_BYTES:
        msg = (
            f"{url}: malformed: a frame of {index.decoded_bytes} bytes; the most is "
            f"{DECODED_BYTES}"
        )
        raise _error(index, msg, "malformed", image.start)
    if syntax.startswith(VIDEO) and not syntax.startswith(STILL):
        msg = f"{url}: undecodable: a video ({syntax}) has no frames to be read alone"
        raise _error(index, msg, "undecodable", image.start)
    return index


def _number(image: Image, element: int, missing: int | None = None) -> int:
    raw = image.values.get(0x00280000 + element)
    if not raw and missing is not None:
        return missing
    if raw is None or len(raw) != 2:  # noqa: PLR2004
        msg = (
            f"{image.window.url}: malformed: (0028,{element:04X}) is "
            f"{'missing' if not raw else f'{len(raw)} bytes instead of 2'}"
        )
        raise image.window.error(msg, "malformed", image.start)
    (value,) = struct.unpack(image.order + "H", raw)
    return int(value)


def _text(image: Image, element: int) -> str:
    raw = image.values.get(0x00280000 + element, b"")
    return raw.decode("latin-1").strip(" \0")


def _frames(image: Image) -> int:
    """Read the Number of Frames; an empty one means 1, as an absent one does."""
    text = _text(image, FRAMES & 0xFF)
    try:
        frames = int(float(text or "1")) if len(text) < 13 else -1  # noqa: PLR2004
    except (ValueError, OverflowError):
        frames = -1
    if frames < 0:
        msg = f"{image.window.url}: malformed: NumberOfFrames of {text[:20]!r}"
        raise image.window.error(msg, "malformed", image.start)
    return frames or 1


def _check_native(image: Image, index: FrameIndex) -> None:
    """Hold the length of native pixel data against what its numbers make."""
    window = image.window
    if image.length == UNDEFINED:
        msg = f"{index.url}: malformed: native pixel data of undefined length"
        raise _error(index, msg, "malformed", image.start)
    if image.start + image.length > window.size:
        raise window.truncated(image.start, image.length)
    due = -(-index.frames * index.frame_bits // 8)
    halved = index.photometric_interpretation == HALVED
    if image.length < due or (halved and image.length >= due // 2 * 3):
        msg = (
            f"{index.url}: malformed: {image.length} bytes of pixel data where "
            f"{index.frames} frames of {index.rows} x {index.columns} pixels, "
            f"{index.photometric_interpretation}, take {due}"
        )
        raise _error(index, msg, "malformed", image.start)


def plan(
    index: FrameIndex,
    frames: Iterable[int],
    *,
    gap: int = GAP,
    most: int = RANGE_BYTES,
) -> list[tuple[int, int]]:
    """Give the ranges that hold some frames, neighbours in one range.

    Parameters
    ----------
    index : FrameIndex
        Of the object.
    frames : iterable of int
        Which frames, in any order, from 0.
    gap : int
        Bytes between two frames that are read along.
    most : int
        Bytes of one range; a longer frame takes several.

    Returns
    -------
    list of tuple of int
        ``(start, stop)`` of each range, in order.

    Raises
    ------
    RequestError
        There is no such frame.
    """
    spans = sorted({index.span(frame) for frame in frames})
    if index.deflated_from:
        return [(0, index.size)] if spans else []
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged:
            begin, end = merged[-1]
            if start - end <= gap and max(end, stop) - begin <= most:
                merged[-1] = begin, max(end, stop)
                continue
        while stop - start > most:
            merged.append((start, start + most))
            start += most  # noqa: PLW2901
        merged.append((start, stop))
    return merged


def pieces(
    index: FrameIndex,
    ranges: Sequence[tuple[int, int]],
    data: Sequence[bytes],
) -> Pieces:
    """Take what came of the ranges of a plan, for `join`.

    A deflated object is inflated here, once for all its frames.

    Raises
    ------
    DicomReadError
        Another number of bytes came, or they do not inflate.
    """
    for (start, stop), part in zip(ranges, data, strict=True):
        if len(part) != stop - start:
            msg = (
                f"{index.url}: {len(part)} bytes came where {stop - start} were asked "
                f"for, from byte {start}"
            )
            raise _error(index, msg, "truncated", start + len(part))
    if index.deflated_from:
        deflated = index.deflated_from
        whole = b"".join(data)
        if not whole:
            return []
        inflated = inflate(whole[deflated:], index.url, offset=deflated)
        return [(0, inflated)]
    return [(start, part) for (start, _), part in zip(ranges, data, strict=True)]


def join(index: FrameIndex, frame: int, held: Pieces) -> bytes:
    """Give the bytes of a frame: native, or one codestream of all its fragments.

    Parameters
    ----------
    index : FrameIndex
        Of the object.
    frame : int
        Which frame, from 0.
    held : sequence of tuple of int and bytes
        Of `pieces`, or any others of the object with where each begins, in order.

    Raises
    ------
    RequestError
        There is no such frame.
    DicomReadError
        The bytes are not at hand, or the items are not where the table says.
    """
    start, stop = index.span(frame)
    raw = _cut(index, start, stop, held)
    if not index.encapsulated:
        return raw
    ends_open = index.open_ended and frame == index.frames - 1
    parts: list[bytes] = []
    position = 0
    while position < len(raw) or ends_open:
        if position + 8 > len(raw):
            raise _broken(index, frame, start + position, "ends early")
        group, element, length = HEAD.unpack_from(raw, position)
        tag = group << 16 | element
        if ends_open and tag == SEQUENCE_END:
            break
        if tag != ITEM or length > len(raw) - position - 8:
            raise _broken(index, frame, start + position, f"({tag:08X}), {length} long")
        parts.append(raw[position + 8 : position + 8 + length])
        position += 8 + length
    joined = parts[0] if len(parts) == 1 else b"".join(parts)
    if not joined:
        raise _broken(index, frame, start, "nothing")
    return joined


def read_frames(
    index: FrameIndex, frames: Sequence[int], read_many: ReadMany
) -> Iterator[bytes]:
    """Read some frames, and give the bytes of each, in the order asked for.

    Raises
    ------
    RequestError
        There is no such frame.
    DicomReadError
        What came is not what the index says.
    """
    ranges = plan(index, frames)
    held = pieces(index, ranges, read_many(ranges) if ranges else [])
    return (join(index, frame, held) for frame in frames)


def _cut(index: FrameIndex, start: int, stop: int, held: Pieces) -> bytes:
    """Give a range out of pieces that follow one another, or that overlap."""
    at = bisect.bisect_right(held, start, key=lambda piece: piece[0]) - 1
    parts: list[bytes] = []
    position = start
    for begin, data in held[max(at, 0) :]:
        if position == stop or begin > position:
            break
        part = data[position - begin : stop - begin]
        parts.append(part)
        position += len(part)
    if position != stop:
        msg = f"{index.url}: bytes {position} to {stop} are not at hand"
        raise _error(index, msg, "truncated", position)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _broken(index: FrameIndex, frame: int, offset: int, what: str) -> DicomReadError:
    msg = (
        f"{index.url}: malformed: frame {frame} is not where its offset table says: "
        f"{what} where an item is due at byte {offset}"
    )
    return _error(index, msg, "malformed", offset)


def _error(index: FrameIndex, msg: str, kind: str, offset: int) -> DicomReadError:
    return DicomReadError(msg, kind=kind, url=index.url, offset=offset)
