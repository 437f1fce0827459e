"""Attention with a relative position bias in plain PyTorch: the definition that every kernel is tested against.

Papers: "Less is More: Pay Less Attention in Vision Transformers" (the blocks) and "Swin Transformer" (the bias).
Operator text: ``docs/relative_position_attention.md``, version 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reference(qkv: Tensor, table: Tensor, num_heads: int, scale: float) -> Tensor:
    """Compute the attention, differentiably, from elementary PyTorch operations.

    One head after the other: the logits of one head are all that is ever held, ``B * N * N`` twice.

    Args:
        qkv: ``[B, N, 3*C]``, q, k and v side by side, heads contiguous inside each; float32, float16, bfloat16 or
            float64.
        table: ``[num_heads, 2H-1, 2W-1]`` with ``N = H*W``; float32 (or float64). Without elements: no bias.
        num_heads: attention heads, a divisor of C.
        scale: factor of q . k.

    Returns:
        ``[B, N, C]``, same dtype as ``qkv``, contiguous. Computed in float32 (float64 for float64 input), rounded once.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    batch, tokens, width = qkv.shape
    if width % (3 * num_heads):
        raise ValueError(f"qkv has {width} columns, expected a multiple of 3 * num_heads = {3 * num_heads}")
    biased = table.numel() > 0
    if biased:
        heads, height, columns = (table.shape[0], (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2)
        if heads != num_heads or height * columns != tokens or not (table.shape[1] % 2 and table.shape[2] % 2):
            raise ValueError(
                f"table has shape {list(table.shape)}, expected [{num_heads}, 2H-1, 2W-1] with H*W = {tokens}"
            )
    compute = torch.promote_types(qkv.dtype, torch.float32)
    # The keys in reverse order: the bias of query (r, c) then is the window of the table that begins at (r, c).
    query, key, value = qkv.to(compute).reshape(batch, tokens, 3, num_heads, width // (3 * num_heads)).unbind(2)
    query, key, value = query * scale, key.flip(1), value.flip(1)
    if biased:
        windows = table.to(compute).unfold(1, height, 1).unfold(2, columns, 1)
    heads_done = []
    for head in range(num_heads):
        logits = query[:, :, head] @ key[:, :, head].transpose(1, 2)
        if biased:
            logits.view(batch, height, columns, height, columns).add_(windows[head])
        heads_done.append(logits.softmax(-1) @ value[:, :, head])
    return torch.cat(heads_done, dim=-1).to(qkv.dtype)
