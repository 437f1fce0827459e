"""What an evaluation tells of classes and of single images: by class, confusions, the misclassified, predictions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix
from support.command import Run, assert_one_sentence
from support.evaluation import COUNT, RIGHT, evaluated, truth_of
from support.exported import change_initializer, edited, export_of
from support.fake_dense import Fakes, detection

from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.core.progress import Step
from lit_deploy.report.charts import confusion_plot
from lit_deploy.tasks.classification.ranking import best_classes, probabilities_of
from lit_deploy.workflows.predict import predict_images

CheckpointFile = Callable[[str], Path]
pytestmark = pytest.mark.usefixtures("evaluate_cache")


def test_classes_and_confusions(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    file = export_of(checkpoint_file("tiny"))
    (score,) = evaluated([file], labelled_photos).scores
    paths, truth = truth_of(labelled_photos)
    said = [p.classes[0] for p in predict_images(file, paths, 1, SessionOptions(threads=1))]
    matrix = confusion_matrix(truth, said, labels=range(7))
    found = np.zeros_like(matrix)
    for true, predicted, images in score.confusion:
        found[true, predicted] = images
    assert found.tolist() == matrix.tolist()
    assert [entry.images for entry in score.classes] == matrix.sum(axis=1).tolist()
    assert [entry.right for entry in score.classes] == np.diag(matrix).tolist()
    assert [entry.predicted for entry in score.classes] == matrix.sum(axis=0).tolist()
    for entry in score.classes:
        assert entry.accuracy == (entry.right / entry.images if entry.images else None)
        assert entry.precision == (entry.right / entry.predicted if entry.predicted else None)
    wrong = [
        (path.relative_to(labelled_photos).as_posix(), f"class {true}", f"class {best}")
        for path, true, best in zip(paths, truth, said, strict=True)
        if true != best
    ]
    assert len(wrong) == COUNT - RIGHT
    assert [(e.image, e.true_class, e.predicted_class) for e in score.misclassified] == wrong


def test_predictions_are_those_of_single_images(
    checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path
) -> None:
    files = [export_of(checkpoint_file("tiny")), export_of(checkpoint_file("tiny"), output="top5")]
    evaluated(files, labelled_photos, predictions=tmp_path / "p.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    paths, truth = truth_of(labelled_photos)
    assert [line["file"] for line in lines] == [file.name for file in files] * COUNT
    for place, file in enumerate(files):
        singles = predict_images(file, paths, options=SessionOptions(threads=1))
        for line, single, true in zip(lines[place::2], singles, truth, strict=True):
            assert line["image"] == Path(single.image).relative_to(labelled_photos).as_posix()
            assert (line["true_class"], line["true_label"]) == (true, f"class {true}")
            assert (line["classes"], line["labels"]) == (list(single.classes), list(single.labels))  # type: ignore[attr-defined]
            assert line["right"] == (single.classes[0] == true)  # type: ignore[attr-defined]
            np.testing.assert_allclose(line["probabilities"], single.probabilities, rtol=1e-5)  # type: ignore[attr-defined]


def test_predictions_do_not_depend_on_kills(
    checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path
) -> None:
    files, state = [export_of(checkpoint_file("tiny"))], tmp_path / "state.jsonl"

    def stop(step: Step) -> None:
        if step.name.startswith("8 of") and "images/s" in step.name:
            raise KeyboardInterrupt

    evaluated(files, labelled_photos, batch=4, predictions=tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        evaluated(files, labelled_photos, batch=4, state=state, progress=stop)
    again = evaluated(files, labelled_photos, batch=4, state=state, predictions=tmp_path / "resumed.jsonl")
    assert again.resumed == 8
    assert (tmp_path / "resumed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_outputs_that_are_not_finite(checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: value + np.float32(np.nan))

    file = edited(export_of(checkpoint_file("tiny")), tmp_path / "nan.onnx", change)
    result = evaluated([file], labelled_photos, limit=3, predictions=tmp_path / "p.jsonl")
    (score,) = result.scores
    assert [entry.predicted_class for entry in score.misclassified] == [None] * 3
    assert sum(images for _, predicted, images in score.confusion if predicted == -1) == 3
    line = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert (line["right"], line["classes"], line["probabilities"]) == (False, [], [])
    confusion_plot(result, tmp_path / "c.svg")
    assert "not finite" in (tmp_path / "c.svg").read_text()


@pytest.mark.filterwarnings("error")
def test_probabilities_of_the_best_classes() -> None:
    logits = np.array([[0, 2, 1], [np.inf, 0, 0], [np.nan, 1, 2], [900, -900, 0]], dtype=np.float32)
    classes = best_classes({"logits": logits}, "logits", 3)
    found = probabilities_of({"logits": logits}, "logits", classes)
    weights = np.exp([2.0, 1.0, 0.0])
    np.testing.assert_allclose(found[0], weights / weights.sum())
    assert found[1:].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    top5 = {"scores": np.array([[0.75, 0.25]], dtype=np.float32), "classes": np.array([[2, 0]])}
    assert probabilities_of(top5, "top5", np.array([[2, 0]])).tolist() == [[0.75, 0.25]]
    given = {"probabilities": np.array([[0.25, 0.75]], dtype=np.float32)}
    assert probabilities_of(given, "probabilities", np.array([[1, 0]])).tolist() == [[0.75, 0.25]]


def test_command(checkpoint_file: CheckpointFile, labelled_photos: Path, run: Run) -> None:
    arguments = [export_of(checkpoint_file("tiny")), "--images", labelled_photos, "--threads", 1]
    code, out, err = run(
        "evaluate", *arguments, "--per-class", "--misclassified", 3, "--confusion", "c.png", "--predictions", "p.jsonl"
    )
    assert (code, err) == (0, "wrote c.png\n")
    for words in ("By class: tiny.onnx", "precision", "Misclassified: tiny.onnx (7 images, the first 3)"):
        assert words in out
    assert len(Path("p.jsonl").read_text().splitlines()) == COUNT
    with Image.open("c.png") as image:
        assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    code, out, _ = run("evaluate", *arguments, "--markdown", "--misclassified", 100)
    assert code == 0
    assert out.count("| class ") == 3 * (COUNT - RIGHT), "a folder, a class and another one"
    told = json.loads(run("evaluate", *arguments, "--json").out)["scores"][0]
    assert len(told["classes"]) == 7
    assert len(told["misclassified"]) == COUNT - RIGHT


def test_names_of_classes_are_no_formulas(
    checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path
) -> None:
    result = evaluated([export_of(checkpoint_file("tiny"))], labelled_photos, limit=2)
    score = result.scores[0]
    classes = tuple(dataclasses.replace(entry, name=r"$\bad{$") for entry in score.classes)
    odd = dataclasses.replace(result, scores=(dataclasses.replace(score, label="$_$", classes=classes),))
    confusion_plot(odd, tmp_path / "c.png")


def test_predictions_that_cannot_be_written(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    with pytest.raises(UsageError, match=r"the directory .* does not exist"):
        evaluated([export_of(checkpoint_file("tiny"))], labelled_photos, predictions="no/p.jsonl")


def test_what_other_tasks_do_not_have(fakes: Fakes, pictures: Path, truth: Path, run: Run) -> None:
    arguments = [detection(fakes), "--images", pictures, "--annotations", truth]
    for option, value in (("--predictions", "p.jsonl"), ("--misclassified", 3)):
        words = f"{option} is for classification, and a.onnx is made for detection"
        assert_one_sentence(run("evaluate", *arguments, option, value), words)
    words = "--confusion is for classification and semantic segmentation, and a.onnx is made for detection"
    assert_one_sentence(run("evaluate", *arguments, "--confusion", "c.png"), words)
    assert_one_sentence(run("evaluate", *arguments, "--confusion", "c.txt"), "expected a name ending in .png")
