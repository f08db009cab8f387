"""README and examples are true: their commands run, and print what they are shown to print."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aaexport.parity import TOLERANCES

ROOT = Path(__file__).parent.parent
OWN_MODEL = ROOT / "examples" / "08_bring_your_own_model"
MAKEFILE = (ROOT / "Makefile").read_text()
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
STARVED = "of the CPU must be left to the measurement"  # the tests' other processes may take it
EXPECTED_CODES = {"aaexport convert aa_cnn3_digitz": 1, "aaexport convert aa_cnn3_digits --opset 99": 2}


def commands_of(path):
    """(command, lines shown below it) for every `$` line of the console blocks, in order."""
    commands = []
    for block in CONSOLE.findall(path.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append((line.removeprefix("$ "), []))
            elif line.strip():
                commands[-1][1].append(line)
    return commands


def words_of(line):
    """What of a line must be the same every time: its words, not its numbers, nor what depends on the machine."""
    return set(re.findall(r"[A-Za-z_]{3,}", line))


def run(command, folder):
    arguments = shlex.split(command)
    program = {"aaexport": ["-m", "aaexport"], "python": []}[arguments[0]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "110"}
    return subprocess.run(
        [sys.executable, *program, *arguments[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


README_COMMANDS = commands_of(ROOT / "README.md")
RUNNABLE = [(command, shown) for command, shown in README_COMMANDS if command.startswith("aaexport ")]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Where the README's commands run; the user's own network and checkpoint lie there."""
    folder = tmp_path_factory.mktemp("readme")
    for script in OWN_MODEL.glob("*.py"):
        shutil.copy(script, folder)
    subprocess.run([sys.executable, "make_checkpoint.py"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(("command", "shown"), RUNNABLE, ids=[command for command, _ in RUNNABLE])
def test_a_command_of_the_readme_prints_what_is_shown(command, shown, here):
    outcome = run(command, here)
    if "--baseline" in command and "no verdict on a regression: other processes took" in outcome.stderr:
        assert outcome.returncode == 4
        assert (here / "report.html").is_file()
        pytest.skip("other processes had the CPU, so there is no verdict on a regression")
    starved = command.startswith("aaexport serve-bench") and STARVED in outcome.stderr
    assert outcome.returncode == (4 if starved else EXPECTED_CODES.get(command, 0)), outcome.stderr
    printed = words_of(outcome.stdout + outcome.stderr)
    for line in shown:
        if line.startswith(("warning:", "VALID", "÷ ours", "withheld")):
            continue  # these lines depend on the machine, and on what else it is doing
        if "CPU stolen" in line or "× as fast as" in line:
            continue
        assert words_of(line) <= printed, f"not printed: {line}"


def test_the_readme_shows_the_four_main_commands():
    assert {"convert", "verify", "serve-bench", "train"} <= {command.split()[1] for command, _ in RUNNABLE}


def test_every_other_command_of_the_readme_is_a_make_target_or_goes_somewhere():
    for command, _ in README_COMMANDS:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", MAKEFILE, re.MULTILINE)
        elif not command.startswith(("aaexport ", "git clone ", "source .venv/bin/activate")):
            pytest.fail(f"{command} is run by no test")


def test_the_python_of_the_readme_runs(here):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    outcome = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=here, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


def test_the_first_example_runs_as_its_readme_says(tmp_path):
    (command, _), *_ = commands_of(ROOT / "examples/01_first_export/README.md")
    outcome = run(command.replace("export.py", str(ROOT / "examples/01_first_export/export.py")), tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "parity holds" in outcome.stdout
    assert (tmp_path / "digits.onnx").is_file()


@pytest.mark.slow
def test_the_example_of_an_own_model_runs_as_its_readme_says(here):
    shown_too = {command for command, _ in RUNNABLE if (here / "mine" / "model.onnx").is_file()}
    for command, _ in commands_of(OWN_MODEL / "README.md"):
        outcome = run(command, here) if command not in shown_too else None
        assert outcome is None or outcome.returncode == 0, outcome.stderr
    assert (here / "fast.onnx").is_file()


def test_the_demo_goes_the_whole_way(tmp_path):
    script = ROOT / "examples/02_train_to_latency/demo.py"
    outcome = run(f"python {script} --out {tmp_path} --epochs 1 --duration 0.5", tmp_path)
    assert outcome.returncode == (4 if STARVED in outcome.stderr else 0), outcome.stderr
    for label in ("test accuracy", "largest error", "latency", "speed", "files"):
        assert f"\n  {label}" in outcome.stdout
    assert (tmp_path / "aa_cnn3_digits" / "bench.json").is_file()


@pytest.mark.slow
def test_the_example_of_a_wrong_node_finds_it(tmp_path):
    outcome = run(f"python {ROOT / 'examples/06_find_the_wrong_node/break_it.py'}", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "broken stage: file" in outcome.stdout
    assert "first diverging node: node_softmax_1 (Softmax)" in outcome.stdout
    (shown,) = re.findall(r"^```text\n(error ÷.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for line in shown.splitlines():
        assert words_of(line) <= words_of(outcome.stdout), f"not printed: {line}"


@pytest.mark.parametrize(("precision", "runtime"), TOLERANCES)
def test_the_readme_tells_every_tolerance(precision, runtime):
    row = TOLERANCES[precision, runtime]
    told = f"| {row.atol:g} | {row.rtol:g} | {row.ratio:g} | {row.floor_ulps:g} | {row.reason} |"
    assert re.search(rf"^\| {precision}, .*{re.escape(told)}$", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_the_table_of_runtimes_tells_of_each_that_it_agrees_or_is_not_installed(tmp_path):
    folder = ROOT / "examples/05_run_elsewhere"
    (command, _), *_ = commands_of(folder / "README.md")
    outcome = run(command.replace("table.py", str(folder / "table.py")), tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    rows = outcome.stdout.splitlines()[2:]
    assert len(rows) == 4
    assert all("not installed" in row or row.count("agrees (") == 5 for row in rows), outcome.stdout


def test_the_side_that_is_compared_with_computes_the_definition():
    folder = ROOT / "examples/03_measure_attention"
    code = (
        "import sys, torch; sys.path[:0] = sys.argv[1:]\n"
        "from naive import naive\n"
        "from definition import attention\n"
        "torch.manual_seed(0)\n"
        "shapes = ((2, 3, 4, 5), (2, 3, 4, 5), (2, 2, 4, 5), (7, 3), (9, 3))\n"
        "inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]\n"
        "torch.testing.assert_close(naive(*inputs), attention(*inputs))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(ROOT / "tests")], check=True)


@pytest.mark.slow
def test_the_measurement_of_somebodys_networks_prints_its_table(tmp_path):
    command = f"python {OWN_MODEL}/measure.py --networks 10-1 --pairs 1 --seconds 0.05 --side 8"
    outcome = run(f"{command} --json {tmp_path}/rows.json", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 7
    assert all(f"| {row['what']} |" in outcome.stdout for row in rows)
    assert 0 < next(row["median"] for row in rows if "largest error" in row["what"]) < 1e-5


@pytest.mark.slow
def test_the_measurement_of_attention_prints_its_table(tmp_path):
    script = ROOT / "examples/03_measure_attention/measure.py"
    outcome = run(f"python {script} --quick --rounds 1 --seconds 0.05 --json {tmp_path}/rows.json", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("naive ÷ ours") == 8
    assert "--no-verify, seconds" in outcome.stdout
    assert (tmp_path / "rows.json").is_file()
