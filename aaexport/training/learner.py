"""A network and batches in parts → steps of gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aaexport.errors import ArgumentError, TrainingError, broken_rule, first_line
from aaexport.nn.build import build_network
from aaexport.recipe import Recipe, Training
from aaexport.training.distributed import Processes
from aaexport.training.options import TrainOptions
from aaexport.weights.safetensors import load_weights

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Learner:
    """A network with all that a step changes: weights, optimizer, loss scale and moving average.

    Attributes:
        module: the network itself, whatever compiles or synchronises it in training.
        precision: the name of the type that products are computed in.
        attends_in_tiles: whether attention whose decomposition is `auto` never has all of its weights at once.
        notes: what a user should know of the weights it begins with.
    """

    def __init__(self, recipe: Recipe, options: TrainOptions, processes: Processes) -> None:
        self.training, self.accumulate, self.processes = recipe.training, options.accumulate, processes
        device = processes.device
        module, init = build_network(recipe), options.init_path()
        self.notes = load_weights(module, init) if init is not None else ()
        self.format = _memory_format(options, device)
        self.module = processes.prepared(module).to(device)
        self.module.to(memory_format=self.format)  # type: ignore[call-overload]  # torch's hints leave it out
        self.average = _moving_average(self.module, recipe.training.ema_decay)
        self.optimizer = _optimizer(self.module, recipe.training)
        self.precision = options.precision_on(device.type, recipe)
        self.attends_in_tiles = device.type == "cpu" and self.precision == "float32" and not options.compile
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        self.parallel = processes.parallel(self.module)
        self.forward: Callable[[Tensor], Tensor] = self.parallel
        self._compiler_errors: tuple[type[Exception], ...] = ()
        if options.compile:
            self.forward, self._compiler_errors = _compiled(self.parallel)

    @property
    def result(self) -> nn.Module:
        """The network that is evaluated and saved: the moving average where the recipe wants one."""
        return self.module if self.average is None else self.average.module

    def step(self, parts: Iterable[tuple[Tensor, Tensor]], images: int, rate: float) -> Tensor:
        """One step down the gradient of the mean loss over a batch of `images`.

        Args:
            parts: this process's images (B, C, H, W) and labels (B,) of the batch, in `accumulate` parts.
            images: the whole batch's size, that of the other processes included.
            rate: the learning rate.

        Returns:
            (2,): the sum of this process's losses, and how many images it classified rightly; on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, dtype=torch.float64, device=self.processes.device)
        try:
            for number, (batch, labels) in enumerate(parts, 1):
                if number < self.accumulate:
                    with self.processes.kept_apart(self.parallel):
                        sums += self._backward(batch, labels, images)
                else:
                    sums += self._backward(batch, labels, images)
        except self._compiler_errors as error:
            cause = f"torch.compile must compile the network, but: {first_line(error)}"
            raise TrainingError(f"{cause}; train without --compile") from error
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._follow()
        return sums

    def synchronise(self) -> None:
        """After an epoch: the leader's running statistics become those of all processes."""
        self.processes.take_leaders_buffers(self.module)
        if self.average is not None:
            self.processes.take_leaders_buffers(self.average.module)

    def is_finite(self) -> bool:
        """Whether every weight and every statistic is a number."""
        networks = {self.module, self.result}
        tensors = [tensor for network in networks for tensor in network.state_dict().values()]
        return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a `state_dict`. RuntimeError, ValueError or KeyError if it is another network's."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _backward(self, batch: Tensor, labels: Tensor, images: int) -> Tensor:
        """Adds the part's gradient, and returns the sum of its losses and its hits."""
        lowered = self.precision != "float32"
        with torch.autocast(self.processes.device.type, dtype=PRECISIONS[self.precision], enabled=lowered):
            logits = self._logits(batch.to(memory_format=self.format))
            smoothing = self.training.label_smoothing
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="sum")
        # Divided by the whole batch, so that the parts add up to its mean; DDP takes the mean over processes.
        self.scaler.scale(loss * (self.processes.count / images)).backward()
        return torch.stack((loss.detach(), (logits.detach().argmax(1) == labels).sum()))

    def _logits(self, batch: Tensor) -> Tensor:
        try:
            return self.forward(batch)
        except ValueError as error:
            if len(batch) > 1:
                raise
            remedy = "raise [training] batch_size, or lower --accumulate where it is given"
            raise TrainingError(
                f"the network cannot train on one image at a time: {first_line(error)}; {remedy}"
            ) from error

    def _follow(self) -> None:
        if self.average is None:
            return
        self.average.update_parameters(self.module)
        for average, own in zip(self.average.module.buffers(), self.module.buffers(), strict=True):
            if not own.is_floating_point():  # a count or an index, of which the averaging would round down a mean
                average.copy_(own)


def _memory_format(options: TrainOptions, device: torch.device) -> torch.memory_format:
    if not options.channels_last:
        return torch.contiguous_format
    capability = torch.backends.cpu.get_cpu_capability()
    if device.type == "cpu" and capability == "AVX2":
        # oneDNN's gradients by AVX2 write past their memory there, torch 2.13: a crash, or worse, none.
        rule = "be off on a CPU without AVX-512, where torch's gradients may crash"
        raise ArgumentError(broken_rule("channels_last", rule, capability, "leave it out, or train on a GPU"))
    return torch.channels_last


def _moving_average(module: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    if training.optimizer == "adamw":
        return torch.optim.AdamW(module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    return torch.optim.SGD(
        module.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        nesterov=training.nesterov and training.momentum > 0,
        weight_decay=training.weight_decay,
    )


def _compiled(module: nn.Module) -> tuple[Callable[[Tensor], Tensor], tuple[type[Exception], ...]]:
    """`module` compiled at its first call, and the errors that its compiler raises; it takes seconds to import."""
    from torch._dynamo.exc import TorchDynamoException

    return torch.compile(module), (TorchDynamoException,)
