"""A manifest cut into pieces of about equal weight, every instance in exactly one."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, NamedTuple

from intake_idc.arrow import integers
from intake_idc.errors import RequestError
from intake_idc.manifest.subsets import OBJECTS, ONLY, subset_lists

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

__all__ = ["Run", "Weight", "cut", "group_runs"]


class Weight(NamedTuple):
    """What a series of a manifest weighs."""

    size: int
    """Bytes of the whole series; 0 where they are unknown."""
    whole: int | None
    """Instances of the whole series."""
    instances: int | None
    """Instances that are meant."""
    first: int = 0
    """First instance that is meant."""
    last: int | None = None
    """One past the last; None means the end of the series."""


class Run(NamedTuple):
    """A run of a series' instances, or the whole of it."""

    row: int
    """Position of the series in the manifest."""
    first: int
    """First instance."""
    last: int | None
    """One past the last instance; None means the end of the series."""
    size: int
    """Bytes, about."""
    instances: int
    """Instances; 1 where the index does not say."""


def group_runs(
    weights: Sequence[Weight],
    max_bytes: int,
    max_instances: int,
    *,
    whole_series: bool = False,
) -> list[list[Run]]:
    """Say which rows, or runs of them, make a piece; see `Manifest.pieces`.

    Raises
    ------
    RequestError
        A bound is not positive.
    """
    if max_bytes < 1 or max_instances < 1:
        msg = (
            "a partition needs room for one byte and one instance; "
            f"got max_bytes={max_bytes}, max_instances={max_instances}"
        )
        raise RequestError(msg)
    longest = (sys.maxsize, sys.maxsize) if whole_series else (max_bytes, max_instances)
    groups: list[list[Run]] = [[]]
    held_bytes = held_instances = 0
    for row, weight in enumerate(weights):
        for run in _runs(row, weight, *longest):
            full = groups[-1] and (
                held_bytes + run.size > max_bytes
                or held_instances + run.instances > max_instances
            )
            if full:
                groups.append([])
                held_bytes = held_instances = 0
            groups[-1].append(run)
            held_bytes += run.size
            held_instances += run.instances
    return groups if groups[0] else []


def cut(whole: pa.Table, group: Sequence[Run]) -> pa.Table:
    """Give neighbouring runs as the table of a manifest of their own.

    The rows are a slice, which shares the memory of its parent, and pickles as Arrow
    IPC, which writes no more than the slice: by Arrow's own pickle 100 rows of
    release 25 take 155 MB.
    """
    table = whole.slice(group[0].row, group[-1].row - group[0].row + 1)
    if any(run.first or run.last is not None for run in group):
        if table.num_rows != len(group):
            # Several runs of one series in one piece: a row for each.
            table = whole.take([run.row for run in group])
        table = _with_own_objects(table, group)
        table, group = _with_own_subsets(table, group)
        firsts = integers([run.first for run in group])
        lasts = integers([run.last for run in group])
        for name, column in (("first_instance", firsts), ("last_instance", lasts)):
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, column)
    return table


def _with_own_objects(table: pa.Table, group: Sequence[Run]) -> pa.Table:
    """Give the rows of runs the objects of the runs, not of their whole series."""
    if OBJECTS not in table.column_names:
        return table
    import pyarrow as pa

    began = [0] * len(group)
    if "first_instance" in table.column_names:
        began = [first or 0 for first in table.column("first_instance").to_pylist()]
    lists, column = [], table.column(OBJECTS)
    subsets = table.column(ONLY) if ONLY in table.column_names else None
    for i, run in enumerate(group):
        own = column[i].values
        if subsets is not None and subsets[i].is_valid:
            import pyarrow.compute as pc

            meant = subsets[i].values[run.first : run.last]
            lists.append(own.filter(pc.is_in(own.field("uuid"), value_set=meant)))
            continue
        stop = None if run.last is None else run.last - began[i]
        lists.append(own[run.first - began[i] : stop])
    offsets = [0, *itertools.accumulate(map(len, lists))]
    cut = pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.concat_arrays(lists)
    )
    return table.set_column(table.column_names.index(OBJECTS), OBJECTS, cut)


def _with_own_subsets(
    table: pa.Table, group: Sequence[Run]
) -> tuple[pa.Table, Sequence[Run]]:
    """Make the runs of subsets subsets themselves, which are whole."""
    if ONLY not in table.column_names:
        return table, group
    lists, runs = [], []
    for run, subset in zip(group, table.column(ONLY), strict=True):
        own = subset.values
        lists.append(None if own is None else own[run.first : run.last])
        runs.append(run if own is None else run._replace(first=0, last=None))
    place = table.column_names.index(ONLY)
    return table.set_column(place, ONLY, subset_lists(lists)), runs


def _runs(
    row: int, weight: Weight, max_bytes: int, max_instances: int
) -> Iterable[Run]:
    """Cut one series into runs of equal length, so that no piece is a crumb."""
    size, whole, count, begin, end = weight
    if not count:
        return (Run(row, begin, end, size, 1),)
    step = max_instances
    per_instance = size / (whole or count)
    if per_instance:
        step = min(step, max(1, int(max_bytes // per_instance)))
    if count <= step:
        return (Run(row, begin, end, round(per_instance * count), count),)
    pieces = -(-count // step)
    edges = [begin + count * i // pieces for i in range(pieces + 1)]
    return [
        Run(row, first, last, round(per_instance * (last - first)), last - first)
        for first, last in itertools.pairwise(edges)
    ]
