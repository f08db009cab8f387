"""What is said of modules that cannot run or be captured: the layer, the line, the cause and the remedy."""

import numpy as np
import pytest
import torch
from torch import nn

from aaexport.capture.failures import why_it_cannot_run
from aaexport.capture.program import export_program
from aaexport.errors import ExportError
from aaexport.nn.augmented import AugmentedConv2d

SHAPE = (3, 8, 8)
BATCH = "take the batch from x.shape[0] and no size from the example, or export one batch size with --batch N"
VALUES = "what it does next depends on the values of a tensor; choose with torch.where, or decide by shapes"
VIEW = "it modifies a view in place while gradients are on; write `q = q * s` for `q *= s`, or switch gradients off"


class Network(nn.Module):
    """Keeps the layer in question at `stages.1.attn`."""

    def __init__(self, layer):
        super().__init__()
        self.stages = nn.Sequential(nn.Identity(), nn.Sequential())
        self.stages[1].add_module("attn", layer)

    def forward(self, x):
        return self.stages(x)


class Scaled(nn.Module):
    """Scales a view of a split in place, as the reference implementation does."""

    def __init__(self, gradients=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.gradients = gradients

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() if self.gradients is None else self.gradients):
            q, k = torch.split(self.conv(x), [2, 2], dim=1)
            q *= 0.5
            return q + k


class Einsum(nn.Module):
    def forward(self, x):
        return torch.einsum("bchw,bdhw->bcdx", x, x)


class Item(nn.Module):
    def forward(self, x):
        return x if x.sum().item() > 0 else -x


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Count(nn.Module):
    def forward(self, x):
        return x * 2 if torch.nonzero(x.flatten()).shape[0] > 3 else x


class Loop(nn.Module):
    def forward(self, x):
        return sum(x for _ in range(int(x.sum())))


class ThroughNumpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(np.maximum(x.detach().numpy(), 0))


class TiedReshape(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1)


class TiedView(nn.Module):
    def forward(self, x):
        return x.view(2, 3, -1)


class TiedLoop(nn.Module):
    def forward(self, x):
        return torch.stack([image * 2 for image in x])


class TiedInt(nn.Module):
    def forward(self, x):
        return x.reshape(int(x.shape[0]), -1)


class TiedLength(nn.Module):
    def forward(self, x):
        return torch.stack([x[i] for i in range(len(x))])


class ByLength(nn.Module):
    """len(x) for x.shape[0], here and in a function beside it."""

    def forward(self, x):
        return flattened(x.reshape(len(x), 3, -1))


def flattened(y):
    return y.reshape(len(y), -1)


class Making(nn.Module):
    """Makes a layer anew at every call and moves it, as public networks do."""

    def forward(self, x):
        layer = nn.Conv2d(3, 4, 3)
        nn.init.constant_(layer.weight, 0.5)
        nn.init.zeros_(layer.bias)
        return layer.to(torch.device("cpu"))(x)


class OnCuda(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.rel_height, self.rel_width = (nn.Parameter(torch.randn(2 * size - 1, 8)) for _ in "hw")

    def forward(self, x):
        return x @ self.rel_width.T.cuda()


class Raising(nn.Module):
    def forward(self, x):
        raise ValueError


class Absent(nn.Module):
    """Its tables do not fit, and that is not what is wrong."""

    def __init__(self):
        super().__init__()
        self.rel_height, self.rel_width = (nn.Parameter(torch.randn(7, 8)) for _ in "hw")

    def forward(self, x):
        return x + self.no_such_bias


class TiedRange(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 4 else x


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(x.flatten(1))


class Complaining(nn.Module):
    def forward(self, x):
        raise KeyError("no such thing\nwith details")


class Viewing(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).view(len(x), -1)


class Returning(nn.Module):
    """Returns what it was made with, beside its input."""

    def __init__(self, *others):
        super().__init__()
        self.others = others

    def forward(self, x):
        return [x, *self.others]


class Relative(nn.Module):
    """A layer with relative tables for a square map, as the reference implementation's."""

    def __init__(self, size, stride=1):
        super().__init__()
        self.stride = stride
        self.qkv_conv = nn.Conv2d(3, 4, 1, stride=stride)
        self.key_rel_h = nn.Parameter(torch.randn(2 * size - 1, 4))
        self.key_rel_w = nn.Parameter(torch.randn(2 * size - 1, 4))

    def forward(self, x):
        return relative_logits(self.qkv_conv(x).flatten(2), self.key_rel_w)


def relative_logits(q, table):
    """A function of a user's, beside the layer."""
    size = (len(table) + 1) // 2
    return q.view(len(q), 4, size, size) @ torch.ones(size, size)


class Embedding(nn.Module):
    """Tables in a module of their own, as in timm."""

    def __init__(self, size):
        super().__init__()
        self.height_rel = nn.Parameter(torch.randn(2 * size - 1, 4))
        self.width_rel = nn.Parameter(torch.randn(2 * size - 1, 4))

    def forward(self, q):
        return q.view(len(q), 3, (len(self.height_rel) + 1) // 2, (len(self.width_rel) + 1) // 2)


class Embedded(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.pos_embed = Embedding(size)

    def forward(self, x):
        return self.pos_embed(x.flatten(2))


def line_of(function, offset=1):
    """A line of this file as messages show it, `offset` below the `def`."""
    return f"test_failures.py:{function.__code__.co_firstlineno + offset}"


def refusal(module, batch="dynamic"):
    with pytest.raises(ExportError) as caught:
        export_program(module.eval(), SHAPE, batch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def failure(module, shape=SHAPE):
    """What is said of a run that raises."""
    with pytest.raises(Exception) as caught:
        module(torch.zeros(1, *shape))
    text = why_it_cannot_run(module, caught.value)
    assert "\n" not in text
    return text


# Capturing


@pytest.mark.parametrize(
    ("layer", "cause"),
    [
        (Item, VALUES),
        (Branch, VALUES),
        (Count, VALUES),
        (Loop, VALUES),
        (ThroughNumpy, "it leaves PyTorch for NumPy; use PyTorch's operator instead of NumPy's"),
        (TiedReshape, f"it works for one batch size only; {BATCH}"),
        (TiedView, f"it works for one batch size only; {BATCH}"),
        (TiedLoop, f"a loop over the batch makes a constant of the batch; {BATCH}"),
        (TiedInt, f"int(…) makes a constant of the batch; {BATCH}"),
        (TiedLength, f"range(…) makes a constant of the batch; {BATCH}"),
        (TiedRange, f"it works for some batch sizes only; {BATCH}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_layer_that_stops_the_capture_is_named_with_its_line_and_the_remedy(layer, cause):
    text = refusal(Network(layer()))
    assert text.startswith(f"torch.export cannot capture Network: stages.1.attn ({layer.__name__}), ")
    assert f"{line_of(layer.forward)}: {cause}" in text


def test_a_length_is_a_size():
    program = export_program(Network(ByLength()).eval(), SHAPE, "dynamic")
    for batch in (1, 5):
        assert program.module()(torch.zeros(batch, *SHAPE)).shape == (batch, 192)


def test_a_layer_that_is_made_at_every_call_is_told_so():
    cause = "it makes a new Conv2d at every call; make it once, in __init__"
    assert refusal(Network(Making())).endswith(f"{line_of(Making.forward, 4)}: {cause}")


@pytest.mark.parametrize("layer", [TiedReshape, TiedView, TiedLoop, TiedRange])
def test_a_layer_for_one_batch_size_can_be_captured_for_it(layer):
    assert export_program(Network(layer()), SHAPE, 2)


def test_what_fails_without_a_capture_too_is_told_as_it_fails_there():
    text = refusal(Network(Einsum()))
    assert text.startswith("torch.export cannot capture Network: it cannot run at all: stages.1.attn (Einsum), ")
    assert f"{line_of(Einsum.forward)}: einsum(): output subscript x does not appear" in text


def test_a_shape_that_does_not_fit_is_told_in_numbers():
    text = refusal(Network(Flat()))
    assert "it cannot run at all: stages.1.attn.head (Linear), " in text
    assert text.endswith(f"{line_of(Flat.forward)}: mat1 and mat2 shapes cannot be multiplied (2x192 and 5x2)")


@pytest.mark.parametrize("gradients", [None, True], ids=["as the caller", "switched on"])
def test_a_view_modified_in_place_can_be_captured(gradients):
    module = Network(Scaled(gradients))
    export_program(module, SHAPE, "dynamic")
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused_by_name():
    text = refusal(Network(torch.jit.script(nn.ReLU())))
    assert "stages.1.attn (RecursiveScriptModule)" in text
    assert text.endswith("it is TorchScript, which torch.export cannot look into; build it as a plain module")


@pytest.mark.parametrize(
    ("others", "got"), [((1, "a"), "int and str too"), ((None, 0.5), "float too")], ids=["numbers", "None"]
)
def test_what_is_no_tensor_cannot_be_returned(others, got):
    remedy = "return a tensor, or a tuple, list or dict of tensors"
    assert refusal(Returning(*others)) == f"Returning must return tensors, got {got}; {remedy}"


def test_objects_cannot_be_returned():
    remedy = "return a tensor, or a tuple, list or dict of tensors"
    assert refusal(Returning(object())) == f"torch.export cannot capture Returning: it returns object; {remedy}"


def test_none_may_be_returned():
    assert export_program(Returning(None), SHAPE, "dynamic")


@pytest.mark.parametrize("layer", [Item, TiedView, Flat])
def test_torch_says_nothing_beside_the_message(layer, capfd):
    refusal(Network(layer()))
    assert tuple(capfd.readouterr()) == ("", "")


# Running


def test_a_mismatch_deep_inside_names_the_layer_and_the_users_line():
    text = failure(Network(Flat()))
    assert text.startswith("stages.1.attn.head (Linear), ")
    assert text.endswith(f"{line_of(Flat.forward)}: mat1 and mat2 shapes cannot be multiplied (1x192 and 5x2)")


def test_an_exception_of_the_users_own_keeps_its_class():
    text = failure(Network(Complaining()))
    assert text.startswith("stages.1.attn (Complaining), ")
    assert text.endswith(f"{line_of(Complaining.forward)}: KeyError: 'no such thing\\nwith details'")


def test_a_function_of_the_users_is_the_line_that_is_shown():
    layer = Relative(4)
    text = failure(Network(layer), (3, 8, 9))
    assert f"{line_of(relative_logits, 3)}: its relative tables" in text


@pytest.mark.parametrize(
    ("module", "cause"),
    [(Network(Scaled()), VIEW), (Network(Viewing()), "write .reshape(…) for .view(…)")],
    ids=["in place", "view"],
)
def test_what_is_known_has_its_remedy(module, cause):
    assert cause in failure(module)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Relative(4), "key_rel_h, key_rel_w expect an input of height 4 and width 4"),
        (Relative(6, stride=2), "key_rel_h, key_rel_w expect an input of height 12 and width 12"),
        (Embedded(4), "pos_embed.height_rel, pos_embed.width_rel expect an input of height 4 and width 4"),
    ],
    ids=["plain", "stride", "module of its own"],
)
def test_a_map_that_relative_tables_do_not_fit_names_their_layer_and_the_size_they_expect(layer, expected):
    text = failure(Network(layer))
    assert text.startswith(f"stages.1.attn ({type(layer).__name__}), ")
    assert f"its relative tables {expected}, got height 8 and width 8 (" in text
    assert text.endswith("); use images of the size that it was built for, or build it for these")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
@pytest.mark.parametrize("size", [4, 8], ids=["tables of another size", "tables that fit"])
def test_code_that_insists_on_a_gpu_is_not_told_as_a_wrong_size(size):
    text = failure(Network(OnCuda(size)))
    assert text.startswith(f"stages.1.attn (OnCuda), tests/capture/{line_of(OnCuda.forward)}: ")
    assert "the code insists on a GPU; use the input's device: `.to(x.device)` for `.cuda()`" in text
    assert "relative tables" not in text


def test_tables_are_not_blamed_for_what_is_no_error_of_shapes():
    text = failure(Network(Absent()))
    assert text.endswith("AttributeError: 'Absent' object has no attribute 'no_such_bias'")


def test_an_error_without_a_text_is_told_by_its_source():
    text = failure(Network(Raising()))
    assert text.endswith(f"{line_of(Raising.forward)}: raise ValueError")


def test_tables_that_fit_are_not_blamed():
    layer = Relative(8)
    layer.qkv_conv = nn.Conv2d(5, 4, 1)
    text = failure(Network(layer))
    assert text.startswith("stages.1.attn.qkv_conv (Conv2d), ")
    assert "relative tables" not in text


def test_our_own_layers_complaint_is_passed_on():
    layer = AugmentedConv2d(3, 8, height=4, width=4, dk=4, dv=4, num_heads=2)
    text = failure(Network(layer))
    assert ": input must have the shape" in text
    assert "aaexport" not in text.partition(": input")[0]


def test_the_file_is_shown_relative_to_where_one_is(monkeypatch, request):
    monkeypatch.chdir(request.path.parent)
    assert failure(Network(Einsum())).startswith(f"stages.1.attn (Einsum), {line_of(Einsum.forward)}: ")


def test_an_error_from_outside_the_module_is_told_plainly():
    assert why_it_cannot_run(Network(Item()), ValueError("no")) == "ValueError: no"
