"""How many cores there are to use: bindings, quotas of either version of control groups, and who heeds them."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from fake_cgroups import counted, limited, threaded, version_1, version_2

from aaexport import control_groups
from aaexport.cores import Periods, cpu_quota, default_threads, periods, usable_cores
from aaexport.load.machine import MachineWatch
from aaexport.load.validity import warnings_about_the_machine
from aaexport.nn.own_settings import own_settings
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.report.bench import wording
from aaexport.runners import ort
from aaexport.runners.ort_settings import DEFAULTS, SessionSettings


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of eight processors, two threads a core, whose files lie in the folder of the test."""
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    threaded(tmp_path, (0, 4), (1, 5), (2, 6), (3, 7))
    return tmp_path


def found():
    quota = cpu_quota()
    return None if quota is None else quota.cores


# Where the quota is written


def test_a_container_of_version_2_has_its_quota_in_one_file(machine):
    limited(version_2(machine), 250_000)
    assert found() == 2.5


def test_a_container_of_version_1_has_it_in_two(machine):
    limited(version_1(machine), 300_000, version=1)
    assert found() == 3


def test_a_container_that_sees_its_hosts_path_is_limited_by_what_is_mounted(machine):
    folder = version_1(machine, group="/docker/abc", below="/docker/abc")
    limited(folder, 150_000, version=1)
    assert folder == machine / "sys/fs/cgroup/cpu,cpuacct"
    assert found() == 1.5


@pytest.mark.parametrize("group", ["/kubepods/pod1/abc", "/../other"], ids=["not mounted", "beyond the namespace"])
def test_a_group_that_is_not_below_the_mount_is_limited_by_the_mount(machine, group):
    version_2(machine, group=group, below="/somewhere")
    limited(machine / "sys/fs/cgroup", 100_000)
    assert found() == 1


def test_the_tightest_of_the_groups_that_it_is_in_counts(machine):
    folder = version_2(machine, group="/kubepods/pod1/abc")
    limited(folder, "max")
    limited(folder.parent, 200_000)
    limited(folder.parent.parent, 600_000)
    assert found() == 2
    limited(folder, 50_000, 25_000)
    assert found() == 2
    limited(folder, 30_000, 25_000)
    assert found() == 1.2


def test_a_folder_with_a_space_is_found(machine):
    limited(version_1(machine, where="/sys/fs/my\\040groups/cpu"), 200_000, version=1)
    assert found() == 2


@pytest.mark.parametrize("make", [version_1, version_2])
def test_without_a_limit_there_is_no_quota(machine, make):
    folder = make(machine)
    assert found() is None  # the group at the root of a machine has no such file
    limited(folder, *(("max",) if make is version_2 else (-1,)), version=2 if make is version_2 else 1)
    assert found() is None
    assert (usable_cores(), default_threads()) == (8, None)


def test_a_system_without_such_files_has_no_quota(machine):
    assert (found(), usable_cores(), default_threads()) == (None, 8, None)


def test_a_controller_that_does_not_limit_time_is_no_quota(machine):
    version_1(machine)
    limited(machine / "sys/fs/cgroup/cpuset", 100_000, version=1)
    assert found() is None


# How many cores that leaves


@pytest.mark.parametrize(
    ("quota", "count"), [(800_000, 8), (1_000_000, 8), (399_999, 3), (29_999, 1), (150_000, 1), (400_000, 4)]
)
def test_the_whole_cores_of_a_quota_count(machine, quota, count):
    limited(version_2(machine), quota)
    assert usable_cores() == count


def test_a_quota_written_in_rounded_microseconds_is_whole(machine):
    limited(version_2(machine), 99_999_999, 33_333_333)
    assert usable_cores() == 3


def test_a_binding_tighter_than_the_quota_counts(machine, monkeypatch):
    limited(version_2(machine), 600_000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 2, 3})
    assert usable_cores() == 3


def test_threads_by_default_are_the_cores_that_may_be_used_but_no_more_than_one_a_physical_core(machine):
    folder = version_2(machine)
    limited(folder, 200_000)
    assert default_threads() == 2
    limited(folder, 700_000)
    assert default_threads() == 4


def test_a_binding_to_both_threads_of_a_core_is_one_core(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 2})
    assert default_threads() == 2


# Who heeds it


def test_sessions_have_as_many_threads_as_the_quota_leaves_unless_told_otherwise(machine):
    assert ort._session_options(DEFAULTS, False, b"").intra_op_num_threads == 0  # onnxruntime's own
    limited(version_2(machine), 200_000)
    assert ort._session_options(DEFAULTS, False, b"").intra_op_num_threads == 2
    assert ort._session_options(SessionSettings(threads=5), False, b"").intra_op_num_threads == 5


def test_a_measurement_says_how_many_threads_that_are(machine):
    limited(version_2(machine), 300_000)
    assert BenchOptions().threads_each() == 3
    assert BenchOptions(threads=5).threads_each() == 5
    assert BenchOptions(workers=2).threads_each() == 1


def test_torch_computes_with_as_many_threads_and_the_callers_number_comes_back(machine, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    limited(version_2(machine), 200_000)
    with own_settings():
        assert asked == [2]
    assert asked == [2, 8]
    monkeypatch.setenv("OMP_NUM_THREADS", "6")  # the user's own word
    with own_settings():
        assert asked[2:] == []


def test_the_environment_of_a_measurement_has_the_quota_and_what_it_stopped(machine):
    folder = version_2(machine)
    limited(folder, 250_000)
    counted(folder, 100, 10)
    watch = MachineWatch()
    counted(folder, 120, 15)
    environment = watch.environment()
    assert (environment.cores, environment.cpu_quota, environment.throttled_share) == (2, 2.5, 0.25)
    assert wording.cores(environment) == "2 cores (a quota of 2.5)"


def test_without_a_quota_nothing_is_said_of_one(machine):
    environment = MachineWatch().environment()
    assert (environment.cpu_quota, environment.throttled_share) == (None, None)
    assert wording.cores(environment) == "8 cores"


def test_a_quota_without_accounts_tells_nothing_of_what_it_stopped(machine):
    folder = version_2(machine)
    limited(folder, 250_000)
    assert periods(cpu_quota()) is None
    counted(folder, 100, 10)
    assert periods(cpu_quota()) == Periods(100, 10)
    assert MachineWatch().environment().throttled_share is None  # no period has passed


def test_a_quota_that_stops_the_measurement_is_a_warning_with_the_remedy(machine):
    quiet = dataclasses.replace(
        MachineWatch().environment(), steal_share=0.0, other_load_share=0.0, cpu_quota=1.5, throttled_share=0.31
    )
    assert warnings_about_the_machine(quiet) == (
        "the quota of 1.5 cores was used up in 31% of its periods, and everything stood still until the next; "
        "take fewer threads with --threads, or raise the quota",
    )
    assert warnings_about_the_machine(dataclasses.replace(quiet, throttled_share=0.004)) == ()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the binding is Linux's")
def test_a_process_that_is_really_bound_counts_what_it_is_bound_to():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from aaexport.cores import usable_cores; print(usable_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1\n"
