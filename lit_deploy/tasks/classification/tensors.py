"""What a classifier takes and returns.

Three forms of the output: ``logits`` or ``probabilities`` ``[batch, classes]``, and ``top5``, which is ``scores``
(probabilities) and ``classes`` (indices) ``[batch, 5]`` of the best classes, best first; fewer where there are fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import BEST_CLASSES, IMAGES, OutputKind, TensorSpec
from lit_deploy.images.preprocessing import batch_from_images
from lit_deploy.tasks.protocol import Arrays

if TYPE_CHECKING:
    from torch import Tensor


def input_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The input that a manifest promises."""
    spec, batch, channels = manifest.input, manifest.batch or "batch", manifest.model.in_channels
    if spec.kind == "uint8":
        return (TensorSpec(IMAGES, "uint8", (batch, spec.height, spec.width, channels)),)
    return (TensorSpec(IMAGES, "float32", (batch, channels, spec.height, spec.width)),)


def output_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The outputs that a manifest promises, without layers."""
    batch, classes = manifest.batch or "batch", manifest.model.num_classes
    if manifest.output == "top5":
        best = min(BEST_CLASSES, classes)
        return (TensorSpec("scores", "float32", (batch, best)), TensorSpec("classes", "int64", (batch, best)))
    return (TensorSpec(manifest.output, "float32", (batch, classes)),)


def graph_outputs(features: Tensor, output: OutputKind) -> tuple[Tensor, ...]:
    """What the graph returns, of float32 logits ``[batch, classes]``."""
    if output == "logits":
        return (features,)
    probabilities = features.softmax(dim=-1)
    if output == "probabilities":
        return (probabilities,)
    return tuple(probabilities.topk(min(BEST_CLASSES, features.shape[-1])))


def feed(images: NDArray[Any]) -> Arrays:
    """What a session takes, of a batch in its layout."""
    return {IMAGES: images}


def prepare(images: Sequence[str | Path | bytes], manifest: Manifest) -> NDArray[Any]:
    """A batch of image files: resized, then cut from the centre; see ``images.preprocessing``."""
    return batch_from_images(images, manifest.input)
