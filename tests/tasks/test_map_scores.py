"""Scores of label maps, against a computation pixel by pixel, scikit-learn and hotcoco."""

from __future__ import annotations

import numpy as np
import pytest
from hotcoco.semantic import SemanticEval
from sklearn.metrics import jaccard_score

from lit_deploy.tasks.semantic_segmentation.scores import confusion, map_scores

CLASSES = 9


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes of three pictures; class 7 is predicted and never true, class 8 neither."""
    random = np.random.default_rng(seed)
    truth = random.integers(-1, 7, (3, 20, 31)).astype(np.int16)
    guesses = random.integers(0, 8, truth.shape)
    return truth, np.where(random.random(truth.shape) < 0.6, np.maximum(truth, 0), guesses).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_scores(seed: int) -> None:
    truth, predicted = maps(seed)
    matrix = np.zeros((CLASSES, CLASSES + 1), dtype=np.int64)
    for true, said in zip(truth, predicted, strict=True):
        matrix += confusion(true, said, CLASSES)
    found = map_scores(matrix)
    counted = truth >= 0
    true, said = truth[counted], predicted[counted]
    for index in range(CLASSES):
        both, either = ((true == index) & (said == index)).sum(), ((true == index) | (said == index)).sum()
        assert found.iou[index] == (both / either if either else None)
        assert found.accuracy[index] == (both / (true == index).sum() if (true == index).any() else None)
        assert found.pixels[index] == (true == index).sum()
    assert found.iou[7] == 0
    assert found.accuracy[7] is None
    assert found.iou[8] is None
    assert found.pixel_accuracy == (true == said).mean()
    assert found.mean_iou == pytest.approx(jaccard_score(true, said, average="macro", labels=range(8)), abs=1e-12)
    judge = SemanticEval(CLASSES)
    for one, other in zip(truth, predicted, strict=True):
        judge.update(np.where(one < 0, 255, one).astype(np.uint8), other)
    metrics = judge.report()["metrics"]
    assert found.mean_iou == pytest.approx(metrics["mIoU"], abs=1e-12)
    assert found.mean_accuracy == pytest.approx(metrics["mAcc"], abs=1e-12)
    assert found.pixel_accuracy == pytest.approx(metrics["aAcc"], abs=1e-12)
    assert np.array_equal(judge.confusion(), matrix[:, :CLASSES])


def test_predictions_that_are_no_class_are_wrong() -> None:
    truth = np.array([[0, 0, 1, -1]], dtype=np.int16)
    found = map_scores(confusion(truth, np.array([[0, 9, 1, 9]], dtype=np.uint8), 2))
    assert found.iou == (0.5, 1.0)
    assert found.pixel_accuracy == 2 / 3


def test_nothing_counts() -> None:
    found = map_scores(confusion(np.full((4, 4), -1, dtype=np.int16), np.zeros((4, 4), dtype=np.uint8), 2))
    assert (found.mean_iou, found.mean_accuracy, found.pixel_accuracy) == (None, None, None)


def test_large_pictures_do_not_overflow() -> None:
    truth = np.zeros((1200, 1200), dtype=np.int16)
    matrix = confusion(truth, truth.astype(np.uint8), 2)
    assert matrix.dtype == np.int64
    assert map_scores(matrix * 10**6).pixels == (1_440_000_000_000, 0)
