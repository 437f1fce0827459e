"""8-bit files of small networks, made without looking at images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.specs import Quantization
from lit_deploy.exporters import qdq
from support.exported import export_of

CheckpointFile = Callable[[str], Path]


Quantized = Callable[..., Path]


@pytest.fixture(scope="module")
def quantized(checkpoint_file: CheckpointFile, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """``quantized("tiny", "int8", base, keep, **options)``: an 8-bit ``.onnx`` file, written once."""
    folder = tmp_path_factory.mktemp("quantized")

    def write(
        name: str, precision: qdq.EightBit, base: str = "fp16", keep: tuple[str, ...] = (), **options: Any
    ) -> Path:
        words = [name, precision, base, *keep, *(f"{key}-{value}" for key, value in sorted(options.items()))]
        path = folder / ("_".join(words).replace("*", "all") + ".onnx")
        if path.exists():
            return path
        if base != "fp32":  # so that the exported file is one that other tests share
            options["precision"] = base
        source = export_of(checkpoint_file(name), **options)
        artifact = qdq.opened(OnnxArtifact.read(source), precision)
        chosen = qdq.products(artifact, precision, keep)
        values = qdq.observed(chosen)
        with open_session(artifact, SessionOptions(values=values, library=False)) as session:
            outputs = session.run({"images": images_for(session.inputs[0], 2)})
        amax = {value: float(np.abs(outputs[value]).max()) for value in values}
        graph = qdq.quantized(artifact.graph, precision, amax, chosen)
        made = Quantization("minmax", None, 2, "noise", "00", base, keep, len(chosen))  # type: ignore[arg-type]
        replace(artifact, graph=graph).described(precision=precision, quantization=made).write(path)
        return path

    return write


def images_for(spec: Any, count: int) -> np.ndarray:
    """Noise of the shape and type that an input takes."""
    shape = tuple(size if isinstance(size, int) else count for size in spec.shape)
    noise = np.random.default_rng(0)
    if spec.dtype == "uint8":
        return noise.integers(0, 256, shape, dtype=np.uint8)
    return noise.standard_normal(shape).astype(np.float32)


def run_plainly(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Every node as it stands: no fusion, no integer kernel."""
    ort = pytest.importorskip("onnxruntime")
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(["y"], {"x": x})[0]
    return result


def integer_products(path: Path, folder: Path) -> Counter[str]:
    """Operators of the graph as ONNX Runtime's CPU runs it."""
    ort = pytest.importorskip("onnxruntime")
    settings = ort.SessionOptions()
    settings.optimized_model_filepath, settings.log_severity_level = str(folder / "optimised.onnx"), 4
    ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(folder / "optimised.onnx")).graph.node)
