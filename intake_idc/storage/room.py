"""Room in a folder that many processes fill: who may put how much, and what goes.

No process knows how many others there are, and none waits for a lock. Bytes are put
in rounds, which follow each other in the folder ``rounds``:

1. whoever finds no bytes left begins a round by a file ``sweep-<number>``, and takes
   the file of the last round away, from when on nobody puts anything;
2. it adds up what is there, and deletes what was used longest ago, until an eighth
   of the bound is free;
3. it writes how much that is into the name of the next round, in 256 shares;
4. every process takes shares by making their files, which succeeds for one process
   only, and may put as many bytes as they hold, while the round lasts.

What is put in one round is thus never more than was free at its beginning, however
many processes there are, and the folder is looked through once for each eighth of the
bound that is put, by one of them. Two that do so at once, because one was taken for
dead, are right as well: both only delete.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import stat
import threading
import time
from contextlib import suppress
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PARTS", "Held", "Room", "drop", "held", "is_folder", "made", "parts"]

PARTS = "parts"
"""Folder of what is being written."""
ROUNDS = "rounds"

SHARES = 256
"""Shares of a round."""
FREED = 8
"""One part of so many of the bound is free when a round begins."""
SILENT_SECONDS = 60.0
"""After so long without a sign, a process that makes room is taken for dead."""
ABANDONED_SECONDS = 600.0
"""After so long a file that is being written is nobody's any more: what is written
was in memory before."""
WAIT_SECONDS = 2.0
"""Waited at most for another process that makes room."""
PAUSE_SECONDS = 10.0
"""Nothing is put for so long after that wait was too short."""

_SHARD = re.compile(r"[0-9a-f]{2}")
_OBJECT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.dcm")
_ROUND = re.compile(r"round-(\d+)-(\d+)-(\w+)")
_SWEEP = re.compile(r"sweep-(\d+)")


class Held(NamedTuple):
    """One file."""

    used: float
    """When it was last used, in seconds since 1970."""
    size: int
    """Bytes."""
    path: str
    """Where it is."""


def held(folder: Path) -> Iterator[Held]:
    """Give the objects in a folder, in no order; links and foreign files are none."""
    with suppress(OSError):
        for shard in sorted(os.listdir(folder)):  # noqa: PTH208  (names are enough)
            if _SHARD.fullmatch(shard) and is_folder(folder / shard):
                yield from _inside(folder / shard, _OBJECT)


def parts(folder: Path) -> Iterator[Held]:
    """Give what is being written in a folder, or was when its process ended."""
    if is_folder(folder / PARTS):
        yield from _inside(folder / PARTS, re.compile(r".+\.part"))


def _inside(folder: Path, named: re.Pattern[str]) -> Iterator[Held]:
    # Whatever is taken away meanwhile is not there.
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and named.fullmatch(entry.name):
                    yield Held(found.st_mtime, found.st_size, entry.path)


def is_folder(path: Path) -> bool:
    """Say whether there is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def made(folder: Path) -> Path:
    """Give a folder, which is made if need be.

    Raises
    ------
    OSError
        It cannot be made, or a link is in its place, which leads who knows where.
    """
    if not is_folder(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not is_folder(folder):
            msg = f"{folder} is a link, and nothing is written behind it"
            raise NotADirectoryError(msg)
    return folder


def drop(path: str | Path) -> bool:
    """Delete a file; False where it stays, as one that is open does on Windows."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError:
        return False
    return True


class Room:
    """What one process may put into a folder. Threads may share it.

    Parameters
    ----------
    folder : Path
        The folder, which need not be there.
    bound : int
        Bytes that it may hold.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self._folder, self._bound = folder, bound
        self._free = bound // FREED
        self._lock = threading.Lock()
        self._round = ""
        self._left = 0
        self._not_before = 0.0

    def take(self, size: int) -> bool:
        """Take room for some bytes; False where there is none, now or at all.

        Raises
        ------
        OSError
            The folder cannot be written to.
        """
        if size > self._bound:
            return False
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            return False  # Another thread makes room.
        try:
            return self._waited(size)
        finally:
            self._lock.release()

    def _waited(self, size: int) -> bool:
        """Take room, and wait a little where another process is making it."""
        begun = time.monotonic()
        if begun < self._not_before:
            return False
        while (taken := self._taken(size)) is None:
            if time.monotonic() > begun + WAIT_SECONDS:
                self._not_before = time.monotonic() + PAUSE_SECONDS
                return False
            time.sleep(0.01)
        return taken

    def _taken(self, size: int) -> bool | None:
        """Take room; None where another process is making it."""
        place = self._folder / ROUNDS
        if size <= self._left and (place / self._round).exists():
            self._left -= size
            return True
        names = set(os.listdir(made(place)))  # noqa: PTH208
        newest = _newest(names)
        if newest is not None and self._shared(newest, size, names):
            self._left -= size
            return True
        return self._sweep(size, names)

    def _shared(self, newest: re.Match[str], size: int, names: set[str]) -> bool:
        """Take shares of a round until some bytes fit; False if they never will."""
        if newest[0] != self._round:
            self._round, self._left = newest[0], 0
        share, token = int(newest[2]), newest[3]
        free = [i for i in range(SHARES) if f"{token}-{i}" not in names]
        if size > self._left + share * len(free):
            return False
        # Not all of them try for the same.
        random.shuffle(free)
        for i in free:
            if size <= self._left:
                break
            if _create(self._folder / ROUNDS / f"{token}-{i}"):
                self._left += share
        # Of a round that ended meanwhile the shares are worth nothing.
        return size <= self._left and (self._folder / ROUNDS / self._round).exists()

    def _sweep(self, size: int, names: set[str]) -> bool | None:
        """Begin a round, in which some bytes have room beside its shares."""
        place = self._folder / ROUNDS
        if any(_SWEEP.fullmatch(name) and _alive(place / name) for name in names):
            return None
        number = 1 + max(map(_number, names), default=0)
        claim = place / f"sweep-{number:09}"
        if not _create(claim):
            return None
        try:
            before = os.listdir(place)  # noqa: PTH208
            if max(map(_number, before)) > number or _newest(before, number):
                return None  # Somebody else did it meanwhile.
            for name in filter(_ROUND.fullmatch, before):
                drop(place / name)
            total = self._make_room(size, claim)
            left = self._bound - total - size
            if left < 0:
                self._not_before = time.monotonic() + PAUSE_SECONDS
                return False
            share = min(self._free, left) // SHARES
            _create(place / f"round-{number:09}-{share}-{secrets.token_hex(4)}")
            # Those of the new round are taken already, perhaps.
            for name in before:
                drop(place / name)
            return True
        finally:
            drop(claim)

    def _make_room(self, size: int, claim: Path) -> int:
        """Delete until an eighth is free beside some bytes; give what is there."""
        goal = max(0, self._bound - self._free - size)
        abandoned = time.time() - ABANDONED_SECONDS
        for part in parts(self._folder):
            if part.used < abandoned:
                drop(part.path)
        while True:
            total, oldest = self._oldest(self._free + size, claim)
            before = total
            for one in sorted(oldest):
                if total <= goal:
                    break
                if drop(one.path):
                    total -= one.size
            if total <= goal or total == before:
                return total

    def _oldest(self, enough: int, claim: Path) -> tuple[int, list[Held]]:
        """Add up bytes; give also the files used longest ago that hold enough."""
        total, within = sum(part.size for part in parts(self._folder)), 0
        youngest: list[tuple[float, int, Held]] = []
        alive = time.monotonic()
        for at, one in enumerate(held(self._folder)):
            total += one.size
            within += one.size
            heappush(youngest, (-one.used, at, one))
            while within - youngest[0][2].size >= enough:
                within -= heappop(youngest)[2].size
            if time.monotonic() - alive > 1:
                alive = time.monotonic()
                with suppress(OSError):
                    os.utime(claim)
        return total, [one for _, _, one in youngest]


def _create(path: Path) -> bool:
    """Make a file; False where another process did."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _alive(claim: Path) -> bool:
    with suppress(OSError):
        return abs(time.time() - claim.stat().st_mtime) < SILENT_SECONDS
    return False


def _newest(names: set[str] | list[str], number: int = 0) -> re.Match[str] | None:
    """Give the newest round, if it has this number or a later one."""
    found = [match for name in names if (match := _ROUND.fullmatch(name))]
    newest = max(found, key=lambda match: int(match[1]), default=None)
    return None if newest is None or int(newest[1]) < number else newest


def _number(name: str) -> int:
    """Give the number of a round or of who begins it; 0 of all else."""
    found = _ROUND.fullmatch(name) or _SWEEP.fullmatch(name)
    return 0 if found is None else int(found[1])
