"""One run of a whole module → the calls that some of its layers got."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from aaexport.adapters.adapter import DeclinedError
from aaexport.errors import ArgumentError, first_line


class Calls:
    """What the layers of a module were called with, in one run of it."""

    def __init__(self, module: nn.Module, layers: Iterable[nn.Module], example: Tensor) -> None:
        """Runs `module` on `example`.

        Raises:
            ArgumentError: the module does not take the example.
        """
        self._sizes: dict[nn.Module, set[tuple[int, int]]] = {layer: set() for layer in layers}
        self._odd: set[nn.Module] = set()
        hooks = [layer.register_forward_pre_hook(self._record, with_kwargs=True) for layer in self._sizes]
        try:
            module(example)
        except Exception as error:
            raise ArgumentError(
                f"the module must take an input of the shape {tuple(example.shape)}: {first_line(error)}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()

    def size(self, layer: nn.Module) -> tuple[int, int]:
        """The (height, width) that the layer was called with.

        Raises:
            DeclinedError: there is not one such size, or no call with a map alone.
        """
        if layer in self._odd:
            raise DeclinedError("it is called with something else than one batch of maps (B, C, H, W)")
        sizes = sorted(self._sizes[layer])
        if not sizes:
            raise DeclinedError("it was never called when the module ran")
        if len(sizes) > 1:
            listed = ", ".join(f"{height}×{width}" for height, width in sizes)
            raise DeclinedError(f"it is called with maps of several sizes ({listed}); a replacement holds for one")
        return sizes[0]

    def _record(self, layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if len(arguments) != 1 or keywords or not isinstance(arguments[0], Tensor) or arguments[0].dim() != 4:
            self._odd.add(layer)
        else:
            height, width = arguments[0].shape[2:]
            self._sizes[layer].add((height, width))
