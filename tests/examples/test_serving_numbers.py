"""What the page of results says of serving is what was measured, and the scripts beside it run."""

import json
import os
import subprocess
import sys

import pytest
from live_services import require_engine
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


def run(script, *words):
    command = [sys.executable, str(ROOT / "examples/10_serve" / script), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_where_perf_analyzer_does_not_run_the_reason_is_said(tmp_path):
    broken = tmp_path / "perf_analyzer"
    broken.write_text("#!/bin/sh\necho 'version GLIBC_2.38 not found' >&2; exit 1\n")
    broken.chmod(0o755)
    for command, reason in (("nowhere", "nowhere is not there; pip install"), (broken, "GLIBC_2.38 not found")):
        done = run("beside_perf_analyzer.py", "--perf-analyzer", command)
        assert done.returncode == 0
        assert done.stderr.startswith("skipped: ")
        assert reason in done.stderr


@pytest.mark.slow
def test_the_time_of_a_query_is_split_by_who_spends_it(converted_once):
    require_engine()
    done = run("where_time_goes.py", "--model", converted_once, "--blocks", 1, "--seconds", 0.2)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {f"{way}, {how}" for way in ("rest", "grpc") for how in ("batching", "one_by_one")}
    for row in found.values():
        assert {"client", "triton", "backend", "watchdog"} <= set(row["cpu_ms"])
        assert row["voluntary_switches"]["backend"] > 0.5
        assert 0 < row["triton_ms"]["infer"] < row["triton_ms"]["request"]
