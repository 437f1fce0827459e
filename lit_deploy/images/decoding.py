"""Decoding image files, whatever is in them: one frame, 8-bit RGB, never more memory than the limit allows.

Pillow and NumPy, no torch.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from lit_deploy.core.errors import ImageError, refuse_for_memory
from lit_deploy.images.containers import JPEG, PNG, orientation_of, pixels_of

MAX_PIXELS = 1 << 27
"""Pixels above which an image is refused, before decoding and again before resizing (134 million, 0.5 GiB)."""

MAX_LENGTH = 1 << 20
"""Pixels of a side above which an image is refused: every row costs time, however short it is."""

MAX_BYTES = 1 << 28
"""Largest JPEG, PNG or WebP file (256 MiB), which is held in memory; other formats are read piece by piece."""

MAX_HEADER, MAX_READS = 1 << 22, 10_000
"""Most bytes and parts that are read of the other formats before their pixels."""

# A closed list, because Pillow's others reach further than pixels: EPS runs Ghostscript. The first five come with
# Pillow's core; the others load all its plugins, once.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
FORMATS_TEXT = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
"""What can be read, in words."""

_CODECS = {"jpeg", "zip", "raw", "gif", "libtiff"}
_SLOW = {"ppm_plain": "pixels as text", "ppm": "samples of unusual depth", "bmp_rle": "run lengths"}
"""What Pillow's other decoders are for, by their names."""

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
    path: str | Path | bytes,
    name: str | None = None,
    max_pixels: int | None = None,
    *,
    exif: bool = False,
    check: Callable[[int, int], None] | None = None,
) -> Image.Image:
    """Decode one image.

    Grayscale, palette, CMYK and alpha images are converted as Pillow converts them (alpha is dropped, not blended).
    16-bit grayscale keeps its high byte, which is also what Pillow does to 16-bit RGB, so that a picture
    looks the same in either form. The EXIF orientation is ignored, as in the official evaluation of classifiers; that
    of detectors and segmentation networks follows it (``exif``), and reads the pixels of every format as OpenCV does,
    but CMYK, where it rounds otherwise. Other metadata is not read.

    Args:
        path: JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or the bytes of one; of several frames the first is taken.
        name: for messages; the path, where there is one.
        max_pixels: largest width x height; ``MAX_PIXELS`` when None.
        exif: turn and mirror the picture as its EXIF orientation says.
        check: called with width and height, as the header has them, before anything is decoded.

    Returns:
        RGB image of the stored size, with ``exif`` perhaps lying on its side; ``info["orientation"]`` is its EXIF
        orientation, 1 to 8; of a TIFF, which Pillow turns, always 1.

    Raises:
        ImageError: there is no such file, it is no image of these formats, it is damaged or truncated, has
            more than ``max_pixels`` pixels or ``MAX_LENGTH`` to a side, is of a form that decodes slowly, or holds
            32-bit or floating-point samples; or what ``check`` raises.
    """
    name = name or ("the image" if isinstance(path, bytes) else os.fspath(path))
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with _file(path, name) as file:
            source, block = _source(file, name)
            with _header_lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(source, formats=_FORMATS)
            with image:
                _check_size(name, image.width, image.height, limit)
                _check_form(name, image)
                if check is not None:
                    check(image.width, image.height)
                if isinstance(source, _Header):
                    source.passed = True
                image.load()
                _check_size(name, image.width, image.height, limit)  # some headers are corrected by the data
                # Pillow itself turns a TIFF; of the others only WebP has such a block
                orientation = orientation_of(block or image.info.get("exif", b""))
                rgb = _rgb(name, image)
        if exif and orientation in _TURNS:
            rgb = rgb.transpose(_TURNS[orientation])
        rgb.info["orientation"] = orientation
        return rgb
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


class _Header:
    """A file while Pillow looks for its pixels: what it may read on the way there is limited.

    A TIFF can have many tags that all name the same bytes, and a tile for each pixel; a GIF any number of comments.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._bytes = self._reads = 0
        self.passed = False

    def read(self, size: int = -1) -> bytes:
        if self.passed:
            return self._file.read(size)
        data = self._file.read(MAX_HEADER + 1 if size < 0 else min(size, MAX_HEADER + 1))
        self._bytes, self._reads = self._bytes + len(data), self._reads + 1
        if self._bytes > MAX_HEADER or self._reads > MAX_READS:
            raise ImageError(
                f"{self._name} holds too much before its pixels (more than {MAX_HEADER >> 20} MiB, or {MAX_READS} "
                "parts): save it without metadata and layers."
            )
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _file(path: str | Path | bytes, name: str) -> BinaryIO:
    """What is to be read: a file or bytes that are not empty."""
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
    return io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb")


def _source(file: BinaryIO, name: str) -> tuple[BinaryIO | _Header, bytes]:
    """What Pillow is to open, and the EXIF block of a JPEG or PNG file."""
    head = file.read(16)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    parted = head.startswith((JPEG, PNG))
    if not parted and head[8:12] != b"WEBP":
        return _Header(file, name), b""
    if size > MAX_BYTES:
        raise ImageError(f"{name} has {size >> 20} MiB where at most {MAX_BYTES >> 20} are accepted: scale it down.")
    content, block = pixels_of(file.read()) if parted else (file.read(), b"")
    return io.BytesIO(content), block


def _check_form(name: str, image: Image.Image) -> None:
    """Refuse what Pillow decodes in Python, value by value."""
    slow = {tile[0] for tile in getattr(image, "tile", ())} - _CODECS
    if slow:
        form = _SLOW.get(slow.pop(), "another")
        raise ImageError(
            f"{name} is a {image.format} file of a form that decodes slowly ({form}): convert it to JPEG or PNG."
        )


def _check_size(name: str, width: int, height: int, limit: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}): replace the file.")
    if width * height > limit:
        raise ImageError(
            f"{name} has {width} x {height} pixels where at most {limit} are accepted here: scale it down."
        )
    if max(width, height) > MAX_LENGTH:
        raise ImageError(
            f"{name} has {width} x {height} pixels where at most {MAX_LENGTH} to a side are accepted: crop it first."
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
