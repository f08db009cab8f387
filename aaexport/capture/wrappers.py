"""A module as training left it → the module inside, without what only training needs.

Wrappers spread a module over devices, keep an average of it or compile it: they compute what the module inside does,
and torch.export cannot look through most of them.
"""

from __future__ import annotations

from torch import nn

from aaexport.nn.copies import seen_through

# The class, or a base of it → where it keeps the module that answers.
WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "AveragedModel": "module",  # torch.optim.swa_utils
    "OptimizedModule": "_orig_mod",  # torch.compile
    "ModelEmaV2": "module",  # timm
    "ModelEmaV3": "module",
    "EMA": "ema_model",  # ema-pytorch
    "_FabricModule": "_forward_module",  # Lightning Fabric
    "DeepSpeedEngine": "module",
    "GradSampleModule": "_module",  # Opacus
}


def unwrapped(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside and, for people, what was taken off it; what lies deeper is taken out in place."""
    notes = []
    while (inner := _inside(module)) is not None:
        notes.append(f"the module was taken out of its {type(module).__name__}")
        module = inner
    for path, layer in list(module.named_modules()):
        for name, child in list(layer._modules.items()):  # not `named_children`, which tells a shared one once
            plain = child
            while plain is not None and (inner := _inside(plain)) is not None:
                notes.append(f"{path}.{name} was taken out of its {type(plain).__name__}".removeprefix("."))
                plain = inner
            if plain is not child:
                setattr(layer, name, plain)
    notes.extend(compile_notes(module))
    for layer in module.modules():
        layer._compiled_call_impl = None
    return module, tuple(notes)


def inside(module: nn.Module) -> nn.Module:
    """What holds the weights under their own names: loading into it loads into `module`, which stays as it is."""
    while (inner := _inside(module)) is not None:
        module = inner
    wraps = any(_inside(layer) is not None for layer in module.modules())
    return unwrapped(seen_through(module))[0] if wraps else module


def compile_notes(module: nn.Module) -> tuple[str, ...]:
    """For people, which layers were compiled by their own method; copies of them are not."""
    compiled = (path for path, layer in module.named_modules() if layer._compiled_call_impl is not None)
    return tuple(f"{path or 'the module'} is taken as it was before its compile()" for path in compiled)


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper holds; None for what is none."""
    names = (base.__name__ for base in type(module).__mro__)
    inner = next((module._modules.get(WRAPPERS[name]) for name in names if name in WRAPPERS), None)
    return inner if isinstance(inner, nn.Module) else None
