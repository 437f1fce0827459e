"""A real tritonserver with a packaged model: where one is named by LIT_DEPLOY_TRITONSERVER.

A server that has no onnxruntime back end (that of nvidia-pytriton) gets a stand-in for it: the python back end running
the packaged file on ONNX Runtime. Configurations, ensemble, preprocessing, labels and warm-up are the package's own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.dense import FAMILY_OF
from support.exported import export_of
from support.micro_dense import found, micro_dense, micro_dense_manifest
from support.triton_models import assert_predicted, turned_photo
from support.triton_server import FOLDER, needs_tritonserver, tritonserver, with_stand_in

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.specs import TaskName
from lit_deploy.images.preprocessing import batch_from_images
from lit_deploy.packaging.options import TritonOptions
from lit_deploy.packaging.package import package_triton

pytestmark = needs_tritonserver

HAS_ONNXRUNTIME = FOLDER is not None and (Path(FOLDER) / "backends" / "onnxruntime").is_dir()
CheckpointFile = Callable[[str], Path]
FILES: dict[str, dict[str, Any]] = {
    "float-logits": {}, "uint8-top5": {"input": "uint8", "output": "top5"}, "fixed-batch": {"batch": 3},
    "batch-1": {"batch": 1}, "openvino": {"portable": True},
}  # fmt: skip


def images_in(folder: Path) -> list[Path]:
    paths = []
    for number, (name, size) in enumerate((("a.jpg", (300, 400)), ("b.png", (91, 67)), ("c.png", (20, 500)))):
        Image.fromarray(synthetic_image(number, name, *size)).save(folder / name)
        paths.append(folder / name)
    return paths


def ask(server: Any, model: str, name: str, values: np.ndarray, kind: str, classes: int = 0) -> dict[str, np.ndarray]:
    """One request by gRPC; all outputs, or (``classes``) the labelled best of the logits."""
    from tritonclient import grpc as client

    tensor = client.InferInput(name, list(values.shape), kind)
    tensor.set_data_from_numpy(values)
    wanted = [client.InferRequestedOutput("logits", class_count=classes)] if classes else None
    with client.InferenceServerClient(server.grpc) as connection:
        answer = connection.infer(model, [tensor], outputs=wanted)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def first_answer(start: Path, photo: Path, server: Any) -> str:
    """What the client of START.md prints; by gRPC, for tritonclient's HTTP needs further packages."""
    (code,) = re.findall(r"```python\n(.*?)```", start.read_text(), re.DOTALL)
    for written, here in (("tritonclient.http", "tritonclient.grpc"), ("localhost:8000", server.grpc),
                          ("photo.jpg", str(photo))):  # fmt: skip
        assert written in code
        code = code.replace(written, here)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def encoded(paths: list[Path], fixed: bool) -> np.ndarray:
    values = np.array([path.read_bytes() for path in paths], dtype=object)
    return values if fixed else values[:, None]


@pytest.mark.parametrize("options", FILES.values(), ids=FILES)
def test_served(options: dict[str, Any], checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """From JPEG and PNG bytes to the outputs of a session here: crops to the bit, values to rounding."""
    from tritonclient.utils import InferenceServerException

    file = export_of(checkpoint_file("tiny"), **options)
    manifest = read_manifest(file)
    paths = images_in(tmp_path)[: manifest.batch]
    backend: Any = "openvino" if manifest.portable else "onnxruntime"
    result = package_triton(file, tmp_path / "repo", TritonOptions("net", threads=1, backend=backend))
    if not HAS_ONNXRUNTIME or manifest.portable:  # OpenVINO may compute in bfloat16
        with_stand_in(tmp_path / "repo" / "net_network", result.library)
    crops = batch_from_images(paths, manifest.input)
    with open_session(file) as session:
        expected = session.run({"images": crops})
    kind = "UINT8" if manifest.input.kind == "uint8" else "FP32"
    fixed = result.max_batch == 0
    with tritonserver(tmp_path / "repo", tmp_path, tmp_path / "repo" / "net") as server:
        assert "failed to load" not in server.log, server.log
        prepared = ask(server, "net_preprocessing", "image", encoded(paths, fixed), "BYTES")
        np.testing.assert_array_equal(prepared["images"], crops)
        whole = ask(server, "net", "image", encoded(paths, fixed), "BYTES")
        bare = ask(server, "net_network", "images", crops, kind)
        for answer in (whole, bare):
            assert answer.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_allclose(answer[name], value, rtol=0, atol=1e-5)
        labelled = manifest.output == "logits" and (not fixed or manifest.batch == 1)
        if labelled:
            best = ask(server, "net", "image", encoded(paths, fixed), "BYTES", classes=2)["logits"]
            names = [[entry.decode().split(":")[2] for entry in row] for row in best.reshape(-1, 2)]
            order = np.argsort(-expected["logits"], axis=1)[:, :2]
            assert names == [[manifest.labels[index] for index in row] for row in order]
        printed = first_answer(tmp_path / "repo" / "net" / "START.md", paths[0], server)
        if manifest.output == "logits":
            assert (f":{manifest.labels[expected['logits'][0].argmax()]}'" in printed) == labelled, printed
        broken = encoded([*paths[:-1], tmp_path / "repo" / "net" / "START.md"], fixed)
        with pytest.raises(InferenceServerException, match=f"image {len(paths) - 1} is not an image"):
            ask(server, "net", "image", broken, "BYTES")
        assert ask(server, "net", "image", encoded(paths, fixed), "BYTES").keys() == expected.keys()


@pytest.mark.parametrize("task", FAMILY_OF)
def test_dense_models_served(task: TaskName, tmp_path: Path) -> None:
    """From a picture's bytes to what ``predict`` says, with objects and without any; no image is one error."""
    from tritonclient.utils import InferenceServerException

    photo, files = turned_photo(tmp_path / "photo.jpg"), {}
    for count in (9, 0):
        told = None if task == "semantic_segmentation" else found(count, 10, (210, 150), masks="instance" in task)
        files[f"net{count}"] = micro_dense(tmp_path / f"net{count}.onnx", micro_dense_manifest(task), told)
    for name, file in files.items():
        package_triton(file, tmp_path / "repo", TritonOptions(name, library=False, workers=1))
        if not HAS_ONNXRUNTIME:
            with_stand_in(tmp_path / "repo" / f"{name}_network", None)
    image = np.array([photo.read_bytes()], dtype=object)
    with tritonserver(tmp_path / "repo", tmp_path) as server:
        assert "failed to load" not in server.log, server.log
        for name, file in files.items():
            assert_predicted(ask(server, name, "image", image, "BYTES"), file, photo)
        printed = first_answer(tmp_path / "repo" / "net9" / "START.md", photo, server)
        assert len(printed.splitlines()) == (3 if task == "semantic_segmentation" else 9), printed
        with pytest.raises(InferenceServerException, match="the image is not an image"):
            ask(server, "net9", "image", np.array([b"none"], dtype=object), "BYTES")


@pytest.mark.skipif(HAS_ONNXRUNTIME, reason="this server has the onnxruntime back end; test_served runs on it")
def test_configuration_is_valid(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """The server reads our file and misses its back end alone; that it would notice faults, two others show."""
    faults = {"good": "", "unknown": "max_batch_sizes: 3\n", "unfit": "instance_group { kind: KIND_CPU gpus: [0] }\n"}
    for name, fault in faults.items():
        package_triton(export_of(checkpoint_file("tiny")), tmp_path / "repo", TritonOptions(name, ensemble=False))
        config = tmp_path / "repo" / name / "config.pbtxt"
        if name == "unfit":
            with_stand_in(config.parent, None)
        config.write_text(config.read_text() + fault)
    with tritonserver(tmp_path / "repo", tmp_path) as server:
        log = server.log
    about = {name: "\n".join(line for line in log.splitlines() if name in line) for name in faults}
    assert "unable to find backend library for backend 'onnxruntime'" in about["good"], log
    assert "max_batch_sizes" in log, log
    assert "specifies one or more GPUs" in about["unfit"], log
