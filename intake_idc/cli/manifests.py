"""Options of a manifest that is written, and the writing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from intake_idc.cli.options import LOCK_SUFFIX, add, named_columns
from intake_idc.cli.output import check_table_name
from intake_idc.errors import RequestError
from intake_idc.formats.writing import KINDS, form_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from intake_idc.cohort import Cohort

__all__ = ["manifest_options", "manifest_writer"]

TABLE = "table"
"""What is written for looking at: every column of the index."""


def manifest_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a manifest; see `manifest_writer`."""
    return add(
        function,
        [
            click.option(
                "--format",
                "written_as",
                type=click.Choice([*KINDS, TABLE]),
                help="What to write, whatever the name ends in; 'table' is every "
                "column of the index, as .csv or .parquet.",
            ),
            click.option(
                "--bucket",
                type=click.Choice(["aws", "gcs"]),
                default="aws",
                show_default=True,
                help="Whose buckets a manifest names.",
            ),
            click.option(
                "--level",
                type=click.Choice(["series", "instance"]),
                default="series",
                show_default=True,
                help="What a line or row of a manifest is.",
            ),
            click.option(
                "--columns",
                metavar="A,B",
                help="Columns of a manifest besides the usual ones.",
            ),
            click.option(
                "--scheme",
                type=click.Choice(["s3", "gs", "https"]),
                help="Scheme of plain URLs.  [default: that of the bucket]",
            ),
            click.option(
                "--preamble/--no-preamble",
                default=None,
                help="Lines above the first that say the release.  [default: in .s5cmd "
                "and .txt]",
            ),
            click.option(
                "--spreadsheet-safe",
                is_flag=True,
                help="Put ' before cells of .csv and .tsv that would be formulas.",
            ),
        ],
    )


def manifest_writer(
    output: Path | None, named: dict[str, Any]
) -> Callable[[Cohort], object]:
    """Take the options out of ``named``, and give what writes a cohort by them.

    They are held against the name of the file before anything is asked.

    Raises
    ------
    RequestError
        They do not fit together, or the name ends in nothing that is known.
    """
    kind, mirror = named.pop("written_as"), named.pop("bucket")
    options = {
        name: named.pop(name)
        for name in ("level", "columns", "scheme", "preamble", "spreadsheet_safe")
    }
    options["columns"] = tuple(named_columns(options["columns"]) or ())
    if output is None:
        given = {"--format": kind, **{f"--{k}": v for k, v in options.items()}}
        for option, value in given.items():
            if value not in (None, False, (), "series"):
                msg = f"{option.replace('_', '-')} is for a file; give --output"
                raise RequestError(msg)
        return lambda _: None
    if kind == TABLE:
        check_table_name(output)
        return lambda found: found.to_table(output)
    if kind is None and output.name.lower().endswith(LOCK_SUFFIX):
        msg = f"intake-idc lock writes a lock; got {output.name!r}"
        raise RequestError(msg)
    form_of(output.name, kind, mirror=mirror, **options)
    return partial(_write, path=output, kind=kind, mirror=mirror, **options)


def _write(found: Cohort, **options: Any) -> None:
    found.to_manifest(**options)
