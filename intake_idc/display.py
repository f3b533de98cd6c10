"""Rows and pairs as short text and HTML; knows none of this package's values."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["bytes_text", "count_text", "pairs", "pairs_html", "rows", "rows_html"]

AMOUNT = 12
"""Characters up to which a cell is not broken into lines."""


def bytes_text(size: float) -> str:
    """Give a number of bytes in decimal units, as IDC's own pages do (1 kB = 1e3)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def count_text(count: int, noun: str) -> str:
    """Give a count with its noun: ``1 collection``, ``1,044,191 series``."""
    if count == 1 or noun == "series":
        return f"{count:,} {noun}"
    if noun.endswith("y"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}s"


def pairs(title: str, items: Iterable[tuple[str, object]]) -> str:
    """Lay out name and value pairs under a title, names aligned."""
    items = list(items)
    width = max((len(name) for name, _ in items), default=0)
    # Names and conditions may come from a file of somebody else's.
    lines = [_plain(title)]
    lines += [f"  {name:<{width}}  {_plain(str(value))}" for name, value in items]
    return "\n".join(lines)


def pairs_html(title: str, items: Iterable[tuple[str, object]]) -> str:
    """Lay out name and value pairs as an HTML table with a caption."""
    body = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in items
    )
    caption = f"<caption style='white-space:nowrap'>{html.escape(title)}</caption>"
    return f"<table>{caption}{body}</table>"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    # Descriptions in IDC hold control characters (720 series in release 25).
    return _plain(str(value))


def _plain(text: str) -> str:
    """Give a text of which a terminal takes no sign for an order."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def rows(header: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """Lay out rows under a header, numbers to the right, text to the left."""
    raw = [list(row) for row in body]
    cells = [[_cell(value) for value in row] for row in raw]
    widths = [
        max([len(name), *(len(row[i]) for row in cells)])
        for i, name in enumerate(header)
    ]
    right = [
        bool(raw) and all(isinstance(row[i], int | float | None) for row in raw)
        for i in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        parts = (
            f"{cell:>{width}}" if flush else f"{cell:<{width}}"
            for cell, width, flush in zip(row, widths, right, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), *(line(row) for row in cells)])


def rows_html(
    title: str,
    header: Sequence[str],
    body: Iterable[Sequence[object]],
    remark: str = "",
) -> str:
    """Lay out rows under a header as an HTML table with a caption, all escaped."""

    def cell(tag: str, value: object) -> str:
        number = isinstance(value, int) and not isinstance(value, bool)
        side = "right" if number else "left"
        text = _cell(value)
        # An amount and its unit stay together; a long path leaves room for others.
        short = len(text) <= AMOUNT
        breaks = "white-space:nowrap" if short else "overflow-wrap:anywhere"
        style = f"text-align:{side};{breaks}"
        return f"<{tag} style='{style}'>{html.escape(text)}</{tag}>"

    caption = f"<caption style='white-space:nowrap'>{html.escape(title)}</caption>"
    head = "".join(cell("th", name) for name in header)
    lines = ["".join(cell("td", value) for value in row) for row in body]
    listed = "".join(f"<tr>{line}</tr>" for line in [head, *lines])
    after = f"<p>{html.escape(remark)}</p>" if remark else ""
    return f"<table>{caption}{listed}</table>{after}"
