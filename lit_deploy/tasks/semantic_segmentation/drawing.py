"""Classes of all pixels on a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.tasks.dense.lettering import Colour, with_legend
from lit_deploy.tasks.semantic_segmentation.predictions import Prediction

_OPACITY = 0.6
_LEAST = 0.001  # share of the picture that a class is named from on; stray pixels would fill pages


def drawn(prediction: Prediction, image: Image.Image, manifest: Manifest) -> Image.Image:
    """A picture under the colours of its classes, with the names of those that were asked for below it.

    Args:
        prediction: of the picture; ``manifest``: of the file that made it.
        image: RGB, turned as EXIF says; left as it is.

    Returns:
        A picture that is higher by the legend, and wider where a name needs it.
    """
    assert manifest.dense is not None
    colours = np.array(manifest.dense.palette, dtype=np.uint8)[prediction.label_map]
    blended = Image.blend(image, Image.fromarray(colours), _OPACITY)
    by_id = dict(zip(manifest.dense.category_ids, manifest.dense.palette, strict=True))
    named = [each for each in prediction.classes if each.share >= _LEAST]
    entries: list[tuple[Colour | None, str]] = [
        (by_id[each.category_id], f"{each.label} {each.share:.1%}") for each in named
    ]
    if len(named) < len(prediction.classes):
        entries.append((None, f"and {len(prediction.classes) - len(named)} below {_LEAST:.1%}"))
    return with_legend(blended, entries)
