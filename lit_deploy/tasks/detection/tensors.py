"""What a detector takes and returns: boxes of the original picture, best first, filled up to a fixed number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import OutputKind, TensorSpec
from lit_deploy.images.keep_ratio import MAX_DETECTION_PIXELS
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.dense import tensors
from lit_deploy.tasks.dense.tensors import dense_of

if TYPE_CHECKING:
    from torch import nn

OUTPUTS: tuple[OutputKind, ...] = ("results",)


def output_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The outputs that a manifest promises, without layers."""
    most = dense_of(manifest).max_detections
    return (
        TensorSpec("boxes", "float32", (1, most, 4)),
        TensorSpec("scores", "float32", (1, most)),
        TensorSpec("labels", "int32", (1, most)),
        TensorSpec("num", "int32", (1,)),
    )


def graph(model: nn.Module, manifest: Manifest) -> nn.Module:
    """The network as a session."""
    return tensors.graph(model, manifest)


def pictures(images: Sequence[str | Path | bytes], manifest: Manifest) -> list[Picture]:
    """Pictures of files, resized by the rule in the manifest."""
    return tensors.pictures(images, manifest, MAX_DETECTION_PIXELS)
