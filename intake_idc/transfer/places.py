"""The folder that a copy goes to: what is there, and files that become whole.

Every folder below the target is opened step by step, each of its parts as a folder and
never as a link, and files are made and renamed within the folder that was opened. So
nothing is written outside the target, even where somebody puts a link in the way while
the copy runs. Windows cannot do that; there links are looked for before each write.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import os
import re
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from intake_idc.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from intake_idc.storage.engine import Data

__all__ = ["FOLDER_OF_RECORDS", "PART", "LocalPlace", "Part", "remove_stale"]

FOLDER_OF_RECORDS = ".idc"
"""Folder below the target where copies write down what they did."""
PART = re.compile(r"\.idc-(?:([0-9a-f]{8})-)?(\d+)-(?:([0-9a-f]+)-)?[0-9a-f]+\.part")
"""Names of part files: machine, process, when that began, and a number."""
OTHERS_SECONDS = 86_400.0
"""Age at which a part file of another machine, or of nobody known, is stale."""

_BY_FOLDER = {os.open, os.mkdir, os.rename, os.unlink} <= os.supports_dir_fd
_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_READ = 1 << 20
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_numbers = itertools.count()


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
            try:
                inner = os.open(part, os.O_RDONLY | _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
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
        self._part = f"{_prefix(os.getpid())}{next(_numbers):x}.part"
        self.path = os.path.join(folder.path, self._part)  # noqa: PTH118
        """Where the bytes are until then."""
        where = self._part if folder.fd is not None else self.path
        self.fd = os.open(where, _NEW, 0o666, dir_fd=folder.fd)
        self._open = True

    def write(self, data: Data) -> None:
        """Write bytes at the end of those before."""
        done, total = os.write(self.fd, data), len(data)
        while done < total:
            done += os.write(self.fd, memoryview(data)[done:])

    def write_at(self, data: Data, place: int) -> None:
        """Write bytes at a place; many threads may at once."""
        if not hasattr(os, "pwrite"):
            with _one_at_a_time:
                os.lseek(self.fd, place, os.SEEK_SET)
                self.write(data)
            return
        done, total = os.pwrite(self.fd, data, place), len(data)
        while done < total:
            done += os.pwrite(self.fd, memoryview(data)[done:], place + done)

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
        found = os.fstat(self.fd)
        self._close()
        folder = self._folder
        if folder.fd is not None:
            os.rename(
                self._part, self._name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd
            )
        else:
            Path(self.path).replace(Path(folder.path) / self._name)
        return found

    def discard(self) -> None:
        """Remove it; nothing happens where it has its name, or is gone."""
        self._close()
        folder = self._folder
        with suppress(FileNotFoundError):
            if folder.fd is not None:
                os.unlink(self._part, dir_fd=folder.fd)
            else:
                Path(self.path).unlink()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.fd)


_one_at_a_time = threading.Lock()


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

    def open(self) -> None:
        """Make the target if need be."""
        self.target.mkdir(parents=True, exist_ok=True)

    def part(self, folder: str, name: str) -> Part:
        """Begin a file; see `Part`.

        Raises
        ------
        PlanError
            Its folder is reached through a link, or is a file.
        """
        opened: _Opened | None = getattr(self._last, "opened", None)
        if opened is None or opened.folder != folder:
            opened = self._last.opened = _Opened(self._root, folder)
        return Part(opened, name)

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


# Whose part files are whose.


@functools.cache
def _prefix(pid: int) -> str:
    return f".idc-{_machine()}-{pid}-{_began(pid) or '0'}-"


@functools.cache
def _machine() -> str:
    """Give what tells this machine, or container, from others."""
    import platform

    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (no path)
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _began(pid: int) -> str | None:
    """Give when a process began, where the system says it; None where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # After the name, which may hold anything: proc(5), field 22.
    return f"{int(text.rpartition(')')[2].split()[19]):x}"


def remove_stale(folder: Path, names: list[str]) -> int:
    """Remove part files of processes that are gone; give how many.

    Those of another machine, which shares the folder, are removed when they are a day
    old: whether their process lives cannot be seen from here.
    """
    removed = 0
    for name in names:
        found = PART.fullmatch(name)
        if found is None:
            continue
        path = folder / name
        with suppress(FileNotFoundError):
            if _is_dead(found[1], int(found[2]), found[3], path):
                path.unlink()
                removed += 1
    return removed


def _is_dead(machine: str | None, pid: int, began: str | None, path: Path) -> bool:
    if machine == _machine():
        now = _began(pid)
        if now is not None:
            return began not in ("0", now)
        if os.name != "nt":
            return not _runs(pid)
    return time.time() - path.lstat().st_mtime > OTHERS_SECONDS


def _runs(pid: int) -> bool:
    """Whether there is such a process, where the system has no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
