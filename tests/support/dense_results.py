"""Manifests, outputs and pictures of detectors and segmentation networks, made by hand: no network is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import OP_VERSION, DenseSpec, FamilyName, InputSpec, ModelSpec, TaskName, TensorSpec
from lit_deploy.images.categories import default_categories
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.table import task_of

Outputs = dict[str, NDArray[Any]]

FAMILIES: dict[TaskName, FamilyName] = {
    "detection": "retinanet_lit", "instance_segmentation": "mask_rcnn_lit", "semantic_segmentation": "sem_fpn_lit",
}  # fmt: skip


def dense_manifest(task: TaskName, classes: int = 80, score_threshold: float = 0.05) -> Manifest:
    """The manifest of a file of any input size, with the usual names and colours."""
    segments = task == "semantic_segmentation"
    categories = default_categories(task, classes)
    return Manifest(
        model=ModelSpec(
            "custom", FAMILIES[task], (8, 16, 32, 32), (1, 1, 1, 1), (1, 2), (2, 2, 2, 2), (64, 64), classes,
            neck_channels=8, head_channels=8,
        ),
        input=InputSpec(
            "uint8", None, None, 512 if segments else 800, rule="keep_ratio", longest=2048 if segments else 1333,
            interpolation="bilinear", pad_multiple=1 if segments else 32,
        ),
        output="results",
        labels=categories.labels,
        precision="fp32",
        batch=1,
        portable=False,
        layers=(),
        source="seeded.pth",
        source_sha256="0" * 64,
        op_version=OP_VERSION,
        task=task,
        dense=DenseSpec(
            categories.ids, categories.palette, score_threshold, mask_size=28 * (task == "instance_segmentation")
        ),
    )  # fmt: skip


def found(
    *objects: tuple[int, float, tuple[float, float, float, float]], rows: int = 10, masks: bool = False
) -> Outputs:
    """Outputs of a detector, of labels, scores and corners, with rows that do not count after them."""
    count = len(objects)
    outputs: Outputs = {
        "boxes": np.full((1, rows, 4), 777, dtype=np.float32),
        "scores": np.zeros((1, rows), dtype=np.float32),
        "labels": np.full((1, rows), -1, dtype=np.int32),
        "num": np.array([count], dtype=np.int32),
    }
    for row, (label, score, box) in enumerate(objects):
        outputs["labels"][0, row], outputs["scores"][0, row], outputs["boxes"][0, row] = label, score, box
    if masks:
        outputs["masks"] = np.zeros((1, rows, 28, 28), dtype=np.float32)
        outputs["masks"][0, :count] = disc()
    return outputs


def disc() -> NDArray[np.float32]:
    """A mask that falls off from its middle: 1 there, 0.5 at a radius of 12 of its 28 cells."""
    rows, columns = np.mgrid[:28, :28] - 13.5
    return (1 / (1 + np.exp(np.hypot(rows, columns) - 12))).astype(np.float32)


def picture_of(image: Image.Image) -> list[Picture]:
    """What a task is told of a picture once it has been through the network."""
    return [Picture(np.zeros((1, 1, 3), dtype=np.uint8), (image.height, image.width))]


class HandMade:
    """A session that answers with outputs made by hand.

    Attributes:
        fed: what it was given, in order.
    """

    description = "made by hand"
    batch_range = (1, 1)

    def __init__(self, manifest: Manifest, answer: Callable[[Outputs], Outputs]) -> None:
        self.manifest = manifest
        self.fed: list[Outputs] = []
        self._answer = answer

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return task_of(self.manifest).output_specs(self.manifest)

    def run(self, feeds: Outputs) -> Outputs:
        self.fed.append(feeds)
        return self._answer(feeds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None
