"""Frames as arrays, each against pydicom's own answer for the whole file."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import Source, encapsulated, image, native, read, saved
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from intake_idc import dicom, sample_path
from intake_idc.errors import DicomReadError

DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
NOISE = np.random.default_rng(0)


def arrays(data: bytes, **keywords) -> list[np.ndarray]:
    """Every frame of an object, each read and decoded alone."""
    source = Source(data)
    index = dicom.read_index(source.read, len(data), "s3://b/k")
    found = []
    for number in range(index.frames):
        (frame,) = dicom.read_frames(index, [number], source.read_many)
        array = dicom.decode(index, frame, number, **keywords)
        assert array.dtype == index.dtype
        assert array.dtype.isnative
        assert array.shape == index.shape
        assert array.flags.writeable
        found.append(array)
    return found


def pydicoms(data: bytes, *, raw=True) -> list[np.ndarray]:
    """What pydicom makes of the whole file."""
    dataset = read(data)
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    array, _ = decoder.as_array(dataset, raw=raw)
    return list(array) if int(dataset.get("NumberOfFrames", 1)) > 1 else [array]


def equal(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, its)
        assert mine.dtype == its.dtype.newbyteorder("=")


def noise(shape, dtype) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return NOISE.standard_normal(shape).astype(kind)
    info = np.iinfo(kind)
    return NOISE.integers(info.min, info.max, shape, kind, endpoint=True)


NATIVE = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
@pytest.mark.parametrize("count", [1, 3])
def test_native_frames_equal_pydicoms(syntax, dtype, count):
    data = native(noise((count, 5, 7), dtype), syntax)
    equal(arrays(data), pydicoms(data))


@pytest.mark.parametrize("planes", [0, 1])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_colours_lie_by_pixel_whatever_the_planar_configuration(planes, dtype):
    array = noise((3, 5, 7, 3), dtype)
    data = native(array, PlanarConfiguration=planes)
    equal(arrays(data), pydicoms(data))
    equal(arrays(data), list(array))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("size", [(5, 7), (4, 6), (1, 1), (8, 8)])
def test_bytes_that_big_endian_words_exchange_are_set_right(count, size):
    array = noise((count, *size), "u1")
    flat = array.tobytes() + b"\0" * (array.size % 2)
    dataset = read(native(array, ExplicitVRBigEndian))
    dataset.PixelData = np.frombuffer(flat, "u2").byteswap().tobytes()
    dataset["PixelData"].VR = "OW"
    data = saved(dataset)
    equal(arrays(data), list(array))
    equal(arrays(data), pydicoms(data))


@pytest.mark.parametrize("size", [(5, 5), (3, 7), (8, 8), (1, 3), (510, 3)])
@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_one_bit_a_pixel_may_begin_inside_a_byte(size, count, syntax):
    mask = NOISE.integers(0, 2, (count, *size), np.uint8)
    data = masks(mask, syntax)
    equal(arrays(data), list(mask))
    equal(arrays(data), pydicoms(data))


def masks(mask, syntax=ExplicitVRLittleEndian) -> bytes:
    packed = np.packbits(mask.reshape(-1), bitorder="little").tobytes()
    dataset = image(
        syntax,
        NumberOfFrames=len(mask),
        Rows=mask.shape[1],
        Columns=mask.shape[2],
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
    )
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB"
    return saved(dataset)


@pytest.mark.parametrize("stored", [1, 9, 12, 15, 16])
@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_bits_above_those_stored_do_not_count(stored, dtype):
    array = noise((2, 5, 7), dtype)
    data = native(array, BitsStored=stored, HighBit=stored - 1)
    equal(arrays(data), pydicoms(data))
    low = -(2 ** (stored - 1)) if dtype == "i2" else 0
    assert min(frame.min() for frame in arrays(data)) >= low


@pytest.mark.parametrize(
    ("keyword", "dtype"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")]
)
def test_pixels_of_floating_point_equal_pydicoms(keyword, dtype):
    array = noise((3, 5, 7), dtype)
    array[0, 0, 0] = np.nan
    dataset = image(NumberOfFrames=3, Rows=5, Columns=7)
    for absent in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, absent)
    dataset.BitsAllocated = 8 * array.dtype.itemsize
    setattr(dataset, keyword, array.tobytes())
    data = saved(dataset)
    equal(arrays(data), pydicoms(data))
    equal(arrays(data), list(array))


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("meaning", ["YBR_FULL", "YBR_FULL_422", "RGB"])
def test_luminance_and_chrominance_become_colours_only_when_asked(meaning, rgb):
    array = noise((2, 4, 6, 3), "u1")
    dataset = read(native(array, PhotometricInterpretation=meaning))
    if meaning == "YBR_FULL_422":
        dataset.PixelData = array.tobytes()[: array.size // 3 * 2]
    data = saved(dataset)
    equal(arrays(data, rgb=rgb), pydicoms(data, raw=not rgb))


@pytest.mark.parametrize(
    ("dtype", "samples"),
    [("u1", ()), ("u2", ()), ("i2", ()), ("u1", (3,)), ("u2", (3,))],
)
def test_run_lengths_are_decoded_by_pydicom(dtype, samples):
    dataset = read(native(noise((1, 5, 7, *samples), dtype) // 64))
    dataset.compress(
        RLELossless, encoding_plugin="pydicom", generate_instance_uid=False
    )
    data = saved(dataset)
    equal(arrays(data), pydicoms(data))


def test_frames_that_are_deflated_one_by_one_are_inflated():
    mask = NOISE.integers(0, 2, (3, 5, 7), np.uint8)
    array = noise((3, 5, 7), "u2")
    for frames, bits in ((mask, 1), (array, 16)):
        streams = []
        for frame in frames:
            deflater = zlib.compressobj(wbits=-15)
            flat = frame if bits == 16 else np.packbits(frame, bitorder="little")
            streams.append(deflater.compress(flat.tobytes()) + deflater.flush())
        data = encapsulated(
            streams,
            syntax=pydicom.uid.UID(DEFLATED_FRAME),
            Rows=5,
            Columns=7,
            BitsAllocated=bits,
            BitsStored=bits,
            HighBit=bits - 1,
        )
        equal(arrays(data), list(frames))


def _readable(path: Path) -> bool:
    """Whether pydicom decodes the file with nothing else installed."""
    try:
        dataset = pydicom.dcmread(path)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed and syntax != RLELossless:
            return False
        dataset.pixel_array  # noqa: B018
    except Exception:  # noqa: BLE001
        return False
    return True


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    FILES = [
        path
        for path in [
            *sorted((Path(pydicom.__file__).parent / "data/test_files").rglob("*.dcm")),
            *sorted((sample_path() / "bucket").glob("*/*.dcm")),
        ]
        if _readable(path)
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_real_files_decode_as_pydicom_does(path):
    data = path.read_bytes()
    ours, theirs = arrays(data), pydicoms(data)
    # pydicom gives more frames than the object says where there are bytes for them.
    equal(ours, theirs[: len(ours)])


def test_there_are_real_files():
    assert len(FILES) > 35


REAL = Path(__file__).parent / "data" / "dicom"


def test_real_masks_deflated_frame_by_frame_have_their_pixels():
    # Set pixels of the same masks in pydicom's liver.dcm, which is not compressed.
    found = arrays((REAL / "liver_deflate.dcm").read_bytes())
    assert [int(frame.sum()) for frame in found] == [36_233, 35_645, 35_220]


@pytest.mark.parametrize("name", ["sm_image_jpegls.dcm", "sm_image_jpegls_nobot.dcm"])
def test_tiles_of_a_real_slide_are_the_same_compressed_or_not(name):
    pytest.importorskip("imagecodecs")
    native_tiles = arrays((REAL / "sm_image.dcm").read_bytes())
    assert len(native_tiles) == 25
    equal(arrays((REAL / name).read_bytes()), native_tiles)


# With the codecs extra.

GRADIENT = np.add.outer(np.arange(40), np.arange(56))


def smooth(dtype, *, bits=8, colour=False) -> np.ndarray:
    """A picture that lossy codecs keep, with values up to the last bit."""
    plane = GRADIENT * (2**bits - 1) // GRADIENT.max()
    if colour:
        plane = np.stack([plane, plane[::-1], plane[:, ::-1]], axis=-1)
    return plane.astype(dtype)


def jpeg8(array, **keywords):
    codecs = pytest.importorskip("imagecodecs")
    return codecs.jpeg8_encode(array, **keywords)


def jpegls(array, level=0):
    return pytest.importorskip("imagecodecs").jpegls_encode(array, level=level)


def j2k(array, level=0, **keywords):
    codecs = pytest.importorskip("imagecodecs")
    return codecs.jpeg2k_encode(
        array, level=level, codecformat="j2k", reversible=not level, **keywords
    )


def htj2k(array, **keywords):
    return pytest.importorskip("imagecodecs").htj2k_encode(array, **keywords)


CASES = {
    "baseline": (JPEGBaseline8Bit, smooth("u1"), lambda a: jpeg8(a, level=98), 3),
    "extended, 12 bits": (
        JPEGExtended12Bit,
        smooth("u2", bits=12),
        lambda a: jpeg8(a, level=98, bitspersample=12),
        48,
    ),
    "lossless, any predictor": (
        JPEGLossless,
        smooth("u2", bits=16),
        lambda a: jpeg8(a, lossless=True, predictor=5, bitspersample=16),
        0,
    ),
    "lossless, first predictor": (
        JPEGLosslessSV1,
        smooth("u2", bits=12),
        lambda a: jpeg8(a, lossless=True, predictor=1, bitspersample=12),
        0,
    ),
    "JPEG-LS": (JPEGLSLossless, smooth("u2", bits=16), jpegls, 0),
    "JPEG-LS, 8 bits": (JPEGLSLossless, smooth("u1"), jpegls, 0),
    "JPEG-LS, near": (JPEGLSNearLossless, smooth("u1"), lambda a: jpegls(a, 2), 2),
    "JPEG-LS, colour": (JPEGLSLossless, smooth("u1", colour=True), jpegls, 0),
    "JPEG 2000 lossless": (JPEG2000Lossless, smooth("u2", bits=16), j2k, 0),
    "JPEG 2000 lossless, signed": (
        JPEG2000Lossless,
        smooth("i2", bits=15) - np.int16(9_000),
        j2k,
        0,
    ),
    "JPEG 2000": (JPEG2000, smooth("u1"), lambda a: j2k(a, 60), 3),
    "JPEG 2000, colour": (JPEG2000Lossless, smooth("u1", colour=True), j2k, 0),
    "HTJ2K lossless": (HTJ2KLossless, smooth("u2", bits=16), htj2k, 0),
    "HTJ2K lossless, by resolution": (HTJ2KLosslessRPCL, smooth("u1"), htj2k, 0),
    "HTJ2K": (HTJ2K, smooth("u1"), lambda a: htj2k(a, reversible=True), 0),
}


try:
    from imagecodecs import htj2k_encode as _  # noqa: F401
except ImportError:
    # The newest for Python 3.10 decodes HTJ2K and does not encode it.
    CASES = {name: case for name, case in CASES.items() if "HTJ2K" not in name}


def compressed(syntax, array, encode, **elements) -> bytes:
    """An object of two frames, the second of them upside down."""
    bits = 8 * array.dtype.itemsize
    streams = [encode(frame) for frame in (array, np.ascontiguousarray(array[::-1]))]
    if array.ndim == 3:
        colour = "YBR_RCT" if syntax == JPEG2000Lossless else "RGB"
        colours = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
        elements = {"PhotometricInterpretation": colour, **colours, **elements}
    described = {
        "Rows": array.shape[0],
        "Columns": array.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(array.dtype.kind == "i"),
        **elements,
    }
    return encapsulated(streams, syntax=syntax, **described)


@pytest.mark.parametrize(
    ("syntax", "array", "encode", "loss"), CASES.values(), ids=CASES
)
def test_compressed_frames_are_what_was_compressed(syntax, array, encode, loss):
    found = arrays(compressed(syntax, array, encode))
    for ours, truth in zip(found, (array, array[::-1]), strict=True):
        assert np.abs(ours.astype(int) - truth.astype(int)).max() <= loss


def test_eight_bits_in_sixteen_allocated_stay_the_same_values():
    array = smooth("u1")
    data = compressed(
        JPEG2000Lossless, array, j2k, BitsAllocated=16, BitsStored=8, HighBit=7
    )
    found = arrays(data)
    assert found[0].dtype == np.uint16
    np.testing.assert_array_equal(found[0], array)


@pytest.mark.parametrize("meaning", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_jpeg_colours_are_as_stored_and_converted_only_when_asked(meaning):
    array = smooth("u1", colour=True)
    stored_as = "RGB" if meaning == "RGB" else "YCBCR"

    def encode(frame):
        return jpeg8(
            frame,
            level=98,
            colorspace="RGB",
            outcolorspace=stored_as,
            subsampling="444",
        )

    data = compressed(
        JPEGBaseline8Bit, array, encode, PhotometricInterpretation=meaning
    )
    data = data.replace(b"JFIF", b"none")
    colours = arrays(data, rgb=True)[0]
    assert np.abs(colours.astype(int) - array.astype(int)).max() <= 8
    stored = arrays(data)[0]
    assert np.array_equal(stored, colours) == (meaning == "RGB")


@pytest.mark.parametrize("case", ["baseline", "JPEG-LS", "JPEG 2000 lossless"])
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(case):
    syntax, array, encode, _ = CASES[case]
    data = compressed(syntax, array, encode, Rows=39)
    with pytest.raises(DicomReadError, match="40 x 56") as caught:
        arrays(data)
    assert caught.value.kind == "malformed"


def test_a_tile_that_is_smaller_than_said_is_filled_up_only_when_asked():
    array = smooth("u1")
    data = compressed(JPEGLSLossless, array, jpegls, Rows=48, Columns=64)
    with pytest.raises(DicomReadError, match="instead of 48 x 64"):
        arrays(data)
    (found, _) = arrays(data, pad=True)
    np.testing.assert_array_equal(found[:40, :56], array)
    assert not found[40:].any()
    assert not found[:, 56:].any()
    with pytest.raises(DicomReadError, match="instead of 39 x 64"):
        arrays(compressed(JPEGLSLossless, array, jpegls, Rows=39, Columns=64), pad=True)


# Where a stream for JPEG-LS is damaged but not cut, CharLS may count to 2**32 first,
# which takes 3 s whatever the size; it then says so.
QUICK = sorted(name for name in CASES if not name.startswith("JPEG-LS"))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_codestream_is_an_error_or_a_frame_of_the_right_shape(data):
    syntax, array, encode, _ = CASES[data.draw(st.sampled_from(QUICK))]
    stream = bytearray(encode(array))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place] = data.draw(st.integers(0, 255))
    try:
        arrays(compressed(syntax, array, lambda _: bytes(stream)))
    except DicomReadError as error:
        assert error.kind in ("malformed", "truncated")  # noqa: PT017


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_codestream_that_is_cut_is_an_error(data):
    syntax, array, encode, _ = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    stream = encode(array)
    cut = data.draw(st.integers(1, len(stream) - 2))
    with pytest.raises(DicomReadError):
        arrays(compressed(syntax, array, lambda _: stream[:cut]))


BOX = b"\0\0\0\x0cjP  \r\n\x87\n"


@pytest.mark.parametrize("before", [b"", b"\0\0\0\0none"], ids=["right", "endless"])
def test_a_codestream_in_a_file_of_its_own_is_taken_out(before):
    syntax, array, encode, _ = CASES["JPEG 2000 lossless"]
    data = compressed(
        syntax, array, lambda a: BOX + before + b"\0\0\0\0jp2c" + encode(a)
    )
    equal(arrays(data), [array, array[::-1]])


def test_pydicom_decodes_by_our_plug_in_once_it_is_registered():
    pytest.importorskip("imagecodecs")
    syntax, array, encode, _ = CASES["JPEG-LS"]
    data = compressed(syntax, array, encode)
    code = (
        "import io, sys, pydicom\n"
        "from intake_idc import dicom\n"
        "data = sys.stdin.buffer.read()\n"
        "assert dicom.register_decoders() == dicom.register_decoders()\n"
        "dataset = pydicom.dcmread(io.BytesIO(data))\n"
        "dataset.pixel_array_options(decoding_plugin='intake-idc')\n"
        "sys.stdout.buffer.write(dataset.pixel_array.tobytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, check=True
    )
    assert done.stdout == array.tobytes() + array[::-1].tobytes()


def test_decoding_leaves_pydicoms_own_decoders_as_they_are():
    syntax, array, encode, _ = CASES["JPEG-LS"]
    before = get_decoder(syntax).available_plugins
    arrays(compressed(syntax, array, encode))
    assert get_decoder(syntax).available_plugins == before


# Without it, and what nothing decodes.


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000, HTJ2K, JPEGLSLossless])
def test_without_the_extra_a_compressed_frame_names_what_to_install(
    syntax, monkeypatch
):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    data = encapsulated([b"\xff\xd8\xff\xd9"], syntax=syntax)
    assert not dicom.can_decode(syntax)
    with pytest.raises(DicomReadError, match=r"intake-idc\[codecs\]") as caught:
        arrays(data)
    assert caught.value.kind == "undecodable"
    assert dicom.register_decoders() == []


@pytest.mark.parametrize("syntax", [JPEG2000MC, "1.2.3.4.5"])
def test_a_transfer_syntax_that_nothing_decodes_says_so(syntax):
    data = encapsulated([b"\xff\xd8\xff\xd9"], syntax=pydicom.uid.UID(syntax))
    assert not dicom.can_decode(syntax)
    with pytest.raises(DicomReadError, match="no decoder") as caught:
        arrays(data)
    assert caught.value.kind == "undecodable"


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, DEFLATED_FRAME])
def test_what_pydicom_decodes_alone_needs_no_extra(syntax, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert dicom.can_decode(syntax)


def rle(size: int) -> bytes:
    header = struct.pack("<16L", 1, 64, *[0] * 14)
    return header + b"\x81\0" * (size // 2)


@pytest.mark.parametrize(
    ("elements", "stream"),
    [
        ({"Rows": 30_000, "Columns": 30_000}, rle(5_000)),
        ({"Rows": 60_000, "Columns": 60_000}, rle(5_000)),
        ({"Rows": 4, "Columns": 6}, rle(0)),
        ({"Rows": 4, "Columns": 6}, b"\1\2"),
        ({"Rows": 4, "Columns": 6, "BitsAllocated": 16, "BitsStored": 16}, rle(100)),
    ],
    ids=["a lie", "a larger lie", "empty", "no header", "too few segments"],
)
def test_run_lengths_that_cannot_be_are_refused(elements, stream):
    data = encapsulated([stream], syntax=RLELossless, **elements)
    with pytest.raises(DicomReadError) as caught:
        arrays(data)
    assert caught.value.kind == "malformed"


def test_one_bit_in_run_lengths_is_undecodable_and_not_a_crash():
    data = encapsulated(
        [rle(20)], syntax=RLELossless, BitsAllocated=1, BitsStored=1, HighBit=0
    )
    with pytest.raises(DicomReadError) as caught:
        arrays(data)
    assert caught.value.kind == "undecodable"


def test_a_deflated_frame_is_inflated_no_further_than_it_is_large():
    deflater = zlib.compressobj(wbits=-15)
    stream = deflater.compress(b"\0" * 50_000_000) + deflater.flush()
    data = encapsulated([stream], syntax=pydicom.uid.UID(DEFLATED_FRAME))
    with pytest.raises(DicomReadError, match="inflate"):
        arrays(data)


def test_bytes_that_are_no_whole_frame_are_an_error():
    data = native(noise((2, 5, 7), "u2"))
    index = dicom.read_index(Source(data).read, len(data))
    with pytest.raises(DicomReadError) as caught:
        dicom.decode(index, b"\0" * 69, 0)
    assert caught.value.kind == "truncated"


def test_an_object_made_by_pydicom_is_read_as_pydicom_reads_it():
    dataset = image(JPEGBaseline8Bit, NumberOfFrames=1)
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    assert pydicom.dcmread(io.BytesIO(saved(dataset))).Rows == 4
