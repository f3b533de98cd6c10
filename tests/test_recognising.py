"""The dialect of a manifest is known by what it holds, not by what it is called."""

from __future__ import annotations

import io
from typing import get_args

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from intake_idc.formats.recognising import Kind, recognise

U = "11111111-2222-4333-8444-555555555555"
I = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"  # noqa: E741
STUDY, SERIES = "1.3.6.1.4.1.14519.5.2.1", "1.3.6.1.4.1.14519.5.2.2"
PREAMBLE = (
    "\"Manifest for cohort 'a, b'\"\r\nUser: a@b.org\r\n"
    "Date generated: 05/04/2023 22:25 UTC\r\nTotal records found: 2\r\n"
)

KNOWN = {
    "s5cmd": (f"cp s3://idc-open-data/{U}/* .\n", "lines"),
    "s5cmd below comments": (f"# a, b\n# c\ncp s3://idc-open-data/{U}/* .", "lines"),
    "a verb that is not obeyed": ("rm s3://a,b\n", "lines"),
    "an export of commands": (f"f0_\ncp s3://idc-open-data/{U}/* .\n", "lines"),
    "URLs": (f"s3://idc-open-data/{U}/*\n", "lines"),
    "URLs of Google": (f"https://storage.googleapis.com/idc-open/{I}.dcm", "lines"),
    "DRS identifiers": (f"drs://dg.4DFC:{I}\ndg.4DFC/{U}\n", "lines"),
    "uuids": (f"{U}\n{I}\n", "lines"),
    "UIDs": (f"{STUDY}\n{SERIES}\n", "lines"),
    "PatientIDs": ("TCGA-01\nTCGA-02\n", "lines"),
    "nothing": ("", "lines"),
    "a retriever's list": (
        f"downloadServerUrl=https://a/b\nListOfSeriesToDownload=\n{SERIES}\n",
        "tcia",
    ),
    "a portal's table": (f"{PREAMBLE}PatientID,SeriesInstanceUID\r\nP,1\r\n", "csv"),
    "the same with tabs": (
        f"{PREAMBLE}PatientID\tSeriesInstanceUID\r\nP\t1\r\n",
        "tsv",
    ),
    "a preamble without column names": (f"{PREAMBLE}P,c,{STUDY},{SERIES},{U}", "csv"),
    "a preamble and nothing else": (PREAMBLE, "csv"),
    "a table without column names": (f"P,c,{STUDY},{SERIES},{U},{U},14.0", "csv"),
    "the same, with tabs": (f"P\tc\t{STUDY}\t{SERIES}", "tsv"),
    "one column of UIDs": (f"SeriesInstanceUID\n{SERIES}\n", "csv"),
    "one column of PatientIDs": ("PatientID\nTCGA-01\n", "csv"),
    "HTAN's": ("drs_uri,name\ndrs://nci-crdc.datacommons.io/x,y\n", "csv"),
    "CRDC's": (
        "\ufeffParticipant ID,File Name,File ID,Md5sum,User Comments\r\n",
        "csv",
    ),
    "IndexD's": (f"GUID\tmd5\tsize\nurl\t{U}\t1", "tsv"),
    "NBIA's digest": ("Series UID,Collection,Subject ID\n1,2,3\n", "csv"),
    "semicolons": (f"PatientID;SeriesInstanceUID\nP;{SERIES}\n", "csv"),
    "a spreadsheet's hint": ("sep=;\nPatientID;x\n", "csv"),
    "objects": ('{"SeriesInstanceUID":"1"}\n{"SeriesInstanceUID":"2"}\n', "ndjson"),
    "one object": ('{"SeriesInstanceUID":"1"}\n', "ndjson"),
    "an answer on one line": ('{"manifest":{"manifest_data":[]}}', "json"),
    "an answer on many": ('{\n "code": 200,\n "manifest": {}\n}', "json"),
    "an array": ('[{"object_id": "dg.4DFC/x"}]', "json"),
    "an array on many lines": ('[\n  {\n    "object_id": "dg.4DFC/x"\n', "json"),
}


@pytest.mark.parametrize(("text", "kind"), KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", ["", "x"])
def test_text_is_known_by_its_content(text, kind, encoding, name):
    head = text.removeprefix("\ufeff").encode(encoding)
    assert recognise(head, name) == kind
    assert recognise(head.replace(b"\r\n", b"\n"), name) == kind


@pytest.mark.parametrize(
    "name", ["x.csv", "x.json", "x.parquet", "x.s5cmd", "x.jsonl.gz", "x.tcia"]
)
@pytest.mark.parametrize(
    "known",
    ["s5cmd", "uuids", "a portal's table", "one column of UIDs", "an array", "objects"],
)
def test_the_name_does_not_overrule_the_content(known, name):
    text, kind = KNOWN[known]
    assert recognise(text.encode(), name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.csv", "csv"),
        ("x.TSV", "tsv"),
        ("x.csv.gz", "csv"),
        ("s3://b/x.json.xz", "json"),
        ("https://a.b/x.txt?y=1", "lines"),
    ],
)
@pytest.mark.parametrize("text", [b"", b"hello\nworld\n", b"# only a comment\n"])
def test_the_name_decides_where_the_content_does_not(text, name, kind):
    assert recognise(text, name) == kind


def test_binary_tables_are_known_by_their_first_bytes():
    table = pa.table({"SeriesInstanceUID": ["1.2.3"]})
    out = io.BytesIO()
    parquet.write_table(table, out)
    assert recognise(out.getvalue(), "x.csv") == "parquet"
    for new in (ipc.new_file, ipc.new_stream):
        out = io.BytesIO()
        with new(out, table.schema) as writer:
            writer.write_table(table)
        assert recognise(out.getvalue()[: 64 << 10], "x.csv") == "arrow"


@given(st.binary(max_size=2000), st.text(max_size=20))
def test_any_bytes_are_of_some_kind(head, name):
    assert recognise(head, name) in get_args(Kind)


pieces = st.lists(
    st.sampled_from(
        ["PatientID", U, SERIES, ",", "\t", '"', "\n", "\r", "{", "[", "#", "\0", "cp "]
    ),
    max_size=60,
).map("".join)


@given(pieces, st.sampled_from(["utf-8", "utf-16", "utf-16-be", "utf-8-sig"]))
def test_any_text_is_of_some_kind(text, encoding):
    assert recognise(text.encode(encoding)) in get_args(Kind)


def test_long_lines_are_looked_at_quickly():
    for piece in (b"a.", b"1.", b"[", b'{"a":', b'"', b",", b"drs://", b"%2", b"=\n"):
        assert recognise(piece * (65536 // len(piece))) in get_args(Kind)
