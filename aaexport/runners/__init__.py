"""Runtimes behind one protocol: named arrays in, named arrays out. The only room with onnxruntime in it."""
