"""Several mirrors of the same objects: where one fails, another is asked.

A mirror among several is given up sooner than one that is alone: after three attempts,
or five seconds. What none of them serves is asked for again as with a single mirror,
so that an outage of all of them is survived as well. One that fails again and again is
asked last for a while.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from intake_idc.errors import IDCError, IntegrityError, ObjectNotFound, StorageError
from intake_idc.storage.engine import CHUNK, Answer, same_version
from intake_idc.storage.retrying import (
    Patience,
    Retrying,
    is_given_up,
    is_transient,
)
from intake_idc.storage.store import Store, open_single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from intake_idc.storage.engine import Data, Stored
    from intake_idc.storage.mirror import Mirror

    Found = TypeVar("Found")

__all__ = ["Choice", "choice", "open_store"]

TROUBLE = 5
"""Failures in a row after which a mirror is asked last."""
REST_SECONDS = 30.0
"""Seconds that it is asked last, until one request sees whether it is back."""

Result = TypeVar("Result")


class Choice:
    """Whom of several mirrors to ask first. Threads share it.

    Parameters
    ----------
    mirrors : tuple of Mirror
        In the order in which they are asked.
    patience : Patience
        How long all of them together are waited for.
    clock : callable
        Gives seconds.
    """

    def __init__(
        self,
        mirrors: tuple[Mirror, ...],
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mirrors = mirrors
        self._retrying = Retrying(patience)
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = [0] * len(mirrors)
        self._rests = [0.0] * len(mirrors)

    def order(self) -> list[int]:
        """Give the mirrors by their numbers, those in trouble last.

        One whose rest is over is asked first again by one caller, while the others
        wait for what becomes of that.
        """
        now = self._clock()
        with self._lock:
            resting = []
            for number, failures in enumerate(self._failures):
                if failures < TROUBLE:
                    continue
                if now >= self._rests[number]:
                    self._rests[number] = now + REST_SECONDS
                else:
                    resting.append(number)
        return [n for n in range(len(self.mirrors)) if n not in resting] + resting

    def ask(self, function: Callable[[int], Result]) -> Result:
        """Call a function with the numbers of mirrors, until one of them serves.

        Raises
        ------
        IDCError
            None does; the message has what each says.
        """
        return self._retrying.call(lambda: self._round(function))

    def _round(self, function: Callable[[int], Result]) -> Result:
        failures: dict[int, IDCError] = {}
        for number in self.order():
            try:
                found = function(number)
            except (StorageError, IntegrityError) as error:  # noqa: PERF203  (a request)
                failures[number] = error
                # To lack an object is no trouble of the mirror.
                if not isinstance(error, ObjectNotFound):
                    self.failed(number)
            else:
                self._serves(number)
                return found
        raise self._joined(failures)

    def _serves(self, number: int) -> None:
        with self._lock:
            self._failures[number] = 0

    def answered(self, number: int) -> None:
        """Note a request that went well and was sent past it; see `Multi`."""
        self._serves(number)
        self._retrying.answered()

    def failed(self, number: int) -> None:
        """Note that a mirror did not serve."""
        with self._lock:
            self._failures[number] += 1
            if self._failures[number] == TROUBLE:
                self._rests[number] = self._clock() + REST_SECONDS

    def _joined(self, failures: dict[int, IDCError]) -> IDCError:
        """Give one error for all: that which another try may change, else the first.

        That there is no such object it is only where every mirror says so.
        """
        errors = [failures[number] for number in sorted(failures)]
        open_ends = [
            error
            for error in errors
            if isinstance(error, StorageError)
            and (is_transient(error) or is_given_up(error))
        ]
        others = [error for error in errors if not isinstance(error, ObjectNotFound)]
        main = (open_ends or others or errors)[0]
        said = [
            f"{self.mirrors[number].name}: {failures[number]}"
            for number in sorted(failures)
            if failures[number] is not main
        ]
        # One that was given up sooner than a single one is waited for like that.
        again = {"transient": True} if open_ends else {}
        details = {**main.details, **again}
        joined = type(main)("; ".join([str(main), *said]), **details)
        joined.__cause__ = main
        return joined


def choice(mirror: Mirror) -> Choice:
    """Give the choice among the mirrors of one; one for each process and mirror."""
    return _choice(os.getpid(), mirror)


@functools.lru_cache(maxsize=64)
def _choice(_pid: int, mirror: Mirror) -> Choice:
    wait = mirror.retry_timeout
    patience = Patience(attempts=3, first=min(Patience.first, wait), served=wait)
    return Choice(mirror.every, patience)


class Several(Store):
    """One bucket of several mirrors, which stand in for each other.

    Tags say which mirror they are of, see `engine.same_version`.
    """

    def __init__(self, mirror: Mirror, aws_bucket: str) -> None:
        self._choice = choice(mirror)
        self._stores = [open_single(one, aws_bucket) for one in mirror.every]
        self._root = mirror.bucket_root(aws_bucket)
        self.tells = True
        self.holds = max(store.holds for store in self._stores)

    @property
    def latency(self) -> float | None:
        """Seconds of the fastest listing so far, of any of them."""
        found = [store.latency for store in self._stores if store.latency]
        return min(found, default=None)

    def list(self, prefix: str) -> list[Stored]:
        """List the objects below a prefix, in order of their keys."""
        return self._first(lambda store: store.list(prefix), [], prefix)

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Give the names of the folders right below a prefix, sorted."""
        return self._first(lambda store: store.folders(prefix), (), prefix)

    def _first(
        self, listed: Callable[[Store], Found], nothing: Found, prefix: str
    ) -> Found:
        """Give what the first mirror lists that has something there."""

        def one(number: int) -> Found:
            found = listed(self._stores[number])
            if not found:
                url = f"{self._root}/{prefix}"
                raise ObjectNotFound(f"no object at {url}", url=url)
            return found

        try:
            return self._choice.ask(one)
        except ObjectNotFound:
            return nothing

    def get(self, key: str, start: int = 0, stop: int | None = None) -> Answer:
        """Read bytes ``start`` to ``stop``, with the version that they are of."""

        def one(number: int) -> Answer:
            store = self._stores[number]
            found = store.get(key, start, stop)
            if store.tells:
                return found
            return found._replace(etag=store.tag(key))

        return self._choice.ask(one)

    def tag(self, key: str) -> str | None:
        """Give the tag that an object has now, at a mirror that has it."""
        return self._choice.ask(lambda number: self._stores[number].tag(key))

    def stream(
        self,
        key: str,
        etag: str | None = None,
        start: int = 0,
        stop: int | None = None,
        chunk: int = CHUNK,
    ) -> Iterator[Data]:
        """Read bytes ``start`` to ``stop`` (None: the end) in pieces of some size.

        Where a mirror fails, another goes on at the byte that it came to, if it is
        known to hold the same version of the object.
        """
        done = start

        def begun(number: int) -> tuple[int, Iterator[Data], Data | None]:
            store = self._stores[number]
            if done > start and not same_version(etag, store.tag(key)):
                url = f"{self._root}/{key}"
                msg = f"{url}: whether it is the same object here cannot be told"
                raise StorageError(msg, url=url, transient=False)
            pieces = store.stream(key, etag, done, stop, chunk)
            return number, pieces, next(pieces, None)

        number, pieces, found = self._choice.ask(begun)
        while found is not None:
            done += len(found)
            yield found
            try:
                found = next(pieces, None)
            except StorageError:
                self._choice.failed(number)
                number, pieces, found = self._choice.ask(begun)


def open_store(mirror: Mirror, aws_bucket: str) -> Store:
    """Open the store of a bucket; one for each process, bucket and mirror."""
    if mirror.among:
        return _several(os.getpid(), mirror, aws_bucket)
    return open_single(mirror, aws_bucket)


@functools.lru_cache(maxsize=64)
def _several(_pid: int, mirror: Mirror, aws_bucket: str) -> Several:
    return Several(mirror, aws_bucket)
