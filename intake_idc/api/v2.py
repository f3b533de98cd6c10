"""Answers to bodies of API v2, in the shape that the service gave them.

`preview` is POST /cohorts/manifest/preview, `next_page` the GET of its next page, and
`filter_values` GET /filters/values.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from intake_idc.api import v2_body, v2_sql
from intake_idc.api.v2_body import Body, attributes
from intake_idc.api.v2_source import PIVOT, Asked, Place, Source, place_of
from intake_idc.errors import BadBody
from intake_idc.release import Release, open_release
from intake_idc.selection import quote

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from intake_idc.export import Export
    from intake_idc.storage import Mirror

    ExportPlace = Export | Mirror | str | os.PathLike[str] | Mapping[str, Any]

__all__ = ["filter_values", "float_text", "next_page", "preview", "series_uuids"]

LONGEST_TOKEN = 32 << 20
"""Bytes of JSON that a token may unpack to."""

PLAIN = 1e-3, 1e7
"""Between these BigQuery writes a FLOAT64 without an exponent."""


def preview(
    body: Mapping[str, Any] | Body,
    *,
    idc_version: int | str | None = None,
    tables: str | os.PathLike[str] | None = None,
    export: ExportPlace | None = None,
    digest: Mapping[str, str] | str | None = None,
) -> dict[str, Any]:
    """Answer a body as POST /v2/cohorts/manifest/preview did.

    Parameters
    ----------
    body : Mapping or Body
        As JSON gives it: ``cohort_def``, ``fields``, ``counts``, ``group_size``,
        ``sql``, ``page_size``.
    idc_version : int, "current" or "YYYY-MM-DD", optional
        The release; by default the current one, as the service had it.
    tables, digest
        Where the index tables are; see `open_release`.
    export : str, path, Mirror or Export, optional
        Where the Parquet export lies, for what the index tables do not say; "aws" is
        the public bucket. Nothing of it is read unless it is needed.

    Returns
    -------
    dict
        ``code``, ``cohort_def`` (``name``, ``description``, ``filterSet`` and, where
        asked for, ``sql``), ``manifest`` (``manifest_data``, ``rowsReturned``,
        ``totalFound``) and ``next_page``, a token, empty on the last page.

    Raises
    ------
    BadBody
        The service would refuse the body; ``to_dict()`` is what it would answer.
    TableNotFound
        An attribute needs a table that is not at hand; the message says which.
    """
    asked = body if isinstance(body, Body) else v2_body.read(body)
    release = open_release(
        "current" if idc_version is None else idc_version, tables, digest
    )
    place = place_of(export)
    sql, found = _answered(asked, release, place)
    cohort_def: dict[str, Any] = {
        "name": asked.name,
        "description": asked.description,
        "filterSet": {
            "filters": asked.filters_dict,
            "idc_data_version": f"{release.idc_version}.0",
        },
    }
    if asked.sql:
        cohort_def["sql"] = sql
    again = {
        "body": asked.to_dict(),
        "idc_version": release.idc_version,
        "tables": None if tables is None else str(tables),
        "digest": digest if digest is None or isinstance(digest, str) else dict(digest),
        "source": release.source,
        "export": place,
    }
    page = _page(found, 0, asked.page_size, again)
    return {"code": 200, "cohort_def": cohort_def, **page}


def next_page(token: str, page_size: int | None = None) -> dict[str, Any]:
    """Give the page that a token names, as GET .../preview/nextPage did.

    Parameters
    ----------
    token : str
        ``next_page`` of an answer. It holds the question whole, so that nothing else
        is needed, and nothing is kept between two calls.
    page_size : int, optional
        Rows of this page and the next; by default as before.

    Returns
    -------
    dict
        As `preview`, without ``cohort_def``.

    Raises
    ------
    BadBody
        The token is none, or was changed, or the tables are others by now.
    """
    if page_size is not None:
        page_size = v2_body.page_size(page_size, "Invalid page_size")
    again, start = _taken_apart(token)
    try:
        asked = v2_body.read(again["body"])
        release = open_release(again["idc_version"], again["tables"], again["digest"])
        same, place = release.source == again["source"], place_of(again["export"])
    except (KeyError, TypeError, BadBody) as error:
        raise _bad_token(token) from error
    if not same:
        raise _bad_token(token)
    _, found = _answered(asked, release, place)
    return {"code": 200, **_page(found, start, page_size or asked.page_size, again)}


def filter_values(
    name: str,
    *,
    idc_version: int | str | None = None,
    tables: str | os.PathLike[str] | None = None,
    export: ExportPlace | None = None,
    digest: Mapping[str, str] | str | None = None,
) -> dict[str, Any]:
    """Give the values that a filter may have, as GET /v2/filters/values did.

    Parameters
    ----------
    name : str
        A filter of values, such as ``Modality``; upper and lower case do not matter.
    idc_version, tables, export, digest
        As for `preview`.

    Returns
    -------
    dict
        ``values``, sorted; null comes first.

    Raises
    ------
    BadBody
        There is no such filter, or it takes ranges.
    TableNotFound
        As for `preview`.
    """
    named = {a.name.lower(): a for a in attributes().values() if a.items}
    attribute = named.get(str(name).lower())
    if attribute is None:
        msg = "Invalid filter ID"
        raise BadBody(msg, filter=str(name))
    if attribute.ranged:
        kind = "Integer" if attribute.items == "integer" else "Number"
        msg = (
            f"Filter data type is Ranged {kind} not Categorical String or Categorical "
            "Number"
        )
        raise BadBody(msg, filter=attribute.name)
    release = open_release(
        "current" if idc_version is None else idc_version, tables, digest
    )
    asked = Asked((), (attribute.name,))
    source = Source.find(asked, release, place_of(export))
    value, _ = source.relation.values[attribute.name]
    own = source.relation.source if attribute.table == PIVOT else attribute.table
    sql = f"SELECT DISTINCT {value} AS value FROM {own} ORDER BY 1 ASC NULLS FIRST"
    column = source.run(sql)["value"]
    return {"values": [_json(v, attribute.items) for v in column.to_pylist()]}


def series_uuids(
    filters: Sequence[tuple[str, tuple[Any, ...]]],
    release: Release,
    export: ExportPlace | None,
) -> list[str]:
    """Give the ``crdc_series_uuid`` of every series with an object that filters keep.

    In the published order: by collection, patient, study and series.

    Raises
    ------
    TableNotFound
        As for `preview`.
    """
    asked = Asked(tuple(filters), ("crdc_series_uuid",))
    source = Source.find(asked, release, place_of(export))
    values = source.relation.values
    order = ["collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"]
    named = ", ".join(
        f"{values[name][0]} AS {quote(name)}" for name in ["crdc_series_uuid", *order]
    )
    sql = (
        f"SELECT DISTINCT {named}\nFROM {source.relation.source}\n"
        f"WHERE {v2_sql.conditions(asked.filters, values)}\n"
        f"ORDER BY {', '.join(map(quote, order))}"
    )
    found = source.run(sql)["crdc_series_uuid"].to_pylist()
    return list(dict.fromkeys(found))


# The rows.


def _answered(
    body: Body, release: Release, place: Place | None
) -> tuple[str, pa.Table]:
    """Give the SQL that was run, and what came of it."""
    source = Source.find(Asked.of(body), release, place)
    sql = v2_sql.question(body, source.relation)
    return sql, source.run(sql)


def _page(
    found: pa.Table, start: int, size: int, again: Mapping[str, Any]
) -> dict[str, Any]:
    rows = found.slice(start, min(size, found.num_rows))
    columns = {
        name: _column(name, rows.column(name).to_pylist())
        for name in found.schema.names
    }
    data = [
        dict(zip(columns, values, strict=True))
        for values in zip(*columns.values(), strict=True)
    ]
    stop = start + rows.num_rows
    more = stop < found.num_rows
    return {
        "manifest": {
            "manifest_data": data,
            "rowsReturned": len(data),
            "totalFound": found.num_rows,
        },
        "next_page": _token({**again, "size": size}, stop) if more else "",
    }


def _column(name: str, values: Sequence[Any]) -> list[Any]:
    attribute = attributes().get(name)
    kind = "integer" if attribute is None else attribute.response
    return [_json(value, kind) for value in values]


def _json(value: Any, kind: str | None) -> int | str | None:
    """Give a value as the service did: whole numbers as numbers, else text or null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dt.date):
        return value.isoformat()
    if kind == "integer" and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    whole = isinstance(value, int) and kind != "number"
    return str(value) if whole else float_text(float(value))


def float_text(value: float) -> str:
    """Write a number as BigQuery writes a FLOAT64: ``10.0``, ``0.5``, ``1.0E7``."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0 or PLAIN[0] <= abs(value) < PLAIN[1]:
        text = f"{Decimal(repr(value)):f}"
        return text if "." in text else f"{text}.0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    first, *rest = map(str, digits)
    power = int(exponent) + len(digits) - 1
    return f"{'-' if sign else ''}{first}.{''.join(rest) or '0'}E{power}"


# Tokens: <jobId>:<location>:<pageToken>. The job is the question, packed.


def _token(again: Mapping[str, Any], start: int) -> str:
    packed = zlib.compress(json.dumps(again, sort_keys=True).encode(), 9)
    job = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    return f"{job}:local:{start}-{_check(job, start)}"


def _check(job: str, start: int) -> str:
    return hashlib.sha256(f"{job}:{start}".encode()).hexdigest()[:16]


def _taken_apart(token: object) -> tuple[dict[str, Any], int]:
    if not isinstance(token, str) or token.count(":") != 2:  # noqa: PLR2004
        raise _bad_token(token)
    job, location, page = token.split(":")
    start, _, check = page.partition("-")
    number = int(start) if start.isascii() and start.isdecimal() else -1
    if location != "local" or number < 1 or check != _check(job, number):
        raise _bad_token(token)
    try:
        packed = base64.urlsafe_b64decode(job + "=" * (-len(job) % 4))
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(packed, LONGEST_TOKEN)
        again = json.loads(text)
    except (ValueError, zlib.error, binascii.Error, RecursionError) as error:
        raise _bad_token(token) from error
    if unpacking.unconsumed_tail or not isinstance(again, dict):
        raise _bad_token(token)
    if isinstance(again.get("body"), dict) and isinstance(again.get("size"), int):
        again["body"]["page_size"] = again["size"]
    return again, number


def _bad_token(token: object) -> BadBody:
    shown = str(token)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."  # noqa: PLR2004
    msg = f"Invalid next_page token {shown}"
    return BadBody(msg, token=shown)
