"""Preprocessing against the frozen official evaluation, and against files that nobody should have to expect."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.prepared import GOLDEN, NAMES, RAW, golden_file

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.specs import InputSpec
from lit_deploy.images import decoding
from lit_deploy.images.decoding import load_image
from lit_deploy.images.folders import images_in
from lit_deploy.images.preprocessing import batch_from_images, normalize, resize_and_crop, resized_size

OFFICIAL = InputSpec(kind="float", height=224, width=224, resize=256)
SMALL = InputSpec(kind="uint8", height=32, width=32, resize=36)


@pytest.mark.parametrize("name", NAMES)
def test_official_evaluation_is_reproduced(name: str, tmp_path: Path) -> None:
    path = golden_file(name, tmp_path)
    image = load_image(path)
    pixels = np.asarray(image)
    assert list(pixels.shape) == list(GOLDEN[f"{name}.cls.decoded_shape"])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == str(GOLDEN[f"{name}.cls.decoded_sha256"])
    width, height = resized_size(image.width, image.height, OFFICIAL)
    assert [height, width, 3] == list(GOLDEN[f"{name}.cls.resized_shape"])

    crop = resize_and_crop(image, OFFICIAL)
    assert crop.dtype == np.uint8
    np.testing.assert_array_equal(crop, GOLDEN[f"{name}.cls.crop"])
    np.testing.assert_array_equal(batch_from_images([path], RAW)[0], GOLDEN[f"{name}.cls.crop"])

    tensor = batch_from_images([path], OFFICIAL)
    assert tensor.dtype == np.float32
    assert tensor.shape == (1, 3, 224, 224)
    assert tensor.flags.c_contiguous
    flat, count = tensor[0].reshape(-1), len(GOLDEN[f"{name}.cls.tensor_strided"])
    strided = flat[(np.arange(count) * flat.size) // count]
    np.testing.assert_allclose(strided, GOLDEN[f"{name}.cls.tensor_strided"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(tensor[0].mean((1, 2), np.float64), GOLDEN[f"{name}.cls.tensor_mean"], atol=1e-6)
    np.testing.assert_allclose(tensor[0].std((1, 2), np.float64), GOLDEN[f"{name}.cls.tensor_std"], atol=1e-6)


def test_normalize_equals_the_formula_in_double_precision() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 16, 8, 3)
    expected = (pixels / 255.0 - OFFICIAL.mean) / OFFICIAL.std
    np.testing.assert_allclose(normalize(pixels, OFFICIAL), expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 427), (383, 256)),  # floor(383.70)
        ((427, 640), (256, 383)),
        ((256, 256), (256, 256)),
        ((256, 300), (256, 300)),
        ((1, 1), (256, 256)),
        ((3, 7), (256, 597)),
        ((4000, 3000), (341, 256)),
    ],
)
def test_shorter_side_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, OFFICIAL) == expected


@given(width=st.integers(1, 20000), height=st.integers(1, 20000))
def test_square_crop_sizes_equal_the_official_formula(width: int, height: int) -> None:
    short, long = sorted((width, height))
    expected = (256, int(256 * long / short))
    assert resized_size(width, height, OFFICIAL) == (expected if width <= height else expected[::-1])


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    crop=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    resize=st.integers(1, 700),
)
def test_any_crop_is_covered_without_waste(width: int, height: int, crop: tuple[int, int], resize: int) -> None:
    resize = min(resize, 16 * max(crop))  # a larger one is refused as a typing mistake
    spec = InputSpec(kind="uint8", height=crop[0], width=crop[1], resize=resize)
    new_width, new_height = resized_size(width, height, spec)
    assert new_width >= spec.width
    assert new_height >= spec.height
    assert min(new_width, new_height) >= resize
    tight = new_width == spec.width or new_height == spec.height or min(new_width, new_height) == resize
    assert tight


def test_crop_rounds_halves_to_even() -> None:
    # 5 rows left over at top = round(2.5) = 2, 3 at round(1.5) = 2: an image that is not resized shows its rows
    for rest, top in ((5, 2), (3, 2), (1, 0), (4, 2)):
        side = 8 + rest
        ramp = np.repeat(np.arange(side, dtype=np.uint8)[:, None, None] * 10, side, axis=1).repeat(3, axis=2)
        spec = InputSpec(kind="uint8", height=8, width=8, resize=side)
        crop = resize_and_crop(Image.fromarray(ramp), spec)
        assert crop[0, 0, 0] == 10 * top, rest


def test_non_square_crop_and_small_image() -> None:
    spec = InputSpec(kind="uint8", height=40, width=120, resize=45)
    for size in ((1, 1), (30, 30), (500, 20), (20, 500)):
        crop = resize_and_crop(Image.new("RGB", size, (9, 200, 77)), spec)
        assert crop.shape == (40, 120, 3)
        assert (crop == (9, 200, 77)).all()  # no invented border anywhere


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def gradient(mode: str = "RGB", width: int = 70, height: int = 50) -> Image.Image:
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    rgb = np.stack([ramp, np.full(width, 90, np.uint8), ramp[::-1]], axis=1)
    return Image.fromarray(np.tile(rgb, (height, 1, 1))).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("RGB", "png"), ("L", "png"), ("LA", "png"), ("RGBA", "png"),
        ("P", "png"), ("1", "png"), ("RGB", "webp"), ("RGBA", "webp"), ("RGB", "bmp"), ("P", "gif"), ("RGB", "tiff"),
        ("CMYK", "tiff"), ("RGB", "ppm"),
    ],
)  # fmt: skip
def test_modes_and_formats(mode: str, suffix: str, tmp_path: Path) -> None:
    original = gradient(mode)
    image = load_image(saved(original, tmp_path / f"x.{suffix}"))
    assert image.mode == "RGB"
    assert image.size == (70, 50)
    lossy = suffix in ("jpg", "webp")
    difference = np.abs(np.asarray(image, np.int16) - np.asarray(original.convert("RGB"), np.int16))
    assert difference.mean() <= (6 if lossy else 0)
    assert batch_from_images([tmp_path / f"x.{suffix}"], SMALL).shape == (1, 32, 32, 3)


def test_palette_with_transparency_drops_alpha(tmp_path: Path) -> None:
    palette = gradient("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = load_image(saved(palette, tmp_path / "p.png", transparency=bytes(range(256))))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_gray_is_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    samples = np.linspace(0, 65535, 64 * 40).astype(np.uint16).reshape(40, 64)
    path = tmp_path / f"deep.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 64 40 65535\n" + samples.astype(">u2").tobytes())
    else:
        Image.fromarray(samples).save(path)
    pixels = np.asarray(load_image(path))
    np.testing.assert_array_equal(pixels, np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, axis=2))


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG written by hand, for headers that Pillow would not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_rgb_and_gray_agree(tmp_path: Path) -> None:
    values = [0, 255, 256, 257, 32767, 32768, 65279, 65280, 65535]
    gray = b"\0" + b"".join(struct.pack(">H", v) for v in values)
    rgb = b"\0" + b"".join(struct.pack(">HHH", v, v, v) for v in values)
    (tmp_path / "gray.png").write_bytes(png(len(values), 1, 16, 0, gray))
    (tmp_path / "rgb.png").write_bytes(png(len(values), 1, 16, 2, rgb))
    one, other = (np.asarray(load_image(tmp_path / f"{name}.png")) for name in ("gray", "rgb"))
    np.testing.assert_array_equal(one, other)
    assert one[0, :, 0].tolist() == [v >> 8 for v in values]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_gives_its_first_frame(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ((200, 30, 40), (0, 255, 0), (0, 0, 255))]
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(np.asarray(load_image(path), np.int16) - (200, 30, 40)).max() <= 8


def test_phone_jpeg_of_two_pictures_gives_the_first(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ((200, 30, 40), (0, 255, 0))]
    path = saved(frames[0], tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(load_image(path), np.int16) - (200, 30, 40)).max() <= 8


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(saved(gradient(), tmp_path / "turned.jpg", exif=exif)).size == (70, 50)


def test_float_and_32_bit_images_are_refused_in_words(tmp_path: Path) -> None:
    for array in (np.ones((5, 5), np.float32), np.full((5, 5), 1 << 20, np.int32)):
        with pytest.raises(ImageError, match="32-bit or floating-point"):
            load_image(saved(Image.fromarray(array), tmp_path / "x.tiff"))


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    gradient(width=120, height=90).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"just some text\n" * 20, "not an image"),
        (jpeg_bytes()[:900], "damaged or incomplete"),
        (b"\x89PNG\r\n\x1a\n", "damaged or incomplete"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not an image"),
        (png(0, 4, 8, 2, b""), "not an image|no pixels|damaged"),
        (png(100_000, 100_000, 8, 2, b"\0"), "decompression bomb"),  # beyond Pillow's own hard limit
        (png(12_000, 12_000, 8, 2, b"\0"), "12000 x 12000 pixels"),  # between ours and Pillow's
        (b"P6 0 3 255\n", "not an image|no pixels|damaged"),
    ],
)
def test_bad_files(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=words) as caught:
            load_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="directory"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="does not exist"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="does not exist"):
        load_image("a\0b.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a file"):
        load_image(tmp_path / "pipe.png")  # opening it would wait for ever


def test_a_needle_does_not_explode_when_resized(tmp_path: Path) -> None:
    path = saved(Image.new("L", (1, 60_000)), tmp_path / "needle.png")
    with pytest.raises(ImageError, match="too narrow") as caught:
        batch_from_images([path], OFFICIAL)
    assert str(path) in str(caught.value)


def test_the_limit_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(gradient(), tmp_path / "x.png")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 70 * 50 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="70 x 50 pixels"):
        load_image(path)


def test_misuse_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image was given"):
        batch_from_images([], OFFICIAL)
    with pytest.raises(UsageError, match=r"float32 \[1, 4, 4, 3\]"):
        normalize(np.zeros((1, 4, 4, 3), np.float32), OFFICIAL)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="L image"):
        resize_and_crop(Image.new("L", (4, 4)), OFFICIAL)
    with pytest.raises(UsageError, match="'lanczos'"):
        resize_and_crop(Image.new("RGB", (4, 4)), InputSpec("uint8", 4, 4, 4, interpolation="lanczos"))


def test_images_in(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no image"):
        images_in(tmp_path)
    for name in ("b/2.PNG", "b/10.png", "a.jpeg", "notes.txt", ".hidden.png", ".cache/x.png", "c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in images_in(tmp_path)]
    assert names == ["a.jpeg", "b/10.png", "b/2.PNG", "c.tif"]
    with pytest.raises(ImageError, match="does not exist"):
        images_in(tmp_path / "nowhere")
    with pytest.raises(ImageError, match="is a file"):
        images_in(tmp_path / "a.jpeg")


def test_torch_is_not_imported() -> None:
    code = "import sys, lit_deploy.images.preprocessing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def encoded(mode: str, format_: str, width: int, height: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)).save(buffer, format_)
    return buffer.getvalue()


KINDS = [
    ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("I;16", "PNG"),
    ("1", "PNG"), ("RGB", "WEBP"), ("P", "GIF"), ("RGB", "TIFF"), ("F", "TIFF"), ("RGB", "BMP"), ("RGB", "PPM"),
]  # fmt: skip


# Pillow warns while it decodes some damaged TIFF and GIF files; what counts is that they are refused or read
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), width=st.integers(1, 40), height=st.integers(1, 40), data=st.data())
def test_damaged_images_are_refused_or_read(
    kind: tuple[str, str], width: int, height: int, data: st.DataObject, tmp_path: Path
) -> None:
    content = bytearray(encoded(*kind, width, height, seed=width))
    damage = data.draw(st.sampled_from(["none", "truncate", "flip", "splice", "header"]))
    if damage == "truncate":
        del content[data.draw(st.integers(0, len(content))) :]
    elif damage == "flip":
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "splice":
        at = data.draw(st.integers(0, len(content)))
        content[at:at] = data.draw(st.binary(max_size=64))
    elif damage == "header":  # most of what a decoder trusts lies in the first bytes
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, min(63, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzzed.img"
    path.write_bytes(content)
    try:
        batch = batch_from_images([path], SMALL)
    except ImageError as error:
        message = str(error)
        assert damage != "none" or kind[0] == "F", message
        assert "\n" not in message
        assert str(path) in message
    else:
        assert batch.shape == (1, 32, 32, 3)


MAGIC = [b"", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"P6 "]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200), magic=st.sampled_from(MAGIC))
def test_garbage_is_refused(garbage: bytes, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.img"
    path.write_bytes(magic + garbage)
    try:
        batch = batch_from_images([path], SMALL)
    except ImageError as error:
        message = str(error)
        assert "\n" not in message
        assert str(path) in message
    else:
        assert batch.shape == (1, 32, 32, 3)  # a few bytes can be a whole PPM
