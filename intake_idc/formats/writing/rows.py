"""What is written: rows of one release, by series or by instance, in pieces."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import texts
from intake_idc.errors import RequestError, UnknownColumn
from intake_idc.manifest import Manifest, gcs_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

__all__ = [
    "COMPUTED",
    "INSTANCE_COLUMNS",
    "OF_OBJECTS",
    "SERIES_COLUMNS",
    "Rows",
    "plain",
]

DATA_RELEASE = "Imaging Data Commons Data Release Version"
BATCH = 16_384
"""Rows that are held as Python values at once."""

SERIES_COLUMNS = (
    "PatientID",
    "collection_id",
    "source_DOI",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "crdc_series_uuid",
    "idc_version",
)
"""Columns of a manifest of series, in the order of IDC's portal."""

INSTANCE_COLUMNS = (
    "SeriesInstanceUID",
    "crdc_instance_uuid",
    "crdc_series_uuid",
    "idc_version",
    "gcs_url",
    "aws_url",
    "SOPInstanceUID",
    "instance_size",
)
"""Columns of a manifest of instances, in that order; the size is in bytes."""

OF_OBJECTS = (
    "crdc_instance_uuid",
    "instance_size",
    "SOPInstanceUID",
    "instance_hash",
)
"""Columns that only single instances have."""

COMPUTED = ("idc_version", "aws_url", "gcs_url", *OF_OBJECTS)
"""Columns that no index has: they are made of the others."""


@dataclass(frozen=True)
class Rows:
    """Rows of one release, at the level of series or of instances."""

    manifest: Manifest
    """The series."""
    objects: pa.Table | None = None
    """The instances, for a manifest of them: ``row`` (position of the series),
    ``crdc_instance_uuid``, ``instance_size`` in bytes, and, where they are known,
    ``SOPInstanceUID`` and ``instance_hash``."""
    date: str | None = None
    """Day of the release (ISO 8601)."""
    origin: str = ""
    """Where the rows came from, in words."""
    releases: Mapping[str, int] = field(default_factory=dict)
    """Series whose bytes are of an older release, by ``crdc_series_uuid``."""

    def __len__(self) -> int:
        return len(self.manifest if self.objects is None else self.objects)

    @property
    def level(self) -> str:
        """What a row is: "series" or "instance"."""
        return "series" if self.objects is None else "instance"

    @property
    def release(self) -> str:
        """The release, and those of older bytes, as IDC's portal writes them."""
        number = self.manifest.idc_version
        day = f" {self.date}" if self.date else ""
        older = sorted(set(self.releases.values()) - {number}, reverse=True)
        named = [f"{number}.0{day}", *(f"{version}.0" for version in older)]
        return "; ".join(f"{DATA_RELEASE} {version}" for version in named)

    def columns(self, more: Sequence[str] = ()) -> list[str]:
        """Give the columns to write: those of the level, then what was asked for.

        Raises
        ------
        UnknownColumn
            One that was asked for is not there.
        """
        there = set(self.manifest.columns)
        known = set() if self.objects is None else set(self.objects.column_names)
        own = SERIES_COLUMNS if self.objects is None else INSTANCE_COLUMNS
        for name in more:
            if name in OF_OBJECTS and name not in known:
                how = (
                    "is of instances, level='instance'"
                    if self.objects is None
                    else "is not known; with_instances tells it"
                )
                msg = f"{name} {how}"
                raise UnknownColumn(msg, column=name)
            if name not in there and name not in COMPUTED and name not in own:
                msg = f"the rows have no column {name!r}"
                raise UnknownColumn(msg, column=name)
        kept = [name for name in own if name not in OF_OBJECTS or name in known]
        return list(dict.fromkeys([*kept, *more]))

    def check_whole(self) -> None:
        """Refuse a part of a series, which no row of a series names.

        Raises
        ------
        RequestError
            A series was split, or only some instances of it are meant.
        """
        if self.objects is not None:
            return
        manifest = self.manifest
        bounded = {"first_instance", "last_instance"} & set(manifest.columns)
        if not bounded and not manifest.has_subsets:
            return
        for part in manifest.strip().parts():
            cut = part.first_instance or part.last_instance is not None
            if cut or part.only is not None:
                msg = (
                    "a manifest of series names whole series; this one holds a part "
                    "of one; level='instance' names its instances"
                )
                raise RequestError(msg, crdc_series_uuid=part.crdc_series_uuid)

    def batches(self, columns: Sequence[str], size: int = BATCH) -> Iterator[pa.Table]:
        """Give some columns, in pieces of so many rows."""
        for start in range(0, len(self), size):
            yield self.piece(columns, start, size)

    def piece(self, columns: Sequence[str], start: int, size: int) -> pa.Table:
        """Give some columns of so many rows, from one on."""
        import pyarrow as pa

        if self.objects is None:
            objects = None
            series = self.manifest.table.slice(start, size)
        else:
            objects = self.objects.slice(start, size)
            series = _taken(self.manifest.table, objects.column("row"))
        return pa.table({name: self._column(name, series, objects) for name in columns})

    def _column(self, name: str, series: pa.Table, objects: pa.Table | None) -> Any:
        import pyarrow as pa

        count = len(series)
        if name in OF_OBJECTS:
            return None if objects is None else objects.column(name)
        if name == "idc_version":
            return texts(self._versions(series))
        if name in ("aws_url", "gcs_url"):
            scheme, buckets = ("s3", "aws") if name == "aws_url" else ("gs", "gcs")
            return urls(series, objects, f"{scheme}://", buckets)
        if name in series.column_names:
            return series.column(name)
        return pa.nulls(count, pa.string())

    def _versions(self, series: pa.Table) -> list[str]:
        """Give the release that the bytes of each row are of."""
        number = self.manifest.idc_version
        if not self.releases:
            return [f"{number}.0"] * len(series)
        uuids = series.column("crdc_series_uuid").to_pylist()
        return [f"{self.releases.get(uuid, number)}.0" for uuid in uuids]

    def urls(self, scheme: str, buckets: str, after: str = "") -> Iterator[list[str]]:
        """Give the URLs of the rows, some at once, each with a text after it.

        Raises
        ------
        RequestError
            A name would not stand in a line as it is.
        """
        for batch in self.batches(["crdc_series_uuid", "aws_bucket", *self._key]):
            for column in batch.columns:
                _check_plain(column)
            objects = batch if self.objects is not None else None
            yield urls(batch, objects, scheme, buckets, after).to_pylist()

    @property
    def _key(self) -> list[str]:
        return [] if self.objects is None else ["crdc_instance_uuid"]

    def places(self, buckets: str) -> Iterator[tuple[str, str, str | None]]:
        """Give bucket, folder and, at instance level, file of each row."""
        for batch in self.batches(["crdc_series_uuid", "aws_bucket", *self._key]):
            series = batch.column("crdc_series_uuid").to_pylist()
            names = _buckets(batch.column("aws_bucket"), buckets).to_pylist()
            files: list[str | None] = [None] * len(series)
            if self.objects is not None:
                found = batch.column("crdc_instance_uuid").to_pylist()
                files = [f"{uuid}.dcm" for uuid in found]
            yield from zip(names, series, files, strict=True)


def _taken(table: pa.Table, rows: pa.ChunkedArray) -> pa.Table:
    """Give rows of a table by their positions, which rise.

    From a slice: taking strings out of chunks puts all chunks together first.
    """
    import pyarrow.compute as pc

    if not len(rows):
        return table.slice(0, 0)
    first, last = rows[0].as_py(), rows[-1].as_py()
    return table.slice(first, last - first + 1).take(pc.subtract(rows, rows[0]))


def plain(value: Any, *, text: bool = False) -> Any:
    """Give a cell as JSON has it; with ``text`` all but whole numbers as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str) or (isinstance(value, int) and not _truth(value, text)):
        return value
    if isinstance(value, list | tuple | dict):
        nested = json.dumps(value, default=str)
        return nested if text else json.loads(nested)
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, int | float) and not text else str(value)


def _truth(value: int, text: bool) -> bool:
    """Say whether it is True or False where these are wanted as text."""
    return text and isinstance(value, bool)


def urls(
    series: pa.Table,
    objects: pa.Table | None,
    scheme: str,
    buckets: str,
    after: str = "",
) -> pa.Array:
    """Give the URL of each row: a glob of a series, or an object."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.string()
    uuids = series.column("crdc_series_uuid").cast(text)
    names = _buckets(series.column("aws_bucket"), buckets)
    # As scalars: Arrow imports pandas to look at a Python text.
    start, slash, end, none = texts(
        [scheme, "/", f"/*{after}" if objects is None else f".dcm{after}", ""]
    )
    tail = [end]
    if objects is not None:
        tail = [slash, objects.column("crdc_instance_uuid").cast(text), end]
    return pc.binary_join_element_wise(start, names, slash, uuids, *tail, none)


def _buckets(column: pa.ChunkedArray, buckets: str) -> pa.Array:
    """Give the buckets, under the names that they have on AWS or on Google."""
    import pyarrow as pa

    column = column.cast(pa.string())
    if buckets != "gcs":
        return column
    encoded = column.combine_chunks().dictionary_encode()
    named = texts([gcs_bucket(name) for name in encoded.dictionary.to_pylist()])
    return named.take(encoded.indices)


def _check_plain(names: pa.ChunkedArray) -> None:
    """Refuse a name with a blank or a sign that a line would be read otherwise for.

    IDC has none: names of series and objects are uuids, those of buckets plainer.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    good = pc.match_substring_regex(names.cast(pa.string()), r"\A[A-Za-z0-9._-]+\z")
    if not pc.all(good, min_count=0).as_py():
        first = names.filter(pc.invert(good))[0].as_py()
        msg = f"a manifest line cannot name {first!r}: letters, digits, '.', '_', '-'"
        raise RequestError(msg, name=first)
