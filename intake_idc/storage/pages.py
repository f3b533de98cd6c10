"""Pages of a listing, as S3 and GCS write them."""

from __future__ import annotations

import re

from intake_idc.errors import StorageError
from intake_idc.storage.engine import Stored

__all__ = ["listed"]

_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([^"']*)""")


def listed(page: bytes, url: str) -> tuple[list[Stored], str]:
    """Read a page of a listing (S3 API reference, "ListObjectsV2", response).

    Returns
    -------
    list of Stored, str
        The objects, and the token of the page that follows; "" where none does.

    Raises
    ------
    StorageError
        It is no listing.
    """
    from xml.etree import ElementTree as ET

    def text(of: ET.Element, name: str) -> str:
        return of.findtext(f"{space}{name}") or ""

    coded = _ENCODING.match(page)
    if b"<!" in page or b"\0" in page or (coded and coded[1].lower() != b"utf-8"):
        # A listing declares nothing; what does is a page of HTML, or worse.
        msg = f"{url}: what the store answers is no listing"
        raise StorageError(msg, url=url)
    try:
        root = ET.fromstring(page)  # noqa: S314  (it declares nothing)
        space = root.tag.removesuffix("ListBucketResult")
        found = [
            Stored(
                text(one, "Key"), _size(text(one, "Size")), text(one, "ETag") or None
            )
            for one in root.iter(f"{space}Contents")
        ]
    except (ET.ParseError, LookupError, ValueError) as error:
        msg = f"{url}: what the store answers is no listing: {error}"
        raise StorageError(msg, url=url) from error
    if not all(one.key for one in found):
        msg = f"{url}: the store lists an object without a key"
        raise StorageError(msg, url=url)
    if not root.tag.endswith("ListBucketResult"):
        msg = f"{url}: what the store answers is no listing, but a {root.tag}"
        raise StorageError(msg, url=url)
    more = text(root, "IsTruncated").lower() == "true"
    token = text(root, "NextContinuationToken") if more else ""
    if more and not token:
        msg = f"{url}: the store says that more follows, and not how to ask for it"
        raise StorageError(msg, url=url)
    return found, token


def _size(text: str) -> int:
    """Read a number of bytes; Python's `int` would take more than digits."""
    if not re.fullmatch("[0-9]{1,19}", text):
        msg = f"{text!r} is no size"
        raise ValueError(msg)
    return int(text)
