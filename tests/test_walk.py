"""The whole walk, catalog to datasets and files, through real servers.

One suite, one rig for each server and engine: S3 by nginx over rclone and by moto,
Google Cloud Storage by fake-gcs-server, and a folder.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import subprocess
import sys

import intake
import pydicom
import pytest
from servers import NginxS3, RcloneS3, require

import intake_idc
from intake_idc import demo, open_manifest, resolve_mirror, sample_path
from intake_idc.errors import ObjectNotFound
from intake_idc.storage import each, instances, open_store

BUCKET = sample_path() / "bucket"
RIGS = [
    ("s3_nginx", "aws", "obstore"),
    ("s3_nginx", "aws", "fsspec"),
    ("s3_moto", "aws", "obstore"),
    ("s3_moto", "aws", "fsspec"),
    ("gcs_fake", "gcs", "obstore"),
    ("gcs_fake", "gcs", "fsspec"),
    (None, "sample", None),
]


@pytest.fixture(
    params=[
        pytest.param(rig, marks=[pytest.mark.servers] if rig[0] else []) for rig in RIGS
    ],
    ids=lambda rig: f"{rig[0] or 'folder'}, {rig[2] or 'plain'}",
)
def place(request):
    """How a user names the mirror: arguments of a catalog entry."""
    server, mirror, engine = request.param
    arguments = {"mirror": mirror}
    if server is not None:
        endpoint = request.getfixturevalue(server).endpoint
        arguments |= {"endpoint_url": endpoint, "engine": engine}
    return arguments


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("version", [1, 2])
def test_the_walk(place, version, tmp_path):
    catalog = intake.open_catalog(intake_idc.catalog_path())
    release = catalog.sample(idc_version=version, **place)
    source = release.search(Modality=["CT", "MR"])
    assert source.idc_version == version

    # Out as a manifest and in again.
    path = source.to_manifest(tmp_path / "cohort.s5cmd")
    again = open_manifest(path, tables="sample")
    assert again.manifest() == source.manifest()

    # Reading, lazily: whole objects, headers, values.
    files = [
        path
        for uuid in source.manifest().uuids
        for path in sorted((BUCKET / uuid).iterdir())
    ]
    expected = [pydicom.dcmread(path) for path in files]
    assert pickle.loads(pickle.dumps(source)).datasets().compute() == expected
    headers = source.datasets(headers_only=True, partition_bytes="600 kB").compute()
    whole = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    assert headers == whole
    rows = source.header_rows(["InstanceNumber"]).compute()
    assert [row["InstanceNumber"] for row in rows] == [
        d.InstanceNumber for d in expected
    ]

    # The copy.
    report = source.materialize(tmp_path / "copy")
    assert report.counts["fetched"] == len(files)
    assert [digest(p.read_bytes()) for p in report.paths] == [
        digest(p.read_bytes()) for p in files
    ]
    assert source.verify(tmp_path / "copy").ok
    assert source.materialize(tmp_path / "copy").counts["kept"] == len(files)
    assert not [p for p in (tmp_path / "copy").rglob("*") if p.suffix == ".part"]


def test_ranges_and_listings_are_the_same_in_every_place(place):
    mirror = resolve_mirror(**place)
    parts = list(intake_idc.open_idc(2, tables="sample").all().manifest().parts())
    found = instances(parts, mirror)
    local = instances(parts, resolve_mirror("sample"))
    assert [(i.key, i.size) for i in found] == [(i.key, i.size) for i in local]
    for instance in found:
        whole = (BUCKET / instance.key).read_bytes()
        store = open_store(mirror, instance.part.aws_bucket)
        assert store.read(instance.key) == whole
        assert store.read(instance.key, 100, 300) == whole[100:300]
        assert store.read(instance.key, 100) == whole[100:]
        assert b"".join(store.stream(instance.key)) == whole


def test_what_is_not_there_is_an_error_in_every_place(place):
    mirror = resolve_mirror(**place)
    bucket = "intake-idc-sample"
    part = intake_idc.manifest.Part("00000000-0000-4000-8000-000000000000", bucket)
    with pytest.raises(ObjectNotFound, match="holds no object"):
        instances([part], mirror)
    with pytest.raises(ObjectNotFound):
        open_store(mirror, bucket).read("nothing/here.dcm")


def test_many_threads_read_at_once_in_every_place(place):
    mirror = resolve_mirror(**place)
    parts = list(intake_idc.open_idc(2, tables="sample").all().manifest().parts())
    found = instances(parts, mirror) * 10
    store = open_store(mirror, "intake-idc-sample")
    sizes = list(each(lambda i: len(store.read(i.key)), found))
    assert sizes == [instance.size for instance in found]


@pytest.mark.servers
@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_requests_are_few_and_small(s3_nginx, engine):
    source = intake.open_idc(
        tables="sample", mirror="aws", endpoint_url=s3_nginx.endpoint, engine=engine
    ).search(Modality="CT")
    s3_nginx.reset()
    bag = source.datasets(headers_only=True)
    assert s3_nginx.requests() == []
    bag.compute()
    asked = s3_nginx.requests()
    assert len(asked) == 1 + 3
    assert sum(request.sent for request in asked if request.range) == 3 * 16_384
    s3_nginx.reset()
    source.datasets().compute()
    assert len(s3_nginx.requests()) == 1 + 3


@pytest.mark.servers
@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_a_second_copy_lists_and_fetches_nothing(s3_nginx, engine, tmp_path):
    source = intake.open_idc(
        tables="sample", mirror="aws", endpoint_url=s3_nginx.endpoint, engine=engine
    ).search(Modality="CT")
    s3_nginx.reset()
    source.materialize(tmp_path)
    assert [request.method for request in s3_nginx.requests()] == ["GET"] * 4
    s3_nginx.reset()
    source.materialize(tmp_path)
    asked = s3_nginx.requests()
    assert len(asked) == 1
    assert "prefix=" in asked[0].uri


@pytest.mark.servers
def test_the_environment_alone_points_at_a_server(s3_nginx, gcs_fake, monkeypatch):
    sample = intake_idc.open_idc(2, tables="sample").search(Modality="MR")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_nginx.endpoint)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_fake.endpoint)
    for mirror in ("aws", "gcs"):
        assert len(sample.datasets(mirror=mirror).compute()) == 4
    monkeypatch.setenv("INTAKE_IDC_MIRROR", "gcs")
    whole = intake_idc.open_manifest(_manifest(sample), tables="sample", mirror="gcs")
    assert len(whole.datasets().compute()) == 4


def _manifest(cohort):
    import tempfile
    from pathlib import Path

    return cohort.to_manifest(Path(tempfile.mkdtemp()) / "c.s5cmd", mirror="gcs")


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_two_processes_reads_from_a_server(s3_nginx):
    from distributed import Client, LocalCluster

    source = intake.open_idc(
        tables="sample", mirror="aws", endpoint_url=s3_nginx.endpoint
    ).search(Modality=["CT", "MR"])
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster) as client,
    ):
        bag = source.datasets(partition_bytes="600 kB")
        uids = client.compute(bag.map(lambda d: str(d.SOPInstanceUID))).result(60)
    assert uids == [str(d.SOPInstanceUID) for d in source.read()]


@pytest.mark.servers
def test_the_demo_walks_through_the_names_of_the_real_buckets(tmp_path):
    """The series that the demo asks for, of one object, in its true size.

    Its bytes are not IDC's: an MR slice of the sample, with padding after the data
    set (PS3.10 7.2) until it has the size that the index gives.
    """
    rows = intake_idc.open_idc(25).search(**demo.REAL).table.to_pylist()
    row = min(rows, key=lambda row: row["series_size_MB"])
    assert row["instanceCount"] == 1
    folder = tmp_path / row["aws_bucket"] / row["crdc_series_uuid"]
    folder.mkdir(parents=True)
    uuid = (
        intake_idc.open_idc(2, tables="sample").search(Modality="MR").manifest().uuids
    )
    data = next((BUCKET / uuid[0]).iterdir()).read_bytes()
    padding = round(row["series_size_MB"] * 1e6) - len(data) - 8
    trailer = struct.pack("<HHI", 0xFFFC, 0xFFFC, padding) + bytes(padding)
    (folder / "00000000-0000-4000-8000-000000000000.dcm").write_bytes(data + trailer)
    require(RcloneS3)
    require(NginxS3)
    with RcloneS3(tmp_path) as storage, NginxS3(storage) as server:
        done = subprocess.run(
            [sys.executable, "-m", "intake_idc", "demo", "--mirror", "aws"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "AWS_ENDPOINT_URL": server.endpoint},
        )
    assert done.returncode == 0, done.stderr
    for line in ("1 series, 1 instance", "fetched        1", "kept           1"):
        assert line in done.stdout
    assert "mirror         aws" in done.stdout
