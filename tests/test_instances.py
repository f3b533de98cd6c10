"""Objects known by name, size and MD5: no listing, and bytes that can be checked."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import exporting
import pyarrow as pa
import pytest
from dask.base import tokenize
from servers import HOST, NginxS3, Server, _nginx_user, executable, require

from intake_idc import open_idc, open_manifest
from intake_idc.errors import (
    IntegrityError,
    MissingError,
    ObjectNotFound,
    RequestError,
    StorageError,
)
from intake_idc.export.objects import ObjectTable, series_hash
from intake_idc.export.tables import open_export
from intake_idc.manifest import OBJECTS, Manifest
from intake_idc.storage import instances, resolve_mirror

BUCKET = Path(resolve_mirror("sample").root)
RELEASE = 2
COLUMNS = [
    "crdc_series_uuid",
    "crdc_instance_uuid",
    "SOPInstanceUID",
    "instance_size",
    "instance_hash",
    "series_hash",
    "aws_bucket",
    "key",
]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The sample's rows among those of others, in three files."""
    root = tmp_path_factory.mktemp("export")
    folder = root / "bigquery_export" / f"idc_v{RELEASE}" / "dicom_all"
    rows = exporting.sample_rows(BUCKET)
    others = exporting.made_up_rows(0, 1, 40)
    for number in range(3):
        exporting.write(folder, number, rows[number::3] + others[number::3])
    return open_export(RELEASE, mirror=root)


@pytest.fixture
def cohort():
    return open_idc(RELEASE, tables="sample").all()


@pytest.fixture(scope="module")
def table(export):
    return open_idc(RELEASE, tables="sample").all().instances_table(export)


def changed(table, row, **values):
    rows = table.to_pylist()
    rows[row] |= values
    return pa.Table.from_pylist(rows, table.schema)


def files_of(cohort):
    return [
        path
        for uuid in cohort.manifest().uuids
        for path in sorted((BUCKET / uuid).glob("*.dcm"))
    ]


def listings(server):
    return [
        r.uri for r in server.requests() if "list-type" in r.uri or r.uri[-1] == "/"
    ]


# The table.


def test_the_rows_are_the_real_files(table, cohort):
    assert table.column_names == COLUMNS
    assert table.schema.field("instance_size").type == pa.int64()
    by_key = {row["key"]: row for row in table.to_pylist()}
    paths = files_of(cohort)
    assert set(by_key) == {str(path.relative_to(BUCKET)) for path in paths}
    for path in paths:
        row = by_key[str(path.relative_to(BUCKET))]
        assert row["instance_size"] == path.stat().st_size
        assert row["instance_hash"] == exporting.md5(path.read_bytes())
        assert row["aws_bucket"] == "intake-idc-sample"
    assert list(by_key) == sorted(by_key)


def test_the_hash_of_a_series_is_that_of_its_sorted_hashes(table):
    series = table.column("crdc_series_uuid").to_pylist()
    for uuid in set(series):
        rows = [row for row in table.to_pylist() if row["crdc_series_uuid"] == uuid]
        assert series_hash(r["instance_hash"] for r in rows) == rows[0]["series_hash"]


def test_a_file_brings_the_same_cohort_back(export, cohort, tmp_path):
    for name in ("objects.parquet", "objects.csv"):
        path = cohort.save_instances(tmp_path / name, export)
        known = cohort.with_instances(path)
        assert (
            known.objects
            == cohort.with_instances(cohort.instances_table(export)).objects
        )
        assert len(known.objects) == 9


def test_a_manifest_knows_its_objects_too(export, cohort, tmp_path):
    path = cohort.to_manifest(tmp_path / "c.s5cmd")
    again = open_manifest(path, idc_version=RELEASE, tables="sample")
    assert again.instances_table(export).equals(cohort.instances_table(export))


def test_an_export_of_another_release_is_refused(export):
    older = open_idc(1, tables="sample").all()
    with pytest.raises(RequestError, match=r"of release 1, and .* of release 2"):
        older.instances_table(export)


# The cohort that knows.


@pytest.mark.servers
@pytest.mark.parametrize("size", ["1 B", "128 MiB"])
def test_reading_lists_nothing(s3_nginx, cohort, table, size):
    place = "s3://intake-idc-sample"
    plain = cohort.reading_from(place, endpoint_url=s3_nginx.endpoint)
    known = plain.with_instances(table)
    expected = plain.datasets().map(lambda d: str(d.SOPInstanceUID)).compute()
    s3_nginx.reset()
    bag = known.datasets(partition_bytes=size)
    assert bag.map(lambda d: str(d.SOPInstanceUID)).compute() == expected
    assert not listings(s3_nginx)
    headers = known.header_rows(["Modality"]).compute()
    assert headers == plain.header_rows(["Modality"]).compute()
    assert listings(s3_nginx)  # of the plain one


@pytest.mark.servers
def test_copying_and_checking_lists_nothing(s3_nginx, cohort, table, tmp_path):
    place = "s3://intake-idc-sample"
    known = cohort.reading_from(place, endpoint_url=s3_nginx.endpoint)
    known = known.with_instances(table)
    s3_nginx.reset()
    report = known.materialize(tmp_path)
    assert len(report.paths) == len(table)
    assert known.verify(tmp_path, checksum=True).ok
    assert not listings(s3_nginx)
    assert len(s3_nginx.requests()) == len(table)


class PlainHTTP(Server):
    """A folder by nginx as plain files: what is named is served, nothing is listed."""

    ready_path = "/-/status"

    @classmethod
    def missing(cls):
        return NginxS3.missing()

    def command(self, port):
        config = self.folder / "nginx.conf"
        config.write_text(
            f"""daemon off; {_nginx_user()} worker_processes 1; pid {self.folder}/pid;
            events {{ }}
            http {{
                access_log {self.folder}/access.log;
                client_body_temp_path {self.folder}/body;
                proxy_temp_path {self.folder}/proxy;
                fastcgi_temp_path {self.folder}/fastcgi;
                uwsgi_temp_path {self.folder}/uwsgi;
                scgi_temp_path {self.folder}/scgi;
                server {{
                    listen {HOST}:{port};
                    location / {{ root {BUCKET}; }}
                    location = {self.ready_path} {{ stub_status; }}
                }}
            }}
            """
        )
        nginx = str(executable("nginx"))
        return [nginx, "-p", str(self.folder), "-e", "stderr", "-c", str(config)]


@pytest.mark.servers
def test_a_place_that_lists_nothing_is_read(cohort, table, tmp_path):
    require(PlainHTTP)
    with PlainHTTP() as server:
        plain = cohort.reading_from(server.endpoint)
        with pytest.raises(StorageError):
            plain.datasets().count().compute()
        known = plain.with_instances(table)
        assert known.datasets().count().compute() == len(table)
        known.materialize(tmp_path)
        assert known.verify(tmp_path, checksum=True).ok


def test_narrowing_keeps_what_is_known_and_another_release_forgets_it(cohort, table):
    known = cohort.with_instances(table)
    assert known.search(Modality="CT").datasets().count().compute() == 3
    assert known.at(1).objects is None
    assert known.reading_from("sample").objects == known.objects


def test_instances_carry_size_and_md5_and_not_each_other(cohort, table):
    known = cohort.with_instances(table)
    manifest = known.objects.attach(cohort.manifest())
    found = instances(manifest.parts(), resolve_mirror("sample"))
    listed = instances(cohort.manifest().parts(), resolve_mirror("sample"))
    assert [(i.key, i.size, i.url) for i in found] == [
        (i.key, i.size, i.url) for i in listed
    ]
    by_key = {row["key"]: row["instance_hash"] for row in table.to_pylist()}
    assert {i.key: i.md5 for i in found} == by_key
    assert all(i.part.objects is None for i in found)
    assert {i.md5 for i in listed} == {None}


def test_an_object_that_is_gone_is_an_error(cohort, table, tmp_path):
    shutil.copytree(BUCKET, tmp_path / "bucket")
    known = cohort.with_instances(table).reading_from(tmp_path / "bucket")
    (tmp_path / "bucket" / files_of(cohort)[0].relative_to(BUCKET)).unlink()
    with pytest.raises(ObjectNotFound):
        known.datasets().count().compute()


# Checking.


def test_a_file_with_other_bytes_of_the_same_number_is_found(cohort, table, tmp_path):
    known = cohort.with_instances(table)
    report = known.materialize(tmp_path)
    damaged = report.paths[4]
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert known.verify(tmp_path, quick=True).ok
    for checksum in (False, True):
        found = known.verify(tmp_path, checksum=checksum)
        assert found.differ == (damaged,)
        assert len(found.match) == len(report.paths) - 1
        assert not found.ok
    damaged.unlink()
    assert known.verify(tmp_path, checksum=True).missing == (damaged,)


def test_bytes_of_which_no_hash_is_known_are_unverifiable(cohort, table, tmp_path):
    bare = cohort.with_instances(
        table.drop_columns(["instance_hash", "series_hash"])
    ).reading_from("sample")
    for known in (cohort, bare):
        known.materialize(tmp_path / "a", record=False)
        found = known.verify(tmp_path / "a", checksum=True)
        assert found.counts["unverifiable"] == len(table)
        assert found.ok


def test_the_hash_of_a_series_vouches_for_its_objects(cohort, table, tmp_path):
    known = cohort.with_instances(table.drop_columns(["instance_hash"]))
    paths = known.materialize(tmp_path, record=False).paths
    assert known.verify(tmp_path, checksum=True).counts["match"] == len(table)
    data = bytearray(paths[0].read_bytes())
    data[-1] ^= 1
    paths[0].write_bytes(data)
    found = known.verify(tmp_path, checksum=True)
    assert paths[0] in found.differ
    assert {path.parent for path in found.differ} == {paths[0].parent}
    assert "the hash of its series" in str(found)


# What is refused.

WRONG = {
    "another size": (
        lambda t: changed(t, 0, instance_size=1),
        IntegrityError,
        "the table of objects has .* objects of .* bytes",
    ),
    "a row less": (lambda t: t.slice(1), IntegrityError, "the index says"),
    "a row twice": (
        lambda t: pa.concat_tables([t, t.slice(0, 1)]),
        IntegrityError,
        "the index says",
    ),
    "another object": (
        lambda t: changed(
            t, 0, **{n: t.column(n)[1].as_py() for n in ("crdc_instance_uuid",)}
        ),
        IntegrityError,
        "is there twice",
    ),
    "another hash": (
        lambda t: changed(t, 0, instance_hash="0" * 32),
        IntegrityError,
        "its series_hash is",
    ),
    "another hash, and none in another series": (
        lambda t: changed(
            changed(t, 0, instance_hash="0" * 32), -1, instance_hash=None
        ),
        IntegrityError,
        "its series_hash is",
    ),
    "a column twice": (
        lambda t: t.append_column("instance_size", t.column("instance_size")),
        RequestError,
        "2 times",
    ),
    "no hash": (
        lambda t: changed(t, 0, instance_hash="x"),
        RequestError,
        "which is no MD5",
    ),
    "no uuid": (
        lambda t: changed(t, 0, crdc_instance_uuid="1.2.3"),
        RequestError,
        "which is no uuid",
    ),
    "no name": (
        lambda t: changed(t, 0, crdc_instance_uuid=None),
        RequestError,
        "in every row",
    ),
    "no size": (
        lambda t: changed(t, 0, instance_size=None),
        RequestError,
        "in every row",
    ),
    "no column": (
        lambda t: t.drop_columns(["instance_size"]),
        RequestError,
        "needs the column 'instance_size'",
    ),
    "no series": (
        lambda t: t.drop_columns(["crdc_series_uuid"]),
        RequestError,
        "needs the column 'crdc_series_uuid'",
    ),
    "nothing": (lambda t: t.slice(0, 0), MissingError, "no row for series"),
}


@pytest.mark.parametrize(("wrong", "error", "match"), WRONG.values(), ids=WRONG)
def test_rows_that_are_not_the_cohorts_are_refused(cohort, table, wrong, error, match):
    with pytest.raises(error, match=match):
        cohort.with_instances(wrong(table))


def test_a_series_without_rows_is_named(cohort, table):
    gone = table.column("crdc_series_uuid")[0].as_py()
    kept = pa.Table.from_pylist(
        [r for r in table.to_pylist() if r["crdc_series_uuid"] != gone], table.schema
    )
    with pytest.raises(MissingError, match=gone):
        cohort.with_instances(kept)
    with pytest.raises(MissingError, match=gone):
        ObjectTable(kept, cohort.manifest()).attach(cohort.manifest())


def test_a_table_by_series_uid_and_without_hashes_will_do(cohort, table):
    """As `sm_instance_index` is."""
    by_uuid = {
        row["crdc_series_uuid"]: row["SeriesInstanceUID"]
        for row in cohort.manifest().table.to_pylist()
    }
    rows = pa.table(
        {
            "SeriesInstanceUID": [
                *(by_uuid[u] for u in table.column("crdc_series_uuid").to_pylist()),
                "1.2.3",
            ],
            "instance_size": [*table.column("instance_size").to_pylist(), 5],
            "crdc_instance_uuid": [
                *table.column("crdc_instance_uuid").to_pylist(),
                exporting.named("other"),
            ],
        }
    )
    known = cohort.with_instances(rows)
    assert len(known.objects) == len(table)
    assert known.datasets().count().compute() == len(table)


@pytest.mark.parametrize("name", ["nothing.parquet", "nothing.txt"])
def test_a_file_that_is_no_table_is_refused(cohort, tmp_path, name):
    with pytest.raises((MissingError, RequestError)):
        cohort.with_instances(tmp_path / name)
    (tmp_path / name).write_text("<html>")
    with pytest.raises((IntegrityError, RequestError)):
        cohort.with_instances(tmp_path / name)


# Travelling.


def test_a_cohort_that_knows_pickles_and_keeps_the_keys_of_its_graph(cohort, table):
    known = cohort.with_instances(table)
    again = pickle.loads(pickle.dumps(known))
    assert again.objects == known.objects
    assert tokenize(again.objects) == tokenize(known.objects)
    assert again.datasets().name == known.datasets().name


def many(series, count):
    """A manifest of series with many objects, and their table."""
    rows = [
        (exporting.named("s", s), exporting.named("i", s, i))
        for s in range(series)
        for i in range(count)
    ]
    uuids, names = zip(*rows, strict=True)
    table = pa.table(
        {
            "crdc_series_uuid": uuids,
            "crdc_instance_uuid": names,
            "instance_size": [1000] * len(rows),
            "instance_hash": [exporting.md5(n.encode()) for n in names],
        }
    )
    manifest = Manifest(
        pa.table(
            {
                "crdc_series_uuid": list(dict.fromkeys(uuids)),
                "aws_bucket": ["b"] * series,
                "instanceCount": [count] * series,
                "series_size_MB": [count / 1000] * series,
                "row_source": ["idc_index"] * series,
            }
        ),
        25,
    )
    return manifest, table


@pytest.mark.parametrize(("series", "count"), [(2, 5000), (2000, 3)])
def test_pieces_carry_their_own_objects_and_no_others(series, count):
    manifest, table = many(series, count)
    objects = ObjectTable(table, manifest)
    objects.check(manifest)
    whole = objects.attach(manifest)
    mirror = resolve_mirror("s3://here")
    expected = [(i.key, i.size, i.md5) for i in instances(whole.parts(), mirror)]
    assert len(expected) == series * count
    assert [key for key, _, _ in expected[:count]] == sorted(
        key for key, _, _ in expected[:count]
    )
    pieces = whole.split(10**9, 512)
    assert len(pieces) > 10
    found = [
        (i.key, i.size, i.md5)
        for piece in pieces
        for i in instances(pickle.loads(pickle.dumps(piece)).parts(), mirror)
    ]
    assert found == expected
    again = [small for piece in pieces for small in piece.split(10**9, 100)]
    assert found == [
        (i.key, i.size, i.md5) for p in again for i in instances(p.parts(), mirror)
    ]
    with pytest.raises(RequestError, match="before it is split"):
        objects.attach(manifest.split(10**9, 1)[0])
    none = Manifest(manifest.table.slice(0, 0), 25)
    assert len(ObjectTable(table, none).attach(none)) == 0
    # 16 bytes of uuid, 16 of MD5, 8 of size; the rest is the series' own columns.
    sent = [len(pickle.dumps(piece)) for piece in pieces]
    assert sum(sent) < series * count * 40 + len(pieces) * 3000 + series * 150
    assert whole == manifest
    assert OBJECTS not in manifest.columns
