"""Dynamic batching: its policy on the virtual clock, its threads for real; no answer lost, doubled or swapped."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
from fake_systems import MILLISECOND, Batching, Queue

from aaexport.errors import ArgumentError
from aaexport.load import arrivals
from aaexport.load.batching import BatchingServer
from aaexport.load.clock import VirtualClock
from aaexport.load.engine import LoadGenerator
from aaexport.load.plan import Plan
from aaexport.load.system import Query


class Inbox:
    """Replies by number: answers, and errors."""

    def __init__(self):
        self.answers, self.errors, self.deliveries = {}, {}, Counter()

    def answered(self, number, answer):
        self.deliveries[number] += 1
        self.answers[number] = answer

    def failed(self, number, error):
        self.deliveries[number] += 1
        self.errors[number] = str(error)

    def await_all(self, queries):
        until = time.monotonic() + 20
        while len(self.deliveries) < queries and time.monotonic() < until:
            time.sleep(0.001)


def squares(samples):
    return [sample * sample for sample in samples]


def test_ten_thousand_concurrent_queries_get_their_own_answers():
    sizes, inbox, senders = [], Inbox(), 8

    def worker(samples):
        sizes.append(len(samples))
        time.sleep(0.0005 * (len(sizes) % 3))  # so that batches overtake each other
        return squares(samples)

    def queries(sender):
        for number in range(sender, 10_000, senders):
            size = 1 + number % 7 if number % 100 else 40
            yield Query(number, tuple(range(number, number + size)))

    def send(sender):
        for query in queries(sender):
            server.issue(query, inbox)

    with BatchingServer([worker] * 4, max_batch=16, max_delay=0.001) as server:
        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        inbox.await_all(10_000)
    asked = {query.number: squares(query.samples) for sender in range(senders) for query in queries(sender)}
    assert inbox.answers == asked
    assert set(inbox.deliveries.values()) == {1}
    assert (max(sizes), sum(sizes)) == (16, sum(map(len, asked.values())))


def test_the_engine_checks_answers_of_a_server_that_it_loads():
    with BatchingServer([squares] * 2, max_batch=8, max_delay=0.002) as server:
        run = LoadGenerator(server, 64, Plan(1, warmup=0.05, keep=500)).server(arrivals.poisson(2000, 0.5), 3)
    assert (bool(run.trouble), run.aborted, len(run.kept)) == (False, None, 500)
    assert all(answer == squares(samples) for samples, answer in run.kept)


# The policy, alone on the virtual clock.


def simulated(schedule, max_batch, max_delay, workers=1, samples=1, service=lambda _: 10 * MILLISECOND):
    clock = VirtualClock()
    system = Batching(clock, service, max_batch, max_delay, workers)
    run = LoadGenerator(system, 64, Plan(1, keep=10_000), clock=clock).server(np.asarray(schedule), samples)
    assert not run.trouble
    assert all(answer == [*samples] for samples, answer in run.kept)
    return run.log.latencies.tolist(), system.sizes


@pytest.mark.parametrize(
    ("came", "latencies", "sizes"),
    [
        ([0], [15], [1]),  # waits its delay for others
        ([0, 1, 2], [15, 14, 13], [3]),
        ([0, 1, 2, 3], [13, 12, 11, 10], [4]),  # a full batch waits for nobody
        ([0, 0, 0, 0, 0], [10, 10, 10, 10, 20], [4, 1]),  # what has waited longer than its delay goes at once
        ([0, 6], [15, 19], [1, 1]),
    ],
)
def test_a_batch_is_run_when_it_is_full_or_its_first_sample_has_waited(came, latencies, sizes):
    assert simulated([ms * MILLISECOND for ms in came], 4, 5 * MILLISECOND) == (latencies, sizes)


def test_two_workers_share_the_queue():
    assert simulated([0, 0, 0, 0], 2, 0, workers=2) == ([10, 10, 10, 10], [2, 2])


def test_a_query_larger_than_a_batch_is_split():
    assert simulated([0, 0], 4, 0, samples=10) == ([30, 50], [4, 4, 4, 4, 4])


def test_batching_serves_more_where_a_batch_costs_little_more_than_a_query():
    def service(size):
        return (8 + 2 * size) * MILLISECOND

    schedule = arrivals.poisson(250, 60)
    clock = VirtualClock()
    alone = LoadGenerator(Queue(clock, lambda _: service(1)), 64, Plan(1, patience=5), clock=clock).server(schedule)
    latencies, sizes = simulated(schedule, 8, 2 * MILLISECOND, service=service)
    assert alone.aborted.startswith("it did not keep up")
    assert np.percentile(latencies, 99) < 60
    assert max(sizes) <= 8


# The threads.


def test_a_worker_that_raises_fails_the_queries_of_its_batch_only():
    def worker(samples):
        if 13 in samples:
            raise OSError("bad luck")
        return squares(samples)

    inbox = Inbox()
    with BatchingServer([worker], max_batch=1) as server:
        for number in range(20):
            server.issue(Query(number, (number, number + 1)), inbox)
        inbox.await_all(20)
    assert inbox.errors.keys() == {12, 13}
    assert inbox.answers == {number: squares([number, number + 1]) for number in range(20) if number not in (12, 13)}


def test_a_query_in_several_batches_fails_once():
    inbox = Inbox()

    def worker(samples):
        raise OSError(samples)

    with BatchingServer([worker], max_batch=1) as server:
        server.issue(Query(0, (1, 2, 3)), inbox)
        inbox.await_all(1)
    assert (inbox.errors, inbox.deliveries) == ({0: "[1]"}, {0: 1})


@pytest.mark.parametrize(("answers", "got"), [([1], "got 1"), ([1, 2, 3], "got 3"), (None, "NoneType")])
@pytest.mark.parametrize("pad", [False, True])
def test_answers_that_cannot_be_told_apart_fail_their_queries(answers, got, pad):
    inbox = Inbox()
    with BatchingServer([lambda _: answers], max_batch=2, pad=pad) as server:
        server.issue(Query(0, (1, 2)), inbox)
        inbox.await_all(1)
    assert got in inbox.errors[0]


def test_a_fixed_batch_is_filled_up_and_the_surplus_answers_are_dropped():
    seen, inbox = [], Inbox()

    def worker(samples):
        seen.append(samples)
        return np.asarray(squares(samples))

    with BatchingServer([worker], max_batch=4, pad=True) as server:
        server.issue(Query(0, (1, 2, 3, 4, 5)), inbox)
        inbox.await_all(1)
    assert (seen, inbox.answers) == ([[1, 2, 3, 4], [5, 5, 5, 5]], {0: [1, 4, 9, 16, 25]})


def test_a_closed_server_fails_what_waits_and_takes_no_more():
    begun, release, inbox = threading.Event(), threading.Event(), Inbox()

    def worker(samples):
        begun.set()
        release.wait(10)
        return squares(samples)

    server = BatchingServer([worker], max_batch=1)
    server.issue(Query(0, (3,)), inbox)
    begun.wait(10)
    server.issue(Query(1, (4,)), inbox)
    assert not server.close(patience=0.01)
    release.set()
    assert server.close()
    assert (inbox.answers, inbox.errors) == ({0: [9]}, {1: "the server was closed before it answered"})
    with pytest.raises(RuntimeError, match="the server has been closed"):
        server.issue(Query(2, (5,)), inbox)


def test_idle_workers_burn_no_time():
    with BatchingServer([squares] * 4, max_batch=4, max_delay=0.01):
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.05


@pytest.mark.parametrize(
    ("workers", "max_batch", "max_delay", "complaint"),
    [
        ([], 1, 0, "workers must be at least 1, got 0"),
        ([squares], 0, 0, "max_batch must be at least 1, got 0"),
        ([squares], 1, -0.1, "max_delay must be 0 or more seconds, got -0.1"),
        ([squares], 1, float("nan"), "max_delay must be 0 or more seconds, got nan"),
    ],
)
def test_a_server_that_could_not_serve_is_refused(workers, max_batch, max_delay, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        BatchingServer(workers, max_batch, max_delay)


def test_a_full_batch_wakes_a_worker_that_waits_for_more():
    inbox = Inbox()
    with BatchingServer([squares], max_batch=2, max_delay=60) as server:
        for number in range(2):
            server.issue(Query(number, (number,)), inbox)
            time.sleep(0.05)
        inbox.await_all(2)
        assert inbox.answers == {0: [0], 1: [1]}


def test_what_one_worker_leaves_in_the_queue_is_another_ones():
    together, inbox = threading.Barrier(2), Inbox()

    def worker(samples):
        together.wait(10)
        return squares(samples)

    with BatchingServer([worker] * 2, max_batch=2) as server:
        time.sleep(0.05)  # both are idle
        server.issue(Query(0, (1, 2, 3, 4)), inbox)
        inbox.await_all(1)
    assert inbox.answers == {0: [1, 4, 9, 16]}


def test_the_queue_of_a_partial_batch_is_looked_after_when_its_worker_took_another():
    """A sample that came while all were idle, and one that came after a full batch, both keep their delay."""
    inbox, came = Inbox(), time.monotonic()
    with BatchingServer([squares] * 3, max_batch=2, max_delay=0.05) as server:
        for number in range(7):
            server.issue(Query(number, (number,)), inbox)
        inbox.await_all(7)
        assert len(inbox.answers) == 7
        assert 0.04 < time.monotonic() - came < 5
