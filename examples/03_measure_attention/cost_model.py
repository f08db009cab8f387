"""How good the model is by which `auto` chooses where nothing was measured: layers of many sizes, each choice timed.

    python cost_model.py --json measured.json              measures on a quiet machine, 15 minutes, and judges
    python cost_model.py --json measured.json --only 9 10  measures these layers of the list anew, and judges them all
    python cost_model.py --judge measured.json             judges what was measured before, after the model changed

Each layer's candidates take turns as in `aaexport tune`: warm blocks, each in a process of its own. A candidate's
number is the median of what it takes, round by round, in units of the best of the layer.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from aaexport.errors import AaexportError
from aaexport.nn import AugmentedConv2d
from aaexport.nn.choice import AttentionSizes, Choice, cached_blocks, choose, read_choice
from aaexport.pipeline.tune.layer_contest import Conditions, LayerContest

SCHEMA = "aaexport.cost-model/1"
CHANNELS = 64
# (side or height × width, dkh, dvh, heads, images): what networks have, small maps and large, shallow keys and deep.
LAYERS = [
    *((side, 20, 4, 8, 4) for side in (7, 14, 20, 28, 40)),
    *((side, 64, 16, 4, 4) for side in (7, 14, 20, 28, 40)),
    *((side, 40, 8, 4, 1) for side in (14, 28)),
    *((64, dkh, dkh // 4, 4, 1) for dkh in (16, 64)),
]


def tried(sizes, images):
    """Every decomposition that `auto` may take: whole, in the blocks that the caches ask for, and in half as many."""
    cached = cached_blocks(sizes, images)
    blocks = sorted({1, max(cached // 2, 1), cached})
    names = ("fold", "shift", "table")
    return tuple(dict.fromkeys([*(Choice(n, b) for n in names for b in blocks), choose(sizes, images)]))


def measured(side, dkh, dvh, heads, images, *, seconds, threads):
    layer = AugmentedConv2d(
        CHANNELS, CHANNELS + heads * dvh, dk=heads * dkh, dv=heads * dvh, num_heads=heads, height=side, width=side
    )
    conditions = Conditions(opset=20, images=images, device="cpu", threads=threads, duration=seconds, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        tuned = LayerContest(layer, conditions, Path(folder)).run(
            ("layer",), lambda step, share: None, tried(layer.sizes, images)
        )
    rounds = {str(one.choice): [float(np.median(r)) for r in one.rounds] for one in tuned.candidates if one.rounds}
    dropped = {
        str(one.choice): float(np.median(one.first_look)) for one in tuned.candidates if not one.rounds
    }  # at first look twice as slow as the best
    return {"sizes": asdict(layer.sizes), "images": images, "milliseconds": rounds, "dropped": dropped}


def judged(row):
    """(the layer, what is chosen, the best, chosen ÷ best) by what was measured; None where it was dropped."""
    sizes = AttentionSizes(**row["sizes"])
    chosen, rounds = str(choose(sizes, row["images"])), row["milliseconds"]
    typical = {name: statistics.median(values) for name, values in rounds.items()}
    best = min(typical, key=typical.__getitem__)
    name = chosen if chosen in rounds else nearest(chosen, rounds)
    ratios = [one / other for one, other in zip(rounds[name], rounds[best], strict=True)] if name else []
    return f"{sizes}, batch {row['images']}", chosen, best, statistics.median(ratios) if ratios else None


def nearest(chosen, rounds):
    """The measured choice of the same decomposition whose blocks are nearest."""
    wanted = read_choice(chosen)
    same = [read_choice(name) for name in rounds if read_choice(name).decomposition == wanted.decomposition]
    return str(min(same, key=lambda one: abs(one.blocks - wanted.blocks))) if same else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each candidate's rounds together")
    parser.add_argument("--threads", type=int, help="of onnxruntime")
    parser.add_argument("--quick", action="store_true", help="one tiny layer")
    parser.add_argument("--json", metavar="FILE", help="write what was measured to FILE")
    parser.add_argument("--only", nargs="+", type=int, metavar="N", help="of the list; --json FILE has the others")
    parser.add_argument("--judge", metavar="FILE", help="measure nothing: judge what FILE has")
    given = parser.parse_args()
    if given.judge:
        rows = json.loads(Path(given.judge).read_text())["layers"]
    else:
        layers = [(4, 4, 2, 2, 1)] if given.quick else LAYERS
        rows = json.loads(Path(given.json).read_text())["layers"] if given.only else [None] * len(layers)
        for number in given.only or range(1, len(layers) + 1):
            print(f"layer {number}: {layers[number - 1]}", file=sys.stderr)
            rows[number - 1] = measured(*layers[number - 1], seconds=given.seconds, threads=given.threads)
        if given.json:
            Path(given.json).write_text(json.dumps({"schema": SCHEMA, "layers": rows}, indent=1) + "\n")
    print("| layer | `auto` takes | the fastest | `auto` ÷ the fastest |\n|---|---|---|---|")
    for row in rows:
        layer, chosen, best, ratio = judged(row)
        print(f"| {layer} | {chosen} | {best} | {'dropped' if ratio is None else f'{ratio:.2f}'} |")


if __name__ == "__main__":
    try:
        main()
    except AaexportError as error:
        sys.exit(f"Error: {error}")
