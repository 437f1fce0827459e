"""Classification: one label an image. The names below are what ``tasks.protocol.Task`` asks for."""

from lit_deploy.tasks.classification.agreement import agreement, difference
from lit_deploy.tasks.classification.predictions import predictions
from lit_deploy.tasks.classification.tensors import feed, graph_outputs, input_specs, output_specs, prepare

__all__ = [
    "agreement", "difference", "feed", "graph_outputs", "input_specs", "output_specs", "predictions", "prepare",
]  # fmt: skip
