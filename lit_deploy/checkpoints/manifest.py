"""What is known about a network from its checkpoint alone."""

from __future__ import annotations

from typing import Any

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.checkpoints.load import Checkpoint
from lit_deploy.core.specs import OP_VERSION
from lit_deploy.images.labels import default_labels
from lit_deploy.models.families import FAMILIES, default_input


def manifest_from_checkpoint(checkpoint: Checkpoint, **fields: Any) -> Manifest:
    """Describe the network of a checkpoint; ``fields`` replace the defaults (float input, fp32, logits)."""
    spec = checkpoint.spec
    defaults: dict[str, Any] = {
        "task": FAMILIES[spec.family].task,
        "model": spec,
        "input": default_input(spec),
        "output": "logits",
        "labels": checkpoint.classes or default_labels(spec.num_classes),
        "precision": "fp32",
        "batch": None,
        "portable": False,
        "layers": (),
        "source": checkpoint.path.name,
        "source_sha256": checkpoint.sha256,
        "op_version": OP_VERSION,
    }
    return Manifest(**{**defaults, **fields})
