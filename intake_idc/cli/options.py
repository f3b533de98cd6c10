"""Options that several commands have, and the cohort that they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intake_idc.cli.bodies import opened_body
from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from intake_idc.cohort import Cohort

__all__ = [
    "LOCK_SUFFIX",
    "Listing",
    "LocalPath",
    "add",
    "cohort",
    "cohort_options",
    "columns_option",
    "day_or_number",
    "json_option",
    "limit_option",
    "mirror_options",
    "named_columns",
    "objects_option",
    "output_option",
    "placed",
    "release_option",
    "seed_option",
    "tables_option",
    "template_option",
    "with_objects",
]

MANIFEST_SUFFIXES = re.compile(
    r"\.(s5cmd|txt|csv|tsv|json|ndjson|jsonl|parquet|arrow|feather|tcia|sh)"
    r"(\.(gz|bz2|xz|zip))?$|\.zip$",
    re.IGNORECASE,
)
"""How the name of a manifest may end."""
LOCK_SUFFIX = ".lock.json"

tables_option = click.option(
    "--tables",
    metavar="PLACE",
    help="Index tables: a folder, a wheel, a URL of either, 'idc-index-data==VERSION', "
    "or 'sample'.  [default: the installed idc-index-data]",
)
release_option = click.option(
    "--idc-version",
    metavar="N",
    help="The IDC release: a number, 'current', or a day YYYY-MM-DD on which it was "
    "current.  [default: current]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
template_option = click.option(
    "--dir-template",
    metavar="TEMPLATE",
    help="Folders below DIR, with %COLUMN for a value.  "
    "[default: %collection_id/%PatientID/%StudyInstanceUID/"
    "%Modality_%SeriesInstanceUID]",
)


columns_option = click.option(
    "--columns", metavar="A,B", help="Columns to give.  [default: every one]"
)
limit_option = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Rows to print; a file gets every row.",
)
objects_option = click.option(
    "--objects",
    metavar="FILE",
    help="Objects that the command of this name wrote: then nothing is listed.",
)
seed_option = click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Another seed draws other series or patients; the same one the same.",
)


def named_columns(text: str | None) -> list[str] | None:
    """Give the names of columns that commas divide; None is every one."""
    return None if text is None else [name.strip() for name in text.split(",")]


class LocalPath(click.Path):
    """A path of this machine; a URL would become a folder called "s3:"."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Give the path, which `pathlib` is not asked for before it is one."""
        if "://" in str(value):
            msg = f"it is written to a folder of this machine; got {str(value)!r}"
            self.fail(msg, param, ctx)
        return super().convert(value, param, ctx)


class Listing(click.Group):
    """A group that lists where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` where neither a command nor help is named first."""
        first = args[0] if args else "-"
        asks = first in ctx.help_option_names
        return super().parse_args(
            ctx, ["list", *args] if first.startswith("-") and not asks else args
        )


def output_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give the option for the file that is written."""
    return click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=LocalPath(dir_okay=False, path_type=Path),
        help=text,
    )


def add(
    function: Callable[..., Any],
    options: Sequence[Callable[[Callable[..., Any]], Callable[..., Any]]],
) -> Callable[..., Any]:
    """Add options to a command, which its help lists in this order."""
    for option in reversed(options):
        function = option(function)
    return function


def cohort_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a cohort; see `cohort`."""
    return add(
        function,
        [
            click.argument("filters", nargs=-1, metavar="[FILTERS]..."),
            tables_option,
            release_option,
            click.option(
                "--where",
                multiple=True,
                metavar="SQL",
                help="An SQL condition; repeatable.",
            ),
            click.option(
                "--commercial-use",
                is_flag=True,
                help="Only series whose licence surely allows commercial use.",
            ),
            click.option(
                "--problems",
                type=click.Choice(["raise", "report"]),
                default="raise",
                show_default=True,
                help="What to do with lines of a manifest that give no series.",
            ),
            click.option(
                "--kind",
                "read_as",
                metavar="KIND",
                help="What a manifest is, such as csv, or what each line of it is, "
                "such as PatientID.  [default: known by its content]",
            ),
            click.option(
                "--told-by",
                metavar="FILE",
                help="A table of objects, from intake-idc objects: tells of which "
                "series the objects of a manifest are.",
            ),
            click.option(
                "--body-export",
                metavar="PLACE",
                help="Where the Parquet export lies, for what the index does not say "
                "to a body of the IDC API: 'aws', a folder or a URL.",
            ),
            click.option(
                "--drs",
                is_flag=True,
                help="Ask the CRDC's DRS server of which series they are.",
            ),
            click.option(
                "--all", "everything", is_flag=True, help="Take every series there is."
            ),
        ],
    )


def mirror_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where objects are read; see `placed`."""
    return add(
        function,
        [
            click.option(
                "--mirror",
                metavar="PLACE",
                help="'aws', 'gcs', 'auto' (either), a folder or a URL.",
            ),
            click.option(
                "--endpoint-url", metavar="URL", help="Address of an S3 or GCS server."
            ),
            click.option(
                "--engine",
                type=click.Choice(["obstore", "fsspec", "s5cmd"]),
                help="What carries the bytes.  [default: the faster that can]",
            ),
        ],
    )


def cohort(
    filters: Sequence[str],
    where: Sequence[str],
    idc_version: str | None,
    tables: str | None,
    problems: Any,
    *,
    commercial_use: bool,
    everything: bool,
    read_as: Any = None,
    told_by: str | None = None,
    body_export: str | None = None,
    drs: bool = False,
) -> Cohort:
    """Open the cohort that the options name.

    Raises
    ------
    RequestError
        They do not fit together, or name what is not there.
    """
    reading = {"problems": problems, "kind": read_as, "objects": told_by, "drs": drs}
    found, rest = _opened(filters, idc_version, tables, reading, body_export)
    for text in rest:
        column, value = _filter(text, found)
        found = found.search(**{column: value})
    for condition in where:
        found = found.query(condition)
    if commercial_use:
        found = found.search(commercial_use=True)
    return found.all() if everything else found


def _opened(
    filters: Sequence[str],
    idc_version: str | None,
    tables: str | None,
    reading: dict[str, Any],
    export: str | None,
) -> tuple[Cohort, Sequence[str]]:
    """Open what is selected from, and give the filters that are left.

    ``reading`` says how a manifest is read.
    """
    from intake_idc.cohort import open_idc, open_lock, open_manifest

    first = filters[0] if filters else ""
    if re.match(r"\w+=", first):
        first = ""  # A filter, whatever its value ends in.
    if first.endswith(LOCK_SUFFIX):
        for option, given in (("--idc-version", idc_version), ("--tables", tables)):
            if given is not None:
                msg = (
                    f"{option} does not apply to a lock, which holds its own series; "
                    f"intake-idc lock --check {first} asks another release or table"
                )
                raise RequestError(msg)
        return open_lock(first), filters[1:]
    number = None if idc_version is None else day_or_number(idc_version)
    kind = reading["kind"]
    if first.endswith(".json") and kind is None:
        # What it holds tells: a body of the IDC API is a question, all else a list.
        opened = opened_body(first, number, tables, export)
        if opened is not None:
            return opened, filters[1:]
    if first and (MANIFEST_SUFFIXES.search(first) or kind or Path(first).is_file()):
        opened = open_manifest(first, idc_version=number, tables=tables, **reading)
        return opened, filters[1:]
    if kind is not None:
        msg = f"--kind is of a manifest, whose path stands first; got {kind!r} alone"
        raise RequestError(msg)
    return open_idc("current" if number is None else number, tables=tables), filters


def day_or_number(text: str, option: str = "--idc-version") -> int | str:
    """Give what names a release: a number, a day, or 'current'.

    Raises
    ------
    RequestError
        It is none of them.
    """
    if text.isdecimal():
        return int(text)
    if text == "current" or (text[:1].isdecimal() and text.count("-") == 2):  # noqa: PLR2004
        return text
    msg = f"{option} is a number, a day such as 2024-09-01, or 'current'; got {text!r}"
    raise RequestError(msg)


def _filter(text: str, among: Cohort) -> tuple[str, Any]:
    column, equals, value = text.partition("=")
    if not equals:
        msg = (
            "a filter is COLUMN=VALUE (the first may be the path of a .s5cmd manifest, "
            f"of a .json body, or of a {LOCK_SUFFIX}); got {text!r}"
        )
        raise RequestError(msg)
    if not value:
        return column, None
    if value.startswith("~"):
        return column, {"regex": value[1:]}
    number = among.rows.columns.get(column, "VARCHAR") != "VARCHAR"
    values = value.split(",")
    if not number:
        return column, values
    try:
        return column, [float(v) if "." in v else int(v) for v in values]
    except ValueError as error:
        msg = f"{column} is a number; got {value!r}"
        raise RequestError(msg) from error


def with_objects(found: Cohort, file: str | None) -> Cohort:
    """Give the cohort, knowing its objects by a file of them."""
    return found if file is None else found.with_instances(file)


def placed(
    found: Cohort, mirror: str | None, endpoint_url: str | None, engine: Any
) -> Cohort:
    """Give the cohort, read from where the options say."""
    if mirror is None and endpoint_url is None and engine is None:
        return found
    return found.reading_from(mirror, endpoint_url=endpoint_url, engine=engine)
