"""The command: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from intake_idc import open_idc, open_manifest

COMMAND = [sys.executable, "-m", "intake_idc"]


def run(*arguments: str, code: int = 0, cwd: Path | None = None) -> str:
    """Run the command in a process of its own; give what it printed."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def test_help_names_every_command():
    text = run("--help")
    for name in ("demo", "releases", "select", "copy", "verify"):
        assert name in text
        assert "Usage" in run(name, "--help")
    assert run("--version").startswith("intake-idc, version ")


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


AGAIN = "did you mean"
BAD = {
    "no such command": (["nonsense"], 2, "No such command"),
    "no such option": (["select", "--nonsense"], 2, "No such option"),
    "not a filter": (["select", "rider_pilot"], 2, "COLUMN=VALUE"),
    "unknown column": (["select", "colection_id=x"], 2, f"{AGAIN} 'collection_id'"),
    "unknown value": (["select", "collection_id=nslt"], 2, f"{AGAIN} 'nlst'"),
    "not a number": (["select", "instanceCount=many"], 2, "is a number"),
    "unknown release": (["select", "--idc-version", "999"], 2, "no release 999"),
    "release in words": (["select", "--idc-version", "new"], 2, "a number or"),
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
def test_bad_input_is_one_line_and_its_exit_code(arguments, code, reason, tmp_path):
    assert reason in run(*arguments, code=code, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def test_a_pipe_that_is_closed_is_no_traceback():
    command = " ".join([*COMMAND, "select", "collection_id=rider_pilot", "--list"])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_with_130():
    code = (
        "import os, signal, sys, threading, time\n"
        "import click\n"
        "from intake_idc import cli\n"
        "wait = click.Command('wait', callback=lambda: time.sleep(20))\n"
        "cli.command.add_command(wait)\n"
        "sys.argv = ['intake-idc', 'wait']\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert "interrupted" in done.stderr
