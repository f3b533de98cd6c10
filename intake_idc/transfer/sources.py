"""Which mirror serves an object, and which after that one failed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from intake_idc.errors import IDCError, IntegrityError, StorageError
from intake_idc.storage import CONNECTIONS, choice, each, most_threads, reader
from intake_idc.transfer.large import Large, Range, is_large, ranges
from intake_idc.transfer.places import LocalPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from intake_idc.plan import Row
    from intake_idc.storage import Mirror
    from intake_idc.transfer.fetching import Done, Fetcher
    from intake_idc.transfer.s5cmd import S5cmd

__all__ = ["Sources", "most_threads_of"]


def most_threads_of(mirror: Mirror) -> int:
    """Give how many threads are worth it at most, by what carries the bytes."""
    found = most_threads()
    for one in mirror.every:
        if one.engine == "s5cmd":
            found = min(found, _s5cmd().most)
        elif reader(one) == "fsspec" and one.scheme != "file":
            # All requests of such a file system are made by one loop of events.
            found = min(found, CONNECTIONS)
    return found


def _s5cmd() -> type[S5cmd]:
    # Few have it, and it takes some milliseconds to import.
    from intake_idc.transfer.s5cmd import S5cmd

    return S5cmd


class Sources:
    """Fetches objects of a copy from a mirror, or from several. Threads share it.

    An object is of one mirror: where that fails in the middle, another begins anew.

    Parameters
    ----------
    mirror : Mirror
        One, or one that stands for several.
    fetcher : Fetcher
        Fetches from one mirror.

    Raises
    ------
    MissingError
        s5cmd is to carry the bytes, and is not installed.
    """

    def __init__(self, mirror: Mirror, fetcher: Fetcher) -> None:
        self._mirrors, self._fetcher = mirror.every, fetcher
        self._choice = choice(mirror) if mirror.among else None
        self._carriers = {
            one: _s5cmd()(fetcher, one)
            for one in self._mirrors
            if one.engine == "s5cmd" and isinstance(fetcher.place, LocalPlace)
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the mirrors, in the order of `Done.mirror`."""
        return tuple(mirror.name for mirror in self._mirrors)

    def tasks(self, row: Row) -> Iterator[Row | Range]:
        """Give an object as the tasks that it is fetched by."""
        number = self._choice.order()[0] if self._choice is not None else 0
        mirror = self._mirrors[number]
        cache = mirror.cache
        kept = cache is not None and cache.holds(row.name, row.size)
        if kept or mirror in self._carriers or not self._splits(row):
            yield row
        else:
            yield from ranges(Large(self._fetcher, row, mirror))

    def _splits(self, row: Row) -> bool:
        return is_large(row.size) and self._fetcher.place.splits

    def fetch(self, task: Row | Range) -> Done | None:
        """Do one task; None where its object is not done with it.

        Raises
        ------
        IDCError, OSError
            The object is not there.
        """
        if not isinstance(task, Range):
            return self._ask(partial(self._one, task))
        large = task.large
        try:
            done = large.fetch(task.start, task.stop)
        except (StorageError, IntegrityError) as error:
            # Told once, by the last of its ranges.
            if self._choice is None:
                if not isinstance(error, IntegrityError):
                    raise
                return self._fetcher.fetch(large.row, large.mirror)
            self._choice.failed(large.mirror.place or 0)
            return self._ask(partial(self._one, large.row))
        return done and done._replace(mirror=large.mirror.place or 0)

    def _ask(self, fetch: Callable[[Mirror], Done]) -> Done:
        if self._choice is None:
            return fetch(self._mirrors[0])

        def one(number: int) -> Done:
            return fetch(self._mirrors[number])._replace(mirror=number)

        return self._choice.ask(one)

    def _one(self, row: Row, mirror: Mirror) -> Done:
        carrier, again = self._carriers.get(mirror), 0
        if carrier is not None:
            try:
                return carrier.fetch(row)
            except (IDCError, OSError):
                # What s5cmd does not bring, or brings wrong, is fetched as without it.
                again = 1
        if self._choice is None or not self._splits(row):
            done = self._fetcher.fetch(row, mirror)
        else:
            done = self._by_ranges(Large(self._fetcher, row, mirror))
        return done._replace(retries=done.retries + again)

    def _by_ranges(self, large: Large) -> Done:
        """Fetch a large object whole, by ranges side by side."""

        def one(part: Range) -> Done | None:
            return large.fetch(part.start, part.stop)

        return next(done for done in [*each(one, ranges(large))] if done is not None)

    def close(self) -> None:
        """End what was started."""
        for carrier in self._carriers.values():
            carrier.close()
