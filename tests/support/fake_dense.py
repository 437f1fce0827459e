"""Detectors and segmentation networks without a network: what they find is written down, by the size of the picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.specs import DenseSpec, InputSpec, ModelSpec, OutputKind, TaskName
from lit_deploy.evaluate import run as evaluate_run

Size = tuple[int, int]
Outputs = dict[str, Any]
Saying = Callable[[Size], Outputs]
"""From the height and width of a picture to what a session says about it."""

LABELS = ("disc", "square", "bar")
IDS = (1, 3, 7)
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))
MOST = 10

SIZES: tuple[Size, ...] = ((90, 120), (120, 90), (64, 64), (100, 101), (77, 133), (95, 80))
"""Height and width of every picture, each its own."""


@dataclass(frozen=True)
class Thing:
    """An object of a picture: its label, and x, y, width and height in pixels."""

    label: int
    box: tuple[int, int, int, int]
    crowd: bool = False


def things(index: int) -> list[Thing]:
    """What is in a picture: nothing in the third one, a crowd in the second."""
    random = np.random.default_rng(index)
    height, width = SIZES[index]
    found = []
    for number in range(0 if index == 2 else 3):
        w, h = (int(side) for side in random.integers(14, 34, 2))
        x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
        found.append(Thing((index + number) % 3, (x, y, w, h), crowd=index == 1 and number == 0))
    return found


def draw_pictures(folder: Path, suffix: str = ".png") -> None:
    """The pictures ``0.png``, ``1.png``, ..."""
    folder.mkdir()
    for index, (height, width) in enumerate(SIZES):
        picture = Image.new("RGB", (width, height), (90, 90, 90))
        draw = ImageDraw.Draw(picture)
        for thing in things(index):
            x, y, w, h = thing.box
            draw.rectangle((x, y, x + w - 1, y + h - 1), fill=COLOURS[thing.label])
        picture.save(folder / f"{index}{suffix}")


def write_annotations(path: Path, **changes: Any) -> dict[str, Any]:
    """What COCO would say about them; keys of ``changes`` replace those of the file."""
    annotations: list[dict[str, Any]] = []
    for index in range(len(SIZES)):
        for thing in things(index):
            x, y, w, h = thing.box
            annotations.append({
                "id": len(annotations) + 1, "image_id": 10 * index + 5, "category_id": IDS[thing.label],
                "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(thing.crowd),
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            })  # fmt: skip
    told = {
        "images": [
            {"id": 10 * index + 5, "file_name": f"{index}.png", "height": height, "width": width}
            for index, (height, width) in enumerate(SIZES)
        ],
        "categories": [{"id": number, "name": name} for number, name in zip(IDS, LABELS, strict=True)],
        "annotations": annotations,
        **changes,
    }
    path.write_text(json.dumps(told))
    return told


def padded(boxes: Any, scores: Any, labels: Any, masks: Any = None) -> Outputs:
    """The outputs of a detector's session."""
    count = len(scores)
    outputs: Outputs = {
        "boxes": np.zeros((1, MOST, 4), dtype=np.float32),
        "scores": np.zeros((1, MOST), dtype=np.float32),
        "labels": np.full((1, MOST), -1, dtype=np.int32),
        "num": np.array([count], dtype=np.int32),
    }
    if masks is not None:
        outputs["masks"] = np.zeros((1, MOST, 28, 28), dtype=np.float32)
        outputs["masks"][0, :count] = masks
    for name, values in (("boxes", boxes), ("scores", scores), ("labels", labels)):
        outputs[name][0, :count] = np.reshape(values, outputs[name][0, :count].shape)
    return outputs


def detector(seed: int, blur: float = 2.0, *, masks: bool = False) -> Saying:
    """Finds most things nearly where they are, and some that are not there."""

    def say(size: Size) -> Outputs:
        index = SIZES.index(size)
        random = np.random.default_rng((seed, index))
        rows = []
        for thing in things(index):
            for _ in range(int(random.integers(0, 3))):
                x, y, w, h = np.array(thing.box) + random.normal(0, blur, 4)
                rows.append((x, y, x + abs(w), y + abs(h), random.random(), thing.label))
        for _ in range(int(random.integers(0, 2))):
            rows.append((5, 5, 40, 40, random.random() / 2, int(random.integers(3))))
        table = np.array(sorted(rows, key=lambda row: -row[4]), dtype=np.float64).reshape(-1, 6)
        drawn = random.random((len(table), 28, 28)) * 0.4 + 0.4 if masks else None
        return padded(table[:, :4], table[:, 4], table[:, 5], drawn)

    return say


def true_map(index: int) -> Any:
    """Values of a label map: the numbers of its things, 0 and 255 elsewhere."""
    height, width = SIZES[index]
    values = np.zeros((height, width), dtype=np.uint8)
    values[:, : width // 5] = 255
    for thing in things(index):
        x, y, w, h = thing.box
        values[y : y + h, x : x + w] = IDS[thing.label]
    return values


def segmenter(seed: int, wrong: float) -> Saying:
    """Gives the true class, but to a share of all pixels any one."""

    def say(size: Size) -> Outputs:
        values = true_map(SIZES.index(size))
        random = np.random.default_rng((seed, *size))
        true = np.select([values == number for number in IDS], range(3), 0)
        guess = random.integers(0, 3, values.shape)
        return {"labels": np.where(random.random(values.shape) < wrong, guess, true).astype(np.uint8)[None]}

    return say


def dense_manifest(task: TaskName, **changes: Any) -> Manifest:
    """Of a network that takes any size, and pictures nearly as they are."""
    family = {"detection": "retinanet_lit", "instance_segmentation": "mask_rcnn_lit"}.get(task, "sem_fpn_lit")
    model = ModelSpec("custom", family, (96, 192, 384, 768), (2, 2, 6, 2), (12, 24), (4, 4, 4, 4), num_classes=3)  # type: ignore[arg-type]
    manifest = Manifest(
        model=model,
        input=InputSpec("uint8", None, None, 100, interpolation="bilinear", rule="keep_ratio", longest=200),
        output="results",
        labels=LABELS,
        precision="fp32",
        batch=1,
        portable=False,
        layers=(),
        source="lit.pth",
        source_sha256="0" * 64,
        op_version=1,
        task=task,
        dense=DenseSpec(category_ids=IDS, palette=COLOURS, max_detections=MOST),
    )
    return replace(manifest, **changes)


class FakeSession:
    """A session that says what it was told; ``ran`` counts how often it was asked, by the size of the picture."""

    batch_range = (1, 1)

    def __init__(self, manifest: Manifest, saying: Saying) -> None:
        self.manifest, self.saying = manifest, saying
        self.description = "a table"
        self.ran: list[Size] = []
        self.like: Manifest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def opened(self, options: SessionOptions) -> Self:
        """As PyTorch: with the input and thresholds of the file it is compared with, and label maps as logits."""
        self.like = options.like
        if options.like is not None and self.manifest.output == "results":
            output: OutputKind = "logits" if self.manifest.task == "semantic_segmentation" else "results"
            self.manifest = replace(self.manifest, input=options.like.input, dense=options.like.dense, output=output)
        return self

    def run(self, feeds: Mapping[str, Any]) -> Outputs:
        image, original = feeds["image"], feeds["original_size"]
        assert image.dtype == np.uint8
        assert image.ndim == 4
        size = (int(original[0]), int(original[1]))
        self.ran.append(size)
        said = self.saying(size)
        if self.manifest.output == "logits":
            return {"logits": (said["labels"][:, None] == np.arange(3)[None, :, None, None]).astype(np.float32)}
        return said


class Fakes:
    """``fakes("a.onnx", manifest, saying)`` is a file that opens as such a session, ``fakes[file]`` is the session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, FakeSession] = {}

    def __call__(self, name: str, manifest: Manifest, saying: Saying) -> Path:
        path = self._folder / name
        path.write_bytes(name.encode())
        self._sessions[str(path)] = FakeSession(manifest, saying)
        return path

    def __getitem__(self, file: Path | str) -> FakeSession:
        return self._sessions[str(file)]

    def all(self) -> list[FakeSession]:
        return list(self._sessions.values())


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fakes:
    """Files that an evaluation opens as sessions without a network."""
    made = Fakes(tmp_path)
    monkeypatch.setattr(evaluate_run, "open_session", lambda source, options: made[source].opened(options))
    return made


def detection(fakes: Fakes, name: str = "a.onnx", saying: Saying | None = None, **changes: Any) -> Path:
    """A detector; ``changes`` are fields of its manifest."""
    return fakes(name, dense_manifest("detection", **changes), saying or detector(1))
