"""Classifiers: a class of every image, top-1 and top-5, and predictions that are the same.

All files see the same images, prepared by the rule in the file's own manifest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lit_deploy.backends.base import filled
from lit_deploy.core.specs import BEST_CLASSES, IMAGES, InputSpec, PrecisionName
from lit_deploy.evaluate.entries import Entry, class_names, geometry
from lit_deploy.evaluate.protocol import Matrix, Records, Request
from lit_deploy.images.datasets import labelled_images
from lit_deploy.images.decoding import load_image
from lit_deploy.images.preprocessing import normalize, resize_and_crop
from lit_deploy.tasks.classification.ranking import best_classes, same_prediction
from lit_deploy.tasks.classification.scores import Accuracy, accuracy

Pixels = NDArray[np.uint8]

BATCH = 32
"""Images per batch where the files take that many, and between two writes of the state."""


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
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("file", "top-1", "wrong", "differ", "95 % interval", "top-5", "images/s")
    CAPTION: ClassVar[str] = "Classes: {mapping}. 'differ' counts predictions other than those of {reference}."
    MATRIX: ClassVar[str] = "Share of images with the same prediction"
    CLASS_COLUMNS: ClassVar[tuple[str, ...]] = ()

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
        """None: an image has one class, and confusions are not kept."""
        return []

    def agreed_on(self, images: int) -> str:
        """Images."""
        return f"the {images} images ({self.differing} differ)"

    def gates(self, images: int) -> dict[str, tuple[float, str]]:
        """Of top-1."""
        return {"min_top1": (self.top1.share, f"is right on {self.top1.share:.2%} of the {images} images")}


class ClassificationEvaluation:
    """The evaluation of classifiers; see ``Evaluation``. What is kept of an image is its best classes, best first."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"labels_file", "folders", "batch", "min_top1"})
    RECORD: ClassVar[Any] = tuple[int, ...]

    def __init__(self, entries: Sequence[Entry], request: Request, notes: list[str]) -> None:
        names = class_names(entries, notes)
        self.dataset = labelled_images(request.images, names, request.labels_file, request.folders).limited(
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
        """Predicted classes ``[files][images][k]``, -1 where the output was not finite; and seconds of every file."""
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

    def _predict(self, entry: Entry, feed: NDArray[Any]) -> tuple[list[tuple[int, ...]], float]:
        manifest = entry.session.manifest
        low, high = entry.session.batch_range
        size = max(low, min(self._full, high))
        rows: list[list[int]] = []
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
            rows += best_classes(outputs, manifest.output, manifest.model.num_classes)[: len(part)].tolist()
        return list(map(tuple, rows)), spent

    def scores(
        self, places: Sequence[int], records: Records, seconds: Sequence[float]
    ) -> tuple[tuple[Score, ...], Matrix]:
        """Top-1, top-5, and shares of images with the same prediction."""
        truth = np.array([self.dataset.classes[place] for place in places], dtype=np.int64)
        found = [np.array(rows, dtype=np.int64) for rows in records]
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
            )
            for i, (entry, classes) in enumerate(zip(self._entries, found, strict=True))
        )
        return scores, agreement
