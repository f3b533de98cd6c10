"""Headers of a whole cohort, kept: a folder of Parquet files that only ever grows.

Each partition is read once and written as a file of its own, which takes its name as
the last act. What is in such a file is never read again: objects are known by their
uuids, and an object never changes. So a scan that was killed goes on where it was, and
a later release costs only what is new in it.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake_idc import display
from intake_idc.arrow import integers, texts
from intake_idc.dicom import resolve_tags
from intake_idc.errors import IntegrityError, RequestError
from intake_idc.files import beside
from intake_idc.lazy.bags import (
    HEADER_INSTANCES,
    bag_from,
    check_rows,
    pieces_of,
)
from intake_idc.lazy.failures import OnError, check_on_error, failures_table
from intake_idc.lazy.header_tables import ReadHeaders, header_schema, header_table

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from intake_idc.dicom import Tag
    from intake_idc.lazy.failures import Failure
    from intake_idc.manifest import Manifest, Part, Piece
    from intake_idc.storage import Mirror

__all__ = ["Scan", "scan_headers"]

KEY = b"intake_idc.headers"
"""What is kept in the schema of each file: the tags, as JSON."""
UUID, SERIES = "crdc_instance_uuid", "crdc_series_uuid"
ABANDONED = 3600.0
"""Seconds after which a file that never took its name was left by a dead process."""


@dataclass(frozen=True)
class Scan:
    """What a scan came to."""

    path: Path
    """The folder of Parquet files."""
    rows: int
    """Rows in it: one for each object in each version of a series."""
    new: int
    """Objects that this scan read."""
    failures: pa.Table = field(compare=False, repr=False)
    """What this scan could not read: url, crdc_series_uuid, crdc_instance_uuid, kind,
    reason, attempts. It will be tried again by the next."""

    def __str__(self) -> str:
        rows = display.count_text(self.rows, "row")
        read = display.count_text(self.new, "object")
        failed = self.failures.num_rows
        missing = f", {failed:,} that could not be" if failed else ""
        return f"{self.path}: {rows}; {read} read now{missing}"


def scan_headers(
    manifest: Manifest,
    mirror: Mirror,
    path: str | os.PathLike[str],
    tags: str | Sequence[str],
    *,
    partition_instances: int | None = None,
    on_error: OnError = "collect",
    progress: bool = False,
) -> Scan:
    """Read the headers of a cohort into a folder of Parquet files, and go on with it.

    It is one Dask computation: on threads, or on the cluster whose
    `distributed.Client` is in scope; the folder must then be one that all workers see.

    Parameters
    ----------
    manifest : Manifest
        The series; those that are in the folder already are not read.
    mirror : Mirror
        Where they are read.
    path : path
        A folder, which is made if need be.
    tags : str or sequence of str
        DICOM keywords, or paths through sequences; the same in every scan into one
        folder.
    partition_instances : int, optional
        Objects of one file, and of what a kill costs: 2,048, or more where there would
        be more than 10,000 files.
    on_error : "raise", "skip" or "collect"
        An object that cannot be read ends the scan, is left out with a line in the
        log, or is a row of ``<name>.failures.parquet`` beside the folder.
    progress : bool
        Show a bar on the terminal.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    IntegrityError
        A file in the folder is no table of headers.
    RequestError
        The folder holds other tags, or is no folder.
    """
    check_on_error(on_error)
    check_rows(manifest)
    found = resolve_tags(tags)
    folder = _folder(path)
    before = _parts(folder)
    names = _check_tags(before, tuple(tag.name for tag in found))
    missing, have, others = _missing(manifest, before)
    run = secrets.token_hex(8)
    came: list[int | Failure] = []
    if len(missing):
        kept = _Kept(others, names) if others else None
        read = ReadHeaders(mirror, names, on_error, kept)
        pieces = pieces_of(missing, None, partition_instances, HEADER_INSTANCES)
        tasks = [
            (_ReadPart(read, folder, f"part-{run}-{i:05}.parquet"), piece, known)
            for i, (piece, known) in enumerate(_with_known(pieces, have))
        ]
        bag = bag_from(tasks, f"scan-{run}", collect=False)
        came = bag.compute(progress=progress)
        _drop_repeated(sorted(set(_parts(folder)) - set(before)))
    table = failures_table([entry for entry in came if not isinstance(entry, int)])
    if on_error != "skip":
        _keep_failures(folder, manifest, table)
    total = sum(_metadata(part).num_rows for part in _parts(folder))
    return Scan(folder, total, sum(n for n in came if isinstance(n, int)), table)


@dataclass(frozen=True)
class _Kept:
    """Gives the values of objects that were read before, in another series.

    A series that a later release has revised has another uuid, but most of its objects
    are the same: they have a row in each.
    """

    parts: tuple[Path, ...]
    """Files that hold series which this scan is not about."""
    names: tuple[str, ...]

    def __call__(self, uuids: Sequence[str]) -> dict[str, dict[str, Any]]:
        import pyarrow.compute as pc
        import pyarrow.dataset as ds

        rows = ds.dataset([str(part) for part in self.parts]).to_table(
            [UUID, *self.names], filter=pc.field(UUID).isin(texts(uuids))
        )
        return {row.pop(UUID): row for row in rows.to_pylist()}


@dataclass(frozen=True)
class _ReadPart:
    """A task: read the headers of a piece into a file; how many, and what failed."""

    read: ReadHeaders
    folder: Path
    name: str

    def __call__(
        self, piece: Piece | Manifest, known: Mapping[str, frozenset[str]]
    ) -> list[int | Failure]:
        rows = self.read.rows(piece.parts(), known)
        good = [row for row in rows if row.failure is None]
        if good:
            # Tried again by Dask, a task writes the same file again.
            tags = resolve_tags(self.read.names)
            _write(header_table(good, tags), self.folder / self.name, tags)
        failed = {row.failure: None for row in rows if row.failure is not None}
        return [sum(row.read for row in good), *failed]


def _folder(path: str | os.PathLike[str]) -> Path:
    if "://" in str(path):
        msg = f"headers are kept in a folder of this machine; got {str(path)!r}"
        raise RequestError(msg, path=str(path))
    folder = Path(path).absolute()
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; headers are kept in a folder of Parquet files"
        raise RequestError(msg, path=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".idc-*.part"):
        if time.time() - left.stat().st_mtime > ABANDONED:
            left.unlink(missing_ok=True)
    return folder


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _metadata(part: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(part)
    except (pa.ArrowException, OSError) as error:
        msg = f"{part} is no Parquet file ({error}); remove it, and scan again"
        raise IntegrityError(msg, path=str(part)) from error


def _check_tags(parts: Sequence[Path], names: tuple[str, ...]) -> tuple[str, ...]:
    """Hold the tags against those of every file, and give them in the files' order."""
    for part in parts:
        text = (_metadata(part).metadata or {}).get(KEY)
        if text is None:
            msg = f"{part} was not written by a scan of headers; use another folder"
            raise IntegrityError(msg, path=str(part))
        held = tuple(json.loads(text)["tags"])
        if set(held) != set(names):
            more = ", ".join(name for name in names if name not in held) or "none"
            less = ", ".join(name for name in held if name not in names) or "none"
            msg = (
                f"{part.parent} was begun with other tags: new now are {more}; no "
                f"longer asked for are {less}. Ask for the same, or use another folder"
            )
            raise RequestError(msg, tags=held)
        names = held
    return names


def _missing(
    manifest: Manifest, parts: Sequence[Path]
) -> tuple[Manifest, dict[str, frozenset[str]], tuple[Path, ...]]:
    """Give the series that are not complete, what is there of them, and other files.

    A run reads an object once, so that the rows of a series are counted where they come
    from one. Of two that were killed both may have read the same: there the objects
    themselves are looked at, and those that are there twice let go of.
    """
    asked = set(manifest.uuids)
    counts: Counter[str] = Counter()
    runs: defaultdict[str, set[str]] = defaultdict(set)
    others: list[Path] = []
    for part in parts:
        held = _column(part, SERIES).value_counts().to_pylist()
        for entry in held:
            counts[entry["values"]] += entry["counts"]
            runs[entry["values"]].add(_run(part))
        if not asked.issuperset(entry["values"] for entry in held):
            others.append(part)
    begun = {
        series.crdc_series_uuid
        for series in manifest.parts()
        if counts[series.crdc_series_uuid]
        and (
            len(runs[series.crdc_series_uuid]) > 1
            or series.instanceCount is None
            or counts[series.crdc_series_uuid] < series.instanceCount
        )
    }
    have = _instances(parts, begun)
    if any(len(there) < counts[name] for name, there in have.items()):
        _drop_repeated(parts)
    complete = frozenset(counts) - begun
    rows = [
        row
        for row, series in enumerate(manifest.parts())
        if series.crdc_series_uuid not in complete
        and not _is_there(series, have.get(series.crdc_series_uuid, frozenset()))
    ]
    return manifest.take(integers(rows)), have, tuple(others)


def _run(part: Path) -> str:
    return part.name.split("-")[1]


def _is_there(part: Part, have: frozenset[str]) -> bool:
    """Say whether all is there that is meant of a series, where that can be told."""
    if part.only is None:
        return part.instanceCount is not None and len(have) >= part.instanceCount
    meant = part.only[part.first_instance : part.last_instance].to_pylist()
    return all(str(uuid.UUID(bytes=known)) in have for known in meant)


def _instances(parts: Sequence[Path], series: set[str]) -> dict[str, frozenset[str]]:
    """Give the objects that are there of some series."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found: defaultdict[str, set[str]] = defaultdict(set)
    wanted = texts(sorted(series))
    for part in parts if series else ():
        table = pq.read_table(part, columns=[SERIES, UUID])
        table = table.filter(pc.is_in(table.column(SERIES), value_set=wanted))
        for name, there in zip(*table.to_pydict().values(), strict=True):
            found[name].add(there)
    return {name: frozenset(uuids) for name, uuids in found.items()}


def _with_known(
    pieces: Iterable[Piece | Manifest], have: Mapping[str, frozenset[str]]
) -> Iterable[tuple[Piece | Manifest, dict[str, frozenset[str]]]]:
    """Give each piece with the objects that are there of its series."""
    for piece in pieces:
        names = [part.crdc_series_uuid for part in piece.parts()] if have else []
        yield piece, {name: have[name] for name in names if name in have}


def _column(part: Path, name: str) -> pa.ChunkedArray:
    import pyarrow.parquet as pq

    return pq.read_table(part, columns=[name]).column(name)


def _write(table: pa.Table, path: Path, tags: Sequence[Tag]) -> None:
    import pyarrow.parquet as pq

    said = json.dumps({"tags": [tag.name for tag in tags]}).encode()
    with beside(path) as part:
        pq.write_table(
            table.cast(header_schema(tags)).replace_schema_metadata({KEY: said}),
            part,
            compression="zstd",
        )


def _drop_repeated(parts: Sequence[Path]) -> None:
    """Leave each object in one file only, where two scans at once read the same.

    The file whose name comes first keeps it, whoever looks, so that two that look at
    once do not both let go of it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len({_run(part) for part in parts}) < 2:  # noqa: PLR2004
        return
    seen: set[tuple[str, str]] = set()
    for part in parts:
        table = pq.read_table(part)
        rows = zip(*table.select([SERIES, UUID]).to_pydict().values(), strict=True)
        pairs = list(rows)
        fresh = [pair not in seen for pair in pairs]
        seen.update(pairs)
        if not all(fresh):
            # Without a row left it stays, for whoever has seen its name.
            with beside(part) as written:
                pq.write_table(table.filter(pa.array(fresh)), written)


def _keep_failures(folder: Path, manifest: Manifest, failures: pa.Table) -> None:
    """Write what failed beside the folder; of what was not tried it stays as it was."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder.with_name(f"{folder.name.removesuffix('.parquet')}.failures.parquet")
    if path.exists():
        tried = {part.crdc_series_uuid: part.only for part in manifest.parts()}
        old = pq.read_table(path)
        rows = zip(*old.select([SERIES, UUID]).to_pydict().values(), strict=True)
        others = [not _was_tried(tried, *row) for row in rows]
        failures = pa.concat_tables([old.filter(pa.array(others, "bool")), failures])
    with beside(path) as written:
        pq.write_table(failures, written, compression="zstd")


def _was_tried(tried: Mapping[str, Any], series: str, instance: str | None) -> bool:
    only = tried.get(series)
    if only is None or instance is None:
        # The whole series was, or its listing.
        return series in tried
    return uuid.UUID(instance).bytes in only.to_pylist()
