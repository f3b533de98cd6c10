"""The SQL that a body of API v2 asks, over the rows of one relation.

The rules are those of the service: values of one attribute are OR, attributes are AND,
the ranges of one attribute are OR; text is compared without regard to case; ``%`` in a
value is any text; "None" is null; a filter of a clinical table lets pass whoever that
table does not have. Unlike the service's last SQL, and as documented, ``%`` holds in
every value of a list, ``_`` is itself, and the bytes of an object count once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from intake_idc.api.v2_body import Body, Scalar, facts, split
from intake_idc.selection import LISTED, literal, quote

__all__ = [
    "CASE",
    "Relation",
    "condition",
    "conditions",
    "counted",
    "kind_of",
    "question",
    "text_literal",
    "wildcard",
]

CASE = "case_barcode"
"""The column of a clinical table that is the PatientID of the images."""

_COUNTED = {
    "collection_count": "collection_id",
    "patient_count": "PatientID",
    "study_count": "StudyInstanceUID",
    "series_count": "SeriesInstanceUID",
    "instance_count": "SOPInstanceUID",
}
_SPECIAL = {
    "StudyDate": "min({0})",
    "StudyDescription": "string_agg(DISTINCT {0}, ',' ORDER BY {0})",
}
"""Fields that are made one of a group, instead of making groups."""
_COMPARED = {
    "gt": "{0} > {1}",
    "gte": "{0} >= {1}",
    "lt": "{0} < {1}",
    "lte": "{0} <= {1}",
    "eq": "{0} = {1}",
    "btw": "{0} > {1} AND {0} < {2}",
    "ebtw": "{0} >= {1} AND {0} < {2}",
    "btwe": "{0} > {1} AND {0} <= {2}",
    "ebtwe": "{0} BETWEEN {1} AND {2}",
}
_FLOATS = ("double", "float", "real", "halffloat")
_TEXTS = ("varchar", "string", "large_string")

Expression = tuple[str, str]
"""SQL of a value, and the kind of it; see `kind_of`."""


@dataclass(frozen=True)
class Relation:
    """Rows that a body is asked of: of series, or of objects."""

    source: str
    """What stands after FROM."""
    values: Mapping[str, Expression]
    """Attributes, by canonical name."""
    unit: str
    """The attribute of which each has its count and its bytes once."""
    size: str
    """SQL of the bytes of a unit."""
    objects: str | None = None
    """SQL of the number of objects of a unit; None: a unit is an object."""
    repeated: bool = False
    """Whether a unit may have several rows."""


def kind_of(type_: str) -> str:
    """Give the kind of a type of DuckDB's or Arrow's: text, float, or other."""
    name = type_.lower()
    if name.startswith(_TEXTS):
        return "text"
    return "float" if name.startswith(_FLOATS) else "other"


def question(body: Body, relation: Relation) -> str:
    """Give the SQL whose rows are those of a manifest, in their order.

    Columns: the fields, in the order of the body; the counts of its granularity; and
    ``group_size``, bytes.
    """
    inner = dict.fromkeys(body.fields)
    counts = counted(body)
    inner.update(dict.fromkeys(_of(count, relation) for count in counts))
    repeated = relation.repeated and (
        body.group_size or ("instance_count" in counts and relation.objects is not None)
    )
    if repeated:
        inner[relation.unit] = None
    listed = [f"{relation.values[name][0]} AS {quote(name)}" for name in inner]
    if "instance_count" in counts and relation.objects is not None:
        listed.append(f"{relation.objects} AS objects")
    if body.group_size:
        listed.append(f"{relation.size} AS bytes")
    where = conditions(body.filters, relation.values)
    chosen = (
        f"SELECT {'DISTINCT ' if repeated else ''}{', '.join(listed)}\n"
        f"  FROM {relation.source}\n"
        f"  WHERE {where}"
    )
    columns = [
        f"{_SPECIAL[name].format(quote(name))} AS {quote(name)}"
        if name in _SPECIAL
        else quote(name)
        for name in body.fields
    ]
    columns += [f"{_count(count, relation)} AS {quote(count)}" for count in counts]
    if body.group_size:
        columns.append("sum(bytes)::BIGINT AS group_size")
    sql = f"SELECT {', '.join(columns)}\nFROM (\n  {chosen}\n) AS found"
    groups = [quote(name) for name in body.fields if name not in _SPECIAL]
    if groups:
        sql += f"\nGROUP BY {', '.join(groups)}"
    if body.fields:
        order = [
            part
            for place, name in enumerate(body.fields, 1)
            for part in _order(name, place, relation)
        ]
        sql += f"\nORDER BY {', '.join(order)}"
    return sql


def counted(body: Body) -> list[str]:
    """Give the names of the counts that the rows of a body have."""
    if not body.counts:
        return []
    return list(facts()["counts"][body.granularity])


def _of(count: str, relation: Relation) -> str:
    if count == "instance_count" and relation.objects is not None:
        return relation.unit
    return _COUNTED[count]


def _count(count: str, relation: Relation) -> str:
    if count == "instance_count" and relation.objects is not None:
        return "coalesce(sum(objects), 0)::BIGINT"
    return f"count(DISTINCT {quote(_COUNTED[count])})"


def _order(name: str, place: int, relation: Relation) -> list[str]:
    """Order as BigQuery does: null first, then what is not a number, then the rest."""
    by = [f"{place} ASC NULLS FIRST"]
    if relation.values[name][1] == "float":
        by.insert(0, f"coalesce(isnan({quote(name)}), true) DESC")
    return by


def conditions(
    filters: Sequence[tuple[str, tuple[Scalar, ...]]],
    values: Mapping[str, Expression],
) -> str:
    """Give the condition that filters are, over attributes whose SQL is given."""
    own: list[str] = []
    clinical: dict[str, list[str]] = {}
    grouped: dict[str, list[str]] = {}
    tables: dict[str, str] = {}
    for name, wanted in filters:
        attribute, suffix = split(name)
        part = condition(attribute.name, suffix, wanted, values[attribute.name])
        grouped.setdefault(attribute.name, []).append(part)
        tables[attribute.name] = attribute.table
    for base, parts in grouped.items():
        either = f"({' OR '.join(parts)})"
        if tables[base] == "dicom_pivot":
            own.append(either)
        else:
            clinical.setdefault(tables[base], []).append(either)
    for table, parts in clinical.items():
        # The service's own rule, whatever one thinks of it.
        own.append(f"({' AND '.join(parts)} OR {table}.{CASE} IS NULL)")
    return " AND ".join(own) or "true"


def condition(
    attribute: str, suffix: str, wanted: Sequence[Scalar], value: Expression
) -> str:
    """Give the condition that one filter is."""
    if suffix:
        return _range(suffix, wanted, value)
    if all(isinstance(each, int | float) for each in wanted):
        number = _number(value)
        return f"{number} IN ({', '.join(literal(each) for each in wanted)})"
    return _term(attribute, [str(each) for each in wanted], value)


def _range(suffix: str, wanted: Sequence[Scalar], value: Expression) -> str:
    compared = _COMPARED[suffix].format(_number(value), *map(literal, wanted))
    if value[1] == "other":
        return f"({compared})"
    # What is not a number is above all others to DuckDB, and to BigQuery nowhere.
    return f"({compared} AND NOT isnan({_number(value)}))"


def _number(value: Expression) -> str:
    sql, kind = value
    return f"TRY_CAST({sql} AS DOUBLE)" if kind == "text" else sql


def _term(attribute: str, wanted: Sequence[str], value: Expression) -> str:
    sql, kind = value
    text = sql if kind == "text" else f"CAST({sql} AS VARCHAR)"
    fold: Callable[[str], str] = "lower({})".format
    if attribute == "collection_id":
        # Both sides are lower already; and bounds of files can be held against it.
        fold = "{}".format
    parts = []
    exact = [each for each in wanted if each != "None" and "%" not in each]
    if len(exact) > LISTED:
        listed = ", ".join(map(text_literal, exact))
        among = f"SELECT {fold('value')} FROM (SELECT unnest([{listed}]) AS value)"
        parts.append(f"{fold(text)} IN ({among})")
    elif exact:
        listed = ", ".join(fold(text_literal(each)) for each in exact)
        parts.append(f"{fold(text)} IN ({listed})")
    parts += [
        f"{fold(text)} LIKE {fold(text_literal(wildcard(each)))} ESCAPE '\\'"
        for each in wanted
        if "%" in each
    ]
    if "None" in wanted:
        parts.append(f"{sql} IS NULL")
    return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"


def wildcard(value: str) -> str:
    """Give the pattern of LIKE for a value, in which ``%`` alone is special."""
    return value.replace("\\", "\\\\").replace("_", "\\_")


def text_literal(value: str) -> str:
    """Quote a text for SQL, which holds no NUL."""
    return " || chr(0) || ".join(map(literal, value.split("\0")))
