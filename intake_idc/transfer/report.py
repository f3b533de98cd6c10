"""What a copy did, object by object."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from intake_idc import display
from intake_idc.arrow import integers, texts
from intake_idc.files import beside

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from intake_idc.plan import Plan, Row

__all__ = [
    "STATUSES",
    "Hashes",
    "Outcome",
    "Outcomes",
    "Report",
    "Status",
    "Times",
]

Status = Literal["fetched", "replaced", "kept", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
"""Statuses by their number in `Report.statuses`."""
SHOWN = 10
"""Failures that are printed."""
AT_ONCE = 16_384
"""Rows that are Python's own values at once."""


@dataclass(frozen=True)
class Outcome:
    """What became of one object; or of one series that could not be listed."""

    status: Status
    """One of ``fetched``, ``replaced``, ``kept`` (it was there), or ``failed``."""
    path: Path | str
    """Where it lies, or would; in a store its URL."""
    url: str
    """Where it came from."""
    size: int
    """Bytes."""
    reason: str = ""
    """Why it failed."""
    mirror: str = ""
    """The mirror that served it; empty where none did."""
    hash: str = ""
    """What was computed of its bytes, as ``md5:<hex>`` or ``crc32c:<hex>``."""
    retries: int = 0
    """Requests that were made again for it."""

    @property
    def why(self) -> str:
        """Its URL, and why it failed."""
        if self.reason.startswith(self.url):
            return self.reason
        return f"{self.url}: {self.reason}"


class Times(Mapping[int, int]):
    """A time in nanoseconds for each row of a plan that has one: 8 bytes a row."""

    def __init__(self, rows: int) -> None:
        self._values = array("q", bytes(8 * rows))

    def __getitem__(self, row: int) -> int:
        """Give the time of a row."""
        if not 0 <= row < len(self._values) or not self._values[row]:
            raise KeyError(row)
        return self._values[row]

    def __setitem__(self, row: int, value: int) -> None:
        """Set it; 0 is none."""
        self._values[row] = value

    def __iter__(self) -> Iterator[int]:
        return (row for row, value in enumerate(self._values) if value)

    def __len__(self) -> int:
        return len(self._values) - self._values.count(0)


class Hashes(Mapping[int, str]):
    """A hash, as ``md5:<hex>``, for each row of a plan that has one: 16 bytes a row."""

    def __init__(self, rows: int) -> None:
        self._kinds = bytearray(rows)
        self._names = [""]
        self._digests = [bytearray()]

    def __getitem__(self, row: int) -> str:
        """Give the hash of a row."""
        kind = self._kinds[row] if 0 <= row < len(self._kinds) else 0
        if not kind:
            raise KeyError(row)
        held = self._digests[kind]
        width = len(held) // len(self._kinds)
        digest = held[row * width : (row + 1) * width].hex()
        return f"{self._names[kind]}:{digest}"

    def __setitem__(self, row: int, value: str) -> None:
        """Set it."""
        name, _, told = value.partition(":")
        digest = bytes.fromhex(told)
        width = len(digest)
        if name not in self._names:
            self._names.append(name)
            self._digests.append(bytearray(len(self._kinds) * width))
        kind = self._kinds[row] = self._names.index(name)
        self._digests[kind][row * width : (row + 1) * width] = digest

    def __iter__(self) -> Iterator[int]:
        return (row for row, kind in enumerate(self._kinds) if kind)

    def __len__(self) -> int:
        return len(self._kinds) - self._kinds.count(0)


class Outcomes(Sequence[Outcome]):
    """The outcomes of a report, made as they are looked at."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __len__(self) -> int:
        return len(self._report.statuses)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        """Give one outcome, or a list of some."""
        found = range(len(self))[index]
        if not isinstance(found, range):
            found = range(found, found + 1)
            return self._report.outcome(next(self._report.plan.rows_of(found)))
        return list(map(self._report.outcome, self._report.plan.rows_of(found)))

    def __iter__(self) -> Iterator[Outcome]:
        return map(self._report.outcome, self._report.plan.rows())


@dataclass(frozen=True, eq=False)
class Report:
    """What a copy did, object by object."""

    plan: Plan
    """What was to be done."""
    statuses: bytes
    """Place in `STATUSES` of each row of the plan."""
    reasons: Mapping[int, str] = field(default_factory=dict)
    """Why, for each row that failed."""
    mirrors: tuple[str, ...] = ()
    """Names of the mirrors that were asked."""
    served: bytes = b""
    """Place in ``mirrors`` of the one that served each row; 255 where none did."""
    hashes: Mapping[int, str] = field(default_factory=dict)
    """What was computed of the bytes, where that was wanted or known."""
    retries: Mapping[int, int] = field(default_factory=dict)
    """Requests that were made again, for rows where some were."""
    mtimes: Mapping[int, int] = field(default_factory=dict, repr=False)
    """Time of change in nanoseconds of each file that was put there."""
    seconds: float = 0.0
    """Seconds that the copy took, listing left out."""
    notice: Path | str | None = None
    """The notice beside the copy: licences, and whom to cite."""
    deleted: tuple[Path, ...] = ()
    """What an earlier copy had put there and the cohort no longer holds."""

    @property
    def target(self) -> Path | str:
        """The folder; of a store its URL."""
        return self.plan.target

    @property
    def mirror(self) -> str:
        """The mirrors that were asked, by name."""
        return ", ".join(self.mirrors)

    def outcome(self, row: Row) -> Outcome:
        """Give what became of a row of the plan."""
        number = row.row
        at = self.served[number] if self.served else 255
        return Outcome(
            STATUSES[self.statuses[number]],
            self.plan.below(self.plan.path(row) if row.name else ""),
            self.plan.url(row),
            row.size,
            self.reasons.get(number, ""),
            self.mirrors[at] if at < len(self.mirrors) else "",
            self.hashes.get(number, ""),
            self.retries.get(number, 0),
        )

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """One for each planned object, in the order of the plan."""
        return Outcomes(self)

    @property
    def paths(self) -> list[Path | str]:
        """Path of every object that is there, in the order of the plan."""
        failed = STATUSES.index("failed")
        return [
            self.plan.below(self.plan.path(row))
            for row in self.plan.rows()
            if self.statuses[row.row] != failed
        ]

    @property
    def failures(self) -> list[Outcome]:
        """Objects that are not there."""
        return self.first_failures(len(self.reasons))

    def first_failures(self, count: int) -> list[Outcome]:
        """Give the first of the objects that are not there, some at most."""
        rows = sorted(self.reasons)[:count]
        return list(map(self.outcome, self.plan.rows_of(rows)))

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of objects by status."""
        return {name: self.statuses.count(n) for n, name in enumerate(STATUSES)}

    @cached_property
    def fetched_size(self) -> int:
        """Bytes that were fetched."""
        import numpy as np

        codes = np.frombuffer(self.statuses, np.uint8)
        moved = (codes == STATUSES.index("fetched")) | (
            codes == STATUSES.index("replaced")
        )
        return int(self.plan.column("size")[moved].sum())

    @property
    def rate(self) -> float:
        """Bytes a second, over the whole copy; 0 where nothing was fetched."""
        return self.fetched_size / self.seconds if self.seconds else 0.0

    @cached_property
    def by_mirror(self) -> dict[str, int]:
        """Number of objects that each mirror served."""
        return {
            name: self.served.count(number) for number, name in enumerate(self.mirrors)
        }

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write one line of JSON for each planned object, whole or not at all.

        Each has ``status``, ``path``, ``url``, ``size``, ``reason``, ``mirror``,
        ``hash`` and ``retries``, as `Outcome` has them.
        """
        with (
            beside(Path(path)) as part,
            part.open("x", encoding="utf-8") as file,
        ):
            for outcome in self.outcomes:
                row = {**vars(outcome), "path": str(outcome.path)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def to_table(self) -> pa.Table:
        """Give one row for each planned object, with the columns of `Outcome`."""
        import pyarrow as pa

        outcomes = iter(self.outcomes)
        # One with no row says what columns there are.
        tables = [_table_of([])]
        while some := list(islice(outcomes, AT_ONCE)):
            tables.append(_table_of(some))
        return pa.concat_tables(tables)

    def _items(self) -> list[tuple[str, object]]:
        items: list[tuple[str, object]] = [
            (status, f"{count:,}") for status, count in self.counts.items()
        ]
        fetched = display.bytes_text(self.fetched_size)
        if self.seconds and self.fetched_size:
            rate = display.bytes_text(self.rate)
            fetched += f" in {self.seconds:.1f} s ({rate}/s)"
        by = self.by_mirror
        several = len([count for count in by.values() if count]) > 1
        retries = sum(self.retries.values())
        return [
            *items,
            ("bytes fetched", fetched),
            *(
                [("mirrors", ", ".join(f"{n} ({by[n]:,})" for n in by))]
                if several
                else [("mirror", self.mirror)]
            ),
            *([("requests again", f"{retries:,}")] if retries else []),
            *([("deleted", f"{len(self.deleted):,}")] if self.deleted else []),
            *([("notice", PurePath(self.notice).name)] if self.notice else []),
        ]

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {many:,}" for name, many in self.counts.items())
        return f"<Report of a copy to {self.target}: {counts}>"

    def __str__(self) -> str:
        lines = [display.pairs(f"Copied to {self.target}", self._items())]
        failures = self.first_failures(SHOWN)
        lines += [f"  failed: {outcome.why}" for outcome in failures]
        more = len(self.reasons) - SHOWN
        return "\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])])

    def _repr_html_(self) -> str:
        text = display.pairs_html(f"Copied to {self.target}", self._items())
        if not self.reasons:
            return text
        failures = self.first_failures(SHOWN)
        rows = [(outcome.url, outcome.reason) for outcome in failures]
        more = len(self.reasons) - len(rows)
        remark = f"and {more:,} more" if more else ""
        return text + display.rows_html("Failed", ["url", "reason"], rows, remark)


def _table_of(outcomes: Sequence[Outcome]) -> pa.Table:
    import pyarrow as pa

    def column(name: str) -> Any:
        values = [getattr(outcome, name) for outcome in outcomes]
        if name in ("size", "retries"):
            return integers(values)
        return texts(list(map(str, values)) if name == "path" else values)

    return pa.table({own.name: column(own.name) for own in fields(Outcome)})
