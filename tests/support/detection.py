"""One-node models of the detectors' operators, what runs them, and cases of boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.multi_level_roi_align import onnx_function as roi_align_function
from lit_deploy.ops.multi_level_roi_align.schema import OP_TYPE as ROI_ALIGN
from lit_deploy.ops.nms import onnx_function as nms_function
from lit_deploy.ops.nms.schema import OP_TYPE as NMS

Array = NDArray[Any]
Feed = dict[str, Array]
Runner = Callable[[Feed], Array]
LEVELS = tuple(f"level{index}" for index in range(4))


def nms_model(
    iou_threshold: float = 0.5, score_threshold: float = 0.05, max_output: int = 100, **attributes: Any
) -> onnx.ModelProto:
    attributes = {
        "iou_threshold": iou_threshold, "score_threshold": score_threshold, "max_output": max_output, **attributes,
    }  # fmt: skip
    inputs = {
        "boxes": (TensorProto.FLOAT, ("P", 4)),
        "scores": (TensorProto.FLOAT, ("P",)),
        "classes": (TensorProto.INT64, ("P",)),
    }
    return _model(NMS, attributes, inputs, "indices", TensorProto.INT64, 1, nms_function.onnx_function())


def roi_align_model(output_size: int = 7, dtype: str = "float32", **attributes: Any) -> onnx.ModelProto:
    element = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    levels = {name: (element, (1, "C", f"H{name[-1]}", f"W{name[-1]}")) for name in LEVELS}
    inputs = {"rois": (TensorProto.FLOAT, ("K", 4)), **levels}
    attributes = {"output_size": output_size, **attributes}
    return _model(ROI_ALIGN, attributes, inputs, "y", element, 4, roi_align_function.onnx_function())


def _model(
    op_type: str,
    attributes: dict[str, Any],
    inputs: dict[str, Any],
    output: str,
    element: int,
    rank: int,
    function: Any,
) -> onnx.ModelProto:
    node = helper.make_node(op_type, list(inputs), [output], domain=DOMAIN, **attributes)
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    graph = helper.make_graph(
        [node], "one_node", values, [helper.make_tensor_value_info(output, element, [None] * rank)]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, OP_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def onnxruntime_session(model: onnx.ModelProto, library: Path | None = None, threads: int = 2) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # refusals are what is tested: their log lines are noise
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def on_onnxruntime(model: onnx.ModelProto, library: Path | None = None, threads: int = 2) -> Runner:
    session = onnxruntime_session(model, library, threads)
    return lambda feed: session.run(None, feed)[0]


def on_openvino(model: onnx.ModelProto) -> Runner:
    """The portable form: the function inlined, and for NMS the threshold that means the same at >=."""
    openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")
    portable = onnx.ModelProto()
    portable.CopyFrom(model)
    for attribute in portable.graph.node[0].attribute:
        if attribute.name == "iou_threshold":
            attribute.f = nms_function.inclusive_iou_threshold(attribute.f)
    portable = inliner.inline_local_functions(portable)
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(portable.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda feed: next(iter(compiled(feed).values()))


def random_boxes(seed: int) -> Feed:
    """Crowded boxes with equal scores: of whole numbers, many pairs exactly at a threshold, for every other seed."""
    rng = np.random.default_rng(seed)
    count, span = int(rng.integers(1, 250)), int(rng.integers(5, 1300))
    corner = rng.integers(0, span, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 12, (count, 2))], 1).astype(np.float32)
    if seed % 2:
        boxes += rng.random(boxes.shape, dtype=np.float32)
    return {
        "boxes": boxes,
        "scores": np.round(rng.random(count), 2).astype(np.float32),
        "classes": rng.integers(0, int(rng.integers(1, 81)), count),
    }


def random_regions(seed: int, dtype: str = "float32") -> Feed:
    """A pyramid of any size down to single cells; regions inside it, across its borders, of whole pixels, or empty."""
    rng = np.random.default_rng(seed)
    height, width = (1, 1) if seed % 10 == 9 else map(int, rng.integers(1, 90, 2))
    count, channels = int(rng.integers(0, 30)), int(rng.integers(1, 9))
    maps = {
        name: rng.standard_normal((1, channels, max(1, height >> level), max(1, width >> level))).astype(dtype)
        for level, name in enumerate(LEVELS)
    }
    size = np.array([4 * width, 4 * height])
    centre, sides = rng.random((count, 2)) * size, np.exp(rng.random((count, 2)) * np.log(4 * max(width, height)))
    rois = np.concatenate([centre - sides / 2, centre + sides / 2], 1)
    if seed % 4 == 0:
        rois = np.clip(rois, 0, np.tile(size, 2))
    elif seed % 4 == 1:
        rois *= 1.7
    elif seed % 4 == 2:
        rois = np.round(rois)
    else:
        rois[::3, 2] = rois[::3, 0]
        rois[1::4, 3] = rois[1::4, 1] - 3
    return {"rois": rois.astype(np.float32), **maps}
