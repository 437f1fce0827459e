"""The C API on a GPU (`python -m pytest -m gpu`): ONNX Runtime's CUDA provider and engines, against the CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.exported import export_of
from support.gpu_engines import engine, engine_backend  # noqa: F401  (fixtures)
from support.runtime_library import needs_runtime
from support.runtime_models import opened

from lit_deploy.backends.open import open_session
from lit_deploy.machine.facts import gpu_names

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_names(), reason="no NVIDIA GPU on this machine"),
    needs_runtime,
]

CUDA = 1


@pytest.fixture(scope="module")
def expected(checkpoint_file: Callable[[str], Path], golden_input: np.ndarray) -> np.ndarray:
    """Logits of LIT-S on the CPU."""
    with open_session(export_of(checkpoint_file("lit_s"))) as session:
        return session.run({"images": golden_input})["logits"]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("operators", [None, ""], ids=["library", "function"])
def test_onnxruntime_on_cuda(
    checkpoint_file: Callable[[str], Path], golden_input: np.ndarray, expected: np.ndarray, operators: str | None
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider: pip install 'lit-deploy[ort-gpu]'")
    onnxruntime.preload_dlls()  # CUDA and cuDNN from their pip packages
    settings = {} if operators is None else {"operator_library": operators}
    with opened(export_of(checkpoint_file("lit_s")), device=CUDA, **settings) as model:
        assert b" cuda (" in model.info.backend

        def run(_: int) -> np.ndarray:
            with model.context() as context:
                return context.run(golden_input)["logits"]

        with ThreadPoolExecutor(8) as pool:
            for logits in pool.map(run, range(16)):
                # TensorFloat-32 is off: float32 only sums in another order
                np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cuda_graph", [0, 1])
def test_engine_on_the_gpu(engine: Path, golden_input: np.ndarray, expected: np.ndarray, cuda_graph: int) -> None:  # noqa: F811
    with opened(engine, cuda_graph=cuda_graph) as model:

        def run(batch: int) -> np.ndarray:
            with model.context() as context:
                return [context.run(golden_input[:batch])["logits"] for _ in range(3)][-1]

        with ThreadPoolExecutor(4) as pool:
            for batch, logits in zip((1, 2) * 4, pool.map(run, (1, 2) * 4), strict=True):
                assert float(np.abs(logits - expected[:batch]).max()) <= 1e-2 * float(np.abs(expected).max())
