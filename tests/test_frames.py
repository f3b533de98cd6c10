"""Where frames lie, and how few requests it takes, against pydicom's own answer."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import (
    Source,
    codestream,
    encapsulated,
    image,
    native,
    pixel_data_at,
    read,
    saved,
)
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from intake_idc import dicom
from intake_idc.errors import DicomReadError, RequestError

ITEM = b"\xfe\xff\x00\xe0"
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
GRAY = np.arange(7 * 4 * 6, dtype=np.uint8).reshape(7, 4, 6)
STREAMS = [codestream(i, 60 + 10 * i) for i in range(7)]


def index_of(data: bytes, **keywords):
    source = Source(data)
    return dicom.read_index(source.read, len(data), "s3://b/k", **keywords), source


def frames_of(data: bytes, wanted=None) -> list[bytes]:
    index, source = index_of(data)
    wanted = range(index.frames) if wanted is None else wanted
    return list(dicom.read_frames(index, list(wanted), source.read_many))


def pydicoms_frames(data: bytes) -> list[bytes]:
    dataset = read(data)
    extended = None
    if "ExtendedOffsetTable" in dataset:
        extended = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    return list(
        generate_frames(
            dataset.PixelData,
            number_of_frames=int(dataset.get("NumberOfFrames", 1)),
            extended_offsets=extended,
        )
    )


# Where frames lie.

KINDS = {
    "basic table": {"table": "basic"},
    "extended table": {"table": "extended"},
    "no table": {"table": "none"},
    "basic table, fragments": {"table": "basic", "fragments": 3},
    "no table, fragments": {"table": "none", "fragments": 3},
    "run lengths": {"table": "none", "syntax": RLELossless},
}


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_encapsulated_frames_equal_pydicoms(kind, count):
    data = encapsulated(STREAMS[:count], **kind)
    assert frames_of(data) == pydicoms_frames(data) == STREAMS[:count]


def test_frames_of_odd_length_keep_their_padding_or_not_but_nothing_else():
    streams = [codestream(i, 51 + 2 * i) for i in range(3)]
    for table in ("basic", "extended", "none"):
        found = frames_of(encapsulated(streams, table))
        assert [
            len(frame) - len(stream)
            for frame, stream in zip(found, streams, strict=True)
        ] == [1, 1, 1]
        assert [frame[:-1] for frame in found] == streams


def test_fragments_without_a_table_belong_to_the_frame_that_ends_after_them():
    items = [
        STREAMS[0][:30],
        STREAMS[0][30:],
        STREAMS[1],
        STREAMS[2][:8],
        STREAMS[2][8:],
    ]
    body = b"".join(ITEM + struct.pack("<L", len(i)) + i for i in items)
    data = encapsulated(STREAMS[:3], "none")
    start = pixel_data_at(data)
    data = data[: start + 8] + body + DELIMITER
    assert frames_of(data) == STREAMS[:3]


def test_fragments_that_nothing_assigns_to_frames_are_an_error():
    noise = [b"\1" * 20] * 5
    body = b"".join(ITEM + struct.pack("<L", len(i)) + i for i in noise)
    data = encapsulated(STREAMS[:3], "none")
    data = data[: pixel_data_at(data) + 8] + body + DELIMITER
    with pytest.raises(DicomReadError, match=r"5 items.*3 frames"):
        index_of(data)


def test_native_frames_lie_one_after_another():
    data = native(GRAY)
    assert frames_of(data) == [frame.tobytes() for frame in GRAY]
    index, _ = index_of(data)
    assert index.span(3) == (index.start + 72, index.start + 96)


def test_frames_of_one_bit_a_pixel_share_bytes():
    index, _ = index_of(bits(3, 5, 5))
    assert [index.span(i)[0] - index.start for i in range(3)] == [0, 3, 6]
    assert [index.span(i)[1] - index.start for i in range(3)] == [4, 7, 10]


def bits(frames: int, rows: int, columns: int, **elements) -> bytes:
    mask = np.random.default_rng(0).integers(0, 2, frames * rows * columns, np.uint8)
    packed = np.packbits(mask, bitorder="little").tobytes()
    dataset = image(
        NumberOfFrames=frames,
        Rows=rows,
        Columns=columns,
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        **elements,
    )
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB"
    return saved(dataset)


# Requests.


def large(table: str) -> bytes:
    streams = [b"\xff\xd8" + bytes([i % 251]) * 40 + b"\xff\xd9" for i in range(20_000)]
    return encapsulated(streams, table)


@pytest.fixture(scope="module")
def per_frame() -> Dataset:
    """What an object may say of each of its frames, before it comes to pixels."""
    item = Dataset()
    item.FrameAcquisitionNumber = 1
    outer = Dataset()
    outer.FrameContentSequence = [item]
    return outer


@pytest.mark.parametrize("table", ["basic", "extended"])
def test_one_frame_of_20000_takes_three_requests(table):
    data = large(table)
    index, source = index_of(data)
    (frame,) = dicom.read_frames(index, [12_345], source.read_many)
    assert frame == b"\xff\xd8" + bytes([12_345 % 251]) * 40 + b"\xff\xd9"
    assert source.requests <= 3
    assert source.asked < len(data) / 2


@pytest.mark.parametrize("table", ["basic", "extended"])
def test_a_long_description_of_the_frames_is_jumped_over(table, per_frame):
    data = large(table)
    dataset = read(data)
    dataset.PerFrameFunctionalGroupsSequence = [per_frame] * 20_000
    if table == "basic":
        dataset["PixelData"].is_undefined_length = True
    data = saved(dataset)
    index, source = index_of(data)
    (frame,) = dicom.read_frames(index, [19_999], source.read_many)
    assert frame[2] == 19_999 % 251
    assert source.requests <= 3


def test_a_description_of_undefined_length_is_walked(per_frame):
    dataset = read(encapsulated(STREAMS))
    dataset.PerFrameFunctionalGroupsSequence = [per_frame] * 2_000
    sequence = dataset["PerFrameFunctionalGroupsSequence"]
    sequence.is_undefined_length = True
    for item in sequence.value:
        item.is_undefined_length_sequence_item = True
        item["FrameContentSequence"].is_undefined_length = True
    assert frames_of(saved(dataset)) == STREAMS


def test_native_frames_take_two_requests_and_no_memory():
    data = native(np.zeros((20_000, 8, 8), np.uint16))
    index, source = index_of(data)
    assert len(list(dicom.read_frames(index, [777], source.read_many))) == 1
    assert source.requests == 2
    assert len(pickle.dumps(index)) < 1_000


def test_without_a_table_all_is_read_once_in_parallel_ranges():
    data = large("none")
    batches = []
    source = Source(data)

    def read_many(ranges):
        batches.append(len(ranges))
        return source.read_many(ranges)

    index = dicom.read_index(source.read, len(data), read_many=read_many)
    assert index.frames == 20_000
    assert batches == [1]
    assert source.asked < len(data) + 40_000


def test_a_single_compressed_frame_needs_no_table():
    index, source = index_of(encapsulated([codestream(0, 200_000)], "none"))
    assert source.requests == 1
    assert index.open_ended


def test_an_index_travels_and_is_equal_to_itself():
    index, _ = index_of(encapsulated(STREAMS))
    again = pickle.loads(pickle.dumps(index))
    assert again == index
    assert hash(again) == hash(index)
    assert len(pickle.dumps(index)) < 1_000


# Tables that are wrong.


def with_table(offsets) -> bytes:
    data = encapsulated(STREAMS, "basic")
    start = pixel_data_at(data)
    return (
        data[: start + 4]
        + struct.pack(f"<L{len(offsets)}L", 4 * len(offsets), *offsets)
        + data[start + 8 + 4 * len(STREAMS) :]
    )


RIGHT = [0, *np.cumsum([len(s) + 8 for s in STREAMS])[:-1].tolist()]
WRONG = {
    "too few": RIGHT[:-1],
    "too many": [*RIGHT, 10_000],
    "not from 0": [8, *RIGHT[1:]],
    "out of order": [RIGHT[0], RIGHT[2], RIGHT[1], *RIGHT[3:]],
    "all the same": [0] * 7,
    "beyond the object": [*RIGHT[:-1], 2**31],
}


@pytest.mark.parametrize("offsets", WRONG.values(), ids=WRONG)
def test_a_basic_offset_table_that_cannot_be_right_is_not_believed(offsets):
    assert frames_of(with_table(RIGHT)) == STREAMS
    assert frames_of(with_table(offsets)) == STREAMS


def test_a_table_that_leads_astray_is_an_error_and_no_frame():
    offsets = [*RIGHT]
    offsets[3] += 2
    data = with_table(offsets)
    assert frames_of(data, [0, 1, 4, 5, 6]) == [STREAMS[i] for i in (0, 1, 4, 5, 6)]
    for frame in (2, 3):
        with pytest.raises(DicomReadError, match=f"frame {frame} is not where"):
            frames_of(data, [frame])


def extended(change) -> bytes:
    dataset = read(encapsulated(STREAMS, "extended"))
    change(dataset)
    dataset["PixelData"].is_undefined_length = True
    return saved(dataset)


def _shorter(dataset):
    dataset.ExtendedOffsetTable = dataset.ExtendedOffsetTable[8:]


def _shifted(dataset):
    offsets = np.frombuffer(dataset.ExtendedOffsetTable, "<u8").copy()
    offsets[2] += 4
    dataset.ExtendedOffsetTable = offsets.tobytes()


def _huge(dataset):
    lengths = np.frombuffer(dataset.ExtendedOffsetTableLengths, "<u8").copy()
    lengths[-1] = 2**64 - 8
    dataset.ExtendedOffsetTableLengths = lengths.tobytes()


def _alone(dataset):
    del dataset.ExtendedOffsetTableLengths


@pytest.mark.parametrize("change", [_shorter, _shifted, _huge, _alone])
def test_an_extended_offset_table_that_cannot_be_right_is_not_believed(change):
    assert frames_of(extended(change)) == STREAMS


class Huge:
    """An object of 9 GiB: three frames of 3 GiB, of which only heads are there."""

    length = 3 * 1024**3

    def __init__(self, table) -> None:
        data = encapsulated([b"\xff\xd8\xff\xd9"] * 3, "basic")
        start = pixel_data_at(data)
        self.head = data[: start + 8] + struct.pack("<3L", *table)
        self.places = [len(self.head) + i * (self.length + 8) for i in range(4)]
        self.size = self.places[3] + 8
        self.requests = 0

    def read(self, start, stop):
        self.requests += 1
        data = bytearray(stop - start)
        known = {0: self.head, self.places[3]: DELIMITER}
        head = ITEM + struct.pack("<L", self.length)
        known.update(dict.fromkeys(self.places[:3], head))
        for place, part in known.items():
            low, high = max(place, start), min(place + len(part), stop)
            if low < high:
                data[low - start : high - start] = part[low - place : high - place]
        return bytes(data)


@pytest.mark.parametrize(
    ("table", "most"),
    [
        ([0, 3 * 1024**3 + 8, (6 * 1024**3 + 16) % 2**32], 6),
        ([0, 3 * 1024**3 + 8, 44], 70),
        ([0, 3 * 1024**3 + 8, 0xFFFFFFFF], 70),
        ([0, 0, 0], 70),
    ],
    ids=["wrapped", "wrong after the wrap", "saturated", "zeros"],
)
def test_a_table_of_32_bits_serves_an_object_beyond_4_gib_where_it_can(table, most):
    source = Huge(table)
    index = dicom.read_index(source.read, source.size)
    assert [index.span(i)[0] for i in range(3)] == source.places[:3]
    assert source.requests <= most


# Plans.


@settings(deadline=None)
@given(
    kind=st.sampled_from([*KINDS.values(), "native", "bits", "deflated"]),
    frames=st.lists(st.integers(0, 6), max_size=10),
    gap=st.integers(0, 200),
    most=st.integers(1, 500),
)
def test_any_plan_gives_the_same_frames(kind, frames, gap, most):
    if kind == "native":
        data = native(GRAY)
    elif kind == "deflated":
        data = native(GRAY, DeflatedExplicitVRLittleEndian)
    elif kind == "bits":
        data = bits(7, 5, 5)
    else:
        data = encapsulated(STREAMS, **kind)
    index, source = index_of(data)
    whole = [(0, data)]
    if kind == "deflated":
        whole = dicom.pieces(index, [(0, len(data))], [data])
    ranges = dicom.plan(index, frames, gap=gap, most=most)
    assert ranges == sorted(ranges)
    assert kind == "deflated" or all(0 < b - a <= most for a, b in ranges)
    held = dicom.pieces(index, ranges, source.read_many(ranges))
    for frame in frames:
        assert dicom.join(index, frame, held) == dicom.join(index, frame, whole)


def test_neighbours_come_in_one_range_and_strangers_in_their_own():
    index, _ = index_of(native(np.zeros((1_000, 64, 64), np.uint16)))
    size = 64 * 64 * 2
    start = index.start
    assert dicom.plan(index, range(1_000)) == [(start, start + 1_000 * size)]
    assert dicom.plan(index, [999, 0, 1, 0]) == [
        (start, start + 2 * size),
        (start + 999 * size, start + 1_000 * size),
    ]
    assert dicom.plan(index, [0, 2], gap=size) == [(start, start + 3 * size)]
    assert dicom.plan(index, []) == []


@pytest.mark.parametrize("frame", [-1, 7])
def test_a_frame_that_is_not_there_is_not_asked_for(frame):
    index, _ = index_of(native(GRAY))
    with pytest.raises(RequestError, match="0 to 6"):
        dicom.plan(index, [frame])


def test_fewer_bytes_than_asked_for_are_an_error():
    index, _ = index_of(native(GRAY))
    with pytest.raises(DicomReadError) as caught:
        dicom.pieces(index, [(index.start, index.start + 24)], [b"\0" * 23])
    assert caught.value.kind == "truncated"


# What is cut, damaged or hostile.

WHOLE = {
    "native": native(GRAY),
    "bits": bits(7, 5, 5),
    "implicit": native(GRAY, ImplicitVRLittleEndian),
    "big endian": native(GRAY.astype(np.int16), ExplicitVRBigEndian),
    "deflated": native(GRAY, DeflatedExplicitVRLittleEndian),
    **{name: encapsulated(STREAMS, **kind) for name, kind in KINDS.items()},
}
TRUTH = {name: frames_of(data) for name, data in WHOLE.items()}


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_an_object_that_is_cut_gives_an_error_or_the_right_frame(data):
    name = data.draw(st.sampled_from(sorted(WHOLE)))
    whole = WHOLE[name]
    cut = data.draw(st.integers(0, len(whole) - 1))
    # The store may announce what it has, or what it should have.
    announced = data.draw(st.sampled_from([cut, len(whole)]))
    source = Source(whole[:cut])
    try:
        index = dicom.read_index(source.read, announced)
    except DicomReadError:
        return
    for frame in range(7):
        try:
            (found,) = dicom.read_frames(index, [frame], source.read_many)
        except DicomReadError:
            continue
        assert found == TRUTH[name][frame]


@pytest.mark.parametrize("name", WHOLE)
def test_the_last_frame_of_an_object_that_is_cut_is_an_error(name):
    whole = WHOLE[name]
    # A deflated stream is padded to an even number of bytes; the pad is no loss.
    for cut in range(len(whole) - 12, len(whole) - (name == "deflated")):
        with pytest.raises(DicomReadError):
            frames_of(whole[:cut], [6])


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_gives_an_error_or_bytes_and_nothing_else(data):
    whole = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(
            st.integers(0, 255)
        )
    try:
        for frame in frames_of(bytes(whole)):
            assert isinstance(frame, bytes)
    except DicomReadError:
        pass


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_to_a_table_or_an_item_never_gives_a_wrong_frame(data):
    name = data.draw(st.sampled_from(["basic table", "no table"]))
    whole = bytearray(WHOLE[name])
    start = pixel_data_at(whole)
    places = [start + i for i in range(8)]
    first = start + 8 + (28 if name == "basic table" else 0)
    places += range(start + 8, first)
    for offset in RIGHT:
        places += range(first + offset, first + offset + 8)
    place = data.draw(st.sampled_from(places))
    whole[place] = data.draw(st.integers(0, 255))
    for frame in range(7):
        try:
            assert frames_of(bytes(whole), [frame]) == [STREAMS[frame]]
        except DicomReadError:  # noqa: PERF203
            continue


def lie(**elements) -> bytes:
    dataset = read(native(GRAY))
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return saved(dataset)


def _after_meta(syntax_of: bytes, body: bytes) -> bytes:
    """The file meta information of an object, and a dataset of our own."""
    return syntax_of[: syntax_of.index(b"\x08\x00\x16\x00UI")] + body


def _explicit(tag: int, vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, length)


SHAPE = native(GRAY)
BEFORE = SHAPE[SHAPE.index(b"\x08\x00\x16\x00UI") : pixel_data_at(SHAPE) - 12]
TABLE_AT = pixel_data_at(WHOLE["basic table"])
NESTED = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
HOSTILE = {
    "a million frames": (lie(NumberOfFrames=1_000_000), "malformed"),
    "65,535 rows": (lie(Rows=65_535, Columns=65_535), "malformed"),
    "no rows": (lie(Rows=0), "malformed"),
    "two samples": (lie(SamplesPerPixel=2, PlanarConfiguration=0), "malformed"),
    "12 bits allocated": (lie(BitsAllocated=12), "malformed"),
    "more bits stored than allocated": (lie(BitsStored=9), "malformed"),
    "a third sign": (lie(PixelRepresentation=2), "malformed"),
    "no rows at all": (lie(Rows=None), "malformed"),
    "pixels of 4 GB": (
        _after_meta(SHAPE, BEFORE + _explicit(0x7FE00010, b"OB", 0xFFFFFFFE)),
        "truncated",
    ),
    "native of undefined length": (
        _after_meta(SHAPE, BEFORE + _explicit(0x7FE00010, b"OB", 0xFFFFFFFF) + NESTED),
        "malformed",
    ),
    "an element of 4 GB": (
        _after_meta(SHAPE, _explicit(0x00091010, b"OB", 0xFFFFFFF0) + BEFORE),
        "truncated",
    ),
    "a thousand sequences in one another": (
        _after_meta(SHAPE, (_explicit(0x00081140, b"SQ", 0xFFFFFFFF) + NESTED) * 1_000),
        "malformed",
    ),
    "a video": (
        encapsulated(STREAMS[:1], "none", syntax=MPEG2MPML),
        "undecodable",
    ),
    "fewer items than frames": (
        encapsulated(STREAMS[:3], "none", Rows=4).replace(
            b"IS\x02\x003 ", b"IS\x02\x004 "
        ),
        "malformed",
    ),
    "an offset table of 4 GB": (
        b"\xfc\xff\xff\xff".join(
            (WHOLE["basic table"][: TABLE_AT + 4], WHOLE["basic table"][TABLE_AT + 8 :])
        ),
        "malformed",
    ),
    "no pixels": (saved(image()), "no pixels"),
    "a page": (b"<html>busy</html>" * 20, "not dicom"),
    "nothing": (b"", "not dicom"),
    "a lone preamble": (b"\0" * 128 + b"DICM", "malformed"),
}


@pytest.mark.parametrize(("data", "kind"), HOSTILE.values(), ids=HOSTILE)
def test_what_an_object_cannot_be_is_refused_before_anything_is_read(data, kind):
    source = Source(data)
    with pytest.raises(DicomReadError, match="s3://b/k") as caught:
        dicom.read_index(source.read, len(data), "s3://b/k")
    assert caught.value.kind == kind
    assert source.requests <= 2


def test_an_object_without_pixels_does_not_drag_its_bulk_in():
    dataset = image()
    for keyword in ("Rows", "Columns"):
        delattr(dataset, keyword)
    dataset.add_new(0x00660016, "OF", b"\0" * 10_000_000)
    data = saved(dataset)
    source = Source(data)
    with pytest.raises(DicomReadError) as caught:
        dicom.read_index(source.read, len(data))
    assert caught.value.kind == "no pixels"
    assert source.asked < 100_000


def bomb(size: int) -> bytes:
    plain = native(GRAY, DeflatedExplicitVRLittleEndian)
    dataset = read(plain)
    dataset.PixelData = b"\0" * size
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 1000, 1000, size // 10**6
    return saved(dataset)


@pytest.mark.parametrize(
    "read_it",
    [
        lambda data: dicom.read_index(Source(data).read, len(data)),
        lambda data: dicom.read_header(Source(data).read, len(data)),
        dicom.read_dataset,
    ],
    ids=["index", "header", "dataset"],
)
def test_a_deflate_bomb_is_refused_before_it_has_gone_off(read_it):
    data = bomb(100_000_000)
    assert len(data) < 200_000
    with pytest.raises(DicomReadError, match="inflate"):
        read_it(data)


def test_a_deflated_mask_is_read_although_it_is_nearly_all_zeros():
    data = bomb(20_000_000)
    assert len(data) < 50_000
    assert frames_of(data, [19]) == [b"\0" * 1_000_000]
    assert dicom.read_dataset(data).NumberOfFrames == 20


def test_a_deflated_header_beyond_the_first_range_is_read():
    noise = np.random.default_rng(0).integers(0, 255, (1, 200, 200), np.uint8)
    data = native(noise, DeflatedExplicitVRLittleEndian)
    assert len(data) > 2 * dicom.HEADER_BYTES
    header = dicom.read_header(Source(data).read, len(data))
    assert header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    assert header.Rows == 200
    with pytest.raises(DicomReadError) as caught:
        dicom.read_dataset(data[:-100])
    assert caught.value.kind == "truncated"
