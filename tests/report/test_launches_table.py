"""Launches as JSON, and as the table of a terminal."""

import numpy as np
from rich.console import Group

from aaexport.load.launches import settle_threads
from aaexport.report.launches import launches_json, launches_legend, launches_view
from aaexport.report.layout import as_text


def settled(withheld=None, **medians):
    threads = {name: int(name[1:]) for name in medians}
    spread = 1 + np.random.default_rng(0).permutation(np.linspace(-0.001, 0.001, 100))
    return settle_threads({threads[name]: [ms * spread for ms in of] for name, of in medians.items()}, 1, withheld)


TWO = settled(t1=[0.187, 0.187, 0.188], t2=[0.178, 0.335, 0.337], t3=[0.3, 0.3, 0.3], t4=[0.18, 0.18, 0.18])


def lines(found, width=80):
    return as_text(Group(*launches_view(found)), width).splitlines()


def test_a_row_tells_how_fast_and_how_steady_a_setting_is():
    head, rule, *rows, legend, _ = lines(TWO)
    assert head.split() == ["threads", "p50,", "ms", "launches,", "ms", "apart", "within", "one", "verdict"]
    assert rows[0].split() == ["1", "0.187", "0.187–0.188", "0.5%", "0.0%", "fast", "and", "steady"]
    assert rows[1].split() == ["2", "0.335", "0.178–0.337", "47.5%", "0.0%", "unsteady"]
    assert rows[2].split()[-1] == "slower"
    assert rows[3].split()[-2:] == ["hardly", "faster"]
    assert max(map(len, (head, rule, *rows))) <= 80
    assert legend.startswith("p50: of 3 launches in turns; apart: ")


def test_a_setting_that_is_not_named_for_others_had_the_cpu_says_so():
    assert lines(settled("others had the CPU", t1=[1.0, 1.0], t2=[1.0, 1.0]))[2].split()[-1] == "withheld"


def test_one_setting_alone_is_steady_or_not():
    verdicts = [lines(settled(t1=of))[2].split()[-1] for of in ([1.0, 1.0], [1.0, 1.5])]
    assert verdicts == ["steady", "unsteady"]


def test_the_least_unsteady_is_not_called_steady():
    assert lines(settled(t1=[1.0, 1.5], t2=[1.0, 2.0]))[2].endswith("the least unsteady")


def test_the_legend_says_how_many_images_a_query_has():
    assert "with 8 images a query" in " ".join(launches_legend(settle_threads({1: [np.ones(9)] * 2}, 8)))


def test_the_json_has_raw_latencies_only_where_they_are_asked_for():
    value = launches_json(TWO, raw=False)
    assert (value["count"], value["batch"], value["named"], value["withheld"]) == (3, 1, 1, None)
    assert [setting["threads"] for setting in value["settings"]] == [1, 2, 3, 4]
    assert value["settings"][1]["launches"][1].keys() == {"queries", "median"}
    assert len(launches_json(TWO, raw=True)["settings"][1]["launches"][1]["latencies"]) == 100
