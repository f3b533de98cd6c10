"""One web server, asked with care: for answers that are small, and never trusted.

It is a host that somebody allowed, by HTTPS, at a public address. What it sends is
bounded in bytes and time; it cannot send us elsewhere; it is asked again, more and more
slowly, where it is busy, and not at all before the time that it names.

It stands on `http.client` and not on a larger library: that follows no redirect by
itself, keeps its connections, and lets the address be checked that is connected to.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import random
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from intake_idc._version import __version__
from intake_idc.errors import RequestError, StorageError
from intake_idc.storage.retrying import seconds_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["LARGEST", "Answer", "Web"]

LARGEST = 1 << 20
"""Bytes of an answer; more are not read."""
ATTEMPTS = 5
"""Times that one thing is asked for."""
LONGEST_WAIT = 60.0
"""Seconds that a server may ask to be left alone; longer is an error."""
_LONGEST_BACKOFF = 15.0
_REDIRECTS = 3
_PIECE = 1 << 16
_AGAIN = frozenset({202, 408, 429, 500, 502, 503, 504})
"""Answers that mean: ask later."""
_ELSEWHERE = frozenset({301, 302, 303, 307, 308})
_PORTS = {"https": 443, "http": 80}
Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Where a network of IPv6 alone has the addresses of IPv4 (RFC 6052)."""
_COMPATIBLE = ipaddress.ip_network("::/96")
"""IPv4 in IPv6 as it once was (RFC 4291, 2.5.5.1): nobody is there."""


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    url: str
    """What was asked for, without a query."""
    status: int
    """Status of HTTP."""
    body: bytes | None
    """The body; None where it is larger than `LARGEST`."""
    kind: str = ""
    """Its media type, as the server says."""
    wait: str = ""
    """``Retry-After``."""

    def json(self) -> Any:
        """Give the body as JSON.

        Raises
        ------
        StorageError
            It is none: the page of a proxy, or no such server at all.
        """
        try:
            return json.loads(self.body or b"")
        except (ValueError, RecursionError) as error:
            kind = self.kind.split(";")[0] or "no media type"
            msg = f"{self.url} answers {self.status} with {kind}, which is no JSON"
            raise StorageError(msg, url=self.url, status=self.status) from error


class Web:
    """One server. It may be asked from many threads.

    Parameters
    ----------
    endpoint : str
        ``https://host``; ``http://`` only where the host is this machine.
    allowed : collection of str
        Hosts that may be asked, ``host`` or ``host:port``. This machine may always be.
    timeout : float
        Seconds to connect in, and that the server may be silent; an answer has four
        times as long.
    backoff : float
        Seconds, at most, before the second try; twice as many before each other.

    Raises
    ------
    RequestError
        The endpoint is no such URL, or its host is not allowed.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        allowed: Collection[str],
        timeout: float = 30.0,
        backoff: float = 0.5,
    ) -> None:
        try:
            split = urlsplit(endpoint)
            host, port = (split.hostname or "").lower(), split.port
        except ValueError as error:
            msg = f"the endpoint {endpoint!r} is no URL: {error}"
            raise RequestError(msg, endpoint=endpoint) from error
        if "@" in split.netloc:
            # Not repeated: it may be a password.
            msg = "an endpoint is https://host, without a user name or password"
            raise RequestError(msg)
        if not host or split.path.strip("/") or split.query or split.fragment:
            msg = f"an endpoint is https://host, with nothing behind; got {endpoint!r}"
            raise RequestError(msg, endpoint=endpoint)
        self.local = _is_loopback(host)
        if split.scheme != "https" and not (self.local and split.scheme == "http"):
            msg = f"an endpoint is asked by https; got {endpoint!r}"
            raise RequestError(msg, endpoint=endpoint)
        named = host if port in (None, _PORTS["https"]) else f"{host}:{port}"
        if not self.local and named not in {name.lower() for name in allowed}:
            msg = (
                f"{named!r} is not among the hosts that may be asked: "
                f"{', '.join(sorted(allowed))}; allow_hosts=[{named!r}] lets it be"
            )
            raise RequestError(msg, endpoint=endpoint)
        self.host, self.port = host, port or _PORTS[split.scheme]
        self._timeout, self._backoff = timeout, backoff
        self._tls = ssl.create_default_context() if split.scheme == "https" else None
        self.root = f"{split.scheme}://{split.netloc}"
        self._own = threading.local()
        self._all: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._not_before = 0.0

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            for connection in self._all:
                connection.close()
            self._all.clear()

    def get(self, path: str) -> Answer:
        """Ask for a path; see `post`."""
        return self._ask("GET", path, None)

    def post(self, path: str, document: Any) -> Answer:
        """Send JSON to a path that only looks something up.

        Raises
        ------
        StorageError
            The server cannot be reached, stays busy, sends half an answer, or sends
            us to another host.
        RequestError
            Its address is not public.
        """
        return self._ask("POST", path, json.dumps(document).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                longest = min(_LONGEST_BACKOFF, self._backoff * 2 ** (attempt - 1))
                time.sleep(random.uniform(0, longest))  # noqa: S311  (not a secret)
            self._wait()
            try:
                answer = self._followed(method, path, body)
            except (StorageError, ssl.SSLCertVerificationError) as error:
                if isinstance(error, StorageError):
                    raise
                msg = f"{self.root} is not who it says: {error.verify_message}"
                raise StorageError(msg, url=self.root) from error
            except (OSError, http.client.HTTPException) as error:
                reason = f"{type(error).__name__}: {error}".strip(": ")
                continue
            if answer.status not in _AGAIN:
                return answer
            reason = f"it answers {answer.status}"
            self._leave_alone(answer)
        msg = f"{self.root}{path} was asked for {ATTEMPTS} times; {reason}"
        raise StorageError(msg, url=f"{self.root}{path}")

    def _wait(self) -> None:
        """Wait until the time that the server named to any thread."""
        while (left := self._not_before - time.monotonic()) > 0:
            time.sleep(left)

    def _leave_alone(self, answer: Answer) -> None:
        seconds = seconds_of(answer.wait)
        if seconds > LONGEST_WAIT:
            msg = (
                f"{self.root} answers {answer.status} and asks to be left alone for "
                f"{seconds:,.0f} s; try again then"
            )
            raise StorageError(msg, url=answer.url, retry_after=seconds)
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _followed(self, method: str, path: str, body: bytes | None) -> Answer:
        """Ask once, and go where it is sent on the same host."""
        for _ in range(_REDIRECTS + 1):
            answer, leads = self._once(method, path, body)
            if leads is None:
                return answer
            try:
                target = urlsplit(urljoin(answer.url, leads))
                here = self._is_here(target)
            except ValueError as error:
                # Not repeated: a user name and password may be in it.
                msg = f"{answer.url} leads to what is no URL"
                raise StorageError(msg, url=answer.url) from error
            if not here:
                place = f"{target.scheme}://{target.hostname}"
                msg = f"{answer.url} leads to {place}, which is not asked"
                raise StorageError(msg, url=answer.url)
            path = target.path + (f"?{target.query}" if target.query else "")
            if not (path.isascii() and path.isprintable()) or " " in path:
                msg = f"{answer.url} leads to a path that no URL has"
                raise StorageError(msg, url=answer.url)
        msg = f"{answer.url} leads on and on"
        raise StorageError(msg, url=answer.url)

    def _is_here(self, target: SplitResult) -> bool:
        own = urlsplit(self.root)
        return (
            target.scheme == own.scheme
            and (target.hostname or "").lower() == self.host
            and (target.port or _PORTS[own.scheme]) == self.port
            and "@" not in target.netloc
        )

    def _once(
        self, method: str, path: str, body: bytes | None
    ) -> tuple[Answer, str | None]:
        """Ask once; give the answer, and where it leads, if it does."""
        headers = {
            "Accept": "application/json",
            "User-Agent": f"intake-idc/{__version__}",
            **({} if body is None else {"Content-Type": "application/json"}),
        }
        url = self.root + path.split("?", 1)[0]
        connection = self._connection()
        try:
            with _within(connection, 4 * self._timeout):
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                data = _bounded(response)
        except BaseException:
            connection.close()
            raise
        if data is None or response.will_close:
            connection.close()
        leads = None
        if response.status in _ELSEWHERE:
            leads = response.getheader("Location") or ""
        answer = Answer(
            url,
            response.status,
            data,
            response.getheader("Content-Type") or "",
            response.getheader("Retry-After") or "",
        )
        return answer, leads

    def _connection(self) -> http.client.HTTPConnection:
        """Give this thread's own connection."""
        found: http.client.HTTPConnection | None = getattr(self._own, "it", None)
        if found is None:
            found = self._own.it = self._connect()
            with self._lock:
                self._all.append(found)
        return found

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return _Plain(self.host, self.port, timeout=self._timeout)
        proxy = getproxies().get("https")
        if proxy and not self.local and not proxy_bypass(self.host):
            # The proxy finds the address; it is the user's own.
            there = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            through = http.client.HTTPSConnection(
                there.hostname or "",
                there.port or 3128,
                timeout=self._timeout,
                context=self._tls,
            )
            through.set_tunnel(self.host, self.port, _authorised(there))
            return through
        return _Secure(self.host, self.port, self._timeout, self._tls, self.local)


class _Plain(http.client.HTTPConnection):
    """A connection to this machine and no other."""

    def connect(self) -> None:
        self.sock = _socket(self.host, self.port, self.timeout, local=True)


class _Secure(http.client.HTTPSConnection):
    """A connection to the address that was checked."""

    def __init__(
        self,
        host: str,
        port: int,
        timeout: float,
        context: ssl.SSLContext,
        local: bool,
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls, self._local = context, local

    def connect(self) -> None:
        plain = _socket(self.host, self.port, self.timeout, local=self._local)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def _socket(
    host: str, port: int, timeout: float | None, *, local: bool
) -> socket.socket:
    """Connect to a host whose every address is public, or every one this machine."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not _may_be_asked(str(address[0]), local=local):
            msg = f"{host} is at {address[0]}, which is no address to be asked"
            raise RequestError(msg, host=host)
    last: OSError | None = None
    for family, kind, protocol, _, address in found:
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(timeout)
            connected.connect(address)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connected.close()
            last = error
        else:
            return connected
    raise last or OSError(f"{host} has no address")


def _may_be_asked(text: str, *, local: bool) -> bool:
    address = ipaddress.ip_address(text.split("%", 1)[0])
    inner = _inner(address)
    if local:
        return inner.is_loopback and address not in _NAT64
    public = inner.is_global and not inner.is_multicast
    return public and address not in _COMPATIBLE


def _inner(address: Address) -> Address:
    """Give the IPv4 address that an IPv6 address stands for, or the address itself."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _authorised(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


@contextmanager
def _within(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Hang up after some seconds: every byte may be in time, and the last never come.

    Raises
    ------
    TimeoutError
        It was too late.
    """
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        with suppress(OSError):
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if not late.is_set():
            raise
        failure = error
    finally:
        timer.cancel()
    # A header that was cut is taken for a whole one.
    if late.is_set():
        msg = f"an answer was not there after {seconds:g} s"
        raise TimeoutError(msg) from failure


def _bounded(response: http.client.HTTPResponse) -> bytes | None:
    """Read an answer; None where it is too large."""
    if response.length is not None and response.length > LARGEST:
        return None
    pieces, size = [], 0
    while piece := response.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST:
            return None
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    # Reading piece by piece does not say that the connection is free again.
    response.close()
    return b"".join(pieces)
