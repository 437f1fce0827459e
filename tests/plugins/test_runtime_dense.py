"""Detectors and segmentation networks in the C API say what Python says, on ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.dense import FAMILY_OF, DenseFile
from support.exported import needs_library
from support.runtime_dense import detected, encoded_mask, pasted_mask, segmented
from support.runtime_library import needs_runtime
from support.runtime_models import Context, Model, needs_onnxruntime, opened
from support.runtime_openvino import find_openvino_library, needs_extension, needs_openvino, opened_on_openvino

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Backend, SessionOptions
from lit_deploy.images.keep_ratio import keep_ratio_size, resize_bilinear
from lit_deploy.images.picture import Picture
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.tasks.dense.tensors import feed
from lit_deploy.tasks.detection.results import Detections, detections_of
from lit_deploy.tasks.instance_segmentation.pasting import pasted
from lit_deploy.tasks.instance_segmentation.rle import encoded
from lit_deploy.tasks.semantic_segmentation.predictions import labels_of

pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]

Pixels = NDArray[np.uint8]
PICTURES = [synthetic_image(9, str(width), height, width) for width, height in ((120, 90), (64, 131), (33, 32))]
THREADS = 4


def answer_of_python(path: Path, pixels: Pixels, backend: Backend, library: bool) -> dict[str, Any]:
    """What a session says about a picture that is decoded already."""
    manifest = read_manifest(path)
    size = pixels.shape[0], pixels.shape[1]
    picture = Picture(resize_bilinear(pixels, *keep_ratio_size(*size, manifest.input)), size)
    options = SessionOptions(backend=backend, library=None if library else False)
    with open_session(path, options) as session:
        return session.run(feed([picture], manifest))


def assert_same(context: Context, task: str, pixels: Pixels, expected: dict[str, Any]) -> None:
    """A context's answer is Python's."""
    if task == "semantic_segmentation":
        np.testing.assert_array_equal(segmented(context, pixels), labels_of(expected))
        return
    found, wanted = detected(context, pixels), detections_of(expected)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-6)
    if task == "instance_segmentation":
        assert_same_masks(context, wanted, pixels.shape[:2])


def assert_same_masks(context: Context, wanted: Detections, size: tuple[int, ...]) -> None:
    assert wanted.masks is not None
    for index, (cells, box) in enumerate(zip(wanted.masks, wanted.boxes, strict=True)):
        mask = pasted(cells, box, (size[0], size[1]))
        bits, top, left, area = pasted_mask(context, index)
        np.testing.assert_array_equal(bits, mask.bits)
        assert (top, left, area) == (mask.top, mask.left, mask.bits.sum())
        rle = encoded(mask.bits, size[0], size[1], mask.top, mask.left)
        assert encoded_mask(context, index) == (rle, area)


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
