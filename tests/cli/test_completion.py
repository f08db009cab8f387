"""What a shell offers after Tab, without a heavy library."""

import subprocess
import sys

import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from aaexport.cli.main import aaexport
from aaexport.folder import DTYPES, zoo_models
from aaexport.pipeline.bench import option_rules as bench
from aaexport.pipeline.bench import rival_names
from aaexport.pipeline.verify import options as verification

RIVAL_WORDS = ["eager", "compile", "skew", "in-process", "float32", "float16", "int8"]
WAY_WORDS = ["eager:channels-last", "eager:autocast", "compile:max-autotune"]


def offered(*words, kind=None):
    """Values for the last word; with `kind` those of that type only."""
    found = ShellComplete(aaexport, {}, "aaexport", "_AAEXPORT_COMPLETE").get_completions([*words[:-1]], words[-1])
    return [item.value for item in found if kind is None or item.type == kind]


def test_commands():
    assert offered("con") == ["convert"]
    assert {"serve-bench", "list"} <= set(offered(""))


@pytest.mark.parametrize("command", ["convert", "verify", "serve-bench", "tune", "inspect", "train"])
def test_models_by_name_and_by_path(command):
    names = [name for name in zoo_models() if name.startswith("aa_cnn3")]
    assert offered(command, "aa_cnn3", kind="plain") == names
    assert offered(command, "aa_cnn3", kind="file") == ["aa_cnn3"]


def test_several_models_are_completed_one_by_one():
    assert "resnet34" in offered("train", "--compare", "aa_resnet34", "resnet3")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("serve-bench", "--scenario", ""), list(bench.SCENARIOS)),
        (("serve-bench", "--scenario", "s"), ["single-stream", "server"]),
        (("serve-bench", "--arrivals", ""), list(bench.ARRIVALS)),
        (("serve-bench", "--rules", ""), ["quick", "mlperf"]),
        (("deploy", "--to", "k"), ["kserve"]),
        (("serve-bench", "--cudnn-search", "H"), ["HEURISTIC"]),
        (("serve-bench", "--compare", ""), [*RIVAL_WORDS, *WAY_WORDS, "onnx:", "folder:", "none"]),
        (
            ("serve-bench", "--compare", "eager,"),
            [f"eager,{one}" for one in (*RIVAL_WORDS[1:], *WAY_WORDS, "onnx:", "folder:")],
        ),
        (("serve-bench", "--compare", "eager,sk"), ["eager,skew"]),
        (("verify", "--runtimes", ""), list(verification.RUNTIMES)),
        (("verify", "--runtimes", "reference,o"), ["reference,onnxruntime", "reference,openvino"]),
        (("verify", "--dtype", "b"), ["bfloat16"]),
        (("convert", "--decomposition", "f"), ["fold", "fused"]),
        (("convert", "--batch", "d"), ["dynamic"]),
        (("convert", "--target", ""), ["cpu", "cuda"]),
        (("train", "--amp", ""), ["bf16", "fp16"]),
        (("train", "--init", "wrn10"), ["wrn10_1_digits", "wrn10"]),
        (("inspect", "--quer"), ["--query"]),
    ],
)
def test_what_is_typed_behind_an_option(words, values):
    assert offered(*words) == values


def test_the_words_are_those_that_are_known():
    assert offered("serve-bench", "--compare", "")[:7] == [*rival_names.RIVALS, *DTYPES] == RIVAL_WORDS
    assert all(rival_names.torch_ways(word) for word in WAY_WORDS)


def test_devices_are_those_of_the_machine(monkeypatch, tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr("aaexport.cli.types.DEVICE_FILES", tmp_path)
    assert offered("tune", "--device", "") == ["cpu", "cuda", "cuda:0", "cuda:1"]


def test_paths_within_a_list_are_completed_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.onnx").touch()
    assert offered("serve-bench", "--compare", "eager,onnx:mo") == ["eager,onnx:models/"]
    assert offered("serve-bench", "--compare", "onnx:models/") == ["onnx:models/a.onnx"]
    assert offered("serve-bench", "--compare", "onnx:nowhere/") == []


@pytest.mark.parametrize("shell", [BashComplete, ZshComplete, FishComplete])
def test_every_shell_has_its_script(shell):
    source = shell.source_template % shell(aaexport, {}, "aaexport", "_AAEXPORT_COMPLETE").source_vars()
    assert "_AAEXPORT_COMPLETE" in source


def test_completing_loads_no_heavy_library():
    code = (
        "import sys\n"
        "from click.shell_completion import ShellComplete\n"
        "from aaexport.cli.main import aaexport\n"
        "shell = ShellComplete(aaexport, {}, 'aaexport', '_AAEXPORT_COMPLETE')\n"
        "for command in ('convert', 'verify', 'serve-bench', 'train', 'inspect', 'tune'):\n"
        "    assert shell.get_completions([command], 'aa_cnn3_digits')\n"
        "    assert shell.get_completions([command], '--')\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
