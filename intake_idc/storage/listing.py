"""The objects of a series, as a mirror lists them, held against the index."""

from __future__ import annotations

import re
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import quote
from uuid import UUID

from intake_idc.errors import (
    IntegrityError,
    ObjectNotFound,
    RequestError,
    StorageError,
)
from intake_idc.storage.choosing import choice, open_store
from intake_idc.storage.pages import listed
from intake_idc.storage.pool import each
from intake_idc.storage.threads import most_threads
from intake_idc.storage.together import (
    DONE,
    LATER,
    Answers,
    Ways,
    gather,
    most_together,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from intake_idc.errors import IDCError
    from intake_idc.manifest import Part
    from intake_idc.storage.engine import Data, Stored
    from intake_idc.storage.mirror import Mirror
    from intake_idc.storage.together import Together

    Numbered = tuple[int, Part]

__all__ = ["Instance", "Listed", "instances", "list_all", "list_series"]

PLAIN_NAME = re.compile(r"\w[\w.-]*")
"""What stays in its folder, whatever store it is in."""


@dataclass(frozen=True)
class Instance:
    """One DICOM object of a series, as a mirror lists it."""

    part: Part
    """The series, or run of it, that the object belongs to."""
    key: str
    """Key below the bucket's root: ``<crdc_series_uuid>/<crdc_instance_uuid>.dcm``."""
    size: int
    """Bytes."""
    url: str
    """Full URL or path."""
    etag: str | None = None
    """Entity tag, where the store gives one."""
    md5: str | None = None
    """MD5 in hex, where the release says it."""

    @property
    def crdc_instance_uuid(self) -> str:
        """IDC's identifier of the object."""
        return self.key.rsplit("/", 1)[1].removesuffix(".dcm")


def instances(parts: Iterable[Part], mirror: Mirror) -> list[Instance]:
    """List the objects of each part, and hold the listing against the index.

    A part that knows its objects is not listed: they were held against the index
    when it got to know them.

    A listing that is short, long or of another size than the index says is an
    error, never a smaller cohort: count and bytes of a series are exact there. Where
    only some objects of a series are meant, the series is listed and checked all the
    same, and then those are taken.

    Returns
    -------
    list of Instance
        In the order of the parts, and of the keys within a series.

    Raises
    ------
    ObjectNotFound
        The mirror holds no object of a series, or lacks one that is meant.
    IntegrityError
        A listing and the index differ in count or bytes.
    StorageError
        The mirror cannot be listed.
    """
    listed = each(partial(_list, mirror=mirror), parts)
    return [instance for found in listed for instance in found]


class Listed(NamedTuple):
    """One series, as a mirror lists it."""

    instances: Sequence[Instance]
    """Its objects; none where the listing is not what the index says."""
    errors: tuple[IDCError, ...] = ()
    """Why it could not be listed, what its listing has against the index, or which
    objects that are meant it lacks."""


MOST_PAGE = 16 << 20
"""Bytes that a page of a listing may have: 1,000 keys are about 0.3 MB."""
LISTED_AHEAD = 1024
"""Series that may be listed while one before them is still waited for."""


def list_all(
    parts: Sequence[Part],
    mirror: Mirror,
    ended: Callable[[], str | None] = lambda: None,
) -> Generator[Listed, None, None]:
    """List every part as `instances` does; what fails is told in its place.

    Parameters
    ----------
    parts : sequence of Part
        What is listed.
    mirror : Mirror
        Where.
    ended : callable
        Asked now and then; what it gives says why parts are listed no more.

    Raises
    ------
    RequestError
        A part has a name that no series or bucket can have.
    """
    ahead, stopped = threading.Semaphore(LISTED_AHEAD), threading.Event()
    waiting: dict[int, Listed] = {}
    following = 0

    def look() -> None:
        if ended() is not None:
            stopped.set()

    ways: Ways[Numbered, tuple[int, Listed]] = Ways(
        partial(_page, mirror=mirror),
        partial(_told, mirror=mirror),
        lambda told: told,
        lambda told: bool(told[1].instances),
    )
    running = gather(
        _numbered(parts, ahead),
        mirror,
        ways,
        answers=Answers(0),
        most=(most_together(), most_threads()),
        latency=lambda: None,
        stopped=stopped,
        look=look,
    )
    # Its threads end with it.
    with closing(running):
        for number, found in running:
            waiting[number] = found
            while following in waiting:
                ahead.release()
                yield waiting.pop(following)
                following += 1
    for number in range(following, len(parts)):
        url = mirror.series_url(parts[number])
        unasked = StorageError(f"{url} was not listed: {ended()}", url=url)
        yield waiting.get(number) or Listed((), (unasked,))


def _numbered(parts: Iterable[Part], ahead: threading.Semaphore) -> Iterator[Numbered]:
    """Give parts with their numbers, not too far ahead of those that were taken."""
    for numbered in enumerate(parts):
        while not ahead.acquire(blocking=False):
            yield LATER
        yield numbered


def _page(
    together: Together[Numbered, tuple[int, Listed]], item: Numbered, mirror: Mirror
) -> _Page | None:
    """Give the request for the first page of a listing."""
    number, part = item
    _check_names(part)
    if part.objects is not None:
        together.tell(_told((number, part), mirror))
        return cast("None", DONE)
    if "/" in together.mirror.bucket_root(part.aws_bucket).split("://", 1)[1]:
        return None
    return _Page(together, item, mirror)


class _Page:
    """A page of the listing of a series, and those before it; see `Request`."""

    start, stop = 0, None

    def __init__(
        self,
        together: Together[Numbered, tuple[int, Listed]],
        item: Numbered,
        mirror: Mirror,
        before: tuple[Stored, ...] = (),
        token: str = "",
    ) -> None:
        self._together, self._item, self._mirror = together, item, mirror
        self._before, self._token, self._data = before, token, bytearray()
        self.bucket, self.key = item[1].aws_bucket, f"{item[1].crdc_series_uuid}/"
        more = f"&continuation-token={quote(token, safe='')}" if token else ""
        self.query = f"list-type=2&prefix={quote(self.key, safe='')}{more}"

    def take(self, pieces: Sequence[Data]) -> bool:
        """Take the bytes that follow."""
        self._data += b"".join(pieces)
        return len(self._data) <= MOST_PAGE

    def end(self, etag: str | None, error: StorageError | None) -> None:
        """Go on with the next page, or tell of the series."""
        del etag
        together, (number, part) = self._together, self._item
        asked = together.mirror
        try:
            if error is not None:
                raise error
            found, token = listed(bytes(self._data), asked.series_url(part))
            if asked.place:
                found = [replace(one, etag=asked.tag(one.etag)) for one in found]
            every = (*self._before, *found)
            if token and self._is_endless(token, len(every)):
                # To ask with patience would never end either.
                url = asked.series_url(part)
                msg = f"{url} lists {len(every)} objects, and says that others follow"
                endless = IntegrityError(msg, url=url, count=len(every))
                together.tell((number, Listed((), (endless,))))
                return
            if token:
                following = _Page(together, self._item, self._mirror, every, token)
                together.follow(following)
                return
            those, lacking = _of(part, sorted(every, key=_key), asked, self._mirror)
        except (StorageError, IntegrityError) as problem:
            together.leave(self._item, problem)
        else:
            told = number, Listed(those, tuple(lacking))
            together.came(told, part.aws_bucket)

    def _is_endless(self, token: str, count: int) -> bool:
        """Whether pages lead to themselves, or to more objects than there are."""
        known = self._item[1].instanceCount
        return token == self._token or (known is not None and count > known)


def _key(found: Stored) -> str:
    return found.key


def _told(item: Numbered, mirror: Mirror) -> tuple[int, Listed]:
    number, part = item
    try:
        found, lacking = list_series(part, mirror)
    except (StorageError, IntegrityError) as error:
        return number, Listed((), (error,))
    return number, Listed(found, tuple(lacking))


def _list(part: Part, mirror: Mirror) -> list[Instance]:
    found, lacking = list_series(part, mirror)
    if lacking:
        raise lacking[0]
    return found


def list_series(
    part: Part, mirror: Mirror
) -> tuple[list[Instance], list[ObjectNotFound]]:
    """List one part as `instances` does, and say which that are meant it lacks."""
    _check_names(part)
    if part.objects is not None:
        return _known(part, mirror)
    if mirror.among:
        every = mirror.every
        return choice(mirror).ask(lambda number: _found(part, every[number], mirror))
    return _found(part, mirror, mirror)


def _check_names(part: Part) -> None:
    for name in (part.crdc_series_uuid, part.aws_bucket):
        if not PLAIN_NAME.fullmatch(name):
            msg = f"{name!r} is no name of a series or a bucket; nothing is looked for"
            raise RequestError(msg, name=name)


def _found(
    part: Part, asked: Mirror, mirror: Mirror
) -> tuple[list[Instance], list[ObjectNotFound]]:
    """List a part at one mirror, with the URLs that it has at the first of several."""
    every = open_store(asked, part.aws_bucket).list(f"{part.crdc_series_uuid}/")
    return _of(part, every, asked, mirror)


def _of(
    part: Part, every: Iterable[Stored], asked: Mirror, mirror: Mirror
) -> tuple[list[Instance], list[ObjectNotFound]]:
    """Hold what a mirror listed of a part against the index."""
    prefix = f"{part.crdc_series_uuid}/"
    root = mirror.bucket_root(part.aws_bucket)
    found = [
        Instance(part, stored.key, stored.size, f"{root}/{stored.key}", stored.etag)
        for stored in every
        if stored.key.startswith(prefix) and stored.key.endswith(".dcm")
    ]
    _check(part, found, asked)
    if part.only is not None:
        return _meant(part, found, mirror)
    return found[part.first_instance : part.last_instance], []


def _known(part: Part, mirror: Mirror) -> tuple[list[Instance], list[ObjectNotFound]]:
    root = mirror.bucket_root(part.aws_bucket)
    # An instance carries its series, but not the other objects of it.
    bare = replace(part, objects=None)
    found: list[Instance] = []
    for row in part.objects.to_pylist() if part.objects is not None else ():
        key = f"{part.crdc_series_uuid}/{UUID(bytes=row['uuid'])}.dcm"
        md5 = row["md5"].hex() if row["md5"] is not None else None
        found.append(Instance(bare, key, row["size"], f"{root}/{key}", None, md5))
    return (found, []) if part.only is None else _meant(part, found, mirror)


def _meant(
    part: Part, found: list[Instance], mirror: Mirror
) -> tuple[list[Instance], list[ObjectNotFound]]:
    """Give those of a series' objects that are meant, in the order of their keys."""
    by_key = {instance.key: instance for instance in found}
    # An instance carries its series, but not the names of the others.
    bare = replace(part, objects=None, only=None, first_instance=0, last_instance=None)
    meant: list[Instance] = []
    lacking: list[ObjectNotFound] = []
    uuids = part.only.to_pylist() if part.only is not None else []
    for uuid in uuids[part.first_instance : part.last_instance]:
        name = UUID(bytes=uuid)
        key = f"{part.crdc_series_uuid}/{name}.dcm"
        if key not in by_key:
            url = f"{mirror.bucket_root(part.aws_bucket)}/{key}"
            msg = (
                f"{url} is not among the {len(found)} objects of its series; the uuid "
                "is that of no instance, or of one of another series or release"
            )
            lacking.append(ObjectNotFound(msg, url=url, crdc_instance_uuid=str(name)))
        else:
            meant.append(replace(by_key[key], part=bare))
    return meant, lacking


def _check(part: Part, found: list[Instance], mirror: Mirror) -> None:
    where = mirror.series_url(part)
    if not found:
        msg = f"mirror {mirror.name!r} holds no object of series {where}"
        raise ObjectNotFound(msg, url=where)
    count, size = len(found), sum(instance.size for instance in found)
    unlike = part.unlike(count, size)
    if unlike is not None:
        msg = f"{where} lists {unlike}"
        raise IntegrityError(msg, url=where, count=count, size=size)
