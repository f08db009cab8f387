"""A module and its copies: whatever is odd about a module, what judges its file computes what the module does."""

import copy

import pytest
import torch
from odd_modules import FAITHFUL, UNFAITHFUL, Cached, Inside, Locked, Remembering, Tapped, used
from torch import nn

import aaexport
from aaexport.errors import ModuleError
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
    module = FAITHFUL[name]().eval()
    subject = module_subject(module, SHAPE, is_ours=is_ours)
    definition, single = oracles(subject)
    for seed in (1, 2):
        images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            wanted = module(images).double().numpy()
        for runner in (definition(), single):
            found = runner.infer({"input": images.numpy()})["output"]
            assert abs(found - wanted).max() < 1e-5, runner.label


@pytest.mark.parametrize("is_ours", [False, True], ids=["from Python", "from the command line"])
@pytest.mark.parametrize("name", UNFAITHFUL)
def test_what_no_file_can_stand_for_is_refused_in_one_line_with_the_remedy(name, is_ours):
    make, says = UNFAITHFUL[name]
    torch.manual_seed(0)
    with pytest.raises(ModuleError, match=says) as caught:
        module_subject(make().eval(), SHAPE, is_ours=is_ours)
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


def test_random_numbers_of_the_callers_stay_theirs():
    module = Locked().eval()
    state = torch.random.get_rng_state()
    module_subject(module, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), state)
