"""PyTorch's operators as a module calls them → how many bytes of tensors are alive at most."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Alive(TorchDispatchMode):
    """Counts what operators make within it, each storage once, until it is freed; not what kernels take for a moment.

    Attributes:
        peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.peak = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(one) for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)}
        result = func(*args, **(kwargs or {}))
        for one in tree_iter(result):
            if not isinstance(one, Tensor) or one.is_meta or (key := _key(one)) in self._known | given:
                continue
            self._known.add(key)
            storage = one.untyped_storage()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._forget, key, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return result

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
