"""A headless browser is ended whole, wherever its start breaks off."""

import subprocess
from pathlib import Path

import pytest

from aaexport.errors import ProviderError
from aaexport.runners import browser
from aaexport.runners.browser import Browser

FILES = Path("/proc/self/fd")


@pytest.fixture
def rooms(monkeypatch, tmp_path):
    """Where profiles lie, with a browser on the PATH that says something and ends."""
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho no display >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(browser, "find_browser", lambda: str(program))
    monkeypatch.setattr(browser.tempfile, "tempdir", str(tmp_path))
    return lambda: [path.name for path in tmp_path.iterdir() if path.name.startswith("aaexport-browser-")]


def open_files():
    return {path.name for path in FILES.iterdir()}


def breaking(error):
    def broken(*args, **kwargs):
        raise error

    return broken


def after(count, own, error):
    """The function, which breaks at call number `count` + 1."""
    calls = []

    def called(*args):
        calls.append(args)
        if len(calls) > count:
            raise error
        return own(*args)

    return called


@pytest.mark.skipif(not FILES.is_dir(), reason="open files are counted by /proc")
@pytest.mark.parametrize(
    ("spoil", "raised", "said"),
    [
        (lambda patch: None, ProviderError, "does not start: the browser ended, and said: no display"),
        (lambda patch: patch.setattr(browser, "_pipe", breaking(OSError(24, "Too many open files"))), ProviderError,
         "does not start: .*Too many open files"),
        (lambda patch: patch.setattr(browser, "_pipe", after(1, browser._pipe, OSError(24, "Too many open files"))),
         ProviderError, "Too many open files"),
        (lambda patch: patch.setattr(subprocess, "Popen", breaking(OSError(11, "no processes left"))), ProviderError,
         "does not start: .*no processes left"),
        (lambda patch: patch.setattr(subprocess, "Popen", breaking(KeyboardInterrupt())), KeyboardInterrupt, None),
        (lambda patch: patch.setattr(Browser, "_attach", breaking(KeyboardInterrupt())), KeyboardInterrupt, None),
    ],
    ids=["it ends", "no pipe", "one pipe", "no process", "Ctrl-C at its start", "Ctrl-C once it runs"],
)  # fmt: skip
def test_a_browser_that_does_not_start_leaves_nothing(rooms, monkeypatch, spoil, raised, said):
    before = open_files()
    with monkeypatch.context() as patch:
        spoil(patch)
        with pytest.raises(raised, match=said):
            Browser()
    assert not rooms()
    assert open_files() == before


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("", ""),
        ("\n no display \n", "no display"),
        (
            "it needs the snap.\nInstall it with:\n\nsnap install chromium\n",
            "it needs the snap. Install it with: snap install chromium",
        ),
        ("[1:ERROR:a] bus\n[2:FATAL:b] No usable sandbox!\n#0 0x1\n#1 0x2\n", "[2:FATAL:b] No usable sandbox!"),
        ("a\nb\nc\nlibnss3.so: no such file\n", "libnss3.so: no such file"),
    ],
)
def test_what_ended_it_is_told_in_its_own_words(log, told):
    assert browser._last_words(log) == told
