"""Types of products, as networks and inspectors tell them, and GPUs that compute them; no TensorRT is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.engines import H200, RTX_4090, SIDECAR, TENSORRT_BUILD, host_with, write_engine
from support.fake_builder import DataType, Layer, LayerType

from lit_deploy.artifacts.preflight import preflight
from lit_deploy.core.errors import ArtifactError, UsageError
from lit_deploy.exporters import tensorrt as exporter
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.exporters.tensorrt import ready_to_build
from lit_deploy.exporters.tensorrt_builder import inspect_network, summary_of
from lit_deploy.machine.cuda import Gpu

A100 = Gpu("NVIDIA A100", "8.0", "13.2")
RTX_3090 = Gpu("RTX 3090", "8.6", "13.0")


def network(*layers: Layer) -> Any:
    """A parsed network."""

    class Network:
        num_layers = len(layers)

        def get_layer(self, index: int) -> Layer:
            return layers[index]

    return Network()


def dequantized(name: str, stored: DataType, given: DataType = DataType.HALF) -> tuple[Layer, Layer]:
    source = Layer(LayerType.QUANTIZE, f"{name}/quantize", stored)
    return source, Layer(LayerType.DEQUANTIZE, name, given, (source,))


def test_types_of_products() -> None:
    """Both factors have to come from 8 bits, and from the same; only reshaping may lie between."""
    product, half = LayerType.MATRIX_MULTIPLY, Layer(LayerType.ACTIVATION, "gelu")
    q_int, int8 = dequantized("int8", DataType.INT8)
    q_fp8, fp8 = dequantized("fp8", DataType.FP8, DataType.BF16)
    weight = Layer(LayerType.CONSTANT, "weight", DataType.INT8)
    raised = Layer(LayerType.DEQUANTIZE, "raised", DataType.HALF, (weight,))
    for step, kind in enumerate((LayerType.UNSQUEEZE, LayerType.SHUFFLE, LayerType.SHUFFLE)):
        raised = Layer(kind, f"raised {step}", DataType.HALF, (raised,))
    after = Layer(LayerType.ACTIVATION, "after", DataType.HALF, (int8,))
    chain = [weight, raised.inputs[0].inputs[0].inputs[0], raised.inputs[0].inputs[0], raised.inputs[0], raised]
    given = [half, q_int, int8, q_fp8, fp8, *chain, after]

    def kinds(*factors: Layer, result: DataType = DataType.HALF) -> dict[str, int]:
        found: dict[str, int] = inspect_network(
            network(*given, Layer(product, "x", result, factors)), ("patch_embed.",)
        )["products"]
        return found

    assert kinds(int8, raised) == {"int8": 1}
    assert kinds(int8, int8) == {"int8": 1}
    assert kinds(fp8, fp8, result=DataType.BF16) == {"float8e4m3": 1}
    assert kinds(int8, fp8) == {"float16": 1}
    assert kinds(int8, half) == kinds(half, raised) == {"float16": 1}, "one side alone"
    assert kinds(after, raised) == {"float16": 1}, "something was computed in between"
    assert kinds(int8, result=DataType.FLOAT) == {"float32": 1}, "an input of the network"
    assert kinds(weight, weight) == {"float16": 1}, "never dequantised"


def test_what_the_inspector_tells() -> None:
    texts = {
        "int8": ("Int8", "Thirty-two wide channel vectorized row major Int8 format", "Row major linear INT8"),
        "float8e4m3": ("FP8", "Row major linear FP8 format", "Float8", "E4M3"),
        "float16": ("Half",), "float32": ("Float",), "other": ("UInt8", "Bool", "Int32", ""),
    }  # fmt: skip
    layers = [{"Outputs": [{"Format/Datatype": text}]} for words in texts.values() for text in words]
    counts = {kind: len(words) for kind, words in texts.items()}
    assert summary_of(layers, ())["products"] == counts
    apart = [{"Outputs": [{"Datatype": text, "Format": "(Linear) Row major linear format"}]}
             for words in texts.values() for text in words]  # fmt: skip
    assert summary_of(apart, ())["products"] == counts, "TensorRT-RTX tells type and format apart"
    names = ("DeformableTokenMerging", "MultiLevelRoiAlign")
    calls = [{"Name": name, "LayerType": "PluginV3"} for name in (*names, "Another")]
    assert summary_of([*layers, *calls], names)["plugin_layers"] == 2


# ------------------------------------------------------------------------------------------------ which GPUs


def test_gpus_that_tensorrt_builds_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp8 on Ada and above; int8 on every GPU."""
    monkeypatch.setattr(exporter.trt, "installed_version", lambda backend: "10.16.0.72")
    options = EngineOptions("tensorrt", plugin=False)

    def ready(gpu: Gpu, precision: Any, options: EngineOptions = options) -> EngineOptions:
        monkeypatch.setattr(exporter, "require_gpu", lambda: gpu)
        return ready_to_build(options, portable=False, precision=precision)[0]

    for gpu in (A100, RTX_3090):
        assert ready(gpu, "int8") == options
        with pytest.raises(UsageError) as caught:
            ready(gpu, "fp8")
        assert f"capability 8.9 and above, and TensorRT builds for the one here, {gpu.name} (" in str(caught.value)
    for gpu in (RTX_4090, H200, Gpu("NVIDIA B200", "10.0", "13.2")):
        assert ready(gpu, "fp8") == options
    compatible = replace(options, hardware_compatible=True)
    assert ready(H200, "int8", compatible) == compatible
    with pytest.raises(UsageError, match=r"every GPU of compute capability 8\.0 and above, but fp8 needs 8\.9"):
        ready(H200, "fp8", compatible)


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "tensorrt"])
def test_preflight(backend: str, tmp_path: Path) -> None:
    """An fp8 engine on an older GPU: no new build would mend it, so none is advised."""
    build = TENSORRT_BUILD if backend == "tensorrt" else replace(SIDECAR.build, targets=("8.9", "12.0", "12.1"))
    sidecar = replace(SIDECAR, build=build, manifest=replace(SIDECAR.manifest, precision="fp8"))
    engine = write_engine(tmp_path, sidecar)
    with pytest.raises(ArtifactError) as caught:
        preflight(engine, sidecar, host_with(RTX_3090, build.backend_version))
    assert str(caught.value) == (
        f"{engine} is of fp8, which needs compute capability 8.9 and above, here is RTX 3090 (compute capability 8.6); "
        "export the checkpoint again with --precision int8 or fp16"
    )
    fitting = H200 if backend == "tensorrt" else RTX_4090
    assert preflight(engine, sidecar, host_with(fitting, build.backend_version)) == fitting
    whole = replace(sidecar, manifest=replace(SIDECAR.manifest, precision="int8"))
    with pytest.raises(ArtifactError, match=r"was built for .*; build it again here: "):
        preflight(engine, whole, host_with(RTX_3090, build.backend_version))
