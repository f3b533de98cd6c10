"""Tables as text: CSV and TSV, as portals write them and as hands leave them.

Before the table may stand rows of one cell, as the portal writes them (``Manifest for
cohort 'x'``, ``Date generated: ..``), and the row of column names may be missing.

Blocks of whole lines that are plainly CSV are read by Arrow. A block that is not (a
quote that stands alone, a line with more or fewer cells, bytes that are not UTF-8, a
cell with a line feed in it) is read line by line, so that each bad line is accounted
for by its number and spoils no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from intake_idc.arrow import texts
from intake_idc.errors import ManifestError
from intake_idc.formats import Listing, Problem
from intake_idc.formats.announcing import records_in, releases_in
from intake_idc.formats.columns import (
    UNVALIDATED,
    WOULD_DO,
    identifies,
    named,
)
from intake_idc.formats.encodings import plain_text
from intake_idc.formats.front import PREAMBLE, Front, front_of
from intake_idc.formats.gathering import Gatherer, assembled, cut
from intake_idc.formats.records import (
    MORE,
    Record,
    blank,
    cells_of,
    is_utf8,
    quotes_match,
    records,
)
from intake_idc.formats.source import Bytes, line_texts, utf8, whole_lines

__all__ = ["read"]

DELIMITERS = {"csv": ",", "tsv": "\t"}
OTHER_DELIMITERS = ",\t;|"

_PREAMBLE_BYTES = re.compile(rb"(?m)^(?:\xef\xbb\xbf)?" + PREAMBLE.pattern.encode())
ENOUGH = 64 << 10
"""Bytes in which the column names, or a sample of rows, are looked for."""
LONGEST_FRONT = 4 << 20
"""Bytes above the column names."""
TOGETHER = 20_000
"""Rows that are read one by one before they are taken together."""


def read(source: Bytes, kind: str, *, fast: bool = True) -> Listing:
    """Read a table of delimited text.

    Parameters
    ----------
    source : Bytes
        The text, in UTF-8, or in UTF-16.
    kind : "csv" or "tsv"
        What delimits cells, unless the column names tell otherwise.
    fast : bool
        Whether Arrow reads the blocks that are plain; the result is the same.

    Raises
    ------
    ManifestError
        No column names anything.
    StorageError
        It cannot be read.
    """
    source = plain_text(source)
    blocks = whole_lines(utf8(source.blocks()))
    table = _begun(source.name, kind, blocks, fast=fast)
    for block in blocks:
        table.feed(block)
    table.finish()
    names, problems = assembled(table.gatherers())
    problems = sorted([*problems, *table.problems], key=lambda each: each.line)
    releases = tuple(dict.fromkeys(table.idc_versions))
    return Listing(kind, names, problems, releases, partial(line_texts, source))


def _begun(name: str, kind: str, blocks: Iterator[bytes], *, fast: bool) -> _Table:
    """Read as far as the column names, or as far as columns are told by their cells."""
    preferred = DELIMITERS[kind]
    delimiters = [preferred, *OTHER_DELIMITERS.replace(preferred, "")]
    unread: list[bytes] = []
    size = tried = 0
    while True:
        block = next(blocks, None)
        final = block is None or size > LONGEST_FRONT
        if block is not None:
            unread.append(block)
            size += len(block)
            if size < max(ENOUGH, 2 * tried) and not final:
                continue
        tried = size
        lines = b"".join(unread).split(b"\n")[:-1]
        fronts = [front_of(lines, each, final=final) for each in delimiters]
        front = max(fronts, key=lambda found: len(found.columns))
        if front.columns:
            break
        if final:
            raise _unnamed(name, front)
    table = _Table(front, fast=fast)
    table.begin(lines)
    return table


def _unnamed(name: str, front: Front) -> ManifestError:
    got = ", ".join(repr(cell[:40]) for cell in front.got[:12]) or "nothing"
    if any(map(identifies, front.got)):
        msg = (
            f"{name}: it cannot be told what its columns are, by the first row {got}; "
            f"add a row of column names, such as {WOULD_DO}"
        )
    else:
        msg = (
            f"{name}: no column names a thing of IDC; got {got}; what would do: "
            f"{WOULD_DO}"
        )
    return ManifestError(msg, name=name, columns=tuple(front.got))


class _Table:
    """What was read of a table so far."""

    def __init__(self, front: Front, *, fast: bool) -> None:
        self.front = front
        self.main = Gatherer(front.columns, passed_over=self.passed_over)
        self.problems: list[Problem] = []
        self.idc_versions: list[int] = []
        self._fast = fast
        self._lines = 0
        self._announced: list[tuple[int, str, int]] = []
        self._rejected = 0
        self._ragged: dict[tuple[int, ...], Gatherer] = {}
        self._open: list[bytes] = []

    def gatherers(self) -> list[Gatherer]:
        """Give all that rows were gathered in."""
        return [self.main, *self._ragged.values()]

    @property
    def any_text_will_do(self) -> bool:
        """Whether a row may be any text: a patient's identifier can be."""
        return self.front.width == 1 or self.main.level >= _LEVEL_OF_PATIENTS

    # Blocks.

    def begin(self, lines: list[bytes]) -> None:
        """Read the first lines, those above the rows among them."""
        for number, text in self.front.stray:
            reason = "stands above the column names; passed over"
            self.problems.append(Problem(number, cut(text), reason, rejected=False))
        above = self.front.lines
        for number, line in enumerate(lines[:above], 1):
            text = line.decode("utf-8", "replace")
            if PREAMBLE.match(text):
                self._preamble(number, text)
        self._lines = above
        self.feed(b"".join(line + b"\n" for line in lines[above:]))

    def feed(self, block: bytes) -> None:
        """Read some whole lines."""
        if self._open:
            block = b"\n".join([*self._open, block])
            self._open = []
        if block and not (self._fast and self._quickly(block)):
            self._slowly(block.split(b"\n")[:-1], final=False)

    def finish(self) -> None:
        """Say that there is no more."""
        lines, self._open = self._open, []
        self._slowly(lines, final=True)
        for number, text, last in self._announced[-1:]:
            total = sum(dict.fromkeys(count for _, _, count in self._announced))
            counted = self._rejected + sum(each.rows for each in self.gatherers())
            if counted not in {last, total}:
                reason = f"announces {last:,} records; {counted:,} rows follow"
                self.problems.append(Problem(number, cut(text), reason, rejected=False))

    # Above the table, and between its parts.

    def _preamble(self, number: int, text: str) -> None:
        self.idc_versions += releases_in(text)
        records = records_in(text)
        if records is not None:
            self._announced.append((number, text, records))

    def passed_over(self, number: int, text: str) -> bool:
        """Say whether a line is none of the table: blank, a preamble, a header."""
        text = text.removeprefix("\ufeff")
        if PREAMBLE.match(text):
            self._preamble(number, text)
            return True
        return blank(text, self.front.delimiter) or self._repeats_header(text)

    def _repeats_header(self, text: str) -> bool:
        """Say whether a line has the column names again: parts were put together."""
        header = self.front.header
        if not header or len(text) > LONGEST_FRONT:
            return False
        cells = cells_of(text, self.front.delimiter) or []
        return [*map(_bare, cells)] == [*map(_bare, header)]

    def _looks_like_rows_above(self, block: bytes) -> bool:
        """Say whether a block may hold a preamble or header that passes for a row."""
        front = self.front
        if not self.any_text_will_do:
            return False
        name = _bare(front.columns[0].header)
        return bool(_PREAMBLE_BYTES.search(block)) or name in block.lower()

    # Many lines at once.

    def _quickly(self, block: bytes) -> bool:
        """Read a block by Arrow; where it is not plain, say so and do nothing."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        front, gatherer = self.front, self.main
        count = block.count(b"\n")
        simple = (
            is_utf8(block)
            and b"\0" not in block
            and block.count(b"\r") == block.count(b"\r\n")
            # Arrow takes a mark for none, wherever the block stands.
            and not block.startswith((b"\n", b"\r\n", b"\xef\xbb\xbf"))
            and b"\n\n" not in block
            and b"\n\r\n" not in block
        )
        if not simple or self._looks_like_rows_above(block):
            return False
        quotes = b'"' in block
        if quotes and not quotes_match(block, front.delimiter):
            return False
        names = [str(index) for index in range(front.width)]
        wanted = list(dict.fromkeys(names[column.at] for column in front.columns))
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(block),
                arrow_csv.ReadOptions(column_names=names),
                arrow_csv.ParseOptions(
                    delimiter=front.delimiter,
                    quote_char='"' if quotes else False,
                    ignore_empty_lines=False,
                ),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.string()),
                    include_columns=wanted,
                    strings_can_be_null=False,
                ),
            )
        except (pa.ArrowException, ValueError):
            return False
        if table.num_rows != count:
            return False
        import numpy as np

        texts_of = _LineTexts(block)
        start = 0
        for batch in table.combine_chunks().to_batches():
            lines = np.arange(batch.num_rows, dtype=np.int64)
            lines += self._lines + 1 + start
            cells = [batch[names[column.at]] for column in front.columns]
            gatherer.add(cells, lines, partial(texts_of.at, start))
            start += batch.num_rows
        self._lines += count
        return True

    # One line after another.

    def _slowly(self, lines: list[bytes], *, final: bool) -> None:
        """Read lines; those of a row that goes on are kept until there are more."""
        rows = _Rows(self)
        at = 0
        for record in records(lines, self.front.delimiter, final=final):
            if record.reason == MORE:
                self._open = lines[at:]
                break
            at += record.lines
            self._lines += record.lines
            rows.take(self._lines - record.lines + 1, record)
        rows.flush()

    def reject(self, number: int, text: str, reason: str) -> None:
        """Account for a line that gives no row."""
        self._rejected += 1
        self.problems.append(Problem(number, cut(text), reason))

    def ragged(self, width: int) -> Gatherer | None:
        """Give what takes rows with more or fewer cells than there are columns.

        Where a cell is missing or one too many, cells behind it are not what their
        column says; those that are uuids, UIDs or places show by themselves whether
        they are sound. Of a row with too many only those in front of all others count.
        """
        front = self.front
        sound = [each for each in front.columns if each.role not in UNVALIDATED]
        if width > front.width:
            leading = {each.at for each in sound}
            sound = [each for each in sound if leading >= set(range(each.at))]
        else:
            sound = [each for each in sound if each.at < width]
        if not named(sound):
            return None
        key = tuple(each.at for each in sound)
        if key not in self._ragged:
            self._ragged[key] = Gatherer(
                sound, needs=front.columns, passed_over=self.passed_over
            )
        return self._ragged[key]


_LEVEL_OF_PATIENTS = 3


def _bare(cell: str) -> bytes:
    """Give a column name as rows that repeat it are looked for, in any case."""
    return cell.strip("\ufeff \t\"'").encode("utf-8", "replace").lower()


class _Rows:
    """Rows read one by one, until they are taken together."""

    def __init__(self, reader: _Table) -> None:
        self._reader = reader
        self.front = reader.front
        self._batches: dict[int, tuple[Gatherer, list[Any]]] = {}
        self._held = 0

    def take(self, number: int, record: Record) -> None:
        """Take a row, or say what is wrong with it."""
        reader, width = self._reader, self.front.width
        cells, text = record.cells, record.text
        if blank(text, self.front.delimiter):
            return
        if cells is None:
            reader.reject(number, text, record.reason)
            return
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        exact = len(cells) == width
        doubtful = not exact or reader.any_text_will_do
        if doubtful and reader.passed_over(number, text):
            return
        gatherer = reader.main if exact else reader.ragged(len(cells))
        if gatherer is None:
            reader.reject(number, text, _miscounted(len(cells), width))
            return
        _, rows = self._batches.setdefault(id(gatherer), (gatherer, []))
        rows.append((number, cells, text))
        self._held += 1
        if self._held >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Hand the rows on."""
        import numpy as np

        for gatherer, rows in self._batches.values():
            lines = np.array([number for number, _, _ in rows], np.int64)
            columns = [
                texts([cells[column.at] for _, cells, _ in rows])
                for column in gatherer.columns
            ]
            exact = gatherer is self._reader.main
            gatherer.add(
                columns,
                lines,
                lambda at, rows=rows: rows[at][2],  # type: ignore[misc]
                None if exact else partial(self._remark, rows, gatherer),
            )
        self._batches = {}
        self._held = 0

    def _remark(self, rows: list[Any], gatherer: Gatherer, at: int) -> str:
        taken = ", ".join(column.header for column in gatherer.columns)
        reason = _miscounted(len(rows[at][1]), self.front.width)
        return f"{reason}; taken by {taken} alone"


def _miscounted(got: int, width: int) -> str:
    mend = "quote cells that hold the delimiter" if got > width else "some are missing"
    return f"has {got} cells, not {width}: {mend}"


class _LineTexts:
    """Texts of the lines of a block, looked up only where one is asked for."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._ends: Any = None

    def at(self, start: int, row: int) -> str:
        if self._ends is None:
            import numpy as np

            letters = np.frombuffer(self._block, np.uint8)
            self._ends = np.flatnonzero(letters == ord("\n"))
        index = start + row
        first = int(self._ends[index - 1]) + 1 if index else 0
        return self._block[first : int(self._ends[index])].decode().removesuffix("\r")
