"""What a semantic segmentation network says about a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.images.picture import Picture
from lit_deploy.tasks.unusable import unusable

if TYPE_CHECKING:
    from lit_deploy.artifacts.manifest import Manifest

Labels = NDArray[np.uint8]


FIELDS: Mapping[str, type] = {
    "image_height": int, "image_width": int, "category_id": int, "label": str, "pixels": int, "share": float,
}  # fmt: skip
"""Names and types of the values of a class."""


@dataclass(frozen=True)
class ClassShare:
    """How much of a picture belongs to a class.

    Attributes:
        category_id: the data set's number of the class; ``label``: its name.
        pixels: how many; ``share``: of the whole picture, 0..1.
    """

    category_id: int
    label: str
    pixels: int
    share: float


@dataclass(frozen=True)
class Prediction:
    """The classes present in one picture, largest first.

    Attributes:
        image: path as it was given.
        height, width: of the picture in pixels, turned as EXIF says.
        classes: at most as many as were asked for.
        pixel_labels: the label of every pixel, from 0: uint8 ``[height, width]``. It is ``label_map``'s, and no part of
            the JSON: a picture says it better.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("share", "class", "pixels", "id")
    """Headings of ``rows``."""

    image: str
    height: int
    width: int
    classes: tuple[ClassShare, ...]
    pixel_labels: InitVar[Labels]

    def __post_init__(self, pixel_labels: Labels) -> None:
        object.__setattr__(self, "_pixel_labels", pixel_labels)

    @property
    def label_map(self) -> Labels:
        """The label of every pixel, from 0: uint8 ``[height, width]``."""
        labels: Labels = self.__dict__["_pixel_labels"]
        return labels

    def label_image(self, manifest: Manifest) -> Image.Image:
        """The label of every pixel, from 0, as a palette image: what it shows are the colours of the manifest."""
        assert manifest.dense is not None
        image = Image.fromarray(self.label_map)
        image.putpalette([channel for colour in manifest.dense.palette for channel in colour])
        return image

    def rows(self) -> list[tuple[str, ...]]:
        """As rows of a table, one a class."""
        return [
            (f"{found.share:.2%}", found.label, str(found.pixels), str(found.category_id)) for found in self.classes
        ]

    def records(self) -> list[tuple[Any, ...]]:
        """The same as values, of ``FIELDS``."""
        size = self.height, self.width
        return [(*size, found.category_id, found.label, found.pixels, found.share) for found in self.classes]


def predictions(
    outputs: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    images: Sequence[str],
    pictures: Sequence[Picture],
    top: int,
) -> list[Prediction]:
    """The classes of a picture and where they are.

    Args:
        outputs: of a session, ``labels`` ``[1, h, w]`` or ``logits`` ``[1, classes, h, w]``; ``manifest``: its.
        images: the picture's name.
        pictures: the picture itself; the outputs have its original size.
        top: most classes.

    Raises:
        ArtifactError: logits that are not finite, or labels that do not exist.
    """
    assert manifest.dense is not None
    fault = _fault(outputs, len(manifest.labels))
    if fault:
        raise unusable(images[0], fault)
    labels = labels_of(outputs)
    counts = np.bincount(labels.ravel(), minlength=len(manifest.labels))
    order = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    shares = tuple(
        ClassShare(
            category_id=manifest.dense.category_ids[index],
            label=manifest.labels[index],
            pixels=int(counts[index]),
            share=float(counts[index] / labels.size),
        )
        for index in order[:top]
    )
    return [Prediction(images[0], *pictures[0].original_size, shares, labels)]


def _fault(outputs: Mapping[str, NDArray[Any]], classes: int) -> str | None:
    """Why outputs give no class to some pixel; None where they do."""
    if "labels" not in outputs:
        return None if np.isfinite(outputs["logits"]).all() else "its logits are not finite (NaN or infinity)"
    labels = outputs["labels"]
    known = 0 <= int(labels.min()) <= int(labels.max()) < classes
    return None if known else f"its labels are outside 0 to {classes - 1}"


def labels_of(outputs: Mapping[str, NDArray[Any]]) -> Labels:
    """The label of every pixel of the first picture of a batch: uint8 ``[h, w]``."""
    labels = outputs["labels"][0] if "labels" in outputs else outputs["logits"][0].argmax(axis=0)
    result: Labels = labels.astype(np.uint8)
    return result
