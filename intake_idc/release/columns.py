"""Where a column is: the tables that have it, and what their schemas say of it.

IDC publishes a schema beside every index table: names, types, descriptions. The
installed index package carries those of all tables, also of the ones that it leaves
to be fetched.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from intake_idc import display
from intake_idc.errors import IntegrityError, RequestError, UnknownColumn, nearest
from intake_idc.release.database import database
from intake_idc.release.tables import find_tables

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from intake_idc.release.tables import Tables

__all__ = ["Column", "Columns", "find_column"]


@dataclass(frozen=True)
class Column:
    """A column of an index table, as its published schema has it."""

    table: str
    """Name of the table."""
    name: str
    """Published spelling."""
    type: str
    """Type in the schema: STRING, INTEGER, FLOAT, RECORD."""
    repeated: bool
    """Whether a cell is a list."""
    description: str
    """What the schema says of it; empty where there is none."""
    at_hand: bool
    """Whether the table is on this machine; else it is fetched when it is read."""

    def __str__(self) -> str:
        return f"{self.table}.{self.name}"


@dataclass(frozen=True)
class Columns:
    """Columns that were found, the likeliest first."""

    found: tuple[Column, ...]
    wanted: str = ""
    """What was looked for."""

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.found)

    def __getitem__(self, index: int) -> Column:
        return self.found[index]

    @property
    def tables(self) -> list[str]:
        """Names of the tables, each once."""
        return list(dict.fromkeys(column.table for column in self.found))

    def _rows(self) -> list[list[object]]:
        return [
            [
                column.table,
                column.name,
                f"{column.type}[]" if column.repeated else column.type,
                "yes" if column.at_hand else "fetched",
                column.description,
            ]
            for column in self.found
        ]

    def __str__(self) -> str:
        header = ["table", "column", "type", "at hand", "description"]
        short = [[*row[:4], _shortened(str(row[4]))] for row in self._rows()]
        return display.rows(header, short)

    def _repr_html_(self) -> str:
        header = ["table", "column", "type", "at hand", "description"]
        return display.rows_html(f"Columns like {self.wanted!r}", header, self._rows())


def _shortened(text: str, width: int = 72) -> str:
    """Give the first line of a text, as far as it fits."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def find_column(text: str, tables: str | os.PathLike[str] | None = None) -> Columns:
    """Find the index tables that have a column, by its name or description.

    Parameters
    ----------
    text : str
        Words of the name or the description; ``"slice thickness"`` and
        ``"SliceThickness"`` are the same words.
    tables : str or path, optional
        Where the index tables are; see `find_tables`.

    Returns
    -------
    Columns
        First those whose name is the words, then those whose name holds them all,
        then those whose description does.

    Raises
    ------
    UnknownColumn
        No column is like it; the message names the nearest.

    Examples
    --------
    >>> [str(column) for column in find_column("slice thickness")][:2]
    ['ct_index.SliceThickness', 'mr_index.SliceThickness']
    """
    asked: object = text
    if not isinstance(asked, str):
        msg = f"a column is looked for by words; got {asked!r}"
        raise RequestError(msg)
    wanted = _words(asked)
    known = _published(find_tables(tables))
    ranked: list[tuple[int, int, Column]] = []
    for place, column in enumerate(known):
        rank = _rank(wanted, column)
        if rank is not None:
            ranked.append((rank, place, column))
    if not ranked or not wanted:
        near = nearest(text, {column.name for column in known})
        msg = f"no column of an index table is called or described as {text!r}{near}"
        raise UnknownColumn(msg, column=text)
    ranked.sort(key=lambda each: each[:2])
    return Columns(tuple(column for _, _, column in ranked), text)


def _rank(wanted: Sequence[str], column: Column) -> int | None:
    name = _words(column.name)
    if wanted == name or "".join(wanted) == "".join(name):
        return 0
    if _all_in(wanted, name):
        return 1
    return 2 if _all_in(wanted, _words(column.description)) else None


def _all_in(wanted: Iterable[str], words: Sequence[str]) -> bool:
    return all(any(word.startswith(each) for word in words) for each in wanted)


def _words(text: str) -> list[str]:
    """Give the words of a name or a sentence: ``SliceThickness_mm`` has three."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    return [part.lower() for part in parts]


def _published(tables: Tables) -> list[Column]:
    """Give the columns of every table: by its schema, or else by its file."""
    found: list[Column] = []
    schemas = sorted(tables.folder.glob("*_schema.json"))
    described = {path.name.removesuffix("_schema.json"): path for path in schemas}
    for table in sorted({*described, *tables.names}):
        at_hand = tables.has(table)
        if table in described:
            found += _from_schema(table, described[table], at_hand=at_hand)
        else:
            kinds = database(tables).columns_of(table)
            found += [
                Column(table, name, kind.removesuffix("[]"), "[]" in kind, "", at_hand)
                for name, kind in kinds.items()
            ]
    return found


def _from_schema(table: str, path: Path, *, at_hand: bool) -> list[Column]:
    try:
        schema: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return [
            Column(
                table,
                str(column["name"]),
                str(column.get("type", "")),
                column.get("mode") == "REPEATED",
                str(column.get("description") or ""),
                at_hand,
            )
            for column in schema.get("columns", ())
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        msg = f"{path} is not the schema of a table: {error!r}"
        raise IntegrityError(msg, path=str(path)) from error
