"""What an instance segmentation network says about a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from lit_deploy.images.picture import Picture
from lit_deploy.tasks.detection.predictions import FIELDS as OF_BOXES
from lit_deploy.tasks.detection.predictions import Detection, best_of, described, record_of, row_of
from lit_deploy.tasks.instance_segmentation.pasting import pasted
from lit_deploy.tasks.instance_segmentation.rle import Rle, encoded

if TYPE_CHECKING:
    from lit_deploy.artifacts.manifest import Manifest

FIELDS: Mapping[str, type] = {**OF_BOXES, "area": int, "rle_counts": str}
"""Names and types of the values of an object; the last are COCO's compressed run lengths of its mask."""


@dataclass(frozen=True)
class Instance(Detection):
    """One object with its pixels, in the words of COCO's results.

    Attributes:
        segmentation: its mask, as large as the picture, in compressed run lengths.
        area: pixels of the mask.
    """

    segmentation: Rle
    area: int


@dataclass(frozen=True)
class Prediction:
    """Objects of one picture, best first.

    Attributes:
        image: path as it was given.
        height, width: of the picture in pixels, turned as EXIF says.
        detections: at most as many as were asked for.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("score", "class", "x", "y", "width", "height", "pixels")
    """Headings of ``rows``."""

    image: str
    height: int
    width: int
    detections: tuple[Instance, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """As rows of a table, one an object."""
        return [(*row_of(found), str(found.area)) for found in self.detections]

    def records(self) -> list[tuple[Any, ...]]:
        """The same as values, of ``FIELDS``."""
        size = self.height, self.width
        return [(*record_of(found, *size), found.area, found.segmentation["counts"]) for found in self.detections]


def predictions(
    outputs: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    images: Sequence[str],
    pictures: Sequence[Picture],
    top: int,
) -> list[Prediction]:
    """The objects of a picture. Masks are pasted one after the other and kept as run lengths.

    Args:
        outputs: of a session; ``manifest``: its. Objects that do not score above its threshold are left out.
        images: the picture's name.
        pictures: the picture itself.
        top: most objects.

    Raises:
        ArtifactError: numbers that are not finite, or labels that do not exist.
    """
    found, size = best_of(outputs, manifest, images[0], top), pictures[0].original_size
    assert found.masks is not None
    objects = []
    for mask, box, (what, bbox) in zip(found.masks, found.boxes, described(found, manifest), strict=True):
        pixels = pasted(mask, box, size)
        segmentation = encoded(pixels.bits, *size, pixels.top, pixels.left)
        objects.append(Instance(*what, bbox, segmentation, int(pixels.bits.sum())))
    return [Prediction(images[0], *size, tuple(objects))]
