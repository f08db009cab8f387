"""What the reference says of the code, and troubleshooting of messages, is what the code says."""

import ast
import re

import messages
import pytest
import tables
from repository import ROOT

import aaexport
from aaexport.adapters import ADAPTERS
from aaexport.parity import TOLERANCES
from aaexport.recipe import DECOMPOSITION_NAMES

TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
DECOMPOSITIONS_PAGE = (ROOT / "docs/reference/decompositions.md").read_text(encoding="utf-8")
EXPLAINED = re.findall(r"^`([^`]+)`\n: ", TROUBLESHOOTING, re.MULTILINE)


@pytest.fixture(scope="module")
def found():
    """Every message of the code: reading it all takes seconds."""
    return messages.messages()


@pytest.fixture(scope="module")
def known(found):
    return [text for one in found for text in (one.text, one.typed)]


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


def test_there_is_something_to_explain(known):
    assert len(EXPLAINED) > 30
    assert len(known) > 300


@pytest.mark.parametrize("message", EXPLAINED)
def test_a_message_that_is_explained_is_one_of_the_codes(message, known):
    wanted = fragments(message)
    assert wanted
    assert any(says(one, wanted) for one in known), "no message of the code says so"


@pytest.mark.parametrize(("precision", "runtime"), TOLERANCES)
def test_every_tolerance_is_told(precision, runtime):
    row = TOLERANCES[precision, runtime]
    told = f"| {row.atol:g} | {row.rtol:g} | {row.ratio:g} | {row.floor_ulps:g} | {row.reason} |"
    assert re.search(rf"^\| {precision}, .*{re.escape(told)}$", tables.tolerances(), re.MULTILINE)


def test_every_message_has_an_exit_code(found):
    assert {one.code for one in found} == {1, 2, 3, 4, 5, 6, 7}


def test_every_file_of_a_folder_is_named():
    told = tables.folder()
    for name in ("model.toml", "weights.safetensors", "model.onnx", "bench.json", "manifest.json"):
        assert f"| `{name}` |" in told


def test_every_room_is_on_the_page_of_the_house():
    (rooms,) = (
        {ast.literal_eval(name) for name in node.value.elts}
        for node in ast.parse((ROOT / "tests/test_guards.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ROOMS"
    )
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    told = {
        name for row in re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert told == rooms - {"__main__"}


def test_what_contributing_points_at_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:aaexport|tests|docs|models)/[^`<]*)`", page)
    assert len(paths) > 25
    missing = [path for path in paths if not (ROOT / path).exists() and path != "docs/_build/html"]
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("name", DECOMPOSITION_NAMES)
def test_the_operators_of_each_decomposition_are_told(name, tmp_path):
    head, row = re.findall(r"^\| (`auto`.*|\d+ \|.*) \|$", DECOMPOSITIONS_PAGE, re.MULTILINE)
    told = dict(zip(re.findall(r"`(\w+)`", head), map(int, re.findall(r"\d+", row)), strict=True))
    opset = 23 if name == "fused" else 20
    result = aaexport.convert(
        "aa_cnn3_digits", tmp_path / "model.onnx", decomposition=name, opset=opset, verify=False
    )
    assert sum(result.operators.values()) == told[name]


def test_every_adapter_is_named_where_models_are_brought_along():
    page = (ROOT / "docs/how-to/bring-your-own-model.md").read_text(encoding="utf-8")
    assert all(adapter.title in page for adapter in ADAPTERS)
