"""Train a small LIT detector or segmentation network on drawn shapes and write it as the official code would.

``python train.py --task detection --out retinanet.pth`` takes a few minutes on one CPU core; the other tasks are
``instance_segmentation`` and ``semantic_segmentation``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from losses import Target, mask_rcnn_loss, retinanet_loss, semantic_loss
from shapes_data import COLOURS, NAMES, PAPER, PAPER_COLOUR, SEED, TRAINING, Drawing, drawn
from torch import Tensor, nn

from lit_deploy.core.files import atomic_path
from lit_deploy.core.specs import ModelSpec
from lit_deploy.images.keep_ratio import keep_ratio_size, resize_bilinear
from lit_deploy.models.build import build
from lit_deploy.models.families import OFFICIAL_SPECS, default_input


@dataclass(frozen=True)
class Recipe:
    """How a task is learned.

    Attributes:
        published: name of the network that is made small.
        loss: what it learns by.
        rate: the highest learning rate.
        neck, head: channels of its neck and head.
        batch: pictures at a time: a divisor of ``shapes_data.RUN``, as pictures of one format only fit together.
        epochs: of ``STEPS`` batches each, unless told otherwise.
    """

    published: str
    loss: Callable[[Any, Tensor, Sequence[Target]], Tensor]
    rate: float
    neck: int
    head: int
    batch: int
    epochs: int


TASKS = {
    "detection": Recipe("retinanet_lit_s", retinanet_loss, 2e-3, neck=32, head=32, batch=16, epochs=16),
    "instance_segmentation": Recipe("mask_rcnn_lit_s", mask_rcnn_loss, 2e-3, neck=32, head=128, batch=8, epochs=16),
    "semantic_segmentation": Recipe("sem_fpn_lit_s", semantic_loss, 1e-3, neck=48, head=48, batch=16, epochs=24),
}

SHORTER = 128  # pixels that a picture's shorter side is resized to, here and, by --resize, in the exported file
STEPS = 32  # batches of an epoch; no picture comes twice
# Layers that nothing follows: they start small, so that no answer is preferred at first.
LAST = ("retina_cls", "retina_reg", "rpn_cls", "rpn_reg", "fc_cls", "fc_reg", "conv_logits", "conv_seg")
OFFSET_RATE, WEIGHT_DECAY, WARMUP = 3, 0.05, 40  # offsets start at zero and have so many times the learning rate


def small(task: str) -> ModelSpec:
    """The dimensions of a task's network: all parts of the published one, at a seventieth of its size."""
    recipe = TASKS[task]
    return replace(
        OFFICIAL_SPECS[recipe.published],
        name="custom",
        embed_dims=(16, 32, 64, 128),
        depths=(1, 1, 2, 1),
        num_heads=(2, 4),
        mlp_ratios=(4, 4, 4, 4),
        image_size=(SHORTER, SHORTER),
        num_classes=len(NAMES) + (task == "semantic_segmentation"),
        neck_channels=recipe.neck,
        head_channels=recipe.head,
    )


def prepared(drawing: Drawing, spec: ModelSpec) -> tuple[Tensor, Target]:
    """An image ``[3, H, W]`` as the exported file will make it, and what is to be found in it, at its size."""
    rule = replace(default_input(spec), resize=SHORTER)
    size = drawing.label_map.shape
    height, width = keep_ratio_size(*size, rule)
    rows, columns = ((np.arange(new) + 0.5) * old // new for new, old in zip((height, width), size, strict=True))
    nearest = np.ix_(rows.astype(int), columns.astype(int))
    pixels = resize_bilinear(drawing.pixels, height, width) / np.float32(255)
    image = (pixels - np.float32(rule.mean)) / np.float32(rule.std)
    scale = np.float32([width / size[1], height / size[0]] * 2)
    target = Target(
        labels=torch.from_numpy(drawing.labels),
        boxes=torch.from_numpy(drawing.boxes * scale),
        masks=torch.from_numpy(np.stack([mask[nearest] for mask in drawing.masks])),
        classes=torch.from_numpy(drawing.label_map[nearest].astype(np.int64) - 1),  # a class is its value less one
    )
    return torch.from_numpy(image).permute(2, 0, 1), target


def network(spec: ModelSpec) -> nn.Module:
    """A network of random initial values, in training mode.

    PyTorch's usual ones let what comes in fade from convolution to convolution where no norm stands between.
    """
    model = build(spec).train()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d) and not name.startswith("backbone."):
            last = name.rpartition(".")[2] in LAST
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if "neck" in name else "relu")
            module.weight.data *= 0.1 if last else 1
            if module.bias is not None:
                nn.init.constant_(module.bias, -math.log(99) if name.endswith("retina_cls") else 0)
    return model


def optimizer_for(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW: weight decay on matrices only, and a faster group for the offsets."""
    groups: dict[str, list[nn.Parameter]] = {"matrix": [], "vector": [], "offset": []}
    for name, parameter in model.named_parameters():
        kind = "offset" if "conv_offset" in name else "matrix" if parameter.ndim > 1 else "vector"
        groups[kind].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups["matrix"], "weight_decay": WEIGHT_DECAY, "lr": rate},
            {"params": groups["vector"], "weight_decay": 0.0, "lr": rate},
            {"params": groups["offset"], "weight_decay": 0.0, "lr": OFFSET_RATE * rate},
        ]
    )


def save(model: nn.Module, task: str, epochs: int, path: Path) -> None:
    """Write ``{"meta": ..., "state_dict": ...}``, with names and colours of the classes, as mmcv's runners do."""
    names, colours = NAMES, COLOURS
    if task == "semantic_segmentation":
        names, colours = (PAPER, *names), (PAPER_COLOUR, *colours)
    meta = {"epoch": epochs, "iter": epochs * STEPS, "CLASSES": names, "PALETTE": [list(colour) for colour in colours]}
    with atomic_path(path) as part:
        torch.save({"meta": meta, "state_dict": model.state_dict()}, part)


def main() -> None:
    """Train, report and save."""
    parser = argparse.ArgumentParser(description="Train a small LIT detector or segmentation network on shapes.")
    parser.add_argument("--task", choices=TASKS, default="detection", help="what to learn (default: detection)")
    parser.add_argument(
        "--epochs", type=int, help=f"of {STEPS} batches each (default: 16, of semantic segmentation 24)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    spec, recipe = small(arguments.task), TASKS[arguments.task]
    epochs, batch = arguments.epochs or recipe.epochs, recipe.batch
    model, total = network(spec), epochs * STEPS
    optimizer = optimizer_for(model, recipe.rate)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {total * batch:,} pictures")

    def factor(step: int) -> float:
        return min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / total))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    start, losses = time.perf_counter(), []
    for step in range(total):
        drawings = [drawn(TRAINING, step * batch + place) for place in range(batch)]
        images, targets = zip(*(prepared(drawing, spec) for drawing in drawings), strict=True)
        loss = recipe.loss(model, torch.stack(images), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % STEPS == 0:
            seconds = time.perf_counter() - start
            print(f"epoch {(step + 1) // STEPS:3d}  loss {np.mean(losses[-STEPS:]):.3f}  {seconds:4.0f} s", flush=True)
    save(model, arguments.task, epochs, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
