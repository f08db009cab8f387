"""The networks and their one special layer, as plain PyTorch modules."""

from aaexport.nn.attention_maps import attention_weights
from aaexport.nn.augmented import AugmentedConv2d, attention_depths, set_decomposition
from aaexport.nn.build import build_network

__all__ = ["AugmentedConv2d", "attention_depths", "attention_weights", "build_network", "set_decomposition"]
