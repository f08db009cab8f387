"""Names in a state_dict → a module's own names: what wrappers put before or between them is taken out."""

from __future__ import annotations

from collections.abc import Collection, Iterator

WRAPPERS = ("module", "_orig_mod")  # DataParallel and AveragedModel; torch.compile
OWNERS = ("model", "net")  # attributes that training frameworks keep the network in


def matched(found: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Name in `found` → the name in `wanted`, or its own where there is none, in the reading that covers most.

    Names that are equal already stay as they are: a module may itself have an attribute `module` or `model`.
    """
    own = {without_wrappers(name): name for name in wanted} | {name: name for name in wanted}
    best: dict[str, str] = {}
    for reading in _readings(found):
        names = {name: own.get(read, read) for name, read in reading.items()}
        one_to_one = len(set(names.values())) == len(names)
        if not best or (one_to_one and _covered(names, wanted) > _covered(best, wanted)):
            best = names
    return best


def dropped_parts(names: dict[str, str]) -> list[str]:
    """`module.` and the like, the parts that the names of the file have and those of the module have not."""
    parts: dict[str, None] = {}
    for found, own in names.items():
        of_own = own.split(".")
        parts |= dict.fromkeys(f"{part}." for part in found.split(".") if found != own and part not in of_own)
    return list(parts)


def without_wrappers(name: str) -> str:
    """The name without the parts that DataParallel and torch.compile put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _readings(found: Collection[str]) -> Iterator[dict[str, str]]:
    """As they are and without what all of them begin with, then the same without wrappers inside them."""
    yield from _without_common_parts({name: name for name in found})
    yield from _without_common_parts({name: without_wrappers(name) for name in found})


def _without_common_parts(reading: dict[str, str]) -> Iterator[dict[str, str]]:
    yield reading
    while any(all(read.startswith(f"{part}.") for read in reading.values()) for part in (*WRAPPERS, *OWNERS)):
        reading = {name: read.partition(".")[2] for name, read in reading.items()}
        yield reading


def _covered(names: dict[str, str], wanted: Collection[str]) -> int:
    return len(set(names.values()) & set(wanted))
