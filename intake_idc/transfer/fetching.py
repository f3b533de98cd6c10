"""One object from a mirror to its place: whole, counted, compared, named last."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from intake_idc.errors import IntegrityError, WrongSize
from intake_idc.storage import StoppedError, check_told, open_store
from intake_idc.transfer.hashing import Hasher
from intake_idc.transfer.memory import Memory
from intake_idc.transfer.places import LocalPlace
from intake_idc.transfer.report import STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan, Row
    from intake_idc.storage import Mirror
    from intake_idc.storage.engine import Data
    from intake_idc.transfer.hashing import Checksum
    from intake_idc.transfer.places import Part
    from intake_idc.transfer.remote import RemotePart, RemotePlace

__all__ = [
    "FAILED",
    "FETCHED",
    "KEPT",
    "REPLACED",
    "Attempt",
    "Done",
    "Fetcher",
    "Progress",
]

HELD = 2 << 20
"""Bytes up to which an object is held whole while it is copied."""
CHUNK = 256 << 10
"""Bytes of a stream that are taken at once."""
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
    place : LocalPlace or RemotePlace
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
        place: LocalPlace | RemotePlace,
        progress: Progress,
        checksum: Checksum | None,
        stopped: threading.Event,
    ) -> None:
        self.plan, self.place, self.progress = plan, place, progress
        self.memory = Memory(IN_MEMORY)
        self._checksum, self._stopped = checksum, stopped
        self._live: set[Part | RemotePart] = set()
        self._left = False
        self._lock = threading.Lock()

    def fetch(self, row: Row, mirror: Mirror) -> Done:
        """Fetch one object; again, once, where its bytes are not those known.

        Raises
        ------
        IDCError, OSError
            It is not there.
        """
        if self._copied(row, mirror):
            status = REPLACED if row.action == REPLACED else FETCHED
            return Done(row.row, status)
        try:
            return self._once(row, mirror)
        except IntegrityError:
            if mirror.cache is not None:
                mirror.cache.forget(row.name)
            return self._once(row, mirror)

    def _copied(self, row: Row, mirror: Mirror) -> bool:
        """Let a store copy an object by itself, where it can."""
        place = self.place
        if isinstance(place, LocalPlace) or not place.copies(mirror, self._checksum):
            return False
        self.check_stopped()
        copied = place.copy(self.plan, row, mirror)
        self.progress.add(row.size if copied else 0)
        return copied

    def _once(self, row: Row, mirror: Mirror) -> Done:
        attempt = Attempt(self, row, mirror)
        try:
            for data in self._pieces(row, mirror):
                attempt.take((data,))
            attempt.check()
            self._hold(row, mirror)
            return attempt.commit()
        finally:
            attempt.close()

    def _pieces(self, row: Row, mirror: Mirror) -> Iterator[Data]:
        store = open_store(mirror, self.plan.bucket(row.series))
        key, cache, done = self.plan.key(row), mirror.cache, 0
        if cache is not None and cache.holds(row.name, row.size):
            with self.memory.taken(store.holds):
                for data in cache.pieces(row.name, row.size, CHUNK):
                    done += len(data)
                    yield data
                if done < row.size:  # It was taken away meanwhile.
                    yield from store.stream(key, row.etag, done, chunk=CHUNK)
            return
        if row.size > HELD:
            with self.memory.taken(store.holds):
                yield from store.stream(key, row.etag, chunk=CHUNK)
        elif not self.memory.take(row.size):
            # There is no room to hold it whole, and no need to wait for some.
            yield from store.stream(key, row.etag, chunk=CHUNK)
        else:
            try:
                found = store.get(key)
                if store.tells:
                    check_told(self.plan.url(row), row.etag, found.etag)
                yield found.data
            finally:
                self.memory.give(row.size)

    def _hold(self, row: Row, mirror: Mirror) -> None:
        """Ask for the tag of what was read, where it does not come with the bytes."""
        store = open_store(mirror, self.plan.bucket(row.series))
        if not store.tells:
            store.hold(self.plan.key(row), row.etag, None)

    # What all ways of fetching share.

    def check_size(self, row: Row, mirror: Mirror, written: int) -> None:
        """Refuse an object that has another size than was listed.

        Raises
        ------
        WrongSize
            It has.
        """
        if written != row.size:
            url = self.plan.url(row, mirror)
            more = " or more" if written > row.size else ""
            msg = f"{url}: got {written} bytes{more}, listed were {row.size}"
            raise WrongSize(msg, url=url, got=written, expected=row.size)

    def check_stopped(self) -> None:
        """End this object where the copy is to end."""
        if self._stopped.is_set():
            raise StoppedError

    def part(self, row: Row) -> Part | RemotePart:
        """Begin the file of an object.

        Raises
        ------
        StoppedError
            The copy has ended.
        """
        part = self.place.part(self.plan.folder(row.series), row.file, row.size)
        with self._lock:
            if not self._left:
                self._live.add(part)
                return part
        part.discard()
        raise StoppedError

    def close(self, part: Part | RemotePart) -> None:
        """Remove a part, unless it has its name."""
        part.discard()
        with self._lock:
            self._live.discard(part)

    def leave(self) -> None:
        """Remove the parts of threads that did not end in time.

        They can name none of them any more, and begin no other.
        """
        with self._lock:
            self._left = True
            live = list(self._live)
        for part in live:
            part.remove()

    def hasher(self, row: Row) -> Hasher | None:
        """Give what hashes an object; None where no hash is known or wanted."""
        names: set[str] = {"md5"} if row.md5 is not None else set()
        if self._checksum is not None:
            names.add(self._checksum)
        return Hasher(tuple(sorted(names))) if names else None

    def commit(self, row: Row, part: Part | RemotePart, hasher: Hasher | None) -> Done:
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


class Attempt:
    """One object on its way from a mirror into a part file. One thread has it.

    Parameters
    ----------
    fetcher : Fetcher
        What it shares with others.
    row : Row
        The object.
    mirror : Mirror
        Where it comes from.

    Raises
    ------
    OSError, PlanError
        The file cannot be made.
    """

    __slots__ = ("_fetcher", "_hasher", "_mirror", "_part", "_told", "_written", "row")

    def __init__(self, fetcher: Fetcher, row: Row, mirror: Mirror) -> None:
        self._fetcher, self.row, self._mirror = fetcher, row, mirror
        self._written = self._told = 0
        self._hasher = fetcher.hasher(row)
        self._part = fetcher.part(row)

    def take(self, pieces: Sequence[Data]) -> None:
        """Write the bytes that follow.

        Raises
        ------
        WrongSize
            They are more than were listed.
        StoppedError
            The copy is to end.
        """
        self._fetcher.check_stopped()
        size = sum(map(len, pieces))
        self._written += size
        if self._written > self.row.size:
            self.check()
        self._part.write(pieces)
        if self._hasher is not None:
            for data in pieces:
                self._hasher.update(data)
        self._fetcher.progress.add(size)
        self._told = self._written

    def check(self) -> None:
        """Refuse an object that has another size than was listed.

        Raises
        ------
        WrongSize
            It has.
        """
        self._fetcher.check_size(self.row, self._mirror, self._written)

    def commit(self) -> Done:
        """Compare what is known of the bytes, and give the file its name.

        Raises
        ------
        IntegrityError
            Its MD5 is another than the release states.
        """
        done = self._fetcher.commit(self.row, self._part, self._hasher)
        self._told = 0
        return done

    def close(self) -> None:
        """Remove the part, and take its bytes back, unless it has its name."""
        self._fetcher.progress.add(-self._told)
        self._fetcher.close(self._part)
