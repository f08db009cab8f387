"""A session of made-up contenders: what goes wrong beside the scenario leaves what was measured."""

import numpy as np
import pytest

from aaexport.errors import MeasurementError, RunnerError
from aaexport.load.run import QueryLog
from aaexport.pipeline.bench.contender import OURS, Served
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.session import BenchSession

SAMPLES = Samples({"x": np.zeros((4, 1), np.float32)}, True, None, "numbers")


class Scripted:
    """A contender that answers in a millisecond, or raises."""

    max_batch, untimed, process_ids, label = None, None, (), "made up"

    def __init__(self, error=None):
        self.error = error

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


@pytest.fixture
def session_of(tmp_path):
    def made(ours=None, rivals=None, **options):
        wanted = BenchOptions(**{"device": "cpu", **options})
        return BenchSession(ours or Scripted(), rivals or {}, wanted, SAMPLES, tmp_path, lambda step, share: None)

    return made


def served():
    times = np.arange(4, dtype=np.int64) * 1_000_000
    return Served(QueryLog(times, times, times + 1_000_000, np.ones(4, np.int32)))


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
