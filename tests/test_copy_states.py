"""A copy through whatever may happen to it: kills, damage, others, a store that fails.

A file under its final name is always a true version of its object, and a run in which
nothing fails makes all right and leaves nothing beside it. Kills are SIGKILL of real
processes, at any moment.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from copied import (
    at,
    cohort,
    copied,
    files,
    held,
    left,
    named,
    put_series,
    truth,
    uuid,
    whole,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from servers import Faulty

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked"),
]

# A process that has all modules, and is forked for each copy.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["intake_idc.cohort", "intake_idc.transfer", "intake_idc.release.rows", "pyarrow"]
)


def work(endpoint: str, root: Path, target: Path, series: list[str], most: int) -> None:
    """Copy in a process of its own, in which a file has so many bytes at most."""
    if most:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    mirror = at(SimpleNamespace(endpoint=endpoint))
    os._exit(copied(cohort(root, *series).reading_from(mirror), target)[0])


def process(server: Faulty, target: Path, series: list[str], most: int = 0):
    arguments = (server.endpoint, server.root, target, series, most)
    made = FORKS.Process(target=work, args=arguments)
    made.start()
    return made


def killed(running, seconds: float) -> bool:
    """Kill a process after some time; whether it was still running."""
    running.join(seconds)
    alive = running.exitcode is None
    running.kill()
    running.join(20)
    return alive


# Kills.

MANY, MIXED, BIG = uuid(1), uuid(2), uuid(3)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Faulty]:
    root = tmp_path_factory.mktemp("store")
    put_series(root, 1, [2_000] * 150)
    put_series(root, 2, [3_000_000, 10, 700_000, 4_000_000, 0])
    put_series(root, 3, [70 << 20])
    with Faulty(root, latency=0.01) as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize("times", [6, pytest.param(50, marks=pytest.mark.soak)])
def test_a_copy_that_is_killed_at_any_moment_is_finished_by_the_next(
    server, tmp_path, times
):
    series = [MIXED, MANY]
    true = truth(server.root, *series)
    found = cohort(server.root, *series).reading_from(at(server))
    moments = random.Random(times)  # noqa: S311  (moments, not secrets)
    in_time = 0
    for number in range(times):
        target = tmp_path / f"copy-{number}"
        # One of them takes long, so that there is always one on its way.
        server.script(
            {"on": named(MIXED, 3), "do": "trickle", "rate": 10**6, "times": None}
        )
        running = process(server, target, series)
        many = moments.randrange(len(true))
        while running.exitcode is None and len(list(target.rglob("*.dcm"))) < many:
            time.sleep(0.001)
        in_time += killed(running, moments.uniform(0, 0.02))
        there = whole(target) if target.exists() else {}
        assert there.items() < true.items()
        server.script()
        code, report = copied(found, target)
        assert (code, report.counts["kept"]) == (0, len(there))
        assert held(target) == true
        shutil.rmtree(target)
    assert in_time == times


@pytest.mark.timeout(60)
def test_a_large_object_that_is_killed_is_not_there(server, tmp_path):
    target = tmp_path / "copy"
    # The first of its ranges does not come, the others do.
    server.script(
        {"on": named(BIG), "do": "stall", "after": 10**6, "times": 1},
        {"on": named(BIG), "do": "nothing", "times": None},
    )
    mirror = SimpleNamespace(endpoint=server.endpoint)
    found = cohort(server.root, BIG).reading_from(at(mirror))
    running = process(server, target, [BIG])
    until = time.monotonic() + 30
    sizes: list[int] = []
    while time.monotonic() < until and not (sizes and max(sizes) == 70 << 20):
        sizes = [path.stat().st_size for path in target.rglob("*.part")]
        time.sleep(0.005)
    running.kill()
    running.join(20)
    assert max(sizes) == 70 << 20
    assert whole(target) == {}
    server.script()
    assert copied(found, target)[0] == 0
    assert held(target) == truth(server.root, BIG)


# States.


class Copies(RuleBasedStateMachine):
    """What may happen to one folder."""

    server: Faulty
    folder: Path
    numbers = iter(range(1_000, 10**9))

    @initialize(
        sizes=st.lists(st.sampled_from([0, 1, 5_000, 300_000]), min_size=2, max_size=6)
    )
    def begin(self, sizes):
        self.number = next(self.numbers)
        self.series = put_series(self.server.root, self.number, sizes)
        self.target = self.folder / str(self.number)
        self.target.mkdir()
        # Every version that an object ever had, and what somebody else did to a file.
        self.versions = {path: {d} for path, d in self.true().items()}
        self.damaged: set[str] = set()
        self.clean = False
        self.next = len(sizes)

    def true(self) -> dict[str, str]:
        return truth(self.server.root, self.series)

    def cohort(self):
        found = cohort(self.server.root, self.series)
        return found.reading_from(at(self.server))

    def paths(self) -> list[Path]:
        return sorted((self.target / self.series).glob("*.dcm"))

    def touched(self, path: Path) -> None:
        self.damaged.add(path.relative_to(self.target).as_posix())
        self.clean = False

    # What is done with the copy.

    @rule()
    def copy(self):
        self.server.script()
        code, _ = copied(self.cohort(), self.target)
        assert code == 0
        # What the store has no more nobody mends.
        self.damaged -= self.true().keys()
        self.clean = True
        there, true = held(self.target), self.true()
        assert true.items() <= there.items()
        # What the store has no more, and had, stays.
        assert there.keys() <= self.versions.keys()

    @rule(
        do=st.sampled_from(
            [
                {"do": "status", "status": 503, "share": 0.2},
                {"do": "reset", "share": 0.2},
                {"do": "close", "after": 100, "share": 0.3},
                {"do": "status", "status": 404, "share": 0.3},
                {"do": "short", "share": 0.3},
                {"do": "html", "share": 0.2},
            ]
        )
    )
    def copy_badly(self, do):
        self.server.script({"on": "*", **do})
        code, report = copied(self.cohort(), self.target)
        assert code in (0, 4)
        there = held(self.target)
        if code == 0:
            self.damaged -= self.true().keys()
            assert self.true().items() <= there.items()
        elif report is not None:
            assert report.counts["failed"]
        assert left(self.target) == []

    @rule(share=st.floats(0, 1), others=st.integers(1, 2))
    def copy_and_kill(self, share, others):
        self.server.script()
        running = [
            process(self.server, self.target, [self.series]) for _ in range(others)
        ]
        killed(running[0], 0.15 * share)
        for one in running[1:]:
            one.join(30)
            assert one.exitcode == 0
            self.damaged -= self.true().keys()
        self.clean = False

    @rule()
    def copy_without_room(self):
        self.server.script()
        running = process(self.server, self.target, [self.series], most=100_000)
        running.join(30)
        assert running.exitcode in (0, 4)
        self.damaged -= {
            path
            for path in self.damaged
            if held(self.target).get(path) in self.versions[path]
        }

    @rule()
    def verify(self):
        self.server.script()
        found = self.cohort().verify(self.target, dir_template="%crdc_series_uuid")
        same = whole(self.target).items() >= self.true().items()
        missing = {path.as_posix() for path in found.missing}
        if not same:
            assert not found.ok
        assert len(missing) == len(self.true().keys() - whole(self.target).keys())

    # What others do.

    @rule(place=st.integers(0, 9), by=st.sampled_from(["cut", "empty", "more"]))
    def damage(self, place, by):
        paths = self.paths()
        if paths:
            path = paths[place % len(paths)]
            data = path.read_bytes()
            made = {"cut": data[:-1], "empty": b"", "more": data + b"x"}[by]
            sizes = {
                own.name: own.stat().st_size
                for own in files(self.server.root, self.series)
            }
            # Other bytes of the right size only a hash tells.
            if made != data and len(made) != sizes.get(path.name):
                path.write_bytes(made)
                self.touched(path)

    @rule(place=st.integers(0, 9))
    def delete(self, place):
        paths = self.paths()
        if paths:
            paths[place % len(paths)].unlink()
            self.clean = False

    @rule(place=st.integers(0, 9), size=st.sampled_from([0, 7, 5_000]))
    def replace_in_the_store(self, place, size):
        """An object goes and another comes: a uuid never changes its bytes."""
        paths = files(self.server.root, self.series)
        path = paths[place % len(paths)]
        path.unlink()
        path.with_name(f"{uuid(self.next)}.dcm").write_bytes(os.urandom(size))
        self.next += 1
        for name, digest in self.true().items():
            self.versions.setdefault(name, set()).add(digest)
        self.clean = False

    @rule(place=st.integers(0, 9))
    def tag_anew_in_the_store(self, place):
        paths = files(self.server.root, self.series)
        os.utime(paths[place % len(paths)])

    # What always holds.

    @invariant()
    def nothing_is_wrong(self):
        if not hasattr(self, "target"):
            return
        for path, digest in whole(self.target).items():
            assert digest in self.versions[path] or path in self.damaged

    @invariant()
    def nothing_is_left(self):
        if getattr(self, "clean", False):
            assert left(self.target) == []

    def teardown(self):
        if hasattr(self, "target"):
            self.copy()
            self.nothing_is_wrong()
            self.nothing_is_left()
            shutil.rmtree(self.target)
            shutil.rmtree(files(self.server.root, self.series)[0].parent)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("examples", "steps"), [(40, 12), pytest.param(100, 20, marks=pytest.mark.soak)]
)
def test_whatever_happens_no_file_is_wrong_and_a_clean_run_makes_all_right(
    tmp_path, examples, steps
):
    (tmp_path / "store").mkdir()
    (tmp_path / "copies").mkdir()
    with Faulty(tmp_path / "store") as server:
        Copies.server, Copies.folder = server, tmp_path / "copies"
        run_state_machine_as_test(
            Copies,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                # A step less is worth little, and takes long.
                phases=[Phase.generate],
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )


# Many.

SERIES, EACH, SIZE = 100, 100, 4_000
MOST_MIB = 200
MOST_REQUESTS = 1.08
TEN_THOUSAND = r"""
import json, re, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from types import SimpleNamespace
from copied import QUICK, at, cohort, copied, uuid
mirror = at(SimpleNamespace(endpoint={endpoint!r}), read_timeout=30, retry_timeout=90)
series = [uuid(number) for number in range(1, {series} + 1)]
found = cohort(Path({root!r}), *series).reading_from(mirror)
code, report = copied(found, Path({target!r}))
state = Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\s+(\d+)", state)[1]) / 1024
retries = sum(outcome.retries for outcome in report.outcomes)
print(json.dumps([code, report.counts, peak, retries]))
"""


@pytest.mark.timeout(120)
def test_of_ten_thousand_objects_none_is_lost_or_wrong(tmp_path):
    root, target = tmp_path / "store", tmp_path / "copy"
    series = [put_series(root, n, [SIZE] * EACH) for n in range(1, SERIES + 1)]
    with Faulty(root) as server:
        server.script(
            {"on": "*", "do": "status", "status": 503, "share": 0.03},
            {"on": "*", "do": "reset", "share": 0.01},
            {"on": "*", "do": "close", "after": 1_000, "share": 0.01},
        )
        text = TEN_THOUSAND.format(
            tests=str(Path(__file__).parent),
            endpoint=server.endpoint,
            root=str(root),
            target=str(target),
            series=SERIES,
        )
        done = subprocess.run(
            [sys.executable, "-c", text],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        code, counts, peak, retries = json.loads(done.stdout)
        requests = len(server.requests())
    objects = SERIES * EACH
    assert code == 0
    assert counts["fetched"] == objects
    assert held(target) == truth(root, *series)
    # A page for each series, and those of them that failed.
    assert objects < requests <= MOST_REQUESTS * (objects + SERIES)
    assert 0.03 * objects < retries < requests - objects
    assert peak < MOST_MIB
