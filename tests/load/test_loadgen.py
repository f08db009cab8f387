"""MLPerf LoadGen is the judge: on its schedule, against the same stub, our engine reports the same percentiles."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from fake_systems import Queue, Stub
from repository import HELPERS

from aaexport.load.clock import VirtualClock
from aaexport.load.engine import LoadGenerator
from aaexport.load.plan import Plan

QUERIES, RATE = 240, 60
SERVERS, SERVICE = 30, 0.4  # many and slow: 0.4 s are long beside what a busy machine does to a sleeping thread
TIMEOUT = 60  # a lost answer would hang LoadGen for ever
ATTEMPTS = 3  # the clock is real: what else the machine does at the moment must not decide this

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None,
    reason="mlcommons-loadgen is not installed: nothing to check the load engine against",
)


@pytest.mark.slow  # it waits for a real clock: eleven seconds
def test_loadgen_and_the_engine_report_the_same_percentiles(tmp_path, rng):
    service = (SERVICE * 1e9 * rng.lognormal(0, 0.4, QUERIES)).astype(int).tolist()
    for attempt in range(ATTEMPTS):
        schedule, judged = run_loadgen(tmp_path / str(attempt), service)
        ours = LoadGenerator(OnStub(Stub(service, SERVERS)), 64, Plan(1)).server(schedule)
        assert not ours.trouble
        clock = VirtualClock()
        queue = Queue(clock, service.__getitem__, SERVERS)
        simulated = LoadGenerator(queue, 64, Plan(1), clock=clock).server(schedule)
        worst = max(difference(log.latencies, judged) for log in (ours.log, simulated.log))
        if worst <= 0.02:
            return
    pytest.fail(f"percentiles differ by {worst:.1%}")


class OnStub:
    def __init__(self, stub):
        self.stub = stub

    def issue(self, query, replies):
        self.stub(lambda: replies.answered(query.number, None))


def run_loadgen(folder, service):
    """LoadGen's schedule in nanoseconds from its first query, and the latencies that it saw, in milliseconds."""
    folder.mkdir()
    order = json.dumps({"out": str(folder), "rate": RATE, "service": service, "servers": SERVERS})
    worker = HELPERS / "loadgen_worker.py"
    subprocess.run([sys.executable, worker], input=order, text=True, timeout=TIMEOUT, check=True)
    # The whole is not valid JSON, these lines are: `ts` is when the query was scheduled, in µs.
    lines = (folder / "mlperf_log_trace.json").read_text().splitlines()
    began = [
        json.loads(line.rstrip(",")) for line in lines if line.startswith('{"name":"Sample"') and '"ph":"b"' in line
    ]
    began.sort(key=lambda sample: sample["args"]["query_seq"])
    assert len(began) == QUERIES
    scheduled = np.asarray([round(sample["ts"] * 1000) for sample in began])
    return scheduled - scheduled[0], np.asarray([sample["args"]["complete_ns"] for sample in began]) / 1e6


def difference(latencies, judged):
    ours, theirs = (np.percentile(each, [50, 90, 99], method="inverted_cdf") for each in (latencies, judged))
    return float(np.abs(ours / theirs - 1).max())
