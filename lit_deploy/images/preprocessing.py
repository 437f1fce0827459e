"""From image files to network input, as the official LIT evaluation does it. Pillow and NumPy, no torch.

The rule, for a service that has to repeat it elsewhere (source: official code at commit 742e961):

1. decode to 8-bit RGB; alpha is dropped, EXIF orientation is *not* applied, of an animation the first frame counts;
2. resize with Pillow's antialiased bicubic filter by the smallest factor that makes the shorter side ``resize``
   pixels and covers the crop; both sides are rounded down; rows are filtered first, then columns;
3. cut ``height x width`` pixels from the centre, top = round((rows - height) / 2) with halves to even, left likewise;
4. ``(pixel / 255 - mean) / std`` in float32, channels first (inside the graph when the file takes ``uint8``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.specs import InputSpec
from lit_deploy.images.decoding import MAX_PIXELS, load_image
from lit_deploy.images.picture import Picture

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resized_size(width: int, height: int, spec: InputSpec) -> tuple[int, int]:
    """Compute the size to which an image is resized before the crop.

    The shorter side becomes ``spec.resize`` and the other side keeps the proportions, rounded down. Where the
    crop would not fit then (a crop that is not square, or larger than ``resize``), the factor is the smallest
    that covers the crop, so that no border ever has to be invented.

    Args:
        width, height: of the image, pixels, at least 1.
        spec: gives ``resize``, ``height`` and ``width``.

    Returns:
        (width, height) in pixels, at least as large as the crop.

    Source: official code at commit 742e961 for square crops; the covering rule is ours.
    """
    # Exact fractions: a factor in floating point would now and then lose the last row or column.
    rows, columns = spec.crop
    factor = max(Fraction(spec.resize, min(width, height)), Fraction(rows, height), Fraction(columns, width))
    return int(width * factor), int(height * factor)


def checked_size(width: int, height: int, spec: InputSpec, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The same, or an ImageError where an image is so narrow that resizing it would make more than ``max_pixels``."""
    columns, rows = resized_size(width, height, spec)
    if columns * rows > max_pixels:
        raise ImageError(
            f"an image of {width} x {height} pixels is too narrow: resized to {columns} x {rows} it would exceed "
            f"{max_pixels} pixels, so crop it first."
        )
    return columns, rows


def resize_and_crop(image: Image.Image, spec: InputSpec, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Resize an RGB image and cut the centre out of it (steps 2 and 3 of the module's rule).

    Args:
        image: RGB image of any size from 1 x 1 on.
        spec: size of the crop, resize rule and interpolation.
        max_pixels: largest image that resizing may make.

    Returns:
        uint8 ``[spec.height, spec.width, 3]``, RGB; bit-equal to the official evaluation for square crops.

    Raises:
        ImageError: the image is so narrow that resizing it would make more than ``max_pixels`` pixels.
        UsageError: ``spec.interpolation`` is unknown, or the image is not RGB.

    Source: official code at commit 742e961.
    """
    if image.mode != "RGB":
        raise UsageError(f"resize_and_crop received a {image.mode} image where RGB is expected: use load_image.")
    if spec.interpolation not in _FILTERS:
        known = " or ".join(sorted(_FILTERS))
        raise UsageError(f"interpolation {spec.interpolation!r} is unknown: use {known}.")
    width, height = checked_size(image.width, image.height, spec, max_pixels)
    # One axis after the other: asked for both, Pillow 12.2 and newer filter the columns of tall pictures first, which
    # rounds differently than the official evaluation's Pillow did.
    method = _FILTERS[spec.interpolation]
    resized = image.resize((width, image.height), method).resize((width, height), method)
    # round() goes to the even neighbour at .5, as the official crop does.
    rows, columns = spec.crop
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return np.array(resized.crop((left, top, left + columns, top + rows)), dtype=np.uint8)


def normalize(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Scale pixels to 0..1, subtract the mean and divide by the standard deviation, in float32.

    Args:
        pixels: uint8 ``[B, H, W, 3]``, RGB.
        spec: gives ``mean`` and ``std`` per channel.

    Returns:
        float32 ``[B, 3, H, W]``, contiguous.

    Raises:
        UsageError: another dtype or shape.

    Source: official code at commit 742e961.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise UsageError(
            f"normalize received {pixels.dtype} {list(pixels.shape)} where uint8 [B, H, W, 3] is expected:"
            " stack the arrays of resize_and_crop."
        )
    scaled = pixels.astype(np.float32) / np.float32(255)
    scaled -= np.asarray(spec.mean, dtype=np.float32)
    scaled /= np.asarray(spec.std, dtype=np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def batch_from_images(
    paths: Sequence[str | Path | bytes], spec: InputSpec, max_pixels: int = MAX_PIXELS
) -> NDArray[Any]:
    """Prepare image files as one batch, in the layout that the exported file takes.

    Args:
        paths, spec, max_pixels: see ``crops_from_images``.

    Returns:
        uint8 ``[B, H, W, 3]`` for ``kind="uint8"``, normalised float32 ``[B, 3, H, W]`` for ``kind="float"``.

    Raises:
        ImageError, UsageError: see ``crops_from_images``.
    """
    pixels = np.stack([crop.pixels for crop in crops_from_images(paths, spec, max_pixels)])
    return pixels if spec.kind == "uint8" else normalize(pixels, spec)


def crops_from_images(
    paths: Sequence[str | Path | bytes], spec: InputSpec, max_pixels: int = MAX_PIXELS
) -> list[Picture]:
    """Decode image files, resize them and cut out their centres.

    Args:
        paths: one or more image files, or their bytes; messages count the latter from 0.
        spec: the input description of the exported file.
        max_pixels: largest width x height of an image, as it is and resized; decoding takes up to 16 bytes of each.

    Raises:
        ImageError: a file cannot be used; the message names it.
        UsageError: ``paths`` is empty.
    """
    if not paths:
        raise UsageError("no image was given: give at least one image file.")
    names = (f"image {index}" if isinstance(path, bytes) else os.fspath(path) for index, path in enumerate(paths))
    return [_crop_of_file(path, name, spec, max_pixels) for path, name in zip(paths, names, strict=True)]


def _crop_of_file(path: str | Path | bytes, name: str, spec: InputSpec, max_pixels: int) -> Picture:
    def check(width: int, height: int) -> None:
        try:
            checked_size(width, height, spec, max_pixels)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from None

    image = load_image(path, name, max_pixels, check=check)
    size, orientation = (image.height, image.width), image.info["orientation"]
    return Picture(resize_and_crop(image, spec, max_pixels), size, orientation)
