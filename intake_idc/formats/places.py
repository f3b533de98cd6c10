"""What a URL, a DRS identifier or a bare name says of a series or an object.

Every spelling that IDC, its portal and its peers have written since 2020:

- ``s3://`` and ``gs://`` folders and globs of a series, ``<uuid>/``, ``<uuid>/*``;
- single objects, ``<series uuid>/<instance uuid>.dcm``, and the flat ones of releases 2
  to 13, ``<instance uuid>.dcm``;
- those of release 1, ``gs://idc-tcia-*/dicom/<study>/<series>/<object>.dcm#<generation>``;
- the same by ``https://``, path style and virtual-host style, of AWS and Google;
- DRS: ``drs://<host>/dg.4DFC/<uuid>``, compact identifiers, bare ``dg.4DFC/<uuid>``.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["BUCKETS", "UID", "UUID", "place", "uuid_bytes"]

UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
UID = r"[0-9]{1,2}(?:\.(?:0|[1-9][0-9]*))+"
"""A DICOM UID (PS3.5, 9.1), apart from its length, of at most 64 characters, and from
its root: the 176 series of IDC whose UIDs begin with ``61.7`` are real."""
LONGEST_UID = 64

BUCKETS = frozenset(
    {
        "idc-open-data",
        "idc-open-data-two",
        "idc-open-data-cr",
        "idc-open-idc1",
        "idc-open-cr",
        "idc-open-idc",
        "idc-open",
        "public-datasets-idc",
        "intake-idc-sample",
    }
)
"""Buckets that are, or were, IDC's."""

_OF_RELEASE_1 = re.compile(r"idc-tcia-[a-z0-9-]+")
_SERIES = re.compile(rf"({UUID})(?:/\**)?")
_INSTANCE = re.compile(rf"(?:({UUID})/)?({UUID})\.dcm")
_V1 = re.compile(rf"dicom/({UID})/({UID})(?:/(?:\**|({UID})(?:\.dcm)?))?(?:#\d+)?")
_BUCKET_URL = re.compile(r"(?:s3|gs)://([^/\s]+)/(.*)", re.IGNORECASE | re.DOTALL)
_PATH_STYLE = re.compile(
    r"https?://(?:s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com|storage\.googleapis\.com"
    r"|storage\.cloud\.google\.com)/([^/\s]+)/(.*)",
    re.IGNORECASE | re.DOTALL,
)
_HOST_STYLE = re.compile(
    r"https?://([a-z0-9][a-z0-9.-]*)\."
    r"(?:s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com|storage\.googleapis\.com)/(.*)",
    re.IGNORECASE | re.DOTALL,
)
_DRS = re.compile(
    rf"(?:(?:drs|dos)://(?:[^/:\s]+(?::\d+)?/|(?=dg\.)))?"
    rf"(?:dg\.4dfc[:/]){{0,2}}({UUID})",
    re.IGNORECASE,
)


def uuid_bytes(text: str) -> bytes:
    """Give the 16 bytes of a uuid."""
    return bytes.fromhex(text.replace("-", ""))


def place(text: str) -> dict[str, str] | str:
    """Say what a URL or an identifier names.

    Returns
    -------
    dict or str
        Names by column, as `intake_idc.formats.NAMES` has them, uuids as lower-case
        text; or, where it names nothing of IDC, why.
    """
    text = text.strip()
    if re.fullmatch(UUID, text):
        return {"uuid": text.lower()}
    drs = _DRS.fullmatch(unquote(text))
    if drs:
        return {"uuid": drs[1].lower()}
    scheme, colon, _ = text.partition("://")
    if colon:
        return _of_url(text, scheme.lower())
    if len(text) <= LONGEST_UID and re.fullmatch(UID, text):
        return {"uid": text}
    return "is no URL, uuid or DICOM UID"


def _of_url(text: str, scheme: str) -> dict[str, str] | str:
    if scheme in ("drs", "dos"):
        return "is no DRS identifier of IDC, such as drs://dg.4DFC:<uuid>"
    if scheme in ("http", "https"):
        found = _PATH_STYLE.fullmatch(text) or _HOST_STYLE.fullmatch(text)
    else:
        found = _BUCKET_URL.fullmatch(text)
    if not found:
        return "is no IDC series; expected s3://<bucket>/<crdc_series_uuid>/*"
    bucket, key = found[1].lower(), unquote(found[2].split("?", 1)[0])
    return _keyed(bucket, key)


def _keyed(bucket: str, key: str) -> dict[str, str] | str:
    first = _OF_RELEASE_1.fullmatch(bucket)
    stray = {} if first or bucket in BUCKETS else {"bucket": bucket}
    series = _SERIES.fullmatch(key)
    if series:
        return {"crdc_series_uuid": series[1].lower(), **stray}
    instance = _INSTANCE.fullmatch(key)
    if instance:
        named = {"crdc_instance_uuid": instance[2].lower(), **stray}
        if instance[1]:
            named["crdc_series_uuid"] = instance[1].lower()
        return named
    old = _V1.fullmatch(key)
    if old and max(map(len, old.groups(""))) <= LONGEST_UID:
        study, uid, sop = old.groups()
        named = {"StudyInstanceUID": study, "SeriesInstanceUID": uid, **stray}
        return {**named, "SOPInstanceUID": sop} if sop else named
    return "is no IDC series; expected s3://<bucket>/<crdc_series_uuid>/*"
