"""One dynamic file of every task against PyTorch: small and odd pictures, no detection, one, and very many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.dense import FAMILY_OF, DenseFile
from support.exported import KERNELS

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import read_manifest, set_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import TOLERANCES
from lit_deploy.images.picture import Picture
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.tasks.detection.results import detections_of
from lit_deploy.tasks.protocol import Arrays
from lit_deploy.tasks.table import task_of

TASKS = tuple(FAMILY_OF)
SIZES = ((32, 32), (32, 128), (33, 64), (64, 33), (40, 40), (32, 320), (320, 32), (101, 77))
Of = Callable[[str], Path]


def pictures() -> list[Picture]:
    return [Picture(synthetic_image(9, str(size), *size), (size[0] + 5, size[1] * 2)) for size in SIZES]


def outputs(source: Path, shown: list[Picture], options: SessionOptions) -> tuple[Manifest, list[Arrays]]:
    with open_session(source, options) as session:
        feed = task_of(session.manifest).feed
        return session.manifest, [session.run(feed([each], session.manifest)) for each in shown]


def assert_agree(path: Path, checkpoint: Path, library: bool) -> list[Arrays]:
    """A file and PyTorch on the same pictures; returns what the file said."""
    manifest, got = outputs(path, pictures(), SessionOptions(library=library))
    _, expected = outputs(checkpoint, pictures(), SessionOptions(like=task_of(manifest).reference(manifest)))
    agreement = task_of(manifest).agreement(manifest, TOLERANCES["fp32"], zip(expected, got, strict=True))
    assert agreement.faults == ()
    return got


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("task", TASKS)
def test_small_odd_and_narrow_pictures(task: str, library: bool, dense_file: DenseFile, dense_checkpoint: Of) -> None:
    assert_agree(dense_file(task), dense_checkpoint(task), library)


def test_lit_ti(dense_file: DenseFile, dense_checkpoint: Of) -> None:
    """The other backbone, whose attention has no bias, and whose embeddings are resized; goldens see it elsewhere."""
    family = f"{FAMILY_OF['detection']}_ti"
    assert_agree(dense_file(family), dense_checkpoint(family), library=False)


def with_threshold(source: Path, target: Path, threshold: float) -> Path:
    """The file with another score threshold, in its graph and in its manifest."""
    model, manifest = onnx.load(str(source)), read_manifest(source)
    assert manifest.dense is not None
    *_, nms = (node for node in model.graph.node if node.op_type == "Nms")  # a detector's own is the last
    next(attribute for attribute in nms.attribute if attribute.name == "score_threshold").f = threshold
    set_manifest(model, replace(manifest, dense=replace(manifest.dense, score_threshold=threshold)))
    onnx.save(model, str(target))
    return target


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("task", TASKS[:2])
def test_none_one_and_very_many_detections(
    task: str, library: bool, dense_file: DenseFile, dense_checkpoint: Of, tmp_path: Path
) -> None:
    _, usual = outputs(dense_file(task), pictures()[-1:], SessionOptions(library=library))
    scores = detections_of(usual[0]).scores
    none = with_threshold(dense_file(task), tmp_path / "none.onnx", 0.9999)
    _, (empty,) = outputs(none, pictures()[-1:], SessionOptions(library=library))
    assert (empty["num"] == 0).all()
    assert (empty["labels"] == -1).all()
    assert not empty["scores"].any()
    assert not empty["boxes"].any()
    assert not empty.get("masks", np.zeros(1)).any()
    one = with_threshold(dense_file(task), tmp_path / "one.onnx", float(scores[:2].mean()))
    _, (single,) = outputs(one, pictures()[-1:], SessionOptions(library=library))
    assert single["num"].tolist() == [1]
    np.testing.assert_allclose(single["scores"][0, 0], scores[0], rtol=1e-5)
    # All boxes of all classes are candidates, far more than 5,000.
    many = with_threshold(dense_file(task), tmp_path / "many.onnx", 0.0)
    found = assert_agree(many, dense_checkpoint(task), library)
    assert found[-1]["num"].tolist() == [100]


@pytest.mark.parametrize("task", TASKS)
def test_what_does_not_fit_is_refused(task: str, dense_file: DenseFile) -> None:
    with open_session(dense_file(task)) as session:
        feeds = task_of(session.manifest).feed(pictures()[:1], session.manifest)
        for name, value in (
            ("image", feeds["image"].astype(np.float32)),
            ("image", np.concatenate([feeds["image"]] * 2)),
            ("original_size", np.array([1, 2, 3])),
        ):
            with pytest.raises(UsageError, match=f"input '{name}' is"):
                session.run({**feeds, name: value})


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("task", TASKS)
def test_a_fixed_size_and_other_options(task: str, library: bool, dense_checkpoint: Of, dense_file: DenseFile) -> None:
    """Float input, a fixed size, thresholds and logits, in one file."""
    options = {"size": (64, 96), "input": "float"}
    if task == "semantic_segmentation":
        options |= {"output": "logits"}
    else:
        options |= {"score_threshold": 0.06, "iou_threshold": 0.3, "max_detections": 7}
    path = dense_file(task, **options)
    shown = [Picture(synthetic_image(9, "fixed", 64, 96), (50, 70))]
    manifest, got = outputs(path, shown, SessionOptions(library=library))
    _, expected = outputs(dense_checkpoint(task), shown, SessionOptions(like=task_of(manifest).reference(manifest)))
    assert task_of(manifest).agreement(manifest, TOLERANCES["fp32"], zip(expected, got, strict=True)).faults == ()
    assert manifest.input.crop == (64, 96)
    if task == "semantic_segmentation":
        assert got[0]["logits"].shape == (1, 5, 50, 70)
    else:
        assert got[0]["boxes"].shape == (1, 7, 4)
        assert 0 < len(detections_of(got[0])) <= 7
        assert (detections_of(got[0]).scores > 0.06).all()
