"""Sets of cohorts: Python's own sets are the measure, of bytes and of names."""

from __future__ import annotations

import functools
import pickle
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from test_difference import write_tables

from intake_idc import open_idc, open_lock, open_manifest, open_series, resolve_mirror
from intake_idc.arrow import pack_uuids, texts
from intake_idc.cohort import Cohort
from intake_idc.errors import EmptySelection, RequestError, UnknownValue
from intake_idc.manifest import subset_column
from intake_idc.release.listed import ListedRows

NEW, OLD = (open_idc(v, tables="sample").all() for v in (2, 1))
BY = ("crdc_series_uuid", "SeriesInstanceUID")
VERBS = {"union": "__or__", "intersection": "__and__", "difference": "__sub__"}
REVISED = (2, 5)


def uuid_of(number, version=1):
    return f"00000000-0000-4000-8000-{version:04}{number:08}"


@functools.cache
def archive():
    """Ten series of release 2; two had other bytes in release 1, one was withdrawn."""
    folder = Path(tempfile.mkdtemp()) / "tables"
    index = [
        {
            "SeriesInstanceUID": f"1.{i}",
            "crdc_series_uuid": uuid_of(i, 2 if i in REVISED else 1),
            "Modality": "CT" if i % 2 else "MR",
            "collection_id": "c" if i < 6 else "d",
            "series_revised_idc_version": 2 if i in (*REVISED, 9) else 1,
        }
        for i in range(10)
    ]
    prior = [
        {
            "SeriesInstanceUID": f"1.{i}",
            "crdc_series_uuid": uuid_of(i),
            "Modality": "CT" if i % 2 else "MR",
            "min_idc_version": 1,
            "max_idc_version": 1,
        }
        for i in (*REVISED, 10)
    ]
    return str(write_tables(folder, 2, index, prior))


def question(number, **columns):
    cohort = open_idc(number, tables=archive())
    return cohort.search(**columns) if columns else cohort.all()


def names(cohort, column="crdc_series_uuid"):
    return cohort.table[column].to_pylist()


def listed(numbers):
    """Give series of release 2 in this order; an empty list where there are none."""
    whole = question(2)
    if not numbers:
        return whole - whole
    uids = [f"1.{i}" for i in numbers]
    return open_series(SeriesInstanceUID=uids, idc_version=2, tables=archive())


COHORTS = st.one_of(
    st.builds(
        question,
        st.sampled_from([1, 2]),
        Modality=st.sampled_from(["CT", "MR", ["CT", "MR"]]),
        collection_id=st.sampled_from(["c", "d", ["c", "d"]]),
    ),
    st.builds(question, st.sampled_from([1, 2])),
    st.lists(st.integers(0, 9), unique=True).map(listed),
)


@settings(max_examples=15)
@given(COHORTS, COHORTS, st.sampled_from(BY))
def test_each_verb_is_what_pythons_sets_say_in_order(one, other, by):
    ours, theirs = names(one, by), names(other, by)
    mine = dict(zip(ours, names(one), strict=True))
    others = dict(zip(theirs, names(other), strict=True))
    expected = {
        "union": ours + [x for x in theirs if x not in set(ours)],
        "intersection": [x for x in ours if x in set(theirs)],
        "difference": [x for x in ours if x not in set(theirs)],
    }
    for verb, wanted in expected.items():
        found = getattr(one, verb)(other, by=by)
        assert names(found, by) == wanted
        assert len(found) == len(wanted)
        assert found.idc_version == one.idc_version
        # The bytes are those of the first cohort that has the series.
        assert names(found) == [mine.get(x) or others[x] for x in wanted]
        if by == "crdc_series_uuid":
            assert names(getattr(one, VERBS[verb])(other)) == names(found)


@settings(max_examples=6)
@given(COHORTS, COHORTS, COHORTS)
def test_the_laws_of_sets_hold(a, b, c):
    def same(left, right):
        assert set(names(left)) == set(names(right))

    same(a | b, b | a)
    same(a & b, b & a)
    same((a | b) | c, a | (b | c))
    same((a & b) & c, a & (b & c))
    same(a & (b | c), (a & b) | (a & c))
    same(a - (b | c), (a - b) & (a - c))
    assert names(a | a) == names(a & a) == names(a)
    assert len(a - a) == 0
    assert names((a - b) | (a & b)) != [] or not len(a)


def test_the_sample_by_bytes_and_by_name():
    # Release 2 revises the CT, adds two, and withdraws one.
    assert (NEW | OLD).table["Modality"].to_pylist() == [
        *NEW.table["Modality"].to_pylist(),
        "ANN",
        "CT",
    ]
    by_name = NEW.union(OLD, by="SeriesInstanceUID")
    assert names(by_name) == [*names(NEW), names(OLD.search(Modality="ANN"))[0]]
    assert (NEW & OLD).unique("Modality") == ["MR"]
    assert names(NEW.intersection(OLD, by="SeriesInstanceUID")) == names(
        NEW.search(Modality=["CT", "MR"])
    )
    assert names(OLD - NEW) == names(OLD.search(Modality=["ANN", "CT"]))


def test_two_revisions_in_a_list_both_stay():
    both = OLD | NEW
    assert len(both) == len(set(names(both))) == len(set(both.keys())) + 1
    nothing = NEW - NEW
    for by in BY:
        assert names(nothing.union(both, by=by)) == names(both)
        assert names(both.union(NEW, by=by)) == names(both)
        assert names(both.intersection(both - nothing, by=by)) == names(both)
    one_less = both.difference(NEW.search(Modality="CT"), by="SeriesInstanceUID")
    assert len(one_less) == len(both) - 2


def test_bytes_of_another_release_are_read_as_they_are(tmp_path):
    ct = NEW.search(Modality="CT") | OLD.search(Modality="CT")
    assert (ct.idc_version, len(ct), ct.counts()["studies"]) == (2, 2, 1)
    objects = ct.datasets().compute()
    assert len(objects) == 5
    assert len({o.SeriesInstanceUID for o in objects}) == 1
    ct.materialize(tmp_path, dir_template="%crdc_series_uuid")
    assert len(list(tmp_path.glob("*/*.dcm"))) == 5
    again = open_lock(ct.lock(tmp_path / "ct.lock.json"))
    assert again.manifest() == ct.manifest()


def test_two_questions_to_one_release_meet_in_a_question():
    ct, slow = NEW.search(Modality="CT"), NEW.query("instanceCount > 2")
    both = ct & slow
    assert both == NEW.search(Modality="CT").query("instanceCount > 2")
    assert both.at(1).idc_version == 1
    assert (ct & ct) == ct
    assert (NEW & NEW).everything
    assert not (NEW & open_idc(2, tables="sample")).everything


def test_a_list_narrows_and_travels():
    both = NEW.search(Modality="CT") | NEW.search(Modality="SEG")
    assert "union of (Modality = 'CT') and (Modality = 'SEG')" in repr(both)
    assert names(both.search(Modality="SEG")) == names(NEW.search(Modality="SEG"))
    assert pickle.loads(pickle.dumps(both)) == both
    assert "of release 1" in repr(NEW | OLD.search(Modality="CT"))


def test_nothing_in_common_is_an_answer_and_reading_it_an_error(tmp_path):
    nothing = NEW.search(Modality="CT") & OLD.search(Modality="ANN")
    assert len(nothing) == 0
    assert not nothing
    assert nothing.keys() == []
    assert nothing.counts()["bytes"] == 0
    assert nothing.df.empty
    assert "series       0" in str(nothing)
    assert len(nothing | NEW) == len(NEW | nothing) == 4
    for act in (
        nothing.to_dask,
        nothing.urls,
        lambda: nothing.materialize(tmp_path),
        lambda: nothing.to_manifest(tmp_path / "x.s5cmd"),
        lambda: nothing.lock(tmp_path / "x.lock.json"),
    ):
        with pytest.raises(EmptySelection, match="no series in the list: intersection"):
            act()
    with pytest.raises(UnknownValue):
        len(nothing.search(Modality="CT"))


def test_everything_has_to_be_said_where_a_list_would_hold_it():
    whole, ct = open_idc(2, tables="sample"), NEW.search(Modality="CT")
    for act in (
        lambda: whole | ct,
        lambda: ct | whole,
        lambda: whole - ct,
        lambda: whole.sample(1),
        lambda: whole.split_patients({"a": 1}),
    ):
        with pytest.raises(EmptySelection, match=r"all\(\)"):
            act()
    assert names(ct & whole) == names(whole & ct) == names(ct)
    assert len(ct - whole) == 0


def test_what_is_no_cohort_and_no_name_is_refused():
    with pytest.raises(TypeError):
        NEW | "CT"
    with pytest.raises(RequestError, match="another cohort; got str"):
        NEW.union("CT")
    with pytest.raises(RequestError, match="by is 'SeriesInstanceUID' or"):
        NEW.union(OLD, by="PatientID")


# Where they are read.


def test_cohorts_of_two_mirrors_do_not_go_together(tmp_path):
    ct, mr = NEW.search(Modality="CT"), NEW.search(Modality="MR")
    away = mr.reading_from(tmp_path)
    with pytest.raises(RequestError, match=r"reading_from"):
        ct | away
    # Nothing of the other is read.
    assert (ct - away).mirror == (away & ct | ct).mirror == ct.mirror
    assert ((ct - ct) | away).mirror == away.mirror
    assert (ct | ct.reading_from(tmp_path)).mirror == ct.mirror


def test_the_public_mirrors_hold_the_same():
    pilot = open_idc(25).search(collection_id="rider_pilot")
    gcs = pilot.search(Modality="CT").reading_from("gcs")
    aws = pilot.search(Modality="SEG").reading_from("aws")
    assert (gcs | aws).mirror == resolve_mirror("gcs")
    assert (pilot.search(Modality="SR") | gcs).mirror is None


# Lists, locks, objects.


def test_a_lock_and_a_manifest_go_with_questions(tmp_path):
    images = OLD.search(Modality=["CT", "MR"])
    lock = open_lock(images.lock(tmp_path / "old.lock.json"))
    manifest = open_manifest(
        NEW.to_manifest(tmp_path / "new.s5cmd"), tables="sample", mirror="sample"
    )
    assert (lock & lock.search(Modality="CT")).locked is not None
    for one in (lock, images):
        for other in (manifest, NEW):
            for verb in VERBS.values():
                found = getattr(one, verb)(other)
                assert names(found) == names(getattr(images, verb)(NEW))
                assert found.locked is None or found is one
                assert names(getattr(other, verb)(one)) == names(
                    getattr(NEW, verb)(images)
                )
    assert len((lock | NEW).datasets().compute()) == 11


def test_problems_of_a_manifest_stay_with_what_is_made_of_it(tmp_path):
    path = tmp_path / "m.s5cmd"
    path.write_text(NEW.to_manifest(tmp_path / "n.s5cmd").read_text() + "rm x\n")
    cohort = open_manifest(path, tables="sample", problems="report")
    assert len(cohort.problems) == 2
    for found in (cohort - OLD, OLD | cohort, cohort.sample(1)):
        assert found.problems == cohort.problems


def test_known_objects_stay_with_a_part():
    ct = NEW.search(Modality="CT")
    objects = pa.table(
        {
            "crdc_series_uuid": [names(ct)[0]] * 3,
            "crdc_instance_uuid": [
                "21b28e9a-fd72-5b4e-b54a-73880d80c28c",
                "427cfb28-1e78-510b-8da4-dcec833e5671",
                "9243df6e-249f-5a8c-9760-1d3886f924d4",
            ],
            "instance_size": [
                file.stat().st_size for file in sorted(Path(ct.urls()[0]).iterdir())
            ],
        }
    )
    known = ct.with_instances(objects)
    assert (known - OLD).objects is not None
    assert (known | NEW).objects is None
    assert tokenize(known) == tokenize(ct.with_instances(objects)) != tokenize(ct)
    assert len((known - OLD).datasets().compute()) == 3


def some_objects(meant):
    """Give a cohort that means these objects of series: None is all of them."""
    places = [i for i, own in enumerate(meant.values()) for _ in own or ()]
    objects = [uuid_of(x, 9) for own in meant.values() for x in own or ()]
    only = None
    if places:
        packed = pack_uuids(texts(objects).cast(pa.large_string()))[0]
        only = subset_column(places, packed, len(meant))
    own = [uuid_of(i, 2 if i in REVISED else 1) for i in meant]
    uuids = pack_uuids(texts(own).cast(pa.large_string()))[0]
    rows = ListedRows(open_idc(2, tables=archive()).rows, uuids, "objects", only=only)
    return Cohort(rows)


def test_known_objects_of_some_are_not_those_of_all(tmp_path):
    ct = NEW.search(Modality="CT")
    file = min(Path(ct.urls()[0]).iterdir())
    listed = tmp_path / "one.txt"
    listed.write_text(f"s3://intake-idc-sample/{names(ct)[0]}/{file.name}\n")
    objects = pa.table(
        {
            "crdc_series_uuid": names(ct),
            "crdc_instance_uuid": [file.stem],
            "instance_size": [file.stat().st_size],
        }
    )
    one = open_manifest(listed, idc_version=2, tables="sample", mirror="sample")
    known = one.with_instances(objects)
    for both in (known | ct, ct | known):
        assert both.counts()["instances"] == len(both.datasets().compute()) == 3
    for same in (known | known, known & ct, known | one):
        assert same.counts()["instances"] == len(same.datasets().compute()) == 1
    assert (known | one).objects == known.objects


OBJECTS = st.dictionaries(
    st.integers(0, 4), st.none() | st.sets(st.integers(0, 3), min_size=1), min_size=1
)


@settings(max_examples=8)
@given(OBJECTS, OBJECTS)
def test_objects_of_a_series_are_a_set_too(mine, theirs):
    universe = {*range(4), "all the others"}

    def everything(meant):
        return {
            (series, x)
            for series, own in meant.items()
            for x in (universe if own is None else own)
        }

    def plain(cohort):
        table = cohort.manifest().table
        only = [None] * len(table)
        if "only" in table.column_names:
            only = table["only"].to_pylist()
        uids = table["SeriesInstanceUID"].to_pylist()
        return {
            int(uid.removeprefix("1.")): None
            if own is None
            else {int(x.hex()[-8:]) for x in own}
            for uid, own in zip(uids, only, strict=True)
        }

    one, other = some_objects(mine), some_objects(theirs)
    assert everything(plain(one | other)) == everything(mine) | everything(theirs)
    assert everything(plain(one & other)) == everything(mine) & everything(theirs)
    if any(mine[s] is None and theirs.get(s) is not None for s in mine):
        with pytest.raises(RequestError, match="what is left cannot be named"):
            one - other
    else:
        assert everything(plain(one - other)) == everything(mine) - everything(theirs)
