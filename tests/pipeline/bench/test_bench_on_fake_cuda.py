"""`aaexport serve-bench --device cuda` from end to end, on a GPU that computes nothing: only numbers are unreal."""

import json
import shutil

import pytest

pytestmark = pytest.mark.slow
SHORT = ("--device", "cuda", "--no-check", "--duration", "0.6", "--warmup", "0.05", "--settle", "0s", "--json")


@pytest.fixture
def bench(fake_cuda, converted, tmp_path):
    """Runs it → what the process did, and the JSON that it printed."""
    folder = shutil.copytree(converted.path, tmp_path / "model")

    def run(*options, **settings):
        command = ["-m", "aaexport", "-q", "serve-bench", folder, *SHORT, *options]
        ran = fake_cuda.run(command, tmp_path / "log", **settings)
        return ran, json.loads(ran.out) if ran.out else None

    return run


def of_the_model(value):
    """Reasons against a measurement that are not a busy machine's."""
    return [reason for reason in value["reasons"] if "of the CPU" not in reason]


def handles(ran):
    return {call: ran.count(call) for call in ("cublasCreate_v2", "cudnnCreate")}


def test_a_measurement_with_graphs_records_each_size_once_and_in_one_thread(bench):
    ran, value = bench("--cuda-graph", "--batch", "1,2,4")
    assert of_the_model(value) == []
    assert (value["unanswered"], value["settings"]) == (0, {"cuda_graph": True})
    assert [row["batch"] for row in value["throughput"]] == [1, 2, 4]
    captured = {event.thread for event in ran.events if event.call == "cudaStreamBeginCapture"}
    assert (len(captured), ran.count("cudaStreamBeginCapture")) == (1, 4)  # and one for the events
    assert ran.count("error") == 0
    assert handles(ran) == {"cublasCreate_v2": 2, "cudnnCreate": 2}
    assert ran.count("cudaGraphLaunch") > value["queries"]
    assert value["phases"]["gpu"] is not None


def test_two_workers_lose_none_of_5000_queries(bench):
    ran, value = bench("--scenario", "server", "--rate", "2000", "--duration", "2.5", "--workers", "2",
                       "--max-batch", "8", "--max-delay", "2ms", "--cuda-graph", "--compare", "none")  # fmt: skip
    assert value["queries"] > 4_500
    assert value["unanswered"] == 0
    assert value["settings"]["graph_sizes"] == [1, 2, 4, 8]
    assert ran.count("cudaStreamBeginCapture") == 2 * 4 + 1
    assert not [reason for reason in value["reasons"] if "failed" in reason or "answered, got no answer" in reason]
    assert ran.count("error") == 0


def test_batches_beyond_the_sizes_that_are_named_are_recorded_before_the_clock_starts(bench):
    ran, value = bench("--scenario", "server", "--rate", "300", "--max-batch", "6", "--cuda-graph",
                       "--graph-sizes", "1,4", "--compare", "none")  # fmt: skip
    assert value["unanswered"] == 0
    assert ran.count("cudaStreamBeginCapture") == len({1, 4, 5, 6}) + 1  # and one for the events
    assert ran.count("error") == 0


def test_without_graphs_phases_are_there_too_and_a_torch_without_cuda_is_a_note(bench):
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch finds a CUDA device")
    _, value = bench("--iobinding", "--batch", "1")
    assert of_the_model(value) == []
    assert value["phases"]["submit"] > 0
    (note,) = (note for note in value["notes"] if "eager" in note)
    assert note.startswith(
        "left out of the comparison, as it does not work here: eager: device must be one that works"
    )
    ran, value = bench("--compare", "eager", "--batch", "1")
    assert (ran.code, value) == (5, None)
    assert len(ran.err.splitlines()) == 1


def test_what_stays_on_the_device_is_measured_and_the_cache_written_over(bench):
    ran, value = bench("--resident", "--flush-l2", "--batch", "1")
    assert of_the_model(value) == []
    assert ran.count("cudaMemset") >= value["queries"]
    assert value["settings"] == {"resident": True, "flush_l2": True}
    assert not [warning for warning in value["warnings"] if warning.startswith("transfer-bound")]
    of_phases = 51 + 60  # and of what comes before the queries
    assert ran.count("cudaMemcpy", "kind 1") < of_phases + value["queries"] / 2


def test_locked_arrays_are_those_of_the_queries(bench):
    ran, value = bench("--pinned", "--batch", "1")
    assert of_the_model(value) == []
    assert ran.count("cudaMemcpy", "kind 2") >= value["queries"]
    copies = [event.details for event in ran.events if event.call == "cudaMemcpy" and "kind 2" in event.details]
    assert all(details.endswith("host pinned") for details in copies)
    assert ran.count("cudaHostRegister") < 10  # of buffers, and none of a query's own arrays


def test_a_sweep_ends_where_the_memory_does(bench):
    _, value = bench("--batch", "sweep", "--gpu-memory", "8MB", "--iobinding", "--compare", "none")
    sizes = [row["batch"] for row in value["throughput"]]
    assert sizes == [2**power for power in range(len(sizes))]
    (note,) = (note for note in value["notes"] if note.startswith("the sweep of batches ended"))
    assert f"ended before {2 * sizes[-1]:,}: " in note or f"ended at {sizes[-1]:,}" in note


@pytest.mark.parametrize(
    ("options", "settings", "code", "words"),
    [
        (("--device", "cuda:3"), {}, 5, "device must be one that is there, got 'cuda:3'"),
        ((), {"driver": 12080}, 5, "CUDA driver version is insufficient"),
        ((), {"fail": "kernel:700:1"}, 1, "an illegal memory access was encountered"),
        (("--gpu-memory", "1KB"), {}, 1, "is smaller than requested bytes"),
    ],
)
def test_what_goes_wrong_is_one_line_with_its_exit_code(bench, options, settings, code, words):
    ran, value = bench(*options, "--compare", "none", **settings)
    assert (ran.code, value) == (code, None)
    (line,) = ran.err.splitlines()
    assert line.startswith("Error: ")
    assert words in line
    assert "hostname" not in line
    assert "/onnxruntime" not in line
