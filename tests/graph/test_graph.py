"""Modules become plain ONNX graphs, and a file that is not one is refused in one line."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxscript import rewriter
from torch import nn

from aaexport.capture.program import export_program
from aaexport.errors import ArgumentError, ExportError, GraphError
from aaexport.graph.check import UNWANTED_OPERATORS, check_model, check_operators, declared_opset
from aaexport.graph.convert import _chosen_rules, _tolerant_constants, to_onnx
from aaexport.graph.cost import count_macs
from aaexport.graph.files import TensorInfo, read_onnx, summarize
from aaexport.graph.metadata import Provenance, read_metadata, write_metadata
from aaexport.graph.probe import probe_model
from aaexport.graph.write import write_onnx
from aaexport.nn.augmented import AugmentedConv2d
from aaexport.recipe import DECOMPOSITION_NAMES, Input

PROVENANCE = Provenance("0" * 64, "1" * 64, "table", 18)
IMAGE = Input(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,), labels=("cat", "dog"))
SHAPE = (3, 5, 4)  # of an image; height and width differ, so that none passes for the other


def value(name, shape=(1,), element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def graph_of(*nodes, initializers=(), inputs=("x",), outputs=("y",), name="test"):
    return helper.make_graph(nodes, name, [value(n) for n in inputs], [value(n) for n in outputs], initializers)


def model_of(*nodes, opsets=(("", 18),), functions=(), **graph):
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    return helper.make_model(graph_of(*nodes, **graph), opset_imports=imports, functions=functions, ir_version=8)


def relu(source="x", target="y"):
    return helper.make_node("Relu", [source], [target])


def einsum(source="x", target="y"):
    return helper.make_node("Einsum", [source], [target], equation="i->i")


def foreign(source="x", target="y"):
    return helper.make_node("Fused", [source], [target], domain="com.acme")


def branching(node, **model):
    """A model whose `node` (x → inner) is in a branch of an If."""
    branches = {
        "then_branch": graph_of(node, inputs=(), outputs=("inner",), name="then"),
        "else_branch": graph_of(relu("x", "other"), inputs=(), outputs=("other",), name="else"),
    }
    condition = numpy_helper.from_array(np.asarray(True), "condition")
    return model_of(helper.make_node("If", ["condition"], ["y"], **branches), initializers=[condition], **model)


def refusal(call, *arguments, **options):
    """The one line of the GraphError that `call` must raise."""
    with pytest.raises(GraphError) as caught:
        call(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# check_model


def test_a_plain_valid_model_is_accepted():
    check_model(onnx.load_from_string(probe_model()), opset=18)


def test_the_probe_is_what_onnx_makes_of_one_addition():
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert onnx.load_from_string(probe_model()) == model


def test_a_plain_valid_branch_is_accepted():
    check_model(branching(relu("x", "inner")))


def test_an_operator_of_another_domain_is_refused_by_name():
    text = refusal(check_model, model_of(foreign(), opsets=[("", 18), ("com.acme", 1)]))
    assert text == "operators must be of ai.onnx, got com.acme.Fused; no plain runtime has them"


def test_an_operator_of_another_domain_is_refused_in_a_branch_too():
    model = branching(foreign("x", "inner"), opsets=[("", 18), ("com.acme", 1)])
    assert "com.acme.Fused" in refusal(check_model, model)


def test_a_function_is_refused_by_name():
    imports = [helper.make_opsetid("", 18)]
    function = helper.make_function("com.acme", "Fused", ["x"], ["y"], [relu()], imports)
    model = model_of(relu(), functions=[function], opsets=[("", 18), ("com.acme", 1)])
    assert refusal(check_model, model) == "the model must hold no functions, got Fused"


def test_another_opset_than_the_wanted_one_is_refused():
    assert refusal(check_model, model_of(relu()), opset=20) == "the declared opset must be 20, got 18"


INVALID = {
    "an unknown operator": model_of(helper.make_node("Frobnicate", ["x"], ["y"])),
    "an unknown attribute": model_of(helper.make_node("Relu", ["x"], ["y"], slope=0.5)),
    "mixed types": model_of(
        helper.make_node("Add", ["x", "whole"], ["y"]),
        initializers=[numpy_helper.from_array(np.ones(1, np.int64), "whole")],
    ),
    "a wrong shape": model_of(
        helper.make_node("Concat", ["x", "x"], ["y"], axis=0),
    ),
    "an input from nowhere": model_of(relu("nowhere")),
    "no opset": model_of(relu(), opsets=()),
}


@pytest.mark.parametrize("model", INVALID.values(), ids=INVALID)
def test_an_invalid_graph_is_refused(model):
    assert refusal(check_model, model).startswith("the ONNX checker refuses the model: ")


@pytest.mark.parametrize(
    ("opsets", "declared"), [([("", 18)], 18), ([("ai.onnx", 21)], 21), ([("ai.onnx.ml", 3)], 0)]
)
def test_the_declared_opset_is_that_of_ai_onnx(opsets, declared):
    assert declared_opset(model_of(relu(), opsets=opsets)) == declared


# check_operators


def test_the_operators_of_an_export_are_accepted():
    check_operators(model_of(relu()))


def held_as(operator):
    """A model that holds `operator`, of whatever inputs: who looks for it does not run it."""
    return model_of(helper.make_node(operator, ["x", "x", "x"], ["y"]))


def of_rank(rank):
    axes = numpy_helper.from_array(np.arange(1, rank, dtype=np.int64), "axes")
    return model_of(helper.make_node("Unsqueeze", ["x", "axes"], ["deep"]), relu("deep"), initializers=[axes])


@pytest.mark.parametrize(("operator", "remedy"), UNWANTED_OPERATORS.items(), ids=UNWANTED_OPERATORS)
def test_an_operator_that_runtimes_lack_is_refused_with_the_remedy(operator, remedy):
    assert refusal(check_operators, held_as(operator)) == f"an export must hold no {operator}; {remedy}"


def test_an_operator_that_runtimes_lack_is_refused_in_a_branch_too():
    assert "Einsum" in refusal(check_operators, branching(einsum("x", "inner")))


def test_a_tensor_of_six_dimensions_is_refused_by_name():
    text = refusal(check_operators, of_rank(6))
    assert text == "an export must hold no tensor of 6 dimensions (deep); most runtimes stop at 5"


def test_a_tensor_of_five_dimensions_is_accepted():
    assert check_operators(of_rank(5)) == ()


def test_in_a_users_module_what_runtimes_lack_is_noted():
    (note,) = check_operators(held_as("Tile"), ours=False)
    assert note == "some runtimes refuse the file, or run it slowly: it holds Tile; broadcast instead of copying"


# Files


def test_a_written_model_is_read_as_it_was(tmp_path):
    model = model_of(relu())
    write_onnx(model, tmp_path / "model.onnx")
    assert read_onnx(tmp_path / "model.onnx") == model


CONTENTS = {
    "empty": b"",
    "text": b"hello\nworld\n",
    "zeros": bytes(64),
    "an archive": b"PK\x03\x04" + bytes(range(60)),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_of_another_format_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert refusal(read_onnx, path).startswith(f"{path} must be a whole ONNX file, but: ")


@pytest.mark.parametrize("suffix", [".json", ".textproto", ".onnxtxt"])
def test_a_text_file_is_refused_whatever_it_is_called(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_text("hello\nworld\n")
    assert refusal(read_onnx, path).startswith(f"{path} must be a whole ONNX file, but: ")


@pytest.mark.parametrize("length", range(len(probe_model())))
def test_a_file_that_was_cut_off_anywhere_is_refused(tmp_path, length):
    path = tmp_path / "model.onnx"
    path.write_bytes(probe_model()[:length])
    assert refusal(read_onnx, path).startswith(f"{path} must be a whole ONNX file, but: ")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    assert refusal(read_onnx, path) == f"{path} must be a whole ONNX file, but: No such file or directory"


def test_a_folder_is_refused(tmp_path):
    assert refusal(read_onnx, tmp_path) == f"{tmp_path} must be a whole ONNX file, but: Is a directory"


# External data


WEIGHT = np.arange(1, 4, dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    """A model's folder with w.bin in it, and secret.bin beside it: both hold WEIGHT."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (folder / "w.bin", tmp_path / "secret.bin"):
        path.write_bytes(WEIGHT.tobytes())
    return folder


def external(location):
    tensor = numpy_helper.from_array(WEIGHT, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in {"location": location, "offset": "0", "length": str(WEIGHT.nbytes)}.items():
        tensor.external_data.add(key=key, value=entry)
    return tensor


def written(folder, model):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def weighted(tensor):
    return model_of(helper.make_node("Mul", ["x", "w"], ["y"]), initializers=[tensor])


def as_constant(tensor):
    return model_of(helper.make_node("Constant", [], ["y"], value=tensor))


def in_a_branch(tensor):
    return branching(helper.make_node("Constant", [], ["inner"], value=tensor))


def test_external_data_beside_the_file_is_read(folder):
    model = read_onnx(written(folder, weighted(external("w.bin"))))
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHT)


def test_external_data_in_a_folder_beside_the_file_is_read(folder):
    (folder / "data").mkdir()
    (folder / "w.bin").rename(folder / "data" / "w.bin")
    model = read_onnx(written(folder, weighted(external("data/w.bin"))))
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHT)


OUTSIDE = ("../secret.bin", "data/../../secret.bin", "..\\secret.bin", "/etc/hostname", "C:\\secret.bin", "")


@pytest.mark.parametrize("holder", [weighted, as_constant])
@pytest.mark.parametrize("location", OUTSIDE)
def test_external_data_outside_the_folder_is_refused(folder, holder, location):
    text = refusal(read_onnx, written(folder, holder(external(location))))
    assert text == f"external data must lie in the folder of model.onnx, got {location!r}"


@pytest.mark.parametrize("location", OUTSIDE)
def test_external_data_outside_the_folder_is_refused_in_a_branch_too(folder, location):
    assert "external data" in refusal(read_onnx, written(folder, in_a_branch(external(location))))


def test_external_data_by_an_absolute_path_is_refused_although_it_leads_into_the_folder(folder):
    location = str(folder / "w.bin")
    text = refusal(read_onnx, written(folder, weighted(external(location))))
    assert text == f"external data must lie in the folder of model.onnx, got {location!r}"


def test_external_data_by_a_link_out_of_the_folder_is_refused(folder):
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    text = refusal(read_onnx, written(folder, weighted(external("link.bin"))))
    assert text == "external data must lie in the folder of model.onnx, got 'link.bin'"


@pytest.mark.parametrize("holder", [weighted, as_constant, in_a_branch])
def test_external_data_that_is_not_there_is_refused(folder, holder):
    path = written(folder, holder(external("nothing.bin")))
    assert refusal(read_onnx, path).startswith(f"{path} must have its external data beside it, but: ")


def test_external_data_that_was_cut_off_is_refused(folder):
    (folder / "w.bin").write_bytes(WEIGHT.tobytes()[:-4])
    path = written(folder, weighted(external("w.bin")))
    assert refusal(read_onnx, path).startswith(f"{path} must have its external data beside it, but: ")


# summarize


@pytest.fixture
def summarized():
    """A model with two ReLUs, a foreign operator, a weight of 3 numbers and a constant that is no parameter."""
    model = model_of(
        helper.make_node("Mul", ["x", "w"], ["m"]),
        relu("m", "r"),
        relu("r", "f"),
        foreign("f", "y"),
        initializers=[numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.ones(7, np.int64), "shape")],
        inputs=("x", "w"),
        opsets=[("com.acme", 1), ("", 21)],
    )
    model.graph.input[0].CopyFrom(value("x", ["batch", 3, None], TensorProto.DOUBLE))
    model.producer_name, model.producer_version = "acme", "1.2"
    model.metadata_props.add(key="colour", value="blue")
    return model


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("opset", 21),
        ("producer", "acme 1.2"),
        ("operators", {"Relu": 2, "Mul": 1, "com.acme.Fused": 1}),
        ("parameters", 3),
        ("inputs", (TensorInfo("x", "double", ("batch", 3, None)),)),
        ("outputs", (TensorInfo("y", "float", (1,)),)),
        ("metadata", {"colour": "blue"}),
    ],
)
def test_a_summary_tells_what_is_in_the_file(tmp_path, summarized, field, expected):
    assert getattr(summarize(written(tmp_path, summarized)), field) == expected


def test_a_summary_tells_the_size_of_the_file(tmp_path, summarized):
    path = written(tmp_path, summarized)
    assert summarize(path).bytes == path.stat().st_size


def test_a_summary_counts_the_operators_of_branches(tmp_path):
    assert summarize(written(tmp_path, branching(relu("x", "inner")))).operators == {"Relu": 2, "If": 1}


def test_what_is_no_model_cannot_be_summarized(tmp_path):
    assert "must be a whole ONNX file" in refusal(summarize, tmp_path / "model.onnx")


# Metadata


def properties(provenance=PROVENANCE, image=None, model=None):
    model = model_of(relu()) if model is None else model
    write_metadata(model, provenance, image)
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("recipe_digest", ["1" * 64, None])
@pytest.mark.parametrize("image", [IMAGE, None], ids=["image", "no image"])
def test_provenance_survives_the_file(recipe_digest, image):
    provenance = Provenance("0" * 64, recipe_digest, "skew", 20)
    assert read_metadata(properties(provenance, image)) == provenance


def test_preprocessing_and_labels_are_in_the_file():
    found = properties(image=IMAGE)
    entries = {key: json.loads(found[f"aaexport.{key}"]) for key in ("input.mean", "input.std", "labels")}
    assert entries == {"input.mean": [0.5], "input.std": [0.25], "labels": ["cat", "dog"]}


def test_writing_metadata_twice_keeps_the_last_only():
    model = model_of(relu())
    properties(image=IMAGE, model=model)
    found = properties(Provenance("2" * 64, None, "skew", 18), model=model)
    assert set(found) == {"aaexport.weights_digest", "aaexport.decomposition", "aaexport.opset", "aaexport.tools"}


def noted(node):
    """`node` with what torch's exporter writes beside it."""
    node.doc_string = "File /home/someone/model.py"
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File /home/someone/model.py")
    return node


@pytest.mark.parametrize(
    "model",
    [lambda: model_of(noted(relu())), lambda: branching(noted(relu("x", "inner")))],
    ids=["a node", "a node of a branch"],
)
def test_the_exporters_notes_are_dropped(model):
    model = model()
    properties(model=model)
    assert b"/home/someone" not in model.SerializeToString()


FOREIGN = {
    "nothing": {},
    "others' properties": {"author": "somebody"},
    "half of ours": {"aaexport.opset": "18"},
    "a word for the opset": {**properties(), "aaexport.opset": "eighteen"},
    "a digit of another kind": {**properties(), "aaexport.opset": "²"},
}


@pytest.mark.parametrize("found", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_we_did_not_write_has_no_provenance(found):
    assert read_metadata(found) is None


# export_program


class Deciding(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize("batch", ["dynamic", 2])
def test_a_module_that_decides_by_its_data_cannot_be_captured(batch):
    with pytest.raises(ExportError) as caught:
        export_program(Deciding(), SHAPE, batch)
    assert str(caught.value).startswith("torch.export cannot capture Deciding: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [0, -1, "two"])
def test_a_batch_is_dynamic_or_a_number_above_0(batch):
    with pytest.raises(ArgumentError) as caught:
        export_program(nn.ReLU(), SHAPE, batch)
    assert str(caught.value) == f"batch must be 'dynamic' or at least 1, got {batch!r}"


def test_an_image_that_a_layer_refuses_is_refused_in_the_layers_words():
    with pytest.raises(ArgumentError, match="input must have the shape"):
        export_program(augmented("table"), (3, 9, 9), "dynamic")


# to_onnx


def augmented(decomposition):
    """A stride, two heads and a ReLU: what the graph of a real network has."""
    options = {"dk": 4, "dv": 4, "num_heads": 2, "stride": 2}
    layer = AugmentedConv2d(3, 8, height=5, width=4, decomposition=decomposition, **options)
    return nn.Sequential(layer, nn.ReLU()).eval()


def converted(module, opset, batch):
    torch.manual_seed(0)
    return to_onnx(export_program(module, SHAPE, batch), opset=opset, output_names=["scores"]).model


def shape_of(tensor):
    return tuple(dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim)


def agree(model, module, images):
    """Holds the graph to PyTorch by onnx's own reference, no runtime of ours."""
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    (actual,) = ReferenceEvaluator(model).run(None, {"input": images})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5, strict=True)


@pytest.fixture(scope="module", params=[18, 25])
def opset(request):
    return request.param


@pytest.fixture(scope="module", params=["dynamic", 3])
def batch(request):
    return request.param


@pytest.fixture(scope="module")
def plain(opset, batch):
    """A convolution and a ReLU, with its graph."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    return SimpleNamespace(module=module, graph=converted(module, opset, batch))


def test_an_export_declares_its_opset(plain, opset):
    assert declared_opset(plain.graph) == opset


def test_an_export_names_its_signature_and_its_batch(plain, batch):
    size = "batch" if batch == "dynamic" else batch
    signature = {tensor.name: shape_of(tensor) for tensor in [*plain.graph.graph.input, *plain.graph.graph.output]}
    assert signature == {"input": (size, *SHAPE), "scores": (size, 4, 3, 2)}


def test_an_export_is_made_of_the_operators_it_needs(plain):
    assert [node.op_type for node in plain.graph.graph.node] == ["Conv", "Relu"]


def test_an_export_computes_what_pytorch_does(plain, rng):
    agree(plain.graph, plain.module, rng.standard_normal((3, *SHAPE), dtype=np.float32))


@pytest.mark.parametrize("opset", [17, 26])
def test_an_opset_that_the_exporter_does_not_write_is_refused(opset):
    with pytest.raises(ArgumentError) as caught:
        to_onnx(None, opset=opset, output_names=["scores"])
    assert str(caught.value) == f"opset must be between 18 and 25, got {opset}; 20 runs in the most runtimes"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in ("auto", "table") else [pytest.mark.slow])
        for name in DECOMPOSITION_NAMES
        if name != "fused"
    ],
)
def attention(request):
    """An augmented network, with its graph at opset 20."""
    torch.manual_seed(0)
    module = augmented(request.param)
    return SimpleNamespace(module=module, graph=converted(module, 20, "dynamic"))


def test_attention_exports_to_ai_onnx_alone(attention):
    assert {node.domain for node in attention.graph.graph.node} <= {"", "ai.onnx"}


def test_attention_exports_to_what_every_runtime_has(attention):
    assert check_operators(attention.graph) == ()


def test_attention_is_no_operator_below_opset_23(attention):
    assert "Attention" not in {node.op_type for node in attention.graph.graph.node}


def test_fused_attention_is_one_operator_and_computes_the_same(rng):
    torch.manual_seed(0)
    module = augmented("fused")
    graph = converted(module, 23, "dynamic")
    assert [node.op_type for node in graph.graph.node].count("Attention") == 1
    agree(graph, module, rng.standard_normal((3, *SHAPE), dtype=np.float32))


@pytest.mark.slow
def test_the_products_of_an_attention_operator_are_those_it_stands_for():
    torch.manual_seed(0)
    assert count_macs(converted(augmented("fused"), 23, "dynamic")) == count_macs(
        converted(augmented("fold"), 23, "dynamic")
    )


@pytest.mark.parametrize("size", [1, 3])
def test_attention_exports_to_what_pytorch_computes(attention, rng, size):
    agree(attention.graph, attention.module, rng.standard_normal((size, *SHAPE), dtype=np.float32))


def test_only_the_batch_is_called_batch(attention, rng):
    """Every tensor on the way is asked for its real size, at a batch that nothing else is as large as."""
    size = 11
    graph = copy.deepcopy(attention.graph)
    del graph.graph.output[:]
    constants = {tensor.name for tensor in graph.graph.initializer}
    graph.graph.output.extend(tensor for tensor in graph.graph.value_info if tensor.name not in constants)
    tensors = ReferenceEvaluator(graph).run(None, {"input": rng.standard_normal((size, *SHAPE), dtype=np.float32)})
    for described, tensor in zip(graph.graph.output, tensors, strict=True):
        shape = shape_of(described)
        wrong = [real for named, real in zip(shape, tensor.shape, strict=True) if named == "batch" and real != size]
        assert not wrong, f"{described.name} is {tensor.shape}, described as {shape}"


def test_an_output_whose_first_size_is_no_batch_is_not_called_batch():
    model = to_onnx(export_program(nn.Flatten(0, 1), SHAPE, "dynamic"), opset=20, output_names=["scores"]).model
    assert shape_of(model.graph.output[0])[0] != "batch"


def test_the_quadratic_rule_of_the_exporter_is_there_and_left_out():
    """It has no public name: a version of onnxscript that has it under another is slow again, and should be seen."""
    before = rewriter._DEFAULT_REWRITE_RULES
    with _chosen_rules():
        left_out = [rule.name for rule in before if rule not in rewriter._DEFAULT_REWRITE_RULES]
    assert len(left_out) == 1
    assert "Split" in left_out[0]
    assert rewriter._DEFAULT_REWRITE_RULES is before
    assert not any("try_rewrite" in vars(rule) for rule in before)


@pytest.mark.parametrize("nodes", [3, [SimpleNamespace(inputs=[SimpleNamespace(_abs_tol=1e-8)])], [object()]])
def test_rules_of_another_version_of_the_exporter_are_left_as_they_are(monkeypatch, nodes):
    """Whose patterns have no nodes to go through, or constants of other tolerances."""
    rules = (SimpleNamespace(_target_pattern=nodes),)
    monkeypatch.setattr(rewriter, "_DEFAULT_REWRITE_RULES", rules)
    with _chosen_rules():
        assert rules == rewriter._DEFAULT_REWRITE_RULES
    assert rewriter._DEFAULT_REWRITE_RULES is rules


def test_the_exporters_rules_take_nothing_small_for_zero_and_leave_no_epsilon_out():
    def tolerances():
        return {(one._rel_tol, one._abs_tol) for rule in rules for one in _tolerant_constants(rule)}

    rules = rewriter._DEFAULT_REWRITE_RULES
    before = tolerances()
    assert max(before) > (0, 0)  # what there is to be kept from
    with _chosen_rules():
        assert tolerances() == {(0, 0)}
    assert tolerances() == before
