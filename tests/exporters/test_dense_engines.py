"""Engines of detectors and segmentation networks, built by TensorRT-RTX; nothing here runs one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Run, assert_one_sentence
from support.dense import DenseFile
from support.engines import needs_rtx

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.artifacts.sidecar import Sidecar, SizeProfile, read_sidecar
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import TensorSpec
from lit_deploy.exporters.engine_options import EngineOptions, engine_sizes
from lit_deploy.workflows.export import export_engine

RTX = EngineOptions(backend="tensorrt_rtx", plugin=False, targets=("8.9",), optimization_level=0)
RANGE = ((64, 128, 192), (64, 160, 256))


def engine_of(file: Path, folder: Path, **changes: object) -> Sidecar:
    export_engine(file, folder / "dense.engine", None, EngineOptions(**{**vars(RTX), **changes}))  # type: ignore[arg-type]
    return read_sidecar(folder / "dense.engine")


@needs_rtx
@pytest.mark.parametrize(
    ("family", "fixed"),
    [
        pytest.param("retinanet_lit", True, id="retinanet_lit, fixed size, fp32"),
        pytest.param("retinanet_lit_ti", False, id="retinanet_lit_ti, any size, fp16"),
        pytest.param("sem_fpn_lit", False, id="sem_fpn_lit, any size, fp16"),
        pytest.param("sem_fpn_lit_ti", True, id="sem_fpn_lit_ti, fixed size, fp32"),
    ],
)
def test_built_without_a_plugin(family: str, fixed: bool, dense_file: DenseFile, tmp_path: Path) -> None:
    """Of the type that was asked for in every product, with the shapes that were asked for."""
    precision = "fp32" if fixed else "fp16"
    file = dense_file(family, precision=precision, **({"size": (128, 160)} if fixed else {}))
    sidecar = engine_of(file, tmp_path, **({} if fixed else {"sizes": RANGE}))
    (inspection,) = sidecar.inspections
    assert inspection.products.keys() == {"float32" if fixed else "float16"}
    assert inspection.plugin_layers == 0
    height, width = ((128,) * 3, (160,) * 3) if fixed else RANGE
    assert sidecar.sizes == SizeProfile(height, width, (1, 160, 2048))
    image, original = sidecar.inputs
    assert image.shape == (1, *((128, 160) if fixed else ("height", "width")), 3)
    assert original == TensorSpec("original_size", "int64", (2,))
    names = [spec.name for spec in sidecar.outputs]
    assert names == (["labels"] if "sem" in family else ["boxes", "scores", "labels", "num", "complete"])


def test_all_sizes_of_the_resize_rule(dense_file: DenseFile) -> None:
    manifest = read_manifest(dense_file("detection"))
    sizes = engine_sizes(manifest, EngineOptions(max_original=4096))
    assert sizes == SizeProfile((64, 800, 1333), (64, 1200, 1333), (1, 1200, 4096))


def test_what_cannot_be_built(dense_file: DenseFile, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for batches of 1 only"):
        engine_of(dense_file("detection"), tmp_path, profile=(1, 8, 32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--size", "64:128x96"], "expected HxW or MIN:OPT:MAXxMIN:OPT:MAX"),
        (["--size", "64:32:128x96"], "a side of the pictures is 64:32:128, expected MIN:OPT:MAX"),
        (["--size", "0:64:128x96"], "a side of the pictures is 0:64:128"),
        (["--size", "a:64:128x96"], "a side of the pictures is 0:64:128"),
    ],
)
def test_mistakes(typed: list[str], words: str, dense_file: DenseFile, tmp_path: Path, run: Run) -> None:
    out = ["--out", str(tmp_path / "dense.engine")]
    assert_one_sentence(run("export", "--ckpt", dense_file("detection"), "--format", "trt", *out, *typed), words)
