"""The first diverging node: of a spoilt file, of a wrong rule, of a runtime, each fault once."""

import contextlib
import copy
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from surgery import constant, convolution, insert_after, insert_before, numbers

from aaexport.errors import RunnerError
from aaexport.folder import open_folder
from aaexport.graph.files import read_onnx, summarize
from aaexport.graph.intermediate import namesakes, plan_chunks, read_nodes, tensor_bytes
from aaexport.graph.metadata import Provenance, read_metadata
from aaexport.parity import Case
from aaexport.pipeline.export.export import Exported, export, export_again
from aaexport.pipeline.subject.subject import Subject, as_subject, with_decomposition
from aaexport.pipeline.verify.locate import as_written, locate, locate_in_file, locate_in_rules, locate_in_runtime
from aaexport.pipeline.verify.sides import Side
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN

CASE = Case("random, batch 2", np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32))


@dataclass(frozen=True)
class Good:
    """A file that is right, and what it was made from."""

    path: object
    subject: Subject
    provenance: Provenance
    exported: Exported

    def model(self):
        return read_onnx(self.path)


@pytest.fixture(scope="module")
def converted_once(all_augmented_once):
    """Instead of the one that most tests share."""
    return all_augmented_once


@pytest.fixture(scope="module")
def good(converted_once):
    subject = as_subject(open_folder(converted_once))
    path = converted_once / "model.onnx"
    provenance = read_metadata(summarize(path).metadata)
    return Good(path, subject, provenance, export_again(subject, provenance))


@pytest.fixture
def located(good, tmp_path):
    def find(model, case=CASE, **more):
        path = tmp_path / "spoilt.onnx"
        onnx.save(model, path)
        return locate_in_file(path, good.subject, good.provenance, case, good.exported, **more)

    return find


def node_of(model, name):
    return next(node for node in model.graph.node if node.name == name)


def first(model, operator):
    return next(node for node in model.graph.node if node.op_type == operator)


def change(model, name, how):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(how(numpy_helper.to_array(tensor).copy())), name))


def insert_behind(model, node, operator, constants=(), name="inserted", **attributes):
    """Puts a node behind `node`; the new tensor takes the old one's name, as an editor of graphs would do it."""
    old = node.output[0]
    node.output[0] = old + "_before"
    names = []
    for array in constants:
        names.append(f"{name}_{len(names)}")
        model.graph.initializer.append(numpy_helper.from_array(array, names[-1]))
    made = helper.make_node(operator, [node.output[0], *names], [old], name=name, **attributes)
    model.graph.node.insert(list(model.graph.node).index(node) + 1, made)


def consumers(model, tensor):
    return [node for node in model.graph.node if tensor in node.input]


def queries_of(model, layer):
    """The convolution of a layer's queries, keys and values."""
    return convolution(model.graph, f"{layer}.qkv").name


def a_hair(array):
    array.flat[0] = np.nextafter(array.flat[0], np.float32(9))
    return array


def one_weight(model):
    def off(array):
        array.flat[np.abs(array).argmax()] *= 1.001
        return array

    change(model, "features.3.qkv.weight_scaled", off)
    return queries_of(model, "features.3")


def tables_swapped(model):
    """Those of the height, of two layers."""
    one, other = node_of(model, "node_matmul_1"), node_of(model, "node_matmul_2")
    one.input[1], other.input[1] = other.input[1], one.input[1]
    return "node_matmul_1"


def softmax_axis(model):
    node = node_of(model, "node_softmax_1")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))
    return node.name


def scale_doubled(model):
    def twice(array):
        array[: len(array) // 3] *= 2**-0.5
        return array

    change(model, "features.6.qkv.weight_scaled", twice)
    return queries_of(model, "features.6")


def relu_dropped(model):
    node = first(model, "Relu")
    after = consumers(model, node.output[0])[0]
    after.input[list(after.input).index(node.output[0])] = node.input[0]
    model.graph.node.remove(node)
    return after.name


def transpose_inserted(model):
    insert_behind(model, node_of(model, "node_softmax_1"), "Transpose", perm=[0, 2, 1])
    return "inserted"


def one_class_nan(model):
    values = np.zeros(10, np.float32)
    values[3] = np.nan
    insert_behind(model, node_of(model, "node_linear_3"), "Add", [values])
    return "inserted"


def keys_for_values(model):
    node = consumers(model, "split_with_sizes_1_split_2")[0]
    node.input[0] = "split_with_sizes_1_split_1"
    return node.name


def batch_baked_in(model):
    node = consumers(model, "mean")[0]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 8], np.int64), "one_image"))
    node.input[1] = "one_image"
    return node.name


NUMBERS = [one_weight, tables_swapped, softmax_axis, scale_doubled, relu_dropped, transpose_inserted]
NUMBERS += [one_class_nan, keys_for_values, batch_baked_in]


@pytest.mark.parametrize("spoil", NUMBERS, ids=lambda spoil: spoil.__name__)
def test_the_node_that_was_spoilt_is_named(good, located, spoil):
    model = good.model()
    name = spoil(model)
    found = located(model)
    assert found.node == name


def test_a_chunk_of_a_few_tensors_finds_the_same_as_one_of_all(good):
    model = good.model()
    transpose_inserted(model)
    sides = Side(model, as_written, "suspect"), Side(good.exported.model, as_written, "trusted")
    assert len(plan_chunks(list(namesakes(*map(read_nodes, (model, model)))), tensor_bytes(model, 2), 2**14)) > 5
    assert locate(*sides, CASE, budget=2**14) == locate(*sides, CASE)


def test_a_change_too_small_for_the_numbers_to_show_is_still_laid_at_its_node(good, located):
    model = good.model()
    change(model, "features.3.qkv.weight_scaled", a_hair)
    assert located(model).node == queries_of(model, "features.3")


def test_a_small_fault_is_not_laid_at_an_unchanged_node_where_it_has_grown(good, located):
    model = good.model()
    change(model, "features.0.conv.weight_normalized", lambda array: array * np.float32(1 + 2e-7))
    insert_behind(model, node_of(model, "node_mean"), "Mul", [np.float32(1)])  # changed too, and harmless
    assert located(model).node == "node_Conv_414"


def test_a_file_of_other_names_is_matched_by_its_numbers(good, located):
    model = good.model()
    relu_dropped(model)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}_of_mine" if name.startswith(("v", "r", "c", "b")) else name for name in names]
        node.name = f"{node.name}_of_mine"
    for tensor in model.graph.initializer:
        if tensor.name.startswith(("v", "r", "c", "b")):
            tensor.name += "_of_mine"
    found = located(model)
    assert found.node == "node_Concat_11_of_mine"
    assert found.output == "logits"
    assert "numbers" in found.compared_with


def bias_off(model):
    """A hundredth, which the digests of the file tell of."""
    change(model, "classifier.bias", lambda array: array + np.float32(1e-2))


def passed_on(model):
    insert_before(model.graph, node_of(model, "node_linear_3"), 0, "Identity")


def passed_on_in_a_sequence(model):
    first_of = constant(model.graph, 0, np.int64)
    taken = insert_before(model.graph, node_of(model, "node_linear_3"), 0, "SequenceAt", first_of)
    insert_before(model.graph, taken, 0, "SequenceConstruct")


def passed_on_by_a_branch(model):
    """On a condition that is computed."""
    classifier = node_of(model, "node_linear_3")
    reads = classifier.input[0]
    chosen = insert_before(
        model.graph,
        classifier,
        0,
        "If",
        **{
            branch: helper.make_graph(
                [helper.make_node("Identity", [reads], [branch])],
                branch,
                [],
                [helper.make_empty_tensor_value_info(branch)],
            )
            for branch in ("then_branch", "else_branch")
        },
    )
    size = insert_before(
        model.graph, insert_before(model.graph, chosen, 0, "Cast", to=onnx.TensorProto.BOOL), 0, "Size"
    )
    assert size.input[0] == reads


def split_in_two(model):
    """The classifier's product and its sum: between the two is a tensor that the model does not have."""
    classifier = node_of(model, "node_linear_3")
    weight = constant(model.graph, numbers(model.graph, "classifier.weight").T)
    product = helper.make_node("MatMul", [classifier.input[0], weight], ["product"], "product")
    total = helper.make_node("Add", ["product", "classifier.bias"], ["logits"], "node_linear_3")
    model.graph.node.remove(classifier)
    model.graph.node.extend([product, total])


HARMLESS = [passed_on, passed_on_in_a_sequence, passed_on_by_a_branch, split_in_two]


@pytest.mark.parametrize("rewrite", HARMLESS, ids=lambda rewrite: rewrite.__name__)
def test_a_harmless_node_is_not_taken_for_the_fault_behind_it(good, located, rewrite):
    model = good.model()
    rewrite(model)
    assert located(model).relative_error < 1e-6, "it is not harmless"
    bias_off(model)
    assert located(model).node == "node_linear_3"
    assert located(model, changed_initializers=("classifier.bias",)).node == "node_linear_3"


def test_a_new_node_that_only_reorders_is_a_fault_all_the_same(good, located):
    model = good.model()
    node = insert_before(model.graph, node_of(model, "node_bmm"), 1, "Transpose", perm=[0, 2, 1])
    insert_before(model.graph, node_of(model, "node_bmm"), 1, "Reshape", constant(model.graph, [0, 36, 64], np.int64))
    assert located(model).node == node.name


def test_a_number_that_no_output_shows_is_not_laid_at_a_harmless_node(good, located):
    model = good.model()
    change(model, "features.3.qkv.weight_scaled", a_hair)
    passed_on(model)
    insert_before(model.graph, first(model, "Conv"), 0, "Identity")
    assert located(model).node == queries_of(model, "features.3")


def renamed(names, seed=0):
    """The same names, dealt out anew."""
    return dict(zip(names, np.random.default_rng(seed).permutation(names).tolist(), strict=True))


def test_names_of_nodes_mean_nothing(good, located):
    model = good.model()
    bias_off(model)
    classifier, new = node_of(model, "node_linear_3"), renamed([node.name for node in model.graph.node])
    for node in model.graph.node:
        node.name = new[node.name]
    found = located(model)
    assert (found.node, found.operator) == (classifier.name, "Gemm")
    assert found.hints == ("initializer classifier.bias holds other numbers",)


@pytest.mark.parametrize("how", [lambda bias: bias + np.float32(1e-2), a_hair], ids=["a hundredth", "a hair"])
def test_names_of_tensors_that_were_dealt_out_anew_mean_nothing(good, located, how):
    model = good.model()
    change(model, "classifier.bias", how)
    new = renamed([name for node in model.graph.node for name in node.output if name != "logits"])
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    del model.graph.value_info[:]
    assert located(model, changed_initializers=("classifier.bias",)).node == "node_linear_3"


def written(subject, decomposition, swapped):
    """A fresh export, with the tables of the first layer in each other's place or not."""
    module = with_decomposition(copy.deepcopy(subject.module), decomposition).requires_grad_(False)
    if swapped:
        layer = module.features[0]
        layer.rel_height, layer.rel_width = layer.rel_width, layer.rel_height
    return export(subject, module, opset=20, batch="dynamic", target="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    "decomposition", ["fold", *(pytest.param(name, marks=pytest.mark.slow) for name in ("shift", "skew"))]
)
def test_tables_of_height_and_width_in_each_others_place_are_told(good, tmp_path, decomposition):
    right = good.exported if decomposition == "fold" else written(good.subject, decomposition, False)
    wrong = written(good.subject, decomposition, True)
    onnx.save(wrong.model, tmp_path / "swapped.onnx")
    found = locate_in_file(tmp_path / "swapped.onnx", good.subject, None, CASE, right)
    assert any(hint.endswith(": two tables swapped") for hint in found.hints), found.hints


def times_255(model):
    insert_after(model.graph, "input", "Mul", constant(model.graph, 255.0))
    return "the image × 255"


def normalised_once_more(model):
    subtracted = insert_after(model.graph, "input", "Sub", constant(model.graph, 0.305))
    insert_after(model.graph, subtracted.output[0], "Div", constant(model.graph, 0.376))
    return "(the image − 0.305) ÷ 0.376"


@pytest.mark.parametrize("spoil", [times_255, normalised_once_more], ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("for_one", [False, True], ids=["for all", "for one of two"])
def test_images_that_are_normalised_in_the_file_too_are_told(good, located, spoil, for_one):
    model = good.model()
    said = spoil(model)
    if for_one:
        node_of(model, "node_Conv_414").input[0] = "input"
    found = located(model)
    assert found.node.startswith("mutant_")
    assert f"preprocessing mismatch: the file takes {said} where the model takes the image" in found.hints


def kernel_doubled(model):
    change(model, "features.0.qkv.weight_scaled", lambda array: array * 2)


def image_turned(model):
    insert_after(model.graph, "input", "Transpose", perm=[0, 1, 3, 2])


def normalised_and_undone(model):
    """With a fault elsewhere: that the numbers are others on the way is not it."""
    doubled = insert_after(model.graph, "input", "Mul", constant(model.graph, 2.0))
    insert_after(model.graph, doubled.output[0], "Div", constant(model.graph, 2.0))
    bias_off(model)


@pytest.mark.parametrize("spoil", [kernel_doubled, image_turned, normalised_and_undone], ids=lambda s: s.__name__)
def test_other_faults_are_not_taken_for_the_preprocessing(good, located, spoil):
    model = good.model()
    spoil(model)
    assert not any("preprocessing" in hint for hint in located(model).hints)


def test_a_right_file_has_no_diverging_node(good, located):
    assert located(good.model()) is None


def test_the_rules_change_tensors_between_two_that_agree(good):
    assert locate_in_rules(good.exported, CASE) is None


def test_a_rule_that_goes_wrong_is_found(good):
    model = good.model()
    change(model, "features.3.qkv.weight_scaled", lambda array: array * np.float32(1.5))
    broken = replace(good.exported, model=model)
    assert locate_in_rules(broken, CASE).node == queries_of(model, "features.3")


@contextlib.contextmanager
def silently():
    """Errors that name no node."""
    try:
        yield
    except RunnerError:
        raise RunnerError("it does not work") from None


def test_a_node_that_runs_for_one_batch_only_is_found_without_its_name(good, tmp_path):
    model = good.model()
    name = batch_baked_in(model)

    class Silent(OrtRunner):
        def __init__(self, data):
            with silently():
                super().__init__(data, AS_WRITTEN)

        def infer(self, feeds):
            with silently():
                return super().infer(feeds)

    suspect = Side(model, Silent, "suspect")
    found = locate(suspect, Side(good.exported.model, as_written, "trusted"), CASE)
    assert found.node == name
    assert found.actual.dtype == "none"


class Wrong(OrtRunner):
    """A runtime with a wrong Softmax; when `fused`, it is wrong only if the tensor before it is not asked for."""

    def __init__(self, model, fused):
        loaded = onnx.load_from_string(model.model)
        asked = {value.name for value in loaded.graph.output}
        for node in loaded.graph.node:
            if node.name == "node_softmax_1" and not (fused and asked.intersection(node.input)):
                node.attribute[0].i = 1
        super().__init__(loaded.SerializeToString(), AS_WRITTEN)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_wrong_kernel_is_found(good, fused):
    found = locate_in_runtime(good.path, lambda model: Wrong(model, fused), "wrong", CASE)
    if fused:
        assert found.node == "node_Concat_14"
        assert found.hints[0].startswith("between relu and here, in nodes that the runtime fuses")
    else:
        assert found.node == "node_softmax_1"


def node(path, name, reads, writes):
    made = helper.make_node("Relu", reads, writes, name=name)
    if path is not None:
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=path)
    return made


def test_the_module_path_of_a_node_or_of_the_one_before_it():
    nodes = [
        node("['', 'features', 'features.0', 'relu']", "a", ["x"], ["a"]),
        node(None, "b", ["a"], ["b"]),
        node("__import__('os')", "c", ["b"], ["c"]),
        node("['', 'view']", "d", ["c"], ["d"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "paths", [], []))
    assert [facts.module for facts in read_nodes(model)] == ["features.0"] * 3 + [None]


def test_what_a_subgraph_reads_from_outside_is_an_input():
    branch = helper.make_graph([helper.make_node("Add", ["outer", "own"], ["sum"])], "branch", [], [])
    branch.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "own"))
    choice = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    model = helper.make_model(helper.make_graph([choice], "outer", [], []))
    assert read_nodes(model)[0].inputs == ("condition", "outer")


def test_chunks_stay_below_the_budget_and_keep_the_order():
    sizes = {"a": 4, "b": 5, "c": 20, "d": 1}
    assert plan_chunks(["a", "b", "c", "d", "unknown"], sizes, 10) == [("a", "b"), ("c",), ("d",), ("unknown",)]


def test_sizes_are_those_of_the_batch(good):
    sizes = tensor_bytes(good.model(), 3)
    assert sizes["conv2d"] == 3 * 82 * 8 * 8 * 4
    assert sizes.keys() == {name for facts in read_nodes(good.model()) for name in facts.outputs}
