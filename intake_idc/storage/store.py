"""Stores: one bucket of one mirror, asked as often as it takes, and not too often."""

from __future__ import annotations

import functools
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from intake_idc.storage.engine import (
    CHUNK,
    Answer,
    Engine,
    Stored,
    check_same,
    check_told,
    same_version,
)
from intake_idc.storage.filesystems import fsspec_engine
from intake_idc.storage.retrying import Patience, Retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from intake_idc.storage.engine import Data
    from intake_idc.storage.mirror import EngineName, Mirror

    Result = TypeVar("Result")

__all__ = ["IN_FLIGHT", "Store", "open_single", "reader"]

IN_FLIGHT = 256
"""Requests in flight in one process, whoever sends them."""
HURRIED = Patience(
    attempts=3, unreached=2, longest=2.0, first=2.0, served=5.0, outlasts=False
)
"""How long a mirror is waited for when another serves the same."""


@functools.cache
def _slots(_pid: int) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(IN_FLIGHT)


class Store:
    """Reads one bucket of one mirror. Methods may be called from many threads.

    Whatever the transport raises arrives as `StorageError` or a kind of it, after it
    was tried again where that may help; see `retrying`.
    """

    def __init__(self, engine: Engine, root: str, retrying: Retrying | None) -> None:
        self._engine, self._root, self._retrying = engine, root, retrying
        self._slots = _slots(os.getpid())
        self.tells = engine.tells
        """Whether answers say of which version their bytes are."""
        self._fastest: float | None = None
        self.holds = engine.holds
        """Bytes that a stream holds at once, in every buffer; about."""

    def list(self, prefix: str) -> list[Stored]:
        """List the objects below a prefix, in order of their keys."""
        began = time.monotonic()
        found = self._call(lambda: self._engine.list(prefix))
        self.answers_in(time.monotonic() - began)
        return found

    def answers_in(self, seconds: float | None) -> None:
        """Note that it gave an answer in so many seconds; see `latency`."""
        if seconds is not None:
            self._fastest = min(seconds, self._fastest or seconds)

    @property
    def latency(self) -> float | None:
        """Seconds of the fastest answer so far; None before the first."""
        return self._fastest

    def answered(self) -> None:
        """Count a request that went well and was sent past it; see `Multi`."""
        if self._retrying is not None:
            self._retrying.answered()

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Give the names of the folders right below a prefix, sorted."""
        return self._call(lambda: self._engine.folders(prefix))

    def get(self, key: str, start: int = 0, stop: int | None = None) -> Answer:
        """Read bytes ``start`` to ``stop``, with the version that they are of."""
        return self._call(lambda: self._engine.get(key, start, stop))

    def read(
        self, key: str, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> bytes:
        """Read bytes ``start`` to ``stop`` (None: the end); fewer if it ends before.

        Raises
        ------
        ObjectChanged
            The object is not the one with this tag.
        """
        found = self.get(key, start, stop)
        self.hold(key, etag, found.etag)
        return bytes(found.data)

    def hold(self, key: str, etag: str | None, found: str | None) -> None:
        """Hold the tag that came with some bytes against the one that was listed.

        A store that tells none with them is asked for the tag that the object has.

        Raises
        ------
        ObjectChanged
            They differ.
        """
        if etag is not None:
            now = found if self.tells else self.tag(key)
            check_same(f"{self._root}/{key}", etag, now)

    def tag(self, key: str) -> str | None:
        """Give the tag that an object has now."""
        return self._call(lambda: self._engine.tag(key))

    def stream(
        self,
        key: str,
        etag: str | None = None,
        start: int = 0,
        stop: int | None = None,
        chunk: int = CHUNK,
    ) -> Iterator[Data]:
        """Read bytes ``start`` to ``stop`` (None: the end) in pieces of some size.

        Where the line breaks it goes on at the byte that it came to, of the same
        version of the object.

        Raises
        ------
        ObjectChanged
            The object is another by now, or not the one with this tag.
        """
        done, tag = start, etag if self.tells else None
        pieces: Iterator[Answer] | None = None

        def following() -> Answer | None:
            nonlocal pieces
            if stop is not None and done >= stop:
                return None
            if pieces is None:
                pieces = self._engine.pieces(key, done, stop, chunk)
            try:
                return next(pieces, None)
            except BaseException:
                pieces = None
                raise

        while (found := self._call(following)) is not None:
            check_told(f"{self._root}/{key}", tag, found.etag)
            if same_version(tag, found.etag) is None:
                # What was listed says nothing of it, but it does of what follows.
                tag = found.etag or tag
            done += len(found.data)
            yield found.data

    def _call(self, function: Callable[[], Result]) -> Result:
        if self._retrying is None:
            return function()

        def once() -> Result:
            with self._slots:
                return function()

        return self._retrying.call(once)


def open_single(mirror: Mirror, aws_bucket: str) -> Store:
    """Open the store of a bucket of one mirror; see `choosing.open_store`."""
    return _open(os.getpid(), mirror, mirror.bucket_root(aws_bucket))


def reader(mirror: Mirror) -> EngineName:
    """Give the engine that a mirror is read by."""
    # s5cmd copies, and does nothing else.
    if mirror.engine not in (None, "s5cmd"):
        return mirror.engine
    # Signed access and unusual options are left to fsspec's file systems.
    plain = mirror.anon and not mirror.storage_options
    return "obstore" if mirror.scheme in ("s3", "gs") and plain else "fsspec"


@functools.lru_cache(maxsize=64)
def _open(_pid: int, mirror: Mirror, root: str) -> Store:
    engine: Engine
    if reader(mirror) == "obstore":
        from intake_idc.storage.obstores import ObstoreEngine

        engine = ObstoreEngine(mirror, root)
    else:
        engine = fsspec_engine(mirror, root)
    if mirror.place:
        engine = _Named(engine, mirror.tag)
    if mirror.scheme == "file":
        return Store(engine, root, None)
    wait = mirror.retry_timeout
    patience = Patience(first=min(Patience.first, wait), served=wait)
    if mirror.place is not None:
        patience = replace(
            HURRIED,
            first=min(HURRIED.first, wait),
            served=min(HURRIED.served, wait),
        )
    return Store(engine, root, Retrying(patience))


class _Named:
    """An engine whose tags say of which mirror they are."""

    def __init__(
        self, engine: Engine, told: Callable[[str | None], str | None]
    ) -> None:
        self._engine, self._told = engine, told
        self.tells, self.holds = engine.tells, engine.holds

    def list(self, prefix: str) -> list[Stored]:
        return [
            replace(stored, etag=self._told(stored.etag))
            for stored in self._engine.list(prefix)
        ]

    def folders(self, prefix: str) -> tuple[str, ...]:
        return self._engine.folders(prefix)

    def get(self, key: str, start: int, stop: int | None) -> Answer:
        found = self._engine.get(key, start, stop)
        return found._replace(etag=self._told(found.etag))

    def pieces(
        self, key: str, start: int, stop: int | None, chunk: int
    ) -> Iterator[Answer]:
        for found in self._engine.pieces(key, start, stop, chunk):
            yield found._replace(etag=self._told(found.etag))

    def tag(self, key: str) -> str | None:
        return self._told(self._engine.tag(key))
