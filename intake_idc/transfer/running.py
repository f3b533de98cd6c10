"""Carry out a plan, as many objects at once as help."""

from __future__ import annotations

import errno
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from intake_idc.errors import IDCError, IntegrityError, TransferError
from intake_idc.storage import (
    Answers,
    StoppedError,
    Ways,
    gather,
    most_together,
    open_store,
    tally,
)
from intake_idc.transfer.account import Account
from intake_idc.transfer.fetching import (
    FAILED,
    Done,
    Fetcher,
    Progress,
)
from intake_idc.transfer.hashing import QUICK, check_checksum
from intake_idc.transfer.large import Range
from intake_idc.transfer.places import FOLDER_OF_RECORDS, LocalPlace
from intake_idc.transfer.records import Journal
from intake_idc.transfer.remote import RemotePlace, target_of
from intake_idc.transfer.requests import request
from intake_idc.transfer.sources import Sources, most_threads_of
from intake_idc.transfer.space import check_space

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan, Row
    from intake_idc.storage import Mirror
    from intake_idc.transfer.hashing import Checksum
    from intake_idc.transfer.records import Origin
    from intake_idc.transfer.remote import Target
    from intake_idc.transfer.report import Report

__all__ = ["CANCELLED", "Limits", "failed", "run"]

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a file system says that has no room left."""
CANCELLED = "the copy was cancelled"
"""Why objects are not there that were given up from another thread."""


@dataclass(frozen=True)
class Limits:
    """When a copy ends before it is done."""

    timeout: float | None = None
    """Seconds after which what is not there is given up."""
    cancel: threading.Event | None = None
    """Set from another thread to give up what is not there."""
    threads: int | None = None
    """Requests in flight at most, and threads; None is as many as this process may
    have."""
    began: float = field(default_factory=time.monotonic)
    """When the seconds of ``timeout`` began, on the clock of this process."""

    def why(self) -> str | None:
        """Say why the copy is to end now; None where it may go on."""
        if self.cancel is not None and self.cancel.is_set():
            return CANCELLED
        if self.timeout is not None and time.monotonic() > self.began + self.timeout:
            return f"it was not there after {self.timeout:g} seconds"
        return None


def run(
    plan: Plan,
    mirror: Mirror | None = None,
    callback: Callback | None = None,
    *,
    checksum: Checksum | None = None,
    limits: Limits | None = None,
    target: Target | None = None,
    record: Origin | None = None,
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
    target : Target, optional
        How the plan's target is reached, where that is a store; by default as its
        own tools do.
    record : Origin, optional
        Of what cohort the plan is. What is done is then written down in the folder,
        where that is one of this machine; see `intake_idc.transfer.records`.

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
    NoSpace
        There is no room for what it fetches; nothing was done.
    """
    check_checksum(checksum)
    plan.check()
    place = (target or target_of(plan.target)).place()
    if isinstance(place, LocalPlace):
        place.remove_stale(_folders(plan))
        check_space(plan, place.target)
    own = plan.mirror if mirror is None else mirror
    if isinstance(place, RemotePlace):
        # What it cannot is said before a byte moves.
        place.copies(own, checksum)
    if plan.moved.any():
        place.open()
    progress = Progress(callback, plan.fetch_size)
    limits = limits or Limits()
    copy = _Copy(plan, place, own, progress, checksum, limits.threads)
    began = time.monotonic()
    journal = Journal(plan, place, record)
    journal.begin()
    look = journal.along(copy.looking(limits), copy.account.so_far)
    running = copy.run(look)
    try:
        # An interrupt may come anywhere, and twice.
        with closing(running):
            for done in running:
                if done is not None:
                    copy.account.take(done)
    finally:
        copy.sources.close()
        copy.fetcher.leave()
        journal.end(copy.account.so_far())
        if isinstance(place, LocalPlace):
            place.close()
    report = copy.report(time.monotonic() - began)
    if report.reasons:
        raise failed(report, copy.account.code)
    return report


def _folders(plan: Plan) -> Iterator[str]:
    """Give every folder below the target that a copy may have left a part in."""
    yield from ("", FOLDER_OF_RECORDS)
    yield from filter(None, dict.fromkeys(plan.series.column("folder").to_pylist()))


def failed(report: Report, exit_code: int) -> TransferError:
    """Give what is raised of a report in which something is not there."""
    msg = (
        f"{len(report.reasons):,} of {len(report.plan):,} objects are not in "
        f"{report.target}; the first: {report.first_failures(1)[0].why}"
    )
    return TransferError(msg, report=report, exit_code=exit_code)


def _row(task: Row | Range) -> Row:
    return task.large.row if isinstance(task, Range) else task


class _Copy:
    """One run of a plan: what is to be done, and what became of it."""

    def __init__(
        self,
        plan: Plan,
        place: LocalPlace | RemotePlace,
        mirror: Mirror,
        progress: Progress,
        checksum: Checksum | None,
        threads: int | None = None,
    ) -> None:
        self.plan, self.mirror = plan, mirror
        most = most_threads_of(mirror)
        if isinstance(place, RemotePlace):
            most = min(most, place.most)
        together = most_together()
        self._most = min(together, threads or together), min(most, threads or most)
        self._stopped = threading.Event()
        self.fetcher = Fetcher(plan, place, progress, checksum, self._stopped)
        self.sources = Sources(mirror, self.fetcher)
        self.account = Account(plan, self.sources.names)
        self._hashed = checksum is not None and checksum not in QUICK
        self._why = "the copy was given up"

    # What is to be done.

    def run(self, look: Callable[[], None]) -> Generator[Done | None, None, None]:
        """Fetch all there is to fetch; give what becomes of each as it does."""
        local = isinstance(self.fetcher.place, LocalPlace)
        ways: Ways[Row | Range, Done | None] = Ways(
            partial(request, self.fetcher) if local else None,
            self._do,
            lambda done: done and done._replace(retries=done.retries + 1),
            lambda done: done is not None and done.status != FAILED,
        )
        yield from gather(
            self._tasks(),
            self.mirror,
            ways,
            answers=self._answers(),
            most=self._most,
            latency=self._latency,
            stopped=self._stopped,
            look=look,
        )

    def _answers(self) -> Answers:
        plan = self.plan
        size = plan.fetch_size // max(1, int(plan.moved.sum()))
        known = plan.objects.column("md5").null_count < len(plan)
        hashed = self._hashed or (known and plan.fetch_size > 0)
        return Answers(size, hashed)

    def _latency(self) -> float | None:
        # Of what was listed it is known how long a request takes.
        if not len(self.plan):
            return None
        return open_store(self.mirror, self.plan.bucket(0)).latency

    def _tasks(self) -> Iterator[Row | Range]:
        """Give what is taken one after the other: objects, and ranges of some."""
        for row in self.plan.rows(moved=True):
            yield from self.sources.tasks(row)

    def _do(self, task: Row | Range) -> Done | None:
        """Do one task; None where its object is not done with it."""
        row = _row(task)
        before = tally()
        try:
            found = self.sources.fetch(task)
        except StoppedError:
            return Done(row.row, FAILED, self._why, kind="stopped")
        except (IDCError, OSError) as error:
            return self._failed(row, error)
        return found and found._replace(retries=found.retries + tally() - before)

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
        self._stopped.set()

    def looking(self, limits: Limits) -> Callable[[], None]:
        """Give what looks now and then whether the copy is to end."""

        def look() -> None:
            why = limits.why()
            if why is not None:
                self.stop(why)

        return look

    def report(self, seconds: float) -> Report:
        """Give the report; what was not begun has failed."""
        return self.account.report(seconds, self._why)
