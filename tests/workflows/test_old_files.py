"""Files that release 0.1.0 wrote, kept as it wrote them: they open, verify and predict as they did then."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.command import Run
from support.engines import host_with
from support.exported import KERNELS
from support.golden import DATA

from lit_deploy import predict_images, read_manifest, read_sidecar, verify_artifact
from lit_deploy.artifacts.preflight import preflight
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ArtifactError
from lit_deploy.machine.cuda import find_gpu

OLD = DATA / "v0.1.0"
FILES = ("tiny.onnx", "tiny_int8.onnx")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """The engine, which is kept compressed, with its sidecar and the file it was made from."""
    path = tmp_path / "tiny.engine"
    path.write_bytes(gzip.decompress((OLD / "tiny.engine.gz").read_bytes()))
    shutil.copyfile(OLD / "tiny.engine.json", tmp_path / "tiny.engine.json")
    shutil.copyfile(OLD / "tiny.onnx", tmp_path / "tiny.engine.onnx")
    return path


@pytest.mark.parametrize("name", FILES)
def test_manifest(name: str) -> None:
    manifest = read_manifest(OLD / name)
    assert (manifest.task, manifest.versions["lit_deploy"], manifest.model.num_classes) == (
        "classification",
        "0.1.0",
        7,
    )
    assert manifest.parity is not None
    assert manifest.parity["verdict"] == "pass"


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("name", FILES)
def test_predict(name: str, library: bool) -> None:
    """What 0.1.0 answered stands beside the files; int8 sums are the same on every CPU up to float32's order."""
    (expected,) = json.loads((OLD / "predictions.json").read_text())[name]
    (found,) = predict_images(OLD / name, [OLD / "picture.png"], options=SessionOptions(library=library))
    assert found.labels == tuple(expected["labels"])
    assert found.probabilities == pytest.approx(expected["probabilities"], abs=1e-5 if name == "tiny.onnx" else 2e-2)


@pytest.mark.parametrize("name", FILES)
def test_verify(name: str) -> None:
    assert verify_artifact(OLD / name, OLD / "tiny.pth").verdict == "pass"


def test_commands(run: Run) -> None:
    assert run("verify", OLD / "tiny.onnx", "--ckpt", OLD / "tiny.pth", "--layers").code == 0
    assert "class 5" in run("predict", OLD / "tiny.onnx", OLD / "picture.png").out
    assert json.loads(run("inspect", OLD / "tiny_int8.onnx", "--json").out)["task"] == "classification"


def test_engine_is_read_and_passes_preflight(engine: Path) -> None:
    sidecar = read_sidecar(engine)
    assert (sidecar.profiles, sidecar.manifest.task) == (((1, 8, 32),), "classification")
    fitting = host_with(version=sidecar.build.backend_version)
    assert preflight(engine, sidecar, fitting).compute_capability == "8.9"
    with pytest.raises(ArtifactError, match="not the file its sidecar describes"):
        preflight(engine, replace(sidecar, engine_sha256="0" * 64), fitting)


@pytest.mark.skipif(find_gpu() is not None, reason="a GPU is here, which may be one that the engine was built for")
def test_engine_says_what_is_missing(engine: Path, run: Run) -> None:
    for command in (["predict", engine, OLD / "picture.png"], ["verify", engine, "--ckpt", OLD / "tiny.pth"]):
        outcome = run(*command)
        assert (outcome.code, outcome.out) == (2, "")
        assert "GPU" in outcome.err or "TensorRT-RTX" in outcome.err
    assert json.loads(run("inspect", engine, "--json").out)["task"] == "classification"
