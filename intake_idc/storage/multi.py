"""Many objects at once from one thread: a GET for each, by libcurl's multi interface.

Everything here is asked for once. What does not come as it should ends with an error,
and is for those who ask again; see `retrying`.
"""

from __future__ import annotations

import math
import os
import re
import time
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from intake_idc.errors import StorageError
from intake_idc.storage.engine import (
    CA_VARIABLES,
    CONNECT_SECONDS,
    check_range,
    status_error,
)
from intake_idc.storage.store import reader

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from intake_idc.storage.mirror import Mirror

__all__ = ["Multi", "Request", "asks_many"]

BUFFER = 256 << 10
"""Bytes of an answer that are taken at once; every thread has one such buffer."""
HELD, HELD_BY_ALL = 512 << 10, 12 << 20
"""Bytes of an answer that are handed over at once, and of all answers of a thread that
are held until then; libcurl gives them by 16 KiB."""
PIECES = 512
"""Pieces of an answer that are held, at most, however small a server sends them."""
SELECTED = 1000
"""Number from which on a file is too late for `select`, which knows 1,024."""
LOOK_SECONDS = 0.05
"""Seconds, at most, between two looks whether to stop."""
WHOLE_SECONDS = 3600
"""Seconds that one answer may take."""

_HOSTS = {
    "s3": "https://s3.us-east-1.amazonaws.com",
    "gs": "https://storage.googleapis.com",
}
_PLAIN = re.compile(r"[\w./-]*", re.ASCII)
"""What stands in a URL as it is."""
_OK, _PARTIAL = 200, 206
_IN, _OUT, _REMOVE, _TIMEOUT = 1, 2, 4, -1
"""What libcurl says of a socket: it is to be read, to be written, gone, or none."""
_NEXT = re.compile(rb"\r?\n(?=HTTP/)")
_STATUS = re.compile(rb"\s*HTTP/\S+ (\d{3})")
_HEADERS = {
    name: re.compile(rb"^" + name.encode() + rb":(.*)$", re.IGNORECASE | re.MULTILINE)
    for name in ("etag", "content-range", "retry-after")
}


def asks_many(mirror: Mirror) -> bool:
    """Whether a single mirror's objects can be asked for by `Multi`."""
    return mirror.engine is None and reader(mirror) == "obstore"


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

    def take(self, pieces: Sequence[bytes]) -> bool:
        """Take the bytes that follow; False if no more of them are wanted."""

    def end(self, etag: str | None, error: StorageError | None) -> None:
        """Take note that all bytes came, of which version, or why they did not."""


class Multi:
    """Sends requests to one mirror, many at a time, each once. One thread has it.

    Parameters
    ----------
    mirror : Mirror
        One of which `asks_many` holds.
    many : bool
        Whether hundreds of requests will be in flight, rather than some.
    """

    def __init__(self, mirror: Mirror, *, many: bool = False) -> None:
        import pycurl

        self._mirror = mirror
        self._roots: dict[str, tuple[str, str]] = {}
        self._multi = pycurl.CurlMulti()
        many = many or _next_file() >= SELECTED
        self._line = _Watched(self._multi) if many else _Polled(self._multi)
        self._live: dict[Any, _Handle] = {}
        self._free: list[_Handle] = []
        self._looked = 0.0
        self.latency: float | None = None
        """Seconds until the first byte of the fastest answer; None before one came."""

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
        try:
            while not stopped.is_set():
                self._fill(following)
                if not self._live:
                    return
                self._line.turn(lambda: self._ended(ended) and self._fill(following))
                self._leave_silent(ended)
        finally:
            self._close(ended)

    def _fill(self, following: Callable[[int], Request | None]) -> bool:
        """Begin as many requests as there shall be; give True."""
        while (request := following(len(self._live))) is not None:
            self._begin(request)
        return True

    def _begin(self, request: Request) -> None:
        handle = self._free.pop() if self._free else _Handle(self._mirror)
        root, url = self._root(request.bucket)
        if request.query:
            url = f"{url}?{request.query}"
        else:
            key = request.key
            url = f"{url}/{key if _PLAIN.fullmatch(key) else quote(key)}"
        held = HELD_BY_ALL // (len(self._live) + 1)
        handle.begin(request, url, f"{root}/{request.key}", min(held, HELD))
        self._multi.add_handle(handle.curl)
        self._live[handle.curl] = handle

    def _root(self, bucket: str) -> tuple[str, str]:
        """Give the root of a bucket as IDC writes it, and as it is asked for."""
        found = self._roots.get(bucket)
        if found is None:
            root = self._mirror.bucket_root(bucket)
            base = (self._mirror.endpoint_url or _HOSTS[self._mirror.scheme]).rstrip(
                "/"
            )
            found = root, f"{base}/{quote(root.split('://', 1)[1])}"
            self._roots[bucket] = found
        return found

    def _ended(self, ended: Callable[[], None]) -> bool:
        """Take note of what was answered; say whether there was something."""
        _, whole, broken = self._multi.info_read()
        for curl in whole:
            self._end(curl, "")
            ended()
        for curl, _, why in broken:
            self._end(curl, why)
            ended()
        return bool(whole or broken)

    def _end(self, curl: Any, why: str) -> None:
        handle = self._live.pop(curl)
        self._multi.remove_handle(curl)
        seconds = handle.latency()
        if seconds is not None:
            self.latency = min(seconds, self.latency or seconds)
        self._free.append(handle)
        handle.end(why)

    def _leave_silent(self, ended: Callable[[], None]) -> None:
        """Give up what nothing has come of for too long.

        libcurl would see it as well, but takes the average of some seconds more.
        """
        now, most = time.monotonic(), self._mirror.read_timeout
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        silent = [own for own in self._live.values() if now - own.heard() > most]
        for handle in silent:
            self._end(handle.curl, f"nothing came for {most:g} seconds")
            ended()

    def _close(self, ended: Callable[[], None]) -> None:
        for curl, handle in self._live.items():
            self._multi.remove_handle(curl)
            handle.end("it was given up")
            ended()
        for handle in (*self._live.values(), *self._free):
            handle.curl.close()
        self._live, self._free = {}, []
        self._multi.close()
        self._line.close()


class _Polled:
    """Looks at all requests every time: the least work where they are some."""

    def __init__(self, multi: Any) -> None:
        self._multi = multi

    def turn(self, more: Callable[[], bool]) -> None:
        """Do what can be done now, or wait until there is something, for a while.

        Parameters
        ----------
        more : callable
            Takes note of answers, and begins other requests; False if there are none.
        """
        self._multi.perform()
        if more():
            return
        due = self._multi.timeout()
        seconds = LOOK_SECONDS if due < 0 else min(LOOK_SECONDS, due / 1000)
        if seconds:
            self._multi.select(seconds)

    def close(self) -> None:
        """Let go of what is held."""


class _Watched:
    """Looks at requests that something came for: the least work where they are many.

    Each answer at once makes room for another request, while the others are read.
    """

    def __init__(self, multi: Any) -> None:
        import pycurl

        self._multi = multi
        self._selector = DefaultSelector()
        self._sockets: dict[int, int] = {}
        self._due = math.inf
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._wake)

    def turn(self, more: Callable[[], bool]) -> None:
        """Do what can be done now, or wait as `_Polled.turn` does."""
        seconds = min(LOOK_SECONDS, self._due - time.monotonic())
        events = self._selector.select(max(0.0, seconds))
        if time.monotonic() >= self._due:
            self._act(_TIMEOUT, 0, more)
        for key, mask in events:
            what = _IN * bool(mask & EVENT_READ) | _OUT * bool(mask & EVENT_WRITE)
            self._act(key.fd, what, more)
        more()

    def _act(self, socket: int, what: int, more: Callable[[], bool]) -> None:
        """Let libcurl do what there is to do for a socket."""
        if socket == _TIMEOUT:
            self._due = math.inf
        self._multi.socket_action(socket, what)
        if more():
            # Those that were begun are sent.
            self._multi.socket_action(_TIMEOUT, 0)

    def _watch(self, what: int, socket: int, _multi: object, _data: object) -> None:
        """Watch a socket from now on, for other events, or no more; libcurl says so."""
        events = EVENT_READ * bool(what & _IN) | EVENT_WRITE * bool(what & _OUT)
        before = self._sockets.pop(socket, 0)
        if what == _REMOVE or not events:
            if before:
                self._selector.unregister(socket)
            return
        if not before:
            self._selector.register(socket, events)
        elif before != events:
            self._selector.modify(socket, events)
        self._sockets[socket] = events

    def _wake(self, milliseconds: int) -> None:
        """Say when there is something to do whatever happens; libcurl says so."""
        never = milliseconds < 0
        self._due = math.inf if never else time.monotonic() + milliseconds / 1000

    def close(self) -> None:
        """Let go of what is held."""
        self._selector.close()


class _Handle:
    """What libcurl needs of one connection; taken up again by request after request."""

    def __init__(self, mirror: Mirror) -> None:
        import pycurl

        self._mirror = mirror
        self._lines: list[bytes] = []
        self._ranged = False
        self.curl = curl = pycurl.Curl()
        for option, value in (
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            # In a thread no signal may be used.
            (pycurl.NOSIGNAL, 1),
            (pycurl.USERAGENT, "intake-idc"),
            # A key may have dots between slashes, and is no path.
            (pycurl.PATH_AS_IS, 1),
            (pycurl.BUFFERSIZE, BUFFER),
            (pycurl.CONNECTTIMEOUT_MS, round(CONNECT_SECONDS * 1000)),
            (pycurl.TIMEOUT, WHOLE_SECONDS),
            (pycurl.HEADERFUNCTION, self._lines.append),
            (pycurl.WRITEFUNCTION, self._take),
        ):
            curl.setopt(option, value)
        trusted = _trusted(mirror)
        if trusted:
            curl.setopt(pycurl.CAINFO, trusted)
        if os.name == "nt":
            curl.setopt(pycurl.SSL_OPTIONS, pycurl.SSLOPT_NATIVE_CA)

    def begin(self, request: Request, url: str, name: str, most: int) -> None:
        """Take up a request.

        Parameters
        ----------
        request : Request
            What takes the answer.
        url, name : str
            Where it is sent, and what it is called in errors.
        most : int
            Bytes of the answer to hold.
        """
        import pycurl

        self._request, self._name, self._most = request, name, most
        self._lines.clear()
        self._told, self._heard = 0, time.monotonic()
        self._right: bool | None = None
        self._block: bytes | None = None
        self._refused = False
        self._pieces: list[bytes] = []
        self._held = 0
        self.curl.setopt(pycurl.URL, url)
        if self._ranged:
            self.curl.unsetopt(pycurl.RANGE)
        start, stop = request.start, request.stop
        self._ranged, self._start = bool(start or stop is not None), start
        if self._ranged:
            self.curl.setopt(
                pycurl.RANGE, f"{start}-{'' if stop is None else stop - 1}"
            )

    def heard(self) -> float:
        """Give when something came, by `time.monotonic`; or when it was begun."""
        # Of headers no time is told, only how many there are.
        if len(self._lines) != self._told:
            self._told, self._heard = len(self._lines), time.monotonic()
        return self._heard

    def _take(self, data: bytes) -> int | None:
        self._heard = time.monotonic()
        self._pieces.append(data)
        self._held += len(data)
        room = self._held < self._most and len(self._pieces) < PIECES
        return None if room or self._hand_over() else -1

    def _hand_over(self) -> bool:
        """Give the request what came; False where that is no more wanted."""
        if not self._pieces:
            return True
        if self._right is None:
            self._right = self._error("") is None
        pieces, self._pieces, self._held = self._pieces, [], 0
        if self._right and self._request.take(pieces):
            return True
        self._refused = self._right
        return False

    def latency(self) -> float | None:
        """Give the seconds until the first byte; None where none came."""
        import pycurl

        if not self._lines:
            return None
        first: float = self.curl.getinfo(pycurl.STARTTRANSFER_TIME)
        sent: float = self.curl.getinfo(pycurl.PRETRANSFER_TIME)
        return max(0.0, first - sent)

    def end(self, why: str) -> None:
        """Tell the request how it ended."""
        self._hand_over()
        if self._refused:
            why = "no more of it was wanted"
        error = self._error("" if self._right is False else why)
        # What it holds is let go of before this is taken up again.
        request = self._request
        del self._request
        request.end(self._etag(), error)

    def _error(self, why: str) -> StorageError | None:
        status = self._status()
        if status and status not in (_OK, _PARTIAL):
            return status_error(self._name, status, wait=self._header("retry-after"))
        if why:
            return StorageError(f"{self._name}: {why}", url=self._name)
        if self._ranged or status != _OK:
            said = {"Content-Range": self._header("content-range")}
            try:
                check_range(self._name, said, self._start, status)
            except StorageError as error:
                return error
        return None

    @property
    def _head(self) -> bytes:
        """Status and headers of the answer; not those of a proxy, or of one before."""
        # libcurl tells nothing of them while it hands over the bytes.
        if self._block is None:
            self._block = _NEXT.split(b"".join(self._lines))[-1]
        return self._block

    def _status(self) -> int:
        """Give the status of the answer; 0 where there is none."""
        found = _STATUS.match(self._head)
        return int(found[1]) if found else 0

    def _header(self, name: str) -> str:
        """Give a header of the answer; "" where it has none."""
        found = _HEADERS[name].search(self._head)
        return found[1].decode("latin-1").strip() if found else ""

    def _etag(self) -> str | None:
        return self._mirror.tag(self._header("etag") or None)


def _next_file() -> int:
    """Give the number that the next file to be opened will have."""
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


def _trusted(mirror: Mirror) -> str | None:
    """Give the file of certificates to trust, where the environment names one."""
    own, usual = (os.environ.get(name) for name in CA_VARIABLES)
    return (own if mirror.scheme == "s3" else None) or usual
