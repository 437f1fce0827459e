"""The feature pyramid network (FPN, arXiv 1612.03144) as the official LIT detectors use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lit_deploy.models.convolutions import Convolution


class Fpn(nn.Module):
    """Maps of decreasing size, ``[B, dims[k], h, w]``, to as many of ``channels``: no norm, no activation.

    Args:
        dims: channels of the maps, finest first.
        channels: of every output.
        further: levels that convolutions of stride 2 add, the first of them on the coarsest map that comes in.

    Source: official code at commit 742e961.
    """

    def __init__(self, dims: Sequence[int], channels: int, further: int = 0) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(Convolution(dim, channels, 1) for dim in dims)
        convs = [Convolution(channels, channels, 3) for _ in dims]
        convs += [Convolution(channels if k else dims[-1], channels, 3, stride=2) for k in range(further)]
        self.fpn_convs = nn.ModuleList(convs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for k in range(len(laterals) - 1, 0, -1):
            size = laterals[k - 1].shape[2:]
            laterals[k - 1] = laterals[k - 1] + F.interpolate(laterals[k], size, mode="nearest")
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        x = maps[-1]
        for conv in self.fpn_convs[len(maps) :]:
            x = conv(x)
            levels.append(x)
        return levels
