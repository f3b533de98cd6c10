"""What the bytes of a file are held against, the strongest first."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc.errors import DicomReadError
from intake_idc.storage import filesystem
from intake_idc.transfer.hashing import CHECKSUMS, Hasher, md5_of_etag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from intake_idc.storage import Mirror

__all__ = ["MULTIPART", "Judged", "Known", "judge", "measure", "stated_by_store"]

MULTIPART = re.compile(r'"?([0-9a-f]{32})-(\d+)"?')
"""Entity tag of an object that was put in several parts: the MD5 of the MD5s of its
parts, and how many there were."""
PART_BYTES = (8 << 20, 16 << 20, 64 << 20)
"""Usual sizes of parts; the first is that of the AWS tools."""
CHUNK = 1 << 20
SERIES, SOP, HEADER = "SeriesInstanceUID", "SOPInstanceUID", "header"


class Known(NamedTuple):
    """What is known of the bytes of an object."""

    size: int
    """Bytes."""
    md5: str | None = None
    """The MD5 that the release states, in hex."""
    etag: str | None = None
    """The entity tag that S3 or GCS gives."""
    told: str | None = None
    """What was computed when it was copied, as ``md5:<hex>``."""
    series: str | None = None
    """Its SeriesInstanceUID."""
    sop: str | None = None
    """Its SOPInstanceUID."""
    hashed: bool = False
    """Whether its MD5 is wanted, for the hash of its series."""
    stated: Mapping[str, str] = {}
    """Hashes that the store states beside the tag, by their names."""


class Judged(NamedTuple):
    """What came of it."""

    good: bool | None
    """Whether the bytes are the object's; None where nothing says it."""
    what: str = ""
    """What differs: ``hash`` or ``identity``."""
    reason: str = ""
    """Why, in words."""
    tag: bool | None = None
    """Whether its MD5 is the entity tag; None where the tag is no MD5."""


def measure(path: str, known: Known) -> dict[str, str]:
    """Read a file, and compute of it what can be compared; its identity, else.

    Raises
    ------
    OSError
        It cannot be read.
    """
    told = (known.told or "").partition(":")[0]
    names = {told} & set(CHECKSUMS) | (set(known.stated) & set(CHECKSUMS))
    if known.md5 or known.hashed or md5_of_etag(known.etag):
        names.add("md5")
    sizes = _part_sizes(known)
    with Path(path).open("rb", buffering=0) as file:
        found: dict[str, str] = {}
        if names or sizes:
            hasher = Hasher(tuple(sorted(names)))
            parts = [_Parts(size) for size in sizes]
            while data := file.read(CHUNK):
                hasher.update(data)
                for part in parts:
                    part.update(data)
            found = hasher.digests()
            found |= {f"etag {n}": part.tag() for n, part in enumerate(parts)}
        if judge(found, known).good is not True:

            def read(start: int, stop: int) -> bytes:
                file.seek(start)
                return file.read(stop - start)

            found |= _identity(read, known.size, path)
    return found


def _part_sizes(known: Known) -> list[int]:
    """Give the usual sizes of parts that come to as many as there were."""
    tagged = MULTIPART.fullmatch(known.etag or "")
    if tagged is None:
        return []
    return [size for size in PART_BYTES if -(-known.size // size) == int(tagged[2])]


class _Parts:
    """Computes the entity tag of bytes that are put in parts of one size."""

    def __init__(self, size: int) -> None:
        self._size, self._left = size, size
        self._digests: list[bytes] = []
        self._own = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Take the bytes that follow."""
        view = memoryview(data)
        while len(view) >= self._left:
            self._own.update(view[: self._left])
            view = view[self._left :]
            self._end()
        self._own.update(view)
        self._left -= len(view)

    def _end(self) -> None:
        self._digests.append(self._own.digest())
        self._own = hashlib.md5(usedforsecurity=False)
        self._left = self._size

    def tag(self) -> str:
        """Give the tag, without quotes."""
        if self._left < self._size:
            self._end()
        whole = hashlib.md5(b"".join(self._digests), usedforsecurity=False)
        return f"{whole.hexdigest()}-{len(self._digests)}"


def _identity(read: Any, size: int, path: str) -> dict[str, str]:
    from intake_idc import dicom

    try:
        return dicom.read_identity(read, size, path)
    except DicomReadError as error:
        return {HEADER: error.kind}


def judge(found: Mapping[str, str], known: Known) -> Judged:
    """Say whether what was computed of a file is what is known of its object."""
    md5, tagged = found.get("md5"), md5_of_etag(known.etag)
    tag = None if tagged is None or md5 is None else md5 == tagged
    differs = ""
    if known.md5 is not None:
        if md5 == known.md5:
            return Judged(True, tag=tag)
        differs = f"its MD5 is {md5}, known is {known.md5}"
    elif tag or any(
        found[name] == (known.etag or "").strip('"')
        for name in found
        if name.startswith("etag ")
    ):
        return Judged(True, tag=tag)
    else:
        named, _, hexdigest = (known.told or "").partition(":")
        for name, stated in (*known.stated.items(), (named, hexdigest)):
            if name in found and found[name] != stated:
                differs = f"its {name} is {found[name]}, known is {stated}"
                break
            if name in found:
                return Judged(True, tag=tag)
    other = _other_identity(found, known)
    if other:
        return Judged(False, "identity", other, tag)
    if differs:
        return Judged(False, "hash", differs, tag)
    reason = "nothing is known to compare its bytes with"
    return Judged(None, reason=reason, tag=tag)


def _other_identity(found: Mapping[str, str], known: Known) -> str:
    if found.get(HEADER) == "not dicom":
        return "it is no DICOM file"
    for name, expected in ((SERIES, known.series), (SOP, known.sop)):
        if expected and found.get(name, expected) != expected:
            return f"it is the object with {name} {found[name]}, not {expected}"
    return ""


@functools.lru_cache(maxsize=4)
def _files_of(mirror: Mirror) -> Any:
    return filesystem(mirror)


def stated_by_store(mirror: Mirror, url: str) -> dict[str, str]:
    """Give the hashes that Google Cloud Storage states of an object, by their names.

    It is asked where fsspec reads it: ``md5Hash`` and ``crc32c`` of the JSON API.
    Empty where it cannot be asked.
    """
    if mirror.scheme != "gs" or mirror.engine != "fsspec":
        return {}
    try:
        told = _files_of(mirror).info(url)
    except OSError:
        return {}
    names = {"md5": "md5Hash", "crc32c": "crc32c"}
    return {
        name: base64.b64decode(told[own]).hex()
        for name, own in names.items()
        if told.get(own)
    }
