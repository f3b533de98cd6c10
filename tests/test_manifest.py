"""The manifest: a value that splits, travels and has one digest."""

from __future__ import annotations

import pickle
from uuid import UUID

import pyarrow as pa
import pytest
from dask.base import tokenize
from hypothesis import given
from hypothesis import strategies as st

from intake_idc.errors import RequestError
from intake_idc.manifest import Manifest, Piece, gcs_bucket


def manifest_of(counts, sizes, version=25, **more):
    table = pa.table(
        {
            "crdc_series_uuid": [f"u{i}" for i in range(len(counts))],
            "aws_bucket": ["b"] * len(counts),
            "instanceCount": pa.array(counts, pa.int64()),
            "series_size_MB": pa.array(sizes, pa.float64()),
            **more,
        }
    )
    return Manifest(table, version, "a test")


def pieces(manifest, **bounds):
    """Every instance of every series, as the split hands it out."""
    out = []
    for piece in manifest.split(**bounds):
        for part in piece.parts():
            last = (
                part.instanceCount if part.last_instance is None else part.last_instance
            )
            out += [
                (part.crdc_series_uuid, i) for i in range(part.first_instance, last)
            ]
    return out


series = st.lists(
    st.tuples(st.integers(1, 60), st.floats(0, 3, allow_subnormal=False)),
    min_size=1,
    max_size=12,
)


@given(series, st.integers(1, 2_000_000), st.integers(1, 40))
def test_every_instance_is_in_exactly_one_piece_in_order(
    series, max_bytes, max_instances
):
    counts, sizes = zip(*series, strict=True)
    manifest = manifest_of(counts, sizes)
    expected = [(f"u{i}", n) for i, count in enumerate(counts) for n in range(count)]
    found = pieces(manifest, max_bytes=max_bytes, max_instances=max_instances)
    assert found == expected


@given(series, st.integers(1, 2_000_000), st.integers(1, 40))
def test_no_piece_is_over_its_bounds_unless_it_is_one_instance(
    series, max_bytes, max_instances
):
    counts, sizes = zip(*series, strict=True)
    for piece in manifest_of(counts, sizes).split(max_bytes, max_instances):
        assert piece.instances <= max_instances
        # Runs are counted with the mean size of an instance: rounding adds a byte each.
        assert piece.instances == 1 or piece.size <= max_bytes + len(piece)


def test_small_series_share_a_piece_and_a_large_one_is_cut():
    manifest = manifest_of([1, 1, 100], [0.1, 0.1, 50.0])
    sizes = [
        [(p.first_instance, p.last_instance) for p in m.parts()]
        for m in manifest.split(10**7)
    ]
    assert sizes[0][:2] == [(0, None), (0, None)]
    assert len(sizes) == 6
    assert sizes[-1] == [(80, 100)]


def test_a_series_of_unknown_count_stays_whole():
    manifest = manifest_of([None, 1], [500.0, 0.1])
    assert [len(piece) for piece in manifest.split(10**6)] == [1, 1]


def packable(counts, sizes, sources):
    uuids = [str(UUID(int=7**40 * (i + 1) % 2**128)) for i in range(len(counts))]
    table = pa.table(
        {
            "crdc_series_uuid": uuids,
            "aws_bucket": [f"bucket{i % 3}" for i in range(len(counts))],
            "instanceCount": pa.array(counts, pa.int64()),
            "series_size_MB": pa.array(sizes, pa.float64()),
            "row_source": sources,
        }
    )
    return Manifest(table, 25, "a test")


known = st.tuples(
    st.one_of(st.none(), st.integers(1, 60)),
    st.one_of(st.none(), st.floats(0, 3, allow_subnormal=False)),
    st.sampled_from(["idc_index", "prior_versions_index"]),
)


@given(
    st.lists(known, min_size=1, max_size=12),
    st.integers(1, 2_000_000),
    st.integers(1, 40),
)
def test_packed_pieces_hold_the_parts_of_the_manifests(rows, max_bytes, max_instances):
    manifest = packable(*zip(*rows, strict=True))
    packed = manifest.pieces(max_bytes, max_instances)
    plain = manifest.split(max_bytes, max_instances)
    assert all(isinstance(piece, Piece) for piece in packed)
    for piece, small in zip(packed, plain, strict=True):
        assert list(piece.parts()) == list(small.parts())
        assert len(piece) == len(small)
        assert pickle.loads(pickle.dumps(piece)) == piece


@given(st.lists(known, min_size=1, max_size=12), st.integers(1, 5))
def test_pieces_are_no_more_than_there_may_be(rows, most):
    manifest = packable(*zip(*rows, strict=True))
    found = manifest.pieces(1, 1, most=most, whole_series=True)
    assert len(found) <= most
    uuids = [part.crdc_series_uuid for piece in found for part in piece.parts()]
    assert uuids == manifest.uuids


def test_rows_that_cannot_be_packed_travel_as_manifests():
    found = manifest_of([3, 4], [0.1, 0.2]).pieces(10**6, 5)
    assert [type(piece) for piece in found] == [Manifest, Manifest]
    many = packable([1] * 300, [0.1] * 300, ["idc_index"] * 300)
    buckets = pa.array([f"bucket{i}" for i in range(300)])
    table = many.table.set_column(1, "aws_bucket", buckets)
    (whole,) = Manifest(table, 25).pieces(10**9, 10**6)
    assert isinstance(whole, Manifest)


@pytest.mark.parametrize("bounds", [(0, 1), (1, 0), (-5, 5)])
def test_bounds_that_hold_nothing_are_refused(bounds):
    with pytest.raises(RequestError, match="partition"):
        manifest_of([1], [1.0]).split(*bounds)


def test_pickle_keeps_rows_release_and_origin():
    manifest = manifest_of([1, 2], [0.5, 0.7], Modality=["CT", None])
    again = pickle.loads(pickle.dumps(manifest))
    assert again == manifest
    assert again.table == manifest.table
    assert (again.idc_version, again.origin) == (25, "a test")


def test_a_piece_of_a_large_manifest_pickles_as_small_as_it_looks():
    large = manifest_of([1] * 200_000, [0.1] * 200_000)
    first = large.split(10**6)[0]
    assert len(first) == 10
    assert len(pickle.dumps(first)) < 5_000


def test_the_digest_says_which_bytes_are_meant():
    manifest = manifest_of([1, 2], [0.5, 0.7])
    described = manifest_of([1, 2], [0.5, 0.7], SeriesDescription=["a", "b"])
    assert manifest.digest == described.digest
    assert tokenize(manifest) == tokenize(described)
    # What a worker checks it by is part of what a task is, and so of its key.
    assert tokenize(manifest) != tokenize(manifest_of([1, 3], [0.5, 0.7]))
    assert hash(manifest) == hash(described)
    assert manifest != manifest_of([1, 2], [0.5, 0.7], version=24)
    assert manifest != manifest.take([1, 0])
    assert manifest != manifest.split(1)[0]
    assert manifest != "a manifest"


def test_bytes_and_instances_are_the_indexs():
    manifest = manifest_of([1, None], [0.531932, 0.5])
    assert manifest.size == 531_932 + 500_000
    assert manifest.instances == 1
    assert "1.03 MB" in repr(manifest)
    assert [part.size for part in manifest.parts()] == [531_932, 500_000]


def test_a_size_of_two_decimals_is_told_from_an_exact_one():
    exact = manifest_of([1], [0.5], row_source=["idc_index"])
    rounded = manifest_of([1], [0.5], row_source=["prior_versions_index"])
    assert [p.size_tolerance for p in exact.parts()] == [0]
    assert [p.size_tolerance for p in rounded.parts()] == [5_000]


@pytest.mark.parametrize(
    "table",
    [
        {"aws_bucket": ["b"]},
        {"crdc_series_uuid": ["u"]},
        {"crdc_series_uuid": pa.array([None], pa.string()), "aws_bucket": ["b"]},
    ],
)
def test_what_names_no_series_is_refused(table):
    with pytest.raises(RequestError, match="needs"):
        Manifest(pa.table(table), 25)


@pytest.mark.parametrize(
    ("aws", "gcs"),
    [
        ("idc-open-data", "idc-open-data"),
        ("idc-open-data-two", "idc-open-idc1"),
        ("idc-open-data-cr", "idc-open-cr"),
        ("another", "another"),
    ],
)
def test_buckets_have_pairs(aws, gcs):
    assert gcs_bucket(aws) == gcs
