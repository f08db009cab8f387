"""What a command does at the moment: live on a terminal, plain lines in a pipe, nothing where quiet was asked for."""

import io
import os
import re
import select
import sys
import threading
import time

import pytest
from rich.console import Console

from aaexport.cli.console import settings
from aaexport.cli.progress import _Log, steps

QUIET, LONGEST = 0.05, 1.0  # seconds without a piece, less than between two refreshes, and of waiting altogether
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def log_of(width=60):
    clock = Clock()
    return _Log(Console(file=io.StringIO(), width=width), clock), clock


def test_a_step_stays_with_the_seconds_it_took():
    log, clock = log_of()
    log.begin("reading tiny")
    clock.now = 3.14
    log.begin("capturing")
    assert log.console.file.getvalue() == "reading tiny  3.1 s\n"


def test_the_line_tells_the_part_and_the_seconds_of_the_whole_step():
    log, clock = log_of()
    log.begin("verifying")
    clock.now = 2.0
    log.begin(" onnxruntime CPU")
    clock.now = 5.0
    assert log.line().plain == "verifying: onnxruntime CPU  5 s"


def test_the_next_step_has_none_of_the_parts_of_the_last():
    log, _ = log_of()
    log.begin("verifying")
    log.begin(" onnxruntime CPU")
    log.begin("writing")
    assert log.line().plain == "writing  0 s"


@pytest.mark.parametrize("width", [20, 40, 80])
def test_the_line_is_one_however_narrow_the_terminal_is(width):
    log, _ = log_of(width)
    log.begin("verifying: " + "a very long name " * 9)
    assert len(log.line().plain) < width
    assert log.line().plain.endswith("…  0 s")


class Terminal:
    """A pseudo terminal that takes the place of stderr while it is entered: pytest sets its own before each test."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.reader, writer = pytest.importorskip("pty").openpty()
        self.stderr = os.fdopen(writer, "w")

    def __enter__(self):
        self.monkeypatch.setattr(sys, "stderr", self.stderr)

    def __exit__(self, *error):
        self.monkeypatch.undo()

    def written(self):
        """Since the last time, without control sequences; the system hands it over in its own time, and in pieces."""
        self.stderr.flush()
        found, deadline = b"", time.monotonic() + LONGEST
        while time.monotonic() < deadline and select.select([self.reader], [], [], QUIET)[0]:
            found += os.read(self.reader, 65536)
        return CONTROL.sub("", found.decode())


@pytest.fixture
def terminal():
    with pytest.MonkeyPatch.context() as patch:
        terminal = Terminal(patch)
        yield terminal
        terminal.stderr.close()
        os.close(terminal.reader)


@pytest.fixture(autouse=True)
def xterm(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")


def test_on_a_terminal_the_first_line_is_there_at_once_and_the_steps_stay(terminal, capfd):
    before = set(threading.enumerate())
    with terminal, steps("reading tiny") as tell:
        assert "reading tiny  0 s" in terminal.written()
        tell("capturing")
        tell(" a part")
    lines = terminal.written().replace("\r", "\n").splitlines()
    assert [line for line in lines if re.fullmatch(r"(reading tiny|capturing)  \d+\.\d s", line)]
    assert set(threading.enumerate()) == before
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_runs_on_after_an_interrupt_and_no_step_is_told_as_done(terminal, error):
    before = set(threading.enumerate())
    with pytest.raises(error), terminal, steps("reading tiny") as tell:
        tell("capturing")
        raise error
    assert set(threading.enumerate()) == before
    written = terminal.written()
    assert "capturing\r\n" in written
    assert not re.search(r"capturing  \d+\.\d s", written)


def test_what_a_module_prints_on_stdout_is_no_part_of_the_live_line(terminal, capfd):
    with terminal, steps("importing net.py:Net"):
        print("of the module's own")
    assert capfd.readouterr().out == "of the module's own\n"


def test_a_pipe_has_a_line_a_step(capfd):
    with steps("reading tiny") as tell:
        tell("capturing")
        tell(" a part")
    assert capfd.readouterr().err == "capturing\n"


def test_verbose_tells_the_parts_in_a_pipe_too(capfd, monkeypatch):
    monkeypatch.setattr(settings, "verbose", True)
    with steps("reading tiny") as tell:
        tell("capturing")
        tell(" a part")
    assert capfd.readouterr().err == " reading tiny\ncapturing\n a part\n"


def test_quiet_is_quiet_on_a_terminal_too(terminal, monkeypatch):
    monkeypatch.setattr(settings, "quiet", True)
    with terminal, steps("reading tiny") as tell:
        tell("capturing")
    assert terminal.written() == ""


def test_a_terminal_that_cannot_change_a_line_gets_plain_ones(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with terminal, steps("reading tiny") as tell:
        tell("capturing")
    assert terminal.written() == "capturing\r\n"
