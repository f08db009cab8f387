import math
from decimal import ROUND_FLOOR, Decimal

import pytest
import torch
from definition import reference, up_to_whole
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.export import Dim
from torch.testing import assert_close

from aaexport.nn import AugmentedConv2d, attention_depths, set_decomposition
from aaexport.nn.relative import DECOMPOSITIONS

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SMALL = {
    "in_channels": 3, "out_channels": 8, "kernel_size": 3, "dk": 4, "dv": 4, "num_heads": 2, "height": 4, "width": 5,
}  # fmt: skip


def small(**changes):
    """A small layer in float64 with weights from a fixed seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AugmentedConv2d(**(SMALL | changes)).double().eval()


def images(layer, batch=2):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, layer.in_channels, layer.height, layer.width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


LAYERS = {
    "as it comes": {},
    "higher than wide": {"height": 5, "width": 3},
    "odd sizes": {"height": 5, "width": 7},
    "one row": {"height": 1, "width": 6},
    "one pixel": {"height": 1, "width": 1},
    "stride 2": {"stride": 2},
    "stride 2, odd sizes": {"stride": 2, "height": 5, "width": 7},
    "stride 2, one column": {"stride": 2, "height": 6, "width": 1},
    "3x3 queries": {"qkv_kernel_size": 3},
    "3x3 queries, stride 2, odd": {"qkv_kernel_size": 3, "stride": 2, "height": 7, "width": 4},
    "1x1 kernel": {"kernel_size": 1},
    "5x5 kernel": {"kernel_size": 5},
    "bias": {"bias": True},
    "bias, stride 2": {"bias": True, "stride": 2},
    "not relative": {"relative": False},
    "not relative, bias, stride 2": {"relative": False, "bias": True, "stride": 2},
    "downsampled": {"attention_downsample": 2},
    "downsampled, odd": {"attention_downsample": 2, "height": 5, "width": 7},
    "downsampled, stride 2": {"attention_downsample": 2, "stride": 2, "height": 8, "width": 6},
    "downsampled, stride 2, odd": {"attention_downsample": 2, "stride": 2, "height": 9, "width": 11},
    "downsampled, one row": {"attention_downsample": 2, "height": 1, "width": 5},
    "downsampled, not relative, bias": {"attention_downsample": 2, "relative": False, "bias": True},
    "attention alone": {"dv": 8},
    "attention alone, stride 2": {"dv": 8, "stride": 2, "bias": True},
    "one head": {"num_heads": 1},
    "four heads of one channel": {"num_heads": 4},
    "unlike depths": {"dk": 6, "dv": 2},
    "heads not permuted": {"head_layout": "unpermuted"},
    "heads not permuted, stride 2, odd": {"head_layout": "unpermuted", "stride": 2, "height": 5, "width": 7},
}
every_layer = pytest.mark.parametrize("changes", LAYERS.values(), ids=LAYERS.keys())
every_decomposition = pytest.mark.parametrize("decomposition", DECOMPOSITIONS)


@every_decomposition
@every_layer
def test_layer_equals_its_formula(changes, decomposition):
    layer = small(**changes, decomposition=decomposition)
    x = images(layer)
    assert_close(layer(x), reference(layer, x), **EXACT)


@every_layer
def test_output_has_the_documented_shape(changes):
    layer = small(**changes)
    rows, columns = up_to_whole(layer.height, layer.stride), up_to_whole(layer.width, layer.stride)
    assert layer(images(layer, batch=3)).shape == (3, layer.out_channels, rows, columns)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("downsample", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (7, 3), (8, 9), (10, 13)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_tables_have_a_row_for_every_offset_of_the_attention_map(size, downsample, stride):
    height, width = size
    layer = small(height=height, width=width, attention_downsample=downsample, stride=stride)
    rows, columns = (up_to_whole(side, stride * downsample) for side in size)
    assert (layer.rel_height.shape, layer.rel_width.shape) == ((2 * rows - 1, 2), (2 * columns - 1, 2))


def test_images_of_a_batch_do_not_mix():
    layer = small()
    x = images(layer, batch=3)
    assert_close(layer(x)[1:2], layer(x[1:2]), **EXACT)


def test_a_layer_that_is_attention_alone_has_no_convolution():
    assert small(dv=8).conv is None


def test_without_a_projection_the_heads_stay_side_by_side():
    bare, projected = small(projection=False), small()
    with torch.no_grad():
        projected.projection.weight.copy_(torch.eye(projected.dv)[:, :, None, None])
    projected.load_state_dict(bare.state_dict(), strict=False)
    assert set(projected.state_dict()) - set(bare.state_dict()) == {"projection.weight"}
    assert_close(bare(images(bare)), projected(images(bare)), **EXACT)


def test_parameters_have_the_documented_names():
    names = {name for name, _ in small().named_parameters()}
    assert names == {"conv.weight", "qkv.weight", "projection.weight", "rel_height", "rel_width"}


def test_bias_adds_the_biases_of_the_three_convolutions():
    with_bias, without = (set(small(bias=bias).state_dict()) for bias in (True, False))
    assert with_bias - without == {"conv.bias", "qkv.bias", "projection.bias"}


def test_without_relative_there_are_no_tables_in_the_state_dict():
    assert set(small(relative=False).state_dict()) == {"conv.weight", "qkv.weight", "projection.weight"}


@pytest.mark.parametrize("table", ["rel_height", "rel_width"])
@pytest.mark.parametrize("dkh", [4, 20, 64])
def test_tables_start_with_the_standard_deviation_of_the_paper(table, dkh):
    layer = small(dk=2 * dkh, height=200, width=200)
    assert getattr(layer, table).std().item() == pytest.approx(dkh**-0.5, rel=0.1)


def test_the_decomposition_can_be_changed_in_a_whole_module():
    module = torch.nn.Sequential(small(), torch.nn.ReLU(), torch.nn.Sequential(small()))
    assert (set_decomposition(module, "skew"), module[0].decomposition, module[2][0].decomposition) == (
        2,
        "skew",
        "skew",
    )


# The paper's numbers of channels and heads


@pytest.mark.parametrize(
    ("channels", "kappa", "upsilon", "heads", "depths"),
    [
        (64, 0.25, 0.25, 4, (80, 16)),  # 20 dimensions a head are the least
        (512, 0.25, 0.25, 4, (128, 128)),  # κF = 128 is more
        (160, 0.2, 0.1, 8, (160, 16)),
        (100, 0.9, 0.5, 3, (90, 48)),  # both rounded down to whole heads
        (100, 0.29, 0.29, 1, (29, 29)),  # 0.29 · 100 is below 29 in doubles
        (1000, 0.57, 0.57, 10, (570, 570)),
        (8, 1, 1, 8, (160, 8)),
        (100, 2.5, 0.5, 1, (250, 50)),
    ],
)
def test_depths_are_those_of_the_paper(channels, kappa, upsilon, heads, depths):
    assert attention_depths(channels, kappa, upsilon, heads) == depths


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    channels=st.integers(1, 2048),
    percent=st.integers(1, 100),
    thousandths=st.integers(1, 1000),
    heads=st.integers(1, 4),
)
def test_depths_are_exact_for_decimal_ratios(channels, percent, thousandths, heads):
    def share(ratio):
        return int((Decimal(str(ratio)) * channels / heads).to_integral_value(ROUND_FLOOR)) * heads

    kappa, upsilon = percent / 100, thousandths / 1000
    if share(upsilon) == 0:
        with pytest.raises(ValueError, match="upsilon must"):
            attention_depths(channels, kappa, upsilon, heads)
    else:
        assert attention_depths(channels, kappa, upsilon, heads) == (max(20 * heads, share(kappa)), share(upsilon))


def test_from_ratios_makes_the_layer_of_those_depths():
    layer = AugmentedConv2d.from_ratios(3, 64, 5, kappa=0.5, upsilon=0.25, num_heads=4, height=6, width=7, stride=2)
    found = (layer.dk, layer.dv, layer.num_heads, layer.conv.weight.shape, layer.stride, layer.attention_size)
    assert found == (80, 16, 4, (48, 3, 5, 5), 2, (3, 4))


def test_keys_have_at_least_the_dimensions_a_head_that_are_asked_for():
    assert attention_depths(20, 2.0, 0.2, 4, min_dkh=1) == (40, 4)
    assert attention_depths(20, 2.0, 0.2, 4, min_dkh=16) == (64, 4)


# Refusals

REFUSED_BY_THE_LAYER = {
    "dk of no whole heads": ({"dk": 5}, "dk must be a positive multiple of num_heads (2), got 5"),
    "dk 0": ({"dk": 0}, "dk must be a positive multiple of num_heads (2), got 0"),
    "dk below 0": ({"dk": -2}, "dk must be a positive multiple of num_heads (2), got -2"),
    "dv of no whole heads": ({"dv": 3}, "dv must be a positive multiple of num_heads (2), got 3"),
    "dv 0": ({"dv": 0}, "dv must be a positive multiple of num_heads (2), got 0"),
    "dv too large": ({"dv": 10}, "dv must be at most out_channels (8), got 10"),
    "stride 3": ({"stride": 3}, "stride must be 1 or 2, got 3"),
    "stride 0": ({"stride": 0}, "stride must be 1 or 2, got 0"),
    "even kernel": ({"kernel_size": 4}, "kernel_size must be odd and positive, got 4"),
    "kernel below 0": ({"kernel_size": -1}, "kernel_size must be odd and positive, got -1"),
    "even kernel of queries": ({"qkv_kernel_size": 2}, "qkv_kernel_size must be odd and positive, got 2"),
    "no head": ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
    "no row": ({"height": 0}, "height must be at least 1, got 0"),
    "no column": ({"width": 0}, "width must be at least 1, got 0"),
    "no input": ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
    "no output": ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
    "downsample 3": ({"attention_downsample": 3}, "attention_downsample must be 1 or 2, got 3"),
    "unknown head layout": (
        {"head_layout": "mixed"},
        "head_layout must be one of permuted, unpermuted, got 'mixed'",
    ),
    "unknown decomposition": (
        {"decomposition": "tabel"},
        "decomposition must be a known one, got 'tabel'; did you mean 'table'?",
    ),
}


@pytest.mark.parametrize(("changes", "text"), REFUSED_BY_THE_LAYER.values(), ids=REFUSED_BY_THE_LAYER.keys())
def test_inconsistent_arguments_are_refused_by_name_rule_and_value(changes, text):
    with pytest.raises(ValueError) as refusal:
        AugmentedConv2d(**(SMALL | changes))
    assert str(refusal.value) == text


def test_a_later_unknown_decomposition_is_refused_and_the_old_one_stays():
    layer = small()
    with pytest.raises(ValueError, match=r"decomposition must be a known one, got 'skwe'; did you mean 'skew'\?"):
        layer.decomposition = "skwe"
    assert layer.decomposition == "auto"


REFUSED_RATIOS = {
    "kappa 0": ((64, 0, 0.25, 4), "kappa must be above 0, got 0"),
    "kappa below 0": ((64, -0.5, 0.25, 4), "kappa must be above 0, got -0.5"),
    "kappa no number": ((64, math.nan, 0.25, 4), "kappa must be above 0, got nan"),
    "upsilon 0": ((64, 0.25, 0, 4), "upsilon must be above 0 and at most 1, got 0"),
    "upsilon above 1": ((64, 0.25, 1.5, 4), "upsilon must be above 0 and at most 1, got 1.5"),
    "upsilon too small": (
        (64, 0.25, 0.05, 4),
        "upsilon must give each of 4 heads at least one of 64 channels, got 0.05",
    ),
    "no head": ((64, 0.25, 0.25, 0), "num_heads must be at least 1, got 0"),
}


@pytest.mark.parametrize(("arguments", "text"), REFUSED_RATIOS.values(), ids=REFUSED_RATIOS.keys())
def test_ratios_that_make_no_layer_are_refused_by_name_rule_and_value(arguments, text):
    with pytest.raises(ValueError) as refusal:
        attention_depths(*arguments)
    assert str(refusal.value) == text


def test_a_kappa_beyond_all_reason_is_refused_by_name():
    with pytest.raises(ValueError, match=r"kappa must give the keys of 64 channels at most 65536, got 1000000\.0"):
        attention_depths(64, 1e6, 0.5, 4)


def test_an_infinite_kappa_is_refused_by_name():
    with pytest.raises(ValueError, match=r"kappa must .*, got inf"):
        attention_depths(64, math.inf, 0.25, 4)


WRONG_INPUTS = {
    "too high": (2, 3, 5, 5),
    "too wide": (2, 3, 4, 6),
    "transposed": (2, 3, 5, 4),
    "too many channels": (2, 4, 4, 5),
    "without a batch": (3, 4, 5),
    "one axis too many": (1, 2, 3, 4, 5),
}


@pytest.mark.parametrize("shape", WRONG_INPUTS.values(), ids=WRONG_INPUTS.keys())
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "plain"])
def test_an_input_of_another_shape_is_refused_with_both_shapes(shape, relative):
    layer = small(relative=relative)
    with pytest.raises(ValueError) as refusal:
        layer(torch.zeros(shape, dtype=torch.float64))
    assert str(refusal.value).startswith(f"input must have the shape (batch, 3, 4, 5), got {shape}")


# torch.export


@pytest.fixture(scope="module")
def exported():
    """A layer, and its exported program with a dynamic batch."""
    layer = small()
    program = torch.export.export(layer, (images(layer),), dynamic_shapes=({0: Dim("batch")},))
    return layer, program.module()


@pytest.mark.parametrize("shape", WRONG_INPUTS.values(), ids=WRONG_INPUTS.keys())
def test_an_export_from_an_example_of_another_shape_is_refused_with_both_shapes(shape):
    with pytest.raises(ValueError) as refusal:
        torch.export.export(small(), (torch.zeros(shape, dtype=torch.float64),))
    assert str(refusal.value).startswith(f"input must have the shape (batch, 3, 4, 5), got {shape}")


@pytest.mark.parametrize("batch", [1, 3])
def test_an_exported_layer_computes_the_same_for_any_batch(exported, batch):
    layer, program = exported
    x = images(layer, batch=batch)
    assert_close(program(x), layer(x), **EXACT)


@pytest.mark.parametrize("shape", WRONG_INPUTS.values(), ids=WRONG_INPUTS.keys())
def test_an_exported_layer_refuses_another_shape(exported, shape):
    _, program = exported
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        program(torch.zeros(shape, dtype=torch.float64))
