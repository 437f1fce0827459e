"""Files whose output is the vector before the head: their numbers, and what such a file is no use for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.command import Run
from support.exported import change_initializer, edited, export_of

import lit_deploy
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.bench.contenders import contenders_for
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.specs import TOLERANCES, TensorSpec
from lit_deploy.models.build import build
from lit_deploy.tasks import classification
from lit_deploy.tasks.classification.features import agreement
from lit_deploy.workflows.verify import verify_artifact

CheckpointFile = Callable[[str], Path]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        Image.fromarray(synthetic_image(4, f"features:{index}", 70, 90)).save(path)
    return paths


def before_the_head(checkpoint: Path, file: Path, photos: list[Path]) -> np.ndarray:
    """What the head of the PyTorch network is given for the same pictures."""
    loaded, seen = load_checkpoint(checkpoint), []
    model = build(loaded.spec, loaded.state)
    model.get_submodule("head").register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    manifest = classification.reference(read_manifest(file))
    images = classification.feed(classification.pictures(photos, manifest), manifest)["images"]
    with torch.no_grad():
        model(torch.from_numpy(images))
    return seen[0].numpy()


@pytest.mark.parametrize(
    ("name", "backend", "options"),
    [("tiny", "onnxruntime", {}), ("tiny_ti", "openvino", {"portable": True, "input": "uint8"})],
)
def test_features_are_what_the_head_gets(
    name: str, backend: str, options: dict[str, object], checkpoint_file: CheckpointFile, photos: list[Path]
) -> None:
    checkpoint = checkpoint_file(name)
    file = export_of(checkpoint, output="features", **options)
    length = read_manifest(file).model.embed_dims[3]
    batches = list(
        lit_deploy.extract_features(file, photos, SessionOptions(backend=backend), batch=2)  # type: ignore[arg-type]
    )
    assert [batch.shape for batch in batches] == [(2, length), (1, length)]
    assert batches[0].dtype == np.float32
    expected = before_the_head(checkpoint, file, photos)
    np.testing.assert_allclose(np.concatenate(batches), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_file_of_features_is_verified(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    checkpoint = checkpoint_file("tiny")
    file = export_of(checkpoint, output="features")
    report = verify_artifact(file, checkpoint, layers=True)
    assert (report.verdict, report.reasons, report.output.name) == ("pass", (), "features")
    assert 0 < report.output.relative <= TOLERANCES["fp32"].relative
    assert report.layers[-1].name == "norm"
    wrong = edited(file, tmp_path / "wrong.onnx", lambda m: change_initializer(m, "norm.bias", lambda v: v + 0.01))
    report = verify_artifact(wrong, checkpoint)
    assert report.verdict == "fail"
    assert report.reasons[0].startswith("features: relative error")


def test_features_that_ignore_the_picture_do_not_pass() -> None:
    same = {"features": np.ones((4, 6), np.float32)}
    found = agreement(TOLERANCES["fp32"], [(same, same)])
    assert found.faults == ()
    assert "hardly depend on the input" in found.blind[0]
    broken = {"features": np.full((4, 6), np.nan, np.float32)}
    assert "not finite" in agreement(TOLERANCES["fp32"], [(same, broken)]).faults[0]


def test_a_benchmark_compares_features_with_features(checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file("tiny")
    file = export_of(checkpoint, output="features")
    pytorch = contenders_for([file], checkpoint)[0]
    assert (pytorch.kind, pytorch.like) == ("torch", file)
    some, other = ({"features": np.float32([[value, 4]])} for value in (1, 2))
    assert classification.difference(some, other) == 0.25
    assert classification.difference(some, {"logits": np.float32([[1, 4]])}) == float("inf")


def test_the_manifest_promises_the_vector(checkpoint_file: CheckpointFile) -> None:
    manifest = read_manifest(export_of(checkpoint_file("tiny"), output="features"))
    assert classification.output_specs(manifest) == (
        TensorSpec("features", "float32", ("batch", manifest.model.features)),
    )
    with pytest.raises(ValueError, match="at least 1"):
        replace(manifest, model=replace(manifest.model, embed_dims=(8, 16, 32, 0)))


def test_other_files_and_pictures_are_refused(
    checkpoint_file: CheckpointFile, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="gives logits; export the checkpoint with --output features"):
        list(lit_deploy.extract_features(export_of(checkpoint_file("tiny")), photos))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.png"):
        list(lit_deploy.extract_features(export_of(checkpoint_file("tiny"), output="features"), [tmp_path / "bad.png"]))


def test_commands_refuse_features(checkpoint_file: CheckpointFile, photos: list[Path], run: Run) -> None:
    checkpoint = checkpoint_file("tiny")
    file = export_of(checkpoint, output="features")
    for arguments in (
        ("predict", file, photos[0]),
        ("score", file, photos[0], "--out", photos[0].parent.parent / "scores"),
        ("evaluate", file, "--images", photos[0].parent),
        ("quantize", file, "--calib", photos[0].parent, "--out", "int8.onnx"),
    ):
        outcome = run(*arguments)
        assert outcome.code == 2
        assert "gives features, which name no classes; compare or index them" in outcome.err, arguments[0]
    outcome = run("export", "--ckpt", checkpoint, "--output", "features", "--precision", "int8", "--calib", photos[0])
    assert outcome.code == 2
    assert "features name none" in outcome.err
    assert not list(Path.cwd().iterdir())
