"""The official state-dict layout as a function of the dimensions, and the dimensions as a function of the shapes.

Needs neither torch nor a checkpoint, so a listing or a size estimate costs nothing.
Source: official code at commit 742e961.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lit_deploy.errors import CheckpointError, StateDictMismatch
from lit_deploy.specs import Family, ModelSpec

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, ...]

INDEX = "attn.relative_position_index"
COUNTER = "num_batches_tracked"
TABLE = "attn.relative_position_bias_table"

OFFICIAL_SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("lit_ti", "lit_ti", (64, 128, 320, 512), (3, 4, 6, 3), (5, 8), (8, 8, 4, 4)),
        ModelSpec("lit_s", "lit", (96, 192, 384, 768), (2, 2, 6, 2), (12, 24), (4, 4, 4, 4)),
        ModelSpec("lit_m", "lit", (96, 192, 384, 768), (2, 2, 18, 2), (12, 24), (4, 4, 4, 4)),
        ModelSpec("lit_b", "lit", (128, 256, 512, 1024), (2, 2, 18, 2), (16, 32), (4, 4, 4, 4)),
    )
}
"""The four published classification networks by name."""

LIT_TI_HEAD_DIM = 64  # LIT-Ti stores nothing that tells its heads; both official stages are 64 channels per head


def optional_key(key: str) -> bool:
    """Tell whether a key carries no weight: counters, and the index that follows from the map size."""
    return key.endswith((COUNTER, INDEX))


def block_prefix(family: Family, stage: int, block: int) -> str:
    """Key prefix of a block; ``stage`` 0..3."""
    return f"layers.{stage}.blocks.{block}." if family == "lit" else f"block{stage + 1}.{block}."


def merge_prefix(family: Family, stage: int) -> str:
    """Key prefix of the merging behind ``stage`` 0..2."""
    return f"layers.{stage}.downsample." if family == "lit" else f"patch_embed{stage + 2}."


def patch_prefix(family: Family) -> str:
    """Key prefix of the patch embedding."""
    return "patch_embed." if family == "lit" else "patch_embed1."


def _pair(prefix: str, *weight: int) -> Iterator[tuple[str, Shape]]:
    yield prefix + "weight", weight
    yield prefix + "bias", weight[:1]


def _merge_entries(spec: ModelSpec, stage: int) -> Iterator[tuple[str, Shape]]:
    prefix, dim, out = merge_prefix(spec.family, stage), spec.embed_dims[stage], spec.embed_dims[stage + 1]
    yield from _pair(prefix + "dconv.", out, dim, 2, 2)
    yield from _pair(prefix + "dconv.conv_offset.", 8, dim, 2, 2)
    yield from _pair(prefix + "norm_layer.", out)
    yield prefix + "norm_layer.running_mean", (out,)
    yield prefix + "norm_layer.running_var", (out,)
    yield prefix + "norm_layer." + COUNTER, ()


def _block_entries(spec: ModelSpec, stage: int) -> Iterator[tuple[str, Shape]]:
    dim, hidden = spec.embed_dims[stage], spec.embed_dims[stage] * spec.mlp_ratios[stage]
    height, width = spec.map_sizes[stage]
    for block in range(spec.depths[stage]):
        prefix = block_prefix(spec.family, stage, block)
        if stage >= 2:
            yield from _pair(prefix + "norm1.", dim)
            if spec.family == "lit":
                yield prefix + TABLE, ((2 * height - 1) * (2 * width - 1), spec.num_heads[stage - 2])
                yield prefix + INDEX, (height * width, height * width)
            yield from _pair(prefix + "attn.qkv.", 3 * dim, dim)
            yield from _pair(prefix + "attn.proj.", dim, dim)
        yield from _pair(prefix + "norm2.", dim)
        yield from _pair(prefix + "mlp.fc1.", hidden, dim)
        yield from _pair(prefix + "mlp.fc2.", dim, hidden)


def _entries(spec: ModelSpec) -> Iterator[tuple[str, Shape]]:
    dims = spec.embed_dims
    if spec.family == "lit_ti":
        for stage in range(4):
            yield f"pos_embed{stage + 1}", (1, math.prod(spec.map_sizes[stage]) + (stage == 3), dims[stage])
        yield "cls_token", (1, 1, dims[3])
    patch = patch_prefix(spec.family)
    yield from _pair(patch + "proj.", dims[0], spec.in_channels, spec.patch_size, spec.patch_size)
    yield from _pair(patch + "norm.", dims[0])
    if spec.family == "lit_ti":
        for stage in range(3):
            yield from _merge_entries(spec, stage)
    for stage in range(4):
        yield from _block_entries(spec, stage)
        if spec.family == "lit" and stage < 3:
            yield from _merge_entries(spec, stage)
    yield from _pair("norm.", dims[3])
    yield from _pair("head.", spec.num_classes, dims[3])


def state_entries(spec: ModelSpec) -> dict[str, Shape]:
    """Return every key of the official state dict and its shape, in official order.

    Index buffers and BatchNorm counters (int64) are included; everything else is float32.
    """
    return dict(_entries(spec))


def relative_position_index(height: int, width: int) -> np.ndarray:
    """Return the int64 ``[H*W, H*W]`` buffer that official LIT-S/M/B files store in every attention block.

    Entry (query a, key b) is ``(ra - rb + H - 1) * (2W - 1) + (ca - cb + W - 1)``.
    Source: official code at commit 742e961.
    """
    import numpy as np

    row, col = np.divmod(np.arange(height * width, dtype=np.int64), width)
    index: np.ndarray = (row[:, None] - row + height - 1) * (2 * width - 1) + (col[:, None] - col + width - 1)
    return index


def parameter_count(spec: ModelSpec) -> int:
    """Count the trainable parameters; buffers do not count. Source: official code at commit 742e961."""
    buffers = ("running_mean", "running_var", COUNTER, INDEX)
    return sum(math.prod(shape) for key, shape in _entries(spec) if not key.endswith(buffers))


def mac_count(spec: ModelSpec) -> int:
    """Count the multiply-accumulates of one image: convolutions, matrix products and attention.

    Bias, norms, GELU, softmax and bilinear sampling are left out, as in the paper.
    Source: official code at commit 742e961.
    """
    dims = spec.embed_dims
    total = math.prod(spec.map_sizes[0]) * dims[0] * spec.in_channels * spec.patch_size**2
    for stage, (dim, depth, ratio) in enumerate(zip(dims, spec.depths, spec.mlp_ratios, strict=True)):
        tokens = math.prod(spec.map_sizes[stage]) + (spec.family == "lit_ti" and stage == 3)
        block = tokens * 2 * ratio * dim**2
        if stage >= 2:
            block += tokens * 4 * dim**2 + 2 * tokens**2 * dim
        total += depth * block
        if stage < 3:
            total += math.prod(spec.map_sizes[stage + 1]) * 4 * dim * (dims[stage + 1] + 8)
    return total + spec.num_classes * dims[3]


def shown(key: str) -> str:
    """Make a key from a file fit for one line of text: no control characters, at most 120 characters."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in key[:121])
    return clean if len(clean) <= 120 else clean[:117] + "..."


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
            f"{len(items)} {what} ({', '.join(map(shown, items[:3]))}{', ...' if len(items) > 3 else ''})"
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


class _Votes:
    """Reads one dimension from many keys by majority, so that one wrong tensor is blamed and not all the others."""

    def __init__(self, shapes: Mapping[str, Shape], family: Family) -> None:
        self.shapes = shapes
        self.family = family

    def blocks(self, stage: int) -> list[str]:
        """Prefixes of the blocks of a stage; counting them gives the depth, so a forged number cannot inflate it."""
        start = block_prefix(self.family, stage, 0)[: -len("0.")]
        numbers = (key[len(start) :].partition(".")[0] for key in self.shapes if key.startswith(start))
        return [f"{start}{number}." for number in dict.fromkeys(numbers) if number.isdecimal()]

    def size(self, what: str, *places: tuple[str, int, int]) -> int:
        """Most common size at these ``(key, rank, axis)`` places; StateDictMismatch where there is none."""
        found = [self.shapes[key][axis] for key, rank, axis in places if len(self.shapes.get(key, ())) == rank]
        votes = Counter(size for size in found if size > 0)
        if votes:
            return votes.most_common(1)[0][0]
        raise StateDictMismatch(
            f"the {what} cannot be told because {places[0][0] if places else 'every block of its stage'} is missing "
            "or has an unusable shape; pass an unmodified LIT checkpoint",
            missing=tuple(key for key, _, _ in places if key not in self.shapes),
        )

    def dim(self, stage: int) -> int:
        """Channels of a stage."""
        places = [(prefix + "norm2.weight", 1, 0) for prefix in self.blocks(stage)]
        if stage:
            prefix, layer, norm = merge_prefix(self.family, stage - 1), "dconv.", "norm_layer."
        else:
            prefix, layer, norm = patch_prefix(self.family), "proj.", "norm."
        places += [(prefix + layer + "weight", 4, 0), (prefix + layer + "bias", 1, 0), (prefix + norm + "weight", 1, 0)]
        return self.size(f"width of stage {stage + 1}", *places)

    def mlp_ratio(self, stage: int, dim: int) -> int:
        """Hidden width of the MLPs of a stage over its channels."""
        layers = (("fc1.weight", 2, 0), ("fc1.bias", 1, 0), ("fc2.weight", 2, 1))
        places = [(f"{prefix}mlp.{key}", rank, axis) for prefix in self.blocks(stage) for key, rank, axis in layers]
        hidden = self.size(f"MLP width of stage {stage + 1}", *places)
        if hidden % dim:
            raise CheckpointError(
                f"the MLP of stage {stage + 1} is {hidden} wide, expected a multiple of its {dim} channels; "
                "such a network is not a LIT classifier"
            )
        return hidden // dim

    def heads(self, stage: int, dim: int) -> int:
        """Attention heads of stage 2 or 3 (counted from 0)."""
        if self.family == "lit_ti":
            heads, rest = divmod(dim, LIT_TI_HEAD_DIM)
            if rest:
                raise CheckpointError(
                    f"stage {stage + 1} has {dim} channels, expected a multiple of {LIT_TI_HEAD_DIM} because LIT-Ti "
                    f"attends with {LIT_TI_HEAD_DIM} channels per head; retrain with such a width"
                )
            return heads
        heads = self.size(f"heads of stage {stage + 1}", *((p + TABLE, 2, 1) for p in self.blocks(stage)))
        if dim % heads:
            raise CheckpointError(
                f"stage {stage + 1} has {heads} attention heads, expected a divisor of its {dim} channels; "
                "the bias tables of this checkpoint are damaged"
            )
        return heads

    def stage3_map(self, first_column: Sequence[int] | None) -> tuple[int, int]:
        """Height and width in tokens of stage 3, from the bias tables and index buffers of LIT-S/M/B."""
        prefixes = self.blocks(2)
        rows = self.size("map size of stage 3", *((prefix + TABLE, 2, 0) for prefix in prefixes))
        side = (math.isqrt(rows) + 1) // 2
        index = [(prefix + INDEX, 2, axis) for prefix in prefixes for axis in (0, 1)]
        tokens = side * side
        if any(len(self.shapes.get(key, ())) == 2 for key, _, _ in index):
            tokens = self.size("map size of stage 3", *index)
        if (2 * side - 1) ** 2 == rows and tokens == side * side:
            return side, side
        # rows = (2H - 1)(2W - 1) and tokens = HW give H + W; H and W are the roots of z^2 - (H + W) z + HW
        total, odd = divmod(4 * tokens + 1 - rows, 2)
        root = math.isqrt(max(total * total - 4 * tokens, 0))
        low, high = (total - root) // 2, (total + root) // 2
        if odd or low < 1 or low * high != tokens or (2 * low - 1) * (2 * high - 1) != rows:
            raise CheckpointError(
                f"the bias table of stage 3 has {rows} rows and its index {tokens} tokens, expected "
                "(2H-1)*(2W-1) rows and H*W tokens of one map; the checkpoint is damaged or not a LIT classifier"
            )
        if first_column is None:
            raise CheckpointError(
                f"stage 3 attends over {tokens} tokens, a {low}x{high} or a {high}x{low} map, expected the "
                "relative_position_index values that tell which; keep these buffers in the checkpoint"
            )
        # going down column 0 of the index (one query after the other) the value rises by 1 until the map's row ends
        width = next((k for k, value in enumerate(first_column) if value != first_column[0] + k), tokens)
        return (low, high) if width == high else (high, low)

    def image_size(self, patch: int, first_column: Sequence[int] | None) -> tuple[int, int]:
        """Input height and width in pixels.

        LIT-Ti stores the map of stage 1. LIT-S/M/B store that of stage 3: the smallest image that leads to it is meant.
        """
        if self.family == "lit":
            height, width = (4 * side for side in self.stage3_map(first_column))
        else:
            tokens = self.size("map size of stage 1", ("pos_embed1", 3, 1))
            height = width = math.isqrt(tokens)
            if height * width != tokens:
                raise CheckpointError(
                    f"pos_embed1 holds {tokens} positions, expected a square number because a LIT-Ti checkpoint does "
                    "not tell height from width; only square inputs can be exported"
                )
        if min(height, width) < 8:
            raise CheckpointError(
                f"the map of stage 1 is {height}x{width} tokens, expected at least 8x8 for three mergings; "
                "train with a larger image"
            )
        return height * patch, width * patch


def _four(function: Callable[[int], int]) -> tuple[int, int, int, int]:
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
    lit_ti = any(key.startswith(("block1.", "patch_embed1.", "pos_embed")) for key in shapes)
    family: Family = "lit_ti" if lit_ti else "lit"
    votes = _Votes(shapes, family)
    proj = patch_prefix(family) + "proj.weight"
    patch = votes.size("patch size", (proj, 4, 2), (proj, 4, 3))
    dims = _four(votes.dim)
    spec = ModelSpec(
        name="custom",
        family=family,
        embed_dims=dims,
        depths=_four(lambda stage: len(votes.blocks(stage))),
        num_heads=(votes.heads(2, dims[2]), votes.heads(3, dims[3])),
        mlp_ratios=_four(lambda stage: votes.mlp_ratio(stage, dims[stage])),
        image_size=votes.image_size(patch, stage3_column),
        num_classes=votes.size("number of classes", ("head.weight", 2, 0), ("head.bias", 1, 0)),
        in_channels=votes.size("number of image channels", (proj, 4, 1)),
        patch_size=patch,
    )
    for official in OFFICIAL_SPECS.values():
        named = replace(spec, name=official.name)
        if named == replace(official, image_size=spec.image_size, num_classes=spec.num_classes):
            return named
    return spec
