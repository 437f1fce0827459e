"""What is known about a network from its checkpoint alone."""

from __future__ import annotations

from typing import Any

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.checkpoints.load import Checkpoint
from lit_deploy.core.specs import OP_VERSION, DenseSpec
from lit_deploy.images.categories import default_categories
from lit_deploy.images.labels import default_labels
from lit_deploy.models.families import FAMILIES, default_input


def manifest_from_checkpoint(checkpoint: Checkpoint, **fields: Any) -> Manifest:
    """Describe the network of a checkpoint; ``fields`` replace the defaults, which are fp32, and the usual output."""
    spec = checkpoint.spec
    task = FAMILIES[spec.family].task
    defaults: dict[str, Any] = {
        "task": task,
        "model": spec,
        "precision": "fp32",
        "batch": None,
        "portable": False,
        "layers": (),
        "source": checkpoint.name,
        "source_sha256": checkpoint.sha256,
        "op_version": OP_VERSION,
    }
    if task == "classification":
        labels = checkpoint.classes or default_labels(spec.num_classes)
        defaults |= {"input": default_input(spec), "output": "logits", "labels": labels}
    else:
        labels, dense = dense_defaults(checkpoint)
        # Attention is global and unmasked: a batch of pictures of several sizes would change their numbers.
        defaults |= {"input": default_input(spec, "uint8"), "output": "results", "labels": labels, "dense": dense}
        defaults["batch"] = 1
    return Manifest(**{**defaults, **fields})


def dense_defaults(checkpoint: Checkpoint) -> tuple[tuple[str, ...], DenseSpec]:
    """Names of the classes of a detector or segmentation network, and the official thresholds.

    Names and colours are those in the file; where it has none, those of the data set with as many classes. The data
    set's numbers are its own where the names are.
    """
    spec = checkpoint.spec
    family = FAMILIES[spec.family]
    known = default_categories(family.task, spec.num_classes)
    names = checkpoint.classes or known.labels
    ids = known.ids if names == known.labels else tuple(range(1, spec.num_classes + 1))
    palette = checkpoint.palette or known.palette
    return names, DenseSpec(category_ids=ids, palette=palette, mask_size=family.mask_size)
