"""Classifiers: a class of every image, top-1 and top-5, and predictions that are the same.

All files see the same images, prepared by the rule in the file's own manifest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lit_deploy.backends.base import filled
from lit_deploy.core.files import atomic_path, check_target
from lit_deploy.core.specs import BEST_CLASSES, IMAGES, InputSpec, PrecisionName
from lit_deploy.core.text import shown_name
from lit_deploy.evaluate.dense import percent
from lit_deploy.evaluate.entries import Entry, class_names, geometry
from lit_deploy.evaluate.protocol import Matrix, Records, Request
from lit_deploy.images.datasets import labelled_images
from lit_deploy.images.decoding import load_image
from lit_deploy.images.preprocessing import normalize, resize_and_crop
from lit_deploy.tasks.classification.ranking import Classes, best_classes, probabilities_of, same_prediction
from lit_deploy.tasks.classification.scores import Accuracy, accuracy

Pixels = NDArray[np.uint8]
Cells = tuple[tuple[int, int, int], ...]
"""The cells of a confusion matrix that are not 0: true class, predicted class (-1: not finite) and images."""

BATCH = 32
"""Images per batch where the files take that many, and between two writes of the state."""


@dataclass(frozen=True)
class ClassRecord:
    """What is kept of one image: its best classes, best first, and their probabilities; -1 and 0 where not finite."""

    classes: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class ClassAccuracy:
    """What a file reached in one class.

    Attributes:
        name: of the class; ``images``: that belong to it; ``right``: of those, how many are predicted as it.
        accuracy: ``right / images``, 0..1; None where there are no images.
        predicted: images that are predicted as it; ``precision``: share of those that belong to it, None of none.
    """

    name: str
    images: int
    right: int
    accuracy: float | None
    predicted: int
    precision: float | None


@dataclass(frozen=True)
class Misclassified:
    """An image that is predicted wrong: its path below the folder, and names of classes; None where not finite."""

    image: str
    true_class: str
    predicted_class: str | None


@dataclass(frozen=True)
class Score:
    """What one file reached.

    Attributes:
        label: its name in tables; ``path``: as it was given.
        description: back end, version, and what of lit-deploy it uses; ``precision``: of its weights.
        sha256: of the file.
        top1, top5: accuracy; ``top5`` is None for up to five classes, where it says nothing.
        differing: predictions that differ from the reference's; ``agreement``: share of those that do not.
        not_finite: images whose output was NaN or infinite, or no class; they count as wrong and as differing.
        images_per_second: of ``Session.run``, disturbed by what runs beside it; ``bench`` measures speed properly.
        classes: the same by class; ``confusion``: which are taken for which; ``misclassified``: the images.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("file", "top-1", "wrong", "differ", "95 % interval", "top-5", "images/s")
    CAPTION: ClassVar[str] = "Classes: {mapping}. 'differ' counts predictions other than those of {reference}."
    MATRIX: ClassVar[str] = "Share of images with the same prediction"
    CLASS_COLUMNS: ClassVar[tuple[str, ...]] = ("class", "images", "right", "accuracy", "predicted", "precision")

    label: str
    path: str
    description: str
    precision: PrecisionName
    sha256: str
    top1: Accuracy
    top5: Accuracy | None
    differing: int
    agreement: float
    not_finite: int
    images_per_second: float
    classes: tuple[ClassAccuracy, ...] = ()
    confusion: Cells = ()
    misclassified: tuple[Misclassified, ...] = ()

    def rows(self, images: int) -> list[list[str]]:
        """One row."""
        return [
            [
                self.label,
                f"{self.top1.share:.2%}",
                str(images - self.top1.right),
                str(self.differing),
                f"{self.top1.low:.2%} to {self.top1.high:.2%}",
                "-" if self.top5 is None else f"{self.top5.share:.2%}",
                f"{self.images_per_second:.1f}",
            ]
        ]

    def class_rows(self) -> list[list[str]]:
        """One row a class."""
        return [
            [e.name, str(e.images), str(e.right), percent(e.accuracy), str(e.predicted), percent(e.precision)]
            for e in self.classes
        ]

    def agreed_on(self, images: int) -> str:
        """Images."""
        return f"the {images} images ({self.differing} differ)"

    def gates(self, images: int) -> dict[str, tuple[float, str]]:
        """Of top-1."""
        return {"min_top1": (self.top1.share, f"is right on {self.top1.share:.2%} of the {images} images")}


class ClassificationEvaluation:
    """The evaluation of classifiers; see ``Evaluation``."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset(
        {"labels_file", "folders", "batch", "min_top1", "per_class", "confusion", "misclassified", "predictions"}
    )
    RECORD: ClassVar[Any] = ClassRecord

    def __init__(self, entries: Sequence[Entry], request: Request, notes: list[str]) -> None:
        self._names = class_names(entries, notes)
        if request.predictions is not None:
            check_target(request.predictions)
        self._predictions = request.predictions
        self.dataset = labelled_images(request.images, self._names, request.labels_file, request.folders).limited(
            request.limit
        )
        wanted = BATCH if request.batch is None else request.batch
        self.batch = max(wanted, *(entry.session.batch_range[0] for entry in entries))
        self._entries = entries
        self._geometries = sorted({geometry(entry.spec) for entry in entries}, key=repr)
        self._full = min(self.batch, len(self.dataset.files))
        self._warm: set[str] = set()

    def prepare(self, index: int) -> list[Pixels]:
        """One image, decoded once, cut to every size that is needed."""
        image = load_image(self.dataset.root / self.dataset.files[index])
        return [resize_and_crop(image, spec) for spec in self._geometries]

    def run(self, prepared: Sequence[list[Pixels]]) -> tuple[Records, tuple[float, ...]]:
        """Predicted classes ``[files][images]``, and seconds of every file."""
        feeds: dict[InputSpec, NDArray[Any]] = {}
        found, seconds = [], []
        for entry in self._entries:
            if entry.spec not in feeds:
                place = self._geometries.index(geometry(entry.spec))
                stacked = np.stack([crops[place] for crops in prepared])
                feeds[entry.spec] = stacked if entry.spec.kind == "uint8" else normalize(stacked, entry.spec)
            classes, spent = self._predict(entry, feeds[entry.spec])
            found.append(classes)
            seconds.append(spent)
        return found, tuple(seconds)

    def _predict(self, entry: Entry, feed: NDArray[Any]) -> tuple[list[ClassRecord], float]:
        manifest = entry.session.manifest
        low, high = entry.session.batch_range
        size = max(low, min(self._full, high))
        found: list[ClassRecord] = []
        spent = 0.0
        for start in range(0, len(feed), size):
            part = feed[start : start + size]
            whole = np.stack(filled(list(part), low))
            if entry.label not in self._warm:  # the first run allocates and, on a GPU, loads kernels
                entry.session.run({IMAGES: whole})
                self._warm.add(entry.label)
            began = time.perf_counter()
            outputs = entry.session.run({IMAGES: whole})
            spent += time.perf_counter() - began
            classes = best_classes(outputs, manifest.output, manifest.model.num_classes)[: len(part)]
            probabilities = probabilities_of(outputs, manifest.output, classes)
            found += map(ClassRecord, map(tuple, classes.tolist()), map(tuple, probabilities.tolist()))
        return found, spent

    def scores(
        self, places: Sequence[int], records: Records, seconds: Sequence[float]
    ) -> tuple[tuple[Score, ...], Matrix]:
        """Top-1, top-5, and shares of images with the same prediction; writes the predictions that were asked for."""
        if self._predictions is not None:
            self._write(self._predictions, places, records)
        truth = np.array([self.dataset.classes[place] for place in places], dtype=np.int64)
        found = [np.array([record.classes for record in rows], dtype=np.int64) for rows in records]
        agreement = tuple(tuple(float(same_prediction(a, b).mean()) for b in found) for a in found)
        many = self._entries[0].session.manifest.model.num_classes > BEST_CLASSES
        scores = tuple(
            Score(
                label=entry.label,
                path=entry.path,
                description=entry.session.description,
                precision=entry.session.manifest.precision,
                sha256=entry.sha256,
                top1=accuracy(classes[:, 0] == truth),
                top5=accuracy((classes == truth[:, None]).any(axis=1)) if many else None,
                differing=int((~same_prediction(found[0], classes)).sum()),
                agreement=agreement[0][i],
                not_finite=int((classes[:, 0] < 0).sum()),
                images_per_second=len(truth) / max(seconds[i], 1e-9),
                classes=self._by_class(truth, classes[:, 0]),
                confusion=_cells(truth, classes[:, 0]),
                misclassified=self._misclassified(places, truth, classes[:, 0]),
            )
            for i, (entry, classes) in enumerate(zip(self._entries, found, strict=True))
        )
        return scores, agreement

    def _by_class(self, truth: Classes, predicted: Classes) -> tuple[ClassAccuracy, ...]:
        count = len(self._names)
        images = np.bincount(truth, minlength=count).tolist()
        right = np.bincount(truth[truth == predicted], minlength=count).tolist()
        taken = np.bincount(predicted[predicted >= 0], minlength=count).tolist()
        return tuple(
            ClassAccuracy(name, a, r, r / a if a else None, p, r / p if p else None)
            for name, a, r, p in zip(self._names, images, right, taken, strict=True)
        )

    def _misclassified(self, places: Sequence[int], truth: Classes, predicted: Classes) -> tuple[Misclassified, ...]:
        names = self._names
        return tuple(
            Misclassified(shown_name(self.dataset.files[place]), names[true], names[said] if said >= 0 else None)
            for place, true, said in zip(places, truth.tolist(), predicted.tolist(), strict=True)
            if true != said
        )

    def _write(self, path: Path, places: Sequence[int], records: Records) -> None:
        """A line of JSON per image and file."""
        with atomic_path(path) as part, part.open("wb") as file:
            for place, *found in zip(places, *records, strict=True):
                image, true = shown_name(self.dataset.files[place]), self.dataset.classes[place]
                for entry, record in zip(self._entries, found, strict=True):
                    finite = record.classes[0] >= 0
                    told = {
                        "image": image, "true_class": true, "true_label": self._names[true], "file": entry.label,
                        "right": record.classes[0] == true,
                        "classes": record.classes if finite else (),
                        "labels": [self._names[index] for index in record.classes] if finite else (),
                        "probabilities": record.probabilities if finite else (),
                    }  # fmt: skip
                    file.write(msgspec.json.encode(told) + b"\n")


def _cells(truth: Classes, predicted: Classes) -> Cells:
    cells, counts = np.unique(np.stack([truth, predicted], axis=1), axis=0, return_counts=True)
    return tuple((true, said, count) for (true, said), count in zip(cells.tolist(), counts.tolist(), strict=True))
