"""What a copy did, object by object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from intake_idc import display

if TYPE_CHECKING:
    from intake_idc.plan import Plan

__all__ = ["STATUSES", "Outcome", "Outcomes", "Report", "Status", "as_rows"]

Status = Literal["fetched", "replaced", "kept", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
"""Statuses by their number in `Report.statuses`."""


@dataclass(frozen=True)
class Outcome:
    """What became of one object; or of one series that could not be listed."""

    status: Status
    """One of ``fetched``, ``replaced``, ``kept`` (it was there), or ``failed``."""
    path: Path
    """Where it lies, or would."""
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
        if isinstance(found, range):
            return [self[row] for row in found]
        return self._report.outcome(next(self._report.plan.rows(found, found + 1)))

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
    notice: Path | None = None
    """The notice beside the copy: licences, and whom to cite."""

    @property
    def target(self) -> Path:
        """The folder."""
        return self.plan.target

    @property
    def mirror(self) -> str:
        """The mirrors that were asked, by name."""
        return ", ".join(self.mirrors)

    def outcome(self, row: Any) -> Outcome:
        """Give what became of a row of the plan."""
        number = row.row
        at = self.served[number] if self.served else 255
        return Outcome(
            STATUSES[self.statuses[number]],
            self.target / (self.plan.path(row) if row.name else ""),
            self.plan.url(row),
            row.size,
            self.reasons.get(number, ""),
            self.mirrors[at] if at < len(self.mirrors) else "",
            self.hashes.get(number, ""),
            self.retries.get(number, 0),
        )

    @property
    def outcomes(self) -> Outcomes:
        """One for each planned object, in the order of the plan."""
        return Outcomes(self)

    @property
    def paths(self) -> list[Path]:
        """Path of every object that is there, in the order of the plan."""
        failed = STATUSES.index("failed")
        return [
            self.target / self.plan.path(row)
            for row in self.plan.rows()
            if self.statuses[row.row] != failed
        ]

    @property
    def failures(self) -> list[Outcome]:
        """Objects that are not there."""
        return [
            self.outcome(next(self.plan.rows(row, row + 1)))
            for row in sorted(self.reasons)
        ]

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

    def _items(self) -> list[tuple[str, object]]:
        items: list[tuple[str, object]] = [
            (status, f"{count:,}") for status, count in self.counts.items()
        ]
        return [
            *items,
            ("bytes fetched", display.bytes_text(self.fetched_size)),
            ("mirror", self.mirror),
            *([("notice", self.notice.name)] if self.notice is not None else []),
        ]

    def __str__(self) -> str:
        lines = [display.pairs(f"Copied to {self.target}", self._items())]
        lines += [f"  failed: {outcome.why}" for outcome in self.failures[:10]]
        more = len(self.reasons) - 10
        return "\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])])

    def _repr_html_(self) -> str:
        return display.pairs_html(f"Copied to {self.target}", self._items())


def as_rows(report: Report) -> list[dict[str, Any]]:
    """Give a report as plain rows, for JSON lines or a data frame."""
    return [
        {
            "status": outcome.status,
            "path": str(outcome.path),
            "url": outcome.url,
            "size": outcome.size,
            "reason": outcome.reason,
            "mirror": outcome.mirror,
            "hash": outcome.hash,
            "retries": outcome.retries,
        }
        for outcome in report.outcomes
    ]
