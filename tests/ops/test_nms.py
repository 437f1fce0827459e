"""Non-maximum suppression: the ONNX function on ONNX Runtime and OpenVINO against the reference, index by index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.detection import Feed, Runner, nms_model, on_onnxruntime, on_openvino, random_boxes

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.nms.library import nms
from lit_deploy.ops.nms.onnx_function import OPSET, inclusive_iou_threshold, onnx_function
from lit_deploy.ops.nms.reference import reference
from lit_deploy.ops.nms.schema import OP_TYPE, register_onnx_schema

RUNNERS = (pytest.param(on_onnxruntime, id="onnxruntime"), pytest.param(on_openvino, id="openvino"))
Open = Callable[[onnx.ModelProto], Runner]


def expected(feed: Feed, iou: float = 0.5, score: float = 0.05, length: int = 100) -> np.ndarray:
    tensors = (torch.from_numpy(feed[name]) for name in ("boxes", "scores", "classes"))
    return reference(*tensors, iou, score, length).numpy()


def boxes_of(*rows: tuple[float, ...]) -> Feed:
    """Rows of x1, y1, x2, y2, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return {"boxes": table[:, :4].copy(), "scores": table[:, 4].copy(), "classes": table[:, 5].astype(np.int64)}


@pytest.mark.parametrize("open_", RUNNERS)
@pytest.mark.parametrize(("iou", "length"), [(0.5, 100), (0.7, 7), (1 / 3, 300)])
def test_function_equals_reference(open_: Open, iou: float, length: int) -> None:
    """Crowded boxes, many at a threshold, many of one score, up to 80 classes: not one index differs."""
    run = open_(nms_model(iou, 0.05, length))
    for seed in range(100):
        feed = random_boxes(seed)
        np.testing.assert_array_equal(run(feed), expected(feed, iou, 0.05, length), err_msg=str(seed))


@pytest.mark.parametrize("open_", RUNNERS)
def test_iou_at_the_threshold_stays(open_: Open) -> None:
    """Two boxes of IoU 8 / 16: above the threshold is what suppresses, and the next smaller threshold does."""
    feed = boxes_of((0, 0, 4, 3, 0.9, 0), (0, 1, 4, 4, 0.8, 0))
    for iou, want in ((0.5, [0, 1, -1]), (float(np.nextafter(np.float32(0.5), np.float32(0))), [0, -1, -1])):
        np.testing.assert_array_equal(open_(nms_model(iou, 0.05, 3))(feed), want)
        np.testing.assert_array_equal(expected(feed, iou, 0.05, 3), want)


def test_openvino_needs_the_other_threshold() -> None:
    """Without it, equality suppresses there: the day it no longer does, the portable form has to change."""
    openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")
    inlined = onnx.inliner.inline_local_functions(nms_model(0.5, 0.05, 3))
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(inlined.SerializeToString()), "CPU")
    got = next(iter(compiled(boxes_of((0, 0, 4, 3, 0.9, 0), (0, 1, 4, 4, 0.8, 0))).values()))
    np.testing.assert_array_equal(got, [0, -1, -1])


@pytest.mark.parametrize("open_", RUNNERS)
@pytest.mark.parametrize(
    ("feed", "want"),
    [
        (boxes_of((0, 0, 9, 9, 0.05, 0), (0, 0, 9, 9, np.nan, 0)), [-1, -1, -1]),
        (boxes_of((0, 0, 9, 9, 0.06, 3)), [0, -1, -1]),
        (boxes_of(*[(2, 2, 2, 9, 0.5, 0)] * 4), [0, 1, 2]),
        (boxes_of((0, 0, 9, 9, 0.5, 0), (0, 0, 9, 9, 0.5, 1), (0, 0, 9, 9, 0.5, 0)), [0, 1, -1]),
        (boxes_of((0, 0, 10, 10, 0.9, 0), (-11, -11, -1, -1, 0.8, 1)), [0, -1, -1]),
        (boxes_of((0, 0, 4, 4, 0.9, 2), (900, 900, 999, 999, 0.01, 5), (0, 0, 4, 4, 0.8, 2)), [0, -1, -1]),
    ],
    ids=["no candidate", "one", "no area", "classes", "negative coordinates", "extent of candidates"],
)
def test_edges(open_: Open, feed: Feed, want: list[int]) -> None:
    np.testing.assert_array_equal(expected(feed, length=3), want)
    np.testing.assert_array_equal(open_(nms_model(max_output=3))(feed), want)


@pytest.mark.parametrize("open_", RUNNERS)
def test_many_candidates(open_: Open) -> None:
    """More candidates than some runtimes' own limit of 5,000, and more boxes than are kept."""
    rng = np.random.default_rng(1)
    corner = rng.random((9000, 2), np.float32) * 1000
    boxes = np.concatenate([corner, corner + rng.random((9000, 2), np.float32) * 90], 1)
    feed = {"boxes": boxes, "scores": rng.random(9000, np.float32), "classes": rng.integers(0, 80, 9000)}
    assert (feed["scores"] > 0.05).sum() > 5000
    want = expected(feed, length=300)
    assert (want >= 0).all()
    np.testing.assert_array_equal(open_(nms_model(max_output=300))(feed), want)


def test_inclusive_threshold() -> None:
    for value in (0.5, 0.7, 1 / 3, 1.0):
        single = np.float32(value)
        assert np.float32(inclusive_iou_threshold(value)) == np.nextafter(single, np.float32(2))
    assert inclusive_iou_threshold(0) == np.finfo(np.float32).tiny
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            inclusive_iou_threshold(value)


def test_wrong_arguments_are_refused() -> None:
    feed = [torch.from_numpy(array) for array in boxes_of((0, 0, 1, 1, 0.5, 0)).values()]
    with pytest.raises(ValueError, match=r"iou_threshold is 1\.5"):
        nms(*feed, iou_threshold=1.5, score_threshold=0.05, max_output=1)
    with pytest.raises(ValueError, match="max_output is 0"):
        nms(*feed, iou_threshold=0.5, score_threshold=0.05, max_output=0)


def test_exports_as_one_operator_with_any_number_of_boxes() -> None:
    class Network(torch.nn.Module):
        def forward(self, *inputs: Any) -> torch.Tensor:
            return nms(*inputs, iou_threshold=0.5, score_threshold=0.05, max_output=7)

    feeds = [tuple(torch.from_numpy(array) for array in random_boxes(seed).values()) for seed in (0, 1)]
    count = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Network(), feeds[0], dynamic_shapes=((count, count, count),))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.lit_deploy.nms.default in calls
    assert program.module()(*feeds[1]).tolist() == reference(*feeds[1], 0.5, 0.05, 7).tolist()


def test_body_is_standard_onnx_and_its_shape_is_known() -> None:
    function = onnx_function()
    assert (function.domain, function.name) == (DOMAIN, OP_TYPE)
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", OPSET)]
    assert {node.domain for node in function.node} == {""}
    register_onnx_schema()
    register_onnx_schema()  # a second call is harmless
    model = nms_model(max_output=9)
    onnx.checker.check_model(model, full_check=True)
    (output,) = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output
    assert output.type.tensor_type.shape.dim[0].dim_value == 9
    assert onnx.defs.has(OP_TYPE, OP_VERSION, DOMAIN)
