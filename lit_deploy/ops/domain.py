"""What all our operators have in common: the name they live under, and how their library is told the device."""

from __future__ import annotations

DOMAIN = "lit_deploy"
"""ONNX domain, TensorRT plugin namespace and ``torch.ops`` namespace."""

DEVICE_ENTRY = f"{DOMAIN}.device"
"""Session configuration entry by which the custom-op library learns on which device a session of ONNX Runtime runs."""

CUDA_DEVICE = "cuda"
"""Its value for CUDA: the library then registers no operator of which it has a kernel for the CPU alone."""
