"""Masks and boxes on a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.tasks.dense.lettering import Colour, style_for
from lit_deploy.tasks.detection.drawing import colours_of, draw_boxes
from lit_deploy.tasks.instance_segmentation.predictions import Prediction
from lit_deploy.tasks.instance_segmentation.rle import decoded_columns

_TINT, _OUTLINE = 115, 255  # opacity of 255


def drawn(prediction: Prediction, image: Image.Image, manifest: Manifest) -> Image.Image:
    """A picture with the outlined masks, boxes, names and scores of what was found in it; the best lie on top.

    Args:
        prediction: of the picture; ``manifest``: of the file that made it.
        image: RGB, turned as EXIF says; left as it is.
    """
    result, line = image.copy(), style_for(image.width, image.height).line
    colours = colours_of(manifest)
    for found in reversed(prediction.detections):
        bits, left = decoded_columns(found.segmentation)
        _draw_mask(result, bits, left, colours[found.category_id], line)
    draw_boxes(result, prediction.detections, manifest)
    return result


def _draw_mask(image: Image.Image, mask: NDArray[np.bool_], left: int, colour: Colour, line: int) -> None:
    """Tint the pixels of a mask, whose columns begin at ``left``, and draw its outline inside it."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return
    bits = np.ascontiguousarray(mask[rows[0] : rows[-1] + 1])
    opacity = np.where(_shrunk(bits, line), _TINT, _OUTLINE) * bits
    image.paste(colour, (left, int(rows[0])), Image.fromarray(opacity.astype(np.uint8)))


def _shrunk(bits: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """A mask without the pixels that lie at its edge, so many times."""
    for _ in range(steps):
        around = np.pad(bits, 1)
        bits = bits & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return bits
