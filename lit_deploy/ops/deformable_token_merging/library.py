"""``torch.ops.lit_deploy.deformable_token_merging``: the operator as PyTorch and its exporter see it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_deploy.ops.deformable_token_merging.reference import reference
from lit_deploy.ops.deformable_token_merging.schema import DOMAIN


@torch.library.custom_op(f"{DOMAIN}::deformable_token_merging", mutates_args=())
def _op(x: Tensor, offset_weight: Tensor, offset_bias: Tensor) -> Tensor:
    return reference(x, offset_weight, offset_bias)


@_op.register_fake
def _fake(x: Tensor, offset_weight: Tensor, offset_bias: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    torch._check(offset_weight.shape == (8, 4 * channels), lambda: "offset_weight must be [8, 4*C]")
    torch._check(offset_bias.shape == (8,), lambda: "offset_bias must be [8]")
    return x.new_empty(batch, height // 2, width // 2, 4 * channels)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_(needed) for t, needed in zip(ctx.saved_tensors, ctx.needs_input_grad)]
        wanted = [t for t in inputs if t.requires_grad]
        grads = iter(torch.autograd.grad(reference(*inputs), wanted, grad))
    return tuple(next(grads) if t.requires_grad else None for t in inputs)


_op.register_autograd(_backward, setup_context=_setup_context)


def deformable_token_merging(x: Tensor, offset_weight: Tensor, offset_bias: Tensor) -> Tensor:
    """Sample the four tokens of every 2x2 patch at learned offsets (operator version 1).

    While a model is exported this is one opaque operator; otherwise it is the reference itself, which
    autograd differentiates directly and ``torch.compile`` can fuse.

    Args:
        x: ``[B, H, W, C]`` tokens, channels last; floating point; H, W >= 2.
        offset_weight: ``[8, 4*C]``, same dtype, tap-major columns.
        offset_bias: ``[8]``, same dtype.

    Returns:
        ``[B, H//2, W//2, 4*C]``, same dtype as ``x``.

    Source: paper section 3.3; ``docs/deformable_token_merging.md``.
    """
    if torch.compiler.is_exporting():
        return _op(x, offset_weight, offset_bias)
    return reference(x, offset_weight, offset_bias)
