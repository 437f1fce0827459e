"""The record of LIT-Ti: module tree ``block{S}.{j}``, position embeddings, a class token in stage 4."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.families.family import Family, Published
from lit_deploy.models.keys import Entry, Votes, attention_entries, linear_entries, merge_entries, mlp_entries

if TYPE_CHECKING:
    from torch import nn

HEAD_DIM = 64
"""Channels of a head: the files store nothing that tells their number, and both official stages have 64."""


class LitTi(Family):
    name = "lit_ti"
    title = "LIT-Ti"
    task = "classification"
    marks = ("block1.", "patch_embed1.", "pos_embed")
    unquantised = ("patch_embed1.proj", "head")
    published: Mapping[str, Published] = {
        "lit_ti": Published(
            spec=ModelSpec(
                name="lit_ti",
                family="lit_ti",
                embed_dims=(64, 128, 320, 512),
                depths=(3, 4, 6, 3),
                num_heads=(5, 8),
                mlp_ratios=(8, 8, 4, 4),
            ),
            title="LIT-Ti",
            scores={"top-1": 81.124, "top-5": 95.544},
            url="https://github.com/ziplab/LIT/releases/download/v1.0/lit_ti.pth",
        )
    }

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.patch_prefix = prefix + "patch_embed1."

    def stage_prefix(self, stage: int) -> str:
        return f"{self.prefix}block{stage + 1}."

    def merge_prefix(self, stage: int) -> str:
        return f"{self.prefix}patch_embed{stage + 2}."

    def entries(self, spec: ModelSpec) -> Iterator[Entry]:
        yield from self.body(spec, class_token=True)
        yield from linear_entries("norm.", spec.embed_dims[3])
        yield from linear_entries("head.", spec.num_classes, spec.embed_dims[3])

    def body(self, spec: ModelSpec, *, class_token: bool) -> Iterator[Entry]:
        """The four stages; a class token has its place in the embedding of stage 4 in any case."""
        dims, patch = spec.embed_dims, self.patch_prefix
        for stage in range(4):
            tokens = math.prod(spec.map_sizes[stage]) + self.further_tokens(stage)
            yield f"{self.prefix}pos_embed{stage + 1}", (1, tokens, dims[stage])
        if class_token:
            yield f"{self.prefix}cls_token", (1, 1, dims[3])
        yield from linear_entries(patch + "proj.", dims[0], spec.in_channels, spec.patch_size, spec.patch_size)
        yield from linear_entries(patch + "norm.", dims[0])
        for stage in range(spec.mergings):
            yield from merge_entries(self.merge_prefix(stage), dims[stage], dims[stage + 1])
        for stage, (dim, depth, ratio) in enumerate(zip(dims, spec.depths, spec.mlp_ratios, strict=True)):
            for block in range(depth):
                prefix = f"{self.stage_prefix(stage)}{block}."
                if stage >= 2:
                    yield from attention_entries(prefix, dim)
                yield from mlp_entries(prefix, dim, dim * ratio)

    def num_heads(self, votes: Votes, stage: int, dim: int) -> int:
        heads, rest = divmod(dim, HEAD_DIM)
        if rest:
            raise CheckpointError(
                f"stage {stage + 1} has {dim} channels, expected a multiple of {HEAD_DIM} because LIT-Ti "
                f"attends with {HEAD_DIM} channels per head; retrain with such a width"
            )
        return heads

    def first_map(self, votes: Votes, stage3_column: Sequence[int] | None) -> tuple[int, int]:
        tokens = votes.size("map size of stage 1", (f"{self.prefix}pos_embed1", 3, 1))
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise CheckpointError(
                f"pos_embed1 holds {tokens} positions, expected a square number because a LIT-Ti checkpoint does "
                "not tell height from width; only square inputs can be exported"
            )
        return side, side

    def further_tokens(self, stage: int) -> int:
        """The class token."""
        return int(stage == 3)

    def build(self, spec: ModelSpec) -> nn.Module:
        from lit_deploy.models.networks import lit_ti

        return lit_ti.LitTi(spec)
