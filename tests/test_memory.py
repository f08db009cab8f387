"""How much memory there is to take: of the machine, and within limits of either version of control groups."""

import pytest
from fake_cgroups import version_1, version_2, write

from aaexport import control_groups, memory
from aaexport.memory import GIBIBYTE, MEBIBYTE, default_memory, free_memory, whole_memory


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that has 10 GiB to take, whose files lie in the folder of the test."""
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    write(tmp_path / "proc/meminfo", f"MemTotal: 25165824 kB\nMemFree: 1 kB\nMemAvailable: {10 * 2**20} kB\n")
    return tmp_path


def test_without_limits_it_is_what_the_machine_has(machine):
    assert free_memory() == 10 * GIBIBYTE


def test_a_group_of_version_2_leaves_its_limit_but_for_what_it_takes_and_cannot_let_go(machine):
    folder = version_2(machine, "/pod")
    write(folder / "memory.max", f"{2 * GIBIBYTE}\n")
    write(folder / "memory.current", f"{GIBIBYTE}\n")
    write(folder / "memory.stat", f"anon 5\ninactive_file {256 * MEBIBYTE}\nactive_file 7\n")
    assert free_memory() == (1024 + 256) * MEBIBYTE


def test_and_so_does_one_of_version_1(machine):
    version_1(machine)
    with (machine / "proc/self/cgroup").open("a") as file:
        file.write("7:memory:/pod\n")
    with (machine / "proc/self/mountinfo").open("a") as file:
        file.write("35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    folder = machine / "sys/fs/cgroup/memory/pod"
    write(folder / "memory.limit_in_bytes", f"{2 * GIBIBYTE}\n")
    write(folder / "memory.usage_in_bytes", f"{3 * GIBIBYTE}\n")
    assert free_memory() == 0
    write(folder / "memory.usage_in_bytes", "0\n")
    write(folder / "memory.stat", "inactive_file 1\ntotal_inactive_file 0\n")
    assert free_memory() == 2 * GIBIBYTE


def test_a_limit_that_is_none_or_above_what_there_is_changes_nothing(machine):
    folder = version_2(machine)
    write(folder / "memory.max", "max\n")
    write(folder / "memory.current", "5\n")
    assert free_memory() == 10 * GIBIBYTE
    write(folder / "memory.max", f"{99 * GIBIBYTE}\n")
    assert free_memory() == 10 * GIBIBYTE


def test_a_system_that_does_not_tell_has_no_number(monkeypatch, tmp_path):
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    assert free_memory() is None
    assert default_memory() == 4 * GIBIBYTE


@pytest.mark.parametrize(("free", "taken"), [(10, 4), (8, 4), (3, 1.5)])
def test_four_gibibytes_are_taken_or_half_of_what_is_free(monkeypatch, free, taken):
    monkeypatch.setattr(memory, "free_memory", lambda: free * GIBIBYTE)
    assert default_memory() == taken * GIBIBYTE


def test_what_there_is_at_all_is_the_machines_or_the_least_limit_of_its_groups(machine, monkeypatch):
    monkeypatch.setattr(memory, "_physical", lambda: 24 * GIBIBYTE)
    assert whole_memory() == (24 * GIBIBYTE, "this machine's")
    folder = version_2(machine, "/pod/inner")
    write(folder / "memory.max", "max\n")
    assert whole_memory() == (24 * GIBIBYTE, "this machine's")
    write(folder / "memory.max", f"{3 * GIBIBYTE}\n")
    write(folder.parent / "memory.max", f"{2 * GIBIBYTE}\n")
    assert whole_memory() == (2 * GIBIBYTE, "its control group's")
    monkeypatch.setattr(memory, "_physical", lambda: None)
    assert whole_memory() == (2 * GIBIBYTE, "its control group's")


def test_a_system_that_does_not_tell_of_itself_has_no_such_number(monkeypatch, tmp_path):
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    monkeypatch.setattr(memory, "_physical", lambda: None)
    assert whole_memory() is None
