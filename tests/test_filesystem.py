"""The ``idc://`` file system: a fixed tree, read-only, concurrent, pinned.

fsspec's own suite for others (``fsspec.tests.abstract``) builds trees of any shape in
the file system under test. The shape of this one is given, so the same questions are
put to fsspec's memory file system holding the same paths, and the answers compared.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import http.server
import json
import pickle
import posixpath
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from dask.base import tokenize
from fsspec.callbacks import Callback
from fsspec.generic import GenericFileSystem, rsync
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from intake_idc import filesystem, sample_path, storage
from intake_idc.errors import (
    IntegrityError,
    MirrorError,
    ObjectNotFound,
    StorageError,
    TableNotFound,
    WrongSize,
)
from intake_idc.filesystem import IDCFileSystem, objects
from intake_idc.filesystem.paths import quote, unquote
from intake_idc.storage import REQUESTS

PLAIN = {
    ("lung", "A1", "1.1", "1.1.1"): 3,
    ("lung", "A1", "1.1", "1.1.2"): 1,
    ("lung", "A1", "1.2", "1.2.1"): 2,
    ("lung", "B 2", "2.1", "2.1.1"): 1,
    ("liver", "A1", "3.1", "3.1.1"): 2,
    ("brain", "C3", "4.1", "4.1.1"): 1,
}
"""Instances of each series: collection, patient, study, series."""


def make_archive(folder, series):
    """Write a bucket and its tables, as IDC lays them out, with one release."""
    rows = []
    for names, count in series.items():
        series_uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, repr(names)))
        size = 0
        for i in range(count):
            name = uuid.uuid5(uuid.NAMESPACE_OID, f"{names} {i}")
            path = folder / "bucket" / series_uuid / f"{name}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{names} {i}, ".encode() * (i + 1))
            size += path.stat().st_size
        rows.append(
            {
                **dict(zip(filesystem.COLUMNS, names, strict=True)),
                "crdc_series_uuid": series_uuid,
                "aws_bucket": "bucket",
                "instanceCount": count,
                "series_size_MB": size / 1e6,
                "series_revised_idc_version": 7,
            }
        )
    (folder / "tables").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "tables" / "idc_index.parquet")
    return folder


def open_archive(folder, **options):
    return IDCFileSystem(
        tables=str(folder / "tables"),
        mirror=str(folder / "bucket"),
        skip_instance_cache=True,
        **options,
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("archive"), PLAIN)


@pytest.fixture
def fs(archive):
    return open_archive(archive)


@pytest.fixture
def sample():
    return IDCFileSystem(tables="sample", skip_instance_cache=True)


@pytest.fixture(scope="module")
def memory(archive):
    """The same paths and bytes in fsspec's memory file system."""
    fs = open_archive(archive)

    class Memory(MemoryFileSystem):
        store = {}  # noqa: RUF012  (its own, not that of the class)
        pseudo_dirs = [""]  # noqa: RUF012

    memory = Memory(skip_instance_cache=True)
    for path in fs.find("idc://v7"):
        memory.pipe_file(f"/{path}", fs.cat_file(path))
    return memory


def stored_bytes():
    """Bytes of every object of the sample, by file name (bytes of one name agree)."""
    return {p.name: p.read_bytes() for p in (sample_path() / "bucket").rglob("*.dcm")}


# The tree.


def test_the_registry_finds_it_without_an_import_of_ours():
    code = (
        "import fsspec, sys\n"
        "print('intake_idc' in sys.modules, type(fsspec.filesystem('idc')).__name__)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "IDCFileSystem"]


def test_each_level_lists_what_the_release_holds(sample):
    assert sample.ls("idc://", detail=False) == ["v1", "v2"]
    old, new = (sample.ls(f"idc://v{v}", detail=False) for v in (1, 2))
    assert old == ["v1/sample_ann", "v1/sample_ct", "v1/sample_mr"]
    assert new == ["v2/sample_ct", "v2/sample_mr", "v2/sample_seg", "v2/sample_sm"]
    assert sample.ls("v2/sample_ct", detail=False) == ["v2/sample_ct/PLASTIC"]
    (study,) = sample.ls("v2/sample_ct/PLASTIC", detail=False)
    (series,) = sample.ls(study)
    assert series["type"] == "directory"
    assert series["instanceCount"] == 3
    files = sample.ls(series["name"])
    assert [info["type"] for info in files] == ["file"] * 3
    assert sum(info["size"] for info in files) == series["series_size"] == 1_595_780
    assert sample.ls(files[0]["name"]) == [sample.info(files[0]["name"])] == files[:1]


def test_releases_that_differ_hold_different_bytes_under_one_series(sample):
    old, new = (
        {
            posixpath.basename(path): sample.info(path)["crdc_series_uuid"]
            for path in found
        }
        for found in (sample.find("v1/sample_ct"), sample.find("v2/sample_ct"))
    )
    assert len(old) == 2
    assert len(new) == 3
    assert set(old.values()).isdisjoint(new.values())


def test_releases_are_listed_by_number():
    names = fsspec.filesystem("idc").ls("idc://", detail=False)
    assert names[:25] == [f"v{n}" for n in range(1, 26)]


def test_tables_of_one_release_list_that_release_alone(fs):
    assert fs.ls("idc://", detail=False) == ["v7"]


def test_every_file_is_the_object_of_the_mirror(sample):
    expected = stored_bytes()
    for path in sample.find("idc://v1") + sample.find("idc://v2"):
        data = sample.cat_file(path)
        assert data == expected[posixpath.basename(path)]
        assert len(data) == sample.size(path)


def test_two_collections_may_share_a_patient(fs):
    assert fs.ls("v7/lung/A1", detail=False) == ["v7/lung/A1/1.1", "v7/lung/A1/1.2"]
    assert fs.ls("v7/liver/A1", detail=False) == ["v7/liver/A1/3.1"]


ODD = [
    "a/b",
    "100%",
    "%2F",
    "..",
    ".",
    "",
    None,
    "*",
    "[1]?",
    "C:\\x",
    "a::b",
    " blank ",
    "Bo=3T",
    "日本",
    "x\ty\n",
    "%null",
]


def test_odd_patient_names_are_parts_of_a_path_and_come_back(tmp_path):
    series = {("c", name, f"1.{i}", f"1.{i}.1"): 1 for i, name in enumerate(ODD)}
    fs = open_archive(make_archive(tmp_path, series))
    listed = fs.ls("v7/c", detail=False)
    assert len(listed) == len(ODD)
    assert {unquote(posixpath.basename(path)) for path in listed} == set(ODD)
    assert all(path.count("/") == 2 for path in listed)
    for path in listed:
        (file,) = fs.find(path)
        assert fs.cat_file(f"idc://{file}") == fs.cat(f"idc://{path}/*/*/*")[file]
    target = tmp_path / "copy"
    fs.get("idc://v7", str(target), recursive=True)
    assert len([p for p in target.rglob("*") if p.is_file()]) == len(ODD)


@given(st.none() | st.text())
def test_a_quoted_name_comes_back_and_is_one_plain_part(value):
    name = quote(value)
    assert unquote(name) == value
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\*?[]:")
    assert IDCFileSystem._strip_protocol(f"idc://v1/c/{name}/") == f"v1/c/{name}"


@pytest.mark.parametrize(
    ("path", "stripped"),
    [
        ("idc://", ""),
        ("idc:///v2/", "v2"),
        ("/v2//sample_ct/", "v2/sample_ct"),
        (Path("v2/sample_ct"), "v2/sample_ct"),
        ("idc://current", "v2"),
        ("idc://latest/sample_ct", "v2/sample_ct"),
        (["current", "v1/x"], ["v2", "v1/x"]),
        ("idc://currently", "currently"),
    ],
    ids=str,
)
def test_paths_are_written_one_way(sample, path, stripped):
    assert sample._strip_protocol(path) == stripped


# What is not there.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("v3", "no release 'v3' in idc://; there are 'v1', 'v2'"),
        ("2", "no release '2' in idc://; did you mean 'v2'?"),
        ("v02/sample_ct", "no release 'v02' in idc://; did you mean 'v2'"),
        (
            "v2/sample_tc",
            "no collection 'sample_tc' in idc://v2; did you mean 'sample_ct'",
        ),
        ("v2/sample_ann", "no collection 'sample_ann' in idc://v2; did you mean"),
        (
            "v2/sample_ct/plastic",
            "no patient 'plastic' in idc://v2/sample_ct; did you mean 'PLASTIC'?",
        ),
        (
            "v2/sample_ct/PLASTIC/1.2",
            "no study '1.2' in idc://v2/sample_ct/PLASTIC; there",
        ),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(sample, path, message):
    for ask in (
        sample.info,
        sample.ls,
        sample.find,
        sample.cat_file,
        sample.du,
        sample.open,
    ):
        with pytest.raises(FileNotFoundError) as caught:
            ask(f"idc://{path}")
        assert isinstance(caught.value, ObjectNotFound)
        assert str(caught.value).startswith(message)
    assert not sample.exists(path)
    assert not sample.isdir(path)
    assert not sample.isfile(path)
    assert sample.glob(f"{path}/*") == []


def test_series_and_instances_that_are_not_there_are_named(fs):
    with pytest.raises(
        FileNotFoundError, match=r"no series '1\.1\.3' in .* mean '1\.1"
    ):
        fs.info("v7/lung/A1/1.1/1.1.3/x.dcm")
    with pytest.raises(
        FileNotFoundError, match=r"no instance 'x\.dcm' in idc://v7/lung"
    ):
        fs.cat_file("v7/lung/A1/1.1/1.1.1/x.dcm")
    file = fs.find("v7/brain")[0]
    with pytest.raises(FileNotFoundError, match="nothing is below an instance"):
        fs.info(f"{file}/x")


def test_a_folder_has_no_bytes(fs):
    for ask in (fs.cat_file, fs.open):
        with pytest.raises(IsADirectoryError, match="idc://v7/lung"):
            ask("v7/lung")


def test_making_one_reads_nothing():
    nowhere = IDCFileSystem(tables="/no/such/tables", mirror="/no/such/mirror")
    with pytest.raises(TableNotFound, match="/no/such/tables"):
        nowhere.ls("idc://")
    nowhere = IDCFileSystem(tables="sample", mirror="/no/such/mirror")
    (series,) = nowhere.glob("v2/sample_ct/*/*/*")
    with pytest.raises(MirrorError, match="/no/such/mirror"):
        nowhere.ls(series)


# The same questions to fsspec's memory file system.


def relative(found):
    return [path.lstrip("/") for path in found]


@pytest.mark.parametrize(
    "options",
    [{}, {"withdirs": True}, {"maxdepth": 1}, {"maxdepth": 2, "withdirs": True}],
    ids=str,
)
@pytest.mark.parametrize(
    "path",
    ["v7", "v7/lung", "v7/lung/A1", "v7/lung/B 2/2.1", "v7/lung/A1/1.1/1.1.1"],
)
def test_find_answers_as_a_plain_file_system_does(fs, memory, path, options):
    assert fs.find(path, **options) == relative(memory.find(f"/{path}", **options))
    detail = fs.find(path, detail=True, **options)
    assert detail == {name: fs.info(name) for name in fs.find(path, **options)}


def test_find_on_a_file_gives_the_file(fs):
    file = fs.find("v7/brain")[0]
    assert fs.find(file) == [file]
    assert fs.find(file, detail=True) == {file: fs.info(file)}


@pytest.mark.parametrize("maxdepth", [None, 1, 3, 6])
@pytest.mark.parametrize(
    "pattern",
    [
        "v7/*",
        "v7/l*",
        "v7/l*/",
        "v7/l*r/*",
        "v7/*/A1",
        "v7/*/A1/*",
        "v7/*/?[1-2]/*/*",
        "v7/*/*/*/1.2.1",
        "v7/*/*/*/1.2.1/*.dcm",
        "v7/*/A1/*/*/*.dcm",
        "v7/lung/A1/1.[12]/*/*.dcm",
        "v7/lung/A1/1.1/1.1.1/*",
        "v7/lung/A1/1.1/1.1.1/????????-*.dcm",
        "v7/lung/**",
        "v7/lung/**/",
        "v7/**/*.dcm",
        "v7/**/A1",
        "v7/**/1.2/**",
        "v7/*/A1/**/*.dcm",
        "v7/lung/B*/**",
        "v7/nothing/*",
        "v7/nothing*",
        "v7/lung",
        "*",
        "*/lung",
        "*/*/*/*/*/*",
        "*/*/*/*/*/*/*",
        "v?/lung/[!A]*",
    ],
)
def test_glob_answers_as_a_plain_file_system_does(fs, memory, pattern, maxdepth):
    expected = relative(memory.glob(f"/{pattern}", maxdepth=maxdepth))
    fs.invalidate_cache()
    assert fs.glob(f"idc://{pattern}", maxdepth=maxdepth) == expected
    assert list(fs.glob(pattern, maxdepth=maxdepth, detail=True)) == expected
    # What a pattern left out is still there.
    assert sorted(fs.find("v7")) == relative(memory.find("/v7"))


@pytest.mark.parametrize("topdown", [True, False])
@pytest.mark.parametrize("maxdepth", [None, 1, 2])
@pytest.mark.parametrize("path", ["v7", "v7/lung/A1", "v7/lung/A1/1.1/1.1.1"])
def test_walk_answers_as_a_plain_file_system_does(fs, memory, path, maxdepth, topdown):
    def steps(walk):
        return [(here.strip("/"), sorted(d), sorted(f)) for here, d, f in walk]

    options = {"maxdepth": maxdepth, "topdown": topdown}
    expected = steps(memory.walk(f"/{path}", **options))
    assert sorted(steps(fs.walk(path, **options))) == sorted(expected)
    assert sorted(steps(fs.walk(path, detail=True, **options))) == sorted(expected)


def test_whoever_walks_may_leave_folders_out(fs):
    seen = []
    for here, folders, _ in fs.walk("v7"):
        seen.append(here)
        if here == "v7":
            folders.remove("lung")
    assert any(path.startswith("v7/liver/") for path in seen)
    assert not any(path.startswith("v7/lung") for path in seen)


@pytest.mark.parametrize(
    "path", ["v7", "v7/lung", "v7/lung/A1", "v7/lung/A1/1.1/1.1.1"]
)
def test_du_answers_as_a_plain_file_system_does(fs, memory, path):
    assert fs.du(path) == memory.du(f"/{path}")
    assert list(fs.du(path, total=False).values()) == list(
        memory.du(f"/{path}", total=False).values()
    )


GETS = [
    ("{file}", "new", False, None),
    ("{file}", "new/", False, None),
    ("{file}", "there", False, None),
    ("{file}", "there/", False, None),
    ("v7/lung/A1/1.1", "new", True, None),
    ("v7/lung/A1/1.1/", "new", True, None),
    ("v7/lung/A1/1.1", "there", True, None),
    ("v7/lung/A1/1.1/", "there", True, None),
    ("v7/lung/A1", "new", True, 1),
    ("v7/lung/A1", "there", True, 3),
    ("v7/lung/A1/1.1/1.1.1", "new", True, 1),
    ("v7/lung/A1/1.1/1.1.1", "new", False, None),
    ("v7/lung/A1/1.1/1.1.1/*", "new", False, None),
    ("v7/lung/A1/1.1/1.1.1/*", "there", False, None),
    ("v7/lung/A1/1.*/*", "there", True, None),
    ("v7/*/A1", "there", True, None),
    ("v7/*/A1", "new", True, 2),
    ("v7/lung/**/*.dcm", "there", False, None),
    ("v7", "new", True, None),
]


@pytest.mark.parametrize(("source", "target", "recursive", "maxdepth"), GETS)
def test_get_copies_to_where_a_plain_file_system_would(
    fs, memory, tmp_path, source, target, recursive, maxdepth
):
    source = source.format(file=fs.find("v7/lung")[0])
    copies = {}
    for name, system in {"/": memory, "idc://": fs}.items():
        here = tmp_path / system.protocol[0]
        (here / "there").mkdir(parents=True)
        options = {"recursive": recursive, "maxdepth": maxdepth}
        system.get(f"{name}{source}", f"{here}/{target}", **options)
        files = [path for path in here.rglob("*") if path.is_file()]
        copies[name] = {str(p.relative_to(here)): p.read_bytes() for p in files}
    assert copies["idc://"] == copies["/"]


def test_get_takes_lists_of_files_and_of_targets(fs, tmp_path):
    files = fs.find("v7/lung/A1")
    fs.get(files, str(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {
        posixpath.basename(f) for f in files
    }
    targets = [str(tmp_path / "renamed" / str(i)) for i in range(len(files))]
    fs.get(files, targets)
    assert [Path(t).read_bytes() for t in targets] == [fs.cat_file(f) for f in files]


def test_get_tells_a_callback_of_bytes_and_files(fs, tmp_path):
    class Files(Callback):
        def branched(self, *_, **__):
            return Bytes()

    class Bytes(Callback):
        def __init__(self):
            super().__init__()
            seen.append(self)

    seen = []
    whole = Files()
    files = fs.find("v7/lung/A1/1.1")
    fs.get(files, str(tmp_path), callback=whole)
    assert whole.size == whole.value == len(files) == 4
    assert sorted(b.value for b in seen) == sorted(fs.sizes(files))
    assert [b.size for b in seen] == [b.value for b in seen]


# Bytes.

RANGES = [
    (None, None),
    (0, 10),
    (5, None),
    (None, 5),
    (-7, None),
    (-7, -2),
    (3, -3),
    (10, 5),
    (0, 0),
    (4, 10_000_000),
    (10_000_000, None),
    (-10_000_000, 4),
]


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_a_range_is_counted_as_a_slice_is(sample, start, end):
    path = sample.find("v2/sample_seg")[0]
    whole = stored_bytes()[posixpath.basename(path)]
    assert sample.cat_file(path, start=start, end=end) == whole[start:end]


def test_many_ranges_are_read_in_one_batch(sample):
    paths = sample.find("v2/sample_mr")
    expected = [stored_bytes()[posixpath.basename(path)][128:132] for path in paths]
    assert sample.cat_ranges(paths, 128, 132) == expected == [b"DICM"] * 4
    gone = [*paths[:1], f"{paths[0]}x"]
    good, bad = sample.cat_ranges(gone, 128, 132)
    assert good == b"DICM"
    assert isinstance(bad, FileNotFoundError)


def test_cat_gives_the_files_of_a_folder_by_path(fs):
    series = "v7/lung/A1/1.1/1.1.1"
    expected = {path: fs.cat_file(path) for path in fs.find(series)}
    assert len(expected) == 3
    assert fs.cat(f"idc://{series}", recursive=True) == expected
    assert fs.cat(f"{series}/*") == expected
    assert fs.cat(list(expected)) == expected
    file = next(iter(expected))
    assert fs.cat(file) == fs.cat(file, recursive=True) == expected[file]


def test_pydicom_reads_an_open_file(sample):
    for path in sample.find("idc://v2"):
        with sample.open(path) as file:
            opened = pydicom.dcmread(file)
            assert file.seekable()
            assert file.size == file.seek(0, 2) == sample.size(path)
        assert opened.SeriesInstanceUID == path.split("/")[4]
        assert opened.StudyInstanceUID == path.split("/")[3]


def test_an_open_file_survives_pickle_where_it_stands(sample):
    path = sample.find("v2/sample_sm")[0]
    with sample.open(path) as file:
        file.seek(128)
        again = pickle.loads(pickle.dumps(file))
        assert again.read(4) == file.read(4) == b"DICM"
    assert sample.head(path, 132)[128:] == b"DICM"
    assert sample.tail(path, 4) == stored_bytes()[posixpath.basename(path)][-4:]
    assert sample.read_block(path, 128, 4) == b"DICM"


def test_a_mapper_reads_by_key(fs):
    mapper = fs.get_mapper("idc://v7/lung")
    assert sorted(mapper) == sorted(path[8:] for path in fs.find("v7/lung"))
    keys = list(mapper)
    assert mapper.getitems(keys) == {key: mapper[key] for key in keys}
    assert "A1" not in mapper
    assert "nothing" not in mapper
    for key in ("A1", "nothing"):
        with pytest.raises(KeyError):
            mapper[key]


# fsspec's layers.


@pytest.mark.parametrize(
    "layer",
    [
        "simplecache",
        "filecache",
        # It leaves the file behind its map to the garbage collector.
        pytest.param(
            "blockcache", marks=pytest.mark.filterwarnings("ignore:unclosed file")
        ),
    ],
)
def test_caching_layers_keep_the_bytes_under_the_number(sample, tmp_path, layer):
    path = sample.find("v2/sample_sm")[0]
    expected = sample.cat_file(path)
    options = {"idc": {"tables": "sample"}, layer: {"cache_storage": str(tmp_path)}}
    for url in (path, path.replace("v2/", "current/"), path.replace("v2/", "latest/")):
        with fsspec.open(f"{layer}::idc://{url}", **options) as file:
            assert file.read() == expected
    assert len([kept for kept in tmp_path.iterdir() if kept.name != "cache"]) == 1


def test_open_by_url(sample):
    path = sample.find("v2/sample_sm")[0]
    for name in (path, path.replace("v2/", "current/")):
        with fsspec.open(f"idc://{name}", tables="sample") as file:
            assert file.full_name == f"idc://{path}"
            assert file.read() == sample.cat_file(path)
    url = "dir::idc://current/sample_ct"
    system, _ = fsspec.url_to_fs(url, idc={"tables": "sample"})
    assert system.path == "v2/sample_ct"
    assert [path.count("/") for path in system.find("")] == [3, 3, 3]


def test_rsync_copies_every_file(tmp_path):
    generic = GenericFileSystem("options", {"idc": {"tables": "sample"}, "file": {}})
    rsync("idc://v2/sample_mr", f"file://{tmp_path}/mr", fs=generic)
    copied = {p.name: p.read_bytes() for p in tmp_path.rglob("*.dcm")}
    assert len(copied) == 4
    assert copied.items() <= stored_bytes().items()


# The number of a release.


def test_current_is_a_number_in_all_that_is_given(sample):
    number = sample.find("idc://v2/sample_ct")
    for moving in ("current", "latest"):
        fresh = IDCFileSystem(tables="sample", skip_instance_cache=True)
        url = f"idc://{moving}/sample_ct"
        assert fresh.find(url) == number
        assert fresh.glob(f"{url}/**/*.dcm") == number
        assert fresh.info(url)["name"] == "v2/sample_ct"
        assert next(iter(fresh.walk(url)))[0] == "v2/sample_ct"
        assert list(fresh.cat(url, recursive=True)) == number
        assert fresh.unstrip_protocol(url) == "idc://v2/sample_ct"
        assert fresh.open(number[0].replace("v2", moving)).path == number[0]
        assert fresh.get_mapper(url).root == "v2/sample_ct"
    assert sample._parent("idc://v2/sample_ct") == "v2"


METHODS = {
    "find": lambda fs: fs.find("current"),
    "glob": lambda fs: fs.glob("current/*/*/*/*/*.dcm"),
    "walk": lambda fs: [
        f"{p}/{n}" for p, _, names in fs.walk("current") for n in names
    ],
    "expand_path": lambda fs: [
        p for p in fs.expand_path("current", recursive=True) if p.endswith(".dcm")
    ],
    "cat": lambda fs: list(fs.cat("current", recursive=True)),
}


@pytest.mark.parametrize("method", METHODS)
def test_current_is_found_behind_a_url_while_the_loop_runs(sample, method):
    handler = functools.partial(QuietHandler, directory=str(sample_path()))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/tables"
        fs = IDCFileSystem(tables=url, mirror="sample", skip_instance_cache=True)
        assert sorted(METHODS[method](fs)) == sample.find("v2")
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


# A value.


def test_it_pickles_and_its_token_is_the_same_in_every_process():
    options = {"tables": "sample", "mirror": "sample", "engine": "fsspec"}
    fs = fsspec.filesystem("idc", **options)
    assert pickle.loads(pickle.dumps(fs)) is fs
    assert fsspec.AbstractFileSystem.from_json(fs.to_json()) is fs
    assert tokenize(fs) != tokenize(fsspec.filesystem("idc", tables="sample"))
    code = (
        "import fsspec, json, sys\nfrom dask.base import tokenize\n"
        "print(tokenize(fsspec.filesystem('idc', **json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tokenize(fs)


def test_a_mirror_value_is_taken(sample):
    mirror = storage.resolve_mirror("sample")
    fs = IDCFileSystem(tables="sample", mirror=mirror)
    assert pickle.loads(pickle.dumps(fs)) is fs
    assert fs.find("v2") == sample.find("v2")


def test_it_serves_whoever_brings_an_event_loop():
    async def main():
        fs = IDCFileSystem(tables="sample", asynchronous=True, skip_instance_cache=True)
        found = await fs._find("idc://current/sample_mr")
        data = await asyncio.gather(*map(fs._cat_file, found))
        file = await fs.open_async(found[0])
        async with fs_closing(file):
            assert await file.read(132) == data[0][:132]
            assert await file.read() == data[0][132:]
            assert await file.read(1) == b""
        with pytest.raises(OSError, match="read-only"):
            await fs.open_async(found[0], "wb")
        return dict(zip(map(posixpath.basename, found), data, strict=True))

    # Twice, because a loop may end and another begin.
    for _ in range(2):
        assert asyncio.run(main()).items() <= stored_bytes().items()


class fs_closing:  # noqa: N801  (contextlib.aclosing wants aclose)
    def __init__(self, file):
        self.file = file

    async def __aenter__(self):
        return self.file

    async def __aexit__(self, *_):
        await self.file.close()


# Writing.

WRITES = {
    "mkdir": lambda fs, p: fs.mkdir(p),
    "makedir": lambda fs, p: fs.makedir(p),
    "makedirs": lambda fs, p: fs.makedirs(p, exist_ok=True),
    "mkdirs": lambda fs, p: fs.mkdirs(p, exist_ok=True),
    "rmdir": lambda fs, p: fs.rmdir(p),
    "rm": lambda fs, p: fs.rm(p, recursive=True),
    "rm_file": lambda fs, p: fs.rm_file(p),
    "delete": lambda fs, p: fs.delete(p),
    "touch": lambda fs, p: fs.touch(p),
    "pipe": lambda fs, p: fs.pipe(p, b"x"),
    "pipe nothing": lambda fs, _: fs.pipe({}),
    "pipe_file": lambda fs, p: fs.pipe_file(p, b"x"),
    "write_bytes": lambda fs, p: fs.write_bytes(p, b"x"),
    "write_text": lambda fs, p: fs.write_text(p, "x"),
    "put": lambda fs, p: fs.put(__file__, p),
    "put_file": lambda fs, p: fs.put_file(__file__, p),
    "upload": lambda fs, p: fs.upload(__file__, p),
    "cp": lambda fs, p: fs.cp(p, f"{p}2"),
    "cp recursively": lambda fs, p: fs.cp("v7/nothing", f"{p}2", recursive=True),
    "cp_file": lambda fs, p: fs.cp_file(p, f"{p}2"),
    "copy": lambda fs, p: fs.copy(p, f"{p}2"),
    "mv": lambda fs, p: fs.mv(p, p),
    "move": lambda fs, p: fs.move(p, f"{p}2"),
    "rename": lambda fs, p: fs.rename(p, f"{p}2"),
    "open wb": lambda fs, p: fs.open(p, "wb"),
    "open ab": lambda fs, p: fs.open(p, "ab"),
    "open xb": lambda fs, p: fs.open(p, "xb"),
    "open r+b": lambda fs, p: fs.open(p, "r+b"),
    "open w": lambda fs, p: fs.open(p, "w"),
    "mapper": lambda fs, p: fs.get_mapper("v7").update({p: b"x"}),
    "mapper create": lambda fs, _: fs.get_mapper("v7/new", create=True),
    "async mkdir": lambda fs, p: asyncio.run(fs._mkdir(p)),
    "async pipe": lambda fs, p: asyncio.run(fs._pipe_file(p, b"x")),
}


@pytest.mark.parametrize("write", WRITES)
def test_nothing_can_be_written(fs, write):
    before = fs.find("v7")
    for path in (before[0], "v7/lung", "v7/new"):
        with pytest.raises(OSError, match="read-only") as caught:
            WRITES[write](fs, path)
        assert caught.value.errno == errno.EROFS
    assert fs.find("v7") == before


# What a mirror may do wrong.


@pytest.fixture
def broken(tmp_path):
    """An archive of one collection, whose mirror a test may spoil."""
    series = {names: count for names, count in PLAIN.items() if names[0] == "lung"}
    return make_archive(tmp_path, series)


WHOLE = {
    "find": lambda fs, path: fs.find(path),
    "walk": lambda fs, path: list(fs.walk(path)),
    "glob": lambda fs, path: fs.glob(f"{path}/**/*.dcm"),
    "cat": lambda fs, path: fs.cat(path, recursive=True),
    "du": lambda fs, path: fs.du(path, total=False),
    "get": lambda fs, path: fs.get(path, "/no/such/folder", recursive=True),
}
"""Questions about all files below a folder."""


@pytest.mark.parametrize("ask", WHOLE)
def test_a_listing_that_disagrees_with_the_tables_is_an_error(broken, ask):
    fs = open_archive(broken)
    victim = fs.info(fs.find("v7/lung/A1")[0])["url"]
    fs.invalidate_cache()
    Path(victim).unlink()
    with pytest.raises(IntegrityError, match="index says"):
        WHOLE[ask](fs, "v7")


@pytest.mark.parametrize("ask", WHOLE)
def test_a_series_that_the_mirror_lacks_is_an_error_and_no_empty_folder(broken, ask):
    fs = open_archive(broken)
    victim = fs.info(fs.find("v7/lung/A1")[0])["url"]
    fs.invalidate_cache()
    shutil.rmtree(Path(victim).parent)
    with pytest.raises(ObjectNotFound, match="holds no object"):
        WHOLE[ask](fs, "v7")


def test_whoever_walks_may_ask_for_gaps(broken):
    fs = open_archive(broken)
    every = fs.find("v7")
    victim = fs.info(every[0])["url"]
    fs.invalidate_cache()
    shutil.rmtree(Path(victim).parent)
    errors = []
    for on_error in ("omit", errors.append):
        walk = fs.walk("v7", on_error=on_error)
        found = [f"{here}/{name}" for here, _, names in walk for name in names]
        assert sorted(found) == every[3:]
    assert [type(error) for error in errors] == [ObjectNotFound]


def test_a_failed_listing_is_asked_again(broken):
    fs = open_archive(broken)
    (series,) = fs.glob("v7/*/*/*/2.1.1")
    info = fs.info(series)
    bucket = broken / "bucket"
    (bucket / info["crdc_series_uuid"]).rename(bucket / "away")
    with pytest.raises(ObjectNotFound):
        fs.ls(series)
    (bucket / "away").rename(bucket / info["crdc_series_uuid"])
    assert len(fs.ls(series)) == 1


def test_tables_that_hold_a_series_twice_are_an_error(broken):
    path = broken / "tables" / "idc_index.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]), path)
    with pytest.raises(
        IntegrityError, match=r"hold idc://v7/lung/A1/1\.1/1\.1\.1 twice"
    ):
        open_archive(broken).find("v7")


class Double:
    """A store in front of another: fails, or counts what is in flight at once."""

    def __init__(self, inner, together=1):
        self.inner = inner
        self.calls = []
        self.peak = self.flying = 0
        self.lock = threading.Lock()
        self.gate = threading.Barrier(together)

    def list(self, prefix):
        return self.pass_through("list", prefix)

    def read(self, key, start=0, stop=None):
        return self.pass_through("read", key, start, stop)

    def stream(self, key):
        yield from self.pass_through("stream", key)

    def pass_through(self, verb, *arguments):
        with self.lock:
            self.calls.append((verb, *arguments))
            self.flying += 1
            self.peak = max(self.peak, self.flying)
        try:
            # Passes when `together` calls are here, and breaks when they never are.
            self.gate.wait(timeout=20)
            return getattr(self.inner, verb)(*arguments)
        finally:
            with self.lock:
                self.flying -= 1


@pytest.fixture
def stores(monkeypatch):
    """Put a store in front of every store, made by a function of it."""
    real = storage.open_store

    def put(make):
        double = make(real(storage.resolve_mirror("sample"), "intake-idc-sample"))
        for room in (storage.listing, objects):
            monkeypatch.setattr(room, "open_store", lambda *_: double)
        return double

    return put


class Short(Double):
    def read(self, *arguments):
        return self.inner.read(*arguments)[:-1]

    def stream(self, key):
        yield self.inner.read(key)[:-1]


class Long(Double):
    def read(self, *arguments):
        return self.inner.read(*arguments) + b"x"

    def stream(self, key):
        yield self.inner.read(key)
        yield b"x"


class Dying(Double):
    def read(self, *_):
        msg = "the line went dead"
        raise StorageError(msg)

    def stream(self, key):
        yield self.inner.read(key)[:1000]
        self.read()


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("kind", "error"), [(Short, WrongSize), (Long, WrongSize), (Dying, StorageError)]
)
def test_no_file_is_there_until_it_is_whole(
    sample, stores, tmp_path, monkeypatch, kind, error, streamed
):
    if streamed:
        monkeypatch.setattr(objects, "SMALL", 0)
    path = sample.find("v2/sample_sm")[0]
    stores(kind)
    before = tmp_path / "before.dcm"
    before.write_bytes(b"as it was")
    for target in (before, tmp_path / "deep" / "new.dcm"):
        with pytest.raises(error):
            sample.get_file(path, str(target))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["before.dcm"]
    assert before.read_bytes() == b"as it was"
    for start, end in ((None, None), (0, 100)):
        with pytest.raises(error):
            sample.cat_file(path, start=start, end=end)
    with sample.open(path) as file, pytest.raises(error):
        file.read()


def test_a_file_that_is_replaced_is_not_written_into(sample, tmp_path):
    target, link = tmp_path / "target.dcm", tmp_path / "link.dcm"
    target.write_bytes(b"as it was")
    link.hardlink_to(target)
    path = sample.find("v2/sample_sm")[0]
    sample.get_file(path, str(target))
    assert target.read_bytes() == sample.cat_file(path)
    assert link.read_bytes() == b"as it was"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_mirror_that_cannot_be_asked_is_no_empty_folder(sample, stores):
    class Silent(Double):
        def list(self, _):
            msg = "nobody answers"
            raise StorageError(msg)

    stores(Silent)
    for ask in WHOLE.values():
        with pytest.raises(StorageError, match="nobody answers"):
            ask(sample, "v2/sample_ct")
    (series,) = sample.glob("v2/sample_ct/*/*/*")
    for ask in (
        sample.isfile,
        sample.exists,
        sample.info,
        sample.open,
        sample.cat_file,
    ):
        with pytest.raises(StorageError, match="nobody answers"):
            ask(f"{series}/x.dcm")


# At once.


def test_objects_of_a_series_are_read_at_once(sample, stores, tmp_path):
    files = sample.find("v2/sample_mr")
    folder = posixpath.dirname(files[0])
    for read in (
        lambda: sample.cat(folder, recursive=True),
        lambda: sample.cat(files),
        lambda: sample.cat_ranges(files, 0, 10),
        lambda: sample.get(folder, str(tmp_path / "copy"), recursive=True),
        lambda: sample.get(files, str(tmp_path)),
    ):
        # Each read waits until four are in flight: one after another would hang.
        double = stores(functools.partial(Double, together=4))
        read()
        assert double.peak == 4


def test_the_series_of_a_folder_are_listed_at_once(stores):
    for ask in ("find", "get", "cat", "glob"):
        fs = IDCFileSystem(tables="sample", skip_instance_cache=True)
        double = stores(functools.partial(Double, together=4))
        if ask == "find":
            assert len(fs.find("v2")) == 9
        elif ask == "glob":
            assert len(fs.glob("v2/*/*/*/*/*.dcm")) == 9
        else:
            fs.expand_path("v2", recursive=True)
        assert [call[0] for call in double.calls] == ["list"] * 4


def test_requests_in_flight_are_bounded(tmp_path, monkeypatch):
    archive = make_archive(tmp_path, {("c", "p", "1", "1.1"): 3 * REQUESTS})
    fs = open_archive(archive)
    files = fs.find("v7")
    mirror = storage.resolve_mirror(str(archive / "bucket"))
    double = Double(storage.open_store(mirror, "bucket"), together=REQUESTS)
    monkeypatch.setattr(objects, "open_store", lambda *_: double)
    assert len(fs.cat(files)) == 3 * REQUESTS
    assert double.peak == REQUESTS


def test_a_series_is_listed_once_however_many_ask(sample, stores):
    files = sample.find("v2/sample_mr")
    fs = IDCFileSystem(tables="sample", skip_instance_cache=True)
    fs.ls("v2/sample_mr/dicom2nifti")
    double = stores(Double)
    assert len(fs.cat(files)) == 4
    fs.info(files[0])
    fs.open(files[0])
    verbs = [call[0] for call in double.calls]
    assert (verbs.count("list"), verbs.count("read")) == (1, 4)


def test_without_a_cache_of_listings_the_answers_are_the_same(sample, tmp_path):
    options = {"use_listings_cache": False, "skip_instance_cache": True}
    fs = IDCFileSystem(tables="sample", **options)
    assert fs.find("v2") == sample.find("v2")
    assert fs.glob("v2/*/*") == sample.glob("v2/*/*")
    assert fs.cat("v2", recursive=True) == sample.cat("v2", recursive=True)
    fs.get("v2", str(tmp_path), recursive=True)
    assert len(list(tmp_path.rglob("*.dcm"))) == 9
    assert len(fs.dircache) == 0


def test_folders_are_read_from_the_tables_alone(stores):
    fs = IDCFileSystem(tables="sample", skip_instance_cache=True)
    double = stores(Double)
    for depth in range(6):
        path = "/".join(["v2", "*", "*", "*", "*"][:depth])
        for folder in fs.glob(path) if depth else [""]:
            assert fs.isdir(folder)
            assert fs.info(folder)["size"] == 0
            assert fs.exists(folder)
            assert not fs.isfile(folder)
            if depth < 5:
                fs.ls(folder)
    assert fs.du("v2") == 2_082_972
    assert len(fs.find("v2", maxdepth=4, withdirs=True)) == 17
    assert double.calls == []


def test_a_pattern_lists_only_what_may_fit(stores):
    fs = IDCFileSystem(tables="sample", skip_instance_cache=True)
    double = stores(Double)
    uid = "1.2.826.0.1.3680043.8.498.1725697665093567298246736318"
    assert len(fs.glob(f"idc://v2/*/*/*/{uid}/*.dcm")) == 4
    assert len(fs.glob("idc://v2/sample_m*/*/*/*/*.dcm")) == 4
    assert len(fs.glob("idc://v2/*/AA0[0-3]/**/*.dcm")) == 1
    assert [call[0] for call in double.calls] == ["list"] * 2


def test_listings_are_forgotten_when_asked(sample, stores):
    files = sample.find("v2")
    double = stores(Double)
    sample.invalidate_cache(posixpath.dirname(files[0]))
    assert sample.find("v2") == files
    assert len(double.calls) == 1
    sample.invalidate_cache("v2/sample_ct")
    sample.find("v2")
    assert len(double.calls) == 2
    sample.invalidate_cache()
    sample.find("v2")
    assert len(double.calls) == 6


def test_the_size_of_superseded_series_is_asked_of_the_mirror(sample, stores):
    # Their sizes in the tables are rounded to 0.01 MB.
    double = stores(Double)
    assert sample.du("v1") == sum(sample.du("v1", total=False).values())
    assert [call[0] for call in double.calls].count("list") == 2 + 3
    assert sample.du("idc://") == sample.du("v1") + sample.du("v2")


# A real server.


@pytest.fixture
def served(s3_nginx):
    def make(**options):
        s3_nginx.reset()
        return IDCFileSystem(
            tables="sample",
            mirror="s3://{aws_bucket}",
            endpoint_url=s3_nginx.endpoint,
            skip_instance_cache=True,
            **options,
        )

    return make


@pytest.mark.servers
@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_a_folder_is_copied_from_a_server_with_one_request_an_object(
    served, s3_nginx, tmp_path, engine
):
    fs = served(engine=engine)
    fs.get("idc://current", str(tmp_path / "v2"), recursive=True)
    copied = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert len(copied) == 9
    assert copied.items() <= stored_bytes().items()
    requests = s3_nginx.requests()
    lists = [r for r in requests if "list-type" in r.uri]
    assert len(lists) == 4
    assert len(requests) == 4 + 9
    assert {r.method for r in requests} == {"GET"}


@pytest.mark.servers
@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_a_range_moves_that_range(served, s3_nginx, engine):
    fs = served(engine=engine)
    (path, *_) = fs.find("idc://v2/sample_ct")
    s3_nginx.reset()
    assert fs.cat_file(path, 128, 132) == b"DICM"
    assert fs.cat_file(path, -4) == stored_bytes()[posixpath.basename(path)][-4:]
    requests = s3_nginx.requests()
    assert [(r.status, r.sent) for r in requests] == [(206, 4), (206, 4)]


@pytest.mark.servers
@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_pydicom_reads_an_open_file_of_a_server_in_one_request(
    served, s3_nginx, engine
):
    fs = served(engine=engine)
    for path in fs.find("idc://v2"):
        s3_nginx.reset()
        with fs.open(path) as file:
            opened = pydicom.dcmread(file)
        assert opened.SeriesInstanceUID == path.split("/")[4]
        assert len(s3_nginx.requests()) == 1


@pytest.mark.servers
def test_folders_ask_nothing_of_a_server(served, s3_nginx):
    fs = served()
    assert len(fs.glob("idc://v2/*/*/*/*")) == 4
    assert fs.isdir("v2/sample_ct")
    assert s3_nginx.requests() == []


@pytest.mark.servers
def test_a_layer_that_caches_asks_a_server_once(served, s3_nginx, tmp_path):
    fs = served()
    path = fs.find("v2/sample_sm")[0]
    options = {
        "idc": fs.storage_options | {"skip_instance_cache": False},
        "simplecache": {"cache_storage": str(tmp_path)},
    }
    s3_nginx.reset()
    for name in (path, path.replace("v2", "latest")):
        with fsspec.open(f"simplecache::idc://{name}", **options) as file:
            assert file.read() == stored_bytes()[posixpath.basename(path)]
    assert len([r for r in s3_nginx.requests() if "list-type" not in r.uri]) == 1


@pytest.mark.servers
def test_an_object_that_a_server_lost_is_an_error(served, tmp_path):
    fs = served()
    (series,) = fs.glob("v2/sample_sm/*/*/*")
    listing = fs.ls(series)
    gone = {**listing[0], "name": f"{series}/gone.dcm", "size": 5}
    fs.dircache[series] = [gone]
    with pytest.raises(ObjectNotFound):
        fs.cat_file(gone["name"])
    with pytest.raises(ObjectNotFound):
        fs.get_file(gone["name"], str(tmp_path / "gone.dcm"))
    assert list(tmp_path.iterdir()) == []


# The published index.


def test_release_25_has_179_collections():
    fs = fsspec.filesystem("idc")
    assert len(fs.ls("idc://v25")) == 179
    assert len(fs.ls("idc://v20")) == 149


def test_an_older_release_lists_its_patients():
    fs = fsspec.filesystem("idc")
    patients = fs.ls("idc://v20/rider_pilot", detail=False)
    assert len(patients) == 8
    assert patients[0] == "v20/rider_pilot/1.3.6.1.4.1.9328.50.1.0109"
    found = fs.find("idc://v20/rider_pilot", maxdepth=3, withdirs=True, detail=True)
    assert len([i for i in found.values() if "crdc_series_uuid" in i]) == 774


def test_a_series_is_found_by_its_uid_alone():
    fs = fsspec.filesystem("idc")
    uid = "1.2.840.113654.2.55.267438822916097740718122696693522905205"
    (path,) = fs.glob(f"idc://v25/*/*/*/{uid}")
    assert path.split("/")[:3] == ["v25", "nlst", "100216"]
    assert fs.info(path)["instanceCount"] == 132


def test_a_patient_with_blanks_has_a_path():
    fs = fsspec.filesystem("idc")
    (path,) = fs.glob("idc://v25/*/ZZ RIDER MR8 1")
    assert path == "v25/rider_phantom_mri/ZZ RIDER MR8 1"
    assert fs.isdir(path)


def test_patients_of_several_collections_have_a_path_in_each():
    paths = fsspec.filesystem("idc").glob("idc://v25/*/*")
    assert len(paths) == len(set(paths)) == 86_451
    assert len({posixpath.basename(path) for path in paths}) == 86_362


def test_the_size_of_a_release_is_read_from_the_tables():
    assert fsspec.filesystem("idc").du("idc://v25/rider_pilot") == 11_259_208_456
