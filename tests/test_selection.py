"""Selections: what a filter means, against a naive evaluation row by row."""

from __future__ import annotations

import pickle
import re

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake_idc.errors import (
    BadCondition,
    EmptySelection,
    RequestError,
    UnknownColumn,
    UnknownValue,
)
from intake_idc.manifest import Manifest
from intake_idc.release import FixedRows
from intake_idc.selection import Pattern, Selection

TEXTS = ["CT", "ct", "MR", "", "a\nb", "50%", "x'y", "T2* FGRE", "straße", "\x00", None]


def rows_of(values: list[str | None], numbers: list[int | None]) -> FixedRows:
    count = len(values)
    table = pa.table(
        {
            "crdc_series_uuid": [f"u{i}" for i in range(count)],
            "aws_bucket": ["b"] * count,
            "SeriesInstanceUID": [str(i) for i in range(count)],
            "SeriesDescription": pa.array(values, pa.string()),
            "instanceCount": pa.array(numbers, pa.int64()),
        }
    )
    return FixedRows(Manifest(table, 25, "a test"))


ROWS = rows_of(TEXTS, [*range(len(TEXTS) - 1), None])


def selected(rows: FixedRows, selection: Selection) -> list[str | None]:
    found = rows.rows(["SeriesDescription"], selection, strict=False)
    return [row[0] for row in found]


def naive(value: str | None, wanted: object) -> bool:
    """The rules of a filter on one text column, in plain Python."""
    if isinstance(wanted, list):
        return any(naive(value, item) for item in wanted)
    if wanted is None:
        return value is None
    if isinstance(wanted, re.Pattern):
        return value is not None and wanted.search(value) is not None
    return value == wanted


CASES = {
    "a plain string is exact": "CT",
    "case counts": "ct",
    "a percent sign is itself": "50%",
    "a star is itself": "T2* FGRE",
    "a quote is itself": "x'y",
    "the empty text is not null": "",
    "None is null": None,
    "a list is OR": ["CT", "MR"],
    "None in a list is null": ["CT", None],
    "a regular expression matches anywhere": re.compile("T"),
    "its flags count": re.compile("^ct$", re.IGNORECASE),
    "a dollar is before a last line feed too": re.compile("a$", re.MULTILINE),
    "a text, a pattern and null in one list": ["MR", re.compile("%"), None],
}


@pytest.mark.parametrize("wanted", CASES.values(), ids=CASES)
def test_a_filter_means(wanted):
    selection = Selection().where({"SeriesDescription": wanted})
    assert selected(ROWS, selection) == [t for t in TEXTS if naive(t, wanted)]


text = st.text(max_size=4)
item = st.one_of(text, st.none(), text.map(re.escape).map(re.compile))
wanted = st.one_of(item, st.lists(item, min_size=1, max_size=4))


@given(st.lists(st.one_of(text, st.none()), min_size=1, max_size=8), wanted)
def test_any_filter_equals_a_naive_evaluation(values, wanted):
    values = [v if v is None or _utf8(v) else None for v in values]
    if not all(_utf8(t) for t in _texts(wanted)):
        return
    rows = rows_of(values, [None] * len(values))
    selection = Selection().where({"SeriesDescription": wanted})
    assert selected(rows, selection) == [v for v in values if naive(v, wanted)]


def _utf8(value: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in value)


def _texts(wanted: object) -> list[str]:
    items = wanted if isinstance(wanted, list) else [wanted]
    return [getattr(i, "pattern", i) for i in items if i is not None]


def test_columns_are_and_and_so_are_chained_selections():
    both = Selection().where(
        {"SeriesDescription": ["CT", "MR"], "instanceCount": [0, 3]}
    )
    chained = (
        Selection()
        .where({"SeriesDescription": ["CT", "MR"]})
        .where({"instanceCount": 0})
    )
    assert selected(ROWS, both) == ["CT"]
    assert selected(ROWS, chained) == ["CT"]


def test_the_same_column_twice_is_and():
    twice = (
        Selection()
        .where({"SeriesDescription": ["CT", "MR"]})
        .where({"SeriesDescription": "MR"})
    )
    assert selected(ROWS, twice) == ["MR"]


def test_sql_is_one_more_condition_in_parentheses_of_its_own():
    selection = Selection().where({"SeriesDescription": "CT"})
    either = selection.query("instanceCount = 0 or instanceCount = 2")
    assert selected(ROWS, either) == ["CT"]
    assert selected(ROWS, Selection().query("instanceCount > 8 -- a remark")) == [
        "\x00"
    ]


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "1=1; DROP TABLE t",
        "1=1) UNION SELECT (1",
        "1=1) OR (1=1",
        "1 FROM t",
        "instanceCount = 1 ORDER BY 1",
        "/* open",
        "SELECT 1",
    ],
)
def test_what_is_not_one_condition_is_refused(condition):
    if condition == "1=1) OR (1=1":
        # Balanced inside, harmless, and still no condition alone.
        pass
    with pytest.raises(BadCondition, match="condition"):
        Selection().query(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "EXISTS (SELECT 1 FROM read_text('/etc/hostname'))",
        "EXISTS (SELECT 1 FROM read_parquet('/etc/hostname'))",
        "EXISTS (SELECT 1 FROM glob('/*'))",
        "EXISTS (SELECT 1 FROM 'https://127.0.0.1:1/x.parquet')",
    ],
)
def test_a_condition_reads_no_file_and_no_address(condition):
    with pytest.raises(BadCondition):
        ROWS.rows(["SeriesInstanceUID"], Selection().query(condition))


def test_an_unknown_column_is_named_with_the_nearest():
    with pytest.raises(UnknownColumn, match="did you mean 'SeriesDescription'"):
        Selection().where({"seriesdescription": "CT"}).compile(ROWS)
    with pytest.raises(BadCondition, match="instanceCount"):
        ROWS.rows(["SeriesInstanceUID"], Selection().query("instanceCont > 3"))


def test_an_unknown_value_is_named_with_the_nearest():
    with pytest.raises(UnknownValue, match="did you mean 'T2\\* FGRE'") as caught:
        Selection().where({"SeriesDescription": ["CT", "T2 FGRE"]}).compile(ROWS)
    assert caught.value.details["values"] == ["T2 FGRE"]


def test_an_empty_filter_is_never_everything():
    with pytest.raises(EmptySelection):
        Selection().where({})
    with pytest.raises(EmptySelection, match="empty list"):
        Selection().where({"SeriesDescription": []})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("instanceCount", "5"),
        ("SeriesDescription", 5),
        ("instanceCount", re.compile("5")),
    ],
)
def test_a_value_of_another_type_is_refused(column, value):
    with pytest.raises(RequestError, match=column):
        Selection().where({column: value}).compile(ROWS)


@pytest.mark.parametrize(
    "value", [object(), {"like": "x"}, re.compile(b"x"), {"regex": "("}]
)
def test_a_value_that_no_column_holds_is_refused(value):
    with pytest.raises(RequestError):
        Selection().where({"SeriesDescription": value})


def test_numpy_and_pandas_values_are_taken_as_pythons_own():
    import numpy as np
    import pandas as pd

    for many in (np.array([0, 2]), pd.Series([0, 2]), {0, 2}, (0, 2), range(0, 3, 2)):
        assert selected(ROWS, Selection().where({"instanceCount": many})) == [
            "CT",
            "MR",
        ]


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "query"]).map(str.upper), wanted, max_size=3
    ),
    st.booleans(),
)
def test_a_selection_as_data_reads_back_as_the_same(columns, twice):
    selection = Selection()
    for _ in range(1 + twice):
        if columns:
            selection = selection.where(columns)
    selection = selection.query("1 = 1")
    assert Selection.from_dict(selection.to_dict()) == selection
    assert pickle.loads(pickle.dumps(selection)) == selection
    arguments = selection.to_arguments()
    if "selection" in arguments:
        assert Selection.from_dict(arguments["selection"]) == selection


@pytest.mark.parametrize(
    "data", [{"were": []}, {"where": [{"is": [1]}]}, {"where": ["x"]}]
)
def test_selection_data_of_another_shape_is_refused(data):
    with pytest.raises(RequestError):
        Selection.from_dict(data)


def test_a_pattern_keeps_its_flags_as_names():
    selection = Selection().where({"A": re.compile("x", re.IGNORECASE | re.DOTALL)})
    assert selection.conditions[0].patterns == (Pattern("x", ("IGNORECASE", "DOTALL")),)
    with pytest.raises(RequestError, match="VERBOSE"):
        Selection().where({"A": re.compile("x", re.VERBOSE)})


def test_the_text_of_a_selection_is_short_however_many_values():
    selection = Selection().where({"A": [str(i) for i in range(100_000)]})
    assert len(str(selection)) < 200
    assert "99,995 more" in str(selection)
    assert duckdb is not None


@pytest.mark.parametrize(
    "wanted",
    ["\ud800", ["x", "\udfff"], 10**400, -(1 << 127), {"regex": "a{99999999999}"}],
    ids=["half a character", "in a list", "huge", "least", "regex"],
)
def test_a_value_that_neither_sql_nor_a_table_can_hold_is_refused(wanted):
    with pytest.raises(RequestError):
        Selection().where({"collection_id": wanted})


def test_half_a_character_is_no_condition():
    with pytest.raises(BadCondition, match="half a character"):
        Selection().query("collection_id = '\ud800'")
