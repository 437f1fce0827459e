"""How often a classifier is right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for an interval of 95 %."""


@dataclass(frozen=True)
class Accuracy:
    """A share of right predictions.

    Attributes:
        right: images predicted right; ``share``: of all images, 0..1.
        low, high: Wilson's interval of 95 % for the share on further images of the same kind.
    """

    right: int
    share: float
    low: float
    high: float


def accuracy(right: NDArray[np.bool_]) -> Accuracy:
    """The share of a mask ``[N]`` that is true, with its interval."""
    count = int(right.sum())
    return Accuracy(count, count / len(right), *wilson_interval(count, len(right)))


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of 95 % for a share ``right / total``, ``total`` at least 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, square = right / total, Z_95**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = Z_95 * math.sqrt(share * (1 - share) / total + square / (4 * total**2)) / (1 + square / total)
    return max(0.0, centre - half), min(1.0, centre + half)
