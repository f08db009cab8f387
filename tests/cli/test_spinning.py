"""Threads of torch that wait for others do not compute nothing for long, unless the user has a say."""

import os
import subprocess
import sys

import pytest

from aaexport.cli.spinning import ASKED_FOR, BRIEFLY, spin_briefly

LOADED = """
import sys
from aaexport.cli import train
def told():
    print("torch" in sys.modules)
    sys.exit(0)
train.spin_briefly = told
train.command(["NAME"])
"""
TOLD = "from aaexport.cli.spinning import spin_briefly; spin_briefly(); import torch; torch.ones(9).sum()"


def test_a_thread_that_waits_sleeps_soon():
    environment = {}
    spin_briefly(environment)
    assert environment == {"GOMP_SPINCOUNT": BRIEFLY}


@pytest.mark.parametrize("name, value", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_the_user_s_own_word_stays(name, value):
    environment = {name: value}
    spin_briefly(environment)
    assert environment == {name: value}


def test_libgomp_is_told_in_time():
    """It shows what it read when it was loaded."""
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    for name in ASKED_FOR:
        environment.pop(name, None)
    told = subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in told.stderr:
        pytest.skip("this torch has another library for its threads than libgomp")
    assert f"GOMP_SPINCOUNT = '{BRIEFLY}'" in told.stderr


def test_a_training_tells_it_before_torch_is_there():
    command = [sys.executable, "-c", LOADED.replace("NAME", "conv_cnn3_digits")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
