"""A million instances through a scheduler, and a hundred thousand headers over HTTP.

The first has a reader that reads nothing: what is measured is the graph, a scheduler
and two workers, each a process. The second reads the headers of objects that
`tests/faults.py` serves as S3 on loopback, on the same cores, with two workers of one
thread.

    python benchmarks/scale.py --objects 100000
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
from distributed import Client, LocalCluster
from lazy import BUCKET, CT, KEYWORDS, SERVER, make_series
from measuring import versions

from intake_idc import lazy, open_idc, resolve_mirror
from intake_idc.lazy.bags import bag_of
from intake_idc.manifest import Manifest

A_SERIES = 100
"""Objects of a series in the second part."""


def count_instances(piece: object) -> list[int]:
    """Read nothing."""
    return [sum(part.instances for part in piece.parts())]


class Peak:
    """The largest resident set of processes, looked at ten times a second."""

    def __init__(self, **ids: int) -> None:
        self.mib = dict.fromkeys(ids, 0.0)
        self._ids, self._ended = ids, threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            for name, pid in self._ids.items():
                status = Path(f"/proc/{pid}/status").read_text()
                found = re.search(r"VmRSS:\s+(\d+)", status)
                if found:
                    self.mib[name] = max(self.mib[name], int(found[1]) / 1024)

    def end(self) -> str:
        """Stop looking, and say what was seen."""
        self._ended.set()
        return ", ".join(f"{name} {mib:.0f} MiB" for name, mib in self.mib.items())


def million() -> None:
    """Send a graph of a million instances of CT through a cluster."""
    manifest = open_idc(25).search(Modality="CT").manifest()
    counts = np.cumsum(manifest.table.column("instanceCount").to_pylist())
    some = manifest.take(list(range(int(np.searchsorted(counts, 10**6)) + 1)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        where = ["--scheduler-file", str(file), "--no-dashboard"]
        local = ["--host", "127.0.0.1", "--port", "0"]
        one = ["--nthreads", "1", "--no-nanny"]
        running = [_start("dask_scheduler", [*local, *where])]
        while not file.exists():
            time.sleep(0.1)
        running += [_start("dask_worker", [*one, *where]) for _ in range(2)]
        try:
            with Client(scheduler_file=str(file)) as client:
                client.wait_for_workers(2)
                peak = Peak(scheduler=running[0].pid, client=os.getpid())
                start = time.perf_counter()
                bag = bag_of(count_instances, some, "count", None, None)
                built = time.perf_counter() - start
                total = sum(client.gather(client.compute(bag)))
                spent = time.perf_counter() - start
                seen = peak.end()
        finally:
            for process in running:
                process.kill()
                process.wait()
    print(
        f"{total:,} instances, {bag.npartitions:,} tasks: built in {built:.2f} s, done "
        f"in {spent:.1f} s; peak {seen}"
    )


def _start(module: str, options: list[str]) -> subprocess.Popen:
    path = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{module}", *options],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def headers(count: int) -> None:
    """Read the headers of many objects over HTTP, on a cluster of two processes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_series(folder, rows=64)
        manifest = _linked(folder, count)
        command = [sys.executable, str(SERVER), "--root", str(folder)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
            LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            port = (server.stdout or sys.stdin).readline().strip()
            endpoint = f"http://127.0.0.1:{port}"
            mirror = resolve_mirror("s3://{aws_bucket}", endpoint_url=endpoint)
            workers = client.run(os.getpid).values()
            ids = {f"worker {i}": pid for i, pid in enumerate(workers)}
            peak = Peak(**{"scheduler and client": os.getpid()}, **ids)
            start = time.perf_counter()
            frame = lazy.headers(manifest, mirror, KEYWORDS)
            found = frame.map_partitions(len).compute()
            spent = time.perf_counter() - start
            with urllib.request.urlopen(f"{endpoint}/-/requests") as answer:  # noqa: S310
                requests = len(json.load(answer))
            seen = peak.end()
            server.terminate()
    print(
        f"{int(found.sum()):,} headers of {len(KEYWORDS)} tags in {frame.npartitions} "
        f"partitions: {spent:.1f} s, {int(found.sum()) / spent:.0f} a second, "
        f"{requests:,} requests; peak {seen}"
    )


def _linked(folder: Path, count: int) -> Manifest:
    """Link a series again and again, each time under other names."""
    files = sorted((folder / BUCKET / CT).iterdir())[:A_SERIES]
    size = sum(file.stat().st_size for file in files) / 1e6
    uuids = [str(UUID(int=2**100 + i)) for i in range(count // A_SERIES)]
    for number, uuid in enumerate(uuids):
        (folder / BUCKET / uuid).mkdir()
        for i, file in enumerate(files):
            name = UUID(int=2**100 + number * A_SERIES + i)
            os.link(file, folder / BUCKET / uuid / f"{name}.dcm")
    table = {
        "crdc_series_uuid": uuids,
        "aws_bucket": [BUCKET] * len(uuids),
        "instanceCount": [A_SERIES] * len(uuids),
        "series_size_MB": [size] * len(uuids),
        "row_source": ["idc_index"] * len(uuids),
    }
    return Manifest(pa.table(table), 25)


def main() -> None:
    """Print one line for each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=100_000)
    given = parser.parse_args()
    names = ("intake-idc", "dask", "distributed", "pydicom", "obstore", "pandas")
    print(versions(sys.executable, *names), f"; load {os.getloadavg()[0]:.1f}")
    # In this order: what the first leaves in memory would count in the second.
    headers(given.objects)
    million()


if __name__ == "__main__":
    main()
