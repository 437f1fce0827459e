"""How often a classifier is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_deploy.tasks.intervals import wilson_interval


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
