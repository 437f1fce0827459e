"""What a classifier says about images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.classification.ranking import output_fault, ranked_probabilities
from lit_deploy.tasks.unusable import unusable

FIELDS: Mapping[str, type] = {"class": int, "label": str, "probability": float}
"""Names and types of the values of a class."""


@dataclass(frozen=True)
class Prediction:
    """Most probable classes of one image, best first.

    Attributes:
        image: path as it was given.
        classes: class indices; ``labels``: their names; ``probabilities``: 0..1.
        orientation: EXIF's, 1 to 8, which the official evaluation of classifiers ignores; 1 is upright.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("probability", "class", "index")
    """Headings of ``rows``."""

    image: str
    classes: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    orientation: int = 1

    def rows(self) -> list[tuple[str, ...]]:
        """As rows of a table, one a class."""
        found = zip(self.probabilities, self.labels, self.classes, strict=True)
        return [(f"{probability:.2%}", label, str(index)) for probability, label, index in found]

    def records(self) -> list[tuple[Any, ...]]:
        """The same as values, of ``FIELDS``."""
        return list(zip(self.classes, self.labels, self.probabilities, strict=True))


def predictions(
    outputs: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    images: Sequence[str],
    pictures: Sequence[Picture],
    top: int,
) -> list[Prediction]:
    """The best classes of every image.

    Args:
        outputs: of a session, of at least as many images; ``manifest``: its.
        images: their names; ``pictures``: themselves.
        top: classes per image; a ``top5`` file gives at most five.

    Raises:
        ArtifactError: outputs that name no class: they are not finite, or there is no such class.
    """
    for index, image in enumerate(images):
        fault = output_fault(outputs, manifest.output, manifest.model.num_classes, index)
        if fault:
            raise unusable(image, fault)
    classes, probabilities = ranked_probabilities(outputs, manifest.output)
    return [
        Prediction(
            image=image,
            classes=tuple(map(int, row)),
            labels=tuple(manifest.labels[index] for index in row),
            probabilities=tuple(map(float, values)),
            orientation=picture.orientation,
        )
        for image, picture, row, values in zip(images, pictures, classes[:, :top], probabilities[:, :top], strict=False)
    ]
