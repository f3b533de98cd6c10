"""What a cohort is, and whom to cite for it: ``select``, ``cite``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from intake_idc.cli.manifests import manifest_options, manifest_writer
from intake_idc.cli.options import (
    cohort,
    cohort_options,
    day_or_number,
    mirror_options,
    objects_option,
    output_option,
    placed,
    seed_option,
    with_objects,
)
from intake_idc.cli.output import exclusive, save_text, say_wrote
from intake_idc.errors import EmptySelection, RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from intake_idc.citations import Citations
    from intake_idc.cohort import Cohort

__all__ = ["cite", "select"]


@click.command()
@cohort_options
@output_option(
    "Write the cohort, by the name's ending: .s5cmd, .txt (URLs), .csv, .tsv, .ndjson, "
    ".json, .parquet, .sh (a script), .yml (a catalog)."
)
@manifest_options
@objects_option
@mirror_options
@click.option("--diff", metavar="N", help="Compare with another release, N or a day.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Draw N of the series.",
)
@seed_option
@click.option(
    "--list", "as_list", is_flag=True, help="Print the SeriesInstanceUIDs alone."
)
def select(
    output: Path | None,
    diff: str | None,
    as_list: bool,
    objects: str | None,
    mirror: str | None,
    endpoint_url: str | None,
    engine: str | None,
    sample: int | None,
    seed: int,
    **named: Any,
) -> None:
    """Select a cohort: show its counts, or write it."""
    exclusive([("--sample", sample), ("--diff", diff)])
    other = None if diff is None else day_or_number(diff, "--diff")
    writer = manifest_writer(output, named)
    found = placed(cohort(**named), mirror, endpoint_url, engine)
    if sample is not None:
        found = found.sample(sample, seed=seed)
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
        writer(with_objects(found, objects))
        say_wrote(output, aside=as_list)


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
