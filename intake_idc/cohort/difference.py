"""How a cohort differs between two releases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intake_idc import display

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Difference", "compare"]


@dataclass(frozen=True)
class Difference:
    """How a cohort differs between two releases; every list is sorted."""

    old: int
    """The older release."""
    new: int
    """The newer release."""
    added: tuple[str, ...]
    """SeriesInstanceUIDs that only the newer release has."""
    removed: tuple[str, ...]
    """SeriesInstanceUIDs that only the older release has."""
    revised: tuple[str, ...]
    """SeriesInstanceUIDs that both have, with other bytes (another uuid)."""
    unchanged: int
    """Number of series that are the same bytes in both."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.revised)

    def _items(self) -> list[tuple[str, object]]:
        names = ("added", "removed", "revised")
        counted: list[tuple[str, object]] = [
            (name, f"{len(getattr(self, name)):,}") for name in names
        ]
        return [*counted, ("unchanged", f"{self.unchanged:,}")]

    def __str__(self) -> str:
        return display.pairs(f"From release {self.old} to {self.new}", self._items())

    def _repr_html_(self) -> str:
        return display.pairs_html(
            f"From release {self.old} to {self.new}", self._items()
        )


def compare(
    old: int, before: Mapping[str, str], new: int, after: Mapping[str, str]
) -> Difference:
    """Compare two releases' series: crdc_series_uuid by SeriesInstanceUID."""
    both = before.keys() & after.keys()
    revised = {uid for uid in both if before[uid] != after[uid]}
    return Difference(
        old,
        new,
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        revised=tuple(sorted(revised)),
        unchanged=len(both) - len(revised),
    )
