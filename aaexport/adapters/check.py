"""(layer, replacement) → whether both compute the same, on random input; with random parameters once a structure.

A layer's own parameters can hide a difference: with tables of zeros, every use of them is the same. Random ones show
it, and once for all layers of one structure, which differ in their parameters alone. Each layer is then run with its
own as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from aaexport.adapters.adapter import Adapter, DeclinedError
from aaexport.adapters.build import replacement_of
from aaexport.errors import first_line
from aaexport.nn.augmented import augmented_layers
from aaexport.nn.copies import copied_apart, shared_parameters

SCALES = (0.25, 1.0, 4.0)  # one image each: attention near its mean, soft, and sharp
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of a channel's largest number
CHEAP = 3e7  # operations an image, up to which float64 and a few runs more are nothing to speak of
PER_LOGIT = 50  # operations, as the sources compute one: tiled, added and copied, not only multiplied
NEGLIGIBLE = 1e-3  # a channel of so little of the image's largest number is judged by that
PLAIN = (bool, int, float, str, tuple, list, type(None))


@dataclass(frozen=True)
class Pair:
    """A layer and its replacement by an adapter, for an input of (channels, height, width)."""

    adapter: Adapter
    layer: nn.Module
    replacement: nn.Module
    shape: tuple[int, int, int]

    @property
    def is_cheap(self) -> bool:
        """Whether a run of it takes next to no time, in float64 too."""
        (layer,) = augmented_layers(self.replacement).values()
        weights = sum(parameter.numel() for parameter in self.layer.parameters())
        return weights * layer.sizes.positions + PER_LOGIT * layer.sizes.logits < CHEAP

    def in_double(self) -> Pair:
        """The same of a copy in float64."""
        return self.of(copied_apart(self.layer).to(torch.float64))

    def of(self, layer: nn.Module) -> Pair:
        """The pair of another layer of the same structure."""
        replacement = replacement_of(self.adapter.read(layer), self.shape[1:], shared_parameters(layer))
        return Pair(self.adapter, layer, replacement, self.shape)

    def images(self, scales: tuple[float, ...]) -> Tensor:
        """Random maps on the layer's device and in its dtype, one of each scale, each with a corner of zeros.

        The zeros are for layers that take some value of a pixel for "nothing there".
        """
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(len(scales), *self.shape, generator=generator) * torch.tensor(scales)[:, None, None, None]
        x[:, :, : self.shape[1] // 2, : self.shape[2] // 2] = 0
        return x.to(next(self.layer.parameters()))


@dataclass
class Checks:
    """Numerical checks of the layers of one module; what a structure's random parameters showed is remembered."""

    _structures: dict[object, str | None] = field(default_factory=dict)

    def require_same(self, pair: Pair) -> None:
        """Raises DeclinedError, with the difference, unless the replacement computes what the layer does."""
        structure = pair.adapter.title, pair.shape, _structure(pair.layer)
        if structure not in self._structures:
            self._structures[structure] = _objection(_with_random_parameters(pair), SCALES)
        if objection := self._structures[structure] or _objection(pair, SCALES if pair.is_cheap else (1.0,)):
            raise DeclinedError(objection)


def _objection(pair: Pair, scales: tuple[float, ...]) -> str | None:
    """What speaks against the replacement; None where nothing does.

    Cheap pairs are compared in float64, others only where float32 cannot tell.
    """
    if pair.is_cheap and (double := _in_double_if_it_runs(pair, scales)):
        return _judged(double, double.images(scales))
    objection = _judged(pair, pair.images(scales))
    if objection and (double := _in_double_if_it_runs(pair, scales)):
        return _judged(double, double.images(scales))
    return objection


def _in_double_if_it_runs(pair: Pair, scales: tuple[float, ...]) -> Pair | None:
    """In float64, unless something in the layer insists on another dtype."""
    try:
        double = pair.in_double()
        out = double.layer(double.images(scales[:1]))
    except Exception:  # noqa: BLE001  # a stranger's layer may insist by any error; in its own dtype it is compared
        return None
    return double if isinstance(out, Tensor) and out.dtype == torch.float64 else None


def _judged(pair: Pair, x: Tensor) -> str | None:
    try:
        given = x.clone()
        wanted = pair.layer(given)
        alone = pair.layer(x[:1].clone()) if pair.is_cheap else None
    except Exception as error:
        raise DeclinedError(f"it does not run by itself: {first_line(error)}") from error
    if not torch.equal(given, x):
        return "it changes its input in place, which others may read"
    if not isinstance(wanted, Tensor):
        return f"it returns a {type(wanted).__name__}, not one tensor"
    found = pair.replacement(x)
    if (wanted.shape, wanted.dtype) != (found.shape, found.dtype):
        return f"it computes something else: {_kind(wanted)}, not {_kind(found)}"
    tolerance = TOLERANCE.get(x.dtype, TOLERANCE[torch.float32])
    difference = _error(found, wanted)
    if alone is not None:
        difference = max(difference, _error(pair.replacement(x[:1]), alone))
    if difference <= tolerance:
        return None
    if _error(pair.layer(x.clone()), wanted) > tolerance:
        return "its output is random: two runs on one input differ"
    if _error(pair.layer(x[:1].clone()), wanted[:1]) > tolerance:
        return "it mixes the images of a batch"
    return f"it computes something else: outputs differ by up to {difference:.1e} of a channel's largest number"


def _kind(output: Tensor) -> str:
    return f"an output of {tuple(output.shape)} in {str(output.dtype).removeprefix('torch.')}"


def _error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a part of the largest number of its channel; where both are NaN there is none."""
    alike = (found == wanted) | (found.isnan() & wanted.isnan())
    largest = wanted.abs().nan_to_num().flatten(2).amax(dim=2)[:, :, None, None]
    largest = torch.maximum(largest, NEGLIGIBLE * largest.amax(dim=1, keepdim=True))
    errors = (found - wanted).abs() / largest.clamp_min(torch.finfo(wanted.dtype).tiny)
    return float(torch.where(alike, 0.0, errors).nan_to_num(nan=torch.inf).max())


def _with_random_parameters(pair: Pair) -> Pair:
    """The pair of a copy whose queries, keys and tables have unit variance, so that all of them matter."""
    try:
        layer = copied_apart(pair.layer)
    except Exception as error:
        raise DeclinedError(f"it cannot be copied: {first_line(error)}") from error
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        deviation = parameter[0].numel() ** -0.5 if parameter.dim() == 4 else 1.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    return pair.of(layer)


def _structure(layer: nn.Module) -> object:
    """All that two layers must have in common to compute the same function of input and parameters."""
    return tuple(
        (
            name,
            type(module),
            tuple((key, repr(value) if isinstance(value, PLAIN) else id(value)) for key, value in _own(module)),
            tuple((key, value.shape, value.dtype) for key, value in module.named_parameters(recurse=False)),
        )
        for name, module in layer.named_modules()
    )


def _own(module: nn.Module) -> list[tuple[str, object]]:
    """The attributes that its class added to those that every module has."""
    everybodys = vars(nn.Module())
    return sorted((name, value) for name, value in vars(module).items() if name not in everybodys)
