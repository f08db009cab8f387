"""A right file, spoiled by one attribute as a careless tool might, and the report that names the node."""

import sys
from pathlib import Path

import onnx
from rich.console import Console

import aaexport
from aaexport.folder import checkout
from aaexport.report.parity.terminal import parity_view

folder = checkout("aa_cnn3_digits")
if not folder.onnx_path.is_file():
    aaexport.convert(folder)

model = onnx.load(folder.onnx_path)
softmax = [node for node in model.graph.node if node.op_type == "Softmax"][1]
softmax.attribute[0].i = 1  # over the queries, where the keys were meant
broken = Path("broken.onnx")
onnx.save(model, broken)
print(f"wrote {broken}: {softmax.name} along axis 1\n")

report = aaexport.verify(folder, broken)
Console(file=sys.stdout, highlight=False).print(parity_view(report))
