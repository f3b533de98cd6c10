"""One series of a manifest, or a run of its instances, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from intake_idc.manifest.subsets import OBJECTS, ONLY

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

__all__ = ["MEGABYTE", "ROUNDED", "Part", "part_of", "size_in_bytes"]

MEGABYTE = 1_000_000
"""IDC's megabyte, in bytes."""
ROUNDED = 5_000
"""Bytes by which a size may be off that is published in megabytes with two digits."""


@dataclass(frozen=True)
class Part:
    """One series of a manifest, or a run of its instances, as plain values."""

    crdc_series_uuid: str
    """Name of the series' folder in every bucket."""
    aws_bucket: str
    """The AWS bucket of the series; the other mirrors follow from it."""
    instanceCount: int | None = None  # noqa: N815  (published spelling)
    """Instances in the whole series, where it is known."""
    size: int | None = None
    """Bytes in the whole series, where they are known."""
    size_tolerance: int = 0
    """Bytes by which ``size`` may be off: 0 where the index is exact."""
    first_instance: int = 0
    """First instance, counted in the order of the keys."""
    last_instance: int | None = None
    """One past the last instance; None means the end of the series."""
    objects: pa.StructArray | None = field(default=None, compare=False, repr=False)
    """Its objects, packed, where they are known without a listing; see `OBJECTS`."""
    only: pa.FixedSizeBinaryArray | None = field(default=None, hash=False, repr=False)
    """The objects that are meant, where not all of the series are; see `ONLY`. First
    and last instance then count among these."""

    @property
    def instances(self) -> int | None:
        """Number of instances that are meant; None where the index does not say."""
        last = self.last_instance
        if self.only is not None:
            return len(self.only[self.first_instance : last])
        if last is None:
            last = self.instanceCount
        return None if last is None else last - self.first_instance

    @property
    def meant_size(self) -> int:
        """Bytes that are meant: a run, or a subset, gets its share of the series.

        Of a subset whose objects are known they are exact. Of a subset of a series
        whose count the index does not know they are those of the series. What has no
        known size counts 0.
        """
        objects = self.meant_objects()
        if self.only is not None and objects is not None:
            import pyarrow.compute as pc

            return int(pc.sum(objects.field("size")).as_py() or 0)
        if not self.size or not self.instanceCount:
            return self.size or 0
        return round(self.size * (self.instances or 0) / self.instanceCount)

    def meant_objects(self) -> pa.StructArray | None:
        """Give the objects that are known, those that are not meant left out."""
        if self.only is None or self.objects is None:
            return self.objects
        import pyarrow.compute as pc

        meant = self.only[self.first_instance : self.last_instance]
        return self.objects.filter(
            pc.is_in(self.objects.field("uuid"), value_set=meant)
        )

    def unlike(self, count: int, size: int) -> str | None:
        """Say how a whole series of some objects and bytes differs from the index.

        None where it does not, as far as the index knows: count and bytes are exact
        there, but for the tolerance of a rounded size.
        """
        off = 0 if self.size is None else abs(size - self.size)
        if self.instanceCount in (None, count) and off <= self.size_tolerance:
            return None
        said = "?" if self.instanceCount is None else self.instanceCount
        return f"{count} objects of {size} bytes; the index says {said} of {self.size}"


def part_of(row: Mapping[str, Any]) -> Part:
    """Make a part of the columns of a row that reading needs."""
    megabytes = row.get("series_size_MB")
    tolerance = row.get("size_tolerance")
    if tolerance is None:
        tolerance = 0 if row.get("row_source") == "idc_index" else ROUNDED
    return Part(
        crdc_series_uuid=row["crdc_series_uuid"],
        aws_bucket=row["aws_bucket"],
        instanceCount=row.get("instanceCount"),
        size=size_in_bytes(megabytes),
        size_tolerance=tolerance,
        first_instance=row.get("first_instance") or 0,
        last_instance=row.get("last_instance"),
        objects=row.get(OBJECTS),
        only=row.get(ONLY),
    )


def size_in_bytes(megabytes: float | None) -> int | None:
    """Give what the index publishes in megabytes; exact for what it holds now."""
    return None if megabytes is None else round(megabytes * MEGABYTE)
