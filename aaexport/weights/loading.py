"""(module, checkpoint file) → the module with the checkpoint's tensors, or one line on why they do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from aaexport.errors import WeightsError, first_few, first_line
from aaexport.weights.finding import AVERAGE, StateDict, beside, state_dicts
from aaexport.weights.naming import dropped_parts, matched
from aaexport.weights.reading import read_contents
from aaexport.weights.recorded import RANDOM, RANDOM_NOTE
from aaexport.weights.safetensors import complaints
from aaexport.weights.tables import is_relative_table, table_length

MOST_OF_A_KIND = 3
MOST_BESIDE = 6
COUNTER = "num_batches_tracked"  # of a BatchNorm, which old files do not have and evaluation does not need
AVERAGES_TAKEN = "n_averaged"  # of an AveragedModel
OTHER_ARCHITECTURE = "was it trained with another architecture, or with other arguments (width, depth, classes)?"


@dataclass(frozen=True)
class Fit:
    """One of the file's state_dicts, under the module's names, and what keeps it from fitting, by kind."""

    source: StateDict
    names: dict[str, str]
    tensors: dict[str, Tensor]
    counters: int
    complaints: dict[str, list[str]]

    @property
    def exact(self) -> bool:
        """Whether every tensor has its counterpart."""
        return not any(self.complaints.values())


def load_checkpoint(module: nn.Module, path: Path) -> tuple[str, ...]:
    """Loads the checkpoint's state_dict into `module`, strictly, and returns what a user should know of it.

    The state_dict may lie under keys such as `model`, `state_dict`, `net` and `ema`, and its names may have what
    DataParallel, torch.compile and training frameworks put into them; the network's names may have a prefix beside
    others, such as those of a loss, if no second network is among these and they are not most of the file. Where
    several fit, the trained weights are taken before an average of them.
    Nothing in the file is run, and a refused file leaves the module as it was.

    Returns:
        Where the state_dict was found, parts of names that were dropped, conversions, what else the file holds.

    Raises:
        WeightsError: unreadable, truncated, code in it, no state_dict, several that fit equally well, or a tensor
            is missing, unexpected, of another shape or kind.
    """
    wanted = _wanted(module)
    contents = read_contents(path)
    fits = [_fit(source, wanted) for source in state_dicts(contents)]
    if not fits:
        raise WeightsError(f"{path} must hold a state_dict, got {_description(contents)}")
    fit, others = _chosen(fits, wanted, path)
    _require_plain_tensors(fit.source, path)
    notes = _notes(fit, others, contents, wanted)
    extra = {fit.names[name]: value for name, value in fit.source.extra.items()}
    try:
        # Copied tensor by tensor, so that tied parameters stay tied; what may be missing was judged above.
        module.load_state_dict({**fit.tensors, **extra}, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the model: {first_line(error)}; {OTHER_ARCHITECTURE}") from error
    return ((RANDOM_NOTE,) if _are_random(path) else ()) + notes


def _wanted(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters and persistent buffers, each the very object, by which tied ones are told."""
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    wanted = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, tensor in wanted.items():
        if is_lazy(tensor):
            raise WeightsError(
                f"parameter {name!r} must have a shape, got none yet; run the module on an image first"
            )
    return wanted


def _fit(source: StateDict, wanted: Mapping[str, Tensor]) -> Fit:
    names = matched([*source.tensors, *source.extra], wanted)
    own = {names[name]: tensor for name, tensor in source.tensors.items()}
    tensors = {name: tensor for name, tensor in own.items() if name in wanted or name != AVERAGES_TAKEN}
    absent = [name for name in wanted if name not in tensors and not _is_tied(name, tensors, wanted)]
    missing = {name: wanted[name] for name in absent if not name.endswith(COUNTER)}
    common = {name: tensor for name, tensor in wanted.items() if name in tensors}
    unexpected = {name: tensor for name, tensor in tensors.items() if name not in wanted}
    by_kind = {
        "missing": complaints(missing, {}),
        "unexpected": complaints({}, unexpected),
        "of another shape or kind": complaints(common, {name: tensors[name] for name in common}),
    }
    return Fit(source, names, tensors, len(absent) - len(missing), by_kind)


def _is_tied(name: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether another name of the same parameter is there."""
    return any(wanted[other] is wanted[name] for other in tensors if other in wanted)


def _chosen(fits: list[Fit], wanted: Mapping[str, Tensor], path: Path) -> tuple[Fit, list[Fit]]:
    """The one to load, and the others that would fit too."""
    exact = [fit for fit in fits if fit.exact]
    parts = [] if exact else _parts(fits, wanted)
    exact = exact or [fit for fit in parts if fit.exact]
    if not exact:
        closest = max([*fits, *parts], key=lambda fit: _covered(fit, wanted))
        _require_plain_tensors(closest.source, path)
        raise WeightsError(_misfit(closest, wanted, path))
    best = min(fit.source.rank for fit in exact)
    first, *others = [fit for fit in exact if fit.source.rank == best]
    if others:
        places = " and ".join(fit.source.place for fit in (first, *others))
        raise WeightsError(f"{path} must hold one state_dict that fits, got {places}; save the one you mean alone")
    if first.source.prefix:
        _require_meant(first, exact, [*fits, *parts], wanted, path)
    return first, [fit for fit in exact if fit is not first]


def _require_meant(part: Fit, exact: list[Fit], fits: list[Fit], wanted: Mapping[str, Tensor], path: Path) -> None:
    """A part is what somebody means if no other network of these names is there, and if it is most of the file.

    Of an average beside it nothing is asked, which may lack buffers; nor of others where it alone is called `model`.
    """
    place, source = part.source.place, part.source
    for other in fits:
        holds_it = other.source.keys == source.keys and source.prefix.startswith(other.source.prefix)
        alike = 2 * _covered(other, wanted) >= len(wanted) and not (other.exact or holds_it)
        is_average = other.source.rank == AVERAGE != source.rank
        if not alike or is_average or (source.is_named_trained and not other.source.is_named_trained):
            continue
        why = _misfit_of(other)
        raise WeightsError(
            f"{path} must hold one network of the module's names, got {place}, which fits, and {other.source.place}, "
            f"which does not ({why}); save the one you mean alone"
        )
    known = tuple(fit.source.prefix for fit in exact if fit.source.keys == source.keys)
    left_out = sum(not name.startswith(known) for name in source.left_out)
    taken = len(source.tensors)
    if not source.is_named_trained and left_out > taken:
        got = f"{_tensors(taken)} of it in {place}, beside {left_out} others"
        raise WeightsError(f"{path} must hold the module's weights, got {got}; save that part alone if you mean it")


def _covered(fit: Fit, wanted: Mapping[str, Tensor]) -> int:
    """How many names of the module it has."""
    return len(wanted.keys() & fit.tensors.keys())


def _parts(fits: list[Fit], wanted: Mapping[str, Tensor]) -> list[Fit]:
    """Those parts of state_dicts, each under a prefix beside other names, with half of what is wanted in it."""
    found: list[Fit] = []
    for whole in fits:
        prefixes: list[str] = []
        for part in whole.source.parts():
            if any(part.prefix.startswith(prefix) for prefix in prefixes) or 2 * len(part.tensors) < len(wanted):
                continue
            fit = _fit(part, wanted)
            if 2 * _covered(fit, wanted) >= len(wanted):
                prefixes.append(part.prefix)
                found.append(fit)
    return found


def _misfit(fit: Fit, wanted: Mapping[str, Tensor], path: Path) -> str:
    told = "; ".join(first_few(lines, MOST_OF_A_KIND) for lines in fit.complaints.values() if lines)
    place = f" ({fit.source.place})" if fit.source.keys or fit.source.prefix else ""
    return f"{path}{place} does not fit the model, {_misfit_of(fit)}: {told}; {_remedy(fit, wanted)}"


def _misfit_of(fit: Fit) -> str:
    return ", ".join(f"{_tensors(len(lines))} {kind}" for kind, lines in fit.complaints.items() if lines)


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def _remedy(fit: Fit, wanted: Mapping[str, Tensor]) -> str:
    """Tables of other lengths and nothing else: trained at another image size."""
    reshaped = [name for name in wanted if name in fit.tensors and fit.tensors[name].shape != wanted[name].shape]
    tables = [name for name in reshaped if is_relative_table(name, wanted[name])]
    if not tables or tables != reshaped or fit.complaints["missing"] or fit.complaints["unexpected"]:
        return OTHER_ARCHITECTURE
    lengths = f"{table_length(fit.tensors[tables[0]])} positions instead of {table_length(wanted[tables[0]])}"
    return f"it was trained at another image size, with relative tables for {lengths}: build the module for that size"


def _require_plain_tensors(source: StateDict, path: Path) -> None:
    for name, tensor in source.tensors.items():
        kind = _unusual_kind(tensor)
        if kind is not None:
            remedy = "save the plain, dense state_dict of the whole model"
            raise WeightsError(f"{path}: tensor {name!r} must be a plain tensor, got a {kind} one; {remedy}")


def _unusual_kind(tensor: Tensor) -> str | None:
    if type(tensor) not in {Tensor, nn.Parameter}:
        return type(tensor).__name__
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout != torch.strided:
        return "sparse"
    return "meta" if tensor.is_meta else None


def _notes(fit: Fit, others: list[Fit], contents: Any, wanted: Mapping[str, Tensor]) -> tuple[str, ...]:
    notes = []
    if fit.source.keys or others:
        rather = f", not from {' or '.join(other.source.place for other in others)}, which would fit too"
        rather = rather if others else ""
        notes.append(f"weights taken from {fit.source.place}{rather}")
    prefix = [f"{part}." for part in fit.source.prefix.split(".") if part]
    if parts := [*dict.fromkeys([*prefix, *dropped_parts(fit.names)])]:
        notes.append(f"names read without {' and '.join(map(repr, parts))}")
    if fit.source.left_out:
        notes.append(f"left out, as the module has no such names: {first_few(fit.source.left_out, MOST_BESIDE)}")
    if fit.counters:
        notes.append(f"the tensors {COUNTER!r} are missing, as in old files: evaluation does not need them")
    changes = Counter(
        f"{tensor.dtype} to {wanted[name].dtype}".replace("torch.", "")
        for name, tensor in fit.tensors.items()
        if name in wanted and tensor.dtype != wanted[name].dtype
    )
    notes += [f"{_tensors(count)} converted from {change}" for change, count in changes.items()]
    if extras := beside(contents, fit.source):
        notes.append(f"the file also holds {first_few(extras, MOST_BESIDE)}")
    return tuple(notes)


def _are_random(path: Path) -> bool:
    """Whether it is a file of ours that says so."""
    if path.suffix != ".safetensors":
        return False
    with safe_open(path, framework="pt") as file:
        about: dict[str, str] = file.metadata() or {}
    return RANDOM.items() <= about.items()


def _description(contents: Any) -> str:
    kind = type(contents).__name__
    keys = ", ".join(map(repr, list(contents)[:MOST_BESIDE])) if isinstance(contents, dict) else ""
    return f"a {kind} with no tensors under names" + (f" (its keys: {keys})" if keys else "")
