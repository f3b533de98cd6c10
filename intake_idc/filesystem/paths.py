"""Paths of ``idc://``: what their parts stand for, and which fit a pattern."""

from __future__ import annotations

import glob
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote as percent_decoded

from fsspec.utils import glob_translate, stringify_path

from intake_idc.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "COLUMNS",
    "admission",
    "before_any_depth",
    "check_depth",
    "depth_of",
    "literal",
    "quote",
    "selected",
    "stripped",
    "unquote",
]

COLUMNS = ("collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
"""Columns that name the folders below a release, from the top."""


def depth_of(path: str) -> int:
    """Count the parts of a path."""
    return path.count("/") + 1 if path else 0


def stripped(path: str | os.PathLike[str]) -> str:
    """Take protocol and superfluous slashes off a path."""
    text = str(stringify_path(path)).removeprefix("idc::").removeprefix("idc://")
    return "/".join(filter(None, text.split("/")))


_UNSAFE = re.compile(r"[%/\\*?\[\]:\x00-\x1f\x7f]")
"""What divides, globs, chains or cannot be in a file's name on some platform."""

_NAMED = {None: "%null", "": "%empty", ".": "%2E", "..": "%2E%2E"}
_VALUES = {"%null": None, "%empty": ""}


def quote(value: str | None) -> str:
    """Write a value as one part of a path.

    >>> quote("a/b 100%")
    'a%2Fb 100%25'
    """
    if value is None or value in _NAMED:
        return _NAMED[value]
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", value)


def unquote(name: str) -> str | None:
    """Read a value from one part of a path."""
    return _VALUES[name] if name in _VALUES else percent_decoded(name)


def selected(names: Sequence[str | None]) -> Selection:
    """Select by the names of folders below a release; None lets every name be."""
    wanted = {
        column: unquote(name)
        for column, name in zip(COLUMNS, names, strict=False)
        if name is not None
    }
    return Selection().where(wanted) if wanted else Selection()


def before_any_depth(pattern: str | None) -> list[str]:
    """Give the parts of a pattern that each stand for one part of a path."""
    parts = pattern.split("/") if pattern else []
    return parts[: parts.index("**")] if "**" in parts else parts


def literal(part: str) -> str | None:
    """Give a part of a pattern where it stands for itself."""
    return None if glob.has_magic(part) else part


def admission(pattern: str | None) -> Callable[[str], bool]:
    """Tell which paths fit a pattern as far down as they go."""
    parts = before_any_depth(pattern)
    fitting = [
        re.compile(glob_translate("/".join(parts[: n + 1]))) for n in range(len(parts))
    ]

    def admits(path: str) -> bool:
        depth = min(depth_of(path), len(fitting))
        cut = "/".join(path.split("/")[:depth])
        return depth == 0 or fitting[depth - 1].match(cut) is not None

    return admits


def check_depth(maxdepth: int | None) -> None:
    """Refuse a depth that holds nothing, as fsspec does.

    Raises
    ------
    ValueError
        It is less than 1.
    """
    if maxdepth is not None and maxdepth < 1:
        msg = f"maxdepth must be at least 1; got {maxdepth}"
        raise ValueError(msg)
