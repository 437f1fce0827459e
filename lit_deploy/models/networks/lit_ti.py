"""LIT-Ti classification (official module tree ``block{S}.{j}``, position embeddings and a class token)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.blocks import Attention, AttentionBlock, DeformableTokenMerging, MlpBlock, PatchEmbedding

EPS = 1e-6  # every LayerNorm but patch_embed1.norm, which keeps 1e-5


class LitTi(nn.Module):
    """LIT-Ti: image ``[B, 3, H, W]`` to logits ``[B, num_classes]``.

    Source: official code at commit 742e961. The class token joins in stage 4 only.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        dims, sizes = spec.embed_dims, spec.map_sizes
        self.patch_embed1 = PatchEmbedding(spec.in_channels, dims[0], spec.patch_size)
        self.patch_embed2 = DeformableTokenMerging(dims[0], dims[1], sizes[0])
        self.patch_embed3 = DeformableTokenMerging(dims[1], dims[2], sizes[1])
        self.patch_embed4 = DeformableTokenMerging(dims[2], dims[3], sizes[2])
        for stage in range(4):
            tokens = sizes[stage][0] * sizes[stage][1] + (stage == 3)
            embedding = nn.init.trunc_normal_(torch.empty(1, tokens, dims[stage]), std=0.02)
            self.register_parameter(f"pos_embed{stage + 1}", nn.Parameter(embedding))
            ratio, depth = spec.mlp_ratios[stage], spec.depths[stage]
            blocks: list[nn.Module]
            if stage < 2:
                blocks = [MlpBlock(dims[stage], ratio, EPS) for _ in range(depth)]
            else:
                dim, heads = dims[stage], spec.num_heads[stage - 2]
                blocks = [AttentionBlock(dim, Attention(dim, heads, None), ratio, EPS) for _ in range(depth)]
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dims[3]), std=0.02))
        self.norm = nn.LayerNorm(dims[3], eps=EPS)
        self.head = nn.Linear(dims[3], spec.num_classes)

    def features(self, image: Tensor) -> Tensor:
        """The class token's vectors ``[B, embed_dims[3]]`` that the head projects."""
        x = image
        for stage in range(1, 5):
            x = getattr(self, f"patch_embed{stage}")(x)
            if stage == 4:
                x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
            x = x + getattr(self, f"pos_embed{stage}")
            for block in getattr(self, f"block{stage}"):
                x = block(x)
        return self.norm(x)[:, 0]

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))
