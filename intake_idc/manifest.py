"""The manifest: rows of one release at series level, and where they came from.

A manifest is a value. It is columns (an Arrow table), it never changes, it
travels as Arrow IPC, and two manifests with the same rows, release and order
have the same digest wherever they were made.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc import display
from intake_idc.arrow import integers
from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

__all__ = [
    "GCS_BUCKETS",
    "OBJECTS",
    "READING_COLUMNS",
    "REQUIRED_COLUMNS",
    "Manifest",
    "Part",
    "gcs_bucket",
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
)
"""What a worker needs to list, read and check a series; the rest stays behind."""

OBJECTS = "objects"
"""Column with the objects of each row, where they are known without a listing: a list
of uuid and MD5, 16 bytes each, and size in bytes, in the order of the keys."""

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
        where a series was split.
    idc_version : int
        The release that the rows belong to.
    origin : str
        Where the rows came from, in words: a filter, a file.

    Raises
    ------
    RequestError
        A required column is missing or holds nulls.
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
        """Bytes in all series, as far as the index says; unknown ones count 0."""
        return sum(_bytes(part) for part in self.parts())

    @cached_property
    def instances(self) -> int:
        """Instances in all series, as far as the index says."""
        return sum(_count(part) or 0 for part in self.parts())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over release, series and instance ranges, in order, as hex.

        Attributes such as a description do not enter: the digest says which
        bytes are meant, not how today's index describes them.
        """
        sha = hashlib.sha256(f"intake-idc manifest 1\n{self.idc_version}\n".encode())
        if not {"first_instance", "last_instance"} & set(self.columns):
            # The same lines, made at once.
            sha.update("".join(f"{uuid}\t0\t\n" for uuid in self.uuids).encode())
            return sha.hexdigest()
        bounds = [
            self.table.column(name).to_pylist()
            if name in self.table.column_names
            else itertools.repeat(None, len(self))
            for name in ("first_instance", "last_instance")
        ]
        for uuid, first, last in zip(self.uuids, *bounds, strict=True):
            end = "" if last is None else last
            sha.update(f"{uuid}\t{first or 0}\t{end}\n".encode())
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
            if name in self.table.column_names
        }
        objects = (
            self.table.column(OBJECTS) if OBJECTS in self.table.column_names else None
        )
        for i in range(len(self)):
            row = {name: values[i] for name, values in columns.items()}
            if objects is not None:
                row[OBJECTS] = objects[i].values  # noqa: PD011  (Arrow)
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
        lean = self.strip()
        # One chunk a column: looking for a row in many chunks takes longer each time.
        lean = Manifest(lean.table.combine_chunks(), self.idc_version, self.origin)
        groups: list[list[_Run]] = [[]]
        held_bytes = held_instances = 0
        for row, part in enumerate(lean.parts()):
            for run in _runs(row, part, max_bytes, max_instances):
                full = groups[-1] and (
                    held_bytes + run.size > max_bytes
                    or held_instances + run.instances > max_instances
                )
                if full:
                    groups.append([])
                    held_bytes = held_instances = 0
                groups[-1].append(run)
                held_bytes += run.size
                held_instances += run.instances
        return [_piece(lean, group) for group in groups if group]


def _from_ipc(data: bytes, idc_version: int, origin: str) -> Manifest:
    import pyarrow as pa

    return Manifest(pa.ipc.open_stream(data).read_all(), idc_version, origin)


class _Run(NamedTuple):
    """A run of a series' instances, or the whole of it."""

    row: int
    """Position of the series in the manifest."""
    first: int
    """First instance."""
    last: int | None
    """One past the last instance; None means the end of the series."""
    size: int
    """Bytes, about."""
    instances: int
    """Instances; 1 where the index does not say."""


def _piece(manifest: Manifest, group: list[_Run]) -> Manifest:
    """Give neighbouring runs as a manifest of their own.

    The rows are a slice, which shares the memory of its parent, and pickles as Arrow
    IPC, which writes no more than the slice: by Arrow's own pickle 100 rows of
    release 25 take 155 MB.
    """
    table = manifest.table.slice(group[0].row, group[-1].row - group[0].row + 1)
    if any(run.first or run.last is not None for run in group):
        if table.num_rows != len(group):
            # Several runs of one series in one piece: a row for each.
            table = manifest.table.take([run.row for run in group])
        table = _with_own_objects(table, group)
        firsts = integers([run.first for run in group])
        lasts = integers([run.last for run in group])
        for name, column in (("first_instance", firsts), ("last_instance", lasts)):
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, column)
    return Manifest(table, manifest.idc_version, manifest.origin)


def _with_own_objects(table: pa.Table, group: list[_Run]) -> pa.Table:
    """Give the rows of runs the objects of the runs, not of their whole series."""
    if OBJECTS not in table.column_names:
        return table
    import pyarrow as pa

    began = [0] * len(group)
    if "first_instance" in table.column_names:
        began = [first or 0 for first in table.column("first_instance").to_pylist()]
    lists, column = [], table.column(OBJECTS)
    for i, run in enumerate(group):
        stop = None if run.last is None else run.last - began[i]
        own = column[i].values  # noqa: PD011  (Arrow)
        lists.append(own[run.first - began[i] : stop])
    offsets = [0, *itertools.accumulate(map(len, lists))]
    cut = pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.concat_arrays(lists)
    )
    return table.set_column(table.column_names.index(OBJECTS), OBJECTS, cut)


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
    )


def _count(part: Part) -> int | None:
    """Number of instances in a part, or None where the index does not say."""
    if part.last_instance is not None:
        return part.last_instance - part.first_instance
    if part.instanceCount is None:
        return None
    return part.instanceCount - part.first_instance


def _bytes(part: Part) -> int:
    """Bytes in a part; a run of instances gets its share of the series."""
    if not part.size:
        return 0
    if not part.instanceCount:
        return part.size
    return round(part.size * (_count(part) or 0) / part.instanceCount)


def _runs(row: int, part: Part, max_bytes: int, max_instances: int) -> Iterator[_Run]:
    """Cut one part into runs of equal length, so that no piece is a crumb."""
    size, count = part.size or 0, _count(part)
    if not count:
        yield _Run(row, part.first_instance, part.last_instance, size, 1)
        return
    per_instance = size / (part.instanceCount or count)
    step = max_instances
    if per_instance:
        step = min(step, max(1, int(max_bytes // per_instance)))
    if count <= step:
        whole = round(per_instance * count)
        yield _Run(row, part.first_instance, part.last_instance, whole, count)
        return
    pieces = -(-count // step)
    edges = [part.first_instance + count * i // pieces for i in range(pieces + 1)]
    for first, last in itertools.pairwise(edges):
        yield _Run(row, first, last, round(per_instance * (last - first)), last - first)
