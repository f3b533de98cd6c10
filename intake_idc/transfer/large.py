"""A large object, fetched by several ranges at once, all of one version of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple, cast

from intake_idc.errors import WrongSize
from intake_idc.storage import check_same, open_store
from intake_idc.transfer.fetching import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from intake_idc.plan import Row
    from intake_idc.storage import Mirror, Store
    from intake_idc.storage.engine import Data
    from intake_idc.transfer.fetching import Done, Fetcher
    from intake_idc.transfer.places import Part

__all__ = ["SPLIT", "Large", "Range", "is_large", "ranges"]

SPLIT = 64 << 20
"""Bytes above which an object is fetched by several ranges."""
RANGE = 32 << 20
"""Bytes of each of them."""


def is_large(size: int) -> bool:
    """Whether an object of so many bytes is fetched by ranges."""
    return size > SPLIT


class Range(NamedTuple):
    """One of several ranges of a large object."""

    large: Large
    start: int
    stop: int


def ranges(large: Large) -> Iterator[Range]:
    """Give the ranges of an object, in order."""
    size = large.row.size
    for start in range(0, size, RANGE):
        yield Range(large, start, min(size, start + RANGE))


class Large:
    """An object that is fetched by several ranges; each is a task of its own.

    Parameters
    ----------
    fetcher : Fetcher
        What its ranges share with other objects.
    row : Row
        The object.
    mirror : Mirror
        Where it is read.
    """

    def __init__(self, fetcher: Fetcher, row: Row, mirror: Mirror) -> None:
        self.row, self.mirror = row, mirror
        self._fetcher = fetcher
        self._key = fetcher.plan.key(row)
        self._lock = threading.Lock()
        self._part: Part | None = None
        self._left = -(-row.size // RANGE)
        self._etag = row.etag
        self._failure: Exception | None = None
        self._told = 0

    def fetch(self, start: int, stop: int) -> Done | None:
        """Fetch one range; what became of the object where it was the last.

        Raises
        ------
        IDCError, OSError
            This range is the last, and one of them could not be read.
        """
        failure = None
        try:
            if self._failure is None:
                self._range(self.begin(), start, stop)
        except Exception as error:  # noqa: BLE001  (raised with the last)
            failure = error
        return self.settle(failure)

    def settle(self, failure: Exception | None = None) -> Done | None:
        """Count a range as over; say what became of the object where it was the last.

        Raises
        ------
        IDCError, OSError
            It was the last, and one of them could not be read.
        """
        with self._lock:
            self._failure = self._failure or failure
            self._left -= 1
            last = not self._left
        if not last:
            return None
        if self._failure is not None:
            self._end()
            raise self._failure
        return self._finish()

    @property
    def is_plain(self) -> bool:
        """Whether it is known which version is read, and nothing of it hashed."""
        told = self._etag is not None and self.mirror.place is None
        return told and self._fetcher.hasher(self.row) is None

    def begin(self) -> Part:
        """Give the file that its ranges are written to.

        Raises
        ------
        IDCError, OSError
            It cannot be made, or a range could not be read.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._part is None:
                # Without a tag two ranges could be of two versions; and that of
                # another mirror need not say anything of this one.
                if self._etag is None or self.mirror.place is not None:
                    found = self._store.tag(self._key)
                    url = self._fetcher.plan.url(self.row, self.mirror)
                    check_same(url, self._etag, found)
                    self._etag = found or self._etag
                self._part = cast("Part", self._fetcher.part(self.row))
            return self._part

    @property
    def _store(self) -> Store:
        return open_store(self.mirror, self._fetcher.plan.bucket(self.row.series))

    def _range(self, part: Part, start: int, stop: int) -> None:
        with self._fetcher.memory.taken(self._store.holds):
            at = self._stream(part, start, stop)
        self.check(start, stop, at)

    def check(self, start: int, stop: int, at: int) -> None:
        """Refuse a range that has another size than was asked for.

        Raises
        ------
        WrongSize
            It has.
        """
        if at != stop:
            url = self._fetcher.plan.url(self.row, self.mirror)
            msg = f"{url}: got {at - start} bytes from {start} on of {stop - start}"
            raise WrongSize(msg, url=url, got=at - start, expected=stop - start)

    def _stream(self, part: Part, at: int, stop: int) -> int:
        """Write a range as it comes; give the place that it came to."""
        # Where no tag was listed, that the object ends there says that it is the one.
        end = None if self.row.etag is None and stop == self.row.size else stop
        for data in self._store.stream(self._key, self._etag, at, end, CHUNK):
            if self._failure is not None:
                raise self._failure
            self._fetcher.check_stopped()
            if at + len(data) > stop:
                return at + len(data)
            self.write(part, (data,), at)
            at += len(data)
        return at

    def write(self, part: Part, pieces: Sequence[Data], at: int) -> None:
        """Write bytes at their place."""
        part.write_at(pieces, at)
        self.tell(sum(map(len, pieces)))

    def tell(self, count: int) -> None:
        """Count bytes that were written, or have to be once more."""
        with self._lock:
            self._told += count
        self._fetcher.progress.add(count)

    def _finish(self) -> Done:
        """Check the whole, and give it its name."""
        fetcher, part = self._fetcher, self.begin()
        try:
            if not self._store.tells:
                self._store.hold(self._key, self._etag, None)
            hasher = fetcher.hasher(self.row)
            if hasher is not None:
                for data in part.read():
                    hasher.update(data)
            return fetcher.commit(self.row, part, hasher)
        except BaseException:
            fetcher.progress.add(-self._told)
            raise
        finally:
            fetcher.close(part)

    def _end(self) -> None:
        self._fetcher.progress.add(-self._told)
        if self._part is not None:
            self._fetcher.close(self._part)
