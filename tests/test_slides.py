"""Slides: tiles to levels, regions, and frames in partitions, against the image."""

from __future__ import annotations

import io
import pickle
from itertools import pairwise

import dask
import numpy as np
import pydicom
import pytest
import slides
from hypothesis import given, settings
from hypothesis import strategies as st
from images import native
from pydicom.sequence import Sequence
from servers import NginxS3, RcloneS3, require
from slides import Bucket, item, picture, tiles_of

from intake_idc import open_idc, resolve_mirror, sample_path
from intake_idc.dicom.absent import absent_pixel
from intake_idc.dicom.tiles import read_tiling
from intake_idc.errors import (
    DicomReadError,
    EmptySelection,
    GeometryError,
    RequestError,
    StorageError,
)
from intake_idc.lazy import DicomObject, frames, slide_of, to_slide
from intake_idc.lazy.handles import SMALL_BYTES

TILE = (16, 24)
IMAGE = picture(70, 110)
NO_ROWS = np.array([], int)


@pytest.fixture
def bucket(tmp_path):
    return Bucket(tmp_path)


def read(data):
    """How an object in memory is cut."""
    return read_tiling(lambda start, stop: data[start:stop], len(data), "memory")


def full(image=IMAGE, size=TILE, *, number=1, jpeg=False, cropped=False, **elements):
    """One object with all tiles of an image."""
    dataset = slides.described(*image.shape[:2], size, number=number, **elements)
    tiles = [tile for _, _, tile in tiles_of(image, size)]
    return slides.with_frames(dataset, tiles, jpeg=jpeg, cropped=cropped)


def sparse(image=IMAGE, size=TILE, *, left_out=(), seed=0, **elements):
    """One object whose tiles stand in any order, and of which some are left out."""
    dataset = slides.described(*image.shape[:2], size, **elements)
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    del dataset.NumberOfOpticalPaths, dataset.TotalPixelMatrixFocalPlanes
    kept = [one for n, one in enumerate(tiles_of(image, size)) if n not in left_out]
    order = np.random.default_rng(seed).permutation(len(kept))
    kept = [kept[n] for n in order]
    said = [slides.place(row, column, path="1") for row, column, _ in kept]
    dataset.PerFrameFunctionalGroupsSequence = Sequence(said)
    return slides.with_frames(dataset, [tile for _, _, tile in kept])


def rewritten(data, **how):
    """The same object in another transfer syntax, or with undefined lengths."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    if how.get("undefined"):
        for found in dataset.iterall():
            if found.VR == "SQ":
                found.is_undefined_length = True
                for one in found.value:
                    one.is_undefined_length_sequence_item = how["undefined"] == "both"
    implicit = how.get("implicit", False)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=implicit, little_endian=True)
    return buffer.getvalue()


# Levels.


KINDS = {
    "native": {},
    "JPEG": {"jpeg": True},
    "JPEG, edges smaller": {"jpeg": True, "cropped": True},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_levels_are_the_images_that_were_cut(bucket, options):
    levels = slides.pyramid(IMAGE, TILE, **options)
    # The objects are listed in any order.
    bucket.add(*(data for _, data in levels[::-1]))
    slide = to_slide(bucket.manifest(), bucket.mirror)
    assert len(slide.levels) == 3
    for level, (image, _) in zip(slide.levels, levels, strict=True):
        assert level.shape == image.shape
        assert level.dims == ("row", "column", "sample")
        found = level.array.compute()
        assert found.dtype == level.dtype == np.uint8
        whole = level.region(0, 0, level.rows, level.columns)
        np.testing.assert_array_equal(found, whole)
        if not options:
            np.testing.assert_array_equal(found, image)
        elif not options.get("cropped"):
            np.testing.assert_array_equal(found, slides.as_decoded(image, TILE))
        else:
            # Chrominance is halved, so that a lone edge is not exact.
            assert np.abs(found.astype(int) - image).mean() < 4
    assert slide.downsamples[1:] == pytest.approx((2, 4), rel=0.03)
    assert slide.level_for(1.2) is slide.levels[1]
    assert slide.level_for(0.1) is slide.levels[0]


def test_an_edge_tile_that_lacks_pixels_of_the_image_is_an_error(bucket):
    size = (16, 16)
    dataset = slides.described(40, 40, size)
    tiles = [tile for _, _, tile in tiles_of(picture(40, 40), size)]
    tiles[2] = tiles[2][:, :4]
    bucket.add(slides.with_frames(dataset, tiles, jpeg=True, cropped=True))
    (level,) = to_slide(bucket.manifest(), bucket.mirror).levels
    with pytest.raises(DicomReadError, match=r"frame 2: a codestream of 16 x 4 pixels"):
        level.array.compute()
    assert level.region(0, 0, 32, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("chunk_bytes", [1, 5_000, 20_000, 10**9])
def test_chunks_are_whole_tiles(bucket, chunk_bytes):
    bucket.add(full())
    slide = to_slide(bucket.manifest(), bucket.mirror, chunk_bytes=chunk_bytes)
    array = slide.levels[0].array
    for sizes, tile, whole in zip(array.chunks, TILE, IMAGE.shape, strict=False):
        assert sum(sizes) == whole
        assert all(size % tile == 0 for size in sizes[:-1])
    if chunk_bytes >= 5_000:
        assert max(np.prod(array.chunksize), 1) <= chunk_bytes
    np.testing.assert_array_equal(array.compute(), IMAGE)


def test_gray_and_wide_samples_stay_what_they_are(bucket):
    image = picture(50, 40, kind=np.uint16, samples=1) * 200
    bucket.add(full(image))
    (level,) = to_slide(bucket.manifest(), bucket.mirror).levels
    assert (level.shape, level.dtype, level.dims) == ((50, 40), "u2", ("row", "column"))
    np.testing.assert_array_equal(level.array.compute(), image)
    np.testing.assert_array_equal(level.region(3, 4, 20, 30), image[3:23, 4:34])


def test_floats_stay_floats(bucket):
    values = picture(50, 40, samples=1).astype(np.float32) / 7
    dataset = pydicom.dcmread(io.BytesIO(full(values.view(np.uint32))))
    dataset.FloatPixelData = dataset.PixelData
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    bucket.add(slides.saved(dataset))
    (level,) = to_slide(bucket.manifest(), bucket.mirror).levels
    assert level.dtype == np.float32
    np.testing.assert_array_equal(level.array.compute(), values)


def test_colours_are_as_stored_where_that_is_asked_for(bucket):
    bucket.add(full(jpeg=True))
    (stored,) = to_slide(bucket.manifest(), bucket.mirror, rgb=False).levels
    (shown,) = to_slide(bucket.manifest(), bucket.mirror).levels
    red, green, blue = np.moveaxis(shown.region(0, 0, 70, 110).astype(float), -1, 0)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    found = stored.region(0, 0, 70, 110)[..., 0]
    # Where a colour is not cut off at 0 or 255.
    inside = (shown.region(0, 0, 70, 110) > 2).all(-1)
    assert np.abs(found - luminance)[inside].max() < 2


@settings(max_examples=40)
@given(data=st.data())
def test_any_region_is_that_of_the_image(tmp_path_factory, data):
    level = _once(tmp_path_factory)
    row, column = (data.draw(st.integers(0, size)) for size in IMAGE.shape[:2])
    height = data.draw(st.integers(0, IMAGE.shape[0] - row))
    width = data.draw(st.integers(0, IMAGE.shape[1] - column))
    expected = IMAGE[row : row + height, column : column + width]
    np.testing.assert_array_equal(level.region(row, column, height, width), expected)
    lazily = level.array[row : row + height, column : column + width]
    np.testing.assert_array_equal(lazily.compute(scheduler="sync"), expected)


_levels = {}


def _once(tmp_path_factory):
    if not _levels:
        bucket = Bucket(tmp_path_factory.mktemp("once"))
        bucket.add(full())
        slide = to_slide(bucket.manifest(), bucket.mirror, chunk_bytes=6_000)
        _levels["full"] = slide.levels[0]
    return _levels["full"]


@pytest.mark.parametrize(
    "box", [(-1, 0, 5, 5), (0, 0, 71, 5), (0, 100, 5, 11), (9, 0, -1, 5)]
)
def test_a_region_that_is_not_inside_is_refused(tmp_path_factory, box):
    with pytest.raises(RequestError, match="not inside a level of 70 x 110"):
        _once(tmp_path_factory).region(*box)


# Where frames lie.


WRITTEN = {
    "explicit": {},
    "implicit": {"implicit": True},
    "undefined sequences": {"undefined": "sequences"},
    "undefined sequences and items": {"undefined": "both"},
    "implicit, undefined": {"implicit": True, "undefined": "both"},
}


@pytest.mark.parametrize("how", WRITTEN.values(), ids=WRITTEN)
def test_sparse_tiles_lie_where_they_say(bucket, how):
    bucket.add(rewritten(sparse(left_out=(0, 7, 24)), **how))
    (level,) = to_slide(bucket.manifest(), bucket.mirror, chunk_bytes=5_000).levels
    expected = IMAGE.copy()
    missing = np.zeros((5, 5), bool)
    for n, (row, column, tile) in enumerate(tiles_of(IMAGE, TILE)):
        if n in (0, 7, 24):
            expected[row : row + tile.shape[0], column : column + tile.shape[1]] = 255
            missing[row // TILE[0], column // TILE[1]] = True
    np.testing.assert_array_equal(level.missing, missing[None, None])
    np.testing.assert_array_equal(level.array.compute(), expected)


@pytest.mark.parametrize("length", [66, 72, 88, 0x4146])
def test_an_item_may_be_as_long_as_a_vr_is_spelt(bucket, length):
    # 72 is "H\0" and 0x4146 is "FA": an item has a length where others have a VR.
    dataset = pydicom.dcmread(io.BytesIO(sparse(left_out=(1,))))
    code = item(LongCodeValue="x" * (length - 12))
    for where in (dataset, *dataset.PerFrameFunctionalGroupsSequence):
        where.DerivationCodeSequence = Sequence([code])
        where["DerivationCodeSequence"].is_undefined_length = True
    bucket.add(slides.saved(dataset))
    (level,) = to_slide(bucket.manifest(), bucket.mirror).levels
    assert level.missing.sum() == 1
    rest = level.array[16:].compute()
    np.testing.assert_array_equal(rest, IMAGE[16:])


def test_a_pixel_has_one_frame_or_none():
    tiling = read(sparse(left_out=(3,)))
    said = np.frombuffer(tiling.positions, "<i4").reshape(-1, 4)
    for row in range(70):
        for column in range(0, 110, 7):
            hit = [
                n
                for n, (top, left, _, _) in enumerate(said)
                if 0 <= row - top < TILE[0] and 0 <= column - left < TILE[1]
            ]
            assert tiling.tile_of(row, column) == (hit[0] if hit else None)
    ordered = read(full())
    assert [ordered.tile_of(r, c) for r, c in ((0, 0), (0, 24), (16, 0))] == [0, 1, 5]
    assert not ordered.sparse
    with pytest.raises(RequestError, match="no pixel"):
        ordered.tile_of(70, 0)
    with pytest.raises(RequestError, match="1 paths"):
        ordered.tile_of(0, 0, path=1)


def test_sparse_tiles_may_lie_off_the_grid_and_over_the_edges(bucket):
    image = picture(40, 40)
    dataset = slides.described(40, 40, (16, 16))
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    padded = np.pad(image, ((8, 16), (8, 16), (0, 0)))
    corners = [(-8, -8), (3, 5), (30, 33), (3, 5 + 9), (100, 100)]
    tiles = [
        padded[r + 8 : r + 24, c + 8 : c + 24] if r < 50 else padded[:16, :16]
        for r, c in corners
    ]
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [slides.place(*corner) for corner in corners]
    )
    bucket.add(slides.with_frames(dataset, tiles))
    (level,) = to_slide(bucket.manifest(), bucket.mirror).levels
    expected = np.full_like(image, 255)
    for r, c in corners[:-1]:
        here = np.s_[max(r, 0) : r + 16, max(c, 0) : c + 16]
        expected[here] = image[here]
    np.testing.assert_array_equal(level.array.compute(), expected)


def test_objects_that_name_no_organisation_are_told_by_their_frames():
    there = sparse(left_out=(2,))
    dataset = pydicom.dcmread(io.BytesIO(there))
    del dataset.DimensionOrganizationType
    assert read(slides.saved(dataset)) == read(there)
    dataset = pydicom.dcmread(io.BytesIO(full()))
    del dataset.DimensionOrganizationType
    assert read(slides.saved(dataset)) == read(full())


def test_a_hundred_thousand_tiles_are_looked_up_by_arithmetic():
    tiling = read(
        slides.with_frames(
            slides.described(1, 1, (1, 1)), [np.zeros((1, 1, 3), np.uint8)]
        )
    )
    count = 316 * 317
    places = np.stack(np.divmod(np.arange(count), 317) + 2 * (np.zeros(count),), axis=1)
    places[:, 0] *= 256
    places[:, 1] *= 256
    matrix = {
        **tiling.__dict__,
        "rows": 316 * 256,
        "columns": 317 * 256,
        "tile_rows": 256,
        "tile_columns": 256,
        "frames": count,
    }
    ordered = type(tiling)(**matrix)
    said = type(tiling)(**{**matrix, "positions": places.astype("<i4").tobytes()})
    for box in ((0, 0), (1000, 70_000, 5_000, 5_000), (80_895, 81_151, 1, 1)):
        for one, other in zip(ordered.places(*box), said.places(*box), strict=True):
            np.testing.assert_array_equal(one, other)
    assert not ordered.missing().any()
    assert not said.missing().any()
    assert ordered.tile_of(80_895, 81_151) == said.tile_of(80_895, 81_151) == count - 1


# Several paths, planes and objects.


STACK = np.stack(
    [np.stack([picture(40, 50, seed=3 * p + z) for z in (0, 1)]) for p in range(3)]
)
PATHS = [slides.optical_path(str(n), f"stain {n}") for n in range(3)]


def stacked_tiles(size):
    return [t for path in STACK for plane in path for _, _, t in tiles_of(plane, size)]


def stacked(size=TILE, **elements):
    return slides.described(
        *STACK.shape[2:4],
        size,
        TotalPixelMatrixFocalPlanes=2,
        NumberOfOpticalPaths=3,
        OpticalPathSequence=Sequence(PATHS),
        **elements,
    )


def test_columns_run_fastest_then_rows_planes_and_paths(bucket):
    bucket.add(slides.with_frames(stacked(), stacked_tiles(TILE)))
    (level,) = to_slide(bucket.manifest(), bucket.mirror, chunk_bytes=3_000).levels
    assert level.dims == ("path", "plane", "row", "column", "sample")
    assert level.heights == (0, 0.25)
    assert [path.description for path in level.paths] == [
        "stain 0",
        "stain 1",
        "stain 2",
    ]
    np.testing.assert_array_equal(level.array.compute(), STACK)
    np.testing.assert_array_equal(level.region(3, 5, 30, 40), STACK[:, :, 3:33, 5:45])
    np.testing.assert_array_equal(level.array[2, 1].compute(), STACK[2, 1])


@pytest.mark.parametrize("cuts", [(0, 5), (0, 1, 30, 50), tuple(range(54))])
def test_a_concatenation_is_one_matrix(bucket, cuts):
    tiles = stacked_tiles(TILE)
    objects = []
    for number, (first, last) in enumerate(pairwise((*cuts, len(tiles)))):
        dataset = stacked(
            number=number + 1,
            ConcatenationUID="1.2.9",
            InConcatenationNumber=number + 1,
            ConcatenationFrameOffsetNumber=first,
        )
        objects.append(slides.with_frames(dataset, tiles[first:last]))
    series = bucket.add(*objects[::-1])
    (level,) = slide_of(bucket.objects(series), chunk_bytes=5_000).levels
    assert len(level.parts) == len(objects)
    np.testing.assert_array_equal(level.array.compute(), STACK)
    for lost in (0, len(objects) - 1):
        kept = [o for n, o in enumerate(bucket.objects(series)) if n != lost]
        with pytest.raises(GeometryError, match=r"missing|are there") as caught:
            slide_of(kept)
        assert caught.value.verdict == "incomplete"


def test_an_object_for_each_path_and_plane_is_one_level(bucket):
    objects = []
    for p in range(3):
        for z in range(2):
            origin = item(
                XOffsetInSlideCoordinateSystem=20.0,
                YOffsetInSlideCoordinateSystem=30.0,
                ZOffsetInSlideCoordinateSystem=0.25 * z,
            )
            data = full(
                STACK[p, z],
                number=2 * p + z + 1,
                OpticalPathSequence=Sequence([PATHS[p]]),
                TotalPixelMatrixOriginSequence=Sequence([origin]),
            )
            objects.append(data)
    bucket.add(*objects)
    (level,) = to_slide(bucket.manifest(), bucket.mirror).levels
    assert level.shape == STACK.shape
    np.testing.assert_array_equal(level.array.compute(), STACK)
    tree = to_slide(bucket.manifest(), bucket.mirror).to_datatree()
    image = tree["level0"]["image"]
    np.testing.assert_array_equal(image.sel(path="1", plane=0.25), STACK[1, 1])


def test_two_copies_of_a_level_are_two_levels(bucket):
    bucket.add(full(number=1), full(number=2))
    assert len(to_slide(bucket.manifest(), bucket.mirror).levels) == 2


def test_sparse_planes_and_paths_are_told_by_what_frames_say(bucket):
    dataset = stacked()
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    places, tiles = [], []
    for p in (2, 0, 1):
        for z in (1, 0):
            for row, column, tile in tiles_of(STACK[p, z], TILE):
                places.append(slides.place(row, column, height=0.001 * z, path=str(p)))
                tiles.append(tile)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(places)
    bucket.add(slides.with_frames(dataset, tiles))
    (level,) = to_slide(bucket.manifest(), bucket.mirror).levels
    assert level.heights == (0, 0.001)
    np.testing.assert_array_equal(level.array.compute(), STACK)


def test_label_overview_and_thumbnail_are_no_levels(bucket):
    small = picture(20, 30)
    flavours = ("LABEL", "OVERVIEW", "THUMBNAIL", "LABEL")
    others = [
        full(small, (20, 30), number=9 + n, flavour=flavour)
        for n, flavour in enumerate(flavours)
    ]
    bucket.add(*others, full(), native(np.zeros((1, 4, 6), np.uint8)))
    slide = to_slide(bucket.manifest(), bucket.mirror)
    assert [level.shape for level in slide.levels] == [IMAGE.shape]
    for one in (slide.label, slide.overview, slide.thumbnail):
        np.testing.assert_array_equal(one.region(0, 0, 20, 30), small)
    reasons = " ".join(why for _, why in slide.aside)
    assert len(slide.aside) == 2
    assert "another label" in reasons
    assert "no tiled image" in reasons
    assert {"level0", "label", "overview", "thumbnail"} == set(slide.to_datatree())


def test_what_is_no_slide_is_refused(bucket):
    one = bucket.add(native(np.zeros((1, 4, 6), np.uint8)))
    two = bucket.add(full())
    with pytest.raises(GeometryError, match="is no tiled image") as caught:
        to_slide(bucket.manifest(one), bucket.mirror)
    assert caught.value.verdict == "not a slide"
    with pytest.raises(RequestError, match="2 are selected"):
        to_slide(bucket.manifest(one, two), bucket.mirror)
    with pytest.raises(EmptySelection):
        to_slide(bucket.manifest(one).take(NO_ROWS), bucket.mirror)


# Where it lies on the glass, and in what colour nothing is shown.


def test_an_affine_goes_to_mm_on_the_slide(tmp_path_factory):
    level = _once(tmp_path_factory)
    assert level.spacing == (0.5, 0.5)
    # Rows go down x, columns down y, by the orientation 0, -1, 0, -1, 0, 0.
    assert (level.affine @ [10, 4, 1]).tolist() == [20 - 5, 30 - 2, 1]
    box = level.pixels_of(20 - 5, 30 - 2, 20 - 10, 30 - 12)
    assert box == (10, 4, 11, 21)
    np.testing.assert_array_equal(level.region_mm(15, 28, 10, 18), IMAGE[10:21, 4:25])
    assert level.region_mm(15.1, 27.9, 15.3, 27.4).shape == (0, 1, 3)
    assert level.pixels_of(100, 100, -100, -100) == (0, 0, 70, 110)
    assert level.region_mm(100, 100, 90, 90).size == 0
    for asked in (
        lambda: level.region_mm(0, 0, float("nan"), 1),
        lambda: level.region(0, 0.5, 2, 2),
    ):
        with pytest.raises(RequestError, match=r"finite numbers|whole pixels"):
            asked()
    array = level.to_xarray()
    assert array.coords["x"].dims == ("row",)
    assert array.coords["y"].dims == ("column",)
    assert array.sel(x=15, y=28).values.tolist() == IMAGE[10, 4].tolist()


def test_a_slide_that_does_not_say_where_it_lies_has_pixels_all_the_same(bucket):
    dataset = pydicom.dcmread(io.BytesIO(full()))
    for keyword in (
        "TotalPixelMatrixOriginSequence",
        "ImagedVolumeWidth",
        "SharedFunctionalGroupsSequence",
    ):
        delattr(dataset, keyword)
    bucket.add(slides.saved(dataset))
    slide = to_slide(bucket.manifest(), bucket.mirror)
    (level,) = slide.levels
    assert level.affine is None
    assert level.spacing is None
    np.testing.assert_array_equal(level.array.compute(), IMAGE)
    for asked in (lambda: level.region_mm(0, 0, 1, 1), lambda: slide.level_for(1)):
        with pytest.raises(GeometryError, match="does not say"):
            asked()


ABSENT = {
    "white": ((65535, 32896, 32896), (255, 255, 255)),
    "black": ((0, 32896, 32896), (0, 0, 0)),
    "pure red of sRGB": ((35575, 53667, 50855), (255, 0, 0)),
    "middle gray": ((35131, 32896, 32896), (128, 128, 128)),
}


@pytest.mark.parametrize(("lab", "colour"), ABSENT.values(), ids=ABSENT)
def test_missing_tiles_have_the_colour_that_is_recommended(bucket, lab, colour):
    bucket.add(sparse(left_out=(0,), RecommendedAbsentPixelCIELabValue=list(lab)))
    (level,) = to_slide(bucket.manifest(), bucket.mirror).levels
    assert np.abs(np.array(level.fill) - colour).max() <= 1
    assert tuple(level.region(0, 0, 1, 1)[0, 0]) == level.fill


def test_missing_tiles_in_gray_are_dark():
    gray = picture(40, 40, samples=1)
    assert read(sparse(gray, (16, 16), left_out=(1,))).missing().sum() == 1


# What objects say that cannot be.


FULL, SPARSE = full(), sparse()

WRONG = {
    "fewer frames than tiles": {"NumberOfFrames": 24},
    "more paths than there are frames": {"NumberOfOpticalPaths": 2},
    "more planes": {"TotalPixelMatrixFocalPlanes": 3},
    "a larger matrix": {"TotalPixelMatrixRows": 81},
    "a matrix beyond all": {"TotalPixelMatrixColumns": 2**32 - 1},
    "planes beyond all": {"TotalPixelMatrixFocalPlanes": 2**32 - 1},
    "frames beyond the concatenation": {
        "ConcatenationUID": "1.2",
        "ConcatenationFrameOffsetNumber": 1,
    },
    "sparse without places": {"DimensionOrganizationType": "TILED_SPARSE"},
}


@pytest.mark.parametrize("elements", WRONG.values(), ids=WRONG)
def test_a_slide_that_cannot_be_is_an_error(elements):
    dataset = pydicom.dcmread(io.BytesIO(full()))
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    with pytest.raises(DicomReadError, match="malformed"):
        read(slides.saved(dataset))


@pytest.mark.parametrize("organised", ["TILED_FULL", "TILED_SPARSE"])
def test_what_is_cut_short_is_an_error_and_never_a_smaller_slide(organised):
    data = full() if organised == "TILED_FULL" else sparse()
    whole = read(data)
    ends = data.index(b"\xe0\x7f\x10\x00O")
    for stop in range(140, ends, 97):
        try:
            found = read(data[:stop])
        except (DicomReadError, GeometryError):
            continue
        assert found == whole


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150)
@given(data=st.data())
def test_whatever_a_byte_becomes_it_is_a_slide_or_an_error(data):
    found = bytearray(data.draw(st.sampled_from([FULL, SPARSE])))
    ends = found.index(b"\xe0\x7f\x10\x00O")
    for _ in range(data.draw(st.integers(1, 3))):
        found[data.draw(st.integers(132, ends))] = data.draw(st.integers(0, 255))
    try:
        tiling = read(bytes(found))
    except (DicomReadError, GeometryError):
        return
    assert min(tiling.rows, tiling.columns, tiling.frames, *tiling.grid) > 0
    assert len(absent_pixel(tiling, rgb=True)) == tiling.samples
    found = tiling.places(0, 0, 100, 100)
    assert ((found.frame >= 0) & (found.frame < tiling.frames)).all()


def test_as_many_places_as_frames():
    for change in (-1, 1):
        dataset = pydicom.dcmread(io.BytesIO(sparse()))
        said = dataset.PerFrameFunctionalGroupsSequence
        dataset.PerFrameFunctionalGroupsSequence = (
            said[:-1] if change < 0 else [*said, said[0]]
        )
        with pytest.raises(DicomReadError, match="descriptions of"):
            read(slides.saved(dataset))


# Graphs.


def test_a_graph_is_small_and_every_scheduler_gives_the_same(bucket):
    series = bucket.add(sparse(picture(160, 240), (8, 8)))
    (level,) = slide_of(bucket.objects(series), chunk_bytes=2_000).levels
    array = level.array
    assert array.npartitions > 60
    # The places of 600 frames, once; and 100 bytes for each chunk.
    data = pickle.dumps(dict(array.dask))
    assert len(data) < 16 * 600 + 150 * array.npartitions + 3_000
    again = pickle.loads(pickle.dumps(level))
    assert again == level
    assert again.array.name == array.name
    expected = array.compute()
    for scheduler in ("sync", "threads", "processes"):
        found = array[:64, :64].compute(scheduler=scheduler)
        np.testing.assert_array_equal(found, expected[:64, :64])
    (other,) = slide_of(bucket.objects(series), chunk_bytes=2_000, rgb=False).levels
    assert other.array.name != array.name


# Requests.


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Large objects behind a real server: JPEG and native tiles."""
    require(RcloneS3)
    require(NginxS3)
    bucket = Bucket(tmp_path_factory.mktemp("served"))
    image = np.tile(picture(256, 320, seed=5), (6, 5, 1))
    bucket.add(full(image, (32, 32), jpeg=True))
    bucket.add(full(image, (32, 32)))
    bucket.image = image
    with RcloneS3(bucket.root) as storage, NginxS3(storage) as server:
        yield bucket, server


@pytest.mark.servers
@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
@pytest.mark.parametrize("jpeg", [True, False], ids=["JPEG", "native"])
def test_regions_take_few_requests(served, engine, jpeg):
    bucket, server = served
    mirror = resolve_mirror("aws", endpoint_url=server.endpoint, engine=engine)
    series = list(bucket.series)[0 if jpeg else 1]
    (found,) = bucket.objects(series, mirror=mirror)
    assert found.size > SMALL_BYTES
    server.reset()
    (level,) = slide_of([found]).levels
    # obstore tells the version with the bytes, fsspec's file systems are asked again.
    ranged = [one for one in server.requests() if one.range]
    assert len(ranged) == 1
    assert sum(one.sent for one in ranged) < 40_000
    server.reset()
    tile = level.region(640, 640, 32, 32)
    ranged = [one for one in server.requests() if one.range]
    assert len(ranged) <= 3
    assert sum(one.sent for one in ranged) < 150_000
    server.reset()
    # 12 rows of 12 tiles: one range for each row at most, and the index is at hand.
    block = level.region(64, 64, 384, 384)
    ranged = [one for one in server.requests() if one.range]
    assert len(ranged) <= 12
    server.reset()
    strip = level.region(320, 0, 32, level.columns)
    assert len([one for one in server.requests() if one.range]) == 1
    if not jpeg:
        np.testing.assert_array_equal(tile, bucket.image[640:672, 640:672])
        np.testing.assert_array_equal(block, bucket.image[64:448, 64:448])
        np.testing.assert_array_equal(strip, bucket.image[320:352])


def test_tiles_of_an_object_that_was_replaced_are_an_error(bucket):
    image = picture(640, 640)
    series = bucket.add(full(image, (64, 64)))
    (level,) = slide_of(bucket.objects(series)).levels
    level.region(0, 0, 64, 64)
    (path,) = (bucket.root / bucket.name / series).iterdir()
    other = full(picture(640, 640, seed=9), (64, 64))
    assert len(other) == path.stat().st_size
    path.unlink()
    path.write_bytes(other)
    with pytest.raises(StorageError, match="changed"):
        level.region(0, 0, 64, 64)


# Frames in partitions.


def counted(number, count):
    """An object of some frames, each filled with its number."""
    array = (
        np.full((count, 8, 8), number, np.uint8)
        + np.arange(count, dtype="u1")[:, None, None]
    )
    return native(array, SOPInstanceUID=f"1.2.3.{number}")


@pytest.fixture(scope="module")
def frame_bucket(tmp_path_factory):
    bucket = Bucket(tmp_path_factory.mktemp("frames"))
    bucket.add(counted(1, 40), counted(50, 1), counted(60, 7))
    (report,) = (sample_path() / "bucket").glob("c6c2ba2b*/*.dcm")
    bucket.add(report.read_bytes())
    bucket.add(*(counted(70 + n, 3) for n in range(5)))
    bucket.add(full(jpeg=True))
    return bucket


def pixels_of(bag, scheduler="sync"):
    return (
        bag.map(lambda found: list(found.pixels(rgb=True)))
        .flatten()
        .compute(scheduler=scheduler)
    )


@settings(max_examples=25)
@given(size=st.integers(1, 60_000), most=st.none() | st.integers(1, 50))
def test_every_frame_is_given_once_however_they_are_shared(frame_bucket, size, most):
    expected = [
        frame
        for found in frame_bucket.objects()
        if found.size != 6182
        for frame in found.frames(rgb=True)
    ]
    bag = frames(
        frame_bucket.manifest(),
        frame_bucket.mirror,
        partition_bytes=max(size, 200),
        most_frames=most,
    )
    assert all(len(found) <= (most or 10**9) for found in bag.compute(scheduler="sync"))
    found = pixels_of(bag)
    assert len(found) == len(expected) == 48 + 15 + 25
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_frames_are_shared_by_bytes_and_nothing_is_read_to_say_so(
    frame_bucket, tmp_path
):
    one = next(iter(frame_bucket.series))
    bag = frames(
        frame_bucket.manifest(one), resolve_mirror(tmp_path), partition_bytes=500
    )
    size = sum(map(len, frame_bucket.series[one]))
    assert bag.npartitions == -(-size // 500)
    assert len(bag.__dask_graph__()) == bag.npartitions
    assert len(pickle.dumps(dict(bag.__dask_graph__()))) < 100 * bag.npartitions + 2_000
    here = frames(frame_bucket.manifest(one), frame_bucket.mirror, partition_bytes=500)
    lengths = here.map(len).map_partitions(lambda part: [sum(part)]).compute()
    assert sum(lengths) == 48
    assert max(lengths) <= 9
    with pytest.raises(StorageError):
        bag.compute()


def test_frames_do_not_depend_on_the_scheduler(frame_bucket):
    bag = frames(frame_bucket.manifest(), frame_bucket.mirror, partition_bytes="1 kB")
    expected = bag.compute()
    for scheduler in ("sync", "threads", "processes"):
        assert bag.compute(scheduler=scheduler) == expected
    first = expected[0]
    assert [frame.shape for frame in first] == [(8, 8)] * len(first)
    assert pickle.loads(pickle.dumps(first)) == first
    assert bag.__dask_scheduler__ is dask.threaded.get


def test_an_object_that_cannot_be_read_is_told_once(tmp_path):
    bucket = Bucket(tmp_path)
    bucket.add(counted(1, 9), b"nothing" * 500, counted(20, 9))
    bag = frames(
        bucket.manifest(), bucket.mirror, partition_bytes=500, on_error="collect"
    )
    assert bag.npartitions > 8
    results, failures = bag.collected(scheduler="sync")
    assert sum(map(len, results)) == 18
    assert failures.column("kind").to_pylist() == ["not dicom"]
    with pytest.raises(DicomReadError, match="not dicom"):
        frames(bucket.manifest(), bucket.mirror).compute()
    skipped = frames(bucket.manifest(), bucket.mirror, on_error="skip")
    assert sum(map(len, skipped.compute())) == 18


def test_bounds_that_are_none_are_refused(frame_bucket):
    manifest, mirror = frame_bucket.manifest(), frame_bucket.mirror
    for bound in ({"partition_bytes": 0}, {"most_frames": 0}, {"partition_bytes": "x"}):
        with pytest.raises(RequestError):
            frames(manifest, mirror, **bound)
    with pytest.raises(EmptySelection):
        frames(manifest.take(NO_ROWS), mirror)


def test_frames_of_tiles_that_are_smaller_at_the_edges_are_filled_up(tmp_path):
    bucket = Bucket(tmp_path)
    bucket.add(full(jpeg=True, cropped=True))
    (run,) = frames(bucket.manifest(), bucket.mirror).compute()
    with pytest.raises(DicomReadError, match="frame 4: a codestream of 16 x 14"):
        run.pixels()
    found = run.pixels(rgb=True, pad=True)
    assert found.shape == (25, *TILE, 3)
    assert not found[4, :, 14:].any()
    assert found[4, :, :14].any()


def test_a_cohort_gives_slides_and_frames():
    cohort = open_idc(2, tables="sample").search(Modality=["SM", "CT"])
    bag = cohort.frames(partition_bytes="10 kB")
    assert bag.map(len).sum().compute() == 25 + 3
    slide = cohort.search(Modality="SM").to_slide()
    (found,) = slide.levels[0].parts
    assert isinstance(found.found, DicomObject)
    shapes = cohort.search(Modality="SM").map_series(
        lambda series: series.to_slide().levels[0].shape
    )
    assert shapes.compute() == [(50, 50, 3)]


# Beside another reader.


@pytest.mark.parametrize("jpeg", [False, True], ids=["native", "JPEG"])
@pytest.mark.filterwarnings("ignore")
def test_wsidicom_reads_the_same_over_our_files(bucket, jpeg):
    pytest.importorskip("wsidicom", minversion="0.36")
    image = picture(300, 420)
    levels = slides.pyramid(image, (64, 64), jpeg=jpeg)
    bucket.add(*(data for _, data in levels))
    slide = to_slide(bucket.manifest(), bucket.mirror)
    opened = slide.to_wsidicom()
    try:
        assert len(opened.levels) == 3
        for n, level in enumerate(slide.levels):
            theirs = np.asarray(opened.read_region((7, 5), n, (60, 50)))
            ours = level.region(5, 7, 50, 60)
            # libjpeg may smooth chrominance in another way.
            assert np.abs(theirs.astype(int) - ours).max() <= (2 if jpeg else 0)
    finally:
        opened.close()
