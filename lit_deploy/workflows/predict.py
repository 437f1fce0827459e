"""Run images through any session, say what it found, and draw it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Session, SessionOptions, Source
from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import atomic_path
from lit_deploy.core.specs import BEST_CLASSES, MAX_DETECTIONS
from lit_deploy.images.decoding import load_image
from lit_deploy.images.folders import images_in
from lit_deploy.tasks.protocol import Prediction
from lit_deploy.tasks.table import task_of

BATCH = 8
"""Images per run where the file takes that many."""

_LABELS = "_labels"
_COMPRESSION = 3  # of PNG: half the time of Pillow's 6, files a tenth larger


@runtime_checkable
class LabelledPixels(Protocol):
    """A prediction that says something of every pixel."""

    def label_image(self, manifest: Manifest) -> Image.Image:
        """The label of every pixel, as a palette image."""


def predict_images(
    source: Source,
    images: Sequence[str | Path],
    top: int | None = None,
    options: SessionOptions | None = None,
    out: str | Path | None = None,
    score_threshold: float | None = None,
) -> list[Prediction]:
    """Say what an exported file or a checkpoint finds in image files, prepared by the rule of its manifest.

    Args:
        source: whatever ``open_session`` takes.
        images: image files, and folders of them.
        top: most classes or detections per image; by default 5 classes of a classifier, and all that the others find.
            A ``top5`` file gives at most five.
        options: device, threads, library.
        out: folder, made where it is missing, for a picture of every result, ``<name>.png``; of semantic segmentation
            also for the label of every pixel, from 0, as palette image ``<name>_labels.png``. Files of the same name
            become ``<name>_2.png`` ..., and no picture that was given is overwritten.
        score_threshold: hide detections that do not score above this; the file's own when None.

    Returns:
        One ``Prediction`` of the file's task per image, in order. Those of semantic segmentation hold a byte a pixel:
        of many pictures, take them one by one from ``predicted``.

    Raises:
        ImageError: a file that cannot be decoded; nothing is predicted then, though what was drawn before stays.
        UsageError: no images, a folder that cannot be written, a threshold that the file cannot serve.
    """
    return list(predicted(source, images, top, options, out, score_threshold))


def predicted(
    source: Source,
    images: Sequence[str | Path],
    top: int | None = None,
    options: SessionOptions | None = None,
    out: str | Path | None = None,
    score_threshold: float | None = None,
) -> Iterator[Prediction]:
    """The same as ``predict_images``, one after the other: no more than one run's pictures are in memory."""
    folder = None if out is None else _made(Path(out))
    paths = list(_files(images, folder))
    if not paths:
        raise UsageError("got no images; name at least one image file")
    names = _output_names(paths, folder)
    with open_session(source, options) as session:
        manifest, task = _with_threshold(session, score_threshold), task_of(session.manifest)
        least, most = session.batch_range
        size = max(least, min(BATCH, most))
        if top is None:
            top = BEST_CLASSES if manifest.dense is None else MAX_DETECTIONS
        for start in range(0, len(paths), size):
            batch = paths[start : start + size]
            pictures = task.pictures(batch, manifest)
            filled = [*pictures, *pictures[-1:] * (least - len(pictures))]
            outputs = session.run(task.feed(filled, manifest))
            found = task.predictions(outputs, manifest, [str(path) for path in batch], pictures, top)
            for prediction, path, name in zip(found, batch, names[start:], strict=False):
                if folder is not None:
                    _draw(prediction, path, folder / name, manifest)
                yield prediction


def _with_threshold(session: Session, score_threshold: float | None) -> Manifest:
    """The manifest of a session with another score threshold, of which its task takes notice."""
    manifest = session.manifest
    if score_threshold is None:
        return manifest
    dense = manifest.dense
    if dense is None or all(output.name != "scores" for output in session.outputs):
        raise UsageError(f"the file's task is {manifest.task}, which knows no score threshold; leave it out")
    if not dense.score_threshold <= score_threshold < 1:
        raise UsageError(
            f"the score threshold is {score_threshold}, expected {dense.score_threshold}, below which the file keeps "
            "nothing, to 1; export with a lower --score-threshold for more"
        )
    return replace(manifest, dense=replace(dense, score_threshold=score_threshold))


def _made(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"cannot write into {out}: it is a file, expected a folder") from None
    except OSError as error:
        raise UsageError(f"cannot make the folder {out}: {error.strerror or error}") from None
    return out


def _files(images: Iterable[str | Path], out: Path | None) -> Iterator[Path]:
    """The files among images, and those in the folders among them, but for what an earlier run has drawn."""
    drawn = None if out is None else out.resolve()
    for image in map(Path, images):
        if not image.is_dir():
            yield image
        elif drawn is not None and image.resolve() == drawn:
            raise UsageError(f"{image} is both read and written: what is drawn would be read next time; name another")
        else:
            yield from (path for path in images_in(image) if drawn is None or drawn not in path.resolve().parents)


def _output_names(paths: Sequence[Path], folder: Path | None) -> list[str]:
    """A stem for every picture, so that no two files are written under one name, nor over a picture that was given."""
    if folder is None:
        return [""] * len(paths)
    inside = folder.resolve()
    taken = {path.stem.casefold() for path in paths if path.resolve().parent == inside}
    names = []
    for path in paths:
        name, number = path.stem, 1
        while not taken.isdisjoint(_written(name)):
            number += 1
            name = f"{path.stem}_{number}"
        taken.update(_written(name))
        names.append(name)
    return names


def _written(name: str) -> tuple[str, str]:
    """What may be written of a picture, told as file systems do that know no difference of case."""
    return name.casefold(), (name + _LABELS).casefold()


def _draw(prediction: Prediction, path: Path, target: Path, manifest: Manifest) -> None:
    """Write a picture of a result and, where there is one, its map of labels."""
    upright = manifest.input.rule == "keep_ratio"
    image = task_of(manifest).drawn(prediction, load_image(path, exif=upright), manifest)
    _write(image, target.with_name(f"{target.name}.png"))
    if isinstance(prediction, LabelledPixels):
        _write(prediction.label_image(manifest), target.with_name(f"{target.name}{_LABELS}.png"))


def _write(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as part:
        image.save(part, format="PNG", compress_level=_COMPRESSION)
