"""Shares of a plan: which rows belong together, and how they travel.

A share is a compact value of 50 to 120 bytes an object. As a slice of an Arrow table it
would carry the whole plan.
"""

from __future__ import annotations

import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import numpy_of, one
from intake_idc.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pyarrow as pa

    from intake_idc.storage import Mirror

__all__ = ["cut", "packed", "unpacked"]

FEWEST_BYTES, MOST_BYTES = 32 << 20, 1 << 30
"""Bytes of a share, unless one object has more."""
FEWEST, MOST = 32, 2_000
"""Objects of a share."""
ROUNDS = 4
"""Shares for each thread of the cluster, so that all of them end together."""

_SERIES = ("crdc_series_uuid", "aws_bucket", "folder", "instanceCount", "size")


def cut(plan: Plan, threads: int) -> list[np.ndarray[Any, Any]]:
    """Cut what a plan moves into shares: rows of each, in the order of the plan.

    Series are not divided unless one alone has too many objects or bytes, so that a
    copy that is stopped has whole series.

    Parameters
    ----------
    plan : Plan
        What to do.
    threads : int
        Threads of the cluster.
    """
    import numpy as np

    rows = np.flatnonzero(plan.moved)
    sizes, series = plan.column("size")[rows], plan.column("series")[rows]
    parts = max(1, ROUNDS * threads)
    most = min(max(-(-int(sizes.sum()) // parts), FEWEST_BYTES), MOST_BYTES)
    many = min(max(-(-len(rows) // parts), FEWEST), MOST)
    ends = [0, *(np.flatnonzero(series[1:] != series[:-1]) + 1).tolist(), len(rows)]
    totals = [0, *np.cumsum(sizes).tolist()]

    def fits(start: int, stop: int) -> bool:
        return stop - start <= many and totals[stop] - totals[start] <= most

    shares, start, at = [], 0, 0
    for begin, end in pairwise(ends):
        if begin > start and not fits(start, end):
            shares.append(rows[start:begin])
            start = begin
        for at in range(start + 1, end) if not fits(start, end) else ():
            if not fits(start, at + 1):
                shares.append(rows[start:at])
                start = at
    if start < len(rows):
        shares.append(rows[start:])
    return shares


def packed(plan: Plan, rows: np.ndarray[Any, Any]) -> bytes:
    """Give some rows of a plan, and their series, as bytes."""
    import numpy as np
    import pyarrow as pa

    # What is taken is copied: a slice would carry the whole plan.
    objects = plan.objects.take(pa.array(rows))
    used, codes = np.unique(
        numpy_of(one(objects.column("series"))), return_inverse=True
    )
    place = objects.column_names.index("series")
    own = pa.array(codes.astype(np.int32))
    objects = objects.set_column(place, "series", own)
    series = plan.series.select(_SERIES).take(pa.array(used))
    return zlib.compress(_stream(objects) + _stream(series), 1)


def _stream(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def unpacked(share: bytes, target: Path | str, mirror: Mirror) -> Plan:
    """Give the plan that some rows of another are."""
    import pyarrow as pa

    source = pa.BufferReader(zlib.decompress(share))
    objects, series = (pa.ipc.open_stream(source).read_all() for _ in range(2))
    return Plan(target, series, objects, mirror)
