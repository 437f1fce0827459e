"""What a detector found in one picture, and how COCO writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detections:
    """Objects of one picture, best first.

    Attributes:
        boxes: float32 ``[n, 4]``, x1 y1 x2 y2 in pixels of the original picture.
        scores: float32 ``[n]``, 0..1, descending.
        labels: int32 ``[n]``, from 0.
        masks: float32 ``[n, m, m]``, probabilities inside the boxes; None of a detector without masks.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    masks: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Detections:
        """Some of them."""
        masks = None if self.masks is None else self.masks[rows]
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], masks)

    def fault(self, classes: int) -> str | None:
        """Say why these are no detections of a network of so many classes; None where they are."""
        masks = () if self.masks is None else (self.masks,)
        if not all(np.isfinite(values).all() for values in (self.boxes, self.scores, *masks)):
            return f"its boxes, scores{' or masks' if masks else ''} are not finite (NaN or infinity)"
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            return f"its labels are outside 0 to {classes - 1}"
        return None

    def above(self, threshold: float) -> Detections:
        """Those that score above ``threshold``."""
        return self[self.scores > threshold]


def detections_of(outputs: Mapping[str, NDArray[Any]]) -> Detections:
    """Take the detections that count out of a session's outputs.

    Args:
        outputs: ``boxes`` ``[1, K, 4]``, ``scores`` and ``labels`` ``[1, K]``, ``num`` ``[1]``, and, with masks,
            ``masks`` ``[1, K, m, m]``.

    Returns:
        The first ``num`` rows of each, perhaps none.
    """
    count = int(outputs["num"][0])
    masks = outputs.get("masks")
    return Detections(
        boxes=outputs["boxes"][0, :count],
        scores=outputs["scores"][0, :count],
        labels=outputs["labels"][0, :count],
        masks=None if masks is None else masks[0, :count],
    )


def coco_records(
    detections: Detections, image_id: int, category_ids: Sequence[int], size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Write detections as COCO's results, one record each; masks are pasted one after the other.

    Args:
        detections: of one picture.
        image_id: its number in the data set.
        category_ids: the data set's number of every label.
        size: height and width of the original picture.

    Returns:
        ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score``; with masks also ``segmentation``, as
        compressed run lengths.

    Source: COCO's result format, https://cocodataset.org/#format-results.
    """
    # Late, because the package of masks imports this module.
    from lit_deploy.tasks.instance_segmentation.pasting import pasted
    from lit_deploy.tasks.instance_segmentation.rle import encoded

    records: list[dict[str, Any]] = []
    for index, (box, score, label) in enumerate(
        zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        record = {
            "image_id": image_id, "category_id": category_ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }  # fmt: skip
        if detections.masks is not None:
            mask = pasted(detections.masks[index], detections.boxes[index], size)
            record["segmentation"] = encoded(mask.bits, *size, mask.top, mask.left)
        records.append(record)
    return records
