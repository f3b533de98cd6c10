"""A plug-in for pydicom's decoders over imagecodecs.

Of the decoders that were measured it alone reads every transfer syntax of IDC, JPEG
Extended with 12 bits among them, and it lets go of the interpreter's lock while it
does. pydicom calls `is_available` and `decode_frame`, and looks at
`DECODER_DEPENDENCIES`.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from pydicom import uid

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

__all__ = ["DECODER_DEPENDENCIES", "NAME", "decode_frame", "is_available"]

NAME = "intake-idc"
"""What the plug-in is called among pydicom's."""

_JPEG = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
)

DECODER_DEPENDENCIES = dict.fromkeys(
    (*_JPEG, *_JPEG_LS, *_JPEG_2000), ("imagecodecs>=2025.3.30",)
)
"""What each transfer syntax takes."""


def is_available(syntax: str) -> bool:
    """Say whether a transfer syntax can be decoded with what is installed."""
    found = importlib.util.find_spec("imagecodecs") is not None
    return syntax in DECODER_DEPENDENCIES and found


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode one codestream; samples are interleaved, and not converted."""
    import imagecodecs

    syntax = runner.transfer_syntax
    if syntax in _JPEG:
        # With both named alike there is no conversion: YBR stays YBR.
        same = "YCBCR" if runner.samples_per_pixel > 1 else None
        frame = imagecodecs.jpeg8_decode(src, colorspace=same, outcolorspace=same)
    elif syntax in _JPEG_LS:
        frame = imagecodecs.jpegls_decode(src)
    else:
        frame = imagecodecs.jpeg2k_decode(src)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            # The transform of components belongs to the codestream, and is undone.
            runner.set_option("photometric_interpretation", "RGB")
    runner.set_option("planar_configuration", 0)
    # Eight bits in sixteen allocated come as eight.
    runner.set_option("bits_allocated", 8 * frame.dtype.itemsize)
    decoded: bytes = frame.tobytes()
    return decoded
