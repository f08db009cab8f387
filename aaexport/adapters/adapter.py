"""What an adapter is, and how it reads a layer's parts, or declines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from aaexport.recipe import HeadLayout


class DeclinedError(Exception):
    """A layer that has an adapter's structure is left as it is; the text says why, about "it"."""


@dataclass(frozen=True)
class Parts:
    """What an AugmentedConv2d is made of, read from a layer of somebody else's, in our order and scale.

    qkv (2dk + dv channels): queries, keys and values in this order, in each of them a head's channels side by side.
    rel_height (2H − 1, dk/Nh), rel_width (2W − 1, dk/Nh): as `aaexport.nn.relative` has them.
    """

    dk: int
    dv: int
    num_heads: int
    qkv: nn.Conv2d
    conv: nn.Conv2d | None = None
    projection: nn.Conv2d | None = None
    rel_height: Tensor | None = None
    rel_width: Tensor | None = None
    head_layout: HeadLayout = "permuted"
    pool: nn.Module | None = None  # what the layer does with its output at last


@dataclass(frozen=True)
class Adapter:
    """One source of augmented layers.

    title: whose layer it is, as the command line prints it.
    modules, attributes: the names that every such layer has, whatever its class is called.
    tables: the names that its relative tables may have; with other tensors it is another layer.
    read: its parts. Raises DeclinedError where they are no AugmentedConv2d's.
    """

    title: str
    modules: tuple[str, ...]
    attributes: tuple[str, ...]
    tables: tuple[str, ...]
    read: Callable[[nn.Module], Parts]

    def recognises(self, layer: nn.Module) -> bool:
        """Whether the layer has the structure; what it computes is another question.

        The modules must be its own: wrappers pass on the attributes of what they wrap.
        """
        return layer._modules.keys() >= set(self.modules) and all(hasattr(layer, name) for name in self.attributes)

    def knows(self, tensor: str) -> bool:
        """Whether a parameter or buffer of that name is one that such a layer has."""
        module, _, name = tensor.rpartition(".")
        return tensor in self.tables or (module in self.modules and name in ("weight", "bias"))


def convolution_in(layer: nn.Module, name: str) -> nn.Conv2d:
    """The plain convolution of that name: what a subclass computes, nobody here knows."""
    found = getattr(layer, name, None)
    if type(found) is not nn.Conv2d:
        raise _unlike(name, found, "a plain Conv2d")
    return found


def module_in(layer: nn.Module, name: str) -> nn.Module:
    """The submodule of that name."""
    found = getattr(layer, name, None)
    if not isinstance(found, nn.Module):
        raise _unlike(name, found, "a module")
    return found


def count_in(layer: nn.Module, name: str) -> int:
    """The whole number of that name."""
    found = getattr(layer, name, None)
    if not isinstance(found, int) or isinstance(found, bool):
        raise _unlike(name, found, "an int")
    return found


def table_in(layer: nn.Module, name: str) -> nn.Parameter:
    """The relative table of that name."""
    found = getattr(layer, name, None)
    if type(found) is not nn.Parameter:
        raise _unlike(name, found, "a Parameter")
    if found.dim() != 2:
        raise DeclinedError(f"its {name} has {found.dim()} dimensions, not 2")
    return found


def _unlike(name: str, found: object, wanted: str) -> DeclinedError:
    return DeclinedError(f"its {name} is a {type(found).__name__}, not {wanted}")
