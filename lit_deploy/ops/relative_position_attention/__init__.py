"""Attention with a relative position bias: its definition, PyTorch reference and ONNX function."""
