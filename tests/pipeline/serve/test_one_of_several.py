"""A live model of two processes of which one fails: the other answers in its place, and yet it is found."""

import os
import shutil
import signal
import time
from pathlib import Path

import hanging_backends
import numpy as np
import pytest
from live_services import backends_of, give_golden, require_engine, runs, service

from aaexport.folder import open_folder
from aaexport.serving.client import Client

pytestmark = pytest.mark.slow  # each starts a service of its own, and waits for it to notice

PATIENCE = 60.0


@pytest.fixture(scope="module")
def folder(converted_once, tmp_path_factory):
    require_engine()
    path = tmp_path_factory.mktemp("several") / "tiny"
    shutil.copytree(converted_once, path)
    folder = open_folder(path)
    give_golden(folder)
    return folder


def serving_twice(folder):
    words = (folder.path, "--instances", "2", "--check-every", "1s")
    return service(*words, program=(Path(hanging_backends.__file__),))


def asked_until(live, pid):
    """Queries until a process is no more; how many came back in time, each of which had to be right."""
    images = np.zeros((1, 1, 8, 8), np.float32)
    answered, end = 0, time.monotonic() + PATIENCE
    with Client(live.urls, timeout=PATIENCE, retry_for=PATIENCE) as client:
        while runs(pid):
            assert time.monotonic() < end, live.said
            assert client.infer("tiny", {"input": images}).outputs["logits"].shape[0] == 1
            answered += 1
            time.sleep(0.02)
    return answered


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGUSR1, "was at one query for more than 6 s"),
        (signal.SIGSTOP, "was stopped from outside"),
        (signal.SIGKILL, "has ended"),
    ],
    ids=["hangs", "stopped", "killed"],
)
def test_one_of_two_is_found_and_the_model_loaded_anew(folder, number, why):
    with serving_twice(folder) as live:
        sick, well = backends_of(live, "tiny")
        os.kill(sick, number)
        asked_until(live, sick)
        line = live.waits_for("tiny is loaded anew (1 of 3)")
        assert line.endswith(f"(1 of 3): a process of its backend {why}\n")
        ended = time.monotonic()
        live.waits_for("tiny answers right again")
        assert time.monotonic() - ended < 10
        assert len(set(backends_of(live, "tiny")) - {sick, well}) == 2
        assert live.ends() == 0


def test_a_model_of_images_that_hangs_inside_is_found_and_the_other_is_not_touched(folder):
    with serving_twice(folder) as live:
        (sick,), others = backends_of(live, "tiny_image"), backends_of(live, "tiny")
        os.kill(sick, signal.SIGUSR1)
        live.waits_for("tiny_image answers right again")
        assert not runs(sick)
        assert backends_of(live, "tiny") == others
        assert not [line for line in live.said if line.startswith("tiny is loaded anew")]
