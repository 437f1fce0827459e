"""Which detections of a file have no counterpart in those of the file that it was made from, and vice versa."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.tasks.detection.overlap import iou
from lit_deploy.tasks.detection.results import Detections, detections_of
from lit_deploy.tasks.protocol import Change

CERTAIN = 0.3
"""Detections that score above this are looked for: what users of a detector usually show."""

BEST = 20
"""Detections of each picture that are looked for instead where neither file is certain of anything in any picture, as
with weights that were not trained."""

OVERLAP = 0.5
"""Least intersection over union with a counterpart of the same label, of boxes and, where there are any, of masks."""

SCORE_RATIO = 2.0
"""A counterpart's score is at most this many times as high or as low."""


@dataclass(frozen=True)
class DetectionFindings:
    """What a detector found in pictures; see ``tasks.protocol.Findings``.

    Attributes:
        pictures: the detections of each; masks are kept as bool, one half and above.
    """

    pictures: tuple[Detections, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes an agreement with these findings mean little."""
        if any(len(found) for found in self.pictures):
            return ()
        return ("nothing is found in any image, so that the agreement says little; give other images",)

    def joined(self, others: Sequence[Self]) -> Self:
        """The pictures of all, in order."""
        return type(self)(tuple(found for one in (self, *others) for found in one.pictures))

    def at(self, images: NDArray[np.int_]) -> Self:
        """Some of the pictures, by position."""
        return type(self)(tuple(self.pictures[index] for index in images))

    def change(self, reference: Self) -> Change:
        """Compare with another file's findings in the same pictures.

        A detection has a counterpart where the other file has one of the same label that overlaps by ``OVERLAP`` and
        whose score differs by no more than ``SCORE_RATIO``; each serves once. Looked for are those that score above
        ``CERTAIN``, of both files.
        """
        pairs = list(zip(reference.pictures, self.pictures, strict=True))
        certain = any((found.scores > CERTAIN).any() for pair in pairs for found in pair)
        parts = []
        for one, other in pairs:
            found, lost, sought = counterparts(one, other), 0, 0
            for detections, alone in ((one, found < 0), (other, ~np.isin(np.arange(len(other)), found))):
                wanted = ~(detections.scores <= CERTAIN) if certain else np.arange(len(detections)) < BEST
                lost += int((wanted & alone).sum())
                sought += int(wanted.sum())
            parts.append((lost, sought))
        lost, sought = (sum(column) for column in zip(*parts, strict=True))
        return Change(
            differing=lost,
            total=sought,
            counted="detections",
            title="detections without a counterpart",
            sentence="{differing} of {total} detections, its own and those of {reference}, have no counterpart",
            broken=sum(not _finite(found) for found in self.pictures),
            error=lost / max(sought, 1),
            cosines=None,
            parts=tuple(parts),
        )


def findings(outputs: Mapping[str, NDArray[Any]], manifest: Manifest, images: int) -> DetectionFindings:
    """Keep of a picture's outputs what tells whether another file finds the same.

    Args:
        outputs: of a session; ``manifest``: its own.
        images: pictures of the batch that count: one.
    """
    found = detections_of(outputs)
    masks = None if found.masks is None else found.masks >= 0.5
    return DetectionFindings((Detections(found.boxes, found.scores, found.labels, masks),)[:images])  # type: ignore[arg-type]


def counterparts(one: Detections, other: Detections) -> NDArray[np.intp]:
    """Int ``[n]``: for each detection, best first, the free one of the other file that overlaps most; -1 for none."""
    found = np.full(len(one), -1, dtype=np.intp)
    if not len(other):
        return found
    overlaps = iou(one.boxes, other.boxes)
    fits = (overlaps >= OVERLAP) & (one.labels[:, None] == other.labels[None])
    fits &= one.scores[:, None] <= SCORE_RATIO * other.scores[None]
    fits &= other.scores[None] <= SCORE_RATIO * one.scores[:, None]
    for index in range(len(one)):
        candidates = np.flatnonzero(fits[index])
        for candidate in candidates[np.argsort(-overlaps[index, candidates], kind="stable")]:
            if _same_mask(one, index, other, int(candidate)):
                found[index] = candidate
                fits[:, candidate] = False
                break
    return found


def _same_mask(one: Detections, index: int, other: Detections, candidate: int) -> bool:
    """Whether masks overlap enough, inside boxes that do; two that are empty are the same."""
    if one.masks is None or other.masks is None:
        return True
    a, b = one.masks[index], other.masks[candidate]
    return int(np.logical_and(a, b).sum()) >= OVERLAP * int(np.logical_or(a, b).sum())


def _finite(found: Detections) -> bool:
    return bool(np.isfinite(found.boxes).all() and np.isfinite(found.scores).all())
