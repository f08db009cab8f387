"""A session of made-up contenders: what goes wrong beside the scenario leaves what was measured."""

import numpy as np
import pytest

from aaexport.errors import MeasurementError, RunnerError
from aaexport.load.gpu_watch import GpuSample, GpuWatch
from aaexport.load.measurement import ColdStart, Peak
from aaexport.load.run import QueryLog
from aaexport.pipeline.bench.contender import OURS, Served
from aaexport.pipeline.bench.device_memory import DeviceMemory
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.session import BenchSession
from aaexport.pipeline.bench.worker_models import WorkerSpec

SAMPLES = Samples({"x": np.zeros((4, 1), np.float32)}, True, None, "numbers")


class Scripted:
    """A contender that answers in a millisecond, or raises."""

    max_batch, untimed, process_ids, label, stays = None, None, (), "made up", False

    def __init__(self, error=None, served=()):
        self.error, self.served = error, list(served)

    def block(self, batch, plan):
        if self.error is not None:
            raise self.error
        return np.ones(5)

    def first_query(self, size):
        if self.error is not None:
            raise self.error
        return 0.001

    def phases(self, batch):
        return None

    def run(self, order, progress):
        return self.served.pop(0)


@pytest.fixture
def session_of(tmp_path):
    def made(ours=None, rivals=None, watch=None, **options):
        wanted = BenchOptions(**{"device": "cpu", **options})
        ours = ours or Scripted()
        session = BenchSession(ours, rivals or {}, wanted, SAMPLES, tmp_path, lambda step, share: None, watch=watch)
        session.cold_starts = {name: ColdStart(1.0, 1.0, 0.001) for name in session.contenders}
        return session

    return made


def served(**given):
    times = np.arange(4, dtype=np.int64) * 1_000_000
    return Served(QueryLog(times, times, times + 1_000_000, np.ones(4, np.int32)), **given)


def test_a_rival_that_fails_before_anything_counts_is_given_up_and_the_others_go_on(session_of):
    session = session_of(rivals={"eager": Scripted(RunnerError("it broke")), "skew": Scripted()}, settle=1.0)
    session._settle()
    assert session.given_up == {"eager": "eager: it broke"}


def test_what_ours_raises_then_is_the_end(session_of):
    with pytest.raises(RunnerError, match="it broke"):
        session_of(Scripted(RunnerError("it broke")), settle=1.0)._settle()


def test_a_batch_that_does_not_fit_is_left_for_its_turn_and_what_else_is_wrong_is_said_at_once(session_of):
    session_of(Scripted(RunnerError("CUDNN_STATUS_ALLOC_FAILED")))._warm(32)
    with pytest.raises(RunnerError):
        session_of(Scripted(RunnerError("it broke")))._warm(32)


def test_a_part_that_fails_after_the_scenario_is_a_note(session_of, monkeypatch):
    session = session_of()
    monkeypatch.setattr(session, "_run_scenario", lambda: session.measured.add(served()))
    monkeypatch.setattr(session, "_throughput", lambda: raising(RunnerError("it broke")))
    session.measure()
    assert session.measured.complete
    assert session.measured.aborted is None
    assert session.measured.notes == ["throughput was not measured to its end: it broke"]


def test_a_process_that_dies_after_the_scenario_ends_the_measurement_with_what_there_is(session_of, monkeypatch):
    session = session_of()
    monkeypatch.setattr(session, "_run_scenario", lambda: session.measured.add(served()))
    monkeypatch.setattr(session, "_phases", lambda: raising(MeasurementError("it died")))
    monkeypatch.setattr(session, "_throughput", lambda: None)
    session.measure()
    assert (len(session.measured.blocks), session.measured.aborted) == (1, "it died")


def raising(error):
    raise error


def test_what_fails_in_the_scenario_before_anything_is_measured_is_an_error(session_of, monkeypatch):
    session = session_of()
    monkeypatch.setattr(session, "_run_scenario", lambda: raising(RunnerError("it broke")))
    with pytest.raises(RunnerError):
        session.measure()
    assert OURS not in session.given_up


# What a GPU did meanwhile


@pytest.fixture
def read():
    """A watch that has read every second for ten, at as many degrees as seconds; in J 300 a second."""
    moments = iter(range(1000))
    watch = GpuWatch(lambda: GpuSample(moment := next(moments), temperature=moment, energy=300.0 * moment))
    for _ in range(10):
        watch._add()
    return watch


def test_what_counts_of_a_gpu_is_what_counts_of_the_queries(session_of, read):
    session = session_of(Scripted(served=[served(counted=(2.5, 5.5))]), watch=read)
    session._run(OURS, session.orders.closed_loop(session.measured.load, 0))
    assert (read.load().samples, read.load().temperature) == (3, 5)


def test_a_search_is_told_with_the_gpu_of_the_trial_that_was_chosen(session_of, read):
    trials = [served(counted=(1.5, 3.5)), served(counted=(6.5, 8.5))]
    session = session_of(Scripted(served=trials.copy()), watch=read, scenario="server", rate=5.0)
    for number in range(2):
        session.serve(session.measured.load, number, 2.0, 0.0)
    assert read.load() is None
    session.settle_on(session.measured.load, trials[0], Peak(5.0, 10.0, ()))
    assert (read.load().samples, read.load().temperature) == (2, 3)


def test_energy_is_of_the_queries_and_of_nothing_where_something_else_lies_between(session_of, read):
    apart = served(counted=(2.5, 5.5))
    apart = Served(QueryLog(*(getattr(apart.log, name) for name in ("scheduled", "issued", "completed", "samples")),
                            apart=True), counted=apart.counted)  # fmt: skip
    session = session_of(Scripted(served=[served(counted=(2.5, 5.5)), apart]), watch=read)
    assert session.closed_loop(1, 1, 0.1).power == pytest.approx(300)
    assert session.closed_loop(1, 1, 0.1).power is None


def test_memory_that_cannot_be_measured_is_a_note_and_the_row_stays(session_of):
    session = session_of()
    session.memory = DeviceMemory(lambda: 1, WorkerSpec("onnxruntime", "m", "s", "cuda", 1), session.room, failing)
    assert session._memory(8) is None
    assert session.measured.notes == ["the GPU memory of batches of 8 was not measured: out of memory"]


def failing(spec):
    raise RunnerError("out of memory")


def test_a_gpu_that_was_read_at_rest_alone_is_said(session_of, monkeypatch):
    session = session_of()
    monkeypatch.setattr(session, "_run_scenario", lambda: session.measured.add(served()))
    monkeypatch.setattr(session, "_throughput", lambda: None)
    monkeypatch.setattr(session.measured, "gpu", lambda device: "a state")
    session.measure()
    assert session.measured.notes == ["the GPU was read before and after queries, when it rested, and not meanwhile"]


def test_a_rival_that_copies_has_no_ratio_to_what_stays_on_the_device(session_of):
    eager = Scripted()
    session = session_of(rivals={"eager": eager}, session={"resident": True})
    assert session._unlike(eager) == "its queries copy inputs and answers, ours do not (--resident)"
    eager.stays = True
    assert session._unlike(eager) is None
    assert session_of(rivals={"eager": Scripted()})._unlike(Scripted()) is None
