"""Texts of a column as numbers: what is asked of all cells at once, without pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake_idc.arrow import bools, uuids_at

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

__all__ = ["Cells", "coded_texts", "indices", "uuids_in"]


class Cells:
    """Texts of a column: their bytes, and where each begins and how long it is."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array
        self._measure()
        if self._has_margins():
            import pyarrow.compute as pc

            self.array = pc.utf8_trim_whitespace(array)
            self._measure()

    def _measure(self) -> None:
        import numpy as np
        import pyarrow as pa

        array = self.array
        width = np.int64 if pa.types.is_large_string(array.type) else np.int32
        _, ends, data = array.buffers()
        count = len(array)
        if ends is None or not count:
            offsets = np.zeros(count + 1, width)
        else:
            offsets = np.frombuffer(ends, width)[array.offset :][: count + 1]
        self.letters = np.frombuffer(data or b"", np.uint8)
        self.starts = offsets[:-1].astype(np.int64)
        self.lengths = np.diff(offsets)
        if array.null_count:
            self.lengths = np.where(bools(array.is_valid()), self.lengths, 0)

    def _has_margins(self) -> bool:
        there = self.lengths > 0
        starts = self.starts[there]
        ends = starts + self.lengths[there] - 1
        for at in (starts, ends):
            letters = self.letters[at]
            if ((letters <= ord(" ")) | (letters > ord("~"))).any():
                return True
        return False

    def at(self, row: int) -> str:
        """Give one text."""
        start = int(self.starts[row])
        data = self.letters[start : start + int(self.lengths[row])].tobytes()
        return data.decode("utf-8", "replace")

    def masked(self, mask: Array) -> pa.Array:
        """Give the texts where the mask holds, and null elsewhere; without a copy."""
        import numpy as np
        import pyarrow as pa

        array = self.array
        bits = np.packbits(
            np.concatenate([np.zeros(array.offset, bool), mask]), bitorder="little"
        )
        buffers = [pa.py_buffer(bits), *array.buffers()[1:]]
        made = pa.Array.from_buffers(array.type, len(array), buffers, -1, array.offset)
        large = pa.types.is_large_string(array.type)
        return made.cast(pa.string()) if large else made


def uuids_in(cells: Cells, sized: Array) -> tuple[Array, Array]:
    """Read uuids where cells have their length; give rows of 16 bytes, and which."""
    import numpy as np

    rows = np.zeros((len(sized), 16), np.uint8)
    mask = np.zeros(len(sized), bool)
    if sized.all() and len(sized):
        return uuids_at(cells.letters, cells.starts)
    if sized.any():
        rows[sized], mask[sized] = uuids_at(cells.letters, cells.starts[sized])
    return rows, mask


def coded_texts(cells: Cells) -> tuple[Array, list[str]]:
    """Give the number of each cell's value, -1 for none, and the values."""
    import numpy as np

    coded = cells.array.dictionary_encode()
    _, data = coded.indices.buffers()
    codes = np.frombuffer(data, np.int32)[coded.indices.offset :][: len(coded)]
    codes = np.where(cells.lengths > 0, codes, -1)
    return codes, [value or "" for value in coded.dictionary.to_pylist()]


def indices(codes: Array) -> pa.Array:
    """Give codes as indices into values with a null behind them."""
    import numpy as np
    import pyarrow as pa

    codes = np.ascontiguousarray(codes, np.int32)
    held = pa.py_buffer(np.packbits(codes >= 0, bitorder="little"))
    data = pa.py_buffer(np.where(codes >= 0, codes, 0).astype(np.int32))
    return pa.Array.from_buffers(pa.int32(), len(codes), [held, data])
