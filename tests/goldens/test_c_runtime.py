"""The six official detectors and segmentation networks through the C API, with all their numbers: those of Python."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.dense_goldens import PHOTO, SIZES, files_of
from support.exported import needs_library
from support.runtime_dense import answer_of_python, assert_same
from support.runtime_library import needs_runtime
from support.runtime_models import backend, needs_onnxruntime, opened
from support.shared import later

from lit_deploy.artifacts.onnx_file import read_manifest, set_manifest
from lit_deploy.checkpoints.seeded import DEFAULT_SEED, synthetic_image
from lit_deploy.images.decoding import load_image

__all__ = ["backend"]  # a fixture
pytestmark = [
    needs_runtime,
    needs_onnxruntime,
    needs_library,
    pytest.mark.usefixtures("backend"),
    later,
]
NAMES = [f"{head}_lit_{size}" for head in ("retinanet", "mask_rcnn", "sem_fpn") for size in ("ti", "s")]
THREADS = 8


@pytest.fixture(scope="module", params=NAMES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The exported files of a network, which are large."""
    made = files_of(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    for path in made.values():
        path.unlink()


def test_the_photo(files: dict[str, Path]) -> None:
    """As users run it: at its official size, with our kernels."""
    path, pixels = files["photo-file"], np.asarray(load_image(PHOTO, exif=True))
    expected = answer_of_python(path, pixels, "onnxruntime", library=True)
    with opened(path) as model, model.context() as context:
        assert_same(context, model.info.task.decode(), pixels, expected)


def test_small_pictures_from_eight_threads(files: dict[str, Path], tmp_path: Path) -> None:
    """The goldens' own pictures, which its manifest is told to take as they are."""
    graph = onnx.load(str(files["net-file"]))
    manifest = read_manifest(files["net-file"])
    longest = max(max(size) for size in SIZES.values())
    for case, size in SIZES.items():
        path, pixels = tmp_path / "net.onnx", synthetic_image(DEFAULT_SEED, case, *size)
        as_it_is = replace(manifest.input, resize=min(size), longest=longest)
        set_manifest(graph, replace(manifest, input=as_it_is))
        onnx.save(graph, str(path))
        expected = answer_of_python(path, pixels, "onnxruntime", library=True)
        with opened(path, threads=1) as model, ThreadPoolExecutor(THREADS) as pool:
            task = model.info.task.decode()

            def run(_: int) -> None:
                with model.context() as context:
                    assert_same(context, task, pixels, expected)  # noqa: B023

            list(pool.map(run, range(THREADS)))
        path.unlink()
