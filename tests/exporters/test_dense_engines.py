"""Engines of detectors and segmentation networks, built by TensorRT-RTX; nothing here runs one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import Run, assert_one_sentence
from support.dense import DenseFile
from support.engines import check_files, needs_plugin, needs_rtx

from lit_deploy.artifacts.sidecar import Sidecar, SizeProfile, read_sidecar
from lit_deploy.core.errors import MissingDependency, UsageError
from lit_deploy.core.specs import TensorSpec
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.machine import native
from lit_deploy.workflows.export import export_engine

RTX = EngineOptions(backend="tensorrt_rtx", plugin=False, targets=("8.9",), optimization_level=0)
RANGE = ((64, 128, 192), (64, 160, 256))


def engine_of(file: Path, folder: Path, **changes: object) -> Sidecar:
    export_engine(file, folder / "dense.engine", None, EngineOptions(**{**vars(RTX), **changes}))  # type: ignore[arg-type]
    return read_sidecar(folder / "dense.engine")


@needs_rtx
@pytest.mark.parametrize("family", ["retinanet_lit", "retinanet_lit_ti", "sem_fpn_lit", "sem_fpn_lit_ti"])
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed size, fp32", "any size, fp16"])
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


@needs_rtx
def test_all_sizes_of_the_resize_rule(dense_file: DenseFile, tmp_path: Path) -> None:
    sidecar = engine_of(dense_file("detection"), tmp_path, max_original=4096, nms_candidates=300)
    assert sidecar.sizes == SizeProfile((64, 800, 1333), (64, 1200, 1333), (1, 1200, 4096))


@needs_plugin
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed size, fp16", "any size, fp32"])
def test_mask_rcnn_calls_both_plugins_of_the_library(fixed: bool, dense_file: DenseFile, tmp_path: Path) -> None:
    """Every merging, and the regions of both heads; a mask for every row, whatever counts."""
    file = dense_file("instance_segmentation", **({"size": (128, 160), "precision": "fp16"} if fixed else {}))
    sidecar = engine_of(file, tmp_path, plugin=True, **({} if fixed else {"sizes": RANGE}))
    (inspection,) = sidecar.inspections
    assert inspection.plugin_layers == sidecar.manifest.model.mergings + 2
    assert inspection.products.keys() == {"float16" if fixed else "float32"}
    assert sidecar.plugin is not None
    assert sidecar.plugin.names == ("DeformableTokenMerging", "MultiLevelRoiAlign")
    assert {spec.name: spec.shape for spec in sidecar.outputs} == {
        "boxes": (1, 100, 4), "scores": (1, 100), "labels": (1, 100), "num": (1,), "masks": (1, 100, 28, 28),
        "complete": (1,),
    }  # fmt: skip
    check_files(tmp_path / "dense.engine")


@needs_rtx
def test_mask_rcnn_without_the_plugin(dense_file: DenseFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = "an engine of Mask R-CNN needs the plugin MultiLevelRoiAlign, as TensorRT has no such operator"
    file = dense_file("instance_segmentation")
    with pytest.raises(UsageError, match=f"{needed}; drop --no-plugin"):
        engine_of(file, tmp_path)
    with pytest.raises(UsageError, match=f"{needed}; drop --portable"):
        engine_of(dense_file("instance_segmentation", portable=True), tmp_path, plugin=None)
    monkeypatch.setattr(native, "find_plugin", lambda: None)
    monkeypatch.delenv(native.PLUGIN_VARIABLE, raising=False)
    with pytest.raises(MissingDependency, match=f"{needed}, and the plugin library was not found.*; build it: "):
        engine_of(file, tmp_path, plugin=None)
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_a_mask_rcnn_checkpoint_without_the_plugin_is_refused_before_it_is_exported(
    dense_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    steps: list[str] = []
    with pytest.raises(UsageError, match=r"needs the plugin MultiLevelRoiAlign.*; drop --no-plugin"):
        export_engine(
            dense_checkpoint("instance_segmentation"), tmp_path / "dense.engine", None, RTX,
            progress=lambda step: steps.append(step.name),
        )  # fmt: skip
    assert steps == ["load checkpoint"]
    assert list(tmp_path.iterdir()) == []


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
