"""What is replaced in whole modules, what is kept and why, and what a replacement shares with the original."""

import copy
import types

import pytest
import torch
from look_alikes import (
    AugmentedLayer,
    BottleAttention,
    BottleneckAttn,
    BottleStack,
    InPaperConv,
    PooledBottleneck,
    ReferenceConv,
    SelfAttention2d,
    relative_logits,
)
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from wide_resnet import WideResNet

from aaexport.adapters import ADAPTERS, adapt
from aaexport.errors import ArgumentError
from aaexport.nn import AugmentedConv2d
from aaexport.nn.augmented import augmented_layers

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
REFERENCE = "the PyTorch reference implementation's AugmentedConv"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def reference_layer(kind=ReferenceConv, channels=16, side=4, **options):
    """A relative layer of it with keys as deep as values, so that whatever could be swapped fits."""
    return kind(channels, 16, 3, 8, 8, 2, **({"shape": side, "relative": True} | options)).eval()


def maps(side=4, channels=16, batch=2):
    return torch.randn(batch, channels, side, side)


def trained(module, example):
    """Batch normalization with statistics and weights of its own, as training leaves it."""
    module.train()
    with torch.no_grad():
        module(example)
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 10)
    return module.eval()


def assert_same_outputs(adaptation, module, x):
    with torch.no_grad():
        assert_close(adaptation.module(x), module(x), **CLOSE)


# Whole modules


def test_every_layer_of_the_references_wide_resnet_is_replaced():
    x = torch.randn(1, 3, 32, 32)
    network = trained(WideResNet(depth=10, widen_factor=1, num_classes=10), x)
    layers = [name for name, layer in network.named_modules() if isinstance(layer, ReferenceConv)]
    adaptation = adapt(network, x)
    assert (adaptation.replaced, adaptation.kept) == (dict.fromkeys(layers, REFERENCE), {})
    assert list(augmented_layers(adaptation.module)) == layers
    assert_same_outputs(adaptation, network, x)


def test_the_references_wide_resnet_28_10_has_its_number_of_parameters():
    with torch.device("meta"):
        network = WideResNet(depth=28, widen_factor=10, num_classes=100)
    assert sum(parameter.numel() for parameter in network.parameters()) == 206_229_580


def test_pooling_around_a_layer_stays():
    x = torch.randn(2, 8, 8, 8)
    block = trained(PooledBottleneck(), x)
    adaptation = adapt(block, x)
    assert adaptation.replaced == {"conv2": "d-li14's SelfAttention2d"}
    assert adaptation.module.conv2.attention_size == (4, 4)
    assert_same_outputs(adaptation, block, x)


def test_pooling_inside_a_layer_follows_the_replacement():
    layer = BottleneckAttn(8, 16, feat_size=(6, 4), stride=2, num_heads=2).eval()
    adaptation = adapt(nn.Sequential(layer, nn.ReLU()).eval(), torch.randn(1, 8, 6, 4))
    assert adaptation.replaced == {"0": "timm's BottleneckAttn"}
    assert list(augmented_layers(adaptation.module)) == ["0.0"]


def test_a_bottle_stack_keeps_its_frame():
    x = torch.randn(2, 16, 8, 6)
    stack = trained(BottleStack(dim=16, fmap_size=(8, 6), rel_pos_emb=True), x)
    adaptation = adapt(stack, x)
    title = "lucidrains' BottleStack attention"
    assert adaptation.replaced == {f"net.{number}.net.3": title for number in range(3)}
    assert_same_outputs(adaptation, stack, x)


def test_layers_of_several_sources_are_replaced_side_by_side():
    layers = [
        ReferenceConv(4, 8, 3, 4, 4, 2, 6, relative=True),
        AugmentedLayer(8, 8, 3, 1, 4, 4, 2, fh=6, fw=6),
        SelfAttention2d(8, 8, 3, 4, 4, 2, size=6, relative=True),
        BottleneckAttn(8, 8, feat_size=(6, 6), num_heads=2),
        BottleAttention(dim=8, fmap_size=(6, 6), heads=2, dim_head=4, rel_pos_emb=True),
    ]
    network, x = nn.Sequential(*layers).eval(), torch.randn(1, 4, 6, 6)
    adaptation = adapt(network, x)
    assert list(adaptation.replaced.values()) == [adapter.title for adapter in ADAPTERS]
    assert_same_outputs(adaptation, network, x)


# Recognised by structure


class Renamed(ReferenceConv):
    """A subclass under another name that adds nothing to what is computed."""

    def describe(self):
        return "the same"


@pytest.mark.parametrize("own", [{}, {"num_filters": 3, "note": "mine"}], ids=["as it is", "with attributes"])
def test_a_subclass_of_another_name_is_found(own):
    layer = reference_layer(Renamed)
    vars(layer).update(own)
    assert adapt(layer, maps()).replaced == {"": REFERENCE}


@pytest.mark.parametrize("name", ["conv_out", "qkv_conv", "attn_out"])
def test_each_convolution_may_lack_its_bias(name):
    layer = reference_layer()
    getattr(layer, name).bias = None
    adaptation = adapt(layer, maps())
    assert adaptation.replaced == {"": REFERENCE}
    assert_same_outputs(adaptation, layer, maps())


def test_a_wrapper_that_passes_attributes_on_is_no_candidate():
    class Wrapper(nn.Module):
        def __init__(self, wrapped):
            super().__init__()
            self.wrapped = wrapped

        def __getattr__(self, name):
            return super().__getattr__(name) if name == "wrapped" else getattr(self.wrapped, name)

        def forward(self, x):
            return self.wrapped(x)

    adaptation = adapt(Wrapper(reference_layer()).eval(), maps())
    assert (adaptation.replaced, adaptation.kept) == ({"wrapped": REFERENCE}, {})


def test_a_shared_layer_gets_one_replacement_at_all_its_paths():
    layer = reference_layer()
    network = nn.Sequential(layer, nn.ReLU(), nn.ModuleDict({"again": layer})["again"], nn.Sequential(layer)).eval()
    adaptation = adapt(network, maps())
    assert adaptation.replaced == dict.fromkeys(["0", "2", "3.0"], REFERENCE)
    adapted = adaptation.module
    assert adapted[0] is adapted[2] is adapted[3][0]
    assert_same_outputs(adaptation, network, maps())


def test_our_own_layers_are_no_candidates():
    layer = AugmentedConv2d(3, 8, dk=4, dv=4, num_heads=2, height=4, width=4)
    adaptation = adapt(layer.eval(), torch.randn(1, 3, 4, 4))
    assert (adaptation.module, adaptation.replaced, adaptation.kept) == (layer, {}, {})


# The given module is left alone


def test_the_copy_has_parameters_of_its_own_over_the_same_memory():
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), reference_layer()).eval()
    adapted = adapt(network, maps(channels=3)).module
    pairs = {"0.weight": "0.weight", "2.conv_out.weight": "2.conv.weight", "2.qkv_conv.bias": "2.qkv.bias",
             "2.attn_out.weight": "2.projection.weight", "2.key_rel_h": "2.rel_height"}  # fmt: skip
    given, copied = dict(network.named_parameters()), dict(adapted.named_parameters())
    assert len(given) == len(copied)
    for its, ours in pairs.items():
        assert given[its].data_ptr() == copied[ours].data_ptr()
        assert given[its] is not copied[ours]
    adapted.double().requires_grad_(False)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in network.parameters())


def test_the_given_module_is_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), reference_layer()).eval()
    before, layers = copy.deepcopy(network.state_dict()), list(network.modules())
    torch.manual_seed(5)
    adapt(network, maps(channels=3))
    drawn = torch.rand(1)
    torch.manual_seed(5)
    maps(channels=3)
    assert torch.equal(drawn, torch.rand(1))
    assert list(network.modules()) == layers
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_replacement_is_trained_by_the_gradients_of_its_own_parameters():
    adapted = adapt(reference_layer(), maps()).module
    adapted(maps()).sum().backward()
    assert all(parameter.grad is not None for parameter in adapted.parameters())


# Plain networks


def convolved(in_channels, out_channels, kernel_size=3, **options):
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False, **options),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    def __init__(self, *layers, downsample=None):
        super().__init__()
        self.layers, self.downsample = nn.Sequential(*layers), downsample

    def forward(self, x):
        return functional.relu(self.layers(x) + (x if self.downsample is None else self.downsample(x)))


class Dense(nn.Module):
    def __init__(self, channels, growth, layers):
        super().__init__()
        self.layers = nn.ModuleList(convolved(channels + growth * number, growth) for number in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class TokenAttention(nn.Module):
    """With the names that transformers of images have in common with bottleneck transformers."""

    def __init__(self, depth, num_heads):
        super().__init__()
        self.num_heads = self.heads = num_heads
        self.head_dim, self.scale = depth // num_heads, (depth // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(depth, 3 * depth), nn.Linear(depth, depth)
        self.attn_drop = nn.Dropout(0.1)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((q * self.scale @ k.transpose(2, 3)).softmax(dim=-1))
        return x + self.proj((weights @ v).transpose(1, 2).flatten(2))


class VisionTransformer(nn.Module):
    def __init__(self, depth=16, patches=16):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, depth, 4, stride=4)
        self.pos_embed = nn.Parameter(torch.randn(1, patches, depth))
        self.blocks = nn.Sequential(TokenAttention(depth, 4), nn.LayerNorm(depth), TokenAttention(depth, 4))
        self.encoder = nn.TransformerEncoderLayer(depth, 4, 32, batch_first=True)

    def forward(self, x):
        return self.encoder(self.blocks(self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed)).mean(dim=1)


PLAIN_NETWORKS = {
    "VGG": lambda: nn.Sequential(convolved(3, 8), convolved(8, 8), nn.MaxPool2d(2), convolved(8, 16)),
    "ResNet": lambda: nn.Sequential(
        convolved(3, 8, 7, stride=2),
        Residual(convolved(8, 8), convolved(8, 8)),
        Residual(convolved(8, 4, 1), convolved(4, 4, stride=2), convolved(4, 16, 1),
                 downsample=convolved(8, 16, 1, stride=2)),
    ),
    "MobileNet": lambda: nn.Sequential(
        convolved(3, 8, stride=2), Residual(convolved(8, 32, 1), convolved(32, 32, groups=32), convolved(32, 8, 1))
    ),
    "DenseNet": lambda: nn.Sequential(convolved(3, 8), Dense(8, 4, 3), convolved(20, 8, 1), nn.AvgPool2d(2)),
    "vision transformer": VisionTransformer,
}  # fmt: skip


@pytest.mark.parametrize("network", PLAIN_NETWORKS.values(), ids=PLAIN_NETWORKS.keys())
def test_a_plain_network_has_no_candidates(network):
    module = network().eval()
    adaptation = adapt(module, torch.randn(1, 3, 16, 16))
    assert (adaptation.module, adaptation.replaced, adaptation.kept) == (module, {}, {})


# Layers under the reference's names, of its attributes and shapes, that compute something else


class PermutedHeads(ReferenceConv):
    def combined(self, attended, shape):
        return attended.transpose(2, 3).reshape(shape[0], self.dv, *shape[2:])


class UnscaledQueries(ReferenceConv):
    def heads(self, x):
        q, k, v = super().heads(x)
        return q * (self.dk // self.Nh) ** 0.5, k, v


class ScaledByTheDepth(ReferenceConv):
    def heads(self, x):
        q, k, v = super().heads(x)
        return q * (self.dk // self.Nh) ** 1.5, k, v


class SwappedTables(ReferenceConv):
    def tables(self, q):
        return self.key_rel_w, self.key_rel_h


class ReversedOffsets(ReferenceConv):
    def tables(self, q):
        return self.key_rel_h.flip(0), self.key_rel_w.flip(0)


class OneTableOnly(ReferenceConv):
    def tables(self, q):
        return self.key_rel_h, 0 * self.key_rel_w


class SoftmaxOverQueries(ReferenceConv):
    def weights(self, logits):
        return logits.softmax(dim=-2)


class SigmoidWeights(ReferenceConv):
    def weights(self, logits):
        return logits.sigmoid() / logits.shape[-1]


class SteadiedSoftmax(ReferenceConv):
    def weights(self, logits):
        exponentials = (logits - logits.amax(dim=-1, keepdim=True)).exp()
        return exponentials / (exponentials.sum(dim=-1, keepdim=True) + 1e-6)


class ClampedLogits(ReferenceConv):
    def weights(self, logits):
        return logits.clamp(max=10).softmax(dim=-1)


class Causal(ReferenceConv):
    def weights(self, logits):
        return logits.masked_fill(torch.ones_like(logits).triu(1).bool(), -torch.inf).softmax(dim=-1)


class DropoutInEvaluation(ReferenceConv):
    def weights(self, logits):
        return functional.dropout(logits.softmax(dim=-1), 0.1, training=True)


class KeysAsValues(ReferenceConv):
    def heads(self, x):
        q, k, v = super().heads(x)
        return q, v, k


class ValuesFromTheInput(ReferenceConv):
    def heads(self, x):
        q, k, v = super().heads(x)
        return q, k, x[:, : self.dv].reshape(v.shape)


class InterleavedHeads(ReferenceConv):
    def heads(self, x):
        return (part.transpose(1, 2).reshape(part.shape) for part in super().heads(x))


class ExtraReLU(ReferenceConv):
    def forward(self, x):
        return super().forward(x).relu()


class WithResidual(ReferenceConv):
    def forward(self, x):
        return super().forward(x) + x


class AttentionFirst(ReferenceConv):
    def forward(self, x):
        return super().forward(x).roll(self.dv, dims=1)


class BlankPixelsLeftOut(ReferenceConv):
    def forward(self, x):
        self.blank = (x == 0).all(dim=1).flatten(1)[:, None, None]
        return super().forward(x)

    def weights(self, logits):
        return (logits - 1e4 * self.blank.to(logits)).softmax(dim=-1)


class AttentionAcrossTheBatch(ReferenceConv):
    def weights(self, logits):
        return logits.mean(dim=0, keepdim=True).expand_as(logits).softmax(dim=-1)


class InputChanged(ReferenceConv):
    def forward(self, x):
        out = super().forward(x)
        x.relu_()
        return out


class WithWeights(ReferenceConv):
    def forward(self, x):
        return super().forward(x), self.logits(*self.heads(x)[:2])


SOMETHING_ELSE = "it computes something else: "
IMPOSTORS = {
    PermutedHeads: SOMETHING_ELSE,
    UnscaledQueries: SOMETHING_ELSE,
    ScaledByTheDepth: SOMETHING_ELSE,
    SwappedTables: SOMETHING_ELSE,
    ReversedOffsets: SOMETHING_ELSE,
    OneTableOnly: SOMETHING_ELSE,
    SoftmaxOverQueries: SOMETHING_ELSE,
    SigmoidWeights: SOMETHING_ELSE,
    SteadiedSoftmax: SOMETHING_ELSE,
    ClampedLogits: SOMETHING_ELSE,
    Causal: SOMETHING_ELSE,
    DropoutInEvaluation: "its output is random: two runs on one input differ",
    KeysAsValues: SOMETHING_ELSE,
    ValuesFromTheInput: SOMETHING_ELSE,
    InterleavedHeads: SOMETHING_ELSE,
    ExtraReLU: SOMETHING_ELSE,
    WithResidual: SOMETHING_ELSE,
    AttentionFirst: SOMETHING_ELSE,
    BlankPixelsLeftOut: SOMETHING_ELSE,
    AttentionAcrossTheBatch: "it mixes the images of a batch",
    InputChanged: "it changes its input in place, which others may read",
    WithWeights: "it returns a tuple, not one tensor",
}


@pytest.mark.parametrize(("kind", "reason"), IMPOSTORS.items(), ids=[kind.__name__ for kind in IMPOSTORS])
def test_a_layer_that_computes_something_else_is_kept(kind, reason):
    layer = reference_layer(kind)
    adaptation = adapt(layer, maps())
    assert (adaptation.module, adaptation.replaced) == (layer, {})
    assert adaptation.kept[""].startswith(reason)


class QueriesFirst(SelfAttention2d):
    def parts(self, x):
        q, k, v = super().parts(x)
        return k, q, v


class PositionsMixed(AugmentedLayer):
    def forward(self, x):
        return super().forward(x.transpose(2, 3)).transpose(2, 3)


class Rescaled(BottleneckAttn):
    def forward(self, x):
        self.scale = self.dim_head_qk**-0.25
        return super().forward(x)


class Sharpened(BottleAttention):
    def forward(self, fmap):
        self.scale = 1.0
        return super().forward(fmap)


OTHER_IMPOSTORS = {
    "LegenDong": lambda: PositionsMixed(16, 16, 3, 1, 8, 8, 2, fh=4, fw=4),
    "d-li14": lambda: QueriesFirst(16, 16, 3, 8, 8, 2, size=4, relative=True),
    "timm": lambda: Rescaled(16, 16, feat_size=(4, 4), num_heads=2),
    "lucidrains": lambda: Sharpened(dim=16, fmap_size=(4, 4), heads=2, dim_head=8, rel_pos_emb=True),
}


@pytest.mark.parametrize("make", OTHER_IMPOSTORS.values(), ids=OTHER_IMPOSTORS.keys())
def test_a_layer_under_another_sources_names_that_computes_something_else_is_kept(make):
    adaptation = adapt(make().eval(), maps())
    assert adaptation.replaced == {}
    assert adaptation.kept[""].startswith(SOMETHING_ELSE)


@pytest.mark.parametrize("kind", [SwappedTables, ReversedOffsets, InterleavedHeads, PermutedHeads, KeysAsValues])
def test_parameters_of_zeros_hide_no_difference(kind):
    layer = reference_layer(kind)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert adapt(layer, maps()).kept[""].startswith(SOMETHING_ELSE)


def test_two_layers_of_one_structure_are_told_apart_by_what_their_class_computes():
    network = nn.Sequential(reference_layer(), reference_layer(PermutedHeads)).eval()
    adaptation = adapt(network, maps())
    assert (list(adaptation.replaced), list(adaptation.kept)) == (["0"], ["1"])
    assert_same_outputs(adaptation, network, maps())


def test_a_method_put_into_one_layer_alone_is_seen():
    network = nn.Sequential(reference_layer(), reference_layer()).eval()
    network[1].weights = types.MethodType(SigmoidWeights.weights, network[1])
    adaptation = adapt(network, maps())
    assert (list(adaptation.replaced), list(adaptation.kept)) == (["0"], ["1"])


def test_a_flag_set_in_one_layer_alone_is_seen():
    class Switched(ReferenceConv):
        permuted = False

        def combined(self, attended, shape):
            return (PermutedHeads if self.permuted else ReferenceConv).combined(self, attended, shape)

    network = nn.Sequential(reference_layer(Switched), reference_layer(Switched)).eval()
    network[1].permuted = True
    assert list(adapt(network, maps()).kept) == ["1"]


@pytest.mark.parametrize("side", [16, 24], ids=["in float64", "in float32"])
def test_a_layer_of_any_cost_is_told_from_what_it_is_not(side):
    layers = [kind(16, 32, 3, 32, 16, 4, side, relative=True) for kind in (ReferenceConv, PermutedHeads, Causal)]
    network = nn.Sequential(layers[0], nn.Conv2d(32, 16, 1), layers[1], nn.Conv2d(32, 16, 1), layers[2]).eval()
    adaptation = adapt(network, maps(side=side, batch=1))
    assert (list(adaptation.replaced), list(adaptation.kept)) == (["0"], ["2", "4"])


# Declined by what is seen before anything is computed


def changed(change, layer=None):
    layer = (layer or reference_layer()).eval()
    change(layer)
    return layer


class Standardised(nn.Conv2d):
    """It may compute anything."""


def with_dropout(layer):
    layer.drop = nn.Dropout(0.1).eval()


class OneDimensional(nn.Module):
    """The parts and names of the reference's layer, for rows of a map; its one table is called otherwise."""

    def __init__(self):
        super().__init__()
        self.dk, self.dv, self.Nh, self.relative = 8, 8, 2, True
        self.conv_out, self.qkv_conv, self.attn_out = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 24, 1), nn.Conv1d(8, 4, 1)
        self.key_rel_w = nn.Parameter(torch.randn(7, 4))

    def forward(self, x):
        return self.conv_out(x.flatten(0, 1)).reshape_as(x)


DECLINED = {
    "random tables": (
        lambda: InPaperConv(16, 16, 3, 8, 8, 2, relative=True).eval(),
        "it has no tables key_rel_h and key_rel_w: they lie elsewhere, or it draws new ones",
    ),
    "one dimension": (
        lambda: OneDimensional().eval(),
        "its qkv_conv is a Conv1d, not a plain Conv2d",
    ),
    "absolute positions": (
        lambda: BottleAttention(dim=16, fmap_size=(4, 4), heads=2, dim_head=4).eval(),
        "its position embedding is absolute (rel_pos_emb=False), which is no relative attention",
    ),
    "hooks": (
        lambda: changed(lambda layer: layer.register_forward_hook(lambda *_: None)),
        "it has hooks, which a replacement would not call",
    ),
    "hooks of a convolution": (
        lambda: changed(lambda layer: layer.qkv_conv.register_forward_pre_hook(lambda *_: None)),
        "its qkv_conv has hooks, which a replacement would not call",
    ),
    "parametrized": (
        lambda: changed(lambda layer: nn.utils.parametrizations.weight_norm(layer.conv_out)),
        "its conv_out is parametrized",
    ),
    "further parameter": (
        lambda: changed(lambda layer: layer.register_parameter("gain", nn.Parameter(torch.ones(1)))),
        "it has further parameters or buffers: gain",
    ),
    "further buffer": (
        lambda: changed(lambda layer: layer.register_buffer("mask", torch.ones(1))),
        "it has further parameters or buffers: mask",
    ),
    "further module": (
        lambda: changed(lambda layer: layer.add_module("norm", nn.GroupNorm(1, 4).eval())),
        "it has further parameters or buffers: norm.weight, norm.bias",
    ),
    "dropout": (lambda: changed(with_dropout), "its drop is a Dropout, which training would lose"),
    "training mode": (lambda: changed(lambda layer: layer.attn_out.train()), "its attn_out is in training mode"),
    "convolution of another kind": (
        lambda: changed(lambda layer: setattr(layer.attn_out, "__class__", Standardised)),
        "its attn_out is a Standardised, not a plain Conv2d",
    ),
    "padding of another kind": (
        lambda: changed(lambda layer: setattr(layer.conv_out, "padding_mode", "circular")),
        "the padding_mode of its conv is circular, where an AugmentedConv2d has zeros",
    ),
    "no whole heads": (
        lambda: changed(lambda layer: setattr(layer, "Nh", torch.tensor(2))),
        "its Nh is a Tensor, not an int",
    ),
    "even kernel": (
        lambda: ReferenceConv(16, 16, 2, 8, 8, 2).eval(),
        "AugmentedConv2d has no such layer: kernel_size must be odd and positive, got 2",
    ),
}


@pytest.mark.parametrize(("make", "reason"), DECLINED.values(), ids=DECLINED.keys())
def test_a_layer_that_has_more_or_less_than_a_replacement_is_kept(make, reason):
    layer = make()
    assert adapt(layer, maps()).kept == {"": reason}


class Unaskable(nn.Module):
    """One of its attributes, looked at, raises."""

    def __init__(self, error):
        super().__init__()
        self.conv_out, self.qkv_conv, self.attn_out = nn.Conv2d(3, 3, 1), nn.Identity(), nn.Identity()
        self.error = error

    @property
    def dk(self):
        raise self.error

    def forward(self, x):
        return self.conv_out(x)


@pytest.mark.parametrize("error", [RuntimeError("not built yet"), AttributeError("none"), KeyError("dk")])
def test_a_layer_whose_attributes_raise_is_no_candidate(error):
    layer = Unaskable(error).eval()
    adaptation = adapt(layer, maps(channels=3))
    assert (adaptation.module, adaptation.replaced, adaptation.kept) == (layer, {}, {})


class AlwaysRelative(ReferenceConv):
    """It runs with whatever stands for its flag."""

    def logits(self, q, k):
        return q.flatten(3).transpose(2, 3) @ k.flatten(3) + relative_logits(q, *self.tables(q))


class OnlyItself(ReferenceConv):
    """What its copies say of themselves cannot be asked."""

    copied = False

    def __getattr__(self, name):
        if name == "qkv_conv" and self.copied:
            raise RuntimeError("qkv_conv of a copy")
        return super().__getattr__(name)

    def __deepcopy__(self, memo):
        other = copy.copy(self)
        vars(other)["copied"] = True
        return other


class Alone:
    """What says itself that there can be no copy."""

    def __deepcopy__(self, memo):
        raise TypeError("there is only one")


class InsistsOnFloat32(ReferenceConv):
    def forward(self, x):
        assert x.dtype == torch.float32
        return super().forward(x)


RAISING = {
    "a tensor for a flag": (
        lambda: changed(lambda layer: setattr(layer, "relative", torch.ones(2)), reference_layer(AlwaysRelative)),
        "it cannot be replaced: Boolean value of Tensor with more than one value is ambiguous",
    ),
    "a convolution that cannot be copied": (
        lambda: changed(lambda layer: setattr(layer.qkv_conv, "notes", Alone())),
        "it cannot be replaced: there is only one",
    ),
    "a copy that cannot be read": (
        lambda: reference_layer(OnlyItself), "it cannot be replaced: qkv_conv of a copy",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), RAISING.values(), ids=RAISING.keys())
def test_a_layer_that_raises_when_it_is_read_or_checked_is_kept(make, reason):
    layer = make()
    adaptation = adapt(layer, maps())
    assert (adaptation.module, adaptation.replaced, adaptation.kept) == (layer, {}, {"": reason})


def test_a_layer_that_raises_when_it_is_read_leaves_the_others_to_be_replaced():
    make, reason = RAISING["a tensor for a flag"]
    network = nn.Sequential(reference_layer(), make()).eval()
    adaptation = adapt(network, maps())
    assert (list(adaptation.replaced), adaptation.kept) == (["0"], {"1": reason})


def test_a_layer_that_asserts_its_dtype_is_compared_in_that():
    assert adapt(reference_layer(InsistsOnFloat32), maps()).replaced == {"": REFERENCE}


# Declined by how the layer is called


class Around(nn.Module):
    """A layer, called the way that `call` says."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return self.call(self.layer, x)


class RepeatedTables(ReferenceConv):
    """Tables for a map of another size, with which it runs all the same, as the reference's does for some batches."""

    def tables(self, q):
        return (table.repeat(2 * q.shape[3] - 1, 1) for table in super().tables(q))


CALLS = {
    "never": (reference_layer, lambda layer, x: x + 1, 4, "it was never called when the module ran"),
    "past its hooks": (
        reference_layer, lambda layer, x: layer.forward(x), 4, "it was never called when the module ran",
    ),
    "with two sizes": (
        lambda: reference_layer(relative=False),
        lambda layer, x: layer(x).mean() + layer(x[..., :3]).mean(),
        4,
        "it is called with maps of several sizes (4×3, 4×4); a replacement holds for one",
    ),
    "by keyword": (
        reference_layer,
        lambda layer, x: layer(x=x),
        4,
        "it is called with something else than one batch of maps (B, C, H, W)",
    ),
    "with a map that the tables do not fit": (
        lambda: reference_layer(RepeatedTables, side=1),
        lambda layer, x: layer(x),
        2,
        "its relative tables do not fit its map: one has 1 rows, not the 3 of a map of 2×2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layer", "call", "side", "reason"), CALLS.values(), ids=CALLS.keys())
def test_a_layer_that_is_not_called_with_one_map_of_one_size_is_kept(layer, call, side, reason):
    module = Around(layer(), call).eval()
    adaptation = adapt(module, maps(side=side, batch=3))
    assert (adaptation.module, adaptation.kept) == (module, {"layer": reason})


def test_a_module_that_reaches_into_its_layer_keeps_it():
    module = Around(reference_layer(), lambda layer, x: layer(x) * layer.Nh).eval()
    adaptation = adapt(module, maps())
    assert (adaptation.module, adaptation.replaced) == (module, {})
    reason = "the module does not run with replaced layers: 'AugmentedConv2d' object has no attribute 'Nh'"
    assert adaptation.kept == {"layer": reason}


def test_a_module_that_cannot_be_copied_keeps_its_layers():
    module = nn.Sequential(reference_layer(), nn.ReLU()).eval()
    module.held = Alone()
    adaptation = adapt(module, maps())
    assert (adaptation.module, adaptation.replaced) == (module, {})
    assert adaptation.kept["0"].startswith("the module does not run with replaced layers: there is only one")


def test_what_only_cannot_be_copied_keeps_no_layer():
    module = nn.Sequential(reference_layer(), nn.ReLU()).eval()
    module.generator = (number for number in range(3))
    assert adapt(module, maps()).replaced == {"0": REFERENCE}


def test_a_module_that_does_not_take_the_example_is_refused():
    with pytest.raises(ArgumentError, match=r"the module must take an input of the shape \(2, 16, 4, 5\): "):
        adapt(reference_layer(), torch.randn(2, 16, 4, 5))
