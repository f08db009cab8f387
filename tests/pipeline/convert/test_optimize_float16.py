"""optimize --dtype float16: any ONNX file in half its size, judged by what it lost, and told what stays as it was."""

import json

import large_graphs
import numpy as np
import onnx
import pytest
from low_limits import low_limits
from onnx import TensorProto, helper
from precision_graphs import images, model, types_of
from precision_mutants import louder_attention

from aaexport.errors import ArgumentError, GraphError, ParityError, RunnerError
from aaexport.graph.evaluate import OVERFLOW_MACS
from aaexport.graph.files import file_digest
from aaexport.graph.precision.kinds import read_origin
from aaexport.graph.precision.ranges import Range
from aaexport.graph.write import write_onnx
from aaexport.pipeline.convert import narrowed
from aaexport.pipeline.convert.optimize import optimize
from aaexport.runners.reference import ReferenceRunner


def attention():
    """x to itself, by keys and queries that are x."""
    nodes = [
        ("Transpose", ["x"], ["k"], {"perm": [0, 2, 1]}),
        ("Mul", ["x", "scale"], ["q"], {}),
        ("MatMul", ["q", "k"], ["s"], {}),
        ("Softmax", ["s"], ["p"], {}),
        ("MatMul", ["p", "x"], ["v"], {}),
        ("MatMul", ["v", "w"], ["y"], {}),
    ]
    constants = {"scale": np.float32([0.25]), "w": images(16, 128)}
    return model(nodes, {"x": ["batch", 6, 16]}, constants)


@pytest.fixture
def given(tmp_path):
    path = tmp_path / "given.onnx"
    onnx.save(attention(), path)
    return path


def test_the_file_is_half_as_large_and_says_what_it_is(given, tmp_path):
    path = tmp_path / "half.onnx"
    result = optimize(given, path, dtype="float16")
    assert result.parity.passed
    assert result.parity.guard.sqnr_db > 55
    assert {row.computation for row in result.parity.guard.rows} == {
        "onnxruntime CPU",
        "onnxruntime CPU, unoptimized",
        "onnx's reference evaluator",
    }
    assert (result.dtype, result.kept) == ("float16", ())
    assert [layer.operator for layer in result.reduced].count("MatMul") == 3
    made = onnx.load(path)
    assert types_of(made)["w"] == np.float16
    origin = read_origin(made)
    assert (origin.kind, origin.source) == ("float16", file_digest(given, ()))
    assert origin.calibration == {"inputs": "made up", "seed": 0}


def test_what_must_stay_in_float32_is_told(tmp_path, cli):
    given, path = tmp_path / "loud.onnx", tmp_path / "half.onnx"
    onnx.save(louder_attention(attention(), 80), given)
    done = cli("optimize", given, path, "--dtype", "float16", "--keep", "MatMul_5")
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert "MatMul MatMul_2: s reaches " in words
    assert "an eighth of float16's largest number" in words
    assert "MatMul MatMul_5: it was asked to stay in float32" in words
    value = json.loads(cli("optimize", given, path, "--dtype", "float16", "--json").out)
    assert value["dtype"] == "float16"
    assert [each["layer"]["node"] for each in value["kept"]] == ["MatMul_2", "Softmax_3"]
    assert value["parity"]["kind"] == "float16"


def test_inputs_that_are_given_are_what_is_seen(tmp_path):
    given, path = tmp_path / "given.onnx", tmp_path / "half.onnx"
    onnx.save(attention(), given)
    np.savez(tmp_path / "loud.npz", x=images(2, 6, 16, scale=100))
    result = optimize(given, path, dtype="float16", inputs=tmp_path / "loud.npz")
    assert [each.layer.node for each in result.kept] == ["MatMul_2", "Softmax_3"]
    assert read_origin(onnx.load(path)).calibration["inputs"] == "loud.npz"


def test_an_overflow_that_the_cpu_hides_is_found_and_no_file_is_written(tmp_path, monkeypatch):
    given, path = tmp_path / "loud.onnx", tmp_path / "half.onnx"
    onnx.save(louder_attention(attention(), 300), given)
    path.write_bytes(b"before")
    names = ("x", "q", "k", "s", "v", "y", "mutant_q_louder", "mutant_k_louder")
    monkeypatch.setattr(narrowed, "_ranges", lambda observed, options: dict.fromkeys(names, Range(-1.0, 1.0)))
    with pytest.raises(ParityError) as error:
        optimize(given, path, dtype="float16")
    failures = error.value.report.failures
    assert any("not finite of y by onnx's reference evaluator" in line for line in failures)
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize(("macs", "why"), [(None, "it is not known how long"), (10**12, "a network of this size")])
def test_an_evaluator_that_is_not_asked_is_told(given, tmp_path, monkeypatch, macs, why):
    monkeypatch.setattr(narrowed, "count_macs", lambda model: macs)
    (note,) = optimize(given, tmp_path / "half.onnx", dtype="float16").parity.notes
    assert f"onnx's reference evaluator was not asked: {why}" in note
    assert note.endswith("a CPU may hide an overflow of float16")


@pytest.mark.parametrize(("macs", "asked"), [(OVERFLOW_MACS, True), (OVERFLOW_MACS + 1, False)])
def test_of_a_large_network_the_evaluator_sees_one_image(given, tmp_path, monkeypatch, macs, asked):
    monkeypatch.setattr(narrowed, "count_macs", lambda model: macs)
    report = optimize(given, tmp_path / "half.onnx", dtype="float16").parity
    rows = [row for row in report.guard.rows if row.computation == "onnx's reference evaluator"]
    assert {row.images for row in rows} == ({1} if asked else set())
    assert bool(report.notes) != asked


@pytest.mark.parametrize("unknown", [("half",), ("half", "given")])
def test_a_file_that_the_evaluator_cannot_run_fails_unless_the_given_one_is_no_better(given, monkeypatch, unknown):
    def runner(path):
        if path.stem in unknown:
            raise RunnerError(f"no {path.stem}")
        return ReferenceRunner(path)

    monkeypatch.setattr(narrowed, "ReferenceRunner", runner)
    feeds = {"x": images(2, 6, 16)}
    cases = [(narrowed.Fed("made up", feeds, is_optional=False), {"y": images(2, 6, 128)})]
    losses, notes = narrowed._evaluated(given, given.with_name("half.onnx"), cases, is_known=True)
    assert [row.passed for row in losses.rows()] == ([] if "given" in unknown else [False])
    assert bool(notes) == ("given" in unknown)


def test_a_model_of_integers_and_several_inputs(tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("Add", ["rows", "x"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["best"], axis=-1, keepdims=0),
    ]
    tensors = [onnx.numpy_helper.from_array(images(9, 4), "table")]
    ins = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", 3]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4]),
    ]
    outs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 4]),
        helper.make_tensor_value_info("best", TensorProto.INT64, ["batch", 3]),
    ]
    graph = helper.make_graph(nodes, "g", ins, outs, tensors)
    given = tmp_path / "given.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), given)
    for io_dtype in ("float32", "float16"):
        result = optimize(given, tmp_path / "half.onnx", dtype="float16", io_dtype=io_dtype)
        assert result.parity.passed
        assert {row.measure for row in result.parity.guard.rows} == {"SQNR", "not finite", "same", "optimizer"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dtype": "int8"}, "dtype must be one of float32, float16, got 'int8'; it needs images: "),
        ({"dtype": "float16", "verify": False}, "verify must be on with dtype float16, got 'off'; the guard"),
        ({"dtype": "bfloat16"}, "dtype must be one of float32, float16, got 'bfloat16'; float16 is as small"),
        ({"dtype": "float64"}, "dtype must be one of float32, float16, got 'float64'"),
        ({"dtype": "float16", "io_dtype": "int8"}, "io_dtype must be one of float32, float16, got 'int8'"),
        ({"io_dtype": "float16"}, "io_dtype must go with dtype float16, got 'float16'"),
        ({"keep": ["a"]}, "keep must go with dtype float16, got 'a'"),
        ({"dtype": "float16", "atol": 1e-3}, "atol must be left out with dtype float16, got '0.001'"),
        ({"dtype": "float16", "rtol": 1e-3}, "rtol must be left out with dtype float16, got '0.001'"),
    ],
)
def test_what_does_not_go_together_is_refused(options, text, given, tmp_path):
    with pytest.raises(ArgumentError) as error:
        optimize(given, tmp_path / "half.onnx", **options)
    assert str(error.value).startswith(text)


def test_a_file_that_is_no_float32_file_is_refused(given, tmp_path):
    path = tmp_path / "half.onnx"
    optimize(given, path, dtype="float16")
    with pytest.raises(GraphError, match="got one in float16; start from the float32 file"):
        optimize(path, tmp_path / "again.onnx", dtype="float16")
    assert not (tmp_path / "again.onnx").exists()


def test_a_model_with_numbers_beside_it(tmp_path):
    given, path = tmp_path / "given.onnx", tmp_path / "half.onnx"
    with low_limits():
        write_onnx(large_graphs.model_of(), given)
        result = optimize(given, path, dtype="float16")
        assert result.parity.passed
        assert result.data_file is None
        write_onnx(large_graphs.model_of(width=90), given)
        result = optimize(given, path, dtype="float16")
        assert result.parity.passed
        assert result.data_file.stat().st_size < 90 * 38 * 2 + 2**17
