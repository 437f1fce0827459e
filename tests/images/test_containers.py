"""Pictures are decoded without what is no pixel: the same pixels as Pillow's, and no way to make a small file dear."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support.service_pictures import JPEG, PICTURES, encoded, png_chunk, with_scans

from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.errors import ImageError
from lit_deploy.core.specs import InputSpec
from lit_deploy.images import containers, decoding
from lit_deploy.images.containers import MAX_SCANS, orientation_of, pixels_of
from lit_deploy.images.decoding import MAX_LENGTH, load_image
from lit_deploy.images.preprocessing import crops_from_images

PHOTO = Image.fromarray(synthetic_image(7, "containers", 61, 83))
PROFILE = np.random.default_rng(0).bytes(150_000)
"""Too large for one segment, and no profile: nobody looks."""


def exif_of(orientation: int, endian: str = "<") -> Image.Exif:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x0112] = orientation
    exif[0x010E] = "a picture"
    return exif


def with_thumbnail() -> bytes:
    """A JPEG whose EXIF block holds a JPEG of its own, of 150 scans."""
    content, block = encoded(PHOTO, "JPEG"), b"Exif\0\0" + with_scans(150)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + content[2:]


def with_text(content: bytes, *chunks: bytes) -> bytes:
    """A PNG with further chunks after its header."""
    return content[:33] + b"".join(chunks) + content[33:]


def in_small_chunks(content: bytes) -> bytes:
    """A PNG whose pixels lie in chunks of one byte."""
    at = content.index(b"IDAT") - 4
    length = int.from_bytes(content[at : at + 4], "big")
    data = content[at + 8 : at + 8 + length]
    return content[:at] + b"".join(png_chunk(b"IDAT", bytes([byte])) for byte in data) + content[at + 12 + length :]


def animated() -> bytes:
    return encoded(PHOTO, "PNG", save_all=True, append_images=[PHOTO.rotate(90)], duration=9)


FILES: dict[str, bytes] = {
    **PICTURES,
    "profile, EXIF and comment": encoded(PHOTO, "JPEG", icc_profile=PROFILE, exif=exif_of(6), comment=b"\xff\xda" * 99),
    "progressive with all": encoded(
        PHOTO, "JPEG", progressive=True, icc_profile=PROFILE, exif=exif_of(6), comment=b"x"
    ),
    "restarts": encoded(PHOTO, "JPEG", restart_marker_blocks=1),
    "RGB components": encoded(PHOTO, "JPEG", keep_rgb=True, quality=95),
    "two pictures": encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(90)]),
    "thumbnail": with_thumbnail(),
    "fill and junk": JPEG[:20] + b"junk\xff\xff" + JPEG[20:] + b"\xff\xda" * 500,
    "png with all": encoded(PHOTO, "PNG", icc_profile=PROFILE, exif=exif_of(6)),
    "palette with transparency": encoded(PHOTO.quantize(9), "PNG", transparency=bytes(range(9))),
    "small chunks": in_small_chunks(encoded(PHOTO, "PNG")),
    "animation": animated(),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_pixels_are_pillows(content: bytes, tmp_path: Path) -> None:
    with Image.open(io.BytesIO(content)) as image:
        image.seek(0)
        deep = image.mode.startswith("I")
        expected = (np.asarray(image) >> 8) if deep else np.asarray(image.convert("RGB"))
    if deep:
        expected = np.repeat(expected.astype(np.uint8)[..., None], 3, axis=2)
    path = tmp_path / "picture"
    path.write_bytes(content)
    for source in (content, path):
        np.testing.assert_array_equal(np.asarray(load_image(source)), expected)


@pytest.mark.parametrize("name", ["profile, EXIF and comment", "progressive with all", "png with all", "two pictures"])
def test_metadata_is_left_out(name: str) -> None:
    with Image.open(io.BytesIO(pixels_of(FILES[name])[0])) as image:
        image.load()
        assert image.format in ("JPEG", "PNG")
        assert not {"exif", "icc_profile", "comment", "xmp", "mp"} & set(image.info)


# ------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_is_told_and_not_applied(form: str, orientation: int) -> None:
    image = load_image(encoded(PHOTO, form, exif=exif_of(orientation)))
    assert image.size == PHOTO.size
    assert image.info["orientation"] == orientation
    (crop,) = crops_from_images([encoded(PHOTO, form, exif=exif_of(orientation))], InputSpec("uint8", 32, 32, 36))
    assert crop.orientation == orientation
    assert load_image(encoded(PHOTO, form)).info["orientation"] == 1


def test_a_tiff_is_turned_by_pillow_as_in_the_official_evaluation() -> None:
    image = load_image(encoded(PHOTO, "TIFF", exif=exif_of(6)))
    assert (image.size, image.info["orientation"]) == (PHOTO.size[::-1], 1)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_pillow_reads_it(orientation: int, endian: str) -> None:
    block = exif_of(orientation, endian).tobytes()
    assert orientation_of(block) == orientation_of(block.removeprefix(b"Exif\0\0")) == orientation


@pytest.mark.parametrize(
    "block",
    [
        b"", b"Exif\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(70_000),
        exif_of(6).tobytes()[:30], exif_of(9).tobytes(), exif_of(0).tobytes(), b"MM\0*\0\0\0\x08\xff\xff\x01\x12",
    ],
)  # fmt: skip
def test_orientations_that_cannot_be_read_are_upright(block: bytes) -> None:
    assert orientation_of(block) == 1


def test_any_block_has_an_orientation() -> None:
    whole, random = exif_of(6).tobytes(), np.random.default_rng(3)
    for _ in range(2000):
        block = bytearray(whole)
        for place in random.integers(0, len(block), 3):
            block[place] = random.integers(256)
        assert 1 <= orientation_of(bytes(block)) <= 8


# ------------------------------------------------------------------------------------- what costs more than it is worth


def zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


SMALL_PNG = encoded(PHOTO, "PNG")
LARGE = zeros(PngImagePlugin.MAX_TEXT_CHUNK + 1)
BOMBS = {
    "profile": [png_chunk(b"iCCP", b"k\0\0" + LARGE)],
    "texts": [png_chunk(b"zTXt", b"k%d\0\0" % index + LARGE) for index in range(80)],
    "international text": [png_chunk(b"iTXt", b"k\0\1\0\0\0" + LARGE)],
    "suggested palette": [png_chunk(b"sPLT", bytes(1 << 20))],
}


@pytest.mark.parametrize("chunks", BOMBS.values(), ids=BOMBS)
def test_what_a_png_packs_beside_its_pixels_stays_packed(chunks: list[bytes]) -> None:
    np.testing.assert_array_equal(np.asarray(load_image(with_text(SMALL_PNG, *chunks))), np.asarray(PHOTO))


def test_a_jpeg_has_no_more_scans_than_the_service_takes(tmp_path: Path) -> None:
    first = with_scans(0).count(b"\xff\xda")
    assert load_image(with_scans(MAX_SCANS - first)).size == (120, 90)
    with pytest.raises(ImageError, match="is damaged or incomplete \\(more than 100 scans\\): replace the file"):
        load_image(with_scans(MAX_SCANS - first + 1))
    source = (Path(decoding.__file__).parents[2] / "examples/02_cpp_service/decode_jpeg.cc").read_text()
    assert f"kMaxScans = {MAX_SCANS}," in source


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (JPEG[:2] + b"\xff\xfe\0\2" * 3000, "more than 2000 segments"),
        (JPEG[:20] + (b"\xff\xdb\xff\xff" + bytes(65533)) * 20 + JPEG[20:], "more than 1 MiB of tables"),
        (SMALL_PNG[:33] + png_chunk(b"tEXt", b"") * 99 + SMALL_PNG[33:-12], "the file ends too early"),
        (with_text(SMALL_PNG, png_chunk(b"tEXt", b"k\0v")[:-1] + b"\0"), "a wrong checksum of 'tEXt'"),
        (in_small_chunks(SMALL_PNG).replace(png_chunk(b"IDAT", b"\0"), png_chunk(b"tEXt", b""), 1), "torn apart"),
    ],
)
def test_damage(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=f"damaged or incomplete \\(.*{words}"):
        load_image(content)


def test_a_png_has_no_more_chunks_than_pixels_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_CHUNKS", 50)
    with pytest.raises(ImageError, match="more than 50 chunks"):
        load_image(in_small_chunks(SMALL_PNG))


def flat_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height), 9)
    return SMALL_PNG[:8] + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def test_sides_are_told_from_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=f"1 x 2000000 pixels where at most {MAX_LENGTH} to a side"):
        load_image(flat_png(1, 2_000_000))
    with pytest.raises(ImageError, match="image 0: an image of 1 x 60000 pixels is too narrow"):
        crops_from_images([flat_png(1, 60_000)], InputSpec("uint8", 224, 224, 256))


def test_packed_files_are_as_large_as_fits_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", 1 << 20)
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(PHOTO, "JPEG") + bytes(1 << 20))
    with pytest.raises(ImageError, match="has 1 MiB where at most 1 are accepted"):
        load_image(path)


# --------------------------------------------------------------------------------------------------- slow forms


def run_lengths() -> bytes:
    """A BMP of 8 x 1 pixels, run-length encoded."""
    data = b"\x08\x01\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 8, 1, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(data), 0, 0, 1078) + head + bytes(1024) + data


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"P1 2 1\n0 1\n", "pixels as text"),
        (b"P2 2 1 255\n0 1\n", "pixels as text"),
        (b"P3 1 1 255\n0 1 2\n", "pixels as text"),
        (b"P6 1 1 100\n\1\2\3", "samples of unusual depth"),
        (b"P6 1 1 65535\n\1\2\3\4\5\6", "samples of unusual depth"),
        (run_lengths(), "run lengths"),
    ],
)
def test_forms_that_decode_value_by_value_are_refused(content: bytes, form: str) -> None:
    with pytest.raises(ImageError, match=f"of a form that decodes slowly \\({form}\\): convert it to JPEG or PNG"):
        load_image(content)


@pytest.mark.parametrize(
    "content", [b"P4 8 1\n\x0f", b"P5 2 1 255\n\0\xff", b"P6 1 1 255\n\1\2\3", b"P5 1 1 65535\n\1\2"]
)
def test_binary_ppm_is_read(content: bytes) -> None:
    assert load_image(content).mode == "RGB"


def commented_gif() -> bytes:
    gif = encoded(PHOTO.quantize(16), "GIF")
    at = 13 + 3 * (2 << (gif[10] & 7))
    return gif[:at] + b"!\xfe" + b"\1x" * 20_000 + b"\0" + gif[at:]


def layered_tiff() -> bytes:
    """With a tag of Photoshop's layers."""
    return encoded(PHOTO, "TIFF", tiffinfo={37724: bytes(5 << 20)})


@pytest.mark.parametrize("make", [commented_gif, layered_tiff])
def test_headers_are_read_up_to_a_limit(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(make())
    for source in (path, path.read_bytes()):
        with pytest.raises(
            ImageError, match=r"holds too much before its pixels .* save it without metadata and layers"
        ):
            load_image(source)


def test_every_form_is_still_read_from_a_file(tmp_path: Path) -> None:
    for name, options in (("x.tif", {"compression": "tiff_lzw"}), ("x.gif", {}), ("x.bmp", {}), ("y.tif", {})):
        path = tmp_path / name
        image = PHOTO.quantize(16) if name == "x.gif" else PHOTO
        image.save(path, **options)
        np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(image.convert("RGB")))
