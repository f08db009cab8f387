"""What looks like augmented attention and is none is left, and convert tells where it is and why."""

import torch
from public_layers import RelativeToKeys, SixAxes
from torch import nn

import aaexport

OF_OTHERS = "its relative logits are not of the queries that are multiplied with the keys"


class Network(nn.Module):
    """One layer that is found, and one that is not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.stages = nn.ModuleList([SixAxes(size=(2, 3)), RelativeToKeys(size=(2, 3))])

    def forward(self, x):
        return torch.cat([stage(self.stem(x)) for stage in self.stages], dim=1)


def test_a_near_miss_is_told_with_its_path(tmp_path):
    torch.manual_seed(0)
    result = aaexport.convert(Network().eval(), tmp_path / "m.onnx", input_shape=(3, 2, 3), verify=False)
    assert result.rules["skewed relative attention as fold, shift or table"] == 1
    assert result.kept == {"stages.1": OF_OTHERS}
