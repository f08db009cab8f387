"""A module of the user's → a model folder: converted, judged by the module itself, and usable without its code."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from outcomes import error_of
from repository import ROOT
from safetensors.torch import load_file

import aaexport
from aaexport.errors import ArgumentError, DataError, FolderError, GraphError
from aaexport.folder import zoo_root
from aaexport.pipeline.convert.options import ConvertOptions, check_source
from aaexport.pipeline.subject.golden import read_golden

NETS = """
import torch
from torch import nn
from mynets import AugmentedConv

class Net(nn.Module):
    def __init__(self, width, classes=5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.attend = AugmentedConv(6, width, 3, dk=8, dv=4, Nh=2, shape=4, relative=True, stride=2)
        self.norm = nn.BatchNorm2d(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, x):
        return self.classify(self.norm(self.attend(self.stem(x).relu())).relu().mean((2, 3)))

class Mixed(Net):
    def forward(self, x):
        return super().forward(x.float()) + self.classify.bias.float()

class Baked(Net):
    def forward(self, x):
        return super().forward(x.view(2, 1, 8, 8))

class Moody(Net):
    calls = 0
    def forward(self, x):
        Moody.calls += 1
        return super().forward(x) * Moody.calls

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.second.weight = self.first.weight
        whole = torch.arange(6.0)
        self.register_buffer("one", whole[:3])
        self.register_buffer("two", whole[3:])

    def get_extra_state(self):
        return {"version": 2}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        print("hello from forward")
        return self.second(self.first(x)).mean((2, 3)) + self.one[0] + self.two[1]

class Four(Net):
    def forward(self, x):
        return super().forward(x.view(4, 1, 8, 8))

def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
"""
EXAMPLE = ROOT / "examples" / "08_bring_your_own_model"
SHAPE = ("--input-shape", "1x8x8")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder of a user's: their module, a checkpoint of it, and what `convert` made of them."""
    room = tmp_path_factory.mktemp("theirs")
    shutil.copy(EXAMPLE / "mynets.py", room)
    (room / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        patch.setattr(sys, "path", [str(room), *sys.path])
        from nets import Net

        trained = Net(12, seed=7)
        for parameter in trained.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        torch.save({"model": trained.state_dict(), "acc": np.float64(61.6), "epoch": 3}, "best_model_ckpt.t7")
        aaexport.convert_source(
            "nets.py:Net", "out", kwargs=("width=12",), checkpoint="best_model_ckpt.t7", input_shape=(1, 8, 8)
        )
        yield room
    for name in ("nets", "mynets"):
        sys.modules.pop(name, None)


@pytest.fixture
def theirs(once, tmp_path, monkeypatch):
    """A copy that a test may spoil, as the working directory."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("nets", "mynets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def answers(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images.numpy()})[0]


def test_the_file_computes_what_the_checkpoint_computes(theirs):
    from nets import Net

    net = Net(12).eval()
    net.load_state_dict(torch.load("best_model_ckpt.t7", weights_only=False)["model"])
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert np.abs(answers(theirs / "out" / "model.onnx", images) - net(images).numpy()).max() < 1e-5


def test_its_layers_are_ours_in_the_file(theirs, cli):
    outcome = cli("convert", "nets.py:Net", "--kwargs", "width=12", *SHAPE, "--out", "again")
    assert outcome.code == 0, outcome
    assert "1 × the PyTorch reference implementation's AugmentedConv: attend" in outcome.out
    assert "no --checkpoint was given: the weights are those that the module was built with" in outcome.out
    operators = {node.op_type for node in onnx.load("again/model.onnx").graph.node}
    assert not {"Einsum", "Tile", "Expand", "ScatterND"} & operators


def test_the_folder_is_a_model_folder(theirs):
    names = {path.name for path in (theirs / "out").iterdir()}
    assert names == {"model.toml", "model.onnx", "weights.safetensors", "golden.safetensors", "parity.json",
                     "manifest.json"}  # fmt: skip
    assert "attend.key_rel_w" in load_file(theirs / "out" / "weights.safetensors")
    sizes = {len(case.batch) for case in read_golden(theirs / "out" / "golden.safetensors").cases}
    assert {1, 2, 3, 7} <= sizes


def without_code(theirs):
    for name in ("nets.py", "mynets.py"):
        (theirs / name).unlink()


def test_verify_needs_no_code(theirs, cli):
    without_code(theirs)
    outcome = cli("verify", "out", "--json")
    report = json.loads(outcome.out)
    assert (outcome.code, report["passed"]) == (0, True)
    assert "judged by the golden vectors that nets.py:Net gave when it was converted" in report["notes"]
    assert "nets" not in sys.modules


def test_a_scalar_and_a_module_without_weights_are_verified_too(theirs, cli):
    text = "import torch\nclass Total(torch.nn.Module):\n    def forward(self, x):\n        return x.sum()\n"
    (theirs / "total.py").write_text(text)
    assert cli("convert", "total.py:Total", *SHAPE, "--out", "total").code == 0
    for module in ((), ("--module", "total.py:Total")):
        outcome = cli("verify", "total", *module)
        assert outcome.code == 0, outcome.err


def test_verify_with_the_code_runs_the_module_itself(theirs, cli):
    outcome = cli("verify", "out", "--module", "nets.py:Net", "--json")
    report = json.loads(outcome.out)
    assert (outcome.code, report["passed"]) == (0, True), outcome.err
    assert report["computations"][0]["name"].startswith("PyTorch, ")


def spoilt(path):
    """A file whose classifier has one class turned round."""
    model = onnx.load(path)
    (weight,) = (one for one in model.graph.initializer if one.name == "classify.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[1] *= -1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, path)


def test_a_wrong_file_fails_without_the_code(theirs, cli):
    spoilt(theirs / "out" / "model.onnx")
    outcome = cli("verify", "out")
    assert "largest error must be at most" in outcome.out
    assert error_of(outcome, 3).startswith("parity failed: ")


@pytest.mark.slow
def test_other_weights_make_the_file_stale(theirs, cli):
    cli("convert", "nets.py:Net", "--kwargs", "width=12", *SHAPE, "--out", "fresh", "--no-verify")
    shutil.copy("fresh/weights.safetensors", "out/weights.safetensors")
    error = error_of(cli("verify", "out", "--module", "nets.py:Net"), 3)
    assert "the file must hold the model's weights, but their digests differ" in error


@pytest.mark.slow
def test_serve_bench_needs_no_code(theirs, cli):
    without_code(theirs)
    outcome = cli("serve-bench", "out", "--duration", "0.2", "--batch", "1", "--json")
    report = json.loads(outcome.out)
    assert (outcome.code, report["comparisons"]) == (0, []), outcome.err
    assert (report["check"]["against"], report["check"]["wrong"]) == ("golden vectors", 0)


@pytest.mark.slow
def test_serve_bench_with_the_code_compares_with_the_module(theirs, cli):
    outcome = cli("serve-bench", "out", "--module", "nets.py:Net", "--duration", "0.2", "--batch", "1",
                  "--compare", "eager", "--json")  # fmt: skip
    report = json.loads(outcome.out)
    assert [one["name"] for one in report["comparisons"]] == ["eager"], outcome.err
    assert report["check"]["wrong"] == 0


@pytest.mark.slow
def test_serve_bench_without_the_code_finds_a_wrong_file(theirs, cli):
    without_code(theirs)
    spoilt(theirs / "out" / "model.onnx")
    outcome = cli("serve-bench", "out", "--duration", "0.2", "--batch", "1", "--json")
    report = json.loads(outcome.out)
    assert (outcome.code, report["check"]["against"]) == (4, "golden vectors"), outcome.err
    assert report["check"]["wrong"] > 0


def test_eager_needs_the_code(theirs, cli):
    error = error_of(cli("serve-bench", "out", "--compare", "eager"), 2)
    assert "must have the module that the folder was made of" in error
    assert "--module FILE.py:NAME" in error


def test_inspect_tells_what_it_was_made_of(theirs, cli):
    without_code(theirs)
    outcome = cli("inspect", "out")
    assert (outcome.code, "out, made of nets.py:Net width=12" in outcome.out) == (0, True)


def test_converting_anew_needs_the_source(theirs, cli):
    error = error_of(cli("convert", "out"), 1)
    again = "--kwargs width=12 --input-shape 1x8x8 --checkpoint out/weights.safetensors --out out"
    assert error.endswith(f"convert it anew with `aaexport convert nets.py:Net {again}`")


@pytest.mark.parametrize("command", ["train", "tune"])
def test_what_goes_with_our_networks_only_says_so(theirs, cli, command):
    error = error_of(cli(command, "out"), 1)
    assert "out/model.toml must have a [network], got 'the module nets.py:Net'" in error


@pytest.mark.slow
def test_a_saved_program(theirs, cli):
    from nets import Net

    sizes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        program = torch.export.export(Net(12).eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=sizes)
    torch.export.save(program, "net.pt2")
    outcome = cli("convert", "net.pt2")
    assert outcome.code == 0, outcome.err
    assert "batch dynamic" in outcome.out
    assert "1 × skewed relative attention as fold, shift or table" in " ".join(outcome.out.split())
    assert cli("verify", "net", "--module", "net.pt2").code == 0


@pytest.mark.slow
def test_a_program_of_a_fixed_batch(theirs, cli):
    from nets import Net

    with torch.no_grad():
        torch.export.save(torch.export.export(Net(12).eval(), (torch.zeros(3, 1, 8, 8),)), "three.pt2")
    outcome = cli("convert", "three.pt2")
    assert (outcome.code, "batch 3" in outcome.out) == (0, True), outcome.err
    assert cli("verify", "three").code == 0
    error = error_of(cli("convert", "three.pt2", "--checkpoint", "best_model_ckpt.t7", "--out", "x"), 2)
    assert "checkpoint must be left out for a program" in error


def test_a_module_of_one_batch_size(theirs, cli):
    arguments = ["nets.py:Four", "--kwargs", "width=12", *SHAPE]
    assert "nets.py" in error_of(cli("convert", *arguments), 1)
    assert cli("convert", *arguments, "--batch", "4", "--no-verify").code == 0
    assert cli("verify", "Four").code == 0


def test_tied_weights_extra_state_and_printing(theirs, cli):
    outcome = cli("convert", "nets.py:Tied", *SHAPE, "--json")
    assert json.loads(outcome.out)["parity"]["passed"], outcome.err
    outcome = cli("verify", "Tied", "--module", "nets.py:Tied", "--json")
    assert json.loads(outcome.out)["passed"], outcome.err


@pytest.mark.slow
def test_a_file_of_another_fixed_batch_is_judged_without_the_code(theirs, cli):
    assert cli("convert", "nets.py:Net", "--kwargs", "width=12", *SHAPE, "--checkpoint", "best_model_ckpt.t7",
               "--batch", "5", "--no-verify", "--out", "five").code == 0  # fmt: skip
    assert cli("verify", "out", "--onnx", "five/model.onnx").code == 0


def test_nothing_recognised_is_said(theirs, cli):
    outcome = cli("convert", "nets.py:plain", *SHAPE)
    assert (outcome.code, (theirs / "plain" / "model.onnx").is_file()) == (0, True)
    assert "no augmented layer of a known kind was found: the module was exported as it is" in outcome.out


def test_a_module_that_holds_to_float32_is_judged_by_it(theirs, cli):
    outcome = cli("convert", "nets.py:Mixed", "--kwargs", "width=12", *SHAPE, "--json")
    report = json.loads(outcome.out)
    assert outcome.code == 0, outcome.err
    assert any("judged by the module's own float32" in note for note in report["parity"]["warnings"])


def test_a_module_of_two_minds_is_not_written(theirs, cli):
    outcome = cli("convert", "nets.py:Moody", "--kwargs", "width=12", *SHAPE)
    assert "the model must answer the same images with the same output" in error_of(outcome, 1)
    assert not (theirs / "Moody").exists()


def test_a_baked_in_batch_names_the_remedy(theirs, cli):
    error = error_of(cli("convert", "nets.py:Baked", "--kwargs", "width=12", *SHAPE), 1)
    assert "cannot run on an image of shape (1, 8, 8)" in error
    assert "nets.py" in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nets.py:Net", *SHAPE], 1, "nets.py:Net must be given width, got none of it; give --kwargs width=…"),
        (["nets.py:Net", "--kwargs", "width=12"], 2, "--input-shape must be given for a module"),
        (["nets.py:Net", "--kwargs", "width", *SHAPE], 2, "kwargs must be NAME=VALUE, got 'width'"),
        (["nets.py:Net", "--kwargs", "width=12", "--input-shape", "8x8"], 2, "must be channels, height and width"),
        (
            ["nets.py:Net", "--kwargs", "width=12", "--size", "8", "8", *SHAPE],
            2,
            "--size goes with a model folder or zoo model",
        ),
        (["aa_cnn3_digits", *SHAPE], 2, "--input-shape goes with a module of yours"),
        (
            ["nets.py:Net", "--kwargs", "width=13", *SHAPE, "--checkpoint", "best_model_ckpt.t7"],
            1,
            "does not fit the model, 7 tensors of another shape",
        ),
        (["nets.py:Net", "--kwargs", "width=12", *SHAPE, "--checkpoint", "none.pt"], 1, "none.pt"),
        (["nets.py:Net", "--kwargs", "width=12", "--input-shape", "1x16x16"], 1, "attend"),
        (["nets.py:Net", "--kwargs", "width=12", "--input-shape", "3x8x8"], 1, "stem"),
        (["nets.py:Net", "--kwargs", "width=12", *SHAPE, "--out", "taken"], 1, "out must be new, empty, or a former"),
    ],
)
def test_bad_input_leaves_nothing(theirs, cli, arguments, code, words):
    (theirs / "taken").mkdir()
    (theirs / "taken" / "thesis.tex").write_text("mine")
    before = sorted(theirs.rglob("*.onnx"))
    assert words in error_of(cli("convert", *arguments), code)
    assert sorted(theirs.rglob("*.onnx")) == before
    assert not (theirs / "Net").exists()


@pytest.mark.slow
def test_a_folder_is_made_anew_of_the_same_source_only(theirs, cli):
    arguments = ["--kwargs", "width=12", *SHAPE, "--out", "out", "--no-verify"]
    assert cli("convert", "nets.py:Net", *arguments).code == 0
    assert "a former conversion of nets.py:Mixed" in error_of(cli("convert", "nets.py:Mixed", *arguments), 1)


def test_golden_vectors_answer_to_no_other_inputs(theirs, cli):
    np.savez("own.npz", input=np.zeros((2, 1, 8, 8), np.float32))
    assert "give --module FILE.py:NAME as well" in error_of(cli("verify", "out", "--inputs", "own.npz"), 2)


def test_spoilt_golden_vectors(theirs, cli):
    (theirs / "out" / "golden.safetensors").write_bytes(b"cut off")
    assert "must be a whole file of golden vectors" in error_of(cli("verify", "out"), 1)
    (theirs / "out" / "golden.safetensors").unlink()
    assert "convert the module again, or give --module" in error_of(cli("verify", "out"), 1)


def test_attention_weights_cannot_be_judged(theirs):
    with pytest.raises(ArgumentError, match="the module itself gives no attention weights to judge them by"):
        aaexport.convert_source("nets.py:Net", "w", input_shape=(1, 8, 8),
                                options=aaexport.ConvertOptions(with_attention=True))  # fmt: skip


def test_a_module_that_cannot_be_kept_leaves_an_empty_folder_empty(theirs, cli, monkeypatch):
    def fails(*_):
        raise FolderError("golden.safetensors cannot be written: No space left on device")

    Path("empty").mkdir()
    monkeypatch.setattr("aaexport.pipeline.convert.bring.write_golden", fails)
    order = ("convert", "nets.py:Net", "--kwargs", "width=12", *SHAPE, "--out", "empty", "--no-verify")
    assert "No space left" in error_of(cli(*order), 1)
    assert list(Path("empty").iterdir()) == []


@pytest.mark.slow
def test_a_former_conversion_is_kept_whole_where_the_next_one_fails(theirs, cli, monkeypatch):
    order = ("convert", "nets.py:Net", "--kwargs", "width=12", *SHAPE, "--out", "twice", "--no-verify")
    assert cli(*order).code == 0
    before = {path.name: path.read_bytes() for path in Path("twice").iterdir()}

    def fails(*_):
        raise FolderError("golden.safetensors cannot be written: No space left on device")

    monkeypatch.setattr("aaexport.pipeline.convert.bring.write_golden", fails)
    assert "No space left" in error_of(cli(*order), 1)
    assert {path.name: path.read_bytes() for path in Path("twice").iterdir()} == before


@pytest.mark.slow
def test_a_module_at_hand_is_adapted_too(theirs):
    from nets import Net

    result = aaexport.convert(Net(12), "net.onnx", input_shape=(1, 8, 8), verify=False)
    assert list(result.replaced) == ["attend"]
    assert aaexport.verify(Net(12), "net.onnx", input_shape=(1, 8, 8)).passed


@pytest.mark.slow
def test_a_large_module_is_judged_by_fewer_inputs(theirs, cli, monkeypatch):
    monkeypatch.setattr("aaexport.pipeline.convert.options.VERIFIED_MACS", 1)
    outcome = cli("convert", "nets.py:Net", "--kwargs", "width=12", *SHAPE, "--out", "few", "--json")
    report = json.loads(outcome.out)["parity"]
    assert {one["case"] for row in report["computations"] for one in row["outputs"]} == {
        "random, batch 1",
        "random, batch 2",
    }
    assert any(
        "inputs were left out, and all runtimes but one; `aaexport verify` tries them all" in n
        for n in report["notes"]
    )


@pytest.mark.slow
def test_a_large_module_that_is_not_verified_is_asked_one_image(theirs, cli, monkeypatch):
    monkeypatch.setattr("aaexport.pipeline.convert.options.VERIFIED_MACS", 1)
    outcome = cli("convert", "nets.py:Net", "--kwargs", "width=12", *SHAPE, "--out", "one", "--no-verify")
    assert "the golden vectors are of one image alone" in outcome.out
    (case,) = read_golden(theirs / "one" / "golden.safetensors").cases
    assert case.name == "random, batch 1"
    assert cli("verify", "one").code == 0


@pytest.mark.usefixtures("theirs")
@pytest.mark.slow
def test_a_module_goes_with_its_own_folders(cli):
    error = error_of(cli("verify", "aa_cnn3_digits", "--module", "nets.py:Net"), 2)
    assert "module must be given for a folder that was made of one" in error


def test_errors_in_python(theirs):
    with pytest.raises(FolderError, match="outside the zoo"):
        aaexport.convert_source("nets.py:Net", zoo_root() / "x", input_shape=(1, 8, 8))
    with pytest.raises(GraphError):
        aaexport.verify("out", "nets.py")


@pytest.mark.parametrize("calibrate", [None, 64])
def test_int8_without_images_is_refused_before_the_module_is_imported(calibrate):
    asked = ConvertOptions(dtype="int8", calibrate=calibrate)
    with pytest.raises(DataError, match="calibrate must name images for int8 of a module without a data set, got"):
        check_source("no.py:Net", None, input_shape=(3, 8, 8), kwargs=(), checkpoint=None, options=asked)
