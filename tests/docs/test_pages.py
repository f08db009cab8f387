"""The pages are true: their commands run and print what they are shown to print, and their Python runs."""

import os
import re
import subprocess
import sys

import console
import pytest
from repository import ROOT

import aaexport

PAGES = console.pages()
SHOWN = [
    pytest.param(page, command, id=f"{page}:{command.text}", marks=[pytest.mark.slow] if command.slow else [])
    for page in PAGES
    for command in page.commands
    if command.line
]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WITH_PYTHON = [
    pytest.param(page, id=str(page), marks=[pytest.mark.slow] if page.slow else []) for page in PAGES if page.python
]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    """Where the pages' commands run; what begins alike is run once."""
    return console.Terminal(tmp_path_factory.mktemp("pages") / "terminal")


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_a_command_prints_what_is_shown(page, command, terminal):
    outcome = terminal.run(page, command)
    if "--baseline" in command.text and console.NO_VERDICT in outcome.printed:
        assert outcome.code == 4
        assert (terminal.folder(page) / "report.html").is_file()
        pytest.skip("other processes had the CPU, so there is no verdict on a regression")
    if "--baseline" in command.text and console.NO_BASELINE in outcome.printed:
        assert outcome.code == 1
        pytest.skip("other processes had the CPU, so the first measurement is no baseline")
    starved = "aaexport serve-bench" in command.text and console.STARVED in outcome.printed
    assert outcome.code == (4 if starved else command.code), outcome.printed
    assert not console.differences(command, outcome), outcome.printed


def test_what_is_shown_is_compared_line_by_line():
    command = console.Command("aaexport convert x", ("opset      20", "took       6.5 s"))
    assert not console.differences(command, console.Outcome("opset      20\ntook       7.1 s\n", 0))
    assert console.differences(command, console.Outcome("opset      21\ntook       7.1 s\n", 0))
    assert console.differences(command, console.Outcome("took       7.1 s\nopset      20\n", 0))
    assert console.differences(command, console.Outcome("opset      20\ntook       7.1 s\nmore\n", 0))
    elided = console.Command("aaexport convert x", ("…", "took       6.5 s"))
    assert not console.differences(elided, console.Outcome("opset      20\ntook       7.1 s\n", 0))
    assert console.differences(elided, console.Outcome("opset      20\n", 0))


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs_after_its_commands(page, terminal):
    outcome = subprocess.run(
        [sys.executable, "-c", page.python],
        cwd=terminal.folder(page),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_what_is_not_run_says_so(page):
    """A block of sh is not run, and what stands below it says why: to readers, in the README to writers alone."""
    text = page.path.read_text(encoding="utf-8")
    for block in re.finditer(r"^```sh\n.*?^```$", text, re.MULTILINE | re.DOTALL):
        after = text[block.end() : block.end() + 300]
        assert "Not run by the tests" in after, f"{page}: {block[0]}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_dollar_stands_in_another_block(page):
    """What looks like a console is one."""
    for language, block in re.findall(
        r"^```([a-z{][^\n]*)?\n(.*?)^```$", page.path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        assert language == "console" or not re.search(r"^\$ ", block, re.MULTILINE), f"{page}: {block}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_tells_of_no_machine(page):
    text = page.path.read_text(encoding="utf-8")
    assert not re.findall(r"(?:/root/|/home/|/tmp/|site-packages)\S*", text)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_target_of_make_is_one(page):
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.path.read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_the_four_main_commands_are_shown():
    shown = {command.text.split()[1] for page in PAGES for command in page.commands if "aaexport" in command.text}
    assert {"convert", "verify", "serve-bench", "train", "tune", "optimize", "inspect", "list"} <= shown


def test_every_public_name_is_on_the_page_of_python():
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    for name in aaexport.__all__:
        assert re.search(rf"\b{name}\b", page) or name == "__version__", name
