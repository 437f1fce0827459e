"""Predictions: the resize rule of the manifest, every kind of output, and odd image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.exported import KERNELS, export_of
from support.golden import TINY
from support.pictures import broken_images, odd_images

from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.specs import InputSpec
from lit_deploy.images.decoding import load_image
from lit_deploy.images.preprocessing import batch_from_images, normalize, resize_and_crop
from lit_deploy.models.families import default_input
from lit_deploy.tasks.classification.predictions import Prediction
from lit_deploy.workflows.predict import predict_images

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
