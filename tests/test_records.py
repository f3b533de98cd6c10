"""What a copy writes down: before the first byte and at its end, for whoever asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.callbacks import Callback
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intake_idc import open_idc, open_manifest, resolve_mirror, sample_path, transfer
from intake_idc.errors import IntegrityError, PlanError, RequestError, TransferError
from intake_idc.transfer import LocalPlace, Origin, read_records, recorded, records

SAMPLE = open_idc(2, tables="sample").all()
CT = SAMPLE.search(Modality="CT")
MR = SAMPLE.search(Modality="MR")
OLD_CT = open_idc(1, tables="sample").search(Modality="CT")
BUCKET = sample_path() / "bucket"


def files_of(target: Path) -> list[str]:
    """The names of the records in a folder."""
    folder = target / ".idc"
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def objects_in(target: Path) -> dict[str, str]:
    """What every DICOM file of a folder holds, by its path below it."""
    return {
        path.relative_to(target).as_posix(): path.read_bytes().hex()
        for path in target.rglob("*.dcm")
    }


def told(target: Path) -> dict[str, tuple[int, int]]:
    """Status and time of change that the record has of each path."""
    newest = read_records(target).newest()
    columns = (newest.column(name).tolist() for name in ("status", "mtime_ns"))
    return dict(zip(newest.paths(), zip(*columns, strict=True), strict=True))


# What is in it.


def test_a_record_says_what_lies_where_and_whose_copy_it_is(tmp_path):
    report = CT.materialize(tmp_path, checksum="crc32c")
    (name,) = files_of(tmp_path)
    with pa.ipc.open_file(str(tmp_path / ".idc" / name)) as reader:
        table = reader.read_all()
        meta = json.loads(reader.schema.metadata[b"intake_idc.record"])
    rows = table.to_pylist()
    assert [f"{r['series']['url']}/{r['name']}.dcm" for r in rows] == [
        outcome.url for outcome in report.outcomes
    ]
    assert [r["mtime_ns"] for r in rows] == [
        path.stat().st_mtime_ns for path in report.paths
    ]
    assert [r["hash"] for r in rows] == [o.hash for o in report.outcomes]
    assert {r["status"] for r in rows} == {0}
    series = rows[0]["series"]
    assert series["instanceCount"] == 3
    assert series["size"] == CT.size
    assert series["SeriesInstanceUID"] == CT.table.to_pylist()[0]["SeriesInstanceUID"]
    (run,) = meta["runs"]
    assert run["origin"]["idc_version"] == 2
    assert run["origin"]["manifest"] == CT.manifest().digest
    assert (run["pid"], run["ended"]) == (os.getpid(), True)
    assert run["mirror"] == {"mirror": "sample"}


def test_without_it_nothing_is_left(tmp_path):
    CT.materialize(tmp_path, record=False, notice=False)
    assert [path.name for path in tmp_path.iterdir()] == ["sample_ct"]


def test_it_is_there_before_the_first_byte(tmp_path):
    seen = []

    class Looks(Callback):
        def relative_update(self, inc=1):
            super().relative_update(inc)
            if not seen:
                found = read_records(tmp_path)
                seen.append((len(found), found.runs[0].ended, found.runs[0].lives))
                seen.append(set(found.column("status").tolist()))

    CT.materialize(tmp_path, callback=Looks())
    assert seen == [(3, False, True), {-1}]


def test_a_copy_that_is_interrupted_says_how_far_it_came(tmp_path):
    class Interrupts(Callback):
        def relative_update(self, inc=1):
            if self.value > 500_000:
                raise KeyboardInterrupt
            super().relative_update(inc)

    with pytest.raises(KeyboardInterrupt):
        SAMPLE.materialize(tmp_path, callback=Interrupts())
    (run,) = read_records(tmp_path).runs
    assert run.ended
    there = {path for path, (_, mtime) in told(tmp_path).items() if mtime}
    assert there <= set(objects_in(tmp_path)) < set(told(tmp_path))
    assert SAMPLE.materialize(tmp_path).counts["kept"] >= len(there)
    assert transfer.verify(tmp_path).ok


def test_a_long_copy_writes_now_and_then_for_little_of_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(records, "SHARE", 0)
    plan = CT.plan(tmp_path)
    journal = records.Journal(plan, LocalPlace(tmp_path), Origin())
    journal.begin()
    done = transfer.Report(plan, bytes([0, 255, 255]), mtimes={0: 5})
    looks = []
    journal.along(lambda: looks.append(1), lambda: done)()
    assert looks == [1]
    assert read_records(tmp_path).column("status").tolist() == [0, -1, -1]
    assert read_records(tmp_path).column("mtime_ns").tolist() == [5, 0, 0]


def test_no_option_of_a_mirror_is_written_down(tmp_path):
    shutil.copytree(BUCKET, tmp_path / "bucket")
    mirror = resolve_mirror(tmp_path / "bucket", storage_options={"auto_mkdir": False})
    CT.materialize(tmp_path / "copy", mirror=mirror)
    (run,) = read_records(tmp_path / "copy").runs
    assert run.mirror == {"mirror": str(tmp_path / "bucket")}


def test_many_objects_are_written_and_read_in_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "AT_ONCE", 2)
    SAMPLE.materialize(tmp_path)
    CT.materialize(tmp_path)
    assert len(read_records(tmp_path).newest()) == 9
    assert transfer.verify(tmp_path).counts["match"] == 9


def test_series_that_were_not_listed_are_missed_until_they_are_copied(tmp_path):
    uuid = CT.manifest().uuids[0]
    for other in MR.manifest().uuids:
        shutil.copytree(BUCKET / other, tmp_path / "bucket" / other)
    both = SAMPLE.search(Modality=["CT", "MR"])
    with pytest.raises(TransferError):
        both.materialize(tmp_path / "copy", mirror=tmp_path / "bucket")
    found = transfer.verify(tmp_path / "copy")
    assert found.counts["match"] == 4
    assert len(found.missing) == 1
    assert "could not be listed" in str(found)
    shutil.copytree(BUCKET / uuid, tmp_path / "bucket" / uuid)
    both.materialize(tmp_path / "copy", mirror=tmp_path / "bucket")
    assert transfer.verify(tmp_path / "copy").counts["match"] == 7
    assert transfer.verify(tmp_path / "copy").ok


# Several of them.


def test_records_of_runs_that_have_ended_become_one(tmp_path):
    paths = CT.materialize(tmp_path, checksum="md5").paths
    before = told(tmp_path)
    for _ in range(3):
        CT.materialize(tmp_path)
    MR.materialize(tmp_path)
    assert len(files_of(tmp_path)) == 1
    found = read_records(tmp_path)
    assert len(found) == 7
    # Who kept a file does not know when it was written, and the record still does.
    after = told(tmp_path)
    for path in paths:
        name = path.relative_to(tmp_path).as_posix()
        assert after[name] == (2, before[name][1])
    assert sum(each is not None for each in found.objects["hash"].to_pylist()) == 3


def test_large_records_become_one_where_they_are_of_the_same_objects(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(records, "MERGED_ROWS", 2)
    monkeypatch.setattr(records, "AT_ONCE", 2)
    CT.materialize(tmp_path, checksum="md5")
    before = told(tmp_path)
    hashes = read_records(tmp_path).objects.column("hash").to_pylist()
    for _ in range(3):
        CT.materialize(tmp_path)
    assert len(files_of(tmp_path)) == 1
    assert told(tmp_path) == {path: (2, own[1]) for path, own in before.items()}
    assert read_records(tmp_path).objects.column("hash").to_pylist() == hashes
    paths = [tmp_path / path for path in before]
    paths[0].unlink()
    CT.materialize(tmp_path)
    assert len(files_of(tmp_path)) == 1
    assert told(tmp_path)[next(iter(before))] == (0, paths[0].stat().st_mtime_ns)
    MR.materialize(tmp_path)
    assert len(files_of(tmp_path)) == 2
    assert transfer.verify(tmp_path).counts["match"] == 7


def test_the_record_of_a_run_at_work_is_left_to_it(tmp_path):
    plan = CT.plan(tmp_path)
    journal = records.Journal(plan, LocalPlace(tmp_path), Origin())
    journal.begin()
    (own,) = files_of(tmp_path)
    CT.materialize(tmp_path)
    CT.materialize(tmp_path)
    assert own in files_of(tmp_path)
    assert len(files_of(tmp_path)) == 2
    journal.end(transfer.Report(plan, bytes([2] * 3)))
    assert len(files_of(tmp_path)) == 1


def dead_process() -> tuple[int, str]:
    """Number, and part of the name of a record, of a process that is gone."""
    code = "from intake_idc.files import part_name; print(part_name())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().removesuffix(".part")


@pytest.fixture(scope="module")
def dead() -> str:
    return dead_process()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 9), st.sampled_from(["none", "planned", "so far"]))
def test_a_killed_run_and_a_rerun_leave_what_one_run_leaves(
    tmp_path_factory, dead, done, written
):
    target = tmp_path_factory.mktemp("killed")
    plan = SAMPLE.plan(target)
    # What a run leaves that is killed after so many objects.
    for path, step in list(zip(plan.paths, plan.steps, strict=True))[:done]:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(step.instance.url, path)
    place = LocalPlace(target)
    if written != "none":
        place.open()
        journal = records.Journal(plan, place, Origin(2, "m", "l"))
        journal.begin()
        if written == "so far":
            known = {n: p.stat().st_mtime_ns for n, p in enumerate(plan.paths[:done])}
            so_far = transfer.Report(
                plan, bytes([0] * done + [255] * (9 - done)), mtimes=known
            )
            journal._write(so_far, ended=False)
        (name,) = files_of(target)
        (target / ".idc" / name).rename(target / ".idc" / f"{name[:16]}{dead}.arrow")
    SAMPLE.materialize(target)
    assert len(objects_in(target)) == 9
    assert len(files_of(target)) == 1
    found = transfer.verify(target)
    assert (found.counts["match"], found.counts["unverifiable"]) == (
        (9, 0) if written == "so far" or not done else (9 - done, done)
    )
    assert found.ok
    assert set(told(target)) == set(objects_in(target))


def test_readers_and_mergers_at_once_lose_nothing(tmp_path):
    # Each thread is a cohort of its own, whose rows may never vanish for a moment.
    SAMPLE.materialize(tmp_path)
    expected, wrong = set(told(tmp_path)), []
    stop = threading.Event()

    def copies(number):
        plan = SAMPLE.plan(tmp_path)
        for _ in range(15):
            own = Origin(2, "m", f"lineage {number}")
            journal = records.Journal(plan, LocalPlace(tmp_path), own)
            journal.end(transfer.Report(plan, bytes([2] * 9)))

    def reads():
        while not stop.is_set():
            found = read_records(tmp_path)
            if found is None or set(found.newest().paths()) != expected:
                wrong.append(found)

    readers = [threading.Thread(target=reads) for _ in range(2)]
    writers = [threading.Thread(target=copies, args=[n]) for n in range(3)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert wrong == []
    assert len(set(read_records(tmp_path).lineages.tolist())) == 4


# What cannot be trusted.


def test_what_is_no_record_is_named(tmp_path):
    CT.materialize(tmp_path)
    path = tmp_path / ".idc" / files_of(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(IntegrityError, match="is no record of a copy"):
        transfer.verify(tmp_path)
    # A copy does not need it.
    assert CT.materialize(tmp_path).counts["kept"] == 3


@pytest.mark.parametrize("name", ["a.arrow", "note.txt"])
def test_other_files_beside_records_are_left_alone(tmp_path, name):
    CT.materialize(tmp_path)
    (tmp_path / ".idc" / name).write_text("mine")
    CT.materialize(tmp_path)
    assert (tmp_path / ".idc" / name).read_text() == "mine"
    assert transfer.verify(tmp_path).ok


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("folder", "../outside"),
        ("folder", "/etc"),
        ("folder", "a/./b"),
        ("folder", "a\\b"),
        ("folder", "C:/a"),
        ("folder", ".idc"),
        ("file", "../x.dcm"),
        ("file", ".."),
        ("file", "a\\b"),
    ],
)
def test_a_record_that_names_a_path_outside_is_refused(tmp_path, column, value):
    place = LocalPlace(tmp_path)
    place.open()
    CT.materialize(tmp_path)
    found = read_records(tmp_path)
    columns = dict(zip(found.objects.column_names, found.objects.columns, strict=True))
    series = found.series
    if column == "folder":
        index = series.column_names.index("folder")
        own = pa.array([value] * series.num_rows)
        series = series.set_column(index, "folder", own)
    else:
        columns["file"] = pa.array([value] * len(found))
    planted = records._packed(series, columns)
    records._write(place, records._new_name(1), found.runs, planted, len(found))
    for asks in (transfer.verify, transfer.repair):
        with pytest.raises(IntegrityError, match="is no record of a copy"):
            asks(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_in_place_of_a_record_is_not_waited_for(tmp_path):
    CT.materialize(tmp_path)
    path = tmp_path / ".idc" / files_of(tmp_path)[0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IntegrityError, match="no plain file"):
        transfer.verify(tmp_path)


def test_a_record_of_a_newer_version_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FORMAT", 2)
    CT.materialize(tmp_path)
    with pytest.raises(RequestError, match="format 2"):
        transfer.verify(tmp_path)


def test_a_record_is_not_written_through_a_link(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / ".idc").symlink_to(tmp_path / "outside")
    with pytest.raises(PlanError, match="link"):
        CT.materialize(tmp_path / "copy")
    assert list((tmp_path / "outside").iterdir()) == []
    with pytest.raises(IntegrityError, match="link"):
        transfer.verify(tmp_path / "copy")


# What a cohort no longer holds.


def test_what_another_release_does_not_hold_goes_when_asked(tmp_path):
    newer = CT.materialize(tmp_path)
    plan = OLD_CT.materialize(tmp_path, delete_extra=True, dry_run=True)
    gone = {path.relative_to(tmp_path).as_posix() for path in newer.paths}
    gone -= {step.path for step in plan.steps}
    assert len(gone) == 1
    assert set(plan.delete) == gone
    assert "to delete" in str(plan)
    assert OLD_CT.materialize(tmp_path).deleted == ()
    assert len(objects_in(tmp_path)) == 3
    assert not OLD_CT.verify(tmp_path).ok
    report = OLD_CT.materialize(tmp_path, delete_extra=True)
    assert {p.relative_to(tmp_path).as_posix() for p in report.deleted} == gone
    assert "deleted" in str(report)
    assert set(objects_in(tmp_path)) == {step.path for step in plan.steps}
    assert OLD_CT.verify(tmp_path).ok
    assert transfer.verify(tmp_path).ok
    assert OLD_CT.materialize(tmp_path, delete_extra=True).deleted == ()


def test_folders_that_become_empty_go_too(tmp_path):
    template = "%crdc_series_uuid"
    OLD_CT.materialize(tmp_path, dir_template=template, notice=False)
    (tmp_path / OLD_CT.manifest().uuids[0] / "sub").mkdir()
    CT.materialize(tmp_path, dir_template=template, delete_extra=True, notice=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".idc",
        *CT.manifest().uuids,
        *OLD_CT.manifest().uuids,
    }
    shutil.rmtree(tmp_path)
    OLD_CT.materialize(tmp_path, dir_template=template, notice=False)
    CT.materialize(tmp_path, dir_template=template, delete_extra=True, notice=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".idc",
        *CT.manifest().uuids,
    }


def changed(path):
    path.write_bytes(path.read_bytes()[::-1])


def touched(path):
    os.utime(path, ns=(1, 1))


def a_link(path):
    path.rename(path.with_suffix(".mine"))
    path.symlink_to(path.with_suffix(".mine"))


def behind_a_link(path):
    path.parent.rename(path.parent.with_suffix(".mine"))
    path.parent.symlink_to(path.parent.with_suffix(".mine"))


def of_another_cohort(path):
    del path
    open_idc(1, tables="sample").all().materialize(Path.cwd())


@pytest.mark.parametrize(
    "done", [changed, touched, a_link, behind_a_link, of_another_cohort]
)
def test_nothing_goes_that_is_not_as_a_copy_left_it_and_ours(
    tmp_path, monkeypatch, done
):
    monkeypatch.chdir(tmp_path)
    template = "%crdc_series_uuid"
    OLD_CT.materialize(tmp_path, dir_template=template)
    path = next(
        tmp_path / step.path
        for step in OLD_CT.plan(tmp_path, dir_template=template).steps
    )
    if done is of_another_cohort:
        open_idc(1, tables="sample").all().materialize(tmp_path, dir_template=template)
    else:
        done(path)
    CT.materialize(tmp_path, dir_template=template, delete_extra=True)
    assert path.exists()


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_nothing_goes_that_a_copy_to_a_folder_around_or_inside_holds(
    tmp_path, outer, first
):
    template = "%crdc_series_uuid"
    ours, theirs = (tmp_path / "in", tmp_path) if outer else (tmp_path, tmp_path / "in")

    def put(cohort, target, **options):
        folders = f"in/{template}" if target == tmp_path else template
        return cohort.materialize(target, dir_template=folders, **options)

    if first:
        put(SAMPLE, theirs)
    put(CT, ours)
    if not first:
        put(SAMPLE, theirs)
    assert put(OLD_CT, ours, delete_extra=True).deleted == ()
    assert SAMPLE.verify(tmp_path / "in", dir_template=template, quick=True).ok


def test_what_was_there_before_a_copy_stays(tmp_path):
    plan = CT.plan(tmp_path)
    for path, step in zip(plan.paths, plan.steps, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(step.instance.url, path)
    assert CT.materialize(tmp_path).counts["kept"] == 3
    assert OLD_CT.materialize(tmp_path, delete_extra=True).deleted == ()
    assert len(objects_in(tmp_path)) == 3


def test_nothing_goes_where_the_copy_is_not_whole(tmp_path):
    CT.materialize(tmp_path / "copy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TransferError):
        OLD_CT.materialize(
            tmp_path / "copy", delete_extra=True, mirror=tmp_path / "empty"
        )
    assert len(objects_in(tmp_path / "copy")) == 3
    plan = OLD_CT.materialize(
        tmp_path / "copy", delete_extra=True, dry_run=True, mirror=tmp_path / "empty"
    )
    assert plan.delete == ()


def test_a_list_in_a_file_is_one_thing_whatever_it_holds(tmp_path):
    path, target = tmp_path / "list.s5cmd", tmp_path / "copy"
    SAMPLE.to_manifest(path)
    listed = open_manifest(path, tables="sample", mirror="sample")
    listed.materialize(target)
    CT.to_manifest(path)
    shorter = open_manifest(path, tables="sample", mirror="sample")
    report = shorter.materialize(target, delete_extra=True)
    assert len(report.deleted) == 6
    assert len(objects_in(target)) == 3


@pytest.mark.parametrize("wrong", [{"record": False}, {"target": "memory://x"}])
def test_to_remove_needs_a_record(tmp_path, wrong):
    target = wrong.pop("target", tmp_path)
    with pytest.raises(RequestError, match="delete_extra"):
        CT.materialize(target, delete_extra=True, **wrong)


def test_paths_have_one_number_each_wherever_they_are_asked():
    one = pa.table({"series": pa.array([0, 1], pa.int32()), "name": ["a", "a"]})
    one = one.append_column("file", pa.array([None, "b.dcm"], pa.string()))
    two = pa.table({"series": pa.array([0], pa.int32()), "name": ["b"]})
    two = two.append_column("file", pa.array(["a.dcm"], pa.string()))
    first = recorded.path_keys(["x", "y"], one)
    assert len(set(first.tolist())) == 2
    assert recorded.path_keys(["x"], two).tolist() == first[:1].tolist()
