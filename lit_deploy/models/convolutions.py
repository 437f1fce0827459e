"""Convolutions of necks and heads, with the parameter names of the official checkpoints."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Convolution(nn.Module):
    """A convolution of odd kernel that keeps the size of the map (at stride 1), and what follows it.

    Keys ``conv.*`` and, with ``norm``, ``bn.*``; a normalised convolution has no bias.
    Source: official code at commit 742e961.
    """

    def __init__(
        self, in_dim: int, out_dim: int, kernel: int, *, stride: int = 1, norm: bool = False, relu: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim, kernel, stride, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(out_dim) if norm else None
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x if self.bn is None else self.bn(x)
        return F.relu(x) if self.relu else x


def next_multiple(side: int, multiple: int) -> int:
    """The least multiple of a number that is not below a side, which may be a symbol of torch.export."""
    return (side + multiple - 1) // multiple * multiple


def padded(image: Tensor, multiple: int) -> Tensor:
    """Add zeros on the right and below to an image ``[B, C, H, W]``, until both sides are multiples of a number."""
    height, width = image.shape[2:]
    rows, cols = (next_multiple(side, multiple) - side for side in (height, width))
    return F.pad(image, (0, cols, 0, rows))
