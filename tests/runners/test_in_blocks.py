"""PyTorch in blocks: the same numbers as whole, in all words for attention, without its whole maps."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from vision_transformers import DecomposedAttention, PlainAttention, Tokens

from aaexport.errors import RunnerError
from aaexport.runners.alive import Alive
from aaexport.runners.in_blocks import InBlocks, NotInBlocksError
from aaexport.runners.torch import TorchRunner

BATCH, TOKENS, DEPTH, HEADS = 2, 96, 12, 3
WEIGHTS = BATCH * TOKENS * TOKENS * 8  # bytes of one head's
MOST = WEIGHTS // 16
SAME = 1e-13


def heads(t):
    return t.reshape(len(t), TOKENS, HEADS, -1).transpose(1, 2)


def merged(t):
    return t.transpose(1, 2).flatten(2)


def by_hand(t):
    logits = t @ t.transpose(1, 2)
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return (weights / weights.sum(-1, keepdim=True)) @ t


def in_place(t):
    logits = t @ t.transpose(1, 2)
    logits *= 0.3
    logits += torch.arange(TOKENS)[:, None] * 0.01
    logits.masked_fill_(torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1), -torch.inf)
    return logits.softmax(-1) @ t


def by_einsum(t):
    q = t.reshape(len(t), TOKENS, HEADS, -1)
    weights = torch.einsum("bihd,bjhd->bhij", q, q * 0.5).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, q)


def with_a_large_bias(t):
    place = torch.linspace(0, 1, TOKENS, dtype=t.dtype)
    bias = -((place[:, None] - place[None]) ** 2).expand(len(t), HEADS, TOKENS, TOKENS) + heads(t)[..., :1]
    return merged(functional.scaled_dot_product_attention(heads(t), heads(t), heads(t), attn_mask=bias))


def over_keys_first(t):
    return (t @ t.transpose(1, 2)).softmax(-2).transpose(1, 2) @ t


def values_first(t):
    return t.transpose(1, 2) @ (t @ t.transpose(1, 2)).softmax(-1).transpose(1, 2)


def by_distance(t):
    return (-(t[:, :, None] - t[:, None]).pow(2).sum(-1)).softmax(-1) @ t


def scaled_inside(t):
    nothing = torch.empty(len(t), TOKENS, TOKENS, dtype=t.dtype)
    return torch.baddbmm(nothing, t, t.transpose(1, 2), beta=0, alpha=0.3).softmax(-1) @ t


def added_inside(t):
    return torch.baddbmm(t[:, :, :1], t, t.transpose(1, 2), beta=2, alpha=0.3).softmax(-1) @ t


def read_twice(t):
    logits = t @ t.transpose(1, 2)
    gate = logits * torch.sigmoid(logits) + logits
    return (gate.softmax(-1) * gate.sigmoid()) @ t


IN_BLOCKS = (
    by_hand, in_place, by_einsum, with_a_large_bias, over_keys_first, values_first, scaled_inside, added_inside,
    read_twice, by_distance,
)  # fmt: skip


# Of what is alive whole. Of the first three one whole matrix is a row; `torch.empty` counts, though nothing is there.
SHARE = dict.fromkeys(IN_BLOCKS, 0.2)
SHARE |= {over_keys_first: 0.7, values_first: 0.7, with_a_large_bias: 0.7, scaled_inside: 1.01}


def over_the_batch(t):
    return (t @ t.transpose(1, 2)).softmax(0) @ t


def across_heads(t):
    weights = (heads(t) @ heads(t).transpose(2, 3)).softmax(-1)
    return torch.einsum("bhij,hg->bgij", weights, torch.arange(9, dtype=t.dtype).view(3, 3)) @ heads(t)


def looked_at(t):
    logits = t @ t.transpose(1, 2)
    return (logits if logits.max() < 3 else logits * 0.5).softmax(-1) @ t


def in_slices(t):
    return torch.cat([part.softmax(-1) @ t for part in (t @ t.transpose(1, 2)).chunk(4, 1)], 1)


def the_weights(t):
    return (t @ t.transpose(1, 2)).softmax(-1)


def the_mean(t):
    return (heads(t) @ heads(t).transpose(2, 3)).softmax(-1).mean(1)


AS_THEY_ARE = (over_the_batch, across_heads, looked_at, in_slices, the_weights, the_mean)


@pytest.fixture
def tokens():
    return torch.randn(BATCH, TOKENS, DEPTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(function, given):
    """What comes out in blocks, and how many bytes of tensors were alive at most."""
    with torch.inference_mode(), Alive() as alive:
        with InBlocks(MOST) as blocks:
            answer = function(given)
        answer = blocks.finished(answer)
    return answer, alive.peak


def whole(function, given):
    """How many bytes of tensors are alive at most where PyTorch computes it as it does."""
    with torch.inference_mode(), Alive() as alive:
        function(given)
    return alive.peak


@pytest.mark.parametrize("function", IN_BLOCKS, ids=lambda function: function.__name__)
def test_attention_is_the_same_and_its_maps_are_never_whole(function, tokens):
    answer, alive = run(function, tokens)
    assert torch.allclose(answer, function(tokens), rtol=0, atol=SAME)
    assert alive < SHARE[function] * whole(function, tokens)


@pytest.mark.parametrize("function", AS_THEY_ARE, ids=lambda function: function.__name__)
def test_what_cannot_be_had_in_blocks_is_had_whole_and_is_the_same(function, tokens):
    answer, _ = run(function, tokens)
    assert type(answer) is torch.Tensor
    assert torch.allclose(answer, function(tokens), rtol=0, atol=SAME)


@pytest.mark.parametrize(("times", "later"), [(4, False), (16, True)])
def test_the_wide_layer_of_a_transformer_is_left_to_pytorch(times, later):
    """Four times as wide as its tokens in nearly all of them; of sixteen times nobody knows what it is."""
    x, layer = torch.zeros(32 * DEPTH, DEPTH), nn.Linear(DEPTH, times * DEPTH)
    with torch.inference_mode(), InBlocks(2**10) as blocks:
        assert (type(layer(x)) is not torch.Tensor) == later
    assert blocks.whole == 0


@pytest.mark.parametrize("needs_weights", [True, False])
def test_attention_of_torchs_own_layers_too(needs_weights, tokens):
    layer = nn.MultiheadAttention(DEPTH, HEADS, batch_first=True).double().eval()
    answer, alive = run(lambda t: layer(t, t, t, need_weights=needs_weights)[0], tokens)
    assert torch.allclose(answer, layer(tokens, tokens, tokens)[0], rtol=0, atol=SAME)
    assert needs_weights or alive < WEIGHTS * HEADS / 2
    assert torch.backends.mha.get_fastpath_enabled()


def a_view_written_into(t):
    logits = t @ t.transpose(1, 2)
    logits.view(-1).add_(1)
    return logits.softmax(-1) @ t


def a_slice_seen_before(t):
    logits = t @ t.transpose(1, 2)
    first = logits[:, :1]
    logits += 1
    return first


def queries_written_into(t):
    queries = t.clone()
    logits = queries @ t.transpose(1, 2)
    queries.mul_(2)
    return logits.softmax(-1) @ t


def a_slice_written_into(t):
    logits = t @ t.transpose(1, 2)
    logits[:, 0] = 0
    return logits.softmax(-1) @ t


def an_output_given_by_name(t):
    logits = t @ t.transpose(1, 2)
    weights = logits.softmax(-1)
    torch.add(t[:, :, :1], t.transpose(1, 2)[:, :1], out=logits)
    return weights @ t


def many_at_once(t):
    logits = t @ t.transpose(1, 2)
    weights = logits.softmax(-1)
    torch._foreach_add_([logits], 1.0)
    return weights @ t


def more_than_there_is(t):
    logits = t[:1] @ t[:1].transpose(1, 2)
    logits += t @ t.transpose(1, 2)
    return logits


def memory_exchanged(t):
    logits = t @ t.transpose(1, 2)
    logits.data = logits.data * 0.3
    return logits.softmax(-1) @ t


@pytest.mark.parametrize(
    "function",
    [
        a_view_written_into, a_slice_seen_before, queries_written_into, a_slice_written_into, an_output_given_by_name,
        many_at_once, more_than_there_is, memory_exchanged,
    ],
)  # fmt: skip
def test_what_is_written_into_before_it_is_read_is_refused(function, tokens):
    with pytest.raises(NotInBlocksError):
        run(function, tokens)


def test_memory_that_lies_otherwise_is_not_read(tokens):
    def read(logits):
        return torch.as_strided(logits, (BATCH, TOKENS, TOKENS), (TOKENS**2, TOKENS, 1)).softmax(-1) @ tokens

    logits = tokens @ (tokens * torch.arange(DEPTH)).transpose(1, 2)
    answer, _ = run(lambda t: read(t @ (t * torch.arange(DEPTH)).transpose(1, 2)), tokens)
    assert torch.allclose(answer, read(logits), rtol=0, atol=SAME)
    with pytest.raises(NotInBlocksError, match="memory"):
        run(lambda t: read((t @ (t * torch.arange(DEPTH)).transpose(1, 2)).transpose(1, 2).exp()), tokens)


def test_logits_that_are_compared_as_a_whole(tokens):
    answer, _ = run(lambda t: torch.tensor(torch.equal(t @ t.transpose(1, 2), t @ t.transpose(1, 2))), tokens)
    assert answer


class Padded(nn.Module):
    """An encoder whose last tokens are padding, which torch's fast path leaves at zero."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(DEPTH, 2, 8, batch_first=True), 1)

    def forward(self, x):
        padding = (torch.arange(TOKENS) > 90).expand(len(x), TOKENS)
        return self.encoder(x.flatten(2).transpose(1, 2), src_key_padding_mask=padding)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_answers_alike_in_blocks_and_whole_and_otherwise_on_its_fast_path():
    images = {"x": torch.randn(BATCH, DEPTH, TOKENS, 1, generator=torch.Generator().manual_seed(0)).numpy()}
    runner = TorchRunner(Padded(), ("x",), ("y",), input_shape=(DEPTH, TOKENS, 1))
    whole, fast = runner.infer(images)["y"], runner.by_fast_path(images)["y"]
    runner.block = MOST // 2
    assert runner.infer(images)["y"] == pytest.approx(whole, abs=1e-5)
    assert fast[:, :91] == pytest.approx(whole[:, :91], abs=1e-5)
    assert not fast[:, 91:].any()
    assert whole[:, 91:].all()
    assert torch.backends.mha.get_fastpath_enabled()
    plain = TorchRunner(Written(), ("x",), ("y",), input_shape=(DEPTH, TOKENS, 1))
    assert plain.by_fast_path(images) is None


class Written(nn.Module):
    def forward(self, x):
        return queries_written_into(x.flatten(2).transpose(1, 2))


def test_a_runner_then_computes_it_whole_and_says_so():
    runner = TorchRunner(Written(), ("x",), ("y",), input_shape=(DEPTH, TOKENS, 1))
    images = torch.randn(BATCH, DEPTH, TOKENS, 1).numpy()
    whole = runner.infer({"x": images})["y"]
    runner.block = MOST // 2
    assert (runner.infer({"x": images})["y"] == whole).all()
    assert "written into" in runner.whole


@dataclass
class Answers:
    weights: torch.Tensor
    attended: torch.Tensor


class Remembering(nn.Module):
    """Makes its bias once; answers with an object of its own; may write into its logits."""

    def __init__(self, writes):
        super().__init__()
        self.register_buffer("places", torch.linspace(0, 1, TOKENS))
        self.bias, self.writes = None, writes

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        if self.bias is None:
            self.bias = (self.places[:, None] - self.places).abs()
        logits = tokens @ tokens.transpose(1, 2) + self.bias
        if self.writes:
            logits.view(-1).mul_(0.5)
        return Answers(self.bias, logits.softmax(-1) @ tokens)


@pytest.mark.parametrize("writes", [False, True])
def test_what_a_module_keeps_serves_it_without_blocks_too(writes):
    images = {"x": torch.randn(BATCH, DEPTH, TOKENS, 1, generator=torch.Generator().manual_seed(0)).numpy()}
    runner = TorchRunner(Remembering(writes), ("x",), ("weights", "attended"), input_shape=(DEPTH, TOKENS, 1))
    runner.block = 2**10
    found = [runner.infer(images)]
    assert (runner.whole is None) is not writes
    runner.block = None
    found.append(runner.infer(images))
    fresh = TorchRunner(Remembering(writes), ("x",), ("weights", "attended"), input_shape=(DEPTH, TOKENS, 1))
    for name, array in fresh.infer(images).items():
        assert all(answers[name] == pytest.approx(array, abs=1e-5) for answers in found)


class Particular(nn.Module):
    """Takes images of one height only."""

    def forward(self, x):
        if x.shape[2] != TOKENS:
            raise ValueError("other tokens")
        return over_keys_first(x.flatten(2).transpose(1, 2))


def test_what_is_refused_in_either_way_says_nothing_of_blocks(monkeypatch):
    runner = TorchRunner(Particular(), ("x",), ("y",), input_shape=(DEPTH, TOKENS, 1))
    runner.block = MOST // 2
    with pytest.raises(RunnerError, match="other tokens"):
        runner.infer({"x": np.zeros((BATCH, DEPTH, 2 * TOKENS, 1))})
    assert runner.whole is None
    entered = []
    enter = InBlocks.__enter__
    monkeypatch.setattr(InBlocks, "__enter__", lambda self: entered.append(1) or enter(self))
    runner.infer({"x": np.zeros((BATCH, DEPTH, TOKENS, 1))})
    assert entered
    assert runner.whole is None


class Recurrent(nn.Module):
    """Has operators that PyTorch makes of others."""

    def __init__(self):
        super().__init__()
        self.cells = nn.GRU(DEPTH, 2, batch_first=True)

    def forward(self, x):
        return self.cells(nn.functional.max_pool2d(x, 1).flatten(2).transpose(1, 2))[0]


def test_operators_are_known_by_the_names_that_the_module_called_them_by():
    runner = TorchRunner(Recurrent(), ("x",), ("y",), input_shape=(DEPTH, 4, 1))
    images = {"x": np.zeros((BATCH, DEPTH, 4, 1))}
    called = runner.operators(images)
    assert "gru" in called
    runner.block = 1
    assert called <= runner.operators(images)


class ManyTerms(nn.Module):
    """x → x + x·x, thirty times: whoever computed each term anew would do so a thousand million times."""

    def forward(self, t):
        x = t @ t.transpose(1, 2) * 1e-3
        for _ in range(30):
            x = x + x * x * 1e-3
        return x @ t


def test_what_is_read_twice_is_computed_once(tokens):
    answer, _ = run(ManyTerms(), tokens)
    assert torch.allclose(answer, ManyTerms()(tokens), rtol=0, atol=SAME)


@pytest.mark.parametrize("fused", [False, True])
def test_vision_transformers_and_sams_relative_positions(fused):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    plain = Tokens(PlainAttention(12, 3, fused=fused), 12, 4)
    relative = nn.Sequential(Maps(), DecomposedAttention(12, 3, 12, fused=fused))
    for module in (plain, relative):
        module.double().eval()
        answer, alive = run(module, images)
        assert torch.allclose(answer, module(images), rtol=0, atol=SAME)
        own = fused and module is plain  # which torch computes in blocks by itself
        assert alive < whole(module, images) * (1.01 if own else 0.2)


class Maps(nn.Module):
    """Images → maps (batch, height, width, 12)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)

    def forward(self, x):
        return self.embed(x).permute(0, 2, 3, 1)


def test_images_apart_are_answered_as_together(rng):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    runner = TorchRunner(module, ("x",), ("y",), input_shape=(1, 4, 4))
    images = rng.standard_normal((5, 1, 4, 4), dtype=runner.inputs[0].dtype)
    together = runner.infer({"x": images})["y"]
    seen = []
    runner.module.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    runner.images = 2
    assert runner.infer({"x": images})["y"] == pytest.approx(together, abs=1e-6)
    assert seen == [2, 2, 1]


class Best(nn.Module):
    def forward(self, x):
        scores = x.flatten(1)
        return scores.argmax(1), scores.topk(2, 1).indices


def test_choices_of_images_apart_are_those_of_all(rng):
    runner = TorchRunner(Best(), ("x",), ("first", "two"), input_shape=(1, 2, 2))
    images = rng.standard_normal((3, 1, 2, 2), dtype=runner.inputs[0].dtype)
    together = runner.choices({"x": images})
    runner.images = 1
    apart = runner.choices({"x": images})
    assert set(apart) == set(together) == {"first", "two"}
    for name, (scores, *how) in together.items():
        assert (apart[name][0] == scores).all()
        assert list(apart[name][1:]) == how


def test_what_is_alive_is_counted_once_and_until_it_is_freed():
    kibi = torch.zeros(256)
    with torch.inference_mode(), Alive() as alive:
        first = kibi + 1
        view = first.view(16, 16)
        del first
        second = view + 1
        del view
        third = second + 1
    assert alive.peak == 2 * 1024
    assert len(third) == 16
