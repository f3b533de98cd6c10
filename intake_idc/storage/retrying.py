"""One policy for trying again, whatever carries the bytes.

A store that is busy, or out of reach for a moment, is asked again after a random wait
that grows ("full jitter"), a bounded number of times. One that has served this process
and stops altogether is waited for longer: attempts are counted only while it serves
others. All the process's retries together are bounded as well, so that a store that is
down is not asked more often than one that is up. One that was waited for in vain for
several requests is given up: those that follow fail at once, until it serves again.
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
    "Breaker",
    "Budget",
    "Patience",
    "Retrying",
    "abandon",
    "give_up_with",
    "is_given_up",
    "is_transient",
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
    outlasts: bool = True
    """Whether attempts are not counted at a store that served and serves nobody now."""
    vain: int = 8
    """Requests in a row that were waited for in vain, after which the store is given
    up for those that follow."""
    rest: float = 5.0
    """Seconds, at most, until it is tried again whether it serves."""


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


class Breaker:
    """Gives up a store that serves nobody, and finds out when it serves again.

    It is closed until requests failed in a row, each after all its patience. Then most
    fail at once. One is sent now and then, once and alone, while others wait for what
    becomes of it: the first at once, another after one more request, after two, after
    four and so on, or when some seconds have passed. So a store that is down costs few
    requests however many objects there are, and some objects in a row that nobody can
    read do not cost many others.

    Parameters
    ----------
    most : int
        Requests in a row.
    rest : float
        Seconds.
    clock : callable
        Gives seconds.
    """

    def __init__(self, most: int, rest: float, clock: Callable[[], float]) -> None:
        self._most, self._rest, self._clock = most, rest, clock
        self._changed = threading.Condition()
        self._vain = self._skip = self._skipped = 0
        self._trying, self._tried = False, -rest
        self._last: StorageError | None = None

    def is_trial(self) -> bool:
        """Whether a request is to be sent once, to see whether the store serves.

        Raises
        ------
        StorageError
            The store is given up, and this is none to try it with.
        """
        if self._vain < self._most:
            return False
        with self._changed:
            waited = self._trying
            self._changed.wait_for(lambda: not self._trying)
            if self._vain < self._most:
                return False
            now = self._clock()
            rested = now - self._tried >= self._rest
            if waited or (self._skipped < self._skip and not rested):
                self._skipped += 1
                raise self._given_up()
            self._trying, self._tried = True, now
            self._skip, self._skipped = 2 * self._skip or 1, 0
            return True

    def tried(self) -> None:
        """Say that the trial is over."""
        with self._changed:
            self._trying, self._tried = False, self._clock()
            self._changed.notify_all()

    def served(self) -> None:
        """Say that the store answered."""
        if self._vain:
            with self._changed:
                self._vain = self._skip = self._skipped = 0

    def failed(self, error: StorageError) -> None:
        """Say that a request was waited for in vain."""
        with self._changed:
            self._vain += 1
            self._last = error

    def _given_up(self) -> StorageError:
        msg = (
            f"the store is given up, after {self._vain} requests in a row that were "
            f"waited for in vain; the last: {self._last}"
        )
        return StorageError(msg, transient=False, attempts=0)


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


def give_up_with(stopped: threading.Event) -> None:
    """Say what ends the waits of this thread: those of others go on then."""
    _here.stopped = stopped


def _sleep(seconds: float) -> None:
    stopped: threading.Event | None = getattr(_here, "stopped", None)
    if stopped is not None:
        stopped.wait(seconds)
    else:
        _abandoned(os.getpid()).sleep(seconds)


def _is_stopped() -> bool:
    stopped: threading.Event | None = getattr(_here, "stopped", None)
    return stopped is not None and stopped.is_set()


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
        self._breaker = Breaker(patience.vain, patience.rest, clock)

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function, again where that may help.

        Raises
        ------
        StorageError
            What it raised last; ``details["attempts"]`` is how often it was called,
            which is 0 where the store was given up before.
        """
        if not self._breaker.is_trial():
            return self._call(function)
        try:
            return self._call(function, once=True)
        finally:
            self._breaker.tried()

    def _call(self, function: Callable[[], Result], *, once: bool = False) -> Result:
        began, first = self._clock(), self._served
        abandoned = _abandoned(os.getpid()).times()
        attempts = counted = 0
        while True:
            attempts += 1
            served = self._served
            try:
                result = function()
            except StorageError as error:
                error.details["attempts"] = attempts
                if not is_transient(error):
                    self._reached = True
                    self._breaker.served()
                    raise
                self._reached = self._reached or "status" in error.details
                # Of a store that serves nobody it is not told apart whether it is
                # down or this one object is: only time does.
                outage = self.patience.outlasts and served
                counted += not outage or self._served > served
                left = began + self._time() - self._clock()
                spent = once or counted >= self._most()
                if spent or not self._wait(error, attempts, left):
                    if self._served == first:
                        self._breaker.failed(error)
                    raise
                if _is_stopped() or _abandoned(os.getpid()).times() != abandoned:
                    raise
                _here.retries = tally() + 1
                log.info("attempt %d failed, trying again: %s", attempts, error)
            else:
                self.answered()
                return result

    def answered(self) -> None:
        """Count a request that went well."""
        self._served += 1
        self._reached = True
        self._budget.served()
        self._breaker.served()

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


def is_transient(error: StorageError) -> bool:
    """Whether another try may change it."""
    return not isinstance(error, _FINAL) and bool(error.details.get("transient", True))


def is_given_up(error: StorageError) -> bool:
    """Whether it was not even sent, for the store is given up."""
    return error.details.get("attempts") == 0


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
