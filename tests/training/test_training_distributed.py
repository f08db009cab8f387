import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from repository import HELPERS
from training_recipes import Recorder, build_independent, one_thread, write_plain_recipe, write_recipe

from aaexport.errors import ArgumentError, TrainingError
from aaexport.training import learner, run, train
from aaexport.training.distributed import Processes, joined
from aaexport.training.options import TrainOptions

WORKER = HELPERS / "training_worker.py"
TOO_LONG = 120  # seconds
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


def launch(*arguments):
    """Runs the worker in two processes, as torchrun would: their exit codes and what both wrote to stderr."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, arguments)],
            env=common | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        errors = [process.communicate(timeout=TOO_LONG)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "".join(errors)


def trained_by_two(out, how):
    codes, errors = launch(write_recipe(out / "by_two").path, out, how)
    assert codes == [0, 0], errors
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """What two processes saw that trained an ordinary tiny network together."""
    return trained_by_two(tmp_path_factory.mktemp("ordinary"), "as-it-is")


@pytest.fixture(scope="module")
def independent(tmp_path_factory):
    """The same of a network without batch normalization; and what one process sees."""
    out = tmp_path_factory.mktemp("independent")
    both = trained_by_two(out, "independent")
    watcher = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        for module in (learner, run):
            patch.setattr(module, "build_network", build_independent)
        result = train(write_recipe(out / "by_one"), device="cpu", watcher=watcher)
    return both, result, watcher


@pytest.mark.slow
def test_two_processes_come_to_the_losses_of_one(independent):
    (first, _), alone, _ = independent
    assert first["losses"] == pytest.approx([epoch.loss for epoch in alone.epochs], rel=1e-5)


@pytest.mark.slow
def test_two_processes_come_to_the_accuracy_of_one(independent):
    (first, _), alone, _ = independent
    assert first["accuracies"] == pytest.approx([epoch.test_accuracy for epoch in alone.epochs], abs=1 / 359)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(independent):
    (first, _), _, watcher = independent
    assert [tuple(batch) for batch in first["batches"]] == watcher.batches


@pytest.mark.slow
def test_with_batch_normalization_losses_differ_little_and_that_is_told(ordinary, tmp_path):
    alone = train(write_recipe(tmp_path), device="cpu")
    assert ordinary[0]["losses"] == pytest.approx([epoch.loss for epoch in alone.epochs], rel=0.02)
    assert "each of the 2 processes normalises by its own share of a batch" in ordinary[0]["notes"][0]


@pytest.mark.slow
def test_both_processes_end_with_the_same_weights_and_statistics(ordinary):
    assert ordinary[0]["digest"] == ordinary[1]["digest"]


@pytest.mark.slow
def test_both_processes_return_the_same_records(ordinary):
    assert ordinary[0]["losses"] == ordinary[1]["losses"]
    assert ordinary[0]["accuracies"] == ordinary[1]["accuracies"]


@pytest.mark.slow
def test_the_result_counts_the_processes(ordinary):
    assert [seen["processes"] for seen in ordinary] == [2, 2]


@pytest.mark.slow
def test_only_the_first_process_tells_its_watcher(ordinary):
    assert [seen["told"] for seen in ordinary] == [3, 0]


@pytest.mark.slow
def test_if_one_process_fails_both_end_and_one_line_says_why(tmp_path):
    codes, errors = launch(write_recipe(tmp_path / "failing").path, tmp_path, "failing")
    assert codes == [1, 1]
    assert [line for line in errors.splitlines() if line.startswith("Error")] == ["Error: image 7 must be readable"]


@pytest.mark.slow
def test_torchrun_trains_a_copy_that_the_first_process_makes(tmp_path):
    write_plain_recipe(tmp_path / "source", epochs="1", warmup_epochs="0")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "aaexport", "train"]
    outcome = subprocess.run(
        [sys.executable, *command, "source", "--out", "copy", "--device", "cpu"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TOO_LONG,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr.count("copied source to copy") == 1
    assert outcome.stdout.count("test accuracy") == 1
    assert outcome.stderr.count("wrote copy/train.html") == 1
    assert "cpu, float32, 2 processes" in (tmp_path / "copy" / "train.html").read_text(encoding="utf-8")
    assert (tmp_path / "copy" / "weights.safetensors").is_file()


# One process


def test_without_torchrun_there_is_one_process():
    with joined("cpu") as processes:
        assert (processes.rank, processes.count, processes.notes) == (0, 1, ())


def test_the_shares_of_three_processes_are_everything_once():
    shares = [Processes(CPU, rank, 3).share_of(torch.arange(10)) for rank in range(3)]
    assert torch.cat(shares).tolist() == list(range(10))


@pytest.mark.parametrize("value", ["two", "-1", ""])
def test_a_variable_of_torchrun_that_is_no_number_is_refused_by_name(monkeypatch, value):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(TrainingError, match="WORLD_SIZE must be a number, as torchrun sets it, got"), joined("cpu"):
        pass


def test_under_torchrun_no_single_gpu_can_be_asked_for(monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArgumentError, match="device must be cpu or cuda under torchrun"), joined("cuda:1"):
        pass


def test_more_processes_than_a_batch_has_images_are_refused(tmp_path):
    folder = write_recipe(tmp_path, batch_size="2")
    with pytest.raises(TrainingError, match="batch_size must be at least processes × --accumulate, 3 × 1, got 2"):
        run.Run(folder, TrainOptions(), Processes(CPU, 0, 3))
