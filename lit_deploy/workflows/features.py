"""Feature vectors of images, for whoever searches, clusters or trains on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.backends.base import filled
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions, Source
from lit_deploy.core.errors import UsageError
from lit_deploy.core.text import shown_path
from lit_deploy.images.ahead import prepared_ahead
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.table import task_of
from lit_deploy.tasks.unusable import unusable
from lit_deploy.workflows.predict import BATCH, Wanted, image_files


def extract_features(
    source: Source,
    images: Sequence[str | Path],
    options: SessionOptions | None = None,
    *,
    batch: int | None = None,
    workers: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Give the feature vectors of image files, prepared by the rule of the file's manifest.

    ``np.concatenate(list(...))`` is all of them; of very many images, take one batch after the other: no more than a
    few are in memory.

    Args:
        source: a file that was exported with ``output="features"``: ``.onnx``, ``.xml`` or an engine.
        images: image files, and folders of them, whose images come in sorted order.
        options: device, threads, library.
        batch: images per run, 32 when None; a file of a fixed batch gets its own number.
        workers: threads that decode and resize; None for all cores.

    Yields:
        float32 ``[n, C]``, a row an image, in order; C is ``manifest.model.features``. They are as the network has
        them: for a search by cosine, divide each by its length.

    Raises:
        UsageError: no images, or a file of another output.
        ImageError: an image that cannot be used.
        ArtifactError: features that are not finite.
    """
    wanted = Wanted(batch=batch, workers=workers)
    paths = image_files(images)
    if not paths:
        raise UsageError("got no images; name at least one image file")
    with open_session(source, options) as session:
        manifest = session.manifest
        if manifest.output != "features":
            raise UsageError(f"{source} gives {manifest.output}; export the checkpoint with --output features")
        task = task_of(manifest)
        least, most = session.batch_range
        size = max(least, min(wanted.batch or BATCH, most))
        parts = [range(start, min(start + size, len(paths))) for start in range(0, len(paths), size)]

        def prepare(index: int) -> Picture:
            (picture,) = task.pictures([paths[index]], manifest)
            return picture

        with prepared_ahead(prepare, parts, wanted.workers or len(os.sched_getaffinity(0))) as batches:
            for part, prepared in zip(parts, batches, strict=True):
                for error in prepared.unusable.values():
                    raise error
                outputs = session.run(task.feed(filled(prepared.usable, least), manifest))
                found: NDArray[Any] = outputs["features"][: len(part)]
                for index, row in zip(part, found, strict=True):
                    if not np.isfinite(row).all():
                        raise unusable(shown_path(paths[index]), "its features are not finite (NaN or infinity)")
                yield found
