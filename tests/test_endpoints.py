"""Where stores are, and which of them are asked for many things at once."""

from __future__ import annotations

import pytest

from intake_idc import resolve_mirror
from intake_idc.errors import MirrorError
from intake_idc.storage.endpoints import asks_many, endpoint
from intake_idc.storage.multi import Multi

NAME = "store.example"


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ({}, True),
        ({"HTTP_PROXY": "http://p:1"}, False),
        ({"http_proxy": "http://p:1"}, False),
        ({"HTTPS_PROXY": "http://p:1"}, True),
        ({"ALL_PROXY": "http://p:1"}, False),
        ({"all_proxy": "socks5://p:1"}, False),
        ({"HTTP_PROXY": ""}, True),
        ({"http_proxy": "", "HTTP_PROXY": "http://p:1"}, True),
        ({"FTP_PROXY": "http://p:1"}, True),
        ({"NO_PROXY": "store.example"}, True),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "store.example"}, True),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": ".example"}, True),
        ({"HTTP_PROXY": "http://p:1", "no_proxy": "store.example:9000"}, True),
        ({"HTTP_PROXY": "http://p:1", "no_proxy": "*"}, True),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "other.example"}, False),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "store.example"}, True),
    ],
    ids=str,
)
def test_a_store_behind_a_proxy_is_not_asked_for_many(monkeypatch, said, holds):
    for name in ("http", "https", "ftp", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    mirror = resolve_mirror("aws", endpoint_url=f"http://{NAME}:9000")
    assert asks_many(mirror) == holds


def test_the_public_stores_are_behind_proxies_for_https(monkeypatch):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    assert asks_many(resolve_mirror("aws"))
    assert asks_many(resolve_mirror("gcs"))
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "storage.googleapis.com")
    assert not asks_many(resolve_mirror("aws"))
    assert asks_many(resolve_mirror("gcs"))


@pytest.mark.parametrize(
    "place",
    [
        "http://h\u00f6st.example",
        "http://h/?a=b",
        "http://h/#a",
    ],
)
def test_a_place_that_is_no_plain_host_is_not_asked_for_many(place):
    assert not asks_many(resolve_mirror("aws", endpoint_url=place))


@pytest.mark.parametrize(
    ("port", "said"),
    [("99999", "out of range"), ("x", "integer"), ("0", "no port 0"), ("-1", "Port")],
)
def test_a_port_that_is_none_is_refused_before_anything_is_asked(port, said):
    for place in (
        {"endpoint_url": f"http://h:{port}"},
        {"mirror": f"http://h:{port}/a"},
    ):
        with pytest.raises(MirrorError, match="is no URL") as caught:
            resolve_mirror(**{"mirror": "aws", **place})
        assert said in str(caught.value)


def test_the_public_stores_are_where_they_are():
    aws, gcs = resolve_mirror("aws"), resolve_mirror("gcs")
    assert endpoint(aws) == "https://s3.us-east-1.amazonaws.com"
    assert endpoint(gcs) == "https://storage.googleapis.com"
    assert Multi(aws).latency is None
