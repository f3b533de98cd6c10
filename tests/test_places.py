"""Files of a copy on this machine: bytes into them, in order or not."""

from __future__ import annotations

import errno
import itertools
import os
import threading

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake_idc.transfer.places import LocalPlace, _left

PIECES = st.lists(st.binary(max_size=40) | st.just(b""), max_size=20)
KINDS = st.sampled_from([bytes, bytearray, memoryview, obstore.Bytes])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> LocalPlace:
    place = LocalPlace(tmp_path_factory.mktemp("place"))
    place.open()
    return place


@given(blocks=st.lists(PIECES, max_size=5), kind=KINDS)
def test_a_file_is_its_pieces_in_a_row(place, blocks, kind):
    part = place.part("folder", "name")
    try:
        for pieces in blocks:
            part.write([kind(data) for data in pieces])
        true = b"".join(data for pieces in blocks for data in pieces)
        assert b"".join(part.read()) == true
        state = part.commit()
        assert state.st_size == len(true)
        assert (place.target / "folder" / "name").read_bytes() == true
    finally:
        part.discard()


@given(
    blocks=st.lists(PIECES, max_size=5),
    kind=KINDS,
    order=st.randoms(use_true_random=False),
)
def test_a_file_is_its_pieces_wherever_they_are_written_first(
    place, blocks, kind, order
):
    part = place.part("folder", "name")
    try:
        places = [0]
        for pieces in blocks:
            places.append(places[-1] + sum(map(len, pieces)))
        tasks = list(zip(blocks, places, strict=False))
        order.shuffle(tasks)
        for pieces, at_place in tasks:
            part.write_at([kind(data) for data in pieces], at_place)
        assert b"".join(part.read()) == b"".join(map(b"".join, blocks))
    finally:
        part.discard()


@pytest.mark.parametrize(
    "count",
    [
        1,
        1024,
        1025,
        3000,
    ],
)
@pytest.mark.parametrize("way", ["write", "write_at"])
def test_there_may_be_any_number_of_pieces(place, way, count):
    pieces = [b"%d," % number for number in range(count)]
    part = place.part("folder", "name")
    try:
        if way == "write":
            part.write(pieces)
        else:
            part.write_at(pieces, 0)
        assert b"".join(part.read()) == b"".join(pieces)
    finally:
        part.discard()


@given(pieces=PIECES, kind=KINDS)
def test_what_is_left_of_pieces_is_the_rest_of_them(pieces, kind):
    true = b"".join(pieces)
    given_pieces = [kind(data) for data in pieces]
    for done in range(len(true) + 1):
        rest = _left(given_pieces, done)
        assert b"".join(map(bytes, rest)) == true[done:]
        assert len(rest) <= len(pieces)
    assert not _left(given_pieces, len(true))


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
@pytest.mark.parametrize("count", [1, 7])
def test_where_the_system_takes_less_the_rest_follows(place, count):
    # A write that a signal breaks off says how much it took.
    import signal

    piece = os.urandom(200_000)
    signals: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: signals.append(number))
    main = threading.main_thread().ident
    reading, writing = os.pipe()
    found = bytearray()

    def read() -> None:
        while data := os.read(reading, 5_000):
            found.extend(data)
            signal.pthread_kill(main, signal.SIGUSR1)

    part = place.part("folder", "name")
    own, part.fd = part.fd, writing
    reader = threading.Thread(target=read)
    reader.start()
    try:
        part.write([piece] * count)
    finally:
        part.fd = own
        os.close(writing)
        reader.join()
        os.close(reading)
        signal.signal(signal.SIGUSR1, before)
        part.discard()
    assert signals
    assert found == piece * count


@pytest.mark.skipif(os.name == "nt", reason="limits are those of POSIX")
@pytest.mark.parametrize("limit", [0, 10, 35, 50, 69])
@pytest.mark.parametrize("ends", [[70], [30, 30, 60, 70]], ids=["one", "some"])
@pytest.mark.parametrize("way", ["write", "write_at"])
def test_what_is_written_before_the_system_takes_no_more_is_right(
    place, way, ends, limit
):
    import resource

    pieces = [bytes(range(*pair)) for pair in itertools.pairwise([0, *ends])]
    part = place.part("folder", "name")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
        written = getattr(part, way)
        with pytest.raises(OSError) as caught:  # noqa: PT011  (its number says more)
            written(pieces, *([0] if way == "write_at" else []))
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert caught.value.errno == errno.EFBIG
        assert b"".join(part.read()) == b"".join(pieces)[:limit]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        part.discard()
