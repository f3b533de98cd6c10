"""Values of interest to a range for display or training (PS3.3 C.11.2.1.2)."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

import numpy as np

from intake_idc.errors import RequestError

Array = TypeVar("Array")
"""Anything with numpy's functions: numpy, dask, xarray."""

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
"""VOI LUT Function (0028,1056)."""

SHORT = 2
"""Bytes of the widest whole number that float32 holds exactly."""


def window(
    array: Array,
    center: float,
    width: float,
    *,
    function: Function = "LINEAR",
    output: tuple[float, float] = (0, 1),
) -> Array:
    """Map the values of a window to a range; what lies outside gets its ends.

    Parameters
    ----------
    array : numpy.ndarray, dask.array.Array or xarray.DataArray
        Values in the units of the window: Hounsfield units, where it is one of CT.
    center, width : float
        Window Center (0028,1050) and Window Width (0028,1051), in these units.
    function : "LINEAR", "LINEAR_EXACT" or "SIGMOID"
        VOI LUT Function: LINEAR where an object names none (C.11.2.1.2.1, .3.2
        and .3.1). LINEAR counts in whole steps: half a step before the center, and a
        width less by one.
    output : tuple of float
        Where the window begins and where it ends.

    Returns
    -------
    same as `array`
        Float32, or float64 where the values are wider than that holds.

    Raises
    ------
    RequestError
        A width is below 1 for LINEAR, or not above 0; a number is not finite; the
        function is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from intake_idc import window
    >>> window(np.array([-1000, -160, 40, 240, 1000]), 40, 400, output=(0, 255)).round()
    array([  0.,   0., 128., 255., 255.])
    """
    _check(center, width, function, output)
    kind = _wide(array)
    low, high = (float(end) for end in output)
    values: Any = array
    values = values.astype(kind)
    if function == "SIGMOID":
        # 1 / (1 + exp(-4x)) is (1 + tanh(2x)) / 2, which does not overflow.
        part = (np.tanh((values - center) * (2 / width)) + 1) * 0.5
    elif function == "LINEAR_EXACT":
        part = ((values - center) / width + 0.5).clip(0, 1)
    elif width == 1:
        part = (values > center - 0.5).astype(kind)
    else:
        part = ((values - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1)
    windowed: Array = part * (high - low) + low
    return windowed


def _wide(array: Any) -> np.dtype[Any]:
    """Give the dtype that a window is applied in."""
    kind = np.dtype(array.dtype)
    short = kind.kind in "biu" and kind.itemsize <= SHORT
    small = kind.kind == "f" and kind.itemsize <= 2 * SHORT
    return np.dtype(np.float32 if short or small else np.float64)


def _check(
    center: float, width: float, function: str, output: tuple[float, float]
) -> None:
    if function not in get_args(Function):
        known = ", ".join(get_args(Function))
        msg = f"a window's function is one of {known}; got {function!r}"
        raise RequestError(msg, function=function)
    least = 1 if function == "LINEAR" else np.nextafter(0, 1)
    numbers = (center, width, *output)
    if not np.isfinite(numbers).all() or width < least:
        above = "at least 1" if function == "LINEAR" else "above 0"
        msg = (
            f"a window takes finite numbers, and a width {above} for {function}; got "
            f"center {center}, width {width}, output {output}"
        )
        raise RequestError(msg, center=center, width=width)
