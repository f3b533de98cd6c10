"""The index tables by name: ``tables list``, ``show``, ``fetch``, ``find``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from intake_idc import display
from intake_idc.cli import output as out
from intake_idc.cli.options import (
    Listing,
    columns_option,
    day_or_number,
    json_option,
    limit_option,
    named_columns,
    output_option,
    release_option,
    tables_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from intake_idc.release import Release, Tables

__all__ = ["tables"]


@click.group(cls=Listing)
def tables() -> None:
    """List, read, fetch and search the index tables.

    Without a command: list. A package leaves out some of its tables, which are
    fetched, checked and kept when they are first asked for.
    """


def _opened(idc_version: str | None, spec: str | None) -> tuple[Release, Tables]:
    """Open a release, and find its tables, which may be its own package's."""
    from intake_idc.release import open_release
    from intake_idc.release.tables import INSTALLED, find_tables

    version = "current" if idc_version is None else day_or_number(idc_version)
    release = open_release(version, spec)
    return release, find_tables(INSTALLED if release.spec is None else release.spec)


@tables.command("list")
@release_option
@tables_option
@json_option
def list_tables(idc_version: str | None, tables: str | None, as_json: bool) -> None:
    """List the index tables: at hand, or fetched on demand; rows and columns."""
    release, found = _opened(idc_version, tables)
    header = ["table", "at_hand", "rows", "columns"]
    rows = [[name, *_measure(name, release, found)] for name in found.all_names]
    if as_json:
        out.as_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    body = [[name, "yes" if here else "fetched", *rest] for name, here, *rest in rows]
    click.echo(display.rows(["table", "at hand", *header[2:]], body))


def _measure(
    name: str, release: Release, found: Tables
) -> tuple[bool, int | None, int | None]:
    if name == "idc_index":
        from intake_idc.selection import Selection

        # That of the release, which may be rebuilt from several tables.
        rows = release.aggregate("count(*)", Selection())[0][0]
        return True, int(rows), len(release.columns)
    path = found.local(name)
    if path is None:
        return False, None, None
    from pyarrow import parquet

    metadata = parquet.read_metadata(path)
    # Its leaves are more where a column holds lists.
    return True, metadata.num_rows, len(metadata.schema.to_arrow_schema())


@tables.command("show")
@click.argument("name")
@release_option
@tables_option
@columns_option
@limit_option
@output_option("Write the whole table instead: .csv or .parquet.")
def show(
    name: str,
    idc_version: str | None,
    tables: str | None,
    columns: str | None,
    limit: int,
    output: Path | None,
) -> None:
    """Read an index table, which is fetched where it is not at hand.

    idc_index is that of the release, the others are those of the package. Long cells
    are cut short; a file gets them whole.
    """
    out.check_table_name(output)
    release, _ = _opened(idc_version, tables)
    out.give_table(release.index_table(name, named_columns(columns)), limit, output)


@tables.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@release_option
@tables_option
def fetch(names: Sequence[str], idc_version: str | None, tables: str | None) -> None:
    """Fetch index tables beforehand, and print where they are.

    One that is at hand is not fetched again. INTAKE_IDC_ARTIFACTS names a folder or
    URL to fetch from, before the places where IDC publishes them.
    """
    _, found = _opened(idc_version, tables)
    for name in names:
        click.echo(found.path(name))


@tables.command("find")
@click.argument("words", nargs=-1, required=True, metavar="WORDS...")
@tables_option
@json_option
def find(words: Sequence[str], tables: str | None, as_json: bool) -> None:
    """Find the columns of index tables by words of their name or description."""
    from intake_idc.release import find_column

    found = find_column(" ".join(words), tables)
    if as_json:
        out.as_json([dataclasses.asdict(column) for column in found])
        return
    click.echo(str(found))
