"""Classes on a picture."""

from __future__ import annotations

from PIL import Image

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.tasks.classification.predictions import Prediction
from lit_deploy.tasks.dense.lettering import with_legend


def drawn(prediction: Prediction, image: Image.Image, manifest: Manifest) -> Image.Image:
    """A picture with the names and probabilities of its classes below it.

    Args:
        prediction: of the picture; ``manifest``: of the file that made it.
        image: RGB; left as it is.
    """
    found = zip(prediction.labels, prediction.probabilities, strict=True)
    return with_legend(image, [(None, f"{label} {probability:.1%}") for label, probability in found])
