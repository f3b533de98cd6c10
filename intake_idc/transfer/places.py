"""The folder that a copy goes to: what is there, and files that become whole.

Every folder below the target is opened step by step, each of its parts as a folder and
never as a link, and files are made and renamed within the folder that was opened. So
nothing is written outside the target, even where somebody puts a link in the way while
the copy runs. Windows cannot do that; there links are looked for before each write.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake_idc.errors import PlanError
from intake_idc.files import PART, is_left, part_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from intake_idc.storage.engine import Data

__all__ = ["FOLDER_OF_RECORDS", "LocalPlace", "Part"]

FOLDER_OF_RECORDS = ".idc"
"""Folder below the target where copies write down what they did."""
OTHERS_SECONDS = 86_400.0
"""Age at which a part file of another machine, or of nobody known, is stale."""

_BY_FOLDER = {os.open, os.mkdir, os.rename, os.unlink} <= os.supports_dir_fd
_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_READ = 1 << 20
PIECES = 1024
"""Pieces that Linux and macOS write at once, at most (IOV_MAX)."""
_SECOND = 1_000_000_000
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class _Opened:
    """A folder below the target that is held open; closed with its last user."""

    def __init__(self, root: str, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(root, *folder.split("/")) if folder else root  # noqa: PTH118
        self.fd: int | None = None
        self.fd = _open_folder(root, folder) if _BY_FOLDER else None
        if self.fd is None:
            _make_folder(root, folder)

    def __del__(self) -> None:
        if self.fd is not None:
            with suppress(OSError):
                os.close(self.fd)


def _open_folder(root: str, folder: str) -> int:
    fd = os.open(root, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        for part in folder.split("/") if folder else ():
            # Most are new: to look first would cost a call more.
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=fd)
            inner = os.open(part, os.O_RDONLY | _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError as error:
        os.close(fd)
        if isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP:
            msg = f"{root}/{folder} leads through a link or a file; nothing is written"
            raise PlanError(msg, path=f"{root}/{folder}") from error
        raise
    return fd


def _make_folder(root: str, folder: str) -> None:
    here = Path(root)
    for part in folder.split("/") if folder else ():
        here /= part
        if here.is_symlink():
            msg = f"{here} is a link; nothing is written through it"
            raise PlanError(msg, path=str(here))
        here.mkdir(exist_ok=True)


class Part:
    """A file beside its place, which takes it as the last act, or goes."""

    def __init__(self, folder: _Opened, name: str) -> None:
        self._folder, self._name = folder, name
        self._part = part_name()
        self.path = os.path.join(folder.path, self._part)  # noqa: PTH118
        """Where the bytes are until then."""
        where = self._part if folder.fd is not None else self.path
        self.fd = os.open(where, _NEW, 0o666, dir_fd=folder.fd)
        self._open, self._named = True, False

    @property
    def name(self) -> str:
        """Name of the file until then."""
        return self._part

    @property
    def reached_by_others(self) -> str:
        """A path by which another process of this user writes it in this folder."""
        held = f"/proc/{os.getpid()}/fd/{self._folder.fd}"
        if self._folder.fd is not None and os.path.isdir(held):  # noqa: PTH112
            return f"{held}/{self._part}"
        return self.path

    def take_up(self) -> int:
        """Go on with the file that another process put in its place; give its size.

        Raises
        ------
        OSError
            There is none, or it is a link.
        """
        folder = self._folder
        where = self._part if folder.fd is not None else self.path
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        fd = os.open(where, flags, dir_fd=folder.fd)
        self._close()
        self.fd, self._open = fd, True
        return os.fstat(fd).st_size

    def write(self, pieces: Sequence[Data]) -> None:
        """Write bytes at the end of those before."""
        if 1 < len(pieces) <= PIECES and hasattr(os, "writev"):
            pieces = _left(pieces, os.writev(self.fd, pieces))
        for data in pieces:
            done, total = os.write(self.fd, data), len(data)
            while done < total:
                done += os.write(self.fd, memoryview(data)[done:])

    def write_at(self, pieces: Sequence[Data], place: int) -> None:
        """Write bytes at a place; many threads may at once."""
        if not hasattr(os, "pwrite"):
            with _one_at_a_time:
                os.lseek(self.fd, place, os.SEEK_SET)
                self.write(pieces)
            return
        if 1 < len(pieces) <= PIECES and hasattr(os, "pwritev"):
            done = os.pwritev(self.fd, pieces, place)
            pieces, place = _left(pieces, done), place + done
        for data in pieces:
            done, total = os.pwrite(self.fd, data, place), len(data)
            while done < total:
                done += os.pwrite(self.fd, memoryview(data)[done:], place + done)
            place += total

    def read(self) -> Iterator[bytes]:
        """Give the bytes that were written, from the beginning."""
        with Path(self.path).open("rb", buffering=0) as file:
            while data := file.read(_READ):
                yield data

    def commit(self) -> os.stat_result:
        """Give the file its name; what had it is replaced.

        Returns
        -------
        os.stat_result
            The state of the file.
        """
        found = _told_apart(self.fd)
        self._close()
        folder = self._folder
        if folder.fd is not None:
            os.rename(
                self._part, self._name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd
            )
        else:
            Path(self.path).replace(Path(folder.path) / self._name)
        self._named = True
        return found

    def discard(self) -> None:
        """Remove it; nothing happens where it has its name, or is gone."""
        self._close()
        if not self._named:
            self.remove()

    def remove(self) -> None:
        """Remove it, and leave it open for who may still write to it.

        It can have its name no more then. Closed it could become another file of
        this process, into which that one would write.
        """
        folder = self._folder
        with suppress(FileNotFoundError):
            if folder.fd is not None:
                os.unlink(self._part, dir_fd=folder.fd)
            else:
                Path(self.path).unlink()

    def _all(self) -> Iterator[str]:
        """Give it, and what another process is writing to put in its place."""
        folder = self._folder
        for name in os.listdir(folder.path if folder.fd is None else folder.fd):  # noqa: PTH208
            if name.startswith(self._part):
                yield name if folder.fd is not None else f"{folder.path}/{name}"

    def written_by_others(self) -> int:
        """Give how many bytes another process has written to put in its place."""
        size = 0
        for where in self._all():
            with suppress(FileNotFoundError):
                size += os.stat(where, dir_fd=self._folder.fd).st_size
        return size

    def remove_all(self) -> None:
        """Remove it, and what another process was writing to put in its place."""
        for where in self._all():
            with suppress(FileNotFoundError):
                os.unlink(where, dir_fd=self._folder.fd)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.fd)

    def __del__(self) -> None:
        # Of a large object of which no range is fetched any more.
        if getattr(self, "_open", False):
            self._close()


def _left(pieces: Sequence[Data], done: int) -> Sequence[Data]:
    """Give what is left of pieces of which so many bytes are written."""
    if done == sum(map(len, pieces)):
        return ()
    left: list[Any] = []
    for data in pieces:
        if done < len(data):
            left.append(memoryview(data)[done:] if done else data)
        done = max(0, done - len(data))
    return left


_one_at_a_time = threading.Lock()
_latest = [0]
"""Newest time of change of the files that this process has put, in nanoseconds."""


def _told_apart(fd: int) -> os.stat_result:
    """Give the state of a file, with a time of change that no other one has.

    A clock of files ticks every few milliseconds, in which many may be put. By their
    times two of one size are told apart that change their names later.
    """
    found = os.fstat(fd)
    with _one_at_a_time:
        behind = _latest[0] - found.st_mtime_ns
        # Of a clock that was put back the new time is taken.
        if not 0 <= behind < _SECOND:
            _latest[0] = found.st_mtime_ns
            return found
        _latest[0] += 1
        now = _latest[0]
    if os.utime in os.supports_fd:
        # Where it may not be set, it is as it was.
        with suppress(OSError):
            os.utime(fd, ns=(found.st_atime_ns, now))
    return os.fstat(fd)


class LocalPlace:
    """A folder of this machine. Threads may share it.

    Parameters
    ----------
    target : Path
        The folder; made with the first file.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._root = str(target)
        self._last = threading.local()
        self._folders: dict[str, bool] = {}

    def expect(self, folders: Iterable[str]) -> None:
        """Say which folders `present` will be asked for: here that helps nothing."""

    def open(self) -> None:
        """Make the target if need be."""
        self.target.mkdir(parents=True, exist_ok=True)

    splits = True
    """Whether an object may come in ranges, in any order."""

    def close(self) -> None:
        """Let go of the folders that are held open."""
        self._last = threading.local()

    def part(self, folder: str, name: str, size: int = 0) -> Part:  # noqa: ARG002
        """Begin a file of some bytes; see `Part`.

        Raises
        ------
        PlanError
            Its folder is reached through a link, or is a file.
        """
        opened: _Opened | None = getattr(self._last, "opened", None)
        if opened is None or opened.folder != folder:
            opened = self._last.opened = _Opened(self._root, folder)
        return Part(opened, name)

    def remove_stale(self, folders: Iterable[str]) -> int:
        """Remove part files of processes that are gone; give how many.

        Those of another machine, which shares the folder, are removed when they are a
        day old: whether their process lives cannot be seen from here.

        Parameters
        ----------
        folders : iterable of str
            Folders below the target, with ``/`` between the parts. One that is not
            there, or that cannot be read, is passed over.
        """
        removed = 0
        if not self.target.is_dir() or not any(self.target.iterdir()):
            return removed
        for folder in folders:
            path = os.path.join(self._root, folder)  # noqa: PTH118
            with suppress(OSError, PlanError):
                left = [name for name in os.listdir(path) if PART.fullmatch(name)]  # noqa: PTH208
                if left:
                    removed += _remove_stale(_Opened(self._root, folder), left)
        return removed

    def present(self, folder: str) -> Mapping[str, int]:
        """Give the size in bytes of each file in a folder, by name.

        Raises
        ------
        PlanError
            The target is a file; or the folder is a file, or is reached through a
            link, or holds a link, which could lead outside.
        """
        if not self._is_there(""):
            return {}
        end = 0
        while folder and end >= 0:
            end = folder.find("/", end + 1)
            if not self._is_there(folder if end < 0 else folder[:end]):
                return {}
        return dict(_files(os.path.join(self._root, folder)))  # noqa: PTH118

    def _is_there(self, folder: str) -> bool:
        """Whether a folder is there; each is looked at once."""
        if folder not in self._folders:
            self._folders[folder] = self._look(folder)
        return self._folders[folder]

    def _look(self, folder: str) -> bool:
        path = os.path.join(self._root, folder) if folder else self._root  # noqa: PTH118
        try:
            # The target may be a link: that is the user's.
            mode = (os.lstat(path) if folder else os.stat(path)).st_mode  # noqa: PTH116
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(mode):
            msg = f"{path} is a link; a copy does not write through links"
            raise PlanError(msg, path=path)
        if not stat.S_ISDIR(mode):
            msg = f"{path} is a file where the copy needs a folder"
            if not folder:
                msg = f"the target {path} is not a folder"
            raise PlanError(msg, path=path)
        return True


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """Give name and size of each file in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            plain = entry.is_file(follow_symlinks=False)
            if entry.is_symlink() or (entry.name.endswith(".dcm") and not plain):
                msg = f"{entry.path} is not a plain file; move it away"
                raise PlanError(msg, path=entry.path)
            if plain:
                # Another copy into this folder may have renamed its part meanwhile.
                with suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False).st_size


def _remove_stale(folder: _Opened, names: list[str]) -> int:
    removed = 0
    for name in names:
        where = name if folder.fd is not None else os.path.join(folder.path, name)  # noqa: PTH118
        # It may have its name by now, or be gone; or nobody may remove it.
        with suppress(OSError):
            left = is_left(name)
            if left is None:
                state = os.stat(where, dir_fd=folder.fd, follow_symlinks=False)
                left = time.time() - state.st_mtime > OTHERS_SECONDS
            if left:
                os.unlink(where, dir_fd=folder.fd)
                removed += 1
    return removed
