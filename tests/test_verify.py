"""A folder held against its record, the index and the listing; and mended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Faulty

import intake_idc
from intake_idc import dicom, open_idc, resolve_mirror, sample_path, transfer
from intake_idc.cli import command
from intake_idc.errors import (
    IDCError,
    IntegrityError,
    MissingError,
    RequestError,
    TransferError,
)
from intake_idc.manifest import Part
from intake_idc.plan import make
from intake_idc.storage import Instance, Listed, Mirror
from intake_idc.transfer import Level, Origin, read_records, records, verify_plan

SAMPLE = open_idc(2, tables="sample").all()
CT = SAMPLE.search(Modality="CT")
OLD_CT = open_idc(1, tables="sample").search(Modality="CT")
BUCKET = sample_path() / "bucket"


def below(target: Path, paths) -> list[str]:
    return [path.relative_to(target).as_posix() for path in paths]


def md5(data: bytes):
    return hashlib.md5(data, usedforsecurity=False)


def flip(path: Path, place: int = -1) -> None:
    """Change a bit of a file, and neither its size nor its time of change."""
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.fixture
def copy(tmp_path) -> Path:
    SAMPLE.materialize(tmp_path / "copy", checksum="crc32c")
    return tmp_path / "copy"


# One mutation, whatever it is.


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("copied")
    SAMPLE.materialize(target, checksum="md5")
    return target


KINDS = ["nothing", "flip", "truncate", "grow", "swap", "delete", "add", "rename"]


def mutate(kind: str, paths: list[Path], numbers: tuple[int, int, int]) -> dict:
    """Change a copy in one way; give what has to be found, by the verdict."""
    one, two = (paths[n % len(paths)] for n in numbers[:2])
    place = numbers[2] % one.stat().st_size
    new = one.with_name(f"{numbers[2]}{'.dcm' if numbers[1] % 2 else '.txt'}")
    first, second = one.read_bytes(), two.read_bytes()
    if kind == "flip":
        flip(one, place)
    elif kind == "truncate":
        one.write_bytes(first[:place])
    elif kind == "grow":
        one.write_bytes(first + bytes(1 + place % 9))
    elif kind == "swap":
        one.write_bytes(second)
        two.write_bytes(first)
    elif kind == "delete":
        one.unlink()
    elif kind == "add":
        new.write_bytes(second)
    elif kind == "rename":
        one.rename(new)
    found = {
        "nothing": {},
        "swap": {"differ": {one, two}} if one != two else {},
        "delete": {"missing": {one}},
        "add": {"extra": {new}},
        "rename": {"missing": {one}, "extra": {new}},
    }
    return found.get(kind, {"differ": {one}})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    numbers=st.tuples(*[st.integers(0, 10**7)] * 3),
    by_cohort=st.booleans(),
)
def test_any_single_mutation_is_found_and_nothing_else(
    copied, tmp_path, kind, numbers, by_cohort
):
    target = tmp_path / "copy"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(copied, target)
    paths = [target / step.path for step in SAMPLE.plan(target).steps]
    expected = mutate(kind, paths, numbers)
    for asks in [SAMPLE.verify] if by_cohort else [transfer.verify]:
        found = asks(target, checksum=True)
        for verdict in ("differ", "missing", "extra", "unverifiable"):
            assert set(getattr(found, verdict)) == expected.get(verdict, set())
        foreign = any(path.suffix == ".dcm" for path in expected.get("extra", ()))
        assert found.ok == (not (expected.keys() - {"extra"} or foreign))
        # Without reading every file: all but what kept its size and its time.
        seen = asks(target)
        if kind != "flip":
            assert set(seen.differ) == expected.get("differ", set())
            assert set(seen.missing) == expected.get("missing", set())
            assert set(seen.extra) == expected.get("extra", set())


# How much is looked at.


@pytest.mark.parametrize(
    ("options", "read", "differ"),
    [({"quick": True}, 0, 0), ({}, 1, 1), ({"checksum": True}, 9, 2)],
)
def test_files_are_read_that_are_not_as_they_were_left(copy, options, read, differ):
    paths = transfer.verify(copy).match
    flip(paths[0])
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"?")
    for found in (transfer.verify(copy, **options), SAMPLE.verify(copy, **options)):
        assert (found.read, len(found.differ)) == (read, differ)
        assert found.counts["match"] == 9 - differ


def test_shares_read_every_file_once(copy):
    read = [transfer.verify(copy, subset=f"{n}/4").read for n in range(1, 5)]
    assert sum(read) == 9
    assert max(read) < 9
    flip(transfer.verify(copy).match[3])
    found = [SAMPLE.verify(copy, subset=f"{n}/4").counts["differ"] for n in range(1, 5)]
    assert sorted(found) == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"subset": "0/4"},
        {"subset": "5/4"},
        {"subset": "1"},
        {"subset": 3},
        {"subset": "1/0"},
        {"quick": True, "checksum": True},
        {"quick": True, "subset": "1/2"},
    ],
)
@pytest.mark.parametrize("verb", ["verify", "repair"])
def test_levels_that_make_no_sense_are_refused(copy, verb, options):
    for asks in (getattr(transfer, verb), getattr(SAMPLE, verb)):
        with pytest.raises(RequestError):
            asks(copy, **options)


def test_a_folder_without_a_record_is_held_against_a_cohort(tmp_path):
    CT.materialize(tmp_path, record=False)
    with pytest.raises(MissingError, match="no record"):
        intake_idc.verify(tmp_path)
    with pytest.raises(MissingError, match="no record"):
        intake_idc.repair(tmp_path)
    assert CT.verify(tmp_path, quick=True).counts["match"] == 3
    assert CT.verify(tmp_path).counts["unverifiable"] == 3


# What is offline.


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("template", [None, "", "%crdc_series_uuid"])
def test_quick_asks_no_mirror_and_holds_count_and_bytes(tmp_path, record, template):
    there = {"dir_template": template}
    SAMPLE.materialize(tmp_path, record=record, **there)
    far = SAMPLE.reading_from("s3://no-such-bucket", endpoint_url="http://127.0.0.1:9")
    found = far.verify(tmp_path, quick=True, **there)
    assert (found.counts["match"], found.ok, found.read) == (9, True, 0)
    assert len(found.match) == 9
    (tmp_path / "x.txt").write_text("mine")
    paths = found.match
    paths[4].unlink()
    found = far.verify(tmp_path, quick=True, **there)
    assert len(found.missing) == 1
    assert not found.ok
    paths[4].write_bytes(b"short")
    found = far.verify(tmp_path, quick=True, **there)
    assert len(found.differ) == 1
    shutil.copyfile(paths[0], paths[0].with_name("more.dcm"))
    assert not far.verify(tmp_path, quick=True, **there).ok


def test_quick_counts_the_folder_of_several_series_together(tmp_path):
    SAMPLE.materialize(tmp_path, dir_template="all", record=False)
    found = SAMPLE.verify(tmp_path, dir_template="all", quick=True)
    assert found.counts["match"] == 9
    found.match[0].unlink()
    found = SAMPLE.verify(tmp_path, dir_template="all", quick=True)
    assert found.counts["unverifiable"] == 8
    assert "8 objects of" in str(found)
    assert "9 of" in str(found)


def test_the_record_of_another_release_is_not_this_one(tmp_path):
    OLD_CT.materialize(tmp_path)
    assert OLD_CT.verify(tmp_path, quick=True).ok
    found = CT.verify(tmp_path, quick=True)
    assert not found.ok
    assert len(found.missing) == 1


def test_quick_holds_bytes_also_where_the_index_has_no_count(tmp_path):
    OLD_CT.materialize(tmp_path, record=False)
    assert OLD_CT.verify(tmp_path, quick=True).counts["unverifiable"] == 2
    path = OLD_CT.verify(tmp_path).unverifiable[0]
    path.rename(tmp_path / "one")
    found = OLD_CT.verify(tmp_path, quick=True)
    assert (found.ok, found.counts["missing"]) == (False, 1)
    for name in (path.name, "a.dcm"):
        path.with_name(name).write_bytes((tmp_path / "one").read_bytes())
    found = OLD_CT.verify(tmp_path, quick=True)
    assert (found.ok, found.counts["differ"]) == (False, 1)


def test_a_mirror_that_is_gone_is_not_needed_by_the_record(tmp_path):
    shutil.copytree(BUCKET, tmp_path / "bucket")
    SAMPLE.materialize(tmp_path / "copy", mirror=tmp_path / "bucket", checksum="md5")
    shutil.rmtree(tmp_path / "bucket")
    assert transfer.verify(tmp_path / "copy", checksum=True).counts["match"] == 9
    transfer.verify(tmp_path / "copy").match[0].unlink()
    gone = Mirror("gone", str(tmp_path / "bucket"))
    with pytest.raises(TransferError, match="1 of 9"):
        transfer.repair(tmp_path / "copy", mirror=gone)
    report = transfer.repair(tmp_path / "copy", mirror="sample")
    assert report.counts["fetched"] == 1


# What lies there.


def test_links_parts_and_other_files_are_extra(copy, tmp_path):
    path = transfer.verify(copy).match[0]
    (copy / "a").mkdir()
    (copy / "a" / "mine.txt").write_text("mine")
    (copy / "folder").symlink_to(tmp_path)
    (path.parent / ".idc-0-1-2-3.part").write_text("part")
    (path.parent / "link").symlink_to(path)
    found = transfer.verify(copy)
    assert sorted(below(copy, found.extra)) == sorted(
        [
            "a/mine.txt",
            "folder",
            *below(copy, [path.parent / ".idc-0-1-2-3.part", path.parent / "link"]),
        ]
    )
    assert found.ok
    (copy / "a" / "more.dcm").write_text("foreign")
    assert not transfer.verify(copy).ok
    # A cohort answers for its own folders.
    assert SAMPLE.verify(copy).ok
    assert len(SAMPLE.verify(copy).extra) == 2


def test_a_link_in_the_place_of_an_object_is_none(copy, tmp_path):
    first, second = transfer.verify(copy).match[:2]
    first.rename(tmp_path / "moved")
    first.symlink_to(tmp_path / "moved")
    second.unlink()
    second.mkdir()
    for found in (transfer.verify(copy), SAMPLE.verify(copy)):
        assert below(copy, found.differ) == below(copy, [first])
        assert below(copy, found.missing) == below(copy, [second])
        assert "it is a link" in str(found)
    second.rmdir()
    transfer.repair(copy)
    assert not first.is_symlink()
    assert (tmp_path / "moved").is_file()
    assert transfer.verify(copy).ok


def test_what_lies_behind_a_link_is_not_there(copy, tmp_path):
    folder = copy / "sample_mr"
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    for found in (transfer.verify(copy), SAMPLE.verify(copy)):
        assert len(found.missing) == 4
        assert len(found.match) == 5


def test_a_file_that_cannot_be_read_is_said_so(copy):
    path = transfer.verify(copy).match[0]
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    found = transfer.verify(copy, checksum=True)
    assert below(copy, found.differ) == below(copy, [path])
    assert f"! {path.relative_to(copy).as_posix()}" in list(found.lines())


def test_swapped_files_of_one_size_are_told_by_their_headers(tmp_path):
    # Nothing is known of their bytes; their series is.
    SAMPLE.materialize(tmp_path, record=False)
    paths = SAMPLE.verify(tmp_path, quick=True).match
    one = next(path for path in paths if "sample_mr" in path.parts)
    data = bytearray(one.read_bytes())
    uid = one.parent.name.removeprefix("MR_").encode()
    assert data.count(uid) == 1
    data[data.index(uid) + len(uid) - 1] ^= 1
    one.write_bytes(data)
    (found,) = SAMPLE.verify(tmp_path).differ
    assert found == one
    assert "SeriesInstanceUID" in str(SAMPLE.verify(tmp_path))
    one.write_bytes(b"<html>".ljust(len(data)))
    assert "no DICOM file" in str(SAMPLE.verify(tmp_path))


@pytest.mark.parametrize("file_names", ["uuid", "slice"])
def test_files_that_changed_their_names_are_read(tmp_path, file_names):
    """Also those of one size that were put within one tick of the clock of files."""
    SAMPLE.materialize(tmp_path, file_names=file_names, checksum="crc32c")
    paths = transfer.verify(tmp_path).match
    assert len({path.stat().st_mtime_ns for path in paths}) == len(paths)
    one, two = [path for path in paths if path.stat().st_size == 531926][:2]
    one.rename(tmp_path / "one")
    two.rename(one)
    (tmp_path / "one").rename(two)
    assert transfer.verify(tmp_path).counts["differ"] == 2


def test_swapped_instances_are_told_where_their_names_are_known(tmp_path):
    plan = CT.plan(tmp_path)
    uids = CT.datasets().map(lambda d: str(d.SOPInstanceUID)).compute()
    rows = [
        {
            "crdc_series_uuid": step.instance.part.crdc_series_uuid,
            "crdc_instance_uuid": step.instance.crdc_instance_uuid,
            "instance_size": step.instance.size,
            "SOPInstanceUID": uid,
        }
        for step, uid in zip(plan.steps, uids, strict=True)
    ]
    known = CT.with_instances(pa.Table.from_pylist(rows))
    paths = known.materialize(tmp_path, record=False).paths
    same = [path for path in paths if path.stat().st_size == 531926]
    first, second = (path.read_bytes() for path in same)
    same[0].write_bytes(second)
    same[1].write_bytes(first)
    found = known.verify(tmp_path, checksum=True)
    assert set(found.differ) == set(same)
    assert {f.what for f in found.findings if f.verdict == "differ"} == {"identity"}


@pytest.mark.parametrize("path", sorted(BUCKET.rglob("*.dcm")), ids=lambda p: p.stem)
def test_who_an_object_is_can_be_read_without_its_header(path):
    data = path.read_bytes()
    asked = (lambda start, stop: data[start:stop]), len(data)
    header = dicom.read_header(*asked)
    assert dicom.read_identity(*asked) == {
        name: header[name].value for name in ("SOPInstanceUID", "SeriesInstanceUID")
    }


# What the store says of the bytes.


def tag_of(data: bytes, size: int) -> str:
    """The entity tag of an object that was put in parts, as the S3 API makes it."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    joined = b"".join(md5(part).digest() for part in parts)
    return f'"{md5(joined).hexdigest()}-{len(parts)}"'


S3 = Mirror("there", "s3://{aws_bucket}", endpoint_url="http://127.0.0.1:9")
AWS = resolve_mirror("aws", environment=False)


def tagged(target: Path, mirror: Mirror, files: dict[str, tuple[bytes, str]]):
    """Put files into a folder, and give the plan of objects with these tags."""
    part = Part("s", "b")
    found = [
        Instance(part, f"s/{name}.dcm", len(data), f"x/s/{name}.dcm", tag)
        for name, (data, tag) in files.items()
    ]
    for name, (data, _) in files.items():
        (target / f"{name}.dcm").write_bytes(data)
    series = pa.table(
        {
            "crdc_series_uuid": ["s"],
            "aws_bucket": ["b"],
            "folder": [""],
            "instanceCount": [len(files)],
            "size": [sum(len(data) for data, _ in files.values())],
        }
    )
    return make(series, [Listed(found)], lambda _: {}, target, mirror)


DICM = next(BUCKET.rglob("*.dcm")).read_bytes()
GOOD, WRONG = md5(DICM).hexdigest(), "0" * 32
LARGE = DICM.ljust((20 << 20) + 7, b"x")


@pytest.mark.parametrize(
    ("mirror", "tags", "verdicts"),
    [
        (S3, [GOOD], ["match"]),
        (S3, [f'"{GOOD}"'], ["match"]),
        # Nothing says that the tags of this store are MD5s.
        (S3, [WRONG], ["unverifiable"]),
        # Others of it are; or it is the public one.
        (S3, [WRONG, GOOD], ["differ", "match"]),
        (AWS, [WRONG], ["differ"]),
        (S3, ["v1"], ["unverifiable"]),
        (AWS, [f"{WRONG}-1"], ["unverifiable"]),
        (AWS, [f"{WRONG}-9"], ["unverifiable"]),
        (Mirror("web", "https://a.b"), [GOOD], ["unverifiable"]),
    ],
)
def test_an_entity_tag_is_believed_as_far_as_it_goes(tmp_path, mirror, tags, verdicts):
    files = {f"o{number}": (DICM, tag) for number, tag in enumerate(tags)}
    plan = tagged(tmp_path, mirror, files)
    found = verify_plan(plan, Level(checksum=True))
    assert [each.verdict for each in found.findings] == verdicts


@pytest.mark.parametrize("size", [8 << 20, 16 << 20, 64 << 20])
def test_the_tag_of_parts_is_computed_again(tmp_path, size):
    plan = tagged(tmp_path, AWS, {"o": (LARGE, tag_of(LARGE, size))})
    assert verify_plan(plan).counts["match"] == 1
    flip(tmp_path / "o.dcm")
    # It may have been put in parts of another size.
    assert verify_plan(plan).counts["unverifiable"] == 1


@pytest.mark.servers
def test_google_states_hashes_beside_the_tag(gcs_fake, tmp_path):
    there = SAMPLE.reading_from(
        "gs://intake-idc-sample", endpoint_url=gcs_fake.endpoint, engine="fsspec"
    )
    there.materialize(tmp_path, record=False)
    found = there.verify(tmp_path)
    assert found.counts["match"] == 9
    flip(found.match[0])
    assert below(tmp_path, there.verify(tmp_path).differ) == below(
        tmp_path, found.match[:1]
    )


@pytest.mark.servers
def test_s3_states_the_md5_as_the_tag(s3_nginx, tmp_path):
    there = SAMPLE.reading_from(
        "s3://intake-idc-sample", endpoint_url=s3_nginx.endpoint
    )
    there.materialize(tmp_path)
    assert there.verify(tmp_path).read == 0
    assert there.verify(tmp_path, checksum=True).counts["match"] == 9
    found = transfer.verify(tmp_path, checksum=True)
    assert found.counts["match"] == 9
    flip(found.match[0])
    for asks in (there.verify, transfer.verify):
        seen = asks(tmp_path, checksum=True)
        assert below(tmp_path, seen.differ) == below(tmp_path, found.match[:1])
    repaired = transfer.repair(tmp_path, checksum=True, mirror=there.mirror)
    assert repaired.counts["replaced"] == 1


# What is mended.


@pytest.mark.parametrize("by_cohort", [True, False])
def test_repair_fetches_what_is_wrong_and_touches_nothing_else(copy, by_cohort):
    repair = SAMPLE.repair if by_cohort else intake_idc.repair
    paths = transfer.verify(copy).match
    before = {path: path.stat().st_mtime_ns for path in paths}
    flip(paths[0])
    paths[1].unlink()
    paths[2].write_bytes(b"short")
    (copy / "mine.dcm").write_text("mine")
    assert repair(copy, quick=True).counts == {
        "fetched": 1,
        "replaced": 1,
        "kept": 7,
        "failed": 0,
    }
    assert repair(copy, checksum=True).counts["replaced"] == 1
    found = SAMPLE.verify(copy, checksum=True)
    assert found.counts["match"] == 9
    untouched = {path: path.stat().st_mtime_ns for path in paths[3:]}
    assert untouched == {path: before[path] for path in paths[3:]}
    assert (copy / "mine.dcm").read_text() == "mine"
    # What was fetched again can be verified as well.
    flip(paths[0])
    assert transfer.verify(copy, checksum=True).counts["differ"] == 1


def test_a_repair_takes_nothing_from_who_holds_it(tmp_path):
    CT.materialize(tmp_path)
    transfer.verify(tmp_path).match[0].unlink()
    intake_idc.repair(tmp_path)
    assert len(OLD_CT.materialize(tmp_path, delete_extra=True).deleted) == 1


def test_copies_from_two_places_are_repaired_from_one_that_is_named(tmp_path):
    shutil.copytree(BUCKET, tmp_path / "bucket")
    CT.materialize(tmp_path / "copy", mirror=tmp_path / "bucket")
    SAMPLE.search(Modality="MR").materialize(tmp_path / "copy")
    with pytest.raises(RequestError, match="name the mirror"):
        transfer.repair(tmp_path / "copy")
    assert transfer.repair(tmp_path / "copy", mirror="sample").counts["kept"] == 7


def plant(target: Path, *, runs=None, series=None, rows=None, **columns) -> None:
    """Put a record into a folder that says something else than its own."""
    found = read_records(target)
    told = found.series
    for name, value in (series or {}).items():
        at = told.column_names.index(name)
        told = told.set_column(at, name, pa.array([value] * told.num_rows))
    own = dict(zip(found.objects.column_names, found.objects.columns, strict=True))
    for name, value in columns.items():
        own[name] = pa.array([value] * len(found), own[name].type)
    own_runs = [replace(run, **(runs or {})) for run in found.runs]
    own = {name: column[:rows] for name, column in own.items()}
    planted = records._packed(told, own)
    place = transfer.LocalPlace(target)
    records._write(place, records._new_name(1), own_runs, planted, len(own["name"]))


@pytest.fixture(scope="module")
def somebody():
    with Faulty(BUCKET.parent) as server:
        yield server


@pytest.mark.servers
@pytest.mark.parametrize(
    "said",
    [
        {"mirror": "{url}?x="},
        {"mirror": "aws", "endpoint_url": "{url}"},
        {"mirror": "gcs", "endpoint_url": "{url}", "engine": "fsspec"},
        {
            "mirror": [
                {"mirror": "sample"},
                {"mirror": "s3://x", "endpoint_url": "{url}"},
            ]
        },
        {"mirror": "file://{folder}"},
        {"mirror": "{folder}"},
        {"mirror": "s3://somebodys"},
        {"mirror": "aws", "bucket": "somebodys"},
    ],
)
def test_nobody_is_asked_whom_only_a_record_names(tmp_path, somebody, said):
    somebody.script()
    target = tmp_path / "copy"
    CT.materialize(target)
    lost = transfer.verify(target).match[0]
    text = json.dumps(said).replace("{url}", somebody.endpoint)
    mirror = json.loads(text.replace("{folder}", str(tmp_path)))
    bucket = mirror.pop("bucket", None)
    newer = {"mirror": mirror, "time": 1 << 62, "id": "newer"}
    plant(target, runs=newer, series={"aws_bucket": bucket} if bucket else None)
    lost.unlink()
    assert transfer.verify(target, checksum=True).missing == (lost,)
    with pytest.raises(RequestError, match="name the mirror"):
        transfer.repair(target)
    assert somebody.requests() == []
    assert not lost.exists()
    if not bucket:
        assert transfer.repair(target, mirror="sample").counts["fetched"] == 1


def test_a_run_that_put_nothing_names_no_mirror(tmp_path):
    CT.materialize(tmp_path)
    newer = {"mirror": {"mirror": "s3://somebodys"}, "time": 1 << 62, "id": "newer"}
    plant(tmp_path, runs=newer, rows=0)
    transfer.verify(tmp_path).match[0].unlink()
    assert transfer.repair(tmp_path).counts["fetched"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"series": {"crdc_series_uuid": "../outside"}},
        {"series": {"aws_bucket": "../outside"}},
        {"series": {"folder": ".IDC"}},
        {"file": "README.md"},
        {"size": -1},
        {"size": 1 << 62},
        {"runs": {"mirror": ["aws"]}},
        {"runs": {"mirror": {"mirror": 5}}},
        {"runs": {"mirror": {"mirror": ["aws"]}}},
        {"runs": {"time": "now"}},
        {"runs": {"id": []}},
        {"runs": {"origin": Origin(lineage=[])}},
    ],
)
def test_a_record_is_refused_that_no_copy_has_written(tmp_path, wrong):
    CT.materialize(tmp_path)
    plant(tmp_path, **wrong)
    for asks in (transfer.verify, transfer.repair):
        with pytest.raises(IntegrityError, match="is no record of a copy"):
            asks(tmp_path)


@pytest.mark.servers
@pytest.mark.parametrize("merged", [100_000, 0])
def test_a_tag_of_one_mirror_says_nothing_at_another(tmp_path, monkeypatch, merged):
    monkeypatch.setattr(records, "MERGED_ROWS", merged)
    with Faulty(BUCKET.parent) as one, Faulty(BUCKET.parent, tags="md5") as two:
        first, second = (
            resolve_mirror("s3://bucket", endpoint_url=server.endpoint)
            for server in (one, two)
        )
        CT.materialize(tmp_path, mirror=first)
        assert CT.materialize(tmp_path, mirror=second).counts["kept"] == 3
        found = transfer.verify(tmp_path, checksum=True)
        assert found.counts["match"] == 3
        found.match[0].unlink()
        again = transfer.repair(tmp_path, mirror=second)
        assert again.counts["fetched"] == 1


def test_the_users_environment_may_name_the_mirror_of_a_record(tmp_path, monkeypatch):
    shutil.copytree(BUCKET, tmp_path / "bucket")
    CT.materialize(tmp_path / "copy", mirror=tmp_path / "bucket")
    transfer.verify(tmp_path / "copy").match[0].unlink()
    with pytest.raises(RequestError, match="name the mirror"):
        transfer.repair(tmp_path / "copy")
    monkeypatch.setenv("INTAKE_IDC_MIRROR", str(tmp_path / "bucket"))
    assert transfer.repair(tmp_path / "copy").counts["fetched"] == 1


# What it looks like.


def test_a_verification_is_lines_json_and_a_table(copy, tmp_path):
    paths = transfer.verify(copy).match
    flip(paths[0])
    paths[1].unlink()
    (copy / "mine.txt").write_text("mine")
    found = transfer.verify(copy, checksum=True)
    lines = list(found.lines())
    assert lines[:3] == [
        f"* {below(copy, paths)[0]}",
        f"+ {below(copy, paths)[1]}",
        f"= {below(copy, paths)[2]}",
    ]
    assert lines[-1] == "- mine.txt"
    found.to_jsonl(tmp_path / "found.jsonl")
    text = (tmp_path / "found.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["verdict"] for row in rows[:3]] == ["differ", "missing", "match"]
    assert rows[0]["what"] == "hash"
    assert rows[0]["url"].endswith(paths[0].name)
    assert len(rows) == 10
    assert "its crc32c is" in str(found)
    assert "<table>" in found._repr_html_()
    assert "<table>" in transfer.verify(copy, quick=True)._repr_html_()


# From a shell.


def ended(*words: str | Path) -> tuple[int, str]:
    """Run the command in this process; give its exit code and what it said."""
    done = CliRunner().invoke(command, [str(word) for word in words])
    if isinstance(done.exception, IDCError):
        return done.exception.exit_code, f"{done.output}{done.exception}"
    return done.exit_code, done.output


def test_the_commands_need_no_cohort_and_take_one(copy, tmp_path):
    sample = ["--tables", "sample", "--all"]
    report = tmp_path / "found.jsonl"
    assert ended("verify", copy)[0] == 0
    assert ended("verify", *sample, copy, "--quick")[0] == 0
    paths = transfer.verify(copy).match
    flip(paths[0])
    paths[1].unlink()
    (copy / "mine.txt").write_text("mine")
    code, said = ended("verify", copy, "--checksum", "--report", report)
    assert code == 5
    assert "is not what its record says" in said
    assert "missing: " in said
    assert len(report.read_text().splitlines()) == 10
    code, said = ended("verify", *sample, copy)
    assert code == 5
    assert "is not what the cohort says" in said
    assert "fetched        1" in ended("repair", copy)[1]
    assert "replaced       1" in ended("repair", *sample, copy, "--checksum")[1]
    assert ended("verify", copy, "--checksum")[0] == 0
    (copy / "mine.dcm").write_text("foreign")
    assert ended("verify", copy)[0] == 5


def test_files_that_a_cohort_no_longer_holds_go_from_a_shell(tmp_path):
    copies = ["copy", "Modality=CT", "--tables", "sample", "--to", tmp_path / "c"]
    assert ended(*copies)[0] == 0
    older = [*copies, "--idc-version", "1", "--delete-extra"]
    code, said = ended(*older, "--dry-run")
    assert (code, said.count("  delete: ")) == (0, 1)
    code, said = ended(*older)
    assert (code, "deleted        1" in said) == (0, True)
    assert ended(*older, "--no-record")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["verify", "{copy}", "--mirror", "aws"], 2, "no FILTERS"),
        (["repair", "{copy}", "--dir-template", "x"], 2, "no FILTERS"),
        (["verify", "{copy}", "--subset", "2/1"], 2, "'n/t'"),
        (["verify", "{copy}", "--quick", "--checksum"], 2, "quick reads no file"),
        (["verify", "{copy}/none"], 4, "no record"),
        (["repair", "{copy}", "--report", "{copy}/none/r.jsonl"], 2, "its folder"),
    ],
)
def test_what_makes_no_sense_is_said(copy, words, code, reason):
    found = ended(*(word.replace("{copy}", str(copy)) for word in words))
    assert found[0] == code
    assert reason in found[1]
