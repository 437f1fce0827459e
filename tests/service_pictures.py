"""Pictures that tests/test_cpp_service.py sends: all kinds of JPEG and PNG, and files that only look like one."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from lit_deploy.seeded import synthetic_image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


PHOTO = Image.fromarray(synthetic_image(6, "service", 90, 120))
JPEG = encoded(PHOTO, "JPEG")
PNG = encoded(PHOTO, "PNG")


@functools.cache
def big() -> bytes:
    """12 megapixels, which take the decoder some 50 ms: pictures that arrive together have to queue."""
    return encoded(PHOTO.resize((4000, 3000)), "JPEG")


@functools.cache
def slow() -> bytes:
    """49 megapixels, which take it several times as long."""
    return encoded(Image.new("RGB", (7000, 7000), (90, 120, 60)), "JPEG")


def with_scans(count: int) -> bytes:
    """A progressive picture with this many further scans that change nothing: every block ends where it begins."""
    jpeg = encoded(PHOTO.convert("L"), "JPEG", progressive=True)
    table = struct.pack(">HHB16BB", 0xFFC4, 20, 0x10, 1, *[0] * 15, 0)  # one code, "0", for "end of block"
    scan = struct.pack(">HHBBBBBB", 0xFFDA, 8, 1, 1, 0, 1, 63, 0) + bytes(22) + b"\x0f"  # 15 x 12 blocks
    return jpeg[:-2] + table + scan * count + jpeg[-2:]


PICTURES = {
    "jpeg": JPEG,
    "progressive": encoded(PHOTO, "JPEG", progressive=True, subsampling=0),
    "many scans": with_scans(50),
    "gray": encoded(PHOTO.convert("L"), "JPEG"),
    "cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "png": PNG,
    "palette": encoded(PHOTO.quantize(16), "PNG", bits=4),
    "bitmap": encoded(PHOTO.convert("1"), "PNG"),
    "alpha": encoded(PHOTO.convert("RGBA").rotate(30), "PNG"),
    "gray alpha": encoded(PHOTO.convert("LA").rotate(30), "PNG"),
    "transparent": encoded(PHOTO, "PNG", transparency=PHOTO.getpixel((0, 0))),
    "16 bit": encoded(Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257), "PNG"),
    "one pixel": encoded(PHOTO.crop((0, 0, 1, 1)), "PNG"),
}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HUGE_PNG = PNG[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10000, 10000, 8, 2, 0, 0, 0)) + PNG[33:]
FRAME = JPEG.index(b"\xff\xc0")
HUGE_JPEG = JPEG[: FRAME + 5] + struct.pack(">HH", 10000, 10000) + JPEG[FRAME + 9 :]
"""Headers that claim 100 megapixels."""
