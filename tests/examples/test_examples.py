"""The examples are true: their scripts run as their READMEs say."""

import json
import os
import shlex
import subprocess
import sys

import console
import pytest
from repository import HELPERS, ROOT

OWN_MODEL = ROOT / "examples" / "08_bring_your_own_model"


def commands_of(path):
    """The commands of a README beside an example."""
    return [command.text for command in console.read_page(path).commands]


def run(command, folder):
    arguments = shlex.split(command)
    program = {"aaexport": ["-m", "aaexport"], "python": []}[arguments[0]]
    return subprocess.run(
        [sys.executable, *program, *arguments[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_first_example_runs_as_its_readme_says(tmp_path):
    command, *_ = commands_of(ROOT / "examples/01_first_export/README.md")
    outcome = run(command.replace("export.py", str(ROOT / "examples/01_first_export/export.py")), tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "parity holds" in outcome.stdout
    assert (tmp_path / "digits.onnx").is_file()


@pytest.mark.slow
def test_the_example_of_an_own_model_runs_as_its_readme_says(tmp_path):
    for script in OWN_MODEL.glob("*.py"):
        (tmp_path / script.name).write_bytes(script.read_bytes())
    for command in commands_of(OWN_MODEL / "README.md"):
        outcome = run(command, tmp_path)
        assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "fast.onnx").is_file()


@pytest.mark.slow
def test_the_demo_goes_the_whole_way(tmp_path):
    script = ROOT / "examples/02_train_to_latency/demo.py"
    outcome = run(f"python {script} --out {tmp_path} --epochs 1 --duration 0.5", tmp_path)
    assert outcome.returncode == (4 if console.STARVED in outcome.stderr else 0), outcome.stderr
    for label in ("test accuracy", "largest error", "latency", "speed", "files"):
        assert f"\n  {label}" in outcome.stdout
    assert (tmp_path / "aa_cnn3_digits" / "bench.json").is_file()


@pytest.mark.slow
def test_the_example_of_a_wrong_node_finds_it(tmp_path):
    outcome = run(f"python {ROOT / 'examples/06_find_the_wrong_node/break_it.py'}", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "broken stage: file" in outcome.stdout
    assert "first diverging node: node_softmax_1 (Softmax)" in outcome.stdout


@pytest.mark.slow
def test_the_table_of_runtimes_tells_of_each_that_it_agrees_or_is_not_installed(tmp_path):
    folder = ROOT / "examples/05_run_elsewhere"
    command, *_ = commands_of(folder / "README.md")
    outcome = run(command.replace("table.py", str(folder / "table.py")), tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    rows = outcome.stdout.splitlines()[2:]
    assert len(rows) == 4
    assert all("not installed" in row or row.count("agrees (") == 5 for row in rows), outcome.stdout


@pytest.mark.slow
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
    subprocess.run([sys.executable, "-c", code, str(folder), str(HELPERS)], check=True)


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


@pytest.mark.slow
def test_the_measurement_of_a_training_step_prints_its_table(tmp_path):
    script = ROOT / "examples/03_measure_attention/training.py"
    outcome = run(f"python {script} --network cnn3_digits --batch 16 --rounds 2", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    sides = [row.split("|")[1].strip() for row in outcome.stdout.splitlines()[2:]]
    assert sides == ["tiles", "blocks", "conv"]


@pytest.mark.slow
def test_the_choice_of_a_decomposition_is_measured_and_judged_again(tmp_path):
    script = ROOT / "examples/03_measure_attention/cost_model.py"
    measured = run(f"python {script} --quick --seconds 0.1 --json {tmp_path}/measured.json", tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert "| 4×4, 2 heads, dkh 4, dvh 2, batch 1 | fold |" in measured.stdout
    assert run(f"python {script} --judge {tmp_path}/measured.json", tmp_path).stdout == measured.stdout
