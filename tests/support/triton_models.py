"""A packaged ensemble without a server: its python models each in a process of their own, with what they ship."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format, text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2 as triton
from tritonclient.utils import triton_to_np_dtype

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.workflows.predict import predict_images

SERVER_PATHS = [str(Path(np.__file__).parents[1]), str(Path(__file__).parent / "triton_python")]
"""What a server's Python finds: NumPy, Pillow and others, and ``triton_python_backend_utils``."""

_WORKER = f"""
import pickle, sys
sys.path += [*{SERVER_PATHS!r}, sys.argv[1]]
import model
config, requests = pickle.load(sys.stdin.buffer)
instance = model.TritonPythonModel()
instance.initialize({{"model_config": config}})
answers = [(answer.error and str(answer.error), {{t.name: t.array for t in answer.tensors}})
           for answer in instance.execute(requests)]
pickle.dump((answers, sorted(sys.modules)), sys.stdout.buffer)
"""

Values = dict[str, Any]


class RequestError(Exception):
    """What a model answered instead of tensors."""


def config_of(model: Path) -> Any:
    """A model's configuration as Triton's own protobuf, which knows every field that may be there."""
    return text_format.Parse((model / "config.pbtxt").read_text(), triton.ModelConfig())


def run_python(model: Path, *requests: Values) -> tuple[list[tuple[str | None, Values]], list[str]]:
    """Errors and tensors that a python model answers requests with, and the modules that it loaded."""
    config = json_format.MessageToJson(config_of(model), preserving_proto_field_name=True)
    # -S: no path hooks, by which an editable installation of lit-deploy would be found before every folder
    done = subprocess.run(
        [sys.executable, "-S", "-c", _WORKER, str(model / "1")],
        input=pickle.dumps((config, requests)), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)  # type: ignore[no-any-return]


def run_ensemble(repository: Path, name: str, image: bytes) -> Values:
    """What an ensemble without batches answers, every tensor of the type and sizes that its configuration promises.

    Raises:
        RequestError: a model refuses.
    """
    ensemble = config_of(repository / name)
    tensors: Values = {ensemble.input[0].name: np.array([image], dtype=object)}
    for step in ensemble.ensemble_scheduling.step:
        model = config_of(repository / step.model_name)
        given = {own: tensors[between] for own, between in step.input_map.items()}
        _check(given, model.input)
        if model.backend == "python":
            ((error, values),) = run_python(repository / step.model_name, given)[0]
            if error is not None:
                raise RequestError(error)
        else:
            with open_session(repository / step.model_name / "1" / "model.onnx") as session:
                values = session.run(given)
        _check(values, model.output)
        tensors.update({between: values[own] for own, between in step.output_map.items()})
    answer = {output.name: tensors[output.name] for output in ensemble.output}
    _check(answer, ensemble.output)
    return answer


def _check(values: Values, promised: Any) -> None:
    assert values.keys() == {spec.name for spec in promised}
    for spec in promised:
        value, dims = values[spec.name], list(spec.dims)
        kind = triton.DataType.Name(spec.data_type).removeprefix("TYPE_")
        assert value.dtype == triton_to_np_dtype("BYTES" if kind == "STRING" else kind), spec.name
        assert [-1 if want == -1 else size for size, want in zip(value.shape, dims, strict=True)] == dims, spec.name


def turned_photo(path: Path) -> Path:
    """A picture that EXIF turns: upright it is 210 pixels high and 150 wide."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(synthetic_image(3, "photo", 150, 210)).save(path, exif=exif)
    return path


def assert_predicted(answer: Values, file: Path, photo: Path) -> int:
    """An ensemble's answer is what ``predict`` says; returns how many objects or classes that is."""
    (prediction,) = predict_images(file, [photo])
    assert answer["original_size"].tolist() == [prediction.height, prediction.width] == [210, 150]
    segmented = hasattr(prediction, "classes")
    entries = prediction.classes if segmented else prediction.detections
    assert answer["names"].tolist() == [entry.label.encode() for entry in entries]
    assert answer["category_ids"].tolist() == [entry.category_id for entry in entries]
    if segmented:
        np.testing.assert_array_equal(answer["labels"], prediction.label_map)
        assert answer["pixels"].tolist() == [entry.pixels for entry in entries]
        return len(entries)
    assert answer["scores"].tolist() == [entry.score for entry in entries]
    corners = [(x, y, x + w, y + h) for x, y, w, h in (entry.bbox for entry in entries)]
    np.testing.assert_allclose(answer["boxes"], np.reshape(corners, (-1, 4)), rtol=0, atol=1e-4)
    labels = read_manifest(file).labels
    assert [labels[index].encode() for index in answer["labels"]] == answer["names"].tolist()
    if "masks" in answer:
        assert answer["masks"].tolist() == [entry.segmentation["counts"].encode() for entry in entries]
        assert answer["areas"].tolist() == [entry.area for entry in entries]
    return len(entries)
