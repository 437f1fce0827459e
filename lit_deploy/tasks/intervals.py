"""How well a share is known from the images that were looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for an interval of 95 %."""


def wilson_interval(right: float, total: float) -> tuple[float, float]:
    """Wilson's score interval of 95 % for a share ``right / total``, ``total`` at least 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, square = right / total, Z_95**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = Z_95 * math.sqrt(share * (1 - share) / total + square / (4 * total**2)) / (1 + square / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def wilson_size(share: float, limit: float) -> float:
    """Of how many observations Wilson's interval for ``share`` ends at ``limit``, both 0..1; infinite where of none."""
    return Z_95**2 * limit * (1 - limit) / (limit - share) ** 2 if share != limit else math.inf


def independent_count(parts: Sequence[tuple[int, int]]) -> float:
    """How many independent observations a share is worth whose observations come in groups.

    The pixels of one picture are wrong together, so that a million of them say less than a million pictures would.

    Args:
        parts: of every group, such as an image, how many observations count and how many there are.

    Returns:
        The number of independent observations whose share varies as much as these: at least that of the groups, at most
        that of all observations. Where nothing varies it is the first, as then nothing shows that groups say more.

    Source: the effective sample size of L. Kish, "Survey Sampling", 1965.
    """
    counted, sizes = (np.array(column, dtype=np.float64) for column in zip(*parts, strict=True))
    groups, total = len(parts), float(sizes.sum())
    if total <= groups or groups < 2:
        return max(total, 1.0) if total <= groups else 1.0
    share = float(counted.sum()) / total
    variance = groups / (groups - 1) * float(((counted - share * sizes) ** 2).sum()) / total**2
    if variance == 0:
        return groups
    return min(max(share * (1 - share) / variance, groups), total)
