"""Fetching from a store that fails: the right bytes or a clear error, and not for ever.

The faults are those of a server that plays them by a script (`faults`), in front of a
folder; where time matters, the policy is driven by a clock of its own.
"""

from __future__ import annotations

import importlib
import pickle
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import native
from servers import Faulty

from intake_idc import lazy, resolve_mirror, sample_path
from intake_idc.errors import (
    AccessDenied,
    IntegrityError,
    MirrorError,
    ObjectChanged,
    ObjectNotFound,
    StorageError,
    WrongSize,
)
from intake_idc.lazy import DicomObject
from intake_idc.manifest import Manifest, Part
from intake_idc.storage import IN_FLIGHT, Ranged, each, instances, open_store
from intake_idc.storage.retrying import Budget, Patience, Retrying, abandon

pytestmark = [pytest.mark.timeout(60)]

BUCKET = "idc-open-data"
ENGINES = ["obstore", "fsspec"]
QUICK = {"read_timeout": 0.5, "retry_timeout": 1.5}
FRAMES = np.random.default_rng(1).integers(0, 255, (2, 800, 800), np.uint8)


def uuid(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


SMALL, LARGE, STREAMED = uuid(1), uuid(2), uuid(3)
OBJECTS = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A series of small objects, one of objects read by ranges, one of 9 MB."""
    root = tmp_path_factory.mktemp("faulty")
    for series, frames in ((SMALL, FRAMES[:1, :40, :40]), (LARGE, FRAMES)):
        (root / BUCKET / series).mkdir(parents=True)
        for number in range(OBJECTS):
            data = native(frames, SOPInstanceUID=f"1.2.{number + 1}")
            (root / BUCKET / series / f"{uuid(number)}.dcm").write_bytes(data)
    (root / BUCKET / STREAMED).mkdir()
    noise = np.random.default_rng(2).integers(0, 255, 9_000_000, np.uint8).tobytes()
    (root / BUCKET / STREAMED / f"{uuid(0)}.dcm").write_bytes(noise)
    return root


@pytest.fixture(scope="module")
def server(root):
    with Faulty(root) as running:
        yield running


@pytest.fixture(scope="module")
def canary(root):
    """Another host, to which nobody may be led."""
    with Faulty(root) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh():
    """Let no test find the frames of an object that another one read."""
    importlib.import_module("intake_idc.lazy.handles")._kept.clear()


@pytest.fixture(params=ENGINES)
def mirror(server, request):
    server.script()
    return at(server, request.param)


def at(server, engine="obstore", **options):
    return resolve_mirror(
        "aws",
        endpoint_url=server.endpoint,
        engine=engine,
        storage_options=QUICK | options,
    )


def named(series: str, number: int = 0) -> str:
    """What the server calls an object."""
    return f"{BUCKET}/{series}/{uuid(number)}.dcm"


def files(root: Path, series: str) -> list[Path]:
    return sorted((root / BUCKET / series).iterdir())


def cohort(root: Path, *series: str) -> Manifest:
    sizes = [sum(path.stat().st_size for path in files(root, one)) for one in series]
    return Manifest(
        pa.table(
            {
                "crdc_series_uuid": list(series),
                "aws_bucket": [BUCKET] * len(series),
                "instanceCount": [len(files(root, one)) for one in series],
                "series_size_MB": [size / 1e6 for size in sizes],
                "row_source": ["idc_index"] * len(series),
            }
        ),
        25,
    )


def object_of(root: Path, series: str, mirror, number: int = 0) -> DicomObject:
    return DicomObject(instances(cohort(root, series).parts(), mirror)[number], mirror)


def asked(server, series: str, number: int = 0) -> list[dict]:
    return [r for r in server.requests() if r["target"] == named(series, number)]


# The matrix: each object of a series has a fault of its own.

FAULTS: dict[str, tuple[dict, str]] = {
    "none": ({"do": "nothing"}, "ok"),
    "503 once": ({"do": "status", "status": 503}, "ok"),
    "503 twice": ({"do": "status", "status": 503, "times": 2}, "ok"),
    "503 always": ({"do": "status", "status": 503, "times": None}, "storage"),
    "500 once": ({"do": "status", "status": 500}, "ok"),
    "404": ({"do": "status", "status": 404, "times": None}, "not found"),
    "403": ({"do": "status", "status": 403, "times": None}, "denied"),
    "reset once": ({"do": "reset"}, "ok"),
    "reset always": ({"do": "reset", "times": None}, "storage"),
    "end in the middle": ({"do": "close", "after": 300}, "ok"),
    "end there always": ({"do": "close", "after": 300, "times": None}, "storage"),
    "reset in the middle": ({"do": "reset", "after": 300}, "ok"),
    "short": ({"do": "short", "by": 7, "times": None}, "storage"),
    "page": ({"do": "html", "times": None}, "storage"),
    "stall": ({"do": "stall", "after": 300}, "ok"),
    "replaced": ({"do": "replace", "times": None}, "changed"),
}
"""What is done to an object, and what becomes of reading it."""
assert len(FAULTS) == OBJECTS

READS = {
    "dataset": (SMALL, 0, DicomObject.dataset),
    "header": (LARGE, 0, DicomObject.header),
    "pixels": (LARGE, 1, lambda found: found.pixels(1)),
}
"""The series, how many requests go well before the fault, and what is read."""


@pytest.mark.servers
@pytest.mark.parametrize(
    ("mirror", "read"),
    [("obstore", "dataset"), ("obstore", "pixels"), ("fsspec", "header")],
    indirect=["mirror"],
)
def test_every_fault_is_the_right_bytes_or_a_row_of_the_failures(
    server, mirror, root, read
):
    series, skip, function = READS[read]
    server.script(
        *(
            {"on": named(series, number), "skip": skip, **fault}
            for number, (fault, _) in enumerate(FAULTS.values())
        )
    )
    bag = lazy.map_objects(function, cohort(root, series), mirror, on_error="collect")
    found = bag.collected(scheduler="sync")
    kinds = {
        row["crdc_instance_uuid"]: row["kind"] for row in found.failures.to_pylist()
    }
    outcome = {
        name: kinds.get(uuid(number), "ok") for number, name in enumerate(FAULTS)
    }
    assert outcome == {name: expected for name, (_, expected) in FAULTS.items()}
    expected = []
    for path, (_, end) in zip(files(root, series), FAULTS.values(), strict=True):
        if end == "ok":
            whole = pydicom.dcmread(path)
            if read == "pixels":
                expected.append(whole.pixel_array[1])
            else:
                expected.append(
                    pydicom.dcmread(path, stop_before_pixels=read == "header")
                )
    assert len(found.results) == len(expected)
    for one, other in zip(found.results, expected, strict=True):
        assert np.array_equal(one, other) if read == "pixels" else one == other
    # Nobody is asked again and again; where a kept connection breaks, aiohttp itself
    # sends what it has sent once more.
    counts = Counter(request["target"] for request in server.requests())
    assert max(counts.values()) <= 24
    for name in ("404", "403", "short", "page", "replaced", "none"):
        assert counts[named(series, list(FAULTS).index(name))] <= 3
    tried = {r["crdc_instance_uuid"]: r["attempts"] for r in found.failures.to_pylist()}
    assert tried[uuid(list(FAULTS).index("503 always"))] > 2
    assert tried[uuid(list(FAULTS).index("403"))] == 1


@pytest.mark.servers
@pytest.mark.parametrize("headers_only", [False, True])
def test_a_bag_of_datasets_holds_what_can_be_read(server, mirror, root, headers_only):
    server.script(
        {"on": named(SMALL, 0), "do": "status", "status": 404, "times": None},
        {"on": named(SMALL, 1), "do": "reset"},
    )
    found = lazy.datasets(
        cohort(root, SMALL), mirror, on_error="collect", headers_only=headers_only
    ).collected()
    assert len(found.results) == OBJECTS - 1
    (row,) = found.failures.to_pylist()
    assert (row["kind"], row["crdc_instance_uuid"]) == ("not found", uuid(0))


@pytest.mark.servers
def test_what_is_asked_to_wait_waits(server, root):
    mirror = at(server, "fsspec")
    found = object_of(root, SMALL, mirror)
    server.script(
        {
            "on": named(SMALL),
            "do": "status",
            "status": 429,
            "headers": {"Retry-After": "1"},
        }
    )
    assert found.dataset() == pydicom.dcmread(files(root, SMALL)[0])
    first, second = asked(server, SMALL)
    assert second["at"] - first["at"] >= 1
    server.script(
        {
            "on": named(SMALL),
            "do": "status",
            "status": 503,
            "headers": {"Retry-After": "3600"},
        }
    )
    with pytest.raises(StorageError, match="503"):
        found.dataset()
    assert len(asked(server, SMALL)) == 1


@pytest.mark.servers
@pytest.mark.parametrize("what", ["object", "listing"])
def test_a_redirect_to_another_host_is_not_followed(server, canary, mirror, root, what):
    found = object_of(root, LARGE, mirror)
    canary.script()
    elsewhere = canary.endpoint.replace("127.0.0.1", "localhost")
    on, path = {
        "object": (named(LARGE), f"/{named(LARGE)}"),
        "listing": (f"list:{LARGE}/", f"/{BUCKET}?list-type=2&prefix={LARGE}/"),
    }[what]
    server.script({"on": on, "do": "redirect", "to": elsewhere + path, "times": None})
    read = [found.header, found.dataset, lambda: found.pixels(0)]
    if what == "listing":
        read = [lambda: object_of(root, LARGE, mirror)]
    for act in read:
        with pytest.raises(StorageError, match="leads to another host") as caught:
            act()
        assert caught.value.details["attempts"] == 1
    assert canary.requests() == []


@pytest.mark.servers
@pytest.mark.parametrize("do", ["replace", "retag"])
def test_an_object_that_is_replaced_between_two_ranges_is_an_error(
    server, mirror, root, do
):
    found = object_of(root, LARGE, mirror)
    # What knows the tag of the listing, and what only knows that of its first range.
    bare = DicomObject(SimpleNamespace(**vars(found.instance)), mirror)
    bare.instance.etag, bare.instance.url = None, f"{found.url}?bare"
    bare.instance.crdc_instance_uuid = found.crdc_instance_uuid
    for one in (found, bare):
        server.script({"on": named(LARGE), "do": do, "skip": 1, "times": None})
        with pytest.raises(ObjectChanged, match="changed after it was listed or begun"):
            one.pixels(1)
        assert len(asked(server, LARGE)) == 2
    server.script({"on": named(LARGE), "do": do, "skip": 2, "times": None})
    ranged = Ranged(found.instance, mirror)
    ranges = [(k * 100_000, (k + 1) * 100_000) for k in range(6)]
    with pytest.raises(ObjectChanged):
        ranged.read_many(ranges)
    assert {r["method"] for r in asked(server, LARGE)} == {"GET"}


# Listings.

LISTINGS = {
    "503 once": ([{"do": "status", "status": 503}], None),
    "reset": ([{"do": "reset"}], None),
    "end in the middle": ([{"do": "close", "after": 200}], None),
    "403": ([{"do": "status", "status": 403, "times": None}], AccessDenied),
    "500 always": ([{"do": "status", "status": 500, "times": None}], StorageError),
    "a page": ([{"do": "html", "times": None}], StorageError),
    "half of it": ([{"do": "half", "times": None}], IntegrityError),
}


@pytest.mark.servers
@pytest.mark.parametrize(("rules", "error"), LISTINGS.values(), ids=LISTINGS)
def test_a_listing_is_whole_or_an_error(server, mirror, root, rules, error):
    if error is StorageError:
        mirror = at(server, mirror.engine, retry_timeout=0.5)
    server.script(*({"on": f"list:{SMALL}/", **rule} for rule in rules))
    parts = list(cohort(root, SMALL).parts())
    if error is None:
        assert len(instances(parts, mirror)) == OBJECTS
        assert len(server.requests()) == 2
        return
    with pytest.raises(error) as caught:
        instances(parts, mirror)
    if error is AccessDenied:
        assert isinstance(caught.value, PermissionError)
        assert len(server.requests()) == 1


# Streams.


@pytest.mark.servers
@pytest.mark.parametrize("do", ["close", "reset", "stall"])
def test_a_stream_goes_on_where_it_broke(server, mirror, root, do):
    (path,) = files(root, STREAMED)
    server.script({"on": named(STREAMED), "do": do, "after": 3_000_000})
    store = open_store(mirror, BUCKET)
    pieces = list(store.stream(f"{STREAMED}/{path.name}"))
    assert b"".join(pieces) == path.read_bytes()
    first, second, *_ = asked(server, STREAMED)
    if mirror.engine == "obstore":
        assert len(asked(server, STREAMED)) == 2
        begin = int(second["range"].removeprefix("bytes=").removesuffix("-"))
        assert 2_000_000 < begin <= 3_000_000
    else:
        assert first["range"] == second["range"]


@pytest.mark.servers
def test_a_stream_is_of_one_version(server, mirror, root):
    (path,) = files(root, STREAMED)
    key = f"{STREAMED}/{path.name}"
    broken = {"on": named(STREAMED), "do": "close", "after": 3_000_000}
    server.script(
        # The other engine streams by ranges, and the break is one of those.
        *([broken] if mirror.engine == "obstore" else []),
        {"on": named(STREAMED), "do": "replace", "skip": 1, "times": None},
    )
    with pytest.raises(ObjectChanged):
        list(open_store(mirror, BUCKET).stream(key))
    server.script()
    with pytest.raises(ObjectChanged):
        list(open_store(mirror, BUCKET).stream(key, '"another"'))


# Outages.


@pytest.mark.servers
def test_an_outage_of_a_store_that_served_is_waited_for(server, root):
    mirror = at(server, retry_timeout=30)
    parts = list(cohort(root, SMALL).parts())
    listed = instances(parts, mirror)
    server.script(
        {"on": "*", "seconds": 0.2, "do": "reset"},
        {"on": "*", "seconds": 0.4, "do": "status", "status": 503},
    )
    found = each(lambda one: DicomObject(one, mirror).dataset(), listed)
    expected = [pydicom.dcmread(path) for path in files(root, SMALL)]
    assert list(found) == expected
    # Waits double, so that nobody stormed it.
    assert max(Counter(r["target"] for r in server.requests()).values()) < 12


@pytest.mark.servers
def test_a_store_where_every_fourth_request_fails_is_read(server, root):
    mirror = at(server, retry_timeout=60)
    listed = instances(cohort(root, SMALL).parts(), mirror)
    server.script(
        {"on": "*", "share": 0.05, "do": "reset"},
        {"on": "*", "share": 0.2, "do": "status", "status": 503},
    )
    found = each(lambda one: DicomObject(one, mirror).read(), 4 * listed)
    assert list(found) == 4 * [path.read_bytes() for path in files(root, SMALL)]
    assert 4 * OBJECTS < len(server.requests()) < 2 * 4 * OBJECTS


def test_what_waits_is_given_up_when_it_is_abandoned():
    failed = threading.Event()
    retrying = Retrying(Patience(base=30.0, longest=30.0), jitter=lambda most: most)

    def fail():
        failed.set()
        msg = "down"
        raise StorageError(msg, status=503)

    errors = []

    def wait():
        try:
            retrying.call(fail)
        except StorageError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert failed.wait(10)
    while thread.is_alive():
        abandon()
        thread.join(0.05)
    assert [error.details["attempts"] for error in errors] == [1]


# Bounds.


@pytest.mark.servers
def test_a_process_has_no_more_requests_in_flight_than_it_says(root):
    with Faulty(root, latency=0.05) as slow:
        mirror = at(slow, read_timeout=30)
        listed = instances(cohort(root, SMALL).parts(), mirror)
        read = [
            threading.Thread(target=DicomObject(listed[i % OBJECTS], mirror).read)
            for i in range(3 * IN_FLIGHT)
        ]
        slow.script()
        for thread in read:
            thread.start()
        for thread in read:
            thread.join()
        assert len(slow.requests()) == 3 * IN_FLIGHT
        assert IN_FLIGHT // 2 < slow.busiest() <= IN_FLIGHT


@pytest.mark.servers
@pytest.mark.parametrize("engine", ENGINES)
def test_one_request_for_a_whole_object_and_one_for_each_range(s3_nginx, engine):
    mirror = resolve_mirror("aws", endpoint_url=s3_nginx.endpoint, engine=engine)
    uuids = [path.name for path in (sample_path() / "bucket").iterdir()]
    listed = instances([Part(one, BUCKET) for one in uuids], mirror)
    s3_nginx.reset()
    for one in listed:
        DicomObject(one, mirror).read()
        Ranged(one, mirror).read_many([(0, 100), (200, 300), (400, 500)])
    requests = s3_nginx.requests()
    assert {request.method for request in requests} == {"GET"}
    assert Counter(request.range == "" for request in requests) == {
        True: len(listed),
        False: 3 * len(listed),
    }


# Plain web servers.


@pytest.mark.servers
def test_a_plain_web_server_serves_objects_whose_names_are_known(s3_nginx):
    bucket = sample_path() / "bucket"
    mirror = resolve_mirror(s3_nginx.endpoint + "/{aws_bucket}")
    parts = [known(folder) for folder in sorted(bucket.iterdir())]
    found = [DicomObject(one, mirror) for one in instances(parts, mirror)]
    assert len(found) == sum(part.instanceCount for part in parts)
    s3_nginx.reset()
    for one in found:
        path = bucket / one.crdc_series_uuid / f"{one.crdc_instance_uuid}.dcm"
        assert one.read() == path.read_bytes()
        (here,) = instances([known_one(path)], resolve_mirror(bucket))
        assert one.header() == DicomObject(here, resolve_mirror(bucket)).header()
        assert b"".join(open_store(mirror, BUCKET).stream(one.instance.key)) == (
            path.read_bytes()
        )
    assert {request.method for request in s3_nginx.requests()} == {"GET"}
    lost = DicomObject(found[0].instance, resolve_mirror(f"{s3_nginx.endpoint}/none"))
    with pytest.raises(ObjectNotFound):
        lost.read()


def known(folder: Path) -> Part:
    """A series whose objects are known without a listing."""
    return known_part(folder.name, sorted(folder.iterdir()))


def known_one(path: Path) -> Part:
    return known_part(path.parent.name, [path])


def known_part(series: str, paths: list[Path]) -> Part:
    rows = [
        {"uuid": pa_uuid(path.stem), "size": path.stat().st_size, "md5": None}
        for path in paths
    ]
    kind = pa.struct({"uuid": pa.binary(16), "size": pa.int64(), "md5": pa.binary(16)})
    size = sum(row["size"] for row in rows)
    return Part(series, BUCKET, len(rows), size, objects=pa.array(rows, type=kind))


def pa_uuid(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def test_a_plain_web_server_is_not_listed():
    mirror = resolve_mirror("https://mirror.example/{aws_bucket}")
    store = open_store(mirror, BUCKET)
    for ask in (store.list, store.folders):
        with pytest.raises(StorageError, match=r"s3://.*with_instances") as caught:
            ask(f"{SMALL}/")
        assert caught.value.details["attempts"] == 1


@pytest.mark.servers
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"do": "status", "status": 503}, None),
        ({"do": "close", "after": 300}, None),
        ({"do": "whole", "times": None}, StorageError),
        ({"do": "replace", "skip": 1, "times": None}, ObjectChanged),
    ],
    ids=lambda value: value["do"] if isinstance(value, dict) else "",
)
def test_a_web_server_with_faults_gives_right_bytes_or_an_error(
    server, root, fault, error
):
    mirror = resolve_mirror(server.endpoint + "/{aws_bucket}", storage_options=QUICK)
    part = known(root / BUCKET / LARGE)
    one = DicomObject(instances([part], mirror)[0], mirror)
    server.script({"on": named(LARGE), **fault})
    if error is None:
        assert np.array_equal(one.pixels(1), FRAMES[1])
    else:
        said = "a range was asked for" if fault["do"] == "whole" else "changed"
        with pytest.raises(error, match=said):
            one.pixels(1)


# Options of a mirror.


def test_a_mirror_says_how_long_it_is_waited_for():
    mirror = resolve_mirror("aws", storage_options={"read_timeout": 5})
    assert (mirror.read_timeout, mirror.retry_timeout) == (5.0, 90.0)
    assert mirror.storage_options == ()
    assert resolve_mirror(**mirror.to_arguments()) == mirror
    assert pickle.loads(pickle.dumps(mirror)) == mirror
    assert resolve_mirror("aws").to_arguments() == {"mirror": "aws"}
    for value in (0, -1, "5", True, None, float("inf"), float("nan")):
        with pytest.raises(MirrorError, match="retry_timeout is a number of seconds"):
            resolve_mirror("aws", storage_options={"retry_timeout": value})


# The policy, with a clock of its own.


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds


def driven(patience=None, budget=None, jitter=lambda most: most):
    clock = Clock()
    made = Retrying(
        patience or Patience(),
        budget or Budget(clock=clock),
        clock=clock,
        sleep=clock.sleep,
        jitter=jitter,
    )
    return made, clock


def failing(error: StorageError, calls: list, times: int | None = None):
    def call():
        calls.append(1)
        if times is None or len(calls) <= times:
            raise error
        return "there"

    return call


@pytest.mark.parametrize(
    "cls", [ObjectNotFound, AccessDenied, ObjectChanged, WrongSize]
)
def test_what_another_try_does_not_change_is_not_tried_again(cls):
    retrying, clock = driven()
    calls = []
    with pytest.raises(cls) as caught:
        retrying.call(failing(cls("no"), calls))
    assert (len(calls), clock.now, caught.value.details["attempts"]) == (1, 0, 1)


def test_waits_double_up_to_a_bound_and_a_store_never_reached_has_ten_seconds():
    retrying, clock = driven()
    calls = []
    with pytest.raises(StorageError) as caught:
        retrying.call(failing(StorageError("refused"), calls))
    assert clock.slept == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert caught.value.details["attempts"] == len(calls) == 5
    retrying, clock = driven()
    with pytest.raises(StorageError):
        retrying.call(failing(StorageError("busy", status=503), []))
    assert clock.now <= 10
    assert len(clock.slept) == 6


@pytest.mark.parametrize("status", [None, 503])
@pytest.mark.parametrize("outage", [1, 10, 60, 80])
def test_a_store_that_served_is_waited_for_a_minute_and_a_half(outage, status):
    retrying, clock = driven()
    assert retrying.call(lambda: "there") == "there"
    said = {} if status is None else {"status": status}

    def call():
        if clock.now < outage:
            msg = "down"
            raise StorageError(msg, **said)
        return clock.now

    assert outage <= retrying.call(call) <= 90
    assert max(clock.slept) <= 15
    with pytest.raises(StorageError) as caught:
        retrying.call(failing(StorageError("down", **said), []))
    assert caught.value.details["attempts"] < 20


def test_an_object_that_fails_while_others_are_served_has_seven_attempts():
    retrying, clock = driven()
    calls = []

    def call():
        calls.append(1)
        retrying.call(lambda: "another")
        msg = "busy"
        raise StorageError(msg, status=503)

    with pytest.raises(StorageError):
        retrying.call(call)
    assert len(calls) == 7
    assert clock.now == pytest.approx(0.2 * 63)


@given(
    jitter=st.floats(0, 1),
    asked=st.floats(0, 200),
    times=st.integers(0, 40),
    share=st.floats(0, 1),
    transient=st.booleans(),
)
def test_waits_are_bounded_whatever_fails(jitter, asked, times, share, transient):
    clock = Clock()
    budget = Budget(share=share, clock=clock)
    retrying = Retrying(
        Patience(),
        budget,
        clock=clock,
        sleep=clock.sleep,
        jitter=lambda most: jitter * most,
    )
    retrying.call(lambda: None)
    error = StorageError("x", retry_after=asked, transient=transient, status=503)
    calls = []
    attempts = None
    try:
        retrying.call(failing(error, calls, times))
    except StorageError as raised:
        attempts = raised.details["attempts"]
    # It ended well after the last failure, or with one of them.
    assert len(calls) == times + 1 if attempts is None else attempts
    assert attempts is None or attempts == len(calls) <= times
    assert clock.now <= 91
    assert transient or len(calls) == 1
    # 64 at once, and 4 a second.
    assert len(calls) <= 66 + 4 * clock.now
    if len(calls) > 1:
        assert clock.now >= asked * (len(calls) - 1) * 0.999


def test_retries_of_all_together_are_a_share_of_the_requests():
    clock = Clock()
    budget = Budget(clock=clock)
    taken = 0
    for number in range(10_000):
        clock.now += 0.001
        budget.served()
        if number % 2:
            taken += budget.take() == 0.0
    # A fifth, those at the beginning, and four a second of ten.
    assert 0.2 * 10_000 < taken <= 0.2 * 10_000 + 64 + 40
