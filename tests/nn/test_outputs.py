"""What a module returns has stable names, however deep it is nested."""

import dataclasses
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import nn

import aaexport
from aaexport.capture.program import export_program
from aaexport.errors import ExportError, ModuleError
from aaexport.nn.outputs import Flattened, leaves, names_of, needs_flattening
from aaexport.pipeline.subject.subject import module_subject

SHAPE = (3, 6, 5)
A, B, C = (torch.full((2,), float(number)) for number in range(3))
Pair = namedtuple("Pair", ("logits", "boxes"))


@dataclasses.dataclass
class Found:
    scores: Any
    boxes: Any


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (A, ("output",)),
        ((A,), ("output",)),
        ((A, B), ("output_0", "output_1")),
        ({"a": A}, ("a",)),
        ({"a": A, "b": {"c": B}}, ("a", "b.c")),
        ({"b": [A, (B, C)], "a": A}, ("b.0", "b.1.0", "b.1.1", "a")),
        ((A, {"x": B, "y": C}), ("output_0", "output_1.x", "output_1.y")),
        (OrderedDict(z=A, y=B), ("z", "y")),
        (Pair(A, B), ("logits", "boxes")),
        (Found(A, (B, C)), ("scores", "boxes.0", "boxes.1")),
        ((Found(A, B), C), ("output_0.scores", "output_0.boxes", "output_1")),
        (Found(A, None), ("scores",)),
        ({"a.b": A, "a": {"b": B}}, ("output_0", "output_1")),
        ({"input": A, "b": B}, ("output_0", "output_1")),
    ],
    ids=repr,
)
def test_a_tensor_is_named_by_the_way_to_it(output, names):
    assert names_of(output, (), ("input",)) == names
    assert len(leaves(output)) == len(names)


def test_a_modules_own_names_count_if_there_are_as_many():
    assert names_of((A, B), ("near", "far")) == ("near", "far")
    assert names_of((A, B, C), ("near", "far")) == ("output_0", "output_1", "output_2")


@pytest.mark.parametrize("own", [("a", "a"), ("a", "input"), ("a", "")])
def test_own_names_that_no_file_can_have_are_not_taken(own):
    assert names_of((A, B), own, ("input",)) == ("output_0", "output_1")


class Answers(dict):
    """As those of model libraries."""


class Several(list):
    pass


class Boxes(Pair):
    pass


@pytest.mark.parametrize(
    "output",
    [Answers(a=A), UserDict(a=A), MappingProxyType({"a": A}), Several([A]), {"x": [Answers(a=A)]}],
    ids=lambda output: type(output).__name__,
)
def test_containers_that_torch_does_not_know_need_flattening(output):
    assert needs_flattening(output)
    assert all(isinstance(leaf, torch.Tensor) for _, leaf in leaves(output))


KNOWN = [A, [A], Boxes(A, B), OrderedDict(a=A), defaultdict(list, a=A), torch.max(torch.eye(2), 1)]


@pytest.mark.parametrize("output", KNOWN, ids=lambda output: type(output).__name__)
def test_containers_that_torch_knows_stay_as_they_are(output):
    assert not needs_flattening(output)


def test_only_dataclasses_and_what_is_left_out_need_flattening():
    assert needs_flattening({"a": [Found(A, B)]})
    assert needs_flattening((A, None))
    assert not needs_flattening({"a": [Pair(A, B)]})


class Returning(nn.Module):
    def __init__(self, structure):
        super().__init__()
        self.c, self.structure = nn.Conv2d(3, 2, 1), structure

    def forward(self, x):
        y = self.c(x)
        return self.structure(y)


STRUCTURES = {
    "nested": (lambda y: {"a": y, "b": {"c": y * 2, "d": [y + 1, y.mean((2, 3))]}}, ("a", "b.c", "b.d.0", "b.d.1")),
    "None": (lambda y: {"logits": y, "loss": None}, ("logits",)),
    "dataclass": (lambda y: {"found": Found(y.sigmoid(), [y * 3])}, ("found.scores", "found.boxes.0")),
    "class made from dict": (lambda y: Answers(logits=y, aux=UserDict(b=y * 2)), ("logits", "aux.b")),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_nested_outputs_are_written_in_their_order_and_verified(name, tmp_path):
    structure, names = STRUCTURES[name]
    torch.manual_seed(0)
    path = tmp_path / "x.onnx"
    result = aaexport.convert(Returning(structure).eval(), path, input_shape=SHAPE)
    assert result.parity.passed
    assert {output.output for output in result.parity.outputs} == set(names)


class Choosing(nn.Module):
    def forward(self, y):
        return y if y.sum() > 0 else -y


def test_what_cannot_be_captured_is_told_by_the_users_own_names():
    """The module that flattens is ours: neither its class nor what it puts before the paths is theirs."""
    module = Returning(lambda y: Answers(a=y))
    module.c = nn.Sequential(module.c, Choosing())
    subject = module_subject(module.eval(), SHAPE)
    with pytest.raises(ExportError) as caught:
        export_program(subject.runnable(subject.module), SHAPE, "dynamic")
    text = str(caught.value)
    assert text.startswith("torch.export cannot capture Returning: c.1 (Choosing), ")
    assert "what it does next depends on the values of a tensor" in text


def test_what_cannot_be_written_is_told_by_the_users_own_names():
    pool = nn.AvgPool2d(2, divisor_override=3)
    for module, place in ((nn.Sequential(pool), "0 (AvgPool2d): "), (Pooled(), "")):
        with pytest.raises(ExportError) as caught:
            export_program(Flattened(module), SHAPE, "dynamic")
        text = str(caught.value)
        assert text.startswith(f"{type(module).__name__} cannot be written as ONNX: {place}")
        assert "network" not in text


class Pooled(nn.Module):
    def forward(self, x):
        return nn.functional.avg_pool2d(x, 2, divisor_override=3)


class Masked(nn.Module):
    def __init__(self, *, optional):
        super().__init__()
        self.c = nn.Conv2d(3, 2, 1)
        self.forward = self.with_default if optional else self.with_mask

    def with_default(self, x, mask=None):
        return self.c(x)

    def with_mask(self, x, mask, *, scale):
        return self.c(x) * mask * scale


def test_a_module_that_wants_more_is_told_the_wrapper_to_write():
    with pytest.raises(ModuleError) as caught:
        module_subject(Masked(optional=False).eval(), SHAPE)
    first, *wrapper = str(caught.value).splitlines()
    assert first == (
        "Masked must take one batch of images, got a forward that needs x, mask, scale; "
        "convert a class that gives it the others:"
    )
    assert [line.strip() for line in wrapper] == [
        "class Images(Masked):",
        "def forward(self, x):",
        "return super().forward(x, mask=…, scale=…)",
    ]
    compile("\n".join(line.removeprefix("    ") for line in wrapper).replace("…", "None"), "wrapper", "exec")


class ByName(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.c, self.forward = nn.Conv2d(3, 2, 1), forward


BY_NAME = {
    "alone": (lambda *, x: x, "needs x by its name; convert a class that gives it so:", "x", "x=x"),
    "with a default": (lambda *, x=None, y=None: x, "needs x by its name; convert a class that gives", "x", "x=x"),
    "with another": (lambda *, y=1, x, mask: x, "needs x by its name, mask; convert", "x", "x=x, mask=…"),
    "another's": (lambda x=None, *, mask: x, "needs x, mask; convert a class that gives it the", "x", "x, mask=…"),
    "any": (lambda *inputs, mask: inputs, "needs images, mask; convert a class", "images", "images, mask=…"),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_module_that_takes_its_images_by_name_is_told_the_wrapper_to_write(name):
    forward, says, takes, gives = BY_NAME[name]
    with pytest.raises(ModuleError) as caught:
        module_subject(ByName(forward).eval(), SHAPE)
    first, *wrapper = str(caught.value).splitlines()
    assert says in first
    assert [line.strip() for line in wrapper[1:]] == [
        f"def forward(self, {takes}):",
        f"return super().forward({gives})",
    ]


class Named(nn.Module):
    def forward(self, *, x):
        return x * 2


def test_the_wrapper_of_a_module_that_takes_its_images_by_name_is_one():
    with pytest.raises(ModuleError) as caught:
        module_subject(Named().eval(), SHAPE)
    scope = {"Named": Named}
    exec("\n".join(line.removeprefix("    ") for line in str(caught.value).splitlines()[1:]), scope)
    assert module_subject(scope["Images"]().eval(), SHAPE).output_names == ("output",)


def test_a_further_input_with_a_default_is_left_to_it():
    assert module_subject(Masked(optional=True).eval(), SHAPE).output_names == ("output",)
