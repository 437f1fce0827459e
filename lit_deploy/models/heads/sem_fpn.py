"""Semantic FPN's head (arXiv 1901.02446): all levels at the size of the finest, added up, then labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.convolutions import Convolution

LEVELS = 4


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps ``[B, C, h, w]`` at another size, bilinear between pixel centres."""
    return F.interpolate(x, (size[0], size[1]), mode="bilinear", align_corners=False)


class Doubled(nn.Module):
    """Twice the size, bilinear; takes a place, and no key, in the official order of modules."""

    def forward(self, x: Tensor) -> Tensor:
        return resized(x, (2 * x.shape[2], 2 * x.shape[3]))


class SemFpnHead(nn.Module):
    """Source: official code at commit 742e961."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.head_channels
        self.conv_seg = nn.Conv2d(width, spec.num_classes, 1)

        def branch(level: int) -> nn.Sequential:
            modules: list[nn.Module] = []
            for step in range(max(level, 1)):
                modules.append(Convolution(width if step else spec.neck_channels, width, 3, norm=True, relu=True))
                modules += [Doubled()] if level else []
            return nn.Sequential(*modules)

        self.scale_heads = nn.ModuleList(branch(level) for level in range(LEVELS))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels ``[B, C, h, w]`` of strides 4 to 32 to logits ``[B, classes, h, w]`` at stride 4."""
        total = self.scale_heads[0](levels[0])
        for branch, level in zip(self.scale_heads[1:], levels[1:], strict=True):
            total = total + resized(branch(level), total.shape[2:])
        return self.conv_seg(total)
