"""Bodies of API v3: terms and ranges over the index.

The service takes a filter bare at some addresses, and under ``filters`` at others; what
has the wrong shape for one selects all of IDC, with no error. Here both are taken, and
nothing else.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

from intake_idc.arrow import is_text
from intake_idc.errors import BadBody, nearest
from intake_idc.selection import Selection, literal, quote

__all__ = ["RANGES", "TERMS", "is_body", "pin", "read"]

TERMS = (
    "collection_id",
    "analysis_result_id",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "BodyPartExamined",
    "Manufacturer",
    "ManufacturerModelName",
    "PatientSex",
    "sop_class_name",
    "license_short_name",
    "source_DOI",
)
"""Attributes that are filtered by values: exact, upper and lower case counted."""
RANGES = (
    "instanceCount",
    "series_size_MB",
    "series_init_idc_version",
    "series_revised_idc_version",
    "StudyDate",
    "SeriesDate",
)
"""Attributes that are filtered by a least and a greatest value, both included."""

_DATES = ("StudyDate", "SeriesDate")
_OTHERS = (
    *("page", "page_size", "include_rows", "source", "limit", "citation_format"),
    "idc_version",
)
"""What a body may hold beside its filters, and that selects nothing."""
_BOUNDS = {"gte": ">=", "lte": "<="}


def is_body(data: Mapping[str, Any]) -> bool:
    """Say whether plain data looks like a body of API v3."""
    if "terms" in data or "ranges" in data:
        return True
    filters = data.get("filters")
    return isinstance(filters, Mapping) and ("terms" in filters or "ranges" in filters)


def pin(data: Mapping[str, Any]) -> object:
    """Give the release that a body names, or None: ``idc_version``, of /version."""
    return data.get("idc_version")


def read(body: object) -> Selection:
    """Check a body and give the conditions that it is.

    Parameters
    ----------
    body : Mapping
        ``{"filters": {"terms": ..., "ranges": ...}}``, or what stands under
        ``filters``, as JSON gives it.

    Raises
    ------
    BadBody
        It has another shape, or names what the service does not filter by.
    """
    if not isinstance(body, Mapping) or not is_body(body):
        msg = (
            "a body of API v3 holds 'terms' or 'ranges', bare or under 'filters'; "
            f"got {_shown(body)}"
        )
        raise BadBody(msg)
    under = "filters" in body
    filters = body["filters"] if under else body
    for key in body:
        if key not in _OTHERS and not (key == "filters" or key in filters):
            msg = f"{key!r} is no key of a body of API v3"
            raise BadBody(msg, key=str(key))
    for key in filters:
        if key not in ("terms", "ranges") and (under or key not in _OTHERS):
            known = "; 'terms' and 'ranges' are"
            msg = f"{key!r} is no key of the filters of API v3{known}"
            raise BadBody(msg, key=str(key))
    if under and ("terms" in body or "ranges" in body):
        msg = "'terms' and 'ranges' stand either under 'filters' or beside it, not both"
        raise BadBody(msg)
    terms = _mapping("terms", filters.get("terms", {}))
    ranges = _mapping("ranges", filters.get("ranges", {}))
    selection = Selection()
    if terms:
        selection = selection.where({k: _values(k, v) for k, v in terms.items()})
    for attribute in sorted(ranges, key=str):
        for condition in _conditions(attribute, ranges[attribute]):
            selection = selection.query(condition)
    return selection


def _mapping(key: str, value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    msg = f"{key!r} maps attributes to what they may be; got {_shown(value)}"
    raise BadBody(msg, key=key)


def _values(attribute: str, values: object) -> list[str]:
    _known(attribute, TERMS, "terms", RANGES, "ranges")
    if not isinstance(values, list | tuple) or not values:
        msg = f"the values of {attribute} are a list of one or more; got {values!r}"
        raise BadBody(msg, attribute=attribute)
    for value in values:
        if not isinstance(value, str) or not is_text(value):
            msg = f"a value of {attribute} is text; got {value!r}"
            raise BadBody(msg, attribute=attribute)
    return list(values)


def _conditions(attribute: str, bounds: object) -> list[str]:
    _known(attribute, RANGES, "ranges", TERMS, "terms")
    if not isinstance(bounds, Mapping) or not bounds or set(bounds) - set(_BOUNDS):
        msg = f"the range of {attribute} holds 'gte', 'lte' or both; got {bounds!r}"
        raise BadBody(msg, attribute=attribute)
    column = quote(attribute)
    if attribute in _DATES:
        column = f"TRY_CAST({column} AS DATE)"
    return [
        f"{column} {sign} {_bound(attribute, bounds[key])}"
        for key, sign in _BOUNDS.items()
        if key in bounds
    ]


def _bound(attribute: str, value: object) -> str:
    if attribute in _DATES:
        try:
            day = dt.date.fromisoformat(value)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            msg = f"a bound of {attribute} is a day such as '2001-12-31'; got {value!r}"
            raise BadBody(msg, attribute=attribute) from error
        return f"DATE {literal(day.isoformat())}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):  # type: ignore[arg-type]
        msg = f"a bound of {attribute} is a number; got {value!r}"
        raise BadBody(msg, attribute=attribute)
    return literal(value)


def _known(
    attribute: str,
    known: tuple[str, ...],
    key: str,
    others: tuple[str, ...],
    other: str,
) -> None:
    if attribute in known:
        return
    if attribute in others:
        mend = f"; it is one of the {other}"
    else:
        mend = nearest(attribute, [*known, *others])
        mend = mend or f"; they are {', '.join(known)}"
    msg = f"API v3 has no {attribute!r} among its {key}{mend}"
    raise BadBody(msg, attribute=attribute)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return f"the keys {', '.join(map(repr, value)) or 'none'}"
    return repr(value)
