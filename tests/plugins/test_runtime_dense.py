"""Detectors and segmentation networks in the C API say what Python says, on ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.dense import FAMILY_OF, DenseFile
from support.exported import needs_library
from support.runtime_dense import answer_of_python, assert_same
from support.runtime_library import needs_runtime
from support.runtime_models import Model, needs_onnxruntime, opened
from support.runtime_openvino import find_openvino_library, needs_extension, needs_openvino, opened_on_openvino

from lit_deploy.backends.protocol import Backend
from lit_deploy.images.synthetic import synthetic_image

pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]

PICTURES = [synthetic_image(9, str(width), height, width) for width, height in ((120, 90), (64, 131), (33, 32))]
THREADS = 4


@contextmanager
def on(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """A file opened as the back end's name in these tests says."""
    if kind == "openvino":
        monkeypatch.setenv("LIT_DEPLOY_OPENVINO", str(find_openvino_library()))
        with opened_on_openvino(path, threads=1) as model:
            yield model
    else:
        with opened(path, threads=1, **({} if kind == "kernels" else {"operator_library": b""})) as model:
            yield model


KINDS = [
    "functions",
    pytest.param("kernels", marks=needs_library),
    pytest.param("openvino", marks=[needs_openvino, needs_extension]),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", FAMILY_OF)
def test_answers_are_those_of_python(
    task: str, kind: str, dense_file: DenseFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dense_file(task)
    with on(kind, path, monkeypatch) as model, model.context() as context:
        assert model.info.task.decode() == task
        name: Backend = "openvino" if kind == "openvino" else "onnxruntime"
        expected = [answer_of_python(path, pixels, name, kind != "functions") for pixels in PICTURES]
        for pixels, answer in zip(PICTURES, expected, strict=True):
            assert_same(context, task, pixels, answer)

        def work(number: int) -> None:
            """The pictures again, beginning with another one in each thread."""
            with model.context() as own:
                for turn in range(len(PICTURES)):
                    index = (number + turn) % len(PICTURES)
                    assert_same(own, task, PICTURES[index], expected[index])

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
