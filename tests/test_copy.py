"""The copy: planned before a byte moves, whole or not there, cheap to repeat."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.callbacks import Callback
from hypothesis import given
from hypothesis import strategies as st

from intake_idc import open_idc, resolve_mirror, sample_path, transfer
from intake_idc.errors import PlanError, TransferError
from intake_idc.manifest import Part
from intake_idc.plan import (
    DIR_TEMPLATE,
    make,
    safe_name,
    series_folder,
    template_columns,
)
from intake_idc.storage import Instance, Listed

SAMPLE = open_idc(2, tables="sample")
CT = SAMPLE.search(Modality="CT")
BUCKET = sample_path() / "bucket"


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file but notices, by path below the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.match("NOTICE*.txt")
        and path.parent.name != ".idc"
    }


def digests_of(cohort) -> list[str]:
    return sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for uuid in cohort.manifest().uuids
        for path in (BUCKET / uuid).iterdir()
    )


@pytest.fixture
def half_bucket(tmp_path):
    """A mirror whose objects of the CT series can be damaged."""
    uuid = CT.manifest().uuids[0]
    folder = tmp_path / "mirror" / uuid
    folder.mkdir(parents=True)
    for path in (BUCKET / uuid).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_copy_is_the_bytes_and_a_second_run_fetches_nothing(tmp_path):
    cohort = SAMPLE.all()
    first = cohort.materialize(tmp_path / "copy")
    assert first.counts == {"fetched": 9, "replaced": 0, "kept": 0, "failed": 0}
    assert first.fetched_size == cohort.size
    assert sorted(tree(tmp_path / "copy").values()) == digests_of(cohort)
    assert all(path.is_file() for path in first.paths)
    stamps = [path.stat().st_mtime_ns for path in first.paths]
    second = cohort.materialize(tmp_path / "copy")
    assert second.counts == {"fetched": 0, "replaced": 0, "kept": 9, "failed": 0}
    assert second.paths == first.paths
    assert [path.stat().st_mtime_ns for path in second.paths] == stamps
    assert "kept           9" in str(second)


def test_two_releases_of_a_series_are_two_copies_of_their_own_bytes(tmp_path):
    old = open_idc(1, tables="sample").search(Modality="CT")
    old.materialize(tmp_path / "1")
    CT.materialize(tmp_path / "2")
    assert sorted(tree(tmp_path / "1").values()) == digests_of(old)
    assert sorted(tree(tmp_path / "2").values()) == digests_of(CT)
    assert len(digests_of(old)) == 2


def test_a_plan_moves_no_byte_and_says_what_would(tmp_path):
    plan = CT.plan(tmp_path / "copy")
    assert CT.materialize(tmp_path / "copy", dry_run=True) == plan
    assert plan.counts == {"fetch": 3, "keep": 0, "replace": 0}
    assert plan.size == plan.fetch_size == CT.size
    assert not (tmp_path / "copy").exists()
    assert "to fetch" in str(plan)
    assert "<table>" in plan._repr_html_()
    assert len(plan.paths) == 3


def test_damage_is_seen_and_mended(tmp_path):
    copy = tmp_path / "copy"
    paths = CT.materialize(copy).paths
    assert CT.verify(copy).ok
    paths[0].write_bytes(b"short")
    paths[1].unlink()
    (paths[2].parent / "mine.txt").write_text("a note")
    found = CT.verify(copy)
    assert (found.differ, found.missing) == ((paths[0],), (paths[1],))
    assert found.match == (paths[2],)
    assert [path.name for path in found.extra] == ["mine.txt"]
    assert not found.ok
    assert "differ   1" in str(found)
    mended = CT.materialize(copy)
    assert mended.counts == {"fetched": 1, "replaced": 1, "kept": 1, "failed": 0}
    assert CT.verify(copy).ok
    assert (paths[2].parent / "mine.txt").exists()


def test_a_folder_with_two_releases_of_a_series_is_neither(tmp_path):
    old = open_idc(1, tables="sample").search(Modality="CT")
    old.materialize(tmp_path)
    assert old.verify(tmp_path).ok
    CT.materialize(tmp_path)
    found = old.verify(tmp_path)
    assert (len(found.match), len(found.extra)) == (2, 1)
    assert not found.ok


def test_what_fails_is_reported_and_what_came_stays(tmp_path, half_bucket):
    # An object that turns short after it was listed.
    mirror = resolve_mirror(half_bucket.parent)
    plan = CT.plan(tmp_path / "copy", mirror=mirror)
    victim = sorted(half_bucket.iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:-7])
    with pytest.raises(TransferError, match="1 of 3 objects") as caught:
        transfer.run(plan, mirror)
    report = caught.value.report
    assert report.counts == {"fetched": 2, "replaced": 0, "kept": 0, "failed": 1}
    assert victim.name in report.failures[0].url
    assert "changed after it was listed" in report.failures[0].reason
    assert len(tree(tmp_path / "copy")) == 2
    assert set(report.to_table()["status"].to_pylist()) == {"fetched", "failed"}
    report.to_jsonl(tmp_path / "report.jsonl")
    lines = (tmp_path / "report.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == report.to_table().to_pylist()
    assert "failed:" in str(report)


def test_a_series_that_is_not_listed_as_the_index_says_has_failed(
    tmp_path, half_bucket
):
    next(half_bucket.iterdir()).unlink()
    plan = CT.plan(tmp_path / "copy", mirror=half_bucket.parent)
    assert plan.counts == {"fetch": 0, "keep": 0, "replace": 0, "unlisted": 1}
    assert "series not listed  1" in str(plan)
    with pytest.raises(TransferError, match="lists 2 objects") as caught:
        CT.materialize(tmp_path / "copy", mirror=half_bucket.parent)
    assert caught.value.exit_code == 4
    assert tree(tmp_path / "copy") == {}


def test_progress_counts_true_bytes(tmp_path):
    callback = Callback()
    CT.materialize(tmp_path / "copy", callback=callback)
    assert (callback.size, callback.value) == (CT.size, CT.size)


def test_two_copies_into_one_folder_at_once_are_right(tmp_path):
    copy = tmp_path / "copy"
    barrier = threading.Barrier(4, timeout=30)
    failures = []

    def work():
        barrier.wait()
        try:
            SAMPLE.all().materialize(copy)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(tree(copy).values()) == digests_of(SAMPLE)


def test_a_copy_that_is_cancelled_while_it_lists_has_a_report(tmp_path):
    cancel = threading.Event()
    cancel.set()
    for limits in ({"cancel": cancel}, {"timeout": 1e-9}):
        with pytest.raises(TransferError, match=r"not listed|cancelled|not there"):
            SAMPLE.all().materialize(tmp_path / "copy", **limits)
    assert tree(tmp_path / "copy") == {}


# Where things go.


def test_the_default_layout_is_that_of_idc_index(tmp_path):
    path = CT.plan(tmp_path).paths[0]
    row = CT.table.to_pylist()[0]
    assert path.relative_to(tmp_path).parts[:-1] == (
        row["collection_id"],
        row["PatientID"].strip(". "),
        row["StudyInstanceUID"],
        f"CT_{row['SeriesInstanceUID']}",
    )


@pytest.mark.parametrize(
    ("template", "folders"),
    [
        ("", {""}),
        ("%Modality", {"CT", "MR"}),
        ("%collection_id/x", {"sample_ct/x", "sample_mr/x"}),
        ("all", {"all"}),
    ],
)
def test_any_column_may_be_in_the_layout(tmp_path, template, folders):
    cohort = SAMPLE.search(Modality=["CT", "MR"])
    report = cohort.materialize(tmp_path, dir_template=template)
    found = {str(p.parent.relative_to(tmp_path)).replace(".", "") for p in report.paths}
    assert found == folders
    assert cohort.verify(tmp_path, dir_template=template).ok


@pytest.mark.parametrize(
    "template", ["/abs", "../x", "a/../../b", "%NoSuchColumn", "a\\b", "%Modalit"]
)
def test_a_layout_that_leads_outside_or_names_nothing_is_refused(tmp_path, template):
    with pytest.raises(PlanError, match="dir_template"):
        CT.plan(tmp_path, dir_template=template)


def test_links_are_not_written_through(tmp_path):
    outside, copy = tmp_path / "outside", tmp_path / "copy"
    outside.mkdir()
    copy.mkdir()
    (copy / "sample_ct").symlink_to(outside)
    with pytest.raises(PlanError, match="link"):
        CT.materialize(copy)
    (copy / "sample_ct").unlink()
    paths = CT.materialize(copy).paths
    victim = outside / "victim"
    victim.write_text("mine")
    paths[0].unlink()
    paths[0].symlink_to(victim)
    with pytest.raises(PlanError, match="not a plain file"):
        CT.materialize(copy)
    assert victim.read_text() == "mine"
    assert list(outside.iterdir()) == [victim]


def test_a_file_where_a_folder_belongs_is_an_error(tmp_path):
    (tmp_path / "copy").write_text("a file")
    with pytest.raises(PlanError, match="not a folder"):
        CT.materialize(tmp_path / "copy")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "CT").write_text("a file")
    with pytest.raises(PlanError, match="needs a folder"):
        CT.materialize(tmp_path / "x", dir_template="%Modality")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Lung Phantom", "Lung Phantom"),
        ("../../etc", "_.._etc"),
        ("a/b\\c", "a_b_c"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("x. .", "x"),
        ("", "_"),
        ("..", "_"),
        ("a\0b\nc", "a_b_c"),
        ("e\u0301", "\u00e9"),
        ('<>:"|?*', "_______"),
    ],
)
def test_a_name_is_safe_on_every_platform(text, name):
    assert safe_name(text) == name


@given(st.text(max_size=400))
def test_any_text_gives_one_short_part_of_a_path(text):
    name = safe_name(text)
    assert name not in ("", ".", "..")
    assert not set(name) & set('<>:"/\\|?*\0')
    assert len(name.encode()) <= 255
    assert name[-1] not in ". "
    assert safe_name(name) == name
    assert (Path("/t") / name).resolve().parent == Path("/t")


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=50), min_size=2))
def test_a_series_folder_stays_below_its_target(row):
    folder = Path("/t") / series_folder("%a/x_%b", row)
    assert Path("/t") in Path(os.path.normpath(folder)).parents
    assert len(folder.parts) == 4


def test_a_file_whose_name_does_not_say_its_object_is_kept_only_if_a_record_does(
    tmp_path,
):
    first = CT.materialize(tmp_path, file_names="slice")
    assert CT.plan(tmp_path, file_names="slice").counts["keep"] == 3
    uuids = CT.manifest().uuids
    known = transfer.read_records(tmp_path).newest().holders()
    assert sorted(known) == sorted(
        path.relative_to(tmp_path).as_posix() for path in first.paths
    )
    assert set(known.values()) == {
        path.stem for uuid in uuids for path in (BUCKET / uuid).iterdir()
    }
    shutil.rmtree(tmp_path / ".idc")
    assert CT.plan(tmp_path, file_names="slice").counts["replace"] == 3
    CT.materialize(tmp_path, file_names="slice")
    assert CT.plan(tmp_path, file_names="slice").counts["keep"] == 3


def test_the_longest_column_that_fits_is_meant():
    columns = [
        "Modality",
        "SeriesInstanceUID",
        "collection_id",
        "PatientID",
        "StudyInstanceUID",
    ]
    assert template_columns(DIR_TEMPLATE, columns) == [
        "collection_id",
        "PatientID",
        "StudyInstanceUID",
        "Modality",
        "SeriesInstanceUID",
    ]


def test_two_objects_never_get_one_path_whatever_the_case():
    one, two = Part("u1", "b"), Part("u2", "b")
    listed = [
        Listed([Instance(one, "u1/abc.dcm", 1, "x/u1/abc.dcm")]),
        Listed([Instance(two, "u2/ABC.dcm", 1, "x/u2/ABC.dcm")]),
    ]

    def planned(*folders: str):
        series = pa.table(
            {
                "crdc_series_uuid": ["u1", "u2"],
                "aws_bucket": ["b", "b"],
                "folder": list(folders),
                "instanceCount": [1, 1],
                "size": [1, 1],
            }
        )
        mirror = resolve_mirror(BUCKET)
        return make(series, listed, lambda _folder: {}, Path("/t"), mirror)

    plan = planned("", "")
    assert plan.counts == {"fetch": 0, "keep": 0, "replace": 0, "collide": 2}
    with pytest.raises(PlanError, match="would both be"):
        plan.check()
    assert planned("1", "2").counts["fetch"] == 2
