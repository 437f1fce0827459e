"""Initial weights of networks that are to be trained, as the official code draws them.

Backbones and classifiers: linear layers normal, convolutions (also of merging) as PyTorch does, sampling offsets zero.
Necks and heads: what MMDetection and MMSegmentation do, which the official code trains with.
Source: official code at commit 742e961.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

WEIGHTED = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
Draw = Callable[[Tensor], object]


def _normal(std: float) -> Draw:
    return lambda weight: nn.init.normal_(weight, std=std)


def _kaiming(weight: Tensor) -> object:
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


RULES: tuple[tuple[str, Draw], ...] = (
    ("neck.", nn.init.xavier_uniform_),
    ("bbox_head.", _normal(0.01)),
    ("rpn_head.", _normal(0.01)),
    ("roi_head.bbox_head.shared_fcs.", nn.init.xavier_uniform_),
    ("roi_head.bbox_head.fc_cls", _normal(0.01)),
    ("roi_head.bbox_head.fc_reg", _normal(0.001)),
    ("roi_head.mask_head.", _kaiming),
    ("decode_head.conv_seg", _normal(0.01)),
    ("decode_head.", _kaiming),
)
"""How the weights of modules are drawn, by the beginning of their names: the first that fits. Their biases are zero."""

PRIOR = 0.01
"""Score of every class of every anchor of an untrained RetinaNet, by the bias of its last layer."""


def initialise(model: nn.Module) -> nn.Module:
    """Draw the weights of a network anew, in place, from PyTorch's generator of random numbers.

    What no rule is for keeps the values that it was built with.
    """
    for name, module in model.named_modules():
        if not isinstance(module, WEIGHTED):
            continue
        draw = next((draw for start, draw in RULES if name.startswith(start)), None)
        if draw is None and isinstance(module, nn.Linear):
            draw = _truncated
        if draw is not None:
            draw(module.weight)
            if module.bias is not None:
                nn.init.constant_(module.bias, -math.log(1 / PRIOR - 1) if name == "bbox_head.retina_cls" else 0)
    return model


def _truncated(weight: Tensor) -> object:
    return nn.init.trunc_normal_(weight, std=0.02)
