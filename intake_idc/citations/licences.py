"""Licences, from names and URLs: which one it is, and what it allows."""

from __future__ import annotations

import re

__all__ = ["allows_commercial_use", "licences_differ"]


_NAMES = re.compile(
    r"cc-(?P<parts>by(?:-nc)?(?:-sa|-nd)?)(?:-(?P<version>\d\.\d))?"
    r"|(?P<zero>cc0|cc-0)(?:-1\.0)?"
    r"|(?P<mit>mit(?:-license)?)"
    r"|(?P<bsd>bsd-[0234]-clause)(?:-simplified|-new|-revised)?(?:-license)?"
    r"|(?P<apache>apache(?:-license)?(?:,?-version)?-2\.0)"
)
_LONG = re.compile(
    r"creative-commons-attribution(?P<nc>-non-?commercial)?"
    r"(?P<sa>-share-?alike)?(?P<nd>-no-?deriv[a-z]*)?"
    r"(?:-(?P<version>\d\.\d))?(?:-(?:international|unported|generic))?"
    r"(?:-public)?(?:-licen[sc]e)?"
)
_CC_URL = re.compile(
    r"https?://creativecommons\.org/(?:licenses/(?P<parts>[a-z-]+)/(?P<version>\d\.\d)"
    r"|(?P<zero>publicdomain/zero)/1\.0)(?:/(?:legalcode|deed)?(?:\.\w+)?)?"
)
_OSI_URL = re.compile(r"https?://opensource\.org/licenses?/([a-z0-9.-]+)/?")


def _licence(statement: str | None) -> str | None:
    """Give a licence in one spelling, from its short name, long name or URL.

    A text that is not wholly the name of a licence that is known here is None.
    """
    text = " ".join((statement or "").split()).lower()
    if found := _CC_URL.fullmatch(text):
        return "cc0" if found["zero"] else f"{found['parts']} {found['version']}"
    if found := _OSI_URL.fullmatch(text):
        text = found[1]
    name = re.sub(r"[ _-]+", "-", text.replace('"', ""))
    if found := _LONG.fullmatch(name):
        ends = ("-nc" * bool(found["nc"])) + ("-sa" * bool(found["sa"]))
        ends += "-nd" * bool(found["nd"])
        return f"by{ends} {found['version'] or ''}".strip()
    if found := _NAMES.fullmatch(name):
        if found["parts"]:
            return f"{found['parts']} {found['version'] or ''}".strip()
        return next(key for key in ("zero", "mit", "bsd", "apache") if found[key])
    return None


def allows_commercial_use(statement: str | None) -> bool:
    """Say whether a licence, by name or URL, allows commercial use.

    Creative Commons licences without "non-commercial", CC0, MIT, BSD and Apache do.
    Of what is not wholly one of these nothing is assumed: terms of an institution,
    a name with conditions of its own, no statement at all are False.

    >>> allows_commercial_use("CC BY 4.0"), allows_commercial_use("CC BY-NC 4.0")
    (True, False)
    """
    licence = _licence(statement)
    return licence is not None and "-nc" not in licence


def licences_differ(*statements: str | None) -> bool:
    """Say whether statements of one licence contradict each other.

    Spelling does not count, nor does a statement that is missing. A name that is not
    known here contradicts one that is.

    >>> licences_differ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/")
    False
    >>> licences_differ("CC BY-NC 3.0", "https://creativecommons.org/licenses/by/3.0/")
    True
    """
    made = [_licence(statement) for statement in statements if statement]
    known = {licence for licence in made if licence is not None}
    return len(known) > 1 or (bool(known) and None in made)
