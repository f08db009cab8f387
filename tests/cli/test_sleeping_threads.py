"""Threads that wait sleep, unless somebody wants them otherwise."""

import os
import subprocess
import sys

import pytest

from aaexport.cli import threads

TOLD = """
import sys
from aaexport.cli.threads import let_threads_sleep
let_threads_sleep()
import torch
torch.set_num_threads(2)
torch.ones(1000, 1000).exp()
"""


@pytest.fixture
def environment(monkeypatch):
    for name in threads.ASKED_FOR:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_they_sleep(environment):
    environment.setenv("OMP_DISPLAY_ENV", "verbose")  # by which OpenMP tells what it has read
    done = subprocess.run([sys.executable, "-c", TOLD], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    assert told
    assert all("PASSIVE" in line.upper() for line in told)


@pytest.mark.parametrize("name", threads.ASKED_FOR)
def test_what_the_user_says_holds(environment, name):
    environment.setenv(name, "active")
    threads.let_threads_sleep()
    assert {each: os.environ[each] for each in threads.ASKED_FOR if each in os.environ} == {name: "active"}
