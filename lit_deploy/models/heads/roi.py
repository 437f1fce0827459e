"""Mask R-CNN's second stage (arXiv 1703.06870): classes, boxes and masks of regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.boxes import decoded
from lit_deploy.models.convolutions import Convolution
from lit_deploy.ops.multi_level_roi_align.library import multi_level_roi_align

BOX_SIZE, MASK_INPUT = 7, 14
LEVELS = 4
CONVOLUTIONS = 4
STDS = (0.1, 0.1, 0.2, 0.2)


class BoxHead(nn.Module):
    """Two hidden layers, then the logits of every class and of the background, which is the last, and their boxes."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.head_channels
        self.shared_fcs = nn.ModuleList(
            (nn.Linear(spec.neck_channels * BOX_SIZE**2, width), nn.Linear(width, width)),
        )
        self.fc_cls = nn.Linear(width, spec.num_classes + 1)
        self.fc_reg = nn.Linear(width, spec.num_classes * 4)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Regions ``[R, C, 7, 7]`` to logits ``[R, classes + 1]`` and deltas ``[R, classes * 4]``."""
        x = regions.flatten(1)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    """Four convolutions, twice the size, a mask for every class."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.neck_channels
        self.convs = nn.ModuleList(Convolution(width, width, 3, relu=True) for _ in range(CONVOLUTIONS))
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.conv_logits = nn.Conv2d(width, spec.num_classes, 1)

    def forward(self, regions: Tensor, labels: Tensor) -> Tensor:
        """Regions ``[R, C, 14, 14]`` to the probabilities ``[R, 28, 28]``, float32, of the class each was given."""
        x = regions
        for conv in self.convs:
            x = conv(x)
        logits = self.conv_logits(F.relu(self.upsample(x)))
        index = labels.to(torch.int64).clamp(min=0)[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        return logits.gather(1, index)[:, 0].float().sigmoid()


class RoiHead(nn.Module):
    """Both heads. Source: official code at commit 742e961."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.classes = spec.num_classes
        self.bbox_head = BoxHead(spec)
        self.mask_head = MaskHead(spec)

    def candidates(
        self, levels: Sequence[Tensor], proposals: Tensor, counts: Tensor, limit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes ``[P, classes, 4]`` in pixels of the network's input and scores ``[P, classes]``, float32.

        Args:
            levels: of the pyramid; ``proposals`` ``[P, 4]``, of which those in ``counts`` ``[P]`` count.
            limit: see ``boxes.decoded``.
        """
        logits, deltas = self.bbox_head(multi_level_roi_align(proposals, *levels[:LEVELS], output_size=BOX_SIZE))
        scores = logits.float().softmax(dim=1)[:, : self.classes]
        every = proposals[:, None].expand(-1, self.classes, -1)
        boxes = decoded(every, deltas.float().unflatten(1, (self.classes, 4)), limit, STDS)
        # The official code takes a proposal that ends at row 0 for one that fills up a batch, and sets its logits to 0.
        # Of 80 classes none then reaches the threshold. Of a few, all would, as boxes without an area.
        counts = counts & (proposals[:, 3] != 0)
        return boxes, torch.where(counts[:, None], scores, 0.0)

    def masks(self, levels: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities ``[R, 28, 28]``, float32, inside boxes ``[R, 4]`` in pixels of the network's input.

        A box that ends at row 0 has no mask in the official code; here it is empty.
        """
        regions = multi_level_roi_align(boxes, *levels[:LEVELS], output_size=MASK_INPUT)
        return torch.where((boxes[:, 3] == 0)[:, None, None], 0.0, self.mask_head(regions, labels))
