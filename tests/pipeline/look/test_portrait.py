"""inspect --page: of a zoo name, a folder and any file, with records and attention; refused where it cannot be."""

import dataclasses
import json

import onnx
import pytest
from deployable import digits_folder
from onnx_files import convolution
from outcomes import error_of
from page_text import parsed
from pages import axe_violations, shown

from aaexport.errors import ArgumentError
from aaexport.folder import open_folder
from aaexport.graph.metadata import BEFORE_KEY
from aaexport.parts import Part
from aaexport.pipeline.look.inspect import inspect
from aaexport.pipeline.look.of_file import rejoined
from aaexport.pipeline.look.portrait import portray
from aaexport.report.model.model_page import model_html
from aaexport.runners.browser import find_browser


@pytest.fixture(scope="module")
def drawn(converted_once):
    return portray(converted_once)


def test_a_converted_folder_has_layers_costs_operators_and_records(drawn):
    cost, graph = drawn.inspected.cost, drawn.inspected.graph
    assert sum(part.parameters for part in drawn.parts) == cost.parameters
    assert sum(part.macs or 0 for part in drawn.parts) == cost.macs
    assert sum(sum(part.after.values()) for part in drawn.parts) == sum(graph.operators.values())
    before = sum(sum(part.before.values()) for part in drawn.parts)
    assert before > sum(graph.operators.values())
    (attends,) = [part for part in drawn.parts if part.written is not None]
    assert (attends.path, attends.kind, attends.written.choice) == ("features.3", "AugmentedConv2d", "fold")
    assert attends.written.why.startswith(
        "the cheapest by the cost model, in multiplications a logit beside q·k: fold 8,"
    )
    assert drawn.rules == json.loads(graph.metadata["aaexport.rules"])
    (verified,) = drawn.verified
    assert (verified.passed, verified.same_file, verified.dtype) == (True, True, "float32")
    assert drawn.attended.image == "sample:0" and drawn.attended.layers[0].layer == "features.3"


def test_a_file_alone_tells_what_it_can(drawn, converted, tmp_path):
    found = portray(converted.onnx_path)
    assert [part.written.choice for part in found.parts if part.written] == ["fold"]
    assert found.attended is None and "a file alone" in found.why_not
    totals = [sum(sum(part.after.values()) for part in each.parts) for each in (found, drawn)]
    assert totals[0] == totals[1]
    model = onnx.load(converted.onnx_path)
    for entry in [entry for entry in model.metadata_props if entry.key == BEFORE_KEY]:
        entry.value = "[1, 2]"
    onnx.save(model, tmp_path / "spoilt.onnx")
    assert all(part.before is None for part in portray(tmp_path / "spoilt.onnx").parts)


def test_a_zoo_name_is_told_as_it_would_be_converted():
    found = portray("aa_resnet20_cifar10")
    assert found.forecast and found.rules is None and not found.verified
    assert {part.written.choice for part in found.parts if part.written} == {"fold"}
    assert found.why_not.startswith("aa_resnet20_cifar10 has no weights.safetensors yet")
    assert "not converted yet" in model_html(found)


def test_records_that_are_not_as_they_were_written_are_left_out_with_a_note(converted):
    converted.parity_path.write_text("{")
    converted.bench_path.write_text('{"schema": "aaexport.bench/1"}')
    found = portray(converted)
    assert found.verified == found.measured == ()
    assert [note.split(" is ")[0] for note in found.notes] == ["parity.json", "bench.json"]
    assert "its schema is 'aaexport.bench/1'" in found.notes[1]


def test_a_record_of_another_file_says_so(converted):
    value = json.loads(converted.parity_path.read_text())
    converted.parity_path.write_text(json.dumps(value | {"onnx_sha256": "0"}))
    (found,) = portray(open_folder(converted.path)).verified
    assert not found.same_file


def test_an_image_that_is_named_must_be_drawn(converted):
    with pytest.raises(ArgumentError, match="image must be from sample:0 to sample:358"):
        portray(converted, "sample:9999")
    with pytest.raises(ArgumentError, match="layer must be an augmented one"):
        portray(converted, layers=("features.0",))
    found = portray(converted, "sample:3", queries=((2, 4),), heads=(1,))
    assert found.attended.layers[0].weights.shape == (1, 1, 4, 4)


def test_the_command_writes_a_page_beside_what_it_shows(converted, tmp_path, cli):
    shown = cli("inspect", converted.path)
    with_page = cli("inspect", converted.path, "--page", "model.html")
    assert (with_page.code, with_page.out) == (0, shown.out)
    page = (tmp_path / "model.html").read_text(encoding="utf-8")
    assert parsed(page).find("body") is not None
    as_json = [
        json.loads(cli("inspect", converted.path, "--json", *more).out) for more in ((), ("--page", "again.html"))
    ]
    assert [value.pop("date") != "" and value.pop("command") != "" for value in as_json] == [True, True]
    assert as_json[0] == as_json[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.html", "model.html", "tiny"]


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--page", "gone/model.html"), 1, "gone must be a folder, got none; create it first"),
        (("--page", "."), 2, "Invalid value for '--page': File '.' is a directory."),
        (("--page", "file.onnx"), 2, "--page must be another file than file.onnx, got 'file.onnx'"),
        (("--page", "notes.txt"), 2, "--page must name a .html file, got 'notes.txt'"),
        (
            ("--page", "own.html"),
            2,
            "--page must name a new file or a page of aaexport to replace, got 'own.html'; it holds something else",
        ),
        (
            ("--page", "p.html", "--out", "p.svg"),
            2,
            "--out must be left out with --page, which has the picture in it",
        ),
        (
            ("--page", "p.html", "--attention", "sample:0"),
            2,
            "model must be a model folder or a zoo name where attention",
        ),
    ],
)
def test_a_page_that_cannot_be_is_refused_in_a_line(tmp_path, rng, cli, options, code, complaint):
    (tmp_path / "file.onnx").write_bytes(convolution(rng))
    (tmp_path / "own.html").write_text("<!DOCTYPE html><title>somebody's</title>")
    assert error_of(cli("inspect", "file.onnx", *options), code).startswith(complaint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.onnx", "own.html"]
    assert "somebody's" in (tmp_path / "own.html").read_text()


def test_a_page_replaces_an_older_one_and_an_empty_file(tmp_path, rng, cli):
    (tmp_path / "file.onnx").write_bytes(convolution(rng))
    page = tmp_path / "p.html"
    page.touch()
    assert cli("inspect", "file.onnx", "--page", page).code == 0
    page.write_text(page.read_text(encoding="utf-8").replace("file.onnx", "older"), encoding="utf-8")
    assert cli("inspect", "file.onnx", "--page", page).code == 0
    assert "<h1>file.onnx</h1>" in page.read_text(encoding="utf-8")


def test_a_folder_that_one_is_in_has_its_name(tmp_path, monkeypatch):
    folder = digits_folder(tmp_path / "net")
    monkeypatch.chdir(folder.path)
    assert "<title>net</title>" in model_html(portray("."))
    assert str(inspect(".")).startswith("model") and "net: " in str(inspect("."))


def test_a_file_of_anybody(tmp_path, rng):
    (tmp_path / "file.onnx").write_bytes(convolution(rng))
    found = portray(tmp_path / "file.onnx")
    assert not found.named and found.rules is None
    assert "from product to product" in model_html(found)


def test_a_convolution_that_the_exporter_joined_to_its_normalization_is_with_its_layer_again():
    conv = Part("a", "Conv2d", macs=9, before={}, after={})
    norm = Part("b", "BatchNorm2d", macs=0, before={"Conv": 1, "Mul": 2}, after={"Conv": 1})
    relu = Part("c", "ReLU", macs=0, before=None, after={"Relu": 1})
    first, second, third = rejoined([conv, norm, relu])
    assert (first.before, first.after) == ({"Conv": 1}, {"Conv": 1})
    assert (second.before, second.after) == ({"Mul": 2}, {})
    assert third == relu
    assert list(rejoined([])) == [] and list(rejoined([norm, relu])) == [norm, relu]


# In a browser


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_has_nothing_to_complain_of_and_nothing_is_wider_than_the_screen(converted_once, drawn, scheme, width):
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no page is looked at")
    large = dataclasses.replace(portray("aa_resnet50"), attended=drawn.attended)
    for portrait in (drawn, large, portray(open_folder(converted_once).onnx_path)):
        with shown(model_html(portrait), width, scheme) as browser:
            assert browser.evaluate("document.documentElement.scrollWidth") == width
            browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert browser.evaluate("document.documentElement.scrollWidth") == width
            assert axe_violations(browser) == []
            assert browser.evaluate("document.activeElement.tagName") == "BODY"
            browser.call("Input.dispatchKeyEvent", {"type": "keyDown", "key": "Tab", "code": "Tab"})
            assert browser.evaluate("document.activeElement.matches('summary, .scroll')")
