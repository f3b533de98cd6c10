"""Many requests from one thread, each once, and what becomes of their answers.

A store that plays faults by a script is asked without patience. Each fact is held
against the server's own account of what it was asked.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from asking import (
    BIG,
    EVER,
    LARGE,
    OBJECTS,
    SIZE,
    SMALL,
    SOON,
    Asked,
    both,
    default,
    object_of,
    open_sockets,
    rested,
    run,
    until,
)
from copied import BUCKET, asked, files, named, put_series, uuid
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import HOST, Faulty

from intake_idc import resolve_mirror
from intake_idc.errors import (
    AccessDenied,
    ObjectChanged,
    ObjectNotFound,
    StorageError,
)
from intake_idc.manifest import Part as Series
from intake_idc.storage import list_all
from intake_idc.storage.endpoints import asks_many
from intake_idc.storage.multi import BUFFER, Multi
from intake_idc.storage.retrying import _budget

pytestmark = [pytest.mark.timeout(60)]
served = pytest.mark.servers

RANGE = 100_000
BELOW = "a b/c+d"
"""A folder in a bucket."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("store")
    put_series(root, 1, [SIZE + number for number in range(OBJECTS)])
    put_series(root, 2, [BIG])
    put_series(root / "below", 1, [SIZE, SIZE])
    (root / BUCKET / BELOW).parent.mkdir()
    (root / "below" / BUCKET).rename(root / BUCKET / BELOW)
    for number, key in enumerate(ODD):
        path = root / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"odd {number}".encode())
    return root


@pytest.fixture(scope="module")
def stores(root) -> Iterator[tuple[Faulty, Faulty]]:
    """Hosts with the same objects."""
    with Faulty(root) as one, Faulty(root) as other:
        yield one, other


@pytest.fixture
def server(stores) -> Faulty:
    return rested(stores[0])


@pytest.fixture
def second(stores) -> Faulty:
    """Another host."""
    return rested(stores[1])


@pytest.fixture(autouse=True)
def _rested() -> None:
    """What all retries of this process may cost together is there anew."""
    _budget.cache_clear()


# One thread, many requests.

ODD = [
    "odd/with a space.dcm",
    "odd/100%.dcm",
    "odd/100%25.dcm",
    "odd/a%2Fb.dcm",
    "odd/#1.dcm",
    "odd/what?.dcm",
    "odd/a?list-type=2",
    "odd/1+1.dcm",
    "odd/Übung 😀.dcm",
    "odd/~a!b$c&d'e(f)g*h,i;j=k:l@m.dcm",
    'odd/"[{<|>}]^`\\.dcm',
    "odd/...dcm",
    "odd/.dcm",
]


@served
def test_keys_are_asked_for_letter_by_letter(server, root):
    requests = [Asked(key) for key in ODD]
    run(default(server), requests)
    assert [request.error for request in requests] == [None] * len(ODD)
    true = [(root / BUCKET / key).read_bytes() for key in ODD]
    assert [request.data for request in requests] == true
    assert asked(server) == Counter(f"{BUCKET}/{key}" for key in ODD)


@served
@pytest.mark.parametrize("key", [f"a/../{SMALL}/{uuid(0)}.dcm", f"./{SMALL}/x.dcm"])
def test_a_key_with_dots_is_not_that_of_another_object(server, key):
    request = Asked(key)
    run(default(server), [request])
    assert request.data == b""
    assert isinstance(request.error, ObjectNotFound)
    assert asked(server) == {f"{BUCKET}/{key}": 1}


RANGES = st.tuples(st.integers(0, SIZE + 5), st.none() | st.integers(1, SIZE)).map(
    lambda pair: (pair[0], pair[1] and pair[0] + pair[1])
)
WHOLE = st.just((0, None))


@served
@settings(max_examples=25)
@given(
    parts=st.lists(st.tuples(st.integers(0, 9), WHOLE | RANGES), max_size=12),
    most=st.integers(1, 5),
)
def test_what_comes_is_what_was_asked_for_whatever_came_before(
    stores, root, parts, most
):
    # A connection that had a range, or an error, is taken up for what follows.
    rule = {"do": "status", "status": 503, "times": EVER}
    server = stores[0]
    server.script({"on": named(SMALL, 9), **rule})
    requests = [object_of(n, start=start, stop=stop) for n, (start, stop) in parts]
    run(default(server), requests, most=most)
    for (number, (start, stop)), request in zip(parts, requests, strict=True):
        true = files(root, SMALL)[number].read_bytes()
        if number == 9 or (start >= len(true)):
            assert request.error is not None
            assert request.data == b""
        else:
            assert request.error is None
            assert request.data == true[start:stop]


@served
def test_who_has_no_answer_is_not_told_of_the_one_before(server):
    server.script({"on": named(SMALL, 1), "do": "reset", "times": EVER})
    requests = [object_of(0), object_of(1)]
    run(default(server), requests, most=1)
    good, broken = requests
    assert good.error is None
    assert good.etag
    assert isinstance(broken.error, StorageError)
    assert broken.etag is None


@served
def test_no_more_are_in_flight_than_are_given(server):
    server.script({"on": "*", "do": "trickle", "rate": 40_000, "times": EVER})
    requests = [object_of(number) for number in range(12)]
    run(default(server), requests, most=4)
    assert server.busiest() == 4
    assert [request.error for request in requests] == [None] * 12


@served
def test_a_large_answer_is_handed_over_bit_by_bit(server, root):
    whole = Asked(f"{LARGE}/{uuid(0)}.dcm")
    ranges = [
        Asked(whole.key, start, min(start + RANGE, BIG))
        for start in range(0, BIG, RANGE)
    ]
    run(default(server), [whole, *ranges])
    true = files(root, LARGE)[0].read_bytes()
    assert whole.data == b"".join(request.data for request in ranges) == true
    assert len(whole.taken) > 1
    # As it comes, and not all at the end.
    assert max(whole.taken) <= BUFFER


@served
def test_what_is_refused_is_not_sent_on(server):
    requests = [Asked(f"{LARGE}/{uuid(0)}.dcm", wants=1), object_of(0)]
    run(default(server), requests)
    refusing, other = requests
    # Once, and its end is told once.
    assert len(refusing.taken) == 1
    assert len(refusing.data) < BIG
    assert len(refusing.ends) == 1
    assert other.error is None


@served
def test_what_is_refused_ends_with_an_error(server):
    refusing = Asked(f"{LARGE}/{uuid(0)}.dcm", wants=1)
    run(default(server), [refusing])
    assert isinstance(refusing.error, StorageError)


@served
@pytest.mark.parametrize("after", [None, 1000])
def test_what_is_stopped_ends_soon_though_the_store_is_silent(server, after):
    server.script({"on": "*", "do": "stall", "after": after, "times": EVER})
    requests = [object_of(number) for number in range(10)]
    stopped = threading.Event()
    running = threading.Thread(
        target=run,
        args=(default(server, read_timeout=60), requests),
        kwargs={"most": 5, "stopped": stopped},
        daemon=True,
    )
    running.start()
    until(lambda: len(server.requests()) == 5)
    stopped.set()
    running.join(SOON)
    assert not running.is_alive()
    # Those that were not sent are told nothing.
    assert [len(request.ends) for request in requests] == [1] * 5 + [0] * 5
    for request in requests[:5]:
        assert isinstance(request.error, StorageError)
        assert "given up" in str(request.error)


@served
def test_nothing_is_sent_where_all_is_to_end(server):
    stopped, request = threading.Event(), object_of(0)
    stopped.set()
    run(default(server), [request], stopped=stopped)
    assert request.ends == []
    assert server.requests() == []


@served
def test_who_breaks_off_is_told_of_what_was_in_flight(server):
    server.script({"on": "*", "do": "stall", "after": 100, "times": EVER})
    request = object_of(0)

    def following(live: int) -> Asked | None:
        if not live:
            return request
        if server.requests():
            msg = "no more"
            raise LookupError(msg)
        return None

    multi = Multi(default(server, read_timeout=60))
    with pytest.raises(LookupError, match="no more"):
        multi.run(following, lambda: None, threading.Event())
    assert isinstance(request.error, StorageError)


def test_a_store_that_is_not_there_is_an_error_of_each():
    with socket.socket() as probe:
        # Nobody listens there.
        probe.bind((HOST, 0))
        nobody = SimpleNamespace(endpoint=f"http://{HOST}:{probe.getsockname()[1]}")
        requests = [object_of(number) for number in range(5)]
        multi = run(default(nobody), requests)
    assert all(type(request.error) is StorageError for request in requests)
    assert multi.buckets == [BUCKET]


def test_how_long_answers_take_is_not_known_where_none_came():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        nobody = SimpleNamespace(endpoint=f"http://{HOST}:{probe.getsockname()[1]}")
        assert run(default(nobody), [object_of(0)]).latency is None


@served
def test_the_tag_is_told_with_the_name_of_a_mirror_that_is_not_first(server, second):
    first, other = both(server, second).every
    plain, told = object_of(0), object_of(0)
    run(first, [plain])
    run(other, [told])
    assert plain.etag.startswith('"')
    assert told.etag == f"gcs {plain.etag}"


@served
def test_it_is_known_how_long_answers_take_and_whom_they_are_of(root):
    with Faulty(root, latency=0.05) as far:
        requests = [object_of(number) for number in range(3)]
        multi = run(default(far), requests)
        assert multi.latency >= 0.05
        assert multi.buckets == [BUCKET]


@pytest.mark.parametrize(
    ("mirror", "holds"),
    [
        ("aws", True),
        ("gcs", True),
        ("s3://idc-open-data/below", True),
        (resolve_mirror("aws", engine="obstore"), False),
        (resolve_mirror("aws", engine="fsspec"), False),
        (resolve_mirror("aws", engine="s5cmd"), False),
        (resolve_mirror("aws", storage_options={"anon": False}), False),
        ("https://here.example/{aws_bucket}", False),
        ("sample", False),
    ],
)
def test_who_names_an_engine_or_a_secret_is_not_asked_for_many(mirror, holds):
    assert asks_many(resolve_mirror(mirror)) == holds


@served
def test_a_mirror_may_lie_below_a_folder(server, root):
    mirror = replace(default(server), root=f"s3://{BUCKET}/{BELOW}")
    assert asks_many(mirror)
    request = object_of(1)
    run(mirror, [request])
    assert request.error is None
    assert asked(server) == {f"{BUCKET}/{BELOW}/{request.key}": 1}
    path = root / BUCKET / BELOW / request.key
    assert request.data == path.read_bytes()
    # Its listings are not asked for so, and say the same.
    server.script()
    found = Series(SMALL, BUCKET, instanceCount=2, size=2 * SIZE)
    (listing,) = list_all([found], mirror)
    assert [one.size for one in listing.instances] == [SIZE, SIZE]
    assert all(one.url.startswith(mirror.root) for one in listing.instances)


# What goes wrong, all at once.


class Fault(NamedTuple):
    """A fault of an answer, and what its request is told."""

    rule: dict
    kind: type[StorageError] | None = StorageError
    """None where it came, as far as can be seen there."""
    said: Mapping[str, Any] = MappingProxyType({})
    """Among the details of the error."""
    part: tuple[int, int | None] = (0, None)
    got: int | None = None
    """Bytes that were taken."""


FAULTS = {
    "404": Fault({"do": "status", "status": 404}, ObjectNotFound, {"status": 404}),
    "410": Fault({"do": "status", "status": 410}, ObjectNotFound, {"status": 410}),
    "401": Fault({"do": "status", "status": 401}, AccessDenied, {"status": 401}),
    "403": Fault({"do": "status", "status": 403}, AccessDenied, {"status": 403}),
    "412": Fault({"do": "status", "status": 412}, ObjectChanged, {"status": 412}),
    "500": Fault(
        {"do": "status", "status": 500}, said={"status": 500, "transient": True}
    ),
    "501": Fault(
        {"do": "status", "status": 501}, said={"status": 501, "transient": False}
    ),
    "503": Fault(
        {"do": "status", "status": 503},
        said={"status": 503, "transient": True, "retry_after": 0},
    ),
    "503 for a while": Fault(
        {"do": "status", "status": 503, "headers": {"Retry-After": "7"}},
        said={"status": 503, "transient": True, "retry_after": 7},
    ),
    "429 for a while": Fault(
        {"do": "status", "status": 429, "headers": {"retry-AFTER": " 5 "}},
        said={"status": 429, "transient": True, "retry_after": 5},
    ),
    "503 until a day that is over": Fault(
        {
            "do": "status",
            "status": 503,
            "headers": {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"},
        },
        said={"status": 503, "retry_after": 0},
    ),
    "another host": Fault({"do": "redirect"}, said={"status": 307, "transient": False}),
    "another host, for ever": Fault(
        {"do": "redirect", "status": 301}, said={"status": 301, "transient": False}
    ),
    "reset before the answer": Fault({"do": "reset"}, got=0),
    "reset in the middle": Fault({"do": "reset", "after": 1000}),
    "end before the first byte": Fault({"do": "close", "after": 0}, got=0),
    "end in the middle": Fault({"do": "close", "after": 1000}, got=1000),
    "stall before the answer": Fault({"do": "stall"}, got=0),
    "stall in the middle": Fault({"do": "stall", "after": 1000}, got=1000),
    "end in the middle of a range": Fault(
        {"do": "close", "after": 5}, part=(100, 200), got=5
    ),
    "the whole for a range": Fault(
        {"do": "whole"}, said={"transient": False}, part=(100, 200), got=0
    ),
    "the whole for a range from the start": Fault(
        {"do": "whole"}, said={"transient": False}, part=(0, 200), got=0
    ),
    "a page for a range": Fault(
        {"do": "html"}, said={"transient": False}, part=(100, None), got=0
    ),
    "a range after the end": Fault(
        {"do": "nothing"}, said={"status": 416}, part=(10**6, None), got=0
    ),
    "a trickle": Fault({"do": "trickle", "rate": 5_000}, None),
    "another version": Fault({"do": "retag"}, None),
}
"""Each of another object, all in flight at once."""


@pytest.fixture(scope="module", autouse=True)
def playing(root) -> Iterator[dict[str, Any]]:
    """Play all faults at once, while other tests run: a silent store takes a while."""
    rules, requests, stopped = [], {}, threading.Event()
    with Faulty(root) as store, Faulty(root) as canary:
        for number, (name, fault) in enumerate(FAULTS.items()):
            start, stop = fault.part
            requests[name] = object_of(number, start=start, stop=stop)
            to = f"{canary.endpoint}/{named(SMALL, number)}"
            rules.append(
                {"on": named(SMALL, number), "to": to, "times": EVER, **fault.rule}
            )
        for number in range(len(FAULTS), OBJECTS):
            requests[f"good {number}"] = object_of(number)
        store.script(*rules)
        mirror = default(store, read_timeout=1)
        thread = threading.Thread(
            target=run,
            args=(mirror, requests.values()),
            kwargs={"stopped": stopped},
        )
        thread.start()
        yield {"requests": requests, "thread": thread, "canary": canary}
        stopped.set()
        thread.join()


@pytest.fixture
def told(playing) -> dict[str, Asked]:
    """What became of requests in flight together: those of the faults, and others."""
    playing["thread"].join()
    return playing["requests"]


@served
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_its_request_with_what_it_is(told, root, name):
    fault, request = FAULTS[name], told[name]
    error = request.error
    assert type(error) is (fault.kind or type(None))
    start, stop = fault.part
    number = [*FAULTS].index(name)
    true = files(root, SMALL)[number].read_bytes()[start:stop]
    # Whatever goes wrong, what is taken is of the object; never the page of an error.
    assert true.startswith(request.data)
    if fault.got is not None:
        assert len(request.data) == fault.got
    if error is None:
        assert request.data == true
        assert request.etag
        return
    if "status" in fault.said:
        assert request.data == b""
    said = {name: error.details.get(name) for name in fault.said}
    assert said == fault.said
    url = f"s3://{named(SMALL, number)}"
    assert error.details["url"] == url
    assert url in str(error)


@served
def test_a_fault_is_none_of_others_in_flight(told, root):
    for number, path in enumerate(files(root, SMALL)):
        if number >= len(FAULTS):
            request = told[f"good {number}"]
            assert request.error is None
            assert request.data == path.read_bytes()


@served
def test_no_other_host_is_asked(told, playing):
    assert told["another host"].ends
    assert playing["canary"].requests() == []


@served
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("reset before the answer", "reset"),
        ("stall before the answer", "nothing came"),
        ("stall in the middle", "nothing came"),
        ("end in the middle", "missing"),
        ("the whole for a range", "a range was asked for"),
        ("another host", "leads to another host"),
    ],
)
def test_an_error_says_what_happened(told, name, says):
    assert says in str(told[name].error)


@served
@pytest.mark.parametrize(
    "name",
    [
        "reset before the answer",
        "stall before the answer",
        "reset in the middle",
        "stall in the middle",
        "end in the middle",
    ],
)
def test_a_line_that_breaks_is_no_last_word(told, name):
    assert told[name].error.details.get("transient", True)


# What is left open.


@served
@pytest.mark.skipif(sys.platform != "linux", reason="it is seen in /proc")
@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("how", ["came", "failed", "stopped", "broke off", "not begun"])
def test_nothing_is_left_open(server, how):
    requests = [object_of(number) for number in range(8)]
    if how == "failed":
        rules = [{"do": "reset"}, {"do": "status", "status": 503}, {"do": "close"}]
        server.script(*({"on": named(SMALL, n), **r} for n, r in enumerate(rules)))
    elif how != "came":
        on = [named(SMALL, number) for number in range(4, 8)]
        server.script(*({"on": one, "do": "stall", "after": 10} for one in on))
    stopped, before = threading.Event(), open_sockets()
    waiting = iter(requests)

    def following(_live: int) -> Asked | None:
        found = next(waiting, None)
        if found is None and how in ("stopped", "broke off"):
            all_there = len(server.requests()) == len(requests)
            if all_there and how == "broke off":
                msg = "no more"
                raise LookupError(msg)
            if all_there:
                stopped.set()
        return found

    if how == "not begun":
        stopped.set()
    multi = Multi(default(server, read_timeout=60))
    broken = pytest.raises(LookupError, match="no more")
    with broken if how == "broke off" else nullcontext():
        multi.run(following, lambda: None, stopped)
    assert open_sockets() == before
    assert [len(request.ends) for request in requests] == [how != "not begun"] * 8
