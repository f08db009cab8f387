"""Tensors that are rounded, one by one → layers: how much is left of each one's weight, and of what it computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aaexport.parity.guard import TensorLoss


@dataclass(frozen=True)
class LayerLoss:
    """The SQNR in dB of a layer's weight and of what it computes, each by itself; None where that is not rounded."""

    layer: str
    weight_db: float | None
    activation_db: float | None

    @property
    def least_db(self) -> float:
        """The lower of both; one of them is known."""
        return min(value for value in (self.weight_db, self.activation_db) if value is not None)


def by_layer(tensors: Iterable[TensorLoss]) -> tuple[LayerLoss, ...]:
    """Of each layer the worst of its weights and biases, and the worst of what it computes; in the tensors' order."""
    found: dict[str, dict[bool, float]] = {}
    for tensor in tensors:
        of_layer = found.setdefault(tensor.path or tensor.node, {})
        if tensor.sqnr_db is not None:
            computed = tensor.what == "activation"
            of_layer[computed] = min(tensor.sqnr_db, of_layer.get(computed, tensor.sqnr_db))
    return tuple(LayerLoss(layer, each.get(False), each.get(True)) for layer, each in found.items() if each)
