"""FILE.py:NAME → nn.Module: what is imported, what it is called with, and what is said when that fails."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from aaexport.capture.source import read_source, require_source
from aaexport.capture.user_module import build_module
from aaexport.errors import ArgumentError, ModuleError, RecipeError
from aaexport.recipe import Module, ModuleRecipe, module_toml, parse_kwargs, read_module_recipe

NETS = """
import torch
from beside import WIDTH

class Net(torch.nn.Module):
    def __init__(self, depth, width=WIDTH, *, act="relu"):
        super().__init__()
        self.depth, self.width, self.act = depth, width, act
        print("built")

def make(**options):
    return Net(1, **options)

def fails():
    return 1 / 0

def asserts(channels=8):
    assert (channels %
            3 == 0)

def raises():
    raise ValueError

def no_module():
    return 3

instance = Net(2)
number = 5
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A file of a user's, in the working directory, that imports another one beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("nets", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("beside.py").write_text("WIDTH = 7\n")
    Path("nets.py").write_text(NETS)
    yield "nets.py"
    for name in ("nets", "beside"):
        sys.modules.pop(name, None)


def build(text, *kwargs):
    return build_module(require_source(text), parse_kwargs(kwargs))


@pytest.mark.parametrize(
    ("text", "place", "name"),
    [
        ("nets.py:Net", "nets.py", "Net"),
        ("some/where/nets.py:Net", "some/where/nets.py", "Net"),
        ("package.module:make", "package.module", "make"),
        ("nets.py:Outer.Inner", "nets.py", "Outer.Inner"),
        ("model.pt2", "model.pt2", ""),
    ],
)
def test_what_names_a_module(text, place, name):
    source = read_source(text)
    assert (source.place, source.name) == (place, name)


@pytest.mark.parametrize("text", ["aa_cnn3_digits", "a folder", "C:x y", "nets.py:2", "onnx:", ":Net", "a-b:Net"])
def test_what_names_none(text):
    assert read_source(text) is None


def test_a_class_a_function_and_an_instance(nets):
    assert (build("nets.py:Net", "depth=3", "width=9").depth, build("nets.py:Net", "depth=3").width) == (3, 7)
    assert build("nets.py:make", 'act="gelu"').act == "gelu"
    assert build("nets.py:instance").depth == 2
    assert build("nets:instance").depth == 2  # as a module on the path, which this folder is


def test_it_comes_in_evaluation_mode(nets):
    assert not build("nets.py:instance").training


def test_what_it_prints_does_not_reach_stdout(nets, capsys):
    build("nets.py:Net", "depth=1")
    assert capsys.readouterr() == ("", "built\nbuilt\n")


@pytest.mark.parametrize(
    ("text", "kwargs", "words"),
    [
        ("nets.py:Nett", (), "nets.py:Nett must name something in nets.py, got 'Nett'; did you mean 'Net'?"),
        ("nets.py:number", (), "nets.py:number must be a torch.nn.Module, or a class or function that makes one"),
        ("nets.py:no_module", (), "nets.py:no_module must be or make a torch.nn.Module, got 'int'"),
        ("nets.py:Net", (), "nets.py:Net must be given depth, got none of it; give --kwargs depth=…"),
        ("nets.py:Net", ("depht=1",), "kwargs must be of nets.py:Net, got 'depht'; did you mean 'depth'?"),
        ("nets.py:instance", ("depth=1",), "kwargs must be left out: nets.py:instance is an instance already"),
        ("nets.py:fails", (), "cannot be built: ZeroDivisionError: division by zero (nets.py:15)"),
        ("nets.py:asserts", (), "cannot be built: assert (channels % 3 == 0) (nets.py:18)"),
        ("nets.py:raises", (), "cannot be built: raise ValueError (nets.py:22)"),
        ("other.py:Net", (), "the module must be in a file that is there, got 'other.py'"),
        ("nowhere.nets:Net", (), "the module must be on Python's path or in this folder, got 'nowhere.nets'"),
    ],
)
def test_what_is_wrong_is_said(nets, text, kwargs, words):
    with pytest.raises(ModuleError) as caught:
        build(text, *kwargs)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = (", "SyntaxError: '(' was never closed (broken.py:1)"),
        ("import beside\nbeside.nothing", "module 'beside' has no attribute 'nothing' (broken.py:2)"),
        ("import not_installed_here", "No module named 'not_installed_here' (broken.py:1); install not_i"),
        ("import sys\nsys.exit(3)", "it ended the program (3); put what is a script under"),
        ("def f():\n    raise KeyError('k')\nf()", "KeyError: 'k' (broken.py:2)"),
        ("import json\n\njson.loads('{')", "(broken.py:3)"),
        ("import ast\nast.literal_eval('(')", "SyntaxError: '(' was never closed (broken.py:2)"),
    ],
)  # fmt: skip
def test_an_error_of_the_users_file_names_its_place(nets, code, words):
    Path("broken.py").write_text(code)
    with pytest.raises(ModuleError) as caught:
        build("broken.py:Net")
    assert words in str(caught.value)
    assert "broken" not in sys.modules


@pytest.fixture
def package(nets):
    """A package of a user's, in the working directory, one of whose files imports another by a relative import."""
    Path("pk").mkdir()
    Path("pk/__init__.py").touch()
    Path("pk/widths.py").write_text("WIDTH = 7\n")
    Path("pk/n.py").write_text("import torch\nfrom .widths import WIDTH\nnet = torch.nn.Linear(WIDTH, 1)\n")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "pk"]:
        del sys.modules[name]


def test_a_file_of_a_package_is_to_be_named_as_a_part_of_it(package):
    with pytest.raises(ModuleError, match=r"\(pk.n.py:2\); give it as package\.module:NAME \(pk\.n:net\)$"):
        build("pk/n.py:net")
    assert isinstance(build("pk.n:net"), nn.Linear)


def test_a_package_elsewhere_is_named_with_its_folder(package, monkeypatch):
    here = Path.cwd()
    monkeypatch.chdir("pk")
    with pytest.raises(ModuleError) as caught:
        build("n.py:net")
    assert str(caught.value).endswith(f"give it as package.module:NAME (pk.n:net) in the folder {here.resolve()}")


def test_a_module_that_a_package_lacks_is_not_to_be_installed(package):
    with pytest.raises(ModuleError) as caught:
        build("pk.widhts:net")
    assert str(caught.value).endswith("pk has no module 'widhts'; did you mean 'widths'?")


def test_what_a_library_imports_later_is_not_a_file_beside_the_users(nets, tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "imported_later.py").write_text("WHOSE = 'library'\n")
    monkeypatch.setattr(sys, "path", [str(library), *sys.path])
    monkeypatch.delitem(sys.modules, "imported_later", raising=False)
    Path("imported_later.py").write_text("WHOSE = 'user'\n")
    build("nets.py:instance")
    try:
        assert importlib.import_module("imported_later").WHOSE == "library"
    finally:
        del sys.modules["imported_later"]


def test_imports_inside_functions_find_files_beside_the_users(nets):
    Path("lazy.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        from beside import WIDTH\n        return x + WIDTH\n"
    )
    try:
        assert build("lazy.py:Net")(1) == 8
    finally:
        sys.modules.pop("lazy", None)


def test_a_file_without_a_name_tells_what_is_in_it(nets):
    names = "Net, make, fails, asserts, raises, no_module"
    with pytest.raises(ModuleError, match=rf"must be FILE.py:NAME, got 'nets.py'; it defines {names}"):
        require_source("nets.py")


def test_a_file_called_like_a_library_replaces_nothing(nets):
    Path("json.py").write_text("import torch\nnet = torch.nn.Identity()\n")
    assert isinstance(build("json.py:net"), nn.Identity)
    assert hasattr(sys.modules["json"], "loads")


@pytest.mark.parametrize(
    ("text", "value"),
    [("n=28", 28), ("n=0.3", 0.3), ("n=true", True), ('n="a"', "a"), ("n=[1, 2]", [1, 2]), ("n = {a = 1}", {"a": 1})],
)  # fmt: skip
def test_kwargs_are_toml(text, value):
    assert parse_kwargs((text,)) == {"n": value}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("n",), "kwargs must be NAME=VALUE, got 'n'"),
        (("a b=1",), "kwargs must be NAME=VALUE, got 'a b=1'"),
        (("n=1", "n=2"), "kwargs must give every argument once, got 'n=2'"),
        (("act=relu",), """got 'act=relu'; write a text as act="relu", in the shell 'act="relu"'"""),
        (("n=1\nm=2",), "kwargs must have a TOML value"),
    ],
)
def test_wrong_kwargs(texts, words):
    with pytest.raises(ArgumentError) as caught:
        parse_kwargs(texts)
    assert words in str(caught.value)


def test_a_recipe_of_a_module_is_read_as_it_was_written(tmp_path):
    module = Module(
        source='a"b\\é.py:N', kwargs=('act="re\tlu\x7f"', "n=1"), input_shape=(3, 8, 9), outputs=("x", "y")
    )
    recipe = ModuleRecipe(schema=1, description="one\nline", module=module)
    (tmp_path / "model.toml").write_text(module_toml(recipe))
    assert read_module_recipe(tmp_path / "model.toml") == recipe


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[3, 8, 8]", "[3, 8]", "[module] input_shape must be (C, H, W), each at least 1"),
        ("outputs", "output", "[module] output is not a key; did you mean 'outputs'?"),
        ('["x"]', "[]", "[module] outputs must name at least one"),
        ("schema = 1", "schema = 2", "schema must be 1, got 2"),
    ],
)
def test_a_broken_recipe_of_a_module(tmp_path, old, new, words):
    recipe = ModuleRecipe(
        schema=1, description="", module=Module(source="n.py:N", input_shape=(3, 8, 8), outputs=("x",))
    )
    text = module_toml(recipe)
    assert old in text
    (tmp_path / "model.toml").write_text(text.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        read_module_recipe(tmp_path / "model.toml")
    assert words in str(caught.value)


def test_torch_is_all_that_an_import_needs():
    code = "import sys, aaexport.capture.user_module; assert not {'onnx', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
