"""From a mask inside its box to pixels of the picture.

The rule, for a service that has to repeat it elsewhere (source: official code at commit 742e961): the pixel in column x
of the picture lies at ``u = (x + 0.5 - x0) / (x1 - x0) * M - 0.5`` of a mask of M columns, rows likewise. Its value is
interpolated between the two nearest columns and rows, those outside the mask count as 0, and the pixel belongs to the
object where the value is at least 0.5.

An interpolation of this kind is a product of three matrices, ``rows . mask . columns``, the outer ones with two numbers
in every row: that is what is computed here, one object at a time and a band of rows at a time, so that no picture of
floating-point numbers ever exists. A hundred of those, of a photo of 12 megapixels, would take 4.8 GB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5
"""Probability from which on a pixel belongs to the object."""

_BAND = 1 << 18
"""Pixels of a picture that are computed at a time (1 MiB of float32)."""


@dataclass(frozen=True)
class PastedMask:
    """The pixels of one object, in the part of the picture where they can lie.

    Attributes:
        bits: bool ``[h, w]``; may be empty.
        top, left: of that part, in pixels of the picture.
    """

    bits: NDArray[np.bool_]
    top: int
    left: int

    def whole(self, height: int, width: int) -> NDArray[np.bool_]:
        """As large as the picture: bool ``[height, width]``, false outside the part."""
        picture = np.zeros((height, width), dtype=bool)
        h, w = self.bits.shape
        picture[self.top : self.top + h, self.left : self.left + w] = self.bits
        return picture


def pasted(mask: NDArray[np.float32], box: NDArray[np.float32], size: tuple[int, int]) -> PastedMask:
    """Paste one mask into a picture.

    Args:
        mask: float32 ``[M, M]``, probabilities inside the box.
        box: float32 ``[4]``, x0 y0 x1 y1 in pixels of the picture.
        size: height and width of the picture.

    Returns:
        The pixels of the object. None for a box without area or with a corner that is not finite: there the official
        code spreads the middle of the mask over a few pixels (on a CPU) or over the whole picture (on a GPU).

    Source: official code at commit 742e961, its rule for CPUs.
    """
    x0, y0, x1, y1 = (np.float32(value) for value in box)
    if not (np.isfinite(box).all() and x1 > x0 and y1 > y0):
        return PastedMask(np.zeros((0, 0), dtype=bool), 0, 0)
    height, width = size
    top, bottom = _range(y0, y1, height)
    left, right = _range(x0, x1, width)
    bits = np.zeros((bottom - top, right - left), dtype=bool)
    columns = _weights(left, right, x0, x1, mask.shape[1]).T
    step = max(1, _BAND // max(1, right - left))
    for start in range(top, bottom, step):
        stop = min(start + step, bottom)
        rows = _weights(start, stop, y0, y1, mask.shape[0])
        np.greater_equal((rows @ mask) @ columns, THRESHOLD, out=bits[start - top : stop - top])
    return PastedMask(bits, top, left)


def _range(first: np.float32, last: np.float32, size: int) -> tuple[int, int]:
    """Pixels of one axis where the value can differ from 0, with one to spare."""
    start = min(max(math.floor(first) - 1, 0), size)
    return start, max(min(math.ceil(last) + 1, size), start)


def _weights(start: int, stop: int, first: np.float32, last: np.float32, cells: int) -> NDArray[np.float32]:
    """What every cell of a mask counts for pixels ``start`` to ``stop`` of one axis: float32 ``[pixels, cells]``."""
    pixels = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    # In the official order of operations: a place in -1..1 first, so that it rounds alike.
    with np.errstate(over="ignore"):
        place = (pixels - first) / (last - first) * np.float32(2) - np.float32(1)
    place[np.isinf(place)] = 0
    at = ((place + np.float32(1)) * np.float32(cells) - np.float32(1)) / np.float32(2)
    at = np.clip(at, -2, cells + 1)  # further outside is outside, and is a number that has an integer
    low = np.floor(at)
    share = at - low
    weights = np.zeros((len(pixels), cells + 2), dtype=np.float32)
    index, row = low.astype(np.intp), np.arange(len(pixels))
    # Cells -1 and `cells` stand for everything outside, and are cut off.
    weights[row, np.clip(index + 1, 0, cells + 1)] += np.float32(1) - share
    weights[row, np.clip(index + 2, 0, cells + 1)] += share
    return np.ascontiguousarray(weights[:, 1:-1])
