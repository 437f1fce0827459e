"""LIT-Ti for images of any size: module tree ``block{S}.{j}``, resized position embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.blocks import AttentionBlock, DeformableTokenMerging, MlpBlock, PatchEmbedding, ResizedAttention

EPS = 1e-6  # every LayerNorm but patch_embed1.norm, which keeps 1e-5


class LitTiBackbone(nn.Module):
    """Image ``[B, 3, H, W]`` to the maps ``[B, C, h, w]`` of the four stages; what does not fill a patch is dropped.

    Source: official code at commit 742e961. The embedding of stage 4 keeps a row for a class token, which is not used.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.patch_size = spec.patch_size
        self.stored = spec.map_sizes
        dims = spec.embed_dims
        self.patch_embed1 = PatchEmbedding(spec.in_channels, dims[0], spec.patch_size)
        for stage in range(3):
            self.add_module(f"patch_embed{stage + 2}", DeformableTokenMerging(dims[stage], dims[stage + 1]))
        for stage in range(4):
            tokens = self.stored[stage][0] * self.stored[stage][1] + (stage == 3)
            embedding = nn.init.trunc_normal_(torch.empty(1, tokens, dims[stage]), std=0.02)
            self.register_parameter(f"pos_embed{stage + 1}", nn.Parameter(embedding))
            ratio, depth = spec.mlp_ratios[stage], spec.depths[stage]
            blocks: list[nn.Module]
            if stage < 2:
                blocks = [MlpBlock(dims[stage], ratio, EPS) for _ in range(depth)]
            else:
                dim, heads = dims[stage], spec.num_heads[stage - 2]
                blocks = [AttentionBlock(dim, ResizedAttention(dim, heads, None), ratio, EPS) for _ in range(depth)]
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))

    def embedding(self, stage: int, size: tuple[int, int]) -> Tensor:
        """The position embedding ``[1, H*W, C]`` of a stage, resized bilinearly to its map.

        A map of stage 1 with as many tokens as are stored, but of another shape, takes them as they lie: the official
        code compares numbers of tokens, and the published networks were measured so.
        """
        stored: Tensor = getattr(self, f"pos_embed{stage + 1}")
        if stage == 3:
            stored = stored[:, 1:]
        dtype = stored.dtype
        grid = stored.float().transpose(1, 2).unflatten(2, self.stored[stage])
        resized = F.interpolate(grid, size, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2).to(dtype)
        if stage:
            return resized
        count, tokens = stored.shape[1], torch.arange(size[0] * size[1])
        as_they_lie = stored[:, tokens.clamp(max=count - 1)]
        return torch.where(torch.full((1,), count).eq(tokens.shape[0]), as_they_lie, resized)

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[2] // self.patch_size, image.shape[3] // self.patch_size
        x = self.patch_embed1(image[:, :, : height * self.patch_size, : width * self.patch_size])
        maps = []
        for stage in range(4):
            if stage:
                x = getattr(self, f"patch_embed{stage + 1}")(x, (height, width))
                height, width = height // 2, width // 2
            x = x + self.embedding(stage, (height, width))
            for block in getattr(self, f"block{stage + 1}"):
                x = block(x, (height, width)) if stage >= 2 else block(x)
            maps.append(x.transpose(1, 2).unflatten(2, (height, width)))
        return maps
