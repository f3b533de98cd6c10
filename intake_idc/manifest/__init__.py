"""The manifest: rows of one release at series level, and where they came from.

A manifest is a value. It is columns (an Arrow table), it never changes, it
travels as Arrow IPC, and two manifests with the same rows, release and order
have the same digest wherever they were made.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake_idc import display
from intake_idc.arrow import packed_bytes
from intake_idc.errors import RequestError
from intake_idc.manifest.cutting import cut
from intake_idc.manifest.subsets import (
    OBJECTS,
    ONLY,
    check_subsets,
    subset_column,
    with_packed_subsets,
    with_readable_subsets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

__all__ = [
    "GCS_BUCKETS",
    "OBJECTS",
    "ONLY",
    "READING_COLUMNS",
    "REQUIRED_COLUMNS",
    "Manifest",
    "Part",
    "gcs_bucket",
    "subset_column",
    "with_packed_subsets",
    "with_readable_subsets",
]

GCS_BUCKETS = {
    "idc-open-data": "idc-open-data",
    "idc-open-data-two": "idc-open-idc1",
    "idc-open-data-cr": "idc-open-cr",
}
"""AWS bucket, and the Google bucket that holds the same objects."""


def gcs_bucket(aws_bucket: str) -> str:
    """Give the Google bucket of an AWS bucket; others have one name in both."""
    return GCS_BUCKETS.get(aws_bucket, aws_bucket)


REQUIRED_COLUMNS = ("crdc_series_uuid", "aws_bucket")
"""What names a series in every mirror."""

READING_COLUMNS = (
    "crdc_series_uuid",
    "aws_bucket",
    "instanceCount",
    "series_size_MB",
    "size_tolerance",
    "first_instance",
    "last_instance",
    ONLY,
)
"""What a worker needs to list, read and check a series; the rest stays behind."""

MEGABYTE = 1_000_000
"""IDC's megabyte, in bytes."""


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


@dataclass(frozen=True, eq=False)
class Manifest:
    """Rows of one release, at series level, in a fixed order.

    Parameters
    ----------
    table : pyarrow.Table
        One row for each series. ``crdc_series_uuid`` and ``aws_bucket`` must be
        there; every other column keeps its published name. ``first_instance``
        and ``last_instance`` (half-open, counted in key order) are there only
        where a series was split, and `ONLY` where not all objects of some series are
        meant.
    idc_version : int
        The release that the rows belong to.
    origin : str
        Where the rows came from, in words: a filter, a file.

    Raises
    ------
    RequestError
        A required column is missing or holds nulls, or `ONLY` is not what it must be.
    """

    table: pa.Table
    idc_version: int
    origin: str = ""

    def __post_init__(self) -> None:
        for name in REQUIRED_COLUMNS:
            if name not in self.table.column_names:
                msg = (
                    f"a manifest needs the column {name!r}; "
                    f"got {', '.join(self.table.column_names) or 'no column'}"
                )
                raise RequestError(msg, column=name)
            if self.table.column(name).null_count:
                msg = f"a manifest needs {name!r} in every row; some are null"
                raise RequestError(msg, column=name)
        if ONLY in self.table.column_names:
            for chunk in self.table.column(ONLY).chunks:
                check_subsets(chunk)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.table.column_names)

    @property
    def df(self) -> pd.DataFrame:
        """The rows as a pandas data frame."""
        return self.table.to_pandas()

    @cached_property
    def uuids(self) -> list[str]:
        """``crdc_series_uuid`` of each row, in order."""
        return list(self.table.column("crdc_series_uuid").to_pylist())

    @cached_property
    def size(self) -> int:
        """Bytes in all series, as far as the index says; unknown ones count 0.

        Of some instances of a series it is their share, which is about right; where
        `OBJECTS` are known, it is exact.
        """
        return sum(part.meant_size for part in self.parts())

    @cached_property
    def instances(self) -> int:
        """Instances in all series, as far as the index says."""
        return sum(part.instances or 0 for part in self.parts())

    @property
    def has_subsets(self) -> bool:
        """Whether of some series not all instances are meant."""
        if ONLY not in self.table.column_names:
            return False
        return bool(self.table.column(ONLY).null_count < len(self))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over release, series and which of their instances, as hex.

        Attributes such as a description do not enter: the digest says which
        bytes are meant, not how today's index describes them.
        """
        sha = hashlib.sha256(f"intake-idc manifest 1\n{self.idc_version}\n".encode())
        bounded = {"first_instance", "last_instance"} & set(self.columns)
        if not bounded and not self.has_subsets:
            # The same lines, made at once.
            sha.update("".join(f"{uuid}\t0\t\n" for uuid in self.uuids).encode())
            return sha.hexdigest()
        for part in self.strip().parts():
            first, last = part.first_instance, part.last_instance
            meant = ""
            if part.only is not None:
                # A run of a subset is the subset that it holds.
                own = part.only[first:last]
                meant = "\t" + hashlib.sha256(packed_bytes(own)).hexdigest()
                first, last = 0, None
            end = "" if last is None else last
            sha.update(f"{part.crdc_series_uuid}\t{first}\t{end}{meant}\n".encode())
        return sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Manifest):
            return NotImplemented
        return self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "intake_idc.Manifest", self.digest

    def __reduce__(self) -> tuple[Any, ...]:
        import pyarrow as pa

        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return _from_ipc, (sink.getvalue(), self.idc_version, self.origin)

    def __repr__(self) -> str:
        size = display.bytes_text(self.size)
        series = display.count_text(len(self), "series")
        return f"<Manifest: {series}, {size}, IDC release {self.idc_version}>"

    def parts(self) -> Iterator[Part]:
        """Give each row as the plain values that reading it needs."""
        columns = {
            name: self.table.column(name).to_pylist()
            for name in (*READING_COLUMNS, "row_source")
            if name in self.table.column_names and name != ONLY
        }
        nested = {
            name: self.table.column(name)
            for name in (OBJECTS, ONLY)
            if name in self.table.column_names
        }
        for i in range(len(self)):
            row = {name: values[i] for name, values in columns.items()}
            for name, lists in nested.items():
                row[name] = lists[i].values  # noqa: PD011  (Arrow)
            yield _part(row)

    def strip(self) -> Manifest:
        """Give the same rows with only the columns that reading needs."""
        keep = [
            name
            for name in (*READING_COLUMNS, "row_source", OBJECTS)
            if name in self.table.column_names
        ]
        return Manifest(self.table.select(keep), self.idc_version, self.origin)

    def take(self, indices: Sequence[int]) -> Manifest:
        """Give the rows at these positions, in this order."""
        return Manifest(self.table.take(indices), self.idc_version, self.origin)

    def split(
        self, max_bytes: int = 128 * 1024**2, max_instances: int = 512
    ) -> list[Manifest]:
        """Cut into small manifests of about equal weight, in the same order.

        Whole small series are put together; a series that is larger than a
        partition is cut into runs of instances, where the index knows how many
        it has. Every instance is in exactly one piece.

        Parameters
        ----------
        max_bytes : int
            Bytes a piece may hold, as the index gives them.
        max_instances : int
            Instances a piece may hold.

        Raises
        ------
        RequestError
            A bound is not positive.
        """
        if max_bytes < 1 or max_instances < 1:
            msg = (
                "a partition needs room for one byte and one instance; "
                f"got max_bytes={max_bytes}, max_instances={max_instances}"
            )
            raise RequestError(msg)
        # One chunk a column: looking for a row in many chunks takes longer each time.
        rows = self.strip().table.combine_chunks()
        lean = Manifest(rows, self.idc_version, self.origin)
        pieces = cut(rows, lean.parts(), max_bytes, max_instances)
        return [Manifest(piece, self.idc_version, self.origin) for piece in pieces]


def _from_ipc(data: bytes, idc_version: int, origin: str) -> Manifest:
    import pyarrow as pa

    return Manifest(pa.ipc.open_stream(data).read_all(), idc_version, origin)


def _part(row: Mapping[str, Any]) -> Part:
    megabytes = row.get("series_size_MB")
    tolerance = row.get("size_tolerance")
    if tolerance is None:
        tolerance = 0 if row.get("row_source") == "idc_index" else 5_000
    return Part(
        crdc_series_uuid=row["crdc_series_uuid"],
        aws_bucket=row["aws_bucket"],
        instanceCount=row.get("instanceCount"),
        size=None if megabytes is None else round(megabytes * MEGABYTE),
        size_tolerance=tolerance,
        first_instance=row.get("first_instance") or 0,
        last_instance=row.get("last_instance"),
        objects=row.get(OBJECTS),
        only=row.get(ONLY),
    )
