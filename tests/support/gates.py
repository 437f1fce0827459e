"""What tests of gates and of the sensitivity scan quantise, and what they look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_deploy.artifacts.onnx_file import OnnxArtifact, read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.specs import EightBit
from lit_deploy.exporters.qdq import observed, opened, products, quantized
from lit_deploy.images.calibration import CalibrationImages
from support.exported import export_of

CheckpointFile = Callable[[str], Path]


COUNT = 37


@pytest.fixture(scope="session")
def images(checkpoint_file: CheckpointFile) -> CalibrationImages:
    """Images of which the tiny network puts some into one class and some into another."""
    spec = read_manifest(export_of(checkpoint_file("tiny"))).input
    pixels = [synthetic_image(6, f"gates:{i}", spec.height, spec.width) * (0.2 + 0.02 * i) for i in range(COUNT)]
    return CalibrationImages(np.stack(pixels).astype(np.uint8), spec, "a folder", "")


def selected(images: CalibrationImages, indices: Sequence[int]) -> CalibrationImages:
    return replace(images, images=images.images[list(indices)])


def ranges(path: Path, images: CalibrationImages, precision: EightBit) -> dict[str, float]:
    """Largest magnitude of every value that is quantised."""
    artifact = opened(OnnxArtifact.read(path), precision)
    values = observed(products(artifact, precision))
    amax = dict.fromkeys(values, 0.0)
    with open_session(artifact, SessionOptions(threads=1, values=values)) as session:
        for feed in selected(images, range(36)).feeds(3):
            outputs = session.run({"images": feed})
            amax = {name: max(amax[name], float(np.abs(outputs[name]).max())) for name in values}
    return amax


def as_eight_bits(
    source: Path, target: Path, amax: Mapping[str, float], precision: EightBit = "int8", keep: Sequence[str] = ()
) -> Path:
    """Write a quantised copy of a file."""
    artifact = OnnxArtifact.read(source)
    graph = quantized(artifact.graph, precision, amax, products(artifact, precision, keep))
    replace(artifact, graph=graph).described(precision=precision).write(target)
    return target


def logits_one_by_one(path: Path, images: CalibrationImages) -> np.ndarray:
    with open_session(path, SessionOptions(threads=1)) as session:
        return np.concatenate([session.run({"images": feed})["logits"] for feed in images.feeds(1)])
