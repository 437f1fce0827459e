"""What the tests of ``lit-deploy evaluate`` share: labelled images, and reports that can be compared."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.evaluate.result import EvaluateReport
from lit_deploy.evaluate.run import evaluate_artifacts
from lit_deploy.workflows.predict import predict_images
from support.command import ROOT
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


def numbers(result: EvaluateReport[Any]) -> EvaluateReport[Any]:
    """The report without what differs from run to run: times, and how much an earlier run had done."""
    scores = tuple(dataclasses.replace(score, images_per_second=0.0) for score in result.scores)
    return dataclasses.replace(result, scores=scores, seconds=0.0, resumed=0)


SLOW = """
import sys, time
from lit_deploy import cli
from lit_deploy.evaluate import classification, dense
load, pictures = classification.load_image, dense.Runs.pictures
classification.load_image = lambda path: (time.sleep(0.1), load(path))[1]
dense.Runs.pictures = lambda runs, path: (time.sleep(0.1), pictures(runs, path))[1]
cli.main()
"""


def killed_after(lines: int, state: Callable[[], Path | None], arguments: Sequence[object]) -> None:
    """Run the command in a slow process and kill it when its state file has that many lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "evaluate", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 120
        while (path := state()) is None or path.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
