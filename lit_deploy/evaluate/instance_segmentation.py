"""Instance segmentation: a detector whose masks are scored, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lit_deploy.evaluate.dense import percent
from lit_deploy.evaluate.detection import DetectionEvaluation, DetectionRecord, DetectionScore, reached, twelve
from lit_deploy.tasks.detection.scores import AveragePrecision, Kind


@dataclass(frozen=True, kw_only=True)
class InstanceScore(DetectionScore):
    """What one file reached; see ``DetectionScore``.

    Attributes:
        masks: average precision of the masks.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (DetectionScore.COLUMNS[0], "of", *DetectionScore.COLUMNS[1:])
    CAPTION: ClassVar[str] = DetectionScore.CAPTION.replace("of boxes", "of boxes and of masks")
    CLASS_COLUMNS: ClassVar[tuple[str, ...]] = (
        *DetectionScore.CLASS_COLUMNS, "mask AP", "mask AP50", "mask AP75",
    )  # fmt: skip

    masks: AveragePrecision

    def rows(self, images: int) -> list[list[str]]:
        """One row of boxes, one of masks."""
        return [
            [self.label, "boxes", *twelve(self.boxes), *self.comparison()],
            ["", "masks", *twelve(self.masks), "", "", ""],
        ]

    def class_rows(self) -> list[list[str]]:
        """One row a category."""
        masks = [[percent(e.mask_ap), percent(e.mask_ap50), percent(e.mask_ap75)] for e in self.classes]
        return [row + more for row, more in zip(super().class_rows(), masks, strict=True)]

    def gates(self, images: int) -> dict[str, tuple[float, str]]:
        """Of box AP and mask AP."""
        return {**super().gates(images), "min_mask_ap": (self.masks.ap or 0.0, reached("mask", self.masks, images))}


class InstanceSegmentationEvaluation(DetectionEvaluation):
    """The evaluation of instance segmentation; see ``Evaluation``."""

    OPTIONS: ClassVar[frozenset[str]] = DetectionEvaluation.OPTIONS | {"min_mask_ap"}
    KINDS: ClassVar[tuple[Kind, ...]] = ("bbox", "segm")

    def score(self, places: Sequence[int], rows: Sequence[DetectionRecord], facts: dict[str, Any]) -> InstanceScore:
        """What a file reached, of what was kept of its pictures."""
        boxes, masks = self.coco(places, rows, "bbox"), self.coco(places, rows, "segm")
        return InstanceScore(
            boxes=boxes.overall, masks=masks.overall, classes=self.classes(places, boxes, masks), **facts
        )  # fmt: skip
