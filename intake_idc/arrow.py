"""Arrow arrays of Python values and of numpy's, and back, made without pandas.

`pyarrow.array` imports pandas to look at a list, and `Array.to_numpy` to make an array:
0.1 s and 40 MB, where opening a lock of 50,000 series takes 0.2.
"""

from __future__ import annotations

import itertools
from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

__all__ = [
    "binary",
    "bools",
    "integers",
    "is_text",
    "lists",
    "numbers",
    "numpy_of",
    "one",
    "pack_uuids",
    "packed",
    "packed_bytes",
    "taken",
    "texts",
    "unpack_uuids",
    "uuid_halves",
    "uuid_lists",
    "uuids_at",
    "words",
]

FEW = 4096
"""Rows that are put together faster than what takes them is imported."""
UUID_LENGTH = 36
UUID_DASHES = (8, 13, 18, 23)
_EIGHTS = ((0,), (9, 14), (19, 24), (28,))
"""Where eight letters of a uuid lie, or four and four."""
_DIGITS = [i for i in range(UUID_LENGTH) if i not in UUID_DASHES]
_HIGH, _LOW = _DIGITS[0::2], _DIGITS[1::2]
"""Places of the letters of a uuid that are the upper, and the lower, half of a byte."""


def is_text(value: str) -> bool:
    """Say whether a text can be encoded: Python lets one hold half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def integers(values: Sequence[int | None]) -> pa.Array:
    """Give whole numbers as an array of int64; None is null."""
    import pyarrow as pa

    data = array("q", [value or 0 for value in values])
    return _array(pa.int64(), values, [data])


def numbers(values: np.ndarray[Any, Any]) -> pa.Array:
    """Give whole numbers of numpy as an array of int64, where it can without a copy."""
    import numpy as np
    import pyarrow as pa

    data = pa.py_buffer(np.ascontiguousarray(values, np.int64))
    return pa.Array.from_buffers(pa.int64(), len(values), [None, data])


def numpy_of(array: pa.Array) -> np.ndarray[Any, Any]:
    """Give numbers without nulls as an array of numpy, without a copy."""
    import numpy as np

    if not len(array):
        return np.zeros(0, array.type.to_pandas_dtype())
    data = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return data[array.offset : array.offset + len(array)]


def bools(array: pa.Array) -> np.ndarray[Any, Any]:
    """Give an array of truth values as one of numpy; null is False."""
    import numpy as np

    if not len(array):
        return np.zeros(0, bool)
    there, values = array.buffers()
    found = _bits(values, array.offset, len(array))
    if array.null_count:
        found = found & _bits(there, array.offset, len(array))
    return found


def _bits(buffer: pa.Buffer, offset: int, count: int) -> np.ndarray[Any, Any]:
    import numpy as np

    bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
    return bits[offset : offset + count].astype(bool)


def texts(values: Sequence[str | None]) -> pa.Array:
    """Give texts as an array of strings; None is null."""
    import pyarrow as pa

    encoded = [(value or "").encode() for value in values]
    ends = array("i", itertools.accumulate(map(len, encoded), initial=0))
    return _array(pa.string(), values, [ends, b"".join(encoded)])


def lists(values: Sequence[Sequence[bytes] | None], width: int = 16) -> pa.Array:
    """Give lists of bytes of one width as an array of large lists; None is null."""
    import pyarrow as pa

    counts = [0 if value is None else len(value) for value in values]
    ends = array("q", itertools.accumulate(counts, initial=0))
    inner = packed([item for value in values for item in value or ()], width)
    kind = pa.large_list(pa.binary(width))
    return pa.Array.from_buffers(
        kind, len(values), [_there(values), pa.py_buffer(ends)], children=[inner]
    )


def _array(kind: pa.DataType, values: Sequence[Any], data: list[Any]) -> pa.Array:
    import pyarrow as pa

    buffers = [_there(values), *(pa.py_buffer(part) for part in data)]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _there(values: Sequence[Any]) -> pa.Buffer | None:
    """Give a bit for each value that is there; None where all are."""
    import pyarrow as pa

    if None not in values:
        return None
    bits = bytearray(len(values) // 8 + 1)
    for i, value in enumerate(values):
        if value is not None:
            bits[i >> 3] |= 1 << (i & 7)
    return pa.py_buffer(bits)


def packed(parts: Sequence[bytes | None], width: int = 16) -> pa.Array:
    """Give bytes of one width as an array of fixed_size_binary; None is null."""
    import pyarrow as pa

    data = b"".join(part or bytes(width) for part in parts)
    return _array(pa.binary(width), parts, [data])


def pack_uuids(texts: pa.Array) -> tuple[pa.Array, np.ndarray[Any, Any]]:
    """Pack uuids of 36 characters, in either case, into 16 bytes each.

    Returns
    -------
    pyarrow.FixedSizeBinaryArray, numpy.ndarray
        The packed uuids, and for each whether it was one; what was not is null.
    """
    import numpy as np
    import pyarrow as pa

    if not len(texts):
        return pa.nulls(0, pa.binary(16)), np.zeros(0, bool)
    letters, ends = _letters(texts)
    good = np.diff(ends) == UUID_LENGTH
    if texts.null_count:
        good &= bools(texts.is_valid())
    # What is too short to be one is read at a place where there is room.
    starts = ends[:-1] if good.all() else np.where(good, ends[:-1], 0)
    if not good.any():
        return pa.nulls(len(texts), pa.binary(16)), good
    if len(letters) < UUID_LENGTH:
        return pa.nulls(len(texts), pa.binary(16)), np.zeros(len(texts), bool)
    rows, valid = uuids_at(letters, starts)
    if not valid.all():
        # Upper case is rare, and differs from lower case by one bit.
        upper = (letters >= ord("A")) & (letters <= ord("F"))
        rows, valid = uuids_at(letters | upper.astype(np.uint8) << 5, starts)
    valid &= good
    return binary(rows, valid), valid


def _letters(texts: pa.Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give the bytes of texts, and where each begins, and where the last ends."""
    import numpy as np
    import pyarrow as pa

    large = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    ends = np.frombuffer(texts.buffers()[1], np.int64 if large else np.int32)
    ends = ends[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(texts.buffers()[2] or b"", np.uint8), ends


def uuids_at(
    letters: np.ndarray[Any, Any], starts: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read uuids in lower case out of bytes, 36 from each start on.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        Rows of 16 bytes, and for each row whether it was a uuid.
    """
    import numpy as np

    valid = words(letters, starts + 8, "u1") == ord("-")
    for dash in UUID_DASHES[1:]:
        valid &= words(letters, starts + dash, "u1") == ord("-")
    out = np.empty((len(starts), 4), "<u4")
    for column, places in enumerate(_EIGHTS):
        # Eight letters at a time, as one number: 0x61 is "a", whose value is 10.
        if len(places) == 1:
            eight = words(letters, starts + places[0], "<u8")
        else:
            eight = words(letters, starts + places[1], "<u4").astype("<u8")
            eight <<= np.uint64(32)
            eight |= words(letters, starts + places[0], "<u4")
        values = (eight & _each(0x0F)) + ((eight >> _of(6)) & _each(1)) * _of(9)
        above_9 = ((values + _each(6)) >> _of(4)) & _each(1)
        written = values + _each(ord("0")) + above_9 * _of(ord("a") - ord("0") - 10)
        # What follows "f" would be written as itself, with a value that is too large.
        valid &= (written == eight) & ((values & _each(0xF0)) == 0)
        pairs = (values << _of(4) | values >> _of(8)) & _of(0x00FF00FF00FF00FF)
        fours = (pairs | pairs >> _of(8)) & _of(0x0000FFFF0000FFFF)
        out[:, column] = fours | fours >> _of(16)
    return out.view(np.uint8), valid


def words(
    letters: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], kind: str
) -> np.ndarray[Any, Any]:
    """Give the numbers that lie at some places among bytes, wherever they begin."""
    import numpy as np

    width = np.dtype(kind).itemsize
    count = max(len(letters) - width + 1, 0)
    found: np.ndarray[Any, Any] = np.ndarray((count,), kind, letters, 0, (1,))[starts]
    return found


def _each(value: int) -> np.uint64:
    """Give a number with this value in each of its eight bytes."""
    import numpy as np

    return np.uint64(int.from_bytes(bytes([value]) * 8, "little"))


def _of(value: int) -> np.uint64:
    import numpy as np

    return np.uint64(value)


def binary(
    rows: np.ndarray[Any, Any], valid: np.ndarray[Any, Any] | None = None
) -> pa.Array:
    """Give rows of bytes, all of one width, as an array of fixed_size_binary."""
    import numpy as np
    import pyarrow as pa

    count, width = rows.shape
    bits = None
    if valid is not None and not valid.all():
        bits = pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [bits, pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.binary(width), count, buffers)


def unpack_uuids(packed: pa.Array) -> pa.Array:
    """Give packed uuids as texts in lower case; null stays null."""
    import numpy as np
    import pyarrow as pa

    count = len(packed)
    if not count:
        return pa.nulls(0, pa.string())
    start = packed.offset * 16
    data = np.frombuffer(packed.buffers()[1], np.uint8)[start : start + 16 * count]
    rows = data.reshape(count, 16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    out = np.full((count, UUID_LENGTH), ord("-"), np.uint8)
    out[:, _HIGH] = digits[rows >> 4]
    out[:, _LOW] = digits[rows & 15]
    ends = np.arange(0, (count + 1) * UUID_LENGTH, UUID_LENGTH, dtype=np.int32)
    bits = None
    if packed.null_count:
        there = bools(packed.is_valid())
        bits = pa.py_buffer(np.packbits(there, bitorder="little"))
    buffers = [bits, pa.py_buffer(ends), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.string(), count, buffers)


def one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Give a column as one array."""
    import pyarrow as pa

    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks:
        return pa.concat_arrays(column.chunks)
    return pa.nulls(0, column.type)


def taken(table: pa.Table, places: np.ndarray[Any, Any]) -> pa.Table:
    """Give some rows of a table, in the order of their places here."""
    import pyarrow as pa

    if not 0 < len(places) <= FEW or table.num_rows > FEW:
        return table.take(numbers(places))
    # To take rows costs 40 ms of imports.
    whole = table.combine_chunks().to_batches()[0]
    rows = [whole.slice(place, 1) for place in places.tolist()]
    return pa.Table.from_batches(rows).combine_chunks()


def packed_bytes(packed: pa.Array) -> memoryview:
    """Give packed uuids as they lie in memory, one after the other."""
    buffer = packed.buffers()[1]
    if buffer is None or not len(packed):
        return memoryview(b"")
    start = packed.offset * 16
    return memoryview(buffer)[start : start + 16 * len(packed)]


def uuid_halves(
    packed: pa.Array,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give packed uuids as two numbers each, which sort as the texts do."""
    import numpy as np

    rows = np.frombuffer(packed_bytes(packed), ">u8").reshape(-1, 2).astype(np.uint64)
    return rows[:, 0], rows[:, 1]


def uuid_lists(values: pa.Array, lengths: np.ndarray[Any, Any]) -> pa.Array:
    """Give packed uuids as lists of these lengths; a list of none is null."""
    import numpy as np
    import pyarrow as pa

    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    there = lengths > 0
    bits = None
    if not there.all():
        bits = pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(
        pa.large_list(pa.binary(16)),
        len(lengths),
        [bits, pa.py_buffer(offsets)],
        children=[values],
    )
