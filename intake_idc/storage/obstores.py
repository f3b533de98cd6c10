"""S3 and GCS through obstore: plain blocking calls, made from threads."""

from __future__ import annotations

import functools
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from intake_idc.errors import MirrorError
from intake_idc.storage.engine import (
    CA_VARIABLES,
    CONNECT_SECONDS,
    NOWHERE,
    OWN_HOSTS,
    Answer,
    Stored,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore.store import GCSStore, S3Store

    from intake_idc.storage.mirror import Mirror

Made = TypeVar("Made")

__all__ = ["ObstoreEngine"]


class ObstoreEngine:
    """One bucket, anonymously."""

    tells = True
    holds = 2 << 20

    def __init__(self, mirror: Mirror, root: str) -> None:
        self._mirror, self._root = mirror, root

    @functools.cached_property
    def _store(self) -> S3Store | GCSStore:
        from obstore.store import GCSStore, S3Store

        mirror = self._mirror
        bucket, _, prefix = self._root.split("://", 1)[1].partition("/")
        endpoint = mirror.endpoint_url
        shared: dict[str, Any] = {
            "prefix": prefix or None,
            # Without it GCSStore asks the metadata address for credentials.
            "skip_signature": True,
            "client_options": {
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                # A server that has gone quiet; the whole may take longer than the
                # default of 30 s, which fails on large objects.
                "read_timeout": timedelta(seconds=mirror.read_timeout),
                "timeout": timedelta(hours=1),
                **_no_other_host(mirror),
                **_trusted(mirror),
            },
            # `retrying` tries again, for all engines alike.
            "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
        }
        if mirror.scheme == "s3":
            if endpoint:
                shared["endpoint"] = endpoint
            return _made(S3Store, bucket, region="us-east-1", **shared)
        if endpoint:
            shared["base_url"] = endpoint
        return _made(GCSStore, bucket, **shared)

    def list(self, prefix: str) -> list[Stored]:
        """List the objects below a prefix, in order of their keys."""
        import obstore

        with translated(f"{self._root}/{prefix}"):
            found = [
                Stored(meta["path"], meta["size"], meta["e_tag"])
                for chunk in obstore.list(self._store, prefix)
                for meta in chunk
            ]
        return sorted(found, key=lambda stored: stored.key)

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Give the names of the folders right below a prefix, sorted."""
        import obstore

        with translated(f"{self._root}/{prefix}"):
            found = obstore.list_with_delimiter(self._store, prefix or None)
        names = (name.rsplit("/", 1)[-1] for name in found["common_prefixes"])
        return tuple(sorted(names))

    def get(self, key: str, start: int, stop: int | None) -> Answer:
        """Read bytes ``start`` to ``stop``, in one request."""
        import obstore

        options = _range(start, stop)
        with translated(f"{self._root}/{key}"):
            found = obstore.get(self._store, key, options=options)
            return Answer(found.bytes(), found.meta["e_tag"])

    def pieces(
        self, key: str, start: int, stop: int | None, chunk: int
    ) -> Iterator[Answer]:
        """Read bytes ``start`` to ``stop``, in one request."""
        import obstore

        options = _range(start, stop)
        with translated(f"{self._root}/{key}"):
            found = obstore.get(self._store, key, options=options)
            etag = found.meta["e_tag"]
            for piece in found.stream(min_chunk_size=chunk):
                yield Answer(piece, etag)

    def tag(self, key: str) -> str | None:
        """Give the tag that an object has now."""
        import obstore

        with translated(f"{self._root}/{key}"):
            return obstore.head(self._store, key)["e_tag"]


def _made(kind: Callable[..., Made], bucket: str, **options: Any) -> Made:
    from obstore.exceptions import UnknownConfigurationKeyError

    try:
        return kind(bucket, **options)
    except UnknownConfigurationKeyError:
        # obstore before 0.12 is told of certificates by SSL_CERT_FILE alone.
        client = dict(options.pop("client_options"))
        client.pop("root_certificate", None)
        return kind(bucket, client_options=client, **options)


def _trusted(mirror: Mirror) -> dict[str, bytes]:
    """Give the certificates that Amazon's tools are told to trust besides.

    SSL_CERT_FILE it reads by itself.
    """
    own, usual = (os.environ.get(name) for name in CA_VARIABLES)
    if not own or own == usual or mirror.scheme != "s3":
        return {}
    try:
        return {"root_certificate": Path(own).read_bytes()}
    except OSError as error:
        msg = f"{CA_VARIABLES[0]} names certificates that cannot be read: {error}"
        raise MirrorError(msg, path=own) from error


def _range(start: int, stop: int | None) -> Any:
    if not start and stop is None:
        return None
    return {"range": {"offset": start} if stop is None else (start, stop)}


def _no_other_host(mirror: Mirror) -> dict[str, str]:
    """Give options by which a redirect to another host leads nowhere.

    obstore follows redirects and has no option against it, but one for the hosts that
    are asked past a proxy. Where the user has a proxy, that decides.
    """
    from urllib.request import getproxies, proxy_bypass

    host = urlsplit(mirror.endpoint_url or "").hostname or OWN_HOSTS[mirror.scheme]
    scheme = urlsplit(mirror.endpoint_url or "https:").scheme
    if scheme in getproxies() and not proxy_bypass(host):
        return {}
    return {"proxy_url": f"http://{NOWHERE}", "proxy_excludes": host}
