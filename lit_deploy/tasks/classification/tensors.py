"""What a classifier takes and returns.

Forms of the output: ``logits`` or ``probabilities`` ``[batch, classes]``; ``top5``, which is ``scores``
(probabilities) and ``classes`` (indices) ``[batch, 5]`` of the best classes, best first, fewer where there are fewer;
and ``features`` ``[batch, channels of stage 4]``, the pooled vectors before the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import BEST_CLASSES, IMAGES, OutputKind, TensorSpec
from lit_deploy.images.picture import Picture
from lit_deploy.images.preprocessing import crops_from_images, normalize
from lit_deploy.images.synthetic import DEFAULT_SEED, synthetic_image
from lit_deploy.tasks.arrays import Arrays

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUTS: tuple[OutputKind, ...] = ("logits", "probabilities", "top5", "features")
SEEDED = 8


def input_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The input that a manifest promises."""
    spec, batch, channels = manifest.input, manifest.batch or "batch", manifest.model.in_channels
    if spec.kind == "uint8":
        return (TensorSpec(IMAGES, "uint8", (batch, *spec.crop, channels)),)
    return (TensorSpec(IMAGES, "float32", (batch, channels, *spec.crop)),)


def output_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The outputs that a manifest promises, without layers."""
    batch, classes = manifest.batch or "batch", manifest.model.num_classes
    if manifest.output == "top5":
        best = min(BEST_CLASSES, classes)
        return (TensorSpec("scores", "float32", (batch, best)), TensorSpec("classes", "int64", (batch, best)))
    length = manifest.model.features if manifest.output == "features" else classes
    return (TensorSpec(manifest.output, "float32", (batch, length)),)


def graph(model: nn.Module, manifest: Manifest) -> nn.Module:
    """The network as a session: its logits, or what they are made of, in the form that the manifest names."""
    import torch

    output = manifest.output
    pooled: Callable[[Tensor], Tensor] = model.features  # type: ignore[assignment]

    class ClassificationGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            if output == "features":
                return (pooled(images).float(),)
            logits: Tensor = self.model(images).float()
            if output == "logits":
                return (logits,)
            probabilities = logits.softmax(dim=-1)
            if output == "probabilities":
                return (probabilities,)
            return tuple(probabilities.topk(min(BEST_CLASSES, logits.shape[-1])))

    return ClassificationGraph().eval()


def pictures(images: Sequence[str | Path | bytes], manifest: Manifest) -> list[Picture]:
    """Image files, resized, then cut from the centre; see ``images.preprocessing``."""
    return crops_from_images(images, manifest.input)


def seeded(manifest: Manifest, size: tuple[int, int] | None = None) -> list[Picture]:
    """Eight synthetic crops; ``size`` says nothing, as a classifier has its own."""
    crop = manifest.input.crop
    return [Picture(synthetic_image(DEFAULT_SEED, f"verify:{index}", *crop), crop) for index in range(SEEDED)]


def feed(pictures: Sequence[Picture], manifest: Manifest) -> Arrays:
    """What a session takes, of a batch."""
    pixels = np.stack([picture.pixels for picture in pictures])
    return {IMAGES: pixels if manifest.input.kind == "uint8" else normalize(pixels, manifest.input)}
