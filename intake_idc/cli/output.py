"""What several commands write: JSON, tables, and remarks beside them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from intake_idc import display
from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

__all__ = [
    "as_json",
    "check_table_name",
    "exclusive",
    "give_table",
    "save_table",
    "save_text",
    "say_wrote",
]


CELL = 40
"""Characters of a cell that are printed."""


def as_json(value: Any) -> None:
    """Print a value as JSON; what JSON does not have, such as a day, as text."""
    click.echo(json.dumps(value, indent=1, default=str))


def say_wrote(path: Path, *, aside: bool = False) -> None:
    """Say what was written: on standard error where standard output is data."""
    click.echo(f"wrote {path}", err=aside)


def check_table_name(path: Path | None) -> None:
    """Refuse the name of a table before anything is asked.

    Raises
    ------
    RequestError
        It ends in neither .csv nor .parquet.
    """
    if path is not None and path.suffix.lower() not in (".csv", ".parquet"):
        msg = f"--output ends in .csv or .parquet; got {path.name!r}"
        raise RequestError(msg)


def save_table(path: Path, table: pa.Table) -> None:
    """Write a table; CSV has no lists, so that they are JSON there."""
    from intake_idc.cohort import writing

    flat = _flat(table) if path.suffix.lower() == ".csv" else table
    writing.write_table(writing.local_path(path), flat)


def save_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    from intake_idc.cohort import writing

    writing.write_bytes(writing.local_path(path), text.encode())


def _flat(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    for number, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            cells = [
                None if cell is None else json.dumps(cell, default=str)
                for cell in table.column(number).to_pylist()
            ]
            texts = pa.array(cells, pa.string())
            table = table.set_column(number, field.name, texts)
    return table


def give_table(table: pa.Table, limit: int, path: Path | None) -> None:
    """Write a table to a file, or print its first rows with long cells cut short."""
    if path is not None:
        save_table(path, table)
        say_wrote(path)
        return
    body = [_cut(row.values()) for row in table.slice(0, limit).to_pylist()]
    click.echo(display.rows(table.column_names, body))
    if table.num_rows > limit:
        click.echo(f"{limit:,} of {table.num_rows:,} rows", err=True)


def _cut(cells: Any) -> list[object]:
    """Give cells short enough to stand in a row; numbers stay numbers."""
    return [
        cell if cell is None or isinstance(cell, int | float) else _short(str(cell))
        for cell in cells
    ]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= CELL else f"{line[: CELL - 3]}..."


def exclusive(given: Sequence[tuple[str, object]]) -> None:
    """Refuse options that do not go together.

    Raises
    ------
    RequestError
        More than one of them was given.
    """
    named = [name for name, value in given if value]
    if len(named) > 1:
        msg = f"{' and '.join(named)} do not go together"
        raise RequestError(msg)
