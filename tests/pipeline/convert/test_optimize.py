"""optimize: any ONNX file by the rules that pay, compared before it is written; convert applies them too."""

import json
import sys
import warnings

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_files import convolution
from outcomes import error_of
from repository import ROOT

import aaexport
from aaexport.errors import ArgumentError, GraphError, ParityError
from aaexport.graph.rules import FILE_RULES
from aaexport.nn import AugmentedConv2d, set_decomposition
from aaexport.nn.relative import DECOMPOSITIONS

NAIVE = ROOT / "examples" / "03_measure_attention"


@pytest.fixture(scope="module")
def naive_file(tmp_path_factory):
    """A layer as the public implementations write it, exported by torch alone."""
    path = tmp_path_factory.mktemp("naive") / "layer.onnx"
    torch.manual_seed(0)
    layer = AugmentedConv2d(3, 8, dk=8, dv=4, num_heads=2, height=4, width=5, qkv_kernel_size=3, bias=True).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(NAIVE), *sys.path])
        from naive import naive

        patch.setitem(DECOMPOSITIONS, "skew", naive)
        set_decomposition(layer, "skew")
        sizes = ({0: torch.export.Dim("batch")},)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(layer, (torch.zeros(2, 3, 4, 5),), path, dynamo=True, dynamic_shapes=sizes,
                              external_data=False, verbose=False)  # fmt: skip
    return path


def rules_of(path):
    (entry,) = (entry for entry in onnx.load(path).metadata_props if entry.key == "aaexport.rules")
    return json.loads(entry.value)


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.slow
def test_a_file_of_another_tool_loses_what_makes_it_slow(naive_file, tmp_path):
    result = aaexport.optimize(naive_file, tmp_path / "fast.onnx")
    assert {"Einsum", "Tile"} <= operators(naive_file)
    assert not {"Einsum", "Tile"} & operators(tmp_path / "fast.onnx")
    assert result.parity.passed


def test_the_file_says_which_rules_made_it(naive_file, tmp_path):
    result = aaexport.optimize(naive_file, tmp_path / "fast.onnx")
    assert rules_of(tmp_path / "fast.onnx") == {rule.title: rule.applied for rule in result.rules if rule.applied}


def test_every_rule_is_in_the_report(naive_file, tmp_path):
    result = aaexport.optimize(naive_file, tmp_path / "fast.onnx")
    assert [rule.title for rule in result.rules] == [rule.title for rule in FILE_RULES]


def test_the_source_stays_as_it_is(naive_file, tmp_path):
    before = naive_file.read_bytes()
    aaexport.optimize(naive_file, tmp_path / "fast.onnx")
    assert naive_file.read_bytes() == before


def test_a_file_may_replace_itself(naive_file, tmp_path):
    path = tmp_path / "own.onnx"
    path.write_bytes(naive_file.read_bytes())
    aaexport.optimize(path, path)
    assert "Einsum" not in operators(path)


def test_a_second_time_changes_nothing(naive_file, tmp_path):
    aaexport.optimize(naive_file, tmp_path / "once.onnx")
    again = aaexport.optimize(tmp_path / "once.onnx", tmp_path / "twice.onnx")
    assert not any(rule.applied for rule in again.rules)
    assert again.before == again.after


@pytest.fixture
def faulty(monkeypatch):
    """A rule that loses a sign."""

    def rewrite(self, op, x, table, summed):
        return op.Neg(op.MatMul(x, op.Transpose(table, perm=[1, 0])))

    monkeypatch.setattr("aaexport.graph.rules.einsum_as_matmul.EinsumAsMatmul.rewrite", rewrite)


@pytest.mark.usefixtures("faulty")
def test_a_rule_that_changes_the_function_writes_nothing(naive_file, tmp_path):
    with pytest.raises(ParityError, match="it would compute something else"):
        aaexport.optimize(naive_file, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_rules(cli, naive_file):
    outcome = cli("optimize", naive_file, "fast.onnx")
    assert outcome.code == 0
    assert "broadcasting instead of tiled relative logits" in outcome.out
    assert "PASS" in outcome.out


def test_the_command_prints_json(cli, naive_file):
    outcome = cli("optimize", naive_file, "fast.onnx", "--json", "--no-verify")
    report = json.loads(outcome.out)
    assert report["schema"] == "aaexport.optimize/1"
    assert report["parity"] is None
    assert {rule["title"] for rule in report["rules"]} == {rule.title for rule in FILE_RULES}


@pytest.mark.usefixtures("faulty")
def test_a_parity_failure_ends_with_3_and_the_report(cli, naive_file, tmp_path):
    outcome = cli("optimize", naive_file, "wrong.onnx")
    assert outcome.code == 3
    assert "FAIL" in outcome.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.onnx", "out.onnx"], 1, "missing.onnx must be a whole ONNX file"),
        (["text.onnx", "out.onnx"], 1, "its bytes are not an ONNX model"),
        (["SOURCE", "nowhere/out.onnx"], 1, "nowhere must be a folder, got none"),
        (["SOURCE", "."], 2, "path must name a file, got the folder ."),
        (["SOURCE", "out.onnx", "--target", "tpu"], 2, "'tpu' is not one of 'cpu', 'cuda'"),
        (["SOURCE", "out.onnx", "--atol", "-1"], 2, "atol must be at least 0 and finite, got -1.0"),
    ],
)
def test_bad_input_is_one_line(cli, naive_file, tmp_path, arguments, code, words):
    (tmp_path / "text.onnx").write_text("not a model")
    outcome = cli("optimize", *[naive_file if word == "SOURCE" else word for word in arguments])
    assert outcome.code == code
    assert words in outcome.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["text.onnx"]


def single(op, shape, dtype=TensorProto.FLOAT):
    """A model of one operator."""
    ports = [helper.make_tensor_value_info(name, dtype, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "one", ports[:1], ports[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_sizes_that_cannot_be_made_up_are_said_with_the_remedy(tmp_path):
    onnx.save(single("Relu", ["batch", 3, "height", "width"]), tmp_path / "any.onnx")
    with pytest.raises(ArgumentError, match=r"input x must be dynamic in the batch only, .*--no-verify"):
        aaexport.optimize(tmp_path / "any.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
    aaexport.optimize(tmp_path / "any.onnx", tmp_path / "out.onnx", verify=False)
    assert (tmp_path / "out.onnx").is_file()


@pytest.mark.parametrize("dtype", [TensorProto.INT64, TensorProto.FLOAT16])
def test_other_types_are_compared_too(tmp_path, dtype):
    onnx.save(single("Abs", [2, 3], dtype), tmp_path / "in.onnx")
    assert aaexport.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx").parity.passed


def half(path, tmp_path):
    """The file in float16, inputs and outputs too."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(path), keep_io_types=False, disable_shape_infer=True)
    onnx.save(model, tmp_path / "half.onnx")
    return tmp_path / "half.onnx"


def test_a_float16_file_is_judged_by_its_own_precision(naive_file, tmp_path):
    result = aaexport.optimize(half(naive_file, tmp_path), tmp_path / "fast.onnx")
    assert any(rule.applied for rule in result.rules)
    assert result.parity.passed


def test_a_file_that_answers_nan_cannot_be_compared(tmp_path):
    onnx.save(single("Log", [2, 3]), tmp_path / "in.onnx")
    with pytest.raises(ArgumentError, match="output y of the first file must be finite for random inputs"):
        aaexport.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_file_of_an_older_opset_is_refused_with_the_remedy(tmp_path):
    model = single("Relu", [2, 3])
    model.opset_import[0].version = 10
    onnx.save(model, tmp_path / "in.onnx")
    with pytest.raises(GraphError, match=r"opset must be at least 11, got 10; .*version_converter"):
        aaexport.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx")


def test_a_file_that_writes_a_tensor_twice_is_refused(tmp_path):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])] * 2, "twice", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "in.onnx")
    with pytest.raises(GraphError, match="the model must be a whole ONNX model, but: Output 'y' is redeclared"):
        aaexport.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_a_branch_is_left_as_it_is(tmp_path):
    """A product with a constant in a branch, of a convolution outside of it."""
    inner = helper.make_graph(
        [helper.make_node("Mul", ["a", "s"], ["t"], name="scale")],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 2, 4, 4])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 2, 4, 4])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1]),
            helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other),
        ],
        "outer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [2, 2, 1, 1], [1.0, 2.0, 3.0, 4.0]),
            helper.make_tensor("s", TensorProto.FLOAT, [], [0.5]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "in.onnx")
    result = aaexport.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert not any(rule.applied for rule in result.rules)
    reasons = {reason for rule in result.rules for reason in rule.refused}
    assert reasons == {"it lies in the branch of an If or the body of a loop"}


def test_what_an_earlier_run_recorded_stays(converted, tmp_path):
    before = rules_of(converted.onnx_path)
    aaexport.optimize(converted.onnx_path, tmp_path / "again.onnx")
    assert rules_of(tmp_path / "again.onnx") == before


# convert


def test_convert_applies_the_rules_and_says_so(converted, tmp_path):
    result = aaexport.convert(converted, tmp_path / "model.onnx", verify=False)
    assert result.rules == rules_of(tmp_path / "model.onnx")
    assert result.rules["batch normalization through Concat"] == 1


def test_converted_files_scale_no_queries_and_normalise_nothing(converted):
    assert not {"Mul", "BatchNormalization"} & operators(converted.onnx_path)


def test_convert_refuses_another_target(converted, tmp_path):
    with pytest.raises(ArgumentError, match="target must be one of cpu, cuda, got 'tpu'"):
        aaexport.convert(converted, tmp_path / "model.onnx", target="tpu")


# The page


@pytest.fixture
def plain(tmp_path, rng):
    path = tmp_path / "plain.onnx"
    path.write_bytes(convolution(rng))
    return path


def test_a_page_is_written_beside_the_json(plain, tmp_path, cli):
    outcome = cli("optimize", plain, tmp_path / "fast.onnx", "--page", "fast.html", "--json")
    assert json.loads(outcome.out)["after"] == {"Conv": 1, "Relu": 1}
    page = (tmp_path / "fast.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "plain.onnx → fast.onnx" in page and "2 operators → 2" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fast.html", "fast.onnx", "plain.onnx"]


@pytest.mark.parametrize("page", ["gone/fast.html", ".", "plain.onnx", "fast.onnx", "fast.txt"])
def test_a_page_that_cannot_be_is_refused_before_any_work(plain, tmp_path, cli, page):
    before = plain.read_bytes()
    outcome = cli("optimize", plain, tmp_path / "fast.onnx", "--page", page)
    assert outcome.code in (1, 2) and outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["plain.onnx"] and plain.read_bytes() == before


def test_a_page_takes_the_place_of_nothing_but_a_page(plain, tmp_path, cli):
    data = tmp_path / "plain.html"  # external data may have any name
    data.write_bytes(b"weights")
    error = error_of(cli("optimize", plain, tmp_path / "fast.onnx", "--page", data), 2)
    assert error.startswith("--page must name a new file or a page of aaexport to replace, got ")
    assert data.read_bytes() == b"weights" and not (tmp_path / "fast.onnx").exists()
