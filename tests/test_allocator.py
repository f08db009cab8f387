"""What is freed stays with the process, where glibc gives it back."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from aaexport.cli.allocator import keep_freed_memory
import torch
if sys.argv[1] == "kept":
    keep_freed_memory()
before = None
for _ in range(9):
    torch.ones(2**24) + 1
    before = before or resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_pages_are_paid_for_once():
    """Eight times two tensors of 64 MiB, in pages of 4 KiB: 262,144 pages where none is kept, huge ones aside."""
    assert faults("kept") < faults("plain") / 2
