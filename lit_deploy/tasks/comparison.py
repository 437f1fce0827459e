"""One array against its reference, whatever it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Comparison:
    """One tensor against its reference, over all images.

    Attributes:
        name: output or PyTorch module name.
        max_abs, mean_abs: absolute error.
        relative: ``max_abs`` over the largest magnitude of the reference.
        cosine: least cosine similarity of one image.
    """

    name: str
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float


class RunningComparison:
    """A comparison that grows batch by batch, in float64; NaN anywhere makes every metric the worst there is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_abs = self.sum_abs = self.scale = 0.0
        self.count = 0
        self.cosine = 1.0

    def add(self, reference: NDArray[Any], value: NDArray[Any]) -> None:
        """Take in two arrays ``[images, ...]``."""
        if reference.shape != value.shape or not np.isfinite(value).all():
            self.max_abs, self.sum_abs, self.cosine = np.inf, np.inf, -1.0
            return
        a = reference.astype(np.float64).reshape(len(reference), -1)
        b = value.astype(np.float64).reshape(len(value), -1)
        error = np.abs(a - b)
        self.max_abs = max(self.max_abs, float(error.max()))
        self.sum_abs += float(error.sum())
        self.count += error.size
        self.scale = max(self.scale, float(np.abs(a).max()))
        self.cosine = min(self.cosine, float(cosines(a, b).min()))

    def comparison(self) -> Comparison:
        """The metrics over all that was taken in."""
        return Comparison(
            name=self.name,
            max_abs=self.max_abs,
            mean_abs=self.sum_abs / max(self.count, 1),
            relative=self.max_abs / max(self.scale, _TINY),
            cosine=self.cosine,
        )


def compared(name: str, reference: NDArray[Any], value: NDArray[Any]) -> Comparison:
    """Compare two arrays ``[images, ...]``."""
    running = RunningComparison(name)
    running.add(reference, value)
    return running.comparison()


def cosines(a: Floats, b: Floats) -> Floats:
    """Cosine similarity ``[N]`` of the rows of two arrays ``[N, K]``; -1, the worst there is, where not finite."""
    with np.errstate(invalid="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found = np.sum(a * b, axis=1) / np.maximum(norms, _TINY)
    result: Floats = np.where(np.isfinite(found), found, -1.0)
    return result
