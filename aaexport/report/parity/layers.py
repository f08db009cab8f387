"""GuardReport → a picture of what is left of each layer by itself, in characters: they show everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from aaexport.parity.by_layer import LayerLoss, by_layer
from aaexport.parity.guard import GuardReport

HEADINGS = ("weight, dB", "computes, dB", "")
SHOWN = 8  # layers, of which the most is lost
FULL = 24  # characters of a bar, for the layer of which the least is lost
BLOCK = "█"
NONE = "–"


def layers_title(report: GuardReport, most: int | None = SHOWN) -> str:
    """What the rows are, for the corner of the table."""
    count = len(by_layer(report.tensors))
    if most is None or count <= most:
        return "signal to noise of each layer by itself"
    return f"by themselves, the {most} noisiest of {count} layers"


def layer_rows(report: GuardReport, most: int | None = SHOWN) -> list[tuple[str, str, str, str]]:
    """Layer, its weight, what it computes, and a bar as long as the lower of both; in the file's order.

    At most so many, of those that have lost most; none where no layer was looked at.
    """
    every = by_layer(report.tensors)
    if not every:
        return []
    longest = max(each.least_db for each in every)
    shown = every if most is None else _noisiest(every, most)
    return [(each.layer, _db(each.weight_db), _db(each.activation_db), _bar(each, longest)) for each in shown]


def _noisiest(layers: Sequence[LayerLoss], most: int) -> list[LayerLoss]:
    wanted = sorted(range(len(layers)), key=lambda place: layers[place].least_db)[:most]
    return [layers[place] for place in sorted(wanted)]


def _db(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _bar(layer: LayerLoss, longest: float) -> str:
    """Nothing of a layer without any signal."""
    return BLOCK * round(FULL * max(layer.least_db, 0.0) / longest) if longest > 0 else ""
