"""Texts of the tables, made plain."""

from __future__ import annotations

import functools
import html
import re

__all__ = ["clean", "dois", "one_line"]


_TAG = re.compile(r"</?(?:i|b|em|strong|sub|sup|u|p|br|span)\b[^<>]*>", re.IGNORECASE)
_BETWEEN_DOIS = re.compile(r"[,;]\s*(?=(?:https?://|doi:|10\.)|$)", re.IGNORECASE)
_DOI_START = re.compile(r"^(?:https?://(?:dx\.)?doi\.org/|doi:)\s*", re.IGNORECASE)


def clean(text: str | None) -> str:
    r"""Give a text of the tables without markup, entities and hard line breaks.

    >>> clean("Doe, J., &amp; Roe, R. (2020).\n<i>A title</i> [Data set].")
    'Doe, J., & Roe, R. (2020). A title [Data set].'
    """
    return one_line(html.unescape(_TAG.sub("", text or "")))


@functools.lru_cache(maxsize=4096)
def one_line(text: str) -> str:
    """Give a text as one line of characters that can be shown."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def dois(cell: str | None) -> tuple[str, ...]:
    """Give the DOIs of a ``source_DOI`` cell, in lower case, each once.

    Several are joined by ", " or "; "; an empty cell has none.

    >>> dois("10.7937/A, https://doi.org/10.7937/b")
    ('10.7937/a', '10.7937/b')
    """
    found = (_DOI_START.sub("", p) for p in _BETWEEN_DOIS.split(one_line(cell or "")))
    # A DOI holds no blank.
    plain = ("".join(doi.split()).lower() for doi in found)
    return tuple(dict.fromkeys(doi for doi in plain if doi))
