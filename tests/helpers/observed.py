"""A model folder whose file tells attention, made by hand: no training and no export."""

import onnx
from deployable import digits_folder
from onnx import TensorProto, helper

OUTPUT = "attention.features.0.head0"


def observed_folder(path):
    """`digits_folder`, with one head that attends to bright places more from bright ones."""
    folder = digits_folder(path)
    model = onnx.load(folder.onnx_path)
    model.graph.node.extend(
        [
            helper.make_node("Unsqueeze", ["row", "last"], ["queries"]),
            helper.make_node("Unsqueeze", ["row", "middle"], ["keys"]),
            helper.make_node("Mul", ["queries", "keys"], ["attention_logits"]),
            helper.make_node("Softmax", ["attention_logits"], ["attention_weights"], axis=-1),
            helper.make_node("Reshape", ["attention_weights", "map"], [OUTPUT]),
        ]
    )
    numbers = {"last": [2], "middle": [1], "map": [0, 8, 8, 8, 8]}
    made = (helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in numbers.items())
    model.graph.initializer.extend(made)
    told = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", 8, 8, 8, 8])
    model.graph.output.append(told)
    onnx.save(model, folder.onnx_path)
    return folder
