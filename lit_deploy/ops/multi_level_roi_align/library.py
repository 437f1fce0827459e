"""``torch.ops.lit_deploy.multi_level_roi_align``: the operator as PyTorch and its exporter see it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.multi_level_roi_align.reference import reference


@torch.library.custom_op(f"{DOMAIN}::multi_level_roi_align", mutates_args=())
def _op(rois: Tensor, level0: Tensor, level1: Tensor, level2: Tensor, level3: Tensor, output_size: int) -> Tensor:
    return reference(rois, (level0, level1, level2, level3), output_size)


@_op.register_fake
def _fake(rois: Tensor, level0: Tensor, level1: Tensor, level2: Tensor, level3: Tensor, output_size: int) -> Tensor:
    torch._check(rois.ndim == 2, lambda: "rois must be [K, 4]")
    torch._check(rois.shape[1] == 4, lambda: "rois must be [K, 4]")
    for level in (level0, level1, level2, level3):
        torch._check(level.ndim == 4, lambda: "a level must be [1, C, H, W]")
        torch._check(level.shape[0] == 1, lambda: "a level must be [1, C, H, W]")
        torch._check(level.shape[1] == level0.shape[1], lambda: "the levels must have the same number of channels")
        torch._check(level.dtype == level0.dtype, lambda: "the levels must have the same dtype")
    return level0.new_empty(rois.shape[0], level0.shape[1], output_size, output_size)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.output_size = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        rois, *levels = (
            t.detach().requires_grad_(needed) for t, needed in zip(ctx.saved_tensors, ctx.needs_input_grad)
        )
        wanted = [t for t in (rois, *levels) if t.requires_grad]
        pooled = reference(rois, levels, ctx.output_size)
        grads = iter(torch.autograd.grad(pooled, wanted, grad, allow_unused=True, materialize_grads=True))
    return (*(next(grads) if t.requires_grad else None for t in (rois, *levels)), None)


_op.register_autograd(_backward, setup_context=_setup_context)


def multi_level_roi_align(
    rois: Tensor, level0: Tensor, level1: Tensor, level2: Tensor, level3: Tensor, *, output_size: int
) -> Tensor:
    """RoIAlign on the level of a feature pyramid that each region's size asks for (operator version 1).

    While a model is exported this is one opaque operator; otherwise it is the reference itself, which autograd
    differentiates.

    Args:
        rois: float32 ``[K, 4]``: x1, y1, x2, y2 in pixels of the network's input; K may be 0.
        level0, level1, level2, level3: ``[1, C, H, W]``, one dtype, with strides 4, 8, 16 and 32.
        output_size: height and width S of a pooled region.

    Returns:
        ``[K, C, S, S]``, dtype of the levels; 0 for a region without an area.

    Raises:
        ValueError: ``output_size`` below 1.

    Source: ``docs/multi_level_roi_align.md``.
    """
    if output_size < 1:
        raise ValueError(f"output_size is {output_size}, expected at least 1")
    if torch.compiler.is_exporting():
        return _op(rois, level0, level1, level2, level3, output_size)
    return reference(rois, (level0, level1, level2, level3), output_size)
