"""What all records of a folder say together; see `intake_idc.transfer.recorded`.

Of what several say of one path the newest counts. How a file was put there is told by
the run that did, also where later ones kept it.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from array import array
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc.arrow import numbers, numpy_of, one
from intake_idc.errors import IntegrityError, RequestError
from intake_idc.files import is_left
from intake_idc.plan.names import same
from intake_idc.plan.value import SUFFIX
from intake_idc.storage.listing import PLAIN_NAME
from intake_idc.transfer.places import FOLDER_OF_RECORDS
from intake_idc.transfer.recorded import (
    DELETED,
    FORMAT,
    KEY,
    Origin,
    Records,
    Run,
    int32,
    schema,
    series_type,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import pyarrow as pa

__all__ = ["Head", "listed", "opened", "read_one", "read_records", "together"]

DAY_SECONDS = 86_400.0
"""Age at which the record of another machine is taken for one whose run has ended."""
TRIES = 20
"""How often a folder is listed again in which others merge."""

_KINDS = {
    "id": str,
    "time": int,
    "machine": str,
    "pid": int,
    "package": str,
    "mirror": dict,
    "ended": bool,
}
"""Kinds of what a record says of a run, as JSON has them."""
LARGEST = 5 << 40
"""Bytes that an object may have: S3 takes no larger ones, and Google neither."""
_ELSEWHERE = re.compile(r"[\\:\x00]")
_NAME = re.compile(r"[0-9a-f]{16}(\.idc-[0-9a-f]+-\d+-[0-9a-f]+-[0-9a-f]+)\.arrow")


def read_records(target: Path) -> Records | None:
    """Read what is written down in a folder of what copies put there.

    Returns
    -------
    Records or None
        None where no copy wrote anything down.

    Raises
    ------
    IntegrityError
        A record is damaged, or names a path outside of the folder.
    RequestError
        A newer version of this package wrote it.
    """
    for _ in range(TRIES):
        names = listed(target)
        try:
            found = [read_one(target, name) for name in names]
        except FileNotFoundError:
            # Another process has merged it.
            continue
        return together(target, found) if found else None
    msg = f"the records of {target} change all the time; try again"
    raise IntegrityError(msg, path=str(target))


def listed(target: Path) -> list[str]:
    """Give the names of the records in a folder, as they were at one moment."""
    folder = target / FOLDER_OF_RECORDS
    if folder.is_symlink():
        msg = f"{folder} is a link; records do not lie behind one"
        raise IntegrityError(msg, path=str(folder))
    before = None
    for _ in range(TRIES):
        try:
            names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []
        if names == before:
            # While others merge, one listing could miss the old ones and the new one.
            return names
        before = names
    return before or []


class Head(NamedTuple):
    """What a record says of itself."""

    runs: tuple[Run, ...]
    """The runs that it is of."""
    rows: int
    """How many rows it has."""
    lives: bool
    """Whether somebody may still write it."""


@contextmanager
def opened(target: Path, name: str) -> Iterator[tuple[Head, Any]]:
    """Open one record; give what it says of itself, and what reads its rows.

    Raises
    ------
    FileNotFoundError
        It is gone: another process has merged it.
    IntegrityError
        It is damaged, or no record; also where the body finds that.
    RequestError
        A newer version wrote it.
    """
    import pyarrow as pa

    path = target / FOLDER_OF_RECORDS / name
    if not stat.S_ISREG(path.lstat().st_mode):
        # A pipe would be waited for.
        msg = f"{path} is a link, or no plain file; a record is a file"
        raise IntegrityError(msg, path=str(path))
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            told = _told(reader.schema, path)
            lives = not _has_ended(path, told["runs"])
            runs = tuple(_run(run, lives=lives) for run in told["runs"])
            _check_columns(reader.schema)
            yield Head(runs, int(told["rows"]), lives), reader
    except (FileNotFoundError, RequestError):
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        msg = f"{path} is no record of a copy: {error}; move it away"
        raise IntegrityError(msg, path=str(path)) from error


def read_one(target: Path, name: str) -> Records:
    """Read one record; raises as `opened`."""
    with opened(target, name) as (head, reader):
        table = reader.read_all()
        table.validate(full=True)
        found = _unpacked(target, head.runs, table)
        _check_inside(found)
    return found


def _told(own: pa.Schema, path: Path) -> dict[str, Any]:
    """Give what is not of one object.

    Raises
    ------
    RequestError
        A newer version wrote it.
    """
    found: dict[str, Any] = dict(json.loads((own.metadata or {}).get(KEY, b"{}")))
    if found.get("record", FORMAT) != FORMAT:
        msg = (
            f"{path} is a record of format {found['record']}; this version reads "
            f"{FORMAT}: install a newer intake-idc"
        )
        raise RequestError(msg, path=str(path))
    return found


def _check_columns(own: pa.Schema) -> None:
    if not own.equals(schema()):
        msg = f"its columns are {', '.join(own.names)}"
        raise ValueError(msg)


def _run(told: Mapping[str, Any], *, lives: bool) -> Run:
    values = {**told, "origin": Origin(**told["origin"]), "lives": lives}
    run = Run(**{**values, "mirrors": tuple(told["mirrors"])})
    own, of = vars(run), vars(run.origin)
    right = all(isinstance(own[name], kind) for name, kind in _KINDS.items())
    right = right and isinstance(of["idc_version"], int | None)
    texts = [*(value for name, value in of.items() if name != "idc_version")]
    if not right or not all(isinstance(text, str) for text in (*texts, *run.mirrors)):
        msg = "what it says of a run is not of the kinds that a record has"
        raise ValueError(msg)
    if run.mirror and not _is_mirror(run.mirror):
        msg = f"it names the mirror {run.mirror!r}"
        raise ValueError(msg)
    return run


def _is_mirror(told: object) -> bool:
    """Whether something has the form of what `mirror_of` takes."""
    if not isinstance(told, dict):
        return False
    place = told.get("mirror")
    if isinstance(place, list):
        return bool(place) and all(map(_is_mirror, place))
    others = (told.get(name, "") for name in ("endpoint_url", "engine"))
    return bool(place) and all(isinstance(text, str) for text in (place, *others))


def _has_ended(path: Path, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether nobody writes a record any more."""
    if all(run["ended"] for run in runs):
        return True
    name = _NAME.fullmatch(path.name)
    left = is_left(f"{name[1]}.part") if name is not None else None
    if left is None:
        return time.time() - path.stat().st_mtime > DAY_SECONDS
    return left


def _unpacked(target: Path, runs: tuple[Run, ...], table: pa.Table) -> Records:
    import pyarrow as pa

    if not table.num_rows:
        series = pa.nulls(0, series_type())
        indices: pa.Array = pa.nulls(0, pa.int32())
    else:
        coded = one(table.column("series"))
        series, indices = coded.dictionary, coded.indices
    columns = dict(zip(table.schema.names, table.columns, strict=True))
    columns["series"] = indices
    return Records(
        target,
        runs,
        pa.Table.from_batches([pa.RecordBatch.from_struct_array(series)]),
        pa.table(columns),
    )


def _check_inside(records: Records) -> None:
    """Refuse what leads out of the folder or the mirror: a record may be anybody's."""
    import pyarrow.compute as pc

    runs, series = records.column("run"), records.column("series")
    wrong = (runs < 0) | (runs >= len(records.runs)) | (series < 0)
    if wrong.any() or records.objects.column("series").null_count:
        msg = "a row is of no run or series"
        raise ValueError(msg)
    _check_objects(records)
    bad = {"", ".", ".."}
    for folder in records.folders:
        parts = folder.split("/") if folder else ()
        inside = not any(part in bad or _ELSEWHERE.search(part) for part in parts)
        if not inside or (parts and same(parts[0]) == FOLDER_OF_RECORDS):
            msg = f"it names the folder {folder!r}"
            raise ValueError(msg)
    names, files = (one(records.objects.column(name)) for name in ("name", "file"))
    for name, column in (("name", names), ("file", files)):
        found = pc.match_substring_regex(column, r"[/\\:\x00]|^\.{1,2}$")
        if pc.any(found).as_py():
            msg = f"it holds a {name} that leads elsewhere"
            raise ValueError(msg)
    other = pc.and_(pc.invert(pc.ends_with(files, SUFFIX)), pc.not_equal(files, ""))
    if pc.any(other).as_py():
        msg = f"it holds a file that is no {SUFFIX}, and so no object"
        raise ValueError(msg)


def _check_objects(records: Records) -> None:
    """Refuse names that lead out of a bucket, and sizes that no object has."""
    import numpy as np
    import pyarrow.compute as pc

    sizes = records.column("size")
    if (sizes < 0).any() or (sizes > LARGEST).any():
        msg = f"it holds a size that no object has: {sizes.min()}, or {sizes.max()}"
        raise ValueError(msg)
    # A series that could not be listed may have had any name; nothing is asked of it.
    names, series = one(records.objects.column("name")), records.column("series")
    listed = np.unique(series[numpy_of(one(pc.binary_length(names))) > 0])
    for column in ("crdc_series_uuid", "aws_bucket"):
        told = records.series.column(column).take(numbers(listed))
        for text in told.unique().to_pylist():
            if not PLAIN_NAME.fullmatch(text or ""):
                msg = f"it names the {column} {text!r}"
                raise ValueError(msg)


# Together.


def together(target: Path, found: Sequence[Records]) -> Records:
    """Give one row for each path and lineage, of all records."""
    import numpy as np
    import pyarrow as pa

    if len(found) == 1 and len(found[0].runs) == 1:
        return found[0]
    by_id = {run.id: run for each in found for run in each.runs}
    runs = tuple(sorted(by_id.values(), key=lambda run: (run.time, run.id)))
    rank = {run.id: number for number, run in enumerate(runs)}
    tables, first = [], 0
    for own in found:
        ranks = np.array([rank[run.id] for run in own.runs], np.int32)
        columns = dict(zip(own.objects.column_names, own.objects.columns, strict=True))
        columns["run"] = int32(ranks[own.column("run")])
        columns["series"] = int32(own.column("series") + np.int32(first))
        tables.append(pa.table(columns))
        first += own.series.num_rows
    series = pa.concat_tables([own.series for own in found])
    both = Records(target, runs, series, pa.concat_tables(tables).combine_chunks())
    return _as_left(both)


def _as_left(records: Records) -> Records:
    """Drop what is out of date, and tell of each file who put it there."""
    import numpy as np
    import pyarrow.compute as pc

    if not len(records):
        return records
    run, status = records.column("run"), records.column("status")
    order = np.lexsort((run, records.keys))
    starts = _starts(records.keys[order])
    group = np.cumsum(starts) - 1
    # What was removed is not there any more, whoever had put it there.
    gone = np.where(status[order] == DELETED, run[order], -1)
    last_gone = np.maximum.reduceat(gone, np.flatnonzero(starts))[group]
    left = np.sort(order[run[order] >= last_gone])
    records = _without_unlisted(records.take(left))
    mtime = _told_put(records)
    # Of each path and lineage the newest; of none only where there is no other.
    run = records.column("run")
    named = np.array([bool(own.origin.lineage) for own in records.runs])[run]
    order = np.lexsort((run, records.lineages, named, records.keys))
    keys, lineages = records.keys[order], records.lineages[order]
    newest = np.append((keys[1:] != keys[:-1]) | (lineages[1:] != lineages[:-1]), True)
    last = np.append(keys[1:] != keys[:-1], True)
    rows = np.sort(order[newest & (named[order] | last)])
    taken = records.take(rows)
    # Its hash and tag are those of the run that put it there; but a tag says nothing
    # at another mirror than its own, which is that of the run.
    put = mtime[rows]
    rows_put = np.where(put >= 0, put, rows)
    source = numbers(rows_put)
    places: list[Mapping[str, Any]] = []
    for own in records.runs:
        if own.mirror not in places:
            places.append(own.mirror)
    of_run = np.array([places.index(own.mirror) for own in records.runs])
    alike = of_run[run[rows_put]] == of_run[run[rows]]
    tagged = numbers(np.where(alike, rows_put, rows))
    for name in ("mtime_ns", "hash", "etag", "mirror"):
        at = taken.objects.column_names.index(name)
        column = records.objects.column(name)
        column = column.take(tagged if name == "etag" else source)
        taken = replace(taken, objects=taken.objects.set_column(at, name, column))
    md5 = records.objects.column("md5").take(source)
    at = taken.objects.column_names.index("md5")
    md5 = pc.coalesce(taken.objects.column("md5"), md5)
    return replace(taken, objects=taken.objects.set_column(at, "md5", md5))


def _without_unlisted(records: Records) -> Records:
    """Drop series that could not be listed, where the cohort was copied again."""
    import numpy as np
    import pyarrow.compute as pc

    names = records.objects.column("name")
    nameless = numpy_of(one(pc.binary_length(names))) == 0
    nameless &= records.column("status") != DELETED
    if not nameless.any():
        return records
    run, lineages = records.column("run"), records.lineages
    latest = np.full(len(records.runs), -1)
    np.maximum.at(latest, lineages, run)
    return records.take(np.flatnonzero(~nameless | (run == latest[lineages])))


def _starts(keys: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.append(True, keys[1:] != keys[:-1])


def _told_put(records: Records) -> np.ndarray[Any, Any]:
    """Give, for each row, the row of the run that put its object there, or -1."""
    import numpy as np

    mtime = records.column("mtime_ns")
    order = np.lexsort((mtime, records.keys))
    starts = _starts(records.keys[order])
    ends = np.append(np.flatnonzero(starts)[1:], len(order)) - 1
    last = order[ends][np.cumsum(starts) - 1]
    found = np.empty(len(order), np.int64)
    found[order] = last
    name = array("q")
    for (own,) in records.values("name"):
        name.append(hash(own))
    names = np.frombuffer(name, np.int64)
    good = (mtime[found] > 0) & (names[found] == names)
    return np.where(good, found, -1)
