"""The table of evaluations: a task's is a file beside this one and a line here."""

from __future__ import annotations

from lit_deploy.core.specs import TaskName
from lit_deploy.evaluate.classification import ClassificationEvaluation
from lit_deploy.evaluate.detection import DetectionEvaluation
from lit_deploy.evaluate.instance_segmentation import InstanceSegmentationEvaluation
from lit_deploy.evaluate.protocol import Evaluation
from lit_deploy.evaluate.semantic_segmentation import SemanticSegmentationEvaluation

EVALUATIONS: dict[TaskName, type[Evaluation]] = {
    "classification": ClassificationEvaluation,
    "detection": DetectionEvaluation,
    "instance_segmentation": InstanceSegmentationEvaluation,
    "semantic_segmentation": SemanticSegmentationEvaluation,
}
