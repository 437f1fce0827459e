"""Train a small LIT on handwritten digits and write it as an official checkpoint would be.

``python train.py [--epochs 40] [--out digits.pth]`` takes about two minutes on one CPU core. The weights that
ship were made by the defaults.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from digits_data import INPUT, SEED, pictures, split
from torch import Tensor, nn

from lit_deploy.core.files import atomic_path
from lit_deploy.core.specs import ModelSpec
from lit_deploy.images.preprocessing import normalize, resize_and_crop
from lit_deploy.models.blocks import Attention, DeformableTokenMerging
from lit_deploy.models.keys import relative_position_index
from lit_deploy.models.networks.lit import Lit

SPEC = ModelSpec(
    name="custom",
    family="lit",
    embed_dims=(32, 64, 96, 128),
    depths=(1, 1, 2, 1),
    num_heads=(3, 4),
    mlp_ratios=(4, 4, 4, 4),
    image_size=(INPUT.height, INPUT.width),
    num_classes=10,
)
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARMUP_EPOCHS = 64, 1e-3, 0.05, 3
OFFSET_LEARNING_RATE = 3e-3  # the offsets start at zero and should learn to move within a short training


def tensors(indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """Prepare digits as the exported file will get them: ``[N, 3, 64, 64]`` normalised, and labels ``[N]``."""
    images, labels = pictures(indices)
    pixels = np.stack([resize_and_crop(image, INPUT) for image in images])
    return torch.from_numpy(normalize(pixels, INPUT)), torch.from_numpy(labels)


def augment(images: Tensor) -> Tensor:
    """Rotate by up to 12 degrees, scale by up to 10 % and shift by up to 4 pixels; white paper continues outside."""
    angle, size, right, down = torch.empty(4, len(images)).uniform_(-1, 1)
    angle, size = angle * math.radians(12), 1 + 0.1 * size
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    rows = torch.stack([cos, -sin, right / 8, sin, cos, down / 8], dim=1).view(-1, 2, 3)  # 1 is half the image
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def optimizer_for(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW: weight decay on matrices only, and a faster group for the offsets."""
    groups: dict[str, list[nn.Parameter]] = {"matrix": [], "vector": [], "offset": []}
    for name, parameter in model.named_parameters():
        kind = "offset" if "conv_offset" in name else "matrix" if parameter.ndim > 1 else "vector"
        groups[kind].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups["matrix"], "weight_decay": WEIGHT_DECAY, "lr": LEARNING_RATE},
            {"params": groups["vector"], "weight_decay": 0.0, "lr": LEARNING_RATE},
            {"params": groups["offset"], "weight_decay": 0.0, "lr": OFFSET_LEARNING_RATE},
        ]
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of correct predictions, 0..1, in evaluation mode."""
    model.eval()
    predictions = torch.cat([model(part).argmax(dim=1) for part in images.split(120)])
    return (predictions == labels).float().mean().item()


@torch.no_grad()
def offset_deviations(model: nn.Module, images: Tensor) -> list[float]:
    """Standard deviation of the sampling offsets of each merge, in pixels of its own map."""
    deviations = []

    def measure(merge: DeformableTokenMerging, inputs: tuple[Tensor]) -> None:
        tokens = inputs[0].transpose(1, 2).unflatten(2, merge.map_size)
        deviations.append(merge.dconv.conv_offset(tokens).std().item())

    merges = [module for module in model.modules() if isinstance(module, DeformableTokenMerging)]
    hooks = [merge.register_forward_pre_hook(measure) for merge in merges]
    model.eval()
    model(images)
    for hook in hooks:
        hook.remove()
    return deviations


def official_state(model: Lit) -> dict[str, Tensor]:
    """State dict in the official key layout: ours, plus the index buffers that official files carry."""
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, Attention) and module.map_size is not None:
            index = relative_position_index(*module.map_size)
            state[f"{name}.relative_position_index"] = torch.from_numpy(index)
    return state


def save(model: Lit, epoch: int, held_out_accuracy: float, path: Path) -> None:
    """Write ``{"model": ..., "epoch": ..., "max_accuracy": ...}``; what is there under the final name is whole."""
    with atomic_path(path) as part:
        torch.save({"model": official_state(model), "epoch": epoch, "max_accuracy": 100 * held_out_accuracy}, part)


def main() -> None:
    """Train, report and save."""
    parser = argparse.ArgumentParser(description="Train a small LIT on scikit-learn's handwritten digits.")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training digits (default: 40)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("digits.pth"), help="checkpoint to write")
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the network is so small that threads cost more than they bring
    train, held_out = split()
    images, labels = tensors(train)
    test_images, test_labels = tensors(held_out)
    model = Lit(SPEC)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(train)} digits, {len(held_out)} held out")

    optimizer = optimizer_for(model)
    steps = math.ceil(len(images) / BATCH)
    warmup, total = WARMUP_EPOCHS * steps, arguments.epochs * steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    start = time.perf_counter()
    for epoch in range(1, arguments.epochs + 1):
        model.train()
        losses = []
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(model(augment(images[batch])), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if epoch % 5 == 0 or epoch == arguments.epochs:
            seconds = time.perf_counter() - start
            print(f"epoch {epoch:3d}  loss {np.mean(losses):.3f}  {seconds:4.0f} s", flush=True)

    held_out_accuracy = accuracy(model, test_images, test_labels)
    offsets = ", ".join(f"{value:.2f}" for value in offset_deviations(model, test_images))
    save(model, arguments.epochs, held_out_accuracy, arguments.out)
    print(f"held-out accuracy {100 * held_out_accuracy:.2f} %, standard deviation of the offsets: {offsets} pixels")
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
