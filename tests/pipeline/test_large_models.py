"""Models above protobuf's 2 GiB, from `convert` to `serve-bench`, with an external data file beside the ONNX file.

The limit is set to 4 KiB, and the models are small. One of 2.3 GiB is converted, verified and measured as it is.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from folders import files_of
from low_limits import low_limits
from outcomes import error_of
from repository import ROOT
from torch import nn

import aaexport
from aaexport.errors import FolderError
from aaexport.folder import is_data_file, open_folder, sha256
from aaexport.graph import outside
from aaexport.graph.files import file_digest, read_data_files, read_onnx
from aaexport.nn import memory
from aaexport.pipeline.convert import convert as converting
from aaexport.pipeline.verify.matrix import Matrix
from aaexport.runners.ort import OrtRunner
from aaexport.runners.reference import ReferenceRunner

NETS = """
import torch
from torch import nn

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.head = nn.Linear(128, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x))).flatten(1)
        return torch.sigmoid(self.head(torch.relu(self.body(x))))
"""
SHAPE = (3, 4, 4)
SOURCE = "large_nets.py:Wide"
QUICK = {"device": "cpu", "duration": 0.1, "warmup": 0.0, "batches": (1,)}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with a module's file, and what `convert` made of it where 4 KiB are too much."""
    room = tmp_path_factory.mktemp("large")
    (room / "large_nets.py").write_text(NETS)
    with low_limits(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        patch.setattr(sys, "path", [str(room), *sys.path])
        aaexport.convert_source(SOURCE, "out", input_shape=SHAPE)
        yield room
    sys.modules.pop("large_nets", None)


@pytest.fixture
def theirs(once, tmp_path, monkeypatch):
    """A copy of it that a test may spoil, in the working directory."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return open_folder(tmp_path / "out")


def data_of(path):
    (data,) = read_data_files(path)
    return data


def spoil(path):
    """Another last byte: of the exponent of a number."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x7F
    path.write_bytes(content)


# What is written


def test_a_folder_has_one_file_more(theirs):
    data = data_of(theirs.onnx_path)
    assert is_data_file(data.name, "model.onnx")
    assert set(files_of(theirs)) == {
        "model.onnx", data.name, "model.toml", "weights.safetensors", "golden.safetensors", "parity.json",
        "manifest.json",
    }  # fmt: skip
    manifest = json.loads(theirs.manifest_path.read_text())["files"]
    assert manifest[data.name] == {"sha256": sha256(data), "bytes": data.stat().st_size}


def test_the_verification_is_of_both_files(theirs):
    report = json.loads(theirs.parity_path.read_text())
    assert report["passed"]
    assert report["onnx_sha256"] == file_digest(theirs.onnx_path, [data_of(theirs.onnx_path)])


def test_onnxruntime_answers_as_the_module(theirs):
    from large_nets import Wide

    images = torch.randn(2, *SHAPE)
    session = onnxruntime.InferenceSession(str(theirs.onnx_path), providers=["CPUExecutionProvider"])
    expected = Wide().eval()(images).detach().numpy()
    np.testing.assert_allclose(session.run(None, {"input": images.numpy()})[0], expected, atol=1e-6)


@pytest.mark.slow
def test_a_folder_of_ours_is_converted_and_verified(converted):
    with low_limits():
        result = aaexport.convert(converted)
        assert result.data_file == data_of(converted.onnx_path)
        assert result.bytes == converted.onnx_path.stat().st_size + result.data_file.stat().st_size
        assert result.parity.passed


def test_the_command_says_where_the_numbers_are(cli, theirs):
    outcome = cli("inspect", theirs.path)
    assert data_of(theirs.onnx_path).name in outcome.out.replace("\n", "").replace(" ", "")
    assert "withitsdata)" in "".join(outcome.out.split())
    graph = json.loads(cli("inspect", theirs.path, "--json").out)["graph"]
    data = data_of(theirs.onnx_path)
    assert graph["data_files"] == [str(data)]
    assert graph["bytes"] == theirs.onnx_path.stat().st_size + data.stat().st_size


# Verified


@pytest.mark.parametrize("module", [None, SOURCE], ids=["golden vectors", "the module"])
def test_every_runtime_verifies_it(theirs, module):
    report = aaexport.verify(theirs, module=module, runtimes=("reference", "unoptimized", "onnxruntime"))
    assert report.passed
    assert {row.name for row in report.computations} == {
        "onnx reference", "onnxruntime CPU, unoptimized", "onnxruntime CPU",
    }  # fmt: skip


def test_no_two_runtimes_hold_it_at_a_time(theirs, monkeypatch):
    held, most = set(), []
    for runner in (OrtRunner, ReferenceRunner):
        begin, end = runner.__enter__, runner.__exit__

        def entered(self, begin=begin):
            held.add(id(self))
            most.append(len(held))
            return begin(self)

        def left(self, *error, end=end):
            held.discard(id(self))
            return end(self, *error)

        monkeypatch.setattr(runner, "__enter__", entered)
        monkeypatch.setattr(runner, "__exit__", left)
    assert aaexport.verify(theirs).passed
    assert len(most) == 3
    assert max(most) == 1


def test_a_changed_byte_of_the_numbers_is_a_failure_with_its_place(cli, theirs):
    spoil(data_of(theirs.onnx_path))
    outcome = cli("verify", theirs.path, "--module", SOURCE)
    assert outcome.code == 3, outcome.err
    assert "initializer head.weight must hold the numbers that were converted, got others" in outcome.out
    divergence = json.loads(theirs.parity_path.read_text())["divergence"]
    assert divergence["operator"] == "Gemm"
    assert not [path for path in theirs.path.parent.rglob("*") if path.name.startswith(".new.")]


@pytest.mark.parametrize("command", ["verify", "inspect", "serve-bench"])
def test_a_missing_file_of_numbers_is_one_line(cli, theirs, command):
    data_of(theirs.onnx_path).unlink()
    error = error_of(cli(command, theirs.path), 1)
    assert error.startswith(f"{theirs.onnx_path} must have its external data beside it, but: ")


def test_numbers_that_are_written_to_meanwhile_are_not_what_was_judged(theirs, monkeypatch):
    filled = Matrix.filled

    def then(*arguments):
        spoil(data_of(theirs.onnx_path))
        return filled(*arguments)

    monkeypatch.setattr(Matrix, "filled", then)
    with pytest.raises(FolderError, match="must stay as it is while it is judged"):
        aaexport.verify(theirs, locate=False)


@pytest.mark.parametrize(
    "command", [("verify", "out", "--module", SOURCE), ("convert", SOURCE, "--input-shape", "3x4x4", "--out", "out")]
)
def test_weights_that_no_memory_holds_are_refused_before_the_work(cli, theirs, monkeypatch, command):
    monkeypatch.setattr(memory, "whole_memory", lambda: (2**14, "this machine's"))
    before = files_of(theirs)
    error = error_of(cli(*command), 2)
    assert error.startswith("the weights must fit into this machine's 0 GiB in float32 and float64 to be verified, ")
    assert error.endswith("; verify it on a larger machine (convert has --no-verify)")
    assert files_of(theirs) == before


# Measured


@pytest.mark.slow
def test_it_is_measured_and_answers_right(theirs):
    report = aaexport.serve_bench(theirs, module=SOURCE, compare=("eager", "skew"), **QUICK)
    assert report.check.wrong == 0
    assert report.check.checked > 0
    assert [(one.name, one.same_answers) for one in report.comparisons] == [("eager", True), ("skew", True)]
    assert report.card.parity.same_file
    assert report.onnx_sha256 == json.loads(theirs.parity_path.read_text())["onnx_sha256"]


def test_a_changed_byte_is_not_what_was_verified(theirs):
    spoil(data_of(theirs.onnx_path))
    report = aaexport.serve_bench(theirs.onnx_path, compare=(), check=False, **QUICK)
    verified = json.loads(theirs.parity_path.read_text())["onnx_sha256"]
    assert report.onnx_sha256 != verified
    assert sha256(theirs.onnx_path) not in (report.onnx_sha256, verified)


# Converted again


def test_a_smaller_model_takes_the_file_of_numbers_away_and_a_larger_one_brings_it_back(theirs):
    before = set(files_of(theirs))
    data = data_of(theirs.onnx_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outside, "LIMIT", 2**30)
        aaexport.convert_source(SOURCE, theirs.path, input_shape=SHAPE, verify=False)
        assert set(files_of(theirs)) == before - {data.name, "parity.json"}
        assert data.name not in json.loads(theirs.manifest_path.read_text())["files"]
        assert aaexport.verify(theirs).passed
    aaexport.convert_source(SOURCE, theirs.path, input_shape=SHAPE, verify=False)
    assert set(files_of(theirs)) == before - {"parity.json"}
    assert aaexport.verify(theirs).passed


def test_a_conversion_that_is_interrupted_leaves_the_folder_as_it_was(theirs, monkeypatch):
    before, written = files_of(theirs), set()

    def judge_file(*_, **__):
        written.update(file.name for file in theirs.path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(converting, "judge_file", judge_file)
    source = theirs.path.parent / "large_nets.py"
    source.write_text(source.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    sys.modules.pop("large_nets", None)
    with pytest.raises(KeyboardInterrupt):
        aaexport.convert_source(SOURCE, theirs.path, input_shape=SHAPE)
    assert len(written - before.keys()) == 2  # the new model under another name, and its numbers
    assert files_of(theirs) == before


def test_a_disk_that_is_too_small_is_told_in_one_line(cli, theirs, monkeypatch):
    before = files_of(theirs)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    error = error_of(cli("convert", SOURCE, "--input-shape", "3x4x4", "--out", theirs.path), 1)
    assert error.startswith(f"{theirs.path} must have room for ")
    assert error.endswith("; free some, or write elsewhere")
    assert files_of(theirs) == before


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_place_without_room_beside_it_is_refused_before_the_export(theirs, monkeypatch, kind):
    from large_nets import Wide

    monkeypatch.setattr(converting, "export", None)
    read, write = os.pipe()
    try:
        link = theirs.path / "link.onnx"
        link.symlink_to(theirs.onnx_path)
        place = Path(f"/dev/fd/{write}") if kind == "pipe" else link
        with pytest.raises(FolderError, match=r"must be (a file|no link) for a model above 2 GiB"):
            aaexport.convert(Wide(), place, input_shape=SHAPE)
    finally:
        os.close(read)
        os.close(write)


# optimize


class Folded(nn.Module):
    """With a convolution that `optimize` folds a normalization into."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.Linear(160, 9)
        self.norm.running_var += torch.rand(40)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A file of another tool, with external data in a file of its own choice."""
    path = tmp_path_factory.mktemp("given") / "in.onnx"
    torch.onnx.export(Folded().eval(), (torch.zeros(2, *SHAPE),), path, dynamo=True, optimize=False, verbose=False,
                      dynamic_shapes=({0: "batch"},), external_data=True)  # fmt: skip
    return path


@pytest.fixture
def model(given, tmp_path):
    for file in given.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / given.name


def test_optimize_reads_and_writes_large_files(model, tmp_path):
    with low_limits():
        result = aaexport.optimize(model, tmp_path / "out.onnx")
        assert result.data_file == data_of(result.path)
        assert is_data_file(result.data_file.name, "out.onnx")
        assert any(rule.applied for rule in result.rules)
        assert result.parity.passed
        assert {path.name for path in tmp_path.iterdir()} == {
            "in.onnx", "in.onnx.data", "out.onnx", result.data_file.name
        }  # fmt: skip
    onnx.checker.check_model(str(result.path), full_check=True)


def test_a_large_file_may_replace_itself(model):
    with low_limits():
        first = aaexport.optimize(model, model)
        second = aaexport.optimize(model, model)
        names = {path.name for path in model.parent.iterdir()}
        assert names == {"in.onnx", "in.onnx.data", second.data_file.name}  # what another tool wrote stays
        assert first.data_file == second.data_file
        assert read_onnx(model).graph.initializer


def test_the_commands_say_it(cli, model, tmp_path):
    with low_limits():
        outcome = cli("optimize", model, tmp_path / "out.onnx")
        assert "the file's large tensors: keep both in one folder" in " ".join(outcome.out.split())
        value = json.loads(cli("optimize", model, tmp_path / "out.onnx", "--json").out)
    assert value["data_file"] == str(data_of(tmp_path / "out.onnx"))


# As large as they are


HUGE = """
import torch
from torch import nn

class Huge(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 36864, 1), nn.Linear(15360, 9)
        self.body = nn.Linear(36864, 15360, bias=False)

    def forward(self, x):
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)).mean((2, 3)))))
"""
BYTES = 36864 * 15360 * 4  # of one tensor alone, above protobuf's limit


@pytest.mark.slow
def test_a_model_above_two_gibibytes_goes_all_the_way(tmp_path):
    """Each command in a process of its own, of which none takes more than six times the weights."""
    if shutil.disk_usage(tmp_path).free < 5 * BYTES:
        pytest.skip("there is no room on the disk")
    (tmp_path / "huge_nets.py").write_text(HUGE)
    source = "huge_nets.py:Huge"
    try:
        told = json.loads(_run(tmp_path, "convert", source, "--input-shape", "3x2x2", "--out", "out", "--json"))
        assert told["parity"]["passed"]
        assert BYTES < told["bytes"] < 1.01 * BYTES
        assert told["data_file"].startswith("out/model.onnx.")
        assert json.loads(_run(tmp_path, "inspect", "out", "--json"))["graph"]["bytes"] == told["bytes"]
        _run(tmp_path, "optimize", "out/model.onnx", "again.onnx")
        shutil.copy(tmp_path / "again.onnx", tmp_path / "out" / "model.onnx")  # with no numbers of its name beside it
        assert "must have its external data beside it" in _run(tmp_path, "verify", "out", code=1)
        for data in tmp_path.glob("again.onnx.*.data"):
            data.rename(tmp_path / "out" / data.name)
        verdict = json.loads(_run(tmp_path, "verify", "out", "--module", source, "--json"))
        assert verdict["passed"]
        command = ("serve-bench", "out", "--duration", "1", "--batch", "1", "--compare", "none", "--json")
        measured = json.loads(_run(tmp_path, *command, "--module", source, code=None))
        assert measured["check"]["wrong"] == 0
        assert measured["onnx_sha256"] == verdict["onnx_sha256"]
    finally:
        shutil.rmtree(tmp_path)  # pytest keeps what tests leave
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 6 * BYTES


def _run(folder, *arguments, code=0):
    """What the command prints, or its error; `None`: whether or not the machine was quiet."""
    run = subprocess.run(
        [sys.executable, "-m", "aaexport", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == code or (code is None and run.returncode in (0, 4)), run.stderr
    return run.stderr if code else run.stdout
