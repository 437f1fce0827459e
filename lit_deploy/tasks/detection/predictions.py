"""What a detector says about a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from lit_deploy.images.picture import Picture
from lit_deploy.tasks.detection.results import Detections, detections_of
from lit_deploy.tasks.unusable import unusable

if TYPE_CHECKING:
    from lit_deploy.artifacts.manifest import Manifest

Bbox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """One object, in the words of COCO's results.

    Attributes:
        category_id: the data set's number of its class; ``label``: its name.
        score: 0..1.
        bbox: x, y, width and height in pixels of the original picture.
    """

    category_id: int
    label: str
    score: float
    bbox: Bbox


FIELDS: Mapping[str, type] = {
    "image_height": int, "image_width": int, "category_id": int, "label": str, "score": float,
    "x": float, "y": float, "width": float, "height": float,
}  # fmt: skip
"""Names and types of the values of an object."""


@dataclass(frozen=True)
class Prediction:
    """Objects of one picture, best first.

    Attributes:
        image: path as it was given.
        height, width: of the picture in pixels, turned as EXIF says.
        detections: at most as many as were asked for.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("score", "class", "x", "y", "width", "height")
    """Headings of ``rows``."""

    image: str
    height: int
    width: int
    detections: tuple[Detection, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """As rows of a table, one an object."""
        return [row_of(found) for found in self.detections]

    def records(self) -> list[tuple[Any, ...]]:
        """The same as values, of ``FIELDS``."""
        return [record_of(found, self.height, self.width) for found in self.detections]


def predictions(
    outputs: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    images: Sequence[str],
    pictures: Sequence[Picture],
    top: int,
) -> list[Prediction]:
    """The objects of a picture.

    Args:
        outputs: of a session; ``manifest``: its. Objects that do not score above its threshold are left out.
        images: the picture's name.
        pictures: the picture itself.
        top: most objects.

    Raises:
        ArtifactError: numbers that are not finite, or labels that do not exist.
    """
    found = best_of(outputs, manifest, images[0], top)
    height, width = pictures[0].original_size
    objects = (Detection(*what, box) for what, box in described(found, manifest))
    return [Prediction(images[0], height, width, tuple(objects))]


def best_of(outputs: Mapping[str, NDArray[Any]], manifest: Manifest, image: str, top: int) -> Detections:
    """The best objects above the threshold of the manifest, at most ``top``.

    Raises:
        ArtifactError: outputs that are no detections; ``image`` is the picture's name, for the message.
    """
    assert manifest.dense is not None
    found = detections_of(outputs)
    fault = found.fault(manifest.model.num_classes)
    if fault:
        raise unusable(image, fault)
    return found.above(manifest.dense.score_threshold)[:top]


def described(found: Detections, manifest: Manifest) -> Iterator[tuple[tuple[int, str, float], Bbox]]:
    """Of every object, number and name of its class with its score, and x, y, width and height of its box."""
    assert manifest.dense is not None
    for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True):
        x1, y1, x2, y2 = box
        yield (manifest.dense.category_ids[label], manifest.labels[label], score), (x1, y1, x2 - x1, y2 - y1)


def row_of(found: Detection) -> tuple[str, ...]:
    """One row of a table: what, and where in pixels."""
    return (f"{found.score:.1%}", found.label, *(f"{value:.1f}" for value in found.bbox))


def record_of(found: Detection, height: int, width: int) -> tuple[Any, ...]:
    """The values of ``FIELDS``, in a picture of that height and width."""
    return (height, width, found.category_id, found.label, found.score, *found.bbox)
