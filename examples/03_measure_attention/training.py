"""A training step of the reference experiment's network, in tiles and in blocks, against its convolutions.

`tiles` is what a layer does in eager mode on the CPU; `blocks`, of queries, is what it does where somebody must see
its operators (compilers, autocast). Steps take turns in one process; peak memory is that of a process of its own.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

from aaexport.folder import find_model
from aaexport.load.memory import peak_memory
from aaexport.nn.augmented import augmented_layers
from aaexport.nn.build import build_network
from aaexport.nn.choice import choose_eagerly

SIDES = ("tiles", "blocks", "conv")


def main():
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        return print(peak_memory(step_of(arguments.memory_of, arguments)))
    steps = {side: step_of(side, arguments) for side in SIDES}
    milliseconds = {side: [] for side in SIDES}
    for turn in range(arguments.rounds):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            steps[side]()  # warms the caches after the one before
            milliseconds[side].append(timed(steps[side]))
    print(f"| {arguments.network}, batch {arguments.batch}, threads {arguments.threads} | ms | ÷ conv | peak, MB |")
    print("|---|---|---|---|")
    for side in SIDES:
        pairs = [own / conv for own, conv in zip(milliseconds[side], milliseconds["conv"], strict=True)]
        spread = f"{statistics.median(pairs):.2f} ({min(pairs):.2f}–{max(pairs):.2f})"
        print(f"| {side} | {statistics.median(milliseconds[side]):.0f} | {spread} | {megabytes(side)} |")
    return None


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="cnn3_cifar100", help="of aa_… and conv_…, cnn3_cifar100 or cnn3_digits")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15, help="steps of each side")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def step_of(side, arguments):
    """A step of stochastic gradient descent of that side's network."""
    torch.manual_seed(0)
    recipe = find_model(f"{'conv' if side == 'conv' else 'aa'}_{arguments.network}").recipe
    module = build_network(recipe).train()
    for layer in augmented_layers(module).values() if side == "blocks" else ():
        choice = choose_eagerly(layer.sizes, batch=arguments.batch, device_type="cpu")
        layer.decomposition, layer.blocks = choice.decomposition, choice.blocks
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(arguments.batch, *recipe.input.shape)
    labels = torch.arange(arguments.batch) % recipe.input.classes

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()

    return step


def timed(step):
    began = time.perf_counter()
    step()
    return (time.perf_counter() - began) * 1000


def megabytes(side):
    """What the first step takes at its peak, in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", side]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    return "–" if told == "None" else f"{int(told) / 1e6:.0f}"


if __name__ == "__main__":
    main()
