"""The right old bytes: by uuid, by series and release, by an old manifest."""

from __future__ import annotations

import pickle

import pytest
from test_difference import write_tables

import intake_idc
from intake_idc import (
    History,
    open_idc,
    open_manifest,
    open_release,
    open_series,
)
from intake_idc.errors import (
    EmptySelection,
    ManifestError,
    MissingError,
    RequestError,
    SeriesWithdrawn,
    UnknownValue,
)
from intake_idc.release.facts import exceptions
from intake_idc.release.history import runs

SAMPLE = open_idc(2, tables="sample")
DIFFERENCE = SAMPLE.diff(1)
(REVISED,) = DIFFERENCE.revised
(WITHDRAWN,) = DIFFERENCE.removed
ADDED = DIFFERENCE.added[0]
ROWS = {row["SeriesInstanceUID"]: row for row in DIFFERENCE.table.to_pylist()}

MRI = exceptions().rebuilt_only[0].uuids[0]
"""A uuid that was in release 2, was away from 17 to 24, and is back in 25."""
CPTAC = exceptions().published_only[0]
"""A series that was withdrawn with release 19 without trace in the tables."""


def spans(history):
    return [(x.first_idc_version, x.last_idc_version) for x in history.lives]


# The life of a series.


def test_a_history_tells_every_uuid_of_a_series_with_its_releases():
    history = SAMPLE.release.history(REVISED)
    row = ROWS[REVISED]
    assert [life.crdc_series_uuid for life in history.lives] == [
        row["old_crdc_series_uuid"],
        row["new_crdc_series_uuid"],
    ]
    assert spans(history) == [(1, 1), (2, 2)]
    assert [life.size for life in history.lives] == [row["old_bytes"], row["new_bytes"]]
    assert {life.aws_bucket for life in history.lives} == {"intake-idc-sample"}
    assert history.withdrawn is None
    assert history.at(1) == history.lives[0]
    for uuid in (row["old_crdc_series_uuid"], row["new_crdc_series_uuid"]):
        assert intake_idc.history(uuid, tables="sample") == history


def test_a_history_says_when_a_series_went_and_when_it_came():
    gone = SAMPLE.release.history(WITHDRAWN)
    assert (spans(gone), gone.withdrawn, gone.at(2)) == ([(1, 1)], 2, None)
    assert "withdrawn with release 2" in str(gone)
    assert spans(SAMPLE.release.history(ADDED)) == [(2, 2)]
    assert SAMPLE.release.history(ADDED).absence(1) == "it came with release 2"


def test_a_gap_that_two_columns_cannot_express_is_in_the_history():
    history = intake_idc.history(MRI)
    assert spans(history)[-2:] == [(2, 16), (25, 25)]
    assert {life.crdc_series_uuid for life in history.lives} == {MRI}
    assert history.withdrawn is None
    assert history.at(20) is None
    assert history.absence(20) == (
        "it was withdrawn with release 17, and is back in release 25"
    )
    assert history.releases == "releases 2 to 16 and 25"


def test_a_series_that_the_tables_have_forgotten_has_its_history():
    history = intake_idc.history(CPTAC["SeriesInstanceUID"])
    assert spans(history) == [(17, 18)]
    assert history.withdrawn == 19
    assert history.lives[0].aws_bucket == "idc-open-data-two"


def test_a_history_agrees_with_every_release():
    uids = open_idc(20).search(collection_id="nlst", Modality="SM").keys()[:3]
    for uid in (*uids, intake_idc.history(MRI).SeriesInstanceUID):
        history = intake_idc.history(uid)
        for version in (2, 8, 9, 10, 16, 17, 20, 24, 25):
            found = open_release(version).rows(
                ["crdc_series_uuid"],
                open_idc(version).search(SeriesInstanceUID=uid).selection,
                strict=False,
            )
            life = history.at(version)
            assert [row[0] for row in found] == (
                [life.crdc_series_uuid] if life else []
            )


def test_the_bucket_of_the_latest_release_is_where_bytes_lie(tmp_path):
    rows = [
        {"aws_bucket": bucket, "min_idc_version": first, "max_idc_version": last}
        for bucket, first, last in (("new", 2, 3), ("old", 1, 1))
    ]
    uuid, other = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "ab")
    names = {"SeriesInstanceUID": "1", "crdc_series_uuid": uuid}
    index = [{"SeriesInstanceUID": "2", "crdc_series_uuid": other}]
    place = write_tables(tmp_path / "t", 4, index, [{**names, **row} for row in rows])
    assert open_release(4, place).history(uuid).lives[0].aws_bucket == "new"
    assert spans(open_release(4, place).history(uuid)) == [(1, 3)]
    for cohort in (
        open_idc(1, tables=place).search(SeriesInstanceUID="1"),
        open_series(crdc_series_uuid=uuid, tables=place),
    ):
        assert cohort.urls() == [f"s3://new/{uuid}/"]


def test_no_uuid_of_the_published_tables_lies_in_two_buckets():
    release = open_release()
    buckets = {}
    for table in ("idc_index", "prior_versions_index"):
        found = release.index_table(table, ["crdc_series_uuid", "aws_bucket"])
        for row in set(zip(*found.to_pydict().values(), strict=True)):
            buckets.setdefault(row[0], set()).add(row[1])
    assert [uuid for uuid, names in buckets.items() if len(names) > 1] == []


def test_a_history_is_a_value_that_shows_itself():
    history = SAMPLE.release.history(REVISED)
    assert pickle.loads(pickle.dumps(history)) == history
    assert "releases  crdc_series_uuid" in str(history)
    assert "there in release 2" in str(history)
    odd = History("<b>", "<i>", history.lives, 2)
    assert "<b>" not in odd._repr_html_()
    assert "&lt;i&gt;" in odd._repr_html_()


def test_what_no_release_holds_has_no_history():
    with pytest.raises(UnknownValue, match="holds a series named"):
        intake_idc.history("1.2.3")


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], []),
        ([3], [(3, 3)]),
        ([2, 3, 25, 1], [(1, 3), (25, 25)]),
        ([1, 1, 2], [(1, 2)]),
    ],
)
def test_runs_are_of_neighbours(versions, expected):
    assert runs(versions) == expected


# Series by name.


def test_a_superseded_uuid_opens_the_bytes_that_it_names():
    old = ROWS[REVISED]["old_crdc_series_uuid"]
    cohort = open_series(crdc_series_uuid=old.upper(), tables="sample")
    assert cohort.idc_version == 1
    assert cohort.problems == ()
    assert cohort.manifest().uuids == [old]
    assert cohort.keys() == [REVISED]
    numbers = sorted(int(d.InstanceNumber) for d in cohort.datasets().compute())
    assert numbers == [16, 17]


def test_a_series_and_a_release_open_the_bytes_of_that_release():
    for version, count in ((1, 2), (2, 3)):
        cohort = open_series(
            SeriesInstanceUID=REVISED, idc_version=version, tables="sample"
        )
        assert cohort.manifest().uuids == [
            SAMPLE.release.history(REVISED).at(version).crdc_series_uuid
        ]
        assert len(cohort.datasets().compute()) == count


def test_series_come_in_the_order_asked_and_once_each():
    uids = SAMPLE.keys()
    order = [uids[2], uids[0], uids[2], uids[3]]
    cohort = open_series(SeriesInstanceUID=order, tables="sample")
    assert cohort.keys() == [uids[2], uids[0], uids[3]]
    (problem,) = cohort.problems
    assert (problem.line, problem.reason) == (3, "repeats item 1; taken once")
    assert cohort.idc_version == 2
    many = open_idc(25).search(collection_id="rider_pilot")
    uuids = many.manifest().uuids[::-1]
    assert open_series(crdc_series_uuid=uuids).manifest().uuids == uuids
    assert pickle.loads(pickle.dumps(cohort)) == cohort


def test_uuids_that_no_one_release_holds_are_taken_with_a_remark():
    row = ROWS[REVISED]
    uuids = [row["new_crdc_series_uuid"], row["old_crdc_series_uuid"]]
    cohort = open_series(crdc_series_uuid=uuids, tables="sample")
    assert cohort.idc_version == 2
    assert cohort.manifest().uuids == uuids
    (problem,) = cohort.problems
    assert problem.reason == "belongs to release 1, not 2; its own bytes are taken"


def test_a_superseded_row_has_the_attributes_that_its_release_shows():
    slides = open_idc(20).search(collection_id="nlst", Modality="SM")
    uuids = slides.search(row_source="prior_versions_index").manifest().uuids[:3]
    for version in (20, 25):
        listed = open_series(crdc_series_uuid=uuids, idc_version=version)
        assert listed.licenses() == {"CC BY 3.0": 3}
        assert listed.table.column("instanceCount").null_count == 3


@pytest.mark.parametrize("key", ["SeriesInstanceUID", "crdc_series_uuid"])
def test_a_withdrawn_series_is_an_error_that_says_when_it_went(key):
    name = (
        WITHDRAWN
        if key == "SeriesInstanceUID"
        else (ROWS[WITHDRAWN]["old_crdc_series_uuid"])
    )
    with pytest.raises(SeriesWithdrawn, match="withdrawn with release 2") as caught:
        open_series(**{key: name}, idc_version=2, tables="sample")
    error = caught.value
    assert isinstance(error, MissingError)
    assert error.exit_code == 4
    assert error.details["last_idc_version"] == 1
    assert error.details["SeriesInstanceUID"] == WITHDRAWN
    assert f"open_series({key}={name!r}, idc_version=1)" in str(error)
    assert len(open_series(**{key: name}, idc_version=1, tables="sample")) == 1


def test_a_series_that_came_later_is_an_error_that_says_when():
    with pytest.raises(SeriesWithdrawn, match="came with release 2") as caught:
        open_series(SeriesInstanceUID=ADDED, idc_version=1, tables="sample")
    assert caught.value.details["last_idc_version"] is None
    uid = intake_idc.history(MRI).SeriesInstanceUID
    with pytest.raises(SeriesWithdrawn, match=r"back in release 25; .*idc_version=16"):
        open_series(SeriesInstanceUID=uid, idc_version=20)


def test_what_is_no_name_of_a_series_is_refused():
    for arguments, error in (
        ({}, EmptySelection),
        ({"SeriesInstanceUID": []}, EmptySelection),
        ({"SeriesInstanceUID": "1", "crdc_series_uuid": "2"}, RequestError),
        ({"SeriesInstanceUID": [1]}, RequestError),
        ({"SeriesInstanceUID": 1}, RequestError),
        ({"SeriesInstanceUID": ["1.2.3", REVISED]}, UnknownValue),
        ({"crdc_series_uuid": "1.2.3"}, UnknownValue),
    ):
        with pytest.raises(error):
            open_series(**arguments, tables="sample")


# What a release says of a series that it does not hold.


@pytest.mark.parametrize(
    ("version", "column", "name", "expected"),
    [
        (
            25,
            "crdc_series_uuid",
            CPTAC["crdc_series_uuid"],
            "withdrawn with release 19",
        ),
        (25, "SeriesInstanceUID", CPTAC["SeriesInstanceUID"], "releases 17 to 18"),
        (20, "crdc_series_uuid", MRI, "of releases 2 to 16 and 25"),
        (25, "SeriesInstanceUID", "1.2.3", "nor does any release"),
    ],
)
def test_a_search_for_a_series_that_is_not_there_says_where_it_is(
    version, column, name, expected
):
    with pytest.raises(UnknownValue, match=expected):
        open_idc(version).search(**{column: name}).keys()


def test_a_search_for_a_superseded_uuid_names_its_successor():
    row = ROWS[REVISED]
    old = SAMPLE.search(crdc_series_uuid=row["old_crdc_series_uuid"])
    with pytest.raises(UnknownValue, match=row["new_crdc_series_uuid"]) as caught:
        old.keys()
    assert "of release 1" in str(caught.value)


# Manifests.


def manifest_of(path, *uuids, release=None, bucket="public-datasets-idc"):
    lines = [f"cp s3://{bucket}/{uuid}/* .\n" for uuid in uuids]
    if release is not None:
        named = f"Imaging Data Commons Data Release Version {release}.0"
        lines.insert(0, f"# IDC Data Version(s): {named}\n")
    path.write_text("".join(lines))
    return path


def test_a_manifest_rejects_what_its_release_no_longer_holds(tmp_path):
    old, gone = (ROWS[uid]["old_crdc_series_uuid"] for uid in (REVISED, WITHDRAWN))
    path = manifest_of(tmp_path / "m.s5cmd", gone, old)
    with pytest.raises(ManifestError, match="withdrawn with release 2") as caught:
        open_manifest(path, tables="sample")
    assert [p.line for p in caught.value.problems if p.rejected] == [1]
    taken = open_manifest(path, tables="sample", problems="report")
    assert taken.manifest().uuids == [old]
    assert [p.rejected for p in taken.problems] == [True, False]
    assert "belongs to release 1, not 2" in taken.problems[1].reason
    named = open_manifest(path, tables="sample", idc_version=1)
    assert named.manifest().uuids == [gone, old]
    assert named.problems == ()


def test_a_manifest_is_judged_at_the_release_that_its_header_names(tmp_path):
    path = manifest_of(tmp_path / "m.s5cmd", CPTAC["crdc_series_uuid"], release=18)
    assert open_manifest(path).idc_version == 18
    assert open_manifest(path).problems == ()
    path = manifest_of(tmp_path / "n.s5cmd", MRI, release=20)
    with pytest.raises(
        ManifestError, match="releases 2 to 16 and 25: it was withdrawn"
    ):
        open_manifest(path)
    assert len(open_manifest(path, idc_version=25)) == 1
    path = manifest_of(
        tmp_path / "o.s5cmd", ROWS[ADDED]["new_crdc_series_uuid"], release=1
    )
    with pytest.raises(ManifestError, match="came with release 2"):
        open_manifest(path, tables="sample")


def test_a_manifest_of_several_releases_may_name_what_one_of_them_held(tmp_path):
    gone = ROWS[WITHDRAWN]["old_crdc_series_uuid"]
    path = manifest_of(tmp_path / "m.s5cmd", gone)
    version = "Imaging Data Commons Data Release Version"
    header = f"# IDC Data Version(s): {version} 1.0; {version} 2.0\n"
    path.write_text(header + path.read_text())
    cohort = open_manifest(path, tables="sample")
    assert cohort.idc_version == 2
    assert cohort.manifest().uuids == [gone]
    assert "its own bytes are taken" in cohort.problems[0].reason


@pytest.mark.parametrize(
    "bucket",
    ["public-datasets-idc", "idc-open-cr", "idc-open-idc1", "idc-open-data-cr"],
)
def test_a_retired_bucket_in_a_manifest_is_not_used(tmp_path, bucket):
    moved = open_idc(23).search(collection_id="phantom_fda").manifest().uuids[:2]
    cohort = open_manifest(
        manifest_of(tmp_path / "m.s5cmd", *moved, release=23, bucket=bucket)
    )
    assert cohort.idc_version == 23
    assert cohort.urls() == [f"s3://idc-open-data/{uuid}/" for uuid in moved]


def test_a_package_that_names_an_old_bucket_is_read_where_the_bytes_lie(tmp_path):
    moved = open_idc(25).search(collection_id="phantom_fda").table.slice(0, 2)
    rows = [
        {
            name: row[name]
            for name in ("SeriesInstanceUID", "crdc_series_uuid", "collection_id")
        }
        | {"aws_bucket": "idc-open-data-cr"}
        for row in moved.to_pylist()
    ]
    place = write_tables(tmp_path / "t", 23, rows)
    cohort = open_idc(23, tables=place)
    assert cohort.unique("aws_bucket") == ["idc-open-data-cr"]
    uuids = [row["crdc_series_uuid"] for row in rows]
    expected = sorted(f"s3://idc-open-data/{uuid}/" for uuid in uuids)
    assert sorted(cohort.all().urls()) == expected
    assert sorted(open_series(crdc_series_uuid=uuids, tables=place).urls()) == expected
