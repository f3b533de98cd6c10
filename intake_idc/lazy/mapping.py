"""Mappings by SeriesInstanceUID, whose values are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from intake_idc.manifest import Manifest
    from intake_idc.storage import Mirror

__all__ = ["BySeries"]

Made_co = TypeVar("Made_co", covariant=True)


@dataclass(frozen=True, eq=False, repr=False)
class BySeries(Mapping[str, Made_co]):
    """One value for each series, by SeriesInstanceUID, in order."""

    manifest: Manifest
    """The series."""
    mirror: Mirror
    """Where they are read."""

    @abstractmethod
    def _made(self, uid: str, manifest: Manifest) -> Made_co:
        """Make the value of one series, whose manifest has one row."""

    @cached_property
    def _rows(self) -> dict[str, int]:
        called = type(self).__name__.lower()
        if "SeriesInstanceUID" not in self.manifest.columns:
            msg = f"{called} are named by SeriesInstanceUID, which this manifest lacks"
            raise RequestError(msg, column="SeriesInstanceUID")
        uids = self.manifest.table.column("SeriesInstanceUID").to_pylist()
        rows = {uid: row for row, uid in enumerate(uids)}
        if len(rows) < len(uids):
            msg = f"{len(uids)} series have {len(rows)} SeriesInstanceUIDs between them"
            raise RequestError(msg, column="SeriesInstanceUID")
        return rows

    # A mapping would compare its values, and read all of them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, SeriesInstanceUID: str) -> Made_co:  # noqa: N803
        row = self._rows[SeriesInstanceUID]
        return self._made(SeriesInstanceUID, self.manifest.take([row]))

    def __contains__(self, uid: object) -> bool:
        return uid in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self):,} series>"
