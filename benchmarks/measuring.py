"""What the benchmarks share: whole processes run and measured, versions named."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

VERSIONS = """
import platform
from importlib.metadata import PackageNotFoundError, version
words = ["Python " + platform.python_version()]
for name in {names!r}:
    try:
        words.append(name + " " + version(name))
    except PackageNotFoundError:
        pass
print(*words, sep=", ")
"""


@dataclass(frozen=True)
class Candidate:
    """One program under measurement."""

    name: str
    """What the table calls it."""
    python: str
    """The interpreter that runs it."""
    script: str
    """Its whole text."""
    selects: bool = True
    """Whether it must print the series."""


@dataclass(frozen=True)
class Run:
    """One process, from exec to exit."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds, user + system."""
    rss: float
    """Peak resident set, MiB."""
    answer: frozenset[str]
    """Lines it printed."""


def run(candidate: Candidate) -> Run:
    """Run one candidate to its end.

    Raises
    ------
    SystemExit
        It failed; its last words are in the message.
    """
    # NOTE: an isolated folder, so that the checkout is not on the path of a
    # candidate that should find the installed package.
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.TemporaryDirectory() as cwd,
    ):
        start = time.perf_counter()
        process = subprocess.Popen(
            [candidate.python, "-c", candidate.script],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        lines = out.read().decode().split()
        if process.returncode:
            words = err.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{candidate.name}: exit {process.returncode}\n{words}")
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Run(
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        rss=usage.ru_maxrss / unit,
        answer=frozenset(lines),
    )


def versions(python: str, *names: str) -> str:
    """Versions of the named packages in one environment, as one line."""
    script = VERSIONS.format(names=names)
    return subprocess.check_output([python, "-c", script], text=True).strip()


def measure(
    candidates: list[Candidate],
    rounds: int,
    check: Callable[[list[Candidate], list[Run]], None],
) -> list[list[Run]]:
    """Run the candidates in turn; one list of runs for each round after a warm-up.

    ``check`` refuses a round whose answers are wrong.
    """
    measured = []
    for number in range(rounds + 1):
        runs = [run(candidate) for candidate in candidates]
        check(candidates, runs)
        walls = "  ".join(f"{r.wall:.3f}" for r in runs)
        label = f"round {number}" if number else "warm-up"
        print(f"{label}: {walls}", file=sys.stderr, flush=True)
        if number:
            measured.append(runs)
    return measured


def median(measured: list[list[Run]], column: int, field: str) -> float:
    """Median of a figure of one candidate."""
    return statistics.median(getattr(runs[column], field) for runs in measured)


def ratio(measured: list[list[Run]], over: int, under: int, field: str) -> float:
    """Median of the ratios of two candidates within a round."""
    return statistics.median(
        getattr(runs[over], field) / getattr(runs[under], field) for runs in measured
    )


def options(doc: str) -> argparse.Namespace:
    """Read the command line: ``peer_python`` (a list), ``python`` and ``rounds``."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="PATH",
        help="Python of an environment with idc-index; may be given again",
    )
    parser.add_argument(
        "--python", default=sys.executable, help="Python that has intake-idc"
    )
    parser.add_argument("--rounds", type=int, default=5, help="at least 5")
    arguments = parser.parse_args()
    if arguments.rounds < 5:  # noqa: PLR2004 - a median of fewer says little
        parser.error("--rounds must be at least 5")
    return arguments
