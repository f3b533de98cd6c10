"""A copy from a store that fails: whole and right, or an error that names what is not.

Every row is a fault, over a real server that plays it, and what the command ends with:
0 means that all is there and right, 4 that some objects are not, 5 that bytes are not
those known, 6 that there is no room, 3 that nothing was begun. In every case no file
has a final name that is not a true version of its object, nothing is left beside them,
and the report names what is not there.
"""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from copied import (
    BUCKET,
    TEMPLATE,
    asked,
    at,
    cohort,
    copied,
    files,
    held,
    knowing,
    left,
    named,
    put_series,
    truth,
    uuid,
    whole,
)
from fsspec.callbacks import Callback
from servers import Faulty, on_ci

from intake_idc import open_idc, sample_path, transfer
from intake_idc.errors import NoSpace, StorageError, TransferError
from intake_idc.storage.retrying import Budget, Patience, Retrying

pytestmark = [pytest.mark.servers, pytest.mark.timeout(60)]

OBJECTS = 20
SIZE = 3_000
MIDDLE = 5_000_000
"""Bytes of an object that is streamed."""
BIG = 70 << 20
"""Bytes of one that is fetched by ranges."""
RANGE = 32 << 20
PAGED = 2_500
"""Objects of a series that is listed by three pages."""
VICTIM = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A series of small objects, one streamed, one large, and one of three pages."""
    root = tmp_path_factory.mktemp("store")
    put_series(root, 1, [SIZE + number for number in range(OBJECTS)])
    put_series(root, 2, [MIDDLE, MIDDLE])
    put_series(root, 3, [BIG])
    put_series(root, 4, [10] * PAGED)
    put_series(root, 6, [SIZE + number for number in range(2 * OBJECTS)])
    return root


SMALL, STREAMED, LARGE, PAGES, EMPTY, FAULTY = (uuid(number) for number in range(1, 7))


@pytest.fixture(scope="module")
def server(root) -> Iterator[Faulty]:
    with Faulty(root) as running:
        yield running


@pytest.fixture(scope="module")
def canary(root) -> Iterator[Faulty]:
    """Another host, to which nobody may be led."""
    with Faulty(root) as running:
        yield running


EVER = None


class One(NamedTuple):
    """A fault of one object, and whether it is there afterwards."""

    do: str
    there: bool = True
    most: int = 2
    """Requests at most."""
    times: int | None = 1
    more: dict | None = None

    def rule(self, on: str) -> dict:
        more = self.more or {}
        return {"on": on, "do": self.do, "times": self.times, **more}


AGAIN = 20
"""Requests at most for what fails for as long as it is tried."""
OF_AN_OBJECT = {
    "503 once": One("status", more={"status": 503}),
    "503 three times": One("status", most=4, times=3, more={"status": 503}),
    "503 always": One("status", False, AGAIN, EVER, {"status": 503}),
    "500 once": One("status", more={"status": 500}),
    "404 after the listing": One("status", False, 1, EVER, {"status": 404}),
    "403": One("status", False, 1, EVER, {"status": 403}),
    "412": One("status", False, 1, EVER, {"status": 412}),
    "reset before the answer, once": One("reset"),
    "reset before the answer, always": One("reset", False, AGAIN, EVER),
    "reset in the middle, once": One("reset", more={"after": 1000}),
    "end in the middle, once": One("close", more={"after": 1000}),
    "end in the middle, always": One("close", False, AGAIN, EVER, {"after": 1000}),
    "end after all but one byte, always": One("close", False, AGAIN, EVER, {"by": 1}),
    "shorter than listed": One("short", False, 1, EVER),
    "longer than listed": One("long", False, 1, EVER),
    "another version": One("replace", False, 1, EVER),
    "a page": One("html", False, 1, EVER),
    "a page of its size": One("html", False, 1, EVER, {"by": 0}),
    "stall in the middle, once": One("stall", more={"after": 1000}),
    "stall before the answer, once": One("stall"),
    "stall before the answer, always": One("stall", False, AGAIN, EVER),
    "a trickle": One("trickle", most=1, more={"rate": 3_000}),
}
"""Each of another object of one series, all at once."""


class Fault(NamedTuple):
    """What fails, and what the copy ends with."""

    rules: list[dict]
    code: int = 0
    most: int | None = None
    """Requests at most for what the first rule is on; None is not counted."""
    series: tuple[str, ...] = ()
    lost: int = 1
    """Objects that are not there; of a series that is not listed every one."""
    known: bool = False
    """Whether the MD5 of each object is known."""
    options: dict | None = None
    """Of the mirror."""


def small(do: str, times: int | None = 1, **more) -> list[dict]:
    return [{"on": named(SMALL, VICTIM), "do": do, "times": times, **more}]


def middle(do: str, times: int | None = 1, **more) -> list[dict]:
    return [{"on": named(STREAMED), "do": do, "times": times, **more}]


def large(do: str, times: int | None = 1, **more) -> list[dict]:
    return [{"on": named(LARGE), "do": do, "times": times, **more}]


def listing(do: str, times: int | None = 1, series: str = SMALL, **more) -> list[dict]:
    return [{"on": f"list:{series}/", "do": do, "times": times, **more}]


MID, BIGS, FEW, MANY = (SMALL, STREAMED), (LARGE,), (SMALL,), (PAGES,)
TOGETHER = {
    # Of a stream, which goes on where it broke.
    "stream: end once": Fault(middle("close", after=10**6), 0, 2, MID),
    "stream: reset once": Fault(middle("reset", after=10**6), 0, 2, MID),
    "stream: stall once": Fault(middle("stall", after=10**6), 0, 2, MID),
    "stream: end again and again, each time further": Fault(
        middle("close", EVER, after=10**6), 0, 6, MID
    ),
    "stream: end always at the same byte": Fault(
        middle("close", EVER, at=10**6), 4, AGAIN, MID
    ),
    "stream: another version from the middle on": Fault(
        [*middle("close", after=10**6), *middle("replace", EVER, skip=1)], 4, 2, MID
    ),
    "stream: the range is not heeded": Fault(
        [*middle("close", after=10**6), *middle("whole", EVER, skip=1)], 4, 2, MID
    ),
    "stream: shorter than listed": Fault(middle("short", EVER), 4, 1, MID),
    "stream: longer than listed": Fault(middle("long", EVER, by=10**5), 4, 1, MID),
    "stream: a page of its size": Fault(middle("html", EVER, length=MIDDLE), 4, 1, MID),
    "stream: a trickle": Fault(middle("trickle", rate=10**7), 0, 1, MID),
    # Of ranges, all of one version.
    "ranges: end once": Fault(large("close", after=10**6), 0, 4, BIGS),
    "ranges: reset three times": Fault(large("reset", 3, after=10**6), 0, 6, BIGS),
    "ranges: stall once": Fault(large("stall", after=10**6), 0, 4, BIGS),
    "ranges: end always at the same byte": Fault(
        large("close", EVER, at=RANGE + 10**6), 4, AGAIN, BIGS
    ),
    "ranges: another version in one": Fault(large("replace", skip=1), 4, 3, BIGS),
    "ranges: 503 always": Fault(large("status", EVER, status=503), 4, None, BIGS),
    "ranges: not heeded": Fault(large("whole", EVER), 4, 3, BIGS),
    "ranges: a flip where the MD5 is known": Fault(
        large("flip", skip=1), 0, 5, BIGS, known=True
    ),
    # Of bytes whose MD5 is known.
    "a flip where the MD5 is known, once": Fault(small("flip"), 0, 2, FEW, known=True),
    "a flip where the MD5 is known, always": Fault(
        small("flip", EVER), 5, 2, FEW, known=True
    ),
    # Of listings.
    "listing: 403": Fault(listing("status", EVER, status=403), 4, 1, FEW, lost=OBJECTS),
    "listing: half": Fault(listing("half", EVER), 4, 1, FEW, lost=OBJECTS),
    "listing: cut once": Fault(listing("close", after=500), 0, 2, FEW),
    "listing: stall once": Fault(listing("stall"), 0, 2, FEW),
    "listing: a page of another site as its third": Fault(
        listing("html", EVER, PAGES, skip=2), 4, None, MANY, lost=PAGED
    ),
    "listing: 500 always as its third": Fault(
        listing("status", EVER, PAGES, status=500, skip=2), 4, None, MANY, lost=PAGED
    ),
    "listing: nothing below the prefix": Fault([], 4, None, (SMALL, EMPTY), lost=0),
    # Of everything.
    "pages for everything": Fault(
        [{"on": "*", "do": "html", "times": EVER}], 4, None, FEW, lost=OBJECTS
    ),
    "a fifth 503 and a twentieth resets": Fault(
        [
            {"on": "*", "do": "status", "status": 503, "share": 0.2},
            {"on": "*", "do": "reset", "share": 0.05},
        ],
        series=MID,
    ),
    "an outage of 503": Fault(
        [{"on": "*", "do": "status", "status": 503, "seconds": 0.6}],
        series=MID,
        options={"retry_timeout": 10},
    ),
    "an outage of resets": Fault(
        [{"on": "*", "do": "reset", "seconds": 0.6}],
        series=MID,
        options={"retry_timeout": 10},
    ),
    "an outage after the listing": Fault(
        [
            {"on": f"list:{SMALL}/", "do": "nothing", "times": EVER},
            {"on": f"list:{STREAMED}/", "do": "nothing", "times": EVER},
            {"on": "*", "do": "reset", "seconds": 0.6},
        ],
        series=MID,
        options={"retry_timeout": 10},
    ),
}
BY_FSSPEC = (
    "stream: end once",
    "stream: end always at the same byte",
    "stream: another version from the middle on",
    "stream: longer than listed",
    "a flip where the MD5 is known, always",
    "listing: 403",
    "listing: half",
    "an outage of resets",
)
"""Faults that are played to fsspec as well."""


def judged(root: Path, target: Path, found, fault: Fault) -> None:
    """Hold a copy, and what is said of it, against the truth."""
    code, report = found
    true, there = truth(root, *fault.series), held(target)
    assert there.items() <= true.items()
    assert code == fault.code
    assert report is not None
    lost = true.keys() - there.keys()
    if not fault.code:
        assert not lost
        assert report.counts["failed"] == 0
        return
    assert len(lost) == fault.lost
    said = {outcome.url for outcome in report.failures}
    assert said
    assert all(outcome.reason for outcome in report.failures)
    for path in lost:
        folder = path.partition("/")[0]
        assert {f"s3://{BUCKET}/{path}", f"s3://{BUCKET}/{folder}/"} & said


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        *((name, "obstore") for name in TOGETHER),
        *((name, "fsspec") for name in BY_FSSPEC),
    ],
)
def test_a_fault_costs_what_it_must_and_nothing_else(
    name, engine, server, root, tmp_path
):
    fault, target = TOGETHER[name], tmp_path / "copy"
    server.script(*fault.rules)
    mirror = at(server, engine, **(fault.options or {}))
    found = cohort(root, *fault.series).reading_from(mirror)
    if fault.known:
        found = knowing(found, root, *fault.series)
    judged(root, target, copied(found, target), fault)
    if fault.most is not None:
        # fsspec asks for the tag apart.
        most = fault.most + (engine == "fsspec")
        assert asked(server)[fault.rules[0]["on"]] <= most
    if not fault.code or EMPTY in fault.series or PAGES in fault.series:
        return
    # The next run, without the fault, fetches what is not there, and nothing else.
    there = held(target)
    server.script()
    code, report = copied(found, target)
    assert code == 0
    assert report.counts["kept"] == len(there)
    assert held(target) == truth(root, *fault.series)


@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_faults_of_some_objects_are_no_faults_of_others(engine, server, root, tmp_path):
    target = tmp_path / "copy"
    sizes = [path.stat().st_size for path in files(root, FAULTY)]
    rules = []
    for number, one in enumerate(OF_AN_OBJECT.values()):
        rule = one.rule(named(FAULTY, number))
        if one.do in ("close", "html") and "by" in rule:
            name = {"close": "after", "html": "length"}[one.do]
            rule[name] = sizes[number] - rule.pop("by")
        rules.append(rule)
    server.script(*rules)
    found = cohort(root, FAULTY).reading_from(at(server, engine))
    began = time.monotonic()
    callback = Callback()
    code, report = copied(found, target, callback=callback)
    assert time.monotonic() - began < 30
    assert code == 4
    # Bytes of what failed were taken back, whatever came of it.
    assert callback.value == report.fetched_size
    true, there = truth(root, FAULTY), held(target)
    assert there.items() <= true.items()
    paths, requests = list(true), asked(server)
    wrong = {
        name: (paths[number] in there, requests[named(FAULTY, number)])
        for number, (name, one) in enumerate(OF_AN_OBJECT.items())
        if (paths[number] in there) != one.there
        # fsspec asks for the tag apart.
        or requests[named(FAULTY, number)] > one.most * (1 + (engine == "fsspec"))
    }
    assert not wrong
    assert [outcome.url for outcome in report.failures] == [
        f"s3://{named(FAULTY, number)}"
        for number, one in enumerate(OF_AN_OBJECT.values())
        if not one.there
    ]
    assert there.keys() >= {*paths[len(OF_AN_OBJECT) :]}
    server.script()
    assert copied(found, target)[0] == 0
    assert held(target) == true


def test_a_store_that_asks_for_time_is_given_it(server, root, tmp_path):
    server.script(
        *small("status", status=429, headers={"Retry-After": "2"}),
        {
            **small("status", status=503)[0],
            "on": named(SMALL, 3),
            "headers": {"Retry-After": "1"},
        },
    )
    found = cohort(root, SMALL).reading_from(at(server, "fsspec", retry_timeout=20))
    assert copied(found, tmp_path / "copy")[0] == 0
    for number, seconds in ((VICTIM, 2), (3, 1)):
        first, again, *_ = (
            request["at"]
            for request in server.requests()
            if request["target"] == named(SMALL, number)
        )
        assert again - first >= seconds


def test_bytes_that_nobody_can_hold_against_anything_are_taken_as_they_come(
    server, root, tmp_path
):
    server.script(*small("flip", EVER))
    code, report = copied(
        cohort(root, SMALL).reading_from(at(server)), tmp_path / "copy"
    )
    assert (code, report.counts["fetched"]) == (0, OBJECTS)
    wrong = held(tmp_path / "copy").items() - truth(root, SMALL).items()
    assert len(wrong) == 1


@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_a_copy_is_not_led_to_another_host(server, canary, root, tmp_path, engine):
    canary.script()
    elsewhere = canary.endpoint.replace("127.0.0.1", "localhost")
    to = f"{elsewhere}/{named(SMALL, VICTIM)}"
    server.script(*small("redirect", EVER, to=to))
    found = cohort(root, SMALL).reading_from(at(server, engine))
    code, report = copied(found, tmp_path / "copy")
    assert code == 4
    assert "leads to another host" in report.failures[0].reason
    assert len(held(tmp_path / "copy")) == OBJECTS - 1
    assert canary.requests() == []


def test_a_copy_goes_where_the_same_host_leads(server, root, tmp_path):
    to = f"{server.endpoint}/{named(SMALL, VICTIM)}?moved"
    server.script(*small("redirect", status=301, to=to))
    found = cohort(root, SMALL).reading_from(at(server))
    assert copied(found, tmp_path / "copy")[0] == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("do", ["status", "reset"])
def test_an_outage_of_a_minute_is_survived(root, tmp_path, do):
    with Faulty(root, latency=0.05) as server:
        found = cohort(root, FAULTY).reading_from(
            at(server, read_timeout=30, retry_timeout=90)
        )
        plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
        server.script(
            {"on": named(FAULTY, 30), "do": "nothing", "times": EVER},
            {"on": "*", "do": do, "status": 503, "seconds": 60},
        )
        report = transfer.run(plan)
        assert report.counts["failed"] == 0
        assert held(tmp_path / "copy") == truth(root, FAULTY)
        assert report.seconds > 60
        assert len(server.requests()) < 20 * 60


# Giving up.


def test_a_store_that_is_down_is_given_up_for_all_that_follows(tmp_path):
    root = tmp_path / "store"
    series = [put_series(root, number, [10]) for number in range(1, 401)]
    with Faulty(root) as server:
        found = cohort(root, *series).reading_from(at(server))
        plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
        server.script({"on": "*", "do": "status", "status": 503, "times": EVER})
        began = time.monotonic()
        with pytest.raises(TransferError) as caught:
            transfer.run(plan)
        # One after the other, by 8 threads, it would be 100 seconds.
        assert time.monotonic() - began < 20
        reasons = [outcome.reason for outcome in caught.value.report.failures]
        assert len(reasons) == 400
        assert sum("the store is given up" in reason for reason in reasons) > 200
        assert all("503" in reason for reason in reasons)
        assert len(server.requests()) < 400
        # It serves again, and who was not refused before is served.
        server.script()
        found = cohort(root, *series).reading_from(at(server, retry_timeout=2))
        assert copied(found, tmp_path / "copy")[0] == 0
        assert held(tmp_path / "copy") == truth(root, *series)


class Clock:
    """A time that only waiting makes pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def retrying(**patience) -> tuple[Retrying, Clock]:
    clock = Clock()
    made = Retrying(
        Patience(**patience),
        Budget(rate=1000.0, clock=clock),
        clock=clock,
        sleep=clock.sleep,
        jitter=lambda most: most,
    )
    return made, clock


def down(calls: list[int]):
    def fail() -> None:
        calls.append(1)
        msg = "down"
        raise StorageError(msg, status=503)

    return fail


def refused(policy: Retrying, calls: list[int], times: int) -> list[int]:
    """Call what fails some times; give how often each call asked."""
    asked_for = []
    for _ in range(times):
        before = len(calls)
        with pytest.raises(StorageError):
            policy.call(down(calls))
        asked_for.append(len(calls) - before)
    return asked_for


def test_requests_that_fail_in_a_row_end_the_trust_in_a_store():
    policy, _ = retrying(vain=3, rest=1e9)
    calls: list[int] = []
    found = refused(policy, calls, 20)
    assert all(asked_for > 1 for asked_for in found[:3])
    # Then one is tried, and one, two, four, eight ... fail at once before another.
    assert found[3:] == [1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(StorageError, match="given up, after 7 requests") as caught:
        policy.call(down(calls))
    assert caught.value.details["attempts"] == 0


def test_a_store_that_was_given_up_is_tried_again_after_a_while():
    policy, clock = retrying(vain=3, rest=5.0)
    calls: list[int] = []
    refused(policy, calls, 30)
    clock.now += 5
    assert refused(policy, calls, 1) == [1]
    clock.now += 5
    assert policy.call(lambda: "served") == "served"
    assert policy.call(lambda: "again") == "again"
    assert all(asked_for > 1 for asked_for in refused(policy, calls, 3))


@pytest.mark.parametrize("good", [0, 1])
def test_a_store_that_serves_others_is_not_given_up(good):
    policy, _ = retrying(vain=3)
    calls: list[int] = []

    def missing() -> None:
        msg = "no such object"
        raise StorageError(msg, status=404, transient=False)

    for _ in range(20):
        assert refused(policy, calls, 2) != [0, 0]
        if good:
            policy.call(lambda: None)
        else:
            # It answers, if not with what is wanted.
            with pytest.raises(StorageError, match="no such"):
                policy.call(missing)


def test_those_who_wait_for_a_trial_have_what_becomes_of_it():
    policy, _ = retrying(vain=2, rest=1e9)
    refused(policy, [], 2)
    entered, go = threading.Event(), threading.Event()
    results: list[object] = []

    def slow() -> str:
        entered.set()
        go.wait(20)
        return "served"

    def work(function) -> None:
        try:
            results.append(policy.call(function))
        except StorageError as error:
            results.append(error)

    trial = threading.Thread(target=work, args=(slow,))
    trial.start()
    assert entered.wait(20)
    others = [threading.Thread(target=work, args=(lambda: "too",)) for _ in range(5)]
    for thread in others:
        thread.start()
    go.set()
    for thread in (trial, *others):
        thread.join(20)
    assert sorted(results, key=str) == ["served", *["too"] * 5]


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_copy_ends_when_it_is_to_end_whatever_the_store_does(
    server, root, tmp_path, how
):
    server.script({"on": named(SMALL, VICTIM), "do": "stall", "times": EVER})
    mirror = at(server, read_timeout=30, retry_timeout=90)
    found = cohort(root, SMALL).reading_from(mirror)
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    given = {"timeout": 0.5} if how == "timeout" else {"cancel": cancel}
    began = time.monotonic()
    with pytest.raises(TransferError) as caught:
        transfer.run(plan, limits=transfer.Limits(**given))
    assert time.monotonic() - began < 10
    (failure,) = caught.value.report.failures
    assert failure.url == f"s3://{named(SMALL, VICTIM)}"
    assert ("0.5 seconds" if how == "timeout" else "cancelled") in failure.reason
    assert held(tmp_path / "copy").items() < truth(root, SMALL).items()
    assert left(tmp_path / "copy") == []


# Interrupts.

LIBRARY = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from copied import at, cohort, copied
from types import SimpleNamespace
mirror = at(SimpleNamespace(endpoint={endpoint!r}), read_timeout=30, retry_timeout=90)
found = cohort(Path({root!r}), *{series!r}).reading_from(mirror)
copied(found, Path({target!r}))
"""


def library(server: Faulty, root: Path, target: Path, *series: str) -> list[str]:
    """Give the command of a process that copies these series."""
    text = LIBRARY.format(
        tests=str(Path(__file__).parent),
        endpoint=server.endpoint,
        root=str(root),
        series=series,
        target=str(target),
    )
    return [sys.executable, "-c", text]


def command(server: Faulty, target: Path) -> list[str]:
    """Give the command that copies the sample."""
    return [
        *(sys.executable, "-m", "intake_idc", "copy", "--all"),
        *("--tables", "sample", "--idc-version", "2", "--to", str(target)),
        *("--mirror", "s3://sample", "--endpoint-url", server.endpoint),
    ]


def begun(running: subprocess.Popen, target: Path, many: int) -> None:
    """Wait until some files are there, and some on their way."""
    until = time.monotonic() + 30
    while time.monotonic() < until and running.poll() is None:
        if len(whole(target)) >= many and left(target):
            return
        time.sleep(0.02)
    running.kill()
    pytest.fail(f"no copy began: {running.communicate()}")


def sample_objects(server: Faulty) -> list[Path]:
    uuids = open_idc(2, tables="sample").manifest().uuids
    folders = [server.root / "sample" / uuid for uuid in uuids]
    return sorted(path for folder in folders for path in folder.glob("*.dcm"))


@pytest.fixture(scope="module")
def sample_server(tmp_path_factory) -> Iterator[Faulty]:
    root = tmp_path_factory.mktemp("sample")
    shutil.copytree(sample_path() / "bucket", root / "sample")
    with Faulty(root) as running:
        yield running


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGINT", 130),
        ("SIGTERM", 143),
        pytest.param("SIGHUP", 129, marks=pytest.mark.soak),
    ],
)
def test_a_command_that_is_told_to_end_cleans_up_and_ends(
    sample_server, tmp_path, name, code
):
    target = tmp_path / "copy"
    objects = sample_objects(sample_server)
    silent = objects[-1].relative_to(sample_server.root).as_posix()
    # For longer than anybody wants to wait.
    sample_server.script({"on": silent, "do": "stall", "times": EVER})
    running = subprocess.Popen(
        command(sample_server, target),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun(running, target, len(objects) - 1)
    before = whole(target)
    began = time.monotonic()
    running.send_signal(getattr(signal, name))
    _, said = running.communicate(timeout=30)
    assert time.monotonic() - began < 8
    assert running.returncode == code
    assert "run it again" in said
    assert "Traceback" not in said
    assert left(target) == []
    assert held(target) == before
    # Nobody of its session is there any more.
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_what_somebody_ignores_stays_ignored(sample_server, tmp_path):
    target = tmp_path / "copy"
    objects = sample_objects(sample_server)
    slow = objects[-1].relative_to(sample_server.root).as_posix()
    sample_server.script({"on": slow, "do": "trickle", "rate": 10_000, "times": EVER})
    # As nohup does.
    ignoring = ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "-"]
    running = subprocess.Popen(
        [*ignoring, *command(sample_server, target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    begun(running, target, len(objects) - 1)
    running.send_signal(signal.SIGHUP)
    said = running.communicate(timeout=30)
    assert running.returncode == 0, said
    assert len(held(target)) >= len(objects)


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_an_interrupt_of_a_program_ends_the_copy_and_its_threads(
    server, root, tmp_path
):
    target = tmp_path / "copy"
    server.script(
        {"on": named(SMALL, VICTIM), "do": "stall", "times": EVER},
        {"on": named(LARGE), "do": "stall", "after": 10**6, "times": EVER},
        {"on": named(STREAMED), "do": "stall", "after": 10**6, "times": EVER},
    )
    arguments = library(server, root, target, SMALL, STREAMED, LARGE)
    running = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    # All but the victim, and the second of those that are streamed.
    begun(running, target, OBJECTS)
    before = whole(target)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert time.monotonic() - began < 8
    assert running.returncode != 0
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert left(target) == []
    assert held(target) == before


def test_an_interrupt_leaves_no_thread_that_names_a_file_later(server, root, tmp_path):
    target = tmp_path / "copy"

    class Interrupting(Callback):
        done = False

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if not self.done:
                self.done = True
                _thread.interrupt_main()

    server.script(
        {"on": named(STREAMED), "do": "trickle", "rate": 10**7, "times": EVER}
    )
    found = cohort(root, STREAMED, SMALL).reading_from(at(server))
    others = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        copied(found, target, callback=Interrupting())
    before = held(target)
    assert left(target) == []
    # Threads of this process that were still at it find that it is over.
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith("intake-idc-copy"):
            thread.join(20)
            assert not thread.is_alive()
    assert held(target) == before
    assert before.items() <= truth(root, SMALL, STREAMED).items()
    assert left(target) == []


# The disk.


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MB, and of 40 files."""
    place = tmp_path / "disk"
    place.mkdir()
    said = "size=4m,nr_inodes=40,mode=777"
    sudo = [] if os.name != "nt" and os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*sudo, "mount", "-t", "tmpfs", "-o", said, "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True)
        why = done.stderr.decode()
    except FileNotFoundError as error:
        why = str(error)
    if why:
        (pytest.fail if on_ci() and sys.platform == "linux" else pytest.skip)(why)
    try:
        yield place
    finally:
        # Nothing below it may still be held open.
        done = subprocess.run([*sudo, "umount", str(place)], check=False)
        if done.returncode:
            subprocess.run([*sudo, "umount", "-l", str(place)], check=True)
            pytest.fail(f"{place} is still in use")


def test_what_does_not_fit_is_not_begun(server, root, small_disk):
    target = small_disk / "copy"
    server.script()
    found = cohort(root, SMALL, STREAMED).reading_from(at(server))
    with pytest.raises(NoSpace, match=r"4\.\d+ MB free.*needs 1\d\.\d+ MB") as caught:
        found.materialize(target, dir_template=TEMPLATE)
    assert caught.value.exit_code == 6
    assert caught.value.details["of"] == "bytes"
    assert not target.exists()
    # Nor what has not files enough.
    found = cohort(root, FAULTY).reading_from(at(server))
    with pytest.raises(NoSpace, match=r"room for 3\d files") as caught:
        found.materialize(target, dir_template=TEMPLATE)
    assert caught.value.details["of"] == "files"
    assert caught.value.details["needed"] == 2 * OBJECTS + 1
    assert not target.exists()
    assert not any(
        request["method"] == "GET" and "list:" not in request["target"]
        for request in server.requests()
    )


def test_what_is_there_needs_no_space(server, root, small_disk):
    target = small_disk / "copy"
    server.script()
    found = cohort(root, SMALL).reading_from(at(server))
    assert copied(found, target)[0] == 0
    victim = target / SMALL / files(root, SMALL)[0].name
    victim.write_bytes(victim.read_bytes()[:-1])
    filler = small_disk / "filler"
    free = os.statvfs(small_disk)
    # One block is left, for what is beside the one that it replaces.
    filler.write_bytes(bytes((free.f_bavail - 8) * free.f_frsize))
    code, report = copied(found, target)
    assert (code, report.counts["replaced"]) == (0, 1)
    assert held(target) == truth(root, SMALL)


def test_a_disk_that_becomes_full_ends_the_copy(server, root, small_disk):
    target = small_disk / "copy"
    server.script({"on": "*", "do": "trickle", "rate": 40_000, "times": EVER})

    class Filling(Callback):
        """Somebody else fills the disk when a file is there."""

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > 2 * SIZE and not (small_disk / "filler").exists():
                free = os.statvfs(small_disk)
                filler = bytes(free.f_bavail * free.f_frsize)
                (small_disk / "filler").write_bytes(filler)

    found = cohort(root, SMALL).reading_from(at(server))
    code, report = copied(found, target, callback=Filling())
    there = held(target)
    assert code == 6
    assert 0 < len(there) < OBJECTS
    assert there.items() <= truth(root, SMALL).items()
    assert left(target) == []
    assert report.counts["failed"] == OBJECTS - len(there)
    assert any("space" in outcome.reason for outcome in report.failures)
    (small_disk / "filler").unlink()
    server.script()
    assert copied(found, target)[0] == 0
    assert held(target) == truth(root, SMALL)


@pytest.mark.skipif(os.name == "nt", reason="limits are those of POSIX")
def test_a_file_that_may_not_be_so_large_is_not_there(server, root, tmp_path):
    target = tmp_path / "copy"
    server.script()
    limited = 'ulimit -f 4; exec "$@"'
    arguments = library(server, root, target, SMALL, STREAMED)
    done = subprocess.run(
        ["/bin/bash", "-c", limited, "-", *arguments],
        check=False,
        capture_output=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert held(target) == truth(root, SMALL)
    assert left(target) == []


# What is in the way, and what others do.


def test_two_processes_into_one_folder_of_which_one_is_killed(server, root, tmp_path):
    target = tmp_path / "copy"
    server.script({"on": named(STREAMED), "do": "stall", "after": 10**6, "times": 1})
    first = subprocess.Popen(library(server, root, target, STREAMED, SMALL))
    begun(first, target, OBJECTS)
    # The second fetches what the first is at; then the first is gone.
    found = cohort(root, STREAMED, SMALL).reading_from(at(server))
    assert copied(found, target)[0] == 0
    assert len(left(target)) == 1
    first.kill()
    first.wait(20)
    assert held(target).keys() > truth(root, STREAMED, SMALL).keys()
    code, report = copied(found, target)
    assert (code, report.counts["fetched"]) == (0, 0)
    assert held(target) == truth(root, STREAMED, SMALL)


def test_parts_of_others_stay_until_nobody_can_need_them(server, root, tmp_path):
    target = tmp_path / "copy"
    folder = target / SMALL
    folder.mkdir(parents=True)
    (target / ".idc").mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(20)
    from intake_idc.files import part_name

    own = part_name()
    machine, day = own.split("-")[1], time.time() - 90_000
    gone, again = f".idc-{machine}-{dead.pid}-1", f".idc-{machine}-{os.getpid()}-1"
    # Where, when (0 is now), and whether it stays.
    parts = {
        "of this process": (folder / own, 0, True),
        "of a dead process": (folder / f"{gone}-a.part", 0, False),
        "of a number that is used again": (folder / f"{again}-a.part", 0, False),
        "in the target": (target / f"{gone}-b.part", 0, False),
        "of a record": (target / ".idc" / f"{gone}-c.part", 0, False),
        "of another machine": (folder / ".idc-00000000-1-1-a.part", 0, True),
        "of another machine, old": (folder / ".idc-00000000-1-1-b.part", day, False),
        "of a user": (folder / "mine.part", day, True),
        "outside": (tmp_path / f"{gone}-d.part", 0, True),
    }
    for path, when, _ in parts.values():
        path.write_bytes(b"part")
        if when:
            os.utime(path, (when, when))
    server.script()
    assert copied(cohort(root, SMALL).reading_from(at(server)), target)[0] == 0
    found = {name: path.exists() for name, (path, *_) in parts.items()}
    assert found == {name: stays for name, (_, _, stays) in parts.items()}


def test_stale_parts_are_not_looked_for_behind_a_link(server, root, tmp_path):
    target, outside = tmp_path / "copy", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    (outside / ".idc-00000000-1-1-b.part").write_bytes(b"mine")
    os.utime(outside / ".idc-00000000-1-1-b.part", (1, 1))
    (target / ".idc").symlink_to(outside)
    server.script()
    copied(cohort(root, SMALL).reading_from(at(server)), target)
    assert [path.name for path in outside.iterdir()] == [".idc-00000000-1-1-b.part"]


@pytest.mark.skipif(os.name == "nt", reason="folders are not opened by steps there")
def test_a_link_that_is_put_in_the_way_leads_nobody_outside(server, root, tmp_path):
    target, outside = tmp_path / "copy", tmp_path / "outside"
    outside.mkdir()
    victim = outside / files(root, SMALL)[0].name
    victim.write_text("mine")
    server.script()
    found = cohort(root, SMALL, FAULTY).reading_from(at(server))
    over = threading.Event()

    def meddle() -> None:
        number = 0
        while not over.is_set():
            for series in (SMALL, FAULTY):
                number += 1
                try:
                    (target / series).rename(tmp_path / f"away-{number}")
                    (target / series).symlink_to(outside)
                    time.sleep(0.002)
                    (target / series).unlink()
                except OSError:
                    time.sleep(0.0005)

    codes = set()
    meddler = threading.Thread(target=meddle)
    meddler.start()
    try:
        for _ in range(10):
            codes.add(copied(found, target)[0])
    finally:
        over.set()
        meddler.join()
    assert codes <= {0, 3, 4}
    assert victim.read_text() == "mine"
    assert list(outside.iterdir()) == [victim]


@pytest.mark.parametrize("what", ["file", "folder", "folder above"])
def test_a_link_in_the_place_of_an_object_is_refused(server, root, tmp_path, what):
    target, outside = tmp_path / "copy", tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_text("mine")
    place = target / SMALL / files(root, SMALL)[0].name
    link = {"file": place, "folder": place.parent, "folder above": target / "a"}[what]
    link.parent.mkdir(parents=True)
    link.symlink_to(victim if what == "file" else outside)
    server.script()
    template = f"a/{TEMPLATE}" if what == "folder above" else TEMPLATE
    found = cohort(root, SMALL).reading_from(at(server))
    code, _ = copied(found, target, dir_template=template)
    assert code == 3
    assert victim.read_text() == "mine"
    assert list(outside.iterdir()) == [victim]


@pytest.mark.parametrize("damage", ["truncated", "empty", "longer", "a folder"])
def test_what_is_damaged_is_replaced(server, root, tmp_path, damage):
    target = tmp_path / "copy"
    server.script()
    found = cohort(root, SMALL).reading_from(at(server))
    assert copied(found, target)[0] == 0
    path = target / SMALL / files(root, SMALL)[3].name
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
        assert copied(found, target)[0] == 3
        path.rmdir()
    else:
        made = {"truncated": data[:-1], "empty": b"", "longer": data + b"x"}
        path.write_bytes(made[damage])
    server.script()
    code, report = copied(found, target)
    assert code == 0
    assert report.counts["kept"] == OBJECTS - 1
    assert held(target) == truth(root, SMALL)
    assert sum(key != f"list:{SMALL}/" for key in asked(server)) == 1


def test_a_file_whose_bytes_are_others_is_replaced_where_its_md5_is_known(
    server, root, tmp_path
):
    target = tmp_path / "copy"
    server.script()
    found = knowing(cohort(root, SMALL).reading_from(at(server)), root, SMALL)
    assert copied(found, target)[0] == 0
    path = target / SMALL / files(root, SMALL)[3].name
    state, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    # Its size and time are those of the copy.
    assert copied(found, target)[1].counts["kept"] == OBJECTS
    report = found.repair(target, dir_template=TEMPLATE, checksum=True)
    assert report.counts["replaced"] == 1
    assert held(target) == truth(root, SMALL)


LISTED = "00000003-0000-4000-8000-000000000000.dcm"
KEYS = {
    "up": f"{SMALL}/../../evil.dcm",
    "up, encoded": f"{SMALL}/%2e%2e/%2e%2e/evil.dcm",
    "below": f"{SMALL}/a/../../../evil.dcm",
    "elsewhere": "/tmp/evil.dcm",
    "backwards": f"{SMALL}/..\\\\..\\\\evil.dcm",
    "of a folder": f"{SMALL}/a/evil.dcm",
    "of a device": f"{SMALL}/CON.dcm",
    "with a line": f"{SMALL}/a&#10;b.dcm",
    "a dot": f"{SMALL}/.dcm",
    "the case of another": f"{SMALL}/{LISTED.replace('3', '4').upper()[:-4]}.dcm",
    "too long": f"{SMALL}/{'a' * 300}.dcm",
    "a twin": f"{SMALL}/{LISTED.replace('3', '4')}",
}
"""Keys that no honest store lists."""


@pytest.mark.parametrize(
    ("what", "engine"),
    [
        *((what, "obstore") for what in KEYS),
        *((what, "fsspec") for what in ("up", "below", "a dot", "a twin")),
    ],
)
def test_a_listing_of_odd_keys_leads_nowhere(server, root, tmp_path, what, engine):
    below = tmp_path / "a" / "b"
    target = below / "copy"
    rule = listing("say", EVER, old=f"{SMALL}/{LISTED}", new=KEYS[what])
    server.script(*rule)
    found = cohort(root, SMALL).reading_from(at(server, engine))
    code, _ = copied(found, target)
    assert code in (3, 4)
    true = truth(root, SMALL)
    assert held(target).items() <= true.items()
    outside = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(target in path.parents for path in outside)


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/x", "a\\..\\x", ""])
@pytest.mark.parametrize("column", ["crdc_series_uuid", "aws_bucket", "PatientID"])
def test_a_manifest_of_odd_names_leads_nowhere(server, root, tmp_path, column, name):
    target = tmp_path / "a" / "copy"
    server.script()
    found = cohort(root, SMALL, **{column: [name]}).reading_from(at(server))
    template = "%PatientID" if column == "PatientID" else TEMPLATE
    code, _ = copied(found, target, dir_template=template)
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(target in path.parents for path in paths)
    if column == "PatientID":
        # A value becomes a name by rule.
        assert code == 0
        assert sum(path.suffix == ".dcm" for path in paths) == OBJECTS
    else:
        assert code in (2, 3, 4)
        assert not paths
