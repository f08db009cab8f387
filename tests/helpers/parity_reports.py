"""Verdicts made by hand: passed, failed, and the others that every format must be able to show."""

import dataclasses

import numpy as np

from aaexport.parity import (
    TOLERANCES,
    Accuracy,
    Computation,
    Divergence,
    ErrorStep,
    OutputParity,
    ParityReport,
    Placement,
    TensorFacts,
)
from aaexport.parity.guard import GuardAccuracy, GuardReport, Losses, TensorLoss, accuracy_row
from aaexport.parity.report import KeptNode

CPU = TOLERANCES["float32", "cpu"]
CASES = ("images, batch 7", "images, batch 1", "zeros", "NaN in a pixel")


def judged(case, ratio=0.8, failure=None, output="logits", **changes):
    poisoned = case.startswith("NaN")
    figures = {} if poisoned or failure else {"max_abs_error": ratio * 1e-6, "error_ratio": ratio, "cosine": 1.0}
    return OutputParity(case, output, failure, **{"extreme": poisoned} | figures | changes)


def row(name="onnxruntime CPU", stage="optimizer", outputs=None, **changes):
    return Computation(name, stage, CPU, tuple(judged(c) for c in CASES) if outputs is None else outputs, **changes)


FACTS = TensorFacts("float32", (2, 8), -1.0, 1.0, 0.0, 0.5, 0)
DIVERGENCE = Divergence(
    node="node_Mul_3",
    operator="Mul",
    output="mul_3",
    module="features.0.qkv",
    case="images, batch 7",
    compared_with="the model converted afresh",
    expected=FACTS,
    actual=dataclasses.replace(FACTS, largest=2.5, not_finite=3),
    relative_error=0.25,
    growth=(ErrorStep("node_Conv_1", "Conv", "features.0", 1e-7),),
    hints=("each number is 2 times the expected one",),
)
PASSED = ParityReport(
    "model.onnx",
    (row("PyTorch, fold", "decomposition", (judged("images, batch 7", 4.2),)), row()),
    accuracy=Accuracy(359, 0.99, 0.98),
    placement=Placement(
        "CUDAExecutionProvider", {"CUDAExecutionProvider": 90, "CPUExecutionProvider": 1}, ("node_1",)
    ),
    notes=("the batch is fixed",),
    warnings=("an input is not used",),
)
BROKEN = row(outputs=(judged("images, batch 7", failure="too far off"), judged("zeros")))
FAILED = dataclasses.replace(
    PASSED, computations=(row("onnx reference", "file"), BROKEN), divergence=DIVERGENCE, warnings=()
)
STRICT = dataclasses.replace(PASSED, strict=True)
EMPTY = ParityReport("model.onnx")
STALE = ParityReport("model.onnx", (row(),), structure=("the file is stale",))
UNRUNNABLE = ParityReport("model.onnx", (row(outputs=(), failure="cannot be loaded"), row("OpenVINO CPU", "device")))
HEADS = ("attention.conv.head0", "attention.conv.head1", "logits")
MANY = ParityReport(
    "model.onnx",
    (row(outputs=tuple(judged("zeros", ratio, output=name) for ratio, name in enumerate(HEADS))),),
)
LOST = Losses("int8", "onnxruntime CPU", "the float32 file", frozenset({"logits"}))
LOST.learn({"logits": np.eye(8)}, {"logits": np.eye(8) * 0.99})
ACCURATE = GuardAccuracy.of(359, 355, 354)
GUARD = GuardReport(
    "int8",
    "359 held-out images of digits",
    (*LOST.rows(), accuracy_row("int8", "logits", "onnxruntime CPU", ACCURATE, judged=True)),
    ACCURATE,
    (TensorLoss("features.0.conv", "node_Conv_1", "relu", "activation", 41.5, 0.8),),
    ("a tensor must be in float32, got 8 bits",),
)
KEPT = KeptNode("features.1.conv", "node_Conv_2", "Conv", "it was asked to stay in float32")
LOSSY = ParityReport("model.int8.onnx", kind="int8", guard=dataclasses.replace(GUARD, faults=()), kept=(KEPT,))
TOO_LOSSY = dataclasses.replace(
    LOSSY, guard=dataclasses.replace(GUARD, rows=(dataclasses.replace(GUARD.rows[0], value=17.4, passed=False),))
)
REPORTS = {"lossy": LOSSY, "too lossy": TOO_LOSSY,
           "passed": PASSED, "failed": FAILED, "strict": STRICT, "empty": EMPTY, "stale": STALE,
           "unrunnable": UNRUNNABLE, "many": MANY}  # fmt: skip
