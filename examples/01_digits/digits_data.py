"""The digits of the example: scikit-learn's 1,797 handwritten digits, as pictures and as a fixed split.

``python digits_data.py DIR`` writes the held-out digits as ``DIR/<label>/<index>.png``; with ``--training``, those that
the network was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lit_deploy.core.specs import InputSpec

SEED = 2105
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
INPUT = InputSpec(kind="float", height=64, width=64, resize=int(256 / 224 * 64))


def split() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the 1,437 training digits and of the 360 held-out digits; every digit in equal proportion."""
    labels = load_digits().target
    train, held_out = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=SEED)
    return np.sort(train), np.sort(held_out)


def pictures(indices: NDArray[np.int64]) -> tuple[list[Image.Image], NDArray[np.int64]]:
    """Digits as a user would have them: dark ink on white paper, RGB, 80 x 80 pixels, with a margin.

    Returns:
        images, and int64 labels ``[N]`` 0..9.
    """
    digits = load_digits()
    images = []
    for ink in digits.images[indices]:  # 8 x 8, ink 0..16
        paper = np.pad(255 - ink * (255 / 16), 1, constant_values=255)
        small = Image.fromarray(paper.round().astype(np.uint8))
        images.append(small.resize((80, 80), Image.Resampling.BICUBIC).convert("RGB"))
    return images, digits.target[indices].astype(np.int64)


def write(directory: Path, indices: NDArray[np.int64]) -> list[Path]:
    """Write digits as ``directory/<label>/<index>.png`` and return the paths in order of index."""
    paths = []
    for index, image, label in zip(indices, *pictures(indices), strict=True):
        path = directory / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        paths.append(path)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write digits of the example as pictures.")
    parser.add_argument("directory", type=Path, help="folder to write to, one sub-folder per digit")
    parser.add_argument("--training", action="store_true", help="the training digits instead of the held-out ones")
    arguments = parser.parse_args()
    training, held_out = split()
    written = write(arguments.directory, training if arguments.training else held_out)
    print(f"{len(written)} digits written below {arguments.directory}")
