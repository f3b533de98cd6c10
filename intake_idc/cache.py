"""A bounded folder of files that can be made again, shared by processes.

Nothing depends on it: whatever it holds was fetched from its published place or
worked out from files that are still there, and is fetched or worked out again
where it is missing. It holds no DICOM.

``INTAKE_IDC_CACHE`` names the folder, or is ``off``; ``INTAKE_IDC_CACHE_SIZE``
bounds its bytes (``4GB`` by default). What was used longest ago goes first.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from intake_idc.errors import RequestError
from intake_idc.files import beside

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MARKER",
    "Entry",
    "adding",
    "clear",
    "entries",
    "find",
    "folder",
    "hold",
    "limit",
    "named",
    "sha256",
    "size_of",
]

FOLDER_VARIABLE = "INTAKE_IDC_CACHE"
SIZE_VARIABLE = "INTAKE_IDC_CACHE_SIZE"
DEFAULT_SIZE = "4GB"

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_ABANDONED = 24 * 3600
"""Seconds after which a file that was being written is nobody's any more."""

_HELD: set[Path] = set()
"""Folders that this process reads from."""

MARKER = "intake-idc-cache.txt"
"""File by which a folder is known to be this cache."""
_MARK = "Files here can be deleted at any time: intake-idc makes them again.\n"


@dataclass(frozen=True)
class Entry:
    """One file of the cache."""

    name: str
    """Path below the folder."""
    size: int
    """Bytes."""
    used: float
    """When it was last used, in seconds since 1970."""


def folder() -> Path | None:
    """Give the folder of the cache, or None where there is none to write to.

    Raises
    ------
    RequestError
        The folder holds what no cache has put there, and may not be deleted.
    """
    text = named()
    if text.lower() == "off":
        return None
    if text:
        place = _absolute(text)
    else:
        import platformdirs

        place = Path(platformdirs.user_cache_dir("intake-idc", appauthor=False))
    try:
        place.mkdir(parents=True, exist_ok=True)
        marker = place / MARKER
        if not marker.exists():
            # Another process may be making it: its marker comes before all else.
            if any(place.iterdir()) and not marker.exists():
                msg = (
                    f"{FOLDER_VARIABLE}: {place} holds something already, which the "
                    "cache would delete in time; name a new or an empty folder"
                )
                raise RequestError(msg, path=str(place))
            marker.write_text(_MARK, "utf-8")
    except OSError:
        return None
    return place


def named() -> str:
    """Give what the environment says of the cache; empty where it says nothing."""
    return os.environ.get(FOLDER_VARIABLE, "")


def _absolute(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        msg = f"{FOLDER_VARIABLE} is no folder: {text!r} ({error})"
        raise RequestError(msg, path=text) from error


def limit() -> int:
    """Give the bytes that the cache may hold.

    Raises
    ------
    RequestError
        ``INTAKE_IDC_CACHE_SIZE`` is not a size such as ``500MB``.
    """
    return size_of(os.environ.get(SIZE_VARIABLE) or DEFAULT_SIZE, SIZE_VARIABLE)


def size_of(text: str, what: str) -> int:
    """Give the bytes that a text such as ``500MB`` means.

    Raises
    ------
    RequestError
        It is no size; ``what`` says of what.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if found is None:
        msg = f"{what} is a size such as 500MB or 4GB; got {text!r}"
        raise RequestError(msg, value=text)
    return int(float(found[1]) * _UNITS[found[2].upper()])


def find(name: str) -> Path | None:
    """Give a file of the cache by its path below the folder, and mark it as used."""
    place = folder()
    if place is None or not (place / name).is_file():
        return None
    with suppress(OSError):
        os.utime(place / name)
    return place / name


@contextmanager
def adding(name: str) -> Iterator[Path]:
    """Give a file to write, which is in the cache under a name when it is whole.

    Two processes may add the same file at once: the later one takes its place.
    The body must not run where `folder` gives None.
    """
    place = folder()
    if place is None:
        msg = "there is no cache to add to"
        raise RequestError(msg)
    with beside(place / name) as part:
        yield part
    _trim(keep=place / name)


def hold(place: Path) -> None:
    """Keep a folder for as long as this process runs: it reads files there."""
    _HELD.add(place)


def entries() -> list[Entry]:
    """List the files of the cache, the one used longest ago first."""
    place = folder()
    found = []
    for path in place.rglob("*") if place is not None else ():
        with suppress(OSError):  # Another process may have taken it away.
            if path.is_file() and path.name != MARKER:
                stat = path.stat()
                name = path.relative_to(place or path).as_posix()
                found.append(Entry(name, stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.name))


def clear() -> int:
    """Delete every file of the cache, and give the bytes that were freed."""
    place = folder()
    freed = 0
    for entry in entries():
        if place is not None and _drop(place / entry.name):
            freed += entry.size
    return freed


def _trim(keep: Path) -> None:
    """Delete what was used longest ago, until the rest fits.

    A file that is being written, the one just added, and those that this process
    reads stay.
    """
    place, bound = folder(), limit()
    held = entries()
    total = sum(entry.size for entry in held)
    abandoned = time.time() - _ABANDONED
    for entry in held:
        if total <= bound or place is None:
            return
        path = place / entry.name
        written = entry.name.endswith(".part") and entry.used > abandoned
        if path == keep or path.parent in _HELD or written:
            continue
        if _drop(path):
            total -= entry.size


def _drop(path: Path) -> bool:
    """Delete a file; elsewhere than on POSIX one that is open stays."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


@overload
def sha256(path: Path) -> str: ...


@overload
def sha256(path: Path, *, known: bool) -> str | None: ...


def sha256(path: Path, *, known: bool = False) -> str | None:
    """Give the SHA-256 of a file, which is worked out once for each state of it.

    A state is path, size, time of change and inode, as build tools have it. With
    ``known`` it is only looked up, and is None where it was not worked out.
    """
    stat = path.stat()
    state = f"{path}\n{stat.st_size}\n{stat.st_mtime_ns}\n{stat.st_ino}"
    name = f"digests/{hashlib.sha256(state.encode()).hexdigest()[:32]}"
    held = find(name)
    if held is not None:
        text = ""
        with suppress(OSError):  # Another process may have taken it away.
            text = held.read_text("ascii", errors="replace")
        if re.fullmatch(r"[0-9a-f]{64}", text):
            return text
    if known:
        return None
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    digest = sha.hexdigest()
    if folder() is not None:
        with suppress(OSError), adding(name) as part:
            part.write_text(digest, "ascii")
    return digest
