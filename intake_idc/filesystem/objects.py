"""Bytes of one object of ``idc://``: a range, or the whole as a file."""

from __future__ import annotations

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
    store = open_store(mirror, info["aws_bucket"])
    whole = (first, last) == (0, info["size"])
    data = store.read(_key(info)) if whole else store.read(_key(info), first, last)
    if len(data) != last - first:
        raise _wrong_size(info, len(data), last - first)
    return data


def fetch(mirror: Mirror, info: Info, path: Path, callback: Callback) -> None:
    """Copy an object to a file, which appears under its name only when it is whole."""
    callback.set_size(info["size"])
    store, key = open_store(mirror, info["aws_bucket"]), _key(info)
    small = info["size"] <= SMALL
    pieces = (store.read(key) for _ in range(1)) if small else store.stream(key)
    save(pieces, path, info["size"], info["url"], callback.relative_update)


def _key(info: Info) -> str:
    name = info["name"].rpartition("/")[2]
    return f"{info['crdc_series_uuid']}/{name}"


def _wrong_size(info: Info, got: int, expected: int) -> WrongSize:
    msg = f"{info['url']}: got {got} bytes or more, expected were {expected}"
    return WrongSize(msg, url=info["url"], got=got, expected=expected)
