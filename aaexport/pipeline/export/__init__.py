"""A module → an ONNX file: the way each layer is written is chosen, captured, converted and described."""
