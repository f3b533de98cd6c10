"""Names that are one part of a path on Linux, macOS and Windows.

Any text becomes such a name by rule. What no rule can make right, such as a path that
is too long with its root, is said in words. Nothing here looks at a disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import unicodedata
from pathlib import PurePath, PureWindowsPath

__all__ = ["LONGEST_NAME", "PART_NAME", "path_problem", "safe_name", "same"]

LONGEST_NAME = 120
"""Characters of one part of a path; longer ones end in a digest of the whole."""
PART_BYTES = 255
"""Bytes in UTF-8, and units of UTF-16, that file systems allow one part of a path."""
PART_NAME = 56
"""Characters that the name of a part file may have, which lies beside its file."""
POSIX_BYTES = 1023 if sys.platform == "darwin" else 4095
"""Bytes of a path on macOS and Linux: PATH_MAX counts the zero at its end."""
WINDOWS_UNITS = 259
"""Units of UTF-16 of a path on Windows: MAX_PATH counts the zero at its end."""
LONG_UNITS = 32_766
r"""The same of a path that begins with ``\\?\``."""
KEY_BYTES = 1024
"""Bytes of a key in S3 and in Google's storage."""

_PLAIN = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
"""Names that need a look at their length and for devices only."""
_FORBIDDEN = re.compile(
    r'[<>:"/\\|?*'
    r"\x00-\x1f\x7f-\x9f\u2028\u2029"  # controls, ends of lines
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the text around
    r"\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"  # half characters, and no characters
    + "".join(f"{chr(p << 16 | 0xFFFE)}{chr(p << 16 | 0xFFFF)}" for p in range(1, 17))
    + "]"
)
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])[ ]*(\.|$)",
    re.IGNORECASE,
)
"""Windows takes these for devices, whatever stands behind the first dot."""
_LOOSE = ". \u200c\u200d\u206a\u206b\u206c\u206d\u206e\u206f\ufeff"
"""What may not stand at an end: dots and blanks, and what is not seen before a dot."""
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
"""HFS+ compares names without these (TN1150)."""
_LOOSE_END = re.compile(r"(?<=[^/. ])[. ]+(?=/|\Z)")
"""Windows drops dots and blanks at the end of a part."""


def safe_name(text: str, ending: str = "") -> str:
    """Give a name that is one part of a path on Linux, macOS and Windows.

    Characters that a platform forbids become ``_``, and so do controls and what is no
    character. The form is NFC. Neither dots nor blanks stand at an end, so that no name
    is hidden. Device names of Windows get a ``_`` in front. A name of more than 120
    characters, or of more than a file system holds, ends in a digest of the whole. A
    safe name stays as it is.

    Parameters
    ----------
    text : str
        Any text.
    ending : str
        Such as ``".dcm"``: it comes behind the text, and is never cut off. It must be
        safe behind a name.

    >>> safe_name("Lung: a/b"), safe_name("CON", ".dcm"), safe_name("..")
    ('Lung_ a_b', '_CON.dcm', '_')
    """
    if _PLAIN.fullmatch(text):
        name = text
    else:
        name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)).strip(_LOOSE)
        name = name or "_"
    name += ending
    if _DEVICE.match(name):
        name = f"_{name}"
    if len(name) > LONGEST_NAME or not (name.isascii() or _fits(name)):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        room = LONGEST_NAME - 17 - len(ending)
        kept = name[: len(name) - len(ending)].encode()[:room].decode("utf-8", "ignore")
        name = f"{kept}-{digest}{ending}"
    return name


def _fits(name: str) -> bool:
    """Say whether every file system has room for it, also one that decomposes it."""
    composed, decomposed = len(name.encode()), unicodedata.normalize("NFD", name)
    return composed <= 2 * LONGEST_NAME and _units(decomposed) <= PART_BYTES


def _units(text: str) -> int:
    """Count units of UTF-16."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def same(path: str) -> str:
    r"""Give a key that is one for all paths that some platform takes for one file.

    Those are paths that differ by case, by normalisation, by characters that are not
    seen, or by dots and blanks at the end of a part. The key may also be one for paths
    that most platforms tell apart: ``ß`` and ``ss``.

    Parameters
    ----------
    path : str
        With ``/`` between its parts.

    >>> same("CT/A.dcm") == same("ct/a.DCM"), same("e\u0301") == same("\u00c9")
    (True, True)
    """
    if "./" in path or " /" in path or path.endswith((".", " ")):
        path = _LOOSE_END.sub("", path)
    if path.isascii():
        return path.lower()
    found = ""
    path = _IGNORED.sub("", path)
    while path != found:
        # Decomposed, for marks change their order with case; and upper case first,
        # for some tables know only that, in which i and dotless i are one.
        found, path = path, unicodedata.normalize("NFD", path).upper().casefold()
        path = unicodedata.normalize("NFC", path)
    return found


def path_problem(
    root: str | os.PathLike[str], path: str, longest: int | None = None
) -> str | None:
    r"""Say what keeps a path from being written below a root; None where nothing does.

    Parameters
    ----------
    root : path or URL
        The target, absolute. A `pathlib.PureWindowsPath` has the limits of Windows: 259
        units of UTF-16, or 32,766 where it begins with ``\\?\``. Others have 4,095
        bytes, 1,023 on macOS, and keys below a URL 1,024. The part file beside it has
        to fit as well.
    path : str
        Below it, with ``/`` between its parts.
    longest : int, optional
        Units of UTF-16 that root and path may have together, beside these limits: such
        as 259 for a folder that will be carried to Windows.

    >>> path_problem("/data", "CT/1.dcm") is None
    True
    >>> path_problem("/data", "../1.dcm")
    "'../1.dcm' leads out of the target"
    """
    wrong = _parts_problem(path)
    if wrong is not None:
        return wrong
    folder, _, name = path.rpartition("/")
    # The part file beside it may have the longer name.
    widest = f"{folder}/{name:_<{PART_NAME}}".lstrip("/")
    whole = os.fspath(root)
    if "://" in whole:
        key = whole.partition("://")[2].partition("/")[2].strip("/")
        length = len(os.fsencode(f"{key}/{path}".lstrip("/")))
        most, counted = KEY_BYTES, "bytes as a key"
    elif isinstance(
        root if isinstance(root, PurePath) else PurePath(whole), PureWindowsPath
    ):
        length = _units(whole.rstrip("\\/")) + 1 + _units(widest)
        most = LONG_UNITS if whole.startswith("\\\\?\\") else WINDOWS_UNITS
        counted = "characters with its target and the part file beside it"
    else:
        length = len(os.fsencode(whole.rstrip("/"))) + 1 + len(widest.encode())
        most = POSIX_BYTES
        counted = "bytes with its target and the part file beside it"
    if length <= most and longest is not None:
        length = _units(whole.rstrip("\\/")) + 1 + _units(path)
        most, counted = longest, "characters with its target"
    if length <= most:
        return None
    return f"{path!r} has {length:,} {counted}; at most {most:,} are allowed"


def _parts_problem(path: str) -> str | None:
    """Say which part of a path cannot be one."""
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path):
        return f"{path!r} is absolute"
    parts = path.split("/")
    if ".." in parts:
        return f"{path!r} leads out of the target"
    for part in parts:
        if not part:
            return f"{path!r} has a part without a name"
        if not part.isascii() and len(part.encode("utf-8", "replace")) > PART_BYTES:
            return f"{part!r} has more than {PART_BYTES} bytes"
        safe = safe_name(part)
        if safe != part:
            return f"{part!r} is not a name on every platform; {safe!r} is"
    return None
