"""Differences: of releases, of cohorts, of attributes, as value, table and text."""

from __future__ import annotations

import itertools
import pickle
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import intake_idc
from intake_idc import open_idc, open_manifest, open_release, open_series
from intake_idc.errors import BadCondition, RequestError, UnknownColumn, UnknownRelease

KINDS = ("added", "removed", "revised", "changed")
SAMPLE = open_idc(2, tables="sample")


def write_tables(folder, newest, index, prior=()):
    """Write tables of a made-up archive whose newest release is `newest`."""
    folder.mkdir(parents=True)
    columns = {
        "collection_id": pa.string(),
        "PatientID": pa.string(),
        "StudyInstanceUID": pa.string(),
        "SeriesInstanceUID": pa.string(),
        "Modality": pa.string(),
        "license_short_name": pa.string(),
        "source_DOI": pa.string(),
        "instanceCount": pa.int64(),
        "series_revised_idc_version": pa.int64(),
        "aws_bucket": pa.string(),
        "crdc_series_uuid": pa.string(),
        "series_aws_url": pa.string(),
        "series_size_MB": pa.float64(),
    }
    more = {key for row in index for key in row} - set(columns)
    columns |= dict.fromkeys(sorted(more), pa.string())
    rows = [row_of(**row) for row in index]
    pq.write_table(
        pa.Table.from_pylist(rows, pa.schema(columns.items())),
        folder / "idc_index.parquet",
    )
    own = {
        name: kind
        for name, kind in columns.items()
        if name not in {*more, "license_short_name", "source_DOI", "instanceCount"}
    }
    del own["series_revised_idc_version"]
    own |= {"min_idc_version": pa.int64(), "max_idc_version": pa.int64()}
    rows = [row_of(**row) for row in prior]
    pq.write_table(
        pa.Table.from_pylist(rows, pa.schema(own.items())),
        folder / "prior_versions_index.parquet",
    )
    numbers = list(range(1, newest + 1))
    days = [f"2026-01-{number:02}" for number in numbers]
    pq.write_table(
        pa.table({"idc_version": numbers, "version_timestamp": days}),
        folder / "version_metadata_index.parquet",
    )
    return folder


def row_of(**row):
    uuid = row["crdc_series_uuid"]
    return {
        "collection_id": "c",
        "PatientID": "p",
        "StudyInstanceUID": "1.1",
        "Modality": "CT",
        "license_short_name": "CC BY 4.0",
        "source_DOI": "10.1/a",
        "instanceCount": 1,
        "series_revised_idc_version": 1,
        "aws_bucket": "b",
        "series_aws_url": f"s3://b/{uuid}/*",
        "series_size_MB": 1.0,
        **row,
    }


# Whole releases, as published.


def test_release_25_revised_12_043_series_and_added_11_346_new_ones():
    difference = intake_idc.diff(24, 25)
    assert difference.counts == {
        "added": 11_407,
        "removed": 127,
        "revised": 12_043,
        "changed": None,
        "unchanged": 1_020_741,
    }
    returned = difference.table.to_pylist()
    returned = [
        row
        for row in returned
        if row["kind"] == "added" and row["collection_id"] == "mri_dir"
    ]
    assert len(returned) == 61
    assert 11_407 - len(returned) == 11_346


def test_two_whole_releases_add_up():
    difference = intake_idc.diff(23, 25)
    counts, sizes = difference.counts, difference.bytes
    assert (difference.old, difference.new) == (23, 25)
    assert counts["added"] + counts["revised"] + counts["unchanged"] == 1_044_191
    assert counts["removed"] + counts["revised"] + counts["unchanged"] == 994_073
    for release, kinds in {
        25: ("added", "revised_new", "unchanged"),
        23: ("removed", "revised_old", "unchanged"),
    }.items():
        total = sum(sizes[kind] for kind in kinds)
        assert total == pytest.approx(open_idc(release).size, rel=1e-6)
    assert intake_idc.diff(25, 23) == difference


@pytest.mark.parametrize("pair", [(17, 20), (20, 25), (2, 5), (1, 2), (16, 17)])
def test_a_difference_is_what_the_sets_of_two_releases_say(pair):
    names = ["SeriesInstanceUID", "crdc_series_uuid"]
    cohorts = [open_idc(v).search(collection_id=["nlst", "mri_dir"]) for v in pair]
    old, new = (dict(c.release.rows(names, c.selection, strict=False)) for c in cohorts)
    difference = cohorts[0].diff(pair[1])
    assert difference.added == tuple(sorted(new.keys() - old.keys()))
    assert difference.removed == tuple(sorted(old.keys() - new.keys()))
    both = old.keys() & new.keys()
    revised = {uid for uid in both if old[uid] != new[uid]}
    assert difference.revised == tuple(sorted(revised))
    assert difference.unchanged == len(both) - len(revised)
    for row in difference.table.to_pylist():
        uid = row["SeriesInstanceUID"]
        assert row["old_crdc_series_uuid"] == old.get(uid)
        assert row["new_crdc_series_uuid"] == new.get(uid)


# Against a plain evaluation.


VALUES = st.tuples(
    st.sampled_from(["u1", "u2"]),
    st.sampled_from(["CC BY 3.0", "CC BY-NC 4.0", None]),
    st.sampled_from(["c", "d"]),
    st.sampled_from([1.0, 2.0, 2.001]),
)
RELEASES = st.dictionaries(st.sampled_from(["1.1", "1.2", "1.3", "1.4"]), VALUES)


def naive(old, new):
    """Compare two dicts of values by SeriesInstanceUID, as one would by hand."""
    kinds = {kind: set() for kind in KINDS}
    kinds["added"] = new.keys() - old.keys()
    kinds["removed"] = old.keys() - new.keys()
    changes = {}
    for uid in old.keys() & new.keys():
        if old[uid][0] != new[uid][0]:
            kinds["revised"].add(uid)
            continue
        licences = old[uid][1], new[uid][1]
        if licences[0] != licences[1]:
            key = "license_short_name", new[uid][2], *licences
            changes[key] = changes.get(key, 0) + 1
            kinds["changed"].add(uid)
        if abs(old[uid][3] - new[uid][3]) > 0.5:
            kinds["changed"].add(uid)
    return kinds, changes


def rows_of(release):
    return [
        {
            "SeriesInstanceUID": uid,
            "crdc_series_uuid": f"{uid}-{uuid}",
            "license_short_name": licence,
            "collection_id": collection,
            "series_size_MB": size,
        }
        for uid, (uuid, licence, collection, size) in release.items()
    ]


@settings(max_examples=25, deadline=None)
@given(RELEASES, RELEASES)
def test_two_published_releases_differ_as_a_plain_evaluation_says(old, new):
    with tempfile.TemporaryDirectory() as root:
        places = [
            write_tables(Path(root) / str(number), number, rows_of(release))
            for number, release in enumerate([old, new], 1)
        ]
        first, second = (open_release(tables=place) for place in places)
        difference = intake_idc.diff(second, first)
        kinds, changes = naive(old, new)
        assert difference.attributes_compared
        for kind in KINDS:
            assert set(getattr(difference, kind)) == kinds[kind], kind
            assert difference.counts[kind] == len(kinds[kind])
        assert bool(difference) == any(kinds.values())
        found = {
            tuple(row[k] for k in ("attribute", "collection_id", "before", "after")): (
                row["series"]
            )
            for row in difference.attributes.to_pylist()
            if row["attribute"] == "license_short_name"
        }
        assert found == changes
        for row in difference.by_collection.to_pylist():
            after = [v for v in new.values() if v[2] == row["collection_id"]]
            total = sum(row[k] for k in ("added", "revised", "unchanged"))
            assert total == len(after)
            names = ("added_bytes", "revised_new_bytes", "unchanged_bytes")
            sizes = sum(round(v[3] * 1e6) for v in after)
            assert sum(row[name] for name in names) == sizes


SPANS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(1, 3), st.integers(1, 3)),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(SPANS, st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 4))))
def test_two_rebuilt_releases_differ_as_a_plain_evaluation_says(spans, current):
    """Spans of superseded uuids never overlap in a series, as in the real tables."""
    taken = {}
    prior = []
    index = [
        {
            "SeriesInstanceUID": uid,
            "crdc_series_uuid": f"{uid}-now",
            "series_revised_idc_version": revised,
        }
        for uid, revised in dict(current).items()
    ]
    for row in index:
        versions = range(row["series_revised_idc_version"], 5)
        taken |= {
            (row["SeriesInstanceUID"], v): f"{row['crdc_series_uuid']}"
            for v in versions
        }
    for number, (uid, first, last) in enumerate(spans):
        versions = range(first, last + 1)
        if not versions or any((uid, v) in taken for v in versions):
            continue
        uuid = f"{uid}-{number}"
        taken |= {(uid, v): uuid for v in versions}
        prior.append(
            {
                "SeriesInstanceUID": uid,
                "crdc_series_uuid": uuid,
                "min_idc_version": first,
                "max_idc_version": last,
            }
        )
    with tempfile.TemporaryDirectory() as root:
        place = write_tables(Path(root) / "t", 4, index, prior)
        for pair in itertools.combinations(range(1, 5), 2):
            old, new = (
                {uid: uuid for (uid, v), uuid in taken.items() if v == version}
                for version in pair
            )
            difference = intake_idc.diff(*pair, tables=place)
            both = old.keys() & new.keys()
            assert set(difference.added) == new.keys() - old.keys()
            assert set(difference.removed) == old.keys() - new.keys()
            assert set(difference.revised) == {u for u in both if old[u] != new[u]}
            assert difference.unchanged == sum(old[u] == new[u] for u in both)


# Attributes.


@pytest.fixture
def pair(tmp_path):
    """One release and the next, each from tables of its own."""
    old = [
        {"SeriesInstanceUID": "1", "crdc_series_uuid": "a", "Old": "x"},
        {"SeriesInstanceUID": "2", "crdc_series_uuid": "b"},
        {"SeriesInstanceUID": "3", "crdc_series_uuid": "c", "aws_bucket": "b-cr"},
        {"SeriesInstanceUID": "4", "crdc_series_uuid": "d", "series_size_MB": 1.004},
    ]
    new = [
        {
            "SeriesInstanceUID": "1",
            "crdc_series_uuid": "a",
            "license_short_name": "CC BY-NC 4.0",
            "Modality": "MR",
            "New": "<b>",
        },
        {"SeriesInstanceUID": "2", "crdc_series_uuid": "b"},
        {"SeriesInstanceUID": "3", "crdc_series_uuid": "c"},
        {"SeriesInstanceUID": "4", "crdc_series_uuid": "d", "series_size_MB": 1.0},
    ]
    return (
        open_release(tables=write_tables(tmp_path / "old", 1, old)),
        open_release(tables=write_tables(tmp_path / "new", 2, new)),
    )


def test_attributes_of_the_same_bytes_are_compared_between_two_packages(pair):
    difference = intake_idc.diff(*pair)
    assert difference.changed == ("1", "3")
    assert difference.unchanged == 4
    named = {
        row["SeriesInstanceUID"]: row["changed"] for row in difference.table.to_pylist()
    }
    assert named == {"1": "license_short_name, Modality", "3": "aws_bucket"}
    assert difference.attributes.to_pylist()[0] == {
        "attribute": "license_short_name",
        "collection_id": "c",
        "before": "CC BY 4.0",
        "after": "CC BY-NC 4.0",
        "series": 1,
        "bytes": 1_000_000,
    }
    assert difference.columns_left_out == ("New", "Old")
    assert "changed    2 series of these" in str(difference)
    assert difference.columns_compared[:2] == ("license_short_name", "source_DOI")


def test_a_size_that_was_rounded_is_no_change(pair):
    assert (
        "series_size_MB"
        not in intake_idc.diff(*pair).attributes["attribute"].to_pylist()
    )


def test_what_is_read_from_one_set_of_tables_says_nothing_of_attributes():
    difference = intake_idc.diff(23, 25)
    assert not difference.attributes_compared
    assert "release 25" in difference.attributes_note
    assert difference.counts["changed"] is None
    assert difference.bytes["changed"] is None
    assert set(difference.by_collection["changed"].to_pylist()) == {None}
    assert "changed    not known" in str(difference)
    assert "not known" in difference._repr_html_()
    assert "0 series of these" not in str(difference)


def test_a_copy_of_the_same_tables_says_no_more(tmp_path):
    rows = [{"SeriesInstanceUID": "1", "crdc_series_uuid": "a"}]
    places = [write_tables(tmp_path / name, 2, rows) for name in "ab"]
    rebuilt, newest = open_release(1, places[0]), open_release(2, places[1])
    assert not intake_idc.diff(rebuilt, newest).attributes_compared
    newest = [open_release(2, place) for place in places]
    assert intake_idc.diff(*newest).attributes_compared


def test_attributes_of_a_release_that_is_rebuilt_are_called_those_of_another(tmp_path):
    """Release 1 of a package of release 2, beside release 3 of its own."""
    index = [{"SeriesInstanceUID": "1", "crdc_series_uuid": "a"}]
    gone = {"SeriesInstanceUID": "2", "min_idc_version": 1, "max_idc_version": 1}
    prior = [{**gone, "crdc_series_uuid": "old"}]
    back = [*index, {"SeriesInstanceUID": "2", "crdc_series_uuid": "old"}]
    older = open_release(1, write_tables(tmp_path / "2", 2, index, prior))
    newer = open_release(3, write_tables(tmp_path / "3", 3, back))
    difference = intake_idc.diff(older, newer)
    assert difference.attributes_compared
    assert "attributes of release 2" in difference.attributes_note
    assert "1 superseded series are not known" in difference.attributes_note
    assert not difference


def test_a_renamed_attribute_is_told_as_it_is(pair):
    old, new = pair
    table = intake_idc.diff(old, new).attributes.to_pylist()
    (moved,) = [row for row in table if row["attribute"] == "aws_bucket"]
    assert (moved["before"], moved["after"]) == ("b-cr", "b")


@pytest.mark.network
def test_two_published_packages_tell_which_licences_changed():
    old = open_release(23, "idc-index-data==23.10.1")
    difference = intake_idc.diff(old, 25)
    assert difference.counts == {**intake_idc.diff(23, 25).counts, "changed": 476_354}
    found = {}
    for row in difference.attributes.to_pylist():
        found[row["attribute"]] = found.get(row["attribute"], 0) + row["series"]
    assert found["license_short_name"] == 17_924
    assert found["analysis_result_id"] == 456_127
    assert found["aws_bucket"] == 4_433


# Cohorts.


def test_a_cohort_is_compared_with_a_release_of_its_own_tables(pair):
    old, new = pair
    slides = open_idc(2, tables=new.spec).search(SeriesInstanceUID=["1", "2"])
    assert slides.diff(old).changed == ("1",)
    whole = slides.diff(open_idc(1, tables=old.spec))
    assert (whole.changed, whole.removed) == (("1",), ("3", "4"))


def test_a_difference_goes_from_the_older_to_the_newer_whoever_asks():
    sides = [SAMPLE.diff(1), SAMPLE.at(1).diff(2)]
    sides += [intake_idc.diff(*pair, tables="sample") for pair in ((1, 2), (2, 1))]
    sides += [intake_idc.diff(SAMPLE, SAMPLE.release.at(1)), SAMPLE.diff("2026-01-20")]
    assert all(side == sides[0] for side in sides)


def test_a_release_that_is_not_surely_what_was_published_is_named():
    assert intake_idc.diff(24, 25).unsure == ()
    rebuilt = intake_idc.diff(1, 10)
    assert [words.split(",")[0] for words in rebuilt.unsure] == [
        "release 1: survivors only",
        "release 10: the series that are known; none were published to compare with",
    ]
    for words in rebuilt.unsure:
        assert f"  not exact  {words}" in str(rebuilt).splitlines()
        assert words in rebuilt._repr_html_()


def test_a_value_that_one_release_never_had_selects_nothing_there():
    difference = SAMPLE.search(Modality="SM").diff(1)
    assert difference.counts["added"] == 1
    assert difference.counts["unchanged"] == 0
    with pytest.raises(UnknownColumn):
        SAMPLE.search(Modalty="SM").diff(1)
    with pytest.raises(UnknownRelease):
        SAMPLE.diff(9)


def test_questions_in_sql_and_many_values_are_compared_too():
    # Attributes that superseded rows borrow, and more values than are written out.
    cohort = open_idc(25).query("license_short_name = 'CC BY 3.0' AND Modality = 'SM'")
    difference = cohort.search(collection_id="nlst").diff(20)
    assert (len(difference.revised), difference.unchanged) == (933, 299)
    many = open_idc(25).search(collection_id="nlst", Modality="SM")
    uids = many.keys()
    assert many.search(SeriesInstanceUID=uids).diff(20) == many.diff(20)
    with pytest.raises(BadCondition, match="does not fit"):
        SAMPLE.query("nothing > 1").diff(1)


def test_two_questions_are_compared_each_with_its_release():
    ct, both = (SAMPLE.search(Modality=x) for x in ("CT", ["CT", "MR"]))
    difference = ct.diff(both)
    assert len(difference.added) == 1
    assert difference.unchanged == 1
    assert intake_idc.diff(both, ct).removed == difference.added


def test_a_manifest_is_compared_with_a_release(tmp_path):
    path = SAMPLE.at(1).all().to_manifest(tmp_path / "m.s5cmd")
    difference = intake_idc.diff(open_manifest(path, tables="sample"), SAMPLE)
    whole = SAMPLE.diff(1)
    assert (difference.added, difference.removed, difference.revised) == (
        whole.added,
        whole.removed,
        whole.revised,
    )
    assert not difference.attributes_compared
    assert "manifest" in difference.attributes_note


def test_a_manifest_with_two_uuids_of_a_series_is_refused():
    (uid,) = SAMPLE.diff(1).revised
    uuids = [life.crdc_series_uuid for life in SAMPLE.release.history(uid).lives]
    listed = open_series(crdc_series_uuid=uuids, tables="sample")
    with pytest.raises(RequestError, match="each series once"):
        listed.diff(SAMPLE)


# The value.


def test_a_difference_is_a_value_that_travels(pair):
    for difference in (SAMPLE.diff(1), intake_idc.diff(*pair)):
        again = pickle.loads(pickle.dumps(difference))
        assert again == difference
        assert hash(again) == hash(difference)
        assert str(again) == str(difference)
    assert SAMPLE.diff(1) != SAMPLE.diff(2)
    assert SAMPLE.diff(1) != "difference"
    assert SAMPLE.diff(1)
    assert not SAMPLE.diff(2)


def test_a_release_beside_itself_has_no_difference():
    same = SAMPLE.diff(2)
    assert same.counts == {
        "added": 0,
        "removed": 0,
        "revised": 0,
        "changed": 0,
        "unchanged": 4,
    }


def test_bytes_of_revised_series_are_told_before_and_after():
    difference = SAMPLE.diff(1)
    (row,) = [r for r in difference.table.to_pylist() if r["kind"] == "revised"]
    sizes = [SAMPLE.at(v).search(Modality="CT").size for v in (1, 2)]
    assert [row["old_bytes"], row["new_bytes"]] == sizes
    assert difference.bytes["revised_old"] == sizes[0]
    assert difference.bytes["revised_new"] == sizes[1]
    assert difference.df.shape == (4, 8)


def test_a_difference_shows_itself_as_text_and_html(tmp_path):
    difference = SAMPLE.diff(1)
    lines = str(difference).splitlines()
    assert lines[0] == "From release 1 to 2"
    assert lines[1].startswith("  added      2 series, ")
    assert any(line.startswith("sample_ct") for line in lines)
    rows = [
        {"SeriesInstanceUID": "1", "crdc_series_uuid": "a", "Modality": "<i>"},
        {"SeriesInstanceUID": "2", "crdc_series_uuid": "b"},
    ]
    old = open_release(tables=write_tables(tmp_path / "a", 1, rows))
    rows[0] |= {"Modality": "<b>", "collection_id": "<u>"}
    new = open_release(tables=write_tables(tmp_path / "b", 2, rows))
    html = intake_idc.diff(old, new)._repr_html_()
    for tag in "ibu":
        assert f"<{tag}>" not in html
        assert f"&lt;{tag}&gt;" in html
