"""Lines of delimited text into rows of cells, so that a bad line spoils no other.

A line is cut as Python's csv cuts it, strictly. A quote that is opened and not closed
takes the lines behind it with it only as far as they are plainly one cell.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["MORE", "Record", "blank", "cells_of", "is_utf8", "quotes_match", "records"]

_NAMES_SOMETHING = re.compile(
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|\d(?:\.\d+){4,}"
)

LONGEST_CELL_IN_LINES = 100
"""Lines that a cell in quotes may go on for."""
MORE = "goes on beyond the lines at hand"


class Record(NamedTuple):
    """A row of cells, or what is wrong with its first line."""

    lines: int
    """Lines that it takes."""
    text: str
    cells: list[str] | None
    reason: str = ""


def records(lines: list[bytes], delimiter: str, *, final: bool) -> Iterator[Record]:
    """Cut lines into rows; a row with a cell that goes on over lines is one."""
    at = 0
    while at < len(lines):
        record = _record(lines, at, delimiter, final=final)
        yield record
        if record.reason == MORE:
            return
        at += record.lines


def _record(lines: list[bytes], at: int, delimiter: str, *, final: bool) -> Record:
    line = lines[at].rstrip(b"\r")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        shown = line.decode("utf-8", "replace")
        return Record(1, shown, None, "is not text in UTF-8; save the file as UTF-8")
    if "\0" in text:
        return Record(1, text, None, "holds NUL characters, so it is not text")
    if '"' not in text and "\r" not in text:
        return Record(1, text, text.split(delimiter))
    try:
        return Record(1, text, parsed(text, delimiter))
    except csv.Error as error:
        if "unexpected end" not in str(error):
            return Record(1, text, None, f"its quotes or line ends are broken: {error}")
    return _going_on(lines, at, text, delimiter, final=final)


def _going_on(
    lines: list[bytes], at: int, text: str, delimiter: str, *, final: bool
) -> Record:
    """Give a row one cell of which goes on in the lines behind it."""
    # A cell goes on: to the next line with an odd number of quotes.
    behind = at + 1 + LONGEST_CELL_IN_LINES
    for end in range(at + 1, min(behind, len(lines))):
        if lines[end].count(b'"') % 2:
            return _over_lines(lines[at : end + 1], text, delimiter)
    if not final and behind > len(lines):
        return Record(0, text, None, MORE)
    reason = "a quote is opened here and not closed; this line alone is left out"
    return Record(1, text, None, reason)


def _over_lines(lines: list[bytes], text: str, delimiter: str) -> Record:
    """Give a row over several lines, unless its open quote has swallowed others."""
    broken = "a quote is opened here and not closed; this line alone is left out"
    try:
        whole = b"\n".join(lines).rstrip(b"\r").decode()
        cells = parsed(whole, delimiter)
    except (csv.Error, UnicodeDecodeError):
        return Record(1, text, None, broken)
    for cell in cells:
        if "\n" in cell and _NAMES_SOMETHING.search(cell):
            reason = f"a quote is opened here and closed {len(lines) - 1} lines on, "
            reason += "with identifiers between; this line alone is left out"
            return Record(1, text, None, reason)
    if "\0" in whole:
        return Record(len(lines), text, None, "holds NUL characters")
    return Record(len(lines), whole, cells)


def parsed(text: str, delimiter: str) -> list[str]:
    rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    return rows[0] if rows else [""]


def cells_of(text: str, delimiter: str) -> list[str] | None:
    """Give the cells of a line; None where its quotes are broken."""
    try:
        return parsed(text, delimiter)
    except csv.Error:
        return None


def blank(text: str, delimiter: str) -> bool:
    """Say whether all cells of a line are empty."""
    if text.replace('"', "").replace(delimiter, "").strip():
        return False
    # A cell that holds a quote is not empty.
    cells = cells_of(text, delimiter) if '"' in text else []
    return cells is not None and not any(cell.strip() for cell in cells)


def is_utf8(block: bytes) -> bool:
    """Say whether bytes are text in UTF-8."""
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def quotes_match(block: bytes, delimiter: str) -> bool:
    """Say whether every quote opens or closes a cell of a line, or is a pair in one."""
    import numpy as np

    letters = np.frombuffer(block, np.uint8)
    quotes = np.flatnonzero(letters == ord('"'))
    if len(quotes) % 2:
        return False
    ends = np.flatnonzero(letters == ord("\n"))
    if (np.searchsorted(quotes, ends) % 2).any():
        return False
    opening, closing = quotes[::2], quotes[1::2]
    before = letters[opening - 1]
    edges = [ord(delimiter), ord("\n"), ord('"')]
    good = np.isin(before, edges) | (opening == 0)
    # A pair of quotes within a cell closes it, and opens it again at once.
    well = np.isin(letters[closing + 1], [*edges, ord("\r")])
    return bool(good.all() and well.all())
