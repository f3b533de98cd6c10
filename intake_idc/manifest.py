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
from intake_idc.arrow import (
    binary,
    integers,
    unpack_uuids,
    uuid_bytes,
    uuid_halves,
    uuid_lists,
)
from intake_idc.errors import RequestError

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

ONLY = "only"
"""Column with the objects that are meant of a series, where not all are: a list of
``crdc_instance_uuid``, packed into 16 bytes each, sorted, each once. Null: all."""

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
                _check_subsets(chunk)

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
                meant = "\t" + hashlib.sha256(uuid_bytes(own)).hexdigest()
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
        table, group = _with_own_subsets(table, group)
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
    subsets = table.column(ONLY) if ONLY in table.column_names else None
    for i, run in enumerate(group):
        own = column[i].values  # noqa: PD011  (Arrow)
        if subsets is not None and subsets[i].is_valid:
            import pyarrow.compute as pc

            meant = subsets[i].values[run.first : run.last]  # noqa: PD011  (Arrow)
            lists.append(own.filter(pc.is_in(own.field("uuid"), value_set=meant)))
            continue
        stop = None if run.last is None else run.last - began[i]
        lists.append(own[run.first - began[i] : stop])
    offsets = [0, *itertools.accumulate(map(len, lists))]
    cut = pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.concat_arrays(lists)
    )
    return table.set_column(table.column_names.index(OBJECTS), OBJECTS, cut)


def _with_own_subsets(
    table: pa.Table, group: list[_Run]
) -> tuple[pa.Table, list[_Run]]:
    """Make the runs of subsets subsets themselves, which are whole."""
    if ONLY not in table.column_names:
        return table, group
    lists, runs = [], []
    for run, subset in zip(group, table.column(ONLY), strict=True):
        own = subset.values  # noqa: PD011  (Arrow)
        lists.append(None if own is None else own[run.first : run.last])
        runs.append(run if own is None else run._replace(first=0, last=None))
    place = table.column_names.index(ONLY)
    return table.set_column(place, ONLY, _subset_lists(lists)), runs


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


def _runs(row: int, part: Part, max_bytes: int, max_instances: int) -> Iterator[_Run]:
    """Cut one part into runs of equal length, so that no piece is a crumb."""
    size, count = part.size or 0, part.instances
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


# Subsets.


def subset_column(rows: Sequence[int], uuids: pa.Array, count: int) -> pa.Array:
    """Give the column `ONLY` of a manifest, from its instances in any order.

    Parameters
    ----------
    rows : sequence of int
        Row of the manifest, from 0, that each instance belongs to.
    uuids : pyarrow.FixedSizeBinaryArray
        Packed ``crdc_instance_uuid`` of each; one that comes twice is taken once.
    count : int
        Rows of the manifest. Those of which no instance is given are null: all of
        the series is meant.
    """
    import numpy as np

    places = np.asarray(rows, np.int64)
    high, low = uuid_halves(uuids)
    order = np.lexsort((low, high, places))
    places, high, low = places[order], high[order], low[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (
        (places[1:] != places[:-1]) | (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    )
    kept = np.stack([high[fresh], low[fresh]], axis=1).astype(">u8")
    lengths = np.bincount(places[fresh], minlength=count)
    return uuid_lists(binary(kept.view(np.uint8).reshape(-1, 16)), lengths)


def with_packed_subsets(table: pa.Table) -> pa.Table:
    """Give a table whose `ONLY`, if it has one, is packed as a manifest's is.

    DuckDB knows bytes of any length only, and gives them so.
    """
    if ONLY not in table.column_names:
        return table
    import pyarrow as pa

    column = table.column(ONLY)
    kind = pa.large_list(pa.binary(16))
    if column.type == kind:
        return table
    return table.set_column(table.column_names.index(ONLY), ONLY, column.cast(kind))


def with_readable_subsets(table: pa.Table) -> pa.Table:
    """Give a table whose `ONLY`, if it has one, is lists of texts."""
    if ONLY not in table.column_names:
        return table
    import pyarrow as pa

    chunks = []
    for lists in with_packed_subsets(table).column(ONLY).chunks:
        # The offsets of a slice count from the start of what it is a slice of.
        whole = pa.concat_arrays([lists, lists.slice(0, 0)])
        values = unpack_uuids(whole.values)
        mask = whole.is_null() if whole.null_count else None
        own = pa.LargeListArray.from_arrays(whole.offsets, values, mask=mask)
        chunks.append(own)
    column = pa.chunked_array(chunks, pa.large_list(pa.string()))
    return table.set_column(table.column_names.index(ONLY), ONLY, column)


def _check_subsets(lists: pa.Array) -> None:
    """Refuse subsets that are not lists of sorted, packed uuids, each once.

    Raises
    ------
    RequestError
        They are not.
    """
    import numpy as np
    import pyarrow as pa

    kind = lists.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not listed or kind.value_type != pa.binary(16):
        msg = f"a manifest's {ONLY!r} holds lists of packed uuids; got {kind}"
        raise RequestError(msg, column=ONLY)
    there = lists.drop_null()
    lengths = np.diff(there.offsets.to_numpy())
    values = there.flatten()
    high, low = uuid_halves(values)
    msg = (
        f"a manifest's {ONLY!r} names one instance or more in each list, sorted and "
        "each once, and is null where all are meant; see subset_column"
    )
    if values.null_count or not lengths.all():
        raise RequestError(msg, column=ONLY)
    rising = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
    # The first of a list stands after the last of another.
    rising[(np.cumsum(lengths) - 1)[:-1]] = True
    if not rising.all():
        raise RequestError(msg, column=ONLY)


def _subset_lists(lists: Sequence[pa.Array | None]) -> pa.Array:
    """Give a column of lists of packed uuids; None is null."""
    import numpy as np
    import pyarrow as pa

    there = [own for own in lists if own is not None]
    values = pa.concat_arrays(there) if there else pa.nulls(0, pa.binary(16))
    lengths = np.array([0 if own is None else len(own) for own in lists], np.int64)
    return uuid_lists(values, lengths)
