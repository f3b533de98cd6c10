"""Manifests that are tables: column sets of every year, every row accounted for."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
import sys
import uuid

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from intake_idc.arrow import texts, unpack_uuids
from intake_idc.errors import ManifestError
from intake_idc.formats import NAMES, UUID_NAMES, delimited, frames, structured, tabular
from intake_idc.formats.columns import known, placed
from intake_idc.formats.gathering import Gatherer, assembled
from intake_idc.formats.source import Bytes, Given, files

U, U2, U3 = (str(uuid.UUID(int=i << 64 | 0xABCDEF)) for i in (7, 8, 9))
I, I2, I3 = (str(uuid.UUID(int=i << 64 | 0x123456)) for i in (7, 8, 9))  # noqa: E741
V = str(uuid.UUID(int=99))
P = "1.3.6.1.4.1.14519.5.2"
STUDY, SERIES, SOP = f"{P}.1", f"{P}.2", f"{P}.3"
RELEASES = "IDC Data Version(s): Imaging Data Commons Data Release Version"

CELLS = {
    "PatientID": "TCGA-01",
    "collection_id": "tcga_luad",
    "source_DOI": "10.7937/x, 10.7937/y",
    "Program": "TCGA",
    "StudyInstanceUID": STUDY,
    "SeriesInstanceUID": SERIES,
    "SOPInstanceUID": SOP,
    "crdc_study_uuid": V,
    "crdc_series_uuid": U,
    "crdc_instance_uuid": I,
    "study_uuid": V,
    "series_uuid": U,
    "instance_uuid": I,
    "idc_version": "14.0",
    "gcs_path": f"gs://idc-tcia-x/dicom/{STUDY}/{SERIES}/{SOP}.dcm#1592638257658431",
    "gcs_url": f"gs://idc-open-data/{U}/{I}.dcm",
    "aws_url": f"s3://idc-open-data/{U}/{I}.dcm",
    "access": "Public",
}
COMMON = "PatientID collection_id source_DOI StudyInstanceUID SeriesInstanceUID"
HISTORY = {
    "2020-09": "PatientID collection_id Program StudyInstanceUID SeriesInstanceUID "
    "SOPInstanceUID source_DOI gcs_path",
    "2020-12": "PatientID collection_id StudyInstanceUID SeriesInstanceUID "
    "SOPInstanceUID source_DOI crdc_instance_uuid gcs_url",
    "2021-06": f"{COMMON} crdc_study_uuid crdc_series_uuid",
    "2021-08": f"{COMMON} study_uuid series_uuid",
    "2022": f"{COMMON} crdc_study_uuid crdc_series_uuid idc_version",
    "2026, least": "collection_id SeriesInstanceUID source_DOI idc_version",
    "2026, all": f"{COMMON} crdc_study_uuid crdc_series_uuid idc_version",
    "all in the portal's order": f"{COMMON} crdc_instance_uuid crdc_study_uuid "
    "crdc_series_uuid idc_version gcs_url aws_url SOPInstanceUID",
    "BigQuery's table": f"{COMMON} SOPInstanceUID crdc_study_uuid crdc_series_uuid "
    "crdc_instance_uuid gcs_url aws_url idc_version access",
    "BigQuery's table of 2021": f"{COMMON} study_uuid series_uuid instance_uuid",
}
SPELLED = {
    "series_uuid": "crdc_series_uuid",
    "study_uuid": "crdc_study_uuid",
    "instance_uuid": "crdc_instance_uuid",
}


class Blocks(Given):
    """Bytes at hand that come in blocks of a given size."""

    def __init__(self, data: bytes, size: int = 7) -> None:
        super().__init__("here.csv", data)
        self.size = size

    def blocks(self):
        for at in range(0, len(self._data), self.size):
            yield self._data[at : at + self.size]


def read(data: bytes | str, kind: str = "csv"):
    data = data.encode() if isinstance(data, str) else data
    return tabular.read(Given("here", data), kind)


def rows(listing) -> list[dict]:
    """Give the names of each row, as texts."""
    table = listing.names
    for name in (*UUID_NAMES, "uuid"):
        if name in table.column_names:
            at = table.column_names.index(name)
            packed = table[name].combine_chunks()
            table = table.set_column(at, name, unpack_uuids(packed))
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]


def expected(columns: list[str], line: int) -> dict:
    """Give what a row of `CELLS` with these columns names."""
    row = {"line": line}
    for column in columns:
        name = SPELLED.get(column, column)
        if name in ("gcs_url", "aws_url"):
            row |= {"crdc_series_uuid": U, "crdc_instance_uuid": I}
        elif name == "idc_version":
            row["idc_version"] = 14
        elif name in NAMES:
            row[name] = CELLS[name]
    return row


def delimited_text(columns: list[str], delimiter: str = ",", *, header: bool = True):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    if header:
        writer.writerow(columns)
    writer.writerow([CELLS[column] for column in columns])
    return out.getvalue()


cells = st.one_of(
    st.sampled_from([U, U2.upper(), SERIES, STUDY, "", " ", "x", "é", "P 1", "14.0"]),
    st.sampled_from(['"', 'a"b', "a,b", "a\nb", "'=x", f"dg.4DFC/{U}", "nan", "\r"]),
    st.sampled_from(["PatientID", "User: x", f"gs://idc-open-data/{U}/{I}.dcm"]),
)

# Column sets.


@pytest.mark.parametrize("spelled", HISTORY.values(), ids=HISTORY)
@pytest.mark.parametrize("form", ["csv", "tsv", "ndjson", "json", "table", "frame"])
def test_every_column_set_of_every_year_is_read(spelled, form):
    columns = spelled.split()
    row = {column: CELLS[column] for column in columns}
    line = 2 if form in ("csv", "tsv") else 1
    if form in ("csv", "tsv"):
        delimiter = "," if form == "csv" else "\t"
        listing = read(delimited_text(columns, delimiter), form)
    elif form == "ndjson":
        listing = read(json.dumps(row) + "\r\n", form)
    elif form == "json":
        listing = read(json.dumps([row], indent=2), form)
    elif form == "table":
        listing = tabular.read_table(pa.Table.from_pylist([row]))
    else:
        listing = tabular.read_table(pd.DataFrame([row]))
    assert listing.problems == []
    assert rows(listing) == [expected(columns, line)]
    assert listing.names.schema.field("line").type == pa.int64()


@pytest.mark.parametrize("spelled", HISTORY.values(), ids=HISTORY)
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_the_portals_columns_are_told_without_their_names(spelled, delimiter):
    columns = spelled.split()
    kind = "csv" if delimiter == "," else "tsv"
    (row,) = rows(read(delimited_text(columns, delimiter, header=False), kind))
    wanted = expected(columns, 1)
    wanted.pop("PatientID", None)
    wanted.pop("collection_id", None)
    if len([name for name in wanted if name.endswith("InstanceUID")]) == 1:
        wanted["uid"] = wanted.pop("SeriesInstanceUID")
    if spelled == HISTORY["BigQuery's table of 2021"]:
        # Of three uuids in one row their order alone tells, the portal's.
        names = ("crdc_instance_uuid", "crdc_study_uuid", "crdc_series_uuid")
        wanted |= dict(zip(names, (V, U, I), strict=True))
    if spelled == HISTORY["2020-12"]:
        wanted["line"] = 1
    assert row == wanted


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        # PatientIDs of rider_pilot look like UIDs.
        ((f"{P}.9", "c", STUDY, SERIES), {"StudyInstanceUID", "SeriesInstanceUID"}),
        ((f"{P}.9", "c", STUDY, SERIES, U, SOP), {"SOPInstanceUID", "uuid"}),
        ((f"{P}.0109", STUDY, SERIES), {"StudyInstanceUID", "SeriesInstanceUID"}),
        ((STUDY, SERIES, SOP), {"SOPInstanceUID", "StudyInstanceUID"}),
        ((f"{P}.9", "c", SERIES), {"uid"}),
        ((SERIES, U, SOP), {"uuid", "SOPInstanceUID"}),
        ((SERIES, "14.0"), {"uid", "idc_version"}),
    ],
)
def test_uids_without_column_names_are_told_by_where_they_stand(cells, named):
    (row,) = rows(read(",".join(cells)))
    assert named <= {*row}
    assert row.get("SeriesInstanceUID", SERIES) == SERIES
    assert row.get("uid", SERIES) == SERIES
    assert row.get("SOPInstanceUID", SOP) == SOP


@pytest.mark.parametrize("cells", [[f"{P}.{i}" for i in range(4)], [U] * 4, ["x", "y"]])
def test_columns_that_cannot_be_told_are_asked_for(cells):
    with pytest.raises(ManifestError, match=r"column names|no column"):
        read(",".join(cells))


def test_three_uuids_are_told_by_how_many_of_each_there_are():
    data = "".join(f"{U},{V},{i}\n" for i in (I, I2, I3))
    assert rows(read(data))[1]["crdc_instance_uuid"] == I2
    data = "".join(f"{i},{V},{U}\n" for i in (I, I2, I3))
    assert rows(read(data))[1]["crdc_instance_uuid"] == I2
    data = "".join(f"{U},{i},{V}\n" for i in (I, I2, I3))
    with pytest.raises(ManifestError, match="add a row of column names"):
        read(data)


@pytest.mark.parametrize(
    ("header", "cell", "name"),
    [
        ("SERIESINSTANCEUID", SERIES, "SeriesInstanceUID"),
        ("Series Instance UID", SERIES, "SeriesInstanceUID"),
        ("Series UID", SERIES, "SeriesInstanceUID"),
        ("series_instance_uid", SERIES, "SeriesInstanceUID"),
        (" Study-UID ", STUDY, "StudyInstanceUID"),
        ("Subject ID", "x", "PatientID"),
        ("dicom_patient_id", "x", "PatientID"),
        ("Patient ID", "x", "PatientID"),
        ("Crdc_Series_Uuid", U.upper(), "crdc_series_uuid"),
        ("crdc_series_uuid", f"s3://idc-open-data/{U}/*", "crdc_series_uuid"),
        ("uuid", U, "uuid"),
        ("uid", SERIES, "uid"),
        ("series_aws_url", f"s3://idc-open-data/{U}/*", "crdc_series_uuid"),
        ("object_id", f"dg.4DFC/{U}", "uuid"),
        ("File ID", f"dg.4DFC/{U}", "uuid"),
        ("SeriesInstanceUID", f" '{SERIES}' ", "SeriesInstanceUID"),
        ("SeriesInstanceUID", "61.7.16724835513547606704", "SeriesInstanceUID"),
    ],
)
def test_columns_are_known_in_many_spellings(header, cell, name):
    (row,) = rows(read(f"a,{header}\nx,{cell}\n"))
    value = U if cell.strip("' ") not in (SERIES, STUDY, "x") else cell.strip("' ")
    assert row == {"line": 2, name: cell if cell.startswith("61") else value}


@pytest.mark.parametrize(
    "header", ["Participant ID", "idc_case_id", "aws_bucket", "name", "", "Modality"]
)
def test_a_table_that_names_nothing_is_refused(header):
    with pytest.raises(ManifestError, match="crdc_series_uuid"):
        read(f"{header},idc_version\nx,14.0\n")
    with pytest.raises(ManifestError, match="what would do"):
        read(json.dumps([{header: "x"}]), "json")
    with pytest.raises(ManifestError, match="what would do"):
        tabular.read_table(pa.table({header: ["x"]}))


@pytest.mark.parametrize("data", ["", "\n\n", "a,b\n", "1,2\n3,4\n", "# x\n"])
def test_a_text_without_columns_is_refused(data):
    with pytest.raises(ManifestError, match="column"):
        read(data)


# Cells.


@pytest.mark.parametrize(
    ("cell", "release"),
    [
        ("14.0", 14),
        ("14", 14),
        ("14.0; 15.0", 15),
        ("idc_v17", 17),
        ("", None),
        ("current", None),
        ("nan", None),
    ],
)
def test_the_release_of_a_row_is_the_latest_of_its_cell(cell, release):
    (row,) = rows(read(f"SeriesInstanceUID,idc_version\n{SERIES},{cell}\n"))
    assert row.get("idc_version") == release


@pytest.mark.parametrize(
    ("cell", "collection"),
    [("TCGA-LUAD", "tcga_luad"), ("tcga_luad; tcga_lusc", None), ("a b", "a_b")],
)
def test_a_collection_is_spelled_as_idc_spells_it(cell, collection):
    (row,) = rows(read(f"PatientID,collection_id\nP,{cell}\n"))
    assert row.get("collection_id") == collection


@pytest.mark.parametrize(
    ("cell", "patient"),
    [("'=1+1", "=1+1"), ("'-x", "-x"), ("'@a", "@a"), ("'+1", "+1"), ("'x", "'x")],
)
def test_a_cell_made_safe_for_spreadsheets_is_what_it_was(cell, patient):
    (row,) = rows(read(f"PatientID\n{cell}\n"))
    assert row["PatientID"] == patient


@pytest.mark.parametrize(
    ("header", "cell", "reason"),
    [
        ("crdc_series_uuid", "x", "is no uuid"),
        ("crdc_series_uuid", f"s3://idc-open-data/{U}/{I}.dcm", "is no uuid"),
        ("SeriesInstanceUID", "1.30E+12", "is no DICOM UID"),
        ("SeriesInstanceUID", "1." + "2" * 64, "is no DICOM UID"),
        ("SeriesInstanceUID", "", "names nothing"),
        ("aws_url", "s3://idc-open-data/abc", "no IDC series"),
        ("url", "https://example.org/", "no IDC series"),
        ("drs_uri", "drs://dg.4503/x", "DRS identifier"),
        ("PatientID", "x" * 4097, "longer than 4096"),
        ("idc_version", "abc", "is no release"),
    ],
)
def test_a_cell_that_is_not_what_its_column_says_rejects_its_row(header, cell, reason):
    more = ("SeriesInstanceUID", SERIES) if header == "idc_version" else ("x", "y")
    data = f"{header},{more[0]}\n{cell},{more[1]}\n"
    listing = read(data)
    (problem,) = listing.problems
    assert reason in problem.reason
    assert (problem.line, problem.rejected) == (2, True)
    assert rows(listing) == []
    assert listing.texts([2]) == {2: data.split("\n")[1][:200]}


def test_a_row_is_not_widened_when_its_narrow_name_is_missing():
    data = f"PatientID,SeriesInstanceUID,note\nP1,{SERIES},\nP2,,x\n,,\n,,z\n"
    listing = read(data)
    assert [row["line"] for row in rows(listing)] == [2]
    assert [(problem.line, problem.reason) for problem in listing.problems] == [
        (3, "has no SeriesInstanceUID; by its other names it would take too much"),
        (5, "names nothing"),
    ]


def test_columns_that_name_different_series_reject_their_row():
    header = "crdc_series_uuid,aws_url,gcs_url"
    good = f"{U},s3://idc-open-data/{U}/*,gs://idc-open-data/{U}/*"
    bad = f"{U},s3://idc-open-data/{U2}/*,"
    listing = read(f"{header}\n{good}\n{bad}\n")
    assert rows(listing) == [{"line": 2, "crdc_series_uuid": U}]
    assert "different crdc_series_uuids" in listing.problems[0].reason


def test_a_bucket_that_is_not_idcs_is_kept():
    (row,) = rows(read(f"aws_url\ns3://mine/{U}/*\n"))
    assert row == {"line": 2, "crdc_series_uuid": U, "bucket": "mine"}


def test_a_link_in_a_column_that_may_be_anything_says_nothing():
    data = f"SeriesInstanceUID,url\n{SERIES},https://viewer.example.org/x\n"
    assert rows(read(data)) == [{"line": 2, "SeriesInstanceUID": SERIES}]


# Above the table.

ABOVE = {
    "all": f"\"Manifest for cohort 'a, b'\"\r\nUser: a@b.org\r\n\"Filters: x IN ('a', "
    "'b')\"\r\nDate generated: 05/04/2023 22:25 UTC\r\nTotal records found: 1\r\n"
    f"NOTE: limits\r\n{RELEASES} 14.0 2023-05-04\r\nTotal manifest size on disk: 1 GB",
    "another order": f"{RELEASES} 14.0 2023-05-04\r\nUser: a@b.org",
    "a spreadsheet's": f"User: a,,,,,\r\n{RELEASES} 14.0,,,,,\r\n,,,,,",
    "unquoted": f"Filters: x IN ('a', 'b')\r\n{RELEASES} 14.0",
    "several": f"{RELEASES} 14.0 x; Imaging Data Commons Data Release Version 15.0 y",
    "comments": f"# made by hand\r\n{RELEASES} 14.0",
}


@pytest.mark.parametrize("above", ABOVE.values(), ids=ABOVE)
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_rows_above_the_table_are_read(above, header, end, encoding):
    columns = HISTORY["2022"].split()
    text = f"{above}\r\n{delimited_text(columns, header=header)}"
    data = text.replace("\r\n", end).encode(encoding)
    listing = read(data)
    line = above.count("\n") + 2 + header
    assert listing.idc_versions == ((14, 15) if "15.0" in above else (14,))
    assert listing.problems == []
    (row,) = rows(listing)
    assert row["line"] == line
    assert row["crdc_series_uuid"] == U
    shown = listing.texts([1, line])
    assert shown[1].startswith(above[:10].strip())
    assert shown[line].startswith("TCGA-01,tcga_luad")


def test_a_count_that_does_not_hold_is_said():
    data = f"Total records found: 51,972\nSeriesInstanceUID\n{SERIES}\nx\n"
    problem = read(data).problems[0]
    assert problem.reason == "announces 51,972 records; 2 rows follow"
    assert (problem.line, problem.rejected) == (1, False)


def test_a_title_above_the_column_names_is_passed_over_and_said():
    listing = read(f"My list\nSeriesInstanceUID,x\n{SERIES},1\n")
    assert rows(listing) == [{"line": 3, "SeriesInstanceUID": SERIES}]
    (problem,) = listing.problems
    assert (problem.line, problem.rejected) == (1, False)


@pytest.mark.parametrize("columns", ["SeriesInstanceUID", "PatientID", "x,PatientID"])
def test_parts_put_together_repeat_what_stands_above(columns):
    row = ("x," if "," in columns else "") + (SERIES if "UID" in columns else "P1")
    part = f"Total records found: 2\n{RELEASES} 14.0\n{columns}\n{row}\n"
    listing = read(part + part.replace("14.0", "15.0"))
    assert [each["line"] for each in rows(listing)] == [4, 8]
    assert listing.problems == []
    assert listing.idc_versions == (14, 15)


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_the_column_names_tell_the_delimiter(delimiter, kind):
    data = (
        f"sep={delimiter}\nPatientID{delimiter}SeriesInstanceUID\nP{delimiter}{SERIES}"
    )
    assert rows(read(data, kind))[0]["SeriesInstanceUID"] == SERIES


# Text that is broken.


def test_an_open_quote_takes_no_other_line_with_it():
    rest = "".join(f"P{i},{P}.{i},x\n" for i in range(300))
    listing = read(f'PatientID,SeriesInstanceUID,note\nP,{SERIES},"open\n{rest}')
    assert len(rows(listing)) == 300
    (problem,) = listing.problems
    assert problem.line == 2
    assert "not closed" in problem.reason
    assert problem.text == f'P,{SERIES},"open'


def test_an_open_quote_that_another_closes_takes_no_row_with_it():
    lines = [f"P{i},{P}.{i},x" for i in range(5)]
    lines[1] = f'P1,{P}.1,"x'
    lines[3] = f'P3,{P}.3,x"'
    listing = read("\n".join(["PatientID,SeriesInstanceUID,note", *lines]))
    assert [row["PatientID"] for row in rows(listing)] == ["P0", "P2", "P3", "P4"]
    (problem,) = listing.problems
    assert (problem.line, problem.rejected) == (3, True)
    assert "closed 2 lines on" in problem.reason


def test_a_cell_with_line_feeds_is_one_cell():
    data = f'note,SeriesInstanceUID\n"a\nb, ""c""\r\n\nd",{SERIES}\nx,{SERIES}\n'
    assert [row["line"] for row in rows(read(data))] == [2, 6]
    for size in range(1, 30):
        listing = tabular.read(Blocks(data.encode(), size), "csv")
        assert [row["line"] for row in rows(listing)] == [2, 6]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"P\xff,{SERIES},x".encode("latin-1"), "UTF-8"),
        (f"P\0,{SERIES},x".encode(), "NUL"),
        (f"P\ra,{SERIES},x".encode(), "line ends"),
        (f'"P"a,{SERIES},x'.encode(), "quotes"),
        (f"P,{SERIES}\t{SERIES},x".encode(), "is no DICOM UID"),
        (f"P,Q,{SERIES},x".encode(), "has 4 cells, not 3"),
        (b"P", "has 1 cells, not 3"),
        (f"{SERIES}".encode(), "has 1 cells, not 3"),
    ],
)
def test_a_broken_line_spoils_no_other(line, reason):
    good = f"P,{SERIES},x".encode()
    data = b"\n".join([b"PatientID,SeriesInstanceUID,note", good, line, good])
    listing = read(data)
    assert [row["line"] for row in rows(listing)] == [2, 4]
    (problem,) = listing.problems
    assert (problem.line, problem.rejected) == (3, True)
    assert reason in problem.reason


def test_windows_line_ends_written_twice_are_read():
    data = f"SeriesInstanceUID,x\r\r\n{SERIES},1\r\r\n{SERIES},2\r\r\n"
    assert len(rows(read(data))) == 2


def test_bytes_that_begin_as_utf_16_and_are_not_are_refused():
    with pytest.raises(ManifestError, match="UTF-16"):
        read(b"\xff\xfeS\x00e\x00\xd8")


# Objects by DRS.


def test_names_with_commas_do_not_harm_the_identifier_before_them():
    drs = "drs://nci-crdc.datacommons.io/dg.4DFC"
    data = f"drs_uri,name,level\n{drs}/{U},a.tif,2\n{drs}/{U2},a, b.tif,2\n"
    data += f"x,a, b.tif,2\n{drs}/{U3},a.tif\n"
    listing = read(data)
    assert [row["uuid"] for row in rows(listing)] == [U, U2, U3]
    assert [(each.line, each.rejected) for each in listing.problems] == [
        (3, False),
        (4, True),
        (5, False),
    ]
    assert "taken by drs_uri alone" in listing.problems[0].reason


def test_crdcs_cart_is_read():
    data = "\ufeffParticipant ID,File Name,File ID,Md5sum,User Comments\r\n"
    data += f"C1,a.dcm,dg.4DFC/{U},0,mine\r\nC2,b.dcm,dg.4DFC/{U2},0,\r\n"
    listing = read(data)
    assert rows(listing) == [{"line": 2, "uuid": U}, {"line": 3, "uuid": U2}]
    assert listing.problems == []


def test_gen3s_list_is_read():
    keys = {"file_name": "a", "file_size": 1, "commons_url": "x", "subject_id": "P"}
    data = json.dumps([{"object_id": f"dg.4DFC/{U}", **keys}], indent=2)
    assert rows(read(data, "json")) == [{"line": 1, "uuid": U}]


def test_indexds_table_is_read():
    names = [
        "GUID",
        "md5",
        "size",
        "acl",
        "authz",
        "url",
        "description",
        "version",
        "name",
    ]
    url = f"[gs://idc-open-data/{U}/{I}.dcm, s3://idc-open-data/{U}/{I}.dcm]"
    cells = [f"dg.4DFC/{I}", "0", "1", "[*]", "[/open]", url, "", "idc_v1", "x"]
    data = "\t".join(names) + "\n" + "\t".join(cells) + "\n"
    wanted = {"line": 2, "crdc_series_uuid": U, "crdc_instance_uuid": I}
    assert rows(read(data, "tsv")) == [wanted]
    assert placed(f"[gs://idc-open-data/{U}/*, s3://idc-open-data/{U2}/*]") == (
        "names several objects"
    )


# Answers of the API.


def version_2(found: list[dict], **more) -> str:
    cohort = {"name": "x", "filterSet": {"filters": {}, "idc_data_version": "16.0"}}
    manifest = {"manifest_data": found, "rowsReturned": len(found), "totalFound": 626}
    return json.dumps({"code": 200, "cohort_def": cohort, "manifest": manifest} | more)


@pytest.mark.parametrize("key", ["cohort_def", "cohort"])
def test_an_answer_of_version_2_is_read_with_its_release(key):
    found = [{"collection_id": "tcga_luad", "SeriesInstanceUID": SERIES, "x": None}]
    data = version_2(found, next_page="a:b:c").replace('"cohort_def"', f'"{key}"')
    listing = read(data, "json")
    assert listing.idc_versions == (16,)
    (row,) = rows(listing)
    assert row == {"line": 1, "collection_id": "tcga_luad", "SeriesInstanceUID": SERIES}
    (problem,) = listing.problems
    assert not problem.rejected
    assert "1 rows of 626; more pages" in problem.reason
    assert read(version_2(found * 626, next_page=""), "json").problems == []


def test_an_answer_of_version_3_is_read():
    row = {name: CELLS[name] for name in ("SeriesInstanceUID", "PatientID")}
    row |= {"crdc_series_uuid": U, "series_aws_url": f"s3://idc-open-data/{U}/"}
    answer = {"page": 0, "page_size": 1, "returned": 1, "total_series": 3}
    listing = read(json.dumps({**answer, "series": [row]}), "json")
    assert rows(listing)[0]["crdc_series_uuid"] == U
    assert "1 rows of 3" in listing.problems[0].reason


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (
            {"cohort_def": {"filters": {"Modality": ["CT"]}}, "fields": []},
            "open_cohort",
        ),
        ({"terms": {"Modality": ["CT"]}, "ranges": {}}, "open_cohort"),
        ({"filters": {"terms": {}}, "page_size": 100}, "open_cohort"),
        ({"code": 410, "message": "deprecated"}, "deprecated"),
        ({"error": {"code": "not_found", "message": "no such"}}, "no such"),
        ({"counts": {}, "total_series": 3, "series": None}, "include_rows"),
        ({"a": 1}, "got the keys a"),
        ({}, "no rows"),
        (3, "not rows"),
        (None, "not rows"),
    ],
)
def test_a_document_without_rows_says_what_it_is(document, reason):
    with pytest.raises(ManifestError, match=reason):
        read(json.dumps(document), "json")


@pytest.mark.parametrize(
    "document",
    [
        {"SeriesInstanceUID": SERIES},
        {"SeriesInstanceUID": [SERIES]},
        {"SeriesInstanceUID": {"0": SERIES}, "x": {"0": 1}},
        {"columns": ["x", "SeriesInstanceUID"], "data": [[1, SERIES]], "index": [0]},
        {"columns": ["SeriesInstanceUID"], "rows": [[SERIES]], "row_count": 1},
        {"schema": {}, "data": [{"SeriesInstanceUID": SERIES}]},
        {"manifest": [{"SeriesInstanceUID": SERIES}]},
    ],
)
def test_frames_written_as_json_are_read(document):
    listing = read(json.dumps(document), "json")
    assert rows(listing) == [{"line": 1, "SeriesInstanceUID": SERIES}]


def test_a_list_of_texts_is_a_list_of_places():
    data = json.dumps([U, SERIES, f"s3://idc-open-data/{U}/*", "TCGA-01", 3])
    listing = read(data, "json")
    assert rows(listing) == [
        {"line": 1, "uuid": U},
        {"line": 2, "uid": SERIES},
        {"line": 3, "crdc_series_uuid": U},
    ]
    assert [problem.line for problem in listing.problems] == [4, 5]


def test_objects_with_other_keys_are_judged_by_their_own():
    lines = [
        {"PatientID": "P1"},
        {"SeriesInstanceUID": SERIES, "PatientID": ""},
        {"SeriesInstanceUID": "", "PatientID": "P2"},
        {"Modality": "CT"},
        {"PatientID": 7},
    ]
    listing = read("\n\n".join(map(json.dumps, lines)) + "\n[1]\n{\n", "ndjson")
    assert [row["line"] for row in rows(listing)] == [1, 3, 9]
    assert rows(listing)[2]["PatientID"] == "7"
    assert [problem.line for problem in listing.problems] == [5, 7, 10, 11]
    assert listing.texts([7]) == {7: '{"Modality": "CT"}'}


flat = st.dictionaries(
    st.sampled_from(["PatientID", "SeriesInstanceUID", "Series UID", "x", "aws_url"]),
    st.one_of(
        st.sampled_from([U, SERIES, "", "é", "{", "\n", None, 1, 1.5, True]), cells
    ),
    max_size=4,
)


@given(st.lists(flat, max_size=8), st.integers(1, 400), st.booleans())
def test_objects_read_fast_and_slowly_are_the_same(values, size, escaped):
    values = [{"PatientID": "P"}, *values]
    lines = [json.dumps(value, ensure_ascii=escaped) for value in values]
    together = tabular.read(Blocks("\n".join(lines).encode(), size), "ndjson")
    # A comment above each is for the slow way alone.
    apart = read("".join(f"{line}\n# x\n" for line in lines), "ndjson")
    assert rows(together) == [
        row | {"line": (row["line"] + 1) // 2} for row in rows(apart)
    ]
    assert [(each.line, each.reason) for each in together.problems] == [
        ((each.line + 1) // 2, each.reason) for each in apart.problems
    ]


def test_a_line_nested_without_end_is_rejected_alone():
    deep = '{"PatientID":"b","x":' + '{"a":' * 100_000 + "1" + "}" * 100_001
    listing = read('{"PatientID":"a"}\n' + deep + "\n" + "x\n" * 100_000, "ndjson")
    assert [row["PatientID"] for row in rows(listing)] == ["a"]
    assert len(listing.problems) == 100_001


def test_numbers_stay_as_they_are_written():
    data = (
        '{"PatientID": 1.10, "idc_version": 14.0}\n{"PatientID": 12345678901234567890}'
    )
    found = rows(read(data, "ndjson"))
    assert [row["PatientID"] for row in found] == ["1.10", "12345678901234567890"]
    assert found[0]["idc_version"] == 14


@pytest.mark.parametrize(
    "data",
    [
        *("[", "[1,", "[1 2]", "[,]", "[1,]", "[]]", "[] x", '["a', "[" * 100_000),
        *("{" * 10, '{"a":' * 100_000, "nul", "\ufeff", ""),
    ],
)
def test_a_broken_document_is_refused(data):
    with pytest.raises(ManifestError):
        read(data.encode("utf-8", "surrogatepass"), "json")


def test_an_element_that_is_not_utf_8_is_rejected_alone():
    listing = read(b'["' + U.encode() + b'", "\xff", {"PatientID": "\xff"}]', "json")
    assert rows(listing) == [{"line": 1, "uuid": U}]
    assert [problem.line for problem in listing.problems] == [2, 3]


@given(
    st.lists(
        st.one_of(
            st.uuids().map(str),
            st.fixed_dictionaries({"PatientID": st.text('aé"\\[]{},', max_size=9)}),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=12,
    ),
    st.integers(1, 40),
    st.booleans(),
)
def test_an_array_in_pieces_is_the_same_array(values, size, escaped):
    data = json.dumps(values, ensure_ascii=escaped, indent=1).encode()
    pieces = [*structured._elements(Blocks(data, size))]
    assert pieces == json.loads(data, parse_int=str, parse_float=str)


# Tables that Arrow reads.


def written(table: pa.Table, kind: str, **options) -> bytes:
    out = io.BytesIO()
    if kind == "parquet":
        parquet.write_table(table, out, **options)
    else:
        new = ipc.new_stream if kind == "stream" else ipc.new_file
        with new(out, table.schema) as writer:
            writer.write_table(table, 3)
    return out.getvalue()


TYPES = {
    "string": pa.string(),
    "large string": pa.large_string(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
@pytest.mark.parametrize("text", TYPES.values(), ids=TYPES)
def test_columns_of_any_type_of_text_are_read(kind, text):
    uids = pa.array([f"{P}.{i}" for i in range(10)]).cast(text)
    patients = pa.array([None, *"abcdefghi"], pa.string()).cast(text)
    packed = pa.array([uuid.UUID(U).bytes] * 10, pa.binary(16))
    table = pa.table(
        {
            "SeriesInstanceUID": uids,
            "x": [b"\xff"] * 10,
            "PatientID": patients,
            "idc_version": [14] * 10,
            "crdc_series_uuid": packed,
        }
    )
    source = Given("here", written(table, kind))
    listing = tabular.read(source, "parquet" if kind == "parquet" else "arrow")
    found = rows(listing)
    assert [row["line"] for row in found] == [*range(1, 11)]
    assert found[0] == {
        "line": 1,
        "SeriesInstanceUID": f"{P}.0",
        "idc_version": 14,
        "crdc_series_uuid": U,
    }
    assert found[9]["PatientID"] == "i"
    assert "PatientID=i" in listing.texts([10])[10]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5], pa.float64()),
        pa.array([[SERIES]], pa.list_(pa.string())),
        pa.array([{"a": SERIES}], pa.struct([("a", pa.string())])),
        pa.array([None], pa.null()),
        pa.array([b"\xff"], pa.binary()),
        pa.array([1], pa.timestamp("s")),
        pa.array([True]),
    ],
)
def test_columns_of_other_types_are_read_or_refused(column):
    table = pa.table({"SeriesInstanceUID": column, "PatientID": ["x"]})
    try:
        listing = tabular.read_table(table)
    except ManifestError:
        return
    assert len(listing.problems) + listing.names.num_rows == 1


def test_a_frame_is_read_whatever_else_is_in_it():
    frame = pd.DataFrame(
        {"PatientID": ["a", 7, None], "junk": [{}, [], 3], 5: [1, 2, 3]},
        index=pd.Index([f"{P}.{i}" for i in range(3)], name="SeriesInstanceUID"),
    )
    listing = tabular.read_table(frame)
    assert [row.get("PatientID") for row in rows(listing)] == ["a", "7", None]
    assert [row["SeriesInstanceUID"] for row in rows(listing)] == [
        f"{P}.{i}" for i in range(3)
    ]
    assert rows(tabular.read_table(frame.reset_index()["SeriesInstanceUID"]))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_bytes_that_are_no_table_are_refused(kind):
    for data in (b"", b"PAR1", b"PAR1PAR1", b"ARROW1\0\0", b"FEA1", b"\xff" * 40, b"x"):
        with pytest.raises(ManifestError):
            read(data, kind)


def test_a_table_that_unpacks_to_too_much_is_refused(monkeypatch):
    same = pa.array(["x"] * 10_000)
    data = written(pa.table({"PatientID": same}), "parquet")
    monkeypatch.setattr(frames, "MOST_ROWS", 9_999)
    with pytest.raises(ManifestError, match="10,000 rows"):
        read(data, "parquet")
    with pytest.raises(ManifestError, match="10,000 rows"):
        read(written(pa.table({"PatientID": same}), "file"), "arrow")
    monkeypatch.undo()
    monkeypatch.setattr(frames, "LARGEST_NAMES", 1000)
    with pytest.raises(ManifestError, match="bytes of names"):
        read(data, "parquet")


def test_a_long_value_that_repeats_is_not_written_out():
    # 20,000 times 1 MB is 20 GB, of a file of some kilobytes.
    column = (
        pa.array(["x" * 1_000_000]).dictionary_encode().take(pa.array([0] * 20_000))
    )
    data = written(pa.table({"PatientID": column}), "parquet", compression="zstd")
    assert len(data) < 100_000
    listing = read(data, "parquet")
    assert len(listing.problems) == 20_000
    assert "longer than 4096" in listing.problems[0].reason


# One rule for both ways, and for any bytes.

headers = st.lists(
    st.sampled_from(
        [
            *("PatientID", "SeriesInstanceUID", "crdc_series_uuid", "aws_url"),
            *("idc_version", "collection_id", "note"),
        ]
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def tables(draw) -> tuple[list[str], list[list[str]], bytes]:
    header = draw(headers.filter(lambda names: {*names} - {"note", "idc_version"}))
    width = len(header)
    row = st.lists(cells, min_size=width, max_size=width)
    found = draw(st.lists(row, max_size=8))
    out = io.StringIO()
    end = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(out, lineterminator=end)
    writer.writerows([header, *found])
    return header, found, out.getvalue().encode()


def outcome(source: Bytes, kind: str, *, fast: bool):
    listing = delimited.read(source, kind, fast=fast)
    return rows(listing), listing.problems, listing.idc_versions


@given(tables(), st.integers(1, 200), st.binary(max_size=3), st.integers(0, 500))
def test_reading_fast_and_reading_slowly_agree(table, size, noise, at):
    _, _, data = table
    data = data[:at] + noise + data[at:]
    source = Blocks(data, size)
    try:
        slow = outcome(source, "csv", fast=False)
    except ManifestError:
        with pytest.raises(ManifestError):
            outcome(source, "csv", fast=True)
        return
    assert outcome(source, "csv", fast=True) == slow
    assert outcome(Given("x", data), "csv", fast=True) == slow


@given(tables())
def test_every_row_is_taken_rejected_or_blank(table):
    header, found, data = table
    listing = read(data)
    lines = [row["line"] for row in rows(listing)]
    rejected = [problem.line for problem in listing.problems if problem.rejected]
    assert lines == sorted({*lines})
    assert not {*lines} & {*rejected}
    assert len(rejected) == len({*rejected})
    at, left = 2, []
    for row in found:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(row)
        if at not in lines and at not in rejected:
            left.append(row)
        at += out.getvalue().count("\n")
    # What is neither is blank, repeats the header, or looks like a preamble.
    for row in left:
        nothing = not "".join(row).strip(' \n\r",')
        assert nothing or row == header or row[0].startswith("User: ")


@given(st.lists(cells, max_size=20))
def test_places_read_together_are_those_read_one_by_one(values):
    import numpy as np

    columns = known(["drs_uri"])
    gatherer = Gatherer(columns)
    gatherer.add([texts(values)], np.arange(len(values)), values.__getitem__)
    names, _ = assembled([gatherer])
    found = dict.fromkeys(names["line"].to_pylist(), True)
    for at, value in enumerate(values):
        named = isinstance(placed(value.strip().strip("'\"").strip()), dict)
        assert found.get(at, False) == named


@given(st.binary(max_size=400), st.sampled_from(tabular.KINDS))
def test_any_bytes_end_in_a_listing_or_an_error_of_ours(data, kind):
    try:
        listing = tabular.read(Given("here", data), kind)
    except ManifestError:
        return
    assert set(listing.names.column_names) <= {"line", *NAMES}


pieces = st.lists(
    st.one_of(
        st.sampled_from(["PatientID", "SeriesInstanceUID", "gcs_url", U, SERIES, "P"]),
        st.sampled_from([",", "\t", '"', '""', "\n", "\r\n", "\r", "\n\n", "{", "}"]),
        st.sampled_from(["[", "]", ":", "\0", "\ufeff", "\ud800", "14.0", "User: "]),
        st.text(max_size=3),
    ),
    max_size=60,
).map("".join)


@given(pieces, st.sampled_from(tabular.KINDS), st.sampled_from(["utf-8", "utf-16"]))
def test_any_text_ends_in_a_listing_or_an_error_of_ours(text, kind, encoding):
    data = text.encode(encoding, "surrogatepass")
    try:
        listing = tabular.read(Given("here", data), kind)
    except ManifestError:
        return
    assert set(listing.names.column_names) <= {"line", *NAMES}
    listing.texts([1, 2, 10**6])


ONE = pa.table(
    {"SeriesInstanceUID": [f"{P}.{i}" for i in range(20)], "PatientID": ["x"] * 20}
)


@given(st.sampled_from(["parquet", "file", "stream"]), st.data())
def test_a_damaged_table_ends_in_a_listing_or_an_error_of_ours(kind, data):
    whole = bytearray(written(ONE, kind))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    whole = whole[: data.draw(st.integers(len(whole) - 20, len(whole)))]
    with contextlib.suppress(ManifestError):
        read(bytes(whole), "parquet" if kind == "parquet" else "arrow")


# Files, and what is loaded.


def test_a_file_is_read_without_loading_pandas(tmp_path):
    columns = HISTORY["all in the portal's order"].split()
    path = tmp_path / "manifest_Part1.csv"
    path.write_text(delimited_text(columns) + "x\n", "utf-8", newline="")
    (source,) = files(path)
    assert len(rows(tabular.read(source, "csv"))) == 1
    code = (
        "import sys\n"
        "from intake_idc.formats import source, tabular\n"
        f"tabular.read(source.files({str(path)!r})[0], 'csv')\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_table_is_not_read_as_one():
    with pytest.raises(ManifestError, match="expected one of csv"):
        read("x", "lines")


json_values = st.recursive(
    st.sampled_from(["a", "},", "{", "]", '"', "\\", "é", None, True, "1.2"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "},{", "["]), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=12), st.integers(1, 60), st.booleans())
def test_elements_of_an_array_are_the_same_wherever_blocks_end(values, size, spaced):
    data = json.dumps(values, separators=None if spaced else (",", ":")).encode()

    class Blocks(Given):
        def blocks(self):
            for start in range(0, len(data), size):
                yield data[start : start + size]

    assert list(structured._elements(Blocks("x", data))) == values
