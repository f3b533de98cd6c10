"""Connections: how a store is reached, whom it is taken for, and how often.

Stores on sockets of this machine close, are silent, or are somebody else. Of each it is
counted which connection was asked for what.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import itertools
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from asking import (
    Asked,
    Line,
    Saying,
    Talking,
    answer,
    chunked,
    default,
    open_sockets,
    run,
    until,
)
from copied import BUCKET
from servers import HOST

from intake_idc import resolve_mirror
from intake_idc.errors import StorageError
from intake_idc.storage import connections
from intake_idc.storage.endpoints import trusted
from intake_idc.storage.multi import BUFFER

pytestmark = [pytest.mark.timeout(60)]

OWN = answer(b"own", b'ETag: "x"')
NAME = "store.example"
"""A host that has the addresses that a test gives it."""
CA_VARIABLES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")


def serve(line: Line) -> None:
    """Answer all that is asked for."""
    while line.hear():
        line.say(OWN)


def own(*requests: Asked) -> bool:
    """Whether each has what its store had to say."""
    return all(
        (request.data, request.etag, request.error) == (b"own", '"x"', None)
        for request in requests
    )


def named(*names: str) -> list[Asked]:
    return [Asked(name) for name in names]


# One after the other.


def test_what_is_asked_one_after_the_other_needs_one_connection():
    requests = named(*map(str, range(50)))
    with Talking(serve) as store:
        run(default(store), requests, most=1)
    assert own(*requests)
    assert store.asked == [(1, request.key) for request in requests]


def test_there_are_no_more_connections_than_there_were_requests_at_once():
    requests = named(*map(str, range(50)))
    with Talking(serve) as store:
        run(default(store), requests, most=4)
    assert own(*requests)
    assert {number for number, _ in store.asked} <= {1, 2, 3, 4}


def test_a_request_is_written_as_stores_read_it():
    plain, odd, part, rest, listing = requests = [
        Asked("a/b.dcm"),
        Asked("a b%2F?#\r\nX: \u00fc"),
        Asked("part", 0, 7),
        Asked("rest", 5),
        Asked("a/"),
    ]
    listing.query = "list-type=2&prefix=a%2F"
    with Talking(serve) as store:
        store.name = "localhost"
        run(default(store), requests, most=1)
        host = f"Host: localhost:{store.server_address[1]}\r\n"
    usual = f" HTTP/1.1\r\n{host}User-Agent: intake-idc\r\nAccept: */*\r\n"
    assert store.heads == [
        f"GET /{BUCKET}/a/b.dcm{usual}\r\n",
        f"GET /{BUCKET}/a%20b%252F%3F%23%0D%0AX%3A%20%C3%BC{usual}\r\n",
        f"GET /{BUCKET}/part{usual}Range: bytes=0-6\r\n\r\n",
        f"GET /{BUCKET}/rest{usual}Range: bytes=5-\r\n\r\n",
        f"GET /{BUCKET}?list-type=2&prefix=a%2F{usual}\r\n",
    ]
    assert own(plain, odd, listing)
    # They were given the whole.
    assert part.data == rest.data == b""
    assert part.error is not None
    assert rest.error is not None


@pytest.mark.parametrize("path", ["/minio", "/minio/", "/a b/c%2Fd/"])
def test_a_store_may_be_below_a_path(path):
    (request,) = named("a/b.dcm")
    with Talking(serve) as store:
        below = SimpleNamespace(endpoint=store.endpoint + path)
        run(default(below), [request])
    asked = path.rstrip("/").replace(" ", "%20")
    assert store.heads[0].startswith(f"GET {asked}/{BUCKET}/a/b.dcm HTTP/1.1\r\n")
    assert own(request)


# Closed while it was free.


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_line_that_ends_when_it_is_asked_again_is_taken_for_no_answer(how):
    def talk(line: Line) -> None:
        line.hear()
        line.say(OWN)
        if line.number > 1:
            serve(line)
        elif line.hear() and how == "reset":
            line.reset()

    requests = named("first", "second", "third")
    with Talking(talk) as store:
        run(default(store), requests, most=1)
    assert own(*requests)
    # It is sent again once, by another.
    assert store.asked == [(1, "first"), (1, "second"), (2, "second"), (2, "third")]


def test_a_line_that_ends_before_it_is_asked_again_is_replaced():
    gone = threading.Event()

    def talk(line: Line) -> None:
        line.hear()
        line.say(OWN)
        if line.number == 1:
            line.line.shutdown(socket.SHUT_RDWR)
            gone.set()
        else:
            serve(line)

    first, second = named("first", "second")

    def requests() -> Iterator[Asked]:
        yield first
        # Nothing of the first is read before it is asked for the second.
        assert gone.wait(20)
        yield second

    with Talking(talk) as store:
        run(default(store), requests(), most=1)
    assert own(first, second)
    assert store.asked == [(1, "first"), (2, "second")]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_new_line_that_ends_without_an_answer_is_an_error(how):
    def talk(line: Line) -> None:
        line.hear()
        if how == "reset":
            line.reset()

    first, second = named("first", "second")
    with Talking(talk) as store:
        run(default(store), [first, second], most=1)
    for request in (first, second):
        assert type(request.error) is StorageError
        assert request.data == b""
    assert store.asked == [(1, "first"), (2, "second")]


def test_a_request_is_sent_again_once_and_no_more():
    def talk(line: Line) -> None:
        line.hear()
        if line.number == 1:
            line.say(OWN)
            line.hear()

    first, second = named("first", "second")
    with Talking(talk) as store:
        run(default(store), [first, second], most=1)
    assert own(first)
    assert type(second.error) is StorageError
    assert store.asked == [(1, "first"), (1, "second"), (2, "second")]


def test_what_is_sent_again_is_not_sent_to_another_line_that_was_kept():
    met = threading.Barrier(2)

    def talk(line: Line) -> None:
        line.hear()
        if line.number < 3:
            # Two lines, of which each is kept and then ends without an answer.
            met.wait(20)
            line.say(OWN)
            line.hear()
        else:
            line.say(OWN)

    first, second, third = every = named("first", "second", "third")

    def requests() -> Iterator[Asked | None]:
        yield first
        yield second
        while not (first.ends and second.ends):
            yield None
        yield third

    with Talking(talk) as store:
        run(default(store), requests())
    assert own(*every)
    numbers = [number for number, name in store.asked if name == "third"]
    assert numbers in ([1, 3], [2, 3])


def test_the_latency_of_a_store_is_that_of_its_fastest_answer():
    def talk(line: Line) -> None:
        while name := line.hear():
            if name == "slow":
                time.sleep(0.7)
            line.say(OWN)

    with Talking(talk) as store:
        multi = run(default(store, read_timeout=20), named("x", "slow"), most=1)
    assert 0 < multi.latency < 0.7


@pytest.mark.parametrize("said", [b"H", OWN[:-1], OWN[:9]])
def test_what_began_to_come_is_not_sent_again(said):
    def talk(line: Line) -> None:
        line.hear()
        line.say(OWN)
        line.hear()
        line.say(said)

    first, second = named("first", "second")
    with Talking(talk) as store:
        run(default(store), [first, second], most=1)
    assert own(first)
    assert type(second.error) is StorageError
    assert store.asked == [(1, "first"), (1, "second")]


def test_a_store_that_is_silent_on_a_line_that_was_kept_is_not_asked_again():
    over = threading.Event()

    def talk(line: Line) -> None:
        line.hear()
        line.say(OWN)
        line.hear()
        over.wait(20)

    first, second = named("first", "second")
    with Talking(talk) as store:
        run(default(store, read_timeout=0.2), [first, second], most=1)
        over.set()
    assert own(first)
    assert "nothing came for 0.2 seconds" in str(second.error)
    assert store.asked == [(1, "first"), (1, "second")]


def test_a_store_that_says_something_now_and_then_is_not_silent():
    said = answer(bytes(10))

    def talk(line: Line) -> None:
        line.hear()
        line.say(*(said[at : at + 8] for at in range(0, len(said), 8)), pause=0.2)

    (request,) = named("x")
    with Talking(talk) as store:
        run(default(store, read_timeout=0.5), [request])
    assert request.error is None
    assert request.data == bytes(10)


NEXT = answer(b"not its own")


@pytest.mark.parametrize("said", [NEXT, NEXT[:30], b"x", b"\r\n"])
def test_what_comes_on_a_line_that_is_free_is_no_answer_to_the_next(said):
    there = threading.Event()

    def talk(line: Line) -> None:
        name = line.hear()
        line.say(OWN)
        if name == "first":
            # Long enough for the answer to be over when it comes.
            until(lambda: first.ends)
            line.say(said)
            there.set()
        serve(line)

    first, second = named("first", "second")

    def requests() -> Iterator[Asked]:
        yield first
        assert there.wait(20)
        yield second

    with Talking(talk) as store:
        run(default(store), requests(), most=1)
    assert own(first, second)
    assert store.asked == [(1, "first"), (2, "second")]


@pytest.mark.parametrize("said", [NEXT, b""], ids=["bytes", "end"])
def test_a_line_that_ends_while_others_are_at_work_is_not_used_again(said):
    spoke = threading.Event()

    def talk(line: Line) -> None:
        name = line.hear()
        if name == "long":
            # It is over when the other line is known to be.
            until(spoke.is_set)
            until(lambda: looked > 3)
        line.say(OWN)
        if name == "short":
            until(lambda: short.ends)
            if said:
                line.say(said)
            else:
                line.line.shutdown(socket.SHUT_WR)
            spoke.set()
        serve(line)

    short, long, third, fourth = every = named("short", "long", "third", "fourth")
    looked = 0

    def requests() -> Iterator[Asked | None]:
        nonlocal looked
        yield short
        yield long
        while not long.ends:
            looked += spoke.is_set()
            yield None
        yield third
        yield fourth

    with Talking(talk) as store:
        run(default(store), requests())
    assert own(*every)
    lines = {name: number for number, name in store.asked}
    assert len(store.asked) == 4
    assert {lines["third"], lines["fourth"]} == {lines["long"], 3}


# Addresses.


@pytest.fixture
def known(monkeypatch):
    """Give a host its addresses, or the error of who looks it up; note each time."""
    looked: list[int] = []

    def know(*found: tuple, error: OSError | None = None) -> list[int]:
        true = socket.getaddrinfo

        def look(host, port, *words, **more):
            if host != NAME:
                return true(host, port, *words, **more)
            looked.append(port)
            if error is not None:
                raise error
            kinds = {2: socket.AF_INET, 4: socket.AF_INET6}
            kind = socket.SOCK_STREAM
            return [(kinds[len(one)], kind, 6, "", one) for one in found]

        monkeypatch.setattr(socket, "getaddrinfo", look)
        return looked

    return know


@contextmanager
def deaf(host: str) -> Iterator[tuple]:
    """A place that neither answers nor refuses: whoever comes has to wait."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as place, socket.socket(family) as guest:
        try:
            place.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        place.listen(0)
        guest.connect(place.getsockname())
        with socket.socket(family) as probe:
            probe.settimeout(0.1)
            with suppress(TimeoutError):
                probe.connect(place.getsockname())
                pytest.skip("who does not listen is not waited for on this system")
        yield place.getsockname()


@contextmanager
def empty(host: str) -> Iterator[tuple]:
    """A place where nobody listens."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as place:
        try:
            place.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        yield place.getsockname()


@pytest.mark.parametrize("place", [deaf, empty])
@pytest.mark.parametrize("many", [1, 3])
def test_where_one_kind_of_address_does_not_answer_the_other_does(
    known, monkeypatch, place, many
):
    requests = named(*map(str, range(20)))
    first, *others = requests

    def following() -> Iterator[Asked]:
        yield first
        # Which kind answers is known now: none waits for the other.
        monkeypatch.setattr(connections, "TRIES", (60.0, 60.0))
        yield from others

    # Each answer is the last of its line.
    with place("::1") as bad, Saying(dict.fromkeys(map(str, range(20)), OWN)) as store:
        store.name = NAME
        looked = known(*[bad] * many, store.server_address)
        run(default(store), following(), most=1)
    assert own(*requests)
    assert len(store.asked) == 20
    assert looked == [store.server_address[1]]


def test_the_kinds_of_addresses_are_tried_by_turns(known):
    (request,) = named("x")
    with deaf("::1") as bad, Talking(serve) as store:
        store.name = NAME
        # One after the other of the same kind would take longer than there is.
        known(*[bad] * 50, store.server_address)
        run(default(store), [request])
    assert own(request)


@pytest.mark.parametrize("place", [deaf, empty])
def test_a_host_that_answers_nowhere_is_an_error_of_each(known, monkeypatch, place):
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.5)
    requests = named("a", "b", "c")
    with place("::1") as one, place(HOST) as other:
        known(one, other)
        nobody = SimpleNamespace(endpoint=f"http://{NAME}")
        run(default(nobody), requests)
    for request in requests:
        assert type(request.error) is StorageError
        says = "no connection came about in" if place is deaf else "refused"
        assert says in str(request.error)
        assert "Errno" not in str(request.error)


def test_the_last_address_may_take_all_the_time_there_is(known, monkeypatch):
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(connections, "TRIES", (0.1, 0.1))
    (request,) = named("x")
    with deaf("::1") as one, deaf(HOST) as other:
        known(one, other)
        run(default(SimpleNamespace(endpoint=f"http://{NAME}")), [request])
    assert "no connection came about in 0.5 seconds" in str(request.error)


def test_of_one_kind_as_well_the_next_is_tried_in_time(known):
    names = [*map(str, range(4))]
    requests = named(*names)
    with deaf(HOST) as bad, Saying(dict.fromkeys(names, OWN)) as store:
        store.name = NAME
        known(bad, store.server_address)
        run(default(store), requests, most=2)
    assert own(*requests)


@pytest.mark.parametrize("turn", [1, -1])
def test_of_some_addresses_of_a_kind_one_that_refuses_is_passed_by(known, turn):
    names = [*map(str, range(6))]
    requests = named(*names)
    with empty(HOST) as bad, Saying(dict.fromkeys(names, OWN)) as store:
        store.name = NAME
        known(*[bad, store.server_address][::turn])
        run(default(store), requests, most=2)
    assert own(*requests)


def test_the_addresses_of_a_host_share_the_work(known):
    names = [*map(str, range(9))]
    requests = named(*names)
    answers = dict.fromkeys(names, OWN)
    with Saying(answers) as one, Saying(answers) as two, Saying(answers) as three:
        stores = [one, two, three]
        looked = known(*(store.server_address for store in stores))
        run(default(SimpleNamespace(endpoint=f"http://{NAME}")), requests, most=1)
    assert own(*requests)
    # From the second connection on by turns.
    assert sorted(len(store.asked) for store in stores) == [2, 3, 4] or {
        len(store.asked) for store in stores
    } == {3}
    assert looked == [80]


@pytest.mark.parametrize(
    ("place", "port"),
    [(f"http://{NAME}", 80), (f"https://{NAME}/", 443), (f"https://{NAME}:9", 9)],
)
def test_a_name_that_nobody_has_is_an_error_of_each_and_looked_up_once(
    known, place, port
):
    looked = known(error=socket.gaierror(socket.EAI_NONAME, "no such name"))
    requests = named("a", "b", "c")
    run(default(SimpleNamespace(endpoint=place)), requests)
    for request in requests:
        assert type(request.error) is StorageError
        assert "no such name" in str(request.error)
    assert looked == [port]


@pytest.mark.parametrize("place", ["http://a..b", f"https://{'a' * 64}.example"])
def test_a_name_that_none_can_be_is_an_error_of_each(place):
    requests = named("a", "b")
    run(default(SimpleNamespace(endpoint=place)), requests)
    assert [type(request.error) for request in requests] == [StorageError] * 2


# TLS.


def certificate(path: Path, name: str = HOST, days: tuple[int, int] = (-1, 1)) -> Path:
    """Write a certificate that signs itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    whose = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, path.stem)])
    start, stop = (
        dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=day) for day in days
    )
    try:
        found = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        found = x509.DNSName(name)
    signed = (
        x509.CertificateBuilder()
        .subject_name(whose)
        .issuer_name(whose)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(stop)
        .add_extension(x509.SubjectAlternativeName([found]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(private)
    return path


def serving(path: Path, newest: str = "TLSv1_3") -> ssl.SSLContext:
    """What a store needs to be taken for the one of a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion[newest]
    context.load_cert_chain(path, path.with_suffix(".key"))
    return context


@pytest.fixture
def authority(tmp_path, monkeypatch) -> Path:
    """A certificate that is trusted besides those of the system."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    path = certificate(tmp_path / "own.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    return path


VERSIONS = pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])


@pytest.mark.parametrize(
    ("variable", "comes"),
    [("AWS_CA_BUNDLE", True), ("SSL_CERT_FILE", True), (None, False)],
)
def test_who_signed_a_store_is_trusted_where_the_environment_says_so(
    tmp_path, monkeypatch, variable, comes
):
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = certificate(tmp_path / "own.pem")
    if variable is not None:
        monkeypatch.setenv(variable, str(path))
    (request,) = named("x")
    with Talking(serve, serving(path)) as store:
        run(default(store), [request])
    assert own(request) == comes
    if not comes:
        assert "CERTIFICATE_VERIFY_FAILED" in str(request.error)
        assert request.data == b""
        # Nobody else is told what was to be asked for.
        assert store.asked == []


def test_whom_amazons_variable_names_is_trusted_besides_others(tmp_path, monkeypatch):
    usual, other = (certificate(tmp_path / f"{name}.pem") for name in ("usual", "own"))
    # OpenSSL takes it for the system's own.
    monkeypatch.setenv("SSL_CERT_FILE", str(usual))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(other))
    for path in (usual, other):
        (request,) = named("x")
        with Talking(serve, serving(path)) as store:
            run(default(store), [request])
        assert own(request)
    assert trusted(resolve_mirror("aws")) == str(other)
    # Google's tools do not read it.
    assert trusted(resolve_mirror("gcs")) == str(usual)


@pytest.mark.parametrize(
    ("name", "days", "says"),
    [
        ("127.0.0.2", (-1, 1), "VERIFY_FAILED"),
        (NAME, (-1, 1), "VERIFY_FAILED"),
        (HOST, (-3, -1), "VERIFY_FAILED"),
        (HOST, (1, 3), "VERIFY_FAILED"),
    ],
    ids=["another address", "a name", "over", "not yet"],
)
def test_who_is_not_the_store_is_asked_for_nothing(
    tmp_path, authority, name, days, says
):
    path = certificate(tmp_path / "other.pem", name, days)
    authority.write_bytes(authority.read_bytes() + path.read_bytes())
    requests = named("x", "y")
    with Talking(serve, serving(path)) as store:
        run(default(store), requests)
    for request in requests:
        assert type(request.error) is StorageError
        assert says in str(request.error)
        assert request.data == b""
    assert store.asked == []


def test_a_store_is_called_by_its_name(tmp_path, authority, known):
    path = certificate(tmp_path / "named.pem", NAME)
    authority.write_bytes(authority.read_bytes() + path.read_bytes())
    called: list[str] = []
    context = serving(path)
    context.sni_callback = lambda _line, name, _context: called.append(name)
    context.set_alpn_protocols(["h2", "http/1.1"])
    (request,) = named("x")

    def talk(line: Line) -> None:
        called.append(line.line.selected_alpn_protocol())
        serve(line)

    with Talking(talk, context, NAME) as store:
        known(store.server_address)
        run(default(store), [request])
    assert own(request)
    assert called == [NAME, "http/1.1"]


def test_a_bundle_that_is_not_there_is_an_error_of_each(authority, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.with_name("missing.pem")))
    requests = named("x", "y")
    with Talking(serve, serving(authority)) as store:
        run(default(store), requests)
    assert [type(request.error) for request in requests] == [StorageError] * 2
    assert store.asked == []


@VERSIONS
def test_the_next_handshake_goes_on_with_the_session_of_the_first(authority, version):
    names = ["first", "second", "third"]
    requests = named(*names)
    context = serving(authority, version)
    with Saying(dict.fromkeys(names, OWN), context) as store:
        run(default(store), requests, most=1)
    assert own(*requests)
    assert store.resumed == [False, True, True]


@VERSIONS
def test_objects_of_every_size_come_by_tls(authority, version):
    sizes = [0, 1, 16_384, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 7]
    noise = bytes(range(251)) * 4_000
    requests = named(*map(str, sizes))

    def talk(line: Line) -> None:
        for turn in itertools.count():
            name = line.hear()
            if not name:
                return
            said, step = answer(noise[: int(name)]), 10_000 + 3_001 * (turn % 4)
            line.say(*(said[at : at + step] for at in range(0, len(said), step)))

    with Talking(talk, serving(authority, version)) as store:
        run(default(store), requests, most=1)
    for size, request in zip(sizes, requests, strict=True):
        assert request.error is None
        assert request.data == noise[:size]


def test_a_line_by_tls_is_kept_and_replaced(authority):
    def talk(line: Line) -> None:
        for _ in range(3):
            line.hear()
            line.say(OWN)

    requests = named(*"abcdef")
    with Talking(talk, serving(authority)) as store:
        run(default(store), requests, most=1)
    assert own(*requests)
    assert [name for _, name in store.asked] == [*"abcdef"]
    assert {number for number, _ in store.asked} == {1, 2}


HEAD = b"HTTP/1.1 200 OK\r\n"
CUT = {
    "in the head": HEAD,
    "in a body of a length": answer(b"abc")[:-1],
    "in pieces": chunked(b"abc", 3),
    "in a body of no length": HEAD + b"\r\nab",
}


@VERSIONS
@pytest.mark.parametrize(
    "where",
    CUT,
)
def test_who_cuts_a_line_by_tls_does_not_cut_the_object(authority, where, version):
    # Whoever is between can close a line; only the store can say that it ends.
    (request,) = named("x")
    with Saying({"x": CUT[where]}, serving(authority, version)) as store:
        run(default(store), [request])
    assert type(request.error) is StorageError


@VERSIONS
def test_who_resets_a_line_by_tls_does_not_end_the_object(authority, version):
    def talk(line: Line) -> None:
        line.hear()
        line.say(HEAD + b"\r\nab")
        # Without a word, so that what was sent may be lost.
        off = struct.pack("ii", 1, 0)
        line.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
        socket.socket(fileno=line.line.detach()).close()

    (request,) = named("x")
    with Talking(talk, serving(authority, version)) as store:
        run(default(store), [request])
    assert type(request.error) is StorageError


@VERSIONS
def test_a_store_that_says_by_tls_that_it_ends_has_said_all(authority, version):
    def talk(line: Line) -> None:
        line.hear()
        line.say(HEAD + b"\r\nabc")
        line.line.settimeout(1)
        line.line.unwrap()

    (request,) = named("x")
    with Talking(talk, serving(authority, version)) as store:
        run(default(store), [request])
    assert request.error is None
    assert request.data == b"abc"


def test_records_that_do_not_fit_together_come_all(authority):
    # As many as are taken at once, and one more, of which a part would fit as well.
    step = 16_000
    size = step * (BUFFER // step + 1) - len(answer(bytes(272_000))) + 272_000

    def talk(line: Line) -> None:
        while line.hear():
            said = answer(bytes(size))
            line.say(*(said[at : at + step] for at in range(0, len(said), step)))

    requests = named(*map(str, range(40)))
    with Talking(talk, serving(authority)) as store:
        run(default(store, read_timeout=10), requests, most=8)
    assert [len(request.data) for request in requests] == [size] * 40
    assert [request.error for request in requests] == [None] * 40


@pytest.mark.parametrize("secret", [False, True], ids=["plain", "TLS"])
def test_an_answer_that_came_before_its_line_broke_is_one(authority, secret):
    heard, gone = threading.Event(), threading.Event()

    def talk(line: Line) -> None:
        line.hear()
        heard.set()
        line.say(OWN)
        line.reset()
        line.line.close()
        line._heard.close()
        gone.set()

    (request,) = named("x")

    def requests() -> Iterator[Asked | None]:
        yield request
        while not heard.is_set():
            yield None
        # Both are there before anything is read.
        assert gone.wait(20)
        yield from itertools.repeat(None)

    with Talking(talk, serving(authority) if secret else None) as store:
        run(default(store), requests())
    assert own(request)


def test_a_slow_handshake_is_waited_for_and_is_no_part_of_the_answer(
    authority, known, monkeypatch
):
    # Where somebody answered, no other way is tried, and the answer has all its time.
    monkeypatch.setattr(connections, "TRIES", (0.1, 0.1))
    path = certificate(authority.with_name("named.pem"), NAME)
    authority.write_bytes(authority.read_bytes() + path.read_bytes())
    context = serving(path)
    context.sni_callback = lambda _line, _name, _context: time.sleep(1.2)

    def talk(line: Line) -> None:
        line.hear()
        time.sleep(0.3)
        line.say(OWN)

    (request,) = named("x")
    with Talking(talk, context, NAME) as store, empty(HOST) as nobody:
        known(store.server_address, nobody)
        run(default(store, read_timeout=1), [request])
    assert own(request)


def test_who_does_not_speak_tls_is_an_error(authority):
    secret, plain = named("x", "y")
    with Talking(lambda line: line.say(OWN)) as store:
        there = SimpleNamespace(endpoint=store.endpoint.replace("http:", "https:"))
        run(default(there), [secret])
    assert type(secret.error) is StorageError
    with Talking(serve, serving(authority)) as store:
        there = SimpleNamespace(endpoint=store.endpoint.replace("https:", "http:"))
        run(default(there), [plain])
    assert type(plain.error) is StorageError
    assert secret.data == plain.data == b""


def test_a_handshake_that_does_not_end_is_given_up(authority, monkeypatch):
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.3)
    del authority
    # It is taken in by the system, and nobody says a word.
    with socket.create_server((HOST, 0)) as silent:
        there = SimpleNamespace(endpoint=f"https://{HOST}:{silent.getsockname()[1]}")
        (request,) = named("x")
        run(default(there), [request])
    assert "no connection came about in 0.3 seconds" in str(request.error)


@pytest.mark.skipif(sys.platform != "linux", reason="it is seen in /proc")
@pytest.mark.parametrize(
    "how", ["came", "not trusted", "deaf", "empty", "no way", "no name"]
)
def test_nothing_is_left_open(authority, known, monkeypatch, how):
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.3)
    if how == "not trusted":
        monkeypatch.delenv("AWS_CA_BUNDLE")
    requests, before = named("a", "b", "c"), open_sockets()
    there = SimpleNamespace(endpoint=f"https://{NAME}")
    if how in ("came", "not trusted"):
        with Talking(serve, serving(authority)) as store:
            run(default(store), requests)
    elif how == "no name":
        known(error=socket.gaierror(socket.EAI_NONAME, "no such name"))
        run(default(there), requests)
    elif how == "no way":
        # The system says so at once.
        known(("255.255.255.255", 443), ("255.255.255.255", 80))
        run(default(there), requests)
    else:
        with {"deaf": deaf, "empty": empty}[how](HOST) as place:
            known(place)
            run(default(there), requests)
    assert own(*requests) == (how == "came")
    # The store's own are closed when it sees that nobody is there any more.
    until(lambda: open_sockets() == before)
