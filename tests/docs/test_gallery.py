"""The pages of the gallery are there, linked, complete in themselves, and tell of no folder of the machine."""

import re

import pytest
from repository import ROOT

FOLDER = ROOT / "docs/gallery"
FILES = sorted(FOLDER.iterdir())
PAGE = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")


def test_every_file_is_linked_and_every_link_is_a_file():
    assert set(re.findall(r'href="gallery/([^"]+)"', PAGE)) == {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_page_needs_nothing_else(file):
    text = file.read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert "<script" not in text
    assert not [link for link in re.findall(r'(?:href|src)="([^"]*)"', text) if not link.startswith("data:")]
    assert not re.findall(r"(?:/root/|/home/|/tmp/|site-packages)\S*", text)
    if file.suffix == ".html":
        assert "default-src &#x27;none&#x27;" in text
