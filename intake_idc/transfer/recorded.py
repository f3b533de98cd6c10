"""What is written down in a folder of what copies put there, as it is read.

A record is an Arrow IPC file, ``<target>/.idc/*.arrow``. Each run of a copy writes its
own; all of them together are read, and of what several say of one path the newest
counts. Anybody may have written them: no path of them leads out of the folder.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import numbers, numpy_of, one
from intake_idc.plan.value import SUFFIX
from intake_idc.transfer.hashing import CHECKSUMS
from intake_idc.transfer.report import STATUSES

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from intake_idc.storage import Mirror
    from intake_idc.transfer.hashing import Checksum

__all__ = [
    "AT_ONCE",
    "DELETED",
    "FORMAT",
    "KEY",
    "Origin",
    "Records",
    "Run",
    "int32",
    "mirror_of",
    "path_keys",
    "schema",
    "series_type",
    "some",
    "without_options",
]

KEY = b"intake_idc.record"
"""Where the schema of a record holds what is not of one object, as JSON."""
FORMAT = 1
DELETED = -2
"""Status of what was removed again; -1 is that of what is not done."""
AT_ONCE = 65_536
"""Rows that are held as Python's own values, or written, at once."""


@dataclass(frozen=True)
class Origin:
    """Of what cohort a copy is."""

    idc_version: int | None = None
    """The release."""
    manifest: str = ""
    """Digest of its manifest."""
    lineage: str = ""
    """Digest of its conditions and layout, whatever the release. Copies of one lineage
    are states of one thing; empty is of none."""
    layout: str = ""
    """Template of its folders, and how files are named."""


@dataclass(frozen=True)
class Run:
    """One run of a copy, as its record tells of it."""

    id: str
    """Its name, which no other run has."""
    time: int
    """When it began, in nanoseconds since 1970."""
    machine: str = ""
    """Where it ran."""
    pid: int = 0
    """Number of its process."""
    package: str = ""
    """Version of this package."""
    origin: Origin = field(default_factory=Origin)
    """Of what cohort."""
    mirror: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `resolve_mirror`, without options."""
    mirrors: tuple[str, ...] = ()
    """Names of the mirrors that served, in the order of their numbers."""
    ended: bool = False
    """Whether it came to its end, be it with an error."""
    lives: bool = field(default=False, compare=False)
    """Whether it may still be at work."""


# Types of the columns.


@functools.cache
def series_type() -> pa.StructType:
    """Give the type of what a record holds of a series."""
    import pyarrow as pa

    return pa.struct(
        [
            ("crdc_series_uuid", pa.string()),
            ("SeriesInstanceUID", pa.string()),
            ("aws_bucket", pa.string()),
            ("url", pa.string()),
            ("folder", pa.string()),
            ("instanceCount", pa.int64()),
            ("size", pa.int64()),
        ]
    )


@functools.cache
def schema() -> pa.Schema:
    """Give the columns of a record, one row for each object.

    ``name`` is that of the key without ``.dcm``, ``file`` the name in its folder where
    it is another one. ``status`` is the place in the statuses of a report, -1 of what
    is not done, -2 of what was removed. ``mtime_ns`` is 0 where the run did not put
    the file there, and ``mirror`` -1.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("series", pa.dictionary(pa.int32(), series_type())),
            ("name", pa.string()),
            ("file", pa.string()),
            ("size", pa.int64()),
            ("etag", pa.string()),
            ("md5", pa.binary(16)),
            ("status", pa.int8()),
            ("mtime_ns", pa.int64()),
            ("hash", pa.string()),
            ("mirror", pa.int8()),
            ("run", pa.int32()),
        ]
    )


def without_options(told: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arguments of a mirror that a record holds."""
    found = {k: told[k] for k in ("mirror", "endpoint_url", "engine") if k in told}
    if isinstance(found.get("mirror"), list):
        found["mirror"] = [without_options(one) for one in found["mirror"]]
    return found


def mirror_of(told: Mapping[str, Any]) -> Mirror:
    """Give the mirror that a record names; a folder need not be here.

    Options that it may name are not taken from a file that may be anybody's.
    """
    from intake_idc.storage import Mirror, resolve_mirror

    arguments = without_options(told)
    place = arguments.pop("mirror", None)
    if isinstance(place, list):
        return resolve_mirror([mirror_of(each) for each in place], environment=False)
    named = "://" in str(place) or place in ("aws", "gcs", "auto", "sample")
    found = place if named else Mirror(str(place), str(place))
    return resolve_mirror(found, **arguments, environment=False)


@dataclass(frozen=True, eq=False)
class Records:
    """What all records of a folder say together."""

    target: Path
    """The folder."""
    runs: tuple[Run, ...]
    """The runs that they are of, in the order in which they began."""
    series: pa.Table
    """One row for each series, with the fields of the column ``series``."""
    objects: pa.Table
    """One row for each path and lineage, the newest last of those of one path."""

    def __len__(self) -> int:
        return int(self.objects.num_rows)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """Give a column of numbers as an array of numpy."""
        return numpy_of(one(self.objects.column(name)))

    @cached_property
    def folders(self) -> list[str]:
        """Folder of each series below the target."""
        return list(self.series.column("folder").to_pylist())

    @cached_property
    def keys(self) -> np.ndarray[Any, Any]:
        """A number for each row that is that of its path; see `path_keys`."""
        return path_keys(self.folders, self.objects)

    @cached_property
    def lineages(self) -> np.ndarray[Any, Any]:
        """For each row, a number that is one for all runs of one lineage."""
        import numpy as np

        known: dict[str, int] = {}
        own = [known.setdefault(r.origin.lineage, len(known)) for r in self.runs]
        found: np.ndarray[Any, Any] = np.array(own, np.int64)[self.column("run")]
        return found

    @property
    def checksum(self) -> Checksum | None:
        """What was computed of the bytes, where something was."""
        hashes = self.objects.column("hash").drop_null()
        kind = hashes[0].as_py().partition(":")[0] if len(hashes) else None
        return kind if kind in CHECKSUMS else None

    def take(self, rows: np.ndarray[Any, Any]) -> Records:
        """Give some rows, in this order."""
        taken = self.objects.take(numbers(rows))
        return Records(self.target, self.runs, self.series, taken)

    def newest(self) -> Records:
        """Give one row for each path: the newest, without what was removed again."""
        import numpy as np

        order = np.lexsort((self.column("run"), self.keys))
        keys = self.keys[order]
        last = np.append(keys[1:] != keys[:-1], True) if len(keys) else keys > 0
        rows = np.sort(order[last])
        return self.take(rows[self.column("status")[rows] != DELETED])

    def paths(self) -> Iterator[str]:
        """Give the path of each row below the target."""
        for series, name, file in self.values("series", "name", "file"):
            folder = self.folders[series]
            own = file or f"{name}{SUFFIX}"
            yield f"{folder}/{own}" if folder else own

    def tags_of(self, mirror: Mirror) -> pa.Array:
        """Give the entity tag of each row where it is of a mirror, else null.

        It says something there, and nowhere else; that of a file of another folder
        says nothing of bytes.
        """
        import numpy as np

        own = without_options(mirror.to_arguments())
        alike = [run.mirror == own and mirror.scheme != "file" for run in self.runs]
        here = np.array(alike, bool)[self.column("run")]
        return one(self.objects.column("etag")).take(some(np.arange(len(self)), here))

    def holders(self) -> dict[str, str]:
        """Give which object lies at each path, where a run has seen to it."""
        failed = STATUSES.index("failed")
        told = zip(self.paths(), self.values("name", "status"), strict=True)
        return {path: name for path, (name, at) in told if 0 <= at != failed}

    def values(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Give some columns row by row, as plain values."""
        for start in range(0, len(self), AT_ONCE):
            part = self.objects.slice(start, AT_ONCE)
            columns = (part.column(name).to_pylist() for name in names)
            yield from zip(*columns, strict=True)


def path_keys(folders: Sequence[str], objects: pa.Table) -> np.ndarray[Any, Any]:
    """Give a number of 64 bits for the path of each row, one for each path.

    Parameters
    ----------
    folders : sequence of str
        Folder of each series.
    objects : pyarrow.Table
        ``series``, ``name`` and ``file``, as a plan has them.
    """
    import numpy as np

    of_series = np.fromiter(map(hash, folders), np.int64, len(folders))
    of_file = array("q")
    for start in range(0, objects.num_rows, AT_ONCE):
        part = objects.slice(start, AT_ONCE)
        names, files = (part.column(c).to_pylist() for c in ("name", "file"))
        both = zip(names, files, strict=True)
        of_file.extend([hash(file or f"{name}{SUFFIX}") for name, file in both])
    series = numpy_of(one(objects.column("series")))
    if not len(series):
        return np.zeros(0, np.uint64)
    mixed = of_series.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found: np.ndarray[Any, Any] = np.frombuffer(of_file, np.uint64) + mixed[series]
    return found


def some(
    rows: np.ndarray[Any, Any], there: np.ndarray[Any, Any] | None = None
) -> pa.Array:
    """Give numbers as an array of int64, null where they are not there."""
    import numpy as np
    import pyarrow as pa

    data = pa.py_buffer(np.ascontiguousarray(rows, np.int64))
    bits = None
    if there is not None:
        bits = pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(pa.int64(), len(rows), [bits, data])


def int32(values: np.ndarray[Any, Any]) -> pa.Array:
    """Give numbers as an array of int32."""
    import numpy as np
    import pyarrow as pa

    data = np.ascontiguousarray(values, np.int32)
    return pa.Array.from_buffers(pa.int32(), len(data), [None, pa.py_buffer(data)])
