"""From what a manifest names to series of a release, with every row accounted for.

Names are tried from the narrowest to the widest: ``crdc_series_uuid``, which names
bytes; an object, whose series a table or a service tells; ``SeriesInstanceUID``, which
with a release names bytes, too; a study, a patient, a collection, which name all series
that the release has of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake_idc.arrow import bools, lists, numbers, numpy_of, unpack_uuids
from intake_idc.cohort import objects
from intake_idc.cohort.accounting import Rows, gathered, rest
from intake_idc.errors import UnknownRelease
from intake_idc.release import MANIFEST_COLUMNS
from intake_idc.release.history import histories, widest, with_others
from intake_idc.release.listed import ListedRows, contradicted, find, named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa

    from intake_idc.cohort.objects import Lookups
    from intake_idc.formats import Listing, Problem
    from intake_idc.release import History, Release

__all__ = ["resolve"]


def resolve(
    listings: Sequence[Listing],
    release: Release,
    judged: set[int],
    lookups: Lookups,
) -> tuple[ListedRows | None, list[Problem]]:
    """Find the series of a release that a manifest names.

    Parameters
    ----------
    listings : sequence of Listing
        What each part of the manifest names.
    release : Release
        The release that the cohort belongs to.
    judged : set of int
        The releases that the manifest is of: what none of them holds any more is
        rejected; what one of them has with other bytes is taken as it is.
    lookups : Lookups
        Where the series of single objects are looked up.

    Returns
    -------
    ListedRows or None, list of Problem
        The series, None where there is none; and every row that was rejected or
        taken with a remark.
    """
    rows = gathered(listings)
    left = _by_uuid(rows, release, lookups)
    left = _by_uid(rows, release, left, lookups)
    _by_group(rows, release, left, lookups)
    listed = _listed(rows, release, judged)
    return listed, rows.accounted()


# Uuids: bytes by name.


def _by_uuid(rows: Rows, release: Release, lookups: Lookups) -> np.ndarray[Any, Any]:
    """Take the rows that name a series or an object by uuid; give those left."""
    import numpy as np

    series, instance = rows.has("crdc_series_uuid"), rows.has("crdc_instance_uuid")
    both = np.flatnonzero(series & rows.has("SeriesInstanceUID"))
    wrong = _contradictions(rows, both, release) if len(both) else both
    series[wrong] = instance[wrong] = False
    whole = np.flatnonzero(series & ~instance)
    if len(whole):
        rows.found.append((whole, rows.column("crdc_series_uuid", whole), None))
    single = np.flatnonzero(series & instance)
    if len(single):
        uuids = rows.column("crdc_series_uuid", single)
        rows.found.append((single, uuids, rows.column("crdc_instance_uuid", single)))
    alone = np.flatnonzero(instance & ~series)
    if len(alone):
        uuids = rows.column("crdc_instance_uuid", alone)
        objects.by_uuid(rows, alone, uuids, release, lookups)
    either = np.flatnonzero(rows.has("uuid") & ~series & ~instance)
    if len(either):
        uuids = rows.column("uuid", either)
        known = find(release, uuids) >= 0
        if not known.all():
            missing = np.flatnonzero(~known)
            names = unpack_uuids(uuids.take(numbers(missing))).to_pylist()
            lives = histories(widest(release), "crdc_series_uuid", names)
            known[missing] = [name in lives for name in names]
        there, single = np.flatnonzero(known), np.flatnonzero(~known)
        if len(there):
            rows.found.append((either[there], uuids.take(numbers(there)), None))
        if len(single):
            taken = uuids.take(numbers(single))
            objects.by_uuid(rows, either[single], taken, release, lookups)
    taken = series | instance | rows.has("uuid")
    taken[wrong] = True
    return np.flatnonzero(~taken)


def _contradictions(
    rows: Rows, both: np.ndarray[Any, Any], release: Release
) -> np.ndarray[Any, Any]:
    """Reject the rows whose uuid and UID are of two series; give them.

    A column of a spreadsheet that was sorted alone makes such rows.
    """
    found = contradicted(
        release,
        rows.column("crdc_series_uuid", both),
        rows.column("SeriesInstanceUID", both),
    )
    for place, uid in found:
        said = rows.names.column("SeriesInstanceUID")[int(both[place])].as_py()
        reason = (
            f"names two series: its crdc_series_uuid is of SeriesInstanceUID {uid}, "
            f"its SeriesInstanceUID is {said}"
        )
        rows.reject([both[place]], reason)
    wrong: np.ndarray[Any, Any] = both[[place for place, _ in found]]
    return wrong


# DICOM UIDs.


def _by_uid(
    rows: Rows, release: Release, left: np.ndarray[Any, Any], lookups: Lookups
) -> np.ndarray[Any, Any]:
    """Take the rows that name a series by its DICOM UID; give those left."""
    has = rows.has("SeriesInstanceUID")[left]
    own, left = left[has], left[~has]
    if len(own):
        _series(rows, own, rows.column("SeriesInstanceUID", own), release, lookups)
    has = rows.has("uid")[left]
    unsaid, left = left[has], left[~has]
    if len(unsaid):
        uids = rows.column("uid", unsaid)
        kept = _series(rows, unsaid, uids, release, lookups, strict=False)
        missing = rest(len(unsaid), kept)
        if len(missing):
            taken = uids.take(numbers(missing))
            _studies(rows, unsaid[missing], taken, release, lookups)
    return left


def _studies(
    rows: Rows,
    at: np.ndarray[Any, Any],
    uids: pa.Array,
    release: Release,
    lookups: Lookups,
) -> None:
    """Take what may be studies, or objects; the rest is accounted for."""
    import numpy as np

    places, series = named(release, "StudyInstanceUID", uids)
    if len(places):
        rows.found.append((at[places], series, None))
    missing = rest(len(at), places)
    asked = uids.take(numbers(missing))
    done = objects.alone(rows, at[missing], asked, release, lookups)
    missing = np.setdiff1d(missing, missing[done])
    names = uids.take(numbers(missing)).to_pylist()
    lives = histories(widest(release), "SeriesInstanceUID", names)
    for place, name in zip(missing.tolist(), names, strict=True):
        reason = f"release {release.idc_version} has no series and no study {name}"
        if name in lives:
            reason = _absent(name, lives[name], release)
        rows.reject([at[place]], reason)


def _series(
    rows: Rows,
    at: np.ndarray[Any, Any],
    uids: pa.Array,
    release: Release,
    lookups: Lookups,
    *,
    strict: bool = True,
) -> np.ndarray[Any, Any]:
    """Take rows by SeriesInstanceUID, each in the release that it names.

    Gives the positions among ``at`` that were taken or accounted for.
    """
    import numpy as np

    versions = np.full(len(at), release.idc_version)
    if "idc_version" in rows.names.column_names:
        said = rows.column("idc_version", at)
        versions = numpy_of(said.fill_null(release.idc_version))
    done: list[Any] = []
    for version in np.flatnonzero(np.bincount(versions)).tolist():
        of = np.flatnonzero(versions == version)
        try:
            asked = release if version == release.idc_version else release.at(version)
        except UnknownRelease as error:
            rows.reject(at[of], f"is of release {version}: {error}")
            done.append(of)
            continue
        names = uids if len(of) == len(at) else uids.take(numbers(of))
        places, series = named(asked, "SeriesInstanceUID", names)
        _taken(rows, at[of[places]], series, asked, lookups)
        missing = rest(len(of), places)
        done.append(of[places])
        if len(missing) and strict:
            texts_of = names.take(numbers(missing)).to_pylist()
            lives = histories(widest(asked), "SeriesInstanceUID", texts_of)
            for place, name in zip(missing.tolist(), texts_of, strict=True):
                reason = _absent(name, lives.get(name), asked)
                rows.reject([at[of[place]]], reason)
    handled: np.ndarray[Any, Any] = np.concatenate([np.zeros(0, np.int64), *done])
    return handled


def _absent(name: str, life: History | None, release: Release) -> str:
    number = release.idc_version
    if life is None:
        return f"no release in {release.source} holds a series {name}"
    return (
        f"release {number} does not hold this series, which is of {life.releases}: "
        f"{life.absence(number)}; idc_version={life.nearest(number)} takes it"
    )


def _taken(
    rows: Rows,
    at: np.ndarray[Any, Any],
    series: pa.Array,
    release: Release,
    lookups: Lookups,
) -> None:
    """Take rows by series, whole, but where they name objects by SOPInstanceUID."""
    import numpy as np

    by_object = rows.has("SOPInstanceUID")[at]
    whole = np.flatnonzero(~by_object)
    if len(whole):
        rows.found.append((at[whole], series.take(numbers(whole)), None))
    single = np.flatnonzero(by_object)
    if len(single):
        own = series.take(numbers(single))
        objects.by_sop(rows, at[single], own, release, lookups)


# Studies, patients, collections.

UNTOLD_SOP = (
    "names an object by SOPInstanceUID, and not its series; give objects= (a file of "
    "Cohort.save_instances), or name the series"
)


UNTOLD_STUDY = (
    "names a study by uuid alone, which no index table tells; name it by "
    "StudyInstanceUID, or its series"
)
NEAREST = 10
"""Unknown names of which the nearest are looked for: it takes long."""


def _by_group(
    rows: Rows, release: Release, left: np.ndarray[Any, Any], lookups: Lookups
) -> None:
    """Take objects by UID alone, and all series of what else a row names."""
    import numpy as np

    single = left[rows.has("SOPInstanceUID")[left]]
    if len(single):
        names = rows.column("SOPInstanceUID", single)
        done = objects.alone(rows, single, names, release, lookups)
        left = np.setdiff1d(left, single)
        rows.reject(np.delete(single, done).tolist(), UNTOLD_SOP)
    for name in ("StudyInstanceUID", "crdc_study_uuid", "PatientID", "collection_id"):
        has = rows.has(name)[left]
        own, left = left[has], left[~has]
        if not len(own):
            continue
        if name == "crdc_study_uuid":
            # By the wider names beside it, the row would take too much.
            rows.reject(own.tolist(), UNTOLD_STUDY)
        else:
            _group(rows, own, name, rows.column(name, own), release)
    nothing = "names no series, study, patient or collection"
    rows.reject(left.tolist(), nothing)


def _group(
    rows: Rows,
    at: np.ndarray[Any, Any],
    column: str,
    names: pa.Array,
    release: Release,
) -> None:
    import numpy as np

    collections = None
    if column == "PatientID" and "collection_id" in rows.names.column_names:
        collections = rows.column("collection_id", at)
    first, which = _distinct_names(names, collections)
    within = None if collections is None else collections.take(numbers(first))
    asked = names.take(numbers(first))
    places, series = named(release, column, asked, within)
    if len(places):
        rows.found.append((at[first[places]], series, None))
    known = np.zeros(len(first), bool)
    known[places] = True
    again = rest(len(at), first)
    again = again[known[which[again]]]
    rows.repeat(at[again], at[first[which[again]]])
    reasons: dict[int, str] = {}
    for place in np.flatnonzero(~known[which]).tolist():
        number = int(which[place])
        if number not in reasons:
            what = asked[number].as_py()
            near = ""
            if len(reasons) < NEAREST and not column.endswith("UID"):
                near = release.near(column, what)
                near = "" if repr(what) in near else near
            reason = f"release {release.idc_version} has no {column} {what!r}"
            if within is not None and within[number].is_valid:
                reason += f" in collection {within[number].as_py()!r}"
            reasons[number] = reason + near
        rows.reject([at[place]], reasons[number])


def _distinct_names(
    names: pa.Array, collections: pa.Array | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give where each name is for the first time, and which of these each name is."""
    import numpy as np

    codes = numpy_of(names.dictionary_encode().indices).astype(np.int64)
    if collections is not None:
        of = numpy_of(collections.dictionary_encode().indices.fill_null(-1))
        codes = codes * (int(of.max()) + 2) + of + 1
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first))
    return first[order], rank[which]


# All together.


def _listed(rows: Rows, release: Release, judged: set[int]) -> ListedRows | None:
    """Put what was found in the order of the rows, each series once."""
    import numpy as np

    if not rows.found:
        return None
    at, series, single = _in_order(rows)
    places = find(release, series)
    others, good = None, places >= 0
    if not good.all():
        others, extra = _judged(rows, at, series, ~good, release, judged)
        # A series that is taken from elsewhere gets a place of its own.
        places = np.where(extra >= 0, places.max(initial=-1) + 1 + extra, places)
        keep = np.flatnonzero(places >= 0)
        at, places = at[keep], places[keep]
        series = series.take(numbers(keep))
        single = None if single is None else single.take(numbers(keep))
    if not len(at):
        return None
    if single is None and _distinct(places):
        return ListedRows(release, series, _origin(rows), others)
    _, first, inverse = np.unique(places, return_index=True, return_inverse=True)
    only = None
    if single is not None:
        only = _subsets(rows, at, first, inverse, single)
    elif len(first) < len(at):
        again = rest(len(at), first)
        wholly = ~np.isin(at[again], at[first])
        rows.repeat(at[again], at[first[inverse[again]]], wholly)
    order = np.sort(first)
    if only is not None:
        # Of each series, in the order of their first rows.
        only = only.take(numbers(np.argsort(first, kind="stable")))
        if only.null_count == len(only):
            only = None
    uuids = series if len(order) == len(series) else series.take(numbers(order))
    return ListedRows(release, uuids, _origin(rows), others, only)


def _origin(rows: Rows) -> str:
    return ", ".join(dict.fromkeys(each.part for each in rows.listings))


def _distinct(places: np.ndarray[Any, Any]) -> bool:
    """Say whether no place is there twice, sooner than by sorting them."""
    import numpy as np

    seen = np.zeros(int(places.max()) + 1, bool)
    seen[places] = True
    return int(np.count_nonzero(seen)) == len(places)


def _in_order(rows: Rows) -> tuple[Any, pa.Array, pa.Array | None]:
    import numpy as np
    import pyarrow as pa

    if len(rows.found) == 1:
        return rows.found[0]
    at = np.concatenate([found[0] for found in rows.found])
    order = np.argsort(at, kind="stable")
    series = pa.concat_arrays([found[1] for found in rows.found])
    single = None
    if any(found[2] is not None for found in rows.found):
        single = pa.concat_arrays(
            [
                pa.nulls(len(found[0]), pa.binary(16)) if found[2] is None else found[2]
                for found in rows.found
            ]
        ).take(numbers(order))
    return at[order], series.take(numbers(order)), single


def _subsets(
    rows: Rows, at: Any, first: Any, inverse: Any, single: pa.Array
) -> pa.Array:
    """Give the objects that are meant of each series; null where it is the whole."""
    import numpy as np

    whole = np.zeros(len(first), bool)
    whole[inverse[bools(single.is_null())]] = True
    meant: list[dict[bytes, int]] = [{} for _ in first]
    begun: dict[int, int] = {}
    lines = rows.lines
    for place, uuid in enumerate(single.to_pylist()):
        group, row = int(inverse[place]), int(at[place])
        if uuid is None and group in begun:
            rows.remark(row, f"repeats line {lines[begun[group]]}; taken once")
        elif uuid is None:
            begun[group] = row
        elif whole[group]:
            rows.remark(row, "its whole series is named, too; taken once")
        elif uuid in meant[group]:
            line = lines[meant[group][uuid]]
            rows.remark(row, f"repeats line {line}; taken once")
        else:
            meant[group][uuid] = row
    return lists([None if w else sorted(m) for w, m in zip(whole, meant, strict=True)])


def _judged(
    rows: Rows,
    at: Any,
    series: pa.Array,
    missing: Any,
    release: Release,
    judged: set[int],
) -> tuple[pa.Table | None, Any]:
    """Account for series that the release does not hold; take those of its manifest.

    Gives their rows, and for each place which of these it is, or -1.
    """
    import numpy as np

    which = np.flatnonzero(missing)
    names = unpack_uuids(series.take(numbers(which))).to_pylist()
    lives = histories(widest(release), "crdc_series_uuid", list(dict.fromkeys(names)))
    taken: dict[str, int] = {}
    extra = np.full(len(at), -1, np.int64)
    for place, name in zip(which.tolist(), names, strict=True):
        row = int(at[place])
        reason, good = _judge(name, lives, release, judged)
        if not good:
            rows.reject([row], reason)
            continue
        if name not in taken:
            rows.remark(row, reason)
        extra[place] = taken.setdefault(name, len(taken))
    if not taken:
        return None, extra
    import pyarrow as pa

    columns = [c for c in MANIFEST_COLUMNS if c in release.columns]
    empty = release.resolve([]).select(["position", *columns])
    others = with_others(release, empty, list(range(len(taken))), list(taken))
    return pa.table(others.drop_columns(["position"])), extra


def _judge(
    uuid: str, lives: Mapping[str, History], release: Release, judged: set[int]
) -> tuple[str, bool]:
    """Say of a uuid that a release does not hold why, and whether it is taken."""
    life = lives.get(uuid)
    number = release.idc_version
    if life is None:
        return f"no release in {release.source} holds this series", False
    if any(life.at(version) for version in judged):
        held = life.releases_of(uuid)
        return f"belongs to {held}, not {number}; its own bytes are taken", True
    return _absent(uuid, life, release), False
