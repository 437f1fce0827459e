"""Engines that call the compiled plugin, really built with TensorRT-RTX, and plugin libraries that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from support.engines import PLUGIN, TYPES, check_files, engine_of, needs_plugin, needs_rtx, sha256
from support.exported import edited, export_of

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.artifacts.sidecar import read_sidecar
from lit_deploy.core.errors import ExportError, MissingDependency, UsageError
from lit_deploy.exporters import engine_process
from lit_deploy.exporters import tensorrt as exporter
from lit_deploy.exporters.tensorrt import engine_from_onnx
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.cuda import find_gpu
from lit_deploy.workflows.export import export_engine

CheckpointFile = Callable[[str], Path]


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


ATTENTION = """
import sys
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper
tensor, half = helper.make_tensor_value_info, TensorProto.FLOAT16
names = {"plugin_namespace": "lit_deploy", "plugin_version": "1"}
node = helper.make_node(
    "RelativePositionAttention", ["qkv", "table"], ["y"], domain="lit_deploy", num_heads=3, scale=0.25, **names
)
inputs = [tensor("qkv", half, [1, "N", 288]), tensor("table", TensorProto.FLOAT, [3, "R", "C"])]
graph = helper.make_graph([node], "attention", inputs, [tensor("y", half, None)])
opsets = [helper.make_opsetid("", 20), helper.make_opsetid("lit_deploy", 1)]
builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
builder.get_plugin_registry().load_library(sys.argv[1])
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
assert trt.OnnxParser(network, builder.logger).parse(model.SerializeToString())
profile = builder.create_optimization_profile()
profile.set_shape("qkv", (1, 24, 288), (1, 3800, 288), (1, 3800, 288))
profile.set_shape("table", (3, 7, 11), (3, 99, 151), (3, 99, 151))
config = builder.create_builder_config()
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
output = network.get_output(0)
print([network.get_layer(i).type.name for i in range(network.num_layers)], output.dtype.name, tuple(output.shape))
print("built" if engine is not None else "refused")
"""


@needs_plugin
def test_attention_builds_as_a_plugin_over_maps_of_any_size() -> None:
    """Engines are given its products; the plugin is there for those who want the kernel."""
    environment = {**os.environ, **trt.process_environment("tensorrt_rtx")}
    command = [sys.executable, "-c", ATTENTION, str(native.find_plugin())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['PLUGIN_V3'] HALF (1, -1, 96)", "built"], done.stdout + done.stderr


RECORD = """
import ctypes, json, os
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
    monkeypatch.setattr(engine_process, "COMMAND", (sys.executable, "-c", RECORD))
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


@needs_plugin
def test_a_library_named_by_a_relative_path(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare file name is one of this folder; the dynamic linker alone would look for it everywhere else."""
    library = native.find_plugin()
    assert library is not None
    (tmp_path / "renamed.so").symlink_to(library)
    (tmp_path / "copy.so").write_bytes(library.read_bytes())
    monkeypatch.chdir(tmp_path)
    for name in ("copy.so", "./copy.so", "renamed.so"):
        monkeypatch.setenv(native.PLUGIN_VARIABLE, name)
        source = export_of(checkpoint_file("tiny"))
        _, sidecar = engine_from_onnx(source.read_bytes(), read_manifest(source), "a.engine", PLUGIN)
        assert sidecar.plugin is not None
        assert sidecar.plugin.sha256 == sha256(library)
        assert sidecar.plugin.library == (library.name if name == "renamed.so" else "copy.so")
