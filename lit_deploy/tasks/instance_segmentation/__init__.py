"""Instance segmentation: detection with a mask for every box. The names are what ``tasks.protocol.Task`` asks for."""

from lit_deploy.tasks.dense.tensors import feed, input_specs, seeded
from lit_deploy.tasks.detection.agreement import agreement, difference, reference
from lit_deploy.tasks.detection.change import findings
from lit_deploy.tasks.detection.tensors import OUTPUTS, graph, pictures
from lit_deploy.tasks.instance_segmentation.drawing import drawn
from lit_deploy.tasks.instance_segmentation.predictions import FIELDS, predictions
from lit_deploy.tasks.instance_segmentation.tensors import output_specs

__all__ = [
    "FIELDS", "OUTPUTS", "agreement", "difference", "drawn", "feed", "findings", "graph", "input_specs", "output_specs",
    "pictures", "predictions", "reference", "seeded",
]  # fmt: skip
