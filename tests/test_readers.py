"""Intake's view, version 2: what is recognised, what is read, what keeps the pin."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import intake
import pandas as pd
import pyarrow as pa
import pydicom
import pytest
import yaml
from api_release import OBJECTS, uuid, write_tables
from dask.base import tokenize
from hypothesis import example, given
from hypothesis import strategies as st
from intake.readers.entry import Catalog
from pyarrow import parquet as pq

from intake_idc import open_idc, open_manifest, open_release, sample_path
from intake_idc.errors import (
    BadCondition,
    EmptySelection,
    IntegrityError,
    ManifestError,
    MirrorError,
    RequestError,
    StorageError,
    TableNotFound,
    UnknownRelease,
)
from intake_idc.readers import (
    DaskIDCInstances,
    IDCCollections,
    IDCManifest,
    IDCSelection,
    IDCTable,
    PandasIDCSeries,
    PandasIDCTable,
)

PATH = str(files("intake_idc.catalogs") / "v2" / "idc.yml")
SAMPLE = {1: 3, 2: 4}
UUID = "75b2fadd-1ba3-5c37-9ecb-b9c15b437031"


@pytest.fixture
def catalog():
    return intake.open_catalog(PATH)


@pytest.fixture
def manifest(tmp_path):
    whole = open_idc(1, tables="sample").all()
    return str(whole.to_manifest(tmp_path / "cohort.s5cmd"))


def in_new_process(code, **environment):
    """Run code that prints one JSON value, where nothing was imported before."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout.splitlines()[-1])


def written(catalog, path):
    """Write a catalog without what Intake adds about the file it came from."""
    for name in ("CATALOG_DIR", "CATALOG_PATH", "STORAGE_OPTIONS"):
        catalog.user_parameters.pop(name, None)
    catalog.to_yaml_file(str(path))
    return path


# Recognising.


def test_a_manifest_is_recognised_by_who_never_imported_this_package():
    code = (
        "import intake, json, sys\n"
        "found = [c.qname() for c in intake.recommend('cohort.s5cmd')]\n"
        "ours = sorted(m for m in sys.modules if m.startswith('intake_idc.'))\n"
        "print(json.dumps([found, ours]))"
    )
    found, ours = in_new_process(code)
    assert found == ["intake_idc.readers:IDCManifest"]
    assert ours == ["intake_idc._version", "intake_idc.readers"]


def test_importing_intake_imports_three_small_modules_more():
    code = "import intake, json, sys; print(json.dumps(sorted(sys.modules)))"
    within = set(in_new_process(code))
    without = set(in_new_process(code, INTAKE_IMPORT_BLOCK_LIST="['intake_idc']"))
    assert within - without == {
        "intake_idc",
        "intake_idc._version",
        "intake_idc.readers",
    }
    heavy = {"dask", "pandas", "pyarrow", "pydicom", "s3fs", "gcsfs", "duckdb"}
    assert not heavy & within


def test_the_readers_may_be_imported_before_intake():
    code = (
        "import intake_idc.readers, intake, json\n"
        "print(json.dumps([c.__name__ for c in intake.recommend('a.s5cmd')]))"
    )
    assert in_new_process(code) == ["IDCManifest"]


@pytest.mark.parametrize("name", ["a.s5cmd", "A.S5CMD", "s3://b/c/a.s5cmd.gz"])
def test_a_manifest_is_recognised_by_its_name(name):
    assert intake.readers.datatypes.recommend(name, head=False) == [IDCManifest]


@pytest.mark.parametrize(
    "text",
    [
        f"cp s3://idc-open-data/{UUID}/* .\n",
        f"# a comment\r\ncp s3://idc-open-data/{UUID}/* ./\r\n",
        f"sync gs://public-datasets-idc/{UUID.upper()}/* .",
        f"s3://idc-open-data/{UUID}/*\n",
    ],
    ids=["portal", "comment and CRLF", "google", "bare"],
)
def test_a_manifest_is_recognised_by_its_content(text, tmp_path):
    path = tmp_path / "download.txt"
    path.write_bytes(text.encode())
    assert IDCManifest in intake.recommend(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cp s3://bucket/folder/* .\n",
        f"cp s3://idc-open-data/{UUID}/{UUID}.dcm .\n",
        f"see s3://idc-open-data/{UUID}/*\n",
        "collection_id,SeriesInstanceUID\n",
    ],
    ids=["empty", "another bucket", "an instance", "prose", "CSV"],
)
def test_what_names_no_series_is_not_taken_for_a_manifest(text, tmp_path):
    path = tmp_path / "download.txt"
    path.write_bytes(text.encode())
    assert IDCManifest not in intake.recommend(str(path))


# Reading.


@pytest.mark.parametrize("release", SAMPLE)
def test_a_table_is_that_of_its_release(release):
    data = IDCTable("idc_index", release, tables="sample")
    expected = open_release(release, "sample").index_table("idc_index").to_pandas()
    pd.testing.assert_frame_equal(data.to_reader("pandas").read(), expected)
    assert len(expected) == SAMPLE[release]


def test_a_reader_keeps_the_columns_that_are_named():
    reader = PandasIDCTable(data=IDCTable(tables="sample"), columns=["Modality"])
    assert list(reader.read()) == ["Modality"]
    assert list(reader.read(columns=["PatientID"])) == ["PatientID"]


def test_a_selection_is_the_cohort_of_its_conditions():
    data = IDCSelection({"Modality": ["CT", "MR"]}, 2, tables="sample")
    cohort = open_idc(2, tables="sample").search(Modality=["CT", "MR"])
    assert data.open() == cohort
    pd.testing.assert_frame_equal(data.to_reader("pandas").read(), cohort.df)


def test_conditions_by_column_and_in_sql_all_hold():
    said = [
        {"Modality": ["CT", "MR"]},
        "instanceCount < 4",
        {"Modality": re.compile("T")},
    ]
    data = IDCSelection(said, 2, tables="sample")
    assert len(data.conditions) == 3
    assert data.to_reader("pandas").read()["Modality"].tolist() == ["CT"]


def test_instances_are_read_from_the_sample_and_on_threads():
    data = IDCSelection({"Modality": "CT"}, 2, tables="sample")
    bag = data.to_reader("Bag").read()
    assert bag.map(lambda found: found.header().Modality).compute() == ["CT"] * 3
    assert isinstance(bag.compute()[0].dataset(), pydicom.Dataset)


def test_a_readers_options_are_those_of_to_dask():
    data = IDCSelection({"Modality": "CT"}, 2, tables="sample")
    reader = DaskIDCInstances(data=data, on_error="skip", partition_instances=1)
    assert reader.read().npartitions == 3
    assert reader.read(partition_instances=2).npartitions == 2
    assert len(reader.read().compute()) == 3


def test_everything_is_not_read_unless_it_is_said():
    with pytest.raises(EmptySelection, match="no condition"):
        IDCSelection(tables="sample").to_reader("Bag").read()
    said = IDCSelection("true", 1, tables="sample")
    assert said.to_reader("Bag").read().count().compute() == 7


def test_a_manifest_gives_its_series_in_the_release_that_it_names(manifest):
    data = IDCManifest(manifest, tables="sample")
    assert data.release == 1
    cohort = open_manifest(manifest, tables="sample")
    pd.testing.assert_frame_equal(PandasIDCSeries(data=data).read(), cohort.df)
    read = DaskIDCInstances(data=data).read().compute()
    assert read == cohort.to_dask().compute()
    assert len(read) == 7


def test_lines_that_name_no_series_are_reported_where_that_is_said(manifest):
    with Path(manifest).open("a") as file:
        file.write("rm -rf /\n")
    with pytest.raises(ManifestError, match="cannot be used"):
        IDCManifest(manifest, tables="sample")
    data = IDCManifest(manifest, tables="sample", problems="report")
    assert len(data.to_reader("pandas").read()) == SAMPLE[1]


def test_a_manifest_of_objects_is_told_its_series_by_a_table(tmp_path):
    tables = write_tables(tmp_path / "tables")
    columns = ("crdc_instance_uuid", "crdc_series_uuid", "SOPInstanceUID")
    rows = [{column: row[column] for column in columns} for row in OBJECTS[:4]]
    objects = str(tmp_path / "objects.parquet")
    pq.write_table(pa.Table.from_pylist(rows), objects)
    path = tmp_path / "objects.txt"
    path.write_text(f"dg.4DFC/{uuid('object', 1, 2)}\n")
    places = {"tables": str(tables), "objects": objects}
    data = IDCManifest(path, kind="drs", **places)
    for again in (data, pickle.loads(pickle.dumps(data))):
        assert again.open().keys() == ["1.2.1.1"]
        assert again.open().counts()["instances"] == 1
    with pytest.raises(RequestError, match="drs is true or false"):
        IDCManifest(path, drs="https://example.org", **places)
    with pytest.raises(RequestError, match="credentials"):
        IDCManifest("bigquery://project.dataset.table")
    digest = hashlib.sha256((tables / "idc_index.parquet").read_bytes()).hexdigest()
    assert IDCManifest(path, digest=digest, **places).release == 25
    with pytest.raises(IntegrityError, match="SHA-256"):
        IDCManifest(path, digest="0" * 64, **places)


@pytest.mark.parametrize("make", [IDCTable, IDCSelection], ids=["table", "selection"])
def test_tables_must_have_the_digest_that_is_said(make):
    table = (sample_path() / "tables" / "idc_index.parquet").read_bytes()
    right = hashlib.sha256(table).hexdigest()
    assert make(tables="sample", digest=right).open().idc_version == 2
    with pytest.raises(IntegrityError, match="SHA-256"):
        make(tables="sample", digest="0" * 64)


def test_a_mirror_is_that_of_the_cohort(bucket_root):
    url = f"{bucket_root}/{{aws_bucket}}"
    for mirror in (url, {"mirror": url, "engine": "fsspec"}):
        data = IDCSelection({"Modality": "CT"}, 2, tables="sample", mirror=mirror)
        assert data.open().mirror.root == url
        assert len(data.to_reader("Bag").read().compute()) == 3


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: IDCTable(release=99), UnknownRelease),
        (lambda: IDCSelection({"Modality": "CT"}, 99), UnknownRelease),
        (lambda: IDCSelection("1; drop table x"), BadCondition),
        (lambda: IDCSelection({}), EmptySelection),
        (lambda: IDCSelection(mirror="nowhere"), MirrorError),
        (
            lambda: IDCSelection(
                mirror={"mirror": "aws", "storage_options": {"secret": "s"}}
            ),
            MirrorError,
        ),
        (lambda: IDCManifest("/no/such.s5cmd"), StorageError),
        (lambda: IDCTable("no_table").to_reader("pandas").read(), TableNotFound),
    ],
    ids=[
        "release", "release of a selection", "two statements", "empty condition",
        "mirror", "secret", "file", "table",
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_as_everywhere(make, error):
    with pytest.raises(error):
        make()


def test_the_collections_of_a_selection_are_a_catalog():
    data = IDCSelection("instanceCount < 4", 2, tables="sample")
    catalog = data.to_reader("Catalog").read()
    assert list(catalog) == ["sample_ct", "sample_seg", "sample_sm"]
    assert catalog.metadata == {"idc_version": 2}
    entry = catalog["sample_ct"]
    assert entry.data.release == 2
    assert entry.data.open() == data.open().search(collection_id=["sample_ct"])
    assert entry.read().count().compute() == 3


def test_a_probe_for_an_attribute_is_answered():
    reader = IDCCollections(data=IDCSelection(release=2, tables="sample"))
    assert reader.sample_ct.data.release == 2
    assert not hasattr(reader, "no_such_collection")
    assert not hasattr(reader, "__no_such_protocol__")


# The pin.


@pytest.mark.parametrize("make", [IDCTable, IDCSelection], ids=["table", "selection"])
def test_current_is_a_number_as_soon_as_it_is_said(make):
    data = make(release="current", tables="sample")
    assert data.release == 2
    assert data == make(release=2, tables="sample")
    assert data.to_entry().kwargs["release"] == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda release: PandasIDCTable(data=IDCTable(release=release)),
        lambda release: DaskIDCInstances(
            data=IDCSelection({"collection_id": "nlst"}, release)
        ),
        lambda release: IDCCollections(data=IDCSelection(release=release)),
    ],
    ids=["table", "instances", "collections"],
)
def test_pickle_token_and_yaml_carry_the_release(make, tmp_path):
    old, new = make(23), make(25)
    assert old != new
    assert len({old.token, new.token, old.data.token, new.data.token}) == 4
    assert tokenize(old.data) == tokenize(make(23).data) != tokenize(new.data)

    again = pickle.loads(pickle.dumps(old))
    assert again == old
    assert again.data.release == 23

    kept = Catalog()
    kept["entry"] = old
    path = written(kept, tmp_path / "kept.yml")
    reopened = intake.open_catalog(str(path))["entry"]
    assert type(reopened) is type(old)
    assert reopened.data == old.data
    assert reopened.data.token == old.data.token


def test_a_manifest_keeps_the_release_that_it_was_opened_with(manifest, tmp_path):
    data = IDCManifest(manifest, "current", tables="sample", problems="report")
    assert data.release == 2
    assert pickle.loads(pickle.dumps(data)) == data
    kept = Catalog()
    kept["entry"] = data
    again = intake.open_catalog(str(written(kept, tmp_path / "kept.yml")))["entry"]
    assert again == data
    assert again.release == 2


def test_two_ways_to_say_the_same_are_equal():
    one = IDCSelection(
        {"Modality": "CT", "SeriesDescription": re.compile("a", re.IGNORECASE)}
    )
    other = IDCSelection(
        [
            {"Modality": ["CT"]},
            {"SeriesDescription": {"regex": "a", "flags": ["IGNORECASE"]}},
        ]
    )
    assert one == other
    assert one.token == other.token


@given(st.text(min_size=1))
@example("{func(os:getcwd)}")
@example("{env(HOME)}")
@example("{data(x)}")
@example("{idc_version}")
@example("{CATALOG_DIR}")
@example("[0-9]{2}{x.y!r:>9}")
@example("}{")
def test_a_text_comes_back_from_a_catalog_as_it_was(text):
    kept = Catalog()
    kept["entry"] = data = IDCSelection({"SeriesDescription": text}, 24)
    again = Catalog.from_dict(yaml.safe_load(yaml.safe_dump(kept.to_dict())))
    assert again["entry"] == data
    assert again["entry"].conditions == [{"SeriesDescription": [text]}]


# The shipped catalog.


def test_every_entry_of_the_shipped_catalog_is_read(catalog):
    assert set(catalog) == set(catalog.entries)
    for name in set(catalog) - {"idc", "index", "sample"}:
        assert len(catalog[name].read())
    columns = ["crdc_series_uuid"]
    assert len(catalog.index.read(columns=columns)) == len(open_idc(25))
    assert list(catalog.idc.read()) == open_idc(25).unique("collection_id")
    assert catalog.sample["sample_ct"].read().count().compute() == 3


def test_the_default_release_is_that_of_the_catalog_of_version_1():
    old = yaml.safe_load((files("intake_idc.catalogs") / "idc.yml").read_text())
    new = yaml.safe_load((files("intake_idc.catalogs") / "v2/idc.yml").read_text())
    default = old["sources"]["idc"]["parameters"]["idc_version"]["default"]
    assert new["user_parameters"]["idc_version"]["default"] == default


def test_a_parameter_pins_every_entry(catalog):
    old = catalog(idc_version=20)
    assert old.index.data.release == 20
    assert old.idc["nlst"].data.release == 20
    assert len(old.index.read(columns=["Modality"])) == len(open_idc(20))
    assert catalog.index.data.release == 25
    assert len(catalog(sample_version=1).sample_index.read()) == SAMPLE[1]


def test_no_parameter_has_the_name_of_an_argument(catalog):
    # Intake takes such an argument for the parameter's value, and the class then
    # falls back to the newest release.
    arguments = {name for data in catalog.data.values() for name in data.kwargs}
    assert not arguments & set(catalog.user_parameters)


def test_a_release_that_is_not_known_yet_is_refused_by_the_index_alone(catalog):
    assert catalog.user_parameters["idc_version"].with_default(99).default == 99
    with pytest.raises(UnknownRelease, match="a newer idc-index-data may know it"):
        _ = catalog(idc_version=99)["index"]


@pytest.mark.parametrize("name", ["version", "release"])
def test_another_name_for_the_parameter_reads_nothing(catalog, name):
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        catalog(**{name: 20})["index"].read()


def test_a_choice_is_written_once_it_is_the_default(catalog, tmp_path):
    # Intake's catalog writes its parameters, not what was chosen for them.
    lost = written(catalog(idc_version=20), tmp_path / "lost.yml")
    assert intake.open_catalog(str(lost)).index.data.release == 25

    catalog.user_parameters["idc_version"].set_default(20)
    kept = written(catalog, tmp_path / "kept.yml")
    assert intake.open_catalog(str(kept)).index.data.release == 20


def test_an_entry_that_was_chosen_is_written_with_its_release(catalog, tmp_path):
    chosen = Catalog()
    chosen["index"] = catalog(idc_version=20).index
    path = written(chosen, tmp_path / "chosen.yml")
    assert intake.open_catalog(str(path))["index"].data.release == 20
    assert str(tmp_path) not in path.read_text()


def test_a_nested_catalog_is_pinned_after_it_is_read():
    yaml_file = intake.readers.datatypes.YAMLFile(PATH)
    nested = Catalog()
    nested["idc"] = intake.readers.readers.YAMLCatalogReader(data=yaml_file)
    # What is chosen before goes to the file's reader, and is lost.
    assert nested["idc"](idc_version=20)["index"].data.release == 25
    assert nested["idc"].read()(idc_version=20)["index"].data.release == 20


def test_a_manifest_beside_its_catalog_is_found(manifest, tmp_path):
    url = f"{{CATALOG_DIR}}/{Path(manifest).name}"
    catalog = {
        "version": 2,
        "metadata": {},
        "user_parameters": {},
        "aliases": {"cohort": "cohort"},
        "data": {
            "listed": {
                "datatype": IDCManifest.qname(),
                "kwargs": {"url": url, "tables": "sample"},
                "metadata": {},
                "user_parameters": {},
            }
        },
        "entries": {
            "cohort": {
                "reader": PandasIDCSeries.qname(),
                "kwargs": {"data": "{data(listed)}"},
                "output_instance": PandasIDCSeries.output_instance,
                "metadata": {},
                "user_parameters": {},
            }
        },
    }
    path = tmp_path / "cohort.yml"
    path.write_text(yaml.safe_dump(catalog))
    assert len(intake.open_catalog(str(path)).cohort.read()) == SAMPLE[1]
