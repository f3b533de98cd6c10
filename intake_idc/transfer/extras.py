"""Remove what an earlier copy put into a folder, and its cohort no longer holds.

Nothing else is removed: not a file that no record says a copy put there, not one that
has changed since, not one that another cohort holds, and nothing behind a link.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from intake_idc.plan import ACTIONS
from intake_idc.plan.names import same
from intake_idc.transfer.places import FOLDER_OF_RECORDS, LocalPlace
from intake_idc.transfer.recalling import read_records
from intake_idc.transfer.recorded import DELETED
from intake_idc.transfer.records import forget

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from intake_idc.plan import Plan
    from intake_idc.transfer.recorded import Origin, Records, Run

__all__ = ["obsolete", "remove_obsolete"]

_UNLISTED = ACTIONS.index("unlisted")
_BY_FOLDER = {os.open, os.unlink, os.rmdir, os.stat} <= os.supports_dir_fd
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def obsolete(plan: Plan, origin: Origin) -> tuple[str, ...]:
    """Give the paths below the target that a copy of an earlier state put there.

    A path is one of them where

    1. a record of this lineage holds it, and this plan does not;
    2. no record of another lineage holds it, and none of a run that is at work, nor
       does one of a folder above the target, or of one in it, as its own;
    3. the file has the size and the time of change that the run gave it.

    There are none while a series cannot be listed: what it holds is not known.

    Parameters
    ----------
    plan : Plan
        What the folder is to hold now.
    origin : Origin
        Of what cohort that is.

    Raises
    ------
    IntegrityError
        A record is damaged.
    """
    return tuple(_obsolete(plan, origin))


def _obsolete(plan: Plan, origin: Origin) -> dict[str, tuple[int, int]]:
    """Give what `obsolete` does, each with its size and time of change."""
    target = Path(plan.target)
    records = read_records(target) if origin.lineage else None
    if records is None or (plan.column("action") == _UNLISTED).any():
        return {}
    kept = {same(plan.path(row)) for row in plan.rows()}
    kept |= set(_held_by_others(records, origin))
    found = {
        path: (size, mtime)
        for path, size, mtime in _put(records, origin)
        if same(path) not in kept and _is_as_put(target, path, size, mtime)
    }
    elsewhere = _held_elsewhere(target, found) if found else set()
    return {path: found[path] for path in sorted(found) if same(path) not in elsewhere}


def _holds(run: Run, origin: Origin) -> bool:
    """Whether what a run copied is held by another than this cohort."""
    return run.lives or run.origin.lineage not in ("", origin.lineage)


def _held_by_others(records: Records, origin: Origin) -> Iterator[str]:
    others = [_holds(run, origin) for run in records.runs]
    runs, status = records.column("run").tolist(), records.column("status").tolist()
    for path, run, state in zip(records.paths(), runs, status, strict=True):
        if others[run] and state != DELETED:
            yield same(path)


def _held_elsewhere(target: Path, paths: Iterable[str]) -> set[str]:
    """Give which paths the records of other folders hold, above the target or in it."""
    inner = {folder for path in paths for folder in _folders_to(path)}
    target = target.resolve()
    held = set()
    for other in (*target.parents, *(target / folder for folder in inner)):
        # A folder above may be closed to this user; no copy of theirs is in it then.
        there = os.path.isdir(other / FOLDER_OF_RECORDS)  # noqa: PTH112
        records = read_records(other) if there else None
        for path in records.newest().paths() if records is not None else ():
            whole = other / path
            if whole.is_relative_to(target):
                held.add(same(whole.relative_to(target).as_posix()))
    return held


def _folders_to(path: str) -> Iterator[str]:
    """Give the folders that lead to a path, without the first."""
    while path := path.rpartition("/")[0]:
        yield path


def _put(records: Records, origin: Origin) -> Iterator[tuple[str, int, int]]:
    """Give what copies of this lineage hold, and how it was put there."""
    own = [run.origin.lineage == origin.lineage for run in records.runs]
    numbers = (
        records.column(name).tolist() for name in ("run", "status", "size", "mtime_ns")
    )
    rows = zip(records.paths(), *numbers, strict=True)
    for path, run, state, size, mtime in rows:
        if own[run] and state != DELETED and mtime > 0:
            yield path, size, mtime


def _is_as_put(target: Path, path: str, size: int, mtime: int) -> bool:
    parts = path.split("/")
    here = target
    for part in parts[:-1]:
        here /= part
        if here.is_symlink():
            return False
    try:
        found = (here / parts[-1]).lstat()
    except OSError:
        return False
    return _is(found, size, mtime)


def _is(found: os.stat_result, size: int, mtime: int) -> bool:
    plain = stat.S_ISREG(found.st_mode)
    return plain and (found.st_size, found.st_mtime_ns) == (size, mtime)


def remove_obsolete(plan: Plan, origin: Origin) -> tuple[Path, ...]:
    """Remove what `obsolete` gives, when the copy is whole, and write that down.

    Folders that become empty go too. A file that changes, or becomes a link, while
    this runs stays.

    Returns
    -------
    tuple of Path
        What was removed.
    """
    target = Path(plan.target)
    found = _obsolete(plan, origin).items()
    gone = [path for path, as_put in found if _remove(target, path, *as_put)]
    if gone:
        forget(LocalPlace(target), gone, origin)
    return tuple(target / path for path in gone)


def _remove(target: Path, path: str, size: int, mtime: int) -> bool:
    *folders, name = path.split("/")
    if not _BY_FOLDER:
        return _remove_by_path(target, path, size, mtime)
    opened = [os.open(target, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))]
    try:
        for folder in folders:
            # Each is opened as a folder, and never as a link.
            opened.append(os.open(folder, _FOLDER, dir_fd=opened[-1]))
        state = os.stat(name, dir_fd=opened[-1], follow_symlinks=False)
        if not _is(state, size, mtime):
            return False
        os.unlink(name, dir_fd=opened[-1])
    except OSError:
        return False
    else:
        with suppress(OSError):
            for depth in range(len(folders), 0, -1):
                # Where something else lies in it, it stays.
                os.rmdir(folders[depth - 1], dir_fd=opened[depth - 1])
        return True
    finally:
        for fd in opened:
            os.close(fd)


def _remove_by_path(target: Path, path: str, size: int, mtime: int) -> bool:
    if not _is_as_put(target, path, size, mtime):
        return False
    file = target / path
    try:
        file.unlink()
    except OSError:
        return False
    with suppress(OSError):
        for folder in file.parents:
            if folder == target:
                break
            folder.rmdir()
    return True
