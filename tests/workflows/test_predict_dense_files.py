"""Predictions of real files of detectors and segmentation networks: as PyTorch says, of odd pictures, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import broken_images, odd_images

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ImageError
from lit_deploy.images.decoding import load_image
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.workflows.predict import predict_images

DenseFile = Callable[..., Path]
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An upright photo and one that EXIF turns."""
    folder = tmp_path_factory.mktemp("photos")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (("upright.png", {}), ("turned.jpg", {"exif": exif})):
        Image.fromarray(synthetic_image(4, name, 61, 130)).save(folder / name, **options)
    return [folder / "upright.png", folder / "turned.jpg"]


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_objects_are_those_of_pytorch(
    task: str, dense_file: DenseFile, dense_checkpoint: Checkpoint, photos: list[Path], tmp_path: Path
) -> None:
    file = dense_file(task)
    got = predict_images(file, photos, out=tmp_path / "out")
    expected = predict_images(dense_checkpoint(task), photos, options=SessionOptions(like=read_manifest(file)))
    for ours, theirs, photo in zip(got, expected, photos, strict=True):
        size = np.asarray(load_image(photo, exif=True)).shape[:2]
        assert (ours.height, ours.width) == size  # type: ignore[attr-defined]
        assert len(ours.rows()) > 5, "a network that finds nothing shows nothing"
        # Of a box, any may be missing whose score or overlap lies at the limit; the best are there, and alike.
        for best, same in zip(ours.detections[:5], theirs.detections[:5], strict=True):  # type: ignore[attr-defined]
            assert best.label == same.label
            assert best.score == pytest.approx(same.score, abs=1e-3)
            np.testing.assert_allclose(best.bbox, same.bbox, atol=0.05)
        for each in ours.detections:  # type: ignore[attr-defined]
            x, y, width, height = each.bbox
            assert min(x, y) >= 0
            assert x + width <= size[1] + 1e-3
            assert y + height <= size[0] + 1e-3
        with Image.open(tmp_path / "out" / f"{photo.stem}.png") as drawn:
            assert drawn.size == size[::-1]


def test_labels_are_those_of_pytorch(
    dense_file: DenseFile, dense_checkpoint: Checkpoint, photos: list[Path], tmp_path: Path
) -> None:
    task = "semantic_segmentation"
    file = dense_file(task)
    got = predict_images(file, photos, out=tmp_path / "out")
    expected = predict_images(dense_checkpoint(task), photos, options=SessionOptions(like=read_manifest(file)))
    for ours, theirs, photo in zip(got, expected, photos, strict=True):
        assert len(ours.rows()) > 1, "a network that sees one class everywhere shows nothing"
        assert (ours.label_map != theirs.label_map).mean() < 1e-3  # type: ignore[attr-defined]
        with Image.open(tmp_path / "out" / f"{photo.stem}_labels.png") as labels:
            np.testing.assert_array_equal(np.asarray(labels), ours.label_map)  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "semantic_segmentation"])
def test_odd_pictures(task: str, dense_file: DenseFile, tmp_path: Path) -> None:
    """Grey, palette, CMYK, 16 bits, transparent, turned, of one pixel: each has a result and a drawing of its size."""
    (tmp_path / "odd").mkdir()
    paths = odd_images(tmp_path / "odd")
    if task == "semantic_segmentation":
        narrow = tmp_path / "odd" / "narrow.png"
        paths.remove(narrow)
        with pytest.raises(ImageError, match=r"narrow\.png is too narrow"):
            predict_images(dense_file(task), [narrow])
    got = predict_images(dense_file(task), paths, out=tmp_path / "out")
    assert [prediction.image for prediction in got] == [str(path) for path in paths]
    sizes = {Path(each.image).name: (each.height, each.width) for each in got}  # type: ignore[attr-defined]
    assert sizes["turned.jpg"] == (120, 90)
    assert sizes["cmyk.jpg"] == (90, 120)
    assert sizes["one.png"] == (1, 1)
    drawings = {path.stem for path in (tmp_path / "out").iterdir() if not path.stem.endswith("_labels")}
    assert len(drawings) == len(paths)


@pytest.mark.parametrize("task", ["detection", "semantic_segmentation"])
def test_broken_pictures(task: str, dense_file: DenseFile, photos: list[Path], tmp_path: Path) -> None:
    for broken in broken_images(tmp_path):
        with pytest.raises(ImageError) as caught:
            predict_images(dense_file(task), [photos[0], broken])
        assert str(broken) in str(caught.value)
        assert "\n" not in str(caught.value)
