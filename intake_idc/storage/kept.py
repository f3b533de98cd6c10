"""Whole objects that are kept in a folder, so that they are fetched once.

An object is kept by its ``crdc_instance_uuid``, which never changes its bytes, so that
one folder serves every mirror, release and process. What is in it:

.. code-block:: text

    <first 2 digits>/<crdc_instance_uuid>.dcm   whole objects
    parts/                                      what is being written
    rounds/                                     who may put how much; see `room`

A file gets its name when it is whole, and is marked as used by its time of change. It
is read if it is a plain file of the size that is listed; what is not goes, and the
object is fetched. Nothing here may fail a reader: where the folder cannot be read or
written to, the object is fetched and not kept, and the log says so once.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import secrets
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from intake_idc.cache import MARKER, size_of
from intake_idc.errors import RequestError
from intake_idc.storage.room import PARTS, Room, drop, held, is_folder, made, parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["FOLDER_VARIABLE", "SIZE_VARIABLE", "ObjectCache", "object_cache"]

FOLDER_VARIABLE = "INTAKE_IDC_OBJECT_CACHE"
SIZE_VARIABLE = "INTAKE_IDC_OBJECT_CACHE_SIZE"
DEFAULT_SIZE = "20GB"

USED_SECONDS = 60.0
"""A file is not marked as used again within so long: it costs a write each time."""
FAILED_SECONDS = 60.0
"""After a failure nothing is put for so long: the disk is as full as it was."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_READ = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")
)

log = logging.getLogger(__name__)


class ObjectCache:
    """A folder in which whole objects are kept, up to a bound.

    It is a small value that travels with a mirror to other processes: any number of
    them may use one folder at once, on one machine or on a file system that machines
    share. Give all of them the same bound.

    Parameters
    ----------
    folder : str or path
        A folder of this machine, made when something is put.
    size : int or str
        Bytes that it may hold, as a number or such as ``"50GB"``. What was used
        longest ago goes first.

    Raises
    ------
    RequestError
        It is no folder, or no size.
    """

    __slots__ = ("folder", "size")

    def __init__(
        self, folder: str | os.PathLike[str], size: int | str = DEFAULT_SIZE
    ) -> None:
        self.folder = _absolute(folder)
        """The folder, as a whole path."""
        self.size = _bound(size)
        """Bytes that it may hold."""

    def __repr__(self) -> str:
        return f"ObjectCache({self.folder!r}, {self.size})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObjectCache):
            return NotImplemented
        return (self.folder, self.size) == (other.folder, other.size)

    def __hash__(self) -> int:
        return hash((self.folder, self.size))

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectCache, (self.folder, self.size)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "ObjectCache", self.folder, self.size

    def __bool__(self) -> bool:
        # One that is empty is there all the same.
        return True

    # Reading.

    def open(self, uuid: str, size: int) -> BinaryIO | None:
        """Open a kept object; it reads whole, also if it is deleted meanwhile.

        Parameters
        ----------
        uuid : str
            Its ``crdc_instance_uuid``.
        size : int
            Its bytes, as they are listed. A file of another size is deleted.

        Returns
        -------
        file or None
            None where it is not kept.
        """
        if not _UUID.fullmatch(uuid):
            return None
        path = self._path(uuid)
        if not is_folder(path.parent):
            return None
        try:
            number = os.open(path, _READ)
        except OSError:
            return None
        found = os.fstat(number)
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            if abs(time.time() - found.st_mtime) > USED_SECONDS:
                with suppress(OSError):
                    os.utime(number if os.utime in os.supports_fd else path)
            return os.fdopen(number, "rb")
        os.close(number)
        if stat.S_ISREG(found.st_mode):
            drop(path)
        return None

    def read(self, uuid: str, size: int) -> bytes | None:
        """Give the bytes of an object; None where it is not kept."""
        found = self.read_many(uuid, size, [(0, size)])
        return None if found is None else found[0]

    def read_many(
        self, uuid: str, size: int, ranges: Sequence[tuple[int, int]]
    ) -> list[bytes] | None:
        """Give the bytes of some ranges, all of one file; None if it is not kept.

        Of a range that goes beyond the end there are fewer, as from a store.
        """
        file = self.open(uuid, size)
        if file is None:
            return None
        found = []
        try:
            with file:
                for start, stop in ranges:
                    file.seek(start)
                    expected = max(0, min(stop, size) - start)
                    data = file.read(expected)
                    if len(data) != expected:
                        return None
                    found.append(data)
        except OSError:
            # On NFS a file goes although it is open.
            return None
        return found

    def pieces(self, uuid: str, size: int, chunk: int) -> Iterator[bytes]:
        """Give an object in pieces; none, or not all, where it cannot be read."""
        file = self.open(uuid, size)
        if file is not None:
            with suppress(OSError), file:
                while data := file.read(chunk):
                    yield data

    def holds(self, uuid: str, size: int) -> bool:
        """Say whether an object is kept, though it may be gone a moment later."""
        file = self.open(uuid, size)
        if file is not None:
            file.close()
        return file is not None

    def forget(self, uuid: str) -> None:
        """Delete an object, whose bytes are found to be others."""
        path = self._path(uuid)
        if _UUID.fullmatch(uuid) and is_folder(path.parent):
            drop(path)

    # Putting.

    def put(self, uuid: str, data: bytes, md5: str | None = None) -> bool:
        """Keep an object, of which these are all the bytes.

        Parameters
        ----------
        uuid : str
            Its ``crdc_instance_uuid``; what is none is not kept.
        data : bytes
            Its bytes, which the caller has held against the listing.
        md5 : str, optional
            Their MD5 in hex, where it is known; other bytes are not kept.

        Returns
        -------
        bool
            Whether it is kept now. One that is larger than the bound is not, nor is
            any where the folder cannot be written to.
        """
        state = _state(os.getpid(), self)
        if not (_UUID.fullmatch(uuid) and data) or time.monotonic() < state.not_before:
            return False
        if md5 is not None and not _has_md5(data, md5):
            log.warning("%s is not kept: its MD5 is not %s", uuid, md5)
            return False
        try:
            return self._put(self._path(uuid), data, state.room)
        except OSError as error:
            state.failed(self.folder, error)
            return False

    def _put(self, path: Path, data: bytes, room: Room) -> bool:
        with suppress(OSError):
            found = path.lstat()
            same = stat.S_ISREG(found.st_mode) and found.st_size == len(data)
            if same and is_folder(path.parent):
                return True
        if not room.take(len(data)):
            return False
        made(path.parent)
        name = f"{os.getpid()}-{secrets.token_hex(8)}.part"
        part = made(path.parents[1] / PARTS) / name
        try:
            with part.open("xb", buffering=0) as file:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
            part.replace(path)
        finally:
            drop(part)
        return True

    # The whole.

    def __len__(self) -> int:
        """Count the objects that are kept; it looks through the folder."""
        return sum(1 for _ in held(Path(self.folder)))

    def size_now(self) -> int:
        """Add up the bytes that are there, those being written among them."""
        folder = Path(self.folder)
        return sum(one.size for find in (held, parts) for one in find(folder))

    def clear(self) -> int:
        """Delete every object, and give the bytes that were freed.

        Files that no cache has put there stay.
        """
        folder = Path(self.folder)
        every = (one for find in (held, parts) for one in find(folder))
        return sum(one.size for one in every if drop(one.path))

    def check(self, md5: Mapping[str, str]) -> list[str]:
        """Read kept objects, hold them against their MD5, and delete what differs.

        Parameters
        ----------
        md5 : mapping
            MD5 in hex by ``crdc_instance_uuid``. Of these the ones that are kept are
            read.

        Returns
        -------
        list of str
            The uuids of those that differed, or that cannot be read.
        """
        wrong = []
        for one in held(Path(self.folder)):
            uuid = Path(one.path).stem
            if uuid in md5 and not _file_has_md5(Path(one.path), md5[uuid]):
                drop(one.path)
                wrong.append(uuid)
        return wrong

    def _path(self, uuid: str) -> Path:
        return Path(self.folder) / uuid[:2] / f"{uuid}.dcm"


def object_cache(
    folder: str | os.PathLike[str] | ObjectCache | None,
    size: int | str | None,
    *,
    found: ObjectCache | None = None,
    environment: bool = False,
) -> ObjectCache | None:
    """Turn what a user says about a cache of objects into one, or none.

    Parameters
    ----------
    folder : str, path, ObjectCache or None
        Where nothing is named, the environment variable ``INTAKE_IDC_OBJECT_CACHE``
        counts if it may.
    size : int, str or None
        The bound, where it is another than that of the cache, of
        ``INTAKE_IDC_OBJECT_CACHE_SIZE``, or the usual.
    found : ObjectCache, optional
        What was chosen before.
    environment : bool
        Whether the environment may name one.

    Raises
    ------
    RequestError
        It is no folder or no size, or a folder that another cache keeps bounded.
    """
    usual = os.environ.get(SIZE_VARIABLE) or DEFAULT_SIZE
    named = os.environ.get(FOLDER_VARIABLE) if environment else None
    if isinstance(folder, ObjectCache):
        found = folder
    elif folder is not None:
        found = ObjectCache(folder, usual if size is None else size)
    elif found is None and named:
        found = ObjectCache(named, usual)
    if found is None:
        if size is not None:
            msg = f"cache_size={size!r} bounds a cache of objects; name its cache, too"
            raise RequestError(msg)
        return None
    for place in (Path(found.folder), *Path(found.folder).parents):
        if (place / MARKER).exists():
            msg = (
                f"{found.folder} is in {place}, the cache of index tables, which would "
                "delete what is put there; name another folder for objects"
            )
            raise RequestError(msg, path=found.folder)
    return found if size is None else ObjectCache(found.folder, size)


def _absolute(folder: object) -> str:
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        msg = f"a cache of objects is a folder of this machine; got {folder!r}"
        raise RequestError(msg)
    text = str(os.fspath(folder))
    if "://" in text or "\x00" in text:
        msg = f"a cache of objects is a folder of this machine; got {text!r}"
        raise RequestError(msg)
    try:
        return os.path.abspath(Path(text).expanduser())  # noqa: PTH100
    except RuntimeError as error:
        msg = f"a cache of objects is a folder of this machine; got {text!r} ({error})"
        raise RequestError(msg, path=text) from error


def _bound(size: object) -> int:
    if isinstance(size, str):
        return size_of(size, "the size of a cache of objects")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        msg = f"the size of a cache is a number of bytes, or such as '50GB'; got {size}"
        raise RequestError(msg)
    return size


def _has_md5(data: bytes, md5: str) -> bool:
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == md5.lower()


def _file_has_md5(path: Path, md5: str) -> bool:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with os.fdopen(os.open(path, _READ), "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError:
        return False
    return digest.hexdigest() == md5.lower()


class _State:
    """What a process remembers of one cache."""

    def __init__(self, cache: ObjectCache) -> None:
        self.room = Room(Path(cache.folder), cache.size)
        self.not_before = 0.0
        self._said = False
        self._lock = threading.Lock()

    def failed(self, folder: str, error: OSError) -> None:
        """Put nothing for a while, and say so once."""
        with self._lock:
            self.not_before = time.monotonic() + FAILED_SECONDS
            said, self._said = self._said, True
        if not said:
            log.warning("objects are read, but not kept in %s: %s", folder, error)


@functools.cache
def _state(_pid: int, cache: ObjectCache) -> _State:
    return _State(cache)
