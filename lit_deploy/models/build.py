"""The one way to build a network, of given dimensions or an official one to train. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_SIDE, ModelSpec
from lit_deploy.models.families import FAMILIES, OFFICIAL_SPECS
from lit_deploy.models.keys import COUNTER, optional_key
from lit_deploy.models.layout import check_keys

if TYPE_CHECKING:
    from torch import Tensor, nn


SIDE_STEP = 32
"""Sides of images are multiples of this many pixels."""

MAX_CLASSES = 1 << 20


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


def build_model(name: str, *, num_classes: int | None = None, image_size: int | None = None) -> nn.Module:
    """Build a network to train, with initial weights as the official code draws them.

    A classifier takes images ``[B, 3, H, W]`` float32, normalised, and returns logits ``[B, num_classes]``; for
    detectors and segmentation networks see ``models.networks.dense``. Its ``state_dict`` has the official keys, and
    ``export_model`` takes it as it is. PyTorch's generator of random numbers decides (``torch.manual_seed``).

    Args:
        name: official name: ``lit_s``, ``mask_rcnn_lit_ti`` (``lit-deploy models`` lists them).
        num_classes: classes, without background; None for the official number.
        image_size: height and width in pixels of the images, a multiple of 32; of a detector or segmentation network,
            which takes any, that at which its bias tables or position embeddings are stored. None for the official one.

    Returns:
        The network in training mode, float32, on the CPU.

    Raises:
        UsageError: another name, or a number that no LIT can have.
    """
    spec = OFFICIAL_SPECS.get(name) if isinstance(name, str) else None
    if spec is None:
        shown = f"'{name[:40]}'" if isinstance(name, str) else f"a {type(name).__name__}"
        raise UsageError(f"the model is {shown}, expected one of {', '.join(OFFICIAL_SPECS)}")
    if num_classes is not None:
        spec = replace(spec, num_classes=_checked("num_classes", num_classes, 1, MAX_CLASSES))
    if image_size is not None:
        side = _checked("image_size", image_size, SIDE_STEP, MAX_SIDE)
        if side % SIDE_STEP:
            low = side // SIDE_STEP * SIDE_STEP
            raise UsageError(
                f"image_size is {side}, expected a multiple of {SIDE_STEP} pixels: patches of 4, halved three times; "
                f"use {low} or {low + SIDE_STEP}"
            )
        spec = replace(spec, image_size=(side, side))
    from lit_deploy.models.initialisation import initialise

    return initialise(FAMILIES[spec.family].build(spec)).train()


def _checked(name: str, value: object, least: int, most: int) -> int:
    """A whole number within limits; what is none is named by its type, as a tensor's values would fill the screen."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{name} is a {type(value).__name__}, expected a whole number from {least} to {most}")
    if not least <= value <= most:
        raise UsageError(f"{name} is {value}, expected {least} to {most}")
    return value
