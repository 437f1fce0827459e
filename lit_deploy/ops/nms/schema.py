"""Names and signature of the operator; its version is ``specs.OP_VERSION``.

The normative text is ``docs/nms.md``.
"""

from __future__ import annotations

from typing import Any

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN

OP_TYPE = "Nms"
"""ONNX op type."""

PADDING = -1
"""What stands in ``indices`` behind the last box that was kept."""


def register_onnx_schema() -> None:
    """Tell the ``onnx`` package of this process the operator's signature; calling it again does nothing."""
    import onnx

    if onnx.defs.has(OP_TYPE, OP_VERSION, DOMAIN):
        return
    schema = onnx.defs.OpSchema
    formal = schema.FormalParameter
    kinds = schema.AttrType
    operator = schema(
        OP_TYPE,
        DOMAIN,
        OP_VERSION,
        "Class-aware greedy non-maximum suppression with an output of fixed length.",
        inputs=[
            formal("boxes", "tensor(float)", "Boxes [P, 4]: x1, y1, x2, y2; P >= 1."),
            formal("scores", "tensor(float)", "Scores [P]."),
            formal("classes", "tensor(int64)", "Classes [P], from 0: only boxes of one class suppress each other."),
        ],
        outputs=[formal("indices", "tensor(int64)", "Boxes kept [max_output], best first, then -1.")],
        attributes=[
            schema.Attribute("iou_threshold", kinds.FLOAT, "A box that overlaps a kept one by more is dropped."),
            schema.Attribute("score_threshold", kinds.FLOAT, "Only scores above it count."),
            schema.Attribute("max_output", kinds.INT, "Length of the output."),
        ],
    )
    operator.set_type_and_shape_inference_function(_infer)
    onnx.defs.register_schema(operator)


def _infer(context: Any) -> None:
    """Shape inference: int64 ``[max_output]``."""
    import onnx

    indices = onnx.TypeProto()
    indices.tensor_type.elem_type = onnx.TensorProto.INT64
    dimension = indices.tensor_type.shape.dim.add()
    length = context.get_attribute("max_output")
    if length is not None:
        dimension.dim_value = length.i
    context.set_output_type(0, indices)
