"""Commands that answer at once: what each loads before it answers, in a process that refuses heavy libraries."""

import json
import subprocess
import sys

import pytest
from folders import edited, tiny_folder

from aaexport.folder import checkout

HEAVY = (
    "torch",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "sympy",
    "numpy",
    "sklearn",
    "openvino",
    "datasets",
    "PIL",
    "rich",
)
# Runs each command line that it reads from stdin, with every library refused that does not belong to those allowed.
RUNS = f"""
import contextlib, io, json, sys

class Loaded(BaseException):
    pass

class Refused:
    allowed = ()

    def find_spec(self, name, path=None, target=None):
        library = name.partition(".")[0]
        if library in {HEAVY} and library not in self.allowed:
            raise Loaded(library)

refused = Refused()
sys.meta_path.insert(0, refused)
from aaexport.cli.console import settings
from aaexport.cli.main import _run

answers = []
for allowed, arguments in json.load(sys.stdin):
    refused.allowed, sys.argv = allowed, ["aaexport", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code, loaded = _run(), None
        except Loaded as library:
            code, loaded = None, str(library)
    answers.append(dict(code=code, loaded=loaded, stdout=out.getvalue(), stderr=err.getvalue()))
json.dump(answers, sys.stdout)
"""


def answers_to(lines, folder):
    """What comes of (libraries that may be loaded, arguments), one after the other in one process in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", RUNS], input=json.dumps(lines), capture_output=True, text=True, check=True, cwd=folder
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("at once")


# What needs no PyTorch does without it

LIGHT = {
    "list": (("onnxruntime", "numpy", "rich"), ("list",)),
    "list --json": (("onnxruntime", "numpy"), ("list", "--json")),
    "inspect a zoo model": (("rich",), ("inspect", "aa_cnn3_digits")),
    "inspect a zoo model --json": ((), ("inspect", "aa_resnet50", "--json")),
}


@pytest.fixture(scope="module")
def light(room):
    return dict(zip(LIGHT, answers_to(list(LIGHT.values()), room), strict=True))


@pytest.mark.parametrize("name", LIGHT)
def test_a_look_loads_no_more_than_it_shows(light, name):
    assert light[name]["loaded"] is None
    assert light[name]["code"] == 0
    assert light[name]["stdout"]
    assert not light[name]["stderr"]


def test_a_converted_folder_is_looked_into_without_pytorch(converted_once, room):
    look = (("onnx", "numpy", "rich"), ("inspect", str(converted_once)))
    answer = answers_to([look], room)[0]
    assert (answer["loaded"], answer["code"], answer["stderr"]) == (None, 0, "")
    assert "in attention's products" in answer["stdout"]


@pytest.mark.slow
def test_a_verified_file_is_reduced_without_pytorch(converted, room):
    allowed = tuple({*HEAVY} - {"torch", "datasets", "openvino", "PIL"})  # of scikit-learn one looks where it lies
    lines = [(allowed, ("convert", str(converted.path), "--dtype", kind)) for kind in ("int8", "float16")]
    for answer in answers_to(lines, room):
        assert (answer["loaded"], answer["code"]) == (None, 0), answer["stderr"]
        assert "PASS" in answer["stdout"]


# A wrong value is refused by what options, recipes and the file system say, before anything heavy is loaded

WRONG_VALUES = (
    "train tiny --device gpu",
    "train tiny --epochs 0",
    "train tiny --seed 99999999999999999999",
    "train tiny --amp fp8",
    "train tiny --size 1 1",
    "train tiny --accumulate 0",
    "train tiny other",
    "train tiny tiny --compare",
    "convert tiny --opset 17",
    "convert tiny --decomposition best",
    "convert tiny --batch 0",
    "convert tiny --size 1 1",
    "convert tiny --max-attention-memory 0",
    "convert tiny --target gpu",
    "convert tiny --with-attention --max-attention-memory 1",
    "convert tiny --atol -1",
    "convert tiny --rtol nan",
    "convert tiny --seed -1",
    "convert tiny --kwargs depth=1",
    "convert net.py:Net",
    "convert net.py:Net --input-shape 8x8",
    "convert net.py:Net --input-shape 3x8x8 --size 8 8",
    "convert net.py:Net --input-shape 3x8x8 --kwargs depth",
    "convert net.py:Net --input-shape 3x8x8 --opset 99",
    "convert net.py:Net --input-shape 3x8x8 --atol -1",
    "convert net.py:Net --input-shape 3x8x8 --with-attention",
    "verify tiny --device gpu",
    "verify tiny --runtimes onnxruntim",
    "verify tiny --runtimes tf32",
    "verify tiny --batch 9999",
    "verify tiny --dtype float8",
    "verify tiny --atol -1",
    "verify tiny --atol few",
    "verify tiny --rtol logits=-1",
    "verify tiny --json --markdown",
    "verify tiny --junit net.py",
    "verify tiny --size 1 1",
    "optimize net.py new.onnx --target gpu",
    "optimize net.py new.onnx --atol -1",
    "optimize net.py new.onnx --max-attention-memory 0",
    "optimize net.py tiny",
    "serve-bench tiny --device gpu",
    "serve-bench tiny --scenario serve",
    "serve-bench tiny --duration 0",
    "serve-bench tiny --duration nan",
    "serve-bench tiny --warmup -1",
    "serve-bench tiny --batch 1,0",
    "serve-bench tiny --concurrency 0",
    "serve-bench tiny --threads 9999",
    "serve-bench tiny --workers 2",
    "serve-bench tiny --rate 10",
    "serve-bench tiny --scenario server",
    "serve-bench tiny --scenario server --rate 0",
    "serve-bench tiny --scenario server --rate 1e9",
    "serve-bench tiny --scenario server --rate 10 --arrivals sometimes",
    "serve-bench tiny --scenario server --trace gone.txt",
    "serve-bench tiny --p99 20miles",
    "serve-bench tiny --compare eagr",
    "serve-bench tiny --rules strict",
    "serve-bench tiny --max-regression 5%",
    "serve-bench tiny --cudnn-search BEST",
    "serve-bench tiny --engine-cache cache",
    "serve-bench tiny --cuda-graph --no-iobinding",
    "serve-bench tiny --graph-sizes 1,8",
    "serve-bench tiny --batch all",
    "serve-bench tiny --settle -1",
    "serve-bench tiny --flush-l2 --device cpu",
    "serve-bench tiny --resident --concurrency 4",
    "serve-bench tiny --device cpu --tensorrt",
    "serve-bench tiny --raw",
    "serve-bench tiny --dim batch",
    "serve-bench tiny --size 1 1",
    "tune tiny --device gpu",
    "tune tiny --opset 17",
    "tune tiny --batch 0",
    "tune tiny --batch 99999",
    "tune tiny --threads 9999",
    "tune tiny --duration nan",
    "tune tiny --size 1 1",
    "inspect tiny --layer conv",
    "inspect tiny --attention gone.png",
    "inspect tiny --attention gone.png --out picture.gif",
    "inspect tiny --attention net.py --out net.py",
    "inspect trained --attention net.py --out picture.png --query 1",
    "inspect trained --attention net.py --out picture.png --query 8,0",
    "inspect net.py --attention net.py --out picture.png",
)
# Here the files that are named are wrong, or not there.
WRONG_FILES = (
    "train nothing_of_the_kind",
    "train tiny --init nothing.safetensors",
    "train tiny",
    "train other features --compare",
    "train other spoilt --compare",
    "convert nothing_of_the_kind",
    "convert broken",
    "convert tiny",
    "convert net.py",
    "convert gone.py:Net --input-shape 3x8x8",
    "convert gone.pt2",
    "convert net.py:Net --input-shape 3x8x8 --checkpoint gone.pt",
    "convert net.py:Net --input-shape 3x8x8 --out tiny",
    "verify nothing_of_the_kind",
    "verify tiny --inputs gone.npz",
    "verify tiny --inputs net.py",
    "verify tiny --onnx gone.onnx",
    "verify tiny --module gone.py:Net",
    "verify tiny --module net.py",
    "verify tiny --junit gone/report.xml",
    "verify tiny",
    "optimize gone.onnx new.onnx",
    "optimize net.py gone/new.onnx",
    "serve-bench nothing_of_the_kind",
    "serve-bench gone.onnx",
    "serve-bench tiny --compare onnx:gone.onnx",
    "serve-bench tiny --compare folder:gone",
    "serve-bench tiny --baseline gone.json",
    "serve-bench tiny --report gone/page.html",
    "serve-bench tiny --module gone.py:Net",
    "tune nothing_of_the_kind",
    "inspect nothing_of_the_kind",
    "inspect gone.onnx",
    "inspect broken",
    "inspect tiny --attention gone.png --out picture.png",
    "inspect tiny --attention net.py --out gone/picture.png",
)
WRONG = dict.fromkeys(WRONG_VALUES, 2) | dict.fromkeys(WRONG_FILES, 1)  # line → exit code


@pytest.fixture(scope="module")
def wrong(room):
    folder = tiny_folder(room / "tiny")
    edited(folder, 'dataset = "digits"', 'dataset = "digit"')
    checkout("aa_wrn10_1_digits", room / "trained")
    checkout("aa_wrn10_1_digits", room / "other")
    checkout("aa_resnet50_features", room / "features")
    edited(checkout("aa_cnn3_digits", room / "spoilt"), "batch_size = ", "batch_size = 1")
    edited(checkout("aa_cnn3_digits", room / "broken"), "kappa = ", "kappa = -")
    (room / "net.py").write_text("class Net: pass\n")
    before = sorted(path.relative_to(room) for path in room.rglob("*"))
    answers = dict(zip(WRONG, answers_to([((), line.split()) for line in WRONG], room), strict=True))
    assert sorted(path.relative_to(room) for path in room.rglob("*")) == before
    return answers


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_value_is_refused_in_a_line_and_nothing_heavy_is_loaded_for_it(wrong, line):
    answer = wrong[line]
    assert answer["loaded"] is None
    assert answer["code"] == WRONG[line]
    assert answer["stdout"] == ""
    assert answer["stderr"].startswith("Error: ")
    assert answer["stderr"].count("\n") == 1
    assert "unexpected" not in answer["stderr"]


# What loads PyTorch says first what it is about

FIRST = {
    "-v convert trained": " reading trained",
    "-v convert net.py:Net --input-shape 3x8x8": " importing net.py:Net",
    "-v verify trained": "trained has no model.onnx yet: converting it first",
    "-v verify trained --onnx net.py": " reading trained",
    "-v tune trained": " reading trained",
    "-v optimize net.py new.onnx": " reading net.py",
    "-v serve-bench net.py": " reading net.py",
    "-v train trained": " reading trained",
}


@pytest.fixture(scope="module")
def begun(wrong, room):
    return dict(zip(FIRST, answers_to([((), line.split()) for line in FIRST], room), strict=True))


@pytest.mark.parametrize("line", FIRST)
def test_the_first_line_comes_before_anything_heavy(begun, line):
    assert begun[line]["loaded"] in ("torch", "numpy", "onnx")
    assert begun[line]["stderr"].splitlines()[0] == FIRST[line]
    assert begun[line]["stdout"] == ""
