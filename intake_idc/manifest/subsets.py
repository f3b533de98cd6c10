"""Which objects of a series are meant, and which are known: columns of a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.arrow import binary, unpack_uuids, uuid_halves, uuid_lists
from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

__all__ = [
    "OBJECTS",
    "ONLY",
    "check_subsets",
    "subset_column",
    "subset_lists",
    "with_packed_subsets",
    "with_readable_subsets",
]

ONLY = "only"
"""Column with the objects that are meant of a series, where not all are: a list of
``crdc_instance_uuid``, packed into 16 bytes each, sorted, each once. Null: all."""

OBJECTS = "objects"
"""Column with the objects of each row, where they are known without a listing: a list
of uuid and MD5, 16 bytes each, and size in bytes, in the order of the keys."""


def subset_column(rows: Sequence[int], uuids: pa.Array, count: int) -> pa.Array:
    """Give the column `ONLY` of a manifest, from its instances in any order.

    Parameters
    ----------
    rows : sequence of int
        Row of the manifest, from 0, that each instance belongs to.
    uuids : pyarrow.FixedSizeBinaryArray
        Packed ``crdc_instance_uuid`` of each; one that comes twice is taken once.
    count : int
        Rows of the manifest. Those of which no instance is given are null: all of
        the series is meant.
    """
    import numpy as np

    places = np.asarray(rows, np.int64)
    high, low = uuid_halves(uuids)
    order = np.lexsort((low, high, places))
    places, high, low = places[order], high[order], low[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (
        (places[1:] != places[:-1]) | (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    )
    kept = np.stack([high[fresh], low[fresh]], axis=1).astype(">u8")
    lengths = np.bincount(places[fresh], minlength=count)
    return uuid_lists(binary(kept.view(np.uint8).reshape(-1, 16)), lengths)


def with_packed_subsets(table: pa.Table) -> pa.Table:
    """Give a table whose `ONLY`, if it has one, is packed as a manifest's is.

    DuckDB knows bytes of any length only, and gives them so.
    """
    if ONLY not in table.column_names:
        return table
    import pyarrow as pa

    column = table.column(ONLY)
    kind = pa.large_list(pa.binary(16))
    if column.type == kind:
        return table
    return table.set_column(table.column_names.index(ONLY), ONLY, column.cast(kind))


def with_readable_subsets(table: pa.Table) -> pa.Table:
    """Give a table whose `ONLY`, if it has one, is lists of texts."""
    if ONLY not in table.column_names:
        return table
    import pyarrow as pa

    chunks = []
    for lists in with_packed_subsets(table).column(ONLY).chunks:
        # The offsets of a slice count from the start of what it is a slice of.
        whole = pa.concat_arrays([lists, lists.slice(0, 0)])
        values = unpack_uuids(whole.values)
        mask = whole.is_null() if whole.null_count else None
        own = pa.LargeListArray.from_arrays(whole.offsets, values, mask=mask)
        chunks.append(own)
    column = pa.chunked_array(chunks, pa.large_list(pa.string()))
    return table.set_column(table.column_names.index(ONLY), ONLY, column)


def check_subsets(lists: pa.Array) -> None:
    """Refuse subsets that are not lists of sorted, packed uuids, each once.

    Raises
    ------
    RequestError
        They are not.
    """
    import numpy as np
    import pyarrow as pa

    kind = lists.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not listed or kind.value_type != pa.binary(16):
        msg = f"a manifest's {ONLY!r} holds lists of packed uuids; got {kind}"
        raise RequestError(msg, column=ONLY)
    there = lists.drop_null()
    lengths = np.diff(there.offsets.to_numpy())
    values = there.flatten()
    high, low = uuid_halves(values)
    msg = (
        f"a manifest's {ONLY!r} names one instance or more in each list, sorted and "
        "each once, and is null where all are meant; see subset_column"
    )
    if values.null_count or not lengths.all():
        raise RequestError(msg, column=ONLY)
    rising = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
    # The first of a list stands after the last of another.
    rising[(np.cumsum(lengths) - 1)[:-1]] = True
    if not rising.all():
        raise RequestError(msg, column=ONLY)


def subset_lists(lists: Sequence[pa.Array | None]) -> pa.Array:
    """Give a column of lists of packed uuids; None is null."""
    import numpy as np
    import pyarrow as pa

    there = [own for own in lists if own is not None]
    values = pa.concat_arrays(there) if there else pa.nulls(0, pa.binary(16))
    lengths = np.array([0 if own is None else len(own) for own in lists], np.int64)
    return uuid_lists(values, lengths)
