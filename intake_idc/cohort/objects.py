"""Single objects of a manifest: of which series they are.

No index table of a release tells that, but for slides. A table of objects does, and the
DRS server where it is to be asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import numbers, numpy_of, one, packed, unpack_uuids
from intake_idc.cohort.accounting import Rows, rest
from intake_idc.errors import RequestError
from intake_idc.formats.places import uuid_bytes
from intake_idc.release.listed import ListedRows, find, named
from intake_idc.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pyarrow as pa

    from intake_idc.release import Release

__all__ = ["Lookups", "alone", "by_sop", "by_uuid"]

SLIDES = "sm_instance_index"
"""The one index table that tells the series of objects."""


@dataclass(frozen=True)
class Lookups:
    """Where the series of single objects are looked up.

    Parameters
    ----------
    objects : path or pyarrow.Table, optional
        A table of objects, such as a file from `Cohort.save_instances`.
    drs : bool or str
        Whether the DRS server of the CRDC is asked, or the ``https://host`` of
        another.
    """

    objects: str | os.PathLike[str] | pa.Table | None = None
    drs: bool | str = False

    def __post_init__(self) -> None:
        drs: object = self.drs
        if not isinstance(drs, bool | str):
            msg = f"drs is True, False or https://<host>; got {self.drs!r}"
            raise RequestError(msg)

    def by_uuid(self, release: Release) -> list[Callable[[pa.Array], pa.Table]]:
        """Give what finds the series of objects by uuid, the nearest first."""
        from intake_idc.export import series_of_instances

        found: list[Callable[[pa.Array], pa.Table]] = []
        if self.objects is not None:
            found.append(partial(series_of_instances, self.objects))
        slides = release.local_table(SLIDES)
        if slides is not None:
            found.append(partial(series_of_instances, slides))
        if self.drs:
            found.append(self._ask)
        return found

    def _ask(self, uuids: pa.Array) -> pa.Table:
        from urllib.parse import urlsplit

        from intake_idc.storage import drs

        if self.drs is True:
            return drs.resolve(uuids)
        host = urlsplit(str(self.drs)).netloc
        return drs.resolve(uuids, endpoint=str(self.drs), allow_hosts=(host,))

    def by_sop(self, names: pa.Array) -> pa.Table | None:
        """Find series and uuids of objects by SOPInstanceUID, if a table is given."""
        from intake_idc.export import series_of_instances

        if self.objects is None:
            return None
        return series_of_instances(self.objects, names, "SOPInstanceUID")


UNTOLD = (
    "names one object, and no index table tells its series; give objects= (a file of "
    "Cohort.save_instances), or drs=True to ask the DRS server"
)


def by_uuid(
    rows: Rows,
    at: np.ndarray[Any, Any],
    uuids: pa.Array,
    release: Release,
    lookups: Lookups,
) -> None:
    """Find the series of single objects where something tells them."""
    import numpy as np

    reasons: dict[int, str] = {}
    left = np.arange(len(at))
    for lookup in lookups.by_uuid(release):
        if not len(left):
            break
        asked = uuids.take(numbers(left))
        table = lookup(asked)
        positions = numpy_of(one(table.column("position")))
        if "reason" in table.column_names:
            why = table.column("reason").to_pylist()
            pairs = zip(positions.tolist(), why, strict=True)
            reasons |= {int(left[place]): reason for place, reason in pairs if reason}
        told, series, objects = _told(table, asked, release)
        if len(told):
            where = left[positions[told]]
            rows.found.append((at[where], series, objects))
            left = np.setdiff1d(left, where)
    for place in left.tolist():
        rows.reject([at[place]], reasons.get(place, UNTOLD))


def _told(
    table: pa.Table, uuids: pa.Array, release: Release, *, asked: bool = True
) -> tuple[np.ndarray[Any, Any], pa.Array, pa.Array]:
    """Give the rows that tell a series, the series, and the object of each.

    An object may be of a series and of its revision: then that of the release counts.
    ``uuids`` are those that were ``asked`` for, by position, or those of the rows.
    """
    import numpy as np
    import pyarrow as pa

    count = table.num_rows
    nothing = pa.nulls(count, pa.binary(16))
    known = table.column_names
    series = one(table["crdc_series_uuid"]) if "crdc_series_uuid" in known else nothing
    if "SeriesInstanceUID" in known and series.null_count:
        uids = one(table["SeriesInstanceUID"]).cast(pa.string())
        places, found = named(release, "SeriesInstanceUID", uids)
        whole = series.to_pylist()
        for place, uuid in zip(places.tolist(), found.to_pylist(), strict=True):
            whole[place] = whole[place] or uuid
        series = packed(whole)
    positions = numpy_of(one(table.column("position")))
    objects = uuids.take(numbers(positions)) if asked else uuids
    if asked and "crdc_instance_uuid" in known:
        # Of a bundle each object, not the bundle.
        own = one(table["crdc_instance_uuid"])
        mine = zip(own.to_pylist(), objects.to_pylist(), strict=True)
        objects = packed([found or given for found, given in mine])
    told = np.flatnonzero(np.array([uuid is not None for uuid in series.to_pylist()]))
    inside = find(release, series.take(numbers(told))) >= 0
    best: dict[tuple[int, bytes], int] = {}
    for place, here in zip(told.tolist(), inside.tolist(), strict=True):
        key = int(positions[place]), objects[place].as_py()
        if here or key not in best:
            best[key] = place
    kept = np.array(sorted(best.values()), np.int64)
    return kept, series.take(numbers(kept)), objects.take(numbers(kept))


def by_sop(
    rows: Rows,
    at: np.ndarray[Any, Any],
    series: pa.Array,
    release: Release,
    lookups: Lookups,
) -> None:
    """Take objects by SOPInstanceUID, of series that are known.

    Which objects those are, only their headers say, because keys are uuids; or a table
    of objects. Without one a series is taken where every object of it is named.
    """
    import numpy as np

    names = rows.column("SOPInstanceUID", at)
    done = alone(rows, at, names, release, lookups, series)
    left = rest(len(at), done)
    if not len(left):
        return
    uuids = unpack_uuids(series.take(numbers(left))).to_pylist()
    sops = names.take(numbers(left)).to_pylist()
    known = ListedRows(release, series.unique(), "objects").table(
        ["crdc_series_uuid", "instanceCount"], Selection()
    )
    counts = dict(zip(*(known.column(i).to_pylist() for i in (0, 1)), strict=True))
    grouped: dict[str, dict[str, list[int]]] = {}
    for row, uuid, sop in zip(at[left].tolist(), uuids, sops, strict=True):
        grouped.setdefault(uuid, {}).setdefault(sop, []).append(row)
    for uuid, objects in grouped.items():
        every = sorted(row for same in objects.values() for row in same)
        count = counts.get(uuid)
        if count != len(objects):
            of = "an unknown number" if count is None else f"{count:,}"
            reason = (
                f"is one of {len(objects):,} objects by SOPInstanceUID of a series "
                f"that has {of}; give objects= (a file of Cohort.save_instances), name "
                "them by crdc_instance_uuid, or name the whole series"
            )
            rows.reject(every, reason)
            continue
        rows.found.append((np.array(every[:1]), packed([uuid_bytes(uuid)]), None))
        rows.remark(every[0], "as many objects are named as its series has; all taken")
        for same in objects.values():
            for row in same[1:]:
                rows.remark(row, "repeats an object; taken once")


def alone(
    rows: Rows,
    at: np.ndarray[Any, Any],
    names: pa.Array,
    release: Release,
    lookups: Lookups,
    series: pa.Array | None = None,
) -> np.ndarray[Any, Any]:
    """Take objects by SOPInstanceUID where a table of objects tells them.

    Where their series are given, the table must agree. Gives the places of those taken.
    """
    import numpy as np

    table = lookups.by_sop(names)
    if table is None or "crdc_instance_uuid" not in table.column_names:
        return np.zeros(0, np.int64)
    asked = one(table["crdc_instance_uuid"])
    kept, found, objects = _told(table, asked, release, asked=False)
    places = numpy_of(one(table.column("position")))[kept]
    if series is not None and len(places):
        own = series.take(numbers(places)).to_pylist()
        same = np.array([a == b for a, b in zip(own, found.to_pylist(), strict=True)])
        agree = np.flatnonzero(same)
        places = places[agree]
        found, objects = found.take(numbers(agree)), objects.take(numbers(agree))
    if len(places):
        rows.found.append((at[places], found, objects))
    return np.asarray(places)
