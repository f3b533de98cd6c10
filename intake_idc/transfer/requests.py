"""Requests by which many objects of a copy are fetched together; see `Together`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from intake_idc.errors import IDCError
from intake_idc.storage import StoppedError, check_told
from intake_idc.transfer.fetching import Attempt
from intake_idc.transfer.large import Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intake_idc.errors import StorageError
    from intake_idc.plan import Row
    from intake_idc.storage import Together
    from intake_idc.storage.engine import Data
    from intake_idc.transfer.fetching import Done, Fetcher
    from intake_idc.transfer.places import Part

    Asking = Together[Row | Range, Done | None]

__all__ = ["request"]


def request(
    fetcher: Fetcher, together: Asking, task: Row | Range
) -> _Whole | _Part | None:
    """Give the request for a task of a copy, its file made; None where there is none.

    Raises
    ------
    StoppedError
        The copy has ended.
    IDCError, OSError
        The file cannot be made.
    """
    mirror = together.mirror
    if isinstance(task, Range):
        if task.large.mirror is mirror and task.large.is_plain:
            return _Part(fetcher, together, task)
        return None
    if mirror.cache is not None and mirror.cache.holds(task.name, task.size):
        return None
    return _Whole(fetcher, together, task)


class _Whole:
    """An object, asked for in one request; see `Request`."""

    __slots__ = ("_attempt", "_error", "_fetcher", "_seconds", "_together")
    query, start, stop = "", 0, None

    def __init__(self, fetcher: Fetcher, together: Asking, row: Row) -> None:
        self._fetcher, self._together = fetcher, together
        self._error: Exception | None = None
        began = time.monotonic()
        self._attempt = Attempt(fetcher, row, together.mirror)
        self._seconds = time.monotonic() - began

    @property
    def bucket(self) -> str:
        """AWS name of the bucket."""
        return self._fetcher.plan.bucket(self._attempt.row.series)

    @property
    def key(self) -> str:
        """Key below the bucket's root."""
        return self._fetcher.plan.key(self._attempt.row)

    def take(self, pieces: Sequence[Data]) -> bool:
        """Write the bytes that follow."""
        try:
            self._attempt.take(pieces)
        except Exception as error:  # noqa: BLE001  (raised at the end)
            self._error = error
        return self._error is None

    def end(self, etag: str | None, error: StorageError | None) -> None:
        """Check what came, and give it its name."""
        attempt, together = self._attempt, self._together
        row, began = attempt.row, time.monotonic()
        try:
            try:
                _raise(self._error or error)
                attempt.check()
                if row.etag != etag or not etag:
                    check_told(self._fetcher.plan.url(row), row.etag, etag)
                done = attempt.commit()
            finally:
                attempt.close()
        except (IDCError, OSError, StoppedError) as problem:
            together.leave(row, problem)
        else:
            seconds = self._seconds + time.monotonic() - began
            together.came(_of(together, done), self.bucket, seconds)


class _Part:
    """A range of a large object; see `Request`."""

    query = ""

    def __init__(self, fetcher: Fetcher, together: Asking, task: Range) -> None:
        self._fetcher, self._together, self._task = fetcher, together, task
        self._error: Exception | None = None
        self._part: Part = task.large.begin()
        plan, row = fetcher.plan, task.large.row
        self.bucket, self.key = plan.bucket(row.series), plan.key(row)
        self.start, self.stop = self._at, _ = task.start, task.stop

    def take(self, pieces: Sequence[Data]) -> bool:
        """Write the bytes that follow."""
        large, task = self._task.large, self._task
        size = sum(map(len, pieces))
        try:
            self._fetcher.check_stopped()
            if self._at + size > task.stop:
                large.check(task.start, task.stop, self._at + size)
            large.write(self._part, pieces, self._at)
            self._at += size
        except Exception as error:  # noqa: BLE001  (raised at the end)
            self._error = error
        return self._error is None

    def end(self, etag: str | None, error: StorageError | None) -> None:
        """Check what came; where it was the last range, the object as well."""
        large, task, together = self._task.large, self._task, self._together
        try:
            _raise(self._error or error)
            large.check(task.start, task.stop, self._at)
            check_told(self._fetcher.plan.url(large.row), large.row.etag, etag)
        except (IDCError, OSError, StoppedError) as problem:
            large.tell(task.start - self._at)
            together.leave(task, problem)
            return
        try:
            done = large.settle()
        except (IDCError, OSError, StoppedError) as problem:
            together.leave(large.row, problem)
        else:
            together.came(done and _of(together, done), self.bucket)


def _of(together: Asking, done: Done) -> Done:
    """Say of what became of an object which mirror served it."""
    return done._replace(mirror=together.number) if together.number else done


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
