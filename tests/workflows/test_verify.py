"""Verification: it passes what is right, catches every planted fault, and refuses what it could not have noticed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from support.exported import KERNELS, change_initializer, edited, export_of
from support.golden import TINY, TINY_TI

from lit_deploy.artifacts.onnx_file import manifest_of, metadata_of, read_manifest, set_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint, synthetic_image
from lit_deploy.core.errors import ArtifactError, ImageError, UsageError
from lit_deploy.core.specs import TOLERANCES
from lit_deploy.images.preprocessing import normalize
from lit_deploy.models.layout import state_entries
from lit_deploy.tasks.classification.agreement import MAX_RESIDUAL, _residual
from lit_deploy.workflows.export import export_checkpoint
from lit_deploy.workflows.verify import ParityFailed, verify_artifact

Array = NDArray[Any]
CheckpointFile = Callable[[str], Path]
Change = Callable[[onnx.ModelProto], None]
SPECS = {"tiny": TINY, "tiny_ti": TINY_TI}


# ------------------------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_good_files_pass(name: str, precision: str, library: bool, checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file(name)
    path = export_of(checkpoint) if precision == "fp32" else export_of(checkpoint, precision=precision)
    report = verify_artifact(path, checkpoint, layers=True, options=SessionOptions(library=library))
    assert (report.verdict, report.reasons, report.first_departure) == ("pass", (), None)
    assert {metric.key: metric.value for metric in report.metrics if metric.key.startswith("top")} == {
        "top1": 1,
        "top5": 1,
    }
    assert report.tolerance is TOLERANCES[precision]
    assert report.output.name == "logits"
    assert 0 < report.output.relative <= TOLERANCES[precision].relative
    if precision == "fp16":
        assert report.output.relative > 1e-5, "half precision that costs nothing is no half precision"
    assert report.images == 8
    assert report.offset_std > 0.05
    assert [layer.name for layer in report.layers] == list(read_manifest(path).layers)
    assert report.tested.startswith("ONNX Runtime")
    assert report.reference.startswith("PyTorch")


@pytest.mark.parametrize("output", ["probabilities", "top5"])
def test_other_outputs_pass(output: str, checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file("tiny")
    report = verify_artifact(export_of(checkpoint, output=output), checkpoint)
    assert report.verdict == "pass", report.reasons
    assert report.output.name == {"probabilities": "log(probabilities)", "top5": "log(scores)"}[output]
    assert report.layers == ()


@pytest.mark.parametrize("batch", [1, 3])
def test_fixed_batches_pass(batch: int, checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file("tiny")
    report = verify_artifact(export_of(checkpoint, batch=batch), checkpoint)
    assert report.verdict == "pass", report.reasons
    assert report.images == 8, "the last batch is filled up, and what fills it is not counted"


def test_checkpoint_against_itself(checkpoint_file: CheckpointFile) -> None:
    report = verify_artifact(checkpoint_file("tiny"), checkpoint_file("tiny"), layers=True)
    assert report.verdict == "pass"
    assert report.output.max_abs == 0


def test_images_of_a_directory(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    checkpoint = checkpoint_file("tiny")
    for index in range(5):
        Image.fromarray(synthetic_image(3, f"file:{index}", 70 + index, 90)).save(tmp_path / f"{index}.png")
    report = verify_artifact(export_of(checkpoint), checkpoint, images=tmp_path, limit=4)
    assert (report.verdict, report.images, report.source) == ("pass", 4, f"{tmp_path} (4 of 5)")
    report = verify_artifact(export_of(checkpoint, batch=3), checkpoint, images=tmp_path)
    assert (report.verdict, report.images, report.source) == ("pass", 5, str(tmp_path))
    report = verify_artifact(export_of(checkpoint, batch=3), checkpoint, images=tmp_path, limit=2)
    assert (report.verdict, report.images) == ("pass", 2), "fewer images than the file's batch"
    with pytest.raises(ImageError, match="does not exist"):
        verify_artifact(export_of(checkpoint), checkpoint, images=tmp_path / "absent")


# ----------------------------------------------------------------------------------------------- what must not pass


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_fails(value: float, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """NaN compares as false with every limit: it must fail nevertheless."""
    checkpoint = checkpoint_file("tiny")

    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda bias: np.where(np.arange(7) == 3, value, bias))

    path = edited(export_of(checkpoint), tmp_path / "nan.onnx", change)
    report = verify_artifact(path, checkpoint, layers=True)
    assert report.verdict == "fail"
    assert report.first_departure is None, "the layers are all right, the classifier is not"
    assert not report.output.relative <= 1e9


def test_not_finite_in_the_middle(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    checkpoint = checkpoint_file("tiny")

    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "layers.1.blocks.0.mlp.fc1.bias", lambda bias: np.full_like(bias, np.nan))

    report = verify_artifact(edited(export_of(checkpoint), tmp_path / "nan.onnx", change), checkpoint, layers=True)
    assert (report.verdict, report.first_departure) == ("fail", "layers.1.blocks.0")


def test_swapped_classes_fail(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """top5 that names the right scores but other classes."""
    checkpoint = checkpoint_file("tiny")

    def change(model: onnx.ModelProto) -> None:
        order = [1, 0, 2, 3, 4, 6, 5]
        change_initializer(model, "head.weight", lambda value: value[:, order])
        change_initializer(model, "head.bias", lambda value: value[order])

    report = verify_artifact(edited(export_of(checkpoint, output="top5"), tmp_path / "a.onnx", change), checkpoint)
    assert report.verdict == "fail"


# ------------------------------------------------------------------------------------------ what it could not notice


def rebuilt(name: str, folder: Path, checkpoint_file: CheckpointFile, zero: Callable[[str], bool]) -> tuple[Path, Path]:
    """A checkpoint whose tensors that ``zero`` names are 0, and the file that exporting it would give."""
    checkpoint = folder / f"{name}.pth"
    state = {key: np.zeros_like(value) if zero(key) else value for key, value in make_state(SPECS[name]).items()}
    save_checkpoint(state, checkpoint)

    def change(model: onnx.ModelProto) -> None:
        for entry in [entry for entry in model.graph.initializer if zero(entry.name)]:
            change_initializer(model, entry.name, np.zeros_like)
        set_manifest(
            model, replace(manifest_of(metadata_of(model), folder), source_sha256=load_checkpoint(checkpoint).sha256)
        )

    return checkpoint, edited(export_of(checkpoint_file(name)), folder / f"{name}.onnx", change)


@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_zero_offsets_are_inconclusive(name: str, tmp_path: Path, checkpoint_file: CheckpointFile) -> None:
    """A freshly initialised network samples its own patches: swapped axes would change nothing."""
    checkpoint, path = rebuilt(name, tmp_path, checkpoint_file, lambda key: "conv_offset" in key)
    report = verify_artifact(path, checkpoint)
    assert report.verdict == "inconclusive"
    assert report.offset_std == 0
    assert any(
        "from a wrong merging it could not be told; train it, or export with --no-verify" in reason
        for reason in report.reasons
    )


def test_zero_offsets_are_not_exported(tmp_path: Path) -> None:
    state = make_state(TINY)
    save_checkpoint({k: np.zeros_like(v) if "conv_offset" in k else v for k, v in state.items()}, tmp_path / "zero.pth")
    with pytest.raises(ParityFailed, match="offsets") as caught:
        export_checkpoint(tmp_path / "zero.pth", tmp_path / "zero.onnx")
    assert caught.value.report.verdict == "inconclusive"
    assert not (tmp_path / "zero.onnx").exists()


def test_output_that_ignores_the_input_is_inconclusive(tmp_path: Path, checkpoint_file: CheckpointFile) -> None:
    checkpoint, path = rebuilt("tiny", tmp_path, checkpoint_file, lambda key: key == "head.weight")
    report = verify_artifact(path, checkpoint)
    assert report.verdict == "inconclusive"
    assert any("hardly depends on the input" in reason for reason in report.reasons)


def test_a_fault_beats_doubt(tmp_path: Path, checkpoint_file: CheckpointFile) -> None:
    """Zero offsets and wrong numbers: fail, not inconclusive."""
    checkpoint, path = rebuilt("tiny", tmp_path, checkpoint_file, lambda key: "conv_offset" in key)
    edited(path, path, lambda model: change_initializer(model, "head.bias", lambda bias: bias + 1))
    assert verify_artifact(path, checkpoint).verdict == "fail"


def test_one_image_only(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """A directory of one image, or of equal ones, cannot show that the output depends on the input."""
    checkpoint = checkpoint_file("tiny")
    for index in range(2):
        Image.fromarray(synthetic_image(3, "same", 70, 90)).save(tmp_path / f"{index}.png")
        report = verify_artifact(export_of(checkpoint), checkpoint, images=tmp_path)
        assert report.verdict == "inconclusive", f"{index + 1} image(s)"


# ------------------------------------------------------------------------------------------------- refusals, reports


def test_wrong_checkpoint(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    save_checkpoint(make_state(TINY, seed=1), tmp_path / "other.pth")
    with pytest.raises(UsageError, match="name the original checkpoint") as caught:
        verify_artifact(export_of(checkpoint_file("tiny")), tmp_path / "other.pth")
    assert load_checkpoint(checkpoint_file("tiny")).sha256[:12] in str(caught.value)


def test_unusable_files(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a file"):
        verify_artifact(tmp_path / "absent.onnx", checkpoint_file("tiny"))


def test_report_is_plain_and_frozen(checkpoint_file: CheckpointFile) -> None:
    report = verify_artifact(export_of(checkpoint_file("tiny")), checkpoint_file("tiny"), layers=True)
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["verdict"] == "pass"
    assert all(math.isfinite(value) for value in report.summary().values() if isinstance(value, float))
    with pytest.raises(AttributeError):
        report.verdict = "pass"  # type: ignore[misc]


def test_faulty_report_is_strict_json(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Infinite errors have no place in JSON: readers in other languages refuse NaN and Infinity."""
    from lit_deploy.report.terminal import as_json

    checkpoint = checkpoint_file("tiny")
    path = edited(
        export_of(checkpoint), tmp_path / "nan.onnx",
        lambda model: change_initializer(model, "norm.bias", lambda bias: np.full_like(bias, np.nan)),
    )  # fmt: skip

    def refuse(token: str) -> None:
        pytest.fail(f"{token} is no JSON")

    report = verify_artifact(path, checkpoint, layers=True)
    parsed = json.loads(as_json(report), parse_constant=refuse)
    assert parsed["verdict"] == "fail"


def test_offsets_are_those_of_the_network(checkpoint_file: CheckpointFile) -> None:
    """offset_std is measured on the network's own offset branches, in pixels."""
    checkpoint = checkpoint_file("tiny")
    report = verify_artifact(export_of(checkpoint), checkpoint)
    with open_session(checkpoint, SessionOptions(layers=True)) as session, torch.inference_mode():
        pixels = np.stack([synthetic_image(2105, f"verify:{i}", 64, 64) for i in range(8)])
        layers = session.run({"images": normalize(pixels, session.manifest.input)})
    stds = [value.std(axis=(0, 2, 3)).max() for name, value in layers.items() if name.endswith("conv_offset")]
    assert len(stds) == 3
    assert report.offset_std == pytest.approx(min(stds), rel=1e-4)


def test_weights_of_the_file_are_the_checkpoints(checkpoint_file: CheckpointFile) -> None:
    """The faults above change values that were right before: a weight of the file is that of the checkpoint."""
    state = make_state(TINY)
    assert set(state) == set(state_entries(TINY))
    model = onnx.load(str(export_of(checkpoint_file("tiny"))))
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    assert np.array_equal(arrays["head.weight"].T, state["head.weight"])
    name = "layers.2.blocks.0.attn.relative_position_bias_table"
    rows, columns = (2 * side - 1 for side in TINY.map_sizes[2])
    assert np.array_equal(arrays[name], state[name].T.reshape(-1, rows, columns))


def test_residual_tells_who_follows_the_image() -> None:
    """On logits that images change by a hundredth only: 8-bit noise passes, whoever ignores the image does not."""
    generator = np.random.default_rng(7)
    scores = generator.standard_normal(50) + 0.01 * generator.standard_normal((8, 50))
    mean, every = scores.mean(axis=0), np.broadcast_to(np.arange(50), scores.shape)
    assert _residual(scores, scores + 0.003 * generator.standard_normal(scores.shape), every) < MAX_RESIDUAL / 2
    for constant in (mean, scores[0], np.zeros(50)):
        assert _residual(scores, np.broadcast_to(constant, scores.shape), every) > 1 - 1e-9
    for strength in (-1.0, 0.01, 0.2, 2.0):
        assert _residual(scores, mean + strength * (scores - mean), every) > MAX_RESIDUAL
    assert _residual(scores, scores[::-1], every) > 1, "images in another order"
    best = np.argsort(-scores, axis=1)[:, :5]
    assert _residual(scores, np.take_along_axis(scores, best, axis=1), best) < 1e-9
    same = np.broadcast_to(best[0], best.shape)
    assert _residual(scores, mean[same], same) > 1 - 1e-9
    assert _residual(scores, np.full_like(scores, np.nan), every) == np.inf
