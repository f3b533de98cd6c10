"""The bytes of a manifest, wherever they lie: a file, a URL, packed or plain.

Bytes come in blocks, so that a manifest of any length is read in one pass and little
memory. What is packed (gzip, bzip2, xz, zip) is known by its first bytes, whatever it
is called.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from intake_idc.credentials import refuse_in_url
from intake_idc.errors import ManifestError, RequestError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "BLOCK",
    "Bytes",
    "File",
    "Given",
    "files",
    "line_texts",
    "natural",
    "utf8",
    "whole_lines",
]

BLOCK = 4 << 20
"""Bytes in a block."""
HEAD = 64 << 10
"""Bytes by which a dialect is recognised."""
LARGEST = 16 << 30
"""Bytes that a manifest may unpack to: 200 million lines."""

# What is opened here is closed with the file that it unpacks.
_PACKED: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast("IO[bytes]", bz2.open(file)),  # noqa: SIM115
    b"\xfd7zXZ\x00": lambda file: cast("IO[bytes]", lzma.open(file)),  # noqa: SIM115
}
_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_BROKEN = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError)


class Bytes(ABC):
    """Bytes with a name, that can be read again."""

    name: str
    """What errors call it."""

    @abstractmethod
    def blocks(self) -> Iterator[bytes]:
        """Give the unpacked bytes from the start, in blocks cut anywhere."""

    @cached_property
    def head(self) -> bytes:
        """The first bytes, 64 KiB at most."""
        return self._first(HEAD)

    def _first(self, count: int) -> bytes:
        found, held = [], 0
        for block in self.blocks():
            found.append(block)
            held += len(block)
            if held >= count:
                break
        return b"".join(found)[:count]

    def read(self, limit: int) -> bytes:
        """Give all bytes.

        Raises
        ------
        ManifestError
            There are more than ``limit``.
        """
        found = self._first(limit + 1)
        if len(found) > limit:
            msg = f"{self.name} is larger than the {limit >> 20:,} MiB that are read"
            raise ManifestError(msg, name=self.name)
        return found


class Given(Bytes):
    """Bytes that are at hand."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data

    def blocks(self) -> Iterator[bytes]:
        """Give the bytes, which are one block."""
        yield self._data


class File(Bytes):
    """A file, or a member of a zip file, of this machine or by URL.

    Parameters
    ----------
    path : str
        What fsspec opens.
    member : str, optional
        Name within a zip file.
    """

    def __init__(self, path: str, member: str | None = None) -> None:
        self.path = path
        self.member = member
        self.name = path if member is None else f"{path}, {member}"

    def blocks(self) -> Iterator[bytes]:
        """Give the unpacked bytes.

        Raises
        ------
        StorageError
            It cannot be read, or is not what its first bytes say.
        ManifestError
            It unpacks to more than any manifest holds.
        """
        total = 0
        with _opened(self.path) as raw, _reading(self.name):
            file = _unpacked(raw, self.member)
            while block := file.read(BLOCK):
                total += len(block)
                if total > LARGEST:
                    msg = f"{self.name} unpacks to more than {LARGEST >> 30} GiB"
                    raise ManifestError(msg, name=self.name)
                yield block


def files(path: str | os.PathLike[str]) -> list[File]:
    """Give what a path names: a file, or each file within a zip.

    Raises
    ------
    StorageError
        It cannot be read.
    ManifestError
        The zip holds no file.
    RequestError
        The URL holds a password.
    """
    name = os.fspath(path)
    refuse_in_url(name, "manifest")
    with _opened(name) as raw, _reading(name):
        start = raw.read(4)
        if start not in (_ZIP, _EMPTY_ZIP):
            return [File(name)]
        raw.seek(0)
        from zipfile import ZipFile

        with ZipFile(raw) as packed:
            members = [
                info.filename
                for info in packed.infolist()
                if not info.is_dir() and not _litter(info.filename)
            ]
    if not members:
        msg = f"{name} is a zip file with nothing in it"
        raise ManifestError(msg, name=name)
    return [File(name, member) for member in sorted(members, key=natural)]


def _litter(name: str) -> bool:
    """Say whether a file was put into a zip by the machine that packed it."""
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1].startswith(".")


def natural(name: str) -> list[tuple[int, str]]:
    """Order ``_Part2`` before ``_Part10``."""
    import re

    return [
        (int(part), "") if part.isdecimal() else (0, part)
        for part in re.split(r"(\d+)", name)
    ]


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Say of a failure which file it was, and that it is not the reader's."""
    from zipfile import BadZipFile

    try:
        yield
    except (RequestError, StorageError):
        raise
    except (*_BROKEN, BadZipFile, NotImplementedError, RuntimeError) as error:
        msg = f"the manifest {name} cannot be read: {error}"
        raise StorageError(msg, path=name) from error


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """Open what is a path or a URL, as it lies there."""
    try:
        file = _open(path)
    except (*_BROKEN, ImportError) as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        msg = f"the manifest {path} cannot be read: {reason}"
        raise StorageError(msg, path=path) from error
    with file:
        yield file


def _open(path: str) -> IO[bytes]:
    if "://" not in path and "::" not in path:
        # What a path of this machine needs no fsspec for, a tenth of a second.
        return Path(path).expanduser().open("rb")
    import fsspec

    opened: IO[bytes] = fsspec.open(path, "rb").open()
    return opened


def _unpacked(raw: IO[bytes], member: str | None) -> IO[bytes]:
    if member is not None:
        from zipfile import ZipFile

        raw = ZipFile(raw).open(member)  # noqa: SIM115  (closed with the file)
    start = raw.read(6)
    raw.seek(0)
    for magic, unpack in _PACKED.items():
        if start.startswith(magic):
            return unpack(raw)
    return raw


def line_texts(source: Bytes, wanted: Sequence[int]) -> dict[int, str]:
    """Give the text of some lines, by their number from 1, cut at 200 characters."""
    left = sorted(set(wanted), reverse=True)
    found: dict[int, str] = {}
    number = 0
    for lines in whole_lines(utf8(source.blocks())):
        count = lines.count(b"\n")
        if left and left[-1] <= number + count:
            at = lines.split(b"\n")
            while left and left[-1] <= number + count:
                line = left.pop()
                text = at[line - number - 1].decode("utf-8", "replace")
                found[line] = text.strip("\ufeff \t\r")[:200]
        number += count
        if not left:
            break
    return found


def whole_lines(blocks: Iterator[bytes], longest: int = 64 << 20) -> Iterator[bytes]:
    """Cut blocks anew, so that each ends in a line feed; the last line gets one.

    Raises
    ------
    ManifestError
        A line is longer than ``longest`` bytes.
    """
    rest: list[bytes] = []
    held = 0
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if not end:
            rest.append(block)
            held += len(block)
            if held > longest:
                msg = f"a line is longer than {longest >> 20} MiB: not a manifest"
                raise ManifestError(msg)
            continue
        yield b"".join([*rest, block[:end]])
        rest = [block[end:]]
        held = len(rest[0])
    last = b"".join(rest)
    if last:
        yield last + b"\n"


def utf8(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Give text as UTF-8 without a byte order mark; UTF-16 is known by its mark.

    Raises
    ------
    ManifestError
        It begins as UTF-16 and is not.
    """
    first = next(blocks, b"")
    while len(first) < 3 and (more := next(blocks, b"")):  # noqa: PLR2004
        first += more
    if not first.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield first.removeprefix(b"\xef\xbb\xbf")
        yield from blocks
        return
    import codecs

    decoder = codecs.getincrementaldecoder("utf-16")()
    try:
        yield decoder.decode(first).encode("utf-8", "surrogatepass")
        for block in blocks:
            yield decoder.decode(block).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode()
    except UnicodeDecodeError as error:
        msg = f"the manifest begins as UTF-16 and is not ({error}); save it as UTF-8"
        raise ManifestError(msg) from error
