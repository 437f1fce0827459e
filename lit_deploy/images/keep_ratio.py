"""From image files to the input of detectors and segmentation networks. Pillow and NumPy, neither OpenCV nor torch.

The rule, for a service that has to repeat it elsewhere (source: official code at commit 742e961):

1. decode to 8-bit RGB and turn it as EXIF says; alpha is dropped, of an animation the first frame counts;
2. f = min(longest / longer side, resize / shorter side), in double precision; both sides become int(side * f + 0.5), at
   least 1. A file of one fixed size gets that size, whatever becomes of the proportions;
3. resize as OpenCV does with INTER_LINEAR on 8 bits: not antialiased, in fixed-point arithmetic (``resize_bilinear``);
4. nothing is padded: where a network needs multiples of something, its graph adds zeros after normalising.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.specs import InputSpec
from lit_deploy.images.decoding import load_image
from lit_deploy.images.picture import Picture

MAX_DETECTION_PIXELS = 1 << 26
"""Largest width x height of a detector's picture (67 million). Decoding takes 7 bytes of each; masks are pasted one by
one, a byte a pixel."""

MAX_SEGMENTATION_PIXELS = 1 << 24
"""Largest width x height of a picture to be segmented (17 million). Scores exist at the original size, 4 bytes each: of
a few classes at a time where a file gives labels, of all where it gives logits (10 GB of 150 classes)."""

MIN_SIDE = 32
"""Shortest side that a network takes which adds no zeros: its last map has one token for so many pixels."""

_ONE = 2048  # 1.0 as OpenCV's fixed-point weights have it
_BAND = 1 << 18  # pixels of the result at a time; a few MiB, whatever the picture

Index = NDArray[np.intp]
Weights = NDArray[np.int32]


def keep_ratio_size(height: int, width: int, spec: InputSpec) -> tuple[int, int]:
    """Compute the size to which a picture is resized (step 2 of the module's rule).

    Args:
        height, width: of the picture, pixels, at least 1.
        spec: gives ``longest`` and ``resize``, and ``height`` and ``width`` where they are fixed.

    Returns:
        (height, width) in pixels, at least 1 each.

    Raises:
        UsageError: the rule of ``spec`` is another one.

    Source: official code at commit 742e961; it has no least size, and fails on pictures that need one.
    """
    if spec.rule != "keep_ratio" or spec.longest is None:
        raise UsageError(f"the file's resize rule is {spec.rule}, expected keep_ratio: use batch_from_images.")
    factor = min(spec.longest / max(height, width), spec.resize / min(height, width))
    free = (max(1, int(side * factor + 0.5)) for side in (height, width))
    fixed = (spec.height, spec.width)
    resized = tuple(side if want is None else want for side, want in zip(free, fixed, strict=True))
    return resized[0], resized[1]


def resize_bilinear(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a picture as OpenCV does with INTER_LINEAR: every value is the same to the last bit.

    Args:
        pixels: uint8 ``[H, W, C]``, at least 1 x 1.
        height, width: of the result, pixels, at least 1.

    Returns:
        uint8 ``[height, width, C]``.

    Source: the arithmetic of OpenCV 4 and 5 (``cv::resize``); the code is ours, and tests compare both.
    """
    rows, row_weights = _neighbours(pixels.shape[0], height, keep_share=True)
    columns, column_weights = _neighbours(pixels.shape[1], width, keep_share=False)
    result = np.empty((height, width, pixels.shape[2]), dtype=np.uint8)
    step = max(1, _BAND // width)
    for start in range(0, height, step):
        band = slice(start, min(start + step, height))
        needed, place = np.unique(rows[:, band], return_inverse=True)
        filtered = _filtered_columns(pixels[needed], columns, column_weights)
        above, below = place.reshape(2, -1)
        # The order and width of OpenCV's shifts: each of them drops bits.
        sums = row_weights[0, band, None, None] * filtered[above] >> 16
        sums += row_weights[1, band, None, None] * filtered[below] >> 16
        sums += 2
        sums >>= 2
        result[band] = sums
    return result


def _filtered_columns(pixels: NDArray[np.uint8], columns: Index, weights: Weights) -> Weights:
    """Rows ``[R, W, C]`` interpolated to ``[R, width, C]``, in 1/128."""
    left: Weights = pixels.take(columns[0], axis=1).astype(np.int32)
    left *= weights[0, :, None]
    right: Weights = pixels.take(columns[1], axis=1).astype(np.int32)
    right *= weights[1, :, None]
    left += right
    left >>= 4
    return left


def _neighbours(size: int, wanted: int, *, keep_share: bool) -> tuple[Index, Weights]:
    """Between which pixels of one axis those of the result lie, and what either counts in 1/2048: both ``[2, wanted]``.

    Beyond the first and the last pixel both are that pixel. There OpenCV sets the share of the second to 0 along rows,
    and leaves it along columns, where the two products are then rounded one by one.
    """
    scale = 1.0 / (wanted / size)  # twice divided, as OpenCV does
    place = ((np.arange(wanted) + 0.5) * scale - 0.5).astype(np.float32)
    low = np.floor(place)
    share = place - low
    index = low.astype(np.intp)
    if not keep_share:
        share[(index < 0) | (index >= size - 1)] = 0
    weights: Weights = np.rint(np.stack([np.float32(1) - share, share]) * np.float32(_ONE)).astype(np.int32)
    return np.clip(np.stack([index, index + 1]), 0, size - 1), weights


def keep_ratio_picture(
    path: str | Path | bytes, spec: InputSpec, name: str | None = None, max_pixels: int = MAX_DETECTION_PIXELS
) -> Picture:
    """Decode and resize one picture by the rule of this module.

    Args:
        path: JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or the bytes of one.
        spec: the input description of the exported file.
        name: for messages; the path, where there is one.
        max_pixels: largest width x height as it is; results are as large as that.

    Returns:
        The picture as the network takes it, before normalising.

    Raises:
        ImageError: a file that cannot be decoded, is too large, or is too narrow for a network that adds no zeros.
        UsageError: the rule of ``spec`` is another one.

    Source: official code at commit 742e961.
    """
    name = name or ("the image" if isinstance(path, bytes) else os.fspath(path))
    pixels = np.asarray(load_image(path, name, max_pixels, exif=True))
    original = pixels.shape[0], pixels.shape[1]
    height, width = keep_ratio_size(*original, spec)
    if spec.pad_multiple == 1 and min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{name} is too narrow: of {original[1]} x {original[0]} pixels {width} x {height} are left after resizing "
            f"where this network needs at least {MIN_SIDE} each way; crop it first."
        )
    return Picture(resize_bilinear(pixels, height, width), original)
