"""What needs a CUDA device (`python -m pytest -m gpu`); each test skips by name where it or a package is absent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from exported import export_of
from golden import Golden

from lit_deploy import trt
from lit_deploy.bench import run_bench
from lit_deploy.contenders import contenders_for
from lit_deploy.cuda import find_gpu
from lit_deploy.doctor import gpu_names
from lit_deploy.export import export_engine
from lit_deploy.exporters.tensorrt import EngineOptions
from lit_deploy.native import PLUGIN_BUILD_COMMAND, find_plugin
from lit_deploy.report import as_json
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


@pytest.fixture(scope="module")
def engine_backend() -> trt.BackendName:
    """The TensorRT that builds for, and runs on, this GPU."""
    gpu = find_gpu()
    if gpu is None:
        pytest.skip("the CUDA bindings for Python are not installed: pip install cuda-bindings")
    if trt.installed_version("tensorrt") is not None:
        return "tensorrt"
    if trt.installed_version("tensorrt_rtx") is None:
        pytest.skip("neither TensorRT nor TensorRT-RTX is installed")
    if gpu.compute_capability not in trt.RTX_TARGETS:
        pytest.skip(f"TensorRT-RTX does not build for {gpu.name} (compute capability {gpu.compute_capability})")
    return "tensorrt_rtx"


@pytest.fixture(scope="module", params=[None, False], ids=["plugin", "function"])
def engine(
    request: pytest.FixtureRequest,
    engine_backend: trt.BackendName,
    checkpoint_file: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A fp16 engine of LIT-S, really built; with the plugin where its library is built and can be loaded."""
    if request.param is None and find_plugin() is None:
        pytest.skip(f"the TensorRT plugin library is not built: {PLUGIN_BUILD_COMMAND}")
    if request.param is None and engine_backend == "tensorrt_rtx" and not trt.rtx_library_is_found():
        pytest.skip(f"start pytest with LD_LIBRARY_PATH={trt.rtx_library_folder()}")
    path = tmp_path_factory.mktemp("engine") / "lit_s.engine"
    options = EngineOptions(backend=engine_backend, profile=(1, 2, 8), plugin=request.param)
    export_engine(export_of(checkpoint_file("lit_s"), precision="fp16"), path, engine=options, verify=False)
    return path


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_engine(engine: Path, checkpoint_file: Callable[[str], Path], cuda_graph: bool) -> None:
    report = verify_artifact(engine, checkpoint_file("lit_s"), options=SessionOptions(cuda_graph=cuda_graph))
    assert report.verdict == "pass", report.reasons
    assert "TensorRT" in report.tested


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_engine_in_many_threads(engine: Path, golden_input: np.ndarray, cuda_graph: bool) -> None:
    feeds = [np.concatenate([golden_input] * 4)[: 1 + index % 5] for index in range(24)]
    with open_session(engine, SessionOptions(cuda_graph=cuda_graph)) as session:
        alone = [session.run({"images": feed})["logits"] for feed in feeds for _ in range(2)][1::2]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda feed: session.run({"images": feed})["logits"], feeds))
    for one, other in zip(alone, together, strict=True):
        # float16 kernels may sum in another order from run to run
        assert float(np.abs(one - other).max()) <= 1e-2 * float(np.abs(one).max())


def test_engine_phases_are_measured(engine: Path) -> None:
    result = run_bench(contenders_for([engine]), batches=(1, 8), rounds=20, turn_seconds=0.2)
    print(as_json(result))
    for m in result.measurements:
        assert m.gpu is not None
        assert 0 < m.gpu.compute.p50 < m.gpu.latency.p50 < m.p50 * 1.05
        assert 0 < m.gpu.host_to_device < m.gpu.latency.p50
        assert m.gpu.seconds >= 3
    one, eight = (m.gpu.compute.p50 for m in result.measurements if m.kind == "engine" and m.gpu is not None)
    assert one < eight < 16 * one
