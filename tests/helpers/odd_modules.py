"""Modules of everyday's oddities: what hooks, closures, locks and caches keep, and what only a first run makes.

Each takes (B, 3, H, W) and returns one tensor. `FAITHFUL` can all be copied, though `copy.deepcopy` refuses some and
makes something else of others; `UNFAITHFUL` cannot, or compute no function, each with what is said of it.
"""

import functools
import itertools
import logging
import random
import sys
import threading
import types
import weakref

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.c(x)


class Inside(nn.Module):
    """With a layer in question at `layer`."""

    def __init__(self, layer):
        super().__init__()
        self.c, self.layer = nn.Conv2d(3, 3, 1), layer

    def forward(self, x):
        return self.layer(self.c(x))


class Tapped(Convolved):
    """A hook keeps a feature in a dict that its closure holds."""

    def __init__(self):
        super().__init__()
        taps = {}
        self.taps = taps
        self.c.register_forward_hook(lambda module, inputs, output: taps.__setitem__("c", output))

    def forward(self, x):
        self.c(x)
        return torch.relu(self.taps["c"])


class TappedByPartial(Convolved):
    def __init__(self):
        super().__init__()
        self.taps = []
        self.c.register_forward_hook(functools.partial(self.keep, taps=self.taps))

    @staticmethod
    def keep(module, inputs, output, taps):
        taps[:] = [output]

    def forward(self, x):
        self.c(x)
        return self.taps[0] * 2


class Extractor:
    """Not a module; its method is the hook."""

    def __init__(self):
        self.feature = None

    def __call__(self, module, inputs, output):
        self.feature = output


class TappedByObject(Convolved):
    def __init__(self):
        super().__init__()
        self.extractor = Extractor()
        self.c.register_forward_hook(self.extractor)

    def forward(self, x):
        self.c(x)
        return self.extractor.feature.tanh()


class Patched(Convolved):
    """Its forward is a function of somebody's that holds the module itself."""

    def __init__(self):
        super().__init__()
        plain = self.forward

        def forward(x):
            return plain(x) + self.c(x).sigmoid() * self.c.weight.mean()

        self.forward = forward


class PatchedMethod(Convolved):
    def __init__(self):
        super().__init__()
        inner = self.c

        def forward(self, x):
            return inner(x) - self.c.bias[:, None, None]

        self.forward = types.MethodType(forward, self)


class Counting(Convolved):
    """Two functions share a variable of their scope."""

    def __init__(self):
        super().__init__()
        last = None

        def keep(module, inputs, output):
            nonlocal last
            last = output

        self.c.register_forward_hook(keep)
        self.read = lambda: last

    def forward(self, x):
        self.c(x)
        return self.read() + 1


class Child(Convolved):
    """Reads what its parent keeps, which it refers to weakly."""

    def __init__(self, parent):
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, x):
        return self.c(x) * self.parent().scale


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.child, self.scale = Child(self), None

    def forward(self, x):
        self.scale = x.mean((1, 2, 3), keepdim=True)
        return self.child(x)


class Holding(Convolved):
    """Holds what has nothing to do with its answers."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, x):
        return self.c(x) * 2


class Locked(Convolved):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            return self.c(x).relu()


class Cached(Convolved):
    """Keeps a tensor that was computed from a parameter."""

    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.rand(3))
        self.k = self.g * 2

    def forward(self, x):
        return self.c(x) * self.k[:, None, None]


class Tied(Convolved):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        self.other.weight = self.c.weight
        self.register_buffer("mask", torch.rand(3, 1, 1))
        self.masks = [self.mask]

    def forward(self, x):
        return self.other(self.c(x)) * self.masks[0]


class CopyingItself(Convolved):
    """With a `__deepcopy__` of its own, and a right one."""

    def __deepcopy__(self, memo):
        made = CopyingItself()
        made.load_state_dict(self.state_dict())
        return made


class Remembering(Convolved):
    """Keeps a grid for the size of the last images."""

    def __init__(self):
        super().__init__()
        self.grid = None

    def forward(self, x):
        if self.grid is None or self.grid.shape[-2:] != x.shape[-2:]:
            self.grid = torch.linspace(0, 1, x.shape[-1]).expand(1, 1, *x.shape[-2:])
        return self.c(x) + self.grid


class GivingItselfBack(Convolved):
    """Frozen, and so shared by whoever copies it."""

    def __deepcopy__(self, memo):
        return self


class Appending(Convolved):
    """Hands a feature on through the method of a list."""

    def __init__(self):
        super().__init__()
        self.taps = []
        self.keep = self.taps.append

    def forward(self, x):
        self.keep(self.c(x))
        return self.taps.pop() * 2


class TappedByAttribute(Convolved):
    """The hook is a function with a dict of its own, and lies in a set besides."""

    def __init__(self):
        super().__init__()
        self.owner = None

        def hook(module, inputs, output):
            hook.taps["c"] = output + self.c.bias.mean()

        hook.taps = {}
        self.hook, self.all = hook, {hook}
        self.c.register_forward_hook(hook)

    def forward(self, x):
        self.c(x)
        (hook,) = self.all
        return hook.taps["c"] + self.hook.taps["c"]


class Slotted:
    """Keeps a function, and a lock, where `vars` does not find them."""

    __slots__ = ("lock", "value")

    def __init__(self, value):
        self.lock, self.value = threading.Lock(), value


class HoldingSlots(Convolved):
    def __init__(self):
        super().__init__()
        self.slots = Slotted(lambda: self.c.bias * 3)

    def forward(self, x):
        with self.slots.lock:
            return self.c(x) + self.slots.value()[:, None, None]


class HoldingWeakMethod(Convolved):
    def __init__(self):
        super().__init__()
        self.method = weakref.WeakMethod(self.again)

    def again(self, x):
        return self.c(x)

    def forward(self, x):
        return self.method()(x)


class ReturningNothing(Inside):
    """Its `train` returns nothing, as in many a public network."""

    def __init__(self):
        super().__init__(nn.BatchNorm2d(3))

    def train(self, mode=True):
        super().train(mode)


class Beside(Convolved):
    """Holds layers in training mode that it does not use."""

    def __init__(self):
        super().__init__()
        self.others = [nn.BatchNorm2d(3), nn.Dropout()]


def inference():
    with torch.inference_mode():
        return Convolved()


def used(module):
    """Used once, on other images than those to come, as anybody does before exporting."""
    with torch.no_grad():
        module(torch.full((1, 3, 8, 8), 0.5))
    return module


def _on_its_convolution(change):
    module = Convolved()
    change(module.c)
    return module


class HoldingIterators(nn.Module):
    """Has iterators, and takes nothing from them."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 3, 1)
        self.names, self.steps = (name for name in ("a", "b")), zip("ab", range(2), strict=True)
        self.numbers = itertools.count()

    def forward(self, x):
        return self.c(x)


FAITHFUL = {
    "iterators that nobody asks": HoldingIterators,
    "hook and dict": Tapped,
    "hook and dict, used": lambda: used(Tapped()),
    "hook by partial": TappedByPartial,
    "hook by partial, used": lambda: used(TappedByPartial()),
    "hook by an object": lambda: used(TappedByObject()),
    "forward by a closure": Patched,
    "forward by a method made of a closure": PatchedMethod,
    "closures of one variable": lambda: used(Counting()),
    "weak reference": lambda: used(Parent()),
    "lock": Locked,
    "file": lambda: Holding(sys.__stderr__),
    "generator": lambda: Holding(iter(n for n in range(3))),
    "Python module": lambda: Holding(logging),
    "logger and thread": lambda: Holding({"log": logging.getLogger("x"), "run": threading.Thread(target=print)}),
    "computed tensor": Cached,
    "computed tensor in a list": lambda: Holding([nn.Parameter(torch.ones(2)) * 2]),
    "weights of inference mode": inference,
    "old weight norm": lambda: _on_its_convolution(torch.nn.utils.weight_norm),
    "old weight norm, used": lambda: used(_on_its_convolution(torch.nn.utils.weight_norm)),
    "weight norm": lambda: _on_its_convolution(parametrizations.weight_norm),
    "old spectral norm": lambda: _on_its_convolution(torch.nn.utils.spectral_norm),
    "pruned": lambda: _on_its_convolution(lambda c: prune.random_unstructured(c, "weight", 0.5)),
    "tied": Tied,
    "copy of its own": CopyingItself,
    "cache by size, used": lambda: used(Remembering()),
    "copy that is itself": lambda: nn.Sequential(GivingItselfBack(), nn.Dropout(0.5)),
    "method of a list": lambda: used(Appending()),
    "attribute of a function": lambda: used(TappedByAttribute()),
    "slots": HoldingSlots,
    "layers in training mode that are not used": Beside,
    "weak method": HoldingWeakMethod,
    "train that returns nothing": ReturningNothing,
}


class Ledger:
    """A descriptor that keeps what instances set by the instance, outside of them."""

    def __init__(self):
        self.kept = weakref.WeakKeyDictionary()

    def __get__(self, instance, owner=None):
        return self if instance is None else self.kept[instance]

    def __set__(self, instance, value):
        self.kept[instance] = value


class Described(Convolved):
    scale = Ledger()

    def __init__(self):
        super().__init__()
        self.scale = 3.0

    def forward(self, x):
        return self.c(x) * self.scale


class Forgetting(Convolved):
    """Its copies have weights of their own."""

    def __deepcopy__(self, memo):
        return Forgetting()


KEPT = {}


class Registered(Convolved):
    """Keeps a feature of a layer by the number of the layer, which is another in a copy."""

    def __init__(self):
        super().__init__()
        self.key = id(self.c)
        self.c.register_forward_hook(lambda module, inputs, output: KEPT.__setitem__(id(module), output))

    def forward(self, x):
        self.c(x)
        return KEPT[self.key]


class MadeByTheFirst(nn.Module):
    """Makes a layer for the images that come first."""

    def __init__(self):
        super().__init__()
        self.c = None

    def forward(self, x):
        if self.c is None:
            self.c = nn.Conv2d(x.shape[1], 3, 1)
        return self.c(x)


class SetByTheFirst(Convolved):
    """Sets its weights by the images that come first, as actnorm does."""

    def __init__(self):
        super().__init__()
        self.scale, self.is_set = nn.Parameter(torch.ones(3)), False

    def forward(self, x):
        y = self.c(x)
        if not self.is_set:
            self.scale.data.copy_(1 / y.std((0, 2, 3)))
            self.is_set = True
        return y * self.scale[:, None, None]


class KeptByTheFirst(Convolved):
    """Keeps a scale of the images that come first, in a buffer or beside."""

    def __init__(self, *, in_a_buffer):
        super().__init__()
        self.in_a_buffer, self.kept = in_a_buffer, None
        self.register_buffer("scale", torch.zeros(3, 1, 1))

    def forward(self, x):
        y = self.c(x)
        if self.kept is None:
            self.kept = 1 / (y.abs().mean((0, 2, 3)) + 0.1)[:, None, None]
            if self.in_a_buffer:
                self.scale.copy_(self.kept)
        return y * (self.scale if self.in_a_buffer else self.kept)


class Masking(Registered):
    """A wrong feature beside a huge number."""

    def forward(self, x):
        y = super().forward(x)
        return torch.cat([y, torch.full_like(y, -1e9)], 1)


class Drawing(nn.Module):
    def forward(self, x):
        return x + torch.randn(3, 1, 1)


class Making(nn.Module):
    def forward(self, x):
        return nn.Conv2d(3, 3, 1)(x)


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x)


class DrawingElsewhere(nn.Module):
    def forward(self, x):
        return x * random.random()


class Stuck(Inside):
    def __init__(self):
        super().__init__(nn.BatchNorm2d(3))

    def train(self, mode=True):
        super().train(mode)
        self.layer.train(True)
        return self


class Among(nn.Module):
    """Its layers lie in a plain list, which `eval()` does not reach."""

    def __init__(self, layer):
        super().__init__()
        self.layers = [nn.Conv2d(3, 3, 1), layer]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class TrainingAtWork(Inside):
    def __init__(self):
        super().__init__(nn.Dropout(0.5))

    def forward(self, x):
        self.layer.train()
        return self.layer(x)


class MakingNormalization(nn.Module):
    def forward(self, x):
        return nn.BatchNorm2d(3)(x)


class Averaging(Convolved):
    """Goes on from the average of the images before, in a buffer, in a list or in an attribute."""

    def __init__(self, where):
        super().__init__()
        self.where, self.shared, self.state = where, [], None
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        y = self.c(x)
        if self.where == "buffer":
            self.mean.mul_(0.9).add_(0.1 * y.mean())
            return y - self.mean
        if self.where == "list":
            self.shared.append(y.mean())
            return y - sum(self.shared)
        self.state = y if self.state is None else self.state * 0.5 + y
        return self.state


class DrawnAtFirst(nn.Module):
    """Makes its weights, beside its parameters, for the images that come first."""

    def __init__(self):
        super().__init__()
        self.w = None

    def forward(self, x):
        if self.w is None:
            self.w = torch.randn(4, x.shape[1])
        return torch.einsum("oc,bchw->bohw", self.w, x)


class TakingFrom(nn.Module):
    """Runs the layers that an iterator over three gives; what `make` gives is another at the first call only."""

    def __init__(self, make):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.each = make(self.layers)

    def forward(self, x):
        for layer in self.each:
            x = layer[1](x) if isinstance(layer, tuple) else layer(x)
        return x


class OfOthers(nn.Module):
    """The layers are nobody's but the generator's."""

    def __init__(self):
        super().__init__()
        self.only = nn.Conv2d(3, 3, 1)
        self.kept = {"layers": (nn.Conv2d(3, 3, 1) for _ in range(2))}

    def forward(self, x):
        for layer in self.kept["layers"]:
            x = layer(x)
        return self.only(x)


class NextOf(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(2))
        self.turns = itertools.cycle(self.layers)

    def forward(self, x):
        return next(self.turns)(x)


USED_UP = {
    "generator": lambda layers: (layer for layer in layers),
    "map": lambda layers: map(nn.Sequential, layers),
    "zip": lambda layers: zip(range(3), layers, strict=True),
    "enumerate": enumerate,
    "filter": lambda layers: filter(None, layers),
    "iterator": iter,
    "reversed": lambda layers: reversed(list(layers)),
    "chain": lambda layers: itertools.chain(layers, [nn.ReLU()]),
    "islice": lambda layers: itertools.islice(layers, 2),
}


class Scripted(Inside):
    def __init__(self):
        super().__init__(torch.jit.script(nn.ReLU()))


UNFAITHFUL = {
    "lazy": (lambda: Inside(nn.LazyConv2d(4, 1)), "must have all its weights, got none yet for layer.weight"),
    "lazy normalization": (lambda: Inside(nn.LazyBatchNorm2d()), "must have all its weights, got none yet for layer"),
    "made by the first images": (MadeByTheFirst, "must have all its weights before it runs, got c.weight"),
    "set by the first images": (SetByTheFirst, "must leave its weights alone .* got others in scale"),
    "state by instance": (Described, "a copy of Described must run as it does itself, but: .*KeyError"),
    "copies with other weights": (
        lambda: nn.Sequential(Forgetting()),
        "a copy of Sequential must compute what it does itself, .*let the __deepcopy__ of Forgetting copy all",
    ),
    "feature of the first images": (
        lambda: used(Registered()),
        "a copy of Registered must compute what it does itself",
    ),
    "kept by the first images, in a buffer": (
        lambda: KeptByTheFirst(in_a_buffer=True),
        "must not depend on which images",
    ),
    "kept by the first images": (lambda: KeptByTheFirst(in_a_buffer=False), "must not depend on which images"),
    "wrong beside a huge number": (lambda: used(Masking()), "a copy of Masking must compute what it does itself"),
    "draws": (lambda: Inside(Drawing()), r"layer \(Drawing\), .*odd_modules.py:\d+: it draws new random .*\(randn\)"),
    "makes a layer": (
        lambda: Inside(Making()),
        r"layer \(Making\), .*: it makes a new Conv2d at every call, with new",
    ),
    "dropout": (lambda: Inside(Dropping()), r"layer \(Dropping\), .*give a dropout training=self.training"),
    "draws elsewhere": (
        lambda: Inside(DrawingElsewhere()),
        r"layer \(DrawingElsewhere\) answers otherwise each time",
    ),
    "training mode": (Stuck, r"layer \(BatchNorm2d\) must be in evaluation mode after eval\(\), got training mode"),
    "dropout in a plain list": (
        lambda: Inside(Among(nn.Dropout())),
        r"the Dropout in layer.layers, which runs at .*odd_modules.py:\d+, must be .*, got training mode; "
        r"eval\(\) reaches no layer in a plain list",
    ),
    "normalization in a plain list": (
        lambda: Among(nn.BatchNorm2d(3)),
        "the BatchNorm2d in layers, which runs at .*must be in eval",
    ),
    "training mode at work": (
        TrainingAtWork,
        r"layer \(Dropout\), which .* got training mode; call no",
    ),
    "normalization made at every call": (
        MakingNormalization,
        "a new BatchNorm2d of every call, .* must be in evaluation .*in __init__",
    ),
    "goes on from a buffer": (lambda: Averaging("buffer"), r"goes on from what it kept of the call before \(mean\)"),
    "goes on from a list": (lambda: Inside(Averaging("list")), r"of the call before \(layer.shared\); begin every"),
    "goes on from an attribute": (lambda: Averaging("state"), r"of the call before \(state\); begin every call"),
    "draws at its first call": (
        DrawnAtFirst,
        r"DrawnAtFirst must have all its numbers before it runs; .*odd_modules.py:\d+: it draws .* \(randn\) at "
        "its first call; draw them once, in __init__",
    ),
    "goes on with an iterator": (NextOf, r"it goes on with self.turns \(cycle\) where the call before ended; begin"),
    "takes from a generator of layers": (
        lambda: Inside(OfOthers()),
        r"layer \(OfOthers\), .*odd_modules.py:\d+: it takes from layer.kept \(generator\), which the first call",
    ),
    **{
        f"takes from: {kind}": (
            functools.partial(TakingFrom, make),
            r"TakingFrom, .*odd_modules.py:\d+: it takes from self.each \(\w+\), which the first call uses up; keep "
            "what it gives in a list, and layers in an nn.ModuleList",
        )
        for kind, make in USED_UP.items()
    },
    "TorchScript": (Scripted, r"layer \(RecursiveScriptModule\): it is TorchScript, .*build it as a plain module"),
    "traced": (
        lambda: torch.jit.trace(Convolved().eval(), torch.zeros(1, 3, 8, 8)),
        "it is TorchScript, .*build it as a plain module",
    ),
}
