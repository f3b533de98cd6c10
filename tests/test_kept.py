"""The cache of objects: right bytes or none, bounded, shared, and never needed."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dask
import fsspec
import intake
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from intake_idc import ObjectCache, cache, open_idc, open_lock, resolve_mirror
from intake_idc.cli import command
from intake_idc.errors import IntegrityError, RequestError
from intake_idc.readers import IDCSelection
from intake_idc.storage import Ranged, instances, read_instance, room
from intake_idc.storage.listing import Instance

SAMPLE = open_idc(2, tables="sample")
IMAGES = SAMPLE.search(Modality=["CT", "MR"])
OBJECTS = instances(SAMPLE.all().manifest().parts(), resolve_mirror("sample"))

SIZE = 10_000


def name_of(number: int | str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


def bytes_of(name: str, size: int = SIZE) -> bytes:
    """Give bytes that only the object of this name has."""
    return hashlib.shake_128(name.encode()).digest(size)


def md5_of(name: str) -> str:
    return hashlib.md5(bytes_of(name), usedforsecurity=False).hexdigest()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.dcm") if path.is_file())


def age(path: Path, seconds: float = 3600) -> None:
    past = time.time() - seconds
    os.utime(path, (past, past))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def kept(folder) -> ObjectCache:
    return ObjectCache(folder, 1_000_000)


def put(kept: ObjectCache, number: int, size: int = SIZE) -> Path:
    name = name_of(number)
    assert kept.put(name, bytes_of(name, size))
    return Path(kept.folder) / name[:2] / f"{name}.dcm"


# One object.


def test_an_object_that_was_put_is_read_whole_and_by_ranges(kept):
    name, data = name_of(1), bytes_of(name_of(1))
    assert kept.read(name, SIZE) is None
    assert kept.put(name, data)
    assert kept.read(name, SIZE) == data
    ranges = [(0, 10), (5_000, 5_001), (SIZE - 3, SIZE + 99), (SIZE, SIZE + 1), (9, 9)]
    assert kept.read_many(name, SIZE, ranges) == [data[a:b] for a, b in ranges]
    with kept.open(name, SIZE) as file:
        assert file.read() == data
    assert (len(kept), kept.size_now()) == (1, SIZE)


def test_a_file_has_its_name_in_a_folder_of_its_first_digits(kept, folder):
    assert put(kept, 1) == folder / name_of(1)[:2] / f"{name_of(1)}.dcm"
    assert files(folder) == [folder / name_of(1)[:2] / f"{name_of(1)}.dcm"]
    assert not list((folder / "parts").iterdir())


def test_nothing_is_made_before_something_is_put(kept, folder):
    assert kept.read(name_of(1), SIZE) is None
    assert (len(kept), kept.size_now(), kept.clear(), kept.check({})) == (0, 0, 0, [])
    assert not folder.exists()


@pytest.mark.parametrize(
    "name",
    ["", "x", "../../x", "1.2.840.10008.1", name_of(1).upper(), name_of(1) + "/"],
)
def test_what_has_no_uuid_is_neither_kept_nor_looked_for(kept, folder, name):
    assert not kept.put(name, b"data")
    assert kept.open(name, 4) is None
    assert not folder.exists()


def test_no_bytes_are_no_object(kept, folder):
    assert not kept.put(name_of(1), b"")
    assert not folder.exists()


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1])
def test_a_file_of_another_size_than_is_listed_is_not_read_and_goes(kept, size):
    path = put(kept, 1)
    os.truncate(path, size)
    assert kept.read(name_of(1), SIZE) is None
    assert not path.exists()
    put(kept, 1)
    assert kept.read(name_of(1), SIZE) == bytes_of(name_of(1))


def test_what_is_kept_with_a_wrong_size_is_replaced_when_it_is_put(kept):
    path = put(kept, 1)
    os.truncate(path, 5)
    assert path == put(kept, 1)
    assert path.read_bytes() == bytes_of(name_of(1))


def test_a_damaged_file_of_the_right_size_is_found_by_its_md5(kept):
    whole, damaged, unknown = (put(kept, number) for number in (1, 2, 3))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    known = {name_of(number): md5_of(name_of(number)).upper() for number in (1, 2, 4)}
    assert kept.check(known) == [name_of(2)]
    assert (whole.exists(), damaged.exists(), unknown.exists()) == (True, False, True)
    assert kept.check(known) == []


def test_bytes_that_are_not_of_their_known_md5_are_not_kept(kept, folder, caplog):
    data = bytes_of(name_of(1))
    assert not kept.put(name_of(1), data, "0" * 32)
    assert "MD5" in caplog.text
    assert not folder.exists()
    assert kept.put(name_of(1), data, md5_of(name_of(1)))


def test_a_file_that_is_deleted_while_it_is_open_still_reads(kept):
    put(kept, 1)
    with kept.open(name_of(1), SIZE) as file:
        assert kept.clear() == SIZE
        assert file.read() == bytes_of(name_of(1))
    assert kept.read(name_of(1), SIZE) is None


def test_clearing_leaves_what_no_cache_has_put_there(kept, folder):
    path = put(kept, 1)
    foreign = [folder / "notes.txt", path.with_name("x.dcm"), folder / "ab" / "y"]
    for one in foreign:
        one.parent.mkdir(exist_ok=True)
        one.write_text("mine")
    assert (len(kept), kept.size_now()) == (1, SIZE)
    assert kept.clear() == SIZE
    assert all(one.read_text() == "mine" for one in foreign)


# Links and other things in place of files.


def test_a_link_is_not_read_and_a_put_takes_its_place(kept, tmp_path):
    path = put(kept, 1)
    victim = tmp_path / "victim"
    victim.write_bytes(b"v" * SIZE)
    path.unlink()
    path.symlink_to(victim)
    assert kept.read(name_of(1), SIZE) is None
    assert kept.size_now() == 0
    put(kept, 1)
    assert kept.read(name_of(1), SIZE) == bytes_of(name_of(1))
    assert victim.read_bytes() == b"v" * SIZE


@pytest.mark.parametrize("inner", [name_of(1)[:2], "parts", "rounds"])
def test_nothing_is_written_or_deleted_behind_a_link(kept, folder, tmp_path, inner):
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / f"{name_of(1)}.dcm"
    victim.write_bytes(b"v" * SIZE)
    part = outside / "x.part"
    part.write_bytes(b"p")
    age(part)
    folder.mkdir()
    (folder / inner).symlink_to(outside)
    assert kept.read(name_of(1), SIZE) is None
    assert not kept.put(name_of(1), bytes_of(name_of(1)))
    assert kept.clear() == 0
    assert sorted(outside.iterdir()) == sorted([victim, part])
    assert victim.read_bytes() == b"v" * SIZE


def test_a_folder_or_a_pipe_in_place_of_a_file_is_no_object(kept):
    path = put(kept, 1)
    for make in (path.mkdir, lambda: os.mkfifo(path)):
        path.unlink() if path.is_file() else None
        make()
        assert kept.read(name_of(1), SIZE) is None
        assert len(kept) == 0
        path.rmdir() if path.is_dir() else path.unlink()
    put(kept, 1)


def test_the_folder_itself_may_be_a_link_of_the_users(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "kept").symlink_to(tmp_path / "large disk")
    kept = ObjectCache(tmp_path / "kept")
    put(kept, 1)
    assert kept.read(name_of(1), SIZE) == bytes_of(name_of(1))
    assert kept.clear() == SIZE


# The bound.


def test_what_was_used_longest_ago_goes_first(folder):
    kept = ObjectCache(folder, 10 * SIZE)
    paths = [put(kept, number) for number in range(8)]
    for number, path in enumerate(paths):
        age(path, 1000 - number)
    assert kept.read(name_of(0), SIZE) is not None  # Now it is the one used last.
    for number in range(8, 12):
        put(kept, number)
    left = {path.stem for path in files(folder)}
    assert name_of(0) in left
    assert {name_of(1), name_of(2)}.isdisjoint(left)
    assert {name_of(number) for number in range(8, 12)} <= left
    assert kept.size_now() <= 10 * SIZE


def test_an_object_larger_than_the_bound_is_not_kept_and_pushes_nothing_out(folder):
    kept = ObjectCache(folder, 5 * SIZE)
    put(kept, 1)
    assert not kept.put(name_of(2), bytes_of(name_of(2), 5 * SIZE + 1))
    assert len(kept) == 1
    put(kept, 3, 5 * SIZE)
    assert [path.stem for path in files(folder)] == [name_of(3)]
    assert not ObjectCache(folder, 0).put(name_of(4), b"x")


@pytest.mark.parametrize("large", [0.8, 0.95, 1.0])
def test_beside_a_large_object_there_is_room_for_what_is_left(folder, large):
    kept = ObjectCache(folder, 100_000)
    put(kept, 0, int(100_000 * large))
    for number in range(1, 40):
        put(kept, number, 700)
        assert kept.size_now() <= 100_000


def test_an_object_that_is_there_costs_no_room(folder):
    kept = ObjectCache(folder, 3 * SIZE)
    for _ in range(50):
        put(kept, 1)
        put(kept, 2)
    assert len(kept) == 2


def test_the_folder_is_looked_through_once_for_each_eighth_of_the_bound(folder):
    kept = ObjectCache(folder, 400 * SIZE)
    for number in range(1000):
        put(kept, number, SIZE)
    (newest,) = (folder / "rounds").glob("round-*")
    # Of 50 objects each, of which some do not fill the last share.
    assert 20 <= int(newest.name.split("-")[1]) <= 25
    assert 300 * SIZE < kept.size_now() <= 400 * SIZE


def test_a_folder_that_is_taken_away_is_made_again(kept, folder):
    put(kept, 1)
    shutil.rmtree(folder)
    put(kept, 2)
    assert (len(kept), kept.size_now()) == (1, SIZE)


def test_a_smaller_bound_than_before_is_kept_to(folder):
    wide = ObjectCache(folder, 100 * SIZE)
    for number in range(50):
        put(wide, number)
    narrow = ObjectCache(folder, 10 * SIZE)
    for name in (folder / "rounds").iterdir():
        name.unlink()  # As if the last round had been used up.
    put(narrow, 50)
    assert narrow.size_now() <= 10 * SIZE


def test_room_that_was_taken_is_worth_nothing_when_others_have_made_room(folder):
    idle = room.Room(folder, 100_000)
    assert idle.take(1)
    assert idle.take(1)
    taken, left = idle._round, idle._left
    assert left > 1
    kept = ObjectCache(folder, 100_000)
    for number in itertools.count():
        if not (folder / "rounds" / taken).exists():
            break
        put(kept, number)
    assert idle.take(left)
    assert idle._round != taken
    # It took a share anew, and has the rest of that.
    assert idle._left == int(idle._round.split("-")[2]) - left


def test_while_another_process_makes_room_nothing_is_put(kept, folder, monkeypatch):
    monkeypatch.setattr(room, "WAIT_SECONDS", 0.0)
    (folder / "rounds").mkdir(parents=True)
    (folder / "rounds" / "sweep-000000007").touch()
    assert not kept.put(name_of(1), bytes_of(name_of(1)))
    assert files(folder) == []


def test_of_a_dead_process_room_and_litter_are_taken_over(kept, folder):
    for name in ("rounds", "parts"):
        (folder / name).mkdir(parents=True)
    claim, dead = folder / "rounds" / "sweep-000000007", folder / "parts" / "1-a.part"
    alive = folder / "parts" / "2-b.part"
    for path in (claim, dead, alive):
        path.write_bytes(b"half")
    age(claim)
    age(dead)
    put(kept, 1)
    assert (claim.exists(), dead.exists(), alive.exists()) == (False, False, True)
    assert kept.size_now() == SIZE + 4


class Machine(RuleBasedStateMachine):
    """Objects are put, read and damaged, by processes in turn, whose room is here."""

    bound = 40_000

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "kept"
        self.cache = ObjectCache(self.folder, self.bound)
        self.sizes: dict[str, int] = {}
        self.rooms = [room.Room(self.folder, self.bound) for _ in range(3)]

    def teardown(self) -> None:
        shutil.rmtree(self.folder.parent)

    @rule(number=st.integers(0, 30), size=st.integers(1, 45_000))
    def put(self, number, size):
        name = name_of(number)
        size = self.sizes.setdefault(name, size)
        assert self.cache.put(name, bytes_of(name, size)) == (size <= self.bound)

    @rule(first=st.integers(31, 500), process=st.integers(0, 2))
    def another_puts_small_ones(self, first, process):
        for number in range(first, first + 5):
            name = name_of(number)
            self.sizes[name] = 100 + number
            data = bytes_of(name, self.sizes[name])
            self.cache._put(self.cache._path(name), data, self.rooms[process])

    @rule(number=st.integers(0, 30))
    def read(self, number):
        name = name_of(number)
        size = self.sizes.get(name, 77)
        assert self.cache.read(name, size) in (None, bytes_of(name, size))

    @rule(process=st.integers(0, 2))
    def a_process_begins_anew(self, process):
        self.rooms[process] = room.Room(self.folder, self.bound)

    @precondition(lambda self: files(self.folder))
    @rule(data=st.data(), cut=st.integers(0, 50_000))
    def damage(self, data, cut):
        path = data.draw(st.sampled_from(files(self.folder)))
        if cut < self.sizes[path.stem]:
            os.truncate(path, cut)

    @precondition(lambda self: files(self.folder))
    @rule(data=st.data())
    def grow_old(self, data):
        age(data.draw(st.sampled_from(files(self.folder))))

    @invariant()
    def the_bound_holds(self):
        assert self.cache.size_now() <= self.bound
        assert not list(self.folder.glob("parts/*"))


TestAnySequence = Machine.TestCase
TestAnySequence.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None
)


# Where the folder fails.


def run(code: str, *arguments: object) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "log": done.stderr}


READ_ONLY = """
import json, os, sys
from intake_idc import ObjectCache
kept = ObjectCache(sys.argv[1], int(sys.argv[6]))
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
names, size = sys.argv[2:5], int(sys.argv[5])
held = kept.read(names[0], size)
said = [kept.put(name, bytes(size)) for name in names]
print(json.dumps({"held": held and held.hex(), "put": said}))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that is not below one that only its owner enters."""
    folder = Path("/tmp") / f"kept-{uuid.uuid4()}"
    yield folder
    for place in (folder, *folder.iterdir()):
        place.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_to_serves_what_it_has(open_folder):
    path = put(ObjectCache(open_folder), 1)
    age(path)
    for place in (path.parent, *open_folder.iterdir(), open_folder):
        place.chmod(0o555)
    found = run(READ_ONLY, open_folder, *map(name_of, (1, 2, 3)), SIZE, 10**6)
    assert bytes.fromhex(found["held"]) == bytes_of(name_of(1))
    assert found["put"] == [True, False, False]
    assert found["log"].count("not kept") == 1


def test_where_nothing_can_be_deleted_nothing_is_put_over_the_bound(open_folder):
    kept = ObjectCache(open_folder, 5 * SIZE)
    paths = [put(kept, number) for number in range(4)]
    for path in paths:
        path.parent.chmod(0o555)
    for name in ("rounds", "parts", ""):
        (open_folder / name).chmod(0o777)
    names = [name_of(number) for number in (4, 5, 6)]
    found = run(READ_ONLY, open_folder, *names, SIZE, 5 * SIZE)
    assert found["put"] == [True, False, False]
    assert kept.size_now() == 5 * SIZE


FULL = """
import json, resource, sys
from intake_idc import resolve_mirror
from intake_idc.storage import Instance, read_instance
from intake_idc.manifest import Part
root, folder = sys.argv[1:3]
mirror = resolve_mirror(root, cache=folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
sizes = []
for name in sys.argv[3:]:
    found = Instance(Part("s", "b"), f"s/{name}.dcm", 10_000, name)
    sizes.append(len(read_instance(found, mirror)))
print(json.dumps({"sizes": sizes}))
"""


def test_where_no_more_can_be_written_the_bytes_are_given_and_not_kept(tmp_path):
    (tmp_path / "mirror" / "s").mkdir(parents=True)
    names = [name_of(number) for number in range(3)]
    for name in names:
        (tmp_path / "mirror" / "s" / f"{name}.dcm").write_bytes(bytes_of(name))
    found = run(FULL, tmp_path / "mirror", tmp_path / "kept", *names)
    assert found["sizes"] == [SIZE] * 3
    assert found["log"].count("not kept") == 1
    left = [p for p in (tmp_path / "kept").rglob("*") if p.suffix in (".dcm", ".part")]
    assert left == []


# Many processes.

WRITERS, BOUND = 4, 2_000_000


def size_of(name: str) -> int:
    return 5_000 + int(name[:4], 16)


def _fill(folder: Path, seed: int, wrong: multiprocessing.Queue) -> None:
    kept = ObjectCache(folder, BOUND)
    for turn in itertools.count():
        name = name_of(int(name_of(f"{seed} {turn}")[:6], 16) % 400)
        size = size_of(name)
        found = kept.read(name, size)
        if found is None:
            kept.put(name, bytes_of(name, size))
        elif found != bytes_of(name, size):
            wrong.put(name)


class Writers:
    """Processes that fill one folder, and are halted to be looked at."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.wrong = context.Queue()
        self.all = [
            context.Process(target=_fill, args=(folder, seed, self.wrong), daemon=True)
            for seed in range(WRITERS)
        ]
        self.kept = ObjectCache(folder, BOUND)

    def __enter__(self):
        for one in self.all:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.all:
            one.kill()
            one.join()

    @property
    def alive(self) -> list[multiprocessing.Process]:
        return [one for one in self.all if one.is_alive()]

    def size(self, *, kill: int = 0) -> int:
        """Give the size at a moment, from when on some are dead."""
        for one in self.alive:
            os.kill(one.pid, signal.SIGSTOP)
        found = self.kept.size_now()
        for one in self.alive[:kill]:
            one.kill()
            one.join()
        for one in self.alive:
            os.kill(one.pid, signal.SIGCONT)
        return found

    def sizes(self, count: int) -> list[int]:
        """Give some sizes, of when the folder has filled up."""
        found = []
        while len(found) < count:
            time.sleep(0.05)
            found += [size for size in [self.size()] if size > BOUND / 2]
        return found


def test_processes_keep_to_the_bound_and_one_that_is_killed_leaves_no_harm(folder):
    with Writers(folder) as writers:
        sizes = writers.sizes(12)
        sizes.append(writers.size(kill=1))
        sizes += writers.sizes(12)
        assert len(writers.alive) == WRITERS - 1
    # What each was writing as another began to make room may come on top.
    assert max(sizes) <= BOUND + WRITERS * (5_000 + 0xFFFF)
    assert writers.wrong.empty()
    for path in files(folder):
        assert path.read_bytes() == bytes_of(path.stem, size_of(path.stem))
    # What they left half done goes when there is room to be made.
    for path in [*(folder / "parts").iterdir(), *(folder / "rounds").iterdir()]:
        age(path)
    for number in range(500, 560):
        put(writers.kept, number, 50_000)
    assert not list((folder / "parts").iterdir())
    assert writers.kept.size_now() <= BOUND


# As readers use it.


@pytest.fixture
def bucket(tmp_path) -> Path:
    """Give a copy of the sample, which can be taken away."""
    return Path(shutil.copytree(Path(OBJECTS[0].url).parents[1], tmp_path / "bucket"))


def listed(bucket: Path, folder: Path) -> tuple[list[Instance], object]:
    mirror = resolve_mirror(bucket, cache=folder)
    return instances(IMAGES.manifest().parts(), mirror), mirror


def test_what_was_read_whole_is_read_again_without_the_mirror(bucket, folder):
    found, mirror = listed(bucket, folder)
    first = [read_instance(one, mirror) for one in found]
    shutil.rmtree(bucket)
    assert [read_instance(one, mirror) for one in found] == first
    one, data = found[0], first[0]
    ranged = Ranged(one, mirror)
    assert ranged.read(5, 10) == data[5:10]
    assert ranged.read_many([(0, 9), (100, 200)]) == [data[:9], data[100:200]]
    assert Ranged(one, mirror, known=True).read(0, 9) == data[:9]


def test_a_range_of_what_is_not_kept_is_read_from_the_mirror_alone(bucket, folder):
    found, mirror = listed(bucket, folder)
    data = Path(found[0].url).read_bytes()
    assert Ranged(found[0], mirror).read(0, 16_384) == data[:16_384]
    assert Ranged(found[0], mirror).read_many([(0, 9), (9, 12)]) == [
        data[:9],
        data[9:12],
    ]
    assert not folder.exists()
    # Where the range is the whole, it is kept.
    assert Ranged(found[0], mirror).read(0, len(data) + 1) == data
    assert [path.stem for path in files(folder)] == [found[0].crdc_instance_uuid]


@pytest.mark.servers
def test_a_copy_takes_what_is_kept_and_keeps_nothing_itself(s3_nginx, folder, tmp_path):
    mirror = resolve_mirror(
        "s3://{aws_bucket}", endpoint_url=s3_nginx.endpoint, cache=folder
    )
    listed = instances(SAMPLE.search(Modality="CT").manifest().parts(), mirror)
    for one in listed:
        read_instance(one, mirror)
    s3_nginx.reset()
    report = IMAGES.reading_from(mirror).materialize(tmp_path / "copy")
    asked = [r.uri for r in s3_nginx.requests() if "list-type" not in r.uri]
    assert len(asked) == len(report.paths) - len(listed)
    copied = {path.stem: path.read_bytes() for path in map(Path, report.paths)}
    assert all(copied[path.stem] == path.read_bytes() for path in files(folder))
    assert len(files(folder)) == len(listed)


def test_a_damaged_file_is_fetched_again(bucket, folder):
    found, mirror = listed(bucket, folder)
    whole = read_instance(found[0], mirror)
    (path,) = files(folder)
    os.truncate(path, 100)
    assert read_instance(found[0], mirror) == whole
    assert path.stat().st_size == len(whole)


def test_what_a_release_knows_the_md5_of_is_held_against_it(bucket, folder):
    found, mirror = listed(bucket, folder)
    one = found[0]
    wrong = Instance(one.part, one.key, one.size, one.url, one.etag, "0" * 32)
    read_instance(wrong, mirror)
    assert files(folder) == []


@pytest.mark.servers
@pytest.mark.slow
def test_a_bag_reads_each_object_once_whoever_computes_it(s3_nginx, folder):
    mirror = resolve_mirror(
        "s3://{aws_bucket}", endpoint_url=s3_nginx.endpoint, cache=folder
    )
    bag = IMAGES.datasets(mirror=mirror, partition_bytes="600 kB")

    def asked() -> list[str]:
        found = [r.uri for r in s3_nginx.requests() if "list-type" not in r.uri]
        s3_nginx.reset()
        return sorted(uri.rsplit("/", 1)[1] for uri in found)

    s3_nginx.reset()
    with dask.config.set({"multiprocessing.context": "spawn"}):
        first = bag.compute(scheduler="processes", num_workers=2)
    assert asked() == sorted(path.name for path in files(folder))
    assert bag.compute() == first
    assert bag.compute(scheduler="synchronous") == first
    handles = IMAGES.to_dask(mirror=mirror).compute()
    assert [h.pixels().shape for h in handles] == [d.pixel_array.shape for d in first]
    assert [h.header().SOPInstanceUID for h in handles] == [
        d.SOPInstanceUID for d in first
    ]
    assert asked() == []


@pytest.mark.servers
def test_the_filesystem_keeps_what_it_reads_whole(s3_nginx, folder, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_OBJECT_CACHE", str(folder))
    fs = fsspec.filesystem(
        "idc",
        tables="sample",
        mirror="s3://{aws_bucket}",
        endpoint_url=s3_nginx.endpoint,
        skip_instance_cache=True,
    )
    path = next(p for p in fs.find("v2") if p.endswith(".dcm"))
    data = fs.cat_file(path)
    s3_nginx.reset()
    assert fs.cat_file(path) == data
    assert fs.cat_file(path, 7, 99) == data[7:99]
    fs.get_file(path, str(folder / "copy"))
    assert (folder / "copy").read_bytes() == data
    assert [r for r in s3_nginx.requests() if "list-type" not in r.uri] == []
    assert [found.stem for found in files(folder)] == [Path(path).stem]


# How it is named.


def test_a_cache_is_a_value_that_travels(kept):
    mirror = resolve_mirror("aws", cache=kept)
    for value in (kept, mirror, SAMPLE.reading_from(mirror)):
        assert pickle.loads(pickle.dumps(value)) == value
    assert len({kept, ObjectCache(kept.folder, kept.size)}) == 1
    assert kept != ObjectCache(kept.folder, 5)
    assert kept  # Although it is empty.
    assert SAMPLE.reading_from(mirror).reading_from("gcs").mirror.cache is None
    assert resolve_mirror(mirror, engine="fsspec").cache == kept


def test_a_folder_is_whole_and_a_size_may_be_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ObjectCache("x", "50GB") == ObjectCache(tmp_path / "x", 50_000_000_000)
    assert ObjectCache("~/x").folder == str(tmp_path / "x")
    given = resolve_mirror("aws", cache="x", cache_size="1 MB").cache
    assert given == ObjectCache(tmp_path / "x", 10**6)
    assert resolve_mirror("aws", cache=given, cache_size=7).cache.size == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cache": ""}, "a folder of this machine"),
        ({"cache": "s3://bucket/x"}, "a folder of this machine"),
        ({"cache": 5}, "a folder of this machine"),
        ({"cache": "x", "cache_size": "much"}, "is a size such as"),
        ({"cache": "x", "cache_size": -1}, "a number of bytes"),
        ({"cache": "x", "cache_size": True}, "a number of bytes"),
        ({"cache": "x", "cache_size": 1.5}, "a number of bytes"),
        ({"cache_size": 5}, "name its cache, too"),
    ],
)
def test_what_is_no_cache_is_refused(arguments, said):
    with pytest.raises(RequestError, match=said):
        resolve_mirror("aws", **arguments)


def test_a_folder_of_the_cache_of_tables_is_refused():
    tables = cache.folder()
    for folder in (tables, tables / "objects"):
        with pytest.raises(RequestError, match="cache of index tables"):
            resolve_mirror("aws", cache=folder)


def test_the_environment_names_one_for_mirrors_that_are_far(folder, monkeypatch):
    monkeypatch.setenv("INTAKE_IDC_OBJECT_CACHE", str(folder))
    assert resolve_mirror("aws").cache == ObjectCache(folder, "20GB")
    monkeypatch.setenv("INTAKE_IDC_OBJECT_CACHE_SIZE", "3 MB")
    assert resolve_mirror("gcs").cache == ObjectCache(folder, 3_000_000)
    assert resolve_mirror("aws", cache=folder / "x").cache.folder.endswith("x")
    assert resolve_mirror("aws", cache_size=9).cache == ObjectCache(folder, 9)
    assert resolve_mirror("aws", environment=False).cache is None
    assert resolve_mirror("sample").cache is None
    assert resolve_mirror("sample", cache=folder).cache is not None


# What others wrote names no folder of ours.


def test_what_is_written_down_names_no_cache(tmp_path, folder, monkeypatch):
    mirror = resolve_mirror("aws", cache=folder, cache_size=5)
    assert mirror.to_arguments() == {"mirror": "aws"}
    monkeypatch.setenv("INTAKE_IDC_OBJECT_CACHE", str(folder))
    cohort = IMAGES.reading_from(mirror)
    lock = cohort.lock(tmp_path / "c.lock.json")
    source = intake.open_idc(tables="sample", mirror="aws").search(Modality="CT")
    written = [lock, cohort.to_catalog(tmp_path / "c.yml")]
    texts = [source.yaml(), *(Path(path).read_text() for path in written)]
    assert all("mirror" in text and str(folder) not in text for text in texts)
    assert not folder.exists()


@pytest.mark.parametrize("driver", ["idc", "idc_cohort", "idc_manifest", "idc_lock"])
@pytest.mark.parametrize("argument", ["cache", "cache_size"])
def test_an_entry_of_a_catalog_has_no_cache(tmp_path, folder, driver, argument):
    entry = {"driver": driver, "args": {"mirror": "aws", argument: str(folder)}}
    path = tmp_path / "catalog.yml"
    path.write_text(yaml.safe_dump({"sources": {"x": entry}}))
    with pytest.raises((TypeError, RequestError), match=argument):
        intake.open_catalog(str(path)).x.read()
    assert not folder.exists()


def test_neither_has_an_entry_of_version_2_nor_a_lock(tmp_path, folder):
    place = {"mirror": "sample", "cache": str(folder)}
    with pytest.raises((TypeError, RequestError), match="cache"):
        IDCSelection({"Modality": "CT"}, 2, tables="sample", mirror=place).open()
    path = IMAGES.reading_from("sample").lock(tmp_path / "c.lock.json")
    said = json.loads(Path(path).read_text())
    said["mirror"] = place
    Path(path).write_text(json.dumps(said))
    with pytest.raises(IntegrityError):
        open_lock(path)
    assert not folder.exists()


def test_mirrors_that_differ_in_their_cache_alone_are_the_same_place(folder):
    one = SAMPLE.search(Modality="CT").reading_from(resolve_mirror("aws", cache=folder))
    other = SAMPLE.search(Modality="MR").reading_from("aws")
    assert (one | other).mirror == one.mirror


# The command.


def test_the_command_shows_and_clears_it(kept, folder, monkeypatch):
    put(kept, 1)
    runner = CliRunner()
    shown = runner.invoke(command, ["cache", "objects", str(folder), "--json"])
    assert json.loads(shown.output)["bytes"] == SIZE
    shown = runner.invoke(command, ["cache", "objects", str(folder)])
    assert str(folder) in shown.output
    monkeypatch.setenv("INTAKE_IDC_OBJECT_CACHE", str(folder))
    cleared = runner.invoke(command, ["cache", "objects", "--clear"])
    assert cleared.exit_code == 0
    assert "10.00 kB" in cleared.output
    assert len(kept) == 0
    monkeypatch.delenv("INTAKE_IDC_OBJECT_CACHE")
    unnamed = runner.invoke(command, ["cache", "objects"])
    assert isinstance(unnamed.exception, RequestError)
    assert "INTAKE_IDC_OBJECT_CACHE" in str(unnamed.exception)


def test_the_memory_of_looking_through_does_not_grow_with_the_folder(folder):
    """Only what is to go is remembered: an eighth, and what is put."""
    for number in range(2_000):
        name = name_of(number)
        path = folder / name[:2] / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    space = room.Room(folder, 20_000)
    (folder / "rounds").mkdir()
    total, oldest = space._oldest(2_500, folder / "rounds" / "x")
    assert total == 20_000
    assert len(oldest) == 250
