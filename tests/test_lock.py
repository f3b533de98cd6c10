"""Locks: the same cohort by the file alone, and nothing else under its name."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import dask
import fsspec
import intake
import pyarrow as pa
import pytest
from dask.base import tokenize
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from intake_idc import (
    check_lock,
    open_idc,
    open_lock,
    open_manifest,
    restore,
    sample_path,
)
from intake_idc.cohort import locking
from intake_idc.drivers import IDCLock
from intake_idc.errors import (
    EmptySelection,
    IDCError,
    IntegrityError,
    MirrorError,
    MissingError,
    ObjectNotFound,
    PlanError,
    RequestError,
    StorageError,
    TransferError,
)
from intake_idc.formats import lock as form
from intake_idc.manifest import Manifest
from intake_idc.release import FixedRows

SAMPLE = open_idc(1, tables="sample")
OLD_CT = SAMPLE.search(Modality="CT")
PAIR = SAMPLE.search(Modality=["CT", "MR"])
SLIDES = open_idc(20).search(collection_id="nlst", Modality="SM")
HTAN = open_idc(20).search(collection_id="htan_ohsu")
BUCKET = sample_path() / "bucket"
REGEX = open_idc(24).search(
    collection_id="4d_lung", SeriesDescription=re.compile("gated", re.IGNORECASE)
)
COHORTS = {
    "few": HTAN,
    "many": SLIDES,
    "sample": PAIR,
    "everything": SAMPLE.all(),
    "expression": REGEX.query("series_size_MB < 60"),
    "newest": open_idc(25).search(collection_id="rider_pilot", Modality="CT"),
    "licence": open_idc(25).search(collection_id="htan_ohsu", commercial_use=True),
}


def everything_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def signed(document):
    """Give a changed document the digest that it should have, as a forger would."""
    return json.dumps({**document, "digest": form._digest(document)}).encode()


@pytest.fixture(scope="module")
def locks(tmp_path_factory):
    """A lock of each cohort, never written to."""
    folder = tmp_path_factory.mktemp("locks")
    return {
        name: cohort.lock(folder / f"{name}.lock.json")
        for name, cohort in COHORTS.items()
    }


# The same cohort.


@pytest.mark.parametrize("name", COHORTS)
def test_a_lock_opens_as_the_cohort_that_was_locked(locks, name):
    cohort, opened = COHORTS[name], open_lock(locks[name])
    assert opened.idc_version == cohort.idc_version
    assert opened.manifest() == cohort.manifest()
    assert opened.manifest().table.to_pydict() == {
        **cohort.manifest().table.to_pydict(),
        "size_tolerance": [part.size_tolerance for part in cohort.manifest().parts()],
    }
    assert list(opened.manifest().parts()) == list(cohort.manifest().parts())
    assert opened.keys() == cohort.keys()
    assert opened.counts() == cohort.counts()
    assert opened.licenses() == cohort.licenses()
    assert opened.urls() == cohort.urls()


@pytest.mark.parametrize("name", COHORTS)
def test_locking_is_the_same_bytes_whoever_locks_and_where(locks, name, tmp_path):
    written = {
        key: data
        for key, data in everything_in(locks[name].parent).items()
        if key.startswith(f"{name}.")
    }
    for folder, cohort in (("a", COHORTS[name]), ("b", open_lock(locks[name]))):
        cohort.lock(tmp_path / folder / locks[name].name)
        cohort.lock(tmp_path / folder / locks[name].name)
        assert everything_in(tmp_path / folder) == written


def test_few_series_are_in_the_json_and_many_beside_it(locks, tmp_path):
    assert len(HTAN) <= form.LISTED < len(SLIDES)
    few, many = (json.loads(locks[name].read_text()) for name in ("few", "many"))
    assert len(few["series"]["rows"]) == len(HTAN)
    assert "file" not in few["series"]
    side = locks["many"].with_name(many["series"]["file"])
    assert side.name == f"many.lock.{many['series']['digest'][:16]}.parquet"
    assert "rows" not in many["series"]
    assert parquet.read_metadata(side).metadata is None
    assert [*tmp_path.iterdir()] == []


def test_a_lock_has_one_digest_in_whichever_way_its_series_are_kept(locks):
    lock, manifest = form.read(locks["few"].read_bytes(), "few", pytest.fail)
    beside = form.write(lock, manifest, "x.json", listed=0)
    assert beside.digest == lock.digest
    assert beside.side_name is not None
    again, rows = form.read(beside.text, "x", lambda _: beside.side)
    assert (again, rows) == (lock, manifest)
    assert rows.table == manifest.table


def test_the_digest_does_not_depend_on_how_the_parquet_was_written(locks, tmp_path):
    many = json.loads(locks["many"].read_text())["series"]["file"]
    table = parquet.read_table(locks["many"].with_name(many))
    shuffled = table.select(table.column_names[::-1])
    shutil.copy(locks["many"], tmp_path)
    for options in ({"compression": "none"}, {"row_group_size": 100}):
        parquet.write_table(shuffled, tmp_path / many, **options)
        opened = open_lock(tmp_path / "many.lock.json")
        assert opened.locked.digest == open_lock(locks["many"]).locked.digest


def test_a_lock_that_is_indented_otherwise_is_the_same_lock(locks, tmp_path):
    crlf = tmp_path / "few.lock.json"
    crlf.write_bytes(locks["few"].read_bytes().replace(b"\n", b"\r\n"))
    open_lock(crlf).lock(crlf)
    assert crlf.read_bytes() == locks["few"].read_bytes()


def test_the_lock_says_what_a_reader_has_to_know(locks):
    found = json.loads(locks["few"].read_text())
    assert found["counts"] == HTAN.counts()
    assert found["question"] == {
        "of": "release",
        "manifest": None,
        "everything": False,
        "selection": HTAN.selection.to_dict(),
    }
    assert found["release"] == HTAN.release.pin
    assert found["manifest_digest"] == HTAN.manifest().digest
    assert {row["license_short_name"]: row["series"] for row in found["licenses"]} == (
        HTAN.licenses()
    )
    assert found["source_dois"] == HTAN.unique("source_DOI")
    tolerances = {row["row_source"]: row["size_tolerance"] for row in rows_of(found)}
    assert tolerances == {"idc_index": 0, "prior_versions_index": 5_000}
    assert json.loads(locks["everything"].read_text())["question"]["everything"]


def rows_of(document):
    return document["series"]["rows"]


def test_every_column_of_a_manifest_is_kept():
    assert {*SLIDES.manifest().columns} - {*form.COLUMNS} == {"series_size_MB"}


def test_a_lock_says_that_it_is_one(locks):
    opened = open_lock(locks["few"])
    assert repr(opened).startswith("<Locked cohort of IDC release 20 from idc-index-")
    assert "htan_ohsu" in repr(opened)
    assert opened.locked.digest in str(opened)
    assert "Locked cohort" in opened._repr_html_()
    assert HTAN.locked is None
    with pytest.raises(RequestError, match="check_lock"):
        opened.at(24)


def test_a_narrowed_lock_asks_the_narrower_question(locks, tmp_path):
    one = {"PatientID": HTAN.unique("PatientID")[0]}
    narrowed = open_lock(locks["few"]).search(**one).query("instanceCount > 0")
    direct = HTAN.search(**one).query("instanceCount > 0")
    narrowed.lock(tmp_path / "a" / "x.json")
    direct.lock(tmp_path / "b" / "x.json")
    assert everything_in(tmp_path / "a") == everything_in(tmp_path / "b")
    assert str(direct.selection) in repr(open_lock(tmp_path / "a" / "x.json"))


def test_a_part_of_a_lock_does_not_pass_for_the_lock(locks):
    whole = open_lock(locks["sample"])
    part = whole.search(Modality="CT")
    assert f"  lock         {whole.locked.digest}" in str(whole).splitlines()
    assert f"  part of lock  {whole.locked.digest}" in str(part).splitlines()


def test_a_lock_of_a_rebuilt_release_says_so(locks):
    assert "  sureness     rebuilt" in str(open_lock(locks["sample"])).splitlines()
    assert "sureness" not in str(open_lock(locks["few"]))


def test_a_manifest_can_be_locked(tmp_path):
    path = PAIR.to_manifest(tmp_path / "pair.s5cmd")
    locked = open_lock(
        open_manifest(path, tables="sample").lock(tmp_path / "p.lock.json")
    )
    assert locked.manifest() == PAIR.manifest()
    assert locked.locked.question["of"] == "manifest"
    assert locked.locked.question["manifest"] == "pair.s5cmd"
    assert "every series of pair.s5cmd" in repr(locked)
    assert str(tmp_path) not in (tmp_path / "p.lock.json").read_text()
    again = locked.search(Modality="CT").lock(tmp_path / "c.lock.json")
    assert "Modality = 'CT' of pair.s5cmd" in repr(open_lock(again))
    assert not check_lock(tmp_path / "p.lock.json", 1)
    assert len(check_lock(tmp_path / "p.lock.json").superseded) == 1
    assert "a list of series" in str(check_lock(tmp_path / "p.lock.json"))


def test_nothing_and_everything_are_locked_only_when_meant(tmp_path):
    with pytest.raises(EmptySelection, match=r"all\(\)"):
        SAMPLE.lock(tmp_path / "x.json")
    with pytest.raises(EmptySelection, match="no series"):
        SAMPLE.query("instanceCount > 1000").lock(tmp_path / "x.json")
    with pytest.raises(RequestError, match="this machine"):
        PAIR.lock("s3://bucket/x.json")
    nan = SAMPLE.query("instanceCount > 0").search(series_size_MB=[float("nan"), None])
    with pytest.raises(IDCError):
        nan.lock(tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


# Without an index.

NO_INDEX = """
import sys
class Hidden:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"idc_index_data", "pandas"}:
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path = [Hidden(finder) for finder in sys.meta_path]
from intake_idc import errors, open_idc, open_lock, restore
try:
    open_idc()
except errors.TableNotFound:
    print("no index")
"""
OPEN = """
cohort = open_lock(sys.argv[1])
print("duckdb" in sys.modules, len(cohort), cohort.manifest().digest, repr(cohort))
cohort.lock(sys.argv[2])
print(len(cohort.urls()), bool(cohort.counts()))
"""


@pytest.mark.parametrize("name", ["few", "many"])
def test_a_lock_opens_where_no_index_is_installed(locks, name, tmp_path):
    again = tmp_path / locks[name].name
    done = subprocess.run(
        [sys.executable, "-c", NO_INDEX + OPEN, str(locks[name]), str(again)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cohort = COHORTS[name]
    first, second, third = done.stdout.splitlines()
    assert first == "no index"
    assert f"{len(cohort)} {cohort.manifest().digest} <Locked cohort of" in second
    assert second.startswith("False")
    assert third == f"{len(cohort)} True"
    assert again.read_bytes() == locks[name].read_bytes()


def test_a_lock_is_restored_where_no_index_is_installed(locks, tmp_path):
    def change(document):
        document["release"] |= {"tables": None, "source": "idc-index-data 25.0.5"}

    path = tmp_path / "x.lock.json"
    path.write_bytes(signed(changed(locks["sample"], change)))
    code = NO_INDEX + "print(restore(sys.argv[1], sys.argv[2]).counts)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "copy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no index" in done.stdout
    assert sorted(tree(tmp_path / "copy").values()) == sha_of(PAIR.manifest().uuids)


def test_opening_loads_arrow_and_no_more(locks):
    code = (
        "import sys, intake_idc\n"
        f"intake_idc.open_lock({str(locks['many'])!r})\n"
        "heavy = ['pandas', 'duckdb', 'dask', 'fsspec', 'obstore', 'pydicom']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


# Any cohort.

TEXTS = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.sampled_from(
        ["", "\0", "a\nb", "\u2028", "\N{GRINNING FACE}", '"', "\\", "{{x}}"]
    )
)
NUMBERS = st.none() | st.integers(0, 2**40)


@st.composite
def manifests(draw):
    uuids = draw(st.lists(st.uuids(), min_size=1, max_size=6, unique=True))
    many = {"min_size": len(uuids), "max_size": len(uuids)}
    columns = {
        name: pa.array(
            draw(st.lists(TEXTS if kind == form.TEXT else NUMBERS, **many)),
            pa.string() if kind == form.TEXT else pa.int64(),
        )
        for name, kind in form.COLUMNS.items()
        if name not in ("size", "size_tolerance") and draw(st.booleans())
    }
    sizes = [n and n / 1e6 for n in draw(st.lists(NUMBERS, **many))]
    buckets = st.sampled_from(["idc-open-data", "idc-open-data-cr"])
    columns |= {
        "series_size_MB": pa.array(sizes, pa.float64()),
        "crdc_series_uuid": pa.array(map(str, uuids)),
        "aws_bucket": pa.array(draw(st.lists(buckets, **many))),
    }
    return Manifest(pa.table(columns), draw(st.sampled_from([1, 2])), draw(st.text()))


@given(manifest=manifests(), listed=st.sampled_from([0, 1000]))
def test_any_rows_come_back_as_they_were(manifest, listed):
    lock = form.Lock(
        {"of": "manifest", "manifest": "x", "everything": False}
        | {"selection": {"where": [], "sql": []}},
        {"idc_version": manifest.idc_version, "source": "x", "sureness": "rebuilt"}
        | {"tables": None, "digest": {}},
    )
    written = form.write(lock, manifest, "x.json", listed=listed)
    again, rows = form.read(written.text, "x", lambda _: written.side)
    assert again == lock
    assert rows == manifest
    assert list(rows.parts()) == list(manifest.parts())
    for name in set(manifest.columns) - {"series_size_MB"}:
        assert rows.table.column(name).to_pylist() == (
            manifest.table.column(name).to_pylist()
        )
    assert form.write(again, rows, "x.json", listed=listed) == written
    assert stdlib_digest(rows.table, lock, written) == written.digest


def stdlib_digest(table, lock, written):
    """The recipe of the reference, with nothing of the package but its columns."""
    document = json.loads(written.text)
    sha = hashlib.sha256()
    columns = {
        **{name: table.column(name).to_pylist() for name in table.column_names},
    }
    columns["size"] = [
        size if size is None else round(size * 1e6)
        for size in columns.pop("series_size_MB")
    ]
    del lock
    for name, kind in sorted(document["series"]["columns"].items()):
        sha.update(f"{name}\t{kind}\n".encode())
        values = columns[name]
        if kind == "text":
            texts = [None if v is None else v.encode() for v in values]
            numbers = [-1 if v is None else len(v) for v in texts]
        else:
            texts, numbers = [], [-1 if v is None else v for v in values]
        sha.update(b"".join(n.to_bytes(8, "little", signed=True) for n in numbers))
        sha.update(b"".join(text or b"" for text in texts))
    series = {
        "columns": document["series"]["columns"],
        "count": len(values),
        "digest": sha.hexdigest(),
    }
    rest = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps({**rest, "series": series}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


VALUES = {
    "Modality": st.lists(
        st.sampled_from(["CT", "MR", "US", "SEG", None]), min_size=1, unique=True
    ),
    "SeriesDescription": st.sampled_from(
        [re.compile("."), re.compile("(?i)std|x"), None]
    ),
    "instanceCount": st.lists(st.integers(-1, 9), min_size=1),
    "PatientAge": TEXTS.filter(lambda text: "\0" not in (text or "")),
}
SELECTIONS = st.fixed_dictionaries({}, optional=VALUES)
SQL = st.lists(st.sampled_from(["instanceCount >= 1", "Modality <> 'é'"]), max_size=2)


@given(where=SELECTIONS, sql=SQL, version=st.sampled_from([1, 2]))
def test_any_selection_of_the_sample_locks_opens_and_locks(
    tmp_path_factory, where, sql, version
):
    cohort = SAMPLE.at(version).all()
    for condition in sql:
        cohort = cohort.query(condition)
    if where:
        cohort = cohort.search(**where)
    folder = tmp_path_factory.mktemp("any")
    try:
        path = cohort.lock(folder / "x.lock.json")
    except RequestError:
        assert list(folder.iterdir()) == []
        return
    opened = open_lock(path)
    assert opened.manifest() == cohort.manifest()
    before = path.read_bytes()
    assert opened.lock(path).read_bytes() == before
    assert str(cohort.selection) in repr(opened)
    assert not check_lock(opened, version)


# What was changed.


@given(data=st.data())
def test_a_changed_byte_is_an_error_or_no_change_of_content(locks, data):
    name = data.draw(st.sampled_from(["few", "many"]))
    path = locks[name]
    side = json.loads(path.read_text())["series"].get("file")
    files = {path.name: path.read_bytes()}
    if side:
        files[side] = path.with_name(side).read_bytes()
    victim = data.draw(st.sampled_from(sorted(files)))
    whole = bytearray(files[victim])
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    files[victim] = bytes(whole)

    def beside(file):
        if file not in files:
            raise ObjectNotFound(file)
        return files[file]

    lock, manifest = (
        form.read(path.read_bytes(), "x", beside)
        if side is None
        else (
            form.read(
                path.read_bytes(), "x", lambda _: path.with_name(side).read_bytes()
            )
        )
    )
    try:
        again = form.read(files[path.name], "x", beside)
    except (RequestError, MissingError, IntegrityError, StorageError):
        return
    assert again[0] == lock
    assert again[0].digest == lock.digest
    assert again[1].table == manifest.table


def changed(path, change):
    document = json.loads(path.read_text())
    change(document)
    return document


def put(keys, value):
    def change(document):
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


FIELDS = [
    ("counts", "bytes"),
    ("counts", "series"),
    ("digest",),
    ("dir_template",),
    ("licenses",),
    ("manifest_digest",),
    ("mirror",),
    ("needs",),
    ("question", "everything"),
    ("question", "selection", "sql"),
    ("release", "idc_version"),
    ("release", "sureness"),
    ("series", "count"),
    ("series", "digest"),
    ("series", "columns", "size"),
    ("series", "rows", 0, "crdc_series_uuid"),
    ("series", "rows", 3, "size"),
    ("source_dois",),
]


@pytest.mark.parametrize("keys", FIELDS, ids=lambda keys: ".".join(map(str, keys)))
def test_a_changed_field_is_found(locks, keys, tmp_path):
    path = tmp_path / "x.lock.json"
    path.write_text(json.dumps(changed(locks["few"], put(keys, 7))))
    with pytest.raises(IntegrityError, match="do not use it") as caught:
        open_lock(path)
    assert caught.value.exit_code == 5


FORGED = {
    "counts": (["counts", "bytes"], 1, "'counts'"),
    "a float for a number": (["counts", "series"], 74.0, "'counts'"),
    "licences": (["licenses"], [], "'licenses'"),
    "dois": (["source_dois"], ["10.1/x"], "'source_dois'"),
    "manifest": (["manifest_digest"], "0" * 64, "'manifest_digest'"),
    "release": (["release", "idc_version"], 21, "'manifest_digest'"),
    "no release": (["release", "idc_version"], "20", "no number"),
    "other needs": (["needs"], "another-package", "'needs'"),
    "question of nothing": (["question", "of"], "nothing", "'of'"),
    "question without lists": (["question", "selection"], {}, "'where'"),
    "question that is none": (
        ["question", "selection"],
        {"where": [{"x": 1}], "sql": []},
        "question",
    ),
    "sql that is none": (["question", "selection", "sql"], [1], "'sql'"),
    "everything": (["question", "everything"], "no", "'everything'"),
    "name of a manifest": (["question", "manifest"], 5, "'manifest'"),
    "unknown key of the pin": (["release", "remark"], "hello", "'release'"),
    "source": (["release", "source"], None, "'release'"),
    "tables": (["release", "tables"], 0, "'release'"),
    "digests": (["release", "digest"], "x", "'release'"),
    "digest of a table": (["release", "digest", "x.parquet"], 1, "'release'"),
    "half a character": (["release", "source"], "\ud800", "half a character"),
    "unknown key": (["remark"], "hello", "remark"),
    "mirror": (["mirror"], "aws", "'mirror'"),
    "mirror of nothing": (["mirror"], {"x": 1}, "'mirror'"),
    "template": (["dir_template"], 3, "'dir_template'"),
    "series": (["series"], {}, "columns"),
    "rows and file": (["series", "file"], "x.parquet", "either"),
    "kind": (["series", "columns", "Modality"], "whole number", "columns"),
    "rows": (["series", "rows"], 3, "'rows'"),
    "no rows": (["series", "rows"], [], "0 series"),
}


@pytest.mark.parametrize(("keys", "value", "reason"), FORGED.values(), ids=FORGED)
def test_a_forged_digest_does_not_hide_nonsense(locks, keys, value, reason, tmp_path):
    path = tmp_path / "x.lock.json"
    path.write_bytes(signed(changed(locks["few"], put(keys, value))))
    with pytest.raises(IntegrityError, match=reason):
        open_lock(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("crdc_series_uuid", "../../../etc"),
        ("crdc_series_uuid", "9F30DB6C-6F83-5E41-AF6B-1E0D3A3D7378"),
        ("crdc_series_uuid", "9f30db6c-6f83-5e41-af6b-1e0d3a3d7378\n"),
        ("crdc_series_uuid", None),
        ("aws_bucket", "../x"),
        ("aws_bucket", "a/b"),
        ("aws_bucket", None),
        ("size", -1),
        ("size", True),
        ("size", 1.0),
        ("size", 2**63),
        ("size_tolerance", None),
        ("PatientID", 3),
        ("PatientID", "\ud800"),
    ],
)
def test_rows_that_cannot_be_of_idc_are_refused(locks, column, value, tmp_path):
    def change(document):
        document["series"]["rows"][0][column] = value

    path = tmp_path / "x.lock.json"
    path.write_bytes(signed(changed(locks["few"], change)))
    with pytest.raises(IntegrityError):
        open_lock(path)


def test_uuids_and_buckets_are_checked_before_they_are_written(tmp_path):
    rows = pa.table({"crdc_series_uuid": ["../x"], "aws_bucket": ["idc-open-data"]})
    cohort = open_idc(1, tables="sample")
    odd = type(cohort)(FixedRows(Manifest(rows, 1, "x"), "sample"))
    with pytest.raises(RequestError, match="not a UUID"):
        odd.lock(tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["12:00.lock.json", ".c.lock.json", "a\\b.lock.json"])
def test_a_lock_whose_file_could_not_be_found_again_is_not_written(name, tmp_path):
    with pytest.raises(RequestError, match="name the lock without"):
        SLIDES.lock(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    # Few series need no file beside the lock, and so no name for one.
    path = PAIR.lock(tmp_path / name)
    assert open_lock(path).manifest() == PAIR.manifest()


def test_a_lock_that_cannot_be_written_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "c.lock.json"
    path.mkdir()
    with pytest.raises(StorageError, match=r"c\.lock\.json cannot be written"):
        SLIDES.lock(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "file", ["../many.parquet", "/etc/x.parquet", "a\\b.parquet", "x.txt", ".x.parquet"]
)
def test_the_file_beside_is_a_bare_name(locks, file, tmp_path):
    path = tmp_path / "x.lock.json"
    path.write_bytes(signed(changed(locks["many"], put(["series", "file"], file))))
    with pytest.raises(IntegrityError, match="beside it"):
        open_lock(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "no json",
        '{"format": "another"}',
        '{"format": "intake-idc lock", "format": "intake-idc lock"}',
        '{"format": "intake-idc lock", "x": NaN}',
        "[" * 100_000,
        '{"format": "intake-idc lock"}',
        '{"format": "intake-idc lock", "format_version": "1"}',
        '{"format": "intake-idc lock", "format_version": true}',
        '{"format": "intake-idc lock", "format_version": 0}',
        "1" * 10_000,
    ],
)
def test_what_is_no_lock_is_said_to_be_none(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RequestError, match="lock"):
        open_lock(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="not a lock"):
        open_lock(path)


def test_keys_that_are_missing_are_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"format": "intake-idc lock", "format_version": 1}')
    with pytest.raises(IntegrityError, match="counts, digest, dir_template"):
        open_lock(path)


@pytest.mark.parametrize(
    ("needs", "advice"),
    [
        ("intake-idc>=7.1", "pip install 'intake-idc>=7.1'"),
        ("evil; rm -rf /", "pip install -U intake-idc"),
        (None, "pip install -U intake-idc"),
    ],
)
def test_a_lock_of_a_newer_format_says_what_to_install(tmp_path, needs, advice):
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps({"format": "intake-idc lock", "format_version": 2, "needs": needs})
    )
    with pytest.raises(MissingError, match=re.escape(advice)) as caught:
        open_lock(path)
    assert "evil" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_what_is_not_there_is_said_to_be_missing(locks, tmp_path):
    with pytest.raises(ObjectNotFound, match="is not there"):
        open_lock(tmp_path / "none.lock.json")
    shutil.copy(locks["many"], tmp_path)
    with pytest.raises(ObjectNotFound, match=r"many\.lock\.[0-9a-f]{16}\.parquet"):
        open_lock(tmp_path / "many.lock.json")
    with pytest.raises(StorageError, match="cannot be read"):
        open_lock(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda data: data[:-9], lambda _: b"<html>" * 99],
    ids=["empty", "cut", "a page"],
)
def test_a_damaged_file_beside_is_an_error(locks, damage, tmp_path):
    shutil.copy(locks["many"], tmp_path)
    name = json.loads(locks["many"].read_text())["series"]["file"]
    (tmp_path / name).write_bytes(damage(locks["many"].with_name(name).read_bytes()))
    with pytest.raises(IntegrityError, match=re.escape(name)):
        open_lock(tmp_path / "many.lock.json")


def test_another_lock_in_its_place_is_found_by_who_kept_the_digest(locks, tmp_path):
    digest = json.loads(locks["few"].read_text())["digest"]
    assert open_lock(locks["few"], digest=digest.upper()).locked.digest == digest
    with pytest.raises(IntegrityError, match="expected"):
        open_lock(locks["many"], digest=digest)
    with pytest.raises(IntegrityError, match="expected"):
        restore(locks["sample"], tmp_path / "x", digest=digest)
    assert not (tmp_path / "x").exists()


# Writing over.


def big(version):
    return open_idc(version).search(collection_id="nlst", Modality="SM")


def test_a_new_lock_takes_its_old_file_away_and_no_other(tmp_path):
    path = tmp_path / "c.lock.json"
    big(20).lock(path)
    big(20).lock(tmp_path / "d.lock.json")
    first = set(everything_in(tmp_path))
    big(25).lock(path)
    second = set(everything_in(tmp_path))
    (gone,) = first - second
    (come,) = second - first
    assert gone.startswith("c.lock.")
    assert come.startswith("c.lock.")
    HTAN.lock(path)
    assert set(everything_in(tmp_path)) == second - {come}
    assert open_lock(tmp_path / "d.lock.json").manifest() == big(20).manifest()


def test_a_lock_that_was_copied_under_another_name_is_left_alone(tmp_path):
    path = tmp_path / "c.lock.json"
    big(20).lock(path)
    copy = shutil.copy(path, tmp_path / "copy.lock.json")
    big(25).lock(copy)
    assert open_lock(path).manifest() == big(20).manifest()
    assert open_lock(copy).manifest() == big(25).manifest()


def test_a_crash_between_the_two_files_leaves_the_old_lock(tmp_path):
    """As a process that ends after the Parquet file and before the JSON."""
    path = tmp_path / "c.lock.json"
    big(20).lock(path)
    before = set(everything_in(tmp_path))
    code = (
        "import os, sys\n"
        "from intake_idc import open_idc\n"
        "from intake_idc.cohort import writing\n"
        "def audit(event, args):\n"
        "    if event == 'os.rename' and str(args[1]).endswith('.json'):\n"
        "        os._exit(9)\n"
        "sys.addaudithook(audit)\n"
        "open_idc(25).search(collection_id='nlst', Modality='SM').lock(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 9
    assert open_lock(path).manifest() == big(20).manifest()
    assert any(
        name.endswith(".parquet") for name in set(everything_in(tmp_path)) - before
    )
    big(25).lock(path)
    assert open_lock(path).manifest() == big(25).manifest()


def test_two_writers_and_a_reader_never_meet_half_a_lock(tmp_path):
    path = tmp_path / "c.lock.json"
    cohorts = [big(20), big(25)]
    digests = {cohort.manifest().digest for cohort in cohorts}
    cohorts[0].lock(path)
    failures = []
    done = threading.Event()

    def write(cohort):
        try:
            for _ in range(10):
                cohort.lock(path)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    def read():
        try:
            while not done.is_set():
                # Between two writers a reader may come too late twice.
                with suppress(ObjectNotFound):
                    assert open_lock(path).manifest().digest in digests
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    writers = [threading.Thread(target=write, args=[c]) for c in cohorts for _ in "ab"]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert open_lock(path).manifest().digest in digests
    assert not list(tmp_path.glob("*.part"))


def test_a_file_that_another_writer_put_back_is_kept(tmp_path):
    path = tmp_path / "c.lock.json"
    big(20).lock(path)
    side = json.loads(path.read_text())["series"]["file"]
    locking._drop(path, side)
    assert open_lock(path).manifest() == big(20).manifest()
    locking._drop(path, "c.lock.0000000000000000.parquet")


# As any other cohort.


def test_an_opened_lock_travels(locks):
    opened = open_lock(locks["few"])
    again = pickle.loads(pickle.dumps(opened))
    assert again == opened
    assert again.locked == opened.locked
    assert again.locked.digest == opened.locked.digest
    assert tokenize(again) == tokenize(opened)
    assert hash(again) == hash(opened)
    assert opened.datasets().npartitions >= 1


def test_an_opened_lock_is_read_and_written_as_any_cohort(locks, tmp_path):
    opened = open_lock(locks["sample"])
    assert len(opened.datasets().compute()) == 6
    manifest = opened.to_manifest(tmp_path / "x.s5cmd")
    assert open_manifest(manifest, tables="sample").manifest() == opened.manifest()
    assert opened.to_table(tmp_path / "x.csv").is_file()
    assert opened.nunique()["Modality"] == 2


def test_a_locked_cohort_writes_a_catalog_with_the_lock_beside_it(locks, tmp_path):
    for name in ("sample", "many"):
        folder = tmp_path / name
        path = open_lock(locks[name]).to_catalog(folder / "c.yml", name="mine")
        moved = tmp_path / f"moved-{name}"
        folder.rename(moved)
        source = intake.open_catalog(str(moved / path.name))["mine"]
        assert isinstance(source, IDCLock)
        assert source.cohort.manifest() == COHORTS[name].manifest()
        assert source.cohort.locked == open_lock(locks[name]).locked
        assert source.idc_version == COHORTS[name].idc_version
    assert len(source.cohort.urls()) == len(SLIDES)


def test_a_question_with_template_signs_is_no_hindrance(tmp_path):
    odd = PAIR.search(SeriesDescription=["{{ 1 }}", "STD BRAIN 5MM", None])
    with pytest.raises(RequestError):
        odd.lock(tmp_path / "x.json")  # The value is not there.
    odd = PAIR.query("SeriesDescription IS DISTINCT FROM '{{ x }}'")
    opened = open_lock(odd.lock(tmp_path / "x.json"))
    path = opened.to_catalog(tmp_path / "c.yml")
    assert intake.open_catalog(str(path))["cohort"].cohort.locked == opened.locked


def test_a_source_of_a_lock_is_what_its_arguments_say(locks, tmp_path):
    source = intake.open_idc_lock(str(locks["few"]))
    digest = open_lock(locks["few"]).locked.digest
    assert (source.idc_version, len(source)) == (20, len(HTAN))
    pickled = pickle.loads(pickle.dumps(source))
    assert source == pickled == source()
    assert hash(pickled) == hash(source)
    assert tokenize(pickled) == tokenize(source)
    assert digest in source.yaml()
    path = tmp_path / "c.yml"
    path.write_text(source.yaml())
    again = intake.open_catalog(str(path))[source.name]
    assert again.cohort == source.cohort
    assert again.discover()["metadata"]["series"] == len(HTAN)
    assert len(source.search(row_source="prior_versions_index")) == 16
    assert len(source.query("row_source = 'idc_index'")) == len(HTAN) - 16
    (there,) = dask.compute(dask.delayed(len)(source), scheduler="processes")
    assert there == len(HTAN)


def test_a_source_of_a_lock_holds_on_to_digest_and_release(locks):
    digest = open_lock(locks["few"]).locked.digest
    assert IDCLock(str(locks["few"]), digest, 20).idc_version == 20
    with pytest.raises(RequestError, match="which nothing moves"):
        IDCLock(str(locks["few"]), idc_version=24)
    with pytest.raises(RequestError, match="which nothing moves"):
        len(IDCLock(str(locks["few"]), digest, 24))
    with pytest.raises(IntegrityError):
        IDCLock(str(locks["many"]), digest)
    with pytest.raises(IntegrityError):
        len(IDCLock(str(locks["many"]), digest, 20))
    with pytest.raises(RequestError, match="urlpath"):
        IDCLock()


def test_a_lock_is_read_from_a_url(locks, tmp_path):
    name = json.loads(locks["many"].read_text())["series"]["file"]
    memory = fsspec.filesystem("memory")
    for file in (locks["many"].name, name):
        memory.pipe(f"/locks/{file}", locks["many"].with_name(file).read_bytes())
    opened = open_lock("memory://locks/many.lock.json")
    assert opened.manifest() == SLIDES.manifest()
    for folder in ("", "in/"):
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            for file in (locks["many"].name, name):
                archive.write(locks["many"].with_name(file), f"{folder}{file}")
        url = f"zip://{folder}many.lock.json::{tmp_path / 'z.zip'}"
        assert open_lock(url).manifest() == SLIDES.manifest()
    memory.rm(f"/locks/{name}")
    with pytest.raises(ObjectNotFound, match="two files"):
        open_lock("memory://locks/many.lock.json")
    with pytest.raises(MirrorError, match="password"):
        open_lock("https://me:secret@example.org/x.json")


@pytest.mark.parametrize(
    ("lock", "file"),
    [
        ("/a/b.c/x.json", "/a/b.c/y.parquet"),
        ("x.json", "y.parquet"),
        ("https://h/a/x.json?a=b/c", "https://h/a/y.parquet?a=b/c"),
        ("s3://bucket/x.json", "s3://bucket/y.parquet"),
        ("simplecache::s3://b/k/x.json", "simplecache::s3://b/k/y.parquet"),
        ("simplecache::/b/k/x.json", "simplecache::/b/k/y.parquet"),
        ("zip://a/x.json::/b/z.zip", "zip://a/y.parquet::/b/z.zip"),
    ],
)
def test_the_file_beside_a_url_is_in_its_folder(lock, file):
    assert locking.beside(lock, "y.parquet") == file


# Mirrors and layouts.


def test_the_mirror_and_the_layout_are_in_the_lock(tmp_path):
    cohort = PAIR.reading_from("gcs", endpoint_url="http://127.0.0.1:1")
    path = cohort.lock(tmp_path / "x.json", dir_template="%Modality/%SOPClassUID")
    opened = open_lock(path)
    assert opened.mirror == cohort.mirror
    assert opened.locked.dir_template == "%Modality/%SOPClassUID"
    assert opened.unique("SOPClassUID") == PAIR.unique("SOPClassUID")
    before = path.read_bytes()
    assert opened.lock(path).read_bytes() == before
    assert b"gcs" in before
    elsewhere = open_lock(path, mirror="aws")
    assert elsewhere.mirror.name == "aws"
    report = restore(path, tmp_path / "copy", mirror="sample")
    below = {p.relative_to(tmp_path / "copy").parts[0] for p in report.paths}
    assert below == {"CT", "MR"}
    assert (
        report.paths
        == PAIR.plan(tmp_path / "copy", dir_template="%Modality/%SOPClassUID").paths
    )


def test_a_lock_opens_where_its_mirror_is_not(tmp_path):
    mirror = tmp_path / "mirror"
    shutil.copytree(BUCKET, mirror)
    path = PAIR.reading_from(mirror).lock(tmp_path / "x.json")
    shutil.rmtree(mirror)
    opened = open_lock(path)
    assert opened.mirror.root == str(mirror)
    with pytest.raises(TransferError, match="mirror"):
        opened.materialize(tmp_path / "copy")
    assert restore(path, tmp_path / "copy", mirror="sample").counts["fetched"] == 6
    before = path.read_bytes()
    assert opened.lock(path).read_bytes() == before
    named = PAIR.lock(tmp_path / "y.json", mirror="aws")
    assert open_lock(named).mirror.name == "aws"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("../x", PlanError),
        ("%Nothing", PlanError),
        ("%series_revised_idc_version/%x", PlanError),
    ],
)
def test_a_layout_that_cannot_be_is_refused_when_it_is_locked(
    template, error, tmp_path
):
    with pytest.raises(error):
        PAIR.lock(tmp_path / "x.json", dir_template=template)
    assert list(tmp_path.iterdir()) == []


# What a newer release changes.


def test_a_newer_release_is_held_against_a_lock(locks):
    check = check_lock(locks["many"], 25)
    assert check
    assert (check.idc_version, check.against) == (20, 25)
    assert (len(check.added), len(check.removed)) == (27, 0)
    assert (len(check.revised), check.unchanged) == (933, 299)
    assert check.difference.counts["revised"] == 933
    assert len(check.superseded) == 933
    assert check.withdrawn == ()
    assert check.reproducible is True
    new = set(SLIDES.at(25).manifest().uuids)
    assert set(check.superseded) <= set(SLIDES.manifest().uuids)
    assert set(check.superseded.values()) <= new
    assert "revised       933" in str(check)
    assert "933" in check._repr_html_()


def test_withdrawn_series_are_named_whether_or_not_the_question_finds_them(locks):
    check = check_lock(open_lock(locks["few"]), 25)
    assert (len(check.superseded), len(check.withdrawn)) == (3, 13)
    assert len(check.removed) == 13
    kept = set(open_idc(25).search(collection_id="htan_ohsu").keys())
    locked = dict(zip(HTAN.manifest().uuids, HTAN.keys(), strict=True))
    assert not {locked[uuid] for uuid in check.withdrawn} & kept


@pytest.mark.parametrize("name", ["few", "many", "newest", "expression"])
def test_nothing_to_say_is_false(locks, name):
    version = COHORTS[name].idc_version
    check = check_lock(locks[name], version)
    assert not check
    assert check.reproducible is True
    assert "reproducible  yes" in str(check)


def test_another_licence_is_a_change(locks, tmp_path):
    def change(document):
        document["series"]["rows"][0]["license_short_name"] = "CC BY 3.0"

    document = changed(locks["newest"], change)
    rows = pa.Table.from_pylist(document["series"]["rows"])
    rows = rows.append_column(
        "series_size_MB", pa.array(r / 1e6 for r in rows["size"].to_pylist())
    )
    lock = form.Lock(document["question"], document["release"])
    written = form.write(lock, Manifest(rows.drop_columns(["size"]), 25, ""), "x.json")
    (tmp_path / "x.json").write_bytes(written.text)
    check = check_lock(tmp_path / "x.json", 25)
    assert check
    assert check.relicensed == {rows["crdc_series_uuid"][0].as_py(): "CC BY 4.0"}
    assert not check.difference
    assert "relicensed    1" in str(check)


def test_a_manifest_with_two_uuids_of_one_series_is_checked(tmp_path):
    both = [*OLD_CT.manifest().uuids, *OLD_CT.at(2).manifest().uuids]
    path = tmp_path / "x.s5cmd"
    path.write_text("".join(f"cp s3://intake-idc-sample/{u}/* .\n" for u in both))
    cohort = open_manifest(path, tables="sample", idc_version=2)
    check = check_lock(cohort.lock(tmp_path / "x.json"))
    assert (check.series, check.superseded) == (2, {both[0]: both[1]})
    assert check.reproducible is True


def test_the_current_release_is_what_a_lock_is_held_against(locks):
    assert check_lock(locks["sample"]).against == 2
    assert check_lock(locks["few"]).against == open_idc().idc_version
    assert len(check_lock(locks["sample"]).revised) == 1


def test_tables_that_do_not_give_the_release_say_so(locks, tmp_path):
    for name in ("idc_index", "version_metadata_index"):
        shutil.copy(sample_path() / "tables" / f"{name}.parquet", tmp_path)
    check = check_lock(locks["sample"], 2, tables=tmp_path)
    assert check.reproducible is None
    assert "prior_versions_index" in check.reason
    assert "not known" in str(check)
    other = check_lock(locks["few"], 2, tables="sample")
    assert other.reproducible is None
    assert len(other.withdrawn) == len(HTAN)


def test_a_lock_that_its_question_does_not_give_is_not_reproducible(locks, tmp_path):
    def change(document):
        document["question"]["selection"]["where"][0]["is"] = ["ANN", "CT", "MR"]

    path = tmp_path / "x.json"
    path.write_bytes(signed(changed(locks["sample"], change)))
    check = check_lock(path, 1)
    assert check.reproducible is False
    assert (len(check.lost), len(check.gained)) == (0, 1)
    assert check
    assert "0 lost, 1 gained" in str(check)

    def misspell(document):
        document["question"]["selection"]["where"][0]["column"] = "Modalty"

    path.write_bytes(signed(changed(locks["sample"], misspell)))
    with pytest.raises(RequestError, match="Modality"):
        check_lock(path, 1)


def test_only_a_lock_can_be_checked():
    with pytest.raises(RequestError, match=r"Cohort\.lock"):
        check_lock(HTAN)


# Restoring.


def tree(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.dcm"))
    }


def sha_of(uuids):
    return sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for uuid in uuids
        for path in (BUCKET / uuid).iterdir()
    )


def test_the_locked_release_comes_back_although_the_index_moved_on(locks, tmp_path):
    assert open_idc(tables="sample").idc_version == 2
    report = restore(locks["sample"], tmp_path / "copy")
    assert report.counts["fetched"] == 6
    now = set(PAIR.at(2).manifest().uuids)
    assert not set(OLD_CT.manifest().uuids) & now
    assert sorted(tree(tmp_path / "copy").values()) == sha_of(PAIR.manifest().uuids)
    direct = PAIR.materialize(tmp_path / "direct")
    assert tree(tmp_path / "copy") == tree(tmp_path / "direct")
    assert len(direct.paths) == 6
    again = restore(locks["sample"], tmp_path / "copy")
    assert again.counts["kept"] == 6


@pytest.mark.servers
def test_a_lock_is_restored_from_s3(s3_nginx, tmp_path):
    cohort = PAIR.reading_from("aws", endpoint_url=s3_nginx.endpoint)
    path = cohort.lock(tmp_path / "x.lock.json")
    restore(path, tmp_path / "copy")
    assert sorted(tree(tmp_path / "copy").values()) == sha_of(PAIR.manifest().uuids)


def test_a_series_that_a_mirror_lost_objects_of_is_not_restored(locks, tmp_path):
    mirror = tmp_path / "mirror"
    shutil.copytree(BUCKET, mirror)
    victim = PAIR.manifest().uuids[1]
    next((mirror / victim).iterdir()).unlink()
    with pytest.raises(TransferError, match=f"{victim}/ lists"):
        restore(locks["sample"], tmp_path / "copy", mirror=mirror)
    shutil.rmtree(mirror / victim)
    with pytest.raises(TransferError, match="holds no object of series") as caught:
        restore(locks["sample"], tmp_path / "copy", mirror=mirror)
    assert [outcome.url for outcome in caught.value.report.failures] == [
        f"{mirror}/{victim}/"
    ]
    names = {path.name for path in (BUCKET / victim).iterdir()}
    assert not names & {path.name for path in (tmp_path / "copy").rglob("*.dcm")}


def test_foreign_objects_in_the_folder_are_found(locks, tmp_path):
    PAIR.at(2).materialize(tmp_path)
    with pytest.raises(IntegrityError, match="belongs to no locked series") as caught:
        restore(locks["sample"], tmp_path)
    assert len(caught.value.details["wrong"]) == 1


def test_what_is_damaged_after_the_copy_is_found(locks, tmp_path):
    report = restore(locks["sample"], tmp_path)
    opened = open_lock(locks["sample"])
    report.paths[0].write_bytes(b"short")
    report.paths[5].unlink()
    with pytest.raises(IntegrityError, match="the index says") as caught:
        locking._check_copy(opened, report)
    assert len(caught.value.details["wrong"]) == 2
    assert restore(locks["sample"], tmp_path).counts == {
        "fetched": 1,
        "replaced": 1,
        "kept": 4,
        "failed": 0,
    }


def test_a_target_that_is_no_folder_of_this_machine_is_refused(locks):
    with pytest.raises(RequestError, match="this machine"):
        restore(locks["sample"], "s3://bucket/x")
    assert not Path("s3:").exists()
