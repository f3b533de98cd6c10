"""A body of POST /v2/cohorts/manifest/preview: read, checked, and made canonical.

The texts of the errors are those of the service, as of its last working state
(2026-07). What it would have let through or failed at (a field that is no text, a
filter that is there in two spellings) is an error here as well.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import is_text
from intake_idc.errors import BadBody

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Attribute",
    "Body",
    "Scalar",
    "Table",
    "attributes",
    "facts",
    "granularity",
    "page_size",
    "read",
    "read_filters",
    "split",
]

Scalar = str | int | float
Table = str

BODY_KEYS = ("cohort_def", "fields", "counts", "group_size", "page_size", "sql")
COHORT_KEYS = ("name", "description", "filters")
FILTER_SET_KEYS = ("filters", "idc_data_version")
LARGEST = 2**63 - 1
"""The largest whole number that BigQuery takes."""
PAGE_SIZE = 1000
"""Rows of a page, where the body does not say."""

_IMPROPER = "The JSON provided in this request appears to be improperly formatted."
_SAYS = {"True": True, "true": True, "False": False, "false": False}
_KINDS = {"string": str, "integer": int, "number": (int, float)}


@functools.cache
def facts() -> dict[str, Any]:
    """Give what is recorded of the service; treat it as read-only."""
    recorded = files("intake_idc.facts") / "api_v2.json"
    found: dict[str, Any] = json.loads(recorded.read_text("utf-8"))
    return found


@dataclass(frozen=True)
class Attribute:
    """Something that a body may filter by, ask for as a field, or both."""

    name: str
    """Canonical spelling."""
    table: str
    """The table that the service took it from."""
    items: str | None
    """JSON type of a filter's values: string, integer, number; None is no filter."""
    ranged: bool
    """Whether it is filtered by ranges (`_btw`, `_gte`, ...) and not by values."""
    response: str | None
    """JSON type that the service declares for the field; None is no field."""
    index: tuple[str, str] | None
    """The index table and its column that say the same, where there is one."""
    when: str
    """When they do: ``newest``, ``slides``, or always (an empty text)."""
    why: str
    """Why no index table says the same, where none does."""


@functools.cache
def attributes() -> dict[str, Attribute]:
    """Give every filter and field of the service, by canonical name."""
    reasons = facts()["why"]
    found = {}
    for name, fact in facts()["attributes"].items():
        index = fact.get("index")
        found[name] = Attribute(
            name=name,
            table=fact["table"],
            items=fact.get("items"),
            ranged=fact.get("class", "").startswith("Ranged"),
            response=fact.get("response"),
            index=None if index is None else (index[0], index[1]),
            when=fact.get("when", ""),
            why=reasons.get(fact.get("why"), ""),
        )
    return found


@functools.cache
def _fields() -> dict[str, str]:
    return {a.name.lower(): a.name for a in attributes().values() if a.response}


@functools.cache
def _filters() -> dict[str, str]:
    """Give the 157 names of filters, by their lower case."""
    found = {}
    for attribute in attributes().values():
        if attribute.items is None:
            continue
        suffixes = facts()["operators"] if attribute.ranged else ("",)
        for suffix in suffixes:
            name = f"{attribute.name}_{suffix}" if suffix else attribute.name
            found[name.lower()] = name
    return found


def split(name: str) -> tuple[Attribute, str]:
    """Give the attribute that a canonical filter is of, and its suffix, if any."""
    if name in attributes():
        return attributes()[name], ""
    base, _, suffix = name.rpartition("_")
    return attributes()[base], suffix


@dataclass(frozen=True)
class Body:
    """A body that the service would take, with every name in canonical spelling."""

    name: str = ""
    """Name of the cohort."""
    description: str = ""
    """Its description."""
    filters: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()
    """Names of filters and their values; `split` takes a name apart."""
    fields: tuple[str, ...] = ()
    """Fields that each row is to have, each once."""
    counts: bool = False
    """Whether each row is to have the counts of its granularity."""
    group_size: bool = False
    """Whether each row is to have the bytes of its objects."""
    sql: bool = field(default=False)
    """Whether the answer is to have the SQL."""
    page_size: int = PAGE_SIZE
    """Rows of a page."""

    def to_dict(self) -> dict[str, Any]:
        """Give plain data that `read` takes back."""
        return {
            "cohort_def": {
                "name": self.name,
                "description": self.description,
                "filters": self.filters_dict,
            },
            "fields": list(self.fields),
            "counts": self.counts,
            "group_size": self.group_size,
            "sql": self.sql,
            "page_size": self.page_size,
        }

    @property
    def filters_dict(self) -> dict[str, list[Scalar]]:
        """The filters as the service writes them."""
        return {name: list(values) for name, values in self.filters}

    @property
    def granularity(self) -> str:
        """What a row is at least one of: instance, series, ..., version."""
        return granularity(self.fields)


def granularity(fields: Sequence[str]) -> str:
    """Give the granularity of fields: of the levels that they name, the lowest."""
    for level, names in facts()["granularity"].items():
        if set(names) & set(fields):
            return str(level)
    return "version"


def read(data: object) -> Body:
    """Check a body and give it with canonical names.

    Parameters
    ----------
    data : Mapping
        The body, as JSON gives it.

    Raises
    ------
    BadBody
        The service would refuse it; the message is the one that it would give.
    """
    if not isinstance(data, Mapping):
        raise BadBody(_IMPROPER)
    if "cohort_def" not in data:
        msg = "'cohort_def' is required in the body"
        raise BadBody(msg)
    name, description, filters = _cohort_def(data["cohort_def"])
    for key in data:
        if key not in BODY_KEYS:
            msg = f"{key} is an invalid body key"
            raise BadBody(msg, key=str(key))
    if "fields" not in data:
        msg = "fields is required in the body"
        raise BadBody(msg)
    flags = {key: _flag(key, data) for key in ("counts", "group_size", "sql")}
    size = page_size(data.get("page_size", PAGE_SIZE))
    fields = _read_fields(data["fields"])
    if not (fields or flags["counts"] or flags["group_size"]):
        msg = (
            "If 'fields' is empty, then one or both of 'counts' and 'group_size' must "
            "be True"
        )
        raise BadBody(msg)
    return Body(name, description, filters, fields, page_size=size, **flags)


def _cohort_def(
    data: object,
) -> tuple[str, str, tuple[tuple[str, tuple[Scalar, ...]], ...]]:
    if not isinstance(data, Mapping):
        raise BadBody(_of_type(data, "object", ["cohort_def"]))
    for key in data:
        if key not in COHORT_KEYS:
            msg = f"'{key}' is an invalid cohort_def key"
            raise BadBody(msg, key=str(key))
    texts = []
    for key in ("name", "description"):
        text = data.get(key, "")
        if not isinstance(text, str) or not is_text(text):
            raise _invalid(text, key)
        texts.append(text)
    return texts[0], texts[1], read_filters(data.get("filters", {}))


def read_filters(data: object) -> tuple[tuple[str, tuple[Scalar, ...]], ...]:
    """Check filters and give them with canonical names.

    Raises
    ------
    BadBody
        As for `read`.
    """
    if not isinstance(data, Mapping):
        raise BadBody(_of_type(data, "object", ["filters"]))
    found: dict[str, Any] = {}
    for given, values in data.items():
        name = _filters().get(str(given).lower())
        if name is None:
            msg = f"{given} is not a valid filter."
            raise BadBody(msg, filter=str(given))
        if name in found:
            msg = f"{given} is not a valid filter: {name} is there in two spellings."
            raise BadBody(msg, filter=str(given))
        found[name] = values
    for name, values in found.items():
        _check_count(name, values)
    return tuple((name, _read_values(name, values)) for name, values in found.items())


def _check_count(name: str, values: object) -> None:
    if not isinstance(values, list | tuple):
        raise BadBody(_of_type(values, "array", [name]), filter=name)
    _, suffix = split(name)
    wanted = facts()["operators"].get(suffix)
    shown = list(values)
    if not values:
        msg, rule = "[] should be non-empty", "minItems"
        if wanted is not None and wanted > 1:
            msg = "[] is too short"
    elif wanted is not None and len(values) < wanted:
        msg, rule = f"{shown!r} is too short", "minItems"
    elif wanted is not None and len(values) > wanted:
        msg, rule = f"{shown!r} is too long", "maxItems"
    else:
        return
    raise BadBody(f"{msg}; {_failed(rule, [name])}", filter=name)


def _read_values(name: str, values: Sequence[object]) -> tuple[Scalar, ...]:
    attribute, _ = split(name)
    wanted = attribute.items or "string"
    read_: list[Scalar] = []
    for place, value in enumerate(values):
        whole = isinstance(value, float) and value.is_integer() and wanted == "integer"
        fits = isinstance(value, _KINDS[wanted]) or whole  # type: ignore[arg-type]
        if isinstance(value, float) and not math.isfinite(value):
            fits = False  # JSON has no such number.
        if not fits or isinstance(value, bool):
            raise BadBody(_of_type(value, wanted, [name], place), filter=name)
        if isinstance(value, str):
            if not is_text(value):
                raise BadBody(_of_type(value, wanted, [name], place), filter=name)
            read_.append(_collection(value) if name == "collection_id" else value)
        elif isinstance(value, int | float):
            number = int(value) if whole else value
            if isinstance(number, int) and not -LARGEST <= number <= LARGEST:
                raise _invalid(value, name)
            read_.append(number)
    return tuple(read_)


def _collection(value: str) -> str:
    """Give a collection as IDC names it, however it was written; "None" is null."""
    if value == "None":
        return value
    return value.lower().replace("-", "_").replace(" ", "_")


def _read_fields(data: object) -> tuple[str, ...]:
    if not isinstance(data, list | tuple):
        raise BadBody(_of_type(data, "array", ["fields"]))
    found = []
    for given in data:
        name = _fields().get(given.lower()) if isinstance(given, str) else None
        if name is None:
            msg = f"{given} is not a valid field."
            raise BadBody(msg, field=str(given))
        found.append(name)
    return tuple(dict.fromkeys(found))


def _flag(key: str, data: Mapping[str, Any]) -> bool:
    value = data.get(key, False)
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value not in _SAYS:
        raise _invalid(value, key)
    return _SAYS[value]


def page_size(
    value: object, message: str = "page_size value must be an integer"
) -> int:
    """Check the number of rows of a page.

    Raises
    ------
    BadBody
        It is no whole number, or less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadBody(message, key="page_size")
    if value < 1:
        raise _invalid(value, "page_size")
    return value


def _invalid(value: object, key: str) -> BadBody:
    huge = isinstance(value, int) and value.bit_length() > 1024  # noqa: PLR2004
    shown = "a number of that size" if huge else value  # Python refuses to write some.
    return BadBody(f"{shown} is an invalid value for {key}", key=key)


def _of_type(
    value: object, kind: str, path: list[str], place: int | None = None
) -> str:
    failed = _failed("type", path, place)
    return f"{value!r} is not of type '{kind}'; {failed}"


def _failed(rule: str, path: list[str], place: int | None = None) -> str:
    """Say where a value fails, as the service's own check of its schema does."""
    schema, instance = [["properties"], *([part] for part in path)], [[p] for p in path]
    if place is not None:
        schema.append(["items"])
        instance.append([place])  # type: ignore[list-item]
    shown = (",".join(map(str, parts)) for parts in (schema, instance))
    return "Failed validating {} in schema {} on instance {}".format(rule, *shown)
