"""The walls of the house: layers, light imports, the public names."""

import ast
import functools
import importlib
import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import aaexport
from aaexport import errors

PACKAGE = Path(aaexport.__file__).parent
# A room imports only from rooms above it. `pipeline` joins the rooms, `cli` is the front door.
ROOMS = (
    "errors",
    "outcome",
    "overrides",
    "lazy",
    "device",
    "control_groups",
    "cores",
    "memory",
    "allocator",
    "recipe",
    "writing",
    "folder",
    "binomial",
    "pixels",
    "nn",
    "adapters",
    "weights",
    "capture",
    "data",
    "training",
    "graph",
    "runners",
    "parity",
    "load",
    "serving",
    "deployment",
    "parts",
    "results",
    "report",
    "pipeline",
    "cli",
    "__main__",
)
# Within a room that has wings, which other wings each imports, beside itself.
WINGS = {
    "pipeline": {
        "subject": (),
        "export": ("subject",),
        "verify": ("subject", "export"),
        "reduce": ("subject", "export", "verify"),
        "convert": ("subject", "export", "verify", "reduce"),
        "bench": ("subject",),
        "look": ("subject", "export"),
        "deploy": ("subject", "export", "verify", "reduce", "convert"),
        "serve": ("subject",),
        "tune": ("subject", "export", "verify", "reduce", "convert", "bench"),
    },
    "report": {"page": (), "parity": (), "bench": ("page",), "site": ("page",), "model": ("page", "parity", "bench")},
}
WALLS = {
    "onnx": ("graph",),
    "onnxscript": ("graph",),
    "onnx_ir": ("graph",),
    "onnxruntime": ("runners",),
    "click": ("cli",),
    "rich": ("report", "cli"),
    "grpc": ("serving",),
    "google": ("serving", "graph", "deployment"),
    "ray": ("deployment",),
    "fastapi": ("deployment",),
    "yaml": ("deployment",),
}
# What is copied into a model repository and runs there by itself has its own session.
INSIDE_TRITON = (("onnxruntime", Path("serving/backend")),)
# The same of what Ray runs, which also speaks gRPC by itself.
INSIDE_RAY = tuple((library, Path("deployment/inside_ray")) for library in ("onnxruntime", "grpc"))
STANDARD_LIBRARY_ONLY = (
    "errors", "outcome", "overrides", "lazy", "device", "control_groups", "cores", "memory", "allocator", "recipe",
    "writing", "folder",
)  # fmt: skip
WITHOUT_TORCH = (*STANDARD_LIBRARY_ONLY, "parity", "load", "pixels", "binomial", "serving", "deployment")


def modules():
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(path):
    return path.parts[0].removesuffix(".py")


@functools.cache
def imported(path):
    """Every absolute module name that the file imports, at its top or inside a function."""
    names = []
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


INNER = [path for path in modules() if path != Path("__init__.py")]


@pytest.mark.parametrize("path", INNER, ids=str)
def test_a_room_imports_only_from_rooms_above_it(path):
    own = ROOMS.index(room_of(path))
    for name in imported(path):
        if name.startswith("aaexport.") and name.split(".")[1] in ROOMS:
            assert ROOMS.index(name.split(".")[1]) <= own, f"{path} imports {name}"


def wing_of(name):
    """(room, wing) of a dotted module name; the wing is None where the room has none, or the module lies outside."""
    _, room, *inner = name.split(".")
    return room, inner[0] if inner and inner[0] in WINGS.get(room, ()) else None


@pytest.mark.parametrize("path", [path for path in INNER if room_of(path) in WINGS], ids=str)
def test_a_wing_imports_only_from_wings_below_it(path):
    room, own = wing_of(dotted(path))
    if own is None:
        return
    for name in imported(path):
        if name.startswith("aaexport."):
            other_room, wing = wing_of(name)
            if other_room == room and wing is not None:
                assert wing in (own, *WINGS[room][own]), f"{path} imports {name}"


def test_the_pipeline_has_no_file_outside_its_wings():
    """What joins rooms belongs to a verb; a file of its own between the wings is a hall without walls again."""
    loose = [path for path in INNER if room_of(path) == "pipeline" and len(path.parts) == 2]
    assert loose == [Path("pipeline/__init__.py")]


def test_no_two_files_import_each_other():
    files = {dotted(path): path for path in INNER}
    reads = {
        own: {known for name in imported(path) if (known := as_file(name, files)) not in (None, own)}
        for own, path in files.items()
    }
    mutual = sorted({tuple(sorted((own, other))) for own in reads for other in reads[own] if own in reads[other]})
    assert not mutual


def dotted(path):
    return ".".join(("aaexport", *path.with_suffix("").parts)).removesuffix(".__init__")


def as_file(name, files):
    """The file that `from a.b import c` reads: a.b.c if that is a module, else a.b; None if neither is ours."""
    return next((known for known in (name, name.rpartition(".")[0]) if known in files), None)


def test_every_module_belongs_to_a_room():
    assert {room_of(path) for path in INNER} <= set(ROOMS)


@pytest.mark.parametrize("path", INNER, ids=str)
def test_a_library_is_imported_in_its_own_room_only(path):
    for name in imported(path):
        library = name.split(".")[0]
        if library in WALLS:
            allowed = room_of(path) in WALLS[library] or (library, path.parent) in (*INSIDE_TRITON, *INSIDE_RAY)
            assert allowed, f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in INNER if room_of(path) in WITHOUT_TORCH], ids=str)
def test_some_rooms_need_no_torch(path):
    assert "torch" not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", [path for path in INNER if room_of(path) in STANDARD_LIBRARY_ONLY], ids=str)
def test_the_first_rooms_need_the_standard_library_only(path):
    foreign = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - {"aaexport"}
    assert not foreign


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["convert", "--help"],
        ["serve-bench", "--help"],
        ["tune", "--help"],
        ["deploy", "--help"],
    ],
)
def test_help_loads_nothing_heavy(command):
    code = (
        f"import sys; sys.argv = ['aaexport', *{command!r}]\n"
        "from aaexport.cli.main import _run\n"
        "assert _run() == 0\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'numpy', 'sklearn', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, aaexport; assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def imported_at_once(path):
    """What the file imports as it is imported itself, and the packages around it."""
    for parent in Path(path).parents:
        yield ".".join(("aaexport", *parent.parts))
    for node in ast.parse((PACKAGE / path).read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def loaded_with(path):
    """Every module that is loaded with a file of ours, as far as our files say so."""
    files = {dotted(each): each for each in modules()}
    seen, todo = set(), [dotted(path)]
    while todo:
        own = todo.pop()
        if own not in seen:
            seen.add(own)
            todo += [as_file(name, files) or name for name in imported_at_once(files[own])] if own in files else []
    return seen


def test_a_verified_file_is_reduced_without_torch():
    """It takes as long to load as all the rest takes; what an import of a library brings is seen in tests/cli."""
    files = ("pipeline/convert/reduced.py", "pipeline/reduce/reduce.py", "report/terminal.py")
    loaded = set().union(*(loaded_with(Path(file)) for file in files))
    assert "aaexport.pipeline.verify.guarded" in loaded
    assert not {name for name in loaded if name.split(".")[0] == "torch"}


@pytest.mark.parametrize("name", aaexport.__all__)
def test_every_public_name_resolves(name):
    assert getattr(aaexport, name) is not None


@pytest.mark.parametrize("name", [n for n in aaexport.__all__ if not n.startswith("__")])
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(aaexport, name))


PUBLIC_FUNCTIONS = [
    name for name in aaexport.__all__ if name.islower() and name not in ("__version__", "errors", "nn")
]


@pytest.mark.parametrize("name", PUBLIC_FUNCTIONS)
def test_every_public_function_is_typed_without_any(name):
    """And what it returns, if it is ours, is a public name too."""
    hints = typing.get_type_hints(getattr(aaexport, name))
    assert set(hints) == set(inspect.signature(getattr(aaexport, name)).parameters) | {"return"}
    assert not any("Any" in str(hint) for hint in hints.values())
    returned = hints["return"]
    assert not returned.__module__.startswith("aaexport.") or returned.__name__ in aaexport.__all__


def test_dir_lists_the_public_names():
    assert dir(aaexport) == sorted(aaexport.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = aaexport.nothing


def test_the_verbs_stay_functions_after_their_modules_were_imported():
    for name in ("convert", "deploy", "inspect", "optimize", "serve_bench", "tune", "verify"):
        importlib.import_module(aaexport._HOMES[name])
        assert inspect.isfunction(getattr(aaexport, name))


def test_the_docstring_of_errors_draws_every_error_with_its_exit_code():
    drawn = {}
    for line in errors.__doc__.splitlines():
        words = line.replace("├──", " ").replace("└──", " ").replace("│", " ").split()
        if words and words[0].endswith("Error"):
            drawn[words[0]] = int(next(word for word in words if word.isdigit()))
    classes = inspect.getmembers(errors, lambda member: inspect.isclass(member) and issubclass(member, Exception))
    assert drawn == {name: member.exit_code for name, member in classes}


def test_no_two_files_of_tests_have_one_name():
    """Together they could not be collected: a run of one of their folders does not show it."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_help_takes_at_most_three_tenths_of_a_second_of_cpu():
    """CPU time, the least of up to twenty runs: what else the machine does at the moment must not decide this."""
    assert any(cpu_seconds_of_help() <= 0.3 for _ in range(20))


def cpu_seconds_of_help():
    before = os.times()
    subprocess.run([sys.executable, "-m", "aaexport", "--help"], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
