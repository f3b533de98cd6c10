"""Whether there is room for what a copy fetches, asked before it begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from intake_idc.display import bytes_text
from intake_idc.errors import NoSpace
from intake_idc.plan import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from intake_idc.plan import Plan

__all__ = ["check_space"]

BLOCK = 4096
"""Bytes that a file takes at least, and a multiple of which it takes, at most: a file
system of the network says how much it moves at once, which is more."""


class _Free(NamedTuple):
    """What a file system has left; None where it does not say."""

    size: int | None
    files: int | None
    block: int


def check_space(plan: Plan, target: Path) -> None:
    """See that what a plan fetches fits into the folder that it goes to.

    What is there already needs no room, and what is replaced only so much as it grows.

    Raises
    ------
    NoSpace
        It does not; ``details`` has what is ``free`` and what is ``needed``, in bytes,
        or in files where ``of`` says so. Nothing was written.
    """
    free = _free(target)
    size = _size(plan, free.block)
    if free.size is not None and size > free.size:
        size -= _replaced(plan, target)
    if free.size is not None and size > free.size:
        msg = (
            f"{target} has {bytes_text(free.size)} free, and the copy needs "
            f"{bytes_text(size)}; make room for {bytes_text(size - free.size)}, or "
            "copy to another place"
        )
        raise NoSpace(msg, free=free.size, needed=size, of="bytes")
    files = plan.counts["fetch"]
    if free.files is not None and files + _most_folders(plan) > free.files:
        files += sum(not path.is_dir() for path in _folders(plan, target))
        if files > free.files:
            msg = (
                f"{target} has room for {free.files:,} files and folders more, "
                f"and the copy makes {files:,}; copy to another place"
            )
            raise NoSpace(msg, free=free.files, needed=files, of="files")


def _free(target: Path) -> _Free:
    place = next(path for path in (target, *target.parents) if path.exists())
    if not hasattr(os, "statvfs"):
        import shutil

        return _Free(shutil.disk_usage(place).free, None, BLOCK)
    found = os.statvfs(place)
    return _Free(
        found.f_bavail * found.f_frsize if found.f_blocks else None,
        found.f_favail if found.f_files else None,
        min(found.f_frsize, BLOCK) or BLOCK,
    )


def _size(plan: Plan, block: int) -> int:
    sizes = plan.column("size")[plan.moved]
    return int((-(-sizes // block) * block).sum())


def _replaced(plan: Plan, target: Path) -> int:
    """Give the bytes of what is there and goes."""
    replace, found = ACTIONS.index("replace"), 0
    for row in plan.rows(moved=True):
        path = target / plan.path(row)
        if row.action == replace and path.is_file():
            found += getattr(path.stat(), "st_blocks", 0) * 512
    return found


def _most_folders(plan: Plan) -> int:
    """Give how many folders the copy makes, at most, without a look at each path."""
    folders = plan.series.column("folder").to_pylist()
    return sum(folder.count("/") + 1 for folder in folders if folder)


def _folders(plan: Plan, target: Path) -> Iterator[Path]:
    """Give every folder that something is fetched to, and those above it."""
    import numpy as np

    fetched = plan.column("action") == ACTIONS.index("fetch")
    found: set[str] = set()
    for series in np.unique(plan.column("series")[fetched]).tolist():
        parts = plan.folder(series).split("/")
        found |= {"/".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return (target / path for path in found if path)
