"""What a plan and a report show and hold, and the table beside a copy."""

from __future__ import annotations

import csv
import json
import pickle
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from intake_idc import cache, open_idc, resolve_mirror, sample_path
from intake_idc.cli import main
from intake_idc.errors import MirrorError, MissingError, PlanError, RequestError
from intake_idc.manifest import Part
from intake_idc.plan import make
from intake_idc.storage import Instance, Listed
from intake_idc.transfer import Report, remember
from intake_idc.transfer.report import STATUSES, Hashes, Times

SAMPLE = open_idc(2, tables="sample").all()
CT = SAMPLE.search(Modality="CT")
FAILED = STATUSES.index("failed")


def planned(folders: list[str], objects: int = 1, there=lambda _folder: {}, **options):
    """Plan series of some objects each, one for each folder."""
    uuids = [f"s{number}" for number in range(len(folders))]
    series = pa.table(
        {
            "crdc_series_uuid": uuids,
            "aws_bucket": ["b"] * len(folders),
            "folder": folders,
            "instanceCount": [objects] * len(folders),
            "size": [objects] * len(folders),
        }
    )
    listed = [
        Listed(
            [
                Instance(Part(uuid, "b"), f"{uuid}/{uuid}o{at}.dcm", 1, f"x/{uuid}")
                for at in range(objects)
            ]
        )
        for uuid in uuids
    ]
    mirror = resolve_mirror(sample_path() / "bucket")
    return make(series, listed, there, Path("/t"), mirror, **options)


# A plan.


def test_a_folder_that_series_come_back_to_is_looked_into_once():
    asked: list[str] = []

    def there(folder: str) -> dict[str, int]:
        asked.append(folder)
        return {"s2o0.dcm": 1}

    plan = planned(["CT", "MR", "CT", "MR", "MR", "PT"], there=there)
    assert asked == ["CT", "MR", "PT"]
    assert [step.action for step in plan.steps] == ["fetch"] * 2 + ["keep"] + [
        "fetch"
    ] * 3


def test_a_plan_shows_the_first_of_what_is_wrong_and_how_much_more_there_is():
    plan = planned(["<b>"], 11, longest=1)
    plan = replace(plan, delete=tuple(f"old/{number}" for number in range(20)))
    text, page = str(plan), plan._repr_html_()
    for shown in (text, page):
        assert shown.count("is not a name on every platform") == 8
        assert "and 3 more" in shown
        assert "old/7" in shown
        assert "old/8" not in shown
        assert "and 12 more" in shown
    assert "<b>" not in page
    with pytest.raises(PlanError, match=r"\(and 10 more\)") as caught:
        plan.check()
    assert len(caught.value.details["problems"]) == 11


def test_a_plan_and_a_report_are_short_where_they_are_named():
    plan = planned(["a"] * 500)
    assert repr(plan) == "<Plan of a copy to /t: fetch 500, keep 0, replace 0>"
    report = Report(plan, bytes(500))
    assert repr(report) == (
        "<Report of a copy to /t: fetched 500, replaced 0, kept 0, failed 0>"
    )


def test_some_steps_are_those_of_all():
    plan = planned([f"{number}" for number in range(30)], 300)
    every = list(plan.steps)
    for part in (slice(None, 20), slice(8_990, None), slice(None, None, -7), slice(0)):
        assert plan.steps[part] == every[part]
    assert plan.steps[-1] == every[-1]
    some = [5, 4_095, 4_096, 8_999]
    assert [row.row for row in plan.rows_of(some)] == some


# A report.


@given(st.dictionaries(st.integers(0, 30), st.integers(1, 1 << 62)))
def test_times_are_as_in_a_dict(known):
    times = Times(31)
    for row, value in known.items():
        times[row] = value
    assert times == known
    assert len(times) == len(known)
    assert [times.get(row, 0) for row in range(-2, 40)] == [
        known.get(row, 0) for row in range(-2, 40)
    ]
    assert pickle.loads(pickle.dumps(times)) == known


digests = st.one_of(
    st.binary(min_size=16, max_size=16).map(lambda digest: f"md5:{digest.hex()}"),
    st.binary(min_size=4, max_size=4).map(lambda digest: f"crc32c:{digest.hex()}"),
)


@given(st.lists(st.tuples(st.integers(0, 30), digests)))
def test_hashes_are_as_in_a_dict(told):
    hashes = Hashes(31)
    for row, value in told:
        hashes[row] = value
    known = dict(told)
    assert hashes == known
    assert len(hashes) == len(known)
    assert [hashes.get(row) for row in range(-2, 40)] == [
        known.get(row) for row in range(-2, 40)
    ]
    assert pickle.loads(pickle.dumps(hashes)) == known


def test_a_report_is_one_thing_as_a_table_as_lines_and_as_outcomes(tmp_path):
    done = SAMPLE.materialize(tmp_path / "copy", checksum="crc32c", notice=False)
    table = done.to_table()
    done.to_jsonl(tmp_path / "report.jsonl")
    lines = rows_of(tmp_path / "report.jsonl")
    assert table.to_pylist() == lines
    assert [line["path"] for line in lines] == list(map(str, done.paths))
    assert [line["hash"] for line in lines] == [own.hash for own in done.outcomes]
    assert all(line["hash"].startswith("crc32c:") for line in lines)
    assert pickle.loads(pickle.dumps(done)).to_table() == table


def test_a_report_of_nothing_has_its_columns():
    table = Report(planned([]), b"").to_table()
    assert table.num_rows == 0
    assert table.schema.field("size").type == pa.int64()
    assert table.schema.field("path").type == pa.string()


def test_of_many_failures_the_first_are_shown():
    plan = planned(["a"] * 500)
    report = Report(plan, bytes([FAILED]) * 500, dict.fromkeys(range(500), "<why>"))
    assert len(report.failures) == 500
    assert report.first_failures(1) == report.failures[:1]
    assert str(report).count("failed: ") == 10
    assert "and 490 more" in str(report)
    assert "<why>" not in report._repr_html_()


# The table beside a copy.


def rows_of(path: Path) -> list[dict[str, object]]:
    """Read a mapping, whatever it is written in; sizes are numbers."""
    kind = path.suffix
    if kind in (".csv", ".tsv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))
        return [{**row, "size": int(row["size"])} for row in rows]
    if kind in (".jsonl", ".ndjson"):
        return list(map(json.loads, path.read_text("utf-8").splitlines()))
    if kind == ".parquet":
        return parquet.read_table(path).to_pylist()
    return pa.ipc.open_file(path).read_all().to_pylist()


@pytest.mark.parametrize(
    "kind", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow"]
)
def test_a_mapping_says_which_file_is_which_object(tmp_path, kind):
    # It lies in the folder that the copy makes.
    path = tmp_path / "copy" / f"files{kind}"
    done = SAMPLE.materialize(
        tmp_path / "copy", file_names="slice", checksum="md5", mapping=path
    )
    rows = rows_of(path)
    assert [tmp_path / "copy" / row["path"] for row in rows] == done.paths
    for row, outcome in zip(rows, done.outcomes, strict=True):
        file = tmp_path / "copy" / row["path"]
        assert row["SOPInstanceUID"] == pydicom.dcmread(file).SOPInstanceUID
        assert Path(row["url"]).read_bytes() == file.read_bytes()
        assert Path(row["url"]).stem == row["crdc_instance_uuid"]
        assert Path(row["url"]).parent.name == row["crdc_series_uuid"]
        assert row["size"] == file.stat().st_size
        assert row["hash"] == outcome.hash


def test_a_mapping_of_no_known_kind_is_refused_before_the_copy(tmp_path):
    with pytest.raises(RequestError, match=r"\.parquet.*'files\.xlsx'"):
        CT.materialize(tmp_path / "copy", mapping=tmp_path / "files.xlsx")
    assert not (tmp_path / "copy").exists()


# The command.


def test_report_and_mapping_may_lie_in_the_folder_that_the_copy_makes(tmp_path):
    copy, said = tmp_path / "copy", ["copy", "--tables", "sample", "Modality=CT"]
    files = ["--report", str(copy / "r.jsonl"), "--mapping", str(copy / "m.csv")]
    main([*said, "--to", str(copy), *files])
    assert {"r.jsonl", "m.csv"} < {path.name for path in copy.iterdir()}
    main(["verify", str(copy)])


@pytest.mark.parametrize("option", ["--report", "--mapping"])
def test_a_file_in_no_folder_is_refused_before_the_copy(tmp_path, option, capsys):
    copy, said = tmp_path / "copy", ["copy", "--tables", "sample", "Modality=CT"]
    with pytest.raises(SystemExit) as ended:
        main([*said, "--to", str(copy), option, str(tmp_path / "no" / "m.csv")])
    assert ended.value.code == 2
    assert "its folder must be there" in capsys.readouterr().err
    assert not copy.exists()


@pytest.mark.parametrize(
    ("place", "kind"), [("foo://bucket/x", MirrorError), ("abfs://c/x", MissingError)]
)
def test_a_store_that_fsspec_cannot_reach_is_an_error_that_says_so(place, kind):
    if kind is MissingError and find_spec("adlfs"):
        pytest.skip("the package is installed that reaches it")
    with pytest.raises(kind, match=place.partition(":")[0]):
        CT.plan(place)


# The time that a copy will take.


@pytest.mark.parametrize(
    "told",
    ["[", "5", '{"NAME": 5}', '{"NAME": [[0, 0], [0, 5], [1e6, -1]]}'],
    ids=["no JSON", "no table", "no rates", "rates of nothing"],
)
def test_rates_that_cannot_be_are_none(tmp_path, monkeypatch, told):
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(tmp_path / "cache"))
    mirror = resolve_mirror(sample_path() / "bucket")
    with cache.adding("rates.json") as part:
        part.write_text(told.replace("NAME", mirror.root))
    plan = CT.plan(tmp_path / "copy", mirror=mirror)
    assert plan.seconds is None
    assert "time" not in str(plan)


def test_a_plan_says_how_long_it_takes_where_copies_were_measured(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("INTAKE_IDC_CACHE", str(tmp_path / "cache"))
    mirror = resolve_mirror(sample_path() / "bucket")
    plan = SAMPLE.plan(tmp_path / "copy", mirror=mirror)
    assert plan.seconds is None
    for seconds in (0.1, 300.0, 900.0):
        # The first was too short to say anything, and the fastest other counts.
        remember(replace(Report(plan, bytes(len(plan))), seconds=seconds))
    again = SAMPLE.plan(tmp_path / "copy", mirror=mirror)
    assert again.seconds == pytest.approx(300)
    assert re.search("time +about 5 min", str(again))
