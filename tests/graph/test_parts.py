"""A graph told module by module, or from product to product where the file names none."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aaexport.graph.metadata import MODULE_PATH, path_of
from aaexport.graph.optimize import ROOT, optimize_model
from aaexport.graph.parts import graph_parts, names_modules, operators_by_path
from aaexport.graph.rules import FILE_RULES


def network(paths=(None, None, None, None), names=("", "", "", "")):
    """Conv 3 → 4, BatchNormalization, Relu, and the mean, of the modules `paths`."""
    rng = np.random.default_rng(0)
    numbers = {
        "w": rng.standard_normal((4, 3, 3, 3), np.float32),
        **{name: np.ones(4, np.float32) for name in ("scale", "shift", "mean", "var")},
        "b": np.zeros(4, np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["y"], keepdims=0),
    ]
    for node, path, name in zip(nodes, paths, names, strict=True):
        node.name = name
        if path is not None:
            node.metadata_props.add(key=MODULE_PATH, value=repr(["", path, "call"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 5, 6])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    held = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "network", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


MODULES = ("features.0", "features.1", "features.2", "")


def test_each_module_has_its_operators_sizes_and_costs():
    conv, norm, relu, whole = graph_parts(network(MODULES))
    assert [part.path for part in (conv, norm, relu, whole)] == list(MODULES)
    assert (conv.reads, conv.writes) == ((1, 3, 5, 6), (1, 4, 5, 6))
    assert (conv.parameters, conv.macs) == (4 * 27 + 4, 4 * 27 * 30)
    assert (norm.parameters, norm.macs, norm.operators) == (16, 0, {"BatchNormalization": 1})
    assert (whole.reads, whole.writes, whole.parameters) == ((1, 4, 5, 6), (1, 4), 0)


def test_a_node_that_names_no_module_is_of_the_one_that_it_reads_from():
    assert operators_by_path(network(("a", None, "b", None))) == {
        "a": {"Conv": 1, "BatchNormalization": 1},
        "b": {"Relu": 1, "ReduceMean": 1},
    }


def test_older_exporters_tell_modules_in_the_names_of_nodes():
    names = (
        "/features/features.0/Conv",
        "/features/features.1/BatchNormalization",
        "/features/features.2/Relu",
        "/Mean",
    )
    assert list(operators_by_path(network(names=names))) == list(MODULES)
    assert path_of("", "/layer1/layer1.0/conv1/Conv_1") == "layer1.0.conv1"
    assert path_of("", "Conv_12") is None


def test_without_modules_parts_go_from_product_to_product():
    model = network()
    assert not names_modules(model)
    (part,) = graph_parts(model)
    assert (part.path, part.anchor, len(part.operators), part.writes) == ("c", "Conv", 4, (1, 4))
    twice = network(names=("same", "", "", ""))
    twice.graph.node.append(helper.make_node("Gemm", ["y", "square"], ["z"], name="same"))
    twice.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "square"))
    assert [part.path for part in graph_parts(twice)] == ["same", "same (2)"]


def test_costs_that_nobody_knows_are_none():
    model = network(MODULES)
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    conv = graph_parts(model)[0]
    assert (conv.macs, conv.reads) == (None, None)


def test_a_report_tells_where_a_rule_was_applied():
    _, reports = optimize_model(network(MODULES), rules=FILE_RULES)
    applied = {report.title: report.where for report in reports if report.applied}
    assert applied == {"batch normalization into the convolution's weights": {"features.1": 1}}
    _, reports = optimize_model(network(("", "", "", "")), rules=FILE_RULES)
    assert [report.where for report in reports if report.applied] == [{ROOT: 1}]
    _, reports = optimize_model(network(), rules=FILE_RULES)
    assert [(report.applied, report.where) for report in reports if report.applied] == [(1, {})]
