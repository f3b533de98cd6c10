"""What the header of a manifest says of it: its releases, and how many records."""

from __future__ import annotations

import re

__all__ = ["records_in", "releases_in"]

_RELEASES = re.compile(r"IDC Data Version\(s\): (.*)")
_RELEASE = re.compile(r"Version (\d{1,4})(?:\.\d+)?\b")
# Bounded, because Python refuses to read a number of thousands of digits.
_RECORDS = re.compile(r"Total records found: ([\d,]{1,20})(?![\d,])")


def releases_in(text: str) -> list[int]:
    """Give the releases that a line of a header names.

    >>> releases_in("# IDC Data Version(s): IDC Data Release Version 14.0 2023-05-04")
    [14]
    """
    found = _RELEASES.search(text)
    return [int(number) for number in _RELEASE.findall(found[1])] if found else []


def records_in(text: str) -> int | None:
    """Give the number of records that a line of a header announces, if it does."""
    found = _RECORDS.search(text)
    digits = found[1].replace(",", "") if found else ""
    return int(digits) if digits else None
