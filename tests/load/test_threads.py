"""Where a runner's work is done: in one thread as long as it lives, or in a new one for each work."""

import threading

import pytest

from aaexport.load.batching import BatchingServer
from aaexport.load.clock import RealClock
from aaexport.load.engine import LoadGenerator
from aaexport.load.plan import Plan
from aaexport.load.run import Trouble
from aaexport.load.system import Synchronous
from aaexport.load.threads import RunnerThread, in_new_thread

PLAN = Plan(duration=0.0, min_queries=20, max_queries=20)


@pytest.fixture
def lasting():
    thread = RunnerThread(lasting=True)
    yield thread
    thread.end()


def test_a_lasting_thread_does_all_work_and_is_not_the_callers(lasting):
    threads = {lasting.run(threading.get_ident) for _ in range(5)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_work_that_is_not_to_last_has_a_thread_that_ends_with_it():
    thread = RunnerThread(lasting=False)
    worked = [thread.run(threading.current_thread) for _ in range(3)]
    for each in worked:
        each.join(5)
    assert not any(each.is_alive() for each in worked)


def test_what_work_raises_is_raised_and_the_thread_goes_on(lasting):
    before = lasting.run(threading.get_ident)
    with pytest.raises(ZeroDivisionError):
        lasting.run(lambda: 1 // 0)
    assert lasting.run(threading.get_ident) == before


def test_work_that_does_not_return_keeps_its_thread_and_the_next_has_another(lasting):
    release = threading.Event()
    before = lasting.run(threading.get_ident)
    hung = lasting.start(release.wait)
    after = lasting.run(threading.get_ident)
    release.set()
    assert hung.result(5)
    assert after != before
    assert lasting.run(threading.get_ident) == after


def test_a_thread_ends_when_it_is_told_to(lasting):
    thread = lasting.run(threading.current_thread)
    lasting.end()
    thread.join(5)
    assert not thread.is_alive()


def test_a_closed_loop_asks_in_the_thread_that_it_is_given(lasting):
    asked = []
    system = Synchronous(lambda samples: asked.append(threading.get_ident()))
    for _ in range(2):
        run = LoadGenerator(system, 1, PLAN, clock=RealClock(lasting.start)).single_stream()
        assert (len(run.log), run.trouble) == (20, Trouble())
    assert set(asked) == {lasting.run(threading.get_ident)}


def test_every_worker_of_a_server_is_at_work_in_its_own_thread_server_after_server():
    threads = [RunnerThread(lasting=True) for _ in range(2)]
    seen = {0: set(), 1: set()}

    def worker(number):
        def answers(samples):
            seen[number].add(threading.get_ident())
            return samples

        return answers

    for _ in range(2):
        starts = [thread.start for thread in threads]
        with BatchingServer([worker(0), worker(1)], max_batch=1, threads=starts) as server:
            assert LoadGenerator(server, 1, PLAN).closed_loop(concurrency=4).trouble == Trouble()
    assert [
        found <= {thread.run(threading.get_ident)} for found, thread in zip(seen.values(), threads, strict=True)
    ] == [True] * 2
    for thread in threads:
        thread.end()


def test_a_future_has_what_its_work_returned():
    assert in_new_thread(lambda: 7).result(5) == 7
