"""How the attention of each layer is written out: what `auto` takes, and what a limit on memory makes of it."""

import onnx
import pytest
from onnx import shape_inference
from torch import nn

import aaexport
from aaexport.errors import ArgumentError
from aaexport.nn import AugmentedConv2d
from aaexport.nn.choice import AttentionSizes, Choice, blocks_within, choose, choose_eagerly
from aaexport.pipeline.export.plan import default_opset, plan_attention, unmeasured


def sizes(side, heads=4, **changes):
    return AttentionSizes(height=side, width=side, dkh=16, dvh=8, num_heads=heads, **changes)


def layer(side=8, **options):
    return AugmentedConv2d(3, 8, dk=8, dv=4, num_heads=2, height=side, width=side, **options)


# The choice


@pytest.mark.parametrize("side", [1, 7, 8, 14, 16])
def test_small_maps_are_folded(side):
    assert choose(sizes(side)).decomposition == "fold"


@pytest.mark.parametrize("side", [48, 64, 128])
def test_large_maps_are_not(side):
    assert choose(sizes(side)).decomposition == "shift"


@pytest.mark.parametrize(
    ("side", "dkh", "decomposition"),
    [(14, 64, "fold"), (20, 64, "fold"), (28, 20, "shift"), (28, 64, "table"), (40, 64, "table"), (64, 64, "shift")],
)
def test_the_keys_that_a_row_of_queries_has_for_itself_are_counted(side, dkh, decomposition):
    assert choose(AttentionSizes(side, side, dkh, dkh // 4, num_heads=4)).decomposition == decomposition


@pytest.mark.parametrize(("side", "dkh", "chosen"), [(28, 64, "table/6"), (28, 256, "table/1"), (64, 64, "shift/64")])
def test_a_block_has_many_queries_beside_the_depth_of_the_keys_that_it_reads_again(side, dkh, chosen):
    choice = choose(AttentionSizes(side, side, dkh, 16, num_heads=4))
    assert f"{choice.decomposition}/{choice.blocks}" == chosen


@pytest.mark.parametrize("side", [1, 14, 32, 64])
def test_on_cuda_maps_are_folded_whole(side):
    assert choose(sizes(side), target="cuda") == Choice("fold")


def test_without_tables_there_is_nothing_to_add():
    assert choose(sizes(64, relative=False)).decomposition == "fold"


def test_the_same_sizes_give_the_same_choice():
    assert choose(sizes(32), batch=4) == choose(sizes(32), batch=4)


@pytest.mark.parametrize(("limit", "batch"), [(1024, 1), (5000, 1), (10**6, 3), (10**9, 1)])
def test_no_block_has_more_logits_than_the_limit(limit, batch):
    shape = sizes(16)
    blocks = blocks_within(shape, limit, batch=batch)
    queries = -(-shape.positions // blocks)
    assert queries == 1 or batch * shape.num_heads * queries * shape.positions <= limit


@pytest.mark.parametrize(
    ("device", "batch", "chosen"), [("cpu", 1, "table/4"), ("cpu", 4, "table/16"), ("cuda", 4, "fused")]
)
def test_eager_mode_takes_blocks_on_the_cpu_and_one_operator_on_cuda(device, batch, chosen):
    assert str(choose_eagerly(sizes(32), batch=batch, device_type=device)) == chosen


# The plan


def test_auto_is_folded_below_opset_23_and_one_operator_from_there_on():
    module = nn.Sequential(layer(), layer())
    plan_attention(module, opset=22, batch="dynamic")
    assert [one.decomposition for one in module] == ["fold", "fold"]
    module = nn.Sequential(layer())
    plan_attention(module, opset=23, batch="dynamic")
    assert module[0].decomposition == "fused"


def test_a_layer_that_has_a_decomposition_keeps_it():
    module = nn.Sequential(layer(decomposition="skew"))
    plan_attention(module, opset=20, batch=1)
    assert module[0].decomposition == "skew"


def test_an_asked_for_decomposition_holds_for_every_layer():
    module = nn.Sequential(layer(decomposition="skew"), layer())
    plan_attention(module, opset=20, batch=1, decomposition="table")
    assert [one.decomposition for one in module] == ["table", "table"]


def test_one_operator_needs_opset_23():
    with pytest.raises(ArgumentError) as refusal:
        plan_attention(nn.Sequential(layer()), opset=22, batch=1, decomposition="fused")
    assert str(refusal.value) == "opset must be at least 23 for the decomposition fused, got 22; or take fold"


def test_a_limit_that_not_one_query_keeps_is_refused_with_what_it_takes():
    with pytest.raises(ArgumentError) as refusal:
        plan_attention(nn.Sequential(layer(side=32)), opset=20, batch=4, max_attention_memory=0.01)
    assert str(refusal.value) == (
        "max_attention_memory must be at least 1.969 MiB for table in 0, in however many blocks, got 0.01"
    )


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_limit_must_be_a_number_of_mebibytes(tmp_path, limit):
    with pytest.raises(ArgumentError, match="max_attention_memory must be above 0 MiB"):
        aaexport.convert(layer(), tmp_path / "x.onnx", input_shape=(3, 8, 8), max_attention_memory=limit)


# The file


def largest_tensor(path):
    """In bytes, of all that the graph computes on the way, at batch 1."""
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    assert len(inferred.graph.value_info) >= len(model.graph.node) - 1  # every tensor's shape is known
    largest = 0
    for value in inferred.graph.value_info:
        count = 4
        for dimension in value.type.tensor_type.shape.dim:
            count *= dimension.dim_value
        largest = max(largest, count)
    return largest


@pytest.mark.parametrize(
    "decomposition", ["auto", *(pytest.param(name, marks=pytest.mark.slow) for name in ("table", "fold"))]
)
def test_no_tensor_of_the_file_exceeds_the_limit(tmp_path, decomposition):
    module = layer(side=16)
    free = aaexport.convert(
        module, tmp_path / "free.onnx", input_shape=(3, 16, 16), decomposition=decomposition, verify=False
    )
    tight = aaexport.convert(
        module,
        tmp_path / "tight.onnx",
        input_shape=(3, 16, 16),
        decomposition=decomposition,
        max_attention_memory=0.125,
    )
    assert tight.parity.passed
    assert largest_tensor(free.path) == 2 * 256 * 256 * 4
    assert largest_tensor(tight.path) <= 0.125 * 2**20
    assert tight.decomposition.endswith("/4")


def test_maps_whose_logits_fit_the_caches_are_attended_at_once():
    assert choose(sizes(14, heads=8), batch=64).blocks == 1


def test_larger_maps_are_attended_in_blocks_that_fit():
    choice = choose(sizes(32), batch=4)
    assert (choice.decomposition, choice.blocks) == ("shift", 16)


def test_a_limit_on_memory_takes_no_keys_beside_the_logits():
    module = nn.Sequential(layer(side=32))
    plan_attention(module, opset=20, batch=1, max_attention_memory=1)
    assert module[0].decomposition == "table"


@pytest.mark.parametrize("name", ["skew", "shift"])
def test_a_limit_contradicts_what_cannot_keep_it(name):
    with pytest.raises(ArgumentError, match=f"max_attention_memory must be left out with decomposition {name}"):
        plan_attention(layer(), opset=20, batch=1, decomposition=name, max_attention_memory=1)


@pytest.mark.parametrize(
    ("side", "depth", "decomposition", "least"),
    [
        pytest.param(24, 8, "auto", 0.207, marks=pytest.mark.slow),
        pytest.param(16, 256, "auto", 0.25, marks=pytest.mark.slow),
        pytest.param(16, 256, "fold", 0.313, marks=pytest.mark.slow),
    ],
)
def test_a_limit_counts_what_blocks_do_not_divide(side, depth, decomposition, least, tmp_path):
    module = AugmentedConv2d(3, 8, dk=depth, dv=4, num_heads=2, height=side, width=side)
    options = {"input_shape": (3, side, side), "decomposition": decomposition, "verify": False}
    with pytest.raises(ArgumentError, match=rf"be at least {least} MiB for (table|fold) in the layer"):
        aaexport.convert(module, tmp_path / "model.onnx", max_attention_memory=least * 0.99, **options)
    result = aaexport.convert(module, tmp_path / "model.onnx", max_attention_memory=least, **options)
    assert largest_tensor(result.path) <= max(least, 2 * depth * side**2 * 8 / 2**20) * 2**20


def test_a_deep_network_takes_no_more_blocks_than_its_export_can_bear():
    layers = nn.Sequential(*(layer(side=32) for _ in range(4)))
    plan_attention(layers, opset=20, batch="dynamic")
    assert {str(Choice(one.decomposition, one.blocks)) for one in layers} == {"shift/4"}


# The opset


@pytest.mark.parametrize(
    ("side", "target", "more", "opset"),
    [
        (32, "cuda", {}, 23),
        (8, "cuda", {}, 20),  # few logits
        (32, "cpu", {}, 20),
        (32, "cuda", {"decomposition": "fold"}, 20),
        (32, "cuda", {"with_attention": True}, 20),
    ],
)
def test_the_opset_on_cuda_is_that_of_the_operator_where_there_are_many_logits(side, target, more, opset):
    assert default_opset(layer(side), target, **more) == opset


def test_without_attention_the_opset_is_the_same_everywhere():
    assert default_opset(nn.Conv2d(3, 4, 3), "cuda") == 20


def test_on_cuda_heads_that_no_fused_kernel_takes_are_not_left_to_the_operator():
    deep = AttentionSizes(8, 8, dkh=1100, dvh=8, num_heads=1)
    assert unmeasured(deep, 23, 4, "cuda") == Choice("fold")
    assert unmeasured(deep, 23, 4, "cpu") == Choice("fused")
    assert unmeasured(sizes(8), 23, 4, "cuda") == Choice("fused")


def test_on_cuda_sums_pay_for_the_largest_maps_only():
    assert choose(sizes(320), target="cuda") == Choice("fold")
    assert choose(sizes(321), target="cuda") == Choice("table")
    assert choose(sizes(400, relative=False), target="cuda") == Choice("fold")
