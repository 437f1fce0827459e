"""Rewrite a LIT network into the form that is exported: same numbers, simpler graph.

Every replacement keeps the name of the module it replaces, so that values and initializers of the exported
file carry the names of the PyTorch module tree. Linear weights are stored ``[in, out]`` (one MatMul, no
Transpose), BatchNorm is folded into the merging's projection, and the attention scale into the rows of q.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_deploy.core.specs import InputSpec, PrecisionName
from lit_deploy.models.blocks import Attention, DeformableTokenMerging, PatchEmbedding, ResizedAttention, resized_table
from lit_deploy.models.convolutions import Convolution
from lit_deploy.ops.deformable_token_merging.library import deformable_token_merging
from lit_deploy.ops.deformable_token_merging.reference import tap_major_from_conv
from lit_deploy.ops.relative_position_attention.library import relative_position_attention

Sizes = Mapping[str, tuple[int, int]]


def lower(model: nn.Module, spec: InputSpec, precision: PrecisionName, maps: Sizes | None = None) -> nn.Module:
    """Replace, in place, every module that has a better form for export; return the model.

    Args:
        model: a LIT network in eval mode, float32.
        spec: the input of the exported file; a ``uint8`` input takes the normalisation into the patch embedding.
        precision: type of weights and activations behind the patch embedding, which stays float32: folded
            normalisation subtracts large, nearly equal numbers.
        maps: of a network for one size only, heights and widths of the maps that resized attentions see, by how
            the names of their stage begin.
    """
    for name, module in list(model.named_modules()):
        replacement: nn.Module | None = None
        if isinstance(module, PatchEmbedding):
            replacement = LoweredPatchEmbedding(module, spec)
        elif isinstance(module, DeformableTokenMerging):
            replacement = LoweredMerging(module)
        elif isinstance(module, Attention):
            size = next((size for prefix, size in (maps or {}).items() if name.startswith(prefix)), None)
            replacement = LoweredAttention(module, size)
        elif isinstance(module, Convolution) and module.bn is not None:
            replacement = _folded(module)
        elif isinstance(module, nn.Linear):
            replacement = LoweredLinear(module.weight, module.bias)
        parent, _, child = name.rpartition(".")
        if replacement is not None and not isinstance(model.get_submodule(parent), LoweredAttention):
            setattr(model.get_submodule(parent), child, replacement)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    if half is not None:
        for parameter in model.parameters():  # not the buffers: anchors and bias tables stay float32
            parameter.data = parameter.data.to(half)
        for module in model.modules():
            if isinstance(module, LoweredPatchEmbedding):
                module.float()
                module.output_dtype = half
    return model.requires_grad_(False)


def _folded(module: Convolution) -> Convolution:
    """A convolution with its BatchNorm in weight and bias; float64, as the statistics may be small."""
    conv, norm = module.conv, module.bn
    assert norm is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    folded = Convolution(conv.in_channels, conv.out_channels, conv.kernel_size[0], relu=module.relu)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded.conv.weight.data = (conv.weight.double() * scale.view(-1, 1, 1, 1)).float()
    assert folded.conv.bias is not None
    folded.conv.bias.data = (norm.bias.double() - norm.running_mean.double() * scale).float()
    return folded.eval()


class LoweredLinear(nn.Module):
    """``x @ weight + bias`` with ``weight`` [in, out]."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().t().contiguous())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class LoweredPatchEmbedding(nn.Module):
    """Patches as rows, then one MatMul and the LayerNorm; float NCHW or uint8 NHWC pixels in."""

    def __init__(self, module: PatchEmbedding, spec: InputSpec) -> None:
        super().__init__()
        weight, bias = module.proj.weight.detach(), module.proj.bias
        assert bias is not None
        channels, self.patch = weight.shape[1], weight.shape[2]
        self.output_dtype = torch.float32
        self.uint8 = spec.kind == "uint8"
        if self.uint8:  # w * (u/255 - mean)/std + b  =  (w / (255 std)) * u + (b - sum w * mean/std), in float64
            mean = torch.tensor(spec.mean, dtype=torch.float64).view(1, channels, 1, 1)
            std = torch.tensor(spec.std, dtype=torch.float64).view(1, channels, 1, 1)
            wide = weight.double()
            bias = (bias.double() - (wide * mean / std).sum((1, 2, 3))).float()
            weight = (wide / (255 * std)).float().permute(0, 2, 3, 1)
        self.proj = LoweredLinear(weight.flatten(1), bias)
        self.norm = module.norm

    def forward(self, image: Tensor) -> Tensor:
        patch = self.patch
        image = image.float()  # at once: TensorRT moves no uint8 values about
        if self.uint8:
            rows = image.unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).permute(0, 1, 3, 2, 4, 5)
        else:
            rows = image.unflatten(2, (-1, patch)).unflatten(4, (-1, patch)).permute(0, 2, 4, 1, 3, 5)
        return self.norm(self.proj(rows.flatten(3).flatten(1, 2))).to(self.output_dtype)


class LoweredAttention(nn.Module):
    """The operator behind a lowered projection, with the scale folded into q and the table as a float32 buffer.

    The table ``[heads, 2H-1, 2W-1]`` is that of the map where there is only one: of a classifier the stored one; of a
    dense network for one size it is resized here, as PyTorch's exporter would resize a small one itself, and otherwise.
    Where maps are of any size it is the stored one, ``[1, heads, 2R-1, 2S-1]``, to be resized at every call.
    """

    def __init__(self, module: Attention, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.num_heads = module.num_heads
        dim = module.proj.in_features
        scale = torch.ones(3 * dim)
        scale[:dim] = module.scale
        self.qkv = LoweredLinear(module.qkv.weight * scale[:, None], module.qkv.bias * scale)
        self.proj = LoweredLinear(module.proj.weight, module.proj.bias)
        self.biased = module.map_size is not None
        self.resized = self.biased and isinstance(module, ResizedAttention) and size is None
        if self.biased:
            table = module.table()
            if isinstance(module, ResizedAttention):
                table = table[None] if size is None else resized_table(table[None], size)
            self.register_buffer("relative_position_bias_table", table.detach().contiguous())

    def table(self, size: tuple[int, int] | None) -> Tensor:
        """The table of this map; without a bias an empty one."""
        if not self.biased:
            return torch.zeros(self.num_heads, 0, 0)
        table = self.get_buffer("relative_position_bias_table")
        if not self.resized:
            return table
        assert size is not None
        return resized_table(table, size)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.proj(relative_position_attention(self.qkv(x), self.table(size), self.num_heads, 1.0))


class LoweredOffsets(nn.Module):
    """The operator's own parameters: ``weight`` [8, 4*C] and ``bias`` [8]."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight = nn.Parameter(tap_major_from_conv(conv.weight.detach()).contiguous())
        self.bias = nn.Parameter(conv.bias.detach().clone())


class LoweredProjection(LoweredLinear):
    """The projection behind the operator; ``conv_offset`` hangs below it as in the official key layout."""

    def __init__(self, module: DeformableTokenMerging) -> None:
        super().__init__(*module.projection())
        self.conv_offset = LoweredOffsets(module.dconv.conv_offset)


class LoweredMerging(nn.Module):
    """The operator, one MatMul with BatchNorm folded in, exact GELU."""

    def __init__(self, module: DeformableTokenMerging) -> None:
        super().__init__()
        self.map_size = module.map_size
        self.dconv = LoweredProjection(module)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        offsets = self.dconv.conv_offset
        size = self.map_size or size
        assert size is not None
        patches = deformable_token_merging(x.unflatten(1, size), offsets.weight, offsets.bias)
        return F.gelu(self.dconv(patches.flatten(1, 2)))
