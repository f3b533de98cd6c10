"""Objects as files: what a file does, few requests, and libraries that read them."""

from __future__ import annotations

import io
import pickle
import threading
from itertools import product
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import native, pixel_data_at
from servers import NginxS3, RcloneS3, require
from slides import Bucket

from intake_idc import resolve_mirror, sample_path
from intake_idc.errors import StorageError
from intake_idc.lazy import ObjectFile

DATA = Path(__file__).parent / "data" / "dicom"
RANDOM = np.random.default_rng(1)
LARGE = native(RANDOM.integers(0, 255, (150, 128, 128), np.uint8))


def sample(series):
    """An object of the embedded sample, by how the uuid of its series begins."""
    (path,) = (sample_path() / "bucket").glob(f"{series}*/*.dcm")
    return path.read_bytes()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    found = Bucket(tmp_path_factory.mktemp("opened"))
    found.add(LARGE, LARGE[:300])
    return found


def opened(tmp_path, data):
    """A file over an object that lies in a folder."""
    bucket = Bucket(tmp_path)
    bucket.add(data)
    (found,) = bucket.objects()
    return found.open()


# A file.


@settings(max_examples=60)
@given(data=st.data())
def test_it_does_what_a_file_does(bucket, data):
    which = data.draw(st.integers(0, 1))
    file, model = (
        bucket.objects()[which].open(),
        io.BytesIO((LARGE, LARGE[:300])[which]),
    )
    size = (len(LARGE), 300)[which]
    for _ in range(data.draw(st.integers(1, 12))):
        kind = data.draw(st.sampled_from(["read", "into", "seek", "tell", "pickle"]))
        if kind == "read":
            many = data.draw(st.integers(-1, size + 10) | st.integers(0, 300))
            assert file.read(many) == model.read(many)
        elif kind == "into":
            ours, theirs = (bytearray(data.draw(st.just(5_000))) for _ in "12")
            assert file.readinto(ours) == model.readinto(theirs)
            assert ours == theirs
        elif kind == "seek":
            whence = data.draw(st.sampled_from([0, 1, 2]))
            offset = data.draw(st.integers(-size, size + 5))
            begin = {0: 0, 1: model.tell(), 2: size}[whence]
            if begin + offset < 0:
                with pytest.raises(ValueError, match="no position"):
                    file.seek(offset, whence)
            else:
                assert file.seek(offset, whence) == model.seek(offset, whence)
        elif kind == "pickle":
            file = pickle.loads(pickle.dumps(file))
        assert file.tell() == model.tell()


def test_it_is_a_file_for_reading(bucket):
    found = bucket.objects()[0]
    with found.open() as file:
        assert isinstance(file, io.RawIOBase)
        assert isinstance(file, ObjectFile)
        assert (file.readable(), file.seekable(), file.writable()) == (
            True,
            True,
            False,
        )
        assert file.name == found.url
        assert len(pickle.dumps(file)) < 2_000
        assert file.read() == LARGE
        assert file.read(5) == b""
    for closed in (file.read, file.tell, lambda: file.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            closed()
    assert io.BufferedReader(found.open()).read(132) == LARGE[:132]


def test_threads_may_share_it(bucket):
    file, wrong = bucket.objects()[0].open(), []

    def look(seed):
        for at in np.random.default_rng(seed).integers(0, len(LARGE), 200):
            with lock:
                file.seek(at)
                wrong.extend([at] * (file.read(50) != LARGE[at : at + 50]))

    lock = threading.Lock()
    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_object_that_was_replaced_is_an_error_and_no_mixture(tmp_path):
    file = opened(tmp_path, LARGE)
    assert file.read(100) == LARGE[:100]
    (path,) = tmp_path.glob("*/*/*.dcm")
    path.unlink()
    path.write_bytes(LARGE[::-1])
    assert file.read(100) == LARGE[100:200]
    file.seek(-100, io.SEEK_END)
    with pytest.raises(StorageError, match="changed"):
        file.read()


@pytest.fixture(scope="module")
def server(bucket):
    require(RcloneS3)
    require(NginxS3)
    with RcloneS3(bucket.root) as storage, NginxS3(storage) as server:
        yield server


@pytest.mark.servers
def test_requests_are_few(bucket, server):
    mirror = resolve_mirror("aws", endpoint_url=server.endpoint)
    large, small = bucket.objects(mirror=mirror)

    def asked():
        found = [one for one in server.requests() if one.method == "GET"]
        server.reset()
        return [(one.sent, one.range) for one in found]

    asked()
    file = large.open()
    assert asked() == []
    file.read(10)
    file.seek(0)
    file.read(60_000)
    assert asked() == [(65_536, "bytes=0-65535")]
    file = large.open()
    # In pieces from front to end: the ranges grow.
    while file.read(10_000):
        pass
    everything = asked()
    assert len(everything) <= 8
    assert sum(sent for sent, _ in everything) == len(LARGE)
    file = large.open()
    file.seek(len(LARGE) // 2)
    file.read(100)
    file.seek(len(LARGE) // 4)
    file.read(100)
    assert [sent for sent, _ in asked()] == [65_536] * 2
    tail = small.open()
    tail.seek(-1, io.SEEK_END)
    tail.read()
    tail.seek(0)
    assert tail.read() == LARGE[:300]
    assert len(asked()) == 1


@pytest.mark.servers
def test_pydicom_reads_one_frame_of_many_in_few_requests(bucket, server):
    from pydicom.pixels import pixel_array

    mirror = resolve_mirror("aws", endpoint_url=server.endpoint)
    large, _ = bucket.objects(mirror=mirror)
    server.reset()
    frame = pixel_array(large.open(), index=120)
    asked = server.requests()
    assert len(asked) <= 3
    assert sum(one.sent for one in asked) <= 4 * 65_536
    start = pixel_data_at(LARGE) + 120 * 128 * 128
    assert frame.tobytes() == LARGE[start : start + 128 * 128]


# Libraries that want a file.


IMAGES = {
    "SM, native": lambda: sample("9a13cd64"),
    "SM, JPEG-LS": (DATA / "sm_image_jpegls.dcm").read_bytes,
    "SM, JPEG-LS, no table": (DATA / "sm_image_jpegls_nobot.dcm").read_bytes,
    "SEG, one bit": lambda: sample("8a13b81c"),
}


@pytest.mark.parametrize("made", IMAGES.values(), ids=IMAGES)
@pytest.mark.filterwarnings("ignore")
def test_highdicom_gets_the_frames_of_pydicom(tmp_path, made):
    data = made()
    dataset = pydicom.dcmread(io.BytesIO(data))
    image = highdicom.imread(opened(tmp_path, data), lazy_frame_retrieval=True)
    assert image.number_of_frames == dataset.NumberOfFrames
    for number in {0, 1, dataset.NumberOfFrames - 1}:
        frame = pydicom.pixels.pixel_array(dataset, index=number, raw=True)
        np.testing.assert_array_equal(image.get_stored_frame(number + 1), frame)


@pytest.mark.filterwarnings("ignore")
def test_highdicom_reads_segments(tmp_path):
    data = sample("8a13b81c")
    lazy = highdicom.seg.segread(opened(tmp_path, data), lazy_frame_retrieval=True)
    whole = highdicom.seg.segread(io.BytesIO(data))
    one, other = (found.get_volume().array for found in (lazy, whole))
    assert one.any()
    np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore")
def test_highdicom_reads_annotations(tmp_path):
    data = sample("c6c2ba2b")
    found = highdicom.ann.annread(opened(tmp_path, data))
    whole = highdicom.ann.annread(io.BytesIO(data))
    ours, theirs = (
        one.get_annotation_groups()[0].get_graphic_data("2D") for one in (found, whole)
    )
    assert len(ours) > 0
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


SOFTWARE = {
    "series_instance_uid": "1.2.3.7",
    "series_number": 1,
    "sop_instance_uid": "1.2.3.8",
    "instance_number": 1,
    "manufacturer": "m",
}


def written(dataset):
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_highdicom_reads_reports(tmp_path):
    from highdicom import sr
    from pydicom.sr.codedict import codes

    source = pydicom.dcmread(io.BytesIO(sample("8a13b81c")))
    observer = sr.PersonObserverIdentifyingAttributes(name="Doe^Jane")
    by = sr.ObserverContext(codes.DCM.Person, observer)
    length = sr.Measurement(codes.SCT.Length, 1.5, codes.UCUM.Millimeter)
    group = sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier("1.2.3.9", "a length"), measurements=[length]
    )
    content = sr.MeasurementReport(
        sr.ObservationContext(by),
        codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = sr.Comprehensive3DSR([source], content, **SOFTWARE)
    found = sr.srread(opened(tmp_path, written(report)))
    (read,) = found.content.get_image_measurement_groups()
    assert read.tracking_uid == "1.2.3.9"
    assert found.ContentSequence == report.ContentSequence


@pytest.mark.parametrize("dtype", [np.float64, np.uint16])
@pytest.mark.filterwarnings("ignore")
def test_highdicom_reads_parametric_maps(tmp_path, dtype):
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.codedict import codes

    paths = (sample_path() / "bucket").glob("829fcf50*/*.dcm")
    source = [pydicom.dcmread(path) for path in sorted(paths)]
    for one, keyword in product(source, ("PatientSex", "AccessionNumber")):
        # Which it lacks, and highdicom wants.
        setattr(one, keyword, "")
    values = (RANDOM.random((3, 512, 512)) * 1000).astype(dtype)
    mapping = RealWorldValueMapping(
        "lut",
        "values",
        codes.UCUM.NoUnits,
        (0, 1000) if dtype is np.uint16 else (0.0, 1000.0),
        slope=1.0,
        intercept=0.0,
    )
    made = ParametricMap(
        source,
        values,
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(window_center=0.5, window_width=1.0)
        ],
        **SOFTWARE,
    )
    bucket = Bucket(tmp_path)
    bucket.add(written(made))
    (one,) = bucket.objects()
    found = ParametricMap.from_dataset(pydicom.dcmread(one.open()))
    np.testing.assert_array_equal(found.pixel_array, made.pixel_array)
    lazy = highdicom.imread(one.open(), lazy_frame_retrieval=True)
    for number in range(3):
        ours = one.pixels(number)
        np.testing.assert_array_equal(ours, made.pixel_array[number])
        if dtype is np.uint16:
            # Of floats, highdicom decodes no single frame.
            frame = lazy.get_stored_frame(number + 1)
            np.testing.assert_array_equal(frame, ours)
