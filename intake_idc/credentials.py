"""What looks like a credential, and so must not travel.

Mirrors, tables and manifests are named by URLs and options, which end up in catalogs,
pickles, Dask graphs and error messages. A secret among them is refused, and the
refusal does not repeat it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from intake_idc.errors import MirrorError

__all__ = ["refuse_in_options", "refuse_in_url"]

_SECRET = re.compile(
    r"key|secret|token|passw|credential|\bsas\b|sig|auth|cookie|bearer|connection_string",
    re.IGNORECASE,
)
_HARMLESS = {"token": ("anon",)}

_MEND = (
    "leave it to the environment or to the store's own configuration files, and give "
    "storage_options={'anon': False}"
)


def refuse_in_url(url: str, what: str) -> None:
    """Refuse a URL that holds a user name, a password or a signature.

    Parameters
    ----------
    url : str
        May be chained with ``::``.
    what : str
        What the URL is, for the message.

    Raises
    ------
    MirrorError
        It holds one.
    """
    for part in url.split("::"):
        try:
            split = urlsplit(part)
        except ValueError as error:
            msg = f"the {what} is no URL ({error})"
            raise MirrorError(msg) from error
        if "@" in split.netloc:
            msg = f"the URL of the {what} holds a user name or password; {_MEND}"
            raise MirrorError(msg)
        for key, _ in parse_qsl(split.query, keep_blank_values=True):
            if _SECRET.search(key):
                msg = f"the URL of the {what} holds {key!r}, like a secret; {_MEND}"
                raise MirrorError(msg, option=key)


def refuse_in_options(options: object, key: str = "") -> None:
    """Refuse options that hold a secret, however deep.

    Raises
    ------
    MirrorError
        A key looks like a secret's.
    """
    if isinstance(options, Mapping):
        for inner, content in options.items():
            refuse_in_options(content, str(inner))
    elif isinstance(options, list | tuple | set):
        pair = 2
        for item in options:
            named = isinstance(item, list | tuple) and len(item) == pair
            refuse_in_options(item[1], str(item[0])) if named else refuse_in_options(
                item, key
            )
    elif isinstance(options, str) and "://" in options:
        refuse_in_url(options, f"storage option {key!r}")
    if key and _SECRET.search(key) and options not in _HARMLESS.get(key, ()):
        msg = (
            f"storage option {key!r} looks like a secret, which would travel in "
            f"catalogs and Dask graphs; {_MEND}"
        )
        raise MirrorError(msg, option=key)
