"""What needs a CUDA device (`python -m pytest -m gpu`); each test skips by name where it or a package is absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exported import export_of
from golden import Golden

from lit_deploy.doctor import gpu_names
from lit_deploy.runtime.session import SessionOptions, open_session
from lit_deploy.verify import verify_artifact

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_names(), reason="no NVIDIA GPU on this machine"),
]


def test_pytorch_on_cuda(
    golden: Callable[[str], Golden], golden_input: np.ndarray, checkpoint_file: Callable[[str], Path]
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} is built without CUDA")
    with open_session(checkpoint_file("lit_s"), SessionOptions(device="cuda")) as session:
        logits = session.run({"images": golden_input})["logits"]
    # TensorFloat-32 is off for matrix products by default: float32 sums in another order
    assert float(np.abs(logits - golden("lit_s")["logits"]).max()) <= 1e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_on_cuda(checkpoint_file: Callable[[str], Path], precision: str) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider: pip install 'lit-deploy[ort-gpu]'")
    path = export_of(checkpoint_file("lit_s"), precision=precision)
    report = verify_artifact(path, checkpoint_file("lit_s"), options=SessionOptions(device="cuda"))
    assert "cuda" in report.tested
    assert report.output.cosine >= report.tolerance.cosine
    assert report.top1 == 1
    # TensorFloat-32 products may exceed the float32 limit; the report says by how much
    print(precision, report.output, report.reasons)
