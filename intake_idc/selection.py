"""A selection: conditions on the columns of an index table, as a value.

It knows no release. `compile` checks the names and values against a table that
is described to it, and gives SQL with parameters; nothing here reads a table.

The rules:

1. a plain value is exact, upper and lower case counted;
2. a list is OR, and None in it is null;
3. columns are AND, and so are selections that are chained;
4. a compiled regular expression matches anywhere (`re.Pattern.search`);
5. None is null;
6. SQL is one read-only condition, in parentheses of its own;
7. ``commercial_use`` is no column: it keeps the series whose licence allows that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from intake_idc.arrow import is_text
from intake_idc.citations import allows_commercial_use
from intake_idc.errors import (
    BadCondition,
    EmptySelection,
    RequestError,
    UnknownColumn,
    UnknownValue,
    nearest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Condition",
    "Pattern",
    "Selection",
    "Table",
    "any_of",
    "literal",
    "quote",
]

Scalar = str | int | float | bool

LICENSE_COLUMNS = ("collection_id", "source_DOI", "license_short_name")
"""What tells where a series comes from, and under which licence."""

COMMERCIAL_USE = "commercial_use"

LISTED = 100
"""Values that are written out in SQL, where they prune; more go in as one list."""

HUGE = 1 << 127
"""The whole numbers of DuckDB end before this one."""

_FLAGS = {
    "IGNORECASE": re.IGNORECASE,
    "MULTILINE": re.MULTILINE,
    "DOTALL": re.DOTALL,
    "ASCII": re.ASCII,
}


class Table(Protocol):
    """What a selection has to know of a table to be checked against it."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Names of the columns, and their DuckDB types."""

    def distinct(self, column: str) -> Sequence[Any]:
        """Values that the column takes, null left out."""

    def absent(self, column: str, values: Sequence[Any]) -> Sequence[Any]:
        """Those of the values that the column never takes."""

    @property
    def contradicted(self) -> Sequence[tuple[str | None, str | None, str | None]]:
        """Values of `LICENSE_COLUMNS` whose licence is stated in two ways."""

    def near(self, column: str, value: object) -> str:
        """What to say of a value that the column never takes."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression in Python's syntax, matched anywhere in a text."""

    regex: str
    """The expression."""
    flags: tuple[str, ...] = ()
    """Names of `re` flags: IGNORECASE, MULTILINE, DOTALL, ASCII."""

    def compile(self) -> re.Pattern[str]:
        """Give the compiled expression.

        Raises
        ------
        RequestError
            The expression or a flag is not one that Python's `re` knows.
        """
        value = 0
        for name in self.flags:
            if name not in _FLAGS:
                known = ", ".join(_FLAGS)
                msg = f"unknown regular expression flag {name!r}; known are {known}"
                raise RequestError(msg, flag=name)
            value |= _FLAGS[name]
        try:
            return re.compile(self.regex, value)
        except (re.error, OverflowError, RecursionError) as error:
            msg = f"not a regular expression: {self.regex!r} ({error})"
            raise RequestError(msg, regex=self.regex) from error


@dataclass(frozen=True)
class Condition:
    """One column and what it may be: any of the values, or of the patterns."""

    column: str
    """Published name of the column."""
    values: tuple[Scalar, ...] = ()
    """Exact values, any of which will do."""
    patterns: tuple[Pattern, ...] = ()
    """Regular expressions, any of which will do."""
    null: bool = False
    """Whether null will do."""

    def __str__(self) -> str:
        parts = [repr(value) for value in self.values]
        parts += [f"/{pattern.regex}/" for pattern in self.patterns]
        parts += ["null"] if self.null else []
        more = len(parts) - 5
        shown = parts if more <= 0 else [*parts[:5], f"... {more:,} more"]
        return f"{self.column} = {' or '.join(shown)}"


@dataclass(frozen=True)
class Resolved:
    """A condition with values alone: the column has one of them."""

    column: str
    """Name of the column."""
    values: tuple[Scalar, ...]
    """The values."""
    null: bool
    """Whether null fulfils it too."""


@dataclass(frozen=True)
class Selection:
    """Conditions that all hold; the empty selection is every row."""

    conditions: tuple[Condition, ...] = ()
    """Conditions on columns."""
    sql: tuple[str, ...] = field(default=())
    """SQL conditions, as they were given."""
    commercial_use: bool = False
    """Whether only series are meant whose licence allows commercial use."""

    def where(self, columns: Mapping[str, Any]) -> Selection:
        """Give this selection narrowed by conditions on columns.

        ``commercial_use`` is taken beside the columns: True keeps the series whose
        licence allows commercial use, False and None are no condition.

        Raises
        ------
        EmptySelection
            No column was given, or a list of values is empty: neither is taken
            for "everything".
        RequestError
            A value is of a kind that no column can hold.
        """
        if not columns:
            msg = (
                "no filter was given; name at least one column, as in "
                "search(collection_id='nlst'), or use all() for the whole release"
            )
            raise EmptySelection(msg)
        commercial = _commercial_use(columns.get(COMMERCIAL_USE))
        added = (
            _condition(name, value)
            for name, value in columns.items()
            if name != COMMERCIAL_USE
        )
        # In one order, so that the same conditions are the same selection.
        both = sorted([*self.conditions, *added], key=lambda c: c.column)
        return Selection(tuple(both), self.sql, self.commercial_use or commercial)

    def query(self, condition: str) -> Selection:
        """Give this selection narrowed by one SQL condition.

        Raises
        ------
        BadCondition
            The text is not one condition: it is empty, holds several
            statements, or reaches beyond its parentheses.
        """
        _check_sql(condition)
        return replace(self, sql=(*self.sql, condition.strip()))

    def __bool__(self) -> bool:
        return bool(self.conditions or self.sql or self.commercial_use)

    def __str__(self) -> str:
        parts = [str(condition) for condition in self.conditions]
        parts += [f"({condition})" for condition in self.sql]
        parts += ["licence allows commercial use"] if self.commercial_use else []
        return " and ".join(parts) or "every series"

    def to_dict(self) -> dict[str, Any]:
        """Give plain data, fit for YAML and JSON, that `from_dict` reads back.

        The key ``commercial_use`` is there only where it is True.
        """
        where = [
            {"column": condition.column, "is": _plain_items(condition)}
            for condition in self.conditions
        ]
        commercial = {COMMERCIAL_USE: True} if self.commercial_use else {}
        return {"where": where, "sql": list(self.sql), **commercial}

    def to_arguments(self) -> dict[str, Any]:
        """Give plain data in the short form of a catalog entry, where it fits.

        ``{"Modality": ["CT", "PT"], "query": ["series_size_MB < 50"]}``; two
        conditions on one column need the long form, under ``selection``.
        """
        columns = [condition.column for condition in self.conditions]
        if len(set(columns)) != len(columns):
            return {"selection": self.to_dict()}
        arguments: dict[str, Any] = {}
        for condition in self.conditions:
            items = _plain_items(condition)
            arguments[condition.column] = items[0] if len(items) == 1 else items
        if self.sql:
            arguments["query"] = list(self.sql)
        if self.commercial_use:
            arguments[COMMERCIAL_USE] = True
        return arguments

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Selection:
        """Read what `to_dict` gave; the SQL in it is checked anew.

        Raises
        ------
        RequestError
            A key is missing, unknown, or of the wrong kind.
        """
        unknown = set(data) - {"where", "sql", COMMERCIAL_USE}
        if unknown:
            msg = (
                "a selection holds 'where', 'sql' and 'commercial_use'; "
                f"got {sorted(unknown)}"
            )
            raise RequestError(msg)
        selection = cls(commercial_use=_commercial_use(data.get(COMMERCIAL_USE)))
        for item in data.get("where", ()):
            if not isinstance(item, Mapping) or set(item) != {"column", "is"}:
                msg = f"a condition holds 'column' and 'is'; got {item!r}"
                raise RequestError(msg)
            selection = selection.where({str(item["column"]): item["is"]})
        sql = data.get("sql", [])
        if not isinstance(sql, list | tuple):
            msg = f"'sql' is a list of conditions; got {sql!r}"
            raise RequestError(msg)
        for condition in sql:
            selection = selection.query(condition)
        return selection

    def resolve(self, table: Table, *, strict: bool = True) -> list[Resolved]:
        """Give the conditions on columns with values alone, checked against a table.

        See `compile`. Neither SQL nor ``commercial_use`` is among them.
        """
        found = []
        for condition in self.conditions:
            _check_column(condition.column, table)
            values: list[Any] = list(condition.values)
            _check_types(condition, table.columns[condition.column])
            if strict:
                _check_values(condition, table)
            if condition.patterns:
                # Python's own expressions over the distinct values: DuckDB's RE2
                # differs in what `$`, `\s` and case folding mean, and silently.
                compiled = [pattern.compile() for pattern in condition.patterns]
                values += [
                    value
                    for value in table.distinct(condition.column)
                    if any(p.search(str(value)) for p in compiled)
                ]
            found.append(Resolved(condition.column, tuple(values), condition.null))
        return found

    def compile(self, table: Table, *, strict: bool = True) -> tuple[str, list[Any]]:
        """Give an SQL condition and its parameters, checked against a table.

        Parameters
        ----------
        table : Table
            What the names and values are checked against.
        strict : bool
            Whether a value that the column never takes is an error; else it
            selects nothing, which is right for a release that came before it.

        Raises
        ------
        UnknownColumn
            The table has no such column; the message names the nearest.
        UnknownValue
            The column never takes that value; the message names the nearest.
        RequestError
            A value is of another type than the column.
        """
        parts: list[str] = []
        parameters: list[Any] = []
        for condition in self.resolve(table, strict=strict):
            quoted = quote(condition.column)
            options = []
            if condition.values:
                options.append(f"{quoted} in {any_of(condition.values, parameters)}")
            if condition.null:
                options.append(f"{quoted} is null")
            parts.append(f"({' or '.join(options) or 'false'})")
        if self.commercial_use:
            parts.append(f"({_commercial_sql(table, parameters)})")
        parts += [f"(\n{condition}\n)" for condition in self.sql]
        return " and ".join(parts) or "true", parameters


def _commercial_use(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    msg = f"commercial_use is True, False or None; got {value!r}"
    raise RequestError(msg, column=COMMERCIAL_USE)


def _commercial_sql(table: Table, parameters: list[Any]) -> str:
    """Keep the licences that surely allow commercial use, and that nobody disputes."""
    name = "license_short_name"
    if name not in table.columns:
        msg = f"commercial_use needs the column {name}, which these rows do not have"
        raise UnknownColumn(msg, column=name)
    allowed = [v for v in table.distinct(name) if allows_commercial_use(v)]
    if not allowed:
        return "false"
    parts = [f"{quote(name)} in {any_of(allowed, parameters)}"]
    for values in table.contradicted:
        if values[-1] in allowed:
            same = " and ".join(
                f"{quote(column)} is not distinct from "
                f"{'null' if value is None else literal(value)}"
                for column, value in zip(LICENSE_COLUMNS, values, strict=True)
            )
            parts.append(f"not ({same})")
    return " and ".join(parts)


def _plain_items(condition: Condition) -> list[Any]:
    patterns = [
        {"regex": p.regex, **({"flags": list(p.flags)} if p.flags else {})}
        for p in condition.patterns
    ]
    return [*condition.values, *patterns, *([None] if condition.null else [])]


def _condition(column: str, wanted: Any) -> Condition:
    values: list[Scalar] = []
    patterns: list[Pattern] = []
    null = False
    for item in _items(column, wanted):
        match item:
            case None:
                null = True
            case re.Pattern():
                patterns.append(_pattern(item))
            case {"regex": str(regex), "flags": list(flags)} if len(item) == 2:  # noqa: PLR2004
                patterns.append(Pattern(regex, tuple(map(str, flags))))
            case {"regex": str(regex)} if len(item) == 1:
                patterns.append(Pattern(regex))
            case bool() | int() | float() | str():
                _check_value(column, item)
                values.append(item)
            case _:
                msg = (
                    f"{column}={item!r}: a filter is a text, a number, None, "
                    "re.compile(...) or a list of these; "
                    f"got {type(item).__name__}"
                )
                raise RequestError(msg, column=column)
    for pattern in patterns:
        pattern.compile()
    return Condition(column, tuple(dict.fromkeys(values)), tuple(patterns), null)


def _check_value(column: str, value: Scalar) -> None:
    """Refuse a value that neither SQL nor a table can hold."""
    if isinstance(value, str) and not is_text(value):
        msg = f"{column}={value!r}: it holds half a character (a lone surrogate)"
        raise RequestError(msg, column=column)
    if isinstance(value, int) and abs(value) >= HUGE:
        msg = f"{column}: a whole number of {value.bit_length()} bits is in no column"
        raise RequestError(msg, column=column)


def _items(column: str, wanted: Any) -> Iterator[Any]:
    # An array of no dimension is a scalar that says it can be iterated.
    scalar = not hasattr(wanted, "__iter__") or getattr(wanted, "ndim", None) == 0
    if scalar or isinstance(wanted, str | bytes | Mapping):
        yield _plain(wanted)
        return
    if isinstance(wanted, AbstractSet):
        items = sorted(wanted, key=lambda item: (item is None, str(item)))
    else:
        items = list(wanted)
    if not items:
        msg = (
            f"{column}=[]: an empty list selects nothing; "
            "leave the column out to take every value, or give None for null"
        )
        raise EmptySelection(msg, column=column)
    for item in items:
        yield _plain(item)


def _plain(value: Any) -> Any:
    """Turn numpy and pandas scalars into Python's own."""
    return value.item() if hasattr(value, "item") else value


def _pattern(pattern: re.Pattern[Any]) -> Pattern:
    if isinstance(pattern.pattern, bytes):
        msg = f"a regular expression of bytes cannot match text: {pattern.pattern!r}"
        raise RequestError(msg)
    names = tuple(name for name, flag in _FLAGS.items() if pattern.flags & flag)
    if pattern.flags & re.VERBOSE:
        msg = "re.VERBOSE cannot be written into a catalog; write the pattern plainly"
        raise RequestError(msg, regex=pattern.pattern)
    return Pattern(pattern.pattern, names)


def _check_sql(condition: object) -> None:
    """Accept a text only if it parses alone, and inside parentheses.

    Each of the two parses refuses what the other lets through: the first lets
    "1=1) UNION SELECT (1" pass, the second "1 FROM t".
    """
    import duckdb

    if not isinstance(condition, str):
        msg = f"an SQL condition is a text; got {condition!r}"
        raise BadCondition(msg)
    if not is_text(condition):
        msg = f"{condition!r} holds half a character (a lone surrogate)"
        raise BadCondition(msg, condition=condition)
    for wrapped in (f"SELECT (\n{condition}\n)", f"SELECT\n{condition}\n"):
        try:
            statements = duckdb.extract_statements(wrapped)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            msg = f"not one SQL condition: {condition!r} ({reason})"
            raise BadCondition(msg, condition=condition) from error
        if len(statements) != 1:
            msg = f"one SQL condition is taken, not several statements: {condition!r}"
            raise BadCondition(msg, condition=condition)


def _check_column(column: str, table: Table) -> None:
    if column not in table.columns:
        near = nearest(column, [*table.columns, COMMERCIAL_USE])
        known = f"; columns: {', '.join(table.columns)}"
        msg = f"unknown column {column!r}{near or known}"
        raise UnknownColumn(msg, column=column)


def _check_types(condition: Condition, kind: str) -> None:
    textual = kind == "VARCHAR"
    if condition.patterns and not textual:
        msg = f"{condition.column} is {kind}; a regular expression needs text"
        raise RequestError(msg, column=condition.column)
    for value in condition.values:
        if isinstance(value, str) != textual:
            msg = (
                f"{condition.column} is {kind}; got {value!r}, "
                f"which is {type(value).__name__}"
            )
            raise RequestError(msg, column=condition.column)


def _check_values(condition: Condition, table: Table) -> None:
    if not condition.values:
        return
    absent = table.absent(condition.column, condition.values)
    if absent:
        near = table.near(condition.column, absent[0])
        more = f" (and {len(absent) - 1:,} more)" if len(absent) > 1 else ""
        msg = f"no series has {condition.column} = {absent[0]!r}{more}{near}"
        raise UnknownValue(msg, column=condition.column, values=list(absent))


def quote(column: str) -> str:
    """Quote a column's name for SQL."""
    return '"' + column.replace('"', '""') + '"'


def literal(value: object) -> str:
    """Quote a text or number for SQL."""
    if isinstance(value, int | float):
        return repr(value) if math.isfinite(value) else f"'{value}'::DOUBLE"
    return "'" + str(value).replace("'", "''") + "'"


def any_of(values: Sequence[Any], parameters: list[Any]) -> str:
    """Give what stands after IN: the values themselves, or a parameter.

    Few values are written out, because they prune row groups, and because DuckDB 1
    imports pandas (0.3 s and 80 MB) to look at a parameter. SQL holds no NUL.
    """
    if len(values) <= LISTED and not any("\0" in str(value) for value in values):
        return f"({', '.join(map(literal, values))})"
    parameters.append(list(values))
    return "(select unnest(?))"
