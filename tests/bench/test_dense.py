"""The benchmark of detectors and segmentation networks: one picture of a chosen size, and where its time goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.benchmarks import QUICK
from support.dense import DenseFile
from support.exported import needs_library
from support.reports import rendered

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.bench import contenders, parts
from lit_deploy.bench import run as bench
from lit_deploy.bench.contenders import Contender, contenders_for
from lit_deploy.bench.inputs import common_batches, common_size
from lit_deploy.bench.result import Part
from lit_deploy.bench.run import run_bench
from lit_deploy.bench.worker import Worker, seeded_feed
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.manifest import manifest_from_checkpoint
from lit_deploy.core.errors import LitDeployError, UsageError
from lit_deploy.machine import native
from lit_deploy.report.bench import bench_from_json, bench_markdown, bench_table
from lit_deploy.report.terminal import as_json

SIZE = (40, 52)
Of = Callable[[str], Path]
ONCE: dict[str, Any] = {**QUICK, "rounds": 1, "timeout": 120.0}


@pytest.fixture(scope="module")
def manifests(dense_checkpoint: Of, checkpoint_file: Of) -> dict[str, Manifest]:
    """Of small networks, by task; their files take any size."""
    paths = {
        "detection": dense_checkpoint("detection"),
        "semantic_segmentation": dense_checkpoint("semantic_segmentation"),
        "classification": checkpoint_file("tiny"),
    }
    return {task: manifest_from_checkpoint(load_checkpoint(path)) for task, path in paths.items()}


def fixed(manifest: Manifest, height: int, width: int) -> Manifest:
    return replace(manifest, input=replace(manifest.input, height=height, width=width))


@needs_library
@pytest.mark.usefixtures("uncompiled")
def test_instance_segmentation(dense_file: DenseFile, dense_checkpoint: Of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "cpu_flags", frozenset)  # bfloat16 finds other boxes with seeded weights
    path, checkpoint = dense_file("instance_segmentation"), dense_checkpoint("instance_segmentation")
    report = run_bench(contenders_for([path], checkpoint), size=SIZE, **ONCE)
    labels = [f"{path.name}, ONNX Runtime + lit-deploy kernel", f"{path.name}, ONNX Runtime"]
    labels += [f"{path.name}, OpenVINO + lit-deploy kernels"] if native.find_extension() else []
    assert [(m.label, m.batch) for m in report.measurements] == [(name, 1) for name in ("PyTorch eager", *labels)]
    assert (report.image_size, report.baseline) == (SIZE, "PyTorch eager")
    assert all(m.max_relative_difference is not None for m in report.measurements)

    assert [breakdown.label for breakdown in report.breakdowns] == labels[:2], "ONNX Runtime has a profiler"
    for breakdown in report.breakdowns:
        names = [part.name for part in breakdown.parts]
        assert names[:3] == ["network", "NMS", "RoIAlign"]
        assert names[3].startswith("pasting of ")
        assert all(part.milliseconds > 0 for part in breakdown.parts)
        assert breakdown.milliseconds == pytest.approx(sum(part.milliseconds for part in breakdown.parts))

    assert bench_from_json(as_json(report)) == report
    for text in (bench_markdown(report), rendered(bench_table(report))):
        assert "Where the time of one picture goes" in text
        assert f"{report.breakdowns[0].parts[2].milliseconds / report.breakdowns[0].milliseconds:.1%}" in text


@pytest.mark.usefixtures("uncompiled")
def test_segmentation_and_its_usual_batch(dense_file: DenseFile, dense_checkpoint: Of) -> None:
    """Label maps are handed over whole, and compared."""
    path = dense_file("semantic_segmentation")
    chosen = [
        Contender("eager", dense_checkpoint("semantic_segmentation"), "torch"),
        Contender("stock", path, "onnxruntime-stock"),
    ]
    report = run_bench(chosen, size=SIZE, **ONCE)
    assert [m.max_relative_difference for m in report.measurements] == [0.0, pytest.approx(0.0, abs=1e-3)]
    assert [part.name for part in report.breakdowns[0].parts] == ["network"]
    with pytest.raises(UsageError, match=r"stock takes one picture at a time.*\[1, 8\] were asked for; use --batch 1"):
        run_bench(chosen[1:], (1, 8), **ONCE)
    with pytest.raises(UsageError, match="--size is 8x9, expected 32 to 16384"):
        run_bench(chosen, size=(8, 9), **ONCE)


def test_thresholds_of_the_file_are_pytorchs(dense_file: DenseFile, dense_checkpoint: Of) -> None:
    path, checkpoint = dense_file("instance_segmentation"), dense_checkpoint("instance_segmentation")
    eager, *_ = contenders_for([path], checkpoint)
    assert eager.like == path
    named, *_ = contenders_for([checkpoint, path])
    assert named.like == path
    segmentation = dense_file("semantic_segmentation")
    eager, *_ = contenders_for([segmentation], dense_checkpoint("semantic_segmentation"))
    assert eager.like is None, "it has no thresholds, and the logits of every pixel are no peer's output"


@pytest.mark.usefixtures("uncompiled")
def test_pytorch_takes_the_thresholds_over(dense_checkpoint: Of, dense_file: DenseFile, tmp_path: Path) -> None:
    artifact = OnnxArtifact.read(dense_file("instance_segmentation"))
    assert artifact.manifest.dense is not None
    path = tmp_path / "other.onnx"
    artifact.described(dense=replace(artifact.manifest.dense, score_threshold=0.375)).write(path)
    with Worker("eager") as worker:
        eager = Contender("eager", dense_checkpoint("instance_segmentation"), "torch", like=path)
        answer = worker.ask(60, **eager.opening(1))
    taken = Manifest.from_json(answer["manifest"]).dense
    assert taken is not None
    assert taken.score_threshold == 0.375


def test_torch_compile_that_fails_is_left_out(
    dense_checkpoint: Of, dense_file: DenseFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Worker):
        def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
            if request["do"] == "prepare" and self.label == "compiled":
                raise LitDeployError("compiled: failed with BackendCompilerFailed: no")
            return super().ask(timeout, **request)

    monkeypatch.setattr(bench, "Worker", Failing)
    path = dense_file("semantic_segmentation")
    compiled = Contender("compiled", dense_checkpoint("semantic_segmentation"), "torch.compile")
    report = run_bench([Contender("stock", path, "onnxruntime-stock"), compiled], size=SIZE, **ONCE)
    assert [m.label for m in report.measurements] == ["stock"]
    (left_out,) = report.exclusions
    assert (left_out.label, left_out.batch) == ("compiled", 1)
    assert "torch.compile failed: compiled: failed with BackendCompilerFailed" in left_out.reason
    with pytest.raises(LitDeployError, match="BackendCompilerFailed"):
        run_bench([replace(compiled, kind="torch")], size=SIZE, **ONCE)


def test_size(manifests: Mapping[str, Manifest]) -> None:
    any_, classifier = manifests["detection"], manifests["classification"]
    assert common_size(None, {"a": any_}) == (800, 1216)
    assert common_size((64, 96), {"a": any_}) == (64, 96)
    assert common_size(None, {"a": any_, "b": fixed(any_, 64, 96)}) == (64, 96)
    assert common_size((64, 96), {"b": fixed(any_, 64, 96)}) == (64, 96)
    assert common_size(None, {"c": classifier}) == classifier.model.image_size
    with pytest.raises(UsageError, match="a classifier takes pictures of 64x64 only; leave --size out"):
        common_size((64, 64), {"c": classifier})
    with pytest.raises(
        UsageError, match=r"b was exported for pictures of 64x96, but --size is 96x64; leave --size out"
    ):
        common_size((96, 64), {"a": any_, "b": fixed(any_, 64, 96)})
    with pytest.raises(UsageError, match=r"different sizes \(b 64x96, c 96x64\)"):
        common_size(None, {"b": fixed(any_, 64, 96), "c": fixed(any_, 96, 64)})


def test_batches(manifests: Mapping[str, Manifest]) -> None:
    assert common_batches(None, {"a": manifests["detection"]}, {"a": (1, 1)}) == (1,)
    assert common_batches(None, {"c": manifests["classification"]}, {"c": (1, 1024)}) == (1, 8)
    with pytest.raises(UsageError, match="got networks for classification and detection, expected one task"):
        common_batches(None, {"a": manifests["detection"], "c": manifests["classification"]}, {})


def test_pictures_are_of_the_size_asked_for(manifests: Mapping[str, Manifest]) -> None:
    feed = seeded_feed(manifests["detection"], 1, SIZE)
    assert feed["image"].shape == (1, *SIZE, 3)
    assert feed["original_size"].tolist() != list(SIZE), "resizing back is part of the work"


def test_parts() -> None:
    runs = [{"Conv": 3.0, "Add": 1.0, "NonMaxSuppression": 0.5}, {"Conv": 5.0, "Add": 1.0, "NonMaxSuppression": 0.1}]
    assert parts.graph_parts([*runs, {"Conv": 9.0, "NonMaxSuppression": 9.0}]) == (
        Part("network", 6.0),
        Part("NMS", 0.5),
    )
    assert parts.graph_parts([{"Conv": 1.0, "Nms": 2.0, "MultiLevelRoiAlign": 3.0}])[1:] == (
        Part("NMS", 2.0), Part("RoIAlign", 3.0),
    )  # fmt: skip
    assert parts.host_parts({"labels": np.zeros((1, 2, 2))}, (2, 2)) == ()
    none = {"boxes": np.zeros((1, 4, 4)), "scores": np.zeros((1, 4)), "labels": -np.ones((1, 4)), "num": np.array([0])}
    (empty,) = parts.host_parts({**none, "masks": np.zeros((1, 4, 28, 28))}, (2, 2))
    assert empty.name == "pasting of 0 masks"
