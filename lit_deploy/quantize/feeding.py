"""From calibration images to what a session takes, whatever its task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.base import filled
from lit_deploy.backends.protocol import Session
from lit_deploy.images.calibration import Batch, CalibrationImages, calibration_images
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.protocol import Arrays
from lit_deploy.tasks.table import task_of


def images_of(source: str | Path, manifest: Manifest, limit: int) -> CalibrationImages:
    """The images to calibrate a network with, prepared as its task prepares them; see ``calibration_images``."""
    task = task_of(manifest)

    def prepare(file: Path) -> Picture:
        (picture,) = task.pictures([file], manifest)
        return picture

    return calibration_images(source, manifest.input, limit, prepare)


def fed(batch: Batch, session: Session) -> tuple[Arrays, int]:
    """Inputs of a session, filled up to the least batch it takes, and their number of images."""
    low = session.batch_range[0]
    if isinstance(batch, np.ndarray):
        pixels: NDArray[Any] = np.stack(filled(list(batch), low))
        return {session.inputs[0].name: pixels}, len(pixels)
    pictures = filled(batch, low)
    return task_of(session.manifest).feed(pictures, session.manifest), len(pictures)
