"""Many things asked for together, and those that did not come again, with patience.

A few threads send many requests each; see `multi`. Each thing is asked for once that
way. What does not come as it should is left to threads that ask for one at a time and
again, as `retrying` says; so nothing is given up here, and nothing waited for.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from intake_idc.errors import IDCError, NoSpace, StorageError
from intake_idc.storage.choosing import choice, open_store
from intake_idc.storage.endpoints import asks_many
from intake_idc.storage.retrying import is_transient
from intake_idc.storage.threads import (
    FILES_LEFT,
    Pace,
    Threads,
    fewest_threads,
    open_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from intake_idc.storage.choosing import Several
    from intake_idc.storage.exchanges import Request
    from intake_idc.storage.mirror import Mirror
    from intake_idc.storage.multi import Multi
    from intake_idc.storage.store import Store

__all__ = [
    "DONE",
    "LATER",
    "Answers",
    "StoppedError",
    "Together",
    "Ways",
    "gather",
    "most_together",
]

log = logging.getLogger(__name__)

AT_FIRST = 64
"""Requests in flight, at least, where as many may be."""
A_SECOND, A_SECOND_SMALL = 12_000, 25_000
"""Requests in flight for each second that an answer takes to begin: what a thread can
do in one, with answers that are small as well."""
SMALL = 64 << 10
"""Bytes of an answer, on average, up to which it is small."""
MOST = 480 if sys.platform == "win32" else 640
"""Requests in flight at most; each has a connection, and may have a file. On Windows
512 connections can be waited for."""
MOST_LEFT = 1024
"""Tasks that are left to others in one round, at most."""
VAIN = 32
"""Failures in a row after which only those with patience ask."""
BUSY, LESS = (429, 503), 0.7
"""What a store answers that has too much to do, and how many requests in flight are
left of those before; each answer that is right adds one."""
FEW_LOOPS, MOST_LOOPS = 4, 64
"""Threads at first, at most, else one for each core; and where files are slow. With
answers that are small two threads would only wait for each other."""
SLOW_SECONDS = 0.003
"""Seconds that a file takes of a thread, on average, where more threads help."""

FLUSH_SECONDS = 0.01
"""Seconds for which results are gathered."""
LATER_SECONDS = 0.005
"""Seconds after which it is looked again for a task that was not there yet."""

Task = TypeVar("Task")
Result = TypeVar("Result")


LATER: Any = object()
"""Stands for a task that is there in a while."""
DONE: Any = object()
"""Stands for the request of a task for which nothing has to be asked."""
_NOTHING: Any = object()


class Answers(NamedTuple):
    """What is known of answers before they come."""

    size: int
    """Bytes of one, on average."""
    hashed: bool = False
    """Whether they are hashed by what takes longer than to write them."""


class StoppedError(Exception):
    """All is to end, and what is under way with it."""


def most_together() -> int:
    """Give how many requests may be in flight.

    Each has a connection, a file and its folder.
    """
    limit = open_files()
    return MOST if limit is None else max(1, min(MOST, (limit - FILES_LEFT) // 3))


class Together(Pace, Generic[Task, Result]):
    """Asks one mirror for many things at a time, each once.

    Parameters
    ----------
    mirror : Mirror
        One, or one that stands for several.
    number : int
        Of the one among them that is asked, of which `asks_many` holds.
    tasks : iterator
        What is to be asked for; `LATER` where that is not to be said yet.
    request : callable
        Gives the request for a task; None where it is to be left, and `DONE` where
        nothing has to be asked. `StoppedError` drops the task; another error of this
        package, or of the system, leaves it.
    most : int
        Requests in flight at most.
    answers : Answers
        What is known of them.
    latency : float, optional
        Seconds that the fastest answer so far took to begin.
    stopped : threading.Event
        Set when what runs shall end.
    """

    def __init__(
        self,
        mirror: Mirror,
        number: int,
        tasks: Iterator[Task],
        request: Callable[[Together[Task, Result], Task], Request | None],
        most: int,
        answers: Answers,
        latency: float | None,
        stopped: threading.Event,
    ) -> None:
        self.mirror, self.number = mirror.every[number], number
        self._choice = choice(mirror) if mirror.among else None
        self._tasks, self._request, self._latency = tasks, request, latency
        self._most = self._at_once = float(most)
        self._stopped = stopped
        self._lock = threading.Lock()
        self._loops: list[Multi] = []
        self._more: deque[Request] = deque()
        self._told: deque[Result] = deque()
        self._flushed = 0.0
        self._in_files, self._files = 0.0, 0
        self._vain = self._in_flight = 0
        self._over = False
        self._stores: dict[str, Store | Several] = {}
        self._rate = A_SECOND if answers.size > SMALL else A_SECOND_SMALL
        alone = answers.size <= SMALL and not answers.hashed
        few = 1 if alone else min(FEW_LOOPS, os.cpu_count() or 1, most)
        self._threads: Threads[int, Result | None]
        self._threads = Threads(self._loop, MOST_LOOPS, few, stopped, self)
        self.left: list[Task] = []
        """What is to be asked for by others."""
        self.failed: set[int] = set()
        """Of these the places that were asked for in vain."""
        self.later: dict[int, float] = {}
        """Of these by their places when the store wants to be asked again, at the
        earliest: by `time.monotonic`."""
        self.ended = False
        """Whether there is nothing more to ask for."""
        self.unable = False
        """Whether this machine lets nothing be asked for so."""

    def run(self, look: Callable[[], object]) -> Generator[Result, None, None]:
        """Give the results as they come; see `Threads.run`."""
        turns = itertools.takewhile(lambda _: not self._over, itertools.count())
        with closing(self._threads.run(turns, look)) as running:
            for result in running:
                if result is not None:
                    yield result

    def _loop(self, _turn: int) -> None:
        # What it needs of the network is not loaded by who asks nothing of a store.
        from intake_idc.storage.multi import Multi

        try:
            multi = Multi(self.mirror)
        except OSError as error:
            # No more files may be open. Others may do with less.
            log.info("nothing is asked for together: %s", error)
            self.unable = self._over = True
            return
        with self._lock:
            self._loops.append(multi)
        try:
            multi.run(partial(self._following, multi), self._give, self._stopped)
        finally:
            self._flush(last=True)
            with self._lock:
                self._loops.remove(multi)
            for bucket in multi.buckets:
                open_store(self.mirror, bucket).answers_in(multi.latency)

    def wanted(self, threads: int) -> int:
        """Say how many threads there should be, by what came so far."""
        slow = self._in_files > SLOW_SECONDS * self._files
        more = slow and self._files > 2 * threads
        return min(2 * threads, int(self._most)) if more else threads

    def _wanted(self) -> float:
        """Give how many requests should be in flight, by how long answers take."""
        seconds = self._latency
        for loop in self._loops:
            if loop.latency is not None and (seconds is None or loop.latency < seconds):
                seconds = loop.latency
        if seconds is None:
            seconds = max((loop.waited() for loop in self._loops), default=0.0)
        return min(max(AT_FIRST, seconds * self._rate), self._at_once)

    def _share(self, loop: Multi, wanted: int) -> int:
        """Give how many requests a loop may have in flight."""
        loops = self._loops
        if len(loops) == 1:
            return wanted
        each, more = divmod(wanted, len(loops))
        return max(1, each + (loops.index(loop) < more))

    def _following(self, loop: Multi, live: int) -> Request | None:
        self._flush()
        while not self._take(loop, live):
            if live or self._over or self._stopped.is_set():
                return None
            # What others have in flight is all there may be.
            time.sleep(LATER_SECONDS)
        request = self._next(live)
        if request is None:
            self._give()
        return request

    def _take(self, loop: Multi, live: int) -> bool:
        """Take a request of those that there may be; False if none is left."""
        with self._lock:
            wanted = self._wanted()
            free = self._in_flight < wanted and live < self._share(loop, int(wanted))
            self._in_flight += free
        return free

    def _give(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def _next(self, live: int) -> Request | None:
        with suppress(IndexError):
            return self._more.popleft()
        while not (self._over or self._stopped.is_set()):
            with self._lock:
                task = next(self._tasks, _NOTHING)
            if task is _NOTHING:
                self.ended = self._over = True
            elif task is LATER:
                # It may be waited for what is left, and for nothing else.
                self._over |= bool(self.left)
                if live:
                    return None
                self._flush(last=True)
                time.sleep(LATER_SECONDS)
            elif (request := self._asked(task)) is not None:
                return request
        return None

    def _asked(self, task: Task) -> Request | None:
        """Give the request for a task; None where it is dropped, left or done."""
        try:
            request = self._request(self, task)
        except StoppedError:
            return None
        except (IDCError, OSError) as error:
            self.leave(task, error, asked=False)
            return None
        if request is None:
            with self._lock:
                self.left.append(task)
                # What follows may be many, and is not to wait for a round of all.
                self._over |= len(self.left) >= MOST_LEFT
        return None if request is DONE else request

    # What requests say.

    def follow(self, request: Request) -> None:
        """Send a request more, which one that was answered leads to."""
        self._more.append(request)

    def tell(self, result: Result) -> None:
        """Give a result for which nothing had to be asked."""
        self._told.append(result)

    def _flush(self, *, last: bool = False) -> None:
        """Hand over the results so far, some at once: each time wakes a thread."""
        now = time.monotonic()
        if self._told and (last or now - self._flushed > FLUSH_SECONDS):
            self._flushed = now
            told = []
            with suppress(IndexError):
                while True:
                    told.append(self._told.popleft())
            self._threads.tell(told)

    def came(self, result: Result | None, bucket: str, seconds: float = 0.0) -> None:
        """Take what became of one that came as it should.

        Parameters
        ----------
        result : object
            Told to who asked, unless it is None.
        bucket : str
            AWS name of the bucket that it is of.
        seconds : float
            That its file took.
        """
        self._vain = 0
        self._at_once = min(self._at_once + 1, self._most)
        self._in_files += seconds
        self._files += 1
        store = self._stores.get(bucket)
        if store is None:
            store = self._stores[bucket] = open_store(self.mirror, bucket)
        store.answered()
        if self._choice is not None:
            self._choice.answered(self.number)
        if result is not None:
            self._told.append(result)

    def leave(self, task: Task, error: Exception, *, asked: bool = True) -> None:
        """Leave a task to others, for the error that it met."""
        if isinstance(error, StoppedError):
            return
        log.info("is left to be asked for again: %s", error)
        # What is of this machine does not get better by asking the store.
        here = isinstance(error, NoSpace) or not isinstance(error, IDCError)
        said = error.details if isinstance(error, StorageError) else {}
        with self._lock:
            if asked:
                self.failed.add(len(self.left))
                # That there is no such object says that the store serves.
                final = isinstance(error, StorageError) and not is_transient(error)
                self._vain = 0 if final else self._vain + 1
            if 0 < said.get("retry_after", 0) <= self.mirror.retry_timeout:
                self.later[len(self.left)] = time.monotonic() + said["retry_after"]
            if said.get("status") in BUSY:
                self._at_once = max(1.0, self._at_once * LESS)
            self.left.append(task)
            self._over |= here or self._vain >= VAIN
            self._over |= len(self.left) >= MOST_LEFT


@dataclass(frozen=True)
class Ways(Generic[Task, Result]):
    """The two ways by which a task is done."""

    request: Callable[[Together[Task, Result], Task], Request | None] | None
    """Gives its request; see `Together`. None where it is to be done with patience."""
    patient: Callable[[Task], Result]
    """Does it, as often as it takes."""
    again: Callable[[Result], Result]
    """Says of a result that it was asked for in vain before."""
    served: Callable[[Result], bool]
    """Whether a result says that the store serves."""


def gather(
    tasks: Iterable[Task],
    mirror: Mirror,
    ways: Ways[Task, Result],
    *,
    answers: Answers,
    most: tuple[int, int],
    latency: Callable[[], float | None],
    stopped: threading.Event,
    look: Callable[[], object] = lambda: None,
) -> Generator[Result, None, None]:
    """Do tasks many at a time where the store can be asked so; else one a thread.

    In rounds: many together, and then, with patience, those that did not come. A store
    that serves none of these is asked by those with patience alone.

    Parameters
    ----------
    tasks : iterable
        What is to be done; `LATER` where that is not to be said yet.
    mirror : Mirror
        One, or one that stands for several.
    ways : Ways
        How it is done.
    answers : Answers
        What is known of them.
    most : tuple of int
        Requests in flight, and threads, at most.
    latency : callable
        Gives the seconds that the fastest answer so far took to begin; None before one.
    stopped : threading.Event
        Set when what runs shall end.
    look : callable
        Called now and then.
    """
    source = iter(tasks)

    def patient(
        some: Iterable[Task], function: Callable[[Task], Result] = ways.patient
    ) -> Generator[Result, None, None]:
        fewest = fewest_threads(latency())
        return Threads(function, most[1], fewest, stopped).run(some, look)

    while True:
        number = choice(mirror).order()[0] if mirror.among else 0
        if ways.request is None or not asks_many(mirror.every[number]):
            break
        together: Together[Task, Result]
        together = Together(
            mirror,
            number,
            source,
            ways.request,
            most[0],
            answers,
            latency(),
            stopped,
        )
        yield from together.run(look)
        if stopped.is_set():
            return
        served = yield from _again(together, ways, patient, stopped)
        if together.ended:
            return
        if together.unable or not served:
            break
    yield from patient(_in_time(source, stopped))


def _in_time(source: Iterator[Task], stopped: threading.Event) -> Iterator[Task]:
    """Wait for each task that is not there yet."""
    for task in source:
        if task is not LATER:
            yield task
        elif stopped.wait(LATER_SECONDS):
            return


def _again(
    together: Together[Task, Result],
    ways: Ways[Task, Result],
    patient: Callable[..., Generator[Result, None, None]],
    stopped: threading.Event,
) -> Generator[Result, None, bool]:
    """Do with patience what was left; say whether the store serves."""
    served = not together.left
    if served:
        return True

    def one(place: int) -> Result:
        if place in together.later:
            stopped.wait(max(0.0, together.later[place] - time.monotonic()))
        done = ways.patient(together.left[place])
        return ways.again(done) if place in together.failed else done

    with closing(patient(range(len(together.left)), one)) as running:
        for result in running:
            served |= ways.served(result)
            yield result
    return served
