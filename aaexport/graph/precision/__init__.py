"""float32 ONNX model → the same network in float16 or int8, and what the passes must see of it on images before."""
