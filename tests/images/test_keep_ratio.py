"""Pictures for detectors and segmentation networks: against the frozen official pipeline, against OpenCV, and at the
edges of what a picture can be."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.pictures import png_header
from support.prepared import NAMES, golden_file

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.specs import InputSpec
from lit_deploy.images import keep_ratio
from lit_deploy.images.decoding import load_image
from lit_deploy.images.keep_ratio import (
    MAX_DETECTION_PIXELS,
    MAX_SEGMENTATION_PIXELS,
    keep_ratio_picture,
    keep_ratio_size,
    resize_bilinear,
)
from lit_deploy.images.synthetic import synthetic_image

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "preprocess_dense.npz")


def spec_of(
    resize: int, longest: int, pad_multiple: int, height: int | None = None, width: int | None = None
) -> InputSpec:
    return InputSpec(
        "uint8", height, width, resize, rule="keep_ratio", longest=longest, interpolation="bilinear",
        pad_multiple=pad_multiple,
    )  # fmt: skip


SPECS = {"det": spec_of(800, 1333, 32), "seg": spec_of(512, 2048, 1)}
SMALL = spec_of(40, 64, 32)


def sha256(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def opencv(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, -1)


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opencv_rgb(content: bytes) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels[:, :, ::-1]


PHOTO = Image.fromarray(synthetic_image(5, "odd", 90, 121))


@pytest.mark.parametrize("task", SPECS)
@pytest.mark.parametrize("name", NAMES)
def test_official_pipeline_is_reproduced(name: str, task: str, tmp_path: Path) -> None:
    path = golden_file(name, tmp_path)
    decoded = np.asarray(load_image(path, exif=True))
    assert sha256(decoded) == str(GOLDEN[f"{name}.{task}.decoded_rgb_sha256"])
    picture = keep_ratio_picture(path, SPECS[task])
    assert picture.original_size == tuple(GOLDEN[f"{name}.{task}.decoded_shape"][:2])
    assert list(picture.pixels.shape) == list(GOLDEN[f"{name}.{task}.resized_shape"])
    assert sha256(picture.pixels) == str(GOLDEN[f"{name}.{task}.resized_rgb_sha256"])
    sizes = np.array(picture.pixels.shape[1::-1], np.float32) / np.array(picture.original_size[::-1], np.float32)
    np.testing.assert_array_equal(np.tile(sizes, 2), GOLDEN[f"{name}.{task}.scale_factor"])


@pytest.mark.parametrize("task", SPECS)
def test_official_pipeline_makes_large_pictures_small(task: str) -> None:
    pixels = synthetic_image(2105, "preprocess:large", 1100, 1703, cell=32)
    size = keep_ratio_size(1100, 1703, SPECS[task])
    assert list(size) == list(GOLDEN[f"large.{task}.resized_shape"][:2])
    assert sha256(resize_bilinear(pixels, *size)) == str(GOLDEN[f"large.{task}.resized_rgb_sha256"])


sides = st.one_of(st.integers(1, 6), st.integers(1, 300))


@settings(max_examples=500, deadline=None)
@given(height=sides, width=sides, new_height=sides, new_width=sides, channels=st.sampled_from([1, 3]))
def test_every_value_is_opencvs(height: int, width: int, new_height: int, new_width: int, channels: int) -> None:
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    got = resize_bilinear(pixels, new_height, new_width)
    np.testing.assert_array_equal(got, opencv(pixels, new_height, new_width))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((3000, 4000), (800, 1067)), ((427, 640), (800, 1199)), ((1600, 2400), (800, 1200)), ((800, 1200), (800, 1200))],
    ids=["photo", "larger", "half", "same"],
)
def test_sizes_of_photos(size: tuple[int, int], wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half is a path of its own in OpenCV; and a result of many bands is that of one."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert keep_ratio_size(*size, SPECS["det"]) == wanted
    got = resize_bilinear(pixels, *wanted)
    np.testing.assert_array_equal(got, opencv(pixels, *wanted))
    monkeypatch.setattr(keep_ratio, "_BAND", 1)
    np.testing.assert_array_equal(resize_bilinear(pixels[:50, :60], 31, 77), opencv(pixels[:50, :60], 31, 77))


@pytest.mark.parametrize(
    ("size", "det", "seg"),
    [
        ((480, 640), (800, 1067), (512, 683)),
        ((427, 640), (800, 1199), (512, 767)),
        ((426, 640), (800, 1202), (512, 769)),
        ((500, 375), (1067, 800), (683, 512)),
        ((1, 1), (800, 800), (512, 512)),
        ((1, 2000), (1, 1333), (1, 2048)),
        ((100_000, 1), (1333, 1), (2048, 1)),
    ],
)
def test_size_rule(size: tuple[int, int], det: tuple[int, int], seg: tuple[int, int]) -> None:
    """The official examples, and pictures so narrow that the official rule leaves no pixel of a side."""
    assert keep_ratio_size(*size, SPECS["det"]) == det
    assert keep_ratio_size(*size, SPECS["seg"]) == seg


def test_one_fixed_size() -> None:
    picture = keep_ratio_picture(file_of(PHOTO, "PNG"), spec_of(800, 1333, 32, height=64, width=96))
    np.testing.assert_array_equal(picture.pixels, opencv(np.asarray(PHOTO), 64, 96))
    assert picture.original_size == (90, 121)
    assert keep_ratio_size(90, 121, spec_of(800, 1333, 32, height=64)) == (64, 1076)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_of(PHOTO, kind, exif=exif)
    expected = opencv_rgb(content)
    assert expected.shape[:2] == ((90, 121) if orientation < 5 else (121, 90))
    np.testing.assert_array_equal(np.asarray(load_image(content, exif=True)), expected)
    picture = keep_ratio_picture(content, SMALL)
    assert picture.original_size == expected.shape[:2]
    np.testing.assert_array_equal(picture.pixels, opencv(expected, *picture.pixels.shape[:2]))


@pytest.mark.parametrize("exif", [b"Exif\0\0damaged", b"Exif\0\0II*\0\xff\xff\xff\xff", b""])
def test_damaged_exif_leaves_the_picture_as_it_is(exif: bytes) -> None:
    content = file_of(PHOTO, "JPEG", exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(content, exif=True)), np.asarray(load_image(content)))


MODES = [
    ("L", "JPEG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"),
    ("P", "GIF"), ("RGB", "BMP"), ("L", "TIFF"), ("CMYK", "TIFF"), ("RGB", "PPM"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "kind"), MODES, ids=[" ".join(pair) for pair in MODES])
def test_every_kind_of_pixels_is_decoded_as_by_opencv(mode: str, kind: str) -> None:
    image = PHOTO.convert(mode)
    if "A" in mode:
        image.putalpha(PHOTO.convert("L"))  # some of it is transparent
    content = file_of(image, kind)
    np.testing.assert_array_equal(np.asarray(load_image(content, exif=True)), opencv_rgb(content))


def test_transparent_palette_is_decoded_as_by_opencv() -> None:
    content = file_of(PHOTO.convert("P"), "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(np.asarray(load_image(content, exif=True)), opencv_rgb(content))


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (40, 50, 4)], ids=["grey", "rgb", "rgba"])
def test_16_bit_png_is_decoded_as_by_opencv(shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(1).integers(0, 65536, shape).astype(np.uint16)
    content = cv2.imencode(".png", samples)[1].tobytes()
    np.testing.assert_array_equal(np.asarray(load_image(content, exif=True)), opencv_rgb(content))


def test_cmyk_jpeg_differs_from_opencv_by_rounding() -> None:
    content = file_of(PHOTO.convert("CMYK"), "JPEG")
    difference = np.asarray(load_image(content, exif=True)).astype(int) - opencv_rgb(content)
    assert np.abs(difference).max() <= 1
    assert keep_ratio_picture(content, SMALL).pixels.shape == (40, 54, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_needles_of_a_detector(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = keep_ratio_picture(file_of(Image.fromarray(pixels), "PNG"), SPECS["det"])
    assert picture.original_size == size
    assert picture.pixels.shape[:2] == keep_ratio_size(*size, SPECS["det"])
    np.testing.assert_array_equal(picture.pixels, opencv(pixels, *picture.pixels.shape[:2]))


def test_needles_of_a_network_that_adds_no_zeros(tmp_path: Path) -> None:
    path = tmp_path / "needle.png"
    for height, width in ((1, 2000), (2000, 1), (31, 2048)):
        Image.new("RGB", (width, height)).save(path)
        with pytest.raises(ImageError, match=r"needle.png is too narrow: .* needs at least 32 each way") as caught:
            keep_ratio_picture(path, SPECS["seg"])
        assert "\n" not in str(caught.value)
    Image.new("RGB", (2048, 32)).save(path)
    assert keep_ratio_picture(path, SPECS["seg"]).pixels.shape == (32, 2048, 3)
    assert keep_ratio_picture(file_of(Image.new("RGB", (1, 1)), "PNG"), SPECS["seg"]).pixels.shape == (512, 512, 3)


@pytest.mark.parametrize("limit", [MAX_DETECTION_PIXELS, MAX_SEGMENTATION_PIXELS])
def test_too_many_pixels_are_refused_before_decoding(limit: int, tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    for width, height in ((limit // 4096 + 1, 4096), (10_000, 9_000)):
        path.write_bytes(png_header(width, height))
        with pytest.raises(
            ImageError, match=f"scan.png has {width} x {height} pixels where at most {limit} are"
        ) as caught:
            keep_ratio_picture(path, SPECS["det"], max_pixels=limit)
        assert "\n" not in str(caught.value)


def test_forty_megapixels_are_a_detectors_and_no_segmentation_networks() -> None:
    assert MAX_SEGMENTATION_PIXELS < 40_000_000 <= MAX_DETECTION_PIXELS


def test_names_in_messages() -> None:
    with pytest.raises(ImageError, match="the image is empty"):
        keep_ratio_picture(b"", SMALL)
    with pytest.raises(ImageError, match="upload 7 is not an image"):
        keep_ratio_picture(b"text", SMALL, "upload 7")


def test_another_rule() -> None:
    with pytest.raises(UsageError, match="resize rule is centre_crop, expected keep_ratio"):
        keep_ratio_picture(file_of(PHOTO, "PNG"), InputSpec("uint8", 32, 32, 36))
