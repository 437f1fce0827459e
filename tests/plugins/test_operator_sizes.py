"""Sizes that no memory holds, declared by a file: every operator refuses them before it calculates with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from support.attention import attention_model
from support.detection import nms_model, onnxruntime_session, roi_align_model
from support.exported import needs_library

from lit_deploy.machine.native import find_extension, find_library
from lit_deploy.ops.domain import DOMAIN

HUGE = r"{} has shape \[\d.*\], expected at most 2\^48 elements"


def on_onnxruntime(model: onnx.ModelProto) -> None:
    onnxruntime_session(model, find_library())


def on_openvino(model: onnx.ModelProto) -> None:
    openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed: pip install openvino")
    if (extension := find_extension()) is None:
        pytest.skip("OpenVINO's extension is not built")
    core = openvino.Core()
    core.add_extension(str(extension))
    core.read_model(model.SerializeToString())


each_engine = pytest.mark.parametrize("opens", [pytest.param(on_onnxruntime, marks=needs_library), on_openvino])


def merging_model() -> onnx.ModelProto:
    names = ("x", "offset_weight", "offset_bias")
    node = helper.make_node("DeformableTokenMerging", names, ["y"], domain=DOMAIN)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        for name, rank in zip(names, (4, 2, 1), strict=True)
    ]
    graph = helper.make_graph(
        [node], "merging", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@each_engine
@pytest.mark.parametrize(
    ("make", "name", "shape"),
    [
        (merging_model, "x", (1, 2, 2, 2**62)),
        (merging_model, "x", (2**20, 2**20, 2**20, 4)),
        (merging_model, "x", (0, 2**40, 2, 2**40)),
        (lambda: attention_model(3, 1.0), "qkv", (2**30, 2**30, 72)),
        (lambda: attention_model(3, 1.0), "table", (3, 2**62, 2**62)),
        (nms_model, "boxes", (2**50, 4)),
        (roi_align_model, "rois", (2**62, 4)),
        (roi_align_model, "level1", (1, 2**31, 2**31, 4)),
    ],
)
def test_a_tensor_beyond_any_memory_is_refused(
    make: Callable[[], onnx.ModelProto], name: str, shape: tuple[int, ...], opens: Callable[[Any], None]
) -> None:
    model = make()
    (value,) = (value for value in model.graph.input if value.name == name)
    value.CopyFrom(helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, shape))
    with pytest.raises(Exception, match=HUGE.format(name)):
        opens(model)


@each_engine
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nms_model(max_output=2**61 + 1), "Nms: max_output is 2305843009213693953, expected 1 to 4294967296"),
        (roi_align_model(2**32 + 1), "RoiAlign: output_size is 4294967297, expected 1 to 16777216"),
    ],
    ids=["max_output", "output_size"],
)
def test_an_output_beyond_any_memory_is_refused(
    model: onnx.ModelProto, message: str, opens: Callable[[Any], None]
) -> None:
    """Its bytes would be counted modulo 2^64, and a kernel would write past them."""
    with pytest.raises(Exception, match=message):
        opens(model)
