"""What needs a CUDA device (`python -m pytest -m gpu`); each test skips by name where it or a package is absent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.exported import export_of
from support.golden import Golden
from support.gpu_engines import engine, engine_backend  # noqa: F401  (fixtures)

from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.bench.contenders import contenders_for
from lit_deploy.bench.run import run_bench
from lit_deploy.machine.facts import gpu_names
from lit_deploy.report.terminal import as_json
from lit_deploy.workflows.verify import verify_artifact

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
    # TensorFloat-32 is off: float32 only sums in another order
    assert float(np.abs(logits - golden("lit_s")["logits"]).max()) <= 1e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_on_cuda(checkpoint_file: Callable[[str], Path], precision: str) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider: pip install 'lit-deploy[ort-gpu]'")
    path = export_of(checkpoint_file("lit_s"), precision=precision)
    report = verify_artifact(path, checkpoint_file("lit_s"), options=SessionOptions(device="cuda"))
    assert "cuda" in report.tested
    assert report.verdict == "pass", report.reasons


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_engine(engine: Path, checkpoint_file: Callable[[str], Path], cuda_graph: bool) -> None:  # noqa: F811
    report = verify_artifact(engine, checkpoint_file("lit_s"), options=SessionOptions(cuda_graph=cuda_graph))
    assert report.verdict == "pass", report.reasons
    assert "TensorRT" in report.tested


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_engine_in_many_threads(engine: Path, golden_input: np.ndarray, cuda_graph: bool) -> None:  # noqa: F811
    feeds = [np.concatenate([golden_input] * 4)[: 1 + index % 5] for index in range(24)]
    with open_session(engine, SessionOptions(cuda_graph=cuda_graph)) as session:
        alone = [session.run({"images": feed})["logits"] for feed in feeds for _ in range(2)][1::2]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda feed: session.run({"images": feed})["logits"], feeds))
    for one, other in zip(alone, together, strict=True):
        # float16 kernels may sum in another order from run to run
        assert float(np.abs(one - other).max()) <= 1e-2 * float(np.abs(one).max())


def test_engine_phases_are_measured(engine: Path) -> None:  # noqa: F811
    result = run_bench(contenders_for([engine]), batches=(1, 8), rounds=20, turn_seconds=0.2)
    print(as_json(result))
    for m in result.measurements:
        assert m.gpu is not None
        assert 0 < m.gpu.compute.p50 < m.gpu.latency.p50 < m.p50 * 1.05
        assert 0 < m.gpu.host_to_device < m.gpu.latency.p50
        assert m.gpu.seconds >= 3
    one, eight = (m.gpu.compute.p50 for m in result.measurements if m.kind == "engine" and m.gpu is not None)
    assert one < eight < 16 * one
