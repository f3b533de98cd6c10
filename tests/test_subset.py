"""Cohorts of single instances: a series, and which of its objects are meant."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from uuid import UUID

import exporting
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dask.base import tokenize
from hypothesis import given
from hypothesis import strategies as st

from intake_idc import Cohort, open_idc
from intake_idc.arrow import packed, uuid_halves
from intake_idc.errors import (
    IntegrityError,
    MissingError,
    ObjectNotFound,
    RequestError,
    TransferError,
)
from intake_idc.export.tables import open_export
from intake_idc.manifest import OBJECTS, ONLY, Manifest, Part, subset_column
from intake_idc.release import FixedRows
from intake_idc.storage import instances, resolve_mirror

BUCKET = Path(resolve_mirror("sample").root)
SAMPLE = resolve_mirror("sample")
RELEASE = 2


def key_of(path):
    return str(path.relative_to(BUCKET))


def subset(manifest, chosen):
    """A manifest of which only the chosen instances are meant, by series."""
    rows = [
        (row, UUID(name).bytes)
        for row, uuid in enumerate(manifest.uuids)
        for name in chosen.get(uuid, ())
    ]
    places = [row for row, _ in rows]
    column = subset_column(places, packed([uuid for _, uuid in rows]), len(manifest))
    table = manifest.table
    if ONLY in table.column_names:
        table = table.drop_columns([ONLY])
    table = table.append_column(ONLY, column)
    return Manifest(table, manifest.idc_version, "single instances")


@pytest.fixture(scope="module")
def whole():
    return open_idc(RELEASE, tables="sample").all()


@pytest.fixture(scope="module")
def files(whole):
    """The files of each series, sorted."""
    uuids = whole.manifest().uuids
    return {uuid: sorted((BUCKET / uuid).glob("*.dcm")) for uuid in uuids}


@pytest.fixture(scope="module")
def meant(files):
    """Every second object of the larger series, all of the others."""
    return {
        uuid: paths[::2] if len(paths) > 2 else paths for uuid, paths in files.items()
    }


@pytest.fixture(scope="module")
def manifest(whole, files, meant):
    names = {
        uuid: [path.stem for path in reversed(paths)]
        for uuid, paths in meant.items()
        if paths != files[uuid]
    }
    assert len(names) >= 2
    return subset(whole.manifest(), names)


@pytest.fixture(scope="module")
def cohort(manifest):
    return Cohort(FixedRows(manifest, "sample"), mirror=SAMPLE)


@pytest.fixture(scope="module")
def expected(whole, meant):
    return [path for uuid in whole.manifest().uuids for path in meant[uuid]]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    folder = root / "bigquery_export" / f"idc_v{RELEASE}" / "dicom_all"
    exporting.write(folder, 0, exporting.sample_rows(BUCKET))
    return open_export(RELEASE, mirror=root)


@pytest.fixture(scope="module")
def table(whole, export):
    """A row for each object of the whole series."""
    return whole.instances_table(export)


# Reading.


@pytest.mark.parametrize("size", ["1 B", "128 MiB"])
def test_a_bag_holds_exactly_those_objects(cohort, expected, size):
    found = cohort.datasets(partition_bytes=size).map(lambda d: str(d.SOPInstanceUID))
    headers = cohort.header_rows(["SOPInstanceUID"]).compute()
    assert [h["SOPInstanceUID"] for h in headers] == found.compute()
    assert [Path(h["url"]) for h in headers] == expected


@pytest.mark.servers
def test_a_store_is_asked_for_those_objects_alone(s3_nginx, cohort, expected):
    place = "s3://intake-idc-sample"
    there = cohort.reading_from(place, endpoint_url=s3_nginx.endpoint)
    s3_nginx.reset()
    assert there.datasets().count().compute() == len(expected)
    asked = {r.uri.split("/", 2)[2] for r in s3_nginx.requests() if "?" not in r.uri}
    assert asked == set(map(key_of, expected))


@pytest.mark.servers
@pytest.mark.parametrize(
    ("server", "mirror", "engine"),
    [
        ("s3_nginx", "aws", "obstore"),
        ("s3_nginx", "aws", "fsspec"),
        ("gcs_fake", "gcs", "obstore"),
        ("gcs_fake", "gcs", "fsspec"),
    ],
)
def test_every_store_gives_exactly_those_objects(
    server, mirror, engine, cohort, expected, tmp_path, request
):
    endpoint = request.getfixturevalue(server).endpoint
    there = cohort.reading_from(mirror, endpoint_url=endpoint, engine=engine)
    keys = list(map(key_of, expected))
    rows = there.header_rows(["SOPInstanceUID"]).compute()
    assert ["/".join(row["url"].split("/")[-2:]) for row in rows] == keys
    uids = [row["SOPInstanceUID"] for row in rows]
    # In processes, and a series cut into many pieces: what travels is what is meant.
    pieces = there.datasets(headers_only=True, partition_instances=1)
    assert pieces.npartitions == len(keys)
    found = pieces.map(sop_instance_uid).compute(scheduler="processes", num_workers=2)
    assert found == uids
    report = there.materialize(tmp_path, dir_template="%crdc_series_uuid")
    assert sorted(report.paths) == sorted(tmp_path / key for key in keys)
    assert all((tmp_path / key_of(p)).read_bytes() == p.read_bytes() for p in expected)
    assert there.verify(tmp_path, dir_template="%crdc_series_uuid").ok
    (tmp_path / keys[0]).unlink()
    assert not there.verify(tmp_path, dir_template="%crdc_series_uuid").ok


def sop_instance_uid(dataset):
    return str(dataset.SOPInstanceUID)


def test_the_parts_of_a_division_hold_those_objects_once(cohort, expected):
    parts = cohort.split_patients({"a": 0.5, "b": 0.5}, seed=1)
    found = []
    for part in parts.values():
        assert part
        rows = part.header_rows(["PatientID"]).compute()
        assert {row["PatientID"] for row in rows} == set(part.unique("PatientID"))
        assert len(rows) == part.counts()["instances"]
        found += [Path(row["url"]) for row in rows]
    assert sorted(found) == sorted(expected)
    both = parts["a"] | parts["b"]
    assert both.datasets().count().compute() == len(expected)


def test_counts_are_those_of_the_instances(cohort, whole, expected):
    counts, all_of = cohort.counts(), whole.counts()
    assert counts["instances"] == len(expected) < all_of["instances"]
    assert counts["series"] == all_of["series"]
    assert counts["bytes"] < all_of["bytes"]
    manifest = cohort.manifest()
    assert manifest.instances == len(expected)
    assert manifest.size == pytest.approx(counts["bytes"], abs=len(manifest))
    assert manifest.has_subsets
    assert not whole.manifest().has_subsets


def test_a_cohort_narrows_and_keeps_what_is_meant(cohort, meant, manifest):
    uid = manifest.table.column("SeriesInstanceUID")[0].as_py()
    narrowed = cohort.search(SeriesInstanceUID=uid)
    uuid = manifest.uuids[0]
    assert narrowed.counts()["instances"] == len(meant[uuid])
    assert narrowed.manifest() == manifest.take([0])


def test_the_table_lists_their_uuids_as_texts(cohort, meant, manifest, tmp_path):
    by_uuid = dict(
        zip(manifest.uuids, manifest.table.column(ONLY).is_valid(), strict=True)
    )
    expected = {
        uuid: [path.stem for path in meant[uuid]] if named.as_py() else None
        for uuid, named in by_uuid.items()
    }
    rows = cohort.table.to_pylist()
    assert {row["crdc_series_uuid"]: row[ONLY] for row in rows} == expected
    assert cohort.to_table(tmp_path / "t.parquet").is_file()
    lines = cohort.to_table(tmp_path / "t.csv").read_text().splitlines()
    joined = " ".join(next(filter(None, expected.values())))
    assert sum(joined in line for line in lines) == 1


# Copying.


def test_a_copy_holds_exactly_those_files(cohort, expected, tmp_path):
    report = cohort.materialize(tmp_path, dir_template="%crdc_series_uuid")
    assert sorted(report.paths) == sorted(tmp_path / key_of(p) for p in expected)
    found = {p.relative_to(tmp_path) for p in tmp_path.rglob("*.dcm")}
    assert found == {p.relative_to(BUCKET) for p in expected}
    assert all((tmp_path / key_of(p)).read_bytes() == p.read_bytes() for p in expected)
    assert cohort.verify(tmp_path, dir_template="%crdc_series_uuid").ok


def test_a_folder_of_the_whole_series_is_not_that_of_some(cohort, whole, tmp_path):
    whole.materialize(tmp_path, mirror="sample")
    found = cohort.verify(tmp_path)
    assert found.extra
    assert not found.missing
    assert not found.ok


# What is not there.


def test_an_instance_that_the_series_lacks_is_named(manifest, tmp_path):
    stray = "00000000-0000-4000-8000-000000000000"
    wrong = subset(manifest, {manifest.uuids[0]: [stray]})
    cohort = Cohort(FixedRows(wrong, "sample"), mirror=SAMPLE)
    assert cohort.plan(tmp_path).counts["unlisted"] == 1
    with pytest.raises(TransferError, match=f"{stray}.dcm is not among") as caught:
        cohort.materialize(tmp_path)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.report.failures == caught.value.report.failures


def test_an_instance_that_the_series_lacks_takes_nothing_from_others(manifest, meant):
    stray = "80000000-0000-4000-8000-000000000000"
    uuid, paths = next((u, p) for u, p in meant.items() if len(p) > 1)
    wrong = subset(manifest, {uuid: [stray, *(path.stem for path in paths)]})
    cohort = Cohort(FixedRows(wrong, "sample"), mirror=SAMPLE).search(
        crdc_series_uuid=uuid
    )
    for size in (1, 100):
        options = {"on_error": "collect", "partition_instances": size}
        results, failures = cohort.to_dask(**options).collected()
        assert [found.crdc_instance_uuid for found in results] == [
            path.stem for path in paths
        ]
        assert failures.column("crdc_instance_uuid").to_pylist() == [stray]
        frame = cohort.headers("SOPInstanceUID", **options).compute()
        assert frame["failure_kind"].value_counts().to_dict() == {"not found": 1}
        assert frame["SOPInstanceUID"].count() == len(paths)


@pytest.mark.parametrize("names", [("../beside", "b"), ("u", "../beside")])
def test_a_name_leads_nowhere_else(tmp_path, names):
    for folder in ("beside", "bucket/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.dcm").write_bytes(b"DICM")
    mirror = resolve_mirror(tmp_path / "bucket" / "b")
    with pytest.raises(RequestError, match=r"'\.\./beside' is no name"):
        instances([Part(*names)], mirror)


def test_the_whole_listing_is_held_against_the_index(cohort, files, tmp_path):
    bucket = tmp_path / "bucket"
    shutil.copytree(BUCKET, bucket)
    uuid, paths = next((u, p) for u, p in files.items() if len(p) > 2)
    (bucket / uuid / paths[1].name).unlink()  # Not one of those that are meant.
    with pytest.raises(IntegrityError, match="the index says"):
        cohort.reading_from(bucket).datasets().count().compute()


def test_an_object_that_is_gone_from_a_series_of_unknown_count_is_named(files):
    uuid, paths = next((u, p) for u, p in files.items() if len(p) > 2)
    names = packed([UUID(paths[0].stem).bytes, b"\xff" * 16])
    part = Part(uuid, "intake-idc-sample", only=names)
    with pytest.raises(ObjectNotFound, match="ffffffff-ffff"):
        instances([part], SAMPLE)
    assert len(instances([Part(uuid, "b", only=names[:1])], SAMPLE)) == 1


# Objects that are known.


def test_known_objects_of_whole_series_will_do(cohort, table, expected, tmp_path):
    known = cohort.with_instances(table)
    manifest = known.objects.attach(cohort.manifest())
    assert manifest.size == sum(path.stat().st_size for path in expected)
    listed = instances(manifest.parts(), SAMPLE)
    assert [Path(i.url) for i in listed] == expected
    assert all(i.md5 for i in listed)
    assert all(i.part.only is None for i in listed)
    known.materialize(tmp_path)
    assert known.verify(tmp_path, checksum=True).ok
    for bounds in ((1, 512), (2**27, 1), (2**27, 512)):
        pieces = manifest.split(*bounds)
        found = [i for piece in pieces for i in instances(piece.parts(), SAMPLE)]
        assert [Path(i.url) for i in found] == expected


def test_known_objects_that_are_just_those_will_do(cohort, table, expected):
    keys = pa.array(sorted(map(key_of, expected)))
    own = table.filter(pa.compute.is_in(table.column("key"), value_set=keys))
    assert len(own) == len(expected) < len(table)
    known = cohort.with_instances(own)
    assert known.datasets().count().compute() == len(expected)
    assert known.objects.as_published(cohort.manifest()).equals(own)
    whole = cohort.with_instances(table).objects
    assert whole.as_published(cohort.manifest()).equals(own)
    with pytest.raises(IntegrityError, match="the index says"):
        known.objects.check(cohort.manifest(), whole=True)


def test_the_export_gives_rows_of_those_alone(cohort, export, expected, tmp_path):
    path = cohort.save_instances(tmp_path / "objects.parquet", export)
    keys = sorted(map(key_of, expected))
    found = cohort.instances_table(export).column("key").to_pylist()
    assert found == keys
    assert len(cohort.with_instances(path).objects) == len(expected)


def test_a_table_in_upper_case_is_the_same_table(cohort, table):
    loud = table
    for at, name in enumerate(table.column_names):
        if name.endswith(("_uuid", "_hash")):
            upper = pc.utf8_upper(table.column(name))
            assert upper != table.column(name)
            loud = loud.set_column(at, name, upper)
    assert cohort.with_instances(loud) == cohort.with_instances(table)


def test_a_table_that_lacks_one_of_them_is_refused(cohort, table, files):
    uuid, paths = next((u, p) for u, p in files.items() if len(p) > 2)
    kept = pa.compute.not_equal(table.column("key"), f"{uuid}/{paths[0].name}")
    with pytest.raises(MissingError, match=paths[0].stem):
        cohort.with_instances(table.filter(kept))


def test_a_table_of_more_bytes_than_the_series_has_is_refused(cohort, table, files):
    uuid, paths = next((u, p) for u, p in files.items() if len(p) > 2)
    rows = [r for r in table.to_pylist() if r["key"] != f"{uuid}/{paths[1].name}"]
    next(r for r in rows if r["crdc_series_uuid"] == uuid)["instance_size"] = 10**9
    with pytest.raises(IntegrityError, match="the index says"):
        cohort.with_instances(pa.Table.from_pylist(rows, table.schema))


def test_known_objects_without_a_meant_one_are_not_read(files):
    uuid, paths = next((u, p) for u, p in files.items() if len(p) > 2)
    row = {"uuid": UUID(paths[0].stem).bytes, "size": 1, "md5": None}
    kind = pa.struct(
        [("uuid", pa.binary(16)), ("size", pa.int64()), ("md5", pa.binary(16))]
    )
    names = packed([UUID(path.stem).bytes for path in paths[:2]])
    part = Part(uuid, "b", only=names, objects=pa.array([row], kind))
    with pytest.raises(ObjectNotFound, match=paths[1].stem):
        instances([part], SAMPLE)


# What cannot be.


def test_a_lock_of_single_instances_is_refused(cohort, whole, tmp_path):
    with pytest.raises(RequestError, match=r"whole series; of \d series .* single"):
        cohort.lock(tmp_path / "c.lock.json")
    assert not list(tmp_path.iterdir())
    nothing = subset(whole.manifest(), {})
    Cohort(FixedRows(nothing, "sample")).lock(tmp_path / "c.lock.json")


WRONG = {
    "texts": pa.array([["a"]], pa.list_(pa.string())),
    "no list": pa.array([b"a" * 16], pa.binary(16)),
    "none": pa.array([[]], pa.list_(pa.binary(16))),
    "none of two": pa.array([[], []], pa.list_(pa.binary(16)))[:1],
    "twice": pa.array([[b"a" * 16] * 2], pa.large_list(pa.binary(16))),
    "unsorted": pa.array([[b"b" * 16, b"a" * 16]], pa.list_(pa.binary(16))),
    "null": pa.array([[None]], pa.list_(pa.binary(16))),
}


@pytest.mark.parametrize("column", WRONG.values(), ids=WRONG)
def test_what_names_no_instances_is_refused(column):
    with pytest.raises(RequestError, match="'only'") as caught:
        Manifest(
            pa.table({"crdc_series_uuid": ["u"], "aws_bucket": ["b"], ONLY: column}), 1
        )
    assert caught.value.details == {"column": ONLY}


# The value.


def test_a_part_is_equal_where_the_same_instances_are_meant():
    one, two = packed([b"a" * 16]), packed([b"a" * 16, b"b" * 16])
    parts = [Part("u", "b"), Part("u", "b", only=one), Part("u", "b", only=two)]
    assert len(set(parts)) == 3
    assert Part("u", "b", only=two[:1]) == parts[1]
    assert hash(Part("u", "b", only=two[:1])) == hash(parts[1])


def test_it_travels_and_has_keys_of_its_own(cohort, whole, manifest):
    again = pickle.loads(pickle.dumps(cohort))
    assert again.manifest() == cohort.manifest() == manifest
    assert again.datasets().name == cohort.datasets().name
    assert tokenize(manifest.strip()) == tokenize(manifest)
    assert tokenize(manifest) != tokenize(whole.manifest())
    other = subset(manifest, {manifest.uuids[0]: [str(UUID(int=1))]})
    assert len({manifest.digest, whole.manifest().digest, other.digest}) == 3
    # Where all of every series is meant, it is the same manifest.
    assert subset(manifest, {}).digest == whole.manifest().digest


uuid_sets = st.sets(st.binary(min_size=16, max_size=16), min_size=1, max_size=40)
rows_drawn = st.lists(
    st.tuples(st.none() | uuid_sets, st.integers(40, 60), st.floats(0, 3)),
    min_size=1,
    max_size=8,
)


def drawn(rows):
    pairs = [(i, name) for i, (names, _, _) in enumerate(rows) for name in names or ()]
    # In any order, and some of them twice.
    pairs = pairs[::-1] + pairs[: len(pairs) // 2]
    column = subset_column(
        [i for i, _ in pairs], packed([n for _, n in pairs]), len(rows)
    )
    table = pa.table(
        {
            "crdc_series_uuid": [f"u{i}" for i in range(len(rows))],
            "aws_bucket": ["b"] * len(rows),
            "instanceCount": [count for _, count, _ in rows],
            "series_size_MB": [size for _, _, size in rows],
            ONLY: column,
        }
    )
    return Manifest(table, 25)


def handed_out(manifest):
    found = []
    for part in manifest.parts():
        if part.only is None:
            last = part.last_instance
            last = part.instanceCount if last is None else last
            names = range(part.first_instance, last)
        else:
            names = part.only.to_pylist()[part.first_instance : part.last_instance]
        assert len(names) == part.instances
        found += [(part.crdc_series_uuid, name) for name in names]
    return found


@given(rows_drawn, st.integers(1, 2_000_000), st.integers(1, 40))
def test_every_named_instance_is_in_exactly_one_piece(rows, max_bytes, max_instances):
    manifest = drawn(rows)
    expected = [
        (f"u{i}", name)
        for i, (names, count, _) in enumerate(rows)
        for name in (range(count) if names is None else sorted(names))
    ]
    assert handed_out(manifest) == expected
    assert manifest.instances == len(expected)
    pieces = manifest.split(max_bytes, max_instances)
    pieces = [pickle.loads(pickle.dumps(piece)) for piece in pieces]
    assert [pair for piece in pieces for pair in handed_out(piece)] == expected
    assert all(piece.instances <= max_instances for piece in pieces)
    smaller = [small for piece in pieces for small in piece.split(2**40, 3)]
    assert [pair for piece in smaller for pair in handed_out(piece)] == expected
    # A rounding of a byte for each row.
    share = sum(piece.size for piece in pieces)
    assert share == pytest.approx(manifest.size, abs=sum(map(len, pieces)) + len(rows))


@given(uuid_sets, st.integers(0, 40), st.integers(1, 40))
def test_a_run_of_a_subset_is_the_subset_that_it_holds(names, first, count):
    ordered = sorted(names)[first : first + count]
    whole = drawn([(names, 50, 1.0)])
    bounds = {"first_instance": [first], "last_instance": [first + count]}
    table = whole.table
    for name, values in bounds.items():
        table = table.append_column(name, pa.array(values))
    run = Manifest(table, 25)
    assert run.instances == len(ordered)
    if ordered:
        assert run.digest == drawn([(set(ordered), 50, 1.0)]).digest
        assert [n for _, n in handed_out(run.split(2**40, 512)[0])] == ordered


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=30))
def test_packed_uuids_sort_as_their_texts_do(names):
    high, low = uuid_halves(packed(names))
    pairs = list(zip(high.tolist(), low.tolist(), strict=True))
    by_number = [name for _, name in sorted(zip(pairs, names, strict=True))]
    assert by_number == sorted(names, key=lambda name: str(UUID(bytes=name)))


def test_a_piece_carries_its_own_names_alone():
    names = {i.to_bytes(16, "big") for i in range(100_000)}
    manifest = drawn([(names, 100_000, 10.0)])
    pieces = manifest.split(2**40, 512)
    assert len(pieces) == 196
    assert max(len(pickle.dumps(piece)) for piece in pieces) < 512 * 16 + 3000
    assert OBJECTS not in pieces[0].columns
