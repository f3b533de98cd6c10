"""Locks: a cohort written down, opened again by the file alone, checked, restored.

What a lock holds, and what is checked of it, is the business of
`intake_idc.formats.lock`; here it is put on a disk and found again.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from intake_idc import display
from intake_idc.cohort import writing
from intake_idc.cohort.cohort import Cohort
from intake_idc.credentials import refuse_in_url
from intake_idc.errors import (
    IntegrityError,
    MissingError,
    ObjectNotFound,
    RequestError,
    StorageError,
    UnknownRelease,
)
from intake_idc.formats import lock as form
from intake_idc.release import FixedRows, Release, open_release
from intake_idc.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fsspec.callbacks import Callback

    from intake_idc.cohort.difference import Difference
    from intake_idc.cohort.verbs.base import Base
    from intake_idc.manifest import Manifest
    from intake_idc.storage import Mirror
    from intake_idc.transfer import Report

__all__ = ["LockCheck", "check_lock", "open_lock", "restore", "write_lock"]

SHOWN = 5
"""Series that an error names; the rest is counted."""


# Writing.


def write_lock(
    cohort: Base,
    manifest: Manifest,
    path: Path,
    *,
    dir_template: str | None,
    mirror: Mirror | None,
) -> str:
    """Write the lock of a cohort, of which the manifest is given; see `Cohort.lock`.

    Returns
    -------
    str
        The digest over all, as hex.
    """
    locked = form.Lock(
        question=_question(cohort),
        release=_pin(cohort),
        mirror=None if mirror is None else mirror.to_arguments(),
        dir_template=dir_template,
    )
    written = form.write(locked, manifest, path.name)
    _put(path, written)
    return written.digest


def _question(cohort: Base) -> dict[str, Any]:
    """Say what was asked: of a release, of a manifest, or of a lock what it says."""
    rows, asked = cohort.rows, cohort.selection.to_dict()
    if isinstance(rows, Release):
        everything = cohort.everything and not cohort.selection
        of: dict[str, Any] = {"of": "release", "manifest": None}
        return {**of, "everything": everything, "selection": asked}
    if rows.lock is None:
        # Its name without the folder: a lock says nothing of the machine.
        name = re.split(r"[?#]|::", rows.source)[0]
        name = re.split(r"[/\\]", name)[-1]
        of = {"of": "manifest", "manifest": name}
        return {**of, "everything": False, "selection": asked}
    question = dict(rows.lock.question)
    if cohort.selection:
        first = question["selection"]
        lists = {key: [*first[key], *asked[key]] for key in ("where", "sql")}
        both = _selection({**first, **asked, **lists})
        question |= {"everything": False, "selection": both.to_dict()}
    return question


def _selection(data: Mapping[str, Any]) -> Selection:
    """Read a selection without a look at its SQL, which is not going to be run."""
    return replace(
        Selection.from_dict({**data, "sql": []}), sql=tuple(map(str, data["sql"]))
    )


def where(cohort: Base) -> str:
    """Say in words what a locked cohort was asked by."""
    question = _question(cohort)
    conditions = _selection(question["selection"])
    if question["of"] == "release":
        return str(conditions)
    return f"{conditions or 'every series'} of {question['manifest'] or 'a manifest'}"


def _pin(cohort: Base) -> dict[str, Any]:
    rows = cohort.rows
    if isinstance(rows, Release):
        return rows.pin
    if rows.lock is not None:
        return dict(rows.lock.release)
    return open_release(rows.idc_version, rows.spec, rows.digest).pin


def _put(path: Path, written: form.Written) -> None:
    """Put a lock in its place: the Parquet file first, the JSON as the last act.

    Until then the old lock holds, because the new Parquet file has another name.
    """
    old = _side_of(path)
    side, new = None, False
    if written.side is not None and written.side_name is not None:
        side = path.with_name(written.side_name)
        new = not side.exists()
        writing.write_bytes(side, written.side)
    try:
        writing.write_bytes(path, written.text)
    except BaseException:
        if new and written.side_name is not None:
            _drop(path, written.side_name)
        raise
    if side is not None and written.side is not None and not side.exists():
        # Another writer took it for its own old one, between those two lines.
        writing.write_bytes(side, written.side)
    if old is not None and old != written.side_name:
        _drop(path, old)


def _side_of(path: Path) -> str | None:
    """Give the Parquet file that the lock of this name has of its own, if any."""
    try:
        series = json.loads(path.read_bytes())["series"]
        name = series["file"]
        return name if name == form.side_name(path.name, series["digest"]) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _drop(path: Path, name: str) -> None:
    """Remove the Parquet file of an old lock, unless the lock of now has it again.

    It is moved away first and then looked for: whoever writes it at the same time
    either sees that it is gone, or is seen here.
    """
    side = path.with_name(name)
    aside = path.with_name(f".idc-{os.getpid()}-{secrets.token_hex(8)}.part")
    try:
        side.replace(aside)
    except FileNotFoundError:
        return
    if _side_of(path) == name:
        aside.replace(side)
    else:
        aside.unlink()


# Opening.


def open_lock(
    path: str | os.PathLike[str],
    *,
    digest: str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
) -> Cohort:
    """Open a lock as the cohort that was locked: the same series, in the same order.

    No index is asked, and none has to be installed. Everything in the lock is checked
    against its digests, and what can be counted from the series is counted again.

    Parameters
    ----------
    path : str or path
        A file, or a URL that fsspec reads. A Parquet file that the lock names lies
        beside it.
    digest : str, optional
        The digest over all that the lock must have, as hex. Who has it from elsewhere
        than from the file knows that nobody wrote another lock in its place.
    mirror : str, path or Mirror, optional
        Where the objects are read; by default where the lock says, else as for
        `open_idc`.

    Raises
    ------
    RequestError
        It is not a lock.
    MissingError
        It is of a newer format; the message says which package reads it.
    IntegrityError
        Something in it was changed.
    ObjectNotFound, StorageError
        The lock or the file beside it is not there, or cannot be read.

    Examples
    --------
    >>> from intake_idc import open_idc
    >>> tmp_path = getfixture("tmp_path")
    >>> cohort = open_idc(20).search(collection_id="nlst", Modality="SM")
    >>> locked = open_lock(cohort.lock(tmp_path / "slides.lock.json"))
    >>> locked.manifest() == cohort.manifest()
    True
    """
    name = os.fspath(path)
    refuse_in_url(name, "lock")
    lock, manifest = _read(name)
    try:
        _selection(lock.question["selection"])
    except RequestError as error:
        msg = f"the lock {name} is damaged: its question is none ({error})"
        raise IntegrityError(msg, path=name) from error
    if digest is not None and str(digest).strip().lower() != lock.digest:
        msg = f"the lock {name} has the digest {lock.digest}, expected {digest}"
        raise IntegrityError(msg, path=name, found=lock.digest, expected=digest)
    rows = FixedRows(manifest, lock.release.get("tables"), lock=lock)
    return Cohort(rows, mirror=_mirror(mirror, lock))


def _read(name: str) -> tuple[form.Lock, Manifest]:
    def side(file: str) -> bytes:
        return _bytes_of(beside(name, file))

    data = _bytes_of(name)
    try:
        return form.read(data, name, side)
    except ObjectNotFound:
        # The lock may have been written anew, and its old Parquet file removed.
        again = _bytes_of(name)
        if again == data:
            raise
        return form.read(again, name, side)


def beside(name: str, file: str) -> str:
    """Give the path or URL of the file of a bare name beside a lock.

    >>> beside("https://example.org/a/cohort.lock.json?download=1", "x.parquet")
    'https://example.org/a/x.parquet?download=1'
    >>> beside("zip://cohort.lock.json::s3://bucket/a.zip", "x.parquet")
    'zip://x.parquet::s3://bucket/a.zip'
    """
    if "://" not in name and "::" not in name:
        return str(Path(name).with_name(file))
    links = name.split("::")
    # What stands before may be a cache, which has no path of its own.
    place = next((i for i, link in enumerate(links) if "://" in link), len(links) - 1)
    link = links[place]
    if link.startswith(("http://", "https://")):
        split = urlsplit(link)
        folder = split.path.rpartition("/")[0]
        links[place] = urlunsplit(split._replace(path=f"{folder}/{file}"))
    else:
        links[place] = f"{link.rpartition('/')[0]}/{file}"
    return "::".join(links)


def _bytes_of(name: str) -> bytes:
    try:
        if "://" not in name and "::" not in name:
            return Path(name).expanduser().read_bytes()
        import fsspec

        with fsspec.open(name, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        msg = (
            f"{name} is not there; a lock of many series lies in two files, which "
            "are kept in one folder"
        )
        raise ObjectNotFound(msg, path=name) from error
    except (OSError, ValueError, ImportError) as error:
        msg = f"{name} cannot be read: {type(error).__name__}: {error}"
        raise StorageError(msg, path=name) from error


def _mirror(
    mirror: str | os.PathLike[str] | Mirror | None, lock: form.Lock
) -> Mirror | None:
    """Give the mirror that was named, else that of the lock, which need not be here."""
    from intake_idc.storage import resolve_mirror

    if mirror is not None:
        return resolve_mirror(mirror, environment=False)
    if lock.mirror is None:
        return None
    return _of_arguments(dict(lock.mirror))


def _of_arguments(arguments: dict[str, Any]) -> Mirror:
    """Give a mirror that a lock names, whose folder need not be here."""
    from intake_idc.storage import Mirror, resolve_mirror

    whole, place = dict(arguments), arguments.pop("mirror", None)
    if isinstance(place, list) and all(isinstance(one, dict) for one in place):
        among = [_of_arguments(dict(one)) for one in place]
        return resolve_mirror(among, environment=False)
    unknown = set(arguments) - {"endpoint_url", "engine", "storage_options"}
    if not isinstance(place, str) or unknown:
        msg = f"the lock's 'mirror' is not one: {whole!r}"
        raise IntegrityError(msg)
    named = "://" in place or place in ("aws", "gcs", "auto", "sample")
    found = place if named else Mirror(place, place)
    return resolve_mirror(found, **arguments, environment=False)


# Checking.


@dataclass(frozen=True)
class LockCheck:
    """What a release would change for a locked cohort; false where it is nothing."""

    idc_version: int
    """The release of the lock."""
    against: int
    """The release that it is held against."""
    source: str
    """Name and version of the tables that were asked."""
    series: int
    """Number of locked series."""
    difference: Difference | None
    """What the same question gives from the one release and from the other; None for
    a list of series, which has no question."""
    superseded: Mapping[str, str]
    """Locked ``crdc_series_uuid``, and the one that took its place, whether or not the
    question still gives it. The locked bytes are still there."""
    withdrawn: tuple[str, ...]
    """Locked ``crdc_series_uuid`` of series that the release does not have at all."""
    relicensed: Mapping[str, str | None]
    """Locked ``crdc_series_uuid`` of series with the same bytes, and the other
    ``license_short_name`` that they have now."""
    reproducible: bool | None
    """Whether the lock's own release, rebuilt from these tables, gives the locked
    series by the same question; None where they cannot give that release."""
    lost: tuple[str, ...] = ()
    """Locked ``crdc_series_uuid`` that this rebuilding does not give."""
    gained: tuple[str, ...] = ()
    """``crdc_series_uuid`` that it gives and that are not locked."""
    reason: str = ""
    """Why it could not be rebuilt."""

    def __bool__(self) -> bool:
        gone = self.superseded or self.withdrawn or self.relicensed
        return bool(self.difference or gone or self.reproducible is False)

    @property
    def added(self) -> tuple[str, ...]:
        """SeriesInstanceUIDs that only the newer of the two releases gives."""
        return self.difference.added if self.difference is not None else ()

    @property
    def removed(self) -> tuple[str, ...]:
        """SeriesInstanceUIDs that only the older of the two releases gives."""
        return self.difference.removed if self.difference is not None else ()

    @property
    def revised(self) -> tuple[str, ...]:
        """SeriesInstanceUIDs that both give, with other bytes (another uuid)."""
        return self.difference.revised if self.difference is not None else ()

    @property
    def unchanged(self) -> int:
        """Number of series that both give as they were."""
        return self.difference.unchanged if self.difference is not None else 0

    @property
    def _title(self) -> str:
        return f"Lock of IDC release {self.idc_version}, against release {self.against}"

    def _items(self) -> list[tuple[str, object]]:
        question: list[tuple[str, object]] = [
            ("added", f"{len(self.added):,}"),
            ("removed", f"{len(self.removed):,}"),
            ("revised", f"{len(self.revised):,}"),
            ("unchanged", f"{self.unchanged:,}"),
        ]
        if self.difference is None:
            question = [("question", "none: a list of series")]
        return [
            ("series", f"{self.series:,}"),
            *question,
            ("superseded", f"{len(self.superseded):,}"),
            ("withdrawn", f"{len(self.withdrawn):,}"),
            ("relicensed", f"{len(self.relicensed):,}"),
            ("reproducible", self._reproducible),
            ("source", self.source),
        ]

    @property
    def _reproducible(self) -> str:
        if self.reproducible is None:
            return f"not known: {self.reason}"
        if self.reproducible:
            return "yes"
        if self.reason:
            return f"no: {self.reason}"
        return f"no: {len(self.lost):,} lost, {len(self.gained):,} gained"

    def __str__(self) -> str:
        return display.pairs(self._title, self._items())

    def _repr_html_(self) -> str:
        return display.pairs_html(self._title, self._items())


_COMPARED = ("SeriesInstanceUID", "crdc_series_uuid", "license_short_name")


def check_lock(
    lock: str | os.PathLike[str] | Cohort,
    idc_version: int | str = "current",
    *,
    tables: str | os.PathLike[str] | None = None,
) -> LockCheck:
    """Say what a newer release would change for a locked cohort.

    Parameters
    ----------
    lock : str, path or Cohort
        A lock, or the cohort that `open_lock` gave.
    idc_version : int, "current" or "YYYY-MM-DD"
        The release to hold it against; by default the newest of the tables.
    tables : str or path, optional
        The tables to ask; see `open_release`. By default the embedded sample for a
        lock of the sample, else the installed package.

    Raises
    ------
    RequestError
        The cohort was not opened from a lock, or its question does not fit the
        tables, or they do not have that release.
    MissingError, StorageError, IntegrityError
        The lock or the tables are not there, or not whole.
    """
    cohort = lock if isinstance(lock, Cohort) else open_lock(lock)
    locked = cohort.locked
    if locked is None:
        msg = "this cohort was not opened from a lock; write one with Cohort.lock"
        raise RequestError(msg)
    if tables is None and locked.release.get("tables") == "sample":
        tables = "sample"
    newer = open_release(idc_version, tables)
    question = None
    if locked.question["of"] == "release":
        # The SQL in it is going to be run, and so checked anew.
        question = Selection.from_dict(_question(cohort)["selection"])
    difference = None
    if question is not None:
        difference = cohort.diff(Cohort(newer, question, everything=True))
    rows = cohort.rows.rows(_COMPARED, cohort.selection)
    named = Selection().where({"SeriesInstanceUID": [row[0] for row in rows]})
    now = {row[0]: row[1:] for row in newer.rows(_COMPARED, named, strict=False)}
    uuids = {row[1] for row in rows}
    reproducible, lost, gained, reason = _reproduced(cohort, uuids, question, tables)
    return LockCheck(
        idc_version=cohort.idc_version,
        against=newer.idc_version,
        source=newer.source,
        series=len(rows),
        difference=difference,
        superseded={
            uuid: now[uid][0]
            for uid, uuid, _ in rows
            if uid in now and now[uid][0] != uuid
        },
        withdrawn=tuple(uuid for uid, uuid, _ in rows if uid not in now),
        relicensed={
            uuid: now[uid][1]
            for uid, uuid, name in rows
            if uid in now and now[uid][0] == uuid and now[uid][1] != name
        },
        reproducible=reproducible,
        lost=lost,
        gained=gained,
        reason=reason,
    )


def _reproduced(
    cohort: Cohort,
    locked: set[str],
    question: Selection | None,
    tables: str | os.PathLike[str] | None,
) -> tuple[bool | None, tuple[str, ...], tuple[str, ...], str]:
    """Ask the lock's own release again: whether it does, what differs, and why not."""
    try:
        own = open_release(cohort.idc_version, tables)
    except (MissingError, UnknownRelease) as error:
        return None, (), (), str(error)
    column = "crdc_series_uuid"
    try:
        if question is None:
            found = set(own.resolve(sorted(locked)).column(column).to_pylist())
        else:
            found = {row[0] for row in own.rows([column], question, strict=False)}
    except RequestError as error:
        return False, (), (), str(error)
    lost, gained = tuple(sorted(locked - found)), tuple(sorted(found - locked))
    return not lost and not gained, lost, gained, ""


# Restoring.


def restore(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    digest: str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
    dir_template: str | None = None,
    callback: Callback | None = None,
) -> Report:
    """Copy what a lock holds to a folder, and hold the folder against the lock.

    Parameters
    ----------
    path : str or path
        The lock.
    target : str or path
        A folder; what is there with the right size is kept.
    digest : str, optional
        The digest over all that the lock must have; see `open_lock`.
    mirror : str, path or Mirror, optional
        Where from; by default where the lock says, else AWS.
    dir_template : str, optional
        Folders below the target; by default those that the lock says, else the usual.
    callback : fsspec.callbacks.Callback, optional
        Told of the bytes, for a progress bar.

    Returns
    -------
    Report
        When every object is there and every series has the locked count and bytes.

    Raises
    ------
    TransferError
        Something could not be fetched; its ``report`` says what and why.
    IntegrityError
        The mirror, or the folder after the copy, does not hold what was locked.
    RequestError, MissingError, StorageError
        As in `open_lock` and `Cohort.materialize`.
    """
    target = writing.local_path(target)
    cohort = open_lock(path, digest=digest, mirror=mirror)
    report = cohort.materialize(target, dir_template=dir_template, callback=callback)
    _check_copy(cohort, report)
    return report


def _check_copy(cohort: Cohort, report: Report) -> None:
    """Count what lies on the disk, series by series, and hold it against the lock."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for outcome in report.outcomes:
        path = Path(outcome.path)
        if path.is_file():
            uuid = outcome.url.split("/")[-2]
            counts[uuid] += 1
            sizes[uuid] += path.stat().st_size
    wrong = []
    for part in cohort.manifest().parts():
        uuid = part.crdc_series_uuid
        unlike = part.unlike(counts[uuid], sizes[uuid])
        if unlike is not None or not counts[uuid]:
            wrong.append(f"{uuid} has {unlike or 'no object'}")
    copied = {Path(outcome.path) for outcome in report.outcomes}
    folders = sorted({path.parent for path in copied})
    foreign = {path for folder in folders for path in folder.glob("*.dcm")} - copied
    wrong += [f"{path} belongs to no locked series" for path in sorted(foreign)]
    if wrong:
        listed = "\n  ".join(wrong[:SHOWN])
        more = f"\n  and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
        msg = f"{report.target} is not what was locked:\n  {listed}{more}"
        raise IntegrityError(msg, path=str(report.target), wrong=tuple(wrong))
