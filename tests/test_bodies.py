"""Bodies as cohorts, as catalog entries, and at the command line."""

from __future__ import annotations

import json
import pickle
import re
from contextlib import nullcontext
from pathlib import Path

import intake
import pytest
import yaml
from api_release import uuid, write_export, write_tables

import intake_idc
from intake_idc import open_cohort
from intake_idc.cli import main
from intake_idc.errors import (
    BadBody,
    EmptySelection,
    MirrorError,
    RequestError,
    StorageError,
    TableNotFound,
    UnknownRelease,
    UnknownValue,
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("export"))


def rows_of(answer):
    return answer["manifest"]["manifest_data"]


# Cohorts.


SAVED = {
    "filterSet": {
        "filters": {"collection_id": ["TCGA-LUAD"], "modality": ["ct"]},
        "idc_data_version": "24.0",
    }
}
FORMS = {
    "a body": ({"cohort_def": {"filters": SAVED["filterSet"]["filters"]}, "fields": []}
               | {"counts": True}, 25),
    "a cohort_def": ({"name": "x", "filters": SAVED["filterSet"]["filters"]}, 25),
    "a filterSet": (SAVED["filterSet"], 24),
    "a saved cohort": (SAVED | {"cohort_id": 3, "name": "x"}, 24),
    "an answer": ({"code": 200, "cohort_def": SAVED, "manifest": {}}, 24),
    "a current one": ({"filterSet": {"filters": SAVED["filterSet"]["filters"],
                                     "idc_data_version": "current"}}, 25),
}  # fmt: skip


@pytest.mark.parametrize(("body", "version"), FORMS.values(), ids=FORMS)
def test_a_body_of_any_form_is_a_question_of_its_release(
    tables, tmp_path, body, version
):
    path = tmp_path / "body.json"
    path.write_text(json.dumps(body))
    for given_ in (body, json.dumps(body), path, str(path), path.as_uri()):
        cohort = open_cohort(given_, tables=tables)
        assert cohort.idc_version == version
        assert cohort.keys() == ["1.2.1.1", "1.2.2.3"]
    assert pickle.loads(pickle.dumps(cohort)) == cohort


def test_a_question_can_be_put_to_another_release(tables):
    filters = {"collection_id": ["%kirc"], "Modality": ["C%"], "SeriesNumber": ["1"]}
    cohort = open_cohort({"filters": filters}, tables=tables)
    assert cohort.keys() == cohort.at(24).keys() == ["1.2.3.4"]
    assert cohort.manifest().uuids == [uuid("series", 4)]
    assert cohort.at(24).manifest().uuids == [uuid("series", 44)]
    assert len(cohort.diff(24).revised) == 1


def test_many_names_in_any_case_are_found_without_a_pattern_each(tables):
    names = ["tcga-a", "Tcga-B", "REX"] * 6
    cohort = open_cohort({"filters": {"PatientID": names}}, tables=tables)
    (condition,) = cohort.selection.conditions
    assert set(condition.values) == {"TCGA-A", "TCGA-B", "rex"}
    assert not condition.patterns
    assert len(cohort) == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [("Modality", "xa"), ("SeriesNumber", "77"), ("collection_id", "TCGA-X")],
)
def test_a_value_that_no_series_has_is_an_error_in_any_case(tables, name, value):
    filters = {"Modality": ["CT"], "SeriesNumber": ["1"], "collection_id": ["%kirc"]}
    filters[name] = [*filters[name], value]
    with pytest.raises(UnknownValue, match=f"no series has {name}"):
        open_cohort({"filters": filters}, tables=tables).keys()
    filters[name][-1] += "%"
    assert open_cohort({"filters": filters}, tables=tables).keys() == ["1.2.3.4"]


def test_a_body_that_needs_the_export_is_a_list(tables, export):
    body = {"cohort_def": {"filters": {"SliceThickness_gte": [5]}}, "fields": []}
    body["counts"] = True
    cohort = open_cohort(body, tables=tables, export=export)
    assert cohort.keys() == ["1.2.5.7", "1.2.1.1", "1.2.1.2"]
    for ask in (cohort.at, cohort.diff):
        with pytest.raises(RequestError, match="not a question"):
            ask(24)
    body["cohort_def"]["filters"] = {"SliceThickness_gte": [5000]}
    with pytest.raises(EmptySelection, match="asks for no series of release 25"):
        open_cohort(body, tables=tables, export=export)
    with pytest.raises(TableNotFound, match="dicom_pivot"):
        open_cohort(body, tables=tables)


def test_a_cohort_from_a_body_is_written_down_as_any_other(tables, export, tmp_path):
    filters = {"SliceThickness_gte": [5]}
    for body in ({"filters": filters}, {"filters": {"Modality": ["ct", "s%"]}}):
        cohort = open_cohort(body, tables=tables, export=export)
        assert pickle.loads(pickle.dumps(cohort)) == cohort
        path = cohort.to_catalog(tmp_path / "c.yml")
        again = intake.open_catalog(str(path)).cohort
        assert (again.idc_version, again.keys()) == (25, cohort.keys())
        lock = cohort.lock(tmp_path / "c.lock.json")
        assert intake_idc.open_lock(lock).manifest().uuids == cohort.manifest().uuids


def test_a_release_that_contradicts_the_body_is_refused(tables):
    assert open_cohort(SAVED, idc_version=24, tables=tables).idc_version == 24
    with pytest.raises(RequestError, match=r"release 24, and idc_version=25"):
        open_cohort(SAVED, idc_version=25, tables=tables)
    with pytest.raises(RequestError, match=r"release 24, .*'current' is release 25"):
        open_cohort(SAVED, idc_version="current", tables=tables)
    beyond = {"filterSet": SAVED["filterSet"] | {"idc_data_version": "99.0"}}
    with pytest.raises(UnknownRelease, match="99"):
        open_cohort(beyond, tables=tables)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "holds neither 'cohort_def'"),
        ({"Modality": ["CT"]}, "got 'Modality'"),
        ("[]", "holds neither"),
        ("{", "no JSON"),
        ('{"filters": {"Modality": ["CT"], "Modality": ["MR"]}}', "twice"),
        ("[" * 100_000, "no JSON"),
        ({"filters": {}}, "v2 or v3"),
        ({"filterSet": {}}, "holds 'filters'"),
        ({"filterSet": {"filters": {}, "idc_data_version": "14"}},
         "Supplied idc_data_version '14' is invalid. Query the /versions endpoint"),
        ({"filters": {"Modality": "CT"}}, "not of type 'array'"),
        ({"cohort_def": {"filters": {"x": ["CT"]}}}, "x is not a valid filter."),
        (SAVED | {"filters": {"Modality": ["MR"]}}, "says not which count"),
        ({"cohort_def": SAVED | {"filters": {"Modality": ["MR"]}}},
         "says not which count"),
        ({"filterSet": {"filters": {"Modality": ["CT"]}, "ranges": {}}},
         "'ranges' is an invalid filterSet key"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_no_body_is_refused(body, said):
    with pytest.raises(BadBody, match=re.escape(said)):
        open_cohort(body)


def test_a_filter_set_holds_nothing_else():
    body = SAVED["filterSet"] | {"name": "x"}
    with pytest.raises(BadBody, match="'name' is an invalid filterSet key"):
        open_cohort(body)


def test_a_body_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        open_cohort(tmp_path / "nowhere.json")
    binary = tmp_path / "body.json"
    binary.write_bytes(b"{\xff}")
    with pytest.raises(BadBody, match="UTF-8"):
        open_cohort(binary)


def test_a_body_without_filters_is_all_of_idc_only_if_that_is_said(tables):
    body = {"cohort_def": {}, "fields": [], "counts": True}
    cohort = open_cohort(body, tables=tables)
    with pytest.raises(EmptySelection, match=r"all\(\)"):
        cohort.urls()
    assert len(cohort.all().manifest()) == 8


# Catalogs and the command.


def catalog_of(tmp_path, **arguments):
    entry = {"driver": "idc_cohort", "args": arguments}
    text = yaml.safe_dump(
        {"plugins": {"source": [{"module": "intake_idc"}]}, "sources": {"mine": entry}}
    )
    path = tmp_path / "catalog.yml"
    path.write_text(text)
    return intake.open_catalog(str(path)).mine


@pytest.mark.parametrize("form", ["a mapping", "a path"])
def test_a_catalog_entry_is_a_body_or_a_path_to_one(tmp_path, tables, form):
    body = SAVED
    if form == "a path":
        (tmp_path / "saved.json").write_text(json.dumps(SAVED))
        body = "{{ CATALOG_DIR }}/saved.json"
    source = catalog_of(tmp_path, body=body, tables=str(tables))
    assert source.idc_version == 24
    assert source.cohort.keys() == ["1.2.1.1", "1.2.2.3"]
    assert "idc_version: 24" in source.yaml()
    again = pickle.loads(pickle.dumps(source))
    assert again == source
    assert again.cohort == source.cohort
    narrowed = source.search(PatientID="TCGA-B")
    assert narrowed.cohort.keys() == ["1.2.2.3"]
    assert "body" not in narrowed.yaml()
    assert source.at(25).cohort.keys() == ["1.2.1.1", "1.2.2.3"]
    with pytest.raises(RequestError, match="release 24"):
        source(idc_version=25).cohort.keys()


def test_a_catalog_entry_may_name_the_export(tmp_path, tables, export):
    body = {"filters": {"SliceThickness_gte": [5]}, "name": "thick"}
    source = catalog_of(tmp_path, body=body, tables=str(tables), export=str(export))
    assert (source.idc_version, len(source)) == (25, 3)
    assert source.search(Modality="CT").keys() == ["1.2.5.7", "1.2.1.1"]
    assert source.query("Modality = 'MR'").keys() == ["1.2.1.2"]
    with pytest.raises(RequestError, match="not a question"):
        source.at(24)


def test_a_catalog_entry_has_a_body_or_conditions(tables):
    for more in ({"Modality": "CT"}, {"query": "true"}, {"selection": {"where": []}}):
        with pytest.raises(RequestError, match="either a body or conditions"):
            intake.open_idc_cohort(body=SAVED, tables=str(tables), **more)


def test_a_datatype_of_version_2_takes_a_body(tables, export):
    from intake_idc.readers import IDCSelection, PandasIDCSeries

    data = IDCSelection(body=SAVED, tables=str(tables))
    assert (data.release, data.body) == (24, None)
    assert len(PandasIDCSeries(data).read()) == 2
    thick = {"filters": {"SliceThickness_gte": [5]}}
    data = IDCSelection(body=thick, tables=str(tables), export=str(export))
    assert (data.release, data.body) == (25, thick)
    assert len(PandasIDCSeries(data).read()) == 3


def test_the_places_of_an_entry_hold_in_any_folder(
    tmp_path, monkeypatch, tables, export
):
    from intake_idc.readers import IDCSelection

    (tmp_path / "thick.json").write_text('{"filters": {"SliceThickness_gte": [5]}}')
    monkeypatch.chdir(tmp_path)
    Path("tables").symlink_to(tables)
    Path("export").symlink_to(export)
    for body in ("thick.json", Path("thick.json")):
        places = {"body": body, "tables": Path("tables"), "export": Path("export")}
        source = intake.open_idc_cohort(**places)
        data = IDCSelection(**places)
        monkeypatch.chdir("/")
        said = yaml.safe_load(source.yaml())["sources"]["idc_cohort"]["args"]
        assert said == {
            "body": str(tmp_path / "thick.json"),
            "tables": str(tmp_path / "tables"),
            "export": str(tmp_path / "export"),
            "idc_version": 25,
        }
        for again in (source, pickle.loads(pickle.dumps(source))):
            assert again.cohort.keys() == ["1.2.5.7", "1.2.1.1", "1.2.1.2"]
        assert len(pickle.loads(pickle.dumps(data)).open()) == 3
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("end", ["", "\n"])
def test_json_text_in_an_entry_is_kept_as_data(tables, end):
    text = json.dumps({"filters": {"Modality": ["ct"]}}) + end
    source = intake.open_idc_cohort(body=text, tables=str(tables))
    said = yaml.safe_load(source.yaml())["sources"]["idc_cohort"]["args"]
    assert said["body"] == {"filters": {"Modality": ["ct"]}}
    assert source == intake.open_idc_cohort(body=json.loads(text), tables=str(tables))
    with pytest.raises(BadBody, match="holds neither"):
        intake.open_idc_cohort(body=f"[1]{end}", tables=str(tables))


def test_an_entry_has_a_body_of_its_own(tables):
    body = {"filters": {"Modality": ["ct"]}}
    source = intake.open_idc_cohort(body=body, tables=str(tables))
    before = hash(source)
    body["filters"]["Modality"][0] = "MR"
    assert hash(source) == before
    assert source.cohort.unique("Modality") == ["CT"]
    with pytest.raises(BadBody, match="is no JSON"):
        intake.open_idc_cohort(body={"filters": {"Modality": {"CT"}}})


@pytest.mark.parametrize("text", ["{{ env('HOME') }}%", "{% if 1 %}", "{# CT #}%"])
def test_a_body_is_never_run_as_a_template(tmp_path, tables, text):
    body = {"filters": {"Modality": [text, "CT"]}}
    (tmp_path / "body.json").write_text(json.dumps(body))
    path = str(tmp_path / "body.json")
    for given in (body, json.dumps(body)):
        source = intake.open_idc_cohort(body=given, tables=str(tables))
        with pytest.raises(RequestError, match="template engine"):
            source.yaml()
    source = intake.open_idc_cohort(body=path, tables=str(tables))
    wanted = source.cohort.selection
    for again in (catalog_of(tmp_path, body=path, tables=str(tables)), source.at(24)):
        assert again.cohort.selection == wanted
        assert again(engine="fsspec").cohort.selection == wanted


def test_no_entry_holds_a_secret(tables):
    places = {"tables": str(tables)}
    thick = {"filters": {"SliceThickness_gte": [5]}}
    for more in (
        {"body": "https://user:word@127.0.0.1/body.json"},
        {"body": thick, "export": "https://user:word@127.0.0.1/"},
        {"body": thick, "export": "s3://x?X-Amz-Signature=word"},
    ):
        with pytest.raises(MirrorError):
            intake.open_idc_cohort(**places, **more)
    with pytest.raises(RequestError, match="goes with a body"):
        intake.open_idc_cohort(Modality="CT", export="aws", **places)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def ran(*words, code=0):
        ended = pytest.raises(SystemExit) if code else nullcontext()
        with ended as stopped:
            main(list(map(str, words)))
        assert not code or stopped.value.code == code
        return capsys.readouterr()

    return ran


def test_the_command_answers_page_after_page(run, tmp_path, tables, export):
    body = {"cohort_def": SAVED["filterSet"] | {}, "fields": ["SOPInstanceUID"]}
    del body["cohort_def"]["idc_data_version"]
    (tmp_path / "body.json").write_text(json.dumps(body))
    places = ("--tables", tables, "--export", export)
    answer = json.loads(run("api", "body.json", *places, "--page-size", 3).out)
    assert answer["manifest"]["rowsReturned"] == 3
    token = answer["next_page"]
    rest = json.loads(run("api", "--next-page", token).out)
    assert [row["SOPInstanceUID"] for row in rows_of(answer) + rows_of(rest)] == [
        "1.2.1.1.0", "1.2.1.1.1", "1.2.1.1.2", "1.2.2.3.0", "1.2.2.3.1",
    ]  # fmt: skip


def test_the_command_refuses_a_body_as_the_service_does(run, tmp_path):
    (tmp_path / "body.json").write_text('{"cohort_def": {}, "fields": ["x"]}')
    said = run("api", "body.json", code=2)
    message = "x is not a valid field."
    assert json.loads(said.err) == {"code": 400, "message": message}
    assert said.out == ""
    assert "either the file" in run("api", code=2).err
    assert (
        "--tables does not go"
        in run("api", "--next-page", "x", "--tables", "y", code=2).err
    )
    assert "Invalid next_page token x" in run("api", "--next-page", "x", code=2).err


def test_the_command_selects_a_body(run, tmp_path, tables):
    (tmp_path / "saved.json").write_text(json.dumps(SAVED))
    found = run(
        "select", "saved.json", "--tables", tables, "PatientID=TCGA-A", "--list"
    )
    assert found.out == "1.2.1.1\n"
