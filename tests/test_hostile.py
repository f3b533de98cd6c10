"""Objects that mean harm end in `DicomReadError`, within bounds; workers live on.

The set is that of `hostile`: bombs, lies about lengths and sizes, depth, cut objects.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import hostile
import numpy as np
import pyarrow as pa
import pydicom
import pytest
from images import native

from intake_idc import lazy, resolve_mirror
from intake_idc.manifest import Manifest

pytestmark = pytest.mark.timeout(300)

KINDS = {"not dicom", "truncated", "malformed", "no pixels", "undecodable"}

# The kind of a `DicomReadError`, or "read": of the header, of the whole object as a
# dataset, and of its pixels.
HARM = {
    "deflate bomb": ("malformed", "malformed", "malformed"),
    "million elements": ("malformed", "malformed", "no pixels"),
    "half a million items": ("malformed", "malformed", "no pixels"),
    "half a million items, undefined": ("malformed", "malformed", "no pixels"),
    "decimals": ("read", "read", "no pixels"),
    # pydicom leaves so many bytes alone.
    "decimals in UN": ("read", "read", "no pixels"),
    "decimals without VR": ("malformed", "malformed", "no pixels"),
    "text of 20 MB": ("malformed", "malformed", "no pixels"),
    "nested 200": ("malformed", "malformed", "malformed"),
    "nested 2000": ("malformed", "malformed", "malformed"),
    "nested 200, defined": ("malformed", "malformed", "no pixels"),
    "nested 2000, defined": ("malformed", "malformed", "no pixels"),
    "rows": ("read", "read", "malformed"),
    "frames": ("read", "read", "malformed"),
    "frames below none": ("read", "read", "malformed"),
    "all three": ("read", "read", "malformed"),
    "rle of a million frames": ("read", "read", "malformed"),
    "jpeg of 65500": ("read", "read", "malformed"),
    "value of 4 GB": ("truncated", "truncated", "truncated"),
    "sequence of 4 GB": ("truncated", "truncated", "truncated"),
    "item of 4 GB": ("truncated", "truncated", "truncated"),
    "pixels of 4 GB": ("read", "truncated", "truncated"),
    "table beyond the end": ("read", "read", "malformed"),
    "extended table beyond the end": ("read", "read", "malformed"),
    "unclosed": ("read", "truncated", "malformed"),
    "unclosed in a frame": ("read", "truncated", "malformed"),
    "a page": ("not dicom", "not dicom", "not dicom"),
    "empty": ("not dicom", "not dicom", "not dicom"),
    "preamble": ("malformed", "malformed", "malformed"),
    "half a preamble": ("not dicom", "not dicom", "not dicom"),
    "zeros": ("not dicom", "not dicom", "not dicom"),
    "meta alone": ("malformed", "malformed", "no pixels"),
    "paths": ("read", "read", "no pixels"),
    "path as uid": ("read", "read", "no pixels"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came of every object in every way, by its name."""
    root = tmp_path_factory.mktemp("hostile")
    names = {uuid: name for name, uuid in hostile.write(root).items()}
    script = Path(hostile.__file__)
    done = subprocess.run(
        [sys.executable, script, root],
        capture_output=True,
        text=True,
        check=True,
        # As Dask starts its workers: what is let go is given back.
        env=os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"},
    )
    rows = json.loads(done.stdout)
    return {names.get(key, key): row for key, row in rows.items()}


def test_every_object_of_the_set_is_tried(found):
    assert set(found) == {*HARM, "all", "bombs"}


@pytest.mark.parametrize("name", HARM)
def test_harm_ends_in_the_right_error_within_bounds(found, name):
    row = found[name]
    kinds = {way: kind for way, (kind, _) in row["ways"].items()}
    header, dataset, pixels = HARM[name]
    assert kinds.pop("values") in KINDS | {"read"}, row
    assert kinds == {"header": header, "dataset": dataset, "pixels": pixels}, row
    assert row["seconds"] < 10, row
    assert row["memory"] < 600 * 2**20, row


def test_all_of_them_together_are_a_row_each(found):
    row = found["all"]
    every = ("datasets", "pixels", "headers")
    assert row["ways"] == {way: ["read", str(len(HARM))] for way in every}, row
    assert row["memory"] < 800 * 2**20


def test_bombs_side_by_side_take_no_more_memory_than_two(found):
    row = found["bombs"]
    assert len(row["ways"]) == hostile.MANY
    for kind, reason in row["ways"].values():
        assert (kind, "inflate" in reason) == ("malformed", True), row
    # Each is let go at 64 MiB: all at once would take 700.
    assert row["memory"] < 450 * 2**20, row


# On a cluster, where memory is watched and a worker may die.

GOOD = 200
SERIES = "11111111-1111-4111-8111-111111111111"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A series of 200 good objects and a bomb in the middle of them."""
    root = tmp_path_factory.mktemp("bomb")
    folder = root / hostile.BUCKET / SERIES
    folder.mkdir(parents=True)
    frames = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    for number in range(GOOD + 1):
        data = native(frames, SOPInstanceUID=f"1.2.{number + 1}")
        if number == GOOD // 2:
            data = hostile.build_bomb()
        name = f"{number:08d}-0000-4000-8000-000000000000.dcm"
        (folder / name).write_bytes(data)
    return resolve_mirror(f"{root}/{{aws_bucket}}")


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit="1 GB",
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def cohort() -> Manifest:
    columns = {
        "crdc_series_uuid": [SERIES],
        "aws_bucket": [hostile.BUCKET],
        "instanceCount": [GOOD + 1],
    }
    return Manifest(pa.table(columns), 25)


def pids(client) -> set[int]:
    return set(client.run(os.getpid).values())


def mean(one) -> float:
    return float(one.pixels().mean())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["datasets", "pixels"])
def test_a_bomb_among_good_objects_costs_one_row_and_no_worker(client, place, what):
    before = pids(client)
    options = {"on_error": "collect", "partition_instances": 50}
    if what == "datasets":
        bag = lazy.datasets(cohort(), place, **options)
    else:
        bag = lazy.map_objects(mean, cohort(), place, **options)
    assert bag.npartitions == 5
    found = bag.collected(scheduler=client)
    assert len(found.results) == GOOD
    (row,) = found.failures.to_pylist()
    assert row["kind"] == "malformed"
    assert "inflate" in row["reason"]
    if what == "pixels":
        assert set(found.results) == {31.5}
    else:
        assert all(isinstance(one, pydicom.Dataset) for one in found.results)
    assert pids(client) == before


def mean_or_die(one, marker: str) -> float:
    """Kill the worker that comes here first."""
    if one.crdc_instance_uuid.startswith("00000150"):
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return mean(one)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_costs_a_retry_and_not_the_job(client, place, tmp_path):
    from functools import partial

    before = pids(client)
    marker = str(tmp_path / "killed")
    found = lazy.map_objects(
        partial(mean_or_die, marker=marker),
        cohort(),
        place,
        on_error="collect",
        partition_instances=50,
    ).collected(scheduler=client)
    assert len(found.results) == GOOD
    assert len(found.failures) == 1
    assert Path(marker).exists()
    client.wait_for_workers(2, timeout=60)
    assert len(before & pids(client)) == 1
