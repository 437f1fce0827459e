"""``lit_preprocess`` against the frozen official evaluation and against Pillow, to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.exported import export_of
from support.prepared import GOLDEN, NAMES, RAW, golden_file
from support.runtime_library import (
    INTERPOLATIONS,
    TYPES,
    Failure,
    Options,
    Output,
    Picture,
    Tensor,
    check,
    input_of,
    needs_runtime,
    picture_of,
    runtime,
)

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.specs import InputSpec
from lit_deploy.images.decoding import MAX_PIXELS, load_image
from lit_deploy.images.preprocessing import normalize, resize_and_crop, resized_size
from lit_deploy.machine.native import find_onnxruntime_library

pytestmark = needs_runtime

Pixels = NDArray[np.uint8]
GUARD = 64  # bytes behind the result that nobody may write
MARK = 0xA5
INT_MAX, INT_MIN = 2**31 - 1, -(2**31)
PTRDIFF_MAX, PTRDIFF_MIN = 2**63 - 1, -(2**63)


def preprocess(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Call the library, and see that it wrote the crop and nothing behind it."""
    crop_bytes = spec.height * spec.width * 3
    target = np.full(crop_bytes + GUARD, MARK, np.uint8)
    check(runtime().lit_preprocess(input_of(spec), picture_of(pixels), target.ctypes.data))
    assert (target[crop_bytes:] == MARK).all()
    return target[:crop_bytes].reshape(spec.height, spec.width, 3)


def pillow(pixels: Pixels, spec: InputSpec) -> Pixels:
    """What Pillow computes, rows first and columns second whatever its release does with tall pictures."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    width, height = resized_size(image.width, image.height, spec)
    method = Image.Resampling[spec.interpolation.upper()]
    image = image.resize((width, image.height), method).resize((width, height), method)
    left, top = round((width - spec.width) / 2), round((height - spec.height) / 2)
    return np.asarray(image)[top : top + spec.height, left : left + spec.width]


def assert_equals_pillow(pixels: Pixels, spec: InputSpec) -> None:
    np.testing.assert_array_equal(preprocess(pixels, spec), pillow(pixels, spec))


def noise(
    width: int, height: int, seed: int = 0, padding: int = 0, flipped: bool = False, hard: bool = False
) -> Pixels:
    """Random pixels, ``padding`` bytes behind every row, bottom-up if ``flipped``, only 0 and 255 if ``hard``."""
    buffer = np.random.default_rng(seed).integers(0, 256, (height, 3 * width + padding), dtype=np.uint8)
    if hard:  # where bicubic overshoots, and has to be clipped
        buffer = np.where(buffer < 128, np.uint8(0), np.uint8(255))
    shape, strides = (height, width, 3), (buffer.strides[0], 3, 1)
    pixels = np.lib.stride_tricks.as_strided(buffer, shape, strides)
    return pixels[::-1] if flipped else pixels


@pytest.mark.parametrize("name", NAMES)
def test_official_evaluation_is_reproduced(name: str, tmp_path: Path) -> None:
    pixels = np.asarray(load_image(golden_file(name, tmp_path)))
    np.testing.assert_array_equal(preprocess(pixels, RAW), GOLDEN[f"{name}.cls.crop"])


@settings(deadline=None, max_examples=300)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    crop=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    resize=st.integers(1, 120),
    interpolation=st.sampled_from(INTERPOLATIONS),
    seed=st.integers(0, 999),
    padding=st.integers(0, 20),
    flipped=st.booleans(),
    hard=st.booleans(),
)
def test_equals_pillow(
    width: int,
    height: int,
    crop: tuple[int, int],
    resize: int,
    interpolation: Any,
    seed: int,
    padding: int,
    flipped: bool,
    hard: bool,
) -> None:
    resize = min(resize, 16 * max(crop))  # a larger one is refused as a typing mistake
    spec = InputSpec("uint8", *crop, resize, interpolation=interpolation)
    assert_equals_pillow(noise(width, height, seed, padding, flipped, hard), spec)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("width", "height", "crop", "resize"),
    [
        (1, 1, (1, 1), 1),
        (1, 1, (224, 224), 256),  # everything from one pixel
        (1, 300, (64, 64), 72),  # needles
        (300, 1, (64, 64), 72),
        (2, 3000, (32, 32), 36),
        (12000, 40, (32, 32), 36),  # a panorama: a few of its columns make the crop
        (40, 12000, (32, 32), 36),
        (1500, 2000, (224, 224), 256),
        (256, 256, (224, 224), 256),  # nothing to resize
        (256, 300, (224, 224), 256),
        (300, 257, (224, 224), 257),  # an odd rest on both sides: halves to even
        (224, 224, (224, 224), 224),
        (255, 100, (100, 256), 100),  # one axis changes, the other does not
        (100, 255, (256, 100), 100),
        (333, 222, (120, 40), 30),  # the crop is larger than resize
        (222, 333, (40, 500), 30),
        (97, 89, (7, 7), 112),  # much resized, little of it wanted
    ],
)
def test_edges(width: int, height: int, crop: tuple[int, int], resize: int, interpolation: Any) -> None:
    assert_equals_pillow(noise(width, height), InputSpec("uint8", *crop, resize, interpolation=interpolation))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (100, 260), (60, 900), (7, 2000), (900, 60)])
def test_equals_the_python_package(size: tuple[int, int]) -> None:
    pixels = noise(*size, seed=5)  # the tall ones, too: a picture has one result, wherever it is prepared
    spec = InputSpec("uint8", 32, 32, 36)
    np.testing.assert_array_equal(preprocess(pixels, spec), resize_and_crop(Image.fromarray(pixels), spec))


def test_one_color_stays_what_it_is() -> None:
    for value in (0, 1, 127, 254, 255):
        crop = preprocess(np.full((301, 173, 3), value, np.uint8), RAW)
        assert (crop == value).all()


def test_stride_zero_means_dense_rows() -> None:
    pixels = noise(50, 40)
    spec = InputSpec("uint8", 16, 16, 20)
    target = np.empty((16, 16, 3), np.uint8)
    check(runtime().lit_preprocess(input_of(spec), Picture(pixels.ctypes.data, 50, 40, 0), target.ctypes.data))
    np.testing.assert_array_equal(target, preprocess(pixels, spec))


def test_any_number_of_threads_at_once() -> None:
    pictures = [noise(200 + 31 * i, 180 + 17 * i, seed=i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        crops = list(pool.map(lambda pixels: preprocess(pixels, RAW), pictures))
    for pixels, crop in zip(pictures, crops, strict=True):
        np.testing.assert_array_equal(crop, pillow(pixels, RAW))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 0}, "0 x 30 pixels where at least 1 x 1"),
        ({"height": INT_MIN}, f"40 x {INT_MIN} pixels where at least 1 x 1"),
        ({"width": INT_MAX, "height": INT_MAX}, f"at most {MAX_PIXELS} are accepted"),
        ({"width": MAX_PIXELS + 1, "height": 1}, f"{MAX_PIXELS + 1} x 1 pixels where at most"),
        ({"width": 1, "height": 60_000}, "too narrow: resized to 72 x 4320000 it would exceed"),
        ({"width": 1, "height": MAX_PIXELS}, "too narrow"),
        ({"pixels": None}, "NULL"),
        ({"row_stride": 119}, "row_stride is 119 bytes where a row of 40 pixels takes 120"),
        ({"row_stride": -119}, "row_stride is -119 bytes"),
        ({"row_stride": PTRDIFF_MAX}, "exceed the address space"),
        ({"row_stride": PTRDIFF_MIN}, "exceed the address space"),
        ({"spec.width": 0}, "width x height is 0 x 64 where 1 to 16384"),
        ({"spec.height": -5}, "64 x -5"),
        ({"spec.height": INT_MAX}, f"64 x {INT_MAX} where 1 to 16384"),
        ({"spec.resize": 0}, "resize is 0 pixels where 1 to 1024"),
        ({"spec.resize": INT_MIN}, "resize"),
        ({"spec.resize": 16 * 64 + 1}, "resize is 1025 pixels where 1 to 1024"),
        ({"spec.interpolation": 7}, r"interpolation 7 is unknown; use LIT_BICUBIC \(0\) or LIT_BILINEAR \(1\)"),
        ({"spec.interpolation": -1}, "interpolation -1 is unknown"),
    ],
)
def test_impossible_arguments_are_named(changes: dict[str, Any], words: str) -> None:
    pixels = noise(40, 30)
    spec, picture = input_of(InputSpec("uint8", 64, 64, 72)), picture_of(pixels)
    for name, value in changes.items():
        setattr(*((spec, name[5:]) if name.startswith("spec.") else (picture, name)), value)
    target = np.full((64, 64, 3), MARK, np.uint8)
    with pytest.raises(Failure, match=words) as caught:
        check(runtime().lit_preprocess(spec, picture, target.ctypes.data))
    assert caught.value.status == "LIT_INVALID_ARGUMENT"
    assert "\n" not in str(caught.value)
    assert (target == MARK).all()


def test_sizes_are_judged_before_anything_is_decoded() -> None:
    spec = input_of(InputSpec("uint8", 64, 64, 72))
    check(runtime().lit_check_size(spec, 40, 30))
    for width, height, words in ((1, 60_000, "too narrow"), (0, 30, "at least 1 x 1"), (INT_MAX, INT_MAX, "at most")):
        with pytest.raises(Failure, match=words) as caught:
            check(runtime().lit_check_size(spec, width, height))
        assert caught.value.status == "LIT_INVALID_ARGUMENT"
    with pytest.raises(Failure, match="NULL"):
        check(runtime().lit_check_size(None, 40, 30))


def test_null_is_refused() -> None:
    pixels, target = noise(4, 4), np.empty((2, 2, 3), np.uint8)
    spec, picture = input_of(InputSpec("uint8", 2, 2, 2)), picture_of(pixels)
    address = ctypes.c_void_p(target.ctypes.data)
    for arguments in ((None, picture, address), (spec, None, address), (spec, picture, None)):
        with pytest.raises(Failure, match="NULL") as caught:
            check(runtime().lit_preprocess(*arguments))
        assert caught.value.status == "LIT_INVALID_ARGUMENT"


def test_normalisation_equals_the_python_package(checkpoint_file: Callable[[str], Path]) -> None:
    # A file of type float takes both forms: pixels, normalised by the library, and what Python makes of the same ones.
    path = export_of(checkpoint_file("tiny"))
    spec = read_manifest(path).input
    assert spec.kind == "float"
    pixels = np.random.default_rng(3).integers(0, 256, (2, spec.height, spec.width, 3), dtype=np.uint8)
    floats = normalize(pixels, spec)
    one_off = floats.copy()
    one_off[:, 1] = np.nextafter(one_off[:, 1], np.float32(np.inf))
    with opened(path) as context:
        of_pixels, of_floats, of_others = (run(context, batch) for batch in (pixels, floats, one_off))
    np.testing.assert_array_equal(of_pixels, of_floats)
    assert (of_others != of_floats).any()  # the last bit would have been seen


@contextmanager
def opened(path: Path) -> Iterator[ctypes.c_void_p]:
    """A context of a model on ONNX Runtime's CPU provider, on one thread so that sums have one order."""
    options, model, context = Options(), ctypes.c_void_p(), ctypes.c_void_p()
    check(runtime().lit_options_init(options, ctypes.sizeof(options)))
    options.threads, options.backend_library, options.operator_library = (
        1,
        str(find_onnxruntime_library()).encode(),
        b"",
    )
    check(runtime().lit_model_open(str(path).encode(), options, model))
    try:
        check(runtime().lit_context_create(model, context))
        yield context
    finally:
        runtime().lit_context_destroy(context)
        runtime().lit_model_close(model)


def run(context: ctypes.c_void_p, batch: NDArray[Any]) -> NDArray[np.float32]:
    tensor = Tensor(TYPES.index("uint8" if batch.dtype == np.uint8 else "float"), batch.ctypes.data, len(batch), 0, 0)
    output = Output()
    check(runtime().lit_run(context, tensor, output))
    return np.ctypeslib.as_array(output.scores, (output.batch, output.count)).copy()
