"""What a module returns has stable names, however deep it is nested."""

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import nn

import aaexport
from aaexport.errors import ModuleError
from aaexport.nn.outputs import leaves, names_of, needs_flattening
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
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_nested_outputs_are_written_in_their_order_and_verified(name, tmp_path):
    structure, names = STRUCTURES[name]
    torch.manual_seed(0)
    path = tmp_path / "x.onnx"
    result = aaexport.convert(Returning(structure).eval(), path, input_shape=SHAPE)
    assert result.parity.passed
    assert {output.output for output in result.parity.outputs} == set(names)


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


def test_a_further_input_with_a_default_is_left_to_it():
    assert module_subject(Masked(optional=True).eval(), SHAPE).output_names == ("output",)
