"""Class-aware non-maximum suppression in plain PyTorch: the definition that every kernel is tested against.

Source: mmcv's ``batched_nms`` as the official detectors call it (class offsets in float32, IoU without + 1).
Operator text: ``docs/nms.md``, version 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_deploy.ops.nms.schema import PADDING


def reference(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, score_threshold: float, max_output: int
) -> Tensor:
    """Keep boxes greedily by descending score, from elementary PyTorch operations in float32.

    Args:
        boxes: float32 ``[P, 4]``: x1, y1, x2, y2.
        scores: float32 ``[P]``; NaN is never kept.
        classes: int64 ``[P]``.
        iou_threshold: a box whose IoU with a kept box is above it is dropped; rounded to float32.
        score_threshold: only scores above it count; rounded to float32.
        max_output: length of the output.

    Returns:
        int64 ``[max_output]``: indices of the boxes kept, best first (ties: lower index first), then -1.
    """
    iou_limit, least = (torch.tensor(v, dtype=torch.float32) for v in (iou_threshold, score_threshold))
    candidates = torch.nonzero(scores > least.to(scores.device)).squeeze(1)
    kept = torch.full((max_output,), PADDING, dtype=torch.int64, device=boxes.device)
    if candidates.numel() == 0:
        return kept
    order = torch.sort(scores[candidates], descending=True, stable=True).indices
    candidates = candidates[order]

    corners = boxes[candidates]
    extent = corners.max().clamp(min=0) + 1
    corners = corners + (classes[candidates].to(torch.float32) * extent).unsqueeze(1)
    low = torch.minimum(corners[:, :2], corners[:, 2:])
    high = torch.maximum(corners[:, :2], corners[:, 2:])
    area = (high - low).prod(1)

    for place in range(max_output):
        kept[place] = candidates[0]
        sides = torch.minimum(high[0], high[1:]) - torch.maximum(low[0], low[1:])
        intersection = sides[:, 0] * sides[:, 1]
        union = area[0] + area[1:] - intersection
        overlap = (sides > 0).all(1) & (area[0] > 0) & (area[1:] > 0) & (union > 0)
        left = ~(overlap & (intersection / union > iou_limit.to(boxes.device)))
        candidates, low, high, area = (rest[1:][left] for rest in (candidates, low, high, area))
        if candidates.numel() == 0:
            break
    return kept
