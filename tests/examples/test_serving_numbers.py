"""What the page of results says of serving is what was measured."""

import json

from repository import ROOT

PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8").partition("## Serving\n")[2].partition("\n## ")[0]


def parts():
    runs = json.loads((ROOT / "docs/results/serving_amd_epyc_2cores.json").read_text(encoding="utf-8"))["runs"]
    return {name: part for run in runs for name, part in run["parts"].items()}


def test_the_page_of_results_tells_what_was_lost():
    found = parts()
    for way in ("rest", "grpc"):
        answers = found["answers"][way]
        assert f"| {answers['right']:,} of {answers['asked']:,} right |" in PAGE
    drain, change, kill = found["drain"], found["change"], found["kill"]
    assert f"{drain['accepted_and_lost']} of {drain['right']:,} accepted queries lost" in PAGE
    assert f"{change['lost']} of {change['right']:,} lost" in PAGE
    assert f"{kill['lost']} of {kill['right']:,} lost" in PAGE
    assert not any(one["wrong"] for one in (drain, change, kill, *found["answers"].values()))


def test_the_page_of_results_tells_what_a_query_pays():
    for added in parts()["overhead"]["added"].values():
        assert f"{added['ms']:.2f} ms, {added['without_the_client_ms']:.2f} of it not the client's" in PAGE
