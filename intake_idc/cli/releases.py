"""Releases, and what changes between them: ``releases``, ``diff``, ``history``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from intake_idc import display
from intake_idc.cli import output as out
from intake_idc.cli.options import (
    day_or_number,
    json_option,
    output_option,
    tables_option,
)
from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from intake_idc.cohort import Difference

__all__ = ["diff", "history", "releases"]


@click.command()
@tables_option
@json_option
def releases(tables: str | None, as_json: bool) -> None:
    """List the releases: dates, counts, and how sure each is."""
    from intake_idc.release import available_releases

    found = available_releases(tables)
    header = ["release", "date", "series", "collections", "size", "sureness"]
    if as_json:
        names = ["idc_version", *header[1:]]
        out.as_json([{name: getattr(info, name) for name in names} for info in found])
        return
    body = [
        [
            i.idc_version,
            i.date,
            i.series,
            i.collections,
            display.bytes_text(i.size),
            i.sureness,
        ]
        for i in found
    ]
    click.echo(display.rows(header, body))


@click.command()
@click.argument("old")
@click.argument("new")
@tables_option
@click.option(
    "--old-tables",
    metavar="PLACE",
    help="Index tables of OLD, such as its own package: then attributes are compared "
    "too.  [default: those of NEW]",
)
@click.option(
    "--by-collection", is_flag=True, help="Give a row for each collection that differs."
)
@click.option(
    "--list",
    "kind",
    type=click.Choice(["added", "removed", "revised", "changed"]),
    help="Print the SeriesInstanceUIDs of one kind alone.",
)
@output_option("Write the rows, a series or a collection each: .csv or .parquet.")
@json_option
def diff(
    old: str,
    new: str,
    tables: str | None,
    old_tables: str | None,
    by_collection: bool,
    kind: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare two releases, OLD and NEW: each a number, a day, or 'current'.

    It always goes from the older to the newer. For a cohort there is select --diff.
    """
    from intake_idc.cohort import diff as compare
    from intake_idc.release import open_release

    out.exclusive([("--list", kind), ("--by-collection", by_collection)])
    out.exclusive([("--list", kind), ("--json", as_json)])
    out.check_table_name(output)
    first = open_release(day_or_number(old, "OLD"), old_tables or tables)
    second = open_release(day_or_number(new, "NEW"), tables)
    found = compare(first, second)
    if kind == "changed" and not found.attributes_compared:
        # An empty list would say that nothing has changed.
        msg = (
            f"--list changed: it is not known; {found.attributes_note} "
            "(here: --old-tables)"
        )
        raise RequestError(msg)
    if as_json:
        out.as_json(_facts(found, by_collection=by_collection))
    elif kind is not None:
        _echo_lines(getattr(found, kind))
    elif by_collection:
        header, body = _collections(found)
        click.echo(display.rows(header, body))
    else:
        click.echo(str(found))
    if output is not None:
        out.save_table(output, found.by_collection if by_collection else found.table)
        out.say_wrote(output, aside=as_json or kind is not None)


def _echo_lines(lines: tuple[str, ...]) -> None:
    if lines:
        click.echo("\n".join(lines))


KINDS = ("added", "removed", "revised", "changed")


def _differing(found: Difference) -> list[dict[str, object]]:
    rows = found.by_collection.to_pylist()
    return [row for row in rows if any(row[kind] for kind in KINDS)]


def _collections(found: Difference) -> tuple[list[str], list[list[object]]]:
    counted = [*KINDS[:3], "unchanged", "changed"]
    sizes = [n for n in found.by_collection.column_names if n.endswith("_bytes")]
    header = ["collection_id", *counted, *sizes]
    body = [[row[name] for name in header] for row in _differing(found)]
    return header, body


def _facts(found: Difference, *, by_collection: bool) -> dict[str, object]:
    facts = {
        "old": found.old,
        "new": found.new,
        "sources": found.sources,
        "unsure": found.unsure,
        "series": found.counts,
        "bytes": found.bytes,
        "attributes_compared": found.attributes_compared,
        "attributes_note": found.attributes_note,
        "columns_compared": found.columns_compared,
        "columns_left_out": found.columns_left_out,
    }
    return facts | ({"by_collection": _differing(found)} if by_collection else {})


@click.command()
@click.argument("series", metavar="UID-OR-UUID")
@tables_option
@json_option
def history(series: str, tables: str | None, as_json: bool) -> None:
    """Tell the life of a series: its uuids, by the releases that held them.

    It is named by its SeriesInstanceUID or by any crdc_series_uuid that it ever had.
    """
    from intake_idc.cohort import history as lives

    found = lives(series, tables=tables)
    if as_json:
        out.as_json({**dataclasses.asdict(found), "withdrawn": found.withdrawn})
        return
    click.echo(str(found))
