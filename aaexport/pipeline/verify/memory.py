"""(bytes that may be taken, a file, its module) → how many images are computed at a time, and what is left out.

What is counted is what a verification takes beyond the loaded models. A file's tensors have known sizes; where these
leave it open whether all inputs fit, one image is run, and what it takes is measured.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aaexport.allocator import give_freed_memory_back
from aaexport.capture.input_name import INPUT_NAME
from aaexport.errors import AaexportError, ArgumentError, broken_rule
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
LEAST = 0.5  # and at the least
EVALUATED = 2.0  # onnx's evaluator ÷ the same: numpy's expressions have tensors of their own
MARGIN = 1.1  # of what was measured or counted with one image, for several
Infer = Callable[[Arrays], dict[str, Array]]
Limit = Callable[[int, int | None, Callable[[], None]], Infer]
OF_OTHER_SIZES = 4  # times as much for attention of twice the positions
BLOCKS = 64  # of what may be taken, one part is held of what could be made in blocks
LEAST_BLOCK = 2**14  # bytes: smaller ones take time and save nothing
SAME = {"float64": 1e-10, "float32": 1e-5}  # of the largest number: images apart and in a batch, where nothing mixes


@dataclass
class Memory:
    """What may be taken, and what is known to be.

    Attributes:
        most: bytes.
        alive: of the file's tensors for one image, or for the batch that the file fixes; None where not known.
        fixed: that batch.
        is_tight: whether all inputs at once would be too much.
        one: bytes that an image, or the batch that is fixed, takes where it is tight.
        notes: what was left out, and why.
    """

    most: int
    alive: int | None
    fixed: int | None
    is_tight: bool = False
    one: float = 0.0
    notes: list[str] = field(default_factory=list)
    _single: Runner | None = field(default=None, init=False, repr=False)

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
        first = self._first(shape)
        if self.alive is None:
            self.alive = _counted(single, first) if isinstance(single, TorchRunner) else _measured(path, first)
        if not self._is_too_much(wanted, single):
            return wanted
        in_runtime = self._by_the_runtime(wanted, path, shape)
        return self._by_pytorch(min(wanted, in_runtime), single, limit, shape)

    def in_blocks(self, wanted: int, single: TorchRunner, limit: Limit, shape: tuple[int, int, int]) -> bool:
        """As `images`, where no runtime is asked: whether so many at once are too much, and in blocks from now on."""
        if self.alive is None:
            self.alive = _counted(single, self._first(shape))
        if not self._is_too_much(wanted, single):
            return False
        limit(self._block, None, self.give_back)
        return True

    def _is_too_much(self, wanted: int, single: Runner) -> bool:
        """Whether all inputs at once are: then nothing is taken that need not be, from now on."""
        if self.alive is None or self.alive * IN_FLOAT64 * (1 if self.fixed else wanted) <= self.most:
            return False
        self.is_tight, self._single = True, single
        self.give_back()
        return True

    def give_back(self) -> None:
        """To the system what is freed, where too much may be taken, and glibc keeps it.

        What is measured next would be hidden in it, and what comes next find it in pieces that are too small.
        """
        if not self.is_tight:
            return
        gc.collect()  # copies of modules have parts that know each other
        give_freed_memory_back()

    def of_evaluator(self, images: int) -> bool:
        """Whether onnx's evaluator may have so many."""
        return self.alive is None or self.alive * EVALUATED * (1 if self.fixed else images) <= self.most

    def require_evaluator(self) -> None:
        """ArgumentError unless it may have one image, or the batch that the file fixes."""
        if self.alive is not None and not self.of_evaluator(1):
            rule = f"be at least {math.ceil(self.alive * EVALUATED / MEBIBYTE)} MiB if runtimes name reference"
            remedy = "take unoptimized instead"
            raise ArgumentError(broken_rule("max_memory", rule, round(self.most / MEBIBYTE, 3), remedy))

    def labelled(self, size: int) -> int:
        """Of a batch of so many images, which are computed in float32, as many as may be."""
        if self.alive is None or self.fixed:
            return size
        return max(1, min(size, int(self.most / (self.alive * IN_RUNTIME))))

    def _by_the_runtime(self, wanted: int, path: Path, shape: tuple[int, int, int]) -> int:
        assert self.alive is not None
        self.one = one = self.alive * IN_RUNTIME
        if one * (1 if self.fixed else wanted) <= self.most:
            return wanted
        if (measured := _measured(path, self._first(shape))) is not None:
            one = max(measured * MARGIN, self.alive * LEAST)  # memory that was free already hides some of it
            self.one = one
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
        exact = limit(self._block, None, self.give_back)
        one = 2 * MARGIN * _counted(single, self._first(shape))  # twice: float64
        self.one = max(self.one, one)
        images = wanted if self.fixed else max(1, int(self.most / one))
        if one > self.most:
            what = f"the batch of {self.fixed}" if self.fixed else "one image"
            self.notes.append(
                f"PyTorch takes {_mib(one)} for {what} in float64, above {self._limit}: it was run all the same"
            )
        if images >= wanted:
            return wanted
        if one > self.most:
            self.notes.append(
                "whether images of one batch change each other was not tried: two of them take more still"
            )
        elif not _mixes(exact if images >= 2 else single.infer, shape):
            limit(self._block, images, self.give_back)
            return wanted
        else:
            self.notes.append(
                f"PyTorch computed no more than {images} at a time: images of one batch may change each other"
            )
        return images

    def _first(self, shape: tuple[int, int, int]) -> Array:
        return _images(self.fixed or 1, shape)

    @property
    def _block(self) -> int:
        return max(self.most // BLOCKS, LEAST_BLOCK)

    @property
    def _limit(self) -> str:
        return f"the {_mib(self.most)} that it may (`aaexport verify --max-memory`)"

    def leave_out(self, sizes: Sequence[int], most: int) -> None:
        """Notes the batches that are above `most` images."""
        if left := [size for size in sizes if size > most]:
            self.notes.append(f"no batch of {_listed(left)} was tried: it takes more than {self._limit}")

    def holds_other_sizes(self) -> bool:
        """Whether images of twice the positions have room; notes it if not."""
        holds = not self.is_tight or self.one * OF_OTHER_SIZES <= self.most
        if not holds:
            self.notes.append(f"no images of other sizes were tried: they may take more than {self._limit}")
        return holds

    def all_notes(self) -> tuple[str, ...]:
        """With what only came out while it was verified."""
        if not isinstance(self._single, TorchRunner) or self._single.whole is None:
            return tuple(self.notes)
        why = f"PyTorch had whole tensors, as it cannot compute this module in blocks: {self._single.whole}"
        return (*self.notes, why)

    def leave_out_evaluator(self, sizes: Iterable[int]) -> None:
        """Notes which of the batches onnx's evaluator has no room for, or that it has none for any."""
        left = sorted((size for size in sizes if not self.of_evaluator(size)), reverse=True)
        if not self.of_evaluator(1):
            self.notes.append(f"onnx's reference evaluator would take more than {self._limit}: not run")
        elif left:
            self.notes.append(f"onnx's reference evaluator got no batch of {_listed(left)}: more than {self._limit}")


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


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes)) if len(sizes) < 3 else ", ".join(map(str, sizes))


def _mib(size: float) -> str:
    mebibytes = size / MEBIBYTE
    return f"{mebibytes:,.0f} MiB" if mebibytes >= 10 else f"{mebibytes:.2g} MiB"
