"""The official models, and the one way to build a network. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_deploy.downloads import official_url
from lit_deploy.key_layout import COUNTER, OFFICIAL_SPECS, check_keys, mac_count, optional_key, parameter_count
from lit_deploy.specs import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class OfficialModel:
    """A published LIT classifier.

    Attributes:
        spec: its dimensions.
        title: the paper's name.
        top1, top5: published ImageNet-1K accuracy in percent; None where the authors give none. The authors
            evaluated in mixed precision, so float32 may differ in the second decimal.

    Source: README files of github.com/ziplab/LIT at commit 742e961 (results table; evaluation lines of Ti and B).
    """

    spec: ModelSpec
    title: str
    top1: float
    top5: float | None

    @property
    def url(self) -> str:
        """Where the authors' checkpoint can be downloaded."""
        return official_url(self.spec.name)

    @property
    def parameters(self) -> int:
        """Trainable parameters, classifier included."""
        return parameter_count(self.spec)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return mac_count(self.spec)


OFFICIAL: dict[str, OfficialModel] = {
    "lit_ti": OfficialModel(OFFICIAL_SPECS["lit_ti"], "LIT-Ti", 81.124, 95.544),
    "lit_s": OfficialModel(OFFICIAL_SPECS["lit_s"], "LIT-S", 81.5, None),
    "lit_m": OfficialModel(OFFICIAL_SPECS["lit_m"], "LIT-M", 83.0, None),
    "lit_b": OfficialModel(OFFICIAL_SPECS["lit_b"], "LIT-B", 83.366, 96.254),
}
"""The four published classifiers by name."""


def build(spec: ModelSpec, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build a network in evaluation mode: image ``[B, in_channels, H, W]`` float32 to logits ``[B, num_classes]``.

    Args:
        spec: the dimensions.
        state: weights in official key layout, e.g. ``Checkpoint.state``; index buffers and BatchNorm counters may be
            there or not. None leaves PyTorch's random initial values, from which the network can be trained.

    Raises:
        StateDictMismatch: keys or shapes of ``state`` differ from the network's.
    """
    from lit_deploy.models.lit import Lit
    from lit_deploy.models.lit_ti import LitTi

    if state is not None:
        check_keys({key: tuple(tensor.shape) for key, tensor in state.items()}, spec)
    model = Lit(spec) if spec.family == "lit" else LitTi(spec)
    if state is not None:
        weights = {key: tensor for key, tensor in state.items() if not optional_key(key)}
        counters = {key: value for key, value in model.state_dict().items() if key.endswith(COUNTER)}
        model.load_state_dict(counters | weights)
    return model.eval()
