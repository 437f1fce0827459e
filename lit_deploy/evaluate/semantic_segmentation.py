"""Semantic segmentation: mean intersection over union, and pixels that two files give the same class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lit_deploy.core.errors import ArtifactError, UsageError
from lit_deploy.evaluate.dense import FileFacts, Runs, facts_of, percent
from lit_deploy.evaluate.entries import Entry, category_ids, class_names
from lit_deploy.evaluate.protocol import Matrix, Records, Request
from lit_deploy.images.label_maps import MappedImages, mapped_images, read_label_map
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.arrays import Arrays
from lit_deploy.tasks.semantic_segmentation.scores import Counts, confusion, map_scores

Prepared = tuple[dict[Any, Picture], NDArray[np.int16]]
"""A picture in every size that is needed, and its true classes."""


@dataclass(frozen=True)
class MapRecord:
    """What is kept of one picture.

    Attributes:
        cells: uint32, indices of the cells of the confusion matrix that are not 0; ``counts``: uint32, what they hold;
            both as bytes.
        pixels: of the picture, with those that do not count.
        same: of them, how many have the class that each of the files gives them.
        finite: whether all of them have a class.
    """

    cells: bytes
    counts: bytes
    pixels: int
    same: tuple[int, ...]
    finite: bool

    def add_to(self, matrix: Counts) -> None:
        """Add it to the confusion matrix ``[classes, classes + 1]`` of all pictures."""
        matrix.reshape(-1)[np.frombuffer(self.cells, dtype="<u4")] += np.frombuffer(self.counts, dtype="<u4")


@dataclass(frozen=True)
class ClassShares:
    """What a file reached in one class, 0..1; None where nothing counts.

    Attributes:
        name: of the class; ``pixels``: of it, in the truth.
        iou: intersection over union; ``accuracy``: share of its pixels that are right.
    """

    name: str
    pixels: int
    iou: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class MapScore(FileFacts):
    """What one file reached, 0..1; see ``FileFacts``. ``compared`` counts all pixels.

    Attributes:
        mean_iou, mean_accuracy, pixel_accuracy: see ``MapScores``.
        classes: the same by class.
        confusion: the cells of the confusion matrix that are not 0: true class, predicted class (-1: none) and pixels.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "file", "mIoU", "mean accuracy", "pixel accuracy", "agree", "differ", "images/s",
    )  # fmt: skip
    CAPTION: ClassVar[str] = (
        "Ground truth: {mapping}. mIoU: mean, over the classes, of intersection over union of their pixels in all "
        "pictures. 'differ' counts pixels of another class than {reference} gives them."
    )
    MATRIX: ClassVar[str] = "Share of pixels with the same class"
    CLASS_COLUMNS: ClassVar[tuple[str, ...]] = ("class", "pixels", "IoU", "accuracy")

    mean_iou: float | None
    mean_accuracy: float | None
    pixel_accuracy: float | None
    classes: tuple[ClassShares, ...]
    confusion: tuple[tuple[int, int, int], ...] = ()

    def rows(self, images: int) -> list[list[str]]:
        """One row."""
        shares = [percent(share) for share in (self.mean_iou, self.mean_accuracy, self.pixel_accuracy)]
        speed = f"{self.images_per_second:.1f}"
        return [[self.label, *shares, f"{self.agreement:.2%}", str(self.differing), speed]]

    def class_rows(self) -> list[list[str]]:
        """One row a class."""
        return [[e.name, str(e.pixels), percent(e.iou), percent(e.accuracy)] for e in self.classes]

    def agreed_on(self, images: int) -> str:
        """Pixels."""
        return f"the {self.compared} pixels ({self.differing} differ)"

    def gates(self, images: int) -> dict[str, tuple[float, str]]:
        """Of mIoU."""
        if self.mean_iou is None:
            return {"min_miou": (0.0, f"has no mIoU, as no pixel of the {images} images counts")}
        return {"min_miou": (self.mean_iou, f"reaches a mIoU of {self.mean_iou:.2%} on the {images} images")}


class SemanticSegmentationEvaluation:
    """The evaluation of semantic segmentation; see ``Evaluation``."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"labels_dir", "per_class", "confusion", "min_miou"})
    RECORD: ClassVar[Any] = MapRecord

    batch = 1

    def __init__(self, entries: Sequence[Entry], request: Request, notes: list[str]) -> None:
        if request.labels_dir is None:
            raise UsageError(
                f"{entries[-1].label} gives every pixel a class; name the folder of the true ones with --labels-dir"
            )
        self._runs = Runs(entries)
        self._labels, self._values = class_names(entries, notes), category_ids(entries)
        self.dataset: MappedImages = mapped_images(request.images, request.labels_dir, self._values).limited(
            request.limit
        )

    def prepare(self, index: int) -> Prepared:
        """One picture in every size that is needed, and its label map."""
        pictures = self._runs.pictures(self.dataset.root / self.dataset.files[index])
        size = next(iter(pictures.values())).original_size
        path = self.dataset.labels_root / self.dataset.maps[index]
        return pictures, read_label_map(path, self._values, size)

    def run(self, prepared: Sequence[Prepared]) -> tuple[Records, tuple[float, ...]]:
        """Confusion matrices and equal pixels ``[files][images]``, and the seconds of every file."""
        files = range(len(self._runs.entries))
        found: list[list[MapRecord]] = [[] for _ in files]
        seconds = [0.0 for _ in files]
        for pictures, truth in prepared:
            maps = []
            for index in files:
                outputs, took = self._runs.outputs(index, pictures)
                maps.append(self._classes_of(index, outputs, truth.shape))
                seconds[index] += took
            for kept, classes in zip(found, maps, strict=True):
                kept.append(self._record(truth, classes, maps))
        return found, tuple(seconds)

    def _classes_of(self, index: int, outputs: Arrays, size: tuple[int, ...]) -> NDArray[Any]:
        """``[height, width]``; of logits the best, and no class where one of them is not finite."""
        if "labels" in outputs:
            labels: NDArray[Any] = outputs["labels"]
        else:
            logits: NDArray[Any] = outputs["logits"]
            labels = np.where(np.isfinite(logits.sum(axis=1)), logits.argmax(axis=1), len(self._labels))
        if labels.shape != (1, *size):
            raise ArtifactError(
                f"{self._runs.entries[index].label} gave label maps {list(labels.shape)} for a picture of {list(size)} "
                "(height, width), expected one of that size; export it again"
            )
        result: NDArray[Any] = labels[0]
        return result

    def _record(self, truth: NDArray[np.int16], classes: NDArray[Any], maps: Sequence[NDArray[Any]]) -> MapRecord:
        matrix = confusion(truth, classes, len(self._labels)).reshape(-1)
        cells = np.flatnonzero(matrix)
        return MapRecord(
            cells=cells.astype("<u4").tobytes(),
            counts=matrix[cells].astype("<u4").tobytes(),
            pixels=classes.size,
            same=tuple(int((classes == other).sum()) for other in maps),
            finite=bool(((classes >= 0) & (classes < len(self._labels))).all()),
        )

    def scores(
        self, places: Sequence[int], records: Records, seconds: Sequence[float]
    ) -> tuple[tuple[MapScore, ...], Matrix]:
        """Mean intersection over union, and shares of pixels with the same class."""
        count = len(self._labels)
        pixels = sum(record.pixels for record in records[0])
        same = [[sum(row.same[j] for row in rows) for j in range(len(records))] for rows in records]
        agreement = tuple(tuple(part / pixels for part in row) for row in same)
        scores = []
        for index, (entry, rows) in enumerate(zip(self._runs.entries, records, strict=True)):
            matrix = np.zeros((count, count + 1), dtype=np.int64)
            for record in rows:
                record.add_to(matrix)
            found = map_scores(matrix)
            facts = facts_of(
                entry, compared=pixels, differing=pixels - same[0][index], agreement=agreement[0][index],
                not_finite=sum(not record.finite for record in rows),
                images_per_second=len(places) / max(seconds[index], 1e-9),
            )  # fmt: skip
            classes = tuple(map(ClassShares, self._labels, found.pixels, found.iou, found.accuracy))
            scores.append(
                MapScore(
                    mean_iou=found.mean_iou, mean_accuracy=found.mean_accuracy, pixel_accuracy=found.pixel_accuracy,
                    classes=classes, confusion=_cells(matrix), **facts,
                )
            )  # fmt: skip
        return tuple(scores), agreement


def _cells(matrix: Counts) -> tuple[tuple[int, int, int], ...]:
    """The cells of ``[classes, classes + 1]``, whose last column is of pixels without a class, that are not 0."""
    true, said = np.nonzero(matrix)
    said_or_none = np.where(said < len(matrix), said, -1)
    return tuple(zip(true.tolist(), said_or_none.tolist(), matrix[true, said].tolist(), strict=True))
