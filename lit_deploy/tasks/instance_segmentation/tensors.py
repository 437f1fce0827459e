"""What an instance segmentation network returns: a detector's outputs, and a mask inside every box."""

from __future__ import annotations

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import TensorSpec
from lit_deploy.tasks.dense.tensors import dense_of
from lit_deploy.tasks.detection import tensors


def output_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The outputs that a manifest promises, without layers."""
    spec = dense_of(manifest)
    masks = TensorSpec("masks", "float32", (1, spec.max_detections, spec.mask_size, spec.mask_size))
    return (*tensors.output_specs(manifest), masks)
