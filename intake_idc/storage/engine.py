"""Engines: what asks one bucket once, behind one small protocol."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from intake_idc.errors import (
    AccessDenied,
    IDCError,
    ObjectChanged,
    ObjectNotFound,
    StorageError,
)
from intake_idc.storage.retrying import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import obstore

    Data = bytes | memoryview | obstore.Bytes
    """Bytes as a transport gives them: with a length, and without a copy."""

__all__ = [
    "CA_VARIABLES",
    "CHUNK",
    "CONNECT_SECONDS",
    "NOWHERE",
    "OWN_HOSTS",
    "Answer",
    "Engine",
    "Stored",
    "check_range",
    "check_same",
    "check_status",
    "check_told",
    "elsewhere",
    "same_version",
    "translated",
]

CA_VARIABLES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")
"""Environment variables that name a file of certificates to trust: that of Amazon's
tools, and that of OpenSSL, which most others read as well."""
CHUNK = 1 << 20
"""Bytes that are held at once when an object is streamed."""
CONNECT_SECONDS = 5.0
"""Seconds to connect in."""
OWN_HOSTS = {"s3": ".amazonaws.com", "gs": ".googleapis.com"}
"""Hosts of the public stores, among which an answer may lead."""
NOWHERE = "127.0.0.1:0"
"""An address that cannot be: what is sent there fails, and the error names it."""
UNSEEN_WAIT = 5
"""Seconds to leave a store alone that says "too many requests", where the transport
does not let us see for how long."""


@dataclass(frozen=True)
class Stored:
    """One object, as a store lists it."""

    key: str
    """Key below the bucket's root."""
    size: int
    """Bytes."""
    etag: str | None = None
    """What changes when the object does: its entity tag, or inode, size and time of
    a file; None where the store tells neither."""


class Answer(NamedTuple):
    """Some bytes of an object, and of which version of it they are."""

    data: Data
    """The bytes, as the transport holds them; ``bytes(data)`` is a copy of them."""
    etag: str | None
    """Entity tag; None where the engine does not tell it with the bytes."""
    total: int | None = None
    """Bytes of the whole object, where they came with a range."""


class Engine(Protocol):
    """Asks one bucket of one mirror, each time once. Threads may share it.

    Whatever the transport raises arrives as `StorageError` or a kind of it.
    """

    tells: bool
    """Whether an answer says of which version its bytes are."""
    holds: int
    """Bytes that a stream holds at once, in every buffer; about."""

    def list(self, prefix: str) -> list[Stored]:
        """List the objects below a prefix, in order of their keys."""

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Give the names of the folders right below a prefix, sorted."""

    def get(self, key: str, start: int, stop: int | None) -> Answer:
        """Read bytes ``start`` to ``stop`` (None: the end); fewer if it ends before."""

    def pieces(
        self, key: str, start: int, stop: int | None, chunk: int
    ) -> Iterator[Answer]:
        """Read bytes ``start`` to ``stop`` in pieces of about ``chunk`` bytes."""

    def tag(self, key: str) -> str | None:
        """Give the tag that an object has now."""


_OK, _PARTIAL, _ELSEWHERE, _WRONG = 200, 206, 300, 400
_DENIED, _UNKNOWN, _CHANGED = frozenset({401, 403}), frozenset({404, 410}), 412
_TOO_MANY = 429
_AGAIN = frozenset({408, _TOO_MANY, 500, 502, 503, 504})
_MD5 = re.compile(r"[0-9a-f]{32}")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what a transport raises into this package's errors."""
    try:
        yield
    except IDCError:
        raise
    except Exception as error:
        raise _translation(error, url) from error


def _translation(error: Exception, url: str) -> StorageError:
    for cause in _causes(error):
        if isinstance(cause, StorageError):
            # Raised within a transport, by what stops redirects.
            return elsewhere(url)
        status, wait = _status(cause)
        if status is not None:
            code = _CODE.search(str(cause))
            return status_error(url, status, code[1] if code else "", wait)
    text = str(error)
    reason = text.splitlines()[0] if text else ""
    if isinstance(error, FileNotFoundError):
        return ObjectNotFound(f"no object at {url}", url=url)
    if isinstance(error, PermissionError):
        return AccessDenied(f"{url}: {reason or 'permission denied'}", url=url)
    if f"{NOWHERE}," in text or "redirect without LOCATION" in text:
        return elsewhere(url)
    msg = f"{url}: {type(error).__name__}: {reason}"
    final = isinstance(error, _OWN_FAULTS) or "non-partial response" in text
    return StorageError(msg, url=url, transient=not final)


_OWN_FAULTS = (ImportError, NotImplementedError, TypeError, IsADirectoryError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_error(
    url: str, status: int, reason: str = "", wait: str = ""
) -> StorageError:
    """Give the error for a status of HTTP, and for its ``Retry-After``."""
    said = {"url": url, "status": status}
    if status in _UNKNOWN:
        return ObjectNotFound(f"no object at {url}", **said)
    if status in _DENIED:
        msg = f"{url}: the store denies access (status {status})"
        return AccessDenied(msg, **said)
    if status == _CHANGED:
        return ObjectChanged(f"{url} changed while it was read", **said)
    if _ELSEWHERE <= status < _WRONG:
        return elsewhere(url, status=status)
    again = status in _AGAIN
    msg = f"{url}: the store answers {status}{f' ({reason})' if reason else ''}"
    return StorageError(msg, **said, transient=again, retry_after=seconds_of(wait))


def elsewhere(url: str, **details: Any) -> StorageError:
    """Give the error for an answer that leads to another host."""
    msg = f"{url}: the store leads to another host, which is not asked"
    return StorageError(msg, url=url, transient=False, **details)


def check_status(url: str, status: int, wait: str = "") -> None:
    """Refuse an answer whose status says that it is no object.

    Raises
    ------
    StorageError
        It does.
    """
    if not _OK <= status < _ELSEWHERE:
        raise status_error(url, status, wait=wait)


def _status(error: BaseException) -> tuple[int | None, str]:
    """Find the status of HTTP in what a transport raised, and ``Retry-After``."""
    found = getattr(error, "response", None)
    if isinstance(found, dict) and "HTTPStatusCode" in found.get(
        "ResponseMetadata", {}
    ):
        meta = found["ResponseMetadata"]
        wait = meta.get("HTTPHeaders", {}).get("retry-after", "")
        return int(meta["HTTPStatusCode"]), wait
    if type(error).__name__ in ("ClientResponseError", "HttpError"):
        # aiohttp's has a status, gcsfs's a code, which may be text.
        value = str(getattr(error, "status", None) or getattr(error, "code", None))
        headers = getattr(error, "headers", None) or {}
        return int(value) if value.isdecimal() else None, headers.get("Retry-After", "")
    match = _STATUS.search(str(error))
    if match is None:
        return None, ""
    status = int(match[1])
    return status, str(UNSEEN_WAIT) if status == _TOO_MANY else ""


def check_range(
    url: str, headers: Mapping[str, str], start: int, status: int | None = None
) -> int | None:
    """Refuse an answer to a range that is not of it; give the size of the object.

    Raises
    ------
    StorageError
        The server did not heed the range: it gave the whole, or a page.
    """
    said = headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)", said)
    if found is None or int(found[1]) != start:
        said = f"status {status}" if status is not None else "no such range"
        msg = f"{url}: a range was asked for, and the store answers with {said}"
        raise StorageError(msg, url=url, transient=False)
    return None if found[2] == "*" else int(found[2])


def check_same(url: str, expected: str | None, found: str | None) -> None:
    """Hold the tag of what was read against the one expected, if both are known.

    Raises
    ------
    ObjectChanged
        They differ.
    """
    if expected and found and same_version(expected, found) is False:
        msg = (
            f"{url} changed after it was listed or begun: it was {expected}, now "
            f"{found}; list its series anew"
        )
        raise ObjectChanged(msg, url=url, expected=expected, got=found)


def check_told(url: str, expected: str | None, found: str | None) -> None:
    """Hold a tag as `check_same` does, of a store that gives one with every answer.

    Raises
    ------
    StorageError
        There is none with this one: a page that something in between put there may
        well have the size of the object.
    ObjectChanged
        They differ.
    """
    if expected and not found:
        msg = (
            f"{url}: the answer has no entity tag, and the store listed one; it is not "
            "the store that answers"
        )
        raise StorageError(msg, url=url, transient=False)
    check_same(url, expected, found)


def same_version(one: str | None, other: str | None) -> bool | None:
    """Whether two tags are of one version of an object; None where that is not told.

    Of several mirrors, a tag of another than the first has that one's name before it,
    and a space. Each makes its tags in its own way, so those of two mirrors say
    something of each other only where both are the MD5 of the object.
    """
    if not one or not other:
        return None
    origin, tag = _bare(one)
    other_origin, other_tag = _bare(other)
    told = origin == other_origin or (_MD5.fullmatch(tag) and _MD5.fullmatch(other_tag))
    return tag == other_tag if told else None


def _bare(etag: str) -> tuple[str, str]:
    origin, _, tag = etag.rpartition(" ")
    # A front that compresses calls the same tag a weak one.
    return origin, tag.removeprefix("W/").strip('"')
