"""One of several processes that train together, in the tests: trains a folder and leaves what it saw.

training_worker.py FOLDER OUT (as-it-is | independent | failing)
"""

import json
import sys
from pathlib import Path

import torch
from training_recipes import Recorder, build_independent

from aaexport.cli import main as cli_main
from aaexport.errors import DataError
from aaexport.training import learner, run, train
from aaexport.training.distributed import joined
from aaexport.weights.safetensors import weights_digest


def main(folder, out, how):
    torch.set_num_threads(1)
    if how == "failing":
        run.Run._look = fail_in_the_second_process
        sys.argv = ["aaexport", "train", folder]
        cli_main.main()
    if how == "independent":
        learner.build_network = run.build_network = build_independent
    digests = []
    finish = run.Run.finish
    run.Run.finish = lambda self: digests.append(weights_digest(self.learner.module)) or finish(self)
    watcher = Recorder()
    with joined("cpu") as processes:
        result = train(folder, device="cpu", watcher=watcher)
        seen = {
            "rank": processes.rank,
            "digest": digests[0],
            "losses": [epoch.loss for epoch in result.epochs],
            "accuracies": [epoch.test_accuracy for epoch in result.epochs],
            "processes": result.processes,
            "notes": result.notes,
            "batches": watcher.batches,
            "told": len(watcher.epochs),
        }
        Path(out, f"{processes.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def fail_in_the_second_process(self, tally, epoch):
    tally.look()
    if self.processes.rank == 1 and epoch == 2:
        raise DataError("image 7 must be readable")


if __name__ == "__main__":
    main(*sys.argv[1:])
