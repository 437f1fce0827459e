"""How many pixels get another label than from the file that a file was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.tasks.protocol import Change

MOST_PIXELS = 1 << 18
"""Pixels of a picture that are kept, a byte each: of larger ones every second, third, ... is looked at. So 128 pictures
take 32 MiB at most."""


@dataclass(frozen=True)
class LabelFindings:
    """Which labels pixels got; see ``tasks.protocol.Findings``.

    Attributes:
        pictures: of each the labels of its pixels, or of an even part of them, uint8 ``[n]``; None where outputs are
            not finite.
    """

    pictures: tuple[NDArray[np.uint8] | None, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes an agreement with these findings mean little."""
        labels = {int(label) for found in self.pictures if found is not None for label in np.unique(found)}
        if len(labels) > 1:
            return ()
        return ("one label is given to all pixels, so that the agreement says little; give other images",)

    def joined(self, others: Sequence[Self]) -> Self:
        """The pictures of all, in order."""
        return type(self)(tuple(found for one in (self, *others) for found in one.pictures))

    def at(self, images: NDArray[np.int_]) -> Self:
        """Some of the pictures, by position."""
        return type(self)(tuple(self.pictures[index] for index in images))

    def change(self, reference: Self) -> Change:
        """Compare with another file's labels of the same pictures; each pixel counts once."""
        parts = []
        for one, other in zip(reference.pictures, self.pictures, strict=True):
            size = max((len(labels) for labels in (one, other) if labels is not None), default=1)
            if one is None or other is None or one.shape != other.shape:
                parts.append((size, size))
            else:
                parts.append((int(np.count_nonzero(one != other)), size))
        differing, total = (sum(column) for column in zip(*parts, strict=True))
        return Change(
            differing=differing,
            total=total,
            counted="pixels",
            title="pixels of another label",
            sentence="{differing} of {total} pixels have another label than from {reference}",
            broken=sum(labels is None for labels in self.pictures),
            error=differing / max(total, 1),
            cosines=None,
            parts=tuple(parts),
        )


def findings(outputs: Mapping[str, NDArray[Any]], manifest: Manifest, images: int) -> LabelFindings:
    """Keep of a picture's outputs what tells whether another file gives the same labels.

    Args:
        outputs: of a session; ``manifest``: its own.
        images: pictures of the batch that count: one.
    """
    if "logits" in outputs:
        logits = outputs["logits"]
        labels = logits.argmax(axis=1) if np.isfinite(logits).all() else None
    else:
        labels = outputs["labels"]
    if labels is None:
        return LabelFindings((None,)[:images])
    flat = labels.reshape(-1)
    step = -(-flat.size // MOST_PIXELS)
    return LabelFindings((flat[::step].astype(np.uint8),)[:images])
