"""Any place that fsspec reads; S3, GCS and plain web servers by the requests they are.

fsspec's own calls say neither of which version the bytes are nor which status came,
and s3fs and gcsfs try again by themselves. So of those three the requests are made
here, by their sessions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake_idc.errors import MirrorError, MissingError, StorageError, WrongSize
from intake_idc.storage.engine import (
    CA_VARIABLES,
    CHUNK,
    CONNECT_SECONDS,
    OWN_HOSTS,
    Answer,
    Stored,
    check_range,
    check_status,
    elsewhere,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fsspec import AbstractFileSystem

    from intake_idc.storage.mirror import Mirror

__all__ = ["CONNECTIONS", "filesystem", "fsspec_engine"]

CONNECTIONS = 64
"""Connections that a store keeps open; s3fs stops at 10 unless told."""
_PIECE = 4 * CHUNK


def fsspec_engine(mirror: Mirror, root: str) -> _Files:
    """Give the engine for one bucket of a mirror."""
    kinds = {"s3": _S3, "gs": _GCS, "http": _Web, "https": _Web, "file": _Folder}
    return kinds.get(mirror.scheme, _Files)(mirror, root)


class _Files:
    """A file system that is known by fsspec's own calls alone."""

    tells = False
    # The pieces of the body, and the whole that they are joined to.
    holds = 2 * _PIECE

    def __init__(self, mirror: Mirror, root: str) -> None:
        self._filesystem = filesystem(mirror)
        # Called "private" and documented for whoever uses a file system by URL.
        strip = self._filesystem._strip_protocol  # noqa: SLF001
        self._root = str(strip(root)).rstrip("/")
        self._shown = root

    def list(self, prefix: str) -> list[Stored]:
        folder = f"{self._root}/{prefix}".rstrip("/")
        with translated(f"{self._shown}/{prefix}"):
            found = self._filesystem.find(folder, detail=True)
        cut = len(self._root) + 1
        return sorted(
            (
                Stored(path[cut:], int(info["size"]), _tag(info))
                for path, info in found.items()
            ),
            key=lambda stored: stored.key,
        )

    def folders(self, prefix: str) -> tuple[str, ...]:
        folder = f"{self._root}/{prefix}".rstrip("/")
        with translated(f"{self._shown}/{prefix}"):
            found = self._filesystem.ls(folder, detail=True)
        names = [info["name"] for info in found if info["type"] == "directory"]
        return tuple(sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in names))

    def get(self, key: str, start: int, stop: int | None) -> Answer:
        path = f"{self._root}/{key}"
        part = {} if start == 0 and stop is None else {"start": start, "end": stop}
        with translated(f"{self._shown}/{key}"):
            return Answer(bytes(self._filesystem.cat_file(path, **part)), None)

    def pieces(
        self, key: str, start: int, stop: int | None, chunk: int
    ) -> Iterator[Answer]:
        # Not by open(): what it gives may be one file for all threads, as in memory.
        path, most = f"{self._root}/{key}", max(chunk, _PIECE)
        with translated(f"{self._shown}/{key}"):
            end = int(self._filesystem.info(path)["size"]) if stop is None else stop
            while start < end:
                to = min(start + most, end)
                data = bytes(self._filesystem.cat_file(path, start=start, end=to))
                if not data:
                    return
                start += len(data)
                yield Answer(data, None)

    def tag(self, key: str) -> str | None:
        path = f"{self._root}/{key}"
        with translated(f"{self._shown}/{key}"):
            return _tag(self._filesystem.info(path))


class _Folder(_Files):
    """A folder: the state of a file is told with the bytes that were read of it."""

    tells = True

    def get(self, key: str, start: int, stop: int | None) -> Answer:
        path = Path(f"{self._root}/{key}")
        with translated(f"{self._shown}/{key}"), path.open("rb") as file:
            file.seek(start)
            data = file.read(-1 if stop is None else max(0, stop - start))
            return Answer(data, _state(os.fstat(file.fileno())))

    def pieces(
        self, key: str, start: int, stop: int | None, chunk: int
    ) -> Iterator[Answer]:
        path = Path(f"{self._root}/{key}")
        with translated(f"{self._shown}/{key}"), path.open("rb", buffering=0) as file:
            file.seek(start)
            at = start
            while data := file.read(chunk if stop is None else min(chunk, stop - at)):
                at += len(data)
                yield Answer(data, _state(os.fstat(file.fileno())))


class _Ranges(_Files):
    """A file system of requests, each of which says what it gives."""

    tells = True

    def get(self, key: str, start: int, stop: int | None) -> Answer:
        if stop is not None and start >= stop:
            return Answer(b"", None)
        url, path = f"{self._shown}/{key}", f"{self._root}/{key}"
        headers = {}
        if start or stop is not None:
            headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        with translated(url):
            from fsspec.asyn import sync

            data, found, status = sync(
                self._filesystem.loop, self._ask, self._filesystem, path, headers
            )
            check_status(url, status, found.get("Retry-After", ""))
            total = check_range(url, found, start, status) if headers else None
            return Answer(data, found.get("ETag"), total)

    def pieces(
        self, key: str, start: int, stop: int | None, chunk: int
    ) -> Iterator[Answer]:
        # Each piece is a request of its own, which small ones would not be worth.
        most = max(chunk, _PIECE)
        total = start + 1
        while start < total and (stop is None or start < stop):
            end = start + most if stop is None else min(start + most, stop)
            found = self.get(key, start, end)
            url = f"{self._shown}/{key}"
            if found.total is None:
                msg = f"{url}: the store does not say how large the object is"
                raise StorageError(msg, url=url, transient=False)
            total, got = found.total, len(found.data)
            expected = min(end, total) - start
            if got != expected:
                msg = f"{url}: got {got} bytes from {start} on, announced: {expected}"
                raise WrongSize(msg, url=url, got=got, expected=expected)
            start += got
            yield found

    @staticmethod
    async def _ask(
        filesystem: Any, url: str, headers: dict[str, str]
    ) -> tuple[bytes, Mapping[str, str], int]:
        """Send one GET; give the body, headers with the usual case, the status."""
        raise NotImplementedError


class _S3(_Ranges):
    @staticmethod
    async def _ask(
        filesystem: Any, url: str, headers: dict[str, str]
    ) -> tuple[bytes, Mapping[str, str], int]:
        bucket, key, _ = filesystem.split_path(url)
        found = await filesystem._call_s3(  # noqa: SLF001  (call_s3, inside a loop)
            "get_object", Bucket=bucket, Key=key, **headers
        )
        async with found["Body"] as body:
            data = await body.read()
        said = {"ETag": found.get("ETag"), "Content-Range": found.get("ContentRange")}
        known = {name: value for name, value in said.items() if value}
        return data, known, found["ResponseMetadata"]["HTTPStatusCode"]


class _GCS(_Ranges):
    @staticmethod
    async def _ask(
        filesystem: Any, url: str, headers: dict[str, str]
    ) -> tuple[bytes, Mapping[str, str], int]:
        found, data = await filesystem._call(  # noqa: SLF001  (of every async method)
            "GET", filesystem.url(url), headers=headers
        )
        # Its entity tag is not that of a listing; the generation is.
        tag = found.get("X-Goog-Generation")
        return data, {**found, "ETag": tag} if tag else found, 200


class _Web(_Ranges):
    """A plain web server: objects whose names are known, and no listing."""

    def list(self, prefix: str) -> list[Stored]:
        raise _unlistable(f"{self._shown}/{prefix}")

    def folders(self, prefix: str) -> tuple[str, ...]:
        raise _unlistable(f"{self._shown}/{prefix}")

    @staticmethod
    async def _ask(
        filesystem: Any, url: str, headers: dict[str, str]
    ) -> tuple[bytes, Mapping[str, str], int]:
        session = await filesystem.set_session()
        options = dict(filesystem.kwargs)
        # Of a compressed answer neither the range nor the length is that of the object.
        own = {**options.pop("headers", {}), "Accept-Encoding": "identity", **headers}
        address = filesystem.encode_url(url)
        async with session.get(address, headers=own, **options) as found:
            return await found.read(), found.headers, found.status


def _unlistable(url: str) -> StorageError:
    msg = (
        f"{url}: a plain web server has no listing that can be relied on; if it speaks "
        "S3, give mirror='s3://...' and its address as endpoint_url, else read objects "
        "whose names are known, by with_instances(...)"
    )
    return StorageError(msg, url=url, transient=False)


def _tag(info: Mapping[str, Any]) -> str | None:
    """Give the tag of an object, as a web server makes one of a file's state."""
    if info.get("islink") and "ino" in info:
        # Of a link a listing gives the state of itself, and a look-up that of the file.
        try:
            return _state(Path(info["name"]).stat())
        except OSError:
            return None
    if "ino" in info:
        return f"{info['ino']:x}-{info['size']:x}-{info['mtime']}"
    if info.get("kind") == "storage#object":
        return str(info["generation"])
    tag: str | None = info.get("ETag")
    return tag


def _state(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime}"


def filesystem(mirror: Mirror) -> AbstractFileSystem:
    """Give the fsspec file system of a mirror, with this package's settings.

    gcsfs is entered by `gcsfs.core`: the class that gcsfs puts in the registry asks
    every bucket for its type by gRPC first, which an anonymous user does not need
    and which hangs for a minute wherever only HTTP is let through.
    """
    import fsspec

    options: dict[str, Any] = dict(mirror.storage_options)
    if mirror.scheme == "s3":
        config = {
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": mirror.read_timeout,
            # `retrying` tries again, for all engines alike.
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "http_session_cls": _s3_session(),
            **options.pop("config_kwargs", {}),
        }
        own, usual = (os.environ.get(name) for name in CA_VARIABLES)
        if usual and not own:
            # botocore knows its own variable alone.
            client = {"verify": usual, **options.pop("client_kwargs", {})}
            options["client_kwargs"] = client
        options = {
            "anon": mirror.anon,
            "endpoint_url": mirror.endpoint_url,
            "config_kwargs": config,
            "use_listings_cache": False,
            # Not one of the user's own: it is set up below.
            "skip_instance_cache": True,
            **options,
        }
        made = fsspec.filesystem("s3", **options)
        made.retries = 1
        return made
    if mirror.scheme == "gs":
        options = {
            "token": "anon" if mirror.anon else None,
            "endpoint_url": mirror.endpoint_url,
            "use_listings_cache": False,
            "skip_instance_cache": True,
            "requests_timeout": _timeout(mirror),
            "session_kwargs": {"trace_configs": _no_other_host()},
            **options,
        }
        return _gcs()(**options)
    if mirror.scheme in ("http", "https"):
        client = {
            "timeout": _timeout(mirror),
            "trace_configs": _no_other_host(),
            **options.pop("client_kwargs", {}),
        }
        options = {"client_kwargs": client, "skip_instance_cache": True, **options}
    _check_known(mirror)
    return fsspec.filesystem(mirror.scheme, **options)


def _check_known(mirror: Mirror) -> None:
    """Refuse what fsspec has no file system for.

    Raises
    ------
    MirrorError
        It knows no such scheme.
    MissingError
        The package is not installed that has it.
    """
    from fsspec.registry import get_filesystem_class

    try:
        get_filesystem_class(mirror.scheme)
    except ValueError as error:
        msg = f"fsspec knows no {mirror.scheme}://; got {mirror.root!r}"
        raise MirrorError(msg, mirror=mirror.root) from error
    except ImportError as error:
        msg = f"{mirror.root} cannot be reached: {error}"
        raise MissingError(msg, mirror=mirror.root) from error


def _gcs() -> Callable[..., AbstractFileSystem]:
    from gcsfs.core import GCSFileSystem

    class Once(GCSFileSystem):  # type: ignore[misc]
        # Without the decorator that sends every request up to six times.
        _request = GCSFileSystem._request.__wrapped__  # noqa: SLF001

    return Once


def _s3_session() -> type[Any]:
    from aiobotocore.httpsession import AIOHTTPSession

    class Session(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            if not session.trace_configs:
                session.trace_configs.extend(_no_other_host())
            return session

    return Session


def _timeout(mirror: Mirror) -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_SECONDS, sock_read=mirror.read_timeout
    )


def _no_other_host() -> list[Any]:
    """Give what stops aiohttp from following a redirect to another host."""
    import aiohttp
    from yarl import URL

    async def stop(_session: Any, _context: Any, params: Any) -> None:
        target = params.url.join(URL(params.response.headers.get("Location", "")))
        own = params.url.scheme == target.scheme and any(
            params.url.host.endswith(name) and target.host.endswith(name)
            for name in OWN_HOSTS.values()
        )
        if target.origin() != params.url.origin() and not own:
            raise elsewhere(str(params.url.with_query(None)))

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(stop)
    trace.freeze()
    return [trace]
