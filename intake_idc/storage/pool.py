"""One bounded pool of threads for requests, shared by the whole process."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from intake_idc.storage.retrying import abandon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["REQUESTS", "alone", "each"]

REQUESTS = 32
"""Calls in flight in one process, and as many again for what they call: 16 to 64
measure the same at 30 ms. Of requests there are never more than `store.IN_FLIGHT`."""
LEVELS = 2
"""How deep `each` may call itself side by side: objects, and ranges of an object."""

_here = threading.local()

Item = TypeVar("Item")
Result = TypeVar("Result")


@functools.cache
def _pool(_pid: int, level: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        REQUESTS,
        thread_name_prefix=f"intake-idc-{level}",
        initializer=_enter,
        initargs=(level + 1,),
    )


def _enter(level: int) -> None:
    _here.level = level


def alone() -> None:
    """Say that this thread is one of many: what it calls has the inner pool."""
    _enter(1)


def each(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = REQUESTS
) -> Iterator[Result]:
    """Call a function on every item at once, and give the results in order.

    At most ``ahead`` results wait to be taken, so that memory stays bounded. The
    first error is raised in its place, and what has not begun is given up. A function
    that calls `each` itself has a pool of its own for that, so that no thread waits
    for its own; deeper than that, calls are made one after the other.
    """
    level = getattr(_here, "level", 0)
    if level >= LEVELS:
        yield from map(function, items)
        return
    pool = _pool(os.getpid(), level)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except KeyboardInterrupt:
        # What waits to be tried again would hold up the end of the process.
        abandon()
        raise
    finally:
        for future in waiting:
            future.cancel()
