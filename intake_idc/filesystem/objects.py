"""Bytes of one object of ``idc://``: a range, or the whole as a file."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

from intake_idc.errors import WrongSize
from intake_idc.storage import open_store

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
    """Copy an object beside its place, count it, and rename it."""
    callback.set_size(info["size"])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".idc-{os.getpid()}-{secrets.token_hex(8)}.part")
    written = 0
    try:
        with part.open("xb") as file:
            store, key = open_store(mirror, info["aws_bucket"]), _key(info)
            small = info["size"] <= SMALL
            for chunk in [store.read(key)] if small else store.stream(key):
                written += len(chunk)
                if written > info["size"]:
                    break
                file.write(chunk)
                callback.relative_update(len(chunk))
        if written != info["size"]:
            raise _wrong_size(info, written, info["size"])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _key(info: Info) -> str:
    name = info["name"].rpartition("/")[2]
    return f"{info['crdc_series_uuid']}/{name}"


def _wrong_size(info: Info, got: int, expected: int) -> WrongSize:
    msg = f"{info['url']}: got {got} bytes or more, expected were {expected}"
    return WrongSize(msg, url=info["url"], got=got, expected=expected)
