"""The command: what it prints, what it writes, how it ends."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intake_idc import (
    check_lock,
    diff,
    open_idc,
    open_lock,
    open_manifest,
    open_release,
    resolve_mirror,
    sample_path,
    transfer,
)
from intake_idc.cli import command, main
from intake_idc.cli.copies import reported
from intake_idc.errors import TransferError

COMMAND = [sys.executable, "-m", "intake_idc"]


@dataclass(frozen=True)
class Ended:
    """What the command printed, and how it ended."""

    stdout: str
    stderr: str
    returncode: int


def ended(*arguments: str) -> Ended:
    """Run the command in this process; what it does not foresee fails the test."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as done:
            code = done.code
    assert isinstance(code, int)
    return Ended(out.getvalue(), err.getvalue(), code)


def run(*arguments: str, code: int = 0) -> str:
    """Run the command in this process; give what it printed, or why it did not."""
    done = ended(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def started(*arguments: str) -> Ended:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ended(done.stdout, done.stderr, done.returncode)


def commands(group: click.Group) -> dict[str, click.Command]:
    """The commands of a group, which may load each when it is asked for."""
    context = click.Context(group)
    found = {
        name: group.get_command(context, name) for name in group.list_commands(context)
    }
    return {name: verb for name, verb in found.items() if verb is not None}


def verbs(
    group: click.Group, *words: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command, those of groups too, with the words that name it."""
    for name, verb in commands(group).items():
        yield (*words, name), verb
        if isinstance(verb, click.Group):
            yield from verbs(verb, *words, name)


VERBS = {" ".join(words): verb for words, verb in verbs(command)}


def test_help_names_every_command():
    text = run("--help")
    for name in commands(command):
        assert f"\n  {name} " in text
    assert len(VERBS) > 15
    assert "\n  Exit codes: 0 done, 2 asked wrongly" in text
    assert run("--version").startswith("intake-idc, version ")


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_command_names_its_options_and_says_what_each_is(name):
    text = run(*name.split(), "-h")
    assert f"Usage: intake-idc {name} " in text
    for parameter in VERBS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[-1] in text
            assert parameter.help
    assert "\\b" not in text


def test_the_demo_shows_the_whole_walk():
    text = run("demo")
    for line in (
        "IDC release 25",
        "1,044,191 series in 179 collections",
        "at release 20: 1,232 series",
        "revised    933",
        "read back: 1,232 series of release 20, the same",
        "nothing is opened yet",
        "npartitions=3",
        "mean of slice",
        "fetched        3",
        "match    3",
        "kept           3",
        "Next:",
    ):
        assert line in text, line


def test_releases_are_listed_as_text_and_json():
    text = run("releases")
    assert "947,580" in text
    assert "survivors only" in text
    found = json.loads(run("releases", "--json", "--tables", "sample"))
    assert [(r["idc_version"], r["series"]) for r in found] == [(1, 3), (2, 4)]


def test_a_cohort_is_selected_by_filters():
    text = run("select", "collection_id=rider_pilot", "Modality=CT,DX", "--diff", "20")
    assert "series       192" in text
    assert "unchanged  192" in text
    listed = run("select", "collection_id=rider_pilot", "Modality=CT", "--list").split()
    assert (
        listed == open_idc(25).search(collection_id="rider_pilot", Modality="CT").keys()
    )
    text = run(
        "select",
        "collection_id=rider_pilot",
        "SeriesDescription=~(?i)chest",
        "PatientAge=",
        "instanceCount=1,2,3",
        "--where",
        "series_size_MB > 0",
        "--idc-version",
        "24",
    )
    assert "IDC release 24" in text


def test_a_list_and_a_file_are_both_given(tmp_path):
    path = tmp_path / "c.s5cmd"
    listed = run("select", "collection_id=rider_pilot", "--list", "-o", str(path))
    assert len(listed.split()) == len(open_manifest(path)) == 774


@pytest.mark.parametrize("name", ["c.s5cmd", "c.yml", "c.csv", "c.parquet"])
def test_a_cohort_is_written(tmp_path, name):
    path = tmp_path / name
    assert f"wrote {path}" in run(
        "select", "collection_id=rider_pilot", "-o", str(path)
    )
    assert path.stat().st_size > 100
    if name == "c.s5cmd":
        assert len(open_manifest(path)) == 774
        assert "series       774" in run("select", str(path))
        google = tmp_path / "g.s5cmd"
        run("select", str(path), "-o", str(google), "--bucket", "gcs")
        assert "storage.googleapis.com" in google.read_text()


def test_a_copy_runs_twice_and_is_verified(tmp_path):
    sample = ["Modality=CT", "--tables", "sample"]
    target = tmp_path / "copy"
    report = tmp_path / "report.jsonl"
    assert "to fetch        3" in run("copy", *sample, "--to", str(target), "--dry-run")
    assert not target.exists()
    missing = run("verify", *sample, str(target), code=5)
    assert "is not what the cohort says" in missing
    assert "fetched        3" in run(
        "copy", *sample, "--to", str(target), "--report", str(report)
    )
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert [row["status"] for row in rows] == ["fetched"] * 3
    assert all(Path(row["path"]).is_file() for row in rows)
    assert "kept           3" in run("copy", *sample, "--to", str(target))
    assert "match    3" in run("verify", *sample, str(target))
    run("copy", *sample, "--to", str(tmp_path / "flat"), "--dir-template", "")
    assert len(list((tmp_path / "flat").glob("*.dcm"))) == 3


# What a cohort is named by.

SAMPLE = ("--tables", "sample")


@pytest.fixture
def locked(tmp_path) -> Path:
    """A lock of release 1 of the sample, of which release 2 revised a series."""
    path = tmp_path / "s.lock.json"
    run("lock", *SAMPLE, "--idc-version", "1", "Modality=CT,MR", "-o", str(path))
    return path


@pytest.mark.parametrize(
    ("named", "number"),
    [("20", 20), ("current", 25), ("2024-09-01", 19), (None, 25)],
)
def test_a_release_is_named_by_number_day_or_as_current(named, number):
    option = [] if named is None else ["--idc-version", named]
    assert f"IDC release {number}\n" in run("select", "Modality=SM", *option)


def test_the_release_of_a_manifest_is_its_own_unless_another_is_named(tmp_path):
    path = tmp_path / "m.s5cmd"
    run("select", "collection_id=rider_pilot", "--idc-version=20", "-o", str(path))
    assert "IDC release 20" in run("select", str(path))
    assert "IDC release 25" in run("select", str(path), "--idc-version", "current")


@pytest.mark.parametrize("place", ["folder", "sample"])
def test_tables_are_named_by_whatever_finds_them(place, tmp_path):
    spec = "sample"
    if place == "folder":
        spec = str(shutil.copytree(sample_path() / "tables", tmp_path / "tables"))
    assert "series       4" in run("select", "--tables", spec)


def test_series_that_may_not_be_used_commercially_are_left_out():
    text = run("select", "collection_id=nsclc_radiomics", "--commercial-use")
    assert "series       3,661" in text
    assert "left out     CC BY-NC 3.0 (1,265)" in text


def test_a_lock_is_a_cohort_to_narrow_to_write_and_to_copy(locked, tmp_path):
    assert "Locked cohort of IDC release 1" in run("select", str(locked))
    uids = open_lock(locked).search(Modality="MR").keys()
    assert run("select", str(locked), "Modality=MR", "--list").split() == uids
    written = tmp_path / "m.s5cmd"
    run("select", str(locked), "-o", str(written))
    assert open_manifest(written, tables="sample").keys() == open_lock(locked).keys()
    assert "fetched        6" in run("copy", str(locked), "--to", str(tmp_path / "c"))
    assert "match    6" in run("verify", str(locked), str(tmp_path / "c"))


def test_a_filter_may_end_like_a_file(locked):
    text = run("select", *SAMPLE, "SeriesDescription=x.lock.json", code=2)
    assert "no series has SeriesDescription = 'x.lock.json'" in text
    assert locked.is_file()


# Locks.


def test_a_lock_is_written_with_its_folders_and_its_mirror(tmp_path):
    path = tmp_path / "flat.lock.json"
    text = run(
        "lock", *SAMPLE, "Modality=CT", "--dir-template", "%Modality",
        "--mirror", "sample", "-o", str(path),
    )  # fmt: skip
    locked = open_lock(path).locked
    assert locked is not None
    assert f"lock         {locked.digest}" in text
    assert (locked.dir_template, dict(locked.mirror or {})) == (
        "%Modality",
        {"mirror": "sample"},
    )
    run("restore", str(path), "--to", str(tmp_path / "c"), "--digest", locked.digest)
    assert len(list((tmp_path / "c" / "CT").glob("*.dcm"))) == 3
    other = tmp_path / "other"
    run("restore", str(path), "--to", str(other), "--dir-template", "%collection_id")
    assert {path.name for path in other.iterdir() if path.is_dir()} == {
        "sample_ct",
        ".idc",
    }


def test_a_narrowed_lock_is_locked_again(locked, tmp_path):
    again = tmp_path / "again.lock.json"
    run("lock", str(locked), "Modality=MR", "-o", str(again))
    assert open_lock(again).keys() == open_lock(locked).search(Modality="MR").keys()


def test_a_check_ends_with_5_where_a_release_would_change_something(locked):
    same = run("lock", "--check", str(locked), "--against", "1")
    assert "reproducible  yes" in same
    done = ended("lock", "--check", str(locked))
    assert done.returncode == 5
    assert "superseded    1" in done.stdout
    assert "release 2 would change the cohort" in done.stderr
    facts = json.loads(ended("lock", "--check", str(locked), "--json").stdout)
    found = check_lock(locked)
    for name in ("against", "added", "revised", "unchanged", "superseded"):
        assert facts[name] == json.loads(json.dumps(getattr(found, name))), name


def test_a_check_ends_with_5_where_the_tables_do_not_give_the_series_again(locked):
    done = ended("lock", "--check", str(locked), "--tables", "installed")
    assert done.returncode == 5
    assert "reproducible  no" in done.stdout
    assert "does not give the series" in done.stderr


def test_a_list_of_series_has_no_question_to_check(tmp_path):
    manifest, path = tmp_path / "m.s5cmd", tmp_path / "m.lock.json"
    run("select", "collection_id=rider_pilot", "-o", str(manifest))
    run("lock", str(manifest), "Modality=CT", "-o", str(path))
    facts = json.loads(run("lock", "--check", str(path), "--json"))
    assert (facts["series"], facts["added"], facts["reproducible"]) == (172, None, True)


def test_what_was_locked_is_restored_and_read_where_an_option_says(locked, tmp_path):
    target = tmp_path / "c"
    assert "fetched        6" in run("restore", str(locked), "--to", str(target))
    again = run("restore", str(locked), "--to", str(target), "--engine", "fsspec")
    assert "kept           6" in again
    copied = next(target.rglob("*.dcm"))
    shutil.copy(copied, copied.with_name("stray.dcm"))
    text = run("restore", str(locked), "--to", str(target), code=5)
    assert "is not what was locked" in text


def test_a_copy_that_is_not_whole_shows_its_report(tmp_path, capsys):
    bucket = shutil.copytree(sample_path() / "bucket", tmp_path / "bucket")
    mirror = resolve_mirror(bucket)
    ct = open_idc(2, tables="sample").search(Modality="CT")
    plan = ct.plan(tmp_path / "copy", mirror=mirror)
    # An object that turns short after it was listed.
    victim = min((bucket / ct.manifest().uuids[0]).iterdir())
    victim.write_bytes(victim.read_bytes()[:-7])
    path = tmp_path / "report.jsonl"
    with pytest.raises(TransferError) as failed:
        reported(lambda: transfer.run(plan, mirror, None), path)
    assert failed.value.exit_code == 4
    assert "failed         1" in capsys.readouterr().out
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(row["status"] for row in rows) == ["failed", "fetched", "fetched"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("select", "-o", "s3://bucket/c.s5cmd"),
        ("lock", "-o", "https://host/c.lock.json"),
        ("verify", "s3://bucket/c"),
    ],
)
def test_a_url_is_not_taken_for_a_folder(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb, *rest = arguments
    message = run(verb, *SAMPLE, "Modality=CT", *rest, code=2)
    assert "written to a folder of this machine" in message
    assert rest[-1] in message
    assert list(tmp_path.iterdir()) == []


# Differences and histories.


def test_two_releases_are_compared():
    text = run("diff", "24", "25")
    assert "revised    12,043 series" in text
    assert text == f"{diff(24, 25)}\n"
    assert run("diff", "2024-09-01", "18") == f"{diff(18, 19)}\n"


@pytest.mark.parametrize("kind", ["added", "removed", "revised"])
def test_series_of_one_kind_are_listed(kind):
    found = diff(1, 2, tables="sample")
    listed = run("diff", "1", "2", *SAMPLE, "--list", kind).split()
    assert listed == list(getattr(found, kind))
    assert listed


def test_a_difference_is_given_by_collection_and_as_json():
    text = run("diff", "24", "25", "--by-collection")
    found = diff(24, 25)
    names = [line.split()[0] for line in text.splitlines()[1:]]
    assert len(names) == 69
    facts = json.loads(run("diff", "24", "25", "--by-collection", "--json"))
    assert facts["series"] == found.counts
    assert facts["bytes"] == found.bytes
    assert [row["collection_id"] for row in facts["by_collection"]] == names
    assert "by_collection" not in json.loads(run("diff", "1", "2", *SAMPLE, "--json"))


@pytest.mark.parametrize("name", ["d.csv", "d.parquet"])
@pytest.mark.parametrize("option", [[], ["--by-collection"], ["--list", "added"]])
def test_a_difference_is_written(name, option, tmp_path):
    path = tmp_path / name
    done = ended("diff", "1", "2", *SAMPLE, *option, "-o", str(path))
    listed = "--list" in option
    assert f"wrote {path}\n" in (done.stderr if listed else done.stdout)
    found = diff(1, 2, tables="sample")
    table = found.by_collection if "--by-collection" in option else found.table
    if name == "d.parquet":
        assert pq.read_table(path).equals(table)
        return
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == table.column_names
    assert len(rows) == table.num_rows


def test_the_attributes_of_a_release_of_its_own_tables_are_compared(tmp_path):
    folder = shutil.copytree(sample_path() / "tables", tmp_path / "tables")
    index = pq.read_table(folder / "idc_index.parquet")
    place = index.column_names.index("license_short_name")
    texts = ["CC BY 4.0"] * index.num_rows
    changed = index.set_column(place, "license_short_name", [texts])
    pq.write_table(changed, folder / "idc_index.parquet")
    path = tmp_path / "d.csv"
    listed = run(
        "diff", "2", "2", *SAMPLE, "--old-tables", str(folder), "--list", "changed",
        "-o", str(path),
    ).split()  # fmt: skip
    assert sorted(listed) == sorted(open_idc(2, tables="sample").keys())
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["changed"] for row in rows} == {"license_short_name"}


def test_a_series_has_a_history_by_either_name():
    old = "1a9054bb-f38c-4482-aa40-598b66e284b8"
    text = run("history", old)
    facts = json.loads(run("history", old, "--json"))
    assert run("history", facts["SeriesInstanceUID"]) == text
    assert (facts["newest"], facts["withdrawn"]) == (25, None)
    assert [life["first_idc_version"] for life in facts["lives"]] == [8, 10, 25]
    (gone,) = diff(1, 2, tables="sample").removed
    assert "withdrawn with release 2" in run("history", gone, *SAMPLE)


# Citations.


@pytest.mark.parametrize("form", ["text", "bibtex", "csl", "notice"])
def test_a_cohort_is_cited_in_every_form(form, tmp_path):
    ct = open_idc(2, tables="sample").search(Modality="CT")
    cited = ct.citations()
    expected = {
        "text": cited.text(),
        "bibtex": cited.bibtex(),
        "notice": cited.notice(ct.manifest().digest),
    }
    printed = run("cite", *SAMPLE, "Modality=CT", "--format", form)
    if form == "csl":
        assert json.loads(printed) == cited.csl()
    else:
        assert printed == expected[form]
    path = tmp_path / "cited"
    said = run("cite", *SAMPLE, "Modality=CT", "--format", form, "-o", str(path))
    assert said == f"wrote {path}\n"
    assert path.read_text("utf-8") == printed


def test_a_notice_is_that_of_the_copy(tmp_path):
    notice = run("cite", *SAMPLE, "Modality=CT", "--format", "notice")
    run("copy", *SAMPLE, "Modality=CT", "--to", str(tmp_path / "c"))
    assert (tmp_path / "c" / "NOTICE.txt").read_text("utf-8") == notice
    run("copy", *SAMPLE, "Modality=CT", "--to", str(tmp_path / "d"), "--no-notice")
    assert not (tmp_path / "d" / "NOTICE.txt").exists()


def test_what_cannot_be_cited_or_is_in_conflict_is_said_aside():
    done = ended("cite", "collection_id=cptac_brca", "--idc-version", "17")
    assert done.returncode == 0
    assert "not cited: cptac_brca: 2 series" in done.stderr
    assert "cptac_brca: 2 series" not in done.stdout
    done = ended("cite", "collection_id=phantom_fda")
    assert "conflicting licence: phantom_fda" in done.stderr


# Tables.


def test_tables_are_listed_with_those_that_can_be_fetched():
    text = run("tables")
    assert "idc_index               yes      1,044,191" in text
    assert "ct_index                fetched" in text
    assert text == run("tables", "list")
    facts = {row["table"]: row for row in json.loads(run("tables", *SAMPLE, "--json"))}
    assert facts["idc_index"] == {
        "table": "idc_index", "at_hand": True, "rows": 4, "columns": 32,
    }  # fmt: skip
    older = json.loads(run("tables", "--idc-version", "20", "--json"))
    rows = {row["table"]: row["rows"] for row in older}
    assert rows["idc_index"] == len(open_idc(20))
    assert rows["ct_index"] is None


def test_a_table_is_shown_and_written(tmp_path):
    done = ended("tables", "show", "idc_index", "--idc-version", "20", "--limit", "2")
    assert done.stdout.startswith("collection_id")
    assert len(done.stdout.splitlines()) == 3
    assert f"2 of {len(open_idc(20)):,} rows" in done.stderr
    columns = "collection_id,cancer_types"
    text = run("tables", "show", "collections_index", *SAMPLE, "--columns", columns)
    header, *lines = text.splitlines()
    assert header.split() == columns.split(",")
    assert len(lines) == 5
    table = open_release(25).index_table("collections_index")
    for name in ("t.parquet", "t.csv"):
        path = tmp_path / name
        said = run("tables", "show", "collections_index", "-o", str(path))
        assert said == f"wrote {path}\n"
    assert pq.read_table(tmp_path / "t.parquet").equals(table)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == table.num_rows
    nested = [f.name for f in table.schema if "list" in str(f.type)]
    for name in nested:
        read = [json.loads(row[name]) if row[name] else None for row in rows]
        assert read == json.loads(
            json.dumps(table.column(name).to_pylist(), default=str)
        )


def test_a_table_that_is_left_out_is_fetched_once(tmp_path, monkeypatch):
    version = open_release(25).source.split()[-1]
    shelf = tmp_path / "shelf" / version
    shelf.mkdir(parents=True)
    shutil.copy(
        sample_path() / "tables" / "collections_index.parquet",
        shelf / "ct_index.parquet",
    )
    monkeypatch.setenv("INTAKE_IDC_ARTIFACTS", str(tmp_path / "shelf"))
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(tmp_path / "cache"))
    path = Path(run("tables", "fetch", "ct_index", "idc_index").splitlines()[0])
    assert path.is_relative_to(tmp_path / "cache")
    assert path.is_file()
    shutil.rmtree(tmp_path / "shelf")
    assert len(run("tables", "show", "ct_index").splitlines()) == 6
    assert "ct_index                yes" in run("tables")
    assert "tables  1 of" in run("cache", "show")


def test_columns_are_found_by_words():
    text = run("tables", "find", "slice", "thickness")
    assert [line.split()[:2] for line in text.splitlines()[1:3]] == [
        ["ct_index", "SliceThickness"],
        ["mr_index", "SliceThickness"],
    ]
    first = json.loads(run("tables", "find", "SliceThickness", "--json"))[0]
    assert (first["table"], first["at_hand"]) == ("ct_index", False)
    assert "collections_index" in run("tables", "find", "cancer", *SAMPLE)


# The cache.


def test_the_cache_is_built_shown_and_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INTAKE_IDC_CACHE_SIZE", "50MB")
    built = Path(run("cache", "build", *SAMPLE).splitlines()[0])
    assert built.is_relative_to(tmp_path / "cache")
    text = run("cache", "show")
    assert f"folder   {tmp_path / 'cache'}" in text
    assert "bound    50.00 MB" in text
    facts = json.loads(run("cache", "show", "--json"))
    assert facts["limit"] == 50_000_000
    assert facts["kinds"]["derived"]["files"] >= 1
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert facts["files"] == len(files) - 1  # The marker is not counted.
    assert run("cache", "clear").startswith("freed ")
    assert json.loads(run("cache", "show", "--json"))["files"] == 0


def test_a_cache_that_is_off_is_said_to_be(monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_CACHE", "off")
    assert "folder  none" in run("cache", "show")
    assert json.loads(run("cache", "show", "--json"))["folder"] is None
    assert run("cache", "clear") == "freed 0 B\n"
    assert "there is no cache" in run("cache", "build", *SAMPLE, code=2)


def test_a_folder_with_other_things_in_it_is_no_cache(tmp_path, monkeypatch):
    """It would be cleared, and deleted from when it is full."""
    kept = tmp_path / "home" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(kept.parent))
    for verb in (["cache", "clear"], ["cache", "build", *SAMPLE], ["cache", "show"]):
        assert "holds something already" in run(*verb, code=2)
    assert [path.name for path in kept.parent.iterdir()] == ["thesis.txt"]


# The Parquet export, in a folder.


@pytest.fixture
def exported(tmp_path) -> str:
    """The export of the sample's release 2, made of its objects."""
    ct = open_idc(2, tables="sample").search(Modality="CT")
    bucket = sample_path() / "bucket"
    paths = sorted((bucket / ct.manifest().uuids[0]).iterdir())
    rows = pa.table({
        "crdc_series_uuid": [path.parent.name for path in paths],
        "crdc_instance_uuid": [path.stem for path in paths],
        "instance_size": [path.stat().st_size for path in paths],
        "instance_hash": [
            hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            for path in paths
        ],
        "Modality": ["CT"] * len(paths),
    })  # fmt: skip
    folder = tmp_path / "mine" / "bigquery_export" / "idc_v2" / "dicom_all"
    folder.mkdir(parents=True)
    pq.write_table(rows, folder / "000000000000.parquet")
    return str(tmp_path / "mine")


def test_a_table_of_the_export_is_described_counted_and_read(exported, tmp_path):
    words = ["export", "dicom_all", *SAMPLE, "--mirror", exported]
    done = ended(*words)
    assert done.stdout.splitlines()[1] == "crdc_series_uuid    string"
    assert done.stderr.startswith("1 file, ")
    assert run(*words, "--count") == "3\n"
    assert run(*words, "--count", "--where", "Modality = 'MR'") == "0\n"
    done = ended(*words, "--columns", "Modality,instance_size", "--limit", "1")
    assert done.stdout.splitlines()[0].split() == ["Modality", "instance_size"]
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "1 of 3 rows\n"
    path = tmp_path / "rows.parquet"
    run(*words, "--where", "instance_size > 0", "-o", str(path))
    assert pq.read_table(path).num_rows == 3


def test_objects_take_the_place_of_listings_and_have_md5s(exported, tmp_path):
    path, target = tmp_path / "ct.objects.parquet", tmp_path / "copy"
    ct = [*SAMPLE, "Modality=CT"]
    assert "wrote" in run("objects", *ct, "--mirror", exported, "-o", str(path))
    run("copy", *ct, "--to", str(target), "--objects", str(path))
    words = ["verify", *ct, str(target), "--objects", str(path), "--checksum"]
    assert "match       3" in run(*words)
    file = next(target.rglob("*.dcm"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "match    3" in run("verify", *ct, str(target), "--quick")
    assert "is not what the cohort says" in run(*words, code=5)
    assert "is not what its record says" in run("verify", str(target), code=5)
    assert "replaced       1" in run("repair", str(target))
    assert "match    3" in run("verify", str(target))


@pytest.fixture
def clinics(tmp_path) -> list[str]:
    """Tables of a release 12 with a dictionary, and an export of its one table."""
    tables = shutil.copytree(sample_path() / "tables", tmp_path / "tables")
    index = pq.read_table(tables / "idc_index.parquet")
    for name in ("series_init_idc_version", "series_revised_idc_version"):
        of_12 = pa.array([12] * len(index), index.schema.field(name).type)
        index = index.set_column(index.column_names.index(name), name, of_12)
    pq.write_table(index, tables / "idc_index.parquet")
    (tables / "version_metadata_index.parquet").unlink()
    rows = [
        {
            "collection_id": "sample_ct",
            "table_name": "x.sample_clinical",
            "short_table_name": "sample_clinical",
            "column": name,
            "column_label": label,
            "values": [{"option_code": c, "option_description": d} for c, d in codes],
        }
        for name, label, codes in [
            ("sex", "Sex", [("1", "female"), ("2", "male")]),
            ("dicom_patient_id", None, []),
        ]
    ]
    pq.write_table(pa.Table.from_pylist(rows), tables / "clinical_index.parquet")
    folder = tmp_path / "m" / "bigquery_export" / "idc_v12_clinical" / "sample_clinical"
    folder.mkdir(parents=True)
    patient = open_idc(2, tables="sample").search(Modality="CT").unique("PatientID")[0]
    people = {"dicom_patient_id": [patient, "X"], "sex": [1, 3]}
    pq.write_table(pa.table(people), folder / "000000000000.parquet")
    return ["--tables", str(tables), "--mirror", str(tmp_path / "m")]


def test_clinical_tables_are_listed_and_read_for_patients(clinics, tmp_path):
    text = run("clinical", *clinics[:2])
    assert text.splitlines()[1].split() == ["sample_clinical", "sample_ct", "2"]
    assert "1=female" in run("clinical", "list", "sample_ct", *clinics[:2])
    (facts,) = json.loads(run("clinical", "--json", *clinics[:2]))
    assert facts["columns"][0]["codes"] == {"1": "female", "2": "male"}
    show = ["clinical", "show", "sample_clinical", *clinics]
    done = ended(*show, "--decode")
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [
        "sex",
        "female",
        "3",
    ]
    assert "unknown codes of sex  3" in done.stderr
    done = ended(*show, "Modality=CT")
    assert len(done.stdout.splitlines()) == 2
    assert "1 of 1 matched" in done.stderr
    path = tmp_path / "c.csv"
    run(*show, "-o", str(path))
    assert len(path.read_text().splitlines()) == 3


# What goes wrong.

LOCK = "s.lock.json"
AGAIN = "did you mean"
BAD = {
    "no such command": (["nonsense"], 2, "No such command"),
    "no such option": (["select", "--nonsense"], 2, "No such option"),
    "not a filter": (["select", "rider_pilot"], 2, "COLUMN=VALUE"),
    "unknown column": (["select", "colection_id=x"], 2, f"{AGAIN} 'collection_id'"),
    "unknown value": (["select", "collection_id=nslt"], 2, f"{AGAIN} 'nlst'"),
    "not a number": (["select", "instanceCount=many"], 2, "is a number"),
    "unknown release": (["select", "--idc-version", "999"], 2, "no release 999"),
    "release in words": (["select", "--idc-version", "new"], 2, "a number, a day"),
    "no such day": (["select", "--idc-version", "2024-19-01"], 2, "no day"),
    "day before the first": (["select", "--idc-version", "2001-01-01"], 2, "was out"),
    "release 0": (["select", "--idc-version", "0"], 2, "no release 0"),
    "bad pattern": (["select", "Modality=~("], 2, "not a regular expression"),
    "no place to write": (["select", "Modality=SM", "-o", "/proc/x.csv"], 4, "/proc"),
    "endpoint of no kind": (
        ["copy", "Modality=SM", "--endpoint-url", "localhost:9", "--to", "x"],
        2,
        "http://host",
    ),
    "report of a dry run": (
        ["copy", "Modality=CT", "--tables=sample", "--to=x", "--dry-run", "--report=r"],
        2,
        "--report",
    ),
    "diff with words": (["select", "--diff", "new"], 2, "--diff is a number"),
    "no lock": (["select", "none.lock.json"], 4, "is not there"),
    "a lock and tables": (["select", LOCK, *SAMPLE], 2, "--tables does not apply"),
    "a lock and a release": (
        ["copy", LOCK, "--idc-version=1", "--to=x"], 2, "--idc-version does not apply",
    ),
    "a lock as output": (["select", "-o", LOCK], 2, "intake-idc lock"),
    "lock to nowhere": (["lock", "Modality=SM"], 2, "--output names the lock"),
    "lock of another name": (["lock", "Modality=SM", "-o", "x.json"], 2, ".lock.json"),
    "lock of everything": (["lock", "-o", LOCK], 2, "--all"),
    "lock that leads out": (
        ["lock", "Modality=SM", "--dir-template=../x", "-o", LOCK], 3, "dir_template",
    ),
    "against without check": (["lock", "--against", "24", "-o", LOCK], 2, "--check"),
    "check and filters": (["lock", "--check", LOCK, "Modality=CT"], 2, "go together"),
    "check and output": (["lock", "--check", LOCK, "-o", LOCK], 2, "go together"),
    "check of no lock": (["lock", "--check", LOCK], 4, "is not there"),
    "check against words": (
        ["lock", "--check", LOCK, "--against=new"], 2, "--against is a number",
    ),
    "restore of no lock": (["restore", LOCK, "--to", "x"], 4, "is not there"),
    "restore to nowhere": (["restore", LOCK], 2, "Missing option '--to'"),
    "restore by no engine": (["restore", LOCK, "--to=x", "--engine=x"], 2, "--engine"),
    "diff of one": (["diff", "24"], 2, "Missing argument 'NEW'"),
    "diff with no release": (["diff", "24", "99"], 2, "no release 99"),
    "diff of words": (["diff", "old", "new"], 2, "OLD is a number"),
    "diff of no kind": (["diff", "1", "2", "--list", "same"], 2, "--list"),
    "diff in two forms": (
        ["diff", "1", "2", "--list=added", "--json"], 2, "do not go together",
    ),
    "diff to no table": (["diff", "1", "2", "-o", "x.doc"], 2, ".parquet"),
    "diff of unknown attributes": (
        ["diff", "24", "25", "--list", "changed"], 2, "not known",
    ),
    "history of no series": (["history", "1.2.3"], 2, "'1.2.3'"),
    "history of nothing": (["history"], 2, "Missing argument"),
    "history in no tables": (["history", "1.2", "--tables=/none"], 4, "idc_index"),
    "cite in no form": (["cite", "Modality=SM", "--format", "ris"], 2, "--format"),
    "cite nothing": (["cite", "--where", "instanceCount < 0"], 2, "no series"),
    "cite to no place": (["cite", "Modality=ANN", "-o", "/proc/x"], 4, "/proc"),
    "no such table": (["tables", "show", "ct_idx"], 4, f"{AGAIN} 'ct_index'"),
    "no such column": (
        ["tables", "show", "collections_index", "--columns=cancer"], 2, "'cancer'",
    ),
    "no rows": (["tables", "show", "idc_index", "--limit", "0"], 2, "--limit"),
    "table to no table": (["tables", "show", "idc_index", "-o=x.doc"], 2, ".parquet"),
    "no such tables command": (["tables", "nonsense"], 2, "No such command"),
    "tables before the command": (["tables", *SAMPLE, "show"], 2, "unexpected"),
    "tables of no release": (["tables", "--idc-version", "99"], 2, "no release 99"),
    "fetch nothing": (["tables", "fetch"], 2, "Missing argument"),
    "fetch no such table": (["tables", "fetch", "ct_idx"], 4, AGAIN),
    "fetch from the sample": (["tables", "fetch", "ct_index", *SAMPLE], 4, "expected"),
    "find nothing": (["tables", "find"], 2, "Missing argument"),
    "find no column": (["tables", "find", "slicethicknes"], 2, AGAIN),
    "find in no tables": (["tables", "find", "x", "--tables=/none"], 4, "idc_index"),
    "no cache command": (["cache", "drop"], 2, "No such command"),
    "cache of no tables": (["cache", "build", "--tables", "/none"], 4, "idc_index"),
    "cache with more": (["cache", "clear", "all"], 2, "unexpected"),
    "releases of no tables": (["releases", "--tables", "/none"], 4, "idc_index"),
    "export of words": (["export", "dicom_all", "--idc-version=x"], 2, "is a number"),
    "export in two forms": (
        ["export", "dicom_all", "--count", "--columns=a"], 2, "do not go together",
    ),
    "export that is not there": (
        ["export", "dicom_all", *SAMPLE, "--mirror", "."], 4, "no files of table",
    ),
    "export to no table": (["export", "dicom_all", "-o", "x.doc"], 2, ".parquet"),
    "objects to nowhere": (["objects", "Modality=SM"], 2, "--output names"),
    "objects to no table": (["objects", "Modality=SM", "-o", "x.doc"], 2, ".parquet"),
    "objects of everything": (["objects", *SAMPLE, "-o", "x.csv"], 2, "--all"),
    "objects that are not there": (
        ["copy", *SAMPLE, "Modality=CT", "--to=x", "--objects=x.csv"], 4, "no file",
    ),
    "clinical without a dictionary": (["clinical", *SAMPLE], 4, "clinical_index"),
    "clinical of no release": (["clinical", "--idc-version=99"], 2, "no release 99"),
    "clinical of nothing": (["clinical", "show"], 2, "Missing argument"),
    "clinical of an early release": (
        ["clinical", "show", "x", *SAMPLE, "--mirror=."], 2, "no clinical tables",
    ),
    "bad condition": (["select", "--where", "1=1; drop"], 2, "condition"),
    "bad output": (["select", "Modality=SM", "-o", "x.doc"], 2, ".s5cmd"),
    "everything": (["copy", "--to", "x"], 2, "--all"),
    "no tables": (["select", "--tables", "/none"], 4, "idc_index.parquet"),
    "no manifest": (["select", "none.s5cmd"], 4, "cannot be read"),
    "unknown mirror": (
        ["copy", "Modality=CT", "--tables", "sample", "--mirror", "/none", "--to", "x"],
        2,
        "no mirror",
    ),
    "outside": (
        ["copy", "Modality=CT", "--tables", "sample", "--dir-template=../x", "--to=x"],
        3,
        "dir_template",
    ),
    "dead server": (
        [
            "copy", "Modality=CT", "--tables", "sample", "--mirror", "aws", "--engine",
            "fsspec", "--endpoint-url", "http://127.0.0.1:9", "--to", "x",
        ],
        4,
        "127.0.0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "reason"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_its_exit_code(
    arguments, code, reason, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = run(*arguments, code=code)
    assert reason in text
    assert text.startswith(("intake-idc: ", "Usage: "))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_a_process_ends_with_the_exit_code(code, tmp_path):
    arguments, reason = {
        2: (["select", "rider_pilot"], "COLUMN=VALUE"),
        3: (["copy", "Modality=CT", *SAMPLE, "--dir-template=..", "--to=x"], ".."),
        4: (["select", "none.s5cmd"], "cannot be read"),
        5: (["verify", "Modality=CT", *SAMPLE, str(tmp_path)], "not what the cohort"),
    }[code]
    done = started(*arguments)
    assert done.returncode == code
    assert reason in done.stderr
    assert done.stderr.startswith("intake-idc: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_manifest_is_narrowed_and_its_bad_lines_left_out(tmp_path):
    path = (
        open_idc(25)
        .search(collection_id="rider_pilot")
        .to_manifest(tmp_path / "m.s5cmd")
    )
    path.write_text(path.read_text() + "rm s3://x/y\n")
    text = run("select", str(path), "Modality=CT", "--problems", "report")
    assert "series          172" in text
    assert "lines left out  1" in text
    copied = run("copy", "--tables", "sample", "--all", "--to", str(tmp_path / "c"))
    assert "fetched        9" in copied


def test_a_bad_manifest_ends_with_3_and_names_its_lines(tmp_path):
    path = tmp_path / "bad.s5cmd"
    path.write_text("rm s3://idc-open-data/x/*\ncp s3://idc-open-data/y/* .\n")
    text = run("select", str(path), code=3)
    assert "line 1" in text
    assert "line 2" in text


@pytest.mark.parametrize(
    "words",
    [
        "select collection_id=rider_pilot --list",
        "diff 24 25 --list revised",
        "cite collection_id=nlst --format bibtex",
        "releases --json",
    ],
)
def test_a_pipe_that_is_closed_ends_quietly(words):
    line = " ".join([*COMMAND, words])
    done = subprocess.run(
        ["bash", "-c", f"{line} | head -1"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_an_interrupt_ends_with_130():
    code = (
        "import os, signal, sys, threading, time\n"
        "import click\n"
        "from intake_idc import cli\n"
        "wait = click.Command('wait', callback=lambda: time.sleep(20))\n"
        "cli.command.add_command(wait)\n"
        "sys.argv = ['intake-idc', 'wait']\n"
        # Who is started in the background of a shell has it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert "interrupted" in done.stderr


def test_a_dry_run_says_which_series_cannot_be_listed(tmp_path):
    (tmp_path / "empty").mkdir()
    said = ["copy", *SAMPLE, "Modality=CT", "--mirror", str(tmp_path / "empty")]
    done = ended(*said, "--to", str(tmp_path / "copy"), "--dry-run")
    assert done.returncode == 4
    assert "series not listed  1" in done.stdout
    assert "1 series cannot be listed" in done.stderr
    assert not (tmp_path / "copy").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(
    ("own", "soft", "hard", "then"),
    [
        (True, 256, 2048, 2048),
        (True, 256, 256, 256),
        (True, 5000, 5000, 5000),
        (True, 256, 5000, 4096),
        (False, 256, 2048, 256),
    ],
)
def test_the_command_may_have_more_files_open_and_who_calls_it_keeps_their_limit(
    own, soft, hard, then
):
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < hard:
        pytest.skip(f"this machine lets a process have {most} files, less than {hard}")
    code = (
        "import contextlib, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from intake_idc.cli import main\n"
        "sys.argv = ['intake-idc', '--version']\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main({'' if own else 'sys.argv[1:]'})\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said.splitlines()[-1] == f"{then} {hard}"
