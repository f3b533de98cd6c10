"""Requests that are sent many at a time, and stores that answer them as told.

What the tests of `Multi`, of listings and of copies share: mirrors that are asked as
any is where nobody names an engine, a request that keeps all it is told, and two stores
besides that of `faults`: one of which each connection is a conversation, and one that
says what it is to say and hangs up.
"""

from __future__ import annotations

import itertools
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from copied import BUCKET, QUICK, asked, at, uuid
from servers import HOST, Faulty

from intake_idc import resolve_mirror
from intake_idc.errors import StorageError
from intake_idc.storage.endpoints import asks_many
from intake_idc.storage.multi import Multi

EVER = None
OBJECTS = 40
SIZE = 3_000
BIG = 950_000
"""Bytes of an object that is large here."""
MANY = 300
PAGED = 1_100
"""Objects of a series of which a listing has more than a page."""
SOON = 20
"""Seconds that nothing takes which ends when it is told to; far more than it needs."""

SMALL, LARGE, TINY, PAGES, EDGE, SPLIT = (uuid(number) for number in range(1, 7))

_numbers = itertools.count(1)


def default(server, retry_timeout: float = QUICK["retry_timeout"], **options: float):
    """A mirror that is asked as any is, where nobody names an engine.

    It is another one each time: how a store did is remembered.
    """
    retry_timeout += next(_numbers) / 1e6
    mirror = at(server, None, retry_timeout=retry_timeout, **options)
    assert asks_many(mirror)
    return mirror


def both(first: Faulty, second: Faulty):
    """Two mirrors that stand in for each other."""
    one, other = default(first), default(second)
    return resolve_mirror([one, replace(other, name="gcs", root="gs://{gcs_bucket}")])


def rested(store: Faulty) -> Faulty:
    """Give a store that answers as it should, and is at nothing."""

    def is_idle() -> bool:
        store.script()
        return not store.busiest()

    until(is_idle)
    return store


def until(holds: Callable[[], object]) -> None:
    """Wait for something that comes about."""
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def objects_asked(server: Faulty) -> Counter[str]:
    """How often each object was asked for; listings are left out."""
    found = asked(server)
    return Counter({on: many for on, many in found.items() if "list:" not in on})


def own_threads() -> set[threading.Thread]:
    return {
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("intake-idc-copy")
    }


def open_sockets() -> set[str]:
    """The sockets and selectors of this process, by their numbers."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        # That of the folder itself is gone by now.
        with suppress(OSError):
            found.add(f"{one.name} {one.readlink()}")
    return {one for one in found if "socket" in one or "eventpoll" in one}


# Requests.


class Asked:
    """A request that keeps all it is told."""

    query = ""

    def __init__(
        self,
        key: str,
        start: int = 0,
        stop: int | None = None,
        wants: int | None = None,
    ) -> None:
        self.bucket, self.key, self.start, self.stop = BUCKET, key, start, stop
        self.data = b""
        self.taken: list[int] = []
        self.ends: list[tuple[str | None, StorageError | None]] = []
        self._wants = wants
        """Bytes from which on no more are wanted."""

    def take(self, pieces) -> bool:
        assert not self.ends
        self.taken.append(sum(map(len, pieces)))
        self.data += b"".join(pieces)
        return self._wants is None or len(self.data) < self._wants

    def end(self, etag: str | None, error: StorageError | None) -> None:
        self.ends.append((etag, error))

    @property
    def etag(self) -> str | None:
        ((etag, _),) = self.ends
        return etag

    @property
    def error(self) -> StorageError | None:
        ((_, error),) = self.ends
        return error


def object_of(number: int, **more) -> Asked:
    return Asked(f"{SMALL}/{uuid(number)}.dcm", **more)


def run(mirror, requests, *, most: int = 100, stopped=None) -> Multi:
    """Send requests, some at a time; None among them is one that is not there yet."""
    multi, waiting = Multi(mirror), iter(requests)
    began = ended = 0

    def following(live: int) -> Asked | None:
        nonlocal began
        assert live == began - ended
        found = next(waiting, None) if live < most else None
        began += found is not None
        return found

    def end() -> None:
        nonlocal ended
        ended += 1

    multi.run(following, end, stopped or threading.Event())
    # Of each that was sent it is said once that it is over.
    assert ended == began
    return multi


# Stores.


class Line(socketserver.BaseRequestHandler):
    """A connection, as the store has it."""

    server: Talking

    def handle(self) -> None:
        self.number = next(self.server.numbers)
        """That of the connection, from 1."""
        # Who has gone, or does not trust this place, is no failure of it.
        with suppress(OSError):
            self.line, context = self.request, self.server.context
            self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self.line = context.wrap_socket(self.line, server_side=True)
                self.server.resumed.append(self.line.session_reused)
            with self.line, self.line.makefile("rb") as self._heard:
                self.server.talk(self)

    def hear(self) -> str:
        """Take a request; give the last part of its path, "" where none comes."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._heard.readline()
            if not line:
                return ""
            head += line
        self.server.heads.append(head.decode("ascii"))
        name = unquote(head.split()[1].decode().rsplit("/", 1)[1])
        self.server.asked.append((self.number, name))
        return name

    def say(self, *pieces: bytes, pause: float = 0.0) -> None:
        for piece in pieces:
            self.line.sendall(piece)
            time.sleep(pause)

    def reset(self) -> None:
        """End it by RST, where it is no TLS."""
        linger = struct.pack("ii", 1, 0)
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class Talking(socketserver.ThreadingTCPServer):
    """A store of which each connection is a conversation; see `Line`.

    It may be taken as a mirror's server, and ends with its block.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        talk: Callable[[Line], object],
        context: ssl.SSLContext | None = None,
        name: str = HOST,
    ) -> None:
        super().__init__((HOST, 0), Line)
        self.talk, self.context, self.name = talk, context, name
        self.numbers = itertools.count(1)
        self.asked: list[tuple[int, str]] = []
        """What each connection was asked for, in the order it came."""
        self.heads: list[str] = []
        """The same requests, as they were written."""
        self.resumed: list[bool | None] = []
        """Of each handshake whether it went on with a session."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://{self.name}:{self.server_address[1]}"

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        super().__exit__(*exception)


class Saying(Talking):
    """Says what it is to say for the last part of a path, and hangs up."""

    def __init__(
        self, answers: dict[str, bytes], context: ssl.SSLContext | None = None
    ) -> None:
        def talk(line: Line) -> None:
            # Who does not trust this place asks for nothing.
            if name := line.hear():
                line.say(answers[name])

        super().__init__(talk, context)


def chunked(data: bytes, size: int) -> bytes:
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


def answer(data: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(data), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + data
