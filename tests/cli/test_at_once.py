"""Commands that answer at once: what each loads before it answers, in a process that refuses heavy libraries."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "sklearn", "openvino", "datasets", "PIL", "rich")
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
