"""Graph of a dynamic batch → the same graph for so many images: every size a number, what sizes make folded away."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.optimizer import fold_constants

from aaexport.errors import first_line
from aaexport.graph.rules.rule import Refusal

BATCHES = (2, 7)  # products of the batch that are the same for both are so for any
FOLDED_NUMBERS = 2**22  # of a constant; padding zeros and tables of embeddings are far below


def at_batch(model: ir.Model, batch: int) -> dict[str, ir.Value]:
    """The values, by name, of a copy of `model` whose inputs hold `batch` images wherever their number is dynamic.

    Values keep the names they have in `model`. Those that are equal to others are not computed any more, but their
    sizes are known too; sizes that do not follow from the batch stay unknown.

    Raises:
        Refusal: the sizes of the model contradict each other.
    """
    fixed = model.clone()
    for value in fixed.graph.inputs:
        if _is_dynamic(value):
            assert value.shape is not None
            value.shape = ir.Shape([batch, *list(value.shape)[1:]])
    for node in fixed.graph:
        for value in node.outputs:
            value.shape = None  # what was inferred for any batch would get in the way
    before = _by_name(fixed.graph)
    try:
        fold_constants(
            fixed,
            onnx_shape_inference=True,
            input_size_limit=FOLDED_NUMBERS,
            output_size_limit=FOLDED_NUMBERS,
            should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,
        )
    # The library raises whatever its parts raise: there is no common base.
    except Exception as error:
        raise Refusal(f"its sizes cannot be computed: {first_line(error)}") from error
    return before | _by_name(fixed.graph)


def _by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    produced = [value for node in graph for value in node.outputs]
    values = [*graph.inputs, *graph.initializers.values(), *produced]
    return {value.name: value for value in values if value.name is not None}


def has_dynamic_batch(model: ir.Model) -> bool:
    """Whether an input takes any number of images."""
    return any(_is_dynamic(value) for value in model.graph.inputs)


def _is_dynamic(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) > 0 and not isinstance(value.shape[0], int)


def sizes(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value at a fixed batch; Refusal if it does not follow from the batch."""
    found = () if value.shape is None else tuple(size for size in value.shape if isinstance(size, int))
    if value.shape is None or len(found) < len(value.shape):
        raise Refusal("a size does not follow from the batch")
    return found
