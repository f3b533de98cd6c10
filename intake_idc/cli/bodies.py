"""Bodies of the IDC API: ``api``, and what ``select BODY.json`` opens."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from intake_idc.errors import BadBody, RequestError

if TYPE_CHECKING:
    from intake_idc.cohort import Cohort

__all__ = ["api", "opened_body"]


@click.command()
@click.argument("body", required=False, metavar="[BODY.json]")
@click.option(
    "--idc-version", metavar="N", help="The IDC release.  [default: the current one]"
)
@click.option(
    "--tables",
    metavar="PLACE",
    help="Index tables, as for select.  [default: the installed idc-index-data]",
)
@click.option(
    "--export",
    metavar="PLACE",
    help="Where the Parquet export lies, for what the index does not say: 'aws', a "
    "folder or a URL.",
)
@click.option(
    "--page-size",
    type=int,
    metavar="N",
    help="Rows of a page.  [default: as BODY says]",
)
@click.option("--next-page", metavar="TOKEN", help="Give the page of a token instead.")
def api(
    body: str | None,
    idc_version: str | None,
    tables: str | None,
    export: str | None,
    page_size: int | None,
    next_page: str | None,
) -> None:
    """Answer a body of API v2 from the tables at hand, as the service did.

    The answer is JSON on standard output. A body that the service would refuse is
    refused in its words: as JSON on standard error, with exit code 2.
    """
    from intake_idc import api as bodies

    if (body is None) == (next_page is None):
        msg = "name either the file of a body, or --next-page TOKEN"
        raise RequestError(msg)
    given = {"--idc-version": idc_version, "--tables": tables, "--export": export}
    for option, value in given.items():
        if next_page is not None and value is not None:
            msg = f"{option} does not go with --next-page: a token holds it"
            raise RequestError(msg)
    try:
        if next_page is not None:
            answer = bodies.next_page(next_page, page_size)
        else:
            answer = _answer(str(body), idc_version, tables, export, page_size)
    except BadBody as error:
        click.echo(json.dumps(error.to_dict()), err=True)
        sys.exit(error.exit_code)
    click.echo(json.dumps(answer, indent=1, ensure_ascii=False))


def _answer(
    name: str,
    idc_version: str | None,
    tables: str | None,
    export: str | None,
    page_size: int | None,
) -> dict[str, object]:
    from intake_idc import api as bodies
    from intake_idc.cli.options import day_or_number
    from intake_idc.cohort.bodies import load_body

    data = load_body(name)
    if page_size is not None and isinstance(data, dict):
        data["page_size"] = page_size
    number = None if idc_version is None else day_or_number(idc_version)
    return bodies.preview(data, idc_version=number, tables=tables, export=export)


def opened_body(
    name: str,
    idc_version: int | str | None,
    tables: str | None,
    export: str | None = None,
) -> Cohort | None:
    """Open a JSON file as the body that it holds; None where it holds none."""
    from intake_idc.cohort.bodies import is_body, load_body, open_cohort

    try:
        data = load_body(name)
    except BadBody:
        return None  # Such as a JSON object a line, which a manifest may be.
    if not is_body(data):
        return None
    return open_cohort(data, idc_version=idc_version, tables=tables, export=export)
