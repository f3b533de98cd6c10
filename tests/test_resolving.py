"""From what a manifest names to series of a release: nothing is lost silently."""

from __future__ import annotations

import itertools
import pickle
import uuid as uuids_of

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import DRS, require
from test_difference import write_tables
from test_drs import document

from intake_idc import open_idc, open_manifest
from intake_idc.arrow import pack_uuids
from intake_idc.errors import EmptySelection, ManifestError, RequestError, StorageError
from intake_idc.formats.reading import KINDS
from intake_idc.release import open_release
from intake_idc.release.database import forget
from intake_idc.release.listed import Members, find, members
from intake_idc.release.tables import find_tables


def u(number):
    """A uuid with a number in it."""
    return str(uuids_of.UUID(int=number, version=4))


def series(number, uuid, *, revised=1, study="1.9.1", patient="P1", count=2, **more):
    return {
        "collection_id": "here",
        "PatientID": patient,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"1.2.{number}",
        "crdc_series_uuid": u(uuid),
        "aws_bucket": "idc-open-data",
        "series_revised_idc_version": revised,
        "instanceCount": count,
        "series_size_MB": 1.0,
        "Modality": "CT",
        **more,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four releases: 1.2.2 is revised in 3, 1.2.5 is withdrawn with 3."""
    index = [
        series(1, 1),
        series(2, 22, revised=3),
        series(3, 3, patient="P2", study="1.9.2"),
        series(4, 4, patient="P1", study="1.9.4", collection_id="there"),
    ]
    prior = [
        {**row, "min_idc_version": 1, "max_idc_version": 2}
        for row in (series(2, 2), series(5, 5))
    ]
    for row in prior:
        for key in ("series_revised_idc_version", "instanceCount"):
            del row[key]
    return write_tables(tmp_path_factory.mktemp("resolving") / "t", 4, index, prior)


@pytest.fixture
def opened(place, tmp_path):
    """Open a text as a manifest of that archive."""

    def open_(text, **how):
        path = tmp_path / "manifest"
        path.write_text(text)
        return open_manifest(path, tables=place, **{"problems": "report", **how})

    return open_


def numbers(cohort):
    """The numbers of the uuids of a cohort, in order."""
    return [
        uuids_of.UUID(name).int & 0xFF
        for name in cohort.manifest(["crdc_series_uuid"]).uuids
    ]


def said(cohort):
    return [(p.line, p.rejected, p.reason) for p in cohort.problems]


def test_series_are_taken_in_the_order_of_their_lines(opened):
    cohort = opened(f"s3://idc-open-data/{u(4)}/*\ns3://idc-open-data/{u(1)}/*\n")
    assert numbers(cohort) == [4, 1]
    assert cohort.idc_version == 4
    assert cohort.problems == ()
    assert cohort.keys() == ["1.2.4", "1.2.1"]


def test_a_list_knows_every_column_of_its_release(opened, place):
    cohort = opened(f"{u(4)}\n{u(1)}\n")
    assert set(cohort.columns) == set(open_idc(4, tables=place).columns)
    assert cohort.search(collection_id="there").keys() == ["1.2.4"]
    assert cohort.df["SeriesInstanceUID"].tolist() == ["1.2.4", "1.2.1"]
    assert cohort.counts()["instances"] == 4


ANSWERS = {
    "rows": lambda cohort: sorted(cohort.manifest().table.to_pylist(), key=str),
    "a column": lambda cohort: cohort.unique("Modality"),
    "another column": lambda cohort: cohort.unique("Manufacturer"),
    "a condition": lambda cohort: sorted(cohort.query("instanceCount > 100").keys()),
    "counts": lambda cohort: cohort.counts(),
    "sources": lambda cohort: str(cohort.citations()),
}


@pytest.mark.parametrize("version", [25, 20])
@pytest.mark.parametrize(
    "answers", [[*ANSWERS], [*ANSWERS][::-1]], ids=["forwards", "backwards"]
)
def test_a_list_answers_as_a_search_does(version, answers):
    # Release 25 is the rows of one table, of 20 some rows are in another.
    whole = open_idc(version).search(collection_id=["rider_pilot", "htan_ohsu"])
    names = whole.manifest().uuids
    listed = open_manifest(list(reversed(names)), idc_version=version)
    assert listed.manifest().uuids == names[::-1]
    for name in answers:
        assert ANSWERS[name](listed) == ANSWERS[name](whole), name


def test_a_list_is_whole_whatever_was_asked_of_it_first():
    # A condition may name a column that is listed as well, and each is read once.
    asks = {
        "counts": lambda one: one.search(commercial_use=True).counts(),
        "modality": lambda one: one.search(Modality="CT").manifest(["Modality"]).digest,
        "licence": lambda one: one.manifest(["license_short_name"]).digest,
        "all": lambda one: one.manifest().table.to_pylist(),
    }
    uuids = open_idc(tables="sample").all().manifest().uuids

    def listed():
        return open_manifest(list(reversed(list(uuids))), tables="sample")

    alone = {name: repr(ask(listed())) for name, ask in asks.items()}
    for order in itertools.permutations(asks):
        one = listed()
        assert {name: repr(asks[name](one)) for name in order} == alone


def test_a_repeated_line_is_taken_once_and_said(opened):
    cohort = opened(f"{u(1)}\n{u(3)}\ns3://b/{u(1)}/*\n{u(1)}\n")
    assert numbers(cohort) == [1, 3]
    assert said(cohort) == [
        (3, False, "bucket 'b' is none of IDC's; the series is found by its uuid"),
        (3, False, "repeats line 1; taken once"),
        (4, False, "repeats line 1; taken once"),
    ]


def test_an_unknown_uuid_is_rejected(opened):
    cohort = opened(f"{u(1)}\ns3://idc-open-data/{u(99)}/*\n")
    assert numbers(cohort) == [1]
    ((line, rejected, reason),) = said(cohort)
    assert (line, rejected) == (2, True)
    assert "holds this series" in reason
    assert cohort.problems[0].text == f"s3://idc-open-data/{u(99)}/*"


def test_without_a_word_any_rejected_line_refuses_the_manifest(opened):
    with pytest.raises(ManifestError, match="1 lines cannot be used") as caught:
        opened(f"{u(1)}\n{u(99)}\n", problems="raise")
    assert caught.value.problems[0].line == 2


def test_a_manifest_of_nothing_is_empty(opened):
    with pytest.raises(EmptySelection, match="names no series"):
        opened("# nothing\n")
    with pytest.raises(EmptySelection, match="line 1"):
        opened(f"{u(99)}\n")


OF_2 = "# IDC Data Version(s): Imaging Data Commons Data Release Version 2.0 2026-01-02"


def test_superseded_bytes_are_resolved_and_said(opened):
    cohort = opened(f"{OF_2}\ns3://idc-open-data/{u(2)}/*\n")
    assert cohort.idc_version == 2
    assert numbers(cohort) == [2]
    assert cohort.problems == ()
    later = opened(f"s3://idc-open-data/{u(1)}/*\ns3://idc-open-data/{u(2)}/*\n")
    assert later.idc_version == 4
    assert numbers(later) == [1, 2]
    assert said(later) == [
        (2, False, "belongs to releases 1 to 2, not 4; its own bytes are taken")
    ]
    assert later.df["row_source"].tolist()[1] == "prior_versions_index"


def test_withdrawn_series_are_rejected_and_the_release_is_named(opened):
    cohort = opened(f"{u(1)}\ns3://idc-open-data/{u(5)}/*\n1.2.5\n")
    assert numbers(cohort) == [1]
    for _, rejected, reason in said(cohort):
        assert rejected
        assert "withdrawn with release 3" in reason
        assert "idc_version=2 takes it" in reason


UIDS = {
    "series": ("1.2.3\n1.2.1\n", [3, 1]),
    "a study, in the published order": ("1.9.1\n", [1, 22]),
    "both": ("1.9.1\n1.2.1\n1.2.3\n", [1, 22, 3]),
}


@pytest.mark.parametrize(("text", "expected"), UIDS.values(), ids=UIDS)
def test_bare_uids_are_series_or_studies(opened, text, expected):
    assert numbers(opened(text)) == expected


def test_a_uid_of_an_older_release_is_that_of_the_release(opened):
    assert numbers(opened("1.2.2\n", idc_version=2)) == [2]
    assert numbers(opened("1.2.2\n")) == [22]


def test_patients_are_found_in_every_collection_unless_one_is_named(place):
    table = pa.table({"PatientID": ["P1"]})
    assert numbers(open_manifest(table, tables=place)) == [1, 22, 4]
    table = pa.table({"PatientID": ["P1"], "collection_id": ["there"]})
    assert numbers(open_manifest(table, tables=place)) == [4]
    listed = open_manifest(["P2", "P1"], kind="PatientID", tables=place)
    assert numbers(listed) == [3, 1, 22, 4]


def test_an_unknown_patient_is_rejected_and_the_nearest_named(place):
    cohort = open_manifest(
        ["P2", "P22"], kind="PatientID", tables=place, problems="report"
    )
    assert said(cohort) == [
        (2, True, "release 4 has no PatientID 'P22'; did you mean 'P2'?")
    ]


def test_rows_may_name_releases_of_their_own(place):
    frame = pd.DataFrame(
        {"SeriesInstanceUID": ["1.2.2", "1.2.2"], "idc_version": ["2.0", "4.0"]}
    )
    cohort = open_manifest(frame, tables=place)
    assert cohort.idc_version == 4
    assert numbers(cohort) == [2, 22]
    assert [p.rejected for p in cohort.problems] == [False]


def test_a_row_of_a_release_that_is_not_known_is_rejected(place):
    frame = pd.DataFrame(
        {"SeriesInstanceUID": ["1.2.1", "1.2.2"], "idc_version": ["9.0", "4.0"]}
    )
    cohort = open_manifest(frame, idc_version=4, tables=place, problems="report")
    assert numbers(cohort) == [22]
    assert "is of release 9" in cohort.problems[0].reason


def test_a_row_whose_names_contradict_each_other_is_rejected(place):
    frame = pd.DataFrame(
        {
            "SeriesInstanceUID": ["1.2.1", "1.2.4"],
            "crdc_series_uuid": [u(1), u(3)],
        }
    )
    cohort = open_manifest(frame, tables=place, problems="report")
    assert numbers(cohort) == [1]
    ((line, rejected, reason),) = said(cohort)
    assert (line, rejected) == (2, True)
    assert "1.2.3" in reason
    assert "1.2.4" in reason


def test_all_objects_by_uid_are_the_series_and_some_are_rejected(opened):
    v1 = "gs://idc-tcia-here/dicom/1.9.1/{}/{}.dcm#1"
    whole = "\n".join(v1.format("1.2.1", f"1.7.{i}") for i in (1, 2))
    cohort = opened(whole)
    assert numbers(cohort) == [1]
    part = opened(f"{u(3)}\n{v1.format('1.2.1', '1.7.1')}\n")
    assert numbers(part) == [3]
    assert "1 objects by SOPInstanceUID of a series that has 2" in said(part)[0][2]


def test_objects_of_a_series_are_one_row(opened):
    lines = [f"s3://idc-open-data/{u(1)}/{u(i)}.dcm" for i in (7, 6, 7)]
    cohort = opened("\n".join(lines) + f"\n{u(3)}\n")
    assert numbers(cohort) == [1, 3]
    only = cohort.manifest().table.column("only").to_pylist()
    assert only == [[uuids_of.UUID(u(i)).bytes for i in (6, 7)], None]
    assert said(cohort) == [(3, False, "repeats line 1; taken once")]


def test_a_series_named_whole_and_by_object_is_whole(opened):
    cohort = opened(f"s3://idc-open-data/{u(1)}/{u(7)}.dcm\n{u(1)}\n")
    assert "only" not in cohort.columns
    assert said(cohort) == [(1, False, "its whole series is named, too; taken once")]


def test_an_object_whose_series_nobody_tells_is_rejected(opened):
    cohort = opened(f"{u(1)}\ngs://public-datasets-idc/{u(7)}.dcm\n")
    assert numbers(cohort) == [1]
    assert "objects=" in cohort.problems[0].reason


def test_parts_of_a_manifest_are_one_cohort(place, tmp_path):
    first, second = tmp_path / "m_Part1.s5cmd", tmp_path / "m_Part2.s5cmd"
    first.write_text(f"{u(1)}\n{u(99)}\n")
    second.write_text(f"{u(1)}\n{u(3)}\n")
    cohort = open_manifest([first, second], tables=place, problems="report")
    assert numbers(cohort) == [1, 3]
    problems = [(p.part, p.line, p.rejected) for p in cohort.problems]
    assert problems == [(str(first), 2, True), (str(second), 1, False)]
    assert f"repeats line 1 of {first}" in cohort.problems[1].reason


def test_a_cohort_of_a_list_travels(opened):
    cohort = opened(f"{u(4)}\n{u(2)}\n", idc_version=2)
    again = pickle.loads(pickle.dumps(cohort))
    assert again == cohort
    assert again.manifest() == cohort.manifest()


# What repeats, and what is said of it once.


def test_a_patient_that_is_named_again_is_said_to_repeat_once(place):
    again = ["P1", "P2", "P1", "P1"]
    cohort = open_manifest(again, kind="PatientID", tables=place)
    assert numbers(cohort) == [1, 22, 4, 3]
    assert said(cohort) == [
        (3, False, "repeats line 1; taken once"),
        (4, False, "repeats line 1; taken once"),
    ]


def test_a_patient_of_two_collections_is_named_twice(place):
    table = pa.table({"PatientID": ["P1"] * 3, "collection_id": ["there", None, "no"]})
    cohort = open_manifest(table, tables=place, problems="report")
    assert numbers(cohort) == [4, 1, 22]
    assert said(cohort) == [
        (2, False, "in part repeats line 1; taken once"),
        (3, True, "release 4 has no PatientID 'P1' in collection 'no'"),
    ]


def test_an_unknown_name_is_rejected_wherever_it_is(place):
    patients = ["X", "P1", "X"]
    cohort = open_manifest(patients, kind="PatientID", tables=place, problems="report")
    assert [(p.line, p.rejected) for p in cohort.problems] == [(1, True), (3, True)]


def test_studies_by_uuid_alone_are_rejected_each(place):
    table = pa.table({"crdc_study_uuid": [u(1), u(2)], "PatientID": [None, "P2"]})
    with pytest.raises(EmptySelection) as caught:
        open_manifest(table, tables=place, problems="report")
    problems = caught.value.details["problems"]
    assert [(p.line, p.rejected) for p in problems] == [(1, True), (2, True)]


def test_a_release_that_nobody_knows_is_an_error_of_the_manifest(opened):
    header = "# IDC Data Version(s): Imaging Data Commons Data Release Version 9.0 x"
    with pytest.raises(ManifestError, match="says that it is of release 9"):
        opened(f"{header}\n{u(1)}\n")
    assert numbers(opened(f"{header}\n{u(1)}\n", idc_version=4)) == [1]


def test_names_are_looked_up_in_parts_as_in_one(place, monkeypatch):
    from intake_idc.release import listed

    names = ["1.2.3", "1.2.1", "1.2.99", "1.2.2"]
    table = pa.table({"SeriesInstanceUID": names[:2], "crdc_series_uuid": [u(3), u(2)]})
    monkeypatch.setattr(listed, "TOGETHER", 1)
    cohort = open_manifest(names, tables=place, problems="report")
    assert numbers(cohort) == [3, 1, 22]
    assert [p.line for p in cohort.problems] == [3]
    with pytest.raises(ManifestError, match="names two series") as caught:
        open_manifest(table, tables=place)
    assert [p.line for p in caught.value.problems] == [2]


# Anything at all, from end to end.

LINES = (
    *("cp s3://idc-open-data/{0}/* .", 'cp s3://idc-open-data/{0}/* "/d/{1}"'),
    *("s3://idc-open-data/{0}/{1}.dcm", "gs://public-datasets-idc/{0}.dcm"),
    *("drs://dg.4DFC:{0}", "{0}", "cp s3://elsewhere/{0}/* .", "rm s3://b/{0}/*"),
    *("gs://idc-tcia-x/dicom/1.9.1/1.2.1/1.3.dcm", "1.2.1", "1.2.5", "1.9.1", "1.2.99"),
    *("1.2.1,2.0", "{0},1.2.1,P1", "P1", '{{"crdc_series_uuid": "{0}"}}', "f0_"),
    *('[{{"SeriesInstanceUID": "1.2.1"}}, "{0}"]', "SeriesInstanceUID,idc_version"),
    *("crdc_series_uuid,SeriesInstanceUID,PatientID", "crdc_study_uuid", "# nothing"),
    *("# IDC Data Version(s): Version 2.0", "# IDC Data Version(s): Version 77.0"),
    *("downloadServerUrl=x", "ListOfSeriesToDownload=", '"', "\ufeff", "\0", "\u2028"),
)
some_names = st.sampled_from([u(number) for number in (1, 2, 3, 4, 5, 22, 99)])
any_lines = st.lists(
    st.builds(str.format, st.sampled_from(LINES), some_names, some_names), max_size=10
)
written = st.builds(
    lambda lines, end, code: end.join(lines).encode(code),
    any_lines,
    st.sampled_from(["\n", "\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-16-le"]),
)


@given(
    st.one_of(written, written, st.binary(max_size=100)),
    st.sampled_from([None, None, *KINDS]),
    st.sampled_from(["m", "m.csv", "m.json", "m.s5cmd"]),
)
def test_any_bytes_of_any_kind_are_a_cohort_or_an_error_of_theirs(
    place, tmp_path_factory, data, kind, name
):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    found = opened_or_refused(path, tables=place, kind=kind, problems="report")
    again = pickle.loads(pickle.dumps(found))
    if isinstance(found, Exception):
        assert (str(again), again.details) == (str(found), found.details)
    else:
        assert again == found
        assert len(found) == len(found.manifest())


def opened_or_refused(path, **how):
    """The cohort, or the error: one of the three that say what a file is."""
    try:
        return open_manifest(path, **how)
    except (ManifestError, EmptySelection, StorageError) as error:
        return error


@settings(max_examples=25)
@given(any_lines)
def test_without_its_rejected_lines_a_manifest_is_the_same(
    place, tmp_path_factory, texts
):
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_text("\n".join(texts))
    cohort = opened_or_refused(path, kind="lines", tables=place, problems="report")
    if isinstance(cohort, ManifestError):
        assert "release 77" in str(cohort)
        return
    if isinstance(cohort, EmptySelection):
        rejected = {p.line for p in cohort.details["problems"] if p.rejected}
        blank = {
            number
            for number, text in enumerate(texts, 1)
            if text in ("f0_", "\ufeff", "\u2028") or text.startswith("#")
        }
        assert {*range(1, len(texts) + 1)} - blank <= rejected
        return
    rejected = {p.line for p in cohort.problems if p.rejected}
    kept = [text for number, text in enumerate(texts, 1) if number not in rejected]
    path.write_text("\n".join(kept))
    again = open_manifest(path, kind="lines", tables=place)
    assert numbers(again) == numbers(cohort)
    assert len(again.problems) == len(cohort.problems) - len(
        [p for p in cohort.problems if p.line in rejected]
    )


# Look-ups in bulk.

some = st.lists(st.integers(0, 40), max_size=30)


@given(st.lists(st.integers(0, 40), max_size=30, unique=True), some, st.booleans())
def test_a_look_up_in_bulk_is_one_in_a_dict(held, asked, same_half):
    def packed(values):
        shift = 0 if same_half else 100
        names = [str(uuids_of.UUID(int=value << shift)) for value in values]
        return pack_uuids(pa.array(names, pa.string()))[0]

    places = {value: place for place, value in enumerate(held)}
    found = Members(packed(held)).find(packed(asked))
    assert found.tolist() == [places.get(value, -1) for value in asked]


def test_every_series_of_a_release_is_among_its_members():
    release = open_release(20)
    table = release.table(["crdc_series_uuid"], open_idc(20).selection)
    uuids = table.column(0).combine_chunks()
    packed, _ = pack_uuids(uuids if isinstance(uuids, pa.Array) else uuids.chunk(0))
    places = members(release).find(packed)
    assert len(set(places.tolist())) == len(places) == len(members(release))
    assert places.min() == 0


# Single objects, by what tells their series.


@pytest.fixture
def table(tmp_path):
    """A table of the objects of two series, and of a series that was revised."""
    rows = [
        (u(1), u(7), "1.7.7"),
        (u(1), u(6), "1.7.6"),
        (u(2), u(8), "1.7.8"),
        (u(22), u(8), "1.7.8"),
    ]
    names = ("crdc_series_uuid", "crdc_instance_uuid", "SOPInstanceUID")
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    path = tmp_path / "objects.parquet"
    pq.write_table(table, path)
    return path


def meant(cohort):
    """The series by number, and the numbers of the objects that are meant of each."""
    table = cohort.manifest().table
    only = table.column("only").to_pylist()
    return {
        number: None
        if some is None
        else [uuids_of.UUID(bytes=i).int & 0xFF for i in some]
        for number, some in zip(numbers(cohort), only, strict=True)
    }


TOLD = {
    "a flat object": f"gs://public-datasets-idc/{u(7)}.dcm",
    "a DRS identifier": f"drs://dg.4DFC:{u(7)}",
    "a bare uuid": u(7),
    "a bare UID": "1.7.7",
    "release 1": "gs://idc-tcia-here/dicom/1.9.1/1.2.1/1.7.7.dcm",
}


@pytest.mark.parametrize("line", TOLD.values(), ids=TOLD)
def test_a_table_of_objects_tells_their_series(opened, table, line):
    cohort = opened(f"{line}\n", objects=table)
    assert meant(cohort) == {1: [7]}
    assert cohort.problems == ()
    assert cohort.counts()["instances"] == 1


def test_an_object_of_two_series_is_of_that_of_the_release(opened, table):
    assert meant(opened(f"{u(8)}\n", objects=table)) == {22: [8]}
    assert meant(opened(f"{u(8)}\n", objects=table, idc_version=2)) == {2: [8]}


def test_a_table_that_disagrees_about_a_series_is_not_followed(opened, table):
    wrong = "gs://idc-tcia-here/dicom/1.9.2/1.2.3/1.7.7.dcm"
    cohort = opened(f"{u(1)}\n{wrong}\n", objects=table)
    assert numbers(cohort) == [1]
    assert "1 objects by SOPInstanceUID" in cohort.problems[0].reason


def test_an_object_by_uid_alone_needs_a_table(place, table):
    frame = pa.table({"SOPInstanceUID": ["1.7.6", "1.7.99"]})
    cohort = open_manifest(frame, tables=place, objects=table, problems="report")
    assert meant(cohort) == {1: [6]}
    assert [(p.line, p.rejected) for p in cohort.problems] == [(2, True)]


def test_the_drs_server_is_asked_where_it_is_named(opened):
    require(DRS)
    with DRS() as server:
        held, unknown = u(41), u(42)
        server.hold({held: document(held, u(3))})
        text = f"dg.4DFC/{held}\ndg.4DFC/{unknown}\n"
        cohort = opened(text, drs=f"http://127.0.0.1:{server.port}")
    assert meant(cohort) == {3: [41]}
    ((line, rejected, reason),) = said(cohort)
    assert (line, rejected) == (2, True)
    assert "is not known to" in reason


@pytest.mark.parametrize("drs", [1, "ftp://host", "http://example.org"])
def test_what_is_no_drs_server_is_refused(opened, drs):
    with pytest.raises(RequestError):
        opened(f"dg.4DFC/{u(41)}\n", drs=drs)


@given(st.lists(st.integers(0, 8), max_size=20), st.booleans())
def test_a_few_names_are_found_as_many_are(place, asked, many):
    release = open_release(4, place)
    forget(find_tables(place))
    if many:
        members(release)
    names = pa.array([u(number) for number in asked], pa.string())
    found = find(release, pack_uuids(names)[0]).tolist()
    held = {1, 3, 4, 22}
    assert [number >= 0 for number in found] == [number in held for number in asked]
    same = {(a, b) for a, b in zip(asked, found, strict=True) if b >= 0}
    assert len(same) == len({a for a, _ in same}) == len({b for _, b in same})
