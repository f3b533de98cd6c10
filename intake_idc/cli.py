"""The command ``intake-idc``.

It ends with 0 when all that was asked is done, 2 when it was asked wrongly, 3 when
a manifest or a plan is refused, 4 when something is missing, 5 when something is
not what it should be, and 130 when it was interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intake_idc import display
from intake_idc._version import __version__
from intake_idc.errors import (
    EmptySelection,
    IDCError,
    IntegrityError,
    RequestError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from intake_idc.cohort import Cohort

__all__ = ["main"]

MANIFEST_SUFFIXES = (".s5cmd", ".s5cmd.gz")


def main() -> None:
    """Run the command; an error of this package is one line and an exit code."""
    try:
        command.main(prog_name="intake-idc", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; run it again to go on", err=True)
        sys.exit(130)
    except EmptySelection as error:
        hint = " (here: --all)" if "all()" in error.message else ""
        click.echo(f"intake-idc: {error}{hint}", err=True)
        sys.exit(error.exit_code)
    except IDCError as error:
        click.echo(f"intake-idc: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"intake-idc: {error}", err=True)
        sys.exit(4)


@click.group(
    name="intake-idc", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="intake-idc")
def command() -> None:
    r"""Reach the NCI Imaging Data Commons: releases, cohorts, verified copies.

    A cohort is named by FILTERS, each COLUMN=VALUE: several values are divided by
    commas (any of them), several filters all hold, COLUMN=~TEXT is a regular
    expression, COLUMN= is null. The first may be the path of an s5cmd manifest, whose
    series are then filtered.

    \b
    Exit codes: 0 done, 2 asked wrongly, 3 manifest or plan refused, 4 something
    is missing, 5 something is not what it should be, 130 interrupted.
    """


def _cohort_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("filters", nargs=-1, metavar="FILTERS..."),
        click.option(
            "--all", "everything", is_flag=True, help="Take every series there is."
        ),
        click.option(
            "--problems",
            type=click.Choice(["raise", "report"]),
            default="raise",
            show_default=True,
            help="What to do with lines of a manifest that give no series.",
        ),
        click.option(
            "--where",
            multiple=True,
            metavar="SQL",
            help="An SQL condition; repeatable.",
        ),
        click.option(
            "--idc-version",
            default="current",
            show_default=True,
            metavar="N",
            help="The IDC release.",
        ),
        click.option(
            "--tables",
            metavar="PLACE",
            help="Index tables: a folder, a URL, or 'sample'.  "
            "[default: idc-index-data]",
        ),
    ):
        function = option(function)
    return function


def _mirror_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--mirror", metavar="PLACE", help="'aws', 'gcs', a folder or a URL."
        ),
        click.option(
            "--endpoint-url", metavar="URL", help="Address of an S3 or GCS server."
        ),
        click.option(
            "--engine",
            type=click.Choice(["obstore", "fsspec"]),
            help="What carries the bytes.  [default: the faster that can]",
        ),
        click.option(
            "--dir-template",
            metavar="TEMPLATE",
            help="Folders below DIR, with %COLUMN for a value.  "
            "[default: %collection_id/%PatientID/%StudyInstanceUID/"
            "%Modality_%SeriesInstanceUID]",
        ),
    ):
        function = option(function)
    return function


@command.command()
@click.option(
    "--mirror",
    metavar="PLACE",
    help="Read real objects from 'aws' or 'gcs' instead of the embedded sample.",
)
def demo(mirror: str | None) -> None:
    """Show the main job, end to end; needs no network."""
    from intake_idc import demo as demonstration

    demonstration.run(mirror, say=click.echo)


@command.command()
@click.option(
    "--tables", metavar="PLACE", help="Index tables: a folder, a URL, 'sample'."
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def releases(tables: str | None, as_json: bool) -> None:
    """List the releases: dates, counts, and how sure each is."""
    from intake_idc.release import available_releases

    found = available_releases(tables)
    if as_json:
        names = ("idc_version", "date", "series", "collections", "size", "sureness")
        rows = [{name: getattr(info, name) for name in names} for info in found]
        click.echo(json.dumps(rows, indent=1))
        return
    header = ["release", "date", "series", "collections", "size", "sureness"]
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


@command.command()
@_cohort_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the cohort: .s5cmd (manifest), .csv, .parquet, or .yml (catalog).",
)
@click.option(
    "--bucket",
    type=click.Choice(["aws", "gcs"]),
    default="aws",
    show_default=True,
    help="Whose buckets a manifest names.",
)
@click.option("--diff", metavar="N", type=int, help="Compare with another release.")
@click.option(
    "--list", "as_list", is_flag=True, help="Print the SeriesInstanceUIDs alone."
)
def select(
    output: Path | None,
    bucket: Any,
    diff: int | None,
    as_list: bool,
    **named: Any,
) -> None:
    """Select a cohort: show its counts, or write it."""
    cohort = _cohort(**named)
    click.echo("\n".join(cohort.keys()) if as_list else str(cohort))
    # What is not the list goes where it does not get into one.
    if diff is not None:
        click.echo(str(cohort.diff(diff)), err=as_list)
    if output is not None:
        _write(cohort, output, bucket)
        click.echo(f"wrote {output}", err=as_list)


@command.command()
@_cohort_options
@_mirror_options
@click.option(
    "--to", "target", required=True, metavar="DIR", type=click.Path(path_type=Path),
    help="The folder to copy to.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the plan, and move no byte.")
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write one JSON line for each object.",
)
def copy(
    mirror: str | None,
    endpoint_url: str | None,
    engine: Any,
    dir_template: str | None,
    target: Path,
    dry_run: bool,
    report: Path | None,
    **named: Any,
) -> None:
    """Copy a cohort to a folder; what is there already is not fetched again."""
    from intake_idc.errors import TransferError
    from intake_idc.transfer import as_rows

    cohort = _placed(_cohort(**named), mirror, endpoint_url, engine)
    if report is not None and (dry_run or not report.parent.is_dir()):
        msg = f"--report {report}: its folder must be there, and a dry run has none"
        raise RequestError(msg)
    if dry_run:
        click.echo(str(cohort.plan(target, dir_template=dir_template)))
        return
    failed: TransferError | None = None
    try:
        done = cohort.materialize(target, dir_template=dir_template)
    except TransferError as error:
        failed, done = error, error.report
    if report is not None:
        lines = (json.dumps(row) + "\n" for row in as_rows(done))
        report.write_text("".join(lines), encoding="utf-8")
    click.echo(str(done))
    if failed is not None:
        raise failed


@command.command()
@_cohort_options
@_mirror_options
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path))
def verify(
    mirror: str | None,
    endpoint_url: str | None,
    engine: Any,
    dir_template: str | None,
    target: Path,
    **named: Any,
) -> None:
    """Compare a folder with a cohort: names and sizes against listing and index.

    The folder DIR comes last, after the filters.
    """
    cohort = _placed(_cohort(**named), mirror, endpoint_url, engine)
    found = cohort.verify(target, dir_template=dir_template)
    click.echo(str(found))
    for name in ("differ", "missing", "extra"):
        for path in getattr(found, name)[:10]:
            click.echo(f"  {name}: {path}")
    if not found.ok:
        msg = f"{target} is not what the cohort says"
        raise IntegrityError(msg)


def _cohort(
    filters: Sequence[str],
    where: Sequence[str],
    idc_version: str,
    tables: str | None,
    problems: Any,
    *,
    everything: bool,
) -> Cohort:
    from intake_idc.cohort import open_idc, open_manifest

    number = _number(idc_version)
    if filters and filters[0].endswith(MANIFEST_SUFFIXES):
        path, *filters = filters
        cohort = open_manifest(
            path, idc_version=number, tables=tables, problems=problems
        )
    else:
        cohort = open_idc("current" if number is None else number, tables=tables)
    for text in filters:
        column, value = _filter(text, cohort)
        cohort = cohort.search(**{column: value})
    for condition in where:
        cohort = cohort.query(condition)
    return cohort.all() if everything else cohort


def _number(text: str) -> int | None:
    """Give the number of a release; None is the current one, or the manifest's."""
    if text == "current":
        return None
    if not text.isdecimal():
        msg = f"--idc-version is a number or 'current'; got {text!r}"
        raise RequestError(msg)
    return int(text)


def _filter(text: str, cohort: Cohort) -> tuple[str, Any]:
    column, equals, value = text.partition("=")
    if not equals:
        msg = (
            f"a filter is COLUMN=VALUE (or the path of a .s5cmd manifest); got {text!r}"
        )
        raise RequestError(msg)
    if not value:
        return column, None
    if value.startswith("~"):
        return column, {"regex": value[1:]}
    number = cohort.rows.columns.get(column, "VARCHAR") != "VARCHAR"
    values = value.split(",")
    if not number:
        return column, values
    try:
        return column, [float(v) if "." in v else int(v) for v in values]
    except ValueError as error:
        msg = f"{column} is a number; got {value!r}"
        raise RequestError(msg) from error


def _placed(
    cohort: Cohort, mirror: str | None, endpoint_url: str | None, engine: Any
) -> Cohort:
    if mirror is None and endpoint_url is None and engine is None:
        return cohort
    return cohort.reading_from(mirror, endpoint_url=endpoint_url, engine=engine)


def _write(cohort: Cohort, output: Path, bucket: Any) -> None:
    suffix = output.suffix.lower()
    if suffix == ".s5cmd":
        cohort.to_manifest(output, mirror=bucket)
    elif suffix in (".yml", ".yaml"):
        cohort.to_catalog(output)
    elif suffix in (".csv", ".parquet"):
        cohort.to_table(output)
    else:
        msg = f"--output ends in .s5cmd, .csv, .parquet or .yml; got {output.name!r}"
        raise RequestError(msg)
