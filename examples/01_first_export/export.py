"""A trained network → an ONNX file that is proved equal to it, from Python."""

import aaexport

model = aaexport.build_model("aa_cnn3_digits")  # a plain torch.nn.Module with trained weights
result = aaexport.convert(model, "digits.onnx", input_shape=(1, 8, 8))
print(f"{result.path}: opset {result.opset}, {sum(result.operators.values())} operators, {result.bytes:,} bytes")

report = aaexport.verify("aa_cnn3_digits", "digits.onnx")  # by name, so that its held-out images are used too
print(f"largest error {report.max_abs_error:.1e} against float64, {report.max_error_ratio:.2f} times PyTorch's own")
print(f"accuracy {report.accuracy.torch:.2%} in PyTorch, {report.accuracy.runner:.2%} in onnxruntime")
print("parity holds" if report.passed else "\n".join(report.failures))
