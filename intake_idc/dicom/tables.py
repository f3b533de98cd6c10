"""Where the frames of encapsulated pixel data begin (PS3.5 A.4).

Encapsulated frames are items, one after another: a frame takes one or several, and
the next frame begins where it ends. So n + 1 numbers say where n frames lie. They
come from the Extended Offset Table, or from the Basic Offset Table, or from walking
over all the items, in this order. A table that cannot be right is not believed.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from intake_idc.dicom.walking import (
    EXTENDED,
    ITEM,
    SEQUENCE_END,
    UNDEFINED,
    Image,
)

__all__ = ["PIECE", "Bounds", "ReadMany", "bounds"]

ReadMany = Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
"""``read_many([(start, stop), ...])`` gives the bytes of each range, in order."""

Bounds = npt.NDArray[np.uint64]
"""Where each frame begins, and at the end where the last one ends."""

PIECE = 4 * 1024**2
"""Bytes of one range of a scan."""
PIECES = 16
"""Ranges of a scan that are asked for, and held, at once."""
ITEMS = 8_000_000
"""Items that a scan may meet."""
HEAD = struct.Struct("<HHL")
WRAP = 2**32
"""Offsets of the Basic Offset Table have 32 bits."""
MARGIN = 10
"""The marker that ends a codestream lies in the last bytes of its last item."""
END_OF_IMAGE = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS, EOC of JPEG 2000."""


def bounds(image: Image, frames: int, read_many: ReadMany) -> tuple[Bounds, bool]:
    """Find where the frames of encapsulated pixel data begin.

    Returns
    -------
    tuple of numpy.ndarray and bool
        n + 1 offsets for n frames, each at an item tag; and whether the last of them
        is only an upper bound: the last frame ends at a sequence delimiter before it.

    Raises
    ------
    DicomReadError
        No table is right, and the items do not tell.
    """
    window, start = image.window, image.start
    tag, length = _item(image, start)
    if tag != ITEM or length % 4 or start + length + 16 > window.size:
        msg = (
            f"{window.url}: malformed: no Basic Offset Table at byte {start}, but "
            f"({tag:08X}) with a length of {length}"
        )
        raise window.error(msg, "malformed", start)
    first = start + 8 + length
    found: Bounds | None = None
    if image.values.keys() >= EXTENDED:
        found = _extended(image, frames, first)
        if found is not None and _item(image, first)[0] == ITEM:
            return found, False
    if length == 4 * frames:
        table = window.take(start + 8, length + 8, length + 8)
        if HEAD.unpack_from(table, length)[:2] == (ITEM >> 16, ITEM & 0xFFFF):
            offsets = np.frombuffer(table, "<u4", frames).astype(np.uint64)
            found = _basic(offsets, first, window.size, read_many)
            if found is not None:
                return found, True
    elif frames == 1 and not length and _item(image, first)[0] == ITEM:
        return np.array([first, window.size], np.uint64), True
    return _scan(image, first, frames, read_many), False


def _item(image: Image, position: int) -> tuple[int, int]:
    group, element, length = HEAD.unpack(image.window.take(position, 8))
    return group << 16 | element, length


def _extended(image: Image, frames: int, first: int) -> Bounds | None:
    """Read the Extended Offset Table (PS3.3 C.7.6.3.1.8); one item for each frame."""
    raw, raw_lengths = (image.values[tag] for tag in sorted(EXTENDED))
    if len(raw) != 8 * frames or len(raw_lengths) != 8 * frames:
        return None
    offsets = np.frombuffer(raw, "<u8").astype(np.uint64)
    lengths = np.frombuffer(raw_lengths, "<u8").astype(np.uint64)
    room = image.window.size - first
    # Both are below 2**63 after this, so that their sums do not wrap.
    if offsets[0] != 0 or offsets.max() > room or lengths.max() > room:
        return None
    ends = offsets + np.uint64(8) + lengths
    padded = ends + lengths % np.uint64(2)
    after = np.append(offsets[1:], padded[-1:])
    adjoin = (after == ends) | (after == padded)
    if ends[-1] + np.uint64(8) > room or not adjoin.all():
        return None
    found: Bounds = np.append(offsets, after[-1:]) + np.uint64(first)
    return found


def _basic(
    offsets: Bounds, first: int, size: int, read_many: ReadMany
) -> Bounds | None:
    """Check a Basic Offset Table, and undo what 32 bits did to it."""
    steps = np.diff(offsets.astype(np.int64))
    wrapped = np.flatnonzero(steps < 0) + 1
    if wrapped.size:
        if size - first <= WRAP or wrapped.size > (size - first) // WRAP:
            return None
        # A frame is shorter than 4 GiB: each step down is one turn of the counter.
        turns = np.zeros(len(offsets), np.uint64)
        turns[wrapped] = 1
        offsets = offsets + np.cumsum(turns, dtype=np.uint64) * np.uint64(WRAP)
        steps = np.diff(offsets.astype(np.int64))
    far = int(offsets[-1]) + 16 > size - first
    if offsets[0] != 0 or far or (steps <= 8).any() or (offsets % np.uint64(2)).any():  # noqa: PLR2004
        return None
    found: Bounds = np.append(offsets + np.uint64(first), np.uint64(size))
    if size - first > WRAP:
        # Some writers stop at the largest number instead.
        places = [int(found[i]) for i in (*wrapped, len(offsets) - 1)]
        heads = read_many([(place, place + 8) for place in places])
        if not all(_is_item(head) for head in heads):
            return None
    return found


def _is_item(head: bytes) -> bool:
    return len(head) == HEAD.size and HEAD.unpack(head)[:2] == (
        ITEM >> 16,
        ITEM & 0xFFFF,
    )


def _scan(image: Image, first: int, frames: int, read_many: ReadMany) -> Bounds:
    """Find the frames by walking over all items, where no table tells."""
    starts, images, end = _items(image, first, read_many)
    if len(starts) == frames:
        chosen = np.frombuffer(starts, np.uint64)
    elif frames == 1 and starts and len(images) <= 2:  # noqa: PLR2004
        chosen = np.array([first], np.uint64)
    elif len(images) == frames + 1 and images[-1] == len(starts):
        # A frame ends where its codestream does.
        which = np.frombuffer(images, np.uint64)[:-1].astype(np.intp)
        chosen = np.frombuffer(starts, np.uint64)[which]
    else:
        msg = (
            f"{image.window.url}: malformed: {len(starts)} items, {len(images) - 1} of "
            f"which end an image, for {frames} frames and no offset table to go by"
        )
        raise image.window.error(msg, "malformed", first)
    found: Bounds = np.append(chosen, np.uint64(end))
    return found


def _items(
    image: Image, first: int, read_many: ReadMany
) -> tuple[array[int], array[int], int]:
    """Walk over all items; their headers say where the next one is.

    The next header is known only when this one has been read, so all of it is read,
    in parallel ranges: 25 requests at once for 90 MB, where one after another would
    be 20,000.

    Returns
    -------
    tuple of array, array and int
        Where each item begins; the number of each item that begins an image, and at
        the end of the last image; where the delimiter is.
    """
    window = image.window
    starts = array("Q")
    images = array("Q", [0])
    position = begin = first
    data = b""
    while True:
        if position + 8 > begin + len(data):
            if position + 8 > window.size:
                raise window.truncated(position, 8)
            begin = max(first, position - MARGIN)
            data = _read_pieces(image, begin, read_many)
        here = position - begin
        if starts and END_OF_IMAGE in data[max(0, here - MARGIN) : here]:
            images.append(len(starts))
        group, element, length = HEAD.unpack_from(data, here)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            return starts, images, position
        if tag != ITEM or length == UNDEFINED or len(starts) == ITEMS:
            msg = (
                f"{window.url}: malformed: ({tag:08X}) with a length of {length} where "
                f"an item of the pixel data is due, after {len(starts)}"
            )
            raise window.error(msg, "malformed", position)
        starts.append(position)
        position += 8 + length


def _read_pieces(image: Image, begin: int, read_many: ReadMany) -> bytes:
    window = image.window
    end = min(begin + PIECE * PIECES, window.size)
    ranges = [(at, min(at + PIECE, end)) for at in range(begin, end, PIECE)]
    data = b"".join(read_many(ranges))
    if len(data) != end - begin:
        msg = f"{window.url}: {len(data)} bytes came where {end - begin} were due"
        raise window.error(msg, "truncated", begin + len(data))
    return data
