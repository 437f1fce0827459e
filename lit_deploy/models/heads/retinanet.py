"""RetinaNet's head (arXiv 1708.02002): scores and boxes for nine anchors of every cell of five levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_deploy.core.specs import DenseSpec, ModelSpec
from lit_deploy.models.boxes import NEVER, anchors, base_anchors, best, decoded
from lit_deploy.models.convolutions import Convolution

STRIDES = (8, 16, 32, 64, 128)
RATIOS = (0.5, 1.0, 2.0)
SCALES = tuple(4 * 2 ** (octave / 3) for octave in range(3))
ANCHORS = len(RATIOS) * len(SCALES)
CONVOLUTIONS = 4


class RetinaHead(nn.Module):
    """Shared by all levels. Source: official code at commit 742e961."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.head_channels
        self.classes = spec.num_classes

        def tower() -> nn.ModuleList:
            dims = (spec.neck_channels, *[width] * (CONVOLUTIONS - 1))
            return nn.ModuleList(Convolution(dim, width, 3, relu=True) for dim in dims)

        self.cls_convs, self.reg_convs = tower(), tower()
        self.retina_cls = nn.Conv2d(width, ANCHORS * spec.num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(width, ANCHORS * 4, 3, padding=1)
        for level, stride in enumerate(STRIDES):
            self.register_buffer(f"anchors{level}", base_anchors(stride, RATIOS, SCALES), persistent=False)

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Logits ``[1, anchors * classes, h, w]`` and deltas ``[1, anchors * 4, h, w]`` of every level."""
        found = []
        for x in levels:
            scores = deltas = x
            for conv in self.cls_convs:
                scores = conv(scores)
            for conv in self.reg_convs:
                deltas = conv(deltas)
            found.append((self.retina_cls(scores), self.retina_reg(deltas)))
        return found

    def candidates(
        self, found: Sequence[tuple[Tensor, Tensor]], limit: Tensor, spec: DenseSpec
    ) -> tuple[Tensor, Tensor]:
        """Boxes ``[N, 4]`` in pixels of the network's input and scores ``[N, classes]``, float32.

        Args:
            found: what ``forward`` returned of one image; ``limit``: see ``boxes.decoded``.
        """
        boxes, scores = [], []
        for level, (logits, deltas) in enumerate(found):
            height, width = logits.shape[2:]
            logits = logits[0].permute(1, 2, 0).float().reshape(-1, self.classes)
            deltas = deltas[0].permute(1, 2, 0).float().reshape(-1, 4)
            # The sigmoid rises, so what is best is known before it, and it is taken of the chosen ones only.
            index, counts = best(logits.amax(dim=1), spec.candidates)
            cells = anchors(getattr(self, f"anchors{level}"), STRIDES[level], height, width)
            boxes.append(decoded(cells[index], deltas[index], limit, (1.0, 1.0, 1.0, 1.0)))
            scores.append(torch.where(counts[:, None], logits[index].sigmoid(), NEVER))
        return torch.cat(boxes), torch.cat(scores)
