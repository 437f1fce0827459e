"""Detectors: COCO's average precision, and detections that two files have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.files import atomic_path, check_target
from lit_deploy.evaluate.dense import FileFacts, Runs, facts_of, percent
from lit_deploy.evaluate.entries import Entry, category_ids, class_names, threshold_notes
from lit_deploy.evaluate.protocol import Matrix, Records, Request
from lit_deploy.images.coco import AnnotatedImages, annotated_images
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.arrays import Arrays
from lit_deploy.tasks.detection.results import Detections, coco_records, detections_of
from lit_deploy.tasks.detection.scores import (
    SAME_IOU,
    AveragePrecision,
    CocoScores,
    Kind,
    coco_scores,
    partners,
    require_scores,
)


@dataclass(frozen=True)
class DetectionRecord:
    """What is kept of one picture: 2.4 KB of a hundred detections, and the run lengths of their masks.

    Attributes:
        size: height and width of the picture, pixels.
        boxes: float32 ``[n, 4]``, ``scores``: float32 ``[n]``, both as bytes, so that no digit is lost.
        labels: from 0.
        counts: run lengths of the masks, as COCO compresses them; none of a detector without masks.
        finite: whether the output was usable; if not, nothing was detected.
    """

    size: tuple[int, int]
    boxes: bytes
    scores: bytes
    labels: tuple[int, ...]
    counts: tuple[str, ...]
    finite: bool

    def detections(self) -> Detections:
        """As the task has them, without masks."""
        boxes = np.frombuffer(self.boxes, dtype="<f4").reshape(-1, 4).astype(np.float32)
        scores = np.frombuffer(self.scores, dtype="<f4").astype(np.float32)
        return Detections(boxes, scores, np.array(self.labels, dtype=np.int32))


@dataclass(frozen=True)
class ClassPrecision:
    """What a file reached in one category, 0..1; None where it has no object.

    Attributes:
        name, category_id: of the annotations; ``objects``: of it that are no crowd.
        ap, ap50, ap75: of boxes; ``mask_ap``, ``mask_ap50``, ``mask_ap75``: of masks, None where there are none.
    """

    name: str
    category_id: int
    objects: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    mask_ap: float | None = None
    mask_ap50: float | None = None
    mask_ap75: float | None = None


@dataclass(frozen=True, kw_only=True)
class DetectionScore(FileFacts):
    """What one detector reached; see ``FileFacts``. ``compared`` counts the detections of both files.

    Attributes:
        detections: in all pictures.
        boxes: average precision of the boxes.
        classes: the same by category.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "file", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "agree", "differ", "images/s",
    )  # fmt: skip
    CAPTION: ClassVar[str] = (
        "Ground truth: {mapping}. COCO's average precision (AP) of boxes. 'differ' counts the detections, of the file "
        "or of {reference}, that have no partner in the other: one of the same label with an IoU of at least "
        f"{SAME_IOU}."
    )
    MATRIX: ClassVar[str] = "Share of both files' detections that have a partner"
    CLASS_COLUMNS: ClassVar[tuple[str, ...]] = ("class", "objects", "AP", "AP50", "AP75")

    detections: int
    boxes: AveragePrecision
    classes: tuple[ClassPrecision, ...]

    def rows(self, images: int) -> list[list[str]]:
        """One row."""
        return [[self.label, *twelve(self.boxes), *self.comparison()]]

    def comparison(self) -> list[str]:
        """The last columns: how far it agrees with the reference, and its speed."""
        return [f"{self.agreement:.2%}", str(self.differing), f"{self.images_per_second:.1f}"]

    def class_rows(self) -> list[list[str]]:
        """One row a category."""
        return [
            [entry.name, str(entry.objects), percent(entry.ap), percent(entry.ap50), percent(entry.ap75)]
            for entry in self.classes
        ]

    def agreed_on(self, images: int) -> str:
        """Detections of both."""
        return f"the {self.compared} detections of both ({self.differing} have no partner)"

    def gates(self, images: int) -> dict[str, tuple[float, str]]:
        """Of box AP."""
        return {"min_ap": (self.boxes.ap or 0.0, reached("box", self.boxes, images))}


class DetectionEvaluation:
    """The evaluation of detectors; see ``Evaluation``."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"annotations", "results", "per_class", "min_ap"})
    RECORD: ClassVar[Any] = DetectionRecord
    KINDS: ClassVar[tuple[Kind, ...]] = ("bbox",)

    batch = 1

    def __init__(self, entries: Sequence[Entry], request: Request, notes: list[str]) -> None:
        if request.annotations is None:
            raise UsageError(
                f"{entries[-1].label} detects objects; name COCO's JSON of the true ones with --annotations"
            )
        require_scores()
        files = len(entries) - request.against_checkpoint
        if request.results is not None:
            if files > 1:
                raise UsageError(f"--results holds the detections of one file, got {files}; evaluate them one by one")
            check_target(request.results)
        self._results, self._masks = request.results, "segm" in self.KINDS
        self._runs = Runs(entries)
        self._labels = class_names(entries, notes)
        notes += threshold_notes(entries)
        annotated = annotated_images(
            request.images, request.annotations, self._labels, category_ids(entries), masks=self._masks
        )
        if annotated.unlisted:
            notes.append(f"{annotated.unlisted} images of {annotated.root} are not in the annotations")
        self.dataset: AnnotatedImages = annotated.limited(request.limit)
        for kind in self.KINDS:  # what the scores' own reader refuses is better known now than in the end
            coco_scores(self._truth(range(len(self.dataset.files)), self.dataset.sizes), [], kind)

    def prepare(self, index: int) -> dict[Any, Picture]:
        """One picture in every size that is needed; it must have the size that the annotations say."""
        pictures = self._runs.pictures(self.dataset.root / self.dataset.files[index])
        size, said = next(iter(pictures.values())).original_size, self.dataset.sizes[index]
        if said is not None and size != said:
            raise ImageError(
                f"is {size[1]} x {size[0]} pixels, turned as EXIF says, where the annotations say {said[1]} x {said[0]}"
            )
        return pictures

    def run(self, prepared: Sequence[dict[Any, Picture]]) -> tuple[Records, tuple[float, ...]]:
        """Detections ``[files][images]``, and the seconds of every file."""
        found, seconds = [], []
        for index in range(len(self._runs.entries)):
            kept, spent = [], 0.0
            for pictures in prepared:
                outputs, took = self._runs.outputs(index, pictures)
                kept.append(self._record(outputs, next(iter(pictures.values())).original_size))
                spent += took
            found.append(kept)
            seconds.append(spent)
        return found, tuple(seconds)

    def _record(self, outputs: Arrays, size: tuple[int, int]) -> DetectionRecord:
        found = detections_of(outputs)
        if found.fault(len(self._labels)):
            return DetectionRecord(size, b"", b"", (), (), finite=False)
        counts: tuple[str, ...] = ()
        if self._masks:
            written = coco_records(found, 0, range(len(self._labels)), size)
            counts = tuple(entry["segmentation"]["counts"] for entry in written)
        return DetectionRecord(
            size, found.boxes.astype("<f4").tobytes(), found.scores.astype("<f4").tobytes(),
            tuple(found.labels.tolist()), counts, finite=True,
        )  # fmt: skip

    def scores(
        self, places: Sequence[int], records: Records, seconds: Sequence[float]
    ) -> tuple[tuple[DetectionScore, ...], Matrix]:
        """Average precision, and shares of detections with a partner; writes the results that were asked for."""
        if self._results is not None:
            self._write(self._results, places, records[-1])
        totals = [sum(len(record.labels) for record in rows) for rows in records]
        common = _common(records)
        shares = tuple(
            tuple(2 * both / (a + b) if a + b else 1.0 for both, b in zip(row, totals, strict=True))
            for row, a in zip(common, totals, strict=True)
        )
        scores = []
        for index, (entry, rows) in enumerate(zip(self._runs.entries, records, strict=True)):
            compared = totals[0] + totals[index]
            facts = facts_of(
                entry, compared=compared, differing=compared - 2 * common[0][index], agreement=shares[0][index],
                not_finite=sum(not record.finite for record in rows), detections=totals[index],
                images_per_second=len(places) / max(seconds[index], 1e-9),
            )  # fmt: skip
            scores.append(self.score(places, rows, facts))
        return tuple(scores), shares

    def score(self, places: Sequence[int], rows: Sequence[DetectionRecord], facts: dict[str, Any]) -> DetectionScore:
        """What a file reached, of what was kept of its pictures."""
        found = self.coco(places, rows, "bbox")
        return DetectionScore(boxes=found.overall, classes=self.classes(places, found), **facts)

    def coco(self, places: Sequence[int], rows: Sequence[DetectionRecord], kind: Kind) -> CocoScores:
        """Average precision of what was kept of the pictures."""
        return coco_scores(self._truth(places, [row.size for row in rows]), self._written(places, rows), kind)

    def classes(
        self, places: Sequence[int], boxes: CocoScores, masks: CocoScores | None = None
    ) -> tuple[ClassPrecision, ...]:
        """Average precision by category."""
        objects = Counter(
            entry["category_id"] for i in places for entry in self.dataset.objects[i] if not entry["iscrowd"]
        )
        nothing = (None, None, None)
        return tuple(
            ClassPrecision(
                name, number, objects[number], *boxes.by_category[number],
                *(nothing if masks is None else masks.by_category[number]),
            )
            for number, name in self.dataset.categories
        )  # fmt: skip

    def _truth(self, places: Sequence[int], sizes: Sequence[tuple[int, int] | None]) -> dict[str, Any]:
        """The annotations of the pictures that count, numbered anew: objects whose ids are double would be lost."""
        ids, objects = self.dataset.ids, self.dataset.objects
        annotations = [{"image_id": ids[i], **entry} for i in places for entry in objects[i]]
        return {
            "images": [
                {"id": ids[i], "file_name": self.dataset.files[i], "height": height, "width": width}
                for i, (height, width) in zip(places, (size or (1, 1) for size in sizes), strict=True)
            ],
            "categories": [{"id": number, "name": name or str(number)} for number, name in self.dataset.categories],
            "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
        }

    def _written(self, places: Sequence[int], rows: Sequence[DetectionRecord]) -> Iterator[dict[str, Any]]:
        """The detections as COCO's results; those of classes without a number in the annotations are left out."""
        numbers = self.dataset.category_ids
        for index, row in zip(places, rows, strict=True):
            written = coco_records(row.detections(), self.dataset.ids[index], range(len(numbers)), row.size)
            for place, entry in enumerate(written):
                number = numbers[entry["category_id"]]
                if number is not None:
                    entry["category_id"] = number
                    if row.counts:
                        entry["segmentation"] = {"size": list(row.size), "counts": row.counts[place]}
                    yield entry

    def _write(self, path: Path, places: Sequence[int], rows: Sequence[DetectionRecord]) -> None:
        with atomic_path(path) as part, part.open("wb") as file:
            mark = b"["
            for entry in self._written(places, rows):
                file.write(mark + msgspec.json.encode(entry))
                mark = b",\n"
            file.write(b"[]\n" if mark == b"[" else b"]\n")


def _common(records: Records) -> list[list[int]]:
    """How many detections every two files have in common, in all pictures."""
    files = range(len(records))
    found = [[sum(len(record.labels) for record in records[i]) if i == j else 0 for j in files] for i in files]
    for rows in zip(*records, strict=True):
        detections = [row.detections() for row in rows]
        for i in files:
            for j in range(i):
                a, b = detections[i], detections[j]
                found[i][j] += partners(a.boxes, a.labels, b.boxes, b.labels)
                found[j][i] = found[i][j]
    return found


def twelve(found: AveragePrecision) -> list[str]:
    """The numbers of a table."""
    return [
        percent(share) for share in (
            found.ap, found.ap50, found.ap75, found.ap_small, found.ap_medium, found.ap_large, found.ar1, found.ar10,
            found.ar100,
        )
    ]  # fmt: skip


def reached(what: str, found: AveragePrecision, images: int) -> str:
    """What a gate says; ``what`` was compared, boxes or masks."""
    if found.ap is None:
        return f"has no {what} AP, as there is no object in the {images} images"
    return f"reaches a {what} AP of {found.ap:.2%} on the {images} images"
