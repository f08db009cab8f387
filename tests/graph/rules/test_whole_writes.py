import contextlib
import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from graphs import assert_same_function, graph, operators, optimized
from torch import nn

from aaexport.graph.check import UNWANTED_OPERATORS
from aaexport.graph.optimize import optimize_model
from aaexport.graph.rules import FILE_RULES
from aaexport.graph.rules.whole_writes import IdleSizes, WholeWrites

DOUBLE, INT64 = onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64
END = np.array([2**63 - 1])
CONSTANTS = {
    "0": np.array(0), "1": np.array(1), "2": np.array(2), "[0]": np.array([0]), "[1]": np.array([1]),
    "[2]": np.array([2]), "[4]": np.array([4]), "[6]": np.array([6]), "[-1]": np.array([-1]), "end": END,
    "halves": np.array([2, 4]), "thirds": np.array([2, 2, 2]), "others": np.array([3, 3]),
}  # fmt: skip
ONLY_A_PART = "only a part of the tensor is written, and more than that is read"
NOT_A_BLOCK = "the places that are written are not known to be a block before the model runs"
READ_IN_PART = "a part that is read was written in part"
SWAP = {"perm": [1, 0, 2]}


def model(*nodes, shapes=None, **constants):
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    held = {name: value for name, value in (CONSTANTS | constants).items() if name in used}
    outputs = [f"y{number}" for number in range(9) if any(f"y{number}" in outs for _, _, outs, _ in nodes)]
    return graph(nodes, shapes or {"x": ["batch", 6, 4]}, held, outputs or ("y",))


def range_of(value, axis, to, *, start="0"):
    """What counts along an axis of a value, as both exporters write it."""
    return [
        ("Shape", [value], [f"{to}_shape"], {}),
        ("Gather", [f"{to}_shape", str(axis)], [f"{to}_size"], {"axis": 0}),
        ("Range", [start, f"{to}_size", "1"], [to], {}),
    ]


def sliced(whole, part, start, end):
    """slice_scatter(whole, part, 1, start, end) of the newer exporter."""
    return [
        *range_of(whole, 1, "counted"),
        ("Slice", ["counted", start, end, "[0]", "[1]"], ["some"], {}),
        ("Unsqueeze", ["some", "[-1]"], ["places"], {}),
        ("Transpose", [part], ["part_first"], SWAP),
        ("Transpose", [whole], ["whole_first"], SWAP),
        ("ScatterND", ["whole_first", "places", "part_first"], ["put"], {}),
        ("Transpose", ["put"], ["written"], SWAP),
    ]


IN_PLACE = [
    ("Split", ["x", "thirds"], ["q", "k", "v"], {"axis": 1}),
    ("Sin", ["q"], ["done"], {}),
    *sliced("x", "done", "[0]", "[2]"),
    ("Split", ["written", "thirds"], ["a", "b", "c"], {"axis": 1}),
]


def written(before, refusals=None):
    """The operators that the rules leave, of the same function at three batches."""
    rewritten, (writes, idle) = optimize_model(before, rules=[WholeWrites, IdleSizes])
    assert writes.refused == (refusals or {})
    for batch in (1, 3, 9):
        assert_same_function(before, rewritten, batch)
    assert bool(writes.applied or idle.applied) == (operators(before) != operators(rewritten))
    return operators(rewritten)


def test_a_part_of_a_split_that_is_written_in_place_is_what_was_written():
    before = model(*IN_PLACE, ("Concat", ["a", "c", "b"], ["y"], {"axis": 1}))
    assert written(before) == ["Split", "Sin", "Concat"]


def test_outputs_keep_their_names():
    names = {"a": "y0", "b": "y1", "c": "y2"}
    nodes = [(op, ins, [names.get(out, out) for out in outs], more) for op, ins, outs, more in IN_PLACE]
    rewritten, _ = optimized(model(*nodes), WholeWrites)
    assert operators(rewritten) == ["Split", "Sin"]
    assert [value.name for value in rewritten.graph.output] == ["y0", "y1", "y2"]


def test_parts_of_what_was_written_are_parts_of_it():
    nodes = [
        ("Slice", ["x", "[2]", "[6]", "[1]"], ["q"], {}),
        ("Sin", ["q"], ["done"], {}),
        *sliced("x", "done", "[2]", "[6]"),
        ("Split", ["written", "thirds"], ["a", "b", "c"], {"axis": 1}),
        ("Concat", ["c", "b", "a"], ["y"], {"axis": 1}),
    ]
    found = written(model(*nodes))
    assert not {"ScatterND", "Shape", "Transpose", "Range"} & set(found)
    assert found.count("Slice") == 3


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        ("[0]", "[2]", ["Slice", "Sin"]),
        ("[2]", "[6]", ["Slice"]),
        ("[0]", "[1]", ["Slice", "Sin", "Slice"]),
        ("[4]", "end", ["Slice"]),
    ],
)
def test_a_slice_reads_what_was_written_or_what_was_there(start, end, found):
    nodes = [
        ("Slice", ["x", "[0]", "[2]", "[1]"], ["q"], {}),
        ("Sin", ["q"], ["done"], {}),
        *sliced("x", "done", "[0]", "[2]"),
        ("Slice", ["written", start, end, "[1]"], ["y"], {}),
    ]
    assert written(model(*nodes)) == found


def test_a_slice_of_other_axes_too_stays_one():
    nodes = [
        ("Slice", ["x", "[0]", "[2]", "[1]"], ["q"], {}),
        ("Sin", ["q"], ["done"], {}),
        *sliced("x", "done", "[0]", "[2]"),
        ("Slice", ["written", "bounds_a", "bounds_b", "axes"], ["y"], {}),
    ]
    bounds = {"bounds_a": np.array([1, 0]), "bounds_b": np.array([3, 2]), "axes": np.array([2, 1])}
    assert written(model(*nodes, **bounds)) == ["Slice", "Sin", "Slice"]


@pytest.mark.parametrize(("which", "found"), [([1, 0], ["Slice", "Sin", "Gather"]), ([2, 5, 2], ["Gather"])])
def test_a_gather_reads_what_was_written_or_what_was_there(which, found):
    nodes = [
        ("Slice", ["x", "[0]", "[2]", "[1]"], ["q"], {}),
        ("Sin", ["q"], ["done"], {}),
        *sliced("x", "done", "[0]", "[2]"),
        ("Gather", ["written", "which"], ["y"], {"axis": 1}),
    ]
    assert written(model(*nodes, which=np.array(which))) == found


def test_the_whole_of_a_dynamic_batch_is_written():
    """z[:] = sin(x), as the older exporter has it."""
    nodes = [
        ("Shape", ["x"], ["shape"], {}),
        ("ConstantOfShape", ["shape"], ["zeros"], {"value": onnx.helper.make_tensor("", DOUBLE, [1], [0])}),
        ("Sin", ["x"], ["done"], {}),
        ("Expand", ["done", "shape"], ["expanded"], {}),
        *range_of("x", 0, "rows"),
        ("Unsqueeze", ["rows", "[-1]"], ["places"], {}),
        ("Shape", ["rows"], ["count"], {}),
        ("Slice", ["shape", "[1]", "end", "[0]"], ["rest"], {}),
        ("Concat", ["count", "rest"], ["sizes"], {"axis": 0}),
        ("Reshape", ["expanded", "sizes"], ["reshaped"], {}),
        ("ScatterND", ["zeros", "places", "reshaped"], ["y"], {}),
    ]
    assert written(model(*nodes)) == ["Sin"]


def along_two_axes(start="0", to="done"):
    """z[:, :] = …, as the older exporter has it: a place is two numbers."""
    return [
        *range_of("x", 0, "rows", start=start), *range_of("x", 1, "columns"),
        ("Reshape", ["rows", "upright"], ["rows_"], {}),
        ("Add", ["rows_", "columns"], ["both"], {}),
        ("Shape", ["both"], ["all"], {}),
        ("Shape", ["all"], ["rank"], {}),
        ("ConstantOfShape", ["rank"], ["ones"], {"value": onnx.helper.make_tensor("", INT64, [1], [1])}),
        ("Mul", ["ones", "minus"], ["minuses"], {}),
        ("Equal", ["all", "minuses"], ["is_open"], {}),
        ("Where", ["is_open", "ones", "all"], ["target"], {}),
        ("Expand", ["rows_", "target"], ["rows__"], {}), ("Unsqueeze", ["rows__", "[-1]"], ["rows___"], {}),
        ("Expand", ["columns", "target"], ["columns_"], {}), ("Unsqueeze", ["columns_", "[-1]"], ["columns__"], {}),
        ("Concat", ["rows___", "columns__"], ["places"], {"axis": -1}),
        ("ScatterND", ["x", "places", to], ["y"], {}),
    ]  # fmt: skip


UPRIGHT = {"upright": np.array([-1, 1]), "minus": np.array(-1)}


def test_the_whole_is_written_along_several_axes():
    before = model(("Sin", ["x"], ["done"], {}), *along_two_axes(), **UPRIGHT)
    assert written(before) == ["Sin"]


def test_all_but_the_first_image_is_a_part():
    """Of images of which nobody knows how many there are: where it is written is not known either."""
    nodes = [
        ("Sin", ["x"], ["sin"], {}),
        ("Slice", ["sin", "[1]", "end", "[0]"], ["done"], {}),
        *along_two_axes("1"),
    ]
    before = model(*nodes, **UPRIGHT)
    assert written(before, {NOT_A_BLOCK: 1}) == operators(before)


def constant_places(places, part="done", shape=(6, 4), **attributes):
    nodes = [("Sin", ["x"], ["done"], {}), ("ScatterND", ["x", "places", part], ["y"], attributes)]
    return model(*nodes, shapes={"x": list(shape)}, places=np.array(places))


def test_constant_places_of_the_whole():
    assert written(constant_places([[0], [1], [2], [3], [4], [5]])) == ["Sin"]
    every = np.stack(np.meshgrid(range(6), range(4), indexing="ij"), axis=-1)
    assert written(constant_places(every)) == ["Sin"]
    assert written(constant_places([[0]], shape=(1, 4))) == ["Sin"]


OTHER_ORDERS = {
    "backwards": [[5], [4], [3], [2], [1], [0]],
    "one twice": [[0], [1], [2], [3], [4], [4]],
    "by one": [[1], [2], [3], [4], [5], [0]],
    "from the end": [[-6], [-5], [-4], [-3], [-2], [-1]],
}


@pytest.mark.parametrize("order", OTHER_ORDERS)
def test_other_orders_are_left(order):
    before = constant_places(OTHER_ORDERS[order])
    assert written(before, {NOT_A_BLOCK: 1}) == operators(before)


def test_what_is_added_is_no_write():
    before = constant_places([[0], [1], [2], [3], [4], [5]], reduction="add")
    assert written(before, {"what is written is put together with what is there": 1}) == operators(before)


def test_a_part_is_left():
    nodes = [
        ("Slice", ["x", "[0]", "[2]", "[1]"], ["q"], {}),
        ("Sin", ["q"], ["done"], {}),
        *sliced("x", "done", "[0]", "[2]"),
        ("Cos", ["written"], ["y"], {}),
    ]
    before = model(*nodes)
    assert written(before, {ONLY_A_PART: 1}) == operators(before)


def test_a_part_that_is_read_and_was_written_in_part_is_left():
    nodes = [*IN_PLACE[:-1], ("Split", ["written", "others"], ["y0", "y1"], {"axis": 1})]
    before = model(*nodes)
    assert written(before, {ONLY_A_PART: 1, READ_IN_PART: 1}) == operators(before)


def test_a_part_along_another_axis_is_left():
    nodes = [*IN_PLACE[:-1], ("Slice", ["written", "[0]", "[2]", "[2]"], ["y"], {})]
    before = model(*nodes)
    assert written(before, {ONLY_A_PART: 1, READ_IN_PART: 1}) == operators(before)


def test_the_first_images_of_a_dynamic_batch_are_not_all():
    """Two images are the whole of a batch of one or two, and not of three."""
    nodes = [
        ("Slice", ["x", "[0]", "[2]", "[0]"], ["first"], {}),
        ("Sin", ["first"], ["done"], {}),
        *range_of("x", 0, "rows"),
        ("Slice", ["rows", "[0]", "[2]", "[0]"], ["some"], {}),
        ("Unsqueeze", ["some", "[-1]"], ["places"], {}),
        ("ScatterND", ["x", "places", "done"], ["y"], {}),
    ]
    before = model(*nodes)
    assert written(before, {NOT_A_BLOCK: 1}) == operators(before)


def test_as_many_places_as_another_tensor_has_rows_are_not_known_to_be_all():
    nodes = [
        *range_of("part", 0, "rows"),
        ("Unsqueeze", ["rows", "[-1]"], ["places"], {}),
        ("ScatterND", ["x", "places", "part"], ["y"], {}),
    ]
    before = model(*nodes, shapes={"x": ["batch", 4], "part": ["some", 4]})
    assert written(before, {ONLY_A_PART: 1}) == operators(before)


def test_places_that_are_given_are_left():
    nodes = [
        ("Cast", ["given"], ["places"], {"to": INT64}),
        ("ScatterND", ["x", "places", "part"], ["y"], {}),
    ]
    before = model(*nodes, shapes={"x": [3, 4], "given": [3, 1], "part": [3, 4]})
    rewritten, report = optimized(before, WholeWrites)
    assert report.refused == {NOT_A_BLOCK: 1}
    assert operators(rewritten) == operators(before)


def scattered(axis_size, index, *reads):
    """select_scatter(x, part, 1, index) of the newer exporter."""
    nodes = [
        ("Gather", ["x", "which"], ["selected"], {"axis": 1}),
        ("Sin", ["selected"], ["sin"], {}),
        ("Unsqueeze", ["sin", "[1]"], ["done"], {}),
        ("Shape", ["done"], ["shape"], {}),
        ("Expand", ["which", "shape"], ["places"], {}),
        ("ScatterElements", ["x", "places", "done"], ["written" if reads else "y"], {"axis": 1}),
    ]
    return model(*nodes, *reads, shapes={"x": ["batch", axis_size, 4]}, which=np.array(index))


def test_the_only_element_of_an_axis_is_the_whole():
    assert written(scattered(1, 0)) == ["Gather", "Sin", "Unsqueeze"]


def test_one_of_several_elements_is_a_part():
    before = scattered(3, 1)
    assert written(before, {ONLY_A_PART: 1}) == operators(before)


def test_elements_that_are_read_one_by_one():
    reads = [
        ("Slice", ["written", "[0]", "[1]", "[1]"], ["y0"], {}),
        ("Slice", ["written", "[1]", "[2]", "[1]"], ["y1"], {}),
    ]
    assert written(scattered(3, 1, *reads)) == ["Gather", "Sin", "Unsqueeze", "Slice"]


def test_a_reshape_there_and_back_is_nothing():
    nodes = [
        ("Reshape", ["x", "flat"], ["flattened"], {}),
        ("Sin", ["flattened"], ["y0"], {}),
        ("Reshape", ["flattened", "back"], ["again"], {}),
        ("Sin", ["again"], ["y1"], {}),
    ]
    before = model(*nodes, flat=np.array([-1, 24]), back=np.array([-1, 6, 4]))
    assert sorted(written(before)) == ["Reshape", "Sin", "Sin"]


def test_an_expand_that_repeats_and_a_reshape_to_other_sizes_stay():
    nodes = [("Expand", ["x", "more"], ["y0"], {}), ("Reshape", ["x", "turned"], ["y1"], {})]
    before = model(*nodes, more=np.array([3, 1, 6, 4]), turned=np.array([-1, 4, 6]))
    assert written(before) == operators(before)


# What the exporters make of modules


class Written(nn.Module):
    """Queries of a split are changed, out of place or in any way in place."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.only = nn.Conv2d(3, 12, 1)

    def forward(self, x):
        q, k, v = self.only(x).split([4, 4, 4], 1)
        q = getattr(self, self.way)(q)
        return torch.cat([q.relu() + k, v], 1)

    def out_of_place(self, q):
        return q.sin()

    def all_images(self, q):
        q[:] = q.sin()
        return q

    def all_axes(self, q):
        q[:, :, :, :] = q.sin()
        return q

    def a_slice_of_all(self, q):
        q[:, 0:4] = q.sin()
        return q

    def copied(self, q):
        return q.copy_(q.sin())

    def in_place(self, q):
        return q.sin_()

    def twice(self, q):
        q *= 2
        return q.sin_()

    def through_a_view(self, q):
        heads = q.view(len(q), 2, 2, *q.shape[2:])
        heads.sin_()
        return q


WAYS = [name for name in vars(Written) if not name.startswith("_") and name not in ("forward", "out_of_place")]


def exported(way, *, newer):
    torch.manual_seed(0)
    module = Written(way).eval().requires_grad_(False)
    kind = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "opset_version": 20} if newer else {
        "dynamic_axes": {"x": {0: "batch"}}, "input_names": ["x"], "opset_version": 17}  # fmt: skip
    file = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.randn(2, 3, 5, 4),), file, dynamo=newer, **kind)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.slow
@pytest.mark.parametrize("newer", [True, False], ids=["newer", "older"])
def test_every_way_to_write_is_the_way_out_of_place(newer):
    wanted = [each for each in operators(optimize_model(exported("out_of_place", newer=newer), rules=FILE_RULES)[0])
              if each != "Constant"]  # fmt: skip
    assert not set(UNWANTED_OPERATORS) & set(wanted)
    for way in WAYS:
        before = exported(way, newer=newer)
        after, _ = optimize_model(before, rules=FILE_RULES)
        assert not {"Shape", "Gather", "Range", "ScatterND", "Expand"} & set(operators(after)), way
        if way not in ("through_a_view", "twice"):
            assert [each for each in operators(after) if each != "Constant"] == wanted, way
