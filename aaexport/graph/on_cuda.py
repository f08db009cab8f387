"""ONNX model → what onnxruntime's CUDA provider will make of it, by `aaexport.graph.cuda_kernels`: without a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import helper, shape_inference

from aaexport.graph.check import STANDARD_DOMAINS, declared_opset
from aaexport.graph.cuda_kernels import (
    COPIES_OF_REPEATED_PRODUCT,
    COPIES_OF_UNEVEN_SPLIT,
    ONNXRUNTIME,
    attention_kernel,
    fused_depths,
    has_kernel,
)
from aaexport.graph.files import OnnxModel
from aaexport.graph.light import light

MATRIX_AXES = 2
OLDER = 20  # the opset that most runtimes know
HAS_A_MASK = 4  # inputs


@dataclass(frozen=True)
class OnCuda:
    """What is known beforehand of a file's queries on CUDA.

    Attributes:
        onnxruntime: whose kernels are meant.
        attention: type → kernel → how many `Attention` operators it computes: in the file's own type, and in float16
            of the file that `convert --dtype float16 --target cuda` makes of one in float32.
        logits_in_memory: names of those that no fused kernel computes.
        without_kernel: names of nodes that run on the CPU, as `MaxPool pool_1`.
        has_kernel_at: an opset at which all these have one; None where there is none.
        copies_inside: how often a query waits for the host within the network: for numbers that a kernel is given by
            copies, and for tensors of nodes that run on the CPU.
        copies_at_its_ends: inputs and outputs.
    """

    onnxruntime: str = ONNXRUNTIME
    attention: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    logits_in_memory: tuple[str, ...] = ()
    without_kernel: tuple[str, ...] = ()
    has_kernel_at: int | None = None
    copies_inside: int = 0
    copies_at_its_ends: int = 0


@dataclass(frozen=True)
class _Tensor:
    dtype: int
    shape: tuple[int | None, ...]


def foresee(model: OnnxModel) -> OnCuda:
    """What the tables say of every node. Nodes inside others, as the branches of an If, are not looked at."""
    tensors, opset = _tensors(model), declared_opset(model)
    kernels: dict[str, Counter[str]] = {}
    in_memory, left = [], []
    copies = 0
    for node in model.graph.node:
        if node.domain not in STANDARD_DOMAINS:
            continue
        if node.op_type == "Attention":
            taken = list(_kernels(node, tensors))
            for dtype, kernel in taken:
                kernels.setdefault(dtype, Counter())[kernel] += 1
            in_memory += [_name(node)] if taken[0][1] == "math" else []
        if not has_kernel(node.op_type, opset):
            left.append(node)
        copies += _copies(node, tensors)
    given = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    return OnCuda(
        attention={dtype: dict(counts) for dtype, counts in kernels.items()},
        logits_in_memory=tuple(in_memory),
        without_kernel=tuple(f"{node.op_type} {_name(node)}" for node in left),
        has_kernel_at=OLDER if left and all(has_kernel(node.op_type, OLDER) for node in left) else None,
        copies_inside=copies + _copied_for(left, model.graph),
        copies_at_its_ends=len(given) + len(model.graph.output),
    )


def _tensors(model: OnnxModel) -> dict[str, _Tensor]:
    graph = shape_inference.infer_shapes(light(model), data_prop=True).graph
    found = {tensor.name: _Tensor(tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        told = value.type.tensor_type
        sizes = (size.dim_value if size.HasField("dim_value") else None for size in told.shape.dim)
        found.setdefault(value.name, _Tensor(told.elem_type, tuple(sizes)))
    return found


def _kernels(node: onnx.NodeProto, tensors: Mapping[str, _Tensor]) -> Iterator[tuple[str, str]]:
    """(type, kernel) of an Attention: as it is, and in float16 where it is in float32."""
    q, v = tensors.get(node.input[0]), tensors.get(node.input[2])
    if q is None or v is None or not q.shape or not v.shape or q.shape[-1] is None or v.shape[-1] is None:
        yield "an unknown type", "math"
        return
    heads = [_attribute(node, name, 1) if len(q.shape) == 3 else 1 for name in ("q_num_heads", "kv_num_heads")]
    depth, of_values = q.shape[-1] // heads[0], v.shape[-1] // heads[1]
    mask = tensors.get(node.input[3]) if len(node.input) >= HAS_A_MASK and node.input[3] else None
    keys = None if mask is None else (mask.shape[-1] or 1)
    dtype = helper.tensor_dtype_to_np_dtype(q.dtype).name
    yield dtype, attention_kernel(dtype, depth, of_values, keys)
    if dtype == "float32":
        padded = None if keys is not None else fused_depths("float16", depth, of_values)
        yield "float16", attention_kernel("float16", *(padded or (depth, of_values)), keys)


def _copies(node: onnx.NodeProto, tensors: Mapping[str, _Tensor]) -> int:
    """Of numbers that its kernel is given at each query."""
    shapes = [tensors[name].shape if name in tensors else None for name in (*node.input, *node.output)]
    if node.op_type == "Split":
        parts = [shape and shape[_attribute(node, "axis", 0)] for shape in shapes[len(node.input) :]]
        return COPIES_OF_UNEVEN_SPLIT if len(set(parts)) > 1 else 0
    if node.op_type == "MatMul" and shapes[0] and shapes[1]:
        return COPIES_OF_REPEATED_PRODUCT if _is_repeated(shapes[0], shapes[1]) else 0
    return 0


def _is_repeated(left: tuple[int | None, ...], right: tuple[int | None, ...]) -> bool:
    """Whether matrices of one are multiplied with several of the other, and it is not a single one."""
    stacks = left[:-MATRIX_AXES], right[:-MATRIX_AXES]
    single = any(all(size == 1 for size in stack) for stack in stacks)
    return not single and stacks[0] != stacks[1]


def _copied_for(left: list[onnx.NodeProto], graph: onnx.GraphProto) -> int:
    """Tensors that are brought to these nodes, and what they compute, which is brought back."""
    constants = {tensor.name for tensor in graph.initializer}
    computed = {name for node in left for name in node.output if name}
    read = {name for node in left for name in node.input if name} - constants - computed
    others = [node for node in graph.node if not any(node is each for each in left)]
    needed = {name for node in others for name in node.input}
    return len(read - {value.name for value in graph.input}) + len(computed & needed)


def _attribute(node: onnx.NodeProto, name: str, otherwise: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), otherwise)


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]
