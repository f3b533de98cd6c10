"""Which files cannot hold a row that a condition asks for, by what footers say.

A condition in SQL is parsed by DuckDB. What is understood of it becomes a test on the
bounds of columns; what is not understood holds everywhere. So a file is left out only
where no row of it can fulfil the condition, whatever the condition is.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from intake_idc.errors import BadCondition
from intake_idc.selection import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from intake_idc.export.parquet import Bounds
    from intake_idc.release.database import Database

Value = str | int | dt.date

__all__ = ["All", "Among", "Compare", "Either", "Filter", "parsed"]


class Filter(Protocol):
    """Something that rows of a row group may fulfil."""

    def may_hold(self, known: Mapping[str, Bounds | None]) -> bool:
        """Say whether a row may fulfil it, by the bounds of its row group."""


@dataclass(frozen=True)
class All:
    """Tests that all hold; none holds everywhere."""

    tests: tuple[Filter, ...] = ()

    def may_hold(self, known: Mapping[str, Bounds | None]) -> bool:
        """Say whether each of them may hold."""
        return all(test.may_hold(known) for test in self.tests)


@dataclass(frozen=True)
class Either:
    """Tests of which one holds."""

    tests: tuple[Filter, ...]

    def may_hold(self, known: Mapping[str, Bounds | None]) -> bool:
        """Say whether one of them may hold."""
        return any(test.may_hold(known) for test in self.tests)


@dataclass(frozen=True)
class Compare:
    """A column between two values; None is no bound."""

    column: str
    low: Any = None
    high: Any = None

    def may_hold(self, known: Mapping[str, Bounds | None]) -> bool:
        """Say whether a value may lie there; null never does."""
        bounds = known.get(self.column)
        if bounds is None:
            return True
        if bounds.nulls is not None and bounds.nulls == bounds.rows:
            return False
        low = _as(self.low, bounds.high)
        if low is not None and low > bounds.high:
            return False
        high = _as(self.high, bounds.low)
        return high is None or high >= bounds.low


@dataclass(frozen=True)
class Among:
    """A column that has one of many texts, sorted."""

    column: str
    values: tuple[str, ...]

    def may_hold(self, known: Mapping[str, Bounds | None]) -> bool:
        """Say whether one of them lies within the bounds."""
        bounds = known.get(self.column)
        if bounds is None or not isinstance(bounds.low, str):
            return True
        at = bisect_left(self.values, bounds.low)
        return at < len(self.values) and self.values[at] <= bounds.high


def _as(value: Any, bound: Any) -> Any:
    """Give a value in the kind of a bound, or None where they do not compare."""
    if value is None or bound is None or type(value) is type(bound):
        return None if bound is None else value
    if isinstance(bound, dt.date) and isinstance(value, str):
        return _date(value)
    return None


def parsed(
    condition: str, table: str, columns: Collection[str], database: Database
) -> tuple[list[str], Filter]:
    """Give the columns that a condition names, and the test that it is.

    Parameters
    ----------
    condition : str
        One SQL condition, checked to be one.
    table : str
        Name of the table, by which the condition may call it.
    columns : collection of str
        Columns of the table.
    database : Database
        Whose parser is asked.

    Raises
    ------
    BadCondition
        It asks another question inside, or names a column by its place.
    """
    statement = literal(f"SELECT 1 WHERE (\n{condition}\n)")
    text = database.rows(f"SELECT json_serialize_sql({statement})")[0][0]
    answer = json.loads(text)
    by_name = {name.lower(): name for name in columns}
    # A question that DuckDB 2 makes into several, such as PIVOT, has no tree.
    where = None
    if not answer.get("error"):
        where = answer["statements"][0]["node"]["where_clause"]
    named: dict[str, None] = {}
    for node in _nodes(where):
        kind = node.get("class")
        if kind in ("SUBQUERY", "POSITIONAL_REFERENCE"):
            where = None
            break
        if kind == "STAR":
            named.update(dict.fromkeys(columns))
        if kind == "COLUMN_REF":
            name = _column(node, table, by_name)
            if name is not None:
                named[name] = None
            elif node["column_names"][0].lower() == table.lower():
                # The row as a whole.
                named.update(dict.fromkeys(columns))
    if where is None:
        msg = (
            "a condition looks at one row at a time, and at columns by their names; "
            f"got {condition!r}"
        )
        raise BadCondition(msg, condition=condition)

    def column(node: Mapping[str, Any]) -> str | None:
        plain = node.get("class") == "COLUMN_REF"
        names = node.get("column_names", ())
        deep = len(names) > 1 and names[0].lower() != table.lower()
        return _column(node, table, by_name) if plain and not deep else None

    return list(named), _test(where, column)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for item in tree.values():
            yield from _nodes(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)


def _column(
    node: Mapping[str, Any], table: str, by_name: Mapping[str, str]
) -> str | None:
    names = [str(name).lower() for name in node.get("column_names", ())]
    if len(names) > 1 and names[0] == table.lower() and names[1] in by_name:
        return by_name[names[1]]
    return by_name.get(names[0]) if names else None


_FLIPPED = {
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_EQUAL": "COMPARE_EQUAL",
}


def _test(
    node: Mapping[str, Any], column: Callable[[Mapping[str, Any]], str | None]
) -> Filter:
    """Turn a node of DuckDB's tree into a test; what is not understood holds."""
    found: Filter | None = None
    match node.get("type"):
        case "CONJUNCTION_AND":
            found = All(tuple(_test(child, column) for child in node["children"]))
        case "CONJUNCTION_OR":
            found = Either(tuple(_test(child, column) for child in node["children"]))
        case "COMPARE_IN":
            first, *others = node["children"]
            found = _among(column(first), [_constant(child) for child in others])
        case "COMPARE_BETWEEN":
            name = column(node["input"])
            low, high = _constant(node["lower"]), _constant(node["upper"])
            if name is not None and low is not None and high is not None:
                found = Compare(name, low, high)
        case str(kind) if kind in _FLIPPED:
            left, right = node["left"], node["right"]
            name = column(left)
            if name is not None:
                found = _compared(name, kind, _constant(right))
            else:
                found = _compared(column(right), _FLIPPED[kind], _constant(left))
    return All() if found is None else found


def _compared(name: str | None, kind: str, value: Value | None) -> Filter | None:
    if name is None or value is None:
        return None
    # A bound that is itself left out may stay: it prunes a little less.
    below = kind in ("COMPARE_LESSTHAN", "COMPARE_LESSTHANOREQUALTO")
    above = kind in ("COMPARE_GREATERTHAN", "COMPARE_GREATERTHANOREQUALTO")
    return Compare(name, None if below else value, None if above else value)


def _among(name: str | None, values: list[Value | None]) -> Filter | None:
    if name is None or None in values:
        return None
    if not all(isinstance(value, str) for value in values):
        return Either(tuple(Compare(name, value, value) for value in values))
    texts = tuple(sorted(str(value) for value in values))
    # Where the column is one of dates, the texts are meant as dates.
    dated = all(_date(text) for text in texts)
    between = (Compare(name, texts[0], texts[-1]),) if dated else ()
    return All((Among(name, texts), *between))


def _constant(node: Mapping[str, Any]) -> Value | None:
    """Give a text, a whole number or a date that is written out, else None."""
    match node.get("class"):
        case "CAST":
            kind = node.get("cast_type", {}).get("id")
            kind = kind or node.get("type_expr", {}).get("type_name")
            text = _constant(node.get("child", {}))
            dated = str(kind).upper() == "DATE" and isinstance(text, str)
            return _date(str(text)) if dated else None
        case "CONSTANT" if "literal" in node:
            # DuckDB 2.
            kind, text = node["literal"].get("kind"), str(node["literal"].get("text"))
            if kind == "INTEGER":
                return int(text) if re.fullmatch(r"-?\d+", text) else None
            return text if kind == "STRING" else None
        case "CONSTANT":
            value = node.get("value", {})
            kind, found = value.get("type", {}).get("id"), value.get("value")
            if kind in ("INTEGER", "BIGINT"):
                return int(found) if str(found).lstrip("-").isdigit() else None
            return str(found) if kind == "VARCHAR" and found is not None else None
    return None


def _date(text: str) -> dt.date | None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None
