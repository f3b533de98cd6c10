"""What stands above the rows of a table of text, if anything does."""

from __future__ import annotations

import re
from typing import NamedTuple

from intake_idc.formats.columns import Column, guessed, identifies, known, named
from intake_idc.formats.records import MORE, blank, records

__all__ = ["PREAMBLE", "STRAY", "Front", "front_of"]

PREAMBLE = re.compile(
    r'"?(?:Manifest for cohort\b|Manifest generated at |User: |Filters: '
    r"|Date generated: |Total records found: |NOTE: |IDC Data Version\(s\): "
    r"|Total manifest size on disk: )"
)
"""How rows begin that stand above the table."""

SAMPLE = 100
"""Rows by which columns without names are told."""
STRAY = 10
"""Rows that may stand above the column names and say nothing."""


class Front(NamedTuple):
    """What stands above the rows."""

    delimiter: str
    header: list[str]
    """Column names; empty where there are none."""
    columns: list[Column]
    width: int
    """Cells in a row."""
    lines: int
    """Lines above the first row, the column names among them."""
    stray: list[tuple[int, str]]
    """Lines that are neither preamble nor column names."""
    got: list[str]
    """Cells of the first row that is no preamble."""


def front_of(lines: list[bytes], delimiter: str, *, final: bool) -> Front:
    """Find the column names, or tell the columns by the first rows."""
    stray: list[tuple[int, str]] = []
    sample: list[list[str]] = []
    got: list[str] = []
    at = first = 0
    for record in records(lines, delimiter, final=final):
        number, at = at + 1, at + record.lines
        text, cells = record.text, record.cells
        if record.reason == MORE:
            break
        if cells is not None and _above(text, cells, delimiter):
            continue
        first = first or number
        if cells is None:
            stray.append((number, text))
            continue
        got = got or cells
        looks = [*map(identifies, cells)]
        columns = known(cells) if not any(looks) else []
        if not sample and named(columns):
            header = [*cells]
            return Front(delimiter, header, columns, len(cells), at, stray, got)
        if {"uuid", "uid", "place"} & {*looks} or sample:
            sample.append(cells)
        else:
            stray.append((number, text))
            if len(stray) > STRAY:
                break
        if len(sample) >= SAMPLE:
            break
    columns = guessed(sample) if sample else []
    width = max(map(len, sample), default=0)
    # Without column names every line may be a row: it is judged as one.
    return Front(delimiter, [], columns, width, max(first - 1, 0), [], got)


def _above(text: str, cells: list[str], delimiter: str) -> bool:
    """Say whether a line stands above a table: blank, preamble, comment."""
    if blank(text, delimiter) or PREAMBLE.match(text):
        return True
    return text.startswith("#") or cells[0].lower().startswith("sep=")
