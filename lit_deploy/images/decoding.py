"""Decoding image files, whatever is in them: one frame, 8-bit RGB, never more memory than the limit allows.

Pillow and NumPy, no torch.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from lit_deploy.core.errors import ImageError, refuse_for_memory

MAX_PIXELS = 1 << 27
"""Pixels above which an image is refused, before decoding and again before resizing (134 million, 0.5 GiB)."""

# A closed list, because Pillow's others reach further than pixels: EPS runs Ghostscript. The first five come with
# Pillow's core; the others load all its plugins, once.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
FORMATS_TEXT = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
"""What can be read, in words."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation; 1 is upright."""

# Pillow warns about large or odd headers; our own limit and errors say it instead. The filter list is one per
# process and catch_warnings is not thread-safe, hence the lock; decoding runs outside it.
_header_lock = threading.Lock()


def load_image(
    path: str | Path | bytes, name: str | None = None, max_pixels: int | None = None, *, exif: bool = False
) -> Image.Image:
    """Decode one image.

    Grayscale, palette, CMYK and alpha images are converted as Pillow converts them (alpha is dropped, not blended).
    16-bit grayscale keeps its high byte, which is also what Pillow does to 16-bit RGB, so that a picture
    looks the same in either form. The EXIF orientation is ignored, as in the official evaluation of classifiers; that
    of detectors and segmentation networks follows it (``exif``), and reads the pixels of every format as OpenCV does,
    but CMYK, where it rounds otherwise.

    Args:
        path: JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or the bytes of one; of several frames the first is taken.
        name: for messages; the path, where there is one.
        max_pixels: largest width x height; ``MAX_PIXELS`` when None.
        exif: turn and mirror the picture as its EXIF orientation says.

    Returns:
        RGB image of the stored size, with ``exif`` perhaps lying on its side.

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
            rgb = _rgb(name, image)
            return rgb.transpose(turn) if exif and (turn := _turn(image)) is not None else rgb
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} claims far more than {limit} pixels, the limit against decompression bombs: scale it down."
        ) from None
    except PermissionError:
        raise ImageError(f"{name} may not be read: give read permission or another file.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that can be read here: convert it to {FORMATS_TEXT}.") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file provokes: KeyError, struct.error ...
        refuse_for_memory(error)
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of Pillow
            raise ImageError(f"{name} cannot be read ({error.strerror}): try again, or give another file.") from None
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is damaged or incomplete ({detail}): replace the file.") from error


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
        raise ImageError(f"{name} is empty (0 bytes): give a {FORMATS_TEXT} file.")
    return io.BytesIO(path) if isinstance(path, bytes) else path


def _check_size(name: str, width: int, height: int, limit: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}): replace the file.")
    if width * height > limit:
        raise ImageError(
            f"{name} has {width} x {height} pixels where at most {limit} are accepted here: scale it down."
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


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright; None where it is, or where nothing that can be read says otherwise."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # a damaged EXIF block raises anything, and the picture beside it is whole
        refuse_for_memory(error)
        return None
