"""Which series an instance is of, by a table at hand."""

from __future__ import annotations

from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from intake_idc.arrow import packed, texts
from intake_idc.errors import IntegrityError, MissingError, RequestError
from intake_idc.export import series_of_instances


def uuid(number):
    return str(UUID(int=number))


def table_of(pairs, **more):
    series, instances = zip(*pairs, strict=True) if pairs else ((), ())
    columns = {
        "crdc_series_uuid": texts([uuid(s) for s in series]),
        "crdc_instance_uuid": texts([uuid(i) for i in instances]),
        "SOPInstanceUID": texts([f"1.2.{i}" for i in instances]),
    }
    return pa.table({**columns, **more})


def names_of(numbers):
    return packed([UUID(int=number).bytes for number in numbers])


PAIRS = [(1, 10), (1, 11), (2, 20), (3, 20), (3, 30)]
TABLE = table_of(PAIRS)


def found_in(source, names, **more):
    table = series_of_instances(source, names, **more)
    rows = table.to_pylist()
    return [(r["position"], UUID(bytes=r["crdc_series_uuid"]).int) for r in rows]


pairs_drawn = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=30)


@given(pairs_drawn, st.lists(st.integers(0, 12), max_size=20))
def test_it_is_what_looking_row_by_row_gives(pairs, wanted):
    expected = {
        (at, series)
        for at, instance in enumerate(wanted)
        for series, own in pairs
        if own == instance
    }
    by_uuid = found_in(table_of(pairs), names_of(wanted))
    assert len(by_uuid) == len(expected)
    assert set(by_uuid) == expected
    assert [at for at, _ in by_uuid] == sorted(at for at, _ in by_uuid)
    uids = texts([f"1.2.{instance}" for instance in wanted])
    by_uid = series_of_instances(table_of(pairs), uids, by="SOPInstanceUID")
    assert by_uid.column_names == [
        "position",
        "crdc_series_uuid",
        "crdc_instance_uuid",
    ]
    assert set(by_uid.column("position").to_pylist()) == {at for at, _ in expected}
    assert len(by_uid) == len(expected)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.CSV"])
def test_a_file_is_read(tmp_path, name):
    path = tmp_path / name
    write = parquet.write_table if name == "t.parquet" else csv.write_csv
    write(TABLE, path)
    expected = [(0, 3), (1, 1), (3, 2), (3, 3)]
    assert found_in(path, names_of([30, 10, 99, 20])) == expected
    uids = texts(["1.2.30", "1.2.10", None, "1.2.20"])
    assert found_in(str(path), uids, by="SOPInstanceUID") == expected


def test_parquet_is_read_piece_by_piece(tmp_path):
    large = table_of([(i // 100, i) for i in range(20_000)])
    parquet.write_table(large, tmp_path / "t.parquet", row_group_size=700)
    found = found_in(tmp_path / "t.parquet", names_of(range(19_999, 0, -5)))
    assert [series for _, series in found] == [i // 100 for i in range(19_999, 0, -5)]


def test_a_table_by_series_uid_will_do():
    """As `sm_instance_index` is; the spelling does not matter, nor the case."""
    slides = pa.table(
        {
            "seriesinstanceuid": ["1.2", "1.3"],
            "CRDC_instance_uuid": [f"ABCDEF00{uuid(0)[8:]}", None],
            "instance_size": [1, 2],
        }
    )
    wanted = packed([UUID(f"abcdef00{uuid(0)[8:]}").bytes, None])
    found = series_of_instances(slides, wanted)
    assert found.to_pylist() == [
        {
            "position": 0,
            "SeriesInstanceUID": "1.2",
            "crdc_instance_uuid": wanted[0].as_py(),
        }
    ]
    bare = slides.rename_columns(["SeriesInstanceUID", "SOPInstanceUID", "n"])
    uids = texts(["no", slides.column(1)[0].as_py()])
    found = series_of_instances(bare, uids, by="SOPInstanceUID")
    assert found.to_pylist() == [{"position": 1, "SeriesInstanceUID": "1.2"}]


def test_texts_that_look_like_numbers_stay_texts(tmp_path):
    (tmp_path / "t.csv").write_text("SOPInstanceUID,SeriesInstanceUID\n1.20,1.10\n")
    found = series_of_instances(tmp_path / "t.csv", texts(["1.20"]), "SOPInstanceUID")
    assert found.column("SeriesInstanceUID").to_pylist() == ["1.10"]


def test_a_duplicate_name_has_a_row_each_time():
    names = pa.chunked_array([names_of([11]), names_of([11, 10])])
    assert found_in(TABLE, names) == [(0, 1), (1, 1), (2, 1)]


WRONG = {
    "no instance": (TABLE.drop_columns(["crdc_instance_uuid"]), "crdc_instance_uuid"),
    "no series": (
        TABLE.drop_columns(["crdc_series_uuid"]),
        "crdc_series_uuid or SeriesInstanceUID",
    ),
    "a list": ([1], "path or an Arrow table"),
    "twice": (
        TABLE.append_column("crdc_instance_uuid", TABLE.column(0)),
        "crdc_instance_uuid",
    ),
}


@pytest.mark.parametrize(("table", "match"), WRONG.values(), ids=WRONG)
def test_a_table_of_something_else_is_refused(table, match):
    with pytest.raises(RequestError, match=match):
        series_of_instances(table, names_of([1]))


def test_names_of_another_kind_are_refused():
    with pytest.raises(RequestError, match="are of type"):
        series_of_instances(TABLE, texts(["1.2"]))
    with pytest.raises(RequestError, match="are of type"):
        series_of_instances(TABLE, names_of([1]), by="SOPInstanceUID")


def test_a_series_that_is_no_uuid_is_an_error():
    wrong = TABLE.set_column(0, "crdc_series_uuid", pa.array(["x"] * len(TABLE)))
    assert not len(series_of_instances(wrong, names_of([99])))
    with pytest.raises(IntegrityError, match="'x', which is no uuid"):
        series_of_instances(wrong, names_of([10]))


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_file_that_is_no_table_is_refused(tmp_path, name):
    with pytest.raises(MissingError, match="no file"):
        series_of_instances(tmp_path / name, names_of([1]))
    (tmp_path / name).write_bytes(b"\xff\x00<html>")
    with pytest.raises((IntegrityError, RequestError)):
        series_of_instances(tmp_path / name, names_of([1]))
