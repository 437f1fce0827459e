"""The model repository that ``package`` writes: what Triton is told, what lies in it, and how it comes there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.exported import export_of, needs_library, relabelled
from support.triton_models import SERVER_PATHS, config_of
from tritonclient.grpc import model_config_pb2 as triton

import lit_deploy
from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.errors import UsageError
from lit_deploy.images.preprocessing import batch_from_images
from lit_deploy.machine.native import LIBRARY_NAME, find_library
from lit_deploy.packaging.options import TritonOptions
from lit_deploy.packaging.package import package_triton
from lit_deploy.packaging.pbtxt import Name, message_text
from lit_deploy.packaging.triton_steps import STEPS

CheckpointFile = Callable[[str], Path]
LIBRARY = LIBRARY_NAME if find_library() is not None else None
TYPES = {
    onnx.TensorProto.FLOAT: triton.TYPE_FP32, onnx.TensorProto.UINT8: triton.TYPE_UINT8,
    onnx.TensorProto.INT64: triton.TYPE_INT64,
}  # fmt: skip


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tensors(values: Any) -> list[tuple[str, int, list[int]]]:
    return [(value.name, value.data_type, list(value.dims)) for value in values]


def graph_tensors(values: Any, batched: bool) -> list[tuple[str, int, list[int]]]:
    """Name, type and sizes of a graph's inputs or outputs; without the batch where Triton adds it."""
    found = []
    for value in values:
        dims = value.type.tensor_type.shape.dim
        sizes = [d.dim_value for d in (dims[1:] if batched else dims)]
        assert 0 not in sizes
        found.append((value.name, TYPES[value.type.tensor_type.elem_type], sizes))
    return found


FILES: dict[str, dict[str, Any]] = {
    "float-logits": {}, "probabilities": {"output": "probabilities"}, "fixed-batch": {"batch": 3},
    "batch-1": {"batch": 1}, "uint8-top5": {"input": "uint8", "output": "top5"}, "portable": {"portable": True},
}  # fmt: skip


@pytest.mark.parametrize("options", FILES.values(), ids=FILES)
def test_configurations(options: dict[str, Any], checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Every field, against the graph of the file and its manifest."""
    file = export_of(checkpoint_file("tiny"), **options)
    graph, manifest = onnx.load(str(file)).graph, read_manifest(file)
    wanted = TritonOptions(
        "net", None if manifest.batch else 16, max_delay_us=700, instances=3, threads=2, workers=4
    )  # fmt: skip
    result = package_triton(file, tmp_path / "repo", wanted)
    batched, batch = manifest.batch is None, 0 if manifest.batch else 16
    library = None if manifest.portable else LIBRARY
    assert (result.max_batch, result.library) == (batch, library)
    assert result.models == ("net_preprocessing", "net_network", "net")
    network, preprocessing, ensemble = (
        config_of(tmp_path / "repo" / name) for name in ("net_network", "net_preprocessing", "net")
    )

    assert (network.name, network.backend, network.platform) == ("net_network", "onnxruntime", "")
    assert network.max_batch_size == batch
    assert tensors(network.input) == graph_tensors(graph.input, batched)
    assert tensors(network.output) == graph_tensors(graph.output, batched)
    labels = ["labels.txt" if manifest.batch in (None, 1) else ""] if manifest.output != "top5" else ["", ""]
    assert [value.label_filename for value in network.output] == labels
    assert [(g.count, g.kind) for g in network.instance_group] == [(3, triton.ModelInstanceGroup.KIND_CPU)]
    assert network.HasField("dynamic_batching") == batched
    assert network.dynamic_batching.max_queue_delay_microseconds == (700 if batched else 0)
    assert {k: v.string_value for k, v in network.parameters.items()} == {"intra_op_thread_count": "2"}
    assert list(network.model_operations.op_library_filename) == ([library] if library else [])
    assert [entry.batch_size for entry in network.model_warmup] == ([1, 16] if batched else [1])
    for entry in network.model_warmup:
        ((name, value),) = entry.inputs.items()
        assert [(name, value.data_type, list(value.dims))] == tensors(network.input)
        assert value.zero_data

    image = [("image", triton.TYPE_STRING, [manifest.batch or 1])]
    assert (preprocessing.name, preprocessing.backend) == ("net_preprocessing", "python")
    assert preprocessing.max_batch_size == batch
    assert tensors(preprocessing.input) == image
    assert tensors(preprocessing.output) == tensors(network.input)
    assert {k: v.string_value for k, v in preprocessing.parameters.items()} == {
        "max_pixels": "50000000", "max_images": str(batch or manifest.batch)
    }  # fmt: skip
    assert [(g.count, g.kind) for g in preprocessing.instance_group] == [(4, triton.ModelInstanceGroup.KIND_CPU)]

    assert (ensemble.name, ensemble.platform, ensemble.backend) == ("net", "ensemble", "")
    assert ensemble.max_batch_size == batch
    assert tensors(ensemble.input) == image
    assert tensors(ensemble.output) == tensors(network.output)
    assert [value.label_filename for value in ensemble.output] == labels
    first, second = ensemble.ensemble_scheduling.step
    names = {value.name: value.name for value in network.output}
    assert (first.model_name, first.model_version) == ("net_preprocessing", -1)
    assert (dict(first.input_map), dict(first.output_map)) == ({"image": "image"}, {"images": "images"})
    assert (second.model_name, second.model_version) == ("net_network", -1)
    assert (dict(second.input_map), dict(second.output_map)) == ({"images": "images"}, names)


def test_contents(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """The exported file, the house's own preprocessing, the library, and nothing that Triton would take for a model."""
    file = relabelled(
        export_of(checkpoint_file("tiny")), tmp_path / "lit.onnx",
        labels=('a "quoted" name', "back\\slash", "naïve", "{brace}", "class: 7", "#hash", "'single'"),
    )  # fmt: skip
    package_triton(file, tmp_path / "repo")
    found, manifest = tree(tmp_path / "repo"), read_manifest(file)
    assert sorted(entry.name for entry in (tmp_path / "repo").iterdir()) == ["lit", "lit_network", "lit_preprocessing"]
    assert found["lit_network/1/model.onnx"] == file.read_bytes()
    for model in ("lit", "lit_network", "lit_preprocessing"):
        assert Manifest.from_json(found[f"{model}/1/manifest.json"].decode()) == manifest
        assert [entry.name for entry in (tmp_path / "repo" / model).iterdir() if entry.is_dir()] == ["1"]
    for model in ("lit", "lit_network"):
        assert found[f"{model}/labels.txt"].decode().splitlines() == list(manifest.labels)
    house = Path(lit_deploy.__file__).parent
    shipped, modules = "lit_preprocessing/1/lit_deploy/", STEPS["classification"].preprocessing
    assert sorted(name.removeprefix(shipped) for name in found if name.startswith(shipped)) == sorted(modules)
    for name in modules:
        assert found[shipped + name] == (house / name).read_bytes()
    if LIBRARY is not None:
        assert found[f"lit/{LIBRARY}"] == (find_library() or Path()).read_bytes()


def test_bare_network(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    result = package_triton(
        export_of(checkpoint_file("tiny")), tmp_path / "repo", TritonOptions(ensemble=False, library=False)
    )
    assert result.models == ("tiny",)
    config = config_of(tmp_path / "repo" / "tiny")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 8)
    assert not config.HasField("model_operations")
    assert "intra_op_thread_count" not in config.parameters
    names = {"config.pbtxt", "labels.txt", "1/model.onnx", "1/manifest.json", "START.md", "deployment.yaml",
             "kserve.yaml", "autoscaling.yaml", "autoscaling-rule.yaml", "autoscaling-kserve.yaml"}  # fmt: skip
    assert set(tree(tmp_path / "repo" / "tiny")) == names


def test_cuda(checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library without a CUDA kernel would copy every token map to the host and back."""
    (tmp_path / LIBRARY_NAME).write_bytes(b"GLIBC_2.17 GLIBC_2.4")
    monkeypatch.setenv("LIT_DEPLOY_LIBRARY", str(tmp_path / LIBRARY_NAME))
    file = export_of(checkpoint_file("tiny"))
    for kernel in (False, True):
        monkeypatch.setattr("lit_deploy.machine.native.has_cuda_kernel", lambda _, kernel=kernel: kernel)
        result = package_triton(file, tmp_path / "repo", TritonOptions(device="cuda", threads=2, force=True))
        config = config_of(tmp_path / "repo" / "tiny_network")
        assert config.instance_group[0].kind == triton.ModelInstanceGroup.KIND_GPU
        assert list(config.model_operations.op_library_filename) == ([LIBRARY_NAME] if kernel else [])
        assert (result.library, (tmp_path / "repo" / "tiny" / LIBRARY_NAME).is_file()) == (
            LIBRARY_NAME if kernel else None, kernel,
        )  # fmt: skip
        assert any("glibc 2.17" in note for note in result.notes) == kernel
        assert "intra_op_thread_count" not in config.parameters


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text("\"\\'\n\x00\x017\x7f{}é☃"), st.integers(-5, 2**31))
def test_text_format(first: str, second: str, number: int) -> None:
    """Whatever is in a name comes out of Triton's parser as it went in."""
    number = max(number, -5) % 2**31
    text = message_text(
        {
            "name": first, "backend": second, "max_batch_size": number,
            "input": [{"name": second, "data_type": Name("TYPE_FP32"), "dims": [1, -1, number]}, {"name": first}],
            "parameters": [{"key": first, "value": {"string_value": second}}],
            "model_operations": {"op_library_filename": [first, second]},
            "dynamic_batching": {"preserve_ordering": True},
        }
    )  # fmt: skip
    config = text_format.Parse(text, triton.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == (first, second, number)
    assert tensors(config.input) == [(second, triton.TYPE_FP32, [1, -1, number]), (first, triton.TYPE_INVALID, [])]
    assert {key: value.string_value for key, value in config.parameters.items()} == {first: second}
    assert list(config.model_operations.op_library_filename) == [first, second]
    assert config.dynamic_batching.preserve_ordering


HARNESS = """
import json, sys
import numpy as np

folder, images = sys.argv[1], sys.argv[2:]
sys.path.append(folder)
import model
instance = model.TritonPythonModel()
config = {"input": [{"name": "image"}], "output": [{"name": "images"}],
          "parameters": {"max_pixels": {"string_value": "200000"}, "max_images": {"string_value": "3"}}}
instance.initialize({"model_config": json.dumps(config)})
good = np.array([[open(path, "rb").read()] for path in images], dtype=object)
bad = np.array([[open(images[0], "rb").read()], [b"no image"]], dtype=object)
large = np.array([[open("large.png", "rb").read()]], dtype=object)
first, second, third, fourth = instance.execute([{"image": i} for i in (good, bad, good[:1], large)])
assert first.error is None and third.error is None and second.tensors == ()
np.savez(sys.stdout.buffer, crops=first.tensors[0].array, one=third.tensors[0].array)
loaded = sorted(name for name in sys.modules if name.startswith("lit_deploy"))
print(json.dumps([str(second.error), str(fourth.error), first.tensors[0].name, loaded,
                  sys.modules["lit_deploy"].__file__,
                  sorted({"torch", "onnx", "msgspec", "onnxruntime"} & set(sys.modules))]), file=sys.stderr)
"""


@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_preprocessing_model(kind: str, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """It runs by its own copy of the rule, on Pillow and NumPy alone, to the same bits; a bad image is one error."""
    file = relabelled(
        export_of(checkpoint_file("tiny"), **({} if kind == "float" else FILES["uint8-top5"])), tmp_path / "odd.onnx"
    )  # fmt: skip
    package_triton(file, tmp_path / "repo")
    images = [tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "c.png"]
    for path, size in zip(images, ((300, 400), (91, 67), (20, 500)), strict=True):
        Image.fromarray(synthetic_image(1, path.name, *size)).save(path)
    Image.new("RGB", (501, 400)).save(tmp_path / "large.png")
    folder = tmp_path / "repo" / "odd_preprocessing" / "1"
    # -S: no path hooks, by which an editable installation of lit-deploy would be found before every folder
    script = f"import sys; sys.path += {SERVER_PATHS!r}\n{HARNESS}"
    command = [sys.executable, "-S", "-c", script, str(folder), *map(str, images)]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr.decode()
    (tmp_path / "out.npz").write_bytes(done.stdout)
    error, too_large, name, loaded, package, heavy = json.loads(done.stderr)
    assert error.startswith("3: image 1 is not an image")
    assert "/" not in error, "no path of the server"
    assert too_large.startswith("3: image 0 has 501 x 400 pixels where at most 200000 are accepted")
    assert name == "images"
    assert Path(package).parent == folder / "lit_deploy"
    assert loaded == [
        "lit_deploy",
        "lit_deploy.core",
        "lit_deploy.core.errors",
        "lit_deploy.core.specs",
        "lit_deploy.images",
        "lit_deploy.images.containers",
        "lit_deploy.images.decoding",
        "lit_deploy.images.picture",
        "lit_deploy.images.preprocessing",
    ]
    assert heavy == []
    with np.load(tmp_path / "out.npz") as out:
        wanted = batch_from_images(images, read_manifest(file).input)
        assert out["crops"].dtype == wanted.dtype
        np.testing.assert_array_equal(out["crops"], wanted)
        np.testing.assert_array_equal(out["one"], wanted[:1])


@needs_library
def test_library_is_found_by_its_bare_name(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """As Triton's back end hands it to ONNX Runtime, with the LD_LIBRARY_PATH of the start command."""
    result = package_triton(export_of(checkpoint_file("tiny")), tmp_path / "repo")
    assert result.command.startswith(f"LD_LIBRARY_PATH={tmp_path}/repo/tiny$")
    script = f"import onnxruntime as ort; ort.SessionOptions().register_custom_ops_library('{LIBRARY_NAME}')"
    bare = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    for path, code in (("/nowhere", 1), (str(tmp_path / "repo" / "tiny"), 0)):
        done = subprocess.run(
            [sys.executable, "-c", script], env={**bare, "LD_LIBRARY_PATH": path}, cwd=tmp_path, capture_output=True
        )
        assert done.returncode == code, done.stderr.decode()


def test_options_are_checked() -> None:
    for wrong in ({"max_batch": 0}, {"instances": 0}, {"workers": 0}, {"threads": 0}, {"max_delay_us": -1},
                  {"device": "tpu"}, {"release": "latest"}, {"image": "two words"}, {"instances": 2**31},
                  {"workers": 1025}, {"threads": 2**31}, {"max_delay_us": 2**64}, {"release": "25.13"},
                  {"release": "25.00"}, {"release": "24.10"}, {"image": "Lit"}, {"image": "a//b"}, {"image": "a:b:c"},
                  {"image": "a@sha256:1"}):  # fmt: skip
        with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
            replace(TritonOptions(), **wrong)  # type: ignore[arg-type]
    TritonOptions(release="24.10", ensemble=False)
    for image in ("a", "lit_s-triton:26.06", "Host.example:5000/a/b__c:V1", f"a/b@sha256:{'0' * 64}"):
        TritonOptions(image=image)
