"""Volumes: pixels, places and labels, against SimpleITK, nibabel, and by hand."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from uuid import UUID
from zlib import crc32

import dask
import dask.array as da
import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk  # noqa: N813
import xarray
from distributed import Client, LocalCluster
from images import image, read, saved
from pydicom import Dataset

import intake_idc
from intake_idc import lazy, open_idc, resolve_mirror, sample_path, window
from intake_idc.errors import (
    EmptySelection,
    GeometryError,
    IntegrityError,
    MissingError,
    RequestError,
)
from intake_idc.lazy import loading
from intake_idc.lazy.handles import SMALL_BYTES
from intake_idc.manifest import Manifest
from intake_idc.storage import instances

SAMPLE = open_idc(2, tables="sample")
CT, MR = SAMPLE.search(Modality="CT"), SAMPLE.search(Modality="MR")
FLAT = [1, 0, 0, 0, 1, 0]
TILTED = [1, 0, 0, 0, math.cos(math.radians(14)), -math.sin(math.radians(14))]
NOISE = np.random.default_rng(7)


def dicom_of(place, pixels, orientation=FLAT, spacing=(2.0, 3.0), **more) -> bytes:
    """One slice, as a file."""
    rows, columns = pixels.shape[:2]
    bits = 8 * pixels.dtype.itemsize
    elements = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": f"1.2.{crc32(repr(place).encode() + pixels.tobytes())}",
        "SeriesInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2",
        "PatientID": "p",
        "FrameOfReferenceUID": "1.2.9",
        "Modality": "CT",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "ImagePositionPatient": list(place),
        "ImageOrientationPatient": orientation,
        "PixelSpacing": list(spacing),
        **more,
    }
    dataset = image(**elements)
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return saved(dataset)


def planes(count, shape=(4, 6), dtype=np.int16):
    return NOISE.integers(0, 1000, (count, *shape)).astype(dtype)


class Bucket:
    """A folder of series, and a manifest of each."""

    def __init__(self, root) -> None:
        self.root = root
        self.mirror = resolve_mirror(root)
        self.count = 0

    def series(self, files, *, shuffle=True) -> Manifest:
        """Put a series there, its objects named so that their order says nothing."""
        self.count += 1
        uuid = str(UUID(int=self.count))
        folder = self.root / uuid
        folder.mkdir()
        names = list(range(1, len(files) + 1))
        if shuffle:
            names = NOISE.permutation(names).tolist()
        for name, data in zip(names, files, strict=True):
            (folder / f"{UUID(int=name)}.dcm").write_bytes(data)
        columns = {
            "crdc_series_uuid": [uuid],
            "aws_bucket": ["any"],
            "instanceCount": [len(files)],
            "row_source": ["idc_index"],
        }
        return Manifest(pa.table(columns), 25)

    def volume(self, files, **options):
        """Give the volume of a series: the same, read at once or lazily."""
        manifest = self.series(files)
        found = lazy.to_volume(manifest, self.mirror, **options)
        at_once = lazy.to_volume(manifest, self.mirror, compute=True, **options)
        assert found.compute().identical(at_once)
        return found


@pytest.fixture
def bucket(tmp_path) -> Bucket:
    return Bucket(tmp_path)


def upright(count, pixels=None, step=5.0, orientation=FLAT, **more):
    """Slices along z, told apart by nothing else."""
    pixels = planes(count) if pixels is None else pixels
    return [
        dicom_of((10.0, -20.0, step * k), pixels[k], orientation, **more)
        for k in range(count)
    ]


# Against SimpleITK.


def by_sitk(cohort):
    part = next(iter(cohort.manifest().parts()))
    folder = sample_path() / "bucket" / part.crdc_series_uuid
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return sitk.ReadImage(names)


@pytest.mark.parametrize("cohort", [CT, MR], ids=["ct", "mr"])
@pytest.mark.parametrize("compute", [False, True], ids=["lazy", "at once"])
def test_a_regular_series_is_that_of_simpleitk(cohort, compute):
    expected = by_sitk(cohort)
    found = cohort.to_volume(rescale=True, compute=compute)
    assert found.dims == ("slice", "row", "column")
    assert np.array_equal(found.values, sitk.GetArrayFromImage(expected))
    ours = lazy.to_sitk(found)
    assert ours.GetSize() == expected.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        apart = np.subtract(getattr(ours, name)(), getattr(expected, name)())
        assert np.abs(apart).max() < 1e-5
    spacing = found.attrs["spacing"]
    assert np.allclose(spacing, expected.GetSpacing()[::-1], atol=1e-5)


@pytest.mark.parametrize("cohort", [CT, MR], ids=["ct", "mr"])
def test_voxels_lie_in_nifti_where_simpleitk_has_them(cohort, tmp_path):
    expected = by_sitk(cohort)
    volume = cohort.to_volume(rescale=True)
    for name in ("a.nii", "a.nii.gz"):
        intake_idc.to_nifti(volume, tmp_path / name)
        read = nibabel.load(tmp_path / name)
        data = np.asanyarray(read.dataobj)
        assert data.dtype == volume.dtype
        assert np.array_equal(data.T, sitk.GetArrayFromImage(expected))
        assert read.header["sform_code"] == read.header["qform_code"] == 1
        assert read.header.get_xyzt_units()[0] == "mm"
        for corner in np.ndindex(2, 2, 2):
            index = [int(c * (n - 1)) for c, n in zip(corner, data.shape, strict=True)]
            place = expected.TransformIndexToPhysicalPoint(index)
            for affine in (read.get_sform(), read.get_qform()):
                ras = (affine @ [*index, 1])[:3]
                assert np.allclose(ras * [-1, -1, 1], place, atol=1e-3)
    gz = (tmp_path / "a.nii.gz").read_bytes()
    intake_idc.to_nifti(volume, tmp_path / "again.nii.gz")
    assert (tmp_path / "again.nii.gz").read_bytes() == gz
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.nii",
        "a.nii.gz",
        "again.nii.gz",
    }


# The sample, in full.


def test_what_is_said_of_a_volume():
    found = CT.to_volume()
    assert isinstance(found.data, da.Array)
    assert found.dtype == np.uint16
    expected = {
        "Modality": "CT",
        "PatientID": "PLASTIC",
        "verdict": "regular",
        "idc_version": 2,
        "crdc_series_uuid": CT.manifest().uuids[0],
        "SeriesInstanceUID": CT.keys()[0],
        "slope": 1.0,
        "intercept": -1024.0,
        "rescaled": 0,
        "aside": [],
        "tilt": 0.0,
    }
    assert {name: found.attrs[name] for name in expected} == expected
    assert "units" not in found.attrs
    affine = np.array(found.attrs["affine"])
    assert np.allclose(affine[:3, 3], [-115.5, -1.85, 771.21])
    assert np.allclose(found.slice, [771.21, 776.21, 781.21])
    assert np.allclose(found.row, np.arange(512) * 0.451171875)
    place = affine @ [2, 100, 7, 1]
    assert np.allclose(
        place[:3],
        [
            float(found.position_x[2]) + float(found.column[7]),
            float(found.position_y[2]) + float(found.row[100]),
            float(found.position_z[2]),
        ],
    )
    listed = instances(CT.manifest().parts(), resolve_mirror("sample"))
    uuids = {one.crdc_instance_uuid for one in listed}
    assert set(found.crdc_instance_uuid.values.tolist()) == uuids
    rescaled = CT.to_volume(rescale=True)
    assert rescaled.dtype == np.int16
    assert rescaled.attrs["units"] == "HU"
    assert np.array_equal(rescaled, found.astype(int) - 1024)
    json.dumps(found.attrs)


def test_a_volume_travels_and_is_the_same_on_every_scheduler(bucket):
    pixels = planes(9)
    manifest = bucket.series(upright(9, pixels, RescaleSlope=2, RescaleIntercept=-5))
    options = {"rescale": True, "chunk_bytes": 3 * 4 * 6 * 4}
    found = lazy.to_volume(manifest, bucket.mirror, **options)
    assert found.data.numblocks == (3, 1, 1)
    again = lazy.to_volume(manifest, bucket.mirror, **options)
    assert found.data.name == again.data.name
    assert len(pickle.dumps(found)) < 10_000
    travelled = pickle.loads(pickle.dumps(found))
    expected = pixels * 2 - 5
    for scheduler in ("threads", "sync", "processes"):
        with dask.config.set(scheduler=scheduler):
            assert np.array_equal(travelled.values, expected)
            assert travelled.compute().identical(found.compute())


@pytest.mark.filterwarnings("ignore")
def test_a_volume_is_the_same_on_a_cluster(bucket):
    pixels = planes(9)
    manifest = bucket.series(upright(9, pixels))
    found = lazy.to_volume(manifest, bucket.mirror, chunk_bytes=144)
    on_threads = found.compute()
    with (
        LocalCluster(
            n_workers=1,
            processes=False,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster),
    ):
        on_cluster = found.compute()
    assert on_cluster.identical(on_threads)
    assert np.array_equal(on_cluster, pixels)


def test_a_series_is_made_a_volume_on_a_worker():
    def mean(series):
        volume = series.to_volume(rescale=True)
        assert isinstance(volume.data, np.ndarray)
        return volume.attrs["SeriesInstanceUID"], float(volume.mean())

    (found,) = CT.map_series(mean).compute()
    volume = CT.to_volume(rescale=True)
    assert found == (CT.keys()[0], pytest.approx(float(volume.mean())))


def test_chunks_are_runs_of_slices(bucket):
    files = upright(50, planes(50, (2, 2)))
    manifest = bucket.series(files)
    for bound, chunks in [
        (None, (50,)),
        ("160 B", (17, 17, 16)),
        (8, (1,) * 50),
        (1, (1,) * 50),
    ]:
        found = lazy.to_volume(manifest, bucket.mirror, chunk_bytes=bound)
        sizes = found.data.chunks[0]
        assert sum(sizes) == 50
        if bound != "160 B":
            assert sizes == chunks
        else:
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) * 8 <= 160
    for bound in (0, -1, "much"):
        with pytest.raises(RequestError):
            lazy.to_volume(manifest, bucket.mirror, chunk_bytes=bound)


# The worked-out truth.


def test_order_is_by_place_and_never_by_instance_number(bucket):
    pixels = planes(12)
    files = [
        dicom_of((0, 0, -3.0 * k), pixels[k], InstanceNumber=k + 1, SliceLocation=k)
        for k in range(12)
    ]
    found = bucket.volume(files)
    assert np.array_equal(found, pixels[::-1])
    assert np.allclose(found.slice, np.arange(-33, 1, 3))


def test_a_tilted_gantry_is_a_shear_in_affine_and_nifti(bucket, tmp_path):
    pixels = planes(4)
    found = bucket.volume(upright(4, pixels, orientation=TILTED))
    assert found.attrs["verdict"] == "tilted"
    assert found.attrs["tilt"] == pytest.approx(14)
    assert found.attrs["spacing"] == pytest.approx(
        [5 * math.cos(math.radians(14)), 2, 3]
    )
    affine = np.array(found.attrs["affine"])
    assert np.allclose(affine[:3, 0], [0, 0, 5])
    assert np.array_equal(found, pixels)
    intake_idc.to_nifti(found, tmp_path / "tilted.nii")
    read = nibabel.load(tmp_path / "tilted.nii")
    assert (read.header["sform_code"], read.header["qform_code"]) == (1, 0)
    for index in [(0, 0, 0), (3, 0, 0), (3, 3, 5), (1, 2, 0)]:
        ras = (read.affine @ [*index[::-1], 1])[:3]
        assert np.allclose(ras * [-1, -1, 1], (affine @ [*index, 1])[:3], atol=1e-4)
        assert np.asanyarray(read.dataobj)[index[::-1]] == pixels[index]
    with pytest.raises(GeometryError, match=r"sheared by 14\.00 degrees") as caught:
        intake_idc.to_sitk(found)
    assert caught.value.verdict == "tilted"
    held = intake_idc.to_sitk(found, sheared=True)
    place = held.TransformIndexToPhysicalPoint((5, 3, 3))
    assert np.allclose(place, (affine @ [3, 3, 5, 1])[:3])


def test_a_missing_slice_is_told_and_never_invented(bucket):
    pixels = planes(6)
    files = upright(6, pixels)
    del files[4]
    with pytest.raises(GeometryError, match="1 missing at 20 mm") as caught:
        bucket.volume(files)
    assert caught.value.verdict == "missing"
    found = bucket.volume(files, strict=False)
    assert np.array_equal(found, np.delete(pixels, 4, 0))
    assert found.position_z.values.tolist() == [0, 5, 10, 15, 25]
    assert found.attrs["missing"] == [20.0]
    assert "affine" not in found.attrs
    for use in (lazy.grid_of, intake_idc.to_nifti, intake_idc.to_sitk):
        with pytest.raises(GeometryError, match="no affine"):
            use(found)
    whole = lazy.grid_of(bucket.volume(upright(6, pixels)).isel(slice=slice(2, 4)))
    assert whole.origin == (10, -20, 10)


def test_duplicates_come_side_by_side_with_what_tells_them_apart(bucket):
    pixels = planes(5)
    heights = [0, 5, 5, 10, 15]
    files = [
        dicom_of((0, 0, z), pixels[n], InstanceNumber=n + 1)
        for n, z in enumerate(heights)
    ]
    with pytest.raises(GeometryError) as caught:
        bucket.volume(files)
    assert caught.value.verdict == "duplicate"
    found = bucket.volume(files, strict=False)
    assert found.slice.values.tolist() == heights
    assert found.instance_number.values.tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(found, pixels)


def test_several_stacks_are_a_tree_the_largest_first(bucket):
    along_z, along_x = planes(5), planes(3)
    sideways = [0, 1, 0, 0, 0, -1]
    files = upright(5, along_z) + [
        dicom_of((-4.0 * k, 0, 0), along_x[k], sideways) for k in range(3)
    ]
    found = bucket.volume(files)
    assert isinstance(found, xarray.DataTree)
    assert found.attrs["verdict"] == "several stacks"
    assert list(found.children) == ["stack0", "stack1"]
    first, second = (found[name]["volume"] for name in found.children)
    assert np.array_equal(first, along_z)
    # The normal of this orientation points to -x.
    assert np.array_equal(second, along_x)
    assert np.allclose(np.array(second.attrs["affine"])[:3, 0], [-4, 0, 0])
    assert lazy.to_sitk(second).GetSpacing() == (3, 2, 4)
    assert pickle.loads(pickle.dumps(found)).compute().identical(found.compute())


def test_localizers_are_set_aside_and_named(bucket):
    pixels = planes(3)
    scout = dicom_of((0, 0, 0), planes(1)[0], ImageType=["ORIGINAL", "LOCALIZER"])
    report = saved(image(SOPInstanceUID="1.2.77", Rows=None, Columns=None))
    found = bucket.volume([*upright(3, pixels), scout, report])
    assert found.attrs["verdict"] == "localizers set aside"
    assert sorted(one.split(": ")[1] for one in found.attrs["aside"]) == [
        "localizer",
        "no image",
    ]
    assert "1.2.77: no image" in found.attrs["aside"]
    assert np.array_equal(found, pixels)


def test_times_are_a_leading_axis(bucket, tmp_path):
    pixels = planes(12).reshape(3, 4, 4, 6)
    files = [
        dicom_of(
            (0, 0, 2.5 * k), pixels[t, k], Modality="MR", TriggerTime=100.0 + 40 * t
        )
        for t in range(3)
        for k in range(4)
    ]
    found = bucket.volume(files)
    assert found.dims == ("time", "slice", "row", "column")
    assert np.array_equal(found, pixels)
    assert found.time.values.tolist() == [100, 140, 180]
    assert found.time.attrs["units"] == "ms"
    assert found.position_z.dims == ("slice",)
    assert found.position_z.values.tolist() == [0, 2.5, 5, 7.5]
    mean = found.mean("time", keep_attrs=True)
    assert lazy.grid_of(mean) == lazy.grid_of(found.sel(time=140))
    with pytest.raises(GeometryError, match="time is empty"):
        lazy.grid_of(found[:0])
    read = intake_idc.to_nifti(found, tmp_path / "fmri.nii")
    read = nibabel.load(tmp_path / "fmri.nii")
    assert np.array_equal(np.asanyarray(read.dataobj), pixels.transpose(3, 2, 1, 0))
    assert read.header.get_zooms() == (3, 2, 2.5, 40)
    assert read.header.get_xyzt_units() == ("mm", "msec")
    held = intake_idc.to_sitk(found)
    assert np.array_equal(sitk.GetArrayFromImage(held), pixels)
    assert held.GetSpacing() == (3, 2, 2.5, 40)
    manifest = bucket.series(files)
    for bound, chunks in [(400, ((2, 1), (4,))), (96, ((1, 1, 1), (2, 2)))]:
        cut = lazy.to_volume(manifest, bucket.mirror, chunk_bytes=bound)
        assert cut.data.chunks[:2] == chunks
        assert np.array_equal(cut, pixels)


def test_places_that_move_with_time_are_kept_of_each_time(bucket):
    beside = [0.0, 0.05]
    files = [
        dicom_of((x, 0, 5 * k), planes(1)[0], TemporalPositionIdentifier=t)
        for t, x in enumerate(beside)
        for k in range(3)
    ]
    found = bucket.volume(files)
    assert found.position_x.dims == ("time", "slice")
    assert found.position_x.values.tolist() == [[x] * 3 for x in beside]
    assert [lazy.grid_of(found[t]).origin[0] for t in range(2)] == beside


def test_slices_with_times_of_their_own_keep_them(bucket):
    pixels = planes(6).reshape(2, 3, 4, 6)
    files = [
        dicom_of((0, 0, 2.0 * k), pixels[t, k], AcquisitionTime=f"1200{10 * t + k:02}")
        for t in range(2)
        for k in range(3)
    ]
    found = bucket.volume(files)
    assert found.dims[0] == "time"
    assert np.array_equal(found, pixels)
    assert found.acquisition_time.dims == ("time", "slice")
    noon = 12 * 3600
    assert found.acquisition_time.values.tolist() == [
        [noon, noon + 1, noon + 2],
        [noon + 10, noon + 11, noon + 12],
    ]


def test_two_things_that_tell_apart_are_two_coordinates(bucket):
    pixels = planes(8).reshape(4, 2, 4, 6)
    told = [(echo, kind) for echo in (10.0, 20.0) for kind in "MP"]
    files = [
        dicom_of(
            (0, 0, 2.0 * k),
            pixels[n, k],
            EchoTime=echo,
            ImageType=["ORIGINAL", "PRIMARY", kind],
        )
        for n, (echo, kind) in enumerate(told)
        for k in range(2)
    ]
    found = bucket.volume(files)
    assert found.dims[0] == "echo_part"
    assert found.echo_time.values.tolist() == [10, 10, 20, 20]
    assert found.image_type.values.tolist() == ["M", "P", "M", "P"]
    order = [told.index((e, k)) for e, k in zip([10, 10, 20, 20], "MPMP", strict=True)]
    assert np.array_equal(found, pixels[order])


def test_pet_keeps_the_slope_of_every_slice(bucket):
    pixels = planes(4)
    slopes = [1.5, 2.25, 0.125, 3.0]
    files = [
        dicom_of(
            (0, 0, 3.0 * k),
            pixels[k],
            Modality="PT",
            RescaleSlope=slopes[k],
            RescaleIntercept=0,
            Units="BQML",
        )
        for k in range(4)
    ]
    raw = bucket.volume(files)
    assert raw.dtype == np.int16
    assert raw.slope.values.tolist() == slopes
    assert np.array_equal(raw, pixels)
    found = bucket.volume(files, rescale=True)
    assert found.dtype == np.float32
    assert found.attrs["units"] == "BQML"
    expected = pixels * np.array(slopes, np.float32)[:, None, None]
    assert np.array_equal(found, expected)


def test_a_colour_stack_has_samples_last(bucket):
    pixels = NOISE.integers(0, 255, (3, 4, 6, 3)).astype(np.uint8)
    more = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
    }
    found = bucket.volume(upright(3, pixels, **more))
    assert found.dims == ("slice", "row", "column", "sample")
    assert found.sample.values.tolist() == ["R", "G", "B"]
    assert np.array_equal(found, pixels)
    data = np.asanyarray(intake_idc.to_nifti(found).dataobj)
    assert np.array_equal(data["G"], pixels[..., 1].T)
    held = intake_idc.to_sitk(found)
    assert np.array_equal(sitk.GetArrayFromImage(held), pixels)


def enhanced(pixels, heights) -> bytes:
    """An enhanced CT whose frames are not in the order of their places."""
    groups = []
    for z in heights:
        place, frame = image(), image()
        place.clear()
        frame.clear()
        place.ImagePositionPatient = [1.0, 2.0, float(z)]
        frame.PlanePositionSequence = [place]
        groups.append(frame)
    direction, measures, shared = image(), image(), image()
    for one in (direction, measures, shared):
        one.clear()
    direction.ImageOrientationPatient = FLAT
    measures.PixelSpacing = [2.0, 3.0]
    shared.PlaneOrientationSequence = [direction]
    shared.PixelMeasuresSequence = [measures]
    return dicom_of(
        (0, 0, 0),
        pixels,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        Rows=pixels.shape[1],
        Columns=pixels.shape[2],
        NumberOfFrames=len(pixels),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups,
    )


@pytest.mark.parametrize("chunk_bytes", [None, 2 * 48], ids=["whole", "frames"])
def test_frames_of_an_enhanced_object_are_slices(bucket, chunk_bytes):
    pixels = planes(6)
    heights = [10, 0, 25, 5, 20, 15]
    found = bucket.volume([enhanced(pixels, heights)], chunk_bytes=chunk_bytes)
    order = np.argsort(heights)
    assert np.array_equal(found, pixels[order])
    assert found.frame_number.values.tolist() == order.tolist()
    assert np.array(found.attrs["affine"])[:3, 3].tolist() == [1, 2, 0]
    assert found.attrs["spacing"] == [5, 2, 3]


@pytest.mark.parametrize(
    ("types", "units"),
    [
        ([None] * 3, "HU"),
        (["HU"] * 3, "HU"),
        (["ED"] * 3, "ED"),
        (["US"] * 3, None),
        (["HU", "HU", "ED"], None),
    ],
)
def test_units_are_those_that_every_slice_names(bucket, types, units):
    single = [
        dicom_of((0, 0, 5 * k), planes(1)[0], **({"RescaleType": kind} if kind else {}))
        for k, kind in enumerate(types)
    ]
    assert bucket.volume(single, rescale=True).attrs.get("units") == units
    frames = read(enhanced(planes(3), [0, 5, 10]))
    groups = frames.PerFrameFunctionalGroupsSequence
    for kind, group in zip(types, groups, strict=True):
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept = 1, -1024
        if kind:
            values.RescaleType = kind
        group.PixelValueTransformationSequence = [values]
    found = bucket.volume([saved(frames)], rescale=True)
    assert found.attrs.get("units") == units


@pytest.mark.parametrize("whole_bytes", [0, 2**24], ids=["ranges", "whole"])
def test_large_objects_are_read_by_their_frames(bucket, monkeypatch, whole_bytes):
    monkeypatch.setattr(loading, "WHOLE_BYTES", whole_bytes)
    pixels = planes(8, (320, 300))
    manifest = bucket.series([enhanced(pixels, range(8))])
    assert next(bucket.root.rglob("*.dcm")).stat().st_size > SMALL_BYTES
    at_once = lazy.to_volume(manifest, bucket.mirror, compute=True)
    assert np.array_equal(at_once, pixels)
    found = lazy.to_volume(manifest, bucket.mirror, chunk_bytes=2 * 320 * 300 * 2)
    assert found.data.numblocks == (4, 1, 1)
    assert found.compute().identical(at_once)


def test_a_single_slice_and_nothing_are_no_volume(bucket):
    with pytest.raises(GeometryError, match="one slice only"):
        bucket.volume(upright(1))
    assert bucket.volume(upright(1), strict=False).shape == (1, 4, 6)
    report = saved(image(Rows=None, Columns=None))
    for strict in (True, False):
        with pytest.raises(GeometryError):
            bucket.volume([report], strict=strict)
    with pytest.raises(EmptySelection):
        lazy.to_volume([])


def test_values_beyond_what_headers_say_are_an_error(bucket):
    pixels = planes(3)
    manifest = bucket.series(upright(3, pixels), shuffle=False)
    found = lazy.to_volume(manifest, bucket.mirror)
    wide = upright(3, planes(3, (4, 8)))
    for path, data in zip(sorted(bucket.root.rglob("*.dcm")), wide, strict=True):
        path.write_bytes(data)
    with pytest.raises((IntegrityError, OSError)):
        found.compute()
    bits = [dicom_of((0, 0, k), p + 5000, BitsStored=12) for k, p in enumerate(pixels)]
    with pytest.raises(GeometryError, match="do not fit"):
        bucket.volume(bits, rescale=True, dtype=np.int8)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u2", "i8"])
def test_a_dtype_that_holds_the_values_is_given(bucket, dtype):
    pixels = planes(3)
    found = bucket.volume(upright(3, pixels), dtype=dtype)
    assert found.dtype == dtype
    assert np.array_equal(found, pixels)
    half = upright(3, pixels, RescaleSlope=1.5, RescaleIntercept=-10)
    if np.dtype(dtype).kind == "f":
        found = bucket.volume(half, rescale=True, dtype=dtype)
        assert found.dtype == dtype
        assert np.array_equal(found, pixels * 1.5 - 10)
    else:
        with pytest.raises(RequestError, match="these values are float32"):
            bucket.volume(half, rescale=True, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        ("i1", {}),
        ("u1", {}),
        ("u2", {"rescale": True}),
        ("i1", {"rescale": True}),
    ],
)
@pytest.mark.parametrize("compute", [False, True], ids=["lazy", "at once"])
def test_values_that_do_not_fit_a_dtype_never_wrap(bucket, dtype, more, compute):
    pixels = planes(3)
    pixels[:, 0, 0], pixels[:, 0, 1] = 0, 999
    manifest = bucket.series(upright(3, pixels, RescaleSlope=1, RescaleIntercept=-9))
    options = {"dtype": dtype, "compute": compute, **more}
    with pytest.raises(GeometryError, match="do not fit"):
        lazy.to_volume(manifest, bucket.mirror, **options).compute()


@pytest.mark.parametrize("compute", [False, True], ids=["lazy", "at once"])
def test_units_that_are_by_a_table_are_not_made_up(bucket, compute):
    item = Dataset()
    item.ModalityLUTType = "HU"
    pixels = planes(3)
    manifest = bucket.series(upright(3, pixels, ModalityLUTSequence=[item]))
    with pytest.raises(RequestError, match="Modality LUT"):
        lazy.to_volume(manifest, bucket.mirror, rescale=True, compute=compute)
    stored = lazy.to_volume(manifest, bucket.mirror, compute=compute)
    assert np.array_equal(stored, pixels)


def test_floats_that_would_become_infinite_do_not_fit(bucket):
    wide = planes(3, dtype=np.uint16)
    wide[1, 2, 3] = 65530
    with pytest.raises(GeometryError, match="65530 do not fit float16"):
        bucket.volume(upright(3, wide), dtype="f2").compute()
    assert bucket.volume(upright(3, wide // 100), dtype="f2").dtype == "f2"


@pytest.mark.parametrize("dtype", ["S5", "U5", "O", "c8", "?", "M8[ns]", "int17"])
def test_values_are_real_numbers(dtype):
    with pytest.raises(RequestError, match=r"dtype is one of|whole numbers or floats"):
        CT.to_volume(dtype=dtype)


# One series, many, and the index.


def test_one_series_makes_a_volume_and_many_a_mapping(tmp_path, bucket):
    both = SAMPLE.search(Modality=["CT", "MR"])
    with pytest.raises(RequestError, match=r"these are 2\. volumes\(\)"):
        both.to_volume()
    # Nothing is there to be read.
    volumes = both.volumes(mirror=tmp_path)
    assert list(volumes) == both.keys()
    assert len(volumes) == 2
    assert "1.2" not in volumes
    with pytest.raises(FileNotFoundError):
        volumes[both.keys()[0]]
    volumes = pickle.loads(pickle.dumps(both.volumes(rescale=True)))
    for uid, cohort in ((CT.keys()[0], CT), (MR.keys()[0], MR)):
        assert volumes[uid].identical(cohort.to_volume(rescale=True))
    with pytest.raises(KeyError):
        volumes["1.2"]
    nameless = lazy.Volumes(bucket.series(upright(2)), bucket.mirror)
    with pytest.raises(RequestError, match="lacks"):
        len(nameless)
    assert repr(volumes) == "<Volumes of 2 series>"
    assert volumes != both.volumes(rescale=True)


def test_objects_of_two_series_make_no_volume():
    objects = SAMPLE.search(Modality=["CT", "MR"]).to_dask().compute()
    with pytest.raises(RequestError, match="these objects are of 2"):
        lazy.to_volume(objects)
    few = lazy.to_volume(
        [o for o in objects if o.crdc_series_uuid in CT.manifest().uuids]
    )
    assert np.array_equal(few, CT.to_volume())


def index_tables(folder, **changes):
    """Tables of the sample, with the geometry of the CT series."""
    shutil.copytree(sample_path() / "tables", folder)
    volume = CT.to_volume()
    row = {
        "SeriesInstanceUID": CT.keys()[0],
        "regularly_spaced_3d_volume": True,
        "origin_patient": np.array(volume.attrs["affine"])[:3, 3].tolist(),
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "slice_spacing_mm": 5.0,
        **changes,
    }
    pq.write_table(
        pa.Table.from_pylist([row]), folder / "volume_geometry_index.parquet"
    )
    row = {
        "SeriesInstanceUID": CT.keys()[0],
        "Rows": 512,
        "Columns": 512,
        "PixelSpacing_row_mm": 0.451171875,
        "PixelSpacing_col_mm": 0.451171875,
    }
    pq.write_table(pa.Table.from_pylist([row]), folder / "ct_index.parquet")
    found = open_idc(2, tables=folder, mirror="sample")
    return found.search(Modality="CT")


@pytest.mark.servers
def test_the_index_gives_shape_and_affine_and_no_object_is_read(tmp_path, s3_nginx):
    cohort = index_tables(tmp_path / "tables")
    mirror = resolve_mirror("s3://{aws_bucket}", endpoint_url=s3_nginx.endpoint)
    s3_nginx.reset()
    declared = cohort.to_volume(mirror=mirror, dtype=np.uint16)
    assert s3_nginx.requests() == []
    one = cohort.to_volume(mirror=mirror)
    got = [r for r in s3_nginx.requests() if ".dcm" in r.uri]
    assert [request.range for request in got] == ["bytes=0-16383"]
    expected = CT.to_volume()
    for found in (declared, one):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        for name in ("affine", "spacing"):
            assert np.allclose(found.attrs[name], expected.attrs[name])
        for name in ("tilt", "verdict", "SeriesInstanceUID", "Modality"):
            assert found.attrs[name] == expected.attrs[name]
        for name in ("slice", "row", "column", "position_x", "position_z"):
            assert np.allclose(found[name], expected[name])
        assert found.data.npartitions == 1
    s3_nginx.reset()
    assert np.array_equal(declared, expected)
    got = [r for r in s3_nginx.requests() if ".dcm" in r.uri]
    assert len(got) == 3
    assert len({request.uri for request in got}) == 3
    rescaled = cohort.volumes(mirror=mirror, rescale=True)[CT.keys()[0]]
    assert (rescaled.dtype, rescaled.attrs["units"]) == (np.int16, "HU")
    assert np.array_equal(rescaled, CT.to_volume(rescale=True))


@pytest.mark.parametrize(
    "changes",
    [{"slice_spacing_mm": 5.2}, {"origin_patient": [0.0, 0.0, 0.0]}],
    ids=["spacing", "origin"],
)
def test_an_index_that_is_wrong_is_found_out(tmp_path, changes):
    cohort = index_tables(tmp_path / "tables", **changes)
    with pytest.raises(IntegrityError, match="use_index=False"):
        cohort.to_volume().compute()
    right = cohort.to_volume(use_index=False)
    assert right.identical(CT.to_volume())


@pytest.mark.parametrize(
    "changes",
    [
        {"regularly_spaced_3d_volume": False},
        {"slice_spacing_mm": None},
        {"SeriesInstanceUID": "1.2.3"},
    ],
    ids=["irregular", "null", "another series"],
)
def test_what_the_index_does_not_say_headers_do(tmp_path, changes):
    cohort = index_tables(tmp_path / "tables", **changes)
    assert cohort.to_volume().identical(CT.to_volume())


def test_the_index_says_nothing_of_an_older_release_with_other_bytes(tmp_path):
    index_tables(tmp_path / "tables")
    old = open_idc(1, tables=tmp_path / "tables", mirror="sample").search(Modality="CT")
    assert old.to_volume(dtype=np.uint16).shape == (2, 512, 512)


# What is left of a volume.


def test_a_cut_volume_knows_where_it_lies(bucket):
    volume = bucket.volume(upright(8, planes(8)))
    whole = lazy.grid_of(volume)
    assert np.allclose(whole.affine, volume.attrs["affine"])
    part = volume.isel(slice=slice(6, 1, -2), row=slice(1, None, 2), column=slice(2, 5))
    grid = lazy.grid_of(part)
    assert grid.shape == part.shape
    for index in np.ndindex(*part.shape):
        k, j, i = index
        assert np.allclose(
            grid.to_mm(index), whole.to_mm((6 - 2 * k, 1 + 2 * j, 2 + i))
        )
    for lost in (
        volume.isel(slice=[0, 1, 3]),
        volume.isel(slice=slice(0, 0)),
        volume.isel(slice=0),
        volume.drop_vars("position_x"),
        volume.drop_attrs(),
        volume.isel(row=slice(0, 0)),
        volume.pad(slice=1),
        volume.pad(column=(2, 0)),
        volume.reindex(slice=[-5.0, *volume.slice.values]),
    ):
        with pytest.raises(GeometryError):
            lazy.grid_of(lost)
    for other in ("volume", volume.values):
        with pytest.raises(RequestError, match=r"xarray\.DataArray; got"):
            lazy.grid_of(other)


def test_a_tilted_volume_stays_one_when_it_is_turned_or_cut_to_a_slice(bucket):
    volume = bucket.volume(upright(6, planes(6), orientation=TILTED))
    whole = lazy.grid_of(volume)
    turned = lazy.grid_of(volume[::-1])
    assert np.allclose((turned.tilt, turned.spacing[0]), (14, whole.spacing[0]))
    assert np.allclose(turned.affine[:3, 0], -whole.affine[:3, 0])
    for part in (volume[::-1], volume[2:3]):
        with pytest.raises(GeometryError, match=r"sheared by 14\.00 degrees"):
            intake_idc.to_sitk(part)
        image = intake_idc.to_nifti(part)
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (
            1,
            0,
        )


def test_attributes_of_one_dimension_say_where_a_volume_lies_as_well():
    volume = CT.to_volume()
    flat = volume.assign_attrs(affine=np.ravel(volume.attrs["affine"]))
    assert lazy.grid_of(flat) == lazy.grid_of(volume)


def test_what_other_libraries_cannot_hold_is_refused(bucket, tmp_path):
    volume = bucket.volume(upright(3))
    with pytest.raises(RequestError, match=r"\.nii or \.nii\.gz"):
        intake_idc.to_nifti(volume, tmp_path / "a.img")
    for kind in (np.float16, np.complex64):
        for use in (intake_idc.to_nifti, intake_idc.to_sitk):
            if (kind, use) == (np.complex64, intake_idc.to_sitk):
                continue
            with pytest.raises(RequestError, match="astype"):
                use(volume.astype(kind))
    assert intake_idc.to_nifti(volume.astype(np.int64)).get_data_dtype() == np.int64
    twice = volume.expand_dims(["a", "b"])
    for use in (intake_idc.to_nifti, intake_idc.to_sitk):
        with pytest.raises(RequestError, match="one leading axis"):
            use(twice)
    assert not list(tmp_path.glob("*.img"))


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("xarray", "volumes", CT.to_volume),
        ("nibabel", "nifti", lambda: intake_idc.to_nifti(CT.to_volume())),
        ("SimpleITK", "sitk", lambda: intake_idc.to_sitk(CT.to_volume())),
    ],
)
def test_an_extra_that_is_missing_is_named(monkeypatch, module, extra, use):
    CT.to_volume()
    # What Python does with a module that is not there.
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingError, match=rf"intake-idc\[{extra}\]"):
        use()


# Windows.


def by_the_letter(x, center, width, function, low, high):  # noqa: PLR0911
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, one value at a time."""
    if function == "SIGMOID":
        return (high - low) / (1 + math.exp(-4 * (x - center) / width)) + low
    if function == "LINEAR_EXACT":
        if x <= center - width / 2:
            return low
        if x > center + width / 2:
            return high
        return ((x - center) / width + 0.5) * (high - low) + low
    if x <= center - 0.5 - (width - 1) / 2:
        return low
    if x > center - 0.5 + (width - 1) / 2:
        return high
    return ((x - (center - 0.5)) / (width - 1) + 0.5) * (high - low) + low


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    ("center", "width"), [(40, 400), (2048, 4096), (0, 1), (0, 100), (0.5, 1), (-5, 2)]
)
@pytest.mark.parametrize("output", [(0, 1), (0, 255), (1, -1)])
def test_a_window_does_what_the_standard_says(function, center, width, output):
    values = np.arange(-300, 4200, 3, dtype=np.int16)
    if function == "SIGMOID":
        values = values[np.abs(values - center) < 150 * width]
    expected = [
        by_the_letter(float(x), center, width, function, *output) for x in values
    ]
    options = {"function": function, "output": output}
    found = window(values, center, width, **options)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-3)
    lazily = window(da.from_array(values, chunks=100), center, width, **options)
    assert np.array_equal(lazily.compute(), found)
    labelled = xarray.DataArray(values, dims="x", coords={"x": values})
    labelled = window(labelled, center, width, **options)
    assert np.array_equal(labelled, found)
    assert labelled.x.equals(xarray.DataArray(values, dims="x", coords={"x": values}).x)


def test_a_window_that_is_none_is_refused():
    values = np.zeros(3)
    for center, width, options in [
        (0, 0.5, {}),
        (0, 0, {"function": "LINEAR_EXACT"}),
        (0, -1, {"function": "SIGMOID"}),
        (math.nan, 1, {}),
        (0, math.inf, {}),
        (0, 1, {"output": (0, math.nan)}),
        (0, 1, {"function": "linear"}),
    ]:
        with pytest.raises(RequestError):
            window(values, center, width, **options)
    assert window(np.zeros(1, np.int32), 0, 1).dtype == np.float64
    far = np.array([-1e30, 1e30], np.float32)
    assert window(far, 0, 1, function="SIGMOID").tolist() == [0, 1]


def test_a_mask_goes_out_as_bytes(tmp_path):
    volume = CT.to_volume()
    mask = volume > 500
    mask.attrs.update(volume.attrs)
    image = intake_idc.to_nifti(mask, tmp_path / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert int(np.asarray(image.dataobj).sum()) == int(mask.sum())
    other = sitk.GetArrayFromImage(intake_idc.to_sitk(mask))
    assert int(other.sum()) == int(mask.sum())
