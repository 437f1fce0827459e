"""Quantisation as a whole: from a checkpoint, or a file, to an 8-bit file that is right and fast; or to none."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.exported import KERNELS, export_of
from support.quantization import (
    INT8,
    CheckpointFile,
    Digits,
    constants,
    converted,
    damaged,
    digits,
    digits_int8,
    faster,
    normalised,
    photos,
    products_in_8_bits,
    scales,
    scratch,
    shown,
    without_measurements,
)

from lit_deploy.artifacts.onnx_file import OnnxArtifact, read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.core.progress import Step
from lit_deploy.core.specs import CalibrationMethod, Quantization
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.images.calibration import calibration_images
from lit_deploy.images.decoding import load_image
from lit_deploy.images.preprocessing import resize_and_crop
from lit_deploy.quantize import run as quantize
from lit_deploy.quantize.run import QuantizeOptions, quantize_file
from lit_deploy.workflows.export import ExportResult, export_checkpoint

__all__ = ["converted", "damaged", "digits", "digits_int8", "faster", "photos", "scratch"]  # fixtures

# ------------------------------------------------------------------------------------------------------------- digits


def test_what_an_int8_file_says_and_holds(digits: Digits, digits_int8: ExportResult) -> None:
    path, manifest = digits_int8.path, digits_int8.manifest
    assert read_manifest(path) == manifest
    assert (manifest.precision, manifest.batch, manifest.output) == ("int8", None, "logits")
    images = calibration_images(digits.calib, manifest.input)
    assert images.count == 48
    assert manifest.quantization == Quantization(
        "minmax", None, 48, str(digits.calib), images.sha256, "fp32", (), 19, agreement=1.0, speedup=1.5
    )
    assert manifest.parity is not None
    assert digits_int8.report is not None
    assert manifest.parity == digits_int8.report.summary()
    assert (manifest.parity["verdict"], digits_int8.report.precision) == ("pass", "int8")
    assert 1e-4 < manifest.parity["relative"] < 0.1, "8 bits leave a trace"
    assert digits_int8.size == path.stat().st_size
    assert digits_int8.size < 0.35 * export_of(digits.checkpoint).stat().st_size
    onnx.checker.check_model(str(path), full_check=True)
    modules = products_in_8_bits(path)
    assert len(modules) == 19
    assert not {"head", "patch_embed.proj"} & set(modules)
    text = shown(digits_int8)
    for word in ("int8 against fp32", "0 of 48 (0.00%)", "1.50x (1.40 to 1.60)", "PASS  48 images of ", "parity"):
        assert word in text, word


@pytest.mark.parametrize("library", KERNELS)
def test_digits_are_still_told(library: bool, digits: Digits, digits_int8: ExportResult) -> None:
    """At most half a point of top-1 is lost on the digits that neither training nor calibration has seen."""
    expected = digits.accuracy(digits.checkpoint)
    assert expected > 99
    found = digits.accuracy(digits_int8.path, SessionOptions(library=library))
    print(f"top-1 of PyTorch {expected:.2f} %, of int8 {found:.2f} %")
    assert found >= expected - 0.5


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_ranges_serve_as_well(
    method: CalibrationMethod, digits: Digits, digits_int8: ExportResult, tmp_path: Path
) -> None:
    source = export_of(digits.checkpoint)
    result = quantize_file(source, tmp_path / "a.onnx", QuantizeOptions(digits.calib, method, percentile=99.9))
    done = result.manifest.quantization
    assert done is not None
    assert (done.method, done.percentile) == (method, 99.9 if method == "percentile" else None)
    assert digits.accuracy(result.path) >= digits.accuracy(source) - 0.5
    narrow, wide = scales(result.path), scales(digits_int8.path)
    assert narrow.keys() == wide.keys()
    assert all(narrow[name] <= wide[name] for name in wide), "nothing is wider than the largest magnitude"
    assert any(narrow[name] < 0.9 * wide[name] for name in wide), "and something is clipped"


def test_the_same_images_give_the_same_file(digits: Digits, digits_int8: ExportResult, tmp_path: Path) -> None:
    """Whether the fp32 file was converted anew or lay there, and whatever the images are stored as."""
    spec = digits_int8.manifest.input
    pixels = np.stack([resize_and_crop(load_image(path), spec) for path in sorted(digits.calib.glob("*/*"))])
    np.savez(tmp_path / "raw.npz", images=pixels[::-1])
    np.savez(tmp_path / "normalised.npz", images=normalised(pixels, spec))
    model, manifest = without_measurements(digits_int8.path)
    for calib in (digits.calib, tmp_path / "raw.npz"):
        again = quantize_file(export_of(digits.checkpoint), tmp_path / "again.onnx", QuantizeOptions(calib))
        other, says = without_measurements(again.path)
        assert other == model, "every node and every constant"
        assert says.quantization is not None
        assert replace(says, quantization=replace(says.quantization, source=str(digits.calib))) == manifest
    again = quantize_file(
        export_of(digits.checkpoint), tmp_path / "again.onnx", QuantizeOptions(tmp_path / "normalised.npz")
    )
    assert scales(again.path) == pytest.approx(scales(digits_int8.path), rel=1e-5)
    np.savez(tmp_path / "raw.npz", images=255 - pixels)
    quantize_file(export_of(digits.checkpoint), tmp_path / "a.onnx", QuantizeOptions(tmp_path / "raw.npz", force=True))
    assert scales(tmp_path / "a.onnx") != pytest.approx(scales(digits_int8.path), rel=0.01), (
        "other images, other ranges"
    )


def test_kept_modules_stay_as_they_are(digits: Digits, digits_int8: ExportResult, tmp_path: Path) -> None:
    keep = ("layers.3", "*.dconv")
    source = export_of(digits.checkpoint)
    result = quantize_file(source, tmp_path / "a.onnx", QuantizeOptions(digits.calib, keep=keep))
    done = result.manifest.quantization
    assert done is not None
    every = products_in_8_bits(digits_int8.path)
    rest = [module for module in every if not (module.startswith("layers.3.") or module.endswith("dconv"))]
    assert products_in_8_bits(result.path) == rest
    assert (done.kept, done.products) == (keep, len(rest))
    before, after = constants(source), constants(result.path)
    for name in ("layers.3.blocks.0.mlp.fc1.weight", "layers.0.downsample.dconv.weight"):
        np.testing.assert_array_equal(after[name], before[name])


# ----------------------------------------------------------------------------------------------------- kinds of files


@pytest.mark.parametrize(
    ("name", "options"),
    [("tiny", OnnxOptions("uint8", "top5", batch=3, portable=True)), ("tiny_ti", OnnxOptions())],
    ids=["pixels in, ranking out, three at a time, portable", "LIT-Ti"],
)
@pytest.mark.usefixtures("converted")
def test_kinds_of_files(
    name: str, options: OnnxOptions, checkpoint_file: CheckpointFile, photos: Path, scratch: Path, tmp_path: Path
) -> None:
    """Ten images, which batches of three do not divide; the file runs without our library and is near its source."""
    result = export_checkpoint(
        checkpoint_file(name), tmp_path / "a.onnx", replace(options, precision="int8"),
        quantize=QuantizeOptions(photos, accuracy_budget=0.5), threads=1,
    )  # fmt: skip
    source = export_of(checkpoint_file(name), **asdict(options))
    manifest, before = read_manifest(result.path), read_manifest(source)
    same = ("model", "input", "output", "batch", "portable", "labels", "layers", "source_sha256")
    assert [getattr(manifest, field) for field in same] == [getattr(before, field) for field in same]
    assert manifest.precision == "int8"
    assert result.gates is not None
    assert (result.gates.images, result.gates.cosine_mean is None) == (10, options.output == "top5")
    assert result.report is not None
    assert result.report.verdict == "pass"
    (feed,) = calibration_images(photos, manifest.input, 4).feeds(4)
    outputs = []
    for path in (result.path, source):
        with open_session(path, SessionOptions(library=False)) as session:
            outputs.append(session.run({"images": feed[:3]}))
    found, expected = outputs
    types = {key: (value.dtype, value.shape) for key, value in expected.items()}
    assert {key: (value.dtype, value.shape) for key, value in found.items()} == types
    key = "scores" if options.output == "top5" else "logits"
    assert 0 < np.abs(found[key] - expected[key]).max() < 0.2 * np.abs(expected[key]).max()


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_copies_that_fill_up_a_batch_do_not_count(
    method: CalibrationMethod, checkpoint_file: CheckpointFile, photos: Path
) -> None:
    options = QuantizeOptions(photos, method, percentile=90)
    found = []
    for batch in (None, 3):  # the last batch of three holds one image and two copies
        path = export_of(checkpoint_file("tiny"), **({} if batch is None else {"batch": batch}))
        images = calibration_images(photos, read_manifest(path).input)
        artifact = quantize.qdq.opened(OnnxArtifact.read(path), "fp8")
        chosen = quantize.qdq.products(artifact, "fp8")
        found.append(quantize.observe(artifact, quantize.qdq.observed(chosen), images, options, 1))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 20
    assert found[1] == pytest.approx(found[0], rel=2e-3)


def test_half_precision_can_be_quantised(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    """The rest stays float16, and the file is measured against the float16 one."""
    source = export_of(checkpoint_file("tiny"), precision="fp16")
    result = quantize_file(source, tmp_path / "a.onnx", QuantizeOptions(photos, accuracy_budget=0.5, force=True))
    done = result.manifest.quantization
    assert done is not None
    assert done.base == "fp16"
    assert done.speedup == result.gates.speedup
    assert result.gates.reference == "fp16"
    assert f"{done.products} in int8, the rest in fp16" in shown(result)
    assert {value.dtype for name, value in constants(result.path).items() if name.endswith("/scale")} == {
        np.dtype(np.float16)
    }


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"method": "mean"}, "calibration method is 'mean', expected minmax, percentile or entropy"),
        ({"percentile": 50}, "percentile is 50, expected more than 50 and at most 100"),
        ({"percentile": float("nan")}, "percentile is nan"),
        ({"accuracy_budget": 1.1}, "the accuracy budget is 110.0000% of the images, expected 0 % to 100 %"),
        ({"accuracy_budget": -0.1}, "the accuracy budget is -10.0000%"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        QuantizeOptions("images", **wrong)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "step", ["load the calibration images", "observe the activations", "insert Q/DQ", " 50 %  int8"]
)
@pytest.mark.usefixtures("converted")
def test_interrupt_leaves_nothing(
    step: str, checkpoint_file: CheckpointFile, photos: Path, scratch: Path, tmp_path: Path
) -> None:
    def stop(reached: Step) -> None:
        if str(reached).startswith(step):
            assert not (tmp_path / "a.onnx").exists(), "only the hidden temporary file is there"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(
            checkpoint_file("tiny"), tmp_path / "a.onnx", INT8, quantize=QuantizeOptions(photos), progress=stop
        )
    assert os.listdir(tmp_path) == ["scratch"]


def test_unreadable_images_are_named_in_the_outcome(
    checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in photos.iterdir():
        (folder / path.name).symlink_to(path)
    for number in range(7):
        (folder / f"broken{number}.jpg").write_text("no image")
    options = QuantizeOptions(folder, accuracy_budget=0.5)
    result = quantize_file(export_of(checkpoint_file("tiny")), tmp_path / "a.onnx", options)
    assert result.gates.images == 10
    names = ", ".join(f"broken{number}.jpg" for number in range(5))
    sentence = f"left out, as they cannot be read as images: {names} and 2 more"
    assert sentence in result.gates.notes
    assert sentence in shown(result)
    assert sentence in quantize.scan_file(export_of(checkpoint_file("tiny")), options).notes
