"""The folder of a service: in use as long as one of its processes lives, swept after that."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from aaexport.errors import FolderError
from aaexport.serving import scratch
from aaexport.serving.scratch import OWNED, PREFIX, new_scratch, sweep

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")
NAMED = "aaexport-17-0123abcd-"
# One that is killed; what stands beside it, as its guard does, lives on.
KILLED = """
import os, subprocess, sys
from aaexport.serving.scratch import new_scratch
made = new_scratch({named!r})
guard = subprocess.Popen(["sleep", "60"], pass_fds=(made.lock,))
print(made.path, guard.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(scratch, "SHARED_MEMORY", tmp_path / "shm")
    for name in ("tmp", "shm"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_folder_in_use_stays_and_goes_with_its_owner(room):
    made = new_scratch(NAMED)
    sweep()
    other = new_scratch("aaexport-18-0123abcd-")
    assert made.path.is_dir()
    made.remove()
    made.remove()
    assert list((room / "tmp").iterdir()) == [other.path]
    other.remove()


def test_what_a_killed_family_has_left_is_swept_at_the_next_start_and_not_before(room):
    env = {**os.environ, "TMPDIR": str(room / "tmp")}
    code = KILLED.format(named=NAMED)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as owner:
        path, guard = owner.stdout.readline().split()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        for region in (f"{NAMED}1", "aaexport-17-else-1", "others"):
            (room / "shm" / region).touch()
        sweep()
        assert Path(path).is_dir(), "its guard is still at work"
        os.kill(int(guard), signal.SIGKILL)
        while Path(f"/proc/{guard}/fd").exists() and any(Path(f"/proc/{guard}/fd").iterdir()):
            pass
    made = new_scratch("aaexport-19-0123abcd-")
    assert list((room / "tmp").iterdir()) == [made.path]
    assert {region.name for region in (room / "shm").iterdir()} == {"aaexport-17-else-1", "others"}
    made.remove()


@pytest.mark.parametrize("says", ["", "*", "../aaexport-", "aaexport-", "aaexport-../-"])
def test_nothing_but_regions_of_ours_is_removed(room, says):
    left = room / "tmp" / f"{PREFIX}left"
    left.mkdir()
    (left / OWNED).write_text(says)
    for name in ("aaexport-x", "others"):
        (room / "shm" / name).touch()
    sweep()
    assert not left.exists()
    assert {region.name for region in (room / "shm").iterdir()} == {"aaexport-x", "others"}


def test_what_does_not_say_whose_it_is_stays(room):
    (room / "tmp" / f"{PREFIX}new").mkdir()
    (room / "elsewhere").mkdir()
    (room / "elsewhere" / OWNED).write_text(NAMED)
    (room / "tmp" / f"{PREFIX}link").symlink_to(room / "elsewhere")
    (room / "tmp" / f"{PREFIX}file").touch()
    sweep()
    assert len(list((room / "tmp").iterdir())) == 3
    assert (room / "elsewhere" / OWNED).is_file()


def test_no_room_is_said(room):
    (room / "tmp").rmdir()
    with pytest.raises(FolderError, match="/tmp cannot be written: No such file"):
        new_scratch(NAMED)
