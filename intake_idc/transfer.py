"""Carry out a plan: fetch beside the target, check, and rename as the last act.

A file appears under its final name only when it is complete. Until then its bytes
lie beside it, in ``.idc-<process>-<random>.part``, which is removed when
something fails. Carrying out a plan again fetches only what is not there.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from intake_idc import display
from intake_idc.citations import MANIFEST_LINE
from intake_idc.errors import IDCError, PlanError, RequestError, TransferError
from intake_idc.storage import chunks, each, save

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan, Step
    from intake_idc.storage import Mirror

__all__ = [
    "NOTICE",
    "Outcome",
    "Report",
    "Verification",
    "present",
    "put_notice",
    "run",
    "verify",
]

NOTICE = "NOTICE.txt"
"""Name of the notice beside the first cohort that was copied to a folder."""

_NOTICES = re.compile(r"NOTICE(-[0-9a-f]{12})?\.txt")

Status = Literal["fetched", "replaced", "kept", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one object."""

    status: Status
    """One of ``fetched``, ``replaced``, ``kept`` (it was there), or ``failed``."""
    path: Path
    """Where it lies, or would."""
    url: str
    """Where it came from."""
    size: int
    """Bytes."""
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Report:
    """What a copy did, object by object."""

    target: Path
    """The folder."""
    mirror: str
    """The mirror that served it."""
    outcomes: tuple[Outcome, ...]
    """One for each planned object, in the order of the plan."""
    notice: Path | None = None
    """The notice beside the copy: licences, and whom to cite."""

    @property
    def paths(self) -> list[Path]:
        """Path of every object that is there, in the order of the plan."""
        return [o.path for o in self.outcomes if o.status != "failed"]

    @property
    def failures(self) -> list[Outcome]:
        """Objects that are not there."""
        return [o for o in self.outcomes if o.status == "failed"]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of objects by status."""
        statuses = [outcome.status for outcome in self.outcomes]
        return {s: statuses.count(s) for s in ("fetched", "replaced", "kept", "failed")}

    @property
    def fetched_size(self) -> int:
        """Bytes that were fetched."""
        moved = ("fetched", "replaced")
        return sum(o.size for o in self.outcomes if o.status in moved)

    def _items(self) -> list[tuple[str, object]]:
        items: list[tuple[str, object]] = [
            (status, f"{count:,}") for status, count in self.counts.items()
        ]
        return [
            *items,
            ("bytes fetched", display.bytes_text(self.fetched_size)),
            ("mirror", self.mirror),
            *([("notice", self.notice.name)] if self.notice is not None else []),
        ]

    def __str__(self) -> str:
        lines = [display.pairs(f"Copied to {self.target}", self._items())]
        lines += [f"  failed: {o.url}: {o.reason}" for o in self.failures[:10]]
        more = len(self.failures) - 10
        return "\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])])

    def _repr_html_(self) -> str:
        return display.pairs_html(f"Copied to {self.target}", self._items())


@dataclass(frozen=True)
class Verification:
    """How a folder compares with a plan: names, counts and sizes."""

    target: Path
    """The folder."""
    match: tuple[Path, ...]
    """Objects that are there with the right size."""
    differ: tuple[Path, ...]
    """Objects that are there with another size."""
    missing: tuple[Path, ...]
    """Objects that are not there."""
    extra: tuple[Path, ...]
    """Other files in the folders of the plan's series, notices left out."""

    @property
    def ok(self) -> bool:
        """Whether every object is there with the right size, and no other.

        A folder with objects of another release of a series is not that series.
        Files that are no DICOM objects do not matter.
        """
        foreign = any(path.suffix == ".dcm" for path in self.extra)
        return not self.differ and not self.missing and not foreign

    def _items(self) -> list[tuple[str, object]]:
        return [
            (name, f"{len(getattr(self, name)):,}")
            for name in ("match", "differ", "missing", "extra")
        ]

    def __str__(self) -> str:
        return display.pairs(f"Verified {self.target}", self._items())

    def _repr_html_(self) -> str:
        return display.pairs_html(f"Verified {self.target}", self._items())


def present(target: Path, folders: Iterable[str]) -> dict[str, int]:
    """Give the size of each file in these folders, by path below the target.

    Raises
    ------
    PlanError
        The target is a file; or a folder or file in it is a link, which could lead
        outside.
    """
    if target.exists() and not target.is_dir():
        msg = f"the target {target} is not a folder"
        raise PlanError(msg, path=str(target))
    found: dict[str, int] = {}
    for folder in dict.fromkeys(folders):
        for step in _parents(target, folder):
            if step.is_symlink():
                msg = f"{step} is a link; a copy does not write through links"
                raise PlanError(msg, path=str(step))
        here = target / folder
        if here.exists() and not here.is_dir():
            msg = f"{here} is a file where the copy needs a folder"
            raise PlanError(msg, path=str(here))
        if here.exists():
            for name, size in _files(here):
                found[f"{folder}/{name}" if folder else name] = size
    return found


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Give name and size of each file in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            plain = entry.is_file(follow_symlinks=False)
            if entry.is_symlink() or (entry.name.endswith(".dcm") and not plain):
                msg = f"{entry.path} is not a plain file; move it away"
                raise PlanError(msg, path=entry.path)
            if plain:
                # Another copy into this folder may have renamed its part meanwhile.
                with suppress(FileNotFoundError):
                    yield entry.name, entry.stat().st_size


def _parents(target: Path, folder: str) -> Iterator[Path]:
    step = target
    for name in folder.split("/") if folder else []:
        step /= name
        yield step


def run(plan: Plan, mirror: Mirror, callback: Callback | None = None) -> Report:
    """Carry out a plan.

    Parameters
    ----------
    plan : Plan
        What to do.
    mirror : Mirror
        Where the bytes come from.
    callback : fsspec.callbacks.Callback, optional
        Told of the bytes: size is what the plan fetches.

    Returns
    -------
    Report
        When every object is there.

    Raises
    ------
    TransferError
        Something is not there; ``report`` says what, and why. What was fetched
        stays, and the next run fetches the rest.
    """
    plan.target.mkdir(parents=True, exist_ok=True)
    progress = _Progress(callback, plan.fetch_size)
    act = partial(_act, target=plan.target, mirror=mirror, progress=progress)
    outcomes = tuple(each(act, plan.steps))
    report = Report(plan.target, mirror.name, outcomes)
    if report.failures:
        first = report.failures[0]
        msg = (
            f"{len(report.failures):,} of {len(outcomes):,} objects are not in "
            f"{plan.target}; the first: {first.url}: {first.reason}"
        )
        raise TransferError(msg, report=report)
    return report


class _Progress:
    """Adds up bytes from many threads for one callback."""

    def __init__(self, callback: Callback | None, size: int) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        if callback is not None:
            callback.set_size(size)

    def add(self, count: int) -> None:
        if self._callback is not None:
            with self._lock:
                self._callback.relative_update(count)


def _act(step: Step, target: Path, mirror: Mirror, progress: _Progress) -> Outcome:
    path = target / step.path
    instance = step.instance
    if step.action == "keep":
        return Outcome("kept", path, instance.url, instance.size)
    try:
        pieces = chunks(instance, mirror)
        save(pieces, path, instance.size, instance.url, progress.add)
    except (IDCError, OSError) as error:
        return Outcome("failed", path, instance.url, instance.size, str(error))
    status: Status = "replaced" if step.action == "replace" else "fetched"
    return Outcome(status, path, instance.url, instance.size)


def verify(
    plan: Plan, found: Mapping[str, int], *, checksum: bool = False
) -> Verification:
    """Compare a folder with a plan that was made for it.

    Parameters
    ----------
    plan : Plan
        Made with what is there.
    found : mapping
        What is there, as `present` gives it.
    checksum : bool
        Read every file that is there, and compare its MD5 as well.

    Raises
    ------
    RequestError
        ``checksum`` is asked for, and the MD5 of an object is not known.
    """
    by_action: dict[str, list[Path]] = {"keep": [], "replace": [], "fetch": []}
    for step in plan.steps:
        by_action[step.action].append(plan.target / step.path)
    if checksum:
        same = _same_bytes(plan)
        by_action["replace"] += [p for p in by_action["keep"] if p not in same]
        by_action["keep"] = [p for p in by_action["keep"] if p in same]
    planned = {step.path for step in plan.steps}
    others = (p for p in sorted(set(found) - planned) if not _NOTICES.fullmatch(p))
    extra = tuple(plan.target / path for path in others)
    return Verification(
        plan.target,
        tuple(by_action["keep"]),
        tuple(by_action["replace"]),
        tuple(by_action["fetch"]),
        extra,
    )


def _same_bytes(plan: Plan) -> set[Path]:
    """Give the files whose MD5 is that of their object."""
    kept = [step for step in plan.steps if step.action == "keep"]
    for step in plan.steps:
        if step.instance.md5 is None:
            msg = (
                f"the MD5 of {step.instance.url} is not known; give the cohort a table "
                "of its objects with hashes, by with_instances(...)"
            )
            raise RequestError(msg, url=step.instance.url)
    hashed = each(_md5, [plan.target / step.path for step in kept])
    return {
        plan.target / step.path
        for step, md5 in zip(kept, hashed, strict=True)
        if md5 == step.instance.md5
    }


def _md5(path: Path) -> str:
    # Not against an attacker: it is what IDC publishes.
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                md5.update(chunk)
    except OSError:
        # What cannot be read, or is gone by now, is not the object.
        return ""
    return md5.hexdigest()


def put_notice(target: Path, text: str, manifest: str) -> Path:
    """Put a notice beside a copy, whole or not at all.

    A notice speaks of one cohort, which its manifest's digest names, so notices are
    not merged. The first cohort that is copied to a folder has ``NOTICE.txt``. Where
    a file of that name speaks of another cohort, or is not ours, it stays, and the
    notice is ``NOTICE-<first 12 digits of the digest>.txt``. A notice of the same
    cohort is replaced, or left alone where it says the same.

    Parameters
    ----------
    target : Path
        The folder of the copy.
    text : str
        What `Citations.notice` gives, with the digest in it.
    manifest : str
        The digest.

    Raises
    ------
    PlanError
        What has the name is not a plain file.
    """
    data = text.encode()
    plain, named = target / NOTICE, target / f"NOTICE-{manifest[:12]}.txt"
    part = target / f".idc-{os.getpid()}-{secrets.token_hex(8)}.part"
    try:
        part.write_bytes(data)
        if not _speaks_of(named, manifest):
            if _speaks_of(plain, manifest) or _put_new(part, plain):
                named = plain
            elif _speaks_of(plain, manifest):
                # Another copy of the same cohort was faster.
                named = plain
        if os.path.lexists(named):
            if named.is_symlink() or not named.is_file():
                msg = f"{named} is not a plain file; move it away for the notice"
                raise PlanError(msg, path=str(named))
            if named.read_bytes() == data:
                return named
        part.replace(named)
    finally:
        part.unlink(missing_ok=True)
    return named


def _speaks_of(path: Path, manifest: str) -> bool:
    """Whether a file is the notice of this cohort."""
    if path.is_symlink() or not path.is_file():
        return False
    lines = path.read_bytes().splitlines()
    return f"{MANIFEST_LINE}{manifest}".encode() in lines


def _put_new(part: Path, path: Path) -> bool:
    """Give a file a second name, unless the name is taken."""
    if os.path.lexists(path):
        return False
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links.
        part.replace(path)
    return True


def as_rows(report: Report) -> list[dict[str, Any]]:
    """Give a report as plain rows, for JSON lines or a data frame."""
    return [
        {
            "status": outcome.status,
            "path": str(outcome.path),
            "url": outcome.url,
            "size": outcome.size,
            "reason": outcome.reason,
        }
        for outcome in report.outcomes
    ]
