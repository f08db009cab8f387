"""What onnxruntime's CUDA provider makes of files, for a process that has a GPU, or one that computes nothing."""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ["ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"] = "1"  # read when the first kernel is made

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from aaexport.graph.on_cuda import foresee

CUDA = "CUDAExecutionProvider"
Placements = dict[tuple[str, int, str], bool]  # operator, version, type → whether CUDA has it
ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
ATTRIBUTES = {
    **{name: {"kernel_shape": [2, 2]} for name in ("MaxPool", "AveragePool", "LpPool")},
    "Transpose": {"perm": [0, 2, 3, 1]},
    "Concat": {"axis": 1},
    "Resize": {"mode": "linear"},
}
SIZES = (2, 4, 6, 6)
INTEGERS = {
    "Reshape": [[-1, 24]],
    "Pad": [[0, 0, 1, 1, 0, 0, 1, 1]],
    "Slice": [[0], [3], [1]],
    "ReduceMean": [[2, 3]],
}
FLOATS = {
    "InstanceNormalization": [np.ones(4), np.ones(4)],
    "Conv": [np.ones((4, 4, 3, 3))],
    "MatMul": [np.ones((6, 5))],
    "Resize": [np.ones(0), np.array([1, 1, 2, 2])],
    "Gemm": [np.ones((4, 5)), np.ones(5)],
}
TWICE = ("Add", "Max", "Concat", "Mean")  # the same input again


def version() -> str:
    return str(onnxruntime.__version__)


def kernels_of_attention(asked: list[list]) -> list[list]:
    """[type, depth, depth of values, keys of a mask or None] of each → the same, and the name of its kernel."""
    return [[*each, _kernel(*each)] for each in asked]


def operators_on_cuda(names: list[str], opsets: list[int]) -> dict[str, bool]:
    """`Relu 20` → whether CUDA has it."""
    return {
        f"{name} {opset}": name in placed(_one_node(name, opset)).get(CUDA, ()) for name in names for opset in opsets
    }


def copies_of_nodes() -> dict[str, tuple[int, int]]:
    """Name → how often a query of such a node copied from the host beside its inputs, and how often was foreseen."""
    integers = {"even": [2, 2], "uneven": [3, 1]}
    maps, stacks = {"x": list(SIZES)}, {"x": [2, 4, 6, 5]}
    models = {
        **{f"{how} Split": _model([("Split", ["x", "i"], ["y", "z"], {"axis": 1})], maps, {"i": np.array(sizes)})
           for how, sizes in integers.items()},
        "repeated MatMul": _model([("MatMul", ["x", "w"], ["y"], {})], stacks, {"w": np.ones((4, 5, 7), np.float32)}),
        "MatMul of one matrix": _model([("MatMul", ["x", "w"], ["y"], {})], stacks,
                                       {"w": np.ones((5, 7), np.float32)}),
        "MatMul of equal stacks": _model([("MatMul", ["x", "w"], ["y"], {})], {"x": [4, 6, 5]},
                                         {"w": np.ones((4, 5, 7), np.float32)}),
    }  # fmt: skip
    return {name: (look_at(model)["copied in"] - 1, foresee(model).copies_inside) for name, model in models.items()}


def placements_of_cases(opsets: list[int], most: int = 4) -> list[list]:
    """[operator, version, type, whether CUDA has it] of what onnx's own tests have of an operator, in both types.

    Left out are those whose session cannot be made, or that onnxruntime has written out by others.
    """
    from onnx.backend.test.case.node import collect_testcases

    found: Placements = {}
    tried: Counter[str] = Counter()
    for case in collect_testcases(None):
        if case.model is None or len(case.model.graph.node) != 1 or not _is_of_float32(case.model):
            continue
        name = case.model.graph.node[0].op_type
        tried[name] += 1
        for opset in opsets if tried[name] <= most else ():
            for dtype in ("float32", "float16"):
                _place(case.model, name, opset, dtype, found)
    return [[*key, is_there] for key, is_there in sorted(found.items())]


def _place(model: onnx.ModelProto, name: str, opset: int, dtype: str, found: Placements) -> None:
    """Notes where a case runs at that opset and in that type, if it does at all; once on CUDA is enough."""
    try:
        key = (name, onnx.defs.get_schema(name, opset).since_version, dtype)
    except onnx.defs.SchemaError:
        return
    if found.get(key):
        return
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.opset_import[0].version, other.ir_version = opset, 10
    for value in (*other.graph.input, *other.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = ELEMENTS[dtype]
    try:
        with _Told():
            there = placed(other)
    # Whatever cannot be loaded is none of those that are asked for.
    except Exception:  # noqa: BLE001
        return
    if any(name in operators for operators in there.values()):
        found[key] = name in there.get(CUDA, ())


def _is_of_float32(model: onnx.ModelProto) -> bool:
    values = (*model.graph.input, *model.graph.output)
    are_tensors = all(value.type.HasField("tensor_type") for value in values)
    return are_tensors and any(value.type.tensor_type.elem_type == TensorProto.FLOAT for value in values)


def look_at(model: onnx.ModelProto | Path) -> dict[str, object]:
    """Which provider has how many nodes, and what the second query does: kernels of attention, copies, launches."""
    with _Told():
        session = _session(model)
        feeds = _zeros(session)
        session.run(None, feeds)
    log = Path(os.environ["FAKE_CUDA_LOG"])
    before = len(log.read_text().splitlines())
    with _Told() as told:
        session.run(None, feeds)
    events = [line.split(" ", 2) for line in log.read_text().splitlines()[before:]]
    copies = Counter(event[2].split()[1] for event in events if event[1].startswith("cudaMemcpy"))
    return {
        "placed": {name: len(nodes) for name, nodes in _placed(session).items()},
        "attention": dict(Counter(re.findall(r"SdpaKernel=(\w+)", told.text))),
        "copied in": copies["1"],
        "copied out": copies["2"],
    }


def _zeros(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    return {
        port.name: np.zeros([size if isinstance(size, int) else 1 for size in port.shape], _numpy(port.type))
        for port in session.get_inputs()
    }


def placed(model: onnx.ModelProto | Path) -> dict[str, list[str]]:
    """Provider → the operators of its nodes."""
    return _placed(_session(model))


def _placed(session: onnxruntime.InferenceSession) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return found


def _session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, [CUDA], enable_fallback=0)


def _kernel(dtype: str, depth: int, of_values: int, keys: int | None) -> str:
    """Bound to the device, because NumPy has no bfloat16."""
    shapes = {"q": [2, 1, 7, depth], "k": [2, 1, keys or 9, depth], "v": [2, 1, keys or 9, of_values]}
    shapes |= {} if keys is None else {"m": [7, keys]}
    model = _model([("Attention", list(shapes), ["y"], {})], shapes, {}, 23, ELEMENTS[dtype])
    with _Told() as told:
        session = _session(model)
        binding = session.io_binding()
        for name, shape in shapes.items():
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, ELEMENTS[dtype], "cuda", 0)
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("y", "cuda")
        session.run_with_iobinding(binding)
    return re.findall(r"SdpaKernel=(\w+)", told.text)[0]


def _one_node(name: str, opset: int) -> onnx.ModelProto:
    inputs, constants = ["x", *(["x"] if name in TWICE else [])], {}
    for numbers, kind in ((INTEGERS.get(name, ()), np.int64), (FLOATS.get(name, ()), np.float32)):
        for each in numbers:
            constants[f"c{len(constants)}"] = np.array(each, kind)
    shape = [6, 4] if name in ("Gemm", "EyeLike") else list(SIZES)
    return _model([(name, [*inputs, *constants], ["y"], ATTRIBUTES.get(name, {}))], {"x": shape}, constants, opset)


def _model(nodes, inputs, constants, opset=20, element=TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, read, made, **more) for op, read, made, more in nodes],
        "small",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, element, None) for name in nodes[-1][2]],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _numpy(kind: str) -> type:
    return np.float16 if "float16" in kind else np.float32


class _Told:
    """What native code writes to stdout meanwhile."""

    text = ""

    def __enter__(self) -> _Told:
        sys.stdout.flush()
        self._file, self._kept = tempfile.TemporaryFile(), os.dup(1)
        os.dup2(self._file.fileno(), 1)
        return self

    def __exit__(self, *_: object) -> None:
        ctypes.CDLL(None).fflush(None)
        os.dup2(self._kept, 1)
        os.close(self._kept)
        self._file.seek(0)
        self.text = self._file.read().decode()
        self._file.close()


if __name__ == "__main__":
    print(json.dumps([look_at(Path(path)) for path in sys.argv[1:]]))
