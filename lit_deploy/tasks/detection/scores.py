"""How good detections are (COCO's average precision), and how far two detectors agree.

The average precision is hotcoco's, a package that needs NumPy only; tests hold its numbers against pycocotools'.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_deploy.core.errors import UsageError
from lit_deploy.core.text import first_line
from lit_deploy.machine.packages import require
from lit_deploy.tasks.comparison import Floats
from lit_deploy.tasks.detection import overlap

Kind = Literal["bbox", "segm"]
"""What is compared: boxes or masks."""

SAME_IOU = 0.9
"""Overlap (intersection over union) from which on two detectors found the same box."""

_AREAS, _MOST = ("all", "small", "medium", "large"), (1, 10, 100)
_T50, _T75 = 0, 5  # of the thresholds 0.50, 0.55, ... 0.95


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's twelve numbers, 0..1; None where no object counts, which COCO's own tools write as -1.

    Attributes:
        ap: mean over the overlaps 0.50, 0.55, ... 0.95 and all categories that have objects.
        ap50, ap75: at these overlaps alone.
        ap_small, ap_medium, ap_large: of objects below 32 x 32 pixels, up to 96 x 96, and above.
        ar1, ar10, ar100: recall with so many detections an image; ``ar_small``, ``ar_medium``, ``ar_large``: by area.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None


@dataclass(frozen=True)
class CocoScores:
    """What a detector reached.

    Attributes:
        overall: over all categories.
        by_category: by COCO's number of every category: AP, AP50 and AP75, 0..1; None where it has no object.
    """

    overall: AveragePrecision
    by_category: dict[int, tuple[float | None, float | None, float | None]]


def require_scores() -> None:
    """Raise MissingDependency, before minutes of work, where average precision cannot be computed."""
    require("the evaluation of detectors", "hotcoco")


def coco_scores(truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], kind: Kind) -> CocoScores:
    """Compute average precision.

    Args:
        truth: ``images``, ``categories`` and ``annotations`` as in COCO's JSON; the images are those that count.
        results: as in COCO's results, of these images. Areas of masks are those of their pixels: for that, ``bbox`` is
            left out, as COCO's tools would otherwise take it from there.
        kind: what is compared.

    Raises:
        MissingDependency: hotcoco is not installed.
        UsageError: the ground truth is not usable.

    Source: COCO's evaluation, https://cocodataset.org/#detection-eval.
    """
    require_scores()
    import hotcoco

    try:
        ground = hotcoco.COCO(dict(truth))
        found = ground.load_res(_rows(results) if kind == "bbox" else [_without_box(entry) for entry in results])
        judge = hotcoco.COCOeval(ground, found, kind)
        judge.evaluate()
        judge.accumulate()
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UsageError(f"the annotations cannot be scored against ({first_line(error)}); mend them") from None
    table = judge.eval
    assert table is not None
    precision, recall = np.asarray(table["precision"]), np.asarray(table["recall"])
    # precision [thresholds, recalls, categories, areas, detections an image], recall without the second
    best = len(_MOST) - 1
    areas = [_mean(precision[:, :, :, area, best]) for area in range(len(_AREAS))]
    recalls = [_mean(recall[:, :, area, best]) for area in range(len(_AREAS))]
    overall = AveragePrecision(
        areas[0], _mean(precision[_T50, :, :, 0, best]), _mean(precision[_T75, :, :, 0, best]), *areas[1:],
        *(_mean(recall[:, :, 0, most]) for most in range(len(_MOST))), *recalls[1:],
    )  # fmt: skip
    by_category = {
        int(number): (
            _mean(precision[:, :, index, 0, best]), _mean(precision[_T50, :, index, 0, best]),
            _mean(precision[_T75, :, index, 0, best]),
        )
        for index, number in enumerate(judge.params.cat_ids)
    }  # fmt: skip
    return CocoScores(overall, by_category)


def _rows(results: Iterable[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Image, x, y, width, height, score and category of every detection: a tenth of the memory of its JSON."""
    rows = ((entry["image_id"], *entry["bbox"], entry["score"], entry["category_id"]) for entry in results)
    return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.float64).reshape(-1, 7)


def _without_box(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "bbox"}


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of what is known; -1 stands for what is not."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None


def partners(
    boxes: NDArray[np.float32], labels: NDArray[np.int32], others: NDArray[np.float32], other_labels: NDArray[np.int32]
) -> int:
    """How many detections of one image two detectors have in common.

    A pair has the same label, an IoU of at least ``SAME_IOU``, and no part in another pair; those that overlap most
    are paired first. So neither the order of detections nor that of the detectors matters, but where overlaps are equal
    to the last bit.

    Args:
        boxes: float32 ``[N, 4]``, x1 y1 x2 y2 in pixels; ``labels``: int32 ``[N]``.
        others: float32 ``[M, 4]``; ``other_labels``: int32 ``[M]``.
    """
    shared = np.where(labels[:, None] == other_labels[None, :], iou(boxes, others), 0.0)
    left, right = np.nonzero(shared >= SAME_IOU)
    order = np.argsort(-shared[left, right], kind="stable")
    taken, given = np.zeros(len(boxes), dtype=bool), np.zeros(len(others), dtype=bool)
    for first, second in zip(left[order].tolist(), right[order].tolist(), strict=True):
        if not (taken[first] or given[second]):
            taken[first] = given[second] = True
    return int(taken.sum())


def iou(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> Floats:
    """Intersection over union ``[N, M]`` of boxes ``[N, 4]`` and ``[M, 4]``, x1 y1 x2 y2; equal boxes have 1.

    Boxes without an area overlap with nothing but their like.
    """
    result: Floats = np.where((boxes[:, None] == others[None]).all(axis=-1), 1.0, overlap.iou(boxes, others))
    return result
