"""Run images through any session, say what it found, and draw it."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lit_deploy.backends.base import filled, with_threshold
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Session, SessionOptions, Source
from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.files import atomic_path, made_folder
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import BEST_CLASSES, MAX_BATCH, MAX_DETECTIONS, MAX_THREADS
from lit_deploy.core.text import shown_path
from lit_deploy.images.ahead import Batch, prepared_ahead
from lit_deploy.images.decoding import load_image
from lit_deploy.images.folders import images_in
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.promises import require_results
from lit_deploy.tasks.protocol import LabelledPixels, Prediction
from lit_deploy.tasks.table import task_of

BATCH = 32
"""Images per run where the file takes that many."""

_LABELS = "_labels"
_COMPRESSION = 3  # of PNG: half the time of Pillow's 6, files a tenth larger

LeftOut = Callable[[ImageError], None]
"""Told of every image that cannot be used."""


def predict_images(
    source: Source,
    images: Sequence[str | Path],
    top: int | None = None,
    options: SessionOptions | None = None,
    out: str | Path | None = None,
    score_threshold: float | None = None,
    *,
    batch: int | None = None,
    workers: int | None = None,
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
        batch: images per run, 32 when None; a file of a fixed batch gets its own number.
        workers: threads that decode and resize; None for all cores.

    Returns:
        One ``Prediction`` of the file's task per image, in order. Those of semantic segmentation hold a byte a pixel:
        of many pictures, take them one by one from ``predicted``, or write them to a file (``predict_to_file``).

    Raises:
        ImageError: a file that cannot be decoded; nothing is predicted then, though what was drawn before stays.
        UsageError: no images, a folder that cannot be written, a threshold that the file cannot serve.
    """
    wanted = Wanted(top, score_threshold, out, batch, workers)
    return list(predicted(source, images, wanted, options, raise_it))


@dataclass(frozen=True)
class Wanted:
    """What is asked of a prediction; see ``predict_images``."""

    top: int | None = None
    score_threshold: float | None = None
    out: str | Path | None = None
    batch: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, most in (("batch", MAX_BATCH), ("workers", MAX_THREADS)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise UsageError(f"{name} is {value}, expected 1 to {most}")


def predicted(
    source: Source,
    images: Sequence[str | Path],
    wanted: Wanted | None = None,
    options: SessionOptions | None = None,
    left_out: LeftOut | None = None,
    progress: Progress = unseen,
) -> Iterator[Prediction]:
    """The same as ``predict_images``, one after the other: no more than a few batches are in memory.

    Args:
        source, images, options: as there; ``wanted``: the rest.
        left_out: called with the error of every image that cannot be used, which is left out. None raises the first.
        progress: called with the share done and images per second.

    Raises:
        ImageError: as there; and where none of the images can be used.
    """
    with opened(source, images, wanted or Wanted(), options) as work:
        tell = left_out or raise_it
        found = 0
        for done in work.run(range(len(work.parts)), progress):
            work.tell(done.unusable.values(), tell)
            found += len(done.predictions)
            yield from done.predictions
            del done
        work.require(found)


def raise_it(error: ImageError) -> None:
    raise error


@dataclass(frozen=True)
class Drawn:
    """Files that were written of an image: its picture, and the labels of its pixels where it has any."""

    picture: Path
    label_map: Path | None


@dataclass(frozen=True)
class Done:
    """What came out of a batch.

    Attributes:
        number: of the batch, from 0.
        predictions: of the images that could be used, in order; ``drawn``: their files, none where nothing is drawn.
        unusable: the errors of the others, by their place in the batch.
    """

    number: int
    predictions: Sequence[Prediction]
    drawn: Sequence[Drawn]
    unusable: dict[int, ImageError]


class Work:
    """Images in batches, and the open session that they go through.

    Attributes:
        session: the session; ``task``: of its file.
        paths: the images; ``parts``: indices of every batch.
        top, folder: as in ``Wanted``, resolved.
    """

    def __init__(self, session: Session, paths: Sequence[Path], folder: Path | None, wanted: Wanted) -> None:
        self.session, self.paths, self.folder = session, paths, folder
        self._names = _output_names(paths, folder)
        self._manifest = with_threshold(session, wanted.score_threshold)
        self.task = task_of(self._manifest)
        self._least, most = session.batch_range
        self.size = max(self._least, min(wanted.batch or BATCH, most))
        self.parts = [range(start, min(start + self.size, len(paths))) for start in range(0, len(paths), self.size)]
        self._workers = wanted.workers or len(os.sched_getaffinity(0))
        usual = BEST_CLASSES if self._manifest.dense is None else MAX_DETECTIONS
        self.top = usual if wanted.top is None else wanted.top

    def run(self, numbers: Sequence[int], progress: Progress) -> Generator[Done, None, None]:
        """Predict the batches of these numbers; pictures of the next are prepared meanwhile."""
        total = len(self.paths)
        done = begin = total - sum(len(self.parts[number]) for number in numbers)
        started = time.monotonic()
        progress(Step(f"{begin} of {total} images", begin / total))
        with prepared_ahead(self._prepare, [self.parts[number] for number in numbers], self._workers) as batches:
            for number, batch in zip(numbers, batches, strict=True):
                yield self._done(number, batch)
                done += len(batch)
                rate = (done - begin) / max(time.monotonic() - started, 1e-9)
                progress(Step(f"{done} of {total} images, {rate:.1f} images/s", done / total))

    def _prepare(self, index: int) -> Picture:
        (picture,) = self.task.pictures([self.paths[index]], self._manifest)
        return picture

    def _done(self, number: int, batch: Batch[Picture]) -> Done:
        if not batch.usable:
            return Done(number, [], [], batch.unusable)
        outputs = self.session.run(self.task.feed(filled(batch.usable, self._least), self._manifest))
        indices = [self.parts[number][place] for place in batch.places]
        names = [shown_path(self.paths[index]) for index in indices]
        found = self.task.predictions(outputs, self._manifest, names, batch.usable, self.top)
        drawn = [] if self.folder is None else list(map(self._drawn, found, indices))
        return Done(number, found, drawn, batch.unusable)

    def _drawn(self, prediction: Prediction, index: int) -> Drawn:
        """Write a picture of a result and, where there is one, its map of labels."""
        assert self.folder is not None
        target, upright = self.folder / self._names[index], self._manifest.input.rule == "keep_ratio"
        image = self.task.drawn(prediction, load_image(self.paths[index], exif=upright), self._manifest)
        drawn = Drawn(
            target.with_name(f"{target.name}.png"),
            target.with_name(f"{target.name}{_LABELS}.png") if isinstance(prediction, LabelledPixels) else None,
        )
        _write(image, drawn.picture)
        if isinstance(prediction, LabelledPixels) and drawn.label_map is not None:
            _write(prediction.label_image(self._manifest), drawn.label_map)
        return drawn

    def tell(self, errors: Iterable[ImageError], left_out: LeftOut) -> None:
        """Say which images cannot be used; of a single one, that is an error of the whole."""
        for error in errors:
            (raise_it if len(self.paths) == 1 else left_out)(error)

    def require(self, found: int) -> None:
        """Raise ImageError where nothing was predicted."""
        if not found:
            raise ImageError(f"none of the {len(self.paths)} images can be used; give at least one that can be read")


@contextlib.contextmanager
def opened(
    source: Source, images: Sequence[str | Path], wanted: Wanted, options: SessionOptions | None
) -> Iterator[Work]:
    """Open a file for the prediction of images; see ``predict_images``."""
    folder = None if wanted.out is None else made_folder(Path(wanted.out))
    paths = image_files(images, folder)
    if not paths:
        raise UsageError("got no images; name at least one image file")
    with open_session(source, options) as session:
        require_results(session.manifest, source)
        yield Work(session, paths, folder, wanted)


def image_files(images: Iterable[str | Path], out: str | Path | None = None) -> list[Path]:
    """The files among images, and those in the folders among them, but for what an earlier run has drawn in ``out``."""
    drawn = None if out is None else Path(out).resolve()
    found: list[Path] = []
    for image in map(Path, images):
        if not image.is_dir():
            found.append(image)
        elif drawn is not None and image.resolve() == drawn:
            raise UsageError(f"{image} is both read and written: what is drawn would be read next time; name another")
        else:
            found += (path for path in images_in(image) if drawn is None or drawn not in path.resolve().parents)
    return found


def _output_names(paths: Sequence[Path], folder: Path | None) -> list[str]:
    """A stem for every picture, so that no two files are written under one name, nor over a picture that was given."""
    if folder is None:
        return [""] * len(paths)
    inside = folder.resolve()
    taken = {path.stem.casefold() for path in paths if path.resolve().parent == inside}
    names, numbers = [], Counter[str]()
    for path in paths:
        name = path.stem
        while not taken.isdisjoint(_written(name)):
            numbers[path.stem] += 1  # those before it are taken
            name = f"{path.stem}_{numbers[path.stem] + 1}"
        taken.update(_written(name))
        names.append(name)
    return names


def _written(name: str) -> tuple[str, str]:
    """What may be written of a picture, told as file systems do that know no difference of case."""
    return name.casefold(), (name + _LABELS).casefold()


def _write(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as part:
        image.save(part, format="PNG", compress_level=_COMPRESSION)
