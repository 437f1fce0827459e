"""``torch.ops.lit_deploy.relative_position_attention``: the operator as PyTorch and its exporter see it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.relative_position_attention.reference import reference


@torch.library.custom_op(f"{DOMAIN}::relative_position_attention", mutates_args=())
def _op(qkv: Tensor, table: Tensor, num_heads: int, scale: float) -> Tensor:
    return reference(qkv, table, num_heads, scale)


@_op.register_fake
def _fake(qkv: Tensor, table: Tensor, num_heads: int, scale: float) -> Tensor:
    # No size is compared with another: H, W and N may be symbols, and a comparison would tie them to the example.
    batch, tokens, width = qkv.shape
    return qkv.new_empty(batch, tokens, width // 3)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, float], output: Tensor) -> None:
    qkv, table, ctx.num_heads, ctx.scale = inputs
    ctx.save_for_backward(qkv, table)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        qkv, table = (t.detach().requires_grad_(needed) for t, needed in zip(ctx.saved_tensors, ctx.needs_input_grad))
        wanted = [t for t in (qkv, table) if t.requires_grad]
        output = reference(qkv, table, ctx.num_heads, ctx.scale)
        # An empty table takes no part: its gradient is as empty.
        grads = iter(torch.autograd.grad(output, wanted, grad, materialize_grads=True))
    return (*(next(grads) if t.requires_grad else None for t in (qkv, table)), None, None)


_op.register_autograd(_backward, setup_context=_setup_context)


def relative_position_attention(qkv: Tensor, table: Tensor, num_heads: int, scale: float) -> Tensor:
    """Attend over all tokens of a map, with a bias by relative position (operator version 1).

    While a model is exported this is one opaque operator; otherwise it is the reference itself, which
    autograd differentiates directly and ``torch.compile`` can fuse.

    Args:
        qkv: ``[B, N, 3*C]``, q, k and v side by side, heads contiguous inside each; floating point.
        table: ``[num_heads, 2H-1, 2W-1]`` with ``N = H*W``, float32: the bias of query ``(r, c)`` and key
            ``(r', c')`` is ``table[h, r - r' + H - 1, c - c' + W - 1]``. Without elements: no bias.
        num_heads: attention heads, a divisor of C.
        scale: factor of q . k.

    Returns:
        ``[B, N, C]``, same dtype as ``qkv``, heads concatenated.

    Raises:
        ValueError: shapes that do not fit each other.

    Source: ``docs/relative_position_attention.md``.
    """
    if torch.compiler.is_exporting():
        return _op(qkv, table, num_heads, scale)
    return reference(qkv, table, num_heads, scale)
