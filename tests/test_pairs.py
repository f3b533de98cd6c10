"""Images and annotations: complete groups, and what is of what, told by whom."""

from __future__ import annotations

import io
import itertools
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from test_difference import write_tables

from intake_idc import dicom, open_idc
from intake_idc.errors import (
    DicomReadError,
    EmptySelection,
    RequestError,
    TableNotFound,
    UnknownColumn,
    UnknownValue,
)

PILOT = open_idc(25).search(collection_id="rider_pilot")
SAMPLE = open_idc(2, tables="sample")

# Complete groups.


def test_studies_that_have_images_and_segmentations():
    found = PILOT.require_all_on("StudyInstanceUID", Modality=["CT", "SEG"])
    groups = {}
    for study, modality in PILOT.rows.rows(
        ["StudyInstanceUID", "Modality"], PILOT.selection
    ):
        groups.setdefault(study, set()).add(modality)
    whole = {study for study, has in groups.items() if {"CT", "SEG"} <= has}
    assert set(found.unique("StudyInstanceUID")) == whole
    assert found.unique("Modality") == ["CT", "SEG"]
    expected = PILOT.search(Modality=["CT", "SEG"]).table.to_pylist()
    expected = [
        x["SeriesInstanceUID"] for x in expected if x["StudyInstanceUID"] in whole
    ]
    assert found.keys() == expected


VALUES = st.tuples(
    st.sampled_from(["1.1", "1.2", "1.3", None]),
    st.sampled_from(["CT", "MR", "SEG"]),
    st.sampled_from(["LUNG", "LIVER", None]),
    st.sampled_from(["c", "d"]),
)
ITEMS = {
    "Modality": st.sets(
        st.sampled_from(["CT", "SEG", re.compile("^C|^M")]), min_size=1
    ),
    "BodyPart": st.sets(st.sampled_from(["LUNG", "LIVER", None]), min_size=1),
}


def fulfils(value, item):
    if item is None or value is None:
        return item is value
    return bool(item.search(value)) if isinstance(item, re.Pattern) else item == value


@settings(max_examples=25)
@given(
    st.lists(VALUES, min_size=1, max_size=12),
    st.fixed_dictionaries({}, optional=ITEMS).filter(bool),
    st.sampled_from([["StudyInstanceUID"], ["collection_id", "StudyInstanceUID"]]),
)
def test_every_group_has_every_combination(rows, asked, on):
    # A value that no series has is an error of the question; so all are there once.
    every = itertools.product([None], ["CT", "MR", "SEG"], ["LUNG", "LIVER", None], "c")
    rows = [*rows, *every]
    names = ("StudyInstanceUID", "Modality", "BodyPart", "collection_id")
    index = [
        {
            **dict(zip(names, row, strict=True)),
            "SeriesInstanceUID": f"2.{i}",
            "crdc_series_uuid": f"00000000-0000-4000-8000-{i:012}",
        }
        for i, row in enumerate(rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        tables = write_tables(Path(folder) / "tables", 1, index)
        whole = open_idc(1, tables=str(tables))
        items = {column: list(values) for column, values in asked.items()}
        found = set(whole.require_all_on(on, **items).keys())
    narrowed = [
        row
        for row in index
        if all(any(fulfils(row[c], x) for x in xs) for c, xs in items.items())
    ]
    groups = {}
    for row in narrowed:
        groups.setdefault(tuple(row[key] for key in on), []).append(row)
    expected = {
        row["SeriesInstanceUID"]
        for key, group in groups.items()
        if None not in key
        and all(
            any(
                all(fulfils(row[c], x) for c, x in zip(items, combined, strict=True))
                for row in group
            )
            for combined in itertools.product(*items.values())
        )
        for row in group
    }
    assert found == expected


def test_a_group_that_is_asked_for_wrongly_is_refused():
    with pytest.raises(UnknownColumn, match="'StudyInstanceUID'"):
        PILOT.require_all_on("StudyInstanceUid", Modality="CT")
    with pytest.raises(UnknownColumn, match="'Modality'"):
        PILOT.require_all_on("StudyInstanceUID", Modalty="CT")
    with pytest.raises(UnknownValue, match="'SGE'"):
        PILOT.require_all_on("StudyInstanceUID", Modality=["CT", "SGE"])
    with pytest.raises(EmptySelection, match="no filter"):
        PILOT.require_all_on("StudyInstanceUID")
    with pytest.raises(RequestError, match="must have"):
        PILOT.require_all_on("Modality", Modality=["CT", "SEG"])
    with pytest.raises(RequestError, match="column or columns"):
        PILOT.require_all_on([], Modality="CT")
    for on in (5, [None], {"StudyInstanceUID"}):
        with pytest.raises(RequestError, match="on is a text or a list of texts"):
            PILOT.require_all_on(on, Modality="CT")


def test_a_group_that_nobody_completes_is_an_empty_list():
    # A study of one series has one modality.
    assert len(PILOT.require_all_on("SeriesInstanceUID", Modality=["CT", "SEG"])) == 0


# Headers.


def item(**elements):
    """Make a dataset of these elements."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def referring(keyword, uids):
    return {keyword: [item(SeriesInstanceUID=uid) for uid in uids]}


def annotation(modality, uids, *, bulk=0):
    """Make an annotation of these series, as each kind says it."""
    made = item(
        SOPInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        Modality=modality,
        PatientName="Nobody",
    )
    if modality == "RTSTRUCT":
        studies = [item(**referring("RTReferencedSeriesSequence", uids))]
        frame = item(RTReferencedStudySequence=studies)
        made.ReferencedFrameOfReferenceSequence = [frame]
        contours = [item(ContourData=["1.5"] * 1000) for _ in range(bulk // 4000)]
        made.ROIContourSequence = [item(ContourSequence=contours)]
    elif modality == "SR":
        first, second = uids[:1], uids[1:]
        current = [item(**referring("ReferencedSeriesSequence", first))]
        made.CurrentRequestedProcedureEvidenceSequence = current
        if second:
            other = [item(**referring("ReferencedSeriesSequence", second))]
            made.PertinentOtherEvidenceSequence = other
        made.ContentSequence = [item(TextValue="x" * bulk)]
    else:
        first, second = uids[:1], uids[1:]
        made.ReferencedSeriesSequence = [item(SeriesInstanceUID=u) for u in first]
        if second:
            other = [item(**referring("ReferencedSeriesSequence", second))]
            made.StudiesContainingOtherReferencedInstancesSequence = other
        if modality == "ANN":
            group = item(DoublePointCoordinatesData=bytes(bulk))
            made.AnnotationGroupSequence = [group]
        else:
            made.add_new(0x7FE00010, "OW", bytes(bulk))
    return made


def encoded(dataset):
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


class Source:
    """An object in memory that counts the bytes it was asked for."""

    def __init__(self, data):
        self.data, self.asked = data, 0

    def __call__(self, start, stop):
        self.asked += stop - start
        return self.data[start:stop]


@pytest.mark.parametrize("modality", ["SEG", "RTSTRUCT", "SR", "ANN"])
@pytest.mark.parametrize("uids", [["1.2.3"], ["1.2.3", "1.2.4"]], ids=["one", "two"])
def test_a_header_says_what_it_is_of_in_its_first_bytes(modality, uids):
    data = encoded(annotation(modality, uids, bulk=400_000))
    assert len(data) > 300_000
    source = Source(data)
    header = dicom.read_references(source, len(data))
    assert dicom.referenced_series(header) == uids
    assert dicom.referenced_series(dcmread(io.BytesIO(data))) == uids
    assert source.asked == dicom.HEADER_BYTES


def test_the_segmentation_of_the_sample_is_of_a_series():
    path = next(Path(SAMPLE.search(Modality="SEG").urls()[0]).iterdir())
    data = path.read_bytes()
    header = dicom.read_references(Source(data), len(data))
    (own,) = [str(x.SeriesInstanceUID) for x in dcmread(path).ReferencedSeriesSequence]
    assert dicom.referenced_series(header) == [own]


def test_what_refers_to_itself_or_to_nothing_is_of_nothing():
    made = annotation("SEG", ["1.2.3"])
    made.ReferencedSeriesSequence = [
        item(SeriesInstanceUID=made.SeriesInstanceUID),
        item(SeriesInstanceUID=""),
        Dataset(),
    ]
    assert dicom.referenced_series(made) == []
    assert dicom.referenced_series(annotation("SR", [])) == []


def test_a_header_with_a_malformed_sequence_is_an_error():
    made = annotation("SEG", ["1.2.3"])
    made.add_new(0x00081115, "LO", "no sequence")
    with pytest.raises(DicomReadError, match="x: the series that it is of"):
        dicom.referenced_series(made, "x")


# Cohorts.


CT, MR, LATER = "1.1.1", "1.1.2", "1.1.3"
OF = {
    "2.1": ("SEG", [CT]),
    "2.2": ("SEG", [MR]),
    "2.3": ("RTSTRUCT", [CT, "9.9.9"]),
    "2.4": ("SR", [CT, "2.1"]),
    "2.5": ("SR", []),
    "2.6": ("ANN", [MR]),
    "2.7": ("SR", [MR, LATER]),
}
"""By SeriesInstanceUID of an annotation, its modality and what it is of."""
TABLES = {
    "seg_index": ("segmented_SeriesInstanceUID", {"2.1": CT}),
    "rtstruct_index": ("referenced_SeriesInstanceUID", {"2.3": CT}),
    "ann_index": ("referenced_SeriesInstanceUID", {"2.6": MR}),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Give tables and a mirror of two patients; the table of SEG knows one of two."""
    root = tmp_path_factory.mktemp("pairs")
    index = []
    images = {CT: "CT", MR: "MR", LATER: "CT"}
    series = {uid: (modality, None) for uid, modality in images.items()} | OF
    for number, (uid, (modality, of)) in enumerate(series.items()):
        uuid = f"00000000-0000-4000-8000-{number:012}"
        objects = []
        if of is None:
            objects = [item(SOPInstanceUID=generate_uid(), Modality=modality)]
        elif uid == "2.4":
            # Each object is of a series of its own.
            objects = [annotation(modality, [source]) for source in of]
        else:
            objects = [annotation(modality, of)]
        folder = root / "bucket" / uuid
        folder.mkdir(parents=True)
        for place, made in enumerate(objects):
            name = f"00000000-0000-4000-9000-{number:06}{place:06}.dcm"
            (folder / name).write_bytes(encoded(made))
        sizes = [file.stat().st_size for file in folder.iterdir()]
        index.append(
            {
                "SeriesInstanceUID": uid,
                "crdc_series_uuid": uuid,
                "Modality": modality,
                "PatientID": "p2" if uid in ("2.7", LATER) else "p1",
                "instanceCount": len(sizes),
                "series_size_MB": sum(sizes) / 1e6,
            }
        )
    tables = write_tables(root / "tables", 1, index)
    for name, (column, told) in TABLES.items():
        more = {"2.2": None} if name == "seg_index" else {}
        pq.write_table(
            pa.table(
                {
                    "SeriesInstanceUID": pa.array([*told, *more]),
                    column: pa.array([*told.values(), *more.values()], pa.string()),
                }
            ),
            tables / f"{name}.parquet",
        )
    return open_idc(1, tables=str(tables), mirror=root / "bucket").all()


def told(table):
    """Give the rows as text: what is of what, and told by whom."""
    return {
        (
            row["SeriesInstanceUID"],
            row["referenced_SeriesInstanceUID"],
            row["told_by"],
        )
        for row in table.to_pylist()
    }


def test_tables_tell_what_they_do_and_headers_the_rest(archive):
    table = archive.references()
    assert table.column_names == [
        "SeriesInstanceUID",
        "crdc_series_uuid",
        "Modality",
        "referenced_SeriesInstanceUID",
        "told_by",
    ]
    assert told(table) == {
        ("2.1", CT, "seg_index"),
        ("2.2", MR, "header"),
        ("2.3", CT, "rtstruct_index"),
        ("2.4", CT, "header"),
        ("2.4", "2.1", "header"),
        ("2.5", None, None),
        ("2.6", MR, "ann_index"),
        ("2.7", MR, "header"),
        ("2.7", LATER, "header"),
    }
    order = list(dict.fromkeys(table.column(0).to_pylist()))
    assert order == archive.search(SeriesInstanceUID=list(OF)).keys()
    assert told(archive.references(modality="SEG")) == {
        ("2.1", CT, "seg_index"),
        ("2.2", MR, "header"),
    }


def test_tables_alone_open_no_object(archive, tmp_path):
    away = archive.reading_from(tmp_path)
    table = away.references(headers=False)
    assert told(table) == {
        ("2.1", CT, "seg_index"),
        ("2.3", CT, "rtstruct_index"),
        ("2.6", MR, "ann_index"),
        *((uid, None, None) for uid in ("2.2", "2.4", "2.5", "2.7")),
    }


def test_headers_alone_tell_all(archive):
    table = archive.references(headers=True)
    assert set(table.column("told_by").to_pylist()) == {"header", None}
    found = {(a, b) for a, b, _ in told(table)}
    assert found == {
        (uid, source) for uid, (_, of) in OF.items() for source in of or [None]
    }


@pytest.mark.parametrize("headers", [True, "auto"])
def test_the_annotations_of_images(archive, headers):
    images = archive.search(SeriesInstanceUID=CT)
    found = images.annotations(headers=headers)
    assert found.idc_version == 1
    assert found.keys() == ["2.1", "2.3", "2.4"]
    (problem,) = found.problems
    assert problem.rejected
    assert problem.text == "2.5"
    assert "names no series" in problem.reason
    assert images.annotations("SEG", headers=headers).keys() == ["2.1"]
    # 2.7 is of this series too, but of another patient, so that no header is read.
    mr = archive.search(SeriesInstanceUID=MR).annotations(headers=headers)
    assert mr.keys() == ["2.2", "2.6"]


def test_what_tables_do_not_tell_is_listed(archive):
    found = archive.search(SeriesInstanceUID=CT).annotations(headers=False)
    assert found.keys() == ["2.1", "2.3"]
    assert {problem.text for problem in found.problems} == {"2.2", "2.4", "2.5"}
    assert all("headers='auto' reads" in problem.reason for problem in found.problems)


def test_the_images_that_annotations_are_of(archive):
    found = archive.search(Modality=["SEG", "SR"]).sources()
    assert found.keys() == [CT, MR, "2.1", LATER]
    assert [problem.text for problem in found.problems] == ["2.5"]
    structures = archive.search(Modality="RTSTRUCT").sources(headers=True)
    assert structures.keys() == [CT]
    (problem,) = structures.problems
    assert (problem.text, problem.rejected) == ("9.9.9", True)
    assert "does not hold this series, which RTSTRUCT 2.3 is of" in problem.reason
    # And back.
    assert "2.1" in found.annotations().keys()  # noqa: SIM118
    assert len(archive.search(Modality="CT").sources()) == 0


def test_lists_have_annotations_too(archive):
    listed = archive.search(SeriesInstanceUID=CT) | archive.search(Modality="SR")
    assert listed.annotations("RTSTRUCT").keys() == ["2.3"]
    assert told(listed.references(modality="SR", headers=False)) == {
        (uid, None, None) for uid in ("2.4", "2.5", "2.7")
    }


def test_a_table_that_is_not_at_hand(monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_ARTIFACTS", "http://127.0.0.1:9")
    monkeypatch.setattr("intake_idc.release.fetching.PUBLISHED", ())
    segmentations = SAMPLE.search(Modality="SEG")
    with pytest.raises(TableNotFound, match=r"seg_index.*headers=True"):
        segmentations.references(headers=False)
    (row,) = segmentations.references().to_pylist()
    assert row["told_by"] == "header"
    # The image is not in the sample.
    found = segmentations.sources()
    assert len(found) == 0
    assert [p.text for p in found.problems] == [row["referenced_SeriesInstanceUID"]]


def test_the_sample_of_old_knows_what_its_annotations_are_of():
    old = open_idc(1, tables="sample").search(Modality="ANN")
    (row,) = old.references(headers=True).to_pylist()
    slide = SAMPLE.search(Modality="SM")
    assert row["told_by"] == "header"
    assert row["referenced_SeriesInstanceUID"] in slide.keys()  # noqa: SIM118


def test_what_is_asked_wrongly_is_refused(archive):
    with pytest.raises(RequestError, match="headers is 'auto', True or False"):
        archive.references(headers="yes")
    with pytest.raises(RequestError, match="modality is one or more"):
        archive.annotations([])
    with pytest.raises(RequestError, match="modality is a text or"):
        archive.annotations({"SEG", "SR"})
    whole = open_idc(25)
    for act in (whole.references, whole.annotations, whole.sources):
        with pytest.raises(EmptySelection, match=r"all\(\)"):
            act()
