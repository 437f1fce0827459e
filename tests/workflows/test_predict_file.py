"""Predictions in files: what they hold, runs that were killed, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from support.command import ROOT
from support.dense_results import HandMade, dense_manifest, found
from support.exported import export_of

from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ImageError, MissingDependency, UsageError
from lit_deploy.core.progress import Step
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.machine import packages
from lit_deploy.tasks.instance_segmentation.rle import decoded
from lit_deploy.workflows import predict
from lit_deploy.workflows.predict import Wanted, predict_images
from lit_deploy.workflows.predict_file import predict_to_file

LISTS = ("classes", "labels", "probabilities")
ONE = SessionOptions(threads=1)
COUNT = 7


@pytest.fixture
def exported(checkpoint_file: Callable[[str], Path]) -> Path:
    return export_of(checkpoint_file("tiny"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(COUNT):
        Image.fromarray(synthetic_image(4, f"file:{index}", 60 + index, 90)).save(folder / f"{index}.png")
    return folder


def state_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def stopping(after: int) -> Callable[[Step], None]:
    """A progress that ends the run, as Ctrl-C does, after so many images."""

    def progress(step: Step) -> None:
        if step.name.startswith(f"{after} of") and step.fraction:
            raise KeyboardInterrupt

    return progress


def detector(monkeypatch: pytest.MonkeyPatch, task: Any) -> None:
    """Any file finds a dog and a cat in every other picture, or segments it."""
    objects = ((16, 0.75, (10, 20, 50, 70)), (15, 0.5, (1, 2, 30, 40)))
    answers = [found(*objects, masks=task == "instance_segmentation"), found(masks=task == "instance_segmentation")]

    def answer(feeds: dict[str, Any]) -> dict[str, Any]:
        if task == "semantic_segmentation":
            height, width = feeds["original_size"].tolist()
            return {"labels": (np.arange(height * width) % 3).astype(np.uint8).reshape(1, height, width)}
        answers.reverse()
        return answers[1]

    made = HandMade(dense_manifest(task, 150 if task == "semantic_segmentation" else 80), answer)
    monkeypatch.setattr(predict, "open_session", lambda source, options=None: made)


# ------------------------------------------------------------------------------------------------------- what it holds


def test_json_lines_of_a_classifier(exported: Path, photos: Path, tmp_path: Path) -> None:
    written = predict_to_file(exported, [photos], tmp_path / "r.jsonl", Wanted(top=3, batch=2), ONE)
    assert (written.images, written.left_out, written.resumed) == (COUNT, 0, 0)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    for line, single in zip(lines, predict_images(exported, [photos], 3, ONE, batch=2), strict=True):
        assert line == msgspec.to_builtins(single) | {name: list(getattr(single, name)) for name in LISTS}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "r.jsonl"]


def test_csv_of_a_classifier_has_a_row_a_class(exported: Path, photos: Path, tmp_path: Path) -> None:
    predict_to_file(exported, [photos / "0.png", photos / "3.png"], tmp_path / "R.CSV", Wanted(top=2), ONE)
    with (tmp_path / "R.CSV").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["image"]).name, row["rank"]) for row in rows] == [
        ("0.png", "1"), ("0.png", "2"), ("3.png", "1"), ("3.png", "2"),
    ]  # fmt: skip
    first, *_ = predict_images(exported, [photos / "0.png", photos / "3.png"], 2, ONE)
    assert rows[0]["label"] == first.labels[0]  # type: ignore[attr-defined]
    assert float(rows[0]["probability"]) == first.probabilities[0]  # type: ignore[attr-defined]


def test_objects_and_their_masks(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector(monkeypatch, "instance_segmentation")
    paths = [photos / "0.png", photos / "1.png"]
    predict_to_file("x.onnx", paths, tmp_path / "r.jsonl")
    first, second = (json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines())
    assert [each["label"] for each in first["detections"]] == ["dog", "cat"]
    assert second["detections"] == []
    predict_to_file("x.onnx", paths, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["label"]) for row in rows] == [("1", "dog"), ("2", "cat"), ("", "")]
    assert [float(rows[0][name]) for name in ("score", "x", "y", "width", "height")] == [0.75, 10, 20, 40, 50]
    assert rows[2]["image"] == str(paths[1]), "a picture without objects is not lost"
    mask = decoded({"size": [60, 90], "counts": rows[0]["rle_counts"]})
    assert mask.sum() == int(rows[0]["area"]) == first["detections"][0]["area"]


def test_drawn_files_are_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector(monkeypatch, "semantic_segmentation")
    monkeypatch.chdir(tmp_path)
    predict_to_file("x.onnx", [photos / "0.png"], "r.jsonl", Wanted(out="drawn"))
    (line,) = (json.loads(line) for line in Path("r.jsonl").read_text().splitlines())
    assert (line["picture"], line["label_map"]) == ("drawn/0.png", "drawn/0_labels.png")
    assert line["classes"][0]["pixels"] == 60 * 90 // 3
    predict_to_file("x.onnx", [photos / "0.png"], "r.csv", Wanted(out="drawn"))
    assert Path("r.csv").read_text().splitlines()[1].endswith(",drawn/0.png,drawn/0_labels.png")


def test_parquet_holds_the_rows_of_csv(exported: Path, photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    arrow_csv = pytest.importorskip("pyarrow.csv", reason="pyarrow is not installed")
    for suffix in ("csv", "parquet"):
        predict_to_file(exported, [photos], tmp_path / f"r.{suffix}", Wanted(top=2), ONE)
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table.num_rows == 2 * COUNT
    assert table.to_pylist() == arrow_csv.read_csv(tmp_path / "r.csv").to_pylist()
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "int64", "string", "double"]


def test_parquet_without_pyarrow(exported: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda name: None)
    with pytest.raises(MissingDependency, match=r"needs pyarrow, .* run: pip install 'lit-deploy\[parquet\]'$"):
        predict_to_file(exported, [photos], tmp_path / "r.parquet")


def test_names_that_are_no_text(exported: Path, photos: Path, tmp_path: Path) -> None:
    name = os.fsencode(photos) + b"/\xff\n.png"
    os.rename(photos / "0.png", name)
    for suffix in ("jsonl", "csv"):
        predict_to_file(exported, [Path(os.fsdecode(name))], tmp_path / f"r.{suffix}", options=ONE)
    assert json.loads((tmp_path / "r.jsonl").read_text())["image"].endswith("\\xff\n.png")
    with (tmp_path / "r.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["image"].endswith("\\xff\n.png")


# ------------------------------------------------------------------------------------------------ kills and resumption


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_run_goes_on_where_it_was(suffix: str, exported: Path, photos: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / f"whole.{suffix}", tmp_path / f"stopped.{suffix}"
    wanted = Wanted(batch=2)
    predict_to_file(exported, [photos], whole, wanted, ONE)
    for after in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            predict_to_file(exported, [photos], stopped, wanted, ONE, progress=stopping(after))
        assert not stopped.exists()
    state = state_of(stopped)
    content = state.read_bytes()
    for cut, resumed in ((len(content), 6), (len(content) - 1, 4), (10, 0), (0, 0)):
        state.write_bytes(content[:cut])
        assert predict_to_file(exported, [photos], stopped, wanted, ONE).resumed == resumed
        assert stopped.read_bytes() == whole.read_bytes()
        assert not state.exists()
        stopped.unlink()


KILLED = """
import os, signal, sys
from lit_deploy import SessionOptions, predict_to_file
from lit_deploy.workflows.predict import Wanted
def progress(step):
    if step.name.startswith("4 of"):
        os.kill(os.getpid(), signal.SIGKILL)
predict_to_file(sys.argv[1], [sys.argv[2]], sys.argv[3], Wanted(batch=2), SessionOptions(threads=1), progress=progress)
"""


def test_a_run_that_was_killed(exported: Path, photos: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    predict_to_file(exported, [photos], whole, Wanted(batch=2), ONE)
    words = [sys.executable, "-c", KILLED, str(exported), str(photos), str(killed)]
    assert subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == -signal.SIGKILL
    assert not killed.exists()
    assert predict_to_file(exported, [photos], killed, Wanted(batch=2), ONE).resumed == 4
    assert killed.read_bytes() == whole.read_bytes()


def test_images_that_could_not_be_read_get_another_chance(exported: Path, photos: Path, tmp_path: Path) -> None:
    bad, out, told = photos / "1.png", tmp_path / "r.jsonl", list[ImageError]()
    content = bad.read_bytes()
    bad.write_bytes(bytes(len(content)))
    status = bad.stat()
    with pytest.raises(KeyboardInterrupt):
        predict_to_file(exported, [photos], out, Wanted(batch=2), ONE, told.append, stopping(6))
    assert [str(bad) in str(error) for error in told] == [True]
    bad.write_bytes(content)  # the same size and time: an error of reading that has passed
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    written = predict_to_file(exported, [photos], out, Wanted(batch=2), ONE, told.append)
    assert (written.images, written.left_out, written.resumed) == (COUNT, 0, 4)
    assert len(told) == 1
    lines = out.read_text().splitlines()
    assert [Path(json.loads(line)["image"]).name for line in lines] == [f"{index}.png" for index in range(COUNT)]


def test_states_of_other_runs_are_refused(exported: Path, photos: Path, tmp_path: Path) -> None:
    out, wanted = tmp_path / "r.jsonl", Wanted(batch=2)
    with pytest.raises(KeyboardInterrupt):
        predict_to_file(exported, [photos], out, wanted, ONE, progress=stopping(4))
    content = state_of(out).read_bytes()
    for images, other, words in (
        ([photos / "0.png"], wanted, "another prediction, with other images"),
        ([photos], Wanted(batch=2, top=2), "another prediction, with other settings"),
        ([photos], Wanted(batch=3), "another prediction, with other settings"),
    ):
        with pytest.raises(UsageError, match=f"{words} .*; give another --out, or delete it to begin again$"):
            predict_to_file(exported, images, out, other, ONE)
        assert state_of(out).read_bytes() == content
    head, *lines = content.splitlines(keepends=True)
    for damaged in (b"{}\n", b'{"batch":99,"unusable":0,"images":[]}\n', b"\xff\n", b"[" * 5000 + b"\n"):
        state_of(out).write_bytes(head + lines[0] + damaged)
        with pytest.raises(UsageError, match=r"line 3 of the state file .* is damaged; delete the file"):
            predict_to_file(exported, [photos], out, wanted, ONE)
    state_of(out).write_bytes(b"my notes\n")
    with pytest.raises(UsageError, match="is no state file of lit-deploy predict; give another --out"):
        predict_to_file(exported, [photos], out, wanted, ONE)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("r.json", r"expected a name ending in \.jsonl, \.csv, \.parquet"), ("no/r.csv", "does not exist; create it")],
)
def test_places_that_are_refused_at_once(name: str, message: str, exported: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        predict_to_file(exported, [photos], tmp_path / name)


@pytest.mark.parametrize(("field", "value"), [("batch", 0), ("batch", 1025), ("workers", 0), ("workers", 1025)])
def test_numbers_have_bounds(field: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{field} is {value}, expected 1 to 1024"):
        Wanted(**{field: value})  # type: ignore[arg-type]
