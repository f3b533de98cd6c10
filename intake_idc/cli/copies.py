"""Objects on the disk: ``copy``, ``verify``, and what they share with ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intake_idc.cli.options import (
    LocalPath,
    cohort,
    cohort_options,
    mirror_options,
    objects_option,
    placed,
    template_option,
    with_objects,
)
from intake_idc.errors import IntegrityError, RequestError, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake_idc.cli.progress import Line
    from intake_idc.transfer import Report

__all__ = ["copy", "reported", "target_option", "verify"]

target_option = click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    type=LocalPath(path_type=Path),
    help="The folder to copy to.",
)


@click.command()
@cohort_options
@mirror_options
@template_option
@objects_option
@target_option
@click.option(
    "--file-names",
    type=click.Choice(["uuid", "SOPInstanceUID", "slice"]),
    default="uuid",
    show_default=True,
    help="What the files are called; slice is 0001.dcm and so on in their order.",
)
@click.option(
    "--longest-path",
    type=click.IntRange(min=1),
    metavar="N",
    help="Refuse longer paths: 259 for a folder that goes to Windows.",
)
@click.option(
    "--checksum",
    type=click.Choice(["md5", "crc32c", "sha256", "blake2b"]),
    help="Compute this of every byte, for the folder's record.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up then what is not there.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and move no byte.")
@click.option(
    "--mapping",
    metavar="FILE",
    type=LocalPath(dir_okay=False, path_type=Path),
    help="Write path, uuids, SOPInstanceUID, URL, size and hash of each object: "
    ".csv, .tsv, .jsonl, .parquet or .arrow.",
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show how far it is.  [default: on a terminal]",
)
@click.option(
    "--report",
    metavar="FILE",
    type=LocalPath(dir_okay=False, path_type=Path),
    help="Write one JSON line for each object.",
)
@click.option(
    "--no-notice",
    is_flag=True,
    help="Put no NOTICE.txt of licences and citations beside the copy.",
)
def copy(
    mirror: str | None,
    endpoint_url: str | None,
    engine: Any,
    dir_template: str | None,
    objects: str | None,
    target: Path,
    file_names: Any,
    longest_path: int | None,
    checksum: Any,
    timeout: float | None,
    dry_run: bool,
    mapping: Path | None,
    progress: bool | None,
    report: Path | None,
    no_notice: bool,
    **named: Any,
) -> None:
    """Copy a cohort to a folder; what is there already is not fetched again."""
    from intake_idc.cli.progress import line_for

    found = placed(cohort(**named), mirror, endpoint_url, engine)
    found = with_objects(found, objects)
    for name, path in (("report", report), ("mapping", mapping)):
        if path is not None and (dry_run or not path.parent.is_dir()):
            msg = f"--{name} {path}: its folder must be there, and a dry run has none"
            raise RequestError(msg)
    if dry_run:
        plan = found.plan(
            target,
            dir_template=dir_template,
            file_names=file_names,
            longest_path=longest_path,
        )
        click.echo(str(plan))
        plan.check()
        return
    line = line_for(wanted=progress)
    try:
        reported(
            lambda: found.materialize(
                target,
                dir_template=dir_template,
                file_names=file_names,
                longest_path=longest_path,
                checksum=checksum,
                timeout=timeout,
                callback=line,
                mapping=mapping,
                notice=not no_notice,
            ),
            report,
            line,
        )
    finally:
        if line is not None:
            line.close()


def reported(
    run: Callable[[], Report], path: Path | None = None, line: Line | None = None
) -> None:
    """Copy, and show the report; also that of a copy that is not whole.

    Raises
    ------
    TransferError
        It is not whole.
    """
    failed: TransferError | None = None
    try:
        done = run()
    except TransferError as error:
        failed, done = error, error.report
    if line is not None:
        line.close()
    if path is not None:
        done.to_jsonl(path)
    click.echo(str(done))
    if failed is not None:
        raise failed


@click.command()
@cohort_options
@mirror_options
@template_option
@objects_option
@click.option("--checksum", is_flag=True, help="Read every file and compare its MD5.")
@click.argument("target", metavar="DIR", type=LocalPath(path_type=Path))
def verify(
    mirror: str | None,
    endpoint_url: str | None,
    engine: Any,
    dir_template: str | None,
    objects: str | None,
    checksum: bool,
    target: Path,
    **named: Any,
) -> None:
    """Compare a folder with a cohort: names and sizes against listing and index.

    The folder DIR comes last, after the filters. --checksum needs --objects with the
    MD5s of a release.
    """
    asked = placed(cohort(**named), mirror, endpoint_url, engine)
    found = with_objects(asked, objects).verify(
        target, dir_template=dir_template, checksum=checksum
    )
    click.echo(str(found))
    for name in ("differ", "missing", "extra"):
        for path in getattr(found, name)[:10]:
            click.echo(f"  {name}: {path}")
    if not found.ok:
        msg = f"{target} is not what the cohort says"
        raise IntegrityError(msg)
