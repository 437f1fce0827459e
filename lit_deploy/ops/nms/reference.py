"""Class-aware non-maximum suppression in plain PyTorch: the definition that every kernel is tested against.

Source: mmcv's ``batched_nms`` as the official detectors call it (class offsets in float32, IoU without + 1).
Operator text: ``docs/nms.md``, version 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_deploy.ops.nms.schema import PADDING

BLOCK = 256
"""Boxes that are compared with each other, and with all that were kept before, at a time."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its sizes depend on data: nothing there to compile
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
    iou_limit, least = (
        torch.tensor(v, dtype=torch.float32, device=boxes.device) for v in (iou_threshold, score_threshold)
    )
    result = torch.full((max_output,), PADDING, dtype=torch.int64, device=boxes.device)
    candidates = torch.nonzero(scores > least).squeeze(1)
    if candidates.numel() == 0:
        return result
    order = torch.sort(scores[candidates], descending=True, stable=True).indices
    candidates = candidates[order]

    corners = boxes[candidates]
    extent = corners.max().clamp(min=0) + 1
    corners = corners + (classes[candidates].to(torch.float32) * extent).unsqueeze(1)
    sides = torch.cat((torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])), 1)

    kept = candidates.new_zeros(0)  # places in the order
    for start in range(0, len(candidates), BLOCK):
        block = sides[start : start + BLOCK]
        free = ~_overlap(sides[kept], block, iou_limit).any(dim=0)
        kept = torch.cat((kept, start + _greedy(_overlap(block, block, iou_limit), free)))[:max_output]
        if len(kept) == max_output:
            break
    result[: len(kept)] = candidates[kept]
    return result


def _overlap(left: Tensor, right: Tensor, limit: Tensor) -> Tensor:
    """Whether the IoU of boxes ``[N, 4]`` and ``[M, 4]``, low corners first, is above ``limit``: bool ``[N, M]``."""
    left, right = left[:, None], right[None]
    area, others = ((boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (left, right))
    sides = torch.minimum(left[..., 2:], right[..., 2:]) - torch.maximum(left[..., :2], right[..., :2])
    intersection = sides[..., 0] * sides[..., 1]
    union = area + others - intersection
    able = (sides > 0).all(dim=-1) & (area > 0) & (others > 0) & (union > 0)
    return able & (intersection / union > limit)


def _greedy(overlap: Tensor, free: Tensor) -> Tensor:
    """Indices of the boxes that stay, best first.

    Of the boxes that are free, those stay that no better one which stays overlaps: the fixed point of this sentence.
    One round settles at least the first box that is not yet settled, and in practice all of them after a few.

    Args:
        overlap: bool ``[N, N]``; ``free``: bool ``[N]``.
    """
    suppresses = overlap.triu(diagonal=1)
    stays = free
    while True:
        settled = free & ~(stays[:, None] & suppresses).any(dim=0)
        if torch.equal(settled, stays):
            return stays.nonzero()[:, 0]
        stays = settled
