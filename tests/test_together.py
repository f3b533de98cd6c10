"""Copies of which many objects are asked for together, and what did not come, again.

A store that plays faults is asked as it is by default: many requests at a time from
each thread, each once, and with patience for what did not come that way. Other tests of
faults name an engine, and so are of the patience alone. Each fact is held against the
server's own account of what it was asked.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from asking import (
    BIG,
    EDGE,
    EVER,
    LARGE,
    MANY,
    OBJECTS,
    PAGED,
    PAGES,
    SIZE,
    SMALL,
    SOON,
    SPLIT,
    TINY,
    Asked,
    Saying,
    both,
    chunked,
    default,
    objects_asked,
    own_threads,
    rested,
    until,
)
from copied import (
    BUCKET,
    TEMPLATE,
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
)
from fsspec.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Faulty

from intake_idc import resolve_mirror, transfer
from intake_idc.errors import RequestError, StorageError, TransferError
from intake_idc.storage import (
    Answers,
    StoppedError,
    Ways,
    gather,
    list_all,
    read_instance,
)
from intake_idc.storage.multi import BUFFER
from intake_idc.storage.retrying import Budget, _budget
from intake_idc.storage.threads import Threads
from intake_idc.storage.together import AT_FIRST, DONE, LATER, VAIN
from intake_idc.transfer import large as large_objects

pytestmark = [pytest.mark.timeout(60)]
served = pytest.mark.servers

RANGE = 100_000
EDGES = [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER, 3 * BUFFER + 7]
"""Bytes of objects by which it is seen whether all that is taken at once is written."""
SPLITS = [2 * RANGE, 2 * RANGE + 1, 3 * RANGE - 1, 3 * RANGE, 3 * RANGE + 1]
"""Bytes of objects by which it is seen how ranges end."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("store")
    put_series(root, 1, [SIZE + number for number in range(OBJECTS)])
    put_series(root, 2, [BIG])
    put_series(root, 3, [10] * MANY)
    put_series(root, 4, [1] * PAGED)
    put_series(root, 5, EDGES)
    put_series(root, 6, SPLITS)
    return root


@pytest.fixture(scope="module")
def stores(root) -> Iterator[tuple[Faulty, Faulty, Faulty]]:
    """Hosts with the same objects, of which the last is farther away."""
    with Faulty(root) as one, Faulty(root) as other, Faulty(root, 0.01) as far:
        yield one, other, far


@pytest.fixture
def server(stores) -> Faulty:
    return rested(stores[0])


@pytest.fixture
def second(stores) -> Faulty:
    """Another host."""
    return rested(stores[1])


@pytest.fixture(params=["near", "far"])
def either(request, stores) -> Faulty:
    """A host of which some things are asked at once, or one of which very many are."""
    return rested(stores[0 if request.param == "near" else 2])


@pytest.fixture(autouse=True)
def _rested() -> None:
    """What all retries of this process may cost together is there anew."""
    _budget.cache_clear()


# Copies.


ONCE: dict[str, dict] = {
    "503": {"do": "status", "status": 503},
    "503 for a while": {
        "do": "status",
        "status": 503,
        "headers": {"Retry-After": "900"},
    },
    "500": {"do": "status", "status": 500},
    "404": {"do": "status", "status": 404},
    "403": {"do": "status", "status": 403},
    "412": {"do": "status", "status": 412},
    "end in the middle": {"do": "close", "after": 1000},
    "end before the first byte": {"do": "close", "after": 0},
    "reset in the middle": {"do": "reset", "after": 1000},
    "shorter": {"do": "short"},
    "longer": {"do": "long"},
    "much longer": {"do": "long", "by": 10**6},
    "a page": {"do": "html"},
    "a page of its size": {"do": "html", "length": SIZE + 13},
    "another version": {"do": "replace"},
    "another host": {"do": "redirect", "to": "http://127.0.0.1:9/x"},
}
"""What happens once, each to another object of one series."""
assert [*ONCE].index("a page of its size") == 13


@served
def test_what_fails_once_costs_one_request_more_and_nothing_else(
    either, root, tmp_path
):
    server, checksum = either, "crc32c" if either.latency else None
    rules = [{"on": named(SMALL, n), **rule} for n, rule in enumerate(ONCE.values())]
    server.script(*rules)
    found = cohort(root, SMALL).reading_from(default(server))
    callback = Callback()
    code, report = copied(
        found, tmp_path / "copy", callback=callback, checksum=checksum
    )
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)
    assert left(tmp_path / "copy") == []
    again = {name: report.retries.get(n, 0) for n, name in enumerate(ONCE)}
    assert again == dict.fromkeys(ONCE, 1)
    assert sum(report.retries.values()) == len(ONCE)
    assert objects_asked(server) == {
        named(SMALL, n): 1 + (n < len(ONCE)) for n in range(OBJECTS)
    }
    # Bytes that had to be written again are counted once.
    total = sum(path.stat().st_size for path in files(root, SMALL))
    assert callback.value == callback.size == report.fetched_size == total


@served
def test_what_fails_by_chance_is_counted_exactly(either, root, tmp_path):
    server = either
    server.script(
        {"on": f"list:{SMALL}/", "do": "nothing", "times": EVER},
        {"on": "*", "do": "status", "status": 503, "share": 0.3},
    )
    found = cohort(root, SMALL).reading_from(default(server, retry_timeout=20))
    code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)
    requests = objects_asked(server)
    again = {
        number: requests[named(SMALL, number)] - 1
        for number in range(OBJECTS)
        if requests[named(SMALL, number)] > 1
    }
    assert again
    assert dict(report.retries) == again


@served
def test_a_line_that_is_dead_is_taken_for_no_answer(server, root, tmp_path):
    # What was sent on a line that was dead by then is sent again at once.
    rules = [{"on": named(SMALL, n), "do": "reset"} for n in range(0, OBJECTS, 3)]
    server.script(*rules)
    found = cohort(root, SMALL).reading_from(default(server))
    code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)
    assert objects_asked(server) == {
        named(SMALL, n): 1 + (not n % 3) for n in range(OBJECTS)
    }
    assert set(report.retries.values()) <= {1}
    assert set(report.retries) <= set(range(0, OBJECTS, 3))


@served
def test_failures_now_and_then_do_not_end_what_is_asked_together(
    server, root, tmp_path
):
    # In all more than end it where they come in a row.
    failing = range(0, MANY, 5)
    assert len(failing) > VAIN
    server.script(
        *({"on": named(TINY, n), "do": "status", "status": 500} for n in failing)
    )
    found = cohort(root, TINY).reading_from(default(server, retry_timeout=20))
    code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert dict(report.retries) == dict.fromkeys(failing, 1)
    order = [one["target"] for one in server.requests() if "list:" not in one["target"]]
    # Nothing is asked for again before all were asked for.
    assert len({*order[:MANY]}) == MANY
    assert sorted(order[MANY:]) == [named(TINY, n) for n in failing]


@served
def test_a_store_that_serves_nobody_is_not_asked_for_each(server, root, tmp_path):
    # A mirror of its own: that it is given up is remembered.
    found = cohort(root, TINY).reading_from(default(server, retry_timeout=0.5))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    server.script({"on": "*", "do": "status", "status": 503, "times": EVER})
    threads = 8
    began = time.monotonic()
    with pytest.raises(TransferError) as caught:
        transfer.run(plan, limits=transfer.Limits(threads=threads))
    seconds = time.monotonic() - began
    assert caught.value.exit_code == 4
    assert len(caught.value.report.failures) == MANY
    assert held(tmp_path / "copy") == {}
    assert left(tmp_path / "copy") == []
    requests = objects_asked(server)
    # Those in flight together when as many had failed as are enough.
    together = VAIN + threads - 1
    # With patience: those that it takes to give up the store, and those who had begun
    # by then; trials, ever fewer; and what all of them may ask again, at most.
    patient = 2 * threads + (MANY.bit_length() + seconds)
    again = Budget()._most + seconds * Budget()._rate
    assert sum(requests.values()) <= together + patient + again
    assert len(requests) < MANY / 2


@served
def test_a_store_that_serves_again_is_asked_for_many_again(either, root, tmp_path):
    server = either
    found = cohort(root, TINY).reading_from(default(server, retry_timeout=15))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    down = VAIN + 4
    server.script({"on": "*", "do": "status", "status": 503, "times": down})
    report = transfer.run(plan)
    assert held(tmp_path / "copy") == truth(root, TINY)
    assert report.counts["fetched"] == MANY
    # It costs as many requests as were answered so, and none besides.
    assert sum(objects_asked(server).values()) == MANY + down
    assert sum(report.retries.values()) == down


@served
def test_an_outage_that_ends_is_survived(either, root, tmp_path):
    server, do = either, "reset" if either.latency else "status"
    found = cohort(root, SMALL, TINY).reading_from(default(server, retry_timeout=16))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    server.script({"on": "*", "do": do, "status": 503, "seconds": 0.2})
    report = transfer.run(plan)
    assert report.counts["failed"] == 0
    assert held(tmp_path / "copy") == truth(root, SMALL, TINY)


@pytest.fixture
def by_ranges(monkeypatch):
    """What is large is small here."""
    monkeypatch.setattr(large_objects, "SPLIT", 2 * RANGE)
    monkeypatch.setattr(large_objects, "RANGE", RANGE)


def ranges_asked(server: Faulty, on: str) -> Counter[str]:
    return Counter(
        request["range"] for request in server.requests() if request["target"] == on
    )


TEN = [f"bytes={start}-{min(start + RANGE, BIG) - 1}" for start in range(0, BIG, RANGE)]


@served
@pytest.mark.usefixtures("by_ranges")
@pytest.mark.parametrize("skip", [0, 4, len(TEN) - 1])
@pytest.mark.parametrize(
    "rule",
    [
        {"do": "nothing"},
        {"do": "status", "status": 503},
        {"do": "close", "after": 20_000},
        {"do": "reset", "after": 20_000},
        {"do": "short"},
        {"do": "long", "by": 10},
        {"do": "whole"},
        {"do": "html"},
        {"do": "retag"},
    ],
    ids=lambda rule: rule["do"],
)
def test_a_range_that_fails_once_is_the_one_that_is_asked_for_again(
    server, root, tmp_path, rule, skip
):
    server.script({"on": named(LARGE), "skip": skip, **rule})
    found = cohort(root, LARGE, SMALL).reading_from(default(server))
    callback = Callback()
    code, report = copied(found, tmp_path / "copy", callback=callback)
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, LARGE, SMALL)
    assert left(tmp_path / "copy") == []
    ranges = ranges_asked(server, named(LARGE))
    assert set(ranges) == set(TEN)
    failed = int(rule["do"] != "nothing")
    assert sum(ranges.values()) == len(TEN) + failed
    assert dict(report.retries) == ({0: 1} if failed else {})
    assert callback.value == report.fetched_size


@served
@pytest.mark.usefixtures("by_ranges")
@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"do": "retag"}, "changed"),
        ({"do": "status", "status": 404}, "no object"),
        ({"do": "whole"}, "range"),
        ({"do": "long", "by": 10}, "bytes from"),
    ],
    ids=["another version", "gone", "not heeded", "too long"],
)
def test_of_an_object_that_lacks_a_range_nothing_is_there(
    server, root, tmp_path, rule, reason
):
    server.script({"on": named(LARGE), "skip": 6, "times": EVER, **rule})
    found = cohort(root, LARGE, SMALL).reading_from(default(server))
    callback = Callback()
    code, report = copied(found, tmp_path / "copy", callback=callback)
    assert code == 4
    assert held(tmp_path / "copy") == truth(root, SMALL)
    assert left(tmp_path / "copy") == []
    (failure,) = report.failures
    assert failure.url == f"s3://{named(LARGE)}"
    assert reason in failure.reason
    # What came of it is taken back.
    assert callback.value == report.fetched_size
    assert max(ranges_asked(server, named(LARGE)).values()) <= 2


@served
@pytest.mark.parametrize("split", [False, True], ids=["whole", "by ranges"])
@pytest.mark.parametrize("after", [None, 1000])
def test_a_copy_that_is_cancelled_leaves_no_part(
    either, root, tmp_path, monkeypatch, split, after
):
    server = either
    if split:
        monkeypatch.setattr(large_objects, "SPLIT", 2 * RANGE)
        monkeypatch.setattr(large_objects, "RANGE", RANGE)
    target = tmp_path / "copy"
    mirror = default(server, read_timeout=60, retry_timeout=90)
    found = cohort(root, LARGE, SMALL).reading_from(mirror)
    plan = found.plan(target, dir_template=TEMPLATE)
    good = [
        {"on": named(SMALL, number), "do": "nothing", "times": EVER}
        for number in range(3)
    ]
    server.script(*good, {"on": "*", "do": "stall", "after": after, "times": EVER})
    cancel = threading.Event()

    def watch() -> None:
        try:
            until(lambda: len(left(target)) > 3 and len(server.requests()) > 12)
        finally:
            cancel.set()

    watching = threading.Thread(target=watch)
    watching.start()
    others = set(threading.enumerate())
    with pytest.raises(TransferError) as caught:
        transfer.run(plan, limits=transfer.Limits(cancel=cancel))
    watching.join()
    assert left(target) == []
    there = held(target)
    assert there.items() <= truth(root, SMALL).items()
    assert len(there) <= 3
    failures = caught.value.report.failures
    assert len(failures) + len(there) == OBJECTS + 1
    assert {failure.reason for failure in failures} == {"the copy was cancelled"}
    until(lambda: not own_threads() - others)
    assert held(target) == there


@served
@pytest.mark.parametrize(
    ("times", "code", "requests"), [(1, 0, 2), (2, 0, 3), (EVER, 5, 3)]
)
def test_an_object_that_is_not_the_one_known_is_asked_for_again(
    server, root, tmp_path, times, code, requests
):
    server.script({"on": named(SMALL, 5), "do": "flip", "times": times})
    found = knowing(cohort(root, SMALL).reading_from(default(server)), root, SMALL)
    callback = Callback()
    ended, report = copied(found, tmp_path / "copy", callback=callback)
    assert ended == code
    there, true = held(tmp_path / "copy"), truth(root, SMALL)
    lost = {f"{SMALL}/{uuid(5)}.dcm"} if code else set()
    assert there == {path: true[path] for path in true.keys() - lost}
    assert left(tmp_path / "copy") == []
    assert [failure.url for failure in report.failures] == [
        f"s3://{BUCKET}/{path}" for path in lost
    ]
    assert callback.value == report.fetched_size
    assert objects_asked(server) == {
        named(SMALL, n): requests if n == 5 else 1 for n in range(OBJECTS)
    }


@served
@pytest.mark.usefixtures("by_ranges")
@pytest.mark.parametrize("checksum", [None, "crc32c", "md5"])
def test_what_is_said_of_a_copy_is_the_same_for_each_way_of_asking(
    server, root, tmp_path, checksum
):
    # Nothing of it comes the first time it is asked for together.
    gone = {"do": "status", "status": 404, "times": EVER}
    tables, hashes = [], []
    for number, mirror in enumerate([default(server), at(server, "obstore")]):
        server.script(*({"on": named(SMALL, n), **gone} for n in (3, 17)))
        found = cohort(root, SMALL, LARGE, PAGES).reading_from(mirror)
        code, report = copied(found, tmp_path / f"{number}", checksum=checksum)
        assert code == 4
        table = report.to_table()
        kept = [name for name in table.column_names if name not in ("path", "retries")]
        tables.append(table.select(kept))
        hashes.append(dict(report.hashes.items()))
        assert report.mirrors == ("aws",)
        assert report.by_mirror == {"aws": len(table) - 2}
    assert tables[0].equals(tables[1])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == (0 if checksum is None else len(tables[0]) - 2)
    assert held(tmp_path / "0") == held(tmp_path / "1")
    assert len(held(tmp_path / "0")) == OBJECTS + 1 + PAGED - 2


@served
def test_of_a_store_that_is_far_many_things_are_asked_at_once(stores, root, tmp_path):
    far = rested(stores[2])
    found = cohort(root, TINY, LARGE).reading_from(default(far))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    far.script()
    assert transfer.run(plan).retries == {}
    assert held(tmp_path / "copy") == truth(root, TINY, LARGE)
    assert far.busiest() > AT_FIRST
    assert set(objects_asked(far).values()) == {1}


@served
@pytest.mark.usefixtures("by_ranges")
def test_objects_of_every_size_come_whole(either, root, tmp_path):
    found = cohort(root, EDGE, SPLIT).reading_from(default(either))
    callback = Callback()
    code, report = copied(
        found, tmp_path / "copy", callback=callback, checksum="blake2b"
    )
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, EDGE, SPLIT)
    assert callback.value == report.fetched_size
    assert report.retries == {}
    # Once more, where nothing of it is hashed.
    rested(either)
    assert copied(found, tmp_path / "again")[0] == 0
    assert held(tmp_path / "again") == truth(root, EDGE, SPLIT)
    sizes = [path.stat().st_size for one in (EDGE, SPLIT) for path in files(root, one)]
    many = [1 if size <= 2 * RANGE else -(-size // RANGE) for size in sizes]
    assert list(objects_asked(either).values()).count(1) == many.count(1)
    assert sum(objects_asked(either).values()) == sum(many)


@served
@pytest.mark.usefixtures("by_ranges")
def test_a_store_that_tells_no_tags_is_copied_from(root, tmp_path):
    with Faulty(root, tags="none") as store:
        found = cohort(root, SMALL, LARGE).reading_from(default(store))
        code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL, LARGE)
    assert report.retries == {}


@served
def test_no_more_is_asked_for_at_once_than_a_copy_has_threads(stores, root, tmp_path):
    far, threads = rested(stores[2]), 3
    found = cohort(root, SMALL, EDGE).reading_from(default(far))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    rested(far)
    transfer.run(plan, limits=transfer.Limits(threads=threads))
    assert held(tmp_path / "copy") == truth(root, SMALL, EDGE)
    assert far.busiest() <= threads


@served
def test_copies_side_by_side_do_not_disturb_each_other(server, root, tmp_path):
    server.script(
        {"on": f"list:{SMALL}/", "do": "nothing", "times": EVER},
        {"on": f"list:{TINY}/", "do": "nothing", "times": EVER},
        {"on": "*", "do": "status", "status": 503, "share": 0.1},
    )
    codes = {}

    def work(number: int) -> None:
        found = cohort(root, SMALL, TINY)
        found = found.reading_from(default(server, retry_timeout=20))
        codes[number], _ = copied(found, tmp_path / str(number))

    working = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    assert codes == {0: 0, 1: 0, 2: 0}
    for number in range(3):
        assert held(tmp_path / str(number)) == truth(root, SMALL, TINY)


@served
def test_a_store_that_is_silent_once_is_asked_again(server, root, tmp_path):
    server.script({"on": named(SMALL, 3), "do": "stall"})
    found = cohort(root, SMALL).reading_from(default(server, read_timeout=1))
    code, report = copied(found, tmp_path / "copy")
    assert (code, dict(report.retries)) == (0, {3: 1})
    assert held(tmp_path / "copy") == truth(root, SMALL)


@served
@pytest.mark.usefixtures("by_ranges")
def test_a_store_that_asks_for_time_is_given_it(server, root, tmp_path):
    rule = {"do": "status", "status": 503, "headers": {"Retry-After": "1"}}
    server.script(
        {"on": f"list:{LARGE}/", **rule},
        {"on": named(SMALL, 3), **rule},
        {"on": named(LARGE), "skip": 2, **rule},
    )
    found = cohort(root, SMALL, LARGE).reading_from(default(server, retry_timeout=20))
    code, report = copied(found, tmp_path / "copy")
    assert (code, dict(report.retries)) == (0, {3: 1, OBJECTS: 1})
    times: dict[tuple[str, str], list[float]] = {}
    for request in server.requests():
        what = request["target"], request["range"]
        times.setdefault(what, []).append(request["at"])
    twice = {what: times for what, times in times.items() if len(times) > 1}
    # The listing, the object, and one range.
    assert len(twice) == 3
    assert all(again - first >= 1 for first, again in twice.values())


@served
def test_an_error_of_who_is_told_of_the_bytes_ends_the_copy(either, root, tmp_path):
    class Failing(Callback):
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > 10 * SIZE:
                msg = "the display is gone"
                raise LookupError(msg)

    found = cohort(root, SMALL).reading_from(default(either))
    others = set(threading.enumerate())
    with pytest.raises(LookupError, match="the display is gone"):
        copied(found, tmp_path / "copy", callback=Failing())
    assert left(tmp_path / "copy") == []
    until(lambda: not own_threads() - others)
    assert held(tmp_path / "copy").items() <= truth(root, SMALL).items()


@served
def test_a_copy_that_is_there_is_not_asked_for_again(server, root, tmp_path):
    found = cohort(root, SMALL).reading_from(default(server))
    assert copied(found, tmp_path / "copy")[0] == 0
    assert set(objects_asked(server).values()) == {1}
    victim = files(root, SMALL)[4]
    (tmp_path / "copy" / SMALL / victim.name).write_bytes(b"short")
    server.script()
    code, report = copied(found, tmp_path / "copy")
    assert (code, report.counts["replaced"]) == (0, 1)
    assert objects_asked(server) == {named(SMALL, 4): 1}
    assert held(tmp_path / "copy") == truth(root, SMALL)


@served
def test_where_the_first_mirror_fails_another_serves_the_copy(
    server, second, root, tmp_path
):
    found = cohort(root, SMALL, TINY).reading_from(both(server, second))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    server.script({"on": "*", "do": "status", "status": 503, "times": EVER})
    report = transfer.run(plan)
    assert held(tmp_path / "copy") == truth(root, SMALL, TINY)
    assert report.by_mirror == {"aws": 0, "gcs": OBJECTS + MANY}
    # The first is asked no more, once it is known to fail.
    assert len(objects_asked(server)) < MANY


@served
def test_what_a_cache_holds_is_not_asked_for(server, root, tmp_path):
    mirror = resolve_mirror(default(server), cache=tmp_path / "cache")
    (listing,) = list_all([*cohort(root, SMALL).manifest().parts()], mirror)
    for instance in listing.instances[::2]:
        read_instance(instance, mirror)
    server.script()
    found = cohort(root, SMALL).reading_from(mirror)
    code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)
    assert objects_asked(server) == {named(SMALL, n): 1 for n in range(1, OBJECTS, 2)}
    assert report.retries == {}


@served
def test_an_object_in_small_pieces_is_copied_at_the_first_go(root, tmp_path):
    (path, *_) = files(root, SMALL)
    (tmp_path / "store" / BUCKET / SMALL).mkdir(parents=True)
    answer = chunked(path.read_bytes(), 1) + b"0\r\n\r\n"
    own = tmp_path / "store"
    (own / BUCKET / SMALL / path.name).write_bytes(path.read_bytes())
    known = knowing(cohort(own, SMALL), own, SMALL)
    with Saying({path.name: answer}) as store:
        found = known.reading_from(default(store, retry_timeout=0.1))
        code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(own, SMALL)
    assert report.retries == {}


# Both ways, whatever the tasks.


class Task(NamedTuple):
    """An object, and what becomes of its request."""

    number: int
    kind: str


class _Object(Asked):
    """A request that leaves its task where it does not come."""

    seconds = 1.0
    """That its file takes: so long that there may be more threads for it."""

    def __init__(self, together, task: Task) -> None:
        super().__init__(f"{SMALL}/{uuid(task.number % 8)}.dcm")
        self._together, self._task = together, task

    def end(self, etag: str | None, error: StorageError | None) -> None:
        super().end(etag, error)
        if error is not None:
            self._together.leave(self._task, error)
        else:
            self._together.came((self._task, "came"), BUCKET, self.seconds)


def requested(together, task: Task) -> _Object | None:
    if task.kind == "done":
        together.tell((task, "done"))
        return DONE
    if task.kind == "dropped":
        raise StoppedError
    if task.kind == "refused":
        msg = "no such name"
        raise RequestError(msg)
    if task.kind == "no room":
        raise OSError(28, "no space left")
    return None if task.kind == "left" else _Object(together, task)


KINDS_OF_TASKS = st.sampled_from(
    ["asked"] * 6 + ["later", "done", "dropped", "refused", "no room", "left"]
)


@served
def test_who_can_open_no_more_files_asks_with_patience(server, root, monkeypatch):
    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    # What waits for many connections is a file itself.
    monkeypatch.setattr("intake_idc.storage.multi.DefaultSelector", none_left)
    series = cohort(root, SMALL).manifest().parts()
    (found,) = list_all(list(series), default(server))
    assert found.errors == ()
    assert len(found.instances) == OBJECTS


@served
@settings(max_examples=40)
@given(
    kinds=st.lists(KINDS_OF_TASKS, max_size=120),
    most=st.integers(1, 20),
    answers=st.builds(Answers, st.sampled_from([1, 10**6]), st.booleans()),
    failing=st.sets(st.integers(0, 7), max_size=8),
    far=st.booleans(),
)
def test_each_task_is_done_once_whatever_becomes_of_the_others(
    stores, kinds, most, answers, failing, far
):
    server = stores[0]
    server.script(
        *(
            {"on": named(SMALL, n), "do": "status", "status": 503, "times": EVER}
            for n in failing
        )
    )
    tasks = [Task(number, kind) for number, kind in enumerate(kinds)]
    ways = Ways(
        requested,
        lambda task: (task, "patient"),
        lambda found: (found[0], "again"),
        lambda found: found[0].number % 2 == 0,
    )
    found = gather(
        (LATER if task.kind == "later" else task for task in tasks),
        default(server),
        ways,
        answers=answers,
        most=(most, 4),
        latency=lambda: 0.02 if far else None,
        stopped=threading.Event(),
    )
    results = list(found)
    told = dict(results)
    assert len(told) == len(results)
    for task in tasks:
        how = told.get(task)
        if task.kind in ("later", "dropped"):
            # One is nothing, and of the other it is seen how far the first way went.
            assert how in ((None,) if task.kind == "later" else (None, "patient"))
        elif task.kind == "done":
            assert how in ("done", "patient")
        elif task.kind in ("refused", "no room", "left"):
            assert how == "patient"
        elif task.number % 8 in failing:
            assert how in ("again", "patient")
        else:
            assert how in ("came", "patient")
    requests = objects_asked(server)
    expected = Counter(
        named(SMALL, task.number % 8)
        for task, how in told.items()
        if how in ("came", "again")
    )
    assert requests == expected
    assert server.busiest() <= most


def flown(store: Faulty, tasks: list[Task], most: int) -> list[int]:
    """Do tasks; give how many requests were in flight when each was sent."""
    flying, found = 0, []

    class Counted(_Object):
        seconds = 0.0

        def end(self, etag: str | None, error: StorageError | None) -> None:
            nonlocal flying
            flying -= 1
            super().end(etag, error)

    def counted(together, task: Task) -> Counted:
        nonlocal flying
        found.append(flying)
        flying += 1
        return Counted(together, task)

    ways = Ways(
        counted,
        lambda task: (task, "patient"),
        lambda told: told,
        lambda _told: True,
    )
    results = gather(
        (LATER if task.kind == "later" else task for task in tasks),
        default(store),
        ways,
        answers=Answers(1),
        most=(most, 4),
        latency=lambda: 0.02,
        stopped=threading.Event(),
    )
    assert len(list(results)) == sum(task.kind != "later" for task in tasks)
    return found


@served
def test_a_store_that_is_busy_is_asked_for_less_and_for_more_again(stores):
    most, failing, good = 8, 16, 200
    far = rested(stores[2])
    rule = {"do": "status", "status": 503, "times": failing}
    far.script({"on": named(SMALL, 0), **rule})
    tasks = [Task(0, "asked")] * failing
    tasks += [Task(1 + number % 7, "asked") for number in range(good)]
    before = flown(far, tasks, most)
    # At first as many as there may be; one after the other when these were refused.
    assert before[:most] == [*range(most)]
    assert set(before[most : failing + 1]) == {0}
    # Each that comes makes room for one more, up to as many as there may be.
    assert all(one <= number + 1 for number, one in enumerate(before[failing:]))
    assert max(before[failing:]) == most - 1


@served
def test_a_task_that_is_not_there_yet_takes_no_place_of_others(stores):
    most = 8
    tasks = [Task(number, "asked") for number in range(2 * most)]
    tasks += [Task(number, ("asked", "later")[number % 2]) for number in range(100)]
    tasks += [Task(number, "asked") for number in range(100)]
    before = flown(rested(stores[2]), tasks, most)
    assert max(before[-50:]) == most - 1


# Threads.


def test_what_is_told_besides_comes_with_the_results():
    threads: Threads[int, int]

    def work(item: int) -> int:
        threads.tell([10 * item, 10 * item + 1])
        return item

    threads = Threads(work, 3)
    found = Counter(threads.run(range(1, 100)))
    told = [value for item in range(1, 100) for value in (10 * item, 10 * item + 1)]
    assert found == Counter([*range(1, 100), *told])


@pytest.mark.parametrize(("most", "there"), [(5, 5), (64, 8)])
def test_there_are_as_many_threads_as_their_pace_says_and_no_more(most, there):
    class Doubling:
        def wanted(self, threads: int) -> int:
            return min(8, 2 * threads)

    seen: set[str] = set()
    gate = threading.Barrier(there)

    def work(item: int) -> int:
        seen.add(threading.current_thread().name)
        if item >= 8:
            # All that there are to be meet here; fewer never would.
            gate.wait(SOON)
        return item

    threads = Threads(work, most, 1, pace=Doubling())
    assert sorted(threads.run(range(8 + there))) == [*range(8 + there)]
    assert len(seen) == there
