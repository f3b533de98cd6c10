"""From a cohort and a layout to the plan of a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intake_idc.arrow import integers, texts
from intake_idc.cohort import naming, writing

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from intake_idc.cohort.verbs.base import Base
    from intake_idc.manifest import Manifest, Part
    from intake_idc.plan import Plan
    from intake_idc.plan.layout import FileNames
    from intake_idc.storage import Mirror

__all__ = ["Layout", "planned"]


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
    target: str | os.PathLike[str],
    layout: Layout,
    mirror: str | os.PathLike[str] | Mirror | None,
) -> Plan:
    """List the series of a cohort, and decide what a copy of them would do.

    Raises
    ------
    PlanError
        The layout leads outside the target, or names no column.
    RequestError
        There are no such names of files.
    """
    from intake_idc import plan as planning
    from intake_idc import storage, transfer

    text = layout.dir_template
    if text is None:
        locked = cohort.locked
        own = locked.dir_template if locked is not None else None
        text = planning.DIR_TEMPLATE if own is None else own
    template = planning.Template(text, cohort.rows.columns)
    told = [name for name in planning.COUNTED_BY if name in cohort.rows.columns]
    columns = list(dict.fromkeys([*template.columns, *told]))
    place = cohort._mirror(mirror)  # noqa: SLF001  (of a verb)
    manifest = cohort._located([*columns, "crdc_series_uuid"])  # noqa: SLF001
    parts = list(manifest.parts())
    series = _series(manifest, columns, template.folders(manifest.table), parts)
    names = naming.Names()
    listed = naming.follow(
        storage.list_all(parts, place),
        names,
        layout.file_names,
        place,
        objects=cohort.objects,
    )
    root = writing.local_path(target)
    return planning.make(
        series,
        listed,
        transfer.LocalPlace(root).present,
        root,
        place,
        names=None if layout.file_names == "uuid" else names,
        longest=layout.longest_path,
        rate=transfer.known_rate(place),
    )


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
