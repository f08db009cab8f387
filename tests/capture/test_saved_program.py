"""A .pt2 file → its program, without running anything that the file brings."""

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from aaexport.capture.saved_program import load_program
from aaexport.errors import ModuleError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(36, 2)).eval()
    path = tmp_path_factory.mktemp("saved") / "net.pt2"
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=sizes), path)
    return net, path


def rewritten(path, into, change):
    """The archive with what `change` makes of each entry's bytes, by its name."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(into, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return into


class Payload:
    """What would leave a mark if it were unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_program_is_a_module_that_knows_its_input(saved):
    net, path = saved
    program = load_program(path)
    images = torch.randn(5, 3, 8, 8)
    assert (program.input_shape, program.batch, program.training) == ((3, 8, 8), "dynamic", False)
    assert torch.equal(program.eval()(images), net(images))
    assert program.double()(images.double()).dtype == torch.float64


def test_a_program_of_a_fixed_batch_says_so(saved, tmp_path):
    torch.export.save(torch.export.export(saved[0], (torch.zeros(2, 3, 8, 8),)), tmp_path / "two.pt2")
    assert load_program(tmp_path / "two.pt2").batch == 2


def test_a_program_of_something_else_than_images(tmp_path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(2, 2),)), tmp_path / "l.pt2")
    with pytest.raises(ModuleError, match=r"must take one batch of images \(B, C, H, W\), got 'Tensor'"):
        load_program(tmp_path / "l.pt2")


def test_pickled_inputs_with_code_are_refused_and_never_run(saved, tmp_path):
    mark = tmp_path / "mark"

    def change(name, content):
        if not name.endswith(".pt"):
            return content
        buffer = io.BytesIO()
        torch.save(((Payload(mark),), {}), buffer)
        return buffer.getvalue()

    with pytest.raises(
        ModuleError, match=r"is refused, because data/sample_inputs/model\.pt holds more than tensors"
    ):
        load_program(rewritten(saved[1], tmp_path / "evil.pt2", change))
    assert not mark.exists()


def test_pickled_constants_are_refused_and_never_run(saved, tmp_path):
    mark = tmp_path / "mark"
    evil = rewritten(saved[1], tmp_path / "evil.pt2", lambda name, content: content)
    with zipfile.ZipFile(evil, "a") as archive:
        archive.writestr("net/data/constants/opaque_obj_0", pickle.dumps(Payload(mark)))
    with pytest.raises(ModuleError, match=r"opaque_obj_0' is no part of a program of tensors"):
        load_program(evil)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"use_pickle": false', '"use_pickle": true', "names a pickled tensor"),
        ("torch.ops.aten.relu.default", "os.system", "'os.system' as target, which is no operator of PyTorch's"),
        ("torch.ops.aten.relu.default", "torch.hub.load", "'torch.hub.load' as target, which is no operator"),
        ("Symbol('", "__import__('os').system('", "which is no arithmetic"),
        ("Symbol('", "Symbol.__class__('", "which is no arithmetic"),
    ],
)
def test_what_would_be_evaluated_is_refused(saved, tmp_path, old, new, words):
    found = []

    def change(name, content):
        if name.endswith(".json"):
            found.append(old.encode() in content)
            json.loads(changed := content.replace(old.encode(), new.encode()))
            return changed
        return content

    evil = rewritten(saved[1], tmp_path / "evil.pt2", change)
    assert any(found)
    with pytest.raises(ModuleError) as caught:
        load_program(evil)
    assert words in str(caught.value)


MODEL, CONSTANTS = "models/model.json", "data/constants/model_constants_config.json"


def edited(path, into, part, change):
    """The archive with what `change` does to the object in one of its JSON files."""

    def rewrite(name, content):
        if not name.endswith(part):
            return content
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return rewritten(path, into, rewrite)


def refusal(path):
    with pytest.raises(ModuleError) as caught:
        load_program(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith("save it again with torch.export.save from the module itself, or convert FILE.py:NAME")
    return text


def with_code(content, mark):
    """A program whose first expression makes the mark."""
    call = f"__import__('pathlib').Path('{mark}').touch() or "
    return content.replace(b'"expr_str": "', f'"expr_str": "{call}'.encode(), 1)


def test_a_program_under_another_extension_is_refused(saved, tmp_path):
    with zipfile.ZipFile(saved[1]) as old, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(MODEL):
                content = with_code(content, tmp_path / "mark")
            new.writestr(name.replace(MODEL, "models/model.JSON"), content)
    assert "models/model.JSON' is no part of" in refusal(tmp_path / "evil.pt2")
    assert not (tmp_path / "mark").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(saved, tmp_path):
    def change(name, content):
        return with_code(content, tmp_path / "mark") if name.endswith(MODEL) else content

    evil = rewritten(saved[1], tmp_path / "evil.pt2", change)
    with zipfile.ZipFile(saved[1]) as old, zipfile.ZipFile(evil, "a") as archive:
        (name,) = (name for name in old.namelist() if name.endswith(MODEL))
        archive.writestr(name, old.read(name))
    assert "two entries of one name" in refusal(evil)
    assert not (tmp_path / "mark").exists()


def test_of_two_archives_in_one_file_the_one_that_was_vetted_is_loaded(saved, tmp_path):
    def change(name, content):
        return with_code(content, tmp_path / "mark") if name.endswith(MODEL) else content

    evil = rewritten(saved[1], tmp_path / "evil.pt2", change)
    (tmp_path / "two.pt2").write_bytes(evil.read_bytes() + saved[1].read_bytes())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_program(tmp_path / "two.pt2")(images), saved[0](images))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("stored", [True, False])
def test_a_constant_that_is_a_pickle_is_refused(saved, tmp_path, stored):
    pickled = pickle.dumps(Payload(tmp_path / "mark"))
    sizes = {"sizes": [{"as_int": len(pickled)}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}}
    meta = {**sizes, "dtype": 1, "requires_grad": False, "device": {"type": "cpu", "index": None}, "layout": 7}
    # Where the pickle is stored, its entry is refused; where it is not, its name in the configuration is.
    entry = {"path_name": "opaque_obj_0/x", "is_param": False, "use_pickle": False, "tensor_meta": meta}
    evil = edited(saved[1], tmp_path / "evil.pt2", CONSTANTS, lambda value: value["config"].update(c0=entry))
    if stored:
        with zipfile.ZipFile(evil, "a") as archive:
            root = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{root}/data/constants/opaque_obj_0/x", pickled)
    assert "opaque_obj_0/x'" in refusal(evil)
    assert not (tmp_path / "mark").exists()


def tree(kind, context):
    leaf = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        (
            "collections.defaultdict",
            {"default_factory_module": "marking", "default_factory_name": "F", "dict_context": ["a"]},
        ),
        ("builtins.dict", json.dumps({"__enum__": True, "fqn": "marking:F", "name": "A"})),
        ("builtins.dict", json.dumps([{"__enum__": True, "fqn": "marking:F", "name": "A"}])),
    ],
)
@pytest.mark.parametrize("key", ["in_spec", "out_spec"])
def test_a_tree_that_imports_is_refused(saved, tmp_path, monkeypatch, kind, context, key):
    (tmp_path / "marking.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\nF = dict\n")
    monkeypatch.syspath_prepend(tmp_path)

    def change(value):
        value["graph_module"]["module_call_graph"][0]["signature"][key] = tree(kind, context)

    evil = edited(saved[1], tmp_path / "evil.pt2", MODEL, change)
    assert f"as {key}, which is no tree" in refusal(evil)
    assert "marking" not in sys.modules
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("operator", ["torch.ops.aten.from_file.default", "torch.ops.aten.save.default"])
def test_an_operator_that_opens_files_is_refused(saved, tmp_path, operator):
    arguments = {
        "filename": {"as_string": str(tmp_path / "mark")},
        "shared": {"as_bool": True},
        "size": {"as_int": 16},
    }
    inputs = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]

    def change(value):
        graph = value["graph_module"]["graph"]
        graph["tensor_values"]["ff"] = next(iter(graph["tensor_values"].values()))
        node = {"target": operator, "inputs": inputs, "outputs": [{"as_tensor": {"name": "ff"}}], "metadata": {}}
        graph["nodes"].append({**node, "is_hop_single_tensor_return": None, "name": "ff"})

    evil = edited(saved[1], tmp_path / "evil.pt2", MODEL, change)
    assert f"{operator!r} as target, which is no operator" in refusal(evil)
    assert not (tmp_path / "mark").exists()


def test_a_name_that_is_source_is_refused(saved, tmp_path):
    mark = tmp_path / "mark"
    code = f"x=__import__('pathlib').Path('{mark}').touch()"

    def change(name, content):
        return content.replace(b'"name": "relu"', f'"name": "{code}"'.encode()) if name.endswith(MODEL) else content

    assert "as name, which is no plain name" in refusal(rewritten(saved[1], tmp_path / "evil.pt2", change))
    assert not mark.exists()


class Several(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer("scale", torch.arange(3.0), persistent=False)

    def forward(self, images):
        scaled = images * self.scale[:, None, None]
        return self.kind([("a b", scaled), ("c", scaled.mean())]) if self.kind is dict else (scaled, [scaled.mean()])


@pytest.mark.parametrize("kind", [dict, tuple])
def test_constants_and_outputs_in_trees_are_kept(tmp_path, kind):
    net = Several(kind)
    program = torch.export.export(net, (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2", extra_files={"note.json": "not read"})
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(load_program(tmp_path / "net.pt2")(images), net(images))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(ModuleError, match=r"must be a whole program of torch\.export\.save"):
        load_program(tmp_path / "x.pt2")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModuleError, match="must be in a file that is there"):
        load_program(tmp_path / "x.pt2")
