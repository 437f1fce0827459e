"""Tokens and weights that make the merging sample at given offsets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def with_explicit_offsets(image: np.ndarray, offset: np.ndarray) -> tuple[Tensor, Tensor]:
    """Tokens and offset weights that make the operator use the given offsets.

    Eight more channels hold the offsets in the first token of every patch; the weight picks exactly those.

    Returns:
        ``[B, H, W, C + 8]`` and ``[8, 4 * (C + 8)]``.
    """
    batch, channels, height, width = image.shape
    tokens = np.zeros((batch, height, width, channels + 8), dtype=np.float32)
    tokens[..., :channels] = image.transpose(0, 2, 3, 1)
    rows, cols = height // 2, width // 2
    tokens[:, : 2 * rows : 2, : 2 * cols : 2, channels:] = offset.transpose(0, 2, 3, 1)
    weight = torch.zeros(8, 4 * (channels + 8))
    weight[:, channels : channels + 8] = torch.eye(8)
    return torch.from_numpy(tokens), weight
