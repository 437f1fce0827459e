"""Other people's ONNX tools on our files: which keep the kernels, which the functions, and what is said of a loss.

What they leave is written down in docs/tools.md; a tool that changes its ways fails here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from support.command import Run, assert_one_sentence
from support.dense import DenseFile
from support.exported import export_of, needs_library

from lit_deploy.artifacts.inlining import inlined
from lit_deploy.artifacts.manifest import MANIFEST_KEY
from lit_deploy.artifacts.onnx_file import OnnxArtifact, changed_by_others, metadata_of
from lit_deploy.machine.native import find_library
from lit_deploy.ops.domain import DOMAIN

CheckpointFile = Callable[[str], Path]
Tool = Callable[[Path, Path], object]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of these tools leave files in the current folder."""
    monkeypatch.chdir(tmp_path)


def session(path: Path, library: bool, settings: ort.SessionOptions | None = None) -> ort.InferenceSession:
    settings = settings or ort.SessionOptions()
    settings.log_severity_level = 4
    if library:
        settings.register_custom_ops_library(str(find_library()))
    return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def logits(path: Path, library: bool) -> NDArray[Any]:
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    found: NDArray[Any] = session(path, library).run(["logits"], {"images": images})[0]
    return found


# ----------------------------------------------------------------------------------------------------------- the tools


def onnxslim(source: Path, target: Path) -> None:
    tool = pytest.importorskip("onnxslim", reason="the package onnxslim is not installed")
    with contextlib.redirect_stdout(io.StringIO()):
        tool.slim(str(source), str(target))


def onnxsim(source: Path, target: Path) -> None:
    tool = pytest.importorskip("onnxsim", reason="the package onnxsim is not installed")
    model, equal = tool.simplify(onnx.load(str(source)))
    assert equal
    onnx.save(model, str(target))


def optimiser(source: Path, target: Path, library: bool = False) -> None:
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(target)
    session(source, library, settings)


def optimiser_with_library(source: Path, target: Path) -> None:
    optimiser(source, target, library=True)


def quant_pre_process(source: Path, target: Path) -> None:
    tool = pytest.importorskip("onnxruntime.quantization.shape_inference")
    tool.quant_pre_process(str(source), str(target))


def quantize_dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(source), str(target))


def extract_model(source: Path, target: Path) -> None:
    onnx.utils.extract_model(str(source), str(target), ["images"], ["logits"])


def version_converter(source: Path, target: Path) -> None:
    onnx.save(onnx.version_converter.convert_version(onnx.load(str(source)), 22), str(target))


def _to_float16(package: str, source: Path, target: Path, **options: Any) -> None:
    tool = pytest.importorskip(package, reason=f"the package {package.partition('.')[0]} is not installed")
    with contextlib.redirect_stdout(io.StringIO()):
        model = tool.convert_float_to_float16(onnx.load(str(source)), keep_io_types=True, **options)
    onnx.save(model, str(target))


def float16(source: Path, target: Path) -> None:
    _to_float16("onnxruntime.transformers.float16", source, target)


def float16_but_attention(source: Path, target: Path) -> None:
    tool = pytest.importorskip("onnxruntime.transformers.float16")
    kept = [*tool.DEFAULT_OP_BLOCK_LIST, "RelativePositionAttention"]
    _to_float16("onnxruntime.transformers.float16", source, target, op_block_list=kept)


def onnxconverter_common(source: Path, target: Path) -> None:
    _to_float16("onnxconverter_common.float16", source, target)


HALF, EIGHT_BITS = 2e-2, 0.2
"""Largest error over the largest logit: of float16 in everything, and of weights and activations of 8 bits."""

TOOLS: dict[str, tuple[Tool, float, str]] = {
    # tool: largest relative error, and what of the ordinary file runs afterwards: the kernel, the function
    "onnxslim": (onnxslim, 1e-6, "kernel and function"),
    "onnxsim": (onnxsim, 1e-5, "kernel and function"),
    "optimiser": (optimiser, 1e-6, "function"),
    "optimiser with the library": (optimiser_with_library, 1e-6, "kernel"),
    "quant_pre_process": (quant_pre_process, 1e-6, "function"),
    "quantize_dynamic": (quantize_dynamic, EIGHT_BITS, "kernel and function"),
    "extract_model": (extract_model, 1e-6, "kernel and function"),
    "version_converter": (version_converter, 1e-6, "kernel"),
    "float16": (float16, HALF, "function"),
    "float16 but attention": (float16_but_attention, HALF, "kernel and function"),
    "onnxconverter-common": (onnxconverter_common, HALF, "function"),
}
each_tool = pytest.mark.parametrize("name", TOOLS)
each_network = pytest.mark.parametrize("network", ["tiny", "tiny_ti"])


def assert_near(found: NDArray[Any], wanted: NDArray[Any], limit: float) -> None:
    assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max()


@needs_library
@each_network
@each_tool
def test_ordinary_file(name: str, network: str, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """What runs the kernel still calls it; what runs without the library computes the same."""
    tool, limit, runs = TOOLS[name]
    source, target = export_of(checkpoint_file(network)), tmp_path / "changed.onnx"
    tool(source, target)
    model = onnx.load(str(target))
    calls = sum(node.domain == DOMAIN for node in model.graph.node)
    for what, library in (("kernel", True), ("function", False)):
        if what in runs:
            assert_near(logits(target, library), logits(source, library), limit)
    assert (calls > 0) == ("kernel" in runs or name in ("float16", "onnxconverter-common"))
    if "function" not in runs:
        with pytest.raises(Exception, match="not a registered function"):
            session(target, library=False)


@each_network
@pytest.mark.parametrize("name", [name for name in TOOLS if name != "optimiser with the library"])
def test_portable_file(name: str, network: str, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Every tool takes it, and what it writes runs anywhere."""
    tool, limit, _ = TOOLS[name]
    source, target = export_of(checkpoint_file(network), portable=True), tmp_path / "changed.onnx"
    tool(source, target)
    assert_near(logits(target, False), logits(source, False), limit)
    manifest = metadata_of(onnx.load(str(target))).get(MANIFEST_KEY)
    assert (manifest is None) == (name == "extract_model"), "which drops all metadata"


def test_no_node_without_a_name_and_no_constant_but_tensors(dense_file: DenseFile) -> None:
    """Of the largest graph that there is, with its functions and loops; and inlined, no constant at all."""
    model = onnx.load(str(dense_file("instance_segmentation")))
    flat = inlined(model)
    assert not [node.name for node in flat.graph.node if node.op_type == "Constant"]
    for nodes in (model.graph.node, flat.graph.node, *(function.node for function in model.functions)):
        found = list(nested(nodes))
        names = [node.name for node in found]
        assert all(names)
        assert len(set(names)) == len(names)
        for constant in (node.attribute[0] for node in found if node.op_type == "Constant"):
            assert constant.name == "value" or constant.ref_attr_name


def nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from nested(attribute.g.node)


# ------------------------------------------------------------------------------------------------- what is said of it


@pytest.fixture
def lost(checkpoint_file: CheckpointFile, tmp_path: Path) -> Path:
    """A file whose functions a tool has dropped."""
    version_converter(export_of(checkpoint_file("tiny")), tmp_path / "lost.onnx")
    return tmp_path / "lost.onnx"


@needs_library
def test_a_lost_fallback_is_told(run: Run, lost: Path, checkpoint_file: CheckpointFile) -> None:
    words = "dropped the functions of DeformableTokenMerging and RelativePositionAttention"
    assert words in " ".join(run("inspect", lost).out.replace("│", " ").split())
    passed = run("verify", lost, "--ckpt", checkpoint_file("tiny"))
    assert passed.code == 0
    assert "PASS" in passed.out
    assert words in " ".join(passed.out.split())
    refused = run("verify", lost, "--ckpt", checkpoint_file("tiny"), "--no-library")
    assert_one_sentence(refused, str(lost), words, "export the checkpoint again")


def test_openvino_without_the_extension_says_so_too(run: Run, lost: Path, checkpoint_file: CheckpointFile) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    options = ("--backend", "openvino", "--no-library")
    assert_one_sentence(run("verify", lost, "--ckpt", checkpoint_file("tiny"), *options), "dropped the functions of")


def test_lost_kernels_are_told(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    optimiser(export_of(checkpoint_file("tiny")), tmp_path / "fast.onnx")
    assert "kernels of the lit-deploy library do not run" in changed_by_others(
        OnnxArtifact.read(tmp_path / "fast.onnx")
    )


@pytest.mark.parametrize("portable", [False, True])
def test_nothing_is_said_of_our_own(portable: bool, checkpoint_file: CheckpointFile) -> None:
    assert changed_by_others(OnnxArtifact.read(export_of(checkpoint_file("tiny"), portable=portable))) == ""
