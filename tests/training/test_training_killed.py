import signal
import subprocess
import sys

import pytest
import torch
from training_recipes import one_thread, weights, write_recipe

from aaexport.training import train

# Trains a folder and kills itself without a chance to clean up, at the moment that `die` is called in epoch 2.
KILLED = """
import os, signal, sys
import torch
from aaexport import writing
from aaexport.training import run, train
from aaexport.training.records import NobodyWatches

torch.set_num_threads(1)
path, moment = sys.argv[1:]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)

class Watcher(NobodyWatches):
    def batch(self, epoch, *_):
        if (epoch, moment) == (2, "within an epoch"):
            die()

def flush(own):
    def flush_or_die(temporary):
        state = len(torch.load(temporary, weights_only=True)["records"]) if ".checkpoint" in temporary.name else 0
        die() if state == 2 else own(temporary)
    return flush_or_die

def keep_best(own):
    return lambda self: die() if len(self.records) == 2 else own(self)

if moment == "while the checkpoint is written":
    writing.flush_to_disk = flush(writing.flush_to_disk)
if moment == "before the best weights are written":
    run.Run._keep_best = keep_best(run.Run._keep_best)
train(path, device="cpu", watcher=Watcher())
"""
MOMENTS = ("within an epoch", "while the checkpoint is written", "before the best weights are written")


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder trained without a break."""
    folder = write_recipe(tmp_path_factory.mktemp("whole"))
    train(folder, device="cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_training_that_was_killed_resumes_to_the_bits_of_an_unbroken_one(tmp_path, whole, moment):
    folder = write_recipe(tmp_path)
    code = subprocess.run([sys.executable, "-c", KILLED, folder.path, moment], timeout=120, check=False).returncode
    assert code == -signal.SIGKILL
    epochs_done = len(torch.load(folder.checkpoint_path, weights_only=True)["records"])
    assert epochs_done == (2 if moment.startswith("before") else 1)
    result = train(folder, device="cpu", resume=True)
    assert result.resumed
    assert weights(folder) == weights(whole)
    assert folder.best_path.read_bytes() == whole.best_path.read_bytes()
