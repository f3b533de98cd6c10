"""From an identifier to a URL, a listing and bytes."""

from __future__ import annotations

from intake_idc.errors import WrongSize
from intake_idc.storage.choosing import choice, open_store
from intake_idc.storage.engine import Stored, check_same, check_told, same_version
from intake_idc.storage.filesystems import CONNECTIONS, filesystem
from intake_idc.storage.kept import ObjectCache
from intake_idc.storage.listing import (
    Instance,
    Listed,
    instances,
    list_all,
    list_series,
)
from intake_idc.storage.mirror import (
    AnyMirror,
    EngineName,
    Mirror,
    resolve_mirror,
)
from intake_idc.storage.pool import REQUESTS, each
from intake_idc.storage.ranged import Ranged
from intake_idc.storage.retrying import tally
from intake_idc.storage.saving import save
from intake_idc.storage.store import IN_FLIGHT, Store, reader
from intake_idc.storage.threads import most_threads
from intake_idc.storage.together import (
    Answers,
    StoppedError,
    Together,
    Ways,
    gather,
    most_together,
)

__all__ = [
    "CONNECTIONS",
    "IN_FLIGHT",
    "REQUESTS",
    "Answers",
    "AnyMirror",
    "EngineName",
    "Instance",
    "Listed",
    "Mirror",
    "ObjectCache",
    "Ranged",
    "StoppedError",
    "Store",
    "Stored",
    "Together",
    "Ways",
    "check_same",
    "check_told",
    "choice",
    "each",
    "filesystem",
    "gather",
    "instances",
    "list_all",
    "list_series",
    "most_threads",
    "most_together",
    "open_store",
    "read_instance",
    "reader",
    "resolve_mirror",
    "same_version",
    "save",
    "tally",
]


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
    cache, uuid = mirror.cache, instance.crdc_instance_uuid
    kept = cache.read(uuid, instance.size) if cache is not None else None
    if kept is not None:
        return kept
    if mirror.among:
        ask = choice(mirror).ask
        data = ask(lambda number: _read(instance, mirror.every[number]))
    else:
        data = _read(instance, mirror)
    if cache is not None:
        cache.put(uuid, data, instance.md5)
    return data


def _read(instance: Instance, mirror: Mirror) -> bytes:
    store = open_store(mirror, instance.part.aws_bucket)
    # What tells no tag with the bytes would cost a request for it.
    etag = instance.etag if store.tells else None
    data = store.read(instance.key, etag=etag)
    if len(data) != instance.size:
        msg = f"{instance.url}: got {len(data)} bytes, listed were {instance.size}"
        raise WrongSize(msg, url=instance.url, got=len(data), expected=instance.size)
    return data
