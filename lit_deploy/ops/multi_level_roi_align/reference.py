"""RoIAlign over a feature pyramid in plain PyTorch: the definition that every kernel is tested against.

Source: mmdet's ``SingleRoIExtractor`` with mmcv's ``RoIAlign(aligned=True, sampling_ratio=0)``.
Operator text: ``docs/multi_level_roi_align.md``, version 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lit_deploy.ops.multi_level_roi_align.schema import FINEST_SCALE, LEVEL_BOUNDS, SCALE_EPSILON, STRIDES

RUNG = 1.5
"""Regions whose heights, and whose widths, lie between the same two powers of this are pooled together: in windows of
the largest of them, of which a region fills a third or more, and usually half."""

GROUP_VALUES = 1 << 21
"""Values of all windows of a group together: 8 MiB in float32, about what a cache holds."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its sizes depend on data: nothing there to compile
def reference(rois: Tensor, levels: Sequence[Tensor], output_size: int) -> Tensor:
    """Pool every region from its level, differentiably in the levels, from elementary PyTorch operations.

    A bilinear sample is a product of a weight for its row and one for its column, and so is the mean over a grid of
    them: each region is ``rows @ window @ columns.T``, with two small matrices of summed weights. Regions of about the
    same size are pooled together.

    Args:
        rois: float32 ``[K, 4]``: x1, y1, x2, y2 in pixels of the network's input.
        levels: four maps ``[1, C, H, W]`` of one dtype, with strides 4, 8, 16 and 32.
        output_size: height and width S of a pooled region.

    Returns:
        ``[K, C, S, S]``, dtype of the levels. Computed in float32 (float64 for float64 levels), rounded once.
    """
    dtype = levels[0].dtype
    compute = torch.promote_types(dtype, torch.float32)
    channels = levels[0].shape[1]
    pooled = rois.new_zeros(rois.shape[0], channels, output_size, output_size, dtype=compute)
    extents = rois[:, 2:] - rois[:, :2]
    which = torch.where((extents > 0).all(dim=1), roi_levels(rois), -1)
    for index, level in enumerate(levels):
        members = (which == index).nonzero()[:, 0]
        if len(members):
            pixels = rois[members] * (1 / STRIDES[index]) - 0.5
            for group, found in _pooled(pixels, level[0].to(compute), output_size):
                pooled[members[group]] = found
    return pooled.to(dtype)


def roi_levels(rois: Tensor) -> Tensor:
    """Index of the level that each of the regions ``[K, 4]`` is pooled from: int64 ``[K]``, 0 to 3."""
    width, height = rois[:, 2] - rois[:, 0], rois[:, 3] - rois[:, 1]
    scale = (width * height).clamp(min=0).sqrt() / FINEST_SCALE + SCALE_EPSILON
    return sum((scale >= bound).long() for bound in LEVEL_BOUNDS) + torch.zeros_like(scale, dtype=torch.int64)


def _pooled(pixels: Tensor, level: Tensor, bins: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pool regions with an area, ``[K, 4]`` in cells, of a map ``[C, H, W]``.

    Yields:
        Indices ``[G]`` of some regions, and what becomes of them: ``[G, C, bins, bins]``.
    """
    channels, height, width = level.shape
    top, high, rows = _axis_weights(pixels[:, 1], pixels[:, 3], height, bins)
    left, wide, columns = _axis_weights(pixels[:, 0], pixels[:, 2], width, bins)
    rows, columns = rows.to(level.dtype), columns.to(level.dtype)
    cells = level.flatten(1).T.contiguous()  # a cell's channels side by side: gathered at once
    for group, height_, width_ in _groups(high, wide, channels):
        row = (top[group, None] + torch.arange(height_, device=top.device)).clamp(max=height - 1)
        column = (left[group, None] + torch.arange(width_, device=left.device)).clamp(max=width - 1)
        places = (row * width)[:, :, None] + column[:, None, :]
        windows = cells.index_select(0, places.flatten()).view(len(group), height_, width_ * channels)
        found = (rows[group, :, :height_] @ windows).unflatten(2, (width_, channels)).transpose(1, 2)
        found = columns[group, :, :width_] @ found.flatten(2)
        yield group, found.unflatten(2, (bins, channels)).permute(0, 3, 2, 1)


def _groups(high: Tensor, wide: Tensor, channels: int) -> Iterator[tuple[Tensor, int, int]]:
    """Regions whose windows of ``high`` x ``wide`` cells (int64 ``[K]``) are alike: indices, and the largest window."""
    rungs = (torch.stack((high, wide), dim=1).log() / math.log(RUNG)).ceil()
    kinds, members = torch.unique(rungs, dim=0, return_inverse=True)
    for index in range(len(kinds)):
        alike = (members == index).nonzero()[:, 0]
        height, width = int(high[alike].max()), int(wide[alike].max())
        for group in alike.split(max(1, GROUP_VALUES // (height * width * channels))):
            yield group, height, width


def _axis_weights(start: Tensor, end: Tensor, size: int, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the cells of one axis contribute to each bin.

    Args:
        start, end: float32 ``[K]``, the regions' borders in cells, the centre of a cell being an integer; each ends
            behind its start.
        size: cells of the axis.
        bins: bins of the axis.

    Returns:
        For every region the first cell that contributes (int64 ``[K]``), the number of cells behind which none does,
        and the weights of the first cell and those behind it: float32 ``[K, bins, largest of those numbers]``.
    """
    per_bin = ((end - start) / bins)[:, None, None]
    samples = per_bin.detach().ceil()
    bin_ = torch.arange(bins, dtype=torch.float32, device=start.device)[:, None]
    step = torch.arange(int(samples.max()), dtype=torch.float32, device=start.device)
    position = start[:, None, None] + bin_ * per_bin + (step + 0.5) * per_bin / samples

    counts = (step < samples) & (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    below = position.detach().floor().long()
    fraction = position - below
    # One cell more than the last sample's neighbour, as its position is rounded.
    first, last = (border.detach().floor().clamp(0, size - 1).long() for border in (start, end + 2))
    lengths = last - first + 1
    longest = int(lengths.max())
    share = counts.to(torch.float32) / samples
    weights = start.new_zeros(len(start), bins, longest)
    for cell, weight in ((below, share * (1 - fraction)), ((below + 1).clamp(max=size - 1), share * fraction)):
        weights = weights.scatter_add(2, (cell - first[:, None, None]).clamp(0, longest - 1), weight)
    return first, lengths, weights
