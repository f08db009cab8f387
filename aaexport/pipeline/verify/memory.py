"""(bytes that may be taken, a file, its module) → how many images are computed at a time, and what is left out.

What is counted is what a verification takes beyond the loaded models. A file's tensors have known sizes; where these
leave it open whether all inputs fit, one image is run, and what it takes is measured.
"""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aaexport.capture.program import INPUT_NAME
from aaexport.errors import AaexportError
from aaexport.load.memory import peak_memory
from aaexport.memory import MEBIBYTE
from aaexport.parity import Array
from aaexport.runners.base import Arrays, Runner
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import DEFAULTS
from aaexport.runners.torch import TorchRunner

# PyTorch in float64 ÷ what the file has alive in float32: twice the bytes, and names that hold tensors for longer.
IN_FLOAT64 = 3.0
IN_RUNTIME = 2.0  # onnxruntime ÷ what the file has alive, at the most: half of it to twice as much was seen
LEAST = 0.5
EVALUATED = 2.0  # onnx's evaluator ÷ the same: numpy's expressions have tensors of their own
MARGIN = 1.1  # of what was measured or counted with one image, for several
Infer = Callable[[Arrays], dict[str, Array]]
Limit = Callable[[int, int | None, Callable[[], None]], Infer]
BLOCKS = 64  # of what may be taken, one part is held of what could be made in blocks
SAME = {"float64": 1e-10, "float32": 1e-5}  # of the largest number: images apart and in a batch, where nothing mixes


@dataclass
class Memory:
    """What may be taken, and what is known to be.

    Attributes:
        most: bytes.
        alive: of the file's tensors for one image, or for the batch that the file fixes; None where not known.
        fixed: that batch.
        is_tight: whether all inputs at once would be too much.
        notes: what was left out, and why.
    """

    most: int
    alive: int | None
    fixed: int | None
    is_tight: bool = False
    notes: list[str] = field(default_factory=list)

    def images(
        self,
        wanted: int,
        single: Runner,
        limit: Limit,
        path: Path,
        shape: tuple[int, int, int],
    ) -> int:
        """As many at a time as may be, up to `wanted`; one at least.

        Args:
            wanted: the largest batch.
            single: PyTorch in float32, whose way of computing is set by what follows.
            limit: makes PyTorch hold no more than so many bytes of what it can compute in blocks, and compute so many
                images at a time, and call something before each row; and gives what computes in float64.
            path: the file.
            shape: (C, H, W) of an image.
        """
        if self.alive is None and isinstance(single, TorchRunner):
            self.alive = _counted(single, self._first(shape))
        if self.alive is None or self.alive * IN_FLOAT64 * (1 if self.fixed else wanted) <= self.most:
            return wanted
        self.is_tight = True
        self.give_back()
        in_runtime = self._by_the_runtime(wanted, path, shape)
        return self._by_pytorch(min(wanted, in_runtime), single, limit, shape)

    def give_back(self) -> None:
        """To the system what is freed, where too much may be taken, and glibc keeps it.

        What is measured next would be hidden in it, and what comes next find it in pieces that are too small.
        """
        if not self.is_tight:
            return
        gc.collect()  # copies of modules have parts that know each other
        if platform.libc_ver()[0] == "glibc":
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)

    def of_evaluator(self, images: int) -> bool:
        """Whether onnx's evaluator may have so many."""
        return self.alive is None or self.alive * EVALUATED * (1 if self.fixed else images) <= self.most

    def labelled(self, size: int) -> int:
        """Of a batch of so many images, which are computed in float32, as many as may be."""
        if self.alive is None or self.fixed:
            return size
        return max(1, min(size, int(self.most / (self.alive * IN_RUNTIME))))

    def _by_the_runtime(self, wanted: int, path: Path, shape: tuple[int, int, int]) -> int:
        assert self.alive is not None
        one = self.alive * IN_RUNTIME
        if one * (1 if self.fixed else wanted) <= self.most:
            return wanted
        if (measured := _measured(path, self._first(shape))) is not None:
            one = max(measured * MARGIN, self.alive * LEAST)  # memory that was free already hides some of it
        images = wanted if self.fixed else max(1, int(self.most / one))
        if one > self.most:
            what = f"the batch of {self.fixed}" if self.fixed else "one image"
            self.notes.append(
                f"onnxruntime takes {_mib(one)} for {what}, above {self._limit}: it was run all the same"
            )
        return images

    def _by_pytorch(self, wanted: int, single: Runner, limit: Limit, shape: tuple[int, int, int]) -> int:
        if not isinstance(single, TorchRunner):
            return wanted
        exact = limit(self.most // BLOCKS, None, self.give_back)
        one = 2 * MARGIN * _counted(single, self._first(shape))  # twice: float64
        images = wanted if self.fixed else max(1, int(self.most / one))
        if single.whole is not None:
            self.notes.append(
                f"PyTorch had whole tensors, as it cannot compute this module in blocks: {single.whole}"
            )
        if one > self.most:
            what = f"the batch of {self.fixed}" if self.fixed else "one image"
            self.notes.append(
                f"PyTorch takes {_mib(one)} for {what} in float64, above {self._limit}: it was run all the same"
            )
        if images >= wanted:
            return wanted
        if one <= self.most and not _mixes(exact if images >= 2 else single.infer, shape):
            limit(self.most // BLOCKS, images, self.give_back)
            return wanted
        self.notes.append(
            f"PyTorch computed no more than {images} at a time: images of one batch may change each other"
        )
        return images

    def _first(self, shape: tuple[int, int, int]) -> Array:
        return _images(self.fixed or 1, shape)

    @property
    def _limit(self) -> str:
        return f"the {_mib(self.most)} that it may (`aaexport verify --max-memory`)"

    def leave_out(self, sizes: Sequence[int], most: int) -> None:
        """Notes the batches that are above `most` images."""
        if left := [size for size in sizes if size > most]:
            batches = " and ".join(map(str, left)) if len(left) < 3 else ", ".join(map(str, left))
            self.notes.append(f"no batch of {batches} was tried: it takes more than {self._limit}")

    def leave_out_evaluator(self) -> None:
        """Notes that it is."""
        self.notes.append(f"onnx's reference evaluator would take more than {self._limit}: not run")


def _counted(single: TorchRunner, batch: Array) -> int:
    return single.memory({INPUT_NAME: batch})


def _measured(path: Path, batch: Array) -> int | None:
    """Bytes that onnxruntime takes to answer, beyond the loaded file; None where that is not known."""
    try:
        with OrtRunner(path, replace(DEFAULTS, arena=False)) as runner:
            return peak_memory(lambda: runner.infer({runner.inputs[0].name: batch}))
    except AaexportError:
        return None  # a file that does not load or run is judged elsewhere


def _mixes(infer: Infer, shape: tuple[int, int, int]) -> bool:
    """Whether the images of a batch have a part in each other's answers, or this cannot be told."""
    ordinary = _images(2, shape)
    poisoned = ordinary.copy()
    poisoned[0, :, shape[1] // 2, shape[2] // 2] = np.nan
    try:
        return not all(_are_apart(infer, batch) for batch in (ordinary, poisoned))
    except AaexportError:
        return True


def _are_apart(infer: Infer, batch: Array) -> bool:
    together = infer({INPUT_NAME: batch})
    alone = [infer({INPUT_NAME: batch[n : n + 1]}) for n in range(len(batch))]
    return all(
        array.shape[:1] == (len(batch),)
        and all(_same(array[n : n + 1], answers[name]) for n, answers in enumerate(alone))
        for name, array in together.items()
    )


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype.kind != "f":
        return np.array_equal(one, other)
    scale = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
    return np.allclose(one, other, rtol=0.0, atol=SAME[one.dtype.name] * scale, equal_nan=True)


def _images(count: int, shape: tuple[int, int, int]) -> Array:
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)


def _mib(size: float) -> str:
    return f"{size / MEBIBYTE:,.0f} MiB"
