"""RoIAlign over a feature pyramid in plain PyTorch: the definition that every kernel is tested against.

Source: mmdet's ``SingleRoIExtractor`` with mmcv's ``RoIAlign(aligned=True, sampling_ratio=0)``.
Operator text: ``docs/multi_level_roi_align.md``, version 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_deploy.ops.multi_level_roi_align.schema import FINEST_SCALE, LEVEL_BOUNDS, SCALE_EPSILON, STRIDES


def reference(rois: Tensor, levels: Sequence[Tensor], output_size: int) -> Tensor:
    """Pool every region from its level, differentiably in the levels, from elementary PyTorch operations.

    A bilinear sample is a product of a weight for its row and one for its column, and so is the mean over a grid of
    them: each region is ``rows @ window @ columns.T``, with two small matrices of summed weights.

    Args:
        rois: float32 ``[K, 4]``: x1, y1, x2, y2 in pixels of the network's input.
        levels: four maps ``[1, C, H, W]`` of one dtype, with strides 4, 8, 16 and 32.
        output_size: height and width S of a pooled region.

    Returns:
        ``[K, C, S, S]``, dtype of the levels. Computed in float32 (float64 for float64 levels), rounded once.
    """
    dtype = levels[0].dtype
    compute = torch.promote_types(dtype, torch.float32)
    maps = [level[0].to(compute) for level in levels]
    which = roi_levels(rois).tolist()
    pooled = [rois.new_zeros(0, maps[0].shape[0], output_size, output_size, dtype=compute)]
    for roi, index in zip(rois, which, strict=True):
        channels, height, width = maps[index].shape
        pixels = roi * (1 / STRIDES[index]) - 0.5
        row, rows = _axis_weights(pixels[1], pixels[3], height, output_size)
        column, columns = _axis_weights(pixels[0], pixels[2], width, output_size)
        if 0 in (*rows.shape, *columns.shape):
            pooled.append(rois.new_zeros(1, channels, output_size, output_size, dtype=compute))
            continue
        window = maps[index][:, row : row + rows.shape[1], column : column + columns.shape[1]]
        pooled.append((rows.to(compute) @ (window @ columns.to(compute).T)).unsqueeze(0))
    return torch.cat(pooled).to(dtype)


def roi_levels(rois: Tensor) -> Tensor:
    """Index of the level that each of the regions ``[K, 4]`` is pooled from: int64 ``[K]``, 0 to 3."""
    width, height = rois[:, 2] - rois[:, 0], rois[:, 3] - rois[:, 1]
    scale = (width * height).clamp(min=0).sqrt() / FINEST_SCALE + SCALE_EPSILON
    return sum((scale >= bound).long() for bound in LEVEL_BOUNDS) + torch.zeros_like(scale, dtype=torch.int64)


def _axis_weights(start: Tensor, end: Tensor, size: int, bins: int) -> tuple[int, Tensor]:
    """What the cells of one axis contribute to each bin.

    Args:
        start, end: float32 scalars, the region's borders in cells, the centre of a cell being an integer.
        size: cells of the axis.
        bins: bins of the axis.

    Returns:
        the first cell that contributes, and float32 weights ``[bins, n]`` of it and its neighbours; n is 0 where none
        contributes.
    """
    extent = end - start
    if not bool(extent > 0):
        return 0, start.new_zeros(bins, 0)
    per_bin = extent / bins
    samples = int(per_bin.ceil())
    bin_ = torch.arange(bins, dtype=torch.float32, device=start.device).unsqueeze(1)
    step = torch.arange(samples, dtype=torch.float32, device=start.device)
    position = start + bin_ * per_bin + (step + 0.5) * per_bin / samples

    on_map = (position >= -1) & (position <= size)
    if not bool(on_map.any()):
        return 0, start.new_zeros(bins, 0)
    position = position.clamp(0, size - 1)
    below = position.detach().floor().long()
    above = (below + 1).clamp(max=size - 1)
    fraction = position - below
    share = on_map.to(torch.float32) / samples
    first, last = int(below[on_map].min()), int(above[on_map].max())
    weights = start.new_zeros(bins, last - first + 1)
    for cell, weight in ((below, share * (1 - fraction)), (above, share * fraction)):
        weights = weights.scatter_add(1, (cell - first).clamp(0, last - first), weight)
    return first, weights
