"""Ranges of one object, all of one version of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.errors import ObjectChanged, StorageError, WrongSize
from intake_idc.storage.choosing import open_store
from intake_idc.storage.engine import check_same, same_version
from intake_idc.storage.pool import each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intake_idc.storage.engine import Answer
    from intake_idc.storage.listing import Instance
    from intake_idc.storage.mirror import Mirror

__all__ = ["Ranged"]

FEWEST_BYTES = 16 * 1024
"""What a request is worth: an object may be asked for as often as it holds this."""
FREE_REQUESTS = 64
"""Requests that any object may cost."""


class Ranged:
    """Reads ranges of one object.

    Every range is held against the entity tag that was listed, or that the first one
    had: an object that is replaced in between is an error, and never a mixture. Where
    a file system does not tell the tag with the bytes, it is asked for it once after
    each batch but the first. An object that makes its reader ask again and again is
    given up. Of an object that the mirror's cache holds, ranges are those of its file.

    Parameters
    ----------
    instance : Instance
        The object, as it was listed.
    mirror : Mirror
        Where it is read.
    known : bool
        Something of it was read before, so that the first batch is not the first.
    """

    def __init__(
        self, instance: Instance, mirror: Mirror, *, known: bool = False
    ) -> None:
        self.instance = instance
        self.requests = 0
        """Ranges that were asked for."""
        self._store = open_store(mirror, instance.part.aws_bucket)
        self._cache = mirror.cache
        self._most = FREE_REQUESTS + 3 * (instance.size // FEWEST_BYTES)
        self.etag = instance.etag
        """Tag of the version that is read, once it is known."""
        self._read = self.etag if known else None
        self._begun = known

    def read(self, start: int, stop: int) -> bytes:
        """Give the bytes of one range; fewer only where the object ends.

        Raises
        ------
        ObjectChanged
            The object is another by now.
        WrongSize
            Another number of bytes came than the object has there.
        StorageError
            They cannot be read.
        """
        return self.read_many([(start, stop)])[0]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Give the bytes of some ranges, read side by side."""
        begun, self._begun = self._begun or len(ranges) > 1, True
        self._count(len(ranges))
        uuid, size = self.instance.crdc_instance_uuid, self.instance.size
        kept = self._cache.read_many(uuid, size, ranges) if self._cache else None
        if kept is not None:
            return kept
        if len(ranges) == 1:
            found = [self._one(ranges[0])]
        else:
            found = list(each(self._one, ranges))
        for answer in found:
            self._hold(answer.etag)
        if found and begun and not self._store.tells and self.etag is not None:
            self._hold(self._store.tag(self.instance.key))
        data = [bytes(answer.data) for answer in found]
        if self._cache and len(data) == 1 and len(data[0]) == size:
            self._cache.put(uuid, data[0], self.instance.md5)
        return data

    def _one(self, wanted: tuple[int, int]) -> Answer:
        start, stop = wanted
        found = self._store.get(self.instance.key, start, stop)
        expected = max(0, min(stop, self.instance.size) - start)
        if len(found.data) != expected:
            url, got = self.instance.url, len(found.data)
            msg = (
                f"{url}: got {got} bytes from {start} on, expected were {expected}; "
                f"the object was listed with {self.instance.size}"
            )
            raise WrongSize(msg, url=url, got=got, expected=expected)
        return found

    def _hold(self, tag: str | None) -> None:
        """Hold a tag against that of the version that is read; the first sets it."""
        check_same(self.instance.url, self.etag, tag)
        if self._read and tag and same_version(self._read, tag) is None:
            url = self.instance.url
            msg = (
                f"{url}: another mirror took over, and whether it holds the same "
                "version cannot be told; read the object anew"
            )
            raise ObjectChanged(msg, url=url, expected=self._read, got=tag)
        self._read = self._read or tag
        self.etag = tag if same_version(self.etag, tag) is None and tag else self.etag

    def _count(self, many: int) -> None:
        self.requests += many
        if self.requests > self._most:
            url = self.instance.url
            msg = f"{url}: more than {self._most} requests for one object"
            raise StorageError(msg, url=url)
