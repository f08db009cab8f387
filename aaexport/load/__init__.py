"""Runner × scenario → latencies, and what may honestly be said of them. No torch and no onnxruntime in here."""
