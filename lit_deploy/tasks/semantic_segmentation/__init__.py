"""Semantic segmentation: a label for every pixel. The names below are what ``tasks.protocol.Task`` asks for."""

from lit_deploy.tasks.dense.tensors import feed, input_specs, seeded
from lit_deploy.tasks.semantic_segmentation.agreement import agreement, difference, reference
from lit_deploy.tasks.semantic_segmentation.change import findings
from lit_deploy.tasks.semantic_segmentation.drawing import drawn
from lit_deploy.tasks.semantic_segmentation.predictions import FIELDS, predictions
from lit_deploy.tasks.semantic_segmentation.tensors import OUTPUTS, graph, output_specs, pictures

__all__ = [
    "FIELDS", "OUTPUTS", "agreement", "difference", "drawn", "feed", "findings", "graph", "input_specs", "output_specs",
    "pictures", "predictions", "reference", "seeded",
]  # fmt: skip
