"""Which batch sizes are recorded and built for, by what is asked of serve-bench."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from aaexport.errors import ArgumentError
from aaexport.graph.files import TensorInfo
from aaexport.pipeline.bench.graph_sizes import fills_up, most_built_for, with_sizes
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.orders import Orders
from aaexport.pipeline.bench.samples import Samples

SAMPLES = Samples({"x": np.zeros((4, 3, 8, 8), np.float32)}, True, None, "zeros")
SERVER = {"scenario": "server", "rate": 5.0}
DEFAULT = (1, 8, 32)


def session_of(samples=SAMPLES, **options):
    return dict(with_sizes(BenchOptions(**options), samples, DEFAULT).session)


def test_graphs_of_a_server_are_recorded_for_doubling_sizes_up_to_its_batch():
    assert session_of(**SERVER, max_batch=12, session={"cuda_graph": True})["graph_sizes"] == (1, 2, 4, 8, 12)


def test_sizes_that_are_asked_for_by_number_are_among_them():
    found = session_of(concurrency=(4,), max_batch=8, batches=(1, 6), session={"cuda_graph": True})
    assert found["graph_sizes"] == (1, 2, 4, 6, 8)


def test_one_query_at_a_time_needs_no_sizes():
    assert session_of(session={"cuda_graph": True}) == {"cuda_graph": True}


def test_sizes_that_somebody_named_stay():
    assert session_of(**SERVER, session={"cuda_graph": True, "graph_sizes": (3,)})["graph_sizes"] == (3,)


@pytest.mark.parametrize(
    ("ports", "fills"),
    [
        ([("n", 3), ("n", 10)], True),
        ([("n", 3), ("m", 10)], False),
        ([("n", 3), (None, 10)], False),
        ([(4, 3), (4, 10)], False),
        ([("n", 3), ()], False),
    ],
)
def test_batches_are_filled_up_where_all_ports_share_an_open_dimension(ports, fills):
    given, *computed = (TensorInfo(f"port{place}", "float", shape) for place, shape in enumerate(ports))
    assert fills_up(SimpleNamespace(inputs=(given,), outputs=tuple(computed))) is fills


def test_where_batches_cannot_be_filled_up_there_are_no_sizes_and_none_may_be_named():
    graphs = BenchOptions(**SERVER, session={"cuda_graph": True})
    assert dict(with_sizes(graphs, SAMPLES, DEFAULT, fills=False).session) == {"cuda_graph": True}
    named = BenchOptions(session={"cuda_graph": True, "graph_sizes": (1, 8)})
    with pytest.raises(ArgumentError, match=r"^graph_sizes must be left out for a file .*, got '1,8'; each batch"):
        with_sizes(named, SAMPLES, DEFAULT, fills=False)


@pytest.mark.parametrize(
    ("session", "sizes"),
    [
        ({"cuda_graph": True, "graph_sizes": (4, 1)}, (1, 4, 5, 6)),
        ({"cuda_graph": True, "graph_sizes": (1, 2, 8)}, (1, 2, 8)),
        ({"cuda_graph": True}, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_every_size_that_may_come_is_run_before_it_counts(session, sizes):
    options = BenchOptions(**SERVER, max_batch=6, device="cuda", session=session)
    orders = Orders(options, None, lambda: 0.001)
    load = options.load(None, batched=True, shares_batches=True)
    assert orders.server(load, 1.0, 1).warm_sizes == sizes


def test_a_file_that_fixes_its_batch_has_one_size():
    fixed = dataclasses.replace(SAMPLES, fixed_batch=4)
    assert session_of(fixed, **SERVER, session={"cuda_graph": True}) == {"cuda_graph": True}


def test_engines_are_built_for_what_is_asked():
    found = session_of(batches=(1, 16), session={"tensorrt": True})
    assert found["profiles"] == ("x:1x3x8x8", "x:1x3x8x8", "x:16x3x8x8")
    assert session_of(**SERVER, max_batch=8, session={"tensorrt": True})["profiles"][2] == "x:8x3x8x8"


def test_a_sweep_has_engines_for_more_than_the_sizes_of_every_day_and_ends_there():
    found = session_of(batches="sweep", session={"tensorrt": True})
    assert found["profiles"] == ("x:1x3x8x8", "x:1x3x8x8", "x:256x3x8x8")
    assert most_built_for(found) == 256
    assert most_built_for({}) is None


def test_a_sweep_is_not_filled_up_to_sizes_that_nobody_asked_for():
    found = session_of(**SERVER, max_batch=8, batches="sweep", session={"cuda_graph": True})
    assert found["graph_sizes"] == (1, 2, 4, 8)


def test_without_graphs_and_engines_nothing_is_added():
    assert session_of(**SERVER) == {}
