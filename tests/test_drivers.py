"""Intake's view: entries, reconfiguring, and every way in which a pin could slip."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import dask
import intake
import pandas as pd
import pyarrow as pa
import pydicom
import pytest
import yaml
from api_release import OBJECTS, uuid, write_tables
from dask.base import tokenize
from pyarrow import parquet as pq

import intake_idc
from intake_idc.drivers import IDCCatalog, IDCCohort, IDCManifest, IDCTable, sources
from intake_idc.errors import (
    ManifestError,
    MirrorError,
    RequestError,
    UnknownRelease,
    UnknownValue,
)

CAT = intake.open_catalog(intake_idc.catalog_path())
OLD = 20
COHORT = {"collection_id": "nlst", "Modality": "SM"}
SERIES = {20: 1_232, 24: 1_259, 25: 1_259}


def reopened(source, tmp_path):
    """Write a source as a YAML catalog and open it again."""
    path = tmp_path / "c.yml"
    path.write_text(source.yaml())
    return intake.open_catalog(str(path))[source.name]


def test_the_shipped_catalog_opens_pinned():
    assert CAT.idc.idc_version == 25
    assert len(CAT.idc) == 179
    assert CAT.sample.idc_version == 2
    assert CAT.index.idc_version == 25


@pytest.mark.parametrize("version", range(1, 26))
def test_each_release_has_a_file_that_nothing_moves(version):
    pinned = CAT[f"v{version}"]
    assert pinned.collections.idc_version == version
    assert pinned.index.idc_version == version
    assert pinned.metadata["idc_version"] == version


def test_no_shipped_file_refuses_a_release_that_is_newer_than_it():
    for path in ("idc", "collections_index", "index"):
        (parameter,) = CAT._entries[path].describe()["user_parameters"]
        assert "allowed" not in parameter
        assert "max" not in parameter
    with pytest.raises(UnknownRelease, match="a newer idc-index-data may know it"):
        CAT.idc(idc_version=99)


def test_the_shipped_catalog_walks_and_describes_itself():
    assert "sample" in CAT.walk(depth=1)
    assert CAT.v20.walk(depth=1).keys() == {"collections", "index", "dicom_all"}
    found = CAT.idc.search("ovarian")
    assert "tcga_ov" in list(found)
    assert "Ovar" in CAT.idc._entries["tcga_ov"].describe()["description"]


@pytest.mark.parametrize(
    "open_it",
    [
        lambda v: CAT.idc(idc_version=v),
        lambda v: intake.open_idc(idc_version=v),
        lambda v: intake.open_catalog(driver="idc", idc_version=v),
        lambda v: CAT[f"v{v}"].collections,
        lambda v: IDCCatalog(idc_version=v),
        lambda v: CAT.idc(idc_version=25)(idc_version=v),
    ],
    ids=["entry", "open_idc", "open_catalog", "pinned file", "class", "chained"],
)
def test_every_door_opens_the_release_that_was_asked_for(open_it):
    catalog = open_it(OLD)
    assert catalog.idc_version == OLD
    assert catalog.nlst(Modality="SM").idc_version == OLD
    assert len(catalog["nlst"](Modality="SM")) == SERIES[OLD]
    assert len(catalog.search(**COHORT)) == SERIES[OLD]
    assert catalog.search(**COHORT).query("series_size_MB > 0").idc_version == OLD


HANDLED = {
    "as it is": lambda s, _: s,
    "called again": lambda s, _: s(),
    "another argument": lambda s, _: s(engine="fsspec")(engine=None),
    "pickled": lambda s, _: pickle.loads(pickle.dumps(s)),
    "written as YAML": reopened,
    "written, opened, called": lambda s, p: reopened(s, p)(engine="fsspec"),
    "pickled twice": lambda s, _: pickle.loads(
        pickle.dumps(pickle.loads(pickle.dumps(s)))
    ),
    "in a Dask worker": lambda s, _: dask.delayed(lambda x: x)(s).compute(
        scheduler="processes"
    ),
}
MADE = {
    "searched": lambda: CAT.idc(idc_version=OLD).search(**COHORT),
    "entry": lambda: CAT.idc(idc_version=OLD).nlst(Modality="SM"),
    "entry by name": lambda: intake.open_idc(idc_version=OLD)["nlst"](Modality=["SM"]),
    "driver": lambda: intake.open_idc_cohort(idc_version=OLD, **COHORT),
    "narrowed": lambda: CAT.idc(idc_version=OLD).nlst.search(Modality="SM"),
    "moved": lambda: CAT.idc.search(**COHORT).at(OLD),
    "pinned file": lambda: CAT.v20.collections.nlst(Modality="SM"),
}


@pytest.mark.parametrize("handle", HANDLED.values(), ids=HANDLED)
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_pin_survives(make, handle, tmp_path):
    source = handle(make(), tmp_path)
    assert source.idc_version == OLD
    assert len(source) == SERIES[OLD]


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_source_is_what_its_arguments_say(make, tmp_path):
    source, again = make(), make()
    pickled = pickle.loads(pickle.dumps(source))
    assert source == again == pickled
    assert hash(source) == hash(pickled)
    assert tokenize(source) == tokenize(pickled)
    assert (pickled.name, pickled.description) == (source.name, source.description)
    assert source != source.at(24)
    assert tokenize(source) != tokenize(source.at(24))
    assert reopened(source, tmp_path).cohort == source.cohort


def test_current_is_a_number_in_every_written_form():
    for source in (
        IDCCohort(**COHORT),
        IDCTable("idc_index"),
        IDCCatalog(),
        intake.open_idc_cohort(idc_version="current", **COHORT),
    ):
        number = source.idc_version
        assert isinstance(number, int)
        assert source._captured_init_kwargs["idc_version"] == number
        assert pickle.loads(pickle.dumps(source)).idc_version == number
    text = IDCCohort(**COHORT).yaml()
    assert yaml.safe_load(text)["sources"]["idc_cohort"]["args"]["idc_version"] >= 25


def test_lists_stay_lists_and_numbers_numbers_through_yaml(tmp_path):
    source = IDCCohort(
        24,
        collection_id=["nlst", "rider_pilot"],
        Modality=["CT", None],
        instanceCount=[1, 2],
    )
    again = reopened(source, tmp_path)
    assert again.selection == source.selection
    assert again == source


def test_patterns_and_sql_are_data_in_yaml(tmp_path):
    source = CAT.idc.search(SeriesDescription=re.compile("chest", re.IGNORECASE)).query(
        "series_size_MB < 5"
    )
    data = yaml.safe_load(source.yaml())["sources"][source.name]["args"]
    assert data["SeriesDescription"] == {"regex": "chest", "flags": ["IGNORECASE"]}
    assert data["query"] == ["series_size_MB < 5"]
    assert len(reopened(source, tmp_path)) == len(source)


def test_the_same_column_twice_is_and_not_instead(tmp_path):
    source = CAT.idc.nlst.search(collection_id=["nlst", "rider_pilot"]).search(
        Modality="SM"
    )
    assert len(source) == SERIES[25]
    assert len(reopened(source, tmp_path)) == SERIES[25]
    narrowed = (
        CAT.idc.search(Modality=["SM", "CT"])
        .search(Modality="SM")
        .search(collection_id="nlst")
    )
    assert len(narrowed) == SERIES[25]


def test_an_entry_of_a_users_catalog_is_parametrised(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(
        """
sources:
  chest:
    driver: idc_cohort
    args:
      idc_version: "{{ idc_version }}"
      collection_id: nlst
      Modality: "{{ Modality }}"
    parameters:
      idc_version: {description: release, type: int, default: 20}
      Modality: {description: kinds, type: list, default: [SM]}
"""
    )
    entry = intake.open_catalog(str(path))
    assert len(entry.chest) == SERIES[20]
    assert entry.chest(idc_version=24)(mirror="gcs").idc_version == 24
    assert len(entry.chest(idc_version=24)) == SERIES[24]
    assert len(entry.chest(Modality=["SM"])) == SERIES[20]
    assert entry.chest(idc_version=24)(Modality=["SM"]).idc_version == 24


GLOBAL = """
metadata:
  version: 1
  parameters:
    idc_version: {description: release, type: int, default: 24}
sources:
  release:
    driver: idc
    args: {idc_version: "{{ idc_version }}"}
  cohort:
    driver: idc_cohort
    args: {idc_version: "{{ idc_version }}", collection_id: nlst, Modality: SM}
  literal:
    driver: idc_cohort
    args: {idc_version: 24, collection_id: nlst, Modality: SM}
    parameters:
      idc_version: {description: release, type: int, default: 24}
"""


def test_a_parameter_of_the_whole_catalog_moves_its_entries_too(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(GLOBAL)
    catalog = intake.open_catalog(str(path))
    assert catalog.release.idc_version == 24
    assert catalog.release(idc_version=OLD).idc_version == OLD
    assert catalog.release(idc_version=OLD).nlst.idc_version == OLD
    assert catalog.cohort(idc_version=OLD)(Modality=["SM"]).idc_version == OLD


def test_a_literal_argument_is_what_intake_makes_of_it_and_says_so(tmp_path):
    # Intake ignores a parameter that no argument uses. The source shows its release.
    path = tmp_path / "mine.yml"
    path.write_text(GLOBAL)
    source = intake.open_catalog(str(path)).literal(idc_version=OLD)
    assert f"release {source.idc_version}" in repr(source)
    assert len(source) == SERIES[source.idc_version]


def test_a_pinned_file_is_moved_by_nothing_but_an_explicit_number():
    pinned = CAT.v24
    assert pinned.index.idc_version == 24
    assert pinned.index(columns=["Modality"]).idc_version == 24
    assert pinned.collections(engine="fsspec").idc_version == 24
    assert pinned.index(idc_version=OLD).idc_version == OLD


def test_what_was_opened_stays_when_the_file_changes(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(GLOBAL)
    catalog = intake.open_catalog(str(path), ttl=None)
    source = catalog.cohort
    path.write_text(GLOBAL.replace("24", "20"))
    assert catalog.cohort.idc_version == source.idc_version == 24
    assert source(Modality=["SM"]).idc_version == 24
    assert CAT.idc.ttl is None


def test_intakes_own_add_keeps_a_source_as_it_is(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("sources: {}\n")
    catalog = intake.open_catalog(str(path))
    catalog.add(CAT.idc(idc_version=OLD).search(**COHORT), name="slides")
    again = intake.open_catalog(str(path)).slides
    assert (again.idc_version, len(again)) == (OLD, SERIES[OLD])


def test_the_reference_lists_what_a_source_hands_on():
    page = Path(__file__).parents[1] / "docs" / "reference" / "catalog.md"
    listed = page.read_text().split("hands these on")[1].split("Everything else")[0]
    verbs = re.findall(r"`(\w+)`", listed)
    assert set(verbs) == sources._COHORT_VERBS
    cohort = intake_idc.open_idc(1, tables="sample")
    assert all(name in dir(cohort) for name in verbs)


# Intake's verbs.


def test_a_source_discovers_reads_and_hands_out_partitions():
    source = CAT.sample.search(Modality=["CT", "MR"])
    found = source.discover()
    assert found["shape"] == (2,)
    assert found["metadata"]["idc_version"] == 2
    assert found["npartitions"] == source.npartitions == 1
    assert all(isinstance(d, pydicom.Dataset) for d in source.read())
    assert len(source.read_partition(0)) == len(source.read()) == 7
    assert [len(part) for part in source.read_chunked()] == [7]
    with pytest.raises(IndexError):
        source.read_partition(1)
    assert source.to_dask(partition_bytes="1 kB").npartitions == 7
    with source as opened:
        assert len(opened) == 2


def test_a_table_reads_and_goes_to_dask():
    table = CAT.index(columns=["SeriesInstanceUID", "Modality"])
    assert table.discover()["shape"] == (1_044_191, 2)
    small = CAT.collections_index(columns=["collection_id"])
    frame = small.read()
    assert isinstance(frame, pd.DataFrame)
    assert frame.shape == (179, 1)
    assert small.to_dask().compute().shape == (179, 1)
    assert small.read_partition(0).equals(frame)
    old = pickle.loads(pickle.dumps(IDCTable("idc_index", 20, columns=["Modality"])))
    assert len(old.read()) == 947_580


def test_a_manifest_is_a_source_with_the_release_of_its_header(tmp_path):
    path = CAT.idc(idc_version=OLD).search(**COHORT).to_manifest(tmp_path / "m.s5cmd")
    source = intake.open_idc_manifest(str(path))
    assert isinstance(source, IDCManifest)
    assert source.idc_version == OLD
    assert len(source) == SERIES[OLD]
    for again in (
        pickle.loads(pickle.dumps(source)),
        reopened(source, tmp_path),
        source(engine="fsspec"),
    ):
        assert again.idc_version == OLD
        assert again.cohort.manifest() == source.cohort.manifest()
    assert len(source.search(Modality="SM")) == SERIES[OLD]
    with pytest.raises(RequestError, match="urlpath"):
        IDCManifest()


def test_a_collection_that_the_release_lacks_is_no_entry():
    with pytest.raises(KeyError):
        CAT.idc["nslt"]
    with pytest.raises(AttributeError):
        _ = CAT.idc.nslt
    assert not hasattr(CAT.idc, "Foo")
    assert not hasattr(CAT.idc.nlst, "foo")
    assert "nlst" in CAT.idc
    with pytest.raises(UnknownValue, match="'SM'"):
        len(CAT.idc.nlst(Modality="SMM"))


def test_a_release_is_written_down_and_opened_again(tmp_path):
    path = str(tmp_path / "all.yml")
    CAT.idc(idc_version=OLD).save(path)
    again = intake.open_catalog(path)
    assert len(again) == len(CAT.idc(idc_version=OLD))
    assert again.nlst(Modality="SM").idc_version == OLD


# A manifest that is no file of its own, or several.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Index tables of eight series, and a table of their objects."""
    tables = write_tables(tmp_path_factory.mktemp("tables"))
    columns = ("crdc_instance_uuid", "crdc_series_uuid", "SOPInstanceUID")
    rows = [{column: row[column] for column in columns} for row in OBJECTS]
    objects = tables / "objects.parquet"
    pq.write_table(
        pa.Table.from_pylist(rows).group_by([*columns]).aggregate([]), objects
    )
    return tables


def entry_of(tmp_path, **arguments):
    """A catalog entry, as somebody writes it."""
    entry = {"driver": "idc_manifest", "args": arguments}
    path = tmp_path / "entry.yml"
    path.write_text(yaml.safe_dump({"sources": {"mine": entry}}))
    return intake.open_catalog(str(path)).mine


LISTED = {
    "uuids of series": ([uuid("series", 4), uuid("series", 1)], None, 2),
    "commands": ([f"cp s3://idc-open-data/{uuid('series', 4)}/* ."], None, 1),
    "UIDs of studies": (["1.2.3", "1.2.1"], "StudyInstanceUID", 4),
    "patients": (["rex", "TCGA-B"], "PatientID", 2),
    "numbers for patients": (["TCGA-D"], "PatientID", 1),
}


@pytest.mark.parametrize(("names", "kind", "count"), LISTED.values(), ids=LISTED)
def test_names_in_an_entry_are_a_manifest(tmp_path, small, names, kind, count):
    said = {"names": names, "tables": str(small)} | ({"kind": kind} if kind else {})
    source = entry_of(tmp_path, **said)
    expected = intake_idc.open_manifest(names, kind=kind, tables=small)
    assert len(source) == count
    for again in (
        source,
        pickle.loads(pickle.dumps(source)),
        reopened(source, tmp_path),
        source(engine="fsspec"),
    ):
        assert again.idc_version == 25
        assert again.cohort.keys() == expected.keys()
    args = yaml.safe_load(source.yaml())["sources"]["mine"]["args"]
    assert (args["names"], args.get("kind"), args["idc_version"]) == (names, kind, 25)
    # The release is the entry's, and not that of the day on which it is read.
    assert entry_of(tmp_path, **said, idc_version=24).idc_version == 24


def test_the_kind_of_a_file_in_an_entry_is_as_it_says(tmp_path, small):
    (tmp_path / "patients.txt").write_text("rex\nTCGA-B\n")
    path = "{{ CATALOG_DIR }}/patients.txt"
    source = entry_of(tmp_path, urlpath=path, kind="PatientID", tables=str(small))
    assert source.cohort.keys() == ["1.2.5.7", "1.2.2.3"]
    assert reopened(source, tmp_path).cohort.keys() == source.cohort.keys()
    with pytest.raises(ManifestError):
        entry_of(tmp_path, urlpath=path, tables=str(small))
    with pytest.raises(RequestError, match="kind"):
        entry_of(tmp_path, urlpath=path, kind="patients", tables=str(small))


def test_several_parts_are_one_manifest(tmp_path, monkeypatch, small):
    header = "SeriesInstanceUID,idc_version\n"
    (tmp_path / "m_Part1.csv").write_text(f"{header}1.2.1.1,25.0\n")
    (tmp_path / "m_Part2.csv").write_text("1.2.3.4,25.0\n")
    monkeypatch.chdir(tmp_path)
    parts = ["m_Part1.csv", Path("m_Part2.csv")]
    for urlpath in (parts, tuple(parts), "m_Part*.csv"):
        source = intake.open_idc_manifest(urlpath, tables=str(small))
        monkeypatch.chdir("/")
        for again in (
            source,
            pickle.loads(pickle.dumps(source)),
            reopened(source, tmp_path),
        ):
            assert again.cohort.keys() == ["1.2.1.1", "1.2.3.4"]
        monkeypatch.chdir(tmp_path)
    one = intake.open_idc_manifest(Path("m_Part1.csv"), tables=str(small))
    assert f"urlpath: {tmp_path / 'm_Part1.csv'}" in one.yaml()


def test_a_table_of_objects_tells_their_series(tmp_path, monkeypatch, small):
    names = [f"dg.4DFC/{uuid('object', 1, place)}" for place in (0, 2)]
    monkeypatch.chdir(small)
    source = intake.open_idc_manifest(
        names=names, objects="objects.parquet", tables=str(small)
    )
    monkeypatch.chdir("/")
    for again in (
        source,
        pickle.loads(pickle.dumps(source)),
        reopened(source, tmp_path),
    ):
        assert again.cohort.counts()["instances"] == 2
        assert again.cohort.keys() == ["1.2.1.1"]
    with pytest.raises(ManifestError, match="objects"):
        intake.open_idc_manifest(names=names, tables=str(small))


REFUSED = {
    "nothing": ({}, "urlpath"),
    "both": ({"urlpath": "x", "names": ["x"]}, "urlpath"),
    "one name": ({"names": "1.2.3"}, "names is a list of texts"),
    "numbers": ({"names": [1, 2]}, "names is a list of texts"),
    "a host": ({"names": ["x"], "drs": "https://example.org"}, "drs is true or false"),
    "a number": ({"names": ["x"], "drs": 1}, "drs is true or false"),
    "BigQuery": ({"urlpath": "bigquery://p.d.t"}, "credentials of whoever reads"),
    "BigQuery among parts": ({"urlpath": ["bigquery://p.d.t"]}, "of this machine"),
    "URLs as parts": ({"urlpath": ["https://a/b", "c"]}, "of this machine"),
    "no parts": ({"urlpath": []}, "of this machine"),
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED)
def test_an_entry_asks_no_host_and_takes_no_credentials(arguments, said):
    with pytest.raises(RequestError, match=said):
        intake.open_idc_manifest(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda url: intake.open_idc_manifest(url, idc_version=25),
        lambda url: intake.open_idc_manifest(names=["x"], objects=url, idc_version=25),
        lambda url: intake.open_idc_lock(url, digest="0" * 64, idc_version=25),
        lambda url: intake.open_idc_cohort(Modality="CT", mirror=url),
        lambda url: intake.open_idc(mirror=url),
    ],
    ids=["manifest", "objects", "lock", "mirror", "catalog"],
)
def test_no_url_in_an_entry_holds_a_secret(make):
    with pytest.raises(MirrorError, match="user name or password"):
        make("https://user:word@127.0.0.1/x")


def test_places_in_an_entry_hold_in_any_folder(tmp_path, monkeypatch, bucket_root):
    folder = intake_idc.sample_path() / "tables"
    (tmp_path / "tables").symlink_to(folder)
    (tmp_path / "mirror").symlink_to(bucket_root / "intake-idc-sample")
    monkeypatch.chdir(tmp_path)
    places = {"tables": Path("tables"), "mirror": Path("mirror")}
    sources = [
        intake.open_idc_cohort(Modality="CT", **places),
        intake.open_idc(**places).search(Modality="CT"),
        intake.open_idc(**places).sample_ct(Modality="CT"),
    ]
    monkeypatch.chdir("/")
    for source in sources:
        for again in (
            source,
            pickle.loads(pickle.dumps(source)),
            reopened(source, tmp_path),
        ):
            said = yaml.safe_load(again.yaml())["sources"][again.name]["args"]
            assert said["tables"] == str(tmp_path / "tables")
            assert said["mirror"] == str(tmp_path / "mirror")
            assert len(again.read()) == 3


def test_a_manifest_source_is_read_from_anywhere(tmp_path, monkeypatch):
    CAT.idc.search(**COHORT).to_manifest(tmp_path / "m.s5cmd")
    monkeypatch.chdir(tmp_path)
    source = intake.open_idc_manifest("m.s5cmd")
    monkeypatch.chdir("/")
    assert len(pickle.loads(pickle.dumps(source))) == SERIES[25]


def test_misuse_is_refused_when_the_source_is_made():
    with pytest.raises(RequestError, match="not a path"):
        intake.open_idc("some/path")
    with pytest.raises(RequestError, match="did you mean 'idc_version'"):
        intake.open_idc_cohort(idc_verison=20, collection_id="nlst")
    with pytest.raises(RequestError, match="list of conditions"):
        intake.open_idc_cohort(selection={"sql": "true"})
    with pytest.raises(MirrorError, match="secret"):
        intake.open_idc_cohort(collection_id="nlst", storage_options={"secret": "x"})
    with pytest.raises(MirrorError):
        intake.open_idc(idc_version=25, engine="curl")


def test_mirrors_are_arguments_that_travel(tmp_path):
    catalog = intake.open_idc(idc_version=25, mirror="gcs", engine="fsspec")
    source = catalog.rider_pilot(Modality="CT")
    assert source.urls()[0].startswith("gs://idc-open-data/")
    assert reopened(source, tmp_path).urls() == source.urls()
    assert source(mirror="aws").urls()[0].startswith("s3://idc-open-data/")


def test_names_from_a_table_are_never_run_as_templates(tmp_path):
    tables = intake_idc.sample_path() / "tables"
    index = pq.read_table(tables / "idc_index.parquet")
    at = index.column_names.index("collection_id")
    evil = "{{ ''.__class__.__mro__ }}"
    column = pa.array([evil, *index.column(at).to_pylist()[1:]], pa.large_string())
    for name in ("prior_versions_index", "version_metadata_index"):
        (tmp_path / f"{name}.parquet").write_bytes(
            (tables / f"{name}.parquet").read_bytes()
        )
    pq.write_table(
        index.set_column(at, "collection_id", column), tmp_path / "idc_index.parquet"
    )
    catalog = intake.open_idc(tables=str(tmp_path))
    assert len(catalog[evil]) == 1
    assert catalog[evil].cohort.unique("collection_id") == [evil]


def test_shown_in_a_notebook_it_is_a_table_of_counts():
    source = CAT.idc.rider_pilot(Modality="CT")
    assert "172" in source._repr_html_()
    assert "rider_pilot" in repr(source)
    assert "release 25" in repr(CAT.idc)
    assert "1,044,191" in CAT.idc._repr_html_()
    assert source._ipython_display_ is None
    assert "counts" in dir(source)


def test_the_built_in_catalog_has_the_release_as_an_entry(monkeypatch):
    monkeypatch.setenv("VIRTUAL_ENV", "/nowhere")
    from intake.catalog.local import EntrypointsCatalog

    entry = EntrypointsCatalog()["idc"]
    assert entry(idc_version=24).idc_version == 24
