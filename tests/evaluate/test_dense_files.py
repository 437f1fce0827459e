"""Exported detectors and segmentation networks beside PyTorch, from the files to the numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import Run
from support.evaluation import evaluated, killed_after, numbers
from support.fake_dense import SIZES
from support.shared import later

from lit_deploy.backends.open import open_session
from lit_deploy.core.specs import TaskName
from lit_deploy.tasks.table import task_of
from lit_deploy.workflows.predict import predict_images

pytestmark = pytest.mark.usefixtures("evaluate_cache")

DETECTORS: tuple[TaskName, ...] = ("detection", "instance_segmentation")
PREPARATION = {"resize": 96, "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.25)}
"""Not the official one, and a tenth of its pixels."""
OPTIONS = {
    "detection": {**PREPARATION, "score_threshold": 0.1},
    "instance_segmentation": {**PREPARATION, "score_threshold": 0.1},
    "semantic_segmentation": PREPARATION,
}
"""One file a task, as an export takes its time."""

Checkpoints = Callable[[str], Path]
Files = Callable[..., Path]


def annotations_of(pictures: Path, file: Path, folder: Path) -> Path:
    """Annotations that call the best third of what a file detects the truth."""
    everything = folder / "everything.json"
    blank: dict[str, Any] = {
        "images": [
            {"id": index + 1, "file_name": f"{index}.png", "height": height, "width": width}
            for index, (height, width) in enumerate(SIZES)
        ],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate("abcde")],
        "annotations": [],
    }
    everything.write_text(json.dumps(blank))
    evaluated([file], pictures, annotations=everything, results=folder / "results.json")
    found = json.loads((folder / "results.json").read_text())
    assert len(found) > 20, "seeded weights find something"
    best = sorted(found, key=lambda entry: -entry["score"])[: len(found) // 3]
    blank["annotations"] = [{key: value for key, value in entry.items() if key != "score"} for entry in best]
    (folder / "truth.json").write_text(json.dumps(blank))
    return folder / "truth.json"


@pytest.mark.parametrize("task", ["detection", pytest.param("instance_segmentation", marks=later)])
def test_a_detector_beside_pytorch(
    task: TaskName, dense_checkpoint: Checkpoints, dense_file: Files, pictures: Path, tmp_path: Path
) -> None:
    """The same boxes, though the file has a preparation and a threshold that the checkpoint knows nothing of."""
    file = dense_file(task, **OPTIONS[task])
    truth = annotations_of(pictures, file, tmp_path)
    result = evaluated([file], pictures, dense_checkpoint(task), annotations=truth)
    reference, score = result.scores
    assert result.notes == ()
    assert score.agreement > 0.99
    assert score.detections > 20
    assert score.not_finite == reference.not_finite == 0
    assert score.boxes.ap == pytest.approx(reference.boxes.ap, abs=0.01)
    assert score.boxes.ap > 0.5
    if task == "instance_segmentation":
        assert score.masks.ap == pytest.approx(reference.masks.ap, abs=0.01)
        assert score.masks.ap > 0.5


@pytest.mark.parametrize("task", DETECTORS)
def test_what_is_written_is_what_is_predicted(
    task: TaskName, dense_file: Files, pictures: Path, tmp_path: Path
) -> None:
    file = dense_file(task, **OPTIONS[task])
    annotations_of(pictures, file, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    (predicted,) = predict_images(file, [pictures / "3.png"], top=100)
    written = [entry for entry in found if entry["image_id"] == 4]
    assert [(e["category_id"], e["score"], tuple(e["bbox"])) for e in written] == [
        (e.category_id, e.score, e.bbox) for e in predicted.detections
    ]


def label_maps(pictures: Path, file: Path, folder: Path) -> Path:
    """Label maps of what a file says, but for a stripe that says otherwise, and one that does not count."""
    folder.mkdir()
    with open_session(file) as session:
        task = task_of(session.manifest)
        for path in sorted(pictures.iterdir()):
            labels = session.run(task.feed(task.pictures([path], session.manifest), session.manifest))["labels"]
            values = labels[0] + np.uint8(1)
            values[:10] = 1 + values[:10] % 5
            values[10:20] = 0
            Image.fromarray(values).save(folder / path.name)
    return folder


def test_a_segmentation_network_beside_pytorch(
    dense_checkpoint: Checkpoints, dense_file: Files, pictures: Path, tmp_path: Path
) -> None:
    task = "semantic_segmentation"
    file = dense_file(task, **OPTIONS[task])
    result = evaluated(
        [file], pictures, dense_checkpoint(task), labels_dir=label_maps(pictures, file, tmp_path / "maps")
    )
    assert result.notes == ()
    pixels = sum((height - 10) * width for height, width in SIZES)
    wrong = sum(10 * width for _, width in SIZES)
    for score in result.scores:
        assert score.pixel_accuracy == pytest.approx((pixels - wrong) / pixels, abs=2e-3)
        assert 0.2 < score.mean_iou < 0.95
    assert result.scores[1].agreement > 0.998


@pytest.mark.parametrize("task", [*DETECTORS, "semantic_segmentation"])
def test_killed_and_resumed(
    task: TaskName, dense_checkpoint: Checkpoints, dense_file: Files, pictures: Path, tmp_path: Path, run: Run
) -> None:
    file = dense_file(task, **OPTIONS[task])
    if task == "semantic_segmentation":
        truth = {"labels_dir": label_maps(pictures, file, tmp_path / "maps")}
    else:
        truth = {"annotations": annotations_of(pictures, file, tmp_path)}
    ((name, path),) = truth.items()
    state = tmp_path / "state.jsonl"
    arguments = [file, "--images", pictures, f"--{name.replace('_', '-')}", path, "--ckpt", dense_checkpoint(task)]
    arguments += ["--state", state, "--threads", 1, "--workers", 1]
    killed_after(3, lambda: state if state.exists() else None, arguments)
    code, out, err = run("evaluate", *arguments, "--json")
    assert (code, err) == (0, "")
    assert 2 <= json.loads(out)["resumed"] < len(SIZES)
    resumed = evaluated([file], pictures, dense_checkpoint(task), state=state, workers=1, **truth)
    whole = evaluated([file], pictures, dense_checkpoint(task), workers=1, **truth)
    assert resumed.resumed == len(SIZES)
    assert numbers(resumed) == numbers(whole)
