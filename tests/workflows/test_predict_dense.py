"""Predictions of detectors and segmentation networks: folders, thresholds, drawings.

The session is made by hand, so that what it finds is known.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.dense_results import HandMade, Outputs, dense_manifest, found

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.workflows import predict
from lit_deploy.workflows.predict import Wanted, predict_images, predicted

Installed = Callable[..., HandMade]

THREE = ((0, 0.9, (10, 20, 50, 80)), (16, 0.6, (1, 2, 30, 40)), (11, 0.1, (5, 5, 20, 20)))


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """``session(task)``: what any file opens as from now on."""

    def install(task: Any, answer: Callable[[Outputs], Outputs] | None = None, classes: int = 80) -> HandMade:
        def segments(feeds: Outputs) -> Outputs:
            height, width = feeds["original_size"].tolist()
            return {"labels": (np.arange(height * width) % 3).astype(np.uint8).reshape(1, height, width)}

        objects = found(*THREE, masks=task == "instance_segmentation")
        default = segments if task == "semantic_segmentation" else lambda feeds: objects
        made = HandMade(dense_manifest(task, classes), answer or default)
        monkeypatch.setattr(predict, "open_session", lambda source, options=None: made)
        return made

    return install


def photo(path: Path, height: int = 90, width: int = 120, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(synthetic_image(7, path.name, height, width)).save(path, **options)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_and_folders_in_their_order(session: Installed, tmp_path: Path) -> None:
    made = session("detection")
    last = photo(tmp_path / "z.png", 50, 70)
    inside = [photo(tmp_path / "folder" / name) for name in ("b.jpg", "sub/a.png", "a.png")]
    (tmp_path / "folder" / "notes.txt").touch()
    got = predict_images("x.onnx", [last, tmp_path / "folder", str(last)])
    assert [prediction.image for prediction in got] == [str(path) for path in (last, *sorted(inside), last)]
    assert [feeds["original_size"].tolist() for feeds in made.fed] == [[50, 70], *[[90, 120]] * 3, [50, 70]]
    assert [feeds["image"].shape for feeds in made.fed] == [
        (1, 800, 1120, 3),
        *[(1, 800, 1067, 3)] * 3,
        (1, 800, 1120, 3),
    ]


def test_no_pictures(session: Installed, tmp_path: Path) -> None:
    session("detection")
    with pytest.raises(UsageError, match="name at least one image"):
        predict_images("x.onnx", [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no image"):
        predict_images("x.onnx", [tmp_path / "empty"])


@pytest.mark.parametrize(("threshold", "top", "count"), [(None, None, 3), (0.3, None, 2), (0.3, 1, 1), (0.95, None, 0)])
def test_threshold_and_top(
    threshold: float | None, top: int | None, count: int, session: Installed, tmp_path: Path
) -> None:
    session("detection")
    (prediction,) = predict_images("x.onnx", [photo(tmp_path / "a.png")], top, score_threshold=threshold)
    assert [each.label for each in prediction.detections] == ["person", "dog", "stop sign"][:count]  # type: ignore[attr-defined]


@pytest.mark.parametrize("threshold", [0.01, 1.0, -1, float("nan")])
def test_thresholds_that_the_file_cannot_serve(threshold: float, session: Installed, tmp_path: Path) -> None:
    session("detection")
    with pytest.raises(UsageError, match=r"score threshold is .*, expected 0.05") as caught:
        predict_images("x.onnx", [photo(tmp_path / "a.png")], score_threshold=threshold)
    assert "\n" not in str(caught.value)


def test_a_threshold_for_a_task_without_scores(session: Installed, tmp_path: Path) -> None:
    session("semantic_segmentation", classes=150)
    with pytest.raises(UsageError, match="semantic_segmentation, which knows no score threshold"):
        predict_images("x.onnx", [photo(tmp_path / "a.png")], score_threshold=0.5)


def test_drawings(session: Installed, tmp_path: Path) -> None:
    session("instance_segmentation")
    image = photo(tmp_path / "a.jpg")
    predict_images("x.onnx", [image], out=tmp_path / "new" / "out")
    assert names(tmp_path / "new" / "out") == ["a.png"]
    with Image.open(tmp_path / "new" / "out" / "a.png") as drawn, Image.open(image) as original:
        assert drawn.format == "PNG"
        assert drawn.size == original.size
        assert (np.asarray(drawn) != np.asarray(original)).any()
    predict_images("x.onnx", [image], out=tmp_path / "new" / "out", score_threshold=0.95)
    with Image.open(tmp_path / "new" / "out" / "a.png") as drawn, Image.open(image) as original:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(original))  # written anew, and nothing to draw


def test_a_turned_picture_is_drawn_upright(session: Installed, tmp_path: Path) -> None:
    made = session("detection")
    exif = Image.Exif()
    exif[0x0112] = 6
    (prediction,) = predict_images("x.onnx", [photo(tmp_path / "a.jpg", 90, 120, exif=exif)], out=tmp_path / "out")
    assert made.fed[0]["original_size"].tolist() == [120, 90]
    assert (prediction.height, prediction.width) == (120, 90)  # type: ignore[attr-defined]
    with Image.open(tmp_path / "out" / "a.png") as drawn:
        assert drawn.size == (90, 120)


def test_maps_of_labels(session: Installed, tmp_path: Path) -> None:
    session("semantic_segmentation", classes=150)
    (prediction,) = predict_images("x.onnx", [photo(tmp_path / "a.jpg")], out=tmp_path / "out")
    assert names(tmp_path / "out") == ["a.png", "a_labels.png"]
    with Image.open(tmp_path / "out" / "a_labels.png") as labels:
        assert labels.mode == "P"
        np.testing.assert_array_equal(np.asarray(labels).ravel(), np.arange(90 * 120) % 3)
        np.testing.assert_array_equal(np.asarray(labels), prediction.label_map)  # type: ignore[attr-defined]


def test_names_that_collide_are_told_apart(session: Installed, tmp_path: Path) -> None:
    session("semantic_segmentation", classes=150)
    images = [
        photo(tmp_path / name)
        for name in ("one/a.png", "two/a.png", "two/A.jpg", "two/a.jpg", "two/a_2.png", "two/b_labels.png", "two/b.png")
    ]
    predict_images("x.onnx", images, out=tmp_path / "out")
    stems = ["a", "a_2", "A_3", "a_4", "a_2_2", "b_labels", "b_2"]
    assert names(tmp_path / "out") == sorted(f"{stem}{end}.png" for stem in stems for end in ("", "_labels"))


def test_pictures_that_were_given_are_not_overwritten(session: Installed, tmp_path: Path) -> None:
    session("detection")
    image = photo(tmp_path / "a.png")
    before = image.read_bytes()
    for _ in range(2):
        predict_images("x.onnx", [image], out=tmp_path)
        assert image.read_bytes() == before
        assert names(tmp_path) == ["a.png", "a_2.png"]


def test_what_was_drawn_is_not_read_next_time(session: Installed, tmp_path: Path) -> None:
    session("detection")
    photo(tmp_path / "folder" / "a.png")
    for _ in range(2):
        (prediction,) = predict_images("x.onnx", [tmp_path / "folder"], out=tmp_path / "folder" / "out")
        assert prediction.image == str(tmp_path / "folder" / "a.png")
        assert names(tmp_path / "folder" / "out") == ["a.png"]
    with pytest.raises(UsageError, match="both read and written"):
        predict_images("x.onnx", [tmp_path / "folder"], out=tmp_path / "folder")


def test_folders_that_cannot_be_written(session: Installed, tmp_path: Path) -> None:
    session("detection")
    image = photo(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png: it is a file, expected a folder"):
        predict_images("x.onnx", [image], out=image)
    with pytest.raises(UsageError, match="cannot make the folder"):
        predict_images("x.onnx", [image], out=image / "below")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"cannot write .*a\.png: it is a directory"):
        predict_images("x.onnx", [image], out=tmp_path / "out")


def test_a_broken_picture_leaves_whole_files(session: Installed, tmp_path: Path) -> None:
    session("detection")
    good, broken = photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    broken.write_bytes(broken.read_bytes()[:900])
    with pytest.raises(ImageError, match=r"b\.png is damaged"):
        predict_images("x.onnx", [good, broken], out=tmp_path / "out")
    assert names(tmp_path / "out") == ["a.png"]
    with Image.open(tmp_path / "out" / "a.png") as drawn:
        drawn.load()


def test_one_picture_at_a_time(session: Installed, tmp_path: Path) -> None:
    """Of many pictures, no more than one map of labels is held by who does not keep it."""
    session("semantic_segmentation", classes=150)
    images = [photo(tmp_path / f"{index}.png") for index in range(5)]
    maps = []
    for prediction in predicted("x.onnx", images, Wanted(out=tmp_path / "out")):
        maps.append(weakref.ref(prediction.label_map))  # type: ignore[attr-defined]
        del prediction
        assert sum(kept() is not None for kept in maps) <= 2
    assert len(maps) == 5
