"""The C API's answers of detectors and segmentation networks as NumPy arrays, and what Python says instead."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int32
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Backend, SessionOptions
from lit_deploy.images.keep_ratio import keep_ratio_size, resize_bilinear
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.dense.tensors import feed
from lit_deploy.tasks.detection.results import Detections as Found
from lit_deploy.tasks.detection.results import detections_of
from lit_deploy.tasks.instance_segmentation.pasting import pasted
from lit_deploy.tasks.instance_segmentation.rle import Rle as CocoRle
from lit_deploy.tasks.instance_segmentation.rle import encoded
from lit_deploy.tasks.semantic_segmentation.predictions import labels_of
from support.runtime_library import Detections, LabelMap, Mask, Rle, check, picture_of, runtime
from support.runtime_models import Context, Model

Pixels = NDArray[np.uint8]


def prepared(model: Model, pixels: Pixels) -> Pixels:
    """``lit_prepare``: uint8 ``[height, width, 3]``, with a byte behind it that has to stay as it is."""
    width, height = c_int32(), c_int32()
    check(runtime().lit_prepared_size(model.handle, pixels.shape[1], pixels.shape[0], byref(width), byref(height)))
    result = np.full(height.value * width.value * 3 + 1, 77, dtype=np.uint8)
    check(runtime().lit_prepare(model.handle, byref(picture_of(pixels)), result.ctypes.data))
    assert result[-1] == 77
    return result[:-1].reshape(height.value, width.value, 3)


def detected(context: Context, pixels: Pixels) -> Found:
    """``lit_detect``, copied; without masks."""
    found = Detections()
    check(runtime().lit_detect(context.handle, byref(picture_of(pixels)), byref(found)))
    assert (found.height, found.width) == pixels.shape[:2]
    count = found.count
    return Found(
        boxes=_copy(found.boxes, np.float32, count, 4),
        scores=_copy(found.scores, np.float32, count),
        labels=_copy(found.labels, np.int32, count),
    )


def pasted_mask(context: Context, index: int) -> tuple[Pixels, int, int, int]:
    """``lit_paste_mask``: the window, its top and left, and the area."""
    mask = Mask()
    check(runtime().lit_paste_mask(context.handle, index, byref(mask)))
    return _copy(mask.pixels, np.uint8, mask.height, mask.width), mask.top, mask.left, mask.area


def encoded_mask(context: Context, index: int) -> tuple[CocoRle, int]:
    """``lit_encode_mask`` in COCO's words, and the area."""
    return _encoded(runtime().lit_encode_mask, context, index)


def encoded_label(context: Context, label: int) -> tuple[CocoRle, int]:
    """``lit_encode_label`` likewise."""
    return _encoded(runtime().lit_encode_label, context, label)


def _encoded(function: Any, context: Context, index: int) -> tuple[CocoRle, int]:
    rle = Rle()
    check(function(context.handle, index, byref(rle)))
    return {"size": [rle.height, rle.width], "counts": rle.counts.decode("ascii")}, rle.area


def segmented(context: Context, pixels: Pixels) -> Pixels:
    """``lit_segment``: uint8 ``[height, width]``."""
    labels = LabelMap()
    check(runtime().lit_segment(context.handle, byref(picture_of(pixels)), byref(labels)))
    return _copy(labels.labels, np.uint8, labels.height, labels.width)


def _copy(pointer: Any, dtype: Any, *shape: int) -> NDArray[Any]:
    count = int(np.prod(shape))
    if count == 0:
        return np.zeros(shape, dtype=dtype)
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(pointer, size), dtype=dtype).reshape(shape)


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


def assert_same_masks(context: Context, wanted: Found, size: tuple[int, ...]) -> None:
    assert wanted.masks is not None
    for index, (cells, box) in enumerate(zip(wanted.masks, wanted.boxes, strict=True)):
        mask = pasted(cells, box, (size[0], size[1]))
        bits, top, left, area = pasted_mask(context, index)
        np.testing.assert_array_equal(bits, mask.bits)
        assert (top, left, area) == (mask.top, mask.left, mask.bits.sum())
        rle = encoded(mask.bits, size[0], size[1], mask.top, mask.left)
        assert encoded_mask(context, index) == (rle, area)
