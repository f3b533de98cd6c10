"""Answers as they come: what is taken of them, and what is not taken for one.

Stores on sockets of this machine say what no store should, and answers are cut in every
way that a line may cut them. Whatever comes, it is the object or an error.
"""

from __future__ import annotations

import gc
import gzip
import http.client
import io
import itertools
import time
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from asking import SMALL, Asked, Line, Saying, Talking, answer, chunked, default, run
from hypothesis import given, settings
from hypothesis import strategies as st

from intake_idc.errors import ObjectNotFound, StorageError
from intake_idc.storage.exchanges import DRAINED, MOST_HEAD, BrokenError, Exchange
from intake_idc.storage.multi import BUFFER

pytestmark = [pytest.mark.timeout(60)]


# Answers that no store gives.


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
PARTIAL = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n"
NOISE = bytes(range(256)) * 8


PACKED = gzip.compress(b"abc")


def long(size: int) -> bytes:
    """A header by which a head has so many bytes more, its end counted."""
    return b"X-A: ".ljust(size - 4, b"a")


class Odd(NamedTuple):
    """An answer, and what is made of it."""

    answer: bytes
    data: bytes = b"abc"
    comes: bool = True
    etag: str | None = None
    part: tuple[int, int | None] = (0, None)


SAID = {
    "names in small letters": Odd(OK + b'etag:"x"\r\n\r\nabc', etag='"x"'),
    "names in capitals": Odd(OK + b'ETAG:   "x"  \r\n\r\nabc', etag='"x"'),
    "a weak tag": Odd(OK + b'ETag: W/"x"\r\n\r\nabc', etag='W/"x"'),
    "no tag": Odd(OK + b"\r\nabc"),
    "an empty tag": Odd(OK + b"ETag:\r\n\r\nabc"),
    "a tag by another name": Odd(OK + b'X-ETag: "x"\r\n\r\nabc'),
    "a tag in the body": Odd(OK + b'\r\n\nETag: "x"\n'[:7].ljust(7, b"c"), b"\nET"),
    "a word before": Odd(
        b'HTTP/1.1 103 Early Hints\r\nETag: "early"\r\n\r\n' + OK + b"\r\nabc"
    ),
    "nothing in it": Odd(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "of no length": Odd(b"HTTP/1.0 200 OK\r\n\r\nabc"),
    "in small pieces": Odd(chunked(NOISE, 1) + b"0\r\n\r\n", NOISE),
    "in pieces, and no end": Odd(chunked(NOISE, 100), NOISE, comes=False),
    "another success": Odd(b"HTTP/1.1 204 No Content\r\n\r\n", b"", comes=False),
    "a status that is none": Odd(
        b"HTTP/1.1 999 What\r\nContent-Length: 3\r\n\r\nabc", b"", comes=False
    ),
    "no HTTP": Odd(b"SSH-2.0-OpenSSH_9.2\r\n", b"", comes=False),
    "nothing at all": Odd(b"", b"", comes=False),
    "a range": Odd(PARTIAL + b"Content-Range: bytes 5-7/9\r\n\r\nabc", part=(5, 8)),
    "a range of who knows what": Odd(
        PARTIAL + b"Content-Range: bytes 5-7/*\r\n\r\nabc", part=(5, 8)
    ),
    "another range": Odd(
        PARTIAL + b"Content-Range: bytes 4-6/9\r\n\r\nabc", b"", False, part=(5, 8)
    ),
    "a range that is not said": Odd(PARTIAL + b"\r\nabc", b"", False, part=(5, 8)),
    "a range that nobody asked for": Odd(
        PARTIAL + b"Content-Range: bytes 5-7/9\r\n\r\nabc", b"", comes=False
    ),
    "words before": Odd(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK + b"\r\nabc"),
    "nothing but words before": Odd(b"HTTP/1.1 100 Continue\r\n\r\n", b"", comes=False),
    "of the protocol before": Odd(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
    "the last of its line": Odd(OK + b"Connection: close\r\n\r\nabc"),
    "news of another protocol": Odd(
        OK + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nabc"
    ),
    "an empty header before": Odd(OK + b'X-A:\r\nETag: "x"\r\n\r\nabc', etag='"x"'),
    "packed as it is stored": Odd(
        answer(PACKED, b"Content-Encoding: gzip"), PACKED, True
    ),
    "pieces with words on them": Odd(
        chunked(b"", 1) + b"3;a=b\r\nabc\r\n0\r\n\r\n",
    ),
    "pieces, said with room": Odd(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \tchunked \r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ),
    "many pieces": Odd(chunked(NOISE * 100, 1000) + b"0\r\n\r\n", NOISE * 100),
    "words on a piece without end": Odd(
        chunked(b"", 1) + b"3;" + b"a" * 20 * MOST_HEAD + b"\r\nabc\r\n0\r\n\r\n",
        b"",
        comes=False,
    ),
    "words after its pieces without end": Odd(
        chunked(b"abc", 3) + b"0\r\n" + b"X-A: b\r\n" * 2 * MOST_HEAD + b"\r\n",
        comes=False,
    ),
    "the whole, said to be a range": Odd(
        answer(b"abc", b"Content-Range: bytes 5-7/9"), b"", False, part=(5, 8)
    ),
    "words after its pieces": Odd(
        chunked(b"abc", 2) + b'0\r\nETag: "late"\r\nX-A: b\r\n\r\n'
    ),
    "pieces of a length that is none": Odd(
        chunked(b"abc", 3) + b"x\r\nabc\r\n", comes=False
    ),
    "shorter than it says": Odd(
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", comes=False
    ),
    "empty lines before": Odd(b"\r\n\r\n" + OK + b"\r\nabc", b"", comes=False),
    "half a head": Odd(OK + b"ETag: x\r\n", b"", comes=False),
    "half a status": Odd(b"HTTP/1.1 20", b"", comes=False),
    "a long head": Odd(OK + long(MOST_HEAD - len(OK)) + b"\r\n\r\nabc"),
    "a head that is too long": Odd(
        OK + long(MOST_HEAD - len(OK) + 2) + b"\r\n\r\nabc", b"", comes=False
    ),
    "headers without end": Odd(OK + b"X-A: b\r\n" * MOST_HEAD, b"", comes=False),
    "a header without end": Odd(OK + b"X-A: " + bytes(MOST_HEAD), b"", comes=False),
    "a word before without end": Odd(
        b"HTTP/1.1 100 Continue\r\n" + b"X-A: b\r\n" * MOST_HEAD, b"", comes=False
    ),
    "a coding that nobody knows": Odd(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x-new\r\n\r\nabc", b"", comes=False
    ),
    "pieces that are packed": Odd(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nabc",
        b"",
        comes=False,
    ),
    "lines by LF": Odd(OK.replace(b"\r", b"") + b"\nabc\r\n\r\nabc", b"", comes=False),
    "a line by LF": Odd(
        b"HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\nabc", b"", comes=False
    ),
    "a last line by LF": Odd(OK + b"\nabc\r\n\r\nabc", b"", comes=False),
    "lines by CR": Odd(OK.replace(b"\n", b"") + b"\r\rabc", b"", comes=False),
    "a length on the next line": Odd(
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 3\r\n\r\nabc", b"", comes=False
    ),
}
LENGTHS = {
    "a length twice": b"3\r\nContent-Length: 3",
    "two lengths": b"3\r\nContent-Length: 2",
    "a length and pieces": b"3\r\nTransfer-Encoding: chunked",
    "pieces and a length": b"3\r\nTransfer-Encoding: chunked",
    "no length": b"",
    "a length below nothing": b"-3",
    "a length with a sign": b"+3",
    "a list of lengths": b"3, 3",
    "a length in another base": b"0x3",
    "a length with a point": b"3.0",
    "a length in words": b"three",
    "a length of other digits": "\u0663".encode(),
    "a length that nothing has": b"%d" % 2**64,
}
"""Lengths that are none; what is in pieces there is no body as well."""
SAID |= {
    name: Odd(
        b"HTTP/1.1 200 OK\r\nContent-Length: "
        + length
        + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"",
        comes=False,
    )
    for name, length in LENGTHS.items()
}
SAID["pieces and a length"] = Odd(
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
    b"3\r\nabc\r\n0\r\n\r\n",
    b"",
    comes=False,
)
SAID["a length of years"] = Odd(
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nabc" % (2**64 - 1), comes=False
)


@pytest.fixture(scope="module")
def saying() -> Iterator[Saying]:
    answers = {name: odd.answer for name, odd in SAID.items()}
    with Saying(answers) as running:
        yield running


@pytest.mark.parametrize(
    "name",
    SAID,
)
def test_an_answer_is_what_its_head_says(saying, name):
    odd = SAID[name]
    request = Asked(f"{SMALL}/{name}", *odd.part)
    run(default(saying, read_timeout=5), [request])
    assert request.data == odd.data
    assert request.etag == odd.etag
    if odd.comes:
        assert request.error is None
    else:
        assert type(request.error) is StorageError


NEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz"


COUNTED, PIECES = OK + b"\r\nabc", chunked(b"abc", 3) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "after"),
    # An empty line after pieces is nothing, and passed by.
    [(COUNTED, b"\r\n")]
    + [(first, one) for first in (COUNTED, PIECES) for one in (b"x", NEXT, NEXT[:20])],
)
def test_what_follows_an_answer_is_none_of_it(first, after):
    def talk(line: Line) -> None:
        while name := line.hear():
            line.say(first + after if name == "first" else answer(b"own"))

    requests = [Asked("first"), Asked("second")]
    with Talking(talk) as store:
        run(default(store), requests, most=1)
    assert [request.data for request in requests] == [b"abc", b"own"]
    if b"chunked" not in first:
        assert requests[0].error is None
    assert requests[1].error is None
    # What came on that line cannot be told from what is to come.
    assert store.asked == [(1, "first"), (2, "second")]


def test_a_store_that_speaks_another_protocol_is_an_error_of_its_request():
    words = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n"
    request, other = Asked("first"), Asked("other")
    with Saying({"first": words + b"\r\n" + OK + b"\r\nabc", "other": NEXT}) as store:
        run(default(store), [request, other])
    assert type(request.error) is StorageError
    assert request.data == b""
    assert other.data == b"xyz"


@pytest.mark.parametrize(
    "coding", [b"gzip, chunked", b"gzip\r\nTransfer-Encoding: chunked"]
)
def test_pieces_of_what_is_packed_on_its_way_are_no_answer(coding):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding
    request = Asked("x")
    said = head + b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(PACKED), PACKED)
    with Saying({"x": said}) as store:
        run(default(store), [request])
    assert request.error is not None or request.data == b"abc"


def test_words_before_an_answer_without_end_are_none():
    request = Asked("x")
    words = b"HTTP/1.1 100 Continue\r\n\r\n" * MOST_HEAD
    with Saying({"x": words + NEXT}) as store:
        run(default(store), [request])
    assert type(request.error) is StorageError


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01",
        OK + b"X-A: b\r\n" * MOST_HEAD,
        OK + b"X-A: " + bytes(MOST_HEAD),
    ],
    ids=["another protocol", "TLS", "headers without end", "a header without end"],
)
def test_it_is_not_waited_for_the_end_of_what_is_no_answer(said):
    def talk(line: Line) -> None:
        line.hear()
        line.say(said)
        # Until the other side has had enough.
        line.hear()

    request, other = Asked("x"), Asked("y")
    with Talking(talk) as store:
        run(default(store, read_timeout=90), [request, other], most=1)
    for one in (request, other):
        assert type(one.error) is StorageError
        assert one.data == b""


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 404 Not Found\r\n\r\nabc",
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        answer(bytes(DRAINED + 1), status=b"404 Not Found")[:100],
    ],
    ids=["of no length", "in pieces", "large"],
)
def test_it_is_not_waited_for_the_end_of_what_is_not_wanted(said):
    def talk(line: Line) -> None:
        line.hear()
        line.say(said)
        line.hear()

    began = time.monotonic()
    request = Asked("x")
    with Talking(talk) as store:
        run(default(store, read_timeout=5), [request])
        # Who has gone does not wait until it is late.
        assert time.monotonic() - began < 5
    assert isinstance(request.error, ObjectNotFound)
    assert request.data == b""


@pytest.mark.parametrize(
    "said", [chunked(NOISE, 100), answer(NOISE)[:-1]], ids=["pieces", "length"]
)
def test_who_wants_no_more_is_given_no_more(said):
    request = Asked("x", wants=1)
    with Saying({"x": said}) as store:
        run(default(store), [request])
    assert len(request.taken) == 1
    assert "no more of it was wanted" in str(request.error)


def test_what_is_cut_is_called_wrong_where_it_was_wrong_before():
    said = PARTIAL + b"Content-Range: bytes 4-6/9\r\n\r\na"
    request = Asked("x", 5, 8)
    with Saying({"x": said}) as store:
        run(default(store), [request])
    assert "a range was asked for" in str(request.error)
    assert request.error.details["transient"] is False


def test_who_was_answered_is_let_go():
    # Each may hold a file, and what waits for the collector is not seen by it soon.
    exchange = Exchange(request := Asked("x"), "s3://b/x", b"")
    exchange.take(memoryview(answer(b"abc")), exchange.sent)
    assert exchange.error("") is None
    held = weakref.ref(request)
    gc.disable()
    try:
        del exchange, request
        assert held() is None
    finally:
        gc.enable()


def test_how_long_it_took_is_said_of_the_first_byte():
    exchange = Exchange(Asked("x"), "s3://b/x", b"")
    began, said = exchange.sent, answer(b"abc")
    for number, piece in enumerate([said[:1], said[1:-1], said[-1:]], 1):
        assert not exchange.ended
        exchange.take(memoryview(piece), began + number)
        assert exchange.latency == 1
        assert exchange.heard == began + number
    assert exchange.ended


WHOLES = {
    "length": answer(NOISE[:300], b'ETag: "x"'),
    "pieces": chunked(NOISE[:300], 7) + b"0\r\nX-A: b\r\n\r\n",
    "words before": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 2
    + answer(NOISE[:300]),
    "error": answer(NOISE[:300], status=b"404 Not Found"),
}


@pytest.mark.parametrize("name", WHOLES)
def test_an_answer_may_come_byte_by_byte(name):
    def talk(line: Line) -> None:
        while line.hear():
            line.say(*(WHOLES[name][n : n + 1] for n in range(len(WHOLES[name]))))

    requests = [Asked("x"), Asked("y")]
    with Talking(talk) as store:
        run(default(store), requests, most=1)
    for request in requests:
        if name == "error":
            assert isinstance(request.error, ObjectNotFound)
            assert request.data == b""
        else:
            assert request.error is None
            assert request.data == NOISE[:300]
    # All of each was met, and nothing of it taken for the next.
    assert store.asked == [(1, "x"), (1, "y")]


KEEPS = {
    "a length": (answer(b"abc"), True),
    "no bytes": (answer(b""), True),
    "as much as is taken at once": (answer(bytes(BUFFER)), True),
    "pieces": (chunked(b"abc", 1) + b"0\r\n\r\n", True),
    "words before": (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"abc"), True),
    "the last": (answer(b"abc", b"Connection: close"), False),
    "the last, in capitals": (answer(b"abc", b"CONNECTION: Close"), False),
    "the last, in pieces": (
        chunked(b"abc", 1).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        + b"0\r\n\r\n",
        False,
    ),
    "HTTP/1.0": (answer(b"abc").replace(b"1.1", b"1.0"), False),
    "HTTP/1.0 that goes on": (
        answer(b"abc", b"Connection: keep-alive").replace(b"1.1", b"1.0"),
        True,
    ),
    "a small error": (answer(b"abc", status=b"404 Not Found"), True),
    "an error of no bytes": (answer(b"", status=b"503 Slow Down"), True),
    "an error of some bytes": (answer(bytes(DRAINED), status=b"500 No"), True),
    "a large error": (answer(bytes(DRAINED + 1), status=b"500 No"), False),
    "the last error": (answer(b"a", b"Connection: close", status=b"500 No"), False),
    "an error of no length": (b"HTTP/1.1 500 No\r\n\r\nabc", False),
    "a part that nobody asked for": (
        answer(b"abc", b"Content-Range: bytes 5-7/9", status=b"206 Partial"),
        True,
    ),
    "a large part that nobody asked for": (
        answer(bytes(DRAINED + 1), b"Content-Range: bytes 5-/*", status=b"206 Partial"),
        False,
    ),
}


@pytest.mark.parametrize(
    "name",
    KEEPS,
)
def test_a_line_is_kept_where_all_of_an_answer_was_met(name):
    said, kept = KEEPS[name]

    def talk(line: Line) -> None:
        while asked_for := line.hear():
            line.say(said if asked_for == "first" else answer(b"own"))

    first, second = Asked("first"), Asked("second")
    with Talking(talk) as store:
        run(default(store), [first, second], most=1)
    good = b"HTTP/1.1 200" in said or b"HTTP/1.0 200" in said
    assert (first.error is None) == good
    assert first.data in (b"abc", b"", bytes(BUFFER)) if good else first.data == b""
    assert second.error is None
    assert second.data == b"own"
    assert store.asked == [(1, "first"), (1 if kept else 2, "second")]


# An answer in pieces of any size.

BODIES = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"a", NEXT, bytes(9)]
    ),
    max_size=6,
).map(b"".join)
INTERIM = st.sampled_from(
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b'HTTP/1.1 103 Early Hints\r\nETag: "early"\r\nContent-Length: 7\r\n\r\n',
        b"HTTP/1.1 199 What\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            b'ETag: "x"',
            b"etag:y",
            b"X-A:",
            b"Retry-After: 7",
            b"Server:  a: b ",
            b"A: \t",
        ]
    ),
    max_size=3,
)
STATUSES = st.sampled_from([b"200 OK", b"200 ", b"206 Part", b"404 No", b"503 Slow"])
LENGTHS_OF_PIECES = st.integers(1, 40)


@st.composite
def answers(draw) -> tuple[bytes, bytes]:
    """An answer as it should be, and its body."""
    data = draw(BODIES)
    lines = [b"HTTP/1.1 " + draw(STATUSES), *draw(HEADERS)]
    lines += draw(st.sampled_from([[], [b"Content-Range: bytes 5-7/9"]]))
    how = draw(st.sampled_from(["length", "pieces", "end"]))
    body = data
    if how == "length":
        lines.append(b"Content-Length: %d" % len(data))
    elif how == "pieces":
        lines.append(b"transfer-encoding: Chunked")
        body = chunked(data, draw(LENGTHS_OF_PIECES)).partition(b"\r\n\r\n")[2]
        body += b"0\r\n" + draw(st.sampled_from([b"", b"ETag: late\r\n"])) + b"\r\n"
    before = b"".join(draw(st.lists(INTERIM, max_size=2)))
    return before + b"\r\n".join(lines) + b"\r\n\r\n" + body, data


PARTS = st.sampled_from([(0, None), (5, None), (5, 8), (0, 3)])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut an answer at some places, counted from its start and over again."""
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:stop] for start, stop in itertools.pairwise(at)]


class Met(NamedTuple):
    """What became of an answer."""

    data: bytes
    etag: str
    error: StorageError | None
    keeps: bool


def met(pieces: list[bytes], part: tuple[int, int | None]) -> Met:
    """Take an answer, and then the end of its line."""
    request, why = Asked("k", *part), ""
    exchange = Exchange(request, "s3://b/k", b"")
    try:
        for piece in pieces:
            exchange.take(memoryview(piece), time.monotonic())
            if exchange.ended:
                break
        else:
            exchange.close()
    except BrokenError as error:
        why = str(error)
    # Nothing is no piece.
    assert 0 not in request.taken
    etag = exchange.header("etag")
    return Met(request.data, etag, exchange.error(why), exchange.keeps)


@settings(max_examples=300)
@given(said=answers(), places=st.lists(st.integers(0, 10**6), max_size=8), part=PARTS)
def test_an_answer_is_the_same_wherever_it_is_cut(said, places, part):
    whole, data = said
    pieces = cut(whole, places)
    assert b"".join(pieces) == whole
    found, true = met(pieces, part), met([whole], part)
    assert repr(found) == repr(true)
    each = met([whole[n : n + 1] for n in range(len(whole))], part)
    assert repr(each) == repr(true)
    assert true.data == (data if true.error is None else b"")


STARTS = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 6
    + [b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1  200 OK", b"HTTP/1.1 2000 OK"]
    + [b"HTTP/1.1 20 OK", b"HTTP/3.7 200 OK", b"http/1.1 200 OK", b"HTTP/1.1 200\tOK"]
    + [b"HTTP/1.1 100 Go", b"HTTP/1.1 000 None", b"", b"HTTP/", b"SSH-2.0", b"\x16\x03"]
)
LINES = st.sampled_from(
    [b"Content-Length: 3"] * 4
    + [b"Transfer-Encoding: chunked"] * 2
    + [
        b"Content-Length: 5",
        b"Content-Length: -1",
        b"Content-Length:",
        b"Content-Length",
    ]
    + [b"content-length : 3", b" Content-Length: 3", b"X: y\r\n Content-Length: 3"]
    + [b"Content-Length: 3 ", b"Content-Length: \t3", b"Content-Length: 3\x00"]
    + [b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade"]
    + [b"X: y", b"X:", b": y", b"X", b"", b"\x80: \xff", b"Upgrade: x", b'ETag: "x"']
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\r\n\r\n"])
RESTS = st.lists(
    st.sampled_from([b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\r\n", b"\r\n\r\n"]),
    max_size=4,
).map(b"".join)


class Heard:
    """An answer, for the client of the standard library."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


@settings(max_examples=400)
@given(
    start=STARTS,
    lines=st.lists(st.tuples(LINES, ENDS), max_size=4),
    ends=st.tuples(ENDS, ENDS),
    rest=RESTS,
    places=st.lists(st.integers(0, 10**6), max_size=4),
)
def test_of_what_is_no_answer_nothing_is_taken_for_one(
    start, lines, ends, rest, places
):
    head = start + ends[0] + b"".join(map(b"".join, lines)) + ends[1]
    found = met(cut(head + rest, places), (0, None))
    if found.error is None:
        true = http.client.HTTPResponse(Heard(head + rest))
        true.begin()
        assert true.status == 200
        assert found.data == true.read()
