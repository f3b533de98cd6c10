"""Clinical tables: the dictionary, the rows of a release, and a cohort's patients."""

from __future__ import annotations

import pickle
import shutil
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from intake_idc import (
    clinical_tables,
    open_clinical,
    open_idc,
    open_manifest,
    open_release,
    sample_path,
)
from intake_idc.errors import (
    IntegrityError,
    RequestError,
    TableNotFound,
    UnknownRelease,
    UnknownValue,
)
from intake_idc.export.clinical import PATIENT

INDEX = pa.schema(
    [
        ("collection_id", pa.string()),
        ("table_name", pa.string()),
        ("short_table_name", pa.string()),
        ("column", pa.string()),
        ("column_label", pa.string()),
        (
            "values",
            pa.list_(
                pa.struct(
                    [("option_code", pa.string()), ("option_description", pa.string())]
                )
            ),
        ),
    ]
)
VERSION = 20


def entry(collection, table, column, label=None, codes=()):
    return {
        "collection_id": collection,
        "table_name": f"bigquery-public-data.idc_v25_clinical.{table}",
        "short_table_name": table,
        "column": column,
        "column_label": label,
        "values": [{"option_code": c, "option_description": d} for c, d in codes],
    }


DICTIONARY = [
    entry("one", "one_clinical", PATIENT, "identifier"),
    entry("one", "one_clinical", "sex", "Sex", [("1", "male"), ("2", "female")]),
    entry("one", "one_clinical", "stage", "Stage", [("I", "early"), ("IV", "late")]),
    entry("one", "one_clinical", "grade", None, [("1.0", "low"), ("2.0", "high")]),
    entry("one", "one_clinical", "dose", None, [("1", "low"), ("2.5", "high")]),
    entry("one", "one_clinical", "site", "Site", [("lung", None), ("liver", None)]),
    entry(
        "one", "one_clinical", "odd", None, [("1", "yes"), ("1", "no"), ("1.0", "so")]
    ),
    entry("one", "one_clinical", "age", "Age in years"),
    entry("one", "one_followup", PATIENT),
    entry("two", "two_clinical", PATIENT, "identifier"),
    entry("one", "shared_clinical", PATIENT),
    entry("two", "shared_clinical", PATIENT),
]
ROWS = pa.table(
    {
        PATIENT: ["P1", "P1", "P2", "P9", None, "P3"],
        "sex": pa.array([1, 1, 2, 3, None, 2], pa.int64()),
        "stage": ["I", "IV", "I", "X", None, ""],
        "grade": pa.array([1.0, 2.0, 2.0, 2.5, None, 1.0]),
        "dose": pa.array(
            [Decimal("1.000000000"), Decimal("2.500000000"), None, None, None, None],
            pa.decimal128(38, 9),
        ),
        "site": ["lung", "liver", "brain", None, "lung", "lung"],
        "odd": ["1", "1", "2", None, None, None],
        "age": pa.array([60, 61, None, 3, 4, 5], pa.int64()),
        "source_batch": pa.array([0] * 6, pa.int64()),
    }
)
SERIES = [
    ("one", "P1", "CT"),
    ("one", "P1", "MR"),
    ("one", "P2", "CT"),
    ("one", "P4", "CT"),
    # The same identifier in another collection is another patient.
    ("two", "P1", "CT"),
    ("two", "P9", "CT"),
    ("three", "P3", "CT"),
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Index tables of made-up collections, with a dictionary among them."""
    folder = tmp_path_factory.mktemp("tables")
    for path in (sample_path() / "tables").glob("*.parquet"):
        shutil.copy(path, folder)
    first = pq.read_table(folder / "idc_index.parquet")
    rows = []
    for i, (collection, patient, modality) in enumerate(SERIES):
        rows.append(
            first.to_pylist()[0]
            | {
                "collection_id": collection,
                "PatientID": patient,
                "Modality": modality,
                "SeriesInstanceUID": f"1.2.{i}",
                "StudyInstanceUID": f"1.2.{i}",
                "crdc_series_uuid": f"00000000-0000-0000-0000-00000000000{i}",
                "series_init_idc_version": 1,
                "series_revised_idc_version": 1 if i else VERSION,
            }
        )
    pq.write_table(
        pa.Table.from_pylist(rows, first.schema), folder / "idc_index.parquet"
    )
    (folder / "version_metadata_index.parquet").unlink(missing_ok=True)
    index = pa.Table.from_pylist(DICTIONARY, INDEX)
    pq.write_table(index, folder / "clinical_index.parquet")
    return folder


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    for name, table in {
        "one_clinical": ROWS,
        "two_clinical": ROWS.drop_columns([PATIENT]),
        "shared_clinical": ROWS,
    }.items():
        folder = root / "bigquery_export" / f"idc_v{VERSION}_clinical" / name
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "000000000000.parquet")
    return root


@pytest.fixture
def release(tables):
    return open_release(tables=tables)


@pytest.fixture
def cohort(tables):
    return open_idc(tables=tables)


# The dictionary.


def test_the_tables_are_listed_with_their_collections(release):
    found = clinical_tables(idc_version=release)
    assert [(t.name, t.collections) for t in found] == [
        ("one_clinical", ("one",)),
        ("one_followup", ("one",)),
        ("shared_clinical", ("one", "two")),
        ("two_clinical", ("two",)),
    ]
    assert [t.name for t in clinical_tables("two", release)] == [
        "shared_clinical",
        "two_clinical",
    ]


def test_a_table_is_described_by_labels_and_codes(release):
    table = clinical_tables("one", release)[0]
    by_name = {column.name: column for column in table.columns}
    assert by_name["sex"].label == "Sex"
    assert by_name["sex"].codes == (("1", "male"), ("2", "female"))
    assert by_name["sex"].coded
    assert not by_name["site"].coded
    assert not by_name["age"].codes
    assert "1=male, 2=female" in str(table)
    assert "Age in years" in str(table)


def test_a_collection_without_clinical_tables_names_the_nearest(release):
    with pytest.raises(UnknownValue, match="did you mean 'one'"):
        clinical_tables("onee", release)


def test_without_the_dictionary_its_file_is_named():
    with pytest.raises(TableNotFound, match="clinical_index"):
        clinical_tables(idc_version=2, tables="sample")


# A table.


def test_a_table_is_the_rows_as_exported(release, mirror):
    found = open_clinical("one_clinical", release, mirror=mirror)
    assert found.table.equals(ROWS)
    assert len(found) == 6
    assert found.idc_version == VERSION
    assert found.about.collections == ("one",)
    assert not found.unknown
    assert list(found.df.columns) == ROWS.column_names
    assert "one_clinical" in str(found)
    assert "one_clinical" in found._repr_html_()


def test_codes_become_what_they_mean_and_unknown_ones_are_kept(release, mirror):
    found = open_clinical("one_clinical", release, mirror=mirror, decode=True)
    columns = found.table.to_pydict()
    assert columns["sex"] == ["male", "male", "female", "3", None, "female"]
    assert columns["stage"] == ["early", "late", "early", "X", None, ""]
    assert columns["grade"] == ["low", "high", "high", "2.5", None, "low"]
    assert columns["dose"] == ["low", "high", None, None, None, None]
    # What has no description, or two, stays what it is.
    assert columns["site"] == ROWS.column("site").to_pylist()
    assert columns["odd"] == ["1", "1", "2", None, None, None]
    assert columns["age"] == ROWS.column("age").to_pylist()
    assert found.unknown == {
        "sex": {"3": 1},
        "stage": {"X": 1, "": 1},
        "grade": {"2.5": 1},
        "odd": {"1": 2, "2": 1},
    }
    assert "unknown codes of sex" in str(found)


@pytest.mark.parametrize("version", [1, 2, 10])
def test_an_early_release_has_no_clinical_tables(tables, mirror, version):
    with pytest.raises(UnknownRelease, match="from release 11 on"):
        open_clinical("one_clinical", version, tables=tables, mirror=mirror)
    with pytest.raises(UnknownRelease, match="from release 11 on"):
        open_idc(version, tables=tables).clinical("one_clinical", mirror=mirror)


def test_a_release_from_11_on_may_have_them(tables, mirror):
    with pytest.raises(TableNotFound, match="idc_v11_clinical"):
        open_clinical("one_clinical", 11, tables=tables, mirror=mirror)


def test_a_table_that_nobody_knows_names_the_nearest(release, cohort, mirror):
    with pytest.raises(UnknownValue, match="did you mean 'one_clinical'"):
        open_clinical("one_clinicals", release, mirror=mirror)
    with pytest.raises(UnknownValue, match="did you mean 'one_clinical'"):
        cohort.clinical("one_clinicals", mirror=mirror)


def test_a_table_that_is_not_exported_names_what_is(release, mirror):
    with pytest.raises(TableNotFound, match="one_clinical"):
        open_clinical("one_followup", release, mirror=mirror)


# A cohort.


def expected(cohort, collections):
    """Rows whose patient is one of the cohort's in that collection, by hand."""
    patients = {
        (row["collection_id"], row["PatientID"]) for row in cohort.table.to_pylist()
    }
    return [
        {"collection_id": collection, "PatientID": row[PATIENT], **row}
        for row in ROWS.to_pylist()
        for collection in collections
        if (collection, row[PATIENT]) in patients
    ]


@pytest.mark.parametrize(
    ("where", "patients", "matched"),
    [
        ({}, 3, 2),
        ({"Modality": "MR"}, 1, 1),
        ({"PatientID": "P4"}, 1, 0),
        ({"PatientID": ["P1", "P9"]}, 1, 1),
    ],
)
def test_a_cohort_has_the_rows_of_its_patients(
    cohort, mirror, where, patients, matched
):
    asked = cohort.search(**where) if where else cohort.all()
    found = asked.clinical("one_clinical", mirror=mirror)
    assert found.table.to_pylist() == expected(asked, ["one"])
    assert (found.patients, found.matched) == (patients, matched)
    assert f"{matched} of {patients} matched" in str(found)


def test_the_same_identifier_in_another_collection_is_not_matched(cohort, mirror):
    found = cohort.all().clinical("one_clinical", mirror=mirror)
    # P9 is a patient of collection two, and P3 of three.
    assert set(found.table.column("PatientID").to_pylist()) == {"P1", "P2"}
    assert set(found.table.column("collection_id").to_pylist()) == {"one"}


def test_a_table_of_two_collections_says_which(cohort, mirror):
    found = cohort.all().clinical("shared_clinical", mirror=mirror)
    assert found.table.to_pylist() == expected(cohort, ["one", "two"])
    assert (found.patients, found.matched) == (5, 4)


def test_a_cohort_of_other_collections_is_refused(cohort, mirror):
    with pytest.raises(RequestError, match="is of one, and no patient"):
        cohort.search(collection_id="three").clinical("one_clinical", mirror=mirror)


def test_the_rows_of_a_cohort_are_decoded(cohort, mirror):
    found = cohort.search(collection_id="one").clinical(
        "one_clinical", decode=True, mirror=mirror
    )
    assert found.table.column("sex").to_pylist() == ["male", "male", "female"]
    assert found.unknown == {"odd": {"1": 2, "2": 1}}


def test_a_manifest_has_clinical_data_too(cohort, mirror, tables, tmp_path):
    asked = cohort.search(collection_id="one")
    path = asked.to_manifest(tmp_path / "c.s5cmd")
    again = open_manifest(path, tables=tables)
    found = again.clinical("one_clinical", mirror=mirror)
    assert found.table.equals(asked.clinical("one_clinical", mirror=mirror).table)


def test_a_table_without_patients_is_an_error(cohort, mirror):
    with pytest.raises(IntegrityError, match=PATIENT):
        cohort.all().clinical("two_clinical", mirror=mirror)


def test_rows_of_a_clinical_table_pickle(release, mirror):
    found = open_clinical("one_clinical", release, mirror=mirror, decode=True)
    again = pickle.loads(pickle.dumps(found))
    assert again.table.equals(found.table)
    assert again.unknown == found.unknown
