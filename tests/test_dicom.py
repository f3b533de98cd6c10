"""DICOM out of bytes, against pydicom's own answer on its own test files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake_idc import dicom, sample_path
from intake_idc.errors import DicomReadError

SAMPLE = sorted((sample_path() / "bucket").glob("*/*.dcm"))
CT = next(p for p in SAMPLE if p.stat().st_size > 500_000)


def _readable(path: Path) -> bool:
    """Whether pydicom reads the file as a dataset with a transfer syntax."""
    try:
        dataset = pydicom.dcmread(path)
    except Exception:  # noqa: BLE001
        return False
    return bool(len(dataset)) and "TransferSyntaxUID" in dataset.file_meta


# The files that are in the package itself; pydicom's own finder would go to the
# network for the others.
CORPUS = sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*.dcm"))
# pydicom takes a value that is cut short for a whole one.
CUT = [path for path in CORPUS if "truncated" in path.name]
READABLE = [path for path in CORPUS if _readable(path) and path not in CUT]


class Source:
    """An object in memory that counts the bytes it was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked = data, 0

    def __call__(self, start: int, stop: int) -> bytes:
        self.asked += stop - start
        return self.data[start:stop]


def test_the_corpus_is_there():
    assert len(READABLE) > 70


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", [*READABLE, *SAMPLE], ids=lambda path: path.name)
def test_datasets_and_headers_equal_pydicoms_own(path):
    data = path.read_bytes()
    assert dicom.read_dataset(data) == pydicom.dcmread(path)
    header = dicom.read_header(Source(data), len(data))
    expected = pydicom.dcmread(path, stop_before_pixels=True)
    assert header.file_meta == expected.file_meta
    if "AnnotationGroupSequence" in expected:
        expected = expected[: expected["AnnotationGroupSequence"].tag]
    assert header == expected


@pytest.mark.parametrize("path", CUT, ids=lambda path: path.name)
def test_a_value_that_is_cut_short_is_an_error(path):
    with pytest.raises(DicomReadError) as caught:
        dicom.read_dataset(path.read_bytes())
    assert caught.value.kind == "truncated"
    pydicom.dcmread(path)


def test_a_header_takes_no_more_than_its_own_bytes():
    data = CT.read_bytes()
    source = Source(data)
    dicom.read_header(source, len(data))
    assert source.asked == dicom.HEADER_BYTES


def test_a_header_that_is_longer_than_the_first_range_is_read_on():
    dataset = pydicom.dcmread(CT)
    dataset.add_new(0x00091010, "OB", b"\1" * 100_000)
    dataset[0x00090010] = pydicom.DataElement(0x00090010, "LO", "a private block")
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    source = Source(buffer.getvalue())
    header = dicom.read_header(source, len(source.data))
    assert len(header[0x00091010].value) == 100_000
    assert source.asked < 150_000
    assert source.asked < len(source.data)


@given(st.data())
def test_a_header_that_is_cut_is_an_error_or_the_whole_truth(data):
    path = data.draw(st.sampled_from([*SAMPLE, *READABLE[:40]]))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    expected = pydicom.dcmread(path, stop_before_pixels=True)
    source = Source(whole[:cut])
    # The object has its announced size; the bytes stop short of it.
    try:
        header = dicom.read_header(source, len(whole))
    except DicomReadError:
        return
    assert header == expected


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "not dicom"),
        (b"<html>busy</html>", "not dicom"),
        (b"\0" * 128 + b"DICM", "malformed"),
        (b"\0" * 20_000, "not dicom"),
    ],
    ids=["empty", "a page", "a lone preamble", "zeros"],
)
def test_what_is_no_dicom_is_an_error_with_kind_and_url(data, kind):
    for read in (
        lambda: dicom.read_dataset(data, "s3://b/k"),
        lambda: dicom.read_header(Source(data), len(data), "s3://b/k"),
    ):
        with pytest.raises(DicomReadError, match="s3://b/k") as caught:
            read()
        assert caught.value.kind == kind
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.kind, again.url) == (kind, "s3://b/k")


def test_a_dataset_is_as_heavy_as_it_looks():
    data = CT.read_bytes()
    header = dicom.read_header(Source(data), len(data))
    assert len(pickle.dumps(header)) < 30_000
    assert len(pickle.dumps(dicom.read_dataset(data))) < len(data) + 30_000


def test_values_are_plain():
    header = pydicom.dcmread(CT, stop_before_pixels=True)
    keywords = [
        "Modality",
        "InstanceNumber",
        "PixelSpacing",
        "SliceThickness",
        "PatientName",
    ]
    row = dicom.values(header, [*keywords, "StudyDate", "EchoTime", "ImageType"])
    assert row["Modality"] == "CT"
    assert type(row["InstanceNumber"]) is int
    assert [type(v) for v in row["PixelSpacing"]] == [float, float]
    assert type(row["StudyDate"]) is str
    assert row["EchoTime"] is None
    assert isinstance(row["ImageType"], list)
    assert pickle.dumps(row)


@pytest.mark.parametrize("keyword", ["PixelData", "ReferencedImageSequence"])
def test_bulk_and_sequences_are_no_values(keyword):
    dataset = pydicom.dcmread(CT)
    dataset.ReferencedImageSequence = [pydicom.Dataset()]
    with pytest.raises(DicomReadError, match=keyword):
        dicom.values(dataset, [keyword])
