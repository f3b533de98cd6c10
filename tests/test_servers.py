"""The loopback servers behave as the tests that lean on them believe."""

from __future__ import annotations

import http.client
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from gcsfs.core import GCSFileSystem
from obstore.store import GCSStore, S3Store
from s3fs import S3FileSystem
from servers import NginxS3, RcloneS3, Server, ServerDidNotStartError, require

pytestmark = pytest.mark.servers

BUCKET = "intake-idc-sample"


class WithObstore:
    """The few calls of the tests below, spoken by obstore."""

    def __init__(self, store):
        self.store = store

    def sizes(self):
        pages = obstore.list(self.store)
        return {entry["path"]: entry["size"] for page in pages for entry in page}

    def read(self, key):
        return bytes(obstore.get(self.store, key).bytes())

    def read_range(self, key, start, end):
        return bytes(obstore.get_range(self.store, key, start=start, end=end))


class WithFsspec:
    """The same calls, spoken by an fsspec filesystem."""

    def __init__(self, filesystem, bucket):
        self.filesystem = filesystem
        self.bucket = bucket

    def sizes(self):
        found = self.filesystem.find(self.bucket, detail=True)
        return {
            path.removeprefix(f"{self.bucket}/"): entry["size"]
            for path, entry in found.items()
        }

    def read(self, key):
        return self.filesystem.cat_file(f"{self.bucket}/{key}")

    def read_range(self, key, start, end):
        return self.filesystem.cat_file(f"{self.bucket}/{key}", start=start, end=end)


def obstore_s3(endpoint, bucket=BUCKET):
    store = S3Store(
        bucket,
        endpoint=endpoint,
        skip_signature=True,
        client_options={"allow_http": True},
    )
    return WithObstore(store)


def obstore_gcs(endpoint, bucket=BUCKET):
    store = GCSStore(
        bucket,
        base_url=endpoint,
        skip_signature=True,
        client_options={"allow_http": True},
    )
    return WithObstore(store)


def s3fs(endpoint, bucket=BUCKET):
    filesystem = S3FileSystem(
        anon=True, endpoint_url=endpoint, skip_instance_cache=True
    )
    return WithFsspec(filesystem, bucket)


def gcsfs(endpoint, bucket=BUCKET):
    # Not gcsfs.GCSFileSystem: since 2026 that class first asks for the kind of the
    # bucket by gRPC over TLS, which takes half a minute to fail on a plain server.
    filesystem = GCSFileSystem(
        token="anon",
        endpoint_url=endpoint,
        skip_instance_cache=True,
    )
    return WithFsspec(filesystem, bucket)


CLIENTS = [
    pytest.param("s3_nginx", obstore_s3, id="nginx by obstore"),
    pytest.param("s3_nginx", s3fs, id="nginx by s3fs"),
    pytest.param("s3_moto", obstore_s3, id="moto by obstore"),
    pytest.param("s3_moto", s3fs, id="moto by s3fs"),
    pytest.param("gcs_fake", obstore_gcs, id="fake-gcs-server by obstore"),
    pytest.param("gcs_fake", gcsfs, id="fake-gcs-server by gcsfs"),
]


@pytest.fixture
def endpoint(request, server):
    """The address of the server that a test's table names."""
    return request.getfixturevalue(server).endpoint


@pytest.fixture
def objects(bucket_root):
    """What every server must hold: path of each file, by its key."""
    bucket = bucket_root / BUCKET
    return {path.relative_to(bucket).as_posix(): path for path in bucket.rglob("*.dcm")}


@pytest.fixture
def largest(objects):
    """The key of the largest object, and its bytes."""
    key = max(objects, key=lambda key: objects[key].stat().st_size)
    return key, objects[key].read_bytes()


@pytest.mark.parametrize("bucket", [BUCKET, "idc-open-data"])
@pytest.mark.parametrize(("server", "client"), CLIENTS)
def test_anyone_can_list_every_object_with_its_size(endpoint, client, bucket, objects):
    expected = {key: path.stat().st_size for key, path in objects.items()}
    assert expected
    assert client(endpoint, bucket).sizes() == expected


@pytest.mark.parametrize(("server", "client"), CLIENTS)
def test_anyone_can_read_every_object_whole(endpoint, client, objects):
    reader = client(endpoint)
    for key, path in objects.items():
        assert reader.read(key) == path.read_bytes()


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(0, 132, id="first bytes"),
        pytest.param(1000, 1001, id="one byte"),
        pytest.param(-100, None, id="last bytes"),
        pytest.param(1, None, id="all but the first byte"),
    ],
)
@pytest.mark.parametrize(("server", "client"), CLIENTS)
def test_a_range_answers_exactly_the_asked_bytes(endpoint, client, start, end, largest):
    key, whole = largest
    start, end, _ = slice(start, end).indices(len(whole))
    assert client(endpoint).read_range(key, start, end) == whole[start:end]


@pytest.mark.parametrize(("server", "client"), CLIENTS)
def test_an_object_that_is_not_there_is_not_found(endpoint, client):
    with pytest.raises(FileNotFoundError):
        client(endpoint).read("no-such-series/no-such-instance.dcm")


@pytest.mark.parametrize("cached", [False, True], ids=["unseen", "cached"])
def test_nginx_sends_a_range_as_206_and_no_byte_more(bucket_root, cached, largest):
    require(RcloneS3)
    require(NginxS3)
    key, whole = largest
    with RcloneS3(bucket_root) as storage, NginxS3(storage) as server:
        client = obstore_s3(server.endpoint)
        if cached:
            client.read(key)
            server.reset()
        assert client.read_range(key, 10, 110) == whole[10:110]
        (request,) = server.requests()
    assert request.method == "GET"
    assert request.uri == f"/{BUCKET}/{key}"
    assert request.range == "bytes=10-109"
    assert request.status == 206
    assert request.sent == 100
    assert request.cache == ("HIT" if cached else "MISS")


def test_nginx_counts_every_request_until_it_is_reset(s3_nginx, largest):
    key, whole = largest
    client = obstore_s3(s3_nginx.endpoint)
    s3_nginx.reset()
    assert s3_nginx.requests() == []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client.read, [key] * 100))
    assert [request.sent for request in s3_nginx.requests()] == [len(whole)] * 100
    s3_nginx.reset()
    assert s3_nginx.requests() == []


def test_nginx_lists_the_etag_that_its_objects_have(s3_nginx, largest):
    # rclone alone does not, and s3fs asks for what the listing said: 412.
    key, whole = largest
    filesystem = s3fs(s3_nginx.endpoint).filesystem
    filesystem.ls(f"{BUCKET}/{Path(key).parent}")
    with filesystem.open(f"{BUCKET}/{key}") as file:
        assert file.read() == whole


class Nonesuch(Server):
    @classmethod
    def missing(cls):
        return "nonesuch was not found; it comes with: pip install nonesuch"


@pytest.mark.parametrize("ci", ["", "0", "false", "False"])
def test_a_missing_server_skips_and_says_how_to_get_it(ci, monkeypatch):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.skip.Exception, match="pip install nonesuch"):
        require(Nonesuch)


@pytest.mark.parametrize("ci", ["1", "true", "yes"])
def test_a_missing_server_fails_on_ci(ci, monkeypatch):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.fail.Exception, match="pip install nonesuch"):
        require(Nonesuch)


class EndsAtOnce(Server):
    def command(self, port):
        return [sys.executable, "-c", f"exit('cannot serve on {port}')"]


class StaysSilent(Server):
    start_seconds = 0.5

    def command(self, port):
        return [sys.executable, "-c", f"import time; print({port}); time.sleep(60)"]


@pytest.mark.parametrize(
    ("server", "message"),
    [
        pytest.param(EndsAtOnce, r"(?s)code 1 .*cannot serve on \d+", id="ends"),
        pytest.param(StaysSilent, r"did not answer 200 .* within 0\.5 s", id="silent"),
    ],
)
def test_a_server_that_does_not_start_shows_its_log(server, message):
    with pytest.raises(ServerDidNotStartError, match=message):
        server()


def test_a_stopped_server_leaves_neither_process_nor_folder(bucket_root):
    require(RcloneS3)
    with RcloneS3(bucket_root) as server:
        assert server.folder.is_dir()
    assert not server.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(server._process.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", server.port).connect()
    server.stop()
