"""The Deflated transfer syntaxes, undone within bounds (PS3.5 A.5 and A.4.13).

DEFLATE makes up to 1,032 bytes of one: 2.9 MB that are only zeros become 3 GB before
anybody has looked at them.
"""

from __future__ import annotations

import functools
import os
import threading
import zlib
from contextlib import ExitStack

from intake_idc.errors import DicomReadError

__all__ = ["INFLATED_BYTES", "RATIO", "inflate"]

INFLATED_BYTES = 2 * 1024**3
"""Bytes that an object may inflate to."""
RATIO = 200
"""Bytes that may come of one byte, once there are more than `FREE_BYTES`."""
FREE_BYTES = 64 * 1024**2
"""Bytes that may come at any ratio: masks are nearly all zeros, and are small."""
STEP = 4 * 1024**2
"""Bytes that are made at once, and that anybody may make without waiting."""
AT_ONCE = 2
"""Streams of a process that become more than `STEP` at a time: bombs that lie side by
side are looked at one after the other."""


@functools.cache
def _turns(_pid: int) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(AT_ONCE)


def inflate(
    data: bytes | memoryview,
    url: str = "",
    *,
    most: int = INFLATED_BYTES,
    offset: int = 0,
) -> bytes:
    """Inflate a raw DEFLATE stream (RFC 1951), and refuse one that is a bomb.

    Two threads at a time make more than 4 MiB; the others wait for their turn.

    Parameters
    ----------
    data : bytes
        The stream, padded or not.
    url : str
        Where it lies, for the error.
    most : int
        Bytes that may come of it.
    offset : int
        Where in the object it begins, for the error.

    Raises
    ------
    DicomReadError
        It is cut short or malformed, or it inflates to too much.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    made = 0
    rest: bytes | memoryview = data
    with ExitStack() as turn:
        while not inflater.eof:
            if len(parts) == 1:
                turn.enter_context(_turns(os.getpid()))
            try:
                part = inflater.decompress(rest, STEP)
            except zlib.error as error:
                msg = f"{url}: the deflated part cannot be inflated ({error})"
                raise DicomReadError(
                    msg, kind="malformed", url=url, offset=offset
                ) from error
            rest = inflater.unconsumed_tail
            if not part and not rest and not inflater.eof:
                msg = f"{url}: the deflated part ends early, after {made} bytes"
                raise DicomReadError(msg, kind="truncated", url=url, offset=offset)
            parts.append(part)
            made += len(part)
            used = len(data) - len(rest)
            if made > most or (made > FREE_BYTES and made > RATIO * used):
                before = made - len(part)
                msg = (
                    f"{url}: {used} deflated bytes became more than {before}; "
                    f"an object may inflate to {most} bytes, and beyond {FREE_BYTES} "
                    f"only by a factor of {RATIO}"
                )
                raise DicomReadError(msg, kind="malformed", url=url, offset=offset)
        return b"".join(parts)
