"""Sessions: one protocol over PyTorch, ONNX Runtime and, later, TensorRT."""
