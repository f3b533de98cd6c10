"""A body of the IDC API, or a cohort that was saved there, as a cohort."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from lzma import LZMAError
from typing import TYPE_CHECKING, Any

from intake_idc.api import v2, v2_body, v2_source, v3
from intake_idc.cohort.cohort import Cohort
from intake_idc.cohort.listed import listed_cohort
from intake_idc.cohort.opening import open_idc
from intake_idc.credentials import refuse_in_url
from intake_idc.errors import BadBody, EmptySelection, RequestError, StorageError
from intake_idc.files import whole_path
from intake_idc.formats import Problem
from intake_idc.release import Release
from intake_idc.selection import Selection

if TYPE_CHECKING:
    from intake_idc.export import Export
    from intake_idc.storage import Mirror

__all__ = ["body_pin", "is_body", "lasting_body", "load_body", "open_cohort"]

LARGEST = 32 << 20
"""Bytes of JSON that are taken for a body."""

MANY = 16
"""Names in whatever case, in one list, up to which each is looked for by a pattern."""

Filters = Sequence[tuple[str, tuple[Any, ...]]]


def open_cohort(
    body: Mapping[str, Any] | str | os.PathLike[str],
    *,
    idc_version: int | str | None = None,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
    export: Export | Mirror | str | os.PathLike[str] | None = None,
) -> Cohort:
    """Open the series that a body of the IDC API asks for, or a cohort saved there.

    A body that asks nothing but columns of the index is a question, as that of
    `Cohort.search`: it can be put to another release. The answer to any other is a
    list of series: those with an object that fulfils the filters.

    Parameters
    ----------
    body : Mapping, str or path
        A body of API v2 or v3, an answer of API v2, or a cohort that was saved there:
        as JSON gives it, as JSON text, or the path or URL of a JSON file.
    idc_version : int, "current" or "YYYY-MM-DD", optional
        The release. By default the one that the body names (``idc_data_version`` of a
        saved cohort), else the current one.
    tables, digest, mirror
        As in `open_idc`.
    export : str, path, Mirror or Export, optional
        Where the Parquet export lies, for what the index tables do not say; "aws" is
        the public bucket.

    Raises
    ------
    BadBody
        It is no body, or one that the service would refuse.
    RequestError
        The body names another release than ``idc_version``.
    TableNotFound
        An attribute needs a table that is not at hand; the message says which.
    UnknownValue
        Of a body whose answer is a question: no series has a value.
    EmptySelection
        Of a body whose answer is a list: it asks for no series.

    Examples
    --------
    >>> filters = {"collection_id": ["RIDER-Pilot"], "Modality": ["ct"]}
    >>> saved = {"filterSet": {"filters": filters, "idc_data_version": "25.0"}}
    >>> cohort = open_cohort(saved)
    >>> cohort.idc_version, len(cohort)
    (25, 172)
    """
    data, name = _loaded(body)
    pin = body_pin(data)
    wanted = idc_version if idc_version is not None else pin
    whole = open_idc(
        "current" if wanted is None else wanted,
        tables=tables,
        digest=digest,
        mirror=mirror,
    )
    release, place = whole.release, whole.mirror
    _check_pin(pin, idc_version, release)
    if v3.is_body(data):
        return Cohort(release, v3.read(data), mirror=place)
    filters = _v2_filters(data)
    selection = _live(filters, release)
    if selection is not None:
        return Cohort(release, selection, mirror=place)
    uuids = v2.series_uuids(filters, release, export)
    if not uuids:
        msg = f"{name} asks for no series of release {release.idc_version}"
        raise EmptySelection(msg)
    found = listed_cohort(release, uuids, origin=name, mirror=place)
    if len(found) == len(uuids):
        return found
    there = set(found.manifest(["crdc_series_uuid"]).uuids)
    reason = (
        f"the export has it, and the index of release {release.idc_version} does not"
    )
    lost = [
        Problem(number, uuid, reason)
        for number, uuid in enumerate(uuids, 1)
        if uuid not in there
    ]
    return listed_cohort(release, uuids, origin=name, mirror=place, problems=lost)


def is_body(data: object) -> bool:
    """Say whether plain data is meant as a body, or as a saved cohort."""
    if not isinstance(data, Mapping):
        return False
    return v3.is_body(data) or bool({"cohort_def", "filterSet", "filters"} & set(data))


def load_body(body: str | os.PathLike[str]) -> Any:
    """Read JSON text, or the JSON file of a path or URL; it may be no body at all.

    Raises
    ------
    BadBody
        It is no JSON.
    StorageError
        The file cannot be read.
    """
    text = os.fspath(body)
    if not _is_json(text):
        text = _text(text)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        msg = f"{_name(body)} is no JSON: {error}"
        raise BadBody(msg) from error


def lasting_body(body: Mapping[str, Any] | str | os.PathLike[str]) -> Any:
    """Give a body as a catalog keeps it: plain data of its own, or a whole path or URL.

    Raises
    ------
    BadBody
        It is JSON text, or data, that is no JSON.
    MirrorError
        It is a URL that holds a secret.
    """
    if isinstance(body, Mapping):
        try:
            return json.loads(json.dumps(dict(body)))
        except (TypeError, ValueError, RecursionError) as error:
            msg = f"the body is no JSON: {error}"
            raise BadBody(msg) from error
    text = os.fspath(body)
    if _is_json(text):
        return _loaded(text)[0]
    refuse_in_url(text, "body")
    return whole_path(text)


def _is_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "["))


def body_pin(data: Mapping[str, Any]) -> int | None:
    """Give the release that a body names; None where it names none, or "current".

    Raises
    ------
    BadBody
        What it names is no release.
    """
    if v3.is_body(data):
        pin = v3.pin(data)
        number = re.fullmatch(r"v?(\d{1,9})(?:\.0)?", str(pin))
        if pin is None or pin == "current":
            return None
        if number is None or isinstance(pin, bool | float):
            msg = f"idc_version of a body is a release, such as 25; got {pin!r}"
            raise BadBody(msg, idc_version=pin)
        return int(number[1])
    filter_set = _saved(data)
    pin = None if filter_set is None else filter_set.get("idc_data_version")
    if pin is None or pin == "current":
        return None
    if not isinstance(pin, str) or not re.fullmatch(r"\d{1,9}\.0", pin):
        msg = (
            f"Supplied idc_data_version {pin!r} is invalid. Query the /versions "
            "endpoint for defined versions."
        )
        raise BadBody(msg, idc_data_version=pin)
    return int(pin.partition(".")[0])


def _loaded(
    body: Mapping[str, Any] | str | os.PathLike[str],
) -> tuple[Mapping[str, Any], str]:
    data = body if isinstance(body, Mapping) else load_body(body)
    name = _name(body)
    if not is_body(data):
        keys = ", ".join(map(repr, data)) if isinstance(data, Mapping) else repr(data)
        got = keys[:200] or "nothing"
        msg = (
            f"{name} holds neither 'cohort_def' nor 'filterSet', 'filters', 'terms' or "
            f"'ranges', as a body of the IDC API does; got {got}"
        )
        raise BadBody(msg)
    return data, name


def _name(body: object) -> str:
    if isinstance(body, Mapping) or _is_json(str(body)):
        return "the body"
    return str(body)


def _text(name: str) -> str:
    import fsspec

    refuse_in_url(name, "body")
    try:
        with fsspec.open(name, "rb", compression="infer") as file:
            data = file.read(LARGEST + 1)
    except RequestError:
        raise
    except (OSError, ValueError, EOFError, ImportError, zlib.error, LZMAError) as error:
        msg = f"the body {name} cannot be read: {error}"
        raise StorageError(msg, path=name) from error
    if len(data) > LARGEST:
        msg = f"{name} is longer than a body may be, {LARGEST >> 20} MiB"
        raise BadBody(msg, path=name)
    try:
        return str(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        msg = f"{name} is no JSON: it is not UTF-8 ({error})"
        raise BadBody(msg, path=name) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice: JSON would keep the last, in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        msg = f"the key {twice!r} is there twice"
        raise ValueError(msg)
    return found


def _check_pin(
    pin: int | None, idc_version: int | str | None, release: Release
) -> None:
    if pin is not None and release.idc_version != pin:
        msg = (
            f"the body is of release {pin}, and idc_version={idc_version!r} is release "
            f"{release.idc_version}; leave idc_version out, or open the body and ask "
            f"at({release.idc_version})"
        )
        raise RequestError(msg, idc_version=idc_version, pin=pin)


def _saved(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Give the ``filterSet`` of a saved cohort or of an answer; it may come alone."""
    if "idc_data_version" in data and "filters" in data:
        return data
    inside = data.get("cohort_def", data)
    found = inside.get("filterSet") if isinstance(inside, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _v2_filters(data: Mapping[str, Any]) -> Filters:
    """Give the filters of a body, of its ``cohort_def``, or of a saved cohort."""
    saved = _saved(data)
    if saved is not None:
        if "filters" not in saved:
            msg = f"the filterSet of a saved cohort holds 'filters'; got {list(saved)}"
            raise BadBody(msg)
        for key in saved:
            if key not in v2_body.FILTER_SET_KEYS:
                msg = f"'{key}' is an invalid filterSet key"
                raise BadBody(msg, key=str(key))
        beside = [data, data.get("cohort_def", {})]
        if any("filters" in each for each in beside if each is not saved):
            msg = (
                "the body has filters beside those of its filterSet, and says not "
                "which count"
            )
            raise BadBody(msg)
        return v2_body.read_filters(saved["filters"])
    if "cohort_def" in data:
        # What selects is the cohort; the fields need not be there.
        return v2_body.read({"fields": ["PatientID"], **data}).filters
    if data.get("filters") == {}:
        msg = (
            "the body {'filters': {}} may be of API v2 or v3, and selects nothing that "
            "was asked for; open_idc().all() is all of IDC"
        )
        raise BadBody(msg)
    return v2_body.read({"cohort_def": data, "fields": ["PatientID"]}).filters


def _live(filters: Filters, release: Release) -> Selection | None:
    """Give filters as conditions on the index, where these are the same."""
    columns = {}
    for name, values in filters:
        attribute, suffix = v2_body.split(name)
        table, column = attribute.index or ("", "")
        if suffix or table != "idc_index":
            return None
        columns[column] = _wanted(column, [str(value) for value in values], release)
    if v2_source.unserved(v2_source.Asked(tuple(filters), ()), release):
        return None
    if not columns:
        return Selection()
    selection = Selection().where(columns)
    selection.compile(release)  # Beside a pattern, a wrong value is missed later.
    return selection


def _wanted(column: str, values: Sequence[str], release: Release) -> list[Any]:
    """Give the values of a filter as `Selection.where` takes them."""
    either = [v for v in values if v != "None" and "%" not in v]
    exact = [v for v in either if column == "collection_id" or v.lower() == v.upper()]
    lettered = [v for v in either if v not in exact]
    wanted: list[Any] = [*exact]
    if lettered and column in release.columns:
        spelt: dict[str, list[str]] = {}
        for value in release.distinct(column):
            spelt.setdefault(value.lower(), []).append(value)
        many = len(lettered) > MANY
        for value in lettered:
            # A value that no series has is an error, which a pattern would not be;
            # and a pattern is held against every value of the column.
            if many or value.lower() not in spelt:
                wanted += spelt.get(value.lower(), [value])
        lettered = [] if many else [v for v in lettered if v.lower() in spelt]
    wanted += [
        {"regex": _regex(v), "flags": ["IGNORECASE", "DOTALL"]}
        for v in [*lettered, *(v for v in values if "%" in v)]
    ]
    return [*wanted, None] if "None" in values else wanted


def _regex(value: str) -> str:
    return rf"\A{'.*'.join(map(re.escape, value.split('%')))}\Z"
