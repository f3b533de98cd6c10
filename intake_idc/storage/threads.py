"""As many threads for requests as help, and results as they come."""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from intake_idc.storage.pool import alone
from intake_idc.storage.retrying import give_up_with

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

__all__ = ["Pace", "Threads", "fewest_threads", "most_threads", "open_files"]

FEWEST = 8
"""Threads at the beginning, at most, where it is not known how long a request takes: on
a fast line two a core are enough, and more only wait for each other."""
MOST = 256
"""Threads that it may come to, as many as s5cmd has workers."""
MOST_AT_FIRST, THREADS_A_SECOND = 128, 4000
"""Threads to begin with, at most, and for each second that a request takes."""
GROWTH = 4
"""By how much their number grows at once."""
BUSY = 0.75
"""Cores that the process may use while more threads are still added."""
HELPED = 1.1
"""By how much the rate must have grown with them for more to be added."""
LOOK_SECONDS = 0.02
"""Seconds between two looks at how it goes."""
LEAVE_SECONDS = 2.0
"""Seconds that threads have to notice that they are to stop."""
FILES_LEFT = 64
"""Open files that are left to the rest of the process."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def most_threads() -> int:
    """Give how many threads a copy may have, each with a file and two connections."""
    limit = open_files()
    return MOST if limit is None else max(1, min(MOST, (limit - FILES_LEFT) // 3))


def open_files() -> int | None:
    """Give how many files the process may have open; None where there is no limit."""
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


def fewest_threads(latency: float | None) -> int:
    """Give how many threads to begin with, by the seconds that a request takes.

    A store 30 ms away is asked by 120 at once, for a thread that waits costs nothing.
    """
    few = min(FEWEST, 2 * (os.cpu_count() or 1))
    return max(few, min(MOST_AT_FIRST, round((latency or 0.0) * THREADS_A_SECOND)))


class Threads(Generic[Item, Result]):
    """Calls a function on items from threads of its own, as many as help.

    It begins with a few. While the process uses less than a core, the threads wait for
    the line, and there are more after each round of results, as long as results come
    the faster for it. Where the machine is the limit, more would make it slower.

    Parameters
    ----------
    function : callable
        Called with each item. What it raises ends the whole.
    most, fewest : int
        Threads at most, and at the beginning.
    stopped : threading.Event, optional
        Set when what has not begun shall not begin, and what runs shall end; one of
        its own by default.
    pace : Pace, optional
        Says when there shall be more of them; by default where the line is waited for.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        most: int = MOST,
        fewest: int | None = None,
        stopped: threading.Event | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._function = function
        self._most, self._fewest = most, min(fewest or fewest_threads(None), most)
        self._lock = threading.Lock()
        self._events: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._source: Iterator[Item] = iter(())
        self._pace = pace or _Help()
        self.stopped = stopped or threading.Event()
        """Set when what has not begun shall not begin, and what runs shall end."""

    def tell(self, results: Sequence[Result]) -> None:
        """Give results besides, from within the function."""
        self._events.put(("results", results))

    def run(
        self, items: Iterable[Item], look: Callable[[], object] = lambda: None
    ) -> Generator[Result, None, None]:
        """Give the results as they come, each item asked for when a thread is free.

        Where the consumer ends early, or is interrupted, the threads are told to stop
        and waited for a short while; so they are where ``stopped`` is set. ``look`` is
        called first, and now and then meanwhile.
        """
        self._source = iter(items)
        ended = 0
        looked, until = time.monotonic(), None
        try:
            look()
            self._grow(self._fewest)
            while ended < len(self._threads):
                if self.stopped.is_set():
                    # What waits for a store that is silent does not notice.
                    until = until or time.monotonic() + LEAVE_SECONDS
                    if time.monotonic() > until:
                        return
                kind, value = self._event()
                if time.monotonic() - looked >= LOOK_SECONDS:
                    looked = time.monotonic()
                    look()
                if kind == "end":
                    ended += 1
                elif kind == "error":
                    raise cast("BaseException", value)
                elif kind == "results":
                    for result in cast("Sequence[Result]", value):
                        wanted = self._pace.wanted(len(self._threads))
                        if not ended:
                            self._grow(min(wanted, self._most))
                        yield result
        finally:
            self._leave(ended, until or time.monotonic() + LEAVE_SECONDS)

    def _event(self) -> tuple[str, object]:
        try:
            return self._events.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            return "nothing", None

    def _grow(self, to: int) -> None:
        while len(self._threads) < to:
            name = f"intake-idc-copy-{len(self._threads)}"
            # A daemon: a store that does not answer must not hold up the exit.
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        alone()
        # What waits to be tried again would hold up the end.
        give_up_with(self.stopped)
        try:
            while not self.stopped.is_set():
                with self._lock:
                    try:
                        item = next(self._source)
                    except StopIteration:
                        return
                self.tell((self._function(item),))
        except BaseException as error:  # noqa: BLE001  (raised by the consumer)
            self._events.put(("error", error))
        finally:
            self._events.put(("end", None))

    def _leave(self, ended: int, until: float) -> None:
        if ended == len(self._threads):
            return
        self.stopped.set()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


class Pace(Protocol):
    """Says how many threads help."""

    def wanted(self, threads: int) -> int:
        """Take note of a result; say how many threads there should be by now."""


class _Help:
    """Sees whether more threads help, after each round of results."""

    def __init__(self) -> None:
        self._came, self._rate = 0, 0.0
        self._began, self._used = time.monotonic(), time.process_time()

    def wanted(self, threads: int) -> int:
        """Take note of a result; say how many threads there should be by now."""
        return GROWTH * threads if self._more_help(threads) else threads

    def _more_help(self, threads: int) -> bool:
        self._came += 1
        now = time.monotonic()
        seconds = now - self._began
        if self._came < threads // 2 or seconds < LOOK_SECONDS:
            return False
        used, rate = time.process_time(), self._came / seconds
        waits = used - self._used < BUSY * seconds and rate > HELPED * self._rate
        if waits:
            self._rate = rate
        self._came, self._began, self._used = 0, now, used
        return waits
