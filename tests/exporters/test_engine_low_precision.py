"""Engines of int8 and fp8: what is built is what was asked for, on which GPUs, and what is refused.

The files are quantised here with ranges from two images, so that nothing depends on how they are calibrated.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.engines import PLUGIN, PORTABLE, TYPES, check_files, family, needs_plugin, needs_rtx
from support.exported import edited, export_of
from support.quantized import CheckpointFile, Quantized, quantized

from lit_deploy.artifacts.onnx_file import (
    read_manifest,
    set_manifest,
    with_value_info,
)
from lit_deploy.artifacts.preflight import rebuild_command
from lit_deploy.artifacts.sidecar import Inspection, Sidecar
from lit_deploy.core.errors import BuildFailed, ExportError, UsageError
from lit_deploy.exporters import engine_process, qdq
from lit_deploy.exporters import tensorrt as exporter
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.exporters.tensorrt import engine_from_onnx
from lit_deploy.machine.cuda import Gpu, find_gpu
from lit_deploy.ops.relative_position_attention.small_maps import decomposed
from lit_deploy.workflows.export import export_engine

__all__ = ["quantized"]  # a fixture

EIGHT_BIT = {"int8": "int8", "fp8": "float8e4m3"}
"""What TensorRT's tensors are of, by our precisions."""
FOR_FP8 = ("8.9", "12.0", "12.1")
A100 = Gpu("NVIDIA A100", "8.0", "13.2")


def built(source: Path, folder: Path, build: EngineOptions = PORTABLE) -> Sidecar:
    """Build an engine of a file and check what was written; the sidecar."""
    engine = folder / f"{source.stem}.engine"
    export_engine(source, engine, None, build)
    assert sorted(path.name for path in family(engine)) == sorted(os.listdir(folder))
    return check_files(engine)


def wanted(source: Path) -> dict[str, int]:
    """Matrix products by type, told from the graph: those that read two dequantised values, and the others."""
    graph, manifest = decomposed(onnx.load(str(source))).graph, read_manifest(source)  # what TensorRT is given
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if node.op_type == "MatMul"][1:]  # the patch embedding's stays float32
    eight = sum(set(node.input) <= dequantized for node in products)
    assert manifest.quantization is not None
    assert eight == manifest.quantization.products > 5
    return {EIGHT_BIT[manifest.precision]: eight, TYPES[manifest.quantization.base]: len(products) - eight}


# ------------------------------------------------------------------------------------------------- what is built


@needs_rtx
@pytest.mark.parametrize("precision", EIGHT_BIT)
@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_both_families(name: str, precision: qdq.EightBit, quantized: Quantized, tmp_path: Path) -> None:
    """Every quantised product computes in 8 bits, every other one in the base type; inputs and outputs are float32."""
    source = quantized(name, precision)
    sidecar = built(source, tmp_path)
    network = sidecar.inspections[0]
    assert network.products == wanted(source)
    attentions = {"tiny": 3, "tiny_ti": 2}[name]
    assert network.products["float16"] == 1 + (precision == "int8") * 2 * attentions, "the head, and attention in int8"
    assert network.plugin_layers == 0
    assert sidecar.manifest.precision == precision
    assert {spec.dtype for spec in sidecar.inputs + sidecar.outputs} == {"float32"}
    assert sidecar.profiles == ((1, 8, 32),)
    assert sidecar.build.targets == (FOR_FP8 if precision == "fp8" else ())


VARIANTS: dict[str, tuple[str, qdq.EightBit, EngineOptions, dict[str, Any]]] = {
    "pixels, fixed batch": ("tiny", "int8", PORTABLE, {"input": "uint8", "output": "top5", "batch": 3}),
    "function inlined, float32 around the products": ("tiny_ti", "int8", PORTABLE, {"base": "fp32", "portable": True}),
    "debug build, another profile": ("tiny", "fp8", replace(PORTABLE, layers=True, profile=(2, 3, 4)), {}),
    "some are kept": ("tiny_ti", "fp8", PORTABLE, {"keep": ("block1.*", "*.attn")}),
}


@needs_rtx
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, quantized: Quantized, tmp_path: Path) -> None:
    name, precision, build, options = VARIANTS[variant]
    source = quantized(name, precision, **options)
    sidecar = built(source, tmp_path, build)
    assert sidecar.inspections[0].products == wanted(source)
    manifest = sidecar.manifest
    assert [spec.name for spec in sidecar.outputs] == [
        *(("scores", "classes") if "output" in options else ("logits",)), *(manifest.layers if build.layers else ())
    ]  # fmt: skip
    assert sidecar.inputs[0].dtype == options.get("input", "float32")
    assert sidecar.profiles == (() if manifest.batch else (build.profile or (1, 8, 32),))


@needs_plugin
@pytest.mark.parametrize(("name", "precision"), [("tiny", "int8"), ("tiny_ti", "fp8")])
def test_plugin(name: str, precision: qdq.EightBit, quantized: Quantized, tmp_path: Path) -> None:
    """The operator takes and returns float16, and our kernel computes it, between products of 8 bits."""
    source = quantized(name, precision)
    sidecar = built(source, tmp_path, PLUGIN)
    assert sidecar.inspections[0].plugin_layers == 3
    assert sidecar.inspections[0].products == wanted(source)
    graph = with_value_info(onnx.load(str(source))).graph
    types = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    merging = [node for node in graph.node if node.op_type == "DeformableTokenMerging"]
    assert len(merging) == 3
    assert {types[v] for node in merging for v in (*node.input, *node.output)} == {onnx.TensorProto.FLOAT16}


TELL_LAYERS = """
import os
from lit_deploy.machine import tensorrt as trt
from lit_deploy.exporters import tensorrt_builder
make_logger = trt.make_logger
def telling(module, sink):
    def told(severity, message):
        if message.startswith("Layers:"):
            with open(os.environ["LAYERS"], "w") as file:
                file.write(message)
        sink(severity, message)
    return make_logger(module, told)
trt.make_logger = telling
tensorrt_builder.main()
"""
TOLD_LAYER = re.compile(r"Name: (.+?), LayerType: (\w+), Inputs: \[(.*?)\], Constants: ")


@needs_rtx
@pytest.mark.parametrize("precision", EIGHT_BIT)
def test_lit_s(
    precision: qdq.EightBit,
    quantized: Quantized,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The official network: weights of 8 bits in the engine, kernels that multiply 8 bits, and fused attention."""
    told = tmp_path_factory.mktemp("told") / "layers.txt"
    monkeypatch.setattr(engine_process, "COMMAND", (sys.executable, "-c", TELL_LAYERS))
    monkeypatch.setenv("LAYERS", str(told))
    source = quantized("lit_s", precision)
    sidecar = built(source, tmp_path)
    assert sidecar.inspections[0].products == wanted(source)
    parameters = sum(np.prod(tensor.dims) for tensor in onnx.load(str(source)).graph.initializer)
    assert parameters > 27e6
    assert 1.0 * parameters < sidecar.engine_size < 1.8 * parameters, "in fp16 it were 2 bytes each, and more"
    for path in (source, *family(tmp_path / f"{source.stem}.engine")):
        path.unlink()
    if find_gpu() is not None:
        pytest.skip("without a GPU alone does the log of a build list the kernels; with one, the engine is inspected")
    kernels = Counter()
    for name, kind, inputs in TOLD_LAYER.findall(told.read_text()):
        types = tuple(sorted(set(re.findall(r"Datatype: (\w+)", inputs))))
        kernels["attention" if "_mha_" in name else kind, types] += 1
    eight = {"int8": "Int8", "fp8": "FP8"}[precision]
    products = kernels["gemm", (eight,)] + kernels["runtime_fusion", tuple(sorted((eight, "Half")))]  # + residual
    assert products == 43, "every Linear but the head, and the projections behind the mergings"
    assert kernels["attention", ("Half",) if precision == "int8" else ("FP8",)] == 8, "one kernel per attention"
    assert kernels["runtime_fusion", ("Half",)] == 1, "the head"
    assert kernels["gemm", ("Float",)] == 1, "the patch embedding"
    assert not kernels["gemm", ("Half",)]
    assert not kernels["runtime_fusion", ("Half", "Half")]


# ------------------------------------------------------------------------- what was built is not what was asked for


def refused(source: Path, folder: Path, build: EngineOptions = PORTABLE) -> str:
    """The sentence that an engine of a file is refused with; nothing is written."""
    before = os.listdir(folder)
    with pytest.raises(ExportError) as caught:
        export_engine(source, folder / "refused.engine", None, build)
    assert os.listdir(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@needs_rtx
def test_a_file_that_is_not_quantised(quantized: Quantized, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """It says int8, and all its products are float16: the engine would be built, and be of no int8 at all."""
    manifest = read_manifest(quantized("tiny", "int8"))
    plain = export_of(checkpoint_file("tiny"), precision="fp16")
    liar = edited(plain, tmp_path / "liar.onnx", lambda model: set_manifest(model, manifest))
    assert refused(liar, tmp_path) == (
        "19 matrix products of int8 and all others of fp16 were asked for, but those of the network are: 26 float16"
    )


@needs_rtx
@pytest.mark.parametrize(("factor", "precision"), [(0, "int8"), (1, "fp8")], ids=["activation", "weight"])
def test_one_product_less(factor: int, precision: qdq.EightBit, quantized: Quantized, tmp_path: Path) -> None:
    """One factor of one product is not dequantised, so TensorRT multiplies in float16 there; all others are right."""
    source = quantized("tiny", precision)

    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.name == "layers.3.blocks.0.mlp.fc2/MatMul")
        if factor == 0:
            node.input[0] = node.input[0].removesuffix("/dequantized")
        else:  # the same value, but computed once more after it was dequantised
            position = list(model.graph.node).index(node)
            model.graph.node.insert(position, onnx.helper.make_node("Neg", [node.input[1]], ["negated"]))
            node.input[1] = "negated"

    found = wanted(source)
    message = refused(edited(source, tmp_path / "less.onnx", change), tmp_path)
    eight = found[EIGHT_BIT[precision]]
    assert message.startswith(f"{eight} matrix products of {precision} and all others of fp16 were asked for, but ")
    assert f"{eight - 1} {EIGHT_BIT[precision]}" in message
    assert f"{found['float16'] + 1} float16" in message


@needs_rtx
@pytest.mark.parametrize("says", ["int8", "fp16"])
def test_another_precision_in_the_manifest(says: str, quantized: Quantized, tmp_path: Path) -> None:
    source = quantized("tiny", "fp8")
    manifest = replace(read_manifest(source), precision=says)
    liar = edited(source, tmp_path / "liar.onnx", lambda model: set_manifest(model, manifest))
    message = refused(liar, tmp_path, replace(PORTABLE, targets=("8.9",)))
    assert f"{says} " in message.partition("asked for")[0]
    assert "25 float8e4m3" in message


@pytest.mark.parametrize(
    ("products", "fits"),
    [
        ({"int8": 19, "float16": 7}, True),
        ({"int8": 19}, True),  # nothing else was left
        ({"int8": 18, "float16": 8}, False),
        ({"int8": 20, "float16": 6}, False),
        ({"int8": 19, "float16": 6, "float32": 1}, False),
        ({"float8e4m3": 19, "float16": 7}, False),
        ({"float16": 26}, False),
        ({}, False),
    ],
)
def test_products_that_are_counted(products: dict[str, int], fits: bool, quantized: Quantized) -> None:
    manifest, inspection = read_manifest(quantized("tiny", "int8")), Inspection("network", products, 0, 99)
    if fits:
        exporter._check_inspection(inspection, manifest, False)
    else:
        with pytest.raises(ExportError, match="19 matrix products of int8 and all others of fp16 were asked for"):
            exporter._check_inspection(inspection, manifest, False)
    with pytest.raises(ExportError, match="int8 was asked for, but the matrix products"):
        exporter._check_inspection(Inspection("network", {"int8": 19, "float16": 7}, 0, 99),
                                   replace(manifest, quantization=None), False)  # fmt: skip


# ------------------------------------------------------------------------------------------- the finished engine

STAND_IN = """
import sys
sys.path.insert(0, {tests!r})
from support import fake_builder
from support.fake_builder import DataType, Layer, LayerType
layers = []
for number in range({products}):
    quantize = Layer(LayerType.QUANTIZE, f"q{{number}}", DataType.INT8)
    dequantize = Layer(LayerType.DEQUANTIZE, f"dq{{number}}", DataType.HALF, (quantize,))
    layers += [quantize, dequantize]
    layers.append(Layer(LayerType.MATRIX_MULTIPLY, f"x{{number}}", DataType.HALF, (dequantize, dequantize)))
layers.append(Layer(LayerType.MATRIX_MULTIPLY, "head/MatMul"))
fake_builder.install(fake_builder.Behaviour(layers, inspected={inspected!r}))
from lit_deploy.exporters.tensorrt_builder import main
main()
"""


@pytest.mark.parametrize("found", ["Int8", "Half"])
def test_the_finished_engine(found: str, quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, by a stand-in: the network is right, and the engine is refused if none of its layers is of int8."""
    inspected = [{"Name": str(i), "Outputs": [{"Format/Datatype": text}]} for i, text in enumerate(("Half", found))]
    script = STAND_IN.format(tests=str(Path(__file__).parents[1]), inspected=inspected, products=19)
    monkeypatch.setattr(engine_process, "COMMAND", (sys.executable, "-c", script))
    monkeypatch.setattr(exporter, "require_gpu", lambda: A100)
    monkeypatch.setattr(exporter.trt, "installed_version", lambda backend: "10.16.0.72")
    source = quantized("tiny", "int8")

    def build() -> Sidecar:
        options = EngineOptions("tensorrt", plugin=False)
        return engine_from_onnx(source.read_bytes(), read_manifest(source), "x.engine", options)[1]

    if found == "Int8":
        network, engine = build().inspections
        assert network.products == {"int8": 19, "float16": 1}
        assert engine.products == {"float16": 1, "int8": 1}
    else:
        with pytest.raises(ExportError, match=r"^int8 was asked for, but the engine's layers return: 2 float16$"):
            build()


# ------------------------------------------------------------------------------------------------ which GPUs


@needs_rtx
def test_rtx_has_no_fp8_below_ada(quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our limit is the builder's own: what it says when it is asked all the same. int8 is built for these GPUs."""
    monkeypatch.setattr(exporter, "computes", lambda precision, capability: True)
    with pytest.raises(BuildFailed, match=r"sm86, because .*fp8"):
        export_engine(quantized("tiny", "fp8"), tmp_path / "a.engine", None, replace(PORTABLE, targets=("8.6", "8.9")))
    assert os.listdir(tmp_path) == []
    assert built(quantized("tiny", "int8"), tmp_path, replace(PORTABLE, targets=("8.0", "8.6"))).build.targets == (
        "8.0", "8.6"
    )  # fmt: skip


@needs_rtx
def test_targets_of_fp8(quantized: Quantized, tmp_path: Path) -> None:
    """Older ones are refused before the builder is started; those that were named are taken as they are."""
    source = quantized("tiny", "fp8")
    steps: list[str] = []
    with pytest.raises(UsageError) as caught:
        export_engine(
            source,
            tmp_path / "a.engine",
            None,
            replace(PORTABLE, targets=("8.9", "8.6")),
            progress=lambda step: steps.append(str(step)),
        )
    assert str(caught.value) == (
        "the target 8.6 computes no fp8, which needs 8.9 and above; leave it out, or use --precision int8 or fp16"
    )
    assert steps == []
    sidecar = built(source, tmp_path, replace(PORTABLE, targets=("12.0",)))
    assert sidecar.build.targets == ("12.0",)
    assert rebuild_command(tmp_path / "x.engine", sidecar).endswith("--no-plugin --target 12.0")
