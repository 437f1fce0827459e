"""The region proposal network (arXiv 1506.01497): a thousand boxes that may hold something."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_deploy.core.specs import DenseSpec, ModelSpec
from lit_deploy.models.boxes import NEVER, anchors, base_anchors, best, decoded
from lit_deploy.ops.nms.library import nms

STRIDES = (4, 8, 16, 32, 64)
RATIOS = (0.5, 1.0, 2.0)
SCALES = (8.0,)
ANCHORS = len(RATIOS) * len(SCALES)
IOU_THRESHOLD = 0.7


class RpnHead(nn.Module):
    """Shared by all levels. Source: official code at commit 742e961."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.neck_channels
        self.rpn_conv = nn.Conv2d(width, width, 3, padding=1)
        self.rpn_cls = nn.Conv2d(width, ANCHORS, 1)
        self.rpn_reg = nn.Conv2d(width, ANCHORS * 4, 1)
        for level, stride in enumerate(STRIDES):
            self.register_buffer(f"anchors{level}", base_anchors(stride, RATIOS, SCALES), persistent=False)

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Logits ``[1, anchors, h, w]`` and deltas ``[1, anchors * 4, h, w]`` of every level."""
        found = []
        for level in levels:
            x = F.relu(self.rpn_conv(level))
            found.append((self.rpn_cls(x), self.rpn_reg(x)))
        return found

    def proposals(
        self, found: Sequence[tuple[Tensor, Tensor]], limit: Tensor, spec: DenseSpec
    ) -> tuple[Tensor, Tensor]:
        """Boxes ``[P, 4]`` in pixels of the network's input, P = ``spec.candidates``, and which of them count.

        Boxes of no area are kept, as the official code keeps them; the rows that do not count are zeros.

        Args:
            found: what ``forward`` returned of one image; ``limit``: see ``boxes.decoded``.
        """
        boxes, scores, levels = [], [], []
        for level, (logits, deltas) in enumerate(found):
            height, width = logits.shape[2:]
            flat = logits[0].permute(1, 2, 0).float().flatten()
            deltas = deltas[0].permute(1, 2, 0).float().reshape(-1, 4)
            index, counts = best(flat, spec.candidates)
            cells = anchors(getattr(self, f"anchors{level}"), STRIDES[level], height, width)
            boxes.append(decoded(cells[index], deltas[index], limit, (1.0, 1.0, 1.0, 1.0)))
            scores.append(torch.where(counts, flat[index].sigmoid(), NEVER))
            levels.append(torch.full_like(index, level))
        every = torch.cat(boxes)
        kept = nms(
            every,
            torch.cat(scores),
            torch.cat(levels),
            iou_threshold=IOU_THRESHOLD,
            score_threshold=-1.0,
            max_output=spec.candidates,
        )
        counts = kept >= 0
        return torch.where(counts[:, None], every[kept.clamp(min=0)], 0.0), counts
