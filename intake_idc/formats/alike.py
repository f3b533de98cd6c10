"""Lines that are alike but for what they name, read all at once.

Lines of a million series are mostly one line a million times, but for the uuid, and
for a destination that says nothing. So the first line of a form is read word by word,
and the others of a block are compared with it as numbers.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc.arrow import binary, bools, numbers, uuids_at, words
from intake_idc.formats import UUID_NAMES
from intake_idc.formats.places import LONGEST_UID, UID
from intake_idc.formats.records import is_utf8

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

__all__ = ["LONGEST_LINE", "Alone", "Block", "Found", "Spelled", "ending", "tables"]

LONGEST_LINE = 4096
_BETWEEN_WORDS = b" \t\r'\"\\"
"""Letters that end a word of a command, or quote it."""
_ENDING = re.compile(rb'(.*[ \t])(?:("(?:[^"]*[^"\\])?")|[^ \t\r\'"\\]+)', re.DOTALL)


class Block:
    """Some whole lines, and which of them are still to be read."""

    def __init__(self, data: bytes) -> None:
        import numpy as np

        self.data = data
        self.letters = np.frombuffer(data, np.uint8)
        self.ends = np.flatnonzero(self.letters == ord("\n"))
        self.starts = np.concatenate([[0], self.ends[:-1] + 1])
        lengths = self.ends - self.starts
        lengths -= (lengths > 0) & (self.letters[self.ends - 1] == ord("\r"))
        self.lengths = lengths
        """Bytes of each line, without its end."""
        self.left = lengths > 0

    def line(self, at: int) -> bytes:
        """Give one line."""
        start = int(self.starts[at])
        return self.data[start : start + int(self.lengths[at])]

    @cached_property
    def is_text(self) -> bool:
        """Whether all of it is text in UTF-8 without NUL characters."""
        return b"\0" not in self.data and is_utf8(self.data)

    @cached_property
    def quotes(self) -> Array:
        """Where double quotes are."""
        import numpy as np

        return np.flatnonzero(self.letters == ord('"'))

    @cached_property
    def between_words(self) -> Array:
        """Where letters are that end a word of a command, or quote it."""
        import numpy as np

        table = np.zeros(256, bool)
        table[list(_BETWEEN_WORDS)] = True
        return np.flatnonzero(table[self.letters])

    def texts(self, lines: Array) -> pa.Array:
        """Give lines as strings; they are text."""
        import numpy as np
        import pyarrow as pa

        starts, lengths = self.starts[lines], self.lengths[lines]
        edges = np.zeros(len(self.letters) + 1, np.int8)
        edges[starts] = 1
        edges[starts + lengths] -= 1
        inside = np.cumsum(edges[:-1], dtype=np.int8).view(bool)
        ends = np.zeros(len(lines) + 1, np.int32)
        np.cumsum(lengths, out=ends[1:])
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(self.letters[inside])]
        return pa.Array.from_buffers(pa.string(), len(lines), buffers)


class Found(NamedTuple):
    """Lines of one form: where they are in their block, and what they name."""

    lines: Array
    names: dict[str, Any]
    """Uuids as rows of 16 bytes, others as strings."""
    constant: Mapping[str, str] = {}
    """What all of them name."""


class Alone(NamedTuple):
    """A line that is one name and nothing else."""

    name: str

    def within(self, block: Block) -> Found:
        """Find the lines of a block that are such a name."""
        import numpy as np

        longest = LONGEST_UID if self._is_uid else LONGEST_LINE
        some = np.flatnonzero(block.left & (block.lengths <= longest))
        if not len(some) or not block.is_text:
            return Found(some[:0], {})
        first = block.letters[block.starts[some]]
        last = block.letters[block.starts[some] + block.lengths[some] - 1]
        # Nothing to strip, and no comment.
        good = (first > ord(" ")) & (first <= ord("~")) & (first != ord("#"))
        some = some[good & (last > ord(" ")) & (last <= ord("~"))]
        if not len(some):
            return Found(some, {})
        found = block.texts(some)
        if self._is_uid:
            import pyarrow.compute as pc

            right = pc.match_substring_regex(found, f"^(?:{UID})$")
            if right.false_count:
                some = some[bools(right)]
                found = found.filter(right)
        return Found(some, {self.name: found})

    @property
    def _is_uid(self) -> bool:
        return self.name == "uid" or self.name.endswith("UID")


class Spelled(NamedTuple):
    """A line as bytes, but for its uuids, and for the destination at its end."""

    fixed: list[tuple[int, str, int]]
    """The rest as numbers of 8, 4, 2 or 1 bytes: where each lies, its kind, itself."""
    named: list[tuple[str, int]]
    """Names of the uuids, and where they begin."""
    length: int
    """Bytes, but for the destination."""
    open_end: str
    """What destination follows: none, one ``word``, or one ``quoted``."""
    constant: Mapping[str, str]
    """What such a line names besides."""

    @classmethod
    def of(cls, line: bytes, names: Mapping[str, str], open_end: str) -> Spelled | None:
        """Give the form of a line, if it names uuids in lower case, each once."""
        constant = {name: text for name, text in names.items() if name == "bucket"}
        places = []
        for name in names.keys() - constant.keys():
            uuid = names[name].encode()
            if name not in (*UUID_NAMES, "uuid") or line.count(uuid) != 1:
                return None
            places.append((name, line.index(uuid)))
        places.sort(key=lambda each: each[1])
        fixed: list[tuple[int, str, int]] = []
        at = 0
        for _, start in [*places, ("", len(line))]:
            fixed += _as_numbers(line, at, start)
            at = start + 36
        return cls(fixed, places, len(line), open_end, constant)

    def within(self, block: Block) -> Found:
        """Find the lines of a block that are of this form, and the uuids in them."""
        import numpy as np

        if self.open_end:
            good = (block.lengths > self.length) & (block.lengths <= LONGEST_LINE)
        else:
            good = block.lengths == self.length
        some = np.flatnonzero(block.left & good)
        if not len(some) or (self.open_end and not block.is_text):
            return Found(some[:0], {})
        at = block.starts[some]
        good = np.ones(len(some), bool)
        for start, kind, word in self.fixed:
            good &= words(block.letters, at + start, kind) == word
        if self.open_end:
            good &= self._ends_well(block, some)
        names = {}
        for name, start in self.named:
            names[name], valid = uuids_at(block.letters, at + start)
            good &= valid
        if not good.all():
            some = some[good]
            names = {name: rows[good] for name, rows in names.items()}
        return Found(some, names, self.constant)

    def _ends_well(self, block: Block, lines: Array) -> Array:
        """Say which lines end in one destination, where they should."""
        import numpy as np

        begin = block.starts[lines] + self.length
        end = block.starts[lines] + block.lengths[lines]
        well: Array
        if self.open_end == "word":
            between = block.between_words
            well = np.searchsorted(between, begin) == np.searchsorted(between, end)
            return well
        quotes = block.quotes
        # A quote at either end and none between; the last is not one with a backslash.
        two = np.searchsorted(quotes, end) - np.searchsorted(quotes, begin) == 2  # noqa: PLR2004
        last = block.letters[end - 1] == ord('"')
        opens = block.letters[begin] == ord('"')
        well = two & opens & last & (block.letters[end - 2] != ord("\\"))
        return well


def ending(line: bytes) -> tuple[bytes, str]:
    """Give a command without its last word, and whether that is quoted or a word.

    What cannot be told at a glance is given whole, with an empty text.
    """
    found = _ENDING.fullmatch(line)
    if not found:
        return line, ""
    return found[1], "quoted" if found[2] else "word"


def _as_numbers(line: bytes, start: int, end: int) -> Iterator[tuple[int, str, int]]:
    """Give a piece of a line as numbers, the fewest that there can be."""
    while start < end:
        width = next(width for width in (8, 4, 2, 1) if width <= end - start)
        yield start, f"<u{width}", int.from_bytes(line[start : start + width], "little")
        start += width


def tables(found: list[Found], before: int) -> list[pa.Table]:
    """Give lines as tables by what they name; ``before`` lines came ahead of them."""
    import numpy as np
    import pyarrow as pa

    groups: dict[tuple[object, ...], list[Found]] = {}
    for each in found:
        key = *each.names, *each.constant.items()
        groups.setdefault(key, []).append(each)
    made = []
    for of in groups.values():
        lines = np.concatenate([each.lines for each in of], dtype=np.int64)
        order = np.argsort(lines) if len(of) > 1 else None
        columns: dict[str, pa.Array] = {}
        for name in of[0].names:
            parts = [each.names[name] for each in of]
            if name in UUID_NAMES or name == "uuid":
                rows = np.concatenate(parts)
                columns[name] = binary(rows if order is None else rows[order])
            else:
                # Of each name there is one form.
                columns[name] = pa.concat_arrays(parts)
        for name, text in of[0].constant.items():
            columns[name] = pa.repeat(pa.scalar(text), len(lines))
        lines = (lines if order is None else lines[order]) + (before + 1)
        made.append(pa.table({"line": numbers(lines), **columns}))
    return made
