"""The C API on ONNX Runtime, through ctypes: what it computes, what it refuses and in which words."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from ctypes import byref, c_int64, c_size_t
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.exported import KERNELS, export_of
from support.quantized import quantized
from support.runtime_library import (
    LIBRARY,
    ROOT,
    STATUSES,
    ModelInfo,
    Output,
    Prediction,
    check,
    input_of,
    needs_runtime,
    picture_of,
    runtime,
)
from support.runtime_models import CLASSES, SIDE, UINT8, Context, micro, micro_manifest, needs_onnxruntime, opened
from support.runtime_refusals import assert_refused

import lit_deploy
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.specs import InputSpec
from lit_deploy.images.preprocessing import resize_and_crop

__all__ = ["quantized"]  # a fixture
pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]

HEADER = (ROOT / "plugins" / "runtime" / "include" / "lit_runtime.h").read_text()
Array = NDArray[Any]
CheckpointFile = Callable[[str], Path]


def images_of(spec: InputSpec, batch: int, seed: int = 0) -> Array:
    noise = np.random.default_rng(seed)
    if spec.kind == "uint8":
        return noise.integers(0, 256, (batch, spec.height, spec.width, 3), dtype=np.uint8)
    return noise.standard_normal((batch, 3, spec.height, spec.width)).astype(np.float32)


def assert_close(found: dict[str, Array], expected: dict[str, Array]) -> None:
    """1e-6 of the scale; indices are equal."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        if value.dtype == np.int64:
            np.testing.assert_array_equal(found[name], value)
        else:
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6 * np.abs(value).max())


# --------------------------------------------------------------------------------------------------- the header


def test_every_status_of_the_header_has_its_name() -> None:
    start = HEADER.index("typedef int32_t lit_status;")
    enum = HEADER[start : HEADER.index("};", start)]
    values = {name: int(value) for name, value in re.findall(r"^  (LIT_\w+) = (\d+)", enum, re.MULTILINE)}
    assert list(values) == list(STATUSES)
    for name, value in values.items():
        assert runtime().lit_status_name(value).decode() == name
    for unknown in (len(values), -1, 12345, 2**31 - 1):
        assert runtime().lit_status_name(unknown) == b"LIT_UNKNOWN_STATUS"


def test_versions() -> None:
    assert f"#define LIT_ABI_VERSION {runtime().lit_abi_version()}\n" in HEADER
    assert runtime().lit_version().decode() == lit_deploy.__version__


def test_the_library_exports_the_header_and_nothing_else() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm: apt-get install binutils")
    listed = subprocess.run([nm, "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[2].partition("@")[0] for line in listed.splitlines() if " T " in line}
    assert exported == set(re.findall(r"^LIT_API [^;]*?\b(lit_\w+)\(", HEADER, re.MULTILINE))
    assert not re.search(r" [BDGRVW] (?!_)", listed), "no data and no weak symbols either"


# ------------------------------------------------------------------------------------------------- what it computes

FILES: dict[str, dict[str, Any]] = {
    "float": {},
    "five best of pixels": {"input": "uint8", "output": "top5"},
    "fixed batch": {"batch": 2},
    "fp16": {"precision": "fp16"},
    "portable": {"portable": True},
}
"""All of the tiny network, as other tests export it; LIT-Ti, LIT-S and the digits are in test_runtime_consumers.py."""


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("name", FILES)
def test_equals_python(name: str, library: bool, checkpoint_file: CheckpointFile) -> None:
    path = export_of(checkpoint_file("tiny"), **FILES[name])
    manifest = read_manifest(path)
    images = images_of(manifest.input, manifest.batch or 3)
    with open_session(path, SessionOptions(library=None if library else False)) as session:
        expected, description = session.run({"images": images}), session.description
    leave_out = {} if library else {"operator_library": ""}
    with opened(path, **leave_out) as model, model.context() as context:
        assert_close(context.run(images), expected)
        assert model.info.backend.decode() == description
        assert model.info.precision.decode() == manifest.precision
        batch = manifest.batch
        assert (model.info.min_batch, model.info.max_batch) == ((batch, batch) if batch else (1, 1024))
        assert ("lit-deploy kernel" in description) == (library and not manifest.portable)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits_equal_python(precision: str, quantized: Callable[..., Path]) -> None:
    path = quantized("tiny", precision, "fp32")
    images = images_of(read_manifest(path).input, 3)
    with open_session(path) as session:
        expected = session.run({"images": images})
    with opened(path) as model, model.context() as context:
        assert_close(context.run(images), expected)
        assert model.info.precision.decode() == precision


def test_pixels_into_a_float_file(checkpoint_file: CheckpointFile) -> None:
    """The library normalises as lit_deploy.images.preprocessing does; rows may lie anyhow."""
    path = export_of(checkpoint_file("tiny"))
    spec = read_manifest(path).input
    pixels = images_of(replace(spec, kind="uint8"), 3)
    scaled = (pixels.astype(np.float32) / np.float32(255) - np.float32(spec.mean)) / np.float32(spec.std)
    with open_session(path) as session:
        expected = session.run({"images": np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))})
    with opened(path) as model, model.context() as context:
        assert_close(context.run(pixels), expected)
        for view in strided(pixels):
            assert_close(context.run(view), expected)


def strided(pixels: Array) -> list[Array]:
    """The same images with gaps between rows, between images, from the bottom up, and last image first."""
    batch, height, width, _ = pixels.shape
    wide = np.full((batch, height + 2, width + 5, 3), 77, np.uint8)
    gaps = wide[:, 1:-1, 2:-3]
    gaps[:] = pixels
    return [gaps, pixels[:, ::-1].copy()[:, ::-1], pixels[::-1].copy()[::-1], gaps[::-1, ::-1].copy()[::-1, ::-1]]


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_strides(kind: Any, tmp_path: Path) -> None:
    """Rows and images may lie anyhow; strides of 0 are those of dense images."""
    path = micro(tmp_path / "micro.onnx", micro_manifest(input=replace(UINT8, kind=kind)))
    pixels = images_of(UINT8, 3)
    with opened(path) as model, model.context() as context:
        expected = context.run(pixels)
        if kind == "uint8":
            np.testing.assert_array_equal(expected["logits"], pixels.reshape(3, -1)[:, :CLASSES])
        for view in strided(pixels):
            np.testing.assert_array_equal(context.run(view)["logits"], expected["logits"])
        default = context.tensor(pixels)
        default.row_stride = default.image_stride = 0
        output = context.raw(default)
        np.testing.assert_array_equal(np.ctypeslib.as_array(output.scores, (3, CLASSES)), expected["logits"])


def test_pictures_of_any_size(checkpoint_file: CheckpointFile) -> None:
    path = export_of(checkpoint_file("tiny"), input="uint8", output="top5", batch=2)
    spec = read_manifest(path).input
    pictures = [synthetic_image(6, f"runtime:{i}", 90 + 31 * i, 120 - 13 * i) for i in range(2)]
    crops = np.stack([resize_and_crop(Image.fromarray(picture), spec) for picture in pictures])
    with opened(path) as model, model.context() as context:
        expected = context.run(crops)
        for count in (2, 1):  # one is filled up to the fixed batch
            output = Output()
            given = (type(picture_of(pictures[0])) * count)(*map(picture_of, pictures[:count]))
            check(runtime().lit_run_images(context.handle, given, count, byref(output)))
            assert output.batch == count
            found = np.ctypeslib.as_array(output.scores, (count, 5))
            np.testing.assert_allclose(found, expected["scores"][:count], rtol=0, atol=1e-6)
            assert [p[0] for p in model.top_k(output, count - 1, 9)] == expected["classes"][count - 1].tolist()


def test_what_a_model_says_about_itself(tmp_path: Path) -> None:
    manifest = micro_manifest(input=InputSpec("uint8", 4, 6, 9, (0.1, 0.2, 0.3), (1, 2, 3), "bilinear"), batch=3)
    path = micro(tmp_path / "micro.onnx", manifest)
    with opened(path) as model:
        info = model.info
        assert info.struct_size == ctypes.sizeof(ModelInfo)
        texts = (info.task, info.name, info.precision)
        assert texts == (b"classification", b"custom", b"fp32")
        assert info.manifest.decode() == manifest.to_json()
        assert (info.output, info.num_classes, info.min_batch, info.max_batch) == (0, CLASSES, 3, 3)
        assert bytes(info.input) == bytes(input_of(manifest.input))
        labels = [runtime().lit_model_label(model.handle, i) for i in range(CLASSES)]
        assert tuple(label.decode() for label in labels) == manifest.labels
        for outside in (-1, CLASSES, 2**62, -(2**63)):
            assert runtime().lit_model_label(model.handle, outside) is None
    assert not runtime().lit_model_get_info(None)
    assert runtime().lit_model_label(None, 0) is None


# --------------------------------------------------------------------------------------------------------- lit_top_k


def scores_of(context: Context, values: list[float]) -> Output:
    """The output of a micro model for one image with these scores; of its own, so that the context may run again."""
    images = np.zeros((1, 3, SIDE, SIDE), np.float32)
    images.reshape(-1)[: len(values)] = values
    return context.raw(context.tensor(images))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [6, 5, 4, 3, 2, 1, 0]),
        ([5, 5, 1, 5, 1, 5, 5], [0, 1, 3, 5, 6, 2, 4]),  # ties: in order of the index
        ([0, 0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6]),
        ([NAN, 1, NAN, 3, 2, NAN, 0], [3, 4, 1, 6, 0, 2, 5]),  # what is no number comes last
        ([NAN] * 7, [0, 1, 2, 3, 4, 5, 6]),
        ([-INF, INF, 0, -1, INF, 1, -INF], [1, 4, 5, 2, 3, 0, 6]),
    ],
)
@pytest.mark.parametrize("k", [0, 1, 3, 7, 100])
def test_top_k_of_probabilities(values: list[float], order: list[int], k: int, tmp_path: Path) -> None:
    path = micro(tmp_path / "micro.onnx", micro_manifest(output="probabilities"))
    with opened(path) as model, model.context() as context:
        best = model.top_k(scores_of(context, values), 0, k)
        assert [index for index, _, _ in best] == order[:k]
        np.testing.assert_array_equal([score for _, score, _ in best], np.float32(values)[order[:k]])
        assert [label for _, _, label in best] == [micro_manifest().labels[i] for i in order[:k]]


def test_top_k_of_logits_is_softmax(tmp_path: Path) -> None:
    with opened(micro(tmp_path / "micro.onnx")) as model, model.context() as context:
        for values in ([1, -2, 3, 0.5, 3, 2, -80], [1000, 999, 0, 0, 0, 0, -1e30]):  # also where exp() overflows
            exact = np.exp(np.float64(values) - max(values))
            best = model.top_k(scores_of(context, values), 0, 7)
            order = sorted(range(7), key=lambda i: (-values[i], i))
            assert [index for index, _, _ in best] == order
            np.testing.assert_allclose([p for _, p, _ in best], (exact / exact.sum())[order], rtol=1e-6, atol=1e-30)
        best = model.top_k(scores_of(context, [1, NAN, 2, 3, 4, 5, 6]), 0, 7)  # no probability is known then
        assert np.isnan([p for _, p, _ in best]).all()


def test_top_k_of_five(tmp_path: Path) -> None:
    """The file's own order and indices; never more than it returns."""
    path = micro(tmp_path / "micro.onnx", micro_manifest(output="top5"))
    with opened(path) as model, model.context() as context:
        output = scores_of(context, [1, 7, 3, 6, 5, 2, 4])
        assert [p[:2] for p in model.top_k(output, 0, 100)] == [(1, 7.0), (3, 6.0), (4, 5.0), (6, 4.0), (2, 3.0)]
        forged = Output(output.scores, (c_int64 * 5)(1, CLASSES, 0, 0, 0), 1, 5)
        assert_refused("LIT_INVALID_ARGUMENT", f"names class {CLASSES}", lambda: model.top_k(forged, 0, 5))


def test_top_k_refuses(tmp_path: Path) -> None:
    with opened(micro(tmp_path / "micro.onnx")) as model, model.context() as context:
        output = scores_of(context, [1, 2, 3, 4, 5, 6, 7])
        for image in (-1, 1, 2**40):
            assert_refused(
                "LIT_INVALID_ARGUMENT", f"image is {image}; .* 1 of", lambda i=image: model.top_k(output, i, 1)
            )
        others = (Output(), Output(output.scores, None, 1, 3), Output(output.scores, (c_int64 * 7)(), 1, 7))
        for other in others:
            assert_refused("LIT_INVALID_ARGUMENT", "not one of this model", lambda o=other: model.top_k(o, 0, 1))
        best, count = Prediction(), c_size_t(9)
        for arguments in (
            (None, output, 0, 1, best, count),
            (model.handle, None, 0, 1, best, count),
            (model.handle, output, 0, 1, None, count),
            (model.handle, output, 0, 1, best, None),
        ):
            assert_refused("LIT_INVALID_ARGUMENT", "NULL", lambda a=arguments: check(runtime().lit_top_k(*a)))
        assert count.value == 0


def test_features_are_given_and_not_ranked(tmp_path: Path) -> None:
    spec = replace(micro_manifest().model, embed_dims=(8, 16, 32, CLASSES))
    path = micro(tmp_path / "micro.onnx", micro_manifest(output="features", model=spec))
    with opened(path) as model, model.context() as context:
        values = [3, -1, 0.5, 2, 7, -6, 4]
        output = scores_of(context, values)
        assert np.ctypeslib.as_array(output.scores, (1, output.count)).tolist() == [values]
        assert_refused("LIT_INVALID_ARGUMENT", "features, which name no classes", lambda: model.top_k(output, 0, 1))
