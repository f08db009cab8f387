"""optimize compares on inputs that mean something: the user's own, onnx's test data, or what operators want."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import aaexport
from aaexport.errors import ArgumentError, DataError, ParityError, RunnerError
from aaexport.graph.meaning import meaningful_inputs
from aaexport.parity import tolerances
from aaexport.pipeline.convert.comparison import compare_files
from aaexport.pipeline.convert.options import OptimizeOptions

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def saved(path, nodes, inputs, constants=(), *, outputs=("y",), rank=None):
    """A file of (operator, inputs, outputs, attributes) rows; `rank` is the outputs', where it cannot be inferred."""
    graph = helper.make_graph(
        [helper.make_node(op, ins, outs, **more) for op, ins, outs, more in nodes],
        "small",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    unknown = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    for value in unknown if rank is not None else ():
        value.type.tensor_type.elem_type = FLOAT
        value.type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension()] * rank)
    onnx.save(model, path)
    return path


@pytest.fixture
def lookup(tmp_path):
    """Rows of a table of 4, and something that is added to them."""
    nodes = [("Gather", ["table", "rows"], ["taken"], {}), ("Add", ["taken", "x"], ["y"], {})]
    ports = [("rows", INT, ["batch"]), ("x", FLOAT, ["batch", "width"])]
    return saved(tmp_path / "in.onnx", nodes, ports, {"table": TABLE})


ROWS = {"rows": np.array([3, 0]), "x": np.ones((2, 3), np.float32)}


def cases(result):
    (row,) = result.parity.computations
    return [output.case for output in row.outputs]


def test_an_archive_is_one_set_of_inputs(lookup, tmp_path):
    np.savez(tmp_path / "own.npz", **ROWS)
    result = aaexport.optimize(lookup, tmp_path / "out.onnx", inputs=tmp_path / "own.npz")
    assert result.parity.passed
    assert cases(result) == ["own.npz"]


def test_a_folder_has_several(lookup, tmp_path):
    folder = tmp_path / "data"
    for number in range(2):
        one = folder / f"test_data_set_{number}"
        one.mkdir(parents=True)
        for place, (name, array) in enumerate(ROWS.items()):
            tensor = numpy_helper.from_array(array, name if number else "")  # without a name it is the one in order
            (one / f"input_{place}.pb").write_bytes(tensor.SerializeToString())
    np.savez(folder / "more.npz", **ROWS)
    result = aaexport.optimize(lookup, tmp_path / "out.onnx", inputs=folder)
    assert cases(result) == ["test_data_set_0", "test_data_set_1", "more.npz"]
    assert cases(aaexport.optimize(lookup, tmp_path / "out.onnx", inputs=folder / "test_data_set_1")) == [
        "test_data_set_1"
    ]


def test_folders_of_one_name_are_both_fed(lookup, tmp_path):
    inner = tmp_path / "data" / "data"
    inner.mkdir(parents=True)
    for place, array in enumerate(ROWS.values()):
        for folder in (inner, inner.parent):
            (folder / f"input_{place}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    assert cases(aaexport.optimize(lookup, tmp_path / "out.onnx", inputs=inner.parent)) == ["data", "data"]


def test_the_command_takes_inputs(cli, lookup, tmp_path):
    np.savez(tmp_path / "own.npz", **ROWS)
    outcome = cli("optimize", lookup, "out.onnx", "--inputs", "own.npz")
    assert (outcome.code, "PASS" in outcome.out) == (0, True)


WRONG = {
    "rows": ({"x": ROWS["x"]}, r"inputs of own\.npz must hold rows, got 'x'"),
    "type": (ROWS | {"rows": np.array([1.0, 2.0])}, r"inputs of own\.npz must be int64 for rows, got float64"),
    "shape": (ROWS | {"x": np.ones(2, np.float32)}, r"inputs of own\.npz must have the shape \(None, None\) for x"),
    "other": (ROWS | {"z": np.ones(2)}, r"inputs of own\.npz must be those of the model \(rows, x\), got 'z'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_inputs_that_are_not_the_models_are_refused(lookup, tmp_path, wrong):
    arrays, message = WRONG[wrong]
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=message):
        aaexport.optimize(lookup, tmp_path / "out.onnx", inputs=tmp_path / "own.npz")
    assert not (tmp_path / "out.onnx").exists()


def test_inputs_that_cannot_be_read_are_refused(lookup, tmp_path):
    def refused(path, message):
        with pytest.raises(DataError, match=message):
            aaexport.optimize(lookup, tmp_path / "out.onnx", inputs=path)

    refused(tmp_path / "none.npz", "there is no such file")
    (tmp_path / "text.txt").write_text("text")
    refused(tmp_path / "text.txt", r"inputs must be a folder, or a file of \.npz")
    (tmp_path / "text.npz").write_text("text")
    refused(tmp_path / "text.npz", "inputs must be whole, but .* cannot be read")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"inputs must hold \.npz files, input_\*\.pb or folders of those, got 'none in ")
    (tmp_path / "empty" / "input_0.pb").write_bytes(b"\xff\xff")
    refused(tmp_path / "empty", r"input_0\.pb must be a whole tensor")
    with pytest.raises(ArgumentError, match="inputs must be left out where nothing is verified"):
        aaexport.optimize(lookup, tmp_path / "out.onnx", inputs=tmp_path / "empty", verify=False)


def test_another_answer_to_the_inputs_writes_nothing(tmp_path, monkeypatch):
    def rewrite(self, op, x, table, summed):
        return op.Neg(op.MatMul(x, op.Transpose(table, perm=[1, 0])))

    monkeypatch.setattr("aaexport.graph.rules.einsum_as_matmul.EinsumAsMatmul.rewrite", rewrite)
    nodes = [("Einsum", ["x", "table"], ["y"], {"equation": "ni,ji->nj"})]
    path = saved(tmp_path / "in.onnx", nodes, [("x", FLOAT, ["batch", 3])], {"table": TABLE})
    np.savez(tmp_path / "own.npz", x=np.ones((2, 3), np.float32))
    with pytest.raises(ParityError, match=r"y of own\.npz"):
        aaexport.optimize(path, tmp_path / "out.onnx", inputs=tmp_path / "own.npz")
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_without_inputs_is_compared(tmp_path):
    path = saved(tmp_path / "in.onnx", [("Relu", ["table"], ["y"], {})], [], {"table": TABLE})
    result = aaexport.optimize(path, tmp_path / "out.onnx")
    assert result.parity.passed
    assert cases(result) == ["no inputs"]
    (tmp_path / "data").mkdir()
    assert cases(aaexport.optimize(path, tmp_path / "out.onnx", inputs=tmp_path / "data")) == ["data"]


def test_empty_outputs_are_no_evidence_but_for_inputs_that_are_given(cli, tmp_path):
    path = saved(tmp_path / "in.onnx", [("Sub", ["x", "x"], ["zero"], {}), ("NonZero", ["zero"], ["y"], {})],
                 [("x", FLOAT, [2, 3])])  # fmt: skip
    outcome = cli("optimize", path, "out.onnx")
    assert outcome.code == 2
    assert "the outputs must hold numbers to be compared, got 'none'; pass --inputs that mean" in outcome.err
    np.savez(tmp_path / "own.npz", x=TABLE[:2])
    assert aaexport.optimize(path, tmp_path / "out.onnx", inputs=tmp_path / "own.npz").parity.passed


def test_an_empty_output_beside_others_is_right(tmp_path):
    nodes = [("Sub", ["x", "x"], ["zero"], {}), ("NonZero", ["zero"], ["y"], {}), ("Sin", ["x"], ["z"], {})]
    path = saved(tmp_path / "in.onnx", nodes, [("x", FLOAT, [2, 3])], outputs=("y", "z"))
    assert aaexport.optimize(path, tmp_path / "out.onnx").parity.passed


def judged(tmp_path, one, other, x):
    """Whether a file of the nodes `other` passes for one of the nodes `one`, on these inputs."""
    paths = [saved(tmp_path / f"{number}.onnx", nodes, [("x", FLOAT, [len(x)])])
             for number, nodes in enumerate((one, other))]  # fmt: skip
    np.savez(tmp_path / "own.npz", x=np.array(x, np.float32))
    options = OptimizeOptions(inputs=tmp_path / "own.npz")
    return compare_files(onnx.load(paths[0]), *paths, tolerances("float32", "cpu"), options).passed


def test_infinity_must_have_its_sign(tmp_path):
    log = [("Log", ["x"], ["y"], {})]
    negative = [("Log", ["x"], ["log"], {}), ("Neg", ["log"], ["y"], {})]
    assert judged(tmp_path, log, log, [0, 1])
    assert not judged(tmp_path, log, negative, [0, 1])
    assert judged(tmp_path, log, log, [-1, -1])


def test_inputs_that_mean_nothing_are_told_with_the_remedy(cli, tmp_path):
    nodes = [("Add", ["rows", "far"], ["moved"], {}), ("Gather", ["x", "moved"], ["y"], {})]
    ports = [("x", FLOAT, [2, 3]), ("rows", INT, [2])]
    path = saved(tmp_path / "in.onnx", nodes, ports, {"far": np.array(100)})
    outcome = cli("optimize", path, "out.onnx")
    assert outcome.code == 1
    assert "numbers that were made up may mean nothing to the model: pass --inputs" in outcome.err.splitlines()[-1]


def test_an_error_on_inputs_that_are_given_is_the_models(lookup, tmp_path):
    np.savez(tmp_path / "own.npz", **(ROWS | {"rows": np.array([4, 0])}))
    with pytest.raises(RunnerError, match=r"^onnxruntime cannot run the model: (?!.*made up)"):
        aaexport.optimize(lookup, tmp_path / "out.onnx", inputs=tmp_path / "own.npz")


X = ("x", FLOAT, [4, 3])
MEANT = {
    "Gather": [("Gather", ["x", "i"], ["y"], {"axis": 1})],
    "GatherElements": [("GatherElements", ["x", "i"], ["y"], {})],
    "GatherND": [("GatherND", ["x", "i"], ["y"], {})],
    "a cast of it": [("Cast", ["i"], ["j"], {"to": TensorProto.INT32}), ("Gather", ["x", "j"], ["y"], {})],
    "OneHot": [("Cast", ["x"], ["j"], {"to": INT}), ("OneHot", ["j", "i", "off"], ["y"], {})],
    "ReduceSum": [("ReduceSum", ["x", "i"], ["y"], {})],
    "Reshape": [("Reshape", ["x", "i"], ["y"], {})],
    "Expand": [("Expand", ["x", "i"], ["y"], {})],
    "Split": [("Split", ["x", "i"], ["y", "z"], {})],
    "Tile": [("Tile", ["x", "i"], ["y"], {})],
    "TopK": [("TopK", ["x", "i"], ["y", "z"], {})],
    "Unsqueeze": [("Unsqueeze", ["x", "i"], ["y"], {})],
    "Pad": [("Pad", ["x", "i"], ["y"], {})],
    "ConstantOfShape": [("ConstantOfShape", ["i"], ["y"], {})],
}
SHAPES = {"GatherElements": [2, 3], "GatherND": [5, 2], "OneHot": [], "ReduceSum": [1], "TopK": [1], "Pad": [4]}


RANKS = {"OneHot": 3, "ReduceSum": 2, "Split": 2, "Unsqueeze": 4}  # where shape inference does not know it


@pytest.mark.parametrize("reader", MEANT)
def test_integers_are_made_up_from_what_reads_them(tmp_path, reader):
    ports, outputs = [X, ("i", INT, SHAPES.get(reader, [2]))], ("y", "z") if reader in ("Split", "TopK") else ("y",)
    constants = {"off": np.array([0, 1], np.float32)} if reader == "OneHot" else {}
    path = saved(tmp_path / "in.onnx", MEANT[reader], ports, constants, outputs=outputs, rank=RANKS.get(reader))
    result = aaexport.optimize(path, tmp_path / "out.onnx")
    assert result.parity.passed
    assert all(output.compared for row in result.parity.computations for output in row.outputs)


def test_a_range_is_not_empty(tmp_path):
    ports = [(name, FLOAT, []) for name in ("start", "end", "step")]
    path = saved(tmp_path / "in.onnx", [("Range", ["start", "end", "step"], ["y"], {})], ports)
    (row,) = aaexport.optimize(path, tmp_path / "out.onnx").parity.computations
    assert all(output.compared for output in row.outputs)


@pytest.mark.parametrize("data", [[0, 2], [3]])
def test_there_are_no_places_in_what_is_empty_or_has_fewer_axes(tmp_path, data):
    ports = [("x", FLOAT, data), ("i", INT, [5, 2])]
    model = onnx.load(saved(tmp_path / "in.onnx", [("Identity", ["i"], ["y"], {})], ports, rank=2))
    model.graph.node.append(helper.make_node("GatherND", ["x", "i"], ["z"]))
    assert meaningful_inputs(model, {"x": tuple(data), "i": (5, 2)}, np.random.default_rng(0)) == {}
