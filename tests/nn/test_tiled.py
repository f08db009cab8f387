import copy
import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from definition import attention_at_once
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from aaexport.nn import AugmentedConv2d, augmented, tiled
from aaexport.nn.choice import AttentionSizes
from aaexport.nn.tiled import attended_in_tiles, can_be_tiled

EXACT = {"rtol": 1e-12, "atol": 1e-12}
GRADIENTS = {"rtol": 1e-10, "atol": 1e-10}

# (images, heads, H, W, dkh, dvh)
SHAPES = {
    "as it comes": (3, 2, 4, 5, 3, 2),
    "one row": (2, 3, 1, 5, 2, 1),
    "one column": (2, 1, 5, 1, 2, 3),
    "one position": (2, 2, 1, 1, 3, 2),
    "no images": (0, 2, 3, 3, 2, 2),
}
# Of several images, of heads of an image, of a part of a map, of one query.
TILES = (2000, 400, 40, 1)


@pytest.fixture(autouse=True)
def one_thread():
    """A tile's size is for each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs_of(shape, *, relative=True, dtype=torch.float64):
    """qkv and the tables, wanting gradients, and the sizes."""
    images, heads, height, width, dkh, dvh = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    qkv = normal(images, heads * (2 * dkh + dvh), height, width)
    tables = (normal(2 * height - 1, dkh), normal(2 * width - 1, dkh)) if relative else (None, None)
    return (qkv, *tables), AttentionSizes(height, width, dkh, dvh, heads, relative)


def by_definition(qkv, rel_height, rel_width, sizes):
    depths = (sizes.dkh, sizes.dkh, sizes.dvh)
    parts = qkv.split([sizes.num_heads * depth for depth in depths], dim=1)
    maps = (part.reshape(-1, depth, *qkv.shape[2:]) for part, depth in zip(parts, depths, strict=True))
    return attention_at_once(*maps, rel_height, rel_width)


def gradients(attend, inputs, sizes):
    out = attend(*inputs, sizes)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad(out, [x for x in inputs if x is not None], weights)


def require_equal(inputs, sizes):
    assert_close(attended_in_tiles(*inputs, sizes), by_definition(*inputs, sizes), **EXACT)
    found, wanted = (gradients(attend, inputs, sizes) for attend in (attended_in_tiles, by_definition))
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, **GRADIENTS)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "plain"])
@pytest.mark.parametrize("tile", TILES)
def test_outputs_and_gradients_are_those_of_the_definition_whatever_a_tile_holds(monkeypatch, shape, relative, tile):
    monkeypatch.setattr(tiled, "TILE", tile)
    require_equal(*inputs_of(shape, relative=relative))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*(st.integers(1, most) for most in (3, 3, 6, 6, 4, 4))),
    relative=st.booleans(),
    tile=st.integers(1, 3000),
)
def test_outputs_and_gradients_are_those_of_the_definition_for_any_small_shape(shape, relative, tile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "TILE", tile)
        require_equal(*inputs_of(shape, relative=relative))


def test_gradients_and_their_gradients_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr(tiled, "TILE", 12)
    inputs, sizes = inputs_of((1, 1, 2, 3, 2, 1))
    assert torch.autograd.gradcheck(lambda *x: attended_in_tiles(*x, sizes), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: attended_in_tiles(*x, sizes), inputs)


def test_only_what_wants_a_gradient_gets_one():
    (qkv, rel_height, rel_width), sizes = inputs_of(SHAPES["as it comes"])
    wanted = gradients(attended_in_tiles, (qkv, rel_height, rel_width), sizes)[1]
    out = attended_in_tiles(qkv.detach(), rel_height, rel_width.detach(), sizes)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_close(torch.autograd.grad(out, rel_height, weights)[0], wanted, rtol=0, atol=0)
    (of_qkv,) = torch.autograd.grad(
        attended_in_tiles(qkv, rel_height.detach(), rel_width.detach(), sizes), qkv, weights
    )
    assert_close(of_qkv, gradients(attended_in_tiles, (qkv, rel_height, rel_width), sizes)[0], rtol=0, atol=0)


def test_no_weight_of_the_attention_is_kept_for_the_backward_pass():
    inputs, sizes = inputs_of((4, 2, 12, 12, 4, 2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attended_in_tiles(*inputs, sizes)
    assert inputs[0].numel() < sum(x.numel() for x in kept) < 2 * inputs[0].numel() < 4 * sizes.logits


def test_logits_that_are_there_at_a_time_fit_a_tile(monkeypatch):
    monkeypatch.setattr(tiled, "TILE", 1000)
    found, softmax = [], torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, **to: found.append(x.numel()) or softmax(x, **to))
    inputs, sizes = inputs_of((2, 2, 6, 7, 3, 2))
    attended_in_tiles(*inputs, sizes).sum().backward()
    assert sum(found) == 2 * 2 * sizes.logits  # two images, two passes
    assert max(found) <= 1000


def test_logits_of_any_size_leave_outputs_and_gradients_finite():
    (qkv, *tables), sizes = inputs_of(SHAPES["as it comes"], dtype=torch.float32)
    large = (qkv.detach() * 1e4).requires_grad_()
    found = gradients(attended_in_tiles, (large, *tables), sizes)
    assert all(bool(x.isfinite().all()) for x in (attended_in_tiles(large, *tables, sizes), *found))


def test_inputs_stay_as_they_are_and_the_same_inputs_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(tiled, "TILE", 100)
    inputs, sizes = inputs_of(SHAPES["as it comes"], dtype=torch.float32)
    before = [x.detach().clone() for x in inputs]
    runs = [[attended_in_tiles(*inputs, sizes), *gradients(attended_in_tiles, inputs, sizes)] for _ in range(2)]
    for one, other in itertools.chain(zip(inputs, before, strict=True), zip(*runs, strict=True)):
        assert_close(one.detach(), other.detach(), rtol=0, atol=0)


def test_maps_may_have_their_channels_last():
    inputs, sizes = inputs_of(SHAPES["as it comes"])
    last = inputs[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    assert_close(
        gradients(attended_in_tiles, (last, *inputs[1:]), sizes), gradients(by_definition, inputs, sizes), **GRADIENTS
    )


# The layer


def layer(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AugmentedConv2d(
            **(
                {"in_channels": 3, "out_channels": 8, "dk": 4, "dv": 4, "num_heads": 2, "height": 4, "width": 5}
                | changes
            )
        )


def images(batch=2):
    return torch.randn(batch, 3, 4, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tiles(monkeypatch):
    """How often the layer attended in tiles."""
    found = []
    spied = lambda *inputs: found.append(1) or attended_in_tiles(*inputs)  # noqa: E731
    monkeypatch.setattr(augmented, "attended_in_tiles", spied)
    return found


@pytest.mark.parametrize(
    "changes",
    [{}, {"head_layout": "unpermuted"}, {"relative": False}, {"stride": 2}, {"dv": 8}, {"attention_downsample": 2}],
    ids=str,
)
def test_a_layer_trains_in_tiles_as_by_the_papers_own_way(tiles, changes):
    ours = layer(**changes).double().train()
    papers = copy.deepcopy(ours)
    papers.decomposition = "skew"
    x = images().double()
    outputs = [module(x) for module in (ours, papers)]
    assert len(tiles) == 1
    assert_close(*outputs, **EXACT)
    for out in outputs:
        out.square().sum().backward()
    for one, other in zip(ours.parameters(), papers.parameters(), strict=True):
        assert_close(one.grad, other.grad, **GRADIENTS)


def looked_at():
    """Ways to run a layer that must see its operators; each gives what it found and what is right."""

    def loss(module):
        return lambda parameters, x: functional_call(module, parameters, (x,)).square().mean()

    def of_parameters(module):
        return {name: value.detach() for name, value in module.named_parameters()}

    def dual(module, x):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(module(forward_ad.make_dual(x, torch.ones_like(x)))).tangent

    def traced(module, x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.trace(module.eval(), x, check_trace=False)(x + 1)  # the check runs it eagerly

    def low(module, x):
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)

    return {
        "torch.func.grad": lambda module, x: list(grad(loss(module))(of_parameters(module), x).values()),
        "gradients of samples": lambda module, x: list(
            vmap(grad(lambda p, one: loss(module)(p, one[None])), (None, 0))(of_parameters(module), x).values()
        ),
        "torch.func.jvp": lambda module, x: jvp(module, (x,), (torch.ones_like(x),))[1],
        "hessian": lambda module, x: hessian(lambda one: loss(module)(of_parameters(module), one))(x[:1]),
        "forward-mode": dual,
        "trace": traced,
        "autocast": low,
        "compile": lambda module, x: torch.compile(module, backend="eager", fullgraph=True)(x),
    }


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # forward-mode derivatives script something too
@pytest.mark.parametrize("way", looked_at())
def test_whoever_looks_on_sees_operators(tiles, way):
    ours = layer()
    papers = copy.deepcopy(ours)
    papers.decomposition = "table"
    found, wanted = (looked_at()[way](module, images()) for module in (ours, papers))
    assert not tiles
    assert_close(found, wanted)


def looked_at_from_behind():
    """Ways to have a gradient that must see the operators of the backward pass, after a forward pass in tiles."""

    def weighted(module, x, count=3):
        out = module(x)
        generator = torch.Generator().manual_seed(2)
        return out, torch.randn(count, *out.shape, generator=generator), list(module.parameters())

    def batched(module, x, **options):
        out, weights, parameters = weighted(module, x)
        return torch.autograd.grad(out, parameters, weights, is_grads_batched=True, **options)

    def mapped(module, x):
        out, weights, parameters = weighted(module, x)
        return vmap(lambda one: torch.autograd.grad(out, parameters, one, retain_graph=True))(weights)

    def unpacked(module, x):
        with torch.autograd.graph.save_on_cpu():
            return batched(module, x)

    def dual(module, x):
        out, (one, other), parameters = weighted(module, x, 2)
        with forward_ad.dual_level():
            found = torch.autograd.grad(out, parameters, forward_ad.make_dual(one, other))
            return [forward_ad.unpack_dual(x).tangent for x in found]

    def of_a_subclass(module, x):
        out, weights, parameters = weighted(module, x, 1)
        found = torch.autograd.grad(out, parameters, weights[0].as_subclass(Subclass))
        return [x.as_subclass(torch.Tensor) for x in found]

    return {
        "is_grads_batched": batched,
        "is_grads_batched, for a graph": lambda module, x: batched(module, x, create_graph=True),
        "jacobian": lambda module, x: jacobian(module, x[:1], vectorize=True),
        "torch.func.vmap": mapped,
        "forward-mode": dual,
        "of packed tensors": unpacked,
        "of a subclass": of_a_subclass,
    }


@pytest.mark.parametrize("way", looked_at_from_behind())
def test_whoever_looks_on_in_the_backward_pass_alone_sees_operators(tiles, way):
    ours = layer()
    papers = copy.deepcopy(ours)
    papers.decomposition = "table"
    found, wanted = (looked_at_from_behind()[way](module, images()) for module in (ours, papers))
    assert len(tiles) == 1
    assert_close(found, wanted)


def test_autocast_about_the_backward_pass_alone_changes_no_gradient():
    inputs, sizes = inputs_of(SHAPES["as it comes"], dtype=torch.float32)
    wanted = gradients(attended_in_tiles, inputs, sizes)
    for create_graph in (False, True):
        out = attended_in_tiles(*inputs, sizes)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(torch.autograd.grad(out, inputs, weights, create_graph=create_graph), wanted)


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "by hooks"])
def test_a_layer_of_a_checkpoint_has_the_same_gradients(tiles, use_reentrant):
    ours = layer()
    parameters = list(ours.parameters())
    wanted = torch.autograd.grad(ours(images()).square().sum(), parameters)
    x = images().requires_grad_()
    checkpoint(ours, x, use_reentrant=use_reentrant).square().sum().backward()
    assert len(tiles) == 3  # the second pass is there again for its gradient
    assert_close([parameter.grad for parameter in parameters], list(wanted))


def test_threads_may_have_gradients_of_one_layer_at_a_time():
    ours = layer()
    parameters = list(ours.parameters())
    losses = [ours(images()).square().sum() for _ in range(3)]
    wanted = torch.autograd.grad(losses.pop(), parameters)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda loss: torch.autograd.grad(loss, parameters), losses):
            assert_close(found, wanted)


def test_tiles_are_for_floats_of_one_type_on_the_cpu():
    x, table = torch.zeros(1, 2, 3, 3), torch.zeros(5, 2)
    assert can_be_tiled(x)
    assert can_be_tiled(x.double(), table.double(), None)
    assert not can_be_tiled(x, table.double())
    assert not can_be_tiled(x.bfloat16(), table.bfloat16())
    assert not can_be_tiled(x.to("meta"), table.to("meta"))
    assert not can_be_tiled(torch.nn.Parameter(x).as_subclass(Subclass))
    assert not can_be_tiled(x, torch.nn.Parameter(table).as_subclass(Subclass))


class Subclass(torch.Tensor):
    """Somebody else's tensors."""
