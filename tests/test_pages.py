"""Pages of listings as text, and listings of many series, asked for together.

A store that plays faults is asked as it is by default: many requests at a time from one
thread, each once, and with patience for what did not come that way. Each fact is held
against the server's own account of what it was asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from xml.sax.saxutils import escape

import pytest
from asking import (
    EVER,
    MANY,
    OBJECTS,
    PAGED,
    PAGES,
    SIZE,
    SMALL,
    TINY,
    both,
    default,
    own_threads,
    rested,
    until,
)
from copied import BUCKET, asked, at, cohort, files, knowing, put_series, uuid
from hypothesis import given
from hypothesis import strategies as st
from servers import Faulty

from intake_idc.errors import (
    AccessDenied,
    IntegrityError,
    ObjectNotFound,
    RequestError,
    StorageError,
)
from intake_idc.manifest import Part as Series
from intake_idc.storage import Stored, list_all
from intake_idc.storage.engine import check_range
from intake_idc.storage.listing import LISTED_AHEAD
from intake_idc.storage.pages import listed
from intake_idc.storage.retrying import _budget

pytestmark = [pytest.mark.timeout(60)]
served = pytest.mark.servers

PAGE = 1_000
"""Objects of a page of a listing."""
SERIES = [uuid(number) for number in range(101, 131)]
NOISE = bytes(range(256)) * 8


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("store")
    put_series(root, 1, [SIZE + number for number in range(OBJECTS)])
    put_series(root, 3, [10] * MANY)
    put_series(root, 4, [1] * PAGED)
    for number in range(101, 131):
        put_series(root, number, range(1, number % 3 + 2))
    return root


@pytest.fixture(scope="module")
def stores(root) -> Iterator[tuple[Faulty, Faulty]]:
    """Hosts with the same objects."""
    with Faulty(root) as one, Faulty(root) as other:
        yield one, other


@pytest.fixture
def server(stores) -> Faulty:
    return rested(stores[0])


@pytest.fixture
def second(stores) -> Faulty:
    """Another host."""
    return rested(stores[1])


@pytest.fixture(autouse=True)
def _rested() -> None:
    """What all retries of this process may cost together is there anew."""
    _budget.cache_clear()


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
