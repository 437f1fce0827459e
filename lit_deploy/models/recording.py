"""What is compared layer by layer: which modules, and their outputs while a network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from lit_deploy.models.blocks import AttentionBlock, DeformableTokenMerging, MlpBlock, PatchEmbedding
from lit_deploy.models.convolutions import Convolution

_KINDS = (PatchEmbedding, MlpBlock, AttentionBlock, DeformableTokenMerging, Convolution)

_HEADS = ("bbox_head.", "rpn_head.", "decode_head.")


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that parity is compared at: embeddings, blocks, merges, the final norm; and of necks and
    heads the convolutions, but none behind the choice of proposals, whose order near ties is no property of a layer."""
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, _KINDS) or name == "norm" or (isinstance(module, nn.Conv2d) and name.startswith(_HEADS))
        if not name.startswith("roi_head.") and not name.endswith(".conv")
    )


@contextlib.contextmanager
def record_layers(model: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the named modules, in the order they run, while the context is open.

    A merging also leaves its sampling offsets, under ``<name>.dconv.conv_offset``. The outputs of a module that runs
    several times, a head shared by the levels of a pyramid, are told apart as ``name``, ``name@1``, ``name@2``.
    """
    record: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if isinstance(module, DeformableTokenMerging):
                record[f"{name}.dconv.conv_offset"] = module.offsets(*args)
            times = sum(key.partition("@")[0] == name for key in record)
            record[f"{name}@{times}" if times else name] = output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
