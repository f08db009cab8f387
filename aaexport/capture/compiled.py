"""A module that torch.compile made, or that holds such → the modules that were compiled."""

from __future__ import annotations

import sys

from torch import nn

NOTE = "torch.compile was taken off: the module that was compiled is what is exported and compared with"


def uncompiled(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module itself, in which nothing is compiled any more, and a note where anything was; changes `module`."""
    notes = (NOTE,) if holds_compiled(module) else ()
    module = unwrapped(module)
    unwrap_inside(module)
    return module, notes


def unwrapped(module: nn.Module) -> nn.Module:
    """What `torch.compile` was called with, if `module` is what it returned; else `module`."""
    if not is_compiled(module):
        return module
    inner = module._orig_mod
    assert isinstance(inner, nn.Module)
    return inner


def holds_compiled(module: nn.Module) -> bool:
    """Whether it, or any module in it, was compiled, by `torch.compile` or by its own method `compile`."""
    return any(is_compiled(one) or one._compiled_call_impl is not None for one in module.modules())


def unwrap_inside(module: nn.Module) -> None:
    """Puts what was compiled in the place of what torch.compile made of it, everywhere in `module`, which changes."""
    for parent in list(module.modules()):
        parent._compiled_call_impl = None
        for name, child in list(parent._modules.items()):
            if child is not None:
                parent._modules[name] = unwrapped(child)


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile returned it. Nothing is imported for that: where its compiler was not, nothing is."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)
