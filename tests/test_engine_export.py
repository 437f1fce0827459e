"""Engines as they are written: really built with TensorRT-RTX, which needs no GPU, and described in their sidecars."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from engines import PLUGIN, PORTABLE, engine_of, family, needs_plugin, needs_rtx
from exported import edited, export_of
from golden import NAMES

import lit_deploy
from lit_deploy import native
from lit_deploy.artifact import read_manifest, set_manifest
from lit_deploy.cuda import Gpu, find_gpu
from lit_deploy.errors import BuildFailed, ExportError, MissingDependency, UsageError
from lit_deploy.export import export_engine
from lit_deploy.exporters import tensorrt as exporter
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.exporters.tensorrt import EngineOptions, engine_from_onnx, rebuild_command
from lit_deploy.sidecar import Inspection, Sidecar, onnx_path, read_sidecar, sidecar_path
from lit_deploy.specs import TensorSpec
from lit_deploy.trt import installed_version

CheckpointFile = Callable[[str], Path]
ROOT = Path(lit_deploy.__file__).parents[1]
TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


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


# --------------------------------------------------------------------------------------------- the official networks


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES[:2])
def test_official_networks(name: str, precision: str, checkpoint_file: CheckpointFile) -> None:
    """LIT-Ti and LIT-S: dynamic batch, portable path; weights in the precision that was asked for."""
    engine = engine_of(checkpoint_file(name), precision=precision)
    sidecar = check_files(engine)
    assert sidecar.manifest.model.name == name
    assert sidecar.profiles == ((1, 8, 32),)
    assert sidecar.inputs == (TensorSpec("images", "float32", ("batch", 3, 224, 224)),)
    assert sidecar.outputs == (TensorSpec("logits", "float32", ("batch", 1000)),)
    assert sidecar.plugin is None
    network = sidecar.inspections[0]
    graph = onnx.load(str(onnx_path(engine))).graph
    products = sum(node.op_type == "MatMul" for node in graph.node) - 1  # the patch embedding's stays float32
    # no more than those: the function computes its offsets by convolutions
    assert network.products == {TYPES[precision]: products}
    assert (network.source, network.plugin_layers) == ("network", 0)
    weights = sum(len(tensor.raw_data) for tensor in graph.initializer)
    assert 0.9 * weights < engine.stat().st_size < weights + 20e6, "the weights are in it, in that precision"


@needs_rtx
def test_lit_s_fp16_from_the_checkpoint(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """The whole command, conversion and check of the ONNX file included, in less than the minute that is promised."""
    steps: list[str] = []
    start = time.perf_counter()
    result = export_engine(
        checkpoint_file("lit_s"), tmp_path / "lit_s.engine", OnnxOptions(precision="fp16"), PORTABLE,
        progress=steps.append,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    print(f"LIT-S fp16, checkpoint to engine: {seconds:.1f} s")
    assert seconds < 60
    assert result.report is not None
    assert result.report.verdict == "pass"
    sidecar = check_files(result.path)
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
    gpu = find_gpu()
    known = {"13", "12", gpu.driver_cuda if gpu else None}
    assert sidecar.build.cuda_version in known


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
    assert "--batch" not in sidecar.rebuild


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
    assert shlex.split(sidecar.rebuild)[-1] == "--layers"


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
    monkeypatch.setattr(exporter, "RTX_TARGETS", ("7.5",))
    source = export_of(checkpoint_file("tiny"), precision="fp16")
    with pytest.raises(BuildFailed) as caught:
        export_engine(source, tmp_path / "turing.engine", None, replace(PORTABLE, targets=("7.5",)))
    assert "could not build the engine (" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert 1 < len(caught.value.log) <= exporter.LAST_LINES
    assert any(line.startswith("[error] ") for line in caught.value.log)
    assert os.listdir(tmp_path) == []


@needs_rtx
def test_progress(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    steps: list[str] = []
    export_engine(export_of(checkpoint_file("tiny")), tmp_path / "a.engine", None, PORTABLE, progress=steps.append)
    assert steps[0].startswith("  0 %  start TensorRT-RTX ")
    shares = [int(step[:3]) for step in steps if "%" in step]
    assert shares == sorted(shares)
    assert len(set(shares)) > 5
    assert shares[-1] > 50


# ------------------------------------------------------------------------------------------------ building again


def without_chance(sidecar: Sidecar) -> Sidecar:
    """A sidecar without what differs between two builds of the same."""
    return replace(sidecar, engine_sha256="", engine_size=0)


@needs_rtx
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (PORTABLE, {"precision": "fp16"}),
        (replace(PORTABLE, layers=True, targets=("8.9", "12.0"), workspace_mib=32, optimization_level=1), {"batch": 2}),
    ],
    ids=["plain", "every option"],
)
def test_the_rebuild_command_rebuilds(
    build: EngineOptions, options: dict[str, Any], checkpoint_file: CheckpointFile, tmp_path: Path
) -> None:
    """It runs as it stands, beside the ONNX file alone, and makes an engine of the same description."""
    engine = engine_of(checkpoint_file("tiny"), build, **options)
    before = read_sidecar(engine)
    onnx_path(tmp_path / engine.name).write_bytes(onnx_path(engine).read_bytes())
    program, *arguments = shlex.split(before.rebuild)
    assert program == "lit-deploy"
    done = command_line(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in family(engine))
    after = check_files(tmp_path / engine.name)
    assert without_chance(after) == without_chance(before)
    assert abs(after.engine_size - before.engine_size) < 0.01 * before.engine_size


def test_rebuild_commands_hold_every_option(checkpoint_file: CheckpointFile) -> None:
    manifest = read_manifest(export_of(checkpoint_file("tiny")))
    options = EngineOptions("tensorrt", (1, 2, 3), True, True, True, True, (), 12, 4, Path("/a b/times.cache"), True)
    words = shlex.split(rebuild_command("a b.engine", manifest, options))
    assert words[:9] == [
        "lit-deploy", "export", "--ckpt", "a b.engine.onnx", "--format", "trt", "--out", "a b.engine", "--builder"
    ]  # fmt: skip
    assert words[9:] == [
        "tensorrt", "--batch", "1:2:3", "--plugin", "--embed-plugin", "--hardware-compatible", "--version-compatible",
        "--layers", "--workspace", "12", "--optimization-level", "4", "--timing-cache", "/a b/times.cache",
    ]  # fmt: skip
    assert "--plugin" not in rebuild_command("a.engine", manifest, EngineOptions()), "what was left open stays open"


@needs_rtx
def test_the_onnx_file_beside_it_is_a_source(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """``--ckpt x.engine.onnx`` makes ``x.engine`` here, without PyTorch; the graph is taken as it is."""
    source = tmp_path / "from" / "net.engine.onnx"
    source.parent.mkdir()
    source.write_bytes(export_of(checkpoint_file("tiny")).read_bytes())
    script = "import sys; sys.modules['torch'] = None; from lit_deploy.cli import main; main()"
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, "export", "--ckpt", str(source), "--format", "trt", "--no-plugin"],
        cwd=work, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(work)) == ["net.engine", "net.engine.json", "net.engine.onnx"]
    check_files(work / "net.engine")
    for word in ("net.engine", "TensorRT-RTX", "1:8:32", "float32", "was taken as it is"):
        assert word in done.stdout, word


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
        (Inspection("engine", {"float16": 9, "float32": 5}, 1, 99), True, "engine has 1 plugin layers, expected 3"),
        (Inspection("network", {"float16": 9}, 3, 99), False, "network has 3 plugin layers, expected 0"),
        (Inspection("network", {}, 0, 99), False, "the matrix products of the network are: none"),
        (Inspection("network", {"float16": 9, "float32": 1}, 0, 99), False, "are: 9 float16, 1 float32"),
        (Inspection("engine", {"float32": 9}, 0, 99), False, "the matrix products of the engine are: 9 float32"),
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
    # an engine's layers may well give float32: norms, softmax and the outputs
    exporter._check_inspection(Inspection("engine", {"float16": 9, "float32": 5}, 0, 99), manifest, False)


# ----------------------------------------------------------------------------------------- TensorRT, by a stand-in

STAND_IN = """
import sys
sys.path.insert(0, {tests!r})
import fake_builder
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
    script = STAND_IN.format(tests=str(Path(__file__).parent), inspected=inspected)
    monkeypatch.setattr(exporter, "COMMAND", (sys.executable, "-c", script))
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
    assert "--hardware-compatible --version-compatible" in sidecar.rebuild
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


# ------------------------------------------------------------------------------------------------- the plugin


@needs_plugin
@pytest.mark.parametrize("embed", [False, True], ids=["beside", "embedded"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_plugin(precision: str, embed: bool, checkpoint_file: CheckpointFile) -> None:
    """The three mergings are plugin layers; embedded, the engine carries the library."""
    library = native.find_plugin()
    assert library is not None
    beside = engine_of(checkpoint_file("tiny"), PLUGIN, precision=precision)
    engine = engine_of(checkpoint_file("tiny"), replace(PLUGIN, embed_plugin=embed), precision=precision)
    sidecar = check_files(engine)
    plugin = sidecar.plugin
    assert plugin is not None
    assert (plugin.name, plugin.version, plugin.namespace) == ("DeformableTokenMerging", "1", "lit_deploy")
    assert (plugin.library, plugin.sha256, plugin.embedded) == (library.name, sha256(library), embed)
    network = sidecar.inspections[0]
    assert network.plugin_layers == 3
    assert set(network.products) == {TYPES[precision]}
    portable = read_sidecar(engine_of(checkpoint_file("tiny"), precision=precision)).inspections[0]
    assert network.layers < portable.layers / 2, "the function is not built as well"
    if embed:
        growth = engine.stat().st_size - beside.stat().st_size
        assert abs(growth - library.stat().st_size) < 0.1 * library.stat().st_size


@needs_plugin
def test_the_plugin_is_used_where_it_is_found(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    source = export_of(checkpoint_file("tiny"))
    result = export_engine(source, tmp_path / "a.engine", None, replace(PLUGIN, plugin=None))
    assert result.sidecar is not None
    assert result.sidecar.plugin is not None


RECORD = """
import ctypes, json, os, sys
from lit_deploy.exporters import tensorrt_builder
build = tensorrt_builder.build
def recorded(request, say):
    facts = build(request, say)
    library = ctypes.CDLL(request["library"])
    library.lit_deploy_plugin_calls.restype = ctypes.c_int64
    names = ("createPlugin", "configurePlugin", "getOutputShapes", "supportsFormatCombination", "enqueue")
    with open(os.environ["CALLS"], "w") as file:
        json.dump({name: library.lit_deploy_plugin_calls(name.encode()) for name in names}, file)
    return facts
tensorrt_builder.build = recorded
tensorrt_builder.main()
"""


@needs_plugin
def test_the_plugins_own_record(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled library itself tells that the builder made and configured it; nothing was run without a GPU."""
    monkeypatch.setattr(exporter, "COMMAND", (sys.executable, "-c", RECORD))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.json"))
    source = export_of(checkpoint_file("tiny"))
    engine_from_onnx(source.read_bytes(), read_manifest(source), "a.engine", PLUGIN)
    calls = json.loads((tmp_path / "calls.json").read_text())
    for name in ("createPlugin", "configurePlugin", "getOutputShapes"):
        assert calls[name] >= 3, calls
    assert calls["supportsFormatCombination"] > 0
    if find_gpu() is None:
        assert calls["enqueue"] == 0


@needs_plugin
def test_a_function_taken_for_the_plugin_is_refused(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Without its namespace on the nodes the parser takes the function; asked for the plugin, that is no success."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            kept = [entry for entry in node.attribute if entry.name not in ("plugin_namespace", "plugin_version")]
            del node.attribute[:]
            node.attribute.extend(kept)

    path = edited(export_of(checkpoint_file("tiny")), tmp_path / "plain.onnx", change)
    with pytest.raises(ExportError, match="plugin"):
        export_engine(path, tmp_path / "plain.engine", None, PLUGIN)
    assert os.listdir(tmp_path) == ["plain.onnx"]


def test_a_plugin_library_that_is_absent(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter.trt, "installed_version", lambda backend: "1.7.1.116")
    monkeypatch.setenv(native.PLUGIN_VARIABLE, str(tmp_path / "absent.so"))
    source = export_of(checkpoint_file("tiny"))
    model, manifest = source.read_bytes(), read_manifest(source)
    wanted = (PLUGIN, replace(PLUGIN, plugin=None), replace(PLUGIN, plugin=None, embed_plugin=True))
    for options in wanted:  # named, required or embedded: it must be there
        with pytest.raises(MissingDependency, match=r"not found \(searched .*absent\.so\); build it: .*--no-plugin"):
            engine_from_onnx(model, manifest, "a.engine", options)
    portable = replace(manifest, portable=True)
    for options in (PLUGIN, replace(PLUGIN, plugin=None, embed_plugin=True)):
        with pytest.raises(UsageError, match="the file is portable, so it holds no operator that a plugin could comp"):
            engine_from_onnx(model, portable, "a.engine", options)


@needs_rtx
def test_a_library_that_is_no_plugin(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, and a real shared library without a creator: one sentence each, from the builder process."""
    source = export_of(checkpoint_file("tiny"))
    text = tmp_path / "text.so"
    text.write_text("not a library")
    libraries = [text, *filter(None, [native.find_library()])]
    for library in libraries:
        monkeypatch.setenv(native.PLUGIN_VARIABLE, str(library))
        with pytest.raises(UsageError, match=rf"TensorRT cannot load .*{library.name}: it is no plugin library"):
            export_engine(source, tmp_path / "a.engine", None, PLUGIN)
    assert os.listdir(tmp_path) == ["text.so"]
