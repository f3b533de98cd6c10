"""From an identifier to a URL, a listing and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.errors import WrongSize
from intake_idc.storage.engine import Stored
from intake_idc.storage.filesystems import filesystem
from intake_idc.storage.listing import Instance, instances, list_series
from intake_idc.storage.mirror import (
    EngineName,
    Mirror,
    resolve_mirror,
)
from intake_idc.storage.pool import REQUESTS, each
from intake_idc.storage.ranged import Ranged
from intake_idc.storage.saving import save
from intake_idc.storage.store import IN_FLIGHT, Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "IN_FLIGHT",
    "REQUESTS",
    "EngineName",
    "Instance",
    "Mirror",
    "Ranged",
    "Store",
    "Stored",
    "chunks",
    "each",
    "filesystem",
    "instances",
    "list_series",
    "open_store",
    "read_instance",
    "resolve_mirror",
    "save",
]


HELD_WHOLE = 8 << 20
"""Bytes up to which an object is held whole while it is copied."""


def chunks(instance: Instance, mirror: Mirror) -> Iterator[bytes]:
    """Give the bytes of an object as they come, small ones in one piece.

    A stream may cost a request more than a plain read, so it is for objects that are
    better not held whole.
    """
    store = open_store(mirror, instance.part.aws_bucket)
    if instance.size <= HELD_WHOLE:
        yield _whole(store, instance)
    else:
        yield from store.stream(instance.key, instance.etag)


def read_instance(instance: Instance, mirror: Mirror) -> bytes:
    """Read a whole object.

    Raises
    ------
    WrongSize
        The store gave more or fewer bytes than it had listed.
    ObjectChanged
        It is another object than was listed.
    StorageError
        The object cannot be read.
    """
    data = _whole(open_store(mirror, instance.part.aws_bucket), instance)
    if len(data) != instance.size:
        msg = f"{instance.url}: got {len(data)} bytes, listed were {instance.size}"
        raise WrongSize(msg, url=instance.url, got=len(data), expected=instance.size)
    return data


def _whole(store: Store, instance: Instance) -> bytes:
    # What tells no tag with the bytes would cost a request for it.
    etag = instance.etag if store.tells else None
    return store.read(instance.key, etag=etag)
