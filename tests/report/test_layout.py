"""Every view at every width: names are whole, no line is longer than the terminal, no blank ends one."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from bench_reports import MACHINE
from bench_reports import REPORTS as MEASUREMENTS
from parity_reports import PASSED, judged, row
from parity_reports import REPORTS as VERDICTS
from rich.console import Console
from rich.text import Text

from aaexport.folder import zoo_models
from aaexport.graph.files import GraphSummary, TensorInfo
from aaexport.graph.optimize import RuleReport
from aaexport.load.statistics import Ratio
from aaexport.nn.build import Cost
from aaexport.nn.choice import AttentionSizes, Choice
from aaexport.parity import ParityReport, made_up_cases
from aaexport.recipe import Module, read_recipe
from aaexport.report.bench.terminal import bench_view
from aaexport.report.layout import Facts, Table, Words, as_text
from aaexport.report.optimize import optimize_view
from aaexport.report.parity.terminal import parity_view
from aaexport.report.terminal import attention_view, convert_view, inspect_view, list_view
from aaexport.report.training import train_view
from aaexport.report.tuning import tuning_view
from aaexport.results import (
    AttentionPicture,
    Candidate,
    ConvertResult,
    InspectResult,
    LayerAttention,
    OptimizeResult,
    TunedLayer,
    TuneResult,
)
from aaexport.training import Epoch, TrainResult

WIDTHS = (60, 80, 120)
LONG = "/a/folder/of/somebody/who/likes/long/names/and/has/many/of/them/aa_wrn28_10_reference"
DIGEST = "92d83a1e" * 8
OPERATORS = {"Reshape": 22, "MatMul": 12, "Conv": 9, "Transpose": 9, "Slice": 6, "Softmax": 3, "Gemm": 1}
EVERY_CASE = ParityReport(
    "model.onnx",
    tuple(
        row(name, outputs=tuple(judged(c.name) for c in made_up_cases((1, 2, 2), (3, 1), 2, 0)))
        for name in ("PyTorch, fold", "onnx reference", "onnxruntime CPU, unoptimized", "onnxruntime CPU")
    ),
)
GRAPH = GraphSummary(
    Path(LONG, "model.onnx"), 1_110_000, 20, "aaexport 0.1.0", OPERATORS, 271_854, 5_151_104,
    (TensorInfo("input", "float", ("batch", 3, 32, 32)),),
    (TensorInfo("logits", "float", ("batch", 100)), TensorInfo("attention.conv.head0", "float", ("batch", 4, 4))),
    {"aaexport.weights_digest": DIGEST, "aaexport.labels": str(list(range(100))), "note": "somebody's"},
)  # fmt: skip
CONVERTED = ConvertResult(
    Path(LONG, "model.onnx"), 20, "fold", "dynamic", OPERATORS, 1_110_000, 6.5, PASSED,
    notes=("weights taken from ['model']", "6 relative tables interpolated: accuracy may differ"),
    attention_outputs=tuple(f"attention.features.{layer}.head{head}" for layer in range(4) for head in range(8)),
    rules={"batch normalization through Concat": 3, "scale of the queries into the convolution's weights": 3},
    replaced={f"layers.{index}": "the PyTorch reference implementation's AugmentedConv" for index in range(9)},
    kept={"layers.9": "its key must have the shape (2, 8), got (2, 9)"},
)  # fmt: skip
REWRITTEN = OptimizeResult(
    Path(LONG, "fast.onnx"), "cpu", OPERATORS, OPERATORS,
    (RuleReport("scale of the queries into the convolution's weights", 3, {}),
     RuleReport("batch normalization through Concat", 0, {"the Concat's other reader must be a batch normalization, "
                                                          "got Relu, and that is a long reason": 3, "short": 1})),
    PASSED,
)  # fmt: skip
FOLD, TABLE = Choice("fold"), Choice("table")
LATENCIES = np.full(8, 0.25)
TUNED = TuneResult(
    Path(LONG, "tuning.json"), "onnxruntime CPU", "CPUExecutionProvider", 20, 4, None, 2.0, 0,
    (TunedLayer(AttentionSizes(8, 8, 20, 4, 2), ("features.0", "features.3"),
                (Candidate(FOLD, LATENCIES, (LATENCIES,) * 3, 1_200_000, 5.7e-8), Candidate(TABLE, LATENCIES),
                 Candidate(Choice("skew"), failure="it must answer as the definition does, got an error of 1.0e-03")),
                FOLD, TABLE, TABLE, Ratio(1.3, 1.2, 1.4, 6)),),
    MACHINE, {"aaexport": "0.1.0"}, 61.0, ("the machine is not quiet; close what else runs",), ("a note",),
)  # fmt: skip
DRAWN = AttentionPicture(
    Path("heads.png"), Path(LONG, "seven.png"), "aa_cnn3_digits",
    (LayerAttention("features.6", (0, 1, 2, 3), ((2, 2), (2, 6), (4, 4)), ((1, 1), (1, 3), (2, 2)),
                    np.full((3, 4, 4, 4), 1 / 16)),),
    ("the weights are random ones, never trained",),
)  # fmt: skip
EPOCHS = (Epoch(1, 2.3, 0.17, 0.52, 0.9, 0.1, 10.0, 5677.0), Epoch(2, 1.8, 0.5, 0.65, 0.98, 0.1, 10.0, 7152.0))
TRAINED = TrainResult(Path(LONG), EPOCHS, "cpu", "float32", 10, notes=("a note that says what is to be known",))


def zoo():
    cost = Cost(206_229_580, 47_790_000_000, 863_100_000)
    return {
        name: InspectResult(folder.path, read_recipe(folder.recipe_path), cost, True, None)
        for name, folder in zoo_models().items()
    }


ZOO = zoo()
INSPECTED = dataclasses.replace(ZOO["aa_wrn28_10_reference"], path=Path(LONG), graph=GRAPH)
NETS = Module(source="nets.py:Net", input_shape=(1, 8, 8), outputs=("logits",), kwargs=("width=12",))
BROUGHT = InspectResult(Path(LONG), None, None, True, GRAPH, NETS)
VIEWS = {
    **{f"measured: {name}": bench_view(report) for name, report in MEASUREMENTS.items() if name != "hostile"},
    **{f"judged: {name}": parity_view(report) for name, report in VERDICTS.items()},
    "judged: every case": parity_view(EVERY_CASE),
    "converted": convert_view(CONVERTED),
    "inspected": inspect_view(INSPECTED),
    "inspected, all": inspect_view(INSPECTED, verbose=True),
    "inspected, brought": inspect_view(BROUGHT),
    "listed": list_view(ZOO, {"fold": "Relative logits inside the product: one."}, {"digits": "scans"},
                        {"CUDAExecutionProvider": "libcuda must be libcuda.so.1 for onnxruntime 1.31.1, got none"}),
    "optimized": optimize_view(REWRITTEN),
    "tuned": tuning_view(TUNED),
    "drawn": attention_view(DRAWN),
    "trained": train_view(TRAINED),
}  # fmt: skip
every_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def at(view, width, encoding="utf-8"):
    """As a terminal of that width and encoding gets it."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(view, crop=False)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


def words(text):
    return re.sub(r"[─\s]+", " ", text)


@pytest.mark.parametrize("width", WIDTHS)
@every_view
def test_no_line_is_too_long_but_for_one_word(view, width):
    for line in at(view, width).splitlines():
        assert len(line) <= width or LONG in line or DIGEST in line, line
        assert line == line.rstrip()


@pytest.mark.parametrize("width", WIDTHS)
@every_view
def test_nothing_is_cut_where_it_is_narrow(view, width):
    """The same words at every width, and each of them whole; commas stand where there are no columns."""
    narrow, wide = (set(words(at(view, columns)).replace(",", " ").split()) for columns in (width, 10_000))
    assert narrow == wide


@every_view
def test_a_pipe_gets_no_trailing_blank(view):
    assert all(line == line.rstrip() for line in as_text(view).splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
@every_view
def test_every_view_can_be_said_in_a_small_alphabet(view, encoding):
    """And stays in its columns: what stands for a sign may be longer than it."""
    assert max(len(line) for line in at(view, 80, encoding).splitlines() if LONG not in line) <= 80


@pytest.mark.parametrize("width", WIDTHS)
def test_the_names_that_one_copies_are_whole_and_on_one_line(width):
    lines = at(VIEWS["listed"], width).splitlines()
    for name in ZOO:
        assert sum(line.split()[:1] == [name] for line in lines) == 1
    assert any(LONG in line for line in at(VIEWS["converted"], width).splitlines())


def test_percentiles_are_rows_where_columns_would_not_fit():
    wide, narrow = at(VIEWS["measured: full"], 120), at(VIEWS["measured: full"], 80)
    assert re.search(r"^latency in ms +p50 +p90 +p95 +p99 +p99.9 +slowest$", wide, re.MULTILINE)
    assert re.search(r"^latency in ms +measured +95 % interval$", narrow, re.MULTILINE)
    assert re.search(r"^p99 +5\.906 +5\.859–5\.944$", narrow, re.MULTILINE)


def test_a_table_changes_its_form_and_not_its_names():
    table = Table(("what", "first", "second"), [("a name of words", "1.25", "2.5"), ("b", "12.5", "–")])
    assert at(table, 40).splitlines() == [
        "what              first   second",
        "────────────────────────────────",
        "a name of words    1.25      2.5",
        "b                  12.5        –",
    ]
    assert at(table, 27).splitlines() == [
        "what",
        "  first  second",
        "───────────────",
        "a name of words",
        "   1.25     2.5",
        "b",
        "   12.5       –",
    ]
    assert at(table, 13).splitlines() == [
        "what",
        "─────────────",
        "a name of words",
        "  first 1.25,",
        "  second 2.5",
        "b",
        "  first 12.5,",
        "  second –",
    ]


def test_prose_wraps_in_its_column():
    table = Table(("name", "why"), [("a", "It is long, and so it wraps where the terminal ends.")], prose=True)
    assert at(table, 37).splitlines()[2:] == [
        "a      It is long, and so it wraps",
        "       where the terminal ends.",
    ]


def test_a_figure_stays_with_its_unit():
    assert at(Words("it took 12 ms, no more"), 10).splitlines() == ["it took", "12 ms, no", "more"]


def test_facts_wrap_beside_their_names():
    facts = Facts({"name": "one two three", "other": Text("a\nb")})
    assert at(facts, 14).splitlines() == ["name   one two", "       three", "other  a", "       b"]


def test_signs_have_readable_forms():
    assert at(Words("2 × 3 ≥ 5 ÷ 1 – 3² µs … é"), 80, "ascii").strip() == "2 x 3 >= 5 / 1 - 3^2 us ... \\xe9"
    assert at(Words("2 × 3 ≥ 5 ÷ 1 – é"), 80, "latin-1").strip() == "2 × 3 >= 5 ÷ 1 - é"


def test_digests_are_shown_on_request_only():
    assert "92d83a1e" not in at(VIEWS["inspected"], 80)
    assert "1 digest, which `aaexport -v inspect` shows" in words(at(VIEWS["inspected"], 80))
    assert DIGEST in at(VIEWS["inspected, all"], 80)
