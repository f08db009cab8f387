"""Worker processes on real files: what they answer, how they end, and what serve-bench makes of them."""

import signal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aaexport.errors import ArgumentError, GraphError, MeasurementError, ProviderError, RunnerError
from aaexport.folder import sha256
from aaexport.load.batching import BatchingServer
from aaexport.load.engine import LoadGenerator
from aaexport.load.measurement import Load
from aaexport.load.plan import Plan
from aaexport.load.run import Trouble
from aaexport.load.single_stream import BlockPlan
from aaexport.load.validity import MIN_QUERIES
from aaexport.pipeline.bench.answer_check import THE_FILES_OWN
from aaexport.pipeline.bench.contender import Answers, Contender, RunInterrupted
from aaexport.pipeline.bench.feeding import Feeder
from aaexport.pipeline.bench.orders import BLOCKS
from aaexport.pipeline.bench.run_order import RunOrder
from aaexport.pipeline.bench.serve_bench import serve_bench
from aaexport.pipeline.bench.under_load import worker
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.report.bench.as_json import BENCH_SCHEMA, bench_json
from aaexport.runners.ort import OrtRunner, best_device
from aaexport.runners.ort_settings import SessionSettings

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


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (4, 1), (4, 4), (4, 3), (6, 6)])
def test_a_worker_answers_for_the_first_samples_and_begins_again(doubling, samples, tmp_path, count, batch):
    assert doubling.answers(tmp_path / "answers.npz", count, batch) == Answers(count, finite=True)
    np.testing.assert_array_equal(np.load(tmp_path / "answers.npz")["y"], 2 * samples[np.arange(count) % 4])


def test_a_worker_says_that_its_answer_is_not_finite(room, tmp_path):
    with Contender(spec(room, write_logarithm(room / "logarithm.onnx"))) as contender:
        assert not contender.answers(tmp_path / "answers.npz", 4, 4).finite


def test_an_output_without_an_entry_for_each_sample_is_left_out_and_told(room, tmp_path):
    total = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    with Contender(spec(room, write(room / "total.onnx", [total], output=value("y", ())))) as contender:
        assert contender.answers(tmp_path / "answers.npz", 4, 2) == Answers(4, finite=True, left_out=("y",))


# Runs of scenarios

LOADS = {
    "single-stream": (Load("single-stream"), {}),
    "multi-stream": (Load("multi-stream", samples_per_query=3), {}),
    "clients": (Load("single-stream", max_batch=4), {"clients": 3, "shares_batches": True}),
    "offline": (Load("offline", max_batch=3), {"total_samples": 50, "shares_batches": True}),
    "server": (Load("server", rate=500, arrivals="poisson", max_batch=4), {"shares_batches": True}),
    "constant": (Load("server", rate=500, arrivals="constant", max_batch=1), {"shares_batches": True}),
}


@pytest.mark.parametrize(("load", "more"), LOADS.values(), ids=LOADS)
def test_every_scenario_is_run_and_its_answers_are_right(doubling, tmp_path, load, more):
    doubling.answers(tmp_path / "expected.npz", 4, 1)
    doubling.expect(tmp_path / "expected.npz")
    served = doubling.run(RunOrder(load, duration=0.1, warmup=0.0, min_queries=20, max_duration=5, **more))
    assert (served.trouble, served.aborted) == (Trouble(), None)
    assert served.log.answered.all()
    assert served.log.samples.sum() >= 20
    assert served.checked > 0
    assert (served.wrong, served.largest_error) == (0, 0.0)


@pytest.mark.parametrize(("load", "more"), LOADS.values(), ids=LOADS)
def test_answers_that_are_not_the_expected_ones_are_counted(doubling, tmp_path, load, more):
    doubling.answers(tmp_path / "expected.npz", 4, 1)
    expected = np.load(tmp_path / "expected.npz")["y"]
    np.savez(tmp_path / "shifted.npz", y=np.roll(expected, 1, axis=0))
    doubling.expect(tmp_path / "shifted.npz")
    served = doubling.run(RunOrder(load, duration=0.05, warmup=0.0, min_queries=20, max_duration=5, **more))
    assert served.wrong == served.checked > 0


def test_a_file_with_a_fixed_batch_answers_every_query_of_a_server(fixed, tmp_path):
    with Contender(fixed) as contender:
        contender.answers(tmp_path / "expected.npz", 4, 3)
        contender.expect(tmp_path / "expected.npz")
        load = Load("server", rate=300, arrivals="poisson", max_batch=3)
        served = contender.run(RunOrder(load, duration=0.1, warmup=0.0, min_queries=20, shares_batches=True))
    assert served.log.answered.all()
    assert served.checked > 0
    assert served.wrong == 0


def test_a_trace_is_replayed(doubling, tmp_path):
    (tmp_path / "trace").write_text("0\n0.01\n0.05\n")
    order = RunOrder(Load("server", max_batch=1), 1.0, 0.0, trace=str(tmp_path / "trace"), shares_batches=True)
    assert doubling.run(order).log.scheduled.tolist() == [0, 10_000_000, 50_000_000]


def test_a_run_tells_how_far_it_is(doubling):
    told = []
    doubling.run(RunOrder(Load("single-stream"), duration=0.8, warmup=0.0), told.append)
    assert told
    assert told[-1]["queries"] > 0
    assert told[-1]["p50"] > 0


def test_an_interrupted_run_leaves_what_it_measured(doubling):
    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(RunInterrupted) as caught:
        doubling.run(RunOrder(Load("single-stream"), duration=30.0, warmup=0.0), interrupt)
    served = caught.value.served
    assert served.aborted == "interrupted"
    assert len(served.log) > 0
    assert doubling.first_query(1) > 0  # and can be asked on


@pytest.mark.parametrize("batch", [1, 3, 6])
def test_a_block_has_its_least_number_of_latencies(doubling, batch):
    assert len(doubling.block(batch, PLAN)) >= PLAN.min_queries


def test_latencies_are_above_zero(doubling):
    assert (doubling.block(1, PLAN) > 0).all()


def test_ten_thousand_queries_through_sessions_that_share_batches_get_their_own_answers(room, samples):
    """Of real sessions, each answer checked: none lost, doubled or given to another query."""
    path = write_doubling(room / "doubling.onnx")
    runners = [OrtRunner(path, SessionSettings(threads=1)) for _ in range(2)]
    feeder = Feeder(room / "samples.npy", runners[0].inputs, batched=True)
    with BatchingServer([worker(runner, feeder) for runner in runners], max_batch=16) as server:
        plan = Plan(duration=0.01, min_queries=10_000, max_queries=10_000, keep=10_000)
        run = LoadGenerator(server, len(samples), plan).closed_loop(concurrency=500)
    assert (run.trouble, run.aborted) == (Trouble(), None)
    assert len(run.kept) == len(run.log) == 10_000
    for asked, (answer,) in run.kept:
        np.testing.assert_array_equal(answer["y"], 2 * samples[asked[0]])


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_becomes_of_a_worker_is_its_parents_to_say(fixed, sent):
    with Contender(fixed) as contender:
        contender._process.send_signal(getattr(signal, sent))
        assert len(contender.block(3, PLAN)) >= PLAN.min_queries


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
    assert (report.label, report.provider) == ("onnxruntime CPU", "CPUExecutionProvider")
    assert (report.load.scenario, report.load.samples_per_query) == ("single-stream", 1)


def test_a_measurement_names_its_file(measured):
    path, report, _ = measured
    assert (report.model, report.onnx_sha256) == ("convolutions.onnx", sha256(path))


def test_a_bare_file_is_compared_with_nothing_and_checked_against_itself(report):
    assert report.comparisons == ()
    assert report.check.against == THE_FILES_OWN
    assert report.check.wrong == 0


def test_progress_rises_from_0_and_stays_below_1(measured):
    shares = [share for _, share in measured[2]]
    assert (shares[0], shares) == (0, sorted(shares))
    assert shares[-1] < 1


def test_the_json_of_a_measurement_names_its_schema_and_unit(report):
    found = bench_json(report, raw=False)
    assert (found["schema"], found["valid"]) == (BENCH_SCHEMA, True)


def test_a_file_that_answers_nan_is_not_measured_validly(tmp_path):
    report = bench(write_logarithm(tmp_path / "logarithm.onnx"))
    assert any("must be finite, got NaN or infinity" in reason for reason in report.reasons)


def test_a_file_that_fixes_its_batch_is_measured_at_that_one_only(tmp_path):
    report = bench(write_doubling(tmp_path / "fixed.onnx", FIXED))
    assert (report.load.samples_per_query, [entry.batch for entry in report.throughput]) == (3, [3])


WRONG = {
    "scenario": (
        {"scenario": "burst"},
        "scenario must be one of single-stream, multi-stream, offline, server, got 'burst'",
    ),
    "device": ({"device": "tpu"}, "device must be cpu, cuda or cuda:N, got 'tpu'"),
    "no duration": ({"duration": 0}, "duration must be above 0 and at most 86,400 seconds, got 0"),
    "no end": ({"duration": 1e300}, "duration must be above 0 and at most 86,400 seconds, got 1e+300"),
    "no number": ({"duration": float("nan")}, "duration must be above 0 and at most 86,400 seconds, got nan"),
    "warm-up": ({"warmup": -1}, "warmup must be between 0 and 86,400 seconds, got -1"),
    "no batch": ({"batches": ()}, "batches must be one or more numbers ≥ 1, got ()"),
    "empty batch": ({"batches": (1, 0)}, "batches must be one or more numbers ≥ 1, got (1, 0)"),
    "threads": ({"threads": 0}, "threads must be at least 1, got 0"),
}


@pytest.mark.parametrize(("options", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_refused_by_name_rule_and_value(tmp_path, options, text):
    with pytest.raises(ArgumentError) as caught:
        serve_bench(tmp_path / "unread.onnx", **{"device": "cpu", **options})
    assert str(caught.value) == text


def add(*names):
    return [helper.make_node("Add", list(names), ["y"])]


INT64 = TensorProto.INT64
ANYTHING = {
    "two inputs": (add("x", "z"), [X, value("z")], Y),
    "whole numbers": (add("x", "x"), [value("x", element=INT64)], value("y", element=INT64)),
    "any size": (add("x", "x"), [value("x", ("batch", 1, "h", "w"))], value("y", ("batch", 1, "h", "w"))),
    "a scalar": (add("x", "x"), [value("x", ())], value("y", ())),
    "no common batch": (add("x", "z"), [value("x", (5, 4)), value("z", (4,))], value("y", (5, 4))),
}


@pytest.mark.slow
@pytest.mark.parametrize("parts", ANYTHING.values(), ids=ANYTHING)
def test_a_file_that_takes_no_images_is_measured_with_what_fits_its_inputs(tmp_path, parts):
    report = bench(write(tmp_path / "model.onnx", *parts), duration=0.1, batches=None)
    assert report.reasons == ()
    assert report.check.checked > 0
    assert report.check.wrong == 0


def test_answers_that_cannot_be_told_apart_are_not_called_checked(tmp_path):
    total = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    report = bench(write(tmp_path / "model.onnx", [total], output=value("y", ())), duration=0.1)
    assert report.check is None
    assert "answers were not compared: no output has an entry for each sample" in report.notes


def test_answers_that_hardly_differ_are_said_to_hide_a_swap(tmp_path):
    zero = helper.make_node("Mul", ["x", "zero"], ["y"])
    nothing = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    report = bench(write(tmp_path / "model.onnx", [zero], initializers=[nothing]), duration=0.1)
    assert any("hardly differ between samples" in note for note in report.notes)


def test_what_was_taken_for_an_open_dimension_is_said_and_can_be_set(tmp_path):
    shape = ("batch", 1, "h", "w")
    path = write(tmp_path / "model.onnx", add("x", "x"), [value("x", shape)], value("y", shape))
    note = "the open dimension h was taken as 224; set it with --dim h=N"
    assert note in bench(path, duration=0.1, batches=(1,)).notes
    assert note not in bench(path, duration=0.1, batches=(1,), dims={"h": 8, "w": 8}).notes


@pytest.mark.parametrize(
    ("dims", "text"),
    [
        ({"hh": 3}, "dim must name a dimension that the file leaves open, got 'hh'; known: batch"),
        ({"batch": 0}, "dim batch must be at least 1, got 0"),
    ],
)
def test_wrong_dimensions_are_refused(tmp_path, dims, text):
    with pytest.raises(ArgumentError) as caught:
        bench(write_doubling(tmp_path / "model.onnx"), dims=dims)
    assert str(caught.value) == text


def test_a_file_without_inputs_is_refused(tmp_path):
    parts = [helper.make_node("Constant", [], ["y"], value_floats=[1.0])], [], value("y", [1])
    with pytest.raises(ArgumentError, match="the file must have an input, got 'none'"):
        bench(write(tmp_path / "model.onnx", *parts))


def test_a_file_that_onnxruntime_cannot_load_is_refused(tmp_path):
    with pytest.raises(RunnerError, match="onnxruntime cannot load the model"):
        bench(write_foreign(tmp_path / "foreign.onnx"))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(GraphError, match="must be a whole ONNX file"):
        bench(tmp_path / "text.onnx")
