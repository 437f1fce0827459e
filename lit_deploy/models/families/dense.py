"""The records of detectors and segmentation networks: one of the two backbones, a feature pyramid, a head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from lit_deploy.core.specs import FamilyName, InputKind, InputSpec, ModelSpec, PrecisionName
from lit_deploy.models.families.family import Family, Published
from lit_deploy.models.families.heads import Head, Maps
from lit_deploy.models.families.lit import Lit
from lit_deploy.models.families.lit_ti import LitTi
from lit_deploy.models.keys import Entry, Votes, linear_entries

if TYPE_CHECKING:
    from torch import nn

_RELEASE = "https://github.com/ziplab/LIT/releases/download/v2.0"

LAST_LAYERS = (
    "bbox_head.retina_cls", "bbox_head.retina_reg", "rpn_head.rpn_cls", "rpn_head.rpn_reg",
    "roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg", "roi_head.mask_head.conv_logits", "decode_head.conv_seg",
)  # fmt: skip
"""No layer behind these evens out their rounding: scores and boxes of 256 steps tie, and ties cost detections."""


class Dense(Family):
    """A head around a backbone, whose keys lie below ``backbone.``.

    Args:
        head: what finds something in the maps.
        backbone: what makes them.
        published: figures of the authors' network of this kind, by name; ``file``: its checkpoint.
    """

    def __init__(self, head: Head, backbone: Lit | LitTi, file: str, published: dict[str, float]) -> None:
        self.head, self.backbone = head, backbone
        self.name = cast(FamilyName, f"{head.name}_{backbone.name}")
        self.title = f"{head.title} with {backbone.title}"
        self.task = head.task
        self.marks = head.marks
        self.patch_prefix = backbone.patch_prefix
        self.unquantised = (backbone.patch_prefix + "proj", *LAST_LAYERS)
        self.input_size = head.sizes.example
        self.mask_size = head.mask_size
        official = backbone.published["lit_ti" if isinstance(backbone, LitTi) else "lit_s"]
        name = file.removesuffix(".pth").replace("retina_", "retinanet_")
        stored = official.spec.image_size[0] if isinstance(backbone, LitTi) else head.sizes.stored
        spec = replace(
            official.spec,
            name=name,
            family=self.name,
            image_size=(stored, stored),
            num_classes=head.classes,
            neck_channels=256,
            head_channels=head.width,
        )
        title = f"{head.title} {official.title}"
        self.published = {name: Published(spec, title, published, f"{_RELEASE}/{file}")}

    def recognises(self, keys: Iterable[str]) -> bool:
        keys = tuple(keys)
        marks = tuple(self.backbone.prefix + mark for mark in self.backbone.marks)
        return super().recognises(keys) and any(key.startswith(marks) for key in keys)

    def stage_prefix(self, stage: int) -> str:
        return self.backbone.stage_prefix(stage)

    def merge_prefix(self, stage: int) -> str:
        return self.backbone.merge_prefix(stage)

    def entries(self, spec: ModelSpec) -> Iterator[Entry]:
        if isinstance(self.backbone, Lit):
            yield from self.backbone.body(spec, index=False)
            for stage in self.head.sizes.normalised:
                yield from linear_entries(f"{self.backbone.prefix}norm{stage}.", spec.embed_dims[stage])
        else:
            yield from self.backbone.body(spec, class_token=False)
        yield from self.head.entries(spec)

    def head_sizes(self, votes: Votes) -> dict[str, int]:
        places = [(f"neck.fpn_convs.{index}.conv.{key}", rank, 0) for index in range(4) for key, rank in _CONVOLUTION]
        return {"neck_channels": votes.size("width of the neck", *places), **self.head.head_sizes(votes)}

    def head_macs(self, spec: ModelSpec, maps: Maps) -> int:
        return self.head.macs(spec, maps)

    def num_heads(self, votes: Votes, stage: int, dim: int) -> int:
        return self.backbone.num_heads(votes, stage, dim)

    def first_map(self, votes: Votes, stage3_column: Sequence[int] | None) -> tuple[int, int]:
        return self.backbone.first_map(votes, stage3_column)

    def further_tokens(self, stage: int) -> int:
        return 0

    def build(self, spec: ModelSpec) -> nn.Module:
        from lit_deploy.models.backbones import lit, lit_ti

        if isinstance(self.backbone, Lit):
            return self.head.build(spec, lit.LitBackbone(spec, self.head.sizes.normalised))
        return self.head.build(spec, lit_ti.LitTiBackbone(spec))

    def lower(self, model: nn.Module, spec: InputSpec, precision: PrecisionName) -> nn.Module:
        from lit_deploy.models.convolutions import next_multiple
        from lit_deploy.models.lowering import lower

        maps = {}
        if spec.height is not None:
            patch: int = model.get_submodule("backbone").patch_size  # type: ignore[assignment]
            padded = (next_multiple(next_multiple(side, spec.pad_multiple), patch) for side in spec.crop)
            height, width = (side // patch for side in padded)
            maps = {self.stage_prefix(stage): (height >> stage, width >> stage) for stage in (2, 3)}
        return lower(model, replace(spec, kind="float"), precision, maps)  # the graph normalises, then pads

    def default_input(self, spec: ModelSpec, kind: InputKind = "uint8") -> InputSpec:
        """The official test pipeline's."""
        sizes = self.head.sizes
        return InputSpec(
            kind=kind,
            height=None,
            width=None,
            resize=sizes.shorter,
            interpolation="bilinear",
            rule="keep_ratio",
            longest=sizes.longest,
            pad_multiple=sizes.pad_multiple,
        )


_CONVOLUTION = (("weight", 4), ("bias", 1))
