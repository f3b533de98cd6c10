"""Samples and divisions: the same everywhere, nothing lost, no patient twice."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import run
from test_difference import write_tables

from intake_idc import open_idc, open_manifest
from intake_idc.cohort.splitting import _turns
from intake_idc.errors import EmptySelection, RequestError, UnknownColumn

PILOT = open_idc(25).search(collection_id="rider_pilot")
SAMPLE = open_idc(2, tables="sample")
PARTS = {"train": 0.8, "test": 0.2}


def rows_of(cohort, *columns):
    return cohort.rows.rows(columns, cohort.selection)


def md5(text):
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


# Samples.


def test_a_sample_is_what_the_hash_of_seed_and_name_says():
    for n, seed in ((1, 0), (20, 0), (20, 7), (len(PILOT), 3)):
        keys = PILOT.keys()
        hashed = {k: md5(f"{seed} {k}") for k in keys}
        drawn = set(sorted(keys, key=hashed.__getitem__)[:n])
        assert PILOT.sample(n, seed=seed).keys() == [k for k in keys if k in drawn]


def test_a_larger_sample_holds_the_smaller_and_a_seed_makes_another():
    few, more = PILOT.sample(10), PILOT.sample(60)
    assert len(few - more) == 0
    assert len(few - PILOT.sample(10, seed=1)) > 0
    assert few == PILOT.sample(10)


def test_a_sample_stays_when_the_cohort_grows():
    slides = open_idc(25).search(collection_id="nlst", Modality="SM")
    drawn = slides.sample(300)
    older = slides.at(20).sample(300)
    assert len(slides.at(20)) < len(slides)
    kept = drawn.intersection(older, by="SeriesInstanceUID")
    # 27 of 1,259 series are new.
    assert len(kept) > 285


def test_a_sample_of_a_list_is_a_part_of_it():
    listed = PILOT.search(Modality="CT") | PILOT.search(Modality="SR")
    drawn = listed.sample(5, seed=2)
    assert (listed & drawn).keys() == drawn.keys()
    assert drawn.sample(5) == drawn


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (10**9, r"a sample of 1,000,000,000 series of a cohort that has 1,006"),
        (0, "one series or more"),
        (True, "whole number"),
        (2.0, "whole number"),
        ("5", "whole number"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(n, said):
    said = said.replace("1,006", f"{len(PILOT):,}")
    with pytest.raises(RequestError, match=said):
        PILOT.sample(n)
    with pytest.raises(RequestError, match="seed is a whole number"):
        PILOT.sample(1, seed="a")
    with pytest.raises(EmptySelection, match="no series to take from"):
        (PILOT - PILOT).sample(1)


# Divisions.


def test_no_patient_of_release_25_is_in_two_parts():
    """Also of the 89 identifiers that several collections have."""
    whole = open_idc(25).all()
    parts = whole.split_patients(PARTS, by="Modality", seed=4)
    patients, total = [], 0
    for part in parts.values():
        rows = rows_of(part, "PatientID", "crdc_series_uuid")
        patients.append({row[0] for row in rows})
        total += len({row[1] for row in rows})
    assert total == sum(map(len, parts.values())) == len(whole) == 1_044_191
    assert not patients[0] & patients[1]
    shared = Counter(
        row[0] for row in set(rows_of(whole, "PatientID", "collection_id"))
    )
    shared = {patient for patient, count in shared.items() if count > 1}
    assert len(shared) == 89
    assert shared & patients[0]
    assert shared & patients[1]
    assert len(patients[0]) + len(patients[1]) == 86_362
    assert abs(len(patients[0]) - 0.8 * 86_362) < 1


def test_strata_are_divided_alike():
    whole = open_idc(25).search(
        collection_id=["nlst", "nsclc_radiomics", "rider_pilot"]
    )
    parts = whole.split_patients({"a": 0.6, "b": 0.3, "c": 0.1}, by="Modality")
    strata = {name: Counter(_strata(part).values()) for name, part in parts.items()}
    every = Counter(_strata(whole).values())
    assert len(every) > 5
    for stratum, count in every.items():
        for name, fraction in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
            assert abs(strata[name][stratum] - fraction * count) < 2


def _strata(cohort):
    found = {}
    for patient, modality in rows_of(cohort, "PatientID", "Modality"):
        found.setdefault(patient, set()).add(modality)
    return {patient: frozenset(values) for patient, values in found.items()}


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=7), st.integers(1, 400))
def test_after_any_number_of_patients_no_part_is_one_off(weights, count):
    fractions = [weight / sum(weights) for weight in weights]
    held = [0] * len(fractions)
    for turn, part in enumerate(_turns(fractions, count), 1):
        held[part] += 1
        for fraction, number in zip(fractions, held, strict=True):
            assert abs(number - fraction * turn) < 1


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["p1", "p2", " p2", "p3", "1.1", "", None]),
        st.sampled_from(["1.1", "1.2", "1.3", "1.4"]),
        st.sampled_from(["c", "d"]),
        st.sampled_from(["CT", "MR", "SEG"]),
        st.sampled_from(["x", "y", None]),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=25)
@given(ROWS, st.sampled_from([None, "Modality", ["Modality", "BodyPart"]]))
def test_every_series_is_in_one_part_and_every_patient_too(rows, by):
    index = [
        {
            "SeriesInstanceUID": f"2.{i}",
            "crdc_series_uuid": f"00000000-0000-4000-8000-{i:012}",
            "PatientID": patient,
            "StudyInstanceUID": study,
            "collection_id": collection,
            "Modality": modality,
            "BodyPart": body,
        }
        for i, (patient, study, collection, modality, body) in enumerate(rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        tables = write_tables(Path(folder) / "tables", 1, index)
        whole = open_idc(1, tables=str(tables)).all()
        parts = whole.split_patients({"a": 0.5, "b": 0.3, "c": 0.2}, by=by, seed=1)
        keys = {name: part.keys() for name, part in parts.items()}
        order = whole.keys()
    assert list(parts) == ["a", "b", "c"]
    assert sorted(itertools.chain(*keys.values())) == sorted(order)
    for found in keys.values():
        assert found == [key for key in order if key in set(found)]
    seen = {}
    for name, found in keys.items():
        for key in found:
            patient, study = rows[int(key.removeprefix("2."))][:2]
            known = (patient or "").strip(" ")
            for of in [("patient", known)] if known else [("study", study)]:
                assert seen.setdefault(of, name) == name
    # A series of no patient goes with somebody of its study, if there is one.
    for name, found in keys.items():
        for key in found:
            patient, study = rows[int(key.removeprefix("2."))][:2]
            others = {(p or "").strip(" ") for p, s, *_ in rows if s == study} - {""}
            if not patient and others:
                assert seen["patient", min(others)] == name


def test_a_division_is_the_same_in_every_process():
    code = (
        "from intake_idc import open_idc\n"
        "pilot = open_idc(25).search(collection_id='rider_pilot')\n"
        "parts = pilot.split_patients({'a': .5, 'b': .5}, by='Modality', seed=3)\n"
        "print([p.manifest().digest for p in parts.values()])\n"
        "print(pilot.sample(9, seed=3).manifest().digest)"
    )
    said = set()
    for seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        said.add(done.stdout)
    assert len(said) == 1
    again = PILOT.split_patients({"a": 0.5, "b": 0.5}, by="Modality", seed=3)
    assert str([part.manifest().digest for part in again.values()]) in said.pop()


@pytest.mark.parametrize("seed", [0, 3, -1])
def test_a_division_is_what_the_hashes_of_the_patients_say(seed):
    """In plain Python: no version of a database decides."""
    parts = PILOT.split_patients({"a": 0.5, "b": 0.25, "c": 0.25}, seed=seed)
    patients = PILOT.unique("PatientID")
    names = {md5(f"{seed} p{patient}"): patient for patient in patients}
    turns = _turns([0.5, 0.25, 0.25], len(patients))
    expected = {"a": [], "b": [], "c": []}
    for turn, name in zip(turns, sorted(names), strict=True):
        expected["abc"[turn]].append(names[name])
    assert {n: p.unique("PatientID") for n, p in parts.items()} == {
        name: sorted(found) for name, found in expected.items()
    }


def test_another_seed_is_another_division():
    parts = [PILOT.split_patients(PARTS, seed=seed)["test"] for seed in range(4)]
    assert len({part.manifest().digest for part in parts}) > 1


def test_a_division_of_few_patients_may_leave_a_part_empty():
    (patient, *_) = PILOT.unique("PatientID")
    one = PILOT.search(PatientID=patient)
    parts = one.split_patients(PARTS)
    assert sorted(map(len, parts.values())) == [0, len(one)]
    assert one.split_patients({"all": 1})["all"].keys() == one.keys()
    empty = next(part for part in parts.values() if not part)
    with pytest.raises(EmptySelection, match="no series in the list: part '"):
        empty.to_dask()


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"a": 0.5},
        {"a": 0.7, "b": 0.4},
        {"a": 1.2, "b": -0.2},
        {"a": 1, "b": 0},
        {"a": float("nan"), "b": 1},
        {"a": "x"},
        {"": 1},
        {1: 1},
        [0.8, 0.2],
        {str(i): 0.001 for i in range(1000)},
        {"a": float("inf"), "b": float("-inf")},
        {"a": 1e308, "b": 1e308, "c": 1e308},
        {"a": 10**400},
    ],
    ids=lambda parts: str(parts)[:40],
)
def test_fractions_that_are_none_are_refused(parts):
    with pytest.raises(RequestError, match=r"fractions|part"):
        PILOT.split_patients(parts)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(UnknownColumn, match="'Modality'"):
        PILOT.split_patients(PARTS, by="Modalty")
    # A set has another order in each process.
    for by in (5, [None], {"Modality", "PatientID"}):
        with pytest.raises(RequestError, match="by is a text or a list of texts"):
            PILOT.split_patients(PARTS, by=by)
    with pytest.raises(EmptySelection, match="no series to take from"):
        (PILOT - PILOT).split_patients(PARTS)


# The command.


def test_the_command_writes_a_manifest_for_each_part(tmp_path):
    filters = ["collection_id=rider_pilot", "--idc-version", "25"]
    parts = ["--part", "train=0.75", "--part", "test=0.25", "--by", "Modality"]
    said = run("split", *filters, *parts, "--seed", "2", "--to", str(tmp_path / "to"))
    expected = PILOT.split_patients(
        {"train": 0.75, "test": 0.25}, by="Modality", seed=2
    )
    for name, part in expected.items():
        again = open_manifest(tmp_path / "to" / f"{name}.s5cmd")
        assert again.keys() == part.keys()
        assert f"{len(part)}" in said


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["train"], "NAME=FRACTION"),
        (["train=x"], "NAME=FRACTION"),
        (["a=0.5", "A=0.5"], "NAME=FRACTION"),
        (["../a=1"], "NAME=FRACTION"),
        (["a=0.5", "b=0.4"], "add up to 1"),
        (["a=0.999", "b=0.001"], "part 'b' has no patient"),
    ],
    ids=str,
)
def test_the_command_refuses_parts_before_it_writes(tmp_path, parts, said):
    options = [word for part in parts for word in ("--part", part)]
    filters = ["collection_id=rider_pilot"]
    place = str(tmp_path / "to")
    assert said in run("split", *filters, *options, "--to", place, code=2)
    assert not (tmp_path / "to").exists()


def test_the_command_divides_single_instances(tmp_path):
    (ct,) = SAMPLE.search(Modality="CT").urls()
    file = min(Path(ct).iterdir())
    listed = tmp_path / "one.txt"
    listed.write_text(f"s3://intake-idc-sample/{file.parent.name}/{file.name}\n")
    named = [str(listed), "--idc-version", "2", "--tables", "sample"]
    run("split", *named, "--part", "all=1", "--to", str(tmp_path))
    again = open_manifest(tmp_path / "all.s5cmd", tables="sample", mirror="sample")
    assert again.counts()["instances"] == 1


def test_the_command_draws_a_sample():
    filters = ["collection_id=rider_pilot", "--idc-version", "25"]
    listed = run("select", *filters, "--sample", "4", "--seed", "9", "--list")
    assert listed.split() == PILOT.sample(4, seed=9).keys()
    both = run("select", *filters, "--sample", "4", "--diff", "24", code=2)
    assert "do not go together" in both
