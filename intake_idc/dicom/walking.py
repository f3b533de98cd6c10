"""The way to the pixels of an object, by ranges, without reading what lies between.

pydicom reads a header whole: of a slide with a description for each of its 20,000
frames that is 40 MB, parsed for ten numbers. Here the elements are walked by their
lengths (PS3.5 7.1 and 7.5), values that nobody asked for are stepped over, and a jump
over a long one is a new range. Nothing recurses, and all of it is bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from intake_idc.dicom.inflating import inflate
from intake_idc.errors import DicomReadError

__all__ = [
    "FIRST_BYTES",
    "Element",
    "Image",
    "Read",
    "Window",
    "find_element",
    "find_pixels",
    "transfer_syntax",
]

Read = Callable[[int, int], bytes]
"""``read(start, stop)`` gives the bytes of that range of an object."""

FIRST_BYTES = 32 * 1024
"""First range: of 2,273 real files, 95 % have their pixel data begin in it."""
LAST_BYTES = 4 * 1024**2
"""Largest range that is asked for ahead of what is needed."""
GROWTH = 4
BUDGET = 64 * 1024**2
"""Bytes that may be read on the way to the pixels."""
STEPS = 4_000_000
"""Elements and items that may be met on the way, those in sequences counted."""
DEPTH = 32
"""Sequences in sequences."""
META_ELEMENTS = 1_000
"""Elements of the File Meta Information; the standard has 20."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXELS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
FRAMES = 0x00280008
ROWS = 0x00280010
WANTED = frozenset(
    0x00280000 + element
    for element in (0x02, 0x04, 0x06, 0x08, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103)
)
"""What the Image Pixel Module says of the shape of a frame (PS3.3 C.7.6.3), and the
Number of Frames (C.7.6.6)."""
EXTENDED = {0x7FE00001, 0x7FE00002}
"""Extended Offset Table and its lengths (PS3.3 C.7.6.3.1.8)."""
VALUE_BYTES = 1024
"""Longest value of those wanted; they are numbers and short codes."""

IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
LONG = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)
"""Value representations with a length of 32 bits (PS3.5 7.1.2)."""


class Window:
    """Bytes of an object from where one stands; moves forward only."""

    def __init__(self, read: Read, size: int, url: str) -> None:
        self.read, self.size, self.url = read, size, url
        self.start, self.data = 0, b""
        self._ahead = FIRST_BYTES
        self._spent = 0

    def at(self, position: int, count: int, ahead: int | None = None) -> int:
        """Have some bytes at hand, and say where they begin in ``data``.

        ``ahead`` is how much to ask for where something has to be asked for.
        """
        here = position - self.start
        if here < 0 or here + count > len(self.data):
            self._fetch(position, count, ahead)
            here = position - self.start
        return here

    def take(self, position: int, count: int, ahead: int | None = None) -> bytes:
        """Give some bytes."""
        here = self.at(position, count, ahead)
        return self.data[here : here + count]

    def rest(self, position: int) -> bytes:
        """Give everything from some place on, whatever it costs."""
        self._spent -= self.size - position
        return self.take(position, self.size - position)

    def _fetch(self, position: int, count: int, ahead: int | None) -> None:
        if position + count > self.size:
            raise self.truncated(position, count)
        end = self.start + len(self.data)
        kept = b""
        if self.start <= position < end:
            kept = self.data[position - self.start :]
        begin = position + len(kept)
        stop = max(position + count, begin + (ahead or self._ahead))
        stop = min(stop, self.size)
        self._spent += stop - begin
        if self._spent > BUDGET:
            msg = f"{self.url}: more than {BUDGET} bytes before the pixels"
            raise self.error(msg, "malformed", position)
        fetched = self.read(begin, stop)
        if len(fetched) != stop - begin:
            msg = f"{self.url}: {len(fetched)} bytes came where {stop - begin} were due"
            raise self.error(msg, "truncated", begin + len(fetched))
        self.start, self.data = position, kept + fetched
        self._ahead = min(self._ahead * GROWTH, LAST_BYTES)

    def truncated(self, position: int, count: int) -> DicomReadError:
        """Say that the object ends before something that it must hold."""
        msg = (
            f"{self.url}: truncated: {count} bytes are due at byte {position} of an "
            f"object of {self.size} bytes"
        )
        return self.error(msg, "truncated", position)

    def error(self, msg: str, kind: str, offset: int) -> DicomReadError:
        """Give an error about this object."""
        return DicomReadError(msg, kind=kind, url=self.url, offset=offset)


@dataclass
class Image:
    """What an object says of its pixels, and where they lie; values undecoded."""

    syntax: str
    """Transfer Syntax UID."""
    order: str
    """Byte order of the values, as `struct` writes it."""
    window: Window
    """Stands at the pixels; over inflated bytes where the object is deflated."""
    deflated_from: int = 0
    """Where deflated bytes begin, or 0; positions are then those of the inflated."""
    keyword: str = "PixelData"
    """Which of the three elements with pixels it has."""
    vr: str = "OW"
    start: int = 0
    """Where the value of the pixel data begins."""
    length: int = 0
    """Bytes of that value, or `UNDEFINED`."""
    values: dict[int, bytes] = field(default_factory=dict)


def transfer_syntax(window: Window) -> tuple[str, int]:
    """Read the File Meta Information (PS3.10 7.1).

    Returns
    -------
    tuple of str and int
        The Transfer Syntax UID, and where the dataset begins.

    Raises
    ------
    DicomReadError
        It is not there.
    """
    start = 132
    if window.size < start or window.take(0, start)[-4:] != b"DICM":
        msg = f"{window.url}: not dicom: no DICM at byte 128"
        raise window.error(msg, "not dicom", 0)
    syntax = ""
    position = start
    for _ in range(META_ELEMENTS):
        if position + 8 > window.size:
            break
        here = window.at(position, 8)
        group, element, vr, length = struct.unpack_from("<HH2sH", window.data, here)
        if group != 2:  # noqa: PLR2004
            break
        position += 8
        if vr in LONG:
            (length,) = struct.unpack_from("<L", window.take(position, 4))
            position += 4
        if element == 0x10:  # noqa: PLR2004
            if length > VALUE_BYTES:
                break
            syntax = window.take(position, length).rstrip(b"\0 ").decode("latin-1")
        position += length
    else:
        msg = f"{window.url}: malformed: more than {META_ELEMENTS} File Meta elements"
        raise window.error(msg, "malformed", position)
    if not syntax:
        msg = f"{window.url}: malformed: no Transfer Syntax UID (0002,0010)"
        raise window.error(msg, "malformed", position)
    return syntax, position


def find_pixels(read: Read, size: int, url: str = "") -> Image:
    """Walk to the pixel data of an object.

    Raises
    ------
    DicomReadError
        It is not DICOM, has no pixels, is cut short or malformed, or is too long on
        the way.
    """
    image, position = _entered(read, size, url)
    _Walk(image, implicit=image.syntax == IMPLICIT).run(position)
    return image


@dataclass
class Element:
    """Where one element of a dataset lies."""

    window: Window
    """Stands at the element; over inflated bytes where the object is deflated."""
    order: str
    """Byte order of the values, as `struct` writes it."""
    implicit: bool
    """Elements have no value representations."""
    start: int
    """Where the value begins."""
    length: int
    """Bytes of it, or `UNDEFINED`."""


def find_element(read: Read, size: int, url: str, wanted: int) -> Element | None:
    """Walk to one element of the top level; None where it is not there.

    Raises
    ------
    DicomReadError
        It is not DICOM, is cut short or malformed, or is too long on the way.
    """
    image, position = _entered(read, size, url)
    walk, window = _Walk(image, implicit=image.syntax == IMPLICIT), image.window
    walk.check_implicit(position)
    while position < window.size:
        tag, _vr, length, value = walk.element(position)
        if tag == wanted:
            return Element(window, image.order, walk.implicit, value, length)
        if tag > wanted:
            return None
        position = walk.after_items(value) if length == UNDEFINED else value + length
        if position > window.size:
            raise window.truncated(value, length)
    return None


def _entered(read: Read, size: int, url: str) -> tuple[Image, int]:
    """Give where the dataset begins, inflated where it is deflated."""
    window = Window(read, size, url)
    syntax, position = transfer_syntax(window)
    deflated_from = 0
    if syntax == DEFLATED:
        data = inflate(window.rest(position), url, offset=position)
        window, deflated_from = Window(lambda a, b: data[a:b], len(data), url), position
        position = 0
    order = ">" if syntax == BIG_ENDIAN else "<"
    return Image(syntax, order, window, deflated_from), position


class _Walk:
    """Goes over the elements of an object until it meets the pixels."""

    def __init__(self, image: Image, *, implicit: bool) -> None:
        self.image, self.window = image, image.window
        self.short = struct.Struct(image.order + "HH2sH").unpack_from
        self.long = struct.Struct(image.order + "L").unpack_from
        self.plain = struct.Struct(image.order + "HHL").unpack_from
        self.implicit = implicit
        self.steps = STEPS

    def check_implicit(self, position: int) -> None:
        """Look at the first element: some writers do not do what their syntax says."""
        if position + 8 <= self.window.size:
            vr = self.window.take(position, 6)[4:]
            self.implicit = not (vr.isalpha() and vr.isupper())

    def run(self, position: int) -> None:
        image, window = self.image, self.window
        self.check_implicit(position)
        while position < window.size:
            ahead = self._tables() if ROWS in image.values else None
            tag, vr, length, value = self.element(position, ahead)
            if tag in PIXELS:
                image.keyword, image.vr = PIXELS[tag], vr.decode("latin-1")
                image.start, image.length = value, length
                return
            if tag >> 16 > ROWS >> 16 and ROWS not in image.values:
                break
            if length == UNDEFINED:
                position = self.after_items(value)
                continue
            position = value + length
            if position > window.size:
                raise window.truncated(value, length)
            if tag in WANTED:
                if length > VALUE_BYTES:
                    msg = f"{window.url}: malformed: {length} bytes of ({tag:08X})"
                    raise window.error(msg, "malformed", value)
                image.values[tag] = window.take(value, length)
            elif tag in EXTENDED:
                # Both tables and the beginning of the pixels, in one range.
                room = min(2 * length + VALUE_BYTES, window.size - value)
                image.values[tag] = window.take(value, length, room)
        msg = f"{window.url}: no pixels: the object has no pixel data"
        raise window.error(msg, "no pixels", position)

    def _tables(self) -> int | None:
        """Say how much offset tables take, where one looks beyond a long element."""
        frames = self.image.values.get(FRAMES, b"1").strip(b"\0 ")
        if not frames.isdigit() or len(frames) > 7:  # noqa: PLR2004
            return None
        return min(FIRST_BYTES + 24 * int(frames), LAST_BYTES)

    def element(
        self, position: int, ahead: int | None = None
    ) -> tuple[int, bytes, int, int]:
        """Give tag, VR, length and where the value begins."""
        self.steps -= 1
        window = self.window
        if self.steps < 0:
            msg = f"{window.url}: malformed: more than {STEPS} elements before pixels"
            raise window.error(msg, "malformed", position)
        beyond = position > window.start + len(window.data)
        here = window.at(position, 8, ahead if beyond else None)
        if not self.implicit:
            group, element, vr, length = self.short(window.data, here)
            # The length of an item may look like a VR.
            if vr in LONG and group != ITEM >> 16:
                here = window.at(position, 12)
                (length,) = self.long(window.data, here + 8)
                return group << 16 | element, vr, length, position + 12
            if b"AA" <= vr <= b"ZZ" and group != ITEM >> 16:
                return group << 16 | element, vr, length, position + 8
        # Items have no VR, and some sequences of explicit datasets have none either.
        group, element, length = self.plain(window.data, here)
        return group << 16 | element, b"", length, position + 8

    def after_items(self, position: int) -> int:
        """Give where a value of undefined length ends (PS3.5 7.5)."""
        window = self.window
        in_item = [False]
        while in_item:
            tag, _vr, length, value = self.element(position)
            position = value
            if in_item[-1]:
                ended = tag == ITEM_END
            else:
                ended = tag == SEQUENCE_END
                if not ended and tag != ITEM:
                    msg = f"{window.url}: malformed: ({tag:08X}) where an item is due"
                    raise window.error(msg, "malformed", position)
            if ended:
                in_item.pop()
            elif length == UNDEFINED:
                in_item.append(not in_item[-1])
                if len(in_item) > 2 * DEPTH:
                    msg = f"{window.url}: malformed: sequences {DEPTH} deep"
                    raise window.error(msg, "malformed", position)
            else:
                position += length
                if position > window.size:
                    raise window.truncated(value, length)
        return position
