"""Engines: what carries bytes out of one bucket, behind one small protocol."""

from __future__ import annotations

import functools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from intake_idc.errors import ObjectNotFound, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fsspec import AbstractFileSystem

    from intake_idc.storage.mirror import Mirror

__all__ = ["Store", "Stored", "filesystem", "open_store"]

CONNECTIONS = 64
"""Connections that a store keeps open; s3fs stops at 10 unless told."""
CHUNK = 1 << 20
"""Bytes that are held at once when an object is streamed."""


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


class Store(Protocol):
    """Reads one bucket of one mirror. Methods may be called from many threads.

    Whatever the transport raises arrives as `ObjectNotFound` or `StorageError`.
    """

    def list(self, prefix: str) -> list[Stored]:
        """List the objects below a prefix, in order of their keys."""

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Give the names of the folders right below a prefix, sorted."""

    def read(
        self, key: str, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> bytes:
        """Read bytes ``start`` to ``stop`` (None: the end); fewer if it ends before.

        With the tag that was listed, an object that is another by now is an error.
        """

    def stream(self, key: str) -> Iterator[bytes]:
        """Read a whole object in pieces of about a megabyte."""


def open_store(mirror: Mirror, aws_bucket: str) -> Store:
    """Open the store of a bucket; one for each process, bucket and mirror."""
    return _open(os.getpid(), mirror, mirror.bucket_root(aws_bucket))


@functools.lru_cache(maxsize=64)
def _open(_pid: int, mirror: Mirror, root: str) -> Store:
    engine = mirror.engine
    if engine is None:
        # Signed access and unusual options are left to fsspec's file systems.
        plain = mirror.anon and not mirror.storage_options
        engine = "obstore" if mirror.scheme in ("s3", "gs") and plain else "fsspec"
    return _Obstore(mirror, root) if engine == "obstore" else _Fsspec(mirror, root)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what a transport raises into this package's errors."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        msg = f"no object at {url}"
        raise ObjectNotFound(msg, url=url) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        msg = f"{url}: {type(error).__name__}: {reason}"
        raise StorageError(msg, url=url) from error


def _check_same(url: str, listed: str | None, found: str | None) -> None:
    """Hold the tag of what was read against the tag that was listed, if both are known.

    Raises
    ------
    StorageError
        They differ.
    """
    if listed and found and _bare(listed) != _bare(found):
        msg = f"{url} changed after it was listed: {listed}, now {found}; open it anew"
        raise StorageError(msg, url=url)


def _bare(etag: str) -> str:
    # A front that compresses calls the same tag a weak one.
    return etag.removeprefix("W/").strip('"')


class _Obstore:
    """S3 and GCS through obstore: plain blocking calls, made from threads."""

    def __init__(self, mirror: Mirror, root: str) -> None:
        from obstore.store import GCSStore, S3Store

        bucket, _, prefix = root.split("://", 1)[1].partition("/")
        endpoint = mirror.endpoint_url
        shared: dict[str, Any] = {
            "prefix": prefix or None,
            # Without it GCSStore asks the metadata address for credentials.
            "skip_signature": True,
            "client_options": {
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
                "connect_timeout": timedelta(seconds=10),
                # A server that has gone quiet; the whole may take longer than the
                # default of 30 s, which fails on large objects.
                "read_timeout": timedelta(seconds=60),
                "timeout": timedelta(hours=1),
            },
            "retry_config": {
                "max_retries": 6,
                "retry_timeout": timedelta(seconds=90),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=200),
                    "max_backoff": timedelta(seconds=15),
                    "base": 2,
                },
            },
        }
        self._root = root
        self._store: S3Store | GCSStore
        if mirror.scheme == "s3":
            if endpoint:
                shared["endpoint"] = endpoint
            self._store = S3Store(bucket, region="us-east-1", **shared)
        else:
            if endpoint:
                shared["base_url"] = endpoint
            self._store = GCSStore(bucket, **shared)

    def list(self, prefix: str) -> list[Stored]:
        import obstore

        with _translated(f"{self._root}/{prefix}"):
            found = [
                Stored(meta["path"], meta["size"], meta["e_tag"])
                for chunk in obstore.list(self._store, prefix)
                for meta in chunk
            ]
        return sorted(found, key=lambda stored: stored.key)

    def folders(self, prefix: str) -> tuple[str, ...]:
        import obstore

        with _translated(f"{self._root}/{prefix}"):
            found = obstore.list_with_delimiter(self._store, prefix or None)
        names = (name.rsplit("/", 1)[-1] for name in found["common_prefixes"])
        return tuple(sorted(names))

    def read(
        self, key: str, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> bytes:
        import obstore

        url = f"{self._root}/{key}"
        options: Any = None
        if start or stop is not None:
            options = {"range": {"offset": start} if stop is None else (start, stop)}
        with _translated(url):
            found = obstore.get(self._store, key, options=options)
            _check_same(url, etag, found.meta["e_tag"])
            return bytes(found.bytes())

    def stream(self, key: str) -> Iterator[bytes]:
        import obstore

        with _translated(f"{self._root}/{key}"):
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)


class _Fsspec:
    """Any place that fsspec reads."""

    def __init__(self, mirror: Mirror, root: str) -> None:
        self._filesystem = filesystem(mirror)
        # Called "private" and documented for whoever uses a file system by URL.
        strip = self._filesystem._strip_protocol  # noqa: SLF001
        self._root = str(strip(root)).rstrip("/")

    def list(self, prefix: str) -> list[Stored]:
        folder = f"{self._root}/{prefix}".rstrip("/")
        with _translated(f"{self._root}/{prefix}"):
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
        with _translated(f"{self._root}/{prefix}"):
            found = self._filesystem.ls(folder, detail=True)
        names = [info["name"] for info in found if info["type"] == "directory"]
        return tuple(sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in names))

    def read(
        self, key: str, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> bytes:
        path = f"{self._root}/{key}"
        part = {} if start == 0 and stop is None else {"start": start, "end": stop}
        with _translated(path):
            data = bytes(self._filesystem.cat_file(path, **part))
            if etag is not None:
                # fsspec does not say of what it read; so what is there afterwards.
                _check_same(path, etag, _tag(self._filesystem.info(path)))
            return data

    def stream(self, key: str) -> Iterator[bytes]:
        path = f"{self._root}/{key}"
        with (
            _translated(path),
            self._filesystem.open(
                path, "rb", block_size=8 * CHUNK, cache_type="readahead"
            ) as file,
        ):
            while chunk := file.read(CHUNK):
                yield chunk


def _tag(info: Mapping[str, Any]) -> str | None:
    """Give the tag of an object, as a web server makes one of a file's state."""
    if "ino" in info:
        return f"{info['ino']:x}-{info['size']:x}-{info['mtime']}"
    tag: str | None = info.get("ETag")
    return tag


def filesystem(mirror: Mirror) -> AbstractFileSystem:
    """Give the fsspec file system of a mirror, with this package's settings.

    gcsfs is entered by `gcsfs.core`: the class that gcsfs puts in the registry asks
    every bucket for its type by gRPC first, which an anonymous user does not need
    and which hangs for a minute wherever only HTTP is let through.
    """
    import fsspec

    options: dict[str, Any] = dict(mirror.storage_options)
    if mirror.scheme == "s3":
        config = {"max_pool_connections": CONNECTIONS}
        options = {
            "anon": mirror.anon,
            "endpoint_url": mirror.endpoint_url,
            "config_kwargs": config,
            # More than one makes every whole-object read ask HEAD first.
            "max_concurrency": 1,
            "use_listings_cache": False,
            **options,
        }
        return fsspec.filesystem("s3", **options)
    if mirror.scheme == "gs":
        from gcsfs.core import GCSFileSystem

        options = {
            "token": "anon" if mirror.anon else None,
            "endpoint_url": mirror.endpoint_url,
            "use_listings_cache": False,
            **options,
        }
        return GCSFileSystem(**options)
    return fsspec.filesystem(mirror.scheme, **options)
