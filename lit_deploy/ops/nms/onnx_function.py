"""The operator as an ONNX model-local function made of standard operators only.

A runtime without the lit-deploy library runs this body; one with it runs the kernel. Standard operators of
opset 20, any number of boxes. Source: ``docs/nms.md``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.function import parsed
from lit_deploy.ops.nms.schema import OP_TYPE, PADDING

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""Opset of the ai.onnx domain that the body is written in."""

# NonMaxSuppression names the corners y1 x1 y2 x2; its arithmetic is the same in both axes, so x1 y1 x2 y2 will do.
# The offsets are made as [P] and reshaped before they are added: a runtime that contracts a product and the sum behind
# it into one fused operation would round once where the definition rounds twice.
_BODY = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{OP_TYPE} <iou_threshold, score_threshold, max_output> (boxes, scores, classes) => (indices)
{{
    least = Constant <value_float: float = @score_threshold> ()
    overlap = Constant <value_float: float = @iou_threshold> ()
    most = Constant <value_int: int = @max_output> ()

    zero = Constant <value_float: float = 0.0> ()
    one = Constant <value_float: float = 1.0> ()
    column = Constant <value_ints: ints = [-1, 1]> ()
    candidate = Greater (scores, least)
    corner_axis = Constant <value_ints: ints = [1]> ()
    farthest = ReduceMax <keepdims: int = 0> (boxes, corner_axis)
    reached = Where (candidate, farthest, zero)
    largest = ReduceMax <keepdims: int = 0> (reached)
    extent = Add (largest, one)
    classes32 = Cast <to: int = 1> (classes)
    offsets = Mul (classes32, extent)
    offset_column = Reshape (offsets, column)
    shifted = Add (boxes, offset_column)

    batch_axis = Constant <value_ints: ints = [0]> ()
    batch_class_axes = Constant <value_ints: ints = [0, 1]> ()
    boxes3 = Unsqueeze (shifted, batch_axis)
    scores3 = Unsqueeze (scores, batch_class_axes)
    selected = NonMaxSuppression (boxes3, scores3, most, overlap, least)

    third = Constant <value_int: int = 2> ()
    kept = Gather <axis: int = 1> (selected, third)
    flat = Constant <value_ints: ints = [-1]> ()
    length = Reshape (most, flat)
    padding = ConstantOfShape <value: tensor = int64[1] {{{PADDING}}}> (length)
    padded = Concat <axis: int = 0> (kept, padding)
    indices = Slice (padded, batch_axis, length, batch_axis)
}}
"""


def onnx_function() -> onnx.FunctionProto:
    """Build the function ``lit_deploy::Nms``.

    Inputs ``boxes`` float32 [P, 4], ``scores`` float32 [P], ``classes`` int64 [P]; attributes ``iou_threshold``,
    ``score_threshold`` and ``max_output``; output ``indices`` int64 [max_output].
    """
    return parsed(_BODY, "Class-aware non-maximum suppression, operator version 1 (docs/nms.md).")


def inclusive_iou_threshold(iou_threshold: float) -> float:
    """The threshold for a runtime that suppresses at IoU >= threshold (OpenVINO) and so does what > would at this one.

    The next float32, which is the least IoU that lies above. ``export --portable`` writes it into the node before the
    function is inlined. At least the smallest normal number: a processor may take anything smaller for zero.

    Raises:
        ValueError: not a number from 0 to 1.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}, expected 0 to 1")
    (bits,) = struct.unpack("<I", struct.pack("<f", iou_threshold))
    (following,) = struct.unpack("<f", struct.pack("<I", bits + 1))
    return max(float(following), 2.0**-126)
