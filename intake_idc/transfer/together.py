"""Objects that are fetched together: many requests from each of a few threads.

Each is asked for once. What does not come as it should is left, for threads that ask
again with all patience; so no object is here given up, and none is waited for.
"""

from __future__ import annotations

import itertools
import logging
import threading
from typing import TYPE_CHECKING

from intake_idc.errors import IDCError, NoSpace, StorageError
from intake_idc.storage import Multi, check_told
from intake_idc.transfer.fetching import Attempt, StoppedError
from intake_idc.transfer.large import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from intake_idc.plan import Row
    from intake_idc.storage import Mirror
    from intake_idc.transfer.fetching import Done, Fetcher
    from intake_idc.transfer.places import Part

__all__ = ["MOST_LOOPS", "Together"]

log = logging.getLogger(__name__)

AT_FIRST = 16
"""Requests in flight until it is known how long an answer takes."""
A_SECOND = 8000
"""Requests in flight for each second that an answer takes to begin."""
VAIN = 32
"""Failures in a row after which only those with patience ask."""
MOST_LOOPS = 32
"""Threads at most: where files are slow to make, some more of them help."""


class Together:
    """Fetches objects and ranges from one mirror, many at a time.

    Parameters
    ----------
    fetcher : Fetcher
        What they share with others.
    mirror : Mirror
        Where they come from.
    number : int
        Its number among several; see `Done`.
    tasks : iterator
        What is to be fetched.
    most : int
        Requests in flight at most.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        mirror: Mirror,
        number: int,
        tasks: Iterator[Row | Range],
        most: int,
    ) -> None:
        self._fetcher, self._mirror, self._tasks = fetcher, mirror, tasks
        self.plan, self.check_stopped = fetcher.plan, fetcher.check_stopped
        self._most, self._number = most, number
        self._lock = threading.Lock()
        self._loops: list[Multi] = []
        self._vain = 0
        self._over = False
        self.left: list[Row | Range] = []
        """What is to be fetched by others."""
        self.failed: set[int] = set()
        """Rows of those that were asked for in vain."""
        self.ended = False
        """Whether there is nothing more to fetch."""

    def loop(self, stopped: threading.Event, tell: Callable[[Done], None]) -> None:
        """Fetch until there is nothing more; threads may do so side by side.

        Parameters
        ----------
        stopped : threading.Event
            Set when what runs shall end.
        tell : callable
            Called with what became of each object that is there.
        """
        multi = Multi(self._mirror)
        with self._lock:
            self._loops.append(multi)
        try:
            multi.run(lambda live: self._following(live, tell), stopped)
        finally:
            with self._lock:
                self._loops.remove(multi)

    def turns(self) -> Iterator[int]:
        """Give a number for each loop that there may be, while there is something."""
        yield from itertools.takewhile(lambda _: not self._over, range(MOST_LOOPS))

    def _share(self) -> int:
        """Give how many requests a loop may have in flight."""
        answers = [loop.latency for loop in self._loops if loop.latency is not None]
        wanted = max(AT_FIRST, round(min(answers, default=0.0) * A_SECOND))
        return -(-min(wanted, self._most) // len(self._loops))

    def _following(
        self, live: int, tell: Callable[[Done], None]
    ) -> _Whole | _Part | None:
        if live >= self._share():
            return None
        while not self._over:
            task = self._next()
            if task is None:
                return None
            request = self._request(task, tell)
            if request is not None:
                return request
        return None

    def _next(self) -> Row | Range | None:
        with self._lock:
            task = next(self._tasks, None)
            if task is None:
                self.ended = self._over = True
        return task

    def _request(
        self, task: Row | Range, tell: Callable[[Done], None]
    ) -> _Whole | _Part | None:
        """Give the request for a task; or leave the task, where there can be none."""
        fetcher = self._fetcher
        try:
            if not isinstance(task, Range):
                cache = self._mirror.cache
                if cache is None or not cache.holds(task.name, task.size):
                    return _Whole(self, Attempt(fetcher, task, self._mirror), tell)
            elif task.large.mirror is self._mirror and task.large.is_plain:
                return _Part(self, task, task.large.begin(), tell)
        except StoppedError:
            return None
        except (IDCError, OSError) as error:
            # A link is in the way, or the disk is full: others say so.
            self._over |= _is_here(error)
        self.left.append(task)
        return None

    def came(self, done: Done, tell: Callable[[Done], None]) -> None:
        """Tell of one that came as it should."""
        self._vain = 0
        tell(done._replace(mirror=self._number) if self._number else done)

    def leave(self, task: Row | Range, error: Exception) -> None:
        """Leave a task to others, which was asked for in vain."""
        if isinstance(error, StoppedError):
            return
        row = task.large.row if isinstance(task, Range) else task
        log.info("is left to be asked for again: %s", error)
        with self._lock:
            self.left.append(task)
            self.failed.add(row.row)
            self._vain += 1
            # What is of this machine does not get better by asking the store.
            self._over |= self._vain >= VAIN or _is_here(error)


def _is_here(error: Exception) -> bool:
    """Whether it is this machine that fails, and not the store."""
    return isinstance(error, OSError | NoSpace) and not isinstance(error, StorageError)


class _Whole:
    """An object, asked for in one request; see `Request`."""

    __slots__ = ("_attempt", "_error", "_tell", "_together", "bucket", "key")
    start, stop = 0, None

    def __init__(
        self, together: Together, attempt: Attempt, tell: Callable[[Done], None]
    ) -> None:
        self._together, self._attempt, self._tell = together, attempt, tell
        self._error: Exception | None = None
        plan, row = together.plan, attempt.row
        self.bucket, self.key = plan.bucket(row.series), plan.key(row)

    def take(self, data: bytes) -> bool:
        """Write the bytes that follow."""
        try:
            self._attempt.take(data)
        except Exception as error:  # noqa: BLE001  (raised at the end)
            self._error = error
        return self._error is None

    def end(self, etag: str | None, error: StorageError | None) -> None:
        """Check what came, and give it its name."""
        attempt, together = self._attempt, self._together
        row = attempt.row
        try:
            try:
                _raise(self._error or error)
                attempt.check()
                check_told(together.plan.url(row), row.etag, etag)
                done = attempt.commit()
            finally:
                attempt.close()
        except (IDCError, OSError, StoppedError) as problem:
            together.leave(row, problem)
        else:
            together.came(done, self._tell)


class _Part:
    """A range of a large object; see `Request`."""

    def __init__(
        self,
        together: Together,
        task: Range,
        part: Part,
        tell: Callable[[Done], None],
    ) -> None:
        self._together, self._task, self._part, self._tell = together, task, part, tell
        self._error: Exception | None = None
        plan, row = together.plan, task.large.row
        self.bucket, self.key = plan.bucket(row.series), plan.key(row)
        self.start, self.stop = self._at, _ = task.start, task.stop

    def take(self, data: bytes) -> bool:
        """Write the bytes that follow."""
        large, task = self._task.large, self._task
        try:
            self._together.check_stopped()
            if self._at + len(data) > task.stop:
                large.check(task.start, task.stop, self._at + len(data))
            large.write(self._part, data, self._at)
            self._at += len(data)
        except Exception as error:  # noqa: BLE001  (raised at the end)
            self._error = error
        return self._error is None

    def end(self, etag: str | None, error: StorageError | None) -> None:
        """Check what came; where it was the last range, the object as well."""
        large, task, together = self._task.large, self._task, self._together
        try:
            _raise(self._error or error)
            large.check(task.start, task.stop, self._at)
            check_told(together.plan.url(large.row), large.row.etag, etag)
        except (IDCError, OSError, StoppedError) as problem:
            large.tell(task.start - self._at)
            together.leave(task, problem)
            return
        try:
            done = large.settle()
        except (IDCError, OSError, StoppedError) as problem:
            together.leave(large.row, problem)
            return
        if done is not None:
            together.came(done, self._tell)


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
