"""Several mirrors of the same objects: where one fails another serves, checked alike.

Two scripted servers (`faults`) stand for the clouds; tags of theirs are the state of a
file, of which two mirrors can tell each other nothing, or its MD5.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import copied
import pytest
from servers import Faulty
from test_copy import digests_of, tree

from intake_idc import open_idc, open_lock, resolve_mirror, sample_path, transfer
from intake_idc.cli import main
from intake_idc.errors import (
    AccessDenied,
    MirrorError,
    ObjectChanged,
    ObjectNotFound,
    StorageError,
    TransferError,
)
from intake_idc.manifest import Part
from intake_idc.storage import (
    Instance,
    Ranged,
    choosing,
    instances,
    open_store,
    read_instance,
    same_version,
)
from intake_idc.storage.choosing import REST_SECONDS, TROUBLE, Choice
from intake_idc.storage.retrying import Patience
from intake_idc.transfer import large as large_objects

pytestmark = [pytest.mark.timeout(60), pytest.mark.servers]

SAMPLE = open_idc(2, tables="sample").all()
CT = open_idc(2, tables="sample").search(Modality="CT")
BUCKET = "intake-idc-sample"
SERIES = CT.manifest().uuids[0]
NAMES = sorted(path.name for path in (sample_path() / "bucket" / SERIES).iterdir())
VICTIM = f"{BUCKET}/{SERIES}/{NAMES[1]}"
QUICK = {"read_timeout": 0.25, "retry_timeout": 1.5}
NOBODY = "http://127.0.0.1:9"
"""An address at which nobody listens."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("clouds")
    shutil.copytree(sample_path() / "bucket", root / BUCKET)
    return root


@pytest.fixture(scope="module")
def running(root):
    """Two servers of the same objects, and a third whose tags are those of the second.

    Of those of the first and of the second it cannot be told whether they agree.
    """
    with (
        Faulty(root) as one,
        Faulty(root, tags="md5") as other,
        Faulty(root, tags="md5") as third,
    ):
        yield one, other, third


@pytest.fixture(autouse=True)
def _forget():
    """Let no test find a mirror in trouble that another one had."""
    choosing._choice.cache_clear()
    choosing._several.cache_clear()


def place(name, endpoint, **options):
    whole = {**QUICK, **options}
    return resolve_mirror(name, endpoint_url=endpoint, storage_options=whole)


@pytest.fixture(params=["untold"])
def servers(running, request):
    """Two of them: ``untold``, or ``told`` where their tags are alike."""
    for server in running:
        server.script()
    one, other, third = running
    return (one, other) if request.param == "untold" else (third, other)


TOLD = pytest.mark.parametrize("servers", ["told", "untold"], indirect=True)


@pytest.fixture
def both(servers):
    one, other = servers
    return resolve_mirror([place("aws", one.endpoint), place("gcs", other.endpoint)])


# What a user says.


@pytest.mark.parametrize(
    ("said", "name", "names"),
    [
        ("auto", "auto", ["aws", "gcs"]),
        (["aws", "gcs"], "auto", ["aws", "gcs"]),
        (("gcs", "aws"), "gcs, aws", ["gcs", "aws"]),
        (["aws"], "aws", ["aws"]),
        (["auto", "s3://mine/{aws_bucket}"], None, ["aws", "gcs", None]),
        ([{"mirror": "aws", "engine": "fsspec"}, "gcs"], "auto", ["aws", "gcs"]),
    ],
)
def test_a_list_of_mirrors_is_one_that_carries_them(said, name, names):
    mirror = resolve_mirror(said)
    assert mirror.name == (name or "aws, gcs, s3://mine/{aws_bucket}")
    found = [one.name for one in mirror.every]
    assert found == [have or "s3://mine/{aws_bucket}" for have in names]
    assert resolve_mirror(mirror) == mirror
    assert resolve_mirror(**mirror.to_arguments()) == mirror
    assert pickle.loads(pickle.dumps(mirror)) == mirror
    assert json.loads(json.dumps(mirror.to_arguments())) == mirror.to_arguments()


@pytest.mark.parametrize(
    ("said", "options", "message"),
    [
        ([], {}, "names some"),
        (["aws", "aws"], {}, "named twice"),
        (["auto", "gcs"], {}, "named twice"),
        (["aws", "no-such-folder"], {}, "neither"),
        ("auto", {"endpoint_url": "http://127.0.0.1:1"}, "of one mirror"),
        ([{"mirror": "aws", "secret": "x"}, "gcs"], {}, "no arguments"),
        ([{"endpoint_url": "http://127.0.0.1:1"}, "gcs"], {}, "no arguments"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(said, options, message):
    with pytest.raises(MirrorError, match=message):
        resolve_mirror(said, **options)


def test_each_of_several_has_its_own_endpoint_and_bucket(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:2")
    monkeypatch.setenv("INTAKE_IDC_MIRROR", "auto")
    mirror = resolve_mirror(engine="fsspec", storage_options={"read_timeout": 5})
    aws, gcs = mirror.every
    assert (aws.endpoint_url, gcs.endpoint_url) == (
        "http://127.0.0.1:1",
        "http://127.0.0.1:2",
    )
    assert (aws.engine, gcs.engine) == ("fsspec", "fsspec")
    assert (aws.read_timeout, gcs.read_timeout) == (5, 5)
    part = Part("u", "idc-open-data-two")
    assert gcs.series_url(part) == "gs://idc-open-idc1/u/"
    assert mirror.series_url(part) == "s3://idc-open-data-two/u/"


def test_a_lock_keeps_that_either_serves(tmp_path):
    auto = CT.reading_from("auto")
    for name, cohort in (("auto", auto), ("list", CT.reading_from(["gcs", "aws"]))):
        cohort.lock(tmp_path / f"{name}.lock")
        found = open_lock(tmp_path / f"{name}.lock")
        assert found.mirror == cohort.mirror
    assert auto.urls()[0].startswith("s3://")


# Tags.


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('"a"', "a", True),
        ('W/"a"', '"a"', True),
        ('"a"', '"b"', False),
        ('gcs "a"', 'gcs "a"', True),
        ('gcs "a"', 'gcs "b"', False),
        ('gcs "a"', '"a"', None),
        ('gcs "a"', '"b-2"', None),
        (f'gcs "{"a" * 32}"', f'"{"a" * 32}"', True),
        (f'gcs "{"a" * 32}"', f'"{"b" * 32}"', False),
        (f'/a folder "{"a" * 32}"', f'gcs "{"b" * 32}"', False),
        (f'gcs "{"a" * 32}-2"', f'"{"a" * 32}"', None),
        (None, '"a"', None),
        ("", "", None),
    ],
)
def test_tags_of_two_mirrors_are_compared_where_both_are_an_md5(one, other, same):
    assert same_version(one, other) is same
    assert same_version(other, one) is same


# Whom to ask.


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_mirror_that_fails_again_and_again_is_asked_last_for_a_while():
    clock = Clock()
    choice = Choice(resolve_mirror("auto").every, Patience(), clock)
    asked = []

    def ask(*, down: bool) -> int:
        def function(number):
            asked.append(number)
            if number == 0 and down:
                raise StorageError("down")
            return number

        return choice.ask(function)

    for _ in range(TROUBLE):
        assert ask(down=True) == 1
    assert asked == [0, 1] * TROUBLE
    asked.clear()
    assert [ask(down=True), ask(down=True)] == [1, 1]
    assert asked == [1, 1]
    clock.now += REST_SECONDS
    # One asks whether it is back; the others do not wait for that.
    assert choice.order() == [0, 1]
    assert choice.order() == [1, 0]
    clock.now += REST_SECONDS
    asked.clear()
    assert [ask(down=True), ask(down=True)] == [1, 1]
    assert asked == [0, 1, 1]
    clock.now += REST_SECONDS
    assert [ask(down=False), ask(down=False)] == [0, 0]


def test_that_a_mirror_lacks_objects_is_no_trouble_of_it():
    choice = Choice(resolve_mirror("auto").every, Patience(), Clock())

    def lacking(number):
        if number == 0:
            raise ObjectNotFound("not here")
        return number

    assert {choice.ask(lacking) for _ in range(TROUBLE + 1)} == {1}
    assert choice.order() == [0, 1]


# The copy.


def served(report) -> dict[str, list[str]]:
    found = {}
    for outcome in report.outcomes:
        found.setdefault(outcome.mirror, []).append(Path(outcome.path).name)
    return found


def test_the_first_serves_where_nothing_fails(tmp_path, servers, both):
    report = SAMPLE.materialize(tmp_path, mirror=both)
    assert set(served(report)) == {"aws"}
    assert report.mirrors == ("aws", "gcs")
    assert sorted(tree(tmp_path).values()) == digests_of(SAMPLE)
    assert servers[1].requests() == []


FAULTS = {
    "gone": {"do": "status", "status": 404},
    "denied": {"do": "status", "status": 403},
    "busy": {"do": "status", "status": 503},
    "throttled": {"do": "status", "status": 429, "headers": {"Retry-After": "60"}},
    "reset": {"do": "reset"},
    "reset in the middle": {"do": "reset", "after": 1000},
    "ends early": {"do": "close", "after": 1000},
    "short": {"do": "short"},
    "long": {"do": "long"},
    "a page": {"do": "html"},
    "replaced": {"do": "replace"},
    "silent": {"do": "stall", "after": 1000},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_object_that_one_mirror_fails_comes_from_the_other(
    tmp_path, servers, both, fault
):
    servers[0].script({"on": VICTIM, "times": None, **FAULTS[fault]})
    report = CT.materialize(tmp_path, mirror=both)
    assert report.counts["fetched"] == 3
    assert served(report)["gcs"] == [NAMES[1]]
    assert sorted(tree(tmp_path).values()) == digests_of(CT)


LISTINGS = {
    "not there": {"do": "status", "status": 404},
    "denied": {"do": "status", "status": 403},
    "busy": {"do": "status", "status": 503},
    "half": {"do": "half"},
    "a page": {"do": "html"},
    "another size": {"do": "say", "old": "531928", "new": "531929"},
}


@pytest.mark.parametrize("fault", LISTINGS)
def test_a_series_that_one_mirror_lists_wrong_is_listed_at_the_other(
    tmp_path, servers, both, fault
):
    # The bytes are of the first all the same.
    servers[0].script({"on": f"list:{SERIES}/", "times": None, **LISTINGS[fault]})
    report = CT.materialize(tmp_path, mirror=both)
    assert set(served(report)) == {"aws"}
    assert sorted(tree(tmp_path).values()) == digests_of(CT)
    assert CT.plan(tmp_path, mirror=both).counts["keep"] == 3


def test_a_mirror_that_nobody_reaches_does_not_hold_up_the_other(tmp_path, servers):
    dead = resolve_mirror([place("aws", NOBODY), place("gcs", servers[1].endpoint)])
    report = SAMPLE.materialize(tmp_path, mirror=dead)
    assert set(served(report)) == {"gcs"}
    assert sorted(tree(tmp_path).values()) == digests_of(SAMPLE)


def test_a_folder_that_has_some_series_is_a_mirror_beside_another(
    tmp_path, root, servers
):
    here = tmp_path / "here"
    shutil.copytree(root / BUCKET / SERIES, here / SERIES)
    mirror = [here, place("aws", servers[0].endpoint)]
    report = SAMPLE.materialize(tmp_path / "copy", mirror=mirror)
    assert sorted(served(report)[str(here)]) == NAMES
    assert len(served(report)["aws"]) == 6
    asked = {request["target"] for request in servers[0].requests()}
    assert not any(target.startswith(f"{BUCKET}/{SERIES}") for target in asked)
    assert sorted(tree(tmp_path / "copy").values()) == digests_of(SAMPLE)


def test_an_outage_of_both_is_waited_for(tmp_path, servers, both):
    for server in servers:
        server.script({"on": "*", "do": "status", "status": 503, "seconds": 1.0})
    patient = resolve_mirror(both, storage_options={"retry_timeout": 30})
    report = CT.materialize(tmp_path, mirror=patient)
    assert report.counts["fetched"] == 3
    assert sorted(tree(tmp_path).values()) == digests_of(CT)


def test_an_outage_of_both_fails_no_object_however_many_wait(tmp_path):
    # Long enough for each mirror to be given up, by more requests than that takes.
    series = [
        copied.put_series(tmp_path / "root", number, [10] * 16) for number in (1, 2)
    ]
    cohort = copied.cohort(tmp_path / "root", *series)
    options = {"retry_timeout": 30}
    with Faulty(tmp_path / "root") as one, Faulty(tmp_path / "root") as other:
        mirror = [
            place("aws", one.endpoint, **options),
            place("gcs", other.endpoint, **options),
        ]
        plan = cohort.plan(
            tmp_path / "copy", mirror=mirror, dir_template="%crdc_series_uuid"
        )
        for server in (one, other):
            server.script({"on": "*", "do": "status", "status": 503, "seconds": 1.5})
        report = transfer.run(plan)
    assert report.counts["fetched"] == 32
    assert copied.held(tmp_path / "copy") == copied.truth(tmp_path / "root", *series)


def test_an_object_is_unknown_only_where_every_mirror_says_so(servers, both):
    one, other = servers
    store = open_store(both, BUCKET)
    one.script({"on": "list:nobody/", "do": "status", "status": 404, "times": None})
    assert store.list("nobody/") == []
    other.script({"on": "list:nobody/", "do": "status", "status": 403, "times": None})
    with pytest.raises(AccessDenied, match="aws: no object at"):
        store.list("nobody/")


def test_what_none_serves_has_failed_with_what_each_says(tmp_path, servers, both):
    one, other = servers
    one.script({"on": VICTIM, "do": "status", "status": 403, "times": None})
    other.script({"on": VICTIM, "do": "status", "status": 404, "times": None})
    with pytest.raises(TransferError) as caught:
        CT.materialize(tmp_path, mirror=both)
    report = caught.value.report
    assert report.counts == {"fetched": 2, "replaced": 0, "kept": 0, "failed": 1}
    (failure,) = report.failures
    assert "denies access" in failure.reason
    assert "gcs: no object at" in failure.reason
    assert failure.mirror == ""
    assert len(tree(tmp_path)) == 2


def test_another_object_at_the_other_mirror_is_not_taken_for_it(tmp_path, root):
    # As many bytes, others, and MD5 for tags: so it can be told.
    other_root = tmp_path / "other"
    shutil.copytree(root, other_root)
    victim = other_root / VICTIM
    victim.write_bytes(bytes(255 - byte for byte in victim.read_bytes()))
    with (
        Faulty(root, tags="md5") as one,
        Faulty(other_root, tags="md5") as other,
    ):
        one.script(
            {"on": VICTIM, "do": "status", "status": 404, "times": None},
        )
        mirror = [place("aws", one.endpoint), place("gcs", other.endpoint)]
        with pytest.raises(TransferError) as caught:
            CT.materialize(tmp_path / "copy", mirror=mirror)
    assert "changed after it was listed" in caught.value.report.failures[0].reason
    assert len(tree(tmp_path / "copy")) == 2


@pytest.fixture
def split(monkeypatch):
    monkeypatch.setattr(large_objects, "SPLIT", 200_000)
    monkeypatch.setattr(large_objects, "RANGE", 100_000)


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("fault", ["gone", "busy", "reset", "a page", "replaced"])
def test_a_large_object_that_one_mirror_fails_comes_from_the_other(
    tmp_path, servers, both, fault
):
    # Its fourth range, when those before may have been written.
    rule = {"on": VICTIM, "times": None, "skip": 4, **FAULTS[fault]}
    servers[0].script(rule)
    report = CT.materialize(tmp_path, mirror=both)
    assert served(report)["gcs"] == [NAMES[1]]
    assert sorted(tree(tmp_path).values()) == digests_of(CT)
    ranges = [r["range"] for r in servers[1].requests() if r["target"] == VICTIM]
    assert len([each for each in ranges if each]) == 6
    assert not [*tmp_path.rglob("*.part")]


# Reading.


def test_reading_goes_on_at_the_other_mirror(servers, both):
    one, other = servers
    found = instances(CT.manifest().parts(), both)
    whole = (sample_path() / "bucket" / SERIES / NAMES[1]).read_bytes()
    one.script({"on": VICTIM, "do": "status", "status": 404, "times": None})
    assert read_instance(found[1], both) == whole
    ranged = Ranged(found[1], both)
    assert ranged.read(10, 20) == whole[10:20]
    assert ranged.read_many([(0, 5), (100, 200)]) == [whole[:5], whole[100:200]]
    store = open_store(both, BUCKET)
    key = f"{SERIES}/{NAMES[1]}"
    assert b"".join(map(bytes, store.stream(key))) == whole
    assert store.tag(key).startswith("gcs ")
    assert [stored.key for stored in store.list(f"{SERIES}/")][1] == key
    assert store.list("no-such-series/") == []
    assert SERIES in store.folders("")
    assert {request["target"] for request in other.requests()} >= {VICTIM}


def test_a_cohort_is_read_lazily_from_either(servers, both):
    servers[0].script({"on": "*", "do": "status", "status": 503, "times": None})
    rows = SAMPLE.reading_from(both).to_dask().compute()
    assert len(rows) == 9


@TOLD
def test_ranges_of_two_mirrors_are_one_object_only_where_that_is_told(
    root, servers, both
):
    whole = (root / VICTIM).read_bytes()
    found = Instance(
        Part(SERIES, BUCKET), f"{SERIES}/{NAMES[1]}", len(whole), f"s3://{VICTIM}"
    )
    ranged = Ranged(found, both)
    assert ranged.read(0, 10) == whole[:10]
    servers[0].script({"on": VICTIM, "do": "status", "status": 404, "times": None})
    if servers[0].tags == "md5":
        assert ranged.read(10, 20) == whole[10:20]
    else:
        with pytest.raises(ObjectChanged, match="cannot be told"):
            ranged.read(10, 20)
        assert Ranged(found, both).read(10, 20) == whole[10:20]


@TOLD
def test_a_stream_that_breaks_goes_on_at_the_other_where_it_is_the_same(
    servers, both, root
):
    whole = (root / VICTIM).read_bytes()
    store, key = open_store(both, BUCKET), f"{SERIES}/{NAMES[1]}"
    tag = store.tag(key)
    rule = {"on": VICTIM, "do": "close", "at": 200_000, "times": None}
    servers[0].script(rule)
    streamed = store.stream(key, tag, chunk=1000)
    if servers[0].tags == "md5":
        assert b"".join(map(bytes, streamed)) == whole
    else:
        with pytest.raises(StorageError, match="cannot be told"):
            for _ in streamed:
                pass


# The command.


def test_the_command_copies_from_amazon_or_google(
    tmp_path, servers, gcs_fake, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", servers[0].endpoint)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_fake.endpoint)
    # Google alone lists the series, and has one of its objects.
    servers[0].script(
        {"on": VICTIM, "do": "status", "status": 404, "times": None},
        {"on": f"list:{SERIES}/", "do": "status", "status": 403, "times": None},
    )
    said = ["copy", "Modality=CT", "--idc-version", "2", "--tables", "sample"]
    said += ["--mirror", "auto"]
    where = ["--to", str(tmp_path / "copy"), "--report", str(tmp_path / "report")]
    main([*said, *where])
    lines = (tmp_path / "report").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["mirror"] for row in rows] == ["aws", "gcs", "aws"]
    assert sorted(tree(tmp_path / "copy").values()) == digests_of(CT)


def test_two_reports_of_a_run_name_the_mirrors_by_name(tmp_path, servers, both):
    servers[0].script({"on": VICTIM, "do": "status", "status": 404, "times": None})
    plan = CT.plan(tmp_path, mirror=both)
    report = transfer.run(plan)
    assert report.mirror == "aws, gcs"
    assert [report.mirrors[at] for at in report.served] == ["aws", "gcs", "aws"]
