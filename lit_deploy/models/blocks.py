"""Building blocks of LIT in plain PyTorch, with the parameter names of the official checkpoints.

Token tensors are ``[B, H*W, C]``, row-major over the map. Dropout and stochastic depth have no place here:
they hold no parameters and vanish at inference.
Source: paper section 3; official code, github.com/ziplab/LIT at commit 742e961.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_deploy.ops.deformable_token_merging.library import deformable_token_merging
from lit_deploy.ops.deformable_token_merging.reference import tap_major_from_conv
from lit_deploy.ops.relative_position_attention.library import relative_position_attention


class PatchEmbedding(nn.Module):
    """Image ``[B, Cin, H, W]`` to tokens ``[B, H/p * W/p, C]``: a p x p convolution of stride p, then LayerNorm."""

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image).flatten(2).transpose(1, 2))


class Mlp(nn.Module):
    """Two linear layers with exact (erf) GELU between; ``[..., C]`` to ``[..., C]``."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class MlpBlock(nn.Module):
    """Block of stages 1 and 2: ``x + MLP(LN(x))``. Its only norm is called ``norm2`` in the checkpoints."""

    def __init__(self, dim: int, mlp_ratio: int, eps: float) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, dim * mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Global multi-head self-attention ``[B, N, C]`` to ``[B, N, C]``, optionally with a relative position bias.

    ``qkv`` packs q, k and v, each C wide, heads contiguous inside each. The bias of a map of H x W tokens is stored as
    a table ``[(2H-1)*(2W-1), heads]``, one row for each difference of two positions.
    """

    def __init__(self, dim: int, num_heads: int, map_size: tuple[int, int] | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.map_size = map_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table: nn.Parameter | None = None
        if map_size is not None:
            table = torch.zeros((2 * map_size[0] - 1) * (2 * map_size[1] - 1), num_heads)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))

    def table(self) -> Tensor:
        """The table ``[heads, 2H-1, 2W-1]`` as the operator takes it, float32; an empty one without a bias.

        The bias of the query at (r, c) and the key at (r', c') is ``table[h, r - r' + H - 1, c - c' + W - 1]``.
        """
        if self.relative_position_bias_table is None or self.map_size is None:
            return torch.zeros(self.num_heads, 0, 0, device=self.qkv.weight.device)
        rows, columns = (2 * side - 1 for side in self.map_size)
        return self.relative_position_bias_table.float().t().reshape(self.num_heads, rows, columns)

    def bias(self) -> Tensor | None:
        """The additive bias ``[heads, N, N]`` of all queries and keys, or None where the family has none.

        Of a query at (r, c), the keys in reverse order have the window of the table that begins at (r, c).
        """
        if self.map_size is None:
            return None
        windows = self.table().unfold(1, self.map_size[0], 1).unfold(2, self.map_size[1], 1)
        return windows.flip(3, 4).flatten(3, 4).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        logits = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.bias()
        if bias is not None:
            logits = logits + bias.to(logits.dtype)
        return self.proj((logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


class ResizedAttention(Attention):
    """The same over a map of any size: its table is the stored one, resized.

    Bicubically, to ``2H-1 x 2W-1``, at every call: relative positions are scaled with the map. Maps may be large, so
    that it is the operator that attends. Source: official detection and segmentation code at commit 742e961.
    """

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        table = self.table()
        if self.map_size is not None:
            table = resized_table(table[None], size)
        return self.proj(relative_position_attention(self.qkv(x), table, self.num_heads, self.scale))


def resized_table(table: Tensor, size: tuple[int, int]) -> Tensor:
    """The table ``[1, heads, 2R-1, 2S-1]`` of a map of R x S tokens as that of another, ``[heads, 2H-1, 2W-1]``."""
    target = (2 * size[0] - 1, 2 * size[1] - 1)
    return F.interpolate(table, target, mode="bicubic", align_corners=False)[0]


class AttentionBlock(nn.Module):
    """Block of stages 3 and 4: ``x + Attention(LN(x))``, then ``x + MLP(LN(x))``.

    ``size`` is what the attention takes beside the tokens: nothing, or height and width of the map.
    """

    def __init__(self, dim: int, attention: nn.Module, mlp_ratio: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, dim * mlp_ratio)

    def forward(self, x: Tensor, *size: tuple[int, int]) -> Tensor:
        x = x + self.attn(self.norm1(x), *size)
        return x + self.mlp(self.norm2(x))


class DeformableConvParameters(nn.Conv2d):
    """Parameters under the official names ``dconv.*``; the merging reads them, nobody calls this module.

    The offset branch starts at zero, as in the official code: an untrained merge samples its own 2x2 patch.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, kernel_size=2, stride=2)
        self.conv_offset = nn.Conv2d(in_dim, 8, kernel_size=2, stride=2)
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)


class DeformableTokenMerging(nn.Module):
    """Stage transition ``[B, H*W, Cin]`` to ``[B, (H//2)*(W//2), Cout]``.

    The operator samples, a linear projection mixes the four taps, then BatchNorm and exact GELU. Without a ``map_size``
    the size of the map is handed in beside the tokens.
    Source: paper section 3.3.
    """

    def __init__(self, in_dim: int, out_dim: int, map_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.map_size = map_size
        self.dconv = DeformableConvParameters(in_dim, out_dim)
        self.norm_layer = nn.BatchNorm2d(out_dim)

    def projection(self) -> tuple[Tensor, Tensor]:
        """Weight ``[Cout, 4*Cin]`` and bias ``[Cout]`` behind the operator, inference BatchNorm folded in."""
        norm = self.norm_layer
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert self.dconv.bias is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = tap_major_from_conv(self.dconv.weight) * scale[:, None]
        return weight, scale * (self.dconv.bias - norm.running_mean) + norm.bias

    def as_map(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Tokens ``[B, H*W, C]`` as ``[B, H, W, C]``."""
        size = self.map_size or size
        assert size is not None
        return x.unflatten(1, size)

    def offsets(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Sampling offsets in pixels ``[B, 8, H//2, W//2]``: dy, dx of tap 0, 1, 2, 3. For inspection only."""
        return self.dconv.conv_offset(self.as_map(x, size).permute(0, 3, 1, 2))

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        conv = self.dconv.conv_offset
        assert conv.bias is not None
        tokens = self.as_map(x, size)
        patches = deformable_token_merging(tokens, tap_major_from_conv(conv.weight), conv.bias).flatten(1, 2)
        if self.training:  # BatchNorm needs the statistics of this batch, so nothing can be folded
            merged = F.linear(patches, tap_major_from_conv(self.dconv.weight), self.dconv.bias)
            return F.gelu(self.norm_layer(merged.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2))
        return F.gelu(F.linear(patches, *self.projection()))
