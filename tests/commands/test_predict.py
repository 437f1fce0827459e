"""The command ``predict``: folders, drawings, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.command import Run
from support.dense_results import HandMade, dense_manifest, found

from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.workflows import predict


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos of different sizes."""
    path = tmp_path / "photos"
    path.mkdir()
    for index in range(2):
        pixels = synthetic_image(8, f"predict:{index}", 80 + 20 * index, 130)
        Image.fromarray(pixels).save(path / f"photo {index}.jpg")
    return path


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any file finds a dog and, less surely, a [cat] in every picture."""
    outputs = found((16, 0.9, (10, 20, 50, 70)), (15, 0.2, (1, 2, 30, 40)))
    made = HandMade(dense_manifest("detection"), lambda feeds: outputs)
    monkeypatch.setattr(predict, "open_session", lambda source, options=None: made)


def test_classes_of_a_folder(run: Run, exported: Path, folder: Path) -> None:
    done = run("predict", exported, folder, "--json", "--out", "drawn")
    assert done.code == 0, done.err
    assert [Path(entry["image"]).name for entry in json.loads(done.out)] == ["photo 0.jpg", "photo 1.jpg"]
    assert len(json.loads(done.out)[0]["classes"]) == 5
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["photo 0.png", "photo 1.png"]
    assert run("predict", exported, folder / "photo 0.jpg", "--top", 2, "--json").out.count("class ") == 2


def test_a_picture_that_lies_on_its_side_is_hinted_at(run: Run, exported: Path, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(2):
        Image.open(folder / f"photo {index}.jpg").save(folder / f"turned {index}.jpg", exif=exif)
    done = run("predict", exported, folder, "--json")
    assert [entry["orientation"] for entry in json.loads(done.out)] == [1, 1, 6, 6]
    assert done.err.splitlines() == [
        f"hint: {folder / 'turned 0.jpg'} and 1 more should be turned by its EXIF orientation, which classifiers "
        "ignore as the official evaluation does; turn the pixels themselves where it matters"
    ]
    assert run("predict", exported, folder / "photo 0.jpg").err == ""


def test_a_classifier_has_no_score_threshold(run: Run, exported: Path, folder: Path) -> None:
    done = run("predict", exported, folder, "--score-threshold", 0.5)
    assert done.code == 2
    assert "knows no score threshold" in done.err
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("detector")
def test_detections_of_a_folder(run: Run, folder: Path) -> None:
    done = run("predict", "any.onnx", folder, "--out", "drawn")
    assert done.code == 0, done.err
    for words in ("photo 0.jpg", "photo 1.jpg", "dog", "90.0%", "cat", "20.0%"):
        assert words in done.out
    assert len(list(Path("drawn").iterdir())) == 2
    done = run("predict", "any.onnx", folder, "--score-threshold", 0.5)
    assert "dog" in done.out
    assert "cat" not in done.out


@pytest.mark.usefixtures("detector")
def test_an_empty_result_is_said(run: Run, folder: Path) -> None:
    done = run("predict", "any.onnx", folder, "--score-threshold", 0.95)
    assert done.code == 0, done.err
    assert done.out.count("│ nothing") == 2


@pytest.mark.usefixtures("detector")
def test_json_is_whole_or_absent(run: Run, folder: Path) -> None:
    (folder / "z.jpg").write_bytes(b"no image")
    done = run("predict", "any.onnx", folder, "--json")
    assert done.code == 2
    assert done.out == ""
    assert "z.jpg is not an image" in done.err
