"""Engines as they are written: really built with TensorRT-RTX, which needs no GPU, and described in their sidecars."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from support.engines import PORTABLE, TYPES, check_files, engine_of, family, needs_rtx
from support.exported import edited, export_of

from lit_deploy.artifacts.onnx_file import read_manifest, set_manifest
from lit_deploy.artifacts.preflight import rebuild_command
from lit_deploy.artifacts.sidecar import Inspection, Sidecar, onnx_path
from lit_deploy.core.errors import BuildFailed, ExportError, MissingDependency
from lit_deploy.core.specs import TensorSpec
from lit_deploy.exporters import engine_options, engine_process
from lit_deploy.exporters import tensorrt as exporter
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.exporters.engine_process import LAST_LINES
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.exporters.tensorrt import engine_from_onnx
from lit_deploy.machine.cuda import Gpu, find_gpu
from lit_deploy.ops.relative_position_attention.small_maps import decomposed
from lit_deploy.workflows.export import export_engine

CheckpointFile = Callable[[str], Path]
# --------------------------------------------------------------------------------------------- the official networks


@needs_rtx
@pytest.mark.parametrize(("name", "precision"), [("lit_ti", "fp16"), ("lit_s", "fp32")])
def test_official_networks(name: str, precision: str, checkpoint_file: CheckpointFile) -> None:
    """LIT-Ti and LIT-S: dynamic batch, portable path; weights in the precision that was asked for."""
    check_official(engine_of(checkpoint_file(name), precision=precision), name, precision)


def check_official(engine: Path, name: str, precision: str) -> Sidecar:
    """What every engine of an official network has in common."""
    sidecar = check_files(engine)
    assert sidecar.manifest.model.name == name
    assert sidecar.profiles == ((1, 8, 32),)
    assert sidecar.inputs == (TensorSpec("images", "float32", ("batch", 3, 224, 224)),)
    assert sidecar.outputs == (TensorSpec("logits", "float32", ("batch", 1000)),)
    assert sidecar.plugin is None
    network = sidecar.inspections[0]
    graph = decomposed(onnx.load(str(onnx_path(engine)))).graph  # what TensorRT is given
    products = sum(node.op_type == "MatMul" for node in graph.node) - 1  # the patch embedding's stays float32
    # no more than those: the function computes its offsets by convolutions
    assert network.products == {TYPES[precision]: products}
    assert (network.source, network.plugin_layers) == ("network", 0)
    weights = sum(len(tensor.raw_data) for tensor in graph.initializer)
    assert 0.9 * weights < engine.stat().st_size < weights + 20e6, "the weights are in it, in that precision"
    return sidecar


@needs_rtx
def test_lit_s_fp16_from_the_checkpoint(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """The whole command, conversion and check of the ONNX file included."""
    steps: list[str] = []
    result = export_engine(
        checkpoint_file("lit_s"), tmp_path / "lit_s.engine", OnnxOptions(precision="fp16"), PORTABLE,
        progress=lambda step: steps.append(str(step)),
    )  # fmt: skip
    assert result.report is not None
    assert result.report.verdict == "pass"
    sidecar = check_official(result.path, "lit_s", "fp16")
    assert sidecar == result.sidecar
    assert sidecar.manifest.parity == result.report.summary(), "the ONNX file was compared, and says so"
    if find_gpu() is None:
        assert (result.engine_report, sidecar.parity) == (None, None)
        assert result.unchecked == "no GPU here, so the engine itself was not run"
    assert steps.index("verify against PyTorch") < steps.index("parse the ONNX model"), "no wrong file is built from"
    for path in family(result.path):
        path.unlink()


# ------------------------------------------------------------------------------------------------- the options


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_precisions(name: str, precision: str, checkpoint_file: CheckpointFile) -> None:
    """Every product of the network has the type that was asked for, and inputs and outputs are float32."""
    sidecar = check_files(engine_of(checkpoint_file(name), precision=precision))
    assert sidecar.manifest.precision == precision
    assert set(sidecar.inspections[0].products) == {TYPES[precision]}
    assert {spec.dtype for spec in sidecar.inputs + sidecar.outputs} == {"float32"}
    assert sidecar.build.cuda_version in ("12", "13", None), "the package's CUDA, and never the driver's"


@needs_rtx
def test_pixels_in_and_ranking_out(checkpoint_file: CheckpointFile) -> None:
    sidecar = check_files(engine_of(checkpoint_file("tiny"), input="uint8", output="top5"))
    assert sidecar.inputs == (TensorSpec("images", "uint8", ("batch", 64, 64, 3)),)
    assert sidecar.outputs == (
        TensorSpec("scores", "float32", ("batch", 5)), TensorSpec("classes", "int64", ("batch", 5))
    )  # fmt: skip


@needs_rtx
def test_fixed_batch(checkpoint_file: CheckpointFile) -> None:
    sidecar = check_files(engine_of(checkpoint_file("tiny"), batch=3))
    assert sidecar.profiles == ()
    assert sidecar.inputs[0].shape == (3, 3, 64, 64)
    assert sidecar.outputs[0].shape == (3, 7)


@needs_rtx
def test_portable_file(checkpoint_file: CheckpointFile) -> None:
    engine = engine_of(checkpoint_file("tiny_ti"), replace(PORTABLE, plugin=None), portable=True)
    sidecar = check_files(engine)
    assert sidecar.manifest.portable
    assert sidecar.plugin is None, "whether the library is here or not"


@needs_rtx
def test_debug_build(checkpoint_file: CheckpointFile) -> None:
    """Every layer that the manifest names is a float32 output; the ONNX file beside it is the ordinary one."""
    engine = engine_of(checkpoint_file("tiny"), replace(PORTABLE, layers=True), precision="fp16")
    sidecar = check_files(engine)
    assert sidecar.build.layers
    names = [spec.name for spec in sidecar.outputs]
    assert names == ["logits", *sidecar.manifest.layers]
    assert len(names) == 11
    assert {spec.dtype for spec in sidecar.outputs} == {"float32"}
    assert [value.name for value in onnx.load(str(onnx_path(engine))).graph.output] == ["logits"]


@needs_rtx
def test_builder_settings(checkpoint_file: CheckpointFile) -> None:
    """Targets, workspace, level and profile: taken by the builder, and told in the sidecar."""
    source = export_of(checkpoint_file("tiny"))
    build = replace(PORTABLE, targets=("8.6", "12.0"), workspace_mib=64, optimization_level=0, profile=(2, 4, 64))
    engine = source.with_name("settings.engine")
    export_engine(source, engine, None, build)
    sidecar = check_files(engine)
    assert sidecar.build.targets == ("8.6", "12.0")
    assert (sidecar.build.workspace_mib, sidecar.build.optimization_level) == (64, 0)
    assert sidecar.profiles == ((2, 4, 64),)


@needs_rtx
def test_what_the_builder_refuses(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turing's kernels lack float32 products, which the patch embedding needs: the builder's reason is passed on."""
    monkeypatch.setattr(engine_options, "RTX_TARGETS", ("7.5",))
    source = export_of(checkpoint_file("tiny"), precision="fp16")
    with pytest.raises(BuildFailed) as caught:
        export_engine(source, tmp_path / "turing.engine", None, replace(PORTABLE, targets=("7.5",)))
    assert "could not build the engine (" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert 1 < len(caught.value.log) <= LAST_LINES
    assert any(line.startswith("[error] ") for line in caught.value.log)
    assert os.listdir(tmp_path) == []


@needs_rtx
def test_progress(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    steps: list[str] = []
    source = export_of(checkpoint_file("tiny"))
    export_engine(source, tmp_path / "a.engine", None, PORTABLE, progress=lambda step: steps.append(str(step)))
    assert steps[0].startswith("  0 %  start TensorRT-RTX ")
    shares = [int(step[:3]) for step in steps if "%" in step]
    assert shares == sorted(shares)
    assert len(set(shares)) > 5
    assert shares[-1] > 50


# -------------------------------------------------------------------------------- what was built is what was asked


@needs_rtx
def test_another_precision_than_asked_for_is_refused(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """A float32 graph that says it is fp16: TensorRT would build it, silently, in float32."""
    liar = edited(
        export_of(checkpoint_file("tiny")),
        tmp_path / "liar.onnx",
        lambda model: set_manifest(model, replace(read_manifest(export_of(checkpoint_file("tiny"))), precision="fp16")),
    )
    with pytest.raises(ExportError) as caught:
        export_engine(liar, tmp_path / "liar.engine", None, PORTABLE)
    assert str(caught.value) == "fp16 was asked for, but the matrix products of the network are: 26 float32"
    assert os.listdir(tmp_path) == ["liar.onnx"]


@needs_rtx
def test_one_product_in_another_precision_is_refused(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Half precision everywhere but in the classifier."""
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT

    def change(model: onnx.ModelProto) -> None:
        head = next(node for node in model.graph.node if node.op_type == "MatMul" and "head.weight" in node.input)
        position = list(model.graph.node).index(head)
        before, after = [f"{value}/wide" for value in head.input], head.output[0]
        casts = [
            onnx.helper.make_node("Cast", [old], [new], to=single) for old, new in zip(head.input, before, strict=True)
        ]
        head.input[:], head.output[:] = before, [f"{after}/wide"]
        casts.append(onnx.helper.make_node("Cast", [f"{after}/wide"], [after], to=half))
        for offset, node in zip((0, 1, 3), casts, strict=True):
            model.graph.node.insert(position + offset, node)

    path = edited(export_of(checkpoint_file("tiny"), precision="fp16"), tmp_path / "mixed.onnx", change)
    with pytest.raises(ExportError, match=r"fp16 was asked for, .* network are: .*1 float32"):
        export_engine(path, tmp_path / "mixed.engine", None, PORTABLE)
    assert os.listdir(tmp_path) == ["mixed.onnx"]


@pytest.mark.parametrize(
    ("inspection", "plugin", "words"),
    [
        (
            Inspection("network", {"float16": 9}, 0, 99),
            True,
            "network has 0 plugin layers, expected 3; the parser",
        ),
        (Inspection("network", {"float16": 9}, 1, 99), True, "network has 1 plugin layers, expected 3"),
        (Inspection("network", {"float16": 9}, 3, 99), False, "network has 3 plugin layers, expected 0"),
        (Inspection("network", {}, 0, 99), False, "the matrix products of the network are: none"),
        (Inspection("network", {"float16": 9, "float32": 1}, 0, 99), False, "are: 9 float16, 1 float32"),
        (Inspection("engine", {"float32": 9, "other": 1}, 0, 99), False, "layers return: 9 float32, 1 other"),
    ],
)
def test_inspections_that_are_refused(
    inspection: Inspection, plugin: bool, words: str, checkpoint_file: CheckpointFile
) -> None:
    manifest = replace(read_manifest(export_of(checkpoint_file("tiny"))), precision="fp16")
    with pytest.raises(ExportError, match=words):
        exporter._check_inspection(inspection, manifest, plugin)


def test_inspections_that_pass(checkpoint_file: CheckpointFile) -> None:
    manifest = replace(read_manifest(export_of(checkpoint_file("tiny"))), precision="fp16")
    exporter._check_inspection(Inspection("network", {"float16": 9}, 0, 99), manifest, False)
    exporter._check_inspection(Inspection("network", {"float16": 9}, 3, 99), manifest, True)


@pytest.mark.parametrize(
    ("types", "plugin_layers"),
    [
        ({"float16": 9, "float32": 5}, 3),  # norms, softmax and the outputs may well give float32
        ({"float16": 1, "float32": 99}, 3),
        ({}, 3),  # a release whose inspector tells no types
        ({"float16": 9}, 0),  # one that does not name plugins, or splits and fuses them
        ({"float16": 9}, 7),
    ],
)
@pytest.mark.parametrize("plugin", [False, True])
def test_what_the_inspector_tells_is_doubted(
    types: dict[str, int], plugin_layers: int, plugin: bool, checkpoint_file: CheckpointFile
) -> None:
    """Its text differs between releases: only a type that is surely wrong fails a build that took minutes."""
    manifest = replace(read_manifest(export_of(checkpoint_file("tiny"))), precision="fp16")
    exporter._check_inspection(Inspection("engine", types, plugin_layers, 99), manifest, plugin)


# ----------------------------------------------------------------------------------------- TensorRT, by a stand-in

STAND_IN = """
import sys
sys.path.insert(0, {tests!r})
from support import fake_builder
fake_builder.install(fake_builder.Behaviour(inspected={inspected!r}))
from lit_deploy.exporters.tensorrt_builder import main
main()
"""
A100 = Gpu("NVIDIA A100", "8.0", "13.2")


def test_sidecar_of_a_tensorrt_engine(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for TensorRT, in a real builder process: GPU, driver, compatibility and the timing cache."""
    inspected = [{"Name": "head", "Outputs": [{"Format/Datatype": "Half"}]}]
    script = STAND_IN.format(tests=str(Path(__file__).parents[1]), inspected=inspected)
    monkeypatch.setattr(engine_process, "COMMAND", (sys.executable, "-c", script))
    monkeypatch.setattr(exporter, "require_gpu", lambda: A100)
    monkeypatch.setattr(exporter.trt, "installed_version", lambda backend: "10.16.0.72")
    source = export_of(checkpoint_file("tiny"), precision="fp16")
    cache = tmp_path / "times.cache"
    cache.write_bytes(b"known before, ")
    options = EngineOptions(
        "tensorrt", plugin=False, hardware_compatible=True, version_compatible=True, timing_cache=cache
    )
    content, sidecar = engine_from_onnx(source.read_bytes(), read_manifest(source), "x.engine", options)
    assert content == b"a serialised engine"
    assert cache.read_bytes() == b"known before, kernel times"
    assert os.listdir(tmp_path) == ["times.cache"]
    build = sidecar.build
    assert (build.backend, build.backend_version, build.timing_cache) == ("tensorrt", "10.16.0.72", True)
    assert (build.gpu, build.compute_capability) == ("NVIDIA A100", "8.0")
    assert (build.hardware_compatible, build.version_compatible) == ("ampere+", True)
    assert [found.source for found in sidecar.inspections] == ["network", "engine"]
    assert "--hardware-compatible --version-compatible" in rebuild_command(Path("x.engine"), sidecar)
    cache.unlink()
    engine_from_onnx(source.read_bytes(), read_manifest(source), "x.engine", options)
    assert cache.read_bytes() == b"kernel times", "a cache that is not there is begun"


def test_tensorrt_needs_a_gpu(checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    source = export_of(checkpoint_file("tiny"))
    model, manifest = source.read_bytes(), read_manifest(source)
    monkeypatch.setattr(exporter.trt, "installed_version", lambda backend: None)
    for backend, title in (("tensorrt", "TensorRT"), ("tensorrt_rtx", "TensorRT-RTX")):
        with pytest.raises(MissingDependency, match=rf"^{title} is not installed; run: pip install"):
            engine_from_onnx(model, manifest, "x.engine", EngineOptions(backend, plugin=False))
    monkeypatch.setattr(exporter.trt, "installed_version", lambda backend: "10.16.0.72")
    if find_gpu() is None:
        with pytest.raises(MissingDependency, match=r"driver|GPU|CUDA"):
            engine_from_onnx(model, manifest, "x.engine", EngineOptions("tensorrt", plugin=False))
