"""The cache: bounded, shared, never needed, and never an answer of its own."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intake_idc import build_cache, cache, open_idc, open_release, sample_path
from intake_idc.errors import RequestError, StorageError, UnknownValue
from intake_idc.release import derived
from intake_idc.release.database import database, forget
from intake_idc.release.derived import POSITION
from intake_idc.release.tables import find_tables
from intake_idc.selection import Selection

EVERYTHING = Selection()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(place))
    return place


def add(name: str, size: int, used: float | None = None) -> None:
    with cache.adding(name) as part:
        part.write_bytes(b"x" * size)
    place = cache.folder()
    assert place is not None
    if used is not None:
        os.utime(place / name, (used, used))


# The folder.


def test_a_file_is_there_only_when_it_is_whole(folder):
    def interrupted() -> None:
        with cache.adding("tables/a") as part:
            part.write_bytes(b"half")
            assert cache.find("tables/a") is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert cache.find("tables/a") is None
    assert not list(folder.rglob("*.part"))
    add("tables/a", 3)
    assert cache.find("tables/a") == folder / "tables" / "a"


def test_what_was_used_longest_ago_goes_first(folder, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE_SIZE", "250")
    add("a", 100, used=1)
    add("b", 100, used=2)
    assert cache.find("a") is not None  # Now it is the one used last.
    add("c", 100)
    assert [entry.name for entry in cache.entries()] == ["a", "c"]
    assert folder.is_dir()


def test_a_file_that_does_not_fit_pushes_everything_else_out(folder, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE_SIZE", "50")
    add("a", 40)
    add("b", 90)
    assert [entry.name for entry in cache.entries()] == ["b"]
    assert (folder / "b").stat().st_size == 90


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("500", 500), ("1.5kB", 1500), ("20 MB", 20_000_000), ("4G", 4 * 10**9)],
)
def test_the_bound_is_a_size(text, size, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE_SIZE", text)
    assert cache.limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "4 QB", "1e3"])
def test_a_bound_that_is_no_size_is_an_error(text, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE_SIZE", text)
    with pytest.raises(RequestError, match="INTAKE_IDC_CACHE_SIZE"):
        cache.limit()


def test_clearing_frees_what_was_held(folder):
    add("a", 10)
    add("tables/25.0.5/b", 20)
    assert cache.clear() == 30
    assert cache.entries() == []
    assert (folder / "intake-idc-cache.txt").exists()


def test_a_digest_is_worked_out_once_for_each_state_of_a_file(folder, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert cache.sha256(path, known=True) is None
    first = cache.sha256(path)
    assert cache.sha256(path, known=True) == first
    path.write_bytes(b"two, longer")
    assert cache.sha256(path, known=True) is None
    assert cache.sha256(path) != first
    # What is not a digest is not taken for one.
    for held in folder.glob("digests/*"):
        held.write_text("nonsense")
    assert cache.sha256(path, known=True) is None


def test_threads_may_add_one_file_at_once(folder):
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        add("same", 1000)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (folder / "same").read_bytes() == b"x" * 1000
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("how", ["off", "OFF", "a file"])
def test_without_a_cache_everything_works(how, tmp_path, monkeypatch):
    named = how
    if how == "a file":
        (tmp_path / "file").write_text("")
        named = str(tmp_path / "file" / "cache")
    monkeypatch.setenv("INTAKE_IDC_CACHE", named)
    assert cache.folder() is None
    assert cache.entries() == []
    assert cache.clear() == 0
    assert len(open_idc(2, tables="sample").all()) > 0
    assert open_release(2, "sample").pin["digest"]
    with pytest.raises(RequestError, match="no cache"):
        build_cache("sample")


# The derived files: the same answers.


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory) -> Path:
    """A cache with the derived files of the installed package and the sample."""
    place = tmp_path_factory.mktemp("derived")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTAKE_IDC_CACHE", str(place))
        build_cache()
        build_cache("sample")
    return place


@pytest.fixture
def with_cache(laid_out, monkeypatch) -> None:
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(laid_out))


CONDITIONS = [
    {"collection_id": "rider_pilot"},
    {"collection_id": ["mri_dir", "phantom_fda"], "Modality": ["CT", "MR", "SR"]},
    {"SeriesDescription": re.compile("lung.*window", re.IGNORECASE)},
    {"SeriesDescription": None, "collection_id": "tcga_luad"},
    {"instanceCount": [1, 2], "collection_id": "cptac_lscc"},
    {"row_source": "prior_versions_index", "Modality": "SM"},
]
SQL = [
    "PatientAge BETWEEN '050Y' AND '060Y' AND collection_id = 'nlst'",
    "series_size_MB > 20000",
    "series_aws_url LIKE 's3://idc-open-data-two/0%'",
    "crdc_series_uuid < '0001'",
    "crdc_series_uuid IN (SELECT '8af80c17-1898-4ddc-a2de-1fb878763d2c')",
    "StudyDate < '1990-01-01' AND Modality <> 'SM'",
]
SELECTIONS = [
    *(Selection().where(columns) for columns in CONDITIONS),
    *(Selection().query(condition) for condition in SQL),
]


def both(version: int, tables: str | None, laid_out: Path, ask) -> tuple[Any, Any]:
    """Ask a release without the derived files, and with them."""
    answers = []
    for place in ("off", str(laid_out)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INTAKE_IDC_CACHE", place)
            release = open_release(version, tables)
            made = database(find_tables(tables)).derived
            assert (made is None) is (place == "off")
            answers.append(ask(release))
    return answers[0], answers[1]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("version", [2, 17, 20, 25])
def test_the_answers_are_the_same(version, selection, laid_out):
    plain, quick = both(
        version, None, laid_out, lambda r: r.table(None, selection, strict=False)
    )
    assert plain.schema.names == quick.schema.names
    assert plain.schema.types == quick.schema.types
    assert plain.to_pylist() == quick.to_pylist()


@pytest.mark.parametrize("version", range(1, 26))
def test_every_release_is_the_same(version, laid_out):
    def ask(release):
        columns = ["crdc_series_uuid", "row_source", "series_size_MB", "instanceCount"]
        return release.table(columns, EVERYTHING)

    plain, quick = both(version, None, laid_out, ask)
    assert plain.equals(quick)


@pytest.mark.parametrize("version", [1, 2])
def test_every_column_of_the_sample_is_the_same(version, laid_out):
    plain, quick = both(
        version, "sample", laid_out, lambda r: r.table(None, EVERYTHING)
    )
    assert plain.to_pylist() == quick.to_pylist()
    for column in plain.schema.names:
        left, right = both(
            version, "sample", laid_out, lambda r, c=column: r.distinct(c)
        )
        assert left == right


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_identifiers_are_found_as_without_it(data, laid_out):
    column = data.draw(st.sampled_from(derived.KEYS))
    version = data.draw(st.sampled_from([3, 19, 25]))
    held = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"
    known = {
        "SeriesInstanceUID": [held, "1.2.3", "", "é"],
        "crdc_series_uuid": [
            "8af80c17-1898-4ddc-a2de-1fb878763d2c",
            "8AF80C17-1898-4DDC-A2DE-1FB878763D2C",
            "8af80c1718984ddca2de1fb878763d2c",
            "not a uuid",
        ],
    }[column]
    values = data.draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
    selection = Selection().where({column: values})
    plain, quick = both(
        version, None, laid_out, lambda r: r.rows([column], selection, strict=False)
    )
    assert plain == quick
    plain, quick = both(version, None, laid_out, lambda r: r.absent(column, values))
    assert plain == quick


@pytest.mark.usefixtures("with_cache")
def test_the_place_of_a_row_is_not_a_column():
    assert POSITION not in open_release(25).columns
    assert POSITION not in open_idc(25).search(collection_id="rider_pilot").table.schema
    with pytest.raises(UnknownValue):
        len(open_idc(25).search(SeriesInstanceUID="1.2.3"))


# The derived files: made and kept.


def test_tables_that_changed_have_no_derived_files(folder, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(sample_path() / "tables", tables)
    build_cache(tables)
    assert database(find_tables(tables)).derived is not None
    other = shutil.copy(tables / "idc_index.parquet", tmp_path / "other.parquet")
    with open(other, "ab") as file:  # noqa: PTH123
        file.write(b"")
    os.utime(other, (1, 1))
    os.replace(other, tables / "idc_index.parquet")  # noqa: PTH105
    forget(find_tables(tables))
    # The same bytes in another file: nothing is hashed only to find out.
    assert database(find_tables(tables)).derived is None
    assert len(list(folder.glob("derived/*.arrow"))) == 1


@pytest.mark.parametrize("harm", ["cut", "nonsense", "keys cut", "keys gone", "empty"])
def test_derived_files_that_are_damaged_are_left_aside(harm, folder, tmp_path, caplog):
    tables = tmp_path / "tables"
    shutil.copytree(sample_path() / "tables", tables)
    made = build_cache(tables)
    forget(find_tables(tables))
    whole = made.read_bytes()
    keys = made.with_suffix(".keys")
    match harm:
        case "cut":
            made.write_bytes(whole[: len(whole) // 2])
        case "nonsense":
            made.write_bytes(b"nonsense" * 1000)
        case "empty":
            made.write_bytes(b"")
        case "keys cut":
            keys.write_bytes(keys.read_bytes()[:-4])
        case "keys gone":
            keys.unlink()
    cohort = open_idc(2, tables=tables).all()
    assert (
        cohort.table.to_pylist() == open_idc(2, tables="sample").all().table.to_pylist()
    )
    assert ("left aside" in caplog.text) is (harm != "keys gone")
    assert folder.is_dir()


def test_nothing_is_left_beside_the_derived_files(folder):
    made = build_cache("sample")
    names = sorted(path.name for path in (folder / "derived").iterdir())
    assert names == [f"{made.stem}.arrow", f"{made.stem}.keys"]


def count(version: int) -> tuple[int, bool]:
    made = database(find_tables("sample")).derived
    return len(open_idc(version, tables="sample").all()), made is not None


def test_processes_share_the_derived_files(folder):
    build_cache("sample")
    expected = [(len(open_idc(v, tables="sample").all()), True) for v in (1, 2, 1, 2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(count, [1, 2, 1, 2]) == expected
    assert folder.is_dir()


ASKED = "open_idc(2, tables='sample').all()"


def test_a_process_that_used_the_derived_files_ends_in_silence(folder):
    build_cache("sample")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from intake_idc import open_idc; print(len({ASKED}))",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "INTAKE_IDC_CACHE": str(folder)},
    )
    assert done.stdout.strip() == str(len(open_idc(2, tables="sample").all()))
    assert done.stderr == ""


@pytest.mark.parametrize(
    "filters",
    [
        {"series_size_MB": -0.0},
        {"series_size_MB": 0},
        {"series_size_MB": 2**53 + 1},
        {"series_size_MB": [1, 0.5]},
        {"instanceCount": 2**70},
        {"instanceCount": [1, -(2**64)]},
    ],
    ids=str,
)
def test_numbers_at_the_edge_are_found_as_without_it(filters, laid_out):
    asked = Selection().where(filters)

    def rows(release):
        return release.rows(["crdc_series_uuid"], asked, strict=False)

    without, derived = both(20, None, laid_out, rows)
    assert derived == without


def test_files_that_this_process_reads_are_not_pushed_out(folder, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE_SIZE", "10")
    cache.hold(folder / "unpacked")
    add("unpacked/a", 8, used=1)
    add("b", 8)
    assert [entry.name for entry in cache.entries()] == ["unpacked/a", "b"]


def test_what_a_killed_process_was_writing_is_pushed_out_in_time(folder, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE_SIZE", "10")
    add("a", 1)
    for name, used in {"old": 1, "new": time.time()}.items():
        part = folder / f".idc-1-{name}.part"
        part.write_bytes(b"x" * 20)
        os.utime(part, (used, used))
    add("b", 1)
    assert {entry.name for entry in cache.entries()} == {".idc-1-new.part", "b"}


def odd(folder: Path, table: str, column: str, values: list[Any]) -> None:
    """Put values into a column of one of the sample's tables."""
    shutil.copytree(sample_path() / "tables", folder)
    path = folder / f"{table}.parquet"
    rows = pq.read_table(path)
    old = rows.column(column)
    new = pa.array([*values, *old.to_pylist()[len(values) :]], old.type)
    place = rows.column_names.index(column)
    pq.write_table(rows.set_column(place, column, new), path)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("idc_index", "collection_id", None),
        ("idc_index", "SeriesInstanceUID", None),
        ("idc_index", "crdc_series_uuid", None),
        ("idc_index", "series_revised_idc_version", None),
        ("idc_index", "series_revised_idc_version", 9),
        ("prior_versions_index", "max_idc_version", 9),
    ],
)
def test_tables_that_nobody_publishes_are_the_same(
    table, column, value, folder, tmp_path, monkeypatch
):
    tables = tmp_path / "odd"
    odd(tables, table, column, [value])
    monkeypatch.setenv("INTAKE_IDC_CACHE", "off")
    uids = open_release(2, tables).distinct("SeriesInstanceUID")
    asked = [
        EVERYTHING,
        Selection().where({"collection_id": ["sample_ct", "sample_mr"]}),
        Selection().where({"collection_id": None}),
        Selection().where({"SeriesInstanceUID": uids}),
        Selection().where({"SeriesInstanceUID": None}),
    ]

    def answers() -> list[pa.Table]:
        return [
            open_release(version, tables).table(None, selection, strict=False)
            for version in (1, 2)
            for selection in asked
        ]

    without = answers()
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(folder))
    build_cache(tables)
    assert database(find_tables(tables)).derived is not None
    assert answers() == without


@pytest.mark.usefixtures("folder")
def test_a_series_that_is_there_twice_cannot_be_laid_out(tmp_path):
    tables = tmp_path / "twice"
    shutil.copytree(sample_path() / "tables", tables)
    rows = pq.read_table(tables / "idc_index.parquet")
    pq.write_table(pa.concat_tables([rows, rows]), tables / "idc_index.parquet")
    with pytest.raises(StorageError, match="several times"):
        build_cache(tables)


@pytest.mark.usefixtures("folder")
def test_the_newest_release_is_not_taken_from_files_of_other_tables(tmp_path):
    """They are made from the same index, which another table says is newer."""
    tables = tmp_path / "tables"
    shutil.copytree(sample_path() / "tables", tables)
    build_cache(tables)
    newer = tmp_path / "newer"
    odd(newer, "version_metadata_index", "idc_version", [1, 3])
    open_release(2, newer).pin  # noqa: B018 - it works the digests out.
    assert open_release("current", newer).idc_version == 3
