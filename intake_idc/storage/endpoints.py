"""Where the stores are that are asked many things at once, and how they are reached."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from intake_idc.storage.engine import CA_VARIABLES
from intake_idc.storage.store import reader

if TYPE_CHECKING:
    from intake_idc.storage.mirror import Mirror

__all__ = ["asks_many", "endpoint", "trusted"]

_HOSTS = {
    "s3": "https://s3.us-east-1.amazonaws.com",
    "gs": "https://storage.googleapis.com",
}


def asks_many(mirror: Mirror) -> bool:
    """Whether a single mirror's objects can be asked for by `Multi`.

    Behind a proxy they cannot: what asks with patience knows them all.
    """
    if mirror.engine is not None or reader(mirror) != "obstore":
        return False
    url = endpoint(mirror)
    parts = urlsplit(url)
    plain = url.isascii() and not (parts.query or parts.fragment)
    return plain and not _is_proxied(url)


def endpoint(mirror: Mirror) -> str:
    """Give the URL below which the buckets of S3 or GCS are."""
    return (mirror.endpoint_url or _HOSTS[mirror.scheme]).rstrip("/")


def trusted(mirror: Mirror) -> str | None:
    """Give a file of certificates to trust, where the environment names one."""
    own, usual = (os.environ.get(name) for name in CA_VARIABLES)
    return (own if mirror.scheme == "s3" else None) or usual


def _is_proxied(url: str) -> bool:
    """Whether a host is reached by a proxy, as the environment or the system says."""
    said = any(
        name.lower().endswith("_proxy") and value for name, value in os.environ.items()
    )
    if not said and sys.platform not in {"darwin", "win32"}:
        return False
    from urllib.request import getproxies, proxy_bypass

    parts, proxies = urlsplit(url), getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return bool(found) and not proxy_bypass(parts.netloc)
