"""What a place without a tile is shown in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from intake_idc.dicom.tiles import Tiling

__all__ = ["absent_pixel"]

WHITE = (255, 255, 255)


def absent_pixel(tiling: Tiling, *, rgb: bool) -> tuple[int, ...]:
    """Give the stored values of a pixel that no tile holds, one for each sample.

    In colour the Recommended Absent Pixel CIELab Value (PS3.3 C.8.12.4.1.3), or white;
    in gray its lightness, or 0, which is no light in fluorescence.

    Parameters
    ----------
    tiling : Tiling
        Of the object.
    rgb : bool
        Luminance and chrominance are converted to red, green and blue.
    """
    dtype = np.dtype(tiling.dtype)
    most = 1 if dtype.kind == "f" else 2**tiling.bits_stored - 1
    if dtype.kind == "i":
        most //= 2
    colour = None if tiling.absent is None else _srgb(tiling.absent)
    if tiling.samples == 1:
        gray = 0 if colour is None else round(sum(colour) / 3 / 255 * most)
        return (gray,)
    red, green, blue = WHITE if colour is None else colour
    values: tuple[float, ...] = red, green, blue
    if tiling.photometric_interpretation.startswith("YBR_FULL") and not rgb:
        # PS3.3 C.7.6.3.1.2.
        luminance = 0.299 * red + 0.587 * green + 0.114 * blue
        values = (
            luminance,
            (blue - luminance) / 1.772 + 128,
            (red - luminance) / 1.402 + 128,
        )
    return tuple(round(min(max(v, 0), 255) / 255 * most) for v in values)


def _srgb(lab: tuple[int, int, int]) -> tuple[int, int, int]:
    """Turn a colour from PCS-Values (PS3.3 C.10.7.1.1: CIELab, D50) to sRGB."""
    lightness = lab[0] * 100 / 65535
    a, b = (value * 255 / 65535 - 128 for value in lab[1:])
    y = (lightness + 16) / 116

    def linear(t: float) -> float:
        return t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29)

    xyz = np.array(
        [0.9642 * linear(y + a / 500), linear(y), 0.8249 * linear(y - b / 200)]
    )
    # From D50 to sRGB's D65, by Bradford.
    matrix = np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    light = np.clip(matrix @ xyz, 0, 1)
    low = light <= 0.0031308  # noqa: PLR2004
    encoded = np.where(low, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    red, green, blue = (int(v) for v in np.rint(encoded * 255))
    return red, green, blue
