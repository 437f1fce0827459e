"""Detection: labelled boxes in a picture. The names below are what ``tasks.protocol.Task`` asks for."""

from lit_deploy.tasks.dense.tensors import feed, input_specs, seeded
from lit_deploy.tasks.detection.agreement import agreement, difference, reference
from lit_deploy.tasks.detection.change import findings
from lit_deploy.tasks.detection.drawing import drawn
from lit_deploy.tasks.detection.predictions import FIELDS, predictions
from lit_deploy.tasks.detection.tensors import OUTPUTS, graph, output_specs, pictures

__all__ = [
    "FIELDS", "OUTPUTS", "agreement", "difference", "drawn", "feed", "findings", "graph", "input_specs", "output_specs",
    "pictures", "predictions", "reference", "seeded",
]  # fmt: skip
