"""From image files to network input, as the official LIT evaluation does it. Pillow and NumPy, no torch.

The rule, for a service that has to repeat it elsewhere (source: official code at commit 742e961):

1. decode to 8-bit RGB; alpha is dropped, EXIF orientation is *not* applied, of an animation the first frame counts;
2. resize with Pillow's antialiased bicubic filter by the smallest factor that makes the shorter side ``resize``
   pixels and covers the crop; both sides are rounded down; rows are filtered first, then columns;
3. cut ``height x width`` pixels from the centre, top = round((rows - height) / 2) with halves to even, left likewise;
4. ``(pixel / 255 - mean) / std`` in float32, channels first (inside the graph when the file takes ``uint8``).
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lit_deploy.errors import ImageError, UsageError
from lit_deploy.specs import InputSpec

MAX_PIXELS = 1 << 27
"""Pixels above which an image is refused, before decoding and again before resizing (134 million, 0.5 GiB)."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File name endings, in lower case, that ``images_in`` takes for images."""

# A closed list, because Pillow's others reach further than pixels: EPS runs Ghostscript. The first five come with
# Pillow's core; the others load all its plugins, once.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_FORMATS_TEXT = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# Pillow warns about large or odd headers; our own limit and errors say it instead. The filter list is one per
# process and catch_warnings is not thread-safe, hence the lock; decoding runs outside it.
_header_lock = threading.Lock()


def load_image(path: str | Path | bytes, name: str | None = None, max_pixels: int | None = None) -> Image.Image:
    """Decode one image.

    Grayscale, palette, CMYK and alpha images are converted as Pillow converts them (alpha is dropped, not blended).
    16-bit grayscale keeps its high byte, which is also what Pillow does to 16-bit RGB, so that a picture
    looks the same in either form. The EXIF orientation is ignored, as in the official evaluation.

    Args:
        path: JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or the bytes of one; of several frames the first is taken.
        name: for messages; the path, where there is one.
        max_pixels: largest width x height; ``MAX_PIXELS`` when None.

    Returns:
        RGB image of the stored size.

    Raises:
        ImageError: there is no such file, it is no image of these formats, it is damaged or truncated, has
            more than ``max_pixels`` pixels, or holds 32-bit or floating-point samples.
    """
    name = name or ("the image" if isinstance(path, bytes) else os.fspath(path))
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        source = _source(path, name)
        with _header_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(source, formats=_FORMATS)
        with image:
            _check_size(name, image.width, image.height, limit)
            image.load()
            _check_size(name, image.width, image.height, limit)  # some headers are corrected by the data
            return _rgb(name, image)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} claims far more than {limit} pixels, the limit against decompression bombs: scale it down."
        ) from None
    except PermissionError:
        raise ImageError(f"{name} may not be read: give read permission or another file.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that can be read here: convert it to {_FORMATS_TEXT}.") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file provokes: KeyError, struct.error ...
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is damaged or incomplete ({detail}): replace the file.") from error


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
    factor = max(Fraction(spec.resize, min(width, height)), Fraction(spec.height, height), Fraction(spec.width, width))
    return int(width * factor), int(height * factor)


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
    width, height = resized_size(image.width, image.height, spec)
    if width * height > max_pixels:
        raise ImageError(
            f"an image of {image.width} x {image.height} pixels is too narrow: resized to {width} x {height} it would"
            f" exceed {max_pixels} pixels, so crop it first."
        )
    # One axis after the other: asked for both, Pillow 12.2 and newer filter the columns of tall pictures first, which
    # rounds differently than the official evaluation's Pillow did.
    method = _FILTERS[spec.interpolation]
    resized = image.resize((width, image.height), method).resize((width, height), method)
    # round() goes to the even neighbour at .5, as the official crop does.
    top, left = round((height - spec.height) / 2), round((width - spec.width) / 2)
    return np.array(resized.crop((left, top, left + spec.width, top + spec.height)), dtype=np.uint8)


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
        paths: one or more image files, or their bytes; messages count the latter from 0.
        spec: the input description of the exported file.
        max_pixels: largest width x height of an image, as it is and resized; decoding takes up to 16 bytes of each.

    Returns:
        uint8 ``[B, H, W, 3]`` for ``kind="uint8"``, normalised float32 ``[B, 3, H, W]`` for ``kind="float"``.

    Raises:
        ImageError: a file cannot be used; the message names it.
        UsageError: ``paths`` is empty.
    """
    if not paths:
        raise UsageError("no image was given: give at least one image file.")
    names = (f"image {index}" if isinstance(path, bytes) else os.fspath(path) for index, path in enumerate(paths))
    pixels = np.stack([_crop_of_file(path, name, spec, max_pixels) for path, name in zip(paths, names, strict=True)])
    return pixels if spec.kind == "uint8" else normalize(pixels, spec)


def images_in(directory: str | Path) -> list[Path]:
    """List the image files of a directory and its subdirectories, by file name ending.

    Args:
        directory: a folder; hidden files and folders are left out, links to folders are not followed.

    Returns:
        Paths in sorted order, at least one.

    Raises:
        ImageError: there is no such directory, or no image in it.
    """
    root = Path(directory)
    if not os.path.isdir(root):
        kind = "is a file" if os.path.isfile(root) else "does not exist"
        raise ImageError(f"{root} {kind} where a directory of images is expected: give the path of a folder.")
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if _is_image_name(name)]
    if not found:
        raise ImageError(f"{root} holds no image: put {_FORMATS_TEXT} files there, or give another folder.")
    return sorted(found)


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _source(path: str | Path | bytes, name: str) -> str | Path | io.BytesIO:
    """What Pillow is to open: a file or bytes that are not empty."""
    if isinstance(path, bytes):
        size = len(path)
    elif os.path.isdir(path):
        raise ImageError(f"{name} is a directory where an image file is expected: give the path of one image.")
    elif not os.path.isfile(path):
        raise ImageError(f"{name} does not exist or is not a file: give the path of an image.")
    else:
        size = os.path.getsize(path)
    if size == 0:
        raise ImageError(f"{name} is empty (0 bytes): give a {_FORMATS_TEXT} file.")
    return io.BytesIO(path) if isinstance(path, bytes) else path


def _crop_of_file(path: str | Path | bytes, name: str, spec: InputSpec, max_pixels: int) -> NDArray[np.uint8]:
    image = load_image(path, name, max_pixels)
    try:
        return resize_and_crop(image, spec, max_pixels)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


def _check_size(name: str, width: int, height: int, limit: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}): replace the file.")
    if width * height > limit:
        raise ImageError(
            f"{name} has {width} x {height} pixels where at most {limit} are accepted, the limit against"
            " decompression bombs: scale it down."
        )


def _rgb(name: str, image: Image.Image) -> Image.Image:
    """Convert a decoded image to RGB; Pillow alone would clip 16-bit grayscale to white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        samples = np.asarray(image)  # "I" from PNG and PPM holds 16-bit samples, 0..65535
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"{name} holds 32-bit or floating-point samples: convert it to 8 or 16 bits per channel.")
    image.info.pop("transparency", None)  # dropped anyway; left in, Pillow warns about it
    return image.convert("RGB")
