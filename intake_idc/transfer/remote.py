"""A folder of an object store that a copy goes to, by any URL that fsspec writes.

It keeps the contract of a folder as far as a store can: an object is there whole or
not at all, what is there with the right size is kept, and what the store says of an
object afterwards is held against what was sent.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from intake_idc.citations import MANIFEST_LINE
from intake_idc.errors import (
    IDCError,
    IntegrityError,
    ObjectChanged,
    ObjectNotFound,
    RequestError,
    StorageError,
    WrongSize,
)
from intake_idc.files import PART, is_left, whole_path
from intake_idc.plan.names import path_problem
from intake_idc.storage import CONNECTIONS, each, resolve_mirror
from intake_idc.storage.uploading import check_copied, open_target
from intake_idc.transfer.hashing import md5_of_etag
from intake_idc.transfer.memory import Memory
from intake_idc.transfer.notices import NOTICE
from intake_idc.transfer.places import LocalPlace

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from intake_idc.plan import Plan, Row
    from intake_idc.storage import Mirror
    from intake_idc.storage.engine import Data
    from intake_idc.storage.uploading import Copied, TargetStore, Upload

__all__ = ["RemotePart", "RemotePlace", "ServerSide", "Target", "target_of"]

ServerSide = bool | Literal["auto"]
"""Whether a store copies by itself: always, never, or where it can."""
HELD = 128 << 20
"""Bytes that wait to be sent, of all objects together."""
AHEAD = 256
"""Folders that are listed at once."""

_READ_ONLY = ("http", "https", "idc", "zip", "tar", "data", "github", "git")
_BUCKETS = ("s3", "s3a", "gs", "gcs")
_ODD = re.compile(r"[?#*\[\]{}\\\x00-\x1f]")


@dataclass(frozen=True)
class Target:
    """Where a copy goes: a value without secrets, which may travel.

    `target_of` makes one.
    """

    root: Path | str
    """A folder of this machine, or the URL of one of a store."""
    mirror: Mirror | None = None
    """How the store is reached; None of this machine."""
    server_side: ServerSide = "auto"
    """Whether a store that holds the objects as well copies them by itself."""

    def place(self) -> LocalPlace | RemotePlace:
        """Open it."""
        if isinstance(self.root, Path) or self.mirror is None:
            return LocalPlace(Path(self.root))
        return RemotePlace(self)


def target_of(
    target: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    server_side: ServerSide = "auto",
) -> Target:
    """Turn what a user says of a target into a `Target`.

    Parameters
    ----------
    target : str or path
        A folder; or a URL such as ``s3://bucket/folder``, ``gs://...`` or any other
        that fsspec writes. ``file://`` is a folder of this machine.
    options : mapping, optional
        How the store is reached: ``endpoint_url``, ``anon``, and what fsspec's file
        system takes. Secrets are refused: each process finds its credentials where
        the store's own tools do.
    server_side : bool or "auto"
        See `Target`.

    Raises
    ------
    RequestError
        The URL names no folder that can be written; or there are options for a
        folder of this machine.
    MirrorError
        The URL or an option holds a secret.
    """
    if server_side not in (True, False, "auto"):
        msg = f"server_side is True, False or 'auto'; got {server_side!r}"
        raise RequestError(msg, server_side=server_side)
    text = str(target)
    scheme, mark, rest = text.partition("://")
    if scheme == "file" and mark:
        target = rest
    if not mark or scheme == "file":
        if options:
            msg = f"target_options are for a URL of a store; the target is {target}"
            raise RequestError(msg, target=text)
        return Target(Path(whole_path(Path(target).expanduser())), None, server_side)
    root = text.rstrip("/").replace("gcs://", "gs://", 1).replace("s3a://", "s3://", 1)
    _check_root(root, scheme, rest)
    named = {"anon": False, **(options or {})}
    mirror = replace(resolve_mirror(root, storage_options=named), cache=None)
    return Target(root, mirror, server_side)


def _check_root(root: str, scheme: str, rest: str) -> None:
    why = ""
    parts = rest.strip("/").split("/")
    if "::" in root or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        why = "URLs are not chained here"
    elif scheme in _READ_ONLY:
        why = f"nothing can be written to {scheme}://"
    elif not parts[0] or (rest.startswith("/") and scheme in _BUCKETS):
        why = "it names no bucket or folder"
    elif _ODD.search(rest):
        why = "it has a character that stores take for more than a name"
    elif (problem := path_problem("memory://x", "/".join(parts[1:]) or "x")) and (
        ".." in parts or "" in parts or "." in parts
    ):
        why = problem
    if why:
        msg = f"a copy goes to a folder, or to a URL like s3://bucket/folder: {why}"
        raise RequestError(f"{msg}; got {root!r}", target=root)


class State(NamedTuple):
    """What is known of an object that was put."""

    st_mtime_ns: int = 0
    """Time of change; a store does not say it."""


class RemotePart:
    """An object on its way: what was written is sent in blocks.

    Parameters
    ----------
    place : RemotePlace
        Where it goes.
    key : str
        Its key below the target.
    size : int
        Bytes that it will have.
    """

    def __init__(self, place: RemotePlace, key: str, size: int) -> None:
        self._store, self._key, self._size = place.store, key, size
        self._place = place
        self._block = place.store.block(size)
        # What waits, and once more while it is sent.
        self._taken = min(2 * min(size, self._block), HELD)
        place.memory.take(self._taken, wait=True)
        self._lock = threading.Lock()
        self._over = self._done = False
        self._waiting: list[Data] = []
        self._held = 0
        self._upload: Upload | None = None

    def write(self, pieces: Sequence[Data]) -> None:
        """Write bytes at the end of those before."""
        self._waiting.extend(pieces)
        self._held += sum(map(len, pieces))
        # The last block is sent with the end: more than one has to be there.
        while self._held > self._block:
            whole = b"".join(bytes(piece) for piece in self._waiting)
            self._waiting = [whole[self._block :]]
            self._held = len(whole) - self._block
            self._begun().send(whole[: self._block])

    def _begun(self) -> Upload:
        with self._lock:
            self._check_over()
            if self._upload is None:
                self._upload = self._store.begin(self._key, self._size)
            return self._upload

    def _check_over(self) -> None:
        if self._over:
            url = self._store.url(self._key)
            raise StorageError(f"{url} was given up", url=url, transient=False)

    def commit(self) -> State:
        """Put the object there; what had its key is replaced.

        Raises
        ------
        WrongSize, IntegrityError
            The store says that it holds something else than what was sent.
        """
        last = b"".join(bytes(piece) for piece in self._waiting)
        self._waiting = []
        if self._held == self._size:
            self._check_over()
            found = self._store.put(self._key, last)
        else:
            found = self._begun().finish(last)
        try:
            check_copied(self._store.url(self._key), found, self._size)
        except WrongSize:
            self._store.remove(self._key)
            raise
        with self._lock:
            self._done = True
        return State()

    def discard(self) -> None:
        """Give it up; nothing happens where it is there, or was given up."""
        self.remove()
        self._waiting = []
        taken, self._taken = self._taken, 0
        self._place.memory.give(taken)

    def remove(self) -> None:
        """Give it up, while somebody may still write to it."""
        with self._lock:
            self._over = True
        if self._upload is not None and not self._done:
            self._upload.abort()


class RemotePlace:
    """A folder of an object store. Threads may share it.

    Parameters
    ----------
    target : Target
        Where it is.
    """

    most = CONNECTIONS
    """Requests at once: a loop of events makes them all."""
    splits = False
    """Objects come in order: a store takes no bytes at places."""

    def __init__(self, target: Target) -> None:
        if target.mirror is None:
            msg = f"{target.root} is a folder of this machine"
            raise RequestError(msg)
        self.target = str(target.root)
        self.mirror = target.mirror
        self.server_side = target.server_side
        self.store: TargetStore = open_target(target.mirror)
        self.memory = Memory(HELD)
        self._expected: list[str] = []
        self._at = 0
        self._seen: dict[str, Mapping[str, int]] = {}
        self._empty = False
        self._refused: set[str] = set()

    def open(self) -> None:
        """Do nothing: a store has no folders to make."""

    # What is there.

    def expect(self, folders: Iterable[str]) -> None:
        """Say which folders `present` will be asked for, in their order.

        Raises
        ------
        PlanError
            The bucket is not there.
        """
        self._expected, self._at = list(dict.fromkeys(folders)), 0
        self._empty = self.store.is_empty()

    def present(self, folder: str) -> Mapping[str, int]:
        """Give the size in bytes of each object in a folder, by name.

        Some folders that follow are listed at the same time.

        Raises
        ------
        PlanError
            The bucket is not there, or the folder is an object.
        StorageError
            It cannot be listed.
        """
        if self._empty:
            return {}
        if folder not in self._seen:
            self._seen = dict(self._ahead(folder))
        return self._seen[folder]

    def _ahead(self, folder: str) -> Iterable[tuple[str, Mapping[str, int]]]:
        try:
            self._at = self._expected.index(folder, self._at)
        except ValueError:
            return [(folder, self._listed(folder))]
        wanted = self._expected[self._at : self._at + AHEAD]
        return zip(wanted, each(self._listed, wanted), strict=True)

    def _listed(self, folder: str) -> Mapping[str, int]:
        return {name: found.size for name, found in self.store.listed(folder).items()}

    # What is put there.

    def part(self, folder: str, name: str, size: int) -> RemotePart:
        """Begin an object; see `RemotePart`."""
        return RemotePart(self, f"{folder}/{name}" if folder else name, size)

    def copies(self, mirror: Mirror, checksum: str | None) -> bool:
        """Whether the store is asked to copy from a mirror by itself.

        Raises
        ------
        RequestError
            It is to, and cannot: the mirror is of another kind, or a hash of every
            byte is asked for.
        """
        alike = self._alike(mirror) is not None
        if self.server_side is True and not (alike and checksum is None):
            what = f"mirror {mirror.name!r} is another store"
            if alike:
                what = f"a {checksum} of every byte is computed here"
            msg = f"server_side=True: {self.target} cannot copy by itself, for {what}"
            raise RequestError(msg)
        return self.server_side is not False and alike and checksum is None

    def _alike(self, mirror: Mirror) -> Mirror | None:
        """Give the mirror, of several, that is in the same store."""
        own = self.mirror
        for found in mirror.every if own.scheme in ("s3", "gs") else ():
            there, here = found.endpoint_url or "", own.endpoint_url or ""
            if found.scheme == own.scheme and there.rstrip("/") == here.rstrip("/"):
                return found
        return None

    def copy(self, plan: Plan, row: Row, mirror: Mirror) -> bool:
        """Let the store copy an object by itself; False where it has to come here.

        Raises
        ------
        StorageError, IntegrityError
            It could not, and ``server_side`` is True.
        """
        own = self._alike(mirror) or mirror
        bucket = own.bucket_root(plan.bucket(row.series))
        if bucket in self._refused:
            return False
        key, source = plan.path(row), plan.url(row, own)
        try:
            found = self.store.copy(source, key, row.size, _tag_of(row, own))
            self._check(key, found, row)
        except IDCError as error:
            if self.server_side is True:
                raise
            gone = isinstance(error, ObjectNotFound | ObjectChanged)
            if not gone:
                # What is refused once is refused for the whole bucket.
                self._refused.add(bucket)
            return False
        return True

    def _check(self, key: str, found: Copied, row: Row) -> None:
        url = self.store.url(key)
        tag = (row.etag or "").rpartition(" ")[2]
        known = row.md5.hex() if row.md5 is not None else md5_of_etag(tag)
        wrong = found.md5 is not None and known is not None and found.md5 != known
        try:
            check_copied(url, found, row.size)
            if wrong or (row.md5 is not None and found.md5 is None):
                msg = f"{url}: the store says of its MD5 {found.md5}, known is {known}"
                raise IntegrityError(msg, url=url, got=found.md5)
        except IDCError:
            self.store.remove(key)
            raise

    # Beside it.

    def remove_stale(self, folders: Iterable[str]) -> int:
        """Remove what processes of this machine left that are gone; give how many."""
        left = [
            f"{folder}/{name}"
            for folder in folders
            for name in self.store.listed(folder)
            if PART.fullmatch(name) and is_left(name)
        ]
        for key in left:
            self.store.remove(key)
        return len(left)

    def read(self, name: str) -> bytes | None:
        """Give a small object; None where there is none."""
        return self.store.read(name)

    def write(self, name: str, data: bytes) -> None:
        """Put a small object, whole or not at all."""
        self.store.put(name, data)

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            self.store.remove(name)

    def put_notice(self, text: str, manifest: str) -> str:
        """Put a notice beside a copy; see `intake_idc.transfer.put_notice`.

        Returns
        -------
        str
            Its URL.
        """
        data, line = text.encode(), f"{MANIFEST_LINE}{manifest}".encode()
        named = f"NOTICE-{manifest[:12]}.txt"
        there = self.read(NOTICE)
        if there is None or line in there.splitlines():
            named = NOTICE
        else:
            there = self.read(named)
        if there != data:
            self.write(named, data)
        return self.store.url(named)


def _tag_of(row: Row, mirror: Mirror) -> str | None:
    """Give the tag of an object in one mirror; None where another told it."""
    # Of another than the first its name is before it; see `engine.same_version`.
    name, _, tag = (row.etag or "").rpartition(" ")
    own = name == mirror.name if name else not mirror.place
    return tag or None if own else None
