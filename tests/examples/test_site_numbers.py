"""What the page of results says of a web page is what was measured, and the script beside it runs."""

import json
import os
import statistics
import subprocess
import sys

import pytest
from observed import observed_folder
from repository import ROOT

import aaexport
from aaexport.errors import ProviderError
from aaexport.runners.browser import find_browser
from aaexport.runners.web_runtime import find_runtime

PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8").partition("## A web page\n")[2].partition("\n## ")[0]
FOUND = json.loads((ROOT / "docs/results/site_amd_epyc_2cores.json").read_text(encoding="utf-8"))
SCHEMA = "aaexport.site-numbers/1"


def test_the_page_of_results_tells_what_was_measured():
    assert FOUND["schema"] == SCHEMA
    for key in ("bytes", "loaded_bytes"):
        assert f", MB | {FOUND[key] / 1e6:.1f} | | |" in PAGE
    for key, what, digits in (("ready_seconds", "seconds", 2), ("p50_ms", "ms", 1)):
        lowest, middle, highest = (f"{pick(FOUND[key]):.{digits}f}" for pick in (min, statistics.median, max))
        assert f"{what} | {middle} | {lowest} – {highest} | {len(FOUND[key])} |" in PAGE


@pytest.mark.slow
def test_a_site_is_measured(tmp_path):
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no page is run")
    try:
        find_runtime()
    except ProviderError as error:
        pytest.skip(f"{error}: no page is run")
    aaexport.deploy(observed_folder(tmp_path / "digits"), "web", tmp_path / "site")
    script, kept = ROOT / "examples/05_run_elsewhere/site_numbers.py", tmp_path / "found.json"
    command = [sys.executable, str(script), str(tmp_path / "site"), "--visits", "1", "--json", str(kept)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(kept.read_text())
    assert found == json.loads(done.stdout)
    assert (found["schema"], set(found)) == (SCHEMA, set(FOUND))
    assert 0 < found["loaded_bytes"] < found["bytes"]
    assert len(found["ready_seconds"]) == len(found["p50_ms"]) == 1
    assert found["runs"] == [100 - 2]  # those that compile are not counted
