"""Masks: each pixel of a segmentation at its place, whatever the frames are."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import dask
import highdicom
import numpy as np
import pydicom
import pytest
from derived import (
    AXIAL,
    FRAME_OF_REFERENCE,
    OBLIQUE,
    ct_slices,
    files,
    mirror_of,
    series,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from images import saved
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from intake_idc import dicom, lazy, open_idc, volume
from intake_idc.errors import (
    DicomReadError,
    EmptySelection,
    GeometryError,
    IntegrityError,
    RequestError,
)
from intake_idc.manifest import Manifest

SAMPLE = open_idc(2, tables="sample")
LABELS = "liver", "spleen", "tumour"
TILTED = (0.0, 2.5 * np.sin(0.3), 2.5 * np.cos(0.3))


def segment(number: int, label: str) -> highdicom.seg.SegmentDescription:
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="by hand", version="1", family=codes.DCM.ArtificialIntelligence
        ),
        tracking_uid=f"1.2.3.{number}",
        tracking_id=f"the {label}",
    )


def segmentation(
    sources, pixels, kind="BINARY", syntax=ExplicitVRLittleEndian, labels=LABELS
) -> pydicom.Dataset:
    """A segmentation by highdicom; pixels are (slice, row, column[, segment])."""
    count = pixels.shape[3] if pixels.ndim == 4 else len(labels)
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[
            segment(number, label) for number, label in enumerate(labels[:count], 1)
        ],
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="nobody",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=syntax,
        max_fractional_value=200,
    )


def written(dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def blobs(shape, empty=(), seed=0) -> np.ndarray:
    """Noise of three segments that do not overlap; some planes of each are empty."""
    labels = np.random.default_rng(seed).integers(0, 4, shape)
    masks = np.stack([labels == number for number in (1, 2, 3)], -1)
    for number, plane in empty:
        masks[plane, :, :, number] = False
    return masks


SPARSE = [(0, 3), (1, 0), (1, 1), (1, 2), (2, 5)]
"""Segment and plane of what is empty."""
CUT = [*SPARSE, (0, 0), (2, 0)]
"""The same, and all of the first plane."""
GEOMETRIES = {
    "axial": {},
    "oblique": {"orientation": OBLIQUE},
    "tilted": {"step": TILTED},
    "odd pixels": {"rows": 5, "columns": 3},
}


def by_number(found, masks) -> np.ndarray:
    """The truth in the order of the array's axes."""
    return np.moveaxis(masks, -1, 0)[np.asarray(found.segment.values) - 1]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", ExplicitVRLittleEndian),
        ("FRACTIONAL", ExplicitVRLittleEndian),
        ("FRACTIONAL", RLELossless),
        ("LABELMAP", ExplicitVRLittleEndian),
        ("LABELMAP", RLELossless),
    ],
)
def test_masks_are_what_highdicom_wrote_and_reads(tmp_path, geometry, kind, syntax):
    sources = ct_slices(**GEOMETRIES[geometry])
    masks = blobs((6, sources[0].Rows, sources[0].Columns), CUT)
    pixels, expected = masks, masks
    if kind == "FRACTIONAL":
        stored = np.random.default_rng(1).integers(0, 201, masks.shape) * masks
        pixels = expected = (stored / 200).astype(np.float32)
    elif kind == "LABELMAP":
        pixels = (masks * [1, 2, 3]).sum(-1).astype(np.uint8)
    # Frames come in the order in which their images are given.
    order = [3, 0, 5, 1, 4, 2]
    dataset = segmentation([sources[i] for i in order], pixels[order], kind, syntax)
    _, (found,) = series(tmp_path, [written(dataset)])
    _, images = series(tmp_path, files(sources))
    ct = lazy.to_volume(images)

    on_images = lazy.to_masks(found, like=ct)
    assert on_images.dtype == (np.float32 if kind == "FRACTIONAL" else bool)
    np.testing.assert_array_equal(on_images.values, by_number(on_images, expected))
    np.testing.assert_allclose(on_images.attrs["affine"], ct.attrs["affine"], atol=1e-9)
    # Both align, by coordinates, without a voxel lost.
    assert ct.where(on_images[0] > 0).shape == ct.shape

    alone = lazy.to_masks(found)
    there = np.flatnonzero(masks.any(axis=(1, 2, 3)))
    first, last = there[0], there[-1]
    np.testing.assert_array_equal(
        alone.values, by_number(alone, expected)[:, first : last + 1]
    )
    np.testing.assert_allclose(
        np.array(alone.attrs["affine"])[:3, 3],
        [float(v) for v in sources[first].ImagePositionPatient],
        atol=1e-6,
    )
    planes = [sources[at].SOPInstanceUID for at in range(first, last + 1)]
    if kind == "BINARY":
        assert alone.source.values.tolist() == [
            uid if masks[first + at].any() else "" for at, uid in enumerate(planes)
        ]

    theirs = highdicom.seg.segread(io.BytesIO(found.read()))
    by_source = theirs.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in sources],
        assert_missing_frames_are_empty=True,
        skip_overlap_checks=True,
    )
    np.testing.assert_allclose(on_images.values, np.moveaxis(by_source, -1, 0))
    if geometry != "tilted":  # highdicom has no volume that is sheared
        theirs = theirs.get_volume(allow_missing_positions=True).match_geometry(
            highdicom.Volume(
                np.zeros(alone.shape[1:]),
                np.array(alone.attrs["affine"]),
                coordinate_system="PATIENT",
            )
        )
        np.testing.assert_allclose(alone.values, np.moveaxis(theirs.array, -1, 0))


@pytest.fixture
def three(tmp_path):
    """Three segments on six images: the truth, the object, and the volume."""
    sources = ct_slices()
    masks = blobs((6, 7, 9), SPARSE)
    manifest, (found,) = series(tmp_path, [written(segmentation(sources, masks))])
    _, images = series(tmp_path, files(sources))
    return masks, found, lazy.to_volume(images), manifest


def test_a_segment_says_what_it_is(three):
    _, found, _, manifest = three
    masks = lazy.to_masks(manifest, found.mirror)
    said = {
        name: masks.coords[name].values.tolist()
        for name in masks.coords
        if name != "source"
    }
    assert said["segment"] == [1, 2, 3]
    assert said["label"] == list(LABELS)
    assert said["category"] == ["Organ"] * 3
    assert said["category_code"] == [f"SCT {codes.SCT.Organ.value}"] * 3
    assert said["type_code"] == [f"SCT {codes.SCT.Liver.value}"] * 3
    assert said["algorithm"] == ["AUTOMATIC"] * 3
    assert said["algorithm_name"] == ["by hand"] * 3
    assert said["tracking_id"] == [f"the {label}" for label in LABELS]
    assert said["tracking_uid"] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
    assert masks.attrs["idc_version"] == 25
    assert masks.attrs["crdc_series_uuid"] == found.crdc_series_uuid
    assert masks.attrs["FrameOfReferenceUID"] == FRAME_OF_REFERENCE
    assert masks.attrs["SegmentationType"] == "BINARY"


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (2, [2]),
        ("tumour", [3]),
        ([3, "liver"], [3, 1]),
        ([1, 2, 3], [1, 2, 3]),
    ],
)
def test_segments_are_taken_by_number_or_label_in_the_order_asked_for(
    three, wanted, numbers
):
    masks, found, _, _ = three
    some = lazy.to_masks(found, segments=wanted)
    assert some.segment.values.tolist() == numbers
    np.testing.assert_array_equal(some.values, by_number(some, masks))


def test_a_segment_that_is_not_there_is_refused_with_those_that_are(three):
    with pytest.raises(RequestError, match=r"no segment is called 'livre'.*1 'liver'"):
        lazy.to_masks(three[1], segments="livre")
    with pytest.raises(
        RequestError, match=r"no segment is called 9; there are 1 'liver'"
    ):
        lazy.to_masks(three[1], segments=[1, 9])
    with pytest.raises(RequestError, match=r"no segment is called 1\.5"):
        lazy.to_masks(three[1], segments=1.5)
    with pytest.raises(RequestError, match="no segment is asked for"):
        lazy.to_masks(three[1], segments=[])


def test_combined_segments_are_one_volume_of_their_numbers(three):
    masks, found, ct, _ = three
    expected = (masks * [1, 2, 3]).sum(-1)
    labels = lazy.to_masks(found, combine=True)
    assert labels.dims == ("slice", "row", "column")
    assert labels.dtype == np.uint8
    assert labels.attrs["segment_labels"] == list(LABELS)
    np.testing.assert_array_equal(labels.values, expected)
    two = lazy.to_masks(found, like=ct, combine=True, segments=[3, 1])
    np.testing.assert_array_equal(two.values, np.where(expected == 2, 0, expected))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_many_blocks_are_the_same_as_one(tmp_path, monkeypatch, kind):
    masks = blobs((6, 7, 9), SPARSE)
    pixels = masks if kind == "BINARY" else (masks * [1, 2, 3]).sum(-1).astype(np.uint8)
    dataset = segmentation(ct_slices(), pixels, kind)
    _, (found,) = series(tmp_path, [written(dataset)])
    whole = lazy.to_masks(found)
    assert whole.data.npartitions == 1
    for name in ("CHUNK_BYTES", "WHOLE_BYTES"):
        monkeypatch.setattr(lazy.mask_blocks, name, 63 * 6)
    cut = lazy.to_masks(found)
    labels = lazy.to_masks(found, combine=True)
    expected = ((1, 1, 1), (6,)) if kind == "BINARY" else ((3,), (2, 2, 2))
    assert cut.chunks[:2] == expected
    assert cut.equals(whole)
    np.testing.assert_array_equal(labels.values, (masks * [1, 2, 3]).sum(-1))
    assert pickle.loads(pickle.dumps(cut)).equals(whole)


def test_segments_that_overlap_are_named_when_they_are_combined(tmp_path):
    masks = np.zeros((6, 7, 9, 3), bool)
    masks[2, 1:4, 1:4, 0] = masks[2, 3:6, 3:6, 2] = masks[4, ..., 1] = True
    _, (found,) = series(tmp_path, [written(segmentation(ct_slices(), masks))])
    labels = lazy.to_masks(found, combine=True)
    with pytest.raises(GeometryError, match="segments 1 and 3 overlap in 1 voxels"):
        labels.compute()
    assert lazy.to_masks(found, combine=True, segments=[1, 2]).max() == 2
    both = lazy.to_masks(found)
    assert int(both.values.sum()) == masks.sum()


def test_fractions_are_not_combined_and_come_as_they_are_stored_where_asked(tmp_path):
    stored = np.random.default_rng(1).integers(0, 201, (6, 7, 9, 1))
    pixels = (stored / 200).astype(np.float32)
    dataset = segmentation(ct_slices(), pixels, "FRACTIONAL")
    _, (found,) = series(tmp_path, [written(dataset)])
    raw = lazy.to_masks(found, rescale=False)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw.values[0], stored[..., 0])
    assert raw.attrs["SegmentationFractionalType"] == "PROBABILITY"
    with pytest.raises(RequestError, match="threshold"):
        lazy.to_masks(found, combine=True)


def test_a_fraction_above_its_maximum_is_refused(tmp_path):
    pixels = np.ones((6, 7, 9, 1), np.float32)
    dataset = segmentation(ct_slices(), pixels, "FRACTIONAL")
    dataset.MaximumFractionalValue = 100
    _, (found,) = series(tmp_path, [written(dataset)])
    with pytest.raises(DicomReadError, match="values up to 200") as raised:
        lazy.to_masks(found).compute()
    assert raised.value.kind == "malformed"
    assert lazy.to_masks(found, rescale=False).max() == 200


# On the grid of a volume.


@pytest.mark.parametrize(
    "cut",
    [
        {"slice": slice(2, 5)},
        {"row": slice(2, None), "column": slice(1, 6)},
        {"slice": slice(None, None, -1)},
        {"row": slice(None, None, -1), "column": slice(None, None, -1)},
        {"slice": [3]},
    ],
    ids=str,
)
def test_masks_follow_a_volume_that_was_cut_or_turned(three, cut):
    masks, found, ct, _ = three
    part = ct.isel(cut)
    on_part = lazy.to_masks(found, like=part)
    whole = lazy.to_masks(found, like=ct)
    np.testing.assert_array_equal(whole.values, by_number(whole, masks))
    np.testing.assert_array_equal(on_part.values, whole.isel(cut).values)
    assert part.where(on_part[0]).shape == part.shape


def test_masks_lie_on_the_places_of_a_volume_with_times(three, tmp_path):
    masks, found, _, _ = three
    images = [*ct_slices(), *ct_slices()]
    for number, one in enumerate(images):
        one.TemporalPositionIdentifier = 1 + number // 6
    _, objects = series(tmp_path, files(images))
    ct = lazy.to_volume(objects)
    assert ct.dims == ("time", "slice", "row", "column")
    on_images = lazy.to_masks(found, like=ct)
    np.testing.assert_array_equal(on_images.values, by_number(on_images, masks))
    assert ct.where(on_images[0]).shape == ct.shape


@pytest.mark.parametrize("turned", [(), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_masks_lie_on_a_grid_that_counts_the_other_way_or_is_larger(three, turned):
    masks, found, ct, _ = three
    grid = lazy.grid_of(ct)
    shape = np.array([10, 12, 14])
    first = np.array([1, 3, 2])
    signs = np.ones(3)
    signs[list(turned)] = -1
    affine = grid.affine
    # The voxel that lies where the first of the images does, in the larger grid.
    at = np.where(signs > 0, first, shape - 1 - first)
    affine[:3, :3] *= signs
    affine[:3, 3] = grid.origin - affine[:3, :3] @ at
    like = volume.Grid(tuple(shape.tolist()), tuple(map(tuple, affine.tolist())))
    found_masks = lazy.to_masks(found, like=like)
    expected = np.zeros((3, *shape), bool)
    inside = tuple(slice(a, a + n) for a, n in zip(first, (6, 7, 9), strict=True))
    expected[(slice(None), *inside)] = np.moveaxis(masks, -1, 0)
    expected = np.flip(expected, [axis + 1 for axis in turned])
    np.testing.assert_array_equal(found_masks.values, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"origin": (-10.0, 20.0, 30.01)},
            r"\(slice, row, column\) = \(-0.0040, 0.0000",
        ),
        ({"origin": (-10.3, 20.0, 30.0)}, r"no whole voxel"),
        ({"orientation": OBLIQUE}, r"rows of frames are \(0, 0.75, 0\) mm apart"),
        ({"origin": (500.0, 20.0, 30.0)}, "no frame lies in the volume: slices 0 to 5"),
    ],
)
def test_what_lies_on_no_whole_voxels_is_refused_with_numbers(
    three, tmp_path, change, message
):
    _, images = series(tmp_path, files(ct_slices(**change)))
    with pytest.raises(GeometryError, match=message) as raised:
        lazy.to_masks(three[1], like=lazy.to_volume(images))
    assert raised.value.details["url"] == three[1].url


def test_masks_of_another_frame_of_reference_are_refused(three):
    _, found, ct, _ = three
    ct.attrs["FrameOfReferenceUID"] = "1.2.3"
    with pytest.raises(GeometryError, match=r"that of the volume 1\.2\.3"):
        lazy.to_masks(found, like=ct)


def test_a_frame_belongs_to_its_image_where_images_are_not_quite_even(tmp_path):
    sources = ct_slices()
    for one, off in zip(sources, (0, 0.01, 0, -0.01, 0.01, 0), strict=True):
        one.ImagePositionPatient[2] = float(one.ImagePositionPatient[2]) + off
    masks = blobs((6, 7, 9), SPARSE)
    _, (found,) = series(tmp_path, [written(segmentation(sources, masks))])
    _, images = series(tmp_path, files(sources))
    on_images = lazy.to_masks(found, like=lazy.to_volume(images))
    np.testing.assert_array_equal(on_images.values, by_number(on_images, masks))


@given(
    planes=st.sets(st.integers(0, 40), min_size=1, max_size=8),
    orientation=st.sampled_from([AXIAL, OBLIQUE]),
    said=st.booleans(),
    data=st.data(),
)
def test_a_lattice_holds_every_plane_at_its_place(planes, orientation, said, data):
    order = data.draw(st.permutations(sorted(planes)))
    normal = volume.grid.normal_of(orientation)
    step = 2.5 * normal + 0.5 * np.array(orientation[:3])
    slices = [
        volume.Slice(
            index=0,
            frame=frame,
            position=tuple(np.array([1.0, 2.0, 3.0]) + plane * step),
            orientation=tuple(map(float, orientation)),
            pixel_spacing=(0.75, 1.25),
            rows=4,
            columns=5,
        )
        for frame, plane in enumerate(order)
    ]
    # Where nobody says the distance, two neighbours do.
    assume(said or len(planes) == 1 or 1 in np.diff(sorted(planes)))
    grid, slots = volume.lattice(slices, 2.5 if said else None)
    assert slots.tolist() == [plane - min(planes) for plane in order]
    assert grid.shape == (max(planes) - min(planes) + 1, 4, 5)
    index = np.stack([slots, slots * 0, slots * 0], 1)
    places = [one.position for one in slices]
    np.testing.assert_allclose(grid.to_mm(index), places, atol=1e-9)
    every = np.arange(grid.shape[0])
    corners = grid.to_mm(np.stack([every, every * 0, every * 0], 1))
    on_grid = volume.place(slices, grid.affine, corners)
    np.testing.assert_array_equal(on_grid.slots, slots)
    assert not on_grid.rows.any()
    assert not on_grid.columns_down.any()


# Objects that are not as others.


def test_the_segments_of_several_objects_lie_one_after_another(tmp_path):
    sources, masks = ct_slices(), blobs((6, 7, 9), SPARSE)
    labelled = (masks * [1, 2, 3]).sum(-1).astype(np.uint8)
    objects = [
        segmentation(sources[2:], masks[2:, ..., :1]),
        segmentation(sources, labelled, "LABELMAP"),
    ]
    manifest, _ = series(tmp_path, [written(one) for one in objects])
    both = lazy.to_masks(manifest, mirror_of(tmp_path))
    assert both.segment.values.tolist() == [1, 1, 2, 3]
    expected = np.moveaxis(masks, -1, 0)[[0, 0, 1, 2]]
    expected[0, :2] = False
    np.testing.assert_array_equal(both.values, expected)
    with pytest.raises(RequestError, match=r"2 objects have segments .* \[1\]"):
        lazy.to_masks(manifest, mirror_of(tmp_path), combine=True)


def change_position(dataset, frame, place):
    item = dataset.PerFrameFunctionalGroupsSequence[frame]
    item.PlanePositionSequence[0].ImagePositionPatient = place


def without_positions(dataset):
    for item in dataset.PerFrameFunctionalGroupsSequence:
        del item.PlanePositionSequence


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda d: setattr(d, "SegmentationType", "NONE"), DicomReadError, "'NONE'"),
        (lambda d: setattr(d, "NumberOfFrames", 4), GeometryError, "4 frames, and 13"),
        (
            lambda d: setattr(d.SegmentSequence[0], "SegmentNumber", 2),
            DicomReadError,
            r"segments with the same number: \[2, 2, 3\]",
        ),
        (lambda d: d.SegmentSequence.pop(0), DicomReadError, "frame 0 is of segment 1"),
        (
            lambda d: setattr(d, "ConcatenationUID", "1.2"),
            GeometryError,
            "concatenation",
        ),
        (lambda d: change_position(d, 0, [-10, 20, 31]), GeometryError, "multiples"),
        (
            lambda d: change_position(d, 0, [-10, 20, 1e6]),
            GeometryError,
            "65536 planes",
        ),
        (
            lambda d: change_position(d, 1, [-11, 20, 35]),
            GeometryError,
            "straight line",
        ),
        (lambda d: change_position(d, 1, [-10, 20, 32.5]), GeometryError, "same place"),
        (without_positions, GeometryError, "13 of 13 frames lack ImagePositionPatient"),
        (
            lambda d: setattr(d, "DimensionOrganizationType", "TILED_FULL"),
            GeometryError,
            "a segmentation of a slide",
        ),
        (
            lambda d: setattr(d, "PerFrameFunctionalGroupsSequence", None),
            GeometryError,
            "0 items",
        ),
    ],
)
def test_what_makes_no_masks_is_refused(tmp_path, spoil, error, message):
    dataset = segmentation(ct_slices(), blobs((6, 7, 9), SPARSE))
    spoil(dataset)
    _, (found,) = series(tmp_path, [saved(dataset)])
    with pytest.raises(error, match=message) as raised:
        lazy.to_masks(found)
    assert found.url in str(raised.value)


def test_a_number_of_odd_length_is_malformed(tmp_path):
    dataset = segmentation(ct_slices(), blobs((6, 7, 9), SPARSE))
    data = written(dataset)
    # The first SegmentNumber takes 17 bytes: the label that follows, and one more.
    tag = b"\x62\x00\x04\x00US\x02\x00\x01\x00"
    label = b"\x62\x00\x05\x00LO\x06\x00liver "
    assert data.count(tag + label) == 1
    spoilt = tag[:6] + b"\x11\x00" + (tag[8:] + label)[:-1]
    _, (found,) = series(tmp_path, [data.replace(tag + label, spoilt + b" ")])
    with pytest.raises(DicomReadError, match="SegmentNumber cannot be given") as raised:
        lazy.to_masks(found)
    assert type(raised.value.__cause__).__name__ == "BytesLengthException"


def test_an_image_is_no_segmentation(tmp_path):
    manifest, (found, *_) = series(tmp_path, files(ct_slices(2)))
    with pytest.raises(DicomReadError, match="is no segmentation") as raised:
        lazy.to_masks(found)
    assert raised.value.kind == "other class"
    with pytest.raises(EmptySelection):
        lazy.to_masks([])
    with pytest.raises(RequestError, match="mirror"):
        lazy.to_masks(manifest)


def test_a_frame_of_another_size_than_its_header_says_is_no_mask(tmp_path):
    dataset = segmentation(ct_slices(), blobs((6, 7, 9), SPARSE))
    _, (found,) = series(tmp_path, [written(dataset)])
    masks = lazy.to_masks(found)
    dataset.Rows, dataset.Columns = 9, 7
    path = Path(found.url)
    state = path.stat()
    path.write_bytes(written(dataset))
    # A store that does not tell that the object is another.
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(IntegrityError, match="where the header says"):
        masks.compute()


# The verbs, and the whole way.


def test_the_verbs_give_masks_of_one_series_and_of_many():
    cohort = SAMPLE.search(Modality="SEG")
    masks = cohort.to_masks()
    stored = cohort.to_dask().take(1)[0].dataset().pixel_array
    assert int(masks.values.sum()) == stored.sum()
    mapping = cohort.masks(combine=True)
    assert len(mapping) == 1
    (uid,) = mapping
    assert uid in mapping
    assert "1.2" not in mapping
    assert mapping[uid].dims == ("slice", "row", "column")
    assert mapping != cohort.masks(combine=True)
    columns = mapping.manifest.table.drop_columns("SeriesInstanceUID")
    nameless = lazy.Masks(Manifest(columns, 2), mapping.mirror)
    with pytest.raises(RequestError, match="lacks"):
        list(nameless)
    with pytest.raises(RequestError, match=r"masks\(\)"):
        SAMPLE.all().to_masks()


def test_masks_of_a_series_are_made_on_workers():
    def voxels(one):
        masks = one.to_masks(segments=1)
        return masks.attrs["idc_version"], int(masks.sum())

    assert SAMPLE.search(Modality="SEG").map_series(voxels).compute() == [(2, 638)]


def test_masks_do_not_depend_on_the_scheduler(three):
    masks = lazy.to_masks(three[1])
    values = [
        dask.compute(masks, scheduler=name)[0].values for name in ("threads", "sync")
    ]
    np.testing.assert_array_equal(*values)
    again = lazy.to_masks(three[1])
    assert again.data.name == masks.data.name


def test_highdicom_reads_our_objects_in_ranges(three):
    masks, found, _, _ = three
    theirs = highdicom.imread(found.open(), lazy_frame_retrieval=True)
    frame = dicom.read_segmentation(found.header()).slices[0]
    assert (frame.segment, frame.orientation) == (1, AXIAL)
    plane = round((frame.position[2] - 30) / 2.5)
    np.testing.assert_array_equal(theirs.get_stored_frame(1), masks[plane, ..., 0])
