"""Golden outputs of the official networks: where they lie, how their samples are taken, which limits hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_deploy.checkpoints.seeded import DEFAULT_SEED, synthetic_image
from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.families import OFFICIAL_SPECS

DATA = Path(__file__).parents[1] / "data"
NAMES = ("lit_ti", "lit_s", "lit_m", "lit_b")

# reached by an independent implementation: 3.5e-6, 2e-5, 2e-6, 8e-7
LOGITS_LIMIT = 1e-5
TOKENS_LIMIT = 5e-5
OFFSETS_LIMIT = 1e-5
DCN_LIMIT = 5e-6  # of the output's scale

MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32)
STD = np.array((0.229, 0.224, 0.225), dtype=np.float32)

TINY = ModelSpec("custom", "lit", (8, 16, 32, 32), (1, 1, 2, 1), (2, 4), (2, 2, 2, 2), (64, 64), 7)
"""A LIT of 40 thousand parameters, for tests of everything but numbers."""
TINY_TI = ModelSpec("custom", "lit_ti", (8, 16, 64, 128), (1, 2, 1, 1), (1, 2), (2, 2, 1, 1), (64, 64), 5)
"""The same for the LIT-Ti family, whose heads are 64 channels wide."""


@dataclass(frozen=True)
class Golden:
    """Outputs of one official network for two images; axis 0 of every array is the image."""

    name: str
    arrays: dict[str, NDArray]

    def __getitem__(self, key: str) -> NDArray:
        return self.arrays[key]

    @property
    def spec(self) -> ModelSpec:
        return OFFICIAL_SPECS[self.name]

    def tokens_error(self, key: str, value: NDArray) -> float:
        """Largest difference of a ``[2, N, C]`` tensor from the stored samples and moments of ``key``."""
        flat = value.reshape(2, -1)
        assert tuple(self[key + ".shape"]) == value.shape[1:]
        return max(
            float(np.abs(strided(flat, 256) - self[key + ".strided256"]).max()),
            float(np.abs(flat[:, :256] - self[key + ".first256"]).max()),
            float(np.abs(flat.mean(axis=1, dtype=np.float64) - self[key + ".mean"]).max()),
            float(np.abs(flat.std(axis=1, dtype=np.float64) - self[key + ".std"]).max()),
        )


def strided(flat: NDArray, count: int) -> NDArray:
    """Take ``count`` evenly spread values of every row of ``[B, size]``, as the golden files do."""
    size = flat.shape[1]
    count = min(count, size)
    return flat[:, (np.arange(count) * size) // count]


@lru_cache
def load_golden(name: str) -> Golden:
    """Read the stored outputs of ``lit_ti``, ``lit_s``, ``lit_m`` or ``lit_b``."""
    with np.load(DATA / "golden" / f"{name}.npz") as file:
        return Golden(name, {key: file[key] for key in file.files})


def load_manifest(name: str) -> dict[str, tuple[int, ...]]:
    """Read the official keys and shapes, in official order."""
    entries = json.loads((DATA / "golden" / f"{name}.manifest.json").read_text())
    return {key: tuple(shape) for key, shape, _ in entries}


@lru_cache
def input_u8() -> NDArray[np.uint8]:
    """The two images of every golden batch: uint8 RGB ``[2, 224, 224, 3]``."""
    with np.load(DATA / "golden" / "input.npz") as file:
        china = file["china"]
    return np.stack((synthetic_image(DEFAULT_SEED, "classification", 224, 224), china))


@lru_cache
def normalised_input() -> NDArray[np.float32]:
    """The same as the networks take them: float32 ``[2, 3, 224, 224]``."""
    scaled = (input_u8().astype(np.float32) / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def dcn_cases() -> dict[str, dict[str, NDArray[np.float32]]]:
    """The deformable convolution cases by name: ``input`` NCHW, ``offset``, ``weight``, ``bias``, ``output``."""
    parts = ("input", "offset", "weight", "bias", "output")
    with np.load(DATA / "dcn.npz") as file:
        return {str(name): {part: file[f"{name}.{part}"] for part in parts} for name in file["cases"]}
