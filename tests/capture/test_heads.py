"""scaled_dot_product_attention of any number of axes: the program that is exported computes the same, with four."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from aaexport.capture.heads import ATTENTION
from aaexport.capture.program import export_program
from aaexport.errors import ExportError

TOKENS, DEPTH = 4, 3


class Attention(nn.Module):
    """Of images (batch, 3, 4, 3): the channels are queries, keys and values; `front` axes stand before the tokens."""

    def __init__(self, front, mask=None, **more):
        super().__init__()
        self.front, self.more = front, more
        self.register_buffer("mask", mask)

    def forward(self, x):
        q, k, v = (each.reshape(*self.front, TOKENS, DEPTH) for each in x.unbind(1))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, **self.more)


def exported(module, batch="dynamic"):
    return export_program(module.eval(), (3, TOKENS, DEPTH), batch)


def attentions(program):
    return [node for node in program.graph.nodes if node.target is ATTENTION]


def bias(*shape):
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)


SEEN = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
KINDS = {
    "three axes": Attention((-1,)),
    "three axes, causal": Attention((-1,), is_causal=True),
    "three axes and a scale": Attention((-1,), scale=0.3),
    "a mask for all": Attention((-1,), SEEN),
    "a bias for all": Attention((-1,), bias(TOKENS, TOKENS)),
    "a bias of three axes": Attention((-1,), bias(1, TOKENS, TOKENS)),
    "five axes": Attention((-1, 1, 1)),
    "five axes and a bias": Attention((-1, 1, 1), bias(TOKENS, TOKENS)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_is_computed_with_four_axes(kind):
    program = exported(KINDS[kind])
    (node,) = attentions(program)
    assert [each.meta["val"].dim() for each in node.args[:3]] == [4, 4, 4]
    images = torch.randn(5, 3, TOKENS, DEPTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program.module()(images), KINDS[kind](images), rtol=0, atol=1e-6)


def test_without_a_batch_two_axes_are_put_in():
    class OfOne(nn.Module):
        def forward(self, x):
            q, k, v = x[0].unbind(0)
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias(TOKENS, TOKENS))

    program = exported(OfOne(), batch=1)
    (node,) = attentions(program)
    assert node.args[0].meta["val"].dim() == 4
    images = torch.randn(1, 3, TOKENS, DEPTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program.module()(images), OfOne()(images), rtol=0, atol=1e-6)


def test_four_axes_are_left_as_they_are():
    targets = [node.target for node in exported(Attention((-1, 1))).graph.nodes]
    assert torch.ops.aten.unsqueeze.default not in targets
    assert torch.ops.aten.flatten.using_ints not in targets


def test_what_has_no_such_form_is_told_with_the_remedy():
    with pytest.raises(
        ExportError, match="takes scaled_dot_product_attention of four axes only, got 5; reshape"
    ) as told:
        exported(Attention((-1, 1, 1), bias(1, 1, 1, TOKENS, TOKENS)))
    assert "\n" not in str(told.value)
