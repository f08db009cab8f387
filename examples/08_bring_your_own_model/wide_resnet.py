"""The Wide-ResNet of leaderj1001's PyTorch code, to its names, shapes and arithmetic: all convolutions augmented."""

from mynets import AugmentedConv
from torch import nn
from torch.nn import functional


class WideBasic(nn.Module):
    """A block of it: two augmented convolutions, and an augmented shortcut where sizes differ."""

    def __init__(self, in_planes, planes, dropout, shape, stride):
        super().__init__()
        options = {"kernel_size": 3, "dk": 2 * planes, "dv": int(0.2 * planes), "Nh": 4, "relative": True}
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = AugmentedConv(in_planes, planes, shape=shape * stride, **options)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = AugmentedConv(planes, planes, stride=stride, shape=shape, **options)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(AugmentedConv(in_planes, planes, stride=stride, shape=shape, **options))

    def forward(self, x):
        out = self.dropout(self.conv1(self.bn1(x).relu()))
        out = self.conv2(self.bn2(out).relu())
        out += self.shortcut(x)
        return out


class WideResNet(nn.Module):
    """Its `Wide_ResNet`. 28-10 has 206,229,580 parameters for 100 classes."""

    def __init__(self, depth=28, widen_factor=10, dropout=0.3, num_classes=100, shape=32):
        super().__init__()
        widths = [20, 20 * widen_factor, 40 * widen_factor, 60 * widen_factor]
        self.conv1 = AugmentedConv(3, widths[0], 3, 2 * widths[0], int(0.2 * widths[0]), 4, shape, relative=True)
        for stage in (1, 2, 3):
            stride = 1 if stage == 1 else 2
            shape //= stride
            blocks = [WideBasic(widths[stage - 1], widths[stage], dropout, shape, stride)]
            blocks += [
                WideBasic(widths[stage], widths[stage], dropout, shape, 1) for _ in range((depth - 4) // 6 - 1)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(nn.Sequential(*blocks)))
        self.bn1 = nn.BatchNorm2d(widths[3], momentum=0.9)
        self.linear = nn.Linear(widths[3], num_classes)

    def forward(self, x):
        out = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        out = functional.avg_pool2d(self.bn1(out).relu(), 8)
        return self.linear(out.flatten(1))
