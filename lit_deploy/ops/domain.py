"""The one name that all our operators live under."""

from __future__ import annotations

DOMAIN = "lit_deploy"
"""ONNX domain, TensorRT plugin namespace and ``torch.ops`` namespace."""
