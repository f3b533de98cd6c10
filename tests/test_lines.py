"""Manifests of one thing a line: every generation and spelling, every line counted."""

from __future__ import annotations

import gzip
import uuid as uuids_of
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake_idc.arrow import unpack_uuids
from intake_idc.errors import ManifestError, RequestError, StorageError
from intake_idc.formats import check_problems, lines
from intake_idc.formats.places import place
from intake_idc.formats.reading import read
from intake_idc.formats.source import Given, files, natural

U = "11111111-2222-4333-8444-555555555555"
V = "99999999-2222-4333-8444-555555555555"
I = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"  # noqa: E741
DATA_RELEASE = "Imaging Data Commons Data Release Version"


def listed(text, **how):
    """What a text names, as a list of dicts without the nulls, uuids as text."""
    data = text if isinstance(text, bytes) else text.encode()
    return rows(lines.read(Given("a test", data), **how))


def rows(listing):
    table = listing.names.drop_columns(["line"])
    columns = {
        name: (
            unpack_uuids(table.column(name).combine_chunks()).to_pylist()
            if "uuid" in name
            else table.column(name).to_pylist()
        )
        for name in table.column_names
    }
    return [
        {name: values[i] for name, values in columns.items() if values[i] is not None}
        for i in range(table.num_rows)
    ]


SERIES = {"crdc_series_uuid": U}
INSTANCE = {"crdc_instance_uuid": I, "crdc_series_uuid": U}
HEADER = """\
# To download the files in this manifest, first install s5cmd (https://github.com/peak/s5cmd),
# then run the following command:
# s5cmd --no-sign-request --endpoint-url https://s3.amazonaws.com run cohorts_1_aws.s5cmd
"""  # noqa: E501
NEWER = """\
# To obtain these images, install s5cmd (https://github.com/peak/s5cmd),
# then run the following command:
# s5cmd --no-sign-request --endpoint-url https://s3.amazonaws.com run <manifest file name>
"""  # noqa: E501
RECORDED = {
    "portal-2023-04-07": (f"cp s3://idc-open-data/{U}/ .\n", SERIES),
    "portal-2023-aws": (f"{HEADER}cp s3://idc-open-data/{U}/* .\n", SERIES),
    "portal-2023-gcs": (
        (
            f"{HEADER.replace('s3.amazonaws', 'storage.googleapis')}"
            f"cp s3://public-datasets-idc/{U}/* .\n"
        ),
        SERIES,
    ),
    "portal-2023-extra-headers": (
        (
            f"{HEADER}# Manifest for cohort 'name'\n# User: a@b.c\n"
            "# Filters: <sql-ish>\n"
            "# Date generated: 05/04/2023 22:25 UTC\n# Total records found: 1\n"
            f"# IDC Data Version(s): {DATA_RELEASE} 14.0 2023-05-04\n"
            f"# Total manifest size on disk: 1.23 GB\ncp s3://idc-open-data/{U}/* .\n"
        ),
        SERIES,
    ),
    "portal-2024-sync": (f"{NEWER}cp s3://idc-open-data/{U}/* .\n", SERIES),
    "portal-2024-idc-index": (
        (
            "# To obtain these images, install the idc-index (https://github.com/"
            "ImagingDataCommons/idc-index) python package:\n"
            "# pip install --upgrade idc-index\n"
            "# then run the following command:\n# idc download <manifest file name>\n"
            f"cp s3://idc-open-data/{U}/* .\n"
        ),
        SERIES,
    ),
    "portal-2024-async": (
        (
            "# Manifest generated at 17:44:01 2026/01/02 \n"
            f"# IDC Data Version(s): {DATA_RELEASE} 23.0 2025-11-06 \n"
            f"{NEWER}cp s3://idc-open-data/{U}/* ./\n"
        ),
        SERIES,
    ),
    "api-v3-txt": (f"s3://idc-open-data/{U}/*\n", SERIES),
    "docs-bq-csv": (f"f0_\ncp s3://idc-open-data/{U}/* .\n", SERIES),
    "docs-double-space": (f"cp s3://idc-open-data/{U}/*  .\n", SERIES),
    "tutorial-dest": (f"cp s3://idc-open-data/{U}/* /tmp/dicom_data/.\n", SERIES),
    "instance": (f"cp s3://idc-open-data/{U}/{I}.dcm ./folder/\n", INSTANCE),
    "flat-v13": (
        f"cp s3://public-datasets-idc/{I}.dcm .\n",
        {"crdc_instance_uuid": I},
    ),
    "gs-urls": (f"gs://public-datasets-idc/{I}.dcm\n", {"crdc_instance_uuid": I}),
    "gsutil-v1": (
        "gs://idc-tcia-x/dicom/1.2/1.2.3/1.2.3.4.dcm#1592638257658431\n",
        {
            "StudyInstanceUID": "1.2",
            "SeriesInstanceUID": "1.2.3",
            "SOPInstanceUID": "1.2.3.4",
        },
    ),
    "gs-series": (f"gs://idc-open-data/{U}/*\n", SERIES),
    "quoted": (f'cp "s3://idc-open-data/{U}/*" "./out dir/"\n', SERIES),
    "single-quoted": (f"cp 's3://idc-open-data/{U}/*' ./out/\n", SERIES),
    "flags": (f"cp --show-progress -c 10 s3://idc-open-data/{U}/* .\n", SERIES),
    "sync": (f'sync s3://idc-open-data/{U}/* "/data/x"\n', SERIES),
    "crlf-bom": (f"\ufeff# c\r\ncp s3://idc-open-data/{U}/* .\r\n", SERIES),
    "idc-index-generated": (
        f'cp s3://idc-open-data/{U}/* "/data/coll/PAT/1.2/CT_1.2.3"\n',
        SERIES,
    ),
}


@pytest.mark.parametrize(("text", "named"), RECORDED.values(), ids=RECORDED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_every_recorded_generation_is_read(text, named, encoding):
    found = lines.read(Given("a test", text.removeprefix("\ufeff").encode(encoding)))
    assert rows(found) == [named]
    assert found.problems == []
    assert listed(text) == [named]


OTHERS = {
    "bare folder": (f"s3://idc-open-data/{U}", SERIES),
    "idc-index junk": (
        f"study_manifest_cp_command\ncp s3://idc-open-data/{U}/*  .\n",
        SERIES,
    ),
    "upper case uuid": (f"cp s3://idc-open-data/{U.upper()}/* .\n", SERIES),
    "upper case instance": (f"s3://idc-open-data/{U}/{I.upper()}.dcm", INSTANCE),
    "no last line feed": (f"cp s3://idc-open-data/{U}/* .", SERIES),
    "blank lines": (f"\n\n   cp s3://idc-open-data/{U}/* .  \n\n", SERIES),
    "path-style https": (f"https://s3.amazonaws.com/idc-open-data/{U}/", SERIES),
    "regional https": (
        f"https://s3.us-east-1.amazonaws.com/idc-open-data/{U}/{I}.dcm",
        INSTANCE,
    ),
    "host-style https": (
        f"https://idc-open-data.s3.amazonaws.com/{U}/{I}.dcm",
        INSTANCE,
    ),
    "https of Google": (
        f"https://storage.googleapis.com/public-datasets-idc/{U}/{I}.dcm?alt=media",
        INSTANCE,
    ),
    "another bucket": (
        f"cp s3://elsewhere/{U}/* .",
        {**SERIES, "bucket": "elsewhere"},
    ),
    "aws script": (
        f"aws s3 cp --no-sign-request --recursive s3://idc-open-data/{U}/ ./{U}/",
        SERIES,
    ),
    "aws sync": (f"aws s3 sync --no-sign-request s3://idc-open-data/{U}/ .", SERIES),
    "gcloud script": (
        f"gcloud storage cp --recursive 'gs://idc-open-data/{U}/*' './{U}/'",
        SERIES,
    ),
    "gsutil": (f"gsutil -m cp -r gs://idc-open-data/{U} .", SERIES),
    "drs": (f"drs://nci-crdc.datacommons.io/dg.4DFC/{U}", {"uuid": U}),
    "compact drs": (f"drs://dg.4DFC:{U}", {"uuid": U}),
    "bare drs": (f"dg.4DFC/{U}", {"uuid": U}),
    "bare uuid": (U, {"uuid": U}),
    "bare UID": ("1.2.840.10008.1", {"uid": "1.2.840.10008.1"}),
}


@pytest.mark.parametrize(("text", "named"), OTHERS.values(), ids=OTHERS)
def test_every_other_spelling_is_read(text, named):
    found = lines.read(Given("a test", text.encode()))
    assert rows(found) == [named]
    assert found.problems == []


REJECTED = {
    "remove": (f"rm s3://idc-open-data/{U}/*", "not obeyed"),
    "move": (f"mv s3://idc-open-data/{U}/* .", "not obeyed"),
    "nested run": ("run other.txt", "not obeyed"),
    "upper case verb": (f"CP s3://idc-open-data/{U}/* .", "not obeyed"),
    "upload": ("cp secrets.txt s3://somewhere/x", "not obeyed"),
    "upload by aws": ("aws s3 cp secrets.txt s3://somewhere/x", "not obeyed"),
    "remove by aws": (f"aws s3 rm --recursive s3://idc-open-data/{U}/", "not obeyed"),
    "a shell": (f"aws s3 cp s3://idc-open-data/{U}/ . ; rm -rf /", "one source"),
    "open quote": (f'cp "s3://idc-open-data/{U}/* .', "quotes"),
    "trailing comment": (f"cp s3://idc-open-data/{U}/* . # x", "one source"),
    "no source": ("cp", "one source"),
    "no uuid": ("cp s3://idc-open-data/abc/* .", "no IDC series"),
    "climbing": (f"cp s3://idc-open-data/../{U}/* .", "no IDC series"),
    "two levels": (f"cp s3://idc-open-data/{U}/{U}/{U}/* .", "no IDC series"),
    "another scheme": (f"cp ftp://idc-open-data/{U}/* .", "no IDC series"),
    "very long": ("cp " + "x" * 5000, "longer"),
    "very long destination": (f"cp s3://b/{U}/* {'x' * 5000}", "longer"),
    "NUL": ("cp \0", "NUL"),
    "text": ("hello", "kind="),
    "a word of the shell": ("set of patients", "not obeyed"),
    "another folder": (f"cd {U}", "not obeyed"),
    "two words": ("hello world", "not obeyed"),
    "UID of 65 letters": ("1." + "2" * 63, "kind="),
}


@pytest.mark.parametrize(("line", "reason"), REJECTED.values(), ids=REJECTED)
def test_what_names_nothing_is_rejected_with_its_line(line, reason):
    text = f"# one\n{line}\ncp s3://idc-open-data/{U}/* .\n"
    found = lines.read(Given("a test", text.encode()))
    assert rows(found) == [SERIES]
    (problem,) = found.problems
    assert problem.line == 2
    assert problem.rejected
    assert reason in problem.reason
    with pytest.raises(ManifestError, match="line 2"):
        check_problems("x.s5cmd", found.problems, taken=1)


def test_a_line_that_is_not_utf_8_is_one_problem():
    data = b"cp \xe9\n" + f"cp s3://idc-open-data/{U}/* .\n".encode()
    found = lines.read(Given("a test", data))
    assert rows(found) == [SERIES]
    assert [(p.line, p.reason) for p in found.problems] == [(1, "is not text in UTF-8")]


@pytest.mark.parametrize(
    ("header", "versions"),
    [
        (f"# IDC Data Version(s): {DATA_RELEASE} 14.0 2023-05-04", (14,)),
        (f"# IDC Data Version(s): {DATA_RELEASE} 14.0; {DATA_RELEASE} 23.0 ", (14, 23)),
        ("# nothing", ()),
    ],
)
def test_the_header_names_the_release(header, versions):
    assert lines.read(Given("x", f"{header}\n".encode())).idc_versions == versions


def test_the_number_of_records_is_held_against_the_header():
    text = f"# Total records found: 3\ncp s3://idc-open-data/{U}/* .\n"
    (problem,) = lines.read(Given("x", text.encode())).problems
    assert not problem.rejected
    assert "announces 3 records; 1 lines follow" in problem.reason


def test_ten_problems_are_spelled_out_and_the_rest_counted():
    found = lines.read(Given("x", b"rm x\n" * 25))
    with pytest.raises(ManifestError, match="and 15 more") as caught:
        check_problems("x", found.problems, taken=0)
    assert len(caught.value.problems) == 25


TCIA = """\
downloadServerUrl=https://public.cancerimagingarchive.net/nbia-download/servlet/DownloadServlet
includeAnnotation=true
noOfrRetry=4
databasketId=manifest-1600709154662.tcia
manifestVersion=3.0
ListOfSeriesToDownload=
1.3.6.1.4.1.14519.5.2.1.1
1.3.6.1.4.1.14519.5.2.1.2
"""


def test_a_tcia_file_names_series_by_uid():
    assert listed(TCIA, kind="tcia") == [
        {"SeriesInstanceUID": "1.3.6.1.4.1.14519.5.2.1.1"},
        {"SeriesInstanceUID": "1.3.6.1.4.1.14519.5.2.1.2"},
    ]


def test_what_is_no_setting_of_a_tcia_file_is_a_problem():
    text = f"hello\n{TCIA}not a uid\n"
    found = lines.read(Given("x", text.encode()), kind="tcia")
    assert [p.line for p in found.problems] == [1, 10]
    assert found.names.num_rows == 2


@pytest.mark.parametrize(
    ("identifier", "good", "bad"),
    [
        ("crdc_series_uuid", U, "1.2"),
        ("crdc_instance_uuid", I, "x"),
        ("SeriesInstanceUID", "1.2", U),
        ("StudyInstanceUID", "1.2", "1.02"),
        ("SOPInstanceUID", "1.2", "a"),
        ("PatientID", "cp me", None),
        ("collection_id", "nlst", None),
    ],
)
def test_a_list_may_be_said_to_be_of_one_kind(identifier, good, bad):
    text = f"{good}\n{bad}\n" if bad else f"{good}\n"
    found = lines.read(Given("x", text.encode()), identifier=identifier)
    assert rows(found) == [{identifier: good}]
    assert [p.line for p in found.problems] == ([2] if bad else [])
    assert rows(lines.read_texts([good], identifier)) == [{identifier: good}]


# The short way is the long way.

some_uuids = st.uuids().map(str)
forms = st.sampled_from(
    [
        "cp s3://idc-open-data/{0}/* .",
        "cp s3://idc-open-data-two/{0}/* ./",
        "cp s3://idc-open-data/{0}/{1}.dcm .",
        "cp s3://elsewhere/{0}/* .",
        "s3://idc-open-data/{0}/*",
        "https://idc-open-data.s3.amazonaws.com/{0}/{1}.dcm",
        "drs://dg.4DFC:{0}",
        "{0}",
        "# {0}",
        "rm s3://idc-open-data/{0}/*",
        "cp s3://idc-open-data/{0}/{0}.dcm .",
        "",
        "1.2.3",
        "cp s3://idc-open-data/{0}x/* .",
    ]
)
written = st.builds(
    lambda form, one, two, upper, broken: form.format(
        one.upper() if upper else one[:-1] + broken if broken else one, two
    ),
    forms,
    some_uuids,
    some_uuids,
    st.booleans(),
    st.sampled_from(["", "", "", "g", "/", ":", "`", "\x10", "\x7f", "é"]),
)


@given(st.lists(written, max_size=40), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_that_are_alike_are_read_as_one_by_one(given_lines, end, last):
    text = end.join(given_lines) + (end if last else "")
    found = lines.read(Given("x", text.encode()))
    expected = lines.read_texts(given_lines)
    assert rows(found) == rows(expected)
    assert found.names.column("line").equals(expected.names.column("line"))
    assert found.problems == expected.problems


@given(st.lists(written, min_size=1, max_size=20), st.integers(1, 90))
def test_where_the_blocks_end_does_not_matter(given_lines, size):
    data = "\n".join(given_lines).encode()

    class Blocks(Given):
        def blocks(self):
            for start in range(0, len(data), size):
                yield data[start : start + size]

    whole, cut = (lines.read(kind("x", data)) for kind in (Given, Blocks))
    assert rows(cut) == rows(whole)
    assert cut.problems == whole.problems
    numbers = list(range(1, len(given_lines) + 1))
    assert cut.texts(numbers) == whole.texts(numbers)


def test_more_forms_than_are_looked_for_are_read_all_the_same():
    names = [str(uuids_of.UUID(int=i)) for i in range(200)]
    text = "".join(f"cp s3://idc-open-data/{u}/* dir{i}\n" for i, u in enumerate(names))
    assert listed(text) == [{"crdc_series_uuid": u} for u in names]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_with_every_line_accounted_for(data):
    try:
        found = lines.read(Given("x", data))
    except ManifestError:
        return
    numbers = {p.line for p in found.problems}
    numbers |= set(found.names.column("line").to_pylist())
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16").encode("utf-8", "surrogatepass")
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        text = line.decode("utf-8", "replace").strip()
        passed_over = not text or text.startswith("#") or text in lines.HEADER_CELLS
        assert (number in numbers) != passed_over


@given(st.text(max_size=100))
def test_any_text_is_a_name_or_a_reason(text):
    found = place(text)
    assert isinstance(found, str | dict)
    assert found


# However it is given.


def test_what_is_packed_is_unpacked_by_its_content(tmp_path):
    text = f"cp s3://idc-open-data/{U}/* .\n".encode()
    plain = tmp_path / "plain.txt"
    plain.write_bytes(text)
    packed = tmp_path / "no_suffix"
    packed.write_bytes(gzip.compress(text))
    several = tmp_path / "parts.zip"
    with zipfile.ZipFile(several, "w") as file:
        file.writestr("m_Part10.s5cmd", f"s3://idc-open-data/{V}/*\n")
        file.writestr("m_Part2.s5cmd", text)
        file.writestr("__MACOSX/._m", b"\0\1")
    for path in (plain, packed):
        (listing,) = read(path)
        assert rows(listing) == [SERIES]
    parts = read(several)
    assert [rows(part)[0]["crdc_series_uuid"] for part in parts] == [U, V]
    assert parts[1].part.endswith("m_Part10.s5cmd")


def test_parts_are_found_by_a_pattern_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 10):
        name = f"{number:08d}" + U[8:]
        path = tmp_path / f"manifest_Part{number}.s5cmd"
        path.write_text(f"cp s3://idc-open-data/{name}/* .\n")
    parts = read(tmp_path / "manifest_Part*.s5cmd")
    assert [rows(part)[0]["crdc_series_uuid"][:8] for part in parts] == [
        "00000001",
        "00000002",
        "00000010",
    ]
    assert [p.part for p in read(sorted(tmp_path.glob("*"), key=str))] == sorted(
        p.part for p in parts
    )


@given(st.lists(st.integers(0, 99), max_size=8), st.text("ab_", max_size=3))
def test_names_with_numbers_are_in_the_order_of_these(values, name):
    names = sorted((f"{name}{value}.csv" for value in values), key=natural)
    assert names == [f"{name}{value}.csv" for value in sorted(values)]


@given(st.lists(st.text("ab01_", max_size=8), max_size=6))
def test_any_names_have_a_natural_order(names):
    assert sorted(names, key=natural) == sorted(
        names, key=lambda name: (natural(name), 0)
    )


BAD = {
    "a number": (3, RequestError, "path, a table"),
    "bytes": (b"x", RequestError, "path, a table"),
    "a list of numbers": ([1], RequestError, "texts or paths"),
    "a pattern": ("nowhere/*.csv", LookupError, "no file is like"),
    "no file": ("nowhere.s5cmd", StorageError, "cannot be read"),
    "a password": ("s3://user:secret@host/x", RequestError, "manifest"),
}


@pytest.mark.parametrize(("given_", "error", "match"), BAD.values(), ids=BAD)
def test_what_is_no_manifest_is_refused(given_, error, match):
    with pytest.raises(error, match=match):
        read(given_)


def test_an_unknown_kind_is_refused():
    with pytest.raises(RequestError, match="known are lines"):
        read([U], "s5")


@pytest.mark.parametrize("data", [b"\x1f\x8bnot gzip", b"PK\x03\x04not zip", b"BZh9xx"])
def test_what_begins_as_packed_and_is_not_is_an_error(tmp_path, data):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(StorageError, match="cannot be read"):
        list(files(path)[0].blocks())


# Long lists, and what is odd in them.


def test_a_number_of_thousands_of_digits_in_a_header_is_no_number():
    header = f"# Total records found: {'1' * 5000}\n# IDC Data Version(s): Version "
    found = lines.read(Given("x", f"{header}{'2' * 5000}\n{U}\n".encode()))
    assert rows(found) == [{"uuid": U}]
    assert found.idc_versions == ()
    assert found.problems == []


def test_a_comment_in_another_encoding_is_a_comment():
    found = lines.read(Given("x", b"# User: Jos\xe9\n" + U.encode()))
    assert (rows(found), found.problems) == ([{"uuid": U}], [])


@pytest.mark.parametrize("patient", ["cd 12", "f0_", "set x", "export 1"])
def test_a_patient_of_any_name_is_not_passed_over(patient):
    found = lines.read(Given("x", patient.encode()), identifier="PatientID")
    assert rows(found) == [{"PatientID": patient}]


def test_half_a_character_is_a_problem_of_its_line():
    found = lines.read_texts(["P1", "P\ud800"], "PatientID")
    assert rows(found) == [{"PatientID": "P1"}]
    assert [p.line for p in found.problems] == [2]


def test_an_upper_case_uuid_does_not_use_up_the_forms():
    upper = [f"s3://idc-open-data/{I.upper()}/*\n"] * 3
    reader = lines._Reader("lines", None)
    reader.feed("".join(upper).encode())
    assert reader._forms == []
    assert reader.listing(None).names.num_rows == 3


DESTINATIONS = [
    "./x",
    '"/a dir/PAT 1/1.2/CT_1.2.3"',
    '"C:\\data\\x y"',
    '"C:\\\\data\\\\x"',
    '"ends in a backslash\\"',
    '"a \\" quote"',
    "'single quoted'",
    '"two" words',
    "two words",
    'half"quoted',
    '""',
    '"é"',
    "é",
    "./{0}/",
    "-n",
    "x # y",
    "x ",
    "a\tb",
    "a\x0bb",
    '"a\rb"',
]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "cp s3://idc-open-data/{0}/* ",
                    "aws s3 cp s3://idc-open-data/{0}/ ",
                    "sync  -c 10 s3://b/{0}/*  ",
                    "cp s3://idc-open-data/{0}/* -c ",
                ]
            ),
            st.sampled_from(DESTINATIONS),
            some_uuids,
        ),
        max_size=12,
    )
)
def test_whatever_the_destination_lines_are_read_as_one_by_one(parts):
    texts = [(start + end).format(uuid) for start, end, uuid in parts]
    found = lines.read(Given("x", "\n".join(texts).encode()))
    singly = [lines.read(Given("x", text.encode())) for text in texts]
    assert rows(found) == [row for each in singly for row in rows(each)]
    assert [(p.line, p.reason) for p in found.problems] == [
        (number, p.reason)
        for number, each in enumerate(singly, 1)
        for p in each.problems
    ]


def test_a_destination_of_its_own_for_each_line_needs_one_form():
    names = [str(uuids_of.UUID(int=i)) for i in range(100)]
    reader = lines._Reader("lines", None)
    for number, name in enumerate(names):
        line = f'cp s3://idc-open-data/{name}/* "/data/P {number}/CT_1.2.{number}"\n'
        reader.feed(line.encode())
    assert len(reader._forms) == 1
    assert reader.listing(None).names.num_rows == 100


uid_lines = st.sampled_from(
    ["1.2.3", "1.2.840.10008.1", "1.02", "1", "x", " 1.2 ", "1." + "2" * 63, "1.2é"]
)


@given(
    st.lists(uid_lines, max_size=20),
    st.sampled_from([None, "SeriesInstanceUID", "PatientID"]),
)
def test_names_alone_are_read_as_one_by_one(given_lines, identifier):
    found = lines.read(Given("x", "\n".join(given_lines).encode()), "lines", identifier)
    singly = [
        lines.read(Given("x", text.encode()), "lines", identifier)
        for text in given_lines
    ]
    assert rows(found) == [row for each in singly for row in rows(each)]
    assert [p.reason for p in found.problems] == [
        p.reason for each in singly for p in each.problems
    ]
