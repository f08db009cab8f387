"""Bound buffers for queries of any size: filled up to a few sizes, recorded alone, and left where they lie."""

import threading
import time

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_files import convolution, serialized

from aaexport.errors import RunnerError
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_binding import BoundRun
from aaexport.runners.ort_serving import BoundRunner, CaptureGate
from aaexport.runners.ort_settings import SessionSettings

SIZES = SessionSettings(cuda_graph=True, graph_sizes=(2, 4))


@pytest.fixture
def runner(rng):
    with OrtRunner(convolution(rng)) as runner:
        yield runner


def feeds_of(rng, batch):
    return {"x": rng.standard_normal((batch, 8, 12, 12), dtype=np.float32)}


def watched(runner, monkeypatch):
    """The sizes for which buffers are made."""
    sizes, bound = [], runner.bound
    monkeypatch.setattr(runner, "bound", lambda feeds: sizes.append(len(feeds["x"])) or bound(feeds))
    return sizes


def test_a_batch_is_filled_up_to_the_next_size_and_answers_as_by_itself(runner, rng, monkeypatch):
    sizes = watched(runner, monkeypatch)
    serving = BoundRunner(runner, SIZES)
    for batch in (1, 3, 2, 4, 1, 5):
        feeds = feeds_of(rng, batch)
        np.testing.assert_allclose(serving.infer(feeds)["y"], runner.infer(feeds)["y"], rtol=1e-5, atol=1e-6)
    assert sizes == [2, 4, 5]  # what is larger than all has buffers of its own


def test_without_sizes_each_has_buffers_of_its_own(runner, rng, monkeypatch):
    sizes = watched(runner, monkeypatch)
    serving = BoundRunner(runner, SessionSettings(cuda_graph=True))
    for batch in (1, 3, 1):
        serving.infer(feeds_of(rng, batch))
    assert sizes == [1, 3]


def test_a_file_whose_answers_are_not_of_its_images_is_not_filled_up():
    total = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    with OrtRunner(serialized([total], [x], [y])) as runner:
        assert not runner.pads
        assert BoundRunner(runner, SIZES).infer({"x": np.ones((3, 2), np.float32)})["y"] == 6


def test_what_stays_on_the_device_is_copied_when_it_is_another_and_answered_when_it_is_looked_at(runner, rng):
    serving = BoundRunner(runner, SessionSettings(resident=True))
    first, second = feeds_of(rng, 2), feeds_of(rng, 2)
    for feeds in (first, first, second, first):
        np.testing.assert_array_equal(serving.query(feeds)["y"], runner.infer(feeds)["y"])
    kept = serving.query(first)
    first["x"][:] = 0  # nobody looks at the host's array any more
    np.testing.assert_array_equal(serving.query(first)["y"], kept["y"])
    assert (list(kept), len(kept)) == (["y"], 1)


def test_what_stays_on_the_device_is_filled_up_and_only_the_answers_asked_for_come(runner, rng, monkeypatch):
    sizes = watched(runner, monkeypatch)
    serving = BoundRunner(runner, SessionSettings(cuda_graph=True, graph_sizes=(2, 4), resident=True))
    first, second = feeds_of(rng, 3), feeds_of(rng, 4)
    for feeds in (first, first, second, first):
        np.testing.assert_allclose(serving.query(feeds)["y"], runner.infer(feeds)["y"], rtol=1e-5, atol=1e-6)
    assert sizes == [4]


def test_what_lies_there_is_no_longer_that_of_a_query_that_came_before_another(runner, rng):
    serving = BoundRunner(runner, SessionSettings(resident=True))
    first, second = feeds_of(rng, 2), feeds_of(rng, 2)
    serving.query(first)
    serving.infer(second)
    np.testing.assert_array_equal(serving.query(first)["y"], runner.infer(first)["y"])


def test_an_answer_that_was_looked_at_stays_as_it_was(runner, rng):
    serving = BoundRunner(runner, SessionSettings(resident=True))
    first, second = feeds_of(rng, 2), feeds_of(rng, 2)
    kept = serving.query(first).copied()
    serving.query(second)
    np.testing.assert_array_equal(kept["y"], runner.infer(first)["y"])


def test_one_that_cannot_be_released_keeps_none_of_the_others(runner, rng, monkeypatch):
    serving = BoundRunner(runner, SessionSettings(iobinding=True))
    released = []
    monkeypatch.setattr(BoundRun, "release", lambda bound: released.append(bound) or raising(RunnerError("refused")))
    with pytest.raises(RunnerError, match="refused"), serving:
        for batch in (1, 2):
            serving.infer(feeds_of(rng, batch))
    assert len(released) == 2


def raising(error):
    raise error


def test_a_query_is_the_whole_of_it_unless_it_is_to_stay(runner):
    serving = BoundRunner(runner, SessionSettings(iobinding=True))
    assert serving.query == serving.infer


def test_many_serve_at_a_time_and_one_records_alone():
    gate, inside, seen, lock = CaptureGate(), [], [], threading.Lock()

    def within(door, what):
        with door():
            with lock:
                inside.append(what)
                seen.append(tuple(inside))
            time.sleep(0.01)
            with lock:
                inside.remove(what)

    threads = [threading.Thread(target=within, args=(gate.serving, "serve")) for _ in range(6)]
    threads += [threading.Thread(target=within, args=(gate.recording, "record")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 9
    assert all(len(others) == 1 for others in seen if "record" in others)


def test_nobody_waits_for_ever_for_a_query_that_hangs():
    gate = CaptureGate(patience=0.01)
    with gate.serving():
        with pytest.raises(RunnerError, match="a query must return for a CUDA graph to be recorded within"):
            gate.recording().__enter__()
        with gate.serving():  # nobody waits to record any more
            pass
    with gate.recording(), pytest.raises(RunnerError, match="a CUDA graph must be recorded within"):
        gate.serving().__enter__()


def test_who_fails_while_serving_or_recording_lets_the_others_in():
    gate = CaptureGate()
    for door in (gate.serving, gate.recording, gate.serving):
        with pytest.raises(ZeroDivisionError), door():
            raise ZeroDivisionError
    with gate.recording():
        pass
