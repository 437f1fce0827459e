"""Which images a file puts into another class than the file that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.tasks.classification.ranking import Classes, Floats, best_classes, logits_of, same_prediction
from lit_deploy.tasks.comparison import cosines
from lit_deploy.tasks.protocol import Change


@dataclass(frozen=True)
class ClassFindings:
    """What a classifier said about images; see ``tasks.protocol.Findings``.

    Attributes:
        classes: ``[N, k]``, best first; -1 where outputs are not finite.
        logits: ``[N, classes]``; of probabilities their logarithm without each image's mean, as they do not keep it;
            None for a top5 file.
    """

    classes: Classes
    logits: Floats | None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes an agreement with these predictions mean little."""
        if len(self.classes) == 1 or len(set(self.classes[:, 0].tolist())) > 1:
            return ()
        return ("one class is predicted for all images, so that the agreement says little; give other images",)

    def joined(self, others: Sequence[Self]) -> Self:
        """The images of all, in order."""
        every = (self, *others)
        logits = [one.logits for one in every if one.logits is not None]
        return type(self)(np.concatenate([one.classes for one in every]), np.concatenate(logits) if logits else None)

    def at(self, images: NDArray[np.int_]) -> Self:
        """Some of the images, by position."""
        return type(self)(self.classes[images], None if self.logits is None else self.logits[images])

    def differing(self, reference: Self) -> int:
        """Images whose first class is not the reference's."""
        return int((~same_prediction(reference.classes, self.classes)).sum())

    def change(self, reference: Self) -> Change:
        """Compare with another file's findings on the same images."""
        both = self.logits is not None and reference.logits is not None
        return Change(
            differing=self.differing(reference),
            total=len(self),
            counted="images",
            title="top-1 differs",
            sentence="top-1 differs from {reference} on {differing} of {total} images",
            broken=int((self.classes[:, 0] < 0).sum()),
            error=self._error(reference) if both else float("nan"),
            cosines=cosines(reference.logits, self.logits) if both else None,  # type: ignore[arg-type]
        )

    def _error(self, reference: Self) -> float:
        """Mean over images of ``||found - reference|| / ||reference||`` of their logits; infinite where not finite."""
        assert reference.logits is not None
        assert self.logits is not None
        norms = np.maximum(np.linalg.norm(reference.logits, axis=1), np.finfo(np.float64).tiny)
        mean = float((np.linalg.norm(self.logits - reference.logits, axis=1) / norms).mean())
        return mean if np.isfinite(mean) else float("inf")


def findings(outputs: Mapping[str, NDArray[Any]], manifest: Manifest, images: int) -> ClassFindings:
    """Keep of a batch's outputs what tells whether another file says the same.

    Args:
        outputs: of a session; ``manifest``: its own.
        images: rows that count; the others fill up a batch.
    """
    classes = best_classes(outputs, manifest.output, manifest.model.num_classes)[:images]
    scores = logits_of(outputs, manifest.output)
    return ClassFindings(classes, None if scores is None else scores[:images])
