"""Predictions: the resize rule of the manifest, every kind of output, and odd image files."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exported import KERNELS, export_of
from golden import TINY
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.errors import ImageError, UsageError
from lit_deploy.predict import Prediction, predict_images
from lit_deploy.preprocessing import batch_from_images, load_image, normalize, resize_and_crop
from lit_deploy.runtime.session import SessionOptions, open_session
from lit_deploy.seeded import synthetic_image
from lit_deploy.specs import InputSpec, default_input

CheckpointFile = Callable[[str], Path]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten different images of different shapes: more than one run takes at a time."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for index in range(10):
        paths.append(folder / f"{index}.png")
        Image.fromarray(synthetic_image(4, f"photo:{index}", 60 + 9 * index, 130 - 7 * index)).save(paths[-1])
    return paths


def expected(checkpoint: Path, photos: list[Path], spec: InputSpec) -> NDArray[np.float64]:
    """Probabilities of every class by PyTorch, step by step."""
    pixels = np.stack([resize_and_crop(load_image(path), spec) for path in photos])
    with open_session(checkpoint) as session:
        logits = session.run({"images": normalize(pixels, spec)})["logits"].astype(np.float64)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def assert_are(predictions: list[Prediction], photos: list[Path], probabilities: NDArray[np.float64], top: int) -> None:
    assert [prediction.image for prediction in predictions] == [str(path) for path in photos]
    for prediction, row in zip(predictions, probabilities, strict=True):
        order = np.argsort(-row)[:top]
        assert list(prediction.classes) == order.tolist()
        assert list(prediction.labels) == [f"class {index}" for index in order]
        np.testing.assert_allclose(prediction.probabilities, row[order], rtol=0, atol=2e-5)


@pytest.mark.parametrize("library", KERNELS)
def test_predictions(library: bool, checkpoint_file: CheckpointFile, photos: list[Path]) -> None:
    checkpoint = checkpoint_file("tiny")
    probabilities = expected(checkpoint, photos, default_input(TINY))
    assert len(set(probabilities.argmax(1))) > 1, "the images must not all look the same to the network"
    got = predict_images(export_of(checkpoint), photos, options=SessionOptions(library=library))
    assert_are(got, photos, probabilities, 5)


@pytest.mark.parametrize(
    "options",
    [{"input": "uint8"}, {"output": "probabilities"}, {"output": "top5"}, {"batch": 3}, {"batch": 1}],
    ids=str,
)
def test_every_kind_of_file(options: dict[str, object], checkpoint_file: CheckpointFile, photos: list[Path]) -> None:
    """Raw pixels, other outputs, and fixed batches that ten images do not fill."""
    checkpoint = checkpoint_file("tiny")
    got = predict_images(export_of(checkpoint, **options), photos)
    assert_are(got, photos, expected(checkpoint, photos, default_input(TINY)), 5)


def test_checkpoint_predicts_too(checkpoint_file: CheckpointFile, photos: list[Path]) -> None:
    checkpoint = checkpoint_file("tiny")
    assert_are(
        predict_images(checkpoint, photos[:2]), photos[:2], expected(checkpoint, photos[:2], default_input(TINY)), 5
    )


def test_resize_rule_of_the_manifest(checkpoint_file: CheckpointFile, photos: list[Path]) -> None:
    checkpoint = checkpoint_file("tiny")
    own = {"mean": (0.5, 0.25, 0.75), "std": (0.5, 0.125, 1.0), "resize": 99}
    probabilities = expected(checkpoint, photos, InputSpec("float", 64, 64, **own))  # type: ignore[arg-type]
    assert np.abs(probabilities - expected(checkpoint, photos, default_input(TINY))).max() > 0.02
    got = predict_images(export_of(checkpoint, input="uint8", **own), photos)
    assert_are(got, photos, probabilities, 5)


@pytest.mark.parametrize(
    ("top", "output", "count"), [(1, "logits", 1), (7, "logits", 7), (99, "logits", 7), (99, "top5", 5)]
)
def test_how_many_classes(
    top: int, output: str, count: int, checkpoint_file: CheckpointFile, photos: list[Path]
) -> None:
    path = (
        export_of(checkpoint_file("tiny"), output=output) if output != "logits" else export_of(checkpoint_file("tiny"))
    )
    (prediction,) = predict_images(path, photos[:1], top)
    assert len(prediction.classes) == len(prediction.labels) == len(prediction.probabilities) == count
    assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
    if count == 7:
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-9)


# --------------------------------------------------------------------------------------------------- odd image files


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


def test_odd_images(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    paths = odd_images(tmp_path)
    predictions = predict_images(export_of(checkpoint_file("tiny")), paths)
    assert len(predictions) == len(paths)
    for prediction in predictions:
        assert np.isfinite(prediction.probabilities).all(), prediction.image
    by_name = {Path(prediction.image).name: prediction.probabilities for prediction in predictions}
    assert by_name["sixteen.png"] == by_name["sixteen.tif"]
    assert by_name["turned.jpg"] != by_name["sixteen.png"]


def test_broken_images(checkpoint_file: CheckpointFile, tmp_path: Path, photos: list[Path]) -> None:
    """One sentence that names the file; a good image before it does not turn into half an answer."""
    path = export_of(checkpoint_file("tiny"))
    for broken in broken_images(tmp_path):
        with pytest.raises(ImageError) as caught:
            predict_images(path, [photos[0], broken])
        assert str(broken) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_image(checkpoint_file: CheckpointFile) -> None:
    with pytest.raises(UsageError, match="name at least one image"):
        predict_images(export_of(checkpoint_file("tiny")), [])


def test_bytes_are_taken_as_their_file_is(tmp_path: Path) -> None:
    spec = InputSpec("uint8", 32, 32, 36)
    path = tmp_path / "photo.png"
    Image.fromarray(synthetic_image(3, "bytes", 50, 70)).save(path)
    expected = batch_from_images([path, path], spec)
    assert np.array_equal(batch_from_images([path.read_bytes(), path], spec), expected)
    with pytest.raises(ImageError, match="image 0 has 70 x 50 pixels where at most 3499 are accepted"):
        batch_from_images([path.read_bytes()], spec, max_pixels=70 * 50 - 1)
    needle = Image.new("RGB", (1, 100))
    needle.save(tmp_path / "needle.png")
    with pytest.raises(ImageError, match="too narrow: resized to 36 x 3600 it would exceed 3500 pixels"):
        batch_from_images([(tmp_path / "needle.png").read_bytes()], spec, max_pixels=70 * 50)
    assert np.array_equal(batch_from_images([path.read_bytes(), path], spec, max_pixels=70 * 50), expected)
    for content, words in ((b"", "image 1 is empty"), (b"text", "image 1 is not an image"),
                           (path.read_bytes()[:200], "image 1 is damaged")):  # fmt: skip
        with pytest.raises(ImageError, match=words):
            batch_from_images([path.read_bytes(), content], spec)
