"""Worker processes on real files: what they answer, how they end, and what serve-bench makes of them."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aaexport.errors import ArgumentError, GraphError, MeasurementError, ProviderError, RunnerError
from aaexport.folder import sha256
from aaexport.load.single_stream import BlockPlan
from aaexport.load.validity import MIN_QUERIES
from aaexport.pipeline.worker_models import WorkerSpec
from aaexport.pipeline.contender import Contender
from aaexport.pipeline.serve_bench import BLOCKS, serve_bench
from aaexport.report.machine import bench_json
from aaexport.runners.ort import best_device

IMAGE = (1, 4, 4)
DYNAMIC, FIXED = ("batch", *IMAGE), (3, *IMAGE)
PLAN = BlockPlan(warmup=0, duration=0.001, min_queries=20, max_duration=10)


def value(name, shape=DYNAMIC, element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


X, Y = value("x"), value("y")


def write(path, nodes, inputs=(X,), output=Y, initializers=()):
    graph = helper.make_graph(nodes, "test", inputs, [output], initializers)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def write_doubling(path, shape=DYNAMIC):
    return write(path, [helper.make_node("Add", ["x", "x"], ["y"])], [value("x", shape)], value("y", shape))


def write_logarithm(path):
    return write(path, [helper.make_node("Log", ["x"], ["y"])])


def write_foreign(path):
    return write(path, [helper.make_node("Fused", ["x"], ["y"], domain="com.acme")])


def write_convolutions(path):
    """Two convolutions: enough work that a query is longer than the loop around it."""
    rng = np.random.default_rng(0)
    shapes = {"first": (64, 1, 3, 3), "second": (64, 64, 3, 3)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), name) for name, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "second"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return write(path, nodes, output=value("y", ("batch", 64, 4, 4)), initializers=weights)


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).standard_normal((4, *IMAGE), dtype=np.float32)


@pytest.fixture(scope="module")
def room(tmp_path_factory, samples):
    """A folder with samples.npy."""
    room = tmp_path_factory.mktemp("worker")
    np.save(room / "samples.npy", samples)
    return room


def spec(room, model, device="cpu", samples="samples.npy"):
    return WorkerSpec("onnxruntime", str(model), str(room / samples), device, threads=1)


@pytest.fixture(scope="module")
def doubling(room):
    """One worker for every test that only asks it."""
    with Contender(spec(room, write_doubling(room / "doubling.onnx"))) as contender:
        yield contender


@pytest.fixture
def fixed(room):
    return spec(room, write_doubling(room / "fixed.onnx", FIXED))


# What a worker answers


def test_a_worker_says_what_it_is(doubling):
    assert (doubling.label, doubling.provider) == ("onnxruntime CPU", "CPUExecutionProvider")


def test_a_dynamic_batch_is_no_fixed_one(doubling):
    assert doubling.fixed_batch is None


def test_a_worker_says_which_batch_its_file_fixes(fixed):
    with Contender(fixed) as contender:
        assert contender.fixed_batch == 3


@pytest.mark.parametrize("batch", [1, 4])
def test_a_worker_answers_for_the_first_samples(doubling, samples, batch):
    answer, finite = doubling.answer(batch)
    np.testing.assert_array_equal(answer, 2 * samples[:batch])
    assert finite


def test_a_batch_larger_than_the_samples_begins_again(doubling, samples):
    answer, _ = doubling.answer(6)
    np.testing.assert_array_equal(answer, 2 * samples[[0, 1, 2, 3, 0, 1]])


def test_a_worker_says_that_its_answer_is_not_finite(room):
    with Contender(spec(room, write_logarithm(room / "logarithm.onnx"))) as contender:
        _, finite = contender.answer(4)
    assert not finite


@pytest.mark.parametrize("batch", [1, 3, 6])
def test_a_block_has_its_least_number_of_latencies(doubling, batch):
    assert len(doubling.block(batch, PLAN)) >= PLAN.min_queries


def test_latencies_are_above_zero(doubling):
    assert (doubling.block(1, PLAN) > 0).all()


# How a worker ends


def test_a_file_that_cannot_be_loaded_is_the_workers_own_error(room):
    with pytest.raises(RunnerError, match=r"^onnxruntime cannot load the model: .*Fused"):
        Contender(spec(room, write_foreign(room / "foreign.onnx"))).__enter__()


def test_a_worker_that_could_not_start_is_gone(room):
    contender = Contender(spec(room, room / "nothing.onnx"))
    with pytest.raises(RunnerError):
        contender.__enter__()
    assert contender._process.poll() is not None


def test_a_provider_that_does_not_work_is_the_workers_own_error(room, doubling):
    if best_device() == "cuda":
        pytest.skip("CUDA works here")
    with pytest.raises(ProviderError, match=r"or use --device cpu$"):
        Contender(spec(room, room / "doubling.onnx", device="cuda")).__enter__()


def test_a_batch_that_the_file_refuses_is_the_workers_own_error(fixed):
    with pytest.raises(RunnerError, match=r"^onnxruntime cannot run the model: "), Contender(fixed) as contender:
        contender.block(2, PLAN)


def test_a_worker_that_was_killed_is_a_measurement_error(fixed):
    with pytest.raises(MeasurementError) as caught, Contender(fixed) as contender:
        contender._process.kill()
        contender._process.wait()
        contender.block(3, PLAN)
    assert str(caught.value) == "the onnxruntime process ended without an answer: exit code -9"


def test_a_worker_that_fell_over_leaves_its_last_words(room, doubling):
    with pytest.raises(MeasurementError, match=r"ended without an answer: FileNotFoundError: .*nothing\.npy"):
        Contender(spec(room, room / "doubling.onnx", samples="nothing.npy")).__enter__()


def test_a_worker_that_does_not_answer_is_given_up(fixed):
    with pytest.raises(MeasurementError, match="the onnxruntime process"), Contender(fixed) as contender:
        contender._receive(timeout=0.2)


def test_leaving_the_block_ends_the_worker_in_peace(fixed):
    with Contender(fixed) as contender:
        process = contender._process
    assert process.poll() == 0


def test_leaving_the_block_by_an_error_ends_the_worker(fixed):
    with pytest.raises(ZeroDivisionError), Contender(fixed) as contender:
        raise ZeroDivisionError
    assert contender._process.poll() is not None


# serve_bench


def bench(path, duration=0.3, warmup=0.0, batches=(1, 2), **options):
    """A short run; on the CPU, wherever the tests run."""
    return serve_bench(path, device="cpu", duration=duration, warmup=warmup, batches=batches, **options)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(path, report, ticks) of one measurement."""
    path = write_convolutions(tmp_path_factory.mktemp("bench") / "convolutions.onnx")
    ticks = []
    return path, bench(path, tick=lambda step, share: ticks.append((step, share))), ticks


@pytest.fixture
def report(measured):
    return measured[1]


def test_a_file_that_answers_is_measured_validly(report):
    assert (report.valid, report.reasons) == (True, ())


def test_a_measurement_holds_as_many_queries_as_p90_needs(report):
    assert len(report.latencies) >= MIN_QUERIES


def test_a_measurement_is_made_of_alternating_blocks(report):
    assert len(report.blocks) == BLOCKS


def test_throughput_is_measured_at_every_batch(report):
    assert [entry.batch for entry in report.throughput] == [1, 2]


def test_a_measurement_says_what_ran(report):
    assert (report.label, report.provider, report.batch) == ("onnxruntime CPU", "CPUExecutionProvider", 1)


def test_a_measurement_names_its_file(measured):
    path, report, _ = measured
    assert (report.model, report.onnx_sha256) == ("convolutions.onnx", sha256(path))


def test_a_measurement_says_that_there_was_nothing_to_compare_with(report):
    assert "no PyTorch weights beside the file: eager was not measured" in report.warnings


def test_progress_rises_from_0_and_stays_below_1(measured):
    shares = [share for _, share in measured[2]]
    assert (shares[0], shares) == (0, sorted(shares))
    assert shares[-1] < 1


def test_the_json_of_a_measurement_names_its_schema_and_unit(report):
    found = bench_json(report, raw=False)
    assert (found["schema"], found["unit"], found["valid"]) == ("aaexport.bench/2", "ms", True)


def test_the_json_of_a_measurement_has_its_median(report):
    assert bench_json(report, raw=False)["p50"] > 0


def test_the_json_of_a_measurement_is_json(report):
    assert json.loads(json.dumps(bench_json(report, raw=True), allow_nan=False))["queries"] == len(report.latencies)


def test_the_raw_json_of_a_measurement_holds_every_latency(report):
    blocks = bench_json(report, raw=True)["blocks_ms"]
    np.testing.assert_allclose(np.concatenate(blocks), report.latencies, rtol=0, atol=1e-6)


def test_a_file_that_answers_nan_is_not_measured_validly(tmp_path):
    report = bench(write_logarithm(tmp_path / "logarithm.onnx"))
    assert "onnxruntime CPU answers NaN or infinity; look at `aaexport verify`" in report.reasons


def test_a_file_that_fixes_its_batch_is_measured_at_that_one_only(tmp_path):
    report = bench(write_doubling(tmp_path / "fixed.onnx", FIXED))
    assert (report.batch, [entry.batch for entry in report.throughput]) == (3, [3])


WRONG = {
    "scenario": ({"scenario": "server"}, "scenario must be one of single-stream, got 'server'"),
    "device": ({"device": "tpu"}, "device must be cpu, cuda or cuda:N, got 'tpu'"),
    "no duration": ({"duration": 0}, "duration must be above 0 seconds, got 0"),
    "no end": ({"duration": float("inf")}, "duration must be above 0 seconds, got inf"),
    "no number": ({"duration": float("nan")}, "duration must be above 0 seconds, got nan"),
    "warm-up": ({"warmup": -1}, "warmup must be at least 0 seconds, got -1"),
    "no batch": ({"batches": ()}, "batch must be one or more numbers ≥ 1, got ()"),
    "empty batch": ({"batches": (1, 0)}, "batch must be one or more numbers ≥ 1, got (1, 0)"),
    "threads": ({"threads": 0}, "threads must be at least 1, got 0"),
}


@pytest.mark.parametrize(("options", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_refused_by_name_rule_and_value(tmp_path, options, text):
    with pytest.raises(ArgumentError) as caught:
        serve_bench(tmp_path / "unread.onnx", **{"device": "cpu", **options})
    assert str(caught.value) == text


def add(*names):
    return [helper.make_node("Add", list(names), ["y"])]


UNFIT = {
    "two inputs": (add("x", "z"), [X, value("z")], Y),
    "no input": ([helper.make_node("Constant", [], ["y"], value_floats=[1.0])], [], value("y", [1])),
    "whole numbers": (
        add("x", "x"),
        [value("x", element=TensorProto.INT64)],
        value("y", element=TensorProto.INT64),
    ),
    "any size": (add("x", "x"), [value("x", ("batch", 1, "h", "w"))], value("y", ("batch", 1, "h", "w"))),
    "a scalar": (add("x", "x"), [value("x", ())], value("y", ())),
}


@pytest.mark.parametrize("parts", UNFIT.values(), ids=UNFIT)
def test_a_file_that_takes_no_images_is_refused(tmp_path, parts):
    with pytest.raises(ArgumentError, match=r"^the file"):
        bench(write(tmp_path / "model.onnx", *parts))


def test_a_file_that_onnxruntime_cannot_load_is_refused(tmp_path):
    with pytest.raises(RunnerError, match="onnxruntime cannot load the model"):
        bench(write_foreign(tmp_path / "foreign.onnx"))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(GraphError, match="must be a whole ONNX file"):
        bench(tmp_path / "text.onnx")
