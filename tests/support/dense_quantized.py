"""Small detectors and segmentation networks in int8, and the pictures whose ranges they know; each file made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.quantize import gates
from lit_deploy.quantize.run import QuantizeOptions, QuantizeResult, quantize_file
from support.dense import DenseFile
from support.exported import relabelled
from support.quantization import FASTER, pretend

__all__ = ["DenseInt8", "dense_int8", "dense_wide", "pictures"]

SIZES = ((96, 144), (130, 90), (100, 100), (60, 170), (97, 131), (150, 110))
"""Height and width of the pictures, none like another."""

SHORTER = 96
"""Pixels to which the shorter side is resized at most; the official 800 would take seconds a picture."""

DenseInt8 = Callable[[str], QuantizeResult]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of different sizes, and a file that is none."""
    folder = tmp_path_factory.mktemp("dense_pictures")
    for number, (height, width) in enumerate(SIZES):
        Image.fromarray(synthetic_image(8, f"dense:{number}", height, width)).save(folder / f"{number}.png")
    (folder / "2b.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="session")
def dense_wide(dense_file: DenseFile, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The fp32 file of a small network, by task, whose manifest asks for small pictures."""
    folder = tmp_path_factory.mktemp("dense_wide")

    def of(task: str) -> Path:
        path = folder / f"{task}.onnx"
        if not path.exists():
            source = dense_file(task)
            relabelled(source, path, input=replace(read_manifest(source).input, resize=SHORTER))
        return path

    return of


@pytest.fixture(scope="session")
def dense_int8(
    dense_wide: Callable[[str], Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> DenseInt8:
    """What came of quantising that file, by task; a stand-in says that it is faster."""
    folder = tmp_path_factory.mktemp("dense_int8")
    made: dict[str, QuantizeResult] = {}

    def of(task: str) -> QuantizeResult:
        if task not in made:
            options = QuantizeOptions(pictures, accuracy_budget=0.5)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(gates, "measure_speed", pretend(FASTER))
                made[task] = quantize_file(dense_wide(task), folder / f"{task}.onnx", options, threads=1)
        return made[task]

    return of
