"""Images drawn from a seed, the same on every platform; for tests, verification and benchmarks."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

DEFAULT_SEED = 2105
"""Seed of the golden files."""


def random_state(seed: int, key: str) -> np.random.RandomState:
    """Return the frozen generator that belongs to one key."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))


def synthetic_image(
    seed: int, name: str, height: int, width: int, cell: int = 16, noise: int = 24
) -> NDArray[np.uint8]:
    """Draw a smooth image with noise, in integers only and so the same on every platform.

    A coarse grid of uniform values (a node every ``cell`` pixels) is interpolated bilinearly; uniform noise of
    ``-noise..noise`` is added.

    Returns:
        uint8 RGB ``[height, width, 3]``.
    """
    rng = random_state(seed, name)
    grid = rng.randint(0, 256, size=(height // cell + 2, width // cell + 2, 3)).astype(np.int64)
    added = rng.randint(-noise, noise + 1, size=(height, width, 3)).astype(np.int64)
    y, x = np.arange(height), np.arange(width)
    y0, x0 = y // cell, x // cell
    fy, fx = (y % cell)[:, None, None], (x % cell)[None, :, None]
    top = grid[y0][:, x0] * (cell - fx) + grid[y0][:, x0 + 1] * fx
    bottom = grid[y0 + 1][:, x0] * (cell - fx) + grid[y0 + 1][:, x0 + 1] * fx
    smooth = (top * (cell - fy) + bottom * fy) // (cell * cell)
    return np.clip(smooth + added, 0, 255).astype(np.uint8)
