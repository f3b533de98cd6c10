"""Headers of a cohort, kept as a table: ``headers``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from intake_idc.cli.options import (
    LocalPath,
    cohort,
    cohort_options,
    mirror_options,
    named_columns,
    objects_option,
    placed,
    with_objects,
)
from intake_idc.errors import StorageError

__all__ = ["headers"]

SHOWN = 10
"""Failures that are printed; the table beside has them all."""


@click.command()
@cohort_options
@mirror_options
@objects_option
@click.option(
    "--tags",
    required=True,
    metavar="NAMES",
    help="DICOM keywords, or paths through sequences, divided by commas.",
)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    type=LocalPath(path_type=Path),
    help="A folder of Parquet files, which is made, or gone on with.",
)
def headers(
    mirror: str | None,
    endpoint_url: str | None,
    engine: Any,
    objects: str | None,
    tags: str,
    target: Path,
    **named: Any,
) -> None:
    """Read the headers of a cohort into a folder of Parquet files.

    What is there already is not read again, so that a scan that was ended goes on, and
    another cohort or a later release adds what is new.
    """
    found = placed(cohort(**named), mirror, endpoint_url, engine)
    scan = with_objects(found, objects).scan_headers(
        target, named_columns(tags) or [], progress=sys.stdout.isatty()
    )
    click.echo(str(scan))
    for failure in scan.failures.slice(0, SHOWN).to_pylist():
        click.echo(f"  {failure['kind']}: {failure['reason']}")
    if scan.failures.num_rows:
        msg = f"{scan.failures.num_rows} could not be read; run it again to try them"
        raise StorageError(msg)
