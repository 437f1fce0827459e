"""Anchors, box decoding and the choice of detections; everything in float32, boxes as x1 y1 x2 y2.

Source: official code at commit 742e961 (mmdet 2.11).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_deploy.core.specs import DenseSpec
from lit_deploy.ops.nms.library import nms

NEVER = -2.0
"""Score of what is no candidate: below every threshold."""

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""Limit of the predicted logarithm of a box's width or height over its anchor's."""


def base_anchors(stride: int, ratios: Sequence[float], scales: Sequence[float]) -> Tensor:
    """Anchors ``[len(ratios) * len(scales), 4]`` of a cell at the origin, ratio-major; a ratio is height over width."""
    roots = torch.tensor(ratios).sqrt()
    factors = torch.tensor(scales)
    widths = (stride * (1 / roots)[:, None] * factors).flatten()
    heights = (stride * roots[:, None] * factors).flatten()
    return torch.stack((-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights), dim=1)


def anchors(base: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Anchors ``[height * width * len(base), 4]`` of a map: cells row-major, centred on their top left corners."""
    x = (torch.arange(width, device=base.device) * stride).to(torch.float32)
    y = (torch.arange(height, device=base.device) * stride).to(torch.float32)
    x = x[None, :].expand(height, width)
    y = y[:, None].expand(height, width)
    return (torch.stack((x, y, x, y), dim=-1)[:, :, None] + base).flatten(0, 2)


def decoded(boxes: Tensor, deltas: Tensor, limit: Tensor, stds: tuple[float, float, float, float]) -> Tensor:
    """Move boxes ``[..., 4]`` by predicted ``deltas`` of the same shape, then clip them.

    Args:
        boxes: anchors or proposals.
        deltas: dx, dy over the box's size, and the logarithms of the ratios of width and height.
        limit: ``[4]``: width, height, width, height of the image without padding.
        stds: what the deltas are multiplied with.
    """
    dx, dy, dw, dh = (deltas * deltas.new_tensor(stds)).unbind(-1)
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    x, y = (x1 + x2) * 0.5 + width * dx, (y1 + y2) * 0.5 + height * dy
    half_width = width * dw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    half_height = height * dh.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    corners = torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)
    return torch.minimum(corners.clamp(min=0), limit)


def width_height(size: Sequence[int]) -> Tensor:
    """Height and width as a float32 tensor ``[4]``: width, height, width, height."""
    height, width = (torch.full((1,), side, dtype=torch.float32) for side in size)
    return torch.cat((width, height, width, height))


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices ``[count]`` of the highest of ``scores`` ``[N]``, best first, and which of them count.

    Where N is smaller the rest of the indices say nothing. The length is fixed so that no size behind this depends on
    the picture's: torch.export takes a minute more for a graph in which they do.
    """
    index = F.pad(scores, (0, count), value=-torch.inf).topk(count).indices
    return index.clamp(max=scores.shape[0] - 1), index < scores.shape[0]


def detections(boxes: Tensor, scores: Tensor, spec: DenseSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The detections among candidates, by non-maximum suppression of every class.

    Args:
        boxes: ``[N, 4]`` or ``[N, classes, 4]``, pixels of the original picture; ``scores``: ``[N, classes]``.

    Returns:
        Boxes ``[K, 4]``, scores ``[K]`` and int32 labels ``[K]``, best first, filled up with label -1 to
        ``spec.max_detections``; and how many count, int32 ``[1]``.
    """
    classes = scores.shape[1]
    if boxes.ndim == 2:
        boxes = boxes[:, None].expand(-1, classes, -1)
    boxes, flat = boxes.flatten(0, 1), scores.flatten()
    labels = torch.arange(classes, device=scores.device)[None].expand_as(scores).flatten()
    kept = nms(
        boxes,
        flat,
        labels,
        iou_threshold=spec.iou_threshold,
        score_threshold=spec.score_threshold,
        max_output=spec.max_detections,
    )
    counts, index = kept >= 0, kept.clamp(min=0)
    return (
        torch.where(counts[:, None], boxes[index], 0.0),
        torch.where(counts, flat[index], 0.0),
        torch.where(counts, labels[index], -1).to(torch.int32),
        counts.sum(dim=0, keepdim=True).to(torch.int32),
    )
