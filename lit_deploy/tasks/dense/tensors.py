"""What detectors and segmentation networks take: one picture, resized and not padded, and its original size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_deploy.core.specs import IMAGE, ORIGINAL_SIZE, DenseSpec, TensorSpec
from lit_deploy.images.keep_ratio import keep_ratio_picture
from lit_deploy.images.picture import Picture
from lit_deploy.images.synthetic import DEFAULT_SEED, synthetic_image
from lit_deploy.tasks.arrays import Arrays

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lit_deploy.artifacts.manifest import Manifest

SEEDED_SIZES = ((147, 201), (160, 96), (96, 288))
"""Heights and widths in pixels of the pictures that a file of any size is verified with: odd, tall and wide."""


def input_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The inputs that a manifest promises."""
    spec = manifest.input
    height, width = spec.height or "height", spec.width or "width"
    original = TensorSpec(ORIGINAL_SIZE, "int64", (2,))
    if spec.kind == "uint8":
        return (TensorSpec(IMAGE, "uint8", (1, height, width, 3)), original)
    return (TensorSpec(IMAGE, "float32", (1, 3, height, width)), original)


def dense_of(manifest: Manifest) -> DenseSpec:
    """How the results come about; every manifest of these tasks says so."""
    assert manifest.dense is not None
    return manifest.dense


def pictures(images: Sequence[str | Path | bytes], manifest: Manifest, max_pixels: int) -> list[Picture]:
    """Decoded and resized pictures of files, by the rule in the manifest.

    Args:
        images: files, or their bytes.
        max_pixels: largest width x height of a picture.
    """
    return [keep_ratio_picture(image, manifest.input, max_pixels=max_pixels) for image in images]


def seeded(manifest: Manifest, size: tuple[int, int] | None = None) -> list[Picture]:
    """Synthetic pictures, of a size, of the file's own, or of several; their originals are of other proportions.

    Args:
        size: height and width in pixels, for a file that takes any.
    """
    spec = manifest.input
    fixed = (spec.height, spec.width) if spec.height and spec.width else size
    sizes = SEEDED_SIZES if fixed is None else (fixed,) * 2
    return [
        Picture(synthetic_image(DEFAULT_SEED, f"picture:{index}", *size), (size[0] * 2 // 3 + 1, size[1] * 3 // 5 + 1))
        for index, size in enumerate(sizes)
    ]


def feed(pictures: Sequence[Picture], manifest: Manifest) -> Arrays:
    """What a session takes, of one picture."""
    (picture,) = pictures
    original = np.array(picture.original_size, dtype=np.int64)
    if manifest.input.kind == "uint8":
        return {IMAGE: picture.pixels[None], ORIGINAL_SIZE: original}
    return {IMAGE: normalised(picture.pixels, manifest), ORIGINAL_SIZE: original}


def normalised(pixels: Any, manifest: Manifest) -> Any:
    """``(pixel - mean) / std`` on the scale 0..255, float32 ``[1, 3, H, W]``, of uint8 ``[H, W, 3]``."""
    mean, factor = _normalisation(manifest)
    scaled = (pixels.astype(np.float32) - np.array(mean, np.float32)) * np.array(factor, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _normalisation(manifest: Manifest) -> tuple[list[float], list[float]]:
    """What is subtracted from pixels of 0..255, and what they are multiplied with then."""
    spec = manifest.input
    return [255 * mean for mean in spec.mean], [1 / (255 * std) for std in spec.std]


def graph(model: nn.Module, manifest: Manifest, **options: Any) -> nn.Module:
    """A network as a session: from what ``input_specs`` say to what ``output_specs`` of the task say.

    Args:
        model: a detector or segmentation network; ``options``: of its ``forward``.
    """
    import torch

    # Only the numbers: colours and category ids have no part in it.
    spec = replace(dense_of(manifest), category_ids=(), palette=())
    raw = manifest.input.kind == "uint8"
    mean, factor = (torch.tensor(values).view(1, 3, 1, 1) for values in _normalisation(manifest))

    class DenseGraph(torch.nn.Module):
        mean: Tensor
        factor: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("mean", mean, persistent=False)
            self.register_buffer("factor", factor, persistent=False)

        def forward(self, image: Tensor, original_size: Tensor) -> tuple[Tensor, ...]:
            if raw:
                # to float first: TensorRT does nothing else with bytes
                image = (image.float().permute(0, 3, 1, 2) - self.mean) * self.factor
            found: tuple[Tensor, ...] = self.model(image, original_size, spec, **options)
            return found

    return DenseGraph().eval()
