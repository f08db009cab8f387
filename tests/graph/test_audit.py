"""The audit of a file: everything wrong with it is told, in a line each, and a right file is left in peace."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aaexport
from aaexport.errors import GraphError
from aaexport.graph.audit import audit
from aaexport.graph.digests import digests_of, record_digests
from aaexport.graph.files import read_onnx
from aaexport.graph.metadata import Provenance, write_metadata
from aaexport.graph.write import write_onnx

WEIGHT = np.arange(1, 5, dtype=np.float32)


def value(name, *shape, element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


IMAGES, SCORES = value("x", "batch", 4), value("y", "batch", 4)


def tensor(name="w", array=WEIGHT):
    return numpy_helper.from_array(np.asarray(array), name)


def node(operator, *names, output="y", **attributes):
    return helper.make_node(operator, names, [output], **attributes)


def model_of(
    *nodes,
    inputs=(IMAGES,),
    outputs=(SCORES,),
    initializers=(),
    opsets=(("", 20),),
    **model,
):
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    imports = [helper.make_opsetid(*entry) for entry in opsets]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, **model)


def scaled(weight=WEIGHT, **model):
    return model_of(node("Mul", "x", "w"), initializers=[tensor(array=weight)], **model)


def converted_as(model, *, opset=20, batch="dynamic", recipe="1" * 64):
    """The model with the metadata and digests of a file that aaexport converted."""
    write_metadata(model, Provenance("0" * 64, recipe, "skew", opset, batch=batch), None)
    record_digests(model)
    return model


@pytest.fixture
def audited(tmp_path):
    """Writes a model and audits the file."""

    def write_and_audit(model):
        write_onnx(model, tmp_path / "model.onnx")
        return audit(tmp_path / "model.onnx")

    return write_and_audit


@pytest.fixture
def export(converted):
    """The model in a file of ours, for a test to spoil."""
    return read_onnx(converted.onnx_path)


def spoil(model, name, change):
    (held,) = (each for each in model.graph.initializer if each.name == name)
    held.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(held)), name))


def test_an_export_has_no_faults(converted):
    found = audit(converted.onnx_path)
    assert (found.failures, found.warnings) == ((), ())
    assert found.model == read_onnx(converted.onnx_path)


@pytest.mark.parametrize("recipe", [None, "1" * 64], ids=["a module", "a folder"])
def test_a_right_small_model_has_no_faults(audited, recipe):
    found = audited(converted_as(scaled(), recipe=recipe))
    assert (found.failures, found.warnings) == ((), ())


# Operators, names, opsets

RELU = node("Relu", "x")
FUSED = helper.make_function("com.acme", "Fused", ["x"], ["y"], [RELU], [helper.make_opsetid("", 20)])
BROKEN = {
    "a foreign operator": (
        model_of(node("Fused", "x", domain="com.acme"), opsets=[("", 20), ("com.acme", 1)]),
        "operators must be of ai.onnx, got com.acme.Fused; no plain runtime has them",
    ),
    "a function": (
        model_of(
            RELU,
            functions=[FUSED],
            opsets=[("", 20), ("com.acme", 1)],
        ),
        "the model must hold no functions, got Fused",
    ),
    "an operator of a later opset": (
        model_of(node("Swish", "x")),
        "operator Swish must be one of opset 20, got one of opset 24 and later",
    ),
    "an operator of an earlier opset": (
        model_of(node("Upsample", "x", "w"), initializers=[tensor()]),
        "operator Upsample must be one of opset 20, got one that ended with opset 10",
    ),
    "an operator of no opset": (
        model_of(node("Frobnicate", "x")),
        "operator Frobnicate must be one of opset 20, got a name that no opset has",
    ),
    "two opsets": (
        model_of(RELU, opsets=[("", 20), ("ai.onnx", 18)]),
        "the file must declare the opset of ai.onnx once, got [20, 18]",
    ),
    "an output twice": (
        model_of(RELU, outputs=[SCORES] * 2),
        "output y must be there once, got 2 of that name",
    ),
    "an initializer twice": (
        model_of(node("Mul", "x", "w"), initializers=[tensor()] * 2),
        "initializer w must be there once, got 2 of that name",
    ),
    "a value twice": (model_of(RELU, RELU), "value y must be there once, got 2 of that name"),
    "a value that is an initializer too": (
        model_of(RELU, initializers=[tensor("y")]),
        "value y must be there once, got 2 of that name",
    ),
    "numbers that do not fill the shape": (
        model_of(
            node("Mul", "x", "w"),
            initializers=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=b"1234")],
        ),
        "initializer w must hold the numbers of its type and shape, got others",
    ),
    "an attribute of a later opset": (
        model_of(node("Relu", "x", slope=0.5)),
        "the ONNX checker refuses the model: Unrecognized attribute: slope for operator Relu",
    ),
    "shapes that contradict each other": (
        model_of(RELU, outputs=[value("y", "batch", 5)]),
        "the ONNX checker refuses the model: [ShapeInferenceError] Inference error(s): (op_type:Relu): "
        "[ShapeInferenceError] Inferred shape and existing shape differ in dimension 1: (4) vs (5)",
    ),
}


@pytest.mark.parametrize(("model", "line"), BROKEN.values(), ids=BROKEN)
def test_a_fault_is_told_in_one_line(audited, model, line):
    assert audited(model).failures == (line,)


def test_a_file_without_ir_version_is_told(audited):
    model = scaled()
    model.ClearField("ir_version")
    assert audited(model).failures == ("the file must declare its ir_version, got none",)


def test_an_opset_that_onnx_does_not_know_yet_is_told(audited):
    (line,) = audited(scaled(opsets=[("", 99)])).failures
    assert line.startswith("the declared opset must be at most ")


def test_all_faults_are_told(audited):
    fused = node("Fused", "x", domain="com.acme", output="z")
    model = model_of(node("Swish", "x"), fused, opsets=[("", 20), ("", 18)])
    spoiled = tensor(array=[np.nan, 1])
    model.graph.initializer.extend([spoiled, spoiled])
    assert len(audited(model).failures) == 6  # the opsets, both operators, the name, and NaN twice


def test_another_opset_than_that_of_the_metadata_is_told(audited, export):
    (entry,) = (entry for entry in export.opset_import if entry.domain == "")
    was, entry.version = entry.version, 18
    (line,) = audited(export).failures
    assert line == f"the declared opset must be {was}, that of the file's own metadata, got 18; convert again"


def test_an_input_that_no_node_uses_is_a_warning(audited):
    found = audited(model_of(RELU, inputs=[IMAGES, value("z", "batch", 4)]))
    assert found.failures == ()
    assert found.warnings == ("input z must be used by a node, got none that does",)


# The batch


def resized(batch, *, declared="batch"):
    """A model that has taken the batch for a number: it declares what it does not keep."""
    reshape = node("Reshape", "x", "shape")
    return model_of(reshape, initializers=[tensor("shape", np.array([batch, 4]))], outputs=[value("y", declared, 4)])


def of_batch(inputs, outputs):
    return model_of(RELU, inputs=[value("x", inputs, 4)], outputs=[value("y", outputs, 4)])


@pytest.mark.parametrize("batch", ["dynamic", 2])
def test_a_file_of_the_batch_in_its_metadata_is_accepted(audited, batch):
    size = "batch" if batch == "dynamic" else batch
    assert audited(converted_as(of_batch(size, size), batch=batch)).failures == ()


@pytest.mark.parametrize(
    ("batch", "size", "wanted"),
    [("dynamic", 1, "dynamic batch"), (2, 3, "batch of 2"), (2, "batch", "batch of 2")],
    ids=["baked in", "another", "dynamic"],
)
def test_another_batch_than_that_of_the_metadata_is_told(audited, batch, size, wanted):
    lines = audited(converted_as(of_batch(size, size), batch=batch)).failures
    rule = f"must have a {wanted}, as its metadata say, got {(size, 4)}; convert again"
    assert lines == (f"input x {rule}", f"output y {rule}")


def test_a_batch_that_only_the_nodes_fix_is_told(audited):
    (line,) = audited(converted_as(resized(1))).failures
    assert line == "output y must have a dynamic batch, as its metadata say, got (1, 4); convert again"


def test_without_metadata_an_output_of_a_fixed_batch_is_a_warning(audited):
    found = audited(resized(1))
    assert found.failures == ()
    assert found.warnings == ("output y must have a dynamic batch like the input, got (1, 4)",)


def test_somebodys_module_may_have_an_output_without_a_batch(audited):
    found = audited(converted_as(resized(1, declared=1), recipe=None))
    assert (found.failures, found.warnings) == ((), ())


# Numbers that are none


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_nan_is_told_in_every_type(audited, dtype):
    model = model_of(RELU, initializers=[tensor(array=np.array([1, np.nan, np.nan], dtype))])
    assert audited(model).failures == ("initializer w must hold finite numbers, got 2 NaN of 3",)


@pytest.mark.parametrize(
    "attribute",
    [{"value": tensor("", np.float32([1, np.nan]))}, {"value_floats": [1.0, np.nan]}],
    ids=["a tensor", "numbers"],
)
def test_nan_in_a_constant_is_told(audited, attribute):
    model = model_of(RELU, node("Constant", output="c", **attribute))
    assert audited(model).failures == ("initializer c must hold finite numbers, got 1 NaN of 2",)


def test_infinity_is_a_fault_of_ours_and_a_warning_in_other_files(audited):
    weight = np.array([1, np.inf, -np.inf, 2], np.float32)
    line = ("initializer w must hold finite numbers, got 2 infinite of 4",)
    assert audited(converted_as(scaled(weight))).failures == line
    found = audited(scaled(weight))
    assert (found.failures, found.warnings) == ((), line)


def test_infinity_that_came_from_somebodys_own_module_is_meant(audited):
    found = audited(converted_as(scaled(np.float32([1, -np.inf, 1, 1])), recipe=None))
    assert (found.failures, found.warnings) == ((), ())


# External data


def external(location):
    held = tensor()
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    held.external_data.add(key="location", value=location)
    return model_of(node("Mul", "x", "w"), initializers=[held])


@pytest.mark.parametrize("location", ["../secret.bin", "data/../../secret.bin", "/etc/hostname", "C:\\secret.bin"])
def test_external_data_outside_the_folder_is_a_fault_and_is_not_read(audited, monkeypatch, location):
    monkeypatch.setattr(onnx, "load_external_data_for_model", lambda *_: pytest.fail("it was read"))
    found = audited(external(location))
    assert found.failures == (f"external data must lie in the folder of model.onnx, got {location!r}",)
    assert found.model is None


def test_external_data_by_a_link_out_of_the_folder_is_a_fault(audited, tmp_path):
    (tmp_path / "link.bin").symlink_to("/etc/hostname")
    assert audited(external("link.bin")).model is None


def test_a_second_location_cannot_hide_the_first(audited, tmp_path):
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    model = external("w.bin")
    model.graph.initializer[0].external_data.add(key="location", value="../secret.bin")
    assert audited(model).model is None


def test_external_data_in_the_folder_is_audited_like_any_other(audited, tmp_path):
    (tmp_path / "w.bin").write_bytes(np.array([1, 2, 3, np.nan], np.float32).tobytes())
    assert audited(external("w.bin")).failures == ("initializer w must hold finite numbers, got 1 NaN of 4",)


def test_of_external_data_that_is_not_there_nothing_can_be_said(audited):
    with pytest.raises(GraphError, match="must have its external data beside it"):
        audited(external("w.bin"))


def test_of_what_is_no_onnx_file_nothing_can_be_said(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(GraphError, match="must be a whole ONNX file"):
        audit(tmp_path / "model.onnx")


# What the file remembers of itself


def test_one_weight_off_by_a_thousandth_is_a_fault(audited, export):
    def off(array):
        array = array.copy()
        array.flat[7] *= 1.001
        return array

    spoil(export, "classifier.weight", off)
    found = audited(export)
    line = "initializer classifier.weight must hold the numbers that were converted, got others; convert again"
    assert found.failures == (line,)
    assert found.changed_since_conversion
    assert found.changed_initializers == ("classifier.weight",)


def test_of_many_changed_tensors_three_are_named(audited):
    names = [f"w{index}" for index in range(5)]
    chain = [node("Mul", "x", name, output=f"{name}y") for name in names]
    model = model_of(*chain, outputs=[value("w4y", "batch", 4)], initializers=[tensor(name) for name in names])
    converted_as(model)
    for name in names:
        spoil(model, name, np.negative)
    (line,) = audited(model).failures
    assert line.startswith("initializers w0, w1, w2 and 2 more must hold the numbers that were converted")


@pytest.mark.parametrize(
    "change",
    [lambda w: w.astype(np.float16), lambda w: w.reshape(1, 4), lambda w: w.view(np.int32), lambda w: -w],
    ids=["type", "shape", "the same bytes as another type", "sign"],
)
def test_type_shape_and_bytes_of_a_tensor_are_remembered(change):
    model = scaled()
    before = digests_of(model)
    spoil(model, "w", change)
    assert digests_of(model).changed_since(before) == ("w",)
    assert digests_of(model).graph == before.graph


def rewired(model):
    model.graph.node[0].input[0] = "w"


def exchanged(model):
    model.graph.node[0].op_type = "Add"


def with_attribute(model):
    model.graph.node[1].attribute[0].i = 0


def of_another_output(model):
    model.graph.output[0].name = "z"


def of_another_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def of_another_opset(model):
    model.opset_import[0].version = 18


@pytest.mark.parametrize(
    "change", [rewired, exchanged, with_attribute, of_another_output, of_another_batch, of_another_opset]
)
def test_whatever_changes_what_is_computed_makes_another_graph(change):
    model = model_of(node("Mul", "x", "w", output="m"), node("Softmax", "m", axis=1), initializers=[tensor()])
    before = digests_of(model)
    change(model)
    assert digests_of(model).graph != before.graph


REWRITTEN = "the file must be as aaexport wrote it, got another graph: some tool has rewritten it"


def rewritten():
    model = converted_as(scaled())
    model.graph.node[0].output[0] = "m"
    model.graph.node.append(node("Identity", "m"))
    return model


def test_a_graph_that_a_tool_has_rewritten_is_a_warning(audited):
    found = audited(rewritten())
    assert (found.failures, found.warnings) == ((), (REWRITTEN,))
    assert found.changed_since_conversion


def test_numbers_that_changed_under_their_name_fail_in_a_rewritten_graph_too(audited):
    model = rewritten()
    spoil(model, "w", np.negative)
    found = audited(model)
    assert "initializer w must hold the numbers that were converted" in found.failures[0]
    assert found.changed_initializers == ("w",)


def test_a_tensor_that_a_tool_has_made_coarser_is_its_own_matter(audited):
    model = rewritten()
    spoil(model, "w", lambda w: w.astype(np.float16))
    assert audited(model).changed_initializers == ()


def test_what_computes_nothing_may_change(audited, export):
    export.doc_string = "mine"
    export.metadata_props.add(key="owner", value="me")
    export.graph.node[0].name = "first"
    export.graph.node[0].doc_string = "the first"
    del export.graph.value_info[:]
    found = audited(export)
    assert (found.failures, found.warnings, found.changed_since_conversion) == ((), (), False)


def test_how_numbers_are_stored_does_not_count(export, tmp_path):
    for held in export.graph.initializer:
        if held.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(held)
            held.CopyFrom(helper.make_tensor(held.name, TensorProto.FLOAT, array.shape, array.flatten()))
    onnx.save(export, tmp_path / "fields.onnx")
    onnx.save(export, tmp_path / "outside.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    for name in ("fields", "outside"):
        found = audit(tmp_path / f"{name}.onnx")
        assert (found.failures, found.warnings, found.changed_since_conversion) == ((), (), False)


def test_a_tensor_that_was_not_recorded_is_not_the_one_converted(audited):
    model = converted_as(scaled())
    (entry,) = [entry for entry in model.metadata_props if entry.key == "aaexport.initializers"]
    entry.value = "{}"
    assert audited(model).changed_initializers == ("w",)


def test_a_file_of_ours_without_digests_is_warned_of(audited):
    model = scaled()
    write_metadata(model, Provenance("0" * 64, "1" * 64, "skew", 20, batch="dynamic"), None)
    found = audited(model)
    assert (found.failures, found.changed_since_conversion) == ((), None)
    assert "must remember the digests of its numbers" in found.warnings[0]


# optimize writes a new file, of which the same must be true


@pytest.fixture
def slow(tmp_path):
    """A file of ours that a graph rule can make better."""
    einsum = node("Einsum", "x", "w", equation="bi,ij->bj")
    model = model_of(einsum, initializers=[tensor(array=np.eye(4, dtype=np.float32))])
    write_onnx(converted_as(model), tmp_path / "slow.onnx")
    return tmp_path / "slow.onnx"


def test_an_optimized_file_remembers_itself(slow, tmp_path):
    assert "Einsum" not in aaexport.optimize(slow, tmp_path / "fast.onnx", verify=False).after
    assert audit(tmp_path / "fast.onnx").changed_since_conversion is False


def test_optimizing_does_not_make_a_changed_file_good(slow, tmp_path):
    model = read_onnx(slow)
    spoil(model, "w", np.negative)
    write_onnx(model, slow)
    aaexport.optimize(slow, tmp_path / "fast.onnx", verify=False)
    assert audit(tmp_path / "fast.onnx").changed_since_conversion
