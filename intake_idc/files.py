"""Paths that hold in any folder, and files that are there only when they are whole."""

from __future__ import annotations

import functools
import itertools
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PART", "beside", "is_left", "part_name", "whole_path"]

PART = re.compile(r"\.idc-(?:([0-9a-f]{8})-)?(\d+)-(?:([0-9a-f]+)-)?[0-9a-f]+\.part\d*")
"""Names of part files: machine, process, when that began, and a number."""

_numbers = itertools.count()


def whole_path(path: str | os.PathLike[str]) -> str:
    """Give a path whole, which is read from another folder too; a URL as it is."""
    text = os.fspath(path)
    if "://" in text or "::" in text:
        return text
    return os.path.abspath(text)  # noqa: PTH100


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a file beside a path, which takes its place as the last act.

    Where the body raises, the path is left as it was, and nothing stays beside it.
    Its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(part_name())
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# Whose part files are whose.


def part_name() -> str:
    """Give a name for a file that is being written, which no other has.

    Two threads may write the same file; a long name leaves no room for its own.
    """
    return f"{_prefix(os.getpid())}{next(_numbers):x}.part"


def is_left(name: str) -> bool | None:
    """Whether a file is a part of a process that is gone.

    Returns
    -------
    bool or None
        None where it cannot be seen from here: a part of another machine, which
        shares the folder, or one that does not say of which it is.
    """
    found = PART.fullmatch(name)
    if found is None:
        return False
    machine, pid, began = found[1], int(found[2]), found[3]
    if machine != _machine():
        return None
    if os.name == "nt":
        return None
    now = _began(pid)
    if now is not None:
        return began not in ("0", now)
    return Path("/proc/self/stat").exists() or not _runs(pid)


@functools.cache
def _prefix(pid: int) -> str:
    return f".idc-{_machine()}-{pid}-{_began(pid) or '0'}-"


@functools.cache
def _machine() -> str:
    """Give what tells this machine, or container, from others."""
    import hashlib
    import platform

    said = [platform.node()]
    with suppress(OSError):
        # Machines that were not given a name are all called the same.
        said.append(Path("/etc/machine-id").read_text(encoding="ascii"))
    with suppress(OSError):
        said.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  (no path)
    return hashlib.sha256(" ".join(said).encode()).hexdigest()[:8]


def _began(pid: int) -> str | None:
    """Give when a process began, where the system says it; None where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # After the name, which may hold anything: proc(5), fields 3 and 22.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{int(fields[19]):x}"


def _runs(pid: int) -> bool:
    """Whether there is such a process, where the system has no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
