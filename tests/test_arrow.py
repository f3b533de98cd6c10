"""Rows of a table, taken by their places."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake_idc.arrow import FEW, taken


def table_of(values: list[tuple]) -> pa.Table:
    texts, longs, numbers, packed, truths = zip(*values, strict=True)
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "long": pa.array(longs, pa.large_string()),
            "number": pa.array(numbers, pa.int64()),
            "packed": pa.array(packed, pa.binary(4)),
            "truth": pa.array(truths, pa.bool_()),
            "list": pa.array([[n] for n in numbers], pa.large_list(pa.int64())),
        }
    ).replace_schema_metadata({"said": "of it"})


VALUES = st.tuples(
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.binary(min_size=4, max_size=4),
    st.none() | st.booleans(),
)


@given(
    chunks=st.lists(st.lists(VALUES, min_size=1, max_size=12), min_size=1, max_size=3),
    data=st.data(),
)
def test_rows_are_taken_as_arrow_takes_them(chunks, data):
    import numpy as np

    table = pa.concat_tables([table_of(values) for values in chunks])
    cut = data.draw(st.integers(0, len(table) - 1))
    table = table.slice(cut)
    rows = st.integers(0, len(table) - 1)
    places = data.draw(st.lists(rows, max_size=20) | st.permutations(range(len(table))))
    places = np.array(places, np.int64)
    found = taken(table, places)
    found.validate(full=True)
    assert found.equals(table.take(pa.array(places)), check_metadata=True)


@pytest.mark.parametrize(
    ("rows", "count"),
    [(FEW, FEW), (FEW + 1, 10), (10, FEW + 1), (FEW + 1, FEW + 1), (5, 0), (0, 0)],
)
def test_few_rows_and_many_are_taken_alike(rows, count):
    import numpy as np

    values = [
        (str(n), f"{n}", n, n.to_bytes(4, "big"), n % 2 == 0) for n in range(rows)
    ]
    table = table_of(values) if rows else table_of([(None,) * 5]).slice(1)
    places = np.random.default_rng(0).integers(0, max(rows, 1), count)
    found = taken(table, places)
    assert found.equals(table.take(pa.array(places, pa.int64())), check_metadata=True)
