"""What the reference says of the code, and troubleshooting of messages, is what the code says."""

import re

import messages
import pytest
import tables
from repository import ROOT

from aaexport.parity import TOLERANCES

TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
EXPLAINED = re.findall(r"^`([^`]+)`\n: ", TROUBLESHOOTING, re.MULTILINE)
KNOWN = [one.text for one in messages.messages()]


def fragments(text):
    return [part for part in re.split("‹[^›]*›", text) if part.strip(" .,:;()[]")]


def says(message, fragment_list):
    """Whether the message has the fragments, in their order."""
    at = 0
    for fragment in fragment_list:
        at = message.find(fragment.strip(), at)
        if at < 0:
            return False
    return True


def test_there_is_something_to_explain():
    assert len(EXPLAINED) > 30
    assert len(KNOWN) > 300


@pytest.mark.parametrize("message", EXPLAINED)
def test_a_message_that_is_explained_is_one_of_the_codes(message):
    wanted = fragments(message)
    assert wanted
    assert any(says(known, wanted) for known in KNOWN), "no message of the code says so"


@pytest.mark.parametrize(("precision", "runtime"), TOLERANCES)
def test_every_tolerance_is_told(precision, runtime):
    row = TOLERANCES[precision, runtime]
    told = f"| {row.atol:g} | {row.rtol:g} | {row.ratio:g} | {row.floor_ulps:g} | {row.reason} |"
    assert re.search(rf"^\| {precision}, .*{re.escape(told)}$", tables.tolerances(), re.MULTILINE)


def test_every_message_has_an_exit_code():
    assert {one.code for one in messages.messages()} == {1, 2, 3, 4, 5}


def test_every_file_of_a_folder_is_named():
    told = tables.folder()
    for name in ("model.toml", "weights.safetensors", "model.onnx", "bench.json", "manifest.json"):
        assert f"| `{name}` |" in told
