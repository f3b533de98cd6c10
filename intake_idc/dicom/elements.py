"""The elements of a dataset, by their lengths, before anything is made of them.

pydicom makes an object of every element and of every item, and believes every length.
The walk here makes none: it says where the elements of a dataset lie, holds each to be
whole, steps over what nobody asked for, and refuses what would take pydicom minutes
(PS3.5 7.1 and 7.5).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pydicom._dicom_dict import DicomDictionary

from intake_idc.dicom.walking import (
    BIG_ENDIAN,
    BUDGET,
    DEPTH,
    GROWTH,
    IMPLICIT,
    ITEM,
    ITEM_END,
    LAST_BYTES,
    LONG,
    SEQUENCE_END,
    UNDEFINED,
    Window,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


__all__ = [
    "ELEMENTS",
    "HEADER_BYTES",
    "INNER_ELEMENTS",
    "ITEMS",
    "VALUE_BYTES",
    "Marked",
    "walk",
]

HEADER_BYTES = 16 * 1024
"""First range of a header: 99.6 % of 2,273 real files hold every tag up to group
0028 in it."""
ELEMENTS = 20_000
"""Elements of a dataset, those in its sequences not counted."""
ITEMS = 400_000
"""Items of all its sequences; pydicom takes 10 microseconds for an empty one."""
INNER_ELEMENTS = 2_000_000
"""Elements of all those items; pydicom takes 2 microseconds for each."""
FRAGMENTS = 4_000_000
"""Items of one value of fragments; pydicom takes 0.5 microseconds for each."""
VALUE_BYTES = 1024**2
"""Bytes of a value that is not bulk: text, and numbers that become Python's own."""

BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN"})
"""Value representations whose values may be of any length (PS3.5 6.2)."""
LONG_PLAIN = frozenset({b"SV", b"UC", b"UR", b"UT", b"UV"})
"""Those with a length of 32 bits whose values are no bulk."""
ITEM_TAG = {"<": b"\xfe\xff\x00\xe0", ">": b"\xff\xfe\xe0\x00"}
DELIMITER = {"<": b"\xfe\xff\xdd\xe0", ">": b"\xff\xfe\xe0\xdd"}
SEQUENCES = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")
"""What the dictionary says is a sequence (PS3.6), where no VR is written."""


class Marked(Window):
    """A window that keeps all bytes from a mark on, until the mark is moved."""

    mark: int | None = 0
    """From where on bytes are kept; None keeps nothing."""

    @classmethod
    def over(cls, data: bytes, url: str) -> Marked:
        """Give a window over bytes that are all there."""
        window = cls(lambda start, stop: data[start:stop], len(data), url)
        window.data = data
        return window

    def _fetch(self, position: int, count: int, ahead: int | None) -> None:
        if position + count > self.size:
            raise self.truncated(position, count)
        kept = position if self.mark is None else min(self.mark, position)
        end = self.start + len(self.data)
        held = self.data[kept - self.start :] if self.start <= kept < end else b""
        begin = kept + len(held)
        if ahead is None:
            # What was read grows fourfold, so that a header takes few requests; and
            # what stands behind a long value comes with it.
            ahead = min(self._spent * (GROWTH - 1) or HEADER_BYTES, LAST_BYTES)
            ahead = max(ahead, position + count + HEADER_BYTES - begin)
            ahead = ahead if self._spent else HEADER_BYTES
        stop = min(max(position + count, begin + ahead), self.size)
        self._spent += stop - begin
        if self._spent > BUDGET:
            msg = f"{self.url}: malformed: a header of more than {BUDGET} bytes"
            raise self.error(msg, "malformed", position)
        fetched = self.read(begin, stop)
        if len(fetched) != stop - begin:
            msg = f"{self.url}: {len(fetched)} bytes came where {stop - begin} were due"
            raise self.error(msg, "truncated", begin + len(fetched))
        self.start, self.data = kept, held + fetched


def walk(
    window: Marked,
    position: int,
    syntax: str,
    ends: Callable[[int], bool],
    wanted: Collection[int] | None = None,
) -> tuple[list[bytes], int]:
    """Go over the elements of a dataset, as far as asked.

    Parameters
    ----------
    window : Marked
        Over the object. What lies between its mark and the end of the walk is then at
        hand.
    position : int
        Where the dataset begins.
    syntax : str
        Its Transfer Syntax UID.
    ends : callable
        Says of a tag whether the walk ends before it.
    wanted : collection of int, optional
        Tags of the elements that are given. The others are stepped over, and the walk
        ends behind the last of them. Without it all are held to be at hand, and none
        is given.

    Returns
    -------
    list of bytes and int
        The wanted elements, each from its tag to the end of its value, behind the first
        of the dataset, which says how the others are written; and where the walk
        ended, before an element or at the end of the object.

    Raises
    ------
    DicomReadError
        An element is not whole (``"truncated"``); or there are more than `ELEMENTS`,
        `ITEMS` or `INNER_ELEMENTS`, sequences more than 32 deep, or a value that is
        no bulk of more than `VALUE_BYTES` (``"malformed"``).
    """
    return _Walk(window, syntax).run(position, ends, wanted)


class _Walk:
    """What is left of each bound, and how bytes are read."""

    def __init__(self, window: Marked, syntax: str) -> None:
        self.window = window
        self.order = order = ">" if syntax == BIG_ENDIAN else "<"
        self.said_implicit = syntax == IMPLICIT
        self.short = struct.Struct(order + "HH2sH").unpack_from
        self.long = struct.Struct(order + "L").unpack_from
        self.plain = struct.Struct(order + "HHL").unpack_from
        self.items_left = ITEMS
        self.elements_left = INNER_ELEMENTS

    def run(  # noqa: C901, PLR0912  (one loop: a header has a hundred elements)
        self,
        position: int,
        ends: Callable[[int], bool],
        wanted: Collection[int] | None,
    ) -> tuple[list[bytes], int]:
        window, size, short = self.window, self.window.size, self.short
        found: list[bytes] = []
        last = None if wanted is None else max(wanted)
        position = self.after_commands(position)
        implicit = self.is_implicit(position, self.said_implicit)
        for _ in range(ELEMENTS + 1):
            if position + 8 > size:
                break
            start = position
            here = start - window.start
            if 0 <= here <= len(window.data) - 12:
                # Not one call more than need be, a hundred times for a header.
                group, element, vr, length = short(window.data, here)
                tag, value = group << 16 | element, start + 8
                if implicit or vr in LONG or not b"AA" <= vr <= b"ZZ":
                    tag, vr, length, value = self.element(start, implicit)
            else:
                tag, vr, length, value = self.element(start, implicit)
            if ends(tag):
                return found, start
            asked = wanted is None or tag in wanted or not found
            if wanted is not None:
                window.mark = start if asked else None
            if length == UNDEFINED:
                position = self.after_undefined(tag, vr, value, None, implicit, 0)
            else:
                position = value + length
                if position > size:
                    raise window.truncated(value, length)
                if asked and length > 8:  # noqa: PLR2004
                    self.look_into(tag, vr, value, position, implicit, 0)
            if asked and wanted is not None:
                found.append(window.take(start, position - start))
                window.mark = None
                if tag == last:
                    break
        else:
            msg = f"{window.url}: malformed: more than {ELEMENTS} elements"
            raise window.error(msg, "malformed", position)
        if wanted is None:
            window.at(min(position, size), 0)
        return found, position

    def element(self, position: int, implicit: bool) -> tuple[int, bytes, int, int]:
        """Give tag, VR, length and where the value begins; as pydicom reads them."""
        window = self.window
        here = position - window.start
        if here < 0 or here + 12 > len(window.data):
            beyond = window.mark is None and position > window.start + len(window.data)
            count = 12 if position + 12 <= window.size else 8
            here = window.at(position, count, HEADER_BYTES if beyond else None)
        if not implicit:
            group, element, vr, length = self.short(window.data, here)
            if vr in LONG:
                if position + 12 > window.size:
                    raise window.truncated(position, 12)
                (length,) = self.long(window.data, here + 8)
                return group << 16 | element, vr, length, position + 12
            if b"AA" <= vr <= b"ZZ":
                return group << 16 | element, vr, length, position + 8
        group, element, length = self.plain(window.data, here)
        return group << 16 | element, b"", length, position + 8

    def is_implicit(self, position: int, said: bool) -> bool:
        """Say whether a dataset has no VRs: some writers do not do as they say."""
        if position + 6 > self.window.size:
            return said
        vr = self.window.take(position, 6)[4:]
        return not (vr.isalpha() and vr.isupper())

    def after_commands(self, position: int) -> int:
        """Step over elements of a command (PS3.7 6.3.1), which come before others."""
        window = self.window
        for _ in range(ELEMENTS):
            if position + 8 > window.size:
                break
            here = window.at(position, 8)
            group, _element, length = struct.unpack_from("<HHL", window.data, here)
            if group:
                return position
            position += 8 + length
            if position > window.size:
                raise window.truncated(position - length, length)
        else:
            msg = f"{window.url}: malformed: more than {ELEMENTS} elements of a command"
            raise window.error(msg, "malformed", position)
        return position

    # Values.

    def look_into(
        self, tag: int, vr: bytes, value: int, stop: int, implicit: bool, depth: int
    ) -> None:
        """Refuse a value of known length that is too much for what reads it."""
        if stop - value > VALUE_BYTES:
            self.check_value(tag, vr, value, stop)
        if vr == b"SQ" or (
            (not vr or vr == b"UN")
            and (tag in SEQUENCES or self.window.take(value, 4) == ITEM_TAG[self.order])
        ):
            here = self.window.at(value, stop - value)
            tags = 0
            if not depth:
                end = here + stop - value
                tags = self.window.data.count(ITEM_TAG[self.order], here, end)
            # pydicom has not looked into it yet, and most are small.
            if depth or tags > DEPTH or stop - value > VALUE_BYTES:
                self.items(value, stop, stop, implicit, depth + 1)

    def check_value(self, tag: int, vr: bytes, value: int, stop: int) -> None:
        if vr:
            bulk = vr not in LONG_PLAIN
        else:
            entry = DicomDictionary.get(tag)
            bulk = entry is None or not BULK.isdisjoint(entry[0].split(" or "))
        if not bulk:
            msg = (
                f"{self.window.url}: malformed: {stop - value} bytes of "
                f"({tag >> 16:04X},{tag & 0xFFFF:04X}), which is no bulk data; it may "
                f"have {VALUE_BYTES}"
            )
            raise self.window.error(msg, "malformed", value)

    def after_undefined(
        self,
        tag: int,
        vr: bytes,
        value: int,
        cut: int | None,
        implicit: bool,
        depth: int,
    ) -> int:
        """Give where a value of undefined length ends: a sequence, or fragments."""
        window = self.window
        if not vr:
            entry = DicomDictionary.get(tag)
            is_sequence = (
                window.take(value, 4) == ITEM_TAG[self.order]
                if entry is None
                else entry[0] == "SQ"
            )
        else:
            is_sequence = vr in (b"SQ", b"UN")
        if is_sequence:
            return self.items(value, None, cut, implicit, depth + 1)
        return self.after_fragments(value)

    def after_fragments(self, value: int) -> int:
        """Give where fragments end (PS3.5 A.4), or else where a delimiter is found."""
        window = self.window
        position = value
        for _ in range(FRAGMENTS):
            if position + 8 > window.size:
                break
            here = window.at(position, 8)
            group, element, length = self.plain(window.data, here)
            position += 8
            if group << 16 | element == SEQUENCE_END:
                return position
            if group << 16 | element != ITEM:
                break
            position += length
        else:
            msg = f"{window.url}: malformed: more than {FRAGMENTS} fragments"
            raise window.error(msg, "malformed", position)
        position = value
        while True:
            here = window.at(position, 8)
            found = window.data.find(DELIMITER[self.order], here)
            if found >= 0:
                return window.start + found + 8
            position = window.start + len(window.data) - 3

    def items(
        self,
        position: int,
        stop: int | None,
        cut: int | None,
        implicit: bool,
        depth: int,
    ) -> int:
        """Go over the items of a sequence, and give where it ends.

        pydicom goes on at the end of a sequence that has a length, whatever its items
        say (``cut``); one without a length has to be right.
        """
        window = self.window
        if depth > DEPTH:
            msg = f"{window.url}: malformed: sequences more than {DEPTH} deep"
            raise window.error(msg, "malformed", position)
        bound = window.size if cut is None else cut
        while stop is None or position < stop:
            if position + 8 > bound:
                return self.over(position, cut)
            here = window.at(position, 8)
            group, element, length = self.plain(window.data, here)
            position += 8
            if group << 16 | element == SEQUENCE_END:
                return position
            self.items_left -= 1
            if self.items_left < 0:
                msg = f"{window.url}: malformed: more than {ITEMS} items"
                raise window.error(msg, "malformed", position)
            if length:
                end = None if length == UNDEFINED else position + length
                position = self.inner(position, end, cut, implicit, depth)
        return position

    def inner(
        self,
        position: int,
        stop: int | None,
        cut: int | None,
        implicit: bool,
        depth: int,
    ) -> int:
        """Go over the elements of an item, and give where it ends."""
        window = self.window
        bound = window.size if cut is None else cut
        implicit = implicit or self.is_implicit(position, said=True)
        while stop is None or position < stop:
            if position + 8 > bound:
                return self.over(position, cut)
            tag, vr, length, value = self.element(position, implicit)
            if tag == ITEM_END:
                return value
            self.elements_left -= 1
            if self.elements_left < 0:
                msg = f"{window.url}: malformed: {INNER_ELEMENTS} elements in items"
                raise window.error(msg, "malformed", position)
            if length == UNDEFINED:
                position = self.after_undefined(tag, vr, value, cut, implicit, depth)
                continue
            position = value + length
            if position > bound:
                return self.over(position, cut)
            if length > 8:  # noqa: PLR2004
                self.look_into(tag, vr, value, position, implicit, depth)
        return position

    def over(self, position: int, cut: int | None) -> int:
        if cut is None:
            raise self.window.truncated(position, 8)
        return cut
