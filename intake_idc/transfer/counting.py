"""Hold a folder against the index without a listing: count and bytes of its series.

What the record says of the objects of a series is used where it comes to what the index
says. Of other series every file of their folder is taken together: count and bytes of a
series are exact in the index.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc.arrow import integers, one, packed, texts
from intake_idc.plan import ACTIONS, Plan
from intake_idc.plan.value import SUFFIX
from intake_idc.transfer.checking import Check, Level, Truth
from intake_idc.transfer.verification import (
    DIFFER,
    MATCH,
    MISSING,
    UNVERIFIABLE,
    Verification,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from intake_idc.storage import Mirror
    from intake_idc.transfer.recorded import Records

__all__ = ["verify_series"]

_KEEP = ACTIONS.index("keep")


class _Counted(NamedTuple):
    """A row that is no object of the record: a file, or what lacks in a folder."""

    series: int
    file: str
    size: int
    verdict: int
    reason: str = ""


def verify_series(
    target: Path,
    series: pa.Table,
    slack: Sequence[int | None],
    mirror: Mirror,
    records: Records | None = None,
) -> Verification:
    """Compare a folder with what the index says of its series; nothing is listed.

    Parameters
    ----------
    target : Path
        The folder.
    series : pyarrow.Table
        As a plan has it.
    slack : sequence of int or None
        By how many bytes the size of each series may be off; None is by any number.
    mirror : Mirror
        Where the objects would come from.
    records : Records, optional
        What is written down of the folder, one row for each path.
    """
    counts = series.column("instanceCount").to_pylist()
    sizes = [
        None if off is None else size
        for size, off in zip(series.column("size").to_pylist(), slack, strict=True)
    ]
    by_folder: dict[str, list[int]] = {}
    for number, folder in enumerate(series.column("folder").to_pylist()):
        by_folder.setdefault(folder, []).append(number)
    told = _told(series, counts, sizes, slack, records)
    whole = {
        number
        for numbers_ in by_folder.values()
        if all(number in told for number in numbers_)
        for number in numbers_
    }
    known = [(n, row) for n in sorted(whole) for row in told[n]]
    first = Plan(target, series, _known_objects(known, records), mirror)
    check = Check(first, Level(quick=True), Truth(records))
    check.run()
    counted: list[_Counted] = []
    for folder, own in by_folder.items():
        if own[0] in whole:
            continue
        said = (_sum([told_of[n] for n in own]) for told_of in (counts, sizes, slack))
        counted += _folder(check, folder, own[0], *said)
    objects = _with_counted(first.objects, counted)
    start = len(first)
    check.extend(len(counted))
    for row, one_of in enumerate(counted, start):
        check.say(row, one_of.verdict, "", one_of.reason)
    return replace(check.result(), plan=replace(first, objects=objects))


def _sum(values: Sequence[int | None]) -> int | None:
    """Give the sum of numbers that are all known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _near(there: int, size: int | None, off: int | None) -> bool:
    """Whether bytes are as many as the index says, as far as it says it."""
    return size is None or abs(there - size) <= (off or 0)


def _told(
    series: pa.Table,
    counts: Sequence[int | None],
    sizes: Sequence[int | None],
    slack: Sequence[int | None],
    records: Records | None,
) -> dict[int, list[int]]:
    """Give the rows of the record of each series that it holds whole."""
    if records is None:
        return {}
    uuids = records.series.column("crdc_series_uuid").to_pylist()
    rows: dict[tuple[str, str], list[int]] = {}
    own = zip(uuids, records.folders, strict=True)
    places = [rows.setdefault(key, []) for key in own]
    for row, number in enumerate(records.column("series").tolist()):
        places[number].append(row)
    size_of = records.column("size")
    found = {}
    names = zip(
        series.column("crdc_series_uuid").to_pylist(),
        series.column("folder").to_pylist(),
        strict=True,
    )
    for number, key in enumerate(names):
        here = rows.get(key, [])
        there = int(size_of[here].sum())
        if len(here) == counts[number] and _near(there, sizes[number], slack[number]):
            found[number] = here
    return found


def _known_objects(
    known: Sequence[tuple[int, int]], records: Records | None
) -> pa.Table:
    import pyarrow as pa

    count = len(known)
    rows = integers([row for _, row in known])
    columns: dict[str, Any] = {
        "series": integers([number for number, _ in known]).cast(pa.int32()),
        "action": integers([_KEEP] * count).cast(pa.int8()),
    }
    text = pa.string()
    kinds = {"name": text, "file": text, "size": pa.int64(), "etag": text}
    for name, kind in {**kinds, "md5": pa.binary(16)}.items():
        column = pa.nulls(0, kind)
        if records is not None:
            column = one(records.objects.column(name))
        columns[name] = column.take(rows)
    return pa.table(columns)


def _folder(
    check: Check,
    folder: str,
    series: int,
    count: int | None,
    size: int | None,
    off: int | None,
) -> Iterator[_Counted]:
    """Give the files of a folder of series of which no object is known."""
    here = check.scan(folder)
    mine = {n: f for n, f in here.items() if n.endswith(SUFFIX) and f.plain}
    check.left(folder, {name: file for name, file in here.items() if name not in mine})
    there = sum(file.size for file in mine.values())
    said = "?" if size is None else size
    reason = f"its folder has {len(mine)} objects of {there} bytes; the index says "
    verdict, near = MATCH, _near(there, size, off)
    if count is None and near:
        verdict, reason = UNVERIFIABLE, "the index does not say how many there are"
    elif count == len(mine) and near:
        reason = ""
    else:
        reason = f"{reason}{'?' if count is None else count} of {said}"
        verdict, fewer = UNVERIFIABLE, there < (size or 0)
        if count is not None:
            fewer = len(mine) < count
        lacks = MISSING if fewer else DIFFER
        yield _Counted(series, "", (size or there) - there, lacks, reason)
    for name, file in sorted(mine.items()):
        yield _Counted(series, name, file.size, verdict, reason)


def _with_counted(objects: pa.Table, counted: Sequence[_Counted]) -> pa.Table:
    import pyarrow as pa

    count = len(counted)
    more = {
        "series": integers([own.series for own in counted]).cast(pa.int32()),
        "action": integers([_KEEP] * count).cast(pa.int8()),
        "name": texts([own.file.removesuffix(SUFFIX) for own in counted]),
        "file": texts([own.file for own in counted]),
        "size": integers([max(own.size, 0) for own in counted]),
        "etag": pa.nulls(count, pa.string()),
        "md5": packed([None] * count),
    }
    return pa.concat_tables([objects, pa.table(more)]).combine_chunks()
