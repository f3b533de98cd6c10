"""Mirrors and stores: the same uuid in each place, no secret anywhere."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

from intake_idc import open_idc, open_manifest, sample_path
from intake_idc.errors import (
    IntegrityError,
    MirrorError,
    ObjectNotFound,
    StorageError,
    WrongSize,
)
from intake_idc.manifest import Part
from intake_idc.storage import (
    Instance,
    Mirror,
    each,
    instances,
    open_store,
    read_instance,
    resolve_mirror,
)
from intake_idc.storage.retrying import Patience

SAMPLE = resolve_mirror("sample")
PARTS = list(open_idc(2, tables="sample").all().manifest().parts())
CT = next(part for part in PARTS if part.instanceCount == 3)
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("mirror", "bucket", "url"),
    [
        ("aws", "idc-open-data", "s3://idc-open-data/u/"),
        ("aws", "idc-open-data-cr", "s3://idc-open-data-cr/u/"),
        ("gcs", "idc-open-data", "gs://idc-open-data/u/"),
        ("gcs", "idc-open-data-two", "gs://idc-open-idc1/u/"),
        ("gcs", "idc-open-data-cr", "gs://idc-open-cr/u/"),
        ("s3://mine/{aws_bucket}/x", "idc-open-data", "s3://mine/idc-open-data/x/u/"),
        ("https://here.example/idc/", "b", "https://here.example/idc/u/"),
    ],
)
def test_a_series_has_its_url_in_each_mirror(mirror, bucket, url):
    assert resolve_mirror(mirror).series_url(Part("u", bucket)) == url


def test_the_mirror_comes_from_argument_then_environment_then_aws(monkeypatch):
    monkeypatch.delenv("INTAKE_IDC_MIRROR", raising=False)
    assert resolve_mirror().name == "aws"
    monkeypatch.setenv("INTAKE_IDC_MIRROR", "gcs")
    assert resolve_mirror().name == "gcs"
    assert resolve_mirror("aws").name == "aws"


@pytest.mark.parametrize(
    ("mirror", "variable", "value", "endpoint"),
    [
        ("aws", "AWS_ENDPOINT_URL", "http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("aws", "AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2", "http://127.0.0.1:2"),
        ("gcs", "STORAGE_EMULATOR_HOST", "127.0.0.1:3", "http://127.0.0.1:3"),
        ("gcs", "AWS_ENDPOINT_URL", "http://127.0.0.1:1", None),
        ("aws", "STORAGE_EMULATOR_HOST", "127.0.0.1:3", None),
    ],
)
def test_endpoints_follow_the_stores_own_variables(
    monkeypatch, mirror, variable, value, endpoint
):
    monkeypatch.setenv(variable, value)
    assert resolve_mirror(mirror).endpoint_url == endpoint
    given = resolve_mirror(mirror, endpoint_url="http://127.0.0.1:9")
    assert given.endpoint_url == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "options",
    [
        {"key": SECRET},
        {"secret": SECRET},
        {"token": SECRET},
        {"password": SECRET},
        {"client_kwargs": {"aws_session_token": SECRET}},
        {"headers": {"Authorization": SECRET}},
    ],
)
def test_a_secret_is_refused_and_not_repeated(options):
    with pytest.raises(MirrorError, match="secret") as caught:
        resolve_mirror("aws", storage_options=options)
    assert SECRET not in str(caught.value)
    with pytest.raises(MirrorError) as caught:
        resolve_mirror(f"https://me:{SECRET}@host/x")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "mirror",
    ["filecache::s3://bucket", "simplecache://x", "zip://a::s3://b", "cached://x"],
)
def test_a_mirror_is_never_what_writes_to_a_folder_somewhere(mirror, tmp_path):
    options = {"filecache": {"cache_storage": str(tmp_path / "x")}}
    with pytest.raises(MirrorError, match="only read"):
        resolve_mirror(mirror, storage_options=options)


SECRET_URLS = {
    "endpoint": {"mirror": "aws", "endpoint_url": f"http://me:{SECRET}@127.0.0.1:1"},
    "signed": {"mirror": f"https://host/c?sig={SECRET}"},
    "chained": {"mirror": f"zip://x::s3://me:{SECRET}@bucket"},
    "connection string": {
        "mirror": "aws",
        "storage_options": {"connection_string": f"AccountKey={SECRET}"},
    },
    "pairs": {
        "mirror": "aws",
        "storage_options": {"headers": [["Authorization", SECRET]]},
    },
    "proxy": {
        "mirror": "aws",
        "storage_options": {"config_kwargs": {"proxies": f"http://me:{SECRET}@host"}},
    },
}


@pytest.mark.parametrize("named", SECRET_URLS.values(), ids=SECRET_URLS)
def test_a_secret_in_a_url_or_deep_in_options_is_refused(named):
    with pytest.raises(MirrorError) as caught:
        resolve_mirror(**named)
    assert SECRET not in str(caught.value)


def test_a_ready_made_mirror_and_other_places_hold_no_secret_either(monkeypatch):
    with pytest.raises(MirrorError):
        Mirror("x", "s3://b", storage_options=(("secret", SECRET),))
    place = f"http://me:{SECRET}@127.0.0.1:1/x"
    for act in (lambda: open_idc(tables=place), lambda: open_manifest(place)):
        with pytest.raises(MirrorError) as caught:
            act()
        assert SECRET not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", place)
    with pytest.raises(MirrorError) as caught:
        resolve_mirror("aws")
    assert SECRET not in str(caught.value)


def test_an_endpoint_of_the_environment_is_not_written_down(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    cohort = open_idc(25, mirror="aws").search(collection_id="rider_pilot")
    assert "127.0.0.1" not in cohort.to_catalog(tmp_path / "c.yml").read_text()
    assert "127.0.0.1" in repr(resolve_mirror(cohort.mirror))


def test_an_empty_variable_names_no_mirror(monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_MIRROR", "")
    assert resolve_mirror().name == "aws"


def test_reading_from_changes_only_what_is_named():
    cohort = open_idc(25, mirror="gcs").search(collection_id="rider_pilot")
    changed = cohort.reading_from(engine="fsspec")
    assert changed.urls() == cohort.urls()
    assert changed.mirror.engine == "fsspec"


def test_access_is_anonymous_unless_said_otherwise():
    assert resolve_mirror("aws").anon
    assert resolve_mirror("aws", storage_options={"token": "anon"}).anon
    signed = resolve_mirror("aws", storage_options={"anon": False})
    assert not signed.anon
    assert SECRET not in repr(signed)


@pytest.mark.parametrize(
    ("mirror", "options", "reason"),
    [
        (
            "aws",
            {"engine": "obstore", "storage_options": {"requester_pays": True}},
            "takes no options",
        ),
        (
            "aws",
            {"engine": "obstore", "storage_options": {"anon": False}},
            "anonymously",
        ),
        ("awss", {}, "did you mean 'aws'"),
        ("", {}, "a folder or a URL"),
        (5, {}, "a folder or a URL"),
        ("s3://", {}, "names no bucket"),
        ("aws", {"endpoint_url": "localhost:9"}, "http://host"),
        ("sample", {"endpoint_url": "http://127.0.0.1:1"}, "for s3:// and gs://"),
        ("aws", {"storage_options": {"anon": "false"}}, "True or False"),
        ("/no/such/folder", {}, "nor a folder"),
        ("aws", {"engine": "curl"}, "obstore, fsspec, s5cmd"),
        ("sample", {"engine": "obstore"}, "s3:// and gs://"),
    ],
)
def test_a_mirror_that_cannot_serve_is_refused(mirror, options, reason):
    with pytest.raises(MirrorError, match=reason):
        resolve_mirror(mirror, **options)


@pytest.mark.parametrize(
    "mirror",
    [
        resolve_mirror("gcs", endpoint_url="http://127.0.0.1:1", engine="fsspec"),
        resolve_mirror("aws", storage_options={"anon": False, "requester_pays": True}),
        resolve_mirror("s3://mine/{aws_bucket}", storage_options={"config_kwargs": {}}),
        SAMPLE,
    ],
    ids=lambda mirror: mirror.name,
)
def test_a_mirror_is_a_value(mirror):
    assert pickle.loads(pickle.dumps(mirror)) == mirror
    again = resolve_mirror(**mirror.to_arguments())
    assert again == mirror
    assert resolve_mirror(mirror) == mirror
    assert hash(again) == hash(mirror)


def test_a_folder_is_a_mirror_by_path_url_or_relative_name(monkeypatch):
    bucket = sample_path() / "bucket"
    monkeypatch.chdir(bucket.parent)
    for place in (bucket, str(bucket), f"file://{bucket}", "bucket"):
        mirror = resolve_mirror(place)
        assert len(instances(PARTS, mirror)) == sum(p.instanceCount for p in PARTS)


# Listings, against the index.


def test_a_listing_is_in_order_and_agrees_with_the_index():
    found = instances([CT], SAMPLE)
    assert [i.key for i in found] == sorted(i.key for i in found)
    assert sum(i.size for i in found) == CT.size
    assert all(Path(i.url).stat().st_size == i.size for i in found)
    assert all(
        i.key == f"{CT.crdc_series_uuid}/{i.crdc_instance_uuid}.dcm" for i in found
    )


def test_a_part_of_a_series_is_a_run_of_its_keys():
    whole = [i.key for i in instances([CT], SAMPLE)]
    run = Part(**{**vars(CT), "first_instance": 1, "last_instance": 2})
    assert [i.key for i in instances([run], SAMPLE)] == whole[1:2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instanceCount": 4}, "says 4"),
        ({"size": 10}, "of 10"),
        ({"size": CT.size + 1}, "bytes"),
    ],
)
def test_a_listing_that_is_not_what_the_index_says_is_an_error(change, reason):
    with pytest.raises(IntegrityError, match=reason):
        instances([Part(**{**vars(CT), **change})], SAMPLE)


def test_a_rounded_size_is_held_to_its_rounding():
    near = {**vars(CT), "size": CT.size + 4_000, "size_tolerance": 5_000}
    assert len(instances([Part(**near)], SAMPLE)) == 3
    with pytest.raises(IntegrityError):
        instances([Part(**{**near, "size": CT.size + 6_000})], SAMPLE)


def test_a_series_that_the_mirror_lacks_is_an_error():
    with pytest.raises(ObjectNotFound, match="'sample' holds no object"):
        instances([Part("no-such-series", "b")], SAMPLE)


def test_other_files_in_a_folder_are_no_instances(tmp_path):
    source = sample_path() / "bucket" / CT.crdc_series_uuid
    folder = tmp_path / CT.crdc_series_uuid
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / ".x.dcm.12-ab.part").write_bytes(b"half")
    (folder / "notes.txt").write_bytes(b"mine")
    assert len(instances([CT], resolve_mirror(tmp_path))) == 3


def test_a_size_other_than_the_listed_is_an_error():
    instance = instances([CT], SAMPLE)[0]
    assert len(read_instance(instance, SAMPLE)) == instance.size
    wrong = Instance(instance.part, instance.key, instance.size + 1, instance.url)
    with pytest.raises(WrongSize, match="listed were"):
        read_instance(wrong, SAMPLE)


def test_ranges_are_exactly_the_bytes_asked_for():
    instance = instances([CT], SAMPLE)[0]
    store = open_store(SAMPLE, CT.aws_bucket)
    whole = Path(instance.url).read_bytes()
    assert store.read(instance.key) == whole
    assert store.read(instance.key, 10, 20) == whole[10:20]
    assert store.read(instance.key, 10) == whole[10:]
    assert b"".join(store.stream(instance.key)) == whole
    with pytest.raises(ObjectNotFound):
        store.read("nothing/here.dcm")


def test_what_a_transport_raises_leaves_as_a_storage_error():
    dead = resolve_mirror("aws", endpoint_url="http://127.0.0.1:9", engine="fsspec")
    with pytest.raises(StorageError, match="s3://idc-open-data/u/") as caught:
        open_store(dead, "idc-open-data").list("u/")
    assert caught.value.details["attempts"] == Patience.unreached


# The pool.


def test_each_keeps_order_and_bounds_what_waits():
    seen = []
    results = each(lambda i: seen.append(i) or i * i, iter(range(1_000)), ahead=4)
    assert next(results) == 0
    assert len(seen) <= 6
    assert list(results) == [i * i for i in range(1, 1_000)]


def test_each_raises_the_first_error_in_its_place():
    def fail(i):
        if i == 3:
            raise WrongSize("three")
        return i

    results = each(fail, range(100), ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(WrongSize, match="three"):
        next(results)


def test_each_runs_at_once():
    barrier = threading.Barrier(16, timeout=10)
    assert len(list(each(lambda _: barrier.wait(), range(16)))) == 16
