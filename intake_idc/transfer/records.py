"""What a copy writes down in its folder: ``<target>/.idc/*.arrow``.

Each run writes a file of its own, and no other: first what it is about to do, now and
then how far it is, and at its end what it did. At the end of a run the files of runs
that have ended become one. None of this needs a lock: the one is there before those
that it holds are removed, and who misses one that was listed lists again.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake_idc._version import __version__
from intake_idc.arrow import binary, integers, numbers, numpy_of, one, texts
from intake_idc.errors import IntegrityError, RequestError
from intake_idc.files import part_name
from intake_idc.transfer.places import FOLDER_OF_RECORDS, LocalPlace
from intake_idc.transfer.recalling import Head, listed, opened, read_one, together
from intake_idc.transfer.recorded import (
    AT_ONCE,
    DELETED,
    FORMAT,
    KEY,
    Origin,
    Records,
    Run,
    int32,
    schema,
    series_type,
    some,
    without_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    import pyarrow as pa

    from intake_idc.plan import Plan
    from intake_idc.storage import Mirror
    from intake_idc.transfer.remote import RemotePlace
    from intake_idc.transfer.report import Report

__all__ = ["Journal", "Origin", "forget"]

UNKNOWN = -1
"""Status of what is not done."""
FIRST_SECONDS = 5.0
"""Seconds after which a run writes how far it is for the first time."""
SHARE = 50
"""A run writes for one part of its time in so many."""
MERGED_ROWS = 100_000
"""Rows up to which any records are merged, which holds them in memory: about 1 kB a
row. Of more rows those are merged that are of the same objects."""


class Journal:
    """Writes the record of one run.

    Parameters
    ----------
    plan : Plan
        What is done.
    place : LocalPlace or RemotePlace
        Where the record goes; in a store nothing is written down.
    origin : Origin, optional
        Of what cohort the plan is; without it nothing is written down.
    """

    def __init__(
        self, plan: Plan, place: LocalPlace | RemotePlace, origin: Origin | None
    ) -> None:
        self._plan = plan
        self._place: LocalPlace | None = None
        if origin is not None and isinstance(place, LocalPlace):
            self._place = place
        now = time.time_ns()
        self._name = _new_name(now)
        self._run = Run(
            Path(self._name).stem,
            now,
            platform.node(),
            os.getpid(),
            __version__,
            origin or Origin(),
            _arguments(plan.mirror),
        )
        self._series: pa.StructArray | None = None
        self._due = float("inf")

    def begin(self) -> None:
        """Write down what is planned, where bytes are to move."""
        if self._plan.moved.any():
            self._write(None, ended=False)

    def along(
        self, look: Callable[[], None], so_far: Callable[[], Report]
    ) -> Callable[[], None]:
        """Give what looks, and now and then writes how far the copy is."""

        def looking() -> None:
            look()
            if time.monotonic() >= self._due:
                self._write(so_far(), ended=False)

        return looking

    def end(self, done: Report) -> None:
        """Write down what was done, and merge what has ended."""
        self._write(done, ended=True)
        # What another process does to a folder must not fail a copy that is whole.
        with suppress(OSError, IntegrityError, RequestError):
            if self._place is not None:
                _merge(self._place)

    def _write(self, done: Report | None, *, ended: bool) -> None:
        if self._place is None:
            return
        began = time.monotonic()
        run = replace(self._run, ended=ended)
        if done is not None:
            run = replace(run, mirrors=tuple(done.mirrors))
        if self._series is None:
            self._series = _series_of(self._plan)
        # A place where nothing can be written fails at its first object; that a
        # record is not written fails no object that is there.
        with suppress(OSError):
            rows = len(self._plan)
            _write(self._place, self._name, [run], self._batches(done), rows)
        cost = time.monotonic() - began
        self._due = time.monotonic() + max(FIRST_SECONDS, SHARE * cost)

    def _batches(self, done: Report | None) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        objects, own = self._plan.objects, schema()
        for start in range(0, len(self._plan), AT_ONCE):
            part = objects.slice(start, AT_ONCE)
            many = part.num_rows
            stop = start + many
            status = np.full(many, UNKNOWN, np.int8)
            mirror = np.full(many, -1, np.int8)
            mtimes, hashes = np.zeros(many, np.int64), pa.nulls(many, pa.string())
            if done is not None:
                status = np.frombuffer(done.statuses, np.uint8)[start:stop]
                status = status.astype(np.int8)
                if done.served:
                    served = np.frombuffer(done.served, np.uint8)[start:stop]
                    mirror = served.astype(np.int8)
                if done.mtimes:
                    told = (done.mtimes.get(row, 0) for row in range(start, stop))
                    mtimes = np.fromiter(told, np.int64, many)
                if done.hashes:
                    computed = map(done.hashes.get, range(start, stop))
                    hashes = texts(list(computed))
            series = pa.DictionaryArray.from_arrays(
                one(part.column("series")), self._series
            )
            given = {
                "series": series,
                "status": _small(status),
                "mtime_ns": numbers(mtimes),
                "hash": hashes,
                "mirror": _small(mirror),
                "run": _zeros(many),
            }
            columns = [
                given[name] if name in given else one(part.column(name))
                for name in own.names
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=own)


def _small(values: np.ndarray[Any, Any]) -> pa.Array:
    import pyarrow as pa

    return pa.Array.from_buffers(
        pa.int8(), len(values), [None, pa.py_buffer(values.tobytes())]
    )


def _zeros(many: int) -> pa.Array:
    import pyarrow as pa

    data = pa.py_buffer(bytes(4 * many))
    return pa.Array.from_buffers(pa.int32(), many, [None, data])


def _new_name(now: int) -> str:
    return f"{now:016x}{part_name().removesuffix('.part')}.arrow"


def _series_of(plan: Plan) -> pa.StructArray:
    """Give what a record holds of each series of a plan."""
    import pyarrow as pa

    own = plan.series
    count = own.num_rows
    buckets = own.column("aws_bucket").to_pylist()
    uuids = own.column("crdc_series_uuid").to_pylist()
    roots = {bucket: plan.mirror.bucket_root(bucket) for bucket in set(buckets)}
    urls = [f"{roots[b]}/{uuid}" for b, uuid in zip(buckets, uuids, strict=True)]
    columns = []
    for part in series_type():
        if part.name == "url":
            columns.append(texts(urls))
        elif part.name in own.column_names:
            columns.append(_as(one(own.column(part.name)), part.type))
        else:
            columns.append(pa.nulls(count, part.type))
    return pa.StructArray.from_arrays(columns, fields=list(series_type()))


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Give a column as another type; what casts takes 40 ms to import."""
    if column.type == kind:
        return column
    if str(kind) == "string":
        return texts(column.to_pylist())
    return column.cast(kind)


def _arguments(mirror: Mirror) -> dict[str, Any]:
    """Give what finds a mirror again, without options: they are the user's to say."""
    return without_options(mirror.to_arguments())


def _write(
    place: LocalPlace,
    name: str,
    runs: Sequence[Run],
    batches: Iterable[pa.RecordBatch],
    rows: int,
) -> None:
    import pyarrow as pa

    codec = "zstd" if pa.Codec.is_available("zstd") else None
    told = {"record": FORMAT, "rows": rows, "runs": [_plain(run) for run in runs]}
    own = schema().with_metadata({KEY: json.dumps(told).encode()})
    part = place.part(FOLDER_OF_RECORDS, name)
    try:
        with os.fdopen(os.dup(part.fd), "wb") as file:
            options = pa.ipc.IpcWriteOptions(compression=codec)
            with pa.ipc.new_file(file, own, options=options) as writer:
                for batch in batches:
                    writer.write_batch(batch.replace_schema_metadata(own.metadata))
        part.commit()
    finally:
        part.discard()


def _plain(run: Run) -> dict[str, Any]:
    found = asdict(run)
    found.pop("lives")
    return found


# Merging.


def _merge(place: LocalPlace) -> None:
    """Make one record of those whose runs have ended."""
    target = place.target
    names = listed(target)
    try:
        heads = {name: _head(target, name) for name in names}
        done = [name for name, head in heads.items() if not head.lives]
        if len(done) < 2:  # noqa: PLR2004
            return
        if sum(heads[name].rows for name in done) > MERGED_ROWS:
            alike = _alike(heads, done)
            if alike is not None:
                _merge_alike(place, *alike)
            return
        merged = together(target, [read_one(target, name) for name in done])
    except FileNotFoundError:
        # Another process merges; it, or the next run, will do.
        return
    if len(done) == len(names):
        # There is nothing left that they would have to hide.
        status = merged.column("status")
        merged = merged.take((status != DELETED).nonzero()[0])
    if len(merged):
        _put_merged(place, merged)
    _remove(target, done)


def _remove(target: Path, names: Iterable[str]) -> None:
    for name in names:
        with suppress(FileNotFoundError, PermissionError):
            (target / FOLDER_OF_RECORDS / name).unlink()


def _alike(heads: Mapping[str, Head], done: Sequence[str]) -> tuple[str, str] | None:
    """Give the newest record, and one before it of the same manifest and layout."""
    single = [name for name in done if len(heads[name].runs) == 1]
    single.sort(key=lambda name: heads[name].runs[0].time)
    *before, newest = single or [""]
    for name in reversed(before):
        one_of, other = (heads[own].runs[0].origin for own in (name, newest))
        if one_of == other and heads[name].rows == heads[newest].rows:
            return name, newest
    return None


def _head(target: Path, name: str) -> Head:
    with opened(target, name) as (head, _):
        return head


def _merge_alike(place: LocalPlace, old: str, new: str) -> None:
    """Make one record of two of the same objects, without holding them in memory."""
    import numpy as np

    target = place.target
    with (
        opened(target, old) as (old_head, first),
        opened(target, new) as (new_head, second),
    ):
        if not _same_places(first, second):
            return
        before, now = old_head.runs[0], new_head.runs[0]
        mirrors = tuple(dict.fromkeys([*now.mirrors, *before.mirrors]))
        # A last one, for what none served.
        told = [*map(mirrors.index, before.mirrors), -1]
        places = np.array(told, np.int8)
        batches = (
            _newer(
                first.get_batch(number),
                second.get_batch(number),
                places,
                same_mirror=before.mirror == now.mirror,
            )
            for number in range(second.num_record_batches)
        )
        run = replace(now, mirrors=mirrors, ended=True)
        _write(place, _new_name(time.time_ns()), [run], batches, new_head.rows)
    _remove(target, [old, new])


def _newer(
    before: pa.RecordBatch,
    now: pa.RecordBatch,
    mirrors: np.ndarray[Any, Any],
    *,
    same_mirror: bool,
) -> pa.RecordBatch:
    """Give what is newer of the same objects; ``mirrors`` numbers those of before."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    count = now.num_rows
    put = numpy_of(now.column("mtime_ns")) > 0
    # Rows of both, one behind the other.
    rows = some(np.where(put, 0, count) + np.arange(count))
    served = numpy_of(before.column("mirror"))
    mirror = np.where(served >= 0, mirrors[served], np.int8(-1))
    columns = {}
    for name, column in zip(now.schema.names, now.columns, strict=True):
        old = _small(mirror) if name == "mirror" else before.column(name)
        if name == "etag" and not same_mirror:
            # It says nothing at another mirror.
            columns[name] = column
        elif name in ("mtime_ns", "hash", "etag", "mirror"):
            columns[name] = pa.concat_arrays([column, old]).take(rows)
        elif name == "md5":
            columns[name] = pc.coalesce(column, old)
        else:
            columns[name] = column
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema())


def _same_places(first: Any, second: Any) -> bool:
    """Whether two records have the same objects in the same places and order."""
    if first.num_record_batches != second.num_record_batches:
        return False
    for number in range(second.num_record_batches):
        both = first.get_batch(number), second.get_batch(number)
        for batch in both:
            batch.validate(full=True)
        if not number and not _alike_in(both, lambda b: _dictionary(b).field("folder")):
            return False
        names = [(lambda b, name=n: b.column(name)) for n in ("name", "file", "size")]
        if not all(_alike_in(both, own) for own in (*names, _indices)):
            return False
    return True


def _alike_in(both: Iterable[Any], column: Callable[[Any], Any]) -> bool:
    one_of, other = map(column, both)
    return bool(one_of.equals(other))


def _dictionary(batch: Any) -> Any:
    return batch.column("series").dictionary


def _indices(batch: Any) -> Any:
    return batch.column("series").indices


def _put_merged(place: LocalPlace, merged: Records) -> None:
    import numpy as np

    used, own = np.unique(merged.column("run"), return_inverse=True)
    runs = [replace(merged.runs[number], ended=True) for number in used.tolist()]
    kept, series = np.unique(merged.column("series"), return_inverse=True)
    table = merged.series.take(numbers(kept))
    columns = dict(
        zip(merged.objects.column_names, merged.objects.columns, strict=True)
    )
    columns["run"], columns["series"] = int32(own), int32(series)
    name = _new_name(time.time_ns())
    _write(place, name, runs, _packed(table, columns), len(merged))


def _packed(series: pa.Table, columns: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    own = schema()
    packed = pa.StructArray.from_arrays(
        [one(column) for column in series.columns], fields=list(series_type())
    )
    rows = pa.table(columns)
    for start in range(0, rows.num_rows, AT_ONCE):
        part = rows.slice(start, AT_ONCE)
        given = [one(part.column(name)) for name in own.names]
        given[0] = pa.DictionaryArray.from_arrays(given[0], packed)
        yield pa.RecordBatch.from_arrays(given, schema=own)


def forget(place: LocalPlace, paths: Sequence[str], origin: Origin) -> None:
    """Write down that files were removed which a copy had put there."""
    import pyarrow as pa

    folders = [path.rpartition("/")[0] for path in paths]
    known = {folder: number for number, folder in enumerate(dict.fromkeys(folders))}
    count = len(paths)
    now = time.time_ns()
    name = _new_name(now)
    run = Run(
        Path(name).stem, now, platform.node(), os.getpid(), __version__, origin, {}
    )
    series = pa.table(
        {
            field.name: texts(list(known))
            if field.name == "folder"
            else pa.nulls(len(known), field.type)
            for field in series_type()
        }
    )
    columns = {
        "series": integers([known[folder] for folder in folders]).cast(pa.int32()),
        "name": texts([""] * count),
        "file": texts([path.rpartition("/")[2] for path in paths]),
        "size": integers([0] * count),
        "etag": pa.nulls(count, pa.string()),
        "md5": binary(_no_bytes(count)),
        "status": integers([DELETED] * count).cast(pa.int8()),
        "mtime_ns": integers([0] * count),
        "hash": pa.nulls(count, pa.string()),
        "mirror": integers([-1] * count).cast(pa.int8()),
        "run": _zeros(count),
    }
    own = [replace(run, ended=True)]
    _write(place, name, own, _packed(series, columns), count)
    _merge(place)


def _no_bytes(count: int) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.zeros((count, 16), np.uint8)
