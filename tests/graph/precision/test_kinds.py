import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aaexport.errors import GraphError
from aaexport.graph.precision.kinds import (
    Origin,
    is_quantized,
    kind_of,
    read_origin,
    record_kind,
    record_origin,
    require_float32,
)


def model(*operators, dtype=np.float32):
    """x through operators of one input each, with a constant added at the end."""
    names = ["x", *(f"t{place}" for place in range(len(operators)))]
    nodes = [helper.make_node(op, [names[place]], [names[place + 1]]) for place, op in enumerate(operators)]
    nodes.append(helper.make_node("Add", [names[-1], "c"], ["y"]))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x, y = (helper.make_tensor_value_info(name, kind, [1, 2]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.ones(2, dtype), "c")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_plain_model_is_float32():
    assert kind_of(model("Relu")) == "float32"
    require_float32(model("Relu"), "int8")


def test_types_tell_float16_and_bfloat16():
    assert kind_of(model("Relu", dtype=np.float16)) == "float16"
    coarse = model("Relu")
    coarse.graph.node.append(helper.make_node("Cast", ["y"], ["z"], to=TensorProto.BFLOAT16))
    assert kind_of(coarse) == "bfloat16"


@pytest.mark.parametrize("operator", ["DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "QLinearConv"])
def test_a_quantized_file_of_another_tool_is_not_ours(operator):
    assert kind_of(model(operator)) == "quantized"


def test_operators_of_other_domains_count_too():
    foreign = model()
    foreign.graph.node.append(helper.make_node("MatMulNBits", ["y"], ["z"], domain="com.microsoft"))
    assert is_quantized(foreign)


@pytest.mark.parametrize("operator", ["Relu", "QuickGelu", "Sqrt"])
def test_other_operators_are_none(operator):
    assert not is_quantized(model(operator))


def test_what_is_in_a_branch_counts():
    branch = helper.make_graph([helper.make_node("DequantizeLinear", ["y"], ["z"])], "b", [], [])
    outer = model()
    outer.graph.node.append(helper.make_node("If", ["y"], ["z"], then_branch=branch, else_branch=branch))
    assert kind_of(outer) == "quantized"


def test_a_file_says_what_it_is():
    ours = model("DequantizeLinear")
    record_kind(ours, "int8", [("stem", "conv_1", "Conv", "it was asked to")])
    record_origin(ours, "ab12", {"images": 64, "seed": 0})
    kept = (("stem", "conv_1", "Conv", "it was asked to"),)
    assert read_origin(ours) == Origin("int8", "ab12", {"images": 64, "seed": 0}, kept)
    assert kind_of(ours) == "int8"


def test_said_again_replaces_what_was_said():
    ours = model("DequantizeLinear")
    record_kind(ours, "float16", [])
    record_kind(ours, "int8", [])
    assert len(ours.metadata_props) == 2
    assert read_origin(ours) == Origin("int8")


@pytest.mark.parametrize("claim", ["float32", "float16", "int8", "int4"])
def test_a_claim_that_the_operators_do_not_bear_out_is_none(claim):
    plain = model("DequantizeLinear") if claim == "float32" else model("Relu")
    record_kind(plain, claim, [])
    assert read_origin(plain) is None


@pytest.mark.parametrize("text", ["", "[]", '{"kept": 1, "source": 2, "calibration": 3}', '{"kept": [["a"]]}'])
def test_what_others_wrote_there_is_no_error(text):
    ours = model("Relu", dtype=np.float16)
    record_kind(ours, "float16", [])
    ours.metadata_props[-1].value = text
    assert read_origin(ours) == Origin("float16")


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (model("Relu", dtype=np.float16), "one in float16"),
        (model("DequantizeLinear"), "one that is quantized already, by another tool"),
    ],
)
def test_another_file_is_refused(given, got):
    with pytest.raises(GraphError) as error:
        require_float32(given, "int8")
    text = f"the model must be a float32 file to become int8, got {got}; start from the float32 file"
    assert str(error.value) == text


def test_our_own_quantized_file_is_refused_as_such():
    ours = model("DequantizeLinear")
    record_kind(ours, "int8", [])
    with pytest.raises(
        GraphError, match=r"got one that aaexport has quantized already; start from the float32 file$"
    ):
        require_float32(ours, "float16")


def test_a_model_in_float64_is_refused():
    with pytest.raises(GraphError, match=r"^input x must be float32 to become int8, got 'double'$"):
        require_float32(model("Relu", dtype=np.float64), "int8")


def test_the_model_is_valid_with_what_it_says():
    ours = model("Relu")
    record_kind(ours, "float16", [])
    onnx.checker.check_model(ours)
