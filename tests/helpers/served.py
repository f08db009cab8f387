"""Facts of small models, made by hand."""

from pathlib import Path

import numpy as np

from aaexport.serving.facts import ImageInput, ModelFacts, ServedTensor
from aaexport.serving.golden import Query

IMAGE = ImageInput((1, 8, 8), (0.305,), (0.376,), 1.0, ("zero", 'o"ne\\', "twó"), "logits", 3)


def query(batch=2, seed=0, *, classes=3):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((batch, 1, 8, 8), dtype=np.float32)
    return Query("golden vectors", {"input": images}, {"logits": images.reshape(batch, -1)[:, :classes].copy()})


def facts(name="digits", *, batch=-1, golden=None, image=IMAGE, onnx=Path("model.onnx"), data_files=()):
    return ModelFacts(
        name=name,
        onnx=onnx,
        data_files=tuple(data_files),
        onnx_sha256="ab" * 32,
        inputs=(ServedTensor("input", "FP32", (batch, 1, 8, 8)),),
        outputs=(ServedTensor("logits", "FP32", (batch, 3)),),
        fixed_batch=None if batch == -1 else batch,
        golden=(query(),) if golden is None else golden,
        image=image,
    )
