"""A copy by a cluster: shares that are balanced, and workers that are lost."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from fsspec.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Faulty, require

from intake_idc import open_idc, resolve_mirror, transfer
from intake_idc.errors import PlanError, RequestError, TransferError
from intake_idc.manifest import Part
from intake_idc.plan import Plan, make
from intake_idc.storage import Instance, Listed, list_all
from intake_idc.transfer import spreading
from intake_idc.transfer.shares import (
    FEWEST_BYTES,
    MOST_BYTES,
    cut,
    packed,
    unpacked,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SAMPLE = open_idc(2, tables="sample")
KIB, MIB = 1 << 10, 1 << 20


# Shares.


def plan_of(sizes: list[list[int]]) -> Plan:
    """Plan series of objects of these sizes; what has size 1 is there already."""
    uuids = [str(UUID(int=number)) for number in range(len(sizes))]
    listed = [
        Listed(
            [
                Instance(Part(uuid, "b"), f"{uuid}/{UUID(int=n)}.dcm", size, "x", '"e"')
                for n, size in enumerate(own)
            ]
        )
        for uuid, own in zip(uuids, sizes, strict=True)
    ]
    series = pa.table(
        {
            "crdc_series_uuid": uuids,
            "aws_bucket": ["b"] * len(uuids),
            "folder": uuids,
            "instanceCount": [len(own) for own in sizes],
            "size": [sum(own) for own in sizes],
        }
    )

    def present(folder: str) -> dict[str, int]:
        own = sizes[uuids.index(folder)]
        return {f"{UUID(int=n)}.dcm": 1 for n, size in enumerate(own) if size == 1}

    return make(series, listed, present, Path("/t"), resolve_mirror("aws"))


@given(
    st.lists(
        st.lists(st.sampled_from([1, 7, MIB, 20 * MIB, 2 << 30]), max_size=90),
        max_size=12,
    ),
    st.integers(1, 50),
)
@settings(max_examples=30)
def test_shares_are_all_that_moves_once_and_in_order(sizes, threads):
    plan = plan_of(sizes)
    shares = cut(plan, threads)
    rows = np.concatenate([[], *shares]).astype(int)
    assert rows.tolist() == np.flatnonzero(plan.moved).tolist()
    size, series = plan.column("size"), plan.column("series")
    for share in shares:
        small = size[share].sum() <= MOST_BYTES and len(share) <= 2_000
        assert small or len(share) == 1
    for one, two in pairwise(shares):
        # A series that is divided would not have fitted into one share.
        if series[one[-1]] == series[two[0]]:
            whole = (series == series[two[0]]) & plan.moved
            assert whole.sum() > len(two) or size[whole].sum() > FEWEST_BYTES


def test_large_objects_do_not_land_in_one_share():
    plan = plan_of([[7] * 100, *[[60 * MIB] * 4] * 10, [7] * 100])
    shares = cut(plan, 10)
    sizes = [int(plan.column("size")[share].sum()) for share in shares]
    assert sum(size >= 60 * MIB for size in sizes) == 40
    assert max(sizes) < 61 * MIB


def test_a_share_is_a_compact_value_of_its_own_rows():
    plan = plan_of([[MIB] * 50] * 200)
    shares = cut(plan, 4)
    values = [packed(plan, share) for share in shares]
    assert sum(len(pickle.dumps(value)) for value in values) / len(plan) < 100
    for share, value in zip(shares, values, strict=True):
        found = unpacked(value, plan.target, plan.mirror)
        assert [found.path(row) for row in found.rows()] == [
            plan.path(next(plan.rows(row, row + 1))) for row in share.tolist()
        ]
        assert [found.url(row) for row in found.rows()][:1] == [
            plan.url(next(plan.rows(int(share[0]), int(share[0]) + 1)))
        ]


@pytest.mark.parametrize(
    ("nthreads", "threads"),
    [
        ({}, 1),
        ({"tcp://10.0.0.1:1": 4, "tcp://10.0.0.1:2": 4, "tcp://10.0.0.2:1": 2}, 8),
        ({"inproc://10.0.0.1/77/1": 2, "inproc://10.0.0.1/78/1": 3}, 5),
        ({"tls://[::1]:99": 1, "tls://[::1]:98": 2}, 3),
    ],
)
def test_workers_are_counted_by_machine(nthreads, threads):
    assert spreading._busiest(nthreads) == threads


# Copies by processes.


def command(module, *options):
    return [sys.executable, "-m", f"distributed.cli.{module}", *options]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler and three workers, each a process; gives their client and pids."""
    from distributed import Client

    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    where = ("--scheduler-file", str(file), "--no-dashboard")
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": folder,
        # On Python 3.11 a worker may stop for ever in it (CPython issue 106883).
        "env": {**os.environ, "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"},
    }
    local = ("--host", "127.0.0.1", "--port", "0")
    scheduler = subprocess.Popen(command("dask_scheduler", *local, *where), **quiet)
    running = [scheduler]
    try:
        deadline = time.monotonic() + 30
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        running += [
            subprocess.Popen(
                command("dask_worker", "--nthreads", "1", "--no-nanny", *where), **quiet
            )
            for _ in range(3)
        ]
        with Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(3, timeout=60)
            yield client
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait(timeout=30)


SERIES, OBJECTS = 40, 10


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Forty series of ten objects of 20 kB."""
    root = tmp_path_factory.mktemp("many")
    random = np.random.default_rng(0)
    for number in range(SERIES):
        folder = root / "idc-open-data" / str(UUID(int=number))
        folder.mkdir(parents=True)
        for instance in range(OBJECTS):
            name = f"{UUID(int=number * OBJECTS + instance)}.dcm"
            (folder / name).write_bytes(random.bytes(20 * KIB))
    return root


@pytest.fixture(scope="module")
def slow(bucket):
    """The bucket behind a server that answers after 0.1 s."""
    require(Faulty)
    with Faulty(bucket, latency=0.1) as server:
        yield server


def planned(mirror, target: Path) -> Plan:
    uuids = [str(UUID(int=number)) for number in range(SERIES)]
    series = pa.table(
        {
            "crdc_series_uuid": uuids,
            "aws_bucket": ["idc-open-data"] * SERIES,
            "folder": [f"s/{uuid}" for uuid in uuids],
            "instanceCount": [OBJECTS] * SERIES,
            "size": [OBJECTS * 20 * KIB] * SERIES,
        }
    )
    listed = list_all([Part(uuid, "idc-open-data") for uuid in uuids], mirror)
    place = transfer.LocalPlace(target)
    return make(series, listed, place.present, target, mirror)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_copy_by_a_cluster_is_that_of_one_process(cluster, tmp_path):
    cohort, callback = SAMPLE.all(), Callback()
    one = cohort.materialize(tmp_path / "one")
    many = cohort.materialize(
        tmp_path / "many", client=cluster, callback=callback, checksum="sha256"
    )
    data = {
        name: digest
        for name, digest in tree(tmp_path / "many").items()
        if name.endswith(".dcm")
    }
    assert data.items() <= tree(tmp_path / "one").items()
    assert many.counts == one.counts == {
        "fetched": 9, "replaced": 0, "kept": 0, "failed": 0,
    }  # fmt: skip
    assert callback.value == callback.size == cohort.size
    for outcome in many.outcomes:
        name = str(outcome.path.relative_to(tmp_path / "many"))
        assert outcome.hash == f"sha256:{data[name]}"
        assert outcome.mirror == "sample"
    assert set(many.mtimes.values()) == {path.stat().st_mtime_ns for path in many.paths}
    # One record, by the client, and it says what is there.
    assert len(list((tmp_path / "many" / ".idc").iterdir())) == 1
    assert transfer.verify(tmp_path / "many", checksum=True).counts["match"] == 9
    again = cohort.materialize(tmp_path / "many", client=cluster)
    assert again.counts["kept"] == 9
    assert not list(tmp_path.rglob("*.part"))


def test_shares_of_a_worker_that_is_killed_are_done_by_others(
    cluster, slow, bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(spreading, "THREADS", 24)
    slow.script()
    mirror = resolve_mirror("aws", endpoint_url=slow.endpoint)
    plan = planned(mirror, tmp_path)
    pids = cluster.run(os.getpid)
    killed = []

    class Killing(Callback):
        def relative_update(self, inc=1):
            super().relative_update(inc)
            busy = [worker for worker, tasks in cluster.processing().items() if tasks]
            if busy and not killed:
                killed.append(pids[busy[0]])
                os.kill(killed[0], signal.SIGKILL)

    report = spreading.spread(cluster, plan, Killing())
    assert len(killed) == 1
    assert report.counts["fetched"] + report.counts["kept"] == SERIES * OBJECTS
    assert killed[0] not in cluster.run(os.getpid).values()
    # Parts that the lost one left are gone with the next copy.
    again = planned(mirror, tmp_path)
    assert again.counts == {"fetch": 0, "keep": 400, "replace": 0}
    transfer.run(again)
    expected = sorted(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in bucket.rglob("*.dcm")
    )
    assert sorted(tree(tmp_path).values()) == expected


@pytest.mark.parametrize("way", ["cancel", "timeout", "interrupt"])
def test_a_copy_that_is_given_up_goes_on_nowhere(
    cluster, slow, tmp_path, monkeypatch, way
):
    # One object after the other: the whole would take a quarter of a minute.
    monkeypatch.setattr(spreading, "THREADS", 1)
    mirror = resolve_mirror("aws", endpoint_url=slow.endpoint)
    plan = planned(mirror, tmp_path)
    slow.script()
    cancel = threading.Event()
    end = {
        "cancel": cancel.set,
        "timeout": lambda: None,
        "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    }[way]

    over = threading.Event()

    def watch():
        while len(slow.requests()) < 10 and not over.is_set():
            time.sleep(0.05)
        if not over.is_set():
            end()

    watching = threading.Thread(target=watch)
    watching.start()
    limits = transfer.Limits(1.5 if way == "timeout" else None, cancel)
    raised = KeyboardInterrupt if way == "interrupt" else TransferError
    try:
        with pytest.raises(raised) as caught:
            spreading.spread(cluster, plan, limits=limits)
    finally:
        over.set()
        watching.join()
    there = tree(tmp_path)
    if way != "interrupt":
        report = caught.value.report
        assert report.counts["failed"] == len(plan) - len(there) > 0
        word = "cancelled" if way == "cancel" else "after 1.5 seconds"
        assert all(word in reason for reason in report.reasons.values())
    assert not any(cluster.processing().values())
    assert not list(tmp_path.rglob("*.part"))
    slow.script()
    time.sleep(0.5)
    assert (tree(tmp_path), slow.requests()) == (there, [])


def test_a_cluster_that_goes_away_in_the_middle_is_told(slow, tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    monkeypatch.setattr(spreading, "THREADS", 1)
    plan = planned(resolve_mirror("aws", endpoint_url=slow.endpoint), tmp_path)
    slow.script()
    one = {"threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(1, **one) as local:
        client = Client(local)

        def close():
            while len(slow.requests()) < 10:
                time.sleep(0.05)
            client.close()

        closing = threading.Thread(target=close)
        closing.start()
        try:
            with pytest.raises(TransferError, match="cluster") as caught:
                spreading.spread(client, plan)
        finally:
            closing.join()
    report = caught.value.report
    assert report.counts["failed"] == len(plan) == len(report.reasons)
    assert not list((tmp_path / ".idc").glob("*.part"))


def test_a_worker_that_does_not_see_the_word_writes_nothing(tmp_path):
    target = transfer.target_of(tmp_path / "elsewhere")
    plan = plan_of([[7]])
    asked = spreading.Asked(target, plan.mirror, ".idc/x.part", b"word", None, 1)
    share = packed(plan, np.array([0]))
    assert spreading.carry_out(share, asked).blind
    assert list(tmp_path.iterdir()) == []


def test_a_share_that_cannot_begin_is_told_and_not_raised():
    target = transfer.target_of("memory://box/share", server_side=True)
    plan = plan_of([[7, 8]])
    name, word = ".idc/x.part", b"word"
    asked = spreading.Asked(target, plan.mirror, name, word, None, 1)
    target.place().write(name, word)
    found = spreading.carry_out(packed(plan, np.array([0, 1])), asked)
    assert not found.blind
    assert set(found.statuses) == {3}
    assert "another store" in found.reasons[0] == found.reasons[1]


def test_the_word_is_not_written_through_a_link(cluster, tmp_path):
    outside, copy = tmp_path / "outside", tmp_path / "copy"
    outside.mkdir()
    copy.mkdir()
    (copy / ".idc").symlink_to(outside)
    with pytest.raises(PlanError, match="link"):
        SAMPLE.all().materialize(copy, client=cluster, record=False)
    assert list(outside.iterdir()) == []
    assert not list(copy.rglob("*.dcm"))


def test_a_store_of_each_process_is_no_target_for_a_cluster(cluster):
    with pytest.raises(PlanError, match="does not see"):
        SAMPLE.all().materialize("memory://box/x", client=cluster)


def test_what_is_no_client_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"distributed\.Client"):
        SAMPLE.all().materialize(tmp_path / "x", client="tcp://127.0.0.1:8786")
    assert not (tmp_path / "x").exists()
