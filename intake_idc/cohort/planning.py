"""From a cohort and a layout to the plan of a copy."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from intake_idc.arrow import integers, texts
from intake_idc.cohort import naming, writing
from intake_idc.errors import RequestError
from intake_idc.release import Release

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    import pyarrow as pa

    from intake_idc.cohort.verbs.base import Base
    from intake_idc.manifest import Manifest, Part
    from intake_idc.plan import Plan
    from intake_idc.plan.layout import FileNames
    from intake_idc.storage import AnyMirror, Listed
    from intake_idc.transfer import Origin, Target, Truth, Verification

__all__ = [
    "Layout",
    "counted",
    "origin_of",
    "planned",
    "truth_of",
    "verified_path",
]


@dataclass(frozen=True)
class Layout:
    """Where the objects of a cohort go below a target."""

    dir_template: str | None = None
    """Folders; None is that of the lock, or `intake_idc.plan.DIR_TEMPLATE`."""
    file_names: FileNames = "uuid"
    """Names of the files; see `intake_idc.cohort.naming.follow`."""
    longest_path: int | None = None
    """Length that a whole path may have; None is what the system takes."""


def planned(
    cohort: Base,
    target: str | os.PathLike[str] | Target,
    layout: Layout,
    mirror: AnyMirror | None,
    *,
    look: bool = True,
    ended: Callable[[], str | None] = lambda: None,
) -> Plan:
    """List the series of a cohort, and decide what a copy of them would do.

    Without ``look`` the folder is taken for empty. ``ended`` says why no more series
    are listed; see `storage.list_all`.

    Raises
    ------
    PlanError
        The layout leads outside the target, or names no column.
    RequestError
        There are no such names of files.
    """
    from intake_idc import plan as planning
    from intake_idc import storage, transfer

    place = cohort._mirror(mirror)  # noqa: SLF001  (of a verb)
    parts, series = _parts(cohort, layout)
    names = naming.Names()
    listing = storage.list_all(parts, place, ended)
    listed: Iterable[Listed] = listing
    if layout.file_names != "uuid":
        listed = naming.follow(
            listing, names, layout.file_names, place, objects=cohort.objects
        )
    if not isinstance(target, transfer.Target):
        target = transfer.target_of(target)
    there = target.place()
    there.expect(series.column("folder").to_pylist())
    # Its threads end with it, also where this is interrupted.
    with closing(listing):
        return planning.make(
            series,
            listed,
            there.present if look else lambda _: {},
            target.root,
            place,
            names=None if layout.file_names == "uuid" else names,
            holders=None if layout.file_names == "uuid" else _holders(target),
            longest=layout.longest_path,
            rate=transfer.known_rate(place),
        )


def _holders(target: Target) -> dict[str, str]:
    """Give the object that lies at each path where a record says so."""
    from intake_idc import transfer

    records = None
    if isinstance(target.root, Path):
        records = transfer.read_records(target.root)
    return {} if records is None else records.newest().holders()


def counted(
    cohort: Base,
    target: str | os.PathLike[str],
    layout: Layout,
    mirror: AnyMirror | None,
) -> Verification:
    """Compare a folder with what the index says of the series; nothing is listed.

    Raises
    ------
    PlanError
        The layout leads outside the target, or names no column.
    """
    from intake_idc import transfer

    parts, series = _parts(cohort, layout)
    root = verified_path(target)
    slack = [
        part.size_tolerance
        if part.only is None
        and part.size is not None
        and not part.first_instance
        and part.last_instance is None
        else None
        for part in parts
    ]
    place = cohort._mirror(mirror)  # noqa: SLF001
    records = transfer.read_records(root)
    newest = None if records is None else records.newest()
    return transfer.verify_series(root, series, slack, place, newest)


def verified_path(target: str | os.PathLike[str]) -> Path:
    """Give the folder that is verified, whole.

    Raises
    ------
    RequestError
        It is the URL of a store.
    """
    if "://" in str(target) and not str(target).startswith("file://"):
        msg = (
            f"verify reads folders of this machine; got {str(target)!r}. Of a store "
            "plan(...) says what is missing or has another size"
        )
        raise RequestError(msg, path=str(target))
    return writing.local_path(str(target).removeprefix("file://"))


def truth_of(cohort: Base, target: str | os.PathLike[str]) -> Truth:
    """Give what is known of the objects of a cohort, beside what a listing says."""
    from intake_idc import transfer

    records = transfer.read_records(writing.local_path(target))
    newest = None if records is None else records.newest()
    if cohort.objects is None:
        return transfer.Truth(newest)
    known = cohort.objects
    return transfer.Truth(newest, known.sops(), known.series_hashes())


def origin_of(cohort: Base, layout: Layout) -> Origin:
    """Give of what cohort a copy is, for the record of it.

    Copies of a release by the same conditions are of one lineage, whatever the
    release. So are those of a list that lies in a file, whatever the file holds now; a
    list that lies nowhere is only of its own.
    """
    from intake_idc import transfer

    rows = cohort.rows
    manifest = cohort._reading_manifest(["crdc_series_uuid"]).digest  # noqa: SLF001
    named = "release"
    if not isinstance(rows, Release):
        source = Path(rows.source)
        named = str(source.absolute()) if source.is_file() else manifest
    text = f"{_template(cohort, layout)}\n{layout.file_names}"
    told = [named, cohort.selection.to_dict(), text]
    lineage = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return transfer.Origin(cohort.idc_version, manifest, lineage, text)


def _template(cohort: Base, layout: Layout) -> str:
    from intake_idc.plan import DIR_TEMPLATE

    if layout.dir_template is not None:
        return layout.dir_template
    own = cohort.locked.dir_template if cohort.locked is not None else None
    return DIR_TEMPLATE if own is None else own


def _parts(cohort: Base, layout: Layout) -> tuple[list[Part], pa.Table]:
    """Give the series of a cohort, as they are read and as a plan has them."""
    from intake_idc import plan as planning

    template = planning.Template(_template(cohort, layout), cohort.rows.names)
    told = [
        name
        for name in (*planning.COUNTED_BY, "SeriesInstanceUID")
        if name in cohort.rows.names
    ]
    columns = list(dict.fromkeys([*template.columns, *told]))
    manifest = cohort._located([*columns, "crdc_series_uuid"])  # noqa: SLF001
    parts = list(manifest.parts())
    return parts, _series(manifest, columns, template.folders(manifest.table), parts)


def _series(
    manifest: Manifest, columns: list[str], folders: list[str], parts: list[Part]
) -> pa.Table:
    """Give what a plan holds of each series."""
    own = {
        "folder": texts(folders),
        "instanceCount": integers([part.instances for part in parts]),
        "size": integers([part.meant_size or None for part in parts]),
    }
    kept = ["crdc_series_uuid", "aws_bucket", *columns]
    table = manifest.table.select(
        [name for name in dict.fromkeys(kept) if name not in own]
    )
    for name, column in own.items():
        table = table.append_column(name, column)
    return table
