"""Pictures that are odd, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from lit_deploy.checkpoints.seeded import synthetic_image


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def odd_images(folder: Path) -> list[Path]:
    """Images that are unusual and all right."""
    rgb = Image.fromarray(synthetic_image(5, "odd", 90, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    gray = np.asarray(rgb.convert("L"))
    images: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "sixteen.png": (Image.fromarray(gray.astype(np.uint16) * 257), {}),
        "sixteen.tif": (Image.fromarray(gray.astype(np.uint16) * 257), {}),
        "turned.jpg": (rgb, {"exif": exif}),
        "palette.png": (rgb.convert("P"), {"transparency": 0}),
        "palette.gif": (rgb.convert("P"), {}),
        "alpha.png": (rgb.convert("RGBA"), {}),
        "gray alpha.png": (rgb.convert("LA"), {}),
        "bits.png": (rgb.convert("1"), {}),
        "one.png": (rgb.resize((1, 1)), {}),
        "narrow.png": (rgb.resize((2, 300)), {}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "lossless.webp": (rgb, {"lossless": True}),
        "wrong ending.txt": (rgb, {"format": "BMP"}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)  # type: ignore[arg-type]
    return [folder / name for name in images]


def broken_images(folder: Path) -> list[Path]:
    """Files that are no images, or damaged, or claim the impossible."""
    buffer = io.BytesIO()
    Image.fromarray(synthetic_image(5, "odd", 90, 120)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    files = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:30],
        "empty.jpg": b"",
        "text.jpg": b"not an image at all",
        "bomb.png": png_header(60000, 60000),
        "large.png": png_header(13000, 13000),
        "no pixels.png": png_header(20, 20),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    return [folder / name for name in [*files, "folder.png", "absent.png"]]
