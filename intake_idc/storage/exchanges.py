"""One request and its answer, as its bytes come (RFC 9112, "HTTP/1.1", section 6)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from intake_idc.errors import StorageError
from intake_idc.storage.engine import check_range, status_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intake_idc.storage.engine import Data

__all__ = ["BrokenError", "Exchange", "Request"]

MOST_HEAD = 64 << 10
"""Bytes that status and headers may have, or what is between the bytes of a body."""
MOST_INTERIM = 16
"""Answers before the answer, at most; see RFC 9110, section 15.2."""
DRAINED = 64 << 10
"""Bytes that are read of what is not wanted, so that the connection can be kept."""
_OK, _PARTIAL = 200, 206
_LAST_INTERIM = 199
_READ = {
    b"content-length",
    b"content-range",
    b"etag",
    b"retry-after",
    b"transfer-encoding",
}
"""Headers that are read."""


class Request(Protocol):
    """A GET of an object, of a range, or of a listing, and who takes the answer.

    Methods are called from the thread of its `Multi`, and raise nothing.
    """

    @property
    def bucket(self) -> str:
        """AWS name of the bucket."""

    @property
    def key(self) -> str:
        """Key below the bucket's root; of a listing the prefix."""

    @property
    def query(self) -> str:
        """What is asked of the bucket, where it is no object; "" where it is one."""

    @property
    def start(self) -> int:
        """First byte."""

    @property
    def stop(self) -> int | None:
        """Byte after the last; None is the end."""

    def take(self, pieces: Sequence[Data]) -> bool:
        """Take the bytes that follow, now; False if no more of them are wanted."""

    def end(self, etag: str | None, error: StorageError | None) -> None:
        """Take note that all bytes came, of which version, or why they did not."""


class BrokenError(Exception):
    """What comes is no answer, or no more of it is wanted."""


class Exchange:
    """A request on its way, and its answer, of which it is handed the body.

    The parser is that of the head, and of a body in chunks; bytes of a body that says
    its length pass it by.

    Parameters
    ----------
    request : Request
        What takes the bytes.
    name : str
        What it is called in errors.
    written : bytes
        The request, as it is sent.
    """

    __slots__ = (
        "_begins",
        "_between",
        "_chunked",
        "_head",
        "_headers",
        "_interim",
        "_left",
        "_parser",
        "_refused",
        "_right",
        "_told",
        "ended",
        "heard",
        "keeps",
        "latency",
        "name",
        "request",
        "sent",
        "status",
        "written",
    )

    def __init__(self, request: Request, name: str, written: bytes) -> None:
        self.request, self.name, self.written = request, name, written
        self.status = 0
        """Status; 0 until the head is there."""
        self.ended = False
        """Whether all came."""
        self.keeps = False
        """Whether its connection can be taken for the next."""
        self.sent = self.heard = time.monotonic()
        """When it was asked for, and when something came last."""
        self.latency: float | None = None
        """Seconds from the one to the first byte; None before it came."""
        self._refused = False
        self._interim = self._between = 0
        self._expect()

    def _expect(self) -> None:
        """Begin with the first byte of a head."""
        self._head = b""
        self._headers: dict[bytes, bytes] = {}
        self._begins = self._told = self._chunked = False
        self._right: bool | None = None
        self._left: int | None = None
        self._parser = HttpResponseParser(self)

    @property
    def ranged(self) -> bool:
        """Whether it is to be a part."""
        return bool(self.request.start) or self.request.stop is not None

    def take(self, data: memoryview, now: float) -> None:
        """Take bytes that came.

        Raises
        ------
        BrokenError
            They are no answer, or no more of it is wanted.
        """
        if self.latency is None:
            self.latency = max(0.0, now - self.sent)
        self.heard = now
        try:
            while len(data) and not self._begins:
                data = self._take_head(data)
            if not self._begins:
                return
            if self.ended:
                # Nothing of it is wanted, or there is nothing.
                self.keeps &= not len(data)
            elif self._chunked:
                self._between += len(data)
                self._parser.feed_data(data)
                if self._between > MOST_HEAD and not self.ended:
                    msg = f"more than {MOST_HEAD} bytes came that are not of the body"
                    raise BrokenError(msg)
            else:
                self._give(data if self._left is None else self._counted(data))
        except (HttpParserError, HttpParserUpgrade) as error:
            msg = f"what came is no answer of HTTP: {error}"
            raise BrokenError(msg) from error
        if self._refused:
            msg = "no more of it was wanted"
            raise BrokenError(msg)

    def _take_head(self, data: memoryview) -> memoryview:
        """Read the head; give what is not of it."""
        before = len(self._head)
        head = self._head + bytes(data[: MOST_HEAD - before + 1])
        # The bytes of a long body are not for the parser.
        end = head.find(b"\r\n\r\n", max(0, before - 3)) + 4
        if end < 4:  # noqa: PLR2004  (not found)
            if len(head) > MOST_HEAD:
                msg = f"its head has more than {MOST_HEAD} bytes"
                raise BrokenError(msg)
            if not b"HTTP/".startswith(head[:5]):
                # It is not waited for the end of what is none.
                msg = "what came is no answer of HTTP"
                raise BrokenError(msg)
            self._head = head
            return data[len(data) :]
        self._feed(head[:end])
        if not self._told:
            msg = "what came is no answer of HTTP"
            raise BrokenError(msg)
        if self.status <= _LAST_INTERIM:
            # Others follow.
            self._interim += 1
            if self._interim > MOST_INTERIM:
                msg = f"more than {MOST_INTERIM} answers came before the answer"
                raise BrokenError(msg)
            self._expect()
            self.status = 0
        else:
            self._begin()
        return data[end - before :]

    def _feed(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._told:
            self.status = self._parser.get_status_code()

    # What the parser says.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take note of a header; a trailer comes too late to be one."""
        if (lower := name.lower()) in _READ and not self._told:
            before = self._headers.get(lower)
            self._headers[lower] = value if before is None else before + b", " + value

    def on_headers_complete(self) -> None:
        """Take note that the head is there, and what it says of the connection."""
        self._told = True
        self.keeps = self._parser.should_keep_alive()

    def on_message_begin(self) -> None:
        """Refuse what follows a body in chunks: it is not of it."""
        self._refused |= self._begins

    def on_body(self, data: bytes) -> None:
        """Take bytes of a body in chunks."""
        self._between = 0
        self._give(data)

    def on_message_complete(self) -> None:
        """Take note that a body in chunks is there."""
        self.ended = self._begins

    # The body.

    def _begin(self) -> None:
        """Say how the body ends, and whether it is wanted."""
        self._begins = True
        self._right = self._error("") is None
        coding = self._headers.get(b"transfer-encoding")
        if coding is not None and coding.strip().lower() != b"chunked":
            msg = f"it comes as {coding.decode('latin-1')!r}, which was not asked for"
            raise BrokenError(msg)
        self._chunked = coding is not None
        length = self._headers.get(b"content-length")
        if not self._chunked and length is not None:
            # The parser takes nothing but digits, and less than 2**64.
            self._left = int(length)
            self.ended = not self._left
        if not self._right and (self._left is None or self._left > DRAINED):
            self.keeps, self.ended = False, True

    def _counted(self, data: memoryview) -> memoryview:
        left = self._left or 0
        if len(data) > left:
            # More than it is: what follows cannot be told from it.
            self.keeps, data = False, data[:left]
        self._left = left - len(data)
        self.ended = not self._left
        return data

    def _give(self, data: Data) -> None:
        # The parser would call it an error of its own if something were raised here.
        if self._right and len(data) and not self._refused:
            self._refused = not self.request.take((data,))

    def close(self) -> None:
        """Take note that nothing more comes.

        Raises
        ------
        BrokenError
            It is not all.
        """
        if self._begins and not self._chunked and self._left is None:
            self.ended, self.keeps = True, False
        if not self.ended:
            some = "bytes" if self._left is None else f"{self._left} bytes"
            msg = f"the connection was closed, and {some} are missing"
            raise BrokenError(msg)

    # What became of it.

    def error(self, why: str) -> StorageError | None:
        """Give what is to be said of it, where it is not as it should be.

        Parameters
        ----------
        why : str
            What the connection has to say; "" where it brought all.
        """
        # It refers to this one, which is over.
        del self._parser
        return self._error("" if self._right is False else why)

    def _error(self, why: str) -> StorageError | None:
        if self.status and self.status not in (_OK, _PARTIAL):
            return status_error(self.name, self.status, wait=self.header("retry-after"))
        if why:
            return StorageError(f"{self.name}: {why}", url=self.name)
        if not self.ranged and self.status == _PARTIAL:
            msg = f"{self.name}: it was asked for whole, and a part of it comes"
            return StorageError(msg, url=self.name, transient=False)
        if self.ranged:
            heeded = self.status == _PARTIAL
            said = {"Content-Range": self.header("content-range") if heeded else ""}
            try:
                check_range(self.name, said, self.request.start, self.status)
            except StorageError as error:
                return error
        return None

    def header(self, name: str) -> str:
        """Give a header; "" where there is none."""
        return self._headers.get(name.encode(), b"").decode("latin-1").strip()
