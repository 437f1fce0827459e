"""How good label maps are: a confusion matrix, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class MapScores:
    """What a segmentation network reached, 0..1.

    Attributes:
        mean_iou: mean of ``iou`` over the classes that occur, in the truth or in what was predicted.
        mean_accuracy: mean of ``accuracy`` over the classes that occur in the truth.
        pixel_accuracy: share of right pixels; None where none counts.
        iou: of every class: intersection over union of its pixels in all pictures; None where it does not occur.
        accuracy: of every class: share of its pixels that are right; None where it has none.
        pixels: of every class, in the truth.
    """

    mean_iou: float | None
    mean_accuracy: float | None
    pixel_accuracy: float | None
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    pixels: tuple[int, ...]


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> Counts:
    """Count pixels by their true and their predicted class.

    Args:
        truth: integers ``[h, w]``, below 0 where pixels do not count.
        predicted: integers ``[h, w]``.
        classes: how many there are.

    Returns:
        int64 ``[classes, classes + 1]``; the last column counts predictions that are no class.
    """
    counted = truth >= 0
    true, said = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    said = np.where((said >= 0) & (said < classes), said, classes)
    cells = np.bincount(true * (classes + 1) + said, minlength=classes * (classes + 1))
    return cells.reshape(classes, classes + 1)


def map_scores(matrix: Counts) -> MapScores:
    """What follows from a confusion matrix ``[classes, classes + 1]`` over all pictures.

    Source: J. Long, E. Shelhamer, T. Darrell, "Fully convolutional networks for semantic segmentation", 2015; which
    classes count is the rule of mmsegmentation, with which the published numbers were computed.
    """
    classes = len(matrix)
    right, true = np.diagonal(matrix), matrix.sum(axis=1)
    union = true + matrix[:, :classes].sum(axis=0) - right
    iou, accuracy = _shares(right, union), _shares(right, true)
    return MapScores(
        mean_iou=_mean(iou),
        mean_accuracy=_mean(accuracy),
        pixel_accuracy=_shares(right.sum(keepdims=True), true.sum(keepdims=True))[0],
        iou=iou,
        accuracy=accuracy,
        pixels=tuple(map(int, true)),
    )


def _shares(part: Counts, whole: Counts) -> tuple[float | None, ...]:
    return tuple(int(a) / int(b) if b else None for a, b in zip(part, whole, strict=True))


def _mean(shares: tuple[float | None, ...]) -> float | None:
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None
