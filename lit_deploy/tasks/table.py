"""The table of tasks: a new one is a package beside this file and a line here."""

from __future__ import annotations

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import TaskName
from lit_deploy.tasks import classification, detection, instance_segmentation, semantic_segmentation
from lit_deploy.tasks.protocol import Task

TASKS: dict[TaskName, Task] = {
    "classification": classification,
    "detection": detection,
    "instance_segmentation": instance_segmentation,
    "semantic_segmentation": semantic_segmentation,
}


def task_of(manifest: Manifest) -> Task:
    """The task of an exported file or checkpoint."""
    return TASKS[manifest.task]
