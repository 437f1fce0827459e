"""What the tests of ``lit-deploy evaluate`` share: labelled images, and reports that can be compared."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from PIL import Image

from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.evaluate.result import EvaluateReport
from lit_deploy.evaluate.run import evaluate_artifacts
from lit_deploy.workflows.predict import predict_images
from support.golden import TINY

COUNT = 23
RIGHT = 16

evaluated = functools.partial(evaluate_artifacts, options=SessionOptions(threads=1))
"""On one thread: thread pools of PyTorch and ONNX Runtime that wait for each other on a busy machine take minutes."""


def write_photos(checkpoint: Path, store: Path, root: Path) -> None:
    """Class folders in which 16 of 23 images lie where PyTorch would put them, the others one class further.

    Args:
        checkpoint: of a network of ``TINY.num_classes`` classes.
        store: folder to draw the images in; ``root``: folder of the class folders.
    """
    paths = []
    for index in range(COUNT):
        paths.append(store / f"{index:02}.png")
        pixels = synthetic_image(4, f"evaluate:{index}", 70 + index, 90 - index)
        Image.fromarray((pixels * (0.3 + 0.03 * index)).astype(np.uint8)).save(paths[-1])
    for index, prediction in enumerate(predict_images(checkpoint, paths, 1, SessionOptions(threads=1))):
        best = prediction.classes[0] if index < RIGHT else (prediction.classes[0] + 1) % TINY.num_classes
        folder = root / f"class {best}"
        folder.mkdir(exist_ok=True)
        paths[index].rename(folder / paths[index].name)


def truth_of(root: Path) -> tuple[list[Path], list[int]]:
    paths = sorted(path for path in root.rglob("*.png"))
    return paths, [int(path.parent.name.split()[1]) for path in paths]


def numbers(result: EvaluateReport) -> EvaluateReport:
    """The report without what differs from run to run: times, and how much an earlier run had done."""
    scores = tuple(dataclasses.replace(score, images_per_second=0.0) for score in result.scores)
    return dataclasses.replace(result, scores=scores, seconds=0.0, resumed=0)
