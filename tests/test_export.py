"""The Parquet export: the same rows as reading everything, and far fewer bytes."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dask
import duckdb
import exporting
import intake
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dask.base import tokenize
from pyarrow import parquet as pq
from servers import MotoS3, NginxS3, RcloneS3, require

from intake_idc import open_idc
from intake_idc.errors import (
    BadCondition,
    IntegrityError,
    MirrorError,
    RequestError,
    StorageError,
    TableNotFound,
    UnknownColumn,
    UnknownRelease,
)
from intake_idc.export import parquet
from intake_idc.export.parquet import Bounds
from intake_idc.export.pruning import parsed
from intake_idc.export.tables import BUCKET, open_export
from intake_idc.release.database import memory_database
from intake_idc.storage import resolve_mirror

FILES = 210
KEYS = ("crdc_series_uuid", "crdc_instance_uuid")


@pytest.fixture(scope="session")
def export_root(tmp_path_factory):
    """A folder with one bucket, which holds `dicom_all` of release 20."""
    root = tmp_path_factory.mktemp("export")
    exporting.write_export(root / BUCKET, FILES)
    return root


@pytest.fixture(scope="session")
def folder(export_root):
    return export_root / BUCKET


@pytest.fixture
def export(folder):
    return open_export(20, "dicom_all", mirror=folder)


@pytest.fixture(scope="session")
def everything(folder):
    """Every row, read by pyarrow file by file, with the columns of the first file."""
    tables = []
    names = exporting.SCHEMA.names
    for path in sorted(folder.rglob("*.parquet")):
        table = pq.read_table(path)
        table = table.rename_columns(
            ["Source_DOI" if n == "source_DOI" else n for n in table.column_names]
        )
        for name in names:
            if name == "instance_size" or name.endswith("_idc_version"):
                column = table.column(name).cast(pa.int64())
                table = table.set_column(names.index(name), name, column)
        tables.append(table.select(names))
    return pa.concat_tables(tables)


@pytest.fixture(scope="session")
def s3_export(export_root):
    require(RcloneS3)
    require(NginxS3)
    with RcloneS3(export_root) as storage, NginxS3(storage) as server:
        yield server


def read_files(server):
    """Names of the files of which something was read, and the listings."""
    uris = [request.uri for request in server.requests()]
    files = {uri.rsplit("/", 1)[1] for uri in uris if uri.endswith(".parquet")}
    return files, [uri for uri in uris if "list-type" in uri]


# Conditions.

CONDITIONS = {
    "one collection": "collection_id = 'made_up_03'",
    "flipped": "'made_up_03' = collection_id",
    "a list": "collection_id IN ('made_up_03', 'made_up_20', 'none such')",
    "a range": "collection_id >= 'made_up_28'",
    "between": "collection_id BETWEEN 'made_up_10' AND 'made_up_11'",
    "or": "collection_id = 'made_up_03' OR InstanceNumber = 39",
    "not": "NOT (collection_id = 'made_up_03')",
    "number in text": "instance_size > 990000",
    "number compared as text": "instance_size > '990000'",
    "version": "series_init_idc_version = 7 AND collection_id < 'made_up_02'",
    "null": "Modality IS NULL AND Rows IS NULL",
    "not in, null": "Modality NOT IN ('CT', 'MR')",
    "NaN is the greatest": "SliceThickness > 4",
    "date": "StudyDate >= DATE '2018-01-01'",
    "date as text": "StudyDate IN ('2018-01-03', '2019-01-04')",
    "time": "StudyTime = TIME '05:00:00'",
    "moment": "AcquisitionDateTime < TIMESTAMPTZ '2020-01-01 02:00:00+00'",
    "text": "SeriesDescription LIKE 'Ä%' AND PatientID = 'P77'",
    "called by table": "dicom_all.PatientID = 'P77'",
    "other case": "patientid = 'P77' AND SOURCE_doi LIKE '10.%'",
    "sequence": "len(ProcedureCodeSequence) = 2 AND InstanceNumber < 9",
    "deep": "ProcedureCodeSequence[1].CodeValue = '0' AND Rows = 512",
    "the row as a whole": "CAST(dicom_all AS VARCHAR) LIKE '%''P77''%'",
    "no column": "1 = 1",
    "never": "1 = 2",
    "nothing": "collection_id = 'none such'",
    "odd names in texts": "SeriesDescription = 'Rows; ''x'' -- y'",
}
COLUMNS = ["SOPInstanceUID", "instance_size", "Source_DOI", "ReferencedSeriesSequence"]


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_a_query_gives_what_reading_everything_gives(export, everything, condition):
    """DuckDB over all rows at once, in one table, is the oracle."""
    found = export.query(condition, COLUMNS)
    numbers = pa.array(range(everything.num_rows))
    sql = f"SELECT n FROM dicom_all WHERE ({condition}) ORDER BY n"  # noqa: S608
    positions = memory_database().arrow(
        sql,
        tables={"dicom_all": everything.append_column("n", numbers)},
    )
    expected = everything.take(positions.column(0)).select(COLUMNS)
    assert found.schema == expected.schema
    assert found.equals(expected)


def test_a_plain_evaluation_by_pyarrow_agrees(export, everything):
    found = export.query("collection_id = 'made_up_07' AND Modality = 'CT'", COLUMNS)
    mask = pc.and_(
        pc.equal(everything.column("collection_id"), "made_up_07"),
        pc.equal(everything.column("Modality"), "CT"),
    )
    assert found.num_rows
    assert found.equals(everything.filter(mask).select(COLUMNS))


@pytest.mark.parametrize(
    ("where", "sql"),
    [
        ({"Modality": "CT"}, "Modality = 'CT'"),
        ({"Modality": ["CT", None]}, "Modality = 'CT' OR Modality IS NULL"),
        ({"modality": "CT", "Rows": [256]}, "Modality = 'CT' AND Rows = 256"),
    ],
)
def test_columns_and_values_are_a_condition_as_well(export, where, sql):
    assert export.query(where, COLUMNS).equals(export.query(sql, COLUMNS))


def test_counts_come_from_footers_or_from_the_condition(export, everything):
    assert export.count() == everything.num_rows
    assert export.count("Rows IS NULL") == everything.column("Rows").null_count


def test_batches_are_the_query_piece_by_piece(export):
    condition = "collection_id < 'made_up_02'"
    pieces = list(export.batches(condition, COLUMNS))
    assert len(pieces) > 5
    assert all(piece.num_rows for piece in pieces)
    assert pa.concat_tables(pieces).equals(export.query(condition, COLUMNS))


def test_every_column_comes_when_none_is_named(export, everything):
    found = export.query("PatientID = 'P77'")
    mask = pc.equal(everything.column("PatientID"), "P77")
    # NaN is not equal to itself.
    expected = everything.filter(mask).drop_columns(["SliceThickness"])
    assert found.column_names == everything.column_names
    assert found.drop_columns(["SliceThickness"]).equals(expected)


def test_the_schema_is_that_of_the_first_file_with_whole_numbers(export):
    expected = [
        pa.int64() if f.name == "instance_size" or "_idc_version" in f.name else f.type
        for f in exporting.SCHEMA
    ]
    assert export.schema.names == exporting.SCHEMA.names
    assert export.schema.types == expected


@pytest.mark.parametrize(
    ("condition", "match"),
    [
        ("nope = 1", "no column 'nope'"),
        ("PatientIDD = 'x'", "did you mean 'PatientID'"),
        ("Rows = 1; SELECT 2", "not one SQL condition"),
        ("EXISTS (SELECT 1)", "one row at a time"),
        ("Rows = (SELECT max(Rows) FROM dicom_all)", "one row at a time"),
        ("EXISTS (PIVOT dicom_all ON Modality)", r"one row at a time|several"),
        ("#2 = 'x' AND Rows = 512", "by their names"),
        ("max(Rows) > 1", "does not fit"),
        ("Rows = 'many'", "does not fit"),
        ("read_text('/etc/passwd') = ''", "does not fit"),
    ],
)
def test_a_condition_that_is_none_is_refused_before_reading(export, condition, match):
    with pytest.raises(BadCondition, match=match):
        export.query(condition, ["Rows"])


def test_an_unknown_column_names_the_nearest(export):
    with pytest.raises(UnknownColumn, match="did you mean 'instance_size'"):
        export.query(None, ["instance_sizes"])
    with pytest.raises(UnknownColumn, match="'Modality'"):
        export.query({"Modalities": "CT"}, ["Rows"])


def test_the_whole_table_asks_for_columns(export, everything):
    with pytest.raises(RequestError, match="name the columns") as caught:
        export.table()
    assert "MB" in str(caught.value)
    assert export.table(["Rows"]).equals(everything.select(["Rows"]))


# Pruning.


@pytest.mark.parametrize(
    ("condition", "low", "high", "may"),
    [
        ("a = 'm'", "a", "l", False),
        ("a = 'm'", "a", "m", True),
        ("a > 'm'", "a", "m", True),
        ("a > 'm'", "a", "l", False),
        ("a <= 'm'", "n", "z", False),
        ("'m' < a", "a", "l", False),
        ("a IN ('c', 'x')", "d", "w", False),
        ("a IN ('c', 'x')", "d", "x", True),
        ("a IN ('c', lower('X'))", "d", "w", True),
        ("a BETWEEN 'c' AND 'e'", "f", "g", False),
        ("a = 'm' OR b = 1", "a", "l", True),
        ("a = 'm' AND b = 1", "a", "l", False),
        ("NOT a = 'm'", "m", "m", True),
        ("a = 5", "6", "7", True),
        ("a = 5", 6, 7, False),
        ("a = -5", -6, -5, True),
        ("a = '5'", 6, 7, True),
        ("a = 5.5", 6, 7, True),
        ("a.b = 'm'", "n", "z", True),
        ("t.a = 'm'", "n", "z", False),
        ("lower(a) = 'm'", "n", "z", True),
        ("a = 'm' COLLATE NOCASE", "n", "z", True),
        ("a IS NULL", "n", "z", True),
        ("a LIKE 'm%'", "n", "z", True),
        ("a = b", "n", "z", True),
        ("a", "n", "z", True),
    ],
)
def test_a_row_group_is_left_out_only_where_no_row_can_hold(condition, low, high, may):
    names, test = parsed(condition, "t", ["a", "b"], memory_database())
    assert names[0] == "a"
    assert test.may_hold({"a": Bounds(low, high, 0, 9)}) is may
    assert test.may_hold({"a": Bounds(None, None, None, 9)})
    assert test.may_hold({})


def test_a_row_group_of_nulls_holds_no_value():
    _, test = parsed("a = 'm'", "t", ["a"], memory_database())
    assert not test.may_hold({"a": Bounds(None, None, 9, 9)})


@pytest.mark.servers
def test_files_of_other_collections_are_read_no_further_than_their_footers(
    s3_export, tmp_path, monkeypatch
):
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(tmp_path))
    monkeypatch.setattr(parquet, "_HELD", parquet._Held())
    export = open_export(20, mirror="aws", endpoint_url=s3_export.endpoint)
    s3_export.reset()
    assert len(export.files) == FILES
    files, listings = read_files(s3_export)
    assert not files
    assert len(listings) == 1

    condition = "collection_id = 'made_up_03' AND Modality = 'CT'"
    s3_export.reset()
    first = export.query(condition, COLUMNS)
    sent = {r.uri: 0 for r in s3_export.requests()}
    for request in s3_export.requests():
        sent[request.uri] += 1
    assert len(sent) == FILES
    # A request for the footer; the files that may hold a row are asked again.
    more = {uri for uri, count in sent.items() if count > 1}
    assert 7 <= len(more) <= 9

    s3_export.reset()
    assert export.query(condition, COLUMNS).equals(first)
    files, listings = read_files(s3_export)
    # What the footers said is kept: the other files are not touched again.
    assert files == {uri.rsplit("/", 1)[1] for uri in more}
    assert not listings


@pytest.mark.servers
def test_what_footers_said_outlives_the_process(s3_export, tmp_path, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(tmp_path))

    def asked():
        # As in a new process: nothing is held of what was read before.
        monkeypatch.setattr(parquet, "_HELD", parquet._Held())
        export = open_export(20, mirror="aws", endpoint_url=s3_export.endpoint)
        s3_export.reset()
        found = export.query("StudyDate <= DATE '2000-12-31'", COLUMNS)
        return found, len(read_files(s3_export)[0])

    first, files = asked()
    assert files == FILES
    again, files = asked()
    assert again.equals(first)
    # One footer, for the schema, and the files with such a date.
    assert files <= FILES // 20 + 2
    kept = next(tmp_path.glob("export/*.json"))
    for damage in ("[", "[1, [[1]]]", '[1, [["a", 1, "e", {"x": 5}]]]', "{}"):
        kept.write_text(damage)
        assert asked()[0].equals(first)


def write_one(root, value):
    """Write a table of one small file, which has the same size for every value."""
    folder = root / BUCKET / "bigquery_export" / "idc_v20" / "one"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "part"
    rows = {"a": [value] * 3, "b": [f"{value} row {i}" for i in range(3)]}
    pq.write_table(pa.table(rows), part, compression="none")
    part.replace(path_of(folder, 0))


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["folder", "obstore", "fsspec"])
@pytest.mark.parametrize("cache", ["off", "on"])
def test_a_file_that_is_replaced_is_another_file(kind, cache, tmp_path, monkeypatch):
    """By one of the same size: what its footer said is not taken for the new one's."""
    place = str(tmp_path / "cache") if cache == "on" else "off"
    monkeypatch.setenv("INTAKE_IDC_CACHE", place)
    root = tmp_path / "root"
    write_one(root, "m")
    with ExitStack() as stack:
        server = None
        if kind == "folder":
            mirror = root / BUCKET
        else:
            require(MotoS3)
            server = stack.enter_context(MotoS3())
            server.load(root)
            mirror = resolve_mirror(
                f"s3://{BUCKET}", endpoint_url=server.endpoint, engine=kind
            )
        before = open_export(20, "one", mirror=mirror)
        assert before.query("a = 'm'", ["b"]).num_rows == 3
        write_one(root, "w")
        if server is not None:
            server.load(root)
        now = open_export(20, "one", mirror=mirror)
        assert now.files[0].size == before.files[0].size
        assert now.query("a = 'w'", ["b"])[0].to_pylist() == [
            f"w row {i}" for i in range(3)
        ]
        # Of the old list no answer is made from the footer of one and data of another.
        with pytest.raises(StorageError, match="changed after it was listed"):
            before.query("a = 'm'", ["b"])


def test_a_decimal_number_is_compared_as_one(tmp_path):
    """Written as a whole number of hundredths, which are not what it says."""
    folder = tmp_path / "idc_v20" / "priced"
    folder.mkdir(parents=True)
    for number in range(2):
        sql = f"SELECT {number + 4}::DECIMAL(9, 2) AS price"
        path = path_of(folder, number)
        duckdb.sql(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")
    found = open_export(20, "priced", mirror=tmp_path).query("price = 5")
    assert found.column(0).to_pylist() == [5]


@pytest.mark.servers
def test_columns_that_are_not_asked_for_are_not_read(tmp_path):
    """A wide column of random bytes beside a narrow one."""
    require(RcloneS3)
    require(NginxS3)
    folder = tmp_path / BUCKET / "bigquery_export" / "idc_v20" / "wide"
    folder.mkdir(parents=True)
    for number in range(4):
        noise = [
            hashlib.sha512(bytes([number, i % 256])).hexdigest() * 40
            for i in range(500)
        ]
        noise = [text + str(i) for i, text in enumerate(noise)]
        table = pa.table({"a": list(range(500)), "noise": noise, "z": [number] * 500})
        pq.write_table(
            table,
            folder / f"{number:012d}.parquet",
            compression="none",
            use_dictionary=False,
        )
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size > 8_000_000
    with RcloneS3(tmp_path) as storage, NginxS3(storage) as server:
        export = open_export(20, "wide", mirror="aws", endpoint_url=server.endpoint)
        found = export.query("a = 7", ["z"])
        assert found.column("z").to_pylist() == [0, 1, 2, 3]
        sent = sum(request.sent for request in server.requests())
        assert sent < size / 10
        assert export.query("a = 7 AND z = 2", ["noise"]).num_rows == 1


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["nginx", "moto", "fsspec"])
def test_each_server_gives_the_same(kind, export_root, s3_export, export):
    condition = "PatientID IN ('P5', 'P77') AND Rows IS NOT NULL"
    expected = export.query(condition, COLUMNS)
    assert expected.num_rows
    if kind == "moto":
        require(MotoS3)
        with MotoS3() as server:
            server.load(export_root)
            found = open_export(20, mirror="aws", endpoint_url=server.endpoint)
            assert found.query(condition, COLUMNS).equals(expected)
        return
    mirror = resolve_mirror(
        "aws" if kind == "nginx" else f"s3://{BUCKET}",
        endpoint_url=s3_export.endpoint,
        engine="obstore" if kind == "nginx" else "fsspec",
    )
    assert open_export(20, mirror=mirror).query(condition, COLUMNS).equals(expected)


# Where it lies.


@pytest.mark.parametrize("below", ["", "bigquery_export", "bigquery_export/idc_v20"])
def test_a_mirror_may_hold_the_export_the_dataset_or_the_tables(folder, below):
    assert len(open_export(20, mirror=folder / below).files) == FILES
    assert len(open_export(20, mirror=f"file://{folder / below}").files) == FILES


def test_a_mirror_of_another_release_is_refused(folder):
    with pytest.raises(MirrorError, match="idc_v21 was asked for"):
        open_export(21, mirror=folder / "bigquery_export" / "idc_v20")
    with pytest.raises(MirrorError, match="idc_current"):
        open_export(20, mirror="https://here.example/bigquery_export/idc_current")
    with pytest.raises(MirrorError, match="AWS only"):
        open_export(20, mirror="gcs")


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("dicom_alll", "did you mean 'dicom_all'"),
        ("dicom_all_view", "ask for 'dicom_all'"),
        ("dicom_pivot", "did you mean 'idc_pivot_v20'"),
        ("segmentations", "tables there: dicom_all, idc_pivot_v20"),
    ],
)
def test_a_table_that_is_not_there_names_the_nearest(tmp_path, table, match):
    dataset = tmp_path / "bigquery_export" / "idc_v20"
    for name in ("dicom_all", "idc_pivot_v20"):
        exporting.write(dataset / name, 0, [])
    with pytest.raises(TableNotFound, match=match) as caught:
        open_export(20, table, mirror=tmp_path).files  # noqa: B018
    assert "bigquery_export/idc_v20" in str(caught.value)


@pytest.mark.parametrize("number", [0, -1, True, None, 2.5])
def test_a_release_is_a_number(number):
    with pytest.raises(UnknownRelease):
        open_export(number)


def test_the_release_is_written_into_the_path(export):
    assert open_idc(20).export(mirror=export.mirror) == export
    assert export.dataset == "idc_v20"
    assert open_export("2024-09-01").dataset == "idc_v19"
    assert "current" not in open_export("current").dataset


@pytest.mark.parametrize("name", ["../dicom_all", "a b", "", "a/b", 5])
def test_a_table_name_leads_nowhere_else(name):
    with pytest.raises(RequestError, match="a table is named"):
        open_export(20, name)


# What can be wrong.


@pytest.fixture
def small(tmp_path):
    """A table of five files that a test may damage."""
    folder = tmp_path / "idc_v20" / "dicom_all"
    for number in range(5):
        exporting.write(folder, number, exporting.made_up_rows(number, 5, 8))
    return folder


def asked(small):
    export = open_export(20, mirror=small.parents[1])
    return export.query("Rows = 512", COLUMNS)


def path_of(folder, number):
    return folder / f"{number:012d}.parquet"


def test_a_missing_file_in_the_middle_is_named(small):
    path_of(small, 2).unlink()
    with pytest.raises(
        IntegrityError, match=r"000000000002\.parquet is not among them"
    ):
        asked(small)


def test_a_file_of_another_kind_is_refused(small):
    path_of(small, 4).rename(small / "part-4.parquet")
    with pytest.raises(IntegrityError, match=r"expected was 000000000004\.parquet"):
        asked(small)


def test_an_empty_folder_is_no_table(small):
    shutil.rmtree(small)
    small.mkdir()
    with pytest.raises(TableNotFound, match=r"000000000000\.parquet"):
        asked(small)


@pytest.mark.parametrize("number", [0, 3])
def test_a_page_in_place_of_a_file_is_named(small, number):
    path_of(small, number).write_text("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(IntegrityError, match=rf"{number:012d}\.parquet.*DOCTYPE"):
        asked(small)


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -3000])
def test_a_truncated_file_is_named(small, keep):
    path = path_of(small, 3)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match=r"000000000003\.parquet is not a whole"):
        asked(small)


def test_a_footer_beyond_all_measure_is_not_read(small):
    with path_of(small, 3).open("r+b") as file:
        file.truncate(3 << 30)
        file.seek(-8, 2)
        file.write((2 << 30).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(IntegrityError, match="its footer would take 2147483656 bytes"):
        asked(small)


def test_a_name_in_a_footer_that_is_no_text_is_named(small):
    path = path_of(small, 3)
    data = path.read_bytes()
    at = len(data) - int.from_bytes(data[-8:-4], "little") - 8
    footer = data[at:].replace(b"PatientID", b"\xffatientID")
    path.write_bytes(data[:at] + footer)
    with pytest.raises(IntegrityError, match=r"000000000003\.parquet.*its footer"):
        asked(small)


def test_bytes_that_do_not_decode_are_named(small):
    path = path_of(small, 3)
    data = bytearray(path.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little") + 8
    data[4:-footer] = bytes(len(data) - footer - 4)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"000000000003\.parquet"):
        open_export(20, mirror=small.parents[1]).query("Rows = 256", COLUMNS)


def test_a_file_without_a_column_is_of_another_export(small):
    path = path_of(small, 3)
    pq.write_table(pq.read_table(path).drop_columns(["Rows"]), path)
    with pytest.raises(
        IntegrityError, match=r"000000000003\.parquet has no column 'Rows'"
    ):
        asked(small)


def test_a_size_that_is_no_number_is_an_error(small):
    rows = exporting.made_up_rows(3, 5, 8)
    rows[5]["instance_size"] = "12 kB"
    exporting.write(small, 3, rows)
    with pytest.raises(IntegrityError, match="instance_size does not hold int64"):
        open_export(20, mirror=small.parents[1]).table(["instance_size"])
    rows[5]["instance_size"] = " "
    exporting.write(small, 3, rows)
    found = open_export(20, mirror=small.parents[1]).table(["instance_size"])
    assert found.column(0).null_count == 1


class Page(BaseHTTPRequestHandler):
    """Whatever is asked for, a page to sign in, as networks of hotels do."""

    def do_GET(self):
        body = b"<!DOCTYPE html><title>Sign in</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        """Say nothing."""


def test_a_page_in_place_of_a_listing_says_what_was_expected():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        place = f"http://127.0.0.1:{server.server_address[1]}"
        export = open_export(20, mirror="aws", endpoint_url=place)
        with pytest.raises(StorageError, match=r"000000000000\.parquet and on"):
            export.query("Rows = 512", COLUMNS)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.servers
def test_a_bucket_that_is_not_there_says_what_was_expected(s3_export):
    export = open_export(
        20, mirror="s3://no-such-bucket", endpoint_url=s3_export.endpoint
    )
    with pytest.raises((StorageError, TableNotFound), match=r"000000000000\.parquet"):
        export.query("Rows = 512", COLUMNS)


# Travelling.


def test_an_export_pickles_as_its_names(export):
    assert export.files
    again = pickle.loads(pickle.dumps(export))
    assert again == export
    assert hash(again) == hash(export)
    assert tokenize(again) == tokenize(export)
    assert len(pickle.dumps(export)) < 1000
    assert again.count("Rows = 512") == export.count("Rows = 512")
    other = open_export(19, mirror=export.mirror)
    assert other != export
    assert tokenize(other) != tokenize(export)


CONDITION = "collection_id IN ('made_up_03', 'made_up_04') AND instance_size > 200000"


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_frame_computes_to_the_query(export, scheduler):
    expected = export.query(CONDITION, COLUMNS).to_pandas(types_mapper=arrow_dtype)
    frame = export.to_dask(COLUMNS, CONDITION, partition_bytes="512 KiB", prune=True)
    assert 1 < frame.npartitions < 6
    assert list(frame.columns) == COLUMNS
    assert (frame.dtypes == expected.dtypes).all()
    with dask.config.set(scheduler=scheduler):
        found = frame.compute()
    assert (found.dtypes == expected.dtypes).all()
    assert pa.Table.from_pandas(found, preserve_index=False).equals(
        pa.Table.from_pandas(expected, preserve_index=False)
    )


def arrow_dtype(kind):
    import pandas as pd

    return pd.ArrowDtype(kind)


@pytest.mark.servers
def test_a_frame_reads_one_footer_before_compute(s3_export):
    export = open_export(20, mirror="aws", endpoint_url=s3_export.endpoint)
    s3_export.reset()
    frame = export.to_dask(where=CONDITION, partition_bytes=1)
    assert frame.npartitions == FILES
    files, listings = read_files(s3_export)
    assert files <= {"000000000000.parquet"}
    assert len(listings) == 1
    s3_export.reset()
    total = frame["instance_size"].sum().compute(scheduler="threads")
    assert total == pc.sum(export.query(CONDITION, ["instance_size"])[0]).as_py()
    assert not read_files(s3_export)[1]


def test_a_frame_of_no_row_has_its_columns(export):
    frame = export.to_dask(COLUMNS, "collection_id = 'none such'", prune=True)
    found = frame.compute()
    assert list(found.columns) == COLUMNS
    assert len(found) == 0


def test_the_same_frame_has_the_same_keys(folder):
    def keys(**changes):
        options = {"columns": COLUMNS, "where": CONDITION, **changes}
        frame = open_export(20, mirror=folder).to_dask(**options)
        return sorted(map(str, frame.optimize().__dask_keys__()))

    assert keys() == keys()
    assert keys() != keys(where="Rows = 512")


def test_a_partition_is_small_to_send(export):
    frame = export.to_dask(["Rows"], CONDITION, partition_bytes=1)
    graph = frame.optimize().__dask_graph__()
    assert len(pickle.dumps(dict(graph))) / frame.npartitions < 2000


def test_importing_the_package_needs_nothing_of_this():
    code = textwrap.dedent(
        """
        import sys
        from intake_idc.export.tables import open_export
        open_export(20)
        heavy = {"duckdb", "pyarrow", "dask", "pandas", "numpy", "fsspec", "obstore"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_narrow_query_holds_no_other_columns(tmp_path):
    """200 files with a wide column: the process grows by far less than they hold."""
    folder = tmp_path / "idc_v20" / "wide"
    folder.mkdir(parents=True)
    noise = bytes(range(256)) * 4000
    for number in range(200):
        table = pa.table(
            {"a": list(range(100)), "noise": [noise] * 100, "z": [number] * 100}
        )
        pq.write_table(
            table,
            folder / f"{number:012d}.parquet",
            compression="zstd",
            use_dictionary=False,
            row_group_size=100,
        )
    code = textwrap.dedent(
        f"""
        import resource
        from intake_idc.export.tables import open_export
        export = open_export(20, "wide", mirror={str(tmp_path)!r})
        assert export.count("a = 1") == 200
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert export.query("a < 3", ["z"]).num_rows == 600
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(after - before)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    # One file's noise alone is 100 MB once decoded.
    assert int(done.stdout) < 60_000


# Intake.


def test_a_catalog_entry_opens_the_export_and_keeps_its_release(folder, tmp_path):
    arguments = {
        "table": "dicom_all",
        "idc_version": 20,
        "mirror": str(folder),
        "columns": COLUMNS,
        "where": CONDITION,
    }
    source = intake.open_idc_export(**arguments)
    (tmp_path / "c.yml").write_text(source.yaml())
    again = next(iter(intake.open_catalog(str(tmp_path / "c.yml")).values()))
    assert again.idc_version == 20
    expected = open_export(20, mirror=folder).query(CONDITION, COLUMNS).to_pandas()
    flat = COLUMNS[:3]
    assert again.read()[flat].equals(expected[flat])
    assert list(again.to_dask().compute().columns) == COLUMNS
    assert again.discover()["dtype"]["instance_size"] == "int64[pyarrow]"
    assert len(again.read_partition(0)) == len(expected)
    with pytest.raises(IndexError):
        again.read_partition(99)
    assert pickle.loads(pickle.dumps(again)) == again
    assert tokenize(pickle.loads(pickle.dumps(again))) == tokenize(again)


def test_an_entry_without_columns_is_not_read_whole(folder):
    source = intake.open_idc_export("dicom_all", 20, mirror=str(folder))
    assert len(source.to_dask().columns) == len(exporting.SCHEMA)
    with pytest.raises(RequestError, match="name the columns"):
        source.read()


def test_an_entry_for_the_current_release_becomes_a_number():
    assert "idc_version: 25" in intake.open_idc_export("dicom_all").yaml()
