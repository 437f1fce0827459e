"""LIT-S/M/B for images of any size: module tree ``layers.{i}.blocks.{j}``, resized bias tables."""

from __future__ import annotations

from torch import Tensor, nn

from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.blocks import AttentionBlock, DeformableTokenMerging, MlpBlock, PatchEmbedding, ResizedAttention
from lit_deploy.models.convolutions import padded

EPS = 1e-5


class Stage(nn.Module):
    """The blocks of one stage and the merging that leads to the next (absent after the last)."""

    def __init__(self, spec: ModelSpec, index: int) -> None:
        super().__init__()
        dim, ratio, stored = spec.embed_dims[index], spec.mlp_ratios[index], spec.map_sizes[index]
        blocks: list[nn.Module]
        if index < 2:
            blocks = [MlpBlock(dim, ratio, EPS) for _ in range(spec.depths[index])]
        else:
            heads = spec.num_heads[index - 2]
            blocks = [
                AttentionBlock(dim, ResizedAttention(dim, heads, stored), ratio, EPS) for _ in range(spec.depths[index])
            ]
        self.blocks = nn.ModuleList(blocks)
        self.downsample = DeformableTokenMerging(dim, spec.embed_dims[index + 1]) if index < 3 else None


class LitBackbone(nn.Module):
    """Image ``[B, 3, H, W]``, zero-padded to a multiple of 4, to the maps ``[B, C, h, w]`` of the four stages.

    The maps of the stages in ``normalised`` go through a LayerNorm of their own on their way out; what goes on into the
    merging does not. Source: official code at commit 742e961.
    """

    def __init__(self, spec: ModelSpec, normalised: range) -> None:
        super().__init__()
        self.patch_size = spec.patch_size
        self.patch_embed = PatchEmbedding(spec.in_channels, spec.embed_dims[0], spec.patch_size)
        self.layers = nn.ModuleList(Stage(spec, index) for index in range(4))
        for stage in normalised:
            self.add_module(f"norm{stage}", nn.LayerNorm(spec.embed_dims[stage], eps=EPS))

    def forward(self, image: Tensor) -> list[Tensor]:
        image = padded(image, self.patch_size)
        height, width = image.shape[2] // self.patch_size, image.shape[3] // self.patch_size
        x = self.patch_embed(image)
        maps = []
        for index, stage in enumerate(self.layers):
            assert isinstance(stage, Stage)
            for block in stage.blocks:
                x = block(x, (height, width)) if index >= 2 else block(x)
            norm = getattr(self, f"norm{index}", None)
            out = x if norm is None else norm(x)
            maps.append(out.transpose(1, 2).unflatten(2, (height, width)))
            if stage.downsample is not None:
                x = stage.downsample(x, (height, width))
                height, width = height // 2, width // 2
        return maps
