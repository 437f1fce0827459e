"""The official state-dict layout as a function of the dimensions, and the dimensions as a function of the shapes.

Needs neither torch nor a checkpoint, so a listing or a size estimate costs nothing.
Source: official code at commit 742e961.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from lit_deploy.core.errors import CheckpointError, StateDictMismatch
from lit_deploy.core.specs import ModelSpec
from lit_deploy.core.text import shown_key
from lit_deploy.models.families import FAMILIES, PUBLISHED
from lit_deploy.models.families.family import Family
from lit_deploy.models.keys import COUNTER, INDEX, Shape, Votes, optional_key

T = TypeVar("T")


def state_entries(spec: ModelSpec) -> dict[str, Shape]:
    """Return every key of the official state dict and its shape, in official order.

    Index buffers and BatchNorm counters (int64) are included; everything else is float32.
    """
    return dict(FAMILIES[spec.family].entries(spec))


def parameter_count(spec: ModelSpec) -> int:
    """Count the trainable parameters; buffers do not count. Source: official code at commit 742e961."""
    buffers = ("running_mean", "running_var", COUNTER, INDEX)
    return sum(math.prod(shape) for key, shape in state_entries(spec).items() if not key.endswith(buffers))


def input_size(spec: ModelSpec) -> tuple[int, int]:
    """Height and width in pixels that ``mac_count`` counts for: the network's own, or, where it takes any, those of an
    ordinary picture."""
    return FAMILIES[spec.family].input_size or spec.image_size


def mac_count(spec: ModelSpec) -> int:
    """Count the multiply-accumulates of one image: convolutions, matrix products and attention.

    Of an image of ``input_size``.

    Bias, norms, GELU, softmax and bilinear sampling are left out, as in the paper.
    Source: official code at commit 742e961.
    """
    dims, family = spec.embed_dims, FAMILIES[spec.family]
    height, width = (side // spec.patch_size for side in input_size(spec))
    maps = [(height >> stage, width >> stage) for stage in range(4)]
    total = math.prod(maps[0]) * dims[0] * spec.in_channels * spec.patch_size**2
    for stage, (dim, depth, ratio) in enumerate(zip(dims, spec.depths, spec.mlp_ratios, strict=True)):
        tokens = math.prod(maps[stage]) + family.further_tokens(stage)
        block = tokens * 2 * ratio * dim**2
        if stage >= 2:
            block += tokens * 4 * dim**2 + 2 * tokens**2 * dim
        total += depth * block
        if stage < spec.mergings:
            total += math.prod(maps[stage + 1]) * 4 * dim * (dims[stage + 1] + 8)
    return total + family.head_macs(spec, maps)


def check_keys(shapes: Mapping[str, Shape], spec: ModelSpec) -> None:
    """Raise StateDictMismatch, with the full listing, unless ``shapes`` are exactly the network's.

    Counters and index buffers may be absent; counters may have any shape.
    """
    expected = state_entries(spec)
    missing = tuple(key for key in expected if key not in shapes and not optional_key(key))
    unexpected = tuple(key for key in shapes if key not in expected)
    misshapen = tuple(
        (key, tuple(shapes[key]), shape)
        for key, shape in expected.items()
        if key in shapes and tuple(shapes[key]) != shape and not key.endswith(COUNTER)
    )
    if missing or unexpected or misshapen:
        parts = [
            f"{len(items)} {what} ({', '.join(map(shown_key, items[:3]))}{', ...' if len(items) > 3 else ''})"
            for what, items in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", tuple(f"{key} {got} instead of {want}" for key, got, want in misshapen)),
            )
            if items
        ]
        title = spec.name if spec.name != "custom" else f"this {spec.family} network"
        raise StateDictMismatch(
            f"the keys are not those of {title}: {'; '.join(parts)}; pass an unmodified LIT checkpoint",
            missing,
            unexpected,
            misshapen,
        )


def _dim(votes: Votes, family: Family, stage: int, blocks: list[str]) -> int:
    """Channels of a stage."""
    places = [(prefix + "norm2.weight", 1, 0) for prefix in blocks]
    if stage:
        prefix, layer, norm = family.merge_prefix(stage - 1), "dconv.", "norm_layer."
    else:
        prefix, layer, norm = family.patch_prefix, "proj.", "norm."
    places += [(prefix + layer + "weight", 4, 0), (prefix + layer + "bias", 1, 0), (prefix + norm + "weight", 1, 0)]
    return votes.size(f"width of stage {stage + 1}", *places)


def _image_size(first_map: tuple[int, int], patch: int) -> tuple[int, int]:
    """Input height and width in pixels, from those of stage 1 in tokens."""
    height, width = first_map
    if min(height, width) < 8:
        raise CheckpointError(
            f"the map of stage 1 is {height}x{width} tokens, expected at least 8x8 for three mergings; "
            "train with a larger image"
        )
    return height * patch, width * patch


def _four(function: Callable[[int], T]) -> tuple[T, T, T, T]:
    return function(0), function(1), function(2), function(3)


def spec_from_shapes(shapes: Mapping[str, Shape], stage3_column: Sequence[int] | None = None) -> ModelSpec:
    """Tell the network from the shapes of its state dict; any depth, width, class count and image size.

    Args:
        shapes: official keys (no ``module.`` prefix) and shapes; need not be complete or consistent.
        stage3_column: first column of the first ``relative_position_index`` of stage 3; only needed for
            LIT-S/M/B on non-square images, whose orientation the shapes do not tell.

    Returns:
        The spec; ``name`` is official when only class count and image size may differ from an official model.
        ``check_keys`` tells whether every key fits it.

    Raises:
        CheckpointError: a dimension that no LIT network has.
        StateDictMismatch: the keys that tell a dimension are missing.
    """
    *others, last = FAMILIES.values()
    family = next((family for family in others if family.recognises(shapes)), last)
    votes = Votes(shapes)
    blocks = _four(lambda stage: votes.numbered(family.stage_prefix(stage)))
    proj = family.patch_prefix + "proj.weight"
    patch = votes.size("patch size", (proj, 4, 2), (proj, 4, 3))
    dims = _four(lambda stage: _dim(votes, family, stage, blocks[stage]))
    spec = ModelSpec(
        name="custom",
        family=family.name,
        embed_dims=dims,
        depths=_four(lambda stage: len(blocks[stage])),
        num_heads=(family.num_heads(votes, 2, dims[2]), family.num_heads(votes, 3, dims[3])),
        mlp_ratios=_four(lambda stage: votes.mlp_ratio(stage, dims[stage], blocks[stage])),
        image_size=_image_size(family.first_map(votes, stage3_column), patch),
        in_channels=votes.size("number of image channels", (proj, 4, 1)),
        patch_size=patch,
        **family.head_sizes(votes),
    )
    for official in PUBLISHED.values():
        named = replace(spec, name=official.spec.name)
        if named == replace(official.spec, image_size=spec.image_size, num_classes=spec.num_classes):
            return named
    return spec
