"""URLs: which are those of a service, and what is said of the others."""

import pytest

from aaexport.errors import ArgumentError
from aaexport.serving.address import AUTHORIZATION, Access, Address, parse_url, parse_urls


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://localhost:8000", Address("http", "localhost", 8000)),
        ("HTTPS://Example.org/models/", Address("https", "example.org", 443, "/models")),
        ("grpc://127.0.0.1:8001", Address("grpc", "127.0.0.1", 8001)),
        ("grpcs://[::1]:8001", Address("grpcs", "::1", 8001)),
    ],
)
def test_a_url_has_parts(url, address):
    assert parse_url(url) == address
    assert parse_url(str(address)) == address


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            "localhost:8000",
            "url must be http://, https://, grpc:// or grpcs:// and HOST[:PORT], got 'localhost:8000'",
        ),
        ("ftp://localhost", "got 'ftp://localhost'"),
        ("http://", "got 'http://'"),
        ("http://host:99999", "got 'http://host:99999'"),
        ("http://host:x", "got 'http://host:x'"),
        ("http://a b", "got 'http://a b'"),
        ("http://host/?a=b", "got 'http://host/?a=b'"),
        ("http://host/ü", "url must be of ASCII signs, got 'http://host/ü'; write a host in punycode"),
        ("http://host/\x7f", "got 'http://host/\\x7f'"),
        ("grpc://host:8001/models", "url must end with the port for gRPC"),
        (
            "http://host/v2/models/a",
            "url must end before the protocol's own path, got 'http://host/v2/models/a'; give ",
        ),
    ],
)
def test_other_urls_are_refused(url, text):
    with pytest.raises(ArgumentError) as caught:
        parse_url(url)
    assert text in str(caught.value)


def test_a_password_is_not_repeated():
    with pytest.raises(ArgumentError) as caught:
        parse_url("https://me:secret@host")
    assert "secret" not in str(caught.value)
    assert AUTHORIZATION in str(caught.value)


def test_each_service_is_named_once():
    assert len(parse_urls(["http://a", "grpc://a"])) == 2
    with pytest.raises(ArgumentError, match="url must name each service once, got 'http://a:80'"):
        parse_urls(["http://a", "http://a:80"])
    with pytest.raises(ArgumentError, match="url must name at least one service, got 'none'"):
        parse_urls([])


def test_credentials_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(AUTHORIZATION, "Bearer a")
    assert Access().credentials == "Bearer a"
    assert Access(authorization="Bearer b").credentials == "Bearer b"


@pytest.mark.parametrize("value", ["Bearer a\nX-Other: b", "Bearer a\n", "Bearer €"])
def test_credentials_that_no_header_holds_are_refused_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv(AUTHORIZATION, value)
    with pytest.raises(ArgumentError, match="AAEXPORT_AUTHORIZATION, must be one line of ASCII signs") as caught:
        _ = Access().credentials
    assert "Bearer" not in str(caught.value)
