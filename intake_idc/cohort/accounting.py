"""The rows of a manifest while they are resolved: what was found, and what was not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from intake_idc.formats import Listing, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import pyarrow as pa

__all__ = ["Rows", "gathered", "numbers", "one"]

SHOWN = 200
"""Characters of a line that a problem shows."""


@dataclass
class Rows:
    """The rows of all parts of a manifest, and what was found of them so far."""

    names: pa.Table
    """The names, with ``line``."""
    part: np.ndarray[Any, Any]
    """Which listing each row is of."""
    listings: Sequence[Listing]
    problems: list[tuple[int, str, bool]] = field(default_factory=list)
    """Row, reason, and whether it was rejected."""
    found: list[tuple[Any, pa.Array, pa.Array | None]] = field(default_factory=list)
    """Rows, the series of each, and the object of each where single ones are meant."""

    def __len__(self) -> int:
        return int(self.names.num_rows)

    def has(self, name: str) -> np.ndarray[Any, Any]:
        """Say which rows have a name."""
        import numpy as np

        if name not in self.names.column_names:
            return np.zeros(len(self), bool)
        column = self.names.column(name)
        if not column.null_count:
            return np.ones(len(self), bool)
        # An array of chunks would import pandas to become one of numpy.
        valid = one(column.is_valid())
        return np.asarray(valid.to_numpy(zero_copy_only=False))

    def column(self, name: str, rows: np.ndarray[Any, Any]) -> pa.Array:
        """Give a name of some rows, as one array."""
        column = self.names.column(name)
        if len(rows) < len(self):
            column = column.take(numbers(rows))
        return one(column)

    def reject(self, rows: Iterable[int], reason: str) -> None:
        """Account for rows that give no series."""
        self.problems += [(int(row), reason, True) for row in rows]

    def remark(self, row: int, reason: str) -> None:
        """Account for a row that was taken with a remark."""
        self.problems.append((int(row), reason, False))

    def accounted(self) -> list[Problem]:
        """Give every problem, those of reading too, by file and line."""
        lines = self.names.column("line")
        wanted: dict[int, list[int]] = {}
        where = [
            (int(self.part[row]), lines[row].as_py()) for row, _, _ in self.problems
        ]
        for part, line in where:
            wanted.setdefault(part, []).append(line)
        shown = {part: self.listings[part].texts(ls) for part, ls in wanted.items()}
        several = len(self.listings) > 1
        own = [
            (part, problem)
            for part, listing in enumerate(self.listings)
            for problem in listing.problems
        ]
        for (part, line), (_, reason, rejected) in zip(
            where, self.problems, strict=True
        ):
            text = shown[part].get(line, "")[:SHOWN]
            name = self.listings[part].part if several else ""
            own.append((part, Problem(line, text, reason, rejected, name)))
        own.sort(key=lambda each: (each[0], each[1].line))
        return [problem for _, problem in own]


def gathered(listings: Sequence[Listing]) -> Rows:
    """Give the rows of all parts, one after the other; strange buckets are remarked."""
    import numpy as np
    import pyarrow as pa

    counts = [listing.names.num_rows for listing in listings]
    part = np.repeat(np.arange(len(listings)), counts)
    names = [listing.names for listing in listings]
    table = names[0]
    if len(names) > 1:
        table = pa.concat_tables(names, promote_options="default")
    rows = Rows(table, part, listings)
    for row in np.flatnonzero(rows.has("bucket")).tolist():
        bucket = table.column("bucket")[row].as_py()
        reason = f"bucket {bucket!r} is none of IDC's; the series is found by its uuid"
        rows.remark(row, reason)
    return rows


def numbers(places: np.ndarray[Any, Any]) -> pa.Array:
    """Give places as an Arrow array, without a copy."""
    import numpy as np
    import pyarrow as pa

    data = np.ascontiguousarray(places, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(data), [None, pa.py_buffer(data)])


def one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Give a column as one array."""
    import pyarrow as pa

    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks:
        return pa.concat_arrays(column.chunks)
    return pa.nulls(0, column.type)
