"""The rows of a partition, packed for travel: 29 bytes a series in a Dask graph.

As a manifest of its own a partition takes 2 kB of schema, and a graph of 2,000
partitions 4 MB. Here it is records of plain numbers, which is all that a worker needs
to list, check and read its series.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from intake_idc.arrow import numpy_of, one, pack_uuids, packed_bytes
from intake_idc.manifest.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import pyarrow as pa

    from intake_idc.manifest.cutting import Run

__all__ = ["Packed", "Piece"]

UNKNOWN = -1
"""Stands for a null: counts, sizes and places are never below 0."""
EXACT = (("uuid", "V16"), ("bucket", "u1"), ("count", "<i4"), ("size", "<i8"))
"""A series: ``crdc_series_uuid``, the place of its bucket in a list, instances and
bytes of the whole series."""
ROUNDED = (*EXACT, ("tolerance", "<i4"))
"""The same, and the bytes by which the size may be off."""


@functools.cache
def _record(*, exact: bool) -> np.dtype[Any]:
    import numpy as np

    return np.dtype(list(EXACT if exact else ROUNDED))


@dataclass(frozen=True)
class Piece:
    """Some series of a manifest, or runs of them, in order."""

    buckets: tuple[str, ...]
    """Names of the AWS buckets that the series of the manifest lie in."""
    records: bytes
    """A record for each row: `ROUNDED`, or `EXACT` where all tolerances are 0."""
    exact: bool = True
    """Which of the two it is."""
    runs: tuple[tuple[int, int, int], ...] = ()
    """Rows of which not all is meant: row, first instance, one past the last (-1: the
    end)."""

    def __len__(self) -> int:
        return len(self.records) // _record(exact=self.exact).itemsize

    def __reduce__(self) -> tuple[Any, ...]:
        # By place and not by name: half as many bytes.
        return Piece, (self.buckets, self.records, self.exact, self.runs)

    def parts(self) -> Iterator[Part]:
        """Give each row as plain values; see `Manifest.parts`."""
        import numpy as np

        runs = {row: (first, last) for row, first, last in self.runs}
        rows = np.frombuffer(self.records, _record(exact=self.exact)).tolist()
        for row, (uuid, bucket, count, size, *tolerance) in enumerate(rows):
            first, last = runs.get(row, (0, UNKNOWN))
            yield Part(
                str(UUID(bytes=uuid)),
                self.buckets[bucket],
                _known(count),
                _known(size),
                tolerance[0] if tolerance else 0,
                first,
                _known(last),
            )


def _known(number: int) -> int | None:
    return None if number == UNKNOWN else number


class Packed:
    """All rows of a manifest, packed, from which pieces are cut.

    Parameters
    ----------
    table : pyarrow.Table
        The columns that reading needs, without known objects and subsets.
    counts, sizes, tolerances : sequence of int or None
        Of each series.

    Raises
    ------
    ValueError
        A uuid is not one, or there are more than 256 buckets: such rows travel as a
        manifest.
    """

    def __init__(
        self,
        table: pa.Table,
        counts: Sequence[int | None],
        sizes: Sequence[int | None],
        tolerances: Sequence[int],
    ) -> None:
        import numpy as np

        uuids, right = pack_uuids(one(table.column("crdc_series_uuid")))
        encoded = one(table.column("aws_bucket")).dictionary_encode()
        self._buckets = tuple(encoded.dictionary.to_pylist())
        if not right.all() or len(self._buckets) > 256:  # noqa: PLR2004
            msg = "rows that cannot be packed"
            raise ValueError(msg)
        rows = np.zeros(len(counts), _record(exact=False))
        rows["uuid"] = np.frombuffer(packed_bytes(uuids), "V16")
        rows["bucket"] = numpy_of(encoded.indices)
        rows["count"] = [UNKNOWN if n is None else n for n in counts]
        rows["size"] = [UNKNOWN if n is None else n for n in sizes]
        rows["tolerance"] = tolerances
        self._rounded = rows
        names = [name for name, _ in EXACT]
        self._exact = rows[names].astype(_record(exact=True))

    def piece(self, group: Sequence[Run]) -> Piece:
        """Give neighbouring runs as a value of their own."""
        first, last = group[0].row, group[-1].row + 1
        rows: Any = slice(first, last)
        if last - first != len(group):
            rows = [run.row for run in group]
        exact = not self._rounded["tolerance"][rows].any()
        records = self._exact if exact else self._rounded
        partial = [run.first > 0 or run.last is not None for run in group]
        return Piece(
            self._buckets,
            records[rows].tobytes(),
            exact,
            tuple(
                (at, run.first, UNKNOWN if run.last is None else run.last)
                for at, run in compress(enumerate(group), partial)
            ),
        )
