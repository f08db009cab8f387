"""A module and its copies: whatever is odd about a module, what judges its file computes what the module does."""

import copy
import random

import numpy as np
import pytest
import torch
from odd_modules import FAITHFUL, UNFAITHFUL, Cached, Inside, Locked, Remembering, Tapped, used
from torch import nn

import aaexport
from aaexport.errors import ModuleError
from aaexport.pipeline.subject.faithful import undisturbed
from aaexport.pipeline.subject.subject import module_subject
from aaexport.pipeline.verify.oracles import oracles

SHAPE = (3, 8, 8)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


@pytest.mark.parametrize("is_ours", [False, True], ids=["from Python", "from the command line"])
@pytest.mark.parametrize("name", FAITHFUL)
def test_what_judges_computes_what_the_module_does(name, is_ours):
    torch.manual_seed(0)
    module = FAITHFUL[name]()
    module.eval()
    batches = [torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    with torch.no_grad(), undisturbed(module):
        answers = [module(images).double().numpy() for images in batches]
    subject = module_subject(module, SHAPE, is_ours=is_ours)
    definition, single = oracles(subject)
    for images, wanted in zip(batches, answers, strict=True):
        for runner in (definition(), single):
            found = runner.infer({"input": images.numpy()})["output"]
            assert abs(found - wanted).max() < 1e-5, runner.label


@pytest.mark.parametrize("is_ours", [False, True], ids=["from Python", "from the command line"])
@pytest.mark.parametrize("name", UNFAITHFUL)
def test_what_no_file_can_stand_for_is_refused_in_one_line_with_the_remedy(name, is_ours):
    make, says = UNFAITHFUL[name]
    torch.manual_seed(0)
    module = make()
    module.eval()
    with pytest.raises(ModuleError, match=says) as caught:
        module_subject(module, SHAPE, is_ours=is_ours)
    assert "\n" not in str(caught.value)


def test_a_module_of_all_oddities_is_converted(tmp_path):
    torch.manual_seed(0)
    parts = [used(Tapped()), Locked(), Cached(), FAITHFUL["old weight norm"](), FAITHFUL["forward by a closure"]()]
    module = used(nn.Sequential(*parts, FAITHFUL["weights of inference mode"](), FAITHFUL["file"]())).eval()
    path = tmp_path / "odd.onnx"
    assert aaexport.convert(module, path, input_shape=SHAPE).parity.passed
    assert aaexport.verify(module, path, input_shape=SHAPE).passed


def test_the_callers_module_is_left_as_it_was():
    module = Inside(nn.Sequential(nn.BatchNorm2d(3), Remembering(), nn.Dropout(0.5)))
    module.layer[0].eval()
    weights, modes = copy.deepcopy(module.state_dict()), [layer.training for layer in module.modules()]
    module_subject(module, SHAPE)
    assert [layer.training for layer in module.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
    assert module.layer[1].grid is None


class Drawing(nn.Module):
    """Draws numbers of every kind, and uses none of them."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        torch.rand(1)
        np.random.rand()
        random.random()
        return self.c(x)


def test_random_numbers_of_the_callers_stay_theirs(tmp_path):
    module = Drawing().eval()
    torch_state, numpy_state, state = torch.random.get_rng_state(), np.random.get_state()[2], random.getstate()
    aaexport.convert(module, tmp_path / "x.onnx", input_shape=SHAPE, verify=False)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.random.get_state()[2] == numpy_state
    assert random.getstate() == state


class Merging(nn.Module):
    """As LoRA layers are written: in evaluation mode the product of two weights is merged into a third."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 3, 1, bias=False)
        self.a, self.b = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2, 3))
        self.is_merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.is_merged:
            self.c.weight.data += (-1 if mode else 1) * (self.a @ self.b)[:, :, None, None]
            self.is_merged = not mode
        return self

    def forward(self, x):
        apart = nn.functional.conv2d(x, (self.a @ self.b)[:, :, None, None])
        return self.c(x) if self.is_merged else self.c(x) + apart


class Writing(nn.Module):
    """Counts, keeps a log, and has a hook that takes itself away."""

    def __init__(self):
        super().__init__()
        self.c, self.log, self.state = nn.Conv2d(3, 3, 1), [], {"calls": 0, "deep": [[]]}
        handle = self.c.register_forward_hook(lambda module, inputs, output: handle.remove())

    def forward(self, x):
        self.log.append(len(self.log))
        self.state["calls"] += 1
        self.state["deep"][0].append(1)
        return self.c(x)


class OnlyEvaluating(nn.Conv2d):
    def train(self, mode=True):
        if mode:
            raise RuntimeError("for inference only")
        return super().train(mode)


@pytest.mark.parametrize("is_merged", [False, True])
def test_weights_that_a_module_merges_itself_stay_as_they_were(is_merged):
    torch.manual_seed(0)
    module = nn.Sequential(Merging(), nn.Conv2d(3, 3, 1))
    if is_merged:
        module[0].eval()
    weights = copy.deepcopy(module.state_dict())
    subject = module_subject(module, SHAPE)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
    assert module[0].is_merged == is_merged
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(subject.original(x), module(x))


def test_what_a_module_writes_down_while_it_is_looked_at_is_forgotten():
    module = Writing().eval()
    module_subject(module, SHAPE)
    assert (module.log, module.state) == ([], {"calls": 0, "deep": [[]]})
    assert len(module.c._forward_hooks) == 1


def test_a_module_that_cannot_train_any_more_is_left_alone():
    module = OnlyEvaluating(3, 3, 1)
    with pytest.raises(RuntimeError):
        module.train()
    module.eval()
    module_subject(module, SHAPE)
    assert not module.training


def test_parts_that_copies_share_are_not_moved_to_other_types(tmp_path):
    module = FAITHFUL["copy that is itself"]().train()
    assert aaexport.convert(module, tmp_path / "x.onnx", input_shape=SHAPE).parity.passed
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert all(layer.training for layer in module.modules())


def test_what_others_hold_too_is_not_changed():
    class Registry:
        def __init__(self):
            self.callbacks = []

        def __deepcopy__(self, memo):
            return self

    module, registry = Locked().eval(), Registry()
    module.registry = registry
    registry.callbacks.append(lambda: module.c)
    (callback,) = registry.callbacks
    module_subject(module, SHAPE)
    assert registry.callbacks == [callback]
    assert callback() is module.c
