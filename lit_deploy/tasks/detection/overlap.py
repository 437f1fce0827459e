"""How much boxes overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.tasks.comparison import Floats


def iou(boxes: NDArray[Any], others: NDArray[Any]) -> Floats:
    """Intersection over union ``[N, M]`` of boxes ``[N, 4]`` and ``[M, 4]``, x1 y1 x2 y2, in float64.

    Boxes without an area, and those that are not finite, overlap with nothing.
    """
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
        union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
        found: Floats = np.where(union > 0, shared / union, 0.0)
    return found
