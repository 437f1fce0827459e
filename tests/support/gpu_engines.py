"""Engines that are really built and run, where a GPU is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.cuda import find_gpu
from lit_deploy.machine.native import PLUGIN_BUILD_COMMAND, find_plugin
from lit_deploy.workflows.export import export_engine
from support.exported import export_of


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
