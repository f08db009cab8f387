"""Sweeps of batch sizes by made-up sessions: where they end, what they say, and what a row has of a GPU."""

import numpy as np
import pytest

from aaexport.errors import MeasurementError, RunnerError
from aaexport.load.measurement import Load
from aaexport.load.run import QueryLog
from aaexport.pipeline.bench.contender import Served
from aaexport.pipeline.bench.measured import Measured
from aaexport.pipeline.bench.throughput import Loop, measure_clients, measure_sizes, sweep_sizes


class Session:
    """Answers a query of `size` images in `seconds(size)`; more than `most` do not fit."""

    def __init__(self, seconds, most=1 << 30, **loop):
        self.measured, self.seconds, self.most, self.loop = Measured(Load("single-stream")), seconds, most, loop

    def first_run(self, size):
        if size > self.most:
            raise RunnerError(f"onnxruntime cannot run the model: CUDA failure 2: out of memory for {size}")
        return 0.5

    def closed_loop(self, size, clients, first_run):
        times = np.arange(4, dtype=np.int64) * round(self.seconds(size) * 1e9)
        return Loop(Served(QueryLog(times, times, times + times[1], np.full(4, size, np.int32))), **self.loop)

    @property
    def sizes(self):
        return [row.batch for row in self.measured.throughput]


def test_a_sweep_ends_when_twice_as_many_images_are_not_answered_faster():
    session = Session(lambda size: max(size, 8) / 1000)  # nothing is gained beyond 8
    sweep_sizes(session)
    assert session.sizes == [1, 2, 4, 8, 16, 32]
    assert session.measured.notes == ["the sweep of batches ended at 32: no more images a second came of it"]


def test_one_batch_that_is_not_liked_ends_no_sweep():
    session = Session(lambda size: 0.02 if size == 4 else max(size, 64) / 10_000)
    sweep_sizes(session)
    assert max(session.sizes) > 64


def test_a_sweep_ends_when_the_memory_is_full_and_keeps_what_it_has():
    session = Session(lambda size: 0.001, most=8)
    sweep_sizes(session)
    assert session.sizes == [1, 2, 4, 8]
    (note,) = session.measured.notes
    assert note.startswith("the sweep of batches ended before 16: onnxruntime cannot run the model: ")


def test_a_first_batch_that_does_not_fit_is_an_error():
    with pytest.raises(RunnerError, match="out of memory"):
        sweep_sizes(Session(lambda size: 0.001, most=0))


def test_what_else_goes_wrong_ends_no_sweep_in_silence(monkeypatch):
    session = Session(lambda size: 0.001)
    monkeypatch.setattr(session, "first_run", lambda size: (_ for _ in ()).throw(RunnerError("it broke")))
    with pytest.raises(RunnerError, match="it broke"):
        sweep_sizes(session)


@pytest.mark.parametrize("text", ["CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", "it broke"])
def test_whatever_ends_a_sweep_leaves_the_rows_before_it(monkeypatch, text):
    session = Session(lambda size: 0.001)
    first_run = session.first_run

    def failing(size):
        if size == 4:
            raise RunnerError(text)
        return first_run(size)

    monkeypatch.setattr(session, "first_run", failing)
    sweep_sizes(session)
    assert session.sizes == [1, 2]
    assert session.measured.notes == [f"the sweep of batches ended before 4: {text}"]


def test_a_process_that_is_gone_is_no_end_of_a_sweep(monkeypatch):
    session = Session(lambda size: 0.001)
    monkeypatch.setattr(session, "first_run", lambda size: gone() if size == 4 else 0.5)
    with pytest.raises(MeasurementError):
        sweep_sizes(session)


def gone():
    raise MeasurementError("the process ended without an answer")


def test_a_sweep_ends_with_the_engines_that_were_built():
    session = Session(lambda size: 0.001)
    sweep_sizes(session, built_for=8)
    assert session.sizes == [1, 2, 4, 8]
    assert session.measured.notes == [
        "the sweep of batches ended before 16: TensorRT's engines were built for at most 8"
    ]


def test_a_size_that_cannot_be_run_is_a_note_and_the_others_have_their_rows():
    session = Session(lambda size: 0.001, most=8)
    measure_sizes(session, [8, 32, 1])
    assert session.sizes == [8, 1]
    (note,) = session.measured.notes
    assert note.startswith("batches of 32 were not measured: onnxruntime cannot run the model: ")


def test_a_row_has_what_a_batch_takes_of_the_gpu():
    session = Session(lambda size: 0.01, memory=7_000, power=400.0)
    measure_sizes(session, [8])
    (row,) = session.measured.throughput
    assert row.images_per_second == pytest.approx(800)
    assert (row.memory, row.energy, row.first_run) == (7_000, pytest.approx(0.5), 500.0)


def test_clients_have_no_first_run():
    session = Session(lambda size: 0.01)
    measure_clients(session, [2, 4], 1)
    assert [(row.concurrency, row.first_run, row.energy) for row in session.measured.throughput] == [
        (2, None, None),
        (4, None, None),
    ]
