"""The records of the heads: what differs between detectors and segmentation networks, whatever their backbone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.specs import ModelSpec, TaskName
from lit_deploy.models.keys import Entry, Votes, linear_entries, norm_entries

if TYPE_CHECKING:
    from torch import nn

Maps = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Sizes:
    """How an image is resized for a network, and which of the backbone's outputs are normalised.

    Attributes:
        shorter, longest: most pixels of the shorter and the longer side; ``pad_multiple``: see ``InputSpec``.
        example: height and width of an ordinary picture after that; figures of speed and cost are for this size.
        stored: height and width in pixels at which LIT stores its bias tables.
        normalised: stages whose outputs LIT normalises.
    """

    shorter: int
    longest: int
    pad_multiple: int
    example: tuple[int, int]
    stored: int
    normalised: range


DETECTION = Sizes(shorter=800, longest=1333, pad_multiple=32, example=(800, 1216), stored=800, normalised=range(1, 4))
SEGMENTATION = Sizes(shorter=512, longest=2048, pad_multiple=1, example=(512, 683), stored=512, normalised=range(4))


class Head(ABC):
    """One record a head. Source: official code at commit 742e961.

    Attributes:
        name: first part of a family's name; ``title``: in messages; ``task``: what it is for.
        marks: beginnings of its keys.
        sizes: of its images.
        classes: of the published networks; ``width``: theirs, ``ModelSpec.head_channels``.
        mask_size: rows and columns of a mask, 0 where there are none.
    """

    name: str
    title: str
    task: TaskName
    marks: tuple[str, ...]
    sizes: Sizes
    classes: int
    width: int
    mask_size = 0

    @abstractmethod
    def entries(self, spec: ModelSpec) -> Iterator[Entry]:
        """Keys and shapes of neck and head, in official order."""

    @abstractmethod
    def head_sizes(self, votes: Votes) -> dict[str, int]:
        """``num_classes`` and ``head_channels``, from the shapes."""

    @abstractmethod
    def macs(self, spec: ModelSpec, maps: Maps) -> int:
        """Multiply-accumulates of neck and head for four maps of these sizes in tokens."""

    @abstractmethod
    def build(self, spec: ModelSpec, backbone: nn.Module) -> nn.Module:
        """The network around a backbone."""


class RetinaNet(Head):
    name = "retinanet"
    title = "RetinaNet"
    task = "detection"
    marks = ("bbox_head.",)
    sizes = DETECTION
    classes = 80
    width = 256

    def entries(self, spec: ModelSpec) -> Iterator[Entry]:
        neck, width = spec.neck_channels, spec.head_channels
        yield from _neck(spec.embed_dims[1:], neck)
        yield from linear_entries("neck.fpn_convs.3.conv.", neck, spec.embed_dims[3], 3, 3)
        yield from linear_entries("neck.fpn_convs.4.conv.", neck, neck, 3, 3)
        for tower in ("cls_convs", "reg_convs"):
            for index in range(4):
                yield from linear_entries(f"bbox_head.{tower}.{index}.conv.", width, width if index else neck, 3, 3)
        yield from linear_entries("bbox_head.retina_cls.", 9 * spec.num_classes, width, 3, 3)
        yield from linear_entries("bbox_head.retina_reg.", 36, width, 3, 3)

    def head_sizes(self, votes: Votes) -> dict[str, int]:
        scores = votes.size(
            "number of classes", ("bbox_head.retina_cls.weight", 4, 0), ("bbox_head.retina_cls.bias", 1, 0)
        )
        if scores % 9:
            raise CheckpointError(
                f"the head has {scores} scores a cell, expected a multiple of the 9 anchors of a LIT RetinaNet"
            )
        towers = [f"bbox_head.{tower}.{index}.conv." for tower in ("cls_convs", "reg_convs") for index in range(4)]
        width = votes.size("width of the head", *_rows(*towers))
        return {"num_classes": scores // 9, "head_channels": width}

    def macs(self, spec: ModelSpec, maps: Maps) -> int:
        neck, width = spec.neck_channels, spec.head_channels
        levels = [math.prod(size) for size in maps[1:]]
        total = _neck_macs(spec.embed_dims[1:], levels, neck)
        size = maps[3]
        for dim in (spec.embed_dims[3], neck):
            size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
            levels.append(math.prod(size))
            total += levels[-1] * 9 * dim * neck
        cell = 2 * 9 * (neck * width + 3 * width**2) + 9 * width * (9 * spec.num_classes + 36)
        return total + sum(levels) * cell

    def build(self, spec: ModelSpec, backbone: nn.Module) -> nn.Module:
        from lit_deploy.models.networks import dense

        return dense.RetinaNet(spec, backbone)


class MaskRcnn(Head):
    name = "mask_rcnn"
    title = "Mask R-CNN"
    task = "instance_segmentation"
    marks = ("rpn_head.", "roi_head.")
    sizes = DETECTION
    classes = 80
    width = 1024
    mask_size = 28

    def entries(self, spec: ModelSpec) -> Iterator[Entry]:
        neck, width, box, mask = spec.neck_channels, spec.head_channels, "roi_head.bbox_head.", "roi_head.mask_head."
        yield from _neck(spec.embed_dims, neck)
        yield from linear_entries("rpn_head.rpn_conv.", neck, neck, 3, 3)
        yield from linear_entries("rpn_head.rpn_cls.", 3, neck, 1, 1)
        yield from linear_entries("rpn_head.rpn_reg.", 12, neck, 1, 1)
        yield from linear_entries(box + "fc_cls.", spec.num_classes + 1, width)
        yield from linear_entries(box + "fc_reg.", spec.num_classes * 4, width)
        yield from linear_entries(box + "shared_fcs.0.", width, neck * 49)
        yield from linear_entries(box + "shared_fcs.1.", width, width)
        for index in range(4):
            yield from linear_entries(f"{mask}convs.{index}.conv.", neck, neck, 3, 3)
        yield mask + "upsample.weight", (neck, neck, 2, 2)
        yield mask + "upsample.bias", (neck,)
        yield from linear_entries(mask + "conv_logits.", spec.num_classes, neck, 1, 1)

    def head_sizes(self, votes: Votes) -> dict[str, int]:
        box = "roi_head.bbox_head."
        logits = votes.size("number of classes", *_rows("roi_head.mask_head.conv_logits."))
        return {"num_classes": logits, "head_channels": votes.size("width of the head", *_rows(box + "shared_fcs.1."))}

    def macs(self, spec: ModelSpec, maps: Maps) -> int:
        """With 1,000 proposals and 100 detections, the most there are."""
        neck, width, classes = spec.neck_channels, spec.head_channels, spec.num_classes
        levels = [math.prod(size) for size in maps]
        total = _neck_macs(spec.embed_dims, levels, neck)
        levels.append(math.prod(((maps[3][0] + 1) // 2, (maps[3][1] + 1) // 2)))
        total += sum(levels) * (9 * neck**2 + 15 * neck)
        total += 1000 * (49 * neck * width + width**2 + width * (5 * classes + 1))
        return total + 100 * (14**2 * 4 * 9 * neck**2 + 28**2 * (neck**2 + neck * classes))

    def build(self, spec: ModelSpec, backbone: nn.Module) -> nn.Module:
        from lit_deploy.models.networks import dense

        return dense.MaskRcnn(spec, backbone)


class SemanticFpn(Head):
    name = "sem_fpn"
    title = "Semantic FPN"
    task = "semantic_segmentation"
    marks = ("decode_head.",)
    sizes = SEGMENTATION
    classes = 150
    width = 128

    def entries(self, spec: ModelSpec) -> Iterator[Entry]:
        neck, width = spec.neck_channels, spec.head_channels
        yield from _neck(spec.embed_dims, neck)
        yield from linear_entries("decode_head.conv_seg.", spec.num_classes, width, 1, 1)
        for level in range(4):
            for step in range(max(level, 1)):
                prefix = f"decode_head.scale_heads.{level}.{2 * step}."
                yield prefix + "conv.weight", (width, width if step else neck, 3, 3)
                yield from norm_entries(prefix + "bn.", width)

    def head_sizes(self, votes: Votes) -> dict[str, int]:
        branches = [(f"decode_head.scale_heads.{level}.0.conv.weight", 4, 0) for level in range(4)]
        return {
            "num_classes": votes.size("number of classes", *_rows("decode_head.conv_seg.")),
            "head_channels": votes.size("width of the head", *branches),
        }

    def macs(self, spec: ModelSpec, maps: Maps) -> int:
        neck, width = spec.neck_channels, spec.head_channels
        levels = [math.prod(size) for size in maps]
        total = _neck_macs(spec.embed_dims, levels, neck)
        for level, cells in enumerate(levels):
            for step in range(max(level, 1)):
                total += cells * 4**step * 9 * (width if step else neck) * width
        return total + levels[0] * width * spec.num_classes

    def build(self, spec: ModelSpec, backbone: nn.Module) -> nn.Module:
        from lit_deploy.models.networks import dense

        return dense.SemanticFpn(spec, backbone)


def _neck(dims: Sequence[int], width: int) -> Iterator[Entry]:
    for index, dim in enumerate(dims):
        yield from linear_entries(f"neck.lateral_convs.{index}.conv.", width, dim, 1, 1)
    for index in range(len(dims)):
        yield from linear_entries(f"neck.fpn_convs.{index}.conv.", width, width, 3, 3)


def _neck_macs(dims: Sequence[int], levels: Sequence[int], width: int) -> int:
    return sum(cells * (dim * width + 9 * width**2) for dim, cells in zip(dims, levels, strict=True))


def _rows(*prefixes: str) -> list[tuple[str, int, int]]:
    """Where ``Votes.size`` finds the outputs of layers of any rank."""
    weights = [(prefix + "weight", rank, 0) for prefix in prefixes for rank in (2, 4)]
    return weights + [(prefix + "bias", 1, 0) for prefix in prefixes]
