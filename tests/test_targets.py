"""Copies to object stores: whole or not there, and cheap to repeat."""

from __future__ import annotations

import hashlib
import http.client
import pickle
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.callbacks import Callback
from servers import FakeGCS, Faulty, MotoS3, require

from intake_idc import open_idc, resolve_mirror, sample_path, transfer
from intake_idc.cli import main
from intake_idc.errors import (
    MirrorError,
    PlanError,
    RequestError,
    StorageError,
    TransferError,
)
from intake_idc.manifest import Part
from intake_idc.plan import make
from intake_idc.storage import list_all, uploading

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SAMPLE = open_idc(2, tables="sample")
COHORT = SAMPLE.search(Modality=["CT", "MR"])
BUCKET = sample_path() / "bucket"
SECRET = "a-secret-that-must-not-travel"
LARGE = str(UUID(int=7))
LARGE_KEY = f"idc-open-data/{LARGE}/{UUID(int=1)}.dcm"
MIB = 1 << 20


def well(_method: str, _path: str) -> None:
    """Let everything be as it is."""


class Front:
    """Passes requests on to a server, counts them, and fails some by a rule.

    ``rule`` is asked with method and path: a number is the status of the answer, and
    "lost" passes the request on and gives no answer.
    """

    def __init__(self, port: int) -> None:
        self.rule = well
        self.asked: list[str] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                front.asked.append(f"{self.command} {self.path}")
                fault = front.rule(self.command, self.path)
                if isinstance(fault, int):
                    self.send_response(fault)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                onward = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                onward.request(self.command, self.path, body, dict(self.headers))
                found = onward.getresponse()
                content = found.read()
                onward.close()
                if fault == "lost":
                    self.close_connection = True
                    return
                self.send_response(found.status)
                for name, value in found.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding"):
                        self.send_header(name, value)
                if not found.getheader("Content-Length"):
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line in self.asked)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class S3:
    """A bucket that is written to, as its owner sees it, and the way there."""

    scheme = "s3"

    def __init__(self, server: MotoS3) -> None:
        self._client = server._client()
        self._client.create_bucket(Bucket="mine")
        self.front = Front(server.port)
        self.options = {"endpoint_url": self.front.endpoint, "retry_timeout": 5}

    def objects(self, folder: str) -> dict[str, bytes]:
        found = self._client.list_objects_v2(Bucket="mine", Prefix=f"{folder}/")
        return {
            item["Key"].removeprefix(f"{folder}/"): self._client.get_object(
                Bucket="mine", Key=item["Key"]
            )["Body"].read()
            for item in found.get("Contents", ())
        }

    def begun(self) -> int:
        """Uploads that were begun, and neither finished nor given up."""
        found = self._client.list_multipart_uploads(Bucket="mine")
        return len(found.get("Uploads", ()))

    def damage(self, folder: str, name: str, data: bytes | None) -> None:
        key = f"{folder}/{name}"
        if data is None:
            self._client.delete_object(Bucket="mine", Key=key)
        else:
            self._client.put_object(Bucket="mine", Key=key, Body=data)


class Files:
    """The same of a file system that fsspec knows."""

    def __init__(self, scheme: str, files, options: dict) -> None:
        self.scheme, self.options, self._files = scheme, options, files

    def objects(self, folder: str) -> dict[str, bytes]:
        root = f"mine/{folder}"
        found = self._files.find(root, refresh=True)
        return {
            path.partition(f"{root}/")[2]: self._files.cat_file(path) for path in found
        }

    def begun(self) -> int:
        return 0

    def damage(self, folder: str, name: str, data: bytes | None) -> None:
        path = f"mine/{folder}/{name}"
        if data is None:
            self._files.rm_file(path)
        else:
            self._files.pipe_file(path, data)


@pytest.fixture(scope="module")
def moto(bucket_root):
    require(MotoS3)
    with MotoS3() as server:
        server.load(bucket_root)
        yield server


@pytest.fixture(scope="module")
def buckets(moto, tmp_path_factory):
    """Places to copy to, by their scheme."""
    require(FakeGCS)
    root = tmp_path_factory.mktemp("gcs")
    (root / "mine").mkdir()
    (root / "mine" / "other.txt").write_text("another")
    with FakeGCS(root) as google:
        from gcsfs.core import GCSFileSystem

        options = {
            "endpoint_url": google.endpoint,
            "anon": True,
            "retry_timeout": 5,
        }
        files = GCSFileSystem(
            token="anon", endpoint_url=google.endpoint, use_listings_cache=False
        )
        s3 = S3(moto)
        yield {
            "s3": s3,
            "gs": Files("gs", files, options),
            "memory": Files("memory", fsspec.filesystem("memory"), {}),
        }
        s3.front.stop()


@pytest.fixture(params=["s3", "gs", "memory"])
def place(request, buckets):
    return buckets[request.param]


@pytest.fixture
def s3(buckets):
    found = buckets["s3"]
    found.front.asked.clear()
    yield found
    found.front.rule = well


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNUSED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def folder(request):
    """A folder that no other test has."""
    return re.sub(r"\W+", "-", request.node.name)


def digests(objects: dict[str, bytes]) -> list[str]:
    return sorted(
        hashlib.sha256(data).hexdigest()
        for name, data in objects.items()
        if not name.startswith("NOTICE")
    )


def digests_of(cohort) -> list[str]:
    return sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for uuid in cohort.manifest().uuids
        for path in (BUCKET / uuid).iterdir()
    )


@pytest.fixture(scope="module")
def large_bucket(tmp_path_factory):
    """A bucket with one series of one object that is sent in blocks: 20 MiB and 3."""
    root = tmp_path_factory.mktemp("large")
    series = root / "idc-open-data" / LARGE
    series.mkdir(parents=True)
    data = np.random.default_rng(0).bytes(20 * MIB + 3)
    (series / f"{UUID(int=1)}.dcm").write_bytes(data)
    return root


def large_plan(mirror, target):
    """Plan a copy of the large object, and whatever its series holds."""
    series = pa.table(
        {
            "crdc_series_uuid": [LARGE],
            "aws_bucket": ["idc-open-data"],
            "folder": ["large"],
            "instanceCount": pa.array([None], pa.int64()),
            "size": pa.array([None], pa.int64()),
        }
    )
    listed = list_all([Part(LARGE, "idc-open-data")], mirror)
    place = target.place()
    place.expect(["large"])
    return make(series, listed, place.present, target.root, mirror)


# What a copy to a folder is, to every kind of store.


def test_a_copy_to_a_store_is_the_bytes_and_a_second_run_puts_nothing(place, folder):
    url, callback = f"{place.scheme}://mine/{folder}", Callback()
    options = {"target_options": place.options}
    plan = COHORT.plan(url, **options)
    assert (plan.counts["fetch"], place.objects(folder)) == (7, {})
    first = COHORT.materialize(url, callback=callback, **options)
    there = place.objects(folder)
    assert digests(there) == digests_of(COHORT)
    assert first.counts == {"fetched": 7, "replaced": 0, "kept": 0, "failed": 0}
    assert callback.value == callback.size == first.fetched_size
    assert {path.removeprefix(f"{url}/") for path in first.paths} | {
        "NOTICE.txt"
    } == set(there)
    assert first.notice == f"{url}/NOTICE.txt"
    assert b"License" in there["NOTICE.txt"] or b"licen" in there["NOTICE.txt"]
    second = COHORT.materialize(url, **options)
    assert second.counts == {"fetched": 0, "replaced": 0, "kept": 7, "failed": 0}
    assert place.objects(folder) == there
    assert place.begun() == 0


def test_what_has_another_size_or_is_gone_is_put_again(place, folder):
    url, options = f"{place.scheme}://mine/{folder}", {"target_options": place.options}
    paths = COHORT.materialize(url, notice=False, **options).paths
    names = [path.removeprefix(f"{url}/") for path in paths]
    place.damage(folder, names[0], b"short")
    place.damage(folder, names[1], None)
    place.damage(folder, "mine.txt", b"a note")
    mended = COHORT.materialize(url, notice=False, **options)
    assert mended.counts == {"fetched": 1, "replaced": 1, "kept": 5, "failed": 0}
    there = place.objects(folder)
    assert there.pop("mine.txt") == b"a note"
    assert digests(there) == digests_of(COHORT)


def test_another_cohort_in_the_same_place_has_a_notice_of_its_own(place, folder):
    url, options = f"{place.scheme}://mine/{folder}", {"target_options": place.options}
    one, two = SAMPLE.search(Modality="CT"), SAMPLE.search(Modality="MR")
    first = one.materialize(url, **options).notice
    second = two.materialize(url, **options).notice
    assert (first, second == first) == (f"{url}/NOTICE.txt", False)
    assert re.fullmatch(rf"{url}/NOTICE-[0-9a-f]{{12}}\.txt", second)
    assert one.materialize(url, **options).notice == first
    assert two.materialize(url, **options).notice == second


def test_a_large_object_is_sent_in_blocks_of_bounded_memory(
    place, folder, large_bucket
):
    mirror = resolve_mirror(f"{large_bucket}/{{aws_bucket}}")
    target = transfer.target_of(f"{place.scheme}://mine/{folder}", place.options)
    report = transfer.run(large_plan(mirror, target), target=target)
    assert report.counts["fetched"] == 1
    assert digests(place.objects(folder)) == [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (large_bucket / "idc-open-data" / LARGE).iterdir()
    ]
    assert place.begun() == 0


def test_an_object_that_turns_short_while_it_is_sent_is_not_there(
    place, folder, large_bucket
):
    require(Faulty)
    with Faulty(large_bucket) as server:
        options = {"retry_timeout": 1.0}
        mirror = resolve_mirror(
            "aws", endpoint_url=server.endpoint, storage_options=options
        )
        url = f"{place.scheme}://mine/{folder}"
        target = transfer.target_of(url, place.options)
        plan = large_plan(mirror, target)
        fault = {"on": LARGE_KEY, "do": "close", "at": 12 * MIB, "times": None}
        server.script(fault)
        with pytest.raises(TransferError) as caught:
            transfer.run(plan, target=target)
    assert caught.value.report.counts["failed"] == 1
    assert place.objects(folder) == {}
    assert place.begun() == 0


def test_a_copy_that_is_cancelled_leaves_nothing_half_done(place, folder, large_bucket):
    require(Faulty)
    cancel = threading.Event()

    class Cancelling(Callback):
        def relative_update(self, inc=1):
            super().relative_update(inc)
            if self.value > 9 * MIB:
                cancel.set()

    with Faulty(large_bucket) as server:
        mirror = resolve_mirror("aws", endpoint_url=server.endpoint)
        target = transfer.target_of(f"{place.scheme}://mine/{folder}", place.options)
        plan = large_plan(mirror, target)
        # Slow enough that the last bytes are far away when it is cancelled.
        server.script({"on": LARGE_KEY, "do": "trickle", "rate": 12 * MIB, "times": 1})
        with pytest.raises(TransferError, match="cancelled"):
            transfer.run(
                plan,
                callback=Cancelling(),
                target=target,
                limits=transfer.Limits(cancel=cancel),
            )
    assert place.objects(folder) == {}
    assert place.begun() == 0


def whole(bucket) -> bytes:
    return next((bucket / "idc-open-data" / LARGE).iterdir()).read_bytes()


# S3: what it is asked, and what fails.


def test_a_second_run_asks_s3_for_listings_alone(s3, folder):
    url, options = f"s3://mine/{folder}", {"target_options": s3.options}
    COHORT.materialize(url, **options)
    # One request for each object, and its tag is the MD5 of what was sent.
    assert s3.front.count("^PUT") == 8
    assert s3.front.count("^HEAD") == 0
    s3.front.asked.clear()
    COHORT.materialize(url, **options)
    assert s3.front.count("^GET /mine\\?list-type=2") == 3
    assert s3.front.count("NOTICE.txt") == 1
    assert len(s3.front.asked) == 4


FAULTS = {
    "a put that is busy": ("^PUT .*dcm", [503, 503]),
    "a put whose answer is lost": ("^PUT .*dcm", ["lost"]),
    "a listing that fails": ("list-type=2", [500]),
    "a part that is busy": ("partNumber=2", [503, 500]),
    "a part whose answer is lost": ("partNumber=3", ["lost"]),
    "an end whose answer is lost": ("^POST .*uploadId=", ["lost"]),
}


@pytest.mark.parametrize(("pattern", "faults"), FAULTS.values(), ids=FAULTS)
def test_what_passes_is_survived(s3, folder, large_bucket, pattern, faults):
    left = list(faults)

    def rule(method, path):
        return left.pop() if left and re.search(pattern, f"{method} {path}") else None

    s3.front.rule = rule
    mirror = resolve_mirror(f"{large_bucket}/{{aws_bucket}}")
    target = transfer.target_of(f"s3://mine/{folder}", s3.options)
    if "dcm" in pattern:
        COHORT.materialize(target.root, target_options=s3.options, notice=False)
        expected = digests_of(COHORT)
    else:
        transfer.run(large_plan(mirror, target), target=target)
        expected = digests({"x": whole(large_bucket)})
    assert left == []
    assert digests(s3.objects(folder)) == expected
    assert s3.begun() == 0


def test_an_upload_that_fails_for_good_leaves_no_parts_behind(s3, folder, large_bucket):
    s3.front.rule = lambda _method, path: 400 if "partNumber=3" in path else None
    mirror = resolve_mirror(f"{large_bucket}/{{aws_bucket}}")
    target = transfer.target_of(f"s3://mine/{folder}", s3.options)
    with pytest.raises(TransferError, match="400") as caught:
        transfer.run(large_plan(mirror, target), target=target)
    assert caught.value.exit_code == 4
    assert s3.front.count("^DELETE .*uploadId=") == 1
    assert (s3.objects(folder), s3.begun()) == ({}, 0)


def test_what_the_store_denies_is_said_and_not_tried_again(s3, folder):
    s3.front.rule = lambda method, _path: 403 if method == "PUT" else None
    with pytest.raises(TransferError, match="denies access") as caught:
        COHORT.materialize(f"s3://mine/{folder}", target_options=s3.options)
    assert caught.value.report.counts["failed"] == 7
    assert s3.front.count("^PUT") == 7


def test_without_credentials_a_copy_is_denied(s3, folder, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3.front.rule = lambda method, _path: 403 if method == "PUT" else None
    with pytest.raises((TransferError, StorageError), match="denies access"):
        COHORT.materialize(f"s3://mine/{folder}", target_options=s3.options)


def test_a_bucket_that_is_not_there_is_said_before_a_byte_moves(s3):
    with pytest.raises(PlanError, match="no bucket 'nowhere'"):
        COHORT.materialize("s3://nowhere/x", target_options=s3.options)
    assert len(s3.front.asked) == 1


# What the store copies by itself.


@pytest.fixture
def aws(s3):
    """The mirror that is the same store."""
    return resolve_mirror("aws", endpoint_url=s3.front.endpoint)


@pytest.mark.parametrize("server_side", ["auto", True])
def test_s3_copies_by_itself_what_it_holds(s3, aws, folder, server_side):
    report = COHORT.materialize(
        f"s3://mine/{folder}",
        mirror=aws,
        target_options=s3.options,
        server_side=server_side,
        notice=False,
    )
    assert report.counts["fetched"] == 7
    assert digests(s3.objects(folder)) == digests_of(COHORT)
    assert s3.front.count("^GET .*dcm") == 0


def test_what_s3_does_not_copy_comes_through_here(s3, aws, folder):
    options = {"mirror": aws, "target_options": s3.options, "notice": False}
    COHORT.materialize(f"s3://mine/{folder}/1", server_side=False, **options)
    assert s3.front.count("^GET .*dcm") == 7
    copies = []

    def rule(method, path):
        # A copy has no body; s3 says so by a header, which a path does not show.
        if method == "PUT" and ".dcm" in path and not copies:
            copies.append(path)
            return 403
        return None

    s3.front.rule = rule
    COHORT.materialize(f"s3://mine/{folder}/2", **options)
    assert len(copies) == 1
    assert digests(s3.objects(f"{folder}/2")) == digests_of(COHORT)
    copies.clear()
    with pytest.raises(TransferError, match="denies access"):
        COHORT.materialize(f"s3://mine/{folder}/3", server_side=True, **options)


def test_s3_copies_by_itself_in_parts_what_is_too_large_for_one(
    s3, folder, moto, large_bucket, monkeypatch
):
    monkeypatch.setattr(uploading, "COPIED_WHOLE", 6 * MIB)
    monkeypatch.setattr(uploading, "COPIED_AT_ONCE", 6 * MIB)
    client = moto._client()
    key = f"{LARGE}/{UUID(int=1)}.dcm"
    client.put_object(
        Bucket="idc-open-data", Key=key, Body=whole(large_bucket), ACL="public-read"
    )
    mirror = resolve_mirror("aws", endpoint_url=s3.front.endpoint)
    target = transfer.target_of(f"s3://mine/{folder}", s3.options, server_side=True)
    plan = large_plan(mirror, target)
    transfer.run(plan, target=target)
    assert s3.front.count("partNumber=4") == 1
    assert s3.front.count(f"^GET .*{key}") == 0
    assert digests(s3.objects(folder)) == digests({"x": whole(large_bucket)})
    # An object that was replaced after it was listed is not copied.
    client.put_object(Bucket="idc-open-data", Key=key, Body=b"other", ACL="public-read")
    other = transfer.target_of(f"s3://mine/{folder}-2", s3.options)
    with pytest.raises(TransferError):
        transfer.run(plan_to(plan, other), target=other)
    assert (s3.objects(f"{folder}-2"), s3.begun()) == ({}, 0)


def plan_to(plan, target):
    from dataclasses import replace

    return replace(plan, target=target.root)


def test_google_copies_by_itself_what_it_holds(bucket_root, folder):
    require(FakeGCS)
    with FakeGCS(bucket_root) as server:
        mirror = resolve_mirror("gcs", endpoint_url=server.endpoint)
        report = COHORT.materialize(
            f"gs://intake-idc-sample/{folder}",
            mirror=mirror,
            target_options={"endpoint_url": server.endpoint, "anon": True},
            server_side=True,
        )
        assert report.counts["fetched"] == 7
        from gcsfs.core import GCSFileSystem

        files = GCSFileSystem(token="anon", endpoint_url=server.endpoint)
        found = files.find(f"intake-idc-sample/{folder}")
        assert digests(
            {path: files.cat_file(path) for path in found if path.endswith(".dcm")}
        ) == digests_of(COHORT)


def test_a_store_cannot_be_made_to_copy_what_it_does_not_hold(s3, folder):
    url = f"s3://mine/{folder}"
    with pytest.raises(RequestError, match="another store"):
        COHORT.materialize(url, target_options=s3.options, server_side=True)
    with pytest.raises(RequestError, match="verify reads folders"):
        COHORT.verify(url)
    aws = resolve_mirror("aws", endpoint_url=s3.front.endpoint)
    with pytest.raises(RequestError, match="crc32c of every byte"):
        COHORT.materialize(
            url,
            mirror=aws,
            target_options=s3.options,
            server_side=True,
            checksum="crc32c",
        )


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_copies_to_a_store(s3, folder):
    from distributed import Client

    sent = []
    with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
        submit = client.submit

        def noting(*arguments, **options):
            sent.append(pickle.dumps(arguments))
            return submit(*arguments, **options)

        client.submit = noting
        url, options = f"s3://mine/{folder}", {"target_options": s3.options}
        report = COHORT.materialize(url, client=client, **options)
        again = COHORT.materialize(url, client=client, **options)
    assert (report.counts["fetched"], again.counts["kept"]) == (7, 7)
    there = s3.objects(folder)
    assert digests(there) == digests_of(COHORT)
    assert not [name for name in there if name.startswith(".idc")]
    assert len(sent) == 1
    assert SECRET.encode() not in sent[0]


# What a target may be.


def test_no_credential_is_in_what_travels(s3, folder):
    target = transfer.target_of(f"s3://mine/{folder}", s3.options)
    report = COHORT.materialize(
        f"s3://mine/{folder}", target_options=s3.options, notice=False
    )
    for value in (target, report, report.plan):
        assert SECRET.encode() not in pickle.dumps(value)
        assert SECRET not in repr(value)
    assert pickle.loads(pickle.dumps(target)) == target


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"secret": "x"}, "s3://b/c"),
        ({"client_kwargs": {"aws_secret_access_key": "x"}}, "s3://b/c"),
        ({}, "s3://user:word@b/c"),
        ({"token": "x"}, "gs://b/c"),
    ],
)
def test_a_target_with_a_secret_is_refused_and_not_repeated(options, url):
    with pytest.raises(MirrorError) as caught:
        transfer.target_of(url, options)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///key",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "s3://bucket/./b",
        "s3://bucket/a?versionId=1",
        "s3://bucket/*",
        "https://host/folder",
        "simplecache::s3://bucket/folder",
        "idc://25/all",
    ],
)
def test_a_url_that_is_no_folder_to_write_to_is_refused(url):
    with pytest.raises(RequestError):
        transfer.target_of(url)


def test_a_file_url_is_a_folder_of_this_machine(tmp_path):
    report = COHORT.materialize(f"file://{tmp_path}/copy")
    assert report.target == tmp_path / "copy"
    assert all(path.is_file() for path in report.paths)
    assert COHORT.verify(tmp_path / "copy").ok
    with pytest.raises(RequestError, match="URL of a store"):
        COHORT.materialize(tmp_path / "copy", target_options={"anon": True})


def test_an_object_where_a_folder_belongs_is_refused():
    files = fsspec.filesystem("memory")
    files.pipe_file("mine/odd/CT", b"a file")
    with pytest.raises(PlanError, match="needs a folder"):
        COHORT.materialize("memory://mine/odd", dir_template="%Modality")


def test_the_command_copies_to_a_store(s3, folder, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.front.endpoint)
    url = f"s3://mine/{folder}"
    words = ["copy", "--tables", "sample", "--mirror", "sample", "--to", url]
    main([*words, "Modality=CT"])
    assert f"Copied to {url}" in capsys.readouterr().out
    assert len(s3.objects(folder)) == 4
