"""A million instances through a scheduler and workers in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from intake_idc import open_idc
from intake_idc.lazy.bags import bag_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCHEDULER_MIB = 250
"""What a scheduler may take for a million instances."""


def count_instances(piece):
    """A reader that reads nothing: only graph, scheduler and rows are on trial."""
    return [sum(part.instances for part in piece.parts())]


def command(module, *options):
    return [sys.executable, "-m", f"distributed.cli.{module}", *options]


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, each a process; gives the scheduler's id, too."""
    file = tmp_path / "scheduler.json"
    # Workers find this module by its name.
    path = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "PYTHONPATH": path},
        "cwd": tmp_path,
    }
    where = ("--scheduler-file", str(file), "--no-dashboard")
    local = ("--host", "127.0.0.1", "--port", "0")
    running = [subprocess.Popen(command("dask_scheduler", *local, *where), **quiet)]
    try:
        deadline = time.monotonic() + 30
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        running += [
            subprocess.Popen(
                command("dask_worker", "--nthreads", "1", "--no-nanny", *where), **quiet
            )
            for _ in range(2)
        ]
        yield str(file), running[0].pid
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait(timeout=30)


def peak_mib(pid):
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("memory of another process is read from /proc")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024


def test_a_million_instances_are_light_on_a_scheduler(cluster):
    from distributed import Client

    file, scheduler = cluster
    manifest = open_idc(25).search(Modality="CT").manifest()
    counts = np.cumsum(manifest.table.column("instanceCount").to_pylist())
    million = manifest.take(list(range(int(np.searchsorted(counts, 10**6)) + 1)))
    bag = bag_of(count_instances, million, "count", None, None)
    with Client(scheduler_file=file) as client:
        client.wait_for_workers(2, timeout=60)
        found = client.gather(client.compute(bag))
    assert len(found) == bag.npartitions > 1_000
    assert sum(found) == million.instances >= 10**6
    assert peak_mib(scheduler) < SCHEDULER_MIB
