"""Hashes of the bytes as they pass: MD5 where it is known, and what is asked for."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import TYPE_CHECKING, Any, Literal

from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake_idc.storage.engine import Data

__all__ = ["CHECKSUMS", "QUICK", "Checksum", "Hasher", "check_checksum", "md5_of_etag"]

Checksum = Literal["md5", "crc32c", "sha256", "blake2b"]
CHECKSUMS = ("md5", "crc32c", "sha256", "blake2b")
"""What can be computed of every byte, and is written down in the folder's record."""

QUICK = ("crc32c",)
"""Those that take less time than to write the bytes."""


def check_checksum(checksum: object) -> None:
    """Refuse what is no checksum.

    Raises
    ------
    RequestError
        It is none.
    """
    if checksum is not None and checksum not in CHECKSUMS:
        msg = f"checksum is one of {', '.join(CHECKSUMS)}, or None; got {checksum!r}"
        raise RequestError(msg, checksum=checksum)


def md5_of_etag(etag: str | None) -> str | None:
    """Give the MD5 that an entity tag of S3 or GCS is; None where it is none.

    The tag of an object that was put in one piece is its MD5; with a ``-`` it was put
    in several (S3 API reference, "Checking object integrity").
    """
    # Of another mirror than the first its name comes before; see `same_version`.
    found = re.fullmatch(r'"?([0-9a-f]{32})"?', (etag or "").rpartition(" ")[2])
    return found[1] if found else None


class _CRC32C:
    def __init__(self) -> None:
        from google_crc32c import extend

        self._extend: Callable[[int, Any], int] = extend
        self._value = 0

    def update(self, data: Data) -> None:
        # It takes nothing but bytes.
        whole = data if isinstance(data, bytes) else bytes(data)
        self._value = self._extend(self._value, whole)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


@functools.cache
def _maker(name: str) -> Callable[[], Any]:
    if name == "crc32c":
        return _CRC32C
    # Not against an attacker: it is what IDC publishes.
    return functools.partial(hashlib.new, name, usedforsecurity=False)


class Hasher:
    """Computes some hashes of bytes in their order.

    Parameters
    ----------
    names : collection of str
        Of `CHECKSUMS`.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._hashes = [(name, _maker(name)()) for name in names]

    def update(self, data: Data) -> None:
        """Take the bytes that follow."""
        for _, own in self._hashes:
            own.update(data)

    def digests(self) -> dict[str, str]:
        """Give each hash in hex, by its name."""
        return {name: own.hexdigest() for name, own in self._hashes}
