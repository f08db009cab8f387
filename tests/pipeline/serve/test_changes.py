"""What takes over while a service goes on: prepared beside it, one change at a time, and ended with it."""

import errno
import hashlib
import json
import os
import threading
import time
from typing import ClassVar

import pytest
from served import facts, query

from aaexport.errors import FolderError, GraphError, RunnerError
from aaexport.folder import ModelFolder, data_file_name
from aaexport.pipeline.serve import child, incoming, serve
from aaexport.pipeline.serve.again import Again
from aaexport.pipeline.serve.incoming import PATIENCE, SETTLE, Incoming
from aaexport.pipeline.serve.live import Live
from aaexport.pipeline.serve.options import ServeOptions
from aaexport.pipeline.serve.order import Prepared
from aaexport.pipeline.serve.rollback import rollback
from aaexport.pipeline.serve.serve import Serving
from aaexport.pipeline.serve.stopping import Stopping
from aaexport.serving import versions
from aaexport.serving.repository import RepositorySettings
from aaexport.serving.served import Served
from aaexport.serving.versions import (
    Version,
    change_lock,
    holding,
    read_served,
    record_path,
    version_folder,
    write_served,
)

FIRST, SECOND, THIRD = (Version(number, f"{number:064x}", "2026-01-31T09:30:00Z") for number in (1, 2, 3))


class Preparation:
    """One that is done when the test says so."""

    made: ClassVar = []

    def __init__(self, order):
        self.order, self.came, self.stopped = order, None, False
        self.made.append(self)

    def is_done(self):
        return self.came is not None

    def result(self):
        if isinstance(self.came, Exception):
            raise self.came
        return Prepared(facts(golden=(query(),)), self.came, 1)

    def stop(self):
        self.stopped = True


class FakeService:
    class engine:  # noqa: N801
        backend = "python"

    class process:  # noqa: N801
        alive = staticmethod(lambda: True)

    def __init__(self):
        self.asked, self.switched = 0, []

    def glance(self, served, name):
        self.asked += 1

    def dead_models(self):
        return frozenset()

    def end_hanging(self):
        return {}

    def switch(self, old, new):
        self.switched.append((old.version, new.version))


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A service of version 2, with version 1 to go back to and a file that it has seen."""
    monkeypatch.setattr(serve, "Preparation", Preparation)
    monkeypatch.setattr(Preparation, "made", [])
    folder = ModelFolder(tmp_path)
    folder.onnx_path.write_bytes(b"2")
    said = []
    running = Serving(FakeService(), ServeOptions(watch=True, check_every=1e-9), said.append, Stopping())
    for version in (FIRST, SECOND, THIRD):
        version_folder(tmp_path, version.number).mkdir(parents=True)
        (version_folder(tmp_path, version.number) / "model.onnx").write_bytes(b"kept")
    with holding(tmp_path):
        write_served(tmp_path, read_served(tmp_path).with_current(FIRST).with_current(SECOND))
    served = Served(facts(golden=(query(),)), 2, RepositorySettings())
    running.live.append(Live(folder, tmp_path, served, SECOND, Incoming(folder, "float32"), None))
    running._record(running.live[0])
    running.said = said
    yield running
    for live in running.live:
        if live.change is not None:
            live.change.end()


def convert(running):
    (live,) = running.live
    live.folder.onnx_path.write_bytes(b"another file")
    live.folder.manifest_path.write_text("{}")


def follow(running):
    running._follow(running.live[0])


def test_golden_vectors_are_asked_while_a_conversion_is_prepared_and_the_end_does_not_wait_for_it(running):
    convert(running)
    thread = threading.Thread(target=running.keep)
    thread.start()
    deadline = time.monotonic() + 30
    while not Preparation.made or running.service.asked < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.stopping.set()
    thread.join(30)
    assert not thread.is_alive()
    (preparation,) = Preparation.made
    assert preparation.stopped
    assert not running.service.switched
    change_lock(running.live[0].keep, wait=False).close()


def test_a_prepared_conversion_takes_over_and_is_recorded(running):
    convert(running)
    follow(running)
    follow(running)
    (preparation,) = Preparation.made
    preparation.came = THIRD
    follow(running)
    assert running.service.switched == [(2, 3)]
    assert read_served(running.live[0].keep).current == 3
    assert "a new conversion is checked, version 2 serves meanwhile" in running.said[0]
    assert "version 3 serves instead of 2" in running.said[-1]
    follow(running)
    assert len(Preparation.made) == 1


def test_when_a_change_is_told_a_rollback_may_follow_at_once(running):
    convert(running)
    follow(running)
    Preparation.made[0].came = THIRD
    went_back = []
    running._say = lambda line: went_back.append(rollback(running.live[0].folder)) if "instead of" in line else None
    follow(running)
    assert went_back == [(3, 2)]


def test_a_file_that_is_what_is_served_already_changes_nothing(running):
    convert(running)
    follow(running)
    Preparation.made[0].came = SECOND
    follow(running)
    assert not running.service.switched
    assert running.said[-1].endswith("version 2 stays: it is what is to be served")


def test_one_that_is_refused_is_not_taken_and_looked_at_once(running):
    convert(running)
    follow(running)
    Preparation.made[0].came = GraphError("model.onnx must be a whole ONNX file")
    follow(running)
    follow(running)
    assert "refused, version 2 stays: model.onnx must be a whole ONNX file" in running.said[-1]
    assert len(Preparation.made) == 1


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test lets pass."""
    now = [time.monotonic()]
    monkeypatch.setattr(incoming.time, "monotonic", lambda: now[0])

    def pass_(seconds):
        now[0] += seconds

    return pass_


def record_file(folder, file=b"another file", name="model.onnx"):
    files = {name: {"sha256": hashlib.sha256(file).hexdigest(), "bytes": len(file)}}
    folder.manifest_path.write_text(json.dumps({"files": files}))


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("names", [("model.onnx",), ("manifest.json",), ("model.onnx", "manifest.json")])
def test_what_was_only_touched_is_not_new(running, clock, is_refused, names):
    (live,) = running.live
    follow(running)
    if is_refused:
        convert(running)
        follow(running)
        Preparation.made[0].came = GraphError("broken")
        follow(running)
    else:
        record_file(live.folder, b"2")
        follow(running)
    made, said = len(Preparation.made), list(running.said)
    for name in names:  # one as `touch` does, and one as a copy does
        path = live.folder.path / name
        os.utime(path, (5, 5)) if name == "manifest.json" else path.write_bytes(path.read_bytes())
    for _ in range(3):
        follow(running)
        clock(PATIENCE + 1)
    assert (len(Preparation.made), running.said) == (made, said)
    live.folder.onnx_path.write_bytes(b"a third file")
    clock(PATIENCE + 1)
    follow(running)
    clock(PATIENCE + 1)
    follow(running)
    assert len(Preparation.made) == made + 1


def test_a_file_whose_manifest_comes_much_later_is_waited_for_and_then_judged(running, clock):
    (live,) = running.live
    record_file(live.folder, b"2")
    os.utime(live.folder.manifest_path, (1, 1))
    live.folder.onnx_path.write_bytes(b"another file")
    for _ in range(4):
        follow(running)
        clock(SETTLE * 0.9)
    follow(running)
    (line,) = running.said
    assert (
        line == f"{live.folder.onnx_path} is new, and not what manifest.json records: waiting for what goes with it"
    )
    assert not Preparation.made
    record_file(live.folder)
    follow(running)
    assert len(Preparation.made) == 1


def test_what_never_becomes_whole_is_judged_in_the_end_and_again_when_its_manifest_changes(running, clock):
    (live,) = running.live
    record_file(live.folder, b"2")
    os.utime(live.folder.manifest_path, (1, 1))
    live.folder.onnx_path.write_bytes(b"another file")
    follow(running)
    clock(PATIENCE + 1)
    follow(running)
    Preparation.made[0].came = FolderError("model.onnx must be the file that manifest.json records")
    for _ in range(3):
        follow(running)
        clock(PATIENCE + 1)
    assert len(Preparation.made) == 1
    record_file(live.folder)
    follow(running)
    assert len(Preparation.made) == 2


def test_a_file_that_grows_is_not_judged_and_one_without_any_manifest_soon(running, clock):
    (live,) = running.live
    for size in range(10, 15):
        live.folder.onnx_path.write_bytes(b"a" * size)
        follow(running)
        clock(SETTLE * 0.9)
    assert not Preparation.made
    clock(SETTLE * 0.2)
    follow(running)
    assert len(Preparation.made) == 1


def test_numbers_beside_the_file_that_are_not_all_there_are_waited_for(running):
    (live,) = running.live
    data = live.folder.path / data_file_name("model.onnx", "ab" * 8)
    live.folder.onnx_path.write_bytes(b"another file")
    record_file(live.folder, b"numbers", data.name)
    follow(running)
    data.write_bytes(b"num")
    follow(running)
    assert not Preparation.made
    data.write_bytes(b"numbers")
    follow(running)
    assert len(Preparation.made) == 1


def test_a_manifest_that_is_written_anew_beside_what_is_served_changes_nothing(running):
    convert(running)
    follow(running)
    Preparation.made[0].came = THIRD
    follow(running)
    record_file(running.live[0].folder)
    follow(running)
    assert len(Preparation.made) == 1


def test_a_version_that_was_chosen_and_is_refused_is_told_with_what_chooses_the_other(running):
    (live,) = running.live
    rollback(live.folder)
    follow(running)
    Preparation.made[0].came = GraphError("model.onnx must be a whole ONNX file")
    follow(running)
    way = f"`aaexport serve --rollback --to-version 2 {live.folder.path}` chooses what is served"
    why = "model.onnx must be a whole ONNX file; it is tried again in 30 s, and then less often"
    assert running.said[-1].endswith(f"refused, version 2 stays: {why}; {way}")
    assert rollback(live.folder, to_version=2) == (1, 2)
    follow(running)
    assert len(Preparation.made) == 1


DIED = RunnerError("my_model must be read and run once, but: its process ended with -9")


def test_a_version_that_was_chosen_is_tried_again_ever_less_often_and_says_what_is_new(running, clock):
    (live,) = running.live
    rollback(live.folder)
    follow(running)
    tries = [(DIED, 30), (DIED, 60), (FolderError("no room: 7 MiB"), 120), (FolderError("no room: 5 MiB"), 240)]
    for number, (error, pause) in enumerate(tries, 1):
        Preparation.made[-1].came = error
        follow(running)
        follow(running)
        clock(pause - 1)
        follow(running)
        assert len(Preparation.made) == number
        clock(2)
        follow(running)
        assert [one.order.number for one in Preparation.made] == [1] * (number + 1)
    checked, died, room = running.said
    assert "is checked" in checked
    assert "its process ended with -9; it is tried again in 30 s, and then less often; `aaexport serve" in died
    assert "no room: 7 MiB" in room
    Preparation.made[-1].came = FIRST
    follow(running)
    assert running.service.switched == [(2, 1)]
    assert "version 1 serves instead of 2" in running.said[-1]
    clock(10000)
    follow(running)
    assert len(Preparation.made) == len(tries) + 1


def test_a_pause_is_ten_minutes_at_most(clock):
    again = Again()
    for _ in range(9):
        again.failed("a reason")
    clock(599)
    assert not again.is_due()
    clock(2)
    assert again.is_due()


def test_when_another_version_is_chosen_the_one_before_is_not_tried_again(running, clock):
    (live,) = running.live
    rollback(live.folder)
    follow(running)
    Preparation.made[0].came = DIED
    follow(running)
    rollback(live.folder, to_version=2)
    clock(1000)
    follow(running)
    follow(running)
    assert len(Preparation.made) == 1


@pytest.mark.parametrize(("error", "is_again"), [(DIED, True), (GraphError("broken"), False)])
def test_a_new_conversion_is_tried_again_where_its_file_was_not_at_fault(running, clock, error, is_again):
    convert(running)
    follow(running)
    Preparation.made[0].came = error
    follow(running)
    assert ("tried again" in running.said[-1]) == is_again
    clock(40)
    follow(running)
    assert len(Preparation.made) == 1 + is_again
    if is_again:
        Preparation.made[1].came = THIRD
        follow(running)
        assert running.service.switched == [(2, 3)]


def test_a_folder_that_cannot_be_read_just_now_has_nothing_new(running, monkeypatch):
    def fails(path, **words):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as closed:
        closed.setattr("pathlib.Path.stat", fails)
        closed.setattr("pathlib.Path.iterdir", fails)
        assert not running.live[0].incoming.is_due(running._say)
    follow(running)
    assert not Preparation.made
    assert not running.said


def test_where_no_process_can_be_started_what_serves_goes_on(running, monkeypatch):
    def fails(order):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    convert(running)
    with monkeypatch.context() as broken:
        broken.setattr(serve, "Preparation", fails)
        follow(running)
        follow(running)
    (line,) = running.said
    assert "version 2 stays: no process can be started to check what is to take over" in line
    record_file(running.live[0].folder)
    follow(running)
    assert len(Preparation.made) == 1


def test_where_a_process_can_be_started_again_it_is(running, monkeypatch, clock):
    def fails(order):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    convert(running)
    with monkeypatch.context() as broken:
        broken.setattr(serve, "Preparation", fails)
        for pause in (0, 31, 61):
            clock(pause)
            follow(running)
    assert len(running.said) == 1
    clock(121)
    follow(running)
    assert len(Preparation.made) == 1


def test_a_chosen_version_for_which_no_process_can_be_started_is_told_with_the_way_on(running, monkeypatch):
    def fails(*words, **options):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    (live,) = running.live
    rollback(live.folder)
    with monkeypatch.context() as broken:
        broken.setattr(serve, "Preparation", child.Preparation)
        broken.setattr("subprocess.Popen", fails)
        follow(running)
    (line,) = running.said
    assert "(the system must have room for one more process, got: Resource temporarily unavailable; " in line
    assert line.endswith(f"; `aaexport serve --rollback --to-version 2 {live.folder.path}` chooses what is served")
    record_file(live.folder, b"2")
    follow(running)
    assert not Preparation.made, "the file was not refused"


def test_another_precisions_version_is_not_this_ones(running):
    with holding(running.live[0].keep):
        write_served(running.live[0].keep, versions.Served().with_current(THIRD), "int8")
    follow(running)
    follow(running)
    assert not Preparation.made
    assert not running.said


def test_a_rollback_during_a_change_is_refused_with_a_line_and_obeyed_after_it(running):
    (live,) = running.live
    convert(running)
    follow(running)
    with pytest.raises(
        FolderError, match=r"rollback must not meet a change of version, got one of .* under way; say"
    ):
        rollback(live.folder)
    Preparation.made[0].came = THIRD
    follow(running)
    assert rollback(live.folder) == (3, 2)
    follow(running)
    assert Preparation.made[1].order.number == 2
    Preparation.made[1].came = SECOND
    follow(running)
    assert running.service.switched == [(2, 3), (3, 2)]
    assert read_served(live.keep).current == 2


def test_a_version_that_was_chosen_comes_before_a_new_conversion(running):
    (live,) = running.live
    rollback(live.folder)
    convert(running)
    follow(running)
    assert Preparation.made[0].order.number == 1
    assert running.said == [
        f"{live.folder.path}: version 1, which was chosen, is checked, version 2 serves meanwhile"
    ]


def test_what_is_chosen_in_the_moment_in_which_another_version_is_begun_comes_first(running, monkeypatch):
    (live,) = running.live
    rollback(live.folder)

    def meanwhile(keep, *, wait):
        if read_served(keep).current == 1:
            rollback(live.folder, to_version=2)
        return change_lock(keep, wait=wait)

    monkeypatch.setattr(serve, "change_lock", meanwhile)
    follow(running)
    follow(running)
    assert not Preparation.made
    assert read_served(live.keep).current == 2


def test_while_somebody_else_changes_what_is_served_nothing_is_begun_and_nothing_forgotten(running):
    (live,) = running.live
    with change_lock(live.keep, wait=False):
        convert(running)
        follow(running)
        assert not Preparation.made
    follow(running)
    assert len(Preparation.made) == 1


def test_the_record_is_not_touched_by_a_rollback_that_is_refused(running):
    (live,) = running.live
    before = record_path(live.keep).read_bytes()
    with change_lock(live.keep, wait=False), pytest.raises(FolderError):
        rollback(live.folder)
    assert record_path(live.keep).read_bytes() == before
