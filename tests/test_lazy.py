"""Dask collections: lazy, deterministic, complete, on threads and on a cluster."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from operator import add
from pathlib import Path

import dask
import numpy as np
import pydicom
import pytest
from dask.base import tokenize
from dask.sizeof import sizeof

from intake_idc import dicom, open_idc, open_manifest, resolve_mirror, sample_path
from intake_idc.errors import (
    DicomReadError,
    EmptySelection,
    IntegrityError,
    ObjectChanged,
    RequestError,
    StorageError,
)
from intake_idc.lazy import InstanceBag, datasets, frame, objects, reduced
from intake_idc.storage import each, instances

SAMPLE = open_idc(2, tables="sample")
IMAGES = SAMPLE.search(Modality=["CT", "MR"])
EXPECTED = [
    pydicom.dcmread(instance.url)
    for instance in instances(IMAGES.manifest().parts(), resolve_mirror("sample"))
]


@pytest.mark.parametrize("size", ["1 kB", "600 kB", "1 MiB", "128 MiB", 10_000_000])
@pytest.mark.parametrize("headers_only", [False, True], ids=["whole", "headers"])
def test_datasets_are_complete_and_in_order_however_they_are_split(size, headers_only):
    found = IMAGES.datasets(partition_bytes=size, headers_only=headers_only).compute()
    assert [d.SOPInstanceUID for d in found] == [d.SOPInstanceUID for d in EXPECTED]
    assert all(("PixelData" in d) != headers_only for d in found)
    if not headers_only:
        assert found == EXPECTED


def test_small_series_share_a_partition_and_large_ones_are_cut():
    assert SAMPLE.all().datasets().npartitions == 1
    assert IMAGES.datasets(partition_bytes="1 kB").npartitions == 7
    assert IMAGES.datasets(partition_instances=2).npartitions == 4


def test_a_graph_has_one_task_for_each_partition_and_nothing_is_opened(tmp_path):
    bag = IMAGES.datasets(partition_bytes="1 kB", mirror=tmp_path)
    assert len(bag.__dask_graph__()) == bag.npartitions == 7
    with pytest.raises(FileNotFoundError, match="holds no object"):
        bag.compute()


def test_keys_depend_on_what_is_read_and_how():
    keys = IMAGES.datasets().__dask_keys__()
    assert keys == IMAGES.datasets().__dask_keys__()
    others = [
        IMAGES.datasets(headers_only=True),
        IMAGES.datasets(partition_bytes="1 kB"),
        IMAGES.search(Modality="CT").datasets(),
        open_idc(1, tables="sample").search(Modality=["CT", "MR"]).datasets(),
        IMAGES.datasets(mirror=sample_path() / "bucket"),
    ]
    assert all(other.__dask_keys__() != keys for other in others)
    code = (
        "from intake_idc import open_idc\n"
        "bag = open_idc(2, tables='sample').search(Modality=['CT', 'MR']).datasets()\n"
        "print(bag.__dask_keys__())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(keys)


def test_threads_are_the_default_and_stay_so():
    bag = IMAGES.datasets()
    for made in (bag, bag.map(len), bag.filter(bool), bag.map_partitions(list)):
        assert isinstance(made, InstanceBag)
        assert made.__dask_scheduler__ is dask.threaded.get


REDUCED = {
    "count": lambda bag: bag.count(),
    "mean": lambda bag: bag.map(_mean).mean(),
    "sum": lambda bag: bag.map(len).sum(),
    "fold": lambda bag: bag.map(len).fold(max),
    "topk": lambda bag: bag.map(_mean).topk(2),
    "distinct": lambda bag: bag.map(lambda d: d.Modality).distinct(),
    "frequencies": lambda bag: bag.map(lambda d: d.Modality).frequencies(),
    "accumulate": lambda bag: bag.map(len).accumulate(max),
    "foldby": lambda bag: bag.map(len).foldby(bool, lambda x, _: x, 0),
    "groupby": lambda bag: bag.map(len).groupby(bool),
    "repartition": lambda bag: bag.repartition(2),
    "take": lambda bag: bag.take(1, compute=False),
    "count of a count": lambda bag: bag.count().apply(str),
}


@pytest.mark.parametrize("reduce", REDUCED.values(), ids=REDUCED)
def test_what_is_made_from_a_bag_runs_on_threads_too(reduce):
    made = reduce(IMAGES.datasets(partition_bytes="600 kB"))
    assert made.__dask_scheduler__ is dask.threaded.get
    made.compute()


def test_an_unguarded_script_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('from the top')\n"
        "from intake_idc import open_idc\n"
        "ct = open_idc(2, tables='sample').search(Modality='CT')\n"
        "print(ct.header_rows(['Rows']).to_dataframe().compute().shape)\n"
        "print(len(ct.datasets().take(2)), ct.datasets().count().compute())\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:3] == ["from the top", "(3, 4)", "2 3"]


def test_results_do_not_depend_on_the_scheduler():
    means = IMAGES.datasets(partition_bytes="1 MiB").map(_mean)
    expected = [_mean(dataset) for dataset in EXPECTED]
    for scheduler in ("threads", "sync", "processes"):
        assert means.compute(scheduler=scheduler) == expected


def _mean(dataset):
    return float(dataset.pixel_array.mean())


def test_header_rows_name_their_object():
    rows = IMAGES.header_rows(["SOPInstanceUID", "Rows", "EchoTime"]).compute()
    assert [row["SOPInstanceUID"] for row in rows] == [
        d.SOPInstanceUID for d in EXPECTED
    ]
    assert {row["Rows"] for row in rows} == {512, 240}
    uuids = set(IMAGES.manifest().uuids)
    assert {row["crdc_series_uuid"] for row in rows} == uuids
    assert all(row["url"].endswith(f"{row['crdc_instance_uuid']}.dcm") for row in rows)


def test_a_keyword_that_dicom_does_not_have_is_refused_before_anything_is_read():
    for keyword in ("Modalty", "rows", "PatientsName", 0x00080060):
        with pytest.raises(RequestError, match="no DICOM keyword"):
            IMAGES.header_rows([keyword])
    with pytest.raises(RequestError, match="did you mean 'Modality'"):
        IMAGES.header_rows(["Modalty"])


def test_file_meta_is_a_value_too():
    rows = IMAGES.header_rows("TransferSyntaxUID").compute()
    expected = [d.file_meta.TransferSyntaxUID for d in EXPECTED]
    assert [row["TransferSyntaxUID"] for row in rows] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"partition_bytes": 0},
        {"partition_instances": 0},
        {"partition_bytes": "abc"},
        {"partition_bytes": 1.5},
        {"partition_instances": 1.5},
        {"partition_instances": "5"},
    ],
)
def test_a_partition_of_nothing_is_refused(options):
    with pytest.raises(RequestError, match="partition"):
        IMAGES.datasets(**options)


def test_a_release_pins_the_bytes():
    old = open_idc(1, tables="sample").search(Modality="CT").datasets().compute()
    new = SAMPLE.search(Modality="CT").datasets().compute()
    assert len(old) == 2
    assert len(new) == 3
    assert {d.SeriesInstanceUID for d in old} == {d.SeriesInstanceUID for d in new}
    assert {d.SOPInstanceUID for d in old} < {d.SOPInstanceUID for d in new}


def test_a_broken_object_is_named(tmp_path):
    ct = SAMPLE.search(Modality="CT")
    uuid = ct.manifest().uuids[0]
    folder = tmp_path / uuid
    folder.mkdir()
    for path in (sample_path() / "bucket" / uuid).iterdir():
        data = path.read_bytes()
        (folder / path.name).write_bytes(b"x" * len(data))
    for headers_only in (False, True):
        with pytest.raises(DicomReadError, match=uuid) as caught:
            ct.datasets(mirror=tmp_path, headers_only=headers_only).compute()
        assert caught.value.kind == "not dicom"
    next(folder.iterdir()).unlink()
    with pytest.raises(IntegrityError, match="lists 2 objects"):
        ct.datasets(mirror=tmp_path).compute()


def test_dask_knows_how_large_a_dataset_is():
    dataset = IMAGES.datasets().compute()[0]
    assert sizeof(dataset) > len(dataset.PixelData)


def test_graphs_carry_rows_and_no_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    cohort = open_idc(25).search(collection_id="rider_pilot", Modality="CT")
    data = pickle.dumps(dict(cohort.datasets().__dask_graph__()))
    assert b"hunter2" not in data
    assert len(data) < 300_000


def test_a_million_instances_are_a_small_graph():
    manifest = open_idc(25).search(Modality="CT").manifest()
    counts = np.cumsum(manifest.table.column("instanceCount").to_pylist())
    million = manifest.take(list(range(int(np.searchsorted(counts, 10**6)) + 1)))
    assert million.instances >= 1_000_000
    aws = resolve_mirror("aws")
    for bag in (objects(million, aws), datasets(million, aws, headers_only=True)):
        graph = dict(bag.__dask_graph__())
        assert len(graph) == bag.npartitions < 10_000
        assert len(pickle.dumps(graph)) < 1_000_000
    tokenize(bag)


def test_partitions_grow_where_there_would_be_more_than_a_scheduler_likes():
    cohort = open_idc(25).search(collection_id="nlst", Modality="CT")
    bag = cohort.to_dask()
    assert 5_000 < bag.npartitions <= 10_000
    listed = sum(len(task[1]) for task in dict(bag.dask).values())
    assert listed == len(cohort)


def test_a_handle_reads_what_it_is_asked_for():
    found = IMAGES.to_dask().compute()
    assert [handle.crdc_series_uuid for handle in found] == [
        uuid
        for uuid, count in IMAGES.table.select(["crdc_series_uuid", "instanceCount"])
        .to_pandas()
        .itertuples(index=False)
        for _ in range(count)
    ]
    for handle, expected in zip(found, EXPECTED, strict=True):
        assert handle.size == Path(handle.url).stat().st_size
        assert handle.read() == Path(handle.url).read_bytes()
        assert handle.dataset() == expected
        assert "PixelData" not in handle.header()
        assert handle.header().SOPInstanceUID == expected.SOPInstanceUID
        assert (handle.pixels() == expected.pixel_array).all()
        assert (handle.pixels(0) == expected.pixel_array).all()
        assert handle.frame_index().frames == 1


def test_frames_are_those_of_pydicom_in_any_order():
    for handle in SAMPLE.search(Modality=["SEG", "SM"]).to_dask().compute():
        expected = pydicom.dcmread(handle.url).pixel_array
        assert (handle.pixels() == expected).all()
        wanted = [2, 0, 2]
        assert (handle.pixels(wanted) == expected[wanted]).all()
        assert [f.tolist() for f in handle.frames(wanted)] == expected[wanted].tolist()
        with pytest.raises(RequestError, match="no frame -1"):
            handle.pixels(-1)


def test_an_object_is_read_once_for_its_pixels(s3_nginx):
    cohort = SAMPLE.search(Modality="CT").reading_from(
        "s3://{aws_bucket}", endpoint_url=s3_nginx.endpoint
    )
    handles = cohort.to_dask().compute()
    s3_nginx.reset()
    for handle, expected in zip(handles, EXPECTED, strict=False):
        assert (handle.pixels() == expected.pixel_array).all()
    assert [request.range for request in s3_nginx.requests()] == ["", "", ""]


def test_an_object_that_is_replaced_after_it_was_listed_is_not_read(tmp_path):
    ct = SAMPLE.search(Modality="CT")
    (uuid,) = ct.manifest().uuids
    shutil.copytree(sample_path() / "bucket" / uuid, tmp_path / uuid)
    handle, other, third = ct.to_dask(mirror=tmp_path).compute()
    volume = ct.to_volume(mirror=tmp_path)
    data = Path(handle.url).read_bytes()
    Path(handle.url).unlink()
    # The same number of bytes, and another object.
    Path(handle.url).write_bytes(data[:-2] + b"xx")
    for read in (handle.dataset, handle.header, handle.pixels, volume.compute):
        with pytest.raises(ObjectChanged, match=handle.crdc_instance_uuid):
            read()
    assert other.pixels().shape == third.pixels().shape == (512, 512)


def test_a_folder_of_links_is_a_mirror(tmp_path, monkeypatch):
    ct = SAMPLE.search(Modality="CT")
    (uuid,) = ct.manifest().uuids
    (tmp_path / uuid).mkdir()
    for path in (sample_path() / "bucket" / uuid).iterdir():
        (tmp_path / uuid / path.name).symlink_to(path)
    # As of an object that is too large to be read whole.
    monkeypatch.setattr(sys.modules["intake_idc.lazy.handles"], "SMALL_BYTES", 1000)
    for handle in ct.to_dask(mirror=tmp_path).compute() * 2:
        assert handle.pixels().shape == (512, 512)


def test_a_handle_is_small_and_travels():
    found = IMAGES.to_dask().compute()
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert len(pickle.dumps(found)) < 400 * len(found)


def test_a_function_over_objects_gives_what_a_loop_gives():
    expected = [_mean(dataset) for dataset in EXPECTED]
    bag = IMAGES.map_objects(_mean_of_handle, partition_instances=2)
    assert bag.npartitions == 4
    for scheduler in ("threads", "sync", "processes"):
        assert bag.compute(scheduler=scheduler) == expected


def _mean_of_handle(handle):
    return float(handle.pixels().mean())


def test_a_function_over_series_gets_each_whole_and_once():
    rows = [(uid, count) for uid, count, *_ in _series_rows()]
    for options in ({}, {"partition_instances": 1}, {"partition_bytes": "1 kB"}):
        bag = SAMPLE.all().map_series(
            lambda s: (s.SeriesInstanceUID, len(s.objects())), **options
        )
        assert bag.compute() == rows
        assert bag.npartitions == (len(rows) if options else 1)


def _series_rows():
    columns = ["SeriesInstanceUID", "instanceCount"]
    return SAMPLE.all().manifest().table.select(columns).to_pandas().itertuples(False)


def test_every_series_is_a_delayed_of_its_own():
    by_uid = SAMPLE.all().to_series_dict()
    counts = {uid: len(read) for uid, read in dask.compute(by_uid)[0].items()}
    assert counts == dict(_series_rows())
    total = dask.delayed(sum)(SAMPLE.all().to_delayed(lambda s: len(s.objects())))
    assert total.compute() == sum(counts.values()) == 9


def test_two_versions_of_a_series_are_not_one():
    releases = [open_idc(number, tables="sample") for number in (1, 2)]
    uuids = [r.search(Modality="CT").manifest().uuids[0] for r in releases]
    cohort = open_manifest(uuids, idc_version=2, tables="sample", problems="report")
    assert len(cohort.to_delayed()) == 2
    with pytest.raises(RequestError, match="2 series have 1 SeriesInstanceUIDs"):
        cohort.to_series_dict()


@pytest.mark.parametrize("partitions", [{}, {"partition_instances": 1}])
def test_what_is_collected_is_a_table_beside_the_results(tmp_path, partitions):
    uuids = SAMPLE.all().manifest().uuids
    shutil.copytree(sample_path() / "bucket", tmp_path, dirs_exist_ok=True)
    broken = sorted((tmp_path / uuids[1]).iterdir())[2]
    broken.write_bytes(b"<html>" + bytes(broken.stat().st_size - 6))
    shutil.rmtree(tmp_path / uuids[2])
    options = {"mirror": tmp_path, **partitions}
    bag = SAMPLE.all().datasets(on_error="collect", **options)
    results, failures = bag.collected()
    assert len(results) == 7
    told = failures.select(["crdc_series_uuid", "kind", "attempts"]).to_pylist()
    assert told == [
        {"crdc_series_uuid": uuids[1], "kind": "not dicom", "attempts": 1},
        {"crdc_series_uuid": uuids[2], "kind": "not found", "attempts": 1},
    ]
    assert str(broken) in failures.column("url").to_pylist()
    both = dask.compute(bag.count(), bag.failures.count())
    assert both == (7, 2)
    with pytest.raises(StorageError):
        SAMPLE.all().datasets(**options).compute()


def test_failures_do_not_depend_on_partitions(tmp_path):
    """A series that cannot be listed fails once, however many partitions it has."""
    tables = [
        SAMPLE.all()
        .to_dask(mirror=tmp_path, partition_instances=size, on_error="collect")
        .collected()
        .failures
        for size in (1, 2, 3, 100)
    ]
    assert tables[0].column("crdc_series_uuid").to_pylist() == (
        SAMPLE.all().manifest().uuids
    )
    assert all(table == tables[0] for table in tables)


def test_a_reason_that_is_no_text_does_not_spoil_the_table():
    bag = IMAGES.map_objects(_refuse_with_half_a_character, on_error="collect")
    reasons = bag.collected().failures.column("reason").to_pylist()
    assert reasons == ["a name: \\udcff"] * 7


def _refuse_with_half_a_character(_):
    raise ValueError("a name: " + b"\xff".decode("utf-8", "surrogateescape"))


def test_a_generator_is_refused_which_would_read_too_late():
    for bag in (
        IMAGES.map_objects(lambda found: found.frames()),
        IMAGES.map_series(lambda series: (one.read() for one in series.objects())),
    ):
        with pytest.raises(RequestError, match="give a list"):
            bag.compute()


def test_what_is_skipped_is_in_the_log(caplog):
    bag = SAMPLE.all().map_objects(lambda f: f.pixels(1).shape, on_error="skip")
    assert bag.compute() == [(16, 16), (10, 10, 3)]
    assert len(caplog.messages) == 7
    assert "no frame 1; they are 0 to 0" in caplog.messages[0]
    failing = SAMPLE.all().map_series(_refuse, on_error="collect")
    assert set(failing.collected().failures.column("kind").to_pylist()) == {
        "ZeroDivisionError"
    }


def _refuse(series):
    return len(series.url) / 0


def test_an_unknown_way_with_errors_is_refused():
    with pytest.raises(RequestError, match="'ignore'"):
        IMAGES.to_dask(on_error="ignore")
    with pytest.raises(RequestError, match="on_error='collect'"):
        IMAGES.to_dask().collected()


def test_a_reduction_does_not_depend_on_partitions():
    for options in ({}, {"initial": 0}):
        sizes = SAMPLE.all().reduce(
            lambda s: sum(o.size for o in s.objects()), add, **options
        )
        assert sizes.compute() == SAMPLE.all().size
    for size in (1, 100):
        ones = SAMPLE.all().map_series(lambda _: [1], partition_instances=size)
        assert reduced(ones, add, [5]).compute() == [5, 1, 1, 1, 1]
    nothing = SAMPLE.all().reduce(_refuse, add, initial=7, on_error="skip")
    assert nothing.compute() == 7
    with pytest.raises(RequestError, match="one value"):
        SAMPLE.all().reduce(_refuse, add, on_error="collect")


def test_progress_is_shown_where_it_is_asked_for(capsys):
    bag = IMAGES.to_dask(partition_instances=2)
    assert len(bag.compute(progress=True)) == 7
    assert "100% Completed" in capsys.readouterr().out
    assert bag.count().compute(progress=True) == 7
    assert "100% Completed" in capsys.readouterr().out
    quiet = IMAGES.map_objects(_mean_of_handle, on_error="collect")
    assert len(quiet.collected().results) == 7
    assert capsys.readouterr().out == ""


def test_calls_side_by_side_may_be_nested():
    def inner(n):
        return list(
            each(lambda m: list(each(lambda k: (n, m, k), range(2))), range(40))
        )

    found = list(each(inner, range(40)))
    assert found == [[[(n, m, 0), (n, m, 1)] for m in range(40)] for n in range(40)]


def test_a_header_of_annotations_stops_before_their_points(tmp_path):
    image = SAMPLE.search(Modality="CT").to_dask().compute()[0].dataset()
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(image, keyword)
    group = pydicom.Dataset()
    group.add_new(0x00660016, "OF", bytes(20_000_000))
    image.AnnotationGroupSequence = [group]
    path = tmp_path / "one.dcm"
    image.save_as(path)
    asked = []

    def read(start, stop):
        asked.append(stop - start)
        return path.read_bytes()[start:stop]

    header = dicom.read_header(read, path.stat().st_size)
    assert header.SOPInstanceUID == image.SOPInstanceUID
    assert "AnnotationGroupSequence" not in header
    assert sum(asked) <= 64 * 1024
    whole = dicom.read_dataset(path.read_bytes())
    assert len(whole.AnnotationGroupSequence[0][0x00660016].value) == 20_000_000


def test_nothing_is_no_bag():
    with pytest.raises(EmptySelection):
        SAMPLE.search(Modality="CT").query("false").datasets()


def test_a_table_is_a_frame_with_arrow_types():
    table = SAMPLE.table
    found = frame(table, rows=2)
    assert found.npartitions == 2
    computed = found.compute()
    assert (
        computed.crdc_series_uuid.tolist()
        == table.column("crdc_series_uuid").to_pylist()
    )
    assert str(computed.dtypes["instanceCount"]) == "int64[pyarrow]"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_of_a_cluster_read_the_same(capsys):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster) as client,
    ):
        bag = IMAGES.datasets(partition_bytes="600 kB")
        found = client.compute(bag.map(_mean)).result(timeout=60)
        assert found == [_mean(dataset) for dataset in EXPECTED]
        workers = client.run(lambda: __import__("os").getpid())
        assert len(set(workers.values())) == 2
        assert bag.map(_mean).compute(progress=True) == found
        assert "100% Completed" in capsys.readouterr().out
        headers = client.gather(client.compute(IMAGES.datasets(headers_only=True)))
        assert [h.SOPInstanceUID for h in headers] == [
            d.SOPInstanceUID for d in EXPECTED
        ]
        with pytest.raises(FileNotFoundError, match="holds no object"):
            client.compute(IMAGES.datasets(mirror="/tmp")).result(timeout=60)
