"""Files on the loopback: those that are named, to whoever asks by the loopback's name, and nothing else."""

import http.client
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from aaexport.runners.loopback import serving


@pytest.fixture
def url(tmp_path):
    (tmp_path / "site.mjs").write_text("1")
    (tmp_path / "secret").write_text("2")
    with serving({"index.html": b"page", "site.mjs": tmp_path / "site.mjs", "gone": tmp_path / "gone"}) as url:
        yield url


def test_named_files_are_served_with_what_threads_need(url):
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"page"
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    with urllib.request.urlopen(f"{url}site.mjs?again") as answer:
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("path", ["secret", "../secret", "%2e%2e/secret", "gone", "/etc/passwd"])
def test_nothing_else_is(url, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url + path)
    caught.value.close()
    assert caught.value.code == 404


def test_another_name_for_this_machine_is_refused(url):
    """A page elsewhere may point its own name here."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", "/", headers={"Host": "evil.example:80"})
    assert connection.getresponse().status == 421
    connection.close()
