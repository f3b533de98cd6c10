"""A manifest cut into pieces of about equal weight, every instance in exactly one."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from intake_idc.arrow import integers
from intake_idc.manifest.subsets import OBJECTS, ONLY, subset_lists

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from intake_idc.manifest import Part

__all__ = ["cut"]


def cut(
    table: pa.Table, parts: Iterable[Part], max_bytes: int, max_instances: int
) -> list[pa.Table]:
    """Give the rows of a manifest in pieces; see `Manifest.split`.

    Parameters
    ----------
    table : pyarrow.Table
        The rows, each column in one chunk.
    parts : iterable of Part
        The same rows as plain values.
    max_bytes, max_instances : int
        What a piece may hold.
    """
    groups: list[list[_Run]] = [[]]
    held_bytes = held_instances = 0
    for row, part in enumerate(parts):
        for run in _runs(row, part, max_bytes, max_instances):
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
    return [_piece(table, group) for group in groups if group]


class _Run(NamedTuple):
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


def _piece(whole: pa.Table, group: list[_Run]) -> pa.Table:
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


def _with_own_objects(table: pa.Table, group: list[_Run]) -> pa.Table:
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
    table: pa.Table, group: list[_Run]
) -> tuple[pa.Table, list[_Run]]:
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


def _runs(row: int, part: Part, max_bytes: int, max_instances: int) -> Iterator[_Run]:
    """Cut one part into runs of equal length, so that no piece is a crumb."""
    size, count = part.size or 0, part.instances
    if not count:
        yield _Run(row, part.first_instance, part.last_instance, size, 1)
        return
    per_instance = size / (part.instanceCount or count)
    step = max_instances
    if per_instance:
        step = min(step, max(1, int(max_bytes // per_instance)))
    if count <= step:
        whole = round(per_instance * count)
        yield _Run(row, part.first_instance, part.last_instance, whole, count)
        return
    pieces = -(-count // step)
    edges = [part.first_instance + count * i // pieces for i in range(pieces + 1)]
    for first, last in itertools.pairwise(edges):
        yield _Run(row, first, last, round(per_instance * (last - first)), last - first)
