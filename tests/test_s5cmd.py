"""s5cmd manifests: every generation in, and out again the same."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake_idc.errors import ManifestError, RequestError
from intake_idc.formats import check_problems, s5cmd
from intake_idc.manifest import Manifest

U = "11111111-2222-4333-8444-555555555555"
DATA_RELEASE = "Imaging Data Commons Data Release Version"
I = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"  # noqa: E741

TAKEN = {
    "portal 2023-04-07, no star": f"cp s3://idc-open-data/{U}/ .\n",
    "portal 2023, star": f"cp s3://idc-open-data/{U}/* .\n",
    "portal 2024, dot slash": f"cp s3://idc-open-data/{U}/* ./\n",
    "retired bucket": f"cp s3://public-datasets-idc/{U}/* .\n",
    "gs scheme": f"cp gs://public-datasets-idc/{U}/* .\n",
    "bare url of the API": f"s3://idc-open-data/{U}/*\n",
    "bare folder": f"s3://idc-open-data/{U}\n",
    "bq export header": f"f0_\ncp s3://idc-open-data/{U}/* .\n",
    "idc-index junk": f"study_manifest_cp_command\ncp s3://idc-open-data/{U}/*  .\n",
    "two blanks": f"cp s3://idc-open-data/{U}/*  .\n",
    "tutorial destination": f"cp s3://idc-open-data/{U}/* /tmp/dicom_data/.\n",
    "sync": f"sync s3://idc-open-data/{U}/* .\n",
    "CRLF": f"# header\r\ncp s3://idc-open-data/{U}/* .\r\n",
    "double quotes": f'cp "s3://idc-open-data/{U}/*" "/a dir/x"\n',
    "single quotes": f"cp 's3://idc-open-data/{U}/*' '.'\n",
    "show-progress": f"cp --show-progress s3://idc-open-data/{U}/* .\n",
    "flag with a value": f"cp -c 10 --show-progress s3://idc-open-data/{U}/* .\n",
    "byte order mark": f"\ufeffcp s3://idc-open-data/{U}/* .\n",
    "upper case uuid": f"cp s3://idc-open-data/{U.upper()}/* .\n",
    "no last line feed": f"cp s3://idc-open-data/{U}/* .",
    "blank lines and leading blanks": f"\n\n   cp s3://idc-open-data/{U}/* .  \n\n",
}


@pytest.mark.parametrize("text", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_every_generation_is_read(text, encoding):
    lines = s5cmd.read(text.removeprefix("\ufeff").encode(encoding))
    assert lines.uuids == [U]
    assert lines.problems == []
    assert s5cmd.read(text).uuids == [U]


REJECTED = {
    "remove": (f"rm s3://idc-open-data/{U}/*", "not obeyed"),
    "move": (f"mv s3://idc-open-data/{U}/* .", "not obeyed"),
    "nested run": ("run other.txt", "not obeyed"),
    "upper case verb": (f"CP s3://idc-open-data/{U}/* .", "not obeyed"),
    "upload": ("cp secrets.txt s3://somewhere/x", "not obeyed"),
    "open quote": (f'cp "s3://idc-open-data/{U}/* .', "quotes"),
    "trailing comment": (f"cp s3://idc-open-data/{U}/* . # x", "one source"),
    "no source": ("cp", "one source"),
    "one instance": (f"cp s3://idc-open-data/{U}/{I}.dcm .", "one instance"),
    "flat instance": (f"cp s3://public-datasets-idc/{I}.dcm .", "one instance"),
    "no uuid": ("cp s3://idc-open-data/abc/* .", "no IDC series"),
    "climbing": (f"cp s3://idc-open-data/../{U}/* .", "no IDC series"),
    "another scheme": (f"cp ftp://idc-open-data/{U}/* .", "no IDC series"),
    "very long": ("cp " + "x" * 5000, "longer"),
    "very long destination": (f"cp s3://b/{U}/* {'x' * 5000}", "longer"),
    "text": ("hello", "not obeyed"),
}


@pytest.mark.parametrize(("line", "reason"), REJECTED.values(), ids=REJECTED)
def test_what_is_no_series_is_rejected_with_its_line(line, reason):
    lines = s5cmd.read(f"# one\n{line}\ncp s3://b/{U}/* .\n")
    assert lines.uuids == [U]
    (problem,) = lines.problems
    assert problem.line == 2
    assert problem.rejected
    assert reason in problem.reason
    with pytest.raises(ManifestError, match="line 2"):
        check_problems("x.s5cmd", lines.problems, taken=1)


def test_a_repeated_line_is_taken_once_and_said():
    lines = s5cmd.read(f"cp s3://b/{U}/* .\ncp s3://other/{U}/* .\n")
    assert lines.uuids == [U]
    (problem,) = lines.problems
    assert not problem.rejected
    assert "repeats line 1" in problem.reason
    check_problems("x", lines.problems, taken=1)


@pytest.mark.parametrize(
    "data", [b"\xff\x00\xfe", b"cp \xe9", b"\x00" * 20, b"\xff\xfe\x00"]
)
def test_what_is_no_text_is_refused(data):
    with pytest.raises(ManifestError, match="UTF-8"):
        s5cmd.read(data)


@pytest.mark.parametrize(
    ("header", "versions"),
    [
        (f"# IDC Data Version(s): {DATA_RELEASE} 14.0 2023-05-04", [14]),
        (f"# IDC Data Version(s): {DATA_RELEASE} 14.0; {DATA_RELEASE} 23.0 ", [14, 23]),
        ("# nothing", []),
    ],
)
def test_the_header_names_the_release(header, versions):
    assert s5cmd.read(f"{header}\n").idc_versions == versions


def test_ten_problems_are_spelled_out_and_the_rest_counted():
    lines = s5cmd.read("\n".join(["rm x"] * 25))
    with pytest.raises(ManifestError, match="and 15 more") as caught:
        check_problems("x", lines.problems, taken=0)
    assert len(caught.value.problems) == 25


uuids = st.lists(st.uuids().map(str), min_size=1, max_size=20, unique=True)
buckets = st.sampled_from(["idc-open-data", "idc-open-data-two", "idc-open-data-cr"])


@given(uuids, buckets, st.integers(1, 99), st.sampled_from(["aws", "gcs"]))
def test_writing_and_reading_is_the_identity(uuids, bucket, version, mirror):
    table = pa.table({"crdc_series_uuid": uuids, "aws_bucket": [bucket] * len(uuids)})
    manifest = Manifest(table, version)
    text = "".join(s5cmd.write(manifest, "x.s5cmd", mirror=mirror, date="2026-09-26"))
    lines = s5cmd.read(text)
    assert lines.uuids == uuids
    assert lines.idc_versions == [version]
    assert lines.problems == []


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_with_every_line_accounted_for(data):
    try:
        lines = s5cmd.read(data)
    except ManifestError:
        return
    numbers = {p.line for p in lines.problems} | set(lines.numbers)
    text = data.decode(
        "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    )
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        passed_over = (
            not stripped or stripped.startswith("#") or stripped in s5cmd.HEADER_CELLS
        )
        assert (number in numbers) != passed_over


def test_google_buckets_are_written_for_google():
    table = pa.table({"crdc_series_uuid": [U], "aws_bucket": ["idc-open-data-cr"]})
    text = "".join(s5cmd.write(Manifest(table, 25), mirror="gcs"))
    assert f"cp s3://idc-open-cr/{U}/* ." in text
    assert "https://storage.googleapis.com" in text


def test_a_part_of_a_series_is_not_written():
    table = pa.table(
        {
            "crdc_series_uuid": [U],
            "aws_bucket": ["b"],
            "first_instance": [1],
            "last_instance": [2],
        }
    )
    with pytest.raises(RequestError, match="whole series"):
        "".join(s5cmd.write(Manifest(table, 25)))
    with pytest.raises(RequestError, match="'aws' or 'gcs'"):
        "".join(s5cmd.write(Manifest(table, 25), mirror="azure"))
