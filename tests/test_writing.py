"""Manifests out: what is written is what any reader of that dialect finds.

Each dialect is read by a parser that knows nothing of this package, then by
`open_manifest`. Scripts are run, with programs in the place of ``aws`` and ``gcloud``
that write down how they were called.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import intake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from servers import executable, on_ci

from intake_idc import open_idc, open_manifest, open_series
from intake_idc.cli import main
from intake_idc.cohort import Cohort
from intake_idc.errors import EmptySelection, RequestError, StorageError, UnknownColumn
from intake_idc.formats import writing
from intake_idc.formats.writing import (
    ENDINGS,
    KINDS,
    Form,
    Rows,
    form_of,
    guarded,
    unguarded,
)
from intake_idc.formats.writing.tables import DRS_HOST
from intake_idc.manifest import ONLY, Manifest, subset_column
from intake_idc.release import FixedRows

SAMPLE = open_idc(1, tables="sample")
PAIR = SAMPLE.search(Modality=["CT", "MR"])
BUCKET = Path(next(iter(__import__("intake_idc").__path__))) / "sample" / "bucket"

TEXT_KINDS = [kind for kind in KINDS if kind not in ("parquet", "yaml")]
TABLES = ["csv", "tsv", "ndjson", "json", "api-v2", "parquet"]
SERIES_KINDS = [kind for kind in KINDS if kind != "drs"]
READABLE = [kind for kind in SERIES_KINDS if kind != "yaml"]

U = "11111111-2222-4333-8444-555555555555"
V = "66666666-7777-4888-8999-aaaaaaaaaaaa"


def rows_of(*uuids, bucket="idc-open-data", objects=None, **columns):
    columns = {name: pa.array(cells, pa.string()) for name, cells in columns.items()}
    table = pa.table(
        {
            "crdc_series_uuid": list(uuids),
            "aws_bucket": [bucket] * len(uuids),
            **columns,
        }
    )
    return Rows(Manifest(table, 25), objects, "2026-09-26", "a test")


def written(rows, form, name="x"):
    sink = io.BytesIO()
    writing.write(rows, form, sink, name)
    return sink.getvalue()


def text_of(rows, kind, name="x", **options):
    return written(rows, Form(kind, level=rows.level, **options), name).decode()


# Which dialect.


@pytest.mark.parametrize(("ending", "kind"), ENDINGS.items())
def test_the_kind_follows_from_the_name(ending, kind):
    assert form_of(f"a.b{ending}").kind == kind
    assert form_of(f"A{ending.upper()}").kind == kind


def test_a_script_is_for_the_tool_of_the_mirror():
    assert form_of("x.sh").kind == "aws"
    assert form_of("x.sh", mirror="gcs").kind == "gcloud"
    assert form_of("x.sh", "gcloud").kind == "gcloud"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_named_goes_before_the_name(kind):
    level = "instance" if kind == "drs" else "series"
    assert form_of("x.csv", kind, level=level).kind == kind
    assert form_of("no-ending", kind, level=level).kind == kind


REFUSED = {
    "unknown ending": ("x.doc", {}, r"\.s5cmd.*'x\.doc'"),
    "no ending": ("manifest", {}, r"\.s5cmd"),
    "a lock": ("x.lock.json", {}, r"Cohort\.lock"),
    "packed otherwise": ("x.csv.bz2", {}, r"as \.gz"),
    "packed s5cmd": ("x.s5cmd.gz", {}, "plain text"),
    "packed script": ("x.sh.gz", {}, "leave .gz out"),
    "packed parquet": ("x.parquet.gz", {}, "leave .gz out"),
    "packed catalog": ("x.yml.gz", {}, "leave .gz out"),
    "unknown kind": ("x", {"kind": "cvs"}, "did you mean 'csv'|csv"),
    "unknown mirror": ("x.csv", {"mirror": "azure"}, "aws, gcs"),
    "unknown level": ("x.csv", {"level": "study"}, "series, instance"),
    "unknown scheme": ("x.txt", {"scheme": "ftp"}, "'s3', 'gs' or 'https'"),
    "scheme of the other cloud": ("x.txt", {"scheme": "gs"}, "mirror='gcs'"),
    "no object": ("x.txt", {"scheme": "https"}, "level='instance'"),
    "DRS of series": ("x", {"kind": "drs"}, "not registered"),
    "columns of no table": ("x.s5cmd", {"columns": ("Modality",)}, "columns is for"),
    "safe of no table": ("x.json", {"spreadsheet_safe": True}, "is for csv, tsv"),
    "preamble of none": ("x.json", {"preamble": True}, "preamble is for"),
    "scheme of none": ("x.csv", {"scheme": "s3"}, "scheme is for urls"),
    "the other tool": ("x", {"kind": "aws", "mirror": "gcs"}, "'gcloud' reads Google"),
    "a catalog of instances": ("x.yml", {"level": "instance"}, "no level"),
}


@pytest.mark.parametrize(("name", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_asked(
    name, options, said, tmp_path
):
    with pytest.raises(RequestError, match=said):
        form_of(name, **options)
    # All of IDC would be refused too, but is not looked at.
    with pytest.raises(RequestError, match=said):
        open_idc(25).to_manifest(tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_form_is_for_rows_of_its_own_level():
    with pytest.raises(RequestError, match="level"):
        written(rows_of(U), Form("csv", level="instance"))
    with pytest.raises(RequestError, match="not written as text"):
        list(writing.text(rows_of(U), Form("parquet"), "x"))


# Tables, by parsers of their own.

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
odd = st.sampled_from(
    [
        "",
        '"',
        "a\tb",
        "a,b",
        "a\r\nb",
        "\n",
        "\0",
        "'=x",
        "=1+1",
        "é\u2028ü",
        "\ufeff",
        "🫁",
    ]
)
cells = st.one_of(st.none(), texts, odd)
records = st.lists(
    st.tuples(st.uuids().map(str), *[cells] * 5, st.integers(-9, 9), st.floats()),
    max_size=6,
)
NAMES = ("PatientID", "collection_id", "source_DOI", "StudyInstanceUID")


def drawn(records):
    """Rows with any text, a number, and a fraction; and what is in them, in order."""
    uuids, *texts, whole, fraction = zip(*records, strict=True) if records else [()] * 8
    columns = {
        "crdc_series_uuid": pa.array(uuids, pa.string()),
        "aws_bucket": pa.array(["idc-open-data"] * len(uuids), pa.string()),
        **{
            name: pa.array(column, pa.string())
            for name, column in zip((*NAMES, "SeriesDescription"), texts, strict=True)
        },
        "instanceCount": pa.array(whole, pa.int64()),
        "series_size_MB": pa.array(fraction, pa.float64()),
    }
    rows = Rows(Manifest(pa.table(columns), 25), None, "2026-09-26", "a test")
    expected = [
        {
            **dict(zip(NAMES, record[1:5], strict=True)),
            "SeriesInstanceUID": None,
            "crdc_series_uuid": record[0],
            "idc_version": "25.0",
            "SeriesDescription": record[5],
            "instanceCount": record[6],
        }
        for record in records
    ]
    return rows, expected


def rfc4180(text, delimiter):
    """Read CSV letter by letter: RFC 4180, whatever the letters are."""
    table, row, cell, quoted, at = [], [], "", False, 0
    while at < len(text):
        letter = text[at]
        if quoted:
            if letter != '"':
                cell += letter
            elif text[at + 1 : at + 2] == '"':
                cell += letter
                at += 1
            else:
                quoted = False
        elif letter == '"':
            assert cell == ""
            quoted = True
        elif letter == delimiter:
            row.append(cell)
            cell = ""
        elif text[at : at + 2] == "\r\n":
            table.append([*row, cell])
            row, cell = [], ""
            at += 1
        else:
            assert letter not in "\r\n"
            cell += letter
        at += 1
    assert not quoted
    assert row == []
    assert cell == ""
    return table


MORE = ("SeriesDescription", "instanceCount")
FORMULA = {*"=+-@\t\r"}
"""How a cell begins that a spreadsheet would run."""


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("safe", [False, True])
@given(records)
def test_any_cell_survives_csv_and_tsv(kind, safe, records):
    rows, expected = drawn(records)
    delimiter = "," if kind == "csv" else "\t"
    text = text_of(rows, kind, columns=MORE, spreadsheet_safe=safe)
    header, *found = rfc4180(text, delimiter)
    if sys.version_info >= (3, 11):
        # Before, the module refused NUL.
        again = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        assert list(again) == [header, *found]
        sink = io.StringIO(newline="")
        csv.writer(sink, delimiter=delimiter).writerows([header, *found])
        assert text == sink.getvalue()
    if safe:
        for row in found:
            assert not [cell for cell in row[:-1] if cell[:1] in FORMULA]
            row[:-1] = map(unguarded, row[:-1])
    plain = [["" if v is None else str(v) for v in row.values()] for row in expected]
    assert found == plain
    assert header == [
        "PatientID", "collection_id", "source_DOI", "StudyInstanceUID",
        "SeriesInstanceUID", "crdc_series_uuid", "idc_version", *MORE,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["ndjson", "json", "api-v2"])
@given(records)
def test_any_cell_survives_json(kind, records):
    rows, expected = drawn(records)
    text = text_of(rows, kind, columns=MORE)
    assert text.isascii()
    if kind == "ndjson":
        found = [json.loads(line) for line in text.splitlines()]
    else:
        found = json.loads(text)
    if kind == "api-v2":
        count = len(expected)
        assert found == {
            "code": 200,
            "cohort_def": {
                "name": "",
                "description": "",
                "filterSet": {"filters": {}, "idc_data_version": "25.0"},
            },
            "manifest": {
                "manifest_data": expected,
                "rowsReturned": count,
                "totalFound": count,
            },
            "next_page": "",
        }
        return
    assert found == expected
    assert [list(row) for row in found] == [list(row) for row in expected]


@given(records)
def test_any_cell_survives_parquet_which_says_its_release(records):
    rows, expected = drawn(records)
    table = pq.read_table(
        io.BytesIO(written(rows, Form("parquet", columns=(*MORE, "series_size_MB"))))
    )
    assert table.drop_columns(["series_size_MB"]).to_pylist() == expected
    assert table.schema.field("instanceCount").type == pa.int64()
    assert table.schema.field("series_size_MB").type == pa.float64()
    assert table.schema.metadata == {
        b"idc_version": b"25",
        b"level": b"series",
        b"origin": b"a test",
        b"digest": rows.manifest.digest.encode(),
    }


@pytest.mark.parametrize("kind", ["ndjson", "json", "api-v2", "csv"])
@given(st.lists(st.floats(), min_size=1, max_size=5))
@example([float("nan"), float("inf"), 10.0])
def test_a_fraction_that_is_none_is_null(kind, fractions):
    rows, _ = drawn([(U, *[None] * 5, 0, f) for f in fractions])
    text = text_of(rows, kind, columns=("series_size_MB",))
    finite = [f if abs(f) < float("inf") else None for f in fractions]
    if kind == "csv":
        found = [row[-1] for row in rfc4180(text, ",")[1:]]
        assert found == ["" if f is None else str(f) for f in finite]
        return
    if kind == "ndjson":
        found = [
            json.loads(line, parse_constant=pytest.fail)
            for line in text.split("\n")[:-1]
        ]
    else:
        found = json.loads(text, parse_constant=pytest.fail)
    if kind == "api-v2":
        # As the service wrote them: only whole numbers are numbers.
        found = found["manifest"]["manifest_data"]
        finite = [None if f is None else str(f) for f in finite]
    assert [row["series_size_MB"] for row in found] == finite


@given(texts)
@example("'")
@example("''=x")
def test_a_guarded_cell_is_no_formula_and_comes_back(cell):
    safe = guarded(cell)
    assert safe[:1] not in FORMULA
    assert unguarded(safe) == cell
    assert safe in (cell, f"'{cell}")


def test_nested_and_other_values_are_text_in_csv_and_themselves_in_json():
    table = rows_of(U).manifest.table
    table = table.append_column("codes", pa.array([[1, 2]]))
    table = table.append_column("StudyDate", pa.array([0], pa.date32()))
    table = table.append_column("limited", pa.array([True]))
    table = table.append_column("hash", pa.array([b"\x01\xff"]))
    rows = Rows(Manifest(table, 25))
    more = ("codes", "StudyDate", "limited", "hash")
    row = rfc4180(text_of(rows, "csv", columns=more), ",")[1]
    assert row[-4:] == ["[1, 2]", "1970-01-01", "True", "01ff"]
    found = json.loads(text_of(rows, "ndjson", columns=more))
    assert [found[name] for name in more] == [[1, 2], "1970-01-01", True, "01ff"]
    found = json.loads(text_of(rows, "api-v2", columns=more))["manifest"]
    (found,) = found["manifest_data"]
    assert [found[name] for name in more] == ["[1, 2]", "1970-01-01", "True", "01ff"]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_preamble_has_rows_of_one_cell_as_the_portals(kind):
    text = text_of(rows_of(U, V), kind, preamble=True)
    first, second, header, *rows = rfc4180(text, "," if kind == "csv" else "\t")
    assert first == ["Total records found: 2"]
    assert second == [
        "IDC Data Version(s): Imaging Data Commons Data Release Version 25.0 2026-09-26"
    ]
    assert header[0] == "PatientID"
    assert len(rows) == 2


def test_the_addresses_of_series_can_be_asked_for():
    rows = rows_of(U, bucket="idc-open-data-cr")
    found = json.loads(text_of(rows, "ndjson", columns=("aws_url", "gcs_url")))
    assert found["aws_url"] == f"s3://idc-open-data-cr/{U}/*"
    assert found["gcs_url"] == f"gs://idc-open-cr/{U}/*"


@pytest.mark.parametrize("kind", TABLES)
def test_a_column_that_is_not_there_is_an_error_that_names_the_nearest(kind, tmp_path):
    with pytest.raises(UnknownColumn, match="Modality"):
        PAIR.to_manifest(tmp_path / "x", kind, columns=["Modalty"])
    with pytest.raises(UnknownColumn, match="level='instance'"):
        PAIR.to_manifest(tmp_path / "x", kind, columns=["instance_size"])
    with pytest.raises(UnknownColumn, match="with_instances"):
        PAIR.to_manifest(
            tmp_path / "x", kind, columns=["SOPInstanceUID"], level="instance"
        )
    assert list(tmp_path.iterdir()) == []


# Lines.


@given(
    st.lists(st.uuids().map(str), min_size=1, max_size=8, unique=True),
    st.sampled_from(["idc-open-data", "idc-open-data-two", "idc-open-data-cr"]),
    st.sampled_from(["aws", "gcs"]),
)
def test_lines_name_the_series_in_the_bucket_of_the_mirror(uuids, bucket, mirror):
    rows = rows_of(*uuids, bucket=bucket)
    named = {
        "idc-open-data-two": "idc-open-idc1",
        "idc-open-data-cr": "idc-open-cr",
    }.get(bucket, bucket)
    named = named if mirror == "gcs" else bucket
    text = text_of(rows, "s5cmd", mirror=mirror)
    lines = [shlex.split(line) for line in text.splitlines() if line[0] != "#"]
    assert lines == [["cp", f"s3://{named}/{uuid}/*", "."] for uuid in uuids]
    scheme = "gs" if mirror == "gcs" else "s3"
    text = text_of(rows, "urls", mirror=mirror, preamble=False)
    assert text.splitlines() == [f"{scheme}://{named}/{uuid}/*" for uuid in uuids]
    text = text_of(rows, "urls", mirror=mirror, scheme="s3", preamble=False)
    assert text.splitlines() == [f"s3://{named}/{uuid}/*" for uuid in uuids]


@pytest.mark.parametrize("kind", ["s5cmd", "urls", "aws", "gcloud"])
def test_a_header_says_the_release_and_how_many(kind):
    text = text_of(rows_of(U, V), kind)
    said = [line for line in text.splitlines() if line.startswith("#")]
    release = "Imaging Data Commons Data Release Version 25.0 2026-09-26"
    assert f"# IDC Data Version(s): {release}" in said
    assert "# Total records found: 2" in said
    if kind in ("s5cmd", "urls"):
        bare = text_of(rows_of(U, V), kind, preamble=False)
        assert bare == "".join(
            line for line in text.splitlines(keepends=True) if line[0] != "#"
        )


HOSTILE = {
    "line feed": "x\nrm -rf y.s5cmd",
    "carriage return": "x\ry",
    "half a letter": "x\udcff",
    "blank": "my cohort.s5cmd",
    "shell": "a'b$(touch z)`touch z`;touch z.sh",
    "dash": "-rf",
    "comment": "#x",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("kind", ["s5cmd", "aws", "gcloud"])
def test_the_command_in_a_header_is_one_line_that_a_shell_would_take(kind, name):
    text = text_of(rows_of(U), kind, name)
    plain = text_of(rows_of(U), kind, "x")
    assert text.count("\n") == plain.count("\n")
    (line,) = set(text.splitlines()) - set(plain.splitlines())
    assert line.startswith("# ")
    if not name.isprintable():
        assert line.endswith("<manifest file name>")
        return
    last = shlex.split(line.removeprefix("# "))[-1]
    assert Path(last) == Path(name)
    assert not last.startswith("-")


@pytest.mark.parametrize("kind", ["s5cmd", "urls"])
@pytest.mark.parametrize("name", ["a b", "a\nrm x", "a'b", "a*", "", "a#b", "é"])
def test_a_name_that_would_break_a_line_is_refused(kind, name):
    for rows in (rows_of(U, name), rows_of(U, bucket=name)):
        with pytest.raises(RequestError, match="cannot name"):
            text_of(rows, kind)


@pytest.mark.parametrize("kind", SERIES_KINDS[:-1])
@pytest.mark.parametrize("cut", ["run", "subset"])
def test_a_part_of_a_series_is_not_written_as_the_whole(kind, cut):
    table = rows_of(U, V).manifest.table
    if cut == "run":
        table = table.append_column("first_instance", pa.array([0, 1]))
        table = table.append_column("last_instance", pa.array([None, 2]))
    else:
        one = pa.array([b"0" * 16], pa.binary(16))
        table = table.append_column(ONLY, subset_column([1], one, 2))
    with pytest.raises(RequestError, match="level='instance'") as caught:
        written(Rows(Manifest(table, 25)), Form(kind))
    assert caught.value.details["crdc_series_uuid"] == V


# Blocks.


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_a_long_manifest_comes_in_blocks(kind):
    count = 40_000
    uuids = [f"{i:08x}-0000-4000-8000-000000000000" for i in range(count)]
    objects = None
    if kind == "drs":
        objects = pa.table({"row": range(count), "crdc_instance_uuid": uuids})
    rows = rows_of(*uuids, objects=objects)
    blocks = list(writing.text(rows, Form(kind, level=rows.level), "x"))
    assert max(map(len, blocks)) < 0.5 * sum(map(len, blocks))
    whole = "".join(blocks)
    assert [whole.find(uuid) for uuid in uuids[::1000]] == sorted(
        whole.find(uuid) for uuid in uuids[::1000]
    )
    assert all(uuid in whole for uuid in uuids[::997])


def test_instances_far_apart_find_their_series_in_every_block():
    count = 50_000
    series = [f"{i:08x}-0000-4000-8000-000000000000" for i in range(count)]
    owners = [i for i in range(count) if i % 3]
    objects = pa.table(
        {
            "row": pa.array(owners),
            "crdc_instance_uuid": [series[i][::-1] for i in owners],
            "instance_size": pa.array(owners),
        }
    )
    rows = rows_of(*series, objects=objects, SeriesInstanceUID=series)
    found = [json.loads(line) for line in text_of(rows, "ndjson").splitlines()]
    assert [row["SeriesInstanceUID"] for row in found] == [series[i] for i in owners]
    assert [row["aws_url"] for row in found[:2]] == [
        f"s3://idc-open-data/{series[i]}/{series[i][::-1]}.dcm" for i in (1, 2)
    ]


# Files.


@pytest.mark.parametrize("kind", SERIES_KINDS)
def test_the_same_cohort_gives_the_same_bytes(kind, tmp_path):
    for folder in ("a", "b"):
        PAIR.to_manifest(tmp_path / folder / "x", kind)
    assert (tmp_path / "a" / "x").read_bytes() == (tmp_path / "b" / "x").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.ndjson", "x.json", "x.txt"])
def test_gzip_follows_from_the_name(name, tmp_path):
    plain = PAIR.to_manifest(tmp_path / name).read_bytes()
    packed = PAIR.to_manifest(tmp_path / f"{name}.gz").read_bytes()
    assert gzip.decompress(packed) == plain
    # No time, no name: the same cohort gives the same bytes.
    assert packed[4:8] == bytes(4)
    assert packed[3] == 0


@pytest.mark.parametrize("kind", SERIES_KINDS)
def test_what_cannot_be_written_leaves_what_was_there(kind, tmp_path):
    path = tmp_path / "x"
    path.write_text("before")
    for cohort, error in (
        (open_idc(25), EmptySelection),
        (SAMPLE.search(Modality="CT").query("instanceCount > 1000"), EmptySelection),
    ):
        if kind == "yaml":
            break
        with pytest.raises(error):
            cohort.to_manifest(path, kind)
        assert path.read_text() == "before"
    blocked = tmp_path / "x" / "y"
    with pytest.raises(StorageError, match="cannot be written"):
        PAIR.to_manifest(blocked, kind)
    assert path.read_text() == "before"
    assert [found.name for found in tmp_path.iterdir()] == ["x"]


def test_a_name_that_is_met_late_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.s5cmd"
    path.write_text("before")
    uuids = [f"{i:08x}-0000-4000-8000-000000000000" for i in range(20_000)]
    manifest = rows_of(*uuids, "a b").manifest
    with pytest.raises(RequestError, match="cannot name"):
        Cohort(FixedRows(manifest)).to_manifest(path)
    assert path.read_text() == "before"
    assert [found.name for found in tmp_path.iterdir()] == ["x.s5cmd"]


@pytest.mark.parametrize("kind", SERIES_KINDS)
def test_a_script_can_be_run_and_nothing_else(kind, tmp_path):
    before = os.umask(0o027)
    try:
        path = PAIR.to_manifest(tmp_path / "x", kind)
    finally:
        os.umask(before)
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode == (0o750 if kind in ("aws", "gcloud") else 0o640)


def test_writing_brings_no_pandas():
    code = (
        "import sys, io, pyarrow as pa\n"
        "from intake_idc.arrow import integers, texts\n"
        "from intake_idc.manifest import Manifest\n"
        "from intake_idc.formats import writing\n"
        f"table = pa.table({{'crdc_series_uuid': texts(['{U}']), "
        "'aws_bucket': texts(['b'])})\n"
        f"one = pa.table({{'row': integers([0]), 'crdc_instance_uuid': texts(['{V}']), "
        "'instance_size': integers([1])})\n"
        "for kind in writing.KINDS:\n"
        "  for level, found in (('series', None), ('instance', one)):\n"
        "    text = kind not in ('yaml', 'parquet')\n"
        "    if text and (kind, level) != ('drs', 'series'):\n"
        "      rows = writing.Rows(Manifest(table, 25), found)\n"
        "      form = writing.Form(kind, level=level)\n"
        "      writing.write(rows, form, io.BytesIO(), 'x')\n"
        "print({'pandas', 'duckdb', 'dask'} & set(sys.modules) or 'none')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "none"


# Instances.


def objects_below(cohort):
    """Series, instance, bytes, in the order of the cohort and of the names."""
    return [
        (uuid, path.stem, path.stat().st_size)
        for uuid in cohort.manifest().uuids
        for path in sorted((BUCKET / uuid).iterdir())
    ]


def test_instances_are_listed_where_the_cohort_is_read(tmp_path):
    path = PAIR.to_manifest(
        tmp_path / "x.ndjson", level="instance", columns=["Modality"]
    )
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [
        (r["crdc_series_uuid"], r["crdc_instance_uuid"], r["instance_size"])
        for r in found
    ] == objects_below(PAIR)
    uids = dict(zip(PAIR.manifest().uuids, PAIR.keys(), strict=True))
    for row in found:
        series, uuid = row["crdc_series_uuid"], row["crdc_instance_uuid"]
        assert row["SeriesInstanceUID"] == uids[series]
        assert row["idc_version"] == "1.0"
        assert row["aws_url"] == f"s3://intake-idc-sample/{series}/{uuid}.dcm"
        assert row["gcs_url"] == f"gs://intake-idc-sample/{series}/{uuid}.dcm"
    assert list(found[0]) == [
        "SeriesInstanceUID", "crdc_instance_uuid", "crdc_series_uuid", "idc_version",
        "gcs_url", "aws_url", "instance_size", "Modality",
    ]  # fmt: skip
    assert {row["Modality"] for row in found} == {"CT", "MR"}


def known_objects():
    """All objects of the sample's release, with numbers for DICOM's identifiers."""
    rows = objects_below(SAMPLE)
    series, names, sizes = zip(*rows, strict=True)
    return pa.table(
        {
            "crdc_series_uuid": series,
            "crdc_instance_uuid": names,
            "instance_size": pa.array(sizes, pa.int64()),
            "SOPInstanceUID": [f"1.2.{i}" for i in range(len(rows))],
            "instance_hash": [f"{i:032x}" for i in range(len(rows))],
        }
    )


def test_instances_that_are_known_are_not_listed_and_say_more(tmp_path):
    table = known_objects()
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    whole = SAMPLE.all().with_instances(table).reading_from(nowhere)
    known = whole.search(Modality=["CT", "MR"])
    path = known.to_manifest(
        tmp_path / "x.ndjson", level="instance", columns=["instance_hash"]
    )
    found = [json.loads(line) for line in path.read_text().splitlines()]
    by_key = {
        (row["crdc_series_uuid"], row["crdc_instance_uuid"]): row
        for row in table.to_pylist()
    }
    assert len(found) == len(objects_below(PAIR)) < table.num_rows
    for row in found:
        expected = by_key[row["crdc_series_uuid"], row["crdc_instance_uuid"]]
        for name in ("SOPInstanceUID", "instance_hash", "instance_size"):
            assert row[name] == expected[name]
    with pytest.raises(StorageError):
        PAIR.reading_from(nowhere).to_manifest(tmp_path / "y.csv", level="instance")
    assert not (tmp_path / "y.csv").exists()


@pytest.mark.parametrize("mirror", ["aws", "gcs"])
@pytest.mark.parametrize("scheme", [None, "s3", "https"])
def test_urls_of_instances(scheme, mirror, tmp_path):
    path = PAIR.to_manifest(
        tmp_path / "x.txt",
        mirror=mirror,
        scheme=scheme,
        level="instance",
        preamble=False,
    )
    start = {
        (None, "aws"): "s3://",
        (None, "gcs"): "gs://",
        ("https", "aws"): "https://s3.amazonaws.com/",
        ("https", "gcs"): "https://storage.googleapis.com/",
    }.get((scheme, mirror), "s3://")
    assert path.read_text().splitlines() == [
        f"{start}intake-idc-sample/{series}/{uuid}.dcm"
        for series, uuid, _ in objects_below(PAIR)
    ]


def test_an_s5cmd_manifest_of_instances_copies_each(tmp_path):
    path = PAIR.to_manifest(tmp_path / "x.s5cmd", level="instance")
    lines = [line for line in path.read_text().splitlines() if line[0] != "#"]
    assert lines == [
        f"cp s3://intake-idc-sample/{series}/{uuid}.dcm ."
        for series, uuid, _ in objects_below(PAIR)
    ]
    assert "# Total records found: 6\n" in path.read_text()


def test_drs_names_instances_as_htan_does(tmp_path):
    path = PAIR.to_manifest(tmp_path / "x.csv", "drs", level="instance")
    header, *rows = path.read_bytes().decode().split("\n")[:-1]
    assert header == "drs_uri,name"
    assert rows == [
        f"{DRS_HOST}{uuid},{uuid}.dcm" for _, uuid, _ in objects_below(PAIR)
    ]


def subset(of, names):
    """A cohort of some instances only."""
    manifest = of.manifest()
    rows, uuids = zip(*names, strict=True)
    packed = pa.array([bytes.fromhex(u.replace("-", "")) for u in uuids], pa.binary(16))
    column = subset_column(rows, packed, len(manifest))
    table = manifest.table.append_column(ONLY, column)
    only = Manifest(table, manifest.idc_version, "a subset")
    return Cohort(FixedRows(only, "sample"), mirror=of.mirror)


def test_of_a_cohort_of_single_instances_only_these_are_written(tmp_path):
    objects = objects_below(PAIR)
    place = {uuid: i for i, uuid in enumerate(PAIR.manifest().uuids)}
    meant = [(place[objects[i][0]], objects[i][1]) for i in (1, 3, 5)]
    some = subset(PAIR, meant)
    with pytest.raises(RequestError, match="level='instance'"):
        some.to_manifest(tmp_path / "x.s5cmd")
    path = some.to_manifest(tmp_path / "x.ndjson", level="instance")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["crdc_instance_uuid"] for row in found] == [uuid for _, uuid in meant]
    assert [row["instance_size"] for row in found] == [objects[i][2] for i in (1, 3, 5)]
    # Where no size is asked for, what the cohort names itself is not listed.
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    for kind in ("s5cmd", "urls", "drs", "aws", "gcloud"):
        path = some.reading_from(nowhere).to_manifest(
            tmp_path / "x", kind, level="instance"
        )
        named = re.findall(r"([0-9a-f-]{36})\.dcm", path.read_text())
        assert list(dict.fromkeys(named)) == [uuid for _, uuid in meant]


# Scripts.

RECORDER = """\
#!{python}
import json, os, sys
call = [sys.argv[0].rsplit("/", 1)[1], *sys.argv[1:]]
said = os.environ.get("CLOUDSDK_AUTH_DISABLE_CREDENTIALS")
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([call, said]) + "\\n")
sys.exit(int(os.environ.get("FAILS", "0")))
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A folder with programs, aws and gcloud, that write down how they were called."""
    folder = tmp_path_factory.mktemp("tools")
    for name in ("aws", "gcloud"):
        path = folder / name
        path.write_text(RECORDER.format(python=sys.executable))
        path.chmod(0o755)
    return folder


def run_script(script, tools, folder, **environment):
    folder.mkdir(parents=True, exist_ok=True)
    record = tools / "record"
    record.unlink(missing_ok=True)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    done = subprocess.run(
        script if isinstance(script, list) else [str(script)],
        cwd=folder,
        env={**os.environ, "PATH": path, "RECORD": str(record), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = record.read_text().splitlines() if record.exists() else []
    return done, [json.loads(line) for line in lines]


names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0*?[]"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))
nasty = st.sampled_from(
    [
        "a b",
        "-rf",
        "$(touch z)",
        "`touch z`",
        "a;touch z",
        "'",
        '"',
        "\\",
        "a\nb",
        "#",
        "!x",
        "~",
        "&",
        "{a,b}",
        "é",
    ]
)


@pytest.mark.skipif(os.name != "posix", reason="a script for a POSIX shell")
@pytest.mark.parametrize("tool", ["aws", "gcloud"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    series=st.lists(names | nasty, min_size=1, max_size=3, unique=True),
    bucket=names | nasty,
    script=names | nasty,
)
def test_a_script_calls_its_tool_with_the_very_names(
    tool, series, bucket, script, tools, tmp_path
):
    folder = tmp_path / "here"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        os.fsencode(script)
    except UnicodeEncodeError:
        script = "x"
    path = tmp_path / "scripts" / script[:60]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(written(rows_of(*series, bucket=bucket), Form(tool), path.name))
    done, calls = run_script(["sh", str(path)], tools, folder)
    path.unlink()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first = {"aws": ["aws", "s3"], "gcloud": ["gcloud", "storage"]}[tool]
    unsigned = ["--no-sign-request"] if tool == "aws" else []
    slash, scheme = ("/", "s3") if tool == "aws" else ("", "gs")
    assert [call for call, _ in calls] == [
        [
            *first, "cp", *unsigned, "--recursive", f"{scheme}://{bucket}/{uuid}{slash}",
            f"./{uuid}/" if tool == "aws" else "./",
        ]
        for uuid in series
    ]  # fmt: skip
    # Nothing but the tool was run.
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("tool", ["aws", "gcloud"])
@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "a\0b", "a*", "[x]", "?"]
)
def test_what_is_no_name_of_a_folder_is_not_put_into_a_script(tool, name):
    for rows in (rows_of(U, name), rows_of(U, bucket=name)):
        with pytest.raises(RequestError, match="names no folder"):
            text_of(rows, tool)


@pytest.mark.skipif(os.name != "posix", reason="a script for a POSIX shell")
@pytest.mark.parametrize("tool", ["aws", "gcloud"])
def test_a_script_of_a_cohort_runs_as_it_is(tool, tools, tmp_path):
    folder = tmp_path / "a folder"
    path = PAIR.to_manifest(tmp_path / "it's $HOME.sh", tool, level="instance")
    done, calls = run_script(path, tools, folder)
    assert done.returncode == 0, done.stderr
    scheme = "s3" if tool == "aws" else "gs"
    assert [call[-2:] for call, _ in calls] == [
        [f"{scheme}://intake-idc-sample/{series}/{uuid}.dcm", f"./{series}/{uuid}.dcm"]
        for series, uuid, _ in objects_below(PAIR)
    ]
    made = {found.name for found in folder.iterdir()}
    assert made == (set(PAIR.manifest().uuids) if tool == "gcloud" else set())
    # Public data needs nobody to log in, unless somebody wants to.
    said = {said for _, said in calls}
    assert said == ({"true"} if tool == "gcloud" else {None})
    if tool == "gcloud":
        own = {"CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "false"}
        _, calls = run_script(path, tools, folder, **own)
        assert {said for _, said in calls} == {"false"}


@pytest.mark.skipif(os.name != "posix", reason="a script for a POSIX shell")
@pytest.mark.parametrize("tool", ["aws", "gcloud"])
def test_a_script_ends_where_its_tool_fails(tool, tools, tmp_path):
    path = PAIR.to_manifest(tmp_path / "x.sh", tool)
    done, calls = run_script(path, tools, tmp_path / "here", FAILS="3")
    assert done.returncode == 3
    assert len(calls) == 1


@pytest.mark.servers
@pytest.mark.parametrize("level", ["series", "instance"])
def test_s5cmd_runs_the_manifest(level, s3_nginx, tmp_path):
    s5cmd = executable("s5cmd")
    if s5cmd is None:
        missing = pytest.fail if on_ci() else pytest.skip
        missing("s5cmd is not installed")
    path = PAIR.to_manifest(tmp_path / "my cohort.s5cmd", level=level)
    (line,) = [line for line in path.read_text().splitlines() if "s5cmd --" in line]
    words = shlex.split(line.removeprefix("# "))
    words[words.index("https://s3.amazonaws.com")] = s3_nginx.endpoint
    assert words[0] == "s5cmd"
    done = subprocess.run(
        [s5cmd, *words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = {p.stem: p.stat().st_size for p in tmp_path.glob("*.dcm")}
    assert found == {uuid: size for _, uuid, size in objects_below(PAIR)}


# Through the readers.

READ = [
    pytest.param(kind, level, id=f"{kind} of {level}")
    for kind in [*TEXT_KINDS, "parquet"]
    for level in ("series", "instance")
    if (kind, level) != ("drs", "series")
]


def read_again(path, kind, cohort, said):
    more = {}
    if kind == "drs":
        # A DRS manifest says neither release nor series.
        more = {"idc_version": cohort.idc_version, "objects": known_objects()}
    return open_manifest(path, tables="sample", kind=said, **more)


@pytest.mark.parametrize("said", [False, True], ids=["by content", "by kind"])
@pytest.mark.parametrize(("kind", "level"), READ)
def test_what_is_written_is_read_as_the_same_cohort(kind, level, said, tmp_path):
    for number, cohort in enumerate((PAIR, SAMPLE.all(), SAMPLE.at(2).all())):
        path = cohort.to_manifest(tmp_path / f"{number}", kind, level=level)
        if kind == "drs" and number == 2:
            continue
        again = read_again(path, kind, cohort, kind if said else None)
        assert again.idc_version == cohort.idc_version
        assert again.problems == ()
        if level == "series":
            assert again.manifest() == cohort.manifest()
        else:
            rewritten = again.to_manifest(tmp_path / "again", kind, level=level)
            assert contents(rewritten, kind) == contents(path, kind)


def contents(path, kind):
    """What is in a manifest, but for its own name."""
    if kind == "parquet":
        return pq.read_table(path)
    return re.sub(rf"(\./| ){path.name}\n", "NAME\n", path.read_text(), count=1)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("ending", [e for e in ENDINGS if e not in (".yml", ".yaml")])
def test_a_file_is_read_whatever_it_is_called(ending, packed, tmp_path):
    if packed and ending in (".s5cmd", ".parquet", ".sh"):
        return
    path = PAIR.to_manifest(tmp_path / f"x{ending}{packed}")
    assert open_manifest(path, tables="sample").manifest() == PAIR.manifest()


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("preamble", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_options_of_a_table_do_not_change_what_is_read(kind, preamble, safe, tmp_path):
    path = PAIR.to_manifest(
        tmp_path / "x",
        kind,
        preamble=preamble,
        spreadsheet_safe=safe,
        columns=["SeriesDescription", "aws_url", "instanceCount"],
    )
    again = open_manifest(path, tables="sample")
    assert again.manifest() == PAIR.manifest()
    assert again.problems == ()


@pytest.mark.parametrize("kind", ["s5cmd", "urls"])
def test_lines_without_a_header_belong_to_the_release_that_is_named(kind, tmp_path):
    path = PAIR.to_manifest(tmp_path / "x", kind, preamble=False)
    again = open_manifest(path, tables="sample", idc_version=1)
    assert again.manifest() == PAIR.manifest()


@pytest.mark.parametrize("kind", READABLE)
def test_bytes_of_an_older_release_are_said_to_be_of_it(kind, tmp_path):
    """Of the three, release 2 has the first, withdrew one, and revised one."""
    uuids = [
        "8a13b81c-f8b7-5325-bec9-388c7dd483ad",
        "c6c2ba2b-ebb7-5c07-af50-41cdc863748b",
        "9f30db6c-6f83-5e41-af6b-1e0d3a3d7378",
    ]
    mixed = open_series(crdc_series_uuid=uuids, tables="sample")
    assert mixed.idc_version == 2
    path = mixed.to_manifest(tmp_path / "x", kind)
    if kind == "parquet":
        table = pq.read_table(path)
        assert table.column("idc_version").to_pylist() == ["2.0", "1.0", "1.0"]
    elif kind in TABLES:
        said = dict(re.findall(r"([0-9a-f-]{36})\W.*?\b([12]\.0)", path.read_text()))
        assert said == dict(zip(uuids, ["2.0", "1.0", "1.0"], strict=True))
    else:
        said = re.findall(r"Release Version (\d)", path.read_text())
        assert said == ["2", "1"]
    again = open_manifest(path, tables="sample")
    assert again.idc_version == 2
    assert again.manifest() == mixed.manifest()


@pytest.mark.parametrize("ending", [".yml", ".yaml"])
def test_a_catalog_opens_the_same_cohort(ending, tmp_path):
    path = PAIR.to_manifest(tmp_path / f"x{ending}")
    source = intake.open_catalog(str(path))["cohort"]
    assert source.cohort.manifest() == PAIR.manifest()


def test_a_catalog_of_single_instances_names_these_alone(tmp_path):
    objects = objects_below(PAIR)
    some = subset(PAIR, [(0, objects[1][1])])
    path = some.to_catalog(tmp_path / "x.yml")
    (beside,) = tmp_path.glob("*.s5cmd")
    lines = [line for line in beside.read_text().splitlines() if line[0] != "#"]
    assert f"cp s3://intake-idc-sample/{objects[0][0]}/{objects[1][1]}.dcm ." in lines
    assert path.is_file()


uuid_lists = st.lists(st.sampled_from(range(3)), min_size=1, max_size=3, unique=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(order=uuid_lists, kind=st.sampled_from(READABLE))
def test_any_order_of_series_survives(order, kind, tmp_path):
    manifest = SAMPLE.all().manifest().take(order)
    cohort = Cohort(FixedRows(manifest, "sample"), mirror=SAMPLE.mirror)
    path = cohort.to_manifest(tmp_path / "x", kind)
    assert open_manifest(path, tables="sample").manifest() == manifest


# From a shell.


def run(*arguments, code=0):
    out, err = io.StringIO(), io.StringIO()
    ended = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as done:
            ended = done.code
    assert ended == code, out.getvalue() + err.getvalue()
    return err.getvalue() if code else out.getvalue()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_command_writes_every_ending(ending, tmp_path):
    path = tmp_path / f"x{ending}"
    words = ["--tables", "sample", "--idc-version", "1", "Modality=CT,MR"]
    assert f"wrote {path}" in run("select", *words, "-o", str(path))
    own = PAIR.to_manifest(tmp_path / "own" / f"x{ending}")
    assert path.read_bytes() == own.read_bytes()


def test_the_command_takes_the_options_of_a_manifest(tmp_path):
    words = ["--tables", "sample", "--idc-version", "1", "Modality=CT,MR", "-o"]
    path = tmp_path / "x.out"
    run("select", *words, str(path), "--format", "drs", "--level", "instance")
    assert path.read_text().startswith("drs_uri,name\n")
    run(
        "select", *words, str(path), "--format=csv", "--columns=Modality,aws_url",
        "--spreadsheet-safe", "--preamble",
    )  # fmt: skip
    lines = path.read_text().splitlines()
    assert lines[0] == "Total records found: 2"
    assert lines[2].endswith(",idc_version,Modality,aws_url")
    run(
        "select", *words, str(path), "--format=urls", "--level=instance",
        "--bucket=gcs", "--scheme=https", "--no-preamble",
    )  # fmt: skip
    assert path.read_text().startswith(
        "https://storage.googleapis.com/intake-idc-sample/"
    )
    table = tmp_path / "x.parquet"
    run("select", *words, str(table), "--format", "table")
    assert pq.read_table(table).column_names == PAIR.columns


def test_the_command_knows_objects_and_mirrors(tmp_path):
    file = tmp_path / "objects.parquet"
    pq.write_table(known_objects(), file)
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    words = ["--tables", "sample", "--idc-version", "1", "Modality=CT,MR"]
    path = tmp_path / "x.csv"
    level = ["--level", "instance", "--mirror", str(nowhere), "-o", str(path)]
    assert "holds no object" in run("select", *words, *level, code=4)
    assert not path.exists()
    run("select", *words, *level, "--objects", str(file))
    assert "SOPInstanceUID" in path.read_text().splitlines()[0]


CLI_REFUSED = {
    "no file": (["--format=csv"], "give --output"),
    "no file for a level": (["--level=instance"], "give --output"),
    "no file to make safe": (
        ["--spreadsheet-safe"],
        "--spreadsheet-safe is for a file",
    ),
    "DRS of series": (["-o", "x.csv", "--format=drs"], "--level|level='instance'"),
    "a table as text": (["-o", "x.txt", "--format=table"], r"\.csv or \.parquet"),
    "columns of no table": (["-o", "x.s5cmd", "--columns=Modality"], "columns is for"),
}


@pytest.mark.parametrize(("words", "said"), CLI_REFUSED.values(), ids=CLI_REFUSED)
def test_the_command_refuses_what_does_not_fit(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The tables are not there: they are not asked for.
    assert re.search(said, run("select", "--tables", "/none", *words, code=2))
