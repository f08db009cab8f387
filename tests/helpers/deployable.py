"""A model folder that takes no training and no export: a file made by hand, and what it answers."""

import numpy as np
from onnx import TensorProto, helper, load, save
from safetensors.numpy import save_file

from aaexport.folder import checkout
from aaexport.serving.reading import read_facts

CLASSES = 10


def digits_folder(path, *, batch="N", shape=(1, 8, 8)):
    """The digits' recipe, of images of that shape, and a model.onnx that answers an image's first ten pixels."""
    folder = checkout("aa_cnn3_digits", path)
    for trained in (folder.weights_path, folder.training_log_path):
        trained.unlink()
    nodes = [
        helper.make_node("Reshape", ["input", "flat"], ["row"]),
        helper.make_node("Gather", ["row", "first"], ["logits"], axis=1),
    ]
    numbers = [
        helper.make_tensor("flat", TensorProto.INT64, [2], [0, -1]),
        helper.make_tensor("first", TensorProto.INT64, [CLASSES], range(CLASSES)),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *shape])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])]
    graph = helper.make_graph(nodes, "digits", inputs, outputs, numbers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder.onnx_path)
    if shape != (1, 8, 8):
        for old, new in zip(("channels = 1", "height = 8", "width = 8"), shape, strict=True):
            edit(folder.recipe_path, old, f"{old.split()[0]} = {new}")
        edit(folder.recipe_path, "mean = [0.305]", f"mean = {[0.3, 0.4, 0.5][: shape[0]]}")
        edit(folder.recipe_path, "std = [0.376]", f"std = {[0.2, 0.25, 0.3][: shape[0]]}")
    write_golden(folder, shape=shape)
    return folder


def write_golden(folder, *, wrong_by=0.0, shape=(1, 8, 8)):
    images = np.random.default_rng(0).standard_normal((4, *shape), dtype=np.float32)
    logits = images.reshape(4, -1)[:, :CLASSES] + np.float32(wrong_by)
    save_file({"input": images, "logits": np.ascontiguousarray(logits)}, folder.golden_path)


def digits_facts(path, **settings):
    return read_facts(digits_folder(path, **settings))


def somebody_elses(path):
    """Makes the file's first operator one of a domain that no runtime has."""
    model = load(path)
    model.graph.node[0].domain = "somebody.else"
    model.opset_import.append(helper.make_opsetid("somebody.else", 1))
    save(model, path)


def write(files, root):
    from aaexport.serving.repository import write_files

    write_files(files, root)
    return root


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def failed(checks):
    """The names of the checks that failed, with what they found."""
    return {check.name: check.found for check in checks if not check.passed}
