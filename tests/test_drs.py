"""DRS: what a server says of instances, and everything else that it might say."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import http.server
import ipaddress
import json
import pickle
import socket
import ssl
import threading
import time
from contextlib import closing
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import DRS, _free_port

from intake_idc.arrow import packed, unpack_uuids
from intake_idc.errors import RequestError, StorageError
from intake_idc.storage import drs, web
from intake_idc.storage.web import LARGEST, Web

BASE = drs.BASE
SERVICE_INFO = f"{BASE}/service-info"


def named(*words):
    return str(uuid5(UUID(int=25), " ".join(map(str, words))))


def md5_of(text):
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def document(uuid, series, **changes):
    """What IndexD answers of an instance: nulls, "" and a size that is a text."""
    nobody = {"bearer_auth_issuers": [], "passport_auth_issuers": []}

    def method(kind, url):
        return {
            "access_id": kind,
            "access_url": {"url": url},
            "authorizations": {**nobody, "drs_object_id": f"dg.4DFC/{uuid}"},
            "available": True,
            "cloud": None,
            "region": "",
            "type": kind,
        }

    key = f"{series}/{uuid}.dcm"
    return {
        "access_methods": [
            method("gs", f"gs://public-datasets-idc/{key}"),
            method("s3", f"s3://idc-open-data/{key}"),
        ],
        "aliases": [],
        "checksums": [{"checksum": md5_of(uuid), "type": "md5"}],
        "contents": [],
        "created_time": None,
        "description": None,
        "form": "object",
        "id": f"dg.4DFC/{uuid}",
        "mime_type": "application/json",
        "name": "1.3.6.1.4.1.14519.5.2.1.7",
        "self_uri": f"drs://dg.4DFC:{uuid}",
        "size": "524288",
        "updated_time": None,
        "version": None,
        **changes,
    }


def bundle(uuid, children, **changes):
    own = [
        {"contents": [], "drs_uri": f"drs://dg.4DFC:{c}", "id": c, "name": None}
        for c in children
    ]
    return {
        "contents": own,
        "form": "bundle",
        "id": f"dg.4DFC/{uuid}",
        "name": None,
        "self_uri": f"drs://dg.4DFC:{uuid}",
        "size": 7,
        "checksums": [],
        **changes,
    }


def with_url(uuid, *urls):
    methods = [{"type": u.split(":")[0], "access_url": {"url": u}} for u in urls]
    return document(uuid, named("series"), access_methods=methods)


@pytest.fixture(scope="module")
def server():
    with DRS() as running:
        yield running


@pytest.fixture
def client(server):
    with closing(Web(server.endpoint, allowed=(), timeout=5, backoff=0.01)) as one:
        yield one


def resolved(server, uuids, **more):
    return drs.resolve(uuids, endpoint=server.endpoint, timeout=5, **more).to_pylist()


def path_of(uuid):
    return f"{BASE}/objects/dg.4DFC/{uuid}"


pytestmark = pytest.mark.servers

ONE, TWO, THREE = (named("instance", i) for i in range(3))
SERIES = named("series")


# What it says.


def test_an_instance_has_its_series_places_size_and_md5(server):
    server.hold({ONE: document(ONE, SERIES)})
    assert resolved(server, [ONE]) == [
        {
            "position": 0,
            "crdc_instance_uuid": UUID(ONE).bytes,
            "crdc_series_uuid": UUID(SERIES).bytes,
            "SeriesInstanceUID": None,
            "SOPInstanceUID": "1.3.6.1.4.1.14519.5.2.1.7",
            "aws_bucket": "idc-open-data",
            "aws_key": f"{SERIES}/{ONE}.dcm",
            "gcs_bucket": "public-datasets-idc",
            "gcs_key": f"{SERIES}/{ONE}.dcm",
            "instance_size": 524288,
            "md5": md5_of(ONE),
            "reason": None,
        }
    ]
    assert [r["path"] for r in server.requests()] == [path_of(ONE)]


ODD = {
    "a number": ({"size": 524288}, 524288),
    "no size": ({"size": None}, None),
    "an empty size": ({"size": ""}, None),
    "a bare id": ({"id": ONE}, 524288),
    "an id in capitals": ({"id": f"dg.4dfc/{ONE.upper()}"}, 524288),
    "a host in the uri": ({"self_uri": f"drs://{drs.HOST}/dg.4DFC/{ONE}"}, 524288),
    "no id": ({"id": None}, 524288),
    "no name": ({"name": None}, 524288),
    "a name that climbs": ({"name": "../../etc/passwd"}, 524288),
    "no form": ({"form": None, "contents": None}, 524288),
    "no checksums": ({"checksums": None}, 524288),
    "another checksum": ({"checksums": [{"type": "sha-256", "checksum": "x"}]}, 524288),
    "keys missing": ({"aliases": {}, "mime_type": [], "version": 3}, 524288),
}


@pytest.mark.parametrize(("changes", "size"), ODD.values(), ids=ODD)
def test_answers_that_differ_from_the_standard_are_read(server, changes, size):
    server.hold({ONE: document(ONE, SERIES, **changes)})
    (row,) = resolved(server, [ONE])
    assert row["reason"] is None
    assert row["instance_size"] == size
    assert row["crdc_series_uuid"] == UUID(SERIES).bytes
    assert row["md5"] == (None if "checksums" in changes else md5_of(ONE))
    assert row["SOPInstanceUID"] == (
        None if "name" in changes else document(ONE, "")["name"]
    )


PLACES = {
    "release 1": (
        ["gs://idc-tcia-nlst/dicom/1.2/1.2.3/1.2.3.4.dcm#1593"],
        {
            "SeriesInstanceUID": "1.2.3",
            "gcs_bucket": "idc-tcia-nlst",
            "gcs_key": "dicom/1.2/1.2.3/1.2.3.4.dcm",
        },
    ),
    "flat": (
        [f"gs://public-datasets-idc/{ONE}.dcm"],
        {"gcs_bucket": "public-datasets-idc", "gcs_key": f"{ONE}.dcm"},
    ),
    "flat, and in a folder": (
        [
            f"gs://public-datasets-idc/{ONE}.dcm",
            f"s3://idc-open-data-two/{SERIES}/{ONE}.dcm",
        ],
        {
            "crdc_series_uuid": UUID(SERIES).bytes,
            "gcs_bucket": "public-datasets-idc",
            "gcs_key": f"{ONE}.dcm",
            "aws_bucket": "idc-open-data-two",
            "aws_key": f"{SERIES}/{ONE}.dcm",
        },
    ),
    "a host beside it": (
        ["https://evil.example/x", f"s3://idc-open-data/{SERIES}/{ONE}.dcm"],
        {
            "crdc_series_uuid": UUID(SERIES).bytes,
            "aws_bucket": "idc-open-data",
            "aws_key": f"{SERIES}/{ONE}.dcm",
        },
    ),
}


@pytest.mark.parametrize(("urls", "expected"), PLACES.values(), ids=PLACES)
def test_older_places_are_understood(server, urls, expected):
    server.hold({ONE: with_url(ONE, *urls)})
    (row,) = resolved(server, [ONE])
    places = ("aws_bucket", "aws_key", "gcs_bucket", "gcs_key")
    series = ("crdc_series_uuid", "SeriesInstanceUID")
    found = {name: row[name] for name in (*places, *series) if row[name] is not None}
    assert found == expected
    assert row["reason"] is None


SPELLINGS = [
    ONE,
    ONE.upper(),
    f"dg.4DFC/{ONE}",
    f"drs://{drs.HOST}/dg.4DFC/{ONE}",
    f"drs://dg.4DFC:{ONE}",
    f"drs://dg.4DFC:dg.4DFC%2F{ONE}",
]


def test_every_spelling_is_asked_for_once_and_only_here(server):
    server.hold({ONE: document(ONE, SERIES), TWO: document(TWO, SERIES)})
    rows = resolved(server, [*SPELLINGS, f"drs://evil.example/dg.4DFC/{TWO}"])
    assert [row["position"] for row in rows] == list(range(7))
    assert {row["reason"] for row in rows} == {None}
    asked = [r["path"] for r in server.requests()]
    assert sorted(asked) == sorted([SERVICE_INFO, path_of(ONE), path_of(TWO)])


def test_packed_uuids_are_taken_and_none_ask_nothing(server):
    server.hold({ONE: document(ONE, SERIES)})
    names = packed([UUID(ONE).bytes, UUID(TWO).bytes])
    table = drs.resolve(names, endpoint=server.endpoint)
    assert unpack_uuids(table.column("crdc_instance_uuid").chunk(0)).equals(
        unpack_uuids(names)
    )
    assert table.column("reason").to_pylist() == [None, "is not known to 127.0.0.1"]
    server.hold({})
    nothing = drs.resolve([], endpoint=server.endpoint)
    assert nothing.schema == table.schema
    assert not len(nothing)
    assert not server.requests()


@pytest.mark.parametrize("wrong", ["1.2.3", "s3://b/k", "", None, 5])
def test_what_is_no_identifier_is_refused(wrong):
    with pytest.raises(RequestError, match="expected a DRS identifier"):
        drs.resolve([wrong])
    with pytest.raises(RequestError, match="expected packed uuids"):
        drs.resolve(packed([None]))


# Many.


@pytest.mark.parametrize("bulk", [0, 3, 100])
def test_many_are_asked_for_in_bulk_where_that_is_offered(server, bulk):
    uuids = [named("many", i) for i in range(40)]
    server.hold({u: document(u, named("s", u)) for u in uuids[1:]}, bulk=bulk)
    rows = resolved(server, uuids)
    assert [row["crdc_instance_uuid"] for row in rows] == [UUID(u).bytes for u in uuids]
    assert [row["reason"] for row in rows] == [
        "is not known to 127.0.0.1",
        *[None] * 39,
    ]
    series = [row["crdc_series_uuid"] for row in rows[1:]]
    assert series == [UUID(named("s", u)).bytes for u in uuids[1:]]
    requests = server.requests()
    posted = [r["bulk"] for r in requests if r["method"] == "POST"]
    assert sum(posted) == (40 if bulk else 0)
    assert max(posted, default=0) <= bulk
    assert len(requests) - len(posted) == (1 if bulk else 41)


BULK_FAILURES = {
    "refused": {"status": 405, "text": "{}"},
    "another shape": {"status": 200, "text": '{"resolved_drs_objects": [1, {}]}'},
    "a list": {"status": 200, "text": "[]"},
    "too large": {"status": 200, "blanks": LARGEST + 1},
}


@pytest.mark.parametrize("failure", BULK_FAILURES.values(), ids=BULK_FAILURES)
def test_what_bulk_does_not_answer_is_asked_for_one_by_one(server, failure):
    both = {u: document(u, SERIES) for u in (ONE, TWO)}
    server.hold(both, bulk=100, script={f"{BASE}/objects": [failure]})
    assert [row["reason"] for row in resolved(server, [ONE, TWO])] == [None, None]
    paths = [r["path"] for r in server.requests()]
    assert paths[:2] == [SERVICE_INFO, f"{BASE}/objects"]
    assert set(paths[2:]) == {path_of(ONE), path_of(TWO)}


def test_a_server_without_service_info_is_asked_one_by_one(server):
    gone = {"status": 404, "text": "<html>"}
    both = {u: document(u, SERIES) for u in (ONE, TWO)}
    server.hold(both, bulk=100, script={SERVICE_INFO: [gone]})
    assert [row["reason"] for row in resolved(server, [ONE, TWO])] == [None, None]
    assert {r["method"] for r in server.requests()} == {"GET"}


# Bundles.


def test_a_bundle_gives_what_is_in_it_at_its_place(server):
    inner, outer = named("series bundle"), named("study bundle")
    sums = md5_of("".join(sorted(map(md5_of, (TWO, THREE)))))
    checksums = [{"type": "md5", "checksum": sums}]
    as_list = {"drs_uri": [f"drs://x.example/dg.4DFC/{TWO}"], "id": None}
    series = bundle(inner, [TWO, THREE], checksums=checksums)
    series["contents"][0] |= as_list
    server.hold(
        {
            ONE: document(ONE, SERIES),
            TWO: document(TWO, SERIES),
            THREE: document(THREE, SERIES),
            inner: series,
            outer: bundle(outer, [inner, ONE, inner], form=None),
        },
        bulk=2,
    )
    rows = resolved(server, [ONE, outer, THREE])
    found = [(r["position"], UUID(bytes=r["crdc_instance_uuid"])) for r in rows]
    expected = [(0, ONE), (1, TWO), (1, THREE), (1, ONE), (2, THREE)]
    assert found == [(at, UUID(name)) for at, name in expected]
    assert {row["reason"] for row in rows} == {None}


BUNDLES = {
    "incomplete": (
        bundle(ONE, [TWO], checksums=[{"type": "md5", "checksum": "0" * 32}]),
        "is a bundle whose parts do not have its checksum",
    ),
    "empty": (bundle(ONE, []), "its answer is a bundle of nothing"),
    "of itself": (bundle(ONE, [ONE]), "is a bundle that holds itself"),
    "of something else": (
        bundle(ONE, ["https://evil.example/"]),
        "its answer is a bundle with a part that has no DRS identifier of IDC",
    ),
    "of the unknown": (bundle(ONE, [THREE]), "is not known to 127.0.0.1"),
}


@pytest.mark.parametrize(("held", "reason"), BUNDLES.values(), ids=BUNDLES)
def test_a_bundle_that_is_not_whole_has_a_reason(server, held, reason):
    server.hold({ONE: held, TWO: document(TWO, SERIES)})
    (row,) = resolved(server, [ONE])
    assert row["reason"] == reason
    assert row["position"] == 0


@pytest.mark.parametrize(("deep", "whole"), [(3, True), (4, False), (60, False)])
def test_bundles_are_followed_three_deep(server, deep, whole):
    chain = [named("deep", i) for i in range(deep)]
    held = {a: bundle(a, [b]) for a, b in zip(chain, [*chain[1:], ONE], strict=True)}
    server.hold({**held, ONE: document(ONE, SERIES)})
    # The others are asked for themselves: known, but still too deep below the first.
    first, *_ = rows = resolved(server, chain)
    assert (first["reason"] is None) == whole
    assert whole or "more than 3 deep" in first["reason"]
    assert rows[-1]["reason"] is None
    (alone,) = resolved(server, chain[:1])
    assert (alone["reason"] is None) == whole


def test_bundles_that_lead_to_too_much_are_refused(server):
    """Each answer is small; together they are not."""
    many = 9_000
    held = {}
    tops = [named("top", i) for i in range(12)]
    for top in tops:
        inside = [named(top, i) for i in range(many)]
        slim = [{"id": f"dg.4DFC/{c}"} for c in inside]
        held[top] = bundle(top, [], contents=slim)
    server.hold(held)
    assert all(len(json.dumps(held[top])) < LARGEST for top in tops)
    with pytest.raises(RequestError, match="more than 100,000 objects"):
        resolved(server, tops)
    assert len(server.requests()) == 13


# What it must not say.

REASONS = {
    "another host": (["https://evil.example/x.dcm"], "has no URL of a bucket"),
    "this machine": (["file:///etc/passwd"], "has no URL of a bucket"),
    "another bucket": (
        [f"s3://evil/{SERIES}/{ONE}.dcm"],
        "has the bucket 'evil', which is none of IDC's",
    ),
    "another object": (
        [f"s3://idc-open-data/{SERIES}/{TWO}.dcm"],
        "has the URL of another object, ",
    ),
    "a folder": ([f"s3://idc-open-data/{SERIES}/"], "has the URL of a folder, "),
    "a path that climbs": (
        ["s3://idc-open-data/../../x.dcm"],
        "has the URL 's3://idc-open-data/../../x.dcm', which is no IDC series",
    ),
    "two series": (
        [
            f"s3://idc-open-data/{SERIES}/{ONE}.dcm",
            f"gs://idc-open-data/{TWO}/{ONE}.dcm",
        ],
        "names two series",
    ),
    "nothing": ([], "has no URL of a bucket"),
}


@pytest.mark.parametrize(("urls", "reason"), REASONS.values(), ids=REASONS)
def test_a_place_that_is_not_idcs_is_a_reason(server, urls, reason):
    server.hold({ONE: with_url(ONE, *urls)})
    (row,) = resolved(server, [ONE])
    assert row["reason"].startswith(f"its answer {reason}")
    assert row["aws_bucket"] is row["gcs_bucket"] is row["crdc_series_uuid"] is None


def test_a_place_is_spelled_as_the_store_spells_it(server):
    url = f"s3://IDC-Open-Data/{SERIES}%2F{ONE}%2Edcm\n"
    server.hold({ONE: with_url(ONE, url)})
    (row,) = resolved(server, [ONE])
    assert (row["aws_bucket"], row["aws_key"]) == (
        "idc-open-data",
        f"{SERIES}/{ONE}.dcm",
    )


def test_a_signature_is_not_repeated(server):
    server.hold({ONE: with_url(ONE, f"s3://evil/{ONE}.dcm?X-Amz-Signature=abc")})
    assert "abc" not in resolved(server, [ONE])[0]["reason"]
    signed = f"s3://idc-open-data/{SERIES}/{ONE}.dcm?X-Amz-Signature=abc"
    server.hold({ONE: with_url(ONE, signed)})
    assert resolved(server, [ONE])[0]["aws_key"] == f"{SERIES}/{ONE}.dcm"


@pytest.mark.parametrize("size", [-1, "-1", True, 1.5, "many", 2**63, "9" * 400, [1]])
def test_a_size_that_is_none_is_a_reason(server, size):
    server.hold({ONE: document(ONE, SERIES, size=size)})
    assert resolved(server, [ONE])[0]["reason"].startswith("its answer gives the size")


@pytest.mark.parametrize("answer", [[], "x", 5, None, {}, {"id": f"dg.4DFC/{TWO}"}])
def test_an_answer_of_something_else_is_a_reason(server, answer):
    said = {"status": 200, "text": json.dumps(answer)}
    server.hold({}, script={path_of(ONE): [said]})
    assert resolved(server, [ONE])[0]["reason"].startswith("its answer is ")


STATUSES = {401: "asks for a login (401)", 403: "asks for a login", 410: "answers 410"}


@pytest.mark.parametrize(("status", "reason"), STATUSES.items(), ids=STATUSES)
def test_a_refusal_is_a_reason(server, status, reason):
    server.hold({}, script={path_of(ONE): [{"status": status, "text": "{}"}]})
    assert reason in resolved(server, [ONE])[0]["reason"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from(sorted(document(ONE, SERIES)))


@given(st.dictionaries(keys, json_values, max_size=5), json_values)
def test_any_answer_is_an_object_or_a_reason(changes, url):
    whole = document(ONE, SERIES, **changes)
    whole["access_methods"] = [*drs._list(whole["access_methods"]), {"access_url": url}]
    for said in (whole, url, changes):
        found = drs._read(said, ONE)
        assert isinstance(found, drs._Object | str)
        table = drs._table([(0, ONE, found)])
        table.validate(full=True)


# The server: late, large, elsewhere.


def test_a_busy_server_is_asked_again_when_it_says(server):
    busy = {"status": 429, "text": "{}", "headers": {"Retry-After": "1"}}
    server.hold({ONE: document(ONE, SERIES)}, script={path_of(ONE): [busy]})
    began = time.monotonic()
    assert resolved(server, [ONE])[0]["reason"] is None
    assert time.monotonic() - began > 0.9
    assert len(server.requests()) == 2


FAILURES = {
    "hangs up": ({"hang_up": True}, None),
    "half an answer": ({"status": 200, "text": "{}", "lacking": 10}, None),
    "busy": ({"status": 503, "text": "{}"}, "it answers 503"),
    "not yet": ({"status": 202, "text": "{}", "headers": {"Retry-After": "x"}}, "202"),
}


@pytest.mark.parametrize(("failure", "match"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_tried_again_five_times(server, client, failure, match):
    server.hold({ONE: document(ONE, SERIES)}, script={path_of(ONE): [failure] * 4})
    assert client.get(path_of(ONE)).status == 200
    server.hold({ONE: document(ONE, SERIES)}, script={path_of(ONE): [failure] * 5})
    with pytest.raises(StorageError, match=f"5 times; .*{match or ''}") as caught:
        client.get(path_of(ONE))
    assert len(server.requests()) == 5
    assert pickle.loads(pickle.dumps(caught.value)).details == caught.value.details


@pytest.mark.parametrize("stage", ["interim", "header", "body"])
def test_an_answer_that_comes_by_drops_has_an_end(stage):
    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            drop = b"x"
            if stage == "interim":
                drop = b"HTTP/1.1 100 Continue\r\n\r\n"
            elif stage == "header":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nA: ")
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
            with contextlib.suppress(OSError):
                while not done.wait(0.02):
                    self.wfile.write(drop)
            self.close_connection = True

        def log_message(self, *_):
            pass

    done = threading.Event()
    with running(Slow) as port:
        endpoint = f"http://127.0.0.1:{port}"
        with (
            closing(Web(endpoint, allowed=(), timeout=0.05, backoff=0.01)) as one,
            pytest.raises(StorageError, match=r"5 times; .* not there after 0\.2 s"),
        ):
            one.get("/")
        done.set()


def test_a_server_that_wants_to_be_left_alone_for_long_is(server, client):
    far = dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
    for wait in ("3600", far.strftime("%a, %d %b %Y %H:%M:%S GMT")):
        busy = {"status": 429, "text": "{}", "headers": {"Retry-After": wait}}
        server.hold({}, script={path_of(ONE): [busy]})
        with pytest.raises(StorageError, match=r"left alone for 3,[56]\d\d s"):
            client.get(path_of(ONE))
        assert len(server.requests()) == 1


def test_an_answer_that_is_too_large_is_not_read(server):
    large = {"status": 200, "blanks": LARGEST + 1}
    server.hold({TWO: document(TWO, SERIES)}, script={path_of(ONE): [large]})
    rows = resolved(server, [ONE, TWO])
    assert "larger than 1,048,576 bytes" in rows[0]["reason"]
    assert rows[1]["reason"] is None


REDIRECTS = {
    "another host": "http://evil.example/x?secret=1",
    "another port": "http://127.0.0.1:1/x?secret=1",
    "another scheme": "https://127.0.0.1/x?secret=1",
    "a file": "file:///etc/passwd?secret=1",
    "a user": "http://a:secret@127.0.0.1/",
}


@pytest.mark.parametrize("target", REDIRECTS.values(), ids=REDIRECTS)
def test_nothing_is_followed_to_another_place(server, target):
    away = {"status": 302, "headers": {"Location": target}}
    server.hold({ONE: document(ONE, SERIES)}, script={path_of(ONE): [away]})
    with pytest.raises(
        StorageError, match=r"leads to .*, which is not asked"
    ) as caught:
        resolved(server, [ONE])
    assert "secret" not in str(caught.value)
    assert len(server.requests()) == 1


@pytest.mark.parametrize("target", ["http://[", "//127.0.0.1:port/", "/\u00fc", "/a b"])
def test_a_redirect_that_is_no_url_is_an_error(server, target):
    odd = {"status": 302, "headers": {"Location": target}}
    server.hold({ONE: document(ONE, SERIES)}, script={path_of(ONE): [odd]})
    with pytest.raises(StorageError, match=r"leads to (what is no URL|a path that)"):
        resolved(server, [ONE])
    assert len(server.requests()) == 1


def test_a_redirect_on_the_same_host_is_followed_some_times(server, client):
    def to(path):
        return {"status": 307, "headers": {"Location": path}}

    script = {"/a": [to(path_of(ONE))], "/b": [to("/b")] * 9}
    server.hold({ONE: document(ONE, SERIES)}, script=script)
    assert client.get("/a").json()["size"] == "524288"
    with pytest.raises(StorageError, match="leads on and on"):
        client.get("/b")
    assert len(server.requests()) == 2 + 4


@pytest.mark.parametrize("status", [200, 404])
def test_what_is_no_drs_server_is_an_error_and_not_an_unknown_object(server, status):
    page = {"status": status, "text": "<html>Please log in</html>"}
    server.hold({}, script={path_of(ONE): [page]})
    with pytest.raises(StorageError, match=f"answers {status} with text/html"):
        resolved(server, [ONE])


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5_000, "\udcff", "{"])
def test_json_that_is_none_is_an_error(text):
    answer = web.Answer("http://x", 200, text.encode(errors="surrogateescape"))
    with pytest.raises(StorageError, match="no JSON"):
        answer.json()


def test_nobody_there_is_an_error():
    with (
        closing(
            Web(f"http://127.0.0.1:{_free_port()}", allowed=(), backoff=0.01)
        ) as nobody,
        pytest.raises(StorageError, match="ConnectionRefused"),
    ):
        nobody.get("/")


def test_the_server_is_told_nothing_but_what_it_needs(server):
    server.hold({ONE: document(ONE, SERIES)})
    resolved(server, [ONE])
    (request,) = server.requests()
    assert set(request["headers"]) == {
        "accept",
        "accept-encoding",
        "host",
        "user-agent",
    }
    assert request["headers"]["user-agent"].startswith("intake-idc/")


# Which server.

ENDPOINTS = {
    "not allowed": ("https://other.example", "allow_hosts"),
    "not allowed by its port": (f"https://{drs.HOST}:8443", "allow_hosts"),
    "plain http": (f"http://{drs.HOST}", "by https"),
    "a path": (f"https://{drs.HOST}/x", "nothing behind"),
    "a query": (f"https://{drs.HOST}/?a=b", "nothing behind"),
    "no host": ("https://", "nothing behind"),
    "no url": ("nonsense", "nothing behind"),
    "a file": ("file:///etc/passwd", "nothing behind"),
    "another scheme": ("ftp://127.0.0.1", "by https"),
    "a port that is none": ("https://127.0.0.1:x", "no URL"),
    "a user": (f"https://a:b@{drs.HOST}", "user name"),
    "a host that looks like it": (f"https://{drs.HOST}.evil.example", "allow_hosts"),
}


@pytest.mark.parametrize(("endpoint", "match"), ENDPOINTS.values(), ids=ENDPOINTS)
def test_an_endpoint_that_must_not_be_asked_is_refused(endpoint, match):
    with pytest.raises(RequestError, match=match):
        drs.resolve([ONE], endpoint=endpoint)


ADDRESSES = {
    "127.0.0.1": False,
    "10.1.2.3": False,
    "192.168.0.1": False,
    "172.16.0.1": False,
    "169.254.169.254": False,
    "100.64.0.1": False,
    "0.0.0.0": False,  # noqa: S104
    "224.0.0.1": False,
    "::1": False,
    "::ffff:10.0.0.1": False,
    "fe80::1%eth0": False,
    "fd00::1": False,
    "::ffff:224.0.0.1": False,
    "::10.0.0.1": False,
    "::8.8.8.8": False,
    "64:ff9b::10.0.0.1": False,
    "64:ff9b::169.254.169.254": False,
    "2002:a00:1::": False,
    "64:ff9b::8.8.8.8": True,
    "8.8.8.8": True,
    "2001:4860:4860::8888": True,
}


@pytest.mark.parametrize(("address", "may"), ADDRESSES.items(), ids=ADDRESSES)
def test_only_public_addresses_are_asked(address, may):
    assert web._may_be_asked(address, local=False) == may
    local = ipaddress.ip_address(address.split("%")[0]).is_loopback
    assert web._may_be_asked(address, local=True) == local


@pytest.mark.parametrize("host", ["10.1.2.3", "169.254.169.254", "[fd00::1]"])
def test_an_allowed_host_at_a_private_address_is_not_asked(host):
    bare = host.strip("[]")
    with pytest.raises(RequestError, match="no address to be asked"):
        drs.resolve([ONE], endpoint=f"https://{host}", allow_hosts=[bare])


# By TLS, and through a proxy.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for `drs.example` and this machine, that signs itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "drs.example")])
    now = dt.datetime.now(dt.timezone.utc)
    names = [
        x509.DNSName("drs.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextlib.contextmanager
def running(handler, context=None):
    """A server of this process on loopback; gives its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class OneObject(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(document(ONE, SERIES)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def secure(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with running(OneObject, context) as port:
        yield port


def test_a_server_that_nobody_vouches_for_is_not_asked(secure):
    with pytest.raises(StorageError, match="is not who it says"):
        drs.resolve([ONE], endpoint=f"https://127.0.0.1:{secure}")


def test_a_server_by_tls_is_asked(secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    table = drs.resolve([ONE], endpoint=f"https://127.0.0.1:{secure}")
    assert table.column("reason").to_pylist() == [None]


def test_a_proxy_of_the_environment_is_used(secure, certificate, monkeypatch):
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self):
            asked.append((self.path, self.headers["Proxy-Authorization"]))
            self.send_response(200)
            self.end_headers()
            with socket.create_connection(("127.0.0.1", secure)) as there:
                back = threading.Thread(target=pump, args=(there, self.connection))
                back.start()
                pump(self.connection, there)
                back.join()
            self.close_connection = True

        def log_message(self, *_):
            pass

    def pump(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with running(Proxy) as port:
        monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{port}")
        table = drs.resolve(
            [ONE], endpoint="https://drs.example", allow_hosts="drs.example"
        )
    assert table.column("reason").to_pylist() == [None]
    pair = base64.b64encode(b"me:p@ss").decode()
    assert asked == [("drs.example:443", f"Basic {pair}")]
