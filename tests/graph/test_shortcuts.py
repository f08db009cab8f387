"""What the exporter need not do is left out, changes nothing in a file, and is there again afterwards."""

import contextlib

import pytest
import torch
from torch import nn

from aaexport.capture.program import export_program
from aaexport.graph import convert, shortcuts
from aaexport.graph.convert import to_onnx

SHAPE = (3, 6, 6)
OF_THIS_TORCH = pytest.mark.skipif(
    not torch.__version__.startswith(shortcuts.LOOKED_AT), reason="a torch that was not looked at"
)


class Plain(nn.Module):
    """Of one type throughout, numbers and lists of tensors among its arguments."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))) * 0.5
        return torch.cat([y, torch.softmax(y, 1)], 1).mean((2, 3))


class Promoting(Plain):
    """A whole number times a tensor, of which the exporter has to make a tensor of its type."""

    def forward(self, x):
        return super().forward(x) * 3


class ByArgument(nn.Module):
    """Indices and numbers, of which torch makes the larger type."""

    def forward(self, x):
        return x.sum((1, 2, 3)) + torch.arange(1, device=x.device)


def exported(module):
    return to_onnx(export_program(module.eval(), SHAPE, "dynamic"), opset=20, output_names=["y"]).model


@pytest.fixture
def passes(monkeypatch):
    """How often torch's pass of type promotion runs."""
    from torch.onnx._internal.exporter import _fx_passes

    ran, whole = [], _fx_passes.insert_type_promotion_nodes
    monkeypatch.setattr(_fx_passes, "insert_type_promotion_nodes", lambda module: ran.append(module) or whole(module))
    return ran


@pytest.fixture
def whole(monkeypatch):
    """`to_onnx` without shortcuts."""

    def make(module):
        with monkeypatch.context() as without:
            without.setattr(convert, "shortcuts", contextlib.nullcontext)
            return exported(module)

    return make


@OF_THIS_TORCH
@pytest.mark.parametrize(("module", "runs"), [(Plain, 0), (Promoting, 1), (ByArgument, 1)])
def test_types_are_promoted_where_they_have_to_be_and_files_are_the_same(passes, whole, module, runs):
    made = exported(module())
    assert len(passes) == runs
    assert made.SerializeToString(deterministic=True) == whole(module()).SerializeToString(deterministic=True)
    assert len(passes) == runs + 1


@OF_THIS_TORCH
def test_operators_are_collected_once_in_a_block(monkeypatch):
    from torch._export import utils
    from torch.export import decomp_utils, exported_program

    asked, made, collect, materialize = [], [], utils._collect_all_valid_cia_ops, utils._materialize_cpp_cia_ops
    for module in (decomp_utils, exported_program):
        monkeypatch.setattr(module, "_collect_all_valid_cia_ops", lambda: asked.append(True) or collect())
    monkeypatch.setattr(utils, "_materialize_cpp_cia_ops", lambda: made.append(True) or materialize())
    expected = collect()
    made.clear()
    for times in (1, 2):
        with shortcuts.shortcuts():
            assert exported_program._collect_all_valid_cia_ops() == expected
            assert decomp_utils._collect_all_valid_cia_ops() == expected
        assert len(asked) == len(made) == times  # nothing is kept from one block to the next
    decomp_utils._collect_all_valid_cia_ops()
    assert len(asked) == 3
    assert len(made) > 3


def test_a_torch_that_nobody_looked_at_does_all_its_work(monkeypatch, passes, whole):
    monkeypatch.setattr(shortcuts, "LOOKED_AT", ("0.",))
    made = exported(Plain())
    assert len(passes) == 1
    assert made.SerializeToString(deterministic=True) == whole(Plain()).SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["torch.no_such_module", "torch.onnx"])
def test_parts_that_are_not_there_are_none(name):
    assert shortcuts._looked_at(name, "no_such_function") is None


def test_the_exporters_functions_tell_their_domain_without_being_read(monkeypatch):
    """And whatever else they tell as before, in the block and behind it."""
    from onnxscript import values
    from onnxscript.function_libs.torch_lib.ops import core

    read = []
    whole = values.TracedOnnxFunction.function_ir
    counting = property(lambda function: read.append(function.name) or whole.fget(function))
    monkeypatch.setattr(values.TracedOnnxFunction, "function_ir", counting)
    function = core.aten_abs
    before = core.aten_abs.function_ir
    assert read == ["aten_abs"]
    with shortcuts.shortcuts():
        assert function.function_ir.domain == before.domain
        assert read == ["aten_abs"]
        assert function.function_ir.name == before.name
        assert read == ["aten_abs", "aten_abs"]
    assert values.TracedOnnxFunction.function_ir is counting
