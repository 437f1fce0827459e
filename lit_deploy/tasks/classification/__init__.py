"""Classification: one label an image. The names below are what ``tasks.protocol.Task`` asks for."""

from lit_deploy.tasks.classification.agreement import agreement, difference, reference
from lit_deploy.tasks.classification.change import findings
from lit_deploy.tasks.classification.drawing import drawn
from lit_deploy.tasks.classification.predictions import FIELDS, predictions
from lit_deploy.tasks.classification.tensors import OUTPUTS, feed, graph, input_specs, output_specs, pictures, seeded

__all__ = [
    "FIELDS", "OUTPUTS", "agreement", "difference", "drawn", "feed", "findings", "graph", "input_specs", "output_specs",
    "pictures", "predictions", "reference", "seeded",
]  # fmt: skip
