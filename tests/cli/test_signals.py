"""How a command, and a service, is told to end."""

import os
import signal
from contextlib import contextmanager

import pytest

from aaexport.cli import console, serve
from aaexport.cli.signals import ending_signals
from aaexport.pipeline.serve.stopping import Stopping

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system knows no closed terminal")


@pytest.fixture(autouse=True)
def handlers():
    """All as before, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_closed_terminal_ends_a_command_unless_nohup_started_it():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert ending_signals() == (signal.SIGTERM, signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert ending_signals() == (signal.SIGTERM,)


def test_a_service_that_nohup_started_is_not_told_of_a_closed_terminal():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopping = Stopping()
    serve._end_by_signal(stopping)
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stopping.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stopping.is_set()


def test_that_nobody_reads_what_a_service_says_ends_none_and_its_exit_code_stays(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr("sys.stderr", closed)
        with pytest.raises(BrokenPipeError):
            console.say("as every other command")
        serve.say("tiny is loaded anew (1 of 3)")
        console.say_error("tiny must answer right after 3 reloads")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # takes what is still held, when it is closed


def test_a_second_signal_is_said_and_ends_the_service_at_once(cli, converted, monkeypatch):
    """The first is told while it watches, the second while it drains."""
    ended = []

    class Running:
        def facts(self):
            return {"rest": "", "grpc": "", "metrics": "", "models": []}

        def keep(self):
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def serving(folders, wanted, site, say, stopping, waiting):
        yield Running()
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            ended.append(stopping.is_set())

    monkeypatch.setattr("aaexport.pipeline.serve.serve.serving", serving)
    monkeypatch.setattr("aaexport.pipeline.serve.site.find_site", lambda wanted: None)
    outcome = cli("serve", converted.path)
    assert outcome.code == 130
    said = [line for line in outcome.err.splitlines() if line]
    assert said == [
        "draining: what was accepted is still answered, and connections that clients keep are served for half a "
        "minute; once more ends it at once",
        "ended at once: what was accepted and not yet answered is lost",
        "Error: interrupted: no unfinished file was left behind",
    ]
    assert ended == [True]
