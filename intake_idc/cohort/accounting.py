"""The rows of a manifest while they are resolved: what was found, and what was not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import bools, numbers, numpy_of, one
from intake_idc.formats import Listing, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import pyarrow as pa

__all__ = ["Rows", "gathered", "narrowed", "rest"]

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

    @cached_property
    def lines(self) -> np.ndarray[Any, Any]:
        """Number of each row in its part."""
        return numpy_of(one(self.names.column("line")))

    def has(self, name: str) -> np.ndarray[Any, Any]:
        """Say which rows have a name."""
        import numpy as np

        if name not in self.names.column_names:
            return np.zeros(len(self), bool)
        column = self.names.column(name)
        if not column.null_count:
            return np.ones(len(self), bool)
        return bools(one(column.is_valid()))

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

    def repeat(
        self,
        again: np.ndarray[Any, Any],
        first: np.ndarray[Any, Any],
        wholly: np.ndarray[Any, Any] | None = None,
    ) -> None:
        """Remark rows that name what earlier rows do, each pair of rows once.

        ``wholly`` says of each whether nothing else is taken from the row.
        """
        import numpy as np

        _, kept = np.unique(again * len(self) + first, return_index=True)
        for place in kept.tolist():
            row, before = int(again[place]), int(first[place])
            if row == before:
                continue
            where = f"line {self.lines[before]}"
            if self.part[row] != self.part[before]:
                where += f" of {self.listings[self.part[before]].part}"
            part = "" if wholly is None or wholly[place] else "in part "
            self.remark(row, f"{part}repeats {where}; taken once")

    def accounted(self) -> list[Problem]:
        """Give every problem, those of reading too, by file and line."""
        wanted: dict[int, list[int]] = {}
        at = [row for row, _, _ in self.problems]
        where = list(zip(self.part[at].tolist(), self.lines[at].tolist(), strict=True))
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
    strange = np.flatnonzero(rows.has("bucket"))
    if len(strange):
        buckets = rows.column("bucket", strange).to_pylist()
        reasons = {
            name: f"bucket {name!r} is none of IDC's; the series is found by its uuid"
            for name in set(buckets)
        }
        for row, bucket in zip(strange.tolist(), buckets, strict=True):
            rows.remark(row, reasons[bucket])
    return rows


WIDER = ("StudyInstanceUID", "crdc_study_uuid", "PatientID", "collection_id")
"""Names that do not count in a row that has a narrower one."""


def narrowed(listing: Listing) -> Listing:
    """Give a listing without the names that are not looked at in any of its rows.

    A portal's table names patient, study and series: a million rows of it are small
    when only the series are kept.
    """
    names = listing.names
    every = any(
        name in names.column_names and not names.column(name).null_count
        for name in ("crdc_series_uuid", "crdc_instance_uuid", "SeriesInstanceUID")
    )
    wide = [name for name in WIDER if name in names.column_names]
    if not every or not wide:
        return listing
    return replace(listing, names=names.drop_columns(wide))


def rest(count: int, taken: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give the places below ``count`` that are not among these."""
    import numpy as np

    left = np.ones(count, bool)
    left[taken] = False
    return np.flatnonzero(left)
