"""Connections to one host that never wait: requests and answers pass as they can."""

from __future__ import annotations

import errno
import functools
import itertools
import math
import os
import socket
import ssl
import time
from itertools import chain, zip_longest
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from intake_idc.storage.engine import CONNECT_SECONDS
from intake_idc.storage.exchanges import BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable
    from selectors import BaseSelector

    from intake_idc.storage.exchanges import Exchange

__all__ = ["Connection", "Host"]

RECORD = 16 << 10
"""Bytes of a record of TLS at most (RFC 8446, section 5.1)."""
TRIES = (0.3, 1.2)
"""Seconds for each address of a host until the next is tried, but for the last: the
first, and others; RFC 8305, "Happy Eyeballs", has 0.25."""
WHOLE_SECONDS = 3600.0
"""Seconds that one answer may take."""

Address = tuple[int, Any]
"""A family of addresses, and one of it."""

_UNDER_WAY = {
    0,
    errno.EINPROGRESS,
    errno.EWOULDBLOCK,
    getattr(errno, "WSAEWOULDBLOCK", 0),
}


class Host:
    """A host, and what is known of the ways to it. One thread has it.

    Parameters
    ----------
    url : str
        Where it is.
    trusted : str, optional
        A file of certificates to trust as well.
    """

    def __init__(self, url: str, trusted: str | None) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "https"
        self._name = parts.hostname or ""
        usual = 443 if self._is_tls else 80
        self._port = usual if parts.port is None else parts.port
        self._trusted = trusted
        self._context: ssl.SSLContext | None = None
        self._found: list[Address] | None = None
        self._unknown: tuple[int | None, str] | None = None
        self._good: list[Address] = []
        self._turn = 0
        self._session: ssl.SSLSession | None = None
        self.authority = parts.netloc
        """How it is called in a request."""
        self.asked: float | None = None
        """When the first request was sent, by `time.monotonic`; None before."""

    def ways(self) -> list[tuple[Address, float]]:
        """Give addresses to try one after the other, and seconds for each.

        Raises
        ------
        OSError
            The name has none.
        """
        if self._good:
            # Stores have many, and share the work among them.
            self._turn = (self._turn + 1) % len(self._good)
            return _timed(self._good[self._turn :] + self._good[: self._turn])
        if self._found is None and self._unknown is None:
            try:
                self._found = _addresses(self._name, self._port)
            except OSError as error:
                # It is not looked up for each request again.
                self._unknown = error.errno, error.strerror or str(error)
            except UnicodeError as error:
                self._unknown = errno.EINVAL, f"{self._name!r} is no name: {error}"
        if self._found is None:
            raise OSError(*(self._unknown or ()))
        return _timed(self._found)

    def reached(self, family: int) -> None:
        """Take note of a kind of addresses that answers."""
        if not self._good and self._found is not None:
            self._good = [one for one in self._found if one[0] == family]

    def secured(self, plain: socket.socket) -> socket.socket:
        """Begin TLS, where it is to be."""
        if not self._is_tls:
            return plain
        if self._context is None:
            # A session is of the context that it was made with.
            self._context = _context(self._trusted)
        try:
            return self._context.wrap_socket(
                plain,
                server_hostname=self._name,
                do_handshake_on_connect=False,
                # Who cuts a line must not end a body by that.
                suppress_ragged_eofs=False,
                session=self._session,
            )
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from error

    def met(self, connected: socket.socket) -> None:
        """Take note of what makes the next handshake shorter."""
        if self._session is None and isinstance(connected, ssl.SSLSocket):
            self._session = connected.session


def _timed(addresses: list[Address]) -> list[tuple[Address, float]]:
    """Say for how long each is tried until the next is."""
    seconds = chain(TRIES, itertools.repeat(TRIES[-1]))
    return [*zip(addresses[:-1], seconds, strict=False), (addresses[-1], math.inf)]


def _addresses(name: str, port: int) -> list[Address]:
    """Look a name up; the two kinds of addresses by turns (RFC 8305, section 4)."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    kinds: dict[int, list[Address]] = {}
    for family, _, _, _, address in found:
        kinds.setdefault(family, []).append((family, address))
    by_turns = chain.from_iterable(zip_longest(*kinds.values()))
    return [address for address in by_turns if address is not None]


@functools.lru_cache(maxsize=8)
def _context(trusted: str | None) -> ssl.SSLContext:
    """Give what says whom to trust; to read it takes longer than to connect."""
    context = ssl.create_default_context()
    folder = ssl.get_default_verify_paths().capath
    known = context.cert_store_stats()["x509_ca"]
    if not known and not (folder is not None and os.listdir(folder)):  # noqa: PTH208
        # A Python that was built elsewhere does not find those of this system.
        import certifi

        context.load_verify_locations(certifi.where())
    if trusted is not None:
        context.load_verify_locations(trusted)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _told(code: int) -> tuple[int, str]:
    """Give a number of an error and its words, of which an error is made."""
    return code, os.strerror(code)


class Connection:
    """A connection to a host; it takes one request after the other.

    Parameters
    ----------
    host : Host
        Where it leads.
    selector : BaseSelector
        Told what is waited for, with this connection as data.
    buffer : memoryview
        Room for what comes; free again when a method returns.

    Raises
    ------
    OSError
        The host has no address.
    """

    _socket: socket.socket

    def __init__(self, host: Host, selector: BaseSelector, buffer: memoryview) -> None:
        self._host, self._selector, self._buffer = host, selector, buffer
        self._ways = iter(host.ways())
        self._failure: tuple[int | None, str] = _told(errno.EHOSTUNREACH)
        self._act: Callable[[Connection, float], None] = Connection._rest
        self._is_open = False
        self._watched = self._family = 0
        # When it is to be there, and when another way is to be tried.
        self._due = self._until = time.monotonic() + CONNECT_SECONDS
        self._data = memoryview(b"")
        self.exchange: Exchange | None = None
        """What it is at; None where it is free."""
        self.is_kept = False
        """Whether it had an answer before."""

    def ask(self, exchange: Exchange) -> None:
        """Send a request.

        Raises
        ------
        OSError, BrokenError
            There is no way by which it can be sent.
        """
        self.exchange, self._data = exchange, memoryview(exchange.written)
        if not self._is_open:
            self._dial()
        elif any(self._received()):
            # What came for nobody is not the answer to this.
            msg = "something came that was not asked for"
            raise BrokenError(msg)
        else:
            self._send()

    def turn(self, now: float) -> None:
        """Do what was waited for.

        Raises
        ------
        OSError, BrokenError
            The answer does not come this way.
        """
        self._act(self, now)

    def late(self, now: float, most: float) -> OSError | None:
        """Say that it takes too long, if it does.

        Parameters
        ----------
        now : float
            By `time.monotonic`.
        most : float
            Seconds for which nothing may come.
        """
        exchange = self.exchange
        if self._act in (Connection._connect, Connection._shake):
            if now > self._due:
                msg = f"no connection came about in {CONNECT_SECONDS:g} seconds"
                return TimeoutError(msg)
            if now > self._until:
                try:
                    self._dial()
                except OSError as error:
                    return error
        elif exchange is not None:
            if now - exchange.heard > most:
                return TimeoutError(f"nothing came for {most:g} seconds")
            if now - exchange.sent > WHOLE_SECONDS:
                return TimeoutError(f"it took more than {WHOLE_SECONDS:g} seconds")
        return None

    def _dial(self) -> None:
        """Try the next way; the last one's failure is that of all."""
        self._drop()
        for (family, address), seconds in self._ways:
            try:
                made = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                self._failure = error.errno, error.strerror or str(error)
                continue
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = made.connect_ex(address)
            if code in _UNDER_WAY:
                self._socket, self._is_open, self._family = made, True, family
                self._until = time.monotonic() + seconds
                self._wait(EVENT_WRITE, Connection._connect)
                return
            made.close()
            self._failure = _told(code)
        raise OSError(*self._failure)

    def _connect(self, _now: float) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failure = _told(code)
            self._dial()
            return
        self._host.reached(self._family)
        self._until, self._due = math.inf, time.monotonic() + CONNECT_SECONDS
        self._socket = self._host.secured(self._socket)
        self._shake()

    def _shake(self, _now: float = 0.0) -> None:
        if isinstance(self._socket, ssl.SSLSocket):
            try:
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(EVENT_READ, Connection._shake)
                return
            except ssl.SSLWantWriteError:
                self._wait(EVENT_WRITE, Connection._shake)
                return
        self._send()

    def _send(self, _now: float = 0.0) -> None:
        try:
            while self._data:
                self._data = self._data[self._socket.send(self._data) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._wait(EVENT_WRITE, Connection._send)
            return
        except ssl.SSLWantReadError:
            self._wait(EVENT_READ, Connection._send)
            return
        now = time.monotonic()
        if self.exchange is not None:
            self.exchange.sent = self.exchange.heard = now
        if self._host.asked is None:
            self._host.asked = now
        self._wait(EVENT_READ, Connection._read)

    def _read(self, now: float) -> None:
        exchange = self.exchange
        filled, closed = self._received()
        if exchange is None:
            if filled or closed:
                msg = "the connection was closed"
                raise BrokenError(msg)
            return
        if filled:
            exchange.take(self._buffer[:filled], now)
        if closed and not exchange.ended:
            exchange.close()
        if exchange.ended:
            exchange.keeps &= not closed
            self._host.met(self._socket)

    def _received(self) -> tuple[int, bool]:
        """Take what came; give how many bytes, and whether no more will."""
        connected, buffer, filled = self._socket, self._buffer, 0
        try:
            if not isinstance(connected, ssl.SSLSocket):
                filled = connected.recv_into(buffer)
                return filled, not filled
            # A record at a time; `recv_into` is a call more for each.
            read = cast("Callable[[int, memoryview], int]", connected.read)
            while filled <= len(buffer) - RECORD:
                came = read(RECORD, buffer[filled:])
                if not came:
                    return filled, True
                filled += came
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            # What came before is to be had; the next time it is said again.
            if not filled:
                raise
        return filled, False

    def _rest(self, _now: float) -> None:
        """Nothing is waited for."""

    def _wait(self, events: int, act: Callable[[Connection, float], None]) -> None:
        """Say what is waited for, and what is done then."""
        self._act = act
        if not self._watched:
            self._selector.register(self._socket, events, self)
        elif events != self._watched:
            self._selector.modify(self._socket, events, self)
        self._watched = events

    def release(self) -> bool:
        """Take note that the answer is over; say whether another may follow."""
        exchange, self.exchange = self.exchange, None
        self.is_kept = True
        return exchange is not None and exchange.ended and exchange.keeps

    def close(self) -> None:
        """Let go of it."""
        self._drop()
        self._act, self.exchange = Connection._rest, None

    def _drop(self) -> None:
        if self._is_open:
            if self._watched:
                self._selector.unregister(self._socket)
            self._socket.close()
        self._is_open, self._watched = False, 0
