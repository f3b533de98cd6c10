"""Bytes of one object of ``idc://``: a range, or the whole as a file."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from intake_idc.errors import WrongSize
from intake_idc.storage import open_store, save

if TYPE_CHECKING:
    from pathlib import Path

    from fsspec.callbacks import Callback

    from intake_idc.storage import Mirror

__all__ = ["SMALL", "Info", "fetch", "read_range"]

Info = dict[str, Any]
"""What fsspec calls the details of a path: name, size, type, and ours."""

SMALL = 4 << 20
"""Bytes up to which an object is read at once; a stream may cost one more request."""


def read_range(mirror: Mirror, info: Info, first: int, last: int) -> bytes:
    """Read bytes ``first`` to ``last`` of an object, and count them."""
    if first >= last:
        return b""
    cache, size = mirror.cache, info["size"]
    kept = cache.read_many(_uuid(info), size, [(first, last)]) if cache else None
    if kept is not None:
        return kept[0]
    store = open_store(mirror, info["aws_bucket"])
    whole = (first, last) == (0, size)
    if whole and cache is not None and store.tells:
        # What stays is held against the listing, where that costs no request.
        data = store.read(_key(info), etag=info.get("ETag"))
    else:
        data = store.read(_key(info)) if whole else store.read(_key(info), first, last)
    if len(data) != last - first:
        raise _wrong_size(info, len(data), last - first)
    if whole and cache is not None:
        cache.put(_uuid(info), data)
    return data


def fetch(mirror: Mirror, info: Info, path: Path, callback: Callback) -> None:
    """Copy an object to a file, which appears under its name only when it is whole."""
    callback.set_size(info["size"])
    size, url, cache = info["size"], info["url"], mirror.cache
    kept = cache.open(_uuid(info), size) if cache is not None else None
    if kept is not None:
        with kept, suppress(OSError):  # On NFS a file goes although it is open.
            whole = iter(partial(kept.read, SMALL), b"")
            save(whole, path, size, url, callback.relative_update)
            return
    store, key = open_store(mirror, info["aws_bucket"]), _key(info)
    small = size <= SMALL
    pieces = (store.read(key) for _ in range(1)) if small else store.stream(key)
    save(pieces, path, size, url, callback.relative_update)


def _uuid(info: Info) -> str:
    return str(info["name"]).rpartition("/")[2].removesuffix(".dcm")


def _key(info: Info) -> str:
    name = info["name"].rpartition("/")[2]
    return f"{info['crdc_series_uuid']}/{name}"


def _wrong_size(info: Info, got: int, expected: int) -> WrongSize:
    msg = f"{info['url']}: got {got} bytes or more, expected were {expected}"
    return WrongSize(msg, url=info["url"], got=got, expected=expected)
