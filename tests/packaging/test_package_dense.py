"""``package`` of detectors and segmentation networks: what an ensemble answers, and what Triton is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.command import Run, assert_one_sentence
from support.dense import FAMILY_OF, DenseFile
from support.exported import edited
from support.fake_tensorrt import write_engine
from support.micro_dense import found, micro_dense, micro_dense_manifest
from support.triton_models import RequestError, assert_predicted, config_of, run_ensemble, run_python, turned_photo
from tritonclient.grpc import model_config_pb2 as triton

from lit_deploy.artifacts.sidecar import SizeProfile
from lit_deploy.core.specs import TaskName
from lit_deploy.ops.nms.matrix_form import COMPLETE
from lit_deploy.packaging.options import TritonOptions
from lit_deploy.packaging.package import package_triton
from lit_deploy.packaging.triton_steps import STEPS

PARTS = ("net_preprocessing", "net_network", "net_postprocessing")
PLAIN = TritonOptions("net", library=False)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return turned_photo(tmp_path / "photo.jpg")


@pytest.mark.parametrize("task", FAMILY_OF)
def test_answers_are_those_of_predict(task: str, dense_file: DenseFile, photo: Path, tmp_path: Path) -> None:
    file = dense_file(task)
    result = package_triton(file, tmp_path / "repo", PLAIN)
    assert (result.models, result.max_batch) == ((*PARTS, "net"), 0)
    assert_predicted(run_ensemble(tmp_path / "repo", "net", photo.read_bytes()), file, photo)


@pytest.mark.parametrize("task", FAMILY_OF)
@pytest.mark.parametrize("count", [0, 9])
def test_answers_of_networks_that_find_what_they_are_told(
    task: TaskName, count: int, photo: Path, tmp_path: Path
) -> None:
    """Odd boxes, none at all, floats for pixels; and the modules that came with the models do without our packages."""
    manifest = micro_dense_manifest(task)
    manifest = replace(manifest, input=replace(manifest.input, kind="float" if count else "uint8"))
    masks = task == "instance_segmentation"
    told = None if task == "semantic_segmentation" else found(count, 10, (210, 150), masks=masks)
    file = micro_dense(tmp_path / "micro.onnx", manifest, told)
    package_triton(file, tmp_path / "repo", PLAIN)
    answer = run_ensemble(tmp_path / "repo", "net", photo.read_bytes())
    assert assert_predicted(answer, file, photo) == (3 if told is None else count)


def test_refusals_of_requests(photo: Path, tmp_path: Path) -> None:
    """No image, and numbers that are no detections, fail their own requests; a model loads what it ships, no more."""
    told = found(3, 10, (210, 150), masks=False)
    told["scores"][0, 1] = np.nan
    package_triton(micro_dense(tmp_path / "a.onnx", micro_dense_manifest("detection"), told), tmp_path / "repo", PLAIN)
    with pytest.raises(RequestError, match="1: the file gives no answer for the image: its boxes, scores are not fin"):
        run_ensemble(tmp_path / "repo", "net", photo.read_bytes())
    images = [{"image": np.array([data], dtype=object)} for data in (b"none", photo.read_bytes())]
    (refused, prepared), modules = run_python(tmp_path / "repo" / PARTS[0], *images)
    assert (refused[0] or "").startswith("3: the image is not an image")
    assert prepared[0] is None
    own = {name for name in modules if name.startswith("lit_deploy") and name != "lit_deploy.tasks.detection"}
    shipped = {name.removesuffix(".py").removesuffix("/__init__") for name in STEPS["detection"].preprocessing}
    assert own == {("lit_deploy/" + name).removesuffix("/__init__").replace("/", ".") for name in shipped}
    assert not {"torch", "onnx", "msgspec", "onnxruntime"} & set(modules)


@pytest.mark.parametrize("size", [None, (64, 96)], ids=["dynamic", "fixed"])
def test_configurations(size: tuple[int, int] | None, tmp_path: Path) -> None:
    """Sizes as the file has them, a warm-up of sizes that exist, and a name for each tensor between the models."""
    manifest = micro_dense_manifest("detection")
    if size is not None:
        manifest = replace(manifest, input=replace(manifest.input, height=size[0], width=size[1]))
    file = micro_dense(tmp_path / "micro.onnx", manifest, found(2, 10, (210, 150), masks=False))
    package_triton(file, tmp_path / "repo", replace(PLAIN, workers=3))
    first, network, last = (config_of(tmp_path / "repo" / name) for name in PARTS)
    sides = list(size or (-1, -1))
    assert [list(value.dims) for value in network.input] == [[1, *sides, 3], [2]]
    assert [value.data_type for value in network.input] == [triton.TYPE_UINT8, triton.TYPE_INT64]
    assert {config.max_batch_size for config in (first, network, last)} == {0}
    assert {first.instance_group[0].count, last.instance_group[0].count} == {3}
    (warmup,) = network.model_warmup
    spec = manifest.input
    factor = min((spec.longest or 0) / 640, spec.resize / 480)
    pixels = warmup.inputs["image"]
    assert list(pixels.dims) == [1, *(size or (int(480 * factor + 0.5), int(640 * factor + 0.5))), 3]
    assert pixels.zero_data
    data = tmp_path / "repo" / "net_network" / "warmup" / warmup.inputs["original_size"].input_data_file
    assert np.frombuffer(data.read_bytes(), dtype="<i8").tolist() == [480, 640]
    steps = config_of(tmp_path / "repo" / "net").ensemble_scheduling.step
    assert [step.model_name for step in steps] == list(PARTS)
    assert dict(steps[1].input_map) == {"image": "network_image", "original_size": "original_size"}
    assert dict(steps[1].output_map) == {name: f"network_{name}" for name in ("boxes", "scores", "labels", "num")}


def test_engine(tmp_path: Path) -> None:
    """On a GPU, warmed up with the size that it is best at; whether it considered all candidates is told to clients."""

    def tell_complete(model: onnx.ModelProto) -> None:
        model.graph.output.append(onnx.helper.make_tensor_value_info(COMPLETE, onnx.TensorProto.INT32, [1]))

    file = micro_dense(tmp_path / "a.onnx", micro_dense_manifest("detection"), found(2, 10, (210, 150), masks=False))
    file, engine = edited(file, file, tell_complete), tmp_path / "net.engine"
    write_engine(file, engine, ((1, 1, 1),), sizes=SizeProfile((64, 96, 160), (64, 128, 160), (1, 200, 2048)))
    result = package_triton(engine, tmp_path / "repo", TritonOptions("net", release="25.03"))
    assert (result.models, result.max_batch) == ((*PARTS, "net"), 0)
    network, last, ensemble = (config_of(tmp_path / "repo" / name) for name in ("net_network", PARTS[2], "net"))
    assert (network.backend, network.instance_group[0].kind) == ("tensorrt", triton.ModelInstanceGroup.KIND_GPU)
    assert list(network.model_warmup[0].inputs["image"].dims) == [1, 96, 128, 3]
    size = (tmp_path / "repo" / "net_network" / "warmup" / "original_size").read_bytes()
    assert np.frombuffer(size, dtype="<i8").tolist() == [200, 200]
    results = [value.name for value in STEPS["detection"].results]
    assert [value.name for value in ensemble.output] == [*results, "original_size", "complete"]
    assert "complete" not in {value.name for value in last.input}


REFUSED: dict[str, tuple[TaskName, str, str]] = {
    "logits": ("semantic_segmentation", "", "gives logits of every pixel, and the ensemble gives labels"),
    "batches": ("detection", "--max-batch 4", "takes one picture a run, so Triton cannot batch requests"),
    "label engine": ("semantic_segmentation", "--triton 25.03", "is an engine that makes label maps of any size"),
}


@pytest.mark.parametrize(("task", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(task: TaskName, options: str, words: str, tmp_path: Path, run: Run) -> None:
    segments = task == "semantic_segmentation"
    manifest = micro_dense_manifest(task, output="logits" if segments and not options else "results")
    told = None if segments else found(2, 10, (210, 150), masks=False)
    file = micro_dense(tmp_path / "a.onnx", manifest, told)
    if "--triton" in options:
        engine = tmp_path / "a.engine"
        write_engine(file, engine, ((1, 1, 1),), sizes=SizeProfile((64, 96, 160), (64, 128, 160), (1, 200, 2048)))
        file = engine
    assert_one_sentence(run("package", file, "--target", "triton", *options.split()), words)
    assert list(Path.cwd().iterdir()) == []


def test_raw(tmp_path: Path, run: Run) -> None:
    """The network alone, with its own tensors; logits are nothing that Triton could answer by label."""
    file = micro_dense(tmp_path / "net.onnx", micro_dense_manifest("semantic_segmentation", output="logits"))
    assert run("package", file, "--target", "triton", "--raw", "--no-library").code == 0
    config = config_of(Path("model_repository/net"))
    assert [(value.name, list(value.dims), value.label_filename) for value in config.output] == [
        ("logits", [1, 3, -1, -1], "")
    ]
    assert "for name, values in feed.items():" in Path("model_repository/net/START.md").read_text()
