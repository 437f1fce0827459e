"""From activations to one number per value: the largest magnitude that its 8-bit form has to represent.

Magnitudes are counted in histograms whose upper limit is a power of two. A larger magnitude doubles the limit and
merges neighbouring bins, which is exact, so memory is fixed and neither the order nor the size of batches changes the
result. (ONNX Runtime's ``HistogramCollector`` takes the bin width of the first batch and adds bins for larger values: a
first batch a hundred times too small keeps its entropy search busy for many minutes, one of zeros makes millions of
bins, and magnitudes below the first batch's smallest are left out.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.core.errors import ExportError, UsageError
from lit_deploy.core.specs import CalibrationMethod

SMALLEST = 2.0**-14
"""Least amax, float16's smallest normal number: what stays below is next to nothing beside the other activations, and
its scale, amax / 127 or amax / 448, is still above zero in float16."""

BINS = 1 << 14
"""Bins of a histogram, of which the largest magnitude uses at least half: even with outliers of a hundred times the
percentile, that is known to about 1 %."""

LEVELS = 128
"""Magnitudes of signed 8-bit integers, to which the entropy search compares."""

CANDIDATES = 256
"""Limits that the entropy search tries, in equal steps up to the largest magnitude."""

_SEARCHED_BINS = 2048
_CHUNK = 1 << 18  # elements that are binned at once: their copies stay in the processor's cache


class Ranges:
    """The largest magnitude to represent, per value, told from batches of its activations; symmetric around zero.

    * ``minmax``: the largest magnitude of all; nothing is clipped.
    * ``percentile``: this share of magnitudes, in percent, is not clipped.
    * ``entropy``: the limit at which rounding to ``LEVELS`` equal steps loses the least information (Kullback-Leibler
      divergence), with what is clipped counted at the limit.

    The last two suit int8, whose steps are equal; fp8's grow with the magnitude, so that clipping gains it nothing.

    Args:
        method: one of the three.
        percentile: above 50, at most 100; for ``percentile`` only.

    Raises:
        UsageError: another method or percentile.

    Source of the entropy search: Migacz, "8-bit inference with TensorRT", GTC 2017.
    """

    def __init__(self, method: CalibrationMethod, percentile: float = 99.99) -> None:
        if method not in ("minmax", "percentile", "entropy"):
            raise UsageError(f"calibration method is {method!r}, expected minmax, percentile or entropy")
        if not 50 < percentile <= 100:
            raise UsageError(
                f"calibration percentile is {percentile}, expected more than 50 and at most 100, e.g. 99.99"
            )
        self._method = method
        self._percentile = percentile
        self._largest: dict[str, float] = {}
        self._histograms: dict[str, _Histogram] = {}

    def add(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Take one batch into account.

        Args:
            values: activations per name, float32 or float16 of any shape; the same names in every batch, or not.

        Raises:
            ExportError: a value that is not finite, by name.
        """
        for name, value in values.items():
            flat = np.asarray(value, dtype=np.float32).reshape(-1)
            largest = float(max(flat.max(initial=0.0), -flat.min(initial=0.0)))
            if not math.isfinite(largest):  # NaN too, which max() and min() of an array hand on
                count = int(np.count_nonzero(~np.isfinite(flat)))
                raise ExportError(
                    f"{count} of {flat.size} numbers of the activation {name} are not finite on the calibration "
                    "images, so no scale fits it; check the checkpoint with lit-deploy verify on the same images"
                )
            self._largest[name] = max(self._largest.get(name, 0.0), largest)
            if self._method != "minmax":
                self._histograms.setdefault(name, _Histogram()).add(flat, largest)

    def amax(self) -> dict[str, float]:
        """The largest magnitude to represent, at least ``SMALLEST``, for every value that was added."""
        return {name: max(self._limit(name, largest), SMALLEST) for name, largest in self._largest.items()}

    def _limit(self, name: str, largest: float) -> float:
        if self._method == "minmax" or largest < SMALLEST:
            return largest
        histogram = self._histograms[name]
        if self._method == "percentile":
            bins = _bins_of_percentile(histogram.counts, self._percentile)
        else:
            bins = _bins_of_least_divergence(histogram.counts, largest / histogram.width)
        return min(bins * histogram.width, largest)


class _Histogram:
    """Counts of magnitudes in ``BINS`` bins of equal ``width``, which is a power of two."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.width = SMALLEST / BINS

    def add(self, values: NDArray[np.float32], largest: float) -> None:
        while largest >= self.width * BINS:
            self.counts[: BINS // 2] = self.counts[::2] + self.counts[1::2]
            self.counts[BINS // 2 :] = 0
            self.width *= 2
        bins_per_unit = np.float32(1 / self.width)  # a power of two: the product is exact
        for start in range(0, values.size, _CHUNK):
            scaled = np.abs(values[start : start + _CHUNK])
            scaled *= bins_per_unit
            self.counts += np.bincount(scaled.astype(np.intp), minlength=BINS)


def _bins_of_percentile(counts: NDArray[np.int64], percentile: float) -> float:
    """How many bins hold this share of all counts; within the last one they are taken to lie evenly."""
    below = np.cumsum(counts)
    wanted = int(below[-1]) * percentile / 100
    place = int(np.searchsorted(below, wanted))
    return place + 1 - (int(below[place]) - wanted) / int(counts[place])


def _bins_of_least_divergence(counts: NDArray[np.int64], used: float) -> float:
    """How many bins to keep so that the magnitudes, clipped there, differ least from their ``LEVELS``-level form.

    Args:
        counts: int64 ``[BINS]``.
        used: bins up to the largest magnitude, more than half of them.
    """
    # Fewer and wider bins than those kept: bins with few counts differ by chance, which would look like information.
    merged = counts.reshape(_SEARCHED_BINS, -1).sum(axis=1).astype(np.float64)
    merged[0] = merged[1]  # a peak of zeros (GELU, softmax) is exact at any limit, but would call for a narrow one
    filled = math.ceil(used * _SEARCHED_BINS / BINS)
    ends = np.unique(np.linspace(LEVELS, filled, CANDIDATES).astype(np.intp))
    divergences = [_divergence(merged, int(end)) for end in ends]
    return float(ends[int(np.argmin(divergences))] * (BINS // _SEARCHED_BINS))


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    """Kullback-Leibler divergence, in nats, of ``counts`` clipped at bin ``end`` from their ``LEVELS``-level form."""
    kept = counts[:end]
    filled = kept > 0
    starts = np.arange(LEVELS) * end // LEVELS
    sums, bins = np.add.reduceat(kept, starts), np.add.reduceat(filled.astype(np.float64), starts)
    # a level's counts spread evenly over those of its bins that hold any: rounding does not invent magnitudes
    rounded = np.repeat(sums / np.maximum(bins, 1), np.diff(np.append(starts, end))) * filled
    clipped = kept.copy()
    clipped[-1] += counts[end:].sum()
    expected, got = _smoothed(clipped), _smoothed(rounded)
    return float((expected * np.log(expected / got)).sum())


def _smoothed(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of one, with a little everywhere: clipped counts may come to lie where there were none."""
    share = counts / max(float(counts.sum()), 1.0)
    share += 1e-4 / len(counts)
    return np.asarray(share / share.sum())
