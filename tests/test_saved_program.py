"""A .pt2 file → its program, without running anything that the file brings."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from aaexport.errors import ModuleError
from aaexport.saved_program import load_program


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

    with pytest.raises(ModuleError, match=r"is refused, because model\.pt holds more than tensors"):
        load_program(rewritten(saved[1], tmp_path / "evil.pt2", change))
    assert not mark.exists()


def test_pickled_constants_are_refused_and_never_run(saved, tmp_path):
    mark = tmp_path / "mark"
    evil = rewritten(saved[1], tmp_path / "evil.pt2", lambda name, content: content)
    with zipfile.ZipFile(evil, "a") as archive:
        archive.writestr("net/data/constants/opaque_obj_0", pickle.dumps(Payload(mark)))
    with pytest.raises(ModuleError, match="opaque_obj_0 is a pickled object"):
        load_program(evil)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"use_pickle": false', '"use_pickle": true', "names a pickled tensor"),
        ("torch.ops.aten.relu.default", "os.system", "'os.system', which is no operator of PyTorch's"),
        ("torch.ops.aten.relu.default", "torch.hub.load", "'torch.hub.load', which is no operator"),
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


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(ModuleError, match=r"must be a whole program of torch\.export\.save"):
        load_program(tmp_path / "x.pt2")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModuleError, match="must be in a file that is there"):
        load_program(tmp_path / "x.pt2")
