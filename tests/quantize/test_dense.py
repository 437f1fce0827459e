"""Detectors and segmentation networks in 8 bits: what is stored, what runs on integers, what is counted and refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, numpy_helper
from support.dense import FAMILY_OF, dense_checkpoint, dense_file
from support.dense_quantized import SHORTER, SIZES, DenseInt8, dense_int8, dense_wide, pictures
from support.exported import KERNELS, change_initializer, edited
from support.quantization import FASTER, constants, pretend, shown
from support.quantized import integer_products

from lit_deploy.artifacts.onnx_file import OnnxArtifact, read_manifest, read_onnx
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import GateFailed, UsageError
from lit_deploy.exporters import qdq
from lit_deploy.exporters.options import OnnxOptions
from lit_deploy.images.folders import images_in
from lit_deploy.models.families import FAMILIES
from lit_deploy.quantize import gates
from lit_deploy.quantize.feeding import images_of
from lit_deploy.quantize.gates import CountedGateResult, check_gates
from lit_deploy.quantize.run import QuantizeOptions, quantize_file, scan_file
from lit_deploy.report.terminal import as_json
from lit_deploy.tasks.table import task_of
from lit_deploy.workflows import export as export_module
from lit_deploy.workflows.export import export_checkpoint

__all__ = ["dense_checkpoint", "dense_file", "dense_int8", "dense_wide", "pictures"]  # fixtures

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install 'lit-deploy[ort]'")

Wide = Callable[[str], Path]
tasks = pytest.mark.parametrize("task", FAMILY_OF)
VICTIM = {
    "detection": "bbox_head.cls_convs.3.conv",
    "instance_segmentation": "roi_head.bbox_head.shared_fcs.1",
    "semantic_segmentation": "decode_head.scale_heads.0.0.conv",
}
"""A module of every head through which all that is found must pass."""


def convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Convolutions whose weight has a name of its own module: not those inside operators."""
    return [node for node in graph.node if node.op_type == "Conv" and node.input[1].endswith(".weight")]


# ----------------------------------------------------------------------------------------------------- what is stored


@tasks
def test_weights_of_neck_and_head_are_stored_in_8_bits(task: str, dense_int8: DenseInt8, dense_wide: Wide) -> None:
    """Once each, whatever the number of levels they run on, with a scale per output channel; last layers stay."""
    result = dense_int8(task)
    never = FAMILIES[result.manifest.model.family].unquantised
    before, after = constants(dense_wide(task)), constants(result.path)
    modules = {node.input[1].removesuffix(".weight") for node in convolutions(read_onnx(dense_wide(task)).graph)}
    assert any(module in never for module in modules), "one of the last layers is a convolution"
    for module in modules:
        weight = before[f"{module}.weight"]
        if module in never:
            np.testing.assert_array_equal(after[f"{module}.weight"], weight)
            continue
        assert f"{module}.weight" not in after
        stored, scale = after[f"{module}.weight/quantized"], after[f"{module}.weight/scale"]
        assert (stored.dtype, stored.shape, scale.shape) == (np.int8, weight.shape, weight.shape[:1])
        error = np.abs(stored * scale.reshape(-1, 1, 1, 1) - weight)
        assert (error <= 0.51 * scale.reshape(-1, 1, 1, 1)).all()
        np.testing.assert_array_equal(after[f"{module}.bias"], before[f"{module}.bias"])
    done = result.manifest.quantization
    assert done is not None
    assert (done.images, done.base, done.method) == (len(SIZES), "fp32", "minmax")
    assert done.agreement == result.gates.agreement
    assert result.size < 0.8 * dense_wide(task).stat().st_size


def test_levels_have_ranges_of_their_own(dense_int8: DenseInt8) -> None:
    values = constants(dense_int8("detection").path)
    levels = ["neck.fpn_convs." + str(level) for level in range(5)]
    assert len({float(values[f"{level}/scale"]) for level in levels}) == 5
    assert {int(values[f"{level}/zero_point"]) for level in levels} == {128}, "signed: the same steps either side of 0"
    towers = [f"bbox_head.cls_convs.0{suffix}" for suffix in ("", "@1", "@2", "@3", "@4")]
    assert {int(values[f"{tower}/zero_point"]) for tower in towers} == {0}, "what a ReLU leaves is not negative"


@tasks
def test_convolutions_and_products_run_on_integers(task: str, dense_int8: DenseInt8, tmp_path: Path) -> None:
    """By ONNX Runtime's own account, as the file stands and with its functions inlined, as a portable file has them."""
    result = dense_int8(task)
    model = read_onnx(result.path)
    chosen = Counter(node.op_type for node in model.graph.node if node.name in eight_bit_nodes(model))
    inlined = onnx.inliner.inline_local_functions(model)
    for form in (model, inlined):
        onnx.save(form, str(tmp_path / "form.onnx"))
        kinds = integer_products(tmp_path / "form.onnx", tmp_path)
        assert (kinds["QLinearConv"], kinds["MatMulIntegerToFloat"]) == (chosen["Conv"], chosen["MatMul"])
    assert min(chosen["Conv"], chosen["MatMul"]) > 10


def eight_bit_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that read an 8-bit weight, told from the graph."""
    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8}
    wide = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    return {node.name for node in model.graph.node if not wide.isdisjoint(node.input)}


def test_operators_that_are_inlined_stay_as_they_are(dense_wide: Wide) -> None:
    """The merging convolves for its offsets, which nobody rounds."""
    artifact = OnnxArtifact.read(dense_wide("detection"))
    inlined = replace(artifact, graph=onnx.inliner.inline_local_functions(artifact.graph))
    assert len([node for node in inlined.graph.graph.node if node.op_type == "Conv"]) > len(
        convolutions(inlined.graph.graph)
    )
    assert qdq.products(inlined, "int8") == qdq.products(artifact, "int8")


@pytest.mark.parametrize("library", KERNELS)
@tasks
def test_it_runs_and_finds_nearly_the_same(
    task: str, library: bool, dense_int8: DenseInt8, dense_wide: Wide, pictures: Path
) -> None:
    found = []
    for path in (dense_int8(task).path, dense_wide(task)):
        with open_session(path, SessionOptions(threads=1, library=library)) as session:
            manifest, its = session.manifest, task_of(session.manifest)
            outputs = [session.run(its.feed([picture], manifest)) for picture in prepared(path, pictures)]
        parts = [its.findings(each, manifest, 1) for each in outputs]
        found.append(parts[0].joined(parts[1:]))
    change = found[0].change(found[1])
    assert change.total > 0
    assert change.share <= 0.5
    assert change.broken == 0


def prepared(path: Path, pictures: Path) -> list[Any]:
    manifest = read_manifest(path)
    files = [file for file in images_in(pictures) if file.suffix == ".png"]
    return task_of(manifest).pictures(files, manifest)


# ------------------------------------------------------------------------------------------------------------- gates


@tasks
def test_what_the_gates_say(task: str, dense_int8: DenseInt8) -> None:
    result = dense_int8(task).gates
    assert isinstance(result, CountedGateResult)
    assert (result.images, result.cosine_min, result.reasons) == (len(SIZES), None, ())
    assert result.notes == ("left out, as they cannot be read as images: 2b.jpg",)
    assert result.agreement == pytest.approx(1 - result.differing / result.total)
    counted = "pixels" if task == "semantic_segmentation" else "detections"
    assert result.counted == counted
    if counted == "pixels":
        assert result.total == sum(height * width for height, width in SIZES)
    assert f'"counted": "{counted}"' in as_json(result)
    text = shown(dense_int8(task))
    assert f"{counted} " in text
    assert f"{result.differing} of {result.total} ({result.differing / result.total:.2%})" in text
    assert "top-1" not in text


@tasks
def test_one_wrong_scale_fails(
    task: str, dense_int8: DenseInt8, dense_wide: Wide, pictures: Path, tmp_path: Path
) -> None:
    """What leaves one module is clipped to next to nothing."""
    result, wide = dense_int8(task), dense_wide(task)
    artifact = OnnxArtifact.read(wide)
    victims = [product for product in qdq.products(artifact, "int8") if product.module == VICTIM[task]]
    assert victims

    def change(model: onnx.ModelProto) -> None:
        for victim in victims:
            change_initializer(model, f"{victim.activations[0]}/scale", lambda scale: scale / 1000)

    wrong = edited(result.path, tmp_path / "wrong.onnx", change)
    images = images_of(pictures, result.manifest, 128)
    told = check_gates(wrong, wide, images, budget=result.gates.differing / result.gates.of, threads=1, unmeasured="-")
    assert told.differing > result.gates.differing
    (reason,) = told.reasons
    assert reason.startswith(f"{told.differing} of {told.of} ")
    assert reason.endswith(f"the budget is {told.budget:.2%}")
    assert "images" not in reason


def test_outputs_that_are_not_finite_never_agree(
    dense_int8: DenseInt8, dense_wide: Wide, pictures: Path, tmp_path: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "bbox_head.retina_reg.bias", lambda value: np.full_like(value, np.nan))

    broken = edited(dense_int8("detection").path, tmp_path / "broken.onnx", change)
    images = images_of(pictures, read_manifest(broken), 128)
    result = check_gates(broken, dense_wide("detection"), images, threads=1, unmeasured="-", budget=0.9)
    assert result.differing == result.of
    assert any("have no counterpart" in reason for reason in result.reasons)


def test_over_the_budget_nothing_is_written(dense_wide: Wide, pictures: Path, tmp_path: Path) -> None:
    """The advice names no scan, which there is none of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates, "measure_speed", pretend(FASTER))
        patch.setattr(gates, "within", lambda *arguments: False)
        patch.setattr("lit_deploy.quantize.run.within", lambda *arguments: False)
        options = QuantizeOptions(pictures, limit=4, accuracy_budget=0.0)
        with pytest.raises(
            GateFailed, match=r"pixels have another label than from fp32 .* or --keep modules"
        ) as caught:
            quantize_file(dense_wide("semantic_segmentation"), tmp_path / "a.onnx", options, threads=1)
    assert "--scan" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_speed_is_measured_with_a_picture_of_their_size(
    dense_int8: DenseInt8, dense_wide: Wide, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "ROUNDS", (2, 2))
    monkeypatch.setattr(gates, "TURN_SECONDS", 0.01)
    sizes = []

    def run_bench(*arguments: Any, **options: Any) -> Any:
        sizes.append(options["size"])
        return real(*arguments, **options)

    real = gates.run_bench
    monkeypatch.setattr(gates, "run_bench", run_bench)
    result = dense_int8("detection")
    images = images_of(pictures, result.manifest, 4)
    speed = check_gates(result.path, dense_wide("detection"), images, budget=0.5, threads=1).speed
    assert speed is not None
    assert (speed.batch, speed.threads) == (1, 1)
    assert min(speed.milliseconds, speed.reference_milliseconds) > 0, "both were run"
    assert sizes[0] in {picture.pixels.shape[:2] for batch in images.feeds(1) for picture in batch}


# ------------------------------------------------------------------------------------------- from checkpoints, refusals


def test_a_checkpoint_becomes_int8(
    dense_checkpoint: Wide, dense_wide: Wide, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the export workflow, with the check against PyTorch; only the conversion comes from the shared file."""
    monkeypatch.setattr(gates, "measure_speed", pretend(FASTER))
    monkeypatch.setattr(export_module, "onnx_from_checkpoint", lambda *rest: OnnxArtifact.read(dense_wide("detection")))
    options = OnnxOptions(precision="int8", resize=SHORTER)
    result = export_checkpoint(
        dense_checkpoint("detection"), tmp_path / "a.onnx", options, threads=1,
        quantize=QuantizeOptions(pictures, accuracy_budget=0.5),
    )  # fmt: skip
    assert result.report is not None
    assert (result.report.precision, result.report.verdict) == ("int8", "pass")
    manifest = read_manifest(result.path)
    assert manifest.precision == "int8"
    assert manifest.quantization is not None
    assert manifest.quantization.speedup == FASTER.speedup
    text = shown(result)
    assert "PASS" in text
    assert "detections without a counterpart" in text


def test_what_is_refused(dense_checkpoint: Wide, dense_wide: Wide, pictures: Path, tmp_path: Path) -> None:
    source, options = dense_wide("detection"), QuantizeOptions(pictures)
    np.savez(tmp_path / "arrays.npz", images=np.zeros((8, 96, 144, 3), np.uint8))
    with pytest.raises(UsageError, match=r"^fp8 is for engines, and there is none of a network for detection yet; use"):
        quantize_file(source, tmp_path / "a.onnx", options, "fp8")
    with pytest.raises(UsageError, match=r"^fp8 is for engines"):
        export_checkpoint(
            dense_checkpoint("detection"), tmp_path / "a.onnx", OnnxOptions(precision="fp8"), quantize=options
        )
    with pytest.raises(UsageError, match=r"is for detection, but a scan ranks the modules of classifiers; .*--keep"):
        scan_file(source, options)
    with pytest.raises(UsageError, match=r"arrays\.npz holds arrays of one size, expected a folder of images: this"):
        quantize_file(source, tmp_path / "a.onnx", replace(options, calib=tmp_path / "arrays.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["arrays.npz"]


def test_kept_modules_stay_as_they_are(dense_wide: Wide) -> None:
    """Among them heads, necks and single convolutions."""
    artifact = OnnxArtifact.read(dense_wide("detection"))
    every = [product.module for product in qdq.products(artifact, "int8")]
    for pattern in ("neck", "bbox_head.*", "*.cls_convs.0.conv"):
        left = [product.module for product in qdq.products(artifact, "int8", [pattern])]
        assert 0 < len(left) < len(every)
    with pytest.raises(UsageError, match=r"nothing that could be quantised is named 'bbox_head\.retina_cls'"):
        qdq.products(artifact, "int8", ["bbox_head.retina_cls"])


def test_a_kept_convolution_reads_what_others_rounded(dense_wide: Wide) -> None:
    artifact = OnnxArtifact.read(dense_wide("detection"))
    chosen = qdq.products(artifact, "int8", ["bbox_head.cls_convs.0"])
    graph = qdq.quantized(artifact.graph, "int8", dict.fromkeys(qdq.observed(chosen), 3.0), chosen)
    onnx.checker.check_model(graph, full_check=True)
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    (kept,) = [node for node in graph.graph.node if node.name == "bbox_head.cls_convs.0.conv/Conv"]
    assert kept.input[0] == "neck.fpn_convs.0/dequantized"
    assert numpy_helper.to_array(tensors[kept.input[1]]).dtype == np.float32
