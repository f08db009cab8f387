"""Bound buffers: the same answers as without, in place, for several shapes; and where the time of a query goes."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_files import convolution, serialized

from aaexport.errors import RunnerError
from aaexport.load.measurement import Phases
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_phases import measure_phases
from aaexport.runners.ort_settings import EXACT, SessionSettings

BOUND = SessionSettings(iobinding=True)


@pytest.fixture
def model(rng):
    return convolution(rng)


def feeds_of(rng, batch):
    return {"x": rng.standard_normal((batch, 8, 12, 12), dtype=np.float32)}


def two_outputs():
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("ArgMax", ["sum"], ["best"], axis=0)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("a", "b", "sum")]
    return serialized(nodes, ends[:2], [ends[2], helper.make_tensor_value_info("best", TensorProto.INT64, [1])])


def test_bound_buffers_answer_as_arrays_do_for_every_shape(model, rng):
    with OrtRunner(model) as runner:
        for batch in (1, 3, 2):
            feeds = feeds_of(rng, batch)
            np.testing.assert_array_equal(
                runner.bound(feeds).infer(feeds)["y"], runner.infer(feeds)["y"], strict=True
            )


def test_inputs_are_replaced_in_place(model, rng):
    with OrtRunner(model) as runner:
        first, second = feeds_of(rng, 2), feeds_of(rng, 2)
        bound = runner.bound(first)
        bound.copy_in(second)
        bound.run()
        np.testing.assert_array_equal(bound.copy_out()["y"], runner.infer(second)["y"])


def test_the_callers_arrays_are_neither_kept_nor_changed(model, rng):
    """An input that were kept would change the answer; an output that were kept would be changed by the next."""
    with OrtRunner(model) as runner:
        feeds, others = feeds_of(rng, 1), feeds_of(rng, 1)
        expected = runner.infer(feeds)["y"]
        bound = runner.bound(feeds)
        feeds["x"][:] = 0
        bound.run()
        answer = bound.copy_out()["y"]
        bound.infer(others)
        np.testing.assert_array_equal(answer, expected)


def test_a_view_that_is_not_contiguous_is_copied_as_what_it_shows(model, rng):
    with OrtRunner(model) as runner:
        feeds = {"x": feeds_of(rng, 2)["x"].transpose(0, 1, 3, 2)}
        assert not feeds["x"].flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(runner.bound(feeds).infer(feeds)["y"], runner.infer(feeds)["y"])


def test_several_inputs_and_outputs_of_several_types_are_bound_by_name():
    a, b = np.array([1, 2, 3, 4], np.float32), np.array([0, 9, 0, 0], np.float32)
    with OrtRunner(two_outputs()) as runner:
        answer = runner.bound({"b": b, "a": a}).infer({"a": a, "b": b})
    np.testing.assert_array_equal(answer["sum"], a + b, strict=True)
    np.testing.assert_array_equal(answer["best"], np.array([1]), strict=True)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (np.zeros((2, 8, 12, 12), np.float32), "float32 of shape (2, 8, 12, 12)"),
        (np.zeros((1, 12, 8, 12), np.float32), "float32 of shape (1, 12, 8, 12)"),
        (np.zeros((1, 8, 12, 12), np.float64), "float64 of shape (1, 8, 12, 12)"),
        (None, "nothing"),
    ],
    ids=["batch", "axes", "type", "missing"],
)
def test_what_was_bound_otherwise_is_refused(model, rng, x, got):
    """onnxruntime itself would take some of these and compute from the wrong bytes."""
    with OrtRunner(model) as runner, pytest.raises(RunnerError) as caught:
        runner.bound(feeds_of(rng, 1)).copy_in({} if x is None else {"x": x})
    assert str(caught.value) == f"x must be fed as it was bound, float32 of shape (1, 8, 12, 12), got {got!r}"


def test_a_runner_that_serves_with_iobinding_keeps_buffers_for_every_shape(model, rng, monkeypatch):
    allocations = []
    with OrtRunner(model, BOUND) as runner, runner.serving() as serving:
        bound = runner.bound
        monkeypatch.setattr(runner, "bound", lambda feeds: allocations.append(feeds["x"].shape[0]) or bound(feeds))
        assert (serving.label, serving.inputs) == (runner.label, runner.inputs)
        for batch in (1, 2, 1, 2, 1):
            feeds = feeds_of(rng, batch)
            np.testing.assert_array_equal(serving.infer(feeds)["y"], runner.infer(feeds)["y"])
    assert allocations == [1, 2]


def test_a_runner_that_serves_without_iobinding_is_itself(model):
    with OrtRunner(model) as runner:
        assert runner.serving() is runner


def test_feeds_that_do_not_fit_are_refused_by_bound_runners_too(model):
    with OrtRunner(model, BOUND).serving() as serving, pytest.raises(RunnerError, match="cannot run the model"):
        serving.infer({"x": np.zeros((1, 9, 12, 12), np.float32)})


# Phases


MILLISECONDS = {"copy_in": 1, "run": 7, "copy_out": 3, "submit": 2, "wait": 5}


class Clockwork:
    """A bound run whose parts take known times by a clock of its own."""

    def __init__(self):
        self.now = 0
        self.calls = []

    def __getattr__(self, name):
        def spend(*_):
            self.calls.append(name)
            self.now += MILLISECONDS[name] * 1_000_000

        return spend

    def infer(self, feeds):
        self.calls.append("infer")
        self.now += 1_000_000_000


def test_every_phase_is_timed_apart_and_the_first_query_not_at_all():
    clockwork = Clockwork()
    times = measure_phases(clockwork, {}, 4, clock=lambda: clockwork.now)
    assert Phases(**times.medians()) == Phases(to_device=1, submit=2, compute=7, to_host=3)
    assert len(times.submit) == 4


def test_what_was_submitted_is_waited_for_before_the_next_query():
    clockwork = Clockwork()
    measure_phases(clockwork, {}, 2, clock=lambda: clockwork.now)
    assert clockwork.calls == ["infer", *["copy_in", "run", "copy_out", "submit", "wait"] * 2]


def test_what_is_done_between_two_runs_is_in_no_part():
    clockwork = Clockwork()

    def between():
        clockwork.calls.append("between")
        clockwork.now += 100_000_000

    times = measure_phases(clockwork, {}, 2, clock=lambda: clockwork.now, between=between)
    assert Phases(**times.medians()) == Phases(to_device=1, submit=2, compute=7, to_host=3)
    one = ["between", "copy_in", "run", "copy_out", "between", "submit", "wait"]
    assert clockwork.calls == ["infer", *one * 2]


def test_the_cpu_has_no_phases(model, rng):
    with OrtRunner(model) as runner:
        assert runner.phases(feeds_of(rng, 1), 1) is None


# On CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("graph", [False, True], ids=["kernel by kernel", "CUDA graph"])
def test_bound_buffers_answer_on_cuda_as_arrays_do(cuda, model, rng, graph):
    settings = SessionSettings(iobinding=True, cuda_graph=graph, tf32=False)
    with OrtRunner(model, settings, device=cuda) as runner, runner.serving() as serving:
        for batch in (1, 2, 1, 2):
            feeds = feeds_of(rng, batch)
            np.testing.assert_allclose(serving.infer(feeds)["y"], runner.infer(feeds)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.cuda
def test_phases_on_cuda_are_all_there(cuda, model, rng):
    with OrtRunner(model, EXACT, device=cuda) as runner:
        assert all(value > 0 for value in runner.phases(feeds_of(rng, 4), 10).medians().values())


@pytest.mark.cuda
@pytest.mark.parametrize(
    "options",
    [
        {"nhwc": True},
        {"cudnn_search": "HEURISTIC"},
        {"gpu_memory": 2**28},
        {"copy_streams": True},
        {"one_stream": True},
    ],
    ids=str,
)
def test_cuda_takes_every_option_and_answers_the_same(cuda, model, rng, options):
    feeds = feeds_of(rng, 2)
    with OrtRunner(model) as on_cpu, OrtRunner(model, SessionSettings(tf32=False, **options), device=cuda) as runner:
        np.testing.assert_allclose(runner.infer(feeds)["y"], on_cpu.infer(feeds)["y"], rtol=1e-4, atol=1e-4)
