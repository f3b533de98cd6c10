"""Many requests from one thread, each once; what does not come is asked for again.

A store that plays faults is asked as it is by default: by libcurl, many at a time, and
with patience for what did not come that way. Other tests of faults name an engine, and
so are of the patience alone. Each fact is held against the server's own account of what
it was asked.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.sax.saxutils import escape

import obstore
import pyarrow as pa
import pytest
from copied import (
    BUCKET,
    QUICK,
    TEMPLATE,
    asked,
    at,
    cohort,
    copied,
    files,
    held,
    knowing,
    left,
    named,
    put_series,
    truth,
    uuid,
)
from fsspec.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import HOST, Faulty, executable

from intake_idc import resolve_mirror, transfer
from intake_idc.arrow import FEW, taken
from intake_idc.errors import (
    AccessDenied,
    IntegrityError,
    ObjectChanged,
    ObjectNotFound,
    RequestError,
    StorageError,
    TransferError,
)
from intake_idc.manifest import Part as Series
from intake_idc.storage import (
    StoppedError,
    Stored,
    Ways,
    gather,
    list_all,
    read_instance,
)
from intake_idc.storage.engine import check_range
from intake_idc.storage.listing import LISTED_AHEAD
from intake_idc.storage.multi import HELD, Multi, asks_many
from intake_idc.storage.pages import listed
from intake_idc.storage.retrying import Budget, _budget
from intake_idc.storage.threads import Threads
from intake_idc.storage.together import DONE, LATER, VAIN
from intake_idc.storage.together import MANY as MANY_TOGETHER
from intake_idc.transfer import large as large_objects
from intake_idc.transfer.places import LocalPlace, _left

pytestmark = [pytest.mark.timeout(60)]
served = pytest.mark.servers

EVER = None
OBJECTS = 40
SIZE = 3_000
BIG = 950_000
"""Bytes of an object that is fetched by ranges here."""
RANGE = 100_000
MANY = 300
PAGE = 1_000
"""Objects of a page of a listing."""
PAGED = 1_100
SOON = 20
"""Seconds that nothing takes which ends when it is told to; far more than it needs."""

SMALL, LARGE, TINY, PAGES, EDGE, SPLIT = (uuid(number) for number in range(1, 7))
EDGES = [0, 1, HELD - 1, HELD, HELD + 1, 2 * HELD, 3 * HELD + 7]
"""Bytes of objects by which it is seen whether what is held is handed over."""
SPLITS = [2 * RANGE, 2 * RANGE + 1, 3 * RANGE - 1, 3 * RANGE, 3 * RANGE + 1]
"""Bytes of objects by which it is seen how ranges end."""
BELOW = "a b/c+d"
"""A folder in a bucket."""
SERIES = [uuid(number) for number in range(101, 131)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("store")
    put_series(root, 1, [SIZE + number for number in range(OBJECTS)])
    put_series(root, 2, [BIG])
    put_series(root, 3, [10] * MANY)
    put_series(root, 4, [1] * PAGED)
    for number in range(101, 131):
        put_series(root, number, range(1, number % 3 + 2))
    put_series(root, 5, EDGES)
    put_series(root, 6, SPLITS)
    put_series(root / "below", 1, [SIZE, SIZE])
    (root / BUCKET / BELOW).parent.mkdir()
    (root / "below" / BUCKET).rename(root / BUCKET / BELOW)
    for number, key in enumerate(ODD):
        path = root / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"odd {number}".encode())
    return root


@pytest.fixture(scope="module")
def stores(root) -> Iterator[tuple[Faulty, Faulty, Faulty]]:
    """Hosts with the same objects, of which the last is farther away."""
    with Faulty(root) as one, Faulty(root) as other, Faulty(root, 0.01) as far:
        yield one, other, far


def rested(store: Faulty) -> Faulty:
    """Give a store that answers as it should, and is at nothing."""

    def is_idle() -> bool:
        store.script()
        return not store.busiest()

    until(is_idle)
    return store


@pytest.fixture
def server(stores) -> Faulty:
    return rested(stores[0])


@pytest.fixture
def second(stores) -> Faulty:
    """Another host."""
    return rested(stores[1])


@pytest.fixture(params=["near", "far"])
def either(request, stores) -> Faulty:
    """A host of which some things are asked at once, or one of which very many are."""
    return rested(stores[0 if request.param == "near" else 2])


@pytest.fixture(params=[False, True], ids=["some", "many"])
def many(request) -> bool:
    """Whether many requests are thought to be in flight."""
    return request.param


_numbers = itertools.count(1)


def default(server, retry_timeout: float = QUICK["retry_timeout"], **options: float):
    """A mirror that is asked as any is, where nobody names an engine.

    It is another one each time: how a store did is remembered.
    """
    retry_timeout += next(_numbers) / 1e6
    mirror = at(server, None, retry_timeout=retry_timeout, **options)
    assert asks_many(mirror)
    return mirror


def both(first: Faulty, second: Faulty):
    """Two mirrors that stand in for each other."""
    one, other = default(first), default(second)
    return resolve_mirror([one, replace(other, name="gcs", root="gs://{gcs_bucket}")])


@pytest.fixture(autouse=True)
def _rested() -> None:
    """What all retries of this process may cost together is there anew."""
    _budget.cache_clear()


# One thread, many requests.


class Asked:
    """A request that keeps all it is told."""

    query = ""

    def __init__(
        self,
        key: str,
        start: int = 0,
        stop: int | None = None,
        wants: int | None = None,
    ) -> None:
        self.bucket, self.key, self.start, self.stop = BUCKET, key, start, stop
        self.data = b""
        self.taken: list[int] = []
        self.ends: list[tuple[str | None, StorageError | None]] = []
        self._wants = wants
        """Bytes from which on no more are wanted."""

    def take(self, pieces) -> bool:
        assert not self.ends
        self.taken.append(sum(map(len, pieces)))
        self.data += b"".join(pieces)
        return self._wants is None or len(self.data) < self._wants

    def end(self, etag: str | None, error: StorageError | None) -> None:
        self.ends.append((etag, error))

    @property
    def etag(self) -> str | None:
        ((etag, _),) = self.ends
        return etag

    @property
    def error(self) -> StorageError | None:
        ((_, error),) = self.ends
        return error


def object_of(number: int, **more) -> Asked:
    return Asked(f"{SMALL}/{uuid(number)}.dcm", **more)


def run(
    mirror, requests, *, many: bool = False, most: int = 100, stopped=None
) -> Multi:
    """Send requests, some at a time."""
    multi, waiting = Multi(mirror, many=many), iter(requests)
    began = ended = 0

    def following(live: int) -> Asked | None:
        nonlocal began
        assert live == began - ended
        found = next(waiting, None) if live < most else None
        began += found is not None
        return found

    def end() -> None:
        nonlocal ended
        ended += 1

    multi.run(following, end, stopped or threading.Event())
    # Of each that was sent it is said once that it is over.
    assert ended == began
    return multi


ODD = [
    "odd/with a space.dcm",
    "odd/100%.dcm",
    "odd/100%25.dcm",
    "odd/a%2Fb.dcm",
    "odd/#1.dcm",
    "odd/what?.dcm",
    "odd/a?list-type=2",
    "odd/1+1.dcm",
    "odd/Übung 😀.dcm",
    "odd/~a!b$c&d'e(f)g*h,i;j=k:l@m.dcm",
    'odd/"[{<|>}]^`\\.dcm',
    "odd/...dcm",
    "odd/.dcm",
]


@served
def test_keys_are_asked_for_letter_by_letter(server, root, many):
    requests = [Asked(key) for key in ODD]
    run(default(server), requests, many=many)
    assert [request.error for request in requests] == [None] * len(ODD)
    true = [(root / BUCKET / key).read_bytes() for key in ODD]
    assert [request.data for request in requests] == true
    assert asked(server) == Counter(f"{BUCKET}/{key}" for key in ODD)


@served
@pytest.mark.parametrize("key", [f"a/../{SMALL}/{uuid(0)}.dcm", f"./{SMALL}/x.dcm"])
def test_a_key_with_dots_is_not_that_of_another_object(server, key):
    request = Asked(key)
    run(default(server), [request])
    assert request.data == b""
    assert isinstance(request.error, ObjectNotFound)
    assert asked(server) == {f"{BUCKET}/{key}": 1}


RANGES = st.tuples(st.integers(0, SIZE + 5), st.none() | st.integers(1, SIZE)).map(
    lambda pair: (pair[0], pair[1] and pair[0] + pair[1])
)
WHOLE = st.just((0, None))


@served
@settings(max_examples=25)
@given(
    parts=st.lists(st.tuples(st.integers(0, 9), WHOLE | RANGES), max_size=12),
    most=st.integers(1, 5),
    many=st.booleans(),
)
def test_what_comes_is_what_was_asked_for_whatever_came_before(
    stores, root, parts, most, many
):
    # A connection that had a range, or an error, is taken up for what follows.
    rule = {"do": "status", "status": 503, "times": EVER}
    server = stores[0]
    server.script({"on": named(SMALL, 9), **rule})
    requests = [object_of(n, start=start, stop=stop) for n, (start, stop) in parts]
    run(default(server), requests, many=many, most=most)
    for (number, (start, stop)), request in zip(parts, requests, strict=True):
        true = files(root, SMALL)[number].read_bytes()
        if number == 9 or (start >= len(true)):
            assert request.error is not None
            assert request.data == b""
        else:
            assert request.error is None
            assert request.data == true[start:stop]


@served
def test_who_has_no_answer_is_not_told_of_the_one_before(server, many):
    server.script({"on": named(SMALL, 1), "do": "reset", "times": EVER})
    requests = [object_of(0), object_of(1)]
    run(default(server), requests, many=many, most=1)
    good, broken = requests
    assert good.error is None
    assert good.etag
    assert isinstance(broken.error, StorageError)
    assert broken.etag is None


@served
def test_no_more_are_in_flight_than_are_given(server, many):
    server.script({"on": "*", "do": "trickle", "rate": 40_000, "times": EVER})
    requests = [object_of(number) for number in range(12)]
    run(default(server), requests, many=many, most=4)
    assert server.busiest() == 4
    assert [request.error for request in requests] == [None] * 12


@served
def test_a_large_answer_is_handed_over_bit_by_bit(server, root, many):
    whole = Asked(f"{LARGE}/{uuid(0)}.dcm")
    ranges = [
        Asked(whole.key, start, min(start + RANGE, BIG))
        for start in range(0, BIG, RANGE)
    ]
    run(default(server), [whole, *ranges], many=many)
    true = files(root, LARGE)[0].read_bytes()
    assert whole.data == b"".join(request.data for request in ranges) == true
    assert len(whole.taken) > 1
    # By as much as libcurl gives at once more than is held, and not all at the end.
    assert max(whole.taken) < 2 * HELD


@served
def test_what_is_refused_is_not_sent_on(server, many):
    requests = [Asked(f"{LARGE}/{uuid(0)}.dcm", wants=1), object_of(0)]
    run(default(server), requests, many=many)
    refusing, other = requests
    # Once, and its end is told once.
    assert len(refusing.taken) == 1
    assert len(refusing.data) < BIG
    assert len(refusing.ends) == 1
    assert other.error is None


@served
def test_what_is_refused_ends_with_an_error(server):
    refusing = Asked(f"{LARGE}/{uuid(0)}.dcm", wants=1)
    run(default(server), [refusing])
    assert isinstance(refusing.error, StorageError)


@served
@pytest.mark.parametrize("after", [None, 1000])
def test_what_is_stopped_ends_soon_though_the_store_is_silent(server, after, many):
    server.script({"on": "*", "do": "stall", "after": after, "times": EVER})
    requests = [object_of(number) for number in range(10)]
    stopped = threading.Event()
    running = threading.Thread(
        target=run,
        args=(default(server, read_timeout=60), requests),
        kwargs={"many": many, "most": 5, "stopped": stopped},
        daemon=True,
    )
    running.start()
    until(lambda: len(server.requests()) == 5)
    stopped.set()
    running.join(SOON)
    assert not running.is_alive()
    # Those that were not sent are told nothing.
    assert [len(request.ends) for request in requests] == [1] * 5 + [0] * 5
    for request in requests[:5]:
        assert isinstance(request.error, StorageError)
        assert "given up" in str(request.error)


def until(holds) -> None:
    """Wait for something that comes about."""
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@served
def test_nothing_is_sent_where_all_is_to_end(server, many):
    stopped, request = threading.Event(), object_of(0)
    stopped.set()
    run(default(server), [request], many=many, stopped=stopped)
    assert request.ends == []
    assert server.requests() == []


@served
def test_who_breaks_off_is_told_of_what_was_in_flight(server, many):
    server.script({"on": "*", "do": "stall", "after": 100, "times": EVER})
    request = object_of(0)

    def following(live: int) -> Asked | None:
        if not live:
            return request
        if server.requests():
            msg = "no more"
            raise LookupError(msg)
        return None

    multi = Multi(default(server, read_timeout=60), many=many)
    with pytest.raises(LookupError, match="no more"):
        multi.run(following, lambda: None, threading.Event())
    assert isinstance(request.error, StorageError)


def test_a_store_that_is_not_there_is_an_error_of_each(many):
    with socket.socket() as probe:
        # Nobody listens there.
        probe.bind((HOST, 0))
        nobody = SimpleNamespace(endpoint=f"http://{HOST}:{probe.getsockname()[1]}")
        requests = [object_of(number) for number in range(5)]
        multi = run(default(nobody), requests, many=many)
    assert all(type(request.error) is StorageError for request in requests)
    assert multi.buckets == [BUCKET]


def test_how_long_answers_take_is_not_known_where_none_came():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        nobody = SimpleNamespace(endpoint=f"http://{HOST}:{probe.getsockname()[1]}")
        assert run(default(nobody), [object_of(0)]).latency is None


@served
def test_the_tag_is_told_with_the_name_of_a_mirror_that_is_not_first(server, second):
    first, other = both(server, second).every
    plain, told = object_of(0), object_of(0)
    run(first, [plain])
    run(other, [told])
    assert plain.etag.startswith('"')
    assert told.etag == f"gcs {plain.etag}"


@served
def test_it_is_known_how_long_answers_take_and_whom_they_are_of(root, many):
    with Faulty(root, latency=0.05) as far:
        requests = [object_of(number) for number in range(3)]
        multi = run(default(far), requests, many=many)
        assert multi.latency >= 0.05
        assert multi.buckets == [BUCKET]


@pytest.mark.parametrize(
    ("mirror", "holds"),
    [
        ("aws", True),
        ("gcs", True),
        ("s3://idc-open-data/below", True),
        (resolve_mirror("aws", engine="obstore"), False),
        (resolve_mirror("aws", engine="fsspec"), False),
        (resolve_mirror("aws", engine="s5cmd"), False),
        (resolve_mirror("aws", storage_options={"anon": False}), False),
        ("https://here.example/{aws_bucket}", False),
        ("sample", False),
    ],
)
def test_who_names_an_engine_or_a_secret_is_not_asked_by_libcurl(mirror, holds):
    assert asks_many(resolve_mirror(mirror)) == holds


@served
def test_a_mirror_may_lie_below_a_folder(server, root, many):
    mirror = replace(default(server), root=f"s3://{BUCKET}/{BELOW}")
    assert asks_many(mirror)
    request = object_of(1)
    run(mirror, [request], many=many)
    assert request.error is None
    assert asked(server) == {f"{BUCKET}/{BELOW}/{request.key}": 1}
    path = root / BUCKET / BELOW / request.key
    assert request.data == path.read_bytes()
    # Its listings are not asked for so, and say the same.
    server.script()
    found = Series(SMALL, BUCKET, instanceCount=2, size=2 * SIZE)
    (listing,) = list_all([found], mirror)
    assert [one.size for one in listing.instances] == [SIZE, SIZE]
    assert all(one.url.startswith(mirror.root) for one in listing.instances)


# Answers that no store gives.


class _Saying(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        # Who does not trust this place asks for nothing.
        if line:
            name = unquote(line.split()[1].decode().rsplit("/", 1)[1])
            self.wfile.write(self.server.answers[name])


class Saying(socketserver.ThreadingTCPServer):
    """Says what it is to say for the last part of a path, and hangs up."""

    daemon_threads = True
    scheme = "http"

    def __init__(self, answers: dict[str, bytes]) -> None:
        super().__init__((HOST, 0), _Saying)
        self.answers = answers
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{HOST}:{self.server_address[1]}"

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        super().__exit__(*exception)


def chunked(data: bytes, size: int) -> bytes:
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
PARTIAL = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n"
NOISE = bytes(range(256)) * 8


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
}


@pytest.fixture(scope="module")
def saying() -> Iterator[Saying]:
    answers = {name: odd.answer for name, odd in SAID.items()}
    with Saying(answers) as running:
        yield running


@pytest.mark.parametrize("name", SAID)
def test_an_answer_is_what_its_head_says(saying, name, many):
    odd = SAID[name]
    request = Asked(f"{SMALL}/{name}", *odd.part)
    run(default(saying, read_timeout=5), [request], many=many)
    assert request.data == odd.data
    assert request.etag == odd.etag
    if odd.comes:
        assert request.error is None
    else:
        assert type(request.error) is StorageError


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    """A certificate that signs itself, and its key."""
    openssl = executable("openssl")
    if openssl is None:
        pytest.skip("openssl was not found; it comes with: apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", "own.key", "-out", "own.pem", "-subj", "/CN=A hospital"),
            *("-addext", f"subjectAltName=IP:{HOST}"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "own.pem"


@pytest.mark.parametrize(
    ("variable", "comes"),
    [("AWS_CA_BUNDLE", True), ("SSL_CERT_FILE", True), (None, False)],
)
def test_who_signed_a_store_is_trusted_where_the_environment_says_so(
    authority, monkeypatch, variable, comes, many
):
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(authority))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, authority.with_name("own.key"))
    with Saying({"x": OK + b"\r\nabc"}) as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        running.scheme = "https"
        request = Asked("x")
        run(default(running), [request], many=many)
    assert (request.error is None) == comes
    assert request.data == (b"abc" if comes else b"")


# A page of a listing.

S3 = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
GCS = " xmlns='http://doc.s3.amazonaws.com/2006-03-01'"
ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


def page(inner: str = "", space: str = S3, before: str = "") -> bytes:
    text = f"{before}<ListBucketResult{space}>{inner}</ListBucketResult>"
    return text.encode()


def content(key: str = "k", size: object = 3, etag: str | None = '"e"') -> str:
    tag = "" if etag is None else f"<ETag>{escape(etag)}</ETag>"
    # A line that ends in \r would be read as \n.
    name = escape(key, {"\r": "&#13;"})
    return f"<Contents><Key>{name}</Key><Size>{size}</Size>{tag}</Contents>"


def more(token: str) -> str:
    return (
        f"<IsTruncated>true</IsTruncated>"
        f"<NextContinuationToken>{escape(token)}</NextContinuationToken>"
    )


ONE = [Stored("k", 3, '"e"')]
LISTINGS = {
    "of S3": (page(content()), ONE, ""),
    "of GCS": (page(content(), GCS), ONE, ""),
    "of no namespace": (page(content(), ""), ONE, ""),
    "of one that nobody knows": (page(content(), ' xmlns="urn:x"'), ONE, ""),
    "with a declaration": (
        page(content(), before='<?xml version="1.0" encoding="UTF-8"?>\n'),
        ONE,
        "",
    ),
    "with what else is said of it": (
        page(f"<Name>b</Name><KeyCount>1</KeyCount>{content()}<CommonPrefixes/>"),
        ONE,
        "",
    ),
    "empty": (page(), [], ""),
    "of a bucket of that name": (page("<Name>b</Name><Prefix>p/</Prefix>"), [], ""),
    "without tags": (page(content(etag=None)), [Stored("k", 3)], ""),
    "with an empty tag": (page(content(etag="")), [Stored("k", 3)], ""),
    "in its order": (
        page(content("b") + content("a")),
        [Stored("b", 3, '"e"'), Stored("a", 3, '"e"')],
        "",
    ),
    "and more": (page(content() + more("a/b+c==")), ONE, "a/b+c=="),
    "and more, of no namespace": (page(content() + more("t"), ""), ONE, "t"),
    "nothing, and more": (page(more("t")), [], "t"),
    "and no more": (
        page(content() + more("t").replace("true", "false")),
        ONE,
        "",
    ),
    "large": (page(content(size=5 * 10**12)), [Stored("k", 5 * 10**12, '"e"')], ""),
}
NO_LISTINGS = {
    "and more, not said how": page(content() + "<IsTruncated>true</IsTruncated>"),
    "and more, by an empty token": page(content() + more("")),
    "nothing": b"",
    "a page": b"<!doctype html><html><body>Sign in</body></html>",
    "a page that is XML": b"<html><body>Sign in</body></html>",
    "an error": b"<Error><Code>SlowDown</Code></Error>",
    "a listing within another thing": b"<a>" + page(content()) + b"</a>",
    "entities": page(content("k").replace("k", "&b;", 0), before=ENTITIES),
    "an entity in a key": page(content("k").replace(">k<", ">&b;<"), before=ENTITIES),
    "a file of this machine": page(
        content("k").replace(">k<", ">&f;<"),
        before='<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>',
    ),
    "JSON": b'{"kind": "storage#objects"}',
    "half": page(content())[:-10],
    "two": page(content()) * 2,
    "noise": NOISE,
    "noughts": bytes(100),
    "no size": page("<Contents><Key>k</Key></Contents>"),
    "a size that is no number": page(content(size="many")),
    "a size with a point": page(content(size="1.5")),
    "a size that is empty": page(content(size="")),
    "a size of another alphabet": page(content(size="\u0663")),
    "a size that nothing has": page(content(size=10**40)),
    "entities in UTF-16": (
        '<?xml version="1.0" encoding="UTF-16"?>'
        f"{ENTITIES}<ListBucketResult><Contents><Key>&b;</Key><Size>1</Size>"
        "</Contents></ListBucketResult>"
    ).encode("utf-16"),
    "a size below nothing": page(content(size=-5)),
    "a size as Python writes it": page(content(size="1_000")),
    "an object without a name": page("<Contents><Size>1</Size></Contents>"),
    "an encoding that nobody knows": page(
        before='<?xml version="1.0" encoding="no-such"?>'
    ),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_page_of_a_listing_is_read(name):
    data, found, token = LISTINGS[name]
    assert listed(data, "s3://b/p/") == (found, token)


@pytest.mark.parametrize("name", NO_LISTINGS)
def test_what_is_no_listing_is_not_read_as_one(name):
    data = NO_LISTINGS[name]
    with pytest.raises(StorageError, match="s3://b/p/") as caught:
        listed(data, "s3://b/p/")
    assert caught.value.details["url"] == "s3://b/p/"


LETTERS = st.characters(
    exclude_categories=["Cs", "Cc"],
    exclude_characters="\ufffe\uffff",
    include_characters="\t\n\r&<>\"'",
)
WORDS = st.text(LETTERS | st.sampled_from("&<>\"'!-]["), min_size=1)


@given(
    objects=st.lists(
        st.builds(
            Stored, WORDS, st.integers(0, 10**18 - 1), st.none() | WORDS.map(repr)
        )
    ),
    token=st.just("") | WORDS.map(repr),
    space=st.sampled_from([S3, GCS, ""]),
)
def test_what_is_written_in_a_page_is_read_back(objects, token, space):
    inner = "".join(content(one.key, one.size, one.etag) for one in objects)
    inner += more(token) if token else ""
    assert listed(page(inner, space), "s3://b/p/") == (objects, token)
    pretty = page(inner, space).replace(b"<Contents>", b"\n  <Contents>\n  ")
    assert listed(pretty, "s3://b/p/") == (objects, token)


# Listings of many series.


def parts_of(root: Path, *series: str) -> list[Series]:
    return list(cohort(root, *series).manifest().parts())


def keys_of(root: Path, *series: str) -> list[list[str]]:
    return [[f"{one}/{path.name}" for path in files(root, one)] for one in series]


def keys(found) -> list[list[str]]:
    return [[instance.key for instance in one.instances] for one in found]


@served
def test_a_series_of_more_than_a_page_comes_whole_and_in_order(server, root):
    (found,) = list_all(parts_of(root, PAGES), default(server))
    assert found.errors == ()
    assert keys([found]) == keys_of(root, PAGES)
    assert {instance.size for instance in found.instances} == {1}
    assert asked(server) == {f"list:{PAGES}/": -(-PAGED // PAGE)}
    assert {request["status"] for request in server.requests()} == {200}


@served
@pytest.mark.parametrize(
    "fault",
    [
        {"do": "status", "status": 503},
        {"do": "close", "after": 500},
        {"do": "html"},
        {"do": "half"},
        {"do": "say", "old": "<NextContinuationToken>", "new": "<NextToken>"},
    ],
    ids=lambda rule: rule["do"],
)
def test_a_page_that_does_not_come_costs_the_series_once_more(server, root, fault):
    if fault["do"] == "say":
        fault = {**fault, "skip": 0}
        fault["old"], fault["new"] = "NextContinuationToken", "NextToken"
    else:
        fault = {**fault, "skip": 1}
    server.script({"on": f"list:{PAGES}/", **fault})
    (found,) = list_all(parts_of(root, PAGES), default(server))
    assert found.errors == ()
    assert keys([found]) == keys_of(root, PAGES)
    assert asked(server)[f"list:{PAGES}/"] == 4 - (fault["do"] == "say")


@served
@pytest.mark.timeout(20)
def test_pages_that_lead_to_themselves_end(server, root):
    server.script(
        {
            "on": f"list:{SMALL}/",
            "do": "say",
            "old": "<IsTruncated>false</IsTruncated>",
            "new": "<IsTruncated>true</IsTruncated>"
            "<NextContinuationToken>0</NextContinuationToken>",
            "times": EVER,
        }
    )
    (found,) = list_all(parts_of(root, SMALL), default(server))
    assert found.instances == ()
    (error,) = found.errors
    assert isinstance(error, IntegrityError)
    assert "others follow" in str(error)
    assert asked(server)[f"list:{SMALL}/"] == 2


@pytest.mark.parametrize("digits", ["0" * 5000, "1" * 20])
def test_a_range_of_more_digits_than_a_size_has_is_refused(digits):
    said = {"Content-Range": f"bytes {digits}-9/10"}
    with pytest.raises(StorageError, match="a range was asked for"):
        check_range("s3://b/k", said, int(digits[:20]), 206)


@served
def test_the_page_that_follows_is_asked_for_letter_by_letter(tmp_path):
    series = put_series(tmp_path, 1, [1] * (PAGE - 1))
    # The server goes on after the last key of a page.
    for name in ("x +&=%#.dcm", "y.dcm"):
        (tmp_path / BUCKET / series / name).write_bytes(b"1")
    with Faulty(tmp_path) as store:
        (found,) = list_all(parts_of(tmp_path, series), default(store))
        assert found.errors == ()
        assert keys([found]) == keys_of(tmp_path, series)
        assert asked(store) == {f"list:{series}/": 2}


@served
def test_objects_come_in_the_order_of_their_keys_whatever_that_of_the_page(
    server, root
):
    old, new = f"{SMALL}/{uuid(0)}.dcm", f"{SMALL}/x.dcm"
    server.script({"on": f"list:{SMALL}/", "do": "say", "old": old, "new": new})
    (found,) = list_all(parts_of(root, SMALL), default(server))
    ((_, *expected),) = keys_of(root, SMALL)
    assert keys([found]) == [[*expected, new]]
    assert asked(server) == {f"list:{SMALL}/": 1}


@served
def test_listings_come_in_the_order_of_the_parts_whatever_comes_first(server, root):
    late = SERIES[0], SERIES[7]
    server.script(
        *({"on": f"list:{one}/", "do": "status", "status": 503} for one in late)
    )
    found = [*list_all(parts_of(root, *SERIES), default(server))]
    assert keys(found) == keys_of(root, *SERIES)
    order = [request["target"] for request in server.requests()]
    # They came after all others, and each other was asked for once.
    assert sorted(order[-2:]) == sorted(f"list:{one}/" for one in late)
    assert asked(server) == {f"list:{one}/": 1 + (one in late) for one in SERIES}


@served
@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_listings_are_those_of_other_engines(server, root, engine):
    parts = parts_of(root, *SERIES, PAGES)
    there = [*list_all(parts, default(server))]
    assert there == [*list_all(parts, at(server, engine))]
    assert all(one.etag for found in there for one in found.instances)


@served
def test_half_a_listing_is_found_and_asked_for_again(server, root):
    server.script(
        {"on": f"list:{SMALL}/", "do": "half"},
        {"on": f"list:{TINY}/", "do": "half", "times": EVER},
    )
    once, always, other = list_all(parts_of(root, SMALL, TINY, PAGES), default(server))
    assert keys([once, other]) == keys_of(root, SMALL, PAGES)
    assert once.errors == other.errors == ()
    assert always.instances == ()
    (error,) = always.errors
    assert isinstance(error, IntegrityError)
    assert error.details["count"] == MANY // 2
    assert asked(server)[f"list:{SMALL}/"] == asked(server)[f"list:{TINY}/"] == 2


@served
@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ({"do": "status", "status": 403}, AccessDenied),
        ({"do": "status", "status": 404}, ObjectNotFound),
        ({"do": "say", "old": ".dcm", "new": ".txt"}, ObjectNotFound),
        ({"do": "html"}, StorageError),
        ({"do": "status", "status": 503}, StorageError),
    ],
    ids=["403", "404", "other names", "a page", "503"],
)
def test_a_series_that_cannot_be_listed_is_told_in_its_place(server, root, rule, kind):
    victim = SERIES[3]
    server.script({"on": f"list:{victim}/", "times": EVER, **rule})
    mirror = default(server, retry_timeout=0.3)
    found = [*list_all(parts_of(root, *SERIES), mirror)]
    assert found[3].instances == ()
    (error,) = found[3].errors
    assert isinstance(error, kind)
    assert victim in str(error)
    others = [*found[:3], *found[4:]]
    assert keys(others) == keys_of(root, *SERIES[:3], *SERIES[4:])
    assert not any(one.errors for one in others)


@served
def test_of_what_is_known_nothing_is_asked(server, root):
    known = knowing(cohort(root, *SERIES), root, *SERIES)
    server.script()
    parts = list(known._located(["crdc_series_uuid"]).parts())
    assert all(part.objects is not None for part in parts)
    found = [*list_all(parts, default(server))]
    assert keys(found) == keys_of(root, *SERIES)
    assert server.requests() == []
    # Nor does it keep others from being listed.
    mixed = [*parts[:5], *parts_of(root, *SERIES[5:])]
    assert keys(list_all(mixed, default(server))) == keys_of(root, *SERIES)
    assert asked(server) == {f"list:{one}/": 1 for one in SERIES[5:]}


@pytest.fixture(scope="module")
def long_root(tmp_path_factory) -> Path:
    """More series than may be listed while one is waited for."""
    root = tmp_path_factory.mktemp("long")
    for number in range(LISTED_AHEAD + 6):
        put_series(root, number, [1])
    return root


ALL = [uuid(number) for number in range(LISTED_AHEAD + 6)]


@served
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "rule",
    [
        {"do": "nothing"},
        {"do": "status", "status": 503},
        {"do": "half", "times": EVER},
    ],
    ids=["no", "once", "always"],
)
def test_more_series_than_may_wait_for_one_are_listed(long_root, rule):
    with Faulty(long_root) as store:
        store.script({"on": f"list:{ALL[0]}/", **rule})
        first, *others = list_all(parts_of(long_root, *ALL), default(store))
    assert keys(others) == keys_of(long_root, *ALL[1:])
    assert bool(first.errors) == (rule.get("times", 1) is EVER)


@served
@pytest.mark.timeout(20)
def test_more_series_than_may_wait_are_known(long_root):
    found = knowing(cohort(long_root, *ALL), long_root, *ALL)
    parts = list(found._located(["crdc_series_uuid"]).parts())
    nobody = SimpleNamespace(endpoint="http://127.0.0.1:9")
    assert keys(list_all(parts, default(nobody))) == keys_of(long_root, *ALL)


@served
def test_where_the_first_mirror_fails_another_lists(server, second, root):
    server.script({"on": "*", "do": "status", "status": 503, "times": EVER})
    mirror = both(server, second)
    series = [*SERIES, PAGES, *SERIES, *SERIES]
    found = [*list_all(parts_of(root, *series), mirror)]
    assert keys(found) == keys_of(root, *series)
    # Some of these were asked for with patience, and others together.
    assert len(second.requests()) == len(series) + 1
    every = [one for series in found for one in series.instances]
    assert all(one.etag.startswith('gcs "') for one in every)
    # They are called as at the first.
    assert all(one.url.startswith(f"s3://{BUCKET}/") for one in every)
    # The first is asked once for each, and with patience until it is known to fail.
    assert set(asked(server)) <= {f"list:{one}/" for one in [*SERIES, PAGES]}


@served
def test_where_the_first_mirror_lacks_one_another_lists_that(server, second, root):
    server.script(
        {"on": f"list:{SERIES[2]}/", "do": "status", "status": 404, "times": EVER}
    )
    found = [*list_all(parts_of(root, *SERIES), both(server, second))]
    assert keys(found) == keys_of(root, *SERIES)
    assert asked(second) == {f"list:{SERIES[2]}/": 1}
    tags = [one.etag.partition('"')[0] for series in found for one in series.instances]
    expected = [
        "gcs " if series == SERIES[2] else ""
        for series in SERIES
        for _ in files(root, series)
    ]
    assert tags == expected


@served
def test_what_is_not_listed_in_time_is_said(server, root):
    server.script({"on": f"list:{SERIES[1]}/", "do": "stall", "times": EVER})
    mirror = default(server, read_timeout=60)

    def ended() -> str | None:
        there = len(server.requests()) == len(SERIES)
        return "somebody wants no more" if there else None

    found = [*list_all(parts_of(root, *SERIES), mirror, ended)]
    assert len(found) == len(SERIES)
    assert found[1].instances == ()
    assert "was not listed: somebody wants no more" in str(found[1].errors[0])
    for one, true in zip(keys(found), keys_of(root, *SERIES), strict=True):
        assert one in ([], true)


@served
def test_what_is_not_to_be_listed_is_not_asked_for(server, root):
    found = list_all(parts_of(root, *SERIES), default(server), lambda: "it is late")
    assert ["it is late" in str(one.errors[0]) for one in found] == [True] * 30
    assert len(server.requests()) <= 1


@served
def test_who_wants_no_more_listings_leaves_no_thread(server, root):
    server.script({"on": f"list:{SERIES[1]}/", "do": "stall", "times": EVER})
    others = set(threading.enumerate())
    found = list_all(parts_of(root, *SERIES), default(server, read_timeout=60))
    with closing(found):
        assert next(found).instances
    until(lambda: not own_threads() - others)


def own_threads() -> set[threading.Thread]:
    return {
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("intake-idc-copy")
    }


@served
@pytest.mark.parametrize(
    "part",
    [Series("../x", BUCKET), Series(SMALL, "a/../b"), Series("", BUCKET)],
    ids=["series", "bucket", "nothing"],
)
def test_a_name_that_is_none_is_not_asked_for(server, root, part):
    with pytest.raises(RequestError, match="no name of a series or a bucket"):
        [*list_all([*parts_of(root, SMALL), part], default(server))]
    assert set(asked(server)) <= {f"list:{SMALL}/"}


# Copies.


def objects_asked(server: Faulty) -> Counter[str]:
    """How often each object was asked for; listings are left out."""
    found = asked(server)
    return Counter({on: many for on, many in found.items() if "list:" not in on})


ONCE: dict[str, dict] = {
    "503": {"do": "status", "status": 503},
    "503 for a while": {
        "do": "status",
        "status": 503,
        "headers": {"Retry-After": "900"},
    },
    "500": {"do": "status", "status": 500},
    "404": {"do": "status", "status": 404},
    "403": {"do": "status", "status": 403},
    "412": {"do": "status", "status": 412},
    "end in the middle": {"do": "close", "after": 1000},
    "end before the first byte": {"do": "close", "after": 0},
    "reset in the middle": {"do": "reset", "after": 1000},
    "shorter": {"do": "short"},
    "longer": {"do": "long"},
    "much longer": {"do": "long", "by": 10**6},
    "a page": {"do": "html"},
    "a page of its size": {"do": "html", "length": SIZE + 13},
    "another version": {"do": "replace"},
    "another host": {"do": "redirect", "to": "http://127.0.0.1:9/x"},
}
"""What happens once, each to another object of one series."""
assert [*ONCE].index("a page of its size") == 13


@served
def test_what_fails_once_costs_one_request_more_and_nothing_else(
    either, root, tmp_path
):
    server, checksum = either, "crc32c" if either.latency else None
    rules = [{"on": named(SMALL, n), **rule} for n, rule in enumerate(ONCE.values())]
    server.script(*rules)
    found = cohort(root, SMALL).reading_from(default(server))
    callback = Callback()
    code, report = copied(
        found, tmp_path / "copy", callback=callback, checksum=checksum
    )
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)
    assert left(tmp_path / "copy") == []
    again = {name: report.retries.get(n, 0) for n, name in enumerate(ONCE)}
    assert again == dict.fromkeys(ONCE, 1)
    assert sum(report.retries.values()) == len(ONCE)
    assert objects_asked(server) == {
        named(SMALL, n): 1 + (n < len(ONCE)) for n in range(OBJECTS)
    }
    # Bytes that had to be written again are counted once.
    total = sum(path.stat().st_size for path in files(root, SMALL))
    assert callback.value == callback.size == report.fetched_size == total


@served
def test_what_fails_by_chance_is_counted_exactly(either, root, tmp_path):
    server = either
    server.script(
        {"on": f"list:{SMALL}/", "do": "nothing", "times": EVER},
        {"on": "*", "do": "status", "status": 503, "share": 0.3},
    )
    found = cohort(root, SMALL).reading_from(default(server, retry_timeout=20))
    code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)
    requests = objects_asked(server)
    again = {
        number: requests[named(SMALL, number)] - 1
        for number in range(OBJECTS)
        if requests[named(SMALL, number)] > 1
    }
    assert again
    assert dict(report.retries) == again


@served
def test_a_line_that_is_dead_is_taken_for_no_answer(server, root, tmp_path):
    # libcurl itself sends again what it sent on a line that was dead by then.
    rules = [{"on": named(SMALL, n), "do": "reset"} for n in range(0, OBJECTS, 3)]
    server.script(*rules)
    found = cohort(root, SMALL).reading_from(default(server))
    code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)
    assert objects_asked(server) == {
        named(SMALL, n): 1 + (not n % 3) for n in range(OBJECTS)
    }
    assert set(report.retries.values()) <= {1}
    assert set(report.retries) <= set(range(0, OBJECTS, 3))


@served
def test_failures_now_and_then_do_not_end_what_is_asked_together(
    server, root, tmp_path
):
    # In all more than end it where they come in a row.
    failing = range(0, MANY, 5)
    assert len(failing) > VAIN
    server.script(
        *({"on": named(TINY, n), "do": "status", "status": 500} for n in failing)
    )
    found = cohort(root, TINY).reading_from(default(server, retry_timeout=20))
    code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert dict(report.retries) == dict.fromkeys(failing, 1)
    order = [one["target"] for one in server.requests() if "list:" not in one["target"]]
    # Nothing is asked for again before all were asked for.
    assert len({*order[:MANY]}) == MANY
    assert sorted(order[MANY:]) == [named(TINY, n) for n in failing]


@served
def test_a_store_that_serves_nobody_is_not_asked_for_each(server, root, tmp_path):
    # A mirror of its own: that it is given up is remembered.
    found = cohort(root, TINY).reading_from(default(server, retry_timeout=0.5))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    server.script({"on": "*", "do": "status", "status": 503, "times": EVER})
    threads = 8
    began = time.monotonic()
    with pytest.raises(TransferError) as caught:
        transfer.run(plan, limits=transfer.Limits(threads=threads))
    seconds = time.monotonic() - began
    assert caught.value.exit_code == 4
    assert len(caught.value.report.failures) == MANY
    assert held(tmp_path / "copy") == {}
    assert left(tmp_path / "copy") == []
    requests = objects_asked(server)
    # Those in flight together when as many had failed as are enough.
    together = VAIN + threads - 1
    # With patience: those that it takes to give up the store, and those who had begun
    # by then; trials, ever fewer; and what all of them may ask again, at most.
    patient = 2 * threads + (MANY.bit_length() + seconds)
    again = Budget()._most + seconds * Budget()._rate
    assert sum(requests.values()) <= together + patient + again
    assert len(requests) < MANY / 2


@served
def test_a_store_that_serves_again_is_asked_for_many_again(either, root, tmp_path):
    server = either
    found = cohort(root, TINY).reading_from(default(server, retry_timeout=15))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    down = VAIN + 4
    server.script({"on": "*", "do": "status", "status": 503, "times": down})
    report = transfer.run(plan)
    assert held(tmp_path / "copy") == truth(root, TINY)
    assert report.counts["fetched"] == MANY
    # It costs as many requests as were answered so, and none besides.
    assert sum(objects_asked(server).values()) == MANY + down
    assert sum(report.retries.values()) == down


@served
def test_an_outage_that_ends_is_survived(either, root, tmp_path):
    server, do = either, "reset" if either.latency else "status"
    found = cohort(root, SMALL, TINY).reading_from(default(server, retry_timeout=16))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    server.script({"on": "*", "do": do, "status": 503, "seconds": 0.2})
    report = transfer.run(plan)
    assert report.counts["failed"] == 0
    assert held(tmp_path / "copy") == truth(root, SMALL, TINY)


@pytest.fixture
def by_ranges(monkeypatch):
    """What is large is small here."""
    monkeypatch.setattr(large_objects, "SPLIT", 2 * RANGE)
    monkeypatch.setattr(large_objects, "RANGE", RANGE)


def ranges_asked(server: Faulty, on: str) -> Counter[str]:
    return Counter(
        request["range"] for request in server.requests() if request["target"] == on
    )


TEN = [f"bytes={start}-{min(start + RANGE, BIG) - 1}" for start in range(0, BIG, RANGE)]


@served
@pytest.mark.usefixtures("by_ranges")
@pytest.mark.parametrize("skip", [0, 4, len(TEN) - 1])
@pytest.mark.parametrize(
    "rule",
    [
        {"do": "nothing"},
        {"do": "status", "status": 503},
        {"do": "close", "after": 20_000},
        {"do": "reset", "after": 20_000},
        {"do": "short"},
        {"do": "long", "by": 10},
        {"do": "whole"},
        {"do": "html"},
        {"do": "retag"},
    ],
    ids=lambda rule: rule["do"],
)
def test_a_range_that_fails_once_is_the_one_that_is_asked_for_again(
    server, root, tmp_path, rule, skip
):
    server.script({"on": named(LARGE), "skip": skip, **rule})
    found = cohort(root, LARGE, SMALL).reading_from(default(server))
    callback = Callback()
    code, report = copied(found, tmp_path / "copy", callback=callback)
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, LARGE, SMALL)
    assert left(tmp_path / "copy") == []
    ranges = ranges_asked(server, named(LARGE))
    assert set(ranges) == set(TEN)
    failed = int(rule["do"] != "nothing")
    assert sum(ranges.values()) == len(TEN) + failed
    assert dict(report.retries) == ({0: 1} if failed else {})
    assert callback.value == report.fetched_size


@served
@pytest.mark.usefixtures("by_ranges")
@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"do": "retag"}, "changed"),
        ({"do": "status", "status": 404}, "no object"),
        ({"do": "whole"}, "range"),
        ({"do": "long", "by": 10}, "bytes from"),
    ],
    ids=["another version", "gone", "not heeded", "too long"],
)
def test_of_an_object_that_lacks_a_range_nothing_is_there(
    server, root, tmp_path, rule, reason
):
    server.script({"on": named(LARGE), "skip": 6, "times": EVER, **rule})
    found = cohort(root, LARGE, SMALL).reading_from(default(server))
    callback = Callback()
    code, report = copied(found, tmp_path / "copy", callback=callback)
    assert code == 4
    assert held(tmp_path / "copy") == truth(root, SMALL)
    assert left(tmp_path / "copy") == []
    (failure,) = report.failures
    assert failure.url == f"s3://{named(LARGE)}"
    assert reason in failure.reason
    # What came of it is taken back.
    assert callback.value == report.fetched_size
    assert max(ranges_asked(server, named(LARGE)).values()) <= 2


@served
@pytest.mark.parametrize("split", [False, True], ids=["whole", "by ranges"])
@pytest.mark.parametrize("after", [None, 1000])
def test_a_copy_that_is_cancelled_leaves_no_part(
    either, root, tmp_path, monkeypatch, split, after
):
    server = either
    if split:
        monkeypatch.setattr(large_objects, "SPLIT", 2 * RANGE)
        monkeypatch.setattr(large_objects, "RANGE", RANGE)
    target = tmp_path / "copy"
    mirror = default(server, read_timeout=60, retry_timeout=90)
    found = cohort(root, LARGE, SMALL).reading_from(mirror)
    plan = found.plan(target, dir_template=TEMPLATE)
    good = [
        {"on": named(SMALL, number), "do": "nothing", "times": EVER}
        for number in range(3)
    ]
    server.script(*good, {"on": "*", "do": "stall", "after": after, "times": EVER})
    cancel = threading.Event()

    def watch() -> None:
        try:
            until(lambda: len(left(target)) > 3 and len(server.requests()) > 12)
        finally:
            cancel.set()

    watching = threading.Thread(target=watch)
    watching.start()
    others = set(threading.enumerate())
    with pytest.raises(TransferError) as caught:
        transfer.run(plan, limits=transfer.Limits(cancel=cancel))
    watching.join()
    assert left(target) == []
    there = held(target)
    assert there.items() <= truth(root, SMALL).items()
    assert len(there) <= 3
    failures = caught.value.report.failures
    assert len(failures) + len(there) == OBJECTS + 1
    assert {failure.reason for failure in failures} == {"the copy was cancelled"}
    until(lambda: not own_threads() - others)
    assert held(target) == there


@served
@pytest.mark.parametrize(
    ("times", "code", "requests"), [(1, 0, 2), (2, 0, 3), (EVER, 5, 3)]
)
def test_an_object_that_is_not_the_one_known_is_asked_for_again(
    server, root, tmp_path, times, code, requests
):
    server.script({"on": named(SMALL, 5), "do": "flip", "times": times})
    found = knowing(cohort(root, SMALL).reading_from(default(server)), root, SMALL)
    callback = Callback()
    ended, report = copied(found, tmp_path / "copy", callback=callback)
    assert ended == code
    there, true = held(tmp_path / "copy"), truth(root, SMALL)
    lost = {f"{SMALL}/{uuid(5)}.dcm"} if code else set()
    assert there == {path: true[path] for path in true.keys() - lost}
    assert left(tmp_path / "copy") == []
    assert [failure.url for failure in report.failures] == [
        f"s3://{BUCKET}/{path}" for path in lost
    ]
    assert callback.value == report.fetched_size
    assert objects_asked(server) == {
        named(SMALL, n): requests if n == 5 else 1 for n in range(OBJECTS)
    }


@served
@pytest.mark.usefixtures("by_ranges")
@pytest.mark.parametrize("checksum", [None, "crc32c", "md5"])
def test_what_is_said_of_a_copy_is_the_same_for_each_way_of_asking(
    server, root, tmp_path, checksum
):
    # Nothing of it comes the first time it is asked for together.
    gone = {"do": "status", "status": 404, "times": EVER}
    tables, hashes = [], []
    for number, mirror in enumerate([default(server), at(server, "obstore")]):
        server.script(*({"on": named(SMALL, n), **gone} for n in (3, 17)))
        found = cohort(root, SMALL, LARGE, PAGES).reading_from(mirror)
        code, report = copied(found, tmp_path / f"{number}", checksum=checksum)
        assert code == 4
        table = report.to_table()
        kept = [name for name in table.column_names if name not in ("path", "retries")]
        tables.append(table.select(kept))
        hashes.append(dict(report.hashes.items()))
        assert report.mirrors == ("aws",)
        assert report.by_mirror == {"aws": len(table) - 2}
    assert tables[0].equals(tables[1])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == (0 if checksum is None else len(tables[0]) - 2)
    assert held(tmp_path / "0") == held(tmp_path / "1")
    assert len(held(tmp_path / "0")) == OBJECTS + 1 + PAGED - 2


@served
def test_of_a_store_that_is_far_many_things_are_asked_at_once(stores, root, tmp_path):
    far = rested(stores[2])
    found = cohort(root, TINY, LARGE).reading_from(default(far))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    far.script()
    assert transfer.run(plan).retries == {}
    assert held(tmp_path / "copy") == truth(root, TINY, LARGE)
    assert far.busiest() > MANY_TOGETHER
    assert set(objects_asked(far).values()) == {1}


@served
@pytest.mark.usefixtures("by_ranges")
def test_objects_of_every_size_come_whole(either, root, tmp_path):
    found = cohort(root, EDGE, SPLIT).reading_from(default(either))
    callback = Callback()
    code, report = copied(
        found, tmp_path / "copy", callback=callback, checksum="blake2b"
    )
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, EDGE, SPLIT)
    assert callback.value == report.fetched_size
    assert report.retries == {}
    # Once more, where nothing of it is hashed.
    rested(either)
    assert copied(found, tmp_path / "again")[0] == 0
    assert held(tmp_path / "again") == truth(root, EDGE, SPLIT)
    sizes = [path.stat().st_size for one in (EDGE, SPLIT) for path in files(root, one)]
    many = [1 if size <= 2 * RANGE else -(-size // RANGE) for size in sizes]
    assert list(objects_asked(either).values()).count(1) == many.count(1)
    assert sum(objects_asked(either).values()) == sum(many)


@served
@pytest.mark.usefixtures("by_ranges")
def test_a_store_that_tells_no_tags_is_copied_from(root, tmp_path):
    with Faulty(root, tags="none") as store:
        found = cohort(root, SMALL, LARGE).reading_from(default(store))
        code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL, LARGE)
    assert report.retries == {}


@served
def test_no_more_is_asked_for_at_once_than_a_copy_has_threads(stores, root, tmp_path):
    far, threads = rested(stores[2]), 3
    found = cohort(root, SMALL, EDGE).reading_from(default(far))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    rested(far)
    transfer.run(plan, limits=transfer.Limits(threads=threads))
    assert held(tmp_path / "copy") == truth(root, SMALL, EDGE)
    assert far.busiest() <= threads


@served
def test_copies_side_by_side_do_not_disturb_each_other(server, root, tmp_path):
    server.script(
        {"on": f"list:{SMALL}/", "do": "nothing", "times": EVER},
        {"on": f"list:{TINY}/", "do": "nothing", "times": EVER},
        {"on": "*", "do": "status", "status": 503, "share": 0.1},
    )
    codes = {}

    def work(number: int) -> None:
        found = cohort(root, SMALL, TINY)
        found = found.reading_from(default(server, retry_timeout=20))
        codes[number], _ = copied(found, tmp_path / str(number))

    working = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    assert codes == {0: 0, 1: 0, 2: 0}
    for number in range(3):
        assert held(tmp_path / str(number)) == truth(root, SMALL, TINY)


@served
def test_a_store_that_is_silent_once_is_asked_again(server, root, tmp_path):
    server.script({"on": named(SMALL, 3), "do": "stall"})
    found = cohort(root, SMALL).reading_from(default(server, read_timeout=1))
    code, report = copied(found, tmp_path / "copy")
    assert (code, dict(report.retries)) == (0, {3: 1})
    assert held(tmp_path / "copy") == truth(root, SMALL)


@served
@pytest.mark.usefixtures("by_ranges")
def test_a_store_that_asks_for_time_is_given_it(server, root, tmp_path):
    rule = {"do": "status", "status": 503, "headers": {"Retry-After": "1"}}
    server.script(
        {"on": f"list:{LARGE}/", **rule},
        {"on": named(SMALL, 3), **rule},
        {"on": named(LARGE), "skip": 2, **rule},
    )
    found = cohort(root, SMALL, LARGE).reading_from(default(server, retry_timeout=20))
    code, report = copied(found, tmp_path / "copy")
    assert (code, dict(report.retries)) == (0, {3: 1, OBJECTS: 1})
    times: dict[tuple[str, str], list[float]] = {}
    for request in server.requests():
        what = request["target"], request["range"]
        times.setdefault(what, []).append(request["at"])
    twice = {what: times for what, times in times.items() if len(times) > 1}
    # The listing, the object, and one range.
    assert len(twice) == 3
    assert all(again - first >= 1 for first, again in twice.values())


@served
def test_an_error_of_who_is_told_of_the_bytes_ends_the_copy(either, root, tmp_path):
    class Failing(Callback):
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > 10 * SIZE:
                msg = "the display is gone"
                raise LookupError(msg)

    found = cohort(root, SMALL).reading_from(default(either))
    others = set(threading.enumerate())
    with pytest.raises(LookupError, match="the display is gone"):
        copied(found, tmp_path / "copy", callback=Failing())
    assert left(tmp_path / "copy") == []
    until(lambda: not own_threads() - others)
    assert held(tmp_path / "copy").items() <= truth(root, SMALL).items()


@served
def test_a_copy_that_is_there_is_not_asked_for_again(server, root, tmp_path):
    found = cohort(root, SMALL).reading_from(default(server))
    assert copied(found, tmp_path / "copy")[0] == 0
    assert set(objects_asked(server).values()) == {1}
    victim = files(root, SMALL)[4]
    (tmp_path / "copy" / SMALL / victim.name).write_bytes(b"short")
    server.script()
    code, report = copied(found, tmp_path / "copy")
    assert (code, report.counts["replaced"]) == (0, 1)
    assert objects_asked(server) == {named(SMALL, 4): 1}
    assert held(tmp_path / "copy") == truth(root, SMALL)


@served
def test_where_the_first_mirror_fails_another_serves_the_copy(
    server, second, root, tmp_path
):
    found = cohort(root, SMALL, TINY).reading_from(both(server, second))
    plan = found.plan(tmp_path / "copy", dir_template=TEMPLATE)
    server.script({"on": "*", "do": "status", "status": 503, "times": EVER})
    report = transfer.run(plan)
    assert held(tmp_path / "copy") == truth(root, SMALL, TINY)
    assert report.by_mirror == {"aws": 0, "gcs": OBJECTS + MANY}
    # The first is asked no more, once it is known to fail.
    assert len(objects_asked(server)) < MANY


@served
def test_what_a_cache_holds_is_not_asked_for(server, root, tmp_path):
    mirror = resolve_mirror(default(server), cache=tmp_path / "cache")
    (listing,) = list_all(parts_of(root, SMALL), mirror)
    for instance in listing.instances[::2]:
        read_instance(instance, mirror)
    server.script()
    found = cohort(root, SMALL).reading_from(mirror)
    code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(root, SMALL)
    assert objects_asked(server) == {named(SMALL, n): 1 for n in range(1, OBJECTS, 2)}
    assert report.retries == {}


@served
def test_an_object_in_small_pieces_is_copied_at_the_first_go(root, tmp_path):
    (path, *_) = files(root, SMALL)
    (tmp_path / "store" / BUCKET / SMALL).mkdir(parents=True)
    answer = chunked(path.read_bytes(), 1) + b"0\r\n\r\n"
    own = tmp_path / "store"
    (own / BUCKET / SMALL / path.name).write_bytes(path.read_bytes())
    known = knowing(cohort(own, SMALL), own, SMALL)
    with Saying({path.name: answer}) as store:
        found = known.reading_from(default(store, retry_timeout=0.1))
        code, report = copied(found, tmp_path / "copy")
    assert code == 0
    assert held(tmp_path / "copy") == truth(own, SMALL)
    assert report.retries == {}


# What goes wrong, all at once.


class Fault(NamedTuple):
    """A fault of an answer, and what its request is told."""

    rule: dict
    kind: type[StorageError] | None = StorageError
    """None where it came, as far as can be seen there."""
    said: Mapping[str, Any] = MappingProxyType({})
    """Among the details of the error."""
    part: tuple[int, int | None] = (0, None)
    got: int | None = None
    """Bytes that were taken."""


FAULTS = {
    "404": Fault({"do": "status", "status": 404}, ObjectNotFound, {"status": 404}),
    "410": Fault({"do": "status", "status": 410}, ObjectNotFound, {"status": 410}),
    "401": Fault({"do": "status", "status": 401}, AccessDenied, {"status": 401}),
    "403": Fault({"do": "status", "status": 403}, AccessDenied, {"status": 403}),
    "412": Fault({"do": "status", "status": 412}, ObjectChanged, {"status": 412}),
    "500": Fault(
        {"do": "status", "status": 500}, said={"status": 500, "transient": True}
    ),
    "501": Fault(
        {"do": "status", "status": 501}, said={"status": 501, "transient": False}
    ),
    "503": Fault(
        {"do": "status", "status": 503},
        said={"status": 503, "transient": True, "retry_after": 0},
    ),
    "503 for a while": Fault(
        {"do": "status", "status": 503, "headers": {"Retry-After": "7"}},
        said={"status": 503, "transient": True, "retry_after": 7},
    ),
    "429 for a while": Fault(
        {"do": "status", "status": 429, "headers": {"retry-AFTER": " 5 "}},
        said={"status": 429, "transient": True, "retry_after": 5},
    ),
    "503 until a day that is over": Fault(
        {
            "do": "status",
            "status": 503,
            "headers": {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"},
        },
        said={"status": 503, "retry_after": 0},
    ),
    "another host": Fault({"do": "redirect"}, said={"status": 307, "transient": False}),
    "another host, for ever": Fault(
        {"do": "redirect", "status": 301}, said={"status": 301, "transient": False}
    ),
    "reset before the answer": Fault({"do": "reset"}, got=0),
    "reset in the middle": Fault({"do": "reset", "after": 1000}),
    "end before the first byte": Fault({"do": "close", "after": 0}, got=0),
    "end in the middle": Fault({"do": "close", "after": 1000}, got=1000),
    "stall before the answer": Fault({"do": "stall"}, got=0),
    "stall in the middle": Fault({"do": "stall", "after": 1000}, got=1000),
    "end in the middle of a range": Fault(
        {"do": "close", "after": 5}, part=(100, 200), got=5
    ),
    "the whole for a range": Fault(
        {"do": "whole"}, said={"transient": False}, part=(100, 200), got=0
    ),
    "the whole for a range from the start": Fault(
        {"do": "whole"}, said={"transient": False}, part=(0, 200), got=0
    ),
    "a page for a range": Fault(
        {"do": "html"}, said={"transient": False}, part=(100, None), got=0
    ),
    "a range after the end": Fault(
        {"do": "nothing"}, said={"status": 416}, part=(10**6, None), got=0
    ),
    "a trickle": Fault({"do": "trickle", "rate": 5_000}, None),
    "another version": Fault({"do": "retag"}, None),
}
"""Each of another object, all in flight at once."""


@pytest.fixture(scope="module", autouse=True)
def playing(root) -> Iterator[dict[str, Any]]:
    """Play all faults at once, in both ways, while other tests run.

    It takes libcurl some seconds to be sure that a store has gone silent.
    """
    rules, found, stopped = [], {False: {}, True: {}}, threading.Event()
    with Faulty(root) as store, Faulty(root) as canary:
        for number, (name, fault) in enumerate(FAULTS.items()):
            start, stop = fault.part
            for requests in found.values():
                requests[name] = object_of(number, start=start, stop=stop)
            to = f"{canary.endpoint}/{named(SMALL, number)}"
            rules.append(
                {"on": named(SMALL, number), "to": to, "times": EVER, **fault.rule}
            )
        for number in range(len(FAULTS), OBJECTS):
            for requests in found.values():
                requests[f"good {number}"] = object_of(number)
        store.script(*rules)
        mirror = default(store, read_timeout=1)
        threads = [
            threading.Thread(
                target=run,
                args=(mirror, requests.values()),
                kwargs={"many": many, "stopped": stopped},
            )
            for many, requests in found.items()
        ]
        for thread in threads:
            thread.start()
        yield {"found": found, "threads": threads, "canary": canary}
        stopped.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def told(playing, many) -> dict[str, Asked]:
    """What became of requests in flight together: those of the faults, and others."""
    for thread in playing["threads"]:
        thread.join()
    return playing["found"][many]


@served
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_its_request_with_what_it_is(told, root, name):
    fault, request = FAULTS[name], told[name]
    error = request.error
    assert type(error) is (fault.kind or type(None))
    start, stop = fault.part
    number = [*FAULTS].index(name)
    true = files(root, SMALL)[number].read_bytes()[start:stop]
    # Whatever goes wrong, what is taken is of the object; never the page of an error.
    assert true.startswith(request.data)
    if fault.got is not None:
        assert len(request.data) == fault.got
    if error is None:
        assert request.data == true
        assert request.etag
        return
    if "status" in fault.said:
        assert request.data == b""
    said = {name: error.details.get(name) for name in fault.said}
    assert said == fault.said
    url = f"s3://{named(SMALL, number)}"
    assert error.details["url"] == url
    assert url in str(error)


@served
def test_a_fault_is_none_of_others_in_flight(told, root):
    for number, path in enumerate(files(root, SMALL)):
        if number >= len(FAULTS):
            request = told[f"good {number}"]
            assert request.error is None
            assert request.data == path.read_bytes()


@served
def test_no_other_host_is_asked(told, playing):
    assert told["another host"].ends
    assert playing["canary"].requests() == []


@served
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("reset before the answer", "reset"),
        ("stall before the answer", "nothing came"),
        ("stall in the middle", "nothing came"),
        ("end in the middle", "missing"),
        ("the whole for a range", "a range was asked for"),
        ("another host", "leads to another host"),
    ],
)
def test_an_error_says_what_happened(told, name, says):
    assert says in str(told[name].error)


@served
@pytest.mark.parametrize(
    "name",
    [
        "reset before the answer",
        "stall before the answer",
        "reset in the middle",
        "stall in the middle",
        "end in the middle",
    ],
)
def test_a_line_that_breaks_is_no_last_word(told, name):
    assert told[name].error.details.get("transient", True)


# Both ways, whatever the tasks.


class Task(NamedTuple):
    """An object, and what becomes of its request."""

    number: int
    kind: str


class _Object(Asked):
    """A request that leaves its task where it does not come."""

    seconds = 1.0
    """That its file takes: so long that there may be more threads for it."""

    def __init__(self, together, task: Task) -> None:
        super().__init__(f"{SMALL}/{uuid(task.number % 8)}.dcm")
        self._together, self._task = together, task

    def end(self, etag: str | None, error: StorageError | None) -> None:
        super().end(etag, error)
        if error is not None:
            self._together.leave(self._task, error)
        else:
            self._together.came((self._task, "came"), BUCKET, self.seconds)


def requested(together, task: Task) -> _Object | None:
    if task.kind == "done":
        together.tell((task, "done"))
        return DONE
    if task.kind == "dropped":
        raise StoppedError
    if task.kind == "refused":
        msg = "no such name"
        raise RequestError(msg)
    if task.kind == "no room":
        raise OSError(28, "no space left")
    return None if task.kind == "left" else _Object(together, task)


KINDS_OF_TASKS = st.sampled_from(
    ["asked"] * 6 + ["later", "done", "dropped", "refused", "no room", "left"]
)


@served
@settings(max_examples=40)
@given(
    kinds=st.lists(KINDS_OF_TASKS, max_size=120),
    most=st.integers(1, 20),
    size=st.sampled_from([1, 10**6]),
    failing=st.sets(st.integers(0, 7), max_size=8),
    far=st.booleans(),
)
def test_each_task_is_done_once_whatever_becomes_of_the_others(
    stores, kinds, most, size, failing, far
):
    server = stores[0]
    server.script(
        *(
            {"on": named(SMALL, n), "do": "status", "status": 503, "times": EVER}
            for n in failing
        )
    )
    tasks = [Task(number, kind) for number, kind in enumerate(kinds)]
    ways = Ways(
        requested,
        lambda task: (task, "patient"),
        lambda found: (found[0], "again"),
        lambda found: found[0].number % 2 == 0,
    )
    found = gather(
        (LATER if task.kind == "later" else task for task in tasks),
        default(server),
        ways,
        size=size,
        most=(most, 4),
        latency=lambda: 0.02 if far else None,
        stopped=threading.Event(),
    )
    results = list(found)
    told = dict(results)
    assert len(told) == len(results)
    for task in tasks:
        how = told.get(task)
        if task.kind in ("later", "dropped"):
            # One is nothing, and of the other it is seen how far the first way went.
            assert how in ((None,) if task.kind == "later" else (None, "patient"))
        elif task.kind == "done":
            assert how in ("done", "patient")
        elif task.kind in ("refused", "no room", "left"):
            assert how == "patient"
        elif task.number % 8 in failing:
            assert how in ("again", "patient")
        else:
            assert how in ("came", "patient")
    requests = objects_asked(server)
    expected = Counter(
        named(SMALL, task.number % 8)
        for task, how in told.items()
        if how in ("came", "again")
    )
    assert requests == expected
    assert server.busiest() <= most


def flown(store: Faulty, tasks: list[Task], most: int) -> list[int]:
    """Do tasks; give how many requests were in flight when each was sent."""
    flying, found = 0, []

    class Counted(_Object):
        seconds = 0.0

        def end(self, etag: str | None, error: StorageError | None) -> None:
            nonlocal flying
            flying -= 1
            super().end(etag, error)

    def counted(together, task: Task) -> Counted:
        nonlocal flying
        found.append(flying)
        flying += 1
        return Counted(together, task)

    ways = Ways(
        counted,
        lambda task: (task, "patient"),
        lambda told: told,
        lambda _told: True,
    )
    results = gather(
        (LATER if task.kind == "later" else task for task in tasks),
        default(store),
        ways,
        size=1,
        most=(most, 4),
        latency=lambda: 0.02,
        stopped=threading.Event(),
    )
    assert len(list(results)) == sum(task.kind != "later" for task in tasks)
    return found


@served
def test_a_store_that_is_busy_is_asked_for_less_and_for_more_again(stores):
    most, failing, good = 8, 16, 200
    far = rested(stores[2])
    rule = {"do": "status", "status": 503, "times": failing}
    far.script({"on": named(SMALL, 0), **rule})
    tasks = [Task(0, "asked")] * failing
    tasks += [Task(1 + number % 7, "asked") for number in range(good)]
    before = flown(far, tasks, most)
    # At first as many as there may be; one after the other when these were refused.
    assert before[:most] == [*range(most)]
    assert set(before[most : failing + 1]) == {0}
    # Each that comes makes room for one more, up to as many as there may be.
    assert all(one <= number + 1 for number, one in enumerate(before[failing:]))
    assert max(before[failing:]) == most - 1


@served
def test_a_task_that_is_not_there_yet_takes_no_place_of_others(stores):
    most = 8
    tasks = [Task(number, "asked") for number in range(2 * most)]
    tasks += [Task(number, ("asked", "later")[number % 2]) for number in range(100)]
    tasks += [Task(number, "asked") for number in range(100)]
    before = flown(rested(stores[2]), tasks, most)
    assert max(before[-50:]) == most - 1


# Threads.


def test_what_is_told_besides_comes_with_the_results():
    threads: Threads[int, int]

    def work(item: int) -> int:
        threads.tell([10 * item, 10 * item + 1])
        return item

    threads = Threads(work, 3)
    found = Counter(threads.run(range(1, 100)))
    told = [value for item in range(1, 100) for value in (10 * item, 10 * item + 1)]
    assert found == Counter([*range(1, 100), *told])


@pytest.mark.parametrize(("most", "there"), [(5, 5), (64, 8)])
def test_there_are_as_many_threads_as_their_pace_says_and_no_more(most, there):
    class Doubling:
        def wanted(self, threads: int) -> int:
            return min(8, 2 * threads)

    seen: set[str] = set()
    gate = threading.Barrier(there)

    def work(item: int) -> int:
        seen.add(threading.current_thread().name)
        if item >= 8:
            # All that there are to be meet here; fewer never would.
            gate.wait(SOON)
        return item

    threads = Threads(work, most, 1, pace=Doubling())
    assert sorted(threads.run(range(8 + there))) == [*range(8 + there)]
    assert len(seen) == there


# Bytes into a file.

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


# Rows of a table.

ROWS = st.integers(1, 30)


def table_of(values: list[tuple]) -> pa.Table:
    texts, longs, numbers, packed, truths = zip(*values, strict=True)
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "long": pa.array(longs, pa.large_string()),
            "number": pa.array(numbers, pa.int64()),
            "packed": pa.array(packed, pa.binary(4)),
            "truth": pa.array(truths, pa.bool_()),
            "list": pa.array([[n] for n in numbers], pa.large_list(pa.int64())),
        }
    ).replace_schema_metadata({"said": "of it"})


VALUES = st.tuples(
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.binary(min_size=4, max_size=4),
    st.none() | st.booleans(),
)


@given(
    chunks=st.lists(st.lists(VALUES, min_size=1, max_size=12), min_size=1, max_size=3),
    data=st.data(),
)
def test_rows_are_taken_as_arrow_takes_them(chunks, data):
    import numpy as np

    table = pa.concat_tables([table_of(values) for values in chunks])
    cut = data.draw(st.integers(0, len(table) - 1))
    table = table.slice(cut)
    rows = st.integers(0, len(table) - 1)
    places = data.draw(st.lists(rows, max_size=20) | st.permutations(range(len(table))))
    places = np.array(places, np.int64)
    found = taken(table, places)
    found.validate(full=True)
    assert found.equals(table.take(pa.array(places)), check_metadata=True)


@pytest.mark.parametrize(
    ("rows", "count"),
    [(FEW, FEW), (FEW + 1, 10), (10, FEW + 1), (FEW + 1, FEW + 1), (5, 0), (0, 0)],
)
def test_few_rows_and_many_are_taken_alike(rows, count):
    import numpy as np

    values = [
        (str(n), f"{n}", n, n.to_bytes(4, "big"), n % 2 == 0) for n in range(rows)
    ]
    table = table_of(values) if rows else table_of([(None,) * 5]).slice(1)
    places = np.random.default_rng(0).integers(0, max(rows, 1), count)
    found = taken(table, places)
    assert found.equals(table.take(pa.array(places, pa.int64())), check_metadata=True)
