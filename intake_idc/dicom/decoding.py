"""The bytes of a frame as an array of its stored values.

Native frames, the deflated ones among them, are taken as they lie. Run lengths are
decoded by pydicom. What is compressed in another way takes the ``codecs`` extra, and
one decoder, always the same: pydicom would try whatever is installed, and may change
from one to another in the middle of an object.
"""

from __future__ import annotations

import functools
import struct
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import UID, RLELossless

from intake_idc.dicom import codecs
from intake_idc.dicom.frames import (
    DECODED_BYTES,
    HALVED,
    NATIVE,
    FrameIndex,
)
from intake_idc.dicom.inflating import FREE_BYTES, RATIO, inflate
from intake_idc.dicom.tables import END_OF_IMAGE, MARGIN
from intake_idc.dicom.walking import BIG_ENDIAN
from intake_idc.errors import DicomReadError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["can_decode", "decode", "register_decoders"]

DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
"""Deflated Image Frame Compression (PS3.5 A.4.13)."""
EXTRA = "pip install 'intake-idc[codecs]'"

_DECODER_RAISES = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
)
_registering = threading.Lock()


def decode(
    index: FrameIndex,
    data: bytes,
    frame: int,
    *,
    rgb: bool = False,
    pad: bool = False,
    least: tuple[int, int] = (1, 1),
) -> npt.NDArray[Any]:
    """Decode one frame to its stored values (PS3.3 C.7.6.3).

    Values are neither rescaled nor windowed, and palettes are not applied. What the
    standard leaves undefined is set right: bits above the Bits Stored are those of the
    sign, or zero; colours lie by pixel, whatever the planar configuration was; halved
    chrominance is doubled.

    Parameters
    ----------
    index : FrameIndex
        Of the object.
    data : bytes
        Of `join`.
    frame : int
        Which frame, from 0; frames of one bit a pixel may begin inside a byte.
    rgb : bool
        Convert colours that lie as luminance and chrominance (``YBR_FULL``,
        ``YBR_FULL_422``) to red, green and blue.
    pad : bool
        Take a compressed frame that is smaller than Rows x Columns, as some writers
        of slides leave them at the right and lower edge, and fill it up with zeros.
        It is an error otherwise, as it is one in pydicom.
    least : tuple of int
        Rows and columns that such a smaller frame must have.

    Returns
    -------
    numpy.ndarray
        (rows, columns), or (rows, columns, samples) where there are three. As wide as
        Bits Allocated says, signed as the Pixel Representation says, in the byte order
        of the machine; one bit a pixel becomes uint8 of 0 and 1.

    Raises
    ------
    DicomReadError
        The bytes are not such a frame (``kind="malformed"`` or ``"truncated"``), or
        nothing that is installed decodes them (``"undecodable"``).
    """
    start, stop = index.span(frame)
    if index.transfer_syntax in NATIVE:
        if len(data) != stop - start:
            msg = f"{len(data)} bytes instead of {stop - start}"
            raise _error(index, frame, msg, "truncated")
        return _native(index, data, frame, rgb=rgb)
    _check_size(index, data, frame)
    if index.transfer_syntax == DEFLATED_FRAME:
        due = -(-index.frame_bits // 8)
        data = inflate(data, index.url, most=due + 1, offset=start)[:due]
        if len(data) != due:
            msg = f"{len(data)} inflated bytes instead of {due}"
            raise _error(index, frame, msg, "truncated")
        return _native(index, data, 0, rgb=rgb)
    return _compressed(index, data, frame, rgb=rgb, least=least if pad else None)


def can_decode(syntax: str) -> bool:
    """Say whether frames of a transfer syntax can be decoded with what is installed."""
    if syntax in NATIVE or syntax in (DEFLATED_FRAME, RLELossless):
        return True
    return codecs.is_available(syntax)


def register_decoders() -> list[str]:
    """Give pydicom our decoder, under the name ``"intake-idc"``, for this process.

    Then ``Dataset.pixel_array`` has one more to try, after those it knows, and
    ``decoding_plugin="intake-idc"`` names it. `decode` does not need this.

    Returns
    -------
    list of str
        Transfer Syntax UIDs that it decodes; none without the ``codecs`` extra.
    """
    with _registering:
        syntaxes = [s for s in codecs.DECODER_DEPENDENCIES if codecs.is_available(s)]
        for syntax in syntaxes:
            decoder = get_decoder(syntax)
            if codecs.NAME not in decoder.available_plugins:
                decoder.add_plugin(codecs.NAME, (codecs.__name__, "decode_frame"))
    return [str(syntax) for syntax in syntaxes]


@functools.cache
def _decoder(syntax: str) -> Decoder:
    """Make a decoder that knows ours alone; pydicom's own are left as they are."""
    decoder = Decoder(UID(syntax))
    decoder.add_plugin(codecs.NAME, (codecs.__name__, "decode_frame"))
    return decoder


def _native(
    index: FrameIndex, data: bytes, frame: int, *, rgb: bool
) -> npt.NDArray[Any]:
    """Take native values as they lie (PS3.5 8.1.1 and 8.2)."""
    count = index.rows * index.columns * index.samples
    if index.bits_allocated == 1:
        # The first pixel is in the lowest bit.
        bits = np.unpackbits(np.frombuffer(data, "u1"), bitorder="little")
        first = frame * index.frame_bits % 8
        return _shaped(index, bits[first : first + count].view(index.dtype))
    if index.swapped:
        data = np.frombuffer(data, "u2").byteswap().tobytes()
        first = frame * index.frame_bits // 8 % 2
        data = data[first : first + index.frame_bits // 8]
    big = index.transfer_syntax == BIG_ENDIAN
    stored = np.frombuffer(data, index.dtype.newbyteorder(">" if big else "<"))
    if index.photometric_interpretation == HALVED:
        # Two luminances and one pair of chrominances, for two pixels (C.7.6.3.1.2).
        pairs = stored.reshape(-1, 4)
        stored = pairs[:, [0, 2, 3, 1, 2, 3]].reshape(-1)
    array = _shaped(index, stored.astype(index.dtype))
    unused = index.bits_allocated - index.bits_stored
    if unused and index.keyword == "PixelData":
        np.left_shift(array, unused, out=array)
        np.right_shift(array, unused, out=array)
    if rgb and index.photometric_interpretation in ("YBR_FULL", HALVED):
        array = convert_color_space(array, "YBR_FULL", "RGB")
    return array


def _shaped(index: FrameIndex, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if index.samples > 1 and index.planar_configuration == 1:
        planes = array.reshape(index.samples, index.rows, index.columns)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))
    return array.reshape(index.shape)


def _compressed(
    index: FrameIndex,
    data: bytes,
    frame: int,
    *,
    rgb: bool,
    least: tuple[int, int] | None,
) -> npt.NDArray[Any]:
    """Decode by pydicom, with the one plug-in that is meant for the transfer syntax."""
    syntax = index.transfer_syntax
    size = (index.rows, index.columns)
    if syntax == RLELossless:
        decoder, name = get_decoder(RLELossless), "pydicom"
    elif codecs.is_available(syntax):
        decoder, name = _decoder(syntax), codecs.NAME
        data = _bare(data)
        size = _check_codestream(index, data, frame, least)
    else:
        known = UID(syntax)
        if known in codecs.DECODER_DEPENDENCIES:
            msg = f"{known.name} takes the codecs extra: {EXTRA}"
        else:
            msg = f"no decoder for the transfer syntax {known.name} ({syntax})"
        raise _error(index, frame, msg, "undecodable")
    if index.bits_allocated == 1:
        msg = f"one bit a pixel in {UID(syntax).name}"
        raise _error(index, frame, msg, "undecodable")
    try:
        array, _ = decoder.as_array(
            _as_item(data),
            index=0,
            raw=not rgb,
            # The index has been checked; pydicom would warn of a length by chance.
            validate=False,
            decoding_plugin=name,
            **_options(index, *size),
        )
    except _DECODER_RAISES as error:
        reason = " ".join(str(error).split())[-200:]
        msg = f"cannot be decoded: {reason or type(error).__name__}"
        raise _error(index, frame, msg, "malformed") from error
    if size == (index.rows, index.columns):
        return array
    padded = np.zeros(index.shape, array.dtype)
    padded[: size[0], : size[1]] = array
    return padded


def _options(index: FrameIndex, rows: int, columns: int) -> dict[str, Any]:
    return {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": index.samples,
        "bits_allocated": index.bits_allocated,
        "bits_stored": index.bits_stored,
        "pixel_representation": index.pixel_representation,
        "photometric_interpretation": index.photometric_interpretation,
        "planar_configuration": index.planar_configuration,
        "pixel_keyword": index.keyword,
        "number_of_frames": 1,
    }


def _as_item(data: bytes) -> bytes:
    """Wrap a codestream as pydicom wants it: an empty offset table, and one item."""
    pad = b"\0" * (len(data) % 2)
    head = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(data + pad))
    return b"".join((head, data, pad, struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)))


def _check_size(index: FrameIndex, data: bytes, frame: int) -> None:
    """Refuse numbers that no codestream of this length stands for, unallocated."""
    decoded = index.decoded_bytes
    most = RATIO * len(data)
    if index.transfer_syntax == RLELossless:
        # Two bytes stand for 128 at most (PS3.5 G.3.1), whatever the size.
        most = 64 * len(data)
    elif decoded <= FREE_BYTES:
        most = DECODED_BYTES
    if decoded > min(most, DECODED_BYTES):
        msg = f"{len(data)} bytes cannot be {decoded} decoded ones"
        raise _error(index, frame, msg, "malformed")


def _check_codestream(
    index: FrameIndex, data: bytes, frame: int, least: tuple[int, int] | None
) -> tuple[int, int]:
    """Hold what a codestream says of its size against the object, before decoding.

    And look for its end: libjpeg fills up with gray what is missing, and says nothing.
    """
    found = _j2k_size(data) or _jpeg_size(data)
    if found is None:
        msg = "no codestream of JPEG, JPEG-LS or JPEG 2000"
        raise _error(index, frame, msg, "malformed")
    if END_OF_IMAGE not in data[-MARGIN:]:
        msg = "the codestream has no end"
        raise _error(index, frame, msg, "truncated")
    rows, columns, samples = found
    smaller = least is not None and (
        max(least[0], 1) <= rows <= index.rows
        and max(least[1], 1) <= columns <= index.columns
    )
    if (rows, columns, samples) == (index.rows, index.columns, index.samples) or (
        smaller and samples == index.samples
    ):
        return rows, columns
    msg = (
        f"a codestream of {rows} x {columns} pixels of {samples} samples instead of "
        f"{index.rows} x {index.columns} of {index.samples}"
    )
    raise _error(index, frame, msg, "malformed")


def _bare(data: bytes) -> bytes:
    """Take a codestream out of a JP2 file, which some writers put there.

    pydicom goes from box to box, and for ever in a box that says it has no bytes.
    """
    if not data.startswith(b"\0\0\0\x0cjP  "):
        return data
    return data[data.find(b"jp2c", 0, 4096) + 4 :]


def _j2k_size(data: bytes) -> tuple[int, int, int] | None:
    """Read the image size marker of JPEG 2000 (ISO 15444-1 A.5.1)."""
    head = data[:42]
    if not head.startswith(b"\xff\x4f\xff\x51") or len(head) < 42:  # noqa: PLR2004
        return None
    width, height, left, top, *tile, components = struct.unpack_from(">8LH", head, 8)
    tiles = -(-width // max(tile[0], 1)) * -(-height // max(tile[1], 1))
    if tiles > 0xFFFF:  # noqa: PLR2004
        return None
    return height - top, width - left, components


def _jpeg_size(data: bytes) -> tuple[int, int, int] | None:
    """Read the frame header of JPEG or JPEG-LS (ISO 10918-1 B.2.2)."""
    if data[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:  # noqa: PLR2004
        marker = data[position + 1]
        if marker == 0xFF:  # noqa: PLR2004
            position += 1
            continue
        frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)  # noqa: PLR2004
        if frame or marker == 0xF7:  # noqa: PLR2004
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            return height, width, components
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + length
    return None


def _error(index: FrameIndex, frame: int, what: str, kind: str) -> DicomReadError:
    msg = f"{index.url}: {kind}: frame {frame}: {what}"
    offset = index.span(frame)[0]
    return DicomReadError(msg, kind=kind, url=index.url, offset=offset)
