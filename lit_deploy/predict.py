"""Classify images with any session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.errors import UsageError
from lit_deploy.preprocessing import batch_from_images
from lit_deploy.runtime.session import SessionOptions, open_session

BATCH = 8
"""Images per run where the file takes that many."""


@dataclass(frozen=True)
class Prediction:
    """Most probable classes of one image, best first.

    Attributes:
        image: path as it was given.
        classes: class indices; ``labels``: their names; ``probabilities``: 0..1.
    """

    image: str
    classes: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities ``[N, classes]`` of logits ``[N, classes]``, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def predict_images(
    source: str | Path, images: Sequence[str | Path], top: int = 5, options: SessionOptions | None = None
) -> list[Prediction]:
    """Classify image files with an exported file or a checkpoint, by the resize rule of its manifest.

    Args:
        source: whatever ``open_session`` takes.
        images: image files.
        top: classes per image; a ``top5`` file gives at most five.
        options: device, threads, library.

    Raises:
        ImageError: a file that cannot be decoded; nothing is predicted then.
    """
    if not images:
        raise UsageError("got no images to classify; name at least one image file")
    predictions: list[Prediction] = []
    with open_session(source, options) as session:
        manifest = session.manifest
        least, most = session.batch_range
        size = max(least, min(BATCH, most))
        for start in range(0, len(images), size):
            paths = images[start : start + size]
            batch = batch_from_images(paths, manifest.input)
            # too small a batch is filled up with copies of the last image
            batch = np.concatenate([batch, *[batch[-1:]] * (least - len(paths))])
            outputs = session.run({"images": batch})
            if manifest.output == "top5":
                probabilities, classes = outputs["scores"], outputs["classes"]
            else:
                scores = outputs[manifest.output]
                scores = softmax(scores) if manifest.output == "logits" else scores
                classes = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")
                probabilities = np.take_along_axis(scores, classes, axis=1)
            for path, row, values in zip(paths, classes[:, :top], probabilities[:, :top], strict=False):
                names = tuple(manifest.labels[index] for index in row)
                predictions.append(
                    Prediction(str(path), tuple(map(int, row)), names, tuple(float(value) for value in values))
                )
    return predictions
