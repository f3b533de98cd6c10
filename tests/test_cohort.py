"""Cohorts: lazy, chained, pickled, counted."""

from __future__ import annotations

import pickle
import re

import intake
import pandas as pd
import pytest
from dask.base import tokenize

from intake_idc import open_idc, open_manifest
from intake_idc.errors import (
    EmptySelection,
    ManifestError,
    RequestError,
    StorageError,
    UnknownColumn,
    UnknownValue,
)
from intake_idc.formats import Problem

CT = open_idc(25).search(collection_id="rider_pilot", Modality="CT")
SAMPLE = open_idc(2, tables="sample")


def test_counts_are_those_of_the_index():
    assert CT.counts() == {
        "series": 172,
        "instances": 20_481,
        "studies": 32,
        "patients": 8,
        "collections": 1,
        "bytes": 10_835_349_558,
    }
    assert len(CT) == 172
    assert CT.size == 10_835_349_558
    assert CT.licenses() == {"CC BY 4.0": 172}


def test_patients_are_counted_within_their_collection():
    assert open_idc(25).counts()["patients"] == 86_451


def test_a_cohort_equals_the_same_filter_in_pandas():
    index = open_idc(25).search(collection_id=["rider_pilot", "4d_lung"]).df
    cohort = open_idc(25).search(
        collection_id=["rider_pilot", "4d_lung"],
        SeriesDescription=re.compile("gated", re.IGNORECASE),
    )
    mask = index.SeriesDescription.str.contains("gated", case=False, na=False)
    pd.testing.assert_frame_equal(cohort.df, index[mask].reset_index(drop=True))
    assert cohort.keys() == index[mask].SeriesInstanceUID.tolist()
    assert cohort.nunique() == index[mask].nunique().to_dict()


def test_exact_text_finds_what_an_implicit_pattern_would_lose():
    # A star in a description is a star: 144 series, and none for the pattern.
    assert len(open_idc(25).search(SeriesDescription="3-pl T2* FGRE")) == 144


def test_null_is_asked_for_by_none():
    no_age = open_idc(25).search(PatientAge=None)
    assert len(no_age) == 813_038
    assert no_age.unique("PatientAge") == []


def test_conditions_chain_and_nothing_is_asked_before_use():
    cohort = open_idc(25).search(colection_id="x").query("nothing > 1")
    with pytest.raises(UnknownColumn, match="'collection_id'"):
        len(cohort)
    with pytest.raises(UnknownValue, match="'nlst'"):
        open_idc(25).search(collection_id="nslt").keys()


def test_unknown_columns_are_named_wherever_they_are_given():
    for ask in (
        lambda: CT.unique("modality"),
        lambda: CT.manifest(["Modalty"]),
        lambda: CT.rows.distinct("MODALITY"),
    ):
        with pytest.raises(UnknownColumn, match="did you mean 'Modality'"):
            ask()


def test_pickle_hash_and_token_carry_the_question():
    again = pickle.loads(pickle.dumps(CT))
    assert again == CT
    assert hash(again) == hash(CT)
    assert tokenize(again) == tokenize(CT)
    assert len(pickle.dumps(CT)) < 1_000
    assert tokenize(CT.at(24)) != tokenize(CT)
    assert CT.at(24) != CT
    assert CT != "CT"


def test_at_asks_another_release_the_same():
    slides = open_idc(25).search(collection_id="nlst", Modality="SM")
    older = slides.at(20)
    assert (older.idc_version, len(older)) == (20, 1_232)
    difference = slides.diff(20)
    assert (len(difference.added), len(difference.removed)) == (27, 0)
    assert (len(difference.revised), difference.unchanged) == (933, 299)
    assert "revised    933" in str(difference)
    assert "933" in difference._repr_html_()


def test_everything_has_to_be_said():
    whole = open_idc(25)
    assert len(whole) == 1_044_191
    for act in (
        whole.to_dask,
        whole.urls,
        lambda: whole.to_manifest("x.s5cmd"),
        lambda: whole.materialize("x"),
    ):
        with pytest.raises(EmptySelection, match=r"all\(\)"):
            act()
    assert len(SAMPLE.all().urls()) == 4


def test_nothing_selected_is_an_error_before_anything_is_read():
    nothing = SAMPLE.search(Modality="CT").query("instanceCount > 1000")
    assert len(nothing) == 0
    assert nothing.counts()["bytes"] == 0
    with pytest.raises(EmptySelection, match="no series"):
        nothing.datasets()


def test_a_cohort_shows_itself_as_text_and_html():
    assert "172" in str(CT)
    assert "10.84 GB" in str(CT)
    assert "rider_pilot" in repr(CT)
    assert "<table>" in CT._repr_html_()
    odd = open_idc(25).search(SeriesDescription=re.compile("<"))
    assert "<SCRIPT" not in odd._repr_html_().upper()


# Manifests.


def test_a_manifest_reads_back_as_the_same_cohort(tmp_path):
    for cohort in (CT, open_idc(20).search(collection_id="nlst", Modality="SM")):
        for mirror in ("aws", "gcs"):
            path = cohort.to_manifest(tmp_path / "c.s5cmd", mirror=mirror)
            again = open_manifest(path)
            assert again.idc_version == cohort.idc_version
            assert again.manifest() == cohort.manifest()
            assert again.problems == ()
    assert [p.name for p in tmp_path.iterdir()] == ["c.s5cmd"]


def test_a_manifest_is_a_cohort_that_narrows(tmp_path):
    path = (
        open_idc(25)
        .search(collection_id="rider_pilot")
        .to_manifest(tmp_path / "c.s5cmd")
    )
    again = open_manifest(path)
    assert len(again.search(Modality="CT")) == 172
    assert again.search(Modality="CT").manifest() == CT.manifest()
    assert pickle.loads(pickle.dumps(again)) == again
    with pytest.raises(RequestError, match="rows of a manifest"):
        again.at(24)


def test_old_bytes_are_found_by_uuid_whatever_bucket_the_manifest_names(tmp_path):
    old = open_idc(20).search(collection_id="nlst", Modality="SM")
    superseded = old.search(row_source="prior_versions_index").manifest().uuids[:3]
    path = tmp_path / "old.s5cmd"
    lines = (f"cp s3://public-datasets-idc/{uuid}/* .\n" for uuid in superseded)
    path.write_text("".join(lines))
    found = open_manifest(path, idc_version=25)
    assert found.manifest().uuids == superseded
    assert found.unique("aws_bucket") == ["idc-open-data"]
    assert all("its own bytes are taken" in p.reason for p in found.problems)
    assert open_manifest(path, idc_version=20).problems == ()


def test_an_unknown_series_is_never_lost_silently(tmp_path):
    path = tmp_path / "m.s5cmd"
    known = CT.manifest().uuids[0]
    path.write_text(
        f"cp s3://idc-open-data/{known}/* .\n"
        "cp s3://idc-open-data/00000000-0000-4000-8000-000000000000/* .\n"
        "rm s3://idc-open-data/x\n"
    )
    with pytest.raises(ManifestError, match="2 lines cannot be used") as caught:
        open_manifest(path)
    assert [p.line for p in caught.value.problems] == [2, 3]
    kept = open_manifest(path, problems="report")
    assert kept.manifest().uuids == [known]
    assert [p.line for p in kept.problems] == [2, 3]
    assert all(isinstance(p, Problem) and p.rejected for p in kept.problems)


@pytest.mark.parametrize("text", ["", "# only a remark\n", "\n\n"])
def test_a_manifest_that_names_nothing_is_refused(tmp_path, text):
    path = tmp_path / "m.s5cmd"
    path.write_text(text)
    with pytest.raises(EmptySelection, match="names no series"):
        open_manifest(path)


def test_a_manifest_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        open_manifest(tmp_path / "none.s5cmd")
    with pytest.raises(RequestError, match="'raise' or 'report'"):
        open_manifest(tmp_path / "none.s5cmd", problems="ignore")


def test_a_compressed_manifest_is_read(tmp_path):
    import gzip

    path = CT.to_manifest(tmp_path / "c.s5cmd")
    packed = tmp_path / "c.s5cmd.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert open_manifest(packed).manifest() == CT.manifest()


# Catalogs and tables.


def test_a_cohort_writes_a_catalog_that_opens_as_the_same(tmp_path):
    cohort = (
        open_idc(24)
        .search(
            collection_id="nlst",
            SeriesDescription=re.compile("chest|thorax", re.IGNORECASE),
        )
        .search(Modality=["CT", None])
        .query("series_size_MB < 50")
    )
    path = cohort.to_catalog(tmp_path / "c.yml", name="chest")
    source = intake.open_catalog(path)["chest"]
    assert source.cohort == cohort
    assert source.idc_version == 24


def test_a_manifest_cohort_writes_its_manifest_beside_the_catalog(tmp_path):
    path = CT.to_manifest(tmp_path / "a.s5cmd")
    catalog = (
        open_manifest(path)
        .search(PatientID=CT.unique("PatientID")[0])
        .to_catalog(tmp_path / "b.yml")
    )
    source = intake.open_catalog(catalog)["cohort"]
    assert source.cohort.unique("PatientID") == CT.unique("PatientID")[:1]
    assert source.idc_version == 25


def test_a_catalog_keeps_the_tables_and_the_mirror(tmp_path):
    ct = SAMPLE.search(Modality="CT")
    listed = open_manifest(ct.to_manifest(tmp_path / "ct.s5cmd"), tables="sample")
    for number, cohort in enumerate([ct, listed]):
        path = cohort.to_catalog(tmp_path / f"{number}.yml")
        again = intake.open_catalog(path)["cohort"].cohort
        assert again.manifest() == ct.manifest()
        assert len(again.datasets().compute()) == 3
    placed = ct.reading_from("gcs", endpoint_url="http://127.0.0.1:1")
    again = intake.open_catalog(placed.to_catalog(tmp_path / "p.yml"))["cohort"]
    assert again.cohort == placed


def test_a_catalog_of_everything_is_of_everything(tmp_path):
    path = SAMPLE.all().to_catalog(tmp_path / "all.yml")
    assert intake.open_catalog(path)["cohort"].cohort == SAMPLE.all()
    assert len(intake.open_catalog(path)["cohort"].urls()) == 4


def test_the_users_manifest_is_never_written_over(tmp_path):
    mine = SAMPLE.all().to_manifest(tmp_path / "mine.s5cmd")
    before = mine.read_bytes()
    cohort = open_manifest(mine, tables="sample").search(Modality="CT")
    cohort.to_catalog(tmp_path / "mine.yml")
    assert mine.read_bytes() == before


def test_a_manifest_that_was_cut_off_is_remarked(tmp_path):
    path = CT.to_manifest(tmp_path / "c.s5cmd")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:20]))
    cut = open_manifest(path)
    (problem,) = cut.problems
    assert "announces 172 records" in problem.reason
    assert "lines remarked" in str(cut)


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08\0\0\0", b"\x1f\x8bxxxxxxxxxxxxxxxxxx"])
def test_a_broken_archive_is_an_error_of_reading(tmp_path, data):
    path = tmp_path / "c.s5cmd.gz"
    path.write_bytes(data)
    with pytest.raises(StorageError, match="cannot be read"):
        open_manifest(path)


@pytest.mark.parametrize("place", ["s3://bucket/x", "memory://x"])
def test_a_url_is_no_place_to_write_to(place):
    for act in (
        lambda: SAMPLE.all().to_manifest(f"{place}.s5cmd"),
        lambda: SAMPLE.all().to_catalog(f"{place}.yml"),
        lambda: SAMPLE.all().to_table(f"{place}.csv"),
    ):
        with pytest.raises(RequestError, match="of this machine"):
            act()


def test_a_catalog_never_carries_template_signs(tmp_path):
    odd = ("{{ 1 }}", re.compile("{% x"), ["CT", "{{ x }}"], "a{#b#}c", "a\n", "a\r")
    for value in odd:
        with pytest.raises(RequestError, match="template"):
            intake.open_idc_cohort(SeriesDescription=value).yaml()
        with pytest.raises(RequestError, match="template"):
            open_idc(25).search(SeriesDescription=value).to_catalog(tmp_path / "c.yml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_cohort_writes_its_table(tmp_path, suffix):
    path = CT.to_table(tmp_path / f"c{suffix}")
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    assert read(path).SeriesInstanceUID.tolist() == CT.keys()
    with pytest.raises(RequestError, match=r"\.csv or \.parquet"):
        CT.to_table(tmp_path / "c.xlsx")


@pytest.mark.parametrize("beside", [re.compile("CT"), None, "CT"])
def test_a_value_that_no_series_has_is_an_error_beside_others_that_some_have(beside):
    pilot = open_idc(25).search(collection_id="rider_pilot")
    with pytest.raises(UnknownValue, match="'XX'"):
        len(pilot.search(Modality=["XX", beside]))
