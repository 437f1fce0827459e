"""The detectors' operators in the custom-op library, against the functions in the file and the references."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.detection import (
    nms_model,
    on_onnxruntime,
    onnxruntime_session,
    random_boxes,
    random_regions,
    roi_align_model,
)
from support.exported import needs_library

from lit_deploy.machine.native import find_library

pytestmark = needs_library
LIBRARY = find_library()


@pytest.mark.parametrize(("iou", "length"), [(0.5, 100), (0.7, 7), (1 / 3, 300), (0.0, 50), (1.0, 50)])
def test_nms_equals_the_function(iou: float, length: int) -> None:
    """Index by index: boxes with IoU at the threshold, equal scores, no candidate and one among them."""
    model = nms_model(iou, 0.05, length)
    kernel, function = on_onnxruntime(model, LIBRARY), on_onnxruntime(model)
    for seed in range(200):
        feed = random_boxes(seed)
        np.testing.assert_array_equal(kernel(feed), function(feed), err_msg=str(seed))
    feed["scores"][:] = 0
    assert (kernel(feed) == -1).all()
    feed["scores"][-1] = 1
    assert kernel(feed).tolist() == [len(feed["scores"]) - 1] + [-1] * (length - 1)
    empty = {name: array[:0] for name, array in feed.items()}
    assert (kernel(empty) == -1).all()


def test_nms_of_a_large_picture() -> None:
    rng = np.random.default_rng(2)
    corner = rng.random((60000, 2), np.float32) * 700
    feed = {
        "boxes": np.concatenate([corner, corner + rng.random((60000, 2), np.float32) * 300], 1),
        "scores": rng.random(60000, np.float32),
        "classes": rng.integers(0, 80, 60000),
    }
    model = nms_model(0.5, 0.05, 1000)
    want = on_onnxruntime(model)(feed)
    assert (want >= 0).all()
    np.testing.assert_array_equal(on_onnxruntime(model, LIBRARY)(feed), want)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("size", [7, 14, 3, 17])
def test_roi_align_equals_the_function(dtype: str, size: int) -> None:
    model = roi_align_model(size, dtype)
    kernel, function = on_onnxruntime(model, LIBRARY), on_onnxruntime(model)
    for seed in range(100):
        feed = random_regions(seed, dtype)
        got, want = (run(feed).astype(np.float32) for run in (kernel, function))
        assert got.shape == want.shape
        # float16 is float32 rounded once: two values a hair apart may round to neighbouring halves.
        relative = 2.0**-10 if dtype == "float16" else 0.0
        np.testing.assert_allclose(got, want, rtol=relative, atol=1e-5, err_msg=str(seed))


def test_threads_change_nothing() -> None:
    """One thread, two, and several calls at a time: the same bits."""
    model, feed = roi_align_model(7), random_regions(4)
    want = on_onnxruntime(model, LIBRARY, threads=1)(feed)
    assert want.size > 0
    run = on_onnxruntime(model, LIBRARY, threads=2)
    with ThreadPoolExecutor(4) as pool:
        assert all((got == want).all() for got in pool.map(run, [feed] * 40))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nms_model(iou_threshold=1.5), r"lit_deploy::Nms: iou_threshold is 1\.5, expected 0 to 1"),
        (nms_model(iou_threshold=float("nan")), r"lit_deploy::Nms: iou_threshold is -?nan, expected 0 to 1"),
        (nms_model(max_output=0), r"lit_deploy::Nms: max_output is 0, expected 1 to 4294967296"),
        (roi_align_model(0), r"lit_deploy::MultiLevelRoiAlign: output_size is 0, expected 1 to 16777216"),
        (roi_align_model(plugin_version="2"), r'asks for plugin_version "2", this library implements version "1"'),
    ],
    ids=["iou", "nan", "max_output", "output_size", "version"],
)
def test_wrong_attributes_are_refused(model: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        onnxruntime_session(model, LIBRARY)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("boxes", lambda a: a[:, :3], r"boxes has shape \[\d+, 3\], expected \[boxes, 4\]"),
        ("scores", lambda a: a[1:], r"scores has shape \[\d+\], expected \[boxes\], as many"),
        ("classes", lambda a: a[1:], r"classes has shape \[\d+\], expected \[boxes\], as many"),
        ("rois", lambda a: a[:, :3], r"rois has shape \[\d+, 3\], expected \[regions, 4\]"),
        ("level0", lambda a: np.repeat(a, 2, 0), r"level0 has shape \[2, .*expected \[1, channels"),
        ("level2", lambda a: np.repeat(a, 2, 1), r"level2 has shape .*with the channels of level0"),
        ("level3", lambda a: a[:, :, :0], r"level3 has shape .*no empty map"),
    ],
)
def test_wrong_shapes_are_refused(name: str, change: Any, message: str) -> None:
    model, feed = (nms_model(), random_boxes(0)) if name in random_boxes(0) else (roi_align_model(), random_regions(0))
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")  # so that the kernel, and not ONNX Runtime, sees it first
    feed[name] = np.ascontiguousarray(change(feed[name]))
    with pytest.raises(Exception, match=message):
        onnxruntime_session(model, LIBRARY).run(None, feed)


def test_shape_inference() -> None:
    """Lengths from attributes, names from inputs; without shapes, nothing is promised but what attributes say."""
    shapes = [
        onnxruntime_session(model, LIBRARY).get_outputs()[0].shape for model in (nms_model(), roi_align_model(14))
    ]
    assert shapes == [[100], ["K", "C", 14, 14]]
    assert onnxruntime_session(roi_align_model(7, "float16"), LIBRARY).get_outputs()[0].type == "tensor(float16)"
