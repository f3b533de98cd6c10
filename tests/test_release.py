"""Releases: numbers that hold, sets that are exact, tables from anywhere."""

from __future__ import annotations

import concurrent.futures
import hashlib
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys

import intake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intake_idc import (
    available_releases,
    open_idc,
    open_manifest,
    open_release,
    sample_path,
)
from intake_idc.errors import (
    IntegrityError,
    StorageError,
    TableNotFound,
    UnknownColumn,
    UnknownRelease,
)
from intake_idc.release.facts import exceptions, published
from intake_idc.release.tables import find_tables
from intake_idc.selection import Selection

EVERYTHING = Selection()


@pytest.mark.parametrize("version", range(17, 26))
def test_the_series_of_a_release_are_exactly_those_that_were_published(version):
    rows = open_release(version).rows(["crdc_series_uuid"], EVERYTHING)
    uuids = sorted(row[0] for row in rows)
    assert len(uuids) == published()[version].series
    digest = hashlib.sha256("\n".join(uuids).encode()).hexdigest()
    assert digest == published()[version].sha256


def test_the_list_of_releases_says_how_sure_each_is():
    infos = {info.idc_version: info for info in available_releases()}
    assert infos[25].series == 1_044_191
    assert infos[25].collections == 179
    assert infos[25].date == "2026-09-26"
    assert infos[20].series == 947_580
    sure = {version: info.sureness for version, info in infos.items()}
    assert all(sure[version] == "exact" for version in range(17, 26))
    assert all(sure[version] == "rebuilt" for version in range(2, 17))
    assert sure[1] == "survivors only"


@pytest.mark.parametrize("version", [1, 5, 16, 17, 18, 20, 23, 24, 25])
def test_the_counts_in_the_list_are_those_of_the_rows(version):
    info = open_release(version).info
    counts = open_idc(version).counts()
    assert (info.series, info.collections) == (counts["series"], counts["collections"])
    assert info.size == pytest.approx(counts["bytes"], abs=10)


@pytest.mark.parametrize("version", [17, 20, 24])
def test_a_release_holds_each_series_once(version):
    names = ["crdc_series_uuid", "SeriesInstanceUID"]
    rows = open_release(version).rows(names, EVERYTHING)
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == len(rows)


def test_release_23_has_true_sizes_where_the_published_index_has_doubled_ones():
    slides = open_idc(23).search(collection_id="tcga_brca", Modality="SM")
    assert len(slides) == 3_111
    assert slides.size == pytest.approx(1.719e12, rel=1e-3)
    assert open_idc(23).size == pytest.approx(93.614e12, rel=1e-5)


def test_rows_that_later_releases_superseded_say_so():
    counts = dict(
        open_release(20).aggregate("count(*)", EVERYTHING, group=["row_source"])
    )
    assert set(counts) == {"idc_index", "prior_versions_index"}
    assert sum(counts.values()) == 947_580
    withdrawn = open_idc(17).search(
        PatientID="C3N-04457", row_source="published package"
    )
    assert len(withdrawn) == 5


def test_superseded_rows_carry_todays_attributes_but_no_count():
    old = open_idc(20).search(collection_id="nlst", Modality="SM")
    table = old.search(row_source="prior_versions_index").table
    assert table.num_rows == 933
    assert table.column("instanceCount").null_count == 933
    assert set(table.column("license_short_name").to_pylist()) == {"CC BY 3.0"}


def test_current_is_a_number_at_once():
    release = open_release("current")
    assert release.idc_version == open_release().idc_version >= 25
    again = pickle.loads(pickle.dumps(release))
    assert again == release
    assert hash(again) == hash(release)
    assert again.idc_version == release.idc_version


@pytest.mark.parametrize("version", [0, -1, 9_999, "25", 25.0, True, None])
def test_a_release_that_nobody_knows_is_refused(version):
    with pytest.raises(UnknownRelease, match=r"release|whole number"):
        open_release(version)


def test_releases_stand_side_by_side():
    sizes = {
        v: len(open_idc(v).search(collection_id="rider_pilot")) for v in (19, 25, 20)
    }
    assert sizes == {19: 774, 25: 774, 20: 774}


def test_a_newer_index_is_known_without_a_new_version_of_ours(tmp_path):
    folder = tmp_path / "index"
    shutil.copytree(sample_path() / "tables", folder)
    versions = pa.table(
        {"idc_version": [1, 2, 3], "version_timestamp": ["a", "b", "2027-01-01"]}
    )
    pq.write_table(versions, folder / "version_metadata_index.parquet")
    index = pq.read_table(folder / "idc_index.parquet")
    at = index.column_names.index("series_revised_idc_version")
    revised = pa.array([3, *index.column(at).to_pylist()[1:]], pa.int64())
    pq.write_table(
        index.set_column(at, index.schema.field(at), revised),
        folder / "idc_index.parquet",
    )
    assert open_release(tables=folder).idc_version == 3
    assert len(open_idc(3, tables=folder)) == index.num_rows
    assert len(open_idc(2, tables=folder)) == index.num_rows - 1


def test_an_attribute_column_that_is_new_is_taken_as_it_comes(tmp_path):
    folder = tmp_path / "index"
    shutil.copytree(sample_path() / "tables", folder)
    index = pq.read_table(folder / "idc_index.parquet")
    wider = index.append_column("Laterality", pa.array(["L"] * index.num_rows))
    pq.write_table(wider, folder / "idc_index.parquet")
    for version in (1, 2):
        assert "Laterality" in open_idc(version, tables=folder).df.columns
    assert len(open_idc(2, tables=folder).search(Laterality="L")) == index.num_rows


# The sample is an archive of its own, in two releases.


def test_the_sample_shows_what_a_release_holds():
    assert open_idc(1, tables="sample").unique("collection_id") == [
        "sample_ann",
        "sample_ct",
        "sample_mr",
    ]
    assert open_idc(2, tables="sample").unique("collection_id") == [
        "sample_ct",
        "sample_mr",
        "sample_seg",
        "sample_sm",
    ]


def test_a_difference_tells_added_removed_and_revised_apart():
    difference = open_idc(2, tables="sample").diff(1)
    assert (difference.old, difference.new) == (1, 2)
    assert len(difference.added) == 2
    assert len(difference.removed) == 1
    assert len(difference.revised) == 1
    assert difference.unchanged == 1
    assert open_idc(1, tables="sample").diff(2) == difference
    assert not open_idc(2, tables="sample").diff(2)


def test_a_difference_counts_a_value_that_the_older_release_never_had():
    slides = open_idc(2, tables="sample").search(Modality="SM")
    assert len(slides.diff(1).added) == 1


# Tables from elsewhere.


def test_tables_come_from_a_folder_or_a_url_all_the_same(tmp_path):
    folder = shutil.copytree(sample_path() / "tables", tmp_path / "t")
    archive = shutil.make_archive(str(tmp_path / "w"), "zip", folder)
    expected = open_idc(1, tables="sample").table
    for place in (folder, f"file://{folder}", f"zip://::file://{archive}"):
        assert open_idc(1, tables=place).table == expected


def test_a_known_digest_is_checked(tmp_path):
    folder = shutil.copytree(sample_path() / "tables", tmp_path / "t")
    right = hashlib.sha256((folder / "idc_index.parquet").read_bytes()).hexdigest()
    for place in (folder, f"file://{folder}"):
        assert open_release(2, place, right).idc_version == 2
        with pytest.raises(IntegrityError, match="SHA-256"):
            open_release(2, place, "0" * 64)
    (folder / "idc_index.parquet.sha256").write_text(f"{'1' * 64}  idc_index.parquet\n")
    with pytest.raises(IntegrityError, match="expected 1111"):
        find_tables(f"file://{folder}/.")


def test_a_page_or_half_a_file_is_never_taken_for_a_table(tmp_path):
    folder = shutil.copytree(sample_path() / "tables", tmp_path / "t")
    whole = (folder / "idc_index.parquet").read_bytes()
    for name, data in {"a": b"<html>not found</html>", "b": whole[:-100]}.items():
        place = shutil.copytree(folder, tmp_path / name)
        (place / "idc_index.parquet").write_bytes(data)
        with pytest.raises(IntegrityError, match="whole Parquet"):
            open_release(2, f"file://{place}")


def test_what_is_missing_is_named_with_the_place_it_belongs(tmp_path):
    with pytest.raises(TableNotFound, match=r"idc_index.parquet"):
        open_release(25, tmp_path)
    with pytest.raises(StorageError, match="cannot be read"):
        open_release(25, "nonsense://here")
    shutil.copy(sample_path() / "tables" / "idc_index.parquet", tmp_path)
    assert open_release("current", tmp_path).idc_version == 2
    with pytest.raises(TableNotFound, match=r"prior_versions_index.parquet"):
        open_release(1, tmp_path)
    assert [info.idc_version for info in available_releases(tmp_path)] == [2]


def test_a_table_that_is_not_bundled_says_which_file_to_put_where():
    with pytest.raises(TableNotFound, match=r"ct_index.parquet"):
        open_release(25).index_table("ct_index")
    with pytest.raises(TableNotFound, match="did you mean 'collections_index'"):
        open_release(25).index_table("collection_index")


def test_tables_are_read_by_name_and_column():
    release = open_release(25)
    table = release.index_table("collections_index", ["collection_id", "species"])
    assert table.shape == (179, 2)
    with pytest.raises(UnknownColumn, match="species"):
        release.index_table("collections_index", ["specie"])
    assert "idc_index" in release.table_names


def test_a_broken_table_is_an_error_of_the_tables(tmp_path):
    folder = shutil.copytree(sample_path() / "tables", tmp_path / "t")
    (folder / "idc_index.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(StorageError, match="cannot be read"):
        len(open_idc(2, tables=folder))


def test_a_digest_is_part_of_the_pin(tmp_path):
    folder = shutil.copytree(sample_path() / "tables", tmp_path / "t")
    digest = hashlib.sha256((folder / "idc_index.parquet").read_bytes()).hexdigest()
    cohort = open_idc(2, tables=folder, digest=digest).search(Modality="CT")
    pickled = pickle.dumps(cohort)
    catalog = cohort.to_catalog(tmp_path / "c.yml")
    assert digest in catalog.read_text()
    assert cohort.at(1).release.digest == cohort.release.digest
    assert cohort.release != open_release(2, folder)
    assert intake.open_catalog(catalog)["cohort"].cohort == cohort
    table = pq.read_table(folder / "idc_index.parquet").slice(0, 1)
    pq.write_table(table, folder / "idc_index.parquet")
    for reopen in (
        lambda: pickle.loads(pickled),
        lambda: intake.open_catalog(catalog)["cohort"],
        lambda: cohort.at(1),
    ):
        with pytest.raises(IntegrityError, match="SHA-256"):
            reopen()


def test_a_digest_of_a_table_that_is_not_there_is_an_error():
    with pytest.raises(TableNotFound, match="'nothing'"):
        open_release(2, "sample", {"nothing.parquet": "0" * 64})


def test_series_that_the_tables_forgot_read_back_from_a_manifest(tmp_path):
    forgotten = [row["crdc_series_uuid"] for row in exceptions().published_only]
    cohort = open_idc(17).search(crdc_series_uuid=forgotten)
    assert len(cohort) == len(forgotten) == 8
    again = open_manifest(cohort.to_manifest(tmp_path / "m.s5cmd"))
    assert again.manifest() == cohort.manifest()
    assert again.problems == ()


def test_a_series_that_newer_tables_remember_again_is_there_once(tmp_path):
    row = exceptions().published_only[0]
    folder = shutil.copytree(sample_path() / "tables", tmp_path / "t")
    index = pq.read_table(folder / "idc_index.parquet").to_pylist()
    schema = pq.read_schema(folder / "idc_index.parquet")
    index[0]["collection_id"] = row["collection_id"]
    pq.write_table(pa.Table.from_pylist(index, schema), folder / "idc_index.parquet")
    versions = pa.table({"idc_version": [26], "version_timestamp": ["2027-01-01"]})
    pq.write_table(versions, folder / "version_metadata_index.parquet")
    (version, *_) = row["versions"]
    uuid = row["crdc_series_uuid"]
    assert len(open_idc(version, tables=folder).search(crdc_series_uuid=uuid)) == 1
    prior = pq.read_table(folder / "prior_versions_index.parquet")
    again = {**prior.to_pylist()[0], "crdc_series_uuid": uuid}
    again |= {"min_idc_version": 2, "max_idc_version": 25}
    again["collection_id"] = row["collection_id"]
    folder = shutil.copytree(folder, tmp_path / "newer")
    table = pa.Table.from_pylist([*prior.to_pylist(), again], prior.schema)
    pq.write_table(table, folder / "prior_versions_index.parquet")
    newer = open_idc(version, tables=folder).search(crdc_series_uuid=uuid)
    assert newer.unique("row_source") == ["prior_versions_index"]
    assert len(newer) == 1


# Threads and processes.


def _count(version: int) -> int:
    return len(open_idc(version).search(collection_id="rider_pilot"))


def test_a_cohort_may_be_asked_from_many_threads():
    cohort = open_idc(24).search(collection_id="nlst", Modality=["CT", "SM"])
    expected = (len(cohort), cohort.unique("Modality"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            jobs = [
                pool.submit(lambda: (len(cohort), cohort.unique("Modality")))
                for _ in range(8)
            ]
            assert [job.result() for job in jobs] == [expected] * 8


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork"
)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_opens_a_database_of_its_own():
    assert _count(25) == 774
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_count, (25,)).get(timeout=60) == 774


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_ends_as_any_process_does():
    code = (
        "import os, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from intake_idc import open_idc\n"
        "whole = open_idc(25).search(collection_id='rider_pilot')\n"
        "before = len(whole), whole.table.num_rows\n"
        "child = os.fork()\n"
        "after = len(whole), whole.table.num_rows\n"
        "if child == 0: sys.exit(0 if after == before else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "0\n"
