"""ExportedProgram → ONNX model, and everything that looks into an ONNX file. The only room with onnx in it."""
