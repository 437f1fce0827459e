"""Where an exported file looks: equal to what PyTorch computes, and drawn whole or not at all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.command import Run
from support.exported import export_of

from lit_deploy.artifacts.onnx_file import OnnxArtifact, read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.core.errors import UsageError
from lit_deploy.exporters.onnx import portable
from lit_deploy.models.blocks import Attention
from lit_deploy.models.build import build
from lit_deploy.report.explain import explanation_picture
from lit_deploy.tasks.table import task_of
from lit_deploy.workflows.explain import explain_image

CheckpointFile = Callable[[str], Path]
TOKENS = ((0, 0), (1, 2))


def fed(file: Path, photo: Path) -> dict[str, np.ndarray]:
    manifest = read_manifest(file)
    task = task_of(manifest)
    return task.feed(task.pictures([photo], manifest), task.reference(manifest))


@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_sampling_is_pytorchs(name: str, checkpoint_file: CheckpointFile, photo: Path) -> None:
    file = export_of(checkpoint_file(name))
    with open_session(checkpoint_file(name), SessionOptions(layers=True)) as reference:
        layers = reference.run(fed(file, photo))
    samplings = explain_image(file, photo).samplings
    assert [each.stage for each in samplings] == [1, 2, 3]
    for each in samplings:
        expected = layers[f"{each.module}.dconv.conv_offset"][0].transpose(1, 2, 0).reshape(each.offsets.shape)
        np.testing.assert_allclose(each.offsets, expected, rtol=0, atol=1e-5)
        assert each.offsets.std() > 0.01
        assert each.positions[1, 0, 3] == pytest.approx(np.array([3, 1]) + expected[1, 0, 3], abs=1e-4)


@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_attention_is_pytorchs(name: str, checkpoint_file: CheckpointFile, photo: Path) -> None:
    """LIT-Ti has a class token in stage 4, and no bias; LIT has a bias, and no class token."""
    file = export_of(checkpoint_file(name))
    loaded = load_checkpoint(checkpoint_file(name))
    model, seen = build(loaded.spec, loaded.state), {}

    def keep(module: str) -> Callable[[Attention, tuple[torch.Tensor], torch.Tensor], None]:
        def hook(attention: Attention, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
            q, k, _ = attention.qkv(args[0])[0].unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
            logits = attention.scale * torch.einsum("nhd,mhd->hnm", q, k)
            bias = attention.bias()
            seen[module] = (logits if bias is None else logits + bias).softmax(-1).numpy()

        return hook

    for module, part in model.named_modules():
        if isinstance(part, Attention):
            part.register_forward_hook(keep(module))
    with torch.no_grad():
        model(torch.from_numpy(fed(file, photo)["images"]))

    attentions = explain_image(file, photo, TOKENS).attentions
    assert [each.module for each in attentions] == list(seen)
    for each in attentions:
        height, width = each.size
        expected = seen[each.module]
        places = [expected.shape[1] - height * width + row * width + column for row, column in each.tokens]
        np.testing.assert_allclose(each.weights, expected[:, places].swapaxes(0, 1), rtol=0, atol=1e-5)
        np.testing.assert_allclose(each.weights.sum(axis=-1), 1, rtol=0, atol=1e-5)
        assert each.tokens == (TOKENS if each.stage == 3 else ((0, 0), (0, 1)))


def test_detectors_are_explained(dense_file: Callable[..., Path], photo: Path) -> None:
    """Their pictures have any size, and the table of their attention is resized in the graph."""
    found = explain_image(dense_file("detection"), photo, TOKENS)
    assert found.pixels.shape[0] != found.pixels.shape[1]
    for number, each in enumerate(found.samplings):
        assert each.size == tuple(side >> number for side in found.samplings[0].size)
    assert found.attentions[0].size == found.samplings[2].size
    for each in found.attentions:
        np.testing.assert_allclose(each.weights.sum(axis=-1), 1, rtol=0, atol=1e-5)


def test_the_command_writes_a_picture(checkpoint_file: CheckpointFile, photo: Path, run: Run) -> None:
    file = export_of(checkpoint_file("tiny"))
    outcome = run("explain", file, photo, "--out", "found.png", "--token", "1,2", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert [each["stage"] for each in told["mergings"]] == [1, 2, 3]
    assert 0 < told["attention"][0]["strongest"]["weight"] < 1
    with Image.open("found.png") as image:
        image.load()
        drawn = np.asarray(image.convert("RGB"))
    without = np.asarray(explanation_picture(explain_image(file, photo)))
    assert drawn.shape[0] > without.shape[0] + 300, "a row for the token"
    assert (without[:, :, 0] != without[:, :, 2]).mean() > 0.01, "something is drawn in colours"


def test_what_is_no_number_and_what_is_very_flat_is_drawn(checkpoint_file: CheckpointFile, photo: Path) -> None:
    found = explain_image(export_of(checkpoint_file("tiny")), photo, TOKENS)
    offsets, weights = found.samplings[0].offsets.copy(), found.attentions[0].weights.copy()
    offsets[0, 0], weights[0] = np.nan, np.nan
    odd = replace(
        found,
        pixels=np.zeros((1, 4000, 3), np.uint8),
        samplings=(
            replace(found.samplings[0], offsets=offsets),
            replace(found.samplings[1], offsets=np.full_like(found.samplings[1].offsets, np.inf)),
        ),
        attentions=(replace(found.attentions[0], weights=weights),),
    )
    with warnings.catch_warnings(action="error"):
        explanation_picture(odd)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--token", "9,0"), "the token is 9,0, expected a row of 0 to "),
        (("--token", "1;2"), "expected a row and a column from 0, e.g. --token 6,7"),
        (("--out", "found.jpg"), "expected a name that ends in .png"),
    ],
)
def test_mistakes_are_told(
    arguments: tuple[str, str], words: str, checkpoint_file: CheckpointFile, photo: Path, run: Run
) -> None:
    outcome = run("explain", export_of(checkpoint_file("tiny")), photo, *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert not list(Path.cwd().iterdir())


def test_files_without_the_operators_are_refused(checkpoint_file: CheckpointFile, photo: Path, tmp_path: Path) -> None:
    inlined = tmp_path / "portable.onnx"
    portable(OnnxArtifact.read(export_of(checkpoint_file("tiny")))).write(inlined)
    with pytest.raises(UsageError, match=r"holds no operator DeformableTokenMerging.*without --portable"):
        explain_image(inlined, photo)
    with pytest.raises(UsageError, match=r"no \.onnx file"):
        explain_image(checkpoint_file("tiny"), photo)
