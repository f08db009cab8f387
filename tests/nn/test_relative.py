import functools

import pytest
import torch
from definition import attention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from aaexport.nn.relative import DECOMPOSITIONS
from aaexport.recipe import DECOMPOSITION_NAMES, words

EXACT = {"rtol": 1e-12, "atol": 1e-12}
GRADIENTS = {"rtol": 1e-10, "atol": 1e-10}
NAMES = ("q", "k", "v", "rel_height", "rel_width")

# (M, dkh, dvh, H, W)
SHAPES = {
    "square": (2, 4, 4, 3, 3),
    "higher than wide": (2, 4, 4, 4, 2),
    "wider than high": (2, 4, 4, 2, 5),
    "one row": (3, 4, 4, 1, 5),
    "one column": (3, 4, 4, 5, 1),
    "one position": (2, 3, 2, 1, 1),
    "one map": (1, 4, 4, 3, 2),
    "one channel a head": (2, 1, 1, 3, 4),
    "keys deeper than values": (2, 20, 2, 2, 3),
    "values deeper than keys": (2, 2, 7, 3, 2),
}

every_decomposition = pytest.mark.parametrize("attend", DECOMPOSITIONS.values(), ids=DECOMPOSITIONS.keys())
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def maps_and_tables(shape, *, seed=0, relative=True, scale=1.0):
    """q, k, v, rel_height, rel_width in float64, the tables None without `relative`."""
    count, key_depth, value_depth, height, width = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return scale * torch.randn(size, generator=generator, dtype=torch.float64)

    q, k = normal(count, key_depth, height, width), normal(count, key_depth, height, width)
    v = normal(count, value_depth, height, width)
    if not relative:
        return q, k, v, None, None
    return q, k, v, normal(2 * height - 1, key_depth), normal(2 * width - 1, key_depth)


def gradients(attend, inputs):
    """The gradients of a fixed weighting of the output; the weights keep softmax's symmetries from hiding errors."""
    leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in inputs]
    out = attend(*leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad((out * weights).sum(), [leaf for leaf in leaves if leaf is not None])


def test_recipes_know_exactly_the_decompositions_there_are():
    assert {"auto", *DECOMPOSITIONS} == set(DECOMPOSITION_NAMES)
    assert set(words.DECOMPOSITIONS) == set(DECOMPOSITION_NAMES)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_recipes_say_of_a_decomposition_what_its_function_says(name):
    assert words.DECOMPOSITIONS[name] == DECOMPOSITIONS[name].__doc__.strip().partition("\n")[0]


@every_decomposition
@every_shape
def test_decomposition_equals_the_definition(attend, shape):
    inputs = maps_and_tables(shape)
    assert_close(attend(*inputs), attention(*inputs), **EXACT)


@every_decomposition
@every_shape
def test_decomposition_without_tables_equals_the_definition(attend, shape):
    inputs = maps_and_tables(shape, relative=False)
    assert_close(attend(*inputs), attention(*inputs), **EXACT)


@every_decomposition
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)),
    relative=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_decomposition_equals_the_definition_for_any_small_shape(attend, shape, relative, seed):
    inputs = maps_and_tables(shape, seed=seed, relative=relative)
    assert_close(attend(*inputs), attention(*inputs), **EXACT)


@every_decomposition
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)),
    blocks=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_decomposition_equals_the_definition_in_any_number_of_blocks(attend, shape, blocks, seed):
    inputs = maps_and_tables(shape, seed=seed)
    assert_close(attend(*inputs, blocks), attention(*inputs), **EXACT)


# Kernels want one depth, a multiple of 8: dkh + H + W just at it, below, above, and values that are deeper.
PADDED = {
    "at 32": (2, 24, 3, 4, 4),
    "at 31": (2, 23, 3, 4, 4),
    "at 33": (2, 25, 3, 4, 4),
    "values": (1, 20, 64, 3, 2),
}


@pytest.mark.parametrize("shape", PADDED.values(), ids=PADDED)
def test_one_operator_equals_the_definition_however_its_depth_is_padded(shape):
    inputs = maps_and_tables(shape)
    assert_close(DECOMPOSITIONS["fused"](*inputs), attention(*inputs), **EXACT)
    found, wanted = (gradients(DECOMPOSITIONS[which], inputs) for which in ("fused", "skew"))
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, **GRADIENTS)


@functools.cache
def by_definition(shape):
    """Inputs and what the definition makes of them, query by query, which takes seconds for maps of that size."""
    inputs = maps_and_tables(shape)
    return inputs, attention(*inputs)


@every_decomposition
@pytest.mark.parametrize("shape", [(1, 3, 2, 16, 16), (1, 20, 1, 14, 14), (1, 4, 8, 16, 3)], ids=str)
def test_decomposition_equals_the_definition_for_maps_as_they_are_in_networks(attend, shape):
    inputs, expected = by_definition(shape)
    assert_close(attend(*inputs, 3), expected, **EXACT)


@pytest.mark.parametrize("name", ["skew", "table", "shift", "fold"])
@pytest.mark.parametrize(
    ("blocks", "sizes"),
    [(1, [20]), (2, [10, 10]), (3, [5, 5, 5, 5]), (4, [5, 5, 5, 5]), (8, [3, 2] * 4), (20, [1] * 20), (99, [1] * 20)],
)
def test_a_block_is_whole_rows_or_a_part_of_one_and_no_larger_than_its_share(name, blocks, sizes):
    found = []
    softmax = torch.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "softmax", lambda logits, dim: found.append(tuple(logits.shape)) or softmax(logits, dim))
        DECOMPOSITIONS[name](*maps_and_tables((2, 3, 3, 4, 5)), blocks)
    assert found == [(2, size, 20) for size in sizes]


@every_decomposition
def test_decomposition_stays_finite_where_exponentials_alone_would_overflow(attend):
    inputs = maps_and_tables(SHAPES["wider than high"], scale=50.0)
    assert_close(attend(*inputs), attention(*inputs), rtol=1e-9, atol=1e-9)


@every_decomposition
@every_shape
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "plain"])
def test_decomposition_leaves_its_inputs_alone(attend, shape, relative):
    inputs = maps_and_tables(shape, relative=relative)
    before = [None if tensor is None else tensor.clone() for tensor in inputs]
    attend(*inputs)
    for tensor, copy in zip(inputs, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy)


@every_decomposition
def test_decomposition_takes_maps_that_are_not_contiguous(attend):
    q, k, v, rel_height, rel_width = maps_and_tables(SHAPES["wider than high"])
    views = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in (q, k, v)]
    assert_close(attend(*views, rel_height, rel_width), attention(q, k, v, rel_height, rel_width), **EXACT)


@every_decomposition
def test_decomposition_keeps_float32(attend):
    inputs = [tensor.float() for tensor in maps_and_tables(SHAPES["square"])]
    assert attend(*inputs).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in DECOMPOSITIONS if name != "skew"])
@every_shape
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "plain"])
def test_decomposition_has_the_gradients_of_the_papers_own(name, shape, relative):
    inputs = maps_and_tables(shape, relative=relative)
    found, wanted = (gradients(DECOMPOSITIONS[which], inputs) for which in (name, "skew"))
    for label, one, other in zip(NAMES, found, wanted, strict=False):
        assert_close(one, other, **GRADIENTS, msg=lambda text, label=label: f"gradient of {label}: {text}")


@pytest.mark.parametrize("name", [name for name in DECOMPOSITIONS if name != "skew"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    blocks=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_decomposition_has_the_gradients_of_the_papers_own_for_any_shape(name, shape, blocks, seed):
    inputs = maps_and_tables(shape, seed=seed)
    found = gradients(lambda *leaves: DECOMPOSITIONS[name](*leaves, blocks), inputs)
    for one, other in zip(found, gradients(DECOMPOSITIONS["skew"], inputs), strict=True):
        assert_close(one, other, **GRADIENTS)


@every_decomposition
def test_gradients_are_those_of_finite_differences(attend):
    inputs = [tensor.requires_grad_() for tensor in maps_and_tables((1, 2, 2, 2, 3))]
    assert torch.autograd.gradcheck(attend, inputs)
