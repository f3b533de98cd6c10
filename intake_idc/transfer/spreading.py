"""A copy by the workers of a Dask cluster, each of which sees the target.

The plan is made once and cut into shares, whole series in a row where they are not too
large. A share is a compact value; whoever gets it carries it out as a copy of its own,
and tells in a compact value what became of it. Nothing is locked: parts belong to one
process, names are given as the last act, and what is there when a share begins is kept.
So a share of a worker that was lost is done again by another.

A word that the client puts into the target says that the copy goes on. Workers look
for it: one that does not see it sees another folder, and when it is gone they end.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from intake_idc.errors import (
    IDCError,
    PlanError,
    RequestError,
    StorageError,
    TransferError,
)
from intake_idc.files import part_name
from intake_idc.plan import ACTIONS, Plan
from intake_idc.transfer.account import NOBODY, Account
from intake_idc.transfer.fetching import FAILED, Done
from intake_idc.transfer.hashing import check_checksum
from intake_idc.transfer.places import FOLDER_OF_RECORDS, LocalPlace
from intake_idc.transfer.records import Journal
from intake_idc.transfer.remote import target_of
from intake_idc.transfer.report import Report
from intake_idc.transfer.running import CANCELLED, Limits, failed, run
from intake_idc.transfer.shares import cut, packed, unpacked
from intake_idc.transfer.space import check_space

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from fsspec.callbacks import Callback

    from intake_idc.storage import Mirror
    from intake_idc.transfer.hashing import Checksum
    from intake_idc.transfer.records import Origin
    from intake_idc.transfer.remote import RemotePlace, Target

__all__ = ["Client", "spread"]

AHEAD = 2
"""Shares for each thread that the scheduler holds, those that run among them."""
THREADS = 64
"""Requests in flight, and threads for them, of all workers on one machine: more do not
make a copy faster."""
RETRIES = 2
"""How often a share is begun again that raised something."""
LOOK_SECONDS = 0.05
"""Seconds between two looks of the client."""
WORD_SECONDS = 0.5
"""Seconds between two looks of a worker whether the copy goes on."""
STORE_SECONDS = 2.0
"""The same of a word in a store, where each look is a request."""
LEAVE_SECONDS = 10.0
"""Seconds that shares have to end when the copy is given up."""
WAIT_SECONDS = 5.0
"""Seconds that an outcome may take to come from its worker."""

_FETCH, _KEEP = ACTIONS.index("fetch"), ACTIONS.index("keep")


class Client(Protocol):
    """What is used of `distributed.Client`."""

    def submit(self, function: Any, *args: Any, **options: Any) -> Any:
        """Begin a task."""

    def cancel(self, futures: Any) -> Any:
        """Give tasks up."""

    def run(self, function: Any, *args: Any, **options: Any) -> Any:
        """Call a function in every worker."""

    def nthreads(self) -> Any:
        """Give the threads of each worker, by its address."""


@dataclass(frozen=True)
class Asked:
    """What all shares of a copy have in common; holds no secret."""

    target: Target
    mirror: Mirror
    name: str
    """Name of the word below the target."""
    word: bytes
    """What it holds."""
    checksum: Checksum | None
    threads: int
    """Threads of one share."""


@dataclass(frozen=True)
class Outcome:
    """What became of the objects of a share, in their order."""

    statuses: bytes = b""
    mirrors: tuple[str, ...] = ()
    served: bytes = b""
    mtimes: bytes = b""
    """Numbers of 8 bytes."""
    reasons: dict[int, str] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    retries: dict[int, int] = field(default_factory=dict)
    code: int = 0
    """Exit code of the share."""
    blind: str = ""
    """Of a worker that does not see the word: what it is called."""


# In a worker.


def carry_out(share: bytes, asked: Asked) -> Outcome:
    """Carry out a share; what fails is told, not raised."""
    place = asked.target.place()
    if not sees(asked):
        import platform

        return Outcome(blind=platform.node())
    plan = _kept(unpacked(share, asked.target.root, asked.mirror), place)
    code = 0
    with _going_on(asked) as ended:
        try:
            report = run(
                plan,
                checksum=asked.checksum,
                limits=Limits(cancel=ended, threads=asked.threads),
                target=asked.target,
            )
        except TransferError as error:
            report, code = error.report, error.exit_code
        except IDCError as error:
            # Such as a disk that is full by now.
            reasons = dict.fromkeys(range(len(plan)), str(error))
            none = bytes([NOBODY]) * len(plan)
            report = Report(plan, bytes([FAILED]) * len(plan), reasons, (), none)
            code = error.exit_code
    return _outcome(report, code)


def sees(asked: Asked) -> bool:
    """Whether the word is there, as the client put it."""
    return _read(asked.target.place(), asked.name) == asked.word


def _kept(plan: Plan, place: LocalPlace | RemotePlace) -> Plan:
    """Keep what is there by now, when the share was begun by one that was lost."""
    import pyarrow as pa

    folders = plan.series.column("folder").to_pylist()
    place.expect(folders)
    actions, seen = plan.column("action").copy(), dict[str, Any]()
    for row in plan.rows():
        folder = folders[row.series]
        if folder not in seen:
            # What may not be written to is told object by object.
            seen = {folder: {}}
            with suppress(PlanError):
                seen = {folder: place.present(folder)}
        if row.action == _FETCH and seen[folder].get(row.file) == row.size:
            actions[row.row] = _KEEP
    at = plan.objects.column_names.index("action")
    objects = plan.objects.set_column(at, "action", pa.array(actions))
    return replace(plan, objects=objects)


@contextmanager
def _going_on(asked: Asked) -> Iterator[threading.Event]:
    """Give what is set when the word is gone."""
    ended, done = threading.Event(), threading.Event()
    place = asked.target.place()

    def look() -> None:
        seconds = WORD_SECONDS if isinstance(place, LocalPlace) else STORE_SECONDS
        while not done.wait(seconds):
            # A store that does not answer for a while says nothing.
            with suppress(StorageError):
                if _read(place, asked.name) is None:
                    ended.set()
                    return

    thread = threading.Thread(target=look, name="intake-idc-word", daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        done.set()


def _outcome(report: Report, code: int) -> Outcome:
    import numpy as np

    mtimes = np.zeros(len(report.plan), np.int64)
    for row, mtime in report.mtimes.items():
        mtimes[row] = mtime
    return Outcome(
        report.statuses,
        report.mirrors,
        report.served,
        mtimes.tobytes(),
        dict(report.reasons),
        dict(report.hashes),
        dict(report.retries),
        code,
    )


# The word.


def _read(place: LocalPlace | RemotePlace, name: str) -> bytes | None:
    if isinstance(place, LocalPlace):
        with suppress(FileNotFoundError):
            return (place.target / name).read_bytes()
        return None
    return place.read(name)


def _put(place: LocalPlace | RemotePlace, name: str, word: bytes) -> None:
    place.open()
    place.remove_stale([FOLDER_OF_RECORDS])
    if not isinstance(place, LocalPlace):
        place.write(name, word)
        return
    # Not by its path: a link could lead it outside.
    folder, _, file = name.rpartition("/")
    part = place.part(folder, file)
    try:
        part.write((word,))
        part.commit()
    finally:
        part.discard()


def _remove(place: LocalPlace | RemotePlace, name: str) -> None:
    if isinstance(place, LocalPlace):
        path = place.target / name
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
    else:
        place.remove(name)


# The client.


def spread(
    client: Client,
    plan: Plan,
    callback: Callback | None = None,
    *,
    checksum: Checksum | None = None,
    limits: Limits | None = None,
    target: Target | None = None,
    record: Origin | None = None,
) -> Report:
    """Carry out a plan by the workers of a cluster; see `intake_idc.transfer.run`.

    Workers on one machine have 64 threads together, or one for each that they were
    given where that is more.

    Parameters
    ----------
    client : distributed.Client
        Of a cluster whose workers see the target, have this package, and find
        credentials by themselves where the target needs some.
    plan, callback, checksum, limits, target, record
        As of `run`. The callback is told when shares are done, and the record is
        written by this process alone.

    Raises
    ------
    TransferError
        As in `run`; a share whose workers were lost again and again is not there.
    PlanError
        As in `run`; or a worker does not see the target.
    RequestError
        The client is none, or is asynchronous.
    """
    check_checksum(checksum)
    plan.check()
    _check_client(client)
    target = target or target_of(plan.target)
    began = time.monotonic()
    if callback is not None:
        callback.set_size(plan.fetch_size)
    cluster = _Cluster(client, plan, callback)
    place = target.place()
    if isinstance(place, LocalPlace):
        check_space(plan, place.target)
    else:
        place.copies(plan.mirror, checksum)
    journal = Journal(plan, place, record)
    journal.begin()
    try:
        cluster.go(target, checksum, limits or Limits())
    finally:
        journal.end(cluster.account.so_far())
    report = cluster.report(time.monotonic() - began)
    if report.reasons:
        raise failed(report, cluster.account.code)
    return report


def _check_client(client: object) -> None:
    for name in ("submit", "cancel", "run", "nthreads"):
        if not callable(getattr(client, name, None)):
            msg = f"client is a distributed.Client; got {client!r}"
            raise RequestError(msg)
    if getattr(client, "asynchronous", False):
        msg = "the client is asynchronous; give one that waits: Client(address)"
        raise RequestError(msg)


def _busiest(nthreads: dict[str, int]) -> int:
    """Give the threads of all workers on the machine that has most."""
    counts: dict[str, int] = {}
    for address, count in nthreads.items():
        host = address.split("://")[-1].split("/")[0].rsplit(":", 1)[0]
        counts[host] = counts.get(host, 0) + count
    return max(counts.values(), default=1)


class _Cluster:
    """One plan on its way through a cluster."""

    def __init__(self, client: Client, plan: Plan, callback: Callback | None) -> None:
        self._client, self.plan, self._callback = client, plan, callback
        self.account = Account(plan, (own.name for own in plan.mirror.every))
        self._why = ""

    def go(self, target: Target, checksum: Checksum | None, limits: Limits) -> None:
        """Have every share carried out, and note what became of it."""
        if not self.plan.moved.any():
            return
        place = target.place()
        asked = Asked(
            target,
            self.plan.mirror,
            f"{FOLDER_OF_RECORDS}/{part_name()}",
            secrets.token_hex(16).encode(),
            checksum,
            max(1, THREADS // max(1, _busiest(self._client.nthreads()))),
        )
        _put(place, asked.name, asked.word)
        running: dict[Any, np.ndarray[Any, Any]] = {}
        try:
            self._check_seen(asked)
            self._run(asked, limits, running)
        except IDCError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever a client may raise)
            # Its scheduler is gone, or it was closed: what is done is told.
            self._why = f"the cluster went away: {type(error).__name__}: {error}"
        finally:
            _remove(place, asked.name)
            self._leave(running)

    def _run(
        self, asked: Asked, limits: Limits, running: dict[Any, np.ndarray[Any, Any]]
    ) -> None:
        shares = deque(cut(self.plan, self._threads()))
        numbers, looked, threads = 0, time.monotonic(), self._threads()
        while shares or running:
            why = limits.why()
            if why is not None:
                self._why = why
                return
            if time.monotonic() > looked + WAIT_SECONDS:
                # A cluster may grow.
                looked, threads = time.monotonic(), self._threads()
            while shares and len(running) < AHEAD * threads:
                rows = shares.popleft()
                numbers += 1
                future = self._client.submit(
                    carry_out,
                    packed(self.plan, rows),
                    asked,
                    key=f"intake-idc-copy-{asked.word.decode()}-{numbers}",
                    pure=False,
                    retries=RETRIES,
                    priority=-numbers,
                )
                running[future] = rows
            if not self._take(running):
                time.sleep(LOOK_SECONDS)

    def _threads(self) -> int:
        return max(1, int(sum(self._client.nthreads().values())))

    def _check_seen(self, asked: Asked) -> None:
        """Look at the word from every worker that is there.

        Raises
        ------
        PlanError
            One does not see it.
        """
        found = self._client.run(sees, asked, on_error="return")
        for address, seen in found.items():
            if seen is False:
                raise self._blind(address)

    def _blind(self, worker: str) -> PlanError:
        msg = (
            f"worker {worker} does not see the files of {self.plan.target}; a copy by "
            "a cluster goes to a folder that all of its machines share, or to a store"
        )
        return PlanError(msg, worker=worker)

    def _take(self, running: dict[Any, np.ndarray[Any, Any]]) -> bool:
        """Note the shares that are done; whether there were any."""
        done = [future for future in running if future.done()]
        for future in done:
            if future.status in ("cancelled", "lost"):
                self._lost(running.pop(future), "its cluster gave it up")
                continue
            try:
                outcome = future.result(timeout=WAIT_SECONDS)
            except (TimeoutError, asyncio.TimeoutError):
                # Its worker was lost with it: it is done again.
                continue
            except Exception as error:  # noqa: BLE001  (whatever a task may raise)
                said = f"{type(error).__name__}: {error}"
                self._lost(running.pop(future), f"its worker failed: {said}")
            else:
                rows = running.pop(future)
                if outcome.blind and not self._why:
                    raise self._blind(outcome.blind)
                self._note(rows, outcome)
        return bool(done)

    def _leave(self, running: dict[Any, np.ndarray[Any, Any]]) -> None:
        """Wait until the shares that run have seen that the copy is over."""
        self._why = self._why or "the copy was given up"
        until = time.monotonic() + LEAVE_SECONDS
        try:
            while running and time.monotonic() < until:
                if not self._take(running):
                    time.sleep(LOOK_SECONDS)
        finally:
            if running:
                # Of a scheduler that is gone nothing can be taken back.
                with suppress(OSError):
                    self._client.cancel(list(running))

    def _lost(self, rows: Iterable[int], why: str) -> None:
        for row in rows:
            self.account.take(Done(int(row), FAILED, why))

    def _note(self, rows: np.ndarray[Any, Any], outcome: Outcome) -> None:
        import numpy as np

        if outcome.blind:
            return
        mirrors = self.account.mirrors
        mirrors += [name for name in outcome.mirrors if name not in mirrors]
        served = {at: mirrors.index(name) for at, name in enumerate(outcome.mirrors)}
        mtimes = np.frombuffer(outcome.mtimes, np.int64).tolist()
        moved = 0
        sizes = self.plan.column("size")[rows].tolist()
        for at, row in enumerate(rows.tolist()):
            status = outcome.statuses[at]
            why = outcome.reasons.get(at, "")
            done = Done(
                row,
                status,
                (self._why if why == CANCELLED else "") or why,
                outcome.hashes.get(at, ""),
                mtimes[at],
                outcome.retries.get(at, 0),
                served.get(outcome.served[at] if outcome.served else NOBODY, NOBODY),
            )
            self.account.take(done)
            moved += sizes[at] if status != FAILED else 0
        if outcome.reasons:
            self.account.code = max(self.account.code, outcome.code)
        if self._callback is not None:
            self._callback.relative_update(moved)

    def report(self, seconds: float) -> Report:
        """Put the report together, as if one process had done it."""
        return self.account.report(seconds, self._why)
