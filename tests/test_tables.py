"""Tables: from any package generation and any place, fetched whole or not at all."""

from __future__ import annotations

import hashlib
import http.server
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from intake_idc import cache, find_column, open_idc, open_release, sample_path
from intake_idc.errors import (
    IntegrityError,
    RequestError,
    StorageError,
    TableNotFound,
    UnknownColumn,
    UnknownRelease,
)
from intake_idc.release.facts import published_tables, published_wheels
from intake_idc.release.tables import find_tables
from intake_idc.selection import Selection

EVERYTHING = Selection()
MODERN = ("series_init_idc_version", "series_revised_idc_version")
IMAGE = ("SOPClassUID", "sop_class_name", "TransferSyntaxUID", "transfer_syntax_name")
PIXELS = ("PhotometricInterpretation", "PixelRepresentation")
TOLD = [
    "collection_id",
    "PatientID",
    "SeriesInstanceUID",
    "crdc_series_uuid",
    "aws_bucket",
    "license_short_name",
    "SeriesDescription",
]
"""Some of what every generation can tell."""


@pytest.fixture(scope="module")
def today() -> pa.Table:
    """A few collections as the installed package has them, slides among them."""
    few = ["rider_pilot", "tcga_brca", "phantom_fda"]
    cohort = open_idc(25).search(collection_id=few)
    return cohort.table.drop_columns(["row_source"])


def of_17(table: pa.Table) -> pa.Table:
    """Lay rows out as packages 17.0.2 to 19 do: the uuid only inside the URL."""
    older = table.drop_columns(
        [*MODERN, *IMAGE, *PIXELS, "crdc_series_uuid", "aws_bucket"]
    )
    rounded = pc.round(older.column("series_size_MB"), 2)
    place = older.column_names.index("series_size_MB")
    return older.set_column(place, "series_size_MB", rounded)


def of_23(table: pa.Table) -> pa.Table:
    """Lay rows out as package 23 does: the slides of tcga_brca counted twice."""
    connection = duckdb.connect()
    connection.register("today", table.drop_columns([*MODERN, *PIXELS]))
    connection.execute(
        "CREATE MACRO twice(collection, modality) AS CASE WHEN "
        "collection = 'tcga_brca' AND modality = 'SM' THEN 2 ELSE 1 END"
    )
    return connection.sql(
        "SELECT * REPLACE ("
        "(instanceCount * twice(collection_id, Modality))::BIGINT AS instanceCount, "
        "series_size_MB * twice(collection_id, Modality) AS series_size_MB) FROM today"
    ).to_arrow_table()


def write_csv(table: pa.Table, folder: Path) -> None:
    """Write the index as package 17.0.0 has it."""
    number = pa.array(range(len(table)), pa.int64())
    text = pa.BufferOutputStream()
    csv.write_csv(table.add_column(0, "", number), text)
    with zipfile.ZipFile(folder / "idc_index.csv.zip", "w") as archive:
        archive.writestr("idc_index.csv", text.getvalue().to_pybytes())


def package(
    folder: Path, version: str, table: pa.Table, *, zipped: bool = False
) -> Path:
    """Write a package of an older generation, and give its folder."""
    inner = folder / "idc_index_data"
    inner.mkdir(parents=True)
    (inner / "_version.py").write_text(f'version = "{version}"\n')
    if zipped:
        write_csv(table, inner)
    else:
        pq.write_table(table, inner / "idc_index.parquet")
    return folder


def wheel(folder: Path, version: str) -> Path:
    """Pack a package's folder as a wheel."""
    path = folder.parent / f"idc_index_data-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (folder / "idc_index_data").iterdir():
            archive.write(file, f"idc_index_data/{file.name}")
    return path


GENERATIONS: dict[str, tuple[str, Callable[[pa.Table], pa.Table], bool]] = {
    "a CSV in a ZIP": ("17.0.99", of_17, True),
    "the uuid inside the URL": ("19.0.99", of_17, False),
    "slides counted twice": ("23.0.99", of_23, False),
}


@pytest.mark.parametrize("place", ["folder", "package folder", "wheel", "wheel URL"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_of_packages_reads_alike(generation, place, today, tmp_path):
    version, layout, zipped = GENERATIONS[generation]
    root = package(tmp_path / "site", version, layout(today), zipped=zipped)
    spec = {
        "folder": str(root / "idc_index_data"),
        "package folder": str(root),
        "wheel": str(wheel(root, version)),
        "wheel URL": f"file://{wheel(root, version)}",
    }[place]
    release = open_release(tables=spec)
    assert release.idc_version == int(version.split(".")[0])
    assert release.published
    assert version in release.source
    assert release.table(TOLD, EVERYTHING).equals(today.select(TOLD))
    sizes = dict(release.rows(["crdc_series_uuid", "series_size_MB"], EVERYTHING))
    counts = dict(release.rows(["crdc_series_uuid", "instanceCount"], EVERYTHING))
    for row in today.to_pylist():
        uuid = row["crdc_series_uuid"]
        assert sizes[uuid] == pytest.approx(row["series_size_MB"], abs=0.0051)
        assert counts[uuid] == row["instanceCount"]
    again = pickle.loads(pickle.dumps(release))
    assert again == release
    assert again.pin == release.pin


def test_sizes_that_are_not_to_the_byte_are_not_held_against_a_listing(today, tmp_path):
    rounded = package(tmp_path / "a", "19.0.99", of_17(today))
    halved = package(tmp_path / "b", "23.0.99", of_23(today))
    for root, inexact in ((rounded, len(today)), (halved, 3111)):
        parts = list(open_idc(tables=root).all().manifest().parts())
        loose = [part for part in parts if part.size_tolerance]
        assert len(loose) == pytest.approx(inexact, rel=0.02)
        assert all(part.size_tolerance == 5_000 for part in loose)


def test_slides_that_are_not_counted_twice_stay_as_they_are(today, tmp_path):
    table = today.drop_columns([*MODERN, *PIXELS])
    slides = pc.and_(
        pc.equal(table.column("collection_id"), "tcga_brca"),
        pc.equal(table.column("Modality"), "SM"),
    )
    counts = table.filter(slides).column("instanceCount").to_pylist()
    assert any(count % 2 for count in counts)
    root = package(tmp_path / "site", "23.0.98", table)
    found = open_idc(tables=root).search(collection_id="tcga_brca", Modality="SM")
    assert found.counts()["instances"] == sum(counts)


def test_what_an_older_package_does_not_say_is_not_made_up(today, tmp_path):
    root = package(tmp_path / "site", "19.0.99", of_17(today))
    with pytest.raises(UnknownColumn, match="SOPClassUID"):
        len(open_idc(tables=root).search(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))
    with pytest.raises(TableNotFound, match="prior_versions_index"):
        open_release(18, root)


def test_collections_of_23_are_spelt_as_today(tmp_path, today):
    root = package(tmp_path / "site", "23.0.99", of_23(today))
    kind = pa.list_(
        pa.struct(
            {
                "Access": pa.string(),
                "Citation": pa.string(),
                "ImageTypes": pa.string(),
                "license": pa.struct({"license_short_name": pa.string()}),
                "source_doi": pa.string(),
                "source_url": pa.string(),
            }
        )
    )
    source = {
        "Access": "Public",
        "Citation": "Somebody, A title.",
        "ImageTypes": "CT",
        "license": {"license_short_name": "CC BY 4.0"},
        "source_doi": "10.1/x",
        "source_url": "https://doi.org/10.1/x",
    }
    columns = {
        "collection_name": pa.array(["RIDER"]),
        "collection_id": pa.array(["rider_pilot"]),
        "CancerTypes": pa.array(["Lung"]),
        "Program": pa.array(["TCIA"]),
        "Sources": pa.array([[source]], kind),
    }
    pq.write_table(
        pa.table(columns), root / "idc_index_data" / "collections_index.parquet"
    )
    table = open_release(tables=root).index_table("collections_index")
    assert table.column_names == [
        "collection_name",
        "collection_id",
        "cancer_types",
        "program_id",
        "sources",
    ]
    given = table.column("sources").to_pylist()[0][0]
    assert given["citation"] == "Somebody, A title."
    assert given["source_doi"] == "10.1/x"
    assert given["license"] == {"license_short_name": "CC BY 4.0"}
    assert given["source_title"] is None


def test_a_bare_index_is_known_by_its_series(tmp_path):
    index = open_release(24).table(["crdc_series_uuid", "aws_bucket"], EVERYTHING)
    pq.write_table(index, tmp_path / "idc_index.parquet")
    assert open_release(tables=tmp_path).idc_version == 24
    other = tmp_path / "fewer"
    other.mkdir()
    pq.write_table(index.slice(1), other / "idc_index.parquet")
    with pytest.raises(TableNotFound, match="neither its own release"):
        open_release(tables=other)


def test_a_wheel_that_is_not_the_published_one_is_refused(today, tmp_path):
    name, _ = next(iter(published_wheels().items()))
    version = name.split("-")[1]
    root = package(tmp_path / "site", version, of_17(today))
    forged = wheel(root, version)
    assert forged.name == name
    with pytest.raises(IntegrityError, match="published package"):
        open_release(tables=str(forged))


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("idc-index-data==twenty", TableNotFound, "idc-index-data==25.0.5"),
        ("no-such-package.whl", TableNotFound, "a wheel is named"),
        ("idc_index_data-20.9.9-py3-none-any.whl", StorageError, "cannot be read"),
        ("no/such/folder", TableNotFound, "there is no folder .*idc_index.parquet"),
        ("http://127.0.0.1:9/tables", StorageError, "cannot be read"),
    ],
)
def test_a_place_without_tables_says_what_is_expected(spec, error, said):
    with pytest.raises(error, match=said):
        open_release(tables=spec)


# The release's own package.


@pytest.fixture(name="shelf")
def _shelf(tmp_path, today, monkeypatch) -> Path:
    """A folder of one's own with a wheel of release 19."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    root = package(tmp_path / "site", "19.0.99", of_17(today))
    wheel(root, "19.0.99").rename(folder / "idc_index_data-19.0.99-py3-none-any.whl")
    monkeypatch.setenv("INTAKE_IDC_ARTIFACTS", str(folder))
    return folder


@pytest.mark.usefixtures("shelf")
def test_a_release_is_read_from_its_own_package_where_that_is_at_hand(today):
    release = open_release(19)
    assert release.published
    assert release.source == "idc-index-data 19.0.99"
    assert release.pin["tables"] == "idc-index-data==19.0.99"
    assert len(open_idc(19).all()) == len(today)
    # Another release, and the installed package where it is named, are not moved.
    assert release.at(20).source.endswith(find_tables().package or "?")
    assert not open_release(19, "installed").published
    assert open_release(25).source == open_release().source


@pytest.mark.usefixtures("shelf")
def test_which_source_served_is_part_of_the_pin(monkeypatch):
    own, rebuilt = open_release(19), open_release(19, "installed")
    assert own != rebuilt
    assert own.pin["digest"] != rebuilt.pin["digest"]
    assert own.pin["sureness"] == "rebuilt"  # A part of IDC is not what was published.
    monkeypatch.delenv("INTAKE_IDC_ARTIFACTS")
    assert open_release(19) == rebuilt
    with pytest.raises(TableNotFound, match="INTAKE_IDC_ARTIFACTS"):
        open_release(19, own.pin["tables"])


@pytest.mark.usefixtures("shelf")
def test_a_pickle_keeps_to_what_was_found(monkeypatch):
    own, rebuilt = open_release(19), open_release(19, "installed")
    pickled = pickle.dumps(rebuilt)
    assert pickle.loads(pickle.dumps(own)) == own
    assert pickle.loads(pickled) == rebuilt
    monkeypatch.delenv("INTAKE_IDC_ARTIFACTS")
    assert pickle.loads(pickled) == rebuilt


# Tables on demand.


class Artifacts:
    """A web server that publishes tables, or breaks in ways that servers do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        handler = self._handler()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.served: list[str] = []

    def _handler(self) -> type[http.server.SimpleHTTPRequestHandler]:
        artifacts = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: object, **kwargs: object) -> None:
                super().__init__(*args, directory=str(artifacts.folder), **kwargs)

            def do_GET(self) -> None:
                artifacts.served.append(self.path)
                super().do_GET()

            def log_message(self, *args: object) -> None:
                del args

        return Handler

    def __enter__(self) -> Artifacts:  # noqa: PYI034  (Python 3.10 has no Self)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def cache_folder(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(folder))
    return folder


@pytest.fixture
def artifacts(
    tmp_path,
    cache_folder,  # noqa: ARG001
    monkeypatch,
) -> Iterator[Artifacts]:
    """The CT table of the installed package, published as IDC does."""
    version = find_tables().package
    folder = tmp_path / "published" / str(version) / "release_artifacts"
    folder.mkdir(parents=True)
    ct = open_idc(25).search(collection_id="rider_pilot", Modality="CT")
    uids = ct.keys()
    table = pa.table({"SeriesInstanceUID": uids, "SliceThickness": [1.25] * len(uids)})
    pq.write_table(table, folder / "ct_index.parquet")
    with Artifacts(tmp_path / "published") as server:
        monkeypatch.setenv("INTAKE_IDC_ARTIFACTS", server.url)
        yield server


def publish(artifacts: Artifacts, data: bytes | None = None) -> Path:
    """Put a side-car beside the table, and other bytes in its place if asked."""
    path = next(artifacts.folder.rglob("ct_index.parquet"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    if data is not None:
        path.write_bytes(data)
    return path


def test_a_table_that_a_package_leaves_out_is_fetched_once(artifacts, cache_folder):
    publish(artifacts)
    cohort = open_idc(25).search(collection_id="rider_pilot")
    found = cohort.index_table("ct_index", ["SeriesInstanceUID", "SliceThickness"])
    assert found.num_rows == 172
    assert set(found.column("SliceThickness").to_pylist()) == {1.25}
    fetched = [path for path in artifacts.served if path.endswith("ct_index.parquet")]
    assert len(fetched) == 1
    assert len(open_release(25).index_table("ct_index")) == 172
    assert [path for path in artifacts.served if path.endswith("x.parquet")] == fetched
    assert not list(cache_folder.rglob("*.part"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!doctype html><title>Sign in</title>", "not a whole Parquet file"),
        (b"PAR1" + b"x" * 100 + b"PAR1", "not a whole Parquet file"),
        (b"", "not a whole Parquet file"),
        ("half", "not a whole Parquet file"),
        ("other", "SHA-256"),
    ],
)
def test_what_is_not_the_table_never_comes_to_its_name(
    data, said, artifacts, cache_folder
):
    path = publish(artifacts)
    whole = path.read_bytes()
    if data == "half":
        data = whole[: len(whole) // 2]
    elif data == "other":
        data = (sample_path() / "tables" / "idc_index.parquet").read_bytes()
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=said):
        open_release(25).index_table("ct_index")
    assert not list(cache_folder.rglob("ct_index*"))
    path.write_bytes(whole)
    assert open_release(25).index_table("ct_index").num_rows == 172


def test_without_a_network_the_error_says_which_file_to_put_where(
    cache_folder, monkeypatch, artifacts
):
    path = publish(artifacts)
    # No place answers: the user's mirror is a port that nobody listens to.
    monkeypatch.setenv("INTAKE_IDC_ARTIFACTS", "http://127.0.0.1:9")
    monkeypatch.setattr("intake_idc.release.fetching.PUBLISHED", ())
    with pytest.raises(TableNotFound, match="Put the file at") as failed:
        open_release(25).index_table("ct_index")
    named = Path(failed.value.details["path"])
    assert str(cache_folder) in str(named)
    named.parent.mkdir(parents=True, exist_ok=True)
    named.write_bytes(path.read_bytes())
    assert open_release(25).index_table("ct_index").num_rows == 172


def test_a_folder_of_ones_own_serves_without_a_network(artifacts, monkeypatch):
    path = publish(artifacts)
    monkeypatch.setenv("INTAKE_IDC_ARTIFACTS", str(path.parents[2]))
    assert open_release(25).index_table("ct_index").num_rows == 172


def test_all_published_tables_are_known_by_name():
    names = open_release(25).table_names
    assert set(published_tables()) <= set(names)
    assert len(published_tables()) == 17
    with pytest.raises(TableNotFound, match="did you mean 'ct_index'"):
        open_release(25).index_table("ct_indx")
    with pytest.raises(TableNotFound, match="there are: analysis_results_index, "):
        open_release(25).index_table("zzz")


def test_a_table_without_series_is_not_joined_to_a_cohort():
    cohort = open_idc(25).search(collection_id="rider_pilot")
    with pytest.raises(UnknownColumn, match="belong to series"):
        cohort.index_table("version_metadata_index")
    assert cohort.index_table("collections_index").num_rows == 1


# Days.


@pytest.mark.parametrize(
    ("day", "number"),
    [
        ("2020-06-01", 1),
        ("2021-10-23", 6),  # Releases 5 and 6 came out on one day.
        ("2024-02-28", 17),
        ("2024-02-29", 18),
        ("2024-09-01", 19),
    ],
)
def test_a_day_names_the_release_that_was_current(day, number):
    assert open_release(25).at(day).idc_version == number
    assert open_idc(day).idc_version == number
    assert open_idc(25).search(Modality="CT").at(day).idc_version == number


@pytest.mark.parametrize(
    "day", ["2020-05-31", "2024-02-30", "2024-9-1", "yesterday", "9999-12-31"]
)
def test_a_day_without_a_release_is_an_error(day):
    with pytest.raises(UnknownRelease):
        open_release(25).at(day)


def test_two_releases_of_one_process_do_not_get_into_each_other():
    new, old = open_idc(25), open_idc(19)
    assert (len(new.all()), len(old.all())) == (1_044_191, 937_495)
    assert (len(new.all()), len(old.all())) == (1_044_191, 937_495)


# Where is a column?


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("slice thickness", "ct_index.SliceThickness"),
        ("SliceThickness", "ct_index.SliceThickness"),
        ("SeriesInstanceUID", "ann_group_index.SeriesInstanceUID"),
        ("magnetic field", "mr_index.MagneticFieldStrength"),
        ("objective power", "sm_index.ObjectiveLensPower"),
    ],
)
def test_a_column_is_found_by_its_words(words, first):
    found = find_column(words)
    assert str(found[0]) == first
    assert first.split(".")[0] in str(found)
    assert first.split(".")[1] in found._repr_html_()


def test_columns_come_with_what_the_published_schema_says():
    found = {column.table: column for column in find_column("SliceThickness")}
    assert "nominal" in found["ct_index"].description
    assert found["ct_index"].type == "FLOAT"
    assert not found["ct_index"].at_hand
    assert find_column("PatientAge")[0].at_hand
    assert find_column("scan options")[0].repeated


def test_a_wheel_that_unpacks_to_more_than_a_table_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("intake_idc.release.fetching.LARGEST", 1000)
    path = tmp_path / "idc_index_data-19.0.97-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("idc_index_data/idc_index.parquet", b"\0" * 10_000)
    with pytest.raises(IntegrityError, match="unpacks to 10000 bytes"):
        open_release(tables=str(path))


def test_a_pickle_names_the_very_package(monkeypatch):
    pickled = pickle.dumps(open_release(20))
    assert pickle.loads(pickled) == open_release(20)
    assert pickle.loads(pickled).spec is None
    version = find_tables().package
    assert f"idc-index-data=={version}".encode() in pickled
    # Another machine, another package, and no network.
    monkeypatch.setattr("intake_idc.release.fetching.PUBLISHED", ())
    reopen, (number, _, *rest) = open_release(20).__reduce__()
    with pytest.raises(TableNotFound, match=r"idc-index-data 25\.0\.0"):
        reopen(number, "idc-index-data==25.0.0", *rest)


def test_a_column_that_no_table_has_names_the_nearest():
    with pytest.raises(UnknownColumn, match="SliceThickness"):
        find_column("SliceThicknes5")


def test_tables_without_schemas_are_searched_by_their_files():
    assert find_column("modality", "sample").tables == [
        "idc_index",
        "prior_versions_index",
    ]


# What is printed.


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (1, "survivors only"),
        (2, "none were published to compare with"),
        (16, "none were published to compare with"),
        (17, "attributes of release 25"),
        (24, "attributes of release 25"),
    ],
)
def test_a_rebuilt_release_says_so_where_it_is_printed(version, said):
    cohort = open_idc(version).search(Modality="CT")
    assert said in str(cohort)
    assert said in cohort._repr_html_()
    assert "rebuilt" in repr(cohort.release)


def test_a_release_that_was_published_says_nothing_of_rebuilding(shelf):
    assert shelf.is_dir()
    for release in (open_release(25), open_release(19)):
        assert release.published
        assert "rebuilt" not in repr(release)
    assert "rebuilt" not in str(open_idc(19).search(collection_id="rider_pilot"))


def test_a_whole_package_is_fetched_from_where_it_is_published(
    today, tmp_path, cache_folder, monkeypatch
):
    place = tmp_path / "published" / "19.0.98" / "release_artifacts"
    place.mkdir(parents=True)
    prior = open_release(25).index_table("prior_versions_index").slice(0, 10)
    for name, table in (("idc_index", of_17(today)), ("prior_versions_index", prior)):
        pq.write_table(table, place / f"{name}.parquet")
        digest = hashlib.sha256((place / f"{name}.parquet").read_bytes()).hexdigest()
        (place / f"{name}.parquet.sha256").write_text(digest)
    with Artifacts(tmp_path / "published") as server:
        monkeypatch.setenv("INTAKE_IDC_ARTIFACTS", server.url)
        release = open_release(tables="idc-index-data==19.0.98")
        assert release.idc_version == 19
        assert len(open_idc(tables="idc-index-data==19.0.98").all()) == len(today)
        asked = len(server.served)
        assert open_release(19, "idc-index-data==19.0.98") == release
        assert len(server.served) == asked
    # Fetched once, it is at hand: the release is read from it, offline.
    monkeypatch.delenv("INTAKE_IDC_ARTIFACTS")
    assert open_release(19) == release
    assert len(list(cache_folder.rglob("*.parquet"))) == 2


# What changes while a process runs, and what is broken.


def test_a_day_after_a_package_came_out_is_not_answered_by_it(today, tmp_path):
    old = open_release("current", package(tmp_path / "17", "17.0.99", of_17(today)))
    with pytest.raises(UnknownRelease, match="no release 19 in"):
        old.at("2024-09-01")


def test_a_pickle_is_not_opened_with_tables_that_do_not_know_the_release(tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(sample_path() / "tables", tables)
    pickled = pickle.dumps(open_release(2, tables))
    path = tables / "version_metadata_index.parquet"
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    with pytest.raises(UnknownRelease, match="no release 2 in"):
        pickle.loads(pickled)


def test_tables_that_are_replaced_under_a_release_are_not_mixed_with_it(tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(sample_path() / "tables", tables)
    release = open_release(2, tables)
    assert release.table(["Modality"], EVERYTHING).num_rows == 4
    path = tables / "idc_index.parquet"
    one = pq.read_table(path).slice(0, 1)
    pq.write_table(one, tmp_path / "one.parquet")
    (tmp_path / "one.parquet").replace(path)
    with pytest.raises(IntegrityError, match="open the release again"):
        release.table(["Modality"], EVERYTHING)
    assert open_release(2, tables).table(["Modality"], EVERYTHING).num_rows == 1
    assert open_release(2, tables).info.series == 1


def test_a_table_that_is_put_where_the_error_says_is_read(tmp_path):
    shutil.copy(sample_path() / "tables" / "idc_index.parquet", tmp_path)
    release = open_release("current", tmp_path)
    assert release.table(["Modality"], EVERYTHING).num_rows == 4
    with pytest.raises(TableNotFound) as missing:
        open_release(1, tmp_path)
    assert str(tmp_path / "prior_versions_index.parquet") in str(missing.value)
    prior = sample_path() / "tables" / "prior_versions_index.parquet"
    shutil.copy(prior, tmp_path)
    assert open_release(1, tmp_path).table(["Modality"], EVERYTHING).num_rows == 3


def test_a_wheel_that_was_cleared_from_the_cache_is_unpacked_again(
    today, tmp_path, cache_folder
):
    path = wheel(package(tmp_path / "19", "19.0.99", of_17(today)), "19.0.99")
    assert cache.folder() == cache_folder
    release = open_release("current", path)
    assert release.distinct("collection_id")
    cache.clear()
    with pytest.raises(StorageError, match="has gone from"):
        release.distinct("Modality")
    assert open_release("current", path).distinct("Modality")


def test_a_child_of_a_fork_leaves_the_parents_tables_alone():
    release = open_release(2, f"file://{sample_path() / 'tables'}")
    child = subprocess.run(
        [sys.executable, "-c", FORKING, release.spec or ""],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (child.returncode, child.stdout) == (0, "4"), child.stderr


FORKING = """
import os, sys
from intake_idc.release import open_release
release = open_release(2, sys.argv[1])
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(len(release.index_table("idc_index")), end="")
"""


def damaged(method: str, path: Path) -> None:
    """Write a wheel whose index is in the archive, but cannot be taken out."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("idc_index_data/idc_index.parquet", bytes(range(256)) * 90)
    data = bytearray(path.read_bytes())
    local, central = 0, data.index(b"PK\x01\x02")
    if method == "encrypted":
        data[local + 6] |= 1
        data[central + 8] |= 1
    elif method == "unknown":
        data[local + 8] = data[central + 10] = 99
    else:
        start = data.index(b"idc_index.parquet") + len(b"idc_index.parquet")
        data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)


@pytest.mark.parametrize("method", ["encrypted", "unknown", "garbled"])
def test_a_wheel_that_cannot_be_unpacked_is_an_error_of_ours(method, tmp_path):
    path = tmp_path / "idc_index_data-20.0.9-py3-none-any.whl"
    damaged(method, path)
    with pytest.raises(StorageError, match="cannot be read"):
        open_release(20, path)


@pytest.mark.parametrize(
    "place",
    ["~nobody-of-that-name/x", "a\0b", "reference://x", "tar://x::{here}"],
)
def test_a_place_that_cannot_be_one_is_an_error_of_ours(place):
    with pytest.raises((StorageError, TableNotFound), match=r"be read|no folder"):
        open_release(20, place.format(here=__file__))


@pytest.mark.parametrize("digest", [5, ["x"], {"idc_index.parquet": 5}])
def test_a_digest_that_is_none_is_refused(digest):
    with pytest.raises(RequestError, match="digest is SHA-256"):
        open_release(2, "sample", digest)


def test_a_schema_that_is_damaged_is_named(tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(sample_path() / "tables", tables)
    (tables / "idc_index_schema.json").write_text("[1", "utf-8")
    with pytest.raises(IntegrityError, match="not the schema"):
        find_column("modality", tables)


@pytest.mark.parametrize("name", ["b*c", "a[x]", "q?r", "it's, a {folder}"])
def test_a_folder_is_its_name_and_no_pattern(name, tmp_path):
    for folder in (name, "bXc", "ax", "qXr"):
        shutil.copytree(sample_path() / "tables", tmp_path / folder)
    release = open_release(2, tmp_path / name)
    assert release.table(["Modality"], EVERYTHING).num_rows == 4
