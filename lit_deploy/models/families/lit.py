"""The record of LIT-S, LIT-M and LIT-B: module tree ``layers.{i}.blocks.{j}``, relative position bias, mean pooling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.families.family import Family, Published
from lit_deploy.models.keys import (
    INDEX,
    TABLE,
    Entry,
    Votes,
    attention_entries,
    linear_entries,
    merge_entries,
    mlp_entries,
)

if TYPE_CHECKING:
    from torch import nn

_RELEASE = "https://github.com/ziplab/LIT/releases/download/v1.0"


def _spec(name: str, width: int, depths: tuple[int, int, int, int]) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="lit",
        embed_dims=(width, 2 * width, 4 * width, 8 * width),
        depths=depths,
        num_heads=(width // 8, width // 4),
        mlp_ratios=(4, 4, 4, 4),
    )


class Lit(Family):
    name = "lit"
    title = "LIT"
    task = "classification"
    marks = ("layers.", "patch_embed.")
    unquantised = ("patch_embed.proj", "head")
    published: Mapping[str, Published] = {
        "lit_s": Published(_spec("lit_s", 96, (2, 2, 6, 2)), "LIT-S", {"top-1": 81.5}, f"{_RELEASE}/lit_s.pth"),
        "lit_m": Published(_spec("lit_m", 96, (2, 2, 18, 2)), "LIT-M", {"top-1": 83.0}, f"{_RELEASE}/lit_m.pth"),
        "lit_b": Published(
            _spec("lit_b", 128, (2, 2, 18, 2)), "LIT-B", {"top-1": 83.366, "top-5": 96.254}, f"{_RELEASE}/lit_b.pth"
        ),
    }

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.patch_prefix = prefix + "patch_embed."

    def stage_prefix(self, stage: int) -> str:
        return f"{self.prefix}layers.{stage}.blocks."

    def merge_prefix(self, stage: int) -> str:
        return f"{self.prefix}layers.{stage}.downsample."

    def entries(self, spec: ModelSpec) -> Iterator[Entry]:
        yield from self.body(spec, index=True)
        yield from linear_entries("norm.", spec.embed_dims[3])
        yield from linear_entries("head.", spec.num_classes, spec.embed_dims[3])

    def body(self, spec: ModelSpec, *, index: bool) -> Iterator[Entry]:
        """The four stages; with the index buffers of classifiers, or without."""
        dims, patch = spec.embed_dims, self.patch_prefix
        yield from linear_entries(patch + "proj.", dims[0], spec.in_channels, spec.patch_size, spec.patch_size)
        yield from linear_entries(patch + "norm.", dims[0])
        for stage, (dim, depth, ratio) in enumerate(zip(dims, spec.depths, spec.mlp_ratios, strict=True)):
            height, width = spec.map_sizes[stage]
            for block in range(depth):
                prefix = f"{self.stage_prefix(stage)}{block}."
                if stage >= 2:
                    bias = [(prefix + TABLE, ((2 * height - 1) * (2 * width - 1), spec.num_heads[stage - 2]))]
                    bias += [(prefix + INDEX, (height * width, height * width))] if index else []
                    yield from attention_entries(prefix, dim, bias)
                yield from mlp_entries(prefix, dim, dim * ratio)
            if stage < spec.mergings:
                yield from merge_entries(self.merge_prefix(stage), dim, dims[stage + 1])

    def num_heads(self, votes: Votes, stage: int, dim: int) -> int:
        blocks = votes.numbered(self.stage_prefix(stage))
        heads = votes.size(f"heads of stage {stage + 1}", *((prefix + TABLE, 2, 1) for prefix in blocks))
        if dim % heads:
            raise CheckpointError(
                f"stage {stage + 1} has {heads} attention heads, expected a divisor of its {dim} channels; "
                "the bias tables of this checkpoint are damaged"
            )
        return heads

    def first_map(self, votes: Votes, stage3_column: Sequence[int] | None) -> tuple[int, int]:
        """That of stage 3 is stored; of the images that lead to it, the smallest is meant."""
        height, width = self._third_map(votes, stage3_column)
        return 4 * height, 4 * width

    def further_tokens(self, stage: int) -> int:
        return 0

    def build(self, spec: ModelSpec) -> nn.Module:
        from lit_deploy.models.networks import lit

        return lit.Lit(spec)

    def _third_map(self, votes: Votes, first_column: Sequence[int] | None) -> tuple[int, int]:
        """Height and width in tokens of stage 3, from its bias tables and index buffers."""
        prefixes = votes.numbered(self.stage_prefix(2))
        rows = votes.size("map size of stage 3", *((prefix + TABLE, 2, 0) for prefix in prefixes))
        side = (math.isqrt(rows) + 1) // 2
        index = [(prefix + INDEX, 2, axis) for prefix in prefixes for axis in (0, 1)]
        tokens = side * side
        if any(len(votes.shapes.get(key, ())) == 2 for key, _, _ in index):
            tokens = votes.size("map size of stage 3", *index)
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
