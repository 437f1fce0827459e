"""The command ``predict``: folders, drawings, JSON."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.command import Run, assert_one_sentence, in_process
from support.dense_results import HandMade, dense_manifest, found

from lit_deploy.commands import predict as command
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
def test_bad_images_are_named_and_left_out(run: Run, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"no image")
    done = run("predict", "any.onnx", folder, folder / "absent.jpg", "--json")
    assert done.code == 1
    assert [Path(entry["image"]).name for entry in json.loads(done.out)] == ["photo 0.jpg", "photo 1.jpg"]
    first, second, last = done.err.splitlines()
    assert first.startswith(f"left out: {folder}/a.jpg is not an image")
    assert second.startswith(f"left out: {folder}/absent.jpg does not exist")
    assert last == "error: 2 of 4 images could not be used and were left out; they are named above"


@pytest.mark.usefixtures("detector")
def test_nothing_but_bad_images(run: Run, tmp_path: Path) -> None:
    """Of a single one, the sentence is all; of several, each has its own."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    assert_one_sentence(run("predict", "any.onnx", bad), "bad.jpg is not an image")
    done = run("predict", "any.onnx", bad, bad, "--out", "r.jsonl")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("error: none of the 2 images can be used")
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("detector")
def test_patterns_and_a_list_on_stdin(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def images(*arguments: object) -> list[str]:
        done = run("predict", "any.onnx", *arguments, "--json")
        assert done.code == 0, done.err
        return [Path(entry["image"]).name for entry in json.loads(done.out)]

    assert images(folder / "*0.jpg") == ["photo 0.jpg"]
    lines = f"{folder}/photo 1.jpg\r\n\n{folder}/photo 0.jpg".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert images(folder / "photo 0.jpg", "-") == ["photo 0.jpg", "photo 1.jpg", "photo 0.jpg"]
    assert_one_sentence(run("predict", "any.onnx", "-", "-"), "- is named twice")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert_one_sentence(run("predict", "any.onnx", "-"), "got no images")
    assert_one_sentence(run("predict", "any.onnx", folder / "*.png"), "matches no image")


@pytest.mark.usefixtures("detector")
def test_a_file_for_results_beside_a_folder_for_pictures(run: Run, folder: Path) -> None:
    done = run("predict", "any.onnx", folder, "--out", "r.jsonl", "--out", "drawn")
    assert done.code == 0, done.err
    assert re.match(r"wrote r\.jsonl: 2 images; .* images/s\n$", done.out)
    first, _ = map(json.loads, Path("r.jsonl").read_text().splitlines())
    assert first["picture"] == "drawn/photo 0.png"
    assert sorted(path.name for path in Path().iterdir()) == ["drawn", "r.jsonl"]


@pytest.mark.usefixtures("detector")
def test_targets_that_are_refused(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for out, words in (
        (["a.csv", "b.jsonl"], "--out is given 2 times, expected at most one file for results and one folder"),
        (["a.json"], "expected .jsonl, .csv, .parquet"),
        (["no/a.csv"], "the directory no does not exist"),
        (["a.csv", "--json"], "--json and --out a.csv are two forms of one result"),
    ):
        options = [word for name in out for word in ([name] if name == "--json" else ["--out", name])]
        assert_one_sentence(run("predict", "any.onnx", folder, *options), words)
    monkeypatch.setattr(command, "MOST_SHOWN", 1)
    assert_one_sentence(run("predict", "any.onnx", folder), "2 images are too many for a table; add --out")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("option", ["--batch", "--workers"])
def test_numbers_have_bounds(option: str, run: Run, folder: Path) -> None:
    for number in (0, 1025):
        assert run("predict", "any.onnx", folder, option, number).code == 2


def test_left_out_files_are_counted_on_stderr(exported: Path, folder: Path) -> None:
    (folder / "notes.txt").touch()
    (folder / ".hidden.jpg").touch()
    done = in_process("predict", exported, folder, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{folder}: left out 2 entries: 1 hidden, 1 of an unknown kind (.txt)\n"
