"""A Ray deployment on two hosts: whichever way one is lost, every query is answered, and right."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from deployable import digits_folder
from repository import ROOT

import aaexport

SCRIPT = ROOT / "examples/09_two_hosts/two_hosts.py"
QUERIES = 600


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kill", "cut"])
def test_no_query_is_lost_with_a_host(tmp_path, loss):
    python = os.environ.get("AAEXPORT_RAY_PYTHON", sys.executable)  # of an environment that has Ray
    has_ray = subprocess.run([python, "-c", "import ray.serve, grpc, onnxruntime"], capture_output=True, check=False)
    if has_ray.returncode or os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root, iproute2 and an environment with ray[serve], onnxruntime and grpcio")
    aaexport.deploy(digits_folder(tmp_path / "digits"), "ray", tmp_path / "out", memory=256)
    outcome = subprocess.run(
        [python, str(SCRIPT), str(tmp_path / "out"), "--queries", str(QUERIES), "--loss", loss],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert re.search(rf"{loss}: {QUERIES} of {QUERIES} answered, 0 wrong, 0 lost", outcome.stdout)
    assert "aahost" not in subprocess.check_output(["ip", "netns"], text=True)
