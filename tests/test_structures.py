"""Contours of structure sets, and doses: as pydicom has them, at their places."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from derived import (
    FRAME_OF_REFERENCE,
    OBLIQUE,
    common,
    ct_slices,
    files,
    mirror_of,
    series,
)
from images import image, read, saved
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from intake_idc import dicom, lazy, open_idc, volume
from intake_idc.errors import (
    DicomReadError,
    EmptySelection,
    GeometryError,
    RequestError,
)

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
SAMPLE = open_idc(2, tables="sample")


def item(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def contour(points, images=("1.2.3.1",), kind="CLOSED_PLANAR", **elements) -> Dataset:
    found = item(
        ContourGeometricType=kind,
        NumberOfContourPoints=len(points) // 3,
        ContourData=points,
        **elements,
    )
    if images:
        found.ContourImageSequence = [
            item(ReferencedSOPClassUID="1.2", ReferencedSOPInstanceUID=uid)
            for uid in images
        ]
    return found


def structure_set(syntax=ExplicitVRLittleEndian, uid="1.2.9.1") -> Dataset:
    """Two regions with contours, one without, and one that nothing describes."""
    dataset = common(image(syntax, SOPClassUID=STRUCTURE_SET, SOPInstanceUID=uid))
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(dataset, keyword)
    dataset.SeriesInstanceUID, dataset.Modality = generate_uid(), "RTSTRUCT"
    dataset.StructureSetROISequence = [
        item(
            ROINumber=n, ROIName=name, ReferencedFrameOfReferenceUID=FRAME_OF_REFERENCE
        )
        for n, name in ((7, "Body"), (3, "Herz ä"), (5, "empty"))
    ]
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.RTROIObservationsSequence = [
        item(
            ObservationNumber=1, ReferencedROINumber=7, RTROIInterpretedType="EXTERNAL"
        ),
        item(ObservationNumber=2, ReferencedROINumber=3, RTROIInterpretedType=""),
    ]
    dataset.ROIContourSequence = [
        item(
            ReferencedROINumber=7,
            ROIDisplayColor=[255, 0, 128],
            ContourSequence=[
                contour([0, 0, 5, "1.5", 0, 5, "1e1", "-2.25", 5]),
                contour([4, 5, 6], ("1.2.3.1", "1.2.3.2"), "POINT"),
            ],
        ),
        item(ReferencedROINumber=5),
        item(
            ReferencedROINumber=3,
            ContourSequence=[contour([9, 8, 7, 6, 5, 4], (), "OPEN_PLANAR")],
        ),
        item(ReferencedROINumber=11, ContourSequence=[contour([1, 1, 1])]),
    ]
    return dataset


EXPECTED = {
    "SOPInstanceUID": ["1.2.9.1"] * 4,
    "ROINumber": [7, 7, 3, 11],
    "ROIName": ["Body", "Body", "Herz ä", None],
    "RTROIInterpretedType": ["EXTERNAL", "EXTERNAL", None, None],
    "contour": [0, 1, 0, 0],
    "ContourGeometricType": ["CLOSED_PLANAR", "POINT", "OPEN_PLANAR", "CLOSED_PLANAR"],
    "NumberOfContourPoints": [3, 1, 2, 1],
    "points": [
        [0.0, 0.0, 5.0, 1.5, 0.0, 5.0, 10.0, -2.25, 5.0],
        [4.0, 5.0, 6.0],
        [9.0, 8.0, 7.0, 6.0, 5.0, 4.0],
        [1.0, 1.0, 1.0],
    ],
    "ReferencedSOPInstanceUID": ["1.2.3.1", None, None, "1.2.3.1"],
    "FrameOfReferenceUID": [FRAME_OF_REFERENCE] * 3 + [None],
    "ROIDisplayColor": [[255, 0, 128]] * 2 + [None, None],
}


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_contours_are_what_the_object_says(tmp_path, syntax):
    _, (found,) = series(tmp_path, [saved(structure_set(syntax))])
    table = lazy.contour_table(found)
    assert table.drop_columns(table.column_names[:2]).to_pydict() == EXPECTED
    assert table.column_names[2:] == list(dicom.CONTOUR_COLUMNS)
    assert set(table["crdc_series_uuid"].to_pylist()) == {found.crdc_series_uuid}
    assert set(table["crdc_instance_uuid"].to_pylist()) == {found.crdc_instance_uuid}


def test_a_dataset_that_was_never_written_gives_the_same_rows():
    rows = dicom.contour_rows(structure_set())
    assert [row["points"].tolist() for row in rows] == EXPECTED["points"]


@pytest.mark.parametrize("partition_instances", [1, None])
def test_a_frame_of_contours_has_arrow_types_however_it_is_split(
    tmp_path, partition_instances
):
    uids = ["1.2.9.1", "1.2.9.2"]
    data = [saved(structure_set(uid=uid)) for uid in uids]
    manifest, _ = series(tmp_path, data)
    frame = lazy.contours(
        manifest, mirror_of(tmp_path), partition_instances=partition_instances
    )
    assert frame.npartitions == (1 if partition_instances is None else 2)
    found = frame.compute()
    assert (frame.dtypes == found.dtypes).all()
    assert str(found.dtypes["points"].pyarrow_dtype) == "list<item: double>"
    assert found["SOPInstanceUID"].tolist() == [uid for uid in uids for _ in range(4)]
    points = [np.reshape(one, (-1, 3)) for one in found["points"]]
    assert [len(one) for one in points] == found["NumberOfContourPoints"].tolist()
    totals = frame.groupby("ROINumber")["NumberOfContourPoints"].sum().compute()
    assert totals.to_dict() == {7: 8, 3: 4, 11: 2}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: setattr(c, "NumberOfContourPoints", 4), "of 4, and 9 coordinates"),
        (lambda c: setattr(c, "ContourData", [1, 2]), "no points: 2 numbers"),
    ],
)
def test_points_that_are_not_as_many_as_said_are_malformed(tmp_path, spoil, message):
    dataset = structure_set()
    spoil(dataset.ROIContourSequence[0].ContourSequence[0])
    _, (found,) = series(tmp_path, [saved(dataset)])
    with pytest.raises(DicomReadError, match=message) as raised:
        lazy.contour_table(found)
    assert raised.value.kind == "malformed"
    assert raised.value.url == found.url


@pytest.mark.parametrize("text", [b"1_0 ", b"nan ", b"1e999", b"x.25 ", b"     "])
def test_a_coordinate_that_is_no_number_is_malformed(tmp_path, text):
    data = saved(structure_set())
    assert data.count(b"-2.25") == 1
    _, (found,) = series(tmp_path, [data.replace(b"-2.25", text.ljust(5)[:5])])
    with pytest.raises(DicomReadError, match="region 7, contour 0 has a coordinate"):
        lazy.contour_table(found)


def test_what_is_no_structure_set_is_left_out_or_told(tmp_path):
    data = [saved(structure_set()), *files(ct_slices(1))]
    manifest, _ = series(tmp_path, data)
    mirror = mirror_of(tmp_path)
    with pytest.raises(DicomReadError, match="is no RT Structure Set") as raised:
        lazy.contours(manifest, mirror).compute()
    assert raised.value.kind == "other class"
    assert len(lazy.contours(manifest, mirror, on_error="skip").compute()) == 4
    with pytest.raises(RequestError, match="contour_table"):
        lazy.contours(manifest, mirror, on_error="collect")
    bag = lazy.map_objects(lazy.contour_table, manifest, mirror, on_error="collect")
    tables, failures = bag.collected()
    assert pa.concat_tables(tables).num_rows == 4
    assert failures["kind"].to_pylist() == ["other class"]


def test_the_verb_reads_nothing_before_compute(tmp_path):
    frame = SAMPLE.search(Modality="CT").contours(mirror=tmp_path)
    assert frame.npartitions == 1
    with pytest.raises(EmptySelection):
        SAMPLE.query("Modality = 'RTSTRUCT'").contours()


# Doses.


def dose(
    offsets, *, bits=32, orientation=(1, 0, 0, 0, 1, 0), **elements
) -> tuple[Dataset, np.ndarray]:
    """An RT Dose, and its stored values."""
    shape = len(offsets), 4, 5
    stored = np.random.default_rng(0).integers(0, 2**bits, shape, f"u{bits // 8}")
    dataset = common(image(SOPClassUID=DOSE, SOPInstanceUID="1.2.8"))
    dataset.SeriesInstanceUID, dataset.Modality = generate_uid(), "RTDOSE"
    dataset.Rows, dataset.Columns = 4, 5
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.ImagePositionPatient = [-7, 11, "13.5"]
    dataset.ImageOrientationPatient = [f"{v:.8f}" for v in orientation]
    dataset.PixelSpacing = [3, 2]
    dataset.NumberOfFrames = len(offsets)
    dataset.FrameIncrementPointer = 0x3004000C
    dataset.GridFrameOffsetVector = list(offsets)
    dataset.DoseUnits, dataset.DoseType, dataset.DoseSummationType = (
        "GY",
        "PHYSICAL",
        "PLAN",
    )
    dataset.DoseGridScaling = "2.5e-8"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset, stored


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize(
    ("offsets", "orientation", "order", "step"),
    [
        ([0, 2.5, 5, 7.5], (1, 0, 0, 0, 1, 0), [0, 1, 2, 3], (0, 0, 2.5)),
        ([0, -2.5, -5, -7.5], (1, 0, 0, 0, 1, 0), [3, 2, 1, 0], (0, 0, 2.5)),
        ([13.5, 16, 18.5, 21], (1, 0, 0, 0, 1, 0), [0, 1, 2, 3], (0, 0, 2.5)),
        ([13.5, 16, 18.5, 21], (1, 0, 0, 0, -1, 0), [3, 2, 1, 0], (0, 0, -2.5)),
        ([0, 2, 4, 6], OBLIQUE, [0, 1, 2, 3], 2 * volume.grid.normal_of(OBLIQUE)),
    ],
    ids=["up", "down", "by z", "by z, facing down", "oblique"],
)
def test_a_dose_is_a_volume_in_gray(tmp_path, bits, offsets, orientation, order, step):
    dataset, stored = dose(offsets, bits=bits, orientation=orientation)
    _, objects = series(tmp_path, [saved(dataset)])
    found = lazy.to_volume(objects, rescale=True)
    assert found.dtype == (np.float64 if bits == 32 else np.float32)
    scaled = stored[order] * float(dataset.DoseGridScaling)
    # Of 16 bits, float32 holds every value as exactly as it can.
    np.testing.assert_allclose(found.values, scaled, rtol={16: 1.4e-7, 32: 0}[bits])
    affine = np.array(found.attrs["affine"])
    np.testing.assert_allclose(affine[:3, 0], step, atol=1e-6)
    first = np.array([-7, 11, 13.5]) - order.index(0) * np.asarray(step)
    np.testing.assert_allclose(affine[:3, 3], first, atol=1e-6)
    assert found.attrs["units"] == "GY"
    assert found.attrs["DoseType"] == "PHYSICAL"
    assert found.attrs["DoseSummationType"] == "PLAN"
    np.testing.assert_array_equal(lazy.to_volume(objects).values, stored[order])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"GridFrameOffsetVector": [0, 1, 2]}, "4 frames, and 3 offsets"),
        ({"GridFrameOffsetVector": [9, 1, 2, 3]}, "starts at 9"),
        ({"GridFrameOffsetVector": [0, 1, 2, 9]}, "distances between slices vary"),
        ({"GridFrameOffsetVector": None}, "several frames"),
        ({"ImagePositionPatient": None}, "without a usable position"),
    ],
)
def test_a_dose_without_places_is_no_volume(tmp_path, change, message):
    dataset, _ = dose([0, 1, 2, 3], **change)
    _, objects = series(tmp_path, [saved(dataset)])
    with pytest.raises(GeometryError, match=message):
        lazy.to_volume(objects)


# Places of frames.


def test_old_frames_without_places_are_one_slice_that_is_set_aside():
    dataset = image(NumberOfFrames=8)
    (one,) = dicom.slices_of(dataset, 3)
    assert (one.index, one.frames, dicom.kind_of(dataset)) == (3, 8, "frames")
    aside = volume.arrange([one], strict=False).aside
    assert [found.reason for found in aside] == [
        "several frames, which are not made into slices"
    ]


def enhanced(count, **shared) -> Dataset:
    dataset = image(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", NumberOfFrames=count)
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.25], SliceThickness=3)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelValueTransformationSequence=[
                item(RescaleSlope=2, RescaleIntercept=-1, RescaleType="US")
            ],
            **shared,
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[1, 2, 3 * number])],
            FrameContentSequence=[item(StackID="1", TemporalPositionIndex=1)],
            MREchoSequence=[item(EffectiveEchoTime=4.5)],
        )
        for number in range(count)
    ]
    return dataset


def test_frames_of_an_enhanced_object_say_their_places_in_groups():
    header = read(saved(enhanced(3)))
    assert dicom.kind_of(header) == "enhanced"
    slices = dicom.slices_of(header, 5)
    assert [one.position for one in slices] == [(1, 2, 0), (1, 2, 3), (1, 2, 6)]
    assert {one.pixel_spacing for one in slices} == {(0.5, 0.25)}
    assert {(one.index, one.slope, one.intercept) for one in slices} == {(5, 2.0, -1.0)}
    assert {(one.stack, one.echo_time, one.temporal_position) for one in slices} == {
        ("1", 4.5, 1)
    }
    assert volume.arrange(slices).verdict == "regular"


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda d: setattr(d, "NumberOfFrames", 4),
            GeometryError,
            "4 frames, and 3 items",
        ),
        (
            lambda d: setattr(
                d.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0],
                "ImagePositionPatient",
                [1, 2],
            ),
            GeometryError,
            "frame 1: ImagePositionPatient is .*3 numbers are expected",
        ),
        (
            lambda d: d.add_new(0x52009230, "LO", "no sequence"),
            DicomReadError,
            "PerFrameFunctionalGroupsSequence is no sequence",
        ),
    ],
)
def test_places_that_are_malformed_name_the_object(spoil, error, message):
    dataset = enhanced(3)
    spoil(dataset)
    with pytest.raises(error, match=message) as raised:
        dicom.slices_of(read(saved(dataset)), 0, "s3://there/one.dcm")
    assert str(raised.value).startswith("s3://there/one.dcm: ")
    assert raised.value.details["url"] == "s3://there/one.dcm"
