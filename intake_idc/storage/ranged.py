"""Ranges of one object, all of one version of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.errors import StorageError
from intake_idc.storage.engine import open_store
from intake_idc.storage.pool import each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intake_idc.storage.listing import Instance
    from intake_idc.storage.mirror import Mirror

__all__ = ["Ranged"]

FEWEST_BYTES = 16 * 1024
"""What a request is worth: an object may be asked for as often as it holds this."""
FREE_REQUESTS = 64
"""Requests that any object may cost."""


class Ranged:
    """Reads ranges of one object.

    From the second range on, every one is held against the entity tag that was
    listed: an object that is replaced in between is an error, and never a mixture. An
    object that makes its reader ask again and again is given up.
    """

    def __init__(self, instance: Instance, mirror: Mirror) -> None:
        self.instance = instance
        self.requests = 0
        """Ranges that were asked for."""
        self._store = open_store(mirror, instance.part.aws_bucket)
        self._most = FREE_REQUESTS + 3 * (instance.size // FEWEST_BYTES)

    def read(self, start: int, stop: int) -> bytes:
        """Give the bytes of one range.

        Raises
        ------
        StorageError
            They cannot be read, or the object is another by now.
        """
        self._count(1)
        return self._read(start, stop, self.requests > 1)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Give the bytes of some ranges, read side by side."""
        if len(ranges) == 1:
            return [self.read(*ranges[0])]
        self._count(len(ranges))
        return list(each(lambda one: self._read(*one, checked=True), ranges))

    def _read(self, start: int, stop: int, checked: bool) -> bytes:
        etag = self.instance.etag if checked else None
        return self._store.read(self.instance.key, start, stop, etag)

    def _count(self, many: int) -> None:
        self.requests += many
        if self.requests > self._most:
            url = self.instance.url
            msg = f"{url}: more than {self._most} requests for one object"
            raise StorageError(msg, url=url)
