"""What a segmentation network returns: a label, or the logits of all, for every pixel of the original picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import OutputKind, TensorSpec
from lit_deploy.images.keep_ratio import MAX_SEGMENTATION_PIXELS
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.dense import tensors

if TYPE_CHECKING:
    from torch import nn

OUTPUTS: tuple[OutputKind, ...] = ("results", "logits")


def output_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The outputs that a manifest promises, without layers."""
    if manifest.output == "logits":
        return (TensorSpec("logits", "float32", (1, manifest.model.num_classes, "rows", "columns")),)
    return (TensorSpec("labels", "uint8", (1, "rows", "columns")),)


def graph(model: nn.Module, manifest: Manifest) -> nn.Module:
    """The network as a session."""
    return tensors.graph(model, manifest, labels=manifest.output == "results")


def pictures(images: Sequence[str | Path | bytes], manifest: Manifest) -> list[Picture]:
    """Pictures of files, resized by the rule in the manifest."""
    return tensors.pictures(images, manifest, MAX_SEGMENTATION_PIXELS)
