"""What is freed stays with the process, where glibc gives it back."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import aaexport.cli

CLI = Path(aaexport.cli.__file__).parent

FAULTS = """
import resource, sys
from aaexport.allocator import give_freed_memory_back, keep_freed_memory
import torch
if sys.argv[1] != "plain":
    keep_freed_memory()
if sys.argv[1] == "given back":
    give_freed_memory_back()
before = None
for _ in range(10):
    torch.ones(9 * 2**20) + 1
    before = before or resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.fixture
def kept(monkeypatch):
    """How often a command asked for it; the allocator of the tests' own process stays as it is."""
    calls = []
    for command in ("convert", "verify"):
        monkeypatch.setattr(f"aaexport.cli.{command}.keep_freed_memory", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize("command", ["convert", "verify"])
def test_commands_that_run_pytorch_and_measure_nothing_keep_it(cli, kept, converted, command):
    converted.weights_path.write_text("no tensors")  # it ends there, after what can be seen of the options
    assert cli(command, converted.path).code == 1
    assert kept == [1]


def test_commands_that_measure_have_a_plain_process():
    for command in ("serve_bench", "tune", "train", "list", "inspect"):
        assert "keep_freed_memory" not in (CLI / f"{command}.py").read_text()


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_pages_are_paid_for_once():
    """Nine times two tensors of 36 MiB, which glibc always gives back: 165,888 pages of 4 KiB where none is kept."""
    assert faults("kept") < faults("plain") / 2


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_is_kept_is_given_back_again_where_it_is_too_much():
    assert faults("given back") > faults("kept") * 2
