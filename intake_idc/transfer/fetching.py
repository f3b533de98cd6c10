"""One object from a mirror to its place: whole, counted, compared, named last."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from intake_idc.errors import IntegrityError, WrongSize
from intake_idc.storage import check_same, open_store
from intake_idc.transfer.hashing import Hasher
from intake_idc.transfer.memory import Memory
from intake_idc.transfer.report import STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan, Row
    from intake_idc.storage import Mirror
    from intake_idc.storage.engine import Data
    from intake_idc.transfer.hashing import Checksum
    from intake_idc.transfer.places import LocalPlace, Part

__all__ = ["FAILED", "FETCHED", "KEPT", "REPLACED", "Done", "Fetcher", "Progress"]

HELD = 2 << 20
"""Bytes up to which an object is held whole while it is copied."""
CHUNK = 256 << 10
"""Bytes of a stream that are taken at once."""
STREAMED = 2 << 20
"""Bytes that a stream is counted as: what is under way, in every buffer."""
IN_MEMORY = 64 << 20
"""Bytes that may be held at once, by all threads."""

FETCHED, REPLACED, KEPT, FAILED = range(len(STATUSES))


class Done(NamedTuple):
    """What became of one row of a plan."""

    row: int
    status: int
    reason: str = ""
    hash: str = ""
    mtime: int = 0
    retries: int = 0
    mirror: int = 0
    kind: str = ""
    """Of a failure: ``hash`` where the bytes differ, ``space`` where there is no
    room, ``stopped`` where it was given up."""


class StoppedError(Exception):
    """The copy is to end, and this object with it."""


class Progress:
    """Adds up bytes from many threads for one callback."""

    def __init__(self, callback: Callback | None, size: int) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        if callback is not None:
            callback.set_size(size)

    def add(self, count: int) -> None:
        """Count bytes; those of an object that failed are taken back."""
        if self._callback is not None and count:
            with self._lock:
                self._callback.relative_update(count)


class Fetcher:
    """Fetches objects of a plan. Threads share it.

    Parameters
    ----------
    plan : Plan
        Says what goes where.
    place : LocalPlace
        Where it goes.
    progress : Progress
        Told of the bytes.
    checksum : str, optional
        Computed of every byte.
    stopped : threading.Event
        Set when what runs shall end.
    """

    def __init__(
        self,
        plan: Plan,
        place: LocalPlace,
        progress: Progress,
        checksum: Checksum | None,
        stopped: threading.Event,
    ) -> None:
        self.plan, self.place, self.progress = plan, place, progress
        self.memory = Memory(IN_MEMORY)
        self._checksum, self._stopped = checksum, stopped
        self._live: set[Part] = set()

    def fetch(self, row: Row, mirror: Mirror) -> Done:
        """Fetch one object; again, once, where its bytes are not those known.

        Raises
        ------
        IDCError, OSError
            It is not there.
        """
        try:
            return self._once(row, mirror)
        except IntegrityError:
            return self._once(row, mirror)

    def _once(self, row: Row, mirror: Mirror) -> Done:
        part, hasher = self.part(row), self.hasher(row)
        written = 0
        try:
            for data in self._pieces(row, mirror):
                self.check_stopped()
                written += len(data)
                if written > row.size:
                    break
                part.write(data)
                if hasher is not None:
                    hasher.update(data)
                self.progress.add(len(data))
            self._check_size(row, mirror, written)
            return self.commit(row, part, hasher)
        except BaseException:
            self.progress.add(-min(written, row.size))
            raise
        finally:
            self.close(part)

    def _pieces(self, row: Row, mirror: Mirror) -> Iterator[Data]:
        store = open_store(mirror, self.plan.bucket(row.series))
        key = self.plan.key(row)
        if row.size > HELD:
            with self.memory.taken(STREAMED):
                yield from store.stream(key, row.etag, chunk=CHUNK)
        elif not self.memory.take(row.size):
            # There is no room to hold it whole, and no need to wait for some.
            yield from store.stream(key, row.etag, chunk=CHUNK)
        else:
            try:
                found = store.get(key)
                if store.tells:
                    check_same(self.plan.url(row), row.etag, found.etag)
                yield found.data
            finally:
                self.memory.give(row.size)

    def _check_size(self, row: Row, mirror: Mirror, written: int) -> None:
        if written != row.size:
            url = self.plan.url(row, mirror)
            msg = f"{url}: got {written} bytes or more, listed were {row.size}"
            raise WrongSize(msg, url=url, got=written, expected=row.size)

    # What all ways of fetching share.

    def check_stopped(self) -> None:
        """End this object where the copy is to end."""
        if self._stopped.is_set():
            raise StoppedError

    def part(self, row: Row) -> Part:
        """Begin the file of an object."""
        part = self.place.part(self.plan.folder(row.series), row.file)
        self._live.add(part)
        return part

    def close(self, part: Part) -> None:
        """Remove a part, unless it has its name."""
        part.discard()
        self._live.discard(part)

    def leave(self) -> None:
        """Remove the parts of threads that did not end in time."""
        for part in list(self._live):
            self.close(part)

    def hasher(self, row: Row) -> Hasher | None:
        """Give what hashes an object; None where no hash is known or wanted."""
        names: set[str] = {"md5"} if row.md5 is not None else set()
        if self._checksum is not None:
            names.add(self._checksum)
        return Hasher(tuple(sorted(names))) if names else None

    def commit(self, row: Row, part: Part, hasher: Hasher | None) -> Done:
        """Compare what is known of the bytes, and give the file its name.

        Raises
        ------
        IntegrityError
            Its MD5 is another than the release states.
        """
        digests = hasher.digests() if hasher is not None else {}
        if row.md5 is not None and digests["md5"] != row.md5.hex():
            url = self.plan.url(row)
            msg = f"{url}: its MD5 is {digests['md5']}, known is {row.md5.hex()}"
            raise IntegrityError(msg, url=url, got=digests["md5"])
        self.check_stopped()
        state = part.commit()
        name = self._checksum or ("md5" if digests else None)
        return Done(
            row.row,
            REPLACED if row.action == REPLACED else FETCHED,
            hash=f"{name}:{digests[name]}" if name else "",
            mtime=state.st_mtime_ns,
        )
