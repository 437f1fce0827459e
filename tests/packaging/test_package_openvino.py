"""``package --backend openvino``: what Triton's OpenVINO back end is told of portable files, and what it cannot run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import Run, assert_one_sentence
from support.exported import export_of, relabelled
from support.micro_dense import found, micro_dense, micro_dense_manifest
from support.triton_models import assert_predicted, config_of, run_ensemble, run_python, turned_photo

from lit_deploy.packaging.options import TritonOptions
from lit_deploy.packaging.package import package_triton

CheckpointFile = Callable[[str], Path]


@pytest.fixture
def model(checkpoint_file: CheckpointFile) -> Path:
    return export_of(checkpoint_file("tiny"), portable=True)


def assert_taken(model: Path) -> None:
    """Inputs and outputs as this back end compares them with what OpenVINO reads in the file."""
    openvino = pytest.importorskip("openvino")
    config = config_of(model)
    network = openvino.Core().read_model(model / "1" / config.default_model_filename)
    for values, ports in ((config.input, network.inputs), (config.output, network.outputs)):
        shapes = {port.any_name: port.partial_shape for port in ports}
        assert {value.name for value in values} == shapes.keys()
        for value in values:
            for size, dimension in zip(value.dims, shapes[value.name], strict=True):
                assert size == dimension.get_length() if dimension.is_static else dimension == openvino.Dimension(-1)


def test_classifier(model: Path, tmp_path: Path) -> None:
    """Some images a request, each run as it comes; START.md sends one."""
    result = package_triton(model, tmp_path / "repo", TritonOptions("net", backend="openvino", instances=2, threads=3))
    assert (result.max_batch, result.library) == (0, None)
    assert any("bfloat16" in note for note in result.notes)
    network, ensemble = (config_of(tmp_path / "repo" / name) for name in ("net_network", "net"))
    assert (network.backend, network.max_batch_size) == ("openvino", 0)
    assert {key: value.string_value for key, value in network.parameters.items()} == {
        "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "6"
    }  # fmt: skip
    assert not network.HasField("dynamic_batching")
    assert [list(entry.dims) for entry in (network.input[0], ensemble.input[0])] == [[-1, 3, 64, 64], [-1]]
    assert network.model_warmup[0].inputs["images"].dims[0] == 1
    assert [value.label_filename for value in ensemble.output] == [""], "of many images Triton could not tell labels"
    assert_taken(tmp_path / "repo" / "net_network")
    many = {"image": np.array([b"no image"] * 9, dtype=object)}
    ((error, _),) = run_python(tmp_path / "repo" / "net_preprocessing", many)[0]
    assert str(error).startswith("3: a request of 9 images, where at most 8 are accepted")
    assert 'InferInput("image", (1,), "BYTES")' in (tmp_path / "repo" / "net" / "START.md").read_text()


def test_detector(tmp_path: Path) -> None:
    file = micro_dense(
        tmp_path / "a.onnx", micro_dense_manifest("detection", portable=True), found(4, 10, (210, 150), masks=False)
    )
    package_triton(file, tmp_path / "repo", TritonOptions("net", backend="openvino"))
    assert_taken(tmp_path / "repo" / "net_network")
    photo = turned_photo(tmp_path / "photo.jpg")
    assert_predicted(run_ensemble(tmp_path / "repo", "net", photo.read_bytes()), file, photo)


def test_bf16(model: Path, tmp_path: Path) -> None:
    """What the file is computed in is said to OpenVINO, and nothing that would be another surprise to the user."""
    file = relabelled(model, tmp_path / "b.onnx", precision="bf16")
    result = package_triton(file, tmp_path / "repo", TritonOptions("net", backend="openvino", threads=1))
    assert config_of(tmp_path / "repo" / "net_network").parameters["HINT_BF16"].string_value == "YES"
    assert result.notes == ()


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "operators": ({"portable": False}, "", "not the one in Triton's containers; export it with --portable"),
    "library": ({}, "--library", "which OpenVINO runs without a library; leave --library out"),
    "cuda": ({}, "--device cuda", "OpenVINO back end runs on the CPU; leave --device out"),
    "batches": ({}, "--max-batch 4", "fills every batch up to the largest, so each request is run as it comes"),
    "fp8": ({"precision": "fp8"}, "", "is of fp8, which OpenVINO does not run"),
}


@pytest.mark.parametrize(("changes", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    changes: dict[str, Any], options: str, words: str, model: Path, tmp_path: Path, run: Run
) -> None:
    file = relabelled(model, tmp_path / "a.onnx", **changes)
    outcome = run("package", file, "--target", "triton", "--backend", "openvino", *options.split())
    assert_one_sentence(outcome, words)
    assert list(Path.cwd().iterdir()) == []


def test_irs_are_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.xml").write_text("<net/>")
    outcome = run("package", tmp_path / "a.xml", "--target", "triton")
    assert_one_sentence(outcome, "is an IR of OpenVINO; package a portable")
