"""The one way to build a network. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.families import FAMILIES
from lit_deploy.models.keys import COUNTER, optional_key
from lit_deploy.models.layout import check_keys

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(spec: ModelSpec, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build a network in evaluation mode: image ``[B, in_channels, H, W]`` float32 to logits ``[B, num_classes]``.

    Args:
        spec: the dimensions.
        state: weights in official key layout, e.g. ``Checkpoint.state``; index buffers and BatchNorm counters may be
            there or not. None leaves PyTorch's random initial values, from which the network can be trained.

    Raises:
        StateDictMismatch: keys or shapes of ``state`` differ from the network's.
    """
    if state is not None:
        check_keys({key: tuple(tensor.shape) for key, tensor in state.items()}, spec)
    model = FAMILIES[spec.family].build(spec)
    if state is not None:
        weights = {key: tensor for key, tensor in state.items() if not optional_key(key)}
        counters = {key: value for key, value in model.state_dict().items() if key.endswith(COUNTER)}
        model.load_state_dict(counters | weights)
    return model.eval()
