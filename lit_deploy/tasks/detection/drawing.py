"""Boxes on a picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.tasks.dense.lettering import Colour, outlined_box, style_for, tag
from lit_deploy.tasks.detection.predictions import Detection, Prediction


def drawn(prediction: Prediction, image: Image.Image, manifest: Manifest) -> Image.Image:
    """A picture with the boxes, names and scores of what was found in it; the best lie on top.

    Args:
        prediction: of the picture; ``manifest``: of the file that made it.
        image: RGB, turned as EXIF says; left as it is.
    """
    result = image.copy()
    draw_boxes(result, prediction.detections, manifest)
    return result


def draw_boxes(image: Image.Image, found: Sequence[Detection], manifest: Manifest) -> None:
    """Draw boxes with names and scores into a picture."""
    style, draw = style_for(image.width, image.height), ImageDraw.Draw(image)
    colours = colours_of(manifest)
    corners = [(x, y, x + width, y + height) for x, y, width, height in (each.bbox for each in found)]
    # Words after all boxes: no line crosses them.
    for each, box in reversed(list(zip(found, corners, strict=True))):
        outlined_box(draw, box, colours[each.category_id], style.line)
    for each, box in reversed(list(zip(found, corners, strict=True))):
        tag(draw, style, f"{each.label} {each.score:.2f}", (box[0], box[1]), colours[each.category_id])


def colours_of(manifest: Manifest) -> dict[int, Colour]:
    """The colour of every category id."""
    assert manifest.dense is not None
    return dict(zip(manifest.dense.category_ids, manifest.dense.palette, strict=True))
