"""LIT-S, LIT-M and LIT-B classification (official module tree ``layers.{i}.blocks.{j}``)."""

from __future__ import annotations

from torch import Tensor, nn

from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.blocks import Attention, AttentionBlock, DeformableTokenMerging, MlpBlock, PatchEmbedding

EPS = 1e-5


class Stage(nn.Module):
    """The blocks of one stage and the merging that leads to the next (absent after the last)."""

    def __init__(self, spec: ModelSpec, index: int) -> None:
        super().__init__()
        dim, ratio, size = spec.embed_dims[index], spec.mlp_ratios[index], spec.map_sizes[index]
        blocks: list[nn.Module]
        if index < 2:
            blocks = [MlpBlock(dim, ratio, EPS) for _ in range(spec.depths[index])]
        else:
            heads = spec.num_heads[index - 2]
            blocks = [AttentionBlock(dim, Attention(dim, heads, size), ratio, EPS) for _ in range(spec.depths[index])]
        self.blocks = nn.ModuleList(blocks)
        self.downsample = DeformableTokenMerging(dim, spec.embed_dims[index + 1], size) if index < 3 else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Lit(nn.Module):
    """LIT-S/M/B: image ``[B, 3, H, W]`` to logits ``[B, num_classes]``.

    Source: paper section 3; official code at commit 742e961.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.patch_embed = PatchEmbedding(spec.in_channels, spec.embed_dims[0], spec.patch_size)
        self.layers = nn.ModuleList(Stage(spec, index) for index in range(4))
        self.norm = nn.LayerNorm(spec.embed_dims[3], eps=EPS)
        self.head = nn.Linear(spec.embed_dims[3], spec.num_classes)

    def features(self, image: Tensor) -> Tensor:
        """The pooled vectors ``[B, embed_dims[3]]`` that the head projects."""
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        return self.norm(x).mean(dim=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))
