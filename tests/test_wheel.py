"""The wheel, alone in a fresh environment, does what the README begins with."""

import subprocess
import sys
import venv
from pathlib import Path

import console
import pytest
from repository import ROOT

README = console.read_page(ROOT / "README.md")


def pip(python, *arguments):
    subprocess.run([str(python), "-m", "pip", *map(str, arguments)], check=True, cwd=Path(python).parent)


@pytest.mark.slow
def test_the_wheel_alone_does_the_first_example_of_the_readme(tmp_path):
    pip(sys.executable, "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    pip(python, "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{wheel}[digits]")
    terminal = console.Terminal(tmp_path / "terminal", str(python), source=None)
    for command in README.commands:
        outcome = terminal.run(README, command)
        starved = console.STARVED in outcome.printed
        assert outcome.code == (4 if starved else command.code), outcome.printed
    folder = terminal.folder(README)
    assert (folder / "net/model.onnx").is_file()
    code = "import aaexport; print(aaexport.__file__)"
    where = subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert where.startswith(str(tmp_path / "venv")), "it must be the wheel that ran"
