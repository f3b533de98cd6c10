"""Texts as spreadsheets leave them: UTF-16 without a mark, no line feeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from intake_idc.formats.source import Bytes, utf8

__all__ = ["plain_text", "unmarked"]


def unmarked(head: bytes) -> Literal["utf-16-le", "utf-16-be"] | None:
    """Say whether a text is UTF-16 without a mark: every other byte of it is NUL."""
    first = head[:256]
    if len(first) < 4 or first[:2] in (b"\xff\xfe", b"\xfe\xff"):  # noqa: PLR2004
        return None
    even, odd = first[::2], first[1::2]
    if 0 not in even and odd.count(0) > len(odd) * 3 // 4:
        return "utf-16-le"
    if 0 not in odd and even.count(0) > len(even) * 3 // 4:
        return "utf-16-be"
    return None


class _Text(Bytes):
    """A text with line feeds, of one that has carriage returns or no mark."""

    def __init__(self, source: Bytes, encoding: str | None) -> None:
        self.name = source.name
        self._source = source
        self._encoding = encoding

    def blocks(self) -> Iterator[bytes]:
        blocks = self._source.blocks()
        if self._encoding:
            # The mark that was left out.
            mark = b"\xff\xfe" if self._encoding == "utf-16-le" else b"\xfe\xff"
            blocks = _after(mark, blocks)
            yield from utf8(blocks)
            return
        for block in utf8(blocks):
            yield block.replace(b"\r", b"\n")


def _after(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from blocks


def plain_text(source: Bytes) -> Bytes:
    """Give a text with line feeds and a mark, of one that leaves them out."""
    head = source.head
    encoding = unmarked(head)
    if encoding:
        source = _Text(source, encoding)
        head = source.head
    carriage_returns = b"\r" in head and b"\n" not in head
    return _Text(source, None) if carriage_returns else source
