"""serve-bench --url: a live service under load, its answers compared, and where the time of a query goes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from inference_servers import over_both, service_of, unused

pytest.importorskip("grpc")

import aaexport
from aaexport.errors import ArgumentError, ServiceError
from aaexport.load.measurement import Load, ServiceTimes
from aaexport.load.run import QueryLog, Trouble
from aaexport.pipeline.bench.contender import OURS, Served
from aaexport.pipeline.bench.crowd import merged, split
from aaexport.pipeline.bench.option_rules import validate
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.run_order import RunOrder
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.service import with_counted
from aaexport.pipeline.bench.session import BenchSession
from aaexport.serving.protocol import ModelStatistics

QUICK = {"duration": 0.2, "warmup": 0.01, "served_as": "tiny", "device": "cpu"}


@pytest.fixture(scope="module")
def served(converted_once):
    service = service_of(converted_once / "model.onnx", "tiny", max_batch=4)
    with over_both(service) as urls:
        yield service, urls


@pytest.fixture
def service(served):
    yield served[0]
    served[0].mischief = lambda number: None


def measured(folder, url, **options):
    return aaexport.serve_bench(folder, **(QUICK | {"url": [url], "batches": (1,), "compare": ()} | options))


def test_a_service_is_measured_in_the_files_place(converted_once, served, service):
    report = measured(converted_once / "model.onnx", served[1]["http"])
    times = report.service
    assert report.label == f"small 1 over HTTP at {served[1]['http'].removeprefix('http://')}"
    assert report.check.checked > 0
    assert report.check.wrong == 0
    assert report.check.against == "onnxruntime CPU"  # of a bare file: what a session of it answers in this process
    assert (times.server, times.model, times.max_batch) == ("small 1", "tiny", 4)
    assert times.client_p50 > 0
    assert times.query == pytest.approx(times.network + times.server_time)
    assert times.network > 0
    assert 0 < times.compute_infer <= times.server_time
    assert times.images_per_run == 1
    assert report.to_dict()["service"]["urls"] == [served[1]["http"]]
    assert not (converted_once / "bench.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"scenario": "multi-stream", "samples_per_query": 4},
        {"scenario": "offline", "batches": None},
        {"scenario": "server", "rate": 50.0, "batches": None},
        {"scenario": "server", "rate": 50.0, "batches": None, "compare": ("in-process",), "client_processes": 2},
        {"concurrency": (3,), "client_processes": 2},
        {"compare": ("in-process",)},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_every_scenario_asks_it(converted_once, served, service, options, kind):
    report = measured(converted_once, served[1][kind], **options)
    assert report.complete
    assert report.check.wrong == 0 < report.check.checked
    assert max(service.sizes) <= 4
    for other in report.comparisons:
        assert other.same_answers
    if options.get("scenario") != "offline":
        assert report.service.client_p50 is not None


@pytest.mark.slow
def test_a_search_finds_a_rate(converted_once, served, service):
    report = measured(
        converted_once, served[1]["grpc"], scenario="server", find_peak=True, latency_bound=200.0, batches=None
    )
    assert report.peak.trials
    assert report.service.server_time is not None


@pytest.mark.slow
@pytest.mark.parametrize("mischief", ["wrong", "empty", "unavailable"])
def test_what_is_wrong_makes_it_invalid(converted_once, served, service, mischief):
    service.mischief = lambda number: mischief if number % 5 == 4 else None
    service.queries.clear()
    report = measured(converted_once, served[1]["http"])
    assert not report.valid
    if mischief == "wrong":
        assert report.check.wrong > 0
    else:
        assert any(
            "refuses with 503" in reason or "must be of the query's batch" in reason for reason in report.reasons
        )


@pytest.mark.slow
def test_the_command_prints_where_the_time_goes(cli, converted, served, service):
    url = served[1]["grpc"]
    outcome = cli("serve-bench", converted.path, "--url", url, "--duration", "200ms", "--json", "--compare", "none")
    found = json.loads(outcome.out)
    assert found["service"]["model"] == "tiny"
    assert outcome.code in (0, 4)


def test_a_url_that_does_not_answer_ends_it(converted_once):
    with pytest.raises(ServiceError, match="url must be answered, got connection refused"):
        measured(converted_once / "model.onnx", f"http://{unused()}")


def test_a_query_of_more_images_than_the_service_takes_is_refused(converted_once, served):
    with pytest.raises(ArgumentError, match="samples_per_query must be at most 4, which the service takes, got 5"):
        measured(converted_once / "model.onnx", served[1]["http"], scenario="multi-stream", samples_per_query=5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"client_processes": 2}, "client_processes must go with url, got 2"),
        ({"compare": ("in-process",)}, "compare must be others without url, got 'in-process'"),
        ({"served_as": "a"}, "served_as must go with url, got 'a'"),
        ({"url": ["http://a"], "max_batch": 3, "concurrency": (2,)}, "max_batch must be the service's own with url"),
        ({"url": ["http://a"], "max_delay": 3, "concurrency": (2,)}, "max_delay must be the service's own with url"),
        ({"url": ["http://a"], "threads": (1, 2)}, "threads must be one number with url"),
        ({"url": ["http://a"], "launches": 5}, "launches must go without url, got 5"),
        ({"url": ["http://a"], "client_processes": 65}, "client_processes must be between 1 and 64, got 65"),
        ({"url": ["http://a"], "client_processes": 2}, "client_processes must go with rate or several clients"),
        ({"url": ["gopher://a"]}, "url must be http://, "),
    ],
)
def test_options_that_break_a_rule(options, text):
    with pytest.raises(ArgumentError) as caught:
        validate(BenchOptions(**options))
    assert text in str(caught.value)


# Several client processes


def test_an_open_loop_is_split_by_its_rate():
    order = RunOrder(Load("server", rate=90.0, arrivals="poisson", seed=3), 1.0, 0.1, min_queries=10)
    shares = split(order, 3)
    assert [share.load.rate for share in shares] == [30.0] * 3
    assert [share.min_queries for share in shares] == [4] * 3
    assert len({share.load.seed for share in shares}) == 3


def test_a_closed_loop_is_split_by_its_clients():
    order = RunOrder(Load("single-stream"), 1.0, 0.1, clients=5)
    assert [share.clients for share in split(order, 3)] == [2, 2, 1]
    assert [share.clients for share in split(order, 9)] == [1] * 5
    assert split(replace(order, clients=1), 3) == [replace(order, clients=1)]


def log(*times):
    scheduled = np.asarray(times, np.int64)
    return QueryLog(scheduled, scheduled, scheduled + 5, np.ones(len(times), np.int32))


def test_what_several_left_is_one_log_in_the_order_of_its_schedule():
    parts = [
        Served(log(1, 30), Trouble({"late": 1}), None, 4, 1, 0.5),
        Served(log(2, 10), Trouble({"late": 2}, lost=1), "interrupted", 3, 0, 0.1),
    ]
    found = merged(parts)
    assert found.log.scheduled.tolist() == [1, 2, 10, 30]
    assert found.log.completed.tolist() == [6, 7, 15, 35]
    assert found.trouble == Trouble({"late": 3}, lost=1)
    assert (found.aborted, found.checked, found.wrong, found.largest_error) == ("interrupted", 7, 1, 0.5)


# Where the time goes

SAMPLES = Samples({"input": np.zeros((4, 1, 2, 2), np.float32)}, True, None, "zeros")
TIMES = ServiceTimes(("http://a:80",), "small 1", "tiny", ("1",), 4, 1, 0.2, 0.4, 3.0)


def test_a_query_is_what_the_service_counts_and_the_rest():
    counted = ModelStatistics(2, 4_000_000, 0, 6, 2, 1_000_000, 200_000, 2_400_000, 400_000)
    found = with_counted(TIMES, counted)
    assert (found.server_time, found.network) == (2.0, 1.0)
    assert (found.queue, found.compute_input, found.compute_infer, found.compute_output) == (0.5, 0.1, 1.2, 0.2)
    assert found.images_per_run == 3


def test_a_service_that_counted_nothing_tells_nothing():
    assert with_counted(TIMES, ModelStatistics()) == TIMES


def test_a_service_is_asked_for_the_warm_up_apart_as_it_counts_every_query():
    """Else the account of a busy warm-up would be taken for that of the load."""

    class Pretended:
        process_ids, max_batch = (), None

        def __init__(self):
            self.orders = []

        def run(self, order, progress=None):
            self.orders.append(order)
            counted.append(ModelStatistics(requests=100 if order.warmup or order.load.rate is None else 7))
            return Served(log(1, 2))

    class Counting:
        def statistics(self):
            return sum(counted, ModelStatistics())

    counted = []
    ours = Pretended()
    options = BenchOptions(scenario="server", rate=5.0, url=["http://a"], device="cpu")
    session = BenchSession(ours, {}, options, SAMPLES, None, lambda step, share: None, Counting())
    served = session._run(OURS, RunOrder(Load("server", rate=5.0, arrivals="poisson"), 1.0, 0.3))
    assert [order.warmup for order in ours.orders] == [0.0, 0.0]
    assert [order.load.rate for order in ours.orders] == [None, 5.0]
    assert served.statistics.requests == 7
