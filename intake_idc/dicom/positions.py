"""Where each frame of a sparse matrix says that it lies (PS3.3 C.8.12.6).

A slide of 20,000 tiles describes them in 40 MB, of which 16 bytes each are wanted.
pydicom takes half a millisecond for each; here their elements are stepped over.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from intake_idc.dicom.walking import (
    BUDGET,
    DEPTH,
    ITEM,
    ITEM_END,
    LONG,
    SEQUENCE_END,
    STEPS,
    UNDEFINED,
    Element,
    Read,
    find_element,
)
from intake_idc.errors import DicomReadError

if TYPE_CHECKING:
    import numpy.typing as npt

    from intake_idc.dicom.tables import ReadMany

__all__ = ["POSITION", "read_positions"]

POSITION = np.dtype(
    [("row", "i4"), ("column", "i4"), ("height", "f8"), ("path", "U16")]
)
"""Row and column from 1, height in mm, identifier of the optical path or segment."""
PER_FRAME = 0x52009230
PIECE = 4 * 1024**2
"""Bytes of one range."""
MOST_PIECES = 8
"""Ranges that are asked for at once."""

COLUMN, ROW, HEIGHT = 0x0048021E, 0x0048021F, 0x0040074A
OPTICAL_PATH, SEGMENT = 0x00480106, 0x0062000B
INSIDE = frozenset({0x0048021A, 0x00480207, 0x0062000A})
"""Plane Position (Slide), Optical Path Identification and Segment Identification
Sequence: what is wanted lies in these."""
WANTED = frozenset({COLUMN, ROW, HEIGHT, OPTICAL_PATH, SEGMENT})


def read_positions(
    read: Read, size: int, url: str, frames: int, read_many: ReadMany
) -> npt.NDArray[Any] | None:
    """Read where each frame of an object lies.

    Parameters
    ----------
    read, size, url, read_many
        As in `intake_idc.dicom.tiles.read_tiling`.
    frames : int
        How many there are.

    Returns
    -------
    numpy.ndarray or None
        Of the dtype `POSITION`, one for each frame; None where frames say nothing of
        a place.

    Raises
    ------
    DicomReadError
        Other than one description for each frame, or malformed ones.
    """
    found = find_element(read, size, url, PER_FRAME)
    if found is None:
        return None
    if found.length != UNDEFINED and found.length > BUDGET:
        raise _malformed(url, f"{found.length} bytes of descriptions of frames")
    many = read_many if found.window.read is read else _each(found.window.read)
    rows: list[tuple[int, int, float, str]] = []
    items = _Items(found, url)
    for data in _chunks(found, many):
        for values in items.feed(data):
            if ROW not in values or COLUMN not in values:
                if rows:
                    raise _malformed(url, f"frame {len(rows)} says no place")
                return None
            rows.append(_row(values, found.order, url))
            if len(rows) > frames:
                raise _malformed(url, f"more than {frames} descriptions of frames")
        if items.ended:
            break
    if len(rows) != frames or not items.ended:
        raise _malformed(url, f"{len(rows)} descriptions of {frames} frames")
    return np.array(rows, POSITION)


def _each(read: Read) -> ReadMany:
    return lambda ranges: [read(*one) for one in ranges]


def _chunks(found: Element, read_many: ReadMany) -> Any:
    """Give the bytes of the sequence in growing batches of ranges."""
    end = found.window.size
    if found.length != UNDEFINED:
        end = found.start + found.length
        if end > found.window.size:
            raise found.window.truncated(found.start, found.length)
    # What came with the beginning is not asked for again.
    here = found.window.at(found.start, 0)
    held = found.window.data[here:][: end - found.start]
    yield held
    position, many = found.start + len(held), 1
    while position < end:
        if position - found.start > BUDGET:
            raise _malformed(found.window.url, f"more than {BUDGET} bytes of frames")
        edges = [*range(position, end, PIECE)[: many + 1], end][: many + 1]
        ranges = list(itertools.pairwise(edges))
        for (start, stop), data in zip(ranges, read_many(ranges), strict=True):
            if len(data) != stop - start:
                raise found.window.truncated(start, stop - start)
            yield data
        position = edges[-1]
        many = min(2 * many, MOST_PIECES)


class _Items:
    """Takes items out of bytes that come piece by piece."""

    def __init__(self, found: Element, url: str) -> None:
        self.url = url
        self.left = found.length
        """Bytes of the sequence that are still to come, or `UNDEFINED`."""
        self.ended = found.length == 0
        self.data = b""
        self.implicit = found.implicit
        self.steps = STEPS
        self.plain = struct.Struct(found.order + "HHL").unpack_from
        self.short = struct.Struct(found.order + "HH2sH").unpack_from
        self.long = struct.Struct(found.order + "L").unpack_from

    def feed(self, data: bytes) -> Any:
        """Give what is wanted of each item that is complete."""
        self.data += data
        position = 0
        while not self.ended:
            try:
                values, after = self.item(position)
            except struct.error:
                break
            if after > len(self.data):
                break
            if values is not None:
                yield values
            if self.left != UNDEFINED:
                self.left -= after - position
                self.ended = self.left <= 0
            position = after
        self.data = self.data[position:]

    def item(self, position: int) -> tuple[dict[int, bytes] | None, int]:
        group, element, length = self.plain(self.data, position)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            self.ended = True
            return None, position + 8
        if tag != ITEM:
            raise _malformed(self.url, f"({tag:08X}) where an item of a frame is due")
        values: dict[int, bytes] = {}
        after = self.elements(position + 8, length, values, 0)
        return values, after

    def elements(
        self, position: int, length: int, values: dict[int, bytes], depth: int
    ) -> int:
        """Go over the elements of an item, and give where it ends."""
        end = position + length
        if length != UNDEFINED and end > len(self.data):
            return end
        data = self.data
        while length == UNDEFINED or position < end:
            tag, size, value = self.head(data, position)
            if tag == ITEM_END:
                return value
            if tag in INSIDE and depth == 0:
                position = self.sequence(value, size, values)
            elif size == UNDEFINED:
                position = self.after(value, depth + 1)
            else:
                if tag in WANTED and value + size <= len(data):
                    values[tag] = data[value : value + size]
                position = value + size
        return position

    def head(self, data: bytes, position: int) -> tuple[int, int, int]:
        """Give tag, length and where the value begins."""
        self.steps -= 1
        if self.steps < 0:
            raise _malformed(self.url, f"more than {STEPS} elements of frames")
        if not self.implicit:
            group, element, vr, size = self.short(data, position)
            # The length of an item may look like a VR.
            item = group == ITEM >> 16
            if vr in LONG and not item:
                (size,) = self.long(data, position + 8)
                return group << 16 | element, size, position + 12
            if b"AA" <= vr <= b"ZZ" and not item:
                return group << 16 | element, size, position + 8
        group, element, size = self.plain(data, position)
        return group << 16 | element, size, position + 8

    def sequence(self, position: int, length: int, values: dict[int, bytes]) -> int:
        end = position + length
        while length == UNDEFINED or position < end:
            tag, size, value = self.head(self.data, position)
            if tag == SEQUENCE_END:
                return value
            if tag != ITEM:
                raise _malformed(self.url, f"({tag:08X}) where an item is due")
            position = self.elements(value, size, values, 1)
        return position

    def after(self, position: int, depth: int) -> int:
        """Step over a sequence of undefined length."""
        if depth > DEPTH:
            raise _malformed(self.url, f"sequences {DEPTH} deep")
        while True:
            tag, size, value = self.head(self.data, position)
            if tag == SEQUENCE_END:
                return value
            if tag != ITEM:
                raise _malformed(self.url, f"({tag:08X}) where an item is due")
            position = value + size
            if size == UNDEFINED:
                position = value
                while True:
                    tag, size, value = self.head(self.data, position)
                    if tag == ITEM_END:
                        position = value
                        break
                    position = value + size
                    if size == UNDEFINED:
                        position = self.after(value, depth + 1)


def _row(values: dict[int, bytes], order: str, url: str) -> tuple[int, int, float, str]:
    try:
        (row,) = struct.unpack(order + "l", values[ROW])
        (column,) = struct.unpack(order + "l", values[COLUMN])
        height = values.get(HEIGHT, b"").strip(b"\0 ")
        if OPTICAL_PATH in values:
            path = values[OPTICAL_PATH].decode("latin-1").strip(" \0")
        elif SEGMENT in values:
            path = str(struct.unpack(order + "H", values[SEGMENT])[0])
        else:
            path = ""
        mm = float(height or b"0")
    except (struct.error, ValueError) as error:
        raise _malformed(url, f"a place that cannot be read ({error})") from error
    return row, column, mm, path


def _malformed(url: str, what: str) -> DicomReadError:
    msg = f"{url}: malformed: {what}"
    return DicomReadError(msg, kind="malformed", url=url)
