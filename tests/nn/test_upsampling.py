"""Maps are made larger as PyTorch does it, in the exported form too, and there no size is computed."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional
from torch.testing import assert_close

from aaexport.capture.program import export_program
from aaexport.graph.convert import to_onnx
from aaexport.nn.convolution import shrunk
from aaexport.nn.upsampling import upsampled

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SIZES = {"whole factors": (6, 8), "odd": (5, 7), "one row": (1, 5), "odd and whole": (5, 4), "one pixel": (1, 1)}
every_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())


class Upsampled(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return upsampled(x, self.size)


def maps(size):
    """Two images of three channels, of the size that pooling with stride 2 leaves of `size`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, *shrunk(size, 2), generator=generator, dtype=torch.float64)


def interpolated(x, size):
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("height", range(1, 18))
@pytest.mark.parametrize("width", [1, 8, 13])
def test_a_map_is_upsampled_bilinearly_to_the_size(height, width):
    x = maps((height, width))
    assert_close(upsampled(x, (height, width)), interpolated(x, (height, width)), **EXACT)


@every_size
def test_an_exported_map_is_upsampled_to_the_same(size):
    x = maps(size)
    program = torch.export.export(Upsampled(size), (x,), dynamic_shapes=({0: Dim("batch")},))
    assert_close(program.module()(x), interpolated(x, size), **EXACT)


@every_size
def test_an_exported_map_is_upsampled_without_computing_sizes(size):
    shape = (3, *shrunk(size, 2))
    graph = to_onnx(export_program(Upsampled(size), shape, "dynamic"), opset=20, output_names=["larger"]).model.graph
    assert {node.op_type for node in graph.node} <= {"Resize", "MatMul", "Identity"}


def test_whole_factors_stay_one_operator():
    program = export_program(Upsampled((6, 8)), (3, 3, 4), "dynamic")
    graph = to_onnx(program, opset=20, output_names=["larger"]).model.graph
    assert [node.op_type for node in graph.node] == ["Resize"]
