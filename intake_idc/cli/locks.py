"""A cohort written down for good: ``lock``, ``lock --check``, ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intake_idc.cli import output as out
from intake_idc.cli.copies import reported, target_option
from intake_idc.cli.options import (
    LOCK_SUFFIX,
    cohort,
    cohort_options,
    day_or_number,
    json_option,
    mirror_options,
    output_option,
    placed,
    template_option,
)
from intake_idc.errors import IntegrityError, RequestError

if TYPE_CHECKING:
    from intake_idc.cohort import LockCheck

__all__ = ["lock", "restore"]

NOT_CHECKED = {
    "filters": "FILTERS",
    "output": "--output",
    "mirror": "--mirror",
    "dir_template": "--dir-template",
    "idc_version": "--idc-version",
    "where": "--where",
    "commercial_use": "--commercial-use",
    "everything": "--all",
}
"""What a lock says itself, so that ``--check`` does not take it."""


@click.command()
@cohort_options
@output_option(f"The lock to write; its name ends in {LOCK_SUFFIX}.")
@click.option(
    "--mirror", metavar="PLACE", help="Where restore reads, written into the lock."
)
@template_option
@click.option("--check", metavar="PATH", help="Check this lock, and write none.")
@click.option(
    "--against",
    metavar="N",
    help="With --check: the release to ask, N or a day.  [default: current]",
)
@json_option
def lock(
    output: Path | None,
    mirror: str | None,
    dir_template: str | None,
    check: str | None,
    against: str | None,
    as_json: bool,
    **named: Any,
) -> None:
    """Lock a cohort: write down its series, so that they are found again.

    Prints the digest of the lock, by which restore knows it.

    With --check: say what a newer release would change for a lock, and end with 5
    where that is anything, or where the tables do not give the locked series again.
    """
    if check is not None:
        # With --check the lock says all of it, and only the tables are named.
        given = {
            **named,
            "output": output,
            "mirror": mirror,
            "dir_template": dir_template,
        }
        for name, option in NOT_CHECKED.items():
            out.exclusive([("--check", check), (option, given[name])])
        _check(check, against, named["tables"], as_json=as_json)
        return
    if against is not None or as_json:
        msg = f"{'--json' if as_json else '--against'} goes with --check"
        raise RequestError(msg)
    if output is None or not output.name.endswith(LOCK_SUFFIX):
        got = "nothing" if output is None else repr(output.name)
        msg = f"--output names the lock, and ends in {LOCK_SUFFIX}; got {got}"
        raise RequestError(msg)
    from intake_idc.cohort import open_lock

    found = cohort(**named)
    found.lock(output, dir_template=dir_template, mirror=mirror)
    locked = open_lock(output)
    click.echo(str(locked))
    out.say_wrote(output)


def _check(
    path: str, against: str | None, tables: str | None, *, as_json: bool
) -> None:
    from intake_idc.cohort import check_lock

    release = "current" if against is None else day_or_number(against, "--against")
    found = check_lock(path, release, tables=tables)
    if as_json:
        out.as_json(_facts(found))
    else:
        click.echo(str(found))
    if found.reproducible is not True:
        msg = f"{found.source} does not give the series of {path} again"
        raise IntegrityError(msg)
    if found:
        msg = f"release {found.against} would change the cohort of {path}"
        raise IntegrityError(msg)


def _facts(found: LockCheck) -> dict[str, object]:
    asked = found.difference is not None
    return {
        "idc_version": found.idc_version,
        "against": found.against,
        "source": found.source,
        "series": found.series,
        # A list of series has no question, whose answer could differ.
        "added": found.added if asked else None,
        "removed": found.removed if asked else None,
        "revised": found.revised if asked else None,
        "unchanged": found.unchanged if asked else None,
        "superseded": dict(found.superseded),
        "withdrawn": found.withdrawn,
        "relicensed": dict(found.relicensed),
        "reproducible": found.reproducible,
        "lost": found.lost,
        "gained": found.gained,
        "reason": found.reason,
    }


@click.command()
@click.argument("path", metavar="PATH")
@target_option
@click.option(
    "--digest", metavar="HEX", help="The digest that the lock must have, as hex."
)
@mirror_options
@template_option
def restore(
    path: str,
    target: Path,
    digest: str | None,
    mirror: str | None,
    endpoint_url: str | None,
    engine: Any,
    dir_template: str | None,
) -> None:
    """Copy what a lock holds to a folder, and hold the folder against the lock.

    Mirror and folders are those of the lock where no option names others.
    """
    from intake_idc.cohort import open_lock
    from intake_idc.cohort import restore as restoring

    place = None
    if not (mirror is None and endpoint_url is None and engine is None):
        locked = open_lock(path, digest=digest)
        place = placed(locked, mirror, endpoint_url, engine).mirror
    reported(
        lambda: restoring(
            path, target, digest=digest, mirror=place, dir_template=dir_template
        )
    )
