"""Carry out a plan, as many objects at once as help."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intake_idc.errors import IDCError, IntegrityError, TransferError
from intake_idc.plan import ACTIONS
from intake_idc.storage import Threads, most_threads, tally
from intake_idc.transfer.fetching import (
    FAILED,
    KEPT,
    Done,
    Fetcher,
    Progress,
    StoppedError,
)
from intake_idc.transfer.hashing import check_checksum
from intake_idc.transfer.large import SPLIT, Large, Range, ranges
from intake_idc.transfer.places import LocalPlace
from intake_idc.transfer.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan, Row
    from intake_idc.storage import Mirror
    from intake_idc.transfer.hashing import Checksum

__all__ = ["Limits", "run"]

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a file system says that has no room left."""
NOBODY = 255
"""Stands for the mirror of what none served, and for what is not done."""


@dataclass(frozen=True)
class Limits:
    """When a copy ends before it is done."""

    timeout: float | None = None
    """Seconds after which what is not there is given up."""
    cancel: threading.Event | None = None
    """Set from another thread to give up what is not there."""


def run(
    plan: Plan,
    mirror: Mirror | None = None,
    callback: Callback | None = None,
    *,
    checksum: Checksum | None = None,
    limits: Limits | None = None,
) -> Report:
    """Carry out a plan.

    Parameters
    ----------
    plan : Plan
        What to do.
    mirror : Mirror, optional
        Where the bytes come from; that of the plan by default.
    callback : fsspec.callbacks.Callback, optional
        Told of the bytes: size is what the plan fetches.
    checksum : "md5", "crc32c", "sha256" or "blake2b", optional
        Computed of every byte while it is written. An MD5 that the release states is
        compared in any case.
    limits : Limits, optional
        When to end before it is done.

    Returns
    -------
    Report
        When every object is there.

    Raises
    ------
    TransferError
        Something is not there; ``report`` says what, and why. What was fetched
        stays, and the next run fetches the rest.
    PlanError
        Objects of the plan collide, or cannot have their paths; nothing was done.
    """
    check_checksum(checksum)
    plan.check()
    place = LocalPlace(plan.target)
    if plan.moved.any():
        place.open()
    own = plan.mirror if mirror is None else mirror
    progress = Progress(callback, plan.fetch_size)
    copy = _Copy(plan, place, own, progress, checksum)
    began = time.monotonic()
    try:
        for done in copy.threads.run(copy.tasks(), copy.looking(limits or Limits())):
            if done is not None:
                copy.take(done)
    finally:
        copy.fetcher.leave()
    report = copy.report(time.monotonic() - began)
    if report.reasons:
        raise _failed(report, copy.kinds)
    return report


def _failed(report: Report, kinds: set[str]) -> TransferError:
    msg = (
        f"{len(report.reasons):,} of {len(report.plan):,} objects are not in "
        f"{report.target}; the first: {report.failures[0].why}"
    )
    code = 6 if "space" in kinds else 5 if "hash" in kinds else 4
    return TransferError(msg, report=report, exit_code=code)


class _Copy:
    """One run of a plan: what is to be done, and what became of it."""

    def __init__(
        self,
        plan: Plan,
        place: LocalPlace,
        mirror: Mirror,
        progress: Progress,
        checksum: Checksum | None,
    ) -> None:
        self.plan, self.mirror = plan, mirror
        self.threads: Threads[Row | Range, Done | None]
        self.threads = Threads(self._do, most_threads())
        self.fetcher = Fetcher(plan, place, progress, checksum, self.threads.stopped)
        self.kinds: set[str] = set()
        self._why = "the copy was given up"
        self._statuses = bytearray([NOBODY]) * len(plan)
        self._served = bytearray([NOBODY]) * len(plan)
        self._reasons: dict[int, str] = {}
        self._hashes: dict[int, str] = {}
        self._retries: dict[int, int] = {}
        self._mtimes: dict[int, int] = {}

    # What is to be done.

    def tasks(self) -> Iterator[Row | Range]:
        """Give what threads take one after the other: objects, and ranges of some."""
        for row in self.plan.rows(moved=True):
            if row.size <= SPLIT:
                yield row
            else:
                yield from ranges(Large(self.fetcher, row, self.mirror))

    def _do(self, task: Row | Range) -> Done | None:
        """Do one task; None where its object is not done with it."""
        row = task.large.row if isinstance(task, Range) else task
        before = tally()
        try:
            found = self._fetched(task)
        except StoppedError:
            return Done(row.row, FAILED, self._why, kind="stopped")
        except (IDCError, OSError) as error:
            return self._failed(row, error)
        return found and found._replace(retries=tally() - before)

    def _fetched(self, task: Row | Range) -> Done | None:
        if not isinstance(task, Range):
            return self.fetcher.fetch(task, self.mirror)
        try:
            return task.large.fetch(task.start, task.stop)
        except IntegrityError:
            return self.fetcher.fetch(task.large.row, self.mirror)

    def _failed(self, row: Row, error: Exception) -> Done:
        kind = "hash" if isinstance(error, IntegrityError) else ""
        if isinstance(error, OSError) and error.errno in FULL:
            kind = "space"
            self.stop(f"there is no space left in {self.plan.target}")
        return Done(row.row, FAILED, str(error), kind=kind)

    # The end.

    def stop(self, why: str) -> None:
        """End the copy; what is not there yet is said to have failed for this."""
        self._why = why
        self.threads.stopped.set()

    def looking(self, limits: Limits) -> Callable[[], None]:
        """Give what looks now and then whether the copy is to end."""
        until = None if limits.timeout is None else time.monotonic() + limits.timeout

        def look() -> None:
            if limits.cancel is not None and limits.cancel.is_set():
                self.stop("the copy was cancelled")
            elif until is not None and time.monotonic() > until:
                self.stop(f"it was not there after {limits.timeout:g} seconds")

        return look

    def take(self, done: Done) -> None:
        """Note what became of an object."""
        row = done.row
        if self._statuses[row] != NOBODY:
            # A large object that failed is told by each of its ranges.
            return
        self._statuses[row] = done.status
        if done.status == FAILED:
            self._reasons[row] = done.reason
            self.kinds.add(done.kind)
            return
        self._served[row] = done.mirror
        self._mtimes[row] = done.mtime
        if done.hash:
            self._hashes[row] = done.hash
        if done.retries:
            self._retries[row] = done.retries

    def report(self, seconds: float) -> Report:
        """Give the report; what was not begun has failed."""
        keep = ACTIONS.index("keep")
        for row, action in enumerate(self.plan.column("action").tolist()):
            if self._statuses[row] != NOBODY:
                continue
            self._statuses[row] = KEPT if action == keep else FAILED
            if action != keep:
                self._reasons[row] = self.plan.reasons.get(row, self._why)
        return Report(
            self.plan,
            bytes(self._statuses),
            self._reasons,
            (self.mirror.name,),
            bytes(self._served),
            self._hashes,
            self._retries,
            self._mtimes,
            seconds,
        )
