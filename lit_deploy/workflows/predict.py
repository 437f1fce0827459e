"""Run images through any session and say what it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_deploy.backends.base import filled
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.tasks.protocol import Prediction
from lit_deploy.tasks.table import task_of

BATCH = 8
"""Images per run where the file takes that many."""


def predict_images(
    source: str | Path, images: Sequence[str | Path], top: int = 5, options: SessionOptions | None = None
) -> list[Prediction]:
    """Say what an exported file or a checkpoint finds in image files, prepared by the rule of its manifest.

    Args:
        source: whatever ``open_session`` takes.
        images: image files.
        top: classes per image; a ``top5`` file gives at most five.
        options: device, threads, library.

    Returns:
        One ``Prediction`` of the file's task per image, in order.

    Raises:
        ImageError: a file that cannot be decoded; nothing is predicted then.
    """
    if not images:
        raise UsageError("got no images to classify; name at least one image file")
    found: list[Prediction] = []
    with open_session(source, options) as session:
        manifest, task = session.manifest, task_of(session.manifest)
        least, most = session.batch_range
        size = max(least, min(BATCH, most))
        for start in range(0, len(images), size):
            paths = images[start : start + size]
            batch = filled(task.prepare(paths, manifest), least)
            outputs = session.run(task.feed(batch))
            found += task.predictions(outputs, manifest, [str(path) for path in paths], top)
    return found
