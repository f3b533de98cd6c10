"""Many objects at once from one thread: a GET for each, on sockets that never wait.

Everything here is asked for once. What does not come as it should ends with an error,
and is for those who ask again; see `retrying`.
"""

from __future__ import annotations

import re
import time
from selectors import DefaultSelector
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from intake_idc.storage.connections import Connection, Host
from intake_idc.storage.endpoints import endpoint, trusted
from intake_idc.storage.exchanges import BrokenError, Exchange

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from intake_idc.storage.exchanges import Request
    from intake_idc.storage.mirror import Mirror

__all__ = ["Multi"]

BUFFER = 640 << 10
"""Bytes that are taken at once, as many as a slice of CT has and more; all connections
of a thread share them."""
LOOK_SECONDS, FIRST_SECONDS = 0.05, 0.003
"""Seconds, at most, between two looks whether to stop; and, before the first answer,
whether to ask for more meanwhile."""

_PLAIN = re.compile(r"[\w./-]*", re.ASCII)
"""What stands in a URL as it is."""


class Multi:
    """Sends requests to one mirror, many at a time, each once. One thread has it.

    Parameters
    ----------
    mirror : Mirror
        One of which `asks_many` holds.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        url = endpoint(mirror)
        self._host = Host(url, trusted(mirror))
        self._path = quote(urlsplit(url).path, safe="/%")
        self._headers = (
            f"Host: {self._host.authority}\r\nUser-Agent: intake-idc\r\nAccept: */*\r\n"
        )
        self._roots: dict[str, tuple[str, str]] = {}
        self._selector = DefaultSelector()
        self._buffer = memoryview(bytearray(BUFFER))
        self._live: set[Connection] = set()
        self._free: list[Connection] = []
        self._looked = 0.0
        self.latency: float | None = None
        """Seconds until the first byte of the fastest answer; None before one came."""

    def waited(self) -> float:
        """Give the seconds since the first request was sent: no answer was sooner."""
        asked = self._host.asked
        return 0.0 if asked is None else time.monotonic() - asked

    @property
    def buckets(self) -> list[str]:
        """AWS names of the buckets that were asked."""
        return list(self._roots)

    def run(
        self,
        following: Callable[[int], Request | None],
        ended: Callable[[], None],
        stopped: threading.Event,
    ) -> None:
        """Send requests until there are no more, and all are answered.

        Parameters
        ----------
        following : callable
            Called with the number of requests in flight; gives the next, or None
            where there is to be none now. It is asked again after each answer.
        ended : callable
            Called after the end of each request.
        stopped : threading.Event
            When it is set, all that are in flight are given up.
        """

        def fill() -> None:
            while (request := following(len(self._live))) is not None:
                if not self._ask(self._exchange(request)):
                    ended()

        try:
            while not stopped.is_set():
                fill()
                if not self._live:
                    return
                first = self.latency is None
                events = self._selector.select(FIRST_SECONDS if first else LOOK_SECONDS)
                now = time.monotonic()
                for key, _ in events:
                    if self._turn(key.data, now):
                        ended()
                        # Each answer at once makes room for another request.
                        fill()
                self._leave_late(now, ended)
        finally:
            self._close(ended)

    def _exchange(self, request: Request) -> Exchange:
        """Write a request down."""
        root, path = self._root(request.bucket)
        if request.query:
            path = f"{path}?{request.query}"
        else:
            key = request.key
            path = f"{path}/{key if _PLAIN.fullmatch(key) else quote(key)}"
        start, stop, ranged = request.start, request.stop, ""
        if start or stop is not None:
            ranged = f"Range: bytes={start}-{'' if stop is None else stop - 1}\r\n"
        written = f"GET {path} HTTP/1.1\r\n{self._headers}{ranged}\r\n".encode("ascii")
        return Exchange(request, f"{root}/{request.key}", written)

    def _root(self, bucket: str) -> tuple[str, str]:
        """Give the root of a bucket as IDC writes it, and as its path is asked for."""
        found = self._roots.get(bucket)
        if found is None:
            root = self._mirror.bucket_root(bucket)
            found = root, f"{self._path}/{quote(root.split('://', 1)[1])}"
            self._roots[bucket] = found
        return found

    def _ask(self, exchange: Exchange, *, anew: bool = False) -> bool:
        """Send a request; False if it ended with that."""
        connection = None
        try:
            if self._free and not anew:
                connection = self._free.pop()
            else:
                connection = Connection(self._host, self._selector, self._buffer)
            self._live.add(connection)
            connection.ask(exchange)
        except (OSError, BrokenError) as error:
            if connection is not None:
                return not self._lose(connection, error)
            self._end(exchange, error)
            return False
        return True

    def _turn(self, connection: Connection, now: float) -> bool:
        """Let a connection do what it can; say whether a request ended with that."""
        try:
            connection.turn(now)
        except (OSError, BrokenError) as error:
            return self._lose(connection, error)
        exchange = connection.exchange
        if exchange is None or not exchange.ended:
            return False
        self._live.discard(connection)
        if connection.release():
            self._free.append(connection)
        else:
            connection.close()
        self._end(exchange, None)
        return True

    def _lose(self, connection: Connection, error: OSError | BrokenError) -> bool:
        """Give a connection up; say whether a request ended with that."""
        exchange, kept = connection.exchange, connection.is_kept
        connection.close()
        self._live.discard(connection)
        if exchange is None:
            self._free.remove(connection)
            return False
        silent = isinstance(error, TimeoutError)
        if kept and exchange.latency is None and not silent:
            # It was free, and a store may close what is, or have closed it before.
            return not self._ask(exchange, anew=True)
        self._end(exchange, error)
        return True

    def _end(self, exchange: Exchange, error: OSError | BrokenError | None) -> None:
        if exchange.latency is not None:
            self.latency = min(exchange.latency, self.latency or exchange.latency)
        why = getattr(error, "strerror", None) or str(error or "")
        found = exchange.error(why)
        exchange.request.end(self._mirror.tag(exchange.header("etag") or None), found)

    def _leave_late(self, now: float, ended: Callable[[], None]) -> None:
        """Give up what nothing has come of for too long."""
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for connection in list(self._live):
            error = connection.late(now, self._mirror.read_timeout)
            if error is not None and self._lose(connection, error):
                ended()

    def _close(self, ended: Callable[[], None]) -> None:
        """Let go of all connections; what is in flight is given up."""
        left = [one.exchange for one in self._live if one.exchange is not None]
        for connection in (*self._live, *self._free):
            connection.close()
        self._live, self._free = set(), []
        self._selector.close()
        for exchange in left:
            self._end(exchange, BrokenError("it was given up"))
            ended()
