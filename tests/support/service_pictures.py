"""What tests of the HTTP service send: all kinds of JPEG and PNG, files that only look like one, bad requests."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from lit_deploy.checkpoints.seeded import synthetic_image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


PHOTO = Image.fromarray(synthetic_image(6, "service", 90, 120))
JPEG = encoded(PHOTO, "JPEG")
PNG = encoded(PHOTO, "PNG")
_QUARTER = Image.Exif()
_QUARTER[0x0112] = 6
LYING_JPEG = encoded(PHOTO, "JPEG", exif=_QUARTER)
"""Stored on its side."""


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


SCAN = JPEG.index(b"\xff\xda")
CMYK = encoded(PHOTO.convert("CMYK"), "JPEG")
TRANSFORM = CMYK.index(b"Adobe") + 11

PICTURES = {
    "jpeg": JPEG,
    "next JFIF": JPEG.replace(b"JFIF\0\1", b"JFIF\0\2"),  # libjpeg warns of these three, and reads them
    "next Adobe": CMYK[:TRANSFORM] + b"\5" + CMYK[TRANSFORM + 1 :],
    "scan without an end": JPEG[: SCAN + 12] + b"\0" + JPEG[SCAN + 13 :],
    "progressive": encoded(PHOTO, "JPEG", progressive=True, subsampling=0),
    "many scans": with_scans(50),
    "gray": encoded(PHOTO.convert("L"), "JPEG"),
    "cmyk": CMYK,
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
NARROW_PNG = PNG[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 16_000_000, 8, 0, 0, 0, 0)) + PNG[33:]
"""Few enough pixels, and far too many once the shorter side is as long as the network wants it."""

MILLIONS = zlib.compress(bytes(64 << 20), 9)
BOMBS = {
    name: PNG[:33] + png_chunk(kind, start + data) + PNG[33:]
    for name, kind, start, data in (
        ("colour profile", b"iCCP", b"a name\0\0", MILLIONS),
        ("text", b"zTXt", b"a name\0\0", MILLIONS),
        ("unicode text", b"iTXt", b"a name\0\1\0\0\0", MILLIONS),
        ("damaged profile", b"iCCP", b"a name\0\0", b"no zlib"),
        ("damaged EXIF", b"eXIf", b"", b"no EXIF"),
        ("palette without an end", b"sPLT", b"a name\0\x08", b"12345"),
    )
}
"""Pictures with metadata that is large once unpacked, or damaged."""

FRAME = JPEG.index(b"\xff\xc0")
HUGE_JPEG = JPEG[: FRAME + 5] + struct.pack(">HH", 10000, 10000) + JPEG[FRAME + 9 :]
"""Headers that claim 100 megapixels."""

BAD_REQUESTS: dict[str, tuple[int, str, bytes | Iterator[bytes] | None, str]] = {
    "truncated JPEG": (422, "/v1/classify", JPEG[: len(JPEG) // 2], "damaged or incomplete"),
    "JPEG without its end": (422, "/v1/classify", JPEG[:-2], "damaged or incomplete"),
    "JPEG header alone": (422, "/v1/classify", JPEG[:4], "damaged or incomplete"),
    "damaged JPEG data": (422, "/v1/classify", JPEG[:900] + b"\xff\xd0" + JPEG[902:], "damaged or incomplete"),
    "JPEG of 156 scans": (422, "/v1/classify", with_scans(150), "more than 100 scans"),
    "truncated PNG": (422, "/v1/classify", PNG[: len(PNG) // 2], "damaged or incomplete"),
    "PNG with a wrong checksum": (422, "/v1/classify", PNG[:45] + b"\0\0\0\0" + PNG[49:], "damaged or incomplete"),
    "100 megapixels of PNG": (413, "/v1/classify", HUGE_PNG, "10000 x 10000 pixels where at most 50000000"),
    "100 megapixels of JPEG": (413, "/v1/classify", HUGE_JPEG, "10000 x 10000 pixels where at most 50000000"),
    "a line of pixels": (413, "/v1/classify", encoded(Image.new("L", (60000, 1)), "PNG"), "pixels"),
    "text": (415, "/v1/classify", b"hello " * 100, "neither a JPEG nor a PNG"),
    "GIF": (415, "/v1/classify", encoded(PHOTO, "GIF"), "the body is GIF where JPEG or PNG is expected"),
    "WebP": (415, "/v1/classify", encoded(PHOTO, "WEBP"), "the body is WebP where JPEG or PNG is expected"),
    "BMP": (415, "/v1/classify", encoded(PHOTO, "BMP"), "the body is BMP where JPEG or PNG is expected"),
    "TIFF": (415, "/v1/classify", encoded(PHOTO, "TIFF"), "the body is TIFF where JPEG or PNG is expected"),
    "AVIF": (415, "/v1/classify", b"\0\0\0\x20ftypavif" + bytes(20), "the body is AVIF where JPEG or PNG is expected"),
    "HEIC": (415, "/v1/classify", b"\0\0\0\x20ftypheic" + bytes(20), "the body is HEIC where JPEG or PNG is expected"),
    "empty": (400, "/v1/classify", b"", "is empty"),
    "two MiB": (413, "/v1/classify", bytes(2 << 20), "larger than this service takes"),
    "chunks without end": (413, "/v1/classify", (bytes(1 << 16) for _ in range(40)), "larger than"),
    "top is 0": (400, "/v1/classify?top=0", JPEG, "not top=N with N from 1 to 1000"),
    "top is text": (400, "/v1/classify?top=five", JPEG, "not top=N"),
    "an unknown parameter": (400, "/v1/classify?k=5", JPEG, "not top=N"),
    "an unknown path": (404, '/v1/"nothing"\\', JPEG, "no such path"),
    "POST to health": (405, "/healthz", JPEG, "takes GET"),
    "GET of the classifier": (405, "/v1/classify", None, "takes POST"),
}
"""What is wrong: status, path, body (None: GET), and words of the sentence."""
