"""One policy for trying again, whatever carries the bytes.

A store that is busy, or out of reach for a moment, is asked again after a random wait
that grows ("full jitter"), a bounded number of times. One that has served this process
and stops altogether is waited for longer: attempts are counted only while it serves
others. All the process's retries together are bounded as well, so that a store that is
down is not asked more often than one that is up.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypeVar

from intake_idc.errors import (
    AccessDenied,
    ObjectChanged,
    ObjectNotFound,
    StorageError,
    WrongSize,
)

__all__ = [
    "RETRY_SECONDS",
    "Budget",
    "Patience",
    "Retrying",
    "abandon",
    "seconds_of",
    "tally",
]

log = logging.getLogger(__name__)

RETRY_SECONDS = 90.0
"""Seconds that a store is waited for which served before."""

_FINAL = (ObjectNotFound, AccessDenied, ObjectChanged, WrongSize)
"""What another try does not change."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How often a store is asked, and how long it is waited for."""

    attempts: int = 7
    """Attempts at one request, while the store serves others."""
    unreached: int = 5
    """Attempts at a store that has never answered anything."""
    base: float = 0.2
    """Seconds, at most, before the second attempt; twice as many before each other."""
    longest: float = 15.0
    """Seconds, at most, before any attempt."""
    first: float = 10.0
    """Seconds until a store is given up that has never served."""
    served: float = RETRY_SECONDS
    """Seconds until one is given up that served before."""


class Budget:
    """What all retries of a process may cost together.

    Parameters
    ----------
    share : float
        Retries for each request that went well.
    most : float
        Retries that may be saved up, one for each request in flight; as many are
        there at the beginning.
    rate : float
        Retries a second that there are besides, so that the end of an outage is
        noticed.
    clock : callable
        Gives seconds.
    """

    def __init__(
        self,
        share: float = 0.2,
        most: float = 64.0,
        rate: float = 4.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._most, self._rate, self._clock = share, most, rate, clock
        self._left, self._at = most, clock()
        self._lock = threading.Lock()

    def served(self) -> None:
        """Count a request that went well."""
        with self._lock:
            self._left = min(self._most, self._left + self._share)

    def take(self) -> float:
        """Take a retry: 0, or the seconds after which to ask again."""
        with self._lock:
            now = self._clock()
            self._left = min(self._most, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left >= 1:
                self._left -= 1
                return 0.0
            return (1 - self._left) / self._rate


@functools.cache
def _budget(_pid: int) -> Budget:
    return Budget()


_here = threading.local()


def tally() -> int:
    """Give how many requests this thread has made again so far."""
    return int(getattr(_here, "retries", 0))


class _Abandoned:
    """Wakes whoever waits, when what they wait for is given up."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._times = 0

    def times(self) -> int:
        return self._times

    def set(self) -> None:
        with self._condition:
            self._times += 1
            self._condition.notify_all()

    def sleep(self, seconds: float) -> None:
        before = self._times
        with self._condition:
            self._condition.wait_for(lambda: self._times != before, seconds)


@functools.cache
def _abandoned(_pid: int) -> _Abandoned:
    return _Abandoned()


def abandon() -> None:
    """Give up what waits to be tried again; an interrupt would wait for it else."""
    _abandoned(os.getpid()).set()


def _sleep(seconds: float) -> None:
    _abandoned(os.getpid()).sleep(seconds)


class Retrying:
    """Calls a function until it gives a result, or it is time to stop.

    There is one for each store, which so remembers whether it served.

    Parameters
    ----------
    patience : Patience
        When it is time to stop.
    budget : Budget, optional
        The bound of all retries; that of the process by default.
    clock, sleep : callable
        Give the seconds, and wait for some.
    jitter : callable
        Gives a number between 0 and the one it is given.
    """

    def __init__(
        self,
        patience: Patience,
        budget: Budget | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = _sleep,
        jitter: Callable[[float], float] = lambda most: random.uniform(0, most),  # noqa: S311  (not a secret)
    ) -> None:
        self.patience = patience
        self._budget = budget or _budget(os.getpid())
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._served = 0
        self._reached = False

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function, again where that may help.

        Raises
        ------
        StorageError
            What it raised last; ``details["attempts"]`` is how often it was called.
        """
        began = self._clock()
        abandoned = _abandoned(os.getpid()).times()
        attempts = counted = 0
        while True:
            attempts += 1
            served = self._served
            try:
                result = function()
            except StorageError as error:
                error.details["attempts"] = attempts
                if not _is_transient(error):
                    self._reached = True
                    raise
                self._reached = self._reached or "status" in error.details
                # Of a store that serves nobody it is not told apart whether it is
                # down or this one object is: only time does.
                counted += not served or self._served > served
                left = began + self._time() - self._clock()
                if counted >= self._most() or not self._wait(error, attempts, left):
                    raise
                if _abandoned(os.getpid()).times() != abandoned:
                    raise
                _here.retries = tally() + 1
                log.info("attempt %d failed, trying again: %s", attempts, error)
            else:
                self._served += 1
                self._reached = True
                self._budget.served()
                return result

    def _most(self) -> int:
        return self.patience.attempts if self._reached else self.patience.unreached

    def _time(self) -> float:
        return self.patience.served if self._served else self.patience.first

    def _wait(self, error: StorageError, attempts: int, left: float) -> bool:
        """Wait until it may be tried again; False where there is no time for that."""
        asked = float(error.details.get("retry_after", 0.0))
        if left <= 0 or asked > left:
            return False
        most = min(self.patience.longest, self.patience.base * 2 ** (attempts - 1))
        seconds = min(max(asked, self._jitter(most)), left)
        until = self._clock() + left
        while True:
            self._sleep(seconds)
            seconds = self._budget.take()
            if not seconds:
                return True
            if self._clock() + seconds > until:
                return False


def _is_transient(error: StorageError) -> bool:
    return not isinstance(error, _FINAL) and bool(error.details.get("transient", True))


def seconds_of(text: str) -> float:
    """Give the seconds of a ``Retry-After``: a number, or a date (RFC 9110, 10.2.3)."""
    from email.utils import parsedate_to_datetime

    if text.strip().isdecimal():
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    if then.tzinfo is None:
        then = then.replace(tzinfo=timezone.utc)
    return max(0.0, (then - datetime.now(timezone.utc)).total_seconds())
