"""Where objects lie, asked of the Data Repository Service (DRS) of the CRDC.

Lists of DRS identifiers name single instances, ``dg.4DFC/<crdc_instance_uuid>``, and no
index table says to which series an instance belongs. The service does: its answer has
the URLs of the object, and the folder in a URL is the series.

The protocol is that of the GA4GH, "Data Repository Service", 1.0 to 1.5. What real
servers answer differs from it here and there: a size may be a text, a part of a bundle
may be named by one text and not a list, and what is not known may be null or "".

Nothing here is called unless the user asks for it. What comes back is data: only the
bucket, the key, the size and the MD5 are taken, and only where the bucket is IDC's.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from intake_idc.arrow import integers, packed, texts, unpack_uuids
from intake_idc.errors import RequestError
from intake_idc.formats.places import LONGEST_UID, UID, place, uuid_bytes
from intake_idc.storage.pool import each
from intake_idc.storage.web import LARGEST, Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa

__all__ = ["ENDPOINT", "HOST", "resolve"]

HOST = "nci-crdc.datacommons.io"
"""The host that answers for IDC's identifiers."""
ENDPOINT = f"https://{HOST}"
BASE = "/ga4gh/drs/v1"
PREFIX = "dg.4DFC"

DEEPEST = 3
"""Levels of bundles in bundles."""
MOST = 100_000
"""Objects that bundles may lead to, all together."""
BULK = 500
"""Objects that are asked for at once, where the server allows more."""

_OK, _UNKNOWN = 200, 404
_DENIED = frozenset({401, 403})
_MD5 = re.compile(r"[0-9a-f]{32}")
_LARGEST_SIZE = 1 << 63

Places = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class _Object:
    """What the service says of one identifier."""

    parts: tuple[str, ...] | None = None
    """Of a bundle, the uuids that it holds."""
    places: Places = field(default_factory=dict)
    """Bucket and key by scheme, ``s3`` and ``gs``."""
    series: str | None = None
    """``crdc_series_uuid``, where a key has it."""
    uid: str | None = None
    """SeriesInstanceUID, where a key has it: those of release 1."""
    sop: str | None = None
    """SOPInstanceUID, where the name of the object is one."""
    size: int | None = None
    md5: str | None = None


def resolve(
    uuids: Sequence[str] | pa.Array,
    *,
    endpoint: str = ENDPOINT,
    allow_hosts: Iterable[str] = (),
    timeout: float = 30.0,
) -> pa.Table:
    """Ask a DRS server where instances lie, and so of which series they are.

    Parameters
    ----------
    uuids : sequence of str, or array of fixed_size_binary(16)
        ``crdc_instance_uuid``, in any spelling of DRS, or packed. One that comes
        twice is asked for once.
    endpoint : str
        ``https://host`` of the server; ``http://`` only for this machine.
    allow_hosts : iterable of str
        Hosts that may be asked besides IDC's own, ``host`` or ``host:port``. Never
        take them from a file that somebody else wrote.
    timeout : float
        Seconds to connect in, and that the server may be silent.

    Returns
    -------
    pyarrow.Table
        A row for each uuid, in order, and of a bundle one for each object in it:
        ``position`` (int64, from 0, in ``uuids``), ``crdc_instance_uuid`` and
        ``crdc_series_uuid`` (16 bytes), ``SeriesInstanceUID`` (of objects that lie
        where release 1 put them, which have no ``crdc_series_uuid``),
        ``SOPInstanceUID`` where the server knows it, ``aws_bucket``, ``aws_key``,
        ``gcs_bucket``, ``gcs_key``, ``instance_size`` (int64, bytes), ``md5`` (hex),
        and ``reason``: why it could not be resolved, else null. An object in the
        folderless place of releases 2 to 13 is found but has no series.

    Raises
    ------
    RequestError
        The endpoint is not allowed, or not public; a text is no identifier; or the
        bundles hold more objects than is sensible.
    StorageError
        The server cannot be asked: it is not there, busy, or no DRS server. That
        an object is unknown to it is a reason, not an error.
    """
    names = _names(uuids)
    if isinstance(allow_hosts, str):
        allow_hosts = (allow_hosts,)
    with closing(
        Web(endpoint, allowed={HOST, *allow_hosts}, timeout=timeout)
    ) as server:
        known = _walk(server, list(dict.fromkeys(names)))
    rows: list[_Row] = []
    for position, name in enumerate(names):
        rows += ((position, *row) for row in _expanded(name, known, server.host))
        if len(rows) > MOST + len(names):
            raise _too_many(server)
    return _table(rows)


_Row = tuple[int, str, "_Object | str"]


def _names(uuids: Sequence[str] | pa.Array) -> list[str]:
    import pyarrow as pa

    if isinstance(uuids, pa.ChunkedArray):
        uuids = uuids.combine_chunks()
    if isinstance(uuids, pa.Array):
        if uuids.type != pa.binary(16) or uuids.null_count:
            msg = f"expected packed uuids, none of them null; got {uuids.type}"
            raise RequestError(msg)
        return list(unpack_uuids(uuids).to_pylist())
    names = []
    for text in uuids:
        found = _uuid(text)
        if found is None:
            msg = f"expected a DRS identifier such as {PREFIX}/<uuid>; got {text!r}"
            raise RequestError(msg, value=text)
        names.append(found)
    return names


def _uuid(text: object) -> str | None:
    """Give the uuid of an identifier in any spelling."""
    found = place(text) if isinstance(text, str) else ""
    return found.get("uuid") if isinstance(found, dict) else None


# Asking.


def _walk(server: Web, names: list[str]) -> dict[str, _Object | str]:
    """Ask for objects, and for what is in bundles, level by level."""
    known: dict[str, _Object | str] = {}
    wanted, limit = names, None
    for _ in range(DEEPEST + 1):
        if limit is None and len(wanted) > 1:
            limit = _bulk_limit(server)
        known.update(_asked(server, wanted, limit or 0))
        inside = (
            child
            for name in wanted
            if isinstance(found := known[name], _Object)
            for child in found.parts or ()
        )
        wanted = [child for child in dict.fromkeys(inside) if child not in known]
        if len(known) + len(wanted) > MOST + len(names):
            raise _too_many(server)
        if not wanted:
            break
    return known


def _too_many(server: Web) -> RequestError:
    msg = (
        f"the bundles of {server.root} lead to more than {MOST:,} objects; resolve "
        "fewer at once"
    )
    return RequestError(msg, endpoint=server.root)


def _asked(
    server: Web, wanted: Sequence[str], limit: int
) -> Iterator[tuple[str, _Object | str]]:
    """Ask for many objects: in bulk as far as that goes, and the others one by one."""
    single: list[str] = []
    if limit > 1:
        batches = [wanted[i : i + limit] for i in range(0, len(wanted), limit)]
        for batch, found in zip(
            batches, each(partial(_many, server), batches), strict=True
        ):
            yield from found.items()
            single += [name for name in batch if name not in found]
    else:
        single = list(wanted)
    yield from zip(single, each(partial(_one, server), single), strict=True)


def _bulk_limit(server: Web) -> int:
    """Give how many objects may be asked for at once; 0 where bulk is not offered."""
    answer = server.get(f"{BASE}/service-info")
    if answer.status != _OK:
        return 0
    said = answer.json()
    drs = said.get("drs") if isinstance(said, dict) else None
    most = drs.get("maxBulkRequestLength") if isinstance(drs, dict) else None
    number = _whole(most)
    return min(number or 0, BULK)


def _many(server: Web, names: Sequence[str]) -> dict[str, _Object | str]:
    """Ask for some objects at once; what is not answered is left out."""
    asked = {"bulk_object_ids": [f"{PREFIX}/{name}" for name in names]}
    answer = server.post(f"{BASE}/objects", asked)
    if answer.status != _OK or answer.body is None:
        return {}
    said = answer.json()
    if not isinstance(said, dict):
        return {}
    wanted = set(names)
    found: dict[str, _Object | str] = {}
    for document in _list(said.get("resolved_drs_objects")):
        name = _uuid(document.get("id")) if isinstance(document, dict) else None
        if name in wanted and name is not None:
            found[name] = _read(document, name)
    for group in _list(said.get("unresolved_drs_objects")):
        if isinstance(group, dict) and group.get("error_code") == _UNKNOWN:
            unknown = {_uuid(text) for text in _list(group.get("object_ids"))}
            gone = (wanted & unknown) - found.keys()
            found.update(dict.fromkeys(gone, _unknown(server)))
    return found


def _one(server: Web, name: str) -> _Object | str:
    """Ask for one object."""
    answer = server.get(f"{BASE}/objects/{PREFIX}/{name}")
    if answer.body is None:
        return f"the answer of {server.host} is larger than {LARGEST:,} bytes"
    if answer.status == _UNKNOWN:
        answer.json()  # The page of another kind of server says nothing.
        return _unknown(server)
    if answer.status in _DENIED:
        return f"{server.host} asks for a login ({answer.status})"
    if answer.status != _OK:
        return f"{server.host} answers {answer.status}"
    return _read(answer.json(), name)


def _unknown(server: Web) -> str:
    return f"is not known to {server.host}"


# Reading an answer.


class _Odd(Exception):
    """An answer that cannot be used, and why."""


def _read(document: Any, name: str) -> _Object | str:
    try:
        return _object(document, name)
    except _Odd as odd:
        return f"its answer {odd}"


def _object(document: Any, name: str) -> _Object:
    if not isinstance(document, dict):
        msg = "is no DRS object"
        raise _Odd(msg)
    own = {_uuid(document.get(key)) for key in ("id", "self_uri")} - {None}
    if name not in own:
        msg = f"is of {'another object' if own else 'no object that it names'}"
        raise _Odd(msg)
    sums = [
        str(item.get("checksum")).lower()
        for item in _list(document.get("checksums"))
        if isinstance(item, dict) and str(item.get("type")).lower() == "md5"
    ]
    md5 = next((text for text in sums if _MD5.fullmatch(text)), None)
    contents = _list(document.get("contents"))
    methods = _list(document.get("access_methods"))
    if document.get("form") == "bundle" or (contents and not methods):
        if not contents:
            msg = "is a bundle of nothing"
            raise _Odd(msg)
        return _Object(tuple(dict.fromkeys(map(_part, contents))), md5=md5)
    title = document.get("name")
    is_uid = isinstance(title, str) and re.fullmatch(UID, title)
    size = document.get("size")
    number = _whole(size)
    if number is None and size not in (None, ""):
        msg = f"gives the size {str(size)[:40]!r}"
        raise _Odd(msg)
    places, series, uid = _places(methods, name)
    return _Object(
        None,
        places,
        series,
        uid,
        str(title) if is_uid and len(str(title)) <= LONGEST_UID else None,
        number,
        md5,
    )


def _part(item: Any) -> str:
    """Give the uuid of what is in a bundle; its host, if it names one, is not asked."""
    named = item if isinstance(item, dict) else {}
    uris = named.get("drs_uri")
    for text in (*(_list(uris) or [uris]), named.get("id")):
        found = _uuid(text)
        if found is not None:
            return found
    msg = "is a bundle with a part that has no DRS identifier of IDC"
    raise _Odd(msg)


def _places(methods: Iterable[Any], name: str) -> tuple[Places, str | None, str | None]:
    """Give bucket and key by scheme, and the series that the keys name."""
    places: Places = {}
    series: set[str | None] = set()
    uids: set[str | None] = set()
    odd = "has no URL of a bucket"
    for method in methods:
        url = method.get("access_url") if isinstance(method, dict) else None
        url = url.get("url") if isinstance(url, dict) else url
        scheme = url.split("://", 1)[0].lower() if isinstance(url, str) else ""
        if scheme not in ("s3", "gs") or scheme in places:
            continue
        # A query may be a signature, and has no place in a message.
        bare = str(url).split("?", 1)[0].strip()
        found = place(bare)
        if isinstance(found, str):
            odd = f"has the URL {bare[:200]!r}, which {found}"
        elif "bucket" in found:
            odd = f"has the bucket {found['bucket'][:200]!r}, which is none of IDC's"
        elif found.get("crdc_instance_uuid", name) != name:
            odd = f"has the URL of another object, {bare[:200]!r}"
        elif not {"crdc_instance_uuid", "SOPInstanceUID"} & found.keys():
            odd = f"has the URL of a folder, {bare[:200]!r}"
        else:
            bucket, _, key = bare.split("://", 1)[1].partition("/")
            places[scheme] = (bucket.lower(), unquote(key).split("#", 1)[0])
            series.add(found.get("crdc_series_uuid"))
            uids.add(found.get("SeriesInstanceUID"))
    series -= {None}
    uids -= {None}
    if not places:
        raise _Odd(odd)
    if len(series) > 1 or len(uids) > 1:
        msg = f"names two series, {' and '.join(sorted(map(str, series | uids)))}"
        raise _Odd(msg)
    return places, next(iter(series), None), next(iter(uids), None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(value: object) -> int | None:
    """Give a number that may be written as a text; None where it is none."""
    if isinstance(value, str) and len(value) < 20 and value.isascii():  # noqa: PLR2004
        value = int(value) if value.isdigit() else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _LARGEST_SIZE else None


# Rows.


def _expanded(
    name: str, known: dict[str, _Object | str], host: str
) -> list[tuple[str, _Object | str]]:
    """Give what became of an identifier: one row, or those of what is in the bundle."""
    seen: set[str] = set()

    def leaves(own: str, above: tuple[str, ...]) -> list[tuple[str, _Object | str]]:
        if own in above:
            return [(own, "is a bundle that holds itself")]
        if own in seen:
            return []
        seen.add(own)
        found = known.get(own)
        if found is None or len(above) > DEEPEST:
            why = f"lies in bundles of {host} that are more than {DEEPEST} deep"
            return [(own, why)]
        if isinstance(found, str) or found.parts is None:
            return [(own, found)]
        inside = [x for part in found.parts for x in leaves(part, (*above, own))]
        if _incomplete(found, known):
            return [(own, "is a bundle whose parts do not have its checksum")]
        return inside

    return leaves(name, ())


def _incomplete(bundle: _Object, known: dict[str, _Object | str]) -> bool:
    """Whether the MD5 of a bundle is not that of the sorted MD5s of its parts."""
    parts = [known.get(part) for part in bundle.parts or ()]
    sums = [part.md5 if isinstance(part, _Object) else None for part in parts]
    hexes = [md5 for md5 in sums if md5 is not None]
    if bundle.md5 is None or len(hexes) < len(parts):
        return False
    joined = "".join(sorted(hexes)).encode()
    return hashlib.md5(joined, usedforsecurity=False).hexdigest() != bundle.md5


def _table(rows: Sequence[_Row]) -> pa.Table:
    import pyarrow as pa

    def text(value: Callable[[_Object], str | None]) -> pa.Array:
        return texts([value(f) if isinstance(f, _Object) else None for _, _, f in rows])

    def stored(scheme: str, at: int) -> pa.Array:
        return text(lambda f: f.places[scheme][at] if scheme in f.places else None)

    found = [f if isinstance(f, _Object) else None for _, _, f in rows]
    series = [f.series if f else None for f in found]
    return pa.table(
        {
            "position": integers([position for position, _, _ in rows]),
            "crdc_instance_uuid": packed([uuid_bytes(name) for _, name, _ in rows]),
            "crdc_series_uuid": packed([uuid_bytes(s) if s else None for s in series]),
            "SeriesInstanceUID": text(lambda f: f.uid),
            "SOPInstanceUID": text(lambda f: f.sop),
            "aws_bucket": stored("s3", 0),
            "aws_key": stored("s3", 1),
            "gcs_bucket": stored("gs", 0),
            "gcs_key": stored("gs", 1),
            "instance_size": integers([f.size if f else None for f in found]),
            "md5": text(lambda f: f.md5),
            "reason": texts([f if isinstance(f, str) else None for _, _, f in rows]),
        }
    )
