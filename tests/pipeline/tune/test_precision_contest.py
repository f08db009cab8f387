"""`tune --dtype auto`: the fastest precision that its guard passes and that loses no more than is allowed."""

import dataclasses
import json

import numpy as np
import pytest
from bench_reports import CPU
from rich.console import Console

from aaexport.errors import ArgumentError, DataError, NoWeightsError, ParityError
from aaexport.folder import ModelFolder
from aaexport.load.measurement import Comparison
from aaexport.load.statistics import Ratio
from aaexport.parity import ParityReport
from aaexport.parity.guard import GuardAccuracy, GuardReport
from aaexport.pipeline.tune import precision_contest as contest
from aaexport.pipeline.tune.options import TuneOptions
from aaexport.pipeline.tune.precision_contest import Asked, may_be_taken, precision_contest
from aaexport.pipeline.tune.tune import tune
from aaexport.report.tuning import _precisions, _verdicts, precision_json
from aaexport.results import ConvertResult, KeptLayer, PrecisionCandidate

IMAGES = 1000


def ratio(median, spread=0.02):
    return Ratio(median, median - spread, median + spread, 10, median - spread, median + spread)


class Machine:
    """What `convert` and the measurement would find: a precision's latency ÷ float32's, images that it loses."""

    def __init__(self, monkeypatch, ratios, lost=0, failures=(), withheld=None, same=True):
        self.ratios, self.lost, self.failures = ratios, lost, dict(failures)
        self.withheld, self.same = withheld, same
        self.asked, self.options = [], None
        monkeypatch.setattr(contest, "convert", self.convert)
        monkeypatch.setattr(contest, "measured", self.measured)

    def convert(self, folder, dtype="float32", **given):
        self.asked.append((dtype, given))
        if dtype in self.failures:
            raise self.failures[dtype]
        accuracy = None if self.lost is None else GuardAccuracy.of(IMAGES, 990, 990 - self.lost)
        guard = GuardReport(dtype, "images", (), accuracy) if dtype != "float32" else None
        parity = ParityReport("x", guard=guard)
        kept = () if dtype == "float32" else (KeptLayer("stages.1.conv", "conv_1", "Conv", "it cost most"),)
        path = folder.onnx_of(dtype)
        return ConvertResult(path, 20, "fold", "dynamic", {}, 4_000_000, 1.0, parity, kept_layers=kept)

    def measured(self, folder, options, tick):
        self.options = options
        comparisons = tuple(
            Comparison(name, name, 1.0, 0.1, None if self.withheld else ratio(self.ratios[name]), self.withheld,
                       (np.ones(3),), self.same)
            for name in options.compare
        )  # fmt: skip
        return dataclasses.replace(CPU, comparisons=comparisons, reasons=()), folder.onnx_path, folder


def settled(machine, tmp_path, *, device="cpu", max_loss=None, images=1):
    asked = Asked(20, images, device, 1, 2.0, 0, max_loss)
    found, notes = precision_contest(ModelFolder(tmp_path), asked, lambda step, share: None)
    return found, notes


def test_int8_is_taken_where_it_is_faster_beyond_doubt(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, {"int8": 0.45})
    found, notes = settled(machine, tmp_path)
    assert found.chosen == "int8"
    assert [one.dtype for one in found.candidates] == ["float32", "int8"]
    assert found.images == IMAGES
    assert notes == ("model.onnx, model.int8.onnx were written with these choices",)
    assert machine.asked[1][1]["keep"] == ("auto",)
    assert (machine.options.compare, machine.options.threads, machine.options.scenario) == (
        ("int8",), 1, "single-stream",
    )  # fmt: skip


@pytest.mark.parametrize("times", [1.19, 1.01, 1.0, 0.97])
def test_where_int8_is_no_faster_float32_stays_and_it_is_said(monkeypatch, tmp_path, times):
    found, _ = settled(Machine(monkeypatch, {"int8": times}), tmp_path)
    assert found.chosen == "float32"
    said = list(_verdicts(found))
    word = "slower" if times - 0.02 > 1 else "not faster beyond doubt"
    assert said == [
        f"int8 is {word}: it takes {times:.2f} ({times - 0.02:.2f}–{times + 0.02:.2f}) times as long as float32",
        "int8 leaves in float32: stages.1.conv",
        "float32 stays",
    ]


def test_a_gpu_is_asked_for_float16_too_and_the_fastest_wins(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, {"int8": 0.7, "float16": 0.5})
    found, _ = settled(machine, tmp_path, device="cuda", images=8)
    assert found.chosen == "float16"
    assert [dtype for dtype, _ in machine.asked] == ["float32", "int8", "float16"]
    assert {given["target"] for _, given in machine.asked} == {"cuda"}
    assert (machine.options.scenario, machine.options.samples_per_query) == ("multi-stream", 8)


@pytest.mark.parametrize(("lost", "chosen"), [(5, "int8"), (6, "float32"), (-3, "int8")])
def test_no_more_accuracy_is_lost_than_is_allowed(monkeypatch, tmp_path, lost, chosen):
    found, _ = settled(Machine(monkeypatch, {"int8": 0.5}, lost), tmp_path, max_loss=0.005)
    assert found.chosen == chosen
    int8 = found.candidates[1]
    assert int8.lost == pytest.approx(lost / IMAGES)
    assert (int8.failure is None) == (chosen == "int8")
    if chosen == "float32":
        assert int8.failure == "it loses 0.60 points of accuracy, and 0.5 are allowed"
        assert int8.ratio is None  # not worth the time


def test_without_labels_nobody_can_tell_what_is_lost(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, {"int8": 0.5}, None)
    assert settled(machine, tmp_path)[0].chosen == "int8"
    found, _ = settled(machine, tmp_path, max_loss=0.005)
    assert found.chosen == "float32"
    assert "no labelled images" in found.candidates[1].failure


@pytest.mark.parametrize("error", [ParityError("the guard failed", None), DataError("no images")])
def test_a_precision_that_cannot_be_written_is_told_and_float32_stays(monkeypatch, tmp_path, error):
    found, notes = settled(Machine(monkeypatch, {}, failures={"int8": error}), tmp_path)
    assert found.chosen == "float32"
    assert found.candidates[1].failure == str(error)
    assert notes == ("model.onnx was written with these choices",)


def test_wrong_answers_while_measuring_are_no_choice(monkeypatch, tmp_path):
    found, _ = settled(Machine(monkeypatch, {"int8": 0.5}, same=False), tmp_path)
    assert found.chosen == "float32"
    assert "lost more of float32 than its guard allows" in found.candidates[1].failure


def test_on_a_busy_machine_nobody_can_tell(monkeypatch, tmp_path):
    found, _ = settled(Machine(monkeypatch, {"int8": 0.5}, withheld="it is busy"), tmp_path)
    assert found.chosen == "float32"
    assert next(_verdicts(found)) == "int8: nobody can tell whether it is faster: it is busy"


def test_what_is_told_has_loss_beside_speed(monkeypatch, tmp_path, capsys):
    found, _ = settled(Machine(monkeypatch, {"int8": 0.45}, lost=2), tmp_path, max_loss=0.005)
    Console(width=110).print(_precisions(found))
    text = " ".join(capsys.readouterr().out.split())
    assert "int8 4.00 MB 1.000 ms 0.45 (0.43–0.47) – 98.80 % chosen" in text
    assert "float32 4.00 MB 0.247 ms 1 – 99.00 %" in text
    assert "loses 0.20 points of accuracy" in " ".join(_verdicts(found))
    lossless = dataclasses.replace(found.candidates[1].kept[0], alone_db=float("inf"))
    candidates = (found.candidates[0], dataclasses.replace(found.candidates[1], kept=(lossless,)))
    written = json.dumps(precision_json(dataclasses.replace(found, candidates=candidates)), allow_nan=False)
    assert json.loads(written)["candidates"][1]["kept"][0]["alone_db"] == "Infinity"


@pytest.mark.parametrize(
    ("ratio", "taken"),
    [(ratio(0.9), True), (ratio(0.96), False), (ratio(0.9, 0.2), False), (Ratio(0.9, 0.8, 1.1, 3), False),
     (None, False)],
)  # fmt: skip
def test_faster_is_beyond_doubt_or_not(ratio, taken):
    assert may_be_taken(PrecisionCandidate("int8", ratio=ratio)) is taken
    assert not may_be_taken(PrecisionCandidate("int8", ratio=ratio, failure="wrong"))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"dtype": "int8"}, "dtype must be one of float32, auto"),
     ({"max_loss": 0.1}, "max_loss must go with dtype auto"),
     ({"dtype": "auto", "max_loss": 1.0}, "max_loss must be at least 0 and below 100 %")],
)  # fmt: skip
def test_what_is_asked_has_rules(options, words):
    with pytest.raises(ArgumentError, match=words):
        TuneOptions(**options).check()


def test_without_weights_no_precision_can_be_judged(converted):
    converted.weights_path.unlink()
    with pytest.raises(NoWeightsError):
        tune(converted, dtype="auto")
    assert not converted.tuning_path.exists()


def test_another_size_is_refused(converted):
    with pytest.raises(ArgumentError, match="size must be the recipe's with --dtype auto"):
        tune(converted, size=(6, 6), dtype="auto")
