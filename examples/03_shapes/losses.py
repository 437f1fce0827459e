"""What the three networks are trained to lessen, in plain PyTorch.

Each function takes a network in training mode, normalised images ``[B, 3, H, W]`` whose sides are multiples of 32, and
what is to be found in each of them, in pixels of the images. It returns one number.
Sources: RetinaNet (arXiv 1708.02002), Faster R-CNN (1506.01497), Mask R-CNN (1703.06870), Semantic FPN (1901.02446).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_deploy.core.specs import DenseSpec
from lit_deploy.models.boxes import anchors, width_height
from lit_deploy.models.heads import retinanet, roi, rpn
from lit_deploy.models.heads.sem_fpn import resized
from lit_deploy.models.networks.dense import MaskRcnn, RetinaNet, SemanticFpn
from lit_deploy.ops.multi_level_roi_align.library import multi_level_roi_align

BACKGROUND, UNDECIDED = -1, -2

PROPOSALS = DenseSpec((), (), candidates=100)  # the official 1,000 are for pictures of a hundred times the size
ANCHOR_SAMPLES, REGION_SAMPLES = 64, 24  # of every image, at most a half and a third of them with an object


@dataclass(frozen=True)
class Target:
    """What is to be found in an image.

    Attributes:
        labels: int64 ``[n]``, n at least 1; ``boxes``: ``[n, 4]``: x1 y1 x2 y2; ``masks``: bool ``[n, H, W]``.
        classes: int64 ``[H, W]``: the class of every pixel, -1 where none counts.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    classes: Tensor


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union ``[A, B]`` of boxes ``[A, 4]`` and ``[B, 4]``."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    total = (a[:, 2:] - a[:, :2]).prod(dim=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(dim=1)[None] - shared
    return shared / total.clamp(min=1e-6)


def assigned(candidates: Tensor, boxes: Tensor, low: float, high: float, rescue: float | None = None) -> Tensor:
    """Which of ``boxes`` each candidate stands for: its index, or ``BACKGROUND``, or ``UNDECIDED``.

    Args:
        candidates: ``[A, 4]``; ``boxes``: ``[n, 4]``.
        low, high: a candidate that overlaps no box by ``low`` is background; one that overlaps a box by ``high`` stands
            for it.
        rescue: a box that overlaps nothing by ``high`` gets its best candidates, if those overlap it by this.
    """
    shared = overlaps(candidates, boxes)
    most, index = shared.max(dim=1)
    index = torch.where(most >= high, index, torch.where(most < low, BACKGROUND, UNDECIDED))
    if rescue is not None:
        best = shared.amax(dim=0)
        row, box = torch.nonzero((shared == best) & (best >= max(rescue, 1e-6)), as_tuple=True)
        index[row] = box
    return index


def deltas(boxes: Tensor, wanted: Tensor) -> Tensor:
    """What moves ``boxes`` ``[N, 4]`` to ``wanted``: the inverse of ``lit_deploy.models.boxes.decoded``."""
    sizes, wanted_sizes = boxes[:, 2:] - boxes[:, :2], wanted[:, 2:] - wanted[:, :2]
    moved = (wanted[:, :2] + wanted[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return torch.cat((moved / sizes, (wanted_sizes / sizes).log()), dim=1)


def sampled(index: Tensor, count: int, most: int) -> tuple[Tensor, Tensor]:
    """Rows with an object, at most ``most``, and of background, at most ``count`` with them; chosen at random."""
    objects, background = (torch.nonzero(which)[:, 0] for which in (index >= 0, index == BACKGROUND))
    objects = objects[torch.randperm(len(objects))[:most]]
    return objects, background[torch.randperm(len(background))[: count - len(objects)]]


def cells(found: Sequence[tuple[Tensor, Tensor]], head: torch.nn.Module, strides: Sequence[int]) -> tuple[Tensor, ...]:
    """What a head says of its anchors: logits ``[B, A, classes]``, deltas ``[B, A, 4]``, and the anchors ``[A, 4]``."""
    logits, moves, boxes = [], [], []
    for level, (scores, shift) in enumerate(found):
        base = getattr(head, f"anchors{level}")
        boxes.append(anchors(base, strides[level], *scores.shape[2:]))
        logits.append(scores.permute(0, 2, 3, 1).reshape(len(scores), len(boxes[-1]), -1))
        moves.append(shift.permute(0, 2, 3, 1).reshape(len(shift), len(boxes[-1]), 4))
    return torch.cat(logits, dim=1), torch.cat(moves, dim=1), torch.cat(boxes)


def focal(logits: Tensor, truth: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """The focal loss of logits and truths of 0 or 1, of one shape: what is known already hardly counts."""
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    score = logits.sigmoid()
    wrong = torch.where(truth > 0, 1 - score, score)
    return (torch.where(truth > 0, alpha, 1 - alpha) * wrong**gamma * loss).sum()


def retinanet_loss(model: RetinaNet, images: Tensor, targets: Sequence[Target]) -> Tensor:
    """Focal loss of all anchors, and distance of the boxes of those that stand for one."""
    found = model.bbox_head(model.neck(model.backbone(images)[1:]))
    logits, moves, boxes = cells(found, model.bbox_head, retinanet.STRIDES)
    loss, positive = logits.new_zeros(()), 0
    for scores, shift, target in zip(logits, moves, targets, strict=True):
        index = assigned(boxes, target.boxes, 0.4, 0.5, rescue=0.0)
        rows = torch.nonzero(index >= 0)[:, 0]
        truth = torch.zeros_like(scores)
        truth[rows, target.labels[index[rows]]] = 1
        counted = index != UNDECIDED
        loss = loss + focal(scores[counted], truth[counted])
        loss = loss + F.l1_loss(shift[rows], deltas(boxes[rows], target.boxes[index[rows]]), reduction="sum")
        positive += len(rows)
    return loss / max(positive, 1)


def mask_rcnn_loss(model: MaskRcnn, images: Tensor, targets: Sequence[Target]) -> Tensor:
    """Both stages at once: the second learns from what the first proposes at the moment, and from the true boxes."""
    levels = model.neck(model.backbone(images))
    levels.append(levels[-1][:, :, ::2, ::2])
    found = model.rpn_head(levels)
    logits, moves, boxes = cells(found, model.rpn_head, rpn.STRIDES)
    limit = width_height(images.shape[2:])
    loss = logits.new_zeros(())
    for image, target in enumerate(targets):
        loss = loss + proposal_loss(logits[image, :, 0], moves[image], boxes, target)
        with torch.no_grad():
            one = [(scores[image, None], shift[image, None]) for scores, shift in found]
            proposed, counts = model.rpn_head.proposals(one, limit, PROPOSALS)
        regions = torch.cat((proposed[counts], target.boxes))
        maps = [level[image, None] for level in levels[: roi.LEVELS]]
        loss = loss + region_loss(model.roi_head, maps, regions, target)
    return loss / len(targets)


def proposal_loss(scores: Tensor, moves: Tensor, boxes: Tensor, target: Target) -> Tensor:
    """Of one image's anchors: whether they hold something, and where it is."""
    index = assigned(boxes, target.boxes, 0.3, 0.7, rescue=0.3)
    rows, background = sampled(index, ANCHOR_SAMPLES, ANCHOR_SAMPLES // 2)
    both = torch.cat((rows, background))
    truth = (index[both] >= 0).float()
    shift = F.l1_loss(moves[rows], deltas(boxes[rows], target.boxes[index[rows]]), reduction="sum")
    return F.binary_cross_entropy_with_logits(scores[both], truth) + shift / len(both)


def region_loss(head: roi.RoiHead, maps: Sequence[Tensor], regions: Tensor, target: Target) -> Tensor:
    """Of one image's regions: their classes, their boxes and their masks.

    Regions without an area stay: the official code proposes them too, and they have to be known for background.
    """
    index = assigned(regions, target.boxes, 0.5, 0.5)
    rows, background = sampled(index, REGION_SAMPLES, REGION_SAMPLES // 3)
    both, objects = torch.cat((rows, background)), index[rows]
    labels = target.labels[objects]
    logits, moves = head.bbox_head(multi_level_roi_align(regions[both], *maps, output_size=roi.BOX_SIZE))
    truth = torch.cat((labels, torch.full_like(background, head.classes)))  # the last class is the background
    wanted = deltas(regions[rows], target.boxes[objects]) / torch.tensor(roi.STDS)
    shift = moves[: len(rows)].unflatten(1, (-1, 4))[torch.arange(len(rows)), labels]
    loss = F.cross_entropy(logits, truth) + F.l1_loss(shift, wanted, reduction="sum") / len(both)
    masks = head.mask_head(multi_level_roi_align(regions[rows], *maps, output_size=roi.MASK_INPUT), labels)
    return loss + F.binary_cross_entropy(masks, inside(target.masks[objects], regions[rows], masks.shape[2]))


def inside(masks: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Masks bool ``[N, H, W]`` as they are at ``size`` x ``size`` points of a box each ``[N, 4]``: 0 or 1."""
    share = (torch.arange(size) + 0.5) / size
    x, y = (
        (low[:, None] + share * (high - low)[:, None]).long().clamp(0, side - 1)
        for low, high, side in zip(boxes[:, :2].unbind(1), boxes[:, 2:].unbind(1), masks.shape[:0:-1], strict=True)
    )
    return masks[torch.arange(len(masks))[:, None, None], y[:, :, None], x[:, None]].float()


def semantic_loss(model: SemanticFpn, images: Tensor, targets: Sequence[Target]) -> Tensor:
    """Cross-entropy of every pixel that counts; the first class is nine tenths of them, and weighs less."""
    logits = resized(model.logits(images), images.shape[2:])
    weights = torch.ones(logits.shape[1])
    weights[0] = 0.2
    classes = torch.stack([target.classes for target in targets])
    return F.cross_entropy(logits, classes, weights, ignore_index=BACKGROUND)
