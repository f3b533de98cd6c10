"""The manifest: rows of one release at series level, and where they came from.

A manifest is a value. It is columns (an Arrow table), it never changes, it
travels as Arrow IPC, and two manifests with the same rows, release and order
have the same digest wherever they were made.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake_idc import display
from intake_idc.arrow import packed_bytes
from intake_idc.errors import RequestError
from intake_idc.manifest.cutting import Weight, cut, group_runs
from intake_idc.manifest.packing import Packed, Piece
from intake_idc.manifest.parts import MEGABYTE, ROUNDED, Part, part_of, size_in_bytes
from intake_idc.manifest.subsets import (
    OBJECTS,
    ONLY,
    check_subsets,
    subset_column,
    with_packed_subsets,
    with_readable_subsets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import pyarrow as pa

__all__ = [
    "GCS_BUCKETS",
    "MEGABYTE",
    "OBJECTS",
    "ONLY",
    "READING_COLUMNS",
    "REQUIRED_COLUMNS",
    "Manifest",
    "Part",
    "Piece",
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

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        # Beside the bytes that are meant, what they are cut, found and checked by.
        buckets = self.table.column("aws_bucket").to_pylist()
        told = repr((buckets, *self._numbers, OBJECTS in self.columns))
        return "intake_idc.Manifest", self.digest, _sha256(told)

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
            yield part_of(row)

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
        # One chunk a column: looking for a row in many chunks takes longer each time.
        lean = self.strip().table.combine_chunks()
        groups = group_runs(self._weights(), max_bytes, max_instances)
        return [
            Manifest(cut(lean, group), self.idc_version, self.origin)
            for group in groups
        ]

    def pieces(
        self,
        max_bytes: int,
        max_instances: int,
        *,
        most: int | None = None,
        whole_series: bool = False,
    ) -> list[Piece | Manifest]:
        """Cut as `split` does, into values that are small where they travel.

        A piece gives the same parts as the manifest that `split` would give. Rows
        that carry subsets or known objects come as manifests.

        Parameters
        ----------
        max_bytes, max_instances : int
            What a piece may hold.
        most : int, optional
            Pieces that there may be, at least 1; the bounds grow until there are no
            more.
        whole_series : bool
            A series is never cut, and one that is larger is a piece of its own.

        Raises
        ------
        RequestError
            A bound is not positive.
        """
        weights = self._weights()
        factor = 1
        if most is not None:
            # Pieces of these bounds would be at least so many times too many.
            held_bytes = sum(weight.size for weight in weights)
            held_instances = sum(weight.instances or 1 for weight in weights)
            room = max_bytes * most, max_instances * most
            factor = max(1, held_bytes // room[0], held_instances // room[1])
        while True:
            bounds = max_bytes * factor, max_instances * factor
            groups = group_runs(weights, *bounds, whole_series=whole_series)
            if most is None or len(groups) <= most:
                break
            factor += max(1, factor // 4)
        lean = self.strip().table.combine_chunks()
        if not {OBJECTS, ONLY} & set(lean.column_names):
            try:
                packed = Packed(lean, *self._numbers)
            except ValueError:
                # Names that are no uuids travel as texts.
                pass
            else:
                return [packed.piece(group) for group in groups]
        return [
            Manifest(cut(lean, group), self.idc_version, self.origin)
            for group in groups
        ]

    @cached_property
    def _numbers(self) -> tuple[list[int | None], list[int | None], list[int]]:
        """Count, bytes, and tolerance of each whole series, as far as known."""
        columns = self.columns
        nothing: list[Any] = [None] * len(self)

        def listed(name: str) -> list[Any]:
            return self.table.column(name).to_pylist() if name in columns else nothing

        sizes = [size_in_bytes(megabytes) for megabytes in listed("series_size_MB")]
        tolerances = [
            (0 if source == "idc_index" else ROUNDED) if said is None else said
            for said, source in zip(
                listed("size_tolerance"), listed("row_source"), strict=True
            )
        ]
        return listed("instanceCount"), sizes, tolerances

    def _weights(self) -> list[Weight]:
        """What cutting must know of each row."""
        counts, sizes, _ = self._numbers
        columns = self.columns
        if ONLY not in columns and "first_instance" not in columns:
            whole = zip(sizes, counts, strict=True)
            return [Weight(size or 0, count, count) for size, count in whole]
        return [
            Weight(
                part.size or 0,
                part.instanceCount,
                part.instances,
                part.first_instance,
                part.last_instance,
            )
            for part in self.parts()
        ]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _from_ipc(data: bytes, idc_version: int, origin: str) -> Manifest:
    import pyarrow as pa

    return Manifest(pa.ipc.open_stream(data).read_all(), idc_version, origin)
