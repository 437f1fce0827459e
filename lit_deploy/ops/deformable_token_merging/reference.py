"""Deformable token merging in plain PyTorch: the definition that every kernel is tested against.

Paper: "Less is More: Pay Less Attention in Vision Transformers", section 3.3 (deformable token merging).
Operator text: ``docs/deformable_token_merging.md``, version 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_deploy.ops.deformable_token_merging.schema import TAPS


def reference(x: Tensor, offset_weight: Tensor, offset_bias: Tensor) -> Tensor:
    """Compute deformable token merging, differentiably, from elementary PyTorch operations.

    Args:
        x: ``[B, H, W, C]`` tokens, channels last; float32, float16, bfloat16 or float64; H, W >= 2.
        offset_weight: ``[8, 4*C]``, same dtype, tap-major columns (column ``t*C + c``).
        offset_bias: ``[8]``, same dtype; entries ``2t`` and ``2t + 1`` are dy and dx of tap t in pixels.

    Returns:
        ``[B, H//2, W//2, 4*C]``, same dtype, contiguous. Computed in float32 (float64 for float64 input),
        rounded once.
    """
    batch, height, width, channels = x.shape
    rows, cols = height // 2, width // 2
    compute = torch.promote_types(x.dtype, torch.float32)
    tokens = x.to(compute)

    patches = tokens[:, : 2 * rows, : 2 * cols].reshape(batch, rows, 2, cols, 2, channels)
    patches = patches.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows, cols, 4 * channels)
    offset = torch.nn.functional.linear(patches, offset_weight.to(compute), offset_bias.to(compute))

    tap = torch.tensor(TAPS, dtype=compute, device=x.device)
    row = torch.arange(rows, dtype=compute, device=x.device).view(rows, 1, 1)
    col = torch.arange(cols, dtype=compute, device=x.device).view(1, cols, 1)
    y = 2 * row + tap[:, 0] + offset[..., 0::2]
    x_ = 2 * col + tap[:, 1] + offset[..., 1::2]

    # A non-finite or far position samples nothing; -2 is outside the map whatever its size.
    inside = (y > -1) & (y < height) & (x_ > -1) & (x_ < width)
    y = torch.where(inside, y, -2.0)
    x_ = torch.where(inside, x_, -2.0)
    y0, x0 = y.detach().floor(), x_.detach().floor()
    fy, fx = y - y0, x_ - x0

    flat = tokens.reshape(batch * height * width, channels)
    image = torch.arange(batch, device=x.device).view(batch, 1, 1, 1) * (height * width)
    out = torch.zeros(batch, rows, cols, 4, channels, dtype=compute, device=x.device)
    for dy, weight_y in ((0, 1 - fy), (1, fy)):
        for dx, weight_x in ((0, 1 - fx), (1, fx)):
            ny, nx = (y0 + dy).long(), (x0 + dx).long()
            on_map = (ny >= 0) & (ny < height) & (nx >= 0) & (nx < width)
            index = image + ny.clamp(0, height - 1) * width + nx.clamp(0, width - 1)
            neighbour = flat.index_select(0, index.view(-1)).view(batch, rows, cols, 4, channels)
            # Masked, not multiplied by 0: what stands in for a neighbour off the map may be infinite.
            out = out + torch.where(on_map.unsqueeze(-1), (weight_y * weight_x).unsqueeze(-1) * neighbour, 0.0)
    return out.view(batch, rows, cols, 4 * channels).to(x.dtype)


def tap_major_from_conv(weight: Tensor) -> Tensor:
    """Convert a 2x2 convolution's weight ``[out, C, 2, 2]`` to tap-major columns ``[out, 4*C]`` (column ``t*C + c``).

    ``dconv.conv_offset.weight`` becomes the op's ``offset_weight``, ``dconv.weight`` the projection behind it.
    """
    return weight.permute(0, 2, 3, 1).flatten(1)
