"""Engines that several test modules share, and the descriptions of engines and machines that need no TensorRT."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import lit_deploy
from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.artifacts.preflight import Host
from lit_deploy.artifacts.sidecar import (
    EngineBuild,
    EnginePlugin,
    Inspection,
    Sidecar,
    onnx_path,
    read_sidecar,
    sidecar_path,
)
from lit_deploy.core.specs import TensorSpec
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.machine.cuda import Gpu, find_gpu
from lit_deploy.machine.native import PLUGIN_BUILD_COMMAND, find_plugin
from lit_deploy.machine.tensorrt import BACKENDS, installed_version
from lit_deploy.models.families import default_input
from lit_deploy.workflows.export import export_engine
from support.exported import export_of
from support.golden import TINY
from support.shared import made_by_one

ROOT = Path(lit_deploy.__file__).parents[1]
TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What TensorRT's tensors are of, by our precisions."""

needs_rtx = pytest.mark.skipif(
    installed_version("tensorrt_rtx") is None,
    reason=f"TensorRT-RTX is not installed: {BACKENDS['tensorrt_rtx'].install}",
)
"""Mark of the tests that really build engines; TensorRT-RTX does so without a GPU."""

needs_plugin = pytest.mark.skipif(
    installed_version("tensorrt_rtx") is None or find_plugin() is None,
    reason=f"TensorRT-RTX is not installed, or the TensorRT plugin library is not built: {PLUGIN_BUILD_COMMAND}",
)
"""Mark of the tests that build engines with our compiled plugin."""

PORTABLE = EngineOptions(backend="tensorrt_rtx", plugin=False)
"""Built from the function in the file; the same on every machine."""

PLUGIN = EngineOptions(backend="tensorrt_rtx", plugin=True)


def engine_of(checkpoint: Path, build: EngineOptions = PORTABLE, **options: Any) -> Path:
    """Build an engine of a checkpoint with ``OnnxOptions(**options)``, unverified; the same call again costs nothing.

    The ONNX file comes from ``export_of``, which other tests share.
    """
    words = [checkpoint.stem, *(f"{key}-{value}" for key, value in sorted(options.items()))]
    changed = (field.name for field in fields(build) if getattr(build, field.name) != getattr(PORTABLE, field.name))
    words += (f"{name}-{getattr(build, name)}".replace("/", "-") for name in changed)
    path = checkpoint.with_name("_".join(words) + ".engine")
    with made_by_one(path) as mine:
        if mine:
            export_engine(export_of(checkpoint, **options), path, None, build)
    return path


def family(engine: Path) -> tuple[Path, Path, Path]:
    """The three files of an engine: itself, its ONNX file, its sidecar."""
    return engine, onnx_path(engine), sidecar_path(engine)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command_line(arguments: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``lit-deploy`` as a process, in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}
    return subprocess.run(
        [sys.executable, "-m", "lit_deploy.cli", *arguments], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip


def check_files(engine: Path) -> Sidecar:
    """Everything in a sidecar that can be held against something else than the code that wrote it."""
    sidecar = read_sidecar(engine)
    made_from = onnx_path(engine)
    assert (sidecar.engine_sha256, sidecar.engine_size) == (sha256(engine), engine.stat().st_size)
    assert (sidecar.onnx, sidecar.onnx_sha256) == (made_from.name, sha256(made_from))
    assert sidecar.manifest == read_manifest(made_from)
    onnx.checker.check_model(str(made_from))
    build = sidecar.build
    assert build.backend == "tensorrt_rtx"
    assert build.backend_version == installed_version("tensorrt_rtx")
    assert (build.os, build.arch) == (platform.system(), platform.machine())
    gpu = find_gpu()
    assert (build.gpu, build.compute_capability) == ((gpu.name, gpu.compute_capability) if gpu else (None, None))
    assert Sidecar.to_json(sidecar) + "\n" == sidecar_path(engine).read_text(encoding="utf-8")
    graph = onnx.load(str(made_from)).graph
    names = [[value.name for value in values] for values in (graph.input, graph.output)]
    assert [spec.name for spec in sidecar.inputs] == names[0]
    assert [spec.name for spec in sidecar.outputs][: len(names[1])] == names[1]
    return sidecar


# --- hand-made ones -------------------------------------------------------------------------------------------------

ENGINE = b"not for TensorRT to read: it must be refused, or accepted, before anybody does"
LIBRARY = b"not a library either"

MANIFEST = Manifest(
    TINY, default_input(TINY), "logits", tuple("abcdefg"), "fp16", None, False, ("norm",), "tiny.pth", "00ff", 1,
    {"torch": "2.9"}, "2026-01-01T00:00:00+00:00", {"cosine": 1.0},
)  # fmt: skip

RTX_BUILD = EngineBuild(
    backend="tensorrt_rtx", backend_version="1.7.1.116", cuda_version="13", gpu=None, compute_capability=None,
    targets=(), os="Linux", arch="x86_64", hardware_compatible="none", version_compatible=False, workspace_mib=None,
    optimization_level=None, timing_cache=False, layers=False,
)  # fmt: skip

TENSORRT_BUILD = replace(
    RTX_BUILD, backend="tensorrt", backend_version="11.1.0.99", gpu="NVIDIA H200", compute_capability="9.0"
)

SIDECAR = Sidecar(
    engine_sha256=hashlib.sha256(ENGINE).hexdigest(),
    engine_size=len(ENGINE),
    onnx="lit.engine.onnx",
    onnx_sha256="ab" * 32,
    build=RTX_BUILD,
    profiles=((1, 8, 32),),
    inputs=(TensorSpec("images", "float32", ("batch", 3, 64, 64)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 7)),),
    plugin=None,
    inspections=(Inspection("network", {"float16": 26}, 0, 854),),
    parity=None,
    manifest=MANIFEST,
)

BESIDE = EnginePlugin(
    "DeformableTokenMerging", "1", "lit_deploy", "liblit_deploy_tensorrt.so", hashlib.sha256(LIBRARY).hexdigest(), False
)
"""A plugin whose library lies beside the engine."""

RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", "8.9", "13.0")
H200 = Gpu("NVIDIA H200", "9.0", "13.0")


def host_with(gpu: Gpu = RTX_4090, version: str | None = "1.7.1.116", **changes: Any) -> Host:
    """A machine on which both back ends have the given version."""
    fitting = Host(lambda backend: version, lambda: gpu, None, (Path("/searched/plugin.so"),), "Linux", "x86_64")
    return replace(fitting, **changes)


def write_engine(folder: Path, sidecar: Sidecar = SIDECAR) -> Path:
    """Write the hand-made engine and its sidecar."""
    path = folder / "lit.engine"
    path.write_bytes(ENGINE)
    sidecar_path(path).write_text(sidecar.to_json())
    return path
