"""The objects of a series, as a mirror lists them, held against the index."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from intake_idc.errors import (
    IntegrityError,
    ObjectNotFound,
    RequestError,
    StorageError,
)
from intake_idc.storage.choosing import choice, open_store
from intake_idc.storage.pool import each
from intake_idc.storage.threads import Threads, most_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from intake_idc.errors import IDCError
    from intake_idc.manifest import Part
    from intake_idc.storage.mirror import Mirror

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
    ahead = threading.Semaphore(LISTED_AHEAD)
    threads: Threads[tuple[int, Part], tuple[int, Listed]]
    threads = Threads(partial(_told, mirror=mirror), most_threads())
    waiting: dict[int, Listed] = {}
    following = 0

    def look() -> None:
        if ended() is not None:
            threads.stopped.set()

    for number, found in threads.run(_numbered(parts, ahead, threads.stopped), look):
        waiting[number] = found
        while following in waiting:
            ahead.release()
            yield waiting.pop(following)
            following += 1
    for number in range(following, len(parts)):
        url = mirror.series_url(parts[number])
        unasked = StorageError(f"{url} was not listed: {ended()}", url=url)
        yield waiting.get(number) or Listed((), (unasked,))


def _numbered(
    parts: Iterable[Part], ahead: threading.Semaphore, stopped: threading.Event
) -> Iterator[tuple[int, Part]]:
    """Give parts with their numbers, not too far ahead of those that were taken."""
    for numbered in enumerate(parts):
        while not ahead.acquire(timeout=0.1):
            if stopped.is_set():
                return
        yield numbered


def _told(item: tuple[int, Part], mirror: Mirror) -> tuple[int, Listed]:
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
    for name in (part.crdc_series_uuid, part.aws_bucket):
        if not PLAIN_NAME.fullmatch(name):
            msg = f"{name!r} is no name of a series or a bucket; nothing is looked for"
            raise RequestError(msg, name=name)
    if part.objects is not None:
        return _known(part, mirror)
    if mirror.among:
        every = mirror.every
        return choice(mirror).ask(lambda number: _found(part, every[number], mirror))
    return _found(part, mirror, mirror)


def _found(
    part: Part, asked: Mirror, mirror: Mirror
) -> tuple[list[Instance], list[ObjectNotFound]]:
    """List a part at one mirror, with the URLs that it has at the first of several."""
    prefix = f"{part.crdc_series_uuid}/"
    root = mirror.bucket_root(part.aws_bucket)
    found = [
        Instance(part, stored.key, stored.size, f"{root}/{stored.key}", stored.etag)
        for stored in open_store(asked, part.aws_bucket).list(prefix)
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
