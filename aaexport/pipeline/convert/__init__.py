"""The verb that writes: model folders, modules brought along, and any ONNX file that graph rules rewrite."""
