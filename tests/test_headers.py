"""Headers: values by name, as a data frame, and kept in Parquet."""

from __future__ import annotations

import io
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pydicom
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from images import image, saved
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ImplicitVRLittleEndian

from intake_idc import dicom, lazy, open_idc, open_manifest, resolve_mirror, sample_path
from intake_idc.cli import command
from intake_idc.dicom.elements import ELEMENTS, ITEMS, VALUE_BYTES
from intake_idc.errors import DicomReadError, IntegrityError, RequestError
from intake_idc.manifest import Manifest

SAMPLE = open_idc(2, tables="sample").all()
BUCKET = sample_path() / "bucket"
FILES = sorted([*BUCKET.glob("*/*.dcm"), *Path("tests/data/dicom").glob("*.dcm")])
IMAGES = SAMPLE.search(Modality=["CT", "MR"])
SLICE = next(iter(sorted(BUCKET.glob(f"{IMAGES.manifest().uuids[0]}/*.dcm"))))

KEYWORDS = """
    TransferSyntaxUID SpecificCharacterSet ImageType SOPClassUID
    SOPInstanceUID StudyDate ContentTime Modality
    Manufacturer SeriesDescription PatientName PatientAge
    PatientWeight BodyPartExamined SliceThickness KVP
    EchoTime SeriesInstanceUID SeriesNumber InstanceNumber
    ImagePositionPatient ImageOrientationPatient SamplesPerPixel NumberOfFrames
    Rows Columns PixelSpacing BitsAllocated
    PixelRepresentation WindowCenter RescaleSlope FrameIncrementPointer
    SmallestImagePixelValue LossyImageCompression
""".split()  # noqa: SIM905  (a list would take a page)
SHARED = "SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness"
PATHS = [
    SHARED,
    "SharedFunctionalGroupsSequence.PixelMeasuresSequence.PixelSpacing",
    "SegmentSequence[*].SegmentLabel",
    "DimensionIndexSequence[*].DimensionIndexPointer",
    "DimensionIndexSequence[1].DimensionDescriptionLabel",
]


class Source:
    """An object in memory that says how many bytes were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked, self.requests = data, 0, 0

    def __call__(self, start: int, stop: int) -> bytes:
        self.asked += stop - start
        self.requests += 1
        return self.data[start:stop]


def values(data: bytes, *names: str) -> dict:
    return dicom.read_values(Source(data), len(data), dicom.resolve_tags(names))


def plain(value):
    """What pydicom gives, without its classes."""
    if value is None or value in ("", []):
        return None
    if isinstance(value, MultiValue | list):
        return [plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else str(value)


# Values.


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_value_is_pydicoms_own(path):
    data = path.read_bytes()
    dataset = pydicom.dcmread(path)
    tags = dicom.resolve_tags(KEYWORDS)
    source = Source(data)
    found = dicom.read_values(source, len(data), tags)
    for tag in tags:
        holder = dataset.file_meta if tag.in_file_meta else dataset
        expected = plain(holder.get(tag.name))
        if tag.many and expected is not None and not isinstance(expected, list):
            expected = [expected]
        if tag.vr == "AT" and expected is not None:
            expected = [f"{int(item):08X}" for item in expected]
        assert found[tag.name] == expected, tag.name
    assert source.asked <= max(16 * 1024, min(len(data), 64 * 1024))
    schema = pa.schema({tag.name: tag.type for tag in tags})
    assert pa.Table.from_pylist([found], schema).to_pylist() == [found]


def test_a_path_leads_through_sequences():
    path = next(p for p in FILES if "SegmentSequence" in pydicom.dcmread(p))
    dataset = pydicom.dcmread(path)
    found = values(path.read_bytes(), *PATHS)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    dimensions = dataset.DimensionIndexSequence
    assert list(found.values()) == [
        float(measures.SliceThickness),
        [float(value) for value in measures.PixelSpacing],
        [segment.SegmentLabel for segment in dataset.SegmentSequence],
        [f"{item.DimensionIndexPointer:08X}" for item in dimensions],
        str(dimensions[1].get("DimensionDescriptionLabel") or "") or None,
    ]


def nested(*items: Dataset, **elements) -> bytes:
    return saved(image(ReferencedSeriesSequence=list(items), **elements))


def test_what_is_not_there_is_none():
    one = Dataset()
    one.SeriesInstanceUID = "1.2"
    data = nested(one, Dataset(), PatientID="", KVP=None)
    every, first, second, third, other, empty, null = (
        "ReferencedSeriesSequence[*].SeriesInstanceUID",
        "ReferencedSeriesSequence.SeriesInstanceUID",
        "ReferencedSeriesSequence[1].SeriesInstanceUID",
        "ReferencedSeriesSequence[2].SeriesInstanceUID",
        "SegmentSequence[*].SegmentLabel",
        "PatientID",
        "KVP",
    )
    found = values(data, every, first, second, third, other, empty, null)
    assert found == {
        every: ["1.2", None],
        first: "1.2",
        second: None,
        third: None,
        other: None,
        empty: None,
        null: None,
    }


TYPES = {
    "Rows": pa.int32(),
    "SmallestImagePixelValue": pa.int32(),
    "InstanceNumber": pa.int64(),
    "SliceThickness": pa.float64(),
    "RecommendedDisplayFrameRateInFloat": pa.float64(),
    "PixelSpacing": pa.list_(pa.float64()),
    "WindowCenter": pa.list_(pa.float64()),
    "PatientName": pa.string(),
    "StudyDate": pa.string(),
    "ImageType": pa.list_(pa.string()),
    "FrameIncrementPointer": pa.list_(pa.string()),
    "TransferSyntaxUID": pa.string(),
    SHARED: pa.float64(),
    "SegmentSequence[*].SegmentLabel": pa.list_(pa.string()),
    "ROIContourSequence[*].ROIDisplayColor": pa.list_(pa.list_(pa.int64())),
}


@pytest.mark.parametrize(("name", "expected"), TYPES.items(), ids=TYPES)
def test_a_type_follows_from_the_dictionary(name, expected):
    (tag,) = dicom.resolve_tags(name)
    assert tag.type == expected


REFUSED = {
    "no keyword": ("rows_", "no DICOM keyword"),
    "a near one": ("Row", "did you mean 'Rows'"),
    "a near one in a path": ("SegmentSequence[0].SegmentLable", "'SegmentLabel'"),
    "a tag number": (0x00280010, "keyword"),
    "a sequence": ("SegmentSequence", "sequence"),
    "an item": ("SegmentSequence[0]", "sequence"),
    "pixels": ("PixelData", "bulk"),
    "a table": ("RedPaletteColorLookupTableData", "bulk"),
    "through no sequence": ("Rows[0].Columns", "Rows is no sequence"),
    "an item of a value": ("Rows[0]", "no items"),
    "every item twice": (
        "SharedFunctionalGroupsSequence[*].PixelMeasuresSequence[*].SliceThickness",
        "one sequence only",
    ),
    "none": (None, "keyword"),
    "bytes": (b"Rows", "keyword"),
    "no path": ("SegmentSequence[x].SegmentLabel", "no path"),
    "twice": (["Rows", "Rows"], "twice"),
    "nothing": ([], "no tag"),
}


@pytest.mark.parametrize(("names", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_value_is_refused_before_anything_is_read(names, message):
    with pytest.raises(RequestError, match=message):
        SAMPLE.headers([names] if isinstance(names, int) else names)


def spoilt(was: bytes, becomes: bytes) -> bytes:
    dataset = image(InstanceNumber=1234, SliceThickness="5.5", PatientID="Jürgen")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    data = saved(dataset)
    assert data.count(was) == 1
    return data.replace(was, becomes)


MISFITS = {
    "text in an IS": (b"1234", b"12x4", "InstanceNumber"),
    "two numbers in one": (b"1234", b"1\\34", "InstanceNumber"),
    "a fraction in an IS": (b"1234", b"1.34", "InstanceNumber"),
    "text in a DS": (b"5.5 ", b"5.5m", "SliceThickness"),
    "infinity in an IS": (b"1234", b"inf ", "InstanceNumber"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("was", "becomes", "name"), MISFITS.values(), ids=MISFITS)
def test_a_value_that_does_not_fit_is_an_error_of_its_object(was, becomes, name):
    data = spoilt(was, becomes)
    with pytest.raises(DicomReadError, match=name) as caught:
        values(data, name)
    assert caught.value.kind == "malformed"
    assert values(data, "PatientID") == {"PatientID": "Jürgen"}


@pytest.mark.parametrize("name", ["MappedPixelValue", "ZeroVelocityPixelValue"])
def test_a_sign_is_that_of_the_pixels_which_is_said_later(name):
    data = saved(image(ImplicitVRLittleEndian, PixelRepresentation=1, **{name: -16}))
    assert values(data, name) == {name: -16}


def test_a_backslash_in_a_text_that_has_one_value_is_kept():
    data = spoilt(b"J\xc3\xbcrgen ", b"J\xc3\\rgen ")
    with pytest.warns(UserWarning, match="decode"):
        assert "\\rgen" in values(data, "PatientID")["PatientID"]


@pytest.mark.filterwarnings("ignore")
@given(st.data())
def test_a_cut_gives_an_error_or_the_right_value(data):
    path = data.draw(st.sampled_from(FILES))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    names = data.draw(st.lists(st.sampled_from(KEYWORDS), min_size=1, unique=True))
    tags = dicom.resolve_tags(names)
    try:
        found = dicom.read_values(Source(whole[:cut]), len(whole), tags)
    except DicomReadError:
        return
    assert found == dicom.values_of(pydicom.dcmread(path), tags)


# Bytes.

BULK = 20_000_000


def annotations(*, undefined: bool) -> bytes:
    """An object of annotations: 20 MB of points, and tags before and behind them."""
    group = Dataset()
    group.AnnotationGroupNumber = 1
    group.DoublePointCoordinatesData = bytes(BULK)
    dataset = image(SOPClassUID="1.2.840.10008.5.1.4.1.1.91.1", PatientID="P1")
    del dataset.Rows
    dataset.AnnotationGroupSequence = [group]
    dataset["AnnotationGroupSequence"].is_undefined_length = undefined
    group.is_undefined_length_sequence_item = undefined
    late = dataset.private_block(0x0071, "ours", create=True)
    late.add_new(1, "LO", "late")
    dataset.add_new(0x20400010, "SQ", [])
    dataset.PresentationLUTShape = "IDENTITY"
    return saved(dataset)


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined", "known length"])
@pytest.mark.parametrize("name", ["PatientID", "Rows", "PresentationLUTShape"])
def test_bulk_that_nobody_asked_for_is_stepped_over(name, undefined):
    data = annotations(undefined=undefined)
    source = Source(data)
    found = dicom.read_values(source, len(data), dicom.resolve_tags(name))
    assert found[name] == plain(pydicom.dcmread(io.BytesIO(data)).get(name))
    assert source.asked < 64 * 1024
    assert source.requests <= 3


def test_what_all_frames_share_is_read_without_what_each_says():
    measures = Dataset()
    measures.SliceThickness = 2.5
    shared, each = Dataset(), Dataset()
    shared.PixelMeasuresSequence = [measures]
    each.FrameContentSequence = [Dataset()]
    each.FrameContentSequence[0].DimensionIndexValues = [1, 2]
    frames = [each] * 2_000
    data = saved(
        image(
            SharedFunctionalGroupsSequence=[shared],
            PerFrameFunctionalGroupsSequence=frames,
        )
    )
    source = Source(data)
    assert len(data) > 5 * 16 * 1024
    assert dicom.read_values(source, len(data), dicom.resolve_tags(SHARED)) == {
        SHARED: 2.5
    }
    assert source.asked == 16 * 1024
    every = "PerFrameFunctionalGroupsSequence[*].FrameContentSequence"
    name = f"{every}.DimensionIndexValues"
    assert values(data, name) == {name: [[1, 2]] * 2_000}


def file(*elements: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    head = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta))
    return b"".join([bytes(128), b"DICM", head, meta, *elements])


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    long = vr in (b"SQ", b"UC", b"OB")
    length = struct.pack("<HL" if long else "<H", *([0] * long), len(value))
    return struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr) + length + value


SEQUENCE = 0x00081140
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)


def nest(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
        inner = element(SEQUENCE, b"SQ", item)
    return inner


HOSTILE = {
    "elements": file(
        *(element(0x00110000 + i, b"LO", b"") for i in range(ELEMENTS + 1))
    ),
    "items": file(element(SEQUENCE, b"SQ", ITEM * (ITEMS + 1))),
    "depth": file(nest(40)),
    "long text": file(element(0x00189315, b"UC", b"1\\" * VALUE_BYTES)),
    "long numbers": file(
        struct.pack("<HHL", 0x20, 0x32, 2 * VALUE_BYTES) + b"1\\" * VALUE_BYTES,
        syntax=ImplicitVRLittleEndian.encode() + b"\0",
    ),
    "File Meta": bytes(128) + b"DICM" + element(0x00020100, b"UI", b"") * 2_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_would_take_minutes_is_refused(data):
    tags = dicom.resolve_tags(["SOPInstanceUID", "PixelSpacing", SHARED])
    readers = (
        lambda: dicom.read_dataset(data, "u"),
        lambda: dicom.read_header(Source(data), len(data), "u"),
        lambda: dicom.read_values(Source(data), len(data), tags, "u"),
    )
    for read in (
        readers[:2] if data in (HOSTILE["items"], HOSTILE["depth"]) else readers
    ):
        with pytest.raises(DicomReadError) as caught:
            read()
        assert (caught.value.kind, caught.value.url) == ("malformed", "u")


def test_a_header_has_a_budget():
    private = element(0x00090010, b"LO", b"ours")
    long = struct.pack("<HH2sHL", 9, 0x1001, b"OB", 0, 2**27)
    size = 2**28
    head = file(private, long)

    def read(start, stop):
        return head[start:stop].ljust(stop - start, b"\0")

    with pytest.raises(DicomReadError, match="more than 67108864 bytes"):
        dicom.read_header(read, size)


# The data frame.


@pytest.fixture
def broken(tmp_path):
    """The sample, of which one object is no DICOM and one series is not there."""
    root = tmp_path / "broken"
    shutil.copytree(BUCKET, root)
    first, second = IMAGES.manifest().uuids
    path = sorted((root / first).glob("*.dcm"))[1]
    path.write_bytes(bytes(path.stat().st_size))
    shutil.rmtree(root / second)
    return root


def rows(frame, **options):
    return pa.Table.from_pandas(
        frame.compute(**options).reset_index(drop=True), preserve_index=False
    ).replace_schema_metadata()


def test_a_frame_has_its_types_before_anything_is_read(tmp_path):
    frame = IMAGES.headers([*KEYWORDS, SHARED], mirror=tmp_path)
    assert list(frame.columns[:4]) == [
        "crdc_series_uuid",
        "crdc_instance_uuid",
        "url",
        "size",
    ]
    read = IMAGES.headers([*KEYWORDS, SHARED]).compute()
    assert (read.dtypes == frame.dtypes).all()
    assert str(frame.dtypes["Rows"]) == "int32[pyarrow]"
    with pytest.raises(FileNotFoundError, match="holds no object"):
        frame.compute()


def test_a_frame_has_a_row_for_each_object_in_the_order_of_the_bag():
    frame = SAMPLE.headers(["SOPInstanceUID", "Rows"])
    found = rows(frame)
    handles = SAMPLE.to_dask().compute()
    expected = [pydicom.dcmread(handle.url) for handle in handles]
    assert found.column("url").to_pylist() == [handle.url for handle in handles]
    assert found.column("size").to_pylist() == [handle.size for handle in handles]
    assert found.column("SOPInstanceUID").to_pylist() == [
        dataset.SOPInstanceUID for dataset in expected
    ]
    assert found.column("Rows").to_pylist() == [d.get("Rows") for d in expected]


def test_neither_partitions_nor_the_scheduler_matter(broken):
    def read(partition_instances, **options):
        frame = IMAGES.headers(
            ["Rows", "PixelSpacing"],
            mirror=broken,
            partition_instances=partition_instances,
            on_error="collect",
        )
        return rows(frame, **options)

    expected = read(None)
    assert expected.num_rows == 7
    assert expected.column("Rows").to_pylist().count(None) == 5
    for options in (
        {"partition_instances": 1},
        {"partition_instances": 2, "scheduler": "sync"},
        {"partition_instances": 3, "scheduler": "threads"},
        {"partition_instances": 4, "scheduler": "processes"},
    ):
        assert read(**options) == expected


def test_failures_are_columns_or_left_out_or_raised(broken, caplog):
    def frame(on_error):
        return IMAGES.headers("Rows", mirror=broken, on_error=on_error)

    with pytest.raises((DicomReadError, FileNotFoundError)):
        frame("raise").compute()
    assert rows(frame("skip")).column("Rows").to_pylist() == [512, 512]
    assert len(caplog.messages) == 2
    found = rows(frame("collect"))
    assert found.column("failure_kind").to_pylist() == [
        None,
        "not dicom",
        None,
        *["not found"] * 4,
    ]
    assert found.column("attempts").null_count == 2
    assert found.column("crdc_instance_uuid").null_count == 4


def test_few_columns_may_be_taken():
    frame = SAMPLE.headers(["Rows", "Modality"], partition_instances=3)
    assert frame[["Rows"]].compute().columns.tolist() == ["Rows"]
    assert len(frame) == len(FILES_OF_THE_RELEASE)
    assert frame[frame.Modality == "CT"]["Rows"].max().compute() == 512


FILES_OF_THE_RELEASE = [one.url for one in SAMPLE.to_dask().compute()]


def test_the_same_cohort_has_the_same_graph():
    keys = SAMPLE.headers("Rows").__dask_keys__()
    assert keys == SAMPLE.headers("Rows").__dask_keys__()
    assert keys != SAMPLE.headers("Columns").__dask_keys__()


def test_a_series_has_headers_too():
    tables = IMAGES.map_series(lambda series: series.headers(["Rows"])).compute()
    expected = rows(IMAGES.headers("Rows"))
    assert pa.concat_tables(tables) == expected


@pytest.mark.servers
def test_a_header_is_one_request(s3_nginx):
    mirror = resolve_mirror("aws", endpoint_url=s3_nginx.endpoint)
    ct = SAMPLE.search(Modality="CT")
    s3_nginx.reset()
    frame = ct.headers(["Rows", "PixelSpacing"], mirror=mirror)
    assert s3_nginx.requests() == []
    assert frame.compute()["Rows"].tolist() == [512, 512, 512]
    asked = s3_nginx.requests()
    assert len(asked) == 1 + 3
    assert sum(one.sent for one in asked if one.range) == 3 * 16_384


# The scan.


def content(path):
    table = ds.dataset(path).to_table()
    return table.sort_by(
        [("crdc_series_uuid", "ascending"), ("crdc_instance_uuid", "ascending")]
    ).replace_schema_metadata()


def test_a_scan_is_the_frame_in_parquet(tmp_path):
    path = tmp_path / "headers.parquet"
    scan = SAMPLE.scan_headers(path, ["Rows", "PixelSpacing"], partition_instances=2)
    assert (scan.rows, scan.new) == (len(FILES_OF_THE_RELEASE),) * 2
    assert len(list(path.iterdir())) > 3
    frame = rows(SAMPLE.headers(["Rows", "PixelSpacing"]))
    names = ["crdc_series_uuid", "crdc_instance_uuid"]
    assert content(path) == frame.sort_by([(name, "ascending") for name in names])
    assert pq.read_table(tmp_path / "headers.failures.parquet").num_rows == 0
    again = SAMPLE.scan_headers(path, ["PixelSpacing", "Rows"], mirror=tmp_path)
    assert (again.rows, again.new) == (scan.rows, 0)
    assert str(again) == f"{path}: {scan.rows} rows; 0 objects read now"


def test_a_later_release_reads_only_what_is_new(tmp_path):
    old = open_idc(1, tables="sample").search(Modality=["CT", "MR"])
    path = tmp_path / "h.parquet"
    first = old.scan_headers(path, "Rows")
    names = {p.name for p in path.iterdir()}
    second = IMAGES.scan_headers(path, "Rows")
    assert (first.rows, first.new, second.new) == (6, 6, 1)
    # The CT series was revised, and each version of it can be joined.
    assert set(content(path).column("crdc_series_uuid").to_pylist()) == {
        *old.manifest().uuids,
        *IMAGES.manifest().uuids,
    }
    assert second.rows == 9
    assert names < {p.name for p in path.iterdir()}


def test_what_failed_is_beside_and_is_tried_again(tmp_path, broken):
    path = tmp_path / "headers.parquet"
    first = IMAGES.scan_headers(path, "Rows", mirror=broken)
    assert (first.rows, first.new) == (2, 2)
    beside = pq.read_table(tmp_path / "headers.failures.parquet")
    assert beside == first.failures
    assert beside.column("kind").to_pylist() == ["not dicom", "not found"]
    other = SAMPLE.search(Modality="SEG").scan_headers(path, "Rows", mirror=broken)
    assert other.failures.num_rows == 0
    assert pq.read_table(tmp_path / "headers.failures.parquet") == beside
    second = IMAGES.scan_headers(path, "Rows")
    assert (second.new, second.failures.num_rows) == (5, 0)
    assert pq.read_table(tmp_path / "headers.failures.parquet").num_rows == 0
    with pytest.raises((DicomReadError, FileNotFoundError)):
        IMAGES.scan_headers(tmp_path / "x", "Rows", mirror=broken, on_error="raise")


def test_what_was_not_tried_again_has_failed_still(tmp_path):
    root, path = tmp_path / "bucket", tmp_path / "headers.parquet"
    shutil.copytree(BUCKET, root)
    first, second, third = sorted((root / IMAGES.manifest().uuids[0]).iterdir())
    for broken in (first, second):
        broken.write_bytes(bytes(broken.stat().st_size))
    ct = SAMPLE.search(Modality="CT")
    ct.scan_headers(path, "Rows", mirror=root)

    def scan_one(chosen, **options):
        table = {
            "crdc_series_uuid": [chosen.parent.name],
            "crdc_instance_uuid": [chosen.stem],
        }
        one = open_manifest(pa.table(table), idc_version=2, tables="sample")
        one.scan_headers(path, "Rows", **options)
        failures = pq.read_table(tmp_path / "headers.failures.parquet")
        return failures.column("crdc_instance_uuid").to_pylist()

    assert scan_one(third, mirror=root) == [first.stem, second.stem]
    assert scan_one(second, mirror=root) == [first.stem, second.stem]
    assert scan_one(second) == [first.stem]
    assert scan_one(first, on_error="raise") == []


def test_a_folder_keeps_to_its_tags(tmp_path):
    IMAGES.scan_headers(tmp_path / "h", ["Rows", "Columns"])
    message = r"new now are KVP; no longer asked for are Columns"
    with pytest.raises(RequestError, match=message):
        IMAGES.scan_headers(tmp_path / "h", ["KVP", "Rows"])


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="is a file"):
        IMAGES.scan_headers(tmp_path / "file", "Rows")
    with pytest.raises(RequestError, match="of this machine"):
        IMAGES.scan_headers("s3://bucket/headers", "Rows")
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(IntegrityError, match="part-1"):
        IMAGES.scan_headers(tmp_path, "Rows")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "part-1.parquet")
    with pytest.raises(IntegrityError, match="not written by a scan"):
        IMAGES.scan_headers(tmp_path, "Rows")


COUNT = 300


def copies(root):
    """Many objects of one series, and the manifest of it."""
    series = IMAGES.manifest().uuids[0]
    folder = root / "bucket" / series
    folder.mkdir(parents=True)
    data = SLICE.read_bytes()[:40_000]
    for number in range(COUNT):
        (folder / f"00000000-0000-0000-0000-{number:012}.dcm").write_bytes(data)
    table = {
        "crdc_series_uuid": [series],
        "aws_bucket": ["bucket"],
        "instanceCount": [COUNT],
        "series_size_MB": [COUNT * len(data) / 1e6],
        "row_source": ["idc_index"],
    }
    return Manifest(pa.table(table), 2), folder


SCRIPT = """
import pickle, sys
from intake_idc import lazy, resolve_mirror
with open(sys.argv[1], "rb") as file:
    manifest = pickle.load(file)
mirror = resolve_mirror(sys.argv[2])
lazy.scan_headers(manifest, mirror, sys.argv[3], "Rows", partition_instances=1)
"""


def test_a_scan_that_was_killed_goes_on_where_it_was(tmp_path):
    import pickle

    manifest, folder = copies(tmp_path)
    (tmp_path / "manifest").write_bytes(pickle.dumps(manifest))
    root, path = tmp_path / "{aws_bucket}", tmp_path / "headers.parquet"
    arguments = [str(tmp_path / "manifest"), str(root), str(path)]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments]) as killed:
        while len(list(path.glob("part-*"))) < 20:
            assert killed.poll() is None
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
    whole = list(path.glob("part-*"))
    there = content(path).column("crdc_instance_uuid").to_pylist()
    assert 20 <= len(there) == len(whole) < COUNT
    for uuid in there:
        # Read again, it would fail.
        (folder / f"{uuid}.dcm").write_bytes(bytes(40_000))
    (path / ".idc-1-dead.part").write_bytes(whole[0].read_bytes()[:-9])
    scan = lazy.scan_headers(manifest, resolve_mirror(root), path, "Rows")
    assert scan.failures.num_rows == 0
    assert (scan.rows, scan.new) == (COUNT, COUNT - len(there))
    found = content(path)
    assert len(set(found.column("crdc_instance_uuid").to_pylist())) == COUNT
    assert found.column("Rows").unique().to_pylist() == [512]


def test_two_scans_at_once_leave_each_object_once(tmp_path):
    path = tmp_path / "headers.parquet"
    errors = []

    def scan(size):
        try:
            SAMPLE.scan_headers(path, "Rows", partition_instances=size)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    both = [threading.Thread(target=scan, args=(size,)) for size in (1, 3)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not errors
    assert content(path) == content_of(SAMPLE, tmp_path / "alone", "Rows")


def test_what_two_killed_scans_read_both_is_no_whole_series(tmp_path):
    """As many rows as the index says, and two of the four objects."""
    path = tmp_path / "headers.parquet"
    mr = SAMPLE.search(Modality="MR")
    mr.scan_headers(path, "Rows", partition_instances=1)
    expected = content(path)
    first, second, *others = sorted(path.glob("part-*"))
    for part in others:
        part.unlink()
    for part in (first, second):
        shutil.copy(part, path / f"part-f{part.name.removeprefix('part-')}")
    scan = mr.scan_headers(path, "Rows")
    assert (scan.rows, scan.new) == (4, 2)
    assert content(path) == expected


@pytest.mark.parametrize("seed", range(5))
def test_what_two_scans_read_both_is_kept_by_one(tmp_path, seed):
    """Whoever looks last: the first of the names keeps an object."""
    from random import Random

    from intake_idc.lazy.scanning import _drop_repeated

    random = Random(seed)  # noqa: S311
    SAMPLE.scan_headers(tmp_path / "all", "Rows", partition_instances=2)
    expected = content(tmp_path / "all")
    (source,) = {p.parent for p in (tmp_path / "all").glob("part-*")}
    folder = tmp_path / "both"
    folder.mkdir()
    for run in "abc":
        for number, part in enumerate(sorted(source.iterdir())):
            if run == "a" or random.random() < 0.5:
                shutil.copy(part, folder / f"part-{run}-{number}.parquet")
    parts = sorted(folder.iterdir())
    looked = [random.sample(parts, random.randint(1, len(parts))) for _ in range(3)]
    for some in looked:
        _drop_repeated(sorted(some))
    _drop_repeated(parts)
    assert content(folder) == expected


def content_of(cohort, path, tags):
    cohort.scan_headers(path, tags)
    return content(path)


def test_rows_of_a_scan_are_a_cohort(tmp_path):
    path = tmp_path / "headers.parquet"
    SAMPLE.scan_headers(path, ["InstanceNumber", "Modality"], partition_instances=2)
    whole = open_manifest(list(path.iterdir()), idc_version=2, tables="sample")
    assert whole.counts() == SAMPLE.counts()
    chosen = ds.dataset(path).to_table(
        filter=(ds.field("Modality") == "CT") & (ds.field("InstanceNumber") > 16)
    )
    cohort = open_manifest(chosen, idc_version=2, tables="sample")
    found = cohort.headers("InstanceNumber").compute()
    assert sorted(found["InstanceNumber"]) == [17, 18]


# The command.


def test_the_command_scans(tmp_path):
    path = tmp_path / "headers.parquet"
    words = ["headers", "Modality=CT", "--idc-version", "2", "--tables", "sample"]
    options = ["--tags", f"Rows,{SHARED}", "--to", str(path)]
    done = CliRunner().invoke(command, [*words, *options])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == f"{path}: 3 rows; 3 objects read now"
    assert content(path).column("Rows").to_pylist() == [512, 512, 512]
    done = CliRunner().invoke(command, [*words, *options, "--mirror", str(tmp_path)])
    assert done.output.strip() == f"{path}: 3 rows; 0 objects read now"
