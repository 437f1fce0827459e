"""Accuracy on images: against predictions made one by one, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.evaluation import COUNT, RIGHT, evaluated, numbers, truth_of
from support.exported import change_initializer, edited, export_of, relabelled
from support.golden import TINY
from support.pictures import broken_images

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint, synthetic_image
from lit_deploy.core.errors import ImageError, LitDeployError, UsageError
from lit_deploy.core.specs import InputSpec
from lit_deploy.evaluate import classification as evaluate
from lit_deploy.report.evaluate import evaluate_markdown
from lit_deploy.tasks.intervals import wilson_interval
from lit_deploy.workflows.predict import predict_images

CheckpointFile = Callable[[str], Path]
pytestmark = pytest.mark.usefixtures("evaluate_cache")


def prepared(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a file for normalised images whose manifest asks for another preparation of them."""
    spec = read_manifest(source).input
    assert spec.kind == "float", "the graph of raw pixels has a part in it"
    return relabelled(source, target, input=dataclasses.replace(spec, **changes))


# ------------------------------------------------------------------------------------------------------------ numbers


def test_the_numbers_are_those_of_single_predictions(
    checkpoint_file: CheckpointFile, labelled_photos: Path, shifted: Path, tmp_path: Path
) -> None:
    checkpoint = checkpoint_file("tiny")
    files = [
        export_of(checkpoint, batch=3),
        export_of(checkpoint, output="probabilities"),
        export_of(checkpoint, input="uint8", output="top5"),
        prepared(export_of(checkpoint), tmp_path / "resized.onnx", resize=64),
        shifted,
    ]
    result = evaluated(files, labelled_photos, checkpoint, batch=5)
    paths, truth = truth_of(labelled_photos)
    best = [
        [p.classes for p in predict_images(source, paths, options=SessionOptions(threads=1))]
        for source in (checkpoint, *files)
    ]
    assert (result.images, result.listed, result.skipped, result.classes) == (COUNT, COUNT, (), 7)
    assert [score.label for score in result.scores] == ["tiny.pth", *(file.name for file in files)]
    for score, rows in zip(result.scores, best, strict=True):
        assert score.top1.right == sum(row[0] == c for row, c in zip(rows, truth, strict=True)), score.label
        assert score.top5 is not None
        assert score.top5.right == sum(c in row for row, c in zip(rows, truth, strict=True)), score.label
        assert score.differing == sum(row[0] != other[0] for row, other in zip(rows, best[0], strict=True))
        assert score.top1.share == score.top1.right / COUNT
        assert (score.top1.low, score.top1.high) == wilson_interval(score.top1.right, COUNT)
        assert score.images_per_second > 0
        assert score.not_finite == 0
    assert result.scores[0].top1.right == RIGHT
    for row, ours in zip(result.agreement, best, strict=True):
        for share, theirs in zip(row, best, strict=True):
            assert share == sum(a[0] == b[0] for a, b in zip(ours, theirs, strict=True)) / COUNT
    assert [score.agreement for score in result.scores] == list(result.agreement[0])
    assert 0 < result.scores[-1].differing < COUNT, "the last file does differ, and not everywhere"
    assert len({row[0] for row in best[0]}) > 1, "more than one class is predicted"


def test_batches_change_nothing(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    files = [export_of(checkpoint_file("tiny")), export_of(checkpoint_file("tiny"), batch=3)]
    first, *others = [
        evaluated(files, labelled_photos, batch=batch, workers=workers) for batch, workers in ((1, 1), (4, 3), (64, 2))
    ]
    assert first.batch == 3, "no smaller than a fixed batch"
    assert first.reference == "tiny.onnx", "the first file, where no checkpoint is given"
    for other in others:
        assert numbers(dataclasses.replace(other, batch=3, workers=1)) == numbers(first)


def test_pytorch_gets_what_the_exported_file_gets(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    """A checkpoint does not know its mean and resize rule; predictions would differ for that reason alone."""
    checkpoint = checkpoint_file("tiny")
    file = export_of(checkpoint, input="uint8", mean=(0.5, 0.25, 0.75), std=(0.5, 0.125, 1.0), resize=99)
    result = evaluated([file], labelled_photos, checkpoint)
    assert result.scores[1].differing == 0
    assert result.notes == ()
    assert evaluated([file, checkpoint], labelled_photos).scores[1].differing == 0, "as a file among others, too"
    other = evaluated([export_of(checkpoint), file], labelled_photos)
    assert other.scores[1].differing > 0, "the rule does matter"
    alone = evaluated([checkpoint], labelled_photos)
    assert alone.notes == (
        "images for tiny.pth are prepared with the default mean, std and resize rule, as no file here was exported "
        "from it",
    )


def test_images_are_decoded_once(
    checkpoint_file: CheckpointFile, labelled_photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decoded, cut = [], []
    load, crop = evaluate.load_image, evaluate.resize_and_crop

    def counted_load(path: Path) -> Image.Image:
        decoded.append(path)
        return load(path)

    def counted_crop(image: Image.Image, spec: InputSpec) -> evaluate.Pixels:
        cut.append(spec.resize)
        return crop(image, spec)

    monkeypatch.setattr(evaluate, "load_image", counted_load)
    monkeypatch.setattr(evaluate, "resize_and_crop", counted_crop)
    checkpoint = checkpoint_file("tiny")
    plain = export_of(checkpoint)
    other_mean = prepared(plain, tmp_path / "other_mean.onnx", mean=(0.1, 0.2, 0.3))
    files = [plain, export_of(checkpoint, input="uint8"), other_mean, checkpoint]
    evaluated(files, labelled_photos)
    assert len(decoded) == len(cut) == COUNT, "these differ in nothing but normalisation"
    evaluated([*files, prepared(plain, tmp_path / "resized.onnx", resize=64)], labelled_photos)
    assert len(decoded) == 2 * COUNT
    assert len(cut) == 3 * COUNT


def test_limit(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    result = evaluated([export_of(checkpoint_file("tiny"))], labelled_photos, limit=5)
    assert (result.images, result.listed) == (5, 5)


def test_labels_file(checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path) -> None:
    paths, truth = truth_of(labelled_photos)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in paths:
        (flat / path.name).symlink_to(path)
    labels = tmp_path / "val.csv"
    labels.write_text("image,label\n" + "".join(f"{p.name},class_{c}\n" for p, c in zip(paths, truth, strict=True)))
    result = evaluated([export_of(checkpoint_file("tiny"))], flat, labels_file=labels)
    assert result.scores[0].top1.right == RIGHT


def test_wilson_interval() -> None:
    """Values from the literature: Newcombe 1998, table I (81 of 263, 15 of 148, 0 of 20, 1 of 29), Wilson without
    continuity correction."""
    for right, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


# --------------------------------------------------------------------------------------------------- outputs and images


def test_outputs_that_are_not_finite_are_wrong(
    checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: np.full_like(value, np.nan))

    checkpoint = checkpoint_file("tiny")
    files = [
        edited(export_of(checkpoint, output=kind), tmp_path / f"{kind}.onnx", change) for kind in ("logits", "top5")
    ]
    result = evaluated(files, labelled_photos, checkpoint)
    for score in result.scores[1:]:
        assert (score.not_finite, score.top1.right, score.differing) == (COUNT, 0, COUNT)
        assert score.top5 is not None
        assert score.top5.right == 0
    assert result.agreement[1][:3] == (0, 1, 0), "with itself it agrees, with another broken one it does not"
    assert f"logits.onnx: the output is not finite for {COUNT} images" in evaluate_markdown(result)


def test_broken_images_are_named_and_left_out(
    checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path
) -> None:
    path = export_of(checkpoint_file("tiny"))
    root = tmp_path / "mixed"
    for folder in labelled_photos.iterdir():
        (root / folder.name).mkdir(parents=True)
        for image in folder.iterdir():
            (root / folder.name / image.name).symlink_to(image)
    broken = [image for image in broken_images(root / folder.name) if image.is_file()]
    (root / folder.name / "link.png").symlink_to(root / "nowhere.png")
    result = evaluated([path], root, batch=4)
    clean = evaluated([path], labelled_photos, batch=4)
    assert result.listed == COUNT + len(broken) + 1
    assert result.scores[0].top1 == clean.scores[0].top1
    assert {s.image for s in result.skipped} == {f"{folder.name}/{p.name}" for p in (*broken, Path("link.png"))}
    reasons = {Path(s.image).name: s.reason for s in result.skipped}
    assert reasons["empty.jpg"].startswith("is empty (0 bytes)")
    assert reasons["link.png"].startswith("does not exist")


def test_nothing_but_broken_images(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    (root / "class 0").mkdir(parents=True)
    count = sum(image.is_file() for image in broken_images(root / "class 0"))
    with pytest.raises(ImageError, match=f"none of the {count} images in .* can be read, e.g. class 0/"):
        evaluated([export_of(checkpoint_file("tiny"))], root)


def test_progress_tells_share_and_speed(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    told: list[str] = []
    evaluated(
        [export_of(checkpoint_file("tiny"))], labelled_photos, batch=8, progress=lambda step: told.append(str(step))
    )
    assert told[:3] == ["open tiny.onnx", "list the images", "  0 %  0 of 23 images"]
    shares = [re.fullmatch(r" *(\d+) %  (\d+) of 23 images, [\d.]+ images/s", text) for text in told[3:]]
    assert [match and match.groups() for match in shares] == [("34", "8"), ("69", "16"), ("100", "23")]


# ------------------------------------------------------------------------------------------------------ what is refused


def test_files_that_do_not_fit_together(checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path) -> None:
    file = export_of(checkpoint_file("tiny"))
    rest = read_manifest(file).labels[2:]
    ab, ba = (relabelled(file, tmp_path / f"{a}{b}.onnx", labels=(a, b, *rest)) for a, b in ("ab", "ba"))
    other = tmp_path / "other.pth"
    save_checkpoint(make_state(TINY, seed=1), other)
    for files, message in (
        ([], "got nothing to evaluate"),
        ([file, file.parent / "." / file.name], "is named twice"),
        ([file, checkpoint_file("tiny_ti")], r"tiny.onnx has 7, tiny_ti.pth has 5\); evaluate them one by one"),
        ([ab, ba], "class 0 is 'b' for ba.onnx and 'a' for ab.onnx"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluated(files, labelled_photos)
    result = evaluated([file], labelled_photos, other)
    assert result.notes[0] == "tiny.onnx was not made from other.pth but from tiny.pth"
    assert result.notes[1].startswith("images for other.pth are prepared with the default mean")


def test_files_that_share_a_name(checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path) -> None:
    file = export_of(checkpoint_file("tiny"))
    (tmp_path / file.name).write_bytes(file.read_bytes())
    result = evaluated([file, tmp_path / file.name], labelled_photos)
    assert [score.label for score in result.scores] == [str(file), str(tmp_path / file.name)]


def test_given_labels_win_over_default_ones(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    source = export_of(checkpoint_file("tiny"))
    file = relabelled(source, tmp_path / "named.onnx", labels=tuple("abcdefg"))
    (tmp_path / "images" / "c").mkdir(parents=True)
    Image.fromarray(synthetic_image(1, "x", 64, 64)).save(tmp_path / "images" / "c" / "1.png")
    result = evaluated([file], tmp_path / "images", checkpoint_file("tiny"))
    assert result.mapping == "1 class folders by name"
    assert result.notes == (), "default names are nobody's choice"
    other = relabelled(source, tmp_path / "other.onnx", labels=tuple("tuvwxyg"))
    result = evaluated([file, other], tmp_path / "images")
    assert result.notes == (
        "6 of the 7 class names of other.onnx are not those of named.onnx, which were used for both",
    )


def test_errors_are_lit_deploys(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    for changes in ({"batch": 0}, {"batch": 5000}, {"workers": 0}, {"limit": 0}):
        with pytest.raises(LitDeployError, match=r"^(batch|workers|limit) is \d+, expected 1 to"):
            evaluated([export_of(checkpoint_file("tiny"))], labelled_photos, **changes)
