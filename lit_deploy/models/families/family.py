"""What a model family has to say of itself: all that differs between families, in one record each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_deploy.core.specs import FamilyName, InputKind, InputSpec, ModelSpec, PrecisionName, TaskName
from lit_deploy.models.keys import Entry, Votes

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Published:
    """A network that the authors published.

    Attributes:
        spec: its dimensions; ``title``: the paper's name.
        scores: published figures in percent by name: ``top-1`` and ``top-5`` on ImageNet-1K (in mixed precision, so
            float32 may differ in the second decimal), ``box AP`` and ``mask AP`` on COCO, ``mIoU`` on ADE20K.
        url: where the authors' checkpoint can be downloaded.

    Source: README files of github.com/ziplab/LIT at commit 742e961 (results table; evaluation lines of Ti and B).
    """

    spec: ModelSpec
    title: str
    scores: Mapping[str, float]
    url: str


class Family(ABC):
    """One record a family. Listing and recognising networks through it loads no torch.

    Attributes:
        name: in manifests; ``title``: in messages; ``task``: what its networks do.
        marks: beginnings of keys that no other family has.
        input_size: height and width in pixels that multiply-accumulates are counted for, where that is not the
            network's own.
        mask_size: rows and columns of the masks it returns; 0 where it returns none.
        patch_prefix: key prefix of the patch embedding, which stays float32 in every precision.
        unquantised: names of the linear layers that 8-bit files leave as they are.
        published: the authors' networks by name.
    """

    name: FamilyName
    title: str
    task: TaskName
    marks: tuple[str, ...]
    patch_prefix: str
    unquantised: tuple[str, ...]
    published: Mapping[str, Published]
    input_size: tuple[int, int] | None = None
    mask_size = 0

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether a state dict with these keys is one of this family's."""
        return any(key.startswith(self.marks) for key in keys)

    @abstractmethod
    def stage_prefix(self, stage: int) -> str:
        """Key prefix of the blocks of a stage (0..3), to which a block's number is added."""

    @abstractmethod
    def merge_prefix(self, stage: int) -> str:
        """Key prefix of the merging behind a stage (0..2)."""

    @abstractmethod
    def entries(self, spec: ModelSpec) -> Iterator[Entry]:
        """Every key of the official state dict and its shape, in official order."""

    def head_sizes(self, votes: Votes) -> dict[str, int]:
        """Classes, and widths of neck and head where there are any, by their names in ``ModelSpec``."""
        return {"num_classes": votes.size("number of classes", ("head.weight", 2, 0), ("head.bias", 1, 0))}

    def head_macs(self, spec: ModelSpec, maps: Sequence[tuple[int, int]]) -> int:
        """Multiply-accumulates of all behind the last stage, for maps of these sizes in tokens."""
        return spec.num_classes * spec.embed_dims[3]

    @abstractmethod
    def num_heads(self, votes: Votes, stage: int, dim: int) -> int:
        """Attention heads of stage 2 or 3, from the shapes."""

    @abstractmethod
    def first_map(self, votes: Votes, stage3_column: Sequence[int] | None) -> tuple[int, int]:
        """Height and width in tokens of stage 1, from the shapes.

        Args:
            votes: the shapes.
            stage3_column: first column of the first relative position index of stage 3, None where there is none.
        """

    @abstractmethod
    def further_tokens(self, stage: int) -> int:
        """Tokens of a stage beside those of its map."""

    @abstractmethod
    def build(self, spec: ModelSpec) -> nn.Module:
        """The network with PyTorch's random initial values.

        A classifier takes an image ``[B, 3, H, W]`` and returns logits ``[B, classes]``; for others see
        ``models.networks.dense``.
        """

    def lower(self, model: nn.Module, spec: InputSpec, precision: PrecisionName) -> nn.Module:
        """Rewrite a network, in place, into the form that is exported; see ``models.lowering``."""
        from lit_deploy.models.lowering import lower

        return lower(model, spec, precision)

    def default_input(self, spec: ModelSpec, kind: InputKind = "float") -> InputSpec:
        """The official evaluation's: its shorter side is resized to 256/224 of the image size before the crop."""
        height, width = spec.image_size
        return InputSpec(kind=kind, height=height, width=width, resize=int(256 / 224 * min(height, width)))
