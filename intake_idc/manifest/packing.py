"""The rows of a partition, packed for travel: 29 bytes a series in a Dask graph.

As a manifest of its own a partition takes 2 kB of schema, and a graph of 2,000
partitions 4 MB. Here it is runs of plain numbers, which is all that a worker needs to
list, check and read its series.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from intake_idc.arrow import numpy_of, one, pack_uuids, packed_bytes
from intake_idc.manifest.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from intake_idc.manifest.cutting import Run

__all__ = ["Packed", "Piece"]

UUID_BYTES = 16
UNKNOWN = -1
"""Stands for a null: counts, sizes and places are never below 0."""
_FIELDS = ("counts", "sizes", "tolerances")
_TYPES = {"counts": "<i4", "sizes": "<i8", "tolerances": "<i4"}


@dataclass(frozen=True)
class Piece:
    """Some series of a manifest, or runs of them, in order."""

    buckets: tuple[str, ...]
    """Names of the AWS buckets that its series lie in."""
    uuids: bytes
    """``crdc_series_uuid`` of each row, 16 bytes."""
    codes: bytes
    """Bucket of each row: a place in `buckets`, one byte."""
    counts: bytes
    """Instances of each whole series, int32, little endian; -1 unknown."""
    sizes: bytes
    """Bytes of each whole series, int64; -1 unknown."""
    tolerances: bytes
    """Bytes by which that may be off, int32; empty where all are 0."""
    runs: tuple[tuple[int, int, int], ...] = ()
    """Rows of which not all is meant: row, first instance, one past the last (-1: the
    end)."""

    def __len__(self) -> int:
        return len(self.codes)

    def parts(self) -> Iterator[Part]:
        """Give each row as plain values; see `Manifest.parts`."""
        columns = [self._numbers(name) for name in _FIELDS]
        runs = {row: (first, last) for row, first, last in self.runs}
        for row, (code, count, size, tolerance) in enumerate(
            zip(self.codes, *columns, strict=True)
        ):
            first, last = runs.get(row, (0, UNKNOWN))
            uuid = self.uuids[UUID_BYTES * row : UUID_BYTES * (row + 1)]
            yield Part(
                str(UUID(bytes=uuid)),
                self.buckets[code],
                _known(count),
                _known(size),
                tolerance,
                first,
                _known(last),
            )

    def _numbers(self, name: str) -> list[int]:
        data = getattr(self, name)
        if not data:
            return [0] * len(self)
        return list(np.frombuffer(data, _TYPES[name]).tolist())


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
        uuids, right = pack_uuids(one(table.column("crdc_series_uuid")))
        encoded = one(table.column("aws_bucket")).dictionary_encode()
        self._buckets = tuple(encoded.dictionary.to_pylist())
        if not right.all() or len(self._buckets) > 256:  # noqa: PLR2004
            msg = "rows that cannot be packed"
            raise ValueError(msg)
        self._uuids = packed_bytes(uuids)
        self._codes = numpy_of(encoded.indices).astype("u1")
        self._numbers = {
            name: np.array([UNKNOWN if n is None else n for n in numbers], _TYPES[name])
            for name, numbers in zip(_FIELDS, (counts, sizes, tolerances), strict=True)
        }

    def piece(self, group: Sequence[Run]) -> Piece:
        """Give neighbouring runs as a value of their own."""
        first, last = group[0].row, group[-1].row + 1
        whole = last - first == len(group)
        rows: Any = slice(first, last) if whole else list(map(_row, group))
        uuids = np.frombuffer(self._uuids, "V16")[rows].tobytes()
        numbers = {name: values[rows] for name, values in self._numbers.items()}
        if not numbers["tolerances"].any():
            numbers["tolerances"] = numbers["tolerances"][:0]
        partial = [run.first > 0 or run.last is not None for run in group]
        return Piece(
            self._buckets,
            uuids,
            self._codes[rows].tobytes(),
            **{name: values.tobytes() for name, values in numbers.items()},
            runs=tuple(
                (at, run.first, UNKNOWN if run.last is None else run.last)
                for at, run in compress(enumerate(group), partial)
            ),
        )


_row = operator.attrgetter("row")
