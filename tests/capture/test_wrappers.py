"""Wrappers that training puts around a module: what is inside is converted, and the notes say so."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import aaexport
from aaexport.capture.wrappers import inside, unwrapped
from aaexport.errors import ModuleError
from aaexport.pipeline.subject.subject import module_subject

SHAPE = (3, 8, 8)


class ModelEmaV2(nn.Module):
    """As timm's: an average that is never run itself."""

    def __init__(self, model):
        super().__init__()
        self.module = model


class EMA(nn.Module):
    """As ema-pytorch's: the average beside the module that is trained."""

    def __init__(self, model, average):
        super().__init__()
        self.online_model, self.ema_model = model, average

    def forward(self, x):
        return self.ema_model(x)


class AnotherEMA(EMA):
    """Somebody's own class of the same name's kind, that computes something else."""

    def forward(self, x):
        return self.ema_model(x) + self.online_model(x)


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()


WRAPPED = {
    "DataParallel": nn.DataParallel,
    "OptimizedModule": lambda module: torch.compile(module, backend="eager"),
    "AveragedModel": AveragedModel,
    "ModelEmaV2": ModelEmaV2,
    "EMA": lambda module: EMA(net(), module),
}


@pytest.mark.parametrize("is_ours", [False, True], ids=["from Python", "from the command line"])
@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_inside_is_taken_and_said_so(name, is_ours):
    plain = net()
    subject = module_subject(WRAPPED[name](plain).eval(), SHAPE, is_ours=is_ours)
    assert subject.notes == (f"the module was taken out of its {name}",)
    found, wanted = subject.original.state_dict(), plain.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_wrappers_within_wrappers_and_within_the_module_are_taken_out():
    inner = net()
    wrapped = nn.DataParallel(AveragedModel(nn.Sequential(nn.DataParallel(inner), nn.ReLU())))
    images = torch.randn(2, *SHAPE)
    wanted = wrapped(images)
    module, notes = unwrapped(wrapped)
    assert type(module[0]) is nn.Sequential
    torch.testing.assert_close(module(images), wanted, rtol=0, atol=0)
    assert notes == (
        "the module was taken out of its DataParallel",
        "the module was taken out of its AveragedModel",
        "0 was taken out of its DataParallel",
    )


@pytest.mark.parametrize("path", ["the module", "0"])
def test_what_was_compiled_in_place_is_taken_as_it_was_before_and_the_callers_stays(path):
    module = nn.Sequential(net()).eval()
    (module if path == "the module" else module[0]).compile(backend="eager")
    subject = module_subject(module, SHAPE)
    assert subject.notes == (f"{path} is taken as it was before its compile()",)
    assert all(layer._compiled_call_impl is None for layer in subject.original.modules())
    assert sum(layer._compiled_call_impl is not None for layer in module.modules()) == 1


def test_the_callers_wrappers_stay():
    module = nn.Sequential(nn.DataParallel(net())).eval()
    module_subject(module, SHAPE)
    assert type(module[0]) is nn.DataParallel


class Softened(nn.DataParallel):
    """A wrapper with something of its own."""

    def forward(self, x):
        return super().forward(x).softmax(1)


def hooked():
    wrapper = nn.DataParallel(net())
    wrapper.register_forward_hook(lambda module, inputs, output: output.softmax(1))
    return wrapper


OTHERS = {
    "AnotherEMA": lambda: AnotherEMA(net(), net()),
    "subclass": lambda: Softened(net()),
    "subclass within": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Softened(net())),
    "hook": hooked,
    "hook within": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), hooked()),
}


@pytest.mark.parametrize("is_ours", [False, True], ids=["from Python", "from the command line"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_wrapper_that_computes_something_else_is_not_taken_off_unseen(name, is_ours):
    with pytest.raises(ModuleError, match=r"without its wrappers must compute .*; convert the one that you mean"):
        module_subject(OTHERS[name]().eval(), SHAPE, is_ours=is_ours)


def test_a_wrapper_that_takes_more_than_images_is_told():
    class ModelEma(EMA):
        def forward(self, x, mask):
            return self.ema_model(x) * mask

    with pytest.raises(ModuleError, match="ModelEma must run as its copy does, but: "):
        module_subject(ModelEma(net(), net()).eval(), SHAPE)


def test_a_wrapper_with_two_names_is_taken_out_of_both():
    module = nn.Module()
    module.a = module.b = nn.DataParallel(net())
    found, _ = unwrapped(module)
    assert type(found.a) is type(found.b) is nn.Sequential


def test_weights_are_loaded_into_what_is_inside_and_the_wrappers_stay():
    module = nn.Sequential(nn.DataParallel(net()))
    weights = {name: torch.full_like(tensor, 0.25) for name, tensor in nn.Sequential(net()).state_dict().items()}
    inside(module).load_state_dict(weights)
    assert type(module[0]) is nn.DataParallel
    assert all((tensor == 0.25).all() for tensor in module.state_dict().values())


def test_a_wrapped_module_is_converted_with_a_note(tmp_path):
    result = aaexport.convert(nn.DataParallel(net()), tmp_path / "w.onnx", input_shape=SHAPE)
    assert result.parity.passed
    assert "the module was taken out of its DataParallel" in result.notes
