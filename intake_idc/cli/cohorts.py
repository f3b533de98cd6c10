"""What a cohort is, and whom to cite for it: ``select``, ``cite``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from intake_idc.cli.options import (
    LOCK_SUFFIX,
    cohort,
    cohort_options,
    day_or_number,
    output_option,
)
from intake_idc.cli.output import save_text, say_wrote
from intake_idc.errors import EmptySelection, RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from intake_idc.citations import Citations
    from intake_idc.cohort import Cohort

__all__ = ["cite", "select"]


@click.command()
@cohort_options
@output_option("Write the cohort: .s5cmd (manifest), .csv, .parquet, .yml (catalog).")
@click.option(
    "--bucket",
    type=click.Choice(["aws", "gcs"]),
    default="aws",
    show_default=True,
    help="Whose buckets a manifest names.",
)
@click.option("--diff", metavar="N", help="Compare with another release, N or a day.")
@click.option(
    "--list", "as_list", is_flag=True, help="Print the SeriesInstanceUIDs alone."
)
def select(
    output: Path | None,
    bucket: Any,
    diff: str | None,
    as_list: bool,
    **named: Any,
) -> None:
    """Select a cohort: show its counts, or write it."""
    other = None if diff is None else day_or_number(diff, "--diff")
    _check_name(output)
    found = cohort(**named)
    if other is not None and found.locked is not None:
        msg = (
            "--diff does not apply to a lock; intake-idc lock --check PATH --against N"
        )
        raise RequestError(msg)
    difference = None if other is None else found.diff(other)
    click.echo("\n".join(found.keys()) if as_list else str(found))
    # What is not the list goes where it does not get into one.
    if difference is not None:
        click.echo(str(difference), err=as_list)
    if output is not None:
        _write(found, output, bucket)
        say_wrote(output, aside=as_list)


def _check_name(output: Path | None) -> None:
    """Refuse a file of no known kind before anything is asked."""
    suffixes = (".s5cmd", ".yml", ".yaml", ".csv", ".parquet")
    if output is not None and output.suffix.lower() not in suffixes:
        msg = f"--output ends in .s5cmd, .csv, .parquet or .yml; got {output.name!r}"
        if output.name.endswith(LOCK_SUFFIX):
            msg += "; intake-idc lock writes a lock"
        raise RequestError(msg)


def _write(found: Cohort, output: Path, bucket: Any) -> None:
    suffix = output.suffix.lower()
    if suffix == ".s5cmd":
        found.to_manifest(output, mirror=bucket)
    elif suffix in (".yml", ".yaml"):
        found.to_catalog(output)
    else:
        found.to_table(output)


@click.command()
@cohort_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "bibtex", "csl", "notice"]),
    default="text",
    show_default=True,
    help="Citations one a line, a BibTeX file, CSL-JSON, or a notice by licence.",
)
@output_option("Write to a file instead.")
def cite(form: str, output: Path | None, **named: Any) -> None:
    """Say whom to cite for a cohort, and under which licences it stands.

    Series of which the tables do not say whom to cite, and licences that are stated
    in contradicting ways, are named on standard error.
    """
    found = cohort(**named)
    citations = found.citations()
    if not citations.series:
        msg = f"no series of release {found.idc_version} has {found.selection}"
        raise EmptySelection(msg)
    text = _text(found, citations, form)
    if output is None:
        click.echo(text, nl=False)
    else:
        save_text(output, text)
        say_wrote(output)
    for uncited in citations.uncited:
        click.echo(f"not cited: {uncited}", err=True)
    for conflict in citations.conflicts:
        click.echo(f"conflicting licence: {conflict}", err=True)


def _text(found: Cohort, citations: Citations, form: str) -> str:
    if form == "notice":
        return citations.notice(found.manifest(["crdc_series_uuid"]).digest)
    if form == "csl":
        return f"{json.dumps(citations.csl(), indent=1, ensure_ascii=False)}\n"
    return citations.bibtex() if form == "bibtex" else citations.text()
