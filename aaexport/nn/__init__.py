"""The networks and their one special layer, as plain PyTorch modules."""

from aaexport.nn.augmented import AugmentedConv2d, attention_depths, set_decomposition
from aaexport.nn.build import build_network

__all__ = ["AugmentedConv2d", "attention_depths", "build_network", "set_decomposition"]
