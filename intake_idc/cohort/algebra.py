"""Sets of series: union, intersection, difference, and any part of a cohort.

A series is the same as another by its bytes (``crdc_series_uuid``), or by its name
(``SeriesInstanceUID``), which keeps its name when the bytes are revised.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from intake_idc.arrow import pack_uuids, packed, texts
from intake_idc.errors import RequestError
from intake_idc.manifest import ONLY, Manifest, subset_column
from intake_idc.release import FixedRows, Release
from intake_idc.release.history import KEYS
from intake_idc.release.listed import ListedRows, find
from intake_idc.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from intake_idc.cohort.verbs.base import AnyCohort, Base
    from intake_idc.storage import Mirror

__all__ = [
    "By",
    "difference",
    "given",
    "intersection",
    "part_of",
    "release_of",
    "union",
]

By = Literal["crdc_series_uuid", "SeriesInstanceUID"]
"""What makes two series the same: their bytes, or their name."""

UUID = "crdc_series_uuid"
Names: TypeAlias = "pa.ChunkedArray"
"""Texts that name series."""
Subsets: TypeAlias = "Mapping[str, frozenset[bytes]]"
"""Packed uuids of the objects that are meant of a series, where not all are."""
SHOWN = 160
"""Letters of a cohort's conditions that the origin of a list repeats."""


def union(one: AnyCohort, other: AnyCohort, by: By) -> AnyCohort:
    """Give the series of one cohort, and after them those that only the other has."""
    _check(one, other, by)
    # A list is read and copied as it stands: what it is made of must be meant.
    one._check_meant()  # noqa: SLF001
    other._check_meant()  # noqa: SLF001
    ours, theirs = _named(one, by), _named(other, by)
    more = theirs.filter(_among(theirs, ours, by, there=False)).column(UUID)
    origin = _origin("union", one, other)
    problems = (*one.problems, *other.problems)
    if not len(more):
        found = part_of(one, ours.column(UUID), origin)
    else:
        mirror = _one_mirror(one, other) if ours.num_rows else other.mirror
        found = _together(one, ours.column(UUID), other, more, origin)
        found = replace(found, mirror=mirror)
    mine, others = _subsets(one, ours), _subsets(other, theirs)
    if mine or others:
        meant = dict(mine)
        if by == UUID:
            # Of a series of which either has all, all; else what they have together.
            for uuid in mine.keys() & set(theirs.column(UUID).to_pylist()):
                own = meant.pop(uuid)
                if uuid in others:
                    meant[uuid] = own | others[uuid]
        fresh = set(more.to_pylist())
        meant |= {uuid: own for uuid, own in others.items() if uuid in fresh}
        found = _with_subsets(found, meant)
        if meant != mine:
            # The objects that are known may be just those that were meant before.
            found = replace(found, objects=None)
    return replace(found, problems=problems)


def intersection(one: AnyCohort, other: AnyCohort, by: By) -> AnyCohort:
    """Give the series of one cohort that the other has too."""
    _check(one, other, by)
    # A release has each name once, so that there both keys say the same.
    if one.rows == other.rows and (by == UUID or isinstance(one.rows, Release)):
        return replace(
            one,
            selection=_both(one.selection, other.selection),
            everything=one.everything and other.everything,
        )
    ours, theirs = _named(one, by), _named(other, by)
    kept = ours.filter(_among(ours, theirs, by, there=True)).column(UUID)
    found = part_of(one, kept, _origin("intersection", one, other))
    mine, others = _subsets(one, ours), _subsets(other, theirs)
    if by == UUID and others:
        both = {uuid: mine[uuid] & others[uuid] for uuid in mine.keys() & others}
        found = _with_subsets(found, {**mine, **others, **both})
    return found


def difference(one: AnyCohort, other: AnyCohort, by: By) -> AnyCohort:
    """Give the series of one cohort that the other does not have."""
    import pyarrow as pa

    _check(one, other, by)
    one._check_meant()  # noqa: SLF001
    ours, theirs = _named(one, by), _named(other, by)
    mine, others = _subsets(one, ours), _subsets(other, theirs)
    if others and by == UUID:
        some = pa.table({UUID: texts(list(others))})
        theirs = theirs.filter(_among(theirs, some, by, there=False))
    kept = ours.filter(_among(ours, theirs, by, there=False)).column(UUID)
    found = part_of(one, kept, _origin("difference", one, other))
    if not others or by != UUID:
        return found
    shared = set(others) & set(kept.to_pylist())
    unknown = sorted(shared - set(mine))
    if unknown:
        msg = (
            f"the other cohort has some objects of series {unknown[0]}, and this one "
            "all of them without their names; what is left cannot be named"
        )
        raise RequestError(msg, series=unknown)
    left = {uuid: mine[uuid] - others[uuid] for uuid in shared}
    return _with_subsets(found, {**mine, **left})


def part_of(cohort: AnyCohort, uuids: Names, origin: str) -> AnyCohort:
    """Give these series of a cohort as a list, in the cohort's order.

    Mirror, problems and known objects stay. It may be empty.

    Parameters
    ----------
    cohort : Cohort
        What they are of.
    uuids : pyarrow.ChunkedArray
        Their ``crdc_series_uuid``, in the cohort's order.
    origin : str
        What the list is called.
    """
    import pyarrow.compute as pc

    rows = cohort.rows
    made: FixedRows
    if isinstance(rows, Release):
        made = ListedRows(rows, _packed(uuids), origin)
    elif isinstance(rows, ListedRows):
        names = _packed(uuids)
        others, only = rows.others, rows.only
        if others is not None:
            kept = pc.is_in(others.column(UUID), _like(uuids, others.column(UUID)))
            others = others.filter(kept)
        if only is not None:
            only = only.take(pc.index_in(names, rows.uuids))
        made = ListedRows(rows.release, names, origin, others, only)
    else:
        # The rows of a lock are all that is known of them, and need no tables.
        table = rows.manifest_rows.table
        kept = pc.is_in(table.column(UUID), _like(uuids, table.column(UUID)))
        made = _fixed(rows, table.filter(kept), origin)
    return replace(cohort, rows=made, selection=Selection(), everything=False)


def release_of(cohort: Base) -> Release:
    """Give the release that a cohort belongs to, also where it is a list.

    Raises
    ------
    TableNotFound, UnknownRelease
        The tables at hand do not know it.
    """
    from intake_idc.release import open_release

    rows = cohort.rows
    if isinstance(rows, Release):
        return rows
    if isinstance(rows, ListedRows):
        return rows.release
    return open_release(rows.idc_version, rows.spec, rows.digest)


def given(argument: str, value: str | Sequence[str] | None) -> list[str]:
    """Give what an argument names: one text, or some in their order; None is none.

    Raises
    ------
    RequestError
        It is neither. A set has another order in each process.
    """
    found: list[Any] = [] if value is None else [value]
    if isinstance(value, Iterable) and not isinstance(value, str | AbstractSet):
        found = list(value)
    if not all(isinstance(name, str) for name in found):
        msg = f"{argument} is a text or a list of texts; got {value!r}"
        raise RequestError(msg, argument=argument)
    return found


def _check(one: Base, other: object, by: object) -> None:
    if by not in KEYS:
        msg = f"by is {' or '.join(map(repr, KEYS))}; got {by!r}"
        raise RequestError(msg, by=by)
    if not isinstance(other, type(one)):
        msg = f"a cohort goes with another cohort; got {type(other).__name__}"
        raise RequestError(msg)


def _both(one: Selection, other: Selection) -> Selection:
    """Give the conditions of both, each once and in one order."""
    conditions = dict.fromkeys([*one.conditions, *other.conditions])
    return Selection(
        tuple(sorted(conditions, key=lambda condition: condition.column)),
        tuple(dict.fromkeys([*one.sql, *other.sql])),
        one.commercial_use or other.commercial_use,
    )


def _named(cohort: Base, by: By) -> pa.Table:
    """Give the names of the series, in order."""
    columns = list(dict.fromkeys([UUID, by]))
    return cohort.rows.table(columns, cohort.selection)


def _among(these: pa.Table, those: pa.Table, by: By, *, there: bool) -> Any:
    """Say of each series whether it is among others, or is not."""
    import pyarrow.compute as pc

    names = these.column(by)
    found = pc.is_in(names, _like(those.column(by), names))
    return found if there else pc.invert(found)


def _like(names: Names, others: Names) -> pa.Array:
    """Give names as one array, of the kind of text that others are."""
    return names.cast(others.type).combine_chunks()


def _packed(uuids: Names) -> pa.Array:
    """Give uuids as 16 bytes each."""
    import pyarrow as pa

    return pack_uuids(_like(uuids, pa.chunked_array([], pa.large_string())))[0]


def _fixed(old: FixedRows, table: pa.Table, origin: str) -> FixedRows:
    """Give rows as a list of its own, which is no lock any more."""
    manifest = Manifest(table, old.idc_version, origin)
    return FixedRows(manifest, old.spec, old.digest)


def _together(
    one: AnyCohort, ours: Names, other: AnyCohort, more: Names, origin: str
) -> AnyCohort:
    """Give series of one cohort, and after them some of another, as the first's."""
    import pyarrow as pa

    found = part_of(one, ours, origin)
    rows = found.rows
    if not isinstance(rows, ListedRows):
        mine = found.manifest().table
        theirs = part_of(other, more, origin).manifest().table
        made = _fixed(rows, _joined(mine, theirs), origin)  # type: ignore[arg-type]
        return replace(found, rows=made, objects=None)
    added = _packed(more)
    others = rows.others
    held = find(rows.release, added) >= 0
    if not held.all():
        # Bytes of another release: what that says of them.
        strange = more.filter(pa.array(~held))
        table = part_of(other, strange, origin).manifest().table
        others = table if others is None else _joined(others, table)
    only = None  # Which objects are meant is said afterwards, of both at once.
    uuids = pa.concat_arrays([rows.uuids, added])
    made = ListedRows(rows.release, uuids, origin, others, only)
    return replace(found, rows=made, objects=None)


def _joined(table: pa.Table, more: pa.Table) -> pa.Table:
    """Give rows, and after them others in the same columns: null where not known."""
    import pyarrow as pa

    columns = {
        field.name: more.column(field.name).cast(field.type)
        if field.name in more.column_names
        else pa.nulls(more.num_rows, field.type)
        for field in table.schema
        if field.name != ONLY
    }
    return pa.concat_tables([table.select(list(columns)), pa.table(columns)])


def _subsets(cohort: Base, names: pa.Table) -> Subsets:
    """Give the objects of the series of which not all are meant, by uuid."""
    rows = cohort.rows
    if isinstance(rows, Release):
        return {}
    if isinstance(rows, ListedRows):
        if rows.only is None:
            return {}
    elif not rows.manifest_rows.has_subsets:
        return {}
    table = rows.manifest_rows.table.select([UUID, ONLY])
    there = set(names.column(UUID).to_pylist())
    return {
        row[UUID]: frozenset(row[ONLY])
        for row in table.to_pylist()
        if row[ONLY] is not None and row[UUID] in there
    }


def _with_subsets(found: AnyCohort, meant: Subsets) -> AnyCohort:
    """Give a list with these objects of some series, and all of the others.

    A series of which no object is left is left out.
    """
    import pyarrow as pa

    rows = cast("FixedRows", found.rows)
    manifest = found.manifest([UUID])
    kept = [i for i, uuid in enumerate(manifest.uuids) if meant.get(uuid, True)]
    uuids = [manifest.uuids[i] for i in kept]
    places = [i for i, uuid in enumerate(uuids) for _ in meant.get(uuid, ())]
    objects = packed([x for uuid in uuids for x in sorted(meant.get(uuid, ()))])
    only = subset_column(places, objects, len(uuids)) if places else None
    part = part_of(found, pa.chunked_array([texts(uuids)]), manifest.origin)
    made = part.rows
    if isinstance(made, ListedRows):
        made = ListedRows(made.release, made.uuids, made.origin, made.others, only)
    else:
        table = cast("FixedRows", made).manifest_rows.table
        table = table.drop_columns([c for c in table.column_names if c == ONLY])
        table = table if only is None else table.append_column(ONLY, only)
        made = _fixed(rows, table, manifest.origin)
    return replace(part, rows=made)


def _one_mirror(one: Base, other: Base) -> Mirror | None:
    """Give the mirror that has the series of both.

    Raises
    ------
    RequestError
        Each is read from a place of its own.
    """
    from intake_idc.storage import resolve_mirror

    names = "aws", "gcs", "auto"
    public = [None, *(resolve_mirror(x, environment=False) for x in names)]
    mine, theirs = (
        # Where objects are kept says nothing of where they are.
        mirror if mirror is None else replace(mirror, cache=None)
        for mirror in (one.mirror, other.mirror)
    )
    if mine == theirs or (mine in public and theirs in public):
        return one.mirror
    named = ["the default" if x is None else repr(x.name) for x in (mine, theirs)]
    msg = (
        f"the first cohort is read from mirror {named[0]}, the other from {named[1]}, "
        "and a cohort has one; give both the same with reading_from(...)"
    )
    raise RequestError(msg)


def _origin(verb: str, one: Base, other: Base) -> str:
    return f"{verb} of {_words(one)} and {_words(other, one.idc_version)}"


def _words(cohort: Base, idc_version: int | None = None) -> str:
    words = cohort._where  # noqa: SLF001
    words = words if len(words) <= SHOWN else f"{words[: SHOWN - 3]}..."
    version = cohort.idc_version
    of = "" if idc_version in (None, version) else f" of release {version}"
    return f"({words}{of})"
