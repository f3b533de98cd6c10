"""Objects on the disk: ``copy``, ``verify``, ``repair``; some is of ``restore`` too."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from intake_idc.cli.options import (
    LocalPath,
    add,
    cohort,
    cohort_options,
    mirror_options,
    objects_option,
    placed,
    template_option,
    with_objects,
)
from intake_idc.errors import (
    IntegrityError,
    RequestError,
    StorageError,
    TransferError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake_idc.cli.progress import Line
    from intake_idc.cohort import Cohort
    from intake_idc.transfer import Report

__all__ = ["copy", "repair", "reported", "target_option", "verify"]


class TargetPath(LocalPath):
    """A folder of this machine, or the URL of one of a store."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Give a path, or a URL as it is."""
        if "://" in str(value):
            return str(value)
        return super().convert(value, param, ctx)


def _to(kind: LocalPath, text: str) -> Callable[[Callable[..., Any]], Any]:
    return click.option(
        "--to", "target", required=True, metavar="DIR", type=kind, help=text
    )


target_option = _to(LocalPath(path_type=Path), "The folder to copy to.")
report_option = click.option(
    "--report",
    metavar="FILE",
    type=LocalPath(dir_okay=False, path_type=Path),
    help="Write one JSON line for each object.",
)
names_option = click.option(
    "--file-names",
    type=click.Choice(["uuid", "SOPInstanceUID", "slice"]),
    default="uuid",
    show_default=True,
    help="What the files are called; slice is 0001.dcm and so on in their order.",
)


@click.command()
@cohort_options
@mirror_options
@template_option
@objects_option
@_to(
    TargetPath(path_type=Path),
    "The folder to copy to, or the URL of one of a store, such as s3://BUCKET/x.",
)
@names_option
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
@report_option
@click.option(
    "--delete-extra",
    is_flag=True,
    help="Then remove what an earlier copy of this cohort put there, and it no longer "
    "holds.",
)
@click.option(
    "--no-record",
    is_flag=True,
    help="Write down nothing in the folder, for verify and repair.",
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
    target: Path | str,
    file_names: Any,
    longest_path: int | None,
    checksum: Any,
    timeout: float | None,
    dry_run: bool,
    mapping: Path | None,
    progress: bool | None,
    report: Path | None,
    delete_extra: bool,
    no_record: bool,
    no_notice: bool,
    **named: Any,
) -> None:
    """Copy a cohort to a folder; what is there already is not fetched again.

    FILTERS name the cohort, each COLUMN=VALUE; the first may be a manifest, a body of
    the IDC API or a lock.
    """
    found = placed(cohort(**named), mirror, endpoint_url, engine)
    found = with_objects(found, objects)
    for name, path in (("report", report), ("mapping", mapping)):
        if path is not None and dry_run:
            msg = f"--{name} {path}: a dry run has none; leave out one of the two"
            raise RequestError(msg)
        _check_folder(name, path, target)
    if dry_run:
        plan = found.materialize(
            target,
            dir_template=dir_template,
            file_names=file_names,
            longest_path=longest_path,
            record=not no_record,
            delete_extra=delete_extra,
            dry_run=True,
        )
        click.echo(str(plan))
        plan.check()
        if "unlisted" in plan.counts:
            msg = f"{plan.counts['unlisted']:,} series cannot be listed; see above"
            raise StorageError(msg)
        return
    line = _line() if (sys.stderr.isatty() if progress is None else progress) else None
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
                record=not no_record,
                delete_extra=delete_extra,
                notice=not no_notice,
            ),
            report,
            line,
        )
    finally:
        if line is not None:
            line.close()


def _line() -> Line:
    # Where no person looks, fsspec's callbacks need not be imported.
    from intake_idc.cli.progress import Line

    return Line()


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


_looking = (
    cohort_options,
    mirror_options,
    template_option,
    objects_option,
    names_option,
    click.option(
        "--quick", is_flag=True, help="Names, counts and sizes alone; read no file."
    ),
    click.option(
        "--checksum", is_flag=True, help="Read every file, and compare what is known."
    ),
    click.option(
        "--subset", metavar="N/T", help="Read the n-th of t shares of the files."
    ),
    report_option,
    click.argument("target", metavar="DIR", type=LocalPath(path_type=Path)),
)
"""Options of what is held against a folder."""


class _Asked(NamedTuple):
    """What `verify` and `repair` are asked."""

    looking: dict[str, Any]
    """How much is looked at."""
    layout: dict[str, Any]
    """Where objects of the cohort are."""
    place: dict[str, Any]
    """The mirror."""
    cohort: Cohort | None
    """None where none is named, so that the folder's record is what counts."""


def _asked(named: dict[str, Any], *, mirrored: bool) -> _Asked:
    """Sort the options of `_looking`, the rest of which name a cohort.

    Raises
    ------
    RequestError
        No cohort is named, and an option given that is of one; ``mirrored`` says that
        the mirror is of use without.
    """

    def taken(*names: str) -> dict[str, Any]:
        return {name: named.pop(name) for name in names}

    looking = taken("quick", "checksum", "subset")
    layout = taken("dir_template", "file_names")
    place = taken("mirror", "endpoint_url", "engine")
    objects = named.pop("objects")
    if any(value for name, value in named.items() if name != "problems"):
        found = with_objects(placed(cohort(**named), **place), objects)
        return _Asked(looking, layout, place, found)
    of_cohort = {**layout, "objects": objects, **({} if mirrored else place)}
    given = [name for name, own in of_cohort.items() if own not in (None, "uuid")]
    if given:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        msg = f"{words} is of a cohort, and no FILTERS name one"
        raise RequestError(msg)
    return _Asked(looking, layout, place, None)


def _check_folder(name: str, path: Path | None, target: Path | str = "") -> None:
    """Refuse a file in a folder that is not there; the target is made, where it is."""
    if path is None or path.parent.is_dir():
        return
    if path.parent.absolute() != Path(target).absolute():
        msg = f"--{name} {path}: its folder must be there"
        raise RequestError(msg)


@click.command()
@partial(add, options=_looking)
def verify(target: Path, report: Path | None, **named: Any) -> None:
    """Compare a folder with what its copies wrote down, or with a cohort.

    The folder DIR comes last, after the FILTERS, each COLUMN=VALUE. Without any the
    record in DIR says what is to be there; with them, the mirror's listing and the
    index.
    """
    _check_folder("report", report)
    asked = _asked(named, mirrored=False)
    if asked.cohort is None:
        from intake_idc import transfer

        found = transfer.verify(target, **asked.looking)
    else:
        found = asked.cohort.verify(target, **asked.layout, **asked.looking)
    if report is not None:
        found.to_jsonl(report)
    click.echo(str(found))
    if not found.ok:
        said = "its record" if asked.cohort is None else "the cohort"
        msg = f"{target} is not what {said} says"
        raise IntegrityError(msg)


@click.command()
@partial(add, options=_looking)
def repair(target: Path, report: Path | None, **named: Any) -> None:
    """Fetch again what verify, with the same options, finds missing or different.

    The folder DIR comes last, after the FILTERS. Nothing else in it is touched.
    """
    _check_folder("report", report)
    asked = _asked(named, mirrored=True)
    found = asked.cohort
    if found is not None:
        options = asked.layout | asked.looking
        reported(lambda: found.repair(target, **options), report)
        return
    from intake_idc import storage, transfer

    given = any(value is not None for value in asked.place.values())
    own = storage.resolve_mirror(**asked.place) if given else None
    reported(lambda: transfer.repair(target, mirror=own, **asked.looking), report)
