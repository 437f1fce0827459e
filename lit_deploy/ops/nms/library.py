"""``torch.ops.lit_deploy.nms``: the operator as PyTorch and its exporter see it."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.nms.reference import reference


@torch.library.custom_op(f"{DOMAIN}::nms", mutates_args=())
def _op(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, score_threshold: float, max_output: int
) -> Tensor:
    return reference(boxes, scores, classes, iou_threshold, score_threshold, max_output)


@_op.register_fake
def _fake(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, score_threshold: float, max_output: int
) -> Tensor:
    torch._check(boxes.ndim == 2 and scores.ndim == 1 and classes.ndim == 1, lambda: "expected [P, 4], [P] and [P]")
    torch._check(boxes.shape[1] == 4, lambda: "boxes must be [P, 4]")
    torch._check(scores.shape[0] == boxes.shape[0], lambda: "scores must be [P]")
    torch._check(classes.shape[0] == boxes.shape[0], lambda: "classes must be [P]")
    return boxes.new_empty(max_output, dtype=torch.int64)


def nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
) -> Tensor:
    """Class-aware greedy non-maximum suppression (operator version 1).

    While a model is exported this is one opaque operator; otherwise it is the reference itself. The output has a fixed
    length, so that no size in a graph depends on data.

    Args:
        boxes: float32 ``[P, 4]``: x1, y1, x2, y2; P >= 1.
        scores: float32 ``[P]``.
        classes: int64 ``[P]``, from 0: only boxes of one class suppress each other.
        iou_threshold: a box whose IoU with a better one is above it is dropped; 0 to 1.
        score_threshold: only scores above it count.
        max_output: length of the output, at least 1.

    Returns:
        int64 ``[max_output]``: indices of the boxes kept, by descending score, then -1.

    Raises:
        ValueError: ``iou_threshold`` or ``max_output`` out of range.

    Source: ``docs/nms.md``.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}, expected 0 to 1")
    if max_output < 1:
        raise ValueError(f"max_output is {max_output}, expected at least 1")
    run = _op if torch.compiler.is_exporting() else reference
    return run(boxes, scores, classes, iou_threshold, score_threshold, max_output)
