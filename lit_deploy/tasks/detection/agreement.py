"""Whether two sessions find the same objects, and whether the check could have noticed if not.

Detections are matched by label and nearest box, never by position: scores that agree closely may swap places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import PrecisionName, Tolerance
from lit_deploy.tasks.comparison import Comparison, Floats
from lit_deploy.tasks.dense.tensors import dense_of
from lit_deploy.tasks.detection.results import Detections, detections_of
from lit_deploy.tasks.protocol import Metric, OutputAgreement, Outputs, Pair


@dataclass(frozen=True)
class DetectionTolerance:
    """Fixed limits of parity for one precision.

    Attributes:
        box: largest error of a matched box's corner over the longer side of the area that boxes cover.
        score: largest error of a matched detection's score.
        unmatched: largest share of detections without a counterpart, in either direction.
        mask: largest share of a mask's pixels on the other side of one half, over all matched detections.
    """

    box: float
    score: float
    unmatched: float
    mask: float


LIMITS: dict[PrecisionName, DetectionTolerance] = {
    "fp32": DetectionTolerance(box=1e-4, score=2e-4, unmatched=0.03, mask=1e-4),
    "fp16": DetectionTolerance(box=2e-2, score=3e-2, unmatched=0.08, mask=2e-2),
    "bf16": DetectionTolerance(box=1e-1, score=1.5e-1, unmatched=0.5, mask=1e-1),
    "int8": DetectionTolerance(box=1e-1, score=2e-1, unmatched=0.3, mask=3e-1),
    "fp8": DetectionTolerance(box=2e-1, score=3e-1, unmatched=0.7, mask=2e-1),
}
"""A detection near a threshold, or near another in score or overlap, comes and goes with the last bits, hence a share
that may be without a counterpart. What rounding costs depends on the weights; random ones, which the tests use, are the
hard case, as their scores lie close together."""


@dataclass(frozen=True)
class Match:
    """Detections of one picture that belong together.

    Attributes:
        pairs: int ``[n, 2]``, positions in the reference and in the tested detections.
        missing: of the reference's detections that count, those without a counterpart; ``extra``: the other way round.
        wanted: how many were looked for in both directions together.
    """

    pairs: NDArray[np.intp]
    missing: int
    extra: int
    wanted: int


def reference(manifest: Manifest) -> Manifest:
    """The same: what a detector finds is compared as it is."""
    return manifest


def agreement(manifest: Manifest, tolerance: Tolerance, pairs: Iterable[Pair]) -> OutputAgreement:
    """Compare the detections of a file with those of the float32 reference, picture by picture.

    Args:
        manifest: of the tested file; ``tolerance``: of layers, not used here; see ``LIMITS``.
        pairs: outputs of the reference and of the file, a picture each.
    """
    limits = LIMITS[manifest.precision]
    threshold = dense_of(manifest).score_threshold
    rows, disorder = [], []
    for expected, got in pairs:
        one, other = detections_of(expected), detections_of(got)
        rows.append((one, other, matched(one, other, threshold, limits)))
        disorder += _disorder(got)
    count = sum(len(one) for one, *_ in rows)
    boxes = _box_errors(rows)
    scores = np.concatenate([np.abs(a.scores[m.pairs[:, 0]] - b.scores[m.pairs[:, 1]]) for a, b, m in rows])
    unmatched = sum(m.missing + m.extra for *_, m in rows) / max(sum(m.wanted for *_, m in rows), 1)
    masks = _mask_error(rows)
    metrics = [
        _metric("boxes", "box error over the picture's size", _worst(boxes), limits.box),
        _metric("scores", "score error", _worst(scores), limits.score),
        Metric(
            "unmatched",
            "detections without a counterpart",
            unmatched,
            f"{unmatched:.1%}",
            f"<= {limits.unmatched:.0%}",
        ),
        Metric("detections", "detections of the reference", count, str(count)),
    ]
    if masks is not None:
        metrics.append(_metric("masks", "mask pixels that differ", masks, limits.mask))
    faults = [
        f"{metric.title}: {metric.text} exceeds {metric.limit.removeprefix('<= ')}"
        for metric, limit in zip(
            (*metrics[:3], *metrics[4:]), (limits.box, limits.score, limits.unmatched, limits.mask), strict=False
        )
        if not metric.value <= limit  # written so that NaN is a fault
    ]
    return OutputAgreement(
        output=Comparison("boxes", _worst(boxes), float(boxes.mean()) if len(boxes) else 0.0, _worst(boxes), 1.0),
        metrics=tuple(metrics),
        faults=tuple(dict.fromkeys((*faults, *disorder))),
        blind=tuple(_blind([a for a, *_ in rows], limits)),
    )


def difference(reference: Outputs, outputs: Outputs) -> float:
    """Largest error of a matched box's corner, over the picture's size; infinite where too few detections match."""
    limits = LIMITS["bf16"]
    one, other = detections_of(reference), detections_of(outputs)
    match = matched(one, other, 0.0, limits)
    if match.missing + match.extra > limits.unmatched * match.wanted:
        return float("inf")
    return _worst(_box_errors([(one, other, match)]))


def matched(one: Detections, other: Detections, threshold: float, limits: DetectionTolerance) -> Match:
    """Pair every detection with the nearest free one of the same label, within the limits; best first.

    Detections that score less than the limit above the threshold, or above the last one of a full list, are paired, but
    not looked for: the other side may have left them out for a difference within the limit.
    """
    scale = size_of((one, other))
    free = np.ones(len(other), dtype=bool)
    pairs: list[tuple[int, int]] = []
    for index, (box, score, label) in enumerate(zip(one.boxes, one.scores, one.labels, strict=True)):
        apart = np.abs(other.boxes - box).max(axis=1, initial=0.0) / scale
        fits = free & (other.labels == label) & (np.abs(other.scores - score) <= limits.score) & (apart <= limits.box)
        if fits.any():
            nearest = int(np.where(fits, apart, np.inf).argmin())
            free[nearest] = False
            pairs.append((index, nearest))
    table = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    lost = [
        (_sought(found, threshold, limits.score), np.isin(np.arange(len(found)), table[:, side], invert=True))
        for side, found in enumerate((one, other))
    ]
    missing, extra = (int((sought & alone).sum()) for sought, alone in lost)
    return Match(table, missing, extra, int(sum(sought.sum() for sought, _ in lost)))


def size_of(found: Iterable[Detections]) -> float:
    """The longer side of the area that boxes cover, from the origin; at least one pixel."""
    return max(1.0, *(float(each.boxes.max(initial=0.0)) for each in found))


def _sought(found: Detections, threshold: float, slack: float) -> NDArray[np.bool_]:
    last = max(threshold, float(found.scores[-1]) if len(found) else 0.0)
    sought: NDArray[np.bool_] = found.scores > last + slack
    return sought


def _box_errors(rows: Sequence[tuple[Detections, Detections, Match]]) -> Floats:
    errors = [
        np.abs(a.boxes[m.pairs[:, 0]].astype(np.float64) - b.boxes[m.pairs[:, 1]]).max(axis=1, initial=0.0)
        / size_of((a, b))
        for a, b, m in rows
    ]
    return np.concatenate(errors) if errors else np.zeros(0)


def _mask_error(rows: Sequence[tuple[Detections, Detections, Match]]) -> float | None:
    """Share of the pixels of matched masks that lie on the other side of one half; None where there are no masks."""
    differing = total = 0
    for a, b, m in rows:
        if a.masks is None or b.masks is None:
            return None
        one, other = a.masks[m.pairs[:, 0]], b.masks[m.pairs[:, 1]]
        differing += int(((one >= 0.5) != (other >= 0.5)).sum())
        total += one.size
    return differing / max(total, 1)


def _disorder(outputs: Outputs) -> list[str]:
    """What is wrong with a list of detections as such."""
    found, size = detections_of(outputs), outputs["scores"].shape[1]
    texts = []
    if not all(np.isfinite(value).all() for value in (found.boxes, found.scores)):
        texts.append("a box or score is not finite")
    if (np.diff(found.scores) > 0).any():
        texts.append("scores are not in descending order")
    if (found.labels < 0).any() or (outputs["labels"][0, len(found) :] != -1).any() or len(found) > size:
        texts.append("the number of detections is not that of the rows with a label")
    return texts


def _blind(references: Sequence[Detections], limits: DetectionTolerance) -> list[str]:
    """Why nobody would have noticed an output that ignores the picture."""
    if not any(len(found) for found in references):
        return ["the reference finds nothing in these pictures, which cannot reveal a fault; give other images"]
    if len(references) < 2:
        return ["one picture cannot reveal an output that ignores it; give at least two different images"]
    length = max(map(len, references))
    scores = np.stack([np.pad(found.scores, (0, length - len(found))) for found in references])
    spread = float(np.ptp(scores, axis=0).max())
    if spread > limits.score or len({found.labels.tobytes() for found in references}) > 1:
        return []
    return [
        f"scores differ by {spread:.1e} only between the pictures: the output hardly depends on them, or they are "
        "equal; give at least two different images"
    ]


def _metric(key: str, title: str, value: float, limit: float) -> Metric:
    return Metric(key, title, value, f"{value:.2e}", f"<= {limit:.0e}")


def _worst(values: NDArray[Any]) -> float:
    return float(values.max(initial=0.0))  # without a pair nothing is wrong with pairs: what is missing is counted
