"""The Parquet export of a release: ``export``, ``clinical``, ``objects``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from intake_idc import display
from intake_idc.cli import output as out
from intake_idc.cli.options import (
    Listing,
    cohort,
    cohort_options,
    columns_option,
    day_or_number,
    json_option,
    limit_option,
    named_columns,
    output_option,
    release_option,
    tables_option,
)
from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from intake_idc.export.clinical import ClinicalTable
    from intake_idc.release import Release

__all__ = ["clinical", "export", "objects"]

mirror_option = click.option(
    "--mirror",
    metavar="PLACE",
    help="Where the export lies: a folder or a URL.  [default: the public AWS bucket]",
)


def _release(idc_version: str | None, tables: str | None) -> Release:
    from intake_idc.release import open_release

    version = "current" if idc_version is None else day_or_number(idc_version)
    return open_release(version, tables)


@click.command()
@click.argument("table")
@release_option
@tables_option
@mirror_option
@click.option("--where", metavar="SQL", help="The condition that rows must fulfil.")
@columns_option
@limit_option
@click.option("--count", is_flag=True, help="Print the number of rows alone.")
@output_option("Write every row instead: .csv or .parquet.")
def export(
    table: str,
    idc_version: str | None,
    tables: str | None,
    mirror: str | None,
    where: str | None,
    columns: str | None,
    limit: int,
    count: bool,
    output: Path | None,
) -> None:
    """Read a table of the Parquet export, such as dicom_all; needs the network.

    Without --where, --columns and --count: its columns.
    """
    out.check_table_name(output)
    out.exclusive([("--count", count), ("--columns", columns)])
    out.exclusive([("--count", count), ("--output", output)])
    from intake_idc.export import open_export

    found = open_export(_release(idc_version, tables).idc_version, table, mirror=mirror)
    if count:
        click.echo(found.count(where))
    elif where is None and columns is None:
        if output is not None:
            msg = "--output needs --where or --columns: a whole table may be tens of GB"
            raise RequestError(msg)
        body = [[field.name, str(field.type)] for field in found.schema]
        click.echo(display.rows(["column", "type"], body))
        files = display.count_text(len(found.files), "file")
        size = display.bytes_text(found.size)
        click.echo(f"{files}, {size}", err=True)
    else:
        out.give_table(found.query(where, named_columns(columns)), limit, output)


@click.group(cls=Listing)
def clinical() -> None:
    """List and read the clinical tables of a release; needs the network.

    Without a command: list.
    """


@clinical.command("list")
@click.argument("collection", required=False)
@release_option
@tables_option
@json_option
def list_clinical(
    collection: str | None, idc_version: str | None, tables: str | None, as_json: bool
) -> None:
    """List the clinical tables: collections, columns; of a COLLECTION also codes."""
    from intake_idc.export import clinical_tables

    found = clinical_tables(collection, _release(idc_version, tables))
    if as_json:
        out.as_json(list(map(_described, found)))
    elif collection is not None:
        click.echo("\n\n".join(map(str, found)))
    else:
        body = [[x.name, ", ".join(x.collections), len(x.columns)] for x in found]
        click.echo(display.rows(["table", "collections", "columns"], body))


def _described(about: ClinicalTable) -> dict[str, object]:
    columns = [
        {"name": one.name, "label": one.label, "codes": dict(one.codes)}
        for one in about.columns
    ]
    facts = {"table": about.name, "collections": about.collections}
    return {**facts, "columns": columns}


@clinical.command("show")
@click.argument("table")
@cohort_options
@mirror_option
@click.option("--decode", is_flag=True, help="Put what codes mean in their place.")
@limit_option
@output_option("Write every row instead: .csv or .parquet.")
def show_clinical(
    table: str,
    mirror: str | None,
    decode: bool,
    limit: int,
    output: Path | None,
    **named: Any,
) -> None:
    """Read a clinical table; with FILTERS, for the patients of the cohort alone."""
    from intake_idc.export import open_clinical
    from intake_idc.release import Release

    out.check_table_name(output)
    found = cohort(**named)
    # Every patient, where no filter says otherwise: also those without images.
    whole = isinstance(found.rows, Release) and not found.selection
    if whole:
        rows = open_clinical(table, found.release, decode=decode, mirror=mirror)
    else:
        rows = found.clinical(table, decode=decode, mirror=mirror)
    out.give_table(rows.table, limit, output)
    click.echo(str(rows), err=True)


@click.command()
@cohort_options
@mirror_option
@output_option("The file to write: .parquet or .csv.")
def objects(mirror: str | None, output: Path | None, **named: Any) -> None:
    """Write the objects of a cohort: names, bytes, MD5; needs the network.

    With the file, copy and verify list nothing, and verify can compare MD5s: see
    their --objects.
    """
    if output is None:
        msg = "--output names the file of the objects, .parquet or .csv; got nothing"
        raise RequestError(msg)
    out.check_table_name(output)
    cohort(**named).save_instances(output, mirror=mirror)
    out.say_wrote(output)
