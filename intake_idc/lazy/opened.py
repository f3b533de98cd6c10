"""An object as a file: seekable, read by ranges, for libraries that want one."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING

from intake_idc.errors import StorageError
from intake_idc.lazy.handles import SMALL_BYTES
from intake_idc.storage import Ranged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

    from intake_idc.lazy.handles import DicomObject

__all__ = ["ObjectFile"]

BLOCK = 64 * 1024
"""Bytes of a block: headers are mostly in one, and it takes no longer than less."""
AHEAD = 64
"""Blocks that are read ahead at most, where blocks are asked for in a row: 4 MiB."""
KEPT = 256
"""Blocks that are kept: 16 MiB."""
PIECE = 4 * 1024**2
"""Bytes of one range of a longer read; they are read side by side."""


class ObjectFile(io.RawIOBase):
    """A DICOM object as a file that is read where it lies.

    Bytes come in blocks of 64 KiB, of which the last 256 are kept; who reads on gets
    ahead of himself, up to 4 MiB. A read gives as many bytes as it asks for, except at
    the end. All of them are of the version that was listed. An object of up to 1 MiB
    is read whole. Reads from several threads wait for one another; each moves the one
    position. It pickles as the object and the position.

    Parameters
    ----------
    found : DicomObject
        The object.
    position : int
        Where reading begins.
    """

    def __init__(self, found: DicomObject, position: int = 0) -> None:
        super().__init__()
        self.name = found.url
        self.mode = "rb"
        self._found = found
        self._position = position
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next, self._ahead = -1, 1
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Callable[..., ObjectFile], tuple[object, ...]]:
        return type(self), (self._found, self._position)

    def __repr__(self) -> str:
        return f"<ObjectFile {self.name}, {self._found.size:,} bytes>"

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that any place can be gone to."""
        return True

    def tell(self) -> int:
        """Give the position."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, counted from the beginning, from here, or from the end.

        Raises
        ------
        ValueError
            It is before the beginning, or the file is closed.
        """
        self._check_open()
        begin = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._found.size,
        }[whence]
        if begin + offset < 0:
            msg = f"{self.name}: no position {begin + offset}"
            raise ValueError(msg)
        self._position = begin + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes from here on; all that are left by default.

        Raises
        ------
        StorageError
            They cannot be read, or the object is another by now.
        """
        self._check_open()
        with self._lock:
            start, end = self._position, self._found.size
            stop = end if size is None or size < 0 else min(start + size, end)
            if stop <= start:
                return b""
            data = self._take(start, stop)
            self._position = stop
            return data

    def readall(self) -> bytes:
        """Read everything that is left."""
        return self.read()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read as many bytes as a buffer takes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let go of what is kept."""
        self._blocks.clear()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            msg = f"{self.name}: the file is closed"
            raise ValueError(msg)

    def _take(self, start: int, stop: int) -> bytes:
        first, last = start // BLOCK, -(-stop // BLOCK)
        if last - first > KEPT // 2:
            # More than is worth keeping.
            edges = [*range(start, stop, PIECE), stop]
            return b"".join(self._fetch(list(pairwise(edges))))
        missing = [block for block in range(first, last) if block not in self._blocks]
        if missing:
            self._fill(missing)
        taken = []
        for block in range(first, last):
            data = self._blocks[block]
            self._blocks.move_to_end(block)
            begin = block * BLOCK
            taken.append(data[max(start - begin, 0) : stop - begin])
        while len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)
        return b"".join(taken)

    def _fill(self, missing: list[int]) -> None:
        """Read blocks, neighbours in one range, and some that are likely to be next."""
        in_a_row = missing[0] == self._next
        self._ahead = min(2 * self._ahead, AHEAD) if in_a_row else 1
        blocks = -(-self._found.size // BLOCK)
        if self._found.size <= SMALL_BYTES:
            missing, self._ahead = [0], blocks
        after = missing[-1] + 1
        for block in range(after, min(missing[0] + self._ahead, blocks)):
            if block in self._blocks:
                # What lies behind it is likely to be there, too.
                break
            missing.append(block)
        self._next = missing[-1] + 1
        runs = list(_runs(missing))
        end = self._found.size
        ranges = [(one * BLOCK, min(after * BLOCK, end)) for one, after in runs]
        for (one, after), data in zip(runs, self._fetch(ranges), strict=True):
            for block in range(one, after):
                begin = (block - one) * BLOCK
                self._blocks[block] = data[begin : begin + BLOCK]

    def _fetch(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        # A reader of its own each time: who opens a file may read it for days.
        ranged = Ranged(self._found.instance, self._found.mirror, known=True)
        found = ranged.read_many(ranges)
        for (start, stop), data in zip(ranges, found, strict=True):
            if len(data) != stop - start:
                due = stop - start
                msg = f"{self.name}: {len(data)} bytes came where {due} were due"
                raise StorageError(msg, url=self.name)
        return found


def _runs(blocks: list[int]) -> Iterator[tuple[int, int]]:
    """Give runs of neighbours as first and one past the last."""
    first = last = blocks[0]
    for block in blocks[1:]:
        if block != last + 1:
            yield first, last + 1
            first = block
        last = block
    yield first, last + 1
