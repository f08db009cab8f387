"""Calls for the type checker alone, by `make check`: it must find what is wrong in some, and nothing in the others.

A comment that ignores an error which there isn't is an error itself, so each of them says that one was found.
"""

import aaexport

# Right ones
report = aaexport.serve_bench("m", aaexport.BenchOptions(threads=2), duration=1)
share: bool = report.valid
aaexport.optimize("a", "b", options=aaexport.OptimizeOptions(target="cuda"), verify=False)
aaexport.train("m", epochs=3, size=(32, 32))
aaexport.verify("m", "x.onnx", input_shape=(1, 8, 8), atol={"logits": 1e-5}, say=print)
aaexport.verify("m", options=aaexport.VerifyOptions(strict=True), batch=64)
aaexport.convert("m", "x.onnx", input_shape=(1, 8, 8), batch="dynamic", opset=18)
aaexport.convert_source("f.py:N", options=aaexport.ConvertOptions(opset=18), input_shape=(1, 8, 8))
aaexport.deploy("m", "triton", "out", options=aaexport.DeployOptions(device="cuda"), tensorrt=True)
aaexport.tune("m", options=aaexport.TuneOptions(threads=1), duration=0.5)
aaexport.compare_training(["a", "b"], options=aaexport.TrainOptions(epochs=3))

# Misspelt keywords, and values of the wrong type
aaexport.serve_bench("m", duratoin=1)  # type: ignore[call-arg]
aaexport.serve_bench("m", threads="two")  # type: ignore[arg-type]
aaexport.optimize("a", "b", taget="cuda")  # type: ignore[call-arg]
aaexport.train("m", epoch=1)  # type: ignore[call-arg]
aaexport.verify("m", runtime=("onnxruntime",))  # type: ignore[call-arg]
aaexport.verify("m", dtype="float")  # type: ignore[arg-type]
aaexport.convert("m", verfy=False)  # type: ignore[call-arg]
aaexport.convert("m", decomposition="skewed")  # type: ignore[arg-type]
aaexport.convert_source("f.py:N", opsett=18)  # type: ignore[call-arg]
aaexport.deploy("m", "triton", "out", forse=True)  # type: ignore[call-arg]
aaexport.tune("m", thread=1)  # type: ignore[call-arg]
aaexport.compare_training(["a", "b"], epochs="3")  # type: ignore[arg-type]
