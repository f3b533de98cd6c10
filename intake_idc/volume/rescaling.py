"""Stored values to output units (PS3.3 C.7.6.16.2.9, C.11.1), as exactly as can be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from intake_idc.errors import GeometryError

SHORT = 2
"""Bytes of the widest stored value that float32 holds exactly enough: of 16 bits the
error is at most 1.4e-7 of the value, of 32 bits up to 128 stored units."""


def rescaled_dtype(
    stored: DTypeLike,
    slopes: ArrayLike = 1.0,
    intercepts: ArrayLike = 0.0,
    *,
    bits: int | None = None,
) -> np.dtype[Any]:
    """Give the dtype that rescaled values need.

    Parameters
    ----------
    stored : dtype_like
        Of the stored values: ``uint16`` for BitsAllocated 16, PixelRepresentation 0.
    slopes, intercepts : array_like
        RescaleSlope and RescaleIntercept of every slice.
    bits : int, optional
        BitsStored, the largest of the slices; all the bits of `stored` by default.

    Returns
    -------
    numpy.dtype
        ``int16`` or ``int32`` where slopes and intercepts are whole numbers and every
        value that `bits` allow fits: nothing is lost. ``float64`` for stored values
        of 32 bits or more, for floats, and for results beyond ``float32``. That for
        the rest.
    """
    kind = np.dtype(stored)
    if kind.kind not in "biu" or kind.itemsize > SHORT:
        return np.dtype(np.float64)
    slope, intercept = np.broadcast_arrays(
        np.asarray(slopes, np.float64), np.asarray(intercepts, np.float64)
    )
    if not slope.size:
        return np.dtype(np.float32)
    low, high = _range(kind, bits)
    with np.errstate(over="ignore", invalid="ignore"):
        # The slope too must fit, for the arithmetic is done in that type.
        ends = np.stack([low * slope + intercept, high * slope + intercept, slope])
    if not np.abs(ends).max() <= np.finfo(np.float32).max:
        return np.dtype(np.float64)
    if all((numbers == np.round(numbers)).all() for numbers in (slope, intercept)):
        for exact in (np.int16, np.int32):
            limits = np.iinfo(exact)
            if limits.min <= ends.min() and ends.max() <= limits.max:
                return np.dtype(exact)
    return np.dtype(np.float32)


def _range(kind: np.dtype[Any], bits: int | None) -> tuple[int, int]:
    """Least and largest stored value."""
    whole = 8 * kind.itemsize
    width = whole if bits is None else min(max(bits, 1), whole)
    if kind.kind == "i":
        return -(1 << (width - 1)), (1 << (width - 1)) - 1
    return 0, (1 << width) - 1


def rescale(
    array: NDArray[Any],
    slope: ArrayLike = 1.0,
    intercept: ArrayLike = 0.0,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """Give ``array * slope + intercept`` in a new array.

    Parameters
    ----------
    array : numpy.ndarray
        Stored values: ``(..., row, column)``.
    slope, intercept : array_like
        One number, or one for each slice: of the shape of `array` without its last
        two axes.
    dtype : dtype_like, optional
        By default what `rescaled_dtype` says of the dtype of `array`.

    Raises
    ------
    GeometryError
        A value does not fit `dtype`: the object holds values beyond its BitsStored.
        Rescale it to float32, or to the dtype without `bits`.
    """
    wanted = (
        rescaled_dtype(array.dtype, slope, intercept)
        if dtype is None
        else np.dtype(dtype)
    )
    slopes, intercepts = (_per_slice(numbers) for numbers in (slope, intercept))
    if wanted.kind == "i":
        _check_fits(array, slopes, intercepts, wanted)
        slopes, intercepts = (
            numbers.astype(wanted) for numbers in (slopes, intercepts)
        )
    out: NDArray[Any] = np.multiply(array, slopes, dtype=wanted, casting="unsafe")
    out += intercepts.astype(wanted)
    return out


def _per_slice(numbers: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(numbers, np.float64)
    return values.reshape(*values.shape, 1, 1) if values.ndim else values


def _check_fits(
    array: NDArray[Any],
    slopes: NDArray[np.float64],
    intercepts: NDArray[np.float64],
    wanted: np.dtype[Any],
) -> None:
    """Look at the ends of what is there: integers would wrap without a word."""
    if not array.size:
        return
    axes = (-2, -1) if slopes.ndim or intercepts.ndim else None
    low, high = (
        end(array, axis=axes, keepdims=True).astype(np.float64)
        for end in (np.min, np.max)
    )
    ends = np.stack(np.broadcast_arrays(low * slopes, high * slopes)) + intercepts
    limits = np.iinfo(wanted)
    if limits.min <= ends.min() and ends.max() <= limits.max:
        return
    reason = f"rescaled values from {ends.min():g} to {ends.max():g}"
    msg = f"{reason} do not fit {wanted}: more bits are used than BitsStored says"
    raise GeometryError(msg, reasons=(reason,))
