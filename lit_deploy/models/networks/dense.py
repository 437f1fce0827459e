"""Detectors and segmentation networks: LIT backbone, feature pyramid, head, and what is made of the head's outputs.

All take a normalised, unpadded image ``[1, 3, H, W]``, the height and width of the picture it was resized from (int64
``[2]``), and the thresholds; they return what their task promises. Source: official code at commit 742e961.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_deploy.core.specs import DenseSpec, ModelSpec
from lit_deploy.models.boxes import detections, width_height
from lit_deploy.models.convolutions import padded
from lit_deploy.models.heads.retinanet import RetinaHead
from lit_deploy.models.heads.roi import RoiHead
from lit_deploy.models.heads.rpn import RpnHead
from lit_deploy.models.heads.sem_fpn import SemFpnHead, resized
from lit_deploy.models.necks.fpn import Fpn

PAD_MULTIPLE = 32
"""Both sides of a detector's image are padded to a multiple of this."""

CHUNK = 16
"""Classes whose logits exist at the original size at the same time; all of a large picture would not fit in memory."""


def original_over(original_size: Tensor) -> Tensor:
    """Height and width ``[2]`` as float32 ``[4]``: width, height, width, height."""
    return original_size.flip(0).to(torch.float32).repeat(2)


def _number(tensor: Tensor) -> int:
    """The one number in an integer tensor. Not by ``int``: to torch.export it is a symbol, which that would resolve."""
    return tensor.item()  # type: ignore[return-value]


class RetinaNet(nn.Module):
    """To boxes ``[1, K, 4]`` in pixels of the original picture, scores, labels and their number."""

    def __init__(self, spec: ModelSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = Fpn(spec.embed_dims[1:], spec.neck_channels, further=2)
        self.bbox_head = RetinaHead(spec)

    def forward(self, image: Tensor, original_size: Tensor, spec: DenseSpec) -> tuple[Tensor, ...]:
        found = self.bbox_head(self.neck(self.backbone(padded(image, PAD_MULTIPLE))[1:]))
        limit = width_height(image.shape[2:])
        boxes, scores = self.bbox_head.candidates(found, limit, spec)
        *rows, num = detections(boxes / (limit / original_over(original_size)), scores, spec)
        return (*(row[None] for row in rows), num)


class MaskRcnn(nn.Module):
    """To what ``RetinaNet`` returns, and masks ``[1, K, 28, 28]``."""

    def __init__(self, spec: ModelSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = Fpn(spec.embed_dims, spec.neck_channels)
        self.rpn_head = RpnHead(spec)
        self.roi_head = RoiHead(spec)

    def forward(self, image: Tensor, original_size: Tensor, spec: DenseSpec) -> tuple[Tensor, ...]:
        levels = self.neck(self.backbone(padded(image, PAD_MULTIPLE)))
        levels.append(levels[-1][:, :, ::2, ::2])
        limit = width_height(image.shape[2:])
        proposals, counts = self.rpn_head.proposals(self.rpn_head(levels), limit, spec)
        boxes, scores = self.roi_head.candidates(levels, proposals, counts, limit)
        scale = limit / original_over(original_size)
        boxes, scores, labels, num = detections(boxes / scale, scores, spec)
        rows = _number(num.clamp(min=1))  # a mask for every detection, and never none: runtimes trip over no rows
        torch._check(rows >= 1)
        torch._check(rows <= spec.max_detections)
        masks = self.roi_head.masks(levels, boxes[:rows] * scale, labels[:rows])
        masks = F.pad(masks, (0, 0, 0, 0, 0, spec.max_detections - rows))
        masks = torch.where((labels >= 0)[:, None, None], masks, 0.0)
        return boxes[None], scores[None], labels[None], num, masks[None]


class SemanticFpn(nn.Module):
    """To a label map, uint8 ``[1, h, w]``, or logits ``[1, classes, h, w]``, at the size of the original picture.

    The logits are resized twice, to the size of the image and to that of the original picture, as officially.
    """

    def __init__(self, spec: ModelSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = Fpn(spec.embed_dims, spec.neck_channels)
        self.decode_head = SemFpnHead(spec)

    def logits(self, image: Tensor) -> Tensor:
        """Logits ``[1, classes, h/4, w/4]``, float32."""
        return self.decode_head(self.neck(self.backbone(image))).float()

    def forward(self, image: Tensor, original_size: Tensor, spec: DenseSpec, *, labels: bool = True) -> tuple[Tensor]:
        low, size = self.logits(image), image.shape[2:]
        height, width = _number(original_size[:1]), _number(original_size[1:])
        torch._check(height >= 1)
        torch._check(width >= 1)
        if not labels:
            return (resized(resized(low, size), (height, width)),)
        best: Tensor | None = None
        for start in range(0, low.shape[1], CHUNK):
            value, index = resized(resized(low[:, start : start + CHUNK], size), (height, width)).max(dim=1)
            index = (index + start).to(torch.int32)
            if best is None:
                best, label = value, index
            else:  # of equal logits the first label wins, as argmax has it
                better = value > best
                best, label = torch.where(better, value, best), torch.where(better, index, label)
        return (label.to(torch.uint8),)  # at the end: TensorRT does nothing with bytes but return them
