"""Deformable token merging: its definition, PyTorch reference and ONNX function."""
